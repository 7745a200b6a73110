"""Pools in programs that run on asyncio."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from anyio.from_thread import start_blocking_portal
from bridge_kit import LIMIT, check_books, double, echo, failing, run_asyncio, sleeping

from agentpool import (
    Aborted,
    AgentContext,
    AgentFailedError,
    AgentFinished,
    AgentSpawned,
    AgentStarted,
    Completed,
    Failed,
    PoolClosedError,
    PoolFullError,
    UnhandledAgentErrors,
    UnknownAgentError,
)
from agentpool.bridge import AsyncioAgentPool, open_agent_pool_asyncio
from agentpool.bridge._asyncio_pool import HostLine
from agentpool.bridge._calls import Call

variable: ContextVar[str] = ContextVar("variable", default="nothing")


async def read_variable(ctx: AgentContext) -> str:
    return variable.get()


# -- the verbs ------------------------------------------------------------------------------------------


def test_an_agent_is_spawned_awaited_and_looked_at() -> None:
    async def main() -> AsyncioAgentPool:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            handle = await pool.spawn(double, 21, name="doubler")
            assert handle.name == "doubler"
            assert await handle.result() == 42
            assert await handle == 42
            assert isinstance(await handle.wait(), Completed)
            assert handle.status == "completed"
            assert isinstance(handle.outcome, Completed)
            assert (pool.active_count, pool.statistics().spawned) == (0, 1)
            assert "AsyncioAgentHandle of agent 1 (doubler), completed" in repr(handle)
            assert "0 agents" in repr(pool)
            handles = [await pool.spawn(double, number) for number in range(3)]
            assert await asyncio.gather(*handles) == [0, 2, 4]
            assert pool.resumed == []
        return pool

    check_books(run_asyncio(main))


def test_the_verbs_for_many_agents() -> None:
    async def main() -> AsyncioAgentPool:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            assert [o.unwrap() for o in await pool.map(double, range(5))] == [0, 2, 4, 6, 8]
            handles = await pool.fan_out([lambda ctx: double(ctx, 1), lambda ctx: double(ctx, 2)])
            assert [await handle for handle in handles] == [2, 4]
            assert (await pool.race(lambda ctx: double(ctx, 3), sleeping)).unwrap() == 6
            verdict = await pool.vote(double, 2, n=3, quorum=2)
            assert (verdict.winner, verdict.agreed) == (4, True)
            block = pool.as_completed(double, range(5))
            async with block as done:
                assert sorted([outcome.unwrap() async for outcome in done]) == [0, 2, 4, 6, 8]
            with pytest.raises(RuntimeError, match="for one block"):
                await block.__aenter__()
            await pool.spawn(double, 1)
            await pool.spawn(double, 2)
            assert isinstance(await pool.join_next(), Completed)
            assert len(await pool.join_all()) == 1
            assert await pool.join_next() is None
        return pool

    check_books(run_asyncio(main))


def test_messages_questions_and_names() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            server = await pool.spawn(echo, name="echo")
            assert pool.find("echo") == server.id
            assert await pool.ask("echo", "hello") == "hello"
            await pool.send(server.id, "one")
            pool.send_nowait(server.id, "two")
            with pytest.raises(UnknownAgentError):
                await pool.send(99, "nobody")
            assert pool.closing is False
            assert await pool.drain() == []
            assert pool.draining
            assert await server == 3
            assert pool.dead_letters == () or len(pool.dead_letters) == 2  # replies to what was no question

    run_asyncio(main)


def test_what_does_not_wait() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=1) as pool:
            handle = pool.spawn_nowait(sleeping)
            with pytest.raises(PoolFullError):
                pool.spawn_nowait(double, 1)
            pool.max_concurrent = 2
            assert pool.max_concurrent == 2
            assert await pool.spawn_nowait(double, 1) == 2
            handle.abort("enough")
            outcome = await handle.wait()
            assert isinstance(outcome, Aborted)
            assert outcome.reason == "enough"
            await pool.spawn(sleeping)
            pool.abort_all("all")
            assert [type(outcome) for outcome in (await pool.join_all()).values()] == [Aborted]

    run_asyncio(main)


def test_events_come_in_order_and_end_with_the_pool() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=1) as pool:
            async with pool.events() as events:
                assert "AsyncioEvents" in repr(events)
                await (await pool.spawn(double, 1)).wait()
                seen = [await anext(events) for _ in range(3)]
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await anext(events)
            assert [event async for event in events] == []
            block = pool.events()
            late = await block.__aenter__()
            await (await pool.spawn(double, 1)).wait()
            with pytest.raises(RuntimeError, match="for one block"):
                await block.__aenter__()
            with pytest.raises(ValueError, match="max_buffer"):
                await pool.events(max_buffer=0).__aenter__()
        assert [type(event) for event in seen] == [AgentSpawned, AgentStarted, AgentFinished]
        assert [type(event) async for event in late] == [AgentSpawned, AgentStarted, AgentFinished]
        await block.__aexit__(None, None, None)

    run_asyncio(main)


def test_a_reader_in_another_task_sees_every_event_and_the_end() -> None:
    async def main() -> None:
        async def read(ready: asyncio.Event) -> int:
            async with pool.events(max_buffer=100_000) as events:
                ready.set()
                return len([event async for event in events if isinstance(event, AgentFinished)])

        async with open_agent_pool_asyncio(max_concurrent=10) as pool:
            ready = asyncio.Event()
            reader = asyncio.create_task(read(ready))
            await ready.wait()
            await pool.map(double, range(1000))
        assert await reader == 1000

    run_asyncio(main)


# -- how the block is left ------------------------------------------------------------------------------


def test_leaving_the_block_waits_for_every_agent_while_the_loop_goes_on() -> None:
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    async def main() -> AsyncioAgentPool:
        ticker = asyncio.create_task(tick())
        async with open_agent_pool_asyncio(max_concurrent=50) as pool:
            for _ in range(50):
                await pool.spawn(sleeping, 0.1)
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker
        return pool

    pool = run_asyncio(main)
    check_books(pool)
    assert len(ticks) > 20
    assert pool.statistics().ended == 50


def test_an_exception_of_the_block_aborts_the_agents_and_comes_out_as_it_is() -> None:
    error = KeyError("mine")

    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=5) as pool:
            for _ in range(5):
                await pool.spawn(sleeping)
            raise error

    with pytest.raises(KeyError) as caught:
        run_asyncio(main)
    assert caught.value is error
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "main"


def test_failures_that_nobody_looked_at_come_out_together() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            await pool.spawn(failing, ValueError("one"))
            await pool.spawn(failing, KeyError("two"))

    with pytest.raises(UnhandledAgentErrors) as caught:
        run_asyncio(main)
    assert {type(error) for error in caught.value.exceptions} == {ValueError, KeyError}


def test_a_failure_is_looked_at_through_its_handle() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            with pytest.raises(AgentFailedError) as caught:
                await (await pool.spawn(failing))
            assert isinstance(caught.value.__cause__, ValueError)

    run_asyncio(main)


def test_what_is_fatal_leaves_the_block_at_once_and_unwrapped() -> None:
    class Stop(BaseException):
        pass

    async def main() -> str:
        try:
            async with open_agent_pool_asyncio(max_concurrent=2) as pool:
                await pool.spawn(sleeping)
                await pool.spawn(failing, Stop())
                await asyncio.sleep(1_000_000)
        except Stop:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await asyncio.sleep(0.01)
            return "stopped"
        raise AssertionError

    assert run_asyncio(main) == "stopped"


def test_what_is_fatal_just_as_the_block_ends_cancels_nobody_else() -> None:
    class Stop(BaseException):
        pass

    async def main() -> None:
        for _ in range(50):
            with pytest.raises(Stop):
                async with open_agent_pool_asyncio(max_concurrent=2) as pool:
                    handle = await pool.spawn(failing, Stop())
                    await handle.wait()
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await asyncio.sleep(0)

    run_asyncio(main)


@pytest.mark.parametrize("arguments", [{"max_concurrent": 0}, {"max_concurrent": 1, "driver": 7}])
def test_wrong_arguments_are_refused_and_leave_no_thread(arguments: dict[str, Any]) -> None:
    async def main() -> None:
        with pytest.raises((TypeError, ValueError), match="must be"):
            async with open_agent_pool_asyncio(**arguments):
                pass

    run_asyncio(main)


async def test_a_program_on_trio_is_told_what_to_open() -> None:
    with pytest.raises(RuntimeError, match="on trio write open_agent_pool"):
        async with open_agent_pool_asyncio(max_concurrent=1):
            pass


def test_a_block_is_for_once_and_verbs_after_the_end_say_so() -> None:
    async def main() -> None:
        block = open_agent_pool_asyncio(max_concurrent=1)
        async with block as pool:
            handle = await pool.spawn(double, 1)
        with pytest.raises(RuntimeError, match="open another"):
            await block.__aenter__()
        with pytest.raises(PoolClosedError):
            await pool.spawn(double, 1)
        with pytest.raises(PoolClosedError):
            await pool.join_all()
        with pytest.raises(PoolClosedError):
            async with pool.as_completed(double, [1]):
                pass
        handle.abort()
        pool.abort_all()
        assert pool.active_count == 0

    run_asyncio(main)


# -- cancellation ---------------------------------------------------------------------------------------


async def slow_to_clean(ctx: AgentContext, cleaned: list[int]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.1)
        cleaned.append(ctx.id)


def test_a_task_that_is_cancelled_in_the_block_comes_out_when_all_agents_have_ended() -> None:
    cleaned: list[int] = []

    async def main() -> AsyncioAgentPool:
        pools: list[AsyncioAgentPool] = []

        async def work() -> None:
            async with open_agent_pool_asyncio(max_concurrent=100) as pool:
                pools.append(pool)
                for _ in range(100):
                    await pool.spawn(slow_to_clean, cleaned)
                await asyncio.sleep(1_000_000)

        task = asyncio.create_task(work())
        while not pools or pools[0].active_count < 100:
            await asyncio.sleep(0.001)
        task.cancel("no longer wanted")
        await asyncio.sleep(0.01)
        task.cancel("again")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        return pools[0]

    check_books(run_asyncio(main))
    assert len(cleaned) == 100


def test_a_time_limit_around_the_block_is_a_time_limit() -> None:
    cleaned: list[int] = []

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async with open_agent_pool_asyncio(max_concurrent=5) as pool:
                    await pool.spawn(slow_to_clean, cleaned)
                    await pool.join_all()
        assert cleaned == [1]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async with open_agent_pool_asyncio(max_concurrent=5) as pool:
                    await pool.spawn(slow_to_clean, cleaned)
        assert cleaned == [1, 1]
        await asyncio.sleep(0)

    run_asyncio(main)


def test_failures_that_nobody_looked_at_are_not_lost_in_a_cancellation() -> None:
    async def main() -> None:
        async def work() -> None:
            async with open_agent_pool_asyncio(max_concurrent=5) as pool:
                handle = await pool.spawn(failing, ValueError("agent's own"))
                while handle.status != "failed":
                    await asyncio.sleep(0)
                ready.set()
                await asyncio.sleep(1_000_000)

        ready = asyncio.Event()
        task = asyncio.create_task(work())
        await ready.wait()
        task.cancel()
        with pytest.raises(BaseExceptionGroup) as caught:
            await task
        assert caught.group_contains(ValueError, match="agent's own")
        assert not caught.group_contains(trio.Cancelled)

    run_asyncio(main)


def test_a_verb_that_is_cancelled_takes_nothing() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=1, inbox_capacity=1) as pool:
            handle = await pool.spawn(sleeping)
            await pool.send(handle.id, "fills the inbox")
            for verb in (
                lambda: handle.wait(),
                lambda: pool.join_next(),
                lambda: pool.join_all(),
                lambda: pool.send(handle.id, "no room"),
                lambda: pool.spawn(double, 1),
                lambda: pool.map(double, [1]),
            ):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await verb()
            assert pool.statistics().spawned == 1
            handle.abort()
            assert isinstance(await pool.join_next(), Aborted)

    run_asyncio(main)


def test_what_happened_as_it_was_cancelled_is_not_lost() -> None:
    """Each agent that was started has its handle, each outcome was handed out, each cancellation comes."""

    async def main() -> None:
        lot = random.Random(3)
        started = got = cancelled = 0

        async def work(pool: AsyncioAgentPool) -> None:
            nonlocal started, got, cancelled
            try:
                await pool.spawn(double, 1)
                started += 1
                await asyncio.sleep(0)
                if await pool.join_next() is not None:
                    got += 1
                await asyncio.sleep(1_000_000)
            except asyncio.CancelledError:
                cancelled += 1
                raise

        async with open_agent_pool_asyncio(max_concurrent=5) as pool:
            tasks = [asyncio.create_task(work(pool)) for _ in range(200)]
            for task in tasks:
                await asyncio.sleep(lot.random() * 0.0005)
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            rest = len(await pool.join_all())
            assert started == pool.statistics().spawned == got + rest
            assert started > 0
            assert cancelled <= 200
        check_books(pool)

    run_asyncio(main)


def test_a_verb_lets_other_tasks_run_also_if_trio_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that asks for much in a row does not keep its loop to itself, nor outrun its time limit."""
    post = HostLine.post

    def post_and_see_it_end(line: HostLine, call: Call[Any]) -> None:
        tell, told = call.tell, threading.Event()
        call.tell = lambda: (tell(), told.set())
        post(line, call)
        assert told.wait(LIMIT)

    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with open_agent_pool_asyncio(max_concurrent=5) as pool:
            task = asyncio.create_task(other())
            with monkeypatch.context() as patch:
                patch.setattr(HostLine, "post", post_and_see_it_end)
                for number in range(5):
                    before = turns
                    assert (await pool.spawn(double, number)).id == number + 1
                    assert turns > before
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        for number in range(100):
                            await pool.spawn(double, number)
            assert pool.statistics().spawned <= 7
            task.cancel()
        check_books(pool)

    run_asyncio(main)


def test_a_cancellation_that_is_owed_comes_before_anything_is_begun_and_cleanup_goes_on() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=5) as pool:
            entered = []

            @asynccontextmanager
            async def noting() -> AsyncIterator[None]:
                entered.append(True)
                yield

            async def block() -> None:
                await pool._line.enter(noting)

            async def cancelled(begin: Any) -> None:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                try:
                    await begin()
                finally:
                    assert pool.statistics().spawned == before
                    await (await pool.spawn(double, 1)).wait()

            for begin in (block, lambda: pool.spawn(double, 1)):
                before = pool.statistics().spawned
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.create_task(cancelled(begin))
                assert pool.statistics().spawned == before + 1
            assert entered == []

    run_asyncio(main)


def test_a_cancellation_that_came_too_late_is_taken_back_by_the_time_limit_that_sent_it() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=5) as pool:
            late = 0
            for number in range(300):
                try:
                    async with asyncio.timeout(0.0001 + 0.000005 * number):
                        await pool.spawn(double, 1)
                except TimeoutError:
                    late += 1
                await asyncio.sleep(0)  # nothing of it comes later
                task = asyncio.current_task()
                assert task is not None
                assert task.cancelling() == 0
            assert late < 300

    run_asyncio(main)


def test_cancelling_the_opening_ends_it() -> None:
    closed: list[str] = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        try:
            await trio.sleep_forever()
            yield
        finally:
            closed.append("closed")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async with open_agent_pool_asyncio(slow(), max_concurrent=1):
                    pass

    run_asyncio(main)
    assert closed == ["closed"]


def test_a_storm_of_cancellations_leaves_nothing() -> None:
    """1,000 agents of 40 pools, from tasks that are cancelled at random moments."""
    ended = 0

    async def agent(ctx: AgentContext, seconds: float) -> None:
        nonlocal ended
        try:
            if seconds < 0.001:
                await ctx.map(sleeping, [seconds] * 3)
            await trio.sleep(seconds)
        finally:
            ended += 1

    async def main() -> list[AsyncioAgentPool]:
        lot = random.Random(11)
        pools: list[AsyncioAgentPool] = []

        async def work(portal: Any) -> None:
            async with open_agent_pool_asyncio(max_concurrent=3, portal=portal) as pool:
                pools.append(pool)
                async with pool.as_completed(agent, [lot.random() * 0.01 for _ in range(10)]) as done:
                    async for _ in done:
                        await asyncio.sleep(0)
                await pool.map(agent, (lot.random() * 0.01 for _ in range(15)))

        with start_blocking_portal("trio") as portal:
            tasks = [asyncio.create_task(work(portal if number % 2 else None)) for number in range(40)]
            for task in tasks[::2]:
                await asyncio.sleep(lot.random() * 0.01)
                task.cancel()
                if lot.random() < 0.5:
                    await asyncio.sleep(0)
                    task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
        return pools

    for pool in run_asyncio(main):
        check_books(pool)
    assert ended > 300


# -- inputs ---------------------------------------------------------------------------------------------


def test_inputs_are_taken_from_in_the_loop_of_the_caller() -> None:
    threads: set[threading.Thread] = set()
    closed: list[str] = []

    async def slow_items() -> AsyncIterator[int]:
        try:
            async with asyncio.timeout(30):  # held over the yields: it needs one task for all of them
                for number in range(1_000_000):
                    threads.add(threading.current_thread())
                    await asyncio.sleep(0)
                    yield number
        finally:
            closed.append("async")

    def items() -> Iterator[int]:
        try:
            for number in range(1_000_000):
                threads.add(threading.current_thread())
                yield number
        finally:
            closed.append("sync")

    async def main() -> AsyncioAgentPool:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            for endless in (slow_items(), items()):
                async with pool.as_completed(double, endless) as done:
                    assert sorted([(await anext(done)).unwrap() for _ in range(5)])[0] == 0
            assert closed == ["async", "sync"]
            assert [o.unwrap() for o in await pool.map(double, iter([1, 2]))] == [2, 4]
            with pytest.raises(TypeError, match="items must be"):
                await pool.map(double, 7)  # type: ignore[arg-type]
        return pool

    check_books(run_asyncio(main))
    assert threads == {threading.current_thread()}


def test_what_an_input_raises_comes_out_and_the_agents_are_aborted() -> None:
    async def broken() -> AsyncIterator[float]:
        yield 1_000_000
        await asyncio.sleep(0)
        raise LookupError("no more")

    def broken_too() -> Iterator[float]:
        yield 1_000_000
        raise LookupError("no more")

    async def unclean() -> AsyncIterator[float]:
        try:
            yield 0
            await asyncio.sleep(1_000_000)
        finally:
            raise LookupError("no more")

    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            for items in (broken(), broken_too()):
                with pytest.raises(LookupError, match="no more"):
                    await pool.map(sleeping, items)
            with pytest.raises(LookupError, match="no more"):
                async with pool.as_completed(sleeping, unclean()) as done:
                    await anext(done)
            with pytest.raises(KeyError) as caught:
                async with pool.as_completed(sleeping, unclean()) as done:
                    await anext(done)
                    raise KeyError("mine")
            assert any("no more" in text for text in caught.value.__notes__)
            assert pool.active_count == 0

    run_asyncio(main)


def test_cancelling_a_map_cancels_its_input() -> None:
    closed: list[str] = []

    async def waiting() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(1_000_000)
        finally:
            await asyncio.sleep(0.01)
            closed.append("closed")

    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await pool.map(double, waiting())
            assert closed == ["closed"]
            assert pool.active_count == 0

    run_asyncio(main)


def test_leaving_a_block_of_outcomes_early_ends_its_agents() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=3) as pool:
            async with pool.as_completed(sleeping, [0.0, 1_000.0, 1_000.0]) as done:
                await anext(done)
            assert pool.active_count == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    async with pool.as_completed(sleeping, [1_000.0]) as done:
                        await anext(done)
            assert pool.active_count == 0

    run_asyncio(main)


# -- threads, loops, contexts -----------------------------------------------------------------------------


def test_an_agent_sees_the_context_variables_of_whoever_spawned_it() -> None:
    async def main() -> None:
        async def work(name: str) -> list[str]:
            variable.set(name)
            mapped = await pool.map(lambda ctx, _: read_variable(ctx), [1])
            return [await (await pool.spawn(read_variable)), pool_now(name), mapped[0].unwrap()]

        def pool_now(name: str) -> str:
            handle = pool.spawn_nowait(read_variable)
            assert handle.id > 0
            return name

        async with open_agent_pool_asyncio(max_concurrent=9) as pool:
            assert await asyncio.gather(work("a"), work("b")) == [["a"] * 3, ["b"] * 3]
            assert {o.unwrap() for o in (await pool.join_all()).values()} == {"a", "b"}

    run_asyncio(main)


def test_tasks_of_another_loop_may_use_the_pool() -> None:
    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:

            async def elsewhere() -> int:
                return await (await pool.spawn(double, 21))

            assert await asyncio.to_thread(asyncio.run, elsewhere()) == 42

    run_asyncio(main)


def test_several_pools_live_side_by_side() -> None:
    async def main() -> None:
        async def work(number: int) -> int:
            async with open_agent_pool_asyncio(max_concurrent=1) as pool:
                return await (await pool.spawn(double, number))

        assert await asyncio.gather(*map(work, range(20))) == [2 * number for number in range(20)]

    run_asyncio(main)


def test_an_outcome_keeps_the_exception_object() -> None:
    async def main() -> None:
        error = ValueError("the very same")
        async with open_agent_pool_asyncio(max_concurrent=1) as pool:
            outcome = await (await pool.spawn(failing, error)).wait()
            assert isinstance(outcome, Failed)
            assert outcome.error is error

    run_asyncio(main)


PROGRAM = """
import asyncio, sys, threading, trio
from agentpool.bridge import open_agent_pool_asyncio

cleaned = []

async def agent(ctx):
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        cleaned.append(ctx.id)

async def main():
    async with open_agent_pool_asyncio(max_concurrent=50) as pool:
        for _ in range(20):
            handle = await pool.spawn(agent)
        print("ready", flush=True)
        WHERE

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("pressed", len(cleaned), flush=True)
    assert threading.active_count() <= 2, threading.enumerate()
    sys.exit(130)
"""


@pytest.mark.parametrize("where", ["await handle.wait()", "await asyncio.sleep(100)", "pass"])
def test_ctrl_c_ends_the_pool_and_comes_out(where: str) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM.replace("WHERE", where)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "pressed 20\n", "")
