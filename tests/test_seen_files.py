"""Files that somebody else changes: no agent overwrites what it has not seen."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from cast_kit import Cast, Turn, call, last_result, manifest, scripted
from journal_kit import Records, in_virtual_time, is_begun
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    HookContext,
    Hooks,
    ModelAgent,
    RestartPolicy,
    SpawnCapability,
    ToolCall,
    open_agent_pool,
    resume_agent_pool,
)
from agentpool._core.capability import FileReadCapability, FileWriteCapability
from agentpool._core.errors import AgentPoolError
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import ToolResult
from agentpool._core.records import JournalRecord
from agentpool._kernel.versions import MOST_KNOWN, SeenVersions
from agentpool.cli._chat import OneConversation
from agentpool.tools import _writing, build_tools

CHANGED = "has changed since you last read or wrote it"


@attrs.define(eq=False)
class Agent:
    """An agent, as far as its file tools see one."""

    tools: Any
    versions: SeenVersions = attrs.field(factory=SeenVersions)

    async def call(self, tool: str, **arguments: Any) -> ToolResult:
        try:
            result: ToolResult = await self.tools.call(self, ToolCall("1", tool, arguments))
            return result
        except AgentPoolError as error:
            return ToolResult(str(error), is_error=True)

    async def does(self, tool: str, **arguments: Any) -> str:
        result = await self.call(tool, **arguments)
        assert not result.is_error, result.content
        return result.text

    async def is_refused(self, tool: str, **arguments: Any) -> str:
        result = await self.call(tool, **arguments)
        assert result.is_error, result.content
        assert CHANGED in result.text, result.text
        return result.text


class Disk:
    """A directory that agents may read and write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "a.md"

    def agent(self, *capabilities: Any) -> Agent:
        granted = capabilities or (FileReadCapability(["."]), FileWriteCapability(["."]))
        return Agent(build_tools(AgentManifest(name="m", capabilities=granted, base=self.root)))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    disk = Disk(tmp_path)
    disk.file.write_text("one\ntwo\n")
    return disk


# -- what was changed by somebody else -------------------------------------------------------------


async def test_what_a_person_wrote_meanwhile_is_not_overwritten(disk: Disk) -> None:
    agent = disk.agent()
    await agent.does("read_file", path="a.md")
    disk.file.write_text("one\ntwo\nby hand\n")
    told = await agent.is_refused("write_file", path="a.md", content="1\n2\n")
    assert told.startswith("'a.md' has changed")
    assert "Read it again with read_file" in told
    await agent.is_refused("edit_file", path="a.md", old="one", new="1")
    await agent.is_refused("write_file", path="a.md", content="1\n2\n")  # asking twice changes nothing
    assert disk.file.read_text() == "one\ntwo\nby hand\n"
    assert "by hand" in await agent.does("read_file", path="a.md")
    await agent.does("edit_file", path="a.md", old="one", new="1")
    await agent.does("write_file", path="a.md", content="1\n2\nby hand\n")
    assert disk.file.read_text() == "1\n2\nby hand\n"


async def test_of_two_agents_the_second_reads_what_the_first_wrote(disk: Disk) -> None:
    first, second = disk.agent(), disk.agent()
    for each in (first, second):
        await each.does("read_file", path="a.md")
    await first.does("write_file", path="a.md", content="one\ntwo\nfirst\n")
    await second.is_refused("write_file", path="a.md", content="one\ntwo\nsecond\n")
    text = await second.does("read_file", path="a.md")
    await second.does("write_file", path="a.md", content=f"{text}second\n")
    await first.is_refused("edit_file", path="a.md", old="one", new="1")
    assert disk.file.read_text() == "one\ntwo\nfirst\nsecond\n"


async def test_what_an_agent_wrote_or_edited_itself_it_knows(disk: Disk) -> None:
    agent = disk.agent()
    await agent.does("write_file", path="new/b.md", content="x y")
    await agent.does("write_file", path="new/b.md", content="x z")
    await agent.does("edit_file", path="new/b.md", old="x", new="1")
    await agent.does("edit_file", path="new/b.md", old="z", new="2")
    await agent.does("write_file", path="new/b.md", content="3")
    (disk.root / "new" / "b.md").write_text("by hand")
    await agent.is_refused("write_file", path="new/b.md", content="4")


async def test_a_file_that_was_only_touched_or_is_again_what_it_was_has_not_changed(disk: Disk) -> None:
    agent = disk.agent()
    await agent.does("read_file", path="a.md")
    os.utime(disk.file, (1, 1))
    disk.file.chmod(0o600)
    await agent.does("write_file", path="a.md", content="1")
    disk.file.write_text("else")
    disk.file.write_text("1")
    await agent.does("edit_file", path="a.md", old="1", new="2")
    disk.file.write_text("what is to be written")  # nothing is lost by that
    await agent.does("write_file", path="a.md", content="what is to be written")


async def test_a_change_of_the_same_length_within_a_moment_is_seen(disk: Disk) -> None:
    agent = disk.agent()
    status = disk.file.stat()
    await agent.does("read_file", path="a.md")
    disk.file.write_text("ONE\ntwo\n")
    os.utime(disk.file, ns=(status.st_atime_ns, status.st_mtime_ns))
    await agent.is_refused("write_file", path="a.md", content="1")


async def test_who_has_read_a_part_knows_of_the_whole_file(disk: Disk) -> None:
    agent = disk.agent()
    await agent.does("read_file", path="a.md", max_lines=1)
    disk.file.write_text("one\nTWO\n")
    await agent.is_refused("write_file", path="a.md", content="1")


async def test_a_file_that_is_gone_is_made_again(disk: Disk) -> None:
    agent = disk.agent()
    await agent.does("read_file", path="a.md")
    disk.file.unlink()
    await agent.does("write_file", path="a.md", content="1")
    await agent.does("write_file", path="a.md", content="2")


async def test_a_file_that_cannot_be_read_any_more_has_changed(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = disk.agent()
    await agent.does("read_file", path="a.md")
    monkeypatch.setattr("agentpool.tools._reading.MAX_FILE_BYTES", 3)
    await agent.is_refused("write_file", path="a.md", content="1")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="the system has no links")
async def test_a_file_is_the_same_by_whatever_name(disk: Disk) -> None:
    agent = disk.agent()
    (disk.root / "link.md").symlink_to("a.md")
    await agent.does("read_file", path="link.md")
    disk.file.write_text("by hand")
    await agent.is_refused("write_file", path=str(disk.file), content="1")
    await agent.is_refused("edit_file", path="link.md", old="by", new="by a")


async def test_what_comes_in_the_last_moment_is_seen(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = disk.agent()
    await agent.does("read_file", path="a.md")
    plain = _writing._as_before

    def meanwhile(*args: Any) -> Any:
        disk.file.write_text("by hand")
        return plain(*args)

    monkeypatch.setattr(_writing, "_as_before", meanwhile)
    await agent.is_refused("write_file", path="a.md", content="1")
    assert disk.file.read_text() == "by hand"


# -- what was never read ---------------------------------------------------------------------------


async def test_a_file_that_was_never_read_is_overwritten_and_edited_as_ever(disk: Disk) -> None:
    agent = disk.agent()
    await agent.does("edit_file", path="a.md", old="one", new="1")
    disk.file.write_text("by hand")
    # What an edit is to replace has to be there; of the rest of the file it tells nothing, nor loses any.
    await agent.does("edit_file", path="a.md", old="hand", new="foot")
    await agent.does("write_file", path="a.md", content="anew")
    disk.file.write_text("by hand")
    await agent.is_refused("write_file", path="a.md", content="anew")  # now it was written by it


async def test_a_search_is_no_reading(disk: Disk) -> None:
    agent = disk.agent()
    await agent.does("search_text", text="one")
    await agent.does("list_files")
    disk.file.write_text("by hand")
    await agent.does("write_file", path="a.md", content="1")


async def test_a_call_that_failed_has_seen_nothing(disk: Disk) -> None:
    agent = disk.agent()
    assert (await agent.call("read_file", path="a.md", start_line=99)).is_error
    assert (await agent.call("edit_file", path="a.md", old="nine", new="9")).is_error
    disk.file.write_text("by hand")
    await agent.does("write_file", path="a.md", content="1")


async def test_who_may_only_write_learns_nothing_and_is_not_refused(disk: Disk) -> None:
    agent = disk.agent(FileWriteCapability(["."]))
    for content in ("1", "2"):
        await agent.does("write_file", path="a.md", content=content)
        disk.file.write_text("by hand")
    (disk.root / "in").mkdir()
    agent = disk.agent(FileReadCapability(["in"]), FileWriteCapability(["."]))
    await agent.does("write_file", path=str(disk.root / "a.md"), content="1")
    disk.file.write_text("by hand")
    await agent.does("write_file", path=str(disk.root / "a.md"), content="1")


# -- beside each other -----------------------------------------------------------------------------


async def test_calls_of_one_turn_do_not_get_in_each_others_way(disk: Disk) -> None:
    for _ in range(20):
        disk.file.write_text("".join(f"line {n}\n" for n in range(8)))
        agent = disk.agent()
        await agent.does("read_file", path="a.md")
        async with trio.open_nursery() as nursery:
            for n in range(8):
                edit = {"path": "a.md", "old": f"line {n}\n", "new": f"LINE {n}\n"}
                nursery.start_soon(partial(agent.does, "edit_file", **edit))
                nursery.start_soon(partial(agent.does, "read_file", path="a.md"))
        assert disk.file.read_text() == "".join(f"LINE {n}\n" for n in range(8))
        await agent.does("write_file", path="a.md", content="done")


async def test_many_agents_that_read_and_write_lose_nothing(disk: Disk) -> None:
    disk.file.write_text("")

    async def add(n: int) -> None:
        agent = disk.agent()
        while True:
            text = await agent.does("read_file", path="a.md")
            result = await agent.call("write_file", path="a.md", content=f"{text}{n}\n")
            if not result.is_error:
                return
            assert CHANGED in result.text

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(add, n)
    assert sorted(map(int, disk.file.read_text().split())) == list(range(20))


def test_what_was_looked_at_later_stands() -> None:
    seen = SeenVersions()
    early = seen.ticket()
    seen.saw("a", "2")
    seen.saw("a", "1", early)
    assert seen.seen("a") == "2"
    seen.saw("a", "3", seen.ticket())
    assert seen.seen("a") == "3"
    assert seen.take_unwritten() == {"a": "3"}
    assert seen.take_unwritten() == {}
    assert repr(seen) == "<SeenVersions of 1 things>"


def test_no_more_is_known_than_there_is_room_for() -> None:
    seen = SeenVersions()
    for n in range(MOST_KNOWN + 10):
        seen.saw(str(n), "x")
        if n == 5:
            seen.saw("0", "y")
    assert seen.seen("0") is None
    assert seen.seen("10") == "x"
    assert len(seen.take_unwritten()) == MOST_KNOWN
    seen.go_on_with({"a": "1"})
    assert seen.seen("a") == "1"
    assert seen.take_unwritten() == {}


# -- in pools --------------------------------------------------------------------------------------

FILES = (FileReadCapability(["."]), FileWriteCapability(["."]))


def read(path: str = "a.md") -> Any:
    return call("read_file", path=path)


def write(content: str, path: str = "a.md") -> Any:
    return call("write_file", path=path, content=content)


async def test_a_child_knows_nothing_of_what_its_parent_has_read(disk: Disk) -> None:
    lead = manifest("lead", SpawnCapability(), *FILES, base=disk.root)
    helper = manifest("helper", *FILES, base=disk.root)

    def by_hand(turn: Turn) -> Any:
        disk.file.write_text("by hand")
        return call("spawn_agent", agent="helper", query="q")

    cast = Cast(
        lead=scripted(read(), by_hand, write("lead"), lambda turn: "|".join(turn.results)),
        helper=scripted(write("helper"), last_result),
    )
    async with pool_of(2, driver=cast) as pool:
        text = (await (await pool.spawn(ModelAgent(lead, agents=[helper]), "go")).result()).text
    assert CHANGED in text.split("|")[2]
    assert text.split("|")[1] == "wrote a.md (6 bytes)"
    assert disk.file.read_text() == "helper"


async def test_a_fresh_life_has_seen_nothing(disk: Disk) -> None:
    lives: list[str] = []

    def part(turn: Turn) -> Any:
        if lives and not turn.results:
            return write("second life")
        if turn.number == 0:
            return read()
        if not lives:
            lives.append("first")
            disk.file.write_text("by hand")
            return ValueError("no ink")
        return turn.results[-1]

    agent = ModelAgent(manifest("m", *FILES, base=disk.root))
    async with pool_of(1, driver=Cast(m=part)) as pool:
        handle = await pool.spawn(agent, "go", restart=RestartPolicy("on_failure", max_restarts=1))
        assert (await handle.result()).text == "wrote a.md (11 bytes)"


async def test_who_goes_on_with_a_conversation_knows_what_was_read_in_it(disk: Disk) -> None:
    first = manifest("first", *FILES, base=disk.root, handoffs=["second"])
    second = manifest("second", *FILES, base=disk.root)

    def by_hand(turn: Turn) -> Any:
        disk.file.write_text("by hand")
        return call("hand_off", agent="second")

    cast = Cast(
        first=scripted(read(), by_hand),
        second=lambda turn: write("x") if len(turn.results) == 2 else turn.results[-1],
    )
    async with pool_of(1, driver=cast) as pool:
        text = (await (await pool.spawn(ModelAgent(first, agents=[second]), "go")).result()).text
    assert CHANGED in text


async def test_a_chat_is_one_conversation(disk: Disk) -> None:
    one = OneConversation()
    helper = manifest("helper", *FILES, base=disk.root)
    lead = manifest("lead", SpawnCapability(), *FILES, base=disk.root)
    asked = {
        "read": scripted(read(), "ok"),
        "write": scripted(write("agent"), last_result),
        "send": scripted(call("spawn_agent", agent="helper", query="q"), last_result),
    }
    cast = Cast(lead=lambda turn: asked[turn.query](turn), helper=scripted(write("helper"), last_result))
    agent = ModelAgent(lead, agents=[helper], hooks=[one])
    async with pool_of(2, driver=cast) as pool:

        async def answer(query: str) -> str:
            text: str = (await (await pool.spawn(agent, query)).result()).text
            return text

        assert await answer("read") == "ok"
        disk.file.write_text("by hand")
        assert await answer("send") == "wrote a.md (6 bytes)"  # another agent, which has read nothing
        assert CHANGED in await answer("write")
        one.begin_anew()
        assert await answer("write") == "wrote a.md (5 bytes)"


# -- runs that are resumed -------------------------------------------------------------------------


class Plain(Hooks):
    """A hook that changes nothing."""

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
        return call


class Snapshots(Records):
    """Records, with what the file held when each was written."""

    def __init__(self, file: Path, kept: Any = ()) -> None:
        super().__init__(kept)
        self.file = file
        self.held = [file.read_text() for _ in kept]

    def append(self, record: JournalRecord) -> None:
        super().append(record)
        self.held.append(self.file.read_text())


def working(disk: Disk) -> Any:
    return ModelAgent(manifest("m", *FILES, base=disk.root))


def steps() -> Cast:
    made = (read(), write("1"), write("2"), edit("2", "3"), write("4"))
    return Cast(m=scripted(*made, lambda turn: "|".join(turn.results)))


def edit(old: str, new: str) -> Any:
    return call("edit_file", path="a.md", old=old, new=new)


def recorded(disk: Disk, **settings: Any) -> tuple[str, Snapshots]:
    records = Snapshots(disk.file)

    async def main() -> Any:
        async with open_agent_pool(steps(), max_concurrent=1, journal=records, **settings) as pool:
            return await (await pool.spawn(working(disk), "go", name="first")).result()

    return in_virtual_time(main).text, records


def resumed_with(kept: Any, **settings: Any) -> str:
    async def main() -> Any:
        async with resume_agent_pool(Records(kept), steps(), **settings) as pool:
            return await pool.resumed[0].result()

    text: str = in_virtual_time(main).text
    return text


@pytest.mark.parametrize("hooks", [[], [Plain()]])
def test_a_crash_makes_no_false_refusal(disk: Disk, hooks: Any) -> None:
    text, records = recorded(disk, hooks=hooks)
    assert CHANGED not in text
    assert disk.file.read_text() == "4"
    unknown = 0
    for end in range(1, len(records.kept) + 1):
        if not is_begun(records.kept[:end]):
            continue
        # The process died straight after the record, or when what came next was done and not yet told.
        for held in dict.fromkeys([records.held[end - 1], *records.held[end : end + 1]]):
            disk.file.write_text(held)
            again = resumed_with(records.kept[:end], hooks=hooks)
            if "unknown" in again:  # an edit, which is not made again: whether it was the model has to look
                unknown += 1
                continue
            assert again == text, (end, held)
            assert disk.file.read_text() == "4"
    assert unknown > 0


@pytest.mark.parametrize("hooks", [[], [Plain()]])
def test_a_crash_makes_no_false_pass(disk: Disk, hooks: Any) -> None:
    _, records = recorded(disk, hooks=hooks)
    refused = 0
    for end in range(1, len(records.kept) + 1):
        kept = records.kept[:end]
        if not is_begun(kept):
            continue
        ended = sum(record.kind == "returned" for record in kept)
        disk.file.write_text("by hand, while nothing ran")
        again = resumed_with(kept, hooks=hooks).split("|")
        if ended in range(1, 5):  # it had read or written the file, and writes it once more
            refused += 1
            assert CHANGED in again[ended] or "unknown" in again[ended], (end, again)
            assert disk.file.read_text() == "by hand, while nothing ran"
        elif ended == 0:
            assert "by hand" in again[0]
    assert refused > 4


def test_a_journal_tells_of_versions_and_not_of_what_they_are(disk: Disk) -> None:
    _, records = recorded(disk)
    seen = [record.data["seen"] for record in records.of_kind("returned") if "seen" in record.data]
    assert len(seen) == 5
    assert len({name for each in seen for name in each}) == 1
    assert not any("a.md" in str(each) or str(disk.root) in str(each) for each in seen)


def test_a_journal_without_versions_is_gone_on_with(disk: Disk) -> None:
    """One of an older version: what it had read is as if it had never been."""
    _, records = recorded(disk)
    kept = [
        attrs.evolve(record, data={k: v for k, v in record.data.items() if k != "seen"})
        for record in records.kept
    ]
    end = next(n for n, record in enumerate(kept, 1) if record.kind == "returned")
    disk.file.write_text("by hand")
    assert CHANGED not in resumed_with(kept[:end])


async def test_a_tool_of_a_program_may_look_at_them(disk: Disk) -> None:
    async def agent(ctx: AgentContext) -> Any:
        ctx.versions.saw("row 7", "etag-1")
        return ctx.versions.seen("row 7"), ctx.versions.seen("row 8")

    async with pool_of(1) as pool:
        assert await (await pool.spawn(agent)).result() == ("etag-1", None)
