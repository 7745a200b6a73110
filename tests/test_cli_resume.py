"""Runs that the command line keeps in a journal and goes on with: real processes, which are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
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
from agentpool.journal import read_journal

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


def until(condition: Any, seconds: float = 30) -> None:
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


# -- the main job ----------------------------------------------------------------------------------


def test_the_main_job_killed_in_the_middle_and_resumed_ends_with_the_same_report(tmp_path: Path) -> None:
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("report.md", "_build"))
    job = tmp_path / "examples" / "docs-review" / "fleet.toml"
    report = job.with_name("report.md")
    whole = call("run", job, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    text = report.read_text()
    assert "findings" in text
    killed = 0
    for number, share in enumerate((0.05, 0.3, 0.6, 0.9)):
        report.unlink()
        journal = tmp_path / f"{number}.db"
        total = 27 * 4  # records: each reviewer is spawned, sends, is heard, ends
        with running("run", job, "--journal", journal, "--max-concurrent", 2, cwd=tmp_path) as process:
            killed += kill_at(process, journal, share * total)
        # From another directory: the fleet is in the journal, and paths mean what they meant.
        with running("resume", journal) as process:
            killed += kill_at(process, journal, len(records(journal)) + 10)
        again = call("resume", journal)
        assert again.returncode == 0, again.stderr
        assert plain(again.stdout) == plain(whole.stdout)
        assert report.read_text() == text
    assert killed >= 4


# -- what is gone on with --------------------------------------------------------------------------


def test_agents_that_had_ended_are_not_run_again_and_those_not_spawned_are_started(tmp_path: Path) -> None:
    path = fleet(tmp_path, agent("answer"), agent("wait_for_go"), agent("fail"), head="max_concurrent = 1")
    (tmp_path / "go").touch()
    whole = json.loads(call("run", path, "--json").stdout)
    (tmp_path / "go").unlink()
    (tmp_path / "done").unlink()
    journal = tmp_path / "run.db"
    with running("run", path, "--journal", journal) as process:
        assert kill_when(process, lambda: "wait_for_go" in done(tmp_path))
    assert done(tmp_path) == ["answer", "wait_for_go"]
    # All that is needed is in the journal, except the module of the functions.
    path.unlink()
    (tmp_path / "go").touch()
    result = call("resume", journal, "--json")
    assert result.returncode == 1
    assert done(tmp_path) == ["answer", "wait_for_go", "wait_for_go", "fail"]
    document = json.loads(result.stdout)
    assert "resumed: 1 agents had ended, 1 go on" in result.stderr
    for one in (whole, document):
        for each in one["agents"]:
            del each["duration"]
    assert document["agents"] == whole["agents"]
    assert document["usage"] == whole["usage"]
    assert document["fleet"] == str(path)
    assert (document["exit_code"], document["unfinished"], document["asked"]) == (1, [], [])
    # Once more: it is over, and nothing is run or written.
    before = journal.read_bytes()
    again = call("resume", journal, "--json")
    assert again.returncode == 1
    finished = json.loads(again.stdout)
    for each in finished["agents"]:
        del each["duration"]
    assert finished["agents"] == whole["agents"]
    assert journal.read_bytes() == before


def test_a_resumed_run_has_the_files_of_output_of_a_whole_one(tmp_path: Path) -> None:
    spawn = 'capabilities = ["spawn"]'
    path = fleet(tmp_path, agent("boss", spawn), agent("answer"), agent("wait_for_go"))
    (tmp_path / "go").touch()
    call("run", path, "--output", tmp_path / "whole")
    (tmp_path / "go").unlink()
    (tmp_path / "done").unlink()
    journal, output = tmp_path / "run.db", tmp_path / "out"
    with running("run", path, "--journal", journal, "--output", output) as process:
        assert kill_when(process, lambda: sum(each.kind == "ended" for each in records(journal)) == 5)
    (tmp_path / "go").touch()
    result = call("resume", journal)
    assert result.returncode == 0, result.stderr
    assert done(tmp_path).count("answer") == 1

    def answers(folder: Path) -> dict[str, str]:
        return {each.name[2:]: each.read_text() for each in folder.glob("*.txt")}

    assert answers(output) == answers(tmp_path / "whole")
    assert {each.name for each in output.glob("*.json")} != set()
    # A new directory gets all of them, too; one that holds something else is refused.
    result = call("resume", journal, "--output", tmp_path / "new")
    assert result.returncode == 0
    assert answers(tmp_path / "new") == answers(output)
    result = call("resume", journal, "--output", tmp_path)
    assert result.returncode == 2
    assert "is not empty" in result.stderr


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


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_after_two_signals_what_is_unfinished_can_be_resumed(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = fleet(tmp_path, agent("wait_for_go"), agent("answer"), head="max_concurrent = 1")
    journal = tmp_path / "the run.db"
    with running("run", path, "--journal", journal, "--json") as process:
        until(lambda: done(tmp_path))
        process.send_signal(number)
        assert process.stderr is not None
        said = ""
        while "again to leave all" not in said:
            said = process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    document = json.loads(out)
    assert document["agents"] == []
    assert document["unfinished"] == ["wait_for_go"]
    assert document["not_started"] == ["answer"]
    assert err.endswith(f"resume with: agentpool resume '{journal}'\n")
    (tmp_path / "go").touch()
    result = call("resume", journal)
    assert result.returncode == 0
    assert "2 completed" in result.stdout
    assert "resume with" not in result.stderr


def test_after_one_signal_those_at_work_finish_and_those_that_wait_are_left(tmp_path: Path) -> None:
    sums = '[[agents]]\nname = "sums"\nfunction = "agents:sums"\n'
    counts = '[[agents]]\nname = "counts"\nfunction = "agents:counts"\nargs = { number = 7 }\ncount = 5\n'
    path = fleet(tmp_path, sums, agent("wait_for_go"), counts, head="max_concurrent = 1")
    journal = tmp_path / "run.db"
    with running("run", path, "--journal", journal) as process:
        until(lambda: done(tmp_path))
        process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 143
    # Had it been told that nobody will write, its sum would be wrong for ever.
    assert "unfinished: sums" in out
    assert "1 completed" in out
    assert "not started: counts-1" in out
    assert "resume with" in err
    result = call("resume", journal, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["agents"][0]["text"] == "35"


# -- a person decides ------------------------------------------------------------------------------

CAREFUL = 'tools = ["agents:wipe"]\n[agents.manifest.approval]\nask = ["wipe"]'


def paused(folder: Path) -> tuple[Path, str, subprocess.CompletedProcess[str]]:
    path = fleet(folder, agent("careful", CAREFUL), agent("answer"))
    journal = folder / "run.db"
    result = call("run", path, "--journal", journal, "--json")
    assert result.returncode == 3, result.stderr
    document = json.loads(result.stdout)
    assert document["exit_code"] == 3
    assert document["unfinished"] == ["careful"]
    (asked,) = document["asked"]
    assert asked["call"] == {"name": "wipe", "input": {"what": "all\x1b[2J of it"}}
    return journal, asked["id"], result


@pytest.mark.parametrize(
    ("verb", "answer"), [("approve", "wiped all"), ("deny", "Not run: it was denied: never \u00e9.")]
)
def test_a_run_without_a_terminal_is_paused_until_a_person_has_decided(
    tmp_path: Path, verb: str, answer: str
) -> None:
    journal, key, result = paused(tmp_path)
    assert "\x1b" not in result.stderr
    assert 'careful asks whether it may call wipe {"what": "all\\u001b[2J of it"}' in result.stderr
    assert f"allow it with: agentpool approve {journal} {key}\n" in result.stderr
    assert f"or refuse it:  agentpool deny {journal} {key} [--reason TEXT]\n" in result.stderr
    assert f"resume with: agentpool resume {journal}\n" in result.stderr
    # Nobody has decided: it is paused once more, with the same question.
    again = call("resume", journal)
    assert again.returncode == 3
    assert key in again.stderr
    reason = ["--reason", "never \u00e9"] if verb == "deny" else []
    decided = call(verb, journal, key, *reason)
    assert decided.returncode == 0, decided.stderr
    assert f"go on with: agentpool resume {journal}" in decided.stdout
    assert "\x1b" not in decided.stdout
    twice = call("approve", journal, key)
    assert twice.returncode == 2
    assert "already" in twice.stderr
    end = call("resume", journal, "--json")
    assert end.returncode == 0, end.stderr
    assert json.loads(end.stdout)["agents"][0]["text"].startswith(answer)
    assert done(tmp_path).count("answer") == 1
    assert ("wipe all\x1b[2J of it" in done(tmp_path)) == (verb == "approve")


def test_ids_under_which_nothing_is_asked_are_refused_with_those_that_are(tmp_path: Path) -> None:
    journal, key, _ = paused(tmp_path)
    before = journal.read_bytes()
    for arguments in (["x\x1b"], []):
        result = call("approve", journal, *arguments)
        assert result.returncode == 2
        assert f"{key}: careful: wipe" in result.stderr
        assert "\x1b" not in result.stderr
    assert journal.read_bytes() == before
    missing = call("deny", tmp_path / "none.db", key)
    assert missing.returncode == 2
    assert not (tmp_path / "none.db").exists()


def test_without_a_journal_and_a_terminal_calls_are_denied(tmp_path: Path) -> None:
    result = call("run", fleet(tmp_path, agent("careful", CAREFUL)), "--json")
    assert result.returncode == 0
    assert "there is nobody to ask" in json.loads(result.stdout)["agents"][0]["text"]


# -- bad input -------------------------------------------------------------------------------------


def test_what_is_no_journal_is_refused_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("a text that is no journal at all" * 100)
    (tmp_path / "empty.db").touch()
    for name, told in {
        ".": "is a directory",
        "none.db": "there is no journal",
        "text.db": "is damaged",
        "empty.db": "holds no run",
    }.items():
        for verb in (["resume"], ["approve"]):
            result = call(*verb, tmp_path / name, *(["x"] if verb == ["approve"] else []))
            assert result.returncode == 2, result.stderr
            assert told in result.stderr
            assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*-lock"))


def test_a_new_run_wants_a_new_file_and_a_damaged_or_newer_one_is_told(tmp_path: Path) -> None:
    import sqlite3

    path, journal = fleet(tmp_path, agent("answer")), tmp_path / "run.db"
    assert call("run", path, "--journal", journal).returncode == 0
    result = call("run", path, "--journal", journal)
    assert result.returncode == 2
    assert f"Go on with it by `agentpool resume {journal}`" in result.stderr
    (tmp_path / "done").unlink()
    assert call("run", path, "--journal", tmp_path).returncode == 2
    assert call("run", path, "--journal", path).returncode == 2
    assert not done(tmp_path)
    with sqlite3.connect(journal) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "is a journal of version 99" in call("resume", journal).stderr
    with sqlite3.connect(journal) as connection:
        connection.execute("PRAGMA user_version = 1")
        connection.execute("UPDATE records SET data = '{}' WHERE seq = 2")
    connection.close()
    result = call("resume", journal)
    assert result.returncode == 2
    assert "is damaged" in result.stderr


def test_a_journal_in_use_and_functions_that_are_gone_are_told(tmp_path: Path) -> None:
    path = fleet(tmp_path, agent("careful", CAREFUL), agent("wait_for_go"))
    journal = tmp_path / "run.db"
    with running("run", path, "--journal", journal) as process:
        until(lambda: any(each.kind == "asked" for each in records(journal)))
        (key,) = [each.data["hash"] for each in records(journal) if each.kind == "asked"]
        for command in (["resume", journal], ["approve", journal, key]):
            result = call(*command)
            assert result.returncode == 2, result.stdout
            assert "another process writes" in result.stderr
        process.kill()
        process.communicate()
    (tmp_path / "agents.py").write_text("")
    result = call("resume", journal)
    assert result.returncode == 2
    assert "wait_for_go" in result.stderr
    (tmp_path / "agents.py").unlink()
    assert call("resume", journal).returncode == 2


def test_a_run_of_a_program_is_not_for_the_command_line(tmp_path: Path) -> None:
    write(tmp_path / "run.db", [JournalRecord("run", data={"id": "x", "settings": {}, "about": {}})])
    result = call("resume", tmp_path / "run.db")
    assert result.returncode == 2
    assert "resume_agent_pool" in result.stderr


# -- what is kept ----------------------------------------------------------------------------------


def test_no_secret_gets_into_the_journal_and_what_held_one_is_given_again(tmp_path: Path) -> None:
    secret = "sk-" + "Zq7" * 12
    path = fleet(
        tmp_path,
        agent("wait_for_go", f'[agents.manifest.model]\nsystem_prompt = "the key is {secret}"'),
        tail='[vars.token]\ndefault = ""\n',
    )
    path.write_text(path.read_text().replace('query = "?"', 'query = "{token}?"'))
    journal = tmp_path / "run.db"
    with running("run", path, "--journal", journal, "--var", f"token={secret}") as process:
        assert kill_when(process, lambda: done(tmp_path))
    assert all(secret.encode() not in each.read_bytes() for each in tmp_path.glob("run.db*"))
    (tmp_path / "go").touch()
    result = call("resume", journal)
    assert result.returncode == 2
    assert "--var token=VALUE" in result.stderr
    text = path.read_text()
    path.write_text(text.replace("the key", "another key"))
    result = call("resume", journal, "--var", f"token={secret}")
    assert result.returncode == 2
    assert "a secret stands in it" in result.stderr
    path.write_text(text)
    result = call("resume", journal, "--var", f"token={secret}")
    assert result.returncode == 0, result.stderr


def test_values_of_the_environment_do_not_get_into_the_journal(tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    env = {"OPENAI_API_KEY": "plain-words-of-mine-0815", "SOME_PASSWORD": "Tr0ub4dor-horse9"}
    path = fleet(tmp_path, agent("answer", '[agents.manifest.model]\nsystem_prompt = "Tr0ub4dor-horse9"'))
    assert call("run", path, "--journal", journal, env=env).returncode == 0
    assert oct(journal.stat().st_mode & 0o777) == "0o600"
    data = journal.read_bytes()
    assert all(value.encode() not in data for value in env.values())


def test_the_files_of_a_fleet_are_those_of_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    for name in ("a", "b"):
        (tmp_path / "pages" / f"{name}.md").touch()
    (tmp_path / "one.toml").write_text(
        'name = "answer"\n[model]\nsystem_prompt = "first"\n[script]\nfunction = "agents:answer"\n'
    )
    pages = '[[agents]]\nname = "page"\nmanifest = "one.toml"\nfor_each = "pages/*.md"\nquery = "{path}"\n'
    path = fleet(tmp_path, agent("wait_for_go"), pages, head="max_concurrent = 1")
    journal = tmp_path / "run.db"
    with running("run", "fleet.toml", "--journal", "run.db", cwd=tmp_path) as process:
        assert kill_when(process, lambda: done(tmp_path))
    # Meanwhile somebody works on the files.
    (tmp_path / "pages" / "a.md").unlink()
    (tmp_path / "pages" / "c.md").touch()
    (tmp_path / "one.toml").unlink()
    path.write_text("not even TOML")
    (tmp_path / "go").touch()
    result = call("resume", journal, "--json")
    assert result.returncode == 0, result.stderr
    assert [each["name"] for each in json.loads(result.stdout)["agents"]] == [
        "wait_for_go",
        "page-1",
        "page-2",
    ]


# -- what users of comparable programs ran into -----------------------------------------------------


def test_a_run_goes_on_from_any_directory_and_with_its_journal_moved(tmp_path: Path) -> None:
    work, other = tmp_path / "work", tmp_path / "other"
    work.mkdir()
    other.mkdir()
    path = fleet(work, agent("wait_for_go"), agent("answer"), head="max_concurrent = 1")
    with running("run", path.name, "--journal", "run.db", cwd=work) as process:
        assert kill_when(process, lambda: done(work))
    for file in work.glob("run.db*"):
        file.rename(other / file.name)
    (work / "go").touch()
    moved = work.rename(tmp_path / "moved")
    result = call("resume", "run.db", cwd=other)
    assert result.returncode == 2
    assert f"began in {work}, which cannot be entered" in result.stderr
    moved.rename(work)
    result = call("resume", "run.db", "--max-concurrent", 2, cwd=other)
    assert result.returncode == 0, result.stderr
    assert done(work) == ["wait_for_go", "wait_for_go", "answer"]
    # The report of a run that is over needs nothing but the journal.
    shutil.rmtree(work)
    again = call("resume", "run.db", cwd=other)
    assert again.returncode == 0, again.stderr
    assert plain(again.stdout) == plain(result.stdout)


def test_a_journal_that_is_lost_in_the_middle_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    path = fleet(tmp_path, agent("wait_for_go"), agent("answer"), head="max_concurrent = 1")
    journal = tmp_path / "run.db"
    with running("run", path, "--journal", journal) as process:
        until(lambda: done(tmp_path))
        journal.rename(tmp_path / "away.db")
        (tmp_path / "go").touch()
        _, err = process.communicate(timeout=20)
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


def test_failed_agents_of_before_have_their_conversation_in_the_files_of_output(tmp_path: Path) -> None:
    path = fleet(tmp_path, agent("fail"), agent("wait_for_go"))
    journal, output = tmp_path / "run.db", tmp_path / "out"
    with running("run", path, "--journal", journal) as process:
        assert kill_when(process, lambda: any(each.kind == "ended" for each in records(journal)))
    (tmp_path / "go").touch()
    assert call("resume", journal, "--output", output, "--quiet").returncode == 1
    for folder in (output, tmp_path / "again"):
        if not folder.exists():
            assert call("resume", journal, "--output", folder).returncode == 1
        document = json.loads((folder / "1-fail.json").read_text())
        assert document["transcript"][0] == {"role": "user", "kind": "query", "content": "?"}


def test_a_run_that_began_within_another_one_goes_on(tmp_path: Path) -> None:
    path = fleet(tmp_path, agent("answer"), agent("boss", 'capabilities = ["spawn"]'))
    journal, new = tmp_path / "run.db", tmp_path / "new.db"
    assert call("run", path, "--journal", journal, "--output", tmp_path / "out").returncode == 0
    forked = call("replay", journal, "--agent", 1, "--fork", 1, "--journal", new)
    assert forked.returncode == 0, forked.stderr
    path.unlink()
    result = call("resume", new, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert [each["text"] for each in document["agents"]] == ["well and good"]
    assert document["not_started"] == []
    assert call("resume", new, "--json").returncode == 0


def test_a_process_that_died_before_its_run_began_leaves_a_file_for_a_new_run(tmp_path: Path) -> None:
    journal = tmp_path / "run.db"
    write(journal, [])
    assert "holds no run" in call("resume", journal).stderr
    assert call("run", fleet(tmp_path, agent("answer")), "--journal", journal).returncode == 0
