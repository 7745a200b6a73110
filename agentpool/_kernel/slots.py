"""The slots of a pool: `trio.CapacityLimiter` counts them, `_core/turns.py` says whose turn it is.

It knows no agent, and calls nobody but the claimant whose turn it is.
"""

from __future__ import annotations

from typing import Protocol, cast

import trio

from agentpool._core.errors import AgentPoolError
from agentpool._core.turns import Claimant, Turns
from agentpool._kernel.protection import protect_module


class PoolFullError(AgentPoolError, trio.WouldBlock):
    """`spawn_nowait` found no free slot."""


class SlotClaimant(Claimant, Protocol):
    """Somebody who wants a slot: a start, or an agent that was woken."""

    def granted(self) -> None:
        """A slot is free, and it is its turn: it takes the slot, or lets it be."""


class Start(SlotClaimant, Protocol):
    """A start that waits."""

    def refuse(self, reason: str) -> None:
        """The pool takes no more agents."""


class Slots:
    """The slots of a pool.

    Invariant: after every method, nobody whose turn it is waits while a slot is free.
    """

    __slots__ = ("_limiter", "_turns")

    def __init__(self, total: int) -> None:
        self._limiter = trio.CapacityLimiter(total)
        self._turns: Turns[SlotClaimant] = Turns()

    @property
    def total(self) -> int:
        """How many slots there are; set anew, those that run go on, even above it."""
        return int(self._limiter.total_tokens)

    @total.setter
    def total(self, total: int) -> None:
        self._limiter.total_tokens = total
        self.hand_out()

    @property
    def taken(self) -> int:
        """How many slots are held."""
        return self._limiter.borrowed_tokens

    @property
    def has_room(self) -> bool:
        """Whether an agent may start at once: a slot is free, and nobody waits for one."""
        return not self._turns and self._limiter.available_tokens > 0

    @property
    def waiting_to_start(self) -> int:
        """How many starts wait for a slot."""
        return self._turns.new

    def take(self, holder: object) -> None:
        """Take a slot that is free."""
        self._limiter.acquire_on_behalf_of_nowait(holder)

    def give_back(self, holder: object) -> None:
        """Give a slot back, and hand it on."""
        self._limiter.release_on_behalf_of(holder)
        if self._turns:
            self.hand_out()

    def claim_for_start(self, start: Start) -> None:
        """Queue a start; `granted` is called when it is its turn, by whoever hands out next.

        Does not hand out by itself: a start that queues the next one when it is granted, and so on,
        would recurse as deep as there are slots.
        """
        self._turns.wait_new(start)

    def claim_for_woken(self, claimant: SlotClaimant) -> None:
        """Queue an agent that was woken; `granted` is called when it is its turn."""
        self._turns.wait_woken(claimant)
        self.hand_out()

    def started_at_once(self) -> None:
        """An agent was started without waiting, which ends a row of woken ones."""
        self._turns.started()

    def hand_out(self) -> None:
        """Give what is free to those whose turn it is.

        `granted` may come back here, so that nothing is kept in a local over the call.
        """
        # Asked anew each time: a claimant may let the slot be, or free another by what it does.
        while self._limiter.available_tokens > 0:
            claimant = self._turns.next()
            if claimant is None:
                return
            claimant.granted()

    def drop_starts(self) -> list[Start]:
        """Take out the starts that wait."""
        return cast("list[Start]", self._turns.drop_new())  # nothing else is queued there


protect_module(globals())
