"""Hunting a mutant: random programs run with a broken rule until its oracle objects."""

from __future__ import annotations

import gc
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from .._runs import run_seed

HANG = "hang: the program did not end within"
"""What a run says that did not end."""

Make = Callable[[Any], Any]
"""From what is there to what stands in its place."""


@attrs.frozen
class Mutant:
    """A rule, and a patch that breaks it.

    Attributes:
      rule: the rule, in a few words.
      owner, name: what is replaced: an attribute of a class or module.
      make: makes the replacement from the original.
      seen_as: what the oracle of this rule says, as a pattern that its text begins with.
      profiles: which programs are run, in turn.

    Raises:
      LookupError: if there is nothing of that name to replace.
    """

    rule: str
    owner: Any
    name: str
    make: Make
    seen_as: str
    profiles: tuple[str, ...] = ("full", "rare", "waits")

    def __attrs_post_init__(self) -> None:
        if self.name not in self.owner.__dict__:
            raise LookupError(
                f"the mutant of {self.rule!r} replaces {self.name} of {self.owner!r}, which has none:"
                " say where the rule is kept now"
            )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Break the rule while the block runs."""
        original = self.owner.__dict__[self.name]
        setattr(self.owner, self.name, self.make(original))
        try:
            yield
        finally:
            setattr(self.owner, self.name, original)


@attrs.frozen
class Catch:
    """What became of a mutant.

    Attributes:
      runs: how many runs it took to see it, or how many did not.
      problem: what the oracle said; empty if it survived.
      seconds: how long that took.
      wrecks, wreck: how many runs broke down, which counts for nothing, and what the first one said.
    """

    mutant: Mutant
    runs: int
    problem: str
    seconds: float
    wrecks: int = 0
    wreck: str = ""

    def __str__(self) -> str:
        if not self.problem:
            wrecks = f" ({self.wrecks} broke down: {self.wreck[:100]})" if self.wrecks else ""
            return f"SURVIVED {self.runs:5} runs in {self.seconds:.0f} s  {self.mutant.rule}{wrecks}"
        return f"caught in {self.runs:5} runs  {self.mutant.rule}: {self.problem.splitlines()[0][:100]}"


def hunt(mutant: Mutant, most_runs: int = 3000, most_seconds: float = 30.0) -> Catch:
    """Run programs with a broken rule until the oracle of that rule objects, or the time is up."""
    begun = time.perf_counter()
    catch = Catch(mutant, 0, "", 0.0)
    with mutant.applied(), _quiet_wreckage():
        while not catch.problem and catch.runs < most_runs and catch.seconds < most_seconds:
            profile = mutant.profiles[catch.runs % len(mutant.profiles)]
            problems = _run_in_time(profile, catch.runs // len(mutant.profiles))
            catch = attrs.evolve(
                _looked_at(catch, problems), runs=catch.runs + 1, seconds=time.perf_counter() - begun
            )
    return catch


# What a run says whose code is broken, and not just its rule.
_WRECK = re.compile(
    r"the run broke down|an observer|\b(Attribute|Key|Index|Type|Name|Assertion|UnboundLocal|Runtime|Timeout"
    r"|TrioInternal|BusyResource|AlreadyUsed)Error\("
)


def _looked_at(catch: Catch, problems: Sequence[str]) -> Catch:
    """Take the problem that shows the rule broken; a run that broke down shows nothing."""
    wreck = next(filter(None, map(_WRECK.search, problems)), None)
    if wreck is not None:
        said = wreck.string[wreck.start() :].splitlines()[0]
        return attrs.evolve(catch, wrecks=catch.wrecks + 1, wreck=catch.wreck or said)
    seen = next((problem for problem in problems if re.match(catch.mutant.seen_as, problem)), "")
    return attrs.evolve(catch, problem=seen)


@contextmanager
def _quiet_wreckage() -> Iterator[None]:
    """Keep quiet about what is left of runs that had to be torn down in the middle."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
        for _ in range(3):  # what is finalized may hold on to more
            gc.collect()
    finally:
        sys.unraisablehook = before


# A broken rule may make a step of the scheduler last for ever, where no virtual time limit helps.
_SECONDS_PER_RUN = 3.0


def _run_in_time(profile: str, seed: int) -> Sequence[str]:
    def ring(_signal: int, _frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    # It rings again, because trio keeps to itself what is raised while it calls an instrument.
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_PER_RUN, 0.1)
    try:
        return run_seed(profile, seed).problems
    except Exception as error:
        return [f"the run broke down: {error!r}"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def nothing(_original: Any) -> Any:
    """A function that does nothing in the place of one that does."""

    def idle(*_args: Any, **_kwargs: Any) -> None:
        return None

    return idle


async def nothing_async(*_args: Any, **_kwargs: Any) -> None:
    """An async function that does nothing in the place of one that does."""
    await trio.lowlevel.checkpoint()
