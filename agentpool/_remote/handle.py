"""Handles of agents, as code in a worker has them."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from agentpool._core.messages import AgentId
from agentpool._core.outcomes import Aborted, AgentOutcome, AnyOutcome, Completed
from agentpool._kernel.agent import AgentStatus
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.protection import protect_module
from agentpool._remote.codec import outcome_from_bytes
from agentpool._remote.line import Line

T_co = TypeVar("T_co", covariant=True)


class KeepsHandles(Line, Protocol):
    """The way to the head of the agent whose children they are.

    Attributes:
      handles: those that its code still has.
    """

    handles: WeakValueDictionary[AgentId, PlacedHandle[Any]]

    async def operate(self, verb: str, *args: Any) -> Any:
        """As `ask`, for an operation of the agent's code."""
        ...


class PlacedHandle(AgentHandle[T_co]):
    """The handle of an agent that is at the head, or in another worker.

    What it tells without waiting is what the head has told last: within about a second of the end of the
    agent, or with the next answer of the head.
    """

    __slots__ = ("__weakref__", "_id", "_is_seen", "_is_taken", "_line", "_name", "_outcome")

    def __init__(
        self, line: KeepsHandles, agent_id: AgentId, name: str, outcome: bytes | None = None
    ) -> None:
        self._line = line
        self._id = agent_id
        self._name = name
        self._outcome: Any = None if outcome is None else outcome_from_bytes(outcome, f"agent {agent_id}")
        self._is_taken = False
        self._is_seen = False
        line.handles[agent_id] = self

    def __repr__(self) -> str:
        return f"<AgentHandle of agent {self._id} ({self._name}), {self.status}>"

    @property
    def id(self) -> AgentId:
        """The agent's id, to which messages are sent."""
        return self._id

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._name

    @property
    def status(self) -> AgentStatus:
        """`running`, or how it ended, once the head has told that."""
        match self._outcome:
            case None:
                return "running"
            case Completed():
                return "completed"
            case Aborted():
                return "aborted"
            case _:
                return "failed"

    @property
    def outcome(self) -> AgentOutcome[T_co] | None:
        """How it ended; None until the head has told it. Reading a failure counts as having looked at it."""
        if self._outcome is not None and not self._is_seen:
            self._is_seen = True
            self._line.tell("seen", self._id)
        found: AgentOutcome[T_co] | None = self._outcome
        return found

    async def wait(self) -> AgentOutcome[T_co]:
        """Wait for the end of the agent, and return its outcome; as `AgentHandle.wait`."""
        data = await self._line.operate("wait", self._id)
        self._is_taken = self._is_seen = True
        # No data: a join, or another task of the agent, had it before.
        if self._outcome is None:
            self._outcome = outcome_from_bytes(data, f"agent {self._id}")
        found: AgentOutcome[T_co] = self._outcome
        return found

    async def result(self) -> T_co:
        """Wait for the end of the agent, and return its value; as `AgentHandle.result`."""
        return (await self.wait()).unwrap()

    def abort(self, reason: str | None = None) -> None:
        """End the agent at its next checkpoint, and its children; harmless after its end."""
        if self._outcome is None:
            self._line.tell("abort_child", self._id, reason)

    def ended(self, outcome: AnyOutcome) -> None:
        """The head has told how it ended."""
        if self._outcome is None:
            self._outcome = outcome

    def was_joined(self, outcome: AnyOutcome) -> None:
        """A join has handed its outcome out."""
        self.ended(outcome)
        self._is_taken = self._is_seen = True


protect_module(globals())
