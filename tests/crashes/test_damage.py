"""Damaged journals, full disks, files that others hold: told, and never passed over in silence."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio

from agentpool import AgentContext, JournalCorruptError, JournalError, open_agent_pool, resume_agent_pool
from agentpool._core.records import JournalRecord
from agentpool.journal import SqliteJournal, read_journal
from agentpool.testing import FaultPlan

from . import _town
from ._damage import files_of, opened, problems_of_damage, written
from ._kills import ended_apart

pytestmark = pytest.mark.long

DAMAGES = int(os.environ.get("AGENTPOOL_DAMAGES", "40"))


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that ended well."""
    path = tmp_path_factory.mktemp("closed") / "run.db"
    assert ended_apart(_town.main, path).value is not None
    return files_of(path)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run whose process was killed: nearly all of it is in the write-ahead log."""
    path = tmp_path_factory.mktemp("killed") / "run.db"
    assert ended_apart(_town.main, path, FaultPlan.parse("journal:200:crash_after")).is_killed
    files = files_of(path)
    assert len(files["-wal"]) > 10_000
    return files


@pytest.mark.parametrize("which", ["closed", "killed"])
def test_damage_is_told_or_leaves_a_beginning(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    files: dict[str, bytes] = request.getfixturevalue(which)
    whole = list(read_journal(written(tmp_path / "whole", files)))
    assert len(whole) > 190
    problems = [
        problem
        for seed in range(DAMAGES)
        for problem in problems_of_damage(files, whole, tmp_path / "damaged", seed)
    ]
    assert problems == []


def changed(path: Path, *statements: str) -> Path:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return path


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM records WHERE seq = 100",
        "UPDATE records SET data = replace(data, ':', ': ') WHERE seq = 60",
        "UPDATE records SET at = at + 1e-9 WHERE seq = 60",
        "UPDATE records SET agent = agent + 1 WHERE seq = 60",
        "UPDATE records SET kind = 'sent' WHERE seq = 60",
        "UPDATE records SET seq = -seq WHERE seq = 60",
        "UPDATE records SET data = CAST('{\"a\": \"' || x'ff' || '\"}' AS TEXT) WHERE seq = 60",
        "DROP TABLE records",
        "ALTER TABLE records RENAME TO other",
        "ALTER TABLE records RENAME COLUMN data TO other",
        "PRAGMA application_id = 1",
    ],
)
def test_a_record_that_was_changed_is_damage(
    closed: dict[str, bytes], tmp_path: Path, statement: str
) -> None:
    path = changed(written(tmp_path / "run", closed), statement)
    with pytest.raises(JournalCorruptError, match="is damaged"):
        read_journal(path)
    with pytest.raises(JournalCorruptError, match="is damaged"):
        trio.run(opened, path)


def test_a_file_that_was_emptied_holds_no_run(closed: dict[str, bytes], tmp_path: Path) -> None:
    path = written(tmp_path / "run", {"": b""})

    async def main() -> None:
        async with resume_agent_pool(path):
            raise AssertionError("it has nothing to go on with")

    with pytest.raises(JournalError, match="holds no run"):
        trio.run(main)


def test_records_that_were_cut_off_behind_leave_a_beginning(closed: dict[str, bytes], tmp_path: Path) -> None:
    path = changed(written(tmp_path / "run", closed), "DELETE FROM records WHERE seq > 150")
    assert len(read_journal(path)) == 150
    expected, _, _ = ended_apart(_town.main, tmp_path / "whole.db").value
    ended = ended_apart(_town.main, path)
    assert ended.error == ""
    assert ended.value[0] == expected


def test_what_a_kill_left_half_written_is_taken_back_by_whoever_reads_it(
    closed: dict[str, bytes], tmp_path: Path
) -> None:
    path = written(tmp_path / "run", closed)
    whole = read_journal(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")  # so that it writes into the file before it commits
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE records SET data = data || '          '")
    killed = written(tmp_path / "killed", files_of(path))
    killed.with_name("run.db-journal").write_bytes(path.with_name("run.db-journal").read_bytes())
    connection.execute("ROLLBACK")
    connection.close()
    assert killed.read_bytes() != path.read_bytes()
    assert read_journal(killed) == whole


# -- disks that are full, files that others hold ----------------------------------------------------


async def busy(ctx: AgentContext, done: Path, text: str) -> None:
    for number in range(1000):
        await ctx.step("note", note, done, f"{number} {text}")


async def note(done: Path, text: str) -> str:
    # One of these may be on the disk for a step that is not: the one whose result could not be written.
    with done.open("a") as file:
        file.write(text.split()[0] + "\n")
    return text


async def run_busily(path: Path, done: Path, size: int = 1000) -> None:
    async with open_agent_pool(max_concurrent=1, journal=SqliteJournal(path)) as pool:
        await pool.spawn(busy, done, "x" * size)


def _with_little_room(path: Path, done: Path, most: int) -> str:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        trio.run(run_busily, path, done)
    except JournalError as error:
        return str(error)
    return "it ended well"


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are those of POSIX")
@pytest.mark.parametrize("most", [100_000, 333_333])
def test_a_full_disk_ends_the_run_before_anything_more_is_done(tmp_path: Path, most: int) -> None:
    path, done = tmp_path / "run.db", tmp_path / "done"
    told = ended_apart(partial(_with_little_room, path, done, most)).value
    assert "cannot be written" in told
    assert "make room on the disk, then resume the run" in told
    noted = done.read_text().split()
    kept = [record for record in read_journal(path) if record.kind == "operated"]
    assert len(kept) <= len(noted) <= len(kept) + 1
    assert 10 < len(noted) < 1000

    async def go_on() -> None:
        async with resume_agent_pool(path) as pool:
            await pool.resumed[0].result()

    trio.run(go_on)  # there is room now
    again = [int(number) for number in done.read_text().split()]
    assert sorted(set(again)) == list(range(1000))
    assert len(again) <= 1001


def test_a_file_that_another_program_locks_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpool.journal._file._BUSY_SECONDS", 0.05)
    path, done, other = tmp_path / "run.db", tmp_path / "done", list[sqlite3.Connection]()

    async def locks(ctx: AgentContext) -> None:
        await ctx.step("first", note, done, "1")
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        other.append(connection)
        await ctx.step("second", note, done, "2")
        await ctx.step("third", note, done, "3")

    async def main() -> None:
        async with open_agent_pool(max_concurrent=1, journal=SqliteJournal(path)) as pool:
            await pool.spawn(locks)

    with pytest.raises(JournalError, match="database is locked; another program held it for"):
        trio.run(main)
    other[0].close()
    assert done.read_text().split() == ["1", "2"]


def _as_nobody(path: Path, done: Path) -> str:
    """Run as somebody who may not write everything, as root may."""
    with tempfile.TemporaryDirectory() as made:
        # What is imported for a run: somebody else may not be able to read where it is.
        trio.run(run_busily, Path(made) / "run.db", Path(made) / "done")
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        trio.run(run_busily, path, done)
    except JournalError as error:
        return str(error)
    return "it ended well"


@pytest.mark.skipif(sys.platform == "win32", reason="modes of files are those of POSIX")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_written_is_told_before_anything_is_done(what: str) -> None:
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        folder, done = Path(made) / "folder", Path(made) / "done"
        folder.mkdir()
        path = folder / "run.db"
        if what == "file":
            path.touch(0o444)
            os.chmod(path, 0o444)
            os.chmod(folder, 0o777)
        else:
            os.chmod(folder, 0o555)
        told = ended_apart(partial(_as_nobody, path, done)).value
        os.chmod(folder, 0o755)
        assert "cannot be opened" in told
        assert not done.exists()


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.db").mkdir()
    with pytest.raises(JournalError, match="is no file"):
        trio.run(run_busily, tmp_path / "run.db", tmp_path / "done")


def test_a_record_is_whole_whatever_its_size(tmp_path: Path) -> None:
    path = tmp_path / "run.db"

    async def main() -> None:
        journal = SqliteJournal(path)
        await journal.open()
        for size in (0, 1, 4000, 4096, 5000, 1_000_000):
            journal.append(JournalRecord("operated", 1, {"value": "é" * size}))
        await journal.aclose()

    trio.run(main)
    assert [len(record.data["value"]) for record in read_journal(path)] == [0, 1, 4000, 4096, 5000, 10**6]
