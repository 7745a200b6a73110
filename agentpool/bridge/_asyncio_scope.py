"""The verbs of a scope for programs on asyncio, shared by pools and by contexts of asyncio agents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Hashable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar, TypeVarTuple

import trio

from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AgentOutcome, AnyOutcome
from agentpool._core.restart import RestartPolicy
from agentpool._kernel.agent import AgentStatus
from agentpool._kernel.context import AgentContext
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.many import Verdict
from agentpool._kernel.scope import Scope
from agentpool.bridge._asyncio_calls import Door, EnteredBlock, enter, input_for_trio, perform
from agentpool.bridge._calls import Call, call_now, call_soon
from agentpool.bridge._seat import current_seat

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
I = TypeVar("I")  # noqa: E741
Ts = TypeVarTuple("Ts")


class Line:
    """The way from tasks of asyncio to a pool on trio.

    What an agent of the pool asks for over there, its own task here performs, so that it waits as an
    agent does. What anybody else asks for, the pool's program does.
    """

    @property
    @abstractmethod
    def token(self) -> trio.lowlevel.TrioToken:
        """Of the run of trio in which the pool is."""

    @abstractmethod
    def post(self, call: Call[Any]) -> None:
        """Have an operation begun that no agent asks for."""

    def soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Call a function on trio that neither waits nor raises, and do not wait for it."""
        call_soon(self.token, fn, *args)

    def now(self, fn: Callable[..., T], *args: Any) -> T:
        """Call a function on trio that does not wait, as `_calls.call_now`."""
        return call_now(self.token, fn, *args)

    async def perform(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Perform an operation on trio, and wait for its end, as `_asyncio_calls.perform`."""
        return await perform(self._door(), fn, *args)

    async def enter(self, make: Callable[..., AbstractAsyncContextManager[T]], *args: Any) -> EnteredBlock[T]:
        """Enter a block on trio, as `_asyncio_calls.enter`."""
        return await enter(self._door(), make, *args)

    def _door(self) -> Door:
        seat = current_seat()
        if seat is None or seat.token is not self.token:
            return Door(self.post, self.token)
        return Door(seat.post, self.token, is_agents=True)


class AsyncioAgentHandle(Generic[T_co]):
    """What `spawn` returns in a program on asyncio; awaiting it is awaiting `result()`."""

    __slots__ = ("_handle", "_line")

    def __init__(self, line: Line, handle: AgentHandle[T_co]) -> None:
        self._line = line
        self._handle = handle

    def __repr__(self) -> str:
        return f"<AsyncioAgentHandle of agent {self.id} ({self.name}), {self.status}>"

    @property
    def id(self) -> AgentId:
        """The agent's id, to which messages are sent."""
        return self._handle.id

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._handle.name

    @property
    def status(self) -> AgentStatus:
        """What the agent is doing, or how it ended; `AgentHandle.status` tells the words."""
        return self._handle.status

    @property
    def outcome(self) -> AgentOutcome[T_co] | None:
        """How it ended; None until then. Reading a failure counts as having looked at it."""
        return self._line.now(lambda: self._handle.outcome)

    async def wait(self) -> AgentOutcome[T_co]:
        """Wait for the end of the agent, and return its outcome; never raises the agent's error.

        Raises:
          DeadlockError: if an agent calls it, and the other waits for the caller.

        Cancellation: `CancelledError` means that the outcome was not taken.
        """
        return await self._line.perform(self._handle.wait)

    async def result(self) -> T_co:
        """Wait for the end of the agent, and return its value.

        Raises:
          AgentFailedError: from the agent's own exception, if it failed.
          AgentAbortedError: if it was aborted.
          DeadlockError: as `wait`.

        Cancellation: as `wait`.
        """
        return (await self.wait()).unwrap()

    def __await__(self) -> Generator[Any, None, T_co]:
        return self.result().__await__()

    def abort(self, reason: str | None = None) -> None:
        """End the agent at its next checkpoint, and its children; harmless after its end.

        Does not wait.
        """
        self._line.soon(self._handle.abort, reason)


class AsyncioScope:
    """Owns agents; every verb that waits is awaited, and performed on trio.

    Cancelling a task that waits in a verb cancels the verb over there and waits for its end. A verb that
    had happened by then returns its value, and `CancelledError` comes at the next await.
    """

    __slots__ = ("_line", "_scope")

    def __init__(self, line: Line, scope: Scope) -> None:
        self._line = line
        self._scope = scope

    @property
    def closing(self) -> bool:
        """Whether the pool's block has ended or drains, so that the work comes to its end."""
        return self._scope.closing

    @property
    def draining(self) -> bool:
        """Whether the pool starts no more agents."""
        return self._scope.draining

    # -- starting ------------------------------------------------------------------------------------

    async def spawn(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> AsyncioAgentHandle[T]:
        """Start an agent as a child of this scope, waiting for a slot, as `AgentPool.spawn`.

        The agent runs on trio. A function that is written for asyncio becomes one by `asyncio_agent`.

        Raises:
          TypeError, ValueError: if an argument makes no sense.
          PoolClosedError: if the pool drains or has ended, or the parent has.
          PoolLimitError: if a bound of `PoolLimits` was reached.

        Cancellation: `CancelledError` means that no agent was started.
        """

        async def spawn() -> AgentHandle[T]:
            return await self._scope.spawn(agent, *args, name=name, timeout=timeout, restart=restart)

        return AsyncioAgentHandle(self._line, await self._line.perform(spawn))

    async def fan_out(
        self, configs: Iterable[Callable[[AgentContext], Awaitable[T]]]
    ) -> list[AsyncioAgentHandle[T]]:
        """Start several agents, in their order, waiting for slots; return their handles in that order.

        Raises:
          PoolClosedError, PoolLimitError: as `spawn`; what has started remains a child.

        Cancellation: what has started remains a child of this scope.
        """
        given = tuple(configs) if isinstance(configs, Iterable) else configs

        async def fan_out() -> list[AgentHandle[T]]:
            return await self._scope.fan_out(given)

        handles = await self._line.perform(fan_out)
        return [AsyncioAgentHandle(self._line, handle) for handle in handles]

    # -- joining -------------------------------------------------------------------------------------

    async def join_next(self) -> AnyOutcome | None:
        """Wait for the next direct child to end, and return its outcome; None when none is left.

        Raises:
          DeadlockError: if an agent calls it, and every child waits for the caller.

        Cancellation: `CancelledError` means that no outcome was taken.
        """
        return await self._line.perform(self._scope.join_next)

    async def join_all(self) -> dict[AgentId, AnyOutcome]:
        """Wait until no direct child is left, and return the outcomes that nobody has taken.

        Raises:
          DeadlockError: if an agent calls it, and a child waits for the caller.

        Cancellation: `CancelledError` means that no outcome was taken.
        """
        return await self._line.perform(self._scope.join_all)

    def abort_all(self, reason: str | None = None) -> None:
        """Abort the agents of this scope, also those that have not taken their first step.

        Does not wait. The scope stays usable.
        """
        self._line.soon(self._scope.abort_all, reason)

    # -- many ----------------------------------------------------------------------------------------

    async def map(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> list[AgentOutcome[T]]:
        """Run an agent for each item, and return the outcomes in the order of the items.

        Items are taken as slots become free, in the event loop of the caller.

        Raises:
          PoolClosedError, PoolLimitError: as `spawn`; the agents that run are aborted first.
          BaseException: what the input raised; the agents that run are aborted first.

        Cancellation: aborts the agents that run, and waits for their end.
        """
        given = input_for_trio(items)

        async def run() -> list[AgentOutcome[T]]:
            return await self._scope.map(agent, given, name=name, timeout=timeout)

        return await self._line.perform(run)

    def as_completed(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[AgentOutcome[T]]]:
        """Run an agent for each item, and iterate over the outcomes as the agents end.

        The input may be endless: it is taken from as for `AgentPool.as_completed`, in the event loop of
        the caller. Leaving the block aborts the agents that run, and waits for their end.

        Raises (while iterating):
          PoolClosedError, PoolLimitError, DeadlockError: as `map`.
          BaseException: what the input raised.
        """

        def open(given: Any) -> AbstractAsyncContextManager[AsyncIterator[AgentOutcome[T]]]:
            return self._scope.as_completed(agent, given, name=name, timeout=timeout)

        return _Completing(self._line, open, items)

    async def race(self, *agents: Callable[[AgentContext], Awaitable[T]]) -> AgentOutcome[T]:
        """Run several agents, and return the first `Completed`; the others are aborted and awaited.

        If none completes, returns a `Failed` with a group of all their errors.

        Raises:
          ValueError: if there are no agents.
          PoolClosedError, PoolLimitError, DeadlockError: as `map`.

        Cancellation: aborts the agents, and waits for their end.
        """

        async def race() -> AgentOutcome[T]:
            return await self._scope.race(*agents)

        return await self._line.perform(race)

    async def vote(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        n: int,
        quorum: int | None = None,
        key: Callable[[T], Hashable] | None = None,
    ) -> Verdict[T]:
        """Run the same agent `n` times, and see which value a quorum of them agrees on.

        As `AgentPool.vote`; `key` is called in the thread of the pool.

        Raises:
          TypeError: if a choice cannot be hashed.
          ValueError: if `n` or `quorum` is below 1, or `quorum` above `n`.
          PoolClosedError, PoolLimitError, DeadlockError: as `map`.

        Cancellation: aborts the agents, and waits for their end.
        """

        async def vote() -> Verdict[T]:
            return await self._scope.vote(agent, *args, n=n, quorum=quorum, key=key)

        return await self._line.perform(vote)

    # -- messages ------------------------------------------------------------------------------------

    async def send(self, to: AgentId | str, content: Any) -> None:
        """Deliver a message to an agent's inbox, waiting for room.

        Args:
          to: the id of a live agent of the pool, or its name.

        Raises:
          UnknownAgentError: if there is none, or it ends meanwhile.
          DeadlockError: if waiting would close a cycle of agents that wait for each other.

        Cancellation: `CancelledError` means that nothing was delivered.
        """
        await self._line.perform(self._scope.send, to, content)

    async def ask(self, to: AgentId | str, content: Any) -> Any:
        """Deliver a question to an agent, and return the content of its reply.

        Raises:
          UnknownAgentError: if there is none, or it ends without a reply.
          DeadlockError: as `send`; nothing was delivered then.

        Cancellation: after `CancelledError` the question may have been delivered.
        """
        return await self._line.perform(self._scope.ask, to, content)


class _Completing(AbstractAsyncContextManager[AsyncIterator[AnyOutcome]]):
    """The block of `as_completed` in a program on asyncio."""

    def __init__(self, line: Line, open: Callable[[Any], Any], items: Any) -> None:
        self._line = line
        self._open = open
        self._items = items
        self._block: EnteredBlock[AsyncIterator[AnyOutcome]] | None = None

    async def __aenter__(self) -> AsyncIterator[AnyOutcome]:
        if self._block is not None:
            raise RuntimeError("as_completed is for one block: call it again")
        self._block = await self._line.enter(self._open, input_for_trio(self._items))
        return _Outcomes(self._line, self._block.value)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._block is not None
        await self._block.leave(error)


class _Outcomes(AsyncIterator[AnyOutcome]):
    """The outcomes of a block, as they come."""

    def __init__(self, line: Line, outcomes: AsyncIterator[AnyOutcome]) -> None:
        self._line = line
        self._outcomes = outcomes

    async def __anext__(self) -> AnyOutcome:
        outcome = await self._line.perform(partial(next_of, self._outcomes))
        if outcome is None:
            raise StopAsyncIteration
        return outcome


async def next_of(values: AsyncIterator[T]) -> T | None:
    """Return the next of some values that are never None; None after the last."""
    try:
        return await anext(values)
    except StopAsyncIteration:
        return None
