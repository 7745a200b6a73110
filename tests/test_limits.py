"""PoolLimits: finite by default, and what they refuse."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing
from pool_kit import pool_of, server, sleeper, value

from agentpool import (
    AgentContext,
    AgentManifest,
    Completed,
    Completion,
    CompletionRequest,
    PoolClosedError,
    PoolLimitError,
    PoolLimits,
    RestartPolicy,
    ScriptedDriver,
    SpawnCapability,
    SpawnConfig,
    ToolCall,
    ToolMessage,
    open_agent_pool,
)

NAMES = ["depth", "alive", "model_spawns", "descendants", "tool_calls", "model_calls"]


def test_what_is_there_at_once_is_bounded_and_what_was_over_time_is_not() -> None:
    assert attrs.asdict(PoolLimits()) == {
        "depth": 16,
        "alive": 100_000,
        "model_spawns": 1_000,
        "descendants": None,
        "tool_calls": 10_000,
        "model_calls": 10_000,
    }


@pytest.mark.parametrize("name", NAMES)
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


async def test_without_a_bound_agents_spawn_without_end() -> None:
    async def agent(ctx: AgentContext) -> None:
        for _ in range(100):
            await (await ctx.spawn(value)).wait()

    limits = PoolLimits(depth=1, alive=2, model_spawns=1)
    async with pool_of(1, limits=limits) as pool:
        await (await pool.spawn(agent)).result()


# -- alive at once -----------------------------------------------------------------------------------


async def test_agents_alive_at_once_are_bounded_whoever_spawns_them(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        await ctx.spawn(sleeper, 1)
        with pytest.raises(PoolLimitError, match="alive is at its maximum of 3; raise PoolLimits"):
            await ctx.spawn(value)

    async with pool_of(9, limits=PoolLimits(alive=3)) as pool:
        await pool.spawn(sleeper, 2)
        handle = await pool.spawn(agent)
        await trio.sleep(0.5)
        for refused in (pool.spawn(value), pool.map(value, [1]), pool.race(value)):
            with pytest.raises(PoolLimitError) as info:
                await refused
            assert (info.value.limit, info.value.maximum) == ("alive", 3)
        with pytest.raises(PoolLimitError, match="alive"):
            pool.spawn_nowait(value)
        assert pool.statistics().spawned == 3
        await handle.result()
        assert await (await pool.spawn(value, 4)).result() == 4


async def test_who_waits_for_a_slot_is_counted_when_it_starts(autojump_clock: Any) -> None:
    results: list[Any] = []

    async def spawns(pool: Any) -> None:
        try:
            await pool.spawn(waits)
        except PoolLimitError as error:
            results.append(error.limit)
        else:
            results.append("started")

    async def waits(ctx: AgentContext) -> None:
        await ctx.receive()

    async with pool_of(1, limits=PoolLimits(alive=2)) as pool:
        await pool.spawn(sleeper, 1)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(spawns, pool)
        pool.abort_all()
    # Once the sleeper has ended there is room for two, which wait and lend their slot.
    assert results == ["started", "started", "alive"]


# -- asked for by models -------------------------------------------------------------------------------


async def _for_model(ctx: AgentContext, count: int) -> int:
    started = 0
    for _ in range(count):
        try:
            await (await ctx.spawn_for_model(value)).wait()
        except PoolLimitError as error:
            assert (error.limit, error.maximum) == ("model_spawns", 3)  # noqa: PT017
        else:
            started += 1
    return started


async def test_what_models_ask_for_is_bounded_over_the_life_of_a_tree() -> None:
    async def root(ctx: AgentContext) -> list[int]:
        below = await ctx.spawn(_for_model, 2)
        counts = [await below.result(), await _for_model(ctx, 5)]
        counts.append(await (await ctx.spawn_for_model(_for_model, 1)).result() if counts[1] > 1 else 0)
        await (await ctx.spawn(value)).wait()  # what plain code spawns is not counted
        return counts

    async with pool_of(1, limits=PoolLimits(model_spawns=3)) as pool:
        assert await (await pool.spawn(root)).result() == [2, 1, 0]
        # Each tree has its own count.
        assert await (await pool.spawn(_for_model, 5)).result() == 3


async def test_agents_that_models_ask_for_at_once_are_counted_before_they_start() -> None:
    results: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        async def one() -> None:
            try:
                results.append((await (await ctx.spawn_for_model(value)).wait()).agent_id)
            except PoolLimitError:
                results.append("refused")

        async with ctx.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)

    async with pool_of(1, limits=PoolLimits(model_spawns=2)) as pool:
        await (await pool.spawn(agent)).result()
    assert sorted(results, key=str) == [2, 3, "refused", "refused"]


async def test_a_spawn_that_fails_is_not_counted(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> int:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)  # keeps the slot
            with trio.move_on_after(1) as scope:
                await ctx.spawn_for_model(value)
        assert scope.cancelled_caught
        with pytest.raises(TypeError):
            await ctx.spawn_for_model(3)  # type: ignore[arg-type]
        other = await ctx.spawn(server)
        with pytest.raises(PoolLimitError, match="alive"):
            await ctx.spawn_for_model(value)
        other.abort()
        await other.wait()
        return await _for_model(ctx, 4)

    async with pool_of(1, limits=PoolLimits(model_spawns=3, alive=2)) as pool:
        assert await (await pool.spawn(agent)).result() == 3
        assert pool.statistics().spawned == 5


async def test_a_spawn_that_fails_leaves_the_count_of_those_before_it(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> int:
        assert await _for_model(ctx, 1) == 1
        with pytest.raises(TypeError):
            await ctx.spawn_for_model(3)  # type: ignore[arg-type]
        return await _for_model(ctx, 3)

    async with pool_of(1, limits=PoolLimits(model_spawns=3)) as pool:
        assert await (await pool.spawn(agent)).result() == 2


async def test_a_spawn_that_fails_after_its_tree_has_ended_raises_what_it_raised(autojump_clock: Any) -> None:
    """A task of the program asks on behalf of an agent, which ends meanwhile."""
    contexts: list[AgentContext] = []

    async def agent(ctx: AgentContext) -> None:
        contexts.append(ctx)
        await trio.sleep(1)

    async with pool_of(1) as pool, trio.open_nursery() as nursery:
        await pool.spawn(agent)
        await trio.testing.wait_all_tasks_blocked()

        async def asks() -> None:
            with pytest.raises(PoolClosedError):
                await contexts[0].spawn_for_model(value)

        nursery.start_soon(asks)
    assert pool._state.counts.model_spawns == {}


async def test_the_model_is_told_that_it_may_ask_for_no_more() -> None:
    manifest = AgentManifest(name="boss", capabilities=[SpawnCapability(1)])
    told: list[str] = []

    def reply(request: CompletionRequest) -> Completion | str:
        last = request.messages[-1]
        if isinstance(last, ToolMessage):
            told.append(last.result.content)
            assert last.result.is_error == (len(told) == 2)
        if len(told) == 2 or not request.tools:
            return "done"
        return Completion(tool_calls=[ToolCall(str(len(told)), "spawn_agent", {"query": "x"})])

    async with pool_of(1, driver=ScriptedDriver([reply] * 4), limits=PoolLimits(model_spawns=1)) as pool:
        result = await (await pool.spawn(SpawnConfig(manifest, "Go."))).result()
    assert result.text == "done"
    assert told[0] == "done"
    assert "model_spawns is at its maximum of 1" in told[1]


async def test_a_restart_does_not_forget_what_models_asked_for(autojump_clock: Any) -> None:
    lives: list[int] = []

    async def agent(ctx: AgentContext) -> None:
        lives.append(await _for_model(ctx, 2))
        if len(lives) < 3:
            raise ValueError

    async with pool_of(1, limits=PoolLimits(model_spawns=3)) as pool:
        handle = await pool.spawn(agent, restart=RestartPolicy("on_failure", max_restarts=2))
        assert isinstance(await handle.wait(), Completed)
    assert lives == [2, 1, 0]


# -- over the pool's life ---------------------------------------------------------------------------------


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


async def test_a_tree_that_has_ended_is_asked_for_no_more_agents_and_leaves_no_count() -> None:
    async def agent(ctx: AgentContext) -> AgentContext:
        return ctx

    async with pool_of(1) as pool:
        ctx = await (await pool.spawn(agent)).result()
        with pytest.raises(PoolClosedError, match="has ended"):
            await ctx.spawn_for_model(value)
