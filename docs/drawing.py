"""Boxes and arrows, as SVG: what the diagrams of the documentation are drawn with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 108, 40
STYLE = (
    "text{font:12px sans-serif;text-anchor:middle;fill:#222}.effect{font-weight:bold}"
    ".phase,.label{font-size:11px}.phase{fill:#555}.arrow{fill:none;stroke:#667;marker-end:url(#tip)}"
    "rect{stroke:#667;fill:#eef}"
)


class Box(NamedTuple):
    """A box with two lines of text; its class gives its colour."""

    left: int
    top: int
    title: str
    text: str
    kind: str

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + WIDTH / 2, self.top + HEIGHT / 2

    def edge(self, towards: tuple[float, float]) -> tuple[float, float]:
        """Return where a line from the centre to a point leaves the box."""
        (x, y), (to_x, to_y) = self.centre, towards
        dx, dy = to_x - x, to_y - y
        reach = min(WIDTH / 2 / abs(dx) if dx else 9e9, HEIGHT / 2 / abs(dy) if dy else 9e9)
        return x + dx * reach, y + dy * reach

    def drawn(self) -> str:
        return (
            f'<rect x="{self.left}" y="{self.top}" width="{WIDTH}" height="{HEIGHT}" rx="6"'
            f' class="{self.kind}"/>\n'
            f'<text x="{self.left + WIDTH // 2}" y="{self.top + 18}" class="effect">{self.title}</text>\n'
            f'<text x="{self.left + WIDTH // 2}" y="{self.top + 33}" class="phase">{self.text}</text>'
        )


def arrow(start: Box, end: Box, lines: Sequence[str], bend: float, at: float = 0.5) -> str:
    """Draw an arrow that bends to its left, with its text `at` that part of its way."""
    (x1, y1), (x2, y2) = start.centre, end.centre
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    # The control point stands beside the middle of the line, to its left.
    bent = (x1 + x2) / 2 + (y2 - y1) / length * bend, (y1 + y2) / 2 - (x2 - x1) / length * bend
    (ax, ay), (bx, by) = start.edge(bent), end.edge(bent)
    x = (1 - at) ** 2 * ax + 2 * (1 - at) * at * bent[0] + at**2 * bx
    y = (1 - at) ** 2 * ay + 2 * (1 - at) * at * bent[1] + at**2 * by
    return "\n".join(
        [
            f'<path d="M{ax:.0f},{ay:.0f} Q{bent[0]:.0f},{bent[1]:.0f} {bx:.0f},{by:.0f}" class="arrow"/>',
            *_label(x, y - 4, lines),
        ]
    )


def circle(box: Box, lines: Sequence[str]) -> str:
    """Draw an arrow from a box to itself, above it."""
    x, y = box.centre
    top = y - HEIGHT / 2
    return "\n".join(
        [
            f'<path d="M{x + 26:.0f},{top:.0f} C{x + 40:.0f},{top - 34:.0f} {x - 40:.0f},{top - 34:.0f}'
            f' {x - 26:.0f},{top:.0f}" class="arrow"/>',
            *_label(x, top - 30, lines),
        ]
    )


def _label(x: float, y: float, lines: Sequence[str]) -> list[str]:
    """Write lines of text, the last one at the height `y`."""
    first = y - 13 * (len(lines) - 1)
    return [
        f'<text x="{x:.0f}" y="{first + 13 * number:.0f}" class="label">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]


def page(width: int, height: int, title: str, colours: str, parts: Iterable[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}{colours}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#667"/></marker></defs>',
            f'<rect x="0" y="0" width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
            *parts,
            "</svg>",
        ]
    )
