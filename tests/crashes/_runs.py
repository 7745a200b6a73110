"""Many random programs, each cut off several times in one process; what was wrong with them."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs

from agentpool.abc import Journal

from . import _programs, _town
from ._cases import program_of_case
from ._oracle import Crash, Main, Ran, contradictions, crashes_of, orphans, problems_of, resumed, run, waste
from ._world import World

UNTIDY_SECONDS = 500.0
"""An untidy program may hang by itself: somebody takes a message that another one waits for."""


@attrs.define
class Report:
    """What many runs came to.

    Attributes:
      programs, agents, crashes: how many.
      problems: what was wrong, with what makes it happen again.
    """

    programs: int = 0
    agents: int = 0
    crashes: int = 0
    problems: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        text = f"{self.programs} programs, {self.agents} agents, {self.crashes} crashes:"
        return "\n".join([f"{text} {len(self.problems)} problems", *self.problems])


def program_of(seed: int, *, tidy: bool) -> Main:
    """Return the random program of a seed."""
    script = _programs.draw(seed, tidy=tidy)
    timeout = None if tidy else UNTIDY_SECONDS

    async def main(journal: Journal, is_resumed: bool) -> Any:
        return await _town.main(journal, is_resumed, _programs.actor, script, timeout=timeout)

    return main


def cut_off(
    main: Main, seed: int, report: Report, *, tidy: bool, times: int = 3, most: int = 4, label: str = ""
) -> None:
    """Run a program, and `times` over again with up to `most` crashes one after the other.

    Args:
      seed: decides when it crashes, and the order of everything.
    """
    whole = run(main, seed=seed)
    report.programs += 1
    report.agents += sum(record.kind == "spawned" for record in whole.tape.kept)
    if whole.error is not None:
        report.problems.append(f"{label}: {whole.error!r} without any crash")
        return
    rng = Random(f"crashes {seed}")
    for _ in range(times):
        ran, crashes = whole, []
        for number in range(1, most + 1):
            possible = [crash for crash in crashes_of(ran) if crash.kept]
            if not possible:
                break
            crash = rng.choice(possible)
            crashes.append((crash.kept, crash.effects))
            before, ran = ran, resumed(main, ran, crash, seed + number)
            report.crashes += 1
            found = [
                *problems_of(whole, ran, spent_at_crash=_tokens(before, crash), tidy=tidy),
                *(waste(before, crash, ran) if number == 1 else ()),
                *(contradictions(before, crash, ran) if _loses_nothing(before, crash) else ()),
            ]
            if found:
                report.problems += [f"{label}, {crashes}: {problem}" for problem in found]
                break


def _tokens(ran: Ran, crash: Crash) -> int:
    return World(ran.world.lines[: crash.effects]).tokens


def _loses_nothing(ran: Ran, crash: Crash) -> bool:
    """Whether everything that was appended is kept."""
    return crash.kept == max(b.appended for b in ran.tape.boundaries if b.effects == crash.effects)


def run_random(first: int, runs: int, *, times: int = 3) -> Report:
    """Run random programs, one half of them tidy."""
    report = Report()
    for seed in range(first, first + runs):
        tidy = seed % 2 == 0
        label = f"seed {seed}"
        cut_off(program_of(seed, tidy=tidy), seed, report, tidy=tidy, times=times, label=label)
    return report


def run_town(seed: int, report: Report, *, every: int = 1) -> None:
    """Cut the town off at each boundary, or at every so many."""
    _run_once(_town.main, seed, report, every, "town")


def run_case(case: Any, report: Report) -> None:
    """Cut a case off at each boundary."""
    _run_once(program_of_case(case), 0, report, 1, case.__name__)


def _run_once(main: Main, seed: int, report: Report, every: int, label: str) -> None:
    whole = run(main, seed=seed)
    report.programs += 1
    report.agents += sum(record.kind == "spawned" for record in whole.tape.kept)
    if whole.error is not None:
        report.problems.append(f"{label}: {whole.error!r} without any crash")
        return
    for crash in [crash for crash in crashes_of(whole) if crash.kept][seed % every :: every]:
        report.crashes += 1
        after = resumed(main, whole, crash, seed)
        found = [
            *problems_of(whole, after, spent_at_crash=_tokens(whole, crash)),
            *waste(whole, crash, after),
            *orphans(whole, crash, after),
        ]
        report.problems += [f"{label}, seed {seed}, {crash}: {problem}" for problem in found]
