"""Verbs that do not wait, called where the pool is not: they change nothing and say what to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
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
    "unsubscribe": lambda pool, handle, ctx, message: ctx.unsubscribe("news"),
    "receive_nowait": lambda pool, handle, ctx, message: ctx.receive_nowait(),
    "events": lambda pool, handle, ctx, message: pool.events(),
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


WAITING: dict[str, Callable[[AgentPool, AgentHandle[Any], AgentContext], Awaitable[object]]] = {
    "spawn": lambda pool, handle, ctx: pool.spawn(value),
    "send": lambda pool, handle, ctx: pool.send(handle.id, "hello"),
    "ask": lambda pool, handle, ctx: pool.ask(handle.id, "hello"),
    "join_next": lambda pool, handle, ctx: pool.join_next(),
    "join_all": lambda pool, handle, ctx: pool.join_all(),
    "wait": lambda pool, handle, ctx: handle.wait(),
    "result": lambda pool, handle, ctx: handle.result(),
    "map": lambda pool, handle, ctx: pool.map(value, iter([1])),
    "race": lambda pool, handle, ctx: pool.race(value),
    "vote": lambda pool, handle, ctx: pool.vote(value, n=1),
    "drain": lambda pool, handle, ctx: pool.drain(0),
    "receive": lambda pool, handle, ctx: ctx.receive(),
}


@pytest.mark.parametrize("name", WAITING)
async def test_a_verb_that_waits_is_refused_in_another_run(name: str) -> None:
    contexts: list[AgentContext] = []
    async with pool_of(3) as pool:
        handle = await pool.spawn(lives, contexts)
        while not contexts:
            await trio.lowlevel.checkpoint()
        before = pool.statistics()

        async def main() -> None:
            with trio.fail_after(10):
                await WAITING[name](pool, handle, contexts[0])

        with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run|only the tasks of agent"):
            await trio.to_thread.run_sync(trio.run, main)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics() == before
        assert not pool.draining


async def test_an_outcome_may_be_read_in_another_run_when_its_agent_has_ended() -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(value, 7)
        await handle.wait()
        assert await trio.to_thread.run_sync(trio.run, handle.result) == 7
