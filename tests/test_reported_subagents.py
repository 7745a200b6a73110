"""What users of comparable systems reported of sub-agents, handoffs and skills, in its situation here.

Each test names the report. What went wrong there is looked at as a kind, varied where that makes sense.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from cast_kit import Cast, Turn, call, calls, last_result, manifest, scripted
from pool_kit import pool_of

from agentpool import (
    Aborted,
    AgentContext,
    AgentManifest,
    Budget,
    BudgetExceededError,
    Completed,
    Failed,
    LoopHaltedError,
    ManifestError,
    MessagingCapability,
    ModelAgent,
    PoolLimits,
    ResourceQuota,
    SpawnCapability,
    ToolCall,
    ToolMessage,
    as_tool,
    build_tools,
    handoff_to,
    tool,
)
from agentpool._core.skills import skill_head
from agentpool._core.transcript import checked_history
from agentpool.tools._team import STOP_SECONDS

LEAD = manifest("lead", SpawnCapability())
ALICE, BOB = manifest("Alice"), manifest("Bob", description="Speaks like a pirate.")
CODER = manifest("Code Writer")
HELPER = manifest("helper")


async def outcome_of(cast: Cast, agent: Any, query: str = "go", *, slots: int = 3, **options: Any) -> Any:
    async with pool_of(slots, driver=cast, **options) as pool:
        return await (await pool.spawn(agent, query)).wait()


def sleeping(turn: Turn) -> Any:
    async def think() -> str:
        await trio.sleep(float(turn.query))
        return f"after {turn.query}"

    return think()


def started(query: str, agent: str = "helper") -> tuple[ToolCall, ...]:
    return call("start_agent", agent=agent, query=query)


# -- handoffs ------------------------------------------------------------------------------------


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@pytest.mark.parametrize("first", [True, False])
async def test_a_tool_and_a_handoff_in_one_turn_both_have_their_results(first: bool) -> None:
    """langchain-ai/langgraph-swarm-py#26, #69, #83, livekit/agents#5150: results beside it were lost."""
    both = [("add", {"a": 3, "b": 4}), ("hand_off", {"agent": "Bob"})]
    cast = Cast(
        Alice=scripted(calls(*(both if first else both[::-1]))),
        Bob=lambda turn: "|".join(sorted(turn.results)),
    )
    result = (await outcome_of(cast, ModelAgent(ALICE, tools=[add, handoff_to(ModelAgent(BOB))]))).value
    assert (result.text, result.handed_over) == ("7|Handed over to Bob.", ("Bob",))
    checked_history(result.transcript)
    # It can be sent again, as the history of another run.
    again = Cast(Alice=lambda turn: f"{len(turn.results)} results")
    async with pool_of(1, driver=again) as pool:
        handle = await pool.spawn(ModelAgent(ALICE), "and now?", result.transcript)
        assert (await handle.result()).text == "2 results"


async def test_several_handoffs_in_one_turn_end_in_one_agent() -> None:
    """langchain-ai/langgraph-swarm-py#58, langchain-ai/langgraph#5277, openai/openai-agents-js#1122."""
    agents = [ModelAgent(manifest(f"Agent-{letter}")) for letter in "BCD"]
    cast = Cast(
        Alice=scripted(calls(*(("hand_off", {"agent": each.name}) for each in agents))),
        **{each.name: (lambda turn, each=each: each.name) for each in agents},
    )
    result = (await outcome_of(cast, ModelAgent(ALICE, tools=[handoff_to(*agents)]))).value
    assert (result.text, result.handed_over) == ("Agent-B", ("Agent-B",))
    errors = [message.result.is_error for message in result.transcript if isinstance(message, ToolMessage)]
    assert errors == [False, True, True]


async def test_a_handoff_that_cannot_begin_is_no_success() -> None:
    """google/adk-python#1206: the transfer was told as done, though the sub-agent failed to start."""
    broken = attrs.evolve(BOB, tools=["no_such_module:function"])
    cast = Cast(Alice=scripted(call("hand_off", agent="Bob"), "as if nothing had happened"))
    outcome = await outcome_of(cast, ModelAgent(ALICE, tools=[handoff_to(ModelAgent(broken))]))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ManifestError)


@pytest.mark.parametrize("name", ["bobby", "transfer_to_Bob", "root", ""])
async def test_a_name_that_a_model_made_up_is_an_error_that_names_the_others(name: str) -> None:
    """google/adk-python#3736: `ValueError: Agent not found in the agent tree` ended the run."""
    cast = Cast(Alice=scripted(call("hand_off", agent=name), last_result))
    result = (await outcome_of(cast, ModelAgent(ALICE, tools=[handoff_to(ModelAgent(BOB))]))).value
    assert result.text == f"there is no agent {name!r} to choose; there are: Bob"


async def test_an_agent_may_hand_back() -> None:
    """google/adk-python#3879 and #620: a sub-agent could not give control back to its root."""
    alice, bob = attrs.evolve(ALICE, handoffs=["Bob"]), attrs.evolve(BOB, handoffs=["Alice"])
    cast = Cast(
        Alice=lambda turn: call("hand_off", agent="Bob") if not turn.results else "back at the root",
        Bob=lambda turn: call("hand_off", agent="Alice"),
    )
    result = (await outcome_of(cast, ModelAgent(alice, agents=[alice, bob]))).value
    assert (result.text, result.handed_over) == ("back at the root", ("Bob", "Alice"))


async def test_who_was_spawned_and_hands_over_still_answers_its_parent() -> None:
    """oracle/wayflow#15: who asked one agent got the answer of a stranger, or none."""
    helper = attrs.evolve(HELPER, handoffs=["Bob"])
    cast = Cast(
        lead=scripted(call("spawn_agent", agent="helper", query="x"), last_result),
        helper=lambda turn: call("hand_off", agent="Bob"),
        Bob=lambda turn: "arr",
    )
    outcome = await outcome_of(cast, ModelAgent(LEAD, agents=[helper, BOB]))
    assert outcome.value.text == "arr"
    assert outcome.value.handed_over == ()


# -- delegation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["code writer", "Code Writer\n", '"Code Writer"', "Code_Writer", "CodeWriter"]
)
async def test_a_coworker_is_found_as_a_model_writes_its_name(name: str) -> None:
    """crewAIInc/crewAI#1399, #351 and #1823: `coworker mentioned not found`, though it was the one named."""
    cast = Cast(
        lead=scripted(call("spawn_agent", agent=name, query="x"), last_result),
        **{"Code Writer": lambda turn: "ok"},
    )
    assert (await outcome_of(cast, ModelAgent(LEAD, agents=[CODER, HELPER]))).value.text == "ok"


async def test_names_that_differ_in_little_are_not_mixed_up() -> None:
    """LibreChat-AI/agents#60: a name that is almost right must not reach somebody else."""
    agents = [manifest("a-b"), manifest("ab")]
    cast = Cast(
        lead=scripted(
            call("spawn_agent", agent="ab", query="x"), call("spawn_agent", agent="A B", query="x"),
            call("spawn_agent", agent="abab", query="x"), lambda turn: "|".join(turn.results),
        ),
        **{each.name: (lambda turn, each=each: each.name) for each in agents},
    )  # fmt: skip
    exact, unclear, twice = (await outcome_of(cast, ModelAgent(LEAD, agents=agents))).value.text.split("|")
    assert exact == "ab"
    assert unclear.startswith("there is no agent 'A B' to choose")
    assert twice.startswith("there is no agent 'abab' to choose")


async def test_agents_that_only_delegate_come_to_an_end() -> None:
    """crewAIInc/crewAI#330: with delegation allowed the crew never ended."""
    members = [manifest(name, SpawnCapability(99)) for name in ("lead", "helper")]
    cast = Cast(
        lead=scripted(call("spawn_agent", agent="helper", query="you do it"), last_result),
        helper=scripted(call("spawn_agent", agent="lead", query="no, you"), last_result),
    )
    limits = PoolLimits(depth=4, model_spawns=50)
    outcome = await outcome_of(cast, ModelAgent(members[0], agents=members), slots=1, limits=limits)
    assert outcome.value.text == "depth is at its maximum of 4" or "depth" in outcome.value.text
    assert len(cast.turns) == 10


async def test_the_limit_of_the_parent_holds_in_the_whole_tree() -> None:
    """pydantic/pydantic-ai-harness#588: the parent's limits did not reach its sub-agents."""
    cast = Cast(
        lead=scripted(started("0"), call("wait_agents"), last_result), helper=lambda turn: call("think")
    )
    outcome = await outcome_of(cast, ModelAgent(LEAD, agents=[HELPER]), budget=Budget(calls=5))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, BudgetExceededError)
    assert len(cast.turns) == 5


async def test_each_member_has_limits_of_its_own() -> None:
    """pydantic/pydantic-ai-harness#282: one member that runs on used up what all had."""
    helper = attrs.evolve(HELPER, resources=ResourceQuota(max_iterations=3))
    cast = Cast(
        lead=scripted(call("spawn_agent", agent="helper", query="x"), last_result),
        helper=lambda turn: call("think", about=turn.number),
    )
    outcome = await outcome_of(cast, ModelAgent(LEAD, agents=[helper]))
    assert "LoopHaltedError" in outcome.value.text
    assert len(cast.turns_of("helper")) == 3


# -- those that were started ---------------------------------------------------------------------


async def test_what_an_agent_started_does_not_outlive_it(autojump_clock: Any) -> None:
    """anthropics/claude-code#74133 and #73916: grandchildren went on when their parent had answered."""
    helper = attrs.evolve(HELPER, capabilities=[SpawnCapability()])
    members = [helper, BOB]
    cast = Cast(
        lead=scripted(call("spawn_agent", agent="helper", query="x"), last_result),
        helper=scripted(started("30", "Bob"), "I leave it to Bob", lambda turn: turn.said[-1]),
        Bob=sleeping,
    )
    lead = manifest("lead", SpawnCapability(2))
    async with pool_of(3, driver=cast) as pool:
        handle = await pool.spawn(ModelAgent(lead, agents=members), "go")
        said = (await handle.result()).text
        assert pool.active_count == 0
    assert "after 30" in said


async def test_stopping_an_agent_stops_those_below_it(autojump_clock: Any) -> None:
    """anthropics/claude-code#95138, multica-ai/multica#5918: they went on, and held the only slot."""
    helper = attrs.evolve(HELPER, capabilities=[SpawnCapability()])
    cast = Cast(
        lead=scripted(
            started("x"), call("wait_agents", timeout=5), call("stop_agent", agent=2),
            call("spawn_agent", agent="Bob", query="0"), lambda turn: turn.results[-1],
        ),
        helper=scripted(started("999", "Bob"), call("wait_agents")),
        Bob=sleeping,
    )  # fmt: skip
    begun = trio.current_time()
    lead = ModelAgent(manifest("lead", SpawnCapability(2)), agents=[helper, BOB])
    assert (await outcome_of(cast, lead, slots=2)).value.text == "after 0"
    assert trio.current_time() - begun < 10


async def test_stopping_does_not_wait_for_one_that_does_not_stop(autojump_clock: Any) -> None:
    """openai/codex#25426: `close_agent` never returned."""

    async def stubborn(turn: Turn) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        return "too late"

    def note_time(turn: Turn) -> str:
        times.append(trio.current_time() - begun)
        return "done"

    begun, times = trio.current_time(), list[float]()
    stops = scripted(
        started("x"), call("wait_agents", timeout=1), call("stop_agent", agent=2), note_time, "done"
    )
    cast = Cast(lead=stops, helper=stubborn)
    await outcome_of(cast, ModelAgent(LEAD, agents=[HELPER]))
    assert times[0] == 1 + STOP_SECONDS
    assert "It has not ended." in cast.turns_of("lead")[3].results[2]


async def test_a_wait_ends_in_time_whatever_the_others_do(autojump_clock: Any) -> None:
    """openai/codex#24951: a `timeout` of five minutes took seven hours."""
    cast = Cast(
        lead=scripted(*[started("9999")] * 4, call("wait_agents", timeout=300),
                      *[call("stop_agent", agent=number) for number in range(2, 6)], "ok"),
        helper=sleeping,
    )  # fmt: skip
    begun = trio.current_time()
    assert (await outcome_of(cast, ModelAgent(LEAD, agents=[HELPER]), slots=5)).value.text == "ok"
    assert trio.current_time() - begun == 300


async def test_agents_that_have_ended_count_for_no_limit_of_those_that_live(autojump_clock: Any) -> None:
    """openai/codex#23219 and #26822: closed agents used up the limit, so that no more could be started."""
    cast = Cast(
        lead=scripted(
            *[step for n in range(5) for step in (started("9"), call("stop_agent", agent=2 + n))], "ok"
        ),
        helper=sleeping,
    )
    outcome = await outcome_of(cast, ModelAgent(LEAD, agents=[HELPER]), slots=2, limits=PoolLimits(alive=2))
    assert outcome.value.text == "ok"
    assert cast.turns_of("lead")[-1].errors == [False] * 10


async def test_an_agent_that_died_at_once_is_told_of(autojump_clock: Any) -> None:
    """nimbalyst/nimbalyst#732: sub-agents were killed on launch, and the orchestrator waited for ever."""
    cast = Cast(
        lead=scripted(started("x"), call("wait_agents"), last_result), helper=lambda turn: OSError("killed")
    )
    said = (await outcome_of(cast, ModelAgent(LEAD, agents=[HELPER]))).value.text
    assert "failed: OSError: killed" in said


async def test_results_reach_a_parent_whose_turn_is_cut_off(autojump_clock: Any) -> None:
    """preset-io/agor#2169: sub-agents died with the turn of their parent, before they had reported."""

    @tool(timeout=2)
    async def slow() -> str:
        """Take too long."""
        await trio.sleep(100)
        return ""

    cast = Cast(
        lead=scripted(calls(("start_agent", {"agent": "helper", "query": "5"}), ("slow", {})),
                      call("wait_agents"), last_result),
        helper=sleeping,
    )  # fmt: skip
    said = (await outcome_of(cast, ModelAgent(LEAD, agents=[HELPER], tools=[slow]))).value.text
    assert "after 5" in said


async def test_an_inner_agents_answer_belongs_to_its_call(autojump_clock: Any) -> None:
    """The predecessor's own fault, and openai/openai-agents-python#224: another agent's answer came back."""
    agent = ModelAgent(LEAD, tools=[as_tool(ModelAgent(HELPER))])
    five = calls(*(("helper", {"query": str(seconds)}) for seconds in (5, 1, 3, 0, 2)))
    cast = Cast(lead=scripted(five, lambda turn: "|".join(turn.results)), helper=sleeping)
    said = (await outcome_of(cast, agent, slots=2)).value.text
    assert said == "after 5|after 1|after 3|after 0|after 2"


async def test_agents_that_send_each_other_everything_do_not_hang(autojump_clock: Any) -> None:
    """Full inboxes on both sides: one of the two is told, at once."""
    talking = (SpawnCapability(), MessagingCapability())
    flood = calls(*(("send_message", {"to": "lead", "content": "x" * 9}) for _ in range(9)))
    cast = Cast(
        lead=scripted(started("x"), calls(*[("message_agent", {"agent": 2, "content": "y"})] * 9),
                      call("wait_agents"), "done"),
        helper=scripted(flood, flood, "done"),
    )  # fmt: skip
    agent = ModelAgent(manifest("lead", *talking), agents=[manifest("helper", MessagingCapability())])
    begun = trio.current_time()
    outcome = await outcome_of(cast, agent, inbox_capacity=2)
    assert isinstance(outcome, Completed | Failed | Aborted)
    assert isinstance(outcome, Completed) or isinstance(outcome.error, LoopHaltedError)
    assert trio.current_time() == begun


# -- skills --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "told"),
    [
        # tanweai/pua#147
        ("Modes. Triggers on: '/pua:mama', '/pua mama'", "Modes. Triggers on: '/pua:mama', '/pua mama'"),
        # wix/skills#1384, nrjdalal/zerostarter#740
        ("Covers both ways: calling the API", "Covers both ways: calling the API"),
        # multica-ai/multica#3582
        ("|\n  Bigfish: skill.\n  More of it.", "Bigfish: skill. More of it."),
        # open-octo/octo-agent#1417
        (
            '\n  "review my plan". Pairs with\n  the skill: grill first',
            '"review my plan". Pairs with the skill: grill first',
        ),
        # catlog22/Claude-Code-Workflow#143
        (
            'Planning (Phase 1: plan, Phase 2: do). Triggers on "x".',
            'Planning (Phase 1: plan, Phase 2: do). Triggers on "x".',
        ),
    ],
)
def test_front_matter_that_yaml_refuses_is_read_as_it_is_meant(written: str, told: str) -> None:
    for ends in ("\n", "\r\n"):
        text = f"---\nname: x\ndescription: {written}\n---\n\nBody.\n".replace("\n", ends)
        assert skill_head(text).description == told


def test_a_skill_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    """open-octo/octo-agent#1417, finom/vovk#14: skills were dropped in silence."""
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "SKILL.md").write_text("---\nname: good\ndescription: d\n---\n")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "SKILL.md").write_text("---\nname: bad\n---\n")
    with pytest.raises(ManifestError, match=r"bad/SKILL.md: description: is missing"):
        build_tools(AgentManifest(name="m", skills=[str(tmp_path)]))


async def test_who_is_only_passed_through_keeps_nothing(autojump_clock: Any) -> None:
    """anthropics/claude-code#23154: an agent has the means to stop what it started, and nobody else's."""
    helper = attrs.evolve(HELPER, capabilities=[SpawnCapability()])

    async def outsider(ctx: AgentContext) -> str:
        await trio.sleep(50)
        return "untouched"

    cast = Cast(lead=scripted(call("stop_agent", agent="outsider"), last_result))
    async with pool_of(3, driver=cast) as pool:
        other = await pool.spawn(outsider, name="outsider")
        said = await (await pool.spawn(ModelAgent(LEAD, agents=[helper]), "go")).result()
        assert said.text == "you have started no agent 'outsider'; you have started: none"
        assert await other.result() == "untouched"
