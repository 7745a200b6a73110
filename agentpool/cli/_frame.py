"""A frame of the live view: the lines of the tree with their columns, and the figures below, for any size."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TextIO, TypeAlias

import attrs

from agentpool._core.messages import AgentId
from agentpool._core.picture import AgentRow, Picture
from agentpool.cli._sums import (
    few,
    price,
    span,
    standings_of,
    tell_all,
    tell_rates,
    tell_standings,
    tell_targets,
    tell_used,
)
from agentpool.cli._tables import COLOURS, GAP, Column
from agentpool.cli._text import can_encode, cut, cut_front, encodable, listed, one_line, width_of
from agentpool.cli._tree import Branch, Folded, Line, Shown, ids_of, tree_of

MOST_LINES = 500
"""No frame has more lines, whatever the size of the terminal is said to be."""
LINES_OF_FIGURES = 4
NARROWEST = 12
"""In fewer columns no agent can be told from another."""
NARROWEST_NAME = 12
NARROWEST_DEEP_NAME = 8
NARROWEST_DOING = 14
COMFORT = 18
"""So many columns more have name and doing together before there are columns that are only good to know."""
WIDEST_NAME = 40
WIDEST_DOING = 40
NARROWEST_WORDS = 22

Piece: TypeAlias = tuple[str, str]
"""A piece of a line, and its style."""


@attrs.frozen
class _Signs:
    """What the tree is drawn with."""

    tee: str
    corner: str
    bar: str


_LINES = _Signs("├─", "└─", "│ ")
_ASCII = _Signs("|-", "`-", "| ")


@attrs.frozen
class Size:
    """Of a terminal: its lines and columns."""

    rows: int
    columns: int


@attrs.define(eq=False)
class Frames:
    """Makes the frames of a run, each like the one before as far as that is possible.

    Attributes:
      stream: what is written to; its encoding decides about signs.
    """

    stream: TextIO | None
    _seen: Collection[AgentId] = frozenset()
    _columns: int = 0
    _name: int = 0

    def frame(
        self, picture: Picture, figures: Sequence[str], size: Size, now: float
    ) -> Sequence[Sequence[Piece]]:
        """Return the lines of a frame; none is longer, and there are no more, than the terminal has room for.

        Args:
          picture: of the run.
          figures: of the pool, each a few words.
          size: of the terminal; one line of it is left for the cursor.
          now: on trio's clock.
        """
        height = max(1, min(MOST_LINES, size.rows - 1))
        below = self._below(picture, figures, size.columns, height)
        room = height - len(below)
        lines: list[Sequence[Piece]] = []
        if room > 0 and picture.rows and size.columns >= NARROWEST:
            has_heading = room > 3
            lines = self._tree(picture, room - has_heading, size.columns, now, has_heading=has_heading)
        return [*lines, *below]

    def _below(
        self, picture: Picture, figures: Sequence[str], width: int, height: int
    ) -> Sequence[Sequence[Piece]]:
        most = max(1, height // 3)
        sums = folded(tell_all(picture, standings_of(picture)), width, min(most, 2))
        left = most - len(sums)
        rates = folded(tell_rates(picture), width, 1) if left > 0 else []
        left = min(LINES_OF_FIGURES, left - len(rates))
        rest = folded(", ".join(figures), width, left) if left > 0 and figures else []
        styled = [*((line, "") for line in sums), *((line, "dim") for line in [*rates, *rest])]
        return [[(cut(self._plain(text), width, self.stream), style)] for text, style in styled]

    def _tree(
        self, picture: Picture, most: int, width: int, now: float, *, has_heading: bool
    ) -> list[Sequence[Piece]]:
        tree = tree_of(picture, most, self._seen, now)
        self._seen = ids_of(tree)
        columns = self._layout(picture, tree, width)
        names = {target: row.name for target, row in _targets(picture, tree)}
        has_words = any(column.title == "last words" for column in columns)
        # An agent and what it says, if there is room for all: it does not depend on who says something.
        doubled = not has_words and has_heading and 2 * len(picture.rows) <= most
        (name_width,) = (column.width for column in columns if column.title == "agent")
        cells = _Cells(columns, names, now, doubled or has_words)
        lines: list[Sequence[Piece]] = []
        if has_heading:
            lines.append(
                _row(columns, [column.title[: column.width] for column in columns], ["bold"] * len(columns))
            )
        for line in tree:
            prefix = self._prefix(line, name_width)
            if isinstance(line, Folded):
                lines.append([(self._folded(line, prefix, columns, width), "dim")])
                continue
            lines.append(self._agent(line, prefix, cells, width))
            if doubled and (line.row.model_calls or said_by(line.row, now)[1]):
                lines.append(self._said(line, cells, width))
        return lines

    def _folded(self, line: Folded, prefix: str, columns: Sequence[Column], width: int) -> str:
        """Tell of those without a line; what they used is told however narrow the terminal is."""
        start = sum(column.width + len(GAP) for column in columns if column.title == "id")
        used = tell_used(line.tokens, line.cost_usd)
        used = f"; {used}" if used else ""
        text = f"{' ' * start}{prefix}{sum(line.counts.values()):,} more: {tell_standings(line.counts)}"
        return cut(f"{cut(text, max(0, width - len(used)), self.stream)}{used}", width, self.stream)

    def _agent(self, line: Shown, prefix: str, cells: _Cells, width: int) -> Sequence[Piece]:
        row = line.row
        name = one_line(row.name)
        if line.is_torn:
            name = ("…" if can_encode("…", self.stream) else "...") + name
        texts: list[str] = []
        styles: list[str] = []
        for column in cells.columns:
            text, style = (prefix + name, "") if column.title == "agent" else cells.cell(column.title, row)
            text = self._plain(text)
            if column.title == "last words" and not said_by(row, cells.now)[1]:
                text = cut_front(text, column.width, self.stream)
            texts.append(cut(text, column.width, self.stream))
            styles.append(style)
        if not cells.has_words_elsewhere:
            self._put_words_in(cells, row, texts)
        return _row(cells.columns, texts, styles)

    def _put_words_in(self, cells: _Cells, row: AgentRow, texts: list[str]) -> None:
        """Show the end of what an agent says where it stands what the agent does."""
        (at,) = (n for n, column in enumerate(cells.columns) if column.title == "doing")
        said, is_reason = said_by(row, cells.now)
        width = cells.columns[at].width
        if is_reason:
            texts[at] = cut(
                self._plain(f"{cells.cell('doing', row)[0]}: {one_line(said)}"), width, self.stream
            )
        elif said and (row.ended_at is not None or row.kind == "reasoning"):
            start = "says " if row.ended_at is None else f"{row.state}: "
            if width - len(start) >= 5:
                end = cut_front(self._plain(one_line(said)), width - len(start), self.stream)
                texts[at] = start + end

    def _said(self, line: Shown, cells: _Cells, width: int) -> Sequence[Piece]:
        start = sum(column.width + len(GAP) for column in cells.columns if column.title == "id")
        signs = self._signs
        guides = "".join("  " if last else signs.bar for last in line.lasts)
        guides += signs.bar if line.has_below else "  "
        said, is_reason = said_by(line.row, cells.now)
        room = width - start - width_of(guides)
        fit = cut if is_reason else cut_front
        text = fit(self._plain(one_line(said)), room, self.stream)
        return [(cut(f"{' ' * start}{guides}", width, self.stream), ""), (text if room > 0 else "", "dim")]

    def _layout(self, picture: Picture, tree: Sequence[Line], width: int) -> Sequence[Column]:
        """Choose the columns; as long as the terminal keeps its width, that of names only grows."""
        wanted = max(
            [
                5,
                *(
                    2 * len(line.lasts) + width_of(self._plain(one_line(line.row.name)))
                    for line in tree
                    if isinstance(line, Shown)
                ),
            ]
        )
        if self._columns != width:
            self._columns, self._name = width, 0
        self._name = max(self._name, min(wanted, WIDEST_NAME))
        digits = len(str(next(reversed(picture.rows))))
        return layout(width, digits, self._name, has_cost=picture.usage.cost_usd > 0)

    @property
    def _signs(self) -> _Signs:
        return _LINES if can_encode("├└│─", self.stream) else _ASCII

    def _prefix(self, line: Branch, width: int) -> str:
        if not line.lasts:
            return ""
        signs = self._signs
        guides = ["  " if last else signs.bar for last in line.lasts[:-1]]
        own = signs.corner if line.lasts[-1] else signs.tee
        # Of very deep trees the last levels are drawn, so that names have room.
        most = max(1, (width - NARROWEST_DEEP_NAME) // 2)
        return "".join([*guides, own][-most:])

    def _plain(self, text: str) -> str:
        return encodable(text, self.stream)


def layout(width: int, digits: int, name: int, *, has_cost: bool) -> Sequence[Column]:
    """Choose the columns of the tree for a width.

    Args:
      width: of the terminal.
      digits: of the largest id.
      name: how wide the names are.
      has_cost: whether something has cost money.
    """
    id = Column("id", max(2, digits), right=True)
    least = NARROWEST_NAME + NARROWEST_DOING + len(GAP)
    left = width - least
    shown: dict[str, Column] = {}

    def add(column: Column, keep: int = 0) -> None:
        nonlocal left
        taken = column.width + len(GAP)
        if left - taken >= keep:
            left -= taken
            shown[column.title] = column

    add(id)
    for column in (
        Column("time", 6, right=True),
        Column("tokens", 6, right=True),
        Column("turn", 4, right=True),
    ):
        add(column)
    if has_cost:
        add(Column("cost", 7, right=True))
    add(Column("last words", NARROWEST_WORDS), COMFORT)
    if "last words" in shown:
        for column in (Column("tools", 5, right=True), Column("in/out", 7, right=True), Column("model", 18)):
            add(column, COMFORT)
    if width < least + id.width:
        doing = max(1, (width - len(GAP)) // 2)
        return [Column("agent", max(1, width - len(GAP) - doing)), Column("doing", doing)]
    named = NARROWEST_NAME + min(max(0, name - NARROWEST_NAME), left // 2)
    left -= named - NARROWEST_NAME
    doing = NARROWEST_DOING + left
    if "last words" in shown:
        doing = min(doing, WIDEST_DOING, NARROWEST_DOING + max(14, left // 3))
        shown["last words"] = Column("last words", NARROWEST_WORDS + NARROWEST_DOING + left - doing)
    shown |= {"agent": Column("agent", named), "doing": Column("doing", doing)}
    order = (
        "id",
        "agent",
        "doing",
        "model",
        "turn",
        "tools",
        "in/out",
        "tokens",
        "cost",
        "time",
        "last words",
    )
    return [shown[title] for title in order if title in shown]


@attrs.frozen
class _Cells:
    """Makes the cells of a row.

    Attributes:
      names: of the agents that somebody waits for.
      now: on trio's clock.
      has_words_elsewhere: whether last words have a column or a line of their own.
    """

    columns: Sequence[Column]
    names: Mapping[AgentId, str]
    now: float
    has_words_elsewhere: bool

    def cell(self, title: str, row: AgentRow) -> Piece:
        """Return a cell, and its style."""
        match title:
            case "doing":
                return doing_of(row, self.names, self.now)
            case "id":
                return str(row.id), ""
            case "model":
                return one_line(row.model), ""
            case "turn":
                return str(row.iteration or ""), ""
            case "tools":
                return str(row.tool_calls or ""), ""
            case "in/out":
                return f"{row.heard}/{row.sent}" if row.heard or row.sent else "", ""
            case "tokens":
                return few(row.usage.total_tokens) if row.usage.total_tokens else "", ""
            case "cost":
                return price(row.usage.cost_usd) if row.usage.cost_usd else "", ""
            case "time":
                return span((self.now if row.ended_at is None else row.ended_at) - row.spawned_at), ""
            case _:
                return one_line(said_by(row, self.now)[0]), "dim"


def said_by(row: AgentRow, now: float) -> tuple[str, bool]:
    """Return an agent's last words, or the reason why it failed or asks again; and whether it is a reason.

    Of words the end tells most, of reasons the beginning.
    """
    if row.ended_at is not None:
        return (row.reason, True) if row.reason else (row.words, False)
    return (row.retry, True) if row.retry_at > now else (row.words, False)


def doing_of(row: AgentRow, names: Mapping[AgentId, str], now: float) -> Piece:
    """Tell what an agent does, and its style: its end, a person, a retry, a wait or its work."""
    if row.ended_at is not None:
        return row.state, COLOURS[row.state]
    stuck = "stuck: " if row.is_stuck else ""
    if row.asking:
        tools = listed([request.call.name for request in row.asking.values()], 2)
        return f"{stuck}waits for approval of {tools}", "bold yellow"
    if row.retry_at > now:
        return f"{stuck}asks again in {row.retry_at - now:.0f} s", "yellow"
    if row.kind == "waiting":
        return f"{stuck}waits for {tell_targets(row.blocked_on, names)}", "dim"
    if row.kind == "acting":
        return f"{stuck}calls {one_line(row.detail)}" if row.detail else f"{stuck}acting", COLOURS["running"]
    if row.state != "running":
        return f"{stuck}restart {row.restarts}" if row.state == "restarting" else f"{stuck}starting", "dim"
    return f"{stuck}{row.kind or 'running'}", "yellow" if stuck else COLOURS["running"]


def folded(text: str, width: int, most: int) -> list[str]:
    """Return a text in at most so many lines, broken between words where that is possible."""
    return textwrap.wrap(text, max(10, width), max_lines=most, placeholder=" ...")


def _targets(picture: Picture, tree: Sequence[Line]) -> Sequence[tuple[AgentId, AgentRow]]:
    return [
        (target, picture.rows[target])
        for line in tree
        if isinstance(line, Shown)
        for target in line.row.blocked_on[:2]
        if target in picture.rows
    ]


def _row(columns: Sequence[Column], cells: Sequence[str], styles: Sequence[str]) -> Sequence[Piece]:
    """Return the pieces of a line; neighbours of one style are one piece, since each takes time to write."""
    pieces: list[Piece] = []
    text, at = "", ""
    for number, (column, cell, style) in enumerate(zip(columns, cells, styles, strict=True)):
        text += GAP if number else ""
        if style != at:
            pieces.append((text, at))
            text, at = "", style
        is_last = number == len(columns) - 1
        text += cell if is_last and not column.right else column.padded(cell)
    pieces.append((text, at))
    text, at = pieces[-1]
    pieces[-1] = (text.rstrip(), at)
    return [piece for piece in pieces if piece[0]]
