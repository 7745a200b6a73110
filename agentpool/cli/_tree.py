"""Which agents are seen where there is no room for all: a tree, and below each parent the rest in one line.

What is most worth seeing has a line of its own: who needs a person, who is stuck, who failed lately, who
works, each below the agents it descends from. An agent that was seen keeps its line for some seconds after
it has begun to wait or has ended, so that lines do not come and go with every call.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import attrs

from agentpool._core.messages import AgentId
from agentpool._core.picture import AgentRow, Picture
from agentpool.cli._sums import standing_of

HELD = 5.0
"""Seconds for which an agent keeps its line when others are more worth seeing."""
LATELY = 20.0
"""For so many seconds a failure is more worth seeing than work."""

# How much an agent is worth seeing; less is more.
ASKS, STUCK, FAILED, WORKS, JUST_ENDED, WAITS, STARTS, ENDED_BADLY, ENDED = range(9)
_NEWS = (ASKS, STUCK, FAILED)


@attrs.frozen
class Branch:
    """Where a line stands in the tree.

    Attributes:
      lasts: for each level below the first, whether nothing follows there below the same parent.
    """

    lasts: tuple[bool, ...]


@attrs.frozen
class Shown(Branch):
    """An agent with a line of its own.

    Attributes:
      row: the agent.
      is_torn: whether some of those between it and the line above have no line.
      has_below: whether lines below it belong to it.
    """

    row: AgentRow
    is_torn: bool = False
    has_below: bool = False


@attrs.frozen
class Folded(Branch):
    """Those below an agent, or at the top, that have no line of their own.

    Attributes:
      counts: how many of them are at what.
      tokens, cost_usd: what they have used.
    """

    counts: Mapping[str, int]
    tokens: int
    cost_usd: float


Line: TypeAlias = Shown | Folded


def worth_of(row: AgentRow, was_seen: bool, now: float) -> int:
    """Return how much an agent is worth seeing."""
    if row.ended_at is not None:
        ago = now - row.ended_at
        if row.state == "failed" and ago < LATELY:
            return FAILED
        if was_seen and ago < HELD:
            return JUST_ENDED
        return ENDED if row.state == "completed" else ENDED_BADLY
    if row.asking:
        return ASKS
    if row.is_stuck:
        return STUCK
    if row.kind == "waiting":
        return WORKS if was_seen and now - row.since < HELD else WAITS
    return STARTS if row.kind == "starting" else WORKS


def tree_of(picture: Picture, most: int, seen: Collection[AgentId], now: float) -> Sequence[Line]:
    """Return at most so many lines, agents in the order of their spawns below their parents.

    Args:
      picture: of the run.
      most: how many lines there may be; at least one.
      seen: the agents that had a line before this.
      now: on trio's clock.
    """
    rows = picture.rows
    if len(rows) <= most:
        return _lines(picture, rows.keys(), {})
    chosen = _chosen(picture, most, seen, now)
    # In a single line an agent is worth more than the number of the others.
    return _lines(picture, chosen, _folded(picture, chosen) if most > 1 else {})


# -- who is seen -------------------------------------------------------------------------


def _by_worth(
    picture: Picture, most: int, seen: Collection[AgentId], now: float
) -> Iterator[tuple[AgentRow, int]]:
    """Yield the agents that are most worth seeing first; among equals those that were seen, then the older.

    Each comes with the number of lines up to which it is taken: news fill half of the room at first,
    failures a third, so that those who work are seen too.
    """
    kinds: list[tuple[list[AgentRow], list[AgentRow]]] = [([], []) for _ in range(ENDED + 1)]
    for row in picture.rows.values():
        was_seen = row.id in seen
        kinds[worth_of(row, was_seen, now)][not was_seen].append(row)
    later: list[AgentRow] = []
    for worth, (were_seen, others) in enumerate(kinds):
        if worth >= ENDED_BADLY:
            both = heapq.nlargest(most, [*were_seen, *others], key=lambda row: row.ended_at or 0.0)
        else:
            both = [*were_seen, *others[:most]]
        if worth in _NEWS:
            later += both
        lines = most if worth not in _NEWS else max(2, most // (3 if worth == FAILED else 2))
        yield from ((row, lines) for row in both)
        if worth == WORKS:
            yield from ((row, most) for row in later)


@attrs.define(eq=False)
class _Room:
    """Counts the lines that agents take together with the lines of those that are folded below them."""

    picture: Picture
    tops: int
    has_folds: bool
    ids: set[AgentId] = attrs.field(factory=set)
    lines: int = 0
    _below: Counter[AgentId] = attrs.field(factory=Counter)

    @classmethod
    def empty(cls, picture: Picture, *, has_folds: bool) -> _Room:
        # An agent whose parent is not known stands at the top.
        tops = sum(row.parent not in picture.rows for row in picture.rows.values())
        return cls(picture, tops, has_folds, lines=int(has_folds))

    def add(self, row: AgentRow) -> None:
        parent = self._parent(row)
        before = self._folds(parent)
        self.ids.add(row.id)
        self._below[parent] += 1
        self.lines += 1 + self._folds(row.id) + self._folds(parent) - before

    def remove(self, row: AgentRow) -> None:
        parent = self._parent(row)
        before = self._folds(row.id) + self._folds(parent)
        self.ids.discard(row.id)
        self._below[parent] -= 1
        self.lines -= 1 + before - self._folds(parent)

    def hidden_below(self, agent_id: AgentId) -> int:
        """Return how many of an agent's own children have no line."""
        return len(self.picture.children.get(agent_id, ())) - self._below[agent_id]

    def _parent(self, row: AgentRow) -> AgentId:
        return row.parent if row.parent in self.picture.rows else 0

    def _folds(self, agent_id: AgentId) -> bool:
        if agent_id == 0:
            return self.has_folds and self._below[0] < self.tops
        return self.has_folds and agent_id in self.ids and self.hidden_below(agent_id) > 0


def _chosen(picture: Picture, most: int, seen: Collection[AgentId], now: float) -> Collection[AgentId]:
    room = _Room.empty(picture, has_folds=most > 1)
    refused = 0
    for row, lines in _by_worth(picture, most, seen, now):
        if room.lines >= most or refused > 2 * most:
            break
        if row.id in room.ids or room.lines >= lines:
            continue
        chain = _chain(picture, row, room.ids)[: max(1, most // 2)]
        # News and whoever comes first are seen without those above them, if there is no room for all.
        alone = [row] if lines < most or not room.ids else chain
        if not (_add_if_it_fits(room, chain, most) or _add_if_it_fits(room, alone, most)):
            refused += 1
    _fill_single(room, most)
    return room.ids


def _chain(picture: Picture, row: AgentRow, ids: Collection[AgentId]) -> Sequence[AgentRow]:
    """Return an agent and those above it that have no line yet, from the bottom."""
    chain: list[AgentRow] = []
    at: AgentRow | None = row
    while at is not None and at.id not in ids:
        chain.append(at)
        at = picture.rows.get(at.parent)
    return chain


def _add_if_it_fits(room: _Room, chain: Sequence[AgentRow], most: int) -> bool:
    for row in reversed(chain):
        room.add(row)
    if room.lines <= most:
        return True
    for row in chain:
        room.remove(row)
    return False


def _fill_single(room: _Room, most: int) -> None:
    """Have a single agent that would be folded seen instead: it takes no more room."""
    for parent in [0, *room.ids]:
        if room.hidden_below(parent) == 1:
            (left,) = (each for each in room.picture.children[parent] if each not in room.ids)
            _add_if_it_fits(room, [room.picture.rows[left]], most)


# -- the lines ---------------------------------------------------------------------------


@attrs.define(eq=False)
class _Fold:
    counts: Counter[str] = attrs.field(factory=Counter)
    tokens: int = 0
    cost_usd: float = 0.0


def _folded(picture: Picture, chosen: Collection[AgentId]) -> Mapping[AgentId, _Fold]:
    """Return what is folded, by the nearest agent above that has a line; 0 for the top."""
    homes: dict[AgentId, AgentId] = {}
    folds: dict[AgentId, _Fold] = {}
    for agent_id in sorted(picture.rows):  # parents have lower ids than their children
        if agent_id in chosen:
            continue
        row = picture.rows[agent_id]
        home = row.parent if row.parent in chosen else homes.get(row.parent, 0)
        homes[row.id] = home
        fold = folds.get(home)
        if fold is None:
            fold = folds[home] = _Fold()
        fold.counts[standing_of(row)] += 1
        usage = row.usage
        fold.tokens += usage.input_tokens + usage.output_tokens
        fold.cost_usd += usage.cost_usd
    return folds


def _lines(picture: Picture, chosen: Collection[AgentId], folds: Mapping[AgentId, _Fold]) -> Sequence[Line]:
    below: dict[AgentId, list[AgentRow]] = {}
    torn: set[AgentId] = set()
    for agent_id in sorted(chosen):
        row = picture.rows[agent_id]
        above = row.parent
        while above not in chosen and above in picture.rows:
            above = picture.rows[above].parent
        home = above if above in chosen else 0
        if home != row.parent and row.parent in picture.rows:
            torn.add(agent_id)
        below.setdefault(home, []).append(row)
    lines: list[Line] = []
    # From the last to the first, because the next line is taken from the end.
    waiting: list[tuple[AgentRow | _Fold, tuple[bool, ...]]] = []

    def enter(agent_id: AgentId, lasts: tuple[bool, ...]) -> None:
        under: list[AgentRow | _Fold] = [*below.get(agent_id, ()), *filter(None, [folds.get(agent_id)])]
        for number, each in enumerate(reversed(under)):
            waiting.append((each, (*lasts, number == 0) if agent_id else ()))

    enter(0, ())
    while waiting:
        each, lasts = waiting.pop()
        if isinstance(each, _Fold):
            lines.append(Folded(lasts, each.counts, each.tokens, each.cost_usd))
            continue
        has_below = each.id in below or each.id in folds
        lines.append(Shown(lasts, each, each.id in torn, has_below))
        enter(each.id, lasts)
    return lines


def ids_of(lines: Iterable[Line]) -> frozenset[AgentId]:
    """Return the agents that have a line."""
    return frozenset(line.row.id for line in lines if isinstance(line, Shown))
