"""A pool in a program that runs on asyncio."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import trio

from agentpool._core.errors import PoolClosedError
from agentpool._core.events import Event
from agentpool._core.limits import PoolLimits
from agentpool._core.messages import AgentId
from agentpool._core.restart import RestartPolicy
from agentpool._kernel.context import AgentContext
from agentpool._kernel.events import EventSubscription, Overflow, SubscriptionStatistics
from agentpool._kernel.opening import open_agent_pool
from agentpool._kernel.router import DeadLetter
from agentpool._kernel.statistics import PoolStatistics
from agentpool._loop.resume import resume_agent_pool
from agentpool.bridge._asyncio_calls import LoopEvent, cancel_again, sleep_until
from agentpool.bridge._asyncio_scope import AsyncioAgentHandle, AsyncioScope, Line
from agentpool.bridge._calls import Call
from agentpool.bridge._host import Host, check_portal
from agentpool.bridge._loops import home_loop
from agentpool.bridge._seat import current_seat

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from agentpool._core.budget import Budget
    from agentpool._kernel.pool import AgentPool
    from agentpool.abc import Approver, Driver, Hooks, Journal, Memory, Placement, ToolBuilder

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class HostLine(Line):
    """The way to the pool of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        """Of the run of trio in which the pool is."""
        return self._host.token

    def post(self, call: Call[Any]) -> None:
        """Have an operation begun that no agent asks for."""
        call.context.run(home_loop.set, asyncio.get_running_loop())
        self._host.post(call)


class AsyncioAgentPool(AsyncioScope):
    """A running pool, for a program on asyncio; made by `open_agent_pool_asyncio`.

    Its agents run on trio, in another thread. What waits is awaited here; what does not wait blocks the
    calling thread for the moment that the pool's thread takes to get to it.
    """

    __slots__ = ("_host",)

    def __init__(self, host: Host) -> None:
        super().__init__(HostLine(host), host.pool)
        self._host = host

    def __repr__(self) -> str:
        return f"<AsyncioAgentPool of {self._pool!r}>"

    @property
    def _pool(self) -> AgentPool:
        return self._host.pool

    @property
    def active_count(self) -> int:
        """How many agents have not ended, children of agents included."""
        return self._pool.active_count

    @property
    def max_concurrent(self) -> int:
        """How many agents run at once at the most; may be changed while the pool runs."""
        return self._pool.max_concurrent

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        self._line.now(setattr, self._pool, "max_concurrent", value)

    @property
    def dead_letters(self) -> Sequence[DeadLetter]:
        """The newest messages that nobody will receive; `statistics()` counts all of them."""
        return self._line.now(lambda: self._pool.dead_letters)

    @property
    def resumed(self) -> Sequence[AsyncioAgentHandle[Any]]:
        """The agents that the program had spawned before the pool was resumed, as `AgentPool.resumed`."""
        return [AsyncioAgentHandle(self._line, handle) for handle in self._pool.resumed]

    def statistics(self) -> PoolStatistics:
        """Return a snapshot."""
        return self._line.now(self._pool.statistics)

    def spawn_nowait(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> AsyncioAgentHandle[T]:
        """Start an agent in a free slot, without waiting; as `spawn` otherwise.

        Raises:
          PoolFullError: if no slot is free, or others wait for one.
          RuntimeError: if an agent calls it, which has a context for that.
        """
        _refuse_agent("spawn_nowait")
        context = _context()

        def spawn() -> AsyncioAgentHandle[T]:
            handle = context.run(
                lambda: self._pool.spawn_nowait(agent, *args, name=name, timeout=timeout, restart=restart)
            )
            return AsyncioAgentHandle(self._line, handle)

        return self._line.now(spawn)

    def send_nowait(self, to: AgentId | str, content: Any) -> None:
        """Deliver a message to an agent's inbox, without waiting.

        Raises:
          UnknownAgentError: if the recipient never existed or has ended; of a name, as `find`.
          trio.WouldBlock: if its inbox is full.
          RuntimeError: if an agent calls it, which has a context for that.
        """
        _refuse_agent("send_nowait")
        self._line.now(self._pool.send_nowait, to, content)

    def find(self, name: str) -> AgentId:
        """Return the id of the live agent with a name.

        Raises:
          UnknownAgentError: if no live agent of the pool has it, or several have.
        """
        return self._line.now(self._pool.find, name)

    async def drain(self, grace: float = 10.0) -> list[AsyncioAgentHandle[Any]]:
        """Start no more agents, wait for those there are, and past the grace abort them.

        Args:
          grace: seconds that agents have to end by themselves.

        Returns:
          The handles of the survivors, as `AgentPool.drain`.

        Raises:
          RuntimeError: if an agent of the pool calls it, which would wait for itself.
          ValueError: if `grace` is negative.

        Cancellation: no more agents are started all the same.
        """
        handles = await self._line.perform(self._pool.drain, grace)
        return [AsyncioAgentHandle(self._line, handle) for handle in handles]

    def events(
        self, max_buffer: int = 1024, overflow: Overflow = "drop_oldest"
    ) -> AbstractAsyncContextManager[AsyncioEvents]:
        """Subscribe to what happens while the block runs; iterate over the block's value.

        As `AgentPool.events`. Events that are under way to this thread are not counted as buffered.

        Raises:
          TypeError, ValueError: as `AgentPool.events`.
        """
        return _OpenEvents(self._line, lambda: self._pool.events(max_buffer, overflow))


def _context() -> Context:
    context = copy_context()
    context.run(home_loop.set, asyncio.get_running_loop())
    return context


def _refuse_agent(verb: str) -> None:
    if current_seat() is not None:
        raise RuntimeError(f"an agent uses the context that it is given: await ctx.{verb}(...)")


class AsyncioEvents(AsyncIterator[Event]):
    """The events of a pool, in a program on asyncio; ends when the pool has ended."""

    def __init__(self, line: Line, subscription: EventSubscription) -> None:
        self._line = line
        self._subscription = subscription
        self._batch: deque[Event] = deque()

    def __repr__(self) -> str:
        return f"<AsyncioEvents, {self.statistics()}>"

    def statistics(self) -> SubscriptionStatistics:
        """Return a snapshot."""
        there = self._subscription.statistics()
        return SubscriptionStatistics(there.buffered + len(self._batch), there.dropped)

    async def __anext__(self) -> Event:
        if not self._batch:
            self._batch.extend(await self._next_batch())
        if not self._batch:
            raise StopAsyncIteration
        return self._batch.popleft()

    async def _next_batch(self) -> list[Event]:
        try:
            return await self._line.perform(self._subscription.next_batch)
        except PoolClosedError:
            return self._subscription.next_batch_nowait()  # which nobody writes to any more

    def close(self) -> None:
        """Add no more events: the reader gets what is left, and then the end."""
        self._line.soon(self._subscription.close)


class _OpenEvents(AbstractAsyncContextManager[AsyncioEvents]):
    """The block of a subscription in a program on asyncio."""

    def __init__(
        self, line: Line, subscribe: Callable[[], AbstractAsyncContextManager[EventSubscription]]
    ) -> None:
        self._line = line
        self._subscribe = subscribe
        self._events: AsyncioEvents | None = None

    async def __aenter__(self) -> AsyncioEvents:
        if self._events is not None:
            raise RuntimeError("a subscription is for one block: call events() again")

        async def subscribe() -> EventSubscription:
            return await self._subscribe().__aenter__()

        self._events = AsyncioEvents(self._line, await self._line.perform(subscribe))
        return self._events

    async def __aexit__(self, *_: object) -> None:
        assert self._events is not None
        self._events.close()


def open_agent_pool_asyncio(
    driver: Driver | AbstractAsyncContextManager[Driver | None] | None = None,
    *,
    max_concurrent: int,
    memory: Memory | AbstractAsyncContextManager[Memory] | None = None,
    tool_builder: ToolBuilder | None = None,
    inbox_capacity: int = 32,
    budget: Budget | None = None,
    approver: Approver | None = None,
    journal: Journal | None = None,
    hooks: Iterable[Hooks] = (),
    placement: Placement | None = None,
    limits: PoolLimits = PoolLimits(),  # noqa: B008  (frozen)
    seed: int | None = None,
    portal: BlockingPortal | None = None,
) -> AbstractAsyncContextManager[AsyncioAgentPool]:
    """Open a pool of agents in a program that runs on asyncio, such as a web service.

    The pool runs on trio in a thread of its own, and its agents are those of any pool. A function that
    is written for asyncio becomes an agent by `asyncio_agent`; it runs in the event loop of the program.
    Leaving the block waits for every agent. If the task is cancelled that is in the block, the agents
    are aborted, and `CancelledError` comes out when they have ended.

    Args:
      driver: as `open_agent_pool`, or a block to be entered, such as `open_driver("openai:MODEL")`. It
        is entered in the pool's thread, and left after the pool.
      memory: as `driver`.
      max_concurrent, tool_builder, inbox_capacity, budget, approver: as `open_agent_pool`.
      journal, hooks, placement, limits, seed: as `open_agent_pool`. What is called of all these is called in
        the pool's thread, on trio.
      portal: `anyio.from_thread.start_blocking_portal("trio")`, for several pools that share a thread;
        a driver or memory that is ready is used as it is then, and is the portal's to close.

    Raises:
      RuntimeError: outside of a task of asyncio's.
      TypeError, ValueError, RunPausedError, JournalError, UnhandledAgentErrors: as `open_agent_pool`. If
        the block was cancelled, and agents failed whose outcomes were not looked at, a group of these
        failures comes out in the place of the `CancelledError`, as from an `asyncio.TaskGroup`.
      PoolClosedError: if the portal was stopped first.

    Cancellation: aborts the agents, and waits for them, however often it comes. A block whose loop is closed
    before it is left cannot wait: the pool is cancelled, and its thread ends with it.
    """
    check_portal(portal)
    make = partial(
        open_agent_pool,
        max_concurrent=max_concurrent,
        tool_builder=tool_builder,
        inbox_capacity=inbox_capacity,
        budget=budget,
        approver=approver,
        journal=journal,
        hooks=hooks,
        placement=placement,
        limits=limits,
        seed=seed,
    )
    return AsyncioBlock(Host(make, driver, memory, portal))


def resume_agent_pool_asyncio(
    journal: str | os.PathLike[str] | Journal,
    driver: Driver | AbstractAsyncContextManager[Driver | None] | None = None,
    *,
    max_concurrent: int | None = None,
    memory: Memory | AbstractAsyncContextManager[Memory] | None = None,
    tool_builder: ToolBuilder | None = None,
    inbox_capacity: int | None = None,
    budget: Budget | None = None,
    approver: Approver | None = None,
    agents: Mapping[str, Callable[..., Any]] | None = None,
    hooks: Iterable[Hooks] = (),
    placement: Placement | None = None,
    limits: PoolLimits = PoolLimits(),  # noqa: B008  (frozen)
    seed: int | None = None,
    portal: BlockingPortal | None = None,
) -> AbstractAsyncContextManager[AsyncioAgentPool]:
    """Open a pool with the run that a journal holds, which goes on where it was.

    As `resume_agent_pool`, in the way of `open_agent_pool_asyncio`.

    Raises:
      ReplayMismatchError, JournalCorruptError: as `resume_agent_pool`.
      RuntimeError, TypeError, ValueError, RunPausedError, JournalError, UnhandledAgentErrors,
        PoolClosedError: as `open_agent_pool_asyncio`.
    """
    check_portal(portal)
    make = partial(
        resume_agent_pool,
        journal,
        max_concurrent=max_concurrent,
        tool_builder=tool_builder,
        inbox_capacity=inbox_capacity,
        budget=budget,
        approver=approver,
        agents=agents,
        hooks=hooks,
        placement=placement,
        limits=limits,
        seed=seed,
    )
    return AsyncioBlock(Host(make, driver, memory, portal))


class AsyncioBlock(AbstractAsyncContextManager[AsyncioAgentPool]):
    """The block of a pool in a program on asyncio."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._told: LoopEvent | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled_before = 0
        self._cuts_off = False
        self._is_inside = False

    async def __aenter__(self) -> AsyncioAgentPool:
        self._task = _running_task()
        self._cancelled_before = self._task.cancelling()
        self._told = LoopEvent(self._changed)
        host = self._host
        host.refuse_second_use()
        host.open(self._told.set, _context())
        cancelled = await sleep_until(self._told, lambda: host.is_open or host.is_over, host.cancel)
        if cancelled is not None:
            host.cancel()
            again = await sleep_until(self._told, lambda: host.is_over, host.cancel)
            host.join()
            host.close()
            raise again or cancelled
        if host.is_over:
            host.join()
            host.close()
            raise AssertionError("a pool that is over before it is open has raised")
        self._is_inside = True
        return AsyncioAgentPool(host)

    def _changed(self) -> None:
        """The host is open, or over (called in the loop)."""
        if self._host.is_over and self._is_inside and not self._cuts_off:
            # Something fatal has ended the pool: the block is left at once, as one on trio.
            assert self._task is not None
            self._cuts_off = True
            self._task.cancel("the pool has ended")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._told is not None
        host = self._host
        self._is_inside = False
        if isinstance(error, GeneratorExit):
            host.cancel()  # the coroutine is thrown away, with its loop: nothing can be awaited any more
            return
        try:
            if isinstance(error, asyncio.CancelledError):
                host.cancel()
            else:
                host.leave(error)
            cancelled = await sleep_until(self._told, lambda: host.is_over, host.cancel)
            host.join()
            if self._cuts_off:
                cancelled = await self._take_back(error) or cancelled
            _come_out(host, error, self._from_outside(error) or cancelled)
        finally:
            if error is not None:
                error.__traceback__ = trace  # without the way through the pool's thread
            del error, trace

    def _from_outside(self, error: BaseException | None) -> asyncio.CancelledError | None:
        """Return what left the block, if it says that somebody has cancelled the task."""
        assert self._task is not None
        is_cancelled = self._task.cancelling() > self._cancelled_before
        return error if isinstance(error, asyncio.CancelledError) and is_cancelled else None

    async def _take_back(self, error: BaseException | None) -> asyncio.CancelledError | None:
        """Take back the cancellation by which the block was left, also if it has not come yet."""
        assert self._task is not None
        self._task.uncancel()
        if not isinstance(error, asyncio.CancelledError):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as cancelled:
                return cancelled if self._task.cancelling() else None
        return None


def _come_out(host: Host, error: BaseException | None, cancelled: asyncio.CancelledError | None) -> None:
    """Raise what came out of the pool, unless it is what left the block anyway."""
    try:
        host.close()
    except BaseException as raised:
        if cancelled is not None:
            cancel_again(cancelled)  # as a group of asyncio's does: it would be lost with what comes out
        if raised is not error:
            raise
    else:
        if cancelled is not None and cancelled is not error:
            raise cancelled


def _running_task() -> asyncio.Task[Any]:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise RuntimeError(
            "open_agent_pool_asyncio is for a task of asyncio's: on trio write open_agent_pool, in a "
            "program without an event loop open_agent_pool_blocking"
        )
    return task
