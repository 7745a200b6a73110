"""How tables look: columns of a fixed width, one line for each row, so that nothing pushes anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from agentpool._core.usage import TokenUsage
from agentpool.cli._text import width_of

if TYPE_CHECKING:
    from rich.text import Text

COLOURS = {"completed": "green", "failed": "red", "aborted": "yellow", "running": "cyan", "starting": "dim"}
GAP = "  "


@attrs.frozen
class Column:
    """A column of a table.

    Attributes:
      title: its heading.
      width: how many columns of the terminal it takes.
      right: whether its cells, which are numbers, are aligned on the right.
    """

    title: str
    width: int
    right: bool = False

    def padded(self, cell: str) -> str:
        """Return a cell with the spaces that it lacks."""
        space = " " * (self.width - width_of(cell))
        return space + cell if self.right else cell + space


def fitted(title: str, cells: Sequence[str], *, right: bool = True) -> Column:
    """Return a column that is as wide as its widest cell."""
    return Column(title, max(map(width_of, (title, *cells))), right)


def row_of(columns: Sequence[Column], cells: Sequence[str], styles: Sequence[str] = ()) -> Text:
    """Return a line of a table; the cells fit into their columns."""
    from rich.text import Text

    line = Text(no_wrap=True, overflow="crop")
    for number, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        line.append(GAP if number else "")
        line.append(column.padded(cell), style=styles[number] if styles else "")
    line.rstrip()
    return line


def heading(columns: Sequence[Column]) -> Text:
    """Return the line with the titles."""
    return row_of(columns, [column.title for column in columns], ["bold"] * len(columns))


def width_of_all(columns: Sequence[Column]) -> int:
    """Return how many columns of the terminal these take, with a gap behind each."""
    return sum(column.width + len(GAP) for column in columns)


def money(usage: TokenUsage) -> str:
    """Tell what calls cost; empty if nothing, or if it is not known."""
    return f"${usage.cost_usd:.4f}" if usage.cost_usd else ""


def tokens(usage: TokenUsage) -> str:
    """Tell how many tokens were used; empty if none."""
    return f"{usage.total_tokens:,}" if usage.total_tokens else ""


def size_of(name: str) -> int | None:
    """Return a size of the terminal that stands in the environment, None if it is none.

    Args:
      name: `COLUMNS` or `LINES`. What is not a plain number of at most five digits is no size: such
        a width would fill the memory with spaces.
    """
    text = os.environ.get(name, "")
    plain = text.isascii() and text.isdecimal() and len(text) <= 5
    return (int(text) if plain else 0) or None


def can_draw() -> bool:
    """Whether the terminal can do more than print lines; nothing is known of one without a type."""
    return os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")
