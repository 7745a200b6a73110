"""map, as_completed, race, vote and fan_out, on the pool and on contexts."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from pool_kit import Running, failing, forever, pool_of, sleeper, value

from agentpool import (
    Aborted,
    AgentAbortedError,
    AgentContext,
    AgentFailedError,
    AgentManifest,
    AgentResult,
    Completed,
    Completion,
    DeadlockError,
    Failed,
    ModelAgent,
    PoolClosedError,
    PoolLimitError,
    PoolLimits,
    ScriptedDriver,
    TokenUsage,
    ToolRegistry,
    UnhandledAgentErrors,
    UserMessage,
    open_agent_pool,
)


async def _async_items(items: Any) -> AsyncIterator[Any]:
    for item in items:
        await trio.lowlevel.checkpoint()
        yield item


class _Plain:
    """An iterable that is no builtin."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class _AsyncPlain:
    """An async iterable that is no generator."""

    def __init__(self, items: Any) -> None:
        self.items = iter(items)

    def __aiter__(self) -> _AsyncPlain:
        return self

    async def __anext__(self) -> Any:
        await trio.lowlevel.checkpoint()
        for item in self.items:
            return item
        raise StopAsyncIteration


KINDS: list[Any] = [list, tuple, iter, _Plain, _async_items, _AsyncPlain]


@pytest.fixture(params=["pool", "context"])
def scope_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def _within(kind: str, slots: int, test: Any, **options: Any) -> Any:
    """Run a test with the pool, or with the context of an agent, as its scope."""
    async with pool_of(slots, **options) as pool:
        if kind == "pool":
            return await test(pool)
        return await (await pool.spawn(test)).result()


# -- map -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 2, 50])
async def test_map_returns_outcomes_in_the_order_of_the_items(
    kind: Any, slots: int, scope_kind: str, autojump_clock: Any
) -> None:
    async def agent(ctx: AgentContext, n: int) -> int:
        await trio.sleep(10 - n)
        return n * n

    async def test(scope: Any) -> Any:
        return await scope.map(agent, kind(range(10)))

    outcomes = await _within(scope_kind, slots, test)
    assert [outcome.unwrap() for outcome in outcomes] == [n * n for n in range(10)]


async def test_map_never_runs_more_than_fit(autojump_clock: Any) -> None:
    running = Running()

    async def agent(ctx: AgentContext, n: int) -> None:
        with running:
            await trio.sleep(1)

    async with pool_of(7) as pool:
        await pool.map(agent, range(100))
        await pool.map(agent, iter(range(100)))
    assert running.peak == 7


async def test_map_keeps_failures_as_data_and_names_and_limits_its_agents(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext, n: int) -> str:
        if n == 1:
            raise ValueError
        await trio.sleep(n * 10)
        return ctx.name

    async with pool_of(3) as pool:
        outcomes = await pool.map(agent, [0, 1, 2], name="it", timeout=5)
    assert [type(outcome) for outcome in outcomes] == [Completed, Failed, Failed]
    assert outcomes[0].unwrap() == "it"


@pytest.mark.parametrize("kind", KINDS)
async def test_map_over_nothing_is_nothing(kind: Any, scope_kind: str) -> None:
    async def test(scope: Any) -> Any:
        return await scope.map(value, kind([]))

    assert await _within(scope_kind, 1, test) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_map_aborts_and_awaits_its_agents(kind: Any, autojump_clock: Any) -> None:
    ends = []

    async def agent(ctx: AgentContext, n: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ends.append(n)

    async with pool_of(2) as pool:
        with trio.move_on_after(5):
            await pool.map(agent, kind(range(9)))
        assert trio.current_time() == 6
        assert sorted(ends) == [0, 1]
        assert pool.active_count == 0
        assert pool.statistics().waiting_to_start == 0
        assert await pool.join_all() == {}


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_what_the_input_raises_comes_out_of_map_and_the_agents_are_aborted(
    asynchronous: bool, autojump_clock: Any
) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("input")

    async def async_items() -> AsyncIterator[int]:
        yield 1
        raise KeyError("input")

    async def agent(ctx: AgentContext, n: int) -> None:
        await trio.sleep_forever()

    async with pool_of(3) as pool:
        with pytest.raises(KeyError, match="input"):
            await pool.map(agent, async_items() if asynchronous else items())
        assert pool.active_count == 0


async def test_a_collection_that_changes_during_map_is_an_error() -> None:
    items = {1, 2, 3}

    async def agent(ctx: AgentContext, n: int) -> None:
        items.add(n + 10)

    async with pool_of(1) as pool:
        with pytest.raises(RuntimeError, match="changed size"):
            await pool.map(agent, items)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_limit_that_is_reached_during_map_ends_it(kind: Any, autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        with pytest.raises(PoolLimitError):
            await ctx.map(sleeper, kind([1, 1, 1, 1]))

    async with pool_of(1, limits=PoolLimits(descendants=2)) as pool:
        await (await pool.spawn(agent)).result()
        assert pool.statistics().spawned == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_map_is_refused_by_a_pool_that_drains(kind: Any, autojump_clock: Any) -> None:
    async with pool_of(1) as pool, trio.open_nursery() as nursery:

        async def mapping() -> None:
            with pytest.raises(PoolClosedError):
                await pool.map(sleeper, kind([5, 5, 5]))

        nursery.start_soon(mapping)
        await trio.sleep(1)
        await pool.drain(20)


# -- as_completed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 3, 20])
async def test_as_completed_gives_outcomes_as_they_come(
    kind: Any, slots: int, scope_kind: str, autojump_clock: Any
) -> None:
    async def test(scope: Any) -> Any:
        async with scope.as_completed(_scaled, kind([3, 1, 2])) as done:
            return [outcome.unwrap() async for outcome in done]

    async def _scaled(ctx: AgentContext, n: int) -> int:
        await trio.sleep(n)
        return n

    found = await _within(scope_kind, slots, test)
    assert sorted(found) == [1, 2, 3]
    if slots == 20:
        assert found == [1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
async def test_leaving_as_completed_early_aborts_and_awaits_the_rest(
    kind: Any, scope_kind: str, autojump_clock: Any
) -> None:
    ends = []

    async def agent(ctx: AgentContext, n: int) -> int:
        try:
            await trio.sleep(n)
            return n
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ends.append(n)

    async def test(scope: Any) -> None:
        async with scope.as_completed(agent, kind([1, 50, 60, 70])) as done:
            async for outcome in done:
                assert outcome.unwrap() == 1
                break
        assert sorted(ends) == [1, 50, 60] if scope_kind == "pool" else len(ends) >= 2

    await _within(scope_kind, 2, test)
    assert trio.current_time() < 10


@pytest.mark.parametrize("kind", KINDS)
async def test_the_exception_of_the_block_of_as_completed_comes_out_as_it_is(
    kind: Any, scope_kind: str
) -> None:
    error = KeyError("block")

    async def test(scope: Any) -> None:
        with pytest.raises(KeyError) as caught:
            async with scope.as_completed(value, kind(range(5))):
                raise error
        assert caught.value is error

    await _within(scope_kind, 2, test)


def _endless(made: list[int]) -> Iterator[int]:
    while True:
        made[0] += 1
        yield made[0]


async def _endless_async(made: list[int]) -> AsyncIterator[int]:
    for item in _endless(made):
        yield item


@pytest.mark.parametrize("endless", [_endless, _endless_async])
async def test_an_endless_input_is_pulled_only_as_fast_as_outcomes_are_taken(
    endless: Any, scope_kind: str
) -> None:
    made = [0]

    async def test(scope: Any) -> None:
        async with scope.as_completed(value, endless(made)) as done:
            await trio.testing.wait_all_tasks_blocked()
            assert made[0] <= 12
            taken = 0
            async for outcome in done:
                assert outcome.unwrap() <= made[0]
                taken += 1
                assert made[0] <= taken + 12
                if taken == 200:
                    break
            await trio.testing.wait_all_tasks_blocked()

    await _within(scope_kind, 4, test)


@pytest.mark.once
@pytest.mark.parametrize("endless", [_endless, _endless_async])
async def test_memory_stays_flat_over_an_endless_input(endless: Any) -> None:
    sizes = []
    async with pool_of(4) as pool:
        async with pool.as_completed(value, endless([0])) as done:
            taken = 0
            tracemalloc.start()
            try:
                async for _ in done:
                    taken += 1
                    if taken in (2_000, 10_000):
                        gc.collect()
                        sizes.append(tracemalloc.get_traced_memory()[0])
                    if taken == 10_000:
                        break
            finally:
                tracemalloc.stop()
    assert sizes[1] - sizes[0] < 60_000


async def test_an_async_generator_is_closed_when_the_block_is_left_early() -> None:
    closed = []

    async def items() -> AsyncIterator[int]:
        try:
            while True:
                yield 1  # no checkpoint of its own: it is left while it is suspended here
        finally:
            closed.append(True)

    async with pool_of(2) as pool:
        async with pool.as_completed(value, items()) as done:
            async for _ in done:
                break
        assert closed == [True]
        with trio.move_on_after(0.01):
            await pool.map(value, items())
        assert closed == [True, True]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_the_error_of_an_input_comes_after_the_outcomes_before_it(asynchronous: bool) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("input")

    async def async_items() -> AsyncIterator[int]:
        for item in items():
            yield item

    found = []
    async with pool_of(3) as pool:
        with pytest.raises(KeyError, match="input"):
            async with pool.as_completed(value, async_items() if asynchronous else items()) as done:
                async for outcome in done:
                    found.append(outcome.unwrap())
    assert sorted(found) == [1, 2]


async def test_the_error_of_an_input_is_not_lost_when_nobody_iterates_that_far() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("input")

    async with pool_of(3) as pool:
        with pytest.raises(KeyError, match="input"):
            async with pool.as_completed(value, items()):
                await trio.testing.wait_all_tasks_blocked()


async def test_failures_that_nobody_took_out_of_as_completed_are_not_lost() -> None:
    with pytest.raises(UnhandledAgentErrors):
        async with pool_of(2) as pool:
            async with pool.as_completed(failing, [None, None]):
                await trio.testing.wait_all_tasks_blocked()


async def test_two_tasks_cannot_take_the_same_outcomes() -> None:
    async with pool_of(2) as pool:
        async with pool.as_completed(sleeper, [100]) as done, trio.open_nursery() as nursery:
            nursery.start_soon(done.__anext__)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await done.__anext__()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", [list, iter])
async def test_a_task_that_still_iterates_when_the_block_is_left_comes_to_the_end(
    kind: Any, autojump_clock: Any
) -> None:
    found = []

    async def consume(done: Any) -> None:
        async for outcome in done:
            found.append(type(outcome))

    async with pool_of(2) as pool, trio.open_nursery() as nursery:
        async with pool.as_completed(sleeper, kind([100, 100])) as done:
            nursery.start_soon(consume, done)
            await trio.sleep(1)
    assert set(found) <= {Aborted}


async def test_a_cancelled_wait_for_an_outcome_takes_none(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        async with pool.as_completed(sleeper, [2, 4]) as done:
            with trio.move_on_after(1) as scope:
                await done.__anext__()
            assert scope.cancelled_caught
            assert len([outcome async for outcome in done]) == 2


async def test_as_completed_is_a_deadlock_when_every_agent_waits_for_the_taker(autojump_clock: Any) -> None:
    async def asking(ctx: AgentContext, n: int) -> Any:
        return await ctx.ask(ctx.parent_id, "?")

    async def parent(ctx: AgentContext) -> str:
        async with ctx.as_completed(asking, [1]) as done:
            await trio.sleep(1)
            with pytest.raises(DeadlockError):
                await done.__anext__()
            ctx.reply(await ctx.receive(), "yes")
            return str((await done.__anext__()).unwrap())

    async with pool_of(2) as pool:
        assert await (await pool.spawn(parent)).result() == "yes"


# -- race ----------------------------------------------------------------------------------------------------


def _racer(seconds: float, error: Exception | None = None) -> Any:
    async def racer(ctx: AgentContext) -> float:
        await trio.sleep(seconds)
        if error is not None:
            raise error
        return seconds

    return racer


@pytest.mark.parametrize("slots", [1, 2, 5])
async def test_the_first_to_complete_wins_and_the_others_are_aborted(
    slots: int, scope_kind: str, autojump_clock: Any
) -> None:
    async def test(scope: Any) -> Any:
        return await scope.race(_racer(1, ValueError()), _racer(2), _racer(30))

    outcome = await _within(scope_kind, slots, test)
    assert outcome.unwrap() == 2
    assert trio.current_time() < 10


async def test_the_losers_have_ended_when_race_returns(autojump_clock: Any) -> None:
    async def loser(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)

    async with pool_of(3) as pool:
        await pool.race(loser, _racer(1))
        assert (trio.current_time(), pool.active_count) == (6, 0)


@pytest.mark.parametrize("slots", [1, 3])
async def test_when_none_completes_the_errors_of_all_come_in_a_group(
    slots: int, scope_kind: str, autojump_clock: Any
) -> None:
    async def gives_up(ctx: AgentContext) -> None:
        ctx._agent.abort("gave up")
        await trio.sleep_forever()

    errors = [ValueError("last"), KeyError("first")]

    async def test(scope: Any) -> Any:
        return await scope.race(_racer(5, errors[0]), _racer(1, errors[1]), gives_up)

    outcome = await _within(scope_kind, slots, test)
    assert isinstance(outcome, Failed)
    group = outcome.error
    assert type(group) is ExceptionGroup
    assert {type(error) for error in group.exceptions} == {ValueError, KeyError, AgentAbortedError}
    assert all(error in group.exceptions for error in errors)
    [aborted] = [error for error in group.exceptions if isinstance(error, AgentAbortedError)]
    assert "gave up" in str(aborted)
    with pytest.raises(AgentFailedError) as caught:
        outcome.unwrap()
    assert caught.value.__cause__ is group


async def test_the_error_of_a_single_agent_in_a_race_is_in_a_group_too() -> None:
    error = ValueError()
    async with pool_of(1) as pool:
        outcome = await pool.race(_racer(0, error))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ExceptionGroup)
    assert outcome.error.exceptions == (error,)


@pytest.mark.parametrize("fatal", [SystemExit(3), MemoryError()])
async def test_what_is_fatal_in_a_race_leaves_the_pool(
    fatal: Any, scope_kind: str, autojump_clock: Any
) -> None:
    async def test(scope: Any) -> Any:
        return await scope.race(_racer(1, fatal), _racer(2))

    with pytest.raises(type(fatal)) as caught:
        await _within(scope_kind, 1, test)
    assert caught.value is fatal


async def test_losers_that_failed_before_the_winner_are_looked_at(autojump_clock: Any) -> None:
    async with pool_of(5) as pool:
        # The last two end in the very step in which the winner does.
        outcome = await pool.race(_racer(1, KeyError()), _racer(2), _racer(2, ValueError()), _racer(2))
        assert outcome.unwrap() == 2
        assert await pool.join_all() == {}


async def test_what_a_loser_raises_while_it_is_aborted_is_not_lost(
    scope_kind: str, autojump_clock: Any
) -> None:
    error = ValueError("cleanup")

    async def loser(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async def test(scope: Any) -> Any:
        assert (await scope.race(_racer(1), loser)).unwrap() == 1

    if scope_kind == "pool":
        with pytest.raises(UnhandledAgentErrors) as caught:
            await _within(scope_kind, 2, test)
        assert caught.value.exceptions == (error,)
    else:
        with pytest.raises(AgentFailedError) as failed:
            await _within(scope_kind, 2, test)
        assert isinstance(failed.value.__cause__, UnhandledAgentErrors)
        assert failed.value.__cause__.exceptions == (error,)


async def test_a_race_without_agents_or_with_nonsense_is_refused() -> None:
    async with pool_of(1) as pool:
        with pytest.raises(ValueError, match="at least one agent"):
            await pool.race()
        with pytest.raises(TypeError):
            await pool.race(value, 3)  # type: ignore[arg-type]
        assert pool.statistics().spawned == 0


async def test_a_cancelled_race_leaves_nobody(autojump_clock: Any) -> None:
    async with pool_of(3) as pool:
        with trio.move_on_after(1):
            await pool.race(forever, forever)
        assert pool.active_count == 0


async def test_a_race_that_was_won_is_won_though_the_pool_drains(autojump_clock: Any) -> None:
    async with pool_of(1) as pool, trio.open_nursery() as nursery:

        async def drain() -> None:
            await trio.sleep(0.5)
            await pool.drain(10)

        nursery.start_soon(drain)
        assert (await pool.race(_racer(1), _racer(2))).unwrap() == 1


async def test_a_race_that_nobody_could_start_in_is_refused(autojump_clock: Any) -> None:
    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        await pool.spawn(sleeper, 5)

        async def drain() -> None:
            await trio.sleep(0.5)
            await pool.drain(10)

        nursery.start_soon(drain)
        with pytest.raises(PoolClosedError):
            await pool.race(_racer(1), _racer(2))


# -- vote ----------------------------------------------------------------------------------------------------


def _voter(*votes: Any) -> Any:
    left = list(votes)

    async def voter(ctx: AgentContext) -> Any:
        vote = left.pop(0)
        await trio.sleep(len(votes) - len(left))
        if isinstance(vote, Exception):
            raise vote
        return vote

    return voter


async def test_the_value_that_a_quorum_agrees_on_wins_and_the_vote_stops(
    scope_kind: str, autojump_clock: Any
) -> None:
    async def test(scope: Any) -> Any:
        return await scope.vote(_voter("a", "b", "a", "a", "c"), n=5, quorum=3)

    verdict = await _within(scope_kind, 6, test)
    assert verdict.winner == "a"
    assert verdict.votes == {"a": 3, "b": 1}
    assert [outcome.unwrap() for outcome in verdict.outcomes] == ["a", "b", "a", "a"]
    assert trio.current_time() == 4


async def test_a_vote_stops_as_soon_as_nobody_can_win(autojump_clock: Any) -> None:
    async with pool_of(5) as pool:
        verdict = await pool.vote(_voter("a", "b", "c", "d", "e"), n=5, quorum=3)
    assert verdict.winner is None
    assert len(verdict.outcomes) == 4
    assert trio.current_time() == 4


async def test_a_vote_for_nothing_may_win(autojump_clock: Any) -> None:
    """`winner` is None with and without a majority: `agreed` tells."""
    async with pool_of(5) as pool:
        for votes, agreed in (((None, "a", None), True), (("a", None, "b"), False)):
            verdict = await pool.vote(_voter(*votes), n=3)
            assert (verdict.winner, verdict.agreed) == (None, agreed)


async def test_failures_are_no_votes(autojump_clock: Any) -> None:
    async with pool_of(5) as pool:
        verdict = await pool.vote(_voter(ValueError(), ValueError(), "a"), n=3, quorum=2)
    assert (verdict.winner, verdict.votes) == (None, {})
    assert len(verdict.outcomes) == 2


async def test_a_key_makes_the_choice_that_is_compared(autojump_clock: Any) -> None:
    async with pool_of(5) as pool:
        verdict = await pool.vote(_voter("A", "a", "b"), n=3, key=str.lower)
    assert (verdict.winner, verdict.votes) == ("A", {"a": 2})


async def test_a_vote_takes_more_than_half_when_no_quorum_is_given(autojump_clock: Any) -> None:
    async with pool_of(5) as pool:
        assert (await pool.vote(_voter("a", "a", "b", "b"), n=4)).winner is None
        assert (await pool.vote(value, 3, n=1)).winner == 3


def _result(text: str, output: Any, calls: int) -> AgentResult[Any]:
    transcript = [UserMessage(f"turn {number}") for number in range(calls)]
    return AgentResult(text, output, TokenUsage(), calls, 0, transcript)


async def test_results_of_models_are_compared_by_what_they_say(autojump_clock: Any) -> None:
    results = [_result("yes", "yes", 1), _result("no", "no", 1), _result("yes", "yes", 5)]
    async with pool_of(5) as pool:
        verdict = await pool.vote(_voter(*results), n=3)
    assert verdict.winner is results[0]
    assert verdict.votes == {"yes": 2, "no": 1}


async def test_results_of_models_are_compared_by_their_typed_answer_or_by_the_key(
    autojump_clock: Any,
) -> None:
    results = [_result("It is 3.", 3, 1), _result("3!", 3, 2)]
    async with pool_of(5) as pool:
        assert (await pool.vote(_voter(*results), n=2)).votes == {3: 2}
        verdict = await pool.vote(_voter(*results), n=2, quorum=2, key=lambda result: result.text)
    assert verdict.votes == {"It is 3.": 1, "3!": 1}


async def test_typed_answers_without_a_hash_agree_when_they_are_equal(autojump_clock: Any) -> None:
    results = [
        _result('{"a": 1}', {"a": 1}, 1),
        _result('{"a":2}', {"a": 2}, 1),
        _result('{"a":1}', {"a": 1}, 7),
    ]
    async with pool_of(5) as pool:
        verdict = await pool.vote(_voter(*results), n=3)
    assert verdict.winner is results[0]
    assert verdict.votes == {'{"a": 1}': 2, '{"a":2}': 1}


async def test_model_agents_agree_on_what_they_answer_whatever_it_cost() -> None:
    answers = [Completion("yes", usage=TokenUsage(input_tokens=n)) for n in (1, 2, 3)]
    async with open_agent_pool(ScriptedDriver(answers), max_concurrent=1) as pool:
        verdict = await pool.vote(ModelAgent(AgentManifest(name="judge")), "Is it so?", n=3, quorum=3)
    assert verdict.winner is not None
    assert (verdict.winner.output, verdict.votes) == ("yes", {"yes": 3})


@pytest.mark.parametrize("vote", [["a"], {"a": 1}])
async def test_votes_that_cannot_be_hashed_ask_for_a_key(vote: Any) -> None:
    async with pool_of(3) as pool:
        with pytest.raises(TypeError, match="give key=, a function that makes something hashable"):
            await pool.vote(value, vote, n=3)
        assert pool.active_count == 0
        with pytest.raises(TypeError, match="key= has to make something hashable"):
            await pool.vote(value, vote, n=3, key=lambda value: [value])  # type: ignore[arg-type, return-value]
        assert (await pool.vote(value, vote, n=3, key=str)).winner is vote


@pytest.mark.parametrize(("n", "quorum"), [(0, None), (-1, None), (3, 0), (3, 4)])
async def test_a_vote_that_nobody_can_win_is_refused(n: int, quorum: int | None) -> None:
    async with pool_of(1) as pool:
        with pytest.raises(ValueError, match="quorum"):
            await pool.vote(value, n=n, quorum=quorum)


async def test_voters_that_describe_themselves_get_their_tools() -> None:
    seen = []

    class Voter:
        name = "voter"
        quota = None

        def build_tools(self, builder: Any) -> Any:
            assert builder is None
            return ToolRegistry()

        async def __call__(self, ctx: AgentContext) -> int:
            seen.append((ctx.name, ctx.tools is not None))
            return 1

    async with pool_of(3) as pool:
        assert (await pool.vote(Voter(), n=3)).winner == 1
    assert set(seen) == {("voter", True)}


async def test_an_error_of_the_key_comes_out_and_the_voters_are_aborted(autojump_clock: Any) -> None:
    def key(value: Any) -> Any:
        raise KeyError("key")

    async with pool_of(3) as pool:
        with pytest.raises(KeyError, match="key"):
            await pool.vote(sleeper, 1, n=3, key=key)
        assert pool.active_count == 0


# -- fan_out -------------------------------------------------------------------------------------------------


async def test_fan_out_waits_for_slots_and_keeps_the_order(autojump_clock: Any) -> None:
    async def test(scope: Any) -> Any:
        handles = await scope.fan_out([_racer(1)] * 5)
        return [handle.id for handle in handles], trio.current_time()

    assert await _within("pool", 2, test) == ([1, 2, 3, 4, 5], 2)


async def test_what_a_cancelled_fan_out_has_started_remains(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        with trio.move_on_after(5):
            await pool.fan_out([_racer(10)] * 6)
        assert pool.active_count == 2
        assert len(await pool.join_all()) == 2
    assert trio.current_time() == 10
