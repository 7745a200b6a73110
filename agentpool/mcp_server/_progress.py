"""What a client is told while an agent works: a line for an event, and how often."""

from __future__ import annotations

from agentpool._core import events as ev
from agentpool._core.approval import Denied
from agentpool._core.text import encodable

SECONDS_BETWEEN = 0.25
"""A client is told at most four times a second; of what happened meanwhile it is told the last."""

LONGEST = 200


def line_of(event: ev.Event, turn: int) -> str | None:
    """Return what is told of an event; None for nothing.

    No arguments and no answers are in it: they may be private, and long.

    Args:
      event: what happened.
      turn: the turn of the loop that the agent is in.
    """
    match event:
        case ev.PhaseChanged(phase="reason"):
            return f"turn {event.iteration}: asking the model"
        case ev.ToolStarted():
            return f"turn {turn}: calling {event.call.name}"
        case ev.ToolFinished():
            ending = "failed" if event.result.is_error else "is done"
            return f"turn {turn}: {event.call.name} {ending}"
        case ev.ApprovalRequested():
            return f"turn {turn}: waits for the approval of {event.request.call.name}"
        case ev.ApprovalDecided(decision=Denied()):
            return f"turn {turn}: {event.request.call.name} was denied"
        case ev.ContextCompacted():
            return f"turn {turn}: the oldest turns were summed up or dropped"
        case ev.BudgetWarned() | ev.GuardWarned():
            return f"turn {turn}: warning: {event.text}"
        case ev.AgentRestarted():
            return f"restarted ({event.restarts})"
        case ev.AgentSpawned():
            return "started"
        case _:
            return None


def one_line(text: str) -> str:
    """Return a text in one line, not too long, that can be sent."""
    flat = " ".join(encodable(text).split())
    return flat if len(flat) <= LONGEST else f"{flat[:LONGEST]}..."
