"""The examples do what they say, as processes of their own, on copies of their files."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentpool import (
    CompletionRequest,
    Failed,
    FleetFile,
    RequestRejectedError,
    ScriptedDriver,
    open_agent_pool,
    start_fleet,
)

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


# -- the single files ---------------------------------------------------------------


def test_letters_are_sent_when_a_person_agrees_on_the_live_page(tmp_path: Path) -> None:
    httpx2 = pytest.importorskip("httpx2")
    pytest.importorskip("hypercorn")
    command = [sys.executable, str(EXAMPLES / "live_page.py")]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        link = process.stdout.readline().removeprefix("open ").strip()
        with httpx2.Client(base_url=link.partition("?")[0], timeout=60, follow_redirects=True) as client:
            assert "letters" in client.get(link).text
            with client.stream("GET", "/events") as events:
                answered: set[str] = set()
                for line in events.iter_lines():
                    told = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                    for each in told.get("approvals", []):
                        if each["hash"] in answered:
                            continue
                        answered.add(each["hash"])
                        agrees = each["arguments"]["to"] != "Grace"
                        answer = client.post(f"/approvals/{each['hash']}", json={"approve": agrees})
                        assert answer.status_code == 204, answer.text
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert rest.splitlines() == ["Ada: sent to Ada", "Grace: not sent", "Katherine: sent to Katherine"]


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


def test_a_captured_model_is_refused_all_that_it_was_not_granted(tmp_path: Path) -> None:
    done = run(EXAMPLES / "captured.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*["refused"] * 5, "done", "done", "outside"]
    assert lines[5] == "done: spawn_agent: I was not let in."
    assert lines[7] == "outside: ['key.txt']"
    assert "sk-12345" not in done.stdout


def test_what_is_remembered_in_one_run_is_known_in_the_next(tmp_path: Path) -> None:
    first = run(EXAMPLES / "remembering.py", "memory.db", "Ada", "Grace", cwd=tmp_path)
    second = run(EXAMPLES / "remembering.py", "memory.db", "Ada", cwd=tmp_path)
    assert (first.returncode, first.stderr, second.returncode, second.stderr) == (0, "", 0, "")
    assert first.stdout.splitlines() == [
        "Ada, visit 1. Before you: nobody.",
        "Grace, visit 1. Before you: Ada.",
    ]
    assert second.stdout == "Ada, visit 2. Before you: Grace, Ada.\n"


def test_map_reduce_counts_the_words_of_all_files(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.md").write_text("often " * number + "once\n")
    done = run(EXAMPLES / "map_reduce.py", tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["190", "often", "20", "once"]


def test_words_are_counted_in_workers(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.md").write_text("often " * number + "once\n")
    done = run(EXAMPLES / "cluster.py", tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["190", "often", "20", "once"]


def test_the_supervised_server_comes_back_with_a_fresh_count(tmp_path: Path) -> None:
    done = run(EXAMPLES / "supervised_server.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[1, 3, None, 4, 9]\n"


def test_agents_and_plain_code_share_a_budget(tmp_path: Path) -> None:
    done = run(EXAMPLES / "shared_budget.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    answered, refused, within = done.stdout.splitlines()
    assert int(answered.split()[0]) + int(refused.split()[0]) >= 25  # the rest had no luck with the model
    assert within == "within the budget: True"


# -- the review of documents ----------------------------------------------------------

EXAMPLE = EXAMPLES / "docs-review"

needs_markdown = pytest.mark.skipif(
    importlib.util.find_spec("markdown_it") is None or importlib.util.find_spec("cyclopts") is None,
    reason="the extra cli is not installed",
)

A_PAGE = """---
title: TODO in front matter
---
Setext
======

Below
-----

##### Too deep

[right](b.md "a title") [spaces](<b c.md>) [percent](b%20c.md) [gone](gone%20x.md) ![image](no.png "t")
[reference][ref] [undefined][nope] [`code`][nope2] [ref] \\[a\\]\\[b\\] row[0][1] `[a][b]`

A footnote[^1] and [^2].

[^1]: word
[^2]: TODO: in a footnote

[ref]: gone2.md 'title'
[unused]: gone3.md

<!-- TODO: hidden [x](hidden.md) -->
<https://example.org/TODO> <someone@example.org> https://example.org/TODO

    indented TODO: [x](hidden.md)

~~~
TODO: [x](hidden.md)
```
~~~

- item TODO

  ```
  TODO: x
  ```
- FIXME(me): y

| a | b |
|---|---|
| TBD | [q](gone4.md) |
| XXX | x |

<a href="gone5.md">x</a> <img src="gone6.png"> <a id="spot"></a>
[1](#spot) [2](#below) [3](#setext) [4](#nospot) [5](b.md#there) [6](b.md#a--b) [7](b.md#dup-1)
[8](b.md#dup-2) [9](b.md#own) [10](b.md#dup_1) [11](sub) [12](sub/) [13](sub/#idx) [14](sub/#none)
[15](b.md?plain=1#dup) [16](#top) [17](#) [18](/from/the/root.md) [19](mailto:a@example.org)
[20](../../issues/3) [21]({{ url }}) []() [](){#own} [22]()

Some `code that
is broken` and [late](gone7.md).

The TODO list. See "TODO" and TODOs, to do. `TODO: code`

To be written.
"""

FOUND = [
    "line 10: skipped heading: level 5 below level 2: Too deep",
    "line 12: broken image: `no.png`",
    "line 12: broken link: `gone%20x.md`",
    "line 13: undefined reference: `[undefined][nope]`",
    "line 13: undefined reference: `[…][nope2]`",
    "line 18: unfinished: [^2]: TODO: in a footnote",
    "line 20: broken link: `gone2.md`",
    "line 21: broken link: `gone3.md`",
    "line 33: unfinished: item TODO",
    "line 38: unfinished: FIXME(me): y",
    "line 42: broken link: `gone4.md`",
    "line 42: unfinished: TBD",
    "line 43: unfinished: XXX",
    "line 45: broken image: `gone6.png`",
    "line 45: broken link: `gone5.md`",
    "line 46: broken anchor: `#nospot`, perhaps `#spot`",
    "line 46: broken anchor: `b.md#there`",
    "line 47: broken anchor: `b.md#dup-2`, perhaps `#dup-1`",
    "line 47: broken anchor: `sub/#none`",
    "line 49: empty link: `[...]()`",
    "line 52: broken link: `gone7.md`",
    "line 56: unfinished: To be written.",
]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "my notes"
    files = {
        "a.md": A_PAGE,
        "b.md": "# A & B\n\n## Dup\n\n## Dup\n\n## Explicit {#own}\n",
        "b c.md": "# Clean\n",
        "sub/index.md": "# Idx\n",
        ".hidden/c.md": "TODO\n",
        "node_modules/c.md": "TODO\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def review(*options: str, cwd: Path, fleet: Path = EXAMPLE) -> subprocess.CompletedProcess[str]:
    return run("-m", "agentpool.cli", "run", fleet / "fleet.toml", "--json", *options, cwd=cwd)


def findings_in(report: str) -> dict[str, list[str]]:
    """Read a report back: the findings of each page."""
    rows = re.findall(r"(?m)^\| (\S.*?) \| (\d+) \| (\d+) \|$", report)
    sections = dict(re.findall(r"(?ms)^## (\S.*?)\n(.*?)(?=^## |\Z)", report))
    found = {path: re.findall(r"(?m)^- (.*)$", sections.get(path, "")) for path, *_ in rows}
    assert [len(findings) for findings in found.values()] == [int(count) for *_, count in rows]
    return found


@needs_markdown
@pytest.mark.parametrize("slots", [1, 4])
def test_the_review_finds_what_is_wrong_and_nothing_else(notes: Path, tmp_path: Path, slots: int) -> None:
    options = ("--var", "docs=my notes", "--var", "report=out/report.md", f"--max-concurrent={slots}")
    done = review(*options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert findings_in((tmp_path / "out/report.md").read_text()) == {
        "my notes/a.md": FOUND,
        "my notes/b c.md": [],
        "my notes/b.md": [],
        "my notes/sub/index.md": [],
    }
    agents = json.loads(done.stdout)["agents"]
    assert agents[0]["text"] == "wrote out/report.md: 4 pages, 22 findings"
    assert agents[1]["text"] == "22 findings"
    # Paths are as they were typed.
    done = review(f"--var=docs={notes}", "--var=report=r.md", cwd=tmp_path)
    assert done.returncode == 0
    assert f"{notes}/a.md" in findings_in((tmp_path / "r.md").read_text())


SITE = {
    "sphinx.md": "(a-label)=\n# Sphinx\n\n"
    "[1](other-label) [2](#other-label) [3](mkdocs.html) [4](nowhere.html)\n\n"
    "```{figure} x.png\n:name: a-figure\n```\n\n[5](#a-figure) [6](#no-label)\n\n"
    "```{include} more.md\n```\n",
    "other.md": "(other-label)=\n# Other\n\n"
    "[1](#a-figure) [2](#no-label) [3](sphinx.md#anything) [](){#set}\n",
    "mkdocs.md": "# Ünïcode & *more* `code` {: .class #given }\n\n# Déjà vu\n\n# A -- b\n\n# A -- b\n\n"
    "[1](other/) [2](../other/) [3](api.md#pkg.name) [4](#given) [5](#deja-vu) [6](#a-b) [7](#a-b_1)\n"
    "[8](#a----b) [9](#a----b-1) [10](#user-content-a----b) [11](#fn:1) [12](other.md#set) [13](b.md)\n\n"
    "!!! note\n    [x](noted.md)\n",
    "api.md": f"# API\n\n::: pkg.name\n\n[x]({'n' * 300}.md)\n",
    "html.md": "<!-- <a href='hidden.md'> -->\n\n<h2 id='two'>Two</h2>\n\n#### Four\n\n[1](#two)\n\n"
    "<p>\n<a href='other/'>x</a>\n<a href=\"gone.md\">y</a></p>\n",
    "only.md": "## First is a second\n\n> #### quoted\n\n### Third\n\n"
    "[Python's][pkg.Name] [x](TBD.md 'a') [a `c\nd` b](gone.md)\n\n1. TBD\n2. your text here\n",
}
"""Pages as the generators of sites know them, each with what one of them resolves."""


@needs_markdown
@pytest.mark.parametrize("with_names", [False, True])
def test_what_generators_of_sites_resolve_is_no_finding(tmp_path: Path, with_names: bool) -> None:
    for name, text in SITE.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "b.md").write_text("[a heading][elsewhere]\n")
    if with_names:
        (tmp_path / "mkdocs.yml").write_text("plugins: [autorefs]\n")
    done = review("--var=docs=.", "--var=report=out/report.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert findings_in((tmp_path / "out/report.txt").read_text()) == {
        "api.md": [f"line 5: broken link: `{'n' * 300}.md`"],
        "b.md": [] if with_names else ["line 1: undefined reference: `[a heading][elsewhere]`"],
        "html.md": [
            "line 5: skipped heading: level 4 below level 2: Four",
            "line 11: broken link: `gone.md`",
        ],
        "mkdocs.md": ["line 13: broken link: `noted.md`"],
        "only.md": [
            "line 7: broken link: `TBD.md`",
            "line 8: broken link: `gone.md`",
            "line 10: unfinished: TBD",
            "line 11: unfinished: your text here",
        ],
        "other.md": ["line 4: broken anchor: `#no-label`, perhaps `#other-label`"],
        "sphinx.md": ["line 4: broken link: `nowhere.html`"],
    }


@needs_markdown
def test_the_review_of_our_own_documentation_finds_nothing(tmp_path: Path) -> None:
    fleet = "examples/docs-review/fleet.toml"
    report = tmp_path / "report.md"
    done = run("-m", "agentpool.cli", "run", fleet, "--json", f"--var=report={report}", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pages = [page.relative_to(ROOT) for page in (ROOT / "docs").rglob("*.md")]
    expected = sorted(page.as_posix() for page in pages if "_build" not in page.parts)
    assert findings_in(report.read_text()) == {page: [] for page in expected}
    assert {agent["outcome"] for agent in json.loads(done.stdout)["agents"]} == {"completed"}


@needs_markdown
def test_the_report_is_no_page_and_what_cannot_be_read_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"# A\n\n\xe4\n")
    for _ in range(2):
        done = review("--var=docs=.", "--var=report=report.md", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert findings_in((tmp_path / "report.md").read_text()) == {
            "a.md": ["line 3: unreadable: it is not UTF-8"]
        }


@needs_markdown
@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (["docs=notes", "report=notes/a.md/report.md"], 1, "Not a directory: 'notes/a.md"),
        (["docs=notes", "report=notes"], 1, "IsADirectoryError: [Errno 21] Is a directory: 'notes'"),
        (["docs=nowhere"], 2, "there is no directory 'nowhere'. Give a directory with --var docs=PATH"),
        (["docs=notes/a.md"], 2, "'notes/a.md' is a file, not a directory"),
        (["docs=empty"], 2, "'empty/**/*.md' matches no file"),
        (["dosc=notes"], 2, "there is no such variable. Did you mean 'docs'?"),
    ],
)
def test_a_review_that_cannot_be_done_says_why(
    options: list[str], code: int, why: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.md").write_text("# A\n")
    done = review(*[f"--var={option}" for option in options], cwd=tmp_path)
    assert done.returncode == code
    assert why in done.stderr
    assert "Traceback" not in done.stderr


@needs_markdown
@pytest.mark.parametrize("report", ["notes", "notes/a.md/report.md", "notes/a.md"])
def test_nothing_is_reviewed_if_the_report_could_not_be_written(report: str, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.md").write_text("# A\n")
    (tmp_path / "notes/b.md").write_text("# B\n")
    # One at a time: the editor, which comes first, has failed before the first reviewer starts.
    options = ["--max-concurrent=1", "--var=docs=notes", f"--var=report={report}"]
    done = review(*options, cwd=tmp_path)
    editor, *reviewers = json.loads(done.stdout)["agents"]
    assert (done.returncode, editor["outcome"]) == (1, "failed")
    assert {agent["text"] for agent in reviewers} <= {
        "not reviewed: the editor has ended",
        "not reviewed: it is the report",
    }


# -- the review with a model, which here is a script --------------------------------------------


@needs_markdown
@pytest.mark.parametrize("broken", [None, "reviewer", "editor"])
async def test_with_a_model_the_review_has_judgements_and_a_summary(
    broken: str | None, tmp_path: Path
) -> None:
    (tmp_path / "clear.md").write_text("# Clear\n")
    (tmp_path / "dark.md").write_text("# Dark\n\nIt is what\nit is. [x](gone.md)\n")
    asked: list[str] = []

    def answer(request: CompletionRequest) -> str:
        query = str(request.messages[-1].content)
        asked.append(query)
        is_page = query.startswith("The page ")
        if broken == ("reviewer" if is_page else "editor"):
            raise RequestRejectedError("no such model")
        if not is_page:
            return "Repair dark.md first."
        unclear = ["It is what it is.", "never said"] if "dark.md" in query else []
        return json.dumps({"clarity": 2 if unclear else 5, "reason": "It | says so.", "unclear": unclear})

    variables = {"docs": str(tmp_path), "report": str(tmp_path / "out/report.md")}
    fleet = FleetFile.load(EXAMPLE / "fleet.toml", vars=variables)
    async with open_agent_pool(ScriptedDriver(itertools.repeat(answer)), max_concurrent=2) as pool:
        editor, *reviewers = await start_fleet(pool, fleet)
        await pool.drain()  # the editor's inbox ends when nobody is left who could write to it
        end = await editor.wait()
        ends = [await reviewer.wait() for reviewer in reviewers]
    assert isinstance(end, Failed) == (broken == "editor")
    assert all(isinstance(each, Failed) == (broken == "reviewer") for each in ends)
    report = (tmp_path / "out/report.md").read_text()
    # What was found without a model is there in any case.
    assert "- line 4: broken link: `gone.md`" in report
    assert ("Repair dark.md first." in report) == (broken != "editor")
    if broken == "reviewer":
        assert "clarity" not in report
        return
    assert f"| {tmp_path}/dark.md | 7 | 1 | 2 of 5 |" in report
    assert "- clarity 5 of 5: It \\| says so." in report
    assert "- unclear: It is what it is." in report
    assert "never said" not in report  # a quotation that is in no page
    assert sorted(query.splitlines()[0] for query in asked if query.startswith("The page")) == [
        f"The page {tmp_path}/clear.md:",
        f"The page {tmp_path}/dark.md:",
    ]


def test_a_run_that_is_killed_at_night_goes_on_in_the_morning(tmp_path: Path) -> None:
    done = run(EXAMPLES / "overnight.py", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert [line for line in lines if "fetching" in line] == [
        "  fetching rivers",
        "  fetching mountains",
        "  fetching lakes",
        "  fetching forests",
    ]
    assert lines[4:] == [
        "it was killed: 9",
        "the next morning:",
        "  fetching forests",
        "the report has 4 parts",
    ]
