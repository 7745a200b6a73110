"""What a pool tells of its agents: each is in one state, and the numbers add up."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import forever, pool_of, server, sleeper, value

from agentpool import (
    AgentContext,
    AgentPool,
    Backoff,
    Budget,
    BudgetAmounts,
    BudgetLimits,
    Completion,
    CompletionRequest,
    Driver,
    RestartPolicy,
    TokenUsage,
    open_agent_pool,
)

IN_A_MINUTE = RestartPolicy(max_restarts=9, within=1e6, backoff=Backoff(60, 60))


def states(pool: AgentPool) -> dict[str, int]:
    """How many agents are in which state; those without any are left out."""
    now = pool.statistics()
    counts = {
        "running": now.running,
        "lent": now.lent,
        "queued": now.queued,
        "backing_off": now.backing_off,
    }
    assert sum(counts.values()) == pool.active_count == now.spawned - now.ended
    assert now.lent == len(now.waiting)
    return {state: count for state, count in counts.items() if count}


class AddUp(trio.abc.Instrument):
    """Looks at the numbers of a pool before each step of a task."""

    def __init__(self, pool: AgentPool) -> None:
        self._pool = pool
        self.seen: set[str] = set()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seen.update(states(self._pool))


async def fails(ctx: AgentContext) -> None:
    raise ValueError


async def test_an_agent_before_its_first_step_runs_in_its_slot(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        assert states(pool) == {}
        handle = pool.spawn_nowait(sleeper, 1)
        assert handle.status == "starting"
        assert states(pool) == {"running": 1}
        await trio.testing.wait_all_tasks_blocked()
        assert handle.status == "running"
        assert states(pool) == {"running": 1}
    assert states(pool) == {}


async def test_an_agent_that_waits_has_lent_its_slot_whether_somebody_took_it_or_not(
    autojump_clock: Any,
) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(server)
        await trio.testing.wait_all_tasks_blocked()
        assert states(pool) == {"lent": 1}
        assert handle.status == "waiting"
        other = await pool.spawn(sleeper, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert states(pool) == {"lent": 1, "running": 1}
        await other.wait()


async def test_an_agent_that_was_woken_is_queued_for_its_slot(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(server)
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(sleeper, 1)
        await pool.send(handle.id, "x")
        assert states(pool) == {"queued": 1, "running": 1}
        assert handle.status == "queued"
        await trio.sleep(2)
        assert states(pool) == {"lent": 1}
    assert await handle.result() == ["x"]


async def test_an_agent_that_sleeps_before_a_restart_is_nothing_else(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(fails, restart=IN_A_MINUTE)
        await trio.sleep(30)
        assert states(pool) == {"backing_off": 1}
        assert handle.status == "backing_off"
        assert pool.statistics().waiting == ()
        await pool.spawn(sleeper, 60)
        await trio.sleep(45)
        # Its time has come, but not its slot.
        assert states(pool) == {"queued": 1, "running": 1}
        assert handle.status == "queued"
        await trio.sleep(30)
        assert states(pool) == {"backing_off": 1}
        handle.abort()
        assert (await handle.wait()).restarts == 2


async def test_an_agent_that_is_aborted_while_it_backs_off_runs_until_its_end(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(fails, restart=IN_A_MINUTE)
        await trio.sleep(30)
        add_up = AddUp(pool)
        handle.abort()
        trio.lowlevel.add_instrument(add_up)
        await handle.wait()
        trio.lowlevel.remove_instrument(add_up)
    assert add_up.seen == {"backing_off"}


async def test_an_agent_that_unwinds_without_a_slot_runs(autojump_clock: Any) -> None:
    async def cleans_up(ctx: AgentContext) -> None:
        try:
            await ctx.receive()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)

    async with pool_of(1) as pool:
        handles = [await pool.spawn(cleans_up) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        await pool.spawn(sleeper, 3)
        assert states(pool) == {"lent": 3, "running": 1}
        for handle in handles:
            handle.abort()
        await trio.sleep(1)
        assert states(pool) == {"running": 4}
        assert [handle.status for handle in handles] == ["running"] * 3
        assert repr(pool) == "<AgentPool: 4 agents, 1 of 1 slots taken, 4 spawned>"


async def test_an_agent_whose_body_has_ended_waits_for_its_children(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> None:
        await ctx.spawn(sleeper, 3)

    async with pool_of(2) as pool:
        handle = await pool.spawn(parent)
        await trio.sleep(1)
        assert handle.status == "ending"
        assert states(pool) == {"lent": 1, "running": 1}


@pytest.mark.parametrize("max_concurrent", [1, 2, 8])
async def test_the_numbers_add_up_at_every_step(max_concurrent: int, autojump_clock: Any) -> None:
    async def busy(ctx: AgentContext, levels: int) -> None:
        await trio.sleep(levels)
        if levels:
            handle = await ctx.spawn(busy, levels - 1, timeout=levels)
            await ctx.map(value, range(2))
            with trio.move_on_after(1):
                await ctx.receive()
            await handle.wait()
        if ctx.id % 3 == 0:
            raise ValueError

    async with pool_of(max_concurrent) as pool:
        add_up = AddUp(pool)
        trio.lowlevel.add_instrument(add_up)
        handles = []
        for number in range(6):
            restart = RestartPolicy(max_restarts=2, within=1e6, backoff=1) if number % 2 else None
            handles.append(await pool.spawn(busy, 3, restart=restart))
        await pool.spawn(forever)
        pool.max_concurrent = 1
        await trio.sleep(4)
        handles[0].abort()
        pool.max_concurrent = max_concurrent
        await trio.sleep(20)
        pool.abort_all()
        await pool.join_all()
        trio.lowlevel.remove_instrument(add_up)
    assert {"running", "lent", "queued"} <= add_up.seen


class Slow(Driver):
    """Answers after a second, for 30 tokens and a cent."""

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(1)
        return Completion("Done.", usage=TokenUsage(10, 20, cost_usd=0.01))

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return 0.02


async def test_a_pool_tells_how_far_its_budget_is_used(autojump_clock: Any) -> None:
    async def asks(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(CompletionRequest(model="m", messages=(), max_tokens=100))

    budget = Budget(tokens=1000, cost_usd=0.5)
    async with open_agent_pool(Slow(), max_concurrent=2, budget=budget) as pool:
        before = pool.statistics().budget
        handle = await pool.spawn(asks)
        await trio.sleep(0.5)
        meanwhile = pool.statistics().budget
        await handle.wait()
        after = pool.statistics().budget
    assert before is not None
    assert meanwhile is not None
    assert after is not None
    assert before.limit == before.remaining == BudgetLimits(tokens=1000, cost_usd=0.5)
    assert before.spent == before.reserved == BudgetAmounts()
    assert meanwhile.reserved.calls == 1
    assert meanwhile.reserved.tokens >= 100
    assert meanwhile.remaining.tokens == 1000 - meanwhile.reserved.tokens
    assert meanwhile.spent == BudgetAmounts()
    assert after.spent == BudgetAmounts(tokens=30, cost_usd=0.01, calls=1)
    assert after.remaining == BudgetLimits(tokens=970, cost_usd=0.49)
    assert after.reserved == BudgetAmounts()


async def test_a_pool_without_a_budget_tells_of_none_and_whether_it_drains(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        assert pool.statistics().budget is None
        assert not pool.draining
        await pool.drain()
        assert pool.draining


async def test_who_waits_for_several_is_told_with_all_of_them_once(autojump_clock: Any) -> None:
    below: set[int] = set()

    async def waits_twice(ctx: AgentContext) -> None:
        handle = await ctx.spawn(sleeper, 3)
        other = await ctx.spawn(sleeper, 3)
        below.update((handle.id, other.id))
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(handle.wait)
            nursery.start_soon(handle.wait)
            await other.wait()

    async with pool_of(3) as pool:
        above = await pool.spawn(waits_twice)
        other = await pool.spawn(server)
        await trio.sleep(1)
        waiting = {each.id: each.waits_for for each in pool.statistics().waiting}
    assert {agent_id: set(targets) for agent_id, targets in waiting.items()} == {
        above.id: below,
        other.id: set(),
    }
    assert [len(waiting[above.id]), len(waiting[other.id])] == [2, 0]
