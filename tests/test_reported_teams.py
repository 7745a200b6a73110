"""What users of comparable systems reported of teams and of the hooks around them, in its situation here.

Each test names the report. What went wrong there is looked at as a kind, varied where that makes sense.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from cast_kit import Cast, Turn, call, calls, last_result, manifest, scripted
from journal_kit import after_each_cut, in_virtual_time
from pool_kit import pool_of

from agentpool import (
    Aborted,
    AgentFinished,
    ApprovalRequest,
    ApprovalRules,
    Approved,
    Budget,
    BudgetExceededError,
    Completed,
    Denied,
    HookContext,
    Hooks,
    MemoryCapability,
    ModelAgent,
    PoolLimits,
    ResourceQuota,
    ShellCapability,
    SpawnCapability,
    ToolCall,
    ToolError,
    ToolResult,
    as_tool,
    handoff_to,
    tool,
)
from agentpool._core.transcript import checked_history

LEAD = manifest("lead", SpawnCapability(3))
HELPER = manifest("helper")
DONE: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    DONE.clear()


@tool(quick=True)
def wipe(what: str) -> str:
    """Wipe something."""
    DONE.append(what)
    return f"wiped {what}"


@tool
async def save_note(text: str) -> str:
    """Save a note."""
    await trio.sleep(0.5)
    return f"saved {text}"


class NoWiping(Hooks):
    """Lets nobody wipe anything."""

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
        if call.name == "wipe":
            raise ToolError(f"agent {ctx.name} wipes nothing")
        return call


async def outcome_of(cast: Cast, agent: Any, *, slots: int = 3, **options: Any) -> Any:
    async with pool_of(slots, driver=cast, **options) as pool:
        return await (await pool.spawn(agent, "go")).wait()


def started(*queries: str, agent: str = "helper") -> tuple[ToolCall, ...]:
    return calls(*(("start_agent", {"agent": agent, "query": query}) for query in queries))


def sleeping(turn: Turn) -> Any:
    async def think() -> str:
        await trio.sleep(float(turn.query))
        return f"after {turn.query}"

    return think()


# -- hooks around agents that others started -----------------------------------------------------


@pytest.mark.parametrize("way", ["spawn_agent", "start_agent", "as_tool", "hand_off", "grandchild"])
async def test_what_a_hook_forbids_is_forbidden_in_every_agent_below(way: str, autojump_clock: Any) -> None:
    """anthropics/claude-code#43772, #21460, #40580, #78970: a sub-agent did what a hook had forbidden."""
    wiping = [call("wipe", what="all"), last_result]
    child = ModelAgent(HELPER, tools=[wipe])
    steps: tuple[Any, ...]
    match way:
        case "spawn_agent" | "start_agent":
            agent = ModelAgent(LEAD, agents=[child])
            steps = (call(way, agent="helper", query="q"), "early", lambda turn: turn.said[-1])
            if way == "spawn_agent":
                steps = (steps[0], last_result)
        case "as_tool":
            agent, steps = ModelAgent(LEAD, tools=[as_tool(child)]), (call("helper", query="q"), last_result)
        case "hand_off":
            agent, steps = ModelAgent(LEAD, tools=[handoff_to(child)]), (call("hand_off", agent="helper"),)
        case _:
            middle = ModelAgent(manifest("middle", SpawnCapability()), agents=[child])
            agent = ModelAgent(LEAD, agents=[middle])
            steps = (call("spawn_agent", agent="middle", query="q"), last_result)
    cast = Cast(
        lead=scripted(*steps),
        helper=scripted(*([0] if way == "hand_off" else []), *wiping),
        middle=scripted(call("spawn_agent", agent="helper", query="q"), last_result),
    )
    outcome = await outcome_of(cast, agent, hooks=[NoWiping()])
    who = "lead" if way == "hand_off" else "helper"
    assert f"agent {who} wipes nothing" in outcome.unwrap().text
    assert DONE == []


async def test_hooks_of_an_agent_are_around_its_calls_where_it_is_a_tool() -> None:
    """google/adk-python#1783: callbacks of an agent were not called where another one had it as a tool."""
    child = ModelAgent(HELPER, tools=[wipe], hooks=[NoWiping()])
    cast = Cast(
        lead=scripted(call("helper", query="q"), last_result),
        helper=scripted(call("wipe", what="all"), last_result),
    )
    outcome = await outcome_of(cast, ModelAgent(LEAD, tools=[as_tool(child), wipe]))
    assert outcome.value.text == "agent helper wipes nothing"


@pytest.mark.parametrize("way", ["spawn_agent", "start_agent", "hand_off"])
async def test_a_hook_that_forbids_an_agent_has_none_started(way: str) -> None:
    """anthropics/claude-code#44534: the sub-agent was started all the same."""

    class NoHelper(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall | ToolResult:
            if call.input.get("agent") == "helper":
                return ToolResult("not that one", is_error=True)
            return call

    lead = attrs.evolve(LEAD, handoffs=["helper", "writer"])
    cast = Cast(
        lead=scripted(
            call(way, agent="helper", **_query(way)), call(way, agent="writer", **_query(way)), "ok"
        ),
        writer=lambda turn: "written",
    )
    agent = ModelAgent(lead, agents=[HELPER, manifest("writer")])
    async with pool_of(2, driver=cast, hooks=[NoHelper()], limits=PoolLimits(model_spawns=1)) as pool:
        outcome = await (await pool.spawn(agent, "go")).wait()
        assert isinstance(outcome, Completed)
        # What was refused does not count: the other one is started within the limit of one.
        assert pool.statistics().spawned == (1 if way == "hand_off" else 2)
    assert cast.turns_of("helper") == []
    assert len(cast.turns_of("writer")) == 1


def _query(way: str) -> dict[str, str]:
    return {} if way == "hand_off" else {"query": "q"}


async def test_a_hook_can_mend_the_name_of_a_tool_and_sees_that_there_is_none() -> None:
    """google/adk-python#4005: a wrong name was an error before anybody could look at it."""

    class Mending(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            return attrs.evolve(call, name="wipe") if call.name == "wipe_out" else call

        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            return ToolResult(f"seen: {result.text[:21]}", is_error=result.is_error)

    two = calls(("wipe_out", {"what": "x"}), ("burn", {"what": "y"}))
    cast = Cast(lead=scripted(two, lambda turn: "|".join(turn.results)))
    outcome = await outcome_of(cast, ModelAgent(LEAD, tools=[wipe], hooks=[Mending()]))
    assert outcome.value.text == "seen: wiped x|seen: there is no tool 'bur"
    assert DONE == ["x"]


# -- handoffs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("hand_off", "save_note"), ("save_note", "hand_off")])
async def test_a_handoff_is_done_though_a_call_beside_it_ends_later(order: Any, autojump_clock: Any) -> None:
    """livekit/agents#7320: what ended last decided, and the handoff was dropped without a word."""
    given: dict[str, dict[str, Any]] = {"hand_off": {"agent": "helper"}, "save_note": {"text": "n"}}
    cast = Cast(lead=scripted(calls(*((name, given[name]) for name in order))), helper=lambda turn: "here")
    outcome = await outcome_of(cast, ModelAgent(LEAD, tools=[handoff_to(ModelAgent(HELPER)), save_note]))
    assert (outcome.value.text, outcome.value.handed_over) == ("here", ("helper",))
    assert sorted(cast.turns_of("helper")[0].results) == ["Handed over to helper.", "saved n"]


async def test_who_goes_on_is_sent_a_result_of_each_call() -> None:
    """openai/openai-agents-js#42: the next agent saw the call that handed over, and no result of it."""
    cast = Cast(lead=scripted(call("hand_off", agent="helper")), helper=lambda turn: "here")
    outcome = await outcome_of(cast, ModelAgent(LEAD, tools=[handoff_to(ModelAgent(HELPER))]))
    checked_history(cast.turns_of("helper")[0].request.messages)
    checked_history(outcome.value.transcript)


def test_a_handoff_to_oneself_goes_on_wherever_it_is_cut_off() -> None:
    """strands-agents/harness-sdk#3391: after a crash it ran twice, or a handoff to itself was lost."""
    names = {"lead": ["lead", "helper"], "helper": ["lead", "helper"]}
    team = [attrs.evolve(each, handoffs=names[each.name]) for each in (LEAD, HELPER)]
    made = ["lead", "helper", "helper", "lead"]

    def cast() -> Cast:
        def next_one(turn: Turn) -> Any:
            return call("hand_off", agent=made[len(turn.results)]) if len(turn.results) < 4 else "done"

        return Cast(lead=next_one, helper=next_one)

    def same(outcome: Any) -> Any:
        return outcome.unwrap().handed_over, outcome.unwrap().text, outcome.unwrap().usage

    expected, _ = after_each_cut(ModelAgent(team[0], agents=team), "go", driver=cast, same=same)
    assert expected[:2] == (tuple(made), "done")


async def test_a_conversation_that_was_handed_over_is_the_history_of_the_next_run() -> None:
    """microsoft/autogen#5912: a state that ended with a handoff could not be loaded."""
    cast = Cast(
        lead=scripted(call("hand_off", agent="helper"), lambda turn: f"back with {len(turn.said)}"),
        helper=lambda turn: f"helper knows {len(turn.said)}",
    )
    agent = ModelAgent(LEAD, tools=[handoff_to(ModelAgent(HELPER))])
    async with pool_of(1, driver=cast) as pool:
        first = await (await pool.spawn(agent, "go")).result()
        for each, text in ((agent, "back with 3"), (ModelAgent(HELPER), "helper knows 3")):
            again = await (await pool.spawn(each, "and now?", first.transcript)).result()
            assert again.text == text


# -- agents that work meanwhile ---------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2, 30])
async def test_ends_that_come_all_at_once_are_all_heard(slots: int, autojump_clock: Any) -> None:
    """anthropics/claude-code#87675: of 19 ends that came while the parent worked, 4 were never told."""
    cast = Cast(
        lead=scripted(started(*["1"] * 19), call("busy"), "early", lambda turn: turn.said[-1]),
        helper=sleeping,
    )

    @tool
    async def busy() -> str:
        """Be busy while they end."""
        await trio.sleep(1)
        return "busy"

    outcome = await outcome_of(cast, ModelAgent(LEAD, agents=[HELPER], tools=[busy]), slots=slots)
    assert outcome.value.text.count("after 1\n") == 19


async def test_three_levels_start_wait_and_stop(autojump_clock: Any) -> None:
    """anthropics/claude-code#75043: below a sub-agent nobody heard of ends, and nobody could stop any."""
    middle = manifest("middle", SpawnCapability(2))
    low = manifest("low", SpawnCapability())
    cast = Cast(
        lead=scripted(started("q", agent="middle"), call("wait_agents"), last_result),
        middle=scripted(
            calls(*(("start_agent", {"agent": "low", "query": each, "name": each}) for each in ("1", "99"))),
            call("wait_agents", mode="any"),
            call("stop_agent", agent="99"),
            lambda turn: turn.results[-2] + turn.results[-1],
        ),
        low=scripted(lambda turn: started(turn.query), call("wait_agents"), last_result),
        helper=sleeping,
    )
    agent = ModelAgent(LEAD, agents=[middle, low, HELPER])
    aborted = 0
    async with pool_of(2, driver=cast) as pool, pool.events() as events:
        outcome = await (await pool.spawn(agent, "go")).wait()
        async for event in events:
            if isinstance(event, AgentFinished):
                aborted += isinstance(event.outcome, Aborted)
                if event.agent_id == 1:
                    break
    assert "after 1" in outcome.value.text
    assert "stopped by agent 2 (middle)" in outcome.value.text
    assert aborted == 2  # the one that was stopped, and what it had started


async def test_who_waits_for_its_own_agents_has_not_ended(autojump_clock: Any) -> None:
    """anthropics/claude-code#92952: an agent counted as completed while what it had started still ran."""
    middle = manifest("middle", SpawnCapability())
    cast = Cast(
        lead=scripted(
            started("q", agent="middle"), call("pause"), call("wait_agents", timeout=0), call("wait_agents"),
            lambda turn: "|".join(turn.results[2:]),
        ),
        middle=scripted(started("9"), "too early", lambda turn: turn.said[-1]),
        helper=sleeping,
    )  # fmt: skip

    @tool
    async def pause() -> str:
        """Pause."""
        await trio.sleep(3)
        return "paused"

    agent = ModelAgent(LEAD, agents=[middle, HELPER], tools=[pause])
    meanwhile, at_the_end = (await outcome_of(cast, agent)).value.text.split("|")
    assert "It has not ended." in meanwhile
    assert "too early" not in at_the_end
    assert "after 9" in at_the_end


async def test_an_agent_whose_wait_timed_out_is_not_forgotten(autojump_clock: Any) -> None:
    """openclaw/openclaw#4133: after a wait that timed out the parent was never told."""
    waits = [call("wait_agents", timeout=2), call("wait_agents", agents=[2], mode="any", timeout=1)]
    cast = Cast(lead=scripted(started("9"), *waits, "early", lambda turn: turn.said[-1]), helper=sleeping)
    outcome = await outcome_of(cast, ModelAgent(LEAD, agents=[HELPER]))
    assert "after 9" in outcome.value.text


# -- limits and grants -------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [2, 4, 8])
async def test_agents_side_by_side_do_not_pass_a_limit_that_they_share(wide: int) -> None:
    """pydantic/pydantic-ai-harness#696: of 5 requests that were allowed, 8 delegations made 9."""
    asked = [("spawn_agent", {"agent": "helper", "query": "q"})] * wide
    cast = Cast(lead=scripted(calls(*asked), lambda turn: f"{sum(turn.errors)}"), helper=lambda turn: "ok")
    budget = Budget(calls=5)
    outcome = await outcome_of(cast, ModelAgent(LEAD, agents=[HELPER]), slots=9, budget=budget)
    assert len(cast.turns) == budget.spent.calls <= 5
    if wide > 3:
        assert isinstance(outcome.error, BudgetExceededError)  # nothing is left for its answer
    else:
        assert outcome.value.text == "0"


async def test_a_limit_of_turns_is_that_of_each_agent() -> None:
    """openai/openai-agents-js#444: an agent as a tool had a limit of 10 turns, whatever it was given."""
    child = attrs.evolve(HELPER, resources=ResourceQuota(max_iterations=25, max_tool_calls=30))
    turns = scripted(*(call("wipe", what=f"{n}") for n in range(20)), "all wiped")
    cast = Cast(lead=scripted(call("helper", query="q"), last_result), helper=turns)
    lead = attrs.evolve(LEAD, resources=ResourceQuota(max_iterations=2))
    outcome = await outcome_of(cast, ModelAgent(lead, tools=[as_tool(ModelAgent(child, tools=[wipe]))]))
    assert (outcome.value.text, len(DONE)) == ("all wiped", 20)


@pytest.mark.parametrize("way", ["spawn_agent", "hand_off", "as_tool"])
async def test_an_agent_has_no_tool_through_another_one_that_it_has_not(way: str) -> None:
    """co-l/openfox#333, antiv/mate#101, anthropics/claude-code#4740: it had what its caller lacked."""
    able = manifest("helper", ShellCapability(["*"]), MemoryCapability(), SpawnCapability(9))
    lead = attrs.evolve(LEAD, handoffs=["helper"])
    agent = ModelAgent(lead, agents=[able])
    if way == "as_tool":
        agent = ModelAgent(LEAD, tools=[as_tool(ModelAgent(able))])
    name = "helper" if way == "as_tool" else way
    given = {"query": "q"} if way == "as_tool" else {"agent": "helper", **_query(way)}
    tries = calls(("run_shell", {"command": ["id"]}), ("remember", {"content": "x"}))
    cast = Cast(
        lead=scripted(call(name, **given), last_result),
        helper=scripted(*([0] if way == "hand_off" else []), tries, lambda turn: "|".join(turn.results[-2:])),
    )
    outcome = await outcome_of(cast, agent)
    assert {"run_shell", "remember"} & set(cast.turns_of("helper")[0].tools) == set()
    assert "there is no tool 'run_shell'" in outcome.value.text
    assert "there is no tool 'remember'" in outcome.value.text


def test_each_decision_is_that_of_its_own_call_in_agents_side_by_side() -> None:
    """langchain-ai/langgraph#2870, #4028: of two sub-agents that waited for a person, both got one answer."""
    cast = Cast(
        lead=scripted(
            calls(*(("spawn_agent", {"agent": "helper", "query": each}) for each in ("a", "b", "c"))),
            lambda turn: "|".join(turn.results),
        ),
        helper=scripted(lambda turn: call("wipe", what=turn.query), last_result),
    )
    child = attrs.evolve(HELPER, approval=ApprovalRules(ask=["wipe"]))
    waiting: list[trio.Event] = []

    async def decide(request: ApprovalRequest) -> Any:
        mine = trio.Event()
        waiting.append(mine)
        if len(waiting) == 3:
            for each in reversed(waiting):  # the last one that asked is answered first
                each.set()
        await mine.wait()
        return Denied("not that") if request.call.input["what"] == "b" else Approved()

    async def main() -> Any:
        agent = ModelAgent(LEAD, agents=[ModelAgent(child, tools=[wipe])])
        return await outcome_of(cast, agent, slots=1, approver=decide)

    first, second, third = in_virtual_time(main).value.text.split("|")
    assert (first, third) == ("wiped a", "wiped c")
    assert "not that" in second
    assert sorted(DONE) == ["a", "c"]
