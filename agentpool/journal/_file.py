"""A journal's SQLite file: its tables, its checks, and what its errors mean. All of it blocks."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias, get_args

import attrs

from agentpool._core.detection import KnownSecrets, spans_of
from agentpool._core.errors import JournalCorruptError, JournalError
from agentpool._core.records import SCHEMA_VERSION, JournalRecord, RecordKind
from agentpool._core.redaction import Redaction
from agentpool._locks import try_lock, unlock

Row: TypeAlias = tuple[float, int, str, str]
"""A record as it is written: when, of which agent, its kind, its data as JSON."""

_APPLICATION_ID = 0x61677031
_BUSY_SECONDS = 5.0
_ROWS_AT_ONCE = 150  # six values each, of which an old SQLite takes 999 in one statement
_SECRETS_REMEMBERED = 100  # a look for them takes the longer the more they are
_ROW = "(?, ?, ?, ?, ?, ?)"
_FIRST_SUM = b"agentpool journal"
_KINDS = frozenset(get_args(RecordKind))
_TABLE = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    agent INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    sum BLOB NOT NULL
)
"""


def row_of(record: JournalRecord) -> Row:
    """Return a record as it is written.

    Raises:
      TypeError, ValueError, RecursionError: if its data is no JSON data.
    """
    return float(record.at), record.agent, record.kind, _text_of(record.data)


# Of data that holds itself it makes a RecursionError, sooner than it would look for that in all data.
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


def _text_of(data: Any) -> str:
    return _ENCODER.encode(data)


@attrs.frozen
class _End:
    """The last row: how many there are, and the sum over all of them."""

    seq: int = 0
    sum: bytes = _FIRST_SUM

    def after(self, row: Row) -> _End:
        at, agent, kind, data = row
        text = f"{self.seq + 1}\0{at!r}\0{agent}\0{kind}\0{data}"
        return _End(self.seq + 1, blake2b(text.encode(), digest_size=16, key=self.sum).digest())


class JournalFile:
    """A journal that is open for writing; nobody else writes to it meanwhile."""

    def __init__(self, path: Path, *, is_durable: bool, secrets: Iterable[str] = ()) -> None:
        """Open or create the file.

        Args:
          path: where it is.
          secrets: texts that must not get into it, beside those that are found.
          is_durable: whether a commit waits until the disk has it, so that it outlives the machine.

        Raises:
          JournalError: if another process writes to it, or it cannot be opened.
          JournalCorruptError: if what it holds is not what was written.
        """
        # One file has one lock, through whatever links it is reached and wherever the process goes.
        self.path = path = Path(os.path.realpath(path))
        self._given = tuple(secrets)
        # Replaced as a whole, by the thread that writes: others look at it meanwhile.
        self.secrets: Sequence[str] = self._given
        self._secrets = KnownSecrets.of(self._given)
        self._found: dict[str, None] = {}
        self._process = os.getpid()
        self._lock = _WriterLock(path)
        try:
            with _told(path, "opened"):
                self._file = _created(path)
                self._connection = _connected(path, "rw")
            try:
                self.records, self._end = self._begun(is_durable)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def _begun(self, is_durable: bool) -> tuple[Sequence[JournalRecord], _End]:
        with _told(self.path, "opened"):
            is_empty = _is_empty(self._connection)
            if not is_empty:  # nothing is changed in a file that is another's
                _check_version(self._connection, self.path)
            self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            if is_empty:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                self._connection.execute(_TABLE)
                self._connection.execute("COMMIT")
        with _told(self.path, "read"):
            return _read(self._connection, self.path)

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows after those that are there. What is kept of them, if it fails, is a beginning.

        Raises:
          JournalError: if they could not all be written.
        """
        self._check_place()
        rows = self._clean(rows)
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            self._insert(rows[first : first + _ROWS_AT_ONCE])

    def _check_place(self) -> None:
        """Check that what is written will be found."""
        if os.getpid() != self._process:
            raise JournalError(
                f"the journal {self.path} was opened by process {self._process}: a fork of it may not write"
            )
        try:
            is_there = os.path.samestat(os.stat(self.path), self._file)
        except OSError:
            is_there = False
        if not is_there:
            raise JournalError(f"the journal {self.path} was deleted or replaced while it was written")

    def _insert(self, rows: Sequence[Row]) -> None:
        end, given = self._end, list[Any]()
        for row in rows:
            end = end.after(row)
            given += (end.seq, *row, end.sum)
        with _told(self.path, "written"):
            # One statement is one transaction. And it lets go of the interpreter's lock once, where
            # one for each row would do so for each, and wait each time to have it back.
            self._connection.execute(
                f"INSERT INTO records VALUES {_ROW}{f',{_ROW}' * (len(rows) - 1)}", given
            )
        self._end = end

    def _clean(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Take the secrets out of rows."""
        # Most have none, as one look at all of them shows. A row is `{...}`, and what is no row stands
        # between two of them, so that what is found in one alone is found in all of them too.
        if self._may_hold_secrets("\n".join([row[3] for row in rows])):
            return [self._clean_row(row) for row in rows]
        return rows

    def _clean_row(self, row: Row) -> Row:
        if not self._may_hold_secrets(row[3]):
            return row
        redaction = Redaction(self._secrets)
        data = redaction.data(json.loads(row[3]))
        self._remember(redaction.secrets)
        return (*row[:3], _text_of(data))

    def _remember(self, secrets: Iterable[str]) -> None:
        """Know secrets from now on, wherever they stand: the next record may not say what they are."""
        new = [each for each in secrets if each not in self._found]
        if new:
            self._found.update(dict.fromkeys(new))
            for oldest in list(self._found)[:-_SECRETS_REMEMBERED]:
                del self._found[oldest]
            self.secrets = (*self._given, *self._found)
            self._secrets = KnownSecrets.of(self.secrets)

    def _may_hold_secrets(self, text: str) -> bool:
        # Bytes are not seen by that.
        return '"$bytes"' in text or any(self._secrets.spans(text)) or any(spans_of(text))

    def close(self) -> None:
        """Let the file go. What was written stays written, whatever goes wrong here."""
        if os.getpid() != self._process:
            return  # it is the other's, and so are its locks
        with suppress(sqlite3.Error):
            # So that whoever reads it next needs no files beside it, and may not even write there.
            self._connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        with suppress(sqlite3.Error):
            self._connection.close()
        self._lock.release()


def read_journal(path: str | os.PathLike[str]) -> Sequence[JournalRecord]:
    """Return the records of a journal, also of one that is being written. Blocks on the disk.

    Raises:
      FileNotFoundError: if there is no such file.
      JournalCorruptError: if it is no journal, or what it holds is not what was written.
      JournalError: if it cannot be read, or is of a newer version.
    """
    where = Path(path)
    if not where.is_file():
        raise FileNotFoundError(f"there is no journal {where}")
    with _told(where, "read"):
        try:
            return _read_by(where, "ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                raise
            # Its writer died while it opened or closed it: what that left has to be taken back first.
            return _read_by(where, "rw")


def _read_by(path: Path, mode: str) -> Sequence[JournalRecord]:
    with closing(_connected(path, mode)) as connection:
        return () if _is_empty(connection) else _read(connection, path)[0]


def _read(connection: sqlite3.Connection, path: Path) -> tuple[Sequence[JournalRecord], _End]:
    _check_version(connection, path)
    records, end = [], _End()
    for seq, at, agent, kind, data, found in connection.execute(
        "SELECT seq, at, agent, kind, data, sum FROM records ORDER BY seq"
    ):
        end = end.after((at, agent, kind, data))
        if (seq, found) != (end.seq, end.sum):
            raise _corrupt(path, f"record {end.seq} is not as it was written")
        records.append(_record_of(path, seq, at, agent, kind, data))
    return tuple(records), end


def _record_of(path: Path, seq: int, at: float, agent: int, kind: Any, data: str) -> JournalRecord:
    if kind not in _KINDS:
        raise _corrupt(path, f"record {seq} has the kind {kind!r}, which is not known")
    return JournalRecord(kind, agent, json.loads(data), at)


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA application_id").fetchone() != (_APPLICATION_ID,):
        raise _corrupt(path, "it is an SQLite file, but no journal")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise JournalError(
            f"{path} is a journal of version {version}, and this agentpool reads version {SCHEMA_VERSION}:"
            " use the agentpool that wrote it"
        )


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever written: also if a process died between creating and beginning it."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    # The table and these were written together: a file that has lost its table is damaged, and not new.
    (marked,) = connection.execute("PRAGMA application_id").fetchone()
    return not tables and not marked


def _created(path: Path) -> os.stat_result:
    """Create the file for its owner alone, or leave one that is there as it is; return which one it is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    # Used by one thread at a time, but not always by the same.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    # What is no UTF-8 is damage, which the sums show.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return connection


# -- what goes wrong ---------------------------------------------------------------------------


@contextmanager
def _told(path: Path, done: str) -> Iterator[None]:
    """Say what an error of SQLite, or of the disk, means for the journal."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_ERROR:
            raise _corrupt(path, str(error)) from error  # its tables are not those that were made
        raise JournalError(f"the journal {path} cannot be {done}: {error}{_fix(path, error)}") from error
    except (sqlite3.DatabaseError, UnicodeError, ValueError, TypeError) as error:
        raise _corrupt(path, str(error)) from error
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be {done}: {error}") from error


def _fix(path: Path, error: sqlite3.OperationalError) -> str:
    match str(error):
        case "database or disk is full" | "disk I/O error":
            return "; make room on the disk, then resume the run"
        case "attempt to write a readonly database" | "unable to open database file":
            return f"; make {path.parent} and the file writable"
        case "database is locked":
            return f"; another program held it for {_BUSY_SECONDS:g} s"
    return ""


def _corrupt(path: Path, problem: str) -> JournalCorruptError:
    return JournalCorruptError(f"the journal {path} is damaged: {problem}")


# -- one writer ----------------------------------------------------------------------------------


class _WriterLock:
    """A file beside the journal, locked by who writes.

    Not the journal itself: SQLite's own locks on it would be lost when this one's file is closed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-lock")
        with _told(path, "opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise JournalError(f"{path} is no file, and cannot hold a journal")
            self._file = self._taken(path)

    def _taken(self, path: Path) -> FileIO:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
            file = FileIO(descriptor, "r+")
            if not try_lock(file):
                file.close()
                raise JournalError(f"another process writes to the journal {path}: wait for its end")
            if self._is_there(file):
                return file
            file.close()  # who had it took it away meanwhile

    def _is_there(self, file: FileIO) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        with suppress(OSError):
            os.unlink(self._path)
        with suppress(OSError):
            unlock(self._file)
        self._file.close()
