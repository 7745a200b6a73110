"""The agent that asks a model: performs the effects of the pure loop in `_core/loop.py`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic

import attrs
import trio

from agentpool import abc
from agentpool._budgets import decision_on, waking
from agentpool._core.budget import Budget, Claim, Reservation
from agentpool._core.errors import (
    BudgetExceededError,
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    PoolLimitError,
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


def _is_manifest(_: object, __: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, AgentManifest):
        return
    fix = f"; read it with AgentManifest.load({value!r})" if isinstance(value, (str, os.PathLike)) else ""
    raise TypeError(f"manifest must be an AgentManifest, not {value!r}{fix}")


def _is_query(_: object, __: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"query must be a string, not {value!r}")


def _is_count(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name} must be an int, not {value!r}")
    if value < 0:
        raise ValueError(f"{attribute.name} must be at least 0, not {value}")


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

    manifest: AgentManifest = attrs.field(validator=_is_manifest)
    query: str = attrs.field(validator=_is_query)
    output_type: type[T] | None = attrs.field(default=None, kw_only=True)
    output_retries: int = attrs.field(default=2, kw_only=True, validator=_is_count)
    driver: abc.Driver | None = attrs.field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """The manifest's name; the agent is called by it."""
        return self.manifest.name

    async def __call__(self, ctx: AgentContext) -> AgentResult[T]:
        """Run the loop to its end.

        A tool's error is told to the model. A model call may take 600 seconds (one that follows
        another at once, a second less), a tool call 120 or what its tool says. Messages that have
        arrived are taken before each model call.

        Raises:
          LoopHaltedError: if the guard stopped it.
          BudgetExceededError: if a model call found no room in the budget.
          DriverError: if the model could not be asked, or its answers were of no use.

        Checkpoint: always, as long as the driver keeps its promise of one. Cancellation: the
        running model and tool calls are cancelled; what was used is counted, and in a budget the
        worst case of a model call that was under way.
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
        return await _Run.of(ctx, driver, registry).to_its_end(state, effect)

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


_ENDS = (Finish, Halt)


@attrs.define(eq=False)
class _Run:
    """One run of the loop.

    Time limits: every call runs under `_scope`, whose deadline is moved from call to call. If it
    fires, the call is dropped, the limit becomes its observation, and a fresh scope takes over.
    Whatever else may take long lifts the limit first. To move it costs 2.5 µs, half of a scope for
    each call, so it is left where it is whenever that does no harm.
    """

    _ctx: AgentContext
    _driver: abc.Driver
    _budget: Budget | None
    _registry: ToolRegistry | None
    _streams: bool
    _estimate_cost: Callable[[TokenUsage], float | None] | None  # None if all that it says is "free"
    _metered: bool  # whether an answer without any usage is one whose usage is not known
    _on_decided: Callable[[Reservation | BudgetExceededError], None]
    _now: Callable[[], float]
    _watchers: Sequence[object]  # `ctx.observed`, at a fifth of the price
    _scope: trio.CancelScope = attrs.field(init=False)
    _announced: tuple[str, int] | None = None

    @classmethod
    def of(cls, ctx: AgentContext, driver: abc.Driver, registry: ToolRegistry | None) -> _Run:
        stream = getattr(type(driver), "stream", None)
        estimate = getattr(driver, "estimate_cost", None)
        return cls(
            ctx,
            driver,
            ctx.budget,
            registry,
            # Only a stream of its own shows more than `complete` does.
            stream is not None and stream is not abc.Driver.stream,
            # Not to ask a driver that has no prices saves 1.5 µs a call.
            None if getattr(estimate, "__func__", None) is abc.Driver.estimate_cost else estimate,
            getattr(driver, "metered", True),
            waking(trio.lowlevel.current_task()),
            trio.lowlevel.current_clock().current_time,  # half the price of `trio.current_time`
            ctx.watchers,
        )

    async def to_its_end(self, state: LoopState, effect: Effect) -> AgentResult[Any]:
        now, watchers = self._now, self._watchers
        while not isinstance(effect, _ENDS):
            # With the limit of the model call that is mostly the first: to set it here is free.
            with trio.CancelScope(deadline=now() + MODEL_SECONDS) as scope:
                self._scope = scope
                while True:
                    if watchers:
                        await self._announce(state)
                    # Not a method of its own: its call would cost every step 0.3 µs.
                    if isinstance(effect, Reason):
                        observation = await self._reason(state, effect)
                    elif isinstance(effect, Act):
                        observation = await self._act(effect)
                    elif isinstance(effect, Recall):
                        # No coroutine where nothing waits: 1 µs a turn.
                        recalled = await self._recall(effect.query) if effect.query else ()
                        observation = self._perceived(recalled)
                    else:
                        observation = await self._remember(effect)
                    state, effect = advance(state, observation)
                    # The limit may have passed, though the call came to its end: then the next
                    # one would be cancelled for nothing. (`cancel_called` says it too, at 0.7 µs.)
                    if isinstance(effect, _ENDS) or now() >= scope.deadline:
                        break
            if scope.cancelled_caught:
                state, effect = advance(state, self._out_of_time(effect))
        if watchers:
            await self._announce(state)
        if isinstance(effect, Finish):
            return effect.result
        try:
            raise effect.error
        finally:
            del effect  # the error's traceback holds this frame

    async def _announce(self, state: LoopState) -> None:
        where = (state.phase, state.iteration)
        if where != self._announced:
            self._announced = where
            self._ctx.emit(PhaseChanged, *where)
        self._lift_limit()
        await self._ctx.wait_for_subscribers()

    def _lift_limit(self) -> None:
        if self._scope.deadline != math.inf:
            self._scope.deadline = math.inf

    def _out_of_time(self, effect: Effect) -> Observation:
        if isinstance(effect, Reason):
            return DriverFailed(
                DriverUnavailableError(f"the model did not answer within {MODEL_SECONDS:g} s")
            )
        assert isinstance(effect, Act)
        (call,) = effect.calls
        return Acted((self._too_slow(call),))

    # -- perceive and remember --------------------------------------------------

    async def _recall(self, query: str) -> Sequence[abc.MemoryFragment]:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._ctx.memory is None:
            return ()
        self._lift_limit()
        return tuple(await self._ctx.memory.recall(query))

    def _perceived(self, fragments: Sequence[abc.MemoryFragment]) -> Recalled:
        """Take the messages that have arrived; nothing waits until they are in the transcript."""
        inbox = self._ctx.inbox
        if not fragments and not inbox.fill:
            return _NOTHING_NEW
        messages: list[AgentMessage] = []
        while inbox.fill:
            messages.append(inbox.receive_nowait())
        return Recalled(fragments, messages)

    async def _remember(self, effect: Remember) -> Remembered:
        ctx = self._ctx
        if ctx.memory is not None:
            self._lift_limit()
            await ctx.memory.remember(effect.text, source="conversation", agent_id=ctx.id)
        return Remembered()

    # -- reason -------------------------------------------------------------------

    async def _reason(self, state: LoopState, effect: Reason) -> Observation:
        try:
            if self._budget is None:
                return Replied(await self._complete(effect.request))
            claim = self._claim(self._budget, effect)
            reservation = claim if isinstance(claim, Reservation) else await self._decision_on(claim)
            try:
                await trio.lowlevel.checkpoint_if_cancelled()  # nothing was sent: it costs nothing
                return Replied(await self._complete(effect.request, reservation))
            finally:
                reservation.release()
        except BudgetExceededError as error:
            error.usage, error.transcript = state.usage, state.transcript
            self._ctx.emit(BudgetWarned, str(error))
            return DriverFailed(error)
        except Exception as error:
            if _is_fatal(error):
                raise
            return DriverFailed(error)

    def _claim(self, budget: Budget, effect: Reason) -> Reservation | Claim:
        """Set the worst case aside, without a checkpoint if there is room: the call is one anyway."""
        cost: float | None = 0.0
        if self._estimate_cost is not None:
            cost = self._estimate_cost(TokenUsage(effect.input_tokens, effect.request.max_tokens))
        tokens = effect.input_tokens + effect.request.max_tokens
        return budget.claim(self._on_decided, tokens=tokens, cost_usd=cost)

    async def _decision_on(self, claim: Claim) -> Reservation:
        self._lift_limit()
        return await decision_on(claim)

    async def _complete(
        self, request: CompletionRequest, reservation: Reservation | None = None
    ) -> Completion:
        """Make a call, and forget no money that it may have cost when it fails or is cancelled.

        What such a call used is not known, so it is booked with its worst case.
        """
        ctx, scope = self._ctx, self._scope
        started = self._now()
        limit = started + MODEL_SECONDS
        # That of a call a moment ago will do, up to a second early.
        if not limit - 1 <= scope.deadline <= limit:
            scope.deadline = limit
        try:
            with ctx.in_flight("model_calls"):
                if self._streams and self._watchers:
                    completion = await self._stream(request, reservation)
                else:
                    completion = self._booked(await self._driver.complete(request), reservation)
        except BaseException as error:
            if reservation is not None and _may_have_cost(error):
                reservation.settle()
            raise
        if self._watchers:
            ctx.emit(CompletionFinished, completion.usage, self._now() - started)
        return completion

    async def _stream(self, request: CompletionRequest, reservation: Reservation | None) -> Completion:
        completion: Completion | None = None
        async with self._driver.stream(request) as parts:
            async for part in parts:
                if isinstance(part, TextDelta):
                    self._ctx.emit(TextDeltaReceived, part.text)
                else:
                    # Now, since leaving the stream may be cancelled.
                    completion = self._booked(part, reservation)
        if completion is None:
            raise MalformedReplyError("the driver's stream ended without its completion")
        return completion

    def _booked(self, completion: Completion, reservation: Reservation | None) -> Completion:
        """Count what an answer used, as soon as it is there."""
        completion = self._priced(completion)
        usage = completion.usage
        self._ctx.add_usage(usage)
        if reservation is None:
            return completion
        tokens = usage.total_tokens
        if tokens or not self._metered:
            reservation.settle(tokens=tokens, cost_usd=usage.cost_usd)
        else:
            reservation.settle()  # the server does not count, but that is not free: the worst case
        return completion

    def _priced(self, completion: Completion) -> Completion:
        """Fill in the price of a completion, where its driver left that to its price list."""
        if not isinstance(completion, Completion):
            raise MalformedReplyError(f"the driver answered {completion!r}, which is no Completion")
        usage = completion.usage
        if usage.cost_usd or self._estimate_cost is None:
            return completion
        cost = self._estimate_cost(usage)
        if not cost:
            return completion
        return attrs.evolve(completion, usage=attrs.evolve(usage, cost_usd=cost))

    # -- act ----------------------------------------------------------------------

    async def _act(self, effect: Act) -> Acted:
        if effect.warning:
            self._ctx.emit(GuardWarned, effect.warning)
        calls = effect.calls
        if len(calls) != 1:
            self._lift_limit()
            return await self._act_side_by_side(calls)
        (call,) = calls
        if not self._is_quick(call):
            self._scope.deadline = self._now() + self._limit_of(call)
        # One coroutine less where nobody looks on.
        result = await (self._call(call) if self._watchers else self._contained(call))
        return Acted((result,))

    async def _act_side_by_side(self, calls: Sequence[ToolCall]) -> Acted:
        results: list[ToolResult] = [_NOT_RUN] * len(calls)

        async def run(index: int, call: ToolCall) -> None:
            with trio.move_on_after(self._limit_of(call)) as scope:
                results[index] = await self._call(call)
            if scope.cancelled_caught:
                results[index] = self._too_slow(call)

        async with self._ctx.open_nursery() as nursery:
            for index, call in enumerate(calls):
                nursery.start_soon(run, index, call)
        return Acted(tuple(results))

    async def _call(self, call: ToolCall) -> ToolResult:
        """Run one call; what goes wrong in it is its result."""
        ctx = self._ctx
        started = self._now()
        ctx.emit(ToolStarted, call)
        result = await self._contained(call)
        ctx.emit(ToolFinished, call, result, self._now() - started)
        return result

    async def _contained(self, call: ToolCall) -> ToolResult:
        try:
            if self._registry is None:
                raise ToolError(f"there is no tool {call.name!r}; this agent has no tools")
            with self._ctx.in_flight("tool_calls"):
                tool = self._registry.granted(call.name)
                return self._registry.shortened(await tool.call(self._ctx, call.input))
        except Exception as error:
            if _is_fatal(error):
                raise
            text = str(error)
            if not isinstance(error, ToolError) or not text:
                text = f"{type(error).__name__}: {text}"
            return ToolResult(text, is_error=True)

    def _is_quick(self, call: ToolCall) -> bool:
        """Whether the call ends before anything could stop it; moving the limit would cost 2 µs."""
        return self._registry is not None and getattr(self._registry.get(call.name), "quick", False)

    def _limit_of(self, call: ToolCall) -> float:
        tool = None if self._registry is None else self._registry.get(call.name)
        return TOOL_SECONDS if tool is None or tool.timeout is None else tool.timeout

    def _too_slow(self, call: ToolCall) -> ToolResult:
        limit = self._limit_of(call)
        result = ToolResult(f"{call.name} did not end within {limit:g} s and was stopped.", is_error=True)
        self._ctx.emit(ToolFinished, call, result, limit)
        return result


_NOTHING_NEW = Recalled()
_NOT_RUN = ToolResult("Not run.", is_error=True)


def _may_have_cost(error: BaseException) -> bool:
    """Whether a call that ended like this may have been answered, and so have to be paid."""
    if isinstance(error, DriverError):
        return error.may_have_cost
    return not isinstance(error, PoolLimitError)
