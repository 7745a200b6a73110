"""Instruments: how a test sees the pools of a run, and leaves out what would disturb it."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import pytest
import trio
from pool_kit import value

from agentpool import AgentContext, AgentPool, DeadlockError, Failed, open_agent_pool
from agentpool.testing import PoolInstrument, instrumented, simulate


@attrs.define(eq=False, kw_only=True)
class Collects(PoolInstrument):
    pools: list[AgentPool] = attrs.field(factory=list)

    def pool_opened(self, pool: AgentPool) -> None:
        assert pool.statistics().spawned == 0
        self.pools.append(pool)


async def test_an_instrument_is_told_of_each_pool_inside_its_block_and_of_no_other() -> None:
    instrument = Collects()
    async with open_agent_pool(max_concurrent=1):
        with instrumented(instrument):
            async with (
                open_agent_pool(max_concurrent=1) as first,
                open_agent_pool(max_concurrent=1) as second,
            ):
                assert instrument.pools == [first, second]
    async with open_agent_pool(max_concurrent=1):
        assert len(instrument.pools) == 2


async def test_a_pool_that_an_agent_opens_is_seen_too() -> None:
    async def opens(ctx: AgentContext) -> None:
        async with open_agent_pool(max_concurrent=1) as inner:
            await inner.spawn(value)

    instrument = Collects()
    with instrumented(instrument):
        async with open_agent_pool(max_concurrent=1) as pool:
            await pool.spawn(opens)
    assert [seen.statistics().ended for seen in instrument.pools] == [1, 1]


async def test_several_instruments_are_all_told_and_each_may_be_taken_away_first() -> None:
    outer, inner = Collects(), Collects()
    blocks = [instrumented(outer), instrumented(inner)]
    for block in blocks:
        block.__enter__()
    async with open_agent_pool(max_concurrent=1):
        blocks[0].__exit__(None, None, None)
        async with open_agent_pool(max_concurrent=1):
            blocks[1].__exit__(None, None, None)
            async with open_agent_pool(max_concurrent=1):
                assert (len(outer.pools), len(inner.pools)) == (1, 2)


async def test_what_an_instrument_raises_comes_out_of_the_block_and_leaves_nothing() -> None:
    class Broken(PoolInstrument):
        def pool_opened(self, pool: AgentPool) -> None:
            raise LookupError("broken")

    task = trio.lowlevel.current_task()
    before = list(task.child_nurseries)
    with instrumented(Broken()), pytest.raises(LookupError, match="broken"):
        async with open_agent_pool(max_concurrent=1):
            raise AssertionError
    assert list(task.child_nurseries) == before


@pytest.mark.parametrize("detects", [True, False])
async def test_the_detector_looks_unless_an_instrument_says_no(detects: bool, autojump_clock: Any) -> None:
    async def asks(ctx: AgentContext, other: int) -> None:
        await trio.sleep(1)
        await ctx.ask(other, "?")

    with instrumented(PoolInstrument(detects_deadlocks=detects)), instrumented(PoolInstrument()):
        async with open_agent_pool(max_concurrent=2) as pool:
            handles = [await pool.spawn(asks, 2), await pool.spawn(asks, 1)]
            await trio.sleep(1000)
            assert any(handle.outcome for handle in handles) is detects
            pool.abort_all()
            outcomes = [await handle.wait() for handle in handles]
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
    assert any(isinstance(error, DeadlockError) for error in errors) is detects


@pytest.mark.parametrize("watches", [True, False])
async def test_the_watchdog_thread_lives_while_a_pool_drains_unless_an_instrument_says_no(
    watches: bool, autojump_clock: Any
) -> None:
    async def looks(ctx: AgentContext) -> bool:
        await trio.sleep(1)
        return any(thread.name == "agentpool watchdog" for thread in threading.enumerate())

    with instrumented(PoolInstrument(watches_clock=watches)):
        async with open_agent_pool(max_concurrent=1) as pool:
            handle = await pool.spawn(looks)
            await pool.drain()
            assert await handle.result() is watches


def test_an_instrument_stands_beside_that_of_a_simulation() -> None:
    instrument = Collects()

    async def main() -> None:
        with instrumented(instrument):
            async with open_agent_pool(max_concurrent=1) as pool:
                await pool.spawn(value)

    run = simulate(main)
    assert list(run.pools) == instrument.pools
    assert len(run.log) == 3  # spawned, started, finished


def test_outside_of_a_run_there_is_nothing_to_watch() -> None:
    with pytest.raises(RuntimeError, match="outside of a run"), instrumented(PoolInstrument()):
        raise AssertionError
