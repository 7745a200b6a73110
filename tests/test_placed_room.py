"""What waits between a worker and its head is bounded: agents wait when it is much."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from agentpool import AgentContext, open_agent_pool, placed
from agentpool._core.events import PhaseChanged
from agentpool._remote.runtime import MOST_EVENTS
from agentpool.testing import InProcessPlacement

told = 0


async def telling(ctx: AgentContext, count: int) -> int:
    global told
    for number in range(count):
        ctx.emit(PhaseChanged, "act", number)
        told = number + 1
        await ctx.wait_for_subscribers()
        await trio.lowlevel.checkpoint()
    return count


async def test_an_agent_that_tells_much_waits_for_a_way_that_is_cut(
    autojump_clock: trio.testing.MockClock,
) -> None:
    placement = InProcessPlacement(1)
    seen = []
    async with open_agent_pool(max_concurrent=1, placement=placement) as pool:
        async with pool.events(max_buffer=100_000) as events:
            count = 3 * MOST_EVENTS
            handle = await pool.spawn(placed(telling), count)
            while told < 10:
                await trio.lowlevel.checkpoint()
            placement.workers[0].cut()
            await trio.sleep(3)
            waiting_at = told
            await trio.sleep(3)
            assert told == waiting_at < count
            placement.workers[0].restore()
            assert (await handle.wait()).unwrap() == count
        seen = [event.iteration async for event in events if isinstance(event, PhaseChanged)]
    assert seen == list(range(count))


async def sending(ctx: AgentContext, to: int, size: int) -> int:
    await ctx.send(to, b"x" * size)
    return size


async def taking(ctx: AgentContext) -> int:
    return sum([len(message.content) async for message in ctx.inbox])


@pytest.mark.parametrize("loss", [0.0, 0.1])
async def test_more_than_the_way_holds_at_once_arrives(
    autojump_clock: trio.testing.MockClock, loss: float
) -> None:
    placement: Any = InProcessPlacement(1, loss=loss)
    async with open_agent_pool(max_concurrent=100, placement=placement) as pool:
        taker = await pool.spawn(taking)
        size = 4_000_000
        handles = [await pool.spawn(placed(sending), taker.id, size) for _ in range(40)]
        for handle in handles:
            assert (await handle.wait()).unwrap() == size
    assert (await taker.wait()).unwrap() == 40 * size
