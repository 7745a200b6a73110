"""Whose agent an agent is: its oldest ancestor below the pool, as long as it lives."""

from __future__ import annotations

import trio
import trio.testing
from pool_kit import pool_of

from agentpool import AgentContext
from agentpool._kernel.opening import root_of


async def test_the_root_of_an_agent_is_its_oldest_ancestor_and_none_when_it_has_ended() -> None:
    roots: list[int] = []
    go_on = trio.Event()

    async def leaf(ctx: AgentContext) -> None:
        roots.append(root_of(pool, ctx.id))
        await go_on.wait()

    async def middle(ctx: AgentContext) -> None:
        await (await ctx.spawn(leaf)).wait()

    async def top(ctx: AgentContext) -> None:
        await (await ctx.spawn(middle)).wait()

    async with pool_of(4) as pool:
        await pool.spawn(middle)
        await trio.testing.wait_all_tasks_blocked()
        handle = await pool.spawn(top)
        await trio.testing.wait_all_tasks_blocked()
        assert root_of(pool, handle.id) == handle.id
        go_on.set()
        await pool.join_all()
        assert root_of(pool, handle.id) == 0
    assert roots == [1, handle.id]
