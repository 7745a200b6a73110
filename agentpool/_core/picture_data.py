"""A picture as JSON data: all of it, or what has changed since a version.

Times are seconds since the run began. What a field has by default is left out of a row.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

from agentpool._core.approval import ApprovalRequest
from agentpool._core.picture import AgentRow, Arrow, Note, Picture, Span
from agentpool._core.text import encodable, shown

DEEPEST = 20
"""So deep may arguments be nested that a person is shown; what is below is shown as text."""
LONGEST_TEXT = 20_000
"""So many characters of each text in them are shown."""
MOST_VALUES = 2_000
"""So many values in them are shown."""
_EXACT = 2**53
"""Larger numbers are not exact in a browser, so that they are shown as text."""


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
            "cost": _money(picture.usage.cost_usd),
            "spawned": len(picture.rows) + picture.forgotten,
            **picture.ends,
            "rates": {
                "tokens": round(rate.tokens, 1),
                "cost": _money(rate.cost_usd),
                "calls": round(rate.calls, 2),
                "ends": round(rate.ends, 2),
            },
        },
    }


def row_data(row: AgentRow, began: float) -> Mapping[str, Any]:
    """Return a row as JSON data, without what is as it is by default.

    The keys: id, name, parent (0; or an agent that is not told), depth (0), spawned, started, ended (null),
    state ("running"), phase
    (""), turn (0), model (""), tools (0), calls (0), tokens (0), cost (0), sent (0), heard (0), dead (0),
    words (""), retry (""), restarts (0), reason (""), stuck (false), and the open span: kind (null), since,
    detail (""), blocked_on ([]).
    """
    usage = row.usage
    told: dict[str, Any] = {"id": row.id, "name": row.name, "spawned": _seconds(row.spawned_at - began)}
    for key, value in (
        ("parent", row.parent),
        ("depth", row.depth),
        ("phase", row.phase),
        ("turn", row.iteration),
        ("model", row.model),
        ("tools", row.tool_calls),
        ("calls", row.model_calls),
        ("tokens", usage.input_tokens + usage.output_tokens),
        ("cost", usage.cost_usd and _money(usage.cost_usd)),
        ("sent", row.sent),
        ("heard", row.heard),
        ("dead", row.dead_letters),
        ("words", encodable(row.words)),
        ("restarts", row.restarts),
        ("reason", row.reason),
        ("stuck", row.is_stuck),
        ("detail", row.detail),
    ):
        if value:
            told[key] = value
    if row.state != "running":
        told["state"] = row.state
    if row.started_at is not None:
        told["started"] = _seconds(row.started_at - began)
    if row.ended_at is not None:
        told["ended"] = _seconds(row.ended_at - began)
    if row.kind is not None:
        told["kind"] = row.kind
        told["since"] = _seconds(row.since - began)
        if row.kind == "retrying" and row.retry:
            told["retry"] = row.retry
        if row.blocked_on:
            told["blocked_on"] = row.blocked_on
    return told


def span_data(span: Span, began: float) -> Sequence[Any]:
    """Return a span as `[agent, kind, start, end, detail, blocked_on]`; empty ends are left out."""
    start, end = round(span.start - began, 4), round(span.end - began, 4)
    if span.blocked_on:
        return (span.agent, span.kind, start, end, span.detail, span.blocked_on)
    if span.detail:
        return (span.agent, span.kind, start, end, span.detail)
    return (span.agent, span.kind, start, end)


def arrow_data(arrow: Arrow, began: float) -> Sequence[Any]:
    """Return a message as `[time, sender, to, id, kind]`."""
    return (round(arrow.time - began, 4), arrow.sender, arrow.to, arrow.id, arrow.kind)


def note_data(note: Note, began: float) -> Sequence[Any]:
    """Return a note as `[time, agent, text]`."""
    return (_seconds(note.time - began), note.agent, note.text)


def approval_data(request: ApprovalRequest) -> Mapping[str, Any]:
    """Return what a person is asked, as JSON data.

    The keys: hash, agent, name, tool, arguments, rule, and question: null, or server, message, schema and
    url. What cannot be told in JSON is a text; what is too long is cut, which the text tells.
    """
    question = request.question
    told = {
        "hash": request.hash,
        "agent": request.agent_id,
        "name": request.agent_name,
        "tool": request.call.name,
        "arguments": request.arguments,
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
    return {key: _Plain().value(each, DEEPEST) for key, each in told.items()}


class _Plain:
    """Makes JSON data of whatever a model or a server gave, so much of it as a person reads."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def value(self, value: object, depth: int) -> Any:
        self._left -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return value if -_EXACT <= value <= _EXACT else shown(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if depth and isinstance(value, Mapping):
            return self._mapping(value, depth - 1)
        if depth and isinstance(value, list | tuple | set | frozenset):
            return self._sequence(value, depth - 1)
        return self._text(shown(value))

    def _mapping(self, values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for number, (key, each) in enumerate(values.items()):
            if self._left <= 0:
                told["..."] = f"{len(values) - number} more"
                break
            told[self._text(key if isinstance(key, str) else shown(key))] = self.value(each, depth)
        return told

    def _sequence(self, values: Collection[Any], depth: int) -> list[Any]:
        told: list[Any] = []
        for number, each in enumerate(values):
            if self._left <= 0:
                told.append(f"... {len(values) - number} more")
                break
            told.append(self.value(each, depth))
        return told

    @staticmethod
    def _text(text: str) -> str:
        if len(text) <= LONGEST_TEXT:
            return encodable(text)
        return encodable(f"{text[:LONGEST_TEXT]}... {len(text) - LONGEST_TEXT:,} more characters")


def changed_rows(picture: Picture, since: int) -> Iterator[AgentRow]:
    """Return the rows that have changed, in the order of their changes; all in that of their spawns."""
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
    return round(seconds, 4) if seconds > 0.0 else 0.0  # a note may be older than the first event


def _money(dollars: float) -> float:
    return round(dollars, 6) if math.isfinite(dollars) else 0.0
