"""Agents that block the event loop are named, while a pool drains."""

from __future__ import annotations

import time

import pytest
import trio

from agentpool import AgentContext, AgentPool, AgentStuck, EventSubscription, open_agent_pool


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def blocks(ctx: AgentContext) -> str:
    await trio.sleep(0.1)  # until the pool drains
    busy(1)
    return "done"


def subscribed(pool: AgentPool) -> EventSubscription:
    """Events that can be read when the pool has ended."""
    events = EventSubscription(pool._state.events, 100, "drop_oldest", None)
    pool._state.events.subscribe(events)
    return events


async def sleeps(ctx: AgentContext) -> None:
    await trio.sleep(0.6)


async def test_an_agent_that_blocks_the_loop_is_named_with_the_line_where_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentpool._kernel.watcher.BLOCKING_TIME", 0.05)
    async with open_agent_pool(max_concurrent=2) as pool:
        events = subscribed(pool)
        await pool.spawn(sleeps)
        handle = await pool.spawn(blocks, name="hog")
        assert await pool.drain() == []
        assert handle.outcome is not None
        assert handle.outcome.unwrap() == "done"
        assert pool.statistics().stuck == ()
    [event] = [event async for event in events if isinstance(event, AgentStuck)]
    assert event.name == "hog"
    assert "in busy" in event.stack[-1]


async def test_a_loop_that_goes_on_is_not_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentpool._kernel.watcher.BLOCKING_TIME", 0.02)

    async def works(ctx: AgentContext) -> None:
        for _ in range(20):
            await trio.sleep(0.005)

    async with open_agent_pool(max_concurrent=1) as pool:
        events = subscribed(pool)
        await pool.spawn(works)
        await pool.drain()
    assert [event async for event in events if isinstance(event, AgentStuck)] == []
