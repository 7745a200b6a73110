"""What placed agents cost over a real Ray on this machine: `python -m bench.cluster`.

Ray listens on every address, so it is started in a network namespace that nobody else is in (Linux; needs
`unshare` and `ip`). Head and workers share the machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import trio

INSIDE = "AGENTPOOL_BENCH_INSIDE"


async def sleeper(ctx, seconds):
    await trio.sleep(seconds)


async def echo(ctx):
    async for message in ctx.inbox:
        ctx.reply(message, message.content)


async def asker(ctx, to, count):
    for number in range(count):
        await ctx.ask(to, number)


async def teller(ctx, count):
    from agentpool._core.events import PhaseChanged

    for number in range(count):
        ctx.emit(PhaseChanged, "act", number)
        if number % 100 == 99:
            await trio.lowlevel.checkpoint()
    await ctx.wait_for_subscribers()


async def measure() -> None:
    from agentpool import open_agent_pool, placed
    from agentpool.ray import RayPlacement

    began = time.perf_counter()
    async with open_agent_pool(max_concurrent=2000, placement=RayPlacement(workers=2)) as pool:
        await pool.map(placed(sleeper), [0.0] * 10)
        print(f"Ray and two workers up: {time.perf_counter() - began:.1f} s", flush=True)

        walls = []
        for _ in range(3):
            began = time.perf_counter()
            await pool.map(placed(sleeper), [2.0] * 1000)
            walls.append(time.perf_counter() - began)
        print(f"1,000 agents of 2 s: {', '.join(f'{wall / 2:.2f}' for wall in walls)} x ideal", flush=True)

        for pairs, count in ((1, 300), (50, 60)):
            echoes = [await pool.spawn(placed(echo)) for _ in range(pairs)]
            began = time.perf_counter()
            askers = [await pool.spawn(placed(asker), each.id, count) for each in echoes]
            for each in askers:
                await each.result()
            wall = time.perf_counter() - began
            # A question and its reply are two messages.
            print(f"{pairs} pairs that ask: {2 * pairs * count / wall:,.0f} messages/s", flush=True)
            for each in echoes:
                each.abort()
                await each.wait()

        async with pool.events(max_buffer=1_000_000) as events, trio.open_nursery() as nursery:
            seen = 0

            async def read() -> None:
                nonlocal seen
                async for _ in events:
                    seen += 1

            nursery.start_soon(read)
            await trio.sleep(1.5)  # until the workers know it
            began = time.perf_counter()
            tellers = [await pool.spawn(placed(teller), 50_000) for _ in range(4)]
            for each in tellers:
                await each.result()
            print(f"events: {seen / (time.perf_counter() - began):,.0f}/s", flush=True)
            nursery.cancel_scope.cancel()

        latencies = []
        for _ in range(100):
            handle = await pool.spawn(placed(sleeper), 100.0)
            await trio.sleep(0.05)
            began = time.perf_counter()
            handle.abort()
            await handle.wait()
            latencies.append(1000 * (time.perf_counter() - began))
        latencies.sort()
        print(f"abort to outcome: p50 {statistics.median(latencies):.1f} ms, p95 {latencies[94]:.1f} ms")


def main() -> None:
    """Measure in a network namespace of its own."""
    if INSIDE in os.environ:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        trio.run(measure)
        return
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", "bench.cluster"]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1", "RAY_USAGE_STATS_ENABLED": "0"})


if __name__ == "__main__":
    main()
