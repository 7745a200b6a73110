"""The model calls of one run: their time limit, their room in the budget, and what they used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from agentpool import abc
from agentpool._core.budget import Budget, Claim, Reservation
from agentpool._core.effects import DriverFailed, Observation, Reason, Replied
from agentpool._core.errors import (
    BudgetExceededError,
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    PoolLimitError,
)
from agentpool._core.events import (
    BudgetWarned,
    CompletionFinished,
    ReasoningDeltaReceived,
    TextDeltaReceived,
)
from agentpool._core.messages import Completion, CompletionRequest, ReasoningDelta, TextDelta
from agentpool._core.states import LoopState
from agentpool._core.usage import TokenUsage
from agentpool._kernel.idleness import IdleLimit
from agentpool._kernel.protection import protect_module
from agentpool._kernel.splitting import split_error
from agentpool._loop.budgets import decision_on, waking

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

MODEL_SECONDS = 600.0
"""How long a model call may take."""


@attrs.frozen(eq=False)
class ModelCalls:
    """Asks one driver on behalf of one agent.

    Attributes:
      budget: where each call sets its worst case aside; None for no limit.
      streams: whether the driver has a stream of its own, which shows more than `complete` does.
      estimate_cost: what a usage costs; None for a driver without prices.
      metered: whether an answer without any usage is one whose usage is not known.
    """

    ctx: AgentContext
    driver: abc.Driver
    budget: Budget | None
    streams: bool
    estimate_cost: Callable[[TokenUsage], float | None] | None
    metered: bool

    @classmethod
    def of(cls, ctx: AgentContext, driver: abc.Driver, budget: Budget | None) -> ModelCalls:
        """Return the calls of one run; only `complete` has to be there of a driver."""
        stream = getattr(type(driver), "stream", None)
        return cls(
            ctx,
            driver,
            budget,
            streams=stream is not None and stream is not abc.Driver.stream,
            estimate_cost=getattr(driver, "estimate_cost", None),
            metered=getattr(driver, "metered", True),
        )

    async def reason(self, state: LoopState, effect: Reason, idle: IdleLimit | None = None) -> Observation:
        """Ask the model; what goes wrong is an observation too, unless it is fatal.

        Waits for room in the budget, then for the answer. Cancellation: the worst case of a call
        that was under way counts as used.

        Args:
          state: where the run stands.
          effect: what to ask.
          idle: is told of each piece of the answer; so the answer is streamed, if the driver can.
        """
        try:
            return Replied(await self._within_budget(effect, idle))
        except BudgetExceededError as error:
            error.usage, error.transcript = state.usage, state.transcript
            self.ctx.emit(BudgetWarned, str(error))
            return DriverFailed(error)
        except Exception as error:
            if split_error(error).fatal is not None:
                raise
            return DriverFailed(error)

    async def _within_budget(self, effect: Reason, idle: IdleLimit | None) -> Completion:
        if self.budget is None:
            return await self._within_limit(effect.request, None, idle)
        claim = self._claim(self.budget, effect)
        # The wait for room is no part of the call's time limit.
        reservation = claim if isinstance(claim, Reservation) else await decision_on(claim)
        with reservation:
            await trio.lowlevel.checkpoint_if_cancelled()  # nothing was sent: it costs nothing
            return await self._within_limit(effect.request, reservation, idle)

    def _claim(self, budget: Budget, effect: Reason) -> Reservation | Claim:
        most = TokenUsage(effect.input_tokens, effect.request.max_tokens)
        cost = 0.0 if self.estimate_cost is None else self.estimate_cost(most)
        decided = waking(trio.lowlevel.current_task())
        return budget.claim(decided, tokens=most.total_tokens, cost_usd=cost)

    async def _within_limit(
        self, request: CompletionRequest, reservation: Reservation | None, idle: IdleLimit | None
    ) -> Completion:
        started = trio.current_time()
        with trio.CancelScope(deadline=started + MODEL_SECONDS):
            completion = await self._complete(request, reservation, idle)
            if self.ctx.observed:
                self.ctx.emit(CompletionFinished, completion.usage, trio.current_time() - started)
            return completion
        raise DriverUnavailableError(f"the model did not answer within {MODEL_SECONDS:g} s")

    async def _complete(
        self, request: CompletionRequest, reservation: Reservation | None, idle: IdleLimit | None
    ) -> Completion:
        """Make a call, and forget no money that it may have cost when it fails or is cancelled.

        What such a call used is not known, so it is booked with its worst case.
        """
        try:
            with self.ctx.in_flight("model_calls"):
                if self.streams and (idle is not None or self.ctx.observed):
                    return await self._stream(request, reservation, idle)
                return self._booked(await self.driver.complete(request), reservation)
        except BaseException as error:
            if reservation is not None and _may_have_cost(error):
                reservation.settle()
            raise

    async def _stream(
        self, request: CompletionRequest, reservation: Reservation | None, idle: IdleLimit | None
    ) -> Completion:
        completion: Completion | None = None
        async with self.driver.stream(request) as parts:
            async for part in parts:
                if idle is not None:
                    idle.heard()
                if isinstance(part, TextDelta):
                    self.ctx.emit(TextDeltaReceived, part.text)
                elif isinstance(part, ReasoningDelta):
                    self.ctx.emit(ReasoningDeltaReceived, part.text)
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
        self.ctx.add_usage(usage)
        if reservation is None:
            return completion
        tokens = usage.total_tokens
        if tokens or not self.metered:
            reservation.settle(tokens=tokens, cost_usd=usage.cost_usd)
        else:
            reservation.settle()  # the server does not count, but that is not free: the worst case
        return completion

    def _priced(self, completion: Completion) -> Completion:
        """Fill in the price of a completion, where its driver left that to its price list."""
        if not isinstance(completion, Completion):
            raise MalformedReplyError(f"the driver answered {completion!r}, which is no Completion")
        usage = completion.usage
        if usage.cost_usd or self.estimate_cost is None:
            return completion
        cost = self.estimate_cost(usage)
        if not cost:
            return completion
        return attrs.evolve(completion, usage=attrs.evolve(usage, cost_usd=cost))


def _may_have_cost(error: BaseException) -> bool:
    """Whether a call that ended like this may have been answered, and so have to be paid."""
    if isinstance(error, DriverError):
        return error.may_have_cost
    return not isinstance(error, PoolLimitError)


protect_module(globals())
