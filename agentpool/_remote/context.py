"""The context of an agent that runs in a worker: what it asks of its pool goes up to the head."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, TypeVarTuple

import attrs

from agentpool._core.errors import PoolLimitError
from agentpool._core.messages import AgentId, AgentMessage, check_reply
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.restart import RestartPolicy
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.context import AgentContext, Subscription
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.idleness import heard_of
from agentpool._kernel.options import check_agent, check_agents, options_of
from agentpool._kernel.places import give_back
from agentpool._kernel.protection import protect_module
from agentpool._kernel.state import PoolState
from agentpool._kernel.topics import plain_topic
from agentpool._remote.batches import PlacedMany
from agentpool._remote.codec import outcome_from_bytes
from agentpool._remote.handle import PlacedHandle
from agentpool._remote.inbox import PlacedInbox, no_synchronous
from agentpool._remote.leases import LeasedMeter
from agentpool._remote.models import PlacedMeans, RemoteMeans
from agentpool._remote.worker_line import HEAD, WorkerLine

if TYPE_CHECKING:
    from agentpool._remote.worker_journal import WorkerJournal
    from agentpool.abc import Driver

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741
Ts = TypeVarTuple("Ts")


class Host(Protocol):
    """What the contexts of a worker share.

    Attributes:
      is_closing, is_draining: whether the pool's block has ended, or it drains.
      holds_up: whether a subscriber has agents wait when it is slow.
      driver: the worker's own; None if models are asked by the head.
    """

    is_closing: bool
    is_draining: bool
    holds_up: bool
    driver: Driver | None

    async def room(self) -> None:
        """Wait until little enough waits to be told to the head; not a checkpoint if it does."""


class PlacedContext(PlacedMany, PlacedMeans, AgentContext):
    """The context of an agent that runs in a worker.

    Its verbs are performed at the head, by the agent that stands for it there. What waits does so as there.
    Verbs that cannot wait and need an answer raise `RuntimeError`, and tell what to write.
    """

    __slots__ = ("_host", "_line", "_means")

    def __init__(self, state: PoolState, record: AgentRecord, line: WorkerLine, host: Host) -> None:
        super().__init__(state, record)
        self._line = line
        self._host = host
        self._means = RemoteMeans(line, line.facts.models, state, record, host.driver, LeasedMeter)

    def __repr__(self) -> str:
        return f"<PlacedContext of agent {self.id} ({self.name})>"

    @property
    def journal(self) -> WorkerJournal | None:
        """The pool's journal, as the agent's code meets it; None without one."""
        return self._line.journal

    # -- who -----------------------------------------------------------------------------------------

    @property
    def parent_id(self) -> AgentId:
        """The id of the agent that spawned it; 0 for the supervisor."""
        return self._line.facts.parent_id

    @property
    def depth(self) -> int:
        """How many agents stand between it and the pool: 0 for those that the pool spawned."""
        return self._line.facts.depth

    @property
    def max_concurrent(self) -> int:
        """How many agents ran at once at the most in its pool when it was started."""
        return self._line.facts.max_concurrent

    @property
    def closing(self) -> bool:
        """Whether the pool's block has ended or drains; known here within about a second."""
        return self._line.facts.is_closing or self._host.is_closing

    @property
    def draining(self) -> bool:
        """Whether the pool starts no more agents; known here within about a second."""
        return self._line.facts.is_draining or self._host.is_draining

    # -- messages --------------------------------------------------------------------------------------

    @property
    def inbox(self) -> PlacedInbox:  # type: ignore[override]  # it has what an agent may use of an inbox
        """The agent's messages; `async for message in ctx.inbox` receives until it ends."""
        return PlacedInbox(self)

    async def send(self, to: AgentId | str, content: Any) -> None:
        """Deliver a message to an agent's inbox, waiting for room; as `AgentContext.send`."""
        await self._line.operate("send", to, content)

    def send_nowait(self, to: AgentId | str, content: Any) -> NoReturn:
        """Raise `RuntimeError`: whether there is room is known at the head."""
        raise no_synchronous("send_nowait()", "`await ctx.send(to, content)`")

    async def ask(self, to: AgentId | str, content: Any) -> Any:
        """Deliver a question, and return the content of its reply; as `AgentContext.ask`."""
        return await self._line.operate("ask", to, content)

    def find(self, name: str) -> NoReturn:
        """Raise `RuntimeError`: names are known at the head."""
        raise no_synchronous("find()", "`await ctx.send(name, content)`, or `ask`: they take names")

    def receive(self) -> Coroutine[Any, Any, AgentMessage]:
        """Take the oldest message, waiting for one; as `AgentContext.receive`."""
        return self._receive(False)

    def receive_for_model(self) -> Coroutine[Any, Any, AgentMessage]:
        """As `receive`, for a model; as `AgentContext.receive_for_model`."""
        return self._receive(True)

    async def _receive(self, unless_silent: bool) -> AgentMessage:
        message: AgentMessage = await self._line.operate("receive", unless_silent)
        heard_of(self._agent)
        return message

    def receive_nowait(self) -> NoReturn:
        """Raise `RuntimeError`: the messages are at the head."""
        PlacedInbox(self).receive_nowait()

    def reply(self, message: AgentMessage, content: Any) -> None:
        """Answer a question that the agent received; does not block; as `AgentContext.reply`.

        Raises:
          TypeError: if it is no message, or the content cannot be sent to another process.
          ValueError: if the message was sent to somebody else.
        """
        check_reply(self.id, message)
        self._line.tell("reply", attrs.evolve(message, content=None), content, op=self._line.draw())

    def question(self, message_id: int) -> NoReturn:
        """Raise `RuntimeError`: who waits for a reply is known at the head."""
        raise no_synchronous("question()", "`ctx.reply(message, content)` with the message itself")

    async def broadcast(self, content: Any) -> int:
        """Send the same to every other live agent; as `AgentContext.broadcast`."""
        count: int = await self._line.operate("broadcast", content)
        return count

    async def publish(self, topic: str, content: Any) -> int:
        """Send something to the subscribers of a topic; as `AgentContext.publish`."""
        count: int = await self._line.operate("publish", topic, content)
        return count

    def subscribe(self, topic: str) -> Subscription:
        """From what the agent asks for next on, have what is published on a topic delivered to its inbox.

        Raises:
          TypeError: if the topic is no string.
        """
        topic = plain_topic(topic)
        self._line.tell("subscribe", topic)
        return Subscription(self, topic)

    def unsubscribe(self, topic: str) -> None:
        """Undo `subscribe`; harmless if there is nothing to undo.

        Raises:
          TypeError: if the topic is no string.
        """
        self._line.tell("unsubscribe", plain_topic(topic))

    # -- children --------------------------------------------------------------------------------------

    async def spawn(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> AgentHandle[T]:
        """Start an agent as a child of this one, at the head, or in a worker if it is marked with `placed`.

        As `AgentContext.spawn`. The context variables of this process do not come along.

        Raises:
          TypeError: if the agent or an argument cannot be sent to another process.
        """
        check_agent(agent)
        options_of(name, timeout, restart)
        line = self._line
        found = await line.start_agents(line.draw(), "spawn", agent, args, name, timeout, restart)
        return PlacedHandle(line, *found)

    def spawn_nowait(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> AgentHandle[T]:
        """Raise `RuntimeError`: whether a slot is free is known at the head."""
        raise no_synchronous("spawn_nowait()", "`await ctx.spawn(agent, ...)`")

    async def spawn_for_model(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
    ) -> AgentHandle[T]:
        """Start an agent that a model asked for; as `AgentContext.spawn_for_model`."""
        check_agent(agent)
        options_of(name, timeout)
        line = self._line
        op = line.draw()
        try:
            found = await line.start_agents(op, "spawn_for_model", agent, args, name, timeout)
        except PoolLimitError as error:
            if error.limit == "model_spawns":
                give_back(op)  # it was refused before it came to a spawn
            raise
        return PlacedHandle(line, *found)

    async def fan_out(
        self, configs: Iterable[Callable[[AgentContext], Awaitable[T]]]
    ) -> list[AgentHandle[T]]:
        """Start several agents, in their order, waiting for slots; as `AgentContext.fan_out`."""
        configs = tuple(configs)
        check_agents(configs)
        return [await self.spawn(config) for config in configs]

    def _outcome(self, data: bytes) -> AnyOutcome:
        outcome = outcome_from_bytes(data, HEAD)
        handle = self._line.handles.get(outcome.agent_id)
        if handle is not None:
            handle.was_joined(outcome)
        return outcome

    async def join_next(self) -> AnyOutcome | None:
        """Wait for the next direct child to end, and return its outcome; as `AgentContext.join_next`."""
        data = await self._line.operate("join_next")
        return None if data is None else self._outcome(data)

    async def join_all(self) -> dict[AgentId, AnyOutcome]:
        """Wait until no direct child is left, and return their outcomes; as `AgentContext.join_all`."""
        outcomes = [self._outcome(data) for data in await self._line.operate("join_all")]
        return {outcome.agent_id: outcome for outcome in outcomes}

    def abort_all(self, reason: str | None = None) -> None:
        """Abort the agents of this scope. Does not wait. The scope stays usable."""
        self._line.tell("abort_all", reason)

    # -- events ----------------------------------------------------------------------------------------

    async def wait_for_subscribers(self) -> None:
        """Wait until every subscriber with `overflow="block"` has room, and the way to the head has."""
        await self._host.room()
        if self._host.holds_up:
            await self._line.ask("wait_for_subscribers")


protect_module(globals())
