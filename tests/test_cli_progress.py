"""What the command line knows of a run follows from the events alone."""

from __future__ import annotations

import pytest

from agentpool._core import events as ev
from agentpool._core.errors import UnhandledAgentErrors
from agentpool._core.messages import AgentMessage, ToolCall, ToolResult
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.usage import TokenUsage

pytest.importorskip("cyclopts")

from agentpool._core.summaries import describe, tell_error
from agentpool.cli._progress import Progress


def completed(agent_id: int = 1, **fields: object) -> Completed[str]:
    return Completed(agent_id=agent_id, name="a", parent_id=0, value="done", duration=0.5, **fields)  # type: ignore[arg-type]


def failed(error: BaseException) -> Failed:
    return Failed(agent_id=1, name="a", parent_id=0, error=error, duration=0.5)


def aborted(reason: str | None) -> Aborted:
    return Aborted(agent_id=1, name="a", parent_id=0, reason=reason, duration=0.5)


def started(*ids: int) -> Progress:
    progress = Progress()
    for agent_id in ids:
        assert progress.apply(ev.AgentSpawned(1, 0.0, agent_id, 0, name=f"agent-{agent_id}")) is None
    return progress


def test_an_agent_is_followed_from_its_start_to_its_end() -> None:
    progress = started(1)
    row = progress.rows[1]
    assert row.state == "starting"
    assert progress.apply(ev.AgentStarted(2, 0.0, 1, 0)) == "agent-1: started as agent 1"
    assert row.state == "running"
    progress.apply(ev.PhaseChanged(3, 0.0, 1, 0, phase="reason", iteration=2))
    assert (row.doing, row.iteration) == ("reason", 2)
    call = ToolCall("1", "read_file")
    progress.apply(ev.ToolStarted(4, 0.0, 1, 0, call=call))
    assert (row.doing, row.tool_calls) == ("read_file", 1)
    progress.apply(ev.ToolFinished(5, 0.0, 1, 0, call=call, result=ToolResult(""), duration=0.1))
    progress.apply(ev.CompletionFinished(6, 0.0, 1, 0, usage=TokenUsage(3, 4), duration=0.1))
    assert row.usage == progress.usage == TokenUsage(3, 4)
    line = progress.apply(ev.AgentFinished(7, 0.0, 1, 0, outcome=completed()))
    assert line == "agent-1: completed in 0.50 s"
    assert (row.state, row.duration, row.doing, progress.completed) == ("completed", 0.5, "", 1)


def test_a_compaction_is_told() -> None:
    progress = started(1)

    def told(summary: str, problem: str) -> str | None:
        return progress.apply(ev.ContextCompacted(2, 0.0, 1, 0, 8, 900, 300, summary, problem))

    assert told("So it was.", "") == "agent-1: 8 messages no longer fit its context window and were summed up"
    assert told("", "") == "agent-1: 8 messages no longer fit its context window and were dropped"
    assert told("", "the summary was empty") == (
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


def test_failed_and_aborted_agents_are_counted() -> None:
    progress = started(1, 2)
    progress.apply(ev.AgentFinished(3, 0.0, 1, 0, outcome=failed(ValueError())))
    progress.apply(ev.AgentFinished(4, 0.0, 2, 0, outcome=aborted(None)))
    assert (progress.completed, progress.failed, progress.aborted) == (0, 1, 1)


def test_warnings_become_lines() -> None:
    progress = started(1)
    message = AgentMessage(sender=1, to=2, content="x")
    lines = [
        progress.apply(ev.BudgetWarned(2, 0.0, 1, 0, text="nearly used up")),
        progress.apply(ev.GuardWarned(3, 0.0, 1, 0, text="repeats itself")),
        progress.apply(ev.MessageDeadLettered(4, 0.0, 1, 0, message=message, reason="it has ended")),
        progress.apply(ev.DeadlockSuspected(5, 0.0, 1, 0, path=(1, 2))),
        progress.apply(ev.AgentStuck(6, 0.0, 1, 0, name="agent-1", stack=("  in loop()\n",))),
        progress.apply(ev.AgentStuck(7, 0.0, 1, 0, name="agent-1", stack=())),
        progress.apply(ev.AgentRestarted(8, 0.0, 1, 0, restarts=1, outcome=failed(ValueError("x")))),
        progress.apply(ev.MessageSent(9, 0.0, 1, 0, message=message)),
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
    assert progress.rows[1].doing == "restart 1"


def test_an_event_of_an_agent_whose_start_was_missed_is_no_error() -> None:
    assert Progress().apply(ev.GuardWarned(3, 0.0, 7, 0, text="loops")) == "7: warning: loops"
    assert Progress().apply(ev.AgentStarted(3, 0.0, 7, 0)) is None


def test_agents_at_work_are_shown_before_those_that_have_ended() -> None:
    progress = started(1, 2, 3, 4)
    for agent_id in (1, 2):
        progress.apply(ev.AgentFinished(9, 0.0, agent_id, 0, outcome=completed(agent_id)))

    def shown(most: int) -> tuple[list[int], int, int]:
        rows, at_work, ended = progress.current(most)
        return [row.agent_id for row in rows], at_work, ended

    assert shown(3) == ([2, 3, 4], 0, 1)
    assert shown(1) == ([3], 1, 2)
    assert shown(2) == ([3, 4], 0, 2)
    assert shown(9) == ([1, 2, 3, 4], 0, 0)
