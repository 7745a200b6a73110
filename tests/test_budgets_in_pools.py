"""Budgets under many agents: never passed, well used, and nothing stays reserved."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
import trio

from agentpool import (
    AgentContext,
    AgentManifest,
    Budget,
    BudgetExceededError,
    Completed,
    Completion,
    CompletionRequest,
    Driver,
    DriverUnavailableError,
    Failed,
    GovernedDriver,
    LoopHaltedError,
    ModelSettings,
    PoolLimits,
    PriceUnknownError,
    RateLimitedError,
    ResourceQuota,
    RetryingDriver,
    RoutingDriver,
    ScriptedDriver,
    SpawnCapability,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolRegistry,
    open_agent_pool,
    tool,
)
from agentpool._core.messages import ToolMessage
from agentpool.abc import AgentQuota
from agentpool.testing import SimulationContext, cancel_everywhere

WORKER = AgentManifest(name="worker", model=ModelSettings(max_tokens=400))


@tool
async def look(n: int) -> str:
    """Look."""
    return f"saw {n}"


@attrs.define(eq=False)
class Provider(Driver):
    """A model that takes its time, uses less than it may, and keeps the bill.

    Every agent calls a tool first, and then answers.

    Attributes:
      billed: tokens of the calls that it began to answer, cancelled ones included.
    """

    seed: int = 0
    billed: int = 0
    calls: int = 0
    _random: random.Random = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        self.calls += 1
        output = self._random.randint(min(20, request.max_tokens), request.max_tokens)
        usage = TokenUsage(10, output)
        self.billed += usage.total_tokens
        await trio.sleep(self._random.uniform(0.1, 3.0))
        if isinstance(request.messages[-1], ToolMessage):
            return Completion("Done.", usage=usage)
        return Completion(tool_calls=[ToolCall("look", "look", {"n": 1})], usage=usage)

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return usage.total_tokens * 1e-5


def with_tools(_: AgentManifest) -> ToolRegistry:
    return ToolRegistry([look])


# An agent needs 2 * 220 tokens on average, so the budget is enough for about half of them.
@pytest.mark.parametrize(
    ("count", "resource"),
    [
        (50, "tokens"),
        (500, "tokens"),
        pytest.param(5000, "tokens", marks=pytest.mark.once),
        (50, "cost_usd"),
        (500, "cost_usd"),
    ],
)
async def test_many_agents_use_a_budget_up_and_never_pass_it(
    count: int, resource: str, autojump_clock: Any
) -> None:
    limit = count * 220
    provider = Provider(count)
    budget = Budget(tokens=limit) if resource == "tokens" else Budget(cost_usd=limit * 1e-5)
    highest = 0.0
    async with open_agent_pool(
        provider, max_concurrent=count, budget=budget, tool_builder=with_tools
    ) as pool:
        handles = await pool.fan_out([SpawnConfig(WORKER, "Work.")] * count)
        for handle in handles:
            await handle.wait()
            held = budget.statistics()
            highest = max(highest, held.spent.tokens + held.reserved.tokens)
        outcomes = [handle.outcome for handle in handles]
        used = pool.statistics().usage
    assert highest <= limit
    assert provider.billed == budget.spent.tokens == used.total_tokens
    assert 0.9 * limit <= provider.billed <= limit
    print(f"{count} agents, a budget in {resource}: {provider.billed / limit:.2%} of it used")
    assert budget.reserved == Budget().reserved
    refused = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert refused
    for outcome in refused:
        assert type(outcome.error) is BudgetExceededError
        assert outcome.error.resource == resource
        # What it had used and done until then; the refused call left nothing.
        assert outcome.error.usage == outcome.usage
        assert len(outcome.error.transcript) == (3 if outcome.usage.total_tokens else 1)
    completed = [outcome for outcome in outcomes if isinstance(outcome, Completed)]
    assert len(completed) + len(refused) == count
    total = sum(outcome.usage.total_tokens for outcome in outcomes if outcome is not None)
    assert total == budget.spent.tokens


async def test_few_calls_are_enough_for_as_many_agents(autojump_clock: Any) -> None:
    budget = Budget(calls=150)
    async with open_agent_pool(
        Provider(), max_concurrent=100, budget=budget, tool_builder=with_tools
    ) as pool:
        await pool.fan_out([SpawnConfig(WORKER, "Work.")] * 100)
        outcomes = (await pool.join_all()).values()
    assert budget.spent.calls == 150
    # All made their first call, since all asked at once; half of them got a second one.
    assert sum(isinstance(outcome, Completed) for outcome in outcomes) == 50


# -- trees ---------------------------------------------------------------------------


@attrs.frozen
class Team:
    """An agent that describes itself: its quota holds for its children together."""

    quota: AgentQuota
    size: int
    name: str = "team"

    def build_tools(self, builder: Any) -> None:
        return None

    async def __call__(self, ctx: AgentContext) -> list[Any]:
        handles = await ctx.fan_out([SpawnConfig(WORKER, "Work.")] * self.size)
        return [await handle.wait() for handle in handles]


@pytest.mark.parametrize(
    ("teams", "size"), [(5, 10), (20, 25), pytest.param(50, 100, marks=pytest.mark.once)]
)
async def test_a_tree_of_budgets_is_kept_at_every_node(teams: int, size: int, autojump_clock: Any) -> None:
    quota = size * 220
    limit = teams * quota * 3 // 4  # the teams may not all use up their quotas
    budget = Budget(tokens=limit)
    provider = Provider(teams)
    async with open_agent_pool(
        provider, max_concurrent=teams * size, budget=budget, tool_builder=with_tools
    ) as pool:
        results = [
            (await handle.result()) for handle in await pool.fan_out([Team(AgentQuota(quota), size)] * teams)
        ]
    spent = [sum(outcome.usage.total_tokens for outcome in outcomes) for outcomes in results]
    assert max(spent) <= quota
    assert sum(spent) == provider.billed == budget.spent.tokens
    assert 0.9 * limit <= sum(spent) <= limit
    assert budget.reserved.tokens == 0
    refused = [outcome for outcomes in results for outcome in outcomes if isinstance(outcome, Failed)]
    assert {type(outcome.error) for outcome in refused} == {BudgetExceededError}
    assert {outcome.error.limit for outcome in refused} <= {limit, quota}  # type: ignore[attr-defined]


async def test_an_agents_own_quota_stops_it_and_leaves_the_rest_to_others(autojump_clock: Any) -> None:
    frugal = attrs.evolve(WORKER, name="frugal", resources=ResourceQuota(max_tokens_budget=120))
    budget = Budget(tokens=10_000)
    async with open_agent_pool(Provider(), max_concurrent=20, budget=budget, tool_builder=with_tools) as pool:
        outcomes = await pool.map(lambda ctx, config: config(ctx), [SpawnConfig(WORKER, "Work.")] * 2)
        handles = await pool.fan_out([SpawnConfig(frugal, "Work.")] * 10)
        stopped = [await handle.wait() for handle in handles]
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    for outcome in stopped:
        assert outcome.usage.total_tokens <= 120
        if isinstance(outcome, Failed):
            assert isinstance(outcome.error, LoopHaltedError)
            assert outcome.error.usage == outcome.usage
    assert any(isinstance(outcome, Failed) for outcome in stopped)
    assert budget.reserved.tokens == 0


async def test_agents_that_a_model_spawned_share_its_quota(autojump_clock: Any) -> None:
    parent = AgentManifest(
        name="parent",
        model=ModelSettings(max_tokens=100),
        capabilities=(SpawnCapability(1),),
        resources=ResourceQuota(max_tokens_budget=4_000),
    )
    spawn = ToolCall("s", "spawn_agent", {"query": "Help."})

    def reply(request: CompletionRequest) -> Completion:
        first = request.messages[0].content  # type: ignore[union-attr]
        if first == "Help.":
            return Completion("helped", usage=TokenUsage(10, 40))
        if isinstance(request.messages[-1], ToolMessage):
            return Completion(request.messages[-1].result.content, usage=TokenUsage(10, 40))
        return Completion(tool_calls=[spawn], usage=TokenUsage(10, 40))

    budget = Budget(tokens=3_600)
    driver = ScriptedDriver([reply] * 3)
    async with open_agent_pool(max_concurrent=1, budget=budget) as pool:
        # Its child asks its driver too; the pool has none.
        handle = await pool.spawn(SpawnConfig(parent, "Do it.", driver=driver))
        assert (await handle.result()).text == "helped"
        assert pool.statistics().spawned == 2
    assert budget.spent.tokens == 150


# -- aborts -----------------------------------------------------------------------------


def test_wherever_agents_are_aborted_nothing_stays_reserved() -> None:
    """The books of a pool, which the sweep looks at after each run, include its budget."""
    bills: list[tuple[Provider, Budget]] = []

    async def main(context: SimulationContext) -> None:
        provider, budget = Provider(1), Budget(tokens=1300)
        bills.append((provider, budget))
        manifest = AgentManifest(name="team", resources=ResourceQuota(max_tokens_budget=900))
        async with open_agent_pool(
            provider, max_concurrent=4, budget=budget, tool_builder=with_tools
        ) as pool:
            with context.body():
                await pool.spawn(Team(manifest, 2))
                await pool.fan_out([SpawnConfig(WORKER, "Work.")] * 3)
                await pool.join_all()

    sweep = cancel_everywhere(main)
    assert sweep.runs > 100
    for provider, budget in bills:
        assert provider.billed <= budget.spent.tokens <= 1300
        assert budget.reserved.tokens == budget.reserved.calls == 0


def test_wherever_agents_are_aborted_no_call_stays_in_the_governor() -> None:
    """With refusals, retries and routes between the agents and the provider."""
    left: list[tuple[int, int, float]] = []

    class Flaky(Provider):
        async def complete(self, request: CompletionRequest) -> Completion:
            completion = await super().complete(request)
            if self.calls % 4 == 2:
                raise RateLimitedError(retry_after=2)
            if self.calls % 4 == 3:
                raise DriverUnavailableError("down")
            return completion

    async def main(context: SimulationContext) -> None:
        governed = GovernedDriver(Flaky(2), max_in_flight=2, requests_per_minute=600)
        driver = RetryingDriver(RoutingDriver(governed), seed=3)
        budget = Budget(tokens=5000)
        try:
            async with open_agent_pool(
                driver, max_concurrent=4, budget=budget, tool_builder=with_tools
            ) as pool:
                with context.body():
                    await pool.fan_out([SpawnConfig(WORKER, "Work.")] * 2)
                    await pool.join_all()
        finally:
            now = governed.statistics()
            left.append((now.waiting, now.in_flight, budget.reserved.tokens))

    sweep = cancel_everywhere(main)
    assert sweep.runs > 100
    assert set(left) == {(0, 0, 0)}


# -- unknown prices -----------------------------------------------------------------------


async def test_a_model_without_a_price_is_refused_by_a_budget_in_money() -> None:
    class Unpriced(ScriptedDriver):
        def estimate_cost(self, usage: TokenUsage) -> float | None:
            return None

    driver = Unpriced(["never"])
    async with open_agent_pool(RetryingDriver(driver), max_concurrent=1, budget=Budget(cost_usd=1)) as pool:
        outcome = await (await pool.spawn(SpawnConfig(WORKER, "Work."))).wait()
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is PriceUnknownError
    assert "price of this model is not known" in str(outcome.error)
    assert driver.requests == []


async def test_a_quota_in_money_refuses_it_too() -> None:
    pytest.importorskip("httpx2")
    from agentpool import OpenAIDriver

    manifest = attrs.evolve(WORKER, resources=ResourceQuota(max_cost_usd=0.5))
    driver = OpenAIDriver("my-own-model", base_url="http://127.0.0.1:9/v1", api_key="")
    async with driver, open_agent_pool(driver, max_concurrent=1) as pool:
        outcome = await (await pool.spawn(SpawnConfig(manifest, "Work."))).wait()
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is PriceUnknownError


async def test_the_budget_of_an_agent_a_thousand_levels_down_is_found() -> None:
    budget = Budget(tokens=1)

    async def node(ctx: AgentContext, levels: int) -> bool:
        if levels:
            return await (await ctx.spawn(node, levels - 1)).result()
        return ctx.budget is budget

    limits = PoolLimits(depth=2000)
    async with open_agent_pool(max_concurrent=2, limits=limits, budget=budget) as pool:
        assert await (await pool.spawn(node, 1200)).result()
