"""The spans of a pool: one tree for each run, whatever becomes of it."""

from __future__ import annotations

import gc
import logging
import sys
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

import trio
from journal_kit import Records
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from telemetry_kit import Blocked, Recorded, texts_of

from agentpool import (
    AgentContext,
    AgentManifest,
    AgentPool,
    Completion,
    CompletionRequest,
    Driver,
    ModelAgent,
    OverloadedError,
    RestartPolicy,
    RetryingDriver,
    ScriptedDriver,
    SpawnConfig,
    StreamPart,
    TextDelta,
    TokenUsage,
    ToolCall,
    UserMessage,
    open_agent_pool,
    tool,
)
from agentpool.telemetry import trace_pool

PLAIN = AgentManifest(name="helper")
USAGE = TokenUsage(100, 20, cost_usd=0.5)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@tool
async def add(a: int, b: int) -> str:
    """Add."""
    return str(a + b)


def asks(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(f"call-{name}", name, arguments)


@asynccontextmanager
async def traced_pool(recorded: Recorded, driver: Any = None, **options: Any) -> AsyncIterator[AgentPool]:
    """A pool that is traced to the end of its last agent."""
    contents = options.pop("contents", False)
    async with AsyncExitStack() as stack:
        async with open_agent_pool(driver, **{"max_concurrent": 5, **options}) as pool:
            await stack.enter_async_context(trace_pool(pool, **recorded.options, contents=contents))
            yield pool


# -- the tree ----------------------------------------------------------------------------------------


async def test_a_run_is_one_tree_by_the_names_of_the_conventions(recorded: Recorded) -> None:
    driver = ScriptedDriver([Completion("", (asks("add", a=1, b=2),), usage=USAGE), "three"])
    async with traced_pool(recorded, driver) as pool:
        await (await pool.spawn(SpawnConfig(PLAIN, "1 + 2?", tools=[add]))).result()
    assert recorded.tree() == [
        "invoke_workflow",
        "  invoke_agent helper",
        "    turn 1",
        "      chat",
        "      execute_tool add",
        "    turn 2",
        "      chat",
    ]
    assert recorded.problems() == []


async def test_a_span_says_what_the_conventions_ask_for(recorded: Recorded) -> None:
    class Known(ScriptedDriver):
        provider = "gemini"
        model = "g-1"
        base_url = "https://me:secret@models.example:8443/v1"

    answer = Completion("three", usage=USAGE, response_id="r-1", served_model="g-1-0613")
    manifest = AgentManifest.from_toml('name = "helper"\n[model]\ntemperature = 0.5\n')
    async with traced_pool(recorded, Known([answer])) as pool:
        await (await pool.spawn(SpawnConfig(manifest, "1 + 2?"))).result()
    chat = recorded.one("chat g-1")
    assert chat.kind is SpanKind.CLIENT
    assert dict(chat.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "g-1",
        "gen_ai.request.max_tokens": 4096,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.id": "r-1",
        "gen_ai.response.model": "g-1-0613",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "server.address": "models.example",
        "server.port": 8443,
        "agentpool.attempt": 1,
        "agentpool.cost_usd": 0.5,
    }
    agent = recorded.one("invoke_agent helper")
    assert agent.kind is SpanKind.INTERNAL
    said = agent.attributes or {}
    assert said["gen_ai.operation.name"] == "invoke_agent"
    assert said["gen_ai.agent.name"] == "helper"
    assert said["gen_ai.agent.id"] == "1"
    assert said["gen_ai.provider.name"] == "gcp.gemini"
    assert said["agentpool.outcome"] == "completed"
    scope = chat.instrumentation_scope
    assert scope is not None
    assert scope.schema_url == "https://opentelemetry.io/schemas/gen-ai/1.42.0"


async def test_an_agent_is_inside_of_the_tool_call_that_spawned_it(recorded: Recorded) -> None:
    async def child(ctx: AgentContext) -> str:
        return "grown"

    @tool
    async def delegate(ctx: Any) -> str:
        """Have another agent do it."""
        return await (await ctx.spawn(child)).result()

    driver = ScriptedDriver(
        [Completion("", (asks("delegate"), ToolCall("2", "add", {"a": 1, "b": 1}))), "ok"]
    )
    async with traced_pool(recorded, driver) as pool:
        await (await pool.spawn(SpawnConfig(PLAIN, "go", tools=[delegate, add]))).result()
    inside = "invoke_workflow / invoke_agent helper / turn 1 / execute_tool delegate / invoke_agent child"
    assert recorded.path("invoke_agent child") == inside
    assert (
        recorded.path("execute_tool add")
        == "invoke_workflow / invoke_agent helper / turn 1 / execute_tool add"
    )
    assert recorded.problems() == []


@pytest.mark.parametrize("slots", [1, 3])
async def test_the_parent_is_who_spawned_and_not_who_freed_the_slot(recorded: Recorded, slots: int) -> None:
    async def leaf(ctx: AgentContext) -> None:
        await trio.lowlevel.checkpoint()

    async def branch(ctx: AgentContext) -> None:
        for n in range(3):
            await ctx.spawn(leaf, name=f"{ctx.name}.{n}")
        await ctx.map(leaf, [])

    async with traced_pool(recorded, max_concurrent=slots) as pool:
        for n in range(3):
            await pool.spawn(branch, name=f"b{n}")
    for n in range(3):
        for leaf_number in range(3):
            name = f"invoke_agent b{n}.{leaf_number}"
            assert recorded.path(name) == f"invoke_workflow / invoke_agent b{n} / {name}"
    assert recorded.problems() == []


async def test_what_map_and_race_start_is_inside_of_who_called_them(recorded: Recorded) -> None:
    async def item(ctx: AgentContext, n: int = 0) -> int:
        await trio.sleep(n)
        return n

    async def caller(ctx: AgentContext) -> None:
        with recorded.tracer.start_as_current_span("by hand"):
            await ctx.map(item, range(3))
        await ctx.race(item)

    async with traced_pool(recorded, max_concurrent=1) as pool:
        await (await pool.spawn(caller)).result()
    parents = [recorded.parent_of(span) for span in recorded.named("invoke_agent item")]
    assert sorted(map(str, parents)) == ["by hand"] * 3 + ["invoke_agent caller"]
    assert recorded.problems() == []


async def test_spans_of_the_user_are_inside_of_the_agent_and_the_tool_also_in_threads(
    recorded: Recorded,
) -> None:
    @tool
    def slow(ctx: Any) -> str:
        """Blocks."""
        with recorded.tracer.start_as_current_span("in a thread"):
            trio.from_thread.run(ctx.spawn, child)
        return "done"

    async def child(ctx: AgentContext) -> None:
        with recorded.tracer.start_as_current_span("in an agent"):
            await trio.to_thread.run_sync(deep)

    def deep() -> None:
        with recorded.tracer.start_as_current_span("deep"):
            pass

    driver = ScriptedDriver([Completion("", (asks("slow"),)), "ok"])
    async with traced_pool(recorded, driver) as pool:
        await (await pool.spawn(SpawnConfig(PLAIN, "go", tools=[slow]))).result()
    assert recorded.path("deep") == (
        "invoke_workflow / invoke_agent helper / turn 1 / execute_tool slow"
        " / invoke_agent child / in an agent / deep"
    )
    in_thread = "invoke_workflow / invoke_agent helper / turn 1 / execute_tool slow / in a thread"
    assert recorded.path("in a thread") == in_thread
    assert recorded.problems() == []


async def test_what_a_driver_sends_is_inside_of_the_model_call_and_what_comes_after_is_not(
    recorded: Recorded,
) -> None:
    class Sending(Driver):
        async def complete(self, request: CompletionRequest) -> Completion:
            with recorded.tracer.start_as_current_span("POST"):
                await trio.lowlevel.checkpoint()
            return Completion("hello")

    async def plain(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(CompletionRequest())
        with recorded.tracer.start_as_current_span("after"):
            pass

    async with traced_pool(recorded, Sending()) as pool:
        await (await pool.spawn(plain)).result()
    assert recorded.path("POST") == "invoke_workflow / invoke_agent plain / chat / POST"
    assert recorded.path("after") == "invoke_workflow / invoke_agent plain / after"


async def test_the_trace_goes_on_with_what_was_current_where_it_was_opened(recorded: Recorded) -> None:
    async def agent(ctx: AgentContext) -> None: ...

    with recorded.tracer.start_as_current_span("request") as request:
        async with open_agent_pool(max_concurrent=1) as pool:
            async with trace_pool(pool, **recorded.options):
                with recorded.tracer.start_as_current_span("phase"):
                    await (await pool.spawn(agent, name="a")).wait()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pool.spawn, agent)
                await pool.join_all()
            assert trace.get_current_span() is request
    assert recorded.path("invoke_agent a") == "request / invoke_workflow / phase / invoke_agent a"
    assert recorded.problems() == []
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_spawner_of_another_trace_keeps_its_agent_which_is_linked_to_the_pool(
    recorded: Recorded,
) -> None:
    async def agent(ctx: AgentContext) -> None: ...

    async def request(pool: AgentPool) -> None:
        with recorded.tracer.start_as_current_span("request"):
            await (await pool.spawn(agent)).wait()

    async with trio.open_nursery() as nursery, open_agent_pool(max_concurrent=1) as pool:
        async with trace_pool(pool, **recorded.options):
            root = trace.get_current_span()
            with trio.CancelScope():
                token = trace.set_span_in_context(trace.INVALID_SPAN)
                from opentelemetry import context

                context.attach(token)  # as in a task of another request
                await request(pool)
        nursery.cancel_scope.cancel()
    assert recorded.path("invoke_agent agent") == "request / invoke_agent agent"
    (link,) = recorded.one("invoke_agent agent").links
    assert link.context.span_id == root.get_span_context().span_id


async def test_a_pool_inside_of_an_agent_of_another_is_inside_of_that_agent(recorded: Recorded) -> None:
    async def inner(ctx: AgentContext) -> None: ...

    async def outer(ctx: AgentContext) -> None:
        async with traced_pool(recorded) as pool:
            await (await pool.spawn(inner)).result()
        with recorded.tracer.start_as_current_span("after"):
            pass

    async with traced_pool(recorded) as pool:
        await (await pool.spawn(outer)).result()
    assert recorded.path("invoke_agent inner") == (
        "invoke_workflow / invoke_agent outer / invoke_workflow / invoke_agent inner"
    )
    assert recorded.path("after") == "invoke_workflow / invoke_agent outer / after"
    assert recorded.problems() == []


async def test_a_loop_that_plain_code_gives_up_leaves_nothing_open_and_nothing_current(
    recorded: Recorded, autojump_clock: trio.testing.MockClock
) -> None:
    class Silent(Driver):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.sleep_forever()
            raise AssertionError

    async def plain(ctx: AgentContext) -> None:
        with recorded.tracer.start_as_current_span("by hand"):
            with trio.move_on_after(5):
                await ModelAgent[str](PLAIN)(ctx, "hello")
            with recorded.tracer.start_as_current_span("after"):
                await trio.sleep(10)

    async with traced_pool(recorded, Silent()) as pool:
        await (await pool.spawn(plain)).result()
    assert recorded.path("after") == "invoke_workflow / invoke_agent plain / by hand / after"
    assert recorded.path("chat") == "invoke_workflow / invoke_agent plain / by hand / turn 1 / chat"
    turn = recorded.one("turn 1")
    assert turn.end_time is not None
    assert turn.start_time is not None
    assert turn.end_time - turn.start_time == pytest.approx(5e9)
    assert (recorded.one("chat").attributes or {})["error.type"] == "cancelled"
    assert recorded.problems() == []


# -- how things end ----------------------------------------------------------------------------------


async def test_failure_and_abort_are_recorded_and_success_is_left_unset(
    recorded: Recorded, autojump_clock: trio.testing.MockClock
) -> None:
    async def good(ctx: AgentContext) -> None: ...

    async def bad(ctx: AgentContext) -> None:
        raise ConnectionError("the password is hunter2")

    async def endless(ctx: AgentContext) -> None:
        await trio.sleep_forever()

    async with traced_pool(recorded) as pool:
        await (await pool.spawn(good)).wait()
        await (await pool.spawn(bad)).wait()
        await (await pool.spawn(endless, timeout=1, name="late")).wait()
        handle = await pool.spawn(endless)
        handle.abort("hunter2 again")
        await handle.wait()
    told = {
        span.name: (
            span.status.status_code,
            span.status.description,
            (span.attributes or {}).get("error.type"),
        )
        for span in recorded.spans
    }
    assert told["invoke_agent good"] == (StatusCode.UNSET, None, None)
    assert told["invoke_agent bad"] == (StatusCode.ERROR, "ConnectionError", "ConnectionError")
    assert told["invoke_agent late"] == (StatusCode.ERROR, "AgentTimeoutError", "AgentTimeoutError")
    assert told["invoke_agent endless"] == (StatusCode.ERROR, "aborted", "aborted")
    assert "hunter2" not in texts_of(recorded.spans)
    assert recorded.problems() == []


async def test_an_abort_ends_what_was_under_way_and_says_so(recorded: Recorded) -> None:
    begun = trio.Event()

    @tool
    async def forever() -> str:
        """Never ends."""
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    driver = ScriptedDriver([Completion("", (asks("forever"), ToolCall("2", "add", {"a": 1, "b": 2})))])
    async with traced_pool(recorded, driver) as pool:
        handle = await pool.spawn(SpawnConfig(PLAIN, "go", tools=[forever, add]))
        await begun.wait()
        handle.abort()
        await handle.wait()
    said = recorded.one("execute_tool forever").attributes or {}
    assert said["error.type"] == "cancelled"
    assert recorded.one("execute_tool add").status.status_code is StatusCode.UNSET
    assert recorded.problems() == []


async def test_a_pool_whose_block_raises_is_marked_and_its_trace_complete(recorded: Recorded) -> None:
    async def endless(ctx: AgentContext) -> None:
        await trio.sleep_forever()

    with pytest.raises(LookupError):
        async with open_agent_pool(max_concurrent=1) as pool, trace_pool(pool, **recorded.options):
            await pool.spawn(endless)
            await trio.testing.wait_all_tasks_blocked()
            raise LookupError("lost")
    root = recorded.one("invoke_workflow")
    assert (root.attributes or {})["error.type"] == "LookupError"
    assert recorded.problems() == []


async def test_a_block_that_is_left_early_ends_what_is_open_and_marks_it(recorded: Recorded) -> None:
    async def endless(ctx: AgentContext) -> None:
        await ctx.receive()

    async with open_agent_pool(max_concurrent=2) as pool:
        async with trace_pool(pool, **recorded.options):
            first = await pool.spawn(endless)
            await trio.testing.wait_all_tasks_blocked()
        assert recorded.problems() == []
        second = await pool.spawn(endless)
        await pool.send(first.id, "go")
        await pool.send(second.id, "go")
    assert (recorded.one("invoke_agent endless").attributes or {})["error.type"] == "not_ended"
    assert [span.name for span in recorded.spans] == ["invoke_agent endless", "invoke_workflow"]


async def test_a_block_that_outlives_its_pool_sees_the_last_agent_end(recorded: Recorded) -> None:
    async def server(ctx: AgentContext) -> str:
        async for _ in ctx.inbox:
            pass
        return "closed"

    async with traced_pool(recorded) as pool:
        await pool.spawn(server)
    assert (recorded.one("invoke_agent server").attributes or {})["agentpool.outcome"] == "completed"
    assert recorded.one("invoke_workflow").status.status_code is StatusCode.UNSET
    assert recorded.problems() == []


async def test_a_cancelled_block_is_marked_as_cancelled(recorded: Recorded) -> None:
    with trio.CancelScope() as scope:
        async with open_agent_pool(max_concurrent=2) as pool, trace_pool(pool, **recorded.options):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert (recorded.one("invoke_workflow").attributes or {})["error.type"] == "cancelled"


async def test_an_agent_that_ran_before_the_trace_is_in_it_from_there_on(recorded: Recorded) -> None:
    go = trio.Event()

    async def early(ctx: AgentContext) -> str:
        await go.wait()
        return (await ModelAgent[str](PLAIN)(ctx, "hello")).text

    async def unborn(ctx: AgentContext) -> None: ...

    async with open_agent_pool(ScriptedDriver(["hello"]), max_concurrent=2) as pool:
        handle = await pool.spawn(early)
        await trio.testing.wait_all_tasks_blocked()
        pool.spawn_nowait(unborn)
        async with trace_pool(pool, **recorded.options):
            go.set()
            await handle.result()
            await pool.join_all()
    assert recorded.path("chat") == "invoke_workflow / invoke_agent early / turn 1 / chat"
    assert (recorded.one("invoke_agent early").attributes or {})["agentpool.is_late"] is True
    assert "agentpool.is_late" not in (recorded.one("invoke_agent unborn").attributes or {})
    assert recorded.problems() == []


async def test_restarts_are_lives_of_one_agent(recorded: Recorded, autojump_clock: Any) -> None:
    lives = []

    async def shaky(ctx: AgentContext) -> str:
        lives.append(trace.get_current_span())
        text = (await ModelAgent[str](PLAIN)(ctx, "hello")).text
        if len(lives) < 3:
            raise ConnectionError
        return text

    driver = ScriptedDriver(["one", "two", "three"])
    async with traced_pool(recorded, driver) as pool:
        await (await pool.spawn(shaky, restart=RestartPolicy(max_restarts=5))).result()
    assert lives[0] is lives[1] is lives[2]
    span = recorded.one("invoke_agent shaky")
    assert (span.attributes or {})["agentpool.restarts"] == 2
    assert [event.name for event in span.events] == ["agentpool.restarted"] * 2
    assert (span.events[0].attributes or {})["error.type"] == "ConnectionError"
    assert len(recorded.named("turn 1")) == 3
    assert recorded.problems() == []


# -- model calls -------------------------------------------------------------------------------------


async def test_each_attempt_is_a_call_of_its_own(recorded: Recorded, autojump_clock: Any) -> None:
    driver = RetryingDriver(ScriptedDriver([OverloadedError("busy"), Completion("hello", usage=USAGE)]))
    async with traced_pool(recorded, driver) as pool:
        await (await pool.spawn(SpawnConfig(PLAIN, "hello"))).result()
    first, second = recorded.named("chat")
    assert (first.attributes or {})["error.type"] == "OverloadedError"
    assert "gen_ai.usage.input_tokens" not in (first.attributes or {})
    assert (second.attributes or {})["agentpool.attempt"] == 2
    assert {recorded.parent_of(first), recorded.parent_of(second)} == {"turn 1"}
    assert sum(point[1] for point in recorded.metrics()["gen_ai.client.token.usage"]) == 2  # input, output


class Streaming(Driver):
    """Thinks for a second, then says two words, a second each."""

    async def complete(self, request: CompletionRequest) -> Completion:
        raise NotImplementedError

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        async def parts() -> AsyncIterator[StreamPart]:
            for word in ("hello ", "world"):
                await trio.sleep(1)
                yield TextDelta(word)
            await trio.sleep(1)
            yield Completion("hello world", usage=USAGE)

        iterator = parts()
        try:
            yield iterator
        finally:
            await iterator.aclose()  # type: ignore[attr-defined]


async def test_a_stream_is_a_span_to_its_last_piece(recorded: Recorded, autojump_clock: Any) -> None:
    async with traced_pool(recorded, Streaming()) as pool:
        await (await pool.spawn(SpawnConfig(PLAIN, "hello"))).result()
    chat = recorded.one("chat")
    assert chat.end_time is not None
    assert chat.start_time is not None
    assert chat.end_time - chat.start_time == pytest.approx(3e9)
    said = chat.attributes or {}
    assert said["gen_ai.request.stream"] is True
    assert said["gen_ai.response.time_to_first_chunk"] == pytest.approx(1.0)
    assert said["gen_ai.usage.output_tokens"] == 20


async def test_a_model_that_takes_too_long_is_an_error_of_its_call(
    recorded: Recorded, autojump_clock: Any
) -> None:
    class Silent(Driver):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.sleep_forever()
            raise AssertionError

    async with traced_pool(recorded, Silent()) as pool:
        await (await pool.spawn(SpawnConfig(PLAIN, "hello"))).wait()
    assert (recorded.one("chat").attributes or {})["error.type"] == "DriverUnavailableError"
    assert recorded.problems() == []


# -- approval, messages, warnings --------------------------------------------------------------------


async def test_the_wait_for_a_decision_is_a_span_and_a_rule_decides_without_one(
    recorded: Recorded, autojump_clock: Any
) -> None:
    from agentpool import Approved, Decision

    async def person(request: Any) -> Decision:
        await trio.sleep(30)
        return Approved()

    manifest = AgentManifest.from_toml(
        'name = "helper"\n[approval]\ndefault = "allow"\nask = ["add"]\ndeny = ["subtract"]\n'
    )

    @tool
    async def subtract(a: int, b: int) -> str:
        """Subtract."""
        raise AssertionError

    calls = (asks("add", a=1, b=2), asks("subtract", a=1, b=2), asks("add", a="x", b=2))
    driver = ScriptedDriver([Completion("", calls), "ok"])
    async with traced_pool(recorded, driver, approver=person) as pool:
        await (await pool.spawn(SpawnConfig(manifest, "go", tools=[add, subtract]))).result()
    span = recorded.one("approve add")
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time - span.start_time == pytest.approx(30e9)
    assert (span.attributes or {})["agentpool.decision"] == "approved"
    (event,) = recorded.one("turn 1").events
    assert dict(event.attributes or {}) == {"agentpool.decision": "denied", "gen_ai.tool.name": "subtract"}
    ran, refused = sorted(recorded.named("execute_tool add"), key=lambda each: each.status.status_code.value)
    assert (refused.attributes or {})["error.type"] == "tool_error"
    assert recorded.parent_of(ran) == recorded.parent_of(refused) == "turn 1"
    assert recorded.problems() == []


async def test_messages_questions_and_replies_are_links(recorded: Recorded) -> None:
    async def server(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            if message.content == "?":
                ctx.reply(message, "!")

    async def client(ctx: AgentContext, to: int) -> None:
        with recorded.tracer.start_as_current_span("by hand"):
            await ctx.send(to, "hello")
        assert await ctx.ask(to, "?") == "!"

    async with traced_pool(recorded) as pool:
        to = await pool.spawn(server)
        await (await pool.spawn(client, to.id)).result()
        await pool.send(to.id, "bye")
    ids = {span.context.span_id: span.name for span in recorded.spans if span.context}
    links = [
        (ids[link.context.span_id], (link.attributes or {})["agentpool.link"])
        for link in recorded.one("invoke_agent server").links
    ]
    assert links == [
        ("by hand", "message"),
        ("invoke_agent client", "message"),
        ("invoke_workflow", "message"),
    ]
    (reply,) = recorded.one("invoke_agent client").links
    assert ids[reply.context.span_id] == "invoke_agent server"
    assert (reply.attributes or {})["agentpool.link"] == "reply"


async def test_dead_letters_compactions_and_warnings_are_events_of_spans(recorded: Recorded) -> None:
    async def sender(ctx: AgentContext, to: int) -> None:
        await ctx.send(to, "never read")

    async def deaf(ctx: AgentContext) -> None:
        await trio.testing.wait_all_tasks_blocked()

    async with traced_pool(recorded) as pool:
        to = await pool.spawn(deaf)
        await (await pool.spawn(sender, to.id)).result()
        await to.result()
    letters = recorded.metrics()["agentpool.messages.dead_lettered"]
    assert letters == [({}, 1)]


async def test_what_a_pool_warns_of_is_an_event_of_the_span_in_which_it_happens(
    recorded: Recorded, autojump_clock: Any
) -> None:
    ids: list[int] = []

    async def asker(ctx: AgentContext, to: int) -> None:
        await trio.sleep(1)
        with trio.move_on_after(5):
            await ctx.ask(ids[to], "?")

    async def stubborn(ctx: AgentContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    again = Completion("", (asks("add", a=1, b=1),))
    driver = ScriptedDriver([again] * 10)
    async with traced_pool(recorded, driver, contents=True) as pool:
        await (await pool.spawn(SpawnConfig(PLAIN, "go", tools=[add]))).wait()
        handle = await pool.spawn(stubborn)
        await trio.testing.wait_all_tasks_blocked()
        handle.abort()
        ids.append((await pool.spawn(asker, 1, name="one")).id)
        ids.append((await pool.spawn(asker, 0, name="two")).id)
        await pool.join_all()
    events = {event.name: span.name for span in recorded.spans for event in span.events}
    assert events["agentpool.guard_warned"].startswith("turn ")
    assert events["agentpool.stuck"] == "invoke_agent stubborn"
    assert events["agentpool.deadlock_suspected"] in ("invoke_agent one", "invoke_agent two")


async def test_a_refused_budget_and_a_compaction_are_events(recorded: Recorded) -> None:
    from agentpool import Budget

    class Talkative(Driver):
        asked = 0

        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.lowlevel.checkpoint()
            self.asked += 1
            if "tool" not in str(request.messages[-1]).lower():
                return Completion("all is well", usage=USAGE)
            return Completion("word " * 500, (asks("add", a=self.asked, b=1),), usage=USAGE)

    manifest = AgentManifest.from_toml(
        'name = "helper"\n[model]\nmax_tokens = 400\ncontext_window = 2500\ncompaction = "summary"\n'
    )
    async with traced_pool(recorded, Talkative(), budget=Budget(calls=8)) as pool:
        await (await pool.spawn(SpawnConfig(manifest, "use the tool", tools=[add]))).wait()
    names = {event.name for span in recorded.spans for event in span.events}
    assert {"agentpool.budget_warned", "agentpool.context_compacted"} <= names
    assert recorded.problems() == []


async def test_what_was_asked_in_other_forms_is_told_too(recorded: Recorded) -> None:
    from agentpool import Document, Image, Text

    async def plain(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        content = (Text("look"), Image(b"PNGBYTES", "image/png"), Document(url="https://example.com/a.pdf"))
        await ctx.driver.complete(
            CompletionRequest(
                "m-1",
                [UserMessage(content)],
                stop=["END"],
                output_schema={"type": "object"},
                options={"seed": 7, "top_p": 0.5, "user": "bob"},
            )
        )

    async with traced_pool(recorded, ScriptedDriver(["hello"]), contents=True) as pool:
        await (await pool.spawn(plain)).result()
    said = recorded.one("chat m-1").attributes or {}
    assert said["gen_ai.request.stop_sequences"] == ("END",)
    assert said["gen_ai.output.type"] == "json"
    assert said["gen_ai.request.seed"] == 7
    assert said["gen_ai.request.top_p"] == 0.5
    told = str(said["gen_ai.input.messages"])
    assert '"type": "blob", "modality": "image", "mime_type": "image/png", "size": 8' in told
    assert '"uri": "https://example.com/a.pdf"' in told
    assert "PNGBYTES" not in told


# -- contents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("contents", [False, True])
async def test_contents_are_sent_only_if_that_is_asked_for(recorded: Recorded, contents: bool) -> None:
    @tool
    async def look(word: str) -> str:
        """Look it up."""
        raise LookupError("ERRORTEXT")

    async def idle(ctx: AgentContext) -> None:
        await trio.sleep_forever()

    manifest = AgentManifest.from_toml('name = "helper"\n[model]\nsystem_prompt = "SYSTEMTEXT"\n')
    driver = ScriptedDriver(
        [
            Completion("SAIDTEXT", (asks("look", word="ARGUMENTTEXT"),), reasoning="THOUGHTTEXT"),
            "ANSWERTEXT",
        ]
    )
    async with traced_pool(recorded, driver, contents=contents) as pool:
        await (await pool.spawn(SpawnConfig(manifest, "QUERYTEXT", tools=[look]))).result()
        failing = await pool.spawn(SpawnConfig(manifest, "more"))
        await failing.wait()
        handle = await pool.spawn(idle)
        handle.abort("REASONTEXT")
        await handle.wait()
    said = texts_of(recorded.spans)
    words = "QUERYTEXT SYSTEMTEXT SAIDTEXT ARGUMENTTEXT THOUGHTTEXT ERRORTEXT ANSWERTEXT REASONTEXT"
    assert [word in said for word in words.split()] == [contents] * 8


async def test_known_secrets_are_taken_out_of_contents(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-0123456789abcdef0123456789")
    async with traced_pool(recorded, ScriptedDriver(["fine"]), contents=True) as pool:
        query = "my key is sk-proj-0123456789abcdef0123456789"
        await (await pool.spawn(SpawnConfig(PLAIN, query))).result()
    assert "0123456789abcdef" not in texts_of(recorded.spans)
    assert "my key is" in texts_of(recorded.spans)


# -- exporters, providers, several traces ------------------------------------------------------------


async def test_an_exporter_that_blocks_holds_up_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpool.telemetry._block.EXPORT_SECONDS", 0.05)
    blocked = Blocked()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(blocked))

    async def agent(ctx: AgentContext) -> None: ...

    began = time.perf_counter()
    with caplog.at_level(logging.WARNING, "agentpool"):
        async with open_agent_pool(max_concurrent=5) as pool:
            async with trace_pool(pool, provider):
                for _ in range(20):
                    await pool.spawn(agent)
                await pool.join_all()
    assert time.perf_counter() - began < 10
    assert "BatchSpanProcessor" in caplog.text
    blocked.let_go.set()
    with trio.fail_after(20):
        while len(blocked.get_finished_spans()) < 21:
            await trio.sleep(0.01)


async def test_what_raises_in_an_exporter_or_a_processor_reaches_no_agent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from opentelemetry.sdk.trace import SpanProcessor

    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise ZeroDivisionError("on_start")

        def on_end(self, span: Any) -> None:
            raise ZeroDivisionError("on_end")

    provider = TracerProvider(shutdown_on_exit=False)

    async def agent(ctx: AgentContext) -> str:
        return "well"

    with caplog.at_level(logging.WARNING, "agentpool"):
        async with open_agent_pool(max_concurrent=1) as pool:
            async with trace_pool(pool, provider):
                provider.add_span_processor(Broken())
                assert await (await pool.spawn(agent)).result() == "well"
    assert "AgentStarted could not be traced" in caplog.text
    assert "a span could not be ended" in caplog.text


async def test_two_traces_of_one_pool_are_two_whole_trees() -> None:
    first, second = Recorded(), Recorded()

    async def child(ctx: AgentContext) -> None: ...

    @tool
    async def delegate(ctx: Any) -> str:
        """Have another agent do it."""
        await ctx.spawn(child)
        return "ok"

    driver = ScriptedDriver([Completion("", (asks("delegate"),)), Completion("", (asks("delegate"),)), "ok"])
    async with open_agent_pool(driver, max_concurrent=2) as pool:
        async with trace_pool(pool, **first.options), trace_pool(pool, **second.options):
            await (await pool.spawn(SpawnConfig(PLAIN, "go", tools=[delegate]))).result()
    assert first.tree() == second.tree()
    assert first.tree()[4:6] == ["      execute_tool delegate", "        invoke_agent child"]
    assert first.problems() == second.problems() == []
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_without_a_provider_of_its_own_nothing_is_recorded_and_nothing_breaks() -> None:
    async def agent(ctx: AgentContext) -> str:
        return "well"

    async with open_agent_pool(max_concurrent=1) as pool, trace_pool(pool, contents=True):
        assert await (await pool.spawn(agent)).result() == "well"


async def test_a_block_is_entered_once_and_takes_a_pool(recorded: Recorded) -> None:
    with pytest.raises(TypeError, match="AgentPool"):
        trace_pool("pool")  # type: ignore[arg-type]
    async with open_agent_pool(max_concurrent=1) as pool:
        block = trace_pool(pool, **recorded.options)
        async with block:
            pass
        with pytest.raises(RuntimeError, match="one block"):
            await block.__aenter__()
    async with trace_pool(pool, **recorded.options):
        pass  # it has ended: an empty trace
    assert recorded.problems() == ["2 roots: ['invoke_workflow', 'invoke_workflow']", "more than one trace"]


async def test_a_missing_package_is_named_with_its_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    async with open_agent_pool(max_concurrent=1) as pool:
        with pytest.raises(ModuleNotFoundError, match=r"trio-agentpool\[otel\]"):
            trace_pool(pool)


async def test_nothing_of_a_trace_is_kept_when_it_is_over(recorded: Recorded) -> None:
    async def agent(ctx: AgentContext) -> None: ...

    async with open_agent_pool(max_concurrent=1) as pool:
        async with trace_pool(pool, **recorded.options):
            await (await pool.spawn(agent)).result()
    gone = weakref.ref(pool._state)
    del pool
    recorded.metrics()
    for _ in range(3):
        await trio.lowlevel.checkpoint()
        gc.collect()
    assert gone() is None


async def test_time_is_that_of_the_wall_and_goes_by_as_on_trios_clock(
    recorded: Recorded, autojump_clock: trio.testing.MockClock
) -> None:
    async def agent(ctx: AgentContext) -> None:
        await trio.sleep(3600)

    began = time.time_ns()
    async with traced_pool(recorded) as pool:
        await (await pool.spawn(agent)).result()
    span = recorded.one("invoke_agent agent")
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 <= span.start_time - began < 60e9
    assert span.end_time - span.start_time == pytest.approx(3600e9)


# -- runs that are resumed -----------------------------------------------------------------------------


async def test_a_resumed_run_is_traced_from_where_it_goes_on(recorded: Recorded) -> None:
    from agentpool import resume_agent_pool

    begun = trio.Event()

    class Model(ScriptedDriver):
        async def complete(self, request: CompletionRequest) -> Completion:
            if request.messages[-1].__class__.__name__ == "ToolMessage" and not go.is_set():
                begun.set()
                await trio.sleep_forever()
            with recorded.tracer.start_as_current_span("POST"):
                return await super().complete(request)

    go = trio.Event()
    journal = Records()
    call = Completion("", (ToolCall("1", "add", {"a": 1, "b": 2}),))
    with trio.CancelScope() as scope:
        async with open_agent_pool(Model([call]), max_concurrent=1, journal=journal) as pool:
            await pool.spawn(SpawnConfig(PLAIN, "1 + 2?", tools=[add]))
            await begun.wait()
            scope.cancel()
    go.set()
    recorded.exporter.clear()
    async with AsyncExitStack() as stack:
        async with resume_agent_pool(Records(journal.kept), Model(["three"])) as pool:
            await stack.enter_async_context(trace_pool(pool, **recorded.options))
            (handle,) = pool.resumed
            assert (await handle.result()).text == "three"
    assert recorded.path("POST") == "invoke_workflow / invoke_agent helper / turn 2 / chat / POST"
    assert recorded.named("execute_tool add") == []  # it had been called
    assert recorded.problems() == []
