"""`agentpool show` and `agentpool replay`: looking into the journal of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

pytest.importorskip("cyclopts")

from agentpool import (
    AgentContext,
    AgentManifest,
    AssistantMessage,
    Budget,
    Completion,
    CompletionRequest,
    Driver,
    ModelAgent,
    RateLimitedError,
    SpawnConfig,
    SqliteJournal,
    TokenUsage,
    ToolCall,
    ToolMessage,
    open_agent_pool,
    resume_agent_pool,
    tool,
)
from agentpool._core.records import JournalRecord
from agentpool.cli._app import call
from agentpool.journal import read_journal

USED = TokenUsage(100, 10)


@tool(idempotent=True)
async def look(what: str) -> str:
    """Look at something."""
    return f"saw {what}\n\x1b[31m{what}"


class Model(Driver):
    """Looks twice, and tells what it saw; a sibling fails."""

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        if "fail" in str(request.messages[0].content):  # type: ignore[union-attr]
            raise RateLimitedError("slow down")
        turns = sum(isinstance(message, AssistantMessage) for message in request.messages)
        if turns < 2:
            return Completion(
                "let me see", (ToolCall(str(turns), "look", {"what": f"thing {turns}"}),), usage=USED
            )
        results = [message.result.text for message in request.messages if isinstance(message, ToolMessage)]
        return Completion(f"I saw {len(results)} things", usage=USED)


AGENT = ModelAgent(AgentManifest(name="looking"), tools=[look])


SENT = trio.Event()


async def boss(ctx: AgentContext) -> list[str]:
    outcomes = await ctx.map(AGENT, ["go", "fail"])
    return [type(outcome).__name__ for outcome in outcomes]


async def waiting(ctx: AgentContext) -> str:
    await ctx.send(ctx.id, "a letter")
    SENT.set()
    await trio.sleep_forever()
    return ""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "run.db"

    async def main() -> None:
        async with open_agent_pool(
            Model(), max_concurrent=3, journal=SqliteJournal(path), budget=Budget(tokens=100_000)
        ) as pool:
            await (await pool.spawn(boss)).wait()
            await pool.spawn(waiting)
            await SENT.wait()
            raise KeyError("left")

    global SENT
    SENT = trio.Event()
    with pytest.raises(KeyError):
        trio.run(main)
    return path


def out_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert call(arguments) == code
    told = capsys.readouterr()
    return told.err if code == 2 else told.out


def test_show_prints_the_tree_of_agents_and_how_each_ended(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = out_of(capsys, "show", str(journal)).splitlines()
    assert lines[0].startswith("1 boss: completed in ")
    assert lines[1].startswith("  2 looking: completed in ")
    assert "330 tokens: I saw 2 things" in lines[1]
    assert lines[2].startswith("  3 looking: failed in ")
    assert lines[2].endswith("RateLimitedError: slow down")
    assert lines[3] == "4 waiting: unfinished, 1 messages in its inbox"
    assert lines[4].startswith("the run was stopped, with 1 unfinished agents; ")
    assert lines[4].endswith("330 tokens; budget: 330 of 100,000 tokens")


def test_show_prints_a_document_for_machines(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(out_of(capsys, "show", str(journal), "--json"))
    assert document["state"] == "stopped"
    assert document["spent"]["tokens"] == 330
    assert [agent["outcome"] for agent in document["agents"]] == ["completed", "completed", "failed", None]
    assert document["approvals"] == []
    agent = json.loads(out_of(capsys, "show", str(journal), "--agent", "2", "--json"))
    assert [message["role"] for message in agent["transcript"]] == [
        *("user", "assistant", "tool", "assistant", "tool", "assistant"),
    ]


def test_show_prints_a_conversation_that_no_terminal_obeys(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = out_of(capsys, "show", str(journal), "--agent", "2")
    assert "\x1b" not in text
    assert "query: go\nmodel: let me see\n  calls look {'what': 'thing 0'}\nresult of look:\n" in text
    assert "  saw thing 0\n  \\x1b[31mthing 0\n" in text
    assert text.rstrip().endswith("model: I saw 2 things")
    assert "query: fail" in out_of(capsys, "show", str(journal), "--agent", "3")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--agent", "1"], "agent 1 (boss) asked no model, and has no transcript"),
        (["--agent", "9"], "the run has no agent 9. It has 1 (boss), 2 (looking), 3 (looking), 4 (waiting)"),
    ],
)
def test_show_says_what_is_wrong_with_an_agent(
    arguments: list[str], told: str, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in out_of(capsys, "show", str(journal), *arguments, code=2)


def test_what_is_no_journal_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("show", "replay"):
        assert "there is no journal" in out_of(capsys, command, str(tmp_path / "none.db"), code=2)
        assert "is a directory" in out_of(capsys, command, str(tmp_path), code=2)
        (tmp_path / "text.db").write_text("no journal", "utf-8")
        assert "is damaged" in out_of(capsys, command, str(tmp_path / "text.db"), code=2)
        (tmp_path / "empty.db").write_bytes(b"")
        assert "holds no run: nothing had begun" in out_of(
            capsys, command, str(tmp_path / "empty.db"), code=2
        )


def test_show_of_a_run_in_which_nothing_was_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with open_agent_pool(max_concurrent=1, journal=SqliteJournal(tmp_path / "run.db")):
            text = out_of(capsys, "show", str(tmp_path / "run.db"))
            assert "no agent was started\nthe run goes on, or its process died" in text

    trio.run(main)
    assert "the run has ended" in out_of(capsys, "show", str(tmp_path / "run.db"))


# -- replay --------------------------------------------------------------------------------------


def test_replay_goes_through_the_steps_again(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = out_of(capsys, "replay", str(journal), "--agent", "2").splitlines()
    assert lines[0] == "agent 2 looking"
    assert lines[1].split(maxsplit=1) == ["1", "takes its messages"]
    assert lines[2].split(maxsplit=1) == ["2", "asks the model: 1 messages -> 'let me see' 1 calls"]
    assert lines[3].split(maxsplit=1)[1].startswith('calls look \'{"what": "thing 0"}\' -> \'saw thing 0 ')
    assert lines[-1].split(maxsplit=1)[1] == "is done: 'I saw 2 things'"
    everything = out_of(capsys, "replay", str(journal))
    assert "agent 3 looking\n" in everything
    assert "fails: RateLimitedError: slow down" in everything


def test_replay_ends_where_it_is_told(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = out_of(capsys, "replay", str(journal), "--agent", "2", "--until", "2").splitlines()
    assert len(lines) == 3


def test_replay_of_an_agent_that_asked_no_model(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = out_of(capsys, "replay", str(journal), "--agent", "1", code=2)
    assert "agent 1 asked a model, so that there is nothing to replay" in text


def rewritten(path: Path, change: Any) -> Path:
    """Write the records once more, each as `change` returns it."""
    records = [change(record) for record in read_journal(path)]
    target = path.with_name("changed.db")

    async def main() -> None:
        journal = SqliteJournal(target)
        await journal.open()
        for record in records:
            journal.append(record)
        await journal.aclose()

    trio.run(main)
    return target


def test_replay_tells_where_an_agent_comes_to_something_else(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(record: JournalRecord) -> JournalRecord:
        text = json.dumps(record.data)
        if record.kind == "observed":
            text = text.replace("I saw 2 things", "I saw nothing")
        return attrs.evolve(record, data=json.loads(text))

    assert call(["replay", str(rewritten(journal, other))]) == 1
    assert "it came to 'I saw 2 things' then, and comes to 'I saw nothing' now" in capsys.readouterr().err


def test_replay_tells_of_a_tape_that_makes_no_sense(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(record: JournalRecord) -> JournalRecord:
        text = json.dumps(record.data)
        if record.kind == "called":
            text = text.replace('"name": "look"', '"name": "jump"')
        return attrs.evolve(record, data=json.loads(text))

    assert call(["replay", str(rewritten(journal, other))]) == 1
    assert "agent 2 (looking), step 3 of its loop: it calls 'look' now" in capsys.readouterr().err


def test_a_new_run_begins_at_a_step(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new.db"
    told = out_of(capsys, "replay", str(journal), "--agent", "2", "--fork", "5", "--journal", str(target))
    assert told == f"agent 2 before step 5: go on with `agentpool resume {target}`\n"

    async def main() -> Any:
        async with resume_agent_pool(target, Model()) as pool:
            return await pool.resumed[0].result()

    result = trio.run(main)
    assert result.text == "I saw 2 things"
    replies = [record for record in read_journal(target) if record.data.get("is") == "replied"]
    assert len(replies) == 3
    about = json.loads(out_of(capsys, "show", str(target), "--json"))["about"]
    assert about == {"forked": {"agent": 2, "name": "looking", "before_step": 5}}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--fork", "2"], "--fork needs --agent N and --journal NEW.db"),
        (["--journal", "x.db"], "--journal is for a new run: give --fork STEP"),
        (["--agent", "1", "--fork", "2", "--journal", "x.db"], "agent 1 (boss) is a function"),
        (["--agent", "2", "--fork", "99", "--journal", "x.db"], "agent 2 has steps 1 to"),
        (["--agent", "2", "--fork", "2", "--journal", "run.db"], "run.db is there already"),
    ],
)
def test_a_new_run_that_cannot_begin_says_why(
    arguments: list[str],
    told: str,
    journal: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(journal.parent)
    assert told in out_of(capsys, "replay", str(journal), *arguments, code=2)


def test_a_new_run_of_a_bound_query(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.db"

    async def main() -> None:
        async with open_agent_pool(Model(), max_concurrent=3, journal=SqliteJournal(path)) as pool:
            await (await pool.spawn(SpawnConfig(AgentManifest(name="bound"), "go", tools=[look]))).wait()

    trio.run(main)
    target = tmp_path / "new.db"
    for step in ("1", "4"):
        out_of(capsys, "replay", str(path), "--agent", "1", "--fork", step, "--journal", str(target))

        async def again() -> Any:
            async with resume_agent_pool(target, Model()) as pool:
                return await pool.resumed[0].result()

        assert trio.run(again).text == "I saw 2 things"
        target.unlink()
