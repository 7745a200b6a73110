"""`max_concurrent` lowered and raised while agents run, wait and are woken."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

import pytest
import trio
from pool_kit import pool_of, sleeper, value

from agentpool import AgentContext, AgentPool, PoolFullError


class Shift:
    """Agents that wait for a message, and then run until they are told to rest."""

    def __init__(self, pool: AgentPool) -> None:
        self.pool = pool
        self._rests: dict[int, trio.Event] = {}

    @property
    def running(self) -> list[int]:
        """The ids of those that run; in which order trio began with them is not known."""
        return sorted(self._rests)

    async def agent(self, ctx: AgentContext) -> None:
        async for _ in ctx.inbox:
            self._rests[ctx.id] = trio.Event()
            await self._rests[ctx.id].wait()
            del self._rests[ctx.id]

    async def begin(self, count: int) -> list[int]:
        """Spawn agents that wait; return their ids."""
        ids = [(await self.pool.spawn(self.agent)).id for _ in range(count)]
        await trio.testing.wait_all_tasks_blocked()
        return ids

    async def wake(self, *ids: int) -> None:
        for agent_id in ids:
            self.pool.send_nowait(agent_id, "run")
        await trio.testing.wait_all_tasks_blocked()

    async def rest(self, *ids: int) -> None:
        for agent_id in ids:
            self._rests[agent_id].set()
        await trio.testing.wait_all_tasks_blocked()

    async def end(self) -> None:
        self.pool.max_concurrent = 100
        await trio.testing.wait_all_tasks_blocked()
        await self.rest(*self.running)


async def test_an_agent_that_waited_under_a_lowered_limit_runs_on_only_within_it(autojump_clock: Any) -> None:
    async with pool_of(4) as pool:
        shift = Shift(pool)
        a, b, c, d = await shift.begin(4)
        await shift.wake(a, b, c, d)
        assert shift.running == [a, b, c, d]
        pool.max_concurrent = 1
        assert pool.statistics().running == 4
        await shift.rest(a, b, c)
        assert pool.statistics().running == 1
        await shift.wake(b, a)
        assert shift.running == [d]
        assert pool.statistics().running == 1
        await shift.rest(d)
        assert shift.running == [b]
        await shift.rest(b)
        assert shift.running == [a]
        await shift.end()


async def test_an_agent_that_waits_above_a_lowered_limit_lends_nothing(autojump_clock: Any) -> None:
    async with pool_of(3) as pool:
        shift = Shift(pool)
        a, b, c = await shift.begin(3)
        await shift.wake(a, b, c)
        pool.max_concurrent = 1
        await shift.rest(a)
        with pytest.raises(PoolFullError):
            pool.spawn_nowait(value)
        await shift.rest(b)
        with pytest.raises(PoolFullError):
            pool.spawn_nowait(value)
        await shift.wake(a)
        assert shift.running == [c]
        await shift.rest(c)
        assert shift.running == [a]
        await shift.rest(a)
        pool.spawn_nowait(value)


async def test_an_agent_that_ends_above_a_lowered_limit_leaves_no_slot(autojump_clock: Any) -> None:
    async with pool_of(3) as pool, trio.open_nursery() as nursery:
        for seconds in (1, 2, 3):
            await pool.spawn(sleeper, seconds)
        pool.max_concurrent = 1
        nursery.start_soon(pool.spawn, sleeper, 10)
        await trio.sleep(2.5)
        now = pool.statistics()
        assert (now.running, now.waiting_to_start, now.spawned) == (1, 1, 3)
        await trio.sleep(1)
        now = pool.statistics()
        assert (now.running, now.waiting_to_start, now.spawned) == (1, 0, 4)


async def test_a_limit_lowered_below_those_that_run_and_those_that_lend_takes_from_the_lent_first(
    autojump_clock: Any,
) -> None:
    async with pool_of(5) as pool:
        shift = Shift(pool)
        a, b, c, d, e = await shift.begin(5)
        await shift.wake(a, b)  # the others lend
        pool.max_concurrent = 3
        await shift.wake(c, d, e)
        assert shift.running == [a, b, c]
        await shift.rest(a)
        assert shift.running == [b, c, d]
        pool.max_concurrent = 4
        await trio.testing.wait_all_tasks_blocked()
        assert shift.running == [b, c, d, e]
        await shift.end()


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_the_limit_is_set_to_woken_agents_run_in_their_order_and_within_it(seed: int) -> None:
    random = Random(seed)
    async with pool_of(6) as pool:
        shift = Shift(pool)
        waiting = await shift.begin(6)
        woken: deque[int] = deque()
        running: list[int] = []
        for _ in range(60):
            match random.choice(["wake", "wake", "rest", "rest", "limit"]):
                case "wake" if waiting:
                    woken.append(waiting.pop(random.randrange(len(waiting))))
                    await shift.wake(woken[-1])
                case "rest" if running:
                    waiting.append(running.pop(random.randrange(len(running))))
                    await shift.rest(waiting[-1])
                case "limit":
                    pool.max_concurrent = random.randint(1, 6)
                    await trio.testing.wait_all_tasks_blocked()
            while woken and len(running) < pool.max_concurrent:
                running.append(woken.popleft())
            assert shift.running == sorted(running)
            assert pool.statistics().running == len(running)
        await shift.end()
