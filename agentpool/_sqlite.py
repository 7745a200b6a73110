"""One SQLite file that several processes may share: how it is opened, and its calls, each in a thread.

Each call is one function of a connection, and one transaction: all of it is kept, or nothing. What
another process holds is waited for, up to `BUSY_SECONDS`. A call that is cancelled is interrupted.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
import trio

from agentpool._blocking import start_blocking
from agentpool._core.errors import AgentPoolError

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""So long other processes may hold the file before a call gives up."""

_STEPS_UNHEARD = 4_000  # of SQLite's machine, between two looks at whether a call was cancelled; < 1 ms


@attrs.frozen
class Schema:
    """What a file holds, and how its errors are raised.

    Attributes:
      what: what the file is called in errors, such as `memory`.
      application_id: marks the files of this kind.
      version: of the tables; a file of another one is refused, and never misread.
      tables: the statements that make them.
      error: raised, with a text, for all that goes wrong.
    """

    what: str
    application_id: int
    version: int
    tables: tuple[str, ...]
    error: Callable[[str], AgentPoolError]


class SqliteFile:
    """A file that is opened when it is first used, and let go by `aclose`, or when nobody has it any more."""

    def __init__(self, path: str | os.PathLike[str], schema: Schema) -> None:
        """Say where the file is; nothing is opened yet.

        Raises:
          ValueError: if the path is empty, or SQLite's name for no file.
        """
        if os.fspath(path) in ("", ":memory:"):
            raise ValueError(f"{os.fspath(path)!r} is no file; give the path of one")
        self.path = Path(path)
        self._schema = schema
        self._one_at_a_time = trio.Lock()
        self._open: _Open | None = None

    async def call(self, work: Callable[[sqlite3.Connection], T], *, writes: bool) -> T:
        """Call a function with the connection, in a thread, in a transaction of its own.

        Args:
          work: called again from its start if another process is in the way, so it may change nothing but
            the file. What it raises undoes what it wrote.
          writes: whether it writes.

        Raises:
          AgentPoolError: the schema's error, if the file cannot be opened, read or written, is another's,
            or others hold it for too long.

        Checkpoint: always. Cancellation: interrupts it; `Cancelled` means that nothing was written.
        """
        async with self._one_at_a_time:
            return await _Call(lambda stop: self._perform(work, writes, stop)).result()

    async def aclose(self) -> None:
        """Let the file go; the next call opens it again.

        Checkpoint: always. Cancellation: does not stop it.
        """
        with trio.CancelScope(shield=True):
            async with self._one_at_a_time:
                await _Call(lambda stop: self._let_go()).result()

    def _let_go(self) -> None:
        if self._open is not None:
            self._open.closing()
            self._open = None

    # -- in a thread --------------------------------------------------------------------------

    def _perform(self, work: Callable[[sqlite3.Connection], T], writes: bool, stop: threading.Event) -> T:
        give_up_at = time.monotonic() + BUSY_SECONDS
        pause = 0.001
        while True:
            try:
                return self._attempt(work, writes, stop)
            except sqlite3.Error as error:
                if stop.is_set():
                    raise _Stopped from error
                if not _is_busy(error) or time.monotonic() > give_up_at:
                    raise self._error(error) from error
            except OSError as error:
                raise self._schema.error(self._text(f"{error.strerror}{self._fix(_like(error))}")) from error
            stop.wait(pause)
            pause = min(2 * pause, 0.05)

    def _attempt(self, work: Callable[[sqlite3.Connection], T], writes: bool, stop: threading.Event) -> T:
        connection = self._connection()
        # Ends a statement as `interrupt()` does, which does nothing in the moment before one begins.
        connection.set_progress_handler(stop.is_set, _STEPS_UNHEARD)
        try:
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            result = work(connection)
            connection.set_progress_handler(None, 0)  # what is complete is kept
            connection.execute("COMMIT")
            return result
        except BaseException:
            connection.set_progress_handler(None, 0)
            with suppress(sqlite3.Error):  # SQLite may have done so by itself
                connection.execute("ROLLBACK")
            raise

    def _connection(self) -> sqlite3.Connection:
        if self._open is not None and self._open.is_at(self.path):
            return self._open.connection
        self._let_go()
        opened = _Open(self.path, self)
        try:
            self._begin(opened.connection)
        except BaseException:
            opened.closing()
            raise
        self._open = opened
        return opened.connection

    def _begin(self, connection: sqlite3.Connection) -> None:
        if _is_empty(connection):
            # Readers and a writer do not wait for each other then; the file remembers it.
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            if _is_empty(connection):  # nobody else was quicker
                for table in self._schema.tables:
                    connection.execute(table)
                connection.execute(f"PRAGMA application_id = {self._schema.application_id}")
                connection.execute(f"PRAGMA user_version = {self._schema.version}")
            connection.execute("COMMIT")
        # Outlives the process, however it ends; a loss of power may cost the last changes, never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        # What is deleted is overwritten, and not only marked as free.
        connection.execute("PRAGMA secure_delete = ON").fetchone()
        self._check(connection)

    def _check(self, connection: sqlite3.Connection) -> None:
        schema = self._schema
        if connection.execute("PRAGMA application_id").fetchone() != (schema.application_id,):
            raise schema.error(self._text(f"it is an SQLite file, but no {schema.what}; give another path"))
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != schema.version:
            raise schema.error(
                self._text(
                    f"it is of version {version}, and this agentpool knows version {schema.version};"
                    " use the agentpool that made it, or another path"
                )
            )

    # -- what goes wrong ----------------------------------------------------------------------

    def _text(self, problem: str) -> str:
        return f"the {self._schema.what} {self.path} cannot be used: {problem}"

    def _error(self, error: sqlite3.Error) -> AgentPoolError:
        if str(error).startswith("no such module"):
            fix = (
                f"; the SQLite {sqlite3.sqlite_version} of this Python was built without it:"
                " use a Python whose SQLite has it, such as that of python.org, Debian or conda"
            )
        else:
            fix = self._fix(_code(error))
        return self._schema.error(self._text(f"{error}{fix}"))

    def _fix(self, code: int | None) -> str:
        match code:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return f"; another program held it for {BUSY_SECONDS:g} s: end that, or try again"
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
                return "; make room on the disk, then try again"
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return f"; make the file and {self.path.parent} writable, or give another path"
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                return "; it is damaged or no SQLite file: restore it, or give another path"
        return ""


class _Open:
    """An open connection, and the file that it was opened on.

    Attributes:
      connection: used by one thread at a time, but not always by the same.
      closing: closes the connection, once; called when its owner is gone too, and at the end of the process.
    """

    def __init__(self, path: Path, owner: SqliteFile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # For its owner alone from its first moment on; SQLite gives the files beside it the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600))
        self._file = os.stat(path)
        # `timeout` is 0, as `SqliteFile` waits, and hears meanwhile that its call was cancelled.
        self.connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
        )
        self.closing = weakref.finalize(owner, _close, self.connection)

    def is_at(self, path: Path) -> bool:
        """Whether the file is still there: what is written to one that was removed would be lost."""
        try:
            return os.path.samestat(self._file, os.stat(path))
        except FileNotFoundError:
            return False


def _close(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):  # what was written stays written
        connection.close()


def _is_empty(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,))


def _code(error: sqlite3.Error) -> int | None:
    """Return SQLite's number of an error, without what it says beyond the kind."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _like(error: OSError) -> int:
    """Return SQLite's number for what the operating system says."""
    return (
        sqlite3.SQLITE_FULL
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        else sqlite3.SQLITE_CANTOPEN
    )


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


# -- a call in a thread ------------------------------------------------------------------------


class _Stopped(Exception):
    """A call has ended early, as it was told to."""


class _Call(Generic[T]):
    """One call of a function in a thread, which is told to stop when its task is cancelled.

    Invariant: its task goes on only when the thread is done, so nobody else has the connection meanwhile.
    """

    def __init__(self, fn: Callable[[threading.Event], T]) -> None:
        self._fn = fn
        self._stop = threading.Event()
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._is_done = False
        self._waiter: trio.lowlevel.Task | None = None

    @trio.lowlevel.enable_ki_protection
    async def result(self) -> T:
        """Have it called, and return or raise what it does."""
        await trio.lowlevel.checkpoint_if_cancelled()
        cancelled: list[Callable[[], Any]] = []

        def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
            cancelled.append(raise_cancel)
            self._stop.set()
            return trio.lowlevel.Abort.FAILED  # until the thread is done

        await start_blocking(self._run, self._ended)
        if not self._is_done:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        if isinstance(self._error, _Stopped):
            cancelled[0]()
        if self._error is not None:
            raise self._error
        return self._value[0]  # it is complete, even if it was cancelled meanwhile

    def _run(self) -> None:
        try:
            self._value.append(self._fn(self._stop))
        except BaseException as error:  # raised where it is waited for
            self._error = error

    def _ended(self) -> None:
        self._is_done = True
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter)
