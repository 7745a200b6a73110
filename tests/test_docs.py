"""Every Python example in the README and the documentation runs, and prints what it says.

The blocks of one file run in order in one namespace, in a directory that is empty the first time.
`docs/program.py` says how a block is left out.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

# The page about what agents leave open leaves generators open.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # where `program` is
from program import blocks_of  # noqa: E402

from agentpool import ModelSettings, ReplayDriver, RetryingDriver  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

PROMISED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
"""What a comment behind a `print` says is what it prints."""


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


PROGRAMS = [page for page in PAGES if any(blocks_of(page))]


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """A page that sets logging up does so for itself only."""
    root, ours = logging.getLogger(), logging.getLogger("agentpool")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("page", PROGRAMS, ids=page_id)
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice: what the first run has left in the directory does not break the second."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        module = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", module)
        for block in blocks_of(page):
            if block.kind == "skip":
                continue
            if block.missing:
                pytest.skip(f"{block.missing} is not installed")
            # The empty lines make line numbers in a traceback those of the page.
            source = "\n" * block.line + block.code
            exec(compile(source, str(page), "exec", dont_inherit=True), module.__dict__)
            printed = capsys.readouterr().out
            for promised in PROMISED.findall(block.code):
                assert promised in printed
            assert (block.output or "") in printed


@pytest.mark.parametrize("page", [page for page in PROGRAMS if len(list(blocks_of(page))) > 1], ids=page_id)
def test_each_page_says_how_its_program_is_run(page: Path) -> None:
    assert f"`python docs/program.py {page_id(page)} | python`" in page.read_text("utf-8")


def test_the_program_of_a_page_is_printed_and_runs(tmp_path: Path) -> None:
    script = ROOT / "docs" / "program.py"
    page = ROOT / "docs" / "guide" / "memory.md"
    printed = subprocess.run(
        [sys.executable, script, page], capture_output=True, text=True, check=True, timeout=60
    )
    subprocess.run(
        [sys.executable, "-"], input=printed.stdout, cwd=tmp_path, text=True, check=True, timeout=60
    )
    wrong = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 1
    assert "python docs/program.py PAGE | python" in wrong.stderr


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


def test_the_picture_of_a_terminal_is_what_stands_on_its_screen() -> None:
    pytest.importorskip("rich")
    from picture import PICTURE, screen_of

    frames = "a warning\r\nfirst\r\nframe\r\x1b[2K\x1b[1A\x1b[2K\x1b[?25lsecond \x1b[32mgreen\x1b[0m\r\nline"
    assert screen_of(frames) == ["a warning", "second \x1b[32mgreen\x1b[0m", "line"]
    assert "agentpool&#160;run&#160;fleet.toml" in PICTURE.read_text("utf-8")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (RetryingDriver, "max_wait: seconds;"),
        (ReplayDriver, "path: the file"),
        (ModelSettings, "reasoning: How much"),
    ],
)
def test_the_reference_says_with_what_a_class_is_made(made: type, told: str) -> None:
    from conf import _add_what_stands_beside

    lines = (made.__doc__ or "").splitlines()
    _add_what_stands_beside(None, "class", "", made, None, lines)
    assert told in "\n".join(lines)
    before = list(lines)
    _add_what_stands_beside(None, "method", "", made, None, lines)
    assert lines == before
