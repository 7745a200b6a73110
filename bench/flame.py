"""Draws flame graphs of one spawn and one turn as SVG files for the documentation.

    python -m bench.flame           writes docs/_static/flame-spawn.svg and flame-turn.svg

The stack is sampled in the process itself, by a timer that counts its CPU time.
"""

from __future__ import annotations

import argparse
import functools
import html
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from bench.child import load

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10.0
INTERVAL = 0.002

GRAPHS: dict[str, tuple[str, str, int]] = {
    # file: (target, title, size of one run)
    "flame-spawn.svg": ("w1_agentpool:spawn_and_join", "One spawn, from `spawn` to its outcome", 5_000),
    "flame-turn.svg": ("w3_agentpool:turns", "One turn of the agent loop", 500),
}


@dataclass
class Node:
    """A function as called from those above it, with the number of samples in it and below it."""

    name: str
    samples: int = 0
    below: dict[str, Node] = field(default_factory=dict)

    def add(self, stack: Sequence[str]) -> None:
        node = self
        node.samples += 1
        for name in stack:
            node = node.below.setdefault(name, Node(name))
            node.samples += 1


# -- sampling --------------------------------------------------------------------


def describe(frame: FrameType) -> str:
    """Name a frame as `module:function`."""
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}"


def stack_of(frame: FrameType | None) -> list[str]:
    """Return the names from trio's scheduler inwards, or nothing outside of it."""
    names: list[str] = []
    while frame is not None:
        names.append(describe(frame))
        if names[-1] == "trio._core._run:unrolled_run":
            return names[::-1]
        frame = frame.f_back
    return []


def sample(work: Callable[[], object], seconds: float) -> Node:
    """Run `work` again and again, and return where its CPU time went."""
    root = Node("all")

    def take(_signal: int, frame: FrameType | None) -> None:
        if stack := stack_of(frame):
            root.add(stack)

    signal.signal(signal.SIGPROF, take)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        end = time.process_time() + seconds
        while time.process_time() < end:
            work()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
    return root


# -- drawing ---------------------------------------------------------------------

WIDTH, BAR, LETTER, TOP = 1200.0, 17, 6.3, 44
SHOWN = 0.002
"""Boxes narrower than this share of the whole are left out."""


def colour(name: str) -> str:
    """Ours in orange, trio's in blue, the rest in grey; the shade tells neighbours apart."""
    shade = zlib.crc32(name.encode()) % 30
    if name.startswith("agentpool"):
        return f"hsl({24 + shade // 2}, 90%, {62 + shade // 4}%)"
    if name.startswith("trio"):
        return f"hsl({205 + shade // 2}, 60%, {72 + shade // 4}%)"
    return f"hsl(0, 0%, {78 + shade // 3}%)"


def boxes(node: Node, left: float, depth: int, scale: float, whole: int) -> Iterator[str]:
    """Yield a node and what is below it as SVG, depth by depth downwards."""
    width = node.samples * scale
    share = node.samples / whole
    top = TOP + depth * BAR
    short = node.name.rpartition(":")[2]
    letters = int((width - 6) / LETTER)
    label = short if len(short) <= letters else short[: max(0, letters - 1)] + "…"
    yield f"<g><title>{html.escape(node.name)}: {share:.1%}</title>"
    yield (
        f'<rect x="{left:.1f}" y="{top}" width="{max(width - 0.5, 0.3):.1f}" height="{BAR - 1}"'
        f' fill="{colour(node.name)}" rx="1"/>'
    )
    if letters >= 3:
        yield f'<text x="{left + 3:.1f}" y="{top + BAR - 5}">{html.escape(label)}</text>'
    yield "</g>"
    for below in sorted(node.below.values(), key=lambda other: other.name):
        if below.samples / whole >= SHOWN:
            yield from boxes(below, left, depth + 1, scale, whole)
        left += below.samples * scale


def depth_of(node: Node, whole: int) -> int:
    """Return how many rows the drawing needs."""
    shown = [depth_of(below, whole) for below in node.below.values() if below.samples / whole >= SHOWN]
    return 1 + max(shown, default=0)


def draw(root: Node, title: str, command: str) -> str:
    """Return the flame graph as an SVG document without scripts; a title shows under the pointer."""
    height = TOP + depth_of(root, root.samples) * BAR + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height}"'
            ' font-family="monospace" font-size="10.5">',
            f"<!-- written by: {command} -->",
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="6" y="18" font-size="15">{html.escape(title)}</text>',
            f'<text x="6" y="34">{root.samples:,} samples of CPU time; orange: agentpool, blue: trio,'
            " grey: the rest</text>",
            *boxes(root, 0.0, 0, WIDTH / root.samples, root.samples),
            "</svg>",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample and draw every graph."""
    parser = argparse.ArgumentParser(prog="python -m bench.flame")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "_static")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="CPU time for each graph")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for file, (target, title, size) in GRAPHS.items():
        contender = load(target)
        contender(max(1, size // 10))
        root = sample(functools.partial(contender, size), options.seconds)
        (options.folder / file).write_text(draw(root, title, "python -m bench.flame"))
        print(f"{options.folder / file}: {root.samples} samples", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
