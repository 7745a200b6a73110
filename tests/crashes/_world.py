"""The world outside: what a run did to it stays done, whatever becomes of the run."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from agentpool._core.records import JournalRecord
from agentpool.abc import Journal


class World:
    """Effects, in the order in which they happened; in a file too, so that they outlive a process.

    Each is a line: how often it may happen (`once`, `keyed`, `again`, `model`), and what it is.
    """

    def __init__(self, lines: Sequence[str] = (), path: Path | None = None) -> None:
        self.lines = list(lines)
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def do(self, what: str) -> None:
        """Have an effect."""
        self.lines.append(what)
        if self._file is not None:
            os.write(self._file, f"{what}\n".encode())

    def counted(self, how: str) -> Counter[str]:
        """Return the effects that may happen so often, without that word."""
        return Counter(line.partition(" ")[2] for line in self.lines if line.startswith(f"{how} "))

    @property
    def tokens(self) -> int:
        """What all model calls used in truth, also those whose answers were lost."""
        return sum(int(line.split()[1]) for line in self.lines if line.startswith("model "))


_world: list[World] = [World()]


def world() -> World:
    """Return the world of this run."""
    return _world[0]


def set_world(new: World) -> World:
    """Have the runs from now on in another world."""
    _world[0] = new
    return new


@attrs.frozen
class Boundary:
    """A moment between two writes.

    Attributes:
      appended: how many records there are.
      committed: how many of them a crash leaves at the least.
      effects: how many effects the world had seen.
    """

    appended: int
    committed: int
    effects: int


class Tape(Journal):
    """A journal in memory, as JSON, which notes for each moment what a crash would leave.

    A crash is not made: whatever a process does after it is not looked at. So one run stands for a crash
    at each of its boundaries.
    """

    def __init__(self, kept: Sequence[JournalRecord] = ()) -> None:
        self.kept = list(kept)
        self.given = len(self.kept)
        self.committed = len(self.kept)
        self.boundaries: list[Boundary] = []

    def __repr__(self) -> str:
        return "Tape()"

    async def open(self) -> Sequence[JournalRecord]:
        await trio.lowlevel.checkpoint()
        return tuple(self.kept)

    def append(self, record: JournalRecord) -> None:
        self.mark()
        data = json.loads(json.dumps(record.data, allow_nan=False))
        self.kept.append(JournalRecord(record.kind, record.agent, data, record.at))

    def mark(self) -> None:
        """Note what a crash would leave here."""
        self.boundaries.append(Boundary(len(self.kept), self.committed, len(world().lines)))

    async def commit(self) -> None:
        target = len(self.kept)
        await trio.lowlevel.checkpoint()
        self.committed = max(self.committed, target)
        self.mark()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.committed = len(self.kept)


def plain(value: Any) -> Any:
    """Return a value as something that compares: exceptions by class and text."""
    match value:
        case BaseExceptionGroup():
            return [type(value).__name__, sorted(map(str, map(plain, value.exceptions)))]
        case BaseException():
            return [type(value).__name__, str(value)]
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return value
