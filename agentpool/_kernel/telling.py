"""The half of a context by which an agent tells what it does."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from agentpool._core.events import ToolProgressed
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.events import holding_up
from agentpool._kernel.idleness import heard_of
from agentpool._kernel.protection import protect_module
from agentpool._kernel.state import PoolState


class Telling:
    """Hands out the events of an agent."""

    __slots__ = ()

    _agent: AgentRecord
    _state: PoolState

    @property
    def observed(self) -> bool:
        """Whether anybody subscribes to events."""
        return bool(self._state.events.subscriptions)

    @property
    def watchers(self) -> Sized:
        """Those who subscribe to events: the list itself, so that one look at it is enough."""
        return self._state.events.subscriptions

    def emit(self, kind: type[Any], *own: Any) -> None:
        """Hand out an event about this agent; costs next to nothing if nobody subscribes.

        Args:
          kind: an event class.
          own: its fields after the common ones.
        """
        if self._state.events.subscriptions:
            self._state.events.emit(kind, self._agent.id, self._agent.parent_id, *own)

    def progressed(self, tool: str, progress: float, total: float | None = None, message: str = "") -> None:
        """Tell how far a call of a tool is; the agent's `idle` limit begins anew."""
        heard_of(self._agent)
        self.emit(ToolProgressed, tool, progress, total, message)

    async def wait_for_subscribers(self) -> None:
        """Wait until every subscriber with `overflow="block"` has room, with the slot lent.

        A subscription that the agent itself reads does not count: it could not read meanwhile.

        Raises:
          DeadlockError: if the subscriber is an agent that waits for the caller, so that neither
            could go on.

        Not a checkpoint when there is room. Cancellation: leaves nothing behind.
        """
        events = self._state.events
        if not events.subscriptions:
            return
        waiter = waiting_agent()
        # One after the other: each time somebody else may have become the slow one.
        while (slow := holding_up(events, waiter)) is not None:
            readers = slow.readers_for(waiter)
            if readers is not None:
                self._state.judge.check(waiter, readers)
            await slow.wait_for_room(waiter)


protect_module(globals())
