"""A journal in an SQLite file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import trio

from agentpool._blocking import run_blocking, start_blocking
from agentpool._core.errors import JournalError
from agentpool._core.records import JournalRecord
from agentpool.abc import Journal
from agentpool.journal._file import JournalFile, Row, row_of
from agentpool.journal._file import read_journal as read_journal


class SqliteJournal(Journal):
    """Keeps a run in one SQLite file, which survives `kill -9` at any moment.

    Records are written in groups, by a thread: what many agents append while one group is written is
    the next group. One process writes to a file, any number may read it meanwhile (`read_journal`).

    Give it to one pool: `open_agent_pool(..., journal=SqliteJournal("run.db"))` opens and closes it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["normal", "full"] = "normal",
        secrets: Iterable[str] = (),
    ) -> None:
        """Say where the journal is; nothing is opened yet.

        Args:
          path: the file; it is created for its owner alone (0600), with its folder.
          synchronous: `normal` keeps what was committed through the end of the process, however it
            comes; `full` waits for the disk each time and keeps it through a loss of power too.
          secrets: texts that must not get into the file. Those of the environment, and what looks like
            one, are left out too: `[redacted-1]` stands in their places.

        Raises:
          TypeError, ValueError: if an argument makes no sense.
        """
        if synchronous not in ("normal", "full"):
            raise ValueError(f"synchronous must be 'normal' or 'full', not {synchronous!r}")
        self.path: Path = Path(path)
        self._is_durable = synchronous == "full"
        self._secrets = tuple(secrets)
        self._file: JournalFile | None = None
        self._rows: list[Row] = []
        self._appended = 0
        self._committed = 0
        self._writing = False
        self._broken: JournalError | None = None
        self._waiting = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"SqliteJournal({str(self.path)!r})"

    @property
    def secrets(self) -> Sequence[str]:
        """The texts that must not get into the file: those that were given, and of late found in it."""
        return self._secrets if self._file is None else self._file.secrets

    async def open(self) -> Sequence[JournalRecord]:
        """Open the file, for this process alone to write to; return what it holds.

        Raises:
          JournalError: if another process writes to it, or it cannot be opened.
          JournalCorruptError: if what it holds is not what was written.

        Checkpoint: always. Cancellation: only before it is opened; then it is open.
        """
        if self._file is not None:
            raise RuntimeError(f"{self!r} is open already; a journal is for one pool at a time")
        file = await run_blocking(
            lambda: JournalFile(self.path, is_durable=self._is_durable, secrets=self._secrets)
        )
        self._file, self._broken = file, None
        self._appended = self._committed = 0
        self._rows = []
        return file.records

    def append(self, record: JournalRecord) -> None:
        """Have a record written after all that were appended before; does not block.

        Raises:
          JournalError: if the journal could not be written before.
          RuntimeError: if it is not open.
          TypeError, ValueError, RecursionError: if the record's data is no JSON data.
        """
        if self._broken is not None:
            raise self._broken
        if self._file is None:
            raise RuntimeError(f"{self!r} is not open")
        self._rows.append(row_of(record))
        self._appended += 1

    async def commit(self) -> None:
        """Wait until everything that was appended is written.

        Raises:
          JournalError: if it cannot be written; from then on nothing is.

        Checkpoint: unless everything is written already. Cancellation: it is written by the next commit,
        or when the journal is closed.
        """
        target = self._appended
        while self._committed < target:
            if self._broken is not None:
                raise self._broken
            if self._writing:
                await self._waiting.park()
            else:
                await self._write()

    @trio.lowlevel.enable_ki_protection
    async def _write(self) -> None:
        """Have a thread write the rows that are there, and wait for it."""
        file = self._file
        if file is None:
            raise RuntimeError(f"{self!r} is not open")
        self._writing = True
        # Who else is about to append is in the group: one for all that a moment's replies lead to, not two.
        await trio.lowlevel.cancel_shielded_checkpoint()
        rows, self._rows = self._rows, []
        job = _Job(file, rows)
        try:
            await start_blocking(job.run, lambda: self._written(job))
        except BaseException:  # cancelled, which only a simulation can be here
            if job.is_done:
                self._written(job)
            else:
                self._rows, self._writing = [*rows, *self._rows], False
                self._waiting.unpark_all()
            raise
        await self._waiting.park()

    def _written(self, job: _Job) -> None:
        self._writing = False
        if job.error is None:
            self._committed += len(job.rows)
        else:
            self._broken = job.error
        self._waiting.unpark_all()

    async def aclose(self) -> None:
        """Write what is left, and let the file go; harmless if it is not open.

        Raises:
          JournalError: if what is left could not be written. The file is let go all the same.

        Checkpoint: always. Cancellation: does not stop it.
        """
        file = self._file
        if file is None:
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope(shield=True):
            try:
                await self.commit()
            finally:
                while self._writing:
                    await self._waiting.park()
                self._file = None
                await run_blocking(file.close)


class _Job:
    """One group of rows, written by a thread."""

    def __init__(self, file: JournalFile, rows: Sequence[Row]) -> None:
        self._file = file
        self.rows = rows
        self.error: JournalError | None = None
        self.is_done = False

    def run(self) -> None:
        self.is_done = True
        try:
            self._file.write(self.rows)
        except JournalError as error:
            self.error = error
        except BaseException as error:  # a bug; the thread may not raise, and nobody may wait for ever
            self.error = JournalError(f"the journal {self._file.path} cannot be written: {error!r}")
            self.error.__cause__ = error
