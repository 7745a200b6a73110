"""The model calls of one run, and what whoever watches is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from agentpool import abc
from agentpool._core.effects import Compact, Compacted, DriverFailed, Observation, Reason, Replied
from agentpool._core.errors import MalformedReplyError
from agentpool._core.events import (
    CompletionFinished,
    ContextCompacted,
    ReasoningDeltaReceived,
    TextDeltaReceived,
)
from agentpool._core.messages import Completion, CompletionRequest, TextDelta
from agentpool._kernel.idleness import IdleLimit
from agentpool._kernel.protection import protect_module
from agentpool._kernel.splitting import split_error

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

MODEL_SECONDS = 600.0
"""How long a model call may take, each attempt by itself."""


@attrs.frozen(eq=False)
class ModelCalls:
    """Asks one driver on behalf of one agent; the driver counts what it uses.

    Attributes:
      driver: from `AgentContext.metered`.
    """

    ctx: AgentContext
    driver: abc.Driver

    async def reason(self, effect: Reason, idle: IdleLimit | None = None) -> Observation:
        """Ask the model; what goes wrong is an observation too, unless it is fatal.

        Waits for room in the budget, then for the answer. Cancellation: the worst case of a call
        that was under way counts as used.

        Args:
          effect: what to ask.
          idle: is told of each piece of the answer; so the answer is streamed, if the driver can.
        """
        done = effect.compaction
        if done is not None:
            self.ctx.emit(ContextCompacted, *attrs.astuple(done))
        try:
            return Replied(await self._completed(effect.request, idle))
        except Exception as error:
            if split_error(error).fatal is not None:
                raise
            return DriverFailed(error)

    async def compact(self, effect: Compact, idle: IdleLimit | None = None) -> Observation:
        """Have the model sum up; as `reason`, but its text is no event."""
        try:
            return Compacted(await self._completed(effect.request, idle, shows_text=False))
        except Exception as error:
            if split_error(error).fatal is not None:
                raise
            return DriverFailed(error)

    async def _completed(
        self, request: CompletionRequest, idle: IdleLimit | None, *, shows_text: bool = True
    ) -> Completion:
        ctx = self.ctx
        if idle is None and not ctx.observed:
            return await self.driver.complete(request)
        started = trio.current_time()
        # A summary is streamed only where it has to be seen that something comes.
        if (shows_text or idle is not None) and self._streams():
            completion = await self._stream(request, idle, shows_text)
        else:
            completion = await self.driver.complete(request)
        if ctx.observed:
            ctx.emit(CompletionFinished, completion.usage, trio.current_time() - started)
        return completion

    def _streams(self) -> bool:
        """Whether the driver has a stream of its own, which shows more than `complete` does."""
        streams: bool | None = getattr(self.driver, "streams", None)
        return type(self.driver).stream is not abc.Driver.stream if streams is None else streams

    async def _stream(
        self, request: CompletionRequest, idle: IdleLimit | None, shows_text: bool
    ) -> Completion:
        completion: Completion | None = None
        async with self.driver.stream(request) as parts:
            async for part in parts:
                if idle is not None:
                    idle.heard()
                if isinstance(part, Completion):
                    completion = part
                elif not shows_text:
                    pass
                elif isinstance(part, TextDelta):
                    self.ctx.emit(TextDeltaReceived, part.text)
                else:
                    self.ctx.emit(ReasoningDeltaReceived, part.text)
        if completion is None:
            raise MalformedReplyError("the driver's stream ended without its completion")
        return completion


protect_module(globals())
