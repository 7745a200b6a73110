"""How tests get into a pool from asyncio and from trio, and what may not be left afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from agentpool import open_agent_pool
from agentpool.bridge import open_agent_pool_asyncio

LONG = 30.0
"""Seconds after which a program hangs: nothing here waits for a clock."""

Body = Callable[[Any], Awaitable[Any]]


def from_asyncio(body: Body, **options: Any) -> Any:
    """Run what a program on asyncio does with a pool; asyncio functions run in its own loop."""

    async def main() -> Any:
        async with asyncio.timeout(LONG):
            async with open_agent_pool_asyncio(**options) as pool:
                result = await body(pool)
        assert_no_task_is_left()
        return result

    return asyncio.run(main())


def from_trio(body: Body, **options: Any) -> Any:
    """Run what a program on trio does with a pool; asyncio functions run in a loop of the pool's."""

    async def main() -> Any:
        with trio.fail_after(LONG):
            async with open_agent_pool(**options) as pool:
                return await body(pool)

    return trio.run(main)


both_ways = pytest.mark.parametrize("run", [from_asyncio, from_trio], ids=["from asyncio", "from trio"])


def assert_no_task_is_left() -> None:
    """Look for tasks beside the calling one in the loop of the program."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert left == set()


def _threads() -> set[threading.Thread]:
    # Trio keeps threads for the next call for some seconds; they do nothing and belong to no pool.
    return {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}


@contextmanager
def no_thread_is_left() -> Iterator[None]:
    before = _threads()
    yield
    for thread in _threads() - before:
        thread.join(5)  # AnyIO's workers end by themselves, a moment after their loop
    assert _threads() - before == set()
