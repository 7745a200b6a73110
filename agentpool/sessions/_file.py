"""The tables of conversations, and what is done with them. All of it blocks."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from agentpool._core.data import message_from_data, to_data
from agentpool._core.detection import KnownSecrets
from agentpool._core.errors import SessionConflictError, SessionError
from agentpool._core.messages import ChatMessage
from agentpool._core.redaction import Redaction
from agentpool._core.transcript import checked_history
from agentpool._sqlite import Schema

SCHEMA = Schema(
    what="file of conversations",
    application_id=0x61677332,
    version=1,
    tables=(
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
            conversation INTEGER NOT NULL,
            position INTEGER NOT NULL,
            data TEXT NOT NULL,
            PRIMARY KEY (conversation, position)
        ) WITHOUT ROWID
        """,
    ),
    error=SessionError,
)
_INSERT = "INSERT INTO messages VALUES (?, ?, ?)"
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
class Conversations:
    """What is done with the conversations of a file, each a transaction of a connection.

    Attributes:
      secrets: what must not get there, beside what is found.
    """

    secrets: tuple[str, ...] = attrs.field(repr=False)

    def conversations(self, connection: sqlite3.Connection) -> tuple[Conversation, ...]:
        """Return what there is, the latest first."""
        return tuple(Conversation(*row) for row in connection.execute(_LIST))

    def history(self, name: str, connection: sqlite3.Connection) -> tuple[ChatMessage, ...]:
        """Return a conversation's messages; none if there is no such conversation."""
        return _messages(name, _rows(connection, name))

    def append(self, name: str, transcript: Sequence[ChatMessage], connection: sqlite3.Connection) -> int:
        """Add what a conversation does not hold yet; return how many messages that were."""
        data = list(map(to_data, transcript))
        clean = _redacted(data, KnownSecrets.of(self.secrets))  # with those of the environment now
        held = [_data(name, text) for text in _rows(connection, name)]
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

    def delete(self, name: str, connection: sqlite3.Connection) -> bool:
        """Remove a conversation; return whether there was one."""
        key = _key(connection, name)
        connection.execute("DELETE FROM messages WHERE conversation = ?", (key,))
        connection.execute("DELETE FROM conversations WHERE id = ?", (key,))
        return key is not None

    def rename(self, name: str, new_name: str, connection: sqlite3.Connection) -> None:
        """Give a conversation another name."""
        _check_names(connection, name, new_name)
        connection.execute("UPDATE conversations SET name = ? WHERE name = ?", (new_name, name))

    def fork(self, name: str, new_name: str, messages: int | None, connection: sqlite3.Connection) -> None:
        """Copy a conversation, or its beginning."""
        _check_names(connection, name, new_name)
        rows = _rows(connection, name)[:messages]
        try:
            checked_history(_messages(name, rows))
        except ValueError as error:
            raise ValueError(f"messages={messages} parts a tool call from its result: {error}") from error
        key = _create(connection, new_name, time.time())
        connection.executemany(_INSERT, [(key, position, text) for position, text in enumerate(rows)])


# -- the rows -------------------------------------------------------------------------------------


def _messages(name: str, rows: Iterable[str]) -> tuple[ChatMessage, ...]:
    try:
        return tuple(message_from_data(json.loads(text)) for text in rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SessionError(f"a message of the conversation {name!r} cannot be read: {error!r}") from error


def _data(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SessionError(f"a message of the conversation {name!r} cannot be read: {error!r}") from error


def _check_names(connection: sqlite3.Connection, name: str, new_name: str) -> None:
    if _key(connection, name) is None:
        raise SessionError(f"there is no conversation {name!r}")
    if _key(connection, new_name) is not None:
        raise SessionError(f"there is a conversation {new_name!r} already")


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
