"""`edit_file`, and what `write_file` keeps of a file: seen by bytes on the disk."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool import AgentManifest, ScriptedDriver, SpawnConfig, open_agent_pool
from agentpool._core.capability import FileReadCapability, FileWriteCapability
from agentpool._core.errors import AgentPoolError, ToolError
from agentpool._core.messages import ToolCall, ToolResult
from agentpool.tools import ToolRegistry, _editing, _files, _places, _reading, build_tools
from agentpool.tools._editing import edited

BOTH = (FileReadCapability(["root"]), FileWriteCapability(["root"]))


class Disk:
    """A directory `root` that is granted, beside `secret` that is not."""

    def __init__(self, base: Path, *capabilities: Any) -> None:
        self.base = base
        self.root = base / "root"
        self.root.mkdir()
        (base / "secret").mkdir()
        self.tools = self.granted(*capabilities or BOTH)

    def granted(self, *capabilities: Any) -> ToolRegistry:
        return build_tools(AgentManifest(name="m", capabilities=capabilities, base=self.base))

    async def call(self, tool: str, registry: ToolRegistry | None = None, **arguments: Any) -> ToolResult:
        try:
            call = ToolCall("1", tool, arguments)
            return await (registry or self.tools).call(None, call)  # type: ignore[arg-type]  # not looked at
        except AgentPoolError as error:
            return ToolResult(str(error), is_error=True)

    async def edit(self, path: str, old: str, new: str, **more: Any) -> str:
        result = await self.call("edit_file", path=path, old=old, new=new, **more)
        assert not result.is_error, result.content
        return result.text

    async def refusal(self, path: str, old: str, new: str, **more: Any) -> str:
        result = await self.call("edit_file", path=path, old=old, new=new, **more)
        assert result.is_error, result.content
        return result.text


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


# -- what is replaced ----------------------------------------------------------------------


async def test_a_text_is_replaced_where_it_is(disk: Disk) -> None:
    file = disk.root / "a.py"
    file.write_bytes(b"one\ntwo\nthree\n")
    assert await disk.edit("a.py", "two\nth", "2\n\n3 th") == "edited a.py, line 2"
    assert file.read_bytes() == b"one\n2\n\n3 three\n"
    assert await disk.edit("root/a.py", "one\n", "") == "edited a.py, line 1"
    assert file.read_bytes() == b"2\n\n3 three\n"
    assert os.listdir(disk.root) == ["a.py"]


async def test_it_has_to_be_there_once_or_all_are_meant(disk: Disk) -> None:
    file = disk.root / "a"
    file.write_bytes(b"x = 1\ny = 1\n\nz = 1\n")
    told = await disk.refusal("a", "= 1", "= 2")
    assert told.startswith("old is in 'a' 3 times, at lines 1, 2, 4; give more of the lines around")
    assert file.read_bytes() == b"x = 1\ny = 1\n\nz = 1\n"
    assert await disk.edit("a", "= 1", "= 1 + 1", replace_all=True) == "edited a, 3 times: lines 1, 2, 4"
    assert file.read_bytes() == b"x = 1 + 1\ny = 1 + 1\n\nz = 1 + 1\n"


async def test_places_that_overlap_are_more_than_one(disk: Disk) -> None:
    (disk.root / "a").write_bytes(b"aaa")
    assert "2 times, at lines 1, 1" in await disk.refusal("a", "aa", "b")
    await disk.edit("a", "aa", "b", replace_all=True)
    assert (disk.root / "a").read_bytes() == b"ba"


async def test_nothing_in_either_text_has_a_meaning(disk: Disk) -> None:
    file = disk.root / "a"
    for text in (r"$& $1 $$ $` \1 \g<0> \n", "%s {0} {a}", ".*+?()[]{}|^", "\\", "*" * 500):
        file.write_bytes(b"<here>")
        await disk.edit("a", "here", text)
        assert file.read_bytes() == f"<{text}>".encode()
        await disk.edit("a", text, "there")
        assert file.read_bytes() == b"<there>"


@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        # A model writes \n, whatever the file has.
        (b"a\r\nb\r\nc\r\n", "a\nb", "1\n2\n3", b"1\r\n2\r\n3\r\nc\r\n"),
        (b"a\r\nb\r\nc\r\n", "a\r\nb", "1\n2", b"1\r\n2\r\nc\r\n"),
        (b"a\r\nb\r\n", "b", "1\n2", b"a\r\n1\r\n2\r\n"),
        (b"a\nb\n", "a\r\nb", "1\r\n2", b"1\n2\n"),
        (b"a\rb\rc", "a\nb", "1\n2", b"1\r2\rc"),
        # A line of its own kind keeps it, and what is beside it stays.
        (b"a\r\nb\nc\r\nd\n", "b\nc", "1\n2", b"a\r\n1\n2\r\nd\n"),
        (b"a\r\nb\nc\r\nd\n", "a\nb", "1\n2", b"1\r\n2\nc\r\nd\n"),
        (b"a\r\nb", "\nb", "\nc", b"a\r\nc"),
        (b"a\r\nb\r\n", "a\n", "", b"b\r\n"),
        (b"a\r\n\r\nb", "\n\n", "\n", b"a\r\nb"),
        # What a \r is for is not lost.
        (b"50%\r100%\n", "100%", "99%", b"50%\r99%\n"),
        (b"a\r\nb\r\r\nc", "b\r", "b", b"a\r\nb\r\nc"),
        (b"abc", "b", "1\r\n2", b"a1\n2c"),
    ],
)
async def test_line_breaks_are_those_of_the_file(
    disk: Disk, before: bytes, old: str, new: str, after: bytes
) -> None:
    (disk.root / "a").write_bytes(before)
    await disk.edit("a", old, new)
    assert (disk.root / "a").read_bytes() == after


async def test_each_of_several_places_keeps_its_own_line_breaks(disk: Disk) -> None:
    (disk.root / "a").write_bytes(b"x\r\ny\r\nx\ny\nx\ry\r")
    await disk.edit("a", "x\ny", "1\n2", replace_all=True)
    assert (disk.root / "a").read_bytes() == b"1\r\n2\r\n1\n2\n1\r2\r"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
async def test_encoding_and_mark_are_kept(disk: Disk, codec: str) -> None:
    mark = "\ufeff" if codec.startswith("utf-16") else ""
    (disk.root / "a").write_bytes((mark + "grün\r\n𝄞 alt\r\n").encode(codec))
    await disk.edit("a", "grün\n𝄞 alt", "blau\n𝄢 neu")
    assert (disk.root / "a").read_bytes() == (mark + "blau\r\n𝄢 neu\r\n").encode(codec)


async def test_what_is_no_text_is_left_alone(disk: Disk) -> None:
    for data, told in ((b"a\0b", "binary"), (b"caf\xe9 old\n", "not UTF-8 text: byte 0xe9 in line 1")):
        (disk.root / "a").write_bytes(data)
        assert told in await disk.refusal("a", "old", "new")
        assert (disk.root / "a").read_bytes() == data
    (disk.root / "a").write_bytes(b"old")
    assert "new is not valid text" in await disk.refusal("a", "old", "\ud800")
    assert (disk.root / "a").read_bytes() == b"old"


@settings(max_examples=300, deadline=None)
@given(
    before=st.lists(st.sampled_from(["a", "b", "\n", "\r\n"]), max_size=12).map("".join),
    old=st.text("ab\n", min_size=1, max_size=3),
    new=st.text("abc\n", max_size=3),
)
def test_an_edit_is_what_replacing_is_and_touches_nothing_else(before: str, old: str, new: str) -> None:
    plain = before.replace("\r\n", "\n")
    try:
        after = edited(before, old, new, replace_all=True, name="f")
    except ToolError:
        assert old not in plain or old == new
        return
    assert after.count == plain.count(old)
    assert after.text.replace("\r\n", "\n") == plain.replace(old, new)
    # What is before the first place and behind the last one is the same, character by character.
    first = len(plain) - len(plain[plain.index(old) :])
    assert after.text.startswith(before[: len(before) if first == len(plain) else _index(before, first)])


def _index(text: str, plain: int) -> int:
    """Return where the character `plain` of a text without `\\r\\n` is in the text itself."""
    at = 0
    for _ in range(plain):
        at += 2 if text.startswith("\r\n", at) else 1
    return at


# -- what is told if nothing is --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "old", "new", "told"),
    [
        ("def f():\n    a =  1\n", "def f():\n\ta = 1", "x", "in white space:\n1: def f():\n2:     a =  1"),
        ("if a:\n  x(1, 2)\n", "x(1,2)", "y", "in white space:\n2:   x(1, 2)"),
        ("say “hi” – now\n", 'say "hi" - now', "x", "look alike:\n1: say “hi” – now"),  # noqa: RUF001
        ("a\xa0b\n", "a b", "x", "in white space"),
        ("one\ntwo", "1: one\n2: two", "", "numbers of lines, which are no part of the file:\n1: one"),
        ("one\ntwo\n", "    1\tone\n    2\ttwo", "x", "the numbers of lines"),
        ("one\ntwo\n", "a.py:1: one", "x", "the numbers of lines"),
        ("Hello World\n", "hello world", "x", "upper and lower case:\n1: Hello World"),
        ("one\ntwo\n", "one\\ntwo", "x", r"Line breaks are written as \\n there, where \n is one"),
        ("done\n", "todo", "done", "But new is there: was it replaced before?"),
        ("alpha\nresult = compute(a, b)\n", "result = compute(a, c)", "x", "is\n2: result = compute(a, b)"),
        ("alpha\n", "zzz", "x", "Nothing there is like it; read_file shows what the file holds now"),
        ("", "x", "y", "Nothing there is like it"),
        ("x\n", "\n\n\n", "y", "Nothing there is like it"),
    ],
)  # fmt: skip
async def test_what_is_nearest_is_told(disk: Disk, text: str, old: str, new: str, told: str) -> None:
    (disk.root / "a").write_text(text)
    said = await disk.refusal("a", old, new)
    assert said.startswith("old is not in 'a'. ")
    assert told in said
    assert (disk.root / "a").read_text() == text


async def test_a_hint_is_short_also_for_a_long_text(disk: Disk) -> None:
    (disk.root / "a").write_text("".join(f"  {n} {'x' * 400}\n" for n in range(100)))
    said = await disk.refusal("a", "".join(f"{n} {'x' * 400}\n" for n in range(100)), "y")
    assert "20:   19 xxx" in said
    assert "and 80 lines more" in said
    assert len(said) < 8_000


async def test_what_would_change_nothing_is_refused(disk: Disk) -> None:
    (disk.root / "a").write_bytes(b"a\r\nb")
    assert "old is empty" in await disk.refusal("a", "", "x")
    assert "say the same" in await disk.refusal("a", "a", "a")
    assert "line breaks are the file's own" in await disk.refusal("a", "a\r\n", "a\n")
    assert "there is no file 'b'" in await disk.refusal("b", "a", "x")
    assert "there is no file 'x/b'" in await disk.refusal("x/b", "a", "x")
    assert not (disk.root / "x").exists()
    assert "is a directory" in await disk.refusal(".", "a", "x")


async def test_an_edit_takes_no_more_than_a_file_may_have(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (disk.root / "a").write_text("x" * 1_000)
    monkeypatch.setattr(_editing, "MAX_CHARS", 50_000)
    told = await disk.refusal("a", "x", "y" * 1_000, replace_all=True)
    assert "would have more than 50,000 characters" in told
    monkeypatch.setattr(_editing, "MAX_MATCHES", 500)
    assert "more than 500 times" in await disk.refusal("a", "x", "y", replace_all=True)
    monkeypatch.undo()
    monkeypatch.setattr("agentpool.tools._writing.MAX_FILE_BYTES", 1_500)
    assert "after the edit has 1999 bytes" in await disk.refusal("a", "x" * 1_000, "y" * 1_999)
    monkeypatch.setattr(_reading, "MAX_FILE_BYTES", 500)
    assert "has 1000 bytes; 500 are the limit" in await disk.refusal("a", "x", "y", replace_all=True)


# -- where it may ------------------------------------------------------------------------------


async def test_an_edit_needs_to_read_and_to_write(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for name in ("read", "written", "both"):
        (disk.root / name).mkdir()
        (disk.root / name / "a").write_text("old")
    read = FileReadCapability(["root/read", "root/both"])
    write = FileWriteCapability(["root/written", "root/both"])
    assert "edit_file" not in disk.granted(read)
    assert "edit_file" not in disk.granted(write)
    disk.tools = disk.granted(read, write)
    assert await disk.edit("root/both/a", "old", "new") == "edited root/both/a, line 1"
    assert "may be read, but not written" in await disk.refusal("root/read/a", "old", "new")
    assert "may be written, but not read" in await disk.refusal("root/written/a", "old", "new")
    assert "outside of what this agent may reach" in await disk.refusal("secret/a", "old", "new")
    assert [(disk.root / name / "a").read_text() for name in ("read", "written")] == ["old", "old"]


async def test_a_file_is_found_by_the_name_under_which_it_was_written(tmp_path: Path) -> None:
    disk = Disk(tmp_path, FileReadCapability(["."]), FileWriteCapability(["root"]))
    assert (await disk.call("write_file", path="a", content="old")).text == "wrote a (3 bytes)"
    assert await disk.edit("a", "old", "new") == "edited root/a, line 1"
    (tmp_path / "a").write_text("new too")  # now that is what read_file calls `a`
    assert "may be read, but not written" in await disk.refusal("a", "new", "x")
    assert await disk.edit("root/a", "new", "x") == "edited root/a, line 1"


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="the system has no links")
async def test_links_are_kept_and_lead_nowhere_else(disk: Disk) -> None:
    (disk.root / "a").write_text("old")
    (disk.root / "link").symlink_to("a")
    (disk.root / "out").symlink_to("../secret/a")
    (disk.base / "secret" / "a").write_text("old")
    await disk.edit("link", "old", "new")
    assert (disk.root / "link").is_symlink()
    assert (disk.root / "a").read_text() == "new"
    assert "outside" in await disk.refusal("out", "old", "new")
    assert (disk.base / "secret" / "a").read_text() == "old"


@pytest.mark.skipif(not _places.HAS_DIR_FD, reason="the system opens by names only")
@pytest.mark.parametrize("what", ["file", "folder", "root", "above"])
async def test_a_link_that_is_put_there_meanwhile_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    disk = Disk(base)
    (disk.root / "in").mkdir()
    (disk.root / "in" / "a").write_text("old inside")
    (tmp_path / "secret" / "root" / "in").mkdir(parents=True)
    (tmp_path / "secret" / "root" / "in" / "a").write_text("old SECRET")
    victim = {"file": "base/root/in/a", "folder": "base/root/in", "root": "base/root", "above": "base"}[what]
    target = victim.replace("base", "secret", 1)
    find = _places.Roots.find

    def find_then_swap(roots: Any, path: str) -> Any:
        place = find(roots, path)
        if not (tmp_path / victim).is_symlink():
            (tmp_path / victim).rename(tmp_path / "moved")
            (tmp_path / victim).symlink_to(tmp_path / target)
        return place

    monkeypatch.setattr(_places.Roots, "find", find_then_swap)
    reads = await disk.call("read_file", path="in/a")
    monkeypatch.undo()
    writes = [
        await disk.call("edit_file", path="in/a", old="old", new="new"),
        await disk.call("write_file", path="in/a", content="x"),
        await disk.call("search_text", text="SECRET"),
    ]
    assert all("SECRET" not in result.text or "no line has" in result.text for result in [reads, *writes])
    assert reads.is_error
    assert (tmp_path / "secret" / "root" / "in" / "a").read_text() == "old SECRET"


@pytest.mark.skipif(not _places.HAS_DIR_FD, reason="the system opens by names only")
async def test_a_root_that_becomes_a_link_after_the_agent_began_leads_nowhere(disk: Disk) -> None:
    (disk.base / "secret" / "a").write_text("SECRET")
    (disk.root / "a").write_text("harmless")
    disk.root.rename(disk.base / "moved")
    disk.root.symlink_to("secret")
    for tool, more in (("read_file", {"path": "a"}), ("list_files", {}), ("search_text", {"text": "S"})):
        result = await disk.call(tool, **more)
        assert "SECRET" not in result.text
        assert "a" not in result.text.split()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
async def test_only_ordinary_files_are_opened(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(disk.root / "pipe")
    opened: list[Any] = []
    really = os.open

    def watched(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if not flags & os.O_DIRECTORY:  # which opens nothing else
            opened.append(path)
        return really(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", watched)
    with trio.fail_after(5):
        for tool, more in (("read_file", {}), ("edit_file", {"old": "a", "new": "b"})):
            result = await disk.call(tool, path="pipe", **more)
            assert "no ordinary file" in result.text
        assert (await disk.call("search_text", text="a", path="pipe")).is_error is False
    assert "pipe" not in opened


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="the system has no /proc")
async def test_what_the_kernel_makes_up_is_no_file_unless_it_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_SECRET", "SECRET")
    disk = Disk(tmp_path, FileReadCapability(["/"]))
    for path in ("/proc/self/environ", f"/proc/{os.getpid()}/environ", "/proc/self/root/proc/self/environ"):
        result = await disk.call("read_file", path=path)
        assert result.is_error
        assert "SECRET" not in result.text
    assert "no files fit" in (await disk.call("list_files", path="/proc/self", pattern="environ")).text
    disk.tools = disk.granted(FileReadCapability(["/proc/self/status"]))
    result = await disk.call("list_files")
    assert not result.is_error


# -- how it is written ---------------------------------------------------------------------------


async def test_the_mode_is_kept_and_no_one_sees_more_of_it_meanwhile(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = disk.root / "run.sh"
    file.write_text("old")
    modes: list[int] = []
    made: list[int] = []
    replace, really = os.replace, os.open

    def watched(*args: Any, **more: Any) -> None:
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in disk.root.iterdir())
        replace(*args, **more)

    def opened(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & os.O_CREAT:
            made.append(mode)
        return really(path, flags, mode, **more)

    for mode in (0o755, 0o640, 0o600):
        file.chmod(mode)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", watched)
            patch.setattr(os, "open", opened)
            await disk.edit("run.sh", "old", "old!")
        assert stat.S_IMODE(file.stat().st_mode) == mode
    assert modes == [0o755, 0o755, 0o640, 0o640, 0o600, 0o600]
    assert made == [0o600] * 3


async def test_a_file_that_is_read_only_is_refused(disk: Disk) -> None:
    file = disk.root / "a"
    file.write_text("old")
    file.chmod(0o444)
    assert "read-only" in await disk.refusal("a", "old", "new")
    result = await disk.call("write_file", path="a", content="new")
    assert "read-only" in result.text
    assert file.read_text() == "old"
    assert os.listdir(disk.root) == ["a"]


@pytest.mark.skipif(not hasattr(os, "link"), reason="the system has no hard links")
async def test_of_two_hard_links_one_is_edited(disk: Disk) -> None:
    (disk.root / "a").write_text("old")
    os.link(disk.root / "a", disk.root / "b")
    await disk.edit("a", "old", "new")
    assert ((disk.root / "a").read_text(), (disk.root / "b").read_text()) == ("new", "old")


async def test_an_edit_that_fails_leaves_the_file_as_it_was(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (disk.root / "a").write_text("old")
    monkeypatch.setattr(os, "replace", full)
    assert "No space left" in await disk.refusal("a", "old", "new")
    assert (disk.root / "a").read_text() == "old"
    assert os.listdir(disk.root) == ["a"]


# -- beside others ---------------------------------------------------------------------------------


async def test_edits_of_one_file_beside_each_other_are_all_there(disk: Disk) -> None:
    (disk.root / "a").write_text("".join(f"line {n}\n" for n in range(30)))
    (disk.root / "link").symlink_to("a")
    others = disk.granted(*BOTH)  # another agent

    async def edit(n: int) -> None:
        result = await disk.call(
            "edit_file",
            (disk.tools, others)[n % 2],
            path=("a", "link")[n % 3 == 0],
            old=f"line {n}\n",
            new=f"LINE {n}\n",
        )
        assert not result.is_error, result.content

    async with trio.open_nursery() as nursery:
        for n in range(30):
            nursery.start_soon(edit, n)
    assert (disk.root / "a").read_text() == "".join(f"LINE {n}\n" for n in range(30))


async def test_two_calls_of_one_turn_edit_one_file(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").write_text("one two")
    (tmp_path / "m.toml").write_text(
        """
        name = "m"
        capabilities = [
            { type = "file_write", allowed_paths = ["root"] },
            { type = "file_read", allowed_paths = ["root"] },
        ]
        [script]
        steps = [
            { calls = [{ tool = "edit_file", input = { path = "a", old = "one", new = "1" } },
                       { tool = "edit_file", input = { path = "a", old = "two", new = "2" } }] },
            { text = "{results[0]}|{results[1]}" },
        ]
        """
    )
    manifest = AgentManifest.load(tmp_path / "m.toml")
    async with open_agent_pool(ScriptedDriver.for_manifest(manifest), max_concurrent=1) as pool:
        said = (await (await pool.spawn(SpawnConfig(manifest, "x"))).result()).text
    assert said == "edited a, line 1|edited a, line 1"
    assert (tmp_path / "root" / "a").read_text() == "1 2"


def changing(file: Path, times: int) -> Callable[..., Any]:
    """Stand in for the pure edit: another program writes the file while it is at work."""
    left = [times]

    def edit_while_it_changes(text: str, *args: Any, **more: Any) -> Any:
        if left[0]:
            left[0] -= 1
            file.write_text(file.read_text() + f"by another {left[0]}\n")
        return edited(text, *args, **more)

    return edit_while_it_changes


async def test_what_another_program_writes_meanwhile_is_not_lost(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = disk.root / "a"
    file.write_text("old\n")
    monkeypatch.setattr(_files, "edited", changing(file, 2))
    await disk.edit("a", "old", "new")
    assert file.read_text() == "new\nby another 1\nby another 0\n"
    monkeypatch.setattr(_files, "edited", changing(file, 99))
    assert "is being changed by somebody else" in await disk.refusal("a", "new", "newer")
    assert file.read_text().startswith("new\n")


async def test_a_file_that_is_gone_meanwhile_is_not_made_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (disk.root / "a").write_text("old\n")

    def edit_and_remove(*args: Any, **more: Any) -> Any:
        (disk.root / "a").unlink()
        return edited(*args, **more)

    monkeypatch.setattr(_files, "edited", edit_and_remove)
    assert "there is no file 'a'" in await disk.refusal("a", "old", "new")
    assert os.listdir(disk.root) == []


async def test_an_edit_that_is_cancelled_has_happened_or_not(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(*args: Any, **more: Any) -> Any:
        began.set()
        assert go_on.wait(5)
        return edited(*args, **more)

    (disk.root / "a").write_text("old\n")
    monkeypatch.setattr(_files, "edited", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.edit, "a", "old", "new")
        await trio.to_thread.run_sync(began.wait, 5)
        nursery.cancel_scope.cancel()
        go_on.set()
    assert (disk.root / "a").read_text() == "new\n"
    assert os.listdir(disk.root) == ["a"]


async def test_a_long_search_ends_soon_when_it_is_cancelled(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(50):
        (disk.root / f"{n:02}").write_text("text")
    began, go_on = threading.Event(), threading.Event()
    read: list[str] = []

    def slow(place: Any) -> bytes:
        read.append(place.name)
        began.set()
        assert go_on.wait(5)
        return b"text"

    monkeypatch.setattr("agentpool.tools._searching.read_bytes", slow)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: disk.call("search_text", text="nothing"))
            await trio.to_thread.run_sync(began.wait, 5)
            nursery.cancel_scope.cancel()
            go_on.set()
    assert read == ["00"]


# -- what write_file keeps ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "content", "after", "kept"),
    [
        (b"\xef\xbb\xbfa\r\nb\r\n", "x\ny\n", b"\xef\xbb\xbfx\r\ny\r\n", "mark (utf-8) and"),
        ("é".encode("utf-16"), "ü", "ü".encode("utf-16"), "byte order mark (utf-16"),
        (b"a\r\nb\r\n", "x\ny\n", b"x\r\ny\r\n", r"with its line breaks (\r\n)"),
        (b"a\r\nb\n", "x\ny\n", b"x\ny\n", ""),
        (b"a\r\n", "x\r\ny\n", b"x\r\ny\n", ""),
        (b"a\r\n", "x", b"x", ""),
        ("é".encode("utf-8-sig"), "\ufeffü", "ü".encode("utf-8-sig"), ""),
        (b"a\0b\r\n", "x\ny\n", b"x\ny\n", ""),
        (b"caf\xe9\r\n", "x\n", b"x\n", ""),
        (b"", "x\n", b"x\n", ""),
    ],
)  # fmt: skip
async def test_a_file_that_is_written_anew_keeps_its_encoding_and_line_breaks(
    disk: Disk, before: bytes, content: str, after: bytes, kept: str
) -> None:
    (disk.root / "a").write_bytes(before)
    told = (await disk.call("write_file", path="a", content=content)).text
    assert (disk.root / "a").read_bytes() == after
    assert told.startswith(f"wrote a ({len(after)} bytes")
    assert (kept in told) if kept else told.endswith(" bytes)")


async def test_what_cannot_be_written_makes_no_directory(disk: Disk) -> None:
    assert (await disk.call("write_file", path="x/a", content="\ud800")).is_error
    assert os.listdir(disk.root) == []


# -- other systems, and what is seldom ---------------------------------------------------------------


@pytest.mark.parametrize("missing", [[], ["_PATH"], ["_PATH", "HAS_DIR_FD"]])
async def test_files_are_reached_as_well_where_the_system_can_do_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    for name in missing:
        monkeypatch.setattr(_places, name, 0)
    disk = Disk(tmp_path, FileReadCapability(["root", "new"]), FileWriteCapability(["root", "new"]))
    (tmp_path / "secret" / "a").write_text("SECRET")
    (disk.root / "out").symlink_to("../secret")
    for path in ("root/x/y/a", "new/a"):
        assert (await disk.call("write_file", path=path, content="old")).text == f"wrote {path} (3 bytes)"
        await disk.edit(path, "old", "new")
        assert (await disk.call("read_file", path=path)).text == "new"
    assert (await disk.call("list_files")).text == "root/x/y/a\nnew/a"
    assert (await disk.call("search_text", text="new")).text == "root/x/y/a:1: new\nnew/a:1: new"
    for tool, more in (("read_file", {}), ("write_file", {"content": "x"}), ("list_files", {})):
        assert "outside" in (await disk.call(tool, path="root/out/a", **more)).text
    assert (tmp_path / "secret" / "a").read_text() == "SECRET"


async def test_a_link_is_seen_also_where_files_are_opened_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_places, "HAS_DIR_FD", False)
    disk = Disk(tmp_path)
    (tmp_path / "secret" / "a").write_text("old SECRET")
    (disk.root / "in").mkdir()
    (disk.root / "in" / "a").write_text("old")
    find = _places.Roots.find

    def find_then_swap(roots: Any, path: str) -> Any:
        place = find(roots, path)
        if not (disk.root / "in").is_symlink():
            (disk.root / "in").rename(disk.root / "moved")
            (disk.root / "in").symlink_to("../secret")
        return place

    for tool, more in (("read_file", {}), ("edit_file", {"old": "old", "new": "x"}), ("list_files", {})):
        with monkeypatch.context() as patch:
            patch.setattr(_places.Roots, "find", find_then_swap)
            path = "in" if tool == "list_files" else "in/a"
            result = await disk.call(tool, path=path, **more)
            assert "SECRET" not in result.text
            assert result.is_error or "no files fit" in result.text
        (disk.root / "in").unlink()
        (disk.root / "moved").rename(disk.root / "in")
    assert (tmp_path / "secret" / "a").read_text() == "old SECRET"


@pytest.mark.skipif(not _places.HAS_DIR_FD, reason="the system opens by names only")
@pytest.mark.parametrize("becomes", ["pipe", "link"])
async def test_a_file_that_becomes_something_else_in_the_last_moment_is_refused(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    (disk.root / "a").write_text("old")
    (disk.base / "secret" / "a").write_text("SECRET")
    really = os.stat

    def stat_then_swap(path: Any, **more: Any) -> os.stat_result:
        status = really(path, **more)
        if path == "a":
            os.unlink(disk.root / "a")
            os.mkfifo(disk.root / "a") if becomes == "pipe" else os.symlink("../secret/a", disk.root / "a")
        return status

    monkeypatch.setattr(os, "stat", stat_then_swap)
    with trio.fail_after(5):
        told = (await disk.call("read_file", path="a")).text
    assert ("no ordinary file" if becomes == "pipe" else "cannot be used") in told


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
async def test_a_file_stays_its_owners(disk: Disk) -> None:
    file = disk.root / "a"
    file.write_text("old")
    os.chown(file, 1234, 4321)
    file.chmod(0o4755)
    await disk.edit("a", "old", "new")
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 4321, 0o755)


def test_a_part_of_a_file_is_read_by_programs_as_by_models(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "result.txt").write_text("".join(f"{n}\n" for n in range(9)) + "x" * 70_000)

    def read(path: str, **more: Any) -> str:
        return _reading.read_text(["kept"], path, base=tmp_path, **more)

    assert read("kept/result.txt", start_line=3, max_lines=2) == (
        "2\n3\n[lines 3 to 4 of 10; go on with start_line=5]"
    )
    first = read("result.txt", start_line=10)
    assert first == "x" * 60_000 + "\n[line 10 goes on; go on with start_line=10, start_column=60001]"
    assert read("result.txt", start_line=10, start_column=60_001) == "x" * 10_000
    with pytest.raises(ToolError, match="count from 1"):
        read("result.txt", start_column=0)
    with pytest.raises(ToolError, match="outside"):
        read("../secret")


def test_a_file_that_grows_while_it_is_read_is_not_cut_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("x" * 100)
    (tmp_path / "small").write_text("x")
    monkeypatch.setattr(_reading, "MAX_FILE_BYTES", 50)
    place = _places.Roots(["a"], tmp_path).find("a")
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    try:
        with pytest.raises(ToolError, match="51 bytes; 50 are the limit"):
            _reading.read_opened(place, fd, os.stat(tmp_path / "small"))
    finally:
        os.close(fd)


async def test_brackets_of_a_name_can_be_escaped_in_a_pattern(disk: Disk) -> None:
    for name in ("app/[id]/page.tsx", "app/i/page.tsx", "app/{a,b}.ts", "app/a.ts"):
        (disk.root / name).parent.mkdir(parents=True, exist_ok=True)
        (disk.root / name).write_text("x")
    for pattern, names in (
        (r"app/\[id\]/*.tsx", "app/[id]/page.tsx"),
        ("app/[[]id]/*.tsx", "app/[id]/page.tsx"),
        ("app/[id]/*.tsx", "app/i/page.tsx"),
        (r"app/\{a,b\}.ts", "app/{a,b}.ts"),
        (r"*\{a*", "app/{a,b}.ts"),
        ("app/{a,[id]/{page,x}}.{ts,tsx}", "app/a.ts\napp/i/page.tsx"),
    ):
        assert (await disk.call("list_files", pattern=pattern)).text == names, pattern


async def test_a_search_has_a_limit_for_all_files_together(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(9):
        (disk.root / f"{n}").write_text("x" * 100)
    monkeypatch.setattr("agentpool.tools._searching.MAX_SEARCHED_BYTES", 500)
    assert "holds more than 500 bytes" in (await disk.call("search_text", text="y")).text
    assert (await disk.call("search_text", text="y", path="0")).text == "no line has 'y'"
