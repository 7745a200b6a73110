"""The picture of a run out of its journal: a pure fold over the records.

The records are turned into the events that they stand for, which the picture takes in. So it is drawn as it
was while the run went on, as far as the journal can tell. What it cannot tell:

- **When a wait for a message or for the end of an agent began.** It is drawn from the last operation of the
  same code until what was waited for came; whatever the code did in between is in it. Questions are exact:
  the journal has both ends.
- **What a function does between its operations**, a model call without a budget among it: that is drawn as
  running. The usage is counted where the answer came.
- **Model calls without a budget that failed**, and the attempts of a retry: only the loop's error is there.
- **How long a restart was put off**: it is drawn until the next life's first record.
- **How long a process was down**: the clock of a journal stands still then. Lanes are cut there.
- **Whether a tool call that was aborted as it began was made**: its beginning is written before it.
- What is not written at all: pieces of streamed answers, warnings of budgets and guards, suspected
  deadlocks, agents that do not end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from agentpool._core import events as ev
from agentpool._core.approval import ApprovalRequest, Approved, Denied
from agentpool._core.messages import (
    SUPERVISOR,
    AgentId,
    AgentMessage,
    Completion,
    CompletionRequest,
    ToolCall,
    ToolResult,
)
from agentpool._core.outcomes import AnyOutcome, Failed
from agentpool._core.past_waits import Wait, waits_of, what_followed
from agentpool._core.picture import Picture
from agentpool._core.records import JournalRecord
from agentpool._core.usage import NO_USAGE, TokenUsage

Data: TypeAlias = Mapping[str, Any]
OutcomeOf: TypeAlias = Callable[[Data, AgentId, str, AgentId, float], AnyOutcome]
"""Makes an outcome of its data, the agent, its name, its parent, and when it was spawned."""

_PHASE_BEFORE: Mapping[str, ev.Phase] = {
    "recalled": "perceive",
    "replied": "reason",
    "failed": "reason",
    "compacted": "reason",
    "collected": "act",
    "remembered": "done",
    "called": "act",
    "returned": "act",
}
"""In which phase a loop is until it comes to what is told next."""


@attrs.define(eq=False)
class PastCall:
    """A call of a model or of a tool.

    Attributes:
      agent: whose it is.
      kind, name: what was called.
      start: seconds into the run; None if the journal does not tell it.
      end: None if it did not end before the journal or, for a call that was cut off, its process did.
      failed: whether a tool's result was an error.
      arguments: of a tool, as data; None if they are left out, and of a model.
      usage: of a model.
      number: counts the calls of models; 0 of a tool.
    """

    agent: AgentId
    kind: Literal["model", "tool"]
    name: str
    start: float | None
    end: float | None = None
    failed: bool = False
    arguments: Mapping[str, Any] | None = None
    usage: TokenUsage = NO_USAGE
    number: int = 0


@attrs.define(eq=False)
class PastMessage:
    """A message, and what became of it.

    Attributes:
      id, sender, to, kind: as in `Arrow`.
      sent: seconds into the run.
      received: None if it was not; of an answer, when it was given.
      buried: whether nobody will receive it.
    """

    id: int
    sender: AgentId
    to: AgentId
    kind: Literal["message", "question", "reply"]
    sent: float
    received: float | None = None
    buried: bool = False


@attrs.define(eq=False)
class PastPicture:
    """A run as its journal tells it.

    Attributes:
      picture: what is drawn; its times are seconds into the run.
      calls: of models and tools, in the order in which they ended; those that did not are the last.
      messages: in the order in which they were sent.
      interrupted: when the run was resumed, in seconds into it.
    """

    picture: Picture
    calls: list[PastCall] = attrs.field(factory=list)
    messages: list[PastMessage] = attrs.field(factory=list)
    interrupted: list[float] = attrs.field(factory=list)


def past_picture(
    records: Sequence[JournalRecord],
    outcome_of: OutcomeOf,
    *,
    picture: Picture | None = None,
    words: bool = True,
) -> PastPicture:
    """Return the picture of a run.

    Args:
      records: of its journal, from its beginning; they fit each other.
      outcome_of: makes outcomes of their data. What agents returned is not asked for.
      picture: an empty one, which says how much is kept; left out, as much as of a live run.
      words: whether what models, tools and persons said is in it: last words, reasons, arguments. The
        names of agents, models and tools always are.
    """
    picture = picture or Picture()
    picture.began = 0.0
    fold = _Fold(PastPicture(picture), outcome_of, words, what_followed(records))
    moments = _moments_of(waits_of(records))
    for place, record in enumerate(records):
        while moments and moments[-1][0] < record.at:
            fold.wait_changes(moments.pop())
        fold.take(place, record)
    while moments:
        fold.wait_changes(moments.pop())
    fold.close()
    return fold.result


_Moment: TypeAlias = tuple[float, bool, Wait]
"""When a wait begins, or (False) ends."""


def _moments_of(waits: Sequence[Wait]) -> list[_Moment]:
    """Return when waits begin and end, the last first."""
    moments: list[_Moment] = [(wait.start, True, wait) for wait in waits]
    moments += [(wait.end, False, wait) for wait in waits if wait.end is not None]
    moments.sort(key=lambda moment: moment[:2], reverse=True)
    return moments


@attrs.define(eq=False)
class _Agent:
    """What is known of an agent that has not ended.

    Attributes:
      id, name, parent, spawned_at: as in its row.
      phase: what its loop does; None if it is not in one.
      model: whom the loop asks.
      replies: how often its loop was answered.
      model_calls: those that are under way, by their numbers.
      asked: the call of a loop, without a number.
      tools: the calls that are under way, by their places in the agent.
      waits: for whom it waits, by operation.
      is_between: whether it waits for its next life.
    """

    id: AgentId
    name: str
    parent: AgentId
    spawned_at: float
    phase: ev.Phase | None = None
    model: str = ""
    replies: int = 0
    model_calls: dict[int, PastCall] = attrs.field(factory=dict)
    asked: PastCall | None = None
    tools: dict[str, tuple[ToolCall, PastCall]] = attrs.field(factory=dict)
    waits: dict[str, tuple[AgentId, ...]] = attrs.field(factory=dict)
    is_between: bool = False

    def waits_for(self) -> tuple[AgentId, ...] | None:
        """Return for whom it waits; None if it does not, or one of its tool calls goes on."""
        if not self.waits or not all(self._holds(f"{call}/") for call in self.tools):
            return None
        if not all(self.waits.values()):
            return ()
        return tuple(sorted({each for targets in self.waits.values() for each in targets}))

    def _holds(self, place: str) -> bool:
        return any(key.startswith(place) for key in self.waits)


class _Fold:
    def __init__(
        self, result: PastPicture, outcome_of: OutcomeOf, words: bool, followed: Mapping[int, str]
    ) -> None:
        self.result = result
        self._picture = self.result.picture
        self._outcome_of = outcome_of
        self._words = words
        self._followed = followed
        self._agents: dict[AgentId, _Agent] = {}
        self._messages: dict[int, PastMessage] = {}  # that are in inboxes, or questions without an answer
        self._approvals: dict[str, ApprovalRequest] = {}
        self._asked_models = 0
        self._is_closed = False
        self._takers: Mapping[str, Callable[[int, JournalRecord], None]] = {
            "resumed": self._resumed,
            "spawned": self._spawned,
            "restarted": self._restarted,
            "begun": self._begun,
            "observed": self._observed,
            "reserved": self._reserved,
            "settled": self._settled,
            "called": self._called,
            "returned": self._returned,
            "sent": self._sent,
            "received": self._received,
            "replied": self._replied,
            "buried": self._buried,
            "asked": self._asked,
            "decided": self._decided,
            "ended": self._ended,
            "closed": self._closed,
        }

    def take(self, place: int, record: JournalRecord) -> None:
        """Take a record in, which stands at a place of the journal."""
        self._picture.time = max(self._picture.time, record.at)
        doer = _doer_of(record)
        self._shows_life(doer, record.at)
        taker = self._takers.get(record.kind)
        if taker is not None:
            taker(place, record)
        agent = self._agents.get(doer)
        if agent is not None and agent.waits:  # for the picture, who acts does not wait
            self._picture.waits(agent.id, agent.waits_for(), record.at)

    def wait_changes(self, moment: _Moment) -> None:
        """Take in that a wait begins, or ends."""
        time, begins, wait = moment
        agent = self._agents.get(wait.agent)
        if agent is None:
            return
        if begins:
            agent.waits[wait.key] = wait.targets
        else:
            agent.waits.pop(wait.key, None)
        self._picture.waits(wait.agent, agent.waits_for(), time)

    def close(self) -> None:
        """Take in the end of the journal."""
        for agent in self._agents.values():
            self._cut_calls(agent)
        if not self._is_closed:
            self._picture.note("the journal ends here: the run goes on, or its process died")

    # -- the run -----------------------------------------------------------------------------------

    def _resumed(self, place: int, record: JournalRecord) -> None:
        self._is_closed = False
        self.result.interrupted.append(record.at)
        self._picture.cut(record.at)
        for agent in self._agents.values():
            self._cut_calls(agent)
            for key, (call, past) in agent.tools.items():  # made again, or its result is unknown
                agent.tools[key] = (call, attrs.evolve(past, start=record.at))
            if agent.phase == "reason":
                agent.asked = self._model_call_begins(agent, record.at)
        self._picture.note("the run was interrupted here, and resumed: the time between does not count")

    def _closed(self, place: int, record: JournalRecord) -> None:
        self._is_closed = True
        how = record.data["how"]
        if how != "ended":
            left = len(self._agents)
            self._picture.note(
                f"the run {'was paused' if how == 'paused' else 'was stopped'} here;"
                f" {left} agents have not ended"
            )

    # -- agents ------------------------------------------------------------------------------------

    def _spawned(self, place: int, record: JournalRecord) -> None:
        data = record.data
        self._agents[record.agent] = _Agent(record.agent, data["name"], data["parent"], record.at)
        self._picture.take(ev.AgentSpawned(0, record.at, record.agent, data["parent"], data["name"]))
        self._picture.take(ev.AgentStarted(*self._of(record)))  # its slot came with its id

    def _restarted(self, place: int, record: JournalRecord) -> None:
        agent = self._agents[record.agent]
        self._leave_life(agent)
        agent.is_between = True
        life = record.data["life"]
        self._picture.restarted(record.agent, life, record.at)  # its slot, and so its life, comes later
        self._picture.note(f"{agent.name}: restarted ({life})", record.agent)

    def _shows_life(self, agent_id: AgentId, at: float) -> None:
        """Note that an agent does something, so that its next life has begun."""
        agent = self._agents.get(agent_id)
        if agent is not None and agent.is_between:
            agent.is_between = False
            self._picture.take(ev.AgentStarted(0, at, agent_id, agent.parent))

    def _leave_life(self, agent: _Agent) -> None:
        self._cut_calls(agent)
        agent.phase, agent.model, agent.replies = None, "", 0
        agent.tools.clear()
        agent.waits.clear()

    def _ended(self, place: int, record: JournalRecord) -> None:
        agent = self._agents.pop(record.agent)
        self._leave_life(agent)
        data = dict(record.data)
        if "value" in data or data.pop("unkept", None) is not None:
            data["value"] = None  # nobody looks at it
        outcome = self._outcome_of(data, record.agent, agent.name, agent.parent, agent.spawned_at)
        self._picture.take(ev.AgentFinished(*self._of(record), outcome))
        if not self._words:
            error = outcome.error if isinstance(outcome, Failed) else None
            self._picture.rows[record.agent].reason = "" if error is None else type(error).__name__

    # -- loops -------------------------------------------------------------------------------------

    def _begun(self, place: int, record: JournalRecord) -> None:
        agent = self._agents[record.agent]
        settings = _fields(_fields(record.data["manifest"])["model"])
        agent.model = settings["remote_model"] or settings["driver"] or ""
        agent.replies = 0
        self._enter_phase(place, record, "perceive")

    def _observed(self, place: int, record: JournalRecord) -> None:
        agent, data = self._agents[record.agent], record.data
        otherwise: ev.Phase | None = None
        match data["is"]:
            case "recalled":
                for message in data["messages"]:
                    self._taken(message["id"], record.at)
                otherwise = "reason"
            case "replied":
                agent.replies += 1
                answer = _fields(data["completion"])
                self._answered(agent, record, answer["text"])
                otherwise = "act" if _items(answer["tool_calls"]) else None
            case "compacted":
                self._answered(agent, record, "")
                self._picture.note(f"{agent.name}: its oldest messages were summed up", record.agent)
                otherwise = "reason"
            case "failed" | "idled":
                if agent.asked is not None:
                    self._model_call_ends(agent, record, agent.asked, NO_USAGE, is_answered=False)
                    agent.asked = None
                if data["is"] == "idled":
                    self._leave_tools(agent, record)
        self._enter_phase(place, record, otherwise)

    def _enter_phase(self, place: int, record: JournalRecord, otherwise: ev.Phase | None) -> None:
        """Begin what a loop does until its next record.

        Args:
          otherwise: what it does if there is none, and the journal ends.
        """
        agent = self._agents[record.agent]
        after = self._followed[place]
        if after == "idled":
            phase: ev.Phase | None = "act" if agent.tools or otherwise == "act" else "reason"
        elif after in ("cut", "over"):
            # A life that ended after an answer with tool calls did not make them.
            phase = None if after == "over" and otherwise == "act" and not agent.tools else otherwise
        else:
            phase = _PHASE_BEFORE[after]
        if phase is None:
            agent.phase = None
            self._picture.take(ev.LoopFinished(*self._of(record)))
            return
        is_next_turn = phase in ("perceive", "reason")
        turn = agent.replies + is_next_turn
        row = self._picture.rows.get(record.agent)
        if phase != agent.phase or row is None or row.iteration != turn:
            agent.phase = phase
            self._picture.take(ev.PhaseChanged(*self._of(record), phase, turn))
        if phase == "reason" and agent.asked is None and not agent.model_calls:
            agent.asked = self._model_call_begins(agent, record.at)

    # -- model calls -------------------------------------------------------------------------------

    def _model_call_begins(self, agent: _Agent, at: float) -> PastCall:
        self._asked_models += 1
        number, request = self._asked_models, CompletionRequest()  # the picture does not look at that
        self._picture.take(
            ev.ModelCallStarted(number, at, agent.id, agent.parent, request, agent.model, "", "", False)
        )
        return PastCall(agent.id, "model", agent.model, at, number=number)

    def _model_call_ends(
        self, agent: _Agent, record: JournalRecord, call: PastCall, usage: TokenUsage, *, is_answered: bool
    ) -> None:
        call.end, call.usage = record.at, usage
        self.result.calls.append(call)
        answer = Completion(usage=usage) if is_answered else None
        self._picture.take(
            ev.ModelCallFinished(*self._of(record), call.number, answer, None, False, 0.0, None)
        )

    def _reserved(self, place: int, record: JournalRecord) -> None:
        agent = self._agents.get(record.agent)
        if agent is None:
            return
        call, agent.asked = agent.asked, None
        agent.model_calls[record.data["n"]] = call or self._model_call_begins(agent, record.at)

    def _settled(self, place: int, record: JournalRecord) -> None:
        agent = self._agents.get(record.agent)
        if agent is None:
            return
        usage = TokenUsage(**record.data["usage"])
        call = agent.model_calls.pop(record.data["n"], None)
        if call is None:
            call, agent.asked = agent.asked, None
        if call is None:
            call = self._model_call_begins(agent, record.at)
            call.start = None
        self._model_call_ends(agent, record, call, usage, is_answered=bool(record.data["usage"]))

    def _answered(self, agent: _Agent, record: JournalRecord, text: str) -> None:
        if agent.asked is not None:  # its usage is not known
            self._model_call_ends(agent, record, agent.asked, NO_USAGE, is_answered=True)
            agent.asked = None
        if text and self._words:
            self._picture.take(ev.TextDeltaReceived(*self._of(record), text))

    def _cut_calls(self, agent: _Agent) -> None:
        """Keep the calls that are under way, without an end."""
        asked = [] if agent.asked is None else [agent.asked]
        tools = [past for _, past in agent.tools.values()]
        self.result.calls.extend((*agent.model_calls.values(), *asked, *tools))
        agent.model_calls.clear()
        agent.asked = None

    # -- tool calls --------------------------------------------------------------------------------

    def _called(self, place: int, record: JournalRecord) -> None:
        agent, data = self._agents[record.agent], record.data
        key = f"{data['loop']}t{data['n']}"
        if key not in agent.tools:  # else it is told once more, after it was cut off
            said = _fields(data["call"])
            call = ToolCall(said["id"], said["name"])
            past = PastCall(record.agent, "tool", call.name, record.at)
            past.arguments = said["input"] if self._words else None
            self._enter_phase(place, record, "act")
            agent.tools[key] = (call, past)
            self._picture.take(ev.ToolStarted(*self._of(record), call))

    def _returned(self, place: int, record: JournalRecord) -> None:
        agent, data = self._agents[record.agent], record.data
        call, past = agent.tools.pop(f"{data['loop']}t{data['n']}")
        past.end, past.failed = record.at, _fields(data["result"])["is_error"]
        self.result.calls.append(past)
        self._picture.take(ev.ToolFinished(*self._of(record), call, ToolResult(""), 0.0))
        self._enter_phase(place, record, "act" if agent.tools else None)

    def _leave_tools(self, agent: _Agent, record: JournalRecord) -> None:
        """The calls of a turn were ended, because nothing came."""
        for call, past in agent.tools.values():
            past.end = record.at
            self.result.calls.append(past)
            self._picture.take(ev.ToolFinished(*self._of(record), call, ToolResult(""), 0.0))
        agent.tools.clear()

    # -- messages ----------------------------------------------------------------------------------

    def _sent(self, place: int, record: JournalRecord) -> None:
        data = record.data
        message = AgentMessage(data["from"], record.agent, None, data["id"], None, None, data["ask"])
        self._message(message, record, "question" if data["ask"] else "message")

    def _message(
        self, message: AgentMessage, record: JournalRecord, kind: Literal["message", "question", "reply"]
    ) -> PastMessage:
        past = PastMessage(message.id, message.sender, message.to, kind, record.at)
        self.result.messages.append(past)
        self._messages[message.id] = past
        self._picture.take(ev.MessageSent(0, record.at, message.sender, SUPERVISOR, message))
        return past

    def _received(self, place: int, record: JournalRecord) -> None:
        self._taken(record.data["id"], record.at)

    def _taken(self, message_id: int, at: float) -> None:
        message = self._messages.get(message_id)
        if message is not None:  # else it is a message of another run, of which this one is a part
            message.received = at
            if message.kind == "message":
                del self._messages[message_id]

    def _replied(self, place: int, record: JournalRecord) -> None:
        data = record.data
        question = self._messages.pop(data["id"], None)
        to = SUPERVISOR if question is None else question.sender
        answer = AgentMessage(record.agent, to, None, data["reply"], data["id"])
        self._message(answer, record, "reply").received = record.at

    def _buried(self, place: int, record: JournalRecord) -> None:
        data = record.data
        past = self._messages.pop(data["id"], None)
        sender = SUPERVISOR
        if past is not None:
            sender, past.buried = past.sender, True
            past.received = None if past.kind == "reply" else past.received
        message = AgentMessage(sender, record.agent, None, data["id"])
        self._picture.take(ev.MessageDeadLettered(0, record.at, sender, SUPERVISOR, message, data["reason"]))

    # -- persons -----------------------------------------------------------------------------------

    def _asked(self, place: int, record: JournalRecord) -> None:
        agent, data = self._agents.get(record.agent), record.data
        said = _fields(data["call"])
        call = ToolCall(said["id"], said["name"])
        name = "" if agent is None else agent.name
        request = ApprovalRequest(record.agent, name, call, data["rule"], data["hash"])
        self._approvals[data["hash"]] = request
        self._picture.take(ev.ApprovalRequested(*self._of(record), request))

    def _decided(self, place: int, record: JournalRecord) -> None:
        data = record.data
        request = self._approvals.pop(data["hash"], None)
        if request is not None:
            reason = data["reason"] if self._words else ""
            decision = Approved() if data["approved"] else Denied(reason)
            event = ev.ApprovalDecided(0, record.at, request.agent_id, SUPERVISOR, request, decision)
            self._picture.take(event)

    @staticmethod
    def _of(record: JournalRecord) -> tuple[int, float, AgentId, AgentId]:
        """Return what an event begins with; the picture reads its number and its parent nowhere."""
        return 0, record.at, record.agent, SUPERVISOR


def _doer_of(record: JournalRecord) -> AgentId:
    """Return the agent that does what a record tells; 0 if none does."""
    match record.kind:
        case "spawned":
            doer: AgentId = record.data["by"]
        case "sent":
            doer = record.data["from"]
        case "restarted" | "buried" | "ended":
            doer = SUPERVISOR
        case _:
            doer = record.agent
    return doer


def _fields(data: Data) -> Data:
    """Return the fields of an object, as data."""
    fields: Data = data["$object"][1]
    return fields


def _items(data: Any) -> Sequence[Any]:
    """Return the items of a tuple, as data."""
    items: Sequence[Any] = data["$tuple"] if isinstance(data, dict) else data
    return items
