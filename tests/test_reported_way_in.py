"""What users of comparable command lines, files and checkers of documents reported, put to agentpool.

Each case names the report that it comes from.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("cyclopts")
pytest.importorskip("markdown_it")

from test_cli import call
from test_examples import EXAMPLE, findings_in, review

from agentpool import FleetAgent, FleetFile, ManifestError
from agentpool.cli import _app
from agentpool.cli._tables import size_of
from agentpool.cli._text import LETTERS_IN_A_COLUMN, cut, pieces, width_of

pytestmark = pytest.mark.processes

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files or signals")

FUNCTIONS = """
import os
from pathlib import Path

import trio


async def answer(ctx, query=""):
    return f"heard {query}"


async def wide(ctx):
    return "日本 👍 e\\u0301 end"


async def flood(ctx):
    raise ValueError("b" + "\\u0301" * 1_000_000)


print("the module was imported")


async def loud(ctx):
    print("an agent prints")
    os.system("echo a program prints")
    return "done"


async def wait(ctx):
    while not (Path(__file__).parent / "go").exists():
        await trio.sleep(0.01)
"""


def fleet(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "agents.py").write_text(FUNCTIONS, "utf-8")
    path = folder / "fleet.toml"
    path.write_text(text, "utf-8")
    return path


def one(name: str) -> str:
    return f'[[agents]]\nfunction = "agents:{name}"\n'


# -- the review of documents -------------------------------------------------------------

# For each page the report, its text, and what is to be found in it. `there.md` and `sub/index.md` are
# there; what is not is called gone.
PAGES: Mapping[str, tuple[str, str, list[str]]] = {
    # anchors
    "parentheses": (
        "tcort/markdown-link-check#593",
        "# Maximum Likelihood Estimator (MLE)\n\n[x](#maximum-likelihood-estimator-mle)\n",
        [],
    ),
    "emoji": (
        "DavidAnson/markdownlint#2171 (one spelling), tcort/markdown-link-check#523 (the other),"
        " UmbrellaDocs/linkspector#64, thlorenz/doctoc#123, DavidAnson/vscode-markdownlint#384",
        "## 🛠️ Development\n\n## 📖 Documentation\n\n## Modules 📦\n\n## :smile: Shortcode\n\n## 👩‍💻 Work\n\n"
        "[1](#-development) [2](#%EF%B8%8F-development) [3](#-documentation) [4](#modules-)\n"
        "[5](#smile-shortcode) [6](#\u200d-work) [7](#-work) [8](#📖-documentation)\n",
        ["line 12: broken anchor: `#📖-documentation`, perhaps `#-documentation`"],
    ),
    "accents": (
        "UmbrellaDocs/linkspector#60, hunyadi/md2conf#279",
        "# Szándékos kitérés\n\n# Größe\n\n"
        "[1](#sz%C3%A1nd%C3%A9kos-kit%C3%A9r%C3%A9s) [2](#größe) [3](#szandekos-kiteres)\n",
        [],
    ),
    "scripts": (
        "Flet/github-slugger#56: GitHub keeps marks, connectors and joiners, and no other numbers",
        "# हिन्दी भाषा\n\n# ภาษาไทย ที่นี่\n\n# Cafe\u0301\n\n# می\u200cشود\n\n# x² y\n\n"
        "[1](#हिन्दी-भाषा) [2](#ภาษาไทย-ที่นี่) [3](#cafe\u0301) [4](#می\u200cشود) [5](#میشود) "
        "[6](#x-y) [7](#x²-y)\n"
        "[8](#हिन्दी)\n",
        ["line 12: broken anchor: `#हिन्दी`, perhaps `#हिन्दी-भाषा`"],
    ),
    "hyphens": (
        "remarkjs/remark-validate-links#55, tcort/markdown-link-check#210, frnmst/md-toc#26 (GitLab);"
        " mkdocs/mkdocs#3704, volcengine/OpenViking#3673 (GitHub)",
        "# Über 1.1. Haus - Netz\n\n# Foo & Bar\n\n"
        "[1](#über-11-haus-netz) [2](#über-11-haus---netz) [3](#foo--bar) [4](#foo-bar) "
        "[5](#uber-11-haus-netz)\n",
        [],
    ),
    "duplicates": (
        "ota-meshi/eslint-plugin-markdown-links#8",
        "# Foo\n\n# Foo\n\n# Foo 1\n\n[1](#foo) [2](#foo-1) [3](#foo-1-1) [4](#foo_1) [5](#foo-9)\n",
        ["line 7: broken anchor: `#foo-9`, perhaps `#foo-1`"],
    ),
    "capitals": (
        "mkdocs/mkdocs#3703, tldraw/tldraw#10256: dead on a site; serokell/xrefcheck#211: lives on GitHub",
        "# Conflicts\n\n[x](#Conflicts)\n",
        ["line 3: broken anchor: `#Conflicts`, perhaps `#conflicts`"],
    ),
    "escapes": (
        "DavidAnson/markdownlint#984",
        "##### 2.2.2.1 \\_\\_init__\n\n## Q&amp;A\n\n[1](#2221-__init__) [2](#qa)\n",
        [],
    ),
    "images": (
        "sindresorhus/awesome-lint#162",
        "## <img src='there.md'/> Custom\n\n## ![](there.md) Other\n\n"
        "[1](#custom) [2](#-custom) [3](#-other)\n",
        [],
    ),
    "written": (
        "DavidAnson/markdownlint#581, tcort/markdown-link-check#195",
        "## Personal (PII) {#pii}\n\n<a name='issue_list'>Issues</a>\n\n``` {.python #code}\nx\n```\n\n"
        "[1](#pii) [2](#issue_list) [3](#code)\n",
        [],
    ),
    "lines": (
        "theoludwig/markdownlint-rule-relative-links#6, DavidAnson/markdownlint#1117, "
        "lycheeverse/lychee#1545,"
        " lycheeverse/lychee#2119 (#readme)",
        "[1](#L7) [2](there.md#L3-L5) [3](there.md#L1C2-L3C4) [4](there.md#:~:text=x) [5](#readme) "
        "[6](#Left)\n",
        ["line 1: broken anchor: `#Left`"],
    ),
    "footnotes": (
        "the kind of lycheeverse/lychee#2119: anchors that only the generator makes, here of footnotes",
        "A[^a-b].\n\n[^a-b]: [x](gone.md)\n\n"
        "[1](#fn:a-b) [2](#user-content-fnref-a-b) [3](#fn1) [4](#fnord)\n",
        ["line 3: broken link: `gone.md`", "line 5: broken anchor: `#fnord`"],
    ),
    # what is text, and what is not
    "code": (
        "scivision/linkchecker-markdown#13, tcort/markdown-link-check#277, microsoft/vscode-markdown-"
        "languageservice#52, TomasHubelbauer/vscode-markdown-link-suggestions#1, gptme/gptme-contrib#653",
        "`[[URL](URL)]` <!-- [x](gone.md) -->\n\n~~~md\n```\n[x](gone.md)\n```\n~~~\n\n<!--\n\n"
        "[x](gone.md)\n-->\n\n"
        "> ```\n> [x](gone.md)\n> ```\n",
        [],
    ),
    "front": (
        "remarkjs/remark-lint#324",
        '---\ntitle: "[Improve][it]"\nx: "[x](gone.md)"\n---\n\n# T\n',
        [],
    ),
    "tabs": (
        "rvben/rumdl#464, squidfunk/mkdocs-material#179, squidfunk/mkdocs-material#4025",
        '# T\n\n!!! note "x"\n\n    ## In a note\n\n    [1](#two) [2](#in-a-note)\n\n'
        '=== "A"\n\n    ??? tip\n\n'
        "        #### Nested\n\n        ```\n        # no heading\n\n        [x](gone.md)\n        ```\n\n"
        "- list\n\n    !!! note\n\n        ##### In a list\n\n"
        "[3](#in-a-note) [4](#nested) [5](#in-a-list) [6](#no-heading)\n\n"
        "```\n!!! note\n\n    [x](gone.md)\n```\n\n    !!! note\n\n        [x](gone.md)\n",
        ["line 7: broken anchor: `#two`", "line 27: broken anchor: `#no-heading`"],
    ),
    "math": (
        "Michael-F-Bryan/mdbook-linkcheck#99, microsoft/vscode#197486, lucasastorian/llmwiki#85,"
        " DavidAnson/markdownlint#1152, DavidAnson/markdownlint#1864",
        "## $\\LaTeX$ Hooks\n\n$\\left[x\\right](\\mu)$, $[0, 1][2]$, $f[x][y]$, $$[a](b)$$\n\n"
        "$$\nC = [ x \\right](\\mu)\n+ [a][b]\n$$\nand TODO: [1](gone.md)\n\n[2](#latex-hooks)\n",
        ["line 9: broken link: `gone.md`", "line 9: unfinished: and TODO: …1"],
    ),
    "dollars": (
        "DavidAnson/markdownlint#1482, tree-sitter-grammars/tree-sitter-markdown#206",
        "$4 is more than [$1](gone.md).\n\n$HOME and [x](gone2.md) or $PATH.\n\n[$A](gone3.md#$A)\n"
        "\n\\$ [y](gone4.md)$\n",
        [
            "line 1: broken link: `gone.md`",
            "line 3: broken link: `gone2.md`",
            "line 5: broken link: `gone3.md#$A`",
            "line 7: broken link: `gone4.md`",
        ],
    ),
    "brackets": (
        "imsky/PocketEuler#3, remarkjs/remark-lint#207, remarkjs/remark-lint#329, "
        "DavidAnson/markdownlint#697",
        "foo [...] bar, [0, 1][2, 3], [a-z][0-9]*, [a-zA-Z_][a-zA-Z0-9_], prog [-h][-v] [--x=Y][FILE...],\n"
        "[[a][b]], [1][2], a[i][j], - [ ] no, [x], [board][dev].\n\n"
        "[dev]: https://e.x/-/b?n[label][]=a&n[b][]=c\n",
        [],
    ),
    "references": (
        "remarkjs/remark-validate-links#74, remarkjs/remark-validate-links#52: these are to be found",
        "[This][this-is-nonexistent] and [source][1].\n",
        [
            "line 1: undefined reference: `[This][this-is-nonexistent]`",
            "line 1: undefined reference: `[source][1]`",
        ],
    ),
    "nested": (
        "zensical/zensical#631, DavidAnson/markdownlint#787",
        "[some[nested]](there.md) [[OS] other](gone.md)\n",
        ["line 1: broken link: `gone.md`"],
    ),
}


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("reviewed")
    (folder / "docs").mkdir()
    (folder / "docs/there.md").write_text("# There\n", "utf-8")
    for name, (_, text, _) in PAGES.items():
        (folder / f"docs/{name}.md").write_text(text, "utf-8")
    done = review("--var=docs=docs", "--var=report=r.md", cwd=folder)
    assert done.returncode == 0, done.stderr
    return findings_in((folder / "r.md").read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_a_checker_finds_what_is_wrong_and_nothing_else(page: str, reviewed: dict[str, list[str]]) -> None:
    report, _, found = PAGES[page]
    assert sorted(reviewed[f"docs/{page}.md"]) == sorted(found), report


@pytest.mark.parametrize("where", ["docs/index.md", "notes.txt"])
def test_nothing_but_a_report_is_written_over(where: str, tmp_path: Path) -> None:
    """microsoft/winml-cli#561, jupytext/jupytext#113: a file that was there is gone."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# A\n")
    (tmp_path / where).write_text("precious\n")
    done = review("--var=docs=docs", f"--var=report={where}", cwd=tmp_path)
    assert done.returncode == 1
    editor, *reviewers = json.loads(done.stdout)["agents"]
    assert editor["error"] == (
        f"FileExistsError: '{where}' is no report. Give another path with --var report=PATH"
    )
    assert {agent["outcome"] for agent in reviewers} == {"completed"}  # one failure, told once
    assert (tmp_path / where).read_text() == "precious\n"


@posix
def test_a_file_whose_name_is_no_unicode_is_in_the_report(tmp_path: Path) -> None:
    """devsnd/tarindexer#9, mgedmin/restview#17: one such name, and all is lost."""
    (tmp_path / "docs").mkdir()
    try:
        (tmp_path / os.fsdecode(b"docs/caf\xe9.md")).write_text("[x](gone.md)\n")
    except OSError:
        pytest.skip("the file system takes only Unicode")
    (tmp_path / "r.md").write_text("# Review of an earlier day\n")
    done = review("--var=docs=docs", "--var=report=r.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert findings_in((tmp_path / "r.md").read_text()) == {
        "docs/caf\\udce9.md": ["line 1: broken link: `gone.md`"]
    }


@posix
def test_what_may_not_be_read_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """osovv/grace-marketplace#32, bash-lsp/bash-language-server#317: one directory stops the whole."""
    locked = tmp_path / "docs/locked"
    locked.mkdir(parents=True)
    (locked / "b.md").write_text("# B\n")
    (tmp_path / "docs/a.md").write_text("# A\n\n[1](locked/b.md#b) [2](locked)\n")
    locked.chmod(0o444)
    try:
        if os.access(locked / "b.md", os.R_OK):
            pytest.skip("this user may read everything")
        done = review("--var=docs=docs", "--var=report=r.md", cwd=tmp_path)
    finally:
        locked.chmod(0o755)
    assert done.returncode == 0, done.stderr
    found = findings_in((tmp_path / "r.md").read_text())
    assert found["docs/locked/b.md"] == ["line 1: unreadable: Permission denied"]


def test_a_file_that_cannot_be_looked_at_has_its_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as above, for users who may read everything: the pattern names it, so an agent has it."""
    path = fleet(tmp_path, f'{one("answer")}for_each = "*.txt"\nquery = "{{path}}"\n')
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).touch()
    is_file = Path.is_file

    def refused(path: Path) -> bool:
        if path.name == "b.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    assert [agent.query for agent in FleetFile.load(path).agents] == ["a.txt", "b.txt"]


# -- paths and variables --------------------------------------------------------------------


@posix
def test_a_tilde_that_the_shell_left_is_the_home(tmp_path: Path) -> None:
    """rpminspect/rpminspect#22, openshift/installer#1821, pallets/click#60: a directory called `~`."""
    home, here = tmp_path / "home", tmp_path / "here"
    (home / "docs").mkdir(parents=True)
    here.mkdir()
    (home / "docs/a.md").write_text("# A\n")
    command = [sys.executable, "-m", "agentpool", "run", str(EXAMPLE / "fleet.toml"), "--output=~/out"]
    done = subprocess.run(
        [*command, "--var=docs=~/docs", "--var=report=~/r.md"],
        cwd=here,
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in home.iterdir()) == ["docs", "out", "r.md"]
    assert list(here.iterdir()) == []


def test_a_default_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AnswerDotAI/exhash#27: one way in knows the home, another does not."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: str(path).replace("~", str(tmp_path / "me"), 1))
    (tmp_path / "me").mkdir()
    (tmp_path / "me/a.txt").touch()
    entry = f'{one("answer")}for_each = "{{d}}/*.txt"\nquery = "{{path}}"\n'
    path = fleet(tmp_path, f'vars.d = {{ type = "path", default = "~" }}\n{entry}')
    assert [agent.query for agent in FleetFile.load(path).agents] == [f"{tmp_path}/me/a.txt"]


def test_an_empty_output_is_not_the_current_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """docker/compose#3768: a variable of the shell that is not set becomes an empty string."""
    path = fleet(tmp_path / "fleet", one("answer"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    done = call("run", path, "--output", "")
    assert done.returncode == 2
    assert done.stderr == "agentpool: --output is empty. Give the path of a directory\n"
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_empty_value_is_a_value_and_none_is_an_error(tmp_path: Path) -> None:
    """docker/compose#3768, #4636, #5185, #7955: an empty string is not the same as nothing."""
    path = fleet(tmp_path, f'[vars.team]\n{one("answer")}query = "<{{team}}>"\n')
    assert FleetFile.load(path, vars={"team": ""}).agents[0].query == "<>"
    with pytest.raises(ManifestError, match=r"vars\.team: has no value. Give it one with --var team=VALUE"):
        FleetFile.load(path)
    path = fleet(tmp_path, f'[vars]\nteam = ""\n{one("answer")}query = "<{{team}}>"\n')
    assert FleetFile.load(path).agents[0].query == "<>"


@pytest.mark.parametrize("value", ["${HOME} $$ %s", "{name} {{x}} {team}", "\\u0041\\n", '"quoted"', "a=b,c"])
def test_a_value_is_taken_as_it_is(value: str, tmp_path: Path) -> None:
    """docker/compose#2204 and the issues behind it: what is in a value is filled in once more."""
    path = fleet(tmp_path, f'[vars.team]\n{one("answer")}query = "<{{team}}>"\n')
    done = call("run", path, "--json", "--var", f"team={value}")
    assert json.loads(done.stdout)["agents"][0]["text"] == f"heard <{value}>"


def test_a_path_is_relative_to_its_file_and_one_of_the_command_line_to_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """phpstan/phpstan#662, rakhimov/scram#172: relative to wherever the program was started."""
    path = fleet(tmp_path / "fleet", '[[agents]]\nmanifest = "m.toml"\nquery = "x"\n')
    (tmp_path / "fleet/m.toml").write_text('name = "m"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (agent,) = FleetFile.load(os.path.relpath(path)).agents
    assert isinstance(agent, FleetAgent)
    assert agent.manifest.name == "m"


def test_a_path_in_two_arguments_is_told_of(tmp_path: Path) -> None:
    """corpnewt/OCConfigCompare#6: a path with a space, and a message that does not say so."""
    done = call("run", "my", "fleet.toml", "more")
    assert done.returncode == 2
    assert done.stderr == (
        "agentpool: 'fleet.toml', 'more': more than the command takes. Put quotes around a path with spaces\n"
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_file_as_windows_writes_it_is_read_or_told_of(encoding: str, ends: str, tmp_path: Path) -> None:
    """Nayjest/Gito#315, hukkin/tomli#304, influxdata/telegraf#1378, pypa/build#684: "Invalid statement"."""
    path = fleet(tmp_path, "")
    path.write_bytes(f'{one("answer")}query = "café"\n'.replace("\n", ends).encode(encoding))
    if encoding == "utf-8-sig":
        assert FleetFile.load(path).agents[0].query == "café"
    else:
        with pytest.raises(ManifestError, match=r"is not UTF-8 .*Save it in the encoding UTF-8"):
            FleetFile.load(path)


def test_modules_in_the_current_directory_do_not_stand_before_installed_ones(tmp_path: Path) -> None:
    """numpy/numpy#16753, pythonic-emacs/pythonic#23: a random.py, and nothing starts any more."""
    path = fleet(tmp_path / "fleet", one("answer"))
    for name in ("random", "types", "trio", "rich", "agents"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    # As the script `agentpool` does: without the current directory on the path.
    command = [sys.executable, "-P", "-m", "agentpool", "run", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# -- terminals ----------------------------------------------------------------------------


SIZES = ["0", "-5", "abc", "²", "٣", "1", "2000000000", "9" * 30]


@pytest.mark.parametrize(
    ("command", "size"), [*((("run",), size) for size in SIZES), (("--help",), "0"), (("--help",), "abc")]
)
def test_a_size_that_is_none_is_passed_over(command: tuple[str, ...], size: str, tmp_path: Path) -> None:
    """rpm-software-management/dnf5#2843, stylelint/stylelint#1416: a crash when all work is done."""
    path = fleet(tmp_path, one("answer"))
    done = subprocess.run(
        [sys.executable, "-m", "agentpool", *command, *([str(path)] if command == ("run",) else [])],
        env={**os.environ, "COLUMNS": size, "LINES": size},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_sizes_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, size in {
        "80": 80,
        "0": None,
        "²": None,
        "٣": None,
        "": None,
        "99999": 99_999,
        "100000": None,
    }.items():
        monkeypatch.setenv("COLUMNS", text)
        assert size_of("COLUMNS") == size
    monkeypatch.delenv("COLUMNS")
    assert size_of("COLUMNS") is None


@posix
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT, signal.SIGSTOP])
def test_nothing_leaves_a_terminal_without_its_cursor(number: int, tmp_path: Path) -> None:
    """BobBuildTool/bob#694, rpm-software-management/dnf5#2619 (Ctrl-Z), manrajgrover/halo#41."""
    pytest.importorskip("fcntl")
    from terminal_kit import on_a_terminal

    path = fleet(tmp_path, one("wait"))
    with on_a_terminal([sys.executable, "-m", "agentpool", "run", str(path)]) as terminal:
        terminal.read_until(lambda text: "running" in text)
        terminal.process.send_signal(number)  # it has no time for last words
        assert terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l")


def test_marks_without_a_width_do_not_flood_a_terminal(tmp_path: Path) -> None:
    """contour-terminal/contour#217, cline/cline#2436: text that has no width, and no end."""
    path = fleet(tmp_path, one("flood"))
    done = call("run", path)
    assert done.returncode == 1
    assert len(done.stdout) < 4_000
    assert len(done.stderr) < 8_000
    text = "e\u0301" * 1_000
    assert cut(text, 1_000) == text
    flood = "e" + "\u0301" * 1_000
    assert len(cut(flood, 10)) <= 10
    assert width_of(cut(flood, 10)) <= 10
    assert "".join(pieces(flood, 10)) == flood
    assert max(map(len, pieces(flood, 10))) == 10 * LETTERS_IN_A_COLUMN


def test_what_is_behind_wide_letters_is_aligned(tmp_path: Path) -> None:
    """Textualize/rich#148, justrach/codegraff#142, KarpelesLab/teamclaude#179."""
    entries = [f'{one("wide")}name = "{name}"\n' for name in ("plain", "日本語", "e\u0301tude", "👍 up")]
    done = call("run", fleet(tmp_path, "".join(entries)))
    lines = [line for line in done.stdout.splitlines() if "completed  " in line]
    assert len({width_of(line[: line.index("completed")]) for line in lines}) == 1
    assert len({width_of(line[: line.index("日本 👍")]) for line in lines}) == 1


def test_a_failure_is_not_exit_code_0(tmp_path: Path) -> None:
    """promptfoo/promptfoo#335, confident-ai/deepeval#770: the table says failed, and CI is green."""
    path = fleet(tmp_path, one("answer") + one("flood"))
    for options in ((), ("--json",), ("--quiet",), ("--output", tmp_path / "out")):
        assert call("run", path, *options).returncode == 1


@posix
@pytest.mark.parametrize("redirection", ["", "2>&-"])
def test_what_others_print_is_not_in_the_document(redirection: str, tmp_path: Path) -> None:
    """apache/airflow#66139, nano-step/nano-brain#235, apify/apify-cli#740: jq cannot read it."""
    path = fleet(tmp_path, one("loud"))
    command = [sys.executable, "-m", "agentpool", "run", str(path), "--json"]
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agents"][0]["text"] == "done"
    if not redirection:
        for line in ("the module was imported", "an agent prints", "a program prints"):
            assert f"{line}\n" in done.stderr


def test_what_others_print_is_not_in_the_document_without_files_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fleet(tmp_path, one("answer"))
    assert _app.call(["run", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == 0
    assert "the module was imported\n" in err
