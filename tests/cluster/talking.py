"""Agents on all nodes that send to each other, ask each other and have children.

    talking.py ADDRESS COUNT

Each of the agents, which stand in a ring, sends COUNT numbered messages to the next, asks it, and has a
child.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import trio

from agentpool import AgentContext, open_agent_pool, placed
from agentpool.ray import RayPlacement

RING = 6


def say(event: str, **fields: Any) -> None:
    """Tell the test something."""
    print(json.dumps({"event": event, "at": time.monotonic(), **fields}), flush=True)


def place() -> str:
    """The network namespace of this process: that is its node."""
    return os.readlink("/proc/self/ns/net")


async def doubled(ctx: AgentContext, number: int) -> dict[str, Any]:
    return {"value": 2 * number, "parent": ctx.parent_id, "depth": ctx.depth, "place": place()}


async def talk(ctx: AgentContext, count: int) -> dict[str, Any]:
    question = await ctx.receive()
    ctx.reply(question, place())
    begin = await ctx.receive()
    following: int = begin.content
    got: list[int] = []
    senders: set[int] = set()

    async def listen() -> None:
        """Take what the one before sends, in the order in which it comes, and answer its question."""
        while True:
            message = await ctx.receive()
            senders.add(message.sender)
            if message.content == "how many?":
                ctx.reply(message, len(got))
                return
            got.append(message.content)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(listen)
        for number in range(count):
            await ctx.send(following, number)
        answer = await ctx.ask(following, "how many?")
    child = await ctx.spawn(placed(doubled), ctx.id)
    grown = await child.result()
    return {
        "id": ctx.id,
        "place": place(),
        "got": got,
        "senders": sorted(senders),
        "following": following,
        "answer": answer,
        "child": grown,
        "child_id": child.id,
    }


async def main() -> None:
    address, count = sys.argv[1], int(sys.argv[2])
    placement = RayPlacement(address=address, workers=3, lease=5.0)
    async with open_agent_pool(max_concurrent=100, placement=placement) as pool:
        handles = [await pool.spawn(placed(talk), count) for _ in range(RING)]
        places = [await pool.ask(handle.id, "where are you?") for handle in handles]
        for handle, following in zip(handles, [*handles[1:], handles[0]], strict=True):
            await pool.send(handle.id, following.id)
        say("talking", places=places)
        for handle in handles:
            say("told", **await handle.result())
        say("left", active=pool.active_count, dead_letters=len(pool.dead_letters))
    say("over")


if __name__ == "__main__":
    trio.run(main)
