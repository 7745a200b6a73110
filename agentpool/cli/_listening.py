"""A driver that remembers each agent's conversation: outcomes of failed agents do not hold it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs

from agentpool._core.messages import (
    AgentId,
    ChatMessage,
    Completion,
    CompletionRequest,
    StreamPart,
)
from agentpool._kernel.current import current_agent
from agentpool.abc import Driver
from agentpool.drivers._around import DriverAround, OpenedStream


@attrs.define(eq=False)
class Conversations:
    """The last request of each agent, and the answer to it if there was one."""

    _last: dict[AgentId, tuple[Sequence[ChatMessage], tuple[ChatMessage, ...]]] = attrs.field(factory=dict)

    def asked(self, request: CompletionRequest) -> None:
        """Note what the calling agent asks."""
        self._note(request, ())

    def answered(self, request: CompletionRequest, part: StreamPart) -> None:
        """Note the answer; the pieces of one are not noted."""
        if isinstance(part, Completion):
            self._note(request, (part.message,))

    def _note(self, request: CompletionRequest, answer: tuple[ChatMessage, ...]) -> None:
        agent = current_agent()
        if agent is not None:
            # Immutable, and shared between the requests of an agent: nothing is copied here.
            self._last[agent.id] = (request.messages, answer)

    def take(self, agent_id: AgentId) -> Sequence[ChatMessage]:
        """Return an agent's conversation as far as its model saw it, and forget it."""
        messages, answer = self._last.pop(agent_id, ((), ()))
        return (*messages, *answer)


class ListeningDriver(DriverAround):
    """Has its requests answered by another driver, and notes them for each agent."""

    def __init__(self, driver: Driver, conversations: Conversations) -> None:
        super().__init__(driver)
        self._conversations = conversations

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the driver inside.

        Raises:
          DriverError: as the driver inside.

        Checkpoint, cancellation: as the driver inside.
        """
        self._conversations.asked(request)
        completion = await self._driver.complete(request)
        self._conversations.answered(request, completion)
        return completion

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Ask the driver inside.

        Raises:
          DriverError: as the driver inside.
        """
        self._conversations.asked(request)
        async with self._driver.stream(request) as parts:
            yield OpenedStream(None, parts, None, partial(self._conversations.answered, request))
