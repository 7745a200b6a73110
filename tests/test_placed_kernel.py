"""What the kernel has for agents that run elsewhere: the mark, the argument, a wait that is undone slowly."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from agentpool import AgentContext, PoolLimitError, PoolLimits, SqliteJournal, open_agent_pool, placed
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.wait import SlowlyUndoneWait
from agentpool.testing import InProcessPlacement


async def double(ctx: AgentContext, number: int) -> int:
    return 2 * number


def test_an_agent_is_marked_once() -> None:
    with pytest.raises(TypeError, match="is marked for placement already"):
        placed(placed(double))
    with pytest.raises(TypeError, match="an agent is an async callable"):
        placed(3)  # type: ignore[arg-type]


async def calls(ctx: AgentContext) -> int:
    return await placed(double)(ctx, 4)


async def test_code_that_calls_a_marked_agent_runs_it_in_place(autojump_clock: Any) -> None:
    async with open_agent_pool(max_concurrent=1, placement=InProcessPlacement(1)) as pool:
        assert (await (await pool.spawn(calls)).wait()).unwrap() == 8


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "ray",
            r"must be a placement such as RayPlacement\(\), not 'ray'; write agentpool\.ray\.RayPlacement",
        ),
        (InProcessPlacement, "must be a placement such as"),
        (3, "must be a placement such as RayPlacement"),
    ],
)
async def test_what_is_no_placement_is_refused(given: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        open_agent_pool(max_concurrent=1, placement=given)


async def test_what_has_happened_is_kept_while_its_agent_queues_for_a_slot(autojump_clock: Any) -> None:
    waits: list[SlowlyUndoneWait] = []

    async def waiting(ctx: AgentContext) -> Any:
        with trio.move_on_after(5):
            waits.append(SlowlyUndoneWait(waiting_agent(), lambda: pytest.fail("it has happened")))
            return await waits[0].park(lambda _: None)

    async def running(ctx: AgentContext) -> None:
        waits[0].wake("happened")
        await trio.sleep(10)

    async with open_agent_pool(max_concurrent=1) as pool:
        handle = await pool.spawn(waiting)
        await pool.spawn(running)
        assert (await handle.wait()).unwrap() == "happened"
    assert trio.current_time() == 10


async def refused(ctx: AgentContext) -> int:
    first = await ctx.spawn_for_model(double, 3)
    assert await first.result() == 6
    for _ in range(2):
        with pytest.raises(PoolLimitError):
            await ctx.spawn_for_model(double, 1)
    return await (await ctx.spawn(double, 2)).result()


@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_spawn_that_a_limit_refuses_is_no_operation(
    is_kept: bool, tmp_path: Any, autojump_clock: Any
) -> None:
    journal = SqliteJournal(tmp_path / "run.db") if is_kept else None
    placement = InProcessPlacement(1)
    limits = PoolLimits(model_spawns=1)
    async with open_agent_pool(max_concurrent=2, placement=placement, limits=limits, journal=journal) as pool:
        assert (await (await pool.spawn(placed(refused))).wait()).unwrap() == 4
    if journal is not None:
        reader = SqliteJournal(tmp_path / "run.db")
        records = await reader.open()
        spawned = [record.data["key"] for record in records if record.kind == "spawned"]
        assert spawned == [None, "0", "2"]  # the first spawn, its result, and the other spawn
        await reader.aclose()
