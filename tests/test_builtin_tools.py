from __future__ import annotations

import fnmatch
import functools
import itertools
import json
import math
import os
import stat
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool import ScriptedDriver, SpawnConfig, open_agent_pool
from agentpool._core.capability import (
    FileReadCapability,
    FileWriteCapability,
    MemoryCapability,
    MessagingCapability,
    SpawnCapability,
)
from agentpool._core.errors import (
    CapabilityDeniedError,
    DeadlockError,
    ManifestError,
    PoolLimitError,
    ToolError,
    UnknownAgentError,
)
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import (
    AgentMessage,
    Completion,
    CompletionRequest,
    ToolCall,
    ToolMessage,
    ToolResult,
)
from agentpool._core.outcomes import Aborted, AgentResult, Completed, Failed
from agentpool._core.usage import NO_USAGE
from agentpool.memory import InMemory
from agentpool.tools import (
    ToolRegistry,
    _files,
    _patterns,
    _places,
    _reading,
    _searching,
    _writing,
    build_tools,
)

needs_links = pytest.mark.skipif(not hasattr(os, "symlink"), reason="the system has no links")


@attrs.define(eq=False)
class FakeHandle:
    outcome: Any
    aborted: list[str | None] = attrs.field(factory=list)

    async def wait(self) -> Any:
        if self.outcome is None:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.outcome

    def abort(self, reason: str | None = None) -> None:
        self.aborted.append(reason)


@attrs.define(eq=False)
class FakeContext:
    """Enough of an agent's context for a tool."""

    id: int = 7
    name: str = "me"
    depth: int = 0
    memory: Any = None
    sent: list[tuple[int, Any]] = attrs.field(factory=list)
    inbox: list[Any] = attrs.field(factory=list)
    spawned: list[tuple[Any, str | None]] = attrs.field(factory=list)
    handle: Any = None
    known: dict[str, int] = attrs.field(factory=dict)

    async def send(self, to: int | str, content: Any) -> None:
        to = self.find(to) if isinstance(to, str) else to
        if to == 99:
            raise UnknownAgentError(to)
        self.sent.append((to, content))

    def receive_nowait(self) -> AgentMessage:
        raise NotImplementedError

    async def receive(self) -> AgentMessage:
        if not self.inbox:
            await trio.sleep_forever()
        message = self.inbox.pop(0)
        if message is DeadlockError:
            raise DeadlockError((self.id, 0))
        if isinstance(message, type):
            raise message
        return message  # type: ignore[no-any-return]

    async def receive_for_model(self) -> AgentMessage:
        return await self.receive()

    def find(self, name: str) -> int:
        if name not in self.known:
            raise UnknownAgentError(0, f"no live agent is called {name!r}")
        return self.known[name]

    async def spawn_for_model(
        self, agent: Any, /, *args: Any, name: str | None = None, **options: Any
    ) -> Any:
        if self.handle is None:
            raise PoolLimitError("depth", 3)
        self.spawned.append((agent, name))
        return self.handle


def registry_of(*capabilities: Any, base: Path | None = None, **options: Any) -> ToolRegistry:
    return build_tools(AgentManifest(name="m", capabilities=capabilities, base=base), **options)


async def use(registry: ToolRegistry, name: str, ctx: Any = None, /, **arguments: Any) -> ToolResult:
    return await registry.call(FakeContext() if ctx is None else ctx, ToolCall("1", name, arguments))


async def text(registry: ToolRegistry, name: str, ctx: Any = None, /, **arguments: Any) -> str:
    result = await use(registry, name, ctx, **arguments)
    assert not result.is_error, result.content
    return result.content


async def refusal(registry: ToolRegistry, name: str, ctx: Any = None, /, **arguments: Any) -> str:
    result = await use(registry, name, ctx, **arguments)
    assert result.is_error, result.content
    return result.content


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder `root` that is granted, and `secret` beside it that is not."""
    root = tmp_path / "root"
    (root / "guide").mkdir(parents=True)
    (root / "a.md").write_text("alpha\nbeta TODO\n")
    (root / "guide" / "b.md").write_text("Gamma\ntodo delta\n")
    (root / "guide" / "c.txt").write_text("TODO here\n")
    (root / ".hidden").write_text("TODO\n")
    (root / ".git").mkdir()
    (root / ".git" / "d.md").write_text("TODO\n")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.md").write_text("SECRET TODO\n")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "e.md").write_text("near by name\n")
    return tmp_path


@pytest.fixture
def reader(tree: Path) -> ToolRegistry:
    return registry_of(FileReadCapability(["root"]), base=tree)


@pytest.fixture
def writer(tree: Path) -> ToolRegistry:
    return registry_of(FileWriteCapability(["root"]), base=tree)


def everything_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


# -- reading ------------------------------------------------------------------------


async def test_a_file_is_read_by_its_name_below_the_root(reader: ToolRegistry, tree: Path) -> None:
    for path in (
        "a.md",
        "./a.md",
        "guide/../a.md",
        "root/a.md",
        "secret/../root/a.md",
        str(tree / "root/a.md"),
    ):
        assert await text(reader, "read_file", path=path) == "alpha\nbeta TODO\n", path


async def test_a_part_of_a_file_is_read_by_lines(reader: ToolRegistry, tree: Path) -> None:
    (tree / "root" / "n").write_text("".join(f"{n}\n" for n in range(1, 11)))
    part = await text(reader, "read_file", path="n", start_line=3, max_lines=2)
    assert part == "3\n4\n[lines 3 to 4 of 10; go on with start_line=5]"
    assert await text(reader, "read_file", path="n", start_line=10) == "10\n"
    assert "has 10 lines" in await refusal(reader, "read_file", path="n", start_line=11)
    assert "count from 1" in await refusal(reader, "read_file", path="n", start_line=0)
    assert "count from 1" in await refusal(reader, "read_file", path="n", max_lines=0)


async def test_a_long_file_is_read_in_parts(reader: ToolRegistry, tree: Path) -> None:
    lines = [f"{n} {'x' * 90}\n" for n in range(2000)]
    (tree / "root" / "long").write_text("".join(lines))
    start, found = 1, ""
    while True:
        part = await text(reader, "read_file", path="long", start_line=start)
        assert len(part) < 65_536
        body, bracket, note = part.rpartition("[lines ")
        found += body if bracket else part
        if not bracket:
            break
        start = int(note.rstrip("]").rpartition("=")[2])
    assert found == "".join(lines)


async def test_a_line_that_is_too_long_is_cut(reader: ToolRegistry, tree: Path) -> None:
    (tree / "root" / "line").write_text("x" * 70_000)
    part = await text(reader, "read_file", path="line")
    assert part == "x" * 60_000 + "\n[line 1 goes on; go on with start_line=1, start_column=60001]"
    assert await text(reader, "read_file", path="line", start_column=60_001) == "x" * 10_000
    assert "has 70000 characters" in await refusal(reader, "read_file", path="line", start_column=70_001)


async def test_an_empty_file_is_empty(reader: ToolRegistry, tree: Path) -> None:
    (tree / "root" / "empty").write_text("")
    assert await text(reader, "read_file", path="empty") == ""
    assert await text(reader, "read_file", path="empty", max_lines=3) == ""


async def test_what_is_no_text_is_refused_in_words(
    reader: ToolRegistry, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree / "root"
    (root / "binary").write_bytes(b"a\0b")
    (root / "latin").write_bytes("a\nü".encode("latin-1"))
    assert await refusal(reader, "read_file", path="binary") == "'binary' is a binary file, not text"
    assert "'latin' is not UTF-8 text: byte 0xfc in line 2" in await refusal(
        reader, "read_file", path="latin"
    )
    assert "'guide' is a directory" in await refusal(reader, "read_file", path="guide")
    assert "there is no file 'none.md'" in await refusal(reader, "read_file", path="none.md")
    assert "cannot be used" in await refusal(reader, "read_file", path="a.md/x")
    assert "NUL" in await refusal(reader, "read_file", path="a\0.md")
    assert await refusal(reader, "read_file", path="\ud800")
    assert await refusal(reader, "read_file", path="x" * 5000)
    monkeypatch.setattr(_reading, "MAX_FILE_BYTES", 3)
    assert "3 are the limit" in await refusal(reader, "read_file", path="a.md")


async def test_a_byte_order_mark_is_left_out(reader: ToolRegistry, tree: Path) -> None:
    (tree / "root" / "bom").write_bytes(b"\xef\xbb\xbfx")
    assert await text(reader, "read_file", path="bom") == "x"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
async def test_a_pipe_is_refused_without_waiting(reader: ToolRegistry, tree: Path) -> None:
    os.mkfifo(tree / "root" / "pipe")
    assert "no ordinary file" in await refusal(reader, "read_file", path="pipe")


async def test_a_file_that_may_not_be_opened_is_refused_in_words(
    reader: ToolRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: object, name: str, dir_fd: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_reading, "open_regular", refuse)
    assert await refusal(reader, "read_file", path="a.md") == "'a.md' cannot be used: Permission denied"


# -- no way out ---------------------------------------------------------------------

OUTSIDE = [
    "../secret/key.md",
    "guide/../../secret/key.md",
    "../root2/e.md",
    "..",
    "/etc/passwd",
    "/",
    "./../../../../../../etc/passwd",
    "nowhere/../../secret/key.md",
]


@pytest.mark.parametrize("path", OUTSIDE)
async def test_no_path_leads_out(reader: ToolRegistry, writer: ToolRegistry, tree: Path, path: str) -> None:
    before = everything_in(tree)
    for registry, name, more in (
        (reader, "read_file", {}),
        (reader, "list_files", {}),
        (reader, "search_text", {"text": "SECRET"}),
        (writer, "write_file", {"content": "x"}),
    ):
        said = await refusal(registry, name, path=path, **more)
        assert said == f"{path!r} is outside of what this agent may reach, which is: root"
    assert everything_in(tree) == before


@pytest.mark.parametrize("path", ["secret/key.md", "root2/e.md", "root/../secret/key.md", "~/key.md"])
async def test_a_name_from_beside_the_root_means_one_below_it(
    reader: ToolRegistry, writer: ToolRegistry, tree: Path, path: str
) -> None:
    assert "there is no file" in await refusal(reader, "read_file", path=path)
    assert "there is no directory" in await refusal(reader, "list_files", path=path)
    await text(writer, "write_file", path=path, content="x")
    assert (tree / "secret" / "key.md").read_text() == "SECRET TODO\n"
    assert (tree / "root2" / "e.md").read_text() == "near by name\n"


async def test_absolute_paths_lead_out_as_little(
    reader: ToolRegistry, writer: ToolRegistry, tree: Path
) -> None:
    outside = str(tree / "secret" / "key.md")
    assert "outside" in await refusal(reader, "read_file", path=outside)
    assert "outside" in await refusal(writer, "write_file", path=outside, content="x")


@needs_links
async def test_links_that_lead_out_are_refused(
    reader: ToolRegistry, writer: ToolRegistry, tree: Path
) -> None:
    root = tree / "root"
    (root / "file-link").symlink_to(tree / "secret" / "key.md")
    (root / "dir-link").symlink_to(tree / "secret")
    (root / "up-link").symlink_to("..")
    (root / "chain").symlink_to("dir-link")
    (root / "dangling").symlink_to(tree / "secret" / "new.md")
    (root / "loop").symlink_to("loop")
    for path in ("file-link", "dir-link/key.md", "up-link/secret/key.md", "chain/key.md", "dangling"):
        assert "outside" in await refusal(reader, "read_file", path=path)
        assert "outside" in await refusal(writer, "write_file", path=path, content="x")
    for path in ("dir-link", "up-link", "chain"):
        assert "outside" in await refusal(reader, "list_files", path=path)
        assert "outside" in await refusal(reader, "search_text", path=path, text="SECRET")
    assert await refusal(reader, "read_file", path="loop")
    assert await refusal(writer, "write_file", path="dir-link/new.md", content="x")
    assert not (tree / "secret" / "new.md").exists()
    assert await text(reader, "list_files") == "a.md\nguide/b.md\nguide/c.txt"
    assert "SECRET" not in await text(reader, "search_text", text="TODO")


@needs_links
async def test_links_within_the_root_are_followed(
    reader: ToolRegistry, writer: ToolRegistry, tree: Path
) -> None:
    root = tree / "root"
    (root / "link.md").symlink_to("guide/b.md")
    (root / "folder").symlink_to("guide")
    assert (await text(reader, "read_file", path="link.md")).startswith("Gamma")
    assert (await text(reader, "read_file", path="folder/b.md")).startswith("Gamma")
    assert await text(reader, "list_files", pattern="*.md") == "a.md\nlink.md\nguide/b.md"
    await text(writer, "write_file", path="link.md", content="new")
    assert (root / "guide" / "b.md").read_text() == "new"
    assert (root / "link.md").is_symlink()


@needs_links
async def test_a_root_may_be_reached_through_a_link(tree: Path) -> None:
    (tree / "alias").symlink_to("root")
    registry = registry_of(FileReadCapability(["alias"]), base=tree)
    assert await text(registry, "read_file", path="a.md") == "alpha\nbeta TODO\n"
    assert await text(registry, "list_files", path="guide") == "guide/b.md\nguide/c.txt"


@needs_links
@pytest.mark.skipif(not _places.HAS_DIR_FD, reason="the system opens by names only")
async def test_a_link_that_is_put_there_after_the_check_is_not_followed(
    reader: ToolRegistry, writer: ToolRegistry, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = _places.Roots.find
    guide = tree / "root" / "guide"

    def find_then_swap(roots: Any, path: str) -> Any:
        place = find(roots, path)
        if not guide.is_symlink():
            guide.rename(tree / "moved")
            guide.symlink_to(tree / "secret")
        return place

    monkeypatch.setattr(_places.Roots, "find", find_then_swap)
    (guide / "key.md").write_text("harmless")
    assert "cannot be used" in await refusal(reader, "read_file", path="guide/key.md")
    guide.unlink()
    (tree / "moved").rename(guide)
    assert "cannot be used" in await refusal(writer, "write_file", path="guide/key.md", content="x")
    assert (tree / "secret" / "key.md").read_text() == "SECRET TODO\n"


@needs_links
@pytest.mark.skipif(not _places.HAS_DIR_FD, reason="the system opens by names only")
async def test_a_file_that_becomes_a_link_after_the_check_is_not_followed(
    reader: ToolRegistry, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = _places.Roots.find

    def find_then_swap(roots: Any, path: str) -> Any:
        place = find(roots, path)
        (tree / "root" / "a.md").unlink()
        (tree / "root" / "a.md").symlink_to(tree / "secret" / "key.md")
        return place

    monkeypatch.setattr(_places.Roots, "find", find_then_swap)
    assert "cannot be used" in await refusal(reader, "read_file", path="a.md")


PARTS = st.sampled_from(
    ["..", ".", "", "root", "root2", "secret", "guide", "out", "in", "key.md", "b.md", "x", "~"]
)


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("maze")
    for folder in ("root/guide", "root2", "secret"):
        (base / folder).mkdir(parents=True)
    (base / "root" / "guide" / "b.md").write_text("inside")
    for folder in ("secret", "root2"):
        (base / folder / "key.md").write_text("outside")
    (base / "root" / "out").symlink_to("../secret")
    (base / "root" / "in").symlink_to("guide")
    (base / "root" / "guide" / "out").symlink_to("../..")
    return base


@needs_links
@settings(max_examples=300, deadline=None)
@given(parts=st.lists(PARTS, min_size=1, max_size=7), absolute=st.booleans())
def test_whatever_a_path_is_made_of_it_stays_inside(maze: Path, parts: list[str], absolute: bool) -> None:
    path = "/".join([str(maze), *parts] if absolute else parts)
    roots = _places.Roots(["root"], maze)
    try:
        place = roots.find(path)
    except CapabilityDeniedError:
        return
    inside = os.path.realpath(maze / "root")
    assert os.path.realpath(place.path) == place.path
    assert place.path == inside or place.path.startswith(inside + os.sep)
    if os.path.isfile(place.path):
        assert _reading.read_bytes(place) == b"inside"


@needs_links
@given(path=st.text(max_size=30))
@settings(deadline=None)
def test_any_text_as_a_path_is_inside_or_refused(maze: Path, path: str) -> None:
    try:
        place = _places.Roots(["root"], maze).find(path)
    except ToolError:
        return
    assert place.path.startswith(os.path.realpath(maze / "root"))


# -- listing and searching ----------------------------------------------------------


async def test_files_are_listed_by_name_below_the_root(reader: ToolRegistry) -> None:
    assert await text(reader, "list_files") == "a.md\nguide/b.md\nguide/c.txt"
    assert await text(reader, "list_files", path="guide") == "guide/b.md\nguide/c.txt"
    assert await text(reader, "list_files", pattern="*.md") == "a.md\nguide/b.md"
    assert await text(reader, "list_files", pattern="guide/*") == "guide/b.md\nguide/c.txt"
    assert await text(reader, "list_files", pattern="./*/*.md") == "guide/b.md"
    assert await text(reader, "list_files", path="guide", pattern="b*") == "guide/b.md"
    assert await text(reader, "list_files", path="a.md") == "a.md"
    assert await text(reader, "list_files", pattern="*.py") == "no files fit '*.py' in '.'"
    assert "there is no directory 'none'" in await refusal(reader, "list_files", path="none")


async def test_several_roots_are_told_apart_by_their_names(tree: Path) -> None:
    registry = registry_of(
        FileReadCapability(["root/guide", "root2"]), FileReadCapability(["root/a.md"]), base=tree
    )
    names = await text(registry, "list_files")
    assert names.splitlines() == ["root/guide/b.md", "root/guide/c.txt", "root2/e.md", "root/a.md"]
    for name in names.splitlines():
        assert await text(registry, "read_file", path=name)
    assert await text(registry, "list_files", path="root2", pattern="*.md") == "root2/e.md"
    said = await refusal(registry, "read_file", path="../secret/key.md")
    assert "which is: root/guide, root2, root/a.md" in said
    assert "outside" in await refusal(registry, "list_files", path="root")
    assert await text(registry, "read_file", path="e.md") == "near by name\n"
    writer = registry_of(FileWriteCapability(["root/guide", "root2"]), base=tree)
    assert "outside" in await refusal(writer, "write_file", path="new.md", content="x")
    await text(writer, "write_file", path="root2/new.md", content="x")
    assert (tree / "root2" / "new.md").read_text() == "x"


async def test_a_root_may_be_a_single_file(tree: Path) -> None:
    registry = registry_of(FileReadCapability(["root/a.md"]), FileWriteCapability(["new.md"]), base=tree)
    assert await text(registry, "list_files") == "root/a.md"
    assert await text(registry, "read_file", path="root/a.md") == "alpha\nbeta TODO\n"
    assert await refusal(registry, "read_file", path="root/guide/b.md")
    assert "outside" in await refusal(registry, "read_file", path="../guide/b.md")
    for content in ("one", "two"):
        await text(registry, "write_file", path="new.md", content=content)
        assert (tree / "new.md").read_text() == content
    assert "outside" in await refusal(registry, "write_file", path="other.md/../other.md", content="x")


async def test_no_granted_path_is_nothing_to_read(tree: Path) -> None:
    registry = registry_of(FileReadCapability([]), base=tree)
    assert "which is: nothing" in await refusal(registry, "read_file", path="root/a.md")
    assert await text(registry, "list_files") == "no files fit '**' in '.'"


async def test_without_a_base_paths_are_relative_to_the_working_directory(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    registry = registry_of(FileReadCapability(["root"]))
    assert await text(registry, "read_file", path="a.md") == "alpha\nbeta TODO\n"


async def test_text_is_found_with_file_and_line(reader: ToolRegistry, tree: Path) -> None:
    (tree / "root" / "binary").write_bytes(b"TODO\0")
    assert await text(reader, "search_text", text="TODO") == "a.md:2: beta TODO\nguide/c.txt:1: TODO here"
    assert await text(reader, "search_text", text="TODO", pattern="*.md") == "a.md:2: beta TODO"
    assert await text(reader, "search_text", text="TODO", path="guide/c.txt") == "guide/c.txt:1: TODO here"
    found = await text(reader, "search_text", text="todo", path="guide", ignore_case=True)
    assert found == "guide/b.md:2: todo delta\nguide/c.txt:1: TODO here"
    assert await text(reader, "search_text", text="zeta") == "no line has 'zeta'"
    assert "give a text" in await refusal(reader, "search_text", text="")


async def test_what_is_listed_and_found_is_bounded(
    reader: ToolRegistry, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "root" / "many").write_text("TODO\n" * 300)
    assert "[cut: only the first 200 lines" in await text(reader, "search_text", text="TODO")
    monkeypatch.setattr(_files, "MAX_NAMES", 2)
    assert (await text(reader, "list_files")).splitlines()[2].startswith("[cut: only the first 2 files")
    monkeypatch.setattr(_searching, "MAX_VISITED", 2)
    assert "holds more than 2 files" in await refusal(reader, "list_files", pattern="*.none")
    monkeypatch.setattr(_searching, "MAX_VISITED", 100)
    monkeypatch.setattr(_searching, "MAX_STEPS", 2)
    (tree / "root" / "guide" / "deep" / "deeper").mkdir(parents=True)
    assert "too deep in each other" in await refusal(reader, "list_files", pattern="*.none")


@attrs.frozen
class Entry:
    """One of very many in a directory."""

    name: str

    def is_symlink(self) -> bool:
        return False

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        return False

    def is_file(self, *, follow_symlinks: bool) -> bool:
        return True


def test_a_directory_of_very_many_files_takes_no_memory(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MusicPlayerDaemon/MPD#2542: all names of a directory were held, though few were wanted."""
    entries = (Entry(f"{number:06}") for number in range(100_000, 0, -1))
    monkeypatch.setattr(os, "scandir", lambda _: nullcontext(entries))
    monkeypatch.setattr(_searching, "MAX_VISITED", 3)
    place = _places.Roots([str(tree / "root")], None).find(".")
    tracemalloc.start()
    try:
        found = _searching._entries(place)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [(f"{number:06}", "file") for number in range(1, 5)]
    assert most < 1_000_000


@given(
    parts=st.lists(
        st.text("ab*?[]", min_size=1, max_size=6).filter(lambda part: not part.startswith("**")),
        min_size=1,
        max_size=4,
    ),
    names=st.lists(
        st.text("ab.", min_size=1, max_size=4).filter(lambda name: not name.startswith(".")),
        min_size=1,
        max_size=4,
    ),
)
def test_a_pattern_without_double_stars_fits_part_by_part(parts: list[str], names: list[str]) -> None:
    fits = _patterns.glob_matcher("/".join(parts))("/".join(names))
    if len(parts) == 1:
        assert fits == fnmatch.fnmatchcase(names[-1], parts[0])
    else:
        each = (fnmatch.fnmatchcase(n, p) for n, p in zip(names, parts, strict=False))
        assert fits == (len(names) == len(parts) and all(each))


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("**", "a/b/c", True),
        ("**/*.md", "a.md", True),
        ("**/*.md", "x/y/a.md", True),
        ("docs/**/*.md", "docs/a.md", True),
        ("docs/**/*.md", "other/docs/a.md", False),
        ("a/**", "a/b/c", True),
        ("a/**/b/**/c", "a/x/b/b/y/c", True),
        ("a/**/b/**/c", "a/x/c", False),
        ("*.{ts,js}", "x/a.js", True),
        ("*.{ts,js}", "a.md", False),
        ("{src,lib/{a,b}}/*.py", "lib/b/x.py", True),
        ("{src,lib/{a,b}}/*.py", "lib/x.py", False),
        ("{kind}*.md", "{kind} x.md", True),
        ("{a,b}.md", "{a,b}.md", True),
        ("a[1].md", "a[1].md", True),
        ("[^a].md", "b.md", True),
        ("[^a].md", "a.md", False),
        ("**.md", "x/y/a.md", True),
        ("docs/**.md", "docs/x/a.md", True),
        ("docs/", "docs/x/a.md", True),
        ("docs/", "x/docs/a.md", False),
        ("./docs/./*.md", "docs/a.md", True),
        ("/docs/*.md", "docs/a.md", True),
        ("docs\\*.md", "docs/a.md", True),
        (" *.md\n", "a.md", True),
        ("", "x/a.md", True),
        (".", "x/a.md", True),
        ("../*", "a.md", False),
        (".env", ".env", True),
        (".github/**", ".github/x/a.yml", True),
        (".github/**", ".github/.x/a.yml", False),
        ("{.github,src}/*.yml", ".github/a.yml", True),
        ("*", ".env", False),
        ("**/a.yml", ".github/a.yml", False),
        (".*/a.yml", ".github/a.yml", True),
        ("*" + "a*" * 40 + "b", "a" * 200, False),  # ends, although a naive pattern would not
    ],
)
def test_double_stars_are_any_number_of_directories(pattern: str, name: str, fits: bool) -> None:
    assert _patterns.glob_matcher(pattern)(name) is fits


def test_braces_that_stand_for_very_many_patterns_are_refused() -> None:
    with pytest.raises(ToolError, match="more than 64 patterns"):
        _patterns.glob_matcher("{a,b}" * 40)


async def test_patterns_may_begin_with_the_directory_or_the_root(reader: ToolRegistry, tree: Path) -> None:
    listed = await text(reader, "list_files", path="guide", pattern="*.md")
    assert listed
    assert await text(reader, "list_files", path="guide", pattern="guide/*.md") == listed
    absolute = str((tree / "root" / "guide").resolve())
    assert await text(reader, "list_files", path="guide", pattern=f"{absolute}/*.md") == listed


async def test_hidden_files_are_listed_where_the_pattern_names_their_dot(
    reader: ToolRegistry, tree: Path
) -> None:
    assert await text(reader, "list_files", pattern=".git/*") == ".git/d.md"
    assert await text(reader, "list_files", pattern=".hidden") == ".hidden"
    assert await text(reader, "list_files", pattern="{.git,guide}/*.md") == ".git/d.md\nguide/b.md"
    assert await text(reader, "list_files", path=".git") == ".git/d.md"
    assert await text(reader, "list_files", pattern="d.md") == "no files fit 'd.md' in '.'"
    assert await text(reader, "search_text", text="TODO", pattern=".git/**") == ".git/d.md:1: TODO"


ODD_NAMES = ["line\nbreak.md", "tab\tcr\r.md", "\u202egnp.md", "sep\u2028.md", os.fsdecode(b"bad\xff.md")]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_an_odd_name_is_listed_on_one_line_and_read_by_it(
    reader: ToolRegistry, tree: Path, name: str
) -> None:
    (tree / "root" / name).write_text("needle")
    listed = await text(reader, "list_files", pattern=f"*{name[-4:]}" if name.isprintable() else name)
    assert listed == json.dumps(name)
    assert await text(reader, "read_file", path=listed) == "needle"
    assert await text(reader, "read_file", path=name) == "needle"
    assert await text(reader, "search_text", text="needle") == f"{listed}:1: needle"


async def test_a_path_may_be_in_quotes_or_end_with_a_line_break(reader: ToolRegistry, tree: Path) -> None:
    (tree / "root" / "plain.txt").write_text("plain")
    for path in ('"plain.txt"', "`plain.txt`", "plain.txt\n", " 'plain.txt' "):
        assert await text(reader, "read_file", path=path) == "plain"
    (tree / "root" / '"plain.txt"').write_text("quoted")
    assert await text(reader, "read_file", path='"plain.txt"') == "quoted"
    assert "no file" in await refusal(reader, "read_file", path='"../secret/key.md"')
    assert "no file" in await refusal(reader, "read_file", path='"unclosed')
    assert "no file" in await refusal(reader, "read_file", path='"nowhere"')


async def test_lines_are_those_of_editors(reader: ToolRegistry, tree: Path) -> None:
    (tree / "root" / "feed.py").write_bytes("a\r\n\f\nb\x0b\x85\u2028c\rd\nneedle".encode())
    assert await text(reader, "search_text", text="needle") == "feed.py:5: needle"
    assert await text(reader, "read_file", path="feed.py", start_line=5) == "needle"


async def test_text_of_windows_is_read(reader: ToolRegistry, tree: Path) -> None:
    (tree / "root" / "wide.txt").write_bytes("grün\n".encode("utf-16"))
    assert await text(reader, "read_file", path="wide.txt") == "grün\n"
    for data in (b"\xff\xfe\x00", b"\xff\xfe\x00\x00a\x00\x00\x00"):
        (tree / "root" / "wide.txt").write_bytes(data)
        assert "binary" in await refusal(reader, "read_file", path="wide.txt")


# -- writing ------------------------------------------------------------------------


async def test_a_file_is_written_with_its_directories(writer: ToolRegistry, tree: Path) -> None:
    assert await text(writer, "write_file", path="x/y/z.md", content="ü\r\n") == "wrote x/y/z.md (4 bytes)"
    assert (tree / "root/x/y/z.md").read_bytes() == "ü\r\n".encode()
    await text(writer, "write_file", path="a.md", content="new")
    assert (tree / "root/a.md").read_text() == "new"
    await text(writer, "write_file", path="root/other.md", content="o")
    assert (tree / "root/other.md").read_text() == "o"
    assert not [path for path in everything_in(tree) if "agentpool-tmp" in path.name]


async def test_a_root_that_does_not_exist_is_made(tree: Path) -> None:
    registry = registry_of(FileWriteCapability(["out/deep"]), base=tree)
    await text(registry, "write_file", path="a/b.md", content="x")
    assert (tree / "out/deep/a/b.md").read_text() == "x"
    await text(registry, "write_file", path="out/deep/c.md", content="x")
    assert (tree / "out/deep/c.md").read_text() == "x"


async def test_what_is_no_place_for_a_file_is_refused(
    writer: ToolRegistry, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("guide", ".", "", "new/"):
        assert "directory" in await refusal(writer, "write_file", path=path, content="x")
    assert "cannot be used" in await refusal(writer, "write_file", path="a.md/b.md", content="x")
    assert "not valid text" in await refusal(writer, "write_file", path="s", content="\ud800")
    monkeypatch.setattr(_writing, "MAX_FILE_BYTES", 3)
    assert "3 are the limit" in await refusal(writer, "write_file", path="big", content="abcd")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tree / "root" / "pipe")
        assert "no ordinary file" in await refusal(writer, "write_file", path="pipe", content="x")


async def test_a_rewritten_file_keeps_its_mode(writer: ToolRegistry, tree: Path) -> None:
    path = tree / "root" / "a.md"
    path.chmod(0o640)
    await text(writer, "write_file", path="a.md", content="new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    writer: ToolRegistry, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    before = everything_in(tree)
    monkeypatch.setattr(os, "replace", fail)
    assert "No space left" in await refusal(writer, "write_file", path="a.md", content="new")
    assert (tree / "root/a.md").read_text().startswith("alpha")
    assert everything_in(tree) == before


async def test_readers_see_the_old_or_the_new_file_and_nothing_between(
    writer: ToolRegistry, tree: Path
) -> None:
    path = tree / "root" / "a.md"
    contents = {"x" * 100_000, "y" * 100_000}
    path.write_text("x" * 100_000)
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, watch)
        for _ in range(10):
            for content in contents:
                await text(writer, "write_file", path="a.md", content=content)
        done.set()
    assert seen <= contents


# -- memory -------------------------------------------------------------------------


async def test_what_one_agent_remembers_another_recalls() -> None:
    registry = registry_of(MemoryCapability())
    ctx = FakeContext(memory=InMemory())
    assert await text(registry, "remember", ctx, content="the door is red") == "remembered as 1"
    ctx.id = 8
    assert await text(registry, "recall", ctx, query="Door?") == "- the door is red (agent 7)"
    assert (
        await text(registry, "recall", ctx, query="window") == "nothing was remembered that has these words"
    )
    assert "from 1 to 50" in await refusal(registry, "recall", ctx, query="x", limit=0)
    (fragment,) = await ctx.memory.recall("red")
    assert (fragment.agent_id, fragment.source) == (7, "tool")


async def test_a_pool_without_memory_says_so() -> None:
    registry = registry_of(MemoryCapability())
    assert await refusal(registry, "remember", content="x") == "this pool has no memory"
    assert await refusal(registry, "recall", query="x") == "this pool has no memory"


# -- messages -----------------------------------------------------------------------


async def test_messages_are_sent_by_id_or_name() -> None:
    registry = registry_of(MessagingCapability())
    ctx = FakeContext(known={"editor": 1})
    assert await text(registry, "send_message", ctx, to=3, content="a") == "sent to agent 3"
    assert await text(registry, "send_message", ctx, to="4", content="b") == "sent to agent 4"
    assert await text(registry, "send_message", ctx, to="editor", content="c") == "sent to editor"
    assert ctx.sent == [(3, "a"), (4, "b"), (1, "c")]
    assert "no live agent is called 'nobody'" in await refusal(
        registry, "send_message", ctx, to="nobody", content=""
    )
    assert await refusal(registry, "send_message", ctx, to=99, content="") == "there is no live agent 99"


async def test_a_received_message_names_its_sender() -> None:
    registry = registry_of(MessagingCapability())
    ctx = FakeContext(inbox=[AgentMessage(3, 7, "hello", 12), trio.EndOfChannel])
    assert await text(registry, "receive_message", ctx) == '<message from="3" id="12">\nhello\n</message>'
    assert await text(registry, "receive_message", ctx) == "no more messages: the pool is ending"


async def test_a_model_is_told_when_nobody_is_left_who_could_write() -> None:
    registry = registry_of(MessagingCapability())
    ctx = FakeContext(inbox=[DeadlockError])
    told = await refusal(registry, "receive_message", ctx)
    assert told == "no message can come: everybody who could write to you waits"


async def test_receiving_may_have_a_time_limit(autojump_clock: trio.testing.MockClock) -> None:
    registry = registry_of(MessagingCapability())
    assert await text(registry, "receive_message", timeout=5) == "no message within 5 seconds"
    assert trio.current_time() == 5
    ctx = FakeContext(inbox=[AgentMessage(3, 7, "hello", 12)])
    assert "hello" in await text(registry, "receive_message", ctx, timeout=5)
    assert "from 0 up" in await refusal(registry, "receive_message", timeout=-1)
    receive = registry.get("receive_message")
    assert receive is not None
    assert receive.timeout == math.inf


# -- children -----------------------------------------------------------------------


def outcome(kind: Callable[..., Any], **fields: Any) -> Any:
    return kind(agent_id=8, name="helper", parent_id=7, **fields)


def spawner(*more: Any) -> ToolRegistry:
    capabilities = (SpawnCapability(2), MemoryCapability(), *more)
    manifest = AgentManifest(name="m", capabilities=capabilities)
    return build_tools(manifest, make_agent=lambda child, query: (child, query))


async def test_a_child_is_spawned_with_a_narrower_manifest_and_answers() -> None:
    result = AgentResult("42", 42, NO_USAGE, 1, 0, ())
    ctx = FakeContext(handle=FakeHandle(outcome(Completed, value=result)))
    assert await text(spawner(), "spawn_agent", ctx, query="6 x 7", name="helper") == "42"
    (((child, query), name),) = ctx.spawned
    assert (query, name) == ("6 x 7", "helper")
    assert child.capabilities == (SpawnCapability(1), MemoryCapability())
    grandchild = build_tools(child, make_agent=lambda *args: args)
    assert "spawn_agent" in grandchild
    last = attrs.evolve(child, capabilities=(MemoryCapability(),))
    assert "spawn_agent" not in build_tools(last, make_agent=lambda *args: args)


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (outcome(Completed, value=3), ToolResult("3")),
        (
            outcome(Failed, error=ValueError("no")),
            ToolResult("agent 8 (helper) failed: ValueError: no", is_error=True),
        ),
        (outcome(Aborted), ToolResult("agent 8 (helper) was aborted: no reason given", is_error=True)),
        (
            outcome(Aborted, reason="late"),
            ToolResult("agent 8 (helper) was aborted: late", is_error=True),
        ),
    ],
)
async def test_the_model_is_told_how_a_child_ended(ended: Any, told: ToolResult) -> None:
    assert await use(spawner(), "spawn_agent", FakeContext(handle=FakeHandle(ended)), query="x") == told


async def test_a_limit_of_the_pool_is_told_to_the_model() -> None:
    assert "depth is at its maximum of 3" in await refusal(spawner(), "spawn_agent", query="x")


async def test_a_child_that_nobody_waits_for_is_aborted(autojump_clock: trio.testing.MockClock) -> None:
    handle = FakeHandle(None)
    with trio.move_on_after(1):
        await use(spawner(), "spawn_agent", FakeContext(handle=handle), query="x")
    assert handle.aborted == ["the agent that asked for it stopped waiting"]


# -- what a manifest gives ----------------------------------------------------------


def test_a_manifest_without_capabilities_has_no_built_in_tools() -> None:
    assert registry_of().names == ()


def test_each_capability_brings_its_tools() -> None:
    registry = registry_of(
        FileReadCapability(["."]), FileWriteCapability(["."]), MemoryCapability(), MessagingCapability(),
        SpawnCapability(), make_agent=lambda *args: args,
    )  # fmt: skip
    names = ["read_file", "list_files", "search_text", "write_file", "edit_file", "remember", "recall"]
    names += ["send_message", "receive_message", "ask_agent", "reply_message"]
    names += ["spawn_agent", "start_agent", "message_agent", "wait_agents", "stop_agent"]
    assert [definition.name for definition in registry.definitions()] == names
    assert all(definition.description for definition in registry.definitions())
    for definition in registry.definitions():
        for key, schema in definition.input_schema["properties"].items():
            assert schema.get("description"), (definition.name, key)
    assert "spawn_agent" not in registry_of(SpawnCapability())


async def test_a_manifests_own_tools_stand_beside_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text(
        "def shout(text: str) -> str:\n    return text.upper()\n"
        "def recall(text: str) -> str:\n    return text\n"
    )
    manifest = AgentManifest(name="m", tools=["checks:shout"], base=tmp_path)
    assert await text(build_tools(manifest), "shout", text="a") == "A"
    clash = attrs.evolve(manifest, tools=["checks:recall"], capabilities=(MemoryCapability(),))
    with pytest.raises(ManifestError, match=r"tools\[0\]: there are two tools named 'recall'"):
        build_tools(clash)


# -- in a pool ----------------------------------------------------------------------


async def test_agents_of_a_pool_use_them_all(tmp_path: Path) -> None:
    (tmp_path / "worker.toml").write_text(
        """
        name = "worker"
        capabilities = [
            "memory", "messaging", { type = "file_write", allowed_paths = ["out"] },
            { type = "file_read", allowed_paths = ["out"] },
        ]
        [script]
        steps = [
            { calls = [{ tool = "write_file", input = { path = "a.md", content = "for {query}" } }] },
            { calls = [{ tool = "read_file", input = { path = "a.md" }, save_as = "text" },
                       { tool = "read_file", input = { path = "../worker.toml" } },
                       { tool = "spawn_agent", input = { query = "x" } }] },
            { calls = [{ tool = "send_message", input = { to = "boss", content = "{text}" } },
                       { tool = "remember", input = { content = "wrote {text}" } }] },
            { text = "{results[1]}|{results[2]}|{results[3]}" },
        ]
        """
    )
    manifest = AgentManifest.load(tmp_path / "worker.toml")
    memory = InMemory()

    async def boss(ctx: Any) -> Any:
        return (await ctx.receive()).content

    async with open_agent_pool(
        ScriptedDriver.for_manifest(manifest), max_concurrent=2, memory=memory
    ) as pool:
        reader = await pool.spawn(boss, name="boss")
        worker = await pool.spawn(SpawnConfig(manifest, "you"))
        assert await reader.result() == "for you"
        said = (await worker.result()).text
    read, refused, unknown = said.split("|")
    assert read == "for you"
    assert refused == "'../worker.toml' is outside of what this agent may reach, which is: out"
    assert unknown.startswith("there is no tool 'spawn_agent'; did you mean 'ask_agent'? the tools are")
    assert [fragment.content for fragment in await memory.recall("wrote")] == ["wrote for you"]


async def test_an_agent_asks_children_of_its_own_kind_down_to_its_depth() -> None:
    def reply(request: CompletionRequest) -> Completion | str:
        last = request.messages[-1]
        if isinstance(last, ToolMessage):
            return f"[{last.result.content}]"
        if any(definition.name == "spawn_agent" for definition in request.tools):
            return Completion(tool_calls=[ToolCall("1", "spawn_agent", {"query": "deeper"})])
        return "bottom"

    manifest = AgentManifest(name="m", capabilities=[SpawnCapability(3)])
    build = functools.partial(build_tools, make_agent=SpawnConfig)
    driver = ScriptedDriver(itertools.repeat(reply))
    async with open_agent_pool(driver, max_concurrent=1, tool_builder=build) as pool:
        handle = await pool.spawn(SpawnConfig(manifest, "go"))
        assert (await handle.result()).text == "[[[bottom]]]"
