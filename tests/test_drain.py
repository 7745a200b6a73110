"""drain: no more spawns, a grace, an abort, and the handles of those who live on."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import forever, pool_of, server, sleeper, value

from agentpool import (
    Aborted,
    AgentContext,
    Completed,
    PoolClosedError,
    RestartPolicy,
    UnhandledAgentErrors,
    open_agent_pool,
)


async def test_drain_waits_for_agents_that_end_in_time(autojump_clock: Any) -> None:
    async with pool_of(3) as pool:
        handle = await pool.spawn(sleeper, 5, "done")
        assert await pool.drain(10) == []
        assert trio.current_time() == 5
        assert await handle.result() == "done"


async def test_drain_without_agents_ends_at_once() -> None:
    async with pool_of(1) as pool:
        assert await pool.drain(0) == []


async def test_past_the_grace_agents_are_aborted_with_the_reason(autojump_clock: Any) -> None:
    async with pool_of(3) as pool:
        handle = await pool.spawn(forever)
        assert await pool.drain(2) == []
        assert trio.current_time() == 2
        assert isinstance(handle.outcome, Aborted)
        assert handle.outcome.reason == "the grace of 2 seconds has passed"


async def test_a_grace_of_nothing_aborts_at_once(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(sleeper, 1)
        assert await pool.drain(0) == []
        assert trio.current_time() == 0
        assert isinstance(handle.outcome, Aborted)


async def test_an_endless_grace_waits_for_ever(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        await pool.spawn(sleeper, 5000)
        assert await pool.drain(float("inf")) == []
        assert trio.current_time() == 5000


@pytest.mark.parametrize("wrong", [-1, float("nan")])
async def test_a_grace_that_makes_no_sense_is_refused(wrong: float) -> None:
    async with pool_of(1) as pool:
        with pytest.raises(ValueError, match="grace"):
            await pool.drain(wrong)
        assert await (await pool.spawn(value, 3)).result() == 3


async def test_servers_are_told_that_no_messages_will_come(autojump_clock: Any) -> None:
    async with pool_of(1) as pool:
        handle = await pool.spawn(server)
        pool.send_nowait(handle.id, 1)
        assert await pool.drain(10) == []
        assert trio.current_time() == 0
        assert isinstance(handle.outcome, Completed)
        assert handle.outcome.value == [1]


async def test_after_drain_nobody_spawns_any_more(autojump_clock: Any) -> None:
    errors = []

    async def agent(ctx: AgentContext) -> str:
        await trio.sleep(1)
        for verb in (ctx.spawn, ctx.map):
            try:
                await verb(value, [1])  # type: ignore[operator]
            except PoolClosedError as error:
                errors.append(str(error))
        with pytest.raises(PoolClosedError):
            ctx.spawn_nowait(value)
        return "fine"

    async with pool_of(2) as pool:
        handle = await pool.spawn(agent)
        await pool.drain(10)
        with pytest.raises(PoolClosedError):
            await pool.spawn(value)
        assert await handle.result() == "fine"
    assert errors == ["the pool is draining"] * 2


async def test_spawns_that_wait_for_a_slot_are_refused_by_a_drain(autojump_clock: Any) -> None:
    refused = []

    async def outside(pool: Any) -> None:
        try:
            await pool.spawn(value)
        except PoolClosedError as error:
            refused.append(str(error))

    async def parent(ctx: AgentContext) -> None:
        try:
            await ctx.spawn(value)
        except PoolClosedError as error:
            refused.append(str(error))

    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        await pool.spawn(parent)
        await pool.spawn(sleeper, 5)
        nursery.start_soon(outside, pool)
        await trio.testing.wait_all_tasks_blocked()
        await pool.drain(20)
    assert "the pool is draining" in refused


async def test_those_who_live_on_are_returned_and_still_waited_for(autojump_clock: Any) -> None:
    async def stubborn(ctx: AgentContext) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(30)
        return "lived on"

    async def parent(ctx: AgentContext) -> str:
        return str(await (await ctx.spawn(stubborn)).result())

    async with pool_of(3) as pool:
        own = await pool.spawn(stubborn, name="own")
        await pool.spawn(parent)
        good = await pool.spawn(forever)
        await trio.sleep(1)
        survivors = await pool.drain(4)
        assert trio.current_time() == 10
        assert own.id in [handle.id for handle in survivors]
        assert good.id not in [handle.id for handle in survivors]
        assert {stuck.name for stuck in pool.statistics().stuck} >= {"own", "stubborn"}
        assert await own.result() == "lived on"
    assert trio.current_time() >= 30


async def test_a_cancelled_drain_starts_no_more_agents_all_the_same(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        handle = await pool.spawn(sleeper, 5, "done")
        with trio.move_on_after(1):
            await pool.drain(100)
        assert trio.current_time() == 1
        with pytest.raises(PoolClosedError):
            await pool.spawn(value)
        assert await handle.result() == "done"


async def test_an_agent_cannot_drain_its_own_pool_but_another_one() -> None:
    async def agent(ctx: AgentContext, pool: Any) -> Any:
        with pytest.raises(RuntimeError, match="wait for itself"):
            await pool.drain()
        async with open_agent_pool(max_concurrent=1) as inner:
            await inner.spawn(server)
            return await inner.drain(5)

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent, pool)).result() == []


async def test_failures_of_drained_agents_are_not_lost(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    with pytest.raises(UnhandledAgentErrors):
        async with pool_of(1) as pool:
            await pool.spawn(agent)
            await pool.drain(1)


async def test_outcomes_are_still_joined_after_a_drain(autojump_clock: Any) -> None:
    async with pool_of(2) as pool:
        await pool.spawn(value, 1)
        await pool.spawn(sleeper, 3, 2)
        await pool.drain(10)
        assert sorted(o.unwrap() for o in (await pool.join_all()).values()) == [1, 2]


async def test_a_second_drain_while_the_first_goes_on(autojump_clock: Any) -> None:
    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        await pool.spawn(forever)
        nursery.start_soon(pool.drain, 20)
        await trio.sleep(1)
        assert await pool.drain(3) == []
        assert trio.current_time() == 4


async def test_a_drained_pool_restarts_nobody(autojump_clock: Any) -> None:
    async def fragile(ctx: AgentContext) -> None:
        await trio.sleep(2)
        raise ValueError

    async with pool_of(1) as pool:
        handle = await pool.spawn(fragile, restart=RestartPolicy("permanent", 100))
        await pool.drain(10)
        assert trio.current_time() == 2
        assert (await handle.wait()).restarts == 0


async def test_drain_in_a_cancelled_pool_ends(autojump_clock: Any) -> None:
    with trio.move_on_after(3):
        async with pool_of(1) as pool:
            await pool.spawn(forever)
            await pool.drain(100)
    assert trio.current_time() == 3
