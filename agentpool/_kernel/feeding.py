"""How the agents of a batch are started: from a collection, or by a task that pulls.

Over a builtin collection whoever frees a slot starts the next agent in it. Any other input is pulled
by a task of the owner, the feeder, because iterating over it runs the caller's code; in an agent the
feeder needs no slot, so that an input which ends, fails or asks the program to exit is heard at once,
whoever holds the slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import trio

from agentpool._core.errors import PoolClosedError, PoolLimitError
from agentpool._core.text import note, shown
from agentpool._kernel.activity import Activity
from agentpool._kernel.batch import Batch
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.leftovers import run_tidily, told_of
from agentpool._kernel.nursery import AgentNursery, open_known_nursery, tell_when_left_open
from agentpool._kernel.protection import await_unprotected, call_unprotected, protect_module
from agentpool._kernel.splitting import split_error
from agentpool._kernel.wait import Wait, Waiter

_BUILTIN_ITERABLES = (list, tuple, range, set, frozenset, dict, deque)


def is_collection(items: object) -> bool:
    """Whether iterating runs no code of the caller's, so that a finishing agent may take the next item."""
    return type(items) in _BUILTIN_ITERABLES


def check_items(items: object) -> None:
    """Raise `TypeError` if there is nothing to iterate over."""
    if isinstance(items, Iterable | AsyncIterable) or hasattr(items, "__getitem__"):
        return
    fix = "; call it, to get its items" if callable(items) else ""
    raise TypeError(f"items must be an iterable or an async iterable, not {shown(items)}{fix}")


class CollectionFeed:
    """The items of a builtin collection: whoever frees a slot starts the next agent in it."""

    def __init__(self, batch: Batch, items: Iterable[Any]) -> None:
        self.withdrawn = False
        self.is_queued = False
        self._batch = batch
        self._iterator: Iterator[Any] = iter(items)
        self._next: Any = None

    def open(self) -> None:
        """Start what fits into the free slots."""
        self._advance()
        self.go_on()

    def _advance(self) -> None:
        try:
            self._next = next(self._iterator)
        except StopIteration:
            self._batch.end_input()
        except RuntimeError as error:  # the collection was changed meanwhile
            self._batch.end_input(error)

    def _enqueue(self) -> None:
        if not (self._batch.input_ended or self.is_queued or self._batch.is_full):
            self.is_queued = True
            self._batch.launcher.state.slots.claim_for_start(self)

    def go_on(self) -> None:
        """Ask for a slot for the next item, unless the taker of the outcomes is far behind."""
        self._enqueue()
        self._batch.launcher.state.slots.hand_out()

    def granted(self) -> None:
        """Start an agent for the next item: a slot is free (called by the slots)."""
        self.is_queued = False
        try:
            self._batch.start(self._next)
        except (PoolClosedError, PoolLimitError) as error:
            self._batch.end_input(error)
            return
        self._advance()
        self._enqueue()  # whoever called goes on to hand out what is free

    def refuse(self, reason: str) -> None:
        """The pool takes no more agents."""
        self.is_queued = False
        self._batch.end_input(PoolClosedError(reason))

    def cancel(self) -> None:
        """Start no more agents."""
        self.withdrawn = True


class FeederWait(Wait):
    """A wait of the feeder: it goes on without the slot of its agent.

    It is never the one that is told of a deadlock: the room that it waits for is made by another
    task of its agent, whose own wait is the one that cannot end. What the input has opened in this
    task, a nursery with tasks of its own, cannot end it either: they make no room and give no slot.
    """

    def __init__(self, feeder: Waiter | None, targets: tuple[Waiter, ...] | None = None) -> None:
        super().__init__(feeder, targets, needs_slot=False)

    @property
    def can_be_withdrawn(self) -> bool:
        """Whether it may be ended by an error."""
        return False

    def unknown_nurseries(self) -> Sequence[trio.Nursery]:
        """None that matters."""
        return ()


class BlockWasLeft(Exception):
    """Nobody wants more of the input: the feeder goes home, which swallows it."""


class Fed(Protocol):
    """What is told of the end of an input."""

    def end_input(self, error: BaseException | None = None) -> None:
        """There are no more items, or no more can be had."""

    def fail(self, error: BaseException) -> None:
        """The input raised what no pool may contain."""

    def abandon(self) -> None:
        """Start no more agents, and abort those that live."""


class PulledFeed(ABC):
    """Any other input: a task of the owner pulls it, the feeder."""

    def __init__(self, fed: Fed) -> None:
        self._fed = fed
        self._nursery: AgentNursery | None = None

    @abstractmethod
    async def put(self, item: Any) -> None:
        """Hand an item on, and wait until the next is wanted."""

    def know_nursery(self, nursery: AgentNursery) -> None:
        """The feeder is a task of an agent, in this nursery, which that may leave open."""
        self._nursery = nursery
        tell_when_left_open(nursery, self)

    def left_open(self) -> None:
        """The block of the batch was never left: it is now. Cancellation alone would not do, see `put`."""
        assert self._nursery is not None
        self._fed.abandon()
        self._nursery.left_open()

    async def closed(self) -> None:
        """The feeder has ended."""
        assert self._nursery is not None
        await self._nursery.closed()

    async def run(self, items: Any) -> None:
        """Hand each item on: the feeder's task."""
        _, error, left_open = await run_tidily(_pull, (items, self))
        try:
            if left_open:
                error = _with_left_open(error, left_open)
            if error is None:
                self._fed.end_input()
            elif not isinstance(error, BlockWasLeft):
                self._raised(error)
        finally:
            del error  # its traceback holds this frame

    def _raised(self, error: BaseException) -> None:
        parts = split_error(error)
        if parts.fatal is not None:
            self._fed.fail(parts.fatal)
        elif parts.ordinary is not None:
            self._fed.end_input(parts.ordinary)  # raised where the outcomes are taken
        else:
            raise error  # cancelled, be it one by one or in the group of a nursery


class InputFeed(PulledFeed):
    """An input from which agents are started here."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.withdrawn = False
        self._batch = batch
        self._item: Any = None
        self._slot: Wait | None = None
        self._room: Wait | None = None

    async def put(self, item: Any) -> None:
        """Start an agent for an item, waiting for room for it, and then for a slot.

        Raises:
          BlockWasLeft: if the block was left. Cancellation alone would not do: an input that yields
            inside of a shield keeps it from its feeder, which is in that shield too.

        Cancellation: `Cancelled` means that it was not started.
        """
        waiter = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.withdrawn:
            raise BlockWasLeft
        if self._batch.is_full:
            # Ended by the taker of the outcomes, a task of the same agent: no edge to anybody. So it
            # keeps no agent from being hopeless, and what the taker waits for decides.
            self._room = FeederWait(waiter, ())
            await self._room.park(self._left)
            if self.withdrawn:
                raise BlockWasLeft  # in the very step in which an outcome was taken
        slots = self._batch.launcher.state.slots
        if slots.has_room:
            self._batch.start(item)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._item = item
        self._slot = FeederWait(waiter)
        slots.claim_for_start(self)
        await self._slot.park(self._left)

    def _left(self, wait: Wait) -> None:
        """The feeder is cancelled while it waits."""
        self._slot = self._room = None
        self._batch.cancel()
        self._batch.abandon_if_cancelled()

    @property
    def is_queued(self) -> bool:
        """Whether an agent waits for its slot."""
        return self._slot is not None

    def go_on(self) -> None:
        """Let the feeder go on if there is room again."""
        if self._room is not None and not self._batch.is_full:
            room, self._room = self._room, None
            room.wake()

    def granted(self) -> None:
        """Start an agent for the item that was pulled: a slot is free (called by the slots)."""
        slot, self._slot = self._slot, None
        assert slot is not None
        try:
            self._batch.start(self._item)
        except (PoolClosedError, PoolLimitError) as error:
            slot.fail(error)
        else:
            slot.wake()

    def refuse(self, reason: str) -> None:
        """The pool takes no more agents."""
        slot, self._slot = self._slot, None
        assert slot is not None
        slot.fail(PoolClosedError(reason))

    def cancel(self) -> None:
        """Start no more agents."""
        self.withdrawn = True
        waits, self._slot, self._room = (self._slot, self._room), None, None
        for wait in waits:
            if wait is not None:
                wait.fail(BlockWasLeft())


class Feeder:
    """The task that runs a feed, in a nursery of its own."""

    def __init__(
        self,
        manager: AbstractAsyncContextManager[trio.Nursery | AgentNursery],
        nursery: trio.Nursery | AgentNursery,
    ) -> None:
        self._manager = manager
        self._nursery = nursery

    @classmethod
    async def start(cls, owner: Activity | None, feed: PulledFeed, items: Any) -> Feeder:
        """Start it, as a task of an agent, or of nobody; no checkpoint."""
        manager: AbstractAsyncContextManager[trio.Nursery | AgentNursery]
        manager = trio.open_nursery() if owner is None else open_known_nursery(owner)
        nursery = await manager.__aenter__()
        if isinstance(nursery, AgentNursery):
            feed.know_nursery(nursery)
        nursery.start_soon(feed.run, items)
        return cls(manager, nursery)

    async def end(self) -> BaseException | None:
        """End it, and wait for that; return the Ctrl-C that was pressed just before.

        The nursery does not get the exception of the block, which it would wrap in a group, nor does
        it see a cancellation from outside, for the same reason. So it raises nothing else: the feeder
        keeps what the input raises, and Ctrl-C does not reach a wait that was cancelled before.
        """
        self._nursery.cancel_scope.shield = True
        self._nursery.cancel_scope.cancel("the block that pulls from the input was left")
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            return split_error(group).fatal
        return None


def _with_left_open(error: BaseException | None, left_open: tuple[str, ...]) -> BaseException:
    """Make what an input left open on the feeder's task its error, or tell of it on the one it has."""
    parts = None if error is None or isinstance(error, BlockWasLeft) else split_error(error)
    if error is None or parts is None or (parts.fatal is None and parts.ordinary is None):
        return RuntimeError(f"the input ended with {told_of(left_open)}")
    note(error, told_of(left_open))
    return error


# These run the caller's code; Ctrl-C may strike in it.

_END = object()


async def _pull(items: Any, feed: PulledFeed) -> None:
    if isinstance(items, AsyncIterable):
        await _pull_async(items, feed)
    else:
        iterator: Iterator[Any] = call_unprotected(iter, items)
        while (item := call_unprotected(next, iterator, _END)) is not _END:
            await feed.put(item)


async def _pull_async(items: AsyncIterable[Any], feed: PulledFeed) -> None:
    iterator = call_unprotected(aiter, items)
    try:
        while (item := await await_unprotected(anext, iterator, _END)) is not _END:
            await feed.put(item)
    finally:
        # Also one that `__aiter__` of a class is: else it would be left to the garbage collector.
        if isinstance(iterator, AsyncGenerator):
            await _close(iterator)


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    """Close an input that was not read to its end.

    A nursery inside puts the `GeneratorExit` that closes it in a group, beside its own cancellation if
    the block that pulls was left: that is no error of the input.
    """
    try:
        await await_unprotected(generator.aclose)
    except BaseExceptionGroup as group:
        rest = group.split(GeneratorExit)[1]
        if rest is not None:
            raise rest from None


protect_module(globals())
