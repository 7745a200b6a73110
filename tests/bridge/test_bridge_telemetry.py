"""Spans go over the bridges: of the program to the agents, and of the agents to what runs on asyncio."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
import trio
from bridge_kit import double, run_asyncio

from agentpool import AgentContext
from agentpool.bridge import (
    AsyncioAgentContext,
    asyncio_agent,
    open_agent_pool_asyncio,
    open_agent_pool_blocking,
)

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentpool.telemetry import trace_pool


class Traces:
    """A provider that keeps its spans."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("program")

    def parents(self) -> dict[str, str | None]:
        """The name of the parent of each span."""
        spans = self.exporter.get_finished_spans()
        names = {span.context.span_id: span.name for span in spans}
        return {span.name: names.get(span.parent.span_id) if span.parent else None for span in spans}


async def child(ctx: AgentContext, tracer: Any) -> None:
    with tracer.start_as_current_span("inside the child"):
        await trio.sleep(0)


async def there(ctx: AsyncioAgentContext, tracer: Any) -> None:
    with tracer.start_as_current_span("inside, on asyncio"):
        await asyncio.sleep(0)
        await (await ctx.spawn(child, tracer))


EXPECTED = {
    "request": None,
    "invoke_workflow": "request",
    "invoke_agent there": "handler",
    "handler": "request",
    "inside, on asyncio": "invoke_agent there",
    "invoke_agent child": "inside, on asyncio",
    "inside the child": "invoke_agent child",
}


def test_a_pool_on_asyncio_is_one_tree_with_the_spans_of_its_program() -> None:
    traces = Traces()

    async def main() -> None:
        async with open_agent_pool_asyncio(max_concurrent=2) as pool:
            with traces.tracer.start_as_current_span("request"):
                block = pool.on_trio(partial(trace_pool, tracer_provider=traces.provider))
                async with block:
                    with traces.tracer.start_as_current_span("handler"):
                        await (await pool.spawn(asyncio_agent(there), traces.tracer))
                with pytest.raises(RuntimeError, match="for one block"):
                    await block.__aenter__()

    run_asyncio(main)
    assert traces.parents() == EXPECTED


def test_a_blocking_pool_is_one_tree_with_the_spans_of_its_program() -> None:
    traces = Traces()
    with open_agent_pool_blocking(max_concurrent=2) as pool:
        with traces.tracer.start_as_current_span("request"):
            with pool.on_trio(partial(trace_pool, tracer_provider=traces.provider)):
                with traces.tracer.start_as_current_span("handler"):
                    pool.spawn(asyncio_agent(there), traces.tracer).result()

        def in_tool() -> None:
            with pytest.raises(RuntimeError, match="thread of a tool"):
                pool.on_trio(trace_pool)

        async def agent(ctx: AgentContext) -> None:
            await trio.to_thread.run_sync(in_tool)

        pool.spawn(agent).result()
        with pytest.raises(TypeError, match="pool must be"):
            with pool.on_trio(lambda _: trace_pool(7)):  # type: ignore[arg-type]
                pass
        assert pool.spawn(double, 1).result() == 2
    assert traces.parents() == EXPECTED
