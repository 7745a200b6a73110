"""A server that is restarted when it fails: a counter, its supervisor, and clients that ask it.

The counter fails at a bad question, is restarted with a new id, and is found by its name. The clients ask
by id. If they asked by name, `ctx.ask("counter", ...)`, the bad question would be put to each restarted
counter again.
"""

from __future__ import annotations

import trio

from agentpool import AgentContext, ChildSpec, Supervisor, UnknownAgentError, open_agent_pool


async def counter(ctx: AgentContext) -> None:
    """Add up the numbers that it is asked with, until no agent is left that could ask."""
    total = 0
    async for message in ctx.inbox:
        total += int(message.content)
        ctx.reply(message, total)


async def ask_again(ctx: AgentContext, server: str, question: str) -> int | None:
    """Ask the server with this name; ask again if it failed at the question of another agent."""
    for _ in range(5):
        try:
            answer: int = await ctx.ask(ctx.find(server), question)
            return answer
        except UnknownAgentError:  # it ended without a reply, or is not back yet
            await trio.sleep(0.01)
    return None


async def client(ctx: AgentContext, questions: list[str]) -> list[int | None]:
    return [await ask_again(ctx, "counter", question) for question in questions]


async def main() -> None:
    supervisor = Supervisor([ChildSpec(counter, name="counter")], max_restarts=10, within=60)
    async with open_agent_pool(max_concurrent=2) as pool:
        await pool.spawn(supervisor)
        answers = await pool.spawn(client, ["1", "2", "three", "4", "5"])
        # The counter is asked "three" five times, fails each time, and begins again at 0.
        print(await answers.result())  # [1, 3, None, 4, 9]


if __name__ == "__main__":
    trio.run(main)
