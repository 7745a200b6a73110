"""A picture in pieces: whoever is cut off between two of them knows in the end what all know."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import attrs
import pytest

from agentpool import AgentMessage, Completed
from agentpool._core import events as ev
from agentpool._core.picture import Picture
from agentpool._core.picture_data import changes_since
from agentpool._core.picture_pieces import pieces_since


@attrs.define(eq=False)
class Watcher:
    """Takes pieces in, as a page does."""

    version: int = 0
    rows: dict[int, Mapping[str, Any]] = attrs.field(factory=dict)
    told: dict[str, list[Any]] = attrs.field(factory=lambda: {"spans": [], "arrows": [], "notes": []})
    resets: int = 0

    def take(self, piece: Mapping[str, Any]) -> None:
        if piece.get("reset"):
            self.resets += 1
            self.rows.clear()
            for each in self.told.values():
                each.clear()
        for row in piece["agents"]:
            self.rows[row["id"]] = row
        for gone in piece["gone"]:
            self.rows.pop(gone, None)
        for name, each in self.told.items():
            each += piece[name]
        self.version = piece["version"]


def knows_all(watcher: Watcher, picture: Picture) -> None:
    whole = changes_since(picture, 0)
    assert watcher.version == picture.version
    assert [watcher.rows[each] for each in sorted(watcher.rows)] == sorted(
        whole["agents"], key=lambda row: row["id"]
    )
    for name, each in watcher.told.items():
        assert each == whole[name]


@attrs.define(eq=False)
class Run:
    """A run of agents that say things and end, told to a picture event by event."""

    random: Random
    picture: Picture = attrs.field(factory=Picture)
    alive: list[int] = attrs.field(factory=lambda: [0])
    seq: int = 0
    issued: int = 0

    def go_on(self, events: int) -> None:
        for _ in range(events):
            self.seq += 1
            self.picture.take(self._event(self.seq, self.seq * 0.01))

    def _event(self, seq: int, now: float) -> ev.Event:
        who, other = self.random.choice(self.alive), self.random.choice(self.alive)
        what = self.random.randrange(6) if who else 0
        if what == 1:
            return ev.AgentStarted(seq, now, who, 0)
        if what in (2, 3):
            return ev.MessageSent(seq, now, who, 0, AgentMessage(who, other, "x", seq))
        if what == 4:
            return ev.GuardWarned(seq, now, who, 0, "it repeats itself")
        if what == 5 and len(self.alive) > 5:
            self.alive.remove(who)
            outcome = Completed(agent_id=who, name="", parent_id=0, value=1)
            return ev.AgentFinished(seq, now, who, 0, outcome)
        self.issued += 1
        self.alive.append(self.issued)
        return ev.AgentSpawned(seq, now, self.issued, 0, f"agent {self.issued}")


@pytest.mark.parametrize("seed", range(40))
def test_wherever_a_watcher_is_cut_off_it_knows_all_in_the_end(seed: int) -> None:
    random = Random(seed)
    run, watcher = Run(random, Picture(ended_kept=10)), Watcher()
    for _ in range(60):
        run.go_on(random.randrange(30))
        before = watcher.version
        for piece in pieces_since(run.picture, watcher.version, random.choice([1, 2, 7, 500])):
            watcher.take(piece)
            run.go_on(random.randrange(3))  # the picture changes between two pieces
            if random.random() < 0.1:
                break
        assert watcher.version >= before
    for piece in pieces_since(run.picture, watcher.version, 2):
        watcher.take(piece)
    knows_all(watcher, run.picture)
    assert watcher.resets >= 1


def test_an_empty_picture_is_one_piece() -> None:
    [piece] = pieces_since(Picture(), 0)
    assert (piece["version"], piece["reset"], piece["agents"]) == (0, True, [])


def test_nothing_new_is_one_piece() -> None:
    run = Run(Random(1))
    run.go_on(20)
    [piece] = pieces_since(run.picture, run.picture.version)
    assert piece["version"] == run.picture.version
    assert "reset" not in piece
    assert not any(piece[name] for name in ("agents", "gone", "spans", "arrows", "notes"))


def test_as_much_as_a_piece_holds_is_one_piece() -> None:
    run = Run(Random(1))
    run.go_on(20)
    version = run.picture.version
    for text in ("one", "two"):
        run.picture.note(text)
    run.picture.take(ev.AgentSpawned(99, 9.0, 99, 0, "the last"))
    [piece] = pieces_since(run.picture, version, 2)
    assert ([note[2] for note in piece["notes"]], len(piece["agents"])) == (["one", "two"], 1)


def test_pieces_are_small_and_agents_come_in_the_order_of_their_spawns_and_before_their_spans() -> None:
    run = Run(Random(2))
    run.go_on(1_000)
    pieces = list(pieces_since(run.picture, 0, 10))
    assert len(pieces) > 20
    known: list[int] = []
    for number, piece in enumerate(pieces):
        assert all(len(piece[name]) <= 10 for name in ("agents", "spans", "arrows", "notes"))
        assert ("reset" in piece) == (number == 0)
        assert piece["version"] == (run.picture.version if piece is pieces[-1] else 0)
        known += [row["id"] for row in piece["agents"]]
        assert all(span[0] in known for span in piece["spans"])
    assert known == list(run.picture.rows)


def test_what_nobody_was_ever_told_is_taken_for_nothing() -> None:
    run = Run(Random(3))
    run.go_on(20)
    [piece] = pieces_since(run.picture, run.picture.version + 1)
    assert piece["reset"]
    assert len(piece["agents"]) == len(run.picture.rows)


def test_agents_that_went_while_nobody_told_of_them_have_everything_told_anew() -> None:
    run, watcher = Run(Random(4), Picture(ended_kept=2)), Watcher()
    run.go_on(50)
    for piece in pieces_since(run.picture, 0):
        watcher.take(piece)
    while run.picture.gone_before <= watcher.version:
        run.go_on(1)
    for piece in pieces_since(run.picture, watcher.version):
        watcher.take(piece)
    assert watcher.resets == 2
    knows_all(watcher, run.picture)
