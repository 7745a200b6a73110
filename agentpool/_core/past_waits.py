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
class Waits:
    """Finds the waits of which a journal tells.

    The end of a question is in the journal, and so is its beginning. Of other waits only the end is: they
    are taken to begin with the last operation of the same code, and to end when what they waited for came.
    What had come before that needed no wait.
    """

    found: list[Wait] = attrs.field(factory=list)
    # When the code of an agent last did something, by where it stands; "" is its body.
    _last: dict[AgentId, dict[str, float]] = attrs.field(factory=dict)
    _sent: dict[int, float] = attrs.field(factory=dict)
    _ended: dict[AgentId, float] = attrs.field(factory=dict)
    # Questions without an answer, by their messages.
    _asked: dict[int, Wait] = attrs.field(factory=dict)
    _asked_by: dict[AgentId, dict[str, int]] = attrs.field(factory=dict)

    def take(self, record: JournalRecord) -> None:
        """Take a record in."""
        data, at, agent = record.data, record.at, record.agent
        match record.kind:
            case "spawned":
                self._begins(agent, at)
                self._did(data["by"], data["key"], at)
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

    def close(self) -> None:
        """Take the end of the journal in: what is open stays so."""
        self.found.extend(self._asked.values())
        self._asked.clear()

    def _operated(self, agent: AgentId, data: Mapping[str, Any], at: float) -> None:
        value = data["value"]
        question = self._asked_by.get(agent, {}).get(data["key"])
        if question is not None:  # it was left, or has failed
            self._answered(question, at)
        match data["kind"]:
            case "wait" | "join" | "take" if value is not None:
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
        if agent != SUPERVISOR and key is not None:
            self._last[agent][path_of(key)] = at

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


def waits_of(records: Sequence[JournalRecord]) -> Sequence[Wait]:
    """Return the waits of which a journal tells, in the order in which they ended."""
    waits = Waits()
    for record in records:
        waits.take(record)
    waits.close()
    return waits.found
