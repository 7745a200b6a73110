"""The tool calls of one run: each in a context of its own, within its time limit, and contained."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

import attrs
import trio

from agentpool import abc
from agentpool._core.effects import Act
from agentpool._core.errors import ToolError
from agentpool._core.events import GuardWarned, ToolFinished, ToolStarted
from agentpool._core.messages import ToolCall, ToolResult
from agentpool._core.text import told
from agentpool._kernel.idleness import IdleLimit
from agentpool._kernel.leftovers import close_leftovers, mark_task, run_in_context, told_of
from agentpool._kernel.protection import await_unprotected, protect_module
from agentpool._kernel.splitting import split_error
from agentpool._loop.approving import Gate

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

TOOL_SECONDS = 120.0
"""How long a tool call may take whose tool does not say so itself."""

_NOT_RUN = ToolResult("Not run.", is_error=True)


@attrs.frozen(eq=False)
class ToolCalls:
    """Runs what a model asks for.

    Attributes:
      tools: those that its agent may use; None if it has none.
      gate: what decides which calls are made; None if all are.
    """

    ctx: AgentContext
    tools: abc.ToolSet | None
    gate: Gate | None = None

    async def act(
        self, effect: Act, results: list[ToolResult | None], idle: IdleLimit | None = None
    ) -> tuple[ToolResult, ...]:
        """Run the calls side by side, and return their results in the order of the calls.

        What goes wrong in a call is its result, unless it is fatal. Cancellation: the calls are
        cancelled; the results of those that had ended are in `results`.

        Args:
          effect: the calls.
          results: a None for each call; each result takes its place there.
          idle: is told when a call begins or ends.
        """
        if effect.warning:
            self.ctx.emit(GuardWarned, effect.warning)
        if len(effect.calls) == 1:
            return (await self._run(effect.calls[0]),)

        async def run(index: int, call: ToolCall) -> None:
            if idle is not None:
                idle.heard()
            results[index] = await self._run(call)
            if idle is not None:
                idle.heard()

        async with self.ctx.open_nursery() as nursery:
            for index, call in enumerate(effect.calls):
                nursery.start_soon(run, index, call)
        return tuple([_NOT_RUN if result is None else result for result in results])

    async def _run(self, call: ToolCall) -> ToolResult:
        # Before the call begins: what a person takes to decide is no part of its time.
        if self.gate is not None and (refused := await self.gate.refusal(call)) is not None:
            return refused
        started = trio.current_time()
        self.ctx.emit(ToolStarted, call)
        result = await self._contained(call, started)
        if self.ctx.observed:
            self.ctx.emit(ToolFinished, call, result, trio.current_time() - started)
        return result

    async def _contained(self, call: ToolCall, started: float) -> ToolResult:
        """Run one call within its time limit; what goes wrong in it is its result."""
        seconds = self._limit_of(call)
        too_slow = f"{call.name} did not end within {seconds:g} s and was stopped."
        # For a tool without a limit the deadline is infinite: a finite one would tell the pool that
        # whatever the tool waits for will end by itself, and so hide a deadlock.
        limit = trio.CancelScope(deadline=started + seconds)
        try:
            with limit:
                return await self._isolated(call)
        except BaseException as error:
            if not _is_ordinary(error):
                raise
            text = _said(error)
            return ToolResult(f"{too_slow} {text}" if limit.cancelled_caught else text, is_error=True)
        return ToolResult(too_slow, is_error=True)

    async def _isolated(self, call: ToolCall) -> ToolResult:
        """Run one call so that nothing of it stays on the task: no variable, no scope, no nursery."""
        mark = mark_task()
        result: ToolResult | None = None
        raised: BaseException | None = None
        try:
            result = await run_in_context(contextvars.copy_context(), self._called(call))
        except BaseException as error:  # raised again below, when what it left open is closed
            raised = error
        try:
            left_open: tuple[str, ...] = ()
            if not mark.is_left:
                raised, left_open = await close_leftovers(mark, raised)
            if left_open and (raised is None or _is_ordinary(raised)):
                text = f"{call.name} {told_of(left_open)}"
                raise ToolError(text if raised is None else f"{_said(raised)}; {text}") from raised
            if raised is not None:
                raise raised
            assert result is not None
            return result
        finally:
            del raised  # its traceback holds this frame

    async def _called(self, call: ToolCall) -> ToolResult:
        if call.problem:
            raise ToolError(call.problem)
        if self.tools is None:
            raise ToolError(f"there is no tool {call.name!r}; this agent has no tools")
        with self.ctx.in_flight("tool_calls"):
            tool = self.tools.granted(call.name)
            return self.tools.shortened(await await_unprotected(tool.call, self.ctx, call.input))

    def _limit_of(self, call: ToolCall) -> float:
        tool = None if self.tools is None else self.tools.get(call.name)
        return TOOL_SECONDS if tool is None or tool.timeout is None else tool.timeout


def _is_ordinary(error: BaseException) -> bool:
    """Whether an error is a call's own: nothing in it is fatal, and nothing a cancellation."""
    parts = split_error(error)
    return parts.fatal is None and not parts.cancelled


def _said(error: BaseException) -> str:
    """Return what the model is told of an error."""
    text = told(error)
    return text if isinstance(error, ToolError) and text else f"{type(error).__name__}: {text}"


protect_module(globals())
