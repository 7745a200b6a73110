"""One line about an event, an outcome, an error or a usage: what people read while and after a run.

The words are those of strangers where models, tools and errors speak: who prints them makes them safe.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, assert_never

from agentpool._core import events as ev
from agentpool._core.approval import Denied
from agentpool._core.errors import UnhandledAgentErrors
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.text import named
from agentpool._core.usage import TokenUsage

EndState: TypeAlias = Literal["completed", "failed", "aborted"]
LONGEST_ERROR = 10_000
"""So many characters of an error's text are looked at."""
NOTED: frozenset[type[ev.Event]] = frozenset(
    {
        ev.BudgetWarned,
        ev.GuardWarned,
        ev.ContextCompacted,
        ev.ApprovalDecided,
        ev.MessageDeadLettered,
        ev.DeadlockSuspected,
        ev.AgentStuck,
        ev.AgentRestarted,
    }
)
"""The events for which `note_of` may have a line: looked at first, since most events are others."""


def note_of(event: ev.Event, name: str) -> str | None:
    """Tell an event that people should hear of, such as a warning; None for the others.

    Args:
      event: what happened.
      name: of the agent that the event is about.
    """
    match event:
        case ev.BudgetWarned() | ev.GuardWarned():
            return f"{name}: warning: {event.text}"
        case ev.ContextCompacted():
            done = f"{event.messages} messages no longer fit its context window"
            if event.problem:
                return f"{name}: warning: {done} and were dropped: {event.problem}"
            return f"{name}: {done} and were {'summed up' if event.summary else 'dropped'}"
        case ev.ApprovalDecided(decision=Denied(reason=reason)):
            return f"{name}: {event.request.call.name} was denied{f': {reason}' if reason else ''}"
        case ev.MessageDeadLettered():
            return f"{name}: a message to agent {event.message.to} was not received: {event.reason}"
        case ev.DeadlockSuspected():
            path = " waits for ".join(map(str, (*event.path, *event.path[:1])))
            return f"{name}: warning: perhaps a deadlock: {path}"
        case ev.AgentStuck():
            where = f", at {event.stack[-1].strip()}" if event.stack else ""
            return f"{name}: warning: does not end although it was aborted{where}"
        case ev.AgentRestarted():
            return f"{name}: restarted ({event.restarts}) after it {describe(event.outcome)}"
        case _:
            return None


def state_of(outcome: AnyOutcome) -> EndState:
    """Name how an agent ended."""
    match outcome:
        case Completed():
            return "completed"
        case Failed():
            return "failed"
        case Aborted():
            return "aborted"
        case _:
            assert_never(outcome)


def describe(outcome: AnyOutcome) -> str:
    """Tell in one line how an agent ended, how long it took and what it used."""
    text = f"{state_of(outcome)} in {outcome.duration:.2f} s"
    if outcome.usage.total_tokens:
        text += f", {tell_usage(outcome.usage)}"
    reason = reason_of(outcome)
    return f"{text}: {reason}" if reason else text


def reason_of(outcome: AnyOutcome) -> str:
    """Tell why an agent failed or was aborted; empty if it completed."""
    match outcome:
        case Completed():
            return ""
        case Failed():
            return tell_error(outcome.error)
        case Aborted():
            return outcome.reason or ""
        case _:
            assert_never(outcome)


def tell_error(error: BaseException) -> str:
    """Tell an error in one line, with its type, and a group by its parts."""
    if isinstance(error, UnhandledAgentErrors):
        return "; ".join(tell_error(part) for part in error.exceptions)
    return " ".join(named(error)[:LONGEST_ERROR].split())


def tell_usage(usage: TokenUsage) -> str:
    """Tell tokens, and money where there is some."""
    tokens = f"{usage.total_tokens:,} tokens"
    return f"{tokens}, ${usage.cost_usd:.4f}" if usage.cost_usd else tokens
