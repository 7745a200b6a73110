"""Draws the loop's diagram from its transition table.

python docs/loop_diagram.py > docs/guide/loop.svg
"""

from __future__ import annotations

from drawing import Box, arrow, circle, page

from agentpool._core.effects import PHASES, Effect
from agentpool._core.loop import TRANSITIONS

LEFT, TOP = 20, 224
PLACES: dict[str, tuple[int, int]] = {
    "Recall": (0, 0),
    "Reason": (250, 0),
    "Act": (500, 0),
    "Remember": (750, 0),
    "Compact": (0, -150),
    "Collect": (500, -150),
    "Halt": (250, 230),
    "Finish": (750, 230),
}
"""Where the box of each effect stands; a new effect needs a line here."""


def box_of(effect: type[Effect]) -> Box:
    x, y = PLACES[effect.__name__]
    return Box(LEFT + x, TOP + y, effect.__name__, PHASES[effect], PHASES[effect])


def arrows() -> dict[tuple[type[Effect], type[Effect]], list[str]]:
    """Gather the observations that lead from one effect to another."""
    found: dict[tuple[type[Effect], type[Effect]], list[str]] = {}
    for row in TRANSITIONS:
        for target in row.leads_to:
            found.setdefault((row.effect, target), []).append(row.observation.__name__)
    return found


def drawing() -> str:
    parts = []
    for (start, end), observations in arrows().items():
        label = [", ".join(observations)]
        if start is end:
            parts.append(circle(box_of(start), label))
        else:
            far = abs(PLACES[start.__name__][0] - PLACES[end.__name__][0]) > 250
            parts.append(arrow(box_of(start), box_of(end), label, 120 if far else 36))
    parts += [box_of(effect).drawn() for effect in PHASES]
    title = "The agent loop: effects, and the observations that answer them"
    return page(900, 520, title, ".reason{fill:#ffd}.act{fill:#efe}.done{fill:#eee}", parts)


if __name__ == "__main__":
    print(drawing())
