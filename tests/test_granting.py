"""A pool gives an agent what it asks for, as far as its parent may do that."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    AgentManifest,
    ApprovalRules,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Failed,
    FileReadCapability,
    MemoryCapability,
    MessagingCapability,
    ModelAgent,
    ModelSettings,
    PoolLimits,
    PrivacyTier,
    RequestRejectedError,
    ScriptedDriver,
    SpawnCapability,
    SpawnConfig,
    ToolCall,
    ToolMessage,
    ToolRegistry,
    open_agent_pool,
    tool,
)
from agentpool._core.capability import Capability, grants
from agentpool._core.grants import Grants
from agentpool._core.sandboxing import CommandLimits
from agentpool._loop.granting import wanted_by
from agentpool.abc import ToolBuilder, ToolSet

Pool = Any


class Calls(ScriptedDriver):
    """A model that calls the tools it is told to, one in a turn, and then says `done`."""

    def __init__(self, *names: str) -> None:
        super().__init__([])
        self.names = names
        self.offered: list[tuple[str, ...]] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        self.offered.append(tuple(each.name for each in request.tools))
        turn = sum(isinstance(message, AssistantMessage) for message in request.messages)
        if turn < len(self.names):
            return Completion(tool_calls=(ToolCall(f"c{turn}", self.names[turn], {}),))
        return Completion("done")


def manifest(name: str, *capabilities: Any, **more: Any) -> AgentManifest:
    return AgentManifest(name=name, capabilities=capabilities, **more)


async def what_it_may(ctx: AgentContext) -> tuple[Capability, ...] | None:
    return ctx.grants


async def run_inside(agent: Any, do: Any, *, driver: Any = None) -> Any:
    """Run a model agent whose one tool call does something; return what that returned."""
    found: list[Any] = []

    @tool
    async def act(ctx: AgentContext) -> str:
        """Do it."""
        found.append(await do(ctx))
        return "ok"

    async with pool_of(4) as pool:
        config = SpawnConfig(agent, "q", tools=[act], driver=Calls("act"))
        await (await pool.spawn(config)).result()
    return found[0]


# -- who has what -----------------------------------------------------------------------------


async def test_what_the_program_starts_has_what_it_asks_for(tmp_path: Path) -> None:
    wide = manifest(
        "wide", FileReadCapability([str(tmp_path)]), "messaging", {"type": "spawn", "max_depth": 3}
    )
    assert await run_inside(wide, what_it_may) == wide.capabilities
    async with pool_of(2) as pool:
        assert await (await pool.spawn(what_it_may)).result() is None


async def test_the_rules_of_a_child_may_be_about_what_is_withheld_from_it(tmp_path: Path) -> None:
    """The child of a parent without `shell` failed because it would have had a person asked about it."""
    rules = ApprovalRules(
        ask=("run_shell(command=git push*)", "list_files"), deny=("run_shell(command=rm *)",)
    )
    read = FileReadCapability([str(tmp_path)])
    shell = {"type": "shell", "allowed_commands": ["*"]}
    kid = manifest("kid", read, shell, approval=rules)
    model = Calls("run_shell", "list_files")

    async def in_child(ctx: AgentContext) -> Any:
        return await (await ctx.spawn(SpawnConfig(kid, "q", driver=model))).result()

    result = await run_inside(manifest("parent", read), in_child)
    assert "run_shell" not in model.offered[0]
    shell_said, read_said = [each.result for each in result.transcript if isinstance(each, ToolMessage)]
    assert shell_said.is_error
    assert "nobody" in read_said.text or "denied" in read_said.text  # its other rules bind it
    wrong = attrs.evolve(kid, approval=ApprovalRules(ask=("run_shel",)))
    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(SpawnConfig(wrong, "q", driver=Calls()))).wait()
    assert isinstance(outcome, Failed)
    assert "approval.ask[0]: the agent has no tool that 'run_shel' names" in str(outcome.error)


async def test_plain_code_may_do_what_its_parent_may_with_one_level_less_of_spawning() -> None:
    async def in_child(ctx: AgentContext) -> Any:
        return await (await ctx.spawn(what_it_may)).result()

    of = manifest("a", "messaging", {"type": "spawn", "max_depth": 2})
    assert await run_inside(of, in_child) == (MessagingCapability(), SpawnCapability(1))
    assert await run_inside(manifest("a", "memory", "spawn"), in_child) == (MemoryCapability(),)


async def test_a_child_has_of_what_it_asks_for_what_its_parent_has(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parent = manifest("parent", FileReadCapability([str(tmp_path)]), "messaging", "spawn")
    child = manifest("child", FileReadCapability([str(tmp_path / "in"), "/"]), "memory", "messaging", "spawn")

    async def spawn_it(ctx: AgentContext) -> Any:
        return await run_nested(ctx, child)

    granted, names = await run_inside(parent, spawn_it)
    assert granted == (FileReadCapability([str(tmp_path / "in"), str(tmp_path)]), MessagingCapability())
    assert {"read_file", "send_message", "look"} <= set(names)
    assert not {"write_file", "remember", "spawn_agent"} & set(names)


async def run_nested(ctx: Any, child: AgentManifest, *, spawn: Any = None, **more: Any) -> Any:
    """Spawn a model agent, and return what it may do and which tools its model was shown."""
    found: list[Any] = []

    @tool
    async def look(ctx: AgentContext) -> str:
        """Look."""
        found.append(ctx.grants)
        return "ok"

    driver = Calls("look")
    handle = await (spawn or ctx.spawn)(SpawnConfig(child, "q", tools=[look], driver=driver, **more))
    await handle.result()
    return found[0], driver.offered[0]


async def test_through_plain_code_a_child_has_no_more_than_the_model_above() -> None:
    async def middle(ctx: AgentContext) -> Any:
        return await run_nested(ctx, manifest("child", "memory", "messaging"))

    async def spawn_middle(ctx: AgentContext) -> Any:
        return await (await ctx.spawn(partial(middle))).result()

    granted, _ = await run_inside(manifest("parent", "messaging"), spawn_middle)
    assert granted == (MessagingCapability(),)


async def test_the_pool_is_no_way_around_it() -> None:
    async def on_the_pool(ctx: AgentContext) -> Any:
        return await run_nested(ctx, manifest("child", "memory", "messaging"), spawn=pools[0].spawn)

    pools: list[Any] = []
    found: list[Any] = []

    @tool
    async def act(ctx: AgentContext) -> str:
        """Do it."""
        found.append(await on_the_pool(ctx))
        return "ok"

    async with pool_of(4) as pool:
        pools.append(pool)
        config = SpawnConfig(manifest("parent", "messaging"), "q", tools=[act], driver=Calls("act"))
        await (await pool.spawn(config)).result()
        beside = await run_nested(pool, manifest("child", "memory"))
    assert found[0][0] == (MessagingCapability(),)
    assert beside[0] == (MemoryCapability(),)


async def test_a_pool_of_its_own_is_no_way_around_it() -> None:
    async def in_its_own(ctx: AgentContext) -> Any:
        async with open_agent_pool(max_concurrent=2) as inner:
            return await run_nested(inner, manifest("child", "memory", "messaging"))

    granted, _ = await run_inside(manifest("parent", "messaging"), in_its_own)
    assert granted == (MessagingCapability(),)


async def test_a_loop_that_plain_code_runs_has_no_more_than_its_agent() -> None:
    async def call_it(ctx: AgentContext) -> Any:
        driver = Calls()
        await ModelAgent(manifest("inner", "memory", "messaging"), driver=driver)(ctx, "q")
        return driver.offered[0]

    offered = await run_inside(manifest("outer", "messaging"), call_it)
    assert "send_message" in offered
    assert "remember" not in offered
    async with pool_of(1) as pool:
        offered = await (await pool.spawn(call_it)).result()
    assert {"remember", "send_message"} <= set(offered)


async def test_what_such_a_loop_starts_has_no_more_than_the_loop() -> None:
    """Plain code of the program may do everything; the model that it asks in its own agent may not."""

    @tool
    async def spawn(ctx: AgentContext) -> str:
        """Spawn."""
        found.append(await run_nested(ctx, manifest("child", "memory", "messaging")))
        return "ok"

    async def plain(ctx: AgentContext) -> None:
        narrow = ModelAgent(manifest("loop", "messaging"), tools=[spawn], driver=Calls("spawn"))
        await narrow(ctx, "q")
        found.append(await run_nested(ctx, manifest("child", "memory")))

    found: list[Any] = []
    async with pool_of(2) as pool:
        await (await pool.spawn(plain)).result()
    assert [granted for granted, _ in found] == [(MessagingCapability(),), (MemoryCapability(),)]


async def test_a_loop_in_the_tool_call_of_such_a_loop_has_no_more_than_that() -> None:
    @tool
    async def ask(ctx: AgentContext) -> str:
        """Ask."""
        await ModelAgent(manifest("inner", "memory", "messaging"), driver=driver)(ctx, "q")
        return "ok"

    async def plain(ctx: AgentContext) -> None:
        await ModelAgent(manifest("outer", "messaging"), tools=[ask], driver=Calls("ask"))(ctx, "q")

    driver = Calls()
    async with pool_of(2) as pool:
        await (await pool.spawn(plain)).result()
    assert "send_message" in driver.offered[0]
    assert "remember" not in driver.offered[0]


async def test_a_child_of_an_agent_that_somebody_else_starts_is_bound_by_it() -> None:
    """The program spawns into the scope of an agent: that agent is the parent."""
    contexts: list[AgentContext] = []

    @tool
    async def wait(ctx: AgentContext) -> str:
        """Wait."""
        contexts.append(ctx)
        await is_over.wait()
        return "ok"

    is_over = trio.Event()
    async with pool_of(3) as pool:
        config = SpawnConfig(manifest("parent", "messaging"), "q", tools=[wait], driver=Calls("wait"))
        handle = await pool.spawn(config)
        await trio.testing.wait_all_tasks_blocked()
        granted, _ = await run_nested(contexts[0], manifest("child", "memory", "messaging"))
        is_over.set()
        await handle.result()
    assert granted == (MessagingCapability(),)


async def test_a_partial_of_a_model_agent_may_do_what_that_asks_for_and_not_more() -> None:
    @tool
    async def spawn(ctx: AgentContext) -> str:
        """Spawn."""
        found.append(await run_nested(ctx, manifest("child", "memory", "messaging")))
        return "ok"

    found: list[Any] = []
    bound = partial(ModelAgent(manifest("p", "messaging"), tools=[spawn], driver=Calls("spawn")), query="q")
    async with pool_of(2) as pool:
        await (await pool.spawn(bound)).result()
    assert found[0][0] == (MessagingCapability(),)


async def test_a_line_of_agents_deeper_than_the_stack_is_asked() -> None:
    async def deeper(ctx: AgentContext, levels: int) -> Any:
        if not levels:
            return ctx.grants
        handle = await ctx.spawn(deeper, levels - 1)
        return (await handle.wait()).unwrap()

    @tool
    async def act(ctx: AgentContext) -> None:
        """Do it."""
        found.append(await (await ctx.spawn(deeper, 1_100)).result())

    found: list[Any] = []
    async with pool_of(4, limits=PoolLimits(depth=2_000, alive=2_000)) as pool:
        top = SpawnConfig(manifest("top", "messaging"), "q", tools=[act], driver=Calls("act"))
        await (await pool.spawn(top)).result()
    assert found == [(MessagingCapability(),)]


# -- paths --------------------------------------------------------------------------------------


async def test_relative_paths_of_two_manifests_are_compared_by_where_they_lie(tmp_path: Path) -> None:
    for name in ("one/docs", "two/docs"):
        (tmp_path / name).mkdir(parents=True)
    parent = manifest("parent", FileReadCapability(["docs"]), base=tmp_path / "one")

    async def spawn_it(ctx: AgentContext) -> Any:
        same = manifest("child", FileReadCapability(["../one/docs"]), base=tmp_path / "two")
        other = manifest("child", FileReadCapability(["docs"]), base=tmp_path / "two")
        return [(await run_nested(ctx, each))[0] for each in (same, other)]

    assert await run_inside(parent, spawn_it) == [(FileReadCapability([str(tmp_path / "one" / "docs")]),), ()]


async def test_a_path_that_leads_out_through_a_link_is_not_granted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "in" / "way").symlink_to("../secret")
    parent = manifest("parent", FileReadCapability([str(tmp_path / "in")]))

    async def spawn_it(ctx: AgentContext) -> Any:
        return await run_nested(ctx, manifest("child", FileReadCapability([str(tmp_path / "in" / "way")])))

    assert await run_inside(parent, spawn_it) == ((), ("look",))


async def test_a_loop_that_plain_code_runs_reads_no_more_than_its_agent(tmp_path: Path) -> None:
    """Its tools are made for what is granted, not for what its manifest asks for."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("open")
    (tmp_path / "b.txt").write_text("closed")

    async def call_it(ctx: AgentContext) -> Any:
        inner = manifest("inner", FileReadCapability([str(tmp_path)]))
        paths = [str(tmp_path / "in" / "a.txt"), str(tmp_path / "b.txt")]
        calls = [Completion(tool_calls=[ToolCall(path, "read_file", {"path": path})]) for path in paths]
        result = await ModelAgent(inner, driver=ScriptedDriver([*calls, "done"]))(ctx, "q")
        return [each.result.text for each in result.transcript if isinstance(each, ToolMessage)]

    inside, outside = await run_inside(manifest("a", FileReadCapability([str(tmp_path / "in")])), call_it)
    assert inside == "open"
    assert "outside of what this agent may reach" in outside


async def test_a_child_that_has_all_it_asks_for_names_its_files_as_before(tmp_path: Path) -> None:
    seen: list[AgentManifest] = []

    def build(of: AgentManifest) -> ToolRegistry:
        seen.append(of)
        return ToolRegistry([])

    child = manifest("child", FileReadCapability(["a", "b"]), base=tmp_path)

    async def plain(ctx: AgentContext) -> None:
        await (await ctx.spawn(SpawnConfig(child, "q", driver=Calls()))).result()

    @tool
    async def act(ctx: AgentContext) -> str:
        """Do it."""
        await plain(ctx)
        return "ok"

    async with pool_of(3, tool_builder=build) as pool:
        above = manifest("above", FileReadCapability([str(tmp_path)]))
        await (await pool.spawn(SpawnConfig(above, "q", tools=[act], driver=Calls("act")))).result()
    assert seen[1] is child


# -- tools of every kind ------------------------------------------------------------------------


@tool(capability=MemoryCapability())
def memorize() -> str:
    """Needs what a parent may not have."""
    return "memorized"


async def test_neither_own_tools_nor_those_of_a_builder_are_more_than_is_granted() -> None:
    def build(of: AgentManifest) -> ToolRegistry:
        return ToolRegistry([built])

    @tool(capability=MemoryCapability())
    def built() -> str:
        """Needs it too."""
        return "built"

    async def spawn_it(ctx: AgentContext) -> Any:
        driver = Calls("memorize", "built")
        config = SpawnConfig(manifest("child", "memory"), "q", tools=[memorize], driver=driver)
        result = await (await ctx.spawn(config)).result()
        told = [each.result.text for each in result.transcript if isinstance(each, ToolMessage)]
        return driver.offered, told

    found: list[Any] = []

    @tool
    async def act(ctx: AgentContext) -> str:
        """Do it."""
        found.append(await spawn_it(ctx))
        return "ok"

    async with pool_of(2, tool_builder=build) as pool:
        await (await pool.spawn(SpawnConfig(manifest("a"), "q", tools=[act], driver=Calls("act")))).result()
        wide = await (await pool.spawn(spawn_it)).result()
    offered, told = found[0]
    assert offered == [(), (), ()]
    assert all("does not grant" in str(text) for text in told)
    assert set(wide[0][0]) == {"memorize", "built"}
    assert "does not grant" not in str(wide[1])


async def test_an_agent_class_of_ones_own_has_the_tools_that_its_parent_may_have() -> None:
    class Agent:
        name = "own"
        quota = None

        def build_tools(self, builder: ToolBuilder | None) -> ToolSet | None:
            return ToolRegistry([memorize, plain])

        async def __call__(self, ctx: AgentContext) -> Any:
            assert ctx.tools is not None
            return [each.name for each in ctx.tools.definitions()]

    @tool
    def plain() -> str:
        """Needs nothing."""
        return ""

    async def spawn_it(ctx: AgentContext) -> Any:
        return await (await ctx.spawn(Agent())).result()

    assert await run_inside(manifest("a", "messaging"), spawn_it) == ["plain"]
    assert await run_inside(manifest("a", "memory"), spawn_it) == ["memorize", "plain"]
    async with pool_of(1) as pool:
        assert await (await pool.spawn(Agent())).result() == ["memorize", "plain"]


async def test_an_agent_class_may_ask_for_less_itself() -> None:
    class Agent:
        name = "own"
        quota = None
        wanted = Grants((MemoryCapability(), MessagingCapability()), PrivacyTier.PRIVATE)

        def limited_to(self, limits: Grants) -> Agent:
            limited = Agent()
            limited.wanted = limits
            return limited

        def build_tools(self, builder: ToolBuilder | None) -> ToolSet | None:
            return (
                ToolRegistry([memorize])
                if grants(self.wanted.capabilities or (), MemoryCapability())
                else None
            )

        async def __call__(self, ctx: AgentContext) -> Any:
            return ctx.grants, ctx.privacy, None if ctx.tools is None else ctx.tools.names

    async def spawn_it(ctx: AgentContext) -> Any:
        return await (await ctx.spawn(Agent())).result()

    narrow = manifest("a", "messaging", privacy="sovereign")
    assert await run_inside(narrow, spawn_it) == ((MessagingCapability(),), PrivacyTier.SOVEREIGN, None)
    async with pool_of(1) as pool:
        assert await (await pool.spawn(Agent())).result() == (
            Agent.wanted.capabilities,
            PrivacyTier.PRIVATE,
            ("memorize",),
        )


async def test_an_agent_whose_attributes_raise_may_do_what_its_parent_may() -> None:
    class Proxy:
        def __getattr__(self, name: str) -> Any:
            raise ValueError(name)

        async def __call__(self, ctx: AgentContext) -> Any:
            return ctx.grants

    async def spawn_it(ctx: AgentContext) -> Any:
        return await (await ctx.spawn(Proxy())).result()

    assert await run_inside(manifest("a", "messaging"), spawn_it) == (MessagingCapability(),)


async def test_a_path_that_can_be_none_is_not_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert wanted_by(manifest("a", FileReadCapability(["docs"]))).capabilities == (FileReadCapability([]),)
    monkeypatch.chdir(tmp_path)


async def test_what_is_not_granted_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def spawn_it(ctx: AgentContext) -> Any:
        return await run_nested(ctx, manifest("child", "memory", "messaging", sandbox="none"))

    with caplog.at_level(logging.INFO, "agentpool.loop"):
        await run_inside(manifest("parent", "messaging", privacy="private"), spawn_it)
    told = [each.getMessage() for each in caplog.records if "asks for" in each.getMessage()]
    assert told == ["not all that it asks for is granted: MemoryCapability(), privacy standard, sandbox none"]


async def test_a_child_leaves_no_sandbox_and_may_use_no_more_of_the_machine() -> None:
    seen: list[AgentManifest] = []

    def build(of: AgentManifest) -> ToolRegistry:
        seen.append(of)
        return ToolRegistry([])

    async def spawn_it(ctx: AgentContext) -> None:
        limits = CommandLimits(timeout=5, processes=1_000)
        child = manifest("child", "compute", sandbox="none", commands=limits)
        await (await ctx.spawn(SpawnConfig(child, "q", driver=Calls()))).result()

    @tool
    async def act(ctx: AgentContext) -> str:
        """Do it."""
        await spawn_it(ctx)
        return "ok"

    parent = manifest("parent", "compute", commands=CommandLimits(timeout=60, processes=7))
    async with pool_of(3, tool_builder=build) as pool:
        await (await pool.spawn(SpawnConfig(parent, "q", tools=[act], driver=Calls("act")))).result()
        await (await pool.spawn(spawn_it)).result()
    below, alone = seen[1], seen[2]
    assert (below.sandbox, below.commands.timeout, below.commands.processes) == ("bubblewrap", 5, 7)
    assert (alone.sandbox, alone.commands.processes) == ("none", 1_000)


# -- privacy ------------------------------------------------------------------------------------


class Remote(Calls):
    privacy = PrivacyTier.STANDARD


async def test_a_child_of_a_sovereign_agent_asks_no_remote_model() -> None:
    remote = Remote()

    async def spawn_it(ctx: AgentContext) -> Any:
        child = SpawnConfig(manifest("child", privacy="standard"), "q", driver=remote)
        return await (await ctx.spawn(child)).wait(), ctx.privacy

    outcome, privacy = await run_inside(manifest("parent", privacy="sovereign"), spawn_it)
    assert privacy is PrivacyTier.SOVEREIGN
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, RequestRejectedError)
    assert "is sovereign" in str(outcome.error)
    assert remote.offered == []


async def test_a_child_with_a_remote_model_becomes_sovereign_without_it() -> None:
    async def spawn_it(ctx: AgentContext) -> Any:
        child = manifest("child", "messaging", model=ModelSettings(remote_model="big"))
        return await run_nested(ctx, child)

    granted, _ = await run_inside(manifest("parent", "messaging", privacy="sovereign"), spawn_it)
    assert granted == (MessagingCapability(),)


async def test_a_child_may_be_more_private_than_its_parent() -> None:
    async def tier(ctx: AgentContext) -> Any:
        async def look(ctx: AgentContext) -> Any:
            return ctx.privacy

        below = await (await ctx.spawn(look)).result()
        driver = Calls("see")
        seen: list[Any] = []

        @tool
        async def see(ctx: AgentContext) -> str:
            """See."""
            seen.append(ctx.privacy)
            return "ok"

        config = SpawnConfig(manifest("c", privacy="sovereign"), "q", tools=[see], driver=driver)
        await (await ctx.spawn(config)).result()
        return below, seen[0]

    parent = manifest("parent", privacy="private")
    assert await run_inside(parent, tier) == (PrivacyTier.PRIVATE, PrivacyTier.SOVEREIGN)
