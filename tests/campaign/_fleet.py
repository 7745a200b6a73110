"""Many runs in several processes, and their figures."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor

import attrs

from ._runs import Verdict, run_seed

SHARES = {
    "full": 6,
    "rare": 4,
    "waits": 4,
    "hasty": 2,
    "trees": 1,
    "joins": 1,
    "phoenix": 1,
    "models": 1,
    "tools": 1,
    "untidy": 1,
    "inputs": 2,
    "resized": 1,
    "inner": 2,
    "readers": 2,
    "houses": 1,
    "services": 1,
    "threads": 1,
    "placed": 4,
}
"""How many of 36 runs are of which profile."""

_CHUNK = 250


@attrs.define
class Report:
    """What a campaign came to.

    Attributes:
      runs: how many runs of each profile.
      totals: steps, agents, messages and alarms, over all runs.
      violations: the runs that broke a promise.
      seconds: how long it took.
    """

    runs: Counter[str] = attrs.field(factory=Counter)
    totals: Counter[str] = attrs.field(factory=Counter)
    violations: list[Verdict] = attrs.field(factory=list)
    seconds: float = 0.0

    def add(self, verdict: Verdict) -> None:
        """Count a run."""
        self.runs[verdict.profile] += 1
        for name in ("steps", "agents", "messages", "alarms"):
            self.totals[name] += getattr(verdict, name)
        if verdict.problems:
            self.violations.append(verdict)

    def merge(self, other: Report) -> None:
        """Add another report to this one."""
        self.runs.update(other.runs)
        self.totals.update(other.totals)
        self.violations.extend(other.violations)

    def __str__(self) -> str:
        runs = ", ".join(f"{count:,} {profile}" for profile, count in sorted(self.runs.items()))
        totals = self.totals
        lines = [
            f"campaign: {sum(self.runs.values()):,} runs in {self.seconds:.0f} s ({runs})",
            f"  {totals['steps']:,} scheduler steps, {totals['agents']:,} agents,"
            f" {totals['messages']:,} messages received",
            f"  {totals['alarms']:,} deadlocks reported",
            f"  {len(self.violations)} violations",
        ]
        for verdict in self.violations[:20]:
            again = f"--profile {verdict.profile} --seed {verdict.seed}"
            lines.append(f"  {again}: {verdict.problems[0].splitlines()[0]}")
        return "\n".join(lines)


def run_campaign(runs: int, *, first: int = 0, jobs: int = 2, shares: Mapping[str, int] = SHARES) -> Report:
    """Run programs of every profile, `runs` in all, each profile from the seed `first` on."""
    begun = time.perf_counter()
    report = Report()
    chunks = list(_chunks(runs, first, shares))
    if jobs == 1:
        for chunk in chunks:
            report.merge(run_chunk(*chunk))
    else:
        # Fresh interpreters, because a forked one would share file descriptors and random states.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as executor:
            for part in executor.map(run_chunk, *zip(*chunks, strict=True)):
                report.merge(part)
    report.seconds = time.perf_counter() - begun
    return report


def _chunks(runs: int, first: int, shares: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
    whole = sum(shares.values())
    for profile, share in shares.items():
        count = -(-runs * share // whole)
        for start in range(0, count, _CHUNK):
            yield profile, first + start, min(_CHUNK, count - start)


def run_chunk(profile: str, first: int, count: int) -> Report:
    """Run the seeds from `first` on."""
    report = Report()
    for seed in range(first, first + count):
        report.add(run_seed(profile, seed))
    return report
