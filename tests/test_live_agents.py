"""A pool for whoever shows it: its agents by their ids, and its events from before anything happens."""

from __future__ import annotations

import trio
import trio.testing
from pool_kit import forever, pool_of, value

from agentpool import (
    Aborted,
    AgentContext,
    AgentFinished,
    AgentPool,
    AgentSpawned,
    AgentStarted,
    open_agent_pool,
)
from agentpool._kernel.live_agents import abort_agent, live_agents, subscribed, told_so_far
from agentpool._kernel.opening import OpenPool


async def parent(ctx: AgentContext) -> None:
    await ctx.spawn(forever, name="child")
    await trio.sleep_forever()


async def test_live_agents_are_told_parents_first() -> None:
    async with pool_of(4) as pool:
        first = await pool.spawn(parent, name="parent")
        await trio.testing.wait_all_tasks_blocked()
        last = pool.spawn_nowait(forever, name="last")
        told = [(each.name, each.parent_id, each.has_started) for each in live_agents(pool)]
        assert told == [("parent", 0, True), ("child", first.id, True), ("last", 0, False)]
        assert all(each.spawned_at <= trio.current_time() for each in live_agents(pool))
        events = [(type(each), each.agent_id, each.parent_id) for each in told_so_far(pool)]
        first.abort()
        last.abort()
    assert live_agents(pool) == list(told_so_far(pool)) == []
    child = first.id + 1
    assert events == [
        (AgentSpawned, first.id, 0),
        (AgentSpawned, child, first.id),
        (AgentSpawned, last.id, 0),
        (AgentStarted, first.id, 0),
        (AgentStarted, child, first.id),
    ]


async def test_an_agent_is_aborted_by_its_id_with_all_below_it() -> None:
    async with pool_of(4) as pool:
        handle = await pool.spawn(parent, name="parent")
        await trio.testing.wait_all_tasks_blocked()
        assert abort_agent(pool, handle.id, "enough")
        outcome = await handle.wait()
        assert isinstance(outcome, Aborted)
        assert outcome.reason == "enough"
        assert pool.active_count == 0
        assert not abort_agent(pool, handle.id, "again")
        assert not abort_agent(pool, 99, "who?")


async def test_events_are_seen_from_before_anything_happens_until_the_subscription_is_closed() -> None:
    opened = open_agent_pool(max_concurrent=2)
    assert isinstance(opened, OpenPool)
    seen: list[AgentPool] = []
    subscriptions = []

    def watch(pool: AgentPool) -> None:
        seen.append(pool)
        subscriptions.append(subscribed(pool, 100))

    opened.watch_with(watch)
    async with opened as pool:
        assert len(seen) == 1
        await (await pool.spawn(value, 1)).wait()
        [events] = subscriptions
        told = [type(event) for event in events.next_batch_nowait()]
        assert told[0] is AgentSpawned
        assert told[-1] is AgentFinished
        events.close()
        await (await pool.spawn(value, 2)).wait()
        assert events.next_batch_nowait() == []
