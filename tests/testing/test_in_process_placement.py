"""Agents in workers of the same program, over a way that loses, delays and is cut."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from agentpool import AgentContext, Completed, Failed, open_agent_pool
from agentpool._core.errors import WorkerLostError
from agentpool._kernel.placed import placed
from agentpool._remote.crew import MARGIN
from agentpool._remote.facts import WorkerSetup
from agentpool.testing import InProcessPlacement, InProcessWorker, simulate

LEASE = 4.0
SEEDS = range(20)

starts: list[int] = []
"""The agents that began, in this run; only the memory of workers is shared."""

signs: dict[int, float] = {}
"""When each of them last did something."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    starts.clear()
    signs.clear()


async def double(ctx: AgentContext, number: int) -> int:
    starts.append(number)
    await trio.sleep(1)
    return 2 * number


async def tick(ctx: AgentContext, number: int, seconds: float) -> int:
    starts.append(number)
    until = trio.current_time() + seconds
    while trio.current_time() < until:
        signs[number] = trio.current_time()
        await trio.sleep(0.1)
    return number


async def told(ctx: AgentContext, what: list[int]) -> list[int]:
    what.append(len(what))
    return what


def doubled(placement: Callable[[], InProcessPlacement]) -> Callable[[], Any]:
    async def main() -> list[int]:
        async with open_agent_pool(max_concurrent=10, placement=placement()) as pool:
            handles = [await pool.spawn(placed(double), number) for number in range(10)]
            return [await handle.result() for handle in handles]

    return main


EXPECTED = [2 * number for number in range(10)]


# -- a good way ------------------------------------------------------------------------------------


def test_what_an_agent_is_given_and_returns_is_pickled() -> None:
    async def main() -> None:
        given = [0]
        placement = InProcessPlacement()
        async with open_agent_pool(max_concurrent=2, placement=placement) as pool:
            handle = await pool.spawn(placed(told), given)
            assert await handle.result() == [0, 1]
        assert given == [0]
        assert [worker.number for worker in placement.workers] == [1, 2]
        assert not any(worker.is_running for worker in placement.workers)

    simulate(main)


def test_workers_are_shown_with_their_state() -> None:
    async def main() -> None:
        placement = InProcessPlacement(1)
        async with open_agent_pool(max_concurrent=2, placement=placement) as pool:
            await (await pool.spawn(placed(double), 1)).wait()
            (worker,) = placement.workers
            assert repr(placement) == "<InProcessPlacement, 1 workers run>"
            assert repr(worker) == "<InProcessWorker 1, running>"
            worker.cut()
            assert repr(worker) == "<InProcessWorker 1, running, cut off>"
            worker.restore()
            worker.kill()
            assert repr(worker) == "<InProcessWorker 1, ended>"

    simulate(main)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"workers": 0}, ValueError),
        ({"workers": True}, TypeError),
        ({"workers": 1.5}, TypeError),
        ({"lease": 1.9}, ValueError),
        ({"lease": float("inf")}, ValueError),
        ({"loss": 1}, ValueError),
        ({"loss": -0.1}, ValueError),
        ({"delay": -1}, ValueError),
        ({"delay": float("nan")}, ValueError),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        InProcessPlacement(**arguments)


# -- a bad way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_lost_and_late_is_not_seen(seed: int) -> None:
    run = simulate(doubled(lambda: InProcessPlacement(3, loss=0.1, delay=0.3)), seed)
    assert run.value == EXPECTED
    assert sorted(starts) == list(range(10))  # each once


@pytest.mark.parametrize("seed", SEEDS)
def test_a_way_that_is_slower_than_the_head_waits_at_first_loses_nobody(seed: int) -> None:
    run = simulate(doubled(lambda: InProcessPlacement(2, delay=1.5)), seed)
    assert run.value == EXPECTED
    assert sorted(starts) == list(range(10))


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    main = doubled(lambda: InProcessPlacement(2, loss=0.2, delay=0.2))
    first, again, other = (simulate(main, seed) for seed in (1, 1, 2))
    assert (str(first.log), first.steps, first.duration) == (str(again.log), again.steps, again.duration)
    assert first.duration != other.duration


def test_a_seed_of_its_own_decides_what_is_lost() -> None:
    durations = set()
    for seed in (1, 1, 2):
        run = simulate(doubled(lambda seed=seed: InProcessPlacement(1, loss=0.3, delay=0.2, seed=seed)))  # type: ignore[misc]
        durations.add(run.duration)
    assert len(durations) == 2


# -- workers that are lost -------------------------------------------------------------------------


def test_agents_of_a_killed_worker_fail_and_the_next_one_has_a_new_worker() -> None:
    async def main() -> None:
        placement = InProcessPlacement(2, lease=LEASE)
        async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
            handles = [await pool.spawn(placed(tick), number, 30.0) for number in range(4)]
            await trio.sleep(5)
            placement.workers[0].kill()
            killed_at = trio.current_time()
            outcomes = [await handle.wait() for handle in handles]
            lost = [each for each in outcomes if isinstance(each, Failed)]
            assert len(lost) == 2
            for outcome in lost:
                assert isinstance(outcome.error, WorkerLostError)
                assert outcome.error.reason == "its process has ended"
            assert sum(isinstance(each, Completed) for each in outcomes) == 2
            assert sum(sign <= killed_at for sign in signs.values()) == 2
            assert await (await pool.spawn(placed(double), 7)).result() == 14
            assert await (await pool.spawn(placed(double), 8)).result() == 16
            assert [worker.is_running for worker in placement.workers] == [False, True, True]

    simulate(main)
    assert sorted(starts) == [0, 1, 2, 3, 7, 8]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_agent_runs_any_more_when_its_worker_that_is_cut_off_is_said_to_be_lost(seed: int) -> None:
    async def main() -> None:
        placement = InProcessPlacement(1, lease=LEASE, loss=0.1, delay=0.2)
        async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
            handle = await pool.spawn(placed(tick), 0, 1000.0)
            await trio.sleep(10)
            placement.workers[0].cut()
            cut_at = trio.current_time()
            outcome = await handle.wait()
            lost_at = trio.current_time()
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, WorkerLostError)
            assert signs[0] <= lost_at - MARGIN
            assert lost_at <= cut_at + LEASE + MARGIN
            assert not placement.workers[0].is_running

    simulate(main, seed)
    assert starts == [0]


def test_a_worker_that_is_cut_off_for_a_second_is_not_lost() -> None:
    async def main() -> None:
        placement = InProcessPlacement(1, lease=LEASE)
        async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
            handle = await pool.spawn(placed(tick), 1, 10.0)
            await trio.sleep(5)
            placement.workers[0].cut()
            await trio.sleep(1)
            placement.workers[0].restore()
            assert await handle.result() == 1

    simulate(main)
    assert starts == [1]


def unopened() -> Any:
    raise OSError("no model here")


def test_what_a_worker_dies_of_is_told() -> None:
    async def main() -> None:
        placement = InProcessPlacement(1, lease=LEASE, driver=unopened)
        async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
            outcome = await (await pool.spawn(placed(double), 1)).wait()
            assert isinstance(outcome, Failed)
            assert "no model here" in str(outcome.error)
        assert isinstance(placement.workers[0].crash, Exception)

    simulate(main)
    assert starts == []


def interrupted() -> Any:
    raise KeyboardInterrupt


def test_ctrl_c_in_the_program_of_a_worker_ends_the_program_around_it() -> None:
    async def main() -> None:
        placement = InProcessPlacement(1, lease=LEASE, driver=interrupted)
        async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
            await (await pool.spawn(placed(double), 1)).wait()

    with pytest.raises(KeyboardInterrupt):
        simulate(main)


def test_a_body_that_fails_ends_the_workers() -> None:
    workers: list[InProcessWorker] = []

    async def main() -> None:
        placement = InProcessPlacement(2, loss=0.2, delay=0.2)
        async with open_agent_pool(max_concurrent=10, placement=placement) as pool:
            await pool.spawn(placed(tick), 0, 1000.0)
            await trio.sleep(3)
            workers.extend(placement.workers)
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        simulate(main)
    assert [worker.is_running for worker in workers] == [False, False]


# -- its transport ---------------------------------------------------------------------------------


def test_a_pull_that_was_given_up_is_still_under_way_and_the_newer_one_has_its_records() -> None:
    setup = pickle.dumps(WorkerSetup(name="1", lease=LEASE, seed=1))

    async def main() -> None:
        placement = InProcessPlacement(1, lease=LEASE)
        async with placement.open() as workers:
            transport = await workers.start(setup)
            end = placement.workers[0]._end
            with trio.move_on_after(0.5) as given_up:
                await transport.pull(0, 10, 3.0)
            assert given_up.cancelled_caught
            end.put(b"a")  # goes to the one that nobody waits for
            await trio.testing.wait_all_tasks_blocked()
            assert (await transport.pull(0, 10, 3.0)).records == (b"a",)
            before = trio.current_time()
            assert (await transport.pull(1, 10, 2.0)).records == ()
            assert trio.current_time() == before + 2
            async with trio.open_nursery() as nursery:
                replies = []

                async def pull() -> None:
                    replies.append(await transport.pull(2, 10, 2.0))

                nursery.start_soon(pull)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(pull)
                await trio.testing.wait_all_tasks_blocked()
                end.put(b"b")
            assert [(each.number, each.records) for each in replies] == [(2, ()), (3, (b"b",))]
            await transport.aclose()
            with pytest.raises(WorkerLostError, match="its process has ended"):
                await transport.post(1, [])

    simulate(main)


def test_a_pull_that_waits_when_its_worker_is_killed_ends() -> None:
    setup = pickle.dumps(WorkerSetup(name="1", lease=LEASE, seed=1))

    async def main() -> None:
        placement = InProcessPlacement(1, lease=LEASE)
        async with placement.open() as workers:
            transport = await workers.start(setup)

            async def kill() -> None:
                await trio.sleep(1)
                placement.workers[0].kill()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                with pytest.raises(WorkerLostError):
                    await transport.pull(0, 10, 3.0)
            assert trio.current_time() == 1

    simulate(main)


def test_a_worker_whose_head_is_silent_ends_when_its_lease_has_run_out() -> None:
    setup = pickle.dumps(WorkerSetup(name="1", lease=LEASE, seed=1))

    async def main() -> None:
        placement = InProcessPlacement(1, lease=LEASE)
        async with placement.open() as workers:
            await workers.start(setup)
            await trio.sleep(LEASE - 0.01)
            assert placement.workers[0].is_running
            await trio.sleep(0.02)
            assert not placement.workers[0].is_running

    simulate(main)
