"""W2 with anyio's memory object streams on trio, behind a dict."""

from __future__ import annotations

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from bench.meters import Stopwatch, cpu

INBOX = 32
SENDERS = 100
RING = 1_000
TOKENS = 100

Message = tuple[int, int]
Box = tuple[MemoryObjectSendStream[Message], MemoryObjectReceiveStream[Message]]


def open_boxes(count: int) -> dict[int, Box]:
    return {number: anyio.create_memory_object_stream[Message](INBOX) for number in range(1, count + 1)}


def close(boxes: dict[int, Box]) -> None:
    for send, receive in boxes.values():
        send.close()
        receive.close()


def ping_pong(size: int) -> dict[str, float]:
    async def serve(boxes: dict[int, Box], me: int, other: int) -> None:
        for _ in range(size // 2):
            await boxes[other][0].send((me, 0))
            await boxes[me][1].receive()

    async def answer(boxes: dict[int, Box], me: int) -> None:
        for _ in range(size // 2):
            sender, content = await boxes[me][1].receive()
            await boxes[sender][0].send((me, content))

    async def main() -> None:
        boxes = open_boxes(2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer, boxes, 2)
            tasks.start_soon(serve, boxes, 1, 2)
        close(boxes)

    with cpu() as span:
        anyio.run(main, backend="trio")
    return {"us": span.per(size)}


def fan_in(size: int) -> dict[str, float]:
    async def send(boxes: dict[int, Box], me: int, to: int) -> None:
        for number in range(size // SENDERS):
            await boxes[to][0].send((me, number))

    async def receive(boxes: dict[int, Box], me: int) -> None:
        for _ in range(size // SENDERS * SENDERS):
            await boxes[me][1].receive()

    async def main() -> None:
        boxes = open_boxes(SENDERS + 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive, boxes, 1)
            for me in range(2, SENDERS + 2):
                tasks.start_soon(send, boxes, me, 1)
        close(boxes)

    with cpu() as span:
        anyio.run(main, backend="trio")
    return {"us": span.per(size)}


def ring(size: int) -> dict[str, float]:
    watch = Stopwatch()

    async def relay(boxes: dict[int, Box], me: int, to: int, done: list[int], all_done: anyio.Event) -> None:
        async for _, hops in boxes[me][1]:
            if hops:
                await boxes[to][0].send((me, hops - 1))
            else:
                done.append(me)
                if len(done) == TOKENS:
                    watch.stop()
                    all_done.set()

    async def main() -> None:
        boxes = open_boxes(RING)
        done: list[int] = []
        all_done = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for me in range(1, RING + 1):
                tasks.start_soon(relay, boxes, me, me % RING + 1, done, all_done)
            await anyio.wait_all_tasks_blocked()
            watch.start()
            for token in range(TOKENS):
                await boxes[token * (RING // TOKENS) + 1][0].send((0, size // TOKENS - 1))
            await all_done.wait()
            tasks.cancel_scope.cancel()
        close(boxes)

    anyio.run(main, backend="trio")
    return {"us": watch.span.per(size // TOKENS * TOKENS)}
