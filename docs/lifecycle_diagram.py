"""Draws the life of an agent from its table, and writes the table into the design page.

python docs/lifecycle_diagram.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from drawing import Box, arrow, page

from agentpool._core.lifecycle import MEANING, SLOT, TRANSITIONS, State

HERE = Path(__file__).parent
DRAWING = HERE / "lifecycle.svg"
PAGE = HERE / "design.md"
MARKED = re.compile(
    r"(?s)(<!-- lifecycle: (\w+), made by docs/lifecycle_diagram.py -->\n\n).*?(\n<!-- end -->)"
)

PLACES: dict[State, tuple[int, int]] = {
    State.STARTING: (20, 40),
    State.RUNNING: (290, 40),
    State.ENDING: (560, 40),
    State.ENDED: (830, 40),
    State.WAITING: (20, 270),
    State.QUEUED: (290, 270),
    State.BACKING_OFF: (560, 270),
}
"""Where the box of each state stands; a new state needs a line here."""

COLOURS = (
    ".held{fill:#efe}.lent{fill:#ffd}.none{fill:#eee}"
    ".label{paint-order:stroke;stroke:#fff;stroke-width:4px}"  # so that text can be read across a line
)

SHAPES: dict[tuple[State, State], tuple[float, float]] = {
    (State.RUNNING, State.WAITING): (30, 0.65),
    (State.WAITING, State.RUNNING): (50, 0.5),
    (State.QUEUED, State.RUNNING): (0, 0.7),
    (State.ENDING, State.BACKING_OFF): (0, 0.4),
    (State.BACKING_OFF, State.ENDED): (0, 0.4),
}
"""How far an arrow bends to its left, and where its text stands, if it needs more than the usual."""


def box_of(state: State) -> Box:
    return Box(*PLACES[state], state.value, f"slot: {SLOT[state].value}", SLOT[state].value)


def arrows() -> dict[tuple[State, State], list[str]]:
    """Gather the events that lead from one state to another."""
    found: dict[tuple[State, State], list[str]] = {}
    for row in TRANSITIONS:
        found.setdefault((row.before, row.after), []).append(row.event.value)
    return found


def drawing() -> str:
    parts = [
        arrow(box_of(start), box_of(end), events, *SHAPES.get((start, end), (10, 0.5)))
        for (start, end), events in arrows().items()
    ]
    parts += [box_of(state).drawn() for state in State]
    title = "The life of an agent: its states, and the events that lead from one to the next"
    return page(960, 340, title, COLOURS, parts)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return (
        "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        .replace("| --- ", "|---")
        .replace("--- |", "---|")
    )


def states() -> str:
    return table(
        ("state", "what it means", "slot"),
        ((state.value, MEANING[state], SLOT[state].value) for state in State),
    )


def transitions() -> str:
    rows = ((row.before.value, row.event.value, row.after.value) for row in TRANSITIONS)
    return table(("state", "event", "next state"), rows)


def page_with_tables(text: str) -> str:
    made = {"states": states, "transitions": transitions}
    return MARKED.sub(lambda match: match[1] + made[match[2]]() + match[3], text)


if __name__ == "__main__":
    DRAWING.write_text(drawing() + "\n", "utf-8")
    PAGE.write_text(page_with_tables(PAGE.read_text("utf-8")), "utf-8")
