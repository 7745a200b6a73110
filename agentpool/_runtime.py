"""The agent that asks a model: performs the effects of the pure loop in `_core/loop.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic

import attrs
import trio
from attrs.validators import ge, instance_of

from agentpool import abc
from agentpool._budgets import reserve_when_room
from agentpool._core.budget import Budget
from agentpool._core.errors import (
    BudgetExceededError,
    DriverUnavailableError,
    MalformedReplyError,
    RequestRejectedError,
    ToolError,
)
from agentpool._core.events import (
    BudgetWarned,
    CompletionFinished,
    GuardWarned,
    PhaseChanged,
    TextDeltaReceived,
    ToolFinished,
    ToolStarted,
)
from agentpool._core.loop import (
    Act,
    Acted,
    DriverFailed,
    Effect,
    Finish,
    Halt,
    LoopState,
    Observation,
    OutputSpec,
    Reason,
    Recall,
    Recalled,
    Remember,
    Remembered,
    Replied,
    advance,
    begin,
)
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import (
    AgentMessage,
    Completion,
    CompletionRequest,
    TextDelta,
    ToolCall,
    ToolResult,
)
from agentpool._core.outcomes import AgentResult
from agentpool._core.usage import TokenUsage

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from agentpool._context import AgentContext
    from agentpool.tools import ToolRegistry

    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

MODEL_SECONDS = 600.0
"""How long a model call may take."""

TOOL_SECONDS = 120.0
"""How long a tool call may take whose tool does not say so itself."""


@attrs.frozen
class SpawnConfig(Generic[T]):
    """An agent that answers a query by the loop: perceive, reason, act, until the model is done.

    It is an agent like any other: `await pool.spawn(SpawnConfig(manifest, query))`. Its value is
    an `AgentResult`.

    Attributes:
      manifest: who the agent is, and what it may use.
      query: what it is asked.
      output_type: what the answer has to be: a pydantic model, an attrs class, a dataclass, or any
        type that pydantic knows. Without it the answer is text.
      output_retries: how many answers that do not fit are given back to the model.
      driver: whom to ask instead of the pool's driver.
    """

    manifest: AgentManifest = attrs.field(validator=instance_of(AgentManifest))
    query: str = attrs.field(validator=instance_of(str))
    output_type: type[T] | None = attrs.field(default=None, kw_only=True)
    output_retries: int = attrs.field(default=2, kw_only=True, validator=[instance_of(int), ge(0)])
    driver: abc.Driver | None = attrs.field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """The manifest's name; the agent is called by it."""
        return self.manifest.name

    async def __call__(self, ctx: AgentContext) -> AgentResult[T]:
        """Run the loop to its end.

        A tool's error is told to the model. A model call may take 600 seconds, a tool call 120 or
        what its tool says. Messages that have arrived are taken before each model call.

        Raises:
          LoopHaltedError: if the guard stopped it.
          BudgetExceededError: if a model call found no room in the budget.
          DriverError: if the model could not be asked, or its answers were of no use.

        Checkpoint: always, as long as the driver keeps its promise of one. Cancellation: the
        running model and tool calls are cancelled; what was used is counted.
        """
        driver = _driver_for(self.manifest, ctx.driver if self.driver is None else self.driver)
        registry = None if ctx.tools is None else ctx.tools.limited_to(self.manifest)
        state, effect = begin(
            self.manifest,
            self.query,
            tools=() if registry is None else registry.definitions(),
            context_window=getattr(driver, "context_window", None),
            output=self._output(),
        )
        run = _Run(ctx, driver, ctx.budget, registry)
        return await run.to_its_end(state, effect)

    def _output(self) -> OutputSpec | None:
        if self.output_type is None or self.output_type is str:
            return None
        from agentpool._output import output_spec

        return output_spec(self.output_type, self.output_retries)


def _driver_for(manifest: AgentManifest, driver: abc.Driver | None) -> abc.Driver:
    if driver is None:
        raise RequestRejectedError(
            f"agent {manifest.name!r} has no model to ask:"
            " pass one, as in open_agent_pool(driver, max_concurrent=...)"
        )
    # Some drivers make a driver for each agent: one that follows its script, or keeps to its privacy.
    bind: Callable[[AgentManifest], abc.Driver] | None = getattr(driver, "bind", None)
    if bind is not None:
        driver = bind(manifest)
    place = getattr(driver, "privacy", abc.Driver.privacy)
    if not manifest.privacy.permits(place):
        raise RequestRejectedError(
            f"the privacy of agent {manifest.name!r} is {manifest.privacy.value}, but what its driver is told"
            f" goes to a place that is {place.value}: use another driver, or widen the manifest's privacy"
        )
    return driver


def _is_fatal(error: Exception) -> bool:
    """Whether an exception is one that no agent may keep to itself."""
    if isinstance(error, ExceptionGroup):
        return any(map(_is_fatal, error.exceptions))
    return isinstance(error, MemoryError)


@attrs.define(eq=False)
class _Run:
    """One run of the loop.

    Time limits: every call runs under `_scope`, whose deadline is moved. That costs a third of
    a scope for each call. If it fires, the call is dropped, the limit becomes its observation, and
    a fresh scope takes over. Between calls the deadline is infinite.
    """

    _ctx: AgentContext
    _driver: abc.Driver
    _budget: Budget | None
    _registry: ToolRegistry | None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _announced: tuple[str, int] | None = None

    async def to_its_end(self, state: LoopState, effect: Effect) -> AgentResult[Any]:
        while not isinstance(effect, Finish | Halt):
            with trio.CancelScope() as self._scope:
                while True:
                    await self._announce(state)
                    observation = await self._perform(state, effect)
                    state, effect = advance(state, observation)
                    # The limit may have passed between the end of the call and here: then the next
                    # checkpoint under this scope would be cancelled for nothing.
                    if isinstance(effect, Finish | Halt) or self._scope.cancel_called:
                        break
            if self._scope.cancelled_caught:
                state, effect = advance(state, self._out_of_time(effect))
        await self._announce(state)
        if isinstance(effect, Finish):
            return effect.result
        try:
            raise effect.error
        finally:
            del effect  # the error's traceback holds this frame

    async def _announce(self, state: LoopState) -> None:
        if self._ctx.observed:
            where = (state.phase, state.iteration)
            if where != self._announced:
                self._announced = where
                self._ctx.emit(PhaseChanged, *where)
            await self._ctx.wait_for_subscribers()

    async def _perform(self, state: LoopState, effect: Effect) -> Observation:
        match effect:
            case Recall():
                return await self._perceive(effect)
            case Reason():
                return await self._reason(state, effect)
            case Act():
                return await self._act(effect)
            case Remember():
                return await self._remember(effect)
            case _:  # pragma: no cover - the loop ends with Finish and Halt
                raise AssertionError(effect)

    def _out_of_time(self, effect: Effect) -> Observation:
        if isinstance(effect, Reason):
            return DriverFailed(
                DriverUnavailableError(f"the model did not answer within {MODEL_SECONDS:g} s")
            )
        assert isinstance(effect, Act)
        (call,) = effect.calls
        result = self._too_slow(call)
        self._ctx.emit(ToolFinished, call, result, self._limit_of(call))
        return Acted((result,))

    # -- perceive and remember --------------------------------------------------

    async def _perceive(self, effect: Recall) -> Recalled:
        await trio.lowlevel.checkpoint_if_cancelled()
        fragments: Sequence[abc.MemoryFragment] = ()
        if effect.query and self._ctx.memory is not None:
            fragments = await self._ctx.memory.recall(effect.query)
        # Nothing may wait from here to `advance`: a message that was taken would be lost.
        return Recalled(tuple(fragments), self._arrived())

    def _arrived(self) -> tuple[AgentMessage, ...]:
        messages: list[AgentMessage] = []
        while True:
            try:
                messages.append(self._ctx.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return tuple(messages)

    async def _remember(self, effect: Remember) -> Remembered:
        ctx = self._ctx
        if ctx.memory is not None:
            await ctx.memory.remember(effect.text, source="conversation", agent_id=ctx.id)
        return Remembered()

    # -- reason -------------------------------------------------------------------

    async def _reason(self, state: LoopState, effect: Reason) -> Observation:
        try:
            return Replied(await self._within_budget(effect))
        except BudgetExceededError as error:
            error.usage, error.transcript = state.usage, state.transcript
            self._ctx.emit(BudgetWarned, str(error))
            return DriverFailed(error)
        except Exception as error:
            if _is_fatal(error):
                raise
            return DriverFailed(error)

    async def _within_budget(self, effect: Reason) -> Completion:
        request, budget = effect.request, self._budget
        if budget is None:
            return await self._complete(request)
        worst = TokenUsage(effect.input_tokens, request.max_tokens)
        cost = self._cost_of(worst)
        # A call that failed or was cancelled used nothing, as far as is known: it is released.
        async with reserve_when_room(budget, tokens=worst.total_tokens, cost_usd=cost) as reservation:
            completion = await self._complete(request)
            usage = completion.usage
            reservation.settle(tokens=usage.total_tokens, cost_usd=usage.cost_usd)
        return completion

    def _cost_of(self, usage: TokenUsage) -> float | None:
        estimate: Callable[[TokenUsage], float | None] | None = getattr(self._driver, "estimate_cost", None)
        return 0.0 if estimate is None else estimate(usage)

    async def _complete(self, request: CompletionRequest) -> Completion:
        ctx, scope = self._ctx, self._scope
        started = trio.current_time()
        scope.deadline = started + MODEL_SECONDS
        try:
            if ctx.observed and _streams(self._driver):
                completion = await self._stream(request)
            else:
                completion = await self._driver.complete(request)
        finally:
            scope.deadline = math.inf
        completion = self._priced(completion)
        ctx.add_usage(completion.usage)
        if ctx.observed:
            ctx.emit(CompletionFinished, completion.usage, trio.current_time() - started)
        return completion

    async def _stream(self, request: CompletionRequest) -> Completion:
        completion: Completion | None = None
        async with self._driver.stream(request) as parts:
            async for part in parts:
                if isinstance(part, TextDelta):
                    self._ctx.emit(TextDeltaReceived, part.text)
                else:
                    completion = part
        if completion is None:
            raise MalformedReplyError("the driver's stream ended without its completion")
        return completion

    def _priced(self, completion: Completion) -> Completion:
        """Fill in the price of a completion, where its driver left that to its price list."""
        if not isinstance(completion, Completion):
            raise MalformedReplyError(f"the driver answered {completion!r}, which is no Completion")
        usage = completion.usage
        if usage.cost_usd:
            return completion
        cost = self._cost_of(usage)
        if not cost:
            return completion
        return attrs.evolve(completion, usage=attrs.evolve(usage, cost_usd=cost))

    # -- act ----------------------------------------------------------------------

    async def _act(self, effect: Act) -> Acted:
        if effect.warning:
            self._ctx.emit(GuardWarned, effect.warning)
        calls = effect.calls
        if len(calls) > 1:
            return await self._act_side_by_side(calls)
        (call,) = calls
        scope = self._scope
        scope.deadline = trio.current_time() + self._limit_of(call)
        try:
            return Acted((await self._call(call),))
        finally:
            scope.deadline = math.inf

    async def _act_side_by_side(self, calls: Sequence[ToolCall]) -> Acted:
        results: list[ToolResult | None] = [None] * len(calls)

        async def run(index: int, call: ToolCall) -> None:
            with trio.move_on_after(self._limit_of(call)) as scope:
                results[index] = await self._call(call)
            if scope.cancelled_caught:
                results[index] = self._too_slow(call)
                self._ctx.emit(ToolFinished, call, results[index], self._limit_of(call))

        async with self._ctx.open_nursery() as nursery:
            for index, call in enumerate(calls):
                nursery.start_soon(run, index, call)
        return Acted(tuple([result for result in results if result is not None]))

    async def _call(self, call: ToolCall) -> ToolResult:
        """Run one call; what goes wrong in it is its result."""
        ctx = self._ctx
        if not ctx.observed:
            return await self._contained(call)
        started = trio.current_time()
        ctx.emit(ToolStarted, call)
        result = await self._contained(call)
        ctx.emit(ToolFinished, call, result, trio.current_time() - started)
        return result

    async def _contained(self, call: ToolCall) -> ToolResult:
        if self._registry is None:
            return ToolResult(f"there is no tool {call.name!r}; this agent has no tools", is_error=True)
        try:
            return await self._registry.call(self._ctx, call)
        except Exception as error:
            if _is_fatal(error):
                raise
            text = str(error)
            if not isinstance(error, ToolError) or not text:
                text = f"{type(error).__name__}: {text}"
            return ToolResult(text, is_error=True)

    def _limit_of(self, call: ToolCall) -> float:
        tool = None if self._registry is None else self._registry.get(call.name)
        return TOOL_SECONDS if tool is None or tool.timeout is None else tool.timeout

    def _too_slow(self, call: ToolCall) -> ToolResult:
        return ToolResult(
            f"{call.name} did not end within {self._limit_of(call):g} s and was stopped.", is_error=True
        )


def _streams(driver: abc.Driver) -> bool:
    """Whether a driver has a stream of its own, which shows more than its `complete` does."""
    stream = getattr(type(driver), "stream", None)
    return stream is not None and stream is not abc.Driver.stream
