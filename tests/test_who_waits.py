"""Whose wait it is, is decided by the task that calls, whatever its context variables say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import pytest
import trio
from pool_kit import pool_of, value

from agentpool import AgentContext, AgentHandle, AgentPool, Completed, open_agent_pool

caps = pytest.mark.parametrize("cap", [1, 4])


async def answers(ctx: AgentContext) -> None:
    async for message in ctx.inbox:
        ctx.reply(message, "answer")
        break


async def listens(ctx: AgentContext) -> None:
    async for _ in ctx.inbox:
        pass


async def spawns(pool: Any, _: AgentHandle[Any]) -> Any:
    return await (await pool.spawn(value, 7)).result()


async def asks(pool: Any, answerer: AgentHandle[Any]) -> Any:
    return await pool.ask(answerer.id, "question")


async def waits(pool: Any, answerer: AgentHandle[Any]) -> Any:
    await pool.send(answerer.id, "a message")
    return (await answerer.wait()).name


async def maps(pool: Any, _: AgentHandle[Any]) -> Any:
    return [outcome.unwrap() for outcome in await pool.map(value, [1, 2, 3])]


async def completes(pool: Any, _: AgentHandle[Any]) -> Any:
    async def items() -> Any:
        for item in (1, 2, 3):
            await trio.lowlevel.checkpoint()
            yield item

    async with pool.as_completed(value, items()) as outcomes:
        return sorted([outcome.unwrap() async for outcome in outcomes])


async def races(pool: Any, _: AgentHandle[Any]) -> Any:
    return (await pool.race(value)).unwrap()


async def opens_a_pool(_: Any, __: AgentHandle[Any]) -> Any:
    async with open_agent_pool(max_concurrent=1) as inner:
        return await (await inner.spawn(value, 3)).result()


verbs = pytest.mark.parametrize("verb", [spawns, asks, waits, maps, completes, races, opens_a_pool])
Verb = Callable[[Any, AgentHandle[Any]], Awaitable[Any]]


@caps
@verbs
@pytest.mark.parametrize("ended", [False, True], ids=["lives", "ended"])
async def test_a_task_of_the_program_that_an_agent_started_waits_as_the_program(
    cap: int, verb: Verb, ended: bool, autojump_clock: Any
) -> None:
    got: list[Any] = []

    async def in_the_program(pool: AgentPool, answerer: AgentHandle[Any]) -> None:
        await trio.sleep(1)
        got.append(await verb(pool, answerer))

    async def agent(ctx: AgentContext, nursery: trio.Nursery, *args: Any) -> None:
        nursery.start_soon(in_the_program, *args)
        if not ended:
            await listens(ctx)

    async with trio.open_nursery() as nursery:
        async with pool_of(cap) as pool:
            answerer = await pool.spawn(answers)
            await pool.spawn(agent, nursery, pool, answerer)
            while not got:
                await trio.sleep(1)
    assert len(got) == 1


@verbs
async def test_a_task_that_the_pool_does_not_know_is_refused_and_told_what_to_use(
    verb: Verb, autojump_clock: Any
) -> None:
    refused: list[str] = []

    async def unknown(ctx: Any, answerer: AgentHandle[Any]) -> None:
        with pytest.raises(RuntimeError, match=r"ctx\.open_nursery") as caught:
            await verb(ctx, answerer)
        refused.append(str(caught.value))

    async def deeper(ctx: Any, answerer: AgentHandle[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unknown, ctx, answerer)

    async def agent(ctx: AgentContext, pool: AgentPool, answerer: AgentHandle[Any]) -> None:
        for means in (ctx, pool):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(unknown, means, answerer)
                nursery.start_soon(deeper, means, answerer)
                # In an empty context nothing tells of the agent, but the task still descends from its own.
                Context().run(nursery.start_soon, unknown, means, answerer)

    async with pool_of(2) as pool:
        answerer = await pool.spawn(answers)
        outcome = await (await pool.spawn(agent, pool, answerer)).wait()
        assert isinstance(outcome, Completed), outcome
        answerer.abort()
    assert len(refused) == 6
    assert all(f"agent {outcome.agent_id} (agent)" in text for text in refused)


@caps
async def test_a_known_task_in_an_empty_context_is_the_agents(cap: int, autojump_clock: Any) -> None:
    async def asks_server(ctx: AgentContext, server: AgentHandle[Any], got: list[Any]) -> None:
        got.append(await ctx.ask(server.id, "question"))

    async def agent(ctx: AgentContext, server: AgentHandle[Any]) -> list[Any]:
        got: list[Any] = []
        async with ctx.open_nursery() as nursery:
            Context().run(nursery.start_soon, asks_server, ctx, server, got)
        return got

    async with pool_of(cap) as pool:
        server = await pool.spawn(answers)
        assert await (await pool.spawn(agent, server)).result() == ["answer"]


@caps
@pytest.mark.parametrize("from_agent", [False, True])
async def test_a_loop_of_its_own_in_a_thread_of_an_agent_is_nobodys(cap: int, from_agent: bool) -> None:
    async def with_a_pool() -> list[Any]:
        async with open_agent_pool(max_concurrent=2) as pool:
            answerer = await pool.spawn(answers)
            return [await asks(pool, answerer), await maps(pool, answerer), await spawns(pool, answerer)]

    async def agent(ctx: AgentContext | None) -> list[Any]:
        return await trio.to_thread.run_sync(lambda: trio.run(with_a_pool))

    async with pool_of(cap) as pool:
        got = await ((await pool.spawn(agent)).result() if from_agent else agent(None))
    assert got == ["answer", [1, 2, 3], 7]


async def test_a_task_of_the_program_that_an_agent_started_may_drain_its_pool(autojump_clock: Any) -> None:
    drained: list[float] = []

    async def drains(pool: AgentPool) -> None:
        assert await pool.drain(grace=1) == []
        drained.append(trio.current_time())

    async def agent(ctx: AgentContext, nursery: trio.Nursery, pool: AgentPool) -> None:
        nursery.start_soon(drains, pool)
        await listens(ctx)

    async def drains_itself(ctx: AgentContext, pool: AgentPool) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(refused, pool)
        async with trio.open_nursery() as own:
            own.start_soon(refused, pool)
        await refused(pool)

    async def refused(pool: AgentPool) -> None:
        with pytest.raises(RuntimeError, match="wait for itself"):
            await pool.drain(grace=1)

    async with trio.open_nursery() as nursery, pool_of(2) as pool:
        await (await pool.spawn(drains_itself, pool)).result()
        await pool.spawn(agent, nursery, pool)
    assert drained == [0]


async def test_outside_of_every_task_there_is_no_agent(autojump_clock: Any) -> None:
    """An instrument runs between the steps of tasks; what it sends is the supervisor's."""
    senders: list[int] = []

    class Sends(trio.abc.Instrument):
        def __init__(self, pool: AgentPool, to: int) -> None:
            self.pool, self.to = pool, to

        def before_io_wait(self, timeout: float) -> None:
            trio.lowlevel.remove_instrument(self)
            self.pool.send_nowait(self.to, "between the steps")

    async def agent(ctx: AgentContext) -> None:
        senders.append((await ctx.receive()).sender)

    async with pool_of(1) as pool:
        handle = await pool.spawn(agent)
        trio.lowlevel.add_instrument(Sends(pool, handle.id))
        await handle.result()
    assert senders == [0]
