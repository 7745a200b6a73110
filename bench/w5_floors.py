"""W5, shutdown: from the wish to the last end, with every agent asleep."""

from __future__ import annotations

import trio

from bench.meters import Stopwatch


def nursery(size: int) -> dict[str, float]:
    """Cancel one nursery."""
    watch = Stopwatch()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            watch.start()
            nursery.cancel_scope.cancel()
        watch.stop()

    trio.run(main)
    return {"ms": watch.span.seconds * 1e3, "us": watch.span.per(size)}


def nursery_and_scopes(size: int) -> dict[str, float]:
    """The same, with a cancel scope in each task, as whoever aborts single tasks must have."""
    watch = Stopwatch()

    async def agent() -> None:
        with trio.CancelScope():
            await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(agent)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            watch.start()
            nursery.cancel_scope.cancel()
        watch.stop()

    trio.run(main)
    return {"ms": watch.span.seconds * 1e3, "us": watch.span.per(size)}
