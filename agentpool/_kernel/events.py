"""Subscriptions to what happens in a pool: one shared log, and a cursor for each reader.

A reader gets what has piled up in one batch, because a reader that took one event for each turn
of the scheduler would fall behind as soon as a hundred agents are busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Literal, TypeAlias

import attrs
import trio

from agentpool._core.events import AgentFinished, Event
from agentpool._core.messages import AgentId
from agentpool._core.text import shown
from agentpool._kernel.protection import protect_module

Overflow: TypeAlias = Literal["drop_oldest", "block"]

BATCH = 256
"""A reader takes at most so many events between two checkpoints, and the log is trimmed as often."""


@attrs.frozen
class SubscriptionStatistics:
    """A snapshot of a subscription.

    Attributes:
      buffered: how many events wait for the reader.
      dropped: how many it lost, because it was slow.
    """

    buffered: int
    dropped: int


class EventSubscription(AsyncIterator[Event]):
    """The events of a pool from the moment of subscribing on; ends when the pool has ended.

    Iterating is a checkpoint at least once for every batch of events that had piled up.
    """

    def __init__(self, log: EventLog, max_buffer: int, overflow: Overflow) -> None:
        self.max_buffer = max_buffer
        self.overflow = overflow
        self.dropped: int = 0
        self.cursor: int = log.end
        self._log = log
        self._batch: deque[Event] = deque()
        # `finished` events that the cursor had to pass over: they are dropped last.
        self._kept: deque[Event] = deque()
        self._task: trio.lowlevel.Task | None = None

    def __repr__(self) -> str:
        return f"<EventSubscription, {self.statistics()}>"

    @property
    def behind(self) -> int:
        """How many events wait for the reader."""
        return len(self._batch) + len(self._kept) + self._log.end - self.cursor

    def statistics(self) -> SubscriptionStatistics:
        """Return a snapshot."""
        return SubscriptionStatistics(buffered=self.behind, dropped=self.dropped)

    def __aiter__(self) -> EventSubscription:
        return self

    async def __anext__(self) -> Event:
        if self._batch:
            return self._batch.popleft()
        await trio.lowlevel.checkpoint()
        self._catch_up()
        while not self._batch:
            if self._log.closed:
                raise StopAsyncIteration
            await self._sleep()
            self._catch_up()
        return self._batch.popleft()

    async def _sleep(self) -> None:
        if self._task is not None:
            raise trio.BusyResourceError("another task reads this subscription already")
        self._task = trio.lowlevel.current_task()
        self._log.sleeping.append(self)

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._task = None
            self._log.sleeping.remove(self)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """There is something to read, or nothing will come any more."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def _catch_up(self) -> None:
        self.shed()
        room = BATCH
        while self._kept and room:
            self._batch.append(self._kept.popleft())
            room -= 1
        taken = self._log.slice(self.cursor, room)
        self.cursor += len(taken)
        self._batch.extend(taken)
        self._log.reader_moved()

    def shed(self) -> None:
        """Pass over the oldest events of a reader that is too slow; `finished` ones are kept longer."""
        if self.overflow == "block":
            return
        excess = self.behind - self.max_buffer
        if excess <= 0:
            return
        passed = self._log.slice(self.cursor, excess)
        self.cursor += len(passed)
        finished = [event for event in passed if type(event) is AgentFinished]
        self._kept.extend(finished)
        self.dropped += len(passed) - len(finished)
        while len(self._kept) > self.max_buffer:
            self._kept.popleft()
            self.dropped += 1


class EventLog:
    """The events of a pool that some subscriber has not read yet."""

    def __init__(self) -> None:
        self.subscriptions: list[EventSubscription] = []
        self.sleeping: list[EventSubscription] = []
        self.closed: bool = False
        self.end: int = 0
        self._events: list[Event] = []
        self._start = 0
        self._next_trim = BATCH
        self._room: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()

    def emit(self, kind: type[Any], agent_id: AgentId, parent_id: AgentId, *own: Any) -> None:
        """Make an event and hand it to the subscribers; costs next to nothing without any."""
        if not self.subscriptions:
            return
        self._events.append(kind(self.end + 1, trio.current_time(), agent_id, parent_id, *own))
        self.end += 1
        if self.sleeping:
            sleeping, self.sleeping = self.sleeping, []
            for subscription in sleeping:
                subscription.wake()
        if self.end >= self._next_trim:
            self._trim()

    def slice(self, cursor: int, most: int) -> list[Event]:
        """Up to `most` events from `cursor` on."""
        at = cursor - self._start
        return self._events[at : at + most]

    def _trim(self) -> None:
        for subscription in self.subscriptions:
            subscription.shed()
        oldest = min((subscription.cursor for subscription in self.subscriptions), default=self.end)
        del self._events[: oldest - self._start]
        self._start = oldest
        self._next_trim = self.end + BATCH

    # -- subscribers that want to miss nothing -------------------------------------------------

    @property
    def _full(self) -> bool:
        return any(
            subscription.overflow == "block" and subscription.behind >= subscription.max_buffer
            for subscription in self.subscriptions
        )

    async def wait_for_room(self) -> None:
        """Wait until every subscriber with `overflow="block"` has room for events.

        Not a checkpoint when there is room. Cancellation: leaves nothing behind.
        """
        while self.subscriptions and self._full:
            await self._room.park()

    def reader_moved(self) -> None:
        """A reader took events: there may be room now."""
        if self._room and not self._full:
            self._room.unpark_all()

    # -- coming and going --------------------------------------------------------------------------

    def subscribe(self, max_buffer: int, overflow: Overflow) -> EventSubscription:
        """Open a subscription, from now on.

        Raises:
          ValueError: if `max_buffer` is below 1, or `overflow` is not known.
        """
        if isinstance(max_buffer, bool) or not isinstance(max_buffer, int):
            raise TypeError(f"max_buffer must be an int, not {shown(max_buffer)}")
        if max_buffer < 1:
            raise ValueError(f"max_buffer must be at least 1, not {max_buffer}")
        if overflow not in ("drop_oldest", "block"):
            raise ValueError(f'overflow must be "drop_oldest" or "block", not {shown(overflow)}')
        subscription = EventSubscription(self, max_buffer, overflow)
        if not self.closed:
            self.subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: EventSubscription) -> None:
        """Drop a subscription; harmless if it was dropped before."""
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
            self.reader_moved()

    def close(self) -> None:
        """The pool has ended: readers get what is left, and then the end."""
        self.closed = True
        self.sleeping = []
        for subscription in self.subscriptions:
            subscription.shed()
            subscription.wake()
        self.subscriptions.clear()  # in place: the agents look at this list
        self._room.unpark_all()


protect_module(globals())
