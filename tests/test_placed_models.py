"""Model agents, and plain agents with a driver and a memory, in workers: everything as in place."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pydantic
import pytest
import trio
import trio.testing
from cast_kit import Cast, call, manifest, scripted
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    Budget,
    BudgetExceededError,
    Completed,
    Completion,
    CompletionRequest,
    Decision,
    Driver,
    Failed,
    InMemory,
    ModelAgent,
    PoolLimitError,
    PoolLimits,
    RequestRejectedError,
    ResourceQuota,
    SpawnCapability,
    SpawnConfig,
    TextDelta,
    TokenUsage,
    UserMessage,
    handoff_to,
    open_agent_pool,
    placed,
)
from agentpool._core.capability import PrivacyTier
from agentpool._core.events import ApprovalDecided, ApprovalRequested, ModelCallFinished, ModelCallStarted
from agentpool.testing import InProcessPlacement


class Priced(Cast):
    """A cast whose tokens cost a millionth of a dollar each."""

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return usage.total_tokens / 1_000_000


async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def slow(seconds: float) -> str:
    """Take some time."""
    await trio.sleep(seconds)
    return "done"


@attrs.frozen
class Seen:
    """What is seen of one run from outside."""

    outcome: Any
    events: list[Any]
    statistics: Any
    driver: Any


def without_times(outcome: Any) -> Any:
    fields = {"started_at": 0.0, "duration": 0.0}
    if isinstance(outcome, Failed):
        error = outcome.error
        told = {name: value for name, value in vars(error).items() if name != "__notes__"}
        return attrs.evolve(outcome, **fields, error=(type(error), str(error), told))  # type: ignore[arg-type]
    return attrs.evolve(outcome, **fields)


_LEFT_OUT = ("seq", "time", "started", "duration", "seconds", "first_part", "outcome")


def told(event: Any) -> Any:
    names = [field.name for field in attrs.fields(type(event)) if field.name not in _LEFT_OUT]
    return type(event).__name__, [(name, repr(getattr(event, name))) for name in names]


async def seen(
    make_driver: Callable[[], Any],
    agent: Any,
    *args: Any,
    is_placed: bool,
    is_watched: bool = True,
    loss: float = 0.0,
    **options: Any,
) -> Seen:
    driver = make_driver()
    events: list[Any] = []
    placement = InProcessPlacement(2, loss=loss, seed=1) if is_placed else None
    options = {name: value() if callable(value) else value for name, value in options.items()}
    options.setdefault("max_concurrent", 4)
    async with pool_of(driver=driver, placement=placement, **options) as pool:

        async def watch(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            async with pool.events(max_buffer=100_000) as stream:
                task_status.started()
                async for event in stream:
                    events.append(event)

        async with trio.open_nursery() as nursery:
            if is_watched:
                await nursery.start(watch)
            handle = await pool.spawn(placed(agent) if is_placed else agent, *args)
            outcome = await handle.wait()
            statistics = pool.statistics()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    return Seen(without_times(outcome), events, statistics, driver)


async def both(make_driver: Callable[[], Any], agent: Any, *args: Any, **options: Any) -> Seen:
    """Run an agent in place and in a worker, check that none can tell them apart, and return the latter."""
    here = await seen(make_driver, agent, *args, is_placed=False, **options)
    there = await seen(make_driver, agent, *args, is_placed=True, **options)
    assert there.outcome == here.outcome
    assert there.statistics.usage == here.statistics.usage
    assert there.statistics.budget == here.statistics.budget
    # The head tells of these, the worker of the rest: the order between the two may differ.
    of_calls = (ModelCallStarted, ModelCallFinished, ApprovalRequested, ApprovalDecided)
    for is_one_of in (lambda each: isinstance(each, of_calls), lambda each: not isinstance(each, of_calls)):
        assert [told(each) for each in there.events if is_one_of(each)] == [
            told(each) for each in here.events if is_one_of(each)
        ]
    return there


ADDING = (call("add", a=1, b=2), "three")


async def test_a_model_agent_with_a_tool(autojump_clock: trio.testing.MockClock) -> None:
    run = await both(
        lambda: Cast(adder=scripted(*ADDING)),
        ModelAgent(manifest("adder"), tools=[add]),
        "1 + 2?",
        budget=lambda: Budget(tokens=100_000),
    )
    assert run.outcome.value.text == "three"
    assert run.outcome.usage == TokenUsage(20, 10)


class Answer(pydantic.BaseModel):
    number: int


async def test_a_typed_answer_and_one_that_does_not_fit(autojump_clock: trio.testing.MockClock) -> None:
    run = await both(
        lambda: Cast(typed=scripted('{"number": "x"}', '{"number": 3}')),
        SpawnConfig(manifest("typed"), "which?", output_type=Answer),
    )
    assert run.outcome.value.output == Answer(number=3)


class Streaming(Cast):
    """A cast that says its words one by one."""

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[Any]:
        completion = await self.complete(request)

        async def parts() -> AsyncIterator[Any]:
            for word in completion.text.split():
                await trio.sleep(0.1)
                yield TextDelta(word)
            yield completion

        iterator = parts()
        try:
            yield iterator
        finally:
            await iterator.aclose()  # type: ignore[attr-defined]


async def test_an_answer_is_streamed_if_somebody_watches(autojump_clock: trio.testing.MockClock) -> None:
    run = await both(
        lambda: Streaming(talker=scripted("one two three")), ModelAgent(manifest("talker")), "talk"
    )
    texts = [event.text for event in run.events if type(event).__name__ == "TextDeltaReceived"]
    assert texts == ["one", "two", "three"]


LIMITED = {"resources": ResourceQuota(max_tokens_budget=5_000)}


async def test_quotas_hold_over_a_handover_and_are_counted_at_the_head(
    autojump_clock: trio.testing.MockClock,
) -> None:
    billing = ModelAgent(manifest("billing", **LIMITED), tools=[add])
    run = await both(
        lambda: Cast(
            triage=scripted(call("hand_off", agent="billing", note="sums")),
            billing=lambda turn: call("add", a=3, b=4) if len(turn.results) == 1 else "seven",
        ),
        ModelAgent(manifest("triage", **LIMITED), tools=[handoff_to(billing)]),
        "3 + 4?",
        budget=lambda: Budget(tokens=100_000, calls=10),
    )
    assert run.outcome.value.handed_over == ("billing",)
    assert run.statistics.budget.spent.tokens == 45


@pytest.mark.parametrize("tokens", [100, 3_000, 4_150, 8_200, 8_300])
@pytest.mark.parametrize("cost", [None, 0.0045])
async def test_an_agent_stops_at_the_same_call_of_its_budget(
    tokens: int, cost: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    await both(
        lambda: Priced(adder=scripted(*[call("add", a=n, b=n) for n in range(8)], "done")),
        ModelAgent(
            manifest("adder", resources=ResourceQuota(max_tokens_budget=tokens, max_cost_usd=cost)),
            tools=[add],
        ),
        "go",
        budget=lambda: Budget(tokens=100_000, cost_usd=1.0),
    )


async def test_who_lands_at_a_limit_lands_there_too(autojump_clock: trio.testing.MockClock) -> None:
    quota = ResourceQuota(max_cost_usd=0.009, on_limit="answer")
    run = await both(
        lambda: Priced(adder=lambda turn: call("add", a=turn.number, b=1) if turn.tools else "enough"),
        ModelAgent(manifest("adder", resources=quota), tools=[add]),
        "go",
    )
    assert run.outcome.value.stopped_by is not None


async def test_errors_of_the_driver_come_as_they_are(autojump_clock: trio.testing.MockClock) -> None:
    run = await both(
        lambda: Cast(rude=scripted(RequestRejectedError("no"))), ModelAgent(manifest("rude")), "hello"
    )
    assert run.outcome.error[:2] == (RequestRejectedError, "no")


async def test_without_a_driver_and_with_one_that_is_not_private_enough(
    autojump_clock: trio.testing.MockClock,
) -> None:
    run = await both(lambda: None, ModelAgent(manifest("nobody")), "hello")
    assert "has no model to ask" in run.outcome.error[1]
    secret = ModelAgent(manifest("secret", privacy=PrivacyTier.SOVEREIGN))
    run = await both(lambda: Cast(secret=scripted("x")), secret, "hello")
    assert "its driver is told" in run.outcome.error[1]


async def test_a_driver_of_an_agents_own_stays_at_the_head(autojump_clock: trio.testing.MockClock) -> None:
    asked: list[str] = []

    class Own(Cast):
        async def complete(self, request: CompletionRequest) -> Completion:
            asked.append(request.system)
            return await super().complete(request)

    own = Own(
        lead=lambda turn: (
            "fine"
            if turn.query == "help"
            else turn.results[-1]
            if turn.results
            else call("spawn_agent", query="help")
        )
    )
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pickle.dumps(own)
    lead = ModelAgent(manifest("lead", SpawnCapability()), driver=own)
    run = await seen(lambda: Cast(), lead, "go", is_placed=True)
    assert isinstance(run.outcome, Completed), run.outcome
    assert asked == ["lead"] * 3  # its child, of its own kind, asks the same


async def test_children_that_a_model_spawns_answer(autojump_clock: trio.testing.MockClock) -> None:
    team = [ModelAgent(manifest("writer")), ModelAgent(manifest("critic"))]
    run = await both(
        lambda: Cast(
            lead=scripted(call("spawn_agent", agent="writer", query="a poem"), lambda turn: turn.results[-1]),
            writer=scripted("roses"),
        ),
        ModelAgent(manifest("lead", SpawnCapability()), agents=team),
        "go",
        budget=lambda: Budget(tokens=100_000),
    )
    assert "roses" in run.outcome.value.text


# -- plain agents ---------------------------------------------------------------------------------------


ASKED = CompletionRequest(system="plain", messages=(UserMessage("hi"),), max_tokens=100)


async def asking(ctx: AgentContext) -> Any:
    assert ctx.driver is not None
    assert ctx.budget is not None
    completion = await ctx.driver.complete(ASKED)
    parts = []
    async with ctx.driver.stream(ASKED) as stream:
        async for part in stream:
            parts.append(part)
    ctx.add_usage(TokenUsage(1, 1))
    return (
        completion,
        parts,
        ctx.usage,
        ctx.budget.spent,
        ctx.budget.remaining,
        ctx.budget.statistics(),
        ctx.driver.context_window,
        ctx.driver.privacy,
        ctx.driver.estimate_cost(TokenUsage(1_000, 1)),
        ctx.budget.nearly_used(),
    )


async def test_a_plain_agent_asks_the_driver(autojump_clock: trio.testing.MockClock) -> None:
    run = await both(
        lambda: Priced(plain=scripted("yes")), asking, budget=lambda: Budget(tokens=1_000, cost_usd=1.0)
    )
    assert run.outcome.usage.total_tokens == 32
    assert run.outcome.value[3].tokens == 30


async def overspending(ctx: AgentContext) -> Any:
    assert ctx.driver is not None
    try:
        await ctx.driver.complete(attrs.evolve(ASKED, max_tokens=10_000))
    except BudgetExceededError as error:
        return error.usage, error.transcript, str(error)


async def test_a_refused_call_of_a_plain_agent_tells_what_it_was_about(
    autojump_clock: trio.testing.MockClock,
) -> None:
    run = await both(lambda: Cast(plain=scripted("x")), overspending, budget=lambda: Budget(tokens=1_000))
    assert run.outcome.value[1] == ASKED.messages


async def running_loops(ctx: AgentContext) -> Any:
    agent = ModelAgent(manifest("inner", **LIMITED), tools=[add])
    first = await agent(ctx, "1 + 2?")
    second = await agent(ctx, "again?")
    return first.text, second.text, ctx.usage


@pytest.mark.parametrize("budget", [None, Budget])
async def test_loops_that_plain_code_runs_have_quotas_of_their_own(
    budget: Any, autojump_clock: trio.testing.MockClock
) -> None:
    run = await both(lambda: Cast(inner=scripted(*ADDING)), running_loops, budget=budget)
    assert run.outcome.value[0] == "three"


async def remembering(ctx: AgentContext) -> Any:
    memory: Any = ctx.memory
    first = await memory.remember("trio is structured", source="tool", agent_id=ctx.id, origin="a book")
    await memory.namespace("mine").remember("asyncio is not", trust=0.25)
    await memory.set("key", {"a": 1})
    await memory.namespace("mine").set("key", 2)
    nothing = object()
    found = await memory.recall("trio structured", limit=3)
    mine = await memory.namespace("mine").recall("asyncio", min_trust=0.2)
    return (
        [(each.content, each.source, each.origin, each.agent_id) for each in found],
        [(each.content, each.trust, each.namespace) for each in mine],
        await memory.get("key"),
        await memory.namespace("mine").get("key"),
        await memory.get("absent", nothing) is nothing,
        await memory.forget(first),
        await memory.forget(first),
        memory.namespace("").__class__ is memory.__class__,
    )


async def test_the_memory_of_the_pool(autojump_clock: trio.testing.MockClock) -> None:
    run = await both(lambda: None, remembering, memory=InMemory)
    assert run.outcome.value[1] == [("asyncio is not", 0.25, "mine")]


class Plain:
    """A memory of the plain kind."""

    def __init__(self) -> None:
        self.inner = InMemory()

    async def remember(self, content: str, *, source: str = "user", agent_id: int = 0) -> int:
        return await self.inner.remember(content, source=source, agent_id=agent_id)

    async def recall(self, query: str, **how: Any) -> Any:
        assert set(how) <= {"limit", "source", "agent_id", "since"}
        return await self.inner.recall(query, **how)

    async def set(self, key: str, value: Any) -> None:
        await self.inner.set(key, value)

    async def get(self, key: str, default: Any = None) -> Any:
        return await self.inner.get(key, default)

    async def forget(self, fragment_id: int) -> bool:
        return await self.inner.forget(fragment_id)


async def remembering_plainly(ctx: AgentContext) -> Any:
    assert ctx.memory is not None
    await ctx.memory.remember("trio is structured")
    return [each.content for each in await ctx.memory.recall("trio")], hasattr(ctx.memory, "namespace")


async def test_a_plain_memory_stays_plain(autojump_clock: trio.testing.MockClock) -> None:
    run = await both(lambda: None, remembering_plainly, memory=Plain)
    assert run.outcome.value == (["trio is structured"], False)


# -- a stream that is left ----------------------------------------------------------------------------------


closed: list[str] = []


class Endless(Driver):
    """Streams words without end, and notes when it is left."""

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep_forever()
        raise AssertionError

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[Any]:
        async def parts() -> AsyncIterator[Any]:
            while True:
                await trio.sleep(0.1)
                yield TextDelta("word")

        iterator = parts()
        try:
            yield iterator
        finally:
            closed.append("left")
            await iterator.aclose()  # type: ignore[attr-defined]


async def leaving(ctx: AgentContext) -> Any:
    assert ctx.driver is not None
    words = []
    async with ctx.driver.stream(ASKED) as parts:
        async for part in parts:
            words.append(part)
            if len(words) == 3:
                break
    was_closed = list(closed)
    with trio.move_on_after(1) as limit:
        await ctx.driver.complete(ASKED)
    return words, was_closed, limit.cancelled_caught


@pytest.mark.parametrize("is_placed", [False, True])
async def test_leaving_a_stream_closes_it_at_the_head_and_books_the_worst_case(
    is_placed: bool, autojump_clock: trio.testing.MockClock
) -> None:
    closed.clear()
    run = await seen(Endless, leaving, is_placed=is_placed, budget=Budget(tokens=1_000, calls=5))
    words, was_closed, was_cancelled = run.outcome.value
    assert (len(words), was_closed, was_cancelled) == (3, ["left"], True)
    assert run.statistics.budget.reserved.tokens == 0
    assert run.statistics.budget.spent.calls == 2
    assert run.statistics.budget.spent.tokens > 200


# -- limits, approval ------------------------------------------------------------------------------------


async def test_tool_calls_in_flight_count_over_all_workers(autojump_clock: trio.testing.MockClock) -> None:
    wait = ModelAgent(manifest("waiter"), tools=[slow])
    driver = Cast(waiter=scripted(call("slow", seconds=5), lambda turn: turn.results[-1]))
    async with pool_of(
        4, driver=driver, placement=InProcessPlacement(2), limits=PoolLimits(tool_calls=1)
    ) as pool:
        texts = [outcome.unwrap().text for outcome in await pool.map(placed(wait), ["a", "b"])]
        assert sorted(text == "done" for text in texts) == [False, True]
        assert any("tool_calls" in text for text in texts)
        again = await (await pool.spawn(placed(wait), "c")).result()
        assert again.text == "done"


async def test_model_calls_in_flight_count_over_all_workers(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Cast):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.sleep(1)
            return await super().complete(request)

    driver = Slow(one=scripted("fine"))
    async with pool_of(
        4, driver=driver, placement=InProcessPlacement(2), limits=PoolLimits(model_calls=1)
    ) as pool:
        outcomes = await pool.map(placed(ModelAgent(manifest("one"))), ["a", "b"])
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Completed", "Failed"]
        (failed,) = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        assert isinstance(failed.error, PoolLimitError)


@pytest.mark.parametrize("is_placed", [False, True])
async def test_a_person_is_asked_at_the_head_and_the_idle_limit_waits(
    is_placed: bool, autojump_clock: trio.testing.MockClock
) -> None:
    asked = []

    async def person(request: ApprovalRequest) -> Decision:
        asked.append(request.call.input)
        await trio.sleep(30)  # longer than the agent may be idle
        return Approved()

    careful = manifest("adder", approval=ApprovalRules(ask=("add",)), resources=ResourceQuota(idle=20.0))
    driver = Cast(adder=scripted(call("add", a=1, b=2), call("add", a=2, b=2), "done"))
    placement = InProcessPlacement(1) if is_placed else None
    async with open_agent_pool(driver, max_concurrent=1, approver=person, placement=placement) as pool:
        async with pool.events() as events:
            handle = await pool.spawn(placed(ModelAgent(careful, tools=[add])), "go")
            outcome = await handle.wait()
        told = [event async for event in events if isinstance(event, ApprovalRequested | ApprovalDecided)]
    assert outcome.unwrap().text == "done"
    assert outcome.duration == 60
    assert asked == [{"a": 1, "b": 2}, {"a": 2, "b": 2}]
    assert [type(event) for event in told] == 2 * [ApprovalRequested, ApprovalDecided]
