"""W1 with aiometer on trio."""

from __future__ import annotations

import aiometer
import trio

from bench.meters import cpu

AT_ONCE = 100


async def agent(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number


def spawn(size: int) -> dict[str, float]:
    async def main() -> int:
        total = 0
        async with aiometer.amap(agent, range(size), max_at_once=AT_ONCE) as results:
            async for value in results:
                total += value
        return total

    with cpu() as span:
        assert trio.run(main) == size * (size - 1) // 2
    return {"us": span.per(size)}
