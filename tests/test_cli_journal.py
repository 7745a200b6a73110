"""Journals on the command line: runs that are killed, resumed, shown, replayed, forked and decided."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cyclopts")

from agentpool._core.records import JournalRecord
from agentpool.journal._file import JournalFile, row_of

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "agentpool.cli"]

DYING = """
import os, signal, sys
from agentpool.journal._file import JournalFile
left, when = int(sys.argv[1]), sys.argv[2]
write = JournalFile.write
def dying(self, rows):
    global left
    left -= 1
    if left == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, rows)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
JournalFile.write = dying
sys.argv[1:] = sys.argv[3:]
from agentpool.cli import main
main()
"""

AGENTS = '''
import os, time
from pathlib import Path
import trio
from agentpool import Completion, TokenUsage, ToolCall, tool

HERE = Path(__file__).parent


def note(name):
    with open(HERE / "world", "a") as file:
        file.write(name + "\\n")


@tool
async def write_note(text: str) -> str:
    """Write a note.

    Args:
      text: what it says.
    """
    note(text)
    return f"wrote {text}"


def worker(request):
    last = request.messages[-1]
    done = [m for m in request.messages if type(m).__name__ == "ToolMessage"]
    note(f"model {request.messages[0].content} {len(done)}")
    if len(done) < 2:
        text = f"{request.messages[0].content}-{len(done)}"
        call = ToolCall(f"c{len(done)}", "write_note", {"text": text})
        return Completion(tool_calls=(call,), usage=TokenUsage(10, 5))
    return Completion(" ".join(m.result.text for m in done), usage=TokenUsage(10, 5))


async def slow(request):
    (HERE / "started").touch()
    while not (HERE / "go").exists():
        await trio.sleep(0.01)
    return "gone"


async def collect(ctx):
    got = []
    async for message in ctx.inbox:
        got.append(message.content)
    return ",".join(sorted(got))


async def tell(ctx, query):
    while not (HERE / "go").exists():
        (HERE / "started").touch()
        await trio.sleep(0.01)
    await ctx.send(1, query)
    return query
'''


def fleet(folder: Path, extra: str = "", model: str = "worker", count: int = 3) -> Path:
    (folder / "agents.py").write_text(AGENTS)
    path = folder / "fleet.toml"
    name = "w-1" if count == 1 else "w"
    path.write_text(
        f'[pool]\nmax_concurrent = 2\n[[agents]]\nname = "{name}"\nquery = "{{name}}"\ncount = {count}\n'
        '[agents.manifest]\nname = "w"\ntools = ["agents:write_note"]\n'
        f'{extra}\n[agents.manifest.script]\nfunction = "agents:{model}"\n'
    )
    return path


def call(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})


def die(write: int, when: str, *arguments: object) -> int:
    """Run a command in a process that kills itself at one of the writes of its journal."""
    command = [sys.executable, "-c", DYING, str(write), when, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).returncode


def report(text: str) -> Any:
    """What of a report does not depend on time."""
    document = json.loads(text)
    agents = [{**agent, "duration": 0, "id": 0} for agent in document["agents"]]
    usage = document["usage"]
    return agents, usage, document["exit_code"], document["not_started"]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- the main job ------------------------------------------------------------------------


# What functions do is written in two groups: the beginning of the run, and all else at its end.
@pytest.mark.parametrize(("write", "when"), [(1, "after"), (2, "before"), (2, "after")])
def test_the_main_job_killed_in_the_middle_ends_with_the_same_report(
    tmp_path: Path, write: int, when: str
) -> None:
    shutil.copytree(ROOT / "examples" / "docs-review", tmp_path / "job")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    job, journal = tmp_path / "job" / "fleet.toml", tmp_path / "run.db"
    texts = [f"--var=docs={tmp_path / 'docs'}", f"--var=report={tmp_path / 'r.md'}", "--json"]
    whole = call("run", job, *texts)
    assert whole.returncode == 0, whole.stderr
    wanted = (tmp_path / "r.md").read_text()
    (tmp_path / "r.md").unlink()
    assert die(write, when, "run", job, *texts, "--journal", journal) == -signal.SIGKILL
    job.unlink()  # all of it is in the journal, but for the modules and what they read
    resumed = call("resume", journal, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert report(resumed.stdout) == report(whole.stdout)
    assert (tmp_path / "r.md").read_text() == wanted


# -- resume ------------------------------------------------------------------------------


@pytest.mark.parametrize("write", range(1, 14, 2))
def test_calls_that_had_ended_are_not_made_again(tmp_path: Path, write: int) -> None:
    path, journal = fleet(tmp_path), tmp_path / "run.db"
    whole = call("run", path, "--json")
    (tmp_path / "world").unlink()
    died = die(write, "after", "run", path, "--json", "--journal", journal)
    assert died in (0, -signal.SIGKILL)
    path.unlink()
    done = call("resume", journal, "--json")
    assert done.returncode == 0, done.stderr
    agents, _, _, not_started = report(done.stdout)
    assert [agent["name"] for agent in agents] == [a["name"] for a in report(whole.stdout)[0]]
    assert not not_started
    notes = [line for line in (tmp_path / "world").read_text().split() if line.startswith("w-")]
    assert len([n for n in notes if n.count("-") == 2]) == len({n for n in notes if n.count("-") == 2})


def test_a_run_that_has_ended_prints_its_report_again(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path), tmp_path / "run.db"
    first = call("run", path, "--journal", journal, "--json")
    assert first.returncode == 0
    again = call("resume", journal, "--json")
    assert again.returncode == 0
    assert "this run has ended" in again.stderr
    assert report(again.stdout) == report(first.stdout)
    assert call("run", path, "--journal", journal).stderr == (
        f"agentpool: --journal: {journal} holds a run already. Go on with it: agentpool resume {journal};"
        " or give another file to a new run\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_what_is_unfinished_resumable(tmp_path: Path, number: int) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    path, journal = tmp_path / "fleet.toml", tmp_path / "run.db"
    path.write_text(
        '[pool]\nmax_concurrent = 2\n[[agents]]\nname = "c"\nfunction = "agents:collect"\n'
        '[[agents]]\nname = "t"\ncount = 4\nfunction = "agents:tell"\nquery = "{name}"\n'
    )
    process = subprocess.Popen(
        [*COMMAND, "run", str(path), "--journal", str(journal), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "started")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err.endswith(f"resume with: agentpool resume {journal}\n")
    (tmp_path / "go").touch()
    done = call("resume", journal, "--json")
    assert done.returncode == 0, done.stderr
    # The collector was not told that nobody writes: it has heard those that were not started then.
    assert json.loads(done.stdout)["agents"][0]["text"] == "t-1,t-2,t-3,t-4"


def test_a_run_in_use_is_not_resumed(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path, model="slow"), tmp_path / "run.db"
    process = subprocess.Popen(
        [*COMMAND, "run", str(path), "--journal", str(journal)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(tmp_path / "started")
        done = call("resume", journal)
        assert done.returncode == 2
        assert "another process writes to the journal" in done.stderr
        assert call("show", journal).returncode == 0
    finally:
        process.kill()
        process.wait()


# -- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["resume"], ["show"], ["replay"], ["approve", "x"], ["deny", "x"]])
def test_what_is_no_journal_is_told(tmp_path: Path, command: list[str]) -> None:
    verb, *rest = command
    text, database, newer = tmp_path / "text", tmp_path / "other.db", tmp_path / "newer.db"
    text.write_text("no journal " * 100)
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    JournalFile(newer, is_durable=False).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    empty = tmp_path / "empty\x1b.db"
    empty.touch()
    for path, complaint in (
        (tmp_path / "nope.db", "there is no journal"),
        (tmp_path, "is a directory"),
        (text, "damaged"),
        (database, "no journal"),
        (newer, "is a journal of version 99"),
        (empty, "holds no run"),
    ):
        done = call(verb, path, *rest)
        assert done.returncode == 2, done.stderr
        assert complaint in done.stderr
        assert done.stderr.count("\n") == 1
        assert "\x1b" not in done.stderr


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path), tmp_path / "run.db"
    call("run", path, "--journal", journal)
    connection = sqlite3.connect(journal)
    connection.execute("UPDATE records SET data = '{}' WHERE seq = 3")
    connection.commit()
    connection.close()
    for verb in ("resume", "show", "replay"):
        done = call(verb, journal)
        assert done.returncode == 2
        assert "is damaged: record 3 is not as it was written" in done.stderr


def test_a_run_of_a_program_is_resumed_by_the_program(tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    file = JournalFile(journal, is_durable=False)
    settings = {"max_concurrent": 1, "inbox_capacity": 1, "budget": None}
    run = {"schema": 1, "id": "x", "settings": settings, "about": {}}
    file.write([row_of(JournalRecord("run", 0, run))])
    file.close()
    done = call("resume", journal)
    assert done.returncode == 2
    assert "resume_agent_pool" in done.stderr


def test_nothing_of_the_environment_is_in_the_file(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path), tmp_path / "run.db"
    secret = "sk-" + "Zq81" * 10
    path.write_text(path.read_text().replace('query = "{name}"', f'query = "{{name}} {secret}"'))
    done = call("run", path, "--journal", journal, OPENAI_API_KEY=secret, MY_OWN_VARIABLE="quite-private")
    assert done.returncode == 0
    for file in tmp_path.glob("run.db*"):
        assert secret.encode() not in file.read_bytes()
        assert b"quite-private" not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0


# -- forks -----------------------------------------------------------------------------------


def test_a_fork_goes_on_from_a_step(tmp_path: Path) -> None:
    path, journal, forked = fleet(tmp_path, count=1), tmp_path / "run.db", tmp_path / "new.db"
    call("run", path, "--journal", journal)
    (tmp_path / "world").unlink()
    steps = call("replay", journal, "--agent", 1).stdout.splitlines()[1:]
    step = next(n for n, line in enumerate(steps, 1) if "calls write_note" in line and "w-1-1" in line)
    made = call("replay", journal, "--agent", 1, "--fork", step, "--journal", forked)
    assert made.returncode == 0, made.stderr
    done = call("resume", forked, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agents"][0]["text"] == "wrote w-1-0 wrote w-1-1"
    assert (tmp_path / "world").read_text() == "w-1-1\nmodel w-1 2\n"
    assert "this run has ended" in call("resume", forked).stderr


# -- approval ------------------------------------------------------------------------------

ASKS = '[agents.manifest.approval]\nask = ["write_note"]'


def test_a_run_that_needs_a_person_is_paused_and_goes_on_with_the_decision(tmp_path: Path) -> None:
    path, journal = fleet(tmp_path, ASKS, count=1), tmp_path / "run.db"
    paused = call("run", path, "--journal", journal)
    assert paused.returncode == 3, paused.stderr
    assert 'wants write_note(text="w-1-0")' in paused.stderr
    assert f"decide with: agentpool approve {journal} " in paused.stderr
    key = json.loads(call("show", journal, "--json").stdout)["approvals"][0]["id"]
    assert f"asked: {key}" in call("show", journal).stdout
    assert call("resume", journal).returncode == 3  # nobody has decided
    assert "is not asked in this run" in call("approve", journal, "zzz").stderr
    assert call("approve", journal, key).stdout.startswith(f"approved: {key} agent 1 (w-1) wants write_note(")
    assert "was approved already" in call("deny", journal, key).stderr
    second = call("resume", journal, "--json")
    assert second.returncode == 3
    assert (tmp_path / "world").read_text().count("w-1-0\n") == 1
    other = json.loads(second.stdout)["paused"][0]
    assert other["arguments"] == {"text": "w-1-1"}
    assert call("deny", journal, other["id"][:6], "--reason", "not now").returncode == 0
    last = call("resume", journal, "--json")
    assert last.returncode == 0, last.stderr
    assert "not now" in json.loads(last.stdout)["agents"][0]["text"]
    assert "w-1-1\n" not in (tmp_path / "world").read_text()
