"""How the agents of map, as_completed, race and vote are started, bounded, and ended on time."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from pool_kit import Running, forever, pool_of, sleeper, value

from agentpool import (
    AgentContext,
    Completed,
    DeadlockError,
    Failed,
    PoolClosedError,
)


def _endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


async def _endless_async() -> AsyncIterator[int]:
    for item in _endless():
        yield item


def _far_range() -> range:
    return range(10**9)


async def _async_items(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


ENDLESS: list[Any] = [_endless, _endless_async, _far_range]
KINDS: list[Any] = [list, iter, _async_items]


@pytest.fixture(params=["pool", "context"])
def scope_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def _within(kind: str, slots: int, test: Any, **options: Any) -> Any:
    """Run a test with the pool, or with the context of an agent, as its scope."""
    async with pool_of(slots, **options) as pool:
        if kind == "pool":
            return await test(pool)
        return await (await pool.spawn(test)).result()


# -- how many live ---------------------------------------------------------------------------------


@pytest.mark.parametrize("endless", ENDLESS)
@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("taken", [0, 1, 2, 17, 40])
async def test_agents_are_started_exactly_twice_the_slots_ahead_of_the_taker(
    endless: Any, slots: int, taken: int, scope_kind: str
) -> None:
    started = 0

    async def agent(ctx: AgentContext, n: int) -> int:
        nonlocal started
        started += 1
        return n

    async def test(scope: Any) -> None:
        async with scope.as_completed(agent, endless()) as done:
            for _ in range(taken):
                await done.__anext__()
            await trio.testing.wait_all_tasks_blocked()
            assert started == taken + 2 * slots

    await _within(scope_kind, slots, test)
    assert started == taken + 2 * slots


@pytest.mark.parametrize("endless", ENDLESS)
@pytest.mark.parametrize("slots", [1, 3])
async def test_agents_that_lend_their_slots_are_no_more_than_twice_the_slots(
    endless: Any, slots: int, scope_kind: str, autojump_clock: Any
) -> None:
    alive = Running()

    async def slow(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            await trio.sleep(1)
            ctx.reply(message, message.content)

    async def test(scope: Any) -> None:
        server = await scope.spawn(slow)

        async def asking(ctx: AgentContext, n: int) -> Any:
            with alive:
                return await ctx.ask(server.id, n)

        taken = 0
        async with scope.as_completed(asking, endless()) as done:
            async for _ in done:
                taken += 1
                if taken == 20:
                    break
        server.abort()
        await server.wait()

    await _within(scope_kind, slots, test)
    assert min(slots, 2) <= alive.peak <= 2 * slots


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 2, 5])
async def test_agents_may_all_wait_for_a_server_that_is_one_of_the_items(
    kind: Any, slots: int, scope_kind: str, autojump_clock: Any
) -> None:
    server_id = 0
    runs = trio.Event()

    async def agent(ctx: AgentContext, n: int) -> Any:
        nonlocal server_id
        if n:
            await runs.wait()
            return await ctx.ask(server_id, n)
        server_id = ctx.id
        runs.set()
        async for message in ctx.inbox:
            ctx.reply(message, -message.content)
        return None

    async def test(scope: Any) -> list[Any]:
        found = []
        async with scope.as_completed(agent, kind(range(30))) as done:
            async for outcome in done:
                found.append(outcome.unwrap())
                if len(found) == 29:
                    break
        return found

    assert sorted(await _within(scope_kind, slots, test)) == [-n for n in range(29, 0, -1)]


@pytest.mark.parametrize("kind", KINDS)
async def test_as_completed_in_a_tree_of_agents_ends_with_a_single_slot(
    kind: Any, autojump_clock: Any
) -> None:
    async def tree(ctx: AgentContext, depth: int) -> int:
        if not depth:
            return 1
        async with ctx.as_completed(tree, kind([depth - 1] * 4)) as done:
            return sum([outcome.unwrap() async for outcome in done])

    async with pool_of(1) as pool:
        assert (await (await pool.spawn(tree, 3)).result()) == 64


async def test_a_limit_that_is_lowered_lowers_what_may_be_started(autojump_clock: Any) -> None:
    started = 0

    async def agent(ctx: AgentContext, n: int) -> None:
        nonlocal started
        started += 1

    async with pool_of(4) as pool:
        async with pool.as_completed(agent, _endless()) as done:
            await trio.testing.wait_all_tasks_blocked()
            pool.max_concurrent = 1
            for taken in range(1, 10):
                await done.__anext__()
                await trio.testing.wait_all_tasks_blocked()
                assert started == max(8, taken + 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 2, 3])
async def test_agents_that_all_ask_who_takes_their_outcomes_are_a_deadlock_though_more_wait_for_room(
    kind: Any, slots: int, autojump_clock: Any
) -> None:
    async def asking(ctx: AgentContext, n: int) -> Any:
        try:
            return await ctx.ask(ctx.parent_id, "?")
        except DeadlockError:
            return "told"

    async def parent(ctx: AgentContext) -> tuple[int, int]:
        told = told_here = 0
        async with ctx.as_completed(asking, kind(range(20))) as done:
            while True:
                try:
                    told += (await done.__anext__()).unwrap() == "told"
                except DeadlockError:
                    told_here += 1
                    ctx.reply(await ctx.receive(), "yes")
                except StopAsyncIteration:
                    return told, told_here

    async with pool_of(slots) as pool:
        told, told_here = await (await pool.spawn(parent)).result()
    assert told + told_here >= 1
    assert trio.current_time() == 0


async def test_a_feeder_that_begins_to_wait_for_room_may_close_the_cycle(autojump_clock: Any) -> None:
    async def asking(ctx: AgentContext, n: int) -> Any:
        return await ctx.ask(ctx.parent_id, n)

    async def slow_input() -> AsyncIterator[int]:
        for n in range(9):
            await trio.sleep(1)
            yield n

    async def parent(ctx: AgentContext) -> float:
        async with ctx.as_completed(asking, slow_input()) as done:
            outcome = await done.__anext__()
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, DeadlockError)
            assert ctx.id in outcome.error.path
        return trio.current_time()

    async with pool_of(1) as pool:
        # Two agents fill the room; the third item comes at 3 and finds none.
        assert await (await pool.spawn(parent)).result() == 3


# -- the feeder needs no slot ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["map", "as_completed"])
@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
async def test_what_is_fatal_in_an_input_is_heard_though_its_agents_hold_all_the_slots(
    verb: str, asynchronous: bool, error: BaseException, autojump_clock: Any
) -> None:
    def items() -> Iterator[float]:
        yield 100.0
        raise error

    async def parent(ctx: AgentContext) -> None:
        source = _async_items(items()) if asynchronous else items()
        if verb == "map":
            await ctx.map(sleeper, source)
        async with ctx.as_completed(sleeper, source) as done:
            async for _ in done:
                pass

    with pytest.raises(type(error)) as caught:
        async with pool_of(1) as pool:
            await pool.spawn(parent)
    assert caught.value is error
    assert trio.current_time() == 0


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_error_of_the_input_ends_a_map_at_once_though_its_agents_hold_all_the_slots(
    asynchronous: bool, autojump_clock: Any
) -> None:
    def items() -> Iterator[float]:
        yield 100.0
        raise KeyError("input")

    async def parent(ctx: AgentContext) -> float:
        with pytest.raises(KeyError, match="input"):
            await ctx.map(sleeper, _async_items(items()) if asynchronous else items())
        return trio.current_time()

    async with pool_of(1) as pool:
        assert await (await pool.spawn(parent)).result() == 0


async def test_only_the_feeder_goes_on_without_a_slot(autojump_clock: Any) -> None:
    steps: list[tuple[str, float]] = []

    async def slow_input() -> AsyncIterator[float]:
        yield 10.0
        steps.append(("pulled", trio.current_time()))
        await trio.sleep(4)
        steps.append(("pulled on", trio.current_time()))

    async def receive(ctx: AgentContext) -> None:
        await ctx.receive()
        steps.append(("received", trio.current_time()))

    async def parent(ctx: AgentContext) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(receive, ctx)
            await ctx.map(sleeper, slow_input())
            steps.append(("mapped", trio.current_time()))

    async with pool_of(1) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(2)
        # Its feeder runs, in the input's sleep; its other task is woken, and waits for the slot.
        pool.send_nowait(handle.id, "go")
        await trio.sleep(1)
        assert pool.statistics().running == 1
        await handle.result()
    assert steps == [("pulled", 0), ("pulled on", 4), ("received", 10), ("mapped", 10)]


async def test_what_the_input_itself_waits_for_and_starts_needs_the_slot(autojump_clock: Any) -> None:
    running = Running()
    times: list[float] = []

    async def busy(ctx: AgentContext, seconds: float) -> float:
        with running:
            await trio.sleep(seconds)
        return seconds

    async def step() -> None:
        times.append(trio.current_time())

    async def parent(ctx: AgentContext) -> list[float]:
        async def items() -> AsyncIterator[float]:
            yield 5.0
            times.append(trio.current_time())
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(step)  # holds the slot from here to the next wait
            times.append(trio.current_time())
            yield 3.0
            async with ctx.as_completed(busy, iter([1.0])) as inner:
                async for outcome in inner:
                    yield outcome.unwrap()

        async with ctx.as_completed(busy, items()) as done:
            return [outcome.unwrap() async for outcome in done]

    async with pool_of(1) as pool:
        assert sorted(await (await pool.spawn(parent)).result()) == [1.0, 3.0, 5.0]
    assert running.peak == 1
    assert times == [0, 5, 5]


# -- time limits -----------------------------------------------------------------------------------


async def _map(ctx: Any, items: Any) -> None:
    await ctx.map(sleeper, items)


async def _as_completed(ctx: Any, items: Any) -> None:
    async with ctx.as_completed(sleeper, items) as done:
        async for _ in done:
            pass


async def _race(ctx: Any, items: Any) -> None:
    await ctx.race(*[lambda ctx: sleeper(ctx, 1000.0)] * 5)


async def _vote(ctx: Any, items: Any) -> None:
    await ctx.vote(sleeper, 1000.0, n=5)


@pytest.mark.parametrize("verb", [_map, _as_completed, _race, _vote])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 2, 8])
async def test_a_limit_around_many_agents_ends_them_on_time_though_they_hold_all_the_slots(
    verb: Any, kind: Any, slots: int, scope_kind: str, autojump_clock: Any
) -> None:
    async def test(scope: Any) -> tuple[bool, float]:
        with trio.move_on_after(2.5) as limit:
            await verb(scope, kind([1000.0] * 50))
        return limit.cancelled_caught, trio.current_time()

    async with pool_of(slots) as pool:
        ended = await test(pool) if scope_kind == "pool" else await (await pool.spawn(test)).result()
        assert ended == (True, 2.5)
        assert pool.statistics().waiting_to_start == 0
    assert trio.current_time() == 2.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 2, 8])
async def test_a_limit_inside_of_as_completed_aborts_nobody(
    kind: Any, slots: int, scope_kind: str, autojump_clock: Any
) -> None:
    async def test(scope: Any) -> list[type]:
        async with scope.as_completed(sleeper, kind([5.0, 5.0])) as done:
            with trio.move_on_after(1):
                await done.__anext__()
            return [type(outcome) async for outcome in done]

    assert await _within(scope_kind, slots, test) == [Completed, Completed]


async def test_a_limit_around_a_feeder_that_waits_for_room_aborts_the_agents(autojump_clock: Any) -> None:
    ends: list[float] = []

    async def agent(ctx: AgentContext, n: int) -> None:
        try:
            await ctx.receive()
            await trio.sleep_forever()
        finally:
            ends.append(trio.current_time())

    async def parent(ctx: AgentContext) -> float:
        with trio.move_on_after(2):
            async with ctx.as_completed(agent, _endless()) as done:
                await trio.sleep(1)
                await ctx.broadcast("go")
                await done.__anext__()
        return trio.current_time()

    async with pool_of(2) as pool:
        assert await (await pool.spawn(parent)).result() == 2
    assert ends == [2] * len(ends)
    assert len(ends) == 4


# -- the block -------------------------------------------------------------------------------------


async def test_a_block_of_as_completed_is_for_one_use() -> None:
    async with pool_of(1) as pool:
        block = pool.as_completed(value, [1])
        async with block as done:
            assert (await done.__anext__()).unwrap() == 1
        with pytest.raises(RuntimeError, match="call it again"):
            async with block:
                pass


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_block_starts_nobody(kind: Any, scope_kind: str) -> None:
    async def test(scope: Any) -> None:
        with trio.CancelScope() as outside:
            outside.cancel()
            async with scope.as_completed(forever, kind([1, 2])):
                pass
        with trio.CancelScope() as outside:
            outside.cancel()
            await scope.map(forever, kind([1, 2]))

    async with pool_of(1) as pool:
        if scope_kind == "pool":
            await test(pool)
        else:
            await (await pool.spawn(test)).result()
        assert pool.statistics().spawned == (scope_kind == "context")


async def test_a_cancellation_leaves_the_block_as_it_is_and_not_in_a_group(autojump_clock: Any) -> None:
    async def parent(ctx: Any) -> Any:
        try:
            with trio.move_on_after(1):
                try:
                    async with ctx.as_completed(sleeper, iter([100.0] * 9)) as done:
                        await done.__anext__()
                except BaseException as error:
                    seen.append(type(error))
                    raise
        finally:
            seen.append(trio.current_time())

    seen: list[Any] = []
    async with pool_of(2) as pool:
        await parent(pool)
        await (await pool.spawn(parent)).result()
    assert seen == [trio.Cancelled, 1, trio.Cancelled, 2]


async def test_what_an_input_raises_when_it_is_closed_in_its_nursery_comes_out(
    scope_kind: str, autojump_clock: Any
) -> None:
    async def items() -> AsyncIterator[int]:
        async with trio.open_nursery():
            try:
                while True:
                    yield 1
            finally:
                raise ValueError("cleanup")

    async def test(scope: Any) -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with scope.as_completed(value, items()) as done:
                await done.__anext__()
        assert caught.value.subgroup(ValueError) is not None

    await _within(scope_kind, 2, test)


@pytest.mark.parametrize("body_raises", [False, True])
def test_ctrl_c_while_the_feeder_ends_comes_out(body_raises: bool) -> None:
    @trio.lowlevel.enable_ki_protection
    def press() -> None:
        signal.raise_signal(signal.SIGINT)
        for _ in range(100):  # the signal is handled in here, and trio keeps it for the main task
            pass

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                press()
                for _ in range(9):  # trio delivers it meanwhile, while the block waits for the feeder
                    await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with pool_of(2) as pool:
            async with pool.as_completed(lambda ctx, _: forever(ctx), items()):
                await trio.testing.wait_all_tasks_blocked()
                if body_raises:
                    raise KeyError("body")

    with pytest.raises(KeyboardInterrupt) as caught:
        trio.run(main)
    assert ("KeyError" in "".join(getattr(caught.value, "__notes__", ()))) is body_raises


@pytest.mark.parametrize("kind", KINDS)
async def test_a_drain_while_an_item_waits_for_its_slot_aborts_the_map(
    kind: Any, autojump_clock: Any
) -> None:
    async def parent(ctx: AgentContext) -> float:
        with pytest.raises(PoolClosedError):
            await ctx.map(sleeper, kind([50.0] * 3))
        return trio.current_time()

    async with pool_of(1) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(1)
        await pool.drain(20)
        assert isinstance(handle.outcome, Completed)
        assert handle.outcome.value == 1


async def test_what_is_aborted_with_a_block_says_so(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            reasons.append(ctx._agent.abort_reason)

    reasons: list[str | None] = []
    async with pool_of(4) as pool:
        await pool.race(agent, value)
        assert (await pool.vote(_first_completes(agent), n=3, quorum=1)).winner == 1
        with trio.move_on_after(1):
            await pool.map(lambda ctx, _: agent(ctx), [1])
        async with pool.as_completed(lambda ctx, _: agent(ctx), [1]):
            await trio.sleep(1)
    assert reasons[0] == "the race that started it was left"
    assert reasons[1:3] == ["the vote that started it was left"] * 2
    assert reasons[3:] == ["the map that started it was left", "the block that started it was left"]


def _first_completes(agent: Any) -> Any:
    calls = iter(range(100))

    async def voter(ctx: AgentContext) -> int:
        if next(calls):
            await agent(ctx)
        return 1

    return voter


# -- leaving the block -----------------------------------------------------------------------------


async def first_returns(ctx: AgentContext, number: int) -> int:
    if number:
        async for _ in ctx.inbox:
            pass
    return number


@pytest.mark.parametrize("cap", [1, 2, 4])
async def test_who_leaves_in_the_step_in_which_an_outcome_was_taken_starts_nobody_more(
    cap: int, autojump_clock: Any
) -> None:
    """The outcome makes room, so that the feeder goes on; what it started then would live for ever."""

    async def leaves(ctx: AgentContext) -> float:
        async with ctx.as_completed(first_returns, iter(range(100))) as outcomes:
            await trio.sleep(1)
            await anext(outcomes)
        return trio.current_time()

    async with pool_of(cap) as pool:
        assert await (await pool.spawn(leaves)).result() == 1
        assert pool.active_count == 0


async def numbers_inside_a_shield(closed: list[float]) -> AsyncIterator[int]:
    try:
        with trio.CancelScope(shield=True):
            for number in range(100):
                yield number
    finally:
        closed.append(trio.current_time())


async def slow_numbers_inside_a_shield(closed: list[float]) -> AsyncIterator[int]:
    try:
        with trio.CancelScope(shield=True):
            for number in range(100):
                yield number
                await trio.sleep(3)
    finally:
        closed.append(trio.current_time())


async def test_what_an_input_in_a_shield_brings_after_the_block_was_left_is_not_started(
    autojump_clock: Any,
) -> None:
    """The block waits for the shield, and is then over: the feeder was not waiting when it was left."""
    closed: list[float] = []
    started: list[int] = []

    async def notes(ctx: AgentContext, number: int) -> None:
        started.append(number)

    async def leaves(ctx: AgentContext) -> float:
        async with ctx.as_completed(notes, slow_numbers_inside_a_shield(closed)):
            await trio.sleep(1)
        return trio.current_time()

    async with pool_of(2) as pool:
        assert await (await pool.spawn(leaves)).result() == 3
    assert closed == [3]
    assert started == [0]


@pytest.mark.parametrize("cap", [1, 2, 4])
@pytest.mark.parametrize("taken", [0, 1])
async def test_an_input_that_yields_inside_a_shield_does_not_keep_the_block(
    cap: int, taken: int, autojump_clock: Any
) -> None:
    """The feeder is inside of that shield, where no cancellation reaches it."""
    closed: list[float] = []

    async def leaves(ctx: AgentContext) -> float:
        async with ctx.as_completed(first_returns, numbers_inside_a_shield(closed)) as outcomes:
            await trio.sleep(1)
            for _ in range(taken):
                await anext(outcomes)
        return trio.current_time()

    async with pool_of(cap) as pool:
        assert await (await pool.spawn(leaves)).result() == 1
        assert closed == [1]
        assert pool.active_count == 0


@pytest.mark.parametrize("cap", [1, 2])
async def test_servers_end_though_the_input_has_tasks_that_wait_for_the_feeder(
    cap: int, autojump_clock: Any
) -> None:
    """Tasks of the input make no room and write to nobody the pool knows: the work is over."""

    async def items() -> AsyncIterator[int]:
        sender, receiver = trio.open_memory_channel[int](0)

        async def produces() -> None:
            async with sender:
                for number in range(4 * cap):
                    await sender.send(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produces)
            async for number in receiver:
                yield number

    async def serves(ctx: AgentContext, number: int) -> int:
        async for _ in ctx.inbox:
            pass
        return number

    async def reads(ctx: AgentContext) -> list[int]:
        async with ctx.as_completed(serves, items()) as outcomes:
            return sorted([outcome.unwrap() async for outcome in outcomes])

    async with pool_of(cap) as pool:
        handle = await pool.spawn(reads)
    assert (await handle.result()) == list(range(4 * cap))


class Numbers:
    """A class whose `__aiter__` is an async generator."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                for number in range(9):
                    yield number
        finally:
            self.closed = True


async def _breaks_out(scope: Any, numbers: Any) -> None:
    async with scope.as_completed(value, numbers) as outcomes:
        async for _ in outcomes:
            break


async def _is_cancelled(scope: Any, numbers: Any) -> None:
    with trio.move_on_after(1):
        await scope.map(forever_with, numbers)


async def forever_with(ctx: AgentContext, item: object) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("by_agent", [False, True])
@pytest.mark.parametrize("use", [_breaks_out, _is_cancelled])
async def test_a_generator_that_an_input_makes_of_itself_is_closed_with_the_block(
    use: Any, by_agent: bool, autojump_clock: Any
) -> None:
    numbers = Numbers()
    async with pool_of(2) as pool:
        if by_agent:
            await (await pool.spawn(use, numbers)).result()
        else:
            await use(pool, numbers)
        assert numbers.closed


class LeavesOpen:
    """An iterator that leaves a scope or a nursery open on the task that pulls."""

    def __init__(self, what: str, last: BaseException | None) -> None:
        self.what = what
        self.last = last
        self.count = 0

    def __aiter__(self) -> LeavesOpen:
        return self

    async def __anext__(self) -> int:
        await trio.sleep(0)
        self.count += 1
        if self.count == 1:
            if self.what == "scope":
                trio.CancelScope().__enter__()
            else:
                nursery = await trio.open_nursery().__aenter__()
                nursery.start_soon(trio.sleep_forever)
        if self.last is not None and self.count == 2:
            raise self.last
        return self.count


@pytest.mark.parametrize("by_agent", [False, True])
@pytest.mark.parametrize("use", [_breaks_out, _is_cancelled])
@pytest.mark.parametrize("what", ["scope", "nursery"])
async def test_what_an_input_leaves_open_is_its_error_and_touches_nobody_else(
    what: str, use: Any, by_agent: bool, autojump_clock: Any
) -> None:
    async with pool_of(3) as pool:
        neighbour = await pool.spawn(sleeper, 10, "well")
        numbers = LeavesOpen(what, None)
        with (
            pytest.RaisesExc(RuntimeError, match="left open")
            if use is _breaks_out
            else pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="left open"))
        ):
            if by_agent:
                outcome = await (await pool.spawn(use, numbers)).wait()
                assert isinstance(outcome, Failed)
                raise outcome.error
            await use(pool, numbers)
        assert await neighbour.result() == "well"


@pytest.mark.parametrize(
    ("last", "raised"), [(KeyError("last"), KeyError), (StopAsyncIteration(), RuntimeError)]
)
async def test_an_input_that_ends_with_something_left_open_tells_of_it(
    last: BaseException, raised: type[Exception], autojump_clock: Any
) -> None:
    async with pool_of(2) as pool:
        with pytest.raises(raised) as caught:
            await pool.map(value, LeavesOpen("scope", last))
        assert "left open" in " ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


async def _fails_when_closed() -> AsyncIterator[int]:
    try:
        for number in range(9):
            yield number
    finally:
        raise ValueError("lost")


async def _fails_when_cancelled() -> AsyncIterator[int]:
    yield 0
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("lost")


inputs_that_fail = pytest.mark.parametrize("numbers", [_fails_when_closed, _fails_when_cancelled])


@inputs_that_fail
@pytest.mark.parametrize("by_agent", [False, True])
async def test_what_an_input_raises_while_the_block_is_cancelled_comes_out_beside(
    numbers: Any, by_agent: bool, autojump_clock: Any
) -> None:
    async with pool_of(2) as pool:
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="lost")):
            if by_agent:
                outcome = await (await pool.spawn(_is_cancelled, numbers())).wait()
                assert isinstance(outcome, Failed)
                raise outcome.error
            await _is_cancelled(pool, numbers())


@inputs_that_fail
async def test_what_an_input_raises_while_the_block_fails_is_noted_on_that(
    numbers: Any, autojump_clock: Any
) -> None:
    async with pool_of(2) as pool:
        with pytest.raises(KeyError) as caught:
            async with pool.as_completed(forever_with, numbers()):
                await trio.sleep(1)
                raise KeyError
    assert caught.value.__notes__ == ["the input raised ValueError('lost')"]


async def test_a_start_that_was_refused_is_not_told_beside_a_cancellation(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        with trio.move_on_after(2) as scope:
            async with pool.as_completed(forever_with, iter(range(9))):
                await trio.sleep(1)
                pool._state.stop_starting("the pool is draining")
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_what_an_input_raises_while_a_generator_around_is_closed_comes_out(autojump_clock: Any) -> None:
    async def through(pool: Any) -> AsyncGenerator[object, None]:
        async with pool.as_completed(value, _fails_when_closed()) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async with pool_of(2) as pool:
        generator = through(pool)
        await anext(generator)
        with pytest.raises(ValueError, match="lost"):
            await generator.aclose()
