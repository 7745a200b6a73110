"""What the tests of the bridges share: agents, and a look at what is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio

from agentpool import AgentContext
from agentpool.bridge import AsyncioAgentPool, BlockingAgentPool

T = TypeVar("T")

LIMIT = 60.0
"""Seconds after which a program hangs."""


@contextmanager
def nothing_left() -> Iterator[None]:
    """No thread of the program's is left that was not there before, but trio's idle ones."""
    before = set(threading.enumerate())
    yield
    new = [thread for thread in set(threading.enumerate()) - before if not _is_cached(thread)]
    assert new == []


def _is_cached(thread: threading.Thread) -> bool:
    return thread.name.startswith(("Trio thread", "asyncio_"))


def run_asyncio(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a program on asyncio that may not hang, and leaves no task and no thread."""

    async def program() -> T:
        limit = asyncio.timeout(LIMIT)
        try:
            async with limit:
                value = await main()
        finally:
            # Also if something else came out: it would hide that nothing but the limit ended the program.
            assert not limit.expired(), "the program hangs"
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return value

    with nothing_left():
        return asyncio.run(program(), debug=False)


def check_books(pool: AsyncioAgentPool | BlockingAgentPool) -> None:
    """The books of a pool that has ended are right."""
    assert pool._host.is_over
    assert pool._host.pool._books().problems() == []


async def double(ctx: AgentContext, number: int) -> int:
    await trio.sleep(0)
    return 2 * number


async def sleeping(ctx: AgentContext, seconds: float = 1_000_000, what: Any = None) -> Any:
    await trio.sleep(seconds)
    return what


async def failing(ctx: AgentContext, error: BaseException | None = None) -> None:
    await trio.sleep(0)
    raise error or ValueError("agent")


async def echo(ctx: AgentContext) -> int:
    count = 0
    async for message in ctx.inbox:
        count += 1
        if message.content == "silence":
            await trio.sleep_forever()
        ctx.reply(message, message.content)
    return count
