"""How tables look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpool._core.usage import TokenUsage

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = {"completed": "green", "failed": "red", "aborted": "yellow", "running": "cyan", "starting": "dim"}
NUMBERS = {"agent", "turn", "tools", "tokens", "cost", "seconds"}


def table(*columns: str) -> Table:
    """Return an empty table with these columns; those of numbers are aligned on the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        right = column in NUMBERS
        made.add_column(column, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    return made


def money(usage: TokenUsage) -> str:
    """Tell what calls cost; empty if nothing, or if it is not known."""
    return f"${usage.cost_usd:.4f}" if usage.cost_usd else ""
