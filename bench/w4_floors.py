"""W4, alive and waiting: start, one message and its reply, end; all agents alive at once."""

from __future__ import annotations

import trio

from bench.meters import cpu, resident_kb

INBOX = 32


def tasks(size: int) -> dict[str, float]:
    """A task and a memory channel for each agent, one channel for the replies."""
    memory = 0.0

    async def agent(inbox: trio.MemoryReceiveChannel[int], replies: trio.MemorySendChannel[int]) -> None:
        await replies.send(await inbox.receive())

    async def main() -> None:
        nonlocal memory
        inboxes: list[trio.MemorySendChannel[int]] = []
        send_reply, replies = trio.open_memory_channel[int](1)
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                send, receive = trio.open_memory_channel[int](INBOX)
                inboxes.append(send)
                nursery.start_soon(agent, receive, send_reply)
            # two steps: every task has started, every task waits
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            memory = resident_kb()
            for number, inbox in enumerate(inboxes):
                await inbox.send(number)
                assert await replies.receive() == number

    before = resident_kb()
    with cpu() as span:
        trio.run(main)
    return {"us": span.per(size), "kb": (memory - before) / size}
