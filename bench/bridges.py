"""What the bridges cost: `python -m bench.bridges [--write]` prints a table, or puts it into the guide.

Each figure is the median of several rounds, beside what anyio's bare portal takes for the same way.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import trio
from anyio.from_thread import start_blocking_portal

from agentpool import open_agent_pool
from agentpool.bridge import asyncio_agent, open_agent_pool_asyncio, open_agent_pool_blocking

PAGE = Path(__file__).parent.parent / "docs" / "guide" / "bridges.md"
ROUNDS = 7
MANY = 1000


async def nothing(*_: Any) -> None:
    """As an agent, and as a call of a portal."""


async def nothing_there(*_: Any) -> None:
    await asyncio.sleep(0)


def timed(rounds: int, work: Callable[[], Any], per: int) -> float:
    """Microseconds for each of `per` things that `work` does."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) / per * 1e6)
    return median(taken)


def in_portal() -> tuple[float, float]:
    def open_and_close() -> None:
        with start_blocking_portal("trio"):
            pass

    with start_blocking_portal("trio") as portal:
        call = timed(ROUNDS, lambda: [portal.call(nothing) for _ in range(MANY)], MANY)
    return timed(50, open_and_close, 1), call


def blocking() -> tuple[float, float, float]:
    def open_and_close() -> None:
        with open_agent_pool_blocking(max_concurrent=10):
            pass

    with open_agent_pool_blocking(max_concurrent=10) as pool:
        one = timed(ROUNDS, lambda: [pool.spawn(nothing).result() for _ in range(MANY)], 2 * MANY)
        many = timed(ROUNDS, lambda: pool.map(nothing, range(MANY)), MANY)
    return timed(50, open_and_close, 1), one, many


async def on_asyncio() -> tuple[float, float, float]:
    times: list[float] = []
    async with open_agent_pool_asyncio(max_concurrent=10) as pool:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for _ in range(MANY):
                await (await pool.spawn(nothing)).result()
            times.append((time.perf_counter() - began) / (2 * MANY) * 1e6)
        one, times = median(times), []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            await pool.map(nothing, range(MANY))
            times.append((time.perf_counter() - began) / MANY * 1e6)
        many, times = median(times), []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            await pool.map(asyncio_agent(nothing_there), range(MANY))
            times.append((time.perf_counter() - began) / MANY * 1e6)
    return one, many, median(times)


async def on_trio() -> float:
    times: list[float] = []
    async with open_agent_pool(max_concurrent=10) as pool:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            await pool.map(nothing, range(MANY))
            times.append((time.perf_counter() - began) / MANY * 1e6)
    return median(times)


def table() -> str:
    bare_open, bare_call = in_portal()
    opened, one, many = blocking()
    one_asyncio, many_asyncio, there = asyncio.run(on_asyncio())
    native = trio.run(on_trio)
    rows = [
        ("open and close a pool in a thread of its own", opened, "a bare portal", bare_open),
        ("one verb, from a thread", one, "one call of a bare portal", bare_call),
        ("one verb, from asyncio", one_asyncio, "one call of a bare portal", bare_call),
        (f"an agent of a `map` of {MANY:,}, from a thread", many, "on trio", native),
        (f"an agent of a `map` of {MANY:,}, from asyncio", many_asyncio, "on trio", native),
        (f"an `asyncio_agent` of a `map` of {MANY:,}", there, "on trio", native),
    ]
    lines = ["| what | µs | beside it | µs |", "|---|---|---|---|"]
    lines += [f"| {what} | {taken:,.0f} | {beside} | {other:,.0f} |" for what, taken, beside, other in rows]
    return "\n".join(lines)


def main() -> None:
    text = table()
    print(text)
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text("utf-8")
        new = re.sub(r"(?s)(<!-- bridges -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page)
        PAGE.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
