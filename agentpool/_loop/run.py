"""One run of the loop: performs its effects, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, assert_never

import attrs

from agentpool import abc
from agentpool._core.effects import (
    Act,
    Collect,
    Collected,
    Compact,
    DriverFailed,
    Effect,
    Finish,
    Halt,
    Idled,
    Observation,
    Reason,
    Recall,
    Recalled,
    Remember,
    Remembered,
)
from agentpool._core.errors import BudgetExceededError
from agentpool._core.events import PhaseChanged
from agentpool._core.loop import advance
from agentpool._core.messages import ToolCall, ToolResult
from agentpool._core.outcomes import AgentResult
from agentpool._core.states import LoopState
from agentpool._kernel.places import standing_at
from agentpool._loop.model_calls import ModelCalls
from agentpool._loop.tool_calls import ToolCalls

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext
    from agentpool._loop.tape import Tape


@attrs.define(eq=False)
class Run:
    """One run of the loop.

    Each call of a model or a tool has a cancel scope of its own for its time limit. What else may
    take long (memory, room in a budget, a subscriber that is slow) happens outside of these scopes
    and takes nothing from a limit. Where the manifest has an `idle` limit, it is around each call of
    the model and around all tool calls of a turn.

    With a tape, what the run had observed before its agent was resumed is not observed again.

    Attributes:
      model, tools: perform its calls.
      handoff: the call that handed the conversation over, once it is done, if one did.
    """

    _ctx: AgentContext
    model: ModelCalls
    tools: ToolCalls
    _tape: Tape | None = None
    _idle: float | None = None
    _announced: tuple[str, int] | None = None
    handoff: ToolCall | None = None

    async def to_its_end(self, state: LoopState, effect: Effect) -> AgentResult[Any]:
        """Perform the effects until the run is done; return its result, or raise its error."""
        tape, watchers = self._tape, self._ctx.watchers
        while True:
            before = None if tape is None else tape.observed_before(effect)
            if before is not None:
                await self.model.passed_over(effect)
                if isinstance(before, DriverFailed):
                    _place(before.error, state)
                state, effect = advance(state, before)
                continue
            if watchers:
                await self._announce(state)
            match effect:
                case Reason():
                    observation = await (
                        self.model.reason(effect) if self._idle is None else self._reason(effect, self._idle)
                    )
                case Act():
                    results: list[ToolResult | None] = [None] * len(effect.calls)
                    observation = (
                        await self.tools.act(effect, results)
                        if self._idle is None
                        else await self._act(effect, results, self._idle)
                    )
                case Recall():
                    observation = await self._perceive(effect)
                case Compact():
                    observation = await (
                        self.model.compact(effect)
                        if self._idle is None
                        else self._compact(effect, self._idle)
                    )
                case Collect():
                    observation = await self._collect(effect)
                case Remember():
                    observation = await self._remember(effect)
                case Finish():
                    self.handoff = effect.handoff
                    return effect.result
                case Halt():
                    _raise(effect)
                case _:
                    assert_never(effect)
            if tape is not None:
                tape.observed(observation)
            if isinstance(observation, DriverFailed):
                _place(observation.error, state)
            state, effect = advance(state, observation)

    def go_on_with(self, model: ModelCalls, tools: ToolCalls) -> None:
        """Have the calls after those that are under way performed by others."""
        self.model, self.tools = model, tools

    async def _reason(self, effect: Reason, seconds: float) -> Observation:
        with self._ctx.open_idle_limit(seconds) as limit:
            return await self.model.reason(effect, limit)
        return Idled(seconds)

    async def _compact(self, effect: Compact, seconds: float) -> Observation:
        with self._ctx.open_idle_limit(seconds) as limit:
            return await self.model.compact(effect, limit)
        return Idled(seconds)

    async def _act(self, effect: Act, results: list[ToolResult | None], seconds: float) -> Observation:
        with self._ctx.open_idle_limit(seconds) as limit:
            return await self.tools.act(effect, results, limit)
        return Idled(seconds, results)

    async def _announce(self, state: LoopState) -> None:
        ctx = self._ctx
        where = (state.phase, state.iteration)
        if where != self._announced:
            self._announced = where
            ctx.emit(PhaseChanged, *where)
        await ctx.wait_for_subscribers()

    async def _perceive(self, effect: Recall) -> Recalled:
        fragments: Sequence[abc.MemoryFragment] = ()
        memory = self._ctx.memory
        if effect.query and memory is not None:
            fragments = tuple(await memory.recall(effect.query))
        # From here on nothing waits: what was taken from the inbox comes into the transcript.
        head = self._ctx.head
        if head is not None:
            return Recalled(fragments, await head.take_arrived())
        inbox = self._ctx.inbox
        return Recalled(fragments, inbox.take_all() if inbox.fill else ())

    async def _collect(self, effect: Collect) -> Collected:
        # What it does with its agent's verbs is done in a place of its own, as what a tool call does is.
        place = None if self._tape is None else self._tape.place_of_collecting()
        with standing_at(place):
            return Collected(await self.tools.collected(stop=effect.stop))

    async def _remember(self, effect: Remember) -> Remembered:
        ctx = self._ctx
        if ctx.memory is not None:
            await ctx.memory.remember(effect.text, source="conversation", agent_id=ctx.id)
        return Remembered()


def _place(error: Exception, state: LoopState) -> None:
    """Have the error of a budget tell how far the run has come."""
    if isinstance(error, BudgetExceededError):
        error.usage, error.transcript = state.usage, state.transcript


def _raise(halt: Halt) -> NoReturn:
    try:
        raise halt.error
    finally:
        del halt  # the error's traceback holds this frame
