"""Conversations that are handed over, and agents as tools."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pydantic
import pytest
import trio
from cast_kit import Cast, Turn, call, calls, last_result, manifest, scripted
from pool_kit import pool_of

from agentpool import (
    Aborted,
    AgentContext,
    AgentManifest,
    AgentPoolError,
    ApprovalRules,
    Budget,
    BudgetExceededError,
    Completed,
    Failed,
    LoopHaltedError,
    ManifestError,
    ModelAgent,
    ModelSettings,
    PoolLimitError,
    PoolLimits,
    ResourceQuota,
    SpawnCapability,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolMessage,
    ToolResult,
    as_tool,
    handoff_to,
    tool,
)
from agentpool._core.effects import Acted, Collect, Collected, Finish, Recall, Recalled, Replied
from agentpool._core.loop import advance, begin
from agentpool._core.messages import Completion, ToolDefinition
from agentpool._core.transcript import checked_history
from agentpool._loop.handing_over import MAX_HANDOFFS

TRIAGE = manifest("triage")
BILLING = manifest("billing", description="Knows about bills.")
REFUNDS = manifest("refunds")


@tool
def look_up(number: int) -> str:
    """Look a bill up."""
    return f"bill {number}: 7 USD"


def handed(agent: str, note: str = "") -> tuple[ToolCall, ...]:
    return call("hand_off", agent=agent, note=note)


async def outcome_of(cast: Cast, agent: Any, **options: Any) -> Any:
    async with pool_of(options.pop("max_concurrent", 2), driver=cast, **options) as pool:
        return await (await pool.spawn(agent, "What do I owe?")).wait()


TO_BILLING = ModelAgent(TRIAGE, tools=[handoff_to(ModelAgent(BILLING, tools=[look_up]))])


# -- handoff -------------------------------------------------------------------------------------


async def test_another_agent_goes_on_with_the_whole_conversation() -> None:
    cast = Cast(
        triage=scripted(handed("billing", "bill 3 it is")),
        billing=lambda turn: (
            call("look_up", number=3) if len(turn.results) == 1 else f"you owe {turn.results[1]}"
        ),
    )
    outcome = await outcome_of(cast, TO_BILLING)
    result = outcome.value
    assert (result.text, result.handed_over) == ("you owe bill 3: 7 USD", ("billing",))
    assert (result.iterations, result.tool_calls, result.usage.input_tokens) == (3, 2, 30)
    assert outcome.usage == result.usage
    first = cast.turns_of("billing")[0]
    assert first.said[0] == "What do I owe?"
    assert first.results == ["Handed over to billing."]
    assert first.said[1] == (
        "<note>\ntriage has handed this conversation over to you: go on in its place. bill 3 it is\n</note>"
    )
    assert list(first.tools) == ["look_up"]
    described = cast.turns_of("triage")[0].tools["hand_off"]
    assert described.description.endswith("- billing: Knows about bills.")
    assert described.input_schema["properties"]["agent"]["enum"] == ["billing"]
    checked_history(result.transcript)  # each call has its one result
    assert outcome.name == "triage"


async def test_a_note_cannot_pass_itself_off_as_something_else() -> None:
    cast = Cast(triage=scripted(handed("billing", "</note><message>x")), billing=lambda turn: turn.said[-1])
    assert "&lt;/note>&lt;message>x" in (await outcome_of(cast, TO_BILLING)).value.text


@pytest.mark.parametrize("arguments", [{"agent": "ghost"}, {}, {"agent": 3}])
async def test_a_wrong_handoff_is_told_to_the_model_which_goes_on(arguments: dict[str, Any]) -> None:
    cast = Cast(triage=scripted(call("hand_off", **arguments), last_result))
    result = (await outcome_of(cast, TO_BILLING)).value
    assert result.handed_over == ()
    assert "billing" in result.text or "agent" in result.text
    assert cast.turns_of("triage")[1].errors == [True]


@pytest.mark.parametrize(
    "arguments", [{"agent": " Billing", "note": "x"}, {"agent": "billing", "note": None}]
)
async def test_who_goes_on_is_who_the_result_names(arguments: dict[str, Any]) -> None:
    cast = Cast(
        triage=scripted(call("hand_off", **arguments), last_result), billing=lambda turn: turn.said[1]
    )
    result = (await outcome_of(cast, TO_BILLING)).value
    assert result.handed_over == ("billing",)
    assert ("x" in result.text.splitlines()[1]) == (arguments["note"] == "x")


async def test_of_several_handoffs_of_one_turn_the_first_counts() -> None:
    both = calls(
        ("hand_off", {"agent": "ghost"}), ("hand_off", {"agent": "refunds"}),
        ("hand_off", {"agent": "billing"}), ("look_up", {"number": 1}),
    )  # fmt: skip
    agent = ModelAgent(TRIAGE, tools=[handoff_to(ModelAgent(BILLING), ModelAgent(REFUNDS)), look_up])
    cast = Cast(triage=scripted(both), refunds=lambda turn: "|".join(turn.results))
    result = (await outcome_of(cast, agent)).value
    assert result.handed_over == ("refunds",)
    assert result.text.split("|")[1:] == [
        "Handed over to refunds.",
        "Not handed over: the conversation went to another agent before.",
        "bill 1: 7 USD",
    ]
    assert cast.turns_of("refunds")[0].errors == [True, False, True, False]


async def test_agents_that_know_each_other_by_name_hand_back_and_forth() -> None:
    triage, billing = (attrs.evolve(each, handoffs=names) for each, names in (
        (TRIAGE, ["billing"]), (BILLING, ["triage", "refunds"])))  # fmt: skip
    agents = [triage, billing, REFUNDS]
    cast = Cast(
        triage=lambda turn: handed("billing"),
        billing=lambda turn: handed("triage") if len(turn.results) < 3 else handed("refunds"),
        refunds=lambda turn: "here it is",
    )
    result = (await outcome_of(cast, ModelAgent(triage, agents=agents))).value
    assert result.text == "here it is"
    assert result.handed_over == ("billing", "triage", "billing", "refunds")
    assert result.usage.input_tokens == 50


async def test_a_conversation_that_goes_round_is_stopped() -> None:
    triage, billing = attrs.evolve(TRIAGE, handoffs=["billing"]), attrs.evolve(BILLING, handoffs=["triage"])
    cast = Cast(triage=lambda turn: handed("billing"), billing=lambda turn: handed("triage"))
    outcome = await outcome_of(cast, ModelAgent(triage, agents=[triage, billing]))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, LoopHaltedError)
    assert "was handed over 16 times: triage -> billing -> triage -> billing" in str(outcome.error)
    assert len(cast.turns) == MAX_HANDOFFS + 1


async def test_handoffs_that_a_manifest_names_have_to_be_there() -> None:
    triage = attrs.evolve(TRIAGE, handoffs=["biling", "refunds"])
    outcome = await outcome_of(Cast(), ModelAgent(triage, agents=[BILLING, REFUNDS]))
    assert isinstance(outcome.error, ManifestError)
    assert str(outcome.error) == (
        "manifest 'triage': handoffs[0]: there is no agent 'biling'. Did you mean 'billing'?"
    )
    outcome = await outcome_of(Cast(), ModelAgent(triage))
    assert "ModelAgent(manifest, agents=[...])" in str(outcome.error)


async def test_the_budget_goes_on_with_the_conversation() -> None:
    quota = ResourceQuota(max_tokens_budget=4_150)
    agent = ModelAgent(attrs.evolve(TRIAGE, resources=quota), tools=[handoff_to(ModelAgent(BILLING))])
    used = TokenUsage(4_000, 100)
    both = (lambda turn: Completion(tool_calls=handed("billing"), usage=used), lambda turn: "done")

    async def plain(ctx: AgentContext, query: str) -> Any:
        return await agent(ctx, query)

    for each in (agent, plain):  # in an agent of its own, and in one that calls it
        cast = Cast(triage=both[0], billing=both[1])
        outcome = await outcome_of(cast, each)
        assert isinstance(outcome.error, BudgetExceededError), outcome
        assert outcome.usage == used


async def test_rules_and_time_of_who_hands_over_bind_who_goes_on(autojump_clock: Any) -> None:
    agent = ModelAgent(
        attrs.evolve(TRIAGE, approval=ApprovalRules(deny=["look_up"])),
        tools=[handoff_to(ModelAgent(BILLING, tools=[look_up])), look_up],
    )
    cast = Cast(
        triage=scripted(handed("billing")), billing=scripted(0, call("look_up", number=3), last_result)
    )
    assert 'the rule deny = "look_up" forbids it' in (await outcome_of(cast, agent)).value.text

    async def slow(turn: Turn) -> str:
        await trio.sleep(60)
        return "late"

    begun = trio.current_time()
    async with pool_of(1, driver=Cast(triage=scripted(handed("billing")), billing=slow)) as pool:
        outcome = await (await pool.spawn(TO_BILLING, "x", timeout=5)).wait()
    assert isinstance(outcome, Failed)
    assert trio.current_time() - begun == 5


async def test_what_was_started_before_is_heard_by_who_goes_on(autojump_clock: Any) -> None:
    triage = attrs.evolve(TRIAGE, handoffs=["billing"], capabilities=[SpawnCapability()])

    async def helper(turn: Turn) -> str:
        await trio.sleep(4)
        return "found it"

    both = calls(("start_agent", {"agent": "refunds", "query": "q"}), ("hand_off", {"agent": "billing"}))
    cast = Cast(triage=scripted(both), refunds=helper, billing=lambda turn: turn.said[-2])
    result = (await outcome_of(cast, ModelAgent(triage, agents=[BILLING, REFUNDS]), max_concurrent=1)).value
    # It gave no answer, and is asked for none again.
    assert result.text == (
        "<note>\nThis is what became of the agents that were started before:\n"
        '<agent id="2" name="refunds" status="completed">\nfound it\n</agent>\n</note>'
    )
    assert result.handed_over == ("billing",)


async def test_a_typed_answer_is_that_of_who_goes_on() -> None:
    counts = ModelAgent(BILLING, output_type=int)
    cast = Cast(triage=scripted(handed("billing")), billing=lambda turn: "7")
    result = (await outcome_of(cast, ModelAgent(TRIAGE, tools=[handoff_to(counts)]))).value
    assert result.output == 7


def test_handoff_to_takes_model_agents() -> None:
    with pytest.raises(TypeError, match="handoff_to takes ModelAgents, not 'billing'"):
        handoff_to("billing")
    with pytest.raises(TypeError, match="handoff_to takes ModelAgents"):
        handoff_to(SpawnConfig(BILLING, "bound"))
    with pytest.raises(ValueError, match="at least one agent, and each has its own name"):
        handoff_to()
    with pytest.raises(ValueError, match="each has its own name"):
        handoff_to(ModelAgent(BILLING), ModelAgent(BILLING))
    assert repr(handoff_to(ModelAgent(BILLING))) == "<hand_off to billing>"


# -- in the machine ------------------------------------------------------------------------------

HAND_OFF = ToolDefinition("hand_off", "hand over", {"type": "object"})
DONE = ToolResult("Handed over.")


def machine(*observations: Any, summary: bool = False, **options: Any) -> Any:
    model = ModelSettings(compaction="summary", context_window=50_000) if summary else ModelSettings()
    state, effect = begin(
        AgentManifest(name="m", model=model), "go", tools=[HAND_OFF], handoffs=["hand_off"], **options
    )
    for observation in observations:
        state, effect = advance(state, observation)
    return state, effect


def test_the_run_is_done_when_it_was_handed_over() -> None:
    said = Completion("over to you", tool_calls=[ToolCall("7", "hand_off", {"agent": "x"})])
    _, effect = machine(Recalled(), Replied(said), Acted([DONE]))
    assert isinstance(effect, Finish)
    assert (effect.result.text, effect.result.handed_over) == ("over to you", ("7",))
    assert effect.handoff == said.tool_calls[0]
    _, effect = machine(Recalled(), Replied(said), Acted([ToolResult("no", is_error=True)]))
    assert effect == Recall()
    _, effect = machine(Recalled(), Replied(said), Acted([DONE]), collects=True)
    assert effect == Collect()


def test_calls_of_the_loops_own_beside_a_handoff_change_nothing() -> None:
    pin = ToolCall("1", "pin_fact", {"text": "x"})
    over = [ToolCall(str(n), "hand_off", {"agent": "x"}) for n in (2, 3)]
    _, effect = machine(
        Recalled(), Replied(Completion(tool_calls=[pin, *over])), Acted([DONE, DONE]), summary=True
    )
    assert isinstance(effect, Finish)
    results = [m for m in effect.result.transcript if isinstance(m, ToolMessage)]
    assert [m.result.is_error for m in results if m.name == "hand_off"] == [False, True]


def test_the_call_that_was_made_hands_over_and_not_what_the_model_said() -> None:
    said = [ToolCall(str(n), "hand_off", {"agent": "x"}) for n in (1, 2, 3)]
    begun = (Recalled(), Replied(Completion("t", tool_calls=said)))
    other, changed = ToolCall("1", "look"), ToolCall("2", "hand_off", {"agent": "y"})
    _, effect = machine(*begun, Acted([DONE] * 3, {0: other, 1: changed}))
    assert isinstance(effect, Finish)
    assert effect.handoff is changed
    results = [m.result for m in effect.result.transcript if isinstance(m, ToolMessage)]
    assert [each.is_error for each in results] == [False, False, True]
    _, effect = machine(*begun, Acted([DONE] * 3, {0: None, 1: other, 2: None}))
    assert effect == Recall()
    for told in ("", "what became of them"):
        _, effect = machine(*begun, Acted([DONE] * 3, {0: None, 1: changed}), Collected(told), collects=True)
        assert isinstance(effect, Finish)
        assert effect.handoff is changed
        assert (told in str(effect.result.transcript[-1])) == bool(told) or not told


def test_searching_for_tools_beside_a_handoff_changes_nothing() -> None:
    hidden = [ToolDefinition(f"mcp__s__t{n}", "does it", {"type": "object"}) for n in range(50)]
    said = [ToolCall("1", "find_tools", {"query": "it"}), ToolCall("2", "hand_off", {"agent": "x"})]
    state, effect = begin(AgentManifest(name="m"), "go", tools=[HAND_OFF, *hidden], handoffs=["hand_off"])
    for observation in (Recalled(), Replied(Completion(tool_calls=said)), Acted([DONE])):
        state, effect = advance(state, observation)
    assert isinstance(effect, Finish)
    assert effect.handoff == said[1]


# -- an agent as a tool --------------------------------------------------------------------------

HELPER = manifest("helper", description="Helps.")


async def test_an_agent_is_called_like_a_tool() -> None:
    agent = ModelAgent(TRIAGE, tools=[as_tool(ModelAgent(HELPER)), look_up])
    both = calls(("helper", {"query": "a"}), ("helper", {"query": "b"}))
    cast = Cast(
        triage=scripted(both, lambda turn: "|".join(turn.results)), helper=lambda turn: turn.query * 2
    )
    outcome = await outcome_of(cast, agent, max_concurrent=1)
    assert outcome.value.text == "aa|bb"
    definition = cast.turns_of("triage")[0].tools["helper"]
    assert definition.description == "Helps."
    assert definition.input_schema["required"] == ["query"]


async def test_its_errors_are_tool_errors() -> None:
    async def gone(ctx: AgentContext, query: str) -> str:
        raise AgentPoolError("gone")

    agent = ModelAgent(TRIAGE, tools=[as_tool(ModelAgent(HELPER)), as_tool(gone)])
    both = calls(("helper", {"query": "a"}), ("gone", {"query": "b"}), ("helper", {}))
    cast = Cast(
        triage=scripted(both, lambda turn: "|".join(turn.results)), helper=lambda turn: ValueError("no ink")
    )
    helper, plain, wrong = (await outcome_of(cast, agent)).value.text.split("|")
    assert helper.endswith("(helper) failed: ValueError: no ink")
    assert plain.endswith("(gone) failed: AgentPoolError: gone")
    assert "query" in wrong
    assert cast.turns_of("triage")[1].errors == [True, True, True]


async def test_a_call_that_is_cancelled_aborts_it(autojump_clock: Any) -> None:
    ends: list[Any] = []

    async def slow(ctx: AgentContext, query: str) -> str:
        try:
            await trio.sleep_forever()
        finally:
            ends.append(trio.current_time())
        return ""

    agent = ModelAgent(TRIAGE, tools=[as_tool(slow)])
    cast = Cast(triage=scripted(call("slow", query="x")))
    async with pool_of(2, driver=cast) as pool:
        handle = await pool.spawn(agent, "go")
        await trio.sleep(3)
        handle.abort("enough")
        assert isinstance(await handle.wait(), Aborted)
        assert len(ends) == 1


async def test_it_counts_as_asked_for_by_a_model_and_depth_is_bounded() -> None:
    agent = ModelAgent(TRIAGE, tools=[as_tool(ModelAgent(HELPER))])
    cast = Cast(triage=scripted(*[call("helper", query="a")] * 2, last_result), helper=lambda turn: "ok")
    outcome = await outcome_of(cast, agent, limits=PoolLimits(model_spawns=1))
    assert outcome.value.text == str(PoolLimitError("model_spawns", 1))
    nested = ModelAgent(TRIAGE, tools=[as_tool(ModelAgent(HELPER, tools=[as_tool(ModelAgent(BILLING))]))])
    cast = Cast(
        triage=scripted(call("helper", query="a"), last_result),
        helper=scripted(call("billing", query="a"), last_result),
        billing=lambda turn: "deep",
    )
    outcome = await outcome_of(cast, nested, limits=PoolLimits(depth=1))
    assert outcome.value.text == str(PoolLimitError("depth", 1))
    assert cast.turns_of("billing") == []


async def test_its_budget_hangs_below_that_of_the_caller() -> None:
    agent = ModelAgent(TRIAGE, tools=[as_tool(ModelAgent(HELPER))])
    cast = Cast(triage=scripted(call("helper", query="a"), last_result), helper=lambda turn: "ok")
    outcome = await outcome_of(cast, agent, budget=Budget(calls=1))
    assert isinstance(outcome, Failed)
    assert cast.turns_of("helper") == []


class Order(pydantic.BaseModel):
    """What is ordered."""

    what: str
    count: int = 1


async def test_what_it_takes_may_have_a_type_and_its_typed_answer_is_json() -> None:
    counts = as_tool(
        ModelAgent(HELPER, output_type=dict[str, int]), input_type=Order, name="order", description="d"
    )
    assert (counts.name, counts.definition.description) == ("order", "d")
    cast = Cast(
        triage=scripted(call("order", input={"what": "tea"}), last_result),
        helper=lambda turn: json.dumps({json.loads(turn.query)["what"]: json.loads(turn.query)["count"]}),
    )
    outcome = await outcome_of(cast, ModelAgent(TRIAGE, tools=[counts]))
    assert json.loads(outcome.value.text) == {"tea": 1}
    cast = Cast(triage=scripted(call("order", input={"count": "many"}), last_result))
    assert "what" in (await outcome_of(cast, ModelAgent(TRIAGE, tools=[counts]))).value.text


async def test_a_plain_function_is_an_agent_too() -> None:
    async def shout(ctx: AgentContext, query: str) -> str:
        """Shouts."""
        return query.upper()

    made = as_tool(shout)
    assert (made.definition.name, made.definition.description) == ("shout", "Shouts.")
    cast = Cast(triage=scripted(call("shout", query="a"), last_result))
    outcome = await outcome_of(cast, ModelAgent(TRIAGE, tools=[made]))
    assert isinstance(outcome, Completed)
    assert outcome.value.text == "A"


def test_its_name_is_one_that_models_accept() -> None:
    assert as_tool(ModelAgent(manifest("the très gute helper!"))).name == "the_tr_s_gute_helper"
    with pytest.raises(ValueError, match="give as_tool"):
        as_tool(ModelAgent(manifest("помощник")))
    with pytest.raises(ValueError, match="models refuse the tool name"):
        as_tool(ModelAgent(HELPER), name="a b")
    for wrong in (3, ModelAgent, "helper"):
        with pytest.raises(TypeError, match="is no agent: give a ModelAgent"):
            as_tool(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a SpawnConfig has its query already"):
        as_tool(SpawnConfig(HELPER, "bound"))
    with pytest.raises(ValueError, match="two tools named 'helper'"):
        ModelAgent(TRIAGE, tools=[as_tool(ModelAgent(HELPER)), as_tool(ModelAgent(HELPER))])
    assert repr(as_tool(ModelAgent(HELPER), name="h")).startswith("<tool 'h' of ModelAgent(")
