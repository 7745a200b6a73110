"""Searching for an order, a fault plan and a size that break a program, and making them small."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from agentpool.testing._faults import NO_FAULTS, FaultMix, FaultPlan
from agentpool.testing._simulate import DAY, Main, Simulation, attempt, recipe


@attrs.frozen
class Case:
    """What decides a run: a seed, a fault plan and a size."""

    seed: int
    plan: FaultPlan = NO_FAULTS
    size: int = 1


@attrs.frozen
class Exploration:
    """What a search without a find came to.

    Attributes:
      runs: how many runs were made.
      distinct: how many of them had a log of their own; few mean that the seeds change little.
      steps: how many steps tasks took in all of them.
    """

    runs: int
    distinct: int
    steps: int


class ExplorationError(AssertionError):
    """A search found a run that fails. Its cause is the error of the smallest such run.

    Attributes:
      simulation: the smallest run that fails.
      found: the case that was found first.
      runs: how many runs were made until then.
      shrinking_runs: how many more shrinking took.
      repeats: whether the smallest run failed in the same way, with the same log, once more.
    """

    def __init__(
        self, simulation: Simulation[Any], found: Case, runs: int, shrinking_runs: int, repeats: bool
    ) -> None:
        self.simulation = simulation
        self.found = found
        self.runs = runs
        self.shrinking_runs = shrinking_runs
        self.repeats = repeats
        super().__init__(found)

    @property
    def seed(self) -> int:
        """The seed of the smallest run."""
        return self.simulation.seed

    @property
    def plan(self) -> FaultPlan:
        """The fault plan of the smallest run."""
        return self.simulation.plan

    @property
    def size(self) -> int:
        """The size of the smallest run."""
        return self.simulation.size

    @property
    def error(self) -> BaseException:
        """What the program raised in the smallest run."""
        assert self.simulation.error is not None
        return self.simulation.error

    def __str__(self) -> str:
        found = f"seed {self.found.seed}, size {self.found.size}, plan {str(self.found.plan)!r}"
        lines = [
            f"{type(self.error).__name__}: {self.error}",
            f"found in run {self.runs} ({found}), made smaller in {self.shrinking_runs} more runs to:",
            f"seed: {self.seed}",
            f"plan: {str(self.plan)!r}",
            f"size: {self.size}",
            f"run it again with simulate(main, {recipe(self.simulation)})",
        ]
        if not self.repeats:
            lines.append(
                "it went differently when it was run once more: something outside the seed decides,"
                " such as the wall clock, a thread, a hash order or a global that a run changes"
            )
        return "\n".join(lines)


def explore(
    main: Main[Any],
    seeds: int | Iterable[int] = 100,
    *,
    plan: FaultPlan = NO_FAULTS,
    faults: FaultMix | None = None,
    size: int = 1,
    max_seconds: float = DAY,
    max_steps: int = 1_000_000,
    shrinking_runs: int = 300,
    regressions: Path | str | None = None,
    name: str = "",
) -> Exploration:
    """Simulate a program under many seeds; stop at the first run that raises, and make it small.

    Args:
      main: as for `simulate`.
      seeds: how many seeds, or which.
      plan: faults of every run.
      faults: draws a plan for each seed, in the place of `plan`.
      size: the size of every run; shrinking tries the sizes below it.
      max_seconds, max_steps: as for `simulate`.
      shrinking_runs: how many runs shrinking may take.
      regressions: a file of cases that failed before. They are tried first, and what fails is added.
      name: the program's name in that file; its qualified name if left out.

    Raises:
      ExplorationError: from the program's error, with the smallest seed, plan and size.
    """
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    search = _Search(main, max_seconds, max_steps)
    book = None if regressions is None else RegressionFile(Path(regressions))
    title = name or getattr(main, "__qualname__", repr(main))
    known = () if book is None else book.cases(title)
    fresh = (Case(seed, plan if faults is None else faults.draw(seed), size) for seed in seeds)
    for case in _chain(known, fresh):
        failed = search.try_case(case)
        if failed is not None:
            error = _shrunk(search, failed, shrinking_runs)
            if book is not None:
                book.add(title, Case(error.seed, error.plan, error.size))
            raise error from error.error
    return Exploration(search.runs, len(search.digests), search.steps)


def _chain(known: Sequence[Case], fresh: Iterator[Case]) -> Iterator[Case]:
    yield from known
    for case in fresh:
        if case not in known:
            yield case


@attrs.define(eq=False)
class _Search:
    main: Main[Any]
    max_seconds: float
    max_steps: int
    runs: int = 0
    steps: int = 0
    digests: set[str] = attrs.field(factory=set)

    def run(self, case: Case) -> Simulation[Any]:
        self.runs += 1
        simulation = attempt(
            self.main,
            case.seed,
            plan=case.plan,
            size=case.size,
            max_seconds=self.max_seconds,
            max_steps=self.max_steps,
        )
        self.steps += simulation.steps
        return simulation

    def try_case(self, case: Case) -> Simulation[Any] | None:
        """Return the run of this case if it fails."""
        simulation = self.run(case)
        if simulation.error is None:
            self.digests.add(simulation.log.digest)
            return None
        if not isinstance(simulation.error, Exception):
            raise simulation.error  # SystemExit and its like are not for a search to judge
        return simulation


def _shrunk(search: _Search, first: Simulation[Any], shrinking_runs: int) -> ExplorationError:
    runs = search.runs
    case = Case(first.seed, first.plan, first.size)
    shrinker = _Shrinker(search, _kinds(first.error), search.runs + shrinking_runs, first)
    shrinker.shrink()
    smallest = shrinker.best
    again = search.run(_case_of(smallest))
    repeats = again.log == smallest.log and _kinds(again.error) == _kinds(smallest.error)
    return ExplorationError(smallest, case, runs, search.runs - runs, repeats)


def _case_of(simulation: Simulation[Any]) -> Case:
    return Case(simulation.seed, simulation.plan, simulation.size)


def _kinds(error: BaseException | None) -> frozenset[str]:
    """The types of an error, the leaves if it is a group: what makes two failures the same one."""
    if isinstance(error, BaseExceptionGroup):
        return frozenset().union(*(_kinds(inner) for inner in error.exceptions))
    return frozenset({f"{type(error).__module__}.{type(error).__qualname__}"})


# How many seeds are tried for each smaller size, because another size means another interleaving.
_SEEDS_PER_SIZE = 20


@attrs.define(eq=False)
class _Shrinker:
    """Makes a failing case smaller while it fails in the same way: its size, its plan, its seed."""

    search: _Search
    kinds: frozenset[str]
    last_run: int
    best: Simulation[Any]

    def shrink(self) -> None:
        self._shrink_size()
        self._shrink_plan()
        self._shrink_seed()

    def _fails(self, case: Case) -> bool:
        if self.search.runs >= self.last_run:
            return False
        simulation = self.search.run(case)
        if simulation.error is None or not self.kinds & _kinds(simulation.error):
            return False
        self.best = simulation
        return True

    def _shrink_size(self) -> None:
        found = self.best
        for size in range(1, found.size):
            seeds = [found.seed, *(seed for seed in range(_SEEDS_PER_SIZE) if seed != found.seed)]
            if any(self._fails(Case(seed, found.plan, size)) for seed in seeds):
                return

    def _shrink_plan(self) -> None:
        while any(self._fails_with(plan) for plan in self.best.plan.smaller()):
            pass

    def _fails_with(self, plan: FaultPlan) -> bool:
        return self._fails(attrs.evolve(_case_of(self.best), plan=plan))

    def _shrink_seed(self) -> None:
        found = _case_of(self.best)
        for seed in range(max(0, found.seed)):
            if self._fails(attrs.evolve(found, seed=seed)):
                return


def _read_case(line: str) -> tuple[str, Case]:
    entry = json.loads(line)
    return entry["test"], Case(int(entry["seed"]), FaultPlan.parse(entry["plan"]), int(entry["size"]))


@attrs.frozen
class RegressionFile:
    """A text file of cases that failed once: a JSON object per line, to be checked in.

    Attributes:
      path: where it is; it need not exist.
    """

    path: Path

    def cases(self, name: str) -> list[Case]:
        """Return the cases of one program, in the order in which they were found.

        Raises:
          ValueError: if a line cannot be read; the message says which.
        """
        return [case for title, case in self._read() if title == name]

    def _read(self) -> Iterator[tuple[str, Case]]:
        if not self.path.exists():
            return
        for number, line in enumerate(self.path.read_text("utf-8").splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                try:
                    yield _read_case(line)
                except (ValueError, KeyError, TypeError) as error:
                    where = f"{self.path}, line {number}"
                    raise ValueError(f"{where}: {error!r}; remove or fix this line") from error

    def add(self, name: str, case: Case) -> None:
        """Add a case, unless it is there."""
        if case in self.cases(name):
            return
        entry = {"test": name, "seed": case.seed, "plan": str(case.plan), "size": case.size}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
