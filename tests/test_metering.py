"""The meter: each model call counts, on whatever path it is made, and is kept within its budget."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
    MalformedReplyError,
    ModelAgent,
    ModelSettings,
    PoolLimitError,
    PoolLimits,
    RateLimitedError,
    ResourceQuota,
    RetryingDriver,
    RoutingDriver,
    ScriptedDriver,
    SpawnConfig,
    TextDelta,
    TokenUsage,
    ToolCall,
    UserMessage,
    open_agent_pool,
)
from agentpool._core import events
from agentpool._core.bounds import PER_FILE, InputBounds, input_bound
from agentpool._core.content import Document, Image, Text
from agentpool._core.messages import (
    AssistantMessage,
    ProviderData,
    StreamPart,
    ToolDefinition,
    ToolMessage,
    ToolResult,
)
from agentpool._core.transcript import Transcript
from agentpool.abc import AgentQuota

REQUEST = CompletionRequest(messages=[UserMessage("hi")], max_tokens=100)
BOUND, ESTIMATE = 16 + 8 + 2, 4 + 4 + 1  # of the input of REQUEST
USAGE = TokenUsage(10, 20)
PLAIN = AgentManifest(name="m", model=ModelSettings(max_tokens=100))


@attrs.define(eq=False)
class Provider(Driver):
    """A model that does as it is told, and keeps the bill.

    Attributes:
      plan: what each call comes to, in order: an error to raise, or a usage; after its end `USAGE`.
      billed: tokens of all calls that it charges for.
      seconds: how long an answer takes.
    """

    plan: list[Any] = attrs.field(factory=list)
    seconds: float = 1.0
    asked: list[CompletionRequest] = attrs.field(factory=list)
    billed: int = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked.append(request)
        what = self.plan.pop(0) if self.plan else USAGE
        if isinstance(what, Exception):
            if getattr(what, "may_have_cost", False):
                self.billed += 30
            await trio.lowlevel.checkpoint()
            raise what
        self.billed += what.total_tokens
        await trio.sleep(self.seconds)
        return Completion(f"answer {len(self.asked)}", usage=what)

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return usage.total_tokens / 1000


class Streaming(Provider):
    """A provider with a stream of its own."""

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        completion = await self.complete(request)

        async def parts() -> AsyncIterator[StreamPart]:
            yield TextDelta(completion.text)
            await trio.sleep(self.seconds)
            yield completion

        iterator = parts()
        try:
            yield iterator
        finally:
            await iterator.aclose()  # type: ignore[attr-defined]


async def run(agent: Any, driver: Any, budget: Budget | None = None, **options: Any) -> Any:
    """Run one agent in a pool, and return its outcome."""
    async with open_agent_pool(driver, max_concurrent=2, budget=budget, **options) as pool:
        return await (await pool.spawn(agent)).wait()


# -- every path ---------------------------------------------------------------------------------


async def test_a_plain_agents_calls_count_and_are_kept_within_the_budget(autojump_clock: Any) -> None:
    budget = Budget(tokens=200)
    provider = Provider()

    async def agent(ctx: AgentContext) -> int:
        assert ctx.driver is not None
        for _ in range(100):
            await ctx.driver.complete(REQUEST)
        return 0

    outcome = await run(agent, provider, budget)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, BudgetExceededError)
    assert outcome.error.usage == outcome.usage
    assert outcome.error.transcript == REQUEST.messages
    assert provider.billed == budget.spent.tokens == outcome.usage.total_tokens <= 200
    assert budget.reserved.tokens == 0


async def test_without_a_budget_usage_is_counted_all_the_same(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(REQUEST)
        await ctx.driver.complete(REQUEST)

    async with open_agent_pool(Provider(), max_concurrent=1) as pool:
        outcome = await (await pool.spawn(agent)).wait()
        assert outcome.usage == pool.statistics().usage == TokenUsage(20, 40, cost_usd=0.06)


async def test_each_attempt_of_a_retry_is_a_call_by_itself(autojump_clock: Any) -> None:
    failures = [MalformedReplyError("cut"), RateLimitedError(), MalformedReplyError("cut")]
    budget = Budget(tokens=10_000, calls=4)
    provider = Provider([*failures, USAGE])

    outcome = await run(SpawnConfig(PLAIN, "hi"), RetryingDriver(GovernedDriver(provider)), budget)
    assert isinstance(outcome, Completed)
    # Two attempts that may have to be paid, with their worst case, and the one that was answered.
    assert budget.spent.tokens == 2 * (BOUND + 100) + 30
    assert budget.spent.calls == 3
    assert budget.reserved.calls == 0
    assert provider.billed <= budget.spent.tokens


async def test_a_retry_has_to_fit_into_the_budget_too(autojump_clock: Any) -> None:
    budget = Budget(tokens=200)
    provider = Provider([MalformedReplyError("cut")] * 5)
    outcome = await run(SpawnConfig(PLAIN, "hi"), RetryingDriver(provider), budget)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, BudgetExceededError)
    assert len(provider.asked) == 1
    assert budget.spent.tokens <= 200


async def test_each_fallback_of_a_route_is_a_call_by_itself(autojump_clock: Any) -> None:
    first, second = Provider([MalformedReplyError("cut")]), Provider()
    budget = Budget(tokens=1000)
    outcome = await run(SpawnConfig(PLAIN, "hi"), RoutingDriver(first, second), budget)
    assert isinstance(outcome, Completed)
    assert budget.spent.tokens == BOUND + 100 + 30
    assert budget.spent.calls == 2


async def test_nothing_is_set_aside_while_a_call_waits_in_a_queue(autojump_clock: Any) -> None:
    provider = Provider(seconds=10)
    driver = GovernedDriver(provider, max_in_flight=1)
    budget = Budget(tokens=100_000)
    held: list[int] = []

    async def agent(ctx: AgentContext, _: int) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(REQUEST)

    async with open_agent_pool(driver, max_concurrent=5, budget=budget) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.map, agent, range(5))
            for _ in range(9):
                await trio.sleep(5)
                held.append(budget.reserved.calls)
    assert max(held) == 1


async def test_a_tool_that_asks_the_model_draws_on_the_budget_of_its_agent(autojump_clock: Any) -> None:
    helper = Provider()

    def asks(request: CompletionRequest) -> Completion:
        if len(request.messages) == 1:
            return Completion(tool_calls=[ToolCall("1", "think", {})], usage=USAGE)
        return Completion("done", usage=USAGE)

    budget = Budget(tokens=10_000)

    async def agent(ctx: AgentContext) -> Any:
        async def think() -> str:
            """Think."""
            assert ctx.driver is not None
            return (await ctx.driver.complete(REQUEST)).text

        return await ModelAgent(PLAIN, tools=[think], driver=ScriptedDriver([asks, asks]))(ctx, "hi")

    outcome = await run(agent, helper, budget)
    assert outcome.unwrap().text == "done"
    assert outcome.usage.total_tokens == budget.spent.tokens == 90


async def test_a_model_agent_that_plain_code_calls_keeps_to_a_quota_of_its_own(autojump_clock: Any) -> None:
    provider = Provider()
    budget = Budget(tokens=10_000)
    frugal = attrs.evolve(PLAIN, resources=ResourceQuota(max_tokens_budget=60))

    async def agent(ctx: AgentContext) -> list[str]:
        return [(await ModelAgent(frugal)(ctx, "hi")).text for _ in range(3)]

    outcome = await run(agent, provider, budget)
    assert outcome.unwrap() == ["answer 1", "answer 2", "answer 3"]
    assert budget.spent.tokens == outcome.usage.total_tokens == 90
    # The input, as it is estimated, and the longest answer fit into the quota together.
    assert all(ESTIMATE + request.max_tokens <= 60 for request in provider.asked)


async def test_children_draw_on_their_parents_quota(autojump_clock: Any) -> None:
    provider = Provider()

    async def child(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(REQUEST)

    class Parent:
        name, quota = "parent", AgentQuota(tokens=160)

        def build_tools(self, builder: Any) -> None:
            return None

        async def __call__(self, ctx: AgentContext) -> int:
            outcomes = [await (await ctx.spawn(child)).wait() for _ in range(5)]
            return sum(isinstance(outcome, Completed) for outcome in outcomes)

    budget = Budget(tokens=10_000)
    outcome = await run(Parent(), provider, budget)
    assert provider.billed == budget.spent.tokens <= 160
    assert outcome.unwrap() >= 2


async def test_a_pool_within_an_agent_draws_on_both_budgets(autojump_clock: Any) -> None:
    outer, inner = Budget(tokens=1000), Budget(tokens=1000)

    async def asks(ctx: AgentContext) -> str:
        assert ctx.driver is not None
        return (await ctx.driver.complete(REQUEST)).text

    async def agent(ctx: AgentContext) -> str:
        async with open_agent_pool(ctx.driver, max_concurrent=1, budget=inner) as pool:
            return (await (await pool.spawn(asks)).wait()).unwrap()

    outcome = await run(agent, Provider(), outer)
    assert outcome.unwrap() == "answer 1"
    assert outer.spent.tokens == inner.spent.tokens == outcome.usage.total_tokens == 30


async def test_a_driver_that_one_agent_hands_to_another_is_counted_once(autojump_clock: Any) -> None:
    budget = Budget(tokens=1000)

    async def agent(ctx: AgentContext) -> Any:
        handle = await ctx.spawn(SpawnConfig(PLAIN, "hi", driver=RetryingDriver(ctx.driver)))  # type: ignore[arg-type]
        return (await handle.wait()).usage

    outcome = await run(agent, Provider(), budget)
    assert budget.spent.tokens == 30
    assert outcome.unwrap().total_tokens == 30
    assert outcome.usage.total_tokens == 0  # the child's calls are the child's


# -- streams --------------------------------------------------------------------------------------


async def streamed(ctx: AgentContext, *, most: int = 9) -> list[Any]:
    assert ctx.driver is not None
    got: list[Any] = []
    async with ctx.driver.stream(REQUEST) as parts:
        async for part in parts:
            got.append(part)
            if len(got) == most:
                break
    return got


async def test_a_stream_is_booked_when_its_completion_comes(autojump_clock: Any) -> None:
    for driver in (Streaming(), Provider(), RetryingDriver(Streaming())):
        budget = Budget(tokens=1000, cost_usd=1)
        outcome = await run(streamed, driver, budget)
        *_, completion = outcome.unwrap()
        assert completion.usage.cost_usd == 0.03
        assert (budget.spent.tokens, budget.spent.cost_usd, budget.reserved.tokens) == (30, 0.03, 0)


async def test_a_stream_that_is_left_early_may_have_to_be_paid(autojump_clock: Any) -> None:
    budget = Budget(tokens=1000)
    outcome = await run(lambda ctx: streamed(ctx, most=1), Streaming(), budget)
    assert outcome.unwrap() == [TextDelta("answer 1")]
    assert (budget.spent.tokens, budget.spent.calls, budget.reserved.tokens) == (BOUND + 100, 1, 0)


async def test_a_stream_that_fails_on_the_way_in(autojump_clock: Any) -> None:
    for error, spent in ((RateLimitedError(), 0), (MalformedReplyError("cut"), BOUND + 100)):
        budget = Budget(tokens=1000)
        outcome = await run(streamed, Streaming([error]), budget)
        assert outcome.error is error
        assert (budget.spent.tokens, budget.reserved.calls) == (spent, 0)


async def test_a_stream_whose_end_fails(autojump_clock: Any) -> None:
    class Odd(Streaming):
        @asynccontextmanager
        async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
            async with Streaming.stream(self, request) as parts:
                yield parts
            raise DriverUnavailableError("gone")

    budget = Budget(tokens=1000)
    outcome = await run(streamed, Odd(), budget)
    assert isinstance(outcome.error, DriverUnavailableError)
    assert (budget.spent.tokens, budget.reserved.tokens) == (30, 0)  # what came was booked


@pytest.mark.parametrize("where", ["on the way in", "between the parts", "at its end"])
async def test_a_stream_of_the_loop_has_a_time_limit(where: str, autojump_clock: Any) -> None:
    class Slow(Streaming):
        @asynccontextmanager
        async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
            if where == "on the way in":
                await trio.sleep(601)
            async with Streaming.stream(self, request) as parts:
                yield parts
                if where == "at its end":
                    await trio.sleep(601)

    budget = Budget(tokens=1000)
    driver = Slow(seconds=400 if where == "between the parts" else 1)
    async with open_agent_pool(driver, max_concurrent=1, budget=budget) as pool:
        async with pool.events():
            outcome = await (await pool.spawn(SpawnConfig(PLAIN, "hi"))).wait()
    assert isinstance(outcome, Failed)
    assert "did not answer within 600 s" in str(outcome.error)
    assert budget.reserved.tokens == 0
    assert budget.spent.tokens == (30 if where == "at its end" else BOUND + 100)


# -- limits -----------------------------------------------------------------------------------------


async def test_calls_in_flight_are_limited_on_every_path(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext, how: Callable[[AgentContext], Any]) -> None:
        await how(ctx)

    async def completes(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(REQUEST)

    budget = Budget(tokens=10_000)
    limits = PoolLimits(model_calls=1)
    async with open_agent_pool(Streaming(), max_concurrent=2, limits=limits, budget=budget) as pool:
        for how in (completes, streamed):
            outcomes = await pool.map(agent, [how, how])
            errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
            assert [type(error) for error in errors] == [PoolLimitError]
    assert budget.spent.calls == 2
    assert budget.reserved.calls == 0


async def test_a_call_that_is_cancelled_before_it_is_made_costs_nothing(autojump_clock: Any) -> None:
    budget = Budget(tokens=1000)

    async def agent(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        with trio.CancelScope() as scope:
            scope.cancel()
            await ctx.driver.complete(REQUEST)

    provider = Provider()
    await run(agent, provider, budget)
    assert (budget.spent.calls, budget.reserved.calls, provider.asked) == (0, 0, [])


async def test_an_answer_gets_shorter_as_the_agents_own_quota_does(autojump_clock: Any) -> None:
    provider = Provider([TokenUsage(10, 50)] * 9)

    class Agent:
        name, quota = "a", AgentQuota(tokens=200)

        def build_tools(self, builder: Any) -> None:
            return None

        async def __call__(self, ctx: AgentContext) -> None:
            assert ctx.driver is not None
            while True:
                await ctx.driver.complete(REQUEST)

    for budget in (None, Budget(tokens=10_000)):
        provider.asked.clear()
        outcome = await run(Agent(), provider, budget)
        assert isinstance(outcome.error, BudgetExceededError)
        assert [request.max_tokens for request in provider.asked][:2] == [100, 100]
        assert provider.asked[-1].max_tokens < 100
        assert outcome.usage.total_tokens <= 200 + 60  # the provider did not keep to the last limit


async def test_a_quota_near_its_end_keeps_to_the_estimate_and_those_above_to_the_bound(
    autojump_clock: Any,
) -> None:
    # 100 bytes are a bound of 124 tokens, and about 29: more than the quota, and less.
    request = CompletionRequest(messages=[UserMessage("x" * 100)], max_tokens=20)

    class Agent:
        name, quota = "a", AgentQuota(tokens=100)

        def build_tools(self, builder: Any) -> None:
            return None

        async def __call__(self, ctx: AgentContext) -> str:
            assert ctx.driver is not None
            return (await ctx.driver.complete(request)).text

    for budget, held in ((Budget(tokens=1000, cost_usd=1), 144), (None, None)):
        seen: list[Any] = []

        class Looking(Provider):
            async def complete(self, request: CompletionRequest) -> Completion:
                seen.append(budget and budget.reserved)  # noqa: B023
                return await Provider.complete(self, request)

        outcome = await run(Agent(), Looking(), budget)
        assert outcome.unwrap() == "answer 1"
        if budget is not None:
            assert seen[0].tokens == held
            assert seen[0].cost_usd == pytest.approx(held / 1000)
            assert (budget.spent.tokens, budget.reserved.tokens) == (30, 0)
    small = Budget(tokens=140)  # the bound does not fit into what is above
    outcome = await run(Agent(), Provider(), small)
    assert isinstance(outcome.error, BudgetExceededError)
    assert outcome.error.limit == 140
    assert (small.spent.tokens, small.reserved.tokens) == (0, 0)


async def test_what_fails_with_slack_set_aside_is_booked_whole(autojump_clock: Any) -> None:
    request = CompletionRequest(messages=[UserMessage("x" * 100)], max_tokens=20)
    budget = Budget(tokens=1000)

    class Agent:
        name, quota = "a", AgentQuota(tokens=100)

        def build_tools(self, builder: Any) -> None:
            return None

        async def __call__(self, ctx: AgentContext) -> None:
            assert ctx.driver is not None
            await ctx.driver.complete(request)

    await run(Agent(), Provider([MalformedReplyError("cut")]), budget)
    assert (budget.spent.tokens, budget.reserved.tokens) == (144, 0)


async def test_a_shorter_answer_is_asked_for_when_others_used_the_quota_meanwhile(
    autojump_clock: Any,
) -> None:
    provider = Provider([TokenUsage(10, 80)], seconds=5)

    async def child(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(REQUEST)

    class Parent:
        name, quota = "parent", AgentQuota(tokens=180)

        def build_tools(self, builder: Any) -> None:
            return None

        async def __call__(self, ctx: AgentContext) -> None:
            await ctx.fan_out([child] * 2)
            for outcome in (await ctx.join_all()).values():
                outcome.unwrap()

    outcome = await run(Parent(), provider)
    outcome.unwrap()
    assert [request.max_tokens for request in provider.asked] == [100, 180 - 90 - ESTIMATE]


async def test_an_answer_gets_shorter_as_often_as_others_use_the_quota(autojump_clock: Any) -> None:
    provider = Provider([TokenUsage(10, 30)] * 3, seconds=5)

    async def child(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(REQUEST)

    class Parent:
        name, quota = "parent", AgentQuota(tokens=130)

        def build_tools(self, builder: Any) -> None:
            return None

        async def __call__(self, ctx: AgentContext) -> None:
            await ctx.fan_out([child] * 3)
            for outcome in (await ctx.join_all()).values():
                outcome.unwrap()

    async with open_agent_pool(provider, max_concurrent=4) as pool:
        (await (await pool.spawn(Parent())).wait()).unwrap()
    assert [request.max_tokens for request in provider.asked] == [100, 90 - ESTIMATE, 50 - ESTIMATE]


async def test_an_answer_gets_shorter_as_the_agents_own_money_does(autojump_clock: Any) -> None:
    provider = Provider([TokenUsage(10, 80)])

    class Agent:
        name, quota = "a", AgentQuota(cost_usd=0.150)

        def build_tools(self, builder: Any) -> None:
            return None

        async def __call__(self, ctx: AgentContext) -> None:
            assert ctx.driver is not None
            for _ in range(2):
                await ctx.driver.complete(REQUEST)

    (await run(Agent(), provider)).unwrap()
    assert [request.max_tokens for request in provider.asked] == [100, 150 - 90 - ESTIMATE]


async def test_a_budget_of_calls_alone_measures_nothing(autojump_clock: Any) -> None:
    budget = Budget(calls=2)

    async def agent(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        for _ in range(3):
            await ctx.driver.complete(REQUEST)

    outcome = await run(agent, Provider(), budget)
    assert isinstance(outcome.error, BudgetExceededError)
    assert (budget.spent.calls, budget.spent.tokens) == (2, 60)


async def test_a_refusal_is_warned_of(autojump_clock: Any) -> None:
    async def agent(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(REQUEST)

    async with open_agent_pool(Provider(), max_concurrent=1, budget=Budget(tokens=1)) as pool:
        async with pool.events() as told:
            outcome = await (await pool.spawn(agent)).wait()
            warnings = []
            while told.statistics().buffered:
                event = await anext(told)
                if isinstance(event, events.BudgetWarned):
                    warnings.append(event.text)
    assert warnings == [str(outcome.error)]  # type: ignore[union-attr]


# -- what the driver looks like ---------------------------------------------------------------------


async def test_a_metered_driver_looks_like_the_one_inside(autojump_clock: Any) -> None:
    class Bare:
        """Only `complete` has to be there."""

        colour = "red"

        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.lowlevel.checkpoint()
            return Completion("x", usage=USAGE)

    bare = Bare()
    seen: list[Any] = []

    async def agent(ctx: AgentContext) -> None:
        driver: Any = ctx.driver
        assert driver is ctx.driver
        seen.append(driver)
        await driver.complete(REQUEST)
        async with driver.stream(REQUEST) as parts:
            assert [type(part) async for part in parts] == [TextDelta, Completion]

    (await run(agent, bare, Budget(tokens=1000))).unwrap()
    (driver,) = seen
    assert (driver == bare, hash(driver) == hash(bare), repr(driver)) == (True, True, repr(bare))
    assert driver == driver
    assert driver.colour == "red"
    assert (driver.context_window, driver.privacy, driver.metered) == (None, Driver.privacy, True)
    assert driver.estimate_cost(USAGE) == 0.0
    assert driver.bind(PLAIN) is driver
    assert not driver.streams


async def test_the_price_of_another_model_is_that_models(autojump_clock: Any) -> None:
    class Priced(Provider):
        def estimate_cost_of(self, model: str, usage: TokenUsage) -> float | None:
            return usage.total_tokens * (1.0 if model == "dear" else 0.001)

    async def agent(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(attrs.evolve(REQUEST, model="dear"))

    budget = Budget(cost_usd=1000)
    (await run(agent, Priced(), budget)).unwrap()
    assert budget.spent.cost_usd == 30.0


async def test_input_that_may_go_into_a_cache_is_set_aside_at_the_price_of_that(autojump_clock: Any) -> None:
    """Anthropic and others take a quarter more for input that they cache; nobody knows before how much."""

    class Caching(Provider):
        def estimate_cost(self, usage: TokenUsage) -> float | None:
            return usage.total_tokens + usage.cache_write_tokens / 4

    async def agent(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(REQUEST)

    written = TokenUsage(BOUND, 100, cache_write_tokens=BOUND, cost_usd=BOUND * 1.25 + 100)
    for money, made in ((BOUND * 1.25 + 100, True), (BOUND * 1.25 + 99, False)):
        budget, provider = Budget(cost_usd=money), Caching([written])
        outcome = await run(agent, provider, budget)
        assert isinstance(outcome, Completed) is made
        assert len(provider.asked) == made
        assert budget.spent.cost_usd == (money if made else 0)


async def test_what_a_driver_makes_of_itself_for_an_agent_is_metered(autojump_clock: Any) -> None:
    class Binding(Provider):
        def bind(self, manifest: AgentManifest) -> Driver:
            return self if manifest.name == "same" else Provider([TokenUsage(1, 1)])

    for name, tokens in (("other", 2), ("same", 30)):
        budget = Budget(tokens=1000)
        outcome = await run(SpawnConfig(attrs.evolve(PLAIN, name=name), "hi"), Binding(), budget)
        assert outcome.usage.total_tokens == budget.spent.tokens == tokens


async def test_an_answer_that_is_none_is_told(autojump_clock: Any) -> None:
    class Wrong(Provider):
        async def complete(self, request: CompletionRequest) -> Any:
            await trio.lowlevel.checkpoint()
            return "x"

    async def agent(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(REQUEST)

    outcome = await run(agent, Wrong())
    assert isinstance(outcome.error, MalformedReplyError)


# -- bounds --------------------------------------------------------------------------------------------


def test_the_bound_counts_the_bytes_of_all_that_is_sent() -> None:
    tool = ToolDefinition("look", "Look.", {"type": "object"})
    data = ProviderData("p", "m", {"k": "v"})
    messages = [
        UserMessage("häh"),
        AssistantMessage("yes", [ToolCall("1", "look", {"a": 1}, data)], "hm", data),
        ToolMessage("1", "look", ToolResult((Text("ok"), Image(b"x", "image/png")))),
        UserMessage((Document(b"x" * 100_000, "application/pdf"),)),
    ]
    request = CompletionRequest(messages=messages, tools=[tool], system="sys", output_schema={"a": 1})
    frame = 16 + 3 + (16 + 4 + 5 + len(repr(tool.input_schema))) + 2 * len("{'a': 1}")
    spoken = 8 + 3 + 2 + (8 + 4 + len("{'a': 1}") + len("{'k': 'v'}")) + len("{'k': 'v'}")
    assert input_bound(request) == frame + (8 + 4) + spoken + (8 + 4 + 2 + PER_FILE) + (8 + 10_000)


def grown(request: CompletionRequest, *messages: Any, **changes: Any) -> CompletionRequest:
    assert isinstance(request.messages, Transcript)
    return attrs.evolve(request, messages=request.messages.extended(messages), **changes)


def test_of_a_conversation_that_goes_on_only_what_was_added_is_bounded() -> None:
    bounds = InputBounds()
    first = CompletionRequest(messages=Transcript([UserMessage("x" * 1000)]), system="s")
    assert bounds.of(first) == input_bound(first) == 16 + 1 + 8 + 1000
    second = grown(first, AssistantMessage("y" * 100), UserMessage("z"))
    bounds.counted(first, Completion("y" * 100, usage=TokenUsage(250, 30)))
    assert bounds.of(second) == 250 + (30 + 8) + (8 + 1)
    assert bounds.estimate() == 250 + 29 + 5  # asked again, nothing was added
    third = grown(second, AssistantMessage("y"), UserMessage("z"))
    bounds.counted(second, Completion("y", usage=TokenUsage(300, 5000)))  # it thought
    assert bounds.of(third) == 300 + (5000 + 8) + (8 + 1)
    assert bounds.estimate() == 300 + 5 + 5  # what it thought is not sent again
    assert bounds.of(grown(third, UserMessage("q"), tools=())) == 5317 + 9


def test_what_is_said_instead_of_a_counted_answer_is_measured() -> None:
    bounds = InputBounds()
    first = CompletionRequest(messages=Transcript([UserMessage("x" * 1000)]))
    bounds.of(first)
    bounds.counted(first, Completion("y", usage=TokenUsage(250, 30)))
    assert bounds.estimate() == 250  # nothing came after it yet
    assert bounds.of(grown(first, UserMessage("zz"))) == 250 + (8 + 2)  # the answer was not kept
    assert bounds.estimate() == 250 + 5


@pytest.mark.parametrize("change", [{"system": "other"}, {"model": "m"}, {"output_schema": {}}])
def test_another_request_is_bounded_as_a_whole(change: dict[str, Any]) -> None:
    bounds = InputBounds()
    first = CompletionRequest(messages=Transcript([UserMessage("x" * 1000)]))
    bounds.of(first)
    bounds.counted(first, Completion("y", usage=TokenUsage(250, 30)))
    other = grown(first, UserMessage("z"), **change)
    assert bounds.of(other) == input_bound(other)


def test_counts_of_other_requests_and_of_servers_that_do_not_count_are_left() -> None:
    bounds = InputBounds()
    first = CompletionRequest(messages=Transcript([UserMessage("x" * 1000)]))
    bounds.counted(first, Completion("y", usage=TokenUsage(1, 1)))  # nothing was asked yet
    bounds.of(first)
    bounds.counted(first, Completion("y"))
    bounds.counted(attrs.evolve(first, messages=()), Completion("y", usage=TokenUsage(1, 1)))
    assert bounds.of(grown(first, UserMessage("z"))) == input_bound(first) + 9
    plain = CompletionRequest(messages=[UserMessage("x")])
    assert bounds.of(plain) == bounds.of(plain) == input_bound(plain)


def test_a_transcript_knows_what_it_goes_on_with() -> None:
    first = Transcript([UserMessage("a")])
    second = first.extended([UserMessage("b")])
    assert second.goes_on_with(first)
    assert second.goes_on_with(second)
    assert not first.goes_on_with(second)
    assert not first.extended([UserMessage("c")]).goes_on_with(second)
