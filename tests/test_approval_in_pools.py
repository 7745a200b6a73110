"""Tool calls that a person decides about, in running pools: who waits, who goes on, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import trio
from leftover_kit import KEPT
from pool_kit import pool_of, server

from agentpool import (
    Aborted,
    AgentContext,
    AgentFailedError,
    AgentManifest,
    AgentResult,
    AgentTimeoutError,
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
    SpawnConfig,
    ToolCall,
    ToolDefinition,
    ToolFinished,
    ToolMessage,
    ToolResult,
    ToolStarted,
    UnknownAgentError,
    open_agent_pool,
    tool,
)
from agentpool._loop import approving

CALL = ToolCall("1", "wipe", {"what": "x"})
REQUEST = ApprovalRequest.of(1, "asker", CALL, 'ask = "wipe"')
Ask = Callable[[ApprovalRequest], Awaitable[Decision]]


async def asker(ctx: AgentContext) -> Decision:
    return await ctx.ask_approver(REQUEST)


async def yes(request: ApprovalRequest) -> Decision:
    return Approved()


def yes_after(seconds: float) -> Ask:
    async def approver(request: ApprovalRequest) -> Decision:
        await trio.sleep(seconds)
        return Approved()

    return approver


async def decided(approver: Any) -> Decision:
    async with pool_of(1, approver=approver) as pool:
        return await (await pool.spawn(asker)).result()


# -- what an approver may do --------------------------------------------------------------


async def test_the_approver_is_asked_and_events_tell_of_it(autojump_clock: trio.abc.Clock) -> None:
    asked = []

    async def approver(request: ApprovalRequest) -> Decision:
        asked.append(request)
        return Denied("no")

    async with pool_of(1, approver=approver) as pool, pool.events() as events:
        handle = await pool.spawn(asker)
        assert await handle.result() == Denied("no")
        seen = [event async for event in _until_finished(events)]
    assert asked == [REQUEST]
    requested, decision = [event for event in seen if "Approval" in type(event).__name__]
    assert isinstance(requested, ApprovalRequested)
    assert requested.request == REQUEST
    assert isinstance(decision, ApprovalDecided)
    assert decision.decision == Denied("no")
    assert decision.agent_id == handle.id


async def _until_finished(events: Any) -> Any:
    async for event in events:
        if type(event).__name__ == "AgentFinished":
            return
        yield event


async def test_without_an_approver_nothing_is_approved(autojump_clock: trio.abc.Clock) -> None:
    decision = await decided(None)
    assert isinstance(decision, Denied)
    assert "nobody to ask" in decision.reason


@pytest.mark.parametrize("answer", [None, True, "yes", 1, Approved, {"approved": True}])
async def test_what_is_no_decision_denies(autojump_clock: trio.abc.Clock, answer: Any) -> None:
    async def approver(request: ApprovalRequest) -> Any:
        return answer

    decision = await decided(approver)
    assert isinstance(decision, Denied)
    assert "where Approved() or Denied(reason) is wanted" in decision.reason


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("broken"), "ValueError: broken"),
        (ValueError(), "ValueError"),
        (EOFError(), "EOFError"),
        (ExceptionGroup("Exceptions from Trio nursery", [ValueError("a")]), "ValueError: a"),
    ],
)
async def test_an_approver_that_raises_denies(
    autojump_clock: trio.abc.Clock, error: Exception, text: str
) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        raise error

    assert await decided(approver) == Denied(f"asking for approval failed: {text}")


async def test_an_approver_that_is_no_async_function_denies(autojump_clock: trio.abc.Clock) -> None:
    decision = await decided(lambda request: Approved())
    assert isinstance(decision, Denied)


async def test_an_approver_that_leaves_something_open_denies_and_the_pool_goes_on(
    autojump_clock: trio.abc.Clock,
) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        scope = trio.CancelScope(shield=True)
        KEPT.append(scope)
        scope.__enter__()
        return Approved()

    async with pool_of(1, approver=approver) as pool:
        for _ in range(2):
            decision = await (await pool.spawn(asker)).result()
            assert isinstance(decision, Denied)
            assert "a cancel scope that shields left open" in decision.reason


@pytest.mark.parametrize("fatal", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
async def test_what_is_fatal_in_an_approver_leaves_the_pool(
    autojump_clock: trio.abc.Clock, fatal: BaseException
) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        raise fatal

    with pytest.raises(type(fatal)) as caught:
        async with pool_of(2, approver=approver) as pool:
            await pool.spawn(asker)
            await trio.sleep(10)
    assert caught.value is fatal


async def test_the_approver_works_for_whoever_opened_the_pool(autojump_clock: trio.abc.Clock) -> None:
    whose = ContextVar("whose", default="nobody's")
    seen = []

    async def approver(request: ApprovalRequest) -> Decision:
        seen.append(whose.get())
        whose.set("the approver's")
        # It is no agent: it may open a pool of its own, and ask agents in it.
        async with open_agent_pool(max_concurrent=1, approver=yes) as inner:
            return await (await inner.spawn(asker)).result()

    async def agent(ctx: AgentContext) -> Decision:
        whose.set("the agent's")
        return await ctx.ask_approver(REQUEST)

    whose.set("the opener's")
    async with pool_of(1, approver=approver) as pool:
        for _ in range(2):
            assert await (await pool.spawn(agent)).result() == Approved()
    assert seen == ["the opener's"] * 2


# -- who waits, and who goes on meanwhile -----------------------------------------------------


async def test_the_slot_is_lent_while_a_person_decides(autojump_clock: trio.abc.Clock) -> None:
    snapshots = []

    asks = trio.Event()

    async def approver(request: ApprovalRequest) -> Decision:
        snapshots.append(pool.statistics())
        asks.set()
        await trio.sleep(10)
        return Approved()

    async def other(ctx: AgentContext) -> float:
        snapshots.append(pool.statistics())
        return trio.current_time()

    async with pool_of(1, approver=approver) as pool:
        began = trio.current_time()
        first = await pool.spawn(asker)
        await asks.wait()
        second = await pool.spawn(other)  # there is one slot
        assert await second.result() - began < 1
        assert await first.result() == Approved()
        assert trio.current_time() - began == 10
        last = pool.statistics()
    for each, (running, lent) in zip(snapshots, [(0, 1), (1, 1)], strict=True):
        assert (each.running, each.lent, each.queued) == (running, lent, 0)
        assert [(who.name, who.waits_for) for who in each.waiting] == [("asker", ())]
    assert (last.running, last.lent, last.waiting) == (0, 0, ())


async def test_many_agents_ask_at_once_and_the_approver_keeps_them_apart(
    autojump_clock: trio.abc.Clock,
) -> None:
    turn = trio.Lock()
    at_once = []

    async def approver(request: ApprovalRequest) -> Decision:
        async with turn:
            at_once.append(turn.statistics().tasks_waiting)
            await trio.sleep(1)
            return Denied(request.call.id)

    async def one(ctx: AgentContext, number: int) -> Decision:
        call = ToolCall(str(number), "wipe", {})
        return await ctx.ask_approver(ApprovalRequest.of(ctx.id, ctx.name, call, "rule"))

    async with pool_of(2, approver=approver) as pool:
        outcomes = await pool.map(one, range(20))
    assert [outcome.unwrap() for outcome in outcomes] == [Denied(str(n)) for n in range(20)]
    assert max(at_once) > 2  # more ask than there are slots


async def test_whoever_waits_for_one_who_asks_is_in_no_deadlock(autojump_clock: trio.abc.Clock) -> None:
    async def parent(ctx: AgentContext) -> Decision:
        return await (await ctx.spawn(asker)).result()

    async def questioner(ctx: AgentContext) -> None:
        with pytest.raises(UnknownAgentError):  # it ends without an answer
            await ctx.ask("parent", "?")

    async with pool_of(1, approver=yes_after(1000)) as pool:
        above = await pool.spawn(parent)
        below = await pool.spawn(questioner)
        assert await above.result() == Approved()
        await below.result()


async def test_servers_do_not_end_while_somebody_is_asked(autojump_clock: trio.abc.Clock) -> None:
    async def client(ctx: AgentContext, to: int) -> Any:
        assert await ctx.ask_approver(REQUEST) == Approved()
        return await ctx.ask(to, "hello")

    async with pool_of(1, approver=yes_after(100)) as pool:
        serving = await pool.spawn(server)
        asking = await pool.spawn(client, serving.id)
    assert asking.outcome is not None
    assert asking.outcome.unwrap() == "hello"
    assert serving.outcome is not None
    assert serving.outcome.unwrap() == ["hello"]


async def test_a_task_that_the_pool_does_not_know_may_not_ask(autojump_clock: trio.abc.Clock) -> None:
    async def agent(ctx: AgentContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.ask_approver, REQUEST)

    async with pool_of(1, approver=yes) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    assert "open_nursery" in repr(outcome.error)


# -- the end of whoever asks --------------------------------------------------------------


class Person:
    """An approver who never answers, and takes a second to leave."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked = 0
        self.left: list[float] = []
        self.error = error

    async def __call__(self, request: ApprovalRequest) -> Decision:
        self.asked += 1
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            self.left.append(trio.current_time())
            if self.error is not None:
                raise self.error
        raise AssertionError


async def test_an_agent_that_is_aborted_takes_its_question_back(autojump_clock: trio.abc.Clock) -> None:
    person = Person()
    async with pool_of(1, approver=person) as pool:
        handle = await pool.spawn(asker)
        await trio.sleep(5)
        handle.abort("enough")
        outcome = await handle.wait()
        assert isinstance(outcome, Aborted)
        assert person.left == [trio.current_time()]  # it has ended when the agent has


async def test_the_timeout_of_an_agent_runs_while_it_asks(autojump_clock: trio.abc.Clock) -> None:
    person = Person()
    async with pool_of(1, approver=person) as pool:
        began = trio.current_time()
        handle = await pool.spawn(asker, timeout=7)
        outcome = await handle.wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, AgentTimeoutError)
        assert trio.current_time() - began == 8


async def test_an_agent_may_stop_asking_and_go_on(autojump_clock: trio.abc.Clock) -> None:
    person = Person()

    async def agent(ctx: AgentContext) -> str:
        with trio.move_on_after(3):
            await ctx.ask_approver(REQUEST)
        return "went on"

    async with pool_of(1, approver=person) as pool:
        assert await (await pool.spawn(agent)).result() == "went on"
    assert person.asked == len(person.left) == 1


async def test_what_the_approver_raises_while_it_is_cancelled_is_not_lost(
    autojump_clock: trio.abc.Clock,
) -> None:
    error = OSError("the terminal is gone")

    async def agent(ctx: AgentContext) -> None:
        with trio.move_on_after(3):
            await ctx.ask_approver(REQUEST)

    async with pool_of(1, approver=Person(error)) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    assert pytest.RaisesGroup(OSError, flatten_subgroups=True).matches(outcome.error)


async def test_the_decision_counts_that_came_before_the_cancellation(autojump_clock: trio.abc.Clock) -> None:
    async def agent(ctx: AgentContext) -> Decision:
        return await ctx.ask_approver(REQUEST)

    async with pool_of(1, approver=yes_after(5)) as pool:
        handle = await pool.spawn(agent)
        await trio.sleep(5)
        handle.abort()
        outcome = await handle.wait()
        assert isinstance(outcome, Aborted) or outcome.unwrap() == Approved()


async def test_an_error_of_the_block_takes_the_questions_back(autojump_clock: trio.abc.Clock) -> None:
    person = Person()
    with pytest.raises(KeyError):
        async with pool_of(2, approver=person) as pool:
            await pool.spawn(asker)
            await pool.spawn(asker)
            await trio.sleep(5)
            raise KeyError("body")
    assert person.asked == len(person.left) == 2


async def test_a_scope_around_the_pool_takes_the_questions_back(autojump_clock: trio.abc.Clock) -> None:
    person = Person()
    with trio.move_on_after(5) as scope:
        async with pool_of(1, approver=person) as pool:
            await (await pool.spawn(asker)).wait()
    assert scope.cancelled_caught
    assert len(person.left) == 1


async def test_a_task_that_asks_for_an_agent_that_ends_is_answered(autojump_clock: trio.abc.Clock) -> None:
    person = Person()
    answers: list[Decision] = []
    contexts = []

    async def agent(ctx: AgentContext) -> None:
        contexts.append(ctx)
        await trio.sleep(5)

    async def stranger() -> None:
        answers.append(await contexts[0].ask_approver(REQUEST))

    async with pool_of(1, approver=person) as pool, trio.open_nursery() as nursery:
        handle = await pool.spawn(agent, name="brief")
        await trio.sleep(1)
        nursery.start_soon(stranger)
        await handle.wait()
        await trio.sleep(0.1)
        assert answers == [Denied(f"agent {handle.id} (brief) has ended")]
        await stranger()
    assert answers[1] == answers[0]
    assert person.asked == len(person.left) == 1  # after the end nobody was asked


# -- idle limits --------------------------------------------------------------------------


async def test_idle_limits_do_not_run_while_a_person_decides(autojump_clock: trio.abc.Clock) -> None:
    person_takes = 1000
    boss = AgentManifest(name="boss", resources=ResourceQuota(idle=30))
    child = AgentManifest(
        name="child", resources=ResourceQuota(idle=20), approval=ApprovalRules(ask=("wipe",))
    )

    @tool(timeout=float("inf"))  # as long as what it waits for takes
    async def delegate(ctx: AgentContext) -> str:
        """Have somebody else do it."""
        handle = await ctx.spawn(ModelAgent(child, tools=[wipe], driver=Calls(CALL)), "go")
        return (await handle.result()).text

    agent = ModelAgent(boss, tools=[delegate], driver=Calls(ToolCall("1", "delegate", {})))
    DONE.clear()
    async with pool_of(1, approver=yes_after(person_takes)) as pool:
        result = await (await pool.spawn(agent, "go")).result()
    assert result.text == "wiped"
    assert DONE == ["x"]


async def test_idle_limits_run_again_after_the_decision(autojump_clock: trio.abc.Clock) -> None:
    manifest = AgentManifest(
        name="m", resources=ResourceQuota(idle=20), approval=ApprovalRules(ask=("hang",))
    )

    @tool(timeout=float("inf"))
    async def hang() -> None:
        """Hang."""
        await trio.sleep_forever()

    agent = ModelAgent(manifest, tools=[hang], driver=Calls(ToolCall("1", "hang", {})))
    async with pool_of(1, approver=yes_after(100)) as pool:
        began = trio.current_time()
        outcome = await (await pool.spawn(agent, "go")).wait()
        assert isinstance(outcome, Failed)
        assert trio.current_time() - began == pytest.approx(120, abs=2)


# -- the gate of a model's calls --------------------------------------------------------------

DONE: list[str] = []


class Calls(Driver):
    """Asks for these calls, and then tells what they came to."""

    def __init__(self, *calls: ToolCall) -> None:
        self.calls = calls

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        if not any(isinstance(message, AssistantMessage) for message in request.messages):
            return Completion(tool_calls=self.calls)
        told = [each.result.text for each in request.messages if isinstance(each, ToolMessage)]
        return Completion("; ".join(told))


@tool
async def wipe(what: str, times: int = 1) -> str:
    """Wipe something."""
    DONE.append(what)
    return "wiped"


async def text_of(
    *calls: ToolCall, rules: ApprovalRules, approver: Any = yes, tools: Any = (wipe,), manifest: Any = None
) -> str:
    """Run an agent whose model makes these calls; return what it was told of them."""
    DONE.clear()
    manifest = manifest or AgentManifest(name="m", approval=rules)
    config = SpawnConfig(manifest, "go", tools=tools, driver=Calls(*calls))
    async with pool_of(2, approver=approver) as pool:
        result: AgentResult[str] = await (await pool.spawn(config)).result()
        return result.text


async def refuses(request: ApprovalRequest) -> Decision:
    raise AssertionError(f"nobody is to be asked about {request}")


ASK = ApprovalRules(ask=("wipe",))


async def test_a_call_is_made_if_it_is_approved_and_else_the_model_is_told_why(
    autojump_clock: trio.abc.Clock,
) -> None:
    async def only_a(request: ApprovalRequest) -> Decision:
        match request.arguments["what"]:
            case "a":
                return Approved()
            case "b":
                return Denied("not b")
            case _:
                return Denied()

    calls = [ToolCall(what, "wipe", {"what": what}) for what in "abc"]
    text = await text_of(*calls, rules=ASK, approver=only_a)
    assert text == "wiped; Not run: it was denied: not b.; Not run: it was denied."
    assert DONE == ["a"]


async def test_a_rule_that_denies_asks_nobody_and_is_told(autojump_clock: trio.abc.Clock) -> None:
    rules = ApprovalRules(deny=("wipe(what=x)",), ask=("wipe(what=y)",))
    text = await text_of(CALL, ToolCall("2", "wipe", {"what": "z"}), rules=rules, approver=refuses)
    assert text == 'Not run: the rule deny = "wipe(what=x)" forbids it.; wiped'
    assert DONE == ["z"]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (ToolCall("1", "wipe", {"wat": "x"}), "wipe was not called, because its arguments are wrong"),
        (ToolCall("1", "wipe", {}, problem="the arguments are no JSON"), "the arguments are no JSON"),
        (ToolCall("1", "whipe", {"what": "x"}), "there is no tool"),
    ],
)
async def test_nobody_is_asked_about_a_call_that_cannot_be_made(
    autojump_clock: trio.abc.Clock, call: ToolCall, told: str
) -> None:
    rules = ApprovalRules(ask=("wipe", "*"))
    assert told in await text_of(call, rules=rules, approver=refuses)
    assert DONE == []


async def test_events_tell_of_a_call_with_wrong_arguments_as_without_rules(
    autojump_clock: trio.abc.Clock,
) -> None:
    call = ToolCall("1", "wipe", {"wat": "x"})
    told = []
    for rules in (ApprovalRules(), ASK):
        config = SpawnConfig(AgentManifest(name="m", approval=rules), "go", tools=[wipe], driver=Calls(call))
        async with pool_of(1, approver=refuses) as pool, pool.events() as events:
            handle = await pool.spawn(config)
            seen = [event async for event in _until_finished(events)]
            await handle.wait()
        tools = [event for event in seen if isinstance(event, (ToolStarted, ToolFinished))]
        told.append([(type(event), event.call) for event in tools])
    assert told[0] == told[1] == [(ToolStarted, call), (ToolFinished, call)]


async def test_the_person_sees_the_arguments_with_which_the_tool_works(
    autojump_clock: trio.abc.Clock,
) -> None:
    seen = []

    async def approver(request: ApprovalRequest) -> Decision:
        seen.append((dict(request.call.input), dict(request.arguments)))
        return Approved()

    call = ToolCall("1", "wipe", {"what": "x", "times": "3"})
    await text_of(call, CALL, rules=ASK, approver=approver)
    assert ({"what": "x", "times": "3"}, {"what": "x", "times": 3}) in seen
    assert ({"what": "x"}, {"what": "x", "times": 1}) in seen


async def test_what_an_approver_does_to_the_arguments_changes_no_call(autojump_clock: trio.abc.Clock) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        request.call.input["what"] = "everything"  # type: ignore[index]
        return Approved()

    assert await text_of(CALL, rules=ASK, approver=approver) == "wiped"
    assert DONE == ["x"]


class Plain:
    """A tool that does not tell how it takes its arguments."""

    capability = None
    timeout = None
    definition = ToolDefinition("plain", "", {"type": "object", "properties": {"a": {"default": "1"}}})

    async def call(self, ctx: object, arguments: Mapping[str, Any]) -> ToolResult:
        DONE.append(str(arguments))
        return ToolResult("done")


class Broken(Plain):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def taken(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        raise self.error


async def test_a_tool_that_does_not_tell_what_it_takes(autojump_clock: trio.abc.Clock) -> None:
    rules = ApprovalRules(deny=("plain(a=1)",))
    for given, told in (({}, "Not run"), ({"a": 1}, "Not run"), ({"a": 2}, "done")):
        call = ToolCall("1", "plain", given)
        assert told in await text_of(call, rules=rules, tools=(Plain(),))


async def test_a_call_that_cannot_be_judged_is_not_made(autojump_clock: trio.abc.Clock) -> None:
    rules = ApprovalRules(deny=("plain(a=1)",))
    call = ToolCall("1", "plain", {})
    text = await text_of(call, rules=rules, tools=(Broken(ValueError("odd")),))
    assert text == "Not run: its arguments cannot be judged: ValueError: odd."
    circle: dict[str, Any] = {}
    circle["a"] = [circle]
    assert "cannot be judged" in await text_of(ToolCall("1", "plain", circle), rules=rules, tools=(Plain(),))
    assert DONE == []
    with pytest.raises(SystemExit):
        await text_of(call, rules=rules, tools=(Broken(SystemExit(1)),))
    with pytest.raises(MemoryError):
        await text_of(call, rules=rules, tools=(Broken(MemoryError()),))


async def test_a_pattern_that_fits_no_tool_stops_the_agent_before_it_begins(
    autojump_clock: trio.abc.Clock,
) -> None:
    with pytest.raises(AgentFailedError) as caught:
        await text_of(CALL, rules=ApprovalRules(ask=("wip",)))
    assert isinstance(caught.value.__cause__, ManifestError)
    assert "approval.ask[0]" in str(caught.value.__cause__)
    assert DONE == []


async def test_an_agent_without_tools_needs_no_gate(autojump_clock: trio.abc.Clock) -> None:
    rules = ApprovalRules(default="deny")
    assert "no tools" in await text_of(CALL, rules=rules, tools=(), approver=refuses)


async def test_relative_paths_are_those_of_the_manifest(
    autojump_clock: trio.abc.Clock, tmp_path: Path
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    rules = ApprovalRules(deny=(f"wipe(what={real}/secret)", f"wipe(what={link}/key)", "wipe(what=own)"))
    manifest = AgentManifest(name="m", approval=rules, base=link)
    for path in ("secret", "key", f"{link}/secret", f"{real}/own", "a/../own"):
        call = ToolCall("1", "wipe", {"what": path})
        assert "Not run" in await text_of(call, rules=rules, manifest=manifest), path
    call = ToolCall("1", "wipe", {"what": "another"})
    assert await text_of(call, rules=rules, manifest=manifest) == "wiped"


async def test_a_current_directory_that_is_gone_is_no_base(
    autojump_clock: trio.abc.Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    os.rmdir(gone)
    rules = ApprovalRules(deny=("wipe(what=own)",))
    assert "Not run" in await text_of(ToolCall("1", "wipe", {"what": "a/../own"}), rules=rules)


async def test_children_have_the_rules_of_their_spawner_and_can_only_add_to_them(
    autojump_clock: trio.abc.Clock,
) -> None:
    asked: list[tuple[str, str]] = []

    async def approver(request: ApprovalRequest) -> Decision:
        asked.append((request.agent_name, request.call.name))
        return Approved()

    @tool
    async def hire(ctx: AgentContext, lenient: bool) -> str:
        """Have somebody else do it."""
        rules = ApprovalRules(allow=("wipe",), default="ask") if lenient else ApprovalRules(ask=("wipe",))
        manifest = AgentManifest(name="hired", approval=rules)
        handle = await ctx.spawn(ModelAgent(manifest, tools=[wipe], driver=Calls(CALL)), "go")
        return (await handle.result()).text

    @tool
    async def by_function(ctx: AgentContext) -> str:
        """Have a function have somebody do it."""

        async def between(ctx: AgentContext) -> str:
            agent = ModelAgent(AgentManifest(name="below"), tools=[wipe], driver=Calls(CALL))
            (outcome,) = await ctx.map(agent, ["go"])
            async with open_agent_pool(max_concurrent=1) as inner:  # nor are they left by another pool
                await (await inner.spawn(agent, "go")).wait()
            return outcome.unwrap().text

        return await (await ctx.spawn(between)).result()

    calls = (
        ToolCall("1", "hire", {"lenient": True}),
        ToolCall("2", "hire", {"lenient": False}),
        ToolCall("3", "by_function", {}),
    )
    tools = (hire, by_function, wipe)
    denying = ApprovalRules(deny=("wipe",))
    text = await text_of(*calls, rules=denying, tools=tools, approver=approver)
    assert text.count("Not run: the rule deny") == 3
    assert DONE == []
    assert asked == []
    # And where the spawner asks, the child does not allow; of a rule that both have one question comes.
    text = await text_of(*calls, rules=ASK, tools=tools, approver=approver)
    assert text == "wiped; wiped; wiped"
    assert sorted(asked) == [("below", "wipe"), ("hired", "wipe"), ("hired", "wipe")]


async def test_rules_of_one_agent_bind_no_other(autojump_clock: trio.abc.Clock) -> None:
    DONE.clear()
    bound = SpawnConfig(
        AgentManifest(name="a", approval=ApprovalRules(deny=("wipe",))),
        "go",
        tools=[wipe],
        driver=Calls(CALL),
    )
    free = SpawnConfig(AgentManifest(name="b"), "go", tools=[wipe], driver=Calls(CALL))

    async def both(ctx: AgentContext) -> tuple[str, str]:
        return (await bound(ctx)).text, (await free(ctx)).text

    async with pool_of(1, approver=refuses) as pool:
        first, second = await (await pool.spawn(both)).result()
    assert "Not run" in first
    assert second == "wiped"


async def test_what_a_person_takes_is_no_part_of_a_calls_time(autojump_clock: trio.abc.Clock) -> None:
    text = await text_of(CALL, rules=ASK, approver=yes_after(1_000))
    assert text == "wiped"


async def test_calls_beside_one_that_is_asked_about_go_on(autojump_clock: trio.abc.Clock) -> None:
    ended = []

    @tool
    async def look() -> str:
        """Look."""
        ended.append(trio.current_time())
        return "seen"

    began = trio.current_time()
    calls = (CALL, ToolCall("2", "look", {}))
    text = await text_of(*calls, rules=ASK, approver=yes_after(50), tools=(wipe, look))
    assert text == "wiped; seen"
    assert ended[0] - began < 1


async def test_a_long_reason_is_cut_as_results_are(autojump_clock: trio.abc.Clock) -> None:
    async def approver(request: ApprovalRequest) -> Decision:
        return Denied("no " * 100_000)

    assert "[cut: the result has" in await text_of(CALL, rules=ASK, approver=approver)


def test_rules_are_put_back() -> None:
    rules = (ASK,)
    with approving.in_force(rules):
        assert approving.rules_of(AgentManifest(name="x"), []) == rules
        assert approving.rules_of(AgentManifest(name="x", approval=ASK), []) == rules  # once is enough
    assert approving.rules_of(AgentManifest(name="x"), []) == ()
