"""Whose turn it is: who gets the next slot that is free, as a decision over plain values.

Woken agents come before agents that have not started: they are nearer to their end, and what they
hold is freed sooner. But with one slot two agents in ping-pong would keep a third from ever
starting, so after `WOKEN_IN_A_ROW` of them one start goes first.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

WOKEN_IN_A_ROW = 8


class Claimant(Protocol):
    """Somebody who waits for a slot."""

    @property
    def withdrawn(self) -> bool:
        """Whether it does not want the slot any more."""
        ...


C = TypeVar("C", bound=Claimant)


class Turns(Generic[C]):
    """Two queues, each first come, first served.

    Invariant: `_in_a_row` counts the woken claimants that went before a start that was waiting, so
    that it is 0 as long as none waits.
    """

    __slots__ = ("_in_a_row", "_new", "_woken")

    def __init__(self) -> None:
        self._woken: deque[C] = deque()
        self._new: deque[C] = deque()
        self._in_a_row = 0

    def __bool__(self) -> bool:
        """Whether anybody may be waiting; who has withdrawn counts until it would be its turn."""
        return bool(self._woken or self._new)

    @property
    def new(self) -> int:
        """How many starts wait."""
        return sum(not claimant.withdrawn for claimant in self._new)

    def wait_woken(self, claimant: C) -> None:
        """Queue an agent that was woken."""
        self._woken.append(claimant)

    def wait_new(self, claimant: C) -> None:
        """Queue a start."""
        if len(self._new) > 64 and self._new[0].withdrawn:
            # Spawns that were cancelled would pile up while no slot gets free.
            self._new = deque(waiting for waiting in self._new if not waiting.withdrawn)
        self._new.append(claimant)

    def started(self) -> None:
        """An agent was started without waiting: that ends a row of woken ones as well."""
        self._in_a_row = 0

    def next(self) -> C | None:
        """Take out whose turn it is; None if nobody waits."""
        self._skip_withdrawn()
        if self._woken and (self._in_a_row < WOKEN_IN_A_ROW or not self._new):
            self._in_a_row = self._in_a_row + 1 if self._new else 0
            return self._woken.popleft()
        if self._new:
            self._in_a_row = 0
            return self._new.popleft()
        return None

    def drop_new(self) -> list[C]:
        """Take out every start that waits."""
        dropped = [claimant for claimant in self._new if not claimant.withdrawn]
        self._new.clear()
        return dropped

    def _skip_withdrawn(self) -> None:
        for queue in (self._woken, self._new):
            while queue and queue[0].withdrawn:
                queue.popleft()
