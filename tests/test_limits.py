"""PoolLimits: finite by default, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from pool_kit import pool_of, value

from agentpool import AgentContext, PoolLimitError, PoolLimits, open_agent_pool


def test_limits_are_finite_by_default() -> None:
    limits = PoolLimits()
    assert all(
        0 < limit < 10**9
        for limit in (limits.depth, limits.descendants, limits.tool_calls, limits.model_calls)
    )


@pytest.mark.parametrize("name", ["depth", "descendants", "tool_calls", "model_calls"])
@pytest.mark.parametrize(
    ("wrong", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_limits_that_make_no_sense_are_refused(name: str, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        PoolLimits(**{name: wrong})


@pytest.mark.parametrize("depth", [1, 3])
async def test_depth_bounds_the_levels_below_the_agents_of_the_body(depth: int) -> None:
    async def agent(ctx: AgentContext) -> int:
        try:
            handle = await ctx.spawn(agent)
        except PoolLimitError as error:
            assert (error.limit, error.maximum) == ("depth", depth)  # noqa: PT017
            assert "PoolLimits.depth" in str(error)  # noqa: PT017
            with pytest.raises(PoolLimitError):
                ctx.spawn_nowait(agent)
            with pytest.raises(PoolLimitError):
                await ctx.map(value, [1])
            return ctx.depth
        return await handle.result()

    async with pool_of(1, limits=PoolLimits(depth=depth)) as pool:
        assert await (await pool.spawn(agent)).result() == depth


async def test_descendants_are_counted_over_the_whole_life_of_the_pool() -> None:
    async def agent(ctx: AgentContext, pool: Any) -> int:
        started = 0
        while True:
            try:
                await (await (ctx if started % 2 else pool).spawn(value)).wait()
            except PoolLimitError as error:
                assert error.limit == "descendants"  # noqa: PT017
                return started
            started += 1

    async with pool_of(2, limits=PoolLimits(descendants=7)) as pool:
        # What the body spawns does not count.
        for _ in range(20):
            await (await pool.spawn(value)).wait()
        assert await (await pool.spawn(agent, pool)).result() == 7
        assert await (await pool.spawn(agent, pool)).result() == 0
        await (await pool.spawn(value)).wait()


async def test_a_limit_that_is_reached_while_a_spawn_waits_refuses_it() -> None:
    results: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        async def one() -> None:
            try:
                results.append((await (await ctx.spawn(value, 1)).wait()).agent_id)
            except PoolLimitError:
                results.append("refused")

        async with ctx.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)

    async with pool_of(1, limits=PoolLimits(descendants=2)) as pool:
        await (await pool.spawn(agent)).result()
    assert sorted(results, key=str) == [2, 3, "refused", "refused"]


async def test_a_bomb_of_agents_is_stopped() -> None:
    async def bomb(ctx: AgentContext) -> None:
        for _ in range(3):
            await ctx.spawn(bomb)

    async with pool_of(2, limits=PoolLimits(depth=100, descendants=50)) as pool:
        await (await pool.spawn(bomb)).wait()
        assert pool.statistics().spawned == 51


@pytest.mark.parametrize("kind", ["tool_calls", "model_calls"])
async def test_calls_in_flight_are_bounded(kind: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        with ctx.in_flight(kind), ctx.in_flight(kind):
            with pytest.raises(PoolLimitError, match=kind):
                with ctx.in_flight(kind):
                    raise AssertionError
        with pytest.raises(KeyError):
            with ctx.in_flight(kind):
                raise KeyError
        with ctx.in_flight(kind):
            pass

    async with pool_of(1, limits=PoolLimits(**{kind: 2})) as pool:
        await (await pool.spawn(agent)).result()


async def test_an_agent_of_another_pool_counts_as_an_agent(autojump_clock: Any) -> None:
    async def outer(ctx: AgentContext) -> int:
        async with open_agent_pool(max_concurrent=1, limits=PoolLimits(descendants=3)) as inner:
            started = 0
            with pytest.raises(PoolLimitError):
                while True:
                    await inner.spawn(value)
                    started += 1
            await trio.sleep(1)
            return started

    async with pool_of(1) as pool:
        assert await (await pool.spawn(outer)).result() == 3
