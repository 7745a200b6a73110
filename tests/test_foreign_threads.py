"""Verbs that do not wait, called where the pool is not: they change nothing and say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from pool_kit import pool_of, value

from agentpool import AgentContext, AgentHandle, AgentMessage, AgentPool


async def lives(ctx: AgentContext, given: list[AgentContext]) -> None:
    given.append(ctx)
    async for _ in ctx.inbox:
        pass


Verb = Callable[[AgentPool, AgentHandle[Any], AgentContext, AgentMessage], object]


def sets_max_concurrent(pool: AgentPool, *_: object) -> None:
    pool.max_concurrent = 7


VERBS: dict[str, Verb] = {
    "send_nowait": lambda pool, handle, ctx, message: pool.send_nowait(handle.id, "hello"),
    "spawn_nowait": lambda pool, handle, ctx, message: pool.spawn_nowait(value),
    "max_concurrent": sets_max_concurrent,
    "abort": lambda pool, handle, ctx, message: handle.abort(),
    "abort_all": lambda pool, handle, ctx, message: pool.abort_all(),
    "reply": lambda pool, handle, ctx, message: ctx.reply(message, "answer"),
    "subscribe": lambda pool, handle, ctx, message: ctx.subscribe("news"),
}


async def in_a_thread(call: Callable[[], object]) -> None:
    await trio.to_thread.run_sync(call)


async def in_another_run(call: Callable[[], object]) -> None:
    async def main() -> None:
        call()

    await trio.to_thread.run_sync(lambda: trio.run(main))


@pytest.mark.parametrize("where", [in_a_thread, in_another_run])
@pytest.mark.parametrize("name", VERBS)
async def test_it_is_refused_and_changes_nothing(name: str, where: Any) -> None:
    contexts: list[AgentContext] = []
    async with pool_of(3) as pool:
        handle = await pool.spawn(lives, contexts)
        while not contexts:
            await trio.lowlevel.checkpoint()
        message = AgentMessage(to=handle.id, content="question")
        before = pool.statistics()
        with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run_sync"):
            await where(lambda: VERBS[name](pool, handle, contexts[0], message))
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == before
        assert pool.max_concurrent == 3


async def test_by_way_of_trio_a_thread_may_call_them() -> None:
    async with pool_of(3) as pool:
        handle = await pool.spawn(lives, [])

        def in_thread() -> None:
            trio.from_thread.run_sync(pool.send_nowait, handle.id, "hello")
            trio.from_thread.run_sync(pool.abort_all, "enough")

        await trio.to_thread.run_sync(in_thread)
        assert await handle.wait() == handle.outcome
        assert pool.statistics().messages_sent == 1
