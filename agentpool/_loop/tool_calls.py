"""The tool calls of one run: each in a context of its own, within its time limit, and contained."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable, Sequence, Sized
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from agentpool import abc
from agentpool._core.effects import Act, Acted
from agentpool._core.errors import ToolError
from agentpool._core.events import GuardWarned, ToolFinished, ToolStarted
from agentpool._core.messages import ToolCall, ToolResult
from agentpool._core.text import named
from agentpool._core.transcript import UNKNOWN_RESULT
from agentpool._core.value import value
from agentpool._kernel.idleness import IdleLimit
from agentpool._kernel.leftovers import close_leftovers, mark_task, run_in_context, told_of
from agentpool._kernel.places import begin_call, set_place, standing_at
from agentpool._kernel.protection import await_unprotected, protect_module
from agentpool._kernel.splitting import leaves_of, split_error
from agentpool._logging import LOOP, printable, tell
from agentpool._loop.approving import Gate

if TYPE_CHECKING:
    from agentpool._core.past import PastCall
    from agentpool._kernel.context import AgentContext
    from agentpool._kernel.places import Place
    from agentpool._loop.tape import Tape

TellLong = Callable[[ToolCall, ToolResult], Awaitable[ToolResult]]
"""Says what the model is told of a result that is too long."""

STARTER = "start_agent"
"""The tool with which a model starts agents that it does not wait for at once."""

TOOL_SECONDS = 120.0
"""How long a tool call may take whose tool does not say so itself."""

_NOT_RUN = ToolResult("Not run.", is_error=True)


Made: TypeAlias = "dict[int, ToolCall | None]"
"""What was called in the place of what the model said, by positions in a turn; None for nothing."""


@value
class Todo:
    """A call of a turn: which one of it, and of the run as its tape counts, and whether that tells of it."""

    index: int
    call: ToolCall
    number: int = -1
    is_begun: bool = False


@attrs.frozen(eq=False)
class ToolCalls:
    """Runs what a model asks for.

    Attributes:
      tools: those that its agent may use; None if it has none.
      gate: what decides which calls are made; None if all are.
      is_told: whether each call is told through `logging`; those that fail always are.
      too_long: keeps results that the tools cut; None if they are just cut, or hooks keep them.
      watchers: those who subscribe to events.
    """

    ctx: AgentContext
    tools: abc.ToolSet | None
    gate: Gate | None = None
    tape: Tape | None = None
    is_told: bool = attrs.field(default=False, kw_only=True)
    too_long: TellLong | None = attrs.field(default=None, kw_only=True)
    watchers: Sized = attrs.field(init=False, default=attrs.Factory(lambda self: self.ctx.watchers, True))

    async def act(
        self, effect: Act, results: list[ToolResult | None], idle: IdleLimit | None = None
    ) -> Acted:
        """Run the calls side by side, begun in their order, and return their results in that order.

        What goes wrong in a call is its result, unless it is fatal. Cancellation: the calls are
        cancelled; the results of those that had ended are in `results`.

        Args:
          effect: the calls.
          results: a None for each call; each result takes its place there.
          idle: is told when a call begins or ends.
        """
        if effect.warning:
            self.ctx.emit(GuardWarned, effect.warning)
            tell(LOOP, logging.WARNING, "the loop guard: %s", printable(effect.warning))
        if self.tape is not None:
            return await self._act_on_tape(self.tape, effect, results, idle)
        made: dict[int, ToolCall | None] = {}
        if len(effect.calls) == 1:
            return Acted((await self._run(Todo(0, effect.calls[0]), made),), made)
        todo = [Todo(index, call) for index, call in enumerate(effect.calls)]
        await self._run_all(todo, results, made, idle)
        return Acted(_all_of(results), made)

    async def _act_on_tape(
        self, tape: Tape, effect: Act, results: list[ToolResult | None], idle: IdleLimit | None
    ) -> Acted:
        """As `act`: what the tape holds of the calls is not done again."""
        todo: list[Todo] = []
        lost: list[Todo] = []
        made: dict[int, ToolCall | None] = {}
        for index, (number, past) in enumerate(tape.numbered(effect.calls)):
            call = effect.calls[index]
            if past is None and tape.has_lost_secret(call):
                results[index] = UNKNOWN_RESULT
                lost.append(Todo(index, call, number))
                continue
            if past is None or (past.result is None and self._is_to_be_repeated(tape, call, past)):
                todo.append(Todo(index, call, number, past is not None))
                continue
            if past.made is not None:
                made[index] = tape.made_of(past)
            if past.result is None:
                results[index] = UNKNOWN_RESULT
                tape.returned(number, UNKNOWN_RESULT, past.made)
            else:
                results[index] = tape.result_of(past)
                if past.seen:
                    self.ctx.versions.go_on_with(past.seen)
            await self._adopt(made.get(index, call), tape.place_of_call(number))
        begun = lost if self.begins_late else [*lost, *(each for each in todo if not each.is_begun)]
        await tape.called((each.number, each.call) for each in begun)
        for each in lost:
            tape.returned(each.number, UNKNOWN_RESULT)
        # The tasks of the calls have places of their own; those that they are started from are not counted.
        with standing_at(None):
            await self._run_all(todo, results, made, idle)
        return Acted(_all_of(results), made)

    @property
    def begins_late(self) -> bool:
        """Whether each call is written to the tape when it is let through, and not with the others."""
        return self.gate is not None

    async def _adopt(self, call: ToolCall | None, place: Place) -> None:
        """Have the children of a call go on that is not made again, and tell its tool of them.

        Args:
          call: as it was made; None if nothing was called, so that what hooks had spawned is all.
        """
        head = self.ctx.head
        if head is None:
            self.ctx.adopt_children_of(place)
        else:
            await head.adopt_children_of(place)
        tool = None if self.tools is None or call is None else self.tools.get(call.name)
        adopt = getattr(tool, "adopt", None)
        if adopt is not None:
            adopt(self.ctx.children_of(place) if head is None else await head.children_of(place))

    async def collected(self, *, stop: bool) -> str:
        """Return what became of the agents that the model started, as it is to be told.

        Waits for them. Cancellation: leaves nothing behind.

        Args:
          stop: whether those that still run are aborted.
        """
        tool = None if self.tools is None else self.tools.get(STARTER)
        collect = getattr(tool, "collect", None)
        text: str = "" if collect is None else await await_unprotected(partial(collect, self.ctx, stop=stop))
        return text

    def let_go(self) -> None:
        """Abort the agents that the model started and that have not ended: they wait for what never comes."""
        tool = None if self.tools is None else self.tools.get(STARTER)
        let_go = getattr(tool, "let_go", None)
        if let_go is not None:
            let_go()

    def _is_to_be_repeated(self, tape: Tape, call: ToolCall, past: PastCall) -> bool:
        """Whether a call is made again that had begun, and of whose end the tape does not tell."""
        # One that hooks had changed is none that is made without them.
        return past.made is None and self._may_be_repeated(tape, call)

    def _may_be_repeated(self, tape: Tape, call: ToolCall) -> bool:
        """Whether a call may be made again of which nobody knows whether it had happened."""
        if call.problem:
            return True
        tool = None if self.tools is None else self.tools.get(call.name)
        if tool is None:
            # Such as one of an MCP server that is gone; else the model had called what there never was.
            return not tape.had_tool(call.name)
        return bool(getattr(tool, "idempotent", False)) and not tape.has_lost_secret(call)

    async def _run_all(
        self, todo: Sequence[Todo], results: list[ToolResult | None], made: Made, idle: IdleLimit | None
    ) -> None:
        if len(todo) == 1:
            (each,) = todo
            results[each.index] = await self._run(each, made)
            return

        rest = iter(todo)

        def begin_next() -> None:
            # Trio begins tasks that are started together in either order, and a model that opens a page and
            # clicks on it in one turn means it in this one. So each call begins the one behind it, which
            # is then always a step later.
            each = next(rest, None)
            if each is not None:
                nursery.start_soon(run, each)

        async def run(each: Todo) -> None:
            begin_next()  # before anything is awaited: else the agent could be judged without the others
            if idle is not None:
                idle.heard()
            results[each.index] = await self._run(each, made)
            if idle is not None:
                idle.heard()

        async with self.ctx.open_nursery() as nursery:
            begin_next()

    async def _refused(self, gate: Gate, call: ToolCall, number: int) -> ToolResult | None:
        """Return what a call comes to that is not made; one that is made has begun, as its tape tells."""
        tape = self.tape
        refused = await gate.refusal(call, None if tape is None else tape.call_key(number))
        if refused is not None and not refused.is_decided:
            self.ctx.emit(ToolStarted, call)
            self.ctx.emit(ToolFinished, call, refused.result, 0.0)
        if tape is not None:
            await tape.called([(number, call)])
            if refused is not None:
                tape.returned(number, refused.result)
        return None if refused is None else refused.result

    async def _run(self, todo: Todo, made: Made) -> ToolResult:
        """Run one call; `made` is told of what was called in its place, if that is something else."""
        call, number = todo.call, todo.number
        # Before the call begins: what a person takes to decide is no part of its time.
        if self.gate is not None and not todo.is_begun:  # one that has begun was let through before
            refused = await self._refused(self.gate, call, number)
            if refused is not None:
                return refused
        started = trio.current_time()
        result = await self._contained(call, number, started)
        if self.tape is not None:
            self.tape.returned(number, result, None, self.ctx.unwritten_versions())
        if self.watchers:
            self.ctx.emit(ToolFinished, call, result, trio.current_time() - started)
        if self.is_told:
            seconds = trio.current_time() - started
            tell(LOOP, logging.DEBUG, "the tool %s ended after %.3f s", printable(call.name), seconds)
        return result

    async def _contained(self, call: ToolCall, number: int, started: float) -> ToolResult:
        """Run one call within its time limit; what goes wrong in it is its result."""
        seconds = self._limit_of(call)
        too_slow = f"{call.name} did not end within {seconds:g} s and was stopped."
        # For a tool without a limit the deadline is infinite: a finite one would tell the pool that
        # whatever the tool waits for will end by itself, and so hide a deadlock.
        limit = trio.CancelScope(deadline=started + seconds)
        try:
            with limit:
                return await self._isolated(call, number)
        except BaseException as error:
            if not is_ordinary(error):
                raise
            text = said_of(error)
            tell_failed(call, error)
            return ToolResult(f"{too_slow} {text}" if limit.cancelled_caught else text, is_error=True)
        tell(LOOP, logging.WARNING, "the tool %s was stopped after %g s", printable(call.name), seconds)
        return ToolResult(too_slow, is_error=True)

    async def _isolated(self, call: ToolCall, number: int) -> ToolResult:
        """Run one call so that nothing of it stays on the task: no variable, no scope, no nursery."""
        mark = mark_task()
        result: ToolResult | None = None
        raised: BaseException | None = None
        try:
            result = await run_in_context(contextvars.copy_context(), self._called(call, number))
        except BaseException as error:  # raised again below, when what it left open is closed
            raised = error
        try:
            left_open: tuple[str, ...] = ()
            if not mark.is_left:
                raised, left_open = await close_leftovers(mark, raised)
            if left_open and (raised is None or is_ordinary(raised)):
                text = f"{call.name} {told_of(left_open)}"
                raise ToolError(text if raised is None else f"{said_of(raised)}; {text}") from raised
            if raised is not None:
                raise raised
            assert result is not None
            return result
        finally:
            del raised  # its traceback holds this frame

    async def _called(self, call: ToolCall, number: int) -> ToolResult:
        tape = self.tape
        if tape is None:
            begin_call(self.ctx.id)
        else:
            set_place(tape.place_of_call(number))
            begin_call(self.ctx.id, tape.call_key(number))
        if self.watchers:
            self.ctx.emit(ToolStarted, call)  # in the context in which the tool will run
        if call.problem:
            raise ToolError(call.problem)
        if self.tools is None:
            raise ToolError(f"there is no tool {call.name!r}; this agent has no tools")
        head = self.ctx.head
        with self.ctx.in_flight("tool_calls") if head is None else await head.admitted("tool_calls"):
            tool = self.tools.granted(call.name)
            whole = await await_unprotected(tool.call, self.ctx, call.input)
            short = self.tools.shortened(whole)
            if short is whole or self.too_long is None:
                return short
            return self.tools.shortened(await self.too_long(call, whole))

    def _limit_of(self, call: ToolCall) -> float:
        tool = None if self.tools is None else self.tools.get(call.name)
        return TOOL_SECONDS if tool is None or tool.timeout is None else tool.timeout


def _all_of(results: Sequence[ToolResult | None]) -> tuple[ToolResult, ...]:
    return tuple([_NOT_RUN if result is None else result for result in results])


def is_ordinary(error: BaseException) -> bool:
    """Whether an error is a call's own: nothing in it is fatal, and nothing a cancellation."""
    parts = split_error(error)
    return parts.fatal is None and not parts.cancelled


def tell_failed(call: ToolCall, error: BaseException) -> None:
    """Tell of a call that raised: the model gets the text, and nobody else would see where it came from.

    A `ToolError` is what a tool has to say to the model, and no problem of the program.
    """
    level = logging.INFO if all(isinstance(each, ToolError) for each in leaves_of(error)) else logging.WARNING
    notes = getattr(error, "__notes__", None)  # such as the name of the hook that raised it
    where = f" ({printable(str(notes[-1]))})" if notes else ""
    said = said_of(error) if isinstance(error, BaseExceptionGroup) else error
    tell(LOOP, level, "the tool %s failed%s: %s", printable(call.name), where, said, error=error)


def said_of(error: BaseException) -> str:
    """Return what the model is told of an error."""
    return named(error, by_text=ToolError)


protect_module(globals())
