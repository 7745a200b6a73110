"""W6 with agentpool: 100 agents that make a checkpoint before each event; none, 1, 2 or 8 readers."""

from __future__ import annotations

import time

import trio

from agentpool import AgentContext, open_agent_pool
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
            await pool.spawn(agent)
            await pool.join_all()

    trio.run(main)
    return {"us": seconds / size * 1e6}


def _measure(size: int, fast: int, slow: int = 0) -> dict[str, float]:
    count = size // EMITTERS * EMITTERS
    seen = [0] * fast

    async def emitter(ctx: AgentContext) -> None:
        for _ in range(size // EMITTERS):
            await trio.lowlevel.checkpoint()
            ctx.emit(TextDeltaReceived, "x")

    async def main() -> None:
        all_seen = trio.Event()
        async with open_agent_pool(max_concurrent=EMITTERS) as pool:

            async def read(number: int, *, task_status: trio.TaskStatus[None]) -> None:
                async with pool.events() as events:
                    task_status.started()
                    async for event in events:
                        if isinstance(event, TextDeltaReceived):
                            seen[number] += 1
                            if seen[number] == count and sum(seen) == count * fast:
                                all_seen.set()

            async def read_slowly(*, task_status: trio.TaskStatus[None]) -> None:
                async with pool.events(overflow="drop_oldest") as events:
                    task_status.started()
                    async for _ in events:
                        await trio.sleep(0.1)

            async with trio.open_nursery() as nursery:
                for number in range(fast):
                    await nursery.start(read, number)
                for _ in range(slow):
                    await nursery.start(read_slowly)
                for _ in range(EMITTERS):
                    await pool.spawn(emitter)
                await pool.join_all()
                with trio.move_on_after(1):
                    await all_seen.wait()
                nursery.cancel_scope.cancel()

    with cpu() as span:
        trio.run(main)
    return {"us": span.per(count), "lost": 100 * (1 - sum(seen) / (count * fast))}


def one_reader(size: int) -> dict[str, float]:
    return _measure(size, 1)


def eight_readers(size: int) -> dict[str, float]:
    return _measure(size, 8)


def one_fast_one_slow(size: int) -> dict[str, float]:
    return _measure(size, 1, 1)
