"""What a fold over a journal has to know before it comes to a record: what each loop does, and who waits.

A record tells when something came to an end: an answer, a result, a wait. What an agent did until then
is known from the record that ends it. So the records are gone through once before they are folded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._core.records import JournalRecord

LoopEnd: TypeAlias = Literal["cut", "over"]
"""What came after the last record of a loop: nothing, or the end of its agent's life."""


@attrs.frozen
class Wait:
    """A wait of an agent for others.

    Attributes:
      start, end: seconds into the run; the end is None if the journal ends before.
      agent: who waits.
      key: by which operation.
      targets: for whom; empty for anybody.
    """

    start: float
    end: float | None
    agent: AgentId
    key: str
    targets: tuple[AgentId, ...]


def what_followed(records: Sequence[JournalRecord]) -> Mapping[int, str]:
    """Return for each record of a loop, by its place in the journal, what its loop came to next.

    That is the kind of the next record of the same loop, and of one that was `observed` what it was; or a
    `LoopEnd`.
    """
    found: dict[int, str] = {}
    following: dict[AgentId, dict[str, str]] = {}
    ended: set[AgentId] = set()
    for place in range(len(records) - 1, -1, -1):
        record = records[place]
        if record.kind in ("ended", "restarted"):
            ended.add(record.agent)
            following.pop(record.agent, None)
        elif record.kind in ("begun", "observed", "called", "returned"):
            of_agent = following.setdefault(record.agent, {})
            loop = record.data["loop"]
            found[place] = of_agent.get(loop) or ("over" if record.agent in ended else "cut")
            of_agent[loop] = record.data["is"] if record.kind == "observed" else record.kind
    return found


def path_of(key: str) -> str:
    """Return where the code stands that does an operation."""
    return key[: key.rfind("/") + 1]


@attrs.define
class _Batch:
    """Agents that one verb spawned, such as `map`, which waits for them.

    Attributes:
      key: of the verb.
      start: when the first was spawned.
      agents: who they are.
      left: how many have not ended.
      last_end: when the last one ended.
    """

    key: str
    start: float
    agents: list[AgentId] = attrs.field(factory=list)
    left: int = 0
    last_end: float = 0.0


@attrs.define
class Waits:
    """Finds the waits of which a journal tells.

    The end of a question is in the journal, and so is its beginning. Of `map` and its like it has when the
    agents that they wait for were spawned and ended. Of other waits only the end is there: they are taken to
    begin with the last operation of the same code, and to end when what they waited for came. What had come
    before that needed no wait.
    """

    found: list[Wait] = attrs.field(factory=list)
    # When the code of an agent last did something, by where it stands; "" is its body.
    _last: dict[AgentId, dict[str, float]] = attrs.field(factory=dict)
    _sent: dict[int, float] = attrs.field(factory=dict)
    _ended: dict[AgentId, float] = attrs.field(factory=dict)
    # Questions without an answer, by their messages.
    _asked: dict[int, Wait] = attrs.field(factory=dict)
    _asked_by: dict[AgentId, dict[str, int]] = attrs.field(factory=dict)
    # The verb in which the code of an agent is that has spawned several, by where it stands.
    _batches: dict[AgentId, dict[str, _Batch]] = attrs.field(factory=dict)
    _batch_of: dict[AgentId, _Batch] = attrs.field(factory=dict)
    # Verbs that give outcomes one after the other: between them the code does what it likes.
    _streams: set[tuple[AgentId, str]] = attrs.field(factory=set)

    def take(self, record: JournalRecord) -> None:
        """Take a record in."""
        data, at, agent = record.data, record.at, record.agent
        match record.kind:
            case "spawned":
                self._begins(agent, at)
                self._did(data["by"], data["key"], at)
                if data["key"] is not None and "." in _last_of(data["key"]):
                    self._spawned_in_batch(data["by"], data["key"], agent, at)
            case "restarted":
                self._leaves(agent, at)
                self._begins(agent, at)
            case "begun" | "observed":
                self._did(agent, data["loop"], at)
            case "called":
                self._did(agent, f"{data['loop']}t{data['n']}/", at)
            case "sent":
                self._sent[data["id"]] = at
                self._did(data["from"], data["key"], at)
                if data["ask"] and data["key"] is not None:
                    self._asks(data["id"], Wait(at, None, data["from"], data["key"], (agent,)))
            case "received":
                self._waited(agent, data["key"], at, (), self._sent.pop(data["id"], None))
            case "replied":
                self._did(agent, data["key"], at)
                self._answered(data["id"], at)
            case "operated":
                self._operated(agent, data, at)
            case "ended":
                self._ended[agent] = at
                self._leaves(agent, at)
                batch = self._batch_of.pop(agent, None)
                if batch is not None:
                    batch.left -= 1
                    batch.last_end = at

    def close(self) -> None:
        """Take the end of the journal in: what is open stays so."""
        self.found.extend(self._asked.values())
        for agent, batches in self._batches.items():
            for batch in batches.values():
                end = None if batch.left else batch.last_end
                self.found.append(Wait(batch.start, end, agent, batch.key, tuple(batch.agents)))

    def _operated(self, agent: AgentId, data: Mapping[str, Any], at: float) -> None:
        value = data["value"]
        question = self._asked_by.get(agent, {}).get(data["key"])
        if question is not None:  # it was left, or has failed
            self._answered(question, at)
        match data["kind"]:
            case "take":
                self._streams.add((agent, _verb_of(data["key"])))
                self._batches.get(agent, {}).pop(path_of(data["key"]), None)
                self._waited(agent, data["key"], at, (value,), self._ended.get(value))
            case "wait" | "join" if value is not None:
                self._waited(agent, data["key"], at, (value,), self._ended.get(value))
            case "join_all" if value:
                since = self._since(agent, data["key"])
                late = tuple(each for each in value if self._ended.get(each, 0.0) > since)
                self._waited(agent, data["key"], at, late, max(self._ended.get(each, 0.0) for each in value))
            case _:
                self._did(agent, data["key"], at)

    def _waited(
        self, agent: AgentId, key: str | None, at: float, targets: tuple[AgentId, ...], came: float | None
    ) -> None:
        """An operation came to what an agent, or a message, had come to at a time."""
        if key is None:
            return
        since = self._since(agent, key)
        if came is not None and came > since:
            self.found.append(Wait(since, came, agent, key, targets))
        self._did(agent, key, at)

    def _since(self, agent: AgentId, key: str) -> float:
        last = self._last[agent]
        return last.get(path_of(key), max(last.values()))

    def _did(self, agent: AgentId, key: str | None, at: float) -> None:
        if agent == SUPERVISOR or key is None:
            return
        path = path_of(key)
        self._last[agent][path] = at
        batch = self._batches.get(agent, {}).get(path)
        if batch is not None and _verb_of(key) != batch.key:
            self._leaves_batch(agent, path, at)

    def _spawned_in_batch(self, agent: AgentId, key: str, child: AgentId, at: float) -> None:
        if (agent, _verb_of(key)) in self._streams:
            return
        batches = self._batches.setdefault(agent, {})
        batch = batches.get(path_of(key))
        if batch is None:
            batch = batches[path_of(key)] = _Batch(_verb_of(key), at)
        batch.agents.append(child)
        batch.left += 1
        self._batch_of[child] = batch

    def _leaves_batch(self, agent: AgentId, path: str, at: float) -> None:
        batch = self._batches[agent].pop(path)
        end = at if batch.left else batch.last_end
        self.found.append(Wait(batch.start, end, agent, batch.key, tuple(batch.agents)))

    def _begins(self, agent: AgentId, at: float) -> None:
        self._last[agent] = {"": at}

    def _asks(self, question: int, wait: Wait) -> None:
        before = self._asked_by.get(wait.agent, {}).get(wait.key)
        if before is not None:  # to the next life of the same name
            self._answered(before, wait.start)
        self._asked[question] = wait
        self._asked_by.setdefault(wait.agent, {})[wait.key] = question

    def _answered(self, question: int, at: float) -> None:
        wait = self._asked.pop(question, None)
        if wait is not None:
            self._asked_by[wait.agent].pop(wait.key)
            self.found.append(attrs.evolve(wait, end=at))
            self._did(wait.agent, wait.key, at)

    def _leaves(self, agent: AgentId, at: float) -> None:
        """A life of an agent is over: it waits for no answer any more."""
        for question in list(self._asked_by.pop(agent, {}).values()):
            wait = self._asked.pop(question)
            self.found.append(attrs.evolve(wait, end=at))
        for path in list(self._batches.get(agent, ())):
            self._leaves_batch(agent, path, at)


def _last_of(key: str) -> str:
    return key[key.rfind("/") + 1 :]


def _verb_of(key: str) -> str:
    """Return the key of the verb of which an operation is an item."""
    return path_of(key) + _last_of(key).partition(".")[0]


def waits_of(records: Sequence[JournalRecord]) -> Sequence[Wait]:
    """Return the waits of which a journal tells, in the order in which they ended."""
    waits = Waits()
    for record in records:
        waits.take(record)
    waits.close()
    return waits.found
