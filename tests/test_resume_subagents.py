"""Runs that are resumed: agents that models started, handoffs, agents as tools, questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import trio
from cast_kit import Cast, Turn, call, calls, manifest, scripted
from journal_kit import resumed, run

from agentpool import (
    AgentContext,
    Completed,
    MessagingCapability,
    ModelAgent,
    SpawnCapability,
    as_tool,
    handoff_to,
    tool,
)
from agentpool._core.past import past_of

LEAD = manifest("lead", SpawnCapability())
HELPER = manifest("helper", description="Helps.")
WRITER = manifest("writer", description="Writes.")
TEAM = [HELPER, WRITER]
FOR_ALL = (SpawnCapability(), MessagingCapability())


def thinking(turn: Turn) -> Any:
    async def think() -> str:
        await trio.sleep(float(turn.query))
        return f"after {turn.query}"

    return think()


def started(query: str) -> Any:
    return call("start_agent", agent="helper", query=query)


def text_of(outcome: Any) -> str:
    assert isinstance(outcome, Completed), outcome
    text: str = outcome.value.text
    return text


def same_after_each_cut(agent: Any, cast: Callable[[], Cast]) -> tuple[str, list[Any]]:
    """Cut a run off after each of its records, and each seventh time once more; it comes to the same."""
    whole, records = run(agent, "go", driver=cast())
    expected = text_of(whole)
    first = next(n for n, record in enumerate(records.kept, 1) if record.kind == "spawned")
    for end in range(first, len(records.kept) + 1):
        outcome, again = resumed(records.kept[:end], driver=cast())
        assert text_of(outcome) == expected, f"cut off after record {end}"
        if end % 7 == 0 and len(again.kept) > end:
            middle = end + 1 + (end * 5) % (len(again.kept) - end)
            outcome, _ = resumed(again.kept[:middle], driver=cast())
            assert text_of(outcome) == expected, f"cut off after records {end} and {middle}"
    return expected, records.kept


def test_agents_that_were_started_are_waited_for_by_the_next_process() -> None:
    def cast() -> Cast:
        lead = scripted(
            started("3"), started("9"), call("wait_agents", mode="any"),
            call("message_agent", agent=3, content="x"), call("wait_agents"), call("wait_agents"),
            lambda turn: "|".join(turn.results),
        )  # fmt: skip
        return Cast(lead=lead, helper=thinking)

    expected, records = same_after_each_cut(ModelAgent(LEAD, agents=TEAM), cast)
    assert expected.count("after 3") == expected.count("after 9") == 1
    assert expected.endswith("there is no agent that you started and have not heard the end of")
    assert sum(record.kind == "spawned" for record in records) == 3


def test_what_was_told_before_can_be_asked_for_again() -> None:
    def cast() -> Cast:
        lead = scripted(
            started("1"), call("wait_agents"), call("think"), call("wait_agents", agents=["helper"]),
            lambda turn: "|".join(turn.results),
        )  # fmt: skip
        return Cast(lead=lead, helper=thinking)

    expected, _ = same_after_each_cut(ModelAgent(LEAD, agents=TEAM), cast)
    assert expected.count("after 1") == 2


def test_an_agent_that_is_stopped_is_stopped_once() -> None:
    def cast() -> Cast:
        lead = scripted(
            started("50"), call("stop_agent", agent=2, reason="late"), lambda turn: turn.results[1]
        )
        return Cast(lead=lead, helper=thinking)

    expected, _ = same_after_each_cut(ModelAgent(LEAD, agents=TEAM), cast)
    assert "stopped by agent 1 (first): late" in expected


def test_who_answered_too_early_hears_of_them_in_the_next_process() -> None:
    def cast() -> Cast:
        return Cast(lead=scripted(started("4"), "early", lambda turn: turn.said[-1]), helper=thinking)

    expected, records = same_after_each_cut(ModelAgent(LEAD, agents=TEAM), cast)
    assert "after 4" in expected
    told = [record.data for record in records if record.kind == "observed"]
    assert [data["is"] for data in told if data["is"] == "collected"] == ["collected"] * 2


def test_who_answers_too_early_twice_hears_of_each_once() -> None:
    def cast() -> Cast:
        lead = scripted(started("4"), "early", started("2"), "early again", lambda turn: "|".join(turn.said))
        return Cast(lead=lead, helper=thinking)

    expected, _ = same_after_each_cut(ModelAgent(LEAD, agents=TEAM), cast)
    assert expected.count("after 4") == expected.count("after 2") == 1


def test_a_journal_tells_who_waits_for_the_reply_to_a_question() -> None:
    async def asks(ctx: AgentContext) -> Any:
        async def answers(ctx: AgentContext) -> None:
            message = await ctx.receive()
            assert ctx.question(message.id) == attrs.evolve(message, content=None)
            ctx.reply(message, "yes")

        handle = await ctx.spawn(answers)
        return await ctx.ask(handle.id, "?")

    outcome, records = run(asks)
    assert outcome.unwrap() == "yes"
    sent = next(n for n, record in enumerate(records.kept, 1) if record.kind == "sent")
    question = records.kept[sent - 1].data["id"]
    past = past_of(records.kept[:sent])
    assert (past.asker_of(question, 2), past.asker_of(question, 1), past.asker_of(99, 2)) == (1, None, None)
    past.agents[1].life = 1  # it was restarted since, and waits for nothing
    assert past.asker_of(question, 2) is None


def test_operations_behind_a_run_keep_their_places() -> None:
    """What waits at the end of a run does so in a place of its own: a tape that is read needs none."""

    async def program(ctx: AgentContext, query: str) -> str:
        first = await ModelAgent(LEAD, agents=TEAM)(ctx, query)
        handle = await ctx.spawn(ModelAgent(WRITER), "w", name="later")
        second = await handle.result()
        return f"{first.text} and {second.text}"

    def cast() -> Cast:
        return Cast(
            lead=scripted(started("1"), "early", "whole"),
            helper=thinking,
            writer=lambda turn: f"wrote {turn.query}",
        )

    outcome, records = run(program, "go", driver=cast())
    assert outcome.unwrap() == "whole and wrote w"
    first = next(n for n, record in enumerate(records.kept, 1) if record.kind == "spawned")
    for cut in range(first, len(records.kept)):
        again, _ = resumed(records.kept[:cut], driver=cast(), agents={"first": program})
        assert again.unwrap() == "whole and wrote w", cut


@tool(idempotent=True)
async def look_up(number: int) -> str:
    """Look a bill up."""
    await trio.sleep(1)
    return f"bill {number}"


def test_a_conversation_that_was_handed_over_goes_on() -> None:
    agent = ModelAgent(
        manifest("triage"), tools=[handoff_to(ModelAgent(HELPER, tools=[look_up]), ModelAgent(WRITER))]
    )

    def cast() -> Cast:
        return Cast(
            triage=scripted(call("hand_off", agent="helper", note="bill 3")),
            helper=scripted(0, call("look_up", number=3), lambda turn: f"it says {turn.results[-1]}"),
        )

    expected, records = same_after_each_cut(agent, cast)
    assert expected == "it says bill 3"
    assert sum(record.kind == "begun" for record in records) == 2


def test_handoffs_by_name_go_on() -> None:
    triage = attrs.evolve(LEAD, name="triage", handoffs=["helper"])

    def cast() -> Cast:
        both = calls(("start_agent", {"agent": "writer", "query": "2"}), ("hand_off", {"agent": "helper"}))
        return Cast(lead=scripted(both), helper=lambda turn: turn.said[1], writer=thinking)

    expected, _ = same_after_each_cut(ModelAgent(triage, agents=TEAM), cast)
    assert "after 2" in expected


def test_an_agent_as_a_tool_is_not_asked_again() -> None:
    inner = as_tool(ModelAgent(HELPER, tools=[as_tool(ModelAgent(WRITER), name="write")]))
    agent = ModelAgent(manifest("triage"), tools=[inner])

    def cast() -> Cast:
        return Cast(
            triage=scripted(call("helper", query="a"), lambda turn: turn.results[0]),
            helper=scripted(call("write", query="b"), lambda turn: f"<{turn.results[0]}>"),
            writer=lambda turn: turn.query,
        )

    expected, records = same_after_each_cut(agent, cast)
    assert expected == "<b>"
    assert sum(record.kind == "spawned" for record in records) == 3


def test_a_question_and_its_reply_outlive_the_process() -> None:
    helper = manifest("helper", MessagingCapability())
    agent = ModelAgent(attrs.evolve(LEAD, capabilities=FOR_ALL), agents=[helper])

    def reply(turn: Turn) -> Any:
        number = int(turn.results[0].split('id="')[1].split('"')[0])
        return call("reply_message", message_id=number, content="blue")

    def cast() -> Cast:
        return Cast(
            lead=scripted(
                started("x"), call("ask_agent", to="helper", question="?"), call("wait_agents"),
                lambda turn: "|".join(turn.results[1:]),
            ),
            helper=scripted(call("receive_message"), reply, lambda turn: turn.results[1]),
        )  # fmt: skip

    expected, _ = same_after_each_cut(agent, cast)
    assert expected.startswith("blue|")
    assert "replied to agent 1" in expected


def test_a_team_is_kept_and_made_again() -> None:
    member = ModelAgent(HELPER, tools=[look_up], output_type=int)
    agent = ModelAgent(LEAD, agents=[member, WRITER])
    again = ModelAgent.from_journal(agent.to_journal())
    assert again == agent
    assert ModelAgent.from_journal(ModelAgent(LEAD, agents=[]).to_journal()).agents == ()
    assert "agents" not in ModelAgent(LEAD).to_journal()
