"""Waits that become hopeless by the end of something else: an own task, an inner pool."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import forever, pool_of, value

import agentpool._kernel.opening
import agentpool._kernel.watcher
from agentpool import (
    Aborted,
    AgentContext,
    AgentHandle,
    AgentPool,
    Completed,
    DeadlockError,
    Failed,
    open_agent_pool,
)

caps = pytest.mark.parametrize("cap", [1, 2])


@caps
async def test_a_wait_beside_a_task_of_the_agents_own_nursery_is_judged_when_that_task_ends(
    cap: int, autojump_clock: Any
) -> None:
    """Two agents wait for each other; only the task beside one of them could have changed that."""
    handles: dict[str, AgentHandle[Any]] = {}

    async def first(ctx: AgentContext) -> str:
        await ctx.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            try:
                await handles["second"].wait()
            except DeadlockError:
                return f"told at {trio.current_time():g}"
        return "not told"

    async def second(ctx: AgentContext) -> str:
        try:
            await handles["first"].wait()
        except DeadlockError:
            return f"told at {trio.current_time():g}"
        return "not told"

    async with pool_of(cap) as pool:
        handles["first"] = await pool.spawn(first)
        handles["second"] = await pool.spawn(second)
        await trio.sleep(1)
        await pool.send(handles["first"].id, "now both wait")
        told = {name: (await handle.result()) for name, handle in handles.items()}
    assert sorted(told.values()) == ["not told", "told at 6"]


@caps
@pytest.mark.parametrize("order", ["the block ends first", "the agent waits first"])
async def test_a_cycle_through_the_end_of_an_inner_pool_is_told(
    cap: int, order: str, autojump_clock: Any
) -> None:
    async def inner_agent(ctx: AgentContext, outer: AgentPool, to: int) -> str:
        if order == "the block ends first":
            await trio.sleep(1)
        try:
            await outer.ask(to, "a question that its opener cannot answer")
        except DeadlockError as error:
            return f"told at {trio.current_time():g}, {len(error.path)} agents"
        return "not told"

    async def opener(ctx: AgentContext, outer: AgentPool) -> str:
        async with open_agent_pool(max_concurrent=1) as inner:
            handle = await inner.spawn(inner_agent, outer, ctx.id)
            if order == "the agent waits first":
                await trio.sleep(1)
        return await handle.result()

    async with pool_of(cap) as pool:
        assert await (await pool.spawn(opener, pool)).result() == "told at 1, 2 agents"


@caps
async def test_the_end_of_an_inner_pool_that_somebody_can_still_end_is_waited_for(
    cap: int, autojump_clock: Any
) -> None:
    async def inner_agent(ctx: AgentContext, outer: AgentPool, to: int) -> Any:
        return await outer.ask(to, "a question")

    async def answers(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            await trio.sleep(5)
            ctx.reply(message, "answer")

    async def opener(ctx: AgentContext, outer: AgentPool, to: int) -> Any:
        async with open_agent_pool(max_concurrent=1) as inner:
            handle = await inner.spawn(inner_agent, outer, to)
        return await handle.result()

    async with pool_of(cap) as pool:
        server = await pool.spawn(answers)
        assert await (await pool.spawn(opener, pool, server.id)).result() == "answer"


# -- a `Cancelled` that was kept -----------------------------------------------------------------


async def kept_cancelled() -> trio.Cancelled:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            return cancelled
    raise AssertionError


async def raises_what_it_kept(ctx: AgentContext) -> None:
    raise await kept_cancelled()


async def test_a_cancelled_that_was_raised_by_hand_is_not_told_as_a_scope_around_the_pool(
    autojump_clock: Any,
) -> None:
    async with pool_of(1) as pool:
        outcome = await (await pool.spawn(raises_what_it_kept)).wait()
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "its body raised trio.Cancelled, though nobody had cancelled it"
        assert isinstance(await (await pool.spawn(value)).wait(), Completed)


async def test_a_cancelled_that_the_block_raises_by_hand_is_its_own_error(autojump_clock: Any) -> None:
    handles: list[AgentHandle[Any]] = []
    with pytest.raises(trio.Cancelled):
        async with open_agent_pool(max_concurrent=1) as pool:
            handles.append(await pool.spawn(forever))
            raise await kept_cancelled()
    outcome = handles[0].outcome
    assert isinstance(outcome, Aborted)
    assert outcome.reason is not None
    assert "the block of the pool raised" in outcome.reason


async def test_a_scope_around_the_pool_is_named(autojump_clock: Any) -> None:
    handles: list[AgentHandle[Any]] = []
    with trio.move_on_after(1):
        async with pool_of(2) as pool:
            handles += [await pool.spawn(forever), await pool.spawn(forever)]
            await trio.sleep_forever()
    assert [handle.outcome.reason for handle in handles if isinstance(handle.outcome, Aborted)] == [
        "a scope around the pool was cancelled"
    ] * 2


# -- a pool that breaks down -----------------------------------------------------------------------


async def test_a_bug_at_the_end_of_the_block_leaves_no_task_behind(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    before = trio.lowlevel.current_statistics().tasks_living
    with pytest.raises(ZeroDivisionError), trio.fail_after(10):
        async with open_agent_pool(max_concurrent=1) as pool:
            handle = await pool.spawn(forever)
            await trio.sleep(1)
            monkeypatch.setattr(agentpool._kernel.opening, "_ended", broken)
    assert isinstance(handle.outcome, Aborted | Failed)
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_watcher_that_breaks_down_ends_the_block_and_says_why(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        await trio.sleep(1)
        raise ZeroDivisionError

    monkeypatch.setattr(agentpool._kernel.watcher.Watcher, "run", broken)
    before = trio.lowlevel.current_statistics().tasks_living
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(10):
        async with open_agent_pool(max_concurrent=1) as pool:
            handle = await pool.spawn(forever)
            await trio.sleep_forever()
    assert caught.group_contains(ZeroDivisionError, depth=1)
    assert isinstance(handle.outcome, Aborted)
    assert trio.lowlevel.current_statistics().tasks_living == before
