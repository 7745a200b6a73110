"""Model calls that workers make themselves: budgets, limits and quotas hold over all of them together."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from cast_kit import Cast, call, manifest, scripted
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    Budget,
    BudgetExceededError,
    Completed,
    Completion,
    CompletionRequest,
    Driver,
    Failed,
    GovernedDriver,
    ModelAgent,
    OverloadedError,
    PoolLimitError,
    PoolLimits,
    ResourceQuota,
    RetryingDriver,
    TokenUsage,
    UserMessage,
    WorkerLostError,
    placed,
)
from agentpool.testing import InProcessPlacement

ASKED = CompletionRequest(system="plain", messages=(UserMessage("hi"),), max_tokens=100)


async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@asynccontextmanager
async def open_cast() -> AsyncIterator[Driver]:
    yield Priced(
        adder=scripted(*[call("add", a=n, b=n) for n in range(8)], "done"),
        plain=scripted("yes"),
        rude=scripted(OverloadedError("not now")),
    )


class Priced(Cast):
    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return usage.total_tokens / 1_000_000


async def run(agent: Any, *args: Any, is_placed: bool, **options: Any) -> tuple[Any, Any]:
    budget = options.pop("budget", dict)()
    async with open_cast() as driver:
        placement = InProcessPlacement(2, driver=open_cast, **options) if is_placed else None
        async with pool_of(
            2, driver=None if is_placed else driver, placement=placement, budget=Budget(**budget)
        ) as pool:
            outcome = await (await pool.spawn(placed(agent), *args)).wait()
            statistics = pool.statistics()
    if isinstance(outcome, Failed):
        told = {name: value for name, value in vars(outcome.error).items() if name != "__notes__"}
        error: Any = (type(outcome.error), str(outcome.error), told)
        outcome = attrs.evolve(outcome, error=error)
    return attrs.evolve(outcome, started_at=0.0, duration=0.0), statistics


async def both(agent: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
    """Run an agent in place, and in a worker that has the driver, and check that both come to the same."""
    here, books_here = await run(agent, *args, is_placed=False, **options)
    there, books_there = await run(agent, *args, is_placed=True, **options)
    assert there == here
    assert books_there.usage == books_here.usage
    assert books_there.budget == books_here.budget
    return there, books_there


@pytest.mark.parametrize("tokens", [None, 100, 3_000, 4_150, 8_200, 8_300])
@pytest.mark.parametrize("cost", [None, 0.0045])
async def test_an_agent_stops_at_the_same_call_of_its_budget(
    tokens: int | None, cost: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    quota = ResourceQuota(max_tokens_budget=tokens, max_cost_usd=cost)
    agent = ModelAgent(manifest("adder", resources=quota), tools=[add])
    await both(agent, "go", budget=lambda: {"tokens": 100_000, "cost_usd": 1.0})


async def test_a_pool_that_limits_calls_only(autojump_clock: trio.testing.MockClock) -> None:
    outcome, _ = await both(
        ModelAgent(manifest("adder"), tools=[add]), "go", budget=lambda: {"calls": 3, "tokens": None}
    )
    assert outcome.error[0] is BudgetExceededError


async def asking(ctx: AgentContext) -> Any:
    assert ctx.driver is not None
    completion = await ctx.driver.complete(ASKED)
    parts = []
    async with ctx.driver.stream(ASKED) as stream:
        async for part in stream:
            parts.append(part)
    async with ctx.driver.stream(ASKED) as stream:
        await anext(stream)
    return completion, parts, ctx.usage, type(ctx.driver).__name__[-6:]


async def test_a_plain_agent_asks_the_workers_driver_and_leaves_a_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    _, books = await both(asking, budget=lambda: {"tokens": 1_000})
    assert books.budget.spent.tokens > 100  # the worst case of the stream that was left


async def test_a_call_that_may_have_cost_is_booked_and_one_that_cost_nothing_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await both(ModelAgent(manifest("rude")), "go", budget=lambda: {"tokens": 100_000})


# -- limits of the pool ----------------------------------------------------------------------------------


@attrs.define(eq=False)
class Provider:
    """What all workers ask, in tests: it sees what really happens."""

    now: int = 0
    peak: int = 0
    took: int = 0
    worst: int = 0
    begun: list[float] = attrs.Factory(list)


provider = Provider()


class Asking(Driver):
    """Takes a second, and uses a part of what it may."""

    async def complete(self, request: CompletionRequest) -> Completion:
        provider.begun.append(trio.current_time())
        provider.now += 1
        provider.peak = max(provider.peak, provider.now)
        provider.worst += request.max_tokens
        try:
            await trio.sleep(random.random() * 2)
            if random.random() < 0.1:
                raise OverloadedError("try later")
            used = random.randrange(1, request.max_tokens + 1)
            provider.took += used
            return Completion("fine", usage=TokenUsage(0, used))
        finally:
            provider.now -= 1


@asynccontextmanager
async def open_asking() -> AsyncIterator[Driver]:
    yield Asking()


@asynccontextmanager
async def open_governed() -> AsyncIterator[Driver]:
    yield RetryingDriver(GovernedDriver(Asking(), requests_per_minute=60, max_in_flight=2))


async def once(ctx: AgentContext, n: int) -> str:
    assert ctx.driver is not None
    return (await ctx.driver.complete(ASKED)).text


async def test_model_calls_in_flight_count_over_all_workers(autojump_clock: trio.testing.MockClock) -> None:
    random.seed(3)
    placement = InProcessPlacement(2, driver=open_asking)
    async with pool_of(8, placement=placement, limits=PoolLimits(model_calls=2)) as pool:
        outcomes = await pool.map(placed(once), range(4))
        refused = [each for each in outcomes if isinstance(each, Failed)]
        assert [type(each.error) for each in refused] == [PoolLimitError, PoolLimitError]
        assert isinstance(await (await pool.spawn(placed(once), 5)).wait(), Completed)


async def test_the_quota_of_a_provider_holds_over_all_workers(autojump_clock: trio.testing.MockClock) -> None:
    global provider
    provider = Provider()
    random.seed(1)
    placement = InProcessPlacement(3, driver=open_governed)
    async with pool_of(12, placement=placement) as pool:
        outcomes = await pool.map(placed(once), range(12))
    assert all(isinstance(each, Completed) for each in outcomes), outcomes
    assert provider.peak <= 2
    # 60 in a minute, and what has gathered before: fewer than if each of three workers had them.
    assert provider.begun[-1] - provider.begun[0] >= 5


# -- whatever is lost ---------------------------------------------------------------------------------------


async def spending(ctx: AgentContext, n: int) -> int:
    assert ctx.driver is not None
    calls = 0
    while True:
        try:
            await ctx.driver.complete(attrs.evolve(ASKED, max_tokens=random.choice([10, 100, 400])))
        except BudgetExceededError:
            return calls
        except OverloadedError:
            continue
        calls += 1


@pytest.mark.parametrize("seed", range(3))
async def test_no_limit_is_passed_whatever_is_lost_and_whoever_is_killed(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    global provider
    provider = Provider()
    random.seed(seed)
    limit = 2_000
    placement = InProcessPlacement(3, driver=open_asking, lease=2.0, loss=0.1, seed=seed)
    async with pool_of(9, placement=placement, budget=Budget(tokens=limit)) as pool:

        async def kill() -> None:
            for _ in range(2):
                await trio.sleep(random.random() * 4)
                running = [each for each in placement.workers if each.is_running]
                if running:
                    random.choice(running).kill()

        async def look() -> None:
            while True:
                budget = pool.statistics().budget
                assert budget is not None
                assert provider.took <= limit
                assert budget.spent.tokens + budget.reserved.tokens <= limit
                await trio.sleep(0.25)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            nursery.start_soon(kill)
            outcomes = await pool.map(placed(spending), range(9))
            nursery.cancel_scope.cancel()
        budget = pool.statistics().budget
    lost = [each for each in outcomes if isinstance(each, Failed)]
    assert all(isinstance(each.error, WorkerLostError) for each in lost), lost
    assert budget is not None
    assert budget.reserved.tokens == budget.waiting == 0
    assert provider.took <= budget.spent.tokens <= limit
