"""What people see of a run while it goes on and afterwards: a fold over its events.

A picture is a table of agents, a timeline with a lane for each, the messages between them and what was
worth a note. Everything in it bears the version of the picture at which it last changed, so that whoever
watches asks for what is newer than what it has, after a lost connection too: nothing is queued for anybody.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import attrs

from agentpool._core import events as ev
from agentpool._core.approval import ApprovalRequest
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.rates import Rates
from agentpool._core.summaries import EndState, note_of, reason_of, state_of
from agentpool._core.usage import NO_USAGE, TokenUsage

SPANS_KEPT = 500_000
"""So many spans of the timeline are kept, the latest; so a run of any length has room."""
MESSAGES_KEPT = 100_000
NOTES_KEPT = 1_000
ENDED_KEPT = 20_000
"""So many agents that have ended are kept, the latest."""
LONGEST_WORDS = 400
"""Of what a model says while it streams, the last so many characters are kept."""
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


@attrs.frozen
class Span:
    """What an agent did, from one moment to another.

    Attributes:
      version: of the picture, when it was closed.
      agent: whose lane it is on.
      kind: what it did.
      start, end: on trio's clock.
      detail: the model, the tools, or why a call is made again; may be empty.
      blocked_on: for whom it waited; empty for anybody, or if it did not wait.
    """

    version: int
    agent: AgentId
    kind: SpanKind
    start: float
    end: float
    detail: str = ""
    blocked_on: tuple[AgentId, ...] = ()


@attrs.frozen
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


@attrs.frozen
class Note:
    """A line that people should read, such as a warning.

    Attributes:
      version: of the picture, when it was written.
      time: on trio's clock.
      agent: whom it is about; 0 for the program.
      text: the line; words of strangers in it are not made safe.
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
      depth: how many are above it.
      phase: of its loop; empty if it has none.
      model: what it asked last.
      calls: the tool calls that are under way, as pairs of id and tool.
      usage: of its own model calls.
      sent, heard: messages from it, and to it.
      dead_letters: messages to it that it will not receive.
      words: the end of what its model says, while it says it and until the next answer begins.
      waits_for: for whom it waits, empty for anybody; None if it does not wait.
      asking: what a person is asked, by the hashes of the calls.
      retry, retry_at: why its model call is made again, and when, on trio's clock.
      started, ended_at: on trio's clock; None if it has not yet.
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
    tool_calls: int = 0
    model_calls: int = 0
    usage: TokenUsage = NO_USAGE
    sent: int = 0
    heard: int = 0
    dead_letters: int = 0
    words: str = ""
    waits_for: tuple[AgentId, ...] | None = None
    asking: dict[str, ApprovalRequest] = attrs.field(factory=dict)
    retry: str = ""
    retry_at: float = -math.inf
    started_at: float | None = None
    ended_at: float | None = None
    restarts: int = 0
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

    def begin_again(self, restarts: int) -> None:
        """Forget what its last life did; the next one has not begun."""
        self.restarts, self.state, self.phase, self.waits_for = restarts, "restarting", "", None
        self.asking.clear()
        self.calls.clear()

    def doing_at(self, time: float) -> tuple[SpanKind | None, str, tuple[AgentId, ...]]:
        """Return what its lane shows at a time: the kind, the detail, and on whom it is blocked.

        A person comes before a retry, a retry before a wait, and a wait before its work.
        """
        if self.has_ended:
            return None, "", ()
        if self.asking:
            return "approval", ", ".join(request.call.name for request in self.asking.values()), ()
        if self.retry_at > time:
            return "retrying", self.retry, ()
        if self.state != "running":
            return "starting", "restart" if self.state == "restarting" else "", ()
        if self.waits_for is not None:
            return "waiting", "", self.waits_for
        kind = _KIND_OF_PHASE.get(self.phase, "running")
        if self.calls:
            return "acting", ", ".join(name for _, name in self.calls), ()
        return kind, self.model if kind == "reasoning" else "", ()


@attrs.define(eq=False)
class Picture:
    """What is seen of a run; see the module.

    Attributes:
      version: counts up by one with every change.
      began: the time of the first event, on trio's clock; NaN before.
      time: of the latest event or sample.
      rows: the agents, by id, in the order of their spawns.
      changed: their ids, in the order of their latest changes.
      children: the ids of those that each has spawned; 0 for the program's.
      spans, arrows, notes: the latest, in the order of their versions.
      spans_dropped, arrows_dropped: how many earlier ones there are no more.
      gone: the versions and ids of agents that ended long ago and are not kept.
      gone_before: who has seen no more than this version misses some of `gone`, and begins anew.
      forgotten: how many agents are not kept.
      usage: of all model calls.
      ends: how many agents ended in each way.
      rates: what was used lately.
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
    _ended: deque[AgentId] = attrs.field(factory=deque)
    _waiting: dict[AgentId, tuple[AgentId, ...]] = attrs.field(factory=dict)
    _retrying: dict[AgentId, None] = attrs.field(factory=dict)

    def take(self, event: ev.Event) -> None:
        """Take an event in."""
        self._at(event.time)
        if isinstance(event, ev.AgentSpawned):
            self._spawned(event)
            return
        if isinstance(event, ev.MessageSent):
            self._sent(event)
            return
        row = self.rows.get(event.agent_id)
        if row is not None:  # else its first event was dropped, or it is the supervisor's
            self._update(row, event)
        note = note_of(event, str(event.agent_id) if row is None else row.name)
        if note is not None:
            self.note(note, event.agent_id)

    def retrying(self, agent_id: AgentId, why: str, until: float, now: float) -> None:
        """Note that a model call of an agent failed, and is made again at a time on trio's clock."""
        row = self.rows.get(agent_id)
        if row is not None and not row.has_ended:
            self._at(now)
            row.retry, row.retry_at = why, until
            self._retrying[agent_id] = None
            self._touch(row)

    def sample(
        self, waiting: Mapping[AgentId, tuple[AgentId, ...]], stuck: Iterable[AgentId], now: float
    ) -> None:
        """Take in who waits for whom, and who was aborted and does not end, as the pool tells it now."""
        self._at(now)
        before, self._waiting = self._waiting, dict(waiting)
        for agent_id in before.keys() - waiting.keys():
            self._waits(agent_id, None)
        for agent_id, targets in waiting.items():
            if before.get(agent_id) != targets:
                self._waits(agent_id, targets)
        for agent_id in [each for each in self._retrying if self.rows[each].retry_at <= now]:
            del self._retrying[agent_id]
            self._touch(self.rows[agent_id])
        for agent_id in stuck:
            row = self.rows.get(agent_id)
            if row is not None and not row.is_stuck:
                row.is_stuck = True
                self._touch(row)

    def waits(self, agent_id: AgentId, targets: tuple[AgentId, ...] | None, now: float) -> None:
        """Take in for whom one agent waits from now on, empty for anybody; None if it waits no more."""
        self._at(now)
        self._waits(agent_id, targets)

    def restarted(self, agent_id: AgentId, restarts: int, now: float) -> None:
        """Take in that the next life of an agent is about to begin."""
        row = self.rows.get(agent_id)
        if row is not None and not row.has_ended:
            self._at(now)
            row.begin_again(restarts)
            self._touch(row)

    def cut(self, now: float) -> None:
        """End what all do, and have them begin anew: the run was interrupted here."""
        self._at(now)
        for row in self.rows.values():
            if row.kind is not None:
                self._touch(row)
                self._close(row)
                row.since = now

    def note(self, text: str, agent_id: AgentId = 0) -> None:
        """Keep a line that people should read."""
        self.version += 1
        self.notes.append(Note(self.version, self.time, agent_id, text))
        if len(self.notes) > NOTES_KEPT:
            self.notes.popleft()

    # -- what changes ------------------------------------------------------------------------------

    def _at(self, time: float) -> None:
        if math.isnan(self.began):
            self.began = time
        self.time = max(self.time, time)

    def _touch(self, row: AgentRow) -> None:
        """Note that a row has changed, and close the span that is over."""
        self.version += 1
        row.version = self.version
        self.changed[row.id] = None
        self.changed.move_to_end(row.id)
        kind, detail, blocked_on = row.doing_at(self.time)
        if (kind, detail, blocked_on) == (row.kind, row.detail, row.blocked_on):
            return
        self._close(row)
        row.kind, row.since, row.detail, row.blocked_on = kind, self.time, detail, blocked_on

    def _close(self, row: AgentRow) -> None:
        """Keep the open span of a row, which ends now."""
        if row.kind is None or (row.kind not in _ALWAYS_KEPT and self.time - row.since < SHORTEST_SPAN):
            return
        self.spans.append(
            Span(self.version, row.id, row.kind, row.since, self.time, row.detail, row.blocked_on)
        )
        if len(self.spans) > SPANS_KEPT:
            self.spans.popleft()
            self.spans_dropped += 1

    def _spawned(self, event: ev.AgentSpawned) -> None:
        parent = self.rows.get(event.parent_id)
        depth = 0 if parent is None else parent.depth + 1
        row = AgentRow(event.agent_id, event.name, event.parent_id, depth, event.time, since=event.time)
        self.rows[row.id] = row
        self.children.setdefault(row.parent, {})[row.id] = None
        self._touch(row)

    def _sent(self, event: ev.MessageSent) -> None:
        message = event.message
        sender, to = self.rows.get(message.sender), self.rows.get(message.to)
        if sender is not None:
            sender.sent += 1
            self._touch(sender)
        if to is not None:
            to.heard += 1
            self._touch(to)
        kind: Literal["message", "question", "reply"] = "question" if message.is_question else "message"
        if message.reply_to is not None:
            kind = "reply"
        self.version += 1
        self.arrows.append(Arrow(self.version, event.time, message.id, message.sender, message.to, kind))
        if len(self.arrows) > MESSAGES_KEPT:
            self.arrows.popleft()
            self.arrows_dropped += 1

    def _waits(self, agent_id: AgentId, targets: tuple[AgentId, ...] | None) -> None:
        row = self.rows.get(agent_id)
        if row is not None and not row.has_ended:
            row.waits_for = targets
            self._touch(row)

    def _update(self, row: AgentRow, event: ev.Event) -> None:
        match event:
            case ev.TextDeltaReceived():
                row.words = (row.words + event.text)[-LONGEST_WORDS:]
            case ev.AgentStarted():
                row.state, row.started_at = "running", event.time
            case ev.PhaseChanged():
                row.phase, row.iteration = event.phase, event.iteration
                row.asking.clear()
                row.calls.clear()
            case ev.LoopFinished():
                row.phase = ""
                row.asking.clear()
                row.calls.clear()
            case ev.ModelCallStarted():
                row.model, row.words = event.model or event.provider, ""
                row.model_calls += 1
                row.retry_at = -math.inf
            case ev.ModelCallFinished():
                self._answered(row, event)
            case ev.ToolStarted():
                row.calls.append((event.call.id, event.call.name))
                row.tool_calls += 1
            case ev.ToolFinished():
                pair = (event.call.id, event.call.name)
                if pair in row.calls:
                    row.calls.remove(pair)
            case ev.ApprovalRequested():
                row.asking[event.request.hash] = event.request
            case ev.ApprovalDecided():
                row.asking.pop(event.request.hash, None)
            case ev.MessageDeadLettered():
                row.dead_letters += 1
            case ev.AgentRestarted():
                row.begin_again(event.restarts)
            case ev.AgentStuck():
                row.is_stuck = True
            case ev.AgentFinished():
                self._ended_with(row, event.outcome, event.time)
            case _:
                return
        self._touch(row)

    def _answered(self, row: AgentRow, event: ev.ModelCallFinished) -> None:
        if event.completion is None:
            return
        row.usage += event.completion.usage
        self.usage += event.completion.usage
        if not row.words:  # it was not streamed
            row.words = event.completion.text[-LONGEST_WORDS:]
        self.rates.count(event.time, event.completion.usage)

    def _ended_with(self, row: AgentRow, outcome: AnyOutcome, time: float) -> None:
        row.state = state_of(outcome)
        row.reason = reason_of(outcome)
        row.ended_at = time
        row.waits_for = None
        row.asking.clear()
        row.calls.clear()
        self._retrying.pop(row.id, None)
        self.ends[row.state] += 1
        self.rates.count_end(time)
        self._ended.append(row.id)
        while len(self._ended) > ENDED_KEPT:
            self._forget(self._ended.popleft())

    def _forget(self, agent_id: AgentId) -> None:
        """Keep an agent no longer. All below it ended before it, and went before it."""
        row = self.rows.pop(agent_id)
        self.changed.pop(agent_id, None)
        self.children.pop(agent_id, None)
        siblings = self.children.get(row.parent)
        if siblings is not None:
            siblings.pop(agent_id, None)
        self.forgotten += 1
        self.version += 1
        self.gone.append((self.version, agent_id))
        if len(self.gone) > ENDED_KEPT:
            self.gone_before, _ = self.gone.popleft()
