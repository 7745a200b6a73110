"""W2 with agentpool: the pool's router, inboxes of 32, with fewer slots than the ring has agents."""

from __future__ import annotations

from collections.abc import Mapping

import trio
import trio.testing

from agentpool import AgentContext, AgentOutcome, open_agent_pool
from bench.meters import Stopwatch, cpu

INBOX = 32
SLOTS = 128
SENDERS = 100
RING = 1_000
TOKENS = 100


def check(outcomes: Mapping[int, AgentOutcome[None]]) -> None:
    """An agent that failed would make the pool look fast."""
    for outcome in outcomes.values():
        outcome.unwrap()


def ping_pong(size: int) -> dict[str, float]:
    async def serve(ctx: AgentContext, other: int) -> None:
        for _ in range(size // 2):
            await ctx.send(other, 0)
            await ctx.receive()

    async def answer(ctx: AgentContext) -> None:
        for _ in range(size // 2):
            message = await ctx.receive()
            await ctx.send(message.sender, message.content)

    async def main() -> None:
        async with open_agent_pool(max_concurrent=SLOTS, inbox_capacity=INBOX) as pool:
            await pool.spawn(serve, (await pool.spawn(answer)).id)
            check(await pool.join_all())

    with cpu() as span:
        trio.run(main)
    return {"us": span.per(size)}


def fan_in(size: int) -> dict[str, float]:
    async def send(ctx: AgentContext, to: int) -> None:
        for number in range(size // SENDERS):
            await ctx.send(to, number)

    async def receive(ctx: AgentContext) -> None:
        for _ in range(size // SENDERS * SENDERS):
            await ctx.receive()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=SLOTS, inbox_capacity=INBOX) as pool:
            receiver = await pool.spawn(receive)
            for _ in range(SENDERS):
                await pool.spawn(send, receiver.id)
            check(await pool.join_all())

    with cpu() as span:
        trio.run(main)
    return {"us": span.per(size)}


def ring(size: int) -> dict[str, float]:
    """Only the hops are timed, neither the start nor the end of the 1,000 agents."""
    watch = Stopwatch()
    done: list[int] = []
    ids: list[int] = []
    all_done = trio.Event()

    async def relay(ctx: AgentContext, number: int) -> None:
        async for message in ctx.inbox:
            if message.content:
                await ctx.send(ids[(number + 1) % RING], message.content - 1)
            else:
                done.append(number)
                if len(done) == TOKENS:
                    watch.stop()
                    all_done.set()

    async def main() -> None:
        async with open_agent_pool(max_concurrent=SLOTS, inbox_capacity=INBOX) as pool:
            for number in range(RING):
                ids.append((await pool.spawn(relay, number)).id)
            await trio.testing.wait_all_tasks_blocked()
            watch.start()
            for token in range(TOKENS):
                await pool.send(ids[token * (RING // TOKENS)], size // TOKENS - 1)
            await all_done.wait()
            pool.abort_all("the tokens have gone round")
            await pool.join_all()

    trio.run(main)
    return {"us": watch.span.per(size // TOKENS * TOKENS)}
