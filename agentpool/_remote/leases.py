"""Model calls that a worker makes itself: the head gives each its room, and the worker tells what it took.

    lease   ->  lease_used, as soon as the answer is there   ->  lease_ended
            ->  lease_ended, with the worst case, if it failed and may have to be paid
            ->  lease_ended, if it was not made

A lease is for one call: nobody else's call is refused for room that one worker keeps and does not need. Of a
worker that is lost the head books the worst case of every lease that was not ended, so the limit holds
whatever is lost on the way.
"""

from __future__ import annotations

import copy
from types import TracebackType
from typing import TYPE_CHECKING

import attrs

from agentpool import abc
from agentpool._core.budget import Budget, Reservation
from agentpool._core.errors import (
    BudgetExceededError,
    DriverError,
    DriverUnavailableError,
    OverloadedError,
    RateLimitedError,
)
from agentpool._core.messages import Completion, CompletionRequest
from agentpool._core.text import told
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._kernel.metering import Meter, MeteredCall, MeteredDriver
from agentpool._kernel.protection import protect_module
from agentpool._remote.model_facts import OWN_BUDGET, Demand, GateKey, Leased, kind_of
from agentpool._remote.models import CarriedDriver, HeadDriver, PlacedBudget

if TYPE_CHECKING:
    from agentpool._remote.line import Line
    from agentpool._remote.models import RemoteMeans
    from agentpool.drivers.governed import CallAtGate, Gate, GovernorSettings


@attrs.frozen(eq=False)
class LeasedMeter(Meter):
    """Counts the model calls of one agent at a worker, with room from the head for each."""

    budget: PlacedBudget
    seconds: float | None = None
    means: RemoteMeans = attrs.field(kw_only=True)

    def around(self, driver: abc.Driver) -> abc.Driver:
        """Return a driver with this meter around each driver in it that talks to a model.

        Governors in it keep their quotas at the head. A driver of the head needs no other meter than there.
        """
        return abc.wrapped_inside(driver, _Wrapping(self))

    def _wrap(self, driver: abc.Driver) -> abc.Driver:
        means, budget = self.means, self.budget
        if isinstance(driver, HeadDriver | CarriedDriver):
            return HeadDriver(means, driver.facts, None if budget.key is None else budget, self.seconds)
        if isinstance(driver, LeasedDriver) and driver.leases.means is means:
            driver = driver.inner
        return LeasedDriver(driver, self)

    def count(self, usage: TokenUsage) -> None:
        """Count what a call used, on the agent here; the head is told with the lease."""
        self._record.add_usage(usage)

    def has_no_quota(self, budget: Budget) -> bool:
        """Whether a budget is the pool's, so that the agent has no quota of its own."""
        return isinstance(budget, PlacedBudget) and budget.key == OWN_BUDGET and not self.means.has_quota

    def warn(self, error: BudgetExceededError) -> None:
        """Have the head tell whoever watches of a call that found no room."""
        lean = copy.copy(error)
        lean.transcript = ()  # it may be long, and nobody there looks at it
        self.means.line.tell("lease_refused", lean)


class _Wrapping:
    """Puts a meter around drivers, and gates of the head in the places of those around them."""

    def __init__(self, meter: LeasedMeter) -> None:
        self._meter = meter
        self._gates: dict[int, HeadGate] = {}

    def __call__(self, driver: abc.Driver) -> abc.Driver:
        return self._meter._wrap(driver)

    def gate_for(self, gate: Gate, driver: abc.Driver) -> Gate:
        """Return the gate at the head that is in the place of one here. Several drivers may share one."""
        found = self._gates.get(id(gate))
        if found is None:
            key = (
                gate.key if isinstance(gate, HeadGate) else (len(self._gates), kind_of(driver), gate.settings)
            )
            found = self._gates[id(gate)] = HeadGate(self._meter.means, key)
        return found


class LeasedDriver(MeteredDriver):
    """A driver of a worker, each of whose calls gets its room from the head."""

    @property
    def leases(self) -> LeasedMeter:
        """The meter around it."""
        assert isinstance(self.meter, LeasedMeter)
        return self.meter

    def call(self, request: CompletionRequest) -> LeasedCall:
        """Return a call that is about to be made."""
        return LeasedCall(self, request)


class LeasedCall(MeteredCall):
    """One call that a worker makes: what a `MeteredCall` does in the budget is done at the head."""

    __slots__ = ("_is_told", "_lease")

    def __init__(self, driver: LeasedDriver, request: CompletionRequest) -> None:
        super().__init__(driver, request)
        self._lease: LeasedRoom | None = None
        self._is_told = False

    async def _claimed(self, budget: Budget, tokens: int | None, bound: int | None) -> Reservation:
        assert isinstance(budget, PlacedBudget)
        assert isinstance(self._driver, LeasedDriver)
        means = self._driver.leases.means
        room = LeasedRoom(budget, means.line, means.next_number())
        leased: Leased = await means.line.ask(
            "lease", room.number, budget.key, self._demand(budget, tokens, bound)
        )
        means.take_in(leased.news, budget)
        if leased.error is not None:
            raise leased.error
        self._lease = room
        return room

    def _demand(self, budget: Budget, tokens: int | None, bound: int | None) -> Demand:
        if tokens is None or bound is None:
            return Demand()
        most = self.request.max_tokens
        cost = self._cost_of(tokens, most) if budget.limits_money else None
        if tokens == bound or budget.parent is None:
            return Demand(tokens + most, cost)
        return Demand(tokens + most, cost, bound - tokens, self._slack_cost(bound, tokens))

    def _set_slack_aside(self, budget: Budget, reservation: Reservation, bound: int, estimate: int) -> None:
        """Do nothing: the lease has it."""

    def _into_flight(self) -> None:
        """Do nothing: it counts at the head for as long as its lease."""

    def _out_of_flight(self) -> None:
        """Do nothing, likewise."""

    def _told(self, usage: TokenUsage = NO_USAGE) -> None:
        lease = self._lease
        if lease is not None and self._settled and not self._is_told:
            self._is_told = True
            lease.line.tell("lease_used", lease.number, *lease.took, usage)

    def _book_worst(self) -> None:
        assert self._lease is not None
        self._lease.end(is_worst=True)

    def end(self, error: BaseException | None, completion: Completion | None = None) -> bool:
        """Book or give back what is set aside; return whether it was ended because its time was over."""
        try:
            return super().end(error, completion)
        finally:
            assert self._lease is not None
            self._lease.end()


class LeasedRoom(Reservation):
    """Room that the head keeps for one call."""

    def __init__(self, budget: PlacedBudget, line: Line, number: int) -> None:
        super().__init__(budget, (0, 0, 0))
        self.line = line
        self.number = number
        self.took: tuple[int | None, float | None] = (None, None)
        self._has_ended = False

    def settle(
        self, *, tokens: int | None = None, cost_usd: float | None = None, calls: int | None = None
    ) -> None:
        """Note what the call took; the head is told with its usage."""
        self.took = tokens, cost_usd

    def release(self) -> None:
        """Give back what is not booked."""
        self.end()

    def end(self, *, is_worst: bool = False) -> None:
        """Tell the head that the call is over; harmless if repeated."""
        if not self._has_ended:
            self._has_ended = True
            self.line.tell("lease_ended", self.number, is_worst)


# -- gates -------------------------------------------------------------------------------------------------


class HeadGate:
    """A gate at the head, past which the calls of all workers go; a `Gate`."""

    def __init__(self, means: RemoteMeans, key: GateKey) -> None:
        """Keep which one it is."""
        self._means = means
        self.key = key

    @property
    def settings(self) -> GovernorSettings:
        """What it keeps to."""
        return self.key[2]

    def call(self, rank: int, tokens: int) -> CallAtHeadGate:
        """Return a block for one call; at its end nothing of it is left at the gate."""
        return CallAtHeadGate(self._means, self.key, rank, tokens)


class CallAtHeadGate:
    """One call on its way past a gate at the head."""

    def __init__(self, means: RemoteMeans, key: GateKey, rank: int, tokens: int) -> None:
        self._line = means.line
        self._number = means.next_number()
        self._asked = (key, rank, tokens)

    def __enter__(self) -> CallAtGate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.tell("gate_left", self._number)

    async def start(self) -> None:
        """Wait until the call may be made; as `CallAtGate.start`."""
        await self._line.ask("pass_gate", self._number, *self._asked)

    def answered(self, completion: Completion) -> None:
        """Book that the provider took the call."""
        self._line.tell("gate_answered", self._number, completion.usage)

    async def failed(self, error: DriverError) -> bool:
        """Book a failure; return whether the call is in the queue again.

        Checkpoint: always. Cancellation: it may be booked.
        """
        is_queued: bool = await self._line.ask("gate_failed", self._number, _lean(error))
        return is_queued

    def broke(self, error: Exception) -> None:
        """Book an error in the middle of a stream."""
        if isinstance(error, DriverError):
            self._line.tell("gate_broke", self._number, _lean(error))


def _lean(error: DriverError) -> DriverError:
    """Return an error with just what a governor looks at, which can be sent whatever else it holds."""
    if isinstance(error, RateLimitedError | OverloadedError):
        kind = OverloadedError if isinstance(error, OverloadedError) else RateLimitedError
        return kind(told(error), retry_after=error.retry_after)
    return (DriverUnavailableError if isinstance(error, DriverUnavailableError) else DriverError)(told(error))


protect_module(globals())
