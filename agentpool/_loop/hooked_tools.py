"""Tool calls that have hooks around them."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import attrs
import trio

from agentpool._core.approval import call_hash
from agentpool._core.errors import JournalError, ToolError
from agentpool._core.events import ToolFinished, ToolStarted
from agentpool._core.messages import ToolCall, ToolResult
from agentpool._core.transcript import UNKNOWN_RESULT
from agentpool._kernel.places import Place, begin_call, set_place
from agentpool._kernel.protection import await_unprotected, protect_module
from agentpool._logging import LOOP, printable, tell
from agentpool._loop.approving import Refused
from agentpool._loop.hooks import Layer, Passage, apart
from agentpool._loop.tool_calls import Made, Todo, ToolCalls, is_ordinary, said_of, tell_failed

if TYPE_CHECKING:
    from agentpool._core.past import PastCall
    from agentpool._loop.tape import MadeData, Tape


@attrs.frozen(eq=False)
class HookedToolCalls(ToolCalls):
    """As `ToolCalls`, through hooks.

    Whatever the hooks do, the model is told exactly one result of each call that it made, under its id; and
    each call that is really made is granted, and let through by the rules of approval.

    Attributes:
      layers: not empty.
    """

    layers: tuple[Layer, ...] = attrs.field(default=(), kw_only=True)

    @property
    def begins_late(self) -> bool:
        """A call begins when the hooks let it through, which may take long."""
        return True

    async def _run(self, todo: Todo, made: Made) -> ToolResult:
        tape = self.tape
        place = None if tape is None else tape.place_of_call(todo.number)
        one = _Made(todo.call, todo.number, todo.is_begun, place, is_repeated=todo.is_begun)
        attempts = _Attempts(
            self.ctx, self.tools, self.gate, tape, is_told=self.is_told, layers=self.layers, made=one
        )
        result = await attempts.run()
        if one.last != todo.call:
            made[todo.index] = one.last
        return result

    def _is_to_be_repeated(self, tape: Tape, call: ToolCall, past: PastCall) -> bool:
        # What the hooks let through now is looked at once more before it is made.
        then = call if past.made is None else tape.made_of(past)
        return then is None or self._may_be_repeated(tape, then)


@attrs.define(eq=False)
class _Made:
    """How far one call of the model has come.

    Attributes:
      call: as the model made it.
      number: which one of the run, as its tape counts.
      is_begun: whether the tape tells of it.
      place: where what is done for it stands; one for all attempts, so that each does something else.
      is_repeated: whether it had begun before its agent was resumed, so that it may have happened.
      told: the call of which `ToolStarted` told.
      is_refused: whether the last attempt was refused by a rule or a person.
      last: the call that was made last; of several the last that had no error, if one had none.
      is_done: whether that one had no error.
      is_lost: whether nobody knows what it came to before its agent was resumed.
      decided: what was decided of a call, by the hash of exactly that.
      broken: the journal's error, which no hook may take for that of a tool.
    """

    call: ToolCall
    number: int
    is_begun: bool
    place: Place | None
    is_repeated: bool
    told: ToolCall | None = None
    is_refused: bool = False
    last: ToolCall | None = None
    is_done: bool = False
    is_lost: bool = False
    decided: dict[str, Refused | None] = attrs.field(factory=dict)
    broken: JournalError | None = None


@attrs.frozen(eq=False)
class _Attempts(HookedToolCalls):
    """The attempts to make one call of the model: as many as its hooks want."""

    made: _Made = attrs.field(kw_only=True)

    async def run(self) -> ToolResult:
        """Return what the call comes to."""
        made, started = self.made, trio.current_time()
        result = await self._behind_hooks()
        if made.broken is not None:
            raise made.broken
        if made.is_lost:
            assert made.place is not None
            await self._adopt(made.last, made.place)
        if not made.is_done and not result.is_error and self._hands_off(made.last):
            made.last = None  # nothing was handed over, whatever hooks have made of the error
        if self.tools is not None:
            result = self.tools.shortened(result)
        if self.tape is not None and made.is_begun:
            seen = self.ctx.unwritten_versions()
            self.tape.returned(made.number, result, self._made_data(made.last), seen)
        elif self.tape is not None:
            self.tape.not_made(made.number, made.call, result)
        if self.ctx.observed:
            self._tell_finished(result, trio.current_time() - started)
        if self.is_told:
            seconds = trio.current_time() - started
            name = printable((made.last or made.call).name)
            tell(LOOP, logging.DEBUG, "the tool %s ended after %.3f s", name, seconds)
        return result

    async def _behind_hooks(self) -> ToolResult:
        try:
            return await apart(self._through, f"a call of {self.made.call.name}")
        except BaseException as error:
            return self._contained_error(error)

    async def _through(self) -> ToolResult:
        made = self.made
        set_place(made.place)
        begin_call(self.ctx.id, *(() if self.tape is None else (self.tape.call_key(made.number),)))
        passage = Passage(
            self.ctx, self.layers, ToolCall, ToolResult, self._make, _check_call, self._contained_error
        )
        # A copy: what a hook does to the arguments is not done to what the model said.
        return await passage.through(_copied(made.call))

    def _contained_error(self, error: BaseException) -> ToolResult:
        if not is_ordinary(error):
            raise error
        tell_failed(self.made.call, error)
        return ToolResult(said_of(error), is_error=True)

    # -- an attempt --------------------------------------------------------------------------------

    async def _make(self, call: ToolCall) -> ToolResult:
        """Make a call that the hooks let through, if it is granted and the rules let it through too."""
        made = self.made
        exact = _copied(call)  # what is approved is what is called, whatever becomes of the hook's
        refused = None if self.gate is None else await self._decision_on(exact)
        made.is_refused = refused is not None and refused.is_decided
        if refused is not None:
            return refused.result
        if made.is_repeated and self.tape is not None and not self._may_be_repeated(self.tape, exact):
            made.last, made.is_lost = exact, True
            return UNKNOWN_RESULT
        await self._begin(exact)
        result = await self._contained(exact, made.number, trio.current_time())
        if not (made.is_done and result.is_error):
            made.last, made.is_done = exact, not result.is_error
        return result

    def _made_data(self, call: ToolCall | None) -> MadeData | None:
        """Return what the tape is to tell of a call that is made in the place of the model's.

        It is what a run needs that is resumed: which tool it was, and all of a call that hands the
        conversation over. What else hooks put into arguments may be a secret of theirs, and is not written.
        """
        said, tape = self.made.call, self.tape
        assert tape is not None
        if call is None:
            return tape.made_to_data(None)
        if self._hands_off(call):
            return None if call == said else tape.made_to_data(call)
        return None if call.name == said.name else tape.made_to_data(ToolCall(call.id, call.name, {}))

    def _hands_off(self, call: ToolCall | None) -> bool:
        tool = None if self.tools is None or call is None else self.tools.get(call.name)
        return bool(getattr(tool, "hands_off", False))

    async def _decision_on(self, call: ToolCall) -> Refused | None:
        """Ask the rules, and perhaps a person; of exactly the same call once, however often it is tried."""
        assert self.gate is not None
        tape, made = self.tape, self.made
        key = call_hash(call)
        if key not in made.decided:
            try:
                made.decided[key] = await self.gate.refusal(
                    call, None if tape is None else tape.call_key(made.number)
                )
            except JournalError as error:
                made.broken = error
                raise
        return made.decided[key]

    async def _begin(self, call: ToolCall) -> None:
        """Have the tape tell that the call begins, with what the model said, and what is made of that."""
        made = self.made
        if self.tape is None or made.is_begun:
            return
        try:
            await self.tape.called([(made.number, made.call)], self._made_data(call))
        except JournalError as error:
            made.broken = error
            raise
        made.is_begun = True

    async def _called(self, call: ToolCall, number: int) -> ToolResult:
        made = self.made
        if made.told is None:
            made.told = call
            self.ctx.emit(ToolStarted, call)  # in the context in which the tool will run
        if call.problem:
            raise ToolError(call.problem)
        if self.tools is None:
            raise ToolError(f"there is no tool {call.name!r}; this agent has no tools")
        head = self.ctx.head
        with self.ctx.in_flight("tool_calls") if head is None else await head.admitted("tool_calls"):
            tool = self.tools.granted(call.name)
            result = await await_unprotected(tool.call, self.ctx, call.input)
            # Whole, for the hooks; `shortened` refuses what is no result.
            return result if isinstance(result, ToolResult) else self.tools.shortened(result)

    def _tell_finished(self, result: ToolResult, seconds: float) -> None:
        made = self.made
        if made.told is None:
            if made.is_refused:
                return  # `ApprovalDecided` has told of it
            made.told = made.call
            self.ctx.emit(ToolStarted, made.told)
        self.ctx.emit(ToolFinished, made.told, result, seconds)


def _copied(call: ToolCall) -> ToolCall:
    return attrs.evolve(call, input=copy.deepcopy(dict(call.input)))


def _check_call(given: ToolCall, asked: ToolCall) -> None:
    if asked.id != given.id:
        raise ValueError(
            f"changes the id of a call from {given.id!r} to {asked.id!r}: the model knows it by the first;"
            " change its name and input only, as in attrs.evolve(call, input=...)"
        )


protect_module(globals())
