"""The Python blocks of a page, as the one program that they are: `python docs/program.py PAGE | python`.

`python docs/program.py --write DIRECTORY` writes the programs of all pages, for a type checker.

A block is left out with `<!-- skip: reason -->` on the line above it. `<!-- needs: module -->` there says
that this block and those after it need a module that not everybody has installed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(
    r"^(?P<mark><!-- (?P<kind>skip|needs): (?P<what>.*?) -->\n+)?```python\n(?P<code>.*?)^```$"
    r"(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One block: the line above it, its mark, its code, and what the page says that it prints."""

    line: int
    kind: str | None
    what: str | None
    code: str
    output: str | None

    @property
    def missing(self) -> str | None:
        """The module that it needs, if that is not installed."""
        if self.kind == "needs" and self.what and importlib.util.find_spec(self.what) is None:
            return self.what
        return None


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the Python blocks of a page, in their order."""
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Block(line, match["kind"], match["what"], match["code"], match["output"])


def program_of(page: Path, *, whole: bool = False) -> str:
    """Return the program of a page; each line stands where it stands on the page.

    Args:
      whole: whether to take the blocks too that are left out, or cannot run here.
    """
    lines: list[str] = []
    for block in blocks_of(page):
        if block.missing and not whole:
            break
        if block.kind != "skip" or whole:
            lines += [""] * (block.line - len(lines))
            lines += block.code.splitlines()
    return "\n".join(lines) + "\n"


def write_all(directory: Path) -> None:
    """Write the programs of the README and of all pages into a directory that is emptied first."""
    docs = Path(__file__).parent
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.py"):
        old.unlink()
    for page in [docs.parent / "README.md", *sorted(docs.rglob("*.md"))]:
        if any(blocks_of(page)):
            name = "_".join(page.relative_to(docs.parent).with_suffix("").parts).replace("-", "_")
            (directory / f"{name.lower()}.py").write_text(program_of(page, whole=True), "utf-8")


def main(arguments: Sequence[str]) -> None:
    """Do what the module says."""
    match arguments:
        case ["--write", directory]:
            write_all(Path(directory))
        case [page] if not page.startswith("-"):
            print(program_of(Path(page)), end="")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
