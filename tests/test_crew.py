"""Which worker an agent goes to, where starts fail, take long or hang, and where workers die at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from agentpool import AgentContext, AgentPoolError, Failed, WorkerLostError, open_agent_pool, placed
from agentpool._core.errors import WorkerUnavailableError
from agentpool.abc import Transport, Workers
from agentpool.testing import InProcessPlacement, InProcessWorker

Before = Callable[[int], Awaitable[object]]


class PlannedPlacement(InProcessPlacement):
    """Whose workers are started as a test says.

    Attributes:
      starts: how many were asked for.
    """

    def __init__(
        self,
        workers: int,
        before: Before,
        after: Callable[[InProcessWorker], object] = lambda _: None,
        **options: Any,
    ) -> None:
        super().__init__(workers, **options)
        self.before = before
        self.after = after
        self.starts = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Workers]:
        async with super().open() as workers:
            yield PlannedWorkers(workers, self)


class PlannedWorkers:
    def __init__(self, inner: Workers, placement: PlannedPlacement) -> None:
        self.count = inner.count
        self.inner = inner
        self.placement = placement

    async def start(self, setup: bytes) -> Transport:
        self.placement.starts += 1
        await self.placement.before(self.placement.starts)
        number = len(self.placement.workers)  # the worker is added before anything is awaited
        transport = await self.inner.start(setup)
        self.placement.after(self.placement.workers[number])
        return transport

    def dumps(self, value: Any) -> bytes:
        return self.inner.dumps(value)


async def double(ctx: AgentContext, number: int) -> int:
    await trio.sleep(0.1)
    return 2 * number


async def at_once(number: int) -> None:
    await trio.sleep(0)


# -- starts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 8])
async def test_an_agent_for_which_no_worker_can_be_started_waits_for_one_start_only(
    workers: int, autojump_clock: Any
) -> None:
    async def fail(number: int) -> None:
        await trio.sleep(60)
        raise AgentPoolError("no node has room")

    placement = PlannedPlacement(workers, fail)
    async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
        outcomes = [await (await pool.spawn(placed(double), 1)).wait()]
    assert isinstance(outcomes[0], Failed)
    assert isinstance(outcomes[0].error, WorkerUnavailableError)
    assert "no node has room" in str(outcomes[0].error)
    assert trio.current_time() < 100
    assert placement.starts == workers


async def test_agents_that_wait_for_a_start_that_hangs_go_to_the_worker_that_is_up(
    autojump_clock: Any,
) -> None:
    async def start(number: int) -> None:
        if number == 1:
            await trio.sleep(600)
        await trio.sleep(8)  # later than an agent waits for one where another is up

    placement = PlannedPlacement(2, start)
    async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
        handles = [await pool.spawn(placed(double), number) for number in range(10)]
        values = [await handle.result() for handle in handles]
        assert values == [2 * number for number in range(10)]
        assert trio.current_time() < 20


async def test_agents_that_wait_for_a_worker_end_with_the_pool(autojump_clock: Any) -> None:
    async def hang(number: int) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(3) as scope:
        async with open_agent_pool(max_concurrent=10, placement=PlannedPlacement(2, hang)) as pool:
            await pool.spawn(placed(double), 1)
    assert scope.cancelled_caught
    assert trio.current_time() < 10


# -- workers that die ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
async def test_where_each_worker_dies_as_soon_as_it_is_up_each_agent_fails(
    workers: int, autojump_clock: Any
) -> None:
    placement = PlannedPlacement(workers, at_once, InProcessWorker.kill, lease=4)
    async with open_agent_pool(max_concurrent=4, placement=placement) as pool:
        handles = [await pool.spawn(placed(double), number) for number in range(12)]
        outcomes = [await handle.wait() for handle in handles]
    assert all(isinstance(each, Failed) for each in outcomes)
    errors = [each.error for each in outcomes if isinstance(each, Failed)]
    assert all(isinstance(each, WorkerLostError | WorkerUnavailableError) for each in errors)
    assert trio.current_time() < 60


async def test_an_agent_that_was_not_sent_to_the_worker_that_is_lost_runs_in_another(
    autojump_clock: Any,
) -> None:
    """Nothing of it can have run there, so it does not fail."""
    placement = InProcessPlacement(1, lease=4)
    async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
        await (await pool.spawn(placed(double), 0)).wait()
        placement.workers[0].cut()
        sent = await pool.spawn(placed(double), 1)
        await trio.sleep(0.5)  # its start is under way, and maybe arrives
        unsent = await pool.spawn(placed(double), 2)
        outcome = await sent.wait()
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, WorkerLostError)
        assert await unsent.result() == 4


async def test_a_way_that_raises_what_it_should_not_costs_its_worker_and_not_the_pool(
    autojump_clock: Any,
) -> None:
    class Broken:
        def __init__(self, inner: Transport) -> None:
            self.inner = inner

        async def post(self, number: int, records: Any) -> None:
            raise OSError("no such way")

        async def pull(self, ack: int, max: int, wait: float) -> Any:
            return await self.inner.pull(ack, max, wait)

        async def aclose(self) -> None:
            await self.inner.aclose()

    class BrokenWorkers(PlannedWorkers):
        async def start(self, setup: bytes) -> Transport:
            return Broken(await super().start(setup))

    class BrokenPlacement(PlannedPlacement):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[Workers]:
            async with InProcessPlacement.open(self) as workers:
                yield BrokenWorkers(workers, self)

    async with open_agent_pool(max_concurrent=10, placement=BrokenPlacement(2, at_once, lease=4)) as pool:
        handles = [await pool.spawn(placed(double), number) for number in range(3)]
        outcomes = [await handle.wait() for handle in handles]
        assert trio.current_time() >= 4 + 2  # not before the leases are over
    for outcome in outcomes:
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, WorkerLostError)
        assert "no such way" in str(outcome.error)
