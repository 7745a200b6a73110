"""The examples do what they say, as processes of their own, on copies of their files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


# -- the single files ---------------------------------------------------------------


def test_the_quickstart_prints_what_its_agents_answer(tmp_path: Path) -> None:
    done = run(EXAMPLES / "quickstart.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Hello, Ada, I am agent 1.",
        "Hello, Grace, I am agent 2.",
        "Paris.",
    ]


def test_the_debate_goes_in_turns_and_ends_with_a_verdict(tmp_path: Path) -> None:
    done = run(EXAMPLES / "debate.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    speakers = [line.partition(":")[0] for line in done.stdout.splitlines()[1:]]
    assert speakers == ["for", "against", "for", "against", "Verdict"]


def test_map_reduce_counts_the_words_of_all_files(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.md").write_text("often " * number + "once\n")
    done = run(EXAMPLES / "map_reduce.py", tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["190", "often", "20", "once"]


def test_the_supervised_server_comes_back_with_a_fresh_count(tmp_path: Path) -> None:
    done = run(EXAMPLES / "supervised_server.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[1, 3, None, 4, 9]\n"


# -- the review of documents ----------------------------------------------------------

PAGES = {
    "index.md": """# Index

See [the guide](guide/start.md), [nothing](missing.md), [a place](guide/start.md#there),
[outside](https://example.org/missing.md) and [below](#index).

### Too deep

TODO: fix this.
""",
    "guide/start.md": """# Start

```sh
# TODO in code is no mark, and [this](is-no-link.md)
```

[up](../index.md) [wrong](index.md)
"""
    + "word " * 30
    + "\n\n| "
    + "cell " * 40
    + "|\n",
    "clean.md": "# Clean\n\n## Below\n\nNothing to find here.\n",
}


def expected_findings(folder: Path) -> dict[str, tuple[int, list[str]]]:
    """Find the same things another way: over whole texts, with the code blanked out."""
    found = {}
    for page in folder.rglob("*.md"):
        text = page.read_text("utf-8")
        text = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1 *$", lambda match: "\n" * match[0].count("\n"), text)
        lines = text.split("\n")

        def at(position: int, text: str = text) -> int:
            return text.count("\n", 0, position) + 1

        findings = []
        for link in re.finditer(r"\[[^\]\n]*\]\(([^)\s]+)", text):
            target = link[1].split("#")[0]
            if target and not re.match(r"\w+:", target) and not (page.parent / target).exists():
                findings.append(f"line {at(link.start())}: broken link: {link[1]}")
        levels = [
            (at(mark.start()), len(mark[1]), mark[2]) for mark in re.finditer(r"(?m)^(#+) +(.*)$", text)
        ]
        for (_, above, _), (line, level, title) in zip([(0, 0, ""), *levels], levels, strict=False):
            if level - above > 1:
                findings.append(f"line {line}: heading skips a level: {title}")
        marks = re.finditer(r"(?m)^.*\b(?:TODO|FIXME|XXX)\b.*$", text)
        findings += [f"line {at(mark.start())}: unfinished: {mark[0]}" for mark in marks]
        long = [(n, line) for n, line in enumerate(lines, 1) if len(line) > 120 and line[0] != "|"]
        findings += [f"line {n}: {len(line)} characters" for n, line in long]
        found[page.relative_to(folder).as_posix()] = (len(text.split()), sorted(findings))
    return found


def findings_in(report: str) -> dict[str, tuple[int, list[str]]]:
    """Read a report back."""
    rows = re.findall(r"(?m)^\| \.\./\.\./docs/(\S+) \| (\d+) \| (\d+) \|$", report)
    sections = dict(re.findall(r"(?ms)^## \.\./\.\./docs/(\S+)\n(.*?)(?=^## |\Z)", report))
    found = {}
    for path, words, count in rows:
        findings = sorted(re.findall(r"(?m)^- (.*)$", sections.get(path, "")))
        assert len(findings) == int(count)
        found[path] = (int(words), findings)
    return found


@pytest.fixture
def copy_of_the_fleet(tmp_path: Path) -> Path:
    folder = tmp_path / "examples" / "docs-review"
    ignored = shutil.ignore_patterns("report.md", "__pycache__")
    shutil.copytree(EXAMPLES / "docs-review", folder, ignore=ignored)
    return folder


def review(folder: Path, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("cyclopts")
    return run("-m", "agentpool.cli", "run", folder / "fleet.toml", "--json", *options, cwd=cwd)


@pytest.mark.parametrize("slots", [1, 4])
def test_the_review_finds_exactly_what_is_wrong(copy_of_the_fleet: Path, tmp_path: Path, slots: int) -> None:
    for name, text in PAGES.items():
        page = tmp_path / "docs" / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text)
    done = review(copy_of_the_fleet, f"--max-concurrent={slots}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = findings_in((copy_of_the_fleet / "report.md").read_text())
    assert report == expected_findings(tmp_path / "docs")
    assert [len(findings) for _, findings in report.values()] == [0, 2, 3]


def test_the_review_of_our_own_documentation_is_right(copy_of_the_fleet: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("_build")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=ignored)
    done = review(copy_of_the_fleet, cwd=copy_of_the_fleet)
    assert done.returncode == 0, done.stderr
    report = findings_in((copy_of_the_fleet / "report.md").read_text())
    assert report == expected_findings(tmp_path / "docs")
    agents = json.loads(done.stdout)["agents"]
    assert len(agents) == len(report) + 1
    assert {agent["outcome"] for agent in agents} == {"completed"}
