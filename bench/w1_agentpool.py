"""W1 with agentpool: 10,000 agents that make one checkpoint each, 100 at once."""

from __future__ import annotations

import trio
import trio.testing

from agentpool import AgentContext, open_agent_pool
from bench.meters import cpu, resident_kb

AT_ONCE = 100


async def agent(ctx: AgentContext, number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number


def map_(size: int) -> dict[str, float]:
    """`pool.map`: the outcomes come as a list."""

    async def main() -> int:
        async with open_agent_pool(max_concurrent=AT_ONCE) as pool:
            return sum(outcome.unwrap() for outcome in await pool.map(agent, range(size)))

    with cpu() as span:
        assert trio.run(main) == size * (size - 1) // 2
    return {"us": span.per(size)}


def as_completed(size: int) -> dict[str, float]:
    """`pool.as_completed`: the outcomes come one by one, nothing is kept."""

    async def main() -> int:
        total = 0
        async with (
            open_agent_pool(max_concurrent=AT_ONCE) as pool,
            pool.as_completed(agent, range(size)) as done,
        ):
            async for outcome in done:
                total += outcome.unwrap()
        return total

    with cpu() as span:
        assert trio.run(main) == size * (size - 1) // 2
    return {"us": span.per(size)}


def spawn_and_join(size: int) -> dict[str, float]:
    """`spawn` in one task, `join_next` in another, each outcome as it comes."""

    async def main() -> int:
        total = 0
        async with open_agent_pool(max_concurrent=AT_ONCE) as pool:

            async def spawn_all() -> None:
                for number in range(size):
                    await pool.spawn(agent, number)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(spawn_all)
                joined = 0
                while joined < size:
                    outcome = await pool.join_next()
                    if outcome is None:
                        # none alive, although more will come
                        await trio.lowlevel.checkpoint()
                        continue
                    joined += 1
                    total += outcome.unwrap()
        return total

    with cpu() as span:
        assert trio.run(main) == size * (size - 1) // 2
    return {"us": span.per(size)}


def queued(size: int) -> dict[str, float]:
    """Memory of the items of a `map` that wait because every slot is taken."""
    memory = 0.0

    async def main() -> None:
        nonlocal memory
        gate = trio.Event()

        async def holds(ctx: AgentContext, number: int) -> None:
            await gate.wait()

        async with open_agent_pool(max_concurrent=AT_ONCE) as pool:
            for number in range(AT_ONCE):
                await pool.spawn(holds, number)
            await trio.testing.wait_all_tasks_blocked()
            items = list(range(size))
            before = resident_kb()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.map, agent, items)
                await trio.testing.wait_all_tasks_blocked()
                memory = resident_kb() - before
                gate.set()
            await pool.join_all()

    trio.run(main)
    return {"kb": memory / size}
