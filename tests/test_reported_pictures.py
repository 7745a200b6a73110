"""What users of comparable systems reported of their dashboards and timelines, put to ours."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import trio
from cast_kit import Cast, call, calls, last_result, manifest, scripted
from picture_kit import Client, Pictures, Told, check_lanes, outcome_of, request_of
from pool_kit import pool_of

from agentpool import (
    AgentContext,
    Completion,
    CompletionRequest,
    ModelAgent,
    ScriptedDriver,
    SpawnCapability,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    open_agent_pool,
    tool,
)
from agentpool._core import events as ev
from agentpool._core.picture import Picture
from agentpool._core.picture_data import changes_since
from agentpool.testing import instrumented

LEAD = manifest("lead", SpawnCapability())
HELPER = manifest("helper", description="Helps.")


@tool
async def look() -> str:
    """Look."""
    return "seen"


# kenn-io/agentsview#871, anthropics/claude-code#55121, kagent-dev/kagent#946: the total left out what
# sub-agents had used. meawoppl/agent-portal#1469: parts of a sum must not be added to it again.
@pytest.mark.parametrize("helpers", [1, 3])
async def test_the_total_is_that_of_all_agents_and_counts_nothing_twice(
    helpers: int, autojump_clock: Any
) -> None:
    asks = [("spawn_agent", {"agent": "helper", "query": str(n)}) for n in range(helpers)]
    usage = TokenUsage(100, 50, reasoning_tokens=30, cache_read_tokens=60, cost_usd=0.01)
    cast = Cast(
        lead=scripted(calls(*asks), lambda turn: last_result(turn)),
        helper=lambda turn: Completion("found", usage=usage),
    )
    pictures = Pictures()
    with instrumented(pictures):
        async with pool_of(4, driver=cast) as pool:
            await (await pool.spawn(ModelAgent(LEAD, agents=[HELPER]), "go")).result()
            total = changes_since(pictures.pictures[0], 0)["totals"]
            assert total["tokens"] == pool.statistics().usage.total_tokens == 2 * 15 + helpers * 150
            assert total["cost"] == pytest.approx(helpers * 0.01)
    assert pictures.problems == []


# anomalyco/opencode#25657: what happened while the connection was down was lost. feder-cr/
# invisible_playwright_mcp#1263: after it, everything came again, and stood there twice.
@pytest.mark.parametrize("gap", [1, 7, 50])
async def test_a_lost_connection_neither_loses_nor_repeats(gap: int, autojump_clock: Any) -> None:
    cast = Cast(model=scripted(call("look"), call("look"), "done"))
    picture, client, always = Picture(), Client(), Client()
    async with open_agent_pool(cast, max_concurrent=2) as pool, pool.events(max_buffer=10**6) as events:
        await pool.fan_out([SpawnConfig(manifest("model"), "go", tools=[look])] * 5)
        await pool.join_all()
        for number, event in enumerate(events.next_batch_nowait()):
            picture.take(event)
            always.ask(picture)
            if number % gap == 0:
                client.ask(picture)
    client.ask(picture)
    fresh = Client()
    fresh.ask(picture)
    assert client.agents == always.agents == fresh.agents
    assert client.spans == always.spans == fresh.spans
    assert [client.ask(picture)[key] for key in ("agents", "spans", "arrows", "notes")] == [[], [], [], []]


# whatwg/html#8297: nobody told a client that what it asks for is not kept any more.
def test_a_client_that_was_away_too_long_is_told_to_begin_anew() -> None:
    told, client = Told(Picture(ended_kept=2)), Client()
    told.spawn(1)
    client.ask(told.picture)
    told.ends(1)
    for number in range(2, 10):
        told.spawn(number)
        told.ends(number)
    assert client.ask(told.picture)["reset"]
    assert set(client.agents) == {8, 9}


# langfuse/langfuse#9274: calls that were over in the same millisecond stood in a wrong order.
# IBM/prompt-declaration-language#391: a trace that was cut off had negative durations.
@pytest.mark.parametrize("seconds", [0.0, 0.0001, 0.5])
def test_quick_calls_stand_in_their_order_and_nothing_ends_before_it_began(seconds: float) -> None:
    told = Told()
    told.spawn(1)
    told.phase(1, "act")
    for number in range(20):
        made = told.starts_tool(1, f"tool{number}", after=seconds)
        told.ends_tool(1, made, after=seconds)
        told.phase(1, "perceive", number)
        told.phase(1, "act", number)
    told.tell(ev.ModelCallFinished, 1, 999, None, None, True, -5.0, None)
    told.ends(1, "aborted")
    names = [span.detail for span in told.picture.spans if span.detail]
    assert names == [f"tool{number}" for number in range(20)]
    assert all(span.end >= span.start for span in told.picture.spans)
    check_lanes(told.picture)


# mastra-ai/mastra#11661: the timeline had gaps, and model calls had no length.
async def test_the_time_of_an_agent_is_the_sum_of_its_lane(autojump_clock: Any) -> None:
    async def slow(request: CompletionRequest) -> Completion:
        await trio.sleep(3)
        if len(request.messages) > 3:
            return Completion("done")
        return Completion(tool_calls=[ToolCall(f"c{len(request.messages)}", "pause", {})])

    @tool
    async def pause() -> str:
        """Pause."""
        await trio.sleep(2)
        return "ok"

    pictures = Pictures()
    with instrumented(pictures):
        async with pool_of(1, driver=ScriptedDriver(slow)) as pool:
            outcome = await (await pool.spawn(SpawnConfig(manifest("model"), "go", tools=[pause]))).wait()
    assert pictures.problems == []
    times: dict[str, float] = {}
    for span in pictures.pictures[0].spans:
        times[span.kind] = times.get(span.kind, 0.0) + span.end - span.start
    assert times["reasoning"] == pytest.approx(9)
    assert times["acting"] == pytest.approx(4)
    assert sum(times.values()) == pytest.approx(outcome.duration, abs=0.002)


# ray-project/ray#21974: a task whose end was not heard of ran for ever on the dashboard.
@pytest.mark.parametrize("buffer", [1, 5, 40])
async def test_whoever_is_too_slow_for_the_events_still_sees_the_ends(
    buffer: int, autojump_clock: Any
) -> None:
    async def parent(ctx: AgentContext) -> None:
        for _ in range(20):
            await (await ctx.spawn(child)).wait()

    async def child(ctx: AgentContext) -> None:
        assert ctx.driver is not None
        await ctx.driver.complete(CompletionRequest(model="m", messages=()))

    picture = Picture()
    driver = ScriptedDriver([Completion("x", usage=TokenUsage(1, 2))] * 40)
    async with open_agent_pool(driver, max_concurrent=4) as pool, pool.events(max_buffer=buffer) as events:
        await pool.fan_out([parent, parent])
        await pool.join_all()
        while batch := events.next_batch_nowait():
            for event in batch:
                picture.take(event)
        assert events.statistics().dropped
    assert picture.rows
    assert all(row.has_ended and row.kind is None for row in picture.rows.values())


# multica-ai/multica#1149: an agent was "working" for hours after its task was cancelled. Xuanwo/luban#232:
# the spinner went on after a restart.
@pytest.mark.parametrize("doing", ["model", "tool", "approval", "retry", "wait", "restart"])
def test_an_agent_that_is_aborted_does_nothing_any_more(doing: str) -> None:
    told = Told()
    row = told.spawn(1)
    match doing:
        case "model":
            told.phase(1, "reason")
            told.asks_model(1)
        case "tool":
            told.phase(1, "act")
            told.starts_tool(1, "look")
        case "approval":
            told.tell(ev.ApprovalRequested, 1, request_of(1, "look"))
        case "retry":
            told.picture.retrying(1, "busy", told.time + 100, told.time)
        case "wait":
            told.sample({1: ()})
        case _:
            told.tell(ev.AgentRestarted, 1, 1, outcome_of(1, 0, "failed"), 100.0)
    told.ends(1, "aborted", "cancelled by a person", after=1)
    told.sample({1: ()}, 1, after=200)  # taken just before the end
    (data,) = changes_since(told.picture, 0)["agents"]
    assert (data["state"], data["reason"]) == ("aborted", "cancelled by a person")
    assert not data.keys() & {"kind", "stuck", "retry", "detail", "blocked_on", "phase"}
    assert (row.kind, row.calls, row.asking) == (None, [], {})


# ray-project/ray#19385, esengine/DeepSeek-Reasonix#1605: what had ended was kept for ever, and memory grew.
def test_a_run_that_goes_on_for_months_takes_no_more_room() -> None:
    picture = Picture(ended_kept=50, spans_kept=100, arrows_kept=100, notes_kept=20)
    told = Told(picture)
    server = told.spawn(1)
    sizes = set()
    for number in range(2, 2000):
        told.spawn(number, parent_id=1)
        told.asks_model(number)
        told.picture.retrying(number, "busy", told.time + 1, told.time)
        told.sends(1, number, number)
        told.sample({number: (1,), 1: (number,)}, after=1)
        told.picture.note("x" * 10_000)
        told.parents.pop(number)
        told.parents[number] = 1
        told.ends(number)
        if number > 200:
            kept = [picture.rows, picture.changed, picture.spans, picture.arrows, picture.notes, picture.gone]
            inner = [picture._ended, picture._due, picture.children, picture.children[1], server.asked]
            sizes.add(tuple(map(len, kept + inner)))
    assert len(sizes) == 1
    assert len(json.dumps(changes_since(picture, 0))) < 60_000


# dask/distributed#3009: what had been done vanished from the page while the run went on.
def test_what_was_done_stays_however_long_nothing_happens() -> None:
    told = Told()
    told.spawn(1)
    told.ends(1, after=1)
    told.spawn(2)
    told.sample({2: ()}, after=10_000)
    client = Client()
    client.ask(told.picture)
    assert set(client.agents) == {1, 2}
    assert client.spans[0] == [1, "running", 0.0, 1.0]


# NousResearch/hermes-agent#101666: half a pair in a message closed the connection, and again after each
# reconnection. wisdom-framework/wisdom#185: a NaN was no JSON.
@pytest.mark.parametrize("text", ["half \ud83d", "\udc00\ud800", "nul \x00 \u2028 </script>"])
def test_no_word_and_no_number_breaks_the_connection(text: str) -> None:
    told, client = Told(), Client()
    told.spawn(1, name=text)
    told.phase(1, "reason")
    told.answers(1, told.asks_model(1, text), text, TokenUsage(1, 1, cost_usd=math.nan))
    told.tell(ev.GuardWarned, 1, text)
    told.ends(1, "failed", ValueError(text))
    data = client.ask(told.picture)
    json.dumps(data, allow_nan=False, ensure_ascii=False).encode()


# riba2534/happyclaw#131: the sub-agent was done, and the page showed it at work.
async def test_a_subagent_that_is_done_is_done_while_its_parent_goes_on(autojump_clock: Any) -> None:
    async def parent(ctx: AgentContext) -> None:
        await (await ctx.spawn(child)).wait()
        await trio.sleep(10)

    async def child(ctx: AgentContext) -> None:
        await trio.sleep(1)

    pictures = Pictures()
    with instrumented(pictures):
        async with pool_of(2) as pool:
            await pool.spawn(parent)
            await trio.sleep(5)
            picture = pictures.pictures[0]
            now = pool.statistics()
            picture.sample({each.id: each.waits_for for each in now.waiting}, (), trio.current_time())
            assert (picture.rows[2].state, picture.rows[1].state) == ("completed", "running")
            assert picture.rows[1].kind == "running"
