"""What an agent that runs in another process than its pool asks that for before it goes on.

In the pool's own process all of this is known at once, by code that waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from agentpool._core.messages import AgentMessage
from agentpool._kernel.protection import protect_module

if TYPE_CHECKING:
    from agentpool._core.manifest import AgentManifest
    from agentpool._kernel.handle import AgentHandle
    from agentpool._kernel.places import Place
    from agentpool.abc import Driver


class Head(Protocol):
    """The way to the pool."""

    async def bound(self, driver: Driver, manifest: AgentManifest) -> Driver:
        """Return what a driver makes of itself for an agent, where it has to be asked for that over there.

        Raises:
          Exception: what the driver raises that refuses the agent.
        """
        ...

    async def take_arrived(self) -> list[AgentMessage]:
        """Take the messages that have arrived in the agent's inbox.

        Cancellation: `Cancelled` means that none was taken.
        """
        ...

    async def question(self, message_id: int) -> AgentMessage:
        """Return the message of that id, if its sender waits for the agent's reply.

        Raises:
          UnknownAgentError: if nobody waits for a reply of the agent to it, or does so any more.
        """
        ...

    async def adopt_children_of(self, place: Place) -> None:
        """Have the children go on that code at a place had spawned, which does not run again."""
        ...

    async def children_of(self, place: Place) -> Sequence[tuple[AgentHandle[Any], bool]]:
        """Return the children that such code had spawned, each with whether its outcome is known already."""
        ...

    async def admitted(self, kind: Literal["tool_calls", "model_calls"]) -> AbstractContextManager[None]:
        """Return a block during which a call counts as one that is in flight; it is to be entered.

        Raises:
          PoolLimitError: if as many are in flight in the pool as `PoolLimits` allows.
        """
        ...


protect_module(globals())
