"""A memory in an SQLite file."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from agentpool._core.detection import KnownSecrets
from agentpool._core.errors import MemoryFileError
from agentpool._core.messages import AgentId
from agentpool._core.redaction import Redaction
from agentpool._core.text import encodable, shown
from agentpool._sqlite import Schema, SqliteFile
from agentpool.abc import MemoryFragment, NamespacedMemory
from agentpool.memory._checks import checked_limit, checked_trust
from agentpool.memory._words import phrases_of, words_of

_SCHEMA = Schema(
    what="memory",
    application_id=0x61677033,
    version=1,
    tables=(
        """
        CREATE TABLE fragments (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            namespace TEXT NOT NULL,
            content TEXT NOT NULL,
            source TEXT NOT NULL,
            agent_id INTEGER NOT NULL,
            created_at REAL NOT NULL,
            origin TEXT NOT NULL,
            trust REAL NOT NULL
        )
        """,
        # The words of each fragment with spaces between them, as `words_of` finds them: what is a word is
        # decided in one place, for texts and queries. This tokenizer only splits them again.
        """CREATE VIRTUAL TABLE words USING fts5(text, tokenize = "ascii tokenchars '_'")""",
        """
        CREATE TABLE entries (
            namespace TEXT NOT NULL,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (namespace, key)
        ) WITHOUT ROWID
        """,
    ),
    error=MemoryFileError,
)
_RECALL = """
SELECT f.id, f.content, f.source, f.agent_id, f.created_at, best.score, f.namespace, f.origin, f.trust
FROM (
    SELECT fragments.id AS id, bm25(words) AS score, created_at
    FROM words JOIN fragments ON fragments.id = words.rowid
    WHERE words MATCH :words AND namespace = :namespace AND trust >= :trust
        AND (:source IS NULL OR source = :source)
        AND (:agent_id IS NULL OR agent_id = :agent_id)
        AND (:since IS NULL OR created_at >= :since)
    ORDER BY score, created_at DESC, id DESC LIMIT :limit
) AS best JOIN fragments AS f ON f.id = best.id
ORDER BY best.score, best.created_at DESC, best.id DESC
"""
_HUGE = 2**63 - 1  # SQLite's greatest number


class SqliteMemory(NamespacedMemory):
    """Keeps texts and values in an SQLite file, which outlives the process and which others may share.

    What is recalled has at least one word of the query, best first by BM25: rare words count more than
    common ones, and short texts more than long ones; the most recent comes first among equals. A query is
    text and never syntax. Words are letters, digits and `_` of any script, without regard to case and
    accents; Chinese, Japanese, Thai and other text without spaces is found by any two neighbouring
    characters. `relevance` is the score as a share of the best one's, which is 1: it compares the fragments
    of one recall, and says nothing across them.

    The file is opened when it is first used, and let go by `aclose`, `async with`, or the end of the
    process. Each call is a transaction in a thread; the calls of one object follow each other. Any number
    of processes may use the file at a time. Secrets are taken out before anything is written.

    Use one object in one `trio.run` at a time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.time,
        secrets: Iterable[str] = (),
    ) -> None:
        """Say where the memory is; nothing is opened yet.

        Args:
          path: the file; it is created for its owner alone (0600), with its folder.
          clock: gives `created_at`; seconds since 1970 by default, which all processes share.
          secrets: texts that never reach the file, beside the secrets of the environment and what looks
            like one.

        Raises:
          ValueError: if the path is no file's, such as `:memory:`.
        """
        self._file = SqliteFile(path, _SCHEMA)
        self._clock = clock
        self._secrets = tuple(secrets)
        self._namespace = ""

    def __repr__(self) -> str:
        inner = f", namespace {self._namespace!r}" if self._namespace else ""
        return f"<SqliteMemory: {str(self._file.path)!r}{inner}>"

    async def __aenter__(self) -> SqliteMemory:
        """Have the file open, so that what is wrong with it is seen at once.

        Raises:
          MemoryFileError: if it cannot be opened, or is no memory.
        """
        await self._file.call(lambda connection: None, writes=False)
        return self

    async def __aexit__(self, *args: object) -> None:
        """Let the file go."""
        await self.aclose()

    async def aclose(self) -> None:
        """Let the file go; the next call opens it again. Harmless if it is not open.

        Checkpoint: always. Cancellation: does not stop it.
        """
        await self._file.aclose()

    def namespace(self, name: str) -> SqliteMemory:
        """Return the memory of this name in the same file; `""` is the shared one, which has no name.

        Raises:
          ValueError: if the name has half an emoji, and cannot be written.
        """
        if encodable(name) != name:
            raise ValueError(f"the namespace {name!r} is no text that can be encoded")
        inner = SqliteMemory.__new__(SqliteMemory)
        inner.__dict__ |= self.__dict__
        inner._namespace = name
        return inner

    async def remember(
        self,
        content: str,
        *,
        source: str = "user",
        agent_id: AgentId = 0,
        origin: str = "",
        trust: float | None = None,
    ) -> int:
        """Keep a text, and return the id of the new fragment; none of the file has it twice.

        Args:
          content: the text; half an emoji in it is kept as U+FFFD, a secret as `[redacted-1]`.
          source: what kind of thing it is.
          agent_id: which agent remembers it.
          origin: where it comes from, such as an address, a file, or a run.
          trust: how far it is to be believed, from 0 to 1; 1 if the source is `user`, else 0.5, if left out.

        Raises:
          ValueError: if `trust` is not from 0 to 1.
          MemoryFileError: if it cannot be written.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was kept.
        """
        trust = checked_trust(trust, source)
        now = self._clock()

        def work(connection: sqlite3.Connection) -> int:
            clean = [encodable(text) for text in self._clean([content, source, origin])]
            fragment = (self._namespace, clean[0], clean[1], agent_id, now, clean[2], trust)
            insert = "INSERT INTO fragments VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)"
            fragment_id = cast(int, connection.execute(insert, fragment).lastrowid)
            words = " ".join(words_of(clean[0]))
            connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (fragment_id, words))
            return fragment_id

        return await self._file.call(work, writes=True)

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        source: str | None = None,
        agent_id: AgentId | None = None,
        since: float | None = None,
        min_trust: float = 0.0,
    ) -> tuple[MemoryFragment, ...]:
        """Return the fragments that have words of the query, best first.

        Args:
          query: words to look for; any text. A query without words finds nothing.
          limit: how many fragments at the most.
          source: only fragments of this source.
          agent_id: only fragments of this agent.
          since: only fragments created at this time (seconds on the memory's clock) or later.
          min_trust: only fragments that are to be believed at least so far.

        Raises:
          ValueError: if `limit` is negative.
          MemoryFileError: if the file cannot be read.

        Checkpoint: always. Cancellation: interrupts the query.
        """
        limit = checked_limit(limit)

        def work(connection: sqlite3.Connection) -> Sequence[tuple[Any, ...]]:
            phrases = phrases_of(query)
            if not phrases:
                return ()
            wanted = {
                "words": " OR ".join(f'"{phrase}"' for phrase in phrases),
                "namespace": self._namespace,
                "trust": min_trust,
                "source": None if source is None else encodable(source),
                "agent_id": agent_id,
                "since": since,
                "limit": min(limit, _HUGE),
            }
            return connection.execute(_RECALL, wanted).fetchall()

        rows = await self._file.call(work, writes=False)
        return tuple(_fragment(rows[0][5], *row) for row in rows)

    async def set(self, key: str, value: Any) -> None:
        """Keep a value under a key, in the place of what was there.

        Args:
          key: any text.
          value: JSON data: a dict with texts as keys, a list, a text, a number, a boolean or None. Secrets
            in it are kept as `[redacted-1]`.

        Raises:
          TypeError: if the value is not JSON data, and would come back as something else.
          ValueError: if the key holds a secret.
          MemoryFileError: if it cannot be written.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was kept.
        """
        _check_json(key, value)

        def work(connection: sqlite3.Connection) -> None:
            # With its key: what stands under `api_key` is a secret, whatever it looks like.
            ((name, clean),) = self._clean({key: value}).items()
            if name != key:
                raise ValueError(f"the key {name!r} holds a secret, which must not reach the file")
            row = (self._namespace, _name(key), json.dumps(clean))
            connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", row)

        await self._file.call(work, writes=True)

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value under a key, or `default`.

        Raises:
          MemoryFileError: if the file cannot be read.

        Checkpoint: always.
        """
        select = "SELECT value FROM entries WHERE namespace = ? AND key = ?"

        def work(connection: sqlite3.Connection) -> list[str]:
            return [text for (text,) in connection.execute(select, (self._namespace, _name(key)))]

        found = await self._file.call(work, writes=False)
        return json.loads(found[0]) if found else default

    async def forget(self, fragment_id: int) -> bool:
        """Drop a fragment of this namespace; return whether there was one.

        Raises:
          MemoryFileError: if it cannot be written.

        Checkpoint: always. Cancellation: atomic; `Cancelled` means that nothing was dropped.
        """

        def work(connection: sqlite3.Connection) -> bool:
            delete = "DELETE FROM fragments WHERE id = ? AND namespace = ?"
            if connection.execute(delete, (fragment_id, self._namespace)).rowcount == 0:
                return False
            connection.execute("DELETE FROM words WHERE rowid = ?", (fragment_id,))
            return True

        return abs(fragment_id) <= _HUGE and await self._file.call(work, writes=True)

    def _clean(self, data: Any) -> Any:
        return Redaction(KnownSecrets.of(self._secrets)).data(data)


def _fragment(
    best: float,
    fragment_id: int,
    content: str,
    source: str,
    agent_id: AgentId,
    created_at: float,
    score: float,
    namespace: str,
    origin: str,
    trust: float,
) -> MemoryFragment:
    # Not the score itself: it has no upper end, and in a small memory all are close to 0.
    return MemoryFragment(
        fragment_id, content, source, agent_id, created_at, score / best, namespace, origin, trust
    )


def _name(key: str) -> str:
    """Return a key as a text that SQLite takes: with `\\u0000` and half an emoji written out."""
    return json.dumps(key)


def _check_json(key: str, value: Any) -> None:
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the value of {key!r} is no JSON data: {error}") from error
    if not same:
        raise TypeError(f"the value of {key!r} would come back as something else: {shown(value)}")
