"""Crashes as faults: a journal in whose writing the process dies, and a program that has to outlive that."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import attrs
import trio

from agentpool._core.errors import AgentPoolError, JournalError
from agentpool._core.records import JournalRecord
from agentpool.abc import Journal
from agentpool.testing._apart import process_context
from agentpool.testing._faults import JOURNAL_FAULTS, NO_FAULTS, Fault, FaultKind, FaultPlan
from agentpool.testing._simulate import simulate


def kill_this_process() -> None:
    """End this process at once, as `kill -9` does: nothing is cleaned up, nothing is written."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows SIGTERM does it


@attrs.define(eq=False)
class FaultyJournal(Journal):
    """A journal around a journal, in whose writing things go wrong as a plan says.

    Args:
      journal: keeps what does not go wrong.
      plan: its faults whose target is `name`: `crash_before`, `crash_after` and `full`.
      name: `journal` unless a program has several.
      crash: what a crash is; left out, the process is killed.

    Attributes:
      records: how many were appended.
    """

    _journal: Journal
    _plan: FaultPlan
    name: str = "journal"
    _crash: Callable[[], None] = kill_this_process
    records: int = attrs.field(default=0, init=False)
    _full: Fault | None = attrs.field(default=None, init=False)

    async def open(self) -> Sequence[JournalRecord]:
        """Open the journal inside.

        Checkpoint: as the journal inside. Cancellation: as the journal inside.
        """
        return await self._journal.open()

    def append(self, record: JournalRecord) -> None:
        """Have the journal inside keep a record, unless the plan has a fault for it."""
        self.records += 1
        fault = self._plan.at(self.name, self.records)
        if fault is not None and fault.kind is FaultKind.CRASH_BEFORE:
            self._crash()
        elif fault is not None and fault.kind is FaultKind.FULL:
            self._full = fault
        self._check()
        self._journal.append(record)
        if fault is not None and fault.kind is FaultKind.CRASH_AFTER:
            # Not here: a record is kept by waiting, and `append` does not wait.
            trio.lowlevel.spawn_system_task(self._crash_when_kept, name="a crash that a fault plan wants")

    async def _crash_when_kept(self) -> None:
        with trio.CancelScope(shield=True):
            try:
                await self._journal.commit()
            except JournalError:
                return
        self._crash()

    def _check(self) -> None:
        if self._full is not None:
            raise JournalError(f"fault {self._full}: the disk is full")

    async def commit(self) -> None:
        """Commit the journal inside.

        Raises:
          JournalError: if the plan says that it cannot be written.

        Checkpoint: as the journal inside. Cancellation: as the journal inside.
        """
        if self._full is not None:
            await trio.lowlevel.checkpoint()
        self._check()
        await self._journal.commit()

    async def aclose(self) -> None:
        """Close the journal inside.

        Raises:
          JournalError: if the plan says that it cannot be written.

        Checkpoint: always. Cancellation: as the journal inside.
        """
        await self._journal.aclose()
        self._check()


# -- a program that has to outlive crashes ---------------------------------------------------------

CrashProgram: TypeAlias = Callable[[Journal, bool], Awaitable[Any]]
"""A program that may be killed: it is given a journal, and whether that holds a run to go on with."""


class CrashSweepError(AgentPoolError):
    """A program did not come to the same after a crash.

    Attributes:
      plan: where it was killed; `FaultyJournal(journal, plan)` kills it there again.
    """

    def __init__(self, plan: FaultPlan, problem: str) -> None:
        self.plan = plan
        self.problem = problem
        super().__init__(f"after the crash {plan} {problem}")


@attrs.frozen
class CrashSweep:
    """How a sweep went.

    Attributes:
      value: what the program returns, with and without crashes.
      records: how many records a run without a crash writes.
      crashes: how often it was killed and resumed.
    """

    value: Any
    records: int
    crashes: int


@attrs.frozen
class _Ended:
    """How a process ended: what the program returned, what it raised, or that it was killed."""

    value: Any = None
    error: str = ""
    records: int = 0
    is_killed: bool = False


def crash_everywhere(
    program: CrashProgram,
    *,
    seed: int = 0,
    most: int | None = None,
    same: Callable[[Any, Any], bool] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> CrashSweep:
    """Kill a program before and after each record of its journal, and resume it; it has to come to the same.

        async def program(journal, is_resumed):
            if is_resumed:
                opened = resume_agent_pool(journal, driver)
            else:
                opened = open_agent_pool(driver, max_concurrent=4, journal=journal)
            async with opened as pool:
                handle = pool.resumed[0] if pool.resumed else await pool.spawn(boss)
                return await handle.result()

        def test_my_agents_outlive_every_crash():
            crash_everywhere(program)

    Each run is a process of its own, which `kill -9` ends, and a simulation: on virtual time, in an order
    that `seed` decides. The journal is an `SqliteJournal`.

    Args:
      program: an async function at the top of a module, or a `functools.partial` of one; what it returns
        has to be picklable.
      seed: decides the order of everything, and which crashes are tried if not all are.
      most: try so many crashes; left out, all.
      same: compares what the program returned without a crash with what it returned after one; `==` if
        left out.
      folder: where the journals are; a temporary folder if left out.

    Raises:
      CrashSweepError: if it raised, or came to something else; its `plan` makes that happen again.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="agentpool-crashes-") as made:
        where = Path(made)
        whole = _run_apart(program, where / "whole.db", NO_FAULTS, seed)
        if whole.error or whole.is_killed:
            raise CrashSweepError(NO_FAULTS, f"(none) it ended with {whole.error or 'a kill'}")
        plans = _plans(whole.records, seed, most)
        for number, plan in enumerate(plans):
            problem = _problem(program, where / f"{number}.db", plan, seed, whole.value, same)
            if problem:
                raise CrashSweepError(plan, problem)
    return CrashSweep(whole.value, whole.records, len(plans))


def _plans(records: int, seed: int, most: int | None) -> Sequence[FaultPlan]:
    kinds = [kind for kind in JOURNAL_FAULTS if kind is not FaultKind.FULL]
    faults = [Fault("journal", record, kind) for record in range(1, records + 1) for kind in kinds]
    if most is not None and most < len(faults):
        chosen = set(Random(f"agentpool crashes {seed}").sample(range(len(faults)), most))
        faults = [fault for number, fault in enumerate(faults) if number in chosen]
    return [FaultPlan((fault,)) for fault in faults]


def _problem(
    program: CrashProgram,
    path: Path,
    plan: FaultPlan,
    seed: int,
    expected: Any,
    same: Callable[[Any, Any], bool] | None,
) -> str:
    first = _run_apart(program, path, plan, seed)
    if first.error:
        return f"it had raised already: {first.error}"
    again = _run_apart(program, path, NO_FAULTS, seed) if first.is_killed else first
    if again.error or again.is_killed:
        return f"it ended with {again.error or 'a kill'}"
    is_same = again.value == expected if same is None else same(expected, again.value)
    return "" if is_same else f"it came to {again.value!r}, and without one to {expected!r}"


_SECONDS = 120.0
"""How long one process may take."""


def _run_apart(program: CrashProgram, path: Path, plan: FaultPlan, seed: int) -> _Ended:
    """Run a program in a process of its own."""
    context = process_context(program)
    receiver, sender = context.Pipe(duplex=False)
    with receiver:
        process = context.Process(target=_run_here, args=(sender, program, path, plan, seed))
        process.start()
        sender.close()
        ended = _Ended(is_killed=True)
        try:
            if not receiver.poll(_SECONDS):
                process.kill()
                ended = _Ended(error=f"a process that did not end within {_SECONDS:g} seconds")
            else:
                ended = receiver.recv()
        except EOFError:
            pass  # it was killed
        process.join()
        process.close()
    return ended


def _run_here(sender: Connection, program: CrashProgram, path: Path, plan: FaultPlan, seed: int) -> None:
    from agentpool.journal import SqliteJournal, read_journal

    is_resumed = path.exists() and bool(read_journal(path))
    journal = FaultyJournal(SqliteJournal(path), plan)
    try:
        value = simulate(lambda: program(journal, is_resumed), seed).value
        ended = _Ended(value, records=journal.records)
    except BaseException as error:
        ended = _Ended(error=repr(error), records=journal.records)
    sender.send(ended)
    sender.close()
