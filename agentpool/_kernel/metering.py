"""The meter: what an agent's model calls use is counted, and kept within its budget, call by call.

Whatever driver a pool hands out, to the loop or to an agent's own code, has a meter around each
driver in it that talks to a model. So each attempt of a retry and each fallback of a route is a call
by itself: its worst case is set aside before it, and what it used is booked after it. Nothing is set
aside while a call waits in a queue or pauses before it is tried again.

    set aside before  ->  booked as soon as the answer is there, before anything can be cancelled
                      ->  booked with its worst case, if it failed and may have to be paid
                      ->  given back, if it was not made
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool import abc
from agentpool._core.errors import (
    BudgetExceededError,
    DriverError,
    DriverUnavailableError,
    PoolLimitError,
)
from agentpool._core.events import BudgetWarned
from agentpool._core.messages import Completion, CompletionRequest, StreamPart
from agentpool._core.usage import NO_USAGE, TokenUsage, highest_cost
from agentpool._kernel.observed import ObservedCall
from agentpool._kernel.priced import PricedDriver
from agentpool._kernel.protection import await_unprotected, protect_module

if TYPE_CHECKING:
    from agentpool._core.budget import Budget, Reservation
    from agentpool._core.manifest import AgentManifest
    from agentpool._kernel.agent import AgentRecord
    from agentpool._kernel.journal import PoolJournal
    from agentpool._kernel.spending import Spending
    from agentpool._kernel.state import PoolState


@attrs.frozen(eq=False)
class Meter:
    """Counts the model calls of one agent.

    Attributes:
      budget: where each call's worst case is set aside; None for no limit.
      seconds: how long one call may take, without the wait for room; None for no limit.
    """

    _state: PoolState
    _record: AgentRecord
    budget: Budget | None
    seconds: float | None = None

    def around(self, driver: abc.Driver) -> abc.Driver:
        """Return a driver with this meter around each driver in it that talks to a model."""
        return abc.wrapped_inside(driver, self._wrap)

    def _wrap(self, driver: abc.Driver) -> abc.Driver:
        # One that this pool handed out before has a meter already: the nearest agent's counts.
        if isinstance(driver, MeteredDriver) and driver.meter._state is self._state:
            driver = driver.inner
        return MeteredDriver(driver, self)

    @property
    def journal(self) -> PoolJournal | None:
        """The pool's journal; None without one."""
        return self._state.journal

    @property
    def in_flight(self) -> Any:
        """Count a call for as long as the block runs; entering it raises `PoolLimitError` past the limit."""
        return self._state.counts.model_calls

    def count(self, usage: TokenUsage) -> None:
        """Count what a call used, on the agent and in its pool."""
        self._record.add_usage(usage)
        self._state.counts.used.add(usage)

    def has_no_quota(self, budget: Budget) -> bool:
        """Whether a budget is the pool's, so that the agent has no quota of its own."""
        return budget is self._record.pool.budget

    def refused(self, error: BudgetExceededError, request: CompletionRequest) -> None:
        """Complete an error with what was used and said so far, and warn whoever watches."""
        error.usage, error.transcript = self._record.usage, request.messages
        self.warn(error)

    def warn(self, error: BudgetExceededError) -> None:
        """Tell whoever watches of a call that found no room."""
        events = self._state.events
        if events.subscriptions:
            events.emit(BudgetWarned, self._record.id, self._record.parent_id, str(error))
        events.reports.refused(self._record, error)


class MeteredDriver(PricedDriver):
    """A driver with a meter around it; it equals the driver inside, and has its other attributes."""

    def __init__(self, inner: abc.Driver, meter: Meter) -> None:
        super().__init__(inner)
        self.meter = meter

    def bind(self, manifest: AgentManifest) -> abc.Driver:
        """Return what the driver inside makes of itself for one agent, with the same meter."""
        bind = getattr(self.inner, "bind", None)
        if bind is None:
            return self
        bound = bind(manifest)
        return self if bound is self.inner else type(self)(bound, self.meter)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Wait for room in the budget, then ask the driver inside, and book what it used.

        Raises:
          BudgetExceededError: if there is no room, and none can come.
          PoolLimitError: if as many calls are in flight in the pool as `PoolLimits` allows.
          DriverError: what the driver inside raises.

        Checkpoint: always. Cancellation: the worst case of a call that was under way is booked.
        """
        call = self.call(request)
        if self.meter.budget is not None:
            await call.set_aside(self.meter.budget)
        if self.meter.journal is not None:
            await call.keep(self.meter.journal)
        call.begin(False)
        try:
            completion = call.booked(await await_unprotected(self.inner.complete, call.request))
        except BaseException as error:
            if not call.end(error):
                raise
        else:
            call.end(None, completion)
            return completion
        raise call.too_slow()

    def stream(self, request: CompletionRequest) -> AbstractAsyncContextManager[AsyncIterator[StreamPart]]:
        """As `complete`, for an answer in pieces; leaving it early books the worst case."""
        if getattr(self.inner, "stream", None) is None:
            return super().stream(request)
        return _MeteredStream(self, request)

    def call(self, request: CompletionRequest) -> MeteredCall:
        """Return a call that is about to be made."""
        return MeteredCall(self, request)


class MeteredCall:
    """One call: its room, its time, and what it used. After `begin` comes `end`, whatever happens."""

    __slots__ = (
        "_driver",
        "_limit",
        "_reservation",
        "_settled",
        "_slack",
        "_spending",
        "observed",
        "request",
    )

    def __init__(self, driver: MeteredDriver, request: CompletionRequest) -> None:
        self._driver = driver
        self.request = request
        self._reservation: Reservation | None = None
        self._slack: Reservation | None = None
        self._spending: Spending | None = None
        self._limit: trio.CancelScope | None = None
        self._settled = False
        self.observed: ObservedCall | None = None

    async def set_aside(self, budget: Budget) -> None:
        """Wait for room for its worst case."""
        try:
            self._reservation = await self._room(budget)
        except BudgetExceededError as error:
            self._driver.meter.refused(error, self.request)
            raise
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # nothing was sent: it costs nothing
        except BaseException:
            self._give_back()
            raise

    async def keep(self, journal: PoolJournal) -> None:
        """Wait until the journal has its worst case, and everything before it."""
        from agentpool._kernel.spending import Spending  # who has no journal needs none

        self._spending = Spending(journal, self._driver.meter._record.id, self._reservation, self._slack)
        try:
            await self._spending.kept()
        except BaseException:
            self._give_back()
            raise

    def begin(self, is_streamed: bool) -> None:
        """Count it among those in flight, begin its time, and tell whoever watches."""
        meter = self._driver.meter
        try:
            self._into_flight()
        except BaseException:
            self._give_back()
            raise
        if meter.seconds is not None:
            self._limit = trio.CancelScope(deadline=trio.current_time() + meter.seconds)
            self._limit.__enter__()
        events = meter._state.events
        if events.subscriptions:
            self.observed = ObservedCall(events, meter._record, self._driver.inner, self.request, is_streamed)

    async def _room(self, budget: Budget) -> Reservation:
        """Wait until the call's worst case is set aside."""
        if not budget.measures_calls:
            return await self._claimed(budget, None, None)
        bounds = self._driver.bounds()
        bound = bounds.of(self.request)
        if self._driver.meter.has_no_quota(budget):
            return await self._claimed(budget, bound, bound)
        while True:
            # Near the end of its own quota an agent keeps to the estimate of what is sent.
            exact = self._fits(budget, bound)
            tokens = bound if exact else bounds.estimate()
            if not exact:
                self._shorten(budget, tokens)
            try:
                reservation = await self._claimed(budget, tokens, bound)
            except BudgetExceededError:
                # While it waited, others may have used what a shorter answer does not need.
                if exact and not self._fits(budget, bound):
                    continue
                if not exact and self._shorten(budget, tokens):
                    continue
                raise
            if not exact:
                self._set_slack_aside(budget, reservation, bound, tokens)
            return reservation

    def _fits(self, budget: Budget, tokens: int) -> bool:
        """Whether so much input and the longest answer fit into what is left of the agent's own quota."""
        return self._longest(budget, tokens) >= self.request.max_tokens

    def _longest(self, budget: Budget, tokens: int) -> int:
        """Return how long an answer may be by the agent's own quota."""
        most = self.request.max_tokens
        unspent = budget.unspent()
        if unspent.tokens is not None:
            most = min(most, unspent.tokens - tokens)
        money = unspent.cost_usd
        if money is not None and most > 0 and (self._cost_of(tokens, most) or 0.0) > money:
            most = bisect_right(range(most), money, key=lambda n: self._cost_of(tokens, n) or 0.0) - 1
        return most

    def _set_slack_aside(self, budget: Budget, reservation: Reservation, bound: int, estimate: int) -> None:
        """Have the budgets above keep the bound, where the agent's own quota keeps to the estimate.

        So an agent can use its own quota to its end, and nobody else's is passed by it. It does not
        wait: whoever holds a reservation must not.
        """
        if budget.parent is None:
            return
        try:
            self._slack = budget.parent.reserve(
                tokens=bound - estimate, cost_usd=self._slack_cost(bound, estimate), calls=0
            )
        except BudgetExceededError:
            reservation.release()
            raise

    def _slack_cost(self, bound: int, estimate: int) -> float | None:
        most = self.request.max_tokens
        whole = self._cost_of(bound, most)
        part = self._cost_of(estimate, most)
        return None if whole is None or part is None else max(0.0, whole - part)

    def _cost_of(self, given: int, taken: int) -> float | None:
        return highest_cost(partial(self._driver.cost_of, self.request.model), given, taken)

    async def _claimed(self, budget: Budget, tokens: int | None, bound: int | None) -> Reservation:
        """Wait for room for so much input and the longest answer; `bound` is the most that the input is."""
        budgets = _budgets()
        decided = budgets.waking(trio.lowlevel.current_task())
        if tokens is None:
            claim: Any = budget.claim(decided)
        else:
            most = self.request.max_tokens
            cost = self._cost_of(tokens, most) if budget.limits_money else None
            claim = budget.claim(decided, tokens=tokens + most, cost_usd=cost)
        # The wait for room is no part of the call's time limit.
        if isinstance(claim, budgets.Reservation):
            granted: Reservation = claim
        else:
            granted = await budgets.decision_on(claim)
        return granted

    def _shorten(self, budget: Budget, tokens: int) -> bool:
        """Ask for a shorter answer where only that fits into the agent's own quota."""
        longest = self._longest(budget, tokens)
        if not 0 < longest < self.request.max_tokens:
            return False
        self.request = attrs.evolve(self.request, max_tokens=longest)
        return True

    def booked(self, completion: Completion) -> Completion:
        """Count what an answer used, as soon as it is there."""
        driver = self._driver
        completion = driver.priced(completion, getattr(self.request, "model", ""))
        usage = completion.usage
        driver.meter.count(usage)
        driver.counted(self.request, completion)
        self._settled = True
        reservation = self._reservation
        if reservation is not None:
            tokens = usage.total_tokens
            if tokens or not driver.metered:
                reservation.settle(tokens=tokens, cost_usd=usage.cost_usd)
            else:
                reservation.settle()  # the server does not count, but that is not free
        self._told(usage)
        return completion

    def _told(self, usage: TokenUsage = NO_USAGE) -> None:
        if self._spending is not None:
            self._spending.booked(usage)

    def too_slow(self) -> DriverUnavailableError:
        """Return the error for a call that did not end in time."""
        seconds = self._driver.meter.seconds
        return DriverUnavailableError(f"the model did not answer within {seconds:g} s", may_have_cost=True)

    def end(self, error: BaseException | None, completion: Completion | None = None) -> bool:
        """Book or give back what is set aside; return whether it was ended because its time was over."""
        self._out_of_flight()
        if self._reservation is not None:
            if not self._settled and (error is None or _may_have_cost(error)):
                self._book_worst()
            if not self._settled or self._slack is not None:
                self._give_back()
        limit = self._limit
        if limit is not None:
            limit.__exit__(
                None if error is None else type(error), error, None if error is None else error.__traceback__
            )
            is_too_slow = limit.cancelled_caught
        else:
            is_too_slow = False
        if self.observed is not None:
            self.observed.ended(self.too_slow() if is_too_slow else error, completion)
        return is_too_slow

    def _into_flight(self) -> None:
        self._driver.meter.in_flight.__enter__()

    def _out_of_flight(self) -> None:
        self._driver.meter.in_flight.__exit__()

    def _book_worst(self) -> None:
        for reservation in (self._reservation, self._slack):
            if reservation is not None:
                reservation.settle()

    def _give_back(self) -> None:
        for reservation in (self._reservation, self._slack):
            if reservation is not None:
                reservation.release()
        self._told()


_loaded: Any = None


def _budgets() -> Any:
    """Return what waits for room; it is loaded when the first budget is asked, and not before."""
    global _loaded
    if _loaded is None:
        from agentpool._kernel import budgets

        _loaded = budgets
    return _loaded


def _may_have_cost(error: BaseException) -> bool:
    """Whether a call that ended like this may have been answered, and so have to be paid."""
    if isinstance(error, DriverError):
        return error.may_have_cost
    return not isinstance(error, PoolLimitError)


class _MeteredStream:
    """One call whose answer comes in pieces: the block, and the iterator over its parts."""

    def __init__(self, driver: MeteredDriver, request: CompletionRequest) -> None:
        self._driver = driver
        self._call = driver.call(request)
        self._block: Any = None
        self._parts: Any = None
        self._completion: Completion | None = None

    async def __aenter__(self) -> _MeteredStream:
        call, meter = self._call, self._driver.meter
        if meter.budget is not None:
            await call.set_aside(meter.budget)
        if meter.journal is not None:
            await call.keep(meter.journal)
        call.begin(True)
        try:
            self._block = self._driver.inner.stream(call.request)
            self._parts = await await_unprotected(self._block.__aenter__)
        except BaseException as error:
            if call.end(error):
                raise call.too_slow() from None
            raise
        return self

    def __aiter__(self) -> _MeteredStream:
        return self

    async def __anext__(self) -> StreamPart:
        part: StreamPart = await await_unprotected(self._parts.__anext__)
        if self._call.observed is not None:
            self._call.observed.part_came()
        if isinstance(part, Completion):
            # Now, since leaving the stream may be cancelled.
            part = self._completion = self._call.booked(part)
        return part

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            silenced = bool(await await_unprotected(self._block.__aexit__, kind, error, trace))
        except BaseException as raised:
            if self._call.end(raised, self._completion):
                raise self._call.too_slow() from None
            raise
        if self._call.end(error, self._completion):
            raise self._call.too_slow() from None
        return silenced


protect_module(globals())
