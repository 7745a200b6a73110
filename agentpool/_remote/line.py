"""The two ends of the line between an agent's code at a worker and its proxy at the head.

A line belongs to one agent. What is asked for on it is done by the proxy, as that agent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext


class Line(Protocol):
    """The worker's end. What is asked and told on it keeps its order."""

    async def ask(self, verb: str, *args: Any) -> Any:
        """Have the proxy do something, and wait for its value, as the agent.

        The agent lends its slot while all of its tasks wait, here or in another verb.

        Raises:
          Exception: what the verb raised at the head, or `RemoteError` if that could not be loaded.

        Checkpoint: always. Cancellation: what has happened meanwhile is returned; `Cancelled` means that
        it has not happened.
        """
        ...

    def pieces(self, verb: str, *args: Any) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Have the proxy do something whose answer comes in pieces.

        The block's value iterates over what the verb sends by `HeadCall.send_piece`, and raises what the
        verb raises. Leaving the block early withdraws the call, and waits until it has ended at the head.
        """
        ...

    def tell(self, verb: str, *args: Any) -> None:
        """Have the proxy do something, and do not wait for it."""
        ...


class HeadCall(Protocol):
    """The head's end of one call.

    The call runs in a task of the proxy that the pool knows, shielded from what cancels the proxy: only
    the worker withdraws it. It gets `trio.Cancelled` then.
    """

    @property
    def ctx(self) -> AgentContext:
        """The context of the proxy."""
        ...

    def send_piece(self, value: Any) -> None:
        """Send a piece of the answer."""
        ...


Verb: TypeAlias = Callable[..., Awaitable[Any]]
"""`async def verb(call: HeadCall, *args)`, found by its name; its value is the answer."""
