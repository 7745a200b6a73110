"""The order oracle: woken agents before new ones, first come first served, but for one in eight.

Books do not see order, so this listens to who asks for a slot and who gets one, keeps a model of
the two queues, and compares every grant with the rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from agentpool._kernel.pool import AgentPool
from agentpool._kernel.slots import Slots
from agentpool.testing import PoolInstrument

WOKEN_IN_A_ROW = 8


@attrs.define(eq=False, kw_only=True)
class OrderOracle(PoolInstrument):
    """A model of the queues of each pool's slots, and what was granted out of order."""

    problems: list[str] = attrs.field(factory=list)
    grants: int = 0
    contested: int = 0

    def pool_opened(self, pool: AgentPool) -> None:
        """Stand between the pool's slots and its queues, before anybody is in them."""
        slots: Any = pool._state.slots
        queues = _Queues(slots)
        slots._woken = _ListeningQueue(queues.woken_joined)
        slots._new = _ListeningQueue(queues.start_joined)
        slots.limiter = _ListeningLimiter(slots.limiter, partial(self._granted, queues))

    def _granted(self, queues: _Queues, party: Any) -> None:
        """Compare a grant with the rule; the party is one that was woken, or one that starts."""
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
    slots: Slots
    woken: list[Any] = attrs.field(factory=list)
    queued: list[Any] = attrs.field(factory=list)
    new: list[Any] = attrs.field(factory=list)
    in_a_row: int = 0

    def woken_joined(self, party: Any) -> None:
        """An agent that was woken stands in the queue."""
        self.woken.append(party)

    def start_joined(self, start: Any) -> None:
        """A start stands in the queue."""
        self.queued.append(start)

    def tidy(self, granted: Any) -> None:
        """Forget who does not wait any more: let go without a slot, or not wanted."""
        self.woken = [party for party in self.woken if party is granted or (party.ready and not party.holds)]
        # Starts join on the right and leave on the left, so that those that left can be told.
        gone = len(self.queued) - len(self.slots._new)
        left, self.queued = self.queued[:gone], self.queued[gone:]
        if granted in self.woken and any(not start.cancelled for start in left):
            self.in_a_row = 0  # one had its turn, and was refused
        self.new = [start for start in self.queued if not start.cancelled]


class _ListeningQueue(deque[Any]):
    """A queue of a pool's slots that tells who stands in it."""

    def __init__(self, joined: Callable[[Any], None]) -> None:
        super().__init__()
        self._joined = joined

    def append(self, waiting: Any) -> None:
        self._joined(waiting)
        super().append(waiting)

    def appendleft(self, waiting: Any) -> None:
        self._joined(waiting)
        super().appendleft(waiting)


class _ListeningLimiter:
    """A capacity limiter that tells who borrows from it."""

    def __init__(self, limiter: Any, granted: Callable[[Any], None]) -> None:
        self.__dict__.update(_limiter=limiter, _granted=granted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._limiter, name, value)

    def acquire_on_behalf_of_nowait(self, borrower: Any) -> None:
        self._granted(borrower)
        self._limiter.acquire_on_behalf_of_nowait(borrower)
