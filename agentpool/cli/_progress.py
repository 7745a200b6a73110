"""The lines that tell of a run where nothing is drawn: its starts, ends and warnings, and few of each kind."""

from __future__ import annotations

from collections import Counter

import attrs

from agentpool._core import events as ev
from agentpool._core.picture import AgentRow
from agentpool._core.summaries import describe, note_of, state_of

LINES_OF_A_KIND = 100
"""So many starts, ends of each kind, and warnings are told one by one; then each hundredth."""
LONGEST_LINE = 400
"""A line of progress has at most so many columns: an error's text may be a megabyte."""


def line_of(event: ev.Event, row: AgentRow | None) -> str | None:
    """Return the line that tells an event; None for most events.

    Args:
      event: what happened.
      row: of its agent; None if its first event was dropped, or if it is the supervisor's.
    """
    if row is None:
        return note_of(event, str(event.agent_id))
    match event:
        case ev.AgentStarted():
            return f"{row.name}: started as agent {row.id}"
        case ev.AgentFinished():
            return f"{row.name}: {describe(event.outcome)}"
        case _:
            return note_of(event, row.name)


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
