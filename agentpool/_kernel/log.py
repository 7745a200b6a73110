"""What happens in a pool, in the order in which it happens: one log, in which its subscribers read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio

from agentpool._core.events import Event
from agentpool._core.messages import AgentId
from agentpool._kernel.protection import protect_module
from agentpool._kernel.reports import Reports

BATCH = 256
"""A reader takes at most so many events between two checkpoints, and the log is trimmed as often."""


class Subscriber(Protocol):
    """Who reads in the log, from its cursor on."""

    cursor: int

    def wake(self) -> None:
        """There is something to read, or nothing will come any more."""

    def shed(self) -> None:
        """Pass over what it is too slow for: the log drops what nobody has to read."""

    def close(self) -> None:
        """The pool has ended."""


class Tap:
    """Shows each event in the step in which it happens; stands among the subscriptions of a pool.

    For instruments: what it calls neither waits nor raises. `AgentStarted`, `ToolStarted` and
    `ModelCallStarted` are shown in the context variables in which the agent, the tool or the driver is
    about to run, before any of its code. So a variable that is set then is seen by that code, and by what
    it starts in turn. That of an agent, or of a tool, ends with it; after a model call, whoever had set it
    sets it back when `ModelCallFinished` is shown, which is in the same context.
    """

    def __init__(self, log: EventLog, show: Callable[[Event], None], ended: Callable[[], None]) -> None:
        self.cursor: int = log.end
        self._log = log
        self._show = show
        self._ended = ended

    def wake(self) -> None:
        """Show what is new."""
        new = self._log.slice(self.cursor, self._log.end - self.cursor)
        self.cursor = self._log.end
        for event in new:
            self._show(event)

    def shed(self) -> None:
        """Nothing is ever left behind."""

    def close(self) -> None:
        """Nothing is left to show."""
        self._ended()


class EventLog:
    """The events of a pool that some subscriber has not read yet.

    Args:
      slots: those of the pool, by which its agents are told from those of others.
      reports: what is told through `logging`, which whoever writes here tells beside it.
    """

    def __init__(self, slots: object, reports: Reports) -> None:
        self.slots = slots
        self.reports = reports
        self.subscriptions: list[Subscriber] = []
        # Taps are always among those who are woken: they cost nothing where there are none.
        self.sleeping: dict[Subscriber, None] = {}
        self.closed: bool = False
        self.end: int = 0
        self._events: list[Event] = []
        self._start = 0
        self._next_trim = BATCH
        self._taps: dict[Subscriber, None] = {}

    def emit(self, kind: type[Any], agent_id: AgentId, parent_id: AgentId, *own: Any) -> None:
        """Make an event and hand it to the subscribers; costs next to nothing without any."""
        if not self.subscriptions:
            return
        self._events.append(kind(self.end + 1, trio.current_time(), agent_id, parent_id, *own))
        self.end += 1
        if self.sleeping:
            sleeping, self.sleeping = self.sleeping, self._taps.copy()
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

    # -- coming and going --------------------------------------------------------------------------

    def subscribe(self, subscription: Subscriber) -> None:
        """Have somebody read, from where it stands on; it is told at once if the pool has ended."""
        if self.closed:
            subscription.close()
        else:
            self.subscriptions.append(subscription)

    def unsubscribe(self, subscription: Subscriber) -> None:
        """Drop a subscription; harmless if it was dropped before."""
        self.sleeping.pop(subscription, None)
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)

    def tap(self, show: Callable[[Event], None], ended: Callable[[], None] = lambda: None) -> Tap:
        """Show each event in the step in which it happens, until the pool has ended, or `untap`.

        Args:
          show: is called with each event.
          ended: is called when the pool has ended.
        """
        tap = Tap(self, show, ended)
        if self.closed:
            tap.close()
            return tap
        self._taps[tap] = None
        self.sleeping = {**self._taps, **self.sleeping}  # before the readers
        self.subscriptions.append(tap)
        return tap

    def untap(self, tap: Tap) -> None:
        """Show a tap nothing more; harmless if it was dropped before."""
        self._taps.pop(tap, None)
        self.unsubscribe(tap)

    def close(self) -> None:
        """The pool has ended: readers get what is left, and then the end."""
        self.closed = True
        ended = tuple(self.subscriptions)
        self.subscriptions.clear()  # in place: the agents look at this list
        for subscription in ended:
            subscription.wake()
            subscription.close()


protect_module(globals())
