"""The SQLite file of conversations: its tables, its transactions, and what its errors mean. All of it blocks.

Each call opens the file and closes it again: a turn of a conversation takes seconds, an opening takes less
than a millisecond, and nothing is held meanwhile that a fork, a thread or another process could break.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from agentpool._core.data import message_from_data, to_data
from agentpool._core.detection import KnownSecrets
from agentpool._core.errors import SessionConflictError, SessionError
from agentpool._core.messages import ChatMessage
from agentpool._core.redaction import Redaction
from agentpool._core.transcript import checked_history

SCHEMA_VERSION = 1
"""The form of the file; one of another version is refused, and never misread."""

_APPLICATION_ID = 0x61677332
_BUSY_SECONDS = 5.0
_TABLES = (
    """
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        created_at REAL NOT NULL,
        changed_at REAL NOT NULL
    )
    """,
    """
    CREATE TABLE messages (
        conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (conversation, position)
    ) WITHOUT ROWID
    """,
)
_LIST = """
SELECT name, (SELECT count(*) FROM messages WHERE conversation = id), created_at, changed_at
FROM conversations ORDER BY changed_at DESC, id DESC
"""


@attrs.frozen
class Conversation:
    """What a file of conversations tells of one.

    Attributes:
      name: its name.
      messages: how many messages it has.
      created_at, changed_at: seconds since 1970 at its first and its latest change.
    """

    name: str
    messages: int
    created_at: float
    changed_at: float


@attrs.frozen
class SessionFile:
    """Where the conversations are, and what must not get there."""

    path: Path
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)

    def conversations(self) -> tuple[Conversation, ...]:
        """Return what there is, the latest first."""
        with self._opened() as connection:
            return tuple(Conversation(*row) for row in connection.execute(_LIST))

    def history(self, name: str) -> tuple[ChatMessage, ...]:
        """Return a conversation's messages; none if there is no such conversation."""
        with self._opened() as connection:
            return self._messages(name, _rows(connection, name))

    def append(self, name: str, transcript: Sequence[ChatMessage]) -> int:
        """Add what a conversation does not hold yet; return how many messages that were."""
        data = list(map(to_data, transcript))
        clean = _redacted(data, KnownSecrets.of(self.secrets))
        with self._changing() as connection:
            held = [self._data(name, text) for text in _rows(connection, name)]
            new = clean[len(held) :]
            for index, old in enumerate(held[: len(clean)]):
                # What came out of the file, and what was kept in memory since: its secrets still stand there.
                if old != clean[index] and old != data[index]:
                    raise SessionConflictError(name, _conflict(len(held), index))
            if new:
                now = time.time()
                key = _key(connection, name)
                if key is None:
                    key = _create(connection, name, now)
                _insert(connection, key, len(held), new)
                connection.execute("UPDATE conversations SET changed_at = ? WHERE id = ?", (now, key))
            return len(new)

    def delete(self, name: str) -> bool:
        """Remove a conversation; return whether there was one."""
        with self._changing() as connection:
            return connection.execute("DELETE FROM conversations WHERE name = ?", (name,)).rowcount > 0

    def rename(self, name: str, new_name: str) -> None:
        """Give a conversation another name."""
        with self._changing() as connection:
            self._check_names(connection, name, new_name)
            connection.execute("UPDATE conversations SET name = ? WHERE name = ?", (new_name, name))

    def fork(self, name: str, new_name: str, messages: int | None) -> None:
        """Copy a conversation, or its beginning."""
        with self._changing() as connection:
            self._check_names(connection, name, new_name)
            rows = _rows(connection, name)[:messages]
            try:
                checked_history(self._messages(name, rows))
            except ValueError as error:
                raise ValueError(f"messages={messages} parts a tool call from its result: {error}") from error
            key = _create(connection, new_name, time.time())
            connection.executemany(_INSERT, [(key, position, text) for position, text in enumerate(rows)])

    # -- what is read -------------------------------------------------------------------------

    def _messages(self, name: str, rows: Iterable[str]) -> tuple[ChatMessage, ...]:
        try:
            return tuple(message_from_data(json.loads(text)) for text in rows)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"a message of {name!r} cannot be read: {error!r}") from error

    def _data(self, name: str, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._damaged(f"a message of {name!r} cannot be read: {error!r}") from error

    def _check_names(self, connection: sqlite3.Connection, name: str, new_name: str) -> None:
        if _key(connection, name) is None:
            raise SessionError(f"there is no conversation {name!r} in {self.path}")
        if _key(connection, new_name) is not None:
            raise SessionError(f"there is a conversation {new_name!r} in {self.path} already")

    # -- opening, and what goes wrong ---------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is kept, or nothing."""
        with self._opened() as connection:
            # At once: what was read first could be changed by another process before it is written.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # which may have done so by itself
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # For its owner alone from its first moment on; SQLite gives the files beside it the same mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600))
            with closing(self._connected()) as connection:
                self._begin(connection)
                yield connection
        except sqlite3.OperationalError as error:
            raise SessionError(f"{self.path}: {error}{_fix(self.path, error)}") from error
        except (sqlite3.DatabaseError, UnicodeError) as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise SessionError(f"{self.path}: {error.strerror or error}") from error

    def _connected(self) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)

    def _begin(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        if _is_empty(connection):
            _use_wal(connection)
            connection.execute("BEGIN IMMEDIATE")
            if _is_empty(connection):  # nobody else was quicker
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                for table in _TABLES:
                    connection.execute(table)
            connection.execute("COMMIT")
        if connection.execute("PRAGMA application_id").fetchone() != (_APPLICATION_ID,):
            raise SessionError(
                f"{self.path} is an SQLite file, but holds no conversations: give another file"
            )
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise SessionError(
                f"{self.path} is of version {version}, and this agentpool reads version {SCHEMA_VERSION}:"
                " use the agentpool that wrote it"
            )

    def _damaged(self, problem: str) -> SessionError:
        return SessionError(f"{self.path} holds no conversations, or is damaged: {problem}")


_INSERT = "INSERT INTO messages VALUES (?, ?, ?)"


def _use_wal(connection: sqlite3.Connection) -> None:
    """Let others read while one writes. The file remembers it."""
    give_up_at = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError:  # SQLite waits for others everywhere but here
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.005)


def _is_empty(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,))


def _key(connection: sqlite3.Connection, name: str) -> int | None:
    row = connection.execute("SELECT id FROM conversations WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def _rows(connection: sqlite3.Connection, name: str) -> list[str]:
    query = "SELECT data FROM messages WHERE conversation = ? ORDER BY position"
    return [text for (text,) in connection.execute(query, (_key(connection, name),))]


def _create(connection: sqlite3.Connection, name: str, now: float) -> int:
    query = "INSERT INTO conversations (name, created_at, changed_at) VALUES (?, ?, ?)"
    key = connection.execute(query, (name, now, now)).lastrowid
    assert key is not None
    return key


def _insert(connection: sqlite3.Connection, key: int, start: int, messages: Iterable[Any]) -> None:
    rows = [
        (key, position, json.dumps(data, ensure_ascii=True, separators=(",", ":")))
        for position, data in enumerate(messages, start)
    ]
    connection.executemany(_INSERT, rows)


def _redacted(messages: Iterable[Any], known: KnownSecrets) -> list[Any]:
    """Take the secrets out of messages.

    One after the other: what stands in a message may not depend on those that come after it, or a
    conversation would not begin the next transcript any more.
    """
    redaction = Redaction(known)
    return [_without_broken_signatures(data, redaction.data(data)) for data in messages]


def _without_broken_signatures(data: Any, clean: Any) -> Any:
    """Leave out what only the provider reads, if a secret was taken out of it: it is signed as a whole."""
    if clean == data:
        return clean
    kept = {name: item for name, item in clean.items() if name != "provider_data" or item == data[name]}
    if "tool_calls" in kept:
        pairs = zip(data["tool_calls"], clean["tool_calls"], strict=True)
        kept["tool_calls"] = [_without_broken_signatures(*pair) for pair in pairs]
    return kept


def _conflict(held: int, index: int) -> str:
    return (
        f"has {held} messages, and the transcript differs from its message {index}: somebody else went on"
        " with it, or it was not the history of this run. Append it under another name, or ask again with"
        " the newer history"
    )


def _fix(path: Path, error: sqlite3.OperationalError) -> str:
    match str(error):
        case "database or disk is full" | "disk I/O error":
            return "; make room on the disk"
        case "attempt to write a readonly database" | "unable to open database file":
            return f"; make {path.parent} and the file writable"
        case "database is locked":
            return f"; another program held it for {_BUSY_SECONDS:g} s"
    return ""
