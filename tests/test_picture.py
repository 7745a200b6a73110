"""The picture of a run: what each event, and each sample, changes in what people see."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
from picture_kit import Told, check_lanes, outcome_of, request_of

from agentpool._core import events as ev
from agentpool._core.approval import Approved, Denied, Question
from agentpool._core.errors import UnhandledAgentErrors
from agentpool._core.messages import AgentMessage, Completion, CompletionRequest, ToolResult
from agentpool._core.picture import (
    _UPDATES,
    BLOCKERS_KEPT,
    LONGEST_LINE,
    LONGEST_NAME,
    LONGEST_WORDS,
    SHORTEST_SPAN,
    Picture,
)
from agentpool._core.rates import WINDOW, Rate, Rates
from agentpool._core.summaries import NOTED, describe, note_of
from agentpool._core.usage import TokenUsage

# -- rows ------------------------------------------------------------


def test_agents_stand_in_a_tree() -> None:
    told = Told()
    told.spawn(1, name="boss")
    told.spawn(2, parent_id=1)
    told.spawn(3, parent_id=2)
    told.spawn(4)
    assert [(row.name, row.parent, row.depth) for row in told.picture.rows.values()] == [
        ("boss", 0, 0),
        ("a2", 1, 1),
        ("a3", 2, 2),
        ("a4", 0, 0),
    ]
    assert {parent: list(ids) for parent, ids in told.picture.children.items()} == {0: [1, 4], 1: [2], 2: [3]}


def test_an_agent_of_a_resumed_run_keeps_what_it_had_used_and_when_it_started() -> None:
    told = Told()
    row = told.spawn(1, starts=False)
    version = told.picture.version
    told.picture.goes_on(1, TokenUsage(30, 4), 160.0)
    assert row.version > version
    assert (row.started_at, row.since) == (row.spawned_at, 160.0)
    told.tell(ev.AgentStarted, 1, after=100)
    assert (row.state, row.started_at) == ("running", row.spawned_at)
    assert row.usage == told.picture.usage == TokenUsage(30, 4)


def test_an_agent_from_its_spawn_to_its_end() -> None:
    told = Told()
    row = told.spawn(1, starts=False)
    assert (row.state, row.kind, row.started_at, row.has_ended) == ("starting", "starting", None, False)
    told.tell(ev.AgentStarted, 1, after=1)
    assert (row.state, row.kind, row.started_at) == ("running", "running", 101.0)
    told.phase(1, "perceive", 1, after=1)
    assert (row.phase, row.iteration, row.kind) == ("perceive", 1, "perceiving")
    told.phase(1, "reason", 1, after=1)
    asked = told.asks_model(1, "opus")
    assert (row.kind, row.detail, row.model, row.model_calls) == ("reasoning", "opus", "opus", 1)
    told.answers(1, asked, "I shall look.", TokenUsage(10, 5, cost_usd=0.25), after=2)
    assert (row.words, row.usage) == ("I shall look.", TokenUsage(10, 5, cost_usd=0.25))
    told.phase(1, "act", 1)
    look = told.starts_tool(1, "look")
    assert (row.kind, row.detail, row.tool_calls, row.calls) == ("acting", "look", 1, [("look", "look")])
    told.ends_tool(1, look, after=3)
    assert (row.calls, row.tool_calls) == ([], 1)
    told.phase(1, "done", 2, after=1)
    assert row.kind == "running"
    told.tell(ev.LoopFinished, 1)
    told.ends(1, after=1)
    assert (row.state, row.kind, row.phase, row.ended_at, row.has_ended) == (
        "completed",
        None,
        "",
        110.0,
        True,
    )
    assert told.picture.ends == {"completed": 1, "failed": 0, "aborted": 0}
    assert told.lane(1) == [
        ("starting", 0, 1),
        ("running", 1, 2),
        ("perceiving", 2, 3),
        ("reasoning", 3, 5, "opus"),
        ("acting", 5, 8, "look"),
        ("acting", 8, 9),
        ("running", 9, 10),
    ]
    check_lanes(told.picture)


@pytest.mark.parametrize(
    ("how", "why", "reason"),
    [
        ("completed", None, ""),
        ("failed", ValueError("no\n  such thing"), "ValueError: no such thing"),
        ("failed", UnhandledAgentErrors("x", [KeyError("a"), ValueError()]), "KeyError: 'a'; ValueError"),
        ("aborted", "enough", "enough"),
        ("aborted", None, ""),
    ],
)
def test_how_an_agent_ended_and_why(how: str, why: Any, reason: str) -> None:
    told = Told()
    row = told.spawn(1)
    told.ends(1, how, why)
    assert (row.state, row.reason) == (how, reason)
    assert told.picture.ends[row.state] == 1  # type: ignore[index]
    assert sum(told.picture.ends.values()) == 1


def test_messages_are_counted_and_drawn_from_lane_to_lane() -> None:
    told = Told()
    one, two = told.spawn(1), told.spawn(2)
    told.sends(1, 2, 1, after=1)
    told.sends(1, 2, 2, is_question=True, after=1)
    told.sends(2, 1, 3, reply_to=2, after=1)
    told.sends(0, 1, 4)
    told.sends(1, 77, 5)
    assert (one.sent, one.heard, two.sent, two.heard) == (3, 2, 1, 2)
    assert [(a.time, a.sender, a.to, a.id, a.kind) for a in told.picture.arrows] == [
        (101.0, 1, 2, 1, "message"),
        (102.0, 1, 2, 2, "question"),
        (103.0, 2, 1, 3, "reply"),
        (103.0, 0, 1, 4, "message"),
        (103.0, 1, 77, 5, "message"),
    ]


def test_a_dead_letter_counts_for_whom_it_was_meant_and_is_noted_with_who_sent_it() -> None:
    told = Told()
    one, two = told.spawn(1), told.spawn(2)
    told.tell(ev.MessageDeadLettered, 1, AgentMessage(1, 2, "x"), "it has ended")
    told.tell(ev.MessageDeadLettered, 0, AgentMessage(0, 2, "x"), "it has ended")
    told.tell(ev.MessageDeadLettered, 9, AgentMessage(9, 8, "x"), "it has ended")
    assert (one.dead_letters, two.dead_letters) == (0, 2)
    assert [note.text for note in told.picture.notes] == [
        "a1: a message to agent 2 was not received: it has ended",
        "the program: a message to agent 2 was not received: it has ended",
        "agent 9: a message to agent 8 was not received: it has ended",
    ]


def test_a_reply_that_came_too_late_was_sent_and_is_a_dead_letter() -> None:
    told = Told()
    one, two = told.spawn(1), told.spawn(2)
    told.sends(1, 2, 1, is_question=True)
    told.tell(ev.MessageDeadLettered, 2, AgentMessage(2, 1, "x", 2, reply_to=1), "nobody waits for it")
    assert (two.sent, one.heard, one.dead_letters) == (1, 1, 1)
    assert [(arrow.sender, arrow.to, arrow.kind) for arrow in told.picture.arrows] == [
        (1, 2, "question"),
        (2, 1, "reply"),
    ]


def test_words_that_stream_are_kept_to_their_end_until_the_next_answer_begins() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "reason")
    asked = told.asks_model(1)
    for piece in ("Hel", "lo"):
        told.tell(ev.TextDeltaReceived, 1, piece)
    assert row.words == "Hello"
    told.answers(1, asked, "")  # its text only streamed
    assert row.words == "Hello"
    told.tell(ev.TextDeltaReceived, 1, "x" * 1000)
    assert row.words == "x" * LONGEST_WORDS
    told.asks_model(1)
    assert row.words == ""


def test_an_answer_that_hooks_tell_after_it_came_stands_there_once() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "reason")
    told.answers(1, told.asks_model(1), "the key is 1234")
    assert row.words == "the key is 1234"
    told.tell(ev.TextDeltaReceived, 1, "the key is [key]")
    assert row.words == "the key is [key]"


def test_the_name_of_a_model_that_only_the_provider_knows() -> None:
    told = Told()
    row = told.spawn(1)
    told.asks_model(1, model="", provider="ollama")
    assert row.model == "ollama"


def test_a_call_that_failed_used_nothing_and_said_nothing() -> None:
    told = Told()
    row = told.spawn(1)
    told.answers(1, told.asks_model(1), error=ValueError("overloaded"), after=1)
    assert (row.usage, row.words, row.asked) == (TokenUsage(), "", set())
    assert told.picture.rates.at(told.time) == Rate()


def test_an_answer_that_was_booked_counts_although_the_call_raised() -> None:
    told = Told()
    row = told.spawn(1)
    started = told.asks_model(1)
    completion = Completion("x", usage=TokenUsage(3, 4))
    told.tell(ev.ModelCallFinished, 1, started, completion, OSError("as it was left"), False, 1.0, None)
    assert row.usage == told.picture.usage == TokenUsage(3, 4)


# -- what a lane shows ------------------------------------------------------------


def test_what_comes_first_in_a_lane() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "act")
    told.starts_tool(1, "ask")
    told.sample({1: (2, 3)}, after=1)
    assert (row.kind, row.blocked_on) == ("waiting", (2, 3))
    told.sample({1: (2, 3)}, after=1)
    told.picture.retrying(1, "overloaded", told.time + 10, told.time)
    assert (row.kind, row.detail, row.blocked_on) == ("retrying", "overloaded", ())
    request = request_of(1, "write_file")
    told.tell(ev.ApprovalRequested, 1, request, after=1)
    assert (row.kind, row.detail) == ("approval", "write_file")
    told.tell(ev.ApprovalDecided, 1, request, Approved(), after=1)
    assert row.kind == "retrying"
    told.sample({1: (2, 3)}, after=9)
    assert (row.kind, row.blocked_on) == ("waiting", (2, 3))
    told.sample({}, after=1)
    assert (row.kind, row.detail) == ("acting", "ask")
    assert told.lane(1) == [
        ("acting", 0, 1, "ask"),
        ("waiting", 1, 2, (2, 3)),
        ("retrying", 2, 3, "overloaded"),
        ("approval", 3, 4, "write_file"),
        ("retrying", 4, 13, "overloaded"),
        ("waiting", 13, 14, (2, 3)),
    ]
    check_lanes(told.picture)


def test_what_a_function_agent_does_while_it_asks_a_model() -> None:
    told = Told()
    row = told.spawn(1)
    first, second = told.asks_model(1, after=1), told.asks_model(1, after=1)
    told.answers(1, first, after=1)
    assert row.kind == "reasoning"
    told.answers(1, second, after=1)
    assert row.kind == "running"
    assert told.lane(1) == [("running", 0, 1), ("reasoning", 1, 4, "m")]


def test_a_model_that_a_tool_asks_does_not_hide_the_tool() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "act")
    told.starts_tool(1, "summarise")
    told.asks_model(1, after=1)
    assert (row.kind, row.detail) == ("acting", "summarise")


def test_tools_side_by_side() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "act")
    look, write = told.starts_tool(1, "look"), told.starts_tool(1, "write")
    assert row.detail == "look, write"
    told.ends_tool(1, look, after=1)
    assert row.detail == "write"
    told.ends_tool(1, write, after=1)
    told.phase(1, "perceive", 2)
    assert told.lane(1) == [("acting", 0, 1, "look, write"), ("acting", 1, 2, "write")]


def test_calls_with_the_same_id_are_told_apart_by_their_number() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "act")
    first, second = told.starts_tool(1, "look", "call-1"), told.starts_tool(1, "look", "call-1")
    other = told.starts_tool(1, "write", "call-1")
    told.ends_tool(1, first)
    assert row.calls == [("call-1", "look"), ("call-1", "write")]
    told.ends_tool(1, other)
    assert row.calls == [("call-1", "look")]
    told.ends_tool(1, second)
    told.ends_tool(1, second)  # its start was dropped
    assert (row.calls, row.tool_calls) == ([], 3)


def test_of_very_many_tools_the_first_are_named() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "act")
    for number in range(100):
        told.starts_tool(1, f"tool{number}")
    assert row.detail == "tool0, tool1, tool2, tool3, tool4, tool5, tool6, tool7 and 92 more"


def test_calls_of_a_turn_that_was_cut_off_are_left() -> None:
    told = Told()
    row = told.spawn(1)
    for leave in (
        lambda: told.phase(1, "perceive", 2),
        lambda: told.tell(ev.LoopFinished, 1),
        lambda: told.tell(ev.AgentRestarted, 1, 1, outcome_of(1, 0, "failed")),
        lambda: told.ends(1, "aborted"),
    ):
        told.phase(1, "act")
        told.starts_tool(1, "look")
        told.tell(ev.ApprovalRequested, 1, request_of(1, "write"))
        assert row.kind == "approval"
        leave()
        assert (row.calls, row.asking) == ([], {})
        assert row.kind != "approval"


def test_a_persons_answer_is_waited_for_until_all_calls_are_decided() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "act")
    one, two = request_of(1, "write", path="a"), request_of(1, "push")
    told.tell(ev.ApprovalRequested, 1, one)
    told.tell(ev.ApprovalRequested, 1, two)
    assert row.detail == "write, push"
    told.tell(ev.ApprovalDecided, 1, one, Denied("not that file"), after=1)
    assert (row.kind, row.detail) == ("approval", "push")
    told.tell(ev.ApprovalDecided, 1, two, Denied(), after=1)
    assert row.kind == "acting"
    assert [note.text for note in told.picture.notes] == [
        "a1: write was denied: not that file",
        "a1: push was denied",
    ]
    assert told.lane(1) == [("approval", 0, 1, "write, push"), ("approval", 1, 2, "push")]


def test_a_servers_question_that_nobody_answered_in_time_is_withdrawn_with_its_call() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "act")
    deploy, look = told.starts_tool(1, "deploy"), told.starts_tool(1, "look")
    told.tell(ev.ApprovalRequested, 1, request_of(1, "deploy").asking(Question("server", "Where to?")))
    assert (row.kind, row.detail) == ("approval", "deploy")
    told.ends_tool(1, look, after=1)
    assert row.kind == "approval"
    told.ends_tool(1, deploy, after=1)
    assert (row.asking, row.kind) == ({}, "acting")


# -- waiting ------------------------------------------------------------


def test_who_waits_for_whom_is_as_it_was_sampled() -> None:
    told = Told()
    row = told.spawn(1)
    told.sample({1: (), 9: (1,)}, after=1)  # 9 is not known
    assert (row.kind, row.waits_for) == ("waiting", ())
    version = told.picture.version
    told.sample({1: ()}, after=1)
    assert told.picture.version == version
    told.sample({1: (3,)}, after=1)
    told.sample({}, after=1)
    assert row.waits_for is None
    assert told.lane(1) == [("running", 0, 1), ("waiting", 1, 3), ("waiting", 3, 4, (3,))]


def test_what_an_agent_does_shows_that_it_does_not_wait_any_more() -> None:
    told = Told()
    row = told.spawn(1)
    told.spawn(2)
    for act in (
        lambda: told.phase(1, "reason", after=1),
        lambda: told.asks_model(1, after=1),
        lambda: told.starts_tool(1, "look", after=1),
        lambda: told.sends(1, 2, after=1),
        lambda: told.tell(ev.LoopFinished, 1, after=1),
    ):
        told.sample({1: (2,)}, after=1)
        assert row.kind == "waiting"
        act()
        assert row.kind != "waiting"
        told.sample({1: (2,)}, after=1)  # it waits again, for the same
        assert row.kind == "waiting"
    check_lanes(told.picture)


def test_a_message_to_an_agent_does_not_show_that_it_has_gone_on() -> None:
    told = Told()
    row = told.spawn(1)
    told.spawn(2)
    told.sample({1: ()})
    told.sends(2, 1)
    assert row.kind == "waiting"


def test_of_thousands_that_an_agent_waits_for_the_first_are_kept() -> None:
    told = Told()
    row = told.spawn(1)
    children = tuple(range(2, 10_000))
    told.sample({1: children}, after=1)
    version = told.picture.version
    told.sample({1: children[:-1]}, after=1)
    assert row.waits_for == row.blocked_on == children[:BLOCKERS_KEPT]
    assert told.picture.version == version


def test_an_agent_that_was_aborted_and_lives_on() -> None:
    told = Told()
    row = told.spawn(1)
    told.sample({}, 1, 77)
    assert row.is_stuck
    version = told.picture.version
    told.sample({}, 1)
    assert told.picture.version == version
    told.tell(ev.AgentStuck, 1, "a1", ["  time.sleep(9)\n"])
    told.ends(1, "aborted")
    assert not row.is_stuck
    told.sample({1: ()}, 1)  # older than the end
    assert (row.is_stuck, row.waits_for, row.kind) == (False, None, None)
    assert [note.text for note in told.picture.notes] == [
        "a1: warning: does not end although it was aborted, at time.sleep(9)"
    ]


# -- retries and restarts ------------------------------------------------------------


def test_a_call_that_is_made_again_after_a_pause() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "reason")
    told.answers(1, told.asks_model(1), error=OSError("overloaded"), after=1)
    told.picture.retrying(1, "overloaded", told.time + 5, told.time)
    told.sample({}, after=4)
    assert row.kind == "retrying"
    told.sample({}, after=1)
    assert row.kind == "reasoning"
    told.sample({}, after=1)
    told.picture.retrying(1, "again", told.time + 5, told.time)
    told.asks_model(1, after=4)  # it did not sleep so long
    assert row.kind == "reasoning"
    told.ends(1)
    told.picture.retrying(1, "late", told.time + 5, told.time)
    told.picture.retrying(77, "nobody", told.time + 5, told.time)
    assert row.kind is None
    assert told.lane(1) == [
        ("reasoning", 0, 1, "m"),
        ("retrying", 1, 6, "overloaded"),
        ("reasoning", 6, 7, "m"),
        ("retrying", 7, 11, "again"),
        ("reasoning", 11, 11, "m"),
    ]


@pytest.mark.parametrize("until", [math.inf, math.nan, -math.inf])
def test_a_pause_without_an_end_ends_with_the_next_call(until: float) -> None:
    told = Told()
    row = told.spawn(1)
    told.picture.retrying(1, "why", until, told.time)
    assert row.kind == ("retrying" if until == math.inf else "running")
    told.sample({}, after=1)
    told.asks_model(1, after=1)
    assert row.kind == "reasoning"


def test_a_second_life_begins_when_its_pause_is_over() -> None:
    told = Told()
    row = told.spawn(1)
    told.phase(1, "act", 7)
    told.starts_tool(1, "look")
    told.sample({1: (2,)}, after=1)
    told.tell(ev.AgentRestarted, 1, 1, outcome_of(1, 0, "failed"), 10.0, after=1)
    assert (row.state, row.kind, row.detail, row.restarts) == ("restarting", "starting", "restart", 1)
    assert row.waits_for is None
    told.sample({}, after=9)
    assert row.state == "restarting"
    told.sample({}, after=1)
    assert (row.state, row.kind) == ("running", "running")
    told.phase(1, "act", 1, after=1)
    told.starts_tool(1, "write")
    assert (row.detail, row.tool_calls) == ("write", 2)
    assert ("starting", 2, 12, "restart") in told.lane(1)
    check_lanes(told.picture)


def test_a_second_life_that_does_something_or_waits_has_begun() -> None:
    told = Told()
    row = told.spawn(1)
    told.tell(ev.AgentRestarted, 1, 1, outcome_of(1, 0, "failed"), 10.0)
    told.phase(1, "perceive", 1, after=1)  # no earlier than that, as far as we know
    assert row.state == "running"
    version = told.picture.version
    told.sample({}, after=1)
    assert told.picture.version == version  # nothing is due
    told.tell(ev.AgentRestarted, 1, 2, outcome_of(1, 0, "failed"), 10.0)
    told.sample({1: ()}, after=1)
    assert (row.state, row.kind) == ("running", "waiting")
    told.sample({}, after=20)
    assert row.state == "running"


def test_a_run_that_was_cut_off_and_went_on() -> None:
    told = Told()
    told.spawn(1)
    told.phase(1, "act")
    told.starts_tool(1, "look", after=1)
    told.spawn(2)
    told.ends(2)
    told.spawn(3)
    told.picture.cut(told.time)
    told.picture.cut(told.time + 2)
    told.time += 3
    told.picture.waits(1, (2,), told.time)
    told.picture.waits(1, None, told.time + 1)
    told.picture.restarted(3, 1, told.time + 2)
    told.sample({}, after=100)
    assert (told.row(3).state, told.row(3).kind) == ("restarting", "starting")
    assert told.lane(1) == [
        ("acting", 0, 1),
        ("acting", 1, 3, "look"),
        ("acting", 3, 4, "look"),
        ("waiting", 4, 5, (2,)),
    ]
    check_lanes(told.picture)


# -- what was dropped ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["started", "phase", "model", "tool", "asked", "restarted", "finished"])
def test_an_agent_whose_first_event_was_dropped_has_a_row_from_the_next_one(kind: str) -> None:
    told = Told()
    told.parents[7] = 3
    match kind:
        case "started":
            told.tell(ev.AgentStarted, 7)
        case "phase":
            told.phase(7, "reason")
        case "model":
            told.asks_model(7)
        case "tool":
            told.starts_tool(7, "look")
        case "asked":
            told.tell(ev.ApprovalRequested, 7, request_of(7, "write"))
        case "restarted":
            told.tell(ev.AgentRestarted, 7, 1, outcome_of(7, 3, "failed"))
        case _:
            told.ends(7, usage=TokenUsage(1, 2))
            assert told.picture.usage == TokenUsage(1, 2)
    row = told.row(7)
    assert (row.parent, row.depth) == (3, 0)
    assert row.name == ("a7" if kind == "finished" else "agent 7")
    told.ends(7, usage=TokenUsage(1, 2))
    assert row.has_ended
    assert told.picture.usage == TokenUsage(1, 2)
    assert told.picture.ends["completed"] == 1


@pytest.mark.parametrize("kind", sorted(set(get_args(ev.Event)), key=lambda kind: str(kind.__name__)))
def test_an_event_of_somebody_who_is_not_known_harms_nothing(kind: type[Any]) -> None:
    told = Told()
    own = own_fields(kind)
    if kind is not ev.AgentSpawned:
        told.tell(kind, 0, *own)
    told.tell(kind, 5, *own)
    told.spawn(5, name="five")
    told.tell(kind, 5, *own)
    if told.row(5).ended_at is None:
        told.ends(5)
    ended = told.row(5).ended_at
    told.tell(kind, 5, *own, after=1)
    assert told.row(5).ended_at == ended
    assert sum(told.picture.ends.values()) == 1
    assert 0 not in told.picture.rows


def own_fields(kind: type[Any]) -> tuple[Any, ...]:
    """What an event of a kind tells of its own."""
    call = request_of(5, "look").call
    message = AgentMessage(5, 5, "x", 1)
    own: dict[type[Any], tuple[Any, ...]] = {
        ev.AgentSpawned: ("five",),
        ev.PhaseChanged: ("reason", 1),
        ev.TextDeltaReceived: ("x",),
        ev.ReasoningDeltaReceived: ("x",),
        ev.ToolStarted: (call,),
        ev.ToolFinished: (call, ToolResult("ok"), 1.0),
        ev.ToolProgressed: ("look", 1.0, None, "x"),
        ev.ApprovalRequested: (request_of(5, "look"),),
        ev.ApprovalDecided: (request_of(5, "look"), Approved()),
        ev.ModelCallStarted: (CompletionRequest(model="m", messages=()), "m", "p", "", False),
        ev.ModelCallFinished: (1, Completion("x", usage=TokenUsage(1, 1)), None, False, 1.0, None),
        ev.CompletionFinished: (TokenUsage(1, 1), 1.0),
        ev.ContextCompacted: (3, 10, 5, "", ""),
        ev.MessageSent: (message,),
        ev.MessageDeadLettered: (message, "it has ended"),
        ev.AgentRestarted: (1, outcome_of(5, 0, "failed")),
        ev.BudgetWarned: ("x",),
        ev.GuardWarned: ("x",),
        ev.DeadlockSuspected: ((5, 6),),
        ev.AgentStuck: ("five", ()),
        ev.AgentFinished: (outcome_of(5, 0),),
    }
    return own.get(kind, ())


def test_every_kind_of_event_changes_something_or_is_left_out_on_purpose() -> None:
    others = {ev.AgentSpawned, ev.MessageSent, ev.MessageDeadLettered}
    left_out = {ev.ReasoningDeltaReceived, ev.ToolProgressed, ev.CompletionFinished}
    noted_only = {ev.BudgetWarned, ev.GuardWarned, ev.ContextCompacted, ev.DeadlockSuspected}
    assert set(get_args(ev.Event)) == set(_UPDATES) | others | left_out | noted_only
    assert noted_only < NOTED


def test_agents_that_lived_before_anybody_watched() -> None:
    told = Told()
    row = told.spawn(3, name="old")
    assert (row.name, row.state, row.kind) == ("old", "running", "running")
    told.spawn(3, name="resumed", starts=False)  # it is told again when somebody claims it
    assert (row.name, row.state) == ("resumed", "running")
    told.ends(3, usage=TokenUsage(100, 50), after=1)
    assert told.picture.usage == TokenUsage(100, 50)
    assert told.lane(3) == [("running", 0, 1)]


def test_usage_that_no_event_told_of_comes_with_the_outcome() -> None:
    told = Told()
    row = told.spawn(1)
    told.spawn(2)
    told.answers(1, told.asks_model(1), "x", TokenUsage(1, 2, cost_usd=0.5))
    told.answers(2, told.asks_model(2), "x", TokenUsage(100, 100))
    told.ends(1, usage=TokenUsage(11, 22, reasoning_tokens=3, cost_usd=0.75))
    assert row.usage == TokenUsage(11, 22, reasoning_tokens=3, cost_usd=0.75)
    assert told.picture.usage == TokenUsage(111, 122, reasoning_tokens=3, cost_usd=0.75)


def test_an_answer_to_an_agent_that_has_ended_counts() -> None:
    told = Told()
    row = told.spawn(1)
    asked = told.asks_model(1)
    told.ends(1)
    told.answers(1, asked, "late", TokenUsage(1, 2))
    told.sends(1, 1)
    assert row.usage == told.picture.usage == TokenUsage(1, 2)
    assert (row.kind, row.state, row.sent, row.heard) == (None, "completed", 1, 1)


def test_children_whose_end_was_dropped_end_with_their_parent() -> None:
    told = Told()
    told.spawn(1)
    told.spawn(2, parent_id=1)
    told.spawn(3, parent_id=2)
    told.spawn(4, parent_id=1)
    told.spawn(5)
    told.ends(4, after=1)
    told.ends(1, after=1)
    assert [told.row(n).state for n in range(1, 6)] == [
        "completed",
        "aborted",
        "aborted",
        "completed",
        "running",
    ]
    assert told.row(3).reason == "its end was not told"
    told.ends(2, after=1)  # it came after all: what was told stays
    assert told.picture.ends == {"completed": 2, "failed": 0, "aborted": 2}
    check_lanes(told.picture)


# -- what is kept ------------------------------------------------------------


def test_agents_that_ended_long_ago_are_forgotten_children_first() -> None:
    told = Told(Picture(ended_kept=3))
    told.spawn(1)
    for number in (2, 3):
        told.spawn(number, parent_id=1)
        told.ends(number)
    told.spawn(4)
    told.ends(1)
    assert list(told.picture.rows) == [1, 2, 3, 4]
    told.ends(4)
    assert list(told.picture.rows) == [1, 3, 4]
    told.spawn(5)
    told.ends(5)
    assert list(told.picture.rows) == [1, 4, 5]
    assert told.picture.children == {0: {1: None, 4: None, 5: None}}
    for number in range(6, 20):
        told.spawn(number)
        told.ends(number)
    picture = told.picture
    assert set(picture.rows) == set(picture.changed) == set(picture.children[0]) == {17, 18, 19}
    assert (picture.forgotten, sum(picture.ends.values())) == (16, 19)
    assert [agent_id for _, agent_id in picture.gone] == [14, 15, 16]
    assert 0 < picture.gone_before < picture.gone[0][0]


def test_agents_that_were_forgotten_and_of_which_something_late_is_told_are_back() -> None:
    told = Told(Picture(ended_kept=3))
    for number in range(1, 7):
        told.spawn(number)
        told.ends(number)
    picture = told.picture
    assert (list(picture.rows), picture.forgotten) == ([4, 5, 6], 3)
    told.tell(ev.AgentStarted, 2)
    told.phase(3, "act")
    assert (sorted(picture.rows), picture.forgotten) == ([2, 3, 4, 5, 6], 1)
    assert [agent_id for _, agent_id in picture.gone] == [1]


def test_who_was_to_live_again_and_was_forgotten_is_not_waited_for() -> None:
    told = Told(Picture(ended_kept=0))
    told.spawn(1)
    told.tell(ev.AgentRestarted, 1, 1, outcome_of(1, 0, "failed"), 10.0)
    told.ends(1, "aborted")
    told.sample({}, after=20)
    assert (told.picture.rows, told.picture.forgotten) == ({}, 1)


def test_agents_of_an_unknown_parent_are_forgotten_without_a_trace() -> None:
    told = Told(Picture(ended_kept=1))
    told.parents[7] = told.parents[8] = 3
    told.ends(7)
    told.ends(8)
    assert told.picture.children == {3: {8: None}}
    told.ends(9)
    assert told.picture.children == {0: {9: None}}


def test_of_a_program_that_ends_only_the_last_children_are_kept_and_none_below_them_is_orphaned() -> None:
    told = Told(Picture(ended_kept=2))
    told.spawn(1)
    for number in range(2, 8):
        told.spawn(number, parent_id=number - 1)
    told.ends(1)  # the ends of all below it were dropped
    assert list(told.picture.rows) == [1, 2]
    assert told.row(2).parent == 1
    assert told.picture.forgotten == 5


def test_of_spans_arrows_and_notes_the_latest_are_kept() -> None:
    told = Told(Picture(spans_kept=3, arrows_kept=2, notes_kept=2))
    told.spawn(1)
    for number in range(5):
        told.phase(1, "reason", after=1)
        told.phase(1, "act", after=1)
        told.sends(1, 1, number)
        told.picture.note(f"note {number}")
    picture = told.picture
    assert [span.kind for span in picture.spans] == ["reasoning", "acting", "reasoning"]
    assert [arrow.id for arrow in picture.arrows] == [3, 4]
    assert [note.text for note in picture.notes] == ["note 3", "note 4"]
    assert (picture.spans_dropped, picture.arrows_dropped) == (7, 3)


# -- time ------------------------------------------------------------


def test_spans_that_are_too_short_belong_to_the_one_after_them() -> None:
    told = Told()
    told.spawn(1)
    short = SHORTEST_SPAN / 4
    told.phase(1, "perceive", after=1)
    told.phase(1, "done", after=short)
    told.sample({1: ()}, after=short)
    told.sample({}, after=short)
    told.phase(1, "perceive", after=1)
    assert told.lane(1) == [("running", 0, 1), ("running", 1, round(2 + 3 * short, 6))]
    for _ in range(40):
        told.sample({1: ()}, after=short)
        told.sample({}, after=short)
    told.ends(1)
    check_lanes(told.picture)


def test_calls_that_take_no_time_are_kept_and_the_steps_to_them_are_not() -> None:
    told = Told()
    told.spawn(1)
    told.phase(1, "reason")
    told.answers(1, told.asks_model(1, "m"))
    told.phase(1, "act")
    look, write = told.starts_tool(1, "look"), told.starts_tool(1, "write")
    told.ends_tool(1, look)
    told.ends_tool(1, write)
    told.phase(1, "done", 2)
    told.ends(1)
    assert told.lane(1) == [("reasoning", 0, 0, "m"), ("acting", 0, 0, "write")]
    check_lanes(told.picture)


def test_a_short_call_is_kept_although_another_of_its_kind_follows() -> None:
    told = Told()
    told.spawn(1)
    told.phase(1, "act")
    short = SHORTEST_SPAN / 4
    look = told.starts_tool(1, "look")
    told.starts_tool(1, "write", after=short)
    told.ends_tool(1, look, after=1)
    assert [span[0::3] for span in told.lane(1)] == [("acting", "look"), ("acting", "look, write")]


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf, 5.0])
def test_times_that_are_no_times_or_go_back_are_passed_over(strange: float) -> None:
    told = Told()
    told.picture.take(ev.AgentSpawned(1, strange, 1, 0, "a1"))
    began = told.picture.began
    assert began == 5.0 if math.isfinite(strange) else began != began
    told.spawn(2)
    told.picture.take(ev.PhaseChanged(3, strange, 2, 0, "act", 1))
    told.sends(2, 1)
    told.picture.sample({1: ()}, (), strange)
    told.picture.take(ev.AgentFinished(4, strange, 1, 0, outcome_of(1, 0)))
    assert told.picture.time == 100.0
    assert told.row(1).ended_at == 100.0
    assert told.row(2).started_at == 100.0


def test_a_time_below_zero_is_a_time() -> None:
    told = Told(time=-50.0)
    told.spawn(1)
    told.phase(1, "act", after=1)
    assert (told.picture.began, told.picture.time) == (-50.0, -49.0)


# -- words of strangers ------------------------------------------------------------


class Nasty(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "bad", ["x" * 1_000_000, "\ud83d" * 300, "\ud83d\ude00" * 5000, "\x00\x1b[2J\n" * 999]
)
def test_words_of_strangers_are_cut_and_can_be_encoded(bad: str) -> None:
    told = Told()
    row = told.spawn(1, name=bad)
    told.phase(1, "reason")
    told.asks_model(1, model=bad)
    told.tell(ev.GuardWarned, 1, bad)
    told.picture.retrying(1, bad, told.time + 1, told.time)
    told.tell(ev.AgentStuck, 1, bad, [bad])
    told.phase(1, "act")
    for _ in range(20):
        told.starts_tool(1, bad)
    told.tell(ev.ApprovalRequested, 1, request_of(1, bad), after=1)
    told.ends(1, "failed", ValueError(bad), after=1)
    told.spawn(2)
    told.ends(2, "aborted", bad)
    texts = [row.name, row.model, row.reason, row.retry, told.row(2).reason]
    texts += [note.text for note in told.picture.notes]
    for text in texts:
        assert len(text) <= LONGEST_LINE
        text.encode()
    assert len(row.name) <= LONGEST_NAME
    for span in told.picture.spans:
        assert len(span.detail) < 2000
        span.detail.encode()


def test_reasons_that_are_no_texts_are_shown() -> None:
    told = Told()
    told.spawn(1)
    told.ends(1, "aborted", {"why": 1})
    told.spawn(2)
    told.ends(2, "failed", Nasty())
    assert told.row(1).reason == "{'why': 1}"
    assert told.row(2).reason == "Nasty: <Nasty whose text raises ValueError>"


# -- rates ------------------------------------------------------------


def test_rates_are_averages_over_the_last_seconds() -> None:
    rates = Rates()
    assert rates.at(7.0) == Rate()
    rates.count(100.0, TokenUsage(50, 50, cost_usd=0.5))
    rates.count_end(100.2)
    assert rates.at(100.5) == Rate(100.0, 0.5, 1.0, 1.0)
    rates.count(103.9, TokenUsage(10, 10))
    assert rates.at(104.0) == Rate(30.0, 0.125, 0.5, 0.25)
    assert rates.at(100.0 + WINDOW + 1) == Rate(2.0, 0.0, 0.1, 0.0)
    assert rates.at(1000.0) == Rate()


def test_rates_forget_what_is_long_ago_and_take_times_that_go_back_for_now() -> None:
    rates = Rates()
    for second in range(1000):
        rates.count_end(float(second))
    assert len(rates._seconds) <= WINDOW + 1
    rates.count_end(3.0)
    assert rates.at(999.0).ends == pytest.approx((WINDOW + 1) / WINDOW, abs=0.2)


def test_the_rates_of_a_picture() -> None:
    told = Told()
    told.spawn(1)
    told.answers(1, told.asks_model(1), "x", TokenUsage(30, 70))
    told.ends(1)
    assert told.picture.rates.at(told.time) == Rate(tokens=100.0, calls=1.0, ends=1.0)


# -- lines ------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (ev.BudgetWarned(1, 0.0, 1, 0, "nearly used up"), "a: warning: nearly used up"),
        (ev.GuardWarned(1, 0.0, 1, 0, "repeats itself"), "a: warning: repeats itself"),
        (
            ev.ContextCompacted(1, 0.0, 1, 0, 3, 10, 5, "sum", ""),
            "a: 3 messages no longer fit its context window and were summed up",
        ),
        (
            ev.ContextCompacted(1, 0.0, 1, 0, 3, 10, 5, "", ""),
            "a: 3 messages no longer fit its context window and were dropped",
        ),
        (
            ev.ContextCompacted(1, 0.0, 1, 0, 3, 10, 5, "", "no answer"),
            "a: warning: 3 messages no longer fit its context window and were dropped: no answer",
        ),
        (ev.ApprovalDecided(1, 0.0, 1, 0, request_of(1, "look"), Approved()), None),
        (ev.ApprovalDecided(1, 0.0, 1, 0, request_of(1, "look"), Denied("no")), "a: look was denied: no"),
        (
            ev.DeadlockSuspected(1, 0.0, 1, 0, (1, 2)),
            "a: warning: perhaps a deadlock: 1 waits for 2 waits for 1",
        ),
        (ev.AgentStuck(1, 0.0, 1, 0, "a", ()), "a: warning: does not end although it was aborted"),
        (
            ev.AgentRestarted(
                1, 0.0, 1, 0, 2, outcome_of(1, 0, "failed", usage=TokenUsage(1000, 500, cost_usd=1))
            ),
            "a: restarted (2) after it failed in 0.50 s, 1,500 tokens, $1.0000: ValueError: no",
        ),
        (ev.LoopFinished(1, 0.0, 1, 0), None),
    ],
)
def test_the_lines_that_people_read(event: ev.Event, line: str | None) -> None:
    assert note_of(event, "a") == line
    assert line is None or type(event) in NOTED


def test_an_outcome_in_a_line() -> None:
    assert describe(outcome_of(1, 0)) == "completed in 0.50 s"
    assert describe(outcome_of(1, 0, usage=TokenUsage(1, 2))) == "completed in 0.50 s, 3 tokens"
    assert describe(outcome_of(1, 0, "aborted", "enough")) == "aborted in 0.50 s: enough"
