from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import trio

from agentpool._core.errors import DriverError
from agentpool._core.messages import Completion, CompletionRequest
from agentpool.abc import Driver
from agentpool.testing import (
    Case,
    ExplorationError,
    FaultMix,
    FaultPlan,
    RegressionFile,
    SimulationContext,
    explore,
    simulate,
)


async def fragile(sim: SimulationContext) -> None:
    """Goes wrong when the third task comes first."""
    order: list[int] = []

    async def one(number: int) -> None:
        await trio.lowlevel.checkpoint()
        order.append(number)
        sim.note(str(number))

    async with trio.open_nursery() as nursery:
        for number in range(sim.size):
            nursery.start_soon(one, number)
    assert order[0] != 2


class Answer(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        return Completion("yes")


async def impatient(sim: SimulationContext) -> None:
    """Goes wrong when the driver does, and only then."""
    driver = sim.driver(Answer())
    for _ in range(5):
        await driver.complete(CompletionRequest())


def test_a_failure_is_found_and_made_small() -> None:
    with pytest.raises(ExplorationError) as caught:
        explore(fragile, 100, size=6)
    error = caught.value
    assert isinstance(error.error, AssertionError)
    assert error.__cause__ is error.error
    assert error.size == 3
    assert error.repeats
    text = str(error)
    assert f"simulate(main, seed={error.seed}, size=3)" in text
    with pytest.raises(AssertionError):
        simulate(fragile, error.seed, size=error.size)


def test_a_program_that_is_right_explores_its_orders() -> None:
    async def main(sim: SimulationContext) -> None:
        try:
            await fragile(sim)
        except AssertionError:
            pass

    report = explore(main, range(50), size=3)
    assert report.runs == 50
    assert report.distinct == 6
    assert report.steps > 150


def test_a_fault_plan_is_shrunk_to_the_one_fault_that_matters() -> None:
    with pytest.raises(ExplorationError) as caught:
        explore(impatient, faults=FaultMix(most=6))
    assert len(caught.value.plan.faults) == 1
    (fault,) = caught.value.plan.faults
    assert (fault.target, fault.call) == ("driver", 1)
    assert isinstance(caught.value.error, DriverError)
    assert f"plan: {str(caught.value.plan)!r}" in str(caught.value)


def test_shrinking_keeps_to_the_same_kind_of_failure() -> None:
    async def main(sim: SimulationContext) -> None:
        if sim.size == 1:
            raise LookupError
        raise ExceptionGroup("", [ValueError()])

    with pytest.raises(ExplorationError) as caught:
        explore(main, [9], size=4)
    assert caught.value.size == 2
    assert caught.value.seed == 0


def test_a_program_that_something_else_decides_is_said_to_be_so() -> None:
    runs = itertools.count()

    async def main(sim: SimulationContext) -> None:
        sim.note(f"run {next(runs)}")
        raise ValueError

    with pytest.raises(ExplorationError, match="something outside the seed decides"):
        explore(main, 3)


def test_shrinking_stops_after_its_runs() -> None:
    with pytest.raises(ExplorationError) as caught:
        explore(fragile, 100, size=6, shrinking_runs=0)
    assert caught.value.size == 6
    assert caught.value.shrinking_runs == 1


def test_an_exit_code_is_not_a_find() -> None:
    async def main() -> None:
        raise SystemExit(4)

    with pytest.raises(SystemExit):
        explore(main)


def test_what_failed_once_is_kept_and_tried_first(tmp_path: Path) -> None:
    file = tmp_path / "seeds"
    with pytest.raises(ExplorationError) as first:
        explore(fragile, 100, size=6, regressions=file, name="mine")
    with pytest.raises(ExplorationError) as second:
        explore(fragile, 100, size=6, regressions=str(file), name="mine")
    assert second.value.runs == 1
    assert RegressionFile(file).cases("mine") == [Case(first.value.seed, FaultPlan(), first.value.size)]
    assert RegressionFile(file).cases("other") == []


def test_a_known_case_is_not_run_twice(tmp_path: Path) -> None:
    async def main() -> None: ...

    file = tmp_path / "seeds"
    RegressionFile(file).add("main", Case(2))
    RegressionFile(file).add("main", Case(2))
    assert len(file.read_text().splitlines()) == 1
    assert explore(main, 5, regressions=file, name="main").runs == 5


def test_a_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "seeds"
    file.write_text('# a comment\n\n{"test": "a"}\n')
    with pytest.raises(ValueError, match=r"seeds, line 3: KeyError\('seed'\); remove or fix"):
        RegressionFile(file).cases("a")
