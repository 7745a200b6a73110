"""Waiting for room in a budget, on trio."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import attrs
import outcome
import trio

from agentpool._core.budget import Budget, Claim, Reservation
from agentpool._core.errors import BudgetExceededError
from agentpool._kernel.protection import protect_class, protect_module


def reserve_when_room(
    budget: Budget, *, tokens: int = 0, cost_usd: float | None = None, calls: int = 1
) -> ReservationWhenRoom:
    """Reserve a call's worst case for an `async with` block, waiting for room that calls under way hold.

    A worst case is mostly far above what is used, so a budget that looks full is not: once the
    calls under way have settled there is room again. Entering the block waits for that, in the
    order of arrival among those who compete for the same room. It does not wait for what can
    never come: if the unspent rest is too small, it raises at once, also in the middle of a wait.

    The wait ends, because a reservation is held during one model call only: its holder waits for
    nothing but its provider. So reserve inside the block that makes the call, settle before tools
    run, and never enter a second such block inside the first.

    The block's value is the `Reservation`; it is released at the block's end unless it was settled.

    Args:
      budget: where to reserve; its ancestors are asked too.
      tokens: the most that the call can use, input and output together.
      cost_usd: the most that it can cost; None says that the price is not known.
      calls: how many calls it makes.

    Raises:
      BudgetExceededError: if there is not enough left, even if all calls under way used nothing.
      PriceUnknownError: if `cost_usd` is None, and some budget on the way up limits money.
      ValueError, TypeError: if an amount is no amount.

    Checkpoint: always, on entering. Cancellation: nothing stays reserved.
    """
    return ReservationWhenRoom(budget, tokens, cost_usd, calls)


@attrs.define(eq=False)
class ReservationWhenRoom:
    """What `reserve_when_room` returns: an async context manager, for one use."""

    _budget: Budget
    _tokens: int
    _cost_usd: float | None
    _calls: int
    _reservation: Reservation | None = None

    async def __aenter__(self) -> Reservation:
        # The checkpoint comes first: nothing may raise `Cancelled` once something is reserved.
        await trio.lowlevel.checkpoint()
        decided = waking(trio.lowlevel.current_task())
        claim = self._budget.claim(decided, tokens=self._tokens, cost_usd=self._cost_usd, calls=self._calls)
        if isinstance(claim, Claim):
            self._reservation = await decision_on(claim)
        else:
            self._reservation = claim
        return self._reservation

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._reservation is not None
        self._reservation.release()


def waking(task: trio.lowlevel.Task) -> Callable[[Reservation | BudgetExceededError], None]:
    """Return what a claim is to call when it is decided, so that `task` goes on after `decision_on`."""

    def decided(decision: Reservation | BudgetExceededError) -> None:
        result: outcome.Outcome[Reservation] = (
            outcome.Error(decision) if isinstance(decision, BudgetExceededError) else outcome.Value(decision)
        )
        trio.lowlevel.reschedule(task, result)

    return decided


async def decision_on(claim: Claim) -> Reservation:
    """Wait until a claim is decided; it was made with `waking` of the calling task, just before.

    Checkpoint: always. Cancellation: nothing stays reserved.
    """

    def withdraw(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        claim.withdraw()
        return trio.lowlevel.Abort.SUCCEEDED

    # A claim that was decided has rescheduled this task, and trio aborts no rescheduled task: so
    # a granted reservation always arrives.
    reservation: Reservation = await trio.lowlevel.wait_task_rescheduled(withdraw)
    return reservation


protect_module(globals())
for _cls in (Budget, Claim, Reservation):
    protect_class(_cls)  # the core knows nothing of trio, so that they cannot be marked there
