"""What users of other frameworks reported of their traces; each test names the report."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

import trio
from opentelemetry import context as otel_context
from opentelemetry import trace
from telemetry_kit import Recorded, texts_of

from agentpool import (
    AgentContext,
    AgentManifest,
    Completion,
    CompletionRequest,
    Driver,
    ModelAgent,
    OverloadedError,
    RateLimitedError,
    RetryingDriver,
    ScriptedDriver,
    SpawnConfig,
    StreamPart,
    TextDelta,
    TokenUsage,
    ToolCall,
    open_agent_pool,
    tool,
)
from agentpool.telemetry import trace_pool

PLAIN = AgentManifest(name="helper")


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


class Words(Driver):
    """Streams words, a second each, and at last the whole answer; the HTTP client has a span of its own."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded

    async def complete(self, request: CompletionRequest) -> Completion:
        raise NotImplementedError

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        with self.recorded.tracer.start_as_current_span("POST"):
            await trio.lowlevel.checkpoint()

        async def parts() -> AsyncIterator[StreamPart]:
            for _ in range(3):
                await trio.sleep(1)
                yield TextDelta("word ")
            yield Completion("word " * 3, usage=TokenUsage(10, 3))

        iterator = parts()
        try:
            yield iterator
        finally:
            await iterator.aclose()  # type: ignore[attr-defined]


# google/adk-python#4894, google/adk-python#6559, Arize-ai/openinference#1769, agno-agi/agno#3220,
# agentscope-ai/agentscope#2076, traceloop/openllmetry#3061: "Failed to detach context" when a stream
# is left before its end, or a generator is closed in another task.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # of the one that is left open
@pytest.mark.parametrize("way", ["break", "raise", "cancel", "left open", "other task"])
async def test_a_stream_that_is_left_in_any_way_logs_no_error_and_ends_its_span(
    recorded: Recorded, caplog: pytest.LogCaptureFixture, autojump_clock: Any, way: str
) -> None:
    async def words(ctx: AgentContext) -> AsyncIterator[StreamPart]:
        assert ctx.driver is not None
        async with ctx.driver.stream(CompletionRequest()) as parts:
            async for part in parts:
                yield part

    async def plain(ctx: AgentContext) -> None:
        stream = words(ctx)
        with trio.move_on_after(1.5 if way == "cancel" else 100):
            async for _ in stream:
                if way == "break":
                    break
                if way == "raise":
                    raise ConnectionError
                if way in ("left open", "other task"):
                    break
        if way == "other task":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.aclose)  # type: ignore[attr-defined]
        elif way != "left open":
            await stream.aclose()  # type: ignore[attr-defined]
        with recorded.tracer.start_as_current_span("after"):
            pass

    with caplog.at_level(logging.DEBUG):
        async with open_agent_pool(Words(recorded), max_concurrent=1) as pool:
            async with trace_pool(pool, **recorded.options):
                await (await pool.spawn(plain)).wait()
    assert "detach" not in caplog.text
    assert "could not be traced" not in caplog.text
    assert len(recorded.named("chat")) == 1
    assert recorded.path("POST").endswith("invoke_agent plain / chat / POST")
    assert recorded.problems() == []


# openlit/openlit#1515, openlit/openlit#1561, Arize-ai/openinference#3796: a stream that is left early is
# missing in the trace. mozilla-ai/any-llm#909, mastra-ai/mastra#15302: so is one that is aborted.
async def test_an_aborted_stream_is_a_span_with_what_is_known_of_it(
    recorded: Recorded, autojump_clock: Any
) -> None:
    async with open_agent_pool(Words(recorded), max_concurrent=1) as pool:
        async with trace_pool(pool, **recorded.options):
            handle = await pool.spawn(SpawnConfig(PLAIN, "go"))
            await trio.sleep(1.5)
            handle.abort()
            await handle.wait()
    said = recorded.one("chat").attributes or {}
    assert said["error.type"] == "cancelled"
    assert said["gen_ai.response.time_to_first_chunk"] == pytest.approx(1.0)
    assert recorded.problems() == []


# microsoft/agent-framework#6357: spans of tools that run side by side get lost.
async def test_each_of_many_tools_side_by_side_has_its_span_and_its_own_children(
    recorded: Recorded, autojump_clock: Any
) -> None:
    @tool
    async def look(n: int) -> str:
        """Look something up."""
        with recorded.tracer.start_as_current_span(f"query {n}"):
            await trio.sleep(10 - n)
        return str(n)

    calls = tuple(ToolCall(str(n), "look", {"n": n}) for n in range(10))
    async with open_agent_pool(ScriptedDriver([Completion("", calls), "ok"]), max_concurrent=1) as pool:
        async with trace_pool(pool, **recorded.options):
            await (await pool.spawn(SpawnConfig(PLAIN, "go", tools=[look]))).result()
    spans = {span.context.span_id: span for span in recorded.spans if span.context}
    for n in range(10):
        parent = spans[recorded.one(f"query {n}").parent.span_id]  # type: ignore[union-attr]
        assert (parent.attributes or {})["gen_ai.tool.call.id"] == str(n)
        assert recorded.parent_of(parent) == "turn 1"


# strands-agents/harness-sdk#489, pensarai/apex#818, langchain-ai/langchain-azure#297: the agents that an
# agent starts are in traces of their own.
async def test_agents_that_agents_fan_out_are_in_their_tree_four_deep(recorded: Recorded) -> None:
    async def node(ctx: AgentContext, depth: int) -> None:
        if depth:
            await ctx.map(node, [depth - 1] * 2)

    with recorded.tracer.start_as_current_span("request"):
        async with open_agent_pool(max_concurrent=2) as pool, trace_pool(pool, **recorded.options):
            await (await pool.spawn(node, 4)).result()
    assert len(recorded.named("invoke_agent node")) == 31
    deepest = max(recorded.tree(), key=lambda line: len(line) - len(line.lstrip()))
    assert deepest == "  " * 6 + "invoke_agent node"
    assert recorded.problems() == []


# OpenHands/software-agent-sdk#3113, temporalio/sdk-python#1852: what several requests do in one process
# is torn apart, or mixed.
async def test_requests_that_share_a_pool_have_each_their_own_trace(recorded: Recorded) -> None:
    async def child(ctx: AgentContext) -> None: ...

    async def agent(ctx: AgentContext) -> None:
        await trio.lowlevel.checkpoint()
        await (await ctx.spawn(child, name=f"child of {ctx.name}")).wait()

    async def request(n: int) -> None:
        otel_context.attach(otel_context.Context())  # as a server's task begins
        with recorded.tracer.start_as_current_span(f"request {n}"):
            await (await pool.spawn(agent, name=f"agent {n}")).result()

    async with open_agent_pool(max_concurrent=3) as pool, trace_pool(pool, **recorded.options):
        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(request, n)
    for n in range(10):
        child_span = recorded.one(f"invoke_agent child of agent {n}")
        assert child_span.context.trace_id == recorded.one(f"request {n}").context.trace_id  # type: ignore[union-attr]
        assert recorded.path(child_span.name).startswith(f"request {n} / invoke_agent agent {n} / ")


# strands-agents/harness-sdk#1267, pydantic/pydantic-ai#3995, langfuse/langfuse#8700: tokens are counted twice
# where the spans around a model call repeat them. langfuse/langfuse#11244: reasoning is added to the output.
async def test_the_tokens_of_all_spans_add_up_to_what_was_used_also_with_retries(
    recorded: Recorded, autojump_clock: Any
) -> None:
    usage = TokenUsage(100, 20, reasoning_tokens=15, cache_read_tokens=60, cost_usd=0.25)

    @tool
    async def delegate(ctx: Any) -> str:
        """Ask another model."""
        return (await (await ctx.spawn(SpawnConfig(PLAIN, "deeper"))).result()).text

    call = Completion("", (ToolCall("1", "delegate", {}),), usage=usage)
    busy = RetryingDriver(
        ScriptedDriver(
            [RateLimitedError("slow down"), call, OverloadedError("busy"), Completion("a", usage=usage)]
        )
    )
    async with open_agent_pool(busy, max_concurrent=1) as pool, trace_pool(pool, **recorded.options):
        manifest = AgentManifest(name="outer")
        await (await pool.spawn(SpawnConfig(manifest, "go", tools=[delegate]))).wait()
        used = pool.statistics().usage
    for kind, count in (("input", used.input_tokens), ("output", used.output_tokens)):
        key = f"gen_ai.usage.{kind}_tokens"
        assert sum((span.attributes or {}).get(key, 0) for span in recorded.spans) == count  # type: ignore[misc]
    assert (
        sum((span.attributes or {}).get("agentpool.cost_usd", 0) for span in recorded.spans) == used.cost_usd
    )  # type: ignore[misc]
    assert recorded.metrics()["agentpool.cost"][0][1] == used.cost_usd
    answered = [
        span for span in recorded.named("chat") if "gen_ai.usage.output_tokens" in (span.attributes or {})
    ]
    assert {(span.attributes or {})["gen_ai.usage.reasoning.output_tokens"] for span in answered} == {15}


# traceloop/openllmetry#4466, microsoft/vscode#326254, veryfront/veryfront-code#3895,
# open-telemetry/opentelemetry-java-instrumentation#3039: prompts come out by the text of an error, though
# contents are switched off.
@pytest.mark.parametrize("where", ["driver", "tool", "agent", "output"])
async def test_what_was_said_does_not_come_out_by_an_error(recorded: Recorded, where: str) -> None:
    secret = "bob@example.com has the number 4111-x-1111"

    @tool
    async def look(who: int) -> str:
        """Look somebody up."""
        raise LookupError(secret)

    async def plain(ctx: AgentContext) -> None:
        raise ValueError(secret)

    drivers = {
        "driver": ScriptedDriver([OverloadedError(f"{secret} is too much")]),
        "tool": ScriptedDriver([Completion("", (ToolCall("1", "look", {"who": secret}),)), secret]),
        "agent": None,
        "output": ScriptedDriver([secret] * 3),
    }
    async with open_agent_pool(drivers[where], max_concurrent=1) as pool:
        async with trace_pool(pool, **recorded.options):
            if where == "agent":
                handle: Any = await pool.spawn(plain)
            elif where == "output":
                handle = await pool.spawn(SpawnConfig(PLAIN, secret, output_type=int))
            else:
                handle = await pool.spawn(SpawnConfig(PLAIN, secret, tools=[look]))
            await handle.wait()
    assert "bob" not in texts_of(recorded.spans)
    assert "4111-x-1111" not in texts_of(recorded.spans)
    assert recorded.problems() == []


# triggerdotdev/trigger.dev#2846, hypertrace/javaagent#406: an attribute with as many values as there are
# requests, or whatever a model makes up, fills the memory of the SDK.
async def test_metrics_have_no_series_for_each_agent_nor_for_tools_that_a_model_made_up(
    recorded: Recorded,
) -> None:
    @tool
    async def real() -> str:
        """Do it."""
        return "ok"

    calls = tuple(ToolCall(str(n), f"made_up_{n}", {}) for n in range(5))

    async def plain(ctx: AgentContext, n: int) -> None: ...

    driver = ScriptedDriver([Completion("", (*calls, ToolCall("9", "real", {}))), "ok"])
    async with open_agent_pool(driver, max_concurrent=5) as pool, trace_pool(pool, **recorded.options):
        for n in range(50):
            await (await pool.spawn(plain, n, name=f"agent {n}")).wait()
        await (await pool.spawn(SpawnConfig(PLAIN, "go", tools=[real]))).wait()
    metrics = recorded.metrics()
    assert len(metrics["gen_ai.invoke_agent.duration"]) == 1
    names = {point[0]["gen_ai.tool.name"] for point in metrics["gen_ai.execute_tool.duration"]}
    assert names == {"_OTHER", "real"}


# open-telemetry/opentelemetry-js#4095, alibaba/loongsuite-python#22: instruments that are made for each
# request stay for ever, and complain of each other.
async def test_a_service_that_opens_a_pool_for_each_request_makes_its_instruments_once(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(ctx: AgentContext) -> None: ...

    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            async with open_agent_pool(max_concurrent=2) as pool, trace_pool(pool, **recorded.options):
                await (await pool.spawn(agent)).wait()
        async with open_agent_pool(max_concurrent=2) as one, open_agent_pool(max_concurrent=3) as two:
            async with trace_pool(one, **recorded.options), trace_pool(two, **recorded.options):
                metrics = recorded.metrics()
    assert caplog.text == ""
    assert metrics["agentpool.slots.limit"] == [({}, 5)]
    assert metrics["agentpool.pools"] == [({}, 2)]
    assert recorded.metrics()["agentpool.pools"] == [({}, 0)]


# QwenLM/qwen-code#4126: the span of a tool stays open on the paths on which it is stopped.
@pytest.mark.parametrize("way", ["too slow", "fatal", "unknown", "bad arguments", "idle"])
async def test_a_tool_that_is_stopped_in_any_way_has_a_span_that_ends(
    recorded: Recorded, autojump_clock: Any, way: str
) -> None:
    @tool(timeout=1)
    async def slow(n: int) -> str:
        """Takes long."""
        if way == "fatal":
            raise SystemExit(3)
        await trio.sleep(100)
        return "ok"

    call = ToolCall(
        "1", "nobody" if way == "unknown" else "slow", {"n": "x" if way == "bad arguments" else 1}
    )
    manifest = AgentManifest.from_toml(
        'name = "helper"\n[resources]\nidle = 0.5\n' if way == "idle" else 'name = "helper"\n'
    )
    try:
        async with open_agent_pool(ScriptedDriver([Completion("", (call,)), "ok"]), max_concurrent=1) as pool:
            async with trace_pool(pool, **recorded.options):
                await (await pool.spawn(SpawnConfig(manifest, "go", tools=[slow]))).wait()
    except SystemExit:
        assert way == "fatal"
    kind = "cancelled" if way in ("fatal", "idle") else "tool_error"
    (span,) = [span for span in recorded.spans if span.name.startswith("execute_tool")]
    assert (span.attributes or {})["error.type"] == kind
    assert recorded.problems() == []


# open-telemetry/opentelemetry-python#2606: what is current is not what was so before.
async def test_after_everything_the_caller_has_its_own_span_again(recorded: Recorded) -> None:
    async def agent(ctx: AgentContext) -> None:
        before = trace.get_current_span()
        driver = ctx.driver
        assert driver is not None
        await driver.complete(CompletionRequest())
        assert trace.get_current_span() is before
        await ModelAgent[str](PLAIN)(ctx, "go")
        assert trace.get_current_span() is before
        with pytest.raises(OverloadedError):
            await driver.complete(CompletionRequest())
        assert trace.get_current_span() is before

    driver = ScriptedDriver(["one", "two", OverloadedError("busy")])
    with recorded.tracer.start_as_current_span("mine") as mine:
        async with open_agent_pool(driver, max_concurrent=1) as pool:
            async with trace_pool(pool, **recorded.options):
                await (await pool.spawn(agent)).result()
            assert trace.get_current_span() is mine
