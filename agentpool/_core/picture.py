"""What people see of a run while it goes on and afterwards: a fold over its events.

A picture is a table of agents, a timeline with a lane for each, the messages between them and what was
worth a note. Everything in it bears the version of the picture at which it last changed, so that whoever
watches asks for what is newer than what it has, after a lost connection too: nothing is queued for anybody.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from agentpool._core import events as ev
from agentpool._core.approval import ApprovalRequest
from agentpool._core.messages import AgentId, AgentMessage
from agentpool._core.rates import Rates
from agentpool._core.summaries import NOTED, EndState, note_of, reason_of, state_of
from agentpool._core.text import brief
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._core.value import value

SPANS_KEPT = 500_000
"""So many spans of the timeline are kept, the latest; so a run of any length has room."""
MESSAGES_KEPT = 100_000
NOTES_KEPT = 1_000
ENDED_KEPT = 20_000
"""So many agents that have ended are kept, the latest."""
LONGEST_WORDS = 400
"""Of what a model says while it streams, the last so many characters are kept."""
LONGEST_NAME = 200
"""So many characters of the name of an agent, a model or a tool are kept."""
LONGEST_LINE = 1_000
"""So many characters of a reason or a note are kept."""
NAMES_LISTED = 8
"""So many tools are named where an agent calls many side by side."""
BLOCKERS_KEPT = 16
"""So many of those for whom an agent waits are kept: it may wait for thousands of children."""
SHORTEST_SPAN = 0.001
"""Seconds; shorter spans are not kept, except those of models, tools and persons."""

State: TypeAlias = Literal["starting", "running", "restarting"] | EndState
SpanKind: TypeAlias = Literal[
    "starting", "running", "perceiving", "reasoning", "acting", "waiting", "approval", "retrying"
]
_ALWAYS_KEPT: frozenset[SpanKind] = frozenset({"reasoning", "acting", "approval"})
_KIND_OF_PHASE: Mapping[str, SpanKind] = {
    "perceive": "perceiving",
    "reason": "reasoning",
    "act": "acting",
}


@value
class Span:
    """What an agent did, from one moment to another.

    Those of one agent do not overlap, and leave no gap: a span that is too short to be kept belongs to
    the one after it. Only the last one may end up to `SHORTEST_SPAN` before the agent does.

    Attributes:
      version: of the picture, when it was closed.
      agent: whose lane it is on.
      kind: what it did.
      start, end: on trio's clock.
      detail: the model, the tools, or why a call is made again; may be empty.
      blocked_on: for whom it waited, at most `BLOCKERS_KEPT` of them; empty for anybody, or if it did
        not wait.
    """

    version: int
    agent: AgentId
    kind: SpanKind
    start: float
    end: float
    detail: str = ""
    blocked_on: tuple[AgentId, ...] = ()


@value
class Arrow:
    """A message, from one lane to another.

    Attributes:
      version: of the picture, when it was sent.
      time: on trio's clock.
      id, sender, to: of the message.
      kind: whether its sender waits for the answer, or it is one.
    """

    version: int
    time: float
    id: int
    sender: AgentId
    to: AgentId
    kind: Literal["message", "question", "reply"]


@value
class Note:
    """A line that people should read, such as a warning.

    Attributes:
      version: of the picture, when it was written.
      time: on trio's clock.
      agent: whom it is about; 0 for the program.
      text: the line; words of strangers in it can be encoded, but are not made safe in another way.
    """

    version: int
    time: float
    agent: AgentId
    text: str


@attrs.define(eq=False)
class AgentRow:
    """One agent, as far as the events have told.

    Attributes:
      version: of the picture, when something in it last changed.
      parent: who spawned it, 0 for the program; may be an agent of which nothing is known.
      depth: how many are above it.
      phase: of its loop; empty if it has none.
      model: what it asked last.
      calls: the tool calls that are under way, as pairs of id and tool.
      asked: the model calls that are under way, by the numbers of their first events.
      usage: of its own model calls.
      sent, heard: messages from it, and to it.
      dead_letters: messages to it that it will not receive.
      words: the end of what its model says, while it says it and until the next answer begins.
      is_streamed: whether `words` came in pieces, to which more may be added.
      waits_for: for whom it waits, at most `BLOCKERS_KEPT` of them, empty for anybody; None if it does
        not wait.
      asking: what a person is asked, by the hashes of the calls.
      retry, retry_at: why its model call is made again, and when, on trio's clock.
      started_at, ended_at: on trio's clock; None if it has not yet.
      restart_at: when its next life begins, on trio's clock.
      reason: why it failed or was aborted.
      is_stuck: whether it was aborted and does not end.
      kind, since, detail, blocked_on: the span that is open; see `Span`.
    """

    id: AgentId
    name: str
    parent: AgentId
    depth: int
    spawned_at: float
    version: int = 0
    state: State = "starting"
    phase: str = ""
    iteration: int = 0
    model: str = ""
    calls: list[tuple[str, str]] = attrs.field(factory=list)
    asked: set[int] = attrs.field(factory=set)
    tool_calls: int = 0
    model_calls: int = 0
    usage: TokenUsage = NO_USAGE
    sent: int = 0
    heard: int = 0
    dead_letters: int = 0
    words: str = ""
    is_streamed: bool = False
    waits_for: tuple[AgentId, ...] | None = None
    asking: dict[str, ApprovalRequest] = attrs.field(factory=dict)
    retry: str = ""
    retry_at: float = -math.inf
    started_at: float | None = None
    ended_at: float | None = None
    restarts: int = 0
    restart_at: float = -math.inf
    reason: str = ""
    is_stuck: bool = False
    kind: SpanKind | None = "starting"
    since: float = 0.0
    detail: str = ""
    blocked_on: tuple[AgentId, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether it has its outcome."""
        return self.ended_at is not None

    def doing_at(self, time: float) -> tuple[SpanKind | None, str, tuple[AgentId, ...]]:
        """Return what its lane shows at a time: the kind, the detail, and on whom it is blocked.

        A person comes before a retry, a retry before a wait, and a wait before its work.
        """
        if self.ended_at is not None:
            return None, "", ()
        if self.asking:
            return "approval", _listed([request.call.name for request in self.asking.values()]), ()
        if self.retry_at > time:
            return "retrying", self.retry, ()
        if self.state != "running":
            return "starting", "restart" if self.state == "restarting" else "", ()
        if self.waits_for is not None:
            return "waiting", "", self.waits_for
        if self.calls:
            return "acting", _listed([name for _, name in self.calls]), ()
        kind = _KIND_OF_PHASE.get(self.phase)
        if kind == "reasoning" or (kind is None and self.asked):
            return "reasoning", self.model, ()
        return kind or "running", "", ()


def _listed(names: list[str]) -> str:
    more = len(names) - NAMES_LISTED
    told = ", ".join([brief(name, LONGEST_NAME) for name in names[:NAMES_LISTED]])
    return told if more <= 0 else f"{told} and {more} more"


@attrs.define(eq=False)
class Picture:
    """What is seen of a run; see the module.

    Of spans, arrows, notes and agents that have ended only the latest are kept, so that a run may go on
    for months. How many may be given to the constructor.

    Attributes:
      version: counts up by one with every change.
      began: the time of the first event, on trio's clock; NaN before.
      time: of the latest event or sample; it never goes back.
      rows: the agents, by id, in the order in which they were heard of.
      changed: their ids, in the order of their latest changes.
      children: the ids of those that each has spawned; 0 for the program's.
      spans, arrows, notes: the latest, in the order of their versions.
      spans_dropped, arrows_dropped: how many earlier ones there are no more.
      gone: the versions and ids of agents that ended long ago and are not kept.
      gone_before: who has seen no more than this version misses some of `gone`, and begins anew.
      forgotten: how many agents are not kept.
      usage: of all model calls, as far as agents are known that made them.
      ends: how many agents ended in each way.
      rates: what was used lately.
      spans_kept, arrows_kept, notes_kept, ended_kept: how many there are at the most.
    """

    version: int = 0
    began: float = math.nan
    time: float = 0.0
    rows: dict[AgentId, AgentRow] = attrs.field(factory=dict)
    changed: OrderedDict[AgentId, None] = attrs.field(factory=OrderedDict)
    children: dict[AgentId, dict[AgentId, None]] = attrs.field(factory=dict)
    spans: deque[Span] = attrs.field(factory=deque)
    arrows: deque[Arrow] = attrs.field(factory=deque)
    notes: deque[Note] = attrs.field(factory=deque)
    spans_dropped: int = 0
    arrows_dropped: int = 0
    gone: deque[tuple[int, AgentId]] = attrs.field(factory=deque)
    gone_before: int = 0
    forgotten: int = 0
    usage: TokenUsage = NO_USAGE
    ends: dict[EndState, int] = attrs.field(factory=lambda: {"completed": 0, "failed": 0, "aborted": 0})
    rates: Rates = attrs.field(factory=Rates)
    spans_kept: int = attrs.field(default=SPANS_KEPT, kw_only=True)
    arrows_kept: int = attrs.field(default=MESSAGES_KEPT, kw_only=True)
    notes_kept: int = attrs.field(default=NOTES_KEPT, kw_only=True)
    ended_kept: int = attrs.field(default=ENDED_KEPT, kw_only=True)
    _ended: deque[AgentId] = attrs.field(factory=deque)
    _waiting: Mapping[AgentId, tuple[AgentId, ...]] = attrs.field(factory=dict)
    # Those who ask again, or live again, at a time: no event tells that it has come.
    _due: dict[AgentId, None] = attrs.field(factory=dict)
    _last_id: AgentId = 0

    def take(self, event: ev.Event) -> None:
        """Take an event in."""
        self._at(event.time)
        kind = type(event)
        row = self.rows.get(event.agent_id)
        update = _UPDATES.get(kind)
        if update is not None:
            if row is None and event.agent_id and kind in _OF_THE_LIVING:
                row = self._missed(event)
            if row is not None and (row.ended_at is None or kind is ev.ModelCallFinished):
                update(self, row, event)
        elif isinstance(event, ev.MessageSent):
            self._sent(event.message)
        elif isinstance(event, ev.AgentSpawned):
            self._spawned(event)
        elif isinstance(event, ev.MessageDeadLettered):
            self._buried(event.message)
        if kind in NOTED:
            note = note_of(event, _name_of(event.agent_id, row))
            if note is not None:
                self.note(note, event.agent_id)

    def retrying(self, agent_id: AgentId, why: str, until: float, now: float) -> None:
        """Note that a model call of an agent failed, and is made again at a time on trio's clock."""
        row = self.rows.get(agent_id)
        if row is not None and row.ended_at is None:
            self._at(now)
            row.retry, row.retry_at = brief(why, LONGEST_LINE), until
            self._due[agent_id] = None
            self._touch(row)

    def sample(
        self, waiting: Mapping[AgentId, tuple[AgentId, ...]], stuck: Iterable[AgentId], now: float
    ) -> None:
        """Take in who waits for whom, and who was aborted and does not end, as the pool tells it now."""
        self._at(now)
        rows = self.rows
        before, self._waiting = self._waiting, dict(waiting)
        for agent_id in before.keys() - waiting.keys():
            self._waits(agent_id, None)
        for agent_id, targets in waiting.items():
            row = rows.get(agent_id)
            if row is not None and row.waits_for != targets[:BLOCKERS_KEPT]:
                self._waits(agent_id, targets[:BLOCKERS_KEPT])
        for agent_id in [each for each in self._due if self._is_due(rows[each])]:
            del self._due[agent_id]
            row = rows[agent_id]
            if row.state == "restarting":
                row.state = "running"
            self._touch(row)
        for agent_id in stuck:
            row = rows.get(agent_id)
            if row is not None and row.ended_at is None and not row.is_stuck:
                row.is_stuck = True
                self._mark(row)

    def waits(self, agent_id: AgentId, targets: tuple[AgentId, ...] | None, now: float) -> None:
        """Take in for whom one agent waits from now on, empty for anybody; None if it waits no more."""
        self._at(now)
        self._waits(agent_id, None if targets is None else targets[:BLOCKERS_KEPT])

    def restarted(self, agent_id: AgentId, restarts: int, now: float) -> None:
        """Note that a life of an agent has ended, and that nobody knows when the next one begins.

        It begins with what the agent does next.
        """
        self._at(now)
        self._begins_again(self.rows[agent_id], restarts, math.inf)

    def goes_on(self, agent_id: AgentId, usage: TokenUsage, now: float) -> None:
        """Take in what an agent, of which its spawning is known, used before its run was resumed.

        What it did then is not known: its lane begins now. Its outcome will tell of all of it.
        """
        self._at(now)
        row = self.rows[agent_id]
        row.started_at = row.spawned_at  # its slot had come with its id
        row.since = self.time
        row.usage += usage
        self.usage += usage
        self._mark(row)

    def cut(self, now: float) -> None:
        """Cut all lanes: the run was interrupted here, and what was done then is begun again."""
        self._at(now)
        for row in self.rows.values():
            if row.kind is not None and row.since < self.time:
                self._mark(row)
                self._keep(
                    Span(self.version, row.id, row.kind, row.since, self.time, row.detail, row.blocked_on)
                )
                row.since = self.time

    def note(self, text: str, agent_id: AgentId = 0) -> None:
        """Keep a line that people should read."""
        self.version += 1
        self.notes.append(Note(self.version, self.time, agent_id, brief(text, LONGEST_LINE)))
        if len(self.notes) > self.notes_kept:
            self.notes.popleft()

    # -- what changes ------------------------------------------------------------------------------

    def _at(self, time: float) -> None:
        # A time that is no number, or that goes back, is passed over: spans end where the next one begins.
        if self.began != self.began and math.isfinite(time):
            self.began = self.time = time
        elif self.time < time < math.inf:
            self.time = time

    def _mark(self, row: AgentRow) -> None:
        """Note that a row has changed."""
        self.version = row.version = self.version + 1
        self.changed.move_to_end(row.id)

    def _touch(self, row: AgentRow) -> None:
        """Note that a row has changed, and close the span that is over."""
        self.version = row.version = self.version + 1
        self.changed.move_to_end(row.id)
        kind, detail, blocked_on = row.doing_at(self.time)
        if kind == row.kind and detail == row.detail and blocked_on == row.blocked_on:
            return
        if row.kind is not None and self._is_kept(
            row, kind, detail
        ):  # None: it has ended, and nothing changes
            self._keep(Span(self.version, row.id, row.kind, row.since, self.time, row.detail, row.blocked_on))
            row.since = self.time
        # Else the span was too short, and its time is that of the next one: a lane has no gaps.
        row.kind, row.detail, row.blocked_on = kind, detail, blocked_on

    def _is_kept(self, row: AgentRow, next_kind: SpanKind | None, next_detail: str) -> bool:
        length = self.time - row.since
        if length >= SHORTEST_SPAN:
            return True
        if row.kind not in _ALWAYS_KEPT or not row.detail:
            return False
        # A call takes no time where time is virtual; but what becomes more of the same in the same moment,
        # as one tool after the other is called side by side, is no call by itself.
        return length > 0 or row.kind != next_kind or not next_detail

    def _keep(self, span: Span) -> None:
        self.spans.append(span)
        if len(self.spans) > self.spans_kept:
            self.spans.popleft()
            self.spans_dropped += 1

    def _added(self, agent_id: AgentId, name: str, parent_id: AgentId) -> AgentRow:
        parent = self.rows.get(parent_id)
        depth = 0 if parent is None else parent.depth + 1
        row = AgentRow(agent_id, brief(name, LONGEST_NAME), parent_id, depth, self.time, since=self.time)
        if agent_id <= self._last_id:
            self._back_again(agent_id)
        self._last_id = max(self._last_id, agent_id)
        self.rows[agent_id] = row
        self.changed[agent_id] = None
        self.children.setdefault(parent_id, {})[agent_id] = None
        return row

    def _back_again(self, agent_id: AgentId) -> None:
        """Something late is told of an agent: if it was forgotten, it is there again."""
        kept = [each for each in self.gone if each[1] != agent_id]
        if len(kept) < len(self.gone):
            self.gone = deque(kept)
            self.forgotten -= 1

    def _missed(self, event: ev.Event) -> AgentRow:
        """Return the row of an agent of which this is the first event that came; others were dropped."""
        name = event.outcome.name if isinstance(event, ev.AgentFinished) else _name_of(event.agent_id, None)
        row = self._added(event.agent_id, name, event.parent_id)
        row.state = "running"
        row.kind = "running"
        return row

    def _spawned(self, event: ev.AgentSpawned) -> None:
        row = self.rows.get(event.agent_id)
        if row is None:
            row = self._added(event.agent_id, event.name, event.parent_id)
        else:  # it was resumed, or is known from an event that came first
            row.name = brief(event.name, LONGEST_NAME)
        self._touch(row)

    def _sent(self, message: AgentMessage) -> None:
        sender, to = self.rows.get(message.sender), self.rows.get(message.to)
        if sender is not None:
            sender.sent += 1
            self._acts(sender)
        if to is not None:
            to.heard += 1
            self._mark(to)
        kind: Literal["message", "question", "reply"] = "question" if message.is_question else "message"
        if message.reply_to is not None:
            kind = "reply"
        self.version += 1
        self.arrows.append(Arrow(self.version, self.time, message.id, message.sender, message.to, kind))
        if len(self.arrows) > self.arrows_kept:
            self.arrows.popleft()
            self.arrows_dropped += 1

    def _buried(self, message: AgentMessage) -> None:
        if message.reply_to is not None:
            self._sent(message)  # for which nobody waited any more, so that no event told that it was sent
        to = self.rows.get(message.to)
        if to is not None:
            to.dead_letters += 1
            self._mark(to)

    def _waits(self, agent_id: AgentId, targets: tuple[AgentId, ...] | None) -> None:
        row = self.rows.get(agent_id)
        if row is not None and row.ended_at is None:
            row.waits_for = targets
            if targets is not None:  # nobody waits before he runs
                self._runs(row)
            self._touch(row)

    def _runs(self, row: AgentRow) -> None:
        if row.state != "running":
            row.state = "running"
            self._due.pop(row.id, None)
        if row.started_at is None:
            row.started_at = self.time

    def _acts(self, row: AgentRow) -> None:
        """An agent does something: it neither waits nor sleeps before its next life, whatever was sampled."""
        if row.ended_at is not None:
            self._mark(row)
            return
        row.waits_for = None
        if row.state != "running" or row.started_at is None:
            self._runs(row)
        self._touch(row)

    def _is_due(self, row: AgentRow) -> bool:
        return (row.restart_at if row.state == "restarting" else row.retry_at) <= self.time

    # -- what each event changes ---------------------------------------------------------------------

    def _started(self, row: AgentRow, event: ev.AgentStarted) -> None:
        if row.started_at is None or row.state != "starting":  # one that was resumed had started long ago
            row.started_at = self.time
        self._acts(row)

    def _phase_changed(self, row: AgentRow, event: ev.PhaseChanged) -> None:
        row.phase, row.iteration = event.phase, event.iteration
        self._leaves_calls(row)
        self._acts(row)

    def _loop_finished(self, row: AgentRow, event: ev.LoopFinished) -> None:
        row.phase = ""
        self._leaves_calls(row)
        self._acts(row)

    def _text_came(self, row: AgentRow, event: ev.TextDeltaReceived) -> None:
        before = row.words if row.is_streamed else ""  # hooks tell an answer after it came in one piece
        row.words = (before + event.text)[-LONGEST_WORDS:]
        row.is_streamed = True
        self._mark(row)

    def _model_asked(self, row: AgentRow, event: ev.ModelCallStarted) -> None:
        row.model = brief(event.model or event.provider, LONGEST_NAME)
        row.words, row.is_streamed = "", False
        row.model_calls += 1
        row.asked.add(event.seq)
        row.retry_at = -math.inf
        self._acts(row)

    def _model_answered(self, row: AgentRow, event: ev.ModelCallFinished) -> None:
        row.asked.discard(event.started)
        completion = event.completion
        if completion is not None:
            row.usage += completion.usage
            self.usage += completion.usage
            if not row.is_streamed:
                row.words = completion.text[-LONGEST_WORDS:]
            self.rates.count(self.time, completion.usage)
        self._acts(row)

    def _tool_started(self, row: AgentRow, event: ev.ToolStarted) -> None:
        row.calls.append((event.call.id, event.call.name))
        row.tool_calls += 1
        self._acts(row)

    def _tool_finished(self, row: AgentRow, event: ev.ToolFinished) -> None:
        pair = (event.call.id, event.call.name)
        if pair in row.calls:
            row.calls.remove(pair)
        if row.asking:  # a question of its server, which nobody answered in time
            withdrawn = [key for key, each in row.asking.items() if each.call.id == event.call.id]
            for key in withdrawn:
                del row.asking[key]
        self._acts(row)

    def _approval_asked(self, row: AgentRow, event: ev.ApprovalRequested) -> None:
        row.asking[event.request.hash] = event.request
        self._touch(row)

    def _approval_decided(self, row: AgentRow, event: ev.ApprovalDecided) -> None:
        row.asking.pop(event.request.hash, None)
        self._touch(row)

    def _restarted(self, row: AgentRow, event: ev.AgentRestarted) -> None:
        self._begins_again(row, event.restarts, event.delay)

    def _begins_again(self, row: AgentRow, restarts: int, delay: float) -> None:
        row.restarts, row.state, row.phase = restarts, "restarting", ""
        row.restart_at = self.time + delay
        row.waits_for = None
        row.asked.clear()
        self._leaves_calls(row)
        self._due[row.id] = None
        self._touch(row)

    def _stuck(self, row: AgentRow, event: ev.AgentStuck) -> None:
        row.is_stuck = True
        self._mark(row)

    def _leaves_calls(self, row: AgentRow) -> None:
        """What a loop did when it was ended from outside is told by no event of its own."""
        row.asking.clear()
        row.calls.clear()
        row.retry_at = -math.inf

    def _finished(self, row: AgentRow, event: ev.AgentFinished) -> None:
        outcome = event.outcome
        # What was used before anybody watched, or is counted by the agent's own code, comes with the outcome.
        self.usage = _with_difference(self.usage, row.usage, outcome.usage)
        row.usage = outcome.usage
        self._end_below(row)
        self._ended_as(row, state_of(outcome), brief(reason_of(outcome), LONGEST_LINE))

    def _end_below(self, row: AgentRow) -> None:
        """End those whose ends were dropped: an agent ends after its children.

        Invariant: no agent is kept longer than those below it, so that `_forget` leaves no orphans.
        """
        todo = [(row, False)]
        while todo:
            each, is_last = todo.pop()
            if is_last:
                self._ended_as(each, "aborted", "its end was not told")
                continue
            if each is not row:
                todo.append((each, True))
            children = [self.rows[child] for child in self.children.get(each.id, ())]
            todo.extend((child, False) for child in children if child.ended_at is None)

    def _ended_as(self, row: AgentRow, state: EndState, reason: str) -> None:
        row.state = state
        row.reason = reason
        row.ended_at = self.time
        row.phase = ""
        row.waits_for = None
        row.is_stuck = False
        row.asked.clear()
        self._leaves_calls(row)
        self._due.pop(row.id, None)
        self.ends[state] += 1
        self.rates.count_end(self.time)
        self._touch(row)
        self._ended.append(row.id)
        while len(self._ended) > self.ended_kept:
            self._forget(self._ended.popleft())

    def _forget(self, agent_id: AgentId) -> None:
        """Keep an agent no longer. All below it ended before it, and went before it."""
        row = self.rows.pop(agent_id)
        del self.changed[agent_id]
        siblings = self.children[row.parent]
        del siblings[agent_id]
        if not siblings:
            del self.children[row.parent]
        self.forgotten += 1
        self.version += 1
        self.gone.append((self.version, agent_id))
        if len(self.gone) > self.ended_kept:
            self.gone_before, _ = self.gone.popleft()


_UPDATES: Mapping[type[ev.Event], Callable[[Picture, AgentRow, Any], None]] = {
    ev.AgentStarted: Picture._started,
    ev.PhaseChanged: Picture._phase_changed,
    ev.LoopFinished: Picture._loop_finished,
    ev.TextDeltaReceived: Picture._text_came,
    ev.ModelCallStarted: Picture._model_asked,
    ev.ModelCallFinished: Picture._model_answered,
    ev.ToolStarted: Picture._tool_started,
    ev.ToolFinished: Picture._tool_finished,
    ev.ApprovalRequested: Picture._approval_asked,
    ev.ApprovalDecided: Picture._approval_decided,
    ev.AgentRestarted: Picture._restarted,
    ev.AgentStuck: Picture._stuck,
    ev.AgentFinished: Picture._finished,
}
"""What an event changes in the row of its agent. A table, since a long `match` takes longer than the rest."""

# What an agent does only while it lives. Others may still come when it has ended and is forgotten.
_OF_THE_LIVING: frozenset[type[ev.Event]] = frozenset(
    {
        ev.AgentStarted,
        ev.PhaseChanged,
        ev.ModelCallStarted,
        ev.ToolStarted,
        ev.ApprovalRequested,
        ev.AgentRestarted,
        ev.AgentFinished,
    }
)


def _name_of(agent_id: AgentId, row: AgentRow | None) -> str:
    if row is not None:
        return row.name
    return f"agent {agent_id}" if agent_id else "the program"


def _with_difference(total: TokenUsage, told: TokenUsage, true: TokenUsage) -> TokenUsage:
    """Return a total in which what was told of one agent is replaced by what is true of it."""
    if told == true:
        return total
    minus = TokenUsage(*[-amount for amount in attrs.astuple(told)])
    return total + (true + minus)
