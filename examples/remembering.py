"""Agents that remember from run to run: each run greets who came before, and counts the visits.

The model here is made up; nothing is asked over the network.

python examples/remembering.py memory.db Ada
"""

from __future__ import annotations

import sys

import trio

from agentpool import AgentContext, SqliteMemory, open_agent_pool


async def porter(ctx: AgentContext, visitor: str) -> str:
    """Tell what is known of a visitor, and keep that they came."""
    assert isinstance(ctx.memory, SqliteMemory)
    own = ctx.memory.namespace("porter")  # nobody else reads or writes there
    visits = await own.get(visitor, 0) + 1
    await own.set(visitor, visits)
    others = await ctx.memory.recall("visited", limit=10)
    await ctx.memory.remember(f"{visitor} visited", source="porter", agent_id=ctx.id)
    before = ", ".join(fragment.content.removesuffix(" visited") for fragment in others)
    return f"{visitor}, visit {visits}. Before you: {before or 'nobody'}."


async def main(path: str, visitors: list[str]) -> None:
    async with (
        SqliteMemory(path) as memory,
        open_agent_pool(max_concurrent=1, memory=memory) as pool,
    ):
        for outcome in await pool.map(porter, visitors):
            print(outcome.unwrap())


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2:])
