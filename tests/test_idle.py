"""`idle` bounds the time without any sign of life of a model agent; each sign moves one deadline on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    AgentManifest,
    AgentResult,
    Budget,
    Completed,
    Completion,
    CompletionRequest,
    Driver,
    Failed,
    LoopHaltedError,
    ModelAgent,
    ModelSettings,
    ResourceQuota,
    ScriptedDriver,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    tool,
)
from agentpool._core.messages import ReasoningDelta, TextDelta, ToolMessage
from agentpool.abc import StreamPart

USAGE = TokenUsage(10, 5)


def idle(seconds: float, **quota: Any) -> AgentManifest:
    return AgentManifest(name="a", resources=ResourceQuota(idle=seconds, **quota))


def calls(*names: str) -> Completion:
    return Completion("", [ToolCall(str(n), name) for n, name in enumerate(names)], usage=USAGE)


class Slow(Driver):
    """Streams parts, each after so many seconds; the last one is its answer."""

    def __init__(self, *answers: Sequence[tuple[float, StreamPart]]) -> None:
        self.answers = list(answers)
        self.requests: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        raise AssertionError("with idle it is streamed")

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        self.requests.append(request)
        answer = self.answers.pop(0)

        async def parts() -> AsyncIterator[StreamPart]:
            for seconds, part in answer:
                await trio.sleep(seconds)
                yield part

        yield parts()


async def outcome_of(driver: Driver, manifest: AgentManifest, tools: Sequence[Any] = ()) -> tuple[Any, float]:
    """Run an agent; return its outcome, and how long it took."""
    started = trio.current_time()
    async with pool_of(1, driver=driver) as pool:
        handle = await pool.spawn(SpawnConfig(manifest, "go", tools=tools))
        outcome = await handle.wait()
    return outcome, trio.current_time() - started


def halted(outcome: Any) -> LoopHaltedError:
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, LoopHaltedError)
    assert outcome.error.limit == "idle"
    return outcome.error


async def test_a_model_that_says_nothing_is_given_up(autojump_clock: Any) -> None:
    driver = Slow([(31, Completion("late", usage=USAGE))])
    outcome, seconds = await outcome_of(driver, idle(30))
    error = halted(outcome)
    assert seconds == 30
    assert "nothing was heard of the model for 30 s" in error.reason
    assert len(error.transcript) == 1


async def test_each_piece_of_an_answer_begins_the_time_anew(autojump_clock: Any) -> None:
    pieces: list[tuple[float, StreamPart]] = [
        (29, ReasoningDelta("hm")),
        (29, ReasoningDelta("so")),
        (29, TextDelta("do")),
        (29, TextDelta("ne")),
        (29, Completion("done", usage=USAGE)),
    ]
    outcome, seconds = await outcome_of(Slow(pieces), idle(30))
    assert outcome.unwrap().text == "done"
    assert seconds == 5 * 29


async def test_a_driver_without_a_stream_is_bounded_as_a_whole(autojump_clock: Any) -> None:
    async def late(request: CompletionRequest) -> str:
        await trio.sleep(31)
        return "late"

    outcome, seconds = await outcome_of(ScriptedDriver([late]), idle(30))
    halted(outcome)
    assert seconds == 30


@tool
async def wait(seconds: float) -> str:
    """Wait."""
    await trio.sleep(seconds)
    return "waited"


def waits(*seconds: float) -> Completion:
    return Completion(
        "", [ToolCall(str(n), "wait", {"seconds": s}) for n, s in enumerate(seconds)], usage=USAGE
    )


async def test_tools_that_do_nothing_are_stopped(autojump_clock: Any) -> None:
    outcome, seconds = await outcome_of(ScriptedDriver([waits(31), "done"]), idle(30), [wait])
    assert seconds == 30
    error = halted(outcome)
    assert "nothing was heard of the tools for 30 s" in error.reason
    (result,) = [message for message in error.transcript if isinstance(message, ToolMessage)]
    assert result.result.is_error


async def test_each_call_that_ends_begins_the_time_anew(autojump_clock: Any) -> None:
    outcome, seconds = await outcome_of(ScriptedDriver([waits(20, 40, 60), "done"]), idle(30), [wait])
    assert outcome.unwrap().text == "done"
    assert seconds == 60
    outcome, seconds = await outcome_of(ScriptedDriver([waits(20, 60)]), idle(30), [wait])
    assert seconds == 50
    first, second = [message for message in halted(outcome).transcript if isinstance(message, ToolMessage)]
    assert first.result.text == "waited"
    assert "nothing was heard for 30 s" in second.result.text


async def test_turns_that_follow_each_other_are_signs_of_life(autojump_clock: Any) -> None:
    driver = ScriptedDriver([waits(29), waits(29), waits(29), "done"])
    outcome, seconds = await outcome_of(driver, idle(30), [wait])
    assert outcome.unwrap().text == "done"
    assert seconds == 87


async def test_it_lands_when_nothing_was_heard(autojump_clock: Any) -> None:
    driver = ScriptedDriver([waits(31), "not much"])
    outcome, seconds = await outcome_of(driver, idle(30, on_limit="answer"), [wait])
    result = outcome.unwrap()
    assert (result.text, result.stopped_by) == ("not much", "idle")
    assert seconds == 30
    late = Slow([(31, Completion("late"))], [(29, Completion("in time", usage=USAGE))])
    outcome, seconds = await outcome_of(late, idle(30, on_limit="answer"))
    assert outcome.unwrap().text == "in time"
    assert seconds == 59
    never = Slow([(31, Completion("late"))], [(31, Completion("late again"))])
    outcome, seconds = await outcome_of(never, idle(30, on_limit="answer"))
    assert "its last answer did not come" in halted(outcome).reason
    assert seconds == 60


async def test_a_call_that_was_given_up_counts_with_its_worst_case(autojump_clock: Any) -> None:
    model = ModelSettings(max_tokens=100)
    manifest = attrs.evolve(idle(30, on_limit="answer", max_tokens_budget=2000), model=model)
    driver = Slow([(31, Completion("late"))], [(1, Completion("done", usage=USAGE))])
    budget = Budget(tokens=10_000)
    async with pool_of(1, driver=driver, budget=budget) as pool:
        handle = await pool.spawn(SpawnConfig(manifest, "go"))
        assert (await handle.result()).stopped_by == "idle"
    assert 100 < budget.spent.tokens - USAGE.total_tokens < 150


async def test_without_idle_nobody_is_hurried(autojump_clock: Any) -> None:
    outcome, seconds = await outcome_of(ScriptedDriver([waits(119), "done"]), AgentManifest(name="a"), [wait])
    assert isinstance(outcome, Completed)
    assert seconds == 119


async def test_a_timeout_bounds_the_whole(autojump_clock: Any) -> None:
    driver = ScriptedDriver([waits(29), waits(29), "done"])
    async with pool_of(1, driver=driver) as pool:
        handle = await pool.spawn(SpawnConfig(idle(30), "go", tools=[wait]), timeout=50)
        outcome = await handle.wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TimeoutError)


# -- messages, and waiting for others


@tool
async def listen(ctx: AgentContext, count: int) -> str:
    """Receive so many messages."""
    return " ".join([(await ctx.receive()).content for _ in range(count)])


async def test_each_message_begins_the_time_anew(autojump_clock: Any) -> None:
    listening = Completion("", [ToolCall("1", "listen", {"count": 3})], usage=USAGE)
    async with pool_of(2, driver=ScriptedDriver([listening, "done"])) as pool:
        handle = await pool.spawn(SpawnConfig(idle(30), "go", tools=[listen]))
        for n in range(3):
            await trio.sleep(29)
            await pool.send(handle.id, str(n))
        result = await handle.result()
    assert result.text == "done"


async def test_messages_that_wait_in_the_inbox_are_signs_of_life_when_they_are_taken(
    autojump_clock: Any,
) -> None:
    @tool
    async def slowly(ctx: AgentContext) -> str:
        """Receive two messages, and think about each."""
        for _ in range(2):
            await trio.sleep(20)
            await ctx.receive()
        await trio.sleep(20)
        return "heard"

    async with pool_of(1, driver=ScriptedDriver([calls("slowly"), "done"])) as pool:
        handle = await pool.spawn(SpawnConfig(idle(30), "go", tools=[slowly]))
        await trio.sleep(1)
        pool.send_nowait(handle.id, "one")
        pool.send_nowait(handle.id, "two")
        result = await handle.result()
    assert result.text == "done"


async def test_who_waits_for_a_message_that_does_not_come_is_stopped(autojump_clock: Any) -> None:
    listening = Completion("", [ToolCall("1", "listen", {"count": 1})], usage=USAGE)
    async with pool_of(2, driver=ScriptedDriver([listening])) as pool:
        handle = await pool.spawn(SpawnConfig(idle(30), "go", tools=[listen]))
        await trio.sleep(31)
        halted(handle.outcome)


MESSAGING = {"capabilities": ["messaging"]}


async def test_a_pool_ends_at_once_though_an_agent_has_an_idle_limit(autojump_clock: Any) -> None:
    """An idle limit is no deadline by which a wait would end by itself: the servers' inboxes end."""
    started = trio.current_time()
    driver = ScriptedDriver([calls("receive_message"), "goodbye"])
    async with pool_of(2, driver=driver) as pool:
        handle = await pool.spawn(SpawnConfig(attrs.evolve(idle(300), **MESSAGING), "serve"))
    assert trio.current_time() == started
    assert handle.outcome is not None
    assert handle.outcome.unwrap().text == "goodbye"
    told = driver.requests[1].messages[-1]
    assert isinstance(told, ToolMessage)
    assert "the pool is ending" in told.result.text


async def test_agents_that_wait_for_each_other_are_told_at_once(autojump_clock: Any) -> None:
    driver = ScriptedDriver([calls("receive_message"), "nobody writes"])
    async with pool_of(2, driver=driver) as pool:
        started = trio.current_time()
        handle = await pool.spawn(SpawnConfig(attrs.evolve(idle(300), **MESSAGING), "serve"))
        result = await handle.result()
        assert trio.current_time() == started
    assert result.text == "nobody writes"


async def test_a_narrower_deadline_is_still_one(autojump_clock: Any) -> None:
    receiving = Completion("", [ToolCall("1", "receive_message", {"timeout": 20})], usage=USAGE)
    driver = ScriptedDriver([receiving, "nobody wrote"])
    async with pool_of(2, driver=driver) as pool:
        started = trio.current_time()
        handle = await pool.spawn(SpawnConfig(attrs.evolve(idle(300), **MESSAGING), "serve"))
        assert (await handle.result()).text == "nobody wrote"
        assert trio.current_time() == started + 20


async def test_several_loops_of_one_agent_have_a_limit_each(autojump_clock: Any) -> None:
    async def both(ctx: AgentContext) -> list[Any]:
        results: list[Any] = [None, None]

        async def one(index: int, seconds: float) -> None:
            try:
                results[index] = await ModelAgent(
                    idle(seconds), tools=[wait], driver=ScriptedDriver([waits(50), "ok"])
                )(ctx, "go")
            except LoopHaltedError as error:
                results[index] = error

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(one, 0, 30)
            nursery.start_soon(one, 1, 60)
        return results

    async with pool_of(1) as pool:
        first, second = await (await pool.spawn(both)).result()
    assert isinstance(first, LoopHaltedError)
    assert isinstance(second, AgentResult)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_idle_is_a_number_above_0(seconds: float) -> None:
    with pytest.raises(ValueError, match="idle"):
        ResourceQuota(idle=seconds)
