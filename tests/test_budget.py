"""Budgets: nothing is spent beyond a limit, and nothing stays reserved."""

from __future__ import annotations

import gc
import math
import random

import attrs
import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from agentpool import (
    AgentManifest,
    Completion,
    CompletionRequest,
    Driver,
    Failed,
    ModelSettings,
    ResourceQuota,
    SpawnConfig,
    TokenUsage,
    open_agent_pool,
)
from agentpool._core.budget import (
    NOTHING_BOOKED,
    Budget,
    BudgetAmounts,
    BudgetLimits,
    Claim,
    Reservation,
    amounts_of,
)
from agentpool._core.errors import BudgetExceededError, PriceUnknownError
from agentpool._kernel.budgets import reserve_when_room

# -- one budget ---------------------------------------------------------------


def test_what_is_reserved_is_held_until_the_real_usage_is_settled() -> None:
    budget = Budget(tokens=100, cost_usd=1.0, calls=3)
    reservation = budget.reserve(tokens=60, cost_usd=0.5)
    assert reservation.amounts == BudgetAmounts(60, 0.5, 1)
    assert budget.reserved == BudgetAmounts(60, 0.5, 1)
    assert budget.remaining == BudgetLimits(40, 0.5, 2)
    reservation.settle(tokens=10, cost_usd=0.125)
    assert budget.reserved == BudgetAmounts()
    assert budget.spent == BudgetAmounts(10, 0.125, 1)
    assert budget.remaining == BudgetLimits(90, 0.875, 2)


def test_a_call_that_would_pass_a_limit_is_refused_with_the_figures_and_changes_nothing() -> None:
    budget = Budget(tokens=100)
    budget.reserve(tokens=30).settle(tokens=20)
    held = budget.reserve(tokens=50)
    before = budget.statistics()
    with pytest.raises(BudgetExceededError) as caught:
        budget.reserve(tokens=31)
    error = caught.value
    figures = (error.resource, error.limit, error.spent, error.reserved, error.needed)
    assert figures == ("tokens", 100, 20, 50, 31)
    assert budget.statistics() == before
    held.release()
    budget.reserve(tokens=80)


@pytest.mark.parametrize("resource", ["tokens", "cost_usd", "calls"])
def test_each_resource_is_bounded_by_itself(resource: str) -> None:
    budget = Budget(**{resource: 2})  # type: ignore[arg-type]
    with pytest.raises(BudgetExceededError) as caught:
        budget.reserve(**{"tokens": 0, "cost_usd": 0.0, "calls": 0, resource: 3})  # type: ignore[arg-type]
    assert caught.value.resource == resource


def test_a_budget_without_limits_counts_and_refuses_nothing() -> None:
    budget = Budget()
    budget.reserve(tokens=10**12, cost_usd=None, calls=5).settle(tokens=7)
    assert budget.spent == BudgetAmounts(7, 0.0, 5)
    assert budget.remaining == budget.limit == BudgetLimits()


def test_a_reservation_counts_once_however_often_it_is_ended() -> None:
    budget = Budget(tokens=100)
    settled = budget.reserve(tokens=10)
    settled.settle(tokens=5)
    settled.settle(tokens=9)
    settled.release()
    released = budget.reserve(tokens=10)
    released.release()
    released.settle(tokens=9)
    assert (settled.state, released.state) == ("settled", "released")
    assert budget.spent.tokens == 5
    assert budget.reserved.tokens == 0


def test_a_with_block_releases_what_it_did_not_settle_also_when_it_raises() -> None:
    budget = Budget(tokens=100)
    with pytest.raises(ZeroDivisionError), budget.reserve(tokens=60):
        raise ZeroDivisionError
    with budget.reserve(tokens=60) as reservation:
        reservation.settle(tokens=1)
    assert budget.spent == BudgetAmounts(1, 0.0, 1)
    assert budget.reserved == BudgetAmounts()


def test_settling_without_figures_books_the_worst_case() -> None:
    budget = Budget(tokens=100, cost_usd=1)
    budget.reserve(tokens=60, cost_usd=0.25).settle()
    assert budget.spent == BudgetAmounts(60, 0.25, 1)


def test_usage_beyond_the_reservation_is_told_as_it_is() -> None:
    budget = Budget(tokens=100)
    budget.reserve(tokens=10).settle(tokens=130, calls=2)
    assert budget.spent == BudgetAmounts(130, 0.0, 2)
    assert budget.remaining.tokens == 0
    with pytest.raises(BudgetExceededError):
        budget.reserve(tokens=1)
    budget.reserve(tokens=0)  # what needs nothing of it, an overdrawn resource does not stop


def test_what_a_run_had_spent_before_is_spent_here_and_not_above() -> None:
    pool = Budget(tokens=100)
    agent = pool.child(tokens=50)
    agent.begin_with(40, 250_000_000_000, 3)
    assert agent.spent == BudgetAmounts(40, 0.25, 3)
    assert pool.spent == BudgetAmounts()
    agent.begin_with(5, 0, 1)
    assert agent.remaining.tokens == 5
    with pytest.raises(BudgetExceededError):
        agent.reserve(tokens=6)
    agent.reserve(tokens=5).settle()
    assert pool.spent == BudgetAmounts(5, 0.0, 1)


def test_a_reservation_tells_what_was_set_aside_and_what_was_booked_in_whole_numbers() -> None:
    budget = Budget(tokens=100)
    reservation = budget.reserve(tokens=60, cost_usd=0.25)
    assert (reservation.need, reservation.booked) == ((60, 250_000_000_000, 1), (0, 0, 0))
    reservation.settle(tokens=7, cost_usd=0.125)
    reservation.settle(tokens=9)
    assert (reservation.need, reservation.booked) == ((60, 250_000_000_000, 1), (7, 125_000_000_000, 1))
    released = budget.reserve(tokens=1)
    released.release()
    assert released.booked == NOTHING_BOOKED


def test_usage_is_told_in_whole_numbers() -> None:
    assert amounts_of(TokenUsage(3, 4, cost_usd=0.000_000_000_001)) == (7, 1, 1)
    assert amounts_of(TokenUsage(), calls=0) == (0, 0, 0)


def test_money_does_not_drift() -> None:
    budget = Budget(cost_usd=0.3)
    budget.reserve(cost_usd=0.1).settle()
    budget.reserve(cost_usd=0.2).settle()
    assert budget.spent.cost_usd == 0.3
    many = Budget(cost_usd=0.02)
    for _ in range(20_000):
        many.reserve(cost_usd=1e-6).settle(cost_usd=1e-6)
    assert many.spent.cost_usd == 0.02
    with pytest.raises(BudgetExceededError):
        many.reserve(cost_usd=1e-12)


def test_an_unknown_price_under_a_money_budget_is_an_error_that_tells_the_fix() -> None:
    root = Budget(cost_usd=2.0)
    for budget in (root, root.child(tokens=10).child()):
        with pytest.raises(PriceUnknownError, match=r"\$2 cannot bound.*estimate_cost.*limit tokens"):
            budget.reserve(tokens=1)
    assert isinstance(PriceUnknownError(limit=1), BudgetExceededError)
    Budget(tokens=5).child().reserve(tokens=1)
    assert root.reserved == BudgetAmounts()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"tokens": -1}, ValueError),
        ({"calls": -1}, ValueError),
        ({"cost_usd": -0.1}, ValueError),
        ({"cost_usd": math.nan}, ValueError),
        ({"cost_usd": math.inf}, ValueError),
        ({"tokens": 1.5}, TypeError),
        ({"tokens": True}, TypeError),
        ({"cost_usd": "1"}, TypeError),
        ({"cost_usd": True}, TypeError),
    ],
)
def test_an_amount_that_is_none_is_refused_by_its_name(
    arguments: dict[str, int], error: type[Exception]
) -> None:
    (name,) = arguments
    for call in (Budget, Budget().child, Budget().reserve, Budget().reserve().settle):
        with pytest.raises(error, match=name):
            call(**arguments)


def test_a_settlement_with_a_wrong_amount_leaves_the_reservation_open() -> None:
    budget = Budget(tokens=10)
    reservation = budget.reserve(tokens=5)
    with pytest.raises(ValueError, match="tokens"):
        reservation.settle(tokens=-1)
    assert reservation.state == "open"
    reservation.release()
    assert budget.reserved.tokens == 0


def test_a_budget_tells_what_is_nearly_used() -> None:
    budget = Budget(tokens=100, calls=10)
    budget.reserve(tokens=79).settle()
    assert budget.nearly_used() == ()
    budget.reserve(tokens=1).settle()
    assert budget.nearly_used() == ("tokens",)
    assert budget.nearly_used(threshold=0.2) == ("tokens", "calls")


def test_what_budgets_and_reservations_hold_is_seen_in_their_reprs() -> None:
    budget = Budget(tokens=100, cost_usd=1)
    reservation = budget.reserve(tokens=50, cost_usd=0.25)
    assert repr(reservation) == "<Reservation open: 50 tokens, $0.25, 1 calls>"
    reservation.settle(tokens=25)
    assert repr(budget) == "<Budget tokens=25/100, cost_usd=0.25/1>"
    assert repr(Budget()) == "<Budget without a limit>"


# -- a tree --------------------------------------------------------------------


def test_a_child_spends_its_ancestors_and_a_refusal_up_there_reserves_nothing_anywhere() -> None:
    root = Budget(tokens=100)
    left, right = root.child(tokens=80), root.child(tokens=80)
    leaf = left.child()
    leaf.reserve(tokens=70).settle(tokens=70)
    assert (leaf.spent.tokens, left.spent.tokens, right.spent.tokens, root.spent.tokens) == (70, 70, 0, 70)
    assert right.remaining.tokens == 30
    assert leaf.remaining.tokens == 10
    with pytest.raises(BudgetExceededError) as caught:
        right.reserve(tokens=40)
    assert caught.value.limit == 100
    assert right.reserved == root.reserved == BudgetAmounts()
    assert leaf.parent is left
    assert root.parent is None


def test_a_child_that_is_dropped_is_not_kept_by_its_parent() -> None:
    root = Budget(tokens=100)
    root.child(tokens=1)
    gc.collect()
    assert not any(isinstance(held, Budget) for held in gc.get_referrers(root))


# -- waiting for room ----------------------------------------------------------


def test_a_claim_that_fits_is_a_reservation_at_once() -> None:
    assert isinstance(Budget(tokens=5).claim(pytest.fail, tokens=5), Reservation)


def test_a_claim_that_can_never_fit_is_refused_at_once() -> None:
    budget = Budget(tokens=100)
    budget.reserve(tokens=40).settle()
    with pytest.raises(BudgetExceededError):
        budget.child().claim(pytest.fail, tokens=61)
    assert budget.statistics().waiting == 0


def test_claims_that_wait_are_served_in_order_and_nobody_overtakes() -> None:
    budget = Budget(tokens=100)
    first = budget.reserve(tokens=100)
    served: list[str] = []
    for name, tokens in (("big", 90), ("small", 5)):
        budget.claim(lambda _, name=name: served.append(name), tokens=tokens)  # type: ignore[misc]
    assert budget.statistics().waiting == 2
    first.settle(tokens=0)
    assert served == ["big", "small"]
    assert isinstance(budget.claim(lambda _: served.append("late"), tokens=6), Claim)


def test_a_small_claim_does_not_overtake_a_big_one_that_waits_for_the_same_room() -> None:
    budget = Budget(tokens=100)
    budget.reserve(tokens=60)
    budget.claim(lambda _: None, tokens=50)
    assert isinstance(budget.claim(lambda _: None, tokens=10), Claim)
    budget.reserve(tokens=10)  # asking without waiting takes what is free


def test_a_claim_waits_only_for_those_who_compete_for_the_same_room() -> None:
    root = Budget(tokens=100)
    full, free = root.child(tokens=10), root.child(tokens=10)
    full.reserve(tokens=10)
    assert isinstance(full.claim(lambda _: None, tokens=1), Claim)
    assert isinstance(free.claim(pytest.fail, tokens=1), Reservation)


def test_a_claim_moves_on_to_the_next_budget_that_lacks_room() -> None:
    root = Budget(tokens=100)
    child = root.child(tokens=25)
    served: list[object] = []
    in_root = root.reserve(tokens=90)
    child.claim(served.append, tokens=20)
    in_child = child.reserve(tokens=10)
    assert (root.statistics().waiting, child.statistics().waiting) == (1, 0)
    in_root.release()
    assert (root.statistics().waiting, child.statistics().waiting) == (0, 1)
    in_child.release()
    assert len(served) == 1


def test_a_claim_that_moved_on_is_served_before_the_younger_ones_that_wait_there() -> None:
    root = Budget(tokens=100)
    child = root.child(tokens=25)
    served: list[str] = []
    in_root = root.reserve(tokens=90)
    child.claim(lambda _: served.append("older"), tokens=20)
    in_child = child.reserve(tokens=10)
    child.claim(lambda _: served.append("younger"), tokens=20)
    assert (root.statistics().waiting, child.statistics().waiting) == (1, 1)
    in_root.release()
    assert (root.statistics().waiting, child.statistics().waiting) == (0, 2)
    in_child.release()
    assert served == ["older"]
    assert child.statistics().waiting == 1


def test_a_claim_that_moved_on_and_is_withdrawn_lets_those_behind_it_pass() -> None:
    root = Budget(tokens=100)
    child = root.child(tokens=25)
    served: list[str] = []
    in_root = root.reserve(tokens=90)
    moved = child.claim(lambda _: served.append("moved"), tokens=20)
    child.reserve(tokens=10)
    in_root.release()
    assert isinstance(child.claim(lambda _: served.append("behind"), tokens=5), Claim)
    assert (root.statistics().waiting, child.statistics().waiting) == (0, 2)
    assert isinstance(moved, Claim)
    moved.withdraw()
    assert served == ["behind"]
    assert child.statistics().waiting == 0


def test_a_claim_that_moved_up_and_is_withdrawn_lets_those_behind_it_pass() -> None:
    root = Budget(tokens=100)
    child = root.child(tokens=25)
    served: list[str] = []
    in_child = child.reserve(tokens=25)
    root.reserve(tokens=75)
    first = root.claim(lambda _: served.append("first"), tokens=30)
    moved = child.claim(lambda _: served.append("moved"), tokens=20)
    root.claim(lambda _: served.append("behind"), tokens=5)
    in_child.release()
    assert (root.statistics().waiting, child.statistics().waiting) == (3, 0)
    root.reserve(tokens=10)
    assert isinstance(first, Claim)
    assert isinstance(moved, Claim)
    first.withdraw()
    assert served == []
    moved.withdraw()
    assert served == ["behind"]
    assert root.statistics().waiting == 0


def test_a_claim_in_a_child_does_not_overtake_one_that_waits_at_the_root() -> None:
    root = Budget(tokens=100)
    child = root.child(tokens=50)
    served: list[str] = []
    held = child.reserve(tokens=50)
    root.reserve(tokens=30)
    root.claim(lambda _: served.append("root"), tokens=70)
    child.claim(lambda _: served.append("child"), tokens=20)
    held.release()
    assert served == ["root"]
    assert (root.statistics().waiting, child.statistics().waiting) == (1, 0)


def test_a_claim_that_became_hopeless_is_told_so() -> None:
    budget = Budget(tokens=100)
    held = budget.reserve(tokens=50)
    decisions: list[object] = []
    budget.claim(decisions.append, tokens=60)
    budget.claim(decisions.append, tokens=50)
    held.settle(tokens=45)
    refusal, granted = decisions
    assert isinstance(refusal, BudgetExceededError)
    assert refusal.spent == 45
    assert isinstance(granted, Reservation)


def test_withdrawing_a_claim_lets_the_next_one_pass_and_may_come_late() -> None:
    budget = Budget(tokens=100)
    budget.reserve(tokens=50)
    served: list[object] = []
    budget.reserve(tokens=20).settle(tokens=20)
    big = budget.claim(served.append, tokens=70)
    small = budget.claim(served.append, tokens=10)
    assert isinstance(big, Claim)
    assert isinstance(small, Claim)
    big.withdraw()
    assert len(served) == 1
    small.withdraw()
    big.withdraw()
    assert budget.reserved.tokens == 60


LIMITS = st.none() | st.integers(0, 40)
NEEDS = st.integers(0, 15)


@attrs.define(eq=False)
class _Node:
    budget: Budget
    parent: _Node | None
    limit: tuple[int | None, int | None]
    spent: list[int] = attrs.field(factory=lambda: [0, 0])

    def chain(self) -> list[_Node]:
        return [self, *(self.parent.chain() if self.parent else ())]


@attrs.define(eq=False)
class _Held:
    node: _Node
    need: tuple[int, int]
    reservation: Reservation


class BudgetMachine(RuleBasedStateMachine):
    """A tree of budgets against a model that adds everything up afresh; money is counted in cents."""

    nodes = Bundle("nodes")

    @initialize(target=nodes, tokens=LIMITS, cents=LIMITS)
    def start(self, tokens: int | None, cents: int | None) -> _Node:
        self.all_nodes: list[_Node] = []
        self.held: list[_Held] = []
        self.waiting: dict[Claim, tuple[_Node, tuple[int, int]]] = {}
        self.overrun = False
        return self._add(Budget(tokens=tokens, cost_usd=_dollars(cents)), None, tokens, cents)

    def _add(self, budget: Budget, parent: _Node | None, *limit: int | None) -> _Node:
        node = _Node(budget, parent, (limit[0], limit[1]))
        self.all_nodes.append(node)
        return node

    @rule(target=nodes, parent=nodes, tokens=LIMITS, cents=LIMITS)
    def narrow(self, parent: _Node, tokens: int | None, cents: int | None) -> _Node:
        return self._add(parent.budget.child(tokens=tokens, cost_usd=_dollars(cents)), parent, tokens, cents)

    def reserved(self, node: _Node, index: int) -> int:
        return sum(held.need[index] for held in self.held if node in held.node.chain())

    def fits(self, node: _Node, need: tuple[int, int], *, ever: bool = False) -> bool:
        for above in node.chain():
            for index, limit in enumerate(above.limit):
                taken = above.spent[index] + (0 if ever else self.reserved(above, index))
                if limit is not None and need[index] and taken + need[index] > limit:
                    return False
        return True

    @rule(node=nodes, tokens=NEEDS, cents=NEEDS)
    def reserve(self, node: _Node, tokens: int, cents: int) -> None:
        need = (tokens, cents)
        if self.fits(node, need):
            reservation = node.budget.reserve(tokens=tokens, cost_usd=cents / 100)
            self.held.append(_Held(node, need, reservation))
        else:
            with pytest.raises(BudgetExceededError):
                node.budget.reserve(tokens=tokens, cost_usd=cents / 100)

    @rule(node=nodes, tokens=NEEDS, cents=NEEDS)
    def queue(self, node: _Node, tokens: int, cents: int) -> None:
        need = (tokens, cents)
        claims: list[Claim] = []

        def decided(decision: Reservation | BudgetExceededError) -> None:
            del self.waiting[claims[0]]
            if isinstance(decision, Reservation):
                self.held.append(_Held(node, need, decision))

        try:
            claim = node.budget.claim(decided, tokens=tokens, cost_usd=cents / 100)
        except BudgetExceededError:
            assert not self.fits(node, need, ever=True)
            return
        assert self.fits(node, need, ever=True)
        if isinstance(claim, Claim):
            claims.append(claim)
            self.waiting[claim] = (node, need)
        else:
            self.held.append(_Held(node, need, claim))

    @rule(data=st.data(), extra=st.integers(-5, 2))
    def settle(self, data: st.DataObject, extra: int) -> None:
        if not self.held:
            return
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        used = (max(0, held.need[0] + extra), max(0, held.need[1] + extra))
        self.overrun = self.overrun or extra > 0
        for node in held.node.chain():
            for index in (0, 1):
                node.spent[index] += used[index]
        held.reservation.settle(tokens=used[0], cost_usd=used[1] / 100)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).reservation.release()

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if self.waiting:
            claim = data.draw(st.sampled_from(list(self.waiting)))
            del self.waiting[claim]
            claim.withdraw()

    @invariant()
    def the_books_agree_with_the_model(self) -> None:
        for node in self.all_nodes:
            tokens, cents = self.reserved(node, 0), self.reserved(node, 1)
            assert (node.budget.reserved.tokens, node.budget.reserved.cost_usd) == (tokens, cents / 100)
            assert (node.budget.spent.tokens, node.budget.spent.cost_usd) == (
                node.spent[0],
                node.spent[1] / 100,
            )

    @invariant()
    def no_limit_is_passed(self) -> None:
        for node in self.all_nodes:
            for index, limit in enumerate(node.limit):
                if limit is not None and not self.overrun:
                    assert node.spent[index] + self.reserved(node, index) <= limit

    @invariant()
    def the_oldest_claim_waits_only_while_there_is_no_room_for_it(self) -> None:
        if self.waiting:
            node, need = next(iter(self.waiting.values()))
            assert not self.fits(node, need)
            assert self.held

    @invariant()
    def every_claim_waits_for_a_reservation_or_an_older_claim_on_its_way(self) -> None:
        seen: set[_Node] = set()
        for node, need in self.waiting.values():
            assert not self.fits(node, need) or seen & set(node.chain())
            seen |= set(node.chain())
        assert sum(node.budget.statistics().waiting for node in self.all_nodes) == len(self.waiting)


def _dollars(cents: int | None) -> float | None:
    return None if cents is None else cents / 100


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

# -- many agents under one budget -----------------------------------------------


async def _agent(
    budget: Budget, rng: random.Random, most: int, root: Budget, refused: list[BudgetExceededError]
) -> None:
    """Call a model until the budget refuses; an answer mostly uses far less than its worst case."""
    while True:
        try:
            async with reserve_when_room(budget, tokens=most, cost_usd=most * 2e-6) as reservation:
                await trio.sleep(rng.uniform(0.5, 3))
                used = rng.randint(most // 10, most)
                reservation.settle(tokens=used, cost_usd=used * 2e-6)
        except BudgetExceededError as error:
            refused.append(error)
            return
        limit = root.limit.tokens
        assert limit is not None
        assert root.spent.tokens + root.reserved.tokens <= limit


@pytest.mark.parametrize("agents", [50, 500, 5000])
async def test_many_agents_never_pass_their_budget_and_use_most_of_it(
    agents: int, autojump_clock: trio.testing.MockClock
) -> None:
    rng = random.Random(agents)
    most = 1000
    limit = agents * most  # too little for a second worst case each
    budget = Budget(tokens=limit, cost_usd=limit * 2e-6)
    refused: list[BudgetExceededError] = []
    async with trio.open_nursery() as nursery:
        for _ in range(agents):
            nursery.start_soon(_agent, budget, rng, most, budget, refused)
    assert len(refused) == agents
    assert 0.9 * limit <= budget.spent.tokens <= limit
    assert budget.reserved == BudgetAmounts()
    print(f"{agents} agents: {budget.spent.tokens / limit:.2%} of the budget used")


async def test_a_tree_of_budgets_never_passes_any_limit_and_uses_most_of_the_root(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rng = random.Random(5)
    root = Budget(tokens=100_000, cost_usd=1.0)
    teams = [root.child(tokens=15_000) for _ in range(10)]  # together more than the root has
    refused: list[BudgetExceededError] = []
    async with trio.open_nursery() as nursery:
        for number in range(300):
            own = teams[number % 10].child(calls=20)
            nursery.start_soon(_agent, own, rng, 500, root, refused)
    assert 90_000 <= root.spent.tokens <= 100_000
    assert sum(team.spent.tokens for team in teams) == root.spent.tokens
    assert all(team.spent.tokens <= 15_000 for team in teams)
    assert root.reserved == BudgetAmounts()


async def test_a_call_waits_for_room_in_the_order_of_arrival(
    autojump_clock: trio.testing.MockClock,
) -> None:
    budget = Budget(tokens=100)
    log: list[tuple[int, float]] = []

    async def call(number: int) -> None:
        await trio.sleep(number / 100)
        async with reserve_when_room(budget, tokens=60) as reservation:
            log.append((number, trio.current_time() // 1))
            await trio.sleep(1)
            reservation.settle(tokens=10)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(call, number)
    assert [(number, time - start // 1) for number, time in log] == [(0, 0), (1, 1), (2, 2), (3, 3)]


async def test_a_wait_that_became_hopeless_raises(autojump_clock: trio.testing.MockClock) -> None:
    budget = Budget(calls=1)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def first() -> None:
            async with reserve_when_room(budget) as reservation:
                await trio.sleep(1)
                reservation.settle()

        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(BudgetExceededError):
            async with reserve_when_room(budget):
                pytest.fail("there was no second call")
    assert budget.spent.calls == 1


async def test_entering_is_a_checkpoint_and_reserves_nothing_in_a_cancelled_scope() -> None:
    budget = Budget(tokens=1)
    with trio.testing.assert_checkpoints():
        async with reserve_when_room(budget, tokens=1):
            pass
    with trio.CancelScope() as scope:
        scope.cancel()
        async with reserve_when_room(budget, tokens=1):
            pytest.fail("entered in a cancelled scope")
    assert budget.reserved == BudgetAmounts()


@pytest.mark.parametrize("moment", range(12))
async def test_a_cancel_at_any_point_leaves_nothing_reserved_and_nobody_waiting(
    moment: int, autojump_clock: trio.testing.MockClock
) -> None:
    budget = Budget(tokens=100)
    done: list[int] = []

    async def call(number: int) -> None:
        async with reserve_when_room(budget.child(tokens=70), tokens=60) as reservation:
            await trio.lowlevel.checkpoint()
            await trio.sleep(1)
            reservation.settle(tokens=5)
            done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(call, number)
        if moment < 6:
            for _ in range(moment):
                await trio.lowlevel.checkpoint()
        else:
            await trio.sleep((moment - 6) * 0.7)
        nursery.cancel_scope.cancel()
    statistics = budget.statistics()
    assert statistics.reserved == BudgetAmounts()
    assert statistics.waiting == 0
    assert statistics.spent.tokens == 5 * len(done)


async def test_a_cancelled_wait_lets_those_behind_it_pass(autojump_clock: trio.testing.MockClock) -> None:
    budget = Budget(tokens=100)
    held = budget.reserve(tokens=60)
    entered: list[int] = []

    async def call(tokens: int, seconds: float) -> None:
        with trio.move_on_after(seconds):
            async with reserve_when_room(budget, tokens=tokens):
                entered.append(tokens)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, 50, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, 30, 5)
    assert entered == [30]
    held.release()
    assert budget.reserved == BudgetAmounts()


# -- a pool ---------------------------------------------------------------------


class Sparing(Driver):
    """Takes its time, asks for a tool call first, and uses a part of what it may."""

    def __init__(self) -> None:
        self.random = random.Random(3)

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(self.random.uniform(0.5, 3))
        used = TokenUsage(1, self.random.randint(request.max_tokens // 10, request.max_tokens))
        return Completion("more", stop_reason="max_tokens", usage=used)


def talker() -> SpawnConfig[str]:
    manifest = AgentManifest(
        name="talker",
        model=ModelSettings(max_tokens=500),
        resources=ResourceQuota(max_tokens_budget=2500),
    )
    return SpawnConfig(manifest, "say something")


@pytest.mark.parametrize("agents", [50, 500])
async def test_the_agents_of_a_pool_never_pass_its_budget_and_use_most_of_it(
    agents: int, autojump_clock: trio.testing.MockClock
) -> None:
    limit = agents * 600
    budget = Budget(tokens=limit)
    async with open_agent_pool(Sparing(), max_concurrent=agents, budget=budget) as pool:
        await pool.fan_out([talker() for _ in range(agents)])
        outcomes = await pool.join_all()
    assert sum(outcome.usage.total_tokens for outcome in outcomes.values()) == budget.spent.tokens
    assert 0.9 * limit <= budget.spent.tokens <= limit
    assert budget.reserved == BudgetAmounts()
    refused = [o.error for o in outcomes.values() if isinstance(o, Failed)]
    assert any(isinstance(error, BudgetExceededError) and error.transcript for error in refused)


async def test_aborted_agents_leave_nothing_reserved(autojump_clock: trio.testing.MockClock) -> None:
    for moment in range(8):
        budget = Budget(tokens=3000)
        async with open_agent_pool(Sparing(), max_concurrent=20, budget=budget) as pool:
            await pool.fan_out([talker() for _ in range(20)])
            for _ in range(moment):
                await trio.lowlevel.checkpoint()
            await trio.sleep(moment / 3)
            pool.abort_all("enough")
            await pool.join_all()
        assert budget.reserved == BudgetAmounts()
        assert budget.statistics().waiting == 0
