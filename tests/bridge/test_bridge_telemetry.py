"""Pools of threads and of asyncio are traced too: one tree across the threads."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack

import pytest

pytest.importorskip("opentelemetry.sdk")

from telemetry_kit import Recorded

from agentpool import AgentContext, AgentManifest, ScriptedDriver, SpawnConfig
from agentpool.bridge import (
    AsyncioAgentContext,
    asyncio_agent,
    open_agent_pool_asyncio,
    open_agent_pool_blocking,
)
from agentpool.telemetry import trace_pool

PLAIN = AgentManifest(name="helper")


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


async def child(ctx: AgentContext) -> None: ...


def test_a_pool_for_threads_is_traced_in_a_plain_block(recorded: Recorded) -> None:
    with recorded.tracer.start_as_current_span("request") as request:
        with open_agent_pool_blocking(ScriptedDriver(["hello"]), max_concurrent=2) as pool:
            with trace_pool(pool, **recorded.options):
                with recorded.tracer.start_as_current_span("phase"):
                    pool.spawn(SpawnConfig(PLAIN, "go")).result()
                pool.spawn_nowait(child)
                pool.join_all()
            from opentelemetry import trace

            assert trace.get_current_span() is request
    assert recorded.path("chat") == "request / invoke_workflow / phase / invoke_agent helper / turn 1 / chat"
    assert recorded.path("invoke_agent child") == "request / invoke_workflow / invoke_agent child"
    assert recorded.problems() == []


def test_a_pool_for_asyncio_is_traced_with_the_agents_that_run_there(recorded: Recorded) -> None:
    @asyncio_agent
    async def agent(ctx: AsyncioAgentContext) -> None:
        with recorded.tracer.start_as_current_span("on asyncio"):
            await asyncio.gather(*[(await ctx.spawn(child)).wait() for _ in range(2)])

    async def main() -> None:
        with recorded.tracer.start_as_current_span("request"):
            async with open_agent_pool_asyncio(max_concurrent=2) as pool:
                async with trace_pool(pool, **recorded.options):
                    await (await pool.spawn(agent, name="agent")).result()

    asyncio.run(main())
    assert recorded.path("invoke_agent child") == (
        "request / invoke_workflow / invoke_agent agent / on asyncio / invoke_agent child"
    )
    assert recorded.problems() == []


def test_a_trace_may_outlive_its_pool_here_too(recorded: Recorded) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            async with open_agent_pool_asyncio(max_concurrent=2) as pool:
                await stack.enter_async_context(trace_pool(pool, **recorded.options))
                await pool.spawn(child)

    asyncio.run(main())
    with ExitStack() as stack:
        with open_agent_pool_blocking(max_concurrent=2) as blocking:
            stack.enter_context(trace_pool(blocking, **recorded.options))
            blocking.spawn(child)
    outcomes = [(span.attributes or {})["agentpool.outcome"] for span in recorded.named("invoke_agent child")]
    assert outcomes == ["completed"] * 2
    assert recorded.open.names == {}
