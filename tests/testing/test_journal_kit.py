"""`check_journal` passes on journals that keep their promises, and sees those that do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from agentpool import JournalError
from agentpool._core.records import JournalRecord
from agentpool.abc import Journal
from agentpool.journal import SqliteJournal
from agentpool.testing import ConformanceError, check_journal


def sqlite(folder: Path, name: str, kind: type[SqliteJournal] = SqliteJournal) -> SqliteJournal:
    return kind(folder / f"{name}.db")


class Shelf:
    """Where journals in memory are kept, by name."""

    def __init__(self) -> None:
        self.kept: dict[str, list[JournalRecord]] = {}
        self.taken: set[str] = set()


class InMemoryJournal(Journal):
    """The smallest journal there is."""

    def __init__(self, shelf: Shelf, name: str) -> None:
        self.shelf = shelf
        self.name = name
        self.is_open = False

    async def open(self) -> Sequence[JournalRecord]:
        await trio.lowlevel.checkpoint()
        if self.name in self.shelf.taken:
            raise JournalError("it is in use")
        self.shelf.taken.add(self.name)
        self.is_open = True
        return tuple(self.shelf.kept.setdefault(self.name, []))

    def append(self, record: JournalRecord) -> None:
        data = json.loads(json.dumps(record.data, allow_nan=False))
        self.shelf.kept[self.name].append(attrs.evolve(record, data=data))

    async def commit(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        if self.is_open:
            self.shelf.taken.discard(self.name)
        self.is_open = False


async def test_the_journal_in_a_file_conforms(tmp_path: Path) -> None:
    await check_journal(partial(sqlite, tmp_path))


async def test_a_journal_in_memory_conforms() -> None:
    await check_journal(partial(InMemoryJournal, Shelf()), outlives_process=False)


# -- journals that break their promises ---------------------------------------------------------------


class Forgets(InMemoryJournal):
    def append(self, record: JournalRecord) -> None:
        if record.data.get("number") != 33:
            super().append(record)


class Swaps(InMemoryJournal):
    def append(self, record: JournalRecord) -> None:
        super().append(record)
        kept = self.shelf.kept[self.name]
        if len(kept) == 20:
            kept[-1], kept[-2] = kept[-2], kept[-1]


class KeepsReferences(InMemoryJournal):
    def append(self, record: JournalRecord) -> None:
        json.dumps(record.data, allow_nan=False)
        self.shelf.kept[self.name].append(record)


class TakesAnything(InMemoryJournal):
    def append(self, record: JournalRecord) -> None:
        self.shelf.kept[self.name].append(
            attrs.evolve(record, data=json.loads(json.dumps(record.data, default=str)))
        )


class KeepsCleanText(InMemoryJournal):
    def append(self, record: JournalRecord) -> None:
        text = (
            json.dumps(record.data, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace").decode()
        )
        super().append(attrs.evolve(record, data=json.loads(text)))


class ForgetsTheTime(InMemoryJournal):
    def append(self, record: JournalRecord) -> None:
        super().append(attrs.evolve(record, at=float(int(record.at))))


class IsShared(InMemoryJournal):
    async def open(self) -> Sequence[JournalRecord]:
        self.shelf.taken.discard(self.name)
        return await super().open()


class NeverCommits(InMemoryJournal):
    async def commit(self) -> None:
        if self.name == "concurrent":
            await trio.sleep_forever()


class LosesWhatWasCancelled(InMemoryJournal):
    """A commit that is cancelled takes its records with it."""

    def __init__(self, shelf: Shelf, name: str) -> None:
        super().__init__(shelf, name)
        self.waiting: list[JournalRecord] = []

    def append(self, record: JournalRecord) -> None:
        json.dumps(record.data, allow_nan=False)
        self.waiting.append(attrs.evolve(record, data=json.loads(json.dumps(record.data))))

    async def commit(self) -> None:
        rows, self.waiting = self.waiting, []
        await trio.lowlevel.checkpoint()
        self.shelf.kept[self.name] += rows

    async def aclose(self) -> None:
        if self.is_open:
            self.shelf.kept[self.name] += self.waiting
        await super().aclose()


class ForgetsAtTheEnd(LosesWhatWasCancelled):
    async def commit(self) -> None:
        self.shelf.kept[self.name] += self.waiting
        self.waiting = []

    async def aclose(self) -> None:
        self.waiting = []
        await super().aclose()


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        (Forgets, "records, and"),
        (Swaps, "was appended as"),
        (KeepsReferences, "changed"),
        (TakesAnything, "no JSON data"),
        (KeepsCleanText, "was appended as"),
        (ForgetsTheTime, "was appended as"),
        (IsShared, "a second one"),
        (NeverCommits, "did not end within"),
        (LosesWhatWasCancelled, "after commits side by side|after cancelled commits"),
        (ForgetsAtTheEnd, "changed|closed"),
    ],
)
async def test_a_journal_that_breaks_a_promise_is_seen(
    kind: Callable[..., Journal], seen: str, autojump_clock: Any
) -> None:
    with pytest.raises(ConformanceError, match=seen):
        await check_journal(partial(kind, Shelf()), outlives_process=False)


class SaysCommitted(SqliteJournal):
    """Says that records are kept that only `aclose` writes."""

    _is_closing = False

    async def commit(self) -> None:
        if self._is_closing:
            await super().commit()
        else:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._is_closing = True
        await super().aclose()


class LastFirst(SqliteJournal):
    """Writes what waits in an order of its own."""

    async def commit(self) -> None:
        self._rows.reverse()
        await super().commit()


@pytest.mark.parametrize(("kind", "seen"), [(SaysCommitted, "0 are left"), (LastFirst, "was appended as")])
async def test_a_file_that_breaks_a_promise_is_seen(tmp_path: Path, kind: Any, seen: str) -> None:
    with pytest.raises(ConformanceError, match=seen):
        await check_journal(partial(sqlite, tmp_path, kind=kind))
