"""The inbox of an agent that runs in a worker: the messages are at the head."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import NoReturn, Protocol

import trio

from agentpool._core.messages import AgentId, AgentMessage
from agentpool._kernel.protection import protect_module


def no_synchronous(what: str, instead: str) -> RuntimeError:
    """Return the error for a verb that would have to ask the head, and cannot wait for it."""
    return RuntimeError(
        f"{what} cannot wait for the head of the pool, and this agent runs in a worker: write {instead}"
    )


class Receiver(Protocol):
    """Whose messages they are."""

    @property
    def id(self) -> AgentId:
        """The agent's id."""
        ...

    def receive(self) -> Awaitable[AgentMessage]:
        """Take the oldest message, waiting for one."""
        ...


class PlacedInbox(AsyncIterator[AgentMessage]):
    """The messages of an agent that runs in a worker; iterating ends when none will come any more."""

    def __init__(self, context: Receiver) -> None:
        self._context = context

    def __repr__(self) -> str:
        return f"<PlacedInbox of agent {self._context.id}>"

    async def receive(self) -> AgentMessage:
        """Take the oldest message, waiting for one; as `AgentContext.receive`."""
        return await self._context.receive()

    def receive_nowait(self) -> NoReturn:
        """Raise `RuntimeError`: the messages are at the head."""
        raise no_synchronous("receive_nowait()", "`with trio.move_on_after(0.1): await ctx.receive()`")

    async def __anext__(self) -> AgentMessage:
        try:
            return await self._context.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


protect_module(globals())
