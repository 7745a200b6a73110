"""What a model call may use, and what it used, in a journal: so that a budget survives a crash."""

from __future__ import annotations

from typing import Any

import attrs

from agentpool._core.budget import NOTHING_BOOKED, Reservation, amounts_of
from agentpool._core.messages import AgentId
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._kernel.journal import PoolJournal
from agentpool._kernel.protection import protect_module


class Spending:
    """One model call of an agent: its worst case is written before it is made, and what it took after it."""

    __slots__ = ("_agent_id", "_is_open", "_journal", "_number", "_reservations")

    def __init__(
        self,
        journal: PoolJournal,
        agent_id: AgentId,
        reservation: Reservation | None,
        slack: Reservation | None,
    ) -> None:
        """Begin with a call that is about to be made.

        Args:
          reservation: its room in the agent's budgets; None without any.
          slack: its room in those above the agent's own quota, beside the reservation; None without any.
        """
        self._journal = journal
        self._agent_id = agent_id
        self._number = journal.next_call()
        self._reservations = (reservation, slack)
        self._is_open = True
        if reservation is not None:
            self._write("reserved", reservation.need, NOTHING_BOOKED if slack is None else slack.need, {})

    async def kept(self) -> None:
        """Wait until everything before the call is kept, its worst case with it.

        Raises:
          JournalError: if it cannot be written.

        Checkpoint, cancellation: as `PoolJournal.commit`.
        """
        await self._journal.commit()

    def booked(self, usage: TokenUsage) -> None:
        """The call has ended, and its reservations are settled or released; harmless if that was said."""
        if not self._is_open:
            return
        self._is_open = False
        reservation, slack = self._reservations
        if reservation is None and usage is NO_USAGE:
            return
        took = amounts_of(usage) if reservation is None else reservation.booked
        told = {name: amount for name, amount in attrs.asdict(usage).items() if amount}
        self._write("settled", took, NOTHING_BOOKED if slack is None else slack.booked, {"usage": told})

    def _write(self, kind: Any, took: tuple[int, int, int], slack: tuple[int, int, int], more: Any) -> None:
        data = {"n": self._number, "took": took, "slack": slack, **more}
        self._journal.append(kind, self._agent_id, data)


protect_module(globals())
