"""One budget for everybody: model agents, plain code that asks the model, and retries that cost.

The model here is made up, and fails now and then; nothing is asked over the network.

python examples/shared_budget.py
"""

from __future__ import annotations

import random

import trio

from agentpool import (
    AgentContext,
    AgentManifest,
    Budget,
    BudgetExceededError,
    Completed,
    Completion,
    CompletionRequest,
    DriverUnavailableError,
    Failed,
    ModelSettings,
    ResourceQuota,
    RetryingDriver,
    ScriptedDriver,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    UserMessage,
    open_agent_pool,
)

dice = random.Random(7)


async def flaky_model(request: CompletionRequest) -> Completion:
    """Answer, call a tool, or break off after a part of the work, which has to be paid as well."""
    await trio.sleep(dice.uniform(0.001, 0.01))
    if dice.random() < 0.2:
        raise DriverUnavailableError("the connection broke", may_have_cost=True)
    usage = TokenUsage(input_tokens=40, output_tokens=dice.randint(5, request.max_tokens))
    if request.tools and dice.random() < 0.7:
        call = ToolCall(f"call-{len(request.messages)}", "look_up", {"word": f"word {dice.random():.3f}"})
        return Completion("", [call], usage=usage)
    return Completion("That is all that I know.", usage=usage)


async def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} is a word"


async def plain(ctx: AgentContext) -> str:
    """Plain code that asks the model: what it uses counts like everything else."""
    assert ctx.driver is not None
    request = CompletionRequest(messages=[UserMessage("Say something.")], max_tokens=50)
    return (await ctx.driver.complete(request)).text


async def main() -> None:
    # At its own limit an agent gives the answer that it can give by then.
    quota = ResourceQuota(max_tokens_budget=1500, on_limit="answer")
    manifest = AgentManifest(name="reader", model=ModelSettings(max_tokens=100), resources=quota)
    driver = RetryingDriver(ScriptedDriver(flaky_model), base=0.01)
    budget = Budget(tokens=6_000)
    async with open_agent_pool(driver, max_concurrent=10, budget=budget) as pool:
        readers = [SpawnConfig(manifest, f"Read page {n}.", tools=[look_up]) for n in range(15)]
        handles = [*await pool.fan_out(readers), *await pool.fan_out([plain] * 15)]
        outcomes = [await handle.wait() for handle in handles]
    refused = [
        outcome
        for outcome in outcomes
        if isinstance(outcome, Failed) and isinstance(outcome.error, BudgetExceededError)
    ]
    print(f"{sum(isinstance(outcome, Completed) for outcome in outcomes)} agents answered")
    print(f"{len(refused)} were refused a call by the budget")
    print(f"within the budget: {budget.spent.tokens <= 6_000}")


if __name__ == "__main__":
    trio.run(main)
