"""W6 with agentpool: 100 agents that make a checkpoint before each event; none, 1, 2 or 8 readers."""

from __future__ import annotations

import time

import trio

from agentpool import AgentContext, EventSubscription, open_agent_pool
from agentpool._core.events import TextDeltaReceived
from bench.meters import cpu

EMITTERS = 100


def unobserved(size: int) -> dict[str, float]:
    """What `emit` costs when nobody subscribed."""
    seconds = 0.0

    async def agent(ctx: AgentContext) -> None:
        nonlocal seconds
        await trio.lowlevel.checkpoint()
        start = time.process_time()
        for _ in range(size):
            ctx.emit(TextDeltaReceived, "x")
        seconds = time.process_time() - start

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1) as pool:
            await (await pool.spawn(agent)).result()

    trio.run(main)
    return {"us": seconds / size * 1e6}


def _measure(size: int, fast: int, slow: int = 0) -> dict[str, float]:
    """Return µs per event, and which share of them the fast readers lost."""
    count = size // EMITTERS * EMITTERS
    readers: list[EventSubscription] = []

    async def emitter(ctx: AgentContext) -> None:
        for _ in range(size // EMITTERS):
            await trio.lowlevel.checkpoint()
            ctx.emit(TextDeltaReceived, "x")

    async def main() -> None:
        async with open_agent_pool(max_concurrent=EMITTERS) as pool, trio.open_nursery() as nursery:

            async def read(*, task_status: trio.TaskStatus[EventSubscription]) -> None:
                async with pool.events() as events:
                    task_status.started(events)
                    async for _ in events:
                        pass

            async def read_slowly(*, task_status: trio.TaskStatus[EventSubscription]) -> None:
                async with pool.events(overflow="drop_oldest") as events:
                    task_status.started(events)
                    async for _ in events:
                        await trio.sleep(0.1)

            for _ in range(fast):
                readers.append(await nursery.start(read))
            for _ in range(slow):
                await nursery.start(read_slowly)
            for _ in range(EMITTERS):
                await pool.spawn(emitter)
            for outcome in (await pool.join_all()).values():
                outcome.unwrap()
            while any(reader.statistics().buffered for reader in readers):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    with cpu() as span:
        trio.run(main)
    dropped = sum(reader.statistics().dropped for reader in readers)
    return {"us": span.per(count), "lost": 100 * dropped / (count * fast)}


def one_reader(size: int) -> dict[str, float]:
    return _measure(size, 1)


def eight_readers(size: int) -> dict[str, float]:
    return _measure(size, 8)


def one_fast_one_slow(size: int) -> dict[str, float]:
    return _measure(size, 1, 1)
