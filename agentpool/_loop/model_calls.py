"""The model calls of one run, and what whoever watches is told of them."""

from __future__ import annotations

import logging
from collections.abc import Sized
from typing import TYPE_CHECKING

import attrs
import trio

from agentpool import abc
from agentpool._core.effects import (
    Compact,
    Compacted,
    Compaction,
    DriverFailed,
    Effect,
    Observation,
    Reason,
    Replied,
)
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
from agentpool._logging import LOOP, printable, tell

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

MODEL_SECONDS = 600.0
"""How long a model call may take, each attempt by itself."""


@attrs.frozen(eq=False)
class ModelCalls:
    """Asks one driver on behalf of one agent; the driver counts what it uses.

    Attributes:
      driver: from `AgentContext.metered`.
      is_told: whether each call is told through `logging`.
      watchers: those who subscribe to events.
    """

    ctx: AgentContext
    driver: abc.Driver
    is_told: bool = attrs.field(default=False, kw_only=True)
    watchers: Sized = attrs.field(init=False, default=attrs.Factory(lambda self: self.ctx.watchers, True))

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
            _tell_compacted(done)
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

    async def passed_over(self, effect: Effect) -> None:
        """Be told of an effect whose observation the tape had, so that it is not performed again."""

    async def _completed(
        self, request: CompletionRequest, idle: IdleLimit | None, *, shows_text: bool = True
    ) -> Completion:
        ctx = self.ctx
        if idle is None and not self.watchers and not self.is_told:
            return await self.driver.complete(request)
        started = trio.current_time()
        # A summary is streamed only where it has to be seen that something comes.
        if (shows_text or idle is not None) and self._streams():
            completion = await self._stream(request, idle, shows_text)
        else:
            completion = await self.driver.complete(request)
        if self.watchers:
            ctx.emit(CompletionFinished, completion.usage, trio.current_time() - started)
        if self.is_told:
            _tell_answered(request, completion, trio.current_time() - started)
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


def _tell_answered(request: CompletionRequest, completion: Completion, seconds: float) -> None:
    usage = completion.usage
    tell(
        LOOP,
        logging.DEBUG,
        "%s answered %d messages after %.3f s: %d tokens in, %d out, %d tool calls, %s",
        completion.served_model or request.model or "the model",
        len(request.messages),
        seconds,
        usage.input_tokens,
        usage.output_tokens,
        len(completion.tool_calls),
        completion.stop_reason,
    )


def _tell_compacted(done: Compaction) -> None:
    how = "were summed up" if done.summary else "were dropped"
    text = "the context window was full: the %d oldest messages %s, %d tokens became %d%s"
    problem = f", because {printable(done.problem)}" if done.problem else ""
    level = logging.WARNING if problem else logging.INFO
    tell(LOOP, level, text, done.messages, how, done.tokens_before, done.tokens_after, problem)


protect_module(globals())
