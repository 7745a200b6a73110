"""Calls that hooks change: what was made counts, wherever more depends on it than its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from cast_kit import Cast, Turn, call, calls, last_result, manifest, scripted
from journal_kit import in_virtual_time, is_begun, resumed, run
from pool_kit import pool_of

from agentpool import (
    AgentFinished,
    CallTool,
    HookContext,
    Hooks,
    ModelAgent,
    SpawnCapability,
    ToolCall,
    ToolFinished,
    ToolResult,
    ToolStarted,
    handoff_to,
    tool,
)
from agentpool._core.tapes import loops_of
from agentpool._loop.replaying import replay

TRIAGE = manifest("triage")
BILLING = manifest("billing")
REFUNDS = manifest("refunds")

DONE: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    DONE.clear()


@tool(idempotent=True)
async def look_up(number: int = 0) -> str:
    """Look a bill up."""
    DONE.append(f"look up {number}")
    await trio.sleep(1)
    return f"bill {number}"


AGENT = ModelAgent(TRIAGE, tools=[handoff_to(ModelAgent(BILLING), ModelAgent(REFUNDS)), look_up])


@attrs.frozen
class Changed(Hooks):
    """Makes another call of each that a model makes."""

    name: str = "hand_off"
    input: dict[str, Any] = attrs.field(factory=dict)

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
        return attrs.evolve(call, name=self.name, input=self.input)


class Plain(Hooks):
    """Changes nothing."""


class Around(Hooks):
    """Makes some calls for one."""

    def __init__(self, *made: tuple[str, dict[str, Any]], keeps: int = -1) -> None:
        self.made = made
        self.keeps = keeps

    async def around_tool_call(self, ctx: HookContext, call: ToolCall, proceed: CallTool) -> ToolResult:
        results = [
            await proceed(attrs.evolve(call, name=name, input=arguments)) for name, arguments in self.made
        ]
        return results[self.keeps] if results else ToolResult("Handed over to nobody.")


def cast(*steps: Any) -> Cast:
    return Cast(
        triage=scripted(*(steps or (call("hand_off", agent="billing", note="said"), last_result))),
        billing=lambda turn: f"billing: {turn.said[1]}",
        refunds=lambda turn: f"refunds: {turn.said[1]}",
    )


async def result_of(hook: Hooks, *steps: Any, agent: Any = AGENT, **options: Any) -> Any:
    async with pool_of(2, driver=cast(*steps), hooks=[hook], **options) as pool:
        return (await (await pool.spawn(agent, "go")).wait()).unwrap()


# -- a conversation that is handed over ------------------------------------------------------------


async def test_the_conversation_goes_to_the_agent_that_was_called_for() -> None:
    result = await result_of(Changed(input={"agent": "refunds", "note": "changed"}))
    assert result.handed_over == ("refunds",)
    assert result.text.startswith("refunds: ")
    assert "changed" in result.text
    assert "said" not in result.text
    # The model's own words stay as they were, beside the result of what was made of them.
    assert result.transcript[1].tool_calls[0].input == {"agent": "billing", "note": "said"}
    assert result.transcript[2].result.text == "Handed over to refunds."


async def test_a_call_that_was_made_another_one_hands_nothing_over() -> None:
    result = await result_of(Changed("look_up", {"number": 3}))
    assert (result.handed_over, result.text) == ((), "bill 3")


async def test_a_call_that_was_made_a_handoff_hands_over() -> None:
    steps = (call("look_up", number=3), last_result)
    result = await result_of(Changed(input={"agent": "refunds"}), *steps)
    assert result.handed_over == ("refunds",)
    assert DONE == []


async def test_a_hook_that_answers_in_the_tools_place_hands_nothing_over() -> None:
    class Instead(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolResult:
            return ToolResult("Handed over to billing.")

    for hook in (Instead(), Around()):
        result = await result_of(hook)
        assert result.handed_over == ()
        assert result.text.startswith("Handed over to ")


@pytest.mark.parametrize(
    ("made", "keeps", "to"),
    [
        # Of several calls the last one counts that the tool took.
        ([("hand_off", {"agent": "billing"}), ("hand_off", {"agent": "refunds"})], -1, ("refunds",)),
        ([("hand_off", {"agent": "refunds"}), ("hand_off", {"agent": "ghost"})], 0, ("refunds",)),
        ([("hand_off", {"agent": "ghost"}), ("hand_off", {"agent": "refunds"})], -1, ("refunds",)),
        ([("hand_off", {"agent": "billing"}), ("look_up", {"number": 1})], -1, ()),
        # What the model is told decides whether it was handed over at all.
        ([("hand_off", {"agent": "refunds"}), ("hand_off", {"agent": "ghost"})], -1, ()),
    ],
)
async def test_of_several_calls_for_one_the_last_good_one_counts(made: Any, keeps: int, to: Any) -> None:
    assert (await result_of(Around(*made, keeps=keeps))).handed_over == to


async def test_a_changed_handoff_that_a_hook_makes_an_error_of_is_none() -> None:
    class Refused(Changed):
        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            return ToolResult("not now", is_error=True)

    result = await result_of(Refused(input={"agent": "refunds"}))
    assert (result.handed_over, result.text) == ((), "not now")


class Soothing(Hooks):
    """Tells the model of errors as of answers."""

    async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
        return ToolResult(f"sorry: {result.text}")


@pytest.mark.parametrize("arguments", [{"agent": "ghost"}, {"to": "billing"}])
async def test_a_handoff_that_came_to_an_error_is_none_whatever_a_hook_makes_of_it(arguments: Any) -> None:
    result = await result_of(Soothing(), call("hand_off", **arguments), last_result)
    assert result.handed_over == ()
    assert result.text.startswith("sorry: ")


async def test_of_several_changed_handoffs_of_a_turn_the_first_counts() -> None:
    class Swapped(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            other = {"billing": "refunds", "refunds": "billing"}[call.input["agent"]]
            return attrs.evolve(call, input={"agent": other})

    both = calls(("hand_off", {"agent": "billing"}), ("hand_off", {"agent": "refunds"}))
    result = await result_of(Swapped(), both)
    assert result.handed_over == ("refunds",)
    assert [m.result.is_error for m in result.transcript[2:4]] == [False, True]


# -- a run that is resumed -------------------------------------------------------------------------


def wherever_it_is_cut_off(make: Callable[[], Cast], agent: Any, hook: Hooks) -> tuple[Any, list[Any]]:
    """Cut a run off after each of its records; it comes to the same, also when no hook is there any more."""
    whole, records = run(agent, "go", driver=make(), hooks=[hook])
    expected = whole.unwrap()
    for end in range(1, len(records.kept) + 1):
        kept = records.kept[:end]
        if not is_begun(kept):
            continue
        again, _ = resumed(kept, driver=make(), hooks=[hook])
        assert (again.unwrap().text, again.unwrap().handed_over) == (expected.text, expected.handed_over), end
        if kept[-1].kind == "returned":
            again, _ = resumed(kept, driver=make())
            assert again.unwrap().handed_over == expected.handed_over, end
    return expected, records.kept


def test_a_changed_handoff_outlives_a_crash() -> None:
    hook = Changed(input={"agent": "refunds", "note": "changed"})
    result, records = wherever_it_is_cut_off(cast, AGENT, hook)
    assert result.handed_over == ("refunds",)
    made = [record.data["made"] for record in records if "made" in record.data]
    assert [each[0]["$object"][1]["input"]["agent"] for each in made] == ["refunds", "refunds"]


def test_a_handoff_that_was_made_another_call_outlives_a_crash() -> None:
    result, records = wherever_it_is_cut_off(cast, AGENT, Changed("look_up", {"number": 3}))
    assert (result.handed_over, result.text) == ((), "bill 3")
    # What a hook puts into arguments may be a secret of its own: the journal has no use for it.
    made = [record.data["made"] for record in records if "made" in record.data]
    assert [each[0]["$object"][1]["input"] for each in made] == [{}, {}]


def test_an_answer_in_the_tools_place_outlives_a_crash() -> None:
    result, records = wherever_it_is_cut_off(cast, AGENT, Around())
    assert result.handed_over == ()
    assert [record.data["made"] for record in records if "made" in record.data] == [[]]


def test_a_handoff_that_a_hook_made_no_error_of_outlives_a_crash() -> None:
    def ghost() -> Cast:
        return cast(call("hand_off", agent="ghost"), last_result)

    result, _ = wherever_it_is_cut_off(ghost, AGENT, Soothing())
    assert result.handed_over == ()
    assert result.text.startswith("sorry: there is no agent 'ghost'")


def test_the_tape_of_a_changed_handoff_is_fed_through_the_loop_again() -> None:
    for hook, to in (
        (Changed(input={"agent": "refunds"}), "refunds"),
        (Around(), None),
        (Plain(), "billing"),
    ):
        _, records = run(AGENT, "go", driver=cast(), hooks=[hook])
        (first, *_) = loops_of(records.kept, 1)
        last = list(replay(first, "triage"))[-1].effect
        handoff = last.handoff  # type: ignore[union-attr]
        assert (None if handoff is None else handoff.input["agent"]) == to


LEAD = manifest("lead", SpawnCapability())
HELPER = manifest("helper")


class ToStart(Hooks):
    """Has an agent started where the model wanted to look something up."""

    async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
        if call.name != "look_up":
            return call
        return attrs.evolve(call, name="start_agent", input={"agent": "helper", "query": "q"})


def test_an_agent_that_a_changed_call_started_is_heard_of_after_a_crash() -> None:
    async def helper(turn: Turn) -> str:
        await trio.sleep(5)
        return "found it"

    def make() -> Cast:
        return Cast(lead=scripted(call("look_up"), "early", lambda turn: turn.said[-1]), helper=helper)

    agent = ModelAgent(LEAD, agents=[HELPER], tools=[look_up])
    whole, records = run(agent, "go", driver=make(), hooks=[ToStart()])
    assert "found it" in whole.unwrap().text
    for end in range(1, len(records.kept) + 1):
        if is_begun(records.kept[:end]):
            again, _ = resumed(records.kept[:end], driver=make(), hooks=[ToStart()])
            assert "found it" in again.unwrap().text, end


@tool
async def entrust(ctx: Any) -> str:
    """Have a child do it; once at most."""
    handle = await ctx.spawn(child)
    return str(await handle.result())


async def child(ctx: Any) -> str:
    DONE.append("child")
    await trio.sleep(5)
    return "by the child"


def test_children_of_a_changed_call_whose_end_is_not_known_go_on() -> None:
    agent = ModelAgent(TRIAGE, tools=[entrust, look_up])

    def make() -> Cast:
        return cast(call("look_up", number=3), last_result)

    for hook in (Changed("entrust", {}), Around(("look_up", {"number": 1}), ("entrust", {}))):
        DONE.clear()
        _, records = run(agent, "go", driver=make(), hooks=[hook])
        assert DONE[-1] == "child"
        spawned = [n for n, record in enumerate(records.kept, 1) if record.kind == "spawned"]
        again, _ = resumed(records.kept[: spawned[1]], driver=make(), hooks=[hook])
        assert "unknown" in again.unwrap().text  # it is made once at most, and nobody waits for ever
        assert DONE[-2:] == ["child", "child"] or DONE[-3:] == ["child", "look up 1", "child"], DONE


def test_a_call_that_was_made_an_idempotent_one_is_made_again_and_not_without_its_hooks() -> None:
    @tool
    async def pay() -> str:
        """Pay; once at most."""
        DONE.append("paid")
        return "paid"

    agent = ModelAgent(TRIAGE, tools=[pay, look_up])

    def make() -> Cast:
        return cast(call("pay"), last_result)

    hook = Changed("look_up", {"number": 3})

    def main(**settings: Any) -> Any:
        DONE.clear()
        _, records = run(agent, "go", driver=make(), hooks=[hook])
        cut = next(n for n, record in enumerate(records.kept, 1) if record.kind == "called")
        return (
            resumed(records.kept[:cut], driver=make(), agents={"first": agent}, **settings)[0].unwrap().text
        )

    assert main(hooks=[hook]) == "bill 3"
    assert DONE == ["look up 3", "look up 3"]
    # Without them it is another call, of which nobody knows whether it may be made.
    assert "unknown" in main()
    assert DONE == ["look up 3"]


# -- what is told of it ----------------------------------------------------------------------------


async def test_events_and_logs_tell_of_the_call_that_was_made(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "agentpool.loop")
    told = []
    async with pool_of(1, driver=cast(), hooks=[Changed("look_up", {"number": 3})]) as pool:
        async with pool.events() as events:
            await pool.spawn(AGENT, "go")
            async for event in events:
                if isinstance(event, ToolStarted | ToolFinished):
                    told.append(event.call)
                if isinstance(event, AgentFinished):
                    break
        await pool.join_all()
    assert [(each.name, dict(each.input)) for each in told] == [("look_up", {"number": 3})] * 2
    assert "the tool look_up ended" in caplog.text
    assert "the tool hand_off" not in caplog.text


def test_the_guard_counts_what_the_model_says() -> None:
    """A model that says the same again and again goes in a circle, whatever hooks make of it."""
    numbers = iter(range(99))

    class Counting(Hooks):
        async def before_tool_call(self, ctx: HookContext, call: ToolCall) -> ToolCall:
            return attrs.evolve(call, input={"number": next(numbers)})

    class Same(Counting):
        async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
            return ToolResult("the same")

    async def turns(hook: Hooks) -> Any:
        driver = Cast(triage=lambda turn: call("look_up", number=1) if turn.number < 9 else "done")
        async with pool_of(1, driver=driver, hooks=[hook]) as pool:
            outcome = await (await pool.spawn(AGENT, "go")).wait()
            return type(outcome).__name__

    assert in_virtual_time(lambda: turns(Same())) == "Failed"
    assert in_virtual_time(lambda: turns(Counting())) == "Completed"
