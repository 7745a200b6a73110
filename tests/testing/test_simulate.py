from __future__ import annotations

import os
import random
import subprocess
import sys
import threading

import pytest
import trio
from trio._core import _run

from agentpool import _blocking, open_agent_pool
from agentpool.testing import FaultPlan, SimulationContext, SimulationHangError, attempt, simulate
from agentpool.testing import _scheduler as scheduler_module
from agentpool.testing._simulate import recipe


async def siblings(sim: SimulationContext) -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        await trio.lowlevel.checkpoint()
        order.append(number)
        sim.note(f"task {number}")

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(one, number)
    return order


def test_one_seed_gives_the_same_run_every_time() -> None:
    first, second = simulate(siblings, 7), simulate(siblings, 7)
    assert first.value == second.value
    assert first.log == second.log
    assert first.log.to_bytes() == second.log.to_bytes()
    assert first.steps == second.steps


def test_seeds_show_all_orders_of_five_siblings() -> None:
    seen = {tuple(simulate(siblings, seed).unwrap()) for seed in range(1500)}
    assert len(seen) == 120


PROGRAM = """
import trio, random
from agentpool.testing import simulate

async def main(sim):
    async def cancelled(number):
        try:
            await trio.sleep_forever()
        finally:
            sim.note(f"cancelled {number}")

    async def timed(number, scope):
        with scope:
            await trio.sleep_forever()
        sim.note(f"timed {number}")

    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                outer.start_soon(timed, number, trio.CancelScope(deadline=5))
                nursery.start_soon(cancelled, number)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    sim.note(str({random.random() for _ in range(3)} and random.random()))

junk = [object() for _ in range(int(__import__('sys').argv[1]))]
print(simulate(main, 3).log.digest)
"""


def test_one_seed_gives_the_same_bytes_in_every_process() -> None:
    digests = set()
    for number in range(3):
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        command = [sys.executable, "-c", PROGRAM, str(number * 1017)]
        digests.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(digests) == 1


def test_the_order_of_cancelled_tasks_follows_their_creation_and_not_their_address() -> None:
    async def main() -> list[int]:
        told: list[int] = []

        async def wait(number: int) -> None:
            def abort(_: object) -> trio.lowlevel.Abort:
                told.append(number)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return told

    assert simulate(main, 1).value == simulate(main, 1).value
    assert sorted(simulate(main, 1).unwrap()) == list(range(50))


def test_deadlines_that_pass_together_expire_in_an_order_of_the_seed() -> None:
    async def main() -> tuple[int, ...]:
        told: list[int] = []

        async def wait(number: int, scope: trio.CancelScope) -> None:
            def abort(_: object) -> trio.lowlevel.Abort:
                told.append(number)
                return trio.lowlevel.Abort.SUCCEEDED

            with scope:
                await trio.lowlevel.wait_task_rescheduled(abort)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(wait, number, trio.CancelScope(deadline=10))
        return tuple(told)

    assert len({simulate(main, seed).unwrap() for seed in range(100)}) == 6


def test_time_is_virtual_and_starts_at_zero() -> None:
    async def main() -> float:
        await trio.sleep(3600)
        return trio.current_time()

    run = simulate(main)
    assert run.value == 3600
    assert run.duration == 3600


def test_the_random_module_is_seeded_and_put_back() -> None:
    async def main() -> float:
        return random.random()

    state = random.getstate()
    assert simulate(main, 5).value == simulate(main, 5).value
    assert simulate(main, 5).value != simulate(main, 6).value
    assert random.getstate() == state


def test_a_programs_own_error_comes_out_with_a_note_that_names_the_seed() -> None:
    async def main() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        simulate(main, 12, plan=FaultPlan.parse("clock:1:jump=5"), size=3)
    assert caught.value.__notes__ == [
        "in the simulation with seed=12, plan=FaultPlan.parse('clock:1:jump=5.0'), size=3"
    ]


def test_attempt_keeps_the_error_as_data() -> None:
    async def main() -> None:
        raise SystemExit(3)

    run = attempt(main)
    assert isinstance(run.error, SystemExit)
    assert recipe(run) == "seed=0"
    with pytest.raises(SystemExit):
        run.unwrap()


def test_a_program_that_waits_for_nothing_is_found_to_hang_and_shown_where() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)

    with pytest.raises(SimulationHangError, match="86,400 virtual seconds") as caught:
        simulate(main)
    assert "task trio.sleep_forever" in str(caught.value)


def test_a_program_that_goes_round_in_circles_is_found_to_hang() -> None:
    async def main() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(SimulationHangError, match="within 500 steps"):
        simulate(main, max_steps=500)


def test_a_program_that_swallows_its_cancellation_is_ended_all_the_same() -> None:
    async def main() -> None:
        while True:
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                pass

    with pytest.raises(SimulationHangError, match="within 500 steps"):
        simulate(main, max_steps=500)


def test_a_program_that_waits_for_nothing_and_cannot_be_cancelled_is_torn_down() -> None:
    async def main() -> None:
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    with pytest.raises(SimulationHangError, match="virtual seconds"):
        simulate(main)


def test_a_hang_does_not_show_itself_to_the_program_as_a_deadline() -> None:
    async def main() -> float:
        return trio.current_effective_deadline()

    assert simulate(main).value == float("inf")


def test_blocking_calls_run_inline() -> None:
    async def main() -> tuple[int, str]:
        with pytest.raises(ZeroDivisionError):
            await _blocking.run_blocking(divmod, 1, 0)
        return await _blocking.run_blocking(threading.get_ident), "same"

    assert simulate(main).unwrap()[0] == threading.get_ident()


def test_clock_faults_let_time_jump() -> None:
    async def main() -> float:
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        return trio.current_time()

    assert simulate(main, plan=FaultPlan.parse("clock:4:jump=30")).value == 30


def test_a_program_with_two_parameters_is_refused() -> None:
    async def main(one: int, two: int) -> None: ...

    with pytest.raises(TypeError, match=r"takes nothing, or its context; .* wants one, two"):
        simulate(main)  # type: ignore[arg-type]


def test_simulations_do_not_nest() -> None:
    async def main() -> None:
        simulate(siblings)

    with pytest.raises(RuntimeError, match="already running"):
        simulate(main)


def test_another_thread_keeps_trios_own_order_and_nothing_is_left_behind() -> None:
    before = (_run.CancelStatus, _run.Deadlines.add, _run._r)
    results: list[bool] = []

    async def plain() -> None:
        with trio.move_on_after(0.001):
            await trio.sleep_forever()

    async def main(sim: SimulationContext) -> list[int]:
        thread = threading.Thread(target=trio.run, args=(plain,))
        thread.start()
        thread.join()
        results.append(_run._r is not before[2])
        return await siblings(sim)

    assert simulate(main, 7).value == simulate(siblings, 7).value
    assert results == [True]
    assert (_run.CancelStatus, _run.Deadlines.add, _run._r) == before


def test_what_lives_on_after_the_program_is_told() -> None:
    ended = threading.Event()

    async def main() -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever, name="mine")
        threading.Thread(target=ended.wait, name="waiter").start()

    run = simulate(main)
    ended.set()
    assert run.left_behind == ("a task is left: mine", "a thread is left: waiter")
    assert simulate(siblings).left_behind == ()


def test_an_observer_may_act_between_steps_and_its_error_is_not_lost() -> None:
    seen: list[int] = []

    def on_step(step: int, sim: SimulationContext) -> None:
        seen.append(step)
        if step == 4:
            raise LookupError("observer")

    run = attempt(siblings, on_step=on_step)
    assert seen == [1, 2, 3, 4]
    assert isinstance(run.error, LookupError)


def test_canary_trio_has_the_private_parts_that_the_scheduler_replaces() -> None:
    scheduler_module.check_trio()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (_run, "_ALLOW_DETERMINISTIC_SCHEDULING"),
        (_run, "_r"),
        (_run, "CancelStatus"),
        (_run.Deadlines, "add"),
    ],
)
def test_a_trio_that_has_changed_is_refused_with_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    monkeypatch.delattr(owner, name)
    with pytest.raises(RuntimeError, match=name):
        simulate(siblings)


def test_canary_trio_still_shuffles_and_orders_as_the_scheduler_expects() -> None:
    """Trio's loop has to ask `_r.shuffle`, `Deadlines.add` and `CancelStatus` for every order."""
    scheduler = scheduler_module.SeededScheduler(1, max_steps=1000)
    asked: set[str] = set()

    class Spy(scheduler_module.SeededScheduler):
        def shuffle(self, batch: list[object]) -> None:
            asked.add("shuffle")

        def tiebreaker(self) -> int:
            asked.add("tiebreaker")
            return scheduler.tiebreaker()

    async def main() -> str:
        with trio.CancelScope(deadline=trio.current_time() + 60) as scope:
            await trio.lowlevel.checkpoint()
            return type(scope._cancel_status).__name__

    with scheduler_module.scheduling(Spy(1, max_steps=1000)):
        assert trio.run(main) == "_OrderedCancelStatus"
    assert asked == {"shuffle", "tiebreaker"}


def test_simulations_in_several_threads_see_their_own_pools() -> None:
    barrier = threading.Barrier(2)
    found: list[int] = []

    def simulated(pools: int) -> None:
        async def main() -> None:
            barrier.wait(10)  # the first to begin is the first to end
            for _ in range(pools):
                async with open_agent_pool(max_concurrent=1) as pool:
                    await pool.drain()

        found.append(len(attempt(main, 1).pools))

    threads = [threading.Thread(target=simulated, args=(number,)) for number in (1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [1, 3]
