"""The crash as a fault of a journal, and programs that are killed wherever they write."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from agentpool import AgentContext, JournalError, open_agent_pool, resume_agent_pool
from agentpool._core.records import JournalRecord
from agentpool.abc import Journal
from agentpool.journal import SqliteJournal, read_journal
from agentpool.testing import (
    CrashSweepError,
    Fault,
    FaultKind,
    FaultPlan,
    FaultyJournal,
    crash_everywhere,
)


async def adder(ctx: AgentContext, numbers: list[int]) -> int:
    total = 0
    for number in numbers:
        total = await ctx.step("add", add, total, number)
    return total


async def add(one: int, other: int) -> int:
    await trio.sleep(1)
    return one + other


async def program(journal: Journal, is_resumed: bool, agent: Any = adder) -> Any:
    opened = resume_agent_pool(journal) if is_resumed else open_agent_pool(max_concurrent=2, journal=journal)
    async with opened as pool:
        handle = pool.resumed[0] if pool.resumed else await pool.spawn(agent, [1, 2, 3])
        return await handle.result()


def test_a_program_that_outlives_every_crash_comes_to_the_same() -> None:
    sweep = crash_everywhere(program)
    assert sweep.value == 6
    assert sweep.records == 7  # the run, the agent, three steps, its end, the end of the run
    assert sweep.crashes == 2 * sweep.records


def count_one_more(luck: Path) -> int:
    with luck.open("a") as file:
        file.write("x")
    return len(luck.read_text())


async def careless(ctx: AgentContext, numbers: list[int], luck: Path) -> int:
    """Counts how often it was started, outside of any step."""
    starts = count_one_more(luck)
    await ctx.step("add", add, 1, 2)
    return starts


def test_a_program_that_does_not_is_told_with_the_crash_that_shows_it(tmp_path: Path) -> None:
    agent = partial(careless, luck=tmp_path / "luck")
    with pytest.raises(CrashSweepError, match=r"after the crash journal:\d+:crash_\w+ it came to") as caught:
        crash_everywhere(partial(program, agent=agent), most=6, seed=1)
    assert caught.value.plan.faults[0].kind in (FaultKind.CRASH_BEFORE, FaultKind.CRASH_AFTER)


def test_programs_may_say_what_the_same_is(tmp_path: Path) -> None:
    agent = partial(careless, luck=tmp_path / "luck")
    sweep = crash_everywhere(partial(program, agent=agent), most=4, same=lambda one, other: True)
    assert sweep.crashes == 4


async def broken(journal: Journal, is_resumed: bool) -> None:
    raise LookupError("as it is written")


def test_a_program_that_raises_without_a_crash_is_told() -> None:
    with pytest.raises(CrashSweepError, match=r"it ended with LookupError\('as it is written'\)"):
        crash_everywhere(broken)


async def restless(journal: Journal, is_resumed: bool) -> Any:
    if is_resumed:
        raise LookupError("it does not know how to go on")
    return await program(journal, is_resumed)


def test_a_program_that_raises_when_it_goes_on_is_told(tmp_path: Path) -> None:
    with pytest.raises(CrashSweepError, match="it ended with LookupError"):
        crash_everywhere(restless, folder=tmp_path)
    assert not list(tmp_path.iterdir())


# -- the journal --------------------------------------------------------------------------------------


class Crashed(BaseException):
    """Stands for the end of the process."""


def crash() -> None:
    raise Crashed


async def test_a_crash_before_a_record_loses_it(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    journal = FaultyJournal(SqliteJournal(path), FaultPlan.parse("journal:3:crash_before"), crash=crash)
    with pytest.raises(Crashed):
        await program(journal, False)
    assert [record.kind for record in read_journal(path)][:3] == ["run", "spawned", "closed"]


async def test_a_crash_after_a_record_comes_when_it_is_kept(tmp_path: Path) -> None:
    path, kept = tmp_path / "run.db", list[str]()

    def look() -> None:
        kept.extend(record.kind for record in read_journal(path))

    journal = FaultyJournal(SqliteJournal(path), FaultPlan.parse("journal:3:crash_after"), crash=look)
    assert await program(journal, False) == 6
    assert kept[:3] == ["run", "spawned", "operated"]


async def test_a_disk_that_is_full_ends_the_run_before_anything_else_is_done(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    done = []

    async def note(number: int) -> int:
        done.append(number)
        return number

    async def noting(ctx: AgentContext, numbers: list[int]) -> None:
        for number in numbers:
            await ctx.step("note", note, number)

    full = FaultPlan((Fault("journal", 4, FaultKind.FULL),))
    with pytest.raises(JournalError, match="journal:4:full: the disk is full"):
        await program(FaultyJournal(SqliteJournal(path), full), False, noting)
    assert done == [1, 2]
    assert [record.kind for record in read_journal(path)] == ["run", "spawned", "operated"]


async def test_a_full_disk_is_told_when_a_journal_is_closed(tmp_path: Path) -> None:
    journal = FaultyJournal(SqliteJournal(tmp_path / "run.db"), FaultPlan.parse("journal:1:full"))
    await journal.open()
    with pytest.raises(JournalError):
        journal.append(JournalRecord("run"))
    with pytest.raises(JournalError):
        await journal.commit()
    with pytest.raises(JournalError):
        await journal.aclose()


async def test_another_journal_of_the_program_has_faults_of_its_own(tmp_path: Path) -> None:
    plan = FaultPlan.parse("other:1:full")
    assert await program(FaultyJournal(SqliteJournal(tmp_path / "run.db"), plan), False) == 6
