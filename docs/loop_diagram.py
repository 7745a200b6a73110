"""Draws the loop's diagram from its transition table.

python docs/loop_diagram.py > docs/guide/loop.svg
"""

from __future__ import annotations

from html import escape

from agentpool._core.loop import PHASES, TRANSITIONS, Effect

LEFT, TOP, WIDTH, HEIGHT = 20, 74, 108, 40
BOX: dict[str, tuple[int, int]] = {
    "Recall": (0, 0),
    "Reason": (250, 0),
    "Act": (500, 0),
    "Remember": (750, 0),
    "Halt": (250, 230),
    "Finish": (750, 230),
}
"""Where the box of each effect stands; a new effect needs a line here."""


def centre(effect: type[Effect]) -> tuple[float, float]:
    x, y = BOX[effect.__name__]
    return LEFT + x + WIDTH / 2, TOP + y + HEIGHT / 2


def edge_point(effect: type[Effect], towards: tuple[float, float]) -> tuple[float, float]:
    """Return where a line from the centre of a box to a point leaves the box."""
    (x, y), (to_x, to_y) = centre(effect), towards
    dx, dy = to_x - x, to_y - y
    reach = min(WIDTH / 2 / abs(dx) if dx else 9e9, HEIGHT / 2 / abs(dy) if dy else 9e9)
    return x + dx * reach, y + dy * reach


def arrow(start: type[Effect], end: type[Effect], label: str, bend: float) -> str:
    (x1, y1), (x2, y2) = centre(start), centre(end)
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    # The control point stands beside the middle of the line, to its left.
    bent = (x1 + x2) / 2 + (y2 - y1) / length * bend, (y1 + y2) / 2 - (x2 - x1) / length * bend
    (ax, ay), (bx, by) = edge_point(start, bent), edge_point(end, bent)
    middle = (ax + 2 * bent[0] + bx) / 4, (ay + 2 * bent[1] + by) / 4
    return (
        f'<path d="M{ax:.0f},{ay:.0f} Q{bent[0]:.0f},{bent[1]:.0f} {bx:.0f},{by:.0f}" class="arrow"/>\n'
        f'<text x="{middle[0]:.0f}" y="{middle[1] - 4:.0f}" class="label">{escape(label)}</text>'
    )


def circle(effect: type[Effect], label: str) -> str:
    """Draw an arrow from a box to itself, above it."""
    x, y = centre(effect)
    top = y - HEIGHT / 2
    return (
        f'<path d="M{x + 26:.0f},{top:.0f} C{x + 40:.0f},{top - 34:.0f} {x - 40:.0f},{top - 34:.0f}'
        f' {x - 26:.0f},{top:.0f}" class="arrow"/>\n'
        f'<text x="{x:.0f}" y="{top - 30:.0f}" class="label">{escape(label)}</text>'
    )


def box(effect: type[Effect]) -> str:
    x, y = BOX[effect.__name__]
    left, top = LEFT + x, TOP + y
    return (
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="6" class="{PHASES[effect]}"/>\n'
        f'<text x="{left + WIDTH // 2}" y="{top + 18}" class="effect">{effect.__name__}</text>\n'
        f'<text x="{left + WIDTH // 2}" y="{top + 33}" class="phase">{PHASES[effect]}</text>'
    )


def arrows() -> dict[tuple[type[Effect], type[Effect]], list[str]]:
    """Gather the observations that lead from one effect to another."""
    found: dict[tuple[type[Effect], type[Effect]], list[str]] = {}
    for row in TRANSITIONS:
        for target in row.leads_to:
            found.setdefault((row.effect, target), []).append(row.observation.__name__)
    return found


def drawing() -> str:
    found = arrows()
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 370" role="img">',
        "<title>The agent loop: effects, and the observations that answer them</title>",
        "<style>text{font:12px sans-serif;text-anchor:middle;fill:#222}.effect{font-weight:bold}"
        ".phase,.label{font-size:11px}.phase{fill:#555}.arrow{fill:none;stroke:#667;marker-end:url(#tip)}"
        "rect{stroke:#667;fill:#eef}.reason{fill:#ffd}.act{fill:#efe}.done{fill:#eee}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#667"/></marker></defs>',
        '<rect x="0" y="0" width="900" height="370" style="fill:#fff;stroke:none"/>',
    ]
    for (start, end), observations in found.items():
        label = ", ".join(observations)
        if start is end:
            lines.append(circle(start, label))
        else:
            far = abs(BOX[start.__name__][0] - BOX[end.__name__][0]) > 250
            lines.append(arrow(start, end, label, 120 if far else 36))
    lines += [box(effect) for effect in PHASES]
    return "\n".join([*lines, "</svg>"])


if __name__ == "__main__":
    print(drawing())
