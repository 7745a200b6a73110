from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

import attrs
import pytest
import trio
import trio.testing

from agentpool._core import events
from agentpool._core.budget import Budget
from agentpool._core.capability import FileReadCapability, MemoryCapability, PrivacyTier
from agentpool._core.errors import (
    BudgetExceededError,
    ContentRefusedError,
    DriverUnavailableError,
    LoopHaltedError,
    MalformedReplyError,
    OverloadedError,
    PriceUnknownError,
    RequestRejectedError,
    ToolError,
)
from agentpool._core.events import Event
from agentpool._core.limits import PoolLimits
from agentpool._core.manifest import AgentManifest, ModelSettings, ResourceQuota
from agentpool._core.messages import (
    AssistantMessage,
    Completion,
    CompletionRequest,
    StreamPart,
    TextDelta,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.outcomes import Aborted, AgentResult, Completed, Failed
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._kernel.context import AgentContext
from agentpool._kernel.opening import open_agent_pool
from agentpool._loop.model_agent import SpawnConfig
from agentpool.abc import Driver
from agentpool.drivers.retrying import RetryingDriver
from agentpool.drivers.routing import RoutingDriver
from agentpool.drivers.scripted import ScriptedDriver
from agentpool.memory import InMemory
from agentpool.tools import ToolRegistry, tool

PLAIN = AgentManifest(name="plain")
MINDFUL = AgentManifest(name="mindful", capabilities=(MemoryCapability(),))
USAGE = TokenUsage(10, 5)


class Watched:
    """What was seen from outside of one agent."""

    def __init__(
        self,
        driver: Driver | None,
        *,
        tools: ToolRegistry | None = None,
        memory: Any = None,
        budget: Budget | None = None,
        messages: Sequence[str] = (),
        observed: bool = True,
    ) -> None:
        self.driver, self.tools, self.memory, self.budget = driver, tools, memory, budget
        self.messages = messages
        self.observed = observed
        self.events: list[Event] = []
        self.usage = NO_USAGE
        self.outcome: Any = None
        self.pool: Any = None

    @property
    def requests(self) -> list[CompletionRequest]:
        assert isinstance(self.driver, ScriptedDriver)
        return self.driver.requests

    def seen(self, kind: type[Any]) -> list[tuple[Any, ...]]:
        """The own fields of all events of a kind."""
        return [attrs.astuple(event, recurse=False)[4:] for event in self.events if type(event) is kind]


async def run(config: SpawnConfig[Any], seen: Watched) -> AgentResult[Any]:
    """Run an agent in a pool to its end, and return its value or raise its error."""
    try:
        async with AsyncExitStack() as stack:
            seen.pool = await stack.enter_async_context(
                open_agent_pool(
                    seen.driver,
                    max_concurrent=1,
                    memory=seen.memory,
                    tool_builder=None if seen.tools is None else lambda _: seen.tools,
                    budget=seen.budget,
                )
            )
            nursery = await stack.enter_async_context(trio.open_nursery())
            if seen.observed:
                events = await stack.enter_async_context(seen.pool.events())
                nursery.start_soon(_gather, events, seen.events)
            handle = seen.pool.spawn_nowait(config)
            for message in seen.messages:
                seen.pool.send_nowait(handle.id, message)
            seen.outcome = await handle.wait()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    finally:
        if seen.pool is not None:
            seen.usage = seen.pool.statistics().usage
    if isinstance(seen.outcome, Completed):
        return seen.outcome.value  # type: ignore[no-any-return]
    assert isinstance(seen.outcome, Failed)
    raise seen.outcome.error


async def _gather(events: AsyncIterator[Event], into: list[Event]) -> None:
    async for event in events:
        into.append(event)


def ask(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(f"call of {name}", name, arguments)


def calling(*calls: ToolCall, usage: TokenUsage = NO_USAGE) -> Completion:
    return Completion("", calls, usage=usage)


async def tool_results(ctx: Watched, *calls: ToolCall) -> list[ToolResult]:
    """Have a model make these calls in one turn, and return what it is told."""
    assert ctx.driver is None
    ctx.driver = ScriptedDriver([calling(*calls), "done"])
    result = await run(SpawnConfig(PLAIN, "go"), ctx)
    assert result.text == "done"
    return [message.result for message in result.transcript if isinstance(message, ToolMessage)]


@tool
async def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool
async def sleep(seconds: float) -> str:
    """Sleep."""
    await trio.sleep(seconds)
    return f"slept {seconds:g}"


# -- the loop


async def test_an_answer_is_the_result() -> None:
    ctx = Watched(ScriptedDriver(["hello"]))
    result = await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert (result.text, result.output, result.iterations, result.tool_calls) == ("hello", "hello", 1, 0)
    assert result.transcript == (UserMessage("hi"), AssistantMessage("hello"))
    assert SpawnConfig(PLAIN, "hi").name == "plain"


async def test_tools_are_called_and_their_results_told() -> None:
    ctx = Watched(ScriptedDriver([calling(ask("add", a=1, b=2)), "three"]), tools=ToolRegistry([add]))
    result = await run(SpawnConfig(PLAIN, "1 + 2?"), ctx)
    assert result.text == "three"
    assert result.transcript[2] == ToolMessage("call of add", "add", ToolResult("3"))
    (definition,) = ctx.requests[0].tools
    assert definition.name == "add"
    assert ctx.requests[1].messages == result.transcript[:3]


async def test_tools_run_side_by_side_with_results_in_the_order_of_the_calls(autojump_clock: Any) -> None:
    start = trio.current_time()
    results = await tool_results(
        Watched(None, tools=ToolRegistry([sleep])), ask("sleep", seconds=9), ask("sleep", seconds=3)
    )
    assert [result.content for result in results] == ["slept 9", "slept 3"]
    assert trio.current_time() - start == 9


async def test_every_phase_and_call_is_told_to_whoever_watches() -> None:
    driver = ScriptedDriver([Completion("", (ask("add", a=1, b=2),), usage=USAGE), "three"])
    ctx = Watched(driver, tools=ToolRegistry([add]))
    await run(SpawnConfig(PLAIN, "1 + 2?"), ctx)
    told = [type(event) for event in ctx.events]
    assert told[told.index(events.PhaseChanged) : told.index(events.AgentFinished)] == [
        events.PhaseChanged,
        events.PhaseChanged,
        events.ModelCallStarted,
        events.ModelCallFinished,
        events.CompletionFinished,
        events.PhaseChanged,
        events.ToolStarted,
        events.ToolFinished,
        events.PhaseChanged,
        events.PhaseChanged,
        events.ModelCallStarted,
        events.ModelCallFinished,
        events.CompletionFinished,
        events.PhaseChanged,
        events.LoopFinished,
    ]
    assert ctx.seen(events.PhaseChanged) == [
        ("perceive", 1),
        ("reason", 1),
        ("act", 1),
        ("perceive", 2),
        ("reason", 2),
        ("done", 2),
    ]
    assert ctx.seen(events.ToolFinished)[0][:2] == (ask("add", a=1, b=2), ToolResult("3"))
    assert ctx.seen(events.CompletionFinished)[0][0] == USAGE


async def test_nothing_is_told_and_streamed_when_nobody_watches() -> None:
    ctx = Watched(Streaming(["a", "b"]), observed=False)
    result = await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert result.text == "whole"


async def test_the_loop_waits_for_a_subscriber_that_wants_everything() -> None:
    async with open_agent_pool(Streaming(["a", "b", "c"]), max_concurrent=1) as pool:
        async with pool.events(max_buffer=1, overflow="block") as watched:
            handle = await pool.spawn(SpawnConfig(PLAIN, "hi"))
            await trio.testing.wait_all_tasks_blocked()
            assert handle.outcome is None
            kinds = [type(event) async for event in _until_finished(watched)]
        assert kinds.count(events.TextDeltaReceived) == 3
        assert (await handle.result()).text == "abc"


async def _until_finished(watched: AsyncIterator[Event]) -> AsyncIterator[Event]:
    async for event in watched:
        yield event
        if isinstance(event, events.AgentFinished):
            return


# -- perceive and remember


async def test_memory_is_recalled_and_the_answer_remembered() -> None:
    memory = InMemory()
    await memory.remember("the sky is blue")
    ctx = Watched(ScriptedDriver(["blue, I recall"]), memory=memory)
    result = await run(SpawnConfig(MINDFUL, "what is the colour of the sky?"), ctx)
    assert "- the sky is blue" in result.transcript[1].content
    (kept,) = await memory.recall("recall", source="conversation")
    assert (kept.content, kept.agent_id) == ("blue, I recall", 1)
    assert ctx.seen(events.PhaseChanged)[-1] == ("done", 1)


async def test_without_the_capability_memory_is_left_alone() -> None:
    memory = InMemory()
    await memory.remember("the sky is blue")
    result = await run(SpawnConfig(PLAIN, "the sky?"), Watched(ScriptedDriver(["blue"]), memory=memory))
    assert len(result.transcript) == 2
    assert not await memory.recall("blue", source="conversation")


async def test_the_capability_without_a_memory_is_no_error() -> None:
    assert (await run(SpawnConfig(MINDFUL, "hi"), Watched(ScriptedDriver(["hello"])))).text == "hello"


async def test_messages_are_taken_before_each_model_call() -> None:
    ctx = Watched(None, tools=ToolRegistry([add]), messages=["first"])

    def second(_: CompletionRequest) -> Completion:
        ctx.pool.send_nowait(1, "second")
        ctx.pool.send_nowait(1, "third")
        return calling(ask("add", a=1, b=1))

    ctx.driver = ScriptedDriver([second, "done"])
    result = await run(SpawnConfig(PLAIN, "go"), ctx)
    heard = [m.body for m in result.transcript if isinstance(m, UserMessage) and m.kind == "message"]
    assert heard == ["first", "second", "third"]
    assert ctx.requests[0].messages[-1].body == "first"
    assert ctx.requests[1].messages[-1].body == "third"


# -- what goes wrong in tools


class Fails(Exception):
    pass


@tool
async def fail(how: str) -> str:
    """Fail."""
    raise {
        "plainly": Fails("broken"),
        "as a tool": ToolError("no such file"),
        "silently": ToolError(),
        "in a group": ExceptionGroup("many", [Fails("broken")]),
    }[how]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("plainly", "Fails: broken"),
        ("as a tool", "no such file"),
        ("in a group", "ExceptionGroup: many (1 sub-exception): Fails: broken"),
    ],
)
@pytest.mark.parametrize("side_by_side", [False, True])
async def test_an_error_of_a_tool_is_told_to_the_model(how: str, told: str, side_by_side: bool) -> None:
    calls = [ask("fail", how=how)] + [ask("add", a=1, b=1)] * side_by_side
    results = await tool_results(Watched(None, tools=ToolRegistry([fail, add])), *calls)
    assert results == [ToolResult(told, is_error=True)] + [ToolResult("2")] * side_by_side


class Stop(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (MemoryError(), MemoryError),
        (SystemExit(3), SystemExit),
        (Stop(), Stop),
        (ExceptionGroup("g", [ExceptionGroup("h", [MemoryError()])]), MemoryError),
    ],
    ids=repr,
)
@pytest.mark.parametrize("side_by_side", [False, True])
async def test_a_fatal_error_of_a_tool_is_never_contained(
    error: BaseException, fatal: type[BaseException], side_by_side: bool
) -> None:
    @tool
    async def explode() -> None:
        """Explode."""
        raise error

    calls = [ask("explode")] * (1 + side_by_side)
    ctx = Watched(ScriptedDriver([calling(*calls)]), tools=ToolRegistry([explode]), observed=False)
    with pytest.RaisesGroup(fatal, allow_unwrapped=True, flatten_subgroups=True):
        await run(SpawnConfig(PLAIN, "go"), ctx)


async def test_an_unknown_tool_is_told_with_the_known_ones() -> None:
    (result,) = await tool_results(Watched(None, tools=ToolRegistry([add, sleep])), ask("ad"))
    assert result.is_error
    assert "'ad'" in result.content
    assert "add" in result.content
    assert "sleep" in result.content


async def test_quick_tools_run_in_their_turn() -> None:
    @tool(quick=True)
    def double(n: int) -> int:
        """Double."""
        return 2 * n

    tools = ToolRegistry([double])
    assert await tool_results(Watched(None, tools=tools), ask("double", n=4)) == [ToolResult("8")]


async def test_an_agent_without_tools_is_told_so() -> None:
    (result,) = await tool_results(Watched(None), ask("add", a=1, b=2))
    assert result == ToolResult("there is no tool 'add'; this agent has no tools", is_error=True)


async def test_what_the_manifest_does_not_grant_is_not_shown_and_not_called() -> None:
    @tool(capability=FileReadCapability(()))
    async def read() -> str:
        """Read."""
        raise AssertionError("it was called")

    ctx = Watched(ScriptedDriver([calling(ask("read")), "done"]), tools=ToolRegistry([read, add]))
    result = await run(SpawnConfig(PLAIN, "go"), ctx)
    assert [each.name for each in ctx.requests[0].tools] == ["add"]
    told = result.transcript[2]
    assert isinstance(told, ToolMessage)
    assert told.result.is_error
    assert "does not grant" in told.result.content


async def test_a_pool_bounds_the_calls_in_flight() -> None:
    driver = ScriptedDriver([calling(*[ask("nap")] * 2), "done"])

    @tool
    async def nap() -> None:
        """Nap."""
        await trio.testing.wait_all_tasks_blocked()

    async with open_agent_pool(
        driver,
        max_concurrent=1,
        tool_builder=lambda _: ToolRegistry([nap]),
        limits=PoolLimits(tool_calls=1),
    ) as pool:
        handle = await pool.spawn(SpawnConfig(PLAIN, "go"))
        result = await handle.result()
    told = [message.result for message in result.transcript if isinstance(message, ToolMessage)]
    assert sorted(each.is_error for each in told) == [False, True]
    assert any("tool_calls is at its maximum of 1" in each.content for each in told)

    async def slow(_: CompletionRequest) -> str:
        await trio.testing.wait_all_tasks_blocked()
        return "done"

    async with open_agent_pool(
        ScriptedDriver([slow, slow]), max_concurrent=2, limits=PoolLimits(model_calls=1)
    ) as pool:
        handles = await pool.fan_out([SpawnConfig(PLAIN, "go")] * 2)
        outcomes = [await handle.wait() for handle in handles]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Completed", "Failed"]


# -- time limits


@pytest.mark.parametrize("side_by_side", [False, True])
async def test_a_tool_call_has_a_time_limit(autojump_clock: Any, side_by_side: bool) -> None:
    ctx = Watched(None, tools=ToolRegistry([sleep, add]))
    start = trio.current_time()
    calls = [ask("sleep", seconds=1000)] + [ask("add", a=1, b=1)] * side_by_side
    results = await tool_results(ctx, *calls)
    assert results[0] == ToolResult("sleep did not end within 120 s and was stopped.", is_error=True)
    assert trio.current_time() - start == 120
    finished = [fields for fields in ctx.seen(events.ToolFinished) if fields[0].name == "sleep"]
    assert finished == [(calls[0], results[0], 120)]


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize(("limit", "takes"), [(5.0, 5), (200.0, 150), (math.inf, 150)])
async def test_a_tool_may_have_a_limit_of_its_own(
    autojump_clock: Any, side_by_side: bool, limit: float, takes: float
) -> None:
    @tool(timeout=limit)
    async def work() -> str:
        """Work."""
        await trio.sleep(150)
        return "worked"

    start = trio.current_time()
    results = await tool_results(
        Watched(None, tools=ToolRegistry([work, add])),
        ask("work"),
        *[ask("add", a=1, b=1)] * side_by_side,
    )
    assert results[0].is_error == (limit < 150)
    assert trio.current_time() - start == takes


def answers_after(seconds: float, *, shield: bool = False) -> Callable[[CompletionRequest], Any]:
    async def reply(_: CompletionRequest) -> str:
        with trio.CancelScope(shield=shield):
            await trio.sleep(seconds)
        return "late"

    return reply


async def test_a_model_call_has_a_time_limit(autojump_clock: Any) -> None:
    start = trio.current_time()
    with pytest.raises(DriverUnavailableError, match="did not answer within 600 s"):
        await run(SpawnConfig(PLAIN, "hi"), Watched(ScriptedDriver([answers_after(1000)])))
    assert trio.current_time() - start == 600


@pytest.mark.parametrize("observed", [True, False])
async def test_many_slow_calls_each_have_the_whole_limit(autojump_clock: Any, observed: bool) -> None:
    replies = [
        _then(answers_after(500), calling(ask("sleep", seconds=110))),
        _then(answers_after(500), calling(ask("sleep", seconds=111))),
        answers_after(500),
    ]
    ctx = Watched(ScriptedDriver(replies), tools=ToolRegistry([sleep]), observed=observed)
    assert (await run(SpawnConfig(PLAIN, "hi"), ctx)).text == "late"
    assert trio.current_time() == 1500 + 110 + 111


@pytest.mark.parametrize("first", [0.4, 400])
async def test_a_later_call_has_its_limit_from_its_own_start(autojump_clock: Any, first: float) -> None:
    replies = [_then(answers_after(first), calling(ask("nothing"))), answers_after(1000)]
    start = trio.current_time()
    with pytest.raises(DriverUnavailableError, match="within 600 s"):
        await run(SpawnConfig(PLAIN, "hi"), Watched(ScriptedDriver(replies), observed=False))
    # Within a second: the limit is not moved for less.
    assert 599 <= trio.current_time() - start - first <= 600


def _then(
    wait: Callable[[CompletionRequest], Any], completion: Completion
) -> Callable[[CompletionRequest], Any]:
    async def reply(request: CompletionRequest) -> Completion:
        await wait(request)
        return completion

    return reply


@pytest.mark.parametrize("observed", [True, False])
async def test_an_answer_that_comes_in_spite_of_the_limit_counts(autojump_clock: Any, observed: bool) -> None:
    late = _then(answers_after(601, shield=True), calling(ask("sleep", seconds=1)))
    ctx = Watched(ScriptedDriver([late, "done"]), tools=ToolRegistry([sleep]), observed=observed)
    result = await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert result.transcript[2] == ToolMessage("call of sleep", "sleep", ToolResult("slept 1"))
    assert result.text == "done"


@pytest.mark.parametrize("observed", [True, False])
async def test_a_tool_that_was_too_slow_leaves_the_next_calls_their_time(
    autojump_clock: Any, observed: bool
) -> None:
    replies = [calling(ask("sleep", seconds=500)), calling(ask("sleep", seconds=100)), answers_after(500)]
    ctx = Watched(ScriptedDriver(replies), tools=ToolRegistry([sleep]), observed=observed)
    result = await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert [m.result.is_error for m in result.transcript if isinstance(m, ToolMessage)] == [True, False]
    assert result.text == "late"


# -- drivers


@pytest.mark.parametrize("error", [OverloadedError("busy"), ValueError("a bug"), MemoryError()], ids=repr)
async def test_an_error_of_the_driver_comes_out_as_it_is(error: Exception) -> None:
    replies = [Completion("", (ask("add", a=1, b=1),), usage=USAGE), error]
    ctx = Watched(ScriptedDriver(replies), tools=ToolRegistry([add]))
    with pytest.raises(type(error)) as caught:
        await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert caught.value is error
    assert ctx.usage == USAGE  # what was used until then is known


async def test_a_refusal_is_an_error() -> None:
    ctx = Watched(ScriptedDriver([Completion("no", stop_reason="refusal")]))
    with pytest.raises(ContentRefusedError):
        await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert ctx.seen(events.PhaseChanged)[-1] == ("done", 1)


async def test_the_guard_halts_with_usage_and_transcript() -> None:
    replies = iter(lambda: calling(ask("add", a=1, b=1), usage=USAGE), None)
    ctx = Watched(ScriptedDriver(replies), tools=ToolRegistry([add]))
    with pytest.raises(LoopHaltedError, match="repeats") as caught:
        await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert caught.value.usage == ctx.usage == TokenUsage(60, 30)
    assert len(caught.value.transcript) == 1 + 6 * 2 + 2
    assert len(ctx.seen(events.GuardWarned)) == 2


async def test_without_a_driver_it_says_what_to_pass() -> None:
    with pytest.raises(RequestRejectedError, match=r"agent 'plain' has no model.*open_agent_pool\(driver"):
        await run(SpawnConfig(PLAIN, "hi"), Watched(None))


async def test_a_driver_of_its_own_comes_before_the_pools() -> None:
    config = SpawnConfig(PLAIN, "hi", driver=ScriptedDriver(["mine"]))
    assert (await run(config, Watched(ScriptedDriver(["the pool's"])))).text == "mine"


async def test_a_driver_may_make_one_for_each_agent() -> None:
    class Binding(Driver):
        privacy = PrivacyTier.STANDARD

        def bind(self, manifest: AgentManifest) -> Driver:
            return ScriptedDriver([f"bound to {manifest.name}"])

        async def complete(self, request: CompletionRequest) -> Completion:
            raise AssertionError

    secret = AgentManifest(name="secret", privacy=PrivacyTier.SOVEREIGN)
    assert (await run(SpawnConfig(secret, "hi"), Watched(Binding()))).text == "bound to secret"


async def test_words_never_leave_their_privacy_tier() -> None:
    driver = ScriptedDriver(["hello"])
    driver.privacy = PrivacyTier.STANDARD
    secret = AgentManifest(name="secret", privacy=PrivacyTier.PRIVATE)
    with pytest.raises(RequestRejectedError, match="privacy of agent 'secret' is private"):
        await run(SpawnConfig(secret, "hi"), Watched(driver))
    assert driver.requests == []


async def test_only_complete_has_to_be_there() -> None:
    class Bare:
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.lowlevel.checkpoint()
            return Completion("hello", usage=USAGE)

    result = await run(SpawnConfig(PLAIN, "hi"), Watched(Bare(), budget=Budget(tokens=5000)))  # type: ignore[arg-type]
    assert result.usage == USAGE


async def test_an_answer_that_is_none_is_an_error() -> None:
    class Wrong(Driver):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.lowlevel.checkpoint()
            return "hello"  # type: ignore[return-value]

    with pytest.raises(MalformedReplyError, match="'hello', which is no Completion"):
        await run(SpawnConfig(PLAIN, "hi"), Watched(Wrong()))


# -- streams


class Streaming(Driver):
    def __init__(self, deltas: list[str], *, whole: bool = True) -> None:
        self.deltas, self.whole = deltas, whole

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        return Completion("whole")

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        async def parts() -> AsyncIterator[StreamPart]:
            for text in self.deltas:
                await trio.lowlevel.checkpoint()
                yield TextDelta(text)
            if self.whole:
                yield Completion("".join(self.deltas), usage=USAGE)

        iterator = parts()
        yield iterator
        await iterator.aclose()  # type: ignore[attr-defined]


async def test_deltas_are_told_as_they_arrive() -> None:
    ctx = Watched(Streaming(["a", "b"]))
    result = await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert ctx.seen(events.TextDeltaReceived) == [("a",), ("b",)]
    assert (result.text, result.usage) == ("ab", USAGE)


async def test_a_stream_without_its_end_is_an_error() -> None:
    with pytest.raises(MalformedReplyError, match="without its completion"):
        await run(SpawnConfig(PLAIN, "hi"), Watched(Streaming(["a"], whole=False)))


# -- usage, money, budgets


class Priced(ScriptedDriver):
    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return usage.total_tokens / 1000


class Unpriced(ScriptedDriver):
    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return None


async def test_the_price_is_filled_in_where_the_driver_knows_it() -> None:
    known = TokenUsage(10, 5, cost_usd=7.0)
    replies = [calling(ask("add", a=1, b=1), usage=USAGE), Completion("done", usage=known)]
    ctx = Watched(Priced(replies), tools=ToolRegistry([add]))
    result = await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert result.usage == ctx.usage == TokenUsage(20, 10, cost_usd=7.015)


async def test_a_call_reserves_its_worst_case_and_settles_what_it_used() -> None:
    budget = Budget(tokens=5000, cost_usd=10, calls=5)
    held = []

    def reply(_: CompletionRequest) -> Completion:
        held.append(budget.reserved)
        return Completion("done", usage=USAGE)

    await run(SpawnConfig(PLAIN, "hi"), Watched(Priced([reply]), budget=budget))
    assert held[0].tokens == WORST
    assert held[0].cost_usd == pytest.approx(held[0].tokens / 1000)
    assert (budget.spent.tokens, budget.spent.cost_usd, budget.spent.calls) == (15, 0.015, 1)
    assert budget.reserved.tokens == 0


async def test_a_refused_call_says_what_was_done_so_far() -> None:
    budget = Budget(tokens=4300)
    replies = [calling(ask("add", a=1, b=1), usage=TokenUsage(100, 50))]
    ctx = Watched(ScriptedDriver(replies), tools=ToolRegistry([add]), budget=budget)
    with pytest.raises(BudgetExceededError, match="budget of 4300 tokens") as caught:
        await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert caught.value.usage == TokenUsage(100, 50)
    assert len(caught.value.transcript) == 3
    assert ctx.seen(events.BudgetWarned) == [(str(caught.value),)]
    assert budget.reserved.tokens == 0


async def test_a_call_waits_for_room_that_others_hold(autojump_clock: Any) -> None:
    budget = Budget(tokens=5000)
    driver = ScriptedDriver([answers_after(500)] * 3)
    async with open_agent_pool(driver, max_concurrent=3, budget=budget) as pool:
        outcomes = [await h.wait() for h in await pool.fan_out([SpawnConfig(PLAIN, "hi")] * 3)]
    assert [outcome.unwrap().text for outcome in outcomes] == ["late"] * 3
    assert trio.current_time() == 1500  # the wait for room is no part of a call's time limit
    assert budget.reserved.tokens == 0


async def test_an_unknown_price_is_refused_under_a_budget_of_money_only() -> None:
    with pytest.raises(PriceUnknownError):
        await run(SpawnConfig(PLAIN, "hi"), Watched(Unpriced(["x"]), budget=Budget(cost_usd=1)))
    ctx = Watched(Unpriced([Completion("x", usage=USAGE)]), budget=Budget(tokens=9999))
    assert (await run(SpawnConfig(PLAIN, "hi"), ctx)).usage == USAGE


WORST = 4096 + 16 + 8 + 2  # of a call of PLAIN with "hi"


async def test_a_call_that_was_refused_costs_nothing() -> None:
    budget = Budget(tokens=5000, calls=1)
    with pytest.raises(OverloadedError):
        await run(SpawnConfig(PLAIN, "hi"), Watched(ScriptedDriver([OverloadedError()]), budget=budget))
    assert (budget.spent.tokens, budget.spent.calls, budget.reserved.calls) == (0, 0, 0)


@pytest.mark.parametrize(
    ("error", "cost"),
    [
        (DriverUnavailableError("no connection"), 0),
        (DriverUnavailableError("silence", may_have_cost=True), WORST),
        (MalformedReplyError("cut"), WORST),
        (ValueError("a bug of the driver"), WORST),
    ],
)
async def test_what_a_failed_call_may_have_cost_is_booked(error: Exception, cost: int) -> None:
    budget = Budget(tokens=5000)
    with pytest.raises(type(error)):
        await run(SpawnConfig(PLAIN, "hi"), Watched(ScriptedDriver([error]), budget=budget))
    assert (budget.spent.tokens, budget.reserved.tokens) == (cost, 0)


async def test_what_a_cancelled_call_may_have_cost_is_booked(autojump_clock: Any) -> None:
    budget = Budget(tokens=9000)
    with trio.move_on_after(5) as scope:
        await run(SpawnConfig(PLAIN, "hi"), Watched(ScriptedDriver([answers_after(50)]), budget=budget))
    assert scope.cancelled_caught
    assert (budget.spent.tokens, budget.spent.calls, budget.reserved.tokens) == (WORST, 1, 0)
    with pytest.raises(DriverUnavailableError, match="within 600 s"):
        await run(SpawnConfig(PLAIN, "hi"), Watched(ScriptedDriver([answers_after(999)]), budget=budget))
    assert (budget.spent.tokens, budget.spent.calls, budget.reserved.tokens) == (2 * WORST, 2, 0)


async def test_an_answer_is_counted_though_its_stream_is_cancelled_at_the_end() -> None:
    class EndsLate(Streaming):
        @asynccontextmanager
        async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
            async with Streaming.stream(self, request) as parts:
                yield parts
                ctx.pool.abort_all("now")
                await trio.lowlevel.checkpoint()

    budget = Budget(tokens=5000)
    ctx = Watched(EndsLate(["a"]), budget=budget)
    with pytest.raises(AssertionError):  # it was aborted
        await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert isinstance(ctx.outcome, Aborted)
    assert ctx.outcome.usage == ctx.usage == USAGE
    assert (budget.spent.tokens, budget.reserved.tokens) == (15, 0)


async def test_an_answer_that_counts_no_tokens_is_not_free() -> None:
    class Uncounted(ScriptedDriver):
        metered = True

    for kind, spent in ((Uncounted, WORST), (ScriptedDriver, 0)):
        driver = kind(["x"] * 3)
        for around in (driver, RetryingDriver(driver), RoutingDriver(driver)):
            budget = Budget(tokens=5000)
            await run(SpawnConfig(PLAIN, "hi"), Watched(around, budget=budget))
            assert (budget.spent.tokens, budget.spent.calls, budget.reserved.tokens) == (spent, 1, 0)


async def test_a_quota_of_tokens_is_kept_to() -> None:
    quota = AgentManifest(
        name="q", resources=ResourceQuota(max_tokens_budget=300), model=ModelSettings(max_tokens=200)
    )
    asked: list[int] = []

    def reply(request: CompletionRequest) -> Completion:
        asked.append(request.max_tokens)
        n = len(asked)
        return calling(ask("add", a=n, b=n), usage=TokenUsage(40, request.max_tokens))

    ctx = Watched(ScriptedDriver(iter(lambda: reply, None)), tools=ToolRegistry([add]))
    with pytest.raises(LoopHaltedError, match="max_tokens_budget"):
        await run(SpawnConfig(quota, "hi"), ctx)
    assert ctx.usage.total_tokens <= 300


# -- cancellation


@pytest.mark.parametrize("calls", [1, 2])
async def test_a_cancelled_run_ends_at_once(autojump_clock: Any, calls: int) -> None:
    replies = [calling(*[ask("sleep", seconds=100)] * calls, usage=USAGE), "never"]
    ctx = Watched(ScriptedDriver(replies), tools=ToolRegistry([sleep]))
    with trio.move_on_after(5) as scope:
        await run(SpawnConfig(PLAIN, "hi"), ctx)
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert ctx.usage == USAGE


# -- typed answers


@attrs.frozen
class Point:
    x: int
    y: int = attrs.field(default=0, validator=attrs.validators.ge(0))


@attrs.define
class Path:
    _name: str
    points: list[Point]
    best: Point | None = None
    tags: dict[str, Point] = attrs.Factory(dict)
    length: int = attrs.field(init=False, default=0)


@dataclasses.dataclass
class Pair:
    left: str
    right: int


@pytest.mark.parametrize(
    ("output_type", "text", "value"),
    [
        (Point, '{"x": 1, "y": 2}', Point(1, 2)),
        (Point, '```json\n{"x": 1}\n```', Point(1)),
        (Path, '{"name": "p", "points": [{"x": 1}]}', Path("p", [Point(1)])),
        (
            Path,
            '{"name": "p", "points": [], "best": {"x": 3}, "tags": {"a": {"x": 4}}}',
            Path("p", [], Point(3), {"a": Point(4)}),
        ),
        (Pair, '{"left": "a", "right": 1}', Pair("a", 1)),
        (Annotated[Point, "a remark"], '{"x": 1}', Point(1)),
        (Annotated[int, []], "1", 1),  # cannot be hashed
        (list[int], "[1, 2]", [1, 2]),
        (tuple[Point, int], '[{"x": 1}, 2]', (Point(1), 2)),
        (int, " 42 ", 42),
        (str, '"as it is"', '"as it is"'),
        (None, "text", "text"),
    ],
)
async def test_an_answer_becomes_a_value_of_its_type(output_type: Any, text: str, value: object) -> None:
    ctx = Watched(ScriptedDriver([text]))
    result = await run(SpawnConfig(PLAIN, "go", output_type=output_type), ctx)
    assert result.output == value
    assert type(result.output) is type(value)
    assert result.text == text


async def test_pydantic_models_work_too() -> None:
    import pydantic

    class City(pydantic.BaseModel):
        name: str
        size: int = pydantic.Field(gt=0)

    replies = ['{"name": 1, "size": 0}', '{"name": "Ulm", "size": 3}']
    ctx = Watched(ScriptedDriver(replies))
    result = await run(SpawnConfig(PLAIN, "go", output_type=City), ctx)
    assert result.output == City(name="Ulm", size=3)
    assert '"exclusiveMinimum": 0' in ctx.requests[0].system
    told = ctx.requests[1].messages[-1].body
    assert "- name: " in told
    assert "- size: " in told


async def test_all_problems_of_an_answer_go_back_to_the_model() -> None:
    replies = [
        '{"points": [{"x": "no"}, {"x": 1, "y": -1, "z": 2}, {}]}',
        "no json",
        '{"name": "p", "points": []}',
    ]
    ctx = Watched(ScriptedDriver(replies))
    result = await run(SpawnConfig(PLAIN, "go", output_type=Path), ctx)
    assert result.output == Path("p", [])
    told = ctx.requests[1].messages[-1].body
    for where in ["name: ", "points.0.x: ", "points.1.z: ", "points.2.x: "]:
        assert f"- {where}" in told
    told = ctx.requests[2].messages[-1].body
    assert "Invalid JSON" in told


async def test_what_a_class_itself_refuses_goes_back_to_the_model() -> None:
    ctx = Watched(ScriptedDriver(['{"x": 1, "y": -1}', '{"x": 1, "y": 1}']))
    assert (await run(SpawnConfig(PLAIN, "go", output_type=Point), ctx)).output == Point(1, 1)
    assert "'y' must be >= 0" in ctx.requests[1].messages[-1].body


@attrs.frozen
class Counted:
    size: int = attrs.field(converter=lambda value: len(value))


async def test_a_converter_that_fails_is_a_problem_too() -> None:
    ctx = Watched(ScriptedDriver(['{"size": 1}', "[]", "{}"]))
    with pytest.raises(MalformedReplyError):
        await run(SpawnConfig(PLAIN, "go", output_type=Counted), ctx)
    assert "has no len()" in ctx.requests[1].messages[-1].body


@pytest.mark.parametrize("retries", [0, 1])
async def test_too_many_wrong_answers_are_an_error(retries: int) -> None:
    ctx = Watched(ScriptedDriver(["one"] * 5))
    config = SpawnConfig(PLAIN, "go", output_type=int, output_retries=retries)
    with pytest.raises(MalformedReplyError, match="does not fit its output type"):
        await run(config, ctx)
    assert len(ctx.requests) == 1 + retries


async def test_a_type_that_cannot_be_read_is_told_at_once() -> None:
    class Odd:
        pass

    ctx = Watched(ScriptedDriver(["x"]))
    with pytest.raises(TypeError, match=r"Odd.* cannot be read from JSON"):
        await run(SpawnConfig(PLAIN, "go", output_type=Odd), ctx)
    assert ctx.requests == []


# -- what it is made of


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"manifest": "plain"}, TypeError),
        ({"query": 5}, TypeError),
        ({"output_retries": -1}, ValueError),
        ({"output_retries": 1.5}, TypeError),
    ],
)
def test_wrong_arguments_are_errors(kwargs: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        SpawnConfig(**{"manifest": PLAIN, "query": "hi", **kwargs})


async def test_any_agent_can_run_the_loop_itself() -> None:
    async def agent(ctx: AgentContext) -> str:
        return (await SpawnConfig(PLAIN, "go")(ctx)).text + "!"

    driver = ScriptedDriver([calling(ask("add", a=1, b=2)), "done"])
    async with open_agent_pool(driver, max_concurrent=1) as pool:
        assert await (await pool.spawn(agent)).result() == "done!"
    told = driver.requests[1].messages[-1]
    assert isinstance(told, ToolMessage)
    assert told.result == ToolResult("there is no tool 'add'; this agent has no tools", is_error=True)


@pytest.mark.parametrize("tools", [(), (add,)], ids=["no tools", "a tool"])
async def test_a_run_leaves_nothing_to_the_garbage_collector(tools: tuple[Any, ...]) -> None:
    """A circle keeps a whole transcript until the collector comes, which may be long."""
    replies = [calling(ToolCall("1", "add", {"a": 1, "b": 2})), "done"] if tools else ["done"]

    async def once() -> None:
        seen = Watched(ScriptedDriver(replies), observed=False)
        await run(SpawnConfig(PLAIN, "q", tools=tools), seen)

    await once()  # what is imported and built once
    gc.collect()
    debug = gc.get_debug()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await once()
        gc.collect()
        kept = [each for each in gc.garbage if type(each).__module__.startswith("agentpool._loop")]
        assert kept == []
    finally:
        gc.set_debug(debug)
        gc.garbage.clear()
