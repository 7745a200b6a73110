"""A journal's SQLite file: who may read it, what it survives, and what its errors say."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import trio

from agentpool import JournalCorruptError, JournalError, SqliteJournal
from agentpool._blocking import set_blocking_runner
from agentpool._core.detection import KnownSecrets
from agentpool._core.records import JournalRecord
from agentpool._locks import lock, try_lock, unlock
from agentpool.journal import _file, read_journal
from agentpool.journal._file import JournalFile, row_of


def record(number: int, **data: Any) -> JournalRecord:
    return JournalRecord("operated", number, {"n": number, **data}, number / 10)


def written(path: Path, *records: JournalRecord, secrets: Sequence[str] = ()) -> None:
    file = JournalFile(path, is_durable=False, secrets=secrets)
    file.write([row_of(each) for each in records])
    file.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["run.db", "a b.db", "what?.db", "50%25.db", "a#b.db", "über 🦉.db", ":memory:"]
)
async def test_what_is_committed_is_read_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / name
    journal = SqliteJournal(path)
    assert await journal.open() == ()
    records = [record(1), record(2, text="ü \ud83d"), JournalRecord("closed", data={"how": "ended"})]
    for each in records:
        journal.append(each)
    await journal.commit()
    assert list(read_journal(path)) == records
    await journal.aclose()
    await journal.aclose()
    assert os.listdir(path.parent) == [name]
    assert list(await journal.open()) == records
    journal.append(record(4))
    await journal.aclose()
    assert len(read_journal(str(path))) == 4
    assert repr(journal) == f"SqliteJournal({str(path)!r})"


async def test_nobody_else_may_read_it_or_what_stands_beside_it(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        journal = SqliteJournal(tmp_path / "run.db")
        await journal.open()
        journal.append(record(1))
        await journal.commit()
        modes = {name: mode_of(tmp_path / name) for name in os.listdir(tmp_path)}
    finally:
        os.umask(umask)
    assert modes == dict.fromkeys(("run.db", "run.db-wal", "run.db-shm", "run.db-lock"), 0o600)
    await journal.aclose()


@pytest.mark.parametrize(("synchronous", "expected"), [("normal", 1), ("full", 2)])
async def test_it_waits_for_the_disk_on_request(synchronous: Any, expected: int, tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "run.db", synchronous=synchronous)
    await journal.open()
    assert journal._file is not None
    assert journal._file._connection.execute("PRAGMA synchronous").fetchone() == (expected,)
    assert journal._file._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await journal.aclose()


def test_other_ways_to_wait_for_the_disk_are_refused() -> None:
    with pytest.raises(ValueError, match="synchronous must be 'normal' or 'full', not 'off'"):
        SqliteJournal("run.db", synchronous="off")  # type: ignore[arg-type]


def test_many_rows_at_once_are_kept_in_their_order(tmp_path: Path) -> None:
    records = [record(number) for number in range(2_500)]
    written(tmp_path / "run.db", *records)
    assert list(read_journal(tmp_path / "run.db")) == records
    written(tmp_path / "run.db")
    assert len(read_journal(tmp_path / "run.db")) == 2_500


# -- where it is -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_cannot_hold_it(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "run.db")
    with pytest.raises(JournalError, match=r"run\.db is no file, and cannot hold a journal"):
        JournalFile(tmp_path / "run.db", is_durable=False)
    assert os.listdir(tmp_path) == ["run.db"]


def test_a_folder_that_is_a_file_cannot_hold_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"cannot be opened: .*(exists|directory)"):
        JournalFile(tmp_path / "file" / "run.db", is_durable=False)


def test_links_to_one_file_are_one_journal(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    file = JournalFile(tmp_path / "link.db", is_durable=False)
    with pytest.raises(JournalError, match="another process writes to the journal"):
        JournalFile(tmp_path / "real.db", is_durable=False)
    file.write([row_of(record(1))])
    assert len(read_journal(tmp_path / "real.db")) == len(read_journal(tmp_path / "link.db")) == 1
    file.close()
    assert sorted(os.listdir(tmp_path)) == ["link.db", "real.db"]


async def test_the_process_may_go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = SqliteJournal("run.db")
    await journal.open()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    journal.append(record(1))
    await journal.aclose()
    assert sorted(os.listdir(tmp_path)) == ["other", "run.db"]
    assert os.listdir(tmp_path / "other") == []


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_that_is_taken_away_ends_the_run(replace: bool, tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "run.db", is_durable=False)
    if replace:
        shutil.copy(tmp_path / "run.db", tmp_path / "copy.db")
        os.replace(tmp_path / "copy.db", tmp_path / "run.db")
    else:
        (tmp_path / "run.db").unlink()
    with pytest.raises(JournalError, match="was deleted or replaced while it was written"):
        file.write([row_of(record(1))])
    file.close()


# -- one writer --------------------------------------------------------------------------------

WRITE = """
import sys
from pathlib import Path
from agentpool.journal._file import JournalFile
file = JournalFile(Path(sys.argv[1]), is_durable=False)
print("open", flush=True)
sys.stdin.read()
"""


def test_another_process_that_writes_is_told_of_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(JournalError, match=r"another process writes to the journal .*: wait for its end"):
            JournalFile(path, is_durable=False)
        assert read_journal(path) == ()
        other.kill()  # it leaves its lock's file behind, and nobody holds it
    assert (tmp_path / "run.db-lock").exists()
    written(path, record(1))
    assert len(read_journal(path)) == 1


def test_a_lock_that_was_taken_away_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, takes = tmp_path / "run.db", []

    def taken_away(file: FileIO) -> bool:
        takes.append(file)
        if len(takes) == 1:
            (tmp_path / "run.db-lock").unlink()
        if len(takes) == 2:  # and another took its place
            (tmp_path / "run.db-lock").unlink()
            (tmp_path / "run.db-lock").touch()
        return try_lock(file)

    monkeypatch.setattr(_file, "try_lock", taken_away)
    written(path, record(1))
    assert len(takes) == 3
    assert all(file.closed for file in takes)


def test_a_fork_may_not_write_and_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.db"
    file = JournalFile(path, is_durable=False)
    here = os.getpid()
    with monkeypatch.context() as in_fork:
        in_fork.setattr(os, "getpid", lambda: here + 1)
        with pytest.raises(JournalError, match=f"was opened by process {here}: a fork of it may not write"):
            file.write([row_of(record(1))])
        file.close()
    with pytest.raises(JournalError, match="another process writes"):
        JournalFile(path, is_durable=False)
    file.write([row_of(record(2))])
    file.close()
    assert [each.agent for each in read_journal(path)] == [2]


def test_locks_are_waited_for_or_not(tmp_path: Path) -> None:
    with FileIO(tmp_path / "lock", "w") as one, FileIO(tmp_path / "lock", "r+") as other:
        lock(one)
        assert not try_lock(other)
        waiting = threading.Thread(target=lock, args=[other])
        waiting.start()
        unlock(one)
        waiting.join(10)
        assert not try_lock(one)
        unlock(other)
        assert try_lock(one)


# -- what it holds is not what was written --------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("UPDATE records SET data = '{}' WHERE seq = 2", "record 2 is not as it was written"),
        ("UPDATE records SET agent = 9 WHERE seq = 1", "record 1 is not as it was written"),
        ("UPDATE records SET at = 9 WHERE seq = 3", "record 3 is not as it was written"),
        ("UPDATE records SET sum = x'00' WHERE seq = 3", "record 3 is not as it was written"),
        ("DELETE FROM records WHERE seq = 2", "record 2 is not as it was written"),
        ("DELETE FROM records WHERE seq = 1", "record 1 is not as it was written"),
        ("PRAGMA application_id = 5", "it is an SQLite file, but no journal"),
        ("ALTER TABLE records RENAME TO other", "no such table|cannot be"),
    ],
)
def test_what_was_changed_is_told(statement: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    written(path, record(1), record(2), record(3))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(JournalError, match=text):
        read_journal(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=text):
        JournalFile(path, is_durable=False)
    assert sorted(os.listdir(tmp_path)) == ["run.db"]
    assert path.read_bytes()[100:] == before[100:] or "seq" in statement


def test_records_that_are_lost_at_the_end_leave_a_beginning(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    written(path, record(1), record(2), record(3))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DELETE FROM records WHERE seq = 3")
    connection.close()
    assert list(read_journal(path)) == [record(1), record(2)]


def test_a_kind_that_is_not_known_is_told(tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "run.db", is_durable=False)
    file.write([(0.0, 0, "later", "{}")])
    file.close()
    with pytest.raises(JournalCorruptError, match="record 1 has the kind 'later', which is not known"):
        read_journal(tmp_path / "run.db")


def test_another_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = path.read_bytes()
    for use in (read_journal, lambda path: JournalFile(path, is_durable=False)):
        with pytest.raises(JournalCorruptError, match="it is an SQLite file, but no journal"):
            use(path)
    assert path.read_bytes() == before


def test_a_newer_version_is_named(tmp_path: Path) -> None:
    written(tmp_path / "run.db", record(1))
    connection = sqlite3.connect(tmp_path / "run.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for use in (read_journal, lambda path: JournalFile(path, is_durable=False)):
        with pytest.raises(
            JournalError, match="is a journal of version 99, and this agentpool reads version"
        ):
            use(tmp_path / "run.db")


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.db").write_text("a text, and a long one at that" * 40)
    with pytest.raises(JournalCorruptError, match="is damaged: file is not a database"):
        read_journal(tmp_path / "run.db")
    with pytest.raises(FileNotFoundError, match="there is no journal"):
        read_journal(tmp_path / "none.db")
    (tmp_path / "empty.db").touch()
    assert read_journal(tmp_path / "empty.db") == ()


# -- what goes wrong while it is written ------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (sqlite3.OperationalError("database or disk is full"), "is full; make room on the disk, then resume"),
        (sqlite3.OperationalError("disk I/O error"), "I/O error; make room on the disk"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "the file writable"),
        (sqlite3.OperationalError("database is locked"), "another program held it for 5 s"),
        (sqlite3.OperationalError("odd"), "cannot be written: odd$"),
        (sqlite3.DatabaseError("malformed"), "is damaged: malformed"),
        (OSError("gone"), "cannot be written: gone"),
        (ZeroDivisionError("a bug"), "cannot be written: ZeroDivisionError"),
    ],
)
async def test_what_keeps_it_from_being_written_is_told_to_all_who_wait_and_ever_after(
    error: Exception, text: str, tmp_path: Path
) -> None:
    class Broken:
        def execute(self, statement: str, *args: Any) -> Any:
            raise error if statement.startswith("INSERT") else sqlite3.OperationalError("closed")

        def close(self) -> None:
            pass

    journal = SqliteJournal(tmp_path / "run.db")
    await journal.open()
    journal.append(record(1))
    await journal.commit()
    assert journal._file is not None
    real, journal._file._connection = journal._file._connection, Broken()  # type: ignore[assignment]
    told = []

    async def committer() -> None:
        journal.append(record(2))
        with pytest.raises(JournalError, match=text) as caught:
            await journal.commit()
        told.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(committer)
    assert len(told) == 3
    with pytest.raises(JournalError, match=text):
        journal.append(record(3))
    with pytest.raises(JournalError, match=text):
        await journal.aclose()
    real.close()
    assert list(read_journal(tmp_path / "run.db")) == [record(1)]


async def test_a_full_disk_is_told_as_sqlite_tells_it(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "run.db")
    await journal.open()
    assert journal._file is not None
    journal._file._connection.execute("PRAGMA max_page_count = 3")
    journal.append(record(1, text="x" * 50_000))
    with pytest.raises(JournalError, match="disk is full; make room on the disk, then resume the run"):
        await journal.commit()
    with pytest.raises(JournalError):
        await journal.aclose()
    assert read_journal(tmp_path / "run.db") == ()


async def test_what_is_no_data_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "run.db")
    with pytest.raises(RuntimeError, match="is not open"):
        journal.append(record(1))
    await journal.open()
    with pytest.raises(RuntimeError, match="is open already"):
        await journal.open()
    knot: dict[str, Any] = {}
    knot["itself"] = knot
    for value, error in ((object(), TypeError), (float("nan"), ValueError), (knot, RecursionError)):
        with pytest.raises(error):
            journal.append(record(1, value=value))
    journal.append(record(2))
    await journal.commit()
    await journal.commit()
    await journal.aclose()
    assert [each.agent for each in read_journal(tmp_path / "run.db")] == [2]
    await journal.commit()  # of nothing
    journal._appended += 1
    with pytest.raises(RuntimeError, match="is not open"):
        await journal.commit()


async def test_who_is_about_to_append_is_in_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    write = JournalFile.write

    def counted(self: JournalFile, rows: Any) -> None:
        groups.append(len(rows))
        write(self, rows)

    monkeypatch.setattr(JournalFile, "write", counted)
    journal = SqliteJournal(tmp_path / "run.db")
    await journal.open()

    async def agent(number: int) -> None:
        journal.append(record(number))
        await journal.commit()
        assert number in [each.agent for each in read_journal(tmp_path / "run.db")]

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(agent, number)
    assert groups == [20]
    await journal.aclose()


async def test_a_commit_that_is_cancelled_leaves_its_records_to_the_next(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "run.db")
    await journal.open()
    for number in (1, 2):
        journal.append(record(number))
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.commit()
        assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.aclose()
    assert [each.agent for each in read_journal(tmp_path / "run.db")] == [1, 2]


@pytest.mark.parametrize("before", [True, False])
async def test_in_a_simulation_a_commit_may_be_cancelled_before_and_after_it_writes(
    before: bool, tmp_path: Path
) -> None:
    async def run(fn: Callable[[], Any]) -> Any:
        if before:
            await trio.lowlevel.checkpoint()
        value = fn()
        await trio.lowlevel.checkpoint()
        return value

    set_blocking_runner(run)
    journal = SqliteJournal(tmp_path / "run.db")
    await journal.open()
    journal.append(record(1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.commit()
    assert scope.cancelled_caught
    assert len(read_journal(tmp_path / "run.db")) == (0 if before else 1)
    journal.append(record(2))
    with trio.fail_after(5):
        await journal.commit()
    assert [each.agent for each in read_journal(tmp_path / "run.db")] == [1, 2]
    await journal.aclose()


# -- secrets -----------------------------------------------------------------------------------

KEY = "sk-proj-a8Fk29xLqP0zR7vW3nT5"
ODD = "correct horse 7"


@pytest.mark.parametrize(
    "data",
    [
        {"completion": {"text": f"use {KEY}"}},
        {"call": {"input": {"header": f"Authorization: Bearer {KEY}"}}},
        {"error": {"text": "refused: password=Tr0ub4dor&3x", "args": ["https://u:Tr0ub4dor3x@h/"]}},
        {"work": {"agent": {"manifest": {"api_key": "1f2e3d4c5b6a7988"}}}},
        {"content": {"$bytes": "c2stcHJvai1hOEZrMjl4THFQMHpSN3ZXM25UNQ=="}},  # KEY in base64
        {"content": f"it is {ODD}!"},
        {KEY: 1},
        {"content": [["deep", {"in": [ODD]}]]},
        {"content": "environment: zq81-Kd02-mm7Z"},
    ],
    ids=str,
)
def test_no_secret_reaches_the_file(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "zq81-Kd02-mm7Z")
    path = tmp_path / "run.db"
    file = JournalFile(path, is_durable=False, secrets=[ODD])
    file.write([row_of(record(1)), row_of(record(2, **data)), row_of(record(3))])
    found = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    file.close()
    found += path.read_bytes()
    for secret in (KEY, ODD, "Tr0ub4dor", "1f2e3d4c5b6a7988", "c2stcHJvai1hOEZr", "zq81-Kd02-mm7Z"):
        assert secret.encode() not in found
    one, two, three = read_journal(path)
    assert (one, three) == (record(1), record(3))
    if "$bytes" not in json.dumps(data):
        assert "[redacted-1]" in json.dumps(two.data)


def test_what_is_no_secret_stays(tmp_path: Path) -> None:
    records = [
        record(1, input_tokens=5, key=None, text="the token is invalid"),
        record(2, data={"$bytes": "/w=="}),
    ]
    written(tmp_path / "run.db", *records)
    assert list(read_journal(tmp_path / "run.db")) == records


def test_a_secret_that_begins_one_record_and_ends_in_the_next_is_none(tmp_path: Path) -> None:
    records = [
        record(1, a="password:"),
        record(2, b="the password is"),
        record(3, c="-----BEGIN PRIVATE KEY-----"),
    ]
    written(tmp_path / "run.db", *records, record(4, d="-----END PRIVATE KEY-----"))
    assert list(read_journal(tmp_path / "run.db"))[:3] == records


def test_known_secrets_are_looked_for_in_all_rows(tmp_path: Path) -> None:
    secrets = KnownSecrets.of([ODD], {})
    assert list(secrets.spans(ODD)) == [(0, len(ODD))]
    written(tmp_path / "run.db", record(1), record(2, text=ODD), record(3, text=ODD), secrets=[ODD])
    assert [each.data.get("text") for each in read_journal(tmp_path / "run.db")] == [
        None,
        "[redacted-1]",
        "[redacted-1]",
    ]
