"""The design page tells what is there: its modules, the way of a spawn, the life of an agent."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pool_kit import pool_of, sleeper

import agentpool
from agentpool import AgentContext

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "agentpool"
KERNEL = Path(agentpool.__file__).parent / "_kernel"  # not the one above, where the package is installed
DOCS = ROOT / "docs"


def part_of_the_page(mark: str) -> str:
    page = (DOCS / "design.md").read_text("utf-8")
    part = re.search(rf"(?s)<!-- {mark} -->\n(.*?)<!-- end -->", page)
    assert part is not None, f"the part {mark!r} of the design page is gone"
    return part[1]


def test_each_module_is_named_once_and_none_that_is_not_there() -> None:
    named = re.findall(r"(?m)^\| `([\w/]+\.py)` \| \S", part_of_the_page("modules"))
    there = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    assert sorted(named) == sorted(there)


def test_the_tables_and_the_drawing_of_a_life_are_those_of_the_code() -> None:
    program = (
        "import lifecycle_diagram as d; from pathlib import Path;"
        "assert d.DRAWING.read_text('utf-8') == d.drawing() + chr(10);"
        "text = d.PAGE.read_text('utf-8'); assert len(d.MARKED.findall(text)) == 2;"
        "assert d.page_with_tables(text) == text"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=DOCS, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"run python docs/lifecycle_diagram.py\n{done.stderr}"


# -- the way of a spawn ---------------------------------------------------------------------------


def steps() -> list[tuple[str, str]]:
    """The files and functions that the page names, in its order."""
    return re.findall(r"(?m)^\| `(\w+\.py)` \| `([\w.]+)` \|", part_of_the_page("sequence"))


def test_a_spawn_passes_at_most_six_files() -> None:
    assert 0 < len({file for file, _ in steps()}) <= 6


@contextmanager
def calls_of_the_kernel() -> Iterator[list[tuple[str, str]]]:
    """Note which functions of the kernel are called, in order."""
    called: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.parent == KERNEL:
            called.append((path.name, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


async def test_a_spawn_goes_the_way_that_the_page_tells(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> None:
        ctx.spawn_nowait(sleeper, 1)

    async with pool_of(2) as pool:
        with calls_of_the_kernel() as called:
            handle = await pool.spawn(parent)
            await handle.wait()
    rest = iter(called)
    always = [step for step in steps() if step != ("leftovers.py", "close_leftovers")]
    for step in always:
        assert step in rest, f"{step} is not called, or not in this order"


def test_what_is_called_in_some_spawns_only_is_there_too() -> None:
    for file, name in steps():
        found: Any = importlib.import_module(f"agentpool._kernel.{file.removesuffix('.py')}")
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)


def _own_attributes(node: ast.ClassDef) -> set[str]:
    declared = {
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
    return declared | {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and isinstance(part.value, ast.Name)
        and part.value.id == "self"
    }


def _is_snapshot(node: ast.ClassDef) -> bool:
    """Whether nobody writes to it: what weighs is state that several change."""
    return any(ast.unparse(each) == "attrs.frozen" for each in node.decorator_list)


def test_the_kernels_files_and_classes_stay_small() -> None:
    for path in KERNEL.glob("*.py"):
        text = path.read_text("utf-8")
        assert text.count("\n") < 450, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                most = 20 if _is_snapshot(node) else 15
                assert len(_own_attributes(node)) <= most, f"{path.name}: {node.name}"
