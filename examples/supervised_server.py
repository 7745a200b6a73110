"""A server that is restarted when it fails: a counter, its supervisor, and clients that ask it.

The counter breaks at a bad question, comes back with a new id, and is found by its name. The clients ask
by id: who asks by name, `ctx.ask("counter", ...)`, has the bad question put to each next life as well.
"""

from __future__ import annotations

import trio

from agentpool import AgentContext, ChildSpec, Supervisor, UnknownAgentError, open_agent_pool


async def counter(ctx: AgentContext) -> None:
    """Add up what it is asked to, until nobody is left who could ask."""
    total = 0
    async for message in ctx.inbox:
        total += int(message.content)
        ctx.reply(message, total)


async def ask_again(ctx: AgentContext, server: str, question: str) -> int | None:
    """Ask a server by its name; once more if it broke at somebody else's question."""
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
        # The counter is asked "three" five times, breaks each time, and begins again at 0.
        print(await answers.result())  # [1, 3, None, 4, 9]


if __name__ == "__main__":
    trio.run(main)
