"""A pool in a program without an event loop: a plain script, threads, a notebook."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

from agentpool._core.errors import PoolClosedError
from agentpool._core.events import Event
from agentpool._core.limits import PoolLimits
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AgentOutcome, AnyOutcome
from agentpool._core.restart import RestartPolicy
from agentpool._core.text import note
from agentpool._kernel.agent import AgentStatus
from agentpool._kernel.context import AgentContext
from agentpool._kernel.events import EventSubscription, Overflow, SubscriptionStatistics
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.many import Verdict
from agentpool._kernel.opening import open_agent_pool
from agentpool._kernel.router import DeadLetter
from agentpool._kernel.splitting import in_full
from agentpool._kernel.statistics import PoolStatistics
from agentpool._loop.resume import resume_agent_pool
from agentpool.bridge._asyncio_scope import next_of
from agentpool.bridge._calls import Call, refuse_trio_thread
from agentpool.bridge._host import Host, check_portal
from agentpool.bridge._threads import EnteredBlock, Mailbox, ThreadLine

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from agentpool._core.budget import Budget
    from agentpool._kernel.pool import AgentPool
    from agentpool.abc import Approver, Driver, Hooks, Journal, Memory, Placement, ToolBuilder

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
I = TypeVar("I")  # noqa: E741
Ts = TypeVarTuple("Ts")


class BlockingAgentHandle(Generic[T_co]):
    """What `spawn` returns in a program without an event loop."""

    __slots__ = ("_handle", "_line")

    def __init__(self, line: ThreadLine, handle: AgentHandle[T_co]) -> None:
        self._line = line
        self._handle = handle

    def __repr__(self) -> str:
        return f"<BlockingAgentHandle of agent {self.id} ({self.name}), {self.status}>"

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

    def wait(self, timeout: float | None = None) -> AgentOutcome[T_co]:
        """Wait for the end of the agent, and return its outcome; never raises the agent's error.

        Args:
          timeout: seconds to wait at the most; the agent goes on past them.

        Raises:
          TimeoutError: if it has not ended by then; the outcome was not taken.
          DeadlockError: in a tool's thread, if the agent waits for the one that calls.
        """
        return self._line.perform(self._handle.wait, timeout=timeout)

    def result(self, timeout: float | None = None) -> T_co:
        """Wait for the end of the agent, and return its value.

        Raises:
          AgentFailedError: from the agent's own exception, if it failed.
          AgentAbortedError: if it was aborted.
          TimeoutError, DeadlockError: as `wait`.
        """
        return self.wait(timeout).unwrap()

    def abort(self, reason: str | None = None) -> None:
        """End the agent at its next checkpoint, and its children; harmless after its end.

        Does not wait.
        """
        self._line.soon(self._handle.abort, reason)


class BlockingAgentPool:
    """A running pool, for a program without an event loop; made by `open_agent_pool_blocking`.

    Its agents run on trio, in another thread. Any thread may call its verbs. What waits blocks the thread
    that calls; Ctrl-C ends such a wait in the main thread, once the operation is cancelled and over.
    """

    __slots__ = ("_host", "_line")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._line = ThreadLine(host)

    def __repr__(self) -> str:
        return f"<BlockingAgentPool of {self._pool!r}>"

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
    def closing(self) -> bool:
        """Whether the pool's block has ended or drains, so that the work comes to its end."""
        return self._pool.closing

    @property
    def draining(self) -> bool:
        """Whether the pool starts no more agents."""
        return self._pool.draining

    @property
    def dead_letters(self) -> Sequence[DeadLetter]:
        """The newest messages that nobody will receive; `statistics()` counts all of them."""
        return self._line.now(lambda: self._pool.dead_letters)

    @property
    def resumed(self) -> Sequence[BlockingAgentHandle[Any]]:
        """The agents that the program had spawned before the pool was resumed, as `AgentPool.resumed`."""
        return [BlockingAgentHandle(self._line, handle) for handle in self._pool.resumed]

    def statistics(self) -> PoolStatistics:
        """Return a snapshot."""
        return self._line.now(self._pool.statistics)

    # -- starting ------------------------------------------------------------------------------------

    def spawn(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> BlockingAgentHandle[T]:
        """Start an agent, waiting for a slot, as `AgentPool.spawn`.

        The agent runs on trio. A function that is written for asyncio becomes one by `asyncio_agent`.

        Args:
          timeout: seconds that the agent may take from its start to its end.

        Raises:
          TypeError, ValueError: if an argument makes no sense.
          PoolClosedError: if the pool drains or has ended.
          PoolLimitError: if a bound of `PoolLimits` was reached.
        """

        async def spawn() -> AgentHandle[T]:
            return await self._pool.spawn(agent, *args, name=name, timeout=timeout, restart=restart)

        return BlockingAgentHandle(self._line, self._line.perform(spawn))

    def spawn_nowait(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> BlockingAgentHandle[T]:
        """Start an agent in a free slot, without waiting for one; as `spawn` otherwise.

        Raises:
          PoolFullError: if no slot is free, or others wait for one.
        """
        handle = self._line.now(
            lambda: self._pool.spawn_nowait(agent, *args, name=name, timeout=timeout, restart=restart)
        )
        return BlockingAgentHandle(self._line, handle)

    def fan_out(
        self, configs: Iterable[Callable[[AgentContext], Awaitable[T]]]
    ) -> list[BlockingAgentHandle[T]]:
        """Start several agents, in their order, waiting for slots; return their handles in that order.

        Raises:
          PoolClosedError, PoolLimitError: as `spawn`; what has started goes on.
        """
        given = tuple(configs) if isinstance(configs, Iterable) else configs

        async def fan_out() -> list[AgentHandle[T]]:
            return await self._pool.fan_out(given)

        handles = self._line.perform(fan_out)
        return [BlockingAgentHandle(self._line, handle) for handle in handles]

    # -- joining -------------------------------------------------------------------------------------

    def join_next(self, timeout: float | None = None) -> AnyOutcome | None:
        """Wait for the next agent to end, and return its outcome; None when none is left.

        Args:
          timeout: seconds to wait at the most.

        Raises:
          TimeoutError: if none has ended by then; no outcome was taken.
        """
        return self._line.perform(self._pool.join_next, timeout=timeout)

    def join_all(self, timeout: float | None = None) -> dict[AgentId, AnyOutcome]:
        """Wait until no agent is left, and return the outcomes that nobody has taken.

        Args:
          timeout: seconds to wait at the most.

        Raises:
          TimeoutError: if some have not ended by then; no outcome was taken.
        """
        return self._line.perform(self._pool.join_all, timeout=timeout)

    def abort_all(self, reason: str | None = None) -> None:
        """Abort all agents, also those that have not taken their first step.

        Does not wait. The pool stays usable.
        """
        self._line.soon(self._pool.abort_all, reason)

    def drain(self, grace: float = 10.0) -> list[BlockingAgentHandle[Any]]:
        """Start no more agents, wait for those there are, and past the grace abort them.

        Args:
          grace: seconds that agents have to end by themselves.

        Returns:
          The handles of the survivors, as `AgentPool.drain`.

        Raises:
          ValueError: if `grace` is negative.
        """
        handles = self._line.perform(self._pool.drain, grace)
        return [BlockingAgentHandle(self._line, handle) for handle in handles]

    # -- many ----------------------------------------------------------------------------------------

    def map(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> list[AgentOutcome[T]]:
        """Run an agent for each item, and return the outcomes in the order of the items.

        Items are taken as slots become free, in the calling thread; those of an asynchronous input on trio.

        Args:
          timeout: seconds that each agent may take.

        Raises:
          PoolClosedError, PoolLimitError: as `spawn`; the agents that run are aborted first.
          BaseException: what the input raised; the agents that run are aborted first.
        """
        mailbox = Mailbox(self._host)
        given = self._line.input_for_trio(items, mailbox)

        async def run() -> list[AgentOutcome[T]]:
            return await self._pool.map(agent, given, name=name, timeout=timeout)

        if self._line.is_thread_of_agent():
            return self._line.perform(run)
        return self._line.wait_for(Call(run, (), mailbox.tell), mailbox)

    def as_completed(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> AbstractContextManager[Iterator[AgentOutcome[T]]]:
        """Run an agent for each item, and iterate over the outcomes as the agents end.

        The input may be endless: it is taken from as for `AgentPool.as_completed`, in this thread and
        while it waits for an outcome. Leaving the block aborts the agents that run, and waits for them.

        Raises:
          RuntimeError: in the thread of an agent's tool, which uses `map`.

        Raises (while iterating):
          PoolClosedError, PoolLimitError: as `map`.
          BaseException: what the input raised.
        """
        if self._line.is_thread_of_agent():
            raise RuntimeError("a block of as_completed cannot be held in the thread of a tool: use map")
        mailbox = Mailbox(self._host)
        given = self._line.input_for_trio(items, mailbox)

        def open() -> AbstractAsyncContextManager[AsyncIterator[AgentOutcome[T]]]:
            return self._pool.as_completed(agent, given, name=name, timeout=timeout)

        return _Completing(EnteredBlock(self._line, mailbox, open))

    def race(self, *agents: Callable[[AgentContext], Awaitable[T]]) -> AgentOutcome[T]:
        """Run several agents, and return the first `Completed`; the others are aborted and awaited.

        If none completes, returns a `Failed` with a group of all their errors.

        Raises:
          ValueError: if there are no agents.
          PoolClosedError, PoolLimitError: as `map`.
        """

        async def race() -> AgentOutcome[T]:
            return await self._pool.race(*agents)

        return self._line.perform(race)

    def vote(
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
          PoolClosedError, PoolLimitError: as `map`.
        """

        async def vote() -> Verdict[T]:
            return await self._pool.vote(agent, *args, n=n, quorum=quorum, key=key)

        return self._line.perform(vote)

    # -- messages ------------------------------------------------------------------------------------

    def send(self, to: AgentId | str, content: Any, timeout: float | None = None) -> None:
        """Deliver a message to an agent's inbox, waiting for room.

        Args:
          to: the id of a live agent of the pool, or its name.
          timeout: seconds to wait at the most.

        Raises:
          UnknownAgentError: if there is none, or it ends meanwhile.
          TimeoutError: if there was no room by then; nothing was delivered.
        """
        self._line.perform(self._pool.send, to, content, timeout=timeout)

    def send_nowait(self, to: AgentId | str, content: Any) -> None:
        """Deliver a message to an agent's inbox, without waiting for room.

        Raises:
          UnknownAgentError: if the recipient never existed or has ended; of a name, as `find`.
          trio.WouldBlock: if its inbox is full.
        """
        self._line.now(self._pool.send_nowait, to, content)

    def ask(self, to: AgentId | str, content: Any, timeout: float | None = None) -> Any:
        """Deliver a question to an agent, and return the content of its reply.

        Raises:
          UnknownAgentError: if there is none, or it ends without a reply.
          TimeoutError: if it has not replied by then; the question may have been delivered.
        """
        return self._line.perform(self._pool.ask, to, content, timeout=timeout)

    def find(self, name: str) -> AgentId:
        """Return the id of the live agent with a name.

        Raises:
          UnknownAgentError: if no live agent of the pool has it, or several have.
        """
        return self._line.now(self._pool.find, name)

    # -- events --------------------------------------------------------------------------------------

    def events(
        self, max_buffer: int = 1024, overflow: Overflow = "drop_oldest"
    ) -> AbstractContextManager[BlockingEvents]:
        """Subscribe to what happens while the block runs; iterate over the block's value.

        As `AgentPool.events`. Events that are under way to this thread are not counted as buffered.

        Raises:
          TypeError, ValueError: as `AgentPool.events`.
        """
        return _OpenEvents(self._line, lambda: self._pool.events(max_buffer, overflow))


class _Completing(AbstractContextManager[Iterator[AnyOutcome]]):
    """The block of `as_completed` in a thread."""

    def __init__(self, block: EnteredBlock[AsyncIterator[AnyOutcome]]) -> None:
        self._block = block

    def __enter__(self) -> Iterator[AnyOutcome]:
        return self._iterate(self._block.enter())

    def _iterate(self, outcomes: AsyncIterator[AnyOutcome]) -> Iterator[AnyOutcome]:
        while (outcome := self._block.perform(partial(next_of, outcomes))) is not None:
            yield outcome

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.leave(error)


class BlockingEvents(Iterator[Event]):
    """The events of a pool, in a program without an event loop; ends when the pool has ended."""

    def __init__(self, line: ThreadLine, subscription: EventSubscription) -> None:
        self._line = line
        self._subscription = subscription
        self._batch: deque[Event] = deque()

    def __repr__(self) -> str:
        return f"<BlockingEvents, {self.statistics()}>"

    def statistics(self) -> SubscriptionStatistics:
        """Return a snapshot."""
        there = self._subscription.statistics()
        return SubscriptionStatistics(there.buffered + len(self._batch), there.dropped)

    def __next__(self) -> Event:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def next(self, timeout: float | None = None) -> Event | None:
        """Return the next event, waiting for it; None when none will come any more.

        Args:
          timeout: seconds to wait at the most.

        Raises:
          TimeoutError: if none has come by then.
        """
        if not self._batch:
            try:
                self._batch.extend(self._line.perform(self._subscription.next_batch, timeout=timeout))
            except PoolClosedError:
                # Nobody writes to it any more.
                self._batch.extend(self._subscription.next_batch_nowait())
        return self._batch.popleft() if self._batch else None

    def close(self) -> None:
        """Add no more events: the reader gets what is left, and then the end."""
        self._line.soon(self._subscription.close)


class _OpenEvents(AbstractContextManager[BlockingEvents]):
    """The block of a subscription in a thread."""

    def __init__(
        self, line: ThreadLine, subscribe: Callable[[], AbstractAsyncContextManager[EventSubscription]]
    ) -> None:
        self._line = line
        self._subscribe = subscribe
        self._events: BlockingEvents | None = None

    def __enter__(self) -> BlockingEvents:
        if self._events is not None:
            raise RuntimeError("a subscription is for one block: call events() again")

        async def subscribe() -> EventSubscription:
            return await self._subscribe().__aenter__()

        self._events = BlockingEvents(self._line, self._line.perform(subscribe))
        return self._events

    def __exit__(self, *_: object) -> None:
        assert self._events is not None
        self._events.close()


def open_agent_pool_blocking(
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
) -> AbstractContextManager[BlockingAgentPool]:
    """Open a pool of agents in a program without an event loop: a plain script, threads, a notebook.

    The pool runs on trio in a thread of its own, and its agents are those of any pool. Leaving the block
    waits for every agent; Ctrl-C meanwhile, or an exception of the block, aborts them, and comes out when
    they have ended.

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
      RuntimeError: in a thread of trio's.
      TypeError, ValueError, RunPausedError, JournalError, UnhandledAgentErrors: as `open_agent_pool`.
      PoolClosedError: if the portal was stopped first.
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
    return BlockingBlock(Host(make, driver, memory, portal))


def resume_agent_pool_blocking(
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
) -> AbstractContextManager[BlockingAgentPool]:
    """Open a pool with the run that a journal holds, which goes on where it was.

    As `resume_agent_pool`, in the way of `open_agent_pool_blocking`.

    Raises:
      ReplayMismatchError, JournalCorruptError: as `resume_agent_pool`.
      RuntimeError, TypeError, ValueError, RunPausedError, JournalError, UnhandledAgentErrors,
        PoolClosedError: as `open_agent_pool_blocking`.
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
    return BlockingBlock(Host(make, driver, memory, portal))


class BlockingBlock(AbstractContextManager[BlockingAgentPool]):
    """The block of a pool in a thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._mailbox = Mailbox(host)

    def __enter__(self) -> BlockingAgentPool:
        refuse_trio_thread()
        host, context = self._host, copy_context()
        host.refuse_second_use()

        def wait() -> BaseException | None:
            host.open(self._mailbox.tell, context)
            return self._mailbox.wait_until(lambda: host.is_open or host.is_over, host.cancel)

        pressed = self._mailbox.insist(wait, host.cancel)
        if pressed is None and host.is_open:
            return BlockingAgentPool(host)
        _come_out(host, None, self._over(host.cancel) or pressed)
        raise AssertionError("a pool that is over before it is open has raised")

    def _over(self, leave: Callable[[], object]) -> BaseException | None:
        """Have the block left, and wait until the pool is over; return the Ctrl-C of meanwhile."""
        host = self._host

        def wait() -> BaseException | None:
            leave()
            pressed = self._mailbox.wait_until(lambda: host.is_over, host.cancel)
            host.join()
            return pressed

        return self._mailbox.insist(wait, host.cancel)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _come_out(self._host, error, self._over(partial(self._host.leave, error)))
        finally:
            if error is not None:
                error.__traceback__ = trace  # without the way through the pool's thread
            del error, trace


def _come_out(host: Host, error: BaseException | None, pressed: BaseException | None) -> None:
    """Raise what came out of the pool, unless it is what left the block anyway; Ctrl-C wins."""
    try:
        host.close()
    except BaseException as raised:
        if pressed is None:
            if raised is not error:
                raise
            return
        if raised is not pressed:
            note(pressed, f"the pool raised {in_full(raised)}")
    if pressed is not None:
        raise pressed
