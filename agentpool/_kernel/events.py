"""Subscriptions to what happens in a pool: each is a cursor in the one log.

A reader gets what has piled up in one batch, because a reader that took one event for each turn
of the scheduler would fall behind as soon as a hundred agents are busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, TypeAlias

import attrs
import trio

from agentpool._core.events import AgentFinished, Event
from agentpool._core.text import shown
from agentpool._kernel.current import current_agent, waiting_agent
from agentpool._kernel.log import BATCH, EventLog
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import Wait, Waiter

Overflow: TypeAlias = Literal["drop_oldest", "block"]


@attrs.frozen
class SubscriptionStatistics:
    """A snapshot of a subscription.

    Attributes:
      buffered: how many events wait for the reader.
      dropped: how many it lost, because it was slow.
    """

    buffered: int
    dropped: int


class ReadWait(Wait):
    """A task waits for the next event: anybody could end the wait, and quiescence does at last."""

    def __init__(self, waiter: Waiter | None, subscription: EventSubscription) -> None:
        super().__init__(waiter, source=subscription)
        self.subscription = subscription

    @property
    def looks_elsewhere(self) -> bool:
        """Also when the events are those of another pool, which tells its end by itself."""
        assert self.waiter is not None
        return self.waiter.slots is not self.subscription.slots or super().looks_elsewhere


class RoomWait(Wait):
    """A task waits until the reader of a full subscription has caught up."""

    def __init__(self, waiter: Waiter | None, subscription: EventSubscription) -> None:
        super().__init__(waiter, lambda: subscription.readers_for(waiter))
        self.subscription = subscription

    @property
    def looks_elsewhere(self) -> bool:
        """Also when somebody outside may read, or an agent of another pool."""
        assert self.waiter is not None
        readers = self.subscription.readers_for(self.waiter)
        if readers is None or any(reader.slots is not self.waiter.slots for reader in readers):
            return True
        return super().looks_elsewhere


class EventSubscription(AsyncIterator[Event]):
    """The events of a pool from the moment of subscribing on; ends when the pool has ended.

    Iterating is a checkpoint at least once for every batch of events that had piled up. An agent
    that reads lends its slot while it waits, and gets the end when only such readers are left. What
    is left when the subscription ends can still be read.

    Attributes:
      closed: whether no more events are added.
      opener: the agent whose block it is; None for somebody outside of the agents.
      reader: who read last, and before that who opened it. None for somebody outside. Followed
        only where agents wait for it (`overflow="block"`).
    """

    def __init__(self, log: EventLog, max_buffer: int, overflow: Overflow, opener: Waiter | None) -> None:
        self.max_buffer = max_buffer
        self.overflow = overflow
        self.dropped: int = 0
        self.cursor: int = log.end
        self.closed: bool = False
        self.opener = opener
        self.reader = opener
        self._log = log
        self._batch: deque[Event] = deque()
        # `finished` events that the cursor had to pass over, as they are dropped last; and at the
        # end all that was left.
        self._kept: deque[Event] = deque()
        self._wait: ReadWait | None = None
        self._writers: deque[Wait] = deque()
        self._hold(opener)

    def __repr__(self) -> str:
        return f"<EventSubscription, {self.statistics()}>"

    @property
    def ends_first(self) -> bool:
        """Not before inboxes: events tell of their ends."""
        return False

    def end(self) -> None:
        """Only agents that read are left."""
        self.close()

    @property
    def slots(self) -> object:
        """Those of the pool whose events they are."""
        return self._log.slots

    @property
    def behind(self) -> int:
        """How many events wait for the reader."""
        in_log = 0 if self.closed else self._log.end - self.cursor
        return len(self._batch) + len(self._kept) + in_log

    def statistics(self) -> SubscriptionStatistics:
        """Return a snapshot."""
        return SubscriptionStatistics(buffered=self.behind, dropped=self.dropped)

    # -- reading -----------------------------------------------------------------------------------

    def __aiter__(self) -> EventSubscription:
        return self

    async def __anext__(self) -> Event:
        if not self._batch:
            await self._fill()
        event = self._batch.popleft()
        if self._writers:
            self._make_room()
        return event

    async def next_batch(self) -> list[Event]:
        """Take all events that have piled up, up to 256, waiting for the first; none at the end.

        For who hands them on elsewhere, to another thread or over a wire: one hop for many.

        Checkpoint: unless events were left of an earlier batch. Cancellation: none was taken.
        """
        if not self._batch:
            try:
                await self._fill()
            except StopAsyncIteration:
                return []
        return self._take()

    def next_batch_nowait(self) -> list[Event]:
        """Take all events that have piled up, up to 256; none if there are none."""
        if not self._batch:
            self._catch_up()
        return self._take()

    def _take(self) -> list[Event]:
        batch = list(self._batch)
        self._batch.clear()
        if self._writers:
            self._make_room()
        return batch

    async def _fill(self) -> None:
        waiter = waiting_agent()
        await trio.lowlevel.checkpoint()
        if self.overflow == "block" and not self.closed:
            self._read_by(waiter)
        self._catch_up()
        while not self._batch:
            if self.closed:
                raise StopAsyncIteration
            await self._sleep(waiter)
            self._catch_up()

    def _make_room(self) -> None:
        """An event was handed out: there may be room again, whether or not the reader comes back."""
        if self.behind < self.max_buffer:
            self._admit()

    async def _sleep(self, waiter: Waiter | None) -> None:
        if self._wait is not None:
            raise trio.BusyResourceError("another task reads this subscription already")
        self._wait = ReadWait(waiter, self)
        # Before it parks: the lending that begins there may start an agent, which is an event.
        self._log.sleeping[self] = None
        await self._wait.park(self._forget)

    def _forget(self, wait: Wait) -> None:
        self._wait = None
        self._log.sleeping.pop(self, None)

    def wake(self) -> None:
        """There is something to read, or nothing will come any more."""
        if self._wait is not None:
            wait, self._wait = self._wait, None
            wait.wake()

    def _catch_up(self) -> None:
        self.shed()
        room = BATCH
        while self._kept and room:
            self._batch.append(self._kept.popleft())
            room -= 1
        if self.closed:
            return  # what was left in the log is kept
        taken = self._log.slice(self.cursor, room)
        self.cursor += len(taken)
        self._batch.extend(taken)

    def shed(self) -> None:
        """Pass over the oldest events of a reader that is too slow; `finished` ones are kept longer."""
        if self.overflow == "block" or self.closed:
            return
        # Again, because the `finished` ones among those that were passed over still take room.
        while (excess := self.behind - self.max_buffer) > 0:
            passed = self._log.slice(self.cursor, excess)
            if not passed:
                break
            self.cursor += len(passed)
            finished = [event for event in passed if type(event) is AgentFinished]
            self._kept.extend(finished)
            self.dropped += len(passed) - len(finished)
        while len(self._kept) > self.max_buffer:
            self._kept.popleft()
            self.dropped += 1

    # -- agents that wait for the reader -------------------------------------------------------------

    def holds_up(self, waiter: Waiter | None) -> bool:
        """Whether an agent has to wait before its next step until the reader has caught up.

        Never the reader itself: what it reads with would be what waits.
        """
        if self.overflow != "block" or self.behind < self.max_buffer:
            return False
        return self.reader is None or self.reader is not waiter

    def readers_for(self, waiter: Waiter | None) -> Sequence[Waiter] | None:
        """Who may catch up, for an agent that waits: who read last, and who opened it.

        None if one of them is outside of the agents, who goes on whatever these do. Never the agent
        that waits, which cannot read meanwhile.
        """
        if self.reader is None or self.opener is None:
            return None
        if self.opener is self.reader or self.opener is waiter:
            return (self.reader,)
        return (self.reader, self.opener)

    async def wait_for_room(self, waiter: Waiter | None) -> None:
        """Wait until the reader has caught up, or is somebody else; ask `holds_up` again after it.

        Checkpoint: always. Cancellation: leaves nothing behind.
        """
        wait = RoomWait(waiter, self)
        self._writers.append(wait)
        await wait.park(self._writers.remove)

    def _admit(self) -> None:
        while self._writers:
            self._writers.popleft().wake()

    def _read_by(self, waiter: Waiter | None) -> None:
        """Note who reads: from here on that agent's waits decide whether those for it are hopeless."""
        if waiter is self.reader:
            return
        if self.reader is not self.opener:
            self._let_go(self.reader)
        self.reader = waiter
        self._hold(waiter)
        self._admit()  # they look again for whom they wait

    # -- its end -------------------------------------------------------------------------------------

    def _hold(self, waiter: Waiter | None) -> None:
        if waiter is not None and self not in waiter.held:
            waiter.held = (*waiter.held, self)

    def _let_go(self, waiter: Waiter | None) -> None:
        if waiter is not None:
            waiter.held = tuple(other for other in waiter.held if other is not self)

    def holder_ended(self, waiter: Waiter) -> None:
        """An agent ended that opened it and did not leave the block, or that read it."""
        if waiter is self.opener:
            self.close()
        else:
            self._read_by(self.opener)  # who may read on

    def close(self) -> None:
        """Add no more events: the reader gets what is left, and then the end. Harmless if repeated."""
        if self.closed:
            return
        self.shed()
        self._kept.extend(self._log.slice(self.cursor, self._log.end - self.cursor))
        self.closed = True
        self._let_go(self.opener)
        self._let_go(self.reader)
        self._log.unsubscribe(self)
        self.wake()
        self._admit()


def holding_up(log: EventLog, waiter: Waiter | None) -> EventSubscription | None:
    """The first subscription for whose reader an agent has to wait before its next step."""
    for subscription in log.subscriptions:
        if isinstance(subscription, EventSubscription) and subscription.holds_up(waiter):
            return subscription
    return None


class OpenSubscription(AbstractAsyncContextManager[EventSubscription]):
    """What `pool.events()` returns: the subscription begins and ends with the block.

    Not a generator with `asynccontextmanager`: that writes to exceptions, which those of frozen
    classes do not allow.

    Raises:
      TypeError, ValueError: if an argument makes no sense.
    """

    def __init__(self, log: EventLog, max_buffer: int, overflow: Overflow) -> None:
        if isinstance(max_buffer, bool) or not isinstance(max_buffer, int):
            raise TypeError(f"max_buffer must be an int, not {shown(max_buffer)}")
        if max_buffer < 1:
            raise ValueError(f"max_buffer must be at least 1, not {max_buffer}")
        if overflow not in ("drop_oldest", "block"):
            raise ValueError(f'overflow must be "drop_oldest" or "block", not {shown(overflow)}')
        self._log = log
        self._max_buffer = max_buffer
        self._overflow: Overflow = overflow
        self._subscription: EventSubscription | None = None

    async def __aenter__(self) -> EventSubscription:
        if self._subscription is not None:
            raise RuntimeError("a subscription is for one block: call events() again")
        opener = current_agent()
        self._subscription = EventSubscription(self._log, self._max_buffer, self._overflow, opener)
        self._log.subscribe(self._subscription)
        return self._subscription

    async def __aexit__(self, *_: object) -> None:
        assert self._subscription is not None
        self._subscription.close()


protect_module(globals())
