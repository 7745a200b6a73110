"""Situations that users of comparable systems reported as bugs, put to agentpool.

Each group begins with the report that it comes from. What was a hang there has to end here, what was
lost there has to be somewhere here.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import traceback
import weakref
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from pool_kit import Running, collector, failing, forever, pool_of, server, sleeper, value

import agentpool
from agentpool import (
    Aborted,
    AgentAbortedError,
    AgentContext,
    AgentFailedError,
    ChildSpec,
    Completed,
    DeadlockError,
    Failed,
    PoolClosedError,
    PoolFullError,
    RestartLimitError,
    RestartPolicy,
    Supervisor,
    UnhandledAgentErrors,
    UnknownAgentError,
    open_agent_pool,
)


@pytest.fixture(autouse=True)
def _no_busy_loop() -> Iterator[None]:
    """Fail a test that spins: virtual time stands still then, so that no deadline ends it."""

    def spins(*_: Any) -> None:
        if trio.lowlevel.in_trio_run():  # and not in pytest, while it tells of the failure
            raise TimeoutError("20 seconds of real time")

    before = signal.signal(signal.SIGALRM, spins)
    signal.setitimer(signal.ITIMER_REAL, 20, 1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


caps = pytest.mark.parametrize("cap", [1, 2, 8])


async def waits(ctx: AgentContext, _: Any = None) -> Any:
    """Lives on until it is aborted, and needs no slot meanwhile."""
    with trio.move_on_after(50_000):
        return await ctx.receive()


async def raises(ctx: AgentContext, error: BaseException, seconds: float = 0) -> None:
    await trio.sleep(seconds)
    raise error


async def asks(ctx: AgentContext, to: int, question: Any = "?") -> Any:
    try:
        return await ctx.ask(to, question)
    except (UnknownAgentError, DeadlockError) as error:
        return type(error)


def values(outcomes: Any) -> list[Any]:
    return [outcome.unwrap() for outcome in outcomes]


# -- exceptions that are hard to handle ------------------------------------------------------------


@dataclass(frozen=True)
class FrozenError(Exception):
    """What contextlib cannot let through: its `__exit__` assigns `__traceback__`."""

    what: str = "busy"


class UnprintableError(Exception):
    def __repr__(self) -> str:
        raise NotImplementedError("no repr")

    __str__ = __repr__


class FalsyError(Exception):
    def __bool__(self) -> bool:
        return False


class FalsyExit(SystemExit):
    def __len__(self) -> int:
        return 0


class UnprintableArgument:
    def __repr__(self) -> str:
        raise NotImplementedError("no repr")


class UnprintableExit(SystemExit):
    def __repr__(self) -> str:
        raise NotImplementedError("no repr")

    __str__ = __repr__


# python/cpython#99856, xerrors/Yuxi#1052: an exception that is a frozen dataclass is replaced by
# FrozenInstanceError where it leaves an (async) context manager, so `except Busy` never matches.


# Neither `pool_of` nor `trio.fail_after` let it through: both are made by contextlib.


@caps
async def test_a_frozen_exception_of_the_body_comes_out_as_it_is(cap: int, autojump_clock: Any) -> None:
    error = FrozenError()
    with trio.move_on_after(100), pytest.raises(FrozenError) as caught:
        async with open_agent_pool(max_concurrent=cap) as pool:
            handle = await pool.spawn(forever)
            raise error
    assert caught.value is error
    assert isinstance(handle.outcome, Aborted)


async def test_a_frozen_exception_of_the_block_of_as_completed_comes_out_as_it_is(
    autojump_clock: Any,
) -> None:
    async def agent(ctx: AgentContext) -> None:
        async with ctx.as_completed(sleeper, range(9)) as done:
            async for _ in done:
                raise FrozenError

    async with pool_of(2) as pool:
        with pytest.raises(FrozenError):
            await agent(pool)  # type: ignore[arg-type]
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is FrozenError


async def test_a_frozen_exception_leaves_the_block_of_events_as_it_is(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        with pytest.raises(FrozenError):
            async with pool.events():
                raise FrozenError


@caps
@pytest.mark.parametrize("ignores", [False, True])
async def test_a_frozen_exception_of_an_agent_is_its_outcome_whatever_its_children_did(
    ignores: bool, cap: int, autojump_clock: Any
) -> None:
    async def agent(ctx: AgentContext, _: Any = None) -> None:
        if ignores:
            await ctx.spawn(failing)
            await trio.sleep(1)
            with trio.move_on_after(1):
                await ctx.receive()
        raise FrozenError

    async with pool_of(cap) as pool:
        outcome = await (await pool.spawn(agent)).wait()
        assert isinstance(outcome, Failed)
        assert type(outcome.error) is FrozenError
        assert [type(o.error) for o in await pool.map(agent, [1, 2])] == [FrozenError] * 2


async def test_a_frozen_exception_of_the_body_comes_out_though_failures_have_to_be_noted(
    autojump_clock: Any,
) -> None:
    with trio.move_on_after(100), pytest.raises(FrozenError):
        async with open_agent_pool(max_concurrent=2) as pool:
            await pool.spawn(failing)
            await trio.sleep(1)
            raise FrozenError


async def test_an_agent_whose_frozen_exception_comes_through_a_pool_of_its_own_fails_with_it(
    autojump_clock: Any,
) -> None:
    async def agent(ctx: AgentContext) -> None:
        async with open_agent_pool(max_concurrent=1) as inner:
            await inner.spawn(forever)
            raise FrozenError

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent, restart=RestartPolicy(max_restarts=1))).wait()
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is FrozenError
    assert outcome.restarts == 1


# Textualize/textual#2588, celery/celery#298, devdanzin/fusil#264: an argument or an exception whose
# repr raises brings the whole worker down, and hides what happened.


@caps
async def test_an_agent_may_fail_with_an_exception_that_cannot_be_printed(
    cap: int, autojump_clock: Any
) -> None:
    async def listens(ctx: AgentContext) -> None:
        await ctx.receive()  # lends its slot, so that its parent goes on

    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(listens)
        raise UnprintableError

    async with pool_of(cap) as pool:
        neighbour = await pool.spawn(value, UnprintableArgument())
        for agent in (parent, failing):
            handle = await pool.spawn(agent, *([UnprintableError()] if agent is failing else []))
            outcome = await handle.wait()
            assert isinstance(outcome, Failed)
            assert type(outcome.error) is UnprintableError
            with pytest.raises(AgentFailedError):
                outcome.unwrap()
        assert isinstance(await neighbour.wait(), Completed)
        assert (pool.active_count, pool.statistics().running) == (0, 0)


async def test_an_unprintable_exception_of_the_body_comes_out_and_the_agents_are_aborted(
    autojump_clock: Any,
) -> None:
    with pytest.raises(UnprintableError):
        async with pool_of(2) as pool:
            handle = await pool.spawn(forever)
            raise UnprintableError
    assert isinstance(handle.outcome, Aborted)


async def test_unprintable_failures_that_nobody_looked_at_come_out_and_can_be_noted(
    autojump_clock: Any,
) -> None:
    with pytest.raises(UnhandledAgentErrors) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(failing, UnprintableError())
    assert [type(error) for error in caught.value.exceptions] == [UnprintableError]

    with pytest.raises(KeyError):
        async with pool_of(2) as pool:
            await pool.spawn(failing, UnprintableError())
            await trio.sleep(1)
            raise KeyError


async def test_an_ignored_child_that_failed_unprintably_does_not_hide_the_error_of_its_parent(
    autojump_clock: Any,
) -> None:
    async def agent(ctx: AgentContext) -> None:
        await ctx.spawn(failing, UnprintableError())
        await trio.sleep(1)
        raise KeyError

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is KeyError


async def test_a_fatal_exception_that_cannot_be_printed_leaves_the_pool(autojump_clock: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        async with pool_of(2) as pool:
            await pool.spawn(forever)
            await pool.spawn(failing, UnprintableExit(3), 1)
    assert caught.value.code == 3


# python/cpython#132308, #132129, langchain-ai/langchain#39780: an exception that is false, such as a
# collection of findings that is empty, is taken for no exception: it is not retried, or lost.


@caps
async def test_an_exception_that_is_false_is_an_exception(cap: int, autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> str:
        await ctx.spawn(raises, FalsyError())
        return "kept"

    async def in_cleanup(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise FalsyError

    async with pool_of(cap) as pool:
        outcome = await (await pool.spawn(raises, FalsyError())).wait()
        assert isinstance(outcome, Failed)
        assert type(outcome.error) is FalsyError
        with pytest.raises(AgentFailedError) as caught:
            outcome.unwrap()
        assert type(caught.value.__cause__) is FalsyError
        again = await pool.spawn(raises, FalsyError(), restart=RestartPolicy(max_restarts=2))
        assert (await again.wait()).restarts == 2
        handle = await pool.spawn(parent)
        assert isinstance((await handle.wait()).error, UnhandledAgentErrors)
        handle = await pool.spawn(in_cleanup)
        await trio.sleep(1)
        handle.abort()
        assert isinstance(await handle.wait(), Failed)
        for asynchronous in (False, True):
            with pytest.raises(FalsyError):
                await pool.map(value, Ends(FalsyError(), asynchronous=asynchronous))
            with pytest.raises(FalsyError):
                async with pool.as_completed(value, Ends(FalsyError(), asynchronous=asynchronous)) as done:
                    async for _ in done:
                        pass


@caps
async def test_an_exception_that_is_false_leaves_the_pool_from_its_body_and_from_agents(
    cap: int, autojump_clock: Any
) -> None:
    with pytest.raises(FalsyError):
        async with pool_of(cap) as pool:
            handle = await pool.spawn(forever)
            raise FalsyError
    assert isinstance(handle.outcome, Aborted)
    with pytest.raises(UnhandledAgentErrors) as caught:
        async with pool_of(cap) as pool:
            await pool.spawn(raises, FalsyError())
    assert [type(error) for error in caught.value.exceptions] == [FalsyError]
    with pytest.raises(FalsyExit):
        async with pool_of(cap) as pool:
            await pool.spawn(raises, FalsyExit(3), restart=RestartPolicy("permanent", max_restarts=3))
            await trio.sleep_forever()


# ray-project/ray#60521, python/cpython#112182, agronholm/anyio#475: StopIteration or StopAsyncIteration
# that a task raises leaves its future pending for ever, or ends the loop over the results.


def _plain(ctx: AgentContext, error: type[Exception]) -> Any:
    raise error


async def _raises(ctx: AgentContext, error: type[Exception]) -> None:
    raise error


@caps
@pytest.mark.parametrize("agent", [_plain, _raises])
@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration])
async def test_an_agent_that_raises_the_end_of_an_iteration_has_failed(
    error: type[Exception], agent: Any, cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        assert isinstance(await (await pool.spawn(agent, error)).wait(), Failed)
        assert [type(o) for o in await pool.map(agent, [error] * 3)] == [Failed] * 3
        seen = 0
        async with pool.as_completed(agent, [error] * 3) as done:
            async for outcome in done:
                assert isinstance(outcome, Failed)
                seen += 1
        assert seen == 3
        with pytest.raises(AgentFailedError):
            await (await pool.spawn(agent, error)).result()
        again = await pool.spawn(agent, error, restart=RestartPolicy(max_restarts=2))
        assert (await again.wait()).restarts == 2


class Ends:
    """An iterable whose third item is an error."""

    def __init__(self, error: BaseException, *, asynchronous: bool) -> None:
        self.error = error
        self.given = 0
        if asynchronous:
            self.__class__ = EndsAsync

    def __iter__(self) -> Iterator[int]:
        return self  # type: ignore[return-value]

    def __next__(self) -> int:
        self.given += 1
        if self.given == 3:
            raise self.error
        return 0


class EndsAsync(Ends):
    __iter__ = None  # type: ignore[assignment]

    def __aiter__(self) -> AsyncIterator[int]:
        return self  # type: ignore[return-value]

    async def __anext__(self) -> int:
        return self.__next__()


@caps
@pytest.mark.parametrize("in_agent", [False, True])
@pytest.mark.parametrize(("error", "asynchronous"), [(StopAsyncIteration, False), (StopIteration, True)])
async def test_an_input_that_raises_the_end_of_the_other_kind_of_iteration_is_an_error(
    error: type[Exception], asynchronous: bool, in_agent: bool, cap: int, autojump_clock: Any
) -> None:
    async def iterate(ctx: Any) -> None:
        async with ctx.as_completed(sleeper, Ends(error(), asynchronous=asynchronous)) as done:
            async for _ in done:
                pass

    async def map_(ctx: Any) -> None:
        await ctx.map(sleeper, Ends(error(), asynchronous=asynchronous))

    async with pool_of(cap) as pool:
        for verb in (map_, iterate):
            if in_agent:
                assert isinstance(await (await pool.spawn(verb)).wait(), Failed), verb
            else:
                with pytest.raises((StopAsyncIteration, RuntimeError)):
                    await verb(pool)


# python-trio/trio#2577, agronholm/anyio#145, HypothesisWorks/hypothesis#4115: exceptions that are raised
# again on their way through task groups get a cycle in their chain, and who walks it hangs.


@caps
async def test_an_original_error_that_is_raised_again_at_each_level_can_still_be_printed(
    cap: int, autojump_clock: Any
) -> None:
    async def level(ctx: AgentContext, depth: int) -> None:
        if not depth:
            raise ValueError("the origin")
        child = await ctx.spawn(level, depth - 1)
        try:
            await child.result()
        except AgentFailedError as error:
            origin = error.__cause__
        raise origin  # type: ignore[misc]

    async with pool_of(cap) as pool:
        outcome = await (await pool.spawn(level, 5)).wait()
    assert isinstance(outcome, Failed)
    assert outcome.error.args == ("the origin",)
    assert "the origin" in "".join(traceback.format_exception(outcome.error))


@caps
async def test_one_exception_object_may_be_the_error_of_many_agents_and_lives(
    cap: int, autojump_clock: Any
) -> None:
    error = ValueError("shared")
    async with pool_of(cap) as pool:
        outcomes = await pool.map(lambda ctx, _: failing(ctx, error), range(20))
        assert all(isinstance(o, Failed) and o.error is error for o in outcomes)
        again = await pool.spawn(failing, error, restart=RestartPolicy(max_restarts=5))
        assert (await again.wait()).restarts == 5
        for outcome in outcomes:
            with pytest.raises(AgentFailedError) as caught:
                outcome.unwrap()
            assert caught.value.__cause__ is error
    assert "shared" in "".join(traceback.format_exception(error))


# -- depth -----------------------------------------------------------------------------------------


# python/cpython#80637, python-trio/trio#3290, erdewit/nest_asyncio#43: cancelling a deep chain of tasks
# that wait for each other ends in RecursionError, and the tasks live on.

DEEP = """
import sys, trio, trio.testing
from agentpool import Aborted, AgentTimeoutError, Failed, PoolLimits, open_agent_pool

how, cap, depth = sys.argv[1], int(sys.argv[2]), 1500

async def chain(ctx, depth):
    if depth:
        return await (await ctx.spawn(chain, depth - 1)).result()
    if how == "well":
        return "well"
    await trio.sleep(2)
    if how == "fails":
        raise ValueError
    await trio.sleep_forever()

async def main():
    with trio.CancelScope() as scope:
        try:
            async with open_agent_pool(max_concurrent=cap, limits=PoolLimits(depth=depth)) as pool:
                root = await pool.spawn(chain, depth, timeout=5 if how == "timeout" else None)
                await trio.sleep(1)
                if how != "well":
                    assert pool.active_count == depth + 1
                match how:
                    case "handle":
                        root.abort("enough")
                    case "abort_all":
                        pool.abort_all("enough")
                    case "scope":
                        scope.cancel()
                    case "body":
                        raise KeyError
                await root.wait()
        except KeyError:
            assert how == "body"
    assert pool.active_count == 0
    match how:
        case "well":
            assert root.outcome.unwrap() == "well"
        case "fails":
            assert isinstance(root.outcome, Failed)
        case "timeout":
            assert isinstance(root.outcome.error, AgentTimeoutError)
        case _:
            assert isinstance(root.outcome, Aborted)

trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
"""


@pytest.mark.long
@pytest.mark.parametrize("cap", [1, pytest.param(8, marks=pytest.mark.once)])
@pytest.mark.parametrize("how", ["handle", "abort_all", "scope", "timeout", "body", "well", "fails"])
def test_a_deep_chain_of_agents_that_wait_for_each_other_ends(how: str, cap: int) -> None:
    # In a process of its own: what goes wrong here takes trio, and the tests after it, along.
    path = str(Path(agentpool.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", DEEP, how, str(cap)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-500:]


# -- slots -----------------------------------------------------------------------------------------


# ray-project/ray#2627, ray-project/ray#1273: `wait` inside of a task keeps its CPU, where `get` gives it
# back, so that a task which waits for a subtask never ends with one CPU.

WAYS = ["wait", "result", "join_next", "join_all", "map", "as_completed", "race", "vote", "nothing"]


async def _by(ctx: Any, way: str, agent: Any, *args: Any) -> None:
    match way:
        case "wait":
            await (await ctx.spawn(agent, *args)).wait()
        case "result":
            await (await ctx.spawn(agent, *args)).result()
        case "join_next":
            await ctx.spawn(agent, *args)
            await ctx.join_next()
        case "join_all":
            await ctx.spawn(agent, *args)
            await ctx.join_all()
        case "map":
            await ctx.map(lambda c, _: agent(c, *args), [0])
        case "as_completed":
            async with ctx.as_completed(lambda c, _: agent(c, *args), iter([0])) as done:
                assert len([outcome async for outcome in done]) == 1
        case "race":
            await ctx.race(lambda c: agent(c, *args))
        case "vote":
            await ctx.vote(agent, *args, n=1)
        case _:
            await ctx.spawn(agent, *args)


@caps
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limited", [False, True])
async def test_an_agent_lends_its_slot_in_whichever_way_it_waits_for_its_children(
    limited: bool, way: str, cap: int, autojump_clock: Any
) -> None:
    running = Running()

    async def nested(ctx: AgentContext, depth: int) -> None:
        with running:
            await trio.sleep(1)
        if depth:
            with trio.move_on_after(1000 if limited else float("inf")):
                await _by(ctx, way, nested, depth - 1)
        with running:
            await trio.sleep(1)

    async with pool_of(cap) as pool:
        await pool.map(nested, [3] * 3)
        assert pool.statistics().ended == 12
    assert running.peak <= cap


# ray-project/ray#1273 (comment), dask/distributed#4738, #5882: a task that waited goes on beside the one
# that took its CPU, so that more run than there are CPUs.


@caps
async def test_after_every_kind_of_wait_an_agent_runs_only_with_a_slot(cap: int, autojump_clock: Any) -> None:
    running = Running()

    async def works(ctx: AgentContext, seconds: float) -> None:
        with running:
            await trio.sleep(seconds)

    async def agent(ctx: AgentContext, box: int) -> None:
        for way in WAYS:
            with running:
                await trio.sleep(0.3)
            with trio.move_on_after(0.5):
                await _by(ctx, way, works, 0.7)
            with running:
                await trio.sleep(0.1)
            with trio.move_on_after(0.2):
                await ctx.receive()
            with running:
                await trio.sleep(0.1)
            await ctx.ask(box, 1)

    async with pool_of(cap) as pool:
        box = await pool.spawn(server)
        await pool.map(agent, [box.id] * 6)
    assert running.peak <= cap


# python/asyncio#270, python/cpython#90155, agronholm/anyio#1145, Netflix/concurrency-limits#179: who is
# cancelled in the moment in which it is given the semaphore takes it along, and others wait for ever.


@caps
@pytest.mark.parametrize("delay", [0.0, 1.0, 1.5])
async def test_spawns_that_are_cancelled_as_their_slot_gets_free_take_no_slot_along(
    delay: float, cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        for _ in range(10):
            await pool.fan_out([lambda ctx: sleeper(ctx, 1.0)] * cap)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(_spawns_for, pool, delay)
                nursery.start_soon(pool.spawn, value)
            await pool.join_all()
        running = Running()

        async def counted(ctx: AgentContext, _: int) -> None:
            with running:
                await trio.sleep(1)

        await pool.map(counted, range(cap))
        assert running.peak == cap


async def _spawns_for(pool: Any, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await pool.spawn(sleeper, 0.5)


@caps
@pytest.mark.parametrize("how", ["abort", "scope", "timeout"])
async def test_an_agent_that_is_ended_as_it_is_woken_leaves_its_slot_to_the_next(
    how: str, cap: int, autojump_clock: Any
) -> None:
    ends: list[int] = []

    async def waiter(ctx: AgentContext) -> None:
        with trio.CancelScope() as scope:
            scopes[ctx.id] = scope
            await ctx.receive()
            await trio.sleep(1)
        ends.append(ctx.id)

    scopes: dict[int, trio.CancelScope] = {}
    async with pool_of(cap) as pool:
        first = await pool.spawn(waiter, timeout=5.0 if how == "timeout" else None)
        others = [await pool.spawn(waiter) for _ in range(3)]
        await trio.sleep(1)
        blockers = await pool.fan_out([lambda ctx: sleeper(ctx, 4.0)] * cap)
        await trio.sleep(4.0)  # they end in this very step of the clock
        for handle in (first, *others):
            try:
                await pool.send(handle.id, "go")
            except UnknownAgentError:
                assert (handle, how) == (first, "timeout")
        match how:
            case "abort":
                first.abort()
            case "scope":
                scopes[first.id].cancel()
        for handle in (*blockers, *others):
            assert isinstance(await handle.wait(), Completed)
        await first.wait()
        assert pool.statistics().running == 0
    assert set(ends) >= {handle.id for handle in others}


# MagicStack/asyncpg#548, python/asyncio#343: a result that comes in the moment of the timeout is dropped,
# and the resource or the item with it.


@caps
@pytest.mark.parametrize("way", ["receive", "ask", "wait", "join_next", "as_completed"])
async def test_what_arrives_in_the_moment_of_the_timeout_is_had_now_or_later(
    way: str, cap: int, autojump_clock: Any
) -> None:
    rounds = 12

    async def taker(ctx: AgentContext) -> int:
        got = 0
        if way == "as_completed":
            async with ctx.as_completed(sleeper, [3.0] * rounds) as done:
                while got < rounds:
                    with trio.move_on_after(3.0):
                        await anext(done)
                        got += 1
            return got
        handles = []
        if way in ("wait", "join_next"):
            handles = [await ctx.spawn(sleeper, 3.0) for _ in range(rounds)]
        for number in range(rounds * 20):
            with trio.move_on_after(3.0):
                match way:
                    case "receive":
                        await ctx.receive()
                        got += 1
                    case "ask":
                        await ctx.ask(box, number)
                        got += 1
                    case "wait":
                        if not handles:
                            break
                        await handles[0].wait()
                        handles.pop(0)
                        got += 1
                    case _:
                        if await ctx.join_next() is None:
                            break
                        got += 1
            if got == rounds:
                break
        return got

    async def slow_server(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            await trio.sleep(3.0 if message.content % 2 else 2.9)
            ctx.reply(message, 0)

    async def sends(ctx: AgentContext, to: int) -> None:
        for number in range(rounds):
            await trio.sleep(3.0)
            await ctx.send(to, number)

    async with pool_of(cap) as pool:
        box = (await pool.spawn(slow_server)).id if way == "ask" else 0
        agent = await pool.spawn(taker)
        if way == "receive":
            await pool.spawn(sends, agent.id)
        assert await agent.result() == rounds


# -- the number of slots changes -------------------------------------------------------------------


# agronholm/anyio#1223, #646: a limit that is lowered below what is borrowed and raised again lets more in
# than fit, because the difference is counted and not the room; or wakes nobody.


@pytest.mark.parametrize("lends", [False, True])
async def test_a_limit_that_was_lowered_and_raised_again_lets_in_no_more_than_fit(
    lends: bool, autojump_clock: Any
) -> None:
    running = Running()

    async def agent(ctx: AgentContext) -> None:
        if lends:
            with trio.move_on_after(0.5):
                await ctx.receive()
        with running:
            await trio.sleep(10)

    async with pool_of(4) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(pool.spawn, agent)
            await trio.sleep(1)
            for number in (1, 2, 4, 1, 3):
                pool.max_concurrent = number
                await trio.sleep(0.1)
                assert running.now == 4
            await trio.sleep(10)
            assert running.now <= 4
            pool.max_concurrent = 5
            await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics().running <= 5
        await pool.join_all()
    assert running.peak <= 5
    assert pool.statistics().ended == 12


@caps
async def test_a_tree_of_agents_ends_while_the_limit_jumps_about(cap: int, autojump_clock: Any) -> None:
    async def tree(ctx: AgentContext, depth: int) -> int:
        await trio.sleep(0.3)
        if not depth:
            return 1
        return 1 + sum(values(await ctx.map(tree, [depth - 1] * 2)))

    async def jumps(pool: Any) -> None:
        for number in [5, 1, 3, 1, 8, 2, 1, 1, 4] * 5:
            pool.max_concurrent = number
            await trio.sleep(0.2)
        pool.max_concurrent = 1

    async with pool_of(cap) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(jumps, pool)
            assert values(await pool.map(tree, [4, 4])) == [31, 31]


async def test_a_limit_that_is_raised_inside_of_as_completed_lets_the_input_go_on(
    autojump_clock: Any,
) -> None:
    started: list[int] = []

    async def agent(ctx: AgentContext, number: int) -> int:
        started.append(number)
        await trio.sleep(1)
        return number

    for items in (range(20), iter(range(20))):
        started.clear()
        async with pool_of(1) as pool, pool.as_completed(agent, items) as done:
            await trio.sleep(10)
            pool.max_concurrent = 4
            assert (await anext(done)).unwrap() == 0
            await trio.sleep(10)
            assert len(started) >= 5
            pool.max_concurrent = 1
            assert sorted([outcome.unwrap() async for outcome in done]) == list(range(1, 20))


# golang/go#70284, neilotoole/errgroup#6: spawning from one task while another waits for the group hangs, or
# the group is thought to have ended in between.


@caps
async def test_join_all_waits_for_what_others_spawn_meanwhile(cap: int, autojump_clock: Any) -> None:
    async with pool_of(cap) as pool:

        async def spawns() -> None:
            for _ in range(5):
                await pool.spawn(sleeper, 2)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spawns)
            await trio.sleep(0.5)
            first = await pool.join_all()
        rest = await pool.join_all()
        assert len(first) + len(rest) == 5
        assert await pool.join_next() is None


# neilotoole/errgroup#11: with a limit of one, an error among the tasks leaves the group hanging.


@pytest.mark.parametrize("cap", [1, 2])
@pytest.mark.parametrize("position", range(5))
async def test_a_failure_anywhere_in_a_row_does_not_keep_the_others_from_running(
    position: int, cap: int, autojump_clock: Any
) -> None:
    async def agent(ctx: AgentContext, number: int) -> int:
        if number == position:
            raise ValueError
        return number

    async with pool_of(cap) as pool:
        for items in (range(5), iter(range(5))):
            outcomes = await pool.map(agent, items)
            assert [type(o) is Failed for o in outcomes] == [n == position for n in range(5)]
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(pool.spawn, agent, number)
        assert len(await pool.join_all()) == 5


# vxgmichel/aiostream#89: an ordered map with a limit starts nothing more while its first item is slow.


@pytest.mark.parametrize("cap", [2, 8])
@pytest.mark.parametrize("kind", [list, iter])
async def test_a_slow_first_item_of_a_map_does_not_hold_up_the_others(
    kind: Any, cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        outcomes = await pool.map(sleeper, kind([100.0, *[1.0] * (50 * (cap - 1))]))
        assert trio.current_time() == 100
        assert [outcome.agent_id for outcome in outcomes] == sorted(o.agent_id for o in outcomes)


# SamSaffron/term-llm#686, gptme/gptme#3222: a timeout that does or does not count the time in the queue, and
# workers that run on after it.


@caps
@pytest.mark.parametrize("nested", [False, True])
async def test_the_timeout_of_each_agent_of_a_map_counts_from_its_own_start(
    nested: bool, cap: int, autojump_clock: Any
) -> None:
    ended: list[float] = []

    async def agent(ctx: AgentContext, seconds: float) -> float:
        try:
            await trio.sleep(seconds)
            return seconds
        finally:
            ended.append(trio.current_time())

    async def parent(ctx: AgentContext) -> list[Any]:
        return await ctx.map(agent, [1.0, 5.0] * 4, timeout=2.0)

    async with pool_of(cap) as pool:
        if nested:
            outcomes = await (await pool.spawn(parent)).result()
        else:
            outcomes = await pool.map(agent, [1.0, 5.0] * 4, timeout=2.0)
        assert [type(outcome) for outcome in outcomes] == [Completed, Failed] * 4
        assert all(o.duration == (1 if isinstance(o, Completed) else 2) for o in outcomes)
        assert len(ended) == 8
        assert pool.active_count == 0


@caps
async def test_a_limit_around_a_map_ends_what_runs_and_what_waits(cap: int, autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> str:
        with trio.move_on_after(2.5):
            await ctx.map(sleeper, [1000.0] * 50)
        return "on time" if trio.current_time() == 2.5 else f"late: {trio.current_time()}"

    async with pool_of(cap) as pool:
        handle = await pool.spawn(agent)
        assert await handle.result() == "on time"
        assert pool.active_count == 0
        assert pool.statistics().waiting_to_start == 0


# -- actors: questions, and messages at the end ----------------------------------------------------


# jodal/pykka#23: a message that is left in the inbox of an actor that has stopped is never answered, and who
# asked it waits for ever.


@caps
@pytest.mark.parametrize("end", ["returns", "fails", "aborted", "timeout", "abort_all"])
@pytest.mark.parametrize("capacity", [1, 2, 32])
async def test_everybody_who_asks_an_agent_that_ends_is_told(
    capacity: int, end: str, cap: int, autojump_clock: Any
) -> None:
    async def ends(ctx: AgentContext) -> None:
        await ctx.receive()
        if end in ("returns", "fails"):
            await trio.sleep(5)
            if end == "fails":
                raise ValueError
        else:
            with trio.CancelScope() as scope:
                scope.deadline = trio.current_time() + 100
                await trio.sleep_forever()

    async with pool_of(cap, inbox_capacity=capacity) as pool:
        target = await pool.spawn(ends, timeout=5.0 if end == "timeout" else None)
        found: list[Any] = []

        async def from_outside() -> None:
            try:
                found.append(await pool.ask(target.id, "?"))
            except UnknownAgentError as error:
                found.append(type(error))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(from_outside)
            if end != "abort_all":
                askers = [await pool.spawn(asks, target.id) for _ in range(2)]
            await trio.sleep(5)
            if end == "aborted":
                target.abort()
            elif end == "abort_all":
                pool.abort_all()
        assert found == [UnknownAgentError] * 5
        if end != "abort_all":
            assert [await handle.result() for handle in askers] == [UnknownAgentError] * 2
        await target.wait()


# jodal/pykka#48, #76: an actor that asks itself, or waits for its own end, hangs.


@caps
async def test_an_agent_that_waits_for_itself_is_told_so(cap: int, autojump_clock: Any) -> None:
    handles: list[Any] = []

    async def narcissus(ctx: AgentContext, how: str) -> str:
        told = "?"
        await trio.sleep(1)
        try:
            match how:
                case "ask":
                    await ctx.ask(ctx.id, "?")
                case "wait":
                    await handles[-1].wait()
                case "result":
                    await handles[-1].result()
                case "send":
                    for number in range(99):
                        await ctx.send(ctx.id, number)
                case "nursery":
                    async with ctx.open_nursery() as nursery:
                        nursery.start_soon(ctx.receive)
                        await ctx.ask(ctx.id, "?")
        except* DeadlockError:
            told = "told"
        return told

    async with pool_of(cap) as pool:
        for how in ("ask", "wait", "result", "send"):
            handles.append(await pool.spawn(narcissus, how))
            assert await handles[-1].result() == "told", how


async def test_an_agent_that_answers_its_own_question_in_another_task_gets_the_answer(
    autojump_clock: Any,
) -> None:
    async def agent(ctx: AgentContext) -> Any:
        async def answer() -> None:
            message = await ctx.receive()
            ctx.reply(message, message.content + 1)

        async with ctx.open_nursery() as nursery:
            nursery.start_soon(answer)
            return await ctx.ask(ctx.id, 1)

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent)).result() == 2


# jodal/pykka#8: an actor goes on to handle messages after it was stopped.


@caps
async def test_an_aborted_agent_handles_no_more_messages(cap: int, autojump_clock: Any) -> None:
    got: list[int] = []

    async def agent(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            got.append(message.content)

    async with pool_of(cap) as pool:
        handle = await pool.spawn(agent)
        pool.send_nowait(handle.id, 1)
        await trio.sleep(1)
        handle.abort()
        for number in (2, 3):
            pool.send_nowait(handle.id, number)
        await handle.wait()
        with pytest.raises(UnknownAgentError):
            pool.send_nowait(handle.id, 4)
        assert len(pool.dead_letters) == 2
    assert got == [1]


# elle-lisp/elle#1249, atomvm/AtomVM#384, erlang/otp#11245: a reply that comes after the timeout of its call
# is taken for a message, or for the reply to the next call; the server works on for who has gone.


@caps
@pytest.mark.parametrize("outside", [False, True])
async def test_a_late_reply_is_neither_a_message_nor_the_answer_to_another_question(
    outside: bool, cap: int, autojump_clock: Any
) -> None:
    async def slow(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            await trio.sleep(message.content)
            ctx.reply(message, message.content)

    async def asker(ctx: Any, to: int) -> list[Any]:
        answers: list[Any] = []
        for seconds in (10, 1, 7, 2):
            with trio.move_on_after(5) as scope:
                answers.append(await ctx.ask(to, seconds))
            if scope.cancelled_caught:
                answers.append("late")
        await trio.sleep(50)
        answers.append(await ctx.ask(to, 3))
        if ctx is not pool:
            with pytest.raises(trio.WouldBlock):
                ctx.receive_nowait()
        return answers

    async with pool_of(cap) as pool:
        target = await pool.spawn(slow)
        if outside:
            answers = await asker(pool, target.id)
        else:
            answers = await (await pool.spawn(asker, target.id)).result()
        assert answers[-1] == 3
        for asked, answer in zip((10, 1, 7, 2), answers, strict=False):
            assert answer in (asked, "late")
        late = answers.count("late")
        assert late
        assert pool.statistics().dead_letters >= late


@caps
async def test_a_question_that_never_found_room_is_never_worked_on(cap: int, autojump_clock: Any) -> None:
    got: list[Any] = []

    async def slow(ctx: AgentContext) -> None:
        await trio.sleep(100)
        async for message in ctx.inbox:
            got.append(message.content)
            ctx.reply(message, None)

    async with pool_of(cap, inbox_capacity=1) as pool:
        target = await pool.spawn(slow)
        async with trio.open_nursery() as nursery:
            for number in range(4):

                async def ask(number: int = number) -> None:
                    with trio.move_on_after(10):
                        await pool.ask(target.id, number)

                nursery.start_soon(ask)
        assert await pool.ask(target.id, "last") is None
    assert len(got) == 2
    assert got[-1] == "last"


# mdbergmann/cl-gserver#20: an actor that makes actors and asks them all inside of its handler never gets all
# the answers.


@caps
@pytest.mark.parametrize("number", [1, 5, 40])
async def test_an_agent_may_make_servers_and_ask_them_all(number: int, cap: int, autojump_clock: Any) -> None:
    async def boss(ctx: AgentContext) -> list[Any]:
        answers: list[Any] = []

        async def ask(what: int) -> None:
            worker = await ctx.spawn(server)
            answers.append(await ctx.ask(worker.id, what))
            worker.abort()

        question = await ctx.receive()
        async with ctx.open_nursery() as nursery:
            for what in range(number):
                nursery.start_soon(ask, what)
        ctx.reply(question, sorted(answers))
        return sorted(answers)

    async with pool_of(cap) as pool:
        bosses = [await pool.spawn(boss) for _ in range(3)]
        for handle in bosses:
            assert await pool.ask(handle.id, "go") == list(range(number))


# tqwewe/kameo#335, #359: messages that wait in a mailbox are lost when the actor is restarted; who asked
# is told nothing.


@caps
@pytest.mark.parametrize("backoff", [0.0, 3.0])
@pytest.mark.parametrize("capacity", [1, 3, 32])
async def test_messages_survive_restarts_in_order_and_nobody_waits_for_an_answer_in_vain(
    capacity: int, backoff: float, cap: int, autojump_clock: Any
) -> None:
    got: list[int] = []

    async def shaky(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            await trio.sleep(0.1)
            got.append(message.content)
            if message.content % 3 == 1:
                raise ValueError
            ctx.reply(message, message.content)

    async def writer(ctx: AgentContext, to: int) -> None:
        for number in range(0, 20, 2):
            await ctx.send(to, number)

    async with pool_of(cap, inbox_capacity=capacity) as pool:
        policy = RestartPolicy(max_restarts=99, backoff=backoff or 0.0001)
        target = await pool.spawn(shaky, restart=policy)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.spawn, writer, target.id)
            answers = [await asks(pool, target.id, number) for number in range(1, 20, 2)]  # type: ignore[arg-type]
        await trio.sleep(1000)
        target.abort()
        await target.wait()
    assert [n for n in got if n % 2 == 0] == list(range(0, 20, 2))
    assert [n for n in got if n % 2] == list(range(1, 20, 2))
    assert answers == [UnknownAgentError if n % 3 == 1 else n for n in range(1, 20, 2)]


@pytest.mark.parametrize("ended_by", ["abort", "timeout", "drain", "limit"])
async def test_messages_for_an_agent_that_does_not_come_back_are_dead_letters(
    ended_by: str, autojump_clock: Any
) -> None:
    async def shaky(ctx: AgentContext) -> None:
        await ctx.receive()
        raise ValueError

    policy = RestartPolicy(max_restarts=1 if ended_by == "limit" else 99, within=1000, backoff=50.0)
    async with pool_of(1, inbox_capacity=2) as pool:
        target = await pool.spawn(shaky, restart=policy, timeout=20.0 if ended_by == "timeout" else None)
        found: list[Any] = []

        async def ask(number: int) -> None:
            try:
                found.append(await pool.ask(target.id, number))
            except UnknownAgentError as error:
                found.append(type(error))

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(ask, number)
            await trio.sleep(10)
            if ended_by == "abort":
                target.abort()
            elif ended_by == "drain":
                await pool.drain(grace=5)
        await target.wait()
        assert found == [UnknownAgentError] * 6


# ray-project/ray#11990, #6612: a call to an actor that dies before or while it is created hangs for ever.


@caps
@pytest.mark.parametrize("restarts", [0, 3])
async def test_asking_an_agent_that_fails_at_its_first_step_is_answered_with_an_error(
    restarts: int, cap: int, autojump_clock: Any
) -> None:
    policy = RestartPolicy(max_restarts=restarts) if restarts else None
    async with pool_of(cap) as pool:
        target = await pool.spawn(failing, restart=policy)
        with pytest.raises(UnknownAgentError):
            await pool.ask(target.id, "?")
        asker = await pool.spawn(asks, (other := await pool.spawn(failing, restart=policy)).id)
        assert await asker.result() is UnknownAgentError
        assert isinstance(await target.wait(), Failed)
        assert isinstance(await other.wait(), Failed)


# ray-project/ray#17369: actors that are killed right after their creation keep the CPUs, and the next hang.


@caps
@pytest.mark.parametrize("sync", [False, True])
async def test_agents_that_are_aborted_before_their_first_step_leave_their_slots(
    sync: bool, cap: int, autojump_clock: Any
) -> None:
    async with pool_of(cap) as pool:
        for _ in range(5):
            handles = [pool.spawn_nowait(forever) if sync else await pool.spawn(forever) for _ in range(cap)]
            with pytest.raises(PoolFullError):
                pool.spawn_nowait(forever)
            for handle in handles:
                handle.abort("at once")
            outcomes = values([await (await pool.spawn(value, 1)).wait() for _ in range(cap)])
            assert outcomes == [1] * cap
            assert [(await handle.wait()).reason for handle in handles] == ["at once"] * cap


# -- events, topics and full queues ----------------------------------------------------------------


# tailscale/tailscale#18012, n0-computer/iroh-docs#81, flosell/lambdacd#144: a subscriber that publishes, or
# asks, while the publisher waits for room in its queue: both hang.


@caps
@pytest.mark.parametrize("capacity", [1, 4])
async def test_subscribers_that_publish_into_full_inboxes_are_told_or_go_on(
    capacity: int, cap: int, autojump_clock: Any
) -> None:
    told: list[int] = []

    async def gossip(ctx: AgentContext, hears: str, says: str) -> int:
        heard = 0
        with ctx.subscribe(hears):
            async for _ in ctx.inbox:
                heard += 1
                for _ in range(3):
                    try:
                        await ctx.publish(says, heard)
                    except DeadlockError:
                        told.append(ctx.id)
                        return heard
                if heard == 50:
                    break
        return heard

    async with pool_of(cap, inbox_capacity=capacity) as pool:
        pair = [await pool.spawn(gossip, "a", "b"), await pool.spawn(gossip, "b", "a")]
        await trio.sleep(1)
        await pool.send(pair[0].id, "begin")
    for handle in pair:
        assert handle.outcome is not None
        assert handle.outcome.unwrap() > 0
    assert told or trio.current_time() < 100


@caps
async def test_a_sender_that_waits_for_room_and_an_asker_that_waits_for_it_are_a_deadlock(
    cap: int, autojump_clock: Any
) -> None:
    async def writes(ctx: AgentContext, to: int) -> str:
        try:
            for number in range(10):
                await ctx.send(to, number)
        except (DeadlockError, UnknownAgentError) as error:
            return type(error).__name__
        message = await ctx.receive()
        ctx.reply(message, "answer")
        return "wrote"

    async def asks_back(ctx: AgentContext) -> Any:
        message = await ctx.receive()
        return await asks(ctx, message.sender)

    async with pool_of(cap, inbox_capacity=2) as pool:
        target = await pool.spawn(asks_back)
        writer = await pool.spawn(writes, target.id)
        ends = {str(await target.result()), await writer.result()}
    assert any("Deadlock" in end for end in ends)


# eclipse-kuksa/kuksa-databroker#60, Growth-Circle/cadis#1047: one subscriber that does not read blocks
# publishing to everybody, and new subscriptions.


@caps
async def test_a_subscriber_that_does_not_read_blocks_only_who_waits_for_it(
    cap: int, autojump_clock: Any
) -> None:
    async def deaf(ctx: AgentContext) -> None:
        with ctx.subscribe("news"):
            await ctx.send(ctx.parent_id or ctx.id, "ready") if ctx.parent_id else None
            with trio.move_on_after(1000):
                await trio.sleep_forever()

    async def listens(ctx: AgentContext) -> list[Any]:
        got = []
        with ctx.subscribe("news"):
            with trio.move_on_after(300):
                while True:
                    got.append((await ctx.receive()).content)
        return got

    async def publisher(ctx: AgentContext) -> int:
        sent = 0
        for number in range(10):
            with trio.move_on_after(5):
                await ctx.publish("news", number)
                sent += 1
        return sent

    async with pool_of(cap + 1, inbox_capacity=2) as pool:
        quiet = await pool.spawn(deaf)
        ears = await pool.spawn(listens)
        await trio.sleep(1)
        mouth = await pool.spawn(publisher)
        assert await mouth.result() == 2
        late = await pool.spawn(listens)
        quiet.abort()
        heard = await ears.result()
        assert heard[:2] == [0, 1]
        assert await late.result() == []


# -- the end of a pool, and of parents -------------------------------------------------------------


# kquick/Thespian#27: a child that is made while its parent shuts down is left behind.


@caps
@pytest.mark.parametrize("end", ["abort", "abort_all", "timeout", "scope", "body", "drain", "fails"])
@pytest.mark.parametrize("shielded", [False, True])
async def test_children_that_are_made_while_their_parent_ends_end_with_it(
    shielded: bool, end: str, cap: int, autojump_clock: Any
) -> None:
    made: list[Any] = []

    async def parent(ctx: AgentContext) -> None:
        try:
            if end == "fails":
                await trio.sleep(2)
                raise ValueError
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=shielded):
                try:
                    made.append(await ctx.spawn(waits))
                    await ctx.map(sleeper, [1, 1])
                except PoolClosedError:
                    pass

    with trio.CancelScope() as scope:
        try:
            async with pool_of(cap) as pool:
                handle = await pool.spawn(parent, timeout=2.0 if end == "timeout" else None)
                await trio.sleep(2)
                match end:
                    case "abort":
                        handle.abort()
                    case "abort_all":
                        pool.abort_all()
                    case "scope":
                        scope.cancel()
                    case "drain":
                        assert await pool.drain(grace=1) == []
                    case "body":
                        raise KeyError
                await handle.wait()
        except KeyError:
            assert end == "body"
    assert handle.outcome is not None
    assert all(child.outcome is not None for child in made)
    assert pool.active_count == 0


# Kilo-Org/kilocode#11758, rojim666/SztuCode#73, EverMind-AI/Raven#569: sub-agents run on when their parent
# is stopped, above all those that complete, or have not begun, in the same moment.


@caps
@pytest.mark.parametrize("when", [0.0, 1.0, 2.0, 2.5])
async def test_a_parent_that_is_aborted_at_any_moment_takes_all_its_descendants_along(
    when: float, cap: int, autojump_clock: Any
) -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def tree(ctx: AgentContext, depth: int) -> None:
        begun.append(ctx.id)
        try:
            if depth:
                await ctx.map(tree, [depth - 1] * 3)
            await trio.sleep(1)
        finally:
            ended.append(ctx.id)

    async with pool_of(cap) as pool:
        root = await pool.spawn(tree, 3)
        await trio.sleep(when)
        root.abort("stop")
        outcome = await root.wait()
        if isinstance(outcome, Aborted):
            assert outcome.reason == "stop"
        after = len(begun)
        assert sorted(begun) == sorted(ended)
        assert pool.active_count == 0
        await trio.sleep(100)
        assert len(begun) == after
        stats = pool.statistics()
        assert stats.spawned == stats.ended


# pydantic/pydantic-ai#7199: the cancellation of an inner run terminates the outer one, with the inner one's
# history.


@caps
@pytest.mark.parametrize("way", ["result", "wait", "join_next", "map", "ignored"])
async def test_a_child_that_is_aborted_does_not_abort_its_parent(
    way: str, cap: int, autojump_clock: Any
) -> None:
    handles: list[Any] = []

    async def aborts_itself(ctx: AgentContext, _: Any = None) -> None:
        with trio.move_on_after(1):
            await ctx.receive()
        handles[-1].abort("by itself")
        await trio.sleep_forever()

    async def parent(ctx: AgentContext) -> str:
        handles.append(await ctx.spawn(waits if way == "map" else aborts_itself))
        match way:
            case "result":
                with pytest.raises(AgentAbortedError):
                    await handles[-1].result()
            case "wait":
                assert (await handles[-1].wait()).reason == "by itself"
            case "join_next":
                outcome = await ctx.join_next()
                assert isinstance(outcome, Aborted)
            case "map":
                handles[-1].abort("first")
                outcome = await handles[-1].wait()
                assert outcome.reason == "first"
                assert values(await ctx.map(sleeper, [1.0, 2.0])) == [None, None]
        return "goes on"

    async with pool_of(cap) as pool:
        assert await (await pool.spawn(parent)).result() == "goes on"


async def test_a_parent_that_does_not_catch_the_abort_of_its_child_has_failed_and_not_been_aborted(
    autojump_clock: Any,
) -> None:
    async def parent(ctx: AgentContext) -> None:
        child = await ctx.spawn(waits)
        child.abort("inner")
        await child.result()

    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(parent)).wait()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, AgentAbortedError)


# vybestack/llxprt-code#2099: cancelling one of several parallel tool calls of a sub-agent makes it hang.


@caps
async def test_one_of_several_tasks_of_an_agent_can_be_cancelled_while_all_wait(
    cap: int, autojump_clock: Any
) -> None:
    async def agent(ctx: AgentContext, box: int) -> list[Any]:
        done: list[Any] = []

        async def call(number: int) -> None:
            with trio.CancelScope() as scope:
                scopes[number] = scope
                child = await ctx.spawn(sleeper, number, number)
                done.append(await child.result())
                await ctx.ask(box, number)
                return
            done.append("cancelled")

        scopes: dict[int, trio.CancelScope] = {}
        async with ctx.open_nursery() as nursery:
            for number in (3, 4, 5):
                nursery.start_soon(call, number)
            nursery.start_soon(cancel_one, scopes)
        return done

    async def cancel_one(scopes: dict[int, trio.CancelScope]) -> None:
        await trio.sleep(1)
        scopes[4].cancel()

    async with pool_of(cap) as pool:
        box = await pool.spawn(server)
        results = values(await pool.map(agent, [box.id] * 3))
        for result in results:
            assert sorted(map(str, result)) == ["3", "5", "cancelled"]


# vstorm-co/subagents-pydantic-ai#66, mdbergmann/cl-gserver#106: who waits for the end of a task that does not
# honour cancellation hangs, and swallows its own cancellation meanwhile.


@caps
async def test_a_drain_ends_though_an_agent_swallows_its_cancellation(cap: int, autojump_clock: Any) -> None:
    release = trio.Event()

    async def stubborn(ctx: AgentContext) -> str:
        while not release.is_set():
            try:
                with trio.CancelScope(shield=True):
                    await release.wait()
            except trio.Cancelled:
                pass
        return "at last"

    async with pool_of(cap) as pool:
        handle = await pool.spawn(stubborn)
        with trio.fail_after(100):
            survivors = await pool.drain(grace=1)
        assert [survivor.id for survivor in survivors] == [handle.id]
        assert [stuck.id for stuck in pool.statistics().stuck] == [handle.id]
        with trio.move_on_after(3) as scope:
            await handle.wait()
        assert scope.cancelled_caught
        release.set()
        assert await handle.result() == "at last"


@caps
async def test_the_cancellation_of_who_waits_for_a_stubborn_child_is_not_lost(
    cap: int, autojump_clock: Any
) -> None:
    async def stubborn(ctx: AgentContext, _: Any = None) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    async def parent(ctx: AgentContext, way: str) -> None:
        await _by(ctx, way, stubborn)

    for way in WAYS[:-1]:
        async with pool_of(cap) as pool:
            handle = await pool.spawn(parent, way)
            begun = trio.current_time()
            await trio.sleep(1)
            handle.abort("stop")
            outcome = await handle.wait()
            assert isinstance(outcome, Aborted), way
            assert outcome.reason == "stop"
            assert trio.current_time() == begun + 20


# python/cpython#116720, #155433, #95704: an inner task group that ends by itself swallows the cancellation
# of the outer one when both come in the same moment; errors beside it are lost.


@caps
@pytest.mark.parametrize("inner", ["pool", "nursery", "map", "as_completed"])
@pytest.mark.parametrize("outer", ["abort", "timeout", "scope"])
async def test_the_end_of_something_inner_does_not_swallow_the_cancellation_from_outside(
    outer: str, inner: str, cap: int, autojump_clock: Any
) -> None:
    went_on: list[str] = []

    async def agent(ctx: AgentContext) -> None:
        try:
            match inner:
                case "pool":
                    async with pool_of(1) as own:
                        await own.spawn(failing, ValueError("inner"), 1.0)
                case "nursery":
                    async with ctx.open_nursery() as nursery:
                        nursery.start_soon(_raises_after, 1.0)
                        await trio.sleep_forever()
                case "map":
                    await ctx.map(lambda c, n: sleeper(c, n), [1.0])
                case "as_completed":
                    async with ctx.as_completed(sleeper, [1.0, 99.0]) as done:
                        async for _ in done:
                            break
        except* ValueError:
            pass
        await trio.sleep(50)
        went_on.append(inner)

    with trio.CancelScope() as scope:
        async with pool_of(cap) as pool:
            handle = await pool.spawn(agent, timeout=1.0 if outer == "timeout" else None)
            await trio.sleep(1.0)
            if outer == "abort":
                handle.abort()
            elif outer == "scope":
                scope.cancel()
            await handle.wait()
    assert went_on == []
    assert trio.current_time() < 2
    outcome = handle.outcome
    if outer == "timeout":
        assert isinstance(outcome, Failed)
    else:
        assert isinstance(outcome, Aborted)


async def _raises_after(seconds: float) -> None:
    await trio.sleep(seconds)
    raise ValueError("inner")


@caps
async def test_errors_that_children_raise_in_their_cleanup_are_not_lost_in_the_cancellation(
    cap: int, autojump_clock: Any
) -> None:
    async def unclean(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("unclean")

    async def parent(ctx: AgentContext) -> None:
        for _ in range(2):
            await ctx.spawn(unclean)
            await trio.sleep(0)
        await trio.sleep_forever()

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        with trio.move_on_after(3):
            async with pool_of(cap * 2 + 1) as pool:
                for _ in range(2):
                    await pool.spawn(unclean)
                handle = await pool.spawn(parent)
                await trio.sleep_forever()
    group = caught.value
    assert isinstance(group, BaseExceptionGroup)
    assert group.subgroup(trio.Cancelled) is None
    assert isinstance(handle.outcome, Failed)
    assert "unclean" in "".join(traceback.format_exception(group))


# thomhurst/EnumerableAsyncProcessor#363, langchain-ai/langchain#35460, ebonnal/streamable#136: leaving the
# loop over results early waits for all that runs, lets it run on, or drops its failures; an error of the
# input is hidden by one of a task.


@caps
@pytest.mark.parametrize("kind", [range, lambda n: iter(range(n))])
@pytest.mark.parametrize("in_agent", [False, True])
async def test_leaving_the_loop_early_ends_the_rest_at_once_and_loses_no_failure(
    in_agent: bool, kind: Any, cap: int, autojump_clock: Any
) -> None:
    running = Running()

    async def job(ctx: AgentContext, number: int) -> int:
        with running:
            if number == 0:
                return 0
            try:
                await trio.sleep(1000)
            finally:
                if number == 1:
                    raise ValueError("in its cleanup")

    async def loops(ctx: Any) -> None:
        async with ctx.as_completed(job, kind(10_000)) as done:
            async for _ in done:
                await trio.sleep(1)
                break
        assert running.now == 0
        assert trio.current_time() == 1

    async def agent(ctx: AgentContext) -> str:
        await loops(ctx)
        return "kept"

    with pytest.raises(UnhandledAgentErrors) as caught:
        async with pool_of(cap + in_agent) as pool:
            if in_agent:
                await pool.spawn(agent)
            else:
                await loops(pool)
    error: Any = caught.value.exceptions[0]
    if in_agent:
        assert isinstance(error, UnhandledAgentErrors)
        assert error.value == "kept"
        error = error.exceptions[0]
    assert error.args == ("in its cleanup",)


@caps
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_error_of_an_input_is_not_hidden_by_failures_of_agents(
    asynchronous: bool, cap: int, autojump_clock: Any
) -> None:
    def source() -> Iterator[int]:
        yield from (0, 1)
        raise KeyError("source")

    async def async_source() -> AsyncIterator[int]:
        for number in source():
            yield number

    async def job(ctx: AgentContext, number: int) -> None:
        try:
            await trio.sleep(1)
        finally:
            raise ValueError

    make = async_source if asynchronous else source
    with pytest.raises(KeyError):
        async with pool_of(cap) as pool:
            await pool.map(job, make())
    seen = []
    async with pool_of(cap) as pool:
        with pytest.raises(KeyError):
            async with pool.as_completed(job, make()) as done:
                async for outcome in done:
                    seen.append(type(outcome))
    assert seen == [Failed, Failed]


# elixir-lang/elixir#5772, #14277: a stream of tasks over another stream fails, or halts it wrongly.


@caps
@pytest.mark.parametrize("take", [1, 3, 100])
@pytest.mark.parametrize("in_agent", [False, True])
async def test_one_stage_of_agents_may_be_the_input_of_the_next(
    in_agent: bool, take: int, cap: int, autojump_clock: Any
) -> None:
    closed: list[str] = []

    async def half(ctx: AgentContext, number: int) -> int:
        await trio.sleep(1)
        return number * 10

    async def stage(ctx: Any, items: Any, name: str) -> AsyncIterator[int]:
        try:
            async with ctx.as_completed(half, items) as done:
                async for outcome in done:
                    yield outcome.unwrap()
        finally:
            closed.append(name)

    async def pipeline(ctx: Any) -> list[int]:
        taken: list[int] = []
        second = stage(ctx, stage(ctx, range(8), "first"), "second")
        async with ctx.as_completed(half, second) as done:
            async for outcome in done:
                taken.append(outcome.unwrap())
                if len(taken) == take:
                    break
        return sorted(taken)

    async with pool_of(cap) as pool:
        if in_agent:
            taken = await (await pool.spawn(pipeline)).result()
        else:
            taken = await pipeline(pool)
        assert pool.active_count == 0
    assert closed in (["first", "second"], ["second", "first"])
    assert len(taken) == min(take, 8)
    assert all(number % 1000 == 0 for number in taken)


@caps
async def test_an_input_may_ask_agents_of_the_same_pool_for_its_items(cap: int, autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> list[int]:
        clerk = await ctx.spawn(counts)

        async def source() -> AsyncIterator[int]:
            for _ in range(5):
                yield await ctx.ask(clerk.id, None)

        found = values(await ctx.map(value, source()))
        async with ctx.as_completed(value, source()) as done:
            found += [outcome.unwrap() async for outcome in done]
        clerk.abort()
        return found

    async def counts(ctx: AgentContext) -> None:
        number = 0
        async for message in ctx.inbox:
            await trio.sleep(0.1)
            ctx.reply(message, number)
            number += 1

    async with pool_of(cap) as pool:
        assert sorted(await (await pool.spawn(agent)).result()) == list(range(10))


# elixir-lang/elixir#5367 (review): the end of a later task overwrites the value of an earlier one.


@caps
async def test_each_item_has_its_own_outcome_in_whatever_order_they_end(
    cap: int, autojump_clock: Any
) -> None:
    from random import Random

    lot = Random(cap)
    items = [(number, lot.choice([0, 0, 0.5, 1, 1, 2])) for number in range(60)]

    async def job(ctx: AgentContext, item: tuple[int, float]) -> int:
        await trio.sleep(item[1])
        if item[0] % 7 == 3:
            raise ValueError(item[0])
        return item[0]

    async with pool_of(cap) as pool:
        for kind in (list, iter):
            outcomes = await pool.map(job, kind(items))
            found = [o.error.args[0] if isinstance(o, Failed) else o.value for o in outcomes]
            assert found == list(range(60))


# svix/diom#730: joining all panics when one of them was aborted.


@caps
async def test_joins_hand_out_aborted_failed_and_completed_agents_alike(
    cap: int, autojump_clock: Any
) -> None:
    async def parent(ctx: Any) -> list[str]:
        (await ctx.spawn(waits)).abort()
        await ctx.spawn(failing)
        await ctx.spawn(value, 1)
        return sorted(type(outcome).__name__ for outcome in (await ctx.join_all()).values())

    async with pool_of(cap) as pool:
        assert await parent(pool) == ["Aborted", "Completed", "Failed"]
        assert await (await pool.spawn(parent)).result() == ["Aborted", "Completed", "Failed"]


# -- fatal exceptions ------------------------------------------------------------------------------


# cuga-project/cuga-agent#625, HKUDS/nanobot#4788, celery/celery#457: SystemExit or KeyboardInterrupt out of
# agent code is swallowed as an ordinary error, or loses what others had done.
# agronholm/anyio#310: KeyboardInterrupt in a task, and the cleanup of the others hangs for ever.


@caps
@pytest.mark.parametrize(
    "place", ["agent", "child", "task", "inner pool", "input", "restarted", "supervised"]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
async def test_fatal_exceptions_come_out_of_every_place_when_all_have_cleaned_up(
    error: type[BaseException], place: str, cap: int, autojump_clock: Any
) -> None:
    cleaned: list[int] = []

    async def careful(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            cleaned.append(ctx.id)

    async def raises(ctx: AgentContext | None = None) -> None:
        await trio.sleep(1)
        raise error(7)

    async def source() -> AsyncIterator[int]:
        yield 1
        await raises()

    async def agent(ctx: AgentContext) -> None:
        match place:
            case "agent" | "restarted" | "supervised":
                await raises()
            case "child":
                await (await ctx.spawn(raises)).wait()
            case "task":
                async with ctx.open_nursery() as nursery:
                    nursery.start_soon(raises)
                    await ctx.receive()
            case "inner pool":
                async with pool_of(1) as inner:
                    await inner.spawn(raises)
            case "input":
                async with ctx.as_completed(sleeper, source()) as done:
                    async for _ in done:
                        pass

    policy = RestartPolicy("permanent", max_restarts=5) if place == "restarted" else None
    first: Any = Supervisor([agent]) if place == "supervised" else agent
    with pytest.raises(error) as caught:
        async with pool_of(cap + 1) as pool:
            handle = await pool.spawn(careful)
            await pool.spawn(first, restart=policy)
            await trio.sleep_forever()
    assert caught.value.args == (7,)
    assert cleaned == [handle.id]
    assert trio.current_time() == 4 or place == "input"


# -- context variables -----------------------------------------------------------------------------

who: ContextVar[str] = ContextVar("who", default="nobody")


# openai/openai-agents-python#2246, #634, microsoft/agent-framework#6764: a token of a context variable is
# reset in another context than the one it was made in, when agents run at once.


@caps
@pytest.mark.parametrize("restart", [False, True])
async def test_tokens_of_context_variables_can_be_reset_wherever_an_agent_waited(
    restart: bool, cap: int, autojump_clock: Any
) -> None:
    lives: dict[int, int] = {}

    async def agent(ctx: AgentContext, box: int) -> str:
        before = who.get()
        token = who.set(f"agent {ctx.id}")
        try:
            for way in ("wait", "map", "as_completed", "race", "vote"):
                await _by(ctx, way, sleeper, 0.1)
                assert who.get() == f"agent {ctx.id}"
            await ctx.ask(box, 1)
            with trio.move_on_after(0.1):
                await ctx.receive()
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(who.set, "a task") if False else nursery.start_soon(_sets)
            async with pool_of(1) as inner:
                assert await (await inner.spawn(_reads)).result() == f"agent {ctx.id}"
            assert who.get() == f"agent {ctx.id}"
        finally:
            who.reset(token)
        lives[ctx.id] = lives.get(ctx.id, 0) + 1
        if restart and lives[ctx.id] < 2:
            raise ValueError
        return before

    async def _sets() -> None:
        who.set("a task")
        await trio.sleep(0)

    async def _reads(ctx: AgentContext) -> str:
        return who.get()

    token = who.set("the program")
    async with pool_of(cap) as pool:
        box = await pool.spawn(server)
        policy = RestartPolicy(max_restarts=1) if restart else None
        handles = [await pool.spawn(agent, box.id, restart=policy) for _ in range(4)]
        assert [await handle.result() for handle in handles] == ["the program"] * 4
        if not restart:
            assert values(await pool.map(agent, [box.id] * 4)) == ["the program"] * 4
    assert who.get() == "the program"
    who.reset(token)


@caps
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("verb", ["map", "as_completed"])
async def test_an_input_that_sets_a_context_variable_around_its_items_can_reset_it(
    verb: str, early: bool, cap: int, autojump_clock: Any
) -> None:
    seen: list[str] = []
    left: list[str] = []

    async def source() -> AsyncIterator[int]:
        token = who.set("the source")
        try:
            for number in range(6):
                await trio.sleep(0.1)
                yield number
        finally:
            who.reset(token)
            left.append(who.get())

    async def agent(ctx: AgentContext, number: int) -> int:
        seen.append(who.get())
        who.set("an agent")
        return number

    async def run(ctx: Any) -> None:
        if verb == "map":
            with trio.move_on_after(0.35 if early else 99):
                await ctx.map(agent, source())
        else:
            async with ctx.as_completed(agent, source()) as done:
                async for _ in done:
                    if early:
                        break

    async with pool_of(cap) as pool:
        await run(pool)
        await (await pool.spawn(run)).result()
    assert len(left) == 2
    assert "an agent" not in seen + left


# -- memory ----------------------------------------------------------------------------------------


class Big:
    pass


# bitcoin-dev-project/sim-ln#221, hickory-dns/hickory-dns#1818, python-trio/trio#409: what a task held stays
# until somebody joins it, for the life of the group.


@caps
async def test_what_an_agent_was_given_is_let_go_at_its_end_though_nobody_joins_it(
    cap: int, autojump_clock: Any
) -> None:
    alive: weakref.WeakSet[Big] = weakref.WeakSet()

    async def agent(ctx: AgentContext, big: Big) -> None:
        own = Big()
        alive.add(own)
        await trio.sleep(0.1)

    async def spawns(ctx: Any) -> None:
        for _ in range(50):
            big = Big()
            alive.add(big)
            await ctx.spawn(agent, big)
            del big
        await trio.sleep(10)
        gc.collect()
        assert not alive
        await ctx.join_all()

    async with pool_of(cap) as pool:
        await spawns(pool)
        await (await pool.spawn(spawns)).result()


# -- supervision -----------------------------------------------------------------------------------


# erlang/otp#5193, #3670, 2600hz/kazoo#5967: a child that ends by itself in the moment in which it is stopped,
# a supervisor that is stopped in the middle of a restart: processes are left, or errors are made up.


@caps
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
@pytest.mark.parametrize("when", [0.0, 1.0, 1.25, 2.0, 3.0])
@pytest.mark.parametrize("how", ["abort", "drain", "abort_all", "timeout"])
async def test_a_supervisor_that_is_stopped_at_any_moment_leaves_nobody(
    how: str, when: float, strategy: Any, cap: int, autojump_clock: Any
) -> None:
    alive: set[int] = set()

    async def child(ctx: AgentContext, seconds: float, fails: bool, cleanup: float) -> None:
        alive.add(ctx.id)
        try:
            await trio.sleep(seconds)
            if fails:
                raise ValueError
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(cleanup)
            alive.discard(ctx.id)

    specs = [
        ChildSpec(child, (99.0, False, 0.5), name="long"),
        ChildSpec(child, (1.0, True, 0.25), name="fails"),
        ChildSpec(child, (1.0, False, 0.0), name="ends", mode="transient"),
    ]
    boss = Supervisor(specs, strategy=strategy, max_restarts=50, within=50)
    async with pool_of(cap) as pool:
        handle = await pool.spawn(boss, timeout=when if how == "timeout" and when else None)
        await trio.sleep(when)
        match how:
            case "abort":
                handle.abort("stop")
            case "abort_all":
                pool.abort_all("stop")
            case "drain":
                assert await pool.drain(grace=0) == []
            case _:
                if not when:
                    handle.abort("stop")
        outcome = await handle.wait()
        assert isinstance(outcome, Aborted | Failed)
        assert alive == set()
        assert pool.active_count == 0
        await trio.sleep(100)
        assert alive == set()


# erlang/otp#8215, atomvm/AtomVM#1957: a child that ends at once when it is restarted makes its supervisor
# crash later, or at once.


@caps
@pytest.mark.parametrize("mode", ["permanent", "transient"])
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
async def test_a_child_that_ends_or_fails_at_once_after_its_restart_is_counted_and_nothing_else(
    strategy: Any, mode: Any, cap: int, autojump_clock: Any
) -> None:
    for second_fails in (False, True):
        lives: list[str] = []

        async def child(ctx: AgentContext, lives: Any = lives, fails: bool = second_fails) -> None:
            lives.append(ctx.name)
            if len(lives) == 1:
                await trio.sleep(1)
                raise ValueError("first")
            if fails:
                raise ValueError("again")

        async with pool_of(cap) as pool:
            specs = [ChildSpec(child, mode=mode), ChildSpec(collector, name="other", mode="temporary")]
            boss = await pool.spawn(Supervisor(specs, strategy=strategy, max_restarts=3, within=60))
            await trio.sleep(10)
            if second_fails or mode == "permanent":
                outcome = await boss.wait()
                assert isinstance(outcome, Failed)
                assert isinstance(outcome.error, RestartLimitError)
                assert len(lives) == 4
            else:
                assert len(lives) == 2
                boss.abort("stop")
                outcome = await boss.wait()
                assert isinstance(outcome, Aborted | Completed)
            assert pool.active_count == 0


# elixir-lang/elixir#4517, #6247: whoever waits for a task gets nothing from the life after its restart.


@caps
@pytest.mark.parametrize("backoff", [0.001, 5.0])
async def test_who_waits_for_an_agent_gets_what_its_last_life_returned(
    backoff: float, cap: int, autojump_clock: Any
) -> None:
    lives: dict[int, int] = {}

    async def shaky(ctx: AgentContext) -> str:
        lives[ctx.id] = lives.get(ctx.id, 0) + 1
        await trio.sleep(1)
        if lives[ctx.id] < 3:
            raise ValueError
        return f"life {lives[ctx.id]}"

    async def waits(ctx: AgentContext, handle: Any) -> Any:
        return await handle.result()

    async with pool_of(cap) as pool:
        policy = RestartPolicy(max_restarts=5, backoff=backoff)
        target = await pool.spawn(shaky, restart=policy)
        assert values(await pool.map(waits, [target] * 4)) == ["life 3"] * 4
        other = await pool.spawn(shaky, restart=policy)
        await trio.sleep(0.5)
        outcome = await pool.join_next()
        assert outcome is not None
        assert (outcome.agent_id, outcome.restarts) == (other.id, 2)


# -- pools in agents -------------------------------------------------------------------------------


# dask/distributed#7047, dask/distributed#7223: tasks that launch tasks from inside and gather them deadlock
# when parents and children share the workers.


@caps
@pytest.mark.parametrize("inner_cap", [1, 2])
async def test_pools_in_agents_in_pools_end_though_their_agents_ask_across(
    inner_cap: int, cap: int, autojump_clock: Any
) -> None:
    async def leaf(ctx: AgentContext, outer: Any, box: int) -> Any:
        return await outer.ask(box, 1)

    async def spawns_outside(ctx: AgentContext, outer: Any, box: int) -> Any:
        return await (await outer.spawn(asks, box, 1)).result()

    async def middle(ctx: AgentContext, box: int) -> int:
        async with pool_of(inner_cap) as inner:
            handles = [await inner.spawn(agent, pool, box) for agent in (leaf, spawns_outside) * 2]
            total = sum([await handle.result() for handle in handles])
            async with inner.as_completed(lambda c, _: leaf(c, pool, box), iter(range(3))) as done:
                async for outcome in done:
                    total += outcome.unwrap()
        return total

    async with pool_of(cap) as pool:
        box = await pool.spawn(server)
        assert values(await pool.map(middle, [box.id] * 4)) == [7] * 4


@caps
@pytest.mark.parametrize("how", ["abort", "timeout", "scope"])
async def test_an_agent_that_is_ended_in_its_own_pool_takes_that_pool_along(
    how: str, cap: int, autojump_clock: Any
) -> None:
    inner_outcomes: list[Any] = []

    async def owner(ctx: AgentContext) -> None:
        handles: list[Any] = []
        try:
            async with pool_of(1) as inner:
                handles.append(await inner.spawn(forever))
                async with trio.open_nursery():
                    pass
                async with inner.as_completed(sleeper, iter([1, 99, 99])) as done:
                    async for _ in done:
                        pass
        finally:
            inner_outcomes.extend(handle.outcome for handle in handles)

    with trio.CancelScope() as scope:
        async with pool_of(cap) as pool:
            handle = await pool.spawn(owner, timeout=5.0 if how == "timeout" else None)
            await trio.sleep(5)
            if how == "abort":
                handle.abort()
            elif how == "scope":
                scope.cancel()
            await handle.wait()
            assert pool.statistics().running == 0
    assert [type(outcome) for outcome in inner_outcomes] == [Aborted]
    assert isinstance(handle.outcome, Failed if how == "timeout" else Aborted)
    assert trio.current_time() == 5
