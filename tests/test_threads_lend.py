"""Threads lend: while the task of a tool's thread waits in the pool, others may use its token.

Real threads, on the real clock: what holds them up are events, never sleeps.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from pool_kit import pool_of, value

from agentpool import AgentContext, AgentPool, Completed, ToolResult, tool
from agentpool._blocking import run_blocking, thread_calls

SECONDS = 20.0
"""After so many seconds a test hangs."""


def borrowed() -> int:
    return trio.to_thread.current_default_thread_limiter().borrowed_tokens


@asynccontextmanager
async def threads(tokens: int, max_concurrent: int) -> AsyncIterator[AgentPool]:
    """A pool with so many threads, which are all given back at its end."""
    trio.to_thread.current_default_thread_limiter().total_tokens = tokens
    with trio.fail_after(SECONDS):
        async with pool_of(max_concurrent) as pool:
            yield pool
    assert borrowed() == 0
    assert not thread_calls


class AtWork:
    """Counts, from inside, how many threads work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.peak = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.peak = max(self.peak, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1


async def in_thread(fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Call an async function from a thread of the calling task."""
    return await run_blocking(trio.from_thread.run, fn, *args)


async def needs_thread(ctx: AgentContext, what: Any = None) -> Any:
    return await run_blocking(lambda: what)


# -- trees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_concurrent", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 4, 40])
async def test_a_tree_of_thread_tools_ends_under_every_number_of_threads(
    tokens: int, max_concurrent: int
) -> None:
    work = AtWork()

    @tool
    def delegate(ctx: AgentContext, levels: int) -> int:
        """Count the agents below."""

        async def ask_two() -> int:
            outcomes = await ctx.map(node, [levels - 1] * 2)
            return sum(outcome.unwrap() for outcome in outcomes)

        with work:
            pass
        below = trio.from_thread.run(ask_two) if levels else 0
        with work:
            return below + 1

    async def node(ctx: AgentContext, levels: int) -> int:
        result: ToolResult = await delegate.call(ctx, {"levels": levels})
        return int(result.content)

    async with threads(tokens, max_concurrent) as pool:
        handles = [await pool.spawn(node, 3) for _ in range(3)]
        assert [await handle.result() for handle in handles] == [15, 15, 15]
    assert work.peak <= tokens


@pytest.mark.parametrize("tokens", [1, 2])
async def test_a_chain_that_is_longer_than_there_are_threads_ends(tokens: int) -> None:
    async def link(ctx: AgentContext, more: int) -> int:
        async def next_one() -> int:
            return await (await ctx.spawn(link, more - 1)).result() + 1

        return int(await in_thread(next_one)) if more else 0

    async with threads(tokens, 1) as pool:
        assert await (await pool.spawn(link, 12)).result() == 12


# -- every wait ------------------------------------------------------------------------------------------


async def _spawn(ctx: AgentContext) -> Any:
    await ctx.spawn(needs_thread)
    return await (await ctx.spawn(needs_thread, "done")).result()


async def _join_next(ctx: AgentContext) -> Any:
    await ctx.spawn(needs_thread, "done")
    outcome = await ctx.join_next()
    assert isinstance(outcome, Completed)
    return outcome.value


async def _join_all(ctx: AgentContext) -> Any:
    handle = await ctx.spawn(needs_thread, "done")
    return (await ctx.join_all())[handle.id].unwrap()


async def _race(ctx: AgentContext) -> Any:
    async def done(child: AgentContext) -> str:
        return str(await needs_thread(child, "done"))

    return (await ctx.race(done)).unwrap()


async def _map_over_async_input(ctx: AgentContext) -> Any:
    async def items() -> AsyncIterator[str]:
        yield await run_blocking(lambda: "done")

    return (await ctx.map(needs_thread, items()))[0].unwrap()


async def _receive(ctx: AgentContext) -> Any:
    async def writer(child: AgentContext) -> None:
        await child.send(ctx.id, await needs_thread(child, "done"))

    await ctx.spawn(writer)
    return (await ctx.receive()).content


async def _ask(ctx: AgentContext) -> Any:
    async def answers(child: AgentContext) -> None:
        message = await child.receive()
        child.reply(message, await needs_thread(child, message.content))

    return await ctx.ask((await ctx.spawn(answers)).id, "done")


async def _send(ctx: AgentContext) -> Any:
    async def reads_all(child: AgentContext) -> Any:
        await needs_thread(child)
        for _ in range(40):
            last = await child.receive()
        return last.content

    handle = await ctx.spawn(reads_all)
    for _ in range(40):
        await ctx.send(handle.id, "done")
    return await handle.result()


async def _nursery(ctx: AgentContext) -> Any:
    got = []

    async def task() -> None:
        got.append(await (await ctx.spawn(needs_thread, "done")).result())

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(task)
        nursery.start_soon(task)
    assert got[0] == got[1]
    return got[0]


async def _nursery_that_fails(ctx: AgentContext) -> Any:
    got = []

    async def task() -> None:
        with trio.CancelScope(shield=True):
            got.append(await (await ctx.spawn(needs_thread, "done")).result())

    with pytest.RaisesGroup(KeyError):
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(task)
            raise KeyError
    return got[0]


async def _empty_nursery(ctx: AgentContext) -> Any:
    async with ctx.open_nursery():
        return await _spawn(ctx)


async def _start(ctx: AgentContext) -> Any:
    async def task(task_status: Any) -> None:
        task_status.started(await (await ctx.spawn(needs_thread, "done")).result())

    async with ctx.open_nursery() as nursery:
        return await nursery.start(task)


async def _own_pool(ctx: AgentContext) -> Any:
    async with pool_of(1) as pool:
        await pool.spawn(needs_thread)
        handle = await pool.spawn(needs_thread, "done")
    return await handle.result()


WAITS = [
    _spawn,
    _join_next,
    _join_all,
    _race,
    _map_over_async_input,
    _receive,
    _ask,
    _send,
    _nursery,
    _nursery_that_fails,
    _empty_nursery,
    _start,
    _own_pool,
]


@pytest.mark.parametrize("max_concurrent", [1, 4])
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__.strip("_"))
async def test_whatever_a_thread_waits_for_others_have_its_token(wait: Any, max_concurrent: int) -> None:
    async def agent(ctx: AgentContext) -> Any:
        return await in_thread(wait, ctx)

    async with threads(1, max_concurrent) as pool:
        handles = [await pool.spawn(agent) for _ in range(3)]
        assert [await handle.result() for handle in handles] == ["done"] * 3


async def test_a_thread_below_a_thread_of_one_task_needs_one_token() -> None:
    async def agent(ctx: AgentContext, levels: int) -> Any:
        async def deeper(levels: int) -> Any:
            if levels:
                return await in_thread(deeper, levels - 1)
            return await (await ctx.spawn(needs_thread, "done")).result()

        found = await in_thread(deeper, levels)
        assert borrowed() == 0
        return found

    async with threads(1, 1) as pool:
        assert await (await pool.spawn(agent, 3)).result() == "done"


async def test_the_program_lends_its_thread_as_an_agent_does() -> None:
    async with threads(1, 1) as pool:

        async def wait() -> Any:
            return await (await pool.spawn(needs_thread, "done")).result()

        assert await in_thread(wait) == "done"


async def test_a_thread_has_its_token_again_after_the_wait() -> None:
    seen = []

    async def agent(ctx: AgentContext) -> None:
        async def look() -> None:
            seen.append(borrowed())
            await (await ctx.spawn(value)).wait()
            seen.append(borrowed())

        await in_thread(look)
        seen.append(borrowed())

    async with threads(1, 1) as pool:
        await (await pool.spawn(agent)).wait()
    assert seen == [1, 1, 0]


# -- cancellation ----------------------------------------------------------------------------------------


class Blocker:
    """A thread that works until it is told to stop."""

    def __init__(self) -> None:
        self._works = trio.Event()
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    async def agent(self, ctx: AgentContext) -> None:
        def work() -> None:
            trio.from_thread.run_sync(self._works.set)
            self._stop.wait()

        await run_blocking(work)

    async def works(self) -> None:
        await self._works.wait()


async def test_an_agent_is_aborted_while_its_thread_is_lent() -> None:
    waits = trio.Event()

    async def agent(ctx: AgentContext) -> None:
        async def wait() -> None:
            waits.set()
            await ctx.receive()

        await in_thread(wait)

    async with threads(1, 1) as pool:
        handle = await pool.spawn(agent)
        await waits.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert borrowed() == 0
        handle.abort("enough")
        assert type(await handle.wait()).__name__ == "Aborted"


@pytest.mark.parametrize("how", ["abort", "timeout"])
async def test_who_is_cancelled_unwinds_without_a_token_and_keeps_what_it_got(how: str) -> None:
    got: list[Any] = []
    waits = trio.Event()
    scope = trio.CancelScope()
    blocker = Blocker()

    async def agent(ctx: AgentContext) -> int:
        async def wait() -> None:
            waits.set()
            with scope:
                got.append((await ctx.receive()).content)
                await trio.sleep_forever()

        await in_thread(wait)
        return borrowed()

    async with threads(1, 2) as pool:
        handle = await pool.spawn(agent)
        await waits.wait()
        other = await pool.spawn(blocker.agent)
        await blocker.works()
        await pool.send(handle.id, "kept")
        await trio.testing.wait_all_tasks_blocked()
        assert not got  # it waits for the token
        if how == "abort":
            handle.abort()
        else:
            scope.cancel()
        outcome = await handle.wait()
        assert got == ["kept"]
        assert type(outcome).__name__ == ("Aborted" if how == "abort" else "Completed")
        assert other.outcome is None
        assert borrowed() == 1
        blocker.stop()


async def test_a_thread_that_went_on_without_a_token_has_one_after_its_next_wait() -> None:
    waits, scope = trio.Event(), trio.CancelScope()
    blocker = Blocker()

    async def agent(ctx: AgentContext) -> int:
        async def wait() -> int:
            with scope:
                waits.set()
                await ctx.receive()
            assert borrowed() == 1
            blocker.stop()
            await (await ctx.spawn(needs_thread)).wait()
            return borrowed()

        return int(await in_thread(wait))

    async with threads(1, 2) as pool:
        handle = await pool.spawn(agent)
        await waits.wait()
        await pool.spawn(blocker.agent)
        await blocker.works()
        scope.cancel()
        assert await handle.result() == 1


async def test_a_call_that_is_cancelled_before_it_has_a_thread_leaves_nothing() -> None:
    blocker = Blocker()

    async with threads(1, 2) as pool:
        await pool.spawn(blocker.agent)
        await blocker.works()
        handle = await pool.spawn(needs_thread)
        await trio.testing.wait_all_tasks_blocked()
        handle.abort()
        await handle.wait()
        assert len(thread_calls) == 1
        blocker.stop()


async def test_an_error_that_ends_the_wait_reaches_the_thread() -> None:
    async def agent(ctx: AgentContext) -> str:
        def work() -> str:
            try:
                trio.from_thread.run(ctx.receive)
            except trio.EndOfChannel:
                return "ended"
            return "got a message"

        return await run_blocking(work)

    async with threads(1, 1) as pool:
        handle = await pool.spawn(agent)
    assert await handle.result() == "ended"
