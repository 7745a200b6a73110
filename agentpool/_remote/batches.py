"""The verbs that run many agents in one call, as code in a worker has them.

The agents are run by the head, by the same verbs. An input that is no plain collection is read here, by a
task of its owner, one item at a time as the head wants it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Hashable, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import trio

from agentpool._core.outcomes import AgentOutcome, AnyOutcome
from agentpool._kernel._trio_private import is_cancelled_at, standing_of
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.batch import raise_of_input
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.feeding import BlockWasLeft, Feeder, PulledFeed, check_items, is_collection
from agentpool._kernel.many import ManyScope, Outcomes, Poll, Verdict, VotersBlock
from agentpool._kernel.options import check_agent, check_agents, options_of
from agentpool._kernel.protection import protect_module
from agentpool._kernel.state import PoolState
from agentpool._kernel.wait import Wait
from agentpool._remote.batch_blocks import InputFailedError
from agentpool._remote.codec import outcome_from_bytes
from agentpool._remote.worker_line import HEAD, WorkerLine

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext
    from agentpool._kernel.places import Op

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741
Ts = TypeVarTuple("Ts")


class PlacedMany(ManyScope):
    """The half of the context of an agent in a worker that runs many agents in one call."""

    __slots__ = ()

    _agent: AgentRecord
    _line: WorkerLine
    _state: PoolState

    async def map(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> list[AgentOutcome[T]]:
        """Run an agent for each item, and return the outcomes in the items' order; as `AgentContext.map`.

        A plain collection is sent to the head at once; any other input is read here, as slots become free.

        Raises:
          TypeError: if the agent or an item cannot be sent to another process.
        """
        check_agent(agent)
        check_items(items)
        options_of(name, timeout)
        op = self._line.draw()  # before the task that reads is started, which has a number too
        given = _Input(self._line, items, self._state)
        found: list[bytes] = []
        async with given:
            try:
                found = await self._line.start_agents(op, "map", agent, given.sent, name, timeout)
            except InputFailedError:
                pass  # raised below
        given.raise_error()
        await trio.lowlevel.checkpoint_if_cancelled()  # the agents may have been aborted with their owner
        return [outcome_from_bytes(data, HEAD) for data in found]

    def as_completed(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[AgentOutcome[T]]]:
        """Run an agent for each item, and iterate over the outcomes; as `AgentContext.as_completed`.

        Each outcome comes from the head when it is asked for.

        Raises (while entering the block):
          TypeError: if the agent or an item of a plain collection cannot be sent to another process.
        """
        check_agent(agent)
        check_items(items)
        options_of(name, timeout)
        given = _Input(self._line, items, self._state)
        op = self._line.draw()
        return _PlacedBlock(self._line, op, given, "open_batch", lambda: (agent, given.sent, name, timeout))

    async def race(self, *agents: Callable[[AgentContext], Awaitable[T]]) -> AgentOutcome[T]:
        """Run several agents, and return the first `Completed`; as `AgentContext.race`."""
        if not agents:
            raise ValueError("a race needs at least one agent")
        check_agents(agents)
        data = await self._line.start_agents(self._line.draw(), "race", agents)
        await trio.lowlevel.checkpoint_if_cancelled()  # as in `map`
        return outcome_from_bytes(data, HEAD)

    async def vote(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        n: int,
        quorum: int | None = None,
        key: Callable[[T], Hashable] | None = None,
    ) -> Verdict[T]:
        """Run the same agent `n` times, and see which value a quorum agrees on; as `AgentContext.vote`.

        `key` is called here, so that it may be any function, with what came back from the head.
        """
        if key is not None:
            return await super().vote(agent, *args, n=n, quorum=quorum, key=key)
        poll: Poll[T] = Poll(n, quorum, None)
        check_agent(agent)
        found = await self._line.start_agents(self._line.draw(), "vote", agent, args, n, quorum)
        await trio.lowlevel.checkpoint_if_cancelled()  # as in `map`
        for data in found:
            poll.is_decided_by(outcome_from_bytes(data, HEAD))
        return poll.verdict()

    def open_vote(self, agent: Callable[..., Awaitable[Any]], args: tuple[Any, ...], n: int) -> VotersBlock:
        """Return the block in which the agents of a vote run."""
        given = _Input(self._line, (), self._state)
        return _PlacedBlock(self._line, self._line.draw(), given, "open_vote", lambda: (agent, args, n))


class _Input(AbstractAsyncContextManager[None]):
    """The items of a batch; the block in which they are read, if they are no plain collection.

    Attributes:
      sent: what the head is told of them.
      feed: the number of the input; None for a plain collection.
    """

    def __init__(self, line: WorkerLine, items: Any, state: PoolState) -> None:
        self.feed: int | None = None
        self._line = line
        self._items = items
        self._state = state
        self._error: BaseException | None = None
        self._reading: _Reading | None = None
        self._feeder: Feeder | None = None
        self._abandon: Callable[[], object] = _nothing
        if not is_collection(items):
            self._reading = _Reading(self)

    @property
    def sent(self) -> tuple[Collection[Any] | None, int | None]:
        """What the head is told of them: all of them, or the number of the input."""
        items = self._items
        if self._reading is not None:
            return None, self.feed
        # Such as the order of a set: it is that of this process.
        return (items if isinstance(items, range) else list(items)), None

    def when_left_open(self, abandon: Callable[[], object]) -> None:
        """Have the agents aborted if the code never leaves the block."""
        self._abandon = abandon

    def open(self) -> None:
        """Have what the head wants noted from now on."""
        if self._reading is not None:
            self.feed = self._line.open_feed(self._reading.wanted)

    async def start(self) -> None:
        """Begin to read, in a task of the owner; no checkpoint."""
        if self._reading is not None:
            self._feeder = await Feeder.start(waiting_agent(), self._reading, self._items)

    async def __aenter__(self) -> None:
        owner = waiting_agent()  # may refuse: first
        assert owner is not None
        self.open()
        await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
        if error is not None:
            self.raise_error(beside=error)

    async def end(self) -> None:
        """Read no more, and wait until the code of the input has ended."""
        if self._reading is not None and self.feed is not None:
            self._reading.withdraw()
            if self._feeder is not None:
                await self._feeder.end()
            self._line.close_feed(self.feed)

    def raise_error(self, *, beside: BaseException | None = None) -> None:
        """Raise what the input raised, once; as `Batch.raise_error`."""
        error, self._error = self._error, None
        try:
            raise_of_input(error, beside)
        finally:
            del error, beside

    # -- told by what reads it -------------------------------------------------------------------------

    def give(self, item: Any) -> None:
        """Hand an item on; raises `TypeError` if it cannot be sent."""
        self._line.tell("item", self.feed, "item", item)

    def end_input(self, error: BaseException | None = None) -> None:
        """There are no more items, or no more can be had."""
        self._error = error
        self._line.tell("item", self.feed, "end" if error is None else "failed", None)

    def fail(self, error: BaseException) -> None:
        """The input raised what no pool may contain: it leaves the worker's at once."""
        self.end_input(error)
        self._state.fatal_error(error, "an input")

    def abandon(self) -> None:
        """The block was never left: start no more agents, and abort those that live."""
        self._abandon()


class _Reading(PulledFeed):
    """Reads an input, one item at a time as the head wants it.

    Attributes:
      withdrawn: whether nobody wants more.
    """

    def __init__(self, given: _Input) -> None:
        super().__init__(given)
        self.withdrawn = False
        self._given = given
        self._is_wanted = False
        self._wait: Wait | None = None

    async def run(self, items: Any) -> None:
        """Hand each item on: the feeder's task."""
        try:
            await self._until_wanted()
        except BlockWasLeft:
            return
        await super().run(items)

    async def put(self, item: Any) -> None:
        """Hand an item on, and wait until the next is wanted.

        Raises:
          BlockWasLeft: if the block was left.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.withdrawn:
            raise BlockWasLeft
        self._given.give(item)
        await self._until_wanted()

    async def _until_wanted(self) -> None:
        waiter = waiting_agent()
        if not self._is_wanted:
            self._wait = Wait(waiter)
            await self._wait.park(self._left)
        self._is_wanted = False
        if self.withdrawn:
            raise BlockWasLeft

    def _left(self, _: Wait) -> None:
        self._wait = None

    def wanted(self) -> None:
        """The head wants the next item."""
        self._is_wanted = True
        self._wake()

    def withdraw(self) -> None:
        """Nobody wants more."""
        self.withdrawn = True
        self._wake()

    def _wake(self) -> None:
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.wake()


class _PlacedBlock(AbstractAsyncContextManager[AsyncIterator[AnyOutcome]]):
    """The block in which the agents of a batch run, at the head, and their outcomes are taken here."""

    def __init__(
        self,
        line: WorkerLine,
        op: Op | None,
        given: _Input,
        verb: str,
        args: Callable[[], tuple[Any, ...]],
    ) -> None:
        self._line = line
        self._op = op
        self._given = given
        self._verb = verb
        self._args = args
        self._number: int | None = None
        self._standing: object = None
        self._come: deque[bytes] = deque()  # at most one, which the code was cancelled before it got

    async def __aenter__(self) -> AsyncIterator[AnyOutcome]:
        if self._number is not None:
            raise RuntimeError("as_completed is for one block: call it again")
        self._standing = standing_of(trio.lowlevel.current_task())
        self._given.open()
        try:
            self._number = await self._line.start_agents(self._op, self._verb, *self._args())
        except BaseException:
            await self._given.end()  # noqa: ASYNC102  (nothing was begun)
            raise
        self._given.when_left_open(self._abandon)
        await self._given.start()
        return Outcomes(self)

    def decide(self) -> None:
        """The outcomes so far are enough."""
        self._line.tell("decide_batch", self._number)

    def _abandon(self) -> None:
        self._line.tell("abandon_batch", self._number)

    def _abandon_if_cancelled(self) -> None:
        if is_cancelled_at(self._standing):
            self._abandon()

    async def next_outcome(self) -> AnyOutcome | None:
        """Take the next outcome; None at the end."""
        if self._come:
            await trio.lowlevel.checkpoint()
            return self._next_come()
        try:
            data = await self._line.ask_or(self._abandon_if_cancelled, "next_outcome", self._number)
        except InputFailedError:
            pass
        else:
            if data is not None:
                self._come.append(data)
            # An agent that is aborted with its owner ends first: the owner does not get that, as in place.
            await trio.lowlevel.checkpoint_if_cancelled()
            return self._next_come()
        self._given.raise_error()
        return None  # it was raised before

    def _next_come(self) -> AnyOutcome | None:
        return outcome_from_bytes(self._come.popleft(), HEAD) if self._come else None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandon()  # first, so that they end while the input does
        await self._given.end()
        told: Exception | None = None
        with trio.CancelScope(shield=True):
            try:
                await self._line.ask("leave_batch", self._number, self._given.feed)
            except InputFailedError:
                pass  # raised below, unless it was taken
            except Exception as raised:
                told = raised
        try:
            raise_of_input(told, error)
            self._given.raise_error(beside=error)
        finally:
            del told, error


def _nothing() -> None:
    """There is nothing to abort."""


protect_module(globals())
