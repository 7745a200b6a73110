"""What a run had come to when its journal ended: a fold over its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._core.records import JournalRecord, RecordKind
from agentpool._core.usage import NO_USAGE, TokenUsage

Data = Mapping[str, Any]


@attrs.frozen
class Operation:
    """An operation of an agent's code that has its result.

    Attributes:
      kind: what it was, such as `spawn`, `send` or `step`.
      value: what it came to, as data.
      at: when, in seconds into the run.
    """

    kind: str
    value: Any = None
    at: float = 0.0


@attrs.define
class PastCall:
    """A tool call of which the journal tells.

    Attributes:
      call: the call, as data.
      result: what it came to, as data; None if that is not known.
      made: what a hook had called in its place, as data: one call, or none; None if it was made as it is.
      seen: the versions of things that its agent had seen when it ended, and that were not told before.
    """

    call: Data
    result: Data | None = None
    made: Sequence[Data] | None = None
    seen: Mapping[str, str] = attrs.field(factory=dict)

    def returned(self, data: Data) -> None:
        """Take in what its end tells."""
        self.result = data["result"]
        self.made = data.get("made", self.made)
        self.seen = data.get("seen", {})


@attrs.define
class PastLoop:
    """One run of the loop of a model agent.

    Attributes:
      begun: what it began with, as data; None if that is not known.
      observed: what it was told, in order.
      calls: its tool calls, by their number.
    """

    begun: Data | None = None
    observed: list[Data] = attrs.field(factory=list)
    calls: dict[int, PastCall] = attrs.field(factory=dict)

    @property
    def collected(self) -> int:
        """How often it was told of the agents that it had started."""
        return sum(data["is"] == "collected" for data in self.observed)


@attrs.define
class Spent:
    """What model calls took of budgets, in the smallest units: tokens, picodollars, calls."""

    tokens: int = 0
    cost: int = 0
    calls: int = 0

    def add(self, tokens: int, cost: int, calls: int) -> None:
        """Count more."""
        self.tokens += tokens
        self.cost += cost
        self.calls += calls


@attrs.define
class PastAgent:
    """What became of one agent.

    Attributes:
      id, name, parent: whose record this is, and who spawned it; 0 for the program.
      origin: which operation spawned it: of which agent, in which life of it, and its key there; the
        program is 0, and its operations have no keys.
      work: what it is, and its arguments, as data; what cannot be found again is None.
      options: how it was started, as data.
      context: what was kept of its spawner's context, as data; None if there was nothing.
      spawned_at: seconds into the run.
      life: how often it was started afresh.
      restarted_at: when, in seconds into the run.
      operations: those of this life that have their results, by key.
      loops: the runs of the loop in this life, by key.
      inbox: the messages in its inbox, by id, in the order of their arrival.
      topics: what it hears.
      usage: of its own model calls.
      spent: what its calls and those of all below it took of budgets.
      outcome: how it ended, as data; None if it had not.
      is_taken: whether its parent was given its outcome.
    """

    id: AgentId
    name: str
    parent: AgentId
    origin: tuple[AgentId, int, str | None]
    work: Data
    options: Data
    spawned_at: float
    context: Data | None = None
    life: int = 0
    restarted_at: list[float] = attrs.field(factory=list)
    operations: dict[str, Operation] = attrs.field(factory=dict)
    loops: dict[str, PastLoop] = attrs.field(factory=dict)
    inbox: dict[int, Data] = attrs.field(factory=dict)
    topics: dict[str, None] = attrs.field(factory=dict)
    usage: TokenUsage = NO_USAGE
    spent: Spent = attrs.field(factory=Spent)
    outcome: Data | None = None
    is_taken: bool = False

    @property
    def is_of_batch(self) -> bool:
        """Whether a verb such as `map` or `race` spawned it with others, and gets its outcome."""
        return "." in (self.origin[2] or "").rpartition("/")[2]

    def is_in_finished_call(self, key: str) -> bool:
        """Whether an operation stands in a step or a tool call that has its result, and is not done again.

        Or in a wait for the agents that a model started, of which the model was told.
        """
        above = key.rpartition("/")[0]
        while above:
            if above in self.operations:
                return True
            above = above.rpartition("/")[0]
        for loop_key, loop in self.loops.items():
            if key.startswith(f"{loop_key}t"):
                number = key[len(loop_key) + 1 :].partition("/")[0]
                if number.startswith("c"):
                    return loop.collected >= int(number[1:])
                call = loop.calls.get(int(number)) if number.isdecimal() else None
                if call is not None:
                    return call.result is not None
        return False

    def was_told_of(self, agent_id: AgentId) -> bool:
        """Whether it had waited for the end of an agent in something that is not done again."""
        return any(
            operation.kind == "wait" and operation.value == agent_id and self.is_in_finished_call(key)
            for key, operation in self.operations.items()
        )

    def loop(self, key: str) -> PastLoop:
        """Return the run of the loop of that key."""
        return self.loops.setdefault(key, PastLoop())


@attrs.define
class PastApproval:
    """A tool call that a person is asked about.

    Attributes:
      asked: what is asked, as data.
      decided: the answer, as data; None if there is none.
    """

    asked: Data
    decided: Data | None = None


@attrs.define
class Past:
    """What a run had come to.

    Attributes:
      run: what its first record tells: its settings, its fleet.
      elapsed: seconds that it had worked.
      agents: all of them, by id.
      ended: the ids of those that have an outcome, in the order of their ends.
      roots: the ids of those that the program spawned, in the order in which it did.
      spent: what all model calls took of the budgets.
      usage: of all model calls.
      approvals: by the hash of the call.
      last_id: the highest id of an agent.
      last_message: the highest id of a message.
      last_call: the highest number of a model call.
      closed: how the run was left; empty if its process died.
      questions: those without an answer, by their messages: who asked, in which life, by which operation.
    """

    run: Data = attrs.field(factory=dict)
    elapsed: float = 0.0
    agents: dict[AgentId, PastAgent] = attrs.field(factory=dict)
    ended: list[AgentId] = attrs.field(factory=list)
    roots: list[AgentId] = attrs.field(factory=list)
    spent: Spent = attrs.field(factory=Spent)
    usage: TokenUsage = NO_USAGE
    approvals: dict[str, PastApproval] = attrs.field(factory=dict)
    last_id: AgentId = SUPERVISOR
    last_message: int = 0
    last_call: int = 0
    closed: str = ""
    questions: dict[int, tuple[AgentId, int, str]] = attrs.field(factory=dict)
    # Model calls that were under way: what is set aside for them, and for whom.
    _reserved: dict[int, tuple[AgentId, Data]] = attrs.field(factory=dict)

    def take(self, record: JournalRecord) -> None:
        """Add what one record tells.

        Raises:
          KeyError, TypeError, ValueError: if it does not fit those before it.
        """
        self.elapsed = max(self.elapsed, record.at)
        _TAKERS[record.kind](self, record)

    def settle_what_is_open(self) -> None:
        """Count what was set aside for calls that were under way as spent: nobody knows what they used."""
        for agent_id, data in self._reserved.values():
            self._spend(agent_id, data)
        self._reserved.clear()

    def _spend(self, agent_id: AgentId, data: Data) -> None:
        """Count what a call took: of all budgets, and beside that of those above the agent's own."""
        took, slack = data["took"], data["slack"]
        agent = self.agents.get(agent_id)
        if agent is not None:
            agent.spent.add(*took)
            agent = self.agents.get(agent.parent)
        whole = [one + other for one, other in zip(took, slack, strict=True)]
        while agent is not None:
            agent.spent.add(*whole)
            agent = self.agents.get(agent.parent)
        self.spent.add(*whole)

    def asker_of(self, question: int, agent_id: AgentId) -> AgentId | None:
        """Return who had asked an agent, and will wait for the answer again; None if nobody will."""
        asker, life, key = self.questions.get(question, (SUPERVISOR, 0, ""))
        past = self.agents.get(asker)
        asked = None if past is None or past.life != life else past.operations.get(key)
        return asker if asked is not None and asked.value["to"] == agent_id else None

    def _operated(self, agent_id: AgentId, data: Data, operation: Operation) -> None:
        agent = self.agents.get(agent_id)
        if agent is not None and data.get("key") is not None and data["life"] == agent.life:
            # In the order in which they came to something: an ask, when it had its answer.
            agent.operations.pop(data["key"], None)
            agent.operations[data["key"]] = operation
        for taken in _taken_by(operation):
            self.agents[taken].is_taken = True


def _taken_by(operation: Operation) -> Iterable[AgentId]:
    """Return the agents whose outcomes an operation gave to their parent."""
    if operation.value is None or operation.kind not in ("join", "join_all", "take", "wait"):
        return ()
    return operation.value if operation.kind == "join_all" else (operation.value,)


def past_of(records: Iterable[JournalRecord]) -> Past:
    """Return what a run had come to.

    Raises:
      ValueError: if a record does not fit those before it.
    """
    past = Past()
    for number, record in enumerate(records, 1):
        try:
            past.take(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"record {number} ({record.kind}) does not fit: {error!r}") from error
    past.settle_what_is_open()
    return past


# -- what each kind of record changes ----------------------------------------------------------


def _run(past: Past, record: JournalRecord) -> None:
    past.run = record.data


def _resumed(past: Past, record: JournalRecord) -> None:
    past.closed = ""
    # Who resumed it counted what was under way as spent.
    past.settle_what_is_open()


def _spawned(past: Past, record: JournalRecord) -> None:
    data = record.data
    agent = PastAgent(
        record.agent,
        data["name"],
        data["parent"],
        (data["by"], data["life"], data["key"]),
        data["work"],
        data["options"],
        record.at,
        data.get("context"),
    )
    past.agents[record.agent] = agent
    past.last_id = max(past.last_id, record.agent)
    if data["by"] == SUPERVISOR:
        past.roots.append(agent.id)
    past._operated(data["by"], data, Operation("spawn", agent.id, record.at))


def _restarted(past: Past, record: JournalRecord) -> None:
    agent = past.agents[record.agent]
    agent.life = record.data["life"]
    agent.operations.clear()
    agent.loops.clear()
    agent.restarted_at.append(record.at)


def _begun(past: Past, record: JournalRecord) -> None:
    past.agents[record.agent].loop(record.data["loop"]).begun = record.data


def _observed(past: Past, record: JournalRecord) -> None:
    agent = past.agents[record.agent]
    agent.loop(record.data["loop"]).observed.append(record.data)
    for message in record.data.get("messages", ()):  # the loop took them; in a new run from a step, another's
        agent.inbox.pop(message["id"], None)


def _called(past: Past, record: JournalRecord) -> None:
    data = record.data
    past.agents[record.agent].loop(data["loop"]).calls[data["n"]] = PastCall(
        data["call"], made=data.get("made")
    )


def _returned(past: Past, record: JournalRecord) -> None:
    data = record.data
    past.agents[record.agent].loop(data["loop"]).calls[data["n"]].returned(data)


def _operated(past: Past, record: JournalRecord) -> None:
    data = record.data
    past._operated(record.agent, data, Operation(data["kind"], data["value"], record.at))
    if data["kind"] == "left":  # a question that is not waited for any more
        past.questions.pop(data["value"], None)


def _sent(past: Past, record: JournalRecord) -> None:
    data = record.data
    past.last_message = max(past.last_message, data["id"])
    recipient = past.agents.get(record.agent)
    if recipient is not None:
        recipient.inbox[data["id"]] = data
    kind = "ask" if data["ask"] else "send"
    value = {"id": data["id"], "to": record.agent}
    past._operated(data["from"], data, Operation(kind, value, record.at))
    if data["ask"] and data["key"] is not None:
        past.questions[data["id"]] = (data["from"], data["life"], data["key"])


def _received(past: Past, record: JournalRecord) -> None:
    data = record.data
    message = past.agents[record.agent].inbox.pop(data["id"])
    past._operated(record.agent, data, Operation("receive", message, record.at))


def _replied(past: Past, record: JournalRecord) -> None:
    data = record.data
    past.last_message = max(past.last_message, data["reply"])
    past._operated(record.agent, data, Operation("reply", None, record.at))
    question = past.questions.pop(data["id"], None)
    if question is None:
        return
    asker, life, key = question
    answer = {"id": data["id"], "to": record.agent, "content": data["content"]}
    past._operated(asker, {"life": life, "key": key}, Operation("ask", answer, record.at))


def _buried(past: Past, record: JournalRecord) -> None:
    recipient = past.agents.get(record.agent)
    if recipient is not None:
        recipient.inbox.pop(record.data["id"], None)


def _listened(past: Past, record: JournalRecord) -> None:
    topics = past.agents[record.agent].topics
    if record.data["on"]:
        topics[record.data["topic"]] = None
    else:
        topics.pop(record.data["topic"], None)


def _reserved(past: Past, record: JournalRecord) -> None:
    past.last_call = max(past.last_call, record.data["n"])
    past._reserved[record.data["n"]] = (record.agent, record.data)


def _settled(past: Past, record: JournalRecord) -> None:
    data = record.data
    past.last_call = max(past.last_call, data["n"])
    past._reserved.pop(data["n"], None)
    past._spend(record.agent, data)
    usage = TokenUsage(**data["usage"])
    past.usage += usage
    agent = past.agents.get(record.agent)
    if agent is not None:
        agent.usage += usage


def _asked(past: Past, record: JournalRecord) -> None:
    past.approvals.setdefault(record.data["hash"], PastApproval(record.data))


def _decided(past: Past, record: JournalRecord) -> None:
    past.approvals[record.data["hash"]].decided = record.data


def _ended(past: Past, record: JournalRecord) -> None:
    agent = past.agents[record.agent]
    agent.outcome = record.data
    past.ended.append(agent.id)
    # What is not needed any more: a long run has many agents, most of which have ended.
    agent.operations.clear()
    agent.loops.clear()
    agent.inbox.clear()
    agent.topics.clear()


def _closed(past: Past, record: JournalRecord) -> None:
    past.closed = record.data["how"]


_TAKERS: Mapping[RecordKind, Callable[[Past, JournalRecord], None]] = {
    "run": _run,
    "resumed": _resumed,
    "spawned": _spawned,
    "restarted": _restarted,
    "begun": _begun,
    "observed": _observed,
    "reserved": _reserved,
    "settled": _settled,
    "called": _called,
    "returned": _returned,
    "operated": _operated,
    "sent": _sent,
    "received": _received,
    "replied": _replied,
    "buried": _buried,
    "listened": _listened,
    "asked": _asked,
    "decided": _decided,
    "ended": _ended,
    "closed": _closed,
}
