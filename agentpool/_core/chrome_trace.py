"""A past run in the Trace Event Format, which Perfetto, chrome://tracing and speedscope read.

The run is a process, and each agent has up to three kinds of threads, which stand together: what it does, its
calls of models and tools, and its messages. Slices on one thread must not overlap, or readers drop them or
draw them wrongly; so calls that run in parallel have threads of their own. All times are whole
microseconds, counted from the beginning of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._core.past_picture import PastCall, PastMessage, PastPicture
from agentpool._core.picture import AgentRow, Span
from agentpool._core.text import encodable

Event: TypeAlias = dict[str, Any]

PID = 1
LONGEST_ARGUMENTS = 1_000
"""So many characters of the arguments of a tool call are kept."""
NAMES_SHOWN = 3
_PROGRAM = 1
_ORDER = {"X": 0, "s": 1, "f": 2}
"""At one time: an arrow needs the slices that it hangs on, and its beginning before its end."""


def chrome_trace(past: PastPicture, title: str) -> Iterator[str]:
    """Yield the lines of a trace: one JSON document, with an event on each line."""
    yield '{"displayTimeUnit":"ms","traceEvents":[\n'
    events = [*_Trace(past, title).events()]
    for index, event in enumerate(events):
        yield _json(event) + (",\n" if index + 1 < len(events) else "\n")
    dropped = {"spans": past.picture.spans_dropped, "agents": past.picture.forgotten}
    yield f'],"otherData":{_json({"title": encodable(title), "dropped": dropped})}}}\n'


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))


def _micro(seconds: float) -> int:
    return round(seconds * 1_000_000)


@attrs.frozen
class _Slice:
    start: int
    end: int
    name: str
    category: str
    args: Mapping[str, Any]


@attrs.define
class _Moment:
    """What an agent sent and took in one microsecond."""

    sent: list[PastMessage] = attrs.field(factory=list)
    received: list[PastMessage] = attrs.field(factory=list)


class _Trace:
    def __init__(self, past: PastPicture, title: str) -> None:
        self._past = past
        self._picture = past.picture
        self._title = title
        self._end = _micro(past.picture.time)
        self._threads = _PROGRAM
        self._main: dict[AgentId, int] = {SUPERVISOR: _PROGRAM}
        self._spans = _grouped(past.picture.spans)
        self._calls = _grouped(past.calls)
        self._moments = self._moments_of(past.messages)

    def events(self) -> Iterator[Event]:
        """Yield all events: first the names, then the others by their times."""
        named = [_named("process_name", _PROGRAM, {"name": encodable(self._title)})]
        timed: list[tuple[int, Event]] = []
        named += _thread(_PROGRAM, "the program")
        self._add_messages(SUPERVISOR, _PROGRAM, timed)
        for row in self._picture.rows.values():
            self._add_agent(row, named, timed)
        self._add_notes(timed)
        self._add_counters(timed)
        timed.sort(key=lambda pair: (pair[0], _ORDER.get(pair[1]["ph"], 1)))  # stable
        yield from named
        for _, event in timed:
            yield event

    # -- threads -----------------------------------------------------------------------------------

    def _add_agent(self, row: AgentRow, named: list[Event], timed: list[tuple[int, Event]]) -> None:
        name = f"{row.id} {encodable(row.name)}"
        main = self._main[row.id] = self._thread(named, name)
        _add_slices(main, self._doings(row), timed)
        for call in self._calls.get(row.id, ()):
            if call.start is None:
                timed.append(self._answer_without_start(main, call))
        for number, track in enumerate(_tracks(self._call_slices(row.id))):
            more = f" {number + 1}" if number else ""
            _add_slices(self._thread(named, f"{name}: calls{more}"), track, timed)
        if row.id in self._moments:
            self._add_messages(row.id, self._thread(named, f"{name}: messages"), timed)

    def _thread(self, named: list[Event], name: str) -> int:
        self._threads += 1
        named += _thread(self._threads, name)
        return self._threads

    # -- slices ------------------------------------------------------------------------------------

    def _doings(self, row: AgentRow) -> Iterator[_Slice]:
        for span in self._spans.get(row.id, ()):
            if _micro(span.start) < _micro(span.end):  # what took no time cannot be seen
                yield self._doing(span, {})
        if row.kind is not None and _micro(row.since) < self._end:
            span = Span(0, row.id, row.kind, row.since, self._picture.time, row.detail, row.blocked_on)
            yield self._doing(span, {"unfinished": True})

    def _doing(self, span: Span, more: Mapping[str, Any]) -> _Slice:
        args = dict(more)
        name: str = span.kind
        if span.detail:
            args["detail"] = encodable(span.detail)
            name = f"{span.kind}: {args['detail']}"
        if span.blocked_on:
            args["blocked_on"] = list(span.blocked_on)
            name = f"{span.kind} for {self._names(span.blocked_on)}"
        return _Slice(_micro(span.start), _micro(span.end), name, span.kind, args)

    def _names(self, agents: Sequence[AgentId]) -> str:
        told = ", ".join(map(self._name, agents[:NAMES_SHOWN]))
        more = len(agents) - NAMES_SHOWN
        return f"{told} and {more} more" if more > 0 else told

    def _name(self, agent_id: AgentId) -> str:
        row = self._picture.rows.get(agent_id)
        if row is None:
            return "the program" if agent_id == SUPERVISOR else str(agent_id)
        return f"{agent_id} {encodable(row.name)}"

    def _call_slices(self, agent_id: AgentId) -> list[_Slice]:
        return [
            _Slice(_micro(call.start), self._end_of(call), _call_name(call), call.kind, _call_args(call))
            for call in self._calls.get(agent_id, ())
            if call.start is not None
        ]

    def _end_of(self, call: PastCall) -> int:
        """Return when a call ended; one that was cut off, when the run was interrupted, or the end."""
        if call.end is not None:
            return _micro(call.end)
        start = call.start or 0.0
        return next((_micro(time) for time in self._past.interrupted if time >= start), self._end)

    def _answer_without_start(self, thread: int, call: PastCall) -> tuple[int, Event]:
        at = _micro(call.end or 0.0)
        args = {**_call_args(call), "start": "the journal does not tell"}
        return at, _event("i", thread, at, _call_name(call), call.kind, s="t", args=args)

    # -- messages ----------------------------------------------------------------------------------

    def _moments_of(self, messages: Iterable[PastMessage]) -> dict[AgentId, dict[int, _Moment]]:
        found: dict[AgentId, dict[int, _Moment]] = {}

        def moment(agent_id: AgentId, time: float) -> _Moment:
            return found.setdefault(agent_id, {}).setdefault(_micro(time), _Moment())

        for message in messages:
            moment(message.sender, message.sent).sent.append(message)
            if message.received is not None:
                moment(message.to, message.received).received.append(message)
        return found

    def _add_messages(self, agent_id: AgentId, thread: int, timed: list[tuple[int, Event]]) -> None:
        """Add a slice for each moment, and the beginnings and ends of arrows, which need one to hang on."""
        for at, moment in self._moments.get(agent_id, {}).items():
            sent = [(f"sends {each.kind} to {self._name(each.to)}", each) for each in moment.sent]
            got = [(f"takes {each.kind} from {self._name(each.sender)}", each) for each in moment.received]
            both = [*sent, *got]
            name = both[0][0] if len(both) == 1 else f"{len(both)} messages"
            args = {str(each.id): f"{text}{_fate(each)}" for text, each in both}
            event = _event("X", thread, at, name, "message", dur=1, args=args)
            timed.append((at, event))
            for each in moment.sent:
                if self._is_arrow(each):
                    timed.append((at, _event("s", thread, at, each.kind, "message", id=each.id)))
            for each in moment.received:
                if self._is_arrow(each):
                    timed.append((at, _event("f", thread, at, each.kind, "message", id=each.id, bp="e")))

    def _is_arrow(self, message: PastMessage) -> bool:
        """Whether both ends of it are there, and are not the same slice."""
        if message.received is None:
            return False
        ends = (message.sender, _micro(message.sent)), (message.to, _micro(message.received))
        known = all(end[0] == SUPERVISOR or end[0] in self._picture.rows for end in ends)
        return known and ends[0] != ends[1]

    # -- the run -----------------------------------------------------------------------------------

    def _add_notes(self, timed: list[tuple[int, Event]]) -> None:
        for note in self._picture.notes:
            thread = self._main.get(note.agent, _PROGRAM)
            scope = "p" if thread == _PROGRAM else "t"
            at = _micro(note.time)
            timed.append((at, _event("i", thread, at, encodable(note.text), "note", s=scope)))

    def _add_counters(self, timed: list[tuple[int, Event]]) -> None:
        agents: dict[int, int] = {}
        for row in self._picture.rows.values():
            for time, change in ((row.spawned_at, 1), (row.ended_at, -1)):
                if time is not None:
                    at = _micro(time)
                    agents[at] = agents.get(at, 0) + change
        tokens: dict[int, int] = {}
        cost: dict[int, float] = {}
        for call in self._past.calls:
            if call.end is not None:
                at = _micro(call.end)
                tokens[at] = tokens.get(at, 0) + call.usage.total_tokens
                cost[at] = cost.get(at, 0.0) + call.usage.cost_usd
        for name, unit, changes in (
            ("agents", "that have not ended", agents),
            ("tokens", "used", tokens),
            ("US dollars", "spent", cost),
        ):
            _add_counter(name, unit, changes, timed)


def _grouped(items: Iterable[Any]) -> dict[AgentId, list[Any]]:
    found: dict[AgentId, list[Any]] = {}
    for item in items:
        found.setdefault(item.agent, []).append(item)
    return found


def _tracks(slices: Sequence[_Slice]) -> list[list[_Slice]]:
    """Share slices out among tracks on which none overlap: as few as there may be."""
    tracks: list[list[_Slice]] = []
    for each in sorted(slices, key=lambda each: (each.start, each.end)):
        for track in tracks:
            if track[-1].end <= each.start:
                track.append(each)
                break
        else:
            tracks.append([each])
    return tracks


def _call_name(call: PastCall) -> str:
    name = encodable(call.name)
    if call.kind == "tool":
        return name
    return f"model {name}" if name else "model"


def _call_args(call: PastCall) -> Mapping[str, Any]:
    args: dict[str, Any] = {}
    if call.end is None:
        args["unfinished"] = True
    if call.failed:
        args["failed"] = True
    if call.usage.total_tokens:
        args["tokens"] = call.usage.total_tokens
    if call.usage.cost_usd:
        args["cost_usd"] = call.usage.cost_usd
    if call.arguments is not None:
        args["arguments"] = _cut(json.dumps(call.arguments))
    return args


def _cut(text: str) -> str:
    left_out = len(text) - LONGEST_ARGUMENTS
    if left_out <= 0:
        return text
    half = LONGEST_ARGUMENTS // 2
    return f"{text[:half]} [{left_out:,} characters left out] {text[-half:]}"


def _fate(message: PastMessage) -> str:
    return " (a dead letter)" if message.buried else ""


def _event(phase: str, thread: int, at: int, name: str, category: str, **more: Any) -> Event:
    return {"ph": phase, "pid": PID, "tid": thread, "ts": at, "name": name, "cat": category, **more}


def _named(kind: str, thread: int, args: Mapping[str, Any]) -> Event:
    return {"ph": "M", "pid": PID, "tid": thread, "name": kind, "args": args}


def _thread(thread: int, name: str) -> list[Event]:
    return [
        _named("thread_name", thread, {"name": name}),
        _named("thread_sort_index", thread, {"sort_index": thread}),
    ]


def _add_slices(thread: int, slices: Iterable[_Slice], timed: list[tuple[int, Event]]) -> None:
    for each in slices:
        dur = each.end - each.start
        args = dict(each.args)
        timed.append(
            (each.start, _event("X", thread, each.start, each.name, each.category, dur=dur, args=args))
        )


def _add_counter(name: str, unit: str, changes: Mapping[int, float], timed: list[tuple[int, Event]]) -> None:
    total: float = 0
    for at in sorted(changes):
        if changes[at]:
            total += changes[at]
            args = {unit: round(total, 6)}
            event = {"ph": "C", "pid": PID, "ts": at, "name": name, "cat": "run", "args": args}
            timed.append((at, event))
