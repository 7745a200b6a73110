"""W6, events: 100 emitters that make a checkpoint before each event."""

from __future__ import annotations

import attrs
import trio

from bench.meters import cpu

EMITTERS = 100


@attrs.frozen
class Happened:
    seq: int
    text: str


def checkpoints(size: int) -> dict[str, float]:
    """The emitters' own awaits, without any event."""

    async def emitter() -> None:
        for _ in range(size // EMITTERS):
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(EMITTERS):
                nursery.start_soon(emitter)

    with cpu() as span:
        trio.run(main)
    return {"us": span.per(size // EMITTERS * EMITTERS)}


def _shared_log(size: int, readers: int) -> dict[str, float]:
    count = size // EMITTERS * EMITTERS
    log: list[Happened] = []
    lot = trio.lowlevel.ParkingLot()
    seen = [0] * readers

    async def emitter() -> None:
        for _ in range(size // EMITTERS):
            await trio.lowlevel.checkpoint()
            log.append(Happened(len(log), "x"))
            if lot:
                lot.unpark_all()

    async def reader(number: int) -> None:
        while seen[number] < count:
            if seen[number] == len(log):
                await lot.park()
            for _ in log[seen[number] :]:
                seen[number] += 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(readers):
                nursery.start_soon(reader, number)
            for _ in range(EMITTERS):
                nursery.start_soon(emitter)

    with cpu() as span:
        trio.run(main)
    assert seen == [count] * readers
    return {"us": span.per(count)}


def shared_log_1(size: int) -> dict[str, float]:
    """A list that 1 reader follows, batch after batch."""
    return _shared_log(size, 1)


def shared_log_8(size: int) -> dict[str, float]:
    """A list that 8 readers follow, batch after batch."""
    return _shared_log(size, 8)
