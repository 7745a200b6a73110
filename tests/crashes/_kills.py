"""Processes that run a program and are killed: by themselves at a record, or from outside at any time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import attrs
import trio

from agentpool._core.records import JournalRecord
from agentpool.abc import Journal
from agentpool.journal import SqliteJournal, read_journal
from agentpool.testing import NO_FAULTS, FaultPlan, FaultyJournal, simulate
from agentpool.testing._apart import process_context

from ._oracle import Ran, problems_of
from ._world import Tape, World, set_world, world

MOST_SECONDS = 120.0


@attrs.frozen
class Ended:
    """How a process ended: what came of it, what it raised, or that it was killed."""

    value: Any = None
    error: str = ""
    is_killed: bool = False


class Acknowledging(Journal):
    """Tells the world after each commit how many records it was promised."""

    def __init__(self, inner: Journal) -> None:
        self._inner = inner
        self._count = 0

    async def open(self) -> Sequence[JournalRecord]:
        records = await self._inner.open()
        self._count = len(records)
        return records

    def append(self, record: JournalRecord) -> None:
        self._inner.append(record)
        self._count += 1

    async def commit(self) -> None:
        promised = self._count
        await self._inner.commit()
        world().do(f"kept {promised}")

    async def aclose(self) -> None:
        await self._inner.aclose()


def world_of(path: Path) -> Path:
    """Return where the effects are that a run with a journal had."""
    return path.with_name(f"{path.name}.world")


def effects_of(path: Path) -> list[str]:
    """Return the effects of a run."""
    file = world_of(path)
    return file.read_text().splitlines() if file.exists() else []


def start(target: Callable[..., Any], *args: Any) -> tuple[Any, Connection]:
    """Start a process that calls `target` and sends how it ended."""
    context = process_context(_here)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_here, args=(sender, target, *args))
    process.start()
    sender.close()
    return process, receiver


def _here(sender: Connection, target: Callable[..., Any], *args: Any) -> None:
    sender.send("started")
    try:
        ended = Ended(target(*args))
    except BaseException as error:
        ended = Ended(error=repr(error))
    sender.send(ended)


def wait_for(process: Any, receiver: Connection) -> Ended:
    """Wait for the end of a process."""
    ended = Ended(is_killed=True)
    try:
        while receiver.poll(MOST_SECONDS):
            found = receiver.recv()
            ended = found if isinstance(found, Ended) else ended
    except EOFError:
        pass
    else:
        process.kill()
        ended = Ended(error="it did not end")
    receiver.close()
    process.join()
    process.close()
    return ended


def ended_apart(target: Any, path: Path | None = None, plan: FaultPlan = NO_FAULTS, seed: int = 0) -> Ended:
    """Run a function, or a program with a journal, in a process of its own.

    Args:
      target: a function of nothing if there is no `path`; else a program of its journal, which is
        simulated, and is killed where `plan` says.
    """
    return wait_for(*(start(target) if path is None else start(run_simulated, target, path, plan, seed)))


def run_simulated(program: Any, path: Path, plan: FaultPlan, seed: int) -> Any:
    """Run a program with a journal in this process, on virtual time."""
    is_resumed = is_begun(path)
    set_world(World(effects_of(path), world_of(path)))
    journal = Acknowledging(FaultyJournal(SqliteJournal(path), plan))
    return simulate(lambda: program(journal, is_resumed), seed).value


def run_really(program: Any, path: Path) -> Any:
    """Run a program with a journal in this process, with threads and real time."""
    is_resumed = is_begun(path)
    set_world(World(effects_of(path), world_of(path)))
    return trio.run(program, Acknowledging(SqliteJournal(path)), is_resumed)


def is_begun(path: Path) -> bool:
    """Whether a journal holds a run."""
    return path.exists() and bool(read_journal(path))


def lost(path: Path, before: Sequence[JournalRecord]) -> Iterator[str]:
    """Tell what is not in a journal any more after a kill."""
    try:
        found = list(read_journal(path)) if path.exists() else []
    except Exception as error:
        yield f"it cannot be read: {error!r}"
        return
    if found[: len(before)] != list(before):
        yield "records that were there before are others now"
    promised = [int(line.split()[1]) for line in effects_of(path) if line.startswith("kept ")]
    if promised and len(found) < max(promised):
        yield f"{max(promised)} records were acknowledged, and {len(found)} are left"


@attrs.define
class Kills:
    """What many kills from outside came to.

    Attributes:
      kills: how many processes were killed while they worked.
      runs: how many runs were gone on with until they ended.
      acknowledged: how many records had been acknowledged in all.
      problems: what was wrong.
    """

    kills: int = 0
    runs: int = 0
    acknowledged: int = 0
    problems: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.kills} kills in {self.runs} runs, {self.acknowledged} records acknowledged:"
            f" {len(self.problems)} problems"
        )
        return "\n".join([text, *self.problems])


def kill_at_random(program: Any, folder: Path, kills: int, *, seed: int = 0, longest: float = 0.5) -> Kills:
    """Run a program again and again, killing it at random times, until each run ends.

    Args:
      longest: seconds that a process is left alive at the most.
    """
    report, rng = Kills(), Random(f"kills {seed}")
    whole_path = folder / "whole.db"
    ended = wait_for(*start(run_really, program, whole_path))
    if ended.value is None:
        report.problems.append(f"without any kill: {ended.error}")
        return report
    whole = Ran(ended.value, None, Tape(read_journal(whole_path)), World(effects_of(whole_path)))
    while report.kills < kills:
        path = folder / f"{report.runs}.db"
        problems = list(_until_it_ends(program, path, whole, rng, report, kills, longest))
        report.problems += [f"run {report.runs}: {problem}" for problem in problems]
        report.runs += 1
    return report


def _until_it_ends(
    program: Any, path: Path, whole: Ran, rng: Random, report: Kills, kills: int, longest: float
) -> Iterator[str]:
    for attempt in count():
        before = list(read_journal(path)) if path.exists() else []
        process, receiver = start(run_really, program, path)
        receiver.recv()  # it has started
        # Longer each time: on a slow machine it would never come to its end.
        if not receiver.poll(
            rng.uniform(0, longest) * 1.1**attempt if report.kills < kills else MOST_SECONDS
        ):
            process.kill()
        ended = wait_for(process, receiver)
        yield from lost(path, before)
        if ended.is_killed:
            report.kills += 1
            continue
        records = list(read_journal(path))
        report.acknowledged += len(records)
        if ended.error:
            yield f"it raised {ended.error}"
        else:
            yield from problems_of(whole, Ran(ended.value, None, Tape(records), World(effects_of(path))))
        return


def kill_at_records(
    program: Any, folder: Path, *, most: int | None = None, seed: int = 0, several: int = 1
) -> Kills:
    """Run a program that kills itself before and after each record, and is resumed until it ends.

    Args:
      most: try so many of the records, drawn by `seed`; all if left out.
      several: how often it is killed at the most, one after the other.
    """
    report, rng = Kills(), Random(f"records {seed}")
    whole_path = folder / "whole.db"
    ended = ended_apart(program, whole_path, seed=seed)
    if ended.value is None:
        report.problems.append(f"without any kill: {ended.error}")
        return report
    records = list(read_journal(whole_path))
    whole = Ran(ended.value, None, Tape(records), World(effects_of(whole_path)))
    kinds = ("crash_before", "crash_after")
    plans = [f"journal:{number}:{kind}" for number in range(1, len(records) + 1) for kind in kinds]
    if most is not None:
        plans = rng.sample(plans, most)
    for text in plans:
        path = folder / f"{report.runs}.db"
        texts = [text, *(f"journal:{rng.randint(1, 60)}:{rng.choice(kinds)}" for _ in range(several - 1))]
        problems = list(
            _through(program, path, [*map(FaultPlan.parse, texts), NO_FAULTS], whole, seed, report)
        )
        report.problems += [f"{', '.join(texts)}: {problem}" for problem in problems]
        report.runs += 1
    return report


def _through(
    program: Any, path: Path, plans: Sequence[FaultPlan], whole: Ran, seed: int, report: Kills
) -> Iterator[str]:
    for plan in plans:
        before = list(read_journal(path)) if path.exists() else []
        spent = World(effects_of(path)).tokens
        ended = ended_apart(program, path, plan, seed)
        yield from lost(path, before)
        if ended.is_killed:
            report.kills += 1
            continue
        report.acknowledged += len(read_journal(path))
        if ended.error:
            yield f"it raised {ended.error}"
        else:
            after = Ran(ended.value, None, Tape(read_journal(path)), World(effects_of(path)))
            yield from problems_of(whole, after, spent_at_crash=spent)
        return
