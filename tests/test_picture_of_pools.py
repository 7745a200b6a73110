"""Pictures of real pools: what people see adds up to what the pool's own books tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cast_kit import Cast, call, calls, last_result, manifest, scripted
from picture_kit import Client, Pictures
from pool_kit import failing, forever, pool_of, server, sleeper

from agentpool import (
    AgentContext,
    AgentManifest,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    Budget,
    ChildSpec,
    Completion,
    CompletionRequest,
    Decision,
    Denied,
    Driver,
    ModelAgent,
    ModelSettings,
    OverloadedError,
    RateLimitedError,
    ResourceQuota,
    RestartPolicy,
    RetryingDriver,
    RoutingDriver,
    ScriptedDriver,
    SpawnCapability,
    SpawnConfig,
    SqliteJournal,
    StreamPart,
    Supervisor,
    TextDelta,
    TokenUsage,
    ToolCall,
    handoff_to,
    open_agent_pool,
    resume_agent_pool,
    tool,
)
from agentpool._core import events as ev
from agentpool._core.picture import Picture
from agentpool._kernel.live_agents import live_agents
from agentpool.testing import instrumented

USAGE = TokenUsage(10, 5, cost_usd=0.01)


@pytest.fixture
def pictures() -> Pictures:
    return Pictures()


@asynccontextmanager
async def seen(pictures: Pictures, **options: Any) -> AsyncIterator[tuple[Any, Picture]]:
    """A pool whose picture is drawn, and adds up at its end."""
    with instrumented(pictures):
        async with pool_of(options.pop("max_concurrent", 4), **options) as pool:
            yield pool, pictures.pictures[0]
    assert pictures.problems == []


def kinds(picture: Picture, agent_id: int) -> list[tuple[str, str]]:
    return [(span.kind, span.detail) for span in picture.spans if span.agent == agent_id]


class Streaming(Driver):
    """Says its words one after the other, a tenth of a second each; some calls fail."""

    def __init__(self, *failing: int) -> None:
        self.failing = failing
        self.calls = 0

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        self.calls += 1
        yield self._parts(self.calls)

    async def _parts(self, number: int) -> AsyncIterator[StreamPart]:
        if number in self.failing:
            raise OverloadedError("busy")
        for word in ("one ", "two ", "three"):
            await trio.sleep(0.1)
            yield TextDelta(word)
        yield Completion("one two three", usage=USAGE)

    async def complete(self, request: CompletionRequest) -> Completion:
        raise NotImplementedError

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return 0.01


@tool
async def look(seconds: float = 1.0) -> str:
    """Look."""
    await trio.sleep(seconds)
    return "seen"


MODEL = manifest("model")


async def test_a_function_agent_that_asks_models_itself(pictures: Pictures, autojump_clock: Any) -> None:
    async def asks(ctx: AgentContext) -> None:
        request = CompletionRequest(model="m", messages=(), max_tokens=10)
        async with ctx.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ctx.driver.complete, request)
        ctx.add_usage(TokenUsage(1000, 0))
        with trio.move_on_after(0.05):
            async with ctx.driver.stream(request) as parts:
                async for _ in parts:
                    pass

    class Slow(Streaming):
        async def complete(self, request: CompletionRequest) -> Completion:
            await trio.sleep(1)
            return Completion("x", usage=USAGE)

    async with seen(pictures, driver=Slow()) as (pool, picture):
        await (await pool.spawn(asks)).result()
        row = picture.rows[1]
        assert set(kinds(picture, 1)) == {("reasoning", "m")}
        assert (row.model_calls, row.usage.total_tokens, row.asked) == (4, 1045, set())
        assert picture.usage.total_tokens == 1045


async def test_a_streamed_answer_after_one_that_failed(pictures: Pictures, autojump_clock: Any) -> None:
    driver = RetryingDriver(Streaming(1), attempts=3, seed=1)
    async with seen(pictures, driver=driver) as (pool, picture):
        handle = await pool.spawn(SpawnConfig(MODEL, "go"))
        while picture.rows[1].words != "one two ":
            await trio.sleep(0.01)
        await handle.result()
        assert picture.rows[1].words == "one two three"
        assert picture.rows[1].model_calls == 2


async def test_retries_and_fallbacks_count_each_attempt(pictures: Pictures, autojump_clock: Any) -> None:
    first = ScriptedDriver([RateLimitedError("slow down"), OverloadedError("busy"), OverloadedError("busy")])
    second = ScriptedDriver([Completion("done", usage=USAGE)])
    driver = RoutingDriver(RetryingDriver(first, attempts=3), second)
    async with seen(pictures, driver=driver) as (pool, picture):
        await (await pool.spawn(SpawnConfig(MODEL, "go"))).result()
        assert picture.rows[1].model_calls == 4
        assert picture.usage == USAGE


async def test_tools_side_by_side_and_calls_of_the_same_id(pictures: Pictures, autojump_clock: Any) -> None:
    same = (ToolCall("c", "look", {"seconds": 1}), ToolCall("c", "look", {"seconds": 2}))
    cast = Cast(model=scripted(same, "done"))
    async with seen(pictures, driver=cast) as (pool, picture):
        result = await (await pool.spawn(SpawnConfig(MODEL, "go", tools=[look]))).result()
        assert result.tool_calls == picture.rows[1].tool_calls == 2
        assert ("acting", "look, look") in kinds(picture, 1)
        assert ("acting", "look") in kinds(picture, 1)


async def test_subagents_and_handoffs(pictures: Pictures, autojump_clock: Any) -> None:
    helper = manifest("helper", description="Helps.")
    other = manifest("other", description="Takes over.")
    lead = manifest("lead", SpawnCapability())
    cast = Cast(
        lead=scripted(
            calls(
                ("spawn_agent", {"agent": "helper", "query": "a"}),
                ("spawn_agent", {"agent": "helper", "query": "b"}),
            ),
            call("hand_off", agent="other", note="go on"),
        ),
        helper=scripted(call("look", seconds=2), lambda turn: last_result(turn)),
        other=scripted("done"),
    )
    agent = ModelAgent(lead, agents=[ModelAgent(helper, tools=[look])], tools=[handoff_to(ModelAgent(other))])
    async with seen(pictures, driver=cast) as (pool, picture):
        outcome = await (await pool.spawn(agent, "go")).wait()
        assert outcome.unwrap().text == "done"
        assert picture.children == {0: {1: None}, 1: {2: None, 3: None}}
        waits = [span for span in picture.spans if span.kind == "waiting" and span.agent == 1]
        assert waits
        assert {target for span in waits for target in span.blocked_on} == {2, 3}
        assert picture.rows[1].usage.total_tokens == outcome.usage.total_tokens


async def test_what_no_longer_fits_is_summed_up_by_a_call_that_counts(
    pictures: Pictures, autojump_clock: Any
) -> None:
    def answer(request: CompletionRequest) -> Completion:
        if not request.tools:
            return Completion("a summary of what was said so far", usage=USAGE)
        if len(driver.requests) > 12:
            return Completion("done", usage=USAGE)
        number = len(driver.requests)
        return Completion(
            "x" * 600, tool_calls=[ToolCall(f"c{number}", "look", {"seconds": number})], usage=USAGE
        )

    driver = ScriptedDriver(answer, context_window=1500)
    agent = AgentManifest(
        name="m", model=ModelSettings(max_tokens=100), resources=ResourceQuota(max_iterations=20)
    )
    async with seen(pictures, driver=driver) as (pool, picture):
        await (await pool.spawn(SpawnConfig(agent, "go", tools=[look]))).wait()
        assert picture.rows[1].model_calls == len(driver.requests)
        assert any("no longer fit" in note.text for note in picture.notes)


@pytest.mark.parametrize("when", [0.0, 0.05, 0.5, 1.5, 1.999])
async def test_an_agent_that_is_aborted_anywhere(
    when: float, pictures: Pictures, autojump_clock: Any
) -> None:
    cast = Cast(model=scripted(call("look", seconds=1), call("look", seconds=1), "done"))
    async with seen(pictures, driver=cast) as (pool, picture):
        handle = await pool.spawn(SpawnConfig(MODEL, "go", tools=[look]))
        await trio.sleep(when)
        handle.abort("enough")
        await handle.wait()
        row = picture.rows[1]
        assert (row.state, row.reason, row.kind, row.calls) == ("aborted", "enough", None, [])


@pytest.mark.parametrize("decision", [Approved(), Denied("no"), None])
async def test_a_person_is_asked(decision: Decision | None, pictures: Pictures, autojump_clock: Any) -> None:
    async def person(request: ApprovalRequest) -> Decision:
        if decision is None:
            await trio.sleep_forever()
        await trio.sleep(5)
        assert decision is not None
        return decision

    cast = Cast(model=scripted(call("look", seconds=1), "done"))
    asks = manifest("model", approval=ApprovalRules(ask=("look",)))
    async with seen(pictures, driver=cast, approver=person) as (pool, picture):
        handle = await pool.spawn(SpawnConfig(asks, "go", tools=[look]))
        await trio.sleep(2)
        assert (picture.rows[1].kind, picture.rows[1].detail) == ("approval", "look")
        if decision is None:
            handle.abort()
        await handle.wait()
        row = picture.rows[1]
        assert row.tool_calls == (1 if isinstance(decision, Approved) else 0)
        assert not row.asking
        assert ("approval", "look") in kinds(picture, 1)


async def test_lives_of_an_agent_that_is_restarted(pictures: Pictures, autojump_clock: Any) -> None:
    lives: Iterator[int] = iter(range(10))

    async def flaky(ctx: AgentContext) -> str:
        life = next(lives)
        await ctx.driver.complete(CompletionRequest(model="m", messages=()))
        await trio.sleep(2)
        if life < 2:
            raise ValueError("again")
        return "done"

    policy = RestartPolicy(max_restarts=5, within=1000, backoff=10)
    driver = ScriptedDriver([Completion("x", usage=USAGE)] * 3)
    async with seen(pictures, driver=driver) as (pool, picture):
        handle = await pool.spawn(flaky, restart=policy)
        await trio.sleep(5)
        picture.sample({}, (), trio.current_time())
        assert (picture.rows[1].state, picture.rows[1].kind) == ("restarting", "starting")
        await trio.sleep(8)
        picture.sample({}, (), trio.current_time())
        assert (picture.rows[1].state, picture.rows[1].kind) == ("running", "running")
        await handle.result()
        row = picture.rows[1]
        assert (row.restarts, row.model_calls, row.usage.total_tokens) == (2, 3, 45)


async def test_a_supervisor_and_servers_that_are_asked(pictures: Pictures, autojump_clock: Any) -> None:
    async def asker(ctx: AgentContext, to: int) -> Any:
        with trio.move_on_after(1):
            await ctx.ask(to, "slow")
        return await ctx.ask(to, "quick")

    async def answers(ctx: AgentContext) -> None:
        async for message in ctx.inbox:
            if message.content == "slow":
                await trio.sleep(2)
            ctx.reply(message, message.content)

    async with seen(pictures, max_concurrent=8) as (pool, picture):
        supervisor = Supervisor([ChildSpec(failing, (ValueError("x"), 1.0))], max_restarts=2, within=1000)
        await pool.spawn(supervisor)
        service = await pool.spawn(answers)
        askers = [await pool.spawn(asker, service.id) for _ in range(3)]
        for each in askers:
            await each.wait()
        await pool.spawn(forever)
        await pool.spawn(server)
        await trio.sleep(10)
        pool.abort_all("over")
        await pool.join_all()
        late = [arrow for arrow in picture.arrows if arrow.kind == "reply"]
        assert len(late) == 6
        assert sum(row.dead_letters for row in picture.rows.values()) == 3


async def test_a_thousand_agents_of_which_the_last_hundred_are_kept(autojump_clock: Any) -> None:
    picture, client = Picture(ended_kept=100, spans_kept=50, arrows_kept=20), Client()
    async with open_agent_pool(max_concurrent=20) as pool, pool.events(max_buffer=10**6) as events:

        async def parent(ctx: AgentContext, number: int) -> None:
            child = await ctx.spawn(sleeper, number % 3)
            await child.wait()

        outcomes = await pool.map(parent, range(500))
        assert len(outcomes) == 500
        while batch := events.next_batch_nowait():
            for event in batch:
                picture.take(event)
            client.ask(picture)
        assert (len(picture.rows), picture.forgotten) == (100, 900)
        assert set(client.agents) == set(picture.rows)
        assert set(picture.children) <= {0, *picture.rows}
        assert picture.ends["completed"] == pool.statistics().ended == 1000
        assert len(picture.spans) == 50


async def test_a_run_that_is_resumed_tells_of_those_that_go_on(tmp_path: Path, autojump_clock: Any) -> None:
    """What is not seen: agents that had ended before, and what they used."""

    def script() -> ScriptedDriver:
        return ScriptedDriver([Completion("done", usage=USAGE)] * 3)

    path = tmp_path / "run.db"
    with trio.CancelScope() as scope:
        async with open_agent_pool(script(), max_concurrent=4, journal=SqliteJournal(path)) as pool:
            await (await pool.spawn(SpawnConfig(MODEL, "first"))).result()
            await pool.spawn(resumed_agent)
            await trio.sleep(1)
            scope.cancel()
    picture = Picture()
    async with resume_agent_pool(SqliteJournal(path), script()) as pool:
        async with pool.events(max_buffer=10**6) as events:
            for agent in live_agents(pool):
                now = trio.current_time()
                picture.take(ev.AgentSpawned(0, now, agent.id, agent.parent_id, agent.name))
            for handle in pool.resumed:
                await handle.wait()
            for event in events.next_batch_nowait():
                picture.take(event)
            assert {row.name: row.state for row in picture.rows.values()} == {"resumed_agent": "completed"}
            used = pool.statistics().usage
            assert used.total_tokens == 2 * USAGE.total_tokens
            assert picture.usage.total_tokens == USAGE.total_tokens


async def resumed_agent(ctx: AgentContext) -> str:
    await trio.sleep(100)
    assert ctx.driver is not None
    return (await ctx.driver.complete(CompletionRequest(model="m", messages=()))).text


async def test_a_budget_that_is_used_up(pictures: Pictures, autojump_clock: Any) -> None:
    driver = ScriptedDriver([Completion("done", usage=USAGE)] * 9)
    async with seen(pictures, driver=driver, budget=Budget(calls=3)) as (pool, picture):
        handles = await pool.fan_out([SpawnConfig(MODEL, "go")] * 5)
        for handle in handles:
            await handle.wait()
        assert picture.ends == {"completed": 3, "failed": 2, "aborted": 0}
        assert any("warning" in note.text for note in picture.notes)
