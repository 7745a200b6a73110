"""What a pool holds for its agents is opened once, and closed when the last of them has ended."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from pool_kit import failing, forever, pool_of
from trio.testing import wait_all_tasks_blocked

from agentpool import (
    AgentContext,
    Completed,
    DeadlockError,
    Failed,
    PoolClosedError,
    UnhandledAgentErrors,
    open_agent_pool,
)

Opener = Callable[[], AbstractAsyncContextManager[Any]]


class Line:
    """Something that is opened and closed, and counts it."""

    def __init__(self, *, opening: float = 0, closing: float = 0) -> None:
        self.opened = self.closed = self.broken_off = 0
        self.tasks: set[trio.lowlevel.Task] = set()
        self._opening, self._closing = opening, closing

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Line]:
        self.opened += 1
        self.tasks.add(trio.lowlevel.current_task())
        try:
            await trio.sleep(self._opening)
        except trio.Cancelled:
            self.broken_off += 1
            raise
        try:
            yield self
        finally:
            self.tasks.add(trio.lowlevel.current_task())
            await trio.sleep(self._closing)
            self.closed += 1


def raising(error: BaseException, *, late: bool = False) -> Opener:
    @asynccontextmanager
    async def open() -> AsyncIterator[None]:
        if not late:
            raise error
        yield
        raise error

    return open


async def holding(ctx: AgentContext, open: Opener, key: str = "line") -> Any:
    return await ctx.hold(key, open)


async def test_agents_that_ask_for_the_same_key_share_what_the_first_had_opened(autojump_clock: Any) -> None:
    line = Line(opening=1)
    async with pool_of(3) as pool:
        outcomes = await pool.map(lambda ctx, _: ctx.hold("line", line.open), range(5))
        assert await pool.hold("line", line.open) is line
        assert line.closed == 0
    assert [outcome.unwrap() for outcome in outcomes] == [line] * 5
    assert (line.opened, line.closed, len(line.tasks)) == (1, 1, 1)


async def test_each_key_has_its_own(autojump_clock: Any) -> None:
    one, other = Line(), Line()
    async with pool_of(1) as pool:
        assert await pool.hold("one", one.open) is one
        assert await pool.hold("other", other.open) is other
    assert one.closed == other.closed == 1


async def test_it_outlives_agents_that_are_cancelled_until_they_have_cleaned_up(autojump_clock: Any) -> None:
    line = Line()
    seen: list[int] = []

    async def agent(ctx: AgentContext) -> None:
        await ctx.hold("line", line.open)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
            seen.append(line.closed)

    with trio.move_on_after(1):
        async with pool_of(1) as pool:
            await pool.spawn(agent)
            await trio.sleep_forever()
    assert seen == [0]
    assert line.closed == 1


async def test_what_cannot_be_opened_fails_for_all_who_wait_and_is_tried_anew(autojump_clock: Any) -> None:
    error = OSError("no such server")
    line = Line()
    async with pool_of(2) as pool:
        outcomes = await pool.map(holding, [raising(error)] * 2)
        assert [type(o) for o in outcomes] == [Failed, Failed]
        assert [o.error for o in outcomes if isinstance(o, Failed)] == [error, error]
        assert await pool.hold("line", line.open) is line


async def test_who_is_cancelled_alone_has_its_opening_broken_off(autojump_clock: Any) -> None:
    line = Line(opening=10)
    async with pool_of(2) as pool:
        with trio.move_on_after(1):
            await pool.hold("line", line.open)
        await wait_all_tasks_blocked()
        assert (line.opened, line.broken_off) == (1, 1)
        assert await pool.hold("line", line.open) is line
        assert line.opened == 2


async def test_who_is_cancelled_while_others_wait_breaks_nothing_off(autojump_clock: Any) -> None:
    line = Line(opening=10)
    async with pool_of(2) as pool:
        handle = await pool.spawn(holding, line.open)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await pool.hold("line", line.open)
        assert await handle.result() is line
    assert (line.opened, line.broken_off) == (1, 0)


async def test_what_it_raises_as_it_is_closed_comes_out_of_the_pool(autojump_clock: Any) -> None:
    error = OSError("cut off")
    with pytest.raises(UnhandledAgentErrors) as caught:
        async with open_agent_pool(max_concurrent=1) as pool:
            await pool.hold("line", raising(error, late=True))
    assert caught.value.exceptions == (error,)
    assert "raised by 'line', which the pool held" in error.__notes__


async def test_a_fatal_error_of_it_comes_out_as_it_is(autojump_clock: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        async with open_agent_pool(max_concurrent=1) as pool:
            await pool.hold("line", raising(SystemExit(3), late=True))
    assert caught.value.code == 3


async def test_what_breaks_down_meanwhile_is_opened_anew_for_who_asks_next(autojump_clock: Any) -> None:
    line = Line()

    async def breaks() -> None:
        raise OSError("broken")

    @asynccontextmanager
    async def open() -> AsyncIterator[str]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks)
            yield "first"

    with pytest.raises(UnhandledAgentErrors) as caught:
        async with open_agent_pool(max_concurrent=1) as pool:
            assert await pool.hold("line", open) == "first"
            await wait_all_tasks_blocked()
            assert await pool.hold("line", line.open) is line
    assert caught.group_contains(OSError, match="broken")
    assert line.closed == 1


async def test_what_is_not_closed_in_time_is_cut_off_and_told(autojump_clock: Any) -> None:
    line = Line(closing=60)
    with pytest.raises(UnhandledAgentErrors) as caught:
        async with open_agent_pool(max_concurrent=1) as pool:
            await pool.hold("line", line.open)
            began = trio.current_time()
    assert caught.group_contains(TimeoutError, match="not closed within 5 seconds")
    assert trio.current_time() - began == pytest.approx(5)


async def test_what_is_open_before_its_cancellation_comes_is_closed_and_no_failure(
    autojump_clock: Any,
) -> None:
    cleaned: list[str] = []

    @asynccontextmanager
    async def open() -> AsyncIterator[None]:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        try:
            yield
        finally:
            cleaned.append("cleaned")

    async with pool_of(1) as pool:
        with trio.move_on_after(1):
            await pool.hold("line", open)
    assert cleaned == ["cleaned"]


async def test_what_it_leaves_open_on_its_task_is_told_and_hurts_nobody(autojump_clock: Any) -> None:
    @asynccontextmanager
    async def open() -> AsyncIterator[None]:
        trio.CancelScope().__enter__()
        yield

    with pytest.raises(UnhandledAgentErrors) as caught:
        async with open_agent_pool(max_concurrent=1) as pool:
            await pool.hold("line", open)
            assert isinstance(await (await pool.spawn(holding, open)).wait(), Completed)
    assert caught.group_contains(RuntimeError, match="a cancel scope left open")


async def test_it_runs_in_the_context_of_the_pool_and_belongs_to_no_agent(autojump_clock: Any) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    seen: list[str] = []

    @asynccontextmanager
    async def open() -> AsyncIterator[None]:
        seen.append(variable.get())
        yield

    async def agent(ctx: AgentContext) -> None:
        variable.set("agent")
        await ctx.hold("line", open)

    variable.set("program")
    async with pool_of(1) as pool:
        await (await pool.spawn(agent)).result()
    assert seen == ["program"]


async def test_nothing_is_opened_in_a_pool_that_has_ended(autojump_clock: Any) -> None:
    line = Line()
    async with pool_of(1) as pool:
        pass
    with pytest.raises(PoolClosedError):
        await pool.hold("line", line.open)
    assert line.opened == 0


async def test_who_waits_beside_the_agents_is_told_that_the_pool_has_ended(autojump_clock: Any) -> None:
    line = Line(opening=10)
    told: list[str] = []

    async def beside(pool: Any) -> None:
        with suppress(PoolClosedError):
            await pool.hold("line", line.open)
            told.append("open")
        told.append("done")

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            nursery.start_soon(beside, pool)
            await wait_all_tasks_blocked()
    assert told == ["done"]
    assert line.broken_off == 1


async def test_a_pool_that_breaks_down_by_a_fatal_agent_closes_what_it_holds(autojump_clock: Any) -> None:
    line = Line()
    with pytest.raises(SystemExit):
        async with open_agent_pool(max_concurrent=2) as pool:
            await pool.hold("line", line.open)
            await pool.spawn(forever)
            await pool.spawn(failing, SystemExit(1))
            await trio.sleep_forever()
    assert line.closed == 1


async def test_what_is_held_is_not_taken_for_somebody_who_writes(autojump_clock: Any) -> None:
    @asynccontextmanager
    async def open() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1_000)
            yield
            nursery.cancel_scope.cancel()

    async def agent(ctx: AgentContext) -> None:
        await ctx.hold("line", open)
        with pytest.raises(DeadlockError):
            await ctx.receive_for_model()

    async with pool_of(1) as pool:
        began = trio.current_time()
        await (await pool.spawn(agent)).result()
        assert trio.current_time() == began


async def test_a_call_from_a_foreign_thread_is_refused() -> None:
    async with pool_of(1) as pool:
        opening = pool.hold("line", Line().open)
        with pytest.raises(RuntimeError, match=r"trio\.from_thread"):
            await trio.to_thread.run_sync(lambda: opening.send(None))
