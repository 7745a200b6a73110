"""A memory in a file: what it finds, who shares it, and what can happen to the file."""

# ruff: noqa: ASYNC240, RUF001 (files are read between two steps; the letters are meant)

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import trio

from agentpool import InMemory, MemoryFileError, NamespacedMemory, SqliteMemory
from agentpool._sqlite import Schema, SqliteFile
from agentpool.abc import MemoryFragment
from agentpool.testing import check_memory, simulate

ON_WINDOWS = sys.platform == "win32"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture(params=["in memory", "sqlite"])
def memory(request: pytest.FixtureRequest, path: Path) -> NamespacedMemory:
    return InMemory() if request.param == "in memory" else SqliteMemory(path)


def contents(fragments: Sequence[MemoryFragment]) -> list[str]:
    return [fragment.content for fragment in fragments]


async def test_it_keeps_what_a_memory_promises(tmp_path: Path) -> None:
    names: Iterator[Path] = (tmp_path / f"{number}.db" for number in range(100))
    await check_memory(lambda: SqliteMemory(next(names)))
    await check_memory(InMemory)


async def test_what_was_remembered_is_there_when_the_file_is_opened_again(path: Path) -> None:
    async with SqliteMemory(path, clock=lambda: 17.0) as memory:
        kept = await memory.remember("the door is red", source="tool", agent_id=3, origin="a.md", trust=0.25)
        await memory.set("count", {"of": [1, None, "two"]})
    async with SqliteMemory(path) as memory:
        (fragment,) = await memory.recall("door")
        assert fragment == MemoryFragment(kept, "the door is red", "tool", 3, 17.0, 1.0, "", "a.md", 0.25)
        assert await memory.get("count") == {"of": [1, None, "two"]}
        assert repr(memory.namespace("a")) == f"<SqliteMemory: {str(path)!r}, namespace 'a'>"
    await memory.remember("it opens itself again")
    assert len(await memory.recall("door opens")) == 2
    await memory.aclose()
    await memory.aclose()


# -- what is found ---------------------------------------------------------------------------------


async def test_rare_words_count_more_than_common_ones(path: Path) -> None:
    memory = SqliteMemory(path)
    for n in range(20):
        await memory.remember(f"the page number {n} of the report")
    await memory.remember("zebras")
    found = await memory.recall("the zebras of the report", limit=3)
    assert contents(found)[0] == "zebras"
    assert found[0].relevance == 1
    assert 0 < found[1].relevance < 1


@pytest.mark.parametrize(
    ("text", "queries", "not_found"),
    [
        ("我们昨天讨论了端到端测试的配置", ["端到端测试结果", "测试", "端", "配置检查"], ["试测", "明天"]),
        ("重跑gen-itgc后50条悬空引用清零", ["itgc", "gen", "悬空", "引用清零"], ["itg", "空悬"]),
        ("リンゴを食べます", ["食べ", "リンゴ", "べます"], ["ンリ"]),
        ("조선의 역사", ["역사", "조선"], ["역조"]),
        ("กรุงเทพมหานคร", ["กรุงเทพ"], ["xyz"]),
        ("Straße nach Zürich, über 9000", ["STRASSE", "zurich", "Zu\u0308rich", "9000", "uber"], ["Zür"]),
        ("Café in Ελλάδα и Москва", ["cafe", "ΕΛΛΆΔΑ", "ελλαδα", "МОСКВА"], ["caf"]),
        ("mail nasa@jpl.nasa.gov about a=b, /usr/lib and snake_case", ["@nasa", "a=b", "usr/lib"], ["snake"]),
        ("don't use multi-agent \ufb01les", ["don't", "multi-agent", "AGENT", "files"], ["fi"]),
        ("AND OR NOT NEAR", ["NOT", "near", "AND AND", '"OR"', "NEAR/2"], ["^", "*"]),
        (
            "half \ud83d and whole \ud83d\ude00 after\0nul",
            ["half", "after", "nul", "a\0nul"],
            ["\ud83d", "\0"],
        ),
    ],
)
async def test_words_of_any_script_are_found(
    memory: NamespacedMemory, text: str, queries: list[str], not_found: list[str]
) -> None:
    kept = await memory.remember(text)
    await memory.remember("...")
    for query in queries:
        assert [fragment.id for fragment in await memory.recall(query)] == [kept], query
    for query in not_found:
        assert await memory.recall(query) == (), query


async def test_text_comes_back_as_it_was_but_for_what_cannot_be_encoded(path: Path) -> None:
    memory = SqliteMemory(path)
    for text in ("a\0b\n\r\t door", "İIıi door", "\u202edoor", "\ud83d\ude00 door"):
        await memory.remember(text)
        (found, *_) = await memory.recall("door")
        assert found.content == text.replace("\ud83d\ude00", "\U0001f600")
    await memory.remember("lone \ud83d")
    assert contents(await memory.recall("lone")) == ["lone \ufffd"]


async def test_a_long_text_and_a_long_query_are_fine(memory: NamespacedMemory) -> None:
    await memory.remember("x" * 1_000_000 + " long")
    await memory.remember(" ".join(f"w{n}" for n in range(100_000)))
    assert len(await memory.recall("long")) == 1
    assert len(await memory.recall("w0 " + "y" * 1_000_000)) == 1
    assert len(await memory.recall(" ".join(f"w{n}" for n in range(100_000)))) == 1
    assert len(await memory.recall("x" * 1_000_000)) == 1


async def test_what_is_as_good_comes_in_the_order_of_time_whatever_the_clock_says(path: Path) -> None:
    times = iter([5.0, 5.0, 9.0, 5.0])
    memory = SqliteMemory(path, clock=lambda: next(times))
    for n in range(4):
        await memory.remember(f"door{n:0<3} door")
    assert [fragment.id for fragment in await memory.recall("door")] == [3, 4, 2, 1]
    assert [fragment.id for fragment in await memory.recall("door", limit=2)] == [3, 4]
    assert [fragment.id for fragment in await memory.recall("door", since=6)] == [3]


async def test_many_agents_sources_and_namespaces_do_not_push_each_other_out(
    memory: NamespacedMemory,
) -> None:
    await memory.remember("door of one", agent_id=1, source="tool", trust=0.9)
    mine = memory.namespace("mine")
    await mine.remember("door of mine", agent_id=1, source="tool")
    for n in range(50):
        await memory.remember("door door", agent_id=2)
        await memory.namespace(f"n{n}").remember("door door", agent_id=1, source="tool", trust=1)
    assert contents(await memory.recall("door", limit=1, agent_id=1)) == ["door of one"]
    assert contents(await memory.recall("door", limit=1, source="tool")) == ["door of one"]
    assert contents(await mine.recall("door", limit=1)) == ["door of mine"]
    assert contents(await mine.namespace("").recall("door", agent_id=1)) == ["door of one"]
    assert await mine.recall("door", min_trust=0.6) == ()


async def test_what_makes_no_sense_is_refused(path: Path) -> None:
    memory = SqliteMemory(path)
    for trust in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="trust is"):
            await memory.remember("a", trust=trust)
        with pytest.raises(ValueError, match="trust is"):
            await InMemory().remember("a", trust=trust)
    with pytest.raises(ValueError, match="limit is -1"):
        await memory.recall("a", limit=-1)
    assert await memory.recall("a", limit=10**30) == ()
    assert await memory.forget(10**30) is False
    for nowhere in ("", ":memory:"):
        with pytest.raises(ValueError, match="is no file"):
            SqliteMemory(nowhere)
    for value in ((1, 2), {1: 2}, {1}, float("nan"), object(), {"a": (1,)}):
        with pytest.raises(TypeError, match="the value of 'key'"):
            await memory.set("key", value)
    assert await memory.get("key") is None


async def test_keys_are_any_text(memory: NamespacedMemory) -> None:
    keys = ["", " ", "a", "A", "a\0", "a\0b", "\ud83d", "\ufffd", "'; DROP TABLE entries", "k" * 10_000]
    for number, key in enumerate(keys):
        await memory.set(key, number)
    assert [await memory.get(key) for key in keys] == list(range(len(keys)))


async def test_a_forgotten_text_is_gone_from_results_and_from_the_file(path: Path) -> None:
    memory = SqliteMemory(path)
    for n in range(50):
        await memory.remember("door " * 10 + f"number{n}")
    secret = await memory.remember("door: my neighbour is moving to Lisbon next week")
    assert await memory.forget(secret)
    assert len(await memory.recall("door Lisbon", limit=51)) == 50
    assert await memory.recall("Lisbon") == ()
    await memory.aclose()
    assert b"neighbour is moving" not in path.read_bytes()


async def test_namespaces_are_told_apart_to_the_letter(memory: NamespacedMemory) -> None:
    names = [
        "john-doe",
        "john_doe",
        "john%",
        "John_Doe",
        "john",
        "john_doe.notes",
        "%",
        "_",
        " ",
        "\0",
        "\0b",
    ]
    for name in names:
        await memory.namespace(name).remember(f"lives in {name}")
    for name in names:
        found = await memory.namespace(name).recall("lives")
        assert contents(found) == [f"lives in {name}"]
        assert found[0].namespace == name
    assert await memory.recall("lives") == ()
    if isinstance(memory, SqliteMemory):
        with pytest.raises(ValueError, match="can be encoded"):
            memory.namespace("\ud83d")


async def test_a_password_that_a_user_tells_is_not_kept(path: Path) -> None:
    memory = SqliteMemory(path)
    told = "Remember: my database password is hunter2abc and the bot has xoxb-1234567890-abcdefghij"
    await memory.remember(told, source="tool")
    (kept,) = await memory.recall("database password")
    assert kept.content == ("Remember: my database password is [redacted-1] and the bot has [redacted-2]")


# -- secrets ---------------------------------------------------------------------------------------


async def test_no_secret_reaches_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [
        f"sk-ant-api03-{'x7Qz9' * 6}",
        f"Kw9{'pL3vT8' * 4}",
        f"zR5{'mN2bY7' * 4}",
        f"tG6{'hJ4cD1' * 4}",
    ]
    monkeypatch.setenv("OUR_API_KEY", secrets[1])
    memory = SqliteMemory(path, secrets=[secrets[2]])
    for secret in secrets[:3]:
        await memory.remember(
            f"the key is {secret} here", source=f"s {secret}", origin=f"https://x/?key={secret}"
        )
        await memory.set("note", {"text": f"use {secret}", "list": [secret]})
    await memory.set("api_key", secrets[3])
    with pytest.raises(ValueError, match="holds a secret"):
        await memory.set(f"of {secrets[0]}", 1)
    assert contents(await memory.recall("key")) == ["the key is [redacted-1] here"] * 3
    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not [
        secret for secret in secrets if secret.encode() in written or secret.lower().encode() in written
    ]


@pytest.mark.skipif(ON_WINDOWS, reason="there are no such modes")
async def test_the_file_and_those_beside_it_are_their_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        memory = SqliteMemory(path.parent / "new" / "memory.db")
        await memory.remember("door")
    finally:
        os.umask(before)
    files = list((path.parent / "new").iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


@pytest.mark.skipif(ON_WINDOWS, reason="links need rights there")
async def test_a_link_leads_to_the_same_file(path: Path) -> None:
    link = path.parent / "link" / "other.db"
    link.parent.mkdir()
    link.symlink_to(path)
    await SqliteMemory(path).remember("door by its name")
    await SqliteMemory(link).remember("door by the link")
    assert len(await SqliteMemory(path).recall("door")) == 2
    assert [file.name for file in link.parent.iterdir()] == ["other.db"]


# -- cancellation ----------------------------------------------------------------------------------

MANY_WORDS = " ".join(f"w{n}" for n in range(30))


async def fill(path: Path, count: int) -> None:
    """Have `count` fragments in the file, each with the same thirty words."""
    await SqliteMemory(path).remember(MANY_WORDS)
    with closing(sqlite3.connect(path)) as connection:
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        connection.execute(
            f"{numbers} INSERT INTO fragments SELECT i, '', ?, '', 0, i, '', 1 FROM n", [MANY_WORDS]
        )
        connection.execute(f"{numbers} INSERT INTO words (rowid, text) SELECT i, ? FROM n", [MANY_WORDS])
        connection.commit()


async def test_a_cancelled_query_is_interrupted(path: Path) -> None:
    await fill(path, 20_000)
    memory = SqliteMemory(path)
    start = time.perf_counter()
    assert len(await memory.recall(MANY_WORDS)) == 5
    whole = time.perf_counter() - start
    start = time.perf_counter()
    with trio.move_on_after(whole / 10) as scope:
        await memory.recall(MANY_WORDS)
    assert scope.cancelled_caught
    assert time.perf_counter() - start < whole / 2
    assert len(await memory.recall("w0", limit=3)) == 3


async def test_a_cancelled_write_is_kept_or_not_and_the_file_is_whole(path: Path) -> None:
    memory = SqliteMemory(path)
    kept = cancelled = 0
    for n in range(60):
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + n / 60_000
            await memory.remember(f"door number{n} " + "x " * 500)
            kept += 1
        cancelled += scope.cancelled_caught
        if scope.cancelled_caught:
            assert await memory.recall(f"number{n}") == ()
    assert kept + cancelled == 60
    assert cancelled
    assert len(await memory.recall("door", limit=100)) == kept
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")


async def test_who_waits_for_another_call_can_be_cancelled(path: Path) -> None:
    await fill(path, 5_000)
    memory = SqliteMemory(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.recall, MANY_WORDS)
        await trio.lowlevel.checkpoint()
        with trio.CancelScope() as scope:
            scope.cancel()
            await memory.recall(MANY_WORDS)
        assert scope.cancelled_caught


def test_in_a_simulation_it_runs_in_the_runs_own_thread(path: Path) -> None:
    async def main() -> list[str]:
        memory = SqliteMemory(path, clock=trio.current_time)
        await memory.remember("door")
        with trio.CancelScope() as scope:
            scope.cancel()
            await memory.remember("door again")
        assert scope.cancelled_caught
        found = contents(await memory.recall("door"))
        await memory.aclose()
        return found

    assert simulate(main, seed=3).value == ["door"]


# -- other processes -------------------------------------------------------------------------------

WRITER = """
import sys, trio
from agentpool import SqliteMemory

async def main(path, name, count):
    memory = SqliteMemory(path)
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(int(count)):
        kept = await memory.remember(f"door {name} {n}", agent_id=n)
        await memory.set(f"{name}", n)
        print(kept, flush=True)

trio.run(main, *sys.argv[1:])
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


async def test_processes_share_a_file(path: Path) -> None:
    writers = [start(WRITER, path, name, 100) for name in ("ann", "bob", "eve")]
    for writer in writers:
        go(writer)
    ids: list[int] = []
    for writer in writers:
        out, err = await trio.to_thread.run_sync(writer.communicate)
        assert (writer.returncode, err) == (0, "")
        ids += map(int, out.split())
    assert sorted(ids) == list(range(1, 301))
    memory = SqliteMemory(path)
    assert len(await memory.recall("door", limit=1_000)) == 300
    assert len(await memory.recall("ann", limit=1_000)) == 100
    assert [await memory.get(name) for name in ("ann", "bob", "eve")] == [99, 99, 99]


@pytest.mark.skipif(ON_WINDOWS, reason="there is no such signal")
async def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    acknowledged: set[int] = set()
    for round_ in range(12):
        process = start(WRITER, path, f"r{round_}", 100_000)
        go(process)
        assert process.stdout is not None
        for _ in range(3 + 7 * round_):
            acknowledged.add(int(process.stdout.readline()))
        os.kill(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        *complete, _last = out.split("\n")
        acknowledged |= set(map(int, complete))
        memory = SqliteMemory(path)
        found = {fragment.id for fragment in await memory.recall("door", limit=1_000_000)}
        assert acknowledged <= found
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
            assert connection.execute("SELECT count(*) FROM fragments").fetchone() == (len(found),)
        await memory.aclose()


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("ready", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


async def test_a_locked_file_is_read_and_waited_for(path: Path) -> None:
    memory = SqliteMemory(path)
    await memory.remember("door")
    holder = start(HOLDER, path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    assert len(await memory.recall("door")) == 1
    begun = time.perf_counter()
    with trio.move_on_after(0.1) as scope:
        await memory.remember("window")
    assert scope.cancelled_caught
    assert time.perf_counter() - begun < 2  # less than it would have waited
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.remember, "window")
        await trio.to_thread.run_sync(holder.communicate, "go\n")
    assert contents(await memory.recall("door window")) == ["window", "door"]


async def test_a_file_that_is_locked_for_too_long_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpool._sqlite.BUSY_SECONDS", 0.05)
    memory = SqliteMemory(path)
    await memory.remember("door")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MemoryFileError, match=r"memory\.db cannot be used: database is locked; another"):
            await memory.remember("window")
        assert len(await memory.recall("door")) == 1
    await memory.remember("window")


# -- what happens to files -------------------------------------------------------------------------


async def refused(path: Path, words: str) -> None:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(MemoryFileError, match=words) as caught:
        await SqliteMemory(path).remember("door")
    assert str(path) in str(caught.value)
    if before is not None:
        assert path.read_bytes() == before


async def test_a_file_that_is_no_memory_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_text("Dear diary, " * 100)
    await refused(path, "file is not a database; it is damaged or no SQLite file: restore it")
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE fragments (id)")
    await refused(path, "it is an SQLite file, but no memory; give another path")
    path.unlink()
    path.mkdir()
    await refused(path, "cannot be used: Is a directory")


async def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    async with SqliteMemory(path) as memory:
        await memory.remember("door")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    await refused(
        path, "it is of version 2, and this agentpool knows version 1; use the agentpool that made it"
    )


async def test_a_damaged_file_is_an_error(path: Path) -> None:
    await fill(path, 2_000)
    gc.collect()
    data = bytearray(path.read_bytes())
    data[4096 : len(data) - 4096] = bytes(len(data) - 8192)
    path.write_bytes(data)
    memory = SqliteMemory(path)
    with pytest.raises(MemoryFileError, match="it is damaged or no SQLite file"):
        await memory.recall("w0")
        await memory.remember("door")


NO_RIGHTS = """
import os, sys, trio
from agentpool import MemoryFileError, SqliteMemory
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)

async def main(path):
    try:
        await SqliteMemory(path).remember("door")
    except MemoryFileError as error:
        print(error)

trio.run(main, sys.argv[1])
"""


@pytest.mark.skipif(ON_WINDOWS, reason="there are no such rights")
async def test_a_file_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    # Where root may write everywhere; and below /tmp, as `tmp_path` is root's alone.
    memory = SqliteMemory(tmp_path / "memory.db")
    await memory.remember("door")
    await memory.aclose()
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)
    (tmp_path / "memory.db").chmod(0o444)
    done = await trio.run_process(
        [sys.executable, "-c", NO_RIGHTS, str(tmp_path / "memory.db")], capture_stdout=True, cwd="/"
    )
    assert done.stdout.decode() == (
        f"the memory {tmp_path / 'memory.db'} cannot be used: Permission denied;"
        f" make the file and {tmp_path} writable, or give another path\n"
    )


FULL = """
import resource, signal, sys, trio
from agentpool import MemoryFileError, SqliteMemory

async def main(path):
    memory = SqliteMemory(path)
    kept = 0
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        while True:
            await memory.remember(f"door {kept} " + "x" * 1000)
            kept += 1
    except MemoryFileError as error:
        print(kept, error)
    print(len(await memory.recall("door", limit=10_000)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await memory.remember("door with room")
    print(len(await memory.recall("door", limit=10_000)))

trio.run(main, sys.argv[1])
"""


@pytest.mark.skipif(ON_WINDOWS, reason="there is no limit to set")
async def test_a_full_disk_is_an_error_and_leaves_the_file_whole(path: Path) -> None:
    done = await trio.run_process([sys.executable, "-c", FULL, str(path)], capture_stdout=True)
    told, before, after = done.stdout.decode().splitlines()
    kept = int(told.partition(" ")[0])
    assert (int(before), int(after)) == (kept, kept + 1)
    assert told.endswith("; make room on the disk, then try again")


async def test_a_file_that_was_removed_is_made_anew(path: Path) -> None:
    memory = SqliteMemory(path)
    await memory.remember("door")
    if ON_WINDOWS:
        await memory.aclose()
    for file in list(path.parent.iterdir()):
        file.unlink()
    await memory.remember("window")
    assert contents(await memory.recall("door window")) == ["window"]
    assert contents(await SqliteMemory(path).recall("door window")) == ["window"]


async def test_a_memory_that_nobody_has_any_more_lets_its_file_go(path: Path) -> None:
    memory = SqliteMemory(path)
    await memory.namespace("a").remember("door")
    del memory
    for _ in range(1_000):  # its thread may still be putting its things away
        gc.collect()
        await trio.lowlevel.checkpoint()
        if len(list(path.parent.iterdir())) == 1:
            break
    assert [file.name for file in path.parent.iterdir()] == ["memory.db"]


def test_one_memory_serves_one_run_after_another(path: Path) -> None:
    memory = SqliteMemory(path)
    for n in range(3):
        assert trio.run(memory.remember, "door") == n + 1


async def test_what_this_pythons_sqlite_lacks_is_named(path: Path) -> None:
    schema = Schema("memory", 1, 1, ("CREATE VIRTUAL TABLE words USING fts99(text)",), MemoryFileError)
    with pytest.raises(
        MemoryFileError, match=r"no such module: fts99; the SQLite 3\..* built without it: use"
    ):
        await SqliteFile(path, schema).call(lambda connection: None, writes=False)


async def test_what_a_call_raises_undoes_what_it_wrote(path: Path) -> None:
    schema = Schema("thing", 1, 1, ("CREATE TABLE t (a)",), MemoryFileError)
    file = SqliteFile(path, schema)

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (1)")
        raise KeyError("bad")

    with pytest.raises(KeyError, match="bad"):
        await file.call(fail, writes=True)
    count = await file.call(lambda c: c.execute("SELECT count(*) FROM t").fetchone(), writes=False)
    assert count == (0,)
    with pytest.raises(MemoryFileError, match=r"the thing .* no such table: nowhere"):
        await file.call(lambda c: c.execute("SELECT * FROM nowhere"), writes=False)
