"""What the command line knows of a run follows from the events alone."""

from __future__ import annotations

import pytest

from agentpool._core import events as ev
from agentpool._core.errors import UnhandledAgentErrors
from agentpool._core.messages import AgentMessage, ToolCall
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.picture import Picture
from agentpool._core.usage import TokenUsage

pytest.importorskip("cyclopts")

from agentpool._core.summaries import describe, tell_error
from agentpool.cli._progress import told


def completed(agent_id: int = 1, **fields: object) -> Completed[str]:
    return Completed(agent_id=agent_id, name="a", parent_id=0, value="done", duration=0.5, **fields)  # type: ignore[arg-type]


def failed(error: BaseException) -> Failed:
    return Failed(agent_id=1, name="a", parent_id=0, error=error, duration=0.5)


def aborted(reason: str | None) -> Aborted:
    return Aborted(agent_id=1, name="a", parent_id=0, reason=reason, duration=0.5)


def started(*ids: int) -> Picture:
    picture = Picture()
    for agent_id in ids:
        assert told(picture, ev.AgentSpawned(1, 0.0, agent_id, 0, name=f"agent-{agent_id}")) is None
    return picture


def test_starts_and_ends_are_told_and_the_steps_between_are_not() -> None:
    picture = started(1)
    assert told(picture, ev.AgentStarted(2, 0.0, 1, 0)) == "agent-1: started as agent 1"
    assert told(picture, ev.PhaseChanged(3, 0.0, 1, 0, phase="reason", iteration=2)) is None
    assert told(picture, ev.ToolStarted(4, 0.0, 1, 0, call=ToolCall("1", "read_file"))) is None
    assert (
        told(picture, ev.AgentFinished(7, 0.0, 1, 0, outcome=completed())) == "agent-1: completed in 0.50 s"
    )
    assert picture.ends["completed"] == 1


def test_a_compaction_is_told() -> None:
    picture = started(1)

    def line(summary: str, problem: str) -> str | None:
        return told(picture, ev.ContextCompacted(2, 0.0, 1, 0, 8, 900, 300, summary, problem))

    assert line("So it was.", "") == "agent-1: 8 messages no longer fit its context window and were summed up"
    assert line("", "") == "agent-1: 8 messages no longer fit its context window and were dropped"
    assert line("", "the summary was empty") == (
        "agent-1: warning: 8 messages no longer fit its context window and were dropped:"
        " the summary was empty"
    )


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (completed(usage=TokenUsage(1000, 234)), "completed in 0.50 s, 1,234 tokens"),
        (completed(usage=TokenUsage(1, 1, cost_usd=0.25)), "completed in 0.50 s, 2 tokens, $0.2500"),
        (failed(ValueError("a\n  b")), "failed in 0.50 s: ValueError: a b"),
        (failed(ValueError()), "failed in 0.50 s: ValueError"),
        (aborted("enough"), "aborted in 0.50 s: enough"),
        (aborted(None), "aborted in 0.50 s"),
    ],
)
def test_an_outcome_is_told_in_one_line(outcome: AnyOutcome, text: str) -> None:
    assert describe(outcome) == text


def test_errors_that_nobody_looked_at_are_told_by_their_parts() -> None:
    group = UnhandledAgentErrors("2 failures", [ValueError("x"), KeyError("y")])
    assert tell_error(group) == "ValueError: x; KeyError: 'y'"


def test_warnings_become_lines() -> None:
    picture = started(1)
    message = AgentMessage(sender=1, to=2, content="x")
    lines = [
        told(picture, ev.BudgetWarned(2, 0.0, 1, 0, text="nearly used up")),
        told(picture, ev.GuardWarned(3, 0.0, 1, 0, text="repeats itself")),
        told(picture, ev.MessageDeadLettered(4, 0.0, 1, 0, message=message, reason="it has ended")),
        told(picture, ev.DeadlockSuspected(5, 0.0, 1, 0, path=(1, 2))),
        told(picture, ev.AgentStuck(6, 0.0, 1, 0, name="agent-1", stack=("  in loop()\n",))),
        told(picture, ev.AgentStuck(7, 0.0, 1, 0, name="agent-1", stack=())),
        told(picture, ev.AgentRestarted(8, 0.0, 1, 0, restarts=1, outcome=failed(ValueError("x")))),
        told(picture, ev.MessageSent(9, 0.0, 1, 0, message=message)),
    ]
    assert lines == [
        "agent-1: warning: nearly used up",
        "agent-1: warning: repeats itself",
        "agent-1: a message to agent 2 was not received: it has ended",
        "agent-1: warning: perhaps a deadlock: 1 waits for 2 waits for 1",
        "agent-1: warning: does not end although it was aborted, at in loop()",
        "agent-1: warning: does not end although it was aborted",
        "agent-1: restarted (1) after it failed in 0.50 s: ValueError: x",
        None,
    ]
    assert picture.rows[1].restarts == 1


def test_an_event_of_an_agent_whose_start_was_missed_is_no_error() -> None:
    assert told(Picture(), ev.GuardWarned(3, 0.0, 7, 0, text="loops")) == "agent 7: warning: loops"
    assert told(Picture(), ev.AgentStarted(3, 0.0, 7, 0)) == "agent 7: started as agent 7"
