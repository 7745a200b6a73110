"""Budgets: limits on tokens, money and calls, as a tree.

Before a model call its worst case is reserved, after it the real usage is settled. Along every
path from a budget to its root, and for each resource that has a limit there:

    spent + reserved <= limit        (as long as no call used more than it had reserved)

Money is kept in integers, picodollars, so that a million additions drift by nothing.

Nothing here waits or knows tasks. A call that finds no room now, but may find some once others
settle for less than they reserved, leaves a `Claim`, which is decided later by a callback. A
queue stands at each budget that lacks room, in the order of arrival:

    a queue is not empty  =>  its first claim lacks room there  =>  reserved > 0 there

so whoever holds the reservation will serve the queue when it settles or releases, and no claim
is left behind.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, TypeAlias

import attrs

from agentpool._core.errors import BudgetExceededError, PriceUnknownError
from agentpool._core.usage import TokenUsage

Resource: TypeAlias = Literal["tokens", "cost_usd", "calls"]
RESOURCES: tuple[Resource, ...] = ("tokens", "cost_usd", "calls")

_PICODOLLARS = 10**12  # per dollar: a token at $0.01 per million costs 10,000 of them

_Amounts: TypeAlias = tuple[int, int, int]
"""Amounts in the order of `RESOURCES`: tokens, picodollars, calls."""


@attrs.frozen
class BudgetFigures:
    """A budget at one moment, in whole numbers: to be shown in another process.

    Attributes:
      limit, spent, reserved: tokens, picodollars and calls; None where there is no limit.
      waiting: calls that wait there for others to settle.
    """

    limit: tuple[int | None, int | None, int | None]
    spent: _Amounts
    reserved: _Amounts
    waiting: int


@attrs.frozen
class BudgetAmounts:
    """An amount of each resource."""

    tokens: int = 0
    cost_usd: float = 0.0
    calls: int = 0


@attrs.frozen
class BudgetLimits:
    """A bound for each resource; None where there is none."""

    tokens: int | None = None
    cost_usd: float | None = None
    calls: int | None = None


@attrs.frozen
class BudgetStatistics:
    """A budget at one moment.

    Attributes:
      limit: its own limits, without its ancestors'.
      spent: what was settled under it and its descendants.
      reserved: what calls under way hold.
      remaining: what may still be reserved, ancestors included.
      waiting: calls that wait here for others to settle.
    """

    limit: BudgetLimits
    spent: BudgetAmounts
    reserved: BudgetAmounts
    remaining: BudgetLimits
    waiting: int


@attrs.define(eq=False, init=False, repr=False)
class Budget:
    """Limits on tokens, money and calls, shared by every agent that works under it.

    A budget may have children, whose limits hold beside those of their ancestors: a child can
    only narrow. Use it from one thread, that of the pool.
    """

    _ancestors: tuple[Budget, ...]  # the parent first, the root last; not itself, which were a cycle
    _limit: tuple[int | None, int | None, int | None]
    _bounds: tuple[tuple[int, int], ...]  # (index of a resource, its limit), for those that have one
    _spent: list[int]
    _reserved: list[int]
    _queue: list[tuple[int, Claim]]  # a heap of (ticket, claim); decided ones are dropped late
    _tickets: Iterator[int]  # shared by the whole tree
    _priced: bool  # whether it or an ancestor limits money
    _measured: bool  # whether it or an ancestor limits tokens or money

    def __init__(
        self, *, tokens: int | None = None, cost_usd: float | None = None, calls: int | None = None
    ) -> None:
        """Make a budget that stands on its own.

        Args:
          tokens: how many tokens, input and output together; None for no limit.
          cost_usd: how much money, in US dollars; None for no limit, 0 for free models only.
          calls: how many model calls; None for no limit.

        Raises:
          ValueError: if a limit is negative or no finite number.
          TypeError: if a limit has a wrong type.
        """
        self._set_up(None, tokens, cost_usd, calls)

    def _set_up(
        self, parent: Budget | None, tokens: int | None, cost_usd: float | None, calls: int | None
    ) -> None:
        self._ancestors = () if parent is None else (parent, *parent._ancestors)
        self._limit = (
            None if tokens is None else _count("tokens", tokens),
            None if cost_usd is None else _picodollars(cost_usd),
            None if calls is None else _count("calls", calls),
        )
        self._bounds = tuple([(i, limit) for i, limit in enumerate(self._limit) if limit is not None])
        self._spent = [0, 0, 0]
        self._reserved = [0, 0, 0]
        self._queue = []
        self._tickets = itertools.count(1) if parent is None else parent._tickets
        self._priced = self._limit[1] is not None or (parent is not None and parent._priced)
        limits_tokens = self._limit[0] is not None
        self._measured = limits_tokens or self._priced or (parent is not None and parent._measured)

    def child(
        self, *, tokens: int | None = None, cost_usd: float | None = None, calls: int | None = None
    ) -> Budget:
        """Return a new budget below this one: what it spends, this one spends too.

        Args and errors are those of `Budget`.
        """
        child = Budget.__new__(Budget)
        child._set_up(self, tokens, cost_usd, calls)
        return child

    def __repr__(self) -> str:
        limits = [
            f"{name}={_shown(name, spent):g}/{_shown(name, limit):g}"
            for name, spent, limit in zip(RESOURCES, self._spent, self._limit, strict=True)
            if limit is not None
        ]
        return f"<Budget {', '.join(limits) or 'without a limit'}>"

    def begin_with(self, tokens: int, cost: int, calls: int) -> None:
        """Count as spent here, and in no budget above, what a run had spent before it was resumed.

        Args:
          tokens, cost, calls: amounts; `cost` in picodollars.
        """
        for index, amount in enumerate((tokens, cost, calls)):
            self._spent[index] += amount

    # -- reading

    @property
    def parent(self) -> Budget | None:
        """The budget above this one; None for a root."""
        return self._ancestors[0] if self._ancestors else None

    @property
    def limit(self) -> BudgetLimits:
        """This budget's own limits."""
        return _limits(self._limit)

    @property
    def spent(self) -> BudgetAmounts:
        """What was settled under this budget and its descendants."""
        return BudgetAmounts(self._spent[0], self._spent[1] / _PICODOLLARS, self._spent[2])

    @property
    def reserved(self) -> BudgetAmounts:
        """What calls under way hold."""
        return BudgetAmounts(self._reserved[0], self._reserved[1] / _PICODOLLARS, self._reserved[2])

    @property
    def remaining(self) -> BudgetLimits:
        """What may still be reserved here: the narrowest of this budget and its ancestors."""
        room = [self._narrowest(index) for index in range(len(RESOURCES))]
        return _limits((room[0], room[1], room[2]))

    def statistics(self) -> BudgetStatistics:
        """Return a snapshot."""
        return BudgetStatistics(self.limit, self.spent, self.reserved, self.remaining, self._waiting())

    def _waiting(self) -> int:
        return sum(not claim.decided for _, claim in self._queue)

    def figures(self) -> tuple[BudgetFigures, ...]:
        """Return a snapshot of this budget and of all above it, the root last."""
        return tuple([node._figures() for node in self._path()])

    def _figures(self) -> BudgetFigures:
        spent, reserved = self._spent, self._reserved
        return BudgetFigures(
            self._limit,
            (spent[0], spent[1], spent[2]),
            (reserved[0], reserved[1], reserved[2]),
            self._waiting(),
        )

    def nearly_used(self, threshold: float = 0.8) -> tuple[Resource, ...]:
        """Return the resources of which at least this share of this budget's limit is spent."""
        return tuple(
            name
            for name, spent, limit in zip(RESOURCES, self._spent, self._limit, strict=True)
            if limit is not None and spent >= threshold * limit
        )

    @property
    def measures_calls(self) -> bool:
        """Whether it, or an ancestor, limits tokens or money, and so has to know what a call can use."""
        return self._measured

    @property
    def limits_money(self) -> bool:
        """Whether it, or an ancestor, limits money, and so has to know what a call can cost."""
        return self._priced

    def unspent(self) -> BudgetLimits:
        """Return what is not spent of this budget's own limits, set aside or not; None where it has none."""
        left = [
            None if limit is None else max(0, limit - spent)
            for limit, spent in zip(self._limit, self._spent, strict=True)
        ]
        return _limits((left[0], left[1], left[2]))

    # -- reserving

    def reserve(self, *, tokens: int = 0, cost_usd: float | None = None, calls: int = 1) -> Reservation:
        """Set the worst case of a model call aside, here and in every ancestor, or nowhere.

        It takes what is free now, also when others wait for room.

        Args:
          tokens: the most that the call can use, input and output together.
          cost_usd: the most that it can cost; None says that the price is not known.
          calls: how many calls it makes.

        Raises:
          BudgetExceededError: if some budget on the way up has no room for it now.
          PriceUnknownError: if `cost_usd` is None, and some budget on the way up limits money.
          ValueError: if an amount is negative or no finite number.
          TypeError: if an amount has a wrong type.
        """
        need = self._need(tokens, cost_usd, calls)
        short = self._shortage(need)
        if short is not None:
            raise short[0]._refusal(short[1], need)
        return self._grant(need)

    def claim(
        self,
        on_decided: Callable[[Reservation | BudgetExceededError], None],
        *,
        tokens: int = 0,
        cost_usd: float | None = None,
        calls: int = 1,
    ) -> Reservation | Claim:
        """Reserve, or queue for room that calls under way may give back.

        Claims are served in the order in which they came; only those that compete for the same
        room stand in each other's way.

        Args:
          on_decided: called once, synchronously, with the reservation, or with the error if so
            much was spent meanwhile that there can be no room any more; never from inside
            `claim`, and not after `Claim.withdraw`. It must not use the budget.
          tokens, cost_usd, calls: as in `reserve`.

        Raises:
          BudgetExceededError: if there will never be room, whatever others give back.
          PriceUnknownError, ValueError, TypeError: as in `reserve`.
        """
        need = self._need(tokens, cost_usd, calls)
        if self._is_free(need):
            return self._grant(need)
        refusal = self._final_refusal(need)
        if refusal is not None:
            raise refusal
        claim = Claim(self, need, next(self._tickets), on_decided, node=self)
        obstacle = self._obstacle(claim)
        assert obstacle is not None, "there is none only where it is free"
        obstacle._queue_up(claim)
        return claim

    def _need(self, tokens: int, cost_usd: float | None, calls: int) -> _Amounts:
        if cost_usd is None and self._priced:
            payer = next(node for node in self._path() if node._limit[1] is not None)
            raise PriceUnknownError(
                limit=_shown("cost_usd", payer._limit[1]),
                spent=_shown("cost_usd", payer._spent[1]),
                reserved=_shown("cost_usd", payer._reserved[1]),
            )
        return (
            _count("tokens", tokens),
            0 if cost_usd is None else _picodollars(cost_usd),
            _count("calls", calls),
        )

    def _path(self) -> tuple[Budget, ...]:
        """Return this budget, its parent, and so on up to the root."""
        return (self, *self._ancestors)

    def _room(self, index: int) -> int | None:
        limit = self._limit[index]
        return None if limit is None else max(0, limit - self._spent[index] - self._reserved[index])

    def _narrowest(self, index: int) -> int | None:
        rooms = [room for node in self._path() if (room := node._room(index)) is not None]
        return min(rooms, default=None)

    def _lacks(self, need: _Amounts, *, finally_: bool = False) -> int | None:
        """Return the index of the first resource of which this budget, by itself, has too little."""
        for index, limit in self._bounds:
            # A resource that is not needed is never lacking, not even in an overdrawn budget.
            if need[index]:
                held = 0 if finally_ else self._reserved[index]
                if self._spent[index] + held + need[index] > limit:
                    return index
        return None

    def _shortage(self, need: _Amounts) -> tuple[Budget, int] | None:
        for node in self._path():
            index = node._lacks(need)
            if index is not None:
                return node, index
        return None

    def _refusal(self, index: int, need: _Amounts) -> BudgetExceededError:
        name = RESOURCES[index]
        return BudgetExceededError(
            name,
            limit=_shown(name, self._limit[index]),
            spent=_shown(name, self._spent[index]),
            reserved=_shown(name, self._reserved[index]),
            needed=_shown(name, need[index]),
        )

    def _final_refusal(self, need: _Amounts) -> BudgetExceededError | None:
        """Return the error if there would be no room even if all that is reserved were given back."""
        for node in self._path():
            index = node._lacks(need, finally_=True)
            if index is not None:
                return node._refusal(index, need)
        return None

    def _grant(self, need: _Amounts) -> Reservation:
        tokens, picodollars, calls = need
        for node in self._path():
            reserved = node._reserved
            reserved[0] += tokens
            reserved[1] += picodollars
            reserved[2] += calls
        return Reservation(self, need)

    def _give_back(self, need: _Amounts, used: _Amounts) -> None:
        # Written out, not as a loop over the resources: that takes half the time.
        held_tokens, held_picodollars, held_calls = need
        tokens, picodollars, calls = used
        path = self._path()
        is_waited_for = False
        for node in path:
            reserved, spent = node._reserved, node._spent
            reserved[0] -= held_tokens
            reserved[1] -= held_picodollars
            reserved[2] -= held_calls
            spent[0] += tokens
            spent[1] += picodollars
            spent[2] += calls
            if node._queue:
                is_waited_for = True
        if is_waited_for:
            for node in path:
                node._serve()

    # -- the queue

    def _is_free(self, need: _Amounts) -> bool:
        """Whether there is room now, and nobody waits for it."""
        for node in self._path():
            if (node._queue and node._first() is not None) or node._lacks(need) is not None:
                return False
        return True

    def _obstacle(self, claim: Claim) -> Budget | None:
        """Return the budget at which a claim of this one has to wait; None if it need not."""
        for node in self._path():
            first = node._first()
            overtakes = first is not None and first.ticket < claim.ticket
            if overtakes or node._lacks(claim.need) is not None:
                return node
        return None

    def _first(self) -> Claim | None:
        while self._queue and self._queue[0][1].decided:
            heapq.heappop(self._queue)
        return self._queue[0][1] if self._queue else None

    def _queue_up(self, claim: Claim) -> None:
        claim.node = self
        heapq.heappush(self._queue, (claim.ticket, claim))

    def _serve(self) -> None:
        """Decide the claims at the head of this queue, as far as that can be done now."""
        while (claim := self._first()) is not None:
            refusal = claim.budget._final_refusal(claim.need)
            obstacle = None if refusal else claim.budget._obstacle(claim)
            if obstacle is self:
                return
            heapq.heappop(self._queue)
            if refusal is not None:
                claim._decide(refusal)
            elif obstacle is not None:
                obstacle._queue_up(claim)
            else:
                claim._decide(claim.budget._grant(claim.need))


@attrs.define(eq=False, repr=False)
class Claim:
    """A call that queues for room in a budget; made by `Budget.claim`."""

    budget: Budget
    need: _Amounts
    ticket: int
    on_decided: Callable[[Reservation | BudgetExceededError], None]
    node: Budget  # at whose queue it stands
    decided: bool = False

    def _decide(self, decision: Reservation | BudgetExceededError) -> None:
        self.decided = True
        self.on_decided(decision)

    def withdraw(self) -> None:
        """Leave the queue; nothing is reserved. Harmless once the claim is decided."""
        if self.decided:
            return
        self.decided = True
        self.node._serve()  # what stood behind it may fit


@attrs.define(eq=False, repr=False)
class Reservation:
    """Room in a budget and its ancestors, held during one model call.

    It is settled or released once; whatever comes after that has no effect. As a context
    manager it is released at the end of the block, unless it was settled.
    """

    budget: Budget
    _need: _Amounts
    _state: Literal["open", "settled", "released"] = "open"
    _booked: _Amounts = (0, 0, 0)

    @property
    def need(self) -> _Amounts:
        """What was set aside, in whole numbers: tokens, picodollars, calls."""
        return self._need

    @property
    def booked(self) -> _Amounts:
        """What was booked, in whole numbers: tokens, picodollars, calls; zeros unless it is settled."""
        return self._booked

    @property
    def state(self) -> Literal["open", "settled", "released"]:
        """How far it is."""
        return self._state

    @property
    def amounts(self) -> BudgetAmounts:
        """What was set aside."""
        return BudgetAmounts(self._need[0], self._need[1] / _PICODOLLARS, self._need[2])

    def settle(
        self, *, tokens: int | None = None, cost_usd: float | None = None, calls: int | None = None
    ) -> None:
        """Book what the call really used, and give the rest back.

        What the call used beyond its reservation (its provider did not keep to `max_tokens`) is
        booked too, even past the limit: a budget does not lie.

        Args:
          tokens: input and output together; None books what was reserved.
          cost_usd: None books what was reserved.
          calls: None books what was reserved.

        Raises:
          ValueError, TypeError: as in `Budget.reserve`; the reservation stays open.
        """
        if self._state != "open":
            return
        used = (
            self._need[0] if tokens is None else _count("tokens", tokens),
            self._need[1] if cost_usd is None else _picodollars(cost_usd),
            self._need[2] if calls is None else _count("calls", calls),
        )
        self._state, self._booked = "settled", used
        self.budget._give_back(self._need, used)

    def release(self) -> None:
        """Give everything back: the call was not made, or used nothing."""
        if self._state != "open":
            return
        self._state = "released"
        self.budget._give_back(self._need, (0, 0, 0))

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        tokens, picodollars, calls = self._need
        return f"<Reservation {self._state}: {tokens} tokens, ${picodollars / _PICODOLLARS:g}, {calls} calls>"


NOTHING_BOOKED: _Amounts = (0, 0, 0)


def amounts_of(usage: TokenUsage, calls: int = 1) -> _Amounts:
    """Return what calls used, in whole numbers: tokens, picodollars, calls."""
    return usage.total_tokens, _picodollars(usage.cost_usd), calls


def _count(name: str, value: int) -> int:
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, but is {value}")
    return value


def _picodollars(dollars: float) -> int:
    if type(dollars) is float and dollars == 0.0:  # what most calls cost, as far as is known
        return 0
    if isinstance(dollars, bool) or not isinstance(dollars, (int, float)):
        raise TypeError(f"cost_usd must be a number of dollars, not {dollars!r}")
    if dollars < 0 or not math.isfinite(dollars):
        raise ValueError(f"cost_usd must be finite and not negative, but is {dollars}")
    # The nearest one, so that 0.1 + 0.2 still fits into 0.3.
    return round(dollars * _PICODOLLARS)


def _shown(name: Resource, amount: int | None) -> float:
    assert amount is not None
    return amount / _PICODOLLARS if name == "cost_usd" else amount


def _limits(amounts: tuple[int | None, int | None, int | None]) -> BudgetLimits:
    tokens, picodollars, calls = amounts
    return BudgetLimits(tokens, None if picodollars is None else picodollars / _PICODOLLARS, calls)
