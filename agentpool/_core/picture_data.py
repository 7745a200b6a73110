"""A picture as JSON data: all of it, or what has changed since a version.

Times are seconds since the run began. What a field has by default is left out of a row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

from agentpool._core.approval import ApprovalRequest
from agentpool._core.picture import AgentRow, Arrow, Note, Picture, Span


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


V = TypeVar("V", bound=_Versioned)


def changes_since(picture: Picture, version: int) -> Mapping[str, Any]:
    """Return what is newer than a version, as JSON data; 0 for everything.

    The keys:
      version: what to ask from next time.
      reset: whether everything told before is to be dropped: agents have gone of which nobody heard.
      time: now, in seconds since the run began.
      agents: those that changed, each whole; see `row_data`.
      gone: the ids of agents that are not kept any more.
      spans: `[agent, kind, start, end, detail, blocked_on]`, new ones.
      arrows: `[time, sender, to, id, kind]`, new ones.
      notes: `[time, agent, text]`, new ones.
      dropped: how many spans and arrows, and agents, are not kept any more.
      totals: of the whole run: tokens, cost, ends and rates.
    """
    reset = 0 < version < picture.gone_before
    since = 0 if reset else version
    began = picture.began if picture.began == picture.began else 0.0
    return {
        **head_data(picture),
        **({"reset": True} if reset else {}),
        "agents": [row_data(row, began) for row in changed_rows(picture, since)],
        "gone": [agent_id for at, agent_id in picture.gone if at > since] if since else [],
        "spans": [span_data(span, began) for span in newer(picture.spans, since)],
        "arrows": [arrow_data(arrow, began) for arrow in newer(picture.arrows, since)],
        "notes": [note_data(note, began) for note in newer(picture.notes, since)],
    }


def head_data(picture: Picture) -> Mapping[str, Any]:
    """Return what is told of the whole run: version, time, dropped, totals; see `changes_since`."""
    began = picture.began if picture.began == picture.began else 0.0
    rate = picture.rates.at(picture.time)
    return {
        "version": picture.version,
        "time": _seconds(picture.time - began),
        "dropped": {
            "spans": picture.spans_dropped,
            "arrows": picture.arrows_dropped,
            "agents": picture.forgotten,
        },
        "totals": {
            "tokens": picture.usage.total_tokens,
            "cost": round(picture.usage.cost_usd, 6),
            "spawned": len(picture.rows) + picture.forgotten,
            **picture.ends,
            "rates": {
                "tokens": round(rate.tokens, 1),
                "cost": round(rate.cost_usd, 6),
                "calls": round(rate.calls, 2),
                "ends": round(rate.ends, 2),
            },
        },
    }


def row_data(row: AgentRow, began: float) -> Mapping[str, Any]:
    """Return a row as JSON data, without what is as it is by default.

    The keys: id, name, parent (0), depth (0), spawned, started, ended (null), state ("running"), phase
    (""), turn (0), model (""), tools (0), calls (0), tokens (0), cost (0), sent (0), heard (0), dead (0),
    words (""), retry (""), restarts (0), reason (""), stuck (false), and the open span: kind (null), since,
    detail (""), blocked_on ([]).
    """
    data = {
        "parent": row.parent,
        "depth": row.depth,
        "phase": row.phase,
        "turn": row.iteration,
        "model": row.model,
        "tools": row.tool_calls,
        "calls": row.model_calls,
        "tokens": row.usage.total_tokens,
        "cost": round(row.usage.cost_usd, 6),
        "sent": row.sent,
        "heard": row.heard,
        "dead": row.dead_letters,
        "words": row.words,
        "restarts": row.restarts,
        "reason": row.reason,
        "stuck": row.is_stuck,
        "detail": row.detail,
        "blocked_on": list(row.blocked_on),
    }
    told: dict[str, Any] = {"id": row.id, "name": row.name, "spawned": _seconds(row.spawned_at - began)}
    told.update((key, value) for key, value in data.items() if value)
    if row.state != "running":
        told["state"] = row.state
    if row.started_at is not None:
        told["started"] = _seconds(row.started_at - began)
    if row.ended_at is not None:
        told["ended"] = _seconds(row.ended_at - began)
    if row.kind is not None:
        told.update(kind=row.kind, since=_seconds(row.since - began))
    return told


def span_data(span: Span, began: float) -> Sequence[Any]:
    """Return a span as `[agent, kind, start, end, detail, blocked_on]`; empty ends are left out."""
    data: list[Any] = [span.agent, span.kind, _seconds(span.start - began), _seconds(span.end - began)]
    if span.blocked_on:
        return [*data, span.detail, list(span.blocked_on)]
    return [*data, span.detail] if span.detail else data


def arrow_data(arrow: Arrow, began: float) -> Sequence[Any]:
    """Return a message as `[time, sender, to, id, kind]`."""
    return [_seconds(arrow.time - began), arrow.sender, arrow.to, arrow.id, arrow.kind]


def note_data(note: Note, began: float) -> Sequence[Any]:
    """Return a note as `[time, agent, text]`."""
    return [_seconds(note.time - began), note.agent, note.text]


def approval_data(request: ApprovalRequest) -> Mapping[str, Any]:
    """Return what a person is asked, as JSON data."""
    question = request.question
    return {
        "hash": request.hash,
        "agent": request.agent_id,
        "name": request.agent_name,
        "tool": request.call.name,
        "arguments": dict(request.arguments),
        "rule": request.rule,
        "question": None
        if question is None
        else {
            "server": question.server,
            "message": question.message,
            "schema": question.schema,
            "url": question.url,
        },
    }


def changed_rows(picture: Picture, since: int) -> Iterator[AgentRow]:
    """Yield the rows that have changed, in the order of their ids' spawns where all have."""
    if not since:
        return iter(picture.rows.values())
    found: list[AgentRow] = []
    for agent_id in reversed(picture.changed):
        row = picture.rows[agent_id]
        if row.version <= since:
            break
        found.append(row)
    return reversed(found)


def newer(kept: deque[V], since: int) -> Iterator[V]:
    """Yield what is newer than a version, in the order of the versions."""
    if not since:
        return iter(kept)
    if not kept or kept[-1].version <= since:
        return iter(())
    # From the end: few are new, and the middle of a deque is far.
    new = 0
    for each in reversed(kept):
        if each.version <= since:
            break
        new += 1
    return reversed(list(islice(reversed(kept), new)))


def _seconds(seconds: float) -> float:
    return round(seconds, 4)
