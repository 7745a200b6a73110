"""Runs that the command line keeps in a journal and goes on with: real processes, which are killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cyclopts")

from agentpool import JournalError
from agentpool._core.records import JournalRecord
from agentpool._objects import UnreadableDataError, found_again
from agentpool.journal import read_journal

pytestmark = pytest.mark.processes

COMMAND = [sys.executable, "-m", "agentpool.cli"]
ROOT = Path(__file__).parent.parent

AGENTS = '''
"""What the agents of these tests do, and their tools. What they did is in the file `done`."""

import os
from pathlib import Path

import trio

from agentpool import Completion, TokenUsage, ToolCall, ToolMessage, tool

HERE = Path(__file__).parent


def note(text):
    with (HERE / "done").open("a") as file:
        file.write(text + "\\n")


def answer(request):
    note("answer")
    return Completion("well and good", usage=TokenUsage(1000, 234))


async def wait_for_go(request):
    note("wait_for_go")
    while not (HERE / "go").exists():
        await trio.sleep(0.01)
    return Completion("gone", usage=TokenUsage(10, 1))


def fail(request):
    note("fail")
    raise ValueError("no such note")


@tool
async def wipe(what: str) -> str:
    """Wipe something."""
    note(f"wipe {what}")
    return f"wiped {what}"


def careful(request):
    results = [each for each in request.messages if isinstance(each, ToolMessage)]
    if results:
        return Completion(str(results[0].result.content), usage=TokenUsage(5, 5))
    call = ToolCall("1", "wipe", {"what": "all\\x1b[2J of it"})
    return Completion(tool_calls=[call], usage=TokenUsage(7, 7))


def boss(request):
    results = [each for each in request.messages if isinstance(each, ToolMessage)]
    if "query: part" in str(request.messages[0]):
        return Completion("a part", usage=TokenUsage(3, 3))
    if not results:
        calls = [ToolCall(str(n), "spawn_agent", {"query": f"query: part {n}"}) for n in range(3)]
        return Completion(tool_calls=calls, usage=TokenUsage(2, 2))
    return Completion("whole", usage=TokenUsage(1, 1))


async def counts(ctx, number):
    note(f"count {number}")
    await ctx.send(ctx.find("sums"), number)
    return number


async def writes(ctx, path):
    Path(path).write_text("written")


async def sums(ctx):
    return sum([message.content async for message in ctx.inbox])
'''


def agent(name: str, more: str = "", *, entry: str = "") -> str:
    return (
        f'[[agents]]\nname = "{name}"\nquery = "?"\n{entry}\n[agents.manifest]\nname = "{name}"\n{more}\n'
        f'[agents.manifest.script]\nfunction = "agents:{name}"\n'
    )


def fleet(folder: Path, *agents: str, head: str = "max_concurrent = 4", tail: str = "") -> Path:
    (folder / "agents.py").write_text(AGENTS)
    path = folder / "fleet.toml"
    path.write_text(f"[pool]\n{head}\n" + "\n".join(agents) + tail)
    return path


def call(
    *arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )


@contextmanager
def running(*arguments: object, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def records(path: Path) -> Sequence[JournalRecord]:
    try:
        return read_journal(path)
    except (FileNotFoundError, JournalError):
        return ()


def done(folder: Path) -> list[str]:
    path = folder / "done"
    return path.read_text().splitlines() if path.exists() else []


def kill_when(process: subprocess.Popen[str], condition: Any) -> bool:
    """Kill the process as soon as a condition holds; whether it was there to be killed."""
    until(lambda: condition() or process.poll() is not None)
    was_there = process.poll() is None
    process.kill()
    process.communicate()
    return was_there


def kill_at(process: subprocess.Popen[str], journal: Path, size: float) -> bool:
    return kill_when(process, lambda: len(records(journal)) >= size)


def plain(text: str) -> str:
    """Return a report without what differs from run to run: how long each agent took."""
    return re.sub(r"\d+\.\d+", "0", re.sub(r" +", " ", text))


CAREFUL = 'tools = ["agents:wipe"]\n[agents.manifest.approval]\nask = ["wipe"]'


def test_relative_paths_mean_what_they_meant_wherever_a_run_is_resumed(
    tmp_path: Path,
) -> None:
    work, other = tmp_path / "work", tmp_path / "other"
    work.mkdir()
    other.mkdir()
    writes = '[[agents]]\nname = "writes"\nfunction = "agents:writes"\nargs = { path = "{file}" }\n'
    path = fleet(work, agent("wait_for_go"), writes, head="max_concurrent = 1")
    path.write_text('[vars.file]\ntype = "path"\ndefault = "out.txt"\n' + path.read_text())
    with running("run", path.name, "--journal", "run.db", cwd=work) as process:
        assert kill_when(process, lambda: done(work))
    for file in work.glob("run.db*"):
        file.rename(other / file.name)
    (work / "go").touch()
    moved = work.rename(tmp_path / "moved")
    result = call("resume", "run.db", cwd=other)
    assert result.returncode == 2
    moved.rename(work)
    result = call("resume", "run.db", "--max-concurrent", 2, "--output", "answers", cwd=other)
    assert result.returncode == 0, result.stderr
    assert (work / "out.txt").read_text() == "written"
    assert not (other / "out.txt").exists()
    assert list((other / "answers").iterdir())


def test_what_was_told_of_an_agent_is_in_the_journal(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path, agent("answer"), agent("wait_for_go")), tmp_path / "run.db"
    with running("run", path, "--journal", journal) as process:
        assert process.stderr is not None
        while "answer: completed" not in (line := process.stderr.readline()):
            assert line
        process.kill()
        process.communicate()
    assert any(each.kind == "ended" for each in records(journal))
    (tmp_path / "go").touch()
    assert call("resume", journal).returncode == 0
    assert done(tmp_path).count("answer") == 1


def test_what_is_asked_is_in_the_journal_while_others_are_at_work(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path, agent("careful", CAREFUL), agent("wait_for_go")), tmp_path / "run.db"
    with running("run", path, "--journal", journal):
        until(lambda: any(each.kind == "asked" for each in records(journal)))
        (key,) = [each.data["hash"] for each in records(journal) if each.kind == "asked"]
        for command in (["resume", journal], ["approve", journal, key]):
            result = call(*command)
            assert result.returncode == 2, result.stdout
            assert "another process writes" in result.stderr


def test_a_text_from_elsewhere_does_not_decide_which_files_are_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(UnreadableDataError, match="nothing was imported from"):
        found_again(f"{tmp_path}|evil:x")


def test_a_journal_that_is_lost_in_the_middle_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    path = fleet(tmp_path, agent("wait_for_go"), agent("answer"), head="max_concurrent = 1")
    journal = tmp_path / "run.db"
    with running("run", path, "--journal", journal) as process:
        until(lambda: done(tmp_path))
        journal.rename(tmp_path / "away.db")
        (tmp_path / "go").touch()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was deleted or replaced while it was written" in err
    assert "Traceback" not in err
    assert "answer" not in done(tmp_path)


def test_a_function_that_does_something_else_now_says_so(tmp_path: Path) -> None:
    sums = '[[agents]]\nname = "sums"\nfunction = "agents:sums"\n'
    counts = '[[agents]]\nname = "counts"\nfunction = "agents:counts"\nargs = { number = 7 }\n'
    path = fleet(tmp_path, sums, counts, agent("wait_for_go"))
    journal = tmp_path / "run.db"
    with running("run", path, "--journal", journal) as process:
        assert kill_when(process, lambda: any(each.kind == "received" for each in records(journal)))
    module = tmp_path / "agents.py"
    module.write_text(
        module.read_text().replace("return sum(", 'await ctx.send(ctx.find("counts"), 1); return sum(')
    )
    (tmp_path / "go").touch()
    result = call("resume", journal, "--json")
    assert result.returncode == 1
    (sums_now, *_) = json.loads(result.stdout)["agents"]
    assert "ReplayMismatchError" in sums_now["error"]
    assert "agent 1 (sums)" in sums_now["error"]


def test_children_that_a_model_spawned_go_on_with_the_driver_of_their_fleet(tmp_path: Path) -> None:
    path = fleet(tmp_path, agent("boss", 'capabilities = ["spawn"]'), head="max_concurrent = 2")
    journal = tmp_path / "run.db"
    assert call("run", path, "--journal", journal).returncode == 0
    kept = records(journal)
    spawned = [end for end, record in enumerate(kept, 1) if record.kind == "spawned" and record.agent > 1]
    assert len(spawned) == 3
    for end in range(spawned[0], len(kept)):
        cut = tmp_path / f"{end}.db"
        write(cut, kept[:end])
        result = call("resume", cut, "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["agents"][0]["text"] == "whole"


def write(path: Path, kept: Sequence[JournalRecord]) -> None:
    """Write a journal as a process leaves it that was killed after these records."""
    import trio

    from agentpool import SqliteJournal

    async def main() -> None:
        journal = SqliteJournal(path)
        await journal.open()
        for record in kept:
            journal.append(record)
        await journal.aclose()

    trio.run(main)


def test_supervised_agents_are_in_the_report_of_a_resumed_run(tmp_path: Path) -> None:
    tail = '[[supervisors]]\nname = "chief"\nchildren = ["answer", "wait_for_go"]\n'
    path = fleet(tmp_path, agent("answer"), agent("wait_for_go"), tail=tail)
    journal = tmp_path / "run.db"
    with running("run", path, "--journal", journal) as process:
        assert kill_when(process, lambda: any(each.kind == "ended" for each in records(journal)))
    (tmp_path / "go").touch()
    for _ in range(2):
        result = call("resume", journal, "--json")
        assert result.returncode == 0, result.stderr
        agents = json.loads(result.stdout)["agents"]
        assert {each["name"]: each["outcome"] for each in agents} == dict.fromkeys(
            ["chief", "answer", "wait_for_go"], "completed"
        )
    assert done(tmp_path).count("answer") == 1


def test_the_answers_of_agents_that_had_ended_are_written_by_a_resume_too(tmp_path: Path) -> None:
    path = fleet(tmp_path, agent("answer"), agent("wait_for_go"))
    journal = tmp_path / "run.db"
    with running("run", path, "--journal", journal) as process:
        assert kill_when(process, lambda: "wait_for_go" in done(tmp_path) and _has_ended(journal))
    (tmp_path / "go").touch()
    call("resume", journal, "--output", tmp_path / "answers")
    both = {"1-answer.txt", "2-wait_for_go.txt"}
    assert {file.name for file in (tmp_path / "answers").glob("*.txt")} == both
    # A run that has ended is written too.
    call("resume", journal, "--output", tmp_path / "once more")
    assert {file.name for file in (tmp_path / "once more").glob("*.txt")} == both


def _has_ended(journal: Path) -> bool:
    return any(record.kind == "ended" for record in records(journal))
