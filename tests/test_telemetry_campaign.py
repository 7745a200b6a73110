"""Whatever is cancelled, wherever: one tree, and no span left open."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

import trio
from telemetry_kit import Recorded

from agentpool import (
    AgentContext,
    AgentManifest,
    Completion,
    OverloadedError,
    RestartPolicy,
    RetryingDriver,
    ScriptedDriver,
    SpawnConfig,
    ToolCall,
    open_agent_pool,
    tool,
)
from agentpool.telemetry import trace_pool
from agentpool.testing import SimulationContext, cancel_everywhere, explore, simulate

pytestmark = pytest.mark.long


async def leaf(ctx: AgentContext, seconds: float = 0.5) -> None:
    await trio.sleep(seconds)


async def failing(ctx: AgentContext) -> None:
    await trio.sleep(0.1)
    raise ConnectionError


async def server(ctx: AgentContext) -> None:
    async for message in ctx.inbox:
        await trio.sleep(0.1)
        ctx.reply(message, "!")


@tool
async def delegate(ctx: Any) -> str:
    """Have another agent do it."""
    await (await ctx.spawn(leaf)).result()
    return "ok"


@tool
async def wait() -> str:
    """Wait."""
    await trio.sleep(0.3)
    return "ok"


async def work(recorded: Recorded, sim: SimulationContext) -> None:
    """Models, tools, retries, questions, restarts, failures, spawns within spawns."""
    calls = (ToolCall("1", "delegate", {}), ToolCall("2", "wait", {}), ToolCall("3", "unknown", {}))
    driver = RetryingDriver(ScriptedDriver([OverloadedError("busy"), Completion("", calls), "done"]), seed=1)
    manifest = AgentManifest(name="helper")
    async with AsyncExitStack() as stack:
        async with open_agent_pool(driver, max_concurrent=2, seed=1) as pool:
            await stack.enter_async_context(trace_pool(pool, **recorded.options))
            with sim.body():
                helper = await pool.spawn(SpawnConfig(manifest, "go", tools=[delegate, wait]))
                to = await pool.spawn(server)
                shaky = await pool.spawn(failing, restart=RestartPolicy(max_restarts=1))
                await pool.ask(to.id, "?")
                await pool.race(leaf, leaf)
                await shaky.wait()
                await helper.wait()


class Checked:
    """The program, whose trace is looked at after each run, however that ended."""

    def __init__(self) -> None:
        self.runs = 0
        self.spans = 0
        self.problems: list[str] = []

    async def __call__(self, sim: SimulationContext) -> None:
        recorded = Recorded()
        try:
            await work(recorded, sim)
        finally:
            self.runs += 1
            self.spans += len(recorded.spans)
            if recorded.spans:  # none if it ended before the pool was traced
                self.problems += [f"run {self.runs}: {problem}" for problem in recorded.problems()]


def test_no_span_is_left_open_whatever_is_cancelled_at_whichever_step() -> None:
    checked = Checked()
    sweep = cancel_everywhere(checked)
    assert checked.problems == []
    assert checked.runs == sweep.runs > 200
    assert checked.spans > 10 * checked.runs


def test_every_order_of_the_scheduler_gives_one_tree() -> None:
    checked = Checked()
    explore(checked, 40)
    assert checked.problems == []
    assert checked.runs == 40


def test_a_simulation_is_the_same_with_a_trace_each_time() -> None:
    async def main(sim: SimulationContext) -> None:
        await work(Recorded(), sim)

    assert simulate(main, 3).log.to_bytes() == simulate(main, 3).log.to_bytes()


async def test_a_thousand_agents_in_trees_are_one_tree() -> None:
    recorded = Recorded(counts_open=False)

    async def branch(ctx: AgentContext) -> None:
        await ctx.map(leaf, [0.0] * 9)

    async with open_agent_pool(max_concurrent=20) as pool, trace_pool(pool, **recorded.options):
        handles = [await pool.spawn(branch) for _ in range(100)]
        for handle in handles:
            await handle.result()
    assert len(recorded.spans) == 1001
    assert recorded.problems() == []
    parents = [recorded.parent_of(span) for span in recorded.named("invoke_agent leaf")[:5]]
    assert parents == ["invoke_agent branch"] * 5
