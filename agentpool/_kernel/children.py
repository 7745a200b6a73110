"""The children of a scope: who lives, whose outcome nobody has taken, whose failure nobody has seen."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, ClassVar, Generic, TypeVar

import trio

from agentpool._core.errors import LeftOpenError
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome, Failed
from agentpool._kernel.activity import Activity
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import Wait, Waiter

C = TypeVar("C", bound=Activity)
"""An agent, as its scope knows it."""


class Children(Generic[C]):
    """The children of a pool or of an agent.

    Invariants: `live` holds those that have not ended.  `_untaken` holds each outcome that no join,
    no handle and no batch has taken; the channel carries ids in the order of the ends, among them
    those of outcomes that were taken since.  `_unseen` holds the failures that nobody has looked at.
    """

    are_hosted: ClassVar[bool] = False
    """Whether they belong to another pool, out of which comes what they raise."""

    __slots__ = ("_joins", "_order", "_rests", "_stale", "_unseen", "_untaken", "_watching", "live", "owner")

    def __init__(self, owner: C | None) -> None:
        self.owner: C | None = owner
        self.live: dict[AgentId, C] = {}
        self._untaken: dict[AgentId, AnyOutcome] = {}
        self._unseen: dict[AgentId, Failed] = {}
        self._joins: deque[Wait] = deque()
        self._rests: dict[Wait, Callable[[], Any]] = {}
        self._watching: dict[AgentId, list[Wait]] = {}
        self._order: tuple[trio.MemorySendChannel[AgentId], trio.MemoryReceiveChannel[AgentId]] | None = None
        self._stale = 0

    # -- the end of a child ------------------------------------------------------------------------

    def ended(self, outcome: AnyOutcome, *, is_taken: bool, is_seen: bool) -> None:
        """Deliver the outcome of a child, to exactly one taker or to the book.

        Args:
          is_taken: whether a batch has it, so that no join hands it out.
          is_seen: whether it comes out of the pool in another way.
        """
        agent_id = outcome.agent_id
        del self.live[agent_id]
        # Taken out before anybody is woken: a wait that is woken may be cancelled in the same step, and
        # must not find itself here.
        watching = self._watching.pop(agent_id, ()) if self._watching else ()
        if type(outcome) is Failed and not watching and not is_seen:
            self._unseen[agent_id] = outcome
        for wait in watching:
            wait.wake(outcome)
        if not is_taken and not watching:
            self._hand_over_or_keep(outcome)
        if not self.live:
            self._none_is_left()
        elif self._joins:
            self._lost_hope()

    def ended_before(self, outcome: AnyOutcome) -> None:
        """Take in the outcome of a child that ended before its parent was resumed."""
        if type(outcome) is Failed:
            self._unseen[outcome.agent_id] = outcome
        self._hand_over_or_keep(outcome)

    def _lost_hope(self) -> None:
        """Somebody else took an outcome: who joins has one child less that could end the wait."""
        if self.owner is not None:
            self.owner.pool.judge.judge_again(self.owner)

    def _hand_over_or_keep(self, outcome: AnyOutcome) -> None:
        if self._joins:
            self.see(outcome.agent_id)
            self._joins.popleft().wake(outcome)
            return
        self._untaken[outcome.agent_id] = outcome
        if self._order is None:
            # Unbounded: a result that waits for room would hold up the pool.
            self._order = trio.open_memory_channel(inf)
        self._order[0].send_nowait(outcome.agent_id)

    def _none_is_left(self) -> None:
        while self._joins:
            self._joins.popleft().wake(None)
        # Taken out at once: who is woken may spawn, and wait for all again, before the others are.
        rests, self._rests = self._rests, {}
        for wait, value in rests.items():
            wait.wake(value())

    # -- taking outcomes -----------------------------------------------------------------------------

    def next_outcome(self) -> AnyOutcome | None:
        """Take the outcome of the child that ended first; None if there is none to take."""
        while self._untaken:
            assert self._order is not None
            agent_id = self._order[1].receive_nowait()
            outcome = self._untaken.pop(agent_id, None)
            if outcome is not None:
                self.see(agent_id)
                return outcome
            # A handle took it: its id was left in the channel, from whose middle nothing can be taken.
            self._stale -= 1
        return None

    def take_outcome(self, agent_id: AgentId) -> AnyOutcome | None:
        """Take the outcome of a certain child; None if it is not there to be taken."""
        outcome = self._untaken.get(agent_id)
        self.take(agent_id)
        return outcome

    def forget_outcome(self, agent_id: AgentId) -> None:
        """Somebody else hands an outcome out, and looks at it when it does."""
        if self._untaken.pop(agent_id, None) is not None:
            self._stale += 1
            self._forget_stale()

    def all_outcomes(self) -> dict[AgentId, AnyOutcome]:
        """Take all that is left, in the order of the ends."""
        outcomes: dict[AgentId, AnyOutcome] = {}
        while (outcome := self.next_outcome()) is not None:
            outcomes[outcome.agent_id] = outcome
        return outcomes

    def take(self, agent_id: AgentId) -> None:
        """Somebody fetched an outcome: the joins do not hand it out any more."""
        self.see(agent_id)
        self.forget_outcome(agent_id)

    def _forget_stale(self) -> None:
        """Without this, the ids of a long run whose outcomes are fetched by handles would pile up."""
        if self._stale <= 64 or self._stale <= len(self._untaken):
            return
        assert self._order is not None
        sender, receiver = self._order
        kept = []
        for _ in range(receiver.statistics().current_buffer_used):
            agent_id = receiver.receive_nowait()
            if agent_id in self._untaken:
                kept.append(agent_id)
        for agent_id in kept:
            sender.send_nowait(agent_id)
        self._stale = 0

    def see(self, agent_id: AgentId) -> None:
        """Somebody looked at an outcome."""
        if self._unseen:
            self._unseen.pop(agent_id, None)

    def failures(self) -> list[Exception]:
        """Take the failures that nobody has looked at, in the order of their ends."""
        errors = []
        for outcome in self._unseen.values():
            # Fatal exceptions were seen already, so that these are all of `Exception`.
            assert isinstance(outcome.error, Exception)
            if not _is_warned_of(outcome.error):
                errors.append(outcome.error)
        self._unseen.clear()
        return errors

    # -- waiting ---------------------------------------------------------------------------------------

    async def wait_for_one(self, waiter: Waiter | None, child: C) -> AnyOutcome:
        """Wait for a child that lives, and take its outcome.

        Cancellation: `Cancelled` means that it was not taken.
        """
        wait = Wait(waiter, (child,))
        watching = self._watching.setdefault(child.id, [])
        watching.append(wait)

        def forget(wait: Wait) -> None:
            watching.remove(wait)
            if not watching:
                del self._watching[child.id]

        outcome: AnyOutcome = await wait.park(forget)
        return outcome

    async def wait_for_next(self, waiter: Waiter | None) -> AnyOutcome | None:
        """Wait for the next child to end, and take its outcome; None when none is left.

        Cancellation: `Cancelled` means that none was taken.
        """
        # A view, not a copy: children that are spawned meanwhile could end the wait as well.
        wait = Wait(waiter, self.live.values())
        self._joins.append(wait)
        outcome: AnyOutcome | None = await wait.park(self._joins.remove)
        return outcome

    async def wait_for_all(
        self,
        waiter: Waiter | None,
        value: Callable[[], Any],
        *,
        cancellable: bool = True,
        needs_slot: bool = True,
    ) -> Any:
        """Wait until no child is left, and return what `value` returns at that moment.

        Cancellation: leaves nothing behind.
        """
        wait = Wait(waiter, self.live.values(), needs_all=True, needs_slot=needs_slot)
        self._rests[wait] = value
        return await wait.park(self._rests.pop if cancellable else None)


def _is_warned_of(error: Exception) -> bool:
    """Warn of an agent that did its work and left something open; tell whether that is enough.

    Nobody looked at its outcome, so nobody misses its value: that is no reason to end a run with an
    exception. With the filter that makes errors of warnings it is one.
    """
    if not isinstance(error, LeftOpenError) or hasattr(error, "__notes__"):
        return False  # a note stands for failures of its children, which are missed
    try:
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        return False
    return True


protect_module(globals())
