"""What an asyncio function that runs as an agent is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import trio

from agentpool._core.capability import PrivacyTier
from agentpool._core.messages import AgentId, AgentMessage, Completion, CompletionRequest, StreamPart
from agentpool._core.restart import RestartPolicy
from agentpool._core.usage import TokenUsage
from agentpool._kernel.context import AgentContext
from agentpool._kernel.handle import AgentHandle
from agentpool.bridge._asyncio_scope import AsyncioAgentHandle, AsyncioScope, Line, next_of
from agentpool.bridge._calls import Call
from agentpool.bridge._seat import Seat

if TYPE_CHECKING:
    from agentpool._core.budget import Budget
    from agentpool._core.capability import Capability
    from agentpool.abc import Driver, Memory, MemoryFragment

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SeatLine(Line):
    """The way to the pool of an agent that runs over here."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        """Of the run of trio in which the pool is."""
        return self._seat.token

    def post(self, call: Call[Any]) -> None:
        """Have an operation begun by the agent, for code over here that is none of its own."""
        self._seat.post(call)


class AsyncioInbox(AsyncIterator[AgentMessage]):
    """The messages of an agent that runs on asyncio; iterating ends when none will come any more."""

    def __init__(self, context: AsyncioAgentContext) -> None:
        self._context = context

    def __repr__(self) -> str:
        return f"<AsyncioInbox of agent {self._context.id}>"

    async def __anext__(self) -> AgentMessage:
        try:
            return await self._context.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


class Pieces(AsyncIterator[StreamPart]):
    """The pieces of an answer, as they come."""

    def __init__(self, line: Line, pieces: AsyncIterator[StreamPart]) -> None:
        self._line = line
        self._pieces = pieces

    async def __anext__(self) -> StreamPart:
        piece = await self._line.perform(partial(next_of, self._pieces))
        if piece is None:
            raise StopAsyncIteration
        return piece


class AsyncioDriver:
    """The driver of an agent that runs on asyncio: its calls are counted and kept within the budget."""

    def __init__(self, line: Line, driver: Driver) -> None:
        self._line = line
        self._driver = driver

    def __repr__(self) -> str:
        return f"<AsyncioDriver of {self._driver!r}>"

    @property
    def context_window(self) -> int | None:
        """How many tokens a request and its answer may have together; None if unknown."""
        return self._driver.context_window

    @property
    def privacy(self) -> PrivacyTier:
        """Where words go that this driver is given."""
        return self._driver.privacy

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the model, and return its whole answer; as `Driver.complete`.

        Raises:
          DriverError: one of its kinds.
          BudgetExceededError: if there is no room for the call.

        Cancellation: the connection is closed, nothing is left behind.
        """
        return await self._line.perform(self._driver.complete, request)

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Ask the model, and get its answer in pieces; as `Driver.stream`.

        Leaving the block early closes the connection.
        """
        block = await self._line.enter(self._driver.stream, request)
        try:
            yield Pieces(self._line, block.value)
        except BaseException as error:
            await block.leave(error)
            raise
        await block.leave(None)

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        """Return what `usage` costs in USD; 0 is free, None means that the price is not known."""
        return self._driver.estimate_cost(usage)


class AsyncioMemory:
    """The memory of an agent that runs on asyncio: as `Memory`, awaited over there."""

    def __init__(self, line: Line, memory: Memory) -> None:
        self._line = line
        self._memory = memory

    def __repr__(self) -> str:
        return f"<AsyncioMemory of {self._memory!r}>"

    async def remember(self, content: str, *, source: str = "user", agent_id: AgentId = 0) -> int:
        """Keep a text, and return the id of the new fragment."""
        return await self._line.perform(
            partial(self._memory.remember, content, source=source, agent_id=agent_id)
        )

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        source: str | None = None,
        agent_id: AgentId | None = None,
        since: float | None = None,
    ) -> Sequence[MemoryFragment]:
        """Return the fragments that fit the query, best first; as `Memory.recall`."""
        return await self._line.perform(
            partial(self._memory.recall, query, limit=limit, source=source, agent_id=agent_id, since=since)
        )

    async def set(self, key: str, value: Any) -> None:
        """Keep a value under a key, in the place of what was there."""
        await self._line.perform(self._memory.set, key, value)

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value under a key, or `default`."""
        return await self._line.perform(self._memory.get, key, default)

    async def forget(self, fragment_id: int) -> bool:
        """Drop a fragment; return whether there was one."""
        return await self._line.perform(self._memory.forget, fragment_id)


class AsyncioAgentContext(AsyncioScope):
    """Who an agent is, its means, its inbox, and the scope of its children, for one that runs on asyncio.

    An asyncio function that runs as an agent gets it as its first argument. Any task that the function
    starts may use it. When the agent is being cancelled every verb raises `CancelledError`.
    """

    __slots__ = ("_ctx",)

    def __init__(self, seat: Seat, ctx: AgentContext) -> None:
        super().__init__(SeatLine(seat), ctx)
        self._ctx = ctx

    def __repr__(self) -> str:
        return f"<AsyncioAgentContext of agent {self.id} ({self.name})>"

    # -- who -----------------------------------------------------------------------------------------

    @property
    def id(self) -> AgentId:
        """The agent's id, unique in its pool."""
        return self._ctx.id

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._ctx.name

    @property
    def parent_id(self) -> AgentId:
        """The id of the agent that spawned it; 0 for the supervisor."""
        return self._ctx.parent_id

    @property
    def depth(self) -> int:
        """How many agents stand between it and the pool: 0 for those that the pool spawned."""
        return self._ctx.depth

    @property
    def grants(self) -> tuple[Capability, ...] | None:
        """What the agent may do, as far as its parent may do that; None for everything."""
        return self._ctx.grants

    @property
    def privacy(self) -> PrivacyTier:
        """Where the agent's words may travel to."""
        return self._ctx.privacy

    @property
    def max_concurrent(self) -> int:
        """How many agents run at once at the most."""
        return self._ctx.max_concurrent

    # -- means ---------------------------------------------------------------------------------------

    @property
    def driver(self) -> AsyncioDriver | None:
        """The pool's driver; None for a pool without one. `AgentContext.driver` tells what is counted."""
        driver = self._line.now(lambda: self._ctx.driver)
        return None if driver is None else AsyncioDriver(self._line, driver)

    @property
    def memory(self) -> AsyncioMemory | None:
        """The pool's memory; None for a pool without one."""
        memory = self._ctx.memory
        return None if memory is None else AsyncioMemory(self._line, memory)

    @property
    def budget(self) -> Budget | None:
        """The agent's quota, below its parent's, below the pool's; None without any."""
        return self._ctx.budget

    @property
    def usage(self) -> TokenUsage:
        """What its model calls have used so far."""
        return self._ctx.usage

    def add_usage(self, usage: TokenUsage) -> None:
        """Count what a model call used that went past `driver`, such as one of another framework's.

        The outcome carries the sum. It is within no budget: what was used cannot be refused any more.
        """
        self._line.now(self._ctx.add_usage, usage)

    # -- inbox ---------------------------------------------------------------------------------------

    @property
    def inbox(self) -> AsyncioInbox:
        """The agent's messages; `async for message in ctx.inbox` receives until it ends."""
        return AsyncioInbox(self)

    async def receive(self) -> AgentMessage:
        """Take the oldest message, waiting for one if there is none.

        Raises:
          trio.EndOfChannel: if none will come any more, as `AgentContext.receive`.

        Cancellation: `CancelledError` means that no message was taken.
        """
        return await self._line.perform(self._ctx.receive)

    async def receive_nowait(self) -> AgentMessage:
        """Take the oldest message, without waiting for one.

        Raises:
          trio.WouldBlock: if there is none.
          trio.EndOfChannel: if there is none and none will come any more.
        """
        return await self._line.perform(_at_once, self._ctx.receive_nowait)

    async def send_nowait(self, to: AgentId | str, content: Any) -> None:
        """Deliver a message to an agent's inbox, without waiting for room.

        Raises:
          UnknownAgentError: if there is no such agent.
          trio.WouldBlock: if its inbox is full.
        """
        await self._line.perform(_at_once, self._ctx.send_nowait, to, content)

    def reply(self, message: AgentMessage, content: Any) -> None:
        """Answer a question that the agent received.

        A reply that nobody waits for any more becomes a dead letter.

        Raises:
          ValueError: if the message was sent to somebody else.
        """
        self._line.now(self._ctx.reply, message, content)

    async def broadcast(self, content: Any) -> int:
        """Send the same to every other live agent, oldest first; return how many got it.

        Raises:
          DeadlockError: as `send`.

        Cancellation: `CancelledError` means that some may not have got it.
        """
        return await self._line.perform(self._ctx.broadcast, content)

    def subscribe(self, topic: str) -> None:
        """From now on, have what is published on a topic delivered to the agent's inbox."""
        self._line.now(self._ctx.subscribe, topic)

    def unsubscribe(self, topic: str) -> None:
        """Undo `subscribe`; harmless if there is nothing to undo."""
        self._line.now(self._ctx.unsubscribe, topic)

    async def publish(self, topic: str, content: Any) -> int:
        """Send something to the subscribers of a topic but the agent itself; return how many got it.

        Raises:
          DeadlockError: as `send`.

        Cancellation: `CancelledError` means that some may not have got it.
        """
        return await self._line.perform(self._ctx.publish, topic, content)

    # -- children ------------------------------------------------------------------------------------

    async def spawn_nowait(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> AsyncioAgentHandle[T]:
        """Start an agent in a free slot, without waiting for one; as `spawn` otherwise.

        Raises:
          PoolFullError: if no slot is free, or others wait for one.
        """

        async def spawn() -> AgentHandle[T]:
            return self._ctx.spawn_nowait(agent, *args, name=name, timeout=timeout, restart=restart)

        return AsyncioAgentHandle(self._line, await self._line.perform(spawn))

    async def find(self, name: str) -> AgentId:
        """Return the id of the live agent with a name.

        Raises:
          UnknownAgentError: if no live agent of the pool has it, or several have.
        """
        return await self._line.perform(_at_once, self._ctx.find, name)

    def current_time(self) -> float:
        """The time in seconds, on the clock of trio, as `AgentContext.current_time`."""
        return self._line.now(self._ctx.current_time)

    async def step(self, name: str, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T:
        """Do something once, as `AgentContext.step`; `fn` is an asyncio function.

        Raises:
          ReplayMismatchError, TypeError, JournalError: as `AgentContext.step`.
          Exception: what `fn` raises; also when it is not done again.

        Cancellation: as `fn`.
        """
        return await self._line.perform(
            self._ctx.step, name, partial(run_on, asyncio.get_running_loop(), fn), *args
        )


async def _at_once(fn: Callable[..., T], *args: Any) -> T:
    return fn(*args)


async def run_on(loop: asyncio.AbstractEventLoop, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run an asyncio function in a loop, on behalf of the calling task of trio's."""
    return await Seat(loop).run(fn, args)
