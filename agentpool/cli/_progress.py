"""The lines that tell of a run where nothing is drawn: starts, ends and warnings, and few of each kind."""

from __future__ import annotations

from collections import Counter

import attrs

from agentpool._core import events as ev
from agentpool._core.picture import Picture
from agentpool._core.summaries import describe, state_of

LINES_OF_A_KIND = 100
"""So many starts, ends of each kind, and warnings are told one by one; then each hundredth."""
LONGEST_LINE = 400
"""A line of progress has at most so many columns: an error's text may be a megabyte."""


def told(picture: Picture, event: ev.Event) -> str | None:
    """Take an event into a picture, and return the line that tells it; None for most events."""
    before = picture.version
    picture.take(event)
    row = picture.rows.get(event.agent_id)
    if row is not None and isinstance(event, ev.AgentStarted):
        return f"{row.name}: started as agent {row.id}"
    if row is not None and isinstance(event, ev.AgentFinished):
        return f"{row.name}: {describe(event.outcome)}"
    latest = picture.notes[-1] if picture.notes else None
    return latest.text if latest is not None and latest.version > before else None


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
