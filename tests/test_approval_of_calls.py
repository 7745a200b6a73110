"""Tool calls that rules send to a person, in a pool: who is asked, who waits, and what comes of it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    Aborted,
    AgentContext,
    AgentManifest,
    ApprovalDecided,
    ApprovalRequest,
    ApprovalRequested,
    ApprovalRules,
    Approved,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Decision,
    Denied,
    Driver,
    Failed,
    ManifestError,
    ModelAgent,
    ResourceQuota,
    TokenUsage,
    ToolCall,
    ToolContext,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    tool,
)

DONE: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> Iterator[None]:
    DONE.clear()
    yield  # noqa: PT022


@tool(quick=True)
def wipe(what: str, force: bool = False) -> str:
    """Wipe something."""
    DONE.append(what)
    return f"wiped {what}"


class Model(Driver):
    """Asks for these calls once, and then tells what they came to."""

    def __init__(self, *calls: ToolCall) -> None:
        self.calls = calls

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        if not any(isinstance(message, AssistantMessage) for message in request.messages):
            return Completion(tool_calls=self.calls, usage=TokenUsage(1, 1))
        told = [str(each.result.content) for each in request.messages if isinstance(each, ToolMessage)]
        return Completion("; ".join(told), usage=TokenUsage(1, 1))


ASK = ApprovalRules(ask=("wipe",))
ONE = ToolCall("1", "wipe", {"what": "a"})


def agent_with(rules: ApprovalRules = ASK, tools: Any = (wipe,), **manifest: Any) -> ModelAgent:
    return ModelAgent(AgentManifest(name="careful", approval=rules, **manifest), tools=list(tools))


def answering(decision: Any, seconds: float = 0) -> Callable[[ApprovalRequest], Awaitable[Any]]:
    async def approver(request: ApprovalRequest) -> Any:
        await trio.sleep(seconds)
        return decision

    return approver


async def text_of(
    approver: Any = None, *calls: ToolCall, agent: ModelAgent | None = None, **options: Any
) -> str:
    """Return what the calls came to."""
    async with pool_of(1, driver=Model(*(calls or (ONE,))), approver=approver, **options) as pool:
        handle = await pool.spawn(agent or agent_with(), "go")
        return str((await handle.wait()).unwrap().text)


# -- what an approver says ------------------------------------------------------------


async def test_what_is_approved_is_called(autojump_clock: Any) -> None:
    assert await text_of(answering(Approved(), 1000)) == "wiped a"


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        (Denied(), "Not run: it was denied."),
        (Denied("not today"), "Not run: it was denied: not today."),
        (True, "Not run: it was denied: asking for approval failed: the approver returned True, "),
        (None, "Not run: it was denied: asking for approval failed: the approver returned None, "),
        (Approved, "Not run: it was denied: asking for approval failed: the approver returned <class"),
    ],
)
async def test_all_but_an_approval_denies(autojump_clock: Any, decision: Any, told: str) -> None:
    assert (await text_of(answering(decision))).startswith(told)
    assert DONE == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no terminal"), "ValueError: no terminal"),
        (ValueError(), "ValueError."),
        (ExceptionGroup("both", [ValueError("x")]), "ExceptionGroup: both (1 sub-exception)"),
    ],
)
async def test_an_approver_that_fails_denies(autojump_clock: Any, error: Exception, told: str) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        raise error

    text = await text_of(approver)
    assert text.startswith(f"Not run: it was denied: asking for approval failed: {told}")
    assert DONE == []


@pytest.mark.parametrize("fatal", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
async def test_what_is_fatal_ends_the_pool(autojump_clock: Any, fatal: BaseException) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        raise fatal

    with pytest.raises(type(fatal)):
        await text_of(approver)
    assert DONE == []


async def test_an_approver_that_leaves_a_scope_open_has_approved_nothing(autojump_clock: Any) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        trio.CancelScope().__enter__()
        return Approved()

    text = await text_of(approver)
    assert "asking for approval failed: the approver ended with" in text
    assert DONE == []


async def test_without_an_approver_a_call_is_denied(autojump_clock: Any) -> None:
    assert "there is nobody to ask" in await text_of(None)
    assert DONE == []


async def test_what_is_approved_is_the_call_that_is_made(autojump_clock: Any) -> None:
    """The approver gets a copy: it cannot change the call, and sees what the model gave."""
    seen: list[ApprovalRequest] = []

    async def approver(request: ApprovalRequest) -> Decision:
        seen.append(request)
        assert isinstance(request.call.input, dict)
        request.call.input["what"] = "everything"
        return Approved()

    assert await text_of(approver) == "wiped a"
    (request,) = seen
    assert (request.agent_name, request.call.name, request.rule) == ("careful", "wipe", 'ask = "wipe"')


# -- what is asked about --------------------------------------------------------------


async def test_what_a_rule_forbids_asks_nobody(autojump_clock: Any) -> None:
    rules = ApprovalRules(deny=("wipe(what=a*)",), ask=("wipe",))
    asked: list[str] = []

    async def approver(request: ApprovalRequest) -> Decision:
        asked.append(request.call.id)
        return Approved()

    calls = (ONE, ToolCall("2", "wipe", {"what": "b"}))
    text = await text_of(approver, *calls, agent=agent_with(rules))
    assert text == 'Not run: the rule deny = "wipe(what=a*)" forbids it.; wiped b'
    assert asked == ["2"]


async def test_what_is_allowed_asks_nobody(autojump_clock: Any) -> None:
    rules = ApprovalRules(allow=("wipe(what=a)",), default="ask")
    calls = (ONE, ToolCall("2", "wipe", {"what": "b"}))
    text = await text_of(answering(Denied("no")), *calls, agent=agent_with(rules))
    assert text == "wiped a; Not run: it was denied: no."


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (ToolCall("1", "wipe", {"wat": "a"}), "wipe was not called"),
        (ToolCall("1", "wipe", {}), "wipe was not called"),
        (ToolCall("1", "wope", {"what": "a"}), "wope"),
        (ToolCall("1", "wipe", {}, problem="is no JSON"), "is no JSON"),
    ],
)
async def test_nobody_is_asked_about_a_call_that_cannot_be_made(
    autojump_clock: Any, call: ToolCall, told: str
) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        raise AssertionError("asked")

    assert told in await text_of(approver, call)
    assert DONE == []


@pytest.mark.parametrize(
    "arguments", [{"what": "a", "force": "true"}, {"what": "a", "force": 1}, {"what": "a", "force": True}]
)
async def test_an_argument_counts_as_the_tool_takes_it(
    autojump_clock: Any, arguments: Mapping[str, Any]
) -> None:
    agent = agent_with(ApprovalRules(deny=("wipe(force=true)",)))
    assert "forbids it" in await text_of(None, ToolCall("1", "wipe", arguments), agent=agent)
    assert await text_of(None, agent=agent) == "wiped a"  # the default is false


class Foreign:
    """A tool that is no function, and does not tell how it takes arguments."""

    definition = ToolDefinition("foreign", "", {"type": "object", "properties": {"what": {}}})
    capability = None
    timeout = None

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        await trio.lowlevel.checkpoint()
        DONE.append("foreign")
        return ToolResult("called")


async def test_a_tool_that_does_not_tell_what_it_takes_is_judged_by_what_is_given(
    autojump_clock: Any,
) -> None:
    agent = agent_with(ApprovalRules(deny=("foreign(what=a)",)), [Foreign()])
    outcomes = [
        await text_of(None, ToolCall("1", "foreign", given), agent=agent)
        for given in ({"what": "a"}, {"what": "b"}, {})
    ]
    assert ["forbids" in text for text in outcomes] == [True, False, True]
    assert DONE == ["foreign"]


class Broken(Foreign):
    """One that cannot tell."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def taken(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        raise self.error


async def test_a_call_that_cannot_be_judged_is_not_made(autojump_clock: Any) -> None:
    agent = agent_with(ApprovalRules(ask=("foreign",)), [Broken(ValueError("odd"))])
    text = await text_of(answering(Approved()), ToolCall("1", "foreign", {}), agent=agent)
    assert text == "Not run: its arguments cannot be judged: ValueError: odd."
    assert DONE == []
    agent = agent_with(ApprovalRules(ask=("foreign",)), [Broken(MemoryError())])
    with pytest.raises(MemoryError):
        await text_of(answering(Approved()), ToolCall("1", "foreign", {}), agent=agent)


async def test_paths_are_those_of_the_manifest_by_both_names(autojump_clock: Any, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    for deny in (tmp_path / "link" / "key", (tmp_path / "real" / "key").resolve()):
        agent = agent_with(ApprovalRules(deny=(f"wipe(what={deny})",)), base=tmp_path / "link")
        for path in ("key", "./key", "../link/key", str(deny)):
            assert "forbids" in await text_of(None, ToolCall("1", "wipe", {"what": path}), agent=agent)
        assert "wiped" in await text_of(None, ToolCall("1", "wipe", {"what": "other"}), agent=agent)


async def test_rules_hold_where_the_current_directory_is_gone(
    autojump_clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    agent = agent_with(ApprovalRules(deny=("wipe(what=key)",)))
    assert "forbids" in await text_of(None, ToolCall("1", "wipe", {"what": "x/../key"}), agent=agent)


async def test_a_pattern_that_fits_no_tool_ends_the_agent_before_it_asks_its_model(
    autojump_clock: Any,
) -> None:
    async with pool_of(1, driver=Model(ONE)) as pool:
        outcome = await (await pool.spawn(agent_with(ApprovalRules(ask=("wope",))), "go")).wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, ManifestError)
        (finding,) = outcome.error.findings
        assert (finding.key, finding.fix) == ("approval.ask[0]", "Did you mean 'wipe'?")


async def test_rules_of_an_agent_without_tools_have_no_effect(autojump_clock: Any) -> None:
    agent = agent_with(ApprovalRules(default="ask"), [])
    assert "wipe" in await text_of(None, ONE, agent=agent)


# -- several agents -------------------------------------------------------------------


@tool
async def hire(ctx: AgentContext, what: str) -> str:
    """Have somebody without rules of his own work."""
    manifest = AgentManifest(name="hired", approval=ApprovalRules(ask=("look",)))
    handle = await ctx.spawn(ModelAgent(manifest, tools=[wipe, look]), "go")
    return str((await handle.wait()).unwrap().text)


@tool(quick=True)
def look(what: str) -> str:
    """Look at something."""
    return f"saw {what}"


class Hiring(Model):
    async def complete(self, request: CompletionRequest) -> Completion:
        tools = {each.name for each in request.tools}
        given = await super().complete(request)
        if given.tool_calls and "hire" in tools:
            return Completion(tool_calls=(ToolCall("0", "hire", {"what": "x"}),), usage=given.usage)
        return given


async def test_rules_bind_children_and_those_of_a_child_are_added(autojump_clock: Any) -> None:
    boss = agent_with(ApprovalRules(deny=("wipe",)), [hire, wipe])
    calls = (ONE, ToolCall("2", "look", {"what": "b"}))
    async with pool_of(1, driver=Hiring(*calls), approver=answering(Denied("no"))) as pool:
        text = (await (await pool.spawn(boss, "go")).wait()).unwrap().text
        assert text == 'Not run: the rule deny = "wipe" forbids it.; Not run: it was denied: no.'
        # Whoever is spawned beside is not bound by them.
        other = ModelAgent(AgentManifest(name="free"), tools=[wipe, look])
        assert (await (await pool.spawn(other, "go")).wait()).unwrap().text == "wiped a; saw b"


async def test_the_calls_of_one_turn_are_asked_about_at_the_same_time(autojump_clock: Any) -> None:
    asked: list[str] = []

    async def approver(request: ApprovalRequest) -> Decision:
        asked.append(request.call.id)
        await trio.sleep(10 - int(request.call.id))
        return Approved() if request.call.id == "2" else Denied(request.call.id)

    calls = [ToolCall(str(n), "wipe", {"what": str(n)}) for n in range(1, 4)]
    start = trio.current_time()
    assert await text_of(approver, *calls) == (
        "Not run: it was denied: 1.; wiped 2; Not run: it was denied: 3."
    )
    assert sorted(asked) == ["1", "2", "3"]
    assert trio.current_time() - start == 9


async def test_who_waits_for_a_person_has_lent_its_slot(autojump_clock: Any) -> None:
    async with pool_of(1, driver=Model(ONE), approver=answering(Approved(), 100)) as pool:
        handle = await pool.spawn(agent_with(), "go")
        await trio.sleep(10)
        seen = pool.statistics()
        assert (seen.running, seen.lent, seen.queued) == (0, 1, 0)

        async def other(ctx: AgentContext) -> tuple[int, int, float]:
            await trio.sleep(20)
            return pool.statistics().running, pool.statistics().lent, trio.current_time()

        running, lent, _ = (await (await pool.spawn(other)).wait()).unwrap()
        assert (running, lent) == (1, 1)
        assert handle.status == "waiting"
        assert (await handle.wait()).unwrap().text == "wiped a"


async def test_nobody_is_at_a_dead_end_while_a_person_thinks(autojump_clock: Any) -> None:
    """Neither is a deadlock reported, nor does a receiver end as if all work were done."""

    async def receiver(ctx: AgentContext) -> str:
        return str((await ctx.receive()).content)

    @tool
    async def tell(ctx: AgentContext, to: int) -> None:
        """Tell somebody."""
        await ctx.send(to, "late")

    async with pool_of(1, driver=None, approver=answering(Approved(), 100)) as pool:
        waiting = await pool.spawn(receiver)
        call = ToolCall("1", "tell", {"to": waiting.id})
        agent = agent_with(ApprovalRules(ask=("tell",)), [tell])
        asking = await pool.spawn(ModelAgent(agent.manifest, tools=[tell], driver=Model(call)), "go")
    assert (await waiting.wait()).unwrap() == "late"
    assert (await asking.wait()).unwrap().text == "ok"


# -- limits and ends ------------------------------------------------------------------


async def test_idle_limits_pause_while_a_person_thinks(autojump_clock: Any) -> None:
    agent = agent_with(resources=ResourceQuota(idle=5))
    assert await text_of(answering(Approved(), 1000), agent=agent) == "wiped a"


async def test_idle_limits_of_those_that_wait_for_the_child_pause_too(autojump_clock: Any) -> None:
    boss = ModelAgent(AgentManifest(name="boss", resources=ResourceQuota(idle=5)), tools=[hire])
    async with pool_of(
        1,
        driver=Hiring(ToolCall("2", "look", {"what": "b"})),
        approver=answering(Approved(), 100),  # less than a call of a tool may take
    ) as pool:
        assert (await (await pool.spawn(boss, "go")).wait()).unwrap().text == "saw b"


async def test_an_approver_is_cancelled_with_the_agent(autojump_clock: Any) -> None:
    ended: list[float] = []

    async def approver(request: ApprovalRequest) -> Decision:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            ended.append(trio.current_time())

    async with pool_of(1, driver=Model(ONE), approver=approver) as pool:
        start = trio.current_time()
        late = await pool.spawn(agent_with(), "go", timeout=10)
        await late.wait()
        assert late.status == "failed"
        assert ended == [start + 13]  # it has ended before the agent
        handle = await pool.spawn(agent_with(), "go")
        await trio.sleep(1)
        handle.abort()
        assert isinstance(await handle.wait(), Aborted)
        assert len(ended) == 2
    assert DONE == []


async def test_what_an_approver_raises_while_it_is_cancelled_is_not_lost(autojump_clock: Any) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cannot clean up")

    async with pool_of(1, driver=Model(ONE), approver=approver) as pool:
        handle = await pool.spawn(agent_with(), "go")
        await trio.sleep(1)
        handle.abort()
        outcome = await handle.wait()
        assert "cannot clean up" in repr(outcome)
    assert DONE == []


async def test_a_decision_that_comes_while_the_agent_is_cancelled_is_none(autojump_clock: Any) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return Approved()

    async with pool_of(1, driver=Model(ONE), approver=approver) as pool:
        handle = await pool.spawn(agent_with(), "go")
        await trio.sleep(1)
        handle.abort()
        assert isinstance(await handle.wait(), Aborted)
    assert DONE == []


async def test_a_task_that_asks_for_an_agent_that_has_ended_is_told(autojump_clock: Any) -> None:
    contexts: list[AgentContext] = []
    told: list[Decision] = []

    async def body(ctx: AgentContext, seconds: float) -> None:
        contexts.append(ctx)
        await trio.sleep(seconds)

    async def ask(ctx: AgentContext) -> None:
        told.append(await ctx.ask_approver(ApprovalRequest.of(ctx.id, ctx.name, ONE, "rule")))

    async with pool_of(2, approver=answering(Approved(), 50)) as pool:
        handle = await pool.spawn(body, 10)
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, contexts[0])
            await handle.wait()
        await ask(contexts[0])
    assert [isinstance(each, Denied) and "has ended" in each.reason for each in told] == [True, True]


# -- events ---------------------------------------------------------------------------


async def test_events_tell_what_was_asked_and_decided(autojump_clock: Any) -> None:
    rules = ApprovalRules(deny=("wipe(what=c)",), ask=("wipe",))
    calls = (ONE, ToolCall("3", "wipe", {"what": "c"}))
    async with pool_of(1, driver=Model(*calls), approver=answering(Approved(), 1)) as pool:
        async with pool.events() as events:
            handle = await pool.spawn(agent_with(rules), "go")
            await handle.wait()
            seen = []
            with trio.move_on_after(5):
                async for event in events:
                    if isinstance(event, ApprovalRequested):
                        seen.append(("asked", event.request.call.id, event.request.rule))
                    elif isinstance(event, ApprovalDecided):
                        said = type(event.decision).__name__
                        seen.append((said, event.request.call.id, event.request.rule))
    assert sorted(seen) == [
        ("Approved", "1", 'ask = "wipe"'),
        ("Denied", "3", 'deny = "wipe(what=c)"'),
        ("asked", "1", 'ask = "wipe"'),
    ]


async def test_an_approver_is_an_async_function() -> None:
    for wrong in (5, ApprovalRules):
        with pytest.raises(TypeError, match="approver must be an async function"):
            async with pool_of(1, approver=wrong):
                pass
