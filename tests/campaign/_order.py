"""The order oracle: woken agents before new ones, first come first served, but for one in eight.

Books do not see order, so this listens to who asks for a slot and who gets one, keeps a model of
the two queues, and compares every grant with the rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from agentpool._kernel import slots as _slots

WOKEN_IN_A_ROW = 8


@attrs.define(eq=False)
class OrderOracle:
    """A model of the queues of each pool's slots, and what was granted out of order."""

    problems: list[str] = attrs.field(factory=list)
    grants: int = 0
    contested: int = 0
    _queues: dict[int, _Queues] = attrs.field(factory=dict)

    def _of(self, slots: _slots.Slots) -> _Queues:
        return self._queues.setdefault(id(slots), _Queues(slots))

    def asked(self, slots: _slots.Slots, party: Any) -> None:
        self._of(slots).woken.append(party)

    def queued(self, slots: _slots.Slots, start: Any) -> None:
        self._of(slots).queued.append(start)

    def granted(self, slots: _slots.Slots, party: Any) -> None:
        """Compare a grant with the rule; the party is one that was woken, or one that starts."""
        queues = self._of(slots)
        queues.tidy(party)
        is_woken = party in queues.woken
        self.grants += 1
        if queues.woken and queues.new:
            self.contested += 1
        if is_woken:
            if queues.woken[0] is not party:
                self.problems.append(f"agent {party.id} got its slot before agent {queues.woken[0].id}")
            if queues.new and queues.in_a_row >= WOKEN_IN_A_ROW:
                self.problems.append(
                    f"agent {party.id} was the ninth woken one in a row while one waited to start"
                )
            queues.woken.remove(party)
            queues.in_a_row = queues.in_a_row + 1 if queues.queued else 0
        else:
            if queues.woken and queues.in_a_row < WOKEN_IN_A_ROW:
                names = [waiting.id for waiting in queues.woken]
                self.problems.append(f"agent {party.id} started while agents {names} were woken and waited")
            queues.in_a_row = 0


@attrs.define(eq=False)
class _Queues:
    slots: _slots.Slots
    woken: list[Any] = attrs.field(factory=list)
    queued: list[Any] = attrs.field(factory=list)
    new: list[Any] = attrs.field(factory=list)
    in_a_row: int = 0

    def tidy(self, granted: Any) -> None:
        """Forget who does not wait any more: let go without a slot, or not wanted."""
        self.woken = [party for party in self.woken if party is granted or (party.ready and not party.holds)]
        # Starts join on the right and leave on the left, so that those that left can be told.
        gone = len(self.queued) - len(self.slots._new)
        left, self.queued = self.queued[:gone], self.queued[gone:]
        if granted in self.woken and any(not start.cancelled for start in left):
            self.in_a_row = 0  # one had its turn, and was refused
        self.new = [start for start in self.queued if not start.cancelled]


@contextmanager
def watching_order() -> Iterator[OrderOracle]:
    """Listen to the slots of every pool while the block runs."""
    oracle = OrderOracle()
    slots: Any = _slots.Slots
    request, queue, make = slots.request, slots.queue, slots.__init__

    def listening_request(self: Any, party: Any) -> None:
        oracle.asked(self, party)
        request(self, party)

    def listening_queue(self: Any, start: Any) -> None:
        oracle.queued(self, start)
        queue(self, start)

    def listening_init(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.limiter = _ListeningLimiter(self, self.limiter, oracle)

    slots.request, slots.queue, slots.__init__ = listening_request, listening_queue, listening_init
    try:
        yield oracle
    finally:
        slots.request, slots.queue, slots.__init__ = request, queue, make


class _ListeningLimiter:
    """A capacity limiter that tells who borrows from it."""

    def __init__(self, slots: Any, limiter: Any, oracle: OrderOracle) -> None:
        self.__dict__.update(_slots=slots, _limiter=limiter, _oracle=oracle)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._limiter, name, value)

    def acquire_on_behalf_of_nowait(self, borrower: Any) -> None:
        self._oracle.granted(self._slots, borrower)
        self._limiter.acquire_on_behalf_of_nowait(borrower)
