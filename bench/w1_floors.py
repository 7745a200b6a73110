"""W1, spawn and join: agents that make one checkpoint each, 100 at once, results as they complete."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from bench.meters import cpu

AT_ONCE = 100


async def agent(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number


def limiter(size: int) -> dict[str, float]:
    """The usual way: all tasks at once, a `CapacityLimiter` inside each."""

    async def bounded(
        number: int, limiter: trio.CapacityLimiter, results: trio.MemorySendChannel[int]
    ) -> None:
        async with limiter:
            value = await agent(number)
        await results.send(value)

    async def main() -> int:
        bound = trio.CapacityLimiter(AT_ONCE)
        send, receive = trio.open_memory_channel[int](AT_ONCE)
        async with trio.open_nursery() as nursery:
            for number in range(size):
                nursery.start_soon(bounded, number, bound, send)
            return sum([await receive.receive() for _ in range(size)])

    with cpu() as span:
        assert trio.run(main) == size * (size - 1) // 2
    return {"us": span.per(size)}


def workers(size: int) -> dict[str, float]:
    """100 tasks that take number after number; a bounded channel for the results."""

    async def worker(numbers: Iterator[int], results: trio.MemorySendChannel[int]) -> None:
        with results:
            for number in numbers:
                await results.send(await agent(number))

    async def main() -> int:
        send, receive = trio.open_memory_channel[int](AT_ONCE)
        numbers = iter(range(size))
        total = 0
        async with trio.open_nursery() as nursery:
            with send:
                for _ in range(AT_ONCE):
                    nursery.start_soon(worker, numbers, send.clone())
            async for value in receive:
                total += value
        return total

    with cpu() as span:
        assert trio.run(main) == size * (size - 1) // 2
    return {"us": span.per(size)}


def next_starts(size: int) -> dict[str, float]:
    """A task per agent; the one that ends starts the next, so at most 100 exist."""

    async def main() -> int:
        numbers = iter(range(size))
        results: list[int] = []
        async with trio.open_nursery() as nursery:

            def start_next() -> None:
                number = next(numbers, None)
                if number is not None:
                    nursery.start_soon(run, number)

            async def run(number: int) -> None:
                try:
                    results.append(await agent(number))
                finally:
                    start_next()

            for _ in range(AT_ONCE):
                start_next()
        return sum(results)

    with cpu() as span:
        assert trio.run(main) == size * (size - 1) // 2
    return {"us": span.per(size)}
