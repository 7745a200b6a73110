"""W5 with agentpool: from `abort_all` to the last outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from agentpool import Aborted, AgentContext, open_agent_pool
from bench.meters import Stopwatch


async def _sleeps(ctx: AgentContext) -> None:
    await trio.sleep_forever()


async def _receives(ctx: AgentContext) -> None:
    await ctx.receive()


async def _has_children(ctx: AgentContext) -> None:
    for _ in range(9):
        await ctx.spawn(_receives)
    await ctx.receive()


def _measure(agent: Callable[[AgentContext], Awaitable[None]], count: int, alive: int) -> dict[str, float]:
    watch = Stopwatch()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=alive) as pool:
            for _ in range(count):
                await pool.spawn(agent)
            while pool.statistics().running < alive and pool.active_count < alive:
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            watch.start()
            pool.abort_all("measured")
            outcomes = await pool.join_all()
            watch.stop()
            assert len(outcomes) == count
            assert all(isinstance(outcome, Aborted) for outcome in outcomes.values())

    trio.run(main)
    return {"ms": watch.span.seconds * 1e3, "us": watch.span.per(alive)}


def asleep(size: int) -> dict[str, float]:
    """No children, no inbox in use."""
    return _measure(_sleeps, size, size)


def receiving(size: int) -> dict[str, float]:
    """Each waits for a message."""
    return _measure(_receives, size, size)


def families(size: int) -> dict[str, float]:
    """One in ten is the parent of nine others, and all wait for messages."""
    return _measure(_has_children, size // 10, size // 10 * 10)
