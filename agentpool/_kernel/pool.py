"""The pool: the scope that owns agents, and what happens when its block ends."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import trio

from agentpool._core.text import shown
from agentpool._kernel import instrument
from agentpool._kernel.current import current_agent
from agentpool._kernel.events import EventSubscription, OpenSubscription, Overflow
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.protection import protect_module
from agentpool._kernel.router import DeadLetter, MessageRouter
from agentpool._kernel.scope import Scope
from agentpool._kernel.statistics import Books, PoolStatistics, books_of, statistics_of
from agentpool._kernel.watcher import watching_for_blocks

if TYPE_CHECKING:
    pass


class AgentPool(Scope):
    """A running pool; made by `open_agent_pool`."""

    __slots__ = ()

    def __repr__(self) -> str:
        state = self._state
        return (
            f"<AgentPool: {self.active_count} agents, {state.slots.taken} of "
            f"{self.max_concurrent} slots taken, {state.counts.issued} spawned>"
        )

    @property
    def router(self) -> MessageRouter:
        """Delivers the pool's messages."""
        return self._state.router

    @property
    def active_count(self) -> int:
        """How many agents have not ended, children of agents included."""
        return len(self._state.records)

    @property
    def max_concurrent(self) -> int:
        """How many agents run at once at the most; may be changed while the pool runs.

        Lowered, it takes effect as running agents end or wait.
        """
        return self._state.slots.total

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        self._state.parts.check_here()
        self._state.slots.total = checked_count("max_concurrent", value)

    @property
    def dead_letters(self) -> Sequence[DeadLetter]:
        """The newest messages that nobody will receive; `statistics()` counts all of them."""
        return tuple(self._state.router.dead_letters)

    @property
    def resumed(self) -> Sequence[AgentHandle[Any]]:
        """The agents that the program had spawned before the pool was resumed, in its order.

        Those that had ended are among them, with their outcomes. Empty for a pool that was not resumed.
        """
        journal = self._state.journal
        return () if journal is None else tuple(map(AgentHandle, journal.resumed))

    def events(
        self, max_buffer: int = 1024, overflow: Overflow = "drop_oldest"
    ) -> AbstractAsyncContextManager[EventSubscription]:
        """Subscribe to what happens while the block runs; iterate over the block's value.

        The iteration ends when the pool has ended. Agents of the pool may read too: they lend their
        slots while they wait, and get the end when only such readers are left.

        Args:
          max_buffer: how many events may wait for the subscriber.
          overflow: what happens when more do: `drop_oldest` drops and counts them, the `finished`
            events last; `block` has the loops of the agents wait before their next step.

        Raises:
          TypeError, ValueError: if `max_buffer` is no int, or below 1, or `overflow` is not known.
        """
        self._state.parts.check_here()
        return OpenSubscription(self._state.events, max_buffer, overflow)

    def statistics(self) -> PoolStatistics:
        """Return a snapshot."""
        return statistics_of(self._state)

    async def drain(self, grace: float = 10.0) -> list[AgentHandle[Any]]:
        """Start no more agents, wait for those there are, and past the grace abort them.

        Servers that wait for messages are told that none will come, as at the end of the block.

        Args:
          grace: seconds that agents have to end by themselves.

        Returns:
          The handles of the survivors: agents that live on although they were aborted, because
          they swallow cancellation or shield themselves. `statistics().stuck` tells where they
          stand; an event tells it too, and names those that block the event loop meanwhile.

        Raises:
          RuntimeError: if an agent of the pool calls it, which would wait for itself.
          ValueError: if `grace` is negative.

        Checkpoint: always. Cancellation: no more agents are started all the same.
        """
        if isinstance(grace, bool) or not isinstance(grace, int | float):
            raise TypeError(f"grace must be a number of seconds, or math.inf, not {shown(grace)}")
        if not grace >= 0:
            raise ValueError(f"grace must be at least 0 seconds, not {grace}")
        self._state.parts.check_here()
        agent = current_agent()
        if agent is not None and agent.slots is self._state.slots:
            raise RuntimeError("an agent cannot drain its own pool: it would wait for itself")
        state = self._state
        state.stop_starting("the pool is draining")
        state.judge.end_work()
        with self._watching_for_blocks():
            await trio.lowlevel.checkpoint()
            if await state.wait_for_end(grace):
                return []
            # With a journal, who is aborted now has not ended: whoever resumes the run goes on with it.
            if state.journal is not None:
                state.journal.is_leaving = True
            self.abort_all(f"the grace of {grace:g} seconds has passed")
            await state.wait_for_end(CLEANUP_TIME)
        state.parts.watcher.report_stuck()
        return [AgentHandle(record) for record in state.records.values()]

    def _watching_for_blocks(self) -> AbstractContextManager[None]:
        if not instrument.watches_clock():
            return nullcontext()
        records = self._state.records
        return watching_for_blocks(self._state.parts.watcher, lambda: list(records.values()))

    def _books(self) -> Books:
        return books_of(self._state)


CLEANUP_TIME = 5.0
"""Aborted agents have so many seconds to clean up before `drain` reports them."""


def checked_count(name: str, value: int) -> int:
    """Return an argument that has to be an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {shown(value)}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value


protect_module(globals())
