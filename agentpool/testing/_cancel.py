"""Cancelling a program at every step it takes, one step after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import attrs
import trio

from agentpool._core.errors import AgentPoolError
from agentpool._core.events import AgentFinished
from agentpool._core.outcomes import Failed
from agentpool.testing._books import problems_in_books
from agentpool.testing._faults import NO_FAULTS, FaultPlan
from agentpool.testing._simulate import (
    DAY,
    Main,
    Simulation,
    SimulationContext,
    SimulationHangError,
    attempt,
    recipe,
)

Blow: TypeAlias = Literal["abort one", "abort two", "abort all", "cancel body", "cancel around"]
"""What is done to a program: agents are aborted, or its own scope or the one around it is cancelled."""

BLOWS: tuple[Blow, ...] = get_args(Blow)


@attrs.frozen
class CancelSweep:
    """What a sweep without a find came to.

    Attributes:
      runs: how many runs were made.
      steps: how many steps the program took when it was left alone, for each seed.
    """

    runs: int
    steps: tuple[int, ...]


class CancelSweepError(AssertionError):
    """A program that was cancelled at some step broke a promise.

    Attributes:
      simulation: the run.
      step, blow: at which step of its tasks, and what was done to it.
      problems: what was wrong afterwards, as sentences.
    """

    def __init__(self, simulation: Simulation[Any], step: int, blow: Blow, problems: Sequence[str]) -> None:
        self.simulation = simulation
        self.step = step
        self.blow = blow
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__(simulation, step, blow, self.problems)

    def __str__(self) -> str:
        again = (
            f"cancel_everywhere(main, {recipe(self.simulation)}, steps=[{self.step}], blows=[{self.blow!r}])"
        )
        return "\n".join([f"{self.blow} at step {self.step}:", *self.problems, f"run it again with {again}"])


def cancel_everywhere(
    main: Main[Any],
    seed: int = 0,
    *,
    plan: FaultPlan = NO_FAULTS,
    size: int = 1,
    blows: Iterable[Blow] = BLOWS,
    steps: Iterable[int] | None = None,
    expected: tuple[type[BaseException], ...] = (),
    max_seconds: float = DAY,
    max_steps: int = 100_000,
) -> CancelSweep:
    """Run a program, and then run it again with a blow at its first step, its second, and so on.

    After each run the books of its pools have to be right: as many outcomes as ids, every message
    received or a dead letter, every slot back, no inbox, task, wait edge or reservation left. What
    comes out of `main` may be an error of agentpool, what an agent failed with, what `main` raises
    when it is left alone, or one of `expected`.

    Args:
      main: as for `simulate`. The blow "cancel body" needs a program that takes its context and
        marks its body with `with context.body()`; it is left out for others.
      seed, plan, size: as for `simulate`; all runs have the same.
      blows: which ones; all of them if left out.
      steps: at which steps; all of them if left out.
      expected: further errors that may come out of `main`.
      max_seconds, max_steps: as for `simulate`.

    Raises:
      CancelSweepError: that says at which step what was wrong.
      BaseException: what `main` raises when it is left alone, if that is unexpected.
    """
    sweep = _Sweep(main, seed, plan, size, expected, max_seconds, max_steps)
    baseline = sweep.run(None)
    sweep.learn(baseline)
    for step in range(1, baseline.steps + 1) if steps is None else steps:
        for blow in blows:
            if blow != "cancel body" or sweep.has_body_scope:
                sweep.strike(step, blow)
    return CancelSweep(sweep.runs, (baseline.steps,))


@attrs.define(eq=False)
class _Sweep:
    main: Main[Any]
    seed: int
    plan: FaultPlan
    size: int
    expected: tuple[type[BaseException], ...]
    max_seconds: float
    max_steps: int
    runs: int = 0
    has_body_scope: bool = False
    usual: frozenset[type[BaseException]] = frozenset()

    def run(self, on_step: Callable[[int, SimulationContext], None] | None) -> Simulation[Any]:
        self.runs += 1
        return attempt(
            self.main,
            self.seed,
            plan=self.plan,
            size=self.size,
            max_seconds=self.max_seconds,
            max_steps=self.max_steps,
            on_step=on_step,
        )

    def learn(self, baseline: Simulation[Any]) -> None:
        """Take what the program does when it is left alone as what it may do."""
        if isinstance(baseline.error, SimulationHangError):
            raise baseline.error
        self.usual = frozenset(type(leaf) for leaf in _leaves(baseline.error))
        self.has_body_scope = baseline.has_body
        problems = [problem for pool in baseline.pools for problem in problems_in_books(pool)]
        if problems:
            raise CancelSweepError(baseline, 0, "abort one", ["even when it was left alone:", *problems])

    def strike(self, step: int, blow: Blow) -> None:
        """Make one run with one blow, and look at the books."""

        def on_step(now: int, context: SimulationContext) -> None:
            if now == step:
                strike(blow, context, random.Random(f"{self.seed} {step} {blow}"))

        simulation = self.run(on_step)
        problems = list(self._problems(simulation))
        if problems:
            raise CancelSweepError(simulation, step, blow, problems) from simulation.error

    def _problems(self, simulation: Simulation[Any]) -> Iterable[str]:
        if isinstance(simulation.error, SimulationHangError):
            yield str(simulation.error)
            return
        for leaf in _leaves(simulation.error):
            if not self._may_come_out(leaf, simulation):
                yield f"{leaf!r} came out of the program"
        yield from simulation.left_behind
        for pool in simulation.pools:
            yield from problems_in_books(pool)

    def _may_come_out(self, error: BaseException, simulation: Simulation[Any]) -> bool:
        if isinstance(error, (AgentPoolError, *self.expected)) or type(error) in self.usual:
            return True
        return any(error is failure for failure in _failures(simulation))


def strike(blow: Blow, context: SimulationContext, rng: random.Random) -> None:
    """Do it: abort agents, or cancel a scope."""
    match blow:
        case "cancel around":
            context.outer_scope.cancel()
        case "cancel body":
            if context.body_scope is not None:
                context.body_scope.cancel()
        case "abort all":
            for pool in _own_pools(context):
                pool.abort_all("struck")
        case "abort one" | "abort two":
            agents = [agent for pool in _own_pools(context) for agent in live_agents(pool)]
            count = 1 if blow == "abort one" else 2
            for agent in rng.sample(agents, min(count, len(agents))):
                agent.abort("struck")


def _own_pools(context: SimulationContext) -> list[Any]:
    """The pools of the program, without those that host their agents in workers, which nobody else aborts."""
    return [pool for pool in context.pools if not pool._state.root.are_hosted]


def live_agents(pool: Any) -> list[Any]:
    """The records of the agents of a pool that have not ended, oldest first."""
    return list(pool._state.records.values())


def _leaves(error: BaseException | None) -> list[BaseException]:
    if error is None or isinstance(error, trio.Cancelled):
        return []
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _failures(simulation: Simulation[Any]) -> list[BaseException]:
    outcomes = [event.outcome for event in simulation.log.of(AgentFinished)]
    return [leaf for outcome in outcomes if isinstance(outcome, Failed) for leaf in _leaves(outcome.error)]
