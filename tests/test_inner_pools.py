"""Agents that open pools of their own, and leave them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import trio
from pool_kit import pool_of, value

from agentpool import (
    AgentContext,
    Completed,
    DeadlockError,
    DeadlockSuspected,
    Failed,
    UnknownAgentError,
    open_agent_pool,
)


async def _use_a_pool() -> None:
    async with open_agent_pool(max_concurrent=1) as inner:
        await (await inner.spawn(value)).result()


async def _suspicions(pool: Any, found: list[Any]) -> None:
    async with pool.events() as events:
        async for event in events:
            if isinstance(event, DeadlockSuspected):
                found.append(event.path)


async def test_unknown_tasks_of_a_later_nursery_are_unknown_though_the_agent_had_a_pool(
    autojump_clock: Any,
) -> None:
    found: list[Any] = []

    async def asking(ctx: AgentContext) -> str:
        for _ in range(3):
            await _use_a_pool()
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def rescue() -> None:
                    await trio.sleep(10)
                    scope.cancel()

                nursery.start_soon(rescue)
                await ctx.ask(ctx.id, "?")
        return "rescued" if scope.cancelled_caught else "answered"

    async with trio.open_nursery() as nursery:
        async with pool_of(1) as pool:
            nursery.start_soon(_suspicions, pool, found)
            await trio.testing.wait_all_tasks_blocked()
            handle = await pool.spawn(asking)
            assert await handle.result() == "rescued"
    assert found == [(handle.id,)]
    assert trio.current_time() == 10


async def test_unknown_tasks_around_a_pool_are_unknown_when_it_has_been_left(autojump_clock: Any) -> None:
    async def asking(ctx: AgentContext) -> str:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def rescue() -> None:
                    await trio.sleep(10)
                    scope.cancel()

                nursery.start_soon(rescue)
                await _use_a_pool()
                await ctx.ask(ctx.id, "?")
        return "rescued" if scope.cancelled_caught else "answered"

    async with pool_of(1) as pool:
        assert await (await pool.spawn(asking)).result() == "rescued"
    assert trio.current_time() == 10


@pytest.mark.parametrize("nested", [True, False])
async def test_an_agent_that_has_left_its_pools_is_told_of_a_deadlock(
    nested: bool, autojump_clock: Any
) -> None:
    async def asking(ctx: AgentContext) -> None:
        await _use_a_pool()
        if nested:
            async with open_agent_pool(max_concurrent=1):
                await _use_a_pool()
        async with trio.open_nursery():
            pass
        await trio.sleep(ctx.id)
        await ctx.ask(3 - ctx.id, "?")

    async with pool_of(2) as pool:
        first, second = await pool.fan_out([asking, asking])
        outcome = await second.wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, DeadlockError)
        assert outcome.error.path == (second.id, first.id)
        outcome = await first.wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, UnknownAgentError)
    assert trio.current_time() == 2


async def test_an_agent_that_has_left_its_pool_is_told_the_end(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> list[Any]:
        await _use_a_pool()
        return [message.content async for message in ctx.inbox]

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        pool.send_nowait(handle.id, "x")
    assert isinstance(handle.outcome, Completed)
    assert handle.outcome.value == ["x"]
    assert trio.current_time() == 0


@pytest.mark.parametrize("opens", ["pool", "nursery"])
async def test_an_agent_keeps_nothing_of_a_pool_or_a_nursery_that_it_has_left(opens: str) -> None:
    async def agent(ctx: AgentContext) -> int:
        kept: list[weakref.ref[trio.Nursery]] = []

        def keep() -> None:
            kept.extend(map(weakref.ref, trio.lowlevel.current_task().child_nurseries))

        for _ in range(3):
            if opens == "pool":
                async with open_agent_pool(max_concurrent=1) as inner:
                    keep()
                    await (await inner.spawn(value)).result()
                del inner
            else:
                async with ctx.open_nursery() as nursery:
                    keep()
                    nursery.start_soon(trio.lowlevel.checkpoint)
                del nursery
        assert len(kept) == 3
        gc.collect()
        return sum(reference() is not None for reference in kept)

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent)).result() == 0
