"""What the tests of the pool share: a pool that may not hang, and whose books are looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from agentpool import AgentContext, AgentPool, open_agent_pool

LONG = 100_000.0
"""Seconds of virtual time after which a program hangs."""


class Running:
    """Counts, from inside, how many agents run."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0

    def __enter__(self) -> None:
        self.now += 1
        self.peak = max(self.peak, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


@asynccontextmanager
async def pool_of(max_concurrent: int, **options: Any) -> AsyncIterator[AgentPool]:
    """A pool that ends, and leaves nothing behind, however it is left."""
    pool: AgentPool | None = None
    try:
        with trio.fail_after(LONG):
            async with open_agent_pool(max_concurrent=max_concurrent, **options) as pool:
                yield pool
    finally:
        if pool is not None:
            assert pool._books().problems() == []


async def value(ctx: AgentContext, what: Any = None) -> Any:
    return what


async def sleeper(ctx: AgentContext, seconds: float, what: Any = None) -> Any:
    await trio.sleep(seconds)
    return what


async def forever(ctx: AgentContext) -> None:
    await trio.sleep_forever()


async def failing(ctx: AgentContext, error: BaseException | None = None, seconds: float = 0) -> None:
    await trio.sleep(seconds)
    raise error or ValueError("agent")


async def server(ctx: AgentContext) -> list[Any]:
    """Collects what it gets until its inbox ends; answers questions with their content."""
    got = []
    async for message in ctx.inbox:
        got.append(message.content)
        ctx.reply(message, message.content)
    return got


async def collector(ctx: AgentContext) -> list[Any]:
    return [message.content async for message in ctx.inbox]
