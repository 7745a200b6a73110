"""Every Python example in the README and the documentation runs, and prints what it says.

The blocks of one file run in order in one namespace, in an empty directory. A block is left out with
`<!-- skip: reason -->` on the line above it, and `<!-- needs: module -->` leaves a file's further
blocks out where that module is not installed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# The page about what agents leave open leaves generators open.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

BLOCK = re.compile(
    r"^(?P<mark><!-- (?P<kind>skip|needs): (?P<what>.*?) -->\n+)?```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

PROMISED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
"""What a comment behind a `print` says is what it prints."""


class Block(NamedTuple):
    line: int
    kind: str | None
    what: str | None
    code: str


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Block(line, match["kind"], match["what"], match["code"])


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks_of(page))], ids=page_id)
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    for block in blocks_of(page):
        if block.kind == "skip":
            continue
        if block.kind == "needs" and block.what and importlib.util.find_spec(block.what) is None:
            pytest.skip(f"{block.what} is not installed")
        # The empty lines make line numbers in a traceback those of the page.
        source = "\n" * block.line + block.code
        exec(compile(source, str(page), "exec", dont_inherit=True), module.__dict__)
        printed = capsys.readouterr().out
        for promised in PROMISED.findall(block.code):
            assert promised in printed


def test_few_examples_are_left_out() -> None:
    every = [block for page in PAGES for block in blocks_of(page)]
    assert sum(block.kind == "skip" for block in every) <= len(every) // 10


def test_each_file_linked_from_a_page_exists() -> None:
    missing = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (page.parent / target).exists():
                missing.append(f"{page_id(page)}: {target}")
    assert not missing


def test_nothing_installs_the_package_of_somebody_else() -> None:
    """On the package index the name `agentpool` is not ours: our distribution is `trio-agentpool`."""
    theirs = re.compile(r"\binstall\b[^\n#]*?[ '\"]agentpool(?![\w./-])|(?<![-\w])agentpool\[[a-z,]+\]")
    files = [
        path
        for folder in ("agentpool", "docs", "examples", "bench", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md", ".toml"} and path != Path(__file__)
    ]
    found = [
        f"{page_id(path)}: {match[0]}"
        for path in [ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "noxfile.py", *files]
        for match in theirs.finditer(path.read_text("utf-8"))
    ]
    assert not found


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    marked = re.search(r"<!-- test command -->\n```sh\n(python3 .*)\n```\n", readme)
    assert marked is not None
    assert marked[1].endswith("nox")
    assert "<!-- test command -->" in script
