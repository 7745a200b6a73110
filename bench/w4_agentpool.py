"""W4 with agentpool: start, one message and its reply, end; all agents alive at once."""

from __future__ import annotations

import trio
import trio.testing

from agentpool import AgentContext, open_agent_pool
from bench.meters import cpu, resident_kb


def agents(size: int) -> dict[str, float]:
    memory = 0.0

    async def agent(ctx: AgentContext) -> None:
        message = await ctx.receive()
        ctx.reply(message, message.content)

    async def main() -> None:
        nonlocal memory
        async with open_agent_pool(max_concurrent=size) as pool:
            ids = [(await pool.spawn(agent)).id for _ in range(size)]
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            memory = resident_kb()
            for number, agent_id in enumerate(ids):
                assert await pool.ask(agent_id, number) == number
            for outcome in (await pool.join_all()).values():
                outcome.unwrap()

    before = resident_kb()
    with cpu() as span:
        trio.run(main)
    return {"us": span.per(size), "kb": (memory - before) / size}
