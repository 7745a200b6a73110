"""The verbs that run many agents in one call, in agents on workers: the same programs run in place too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from threading import Lock
from typing import Any

import pytest
import trio
import trio.testing

import agentpool
from agentpool import Aborted, AgentContext, Completed, Failed, WorkerLostError, open_agent_pool, placed
from agentpool.testing import InProcessPlacement

Program = Callable[[AgentContext], Awaitable[Any]]


def told(error: BaseException) -> Any:
    """Return what is compared of an error: its notes of the way are left out."""
    if isinstance(error, BaseExceptionGroup):
        return (type(error).__name__, error.message, [told(part) for part in error.exceptions])
    notes = [each for each in getattr(error, "__notes__", ()) if not each.startswith("raised in ")]
    return (type(error).__name__, str(error), notes)


def shown(outcome: Any) -> Any:
    """Return what is compared of an outcome."""
    error = getattr(outcome, "error", None)
    what = told(error) if error is not None else getattr(outcome, "value", None)
    reason = getattr(outcome, "reason", None)
    return (type(outcome).__name__, outcome.agent_id, outcome.parent_id, reason, what)


async def double(ctx: AgentContext, x: int) -> int:
    await trio.sleep(10 + x)
    return 2 * x


async def sleep_for(ctx: AgentContext, seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def forever(ctx: AgentContext, item: int = 0) -> None:
    await trio.sleep_forever()


async def refuse_odd(ctx: AgentContext, x: int) -> int:
    await trio.sleep(x)
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


# -- inputs ------------------------------------------------------------------------------------


async def count(log: list[Any], until: int = 1_000_000) -> AsyncIterator[int]:
    try:
        for i in range(until):
            log.append(i)
            yield i
    finally:
        log.append("closed")


def count_up(log: list[Any], until: int = 1_000_000) -> Iterator[int]:
    try:
        for i in range(until):
            log.append(i)
            yield i
    finally:
        log.append("closed")


class ByIndex:
    def __getitem__(self, index: int) -> int:
        if index > 3:
            raise IndexError
        return index


async def failing(error: Exception, after: int) -> AsyncIterator[int]:
    for i in range(after):
        yield i
    raise error


class RaisesStop:
    def __iter__(self) -> RaisesStop:
        return self

    def __next__(self) -> int:
        raise StopAsyncIteration("early")


# -- programs ----------------------------------------------------------------------------------


async def every_input(ctx: AgentContext) -> Any:
    log: list[Any] = []
    inputs: list[Any] = [
        [1, 2],
        {3: "three", 4: "four"},
        range(3),
        (x for x in range(5)),
        ByIndex(),
        count(log, 5),
        [],
        iter(()),
        count(log, 0),
    ]
    found = [[shown(each) for each in await ctx.map(double, items)] for items in inputs]
    return found, log


async def outcomes_of_map(ctx: AgentContext) -> Any:
    found = await ctx.map(refuse_odd, iter(range(4)), name="picky", timeout=5)
    return [shown(each) for each in found], [each.name for each in found]


async def outcomes_as_completed(ctx: AgentContext) -> Any:
    found = []
    async with ctx.as_completed(sleep_for, [3, 1, 2]) as outcomes:
        async for outcome in outcomes:
            found.append(shown(outcome))
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)
    return found


async def failing_inputs(ctx: AgentContext) -> Any:
    found: list[Any] = []
    error = ValueError("no more")
    with pytest.raises(ValueError, match="no more") as caught:
        await ctx.map(sleep_for, failing(error, 2))
    assert caught.value is error
    found.append(told(error))
    try:
        await ctx.map(double, RaisesStop())
    except StopAsyncIteration as raised:
        found.append(told(raised))
    error = ValueError("no more")
    async with ctx.as_completed(double, failing(error, 2)) as outcomes:
        with pytest.raises(ValueError, match="no more") as caught:
            async for outcome in outcomes:
                found.append(shown(outcome))
        assert caught.value is error
        found.append(told(error))
    try:
        async with ctx.as_completed(double, RaisesStop()) as outcomes:
            async for _ in outcomes:
                raise AssertionError("there is none")
    except RuntimeError as raised:
        found.append((told(raised), told(raised.__cause__)))  # type: ignore[arg-type]
    return found


async def errors_that_meet(ctx: AgentContext) -> Any:
    """The input fails, and something else leaves the block before anybody was told."""
    found: list[Any] = []
    try:
        async with ctx.as_completed(double, failing(ValueError("the input"), 1)):
            await trio.sleep(25)
            raise KeyError("the block")
    except KeyError as error:
        found.append(told(error))
    try:
        async with ctx.as_completed(double, failing(ValueError("the input"), 1)):
            await trio.sleep(5)
    except ValueError as error:
        found.append(told(error))
    with trio.CancelScope() as scope:
        try:
            async with ctx.as_completed(double, failing(ValueError("the input"), 1)):
                await trio.sleep(5)
                scope.cancel()
                await trio.sleep_forever()
        except* ValueError as group:
            found.append(told(group))
    return found, scope.cancelled_caught


async def left_early(ctx: AgentContext) -> Any:
    log: list[Any] = []
    found = []
    async with ctx.as_completed(double, count(log)) as outcomes:
        async for outcome in outcomes:
            found.append(shown(outcome))
            if len(found) == 4:
                break
    return found, log[-1], len(log) < 12


async def cancelled_map(ctx: AgentContext) -> Any:
    log: list[Any] = []
    with trio.move_on_after(5) as scope:
        await ctx.map(forever, count(log))
    with trio.move_on_after(5) as second:
        await ctx.map(forever, [1, 2, 3])
    return scope.cancelled_caught, second.cancelled_caught, log[-1], await ctx.join_next()


async def cancelled_between(ctx: AgentContext) -> Any:
    """One outcome is waited for in vain, while agents hold every slot; the block goes on after that."""
    log: list[Any] = []
    with trio.move_on_after(20) as outer:
        async with ctx.as_completed(sleep_for, [1, 30, 30, 30]) as outcomes:
            first = shown(await anext(outcomes))
            await anext(outcomes)
    with trio.move_on_after(20) as second:
        async with ctx.as_completed(forever, count(log)) as outcomes:
            await anext(outcomes)
    return first, outer.cancelled_caught, second.cancelled_caught, log[-1]


async def answering(ctx: AgentContext) -> None:
    async for message in ctx.inbox:
        ctx.reply(message, message.content + 1)


async def input_that_asks(ctx: AgentContext) -> Any:
    """Its input waits in verbs of the agent, which lends its slot meanwhile."""
    server = await ctx.spawn(answering)

    async def numbers() -> AsyncIterator[int]:
        number = 0
        while number < 4:
            number = await ctx.ask(server.id, number)
            yield number

    found = [shown(each) for each in await ctx.map(double, numbers())]
    async with ctx.as_completed(double, numbers()) as outcomes:
        found += [shown(each) async for each in outcomes]
    server.abort("enough")
    return found, shown(await server.wait())


async def input_that_waits_for_outcomes(ctx: AgentContext) -> Any:
    """Each item comes only when somebody has taken the outcome of the one before."""
    taken = trio.Event()

    async def one_by_one() -> AsyncIterator[int]:
        nonlocal taken
        for i in range(3):
            yield i
            await taken.wait()
            taken = trio.Event()

    found = []
    async with ctx.as_completed(double, one_by_one()) as outcomes:
        async for outcome in outcomes:
            found.append(shown(outcome))
            taken.set()
    return found


async def asks_its_parent(ctx: AgentContext, item: int) -> str:
    await trio.sleep(100)
    try:
        await ctx.ask(ctx.parent_id, item)
    except agentpool.DeadlockError as error:
        return f"refused: {error}"
    return "answered"


async def hopeless(ctx: AgentContext) -> Any:
    found = []
    for items in ([1], iter([1])):
        try:
            found.append([shown(each) for each in await ctx.map(asks_its_parent, items)])
        except agentpool.DeadlockError as error:
            found.append(told(error))
    try:
        async with ctx.as_completed(asks_its_parent, [1]) as outcomes:
            found.append([shown(each) async for each in outcomes])
    except agentpool.DeadlockError as error:
        found.append(told(error))
    return found


async def races(ctx: AgentContext) -> Any:
    racers = [partial(sleep_for, seconds=9), partial(sleep_for, seconds=1)]
    won = await ctx.race(*racers, partial(refuse_odd, x=3))
    nobody = await ctx.race(partial(refuse_odd, x=1), partial(refuse_odd, x=3))
    with pytest.raises(ValueError, match="a race needs at least one agent"):
        await ctx.race()
    with trio.move_on_after(3) as scope:
        await ctx.race(forever, forever)
    return shown(won), shown(nobody), scope.cancelled_caught


async def votes(ctx: AgentContext) -> Any:
    asked: list[int] = []

    def parity(value: int) -> int:
        asked.append(value)
        return value % 2

    found: list[Any] = [
        await ctx.vote(double, 4, n=3),
        await ctx.vote(double, 4, n=3, key=parity),
        await ctx.vote(refuse_odd, 3, n=3, key=parity),
        await ctx.vote(refuse_odd, 3, n=3),
        await ctx.vote(unhashable, n=1, key=len),
    ]
    errors = []
    for options in ({"n": 1}, {"n": 1, "key": lambda value: value}, {"n": 0}, {"n": 2, "quorum": 3}):
        try:
            await ctx.vote(unhashable, **options)
        except (TypeError, ValueError) as error:
            errors.append(told(error))
    shown_votes = [
        (each.winner, each.votes, each.agreed, [shown(outcome)[0::4] for outcome in each.outcomes])
        for each in found
    ]
    return shown_votes, errors, asked


async def unhashable(ctx: AgentContext) -> list[int]:
    return [1]


async def misused(ctx: AgentContext) -> Any:
    errors = []
    with pytest.raises(TypeError, match="items must be an iterable"):
        await ctx.map(double, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="items must be an iterable"):
        ctx.as_completed(double, count)  # type: ignore[arg-type]
    block = ctx.as_completed(double, iter([1, 2]))
    async with block as outcomes:
        try:
            await block.__aenter__()
        except RuntimeError as error:
            errors.append(told(error))
        async with trio.open_nursery():
            pass
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(anext, outcomes)
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(8)
            try:
                await anext(outcomes)
            except trio.BusyResourceError as error:
                errors.append(told(error))
    never_entered = ctx.as_completed(double, count_up([]))
    del never_entered
    return errors


async def never_left(ctx: AgentContext) -> Any:
    block = ctx.as_completed(forever, count([]))
    await block.__aenter__()
    return "done"


async def never_left_collection(ctx: AgentContext) -> Any:
    block = ctx.as_completed(sleep_for, [1, 2, 3])
    await block.__aenter__()
    return "done"


async def many_nested(ctx: AgentContext) -> Any:
    found = []
    async with ctx.as_completed(double, count([], 3)) as first:
        async with ctx.as_completed(double, [5, 6]) as second:
            found += [shown(each) async for each in second]
        found += [shown(each) async for each in first]
    return sorted(each[-1] for each in found)


PROGRAMS = [
    every_input,
    outcomes_of_map,
    outcomes_as_completed,
    failing_inputs,
    errors_that_meet,
    left_early,
    cancelled_map,
    cancelled_between,
    input_that_asks,
    input_that_waits_for_outcomes,
    hopeless,
    races,
    votes,
    misused,
    never_left,
    never_left_collection,
    many_nested,
]


async def run(program: Program, cap: int, placement: InProcessPlacement | None) -> Any:
    with trio.fail_after(600):
        async with open_agent_pool(max_concurrent=cap, placement=placement) as pool:
            handle = await pool.spawn(placed(program))
            outcome = await handle.wait()
        return shown(outcome)


def in_virtual_time(fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    return trio.run(fn, *args, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("loss", [0, 0.1])
@pytest.mark.parametrize("cap", [1, 4])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_as_in_place(program: Program, cap: int, loss: float) -> None:
    expected = in_virtual_time(run, program, cap, None)
    placement = InProcessPlacement(2, loss=loss)
    assert in_virtual_time(run, program, cap, placement) == expected
    assert all(worker.crash is None for worker in placement.workers)
    assert placement.workers


# -- what has no like in place -----------------------------------------------------------------


async def maps_forever(ctx: AgentContext) -> Any:
    return await ctx.map(forever, count([]))


async def takes_forever(ctx: AgentContext) -> Any:
    async with ctx.as_completed(forever, count([])) as outcomes:
        await anext(outcomes)


async def takes_of_a_collection(ctx: AgentContext) -> Any:
    async with ctx.as_completed(forever, [1, 2, 3]) as outcomes:
        await anext(outcomes)


@pytest.mark.parametrize("program", [maps_forever, takes_forever, takes_of_a_collection])
@pytest.mark.parametrize("cap", [1, 3])
def test_the_agents_of_a_batch_end_with_the_worker_of_their_owner(program: Program, cap: int) -> None:
    async def main() -> None:
        placement = InProcessPlacement(1)
        with trio.fail_after(100):
            async with open_agent_pool(max_concurrent=cap, placement=placement) as pool:
                handle = await pool.spawn(placed(program))
                await trio.sleep(5)
                assert pool.statistics().spawned > 1
                placement.workers[0].kill()
                outcome = await handle.wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, WorkerLostError)

    in_virtual_time(main)


@pytest.mark.parametrize("program", [maps_forever, takes_forever, takes_of_a_collection])
@pytest.mark.parametrize("cap", [1, 3])
def test_an_owner_that_is_aborted_ends_though_its_agents_hold_every_slot(program: Program, cap: int) -> None:
    async def main() -> None:
        async with open_agent_pool(max_concurrent=cap, placement=InProcessPlacement(1)) as pool:
            handle = await pool.spawn(placed(program))
            await trio.sleep(5)
            handle.abort("enough")
            with trio.fail_after(5):
                outcome = await handle.wait()
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "enough"

    in_virtual_time(main)


async def sends_what_cannot_be(ctx: AgentContext) -> Any:
    async def locks() -> AsyncIterator[Any]:
        yield 1
        yield Lock()

    for make in (lambda: [1, Lock()], locks):
        with pytest.raises(TypeError, match="cannot be sent to another process"):
            await ctx.map(double, make())
        with pytest.raises(TypeError, match="cannot be sent to another process"):
            async with ctx.as_completed(double, make()) as outcomes:
                async for _ in outcomes:
                    pass
    return (await ctx.map(double, [1]))[0].unwrap()


def test_an_item_that_cannot_be_sent_is_refused_where_it_is_given() -> None:
    assert in_virtual_time(run, sends_what_cannot_be, 4, InProcessPlacement(1))[0] == "Completed"


async def goes_on_while_the_pool_drains(ctx: AgentContext) -> Any:
    with pytest.raises(agentpool.PoolClosedError):
        await ctx.map(double, count([]))
    with pytest.raises(agentpool.PoolClosedError):
        async with ctx.as_completed(double, [1]):
            raise AssertionError("it was opened")
    with pytest.raises(agentpool.PoolClosedError):
        await ctx.race(forever)


def test_no_batch_begins_in_a_pool_that_drains() -> None:
    async def main() -> None:
        async with open_agent_pool(max_concurrent=2, placement=InProcessPlacement(1)) as pool:
            handle = await pool.spawn(placed(goes_on_while_the_pool_drains))
            await trio.sleep(5)
            assert not await pool.drain(grace=60)
            assert isinstance(await handle.wait(), Completed)

    in_virtual_time(main)
