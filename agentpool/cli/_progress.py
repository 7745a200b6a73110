"""What is known of each agent while a fleet runs: a pure sum of the events, drawn by `_view`."""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal, TypeAlias, assert_never

import attrs

from agentpool._core import events as ev
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.summaries import describe, note_of, state_of
from agentpool._core.usage import NO_USAGE, TokenUsage

LINES_OF_A_KIND = 100
"""So many starts, ends of each kind, and warnings are told one by one; then each hundredth."""
LONGEST_LINE = 400
"""A line of progress has at most so many columns: an error's text may be a megabyte."""

State: TypeAlias = Literal["starting", "running", "completed", "failed", "aborted"]


@attrs.define
class AgentRow:
    """One agent, as far as the events have told.

    Attributes:
      asking: the tools of the calls for whose approval it waits, by their hashes.
      retry_at: when the model call that failed is made again, on trio's clock; `retry` says why.
    """

    agent_id: AgentId
    name: str
    parent_id: AgentId
    spawned_at: float
    state: State = "starting"
    doing: str = ""
    iteration: int = 0
    tool_calls: int = 0
    usage: TokenUsage = NO_USAGE
    duration: float | None = None
    asking: dict[str, str] = attrs.field(factory=dict)
    retry: str = ""
    retry_at: float = -math.inf


@attrs.define(eq=False)
class Progress:
    """The rows of all agents, and the sums over them."""

    rows: dict[AgentId, AgentRow] = attrs.field(factory=dict)
    usage: TokenUsage = NO_USAGE
    completed: int = 0
    failed: int = 0
    aborted: int = 0

    def apply(self, event: ev.Event) -> str | None:
        """Take an event in, and return the line that tells it where there is no live table."""
        row = self.rows.get(event.agent_id)
        if isinstance(event, ev.AgentSpawned):
            self.rows[event.agent_id] = AgentRow(event.agent_id, event.name, event.parent_id, event.time)
            return None
        if row is None:  # its first event was dropped, or it is the supervisor's
            return note_of(event, str(event.agent_id))
        _update_row(row, event)
        match event:
            case ev.AgentStarted():
                return f"{row.name}: started as agent {row.agent_id}"
            case ev.CompletionFinished():
                self.usage += event.usage
            case ev.AgentFinished():
                self._count(event.outcome)
                return f"{row.name}: {describe(event.outcome)}"
            case _:
                pass
        return note_of(event, row.name)

    def _count(self, outcome: AnyOutcome) -> None:
        match outcome:
            case Completed():
                self.completed += 1
            case Failed():
                self.failed += 1
            case Aborted():
                self.aborted += 1
            case _:
                assert_never(outcome)

    def retrying(self, agent_id: AgentId, why: str, until: float) -> None:
        """Note that a model call of an agent failed, and is made again at a time on trio's clock."""
        row = self.rows.get(agent_id)
        if row is not None:
            row.retry, row.retry_at = why, until

    def current(self, most: int) -> tuple[list[AgentRow], int, int]:
        """Return at most so many rows, and how many agents at work and ended ones are left out.

        Those that have not ended come first, then the latest ends.
        """
        alive = [row for row in self.rows.values() if row.duration is None]
        ended = [row for row in self.rows.values() if row.duration is not None]
        room = max(0, most - len(alive))
        rows = [*alive[:most], *(ended[-room:] if room else [])]
        hidden = max(0, len(alive) - most), max(0, len(ended) - room)
        return sorted(rows, key=lambda row: row.agent_id), *hidden


def _update_row(row: AgentRow, event: ev.Event) -> None:
    match event:
        case ev.AgentStarted():
            row.state = "running"
        case ev.PhaseChanged():
            row.doing, row.iteration = event.phase, event.iteration
            row.asking.clear()
        case ev.ApprovalRequested():
            row.asking[event.request.hash] = event.request.call.name
        case ev.ApprovalDecided():
            row.asking.pop(event.request.hash, None)
        case ev.ToolStarted():
            row.doing = event.call.name
            row.tool_calls += 1
        case ev.CompletionFinished():
            row.usage += event.usage
        case ev.AgentRestarted():
            row.doing = f"restart {event.restarts}"
        case ev.AgentFinished():
            row.state = state_of(event.outcome)
            row.doing = ""
            row.duration = event.outcome.duration
        case _:
            pass


@attrs.define(eq=False)
class FewLines:
    """Lets the first lines of each kind through, and then only their number from time to time."""

    _counts: Counter[str] = attrs.field(factory=Counter)

    def next(self, kind: str, line: str) -> str | None:
        """Return what to tell in place of a line; None for nothing."""
        self._counts[kind] += 1
        number = self._counts[kind]
        if number <= LINES_OF_A_KIND:
            return line
        return None if number % LINES_OF_A_KIND else f"{number:,} {kind} so far"


def kind_of(event: ev.Event) -> str:
    """Name the kind of lines that an event's line is one of."""
    match event:
        case ev.AgentStarted():
            return "started"
        case ev.AgentFinished():
            return state_of(event.outcome)
        case ev.AgentRestarted():
            return "restarts"
        case _:
            return "warnings"
