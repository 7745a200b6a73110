"""The trace of a run, as its lines tell it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentpool._core.chrome_trace import LONGEST_ARGUMENTS, chrome_trace
from agentpool._core.past_picture import PastCall, PastMessage, PastPicture
from agentpool._core.picture import AgentRow, Picture, Span
from agentpool._core.usage import TokenUsage


def past(*rows: AgentRow, spans: tuple[Span, ...] = (), time: float = 10.0, **more: Any) -> PastPicture:
    picture = Picture(began=0.0, time=time)
    picture.rows = {row.id: row for row in rows}
    picture.spans.extend(spans)
    return PastPicture(picture, **more)


def row(agent_id: int, name: str = "bob", *, ended: float | None = 10.0, **more: Any) -> AgentRow:
    kind = None if ended is not None else "running"
    return AgentRow(agent_id, name, 0, 0, 0.0, ended_at=ended, kind=kind, **more)


def events(then: PastPicture, *phases: str) -> list[dict[str, Any]]:
    document = json.loads("".join(chrome_trace(then, "run.db")))
    found: list[dict[str, Any]] = document["traceEvents"]
    return [event for event in found if not phases or event["ph"] in phases]


def threads(then: PastPicture) -> dict[str, int]:
    return {
        event["args"]["name"]: event["tid"] for event in events(then, "M") if event["name"] == "thread_name"
    }


def test_an_empty_run_is_a_document() -> None:
    assert threads(past()) == {"the program": 1}
    assert json.loads("".join(chrome_trace(past(), "a\ud800\n")))["otherData"]["title"] == "a\ufffd\n"


def test_calls_side_by_side_have_threads_of_their_own_which_are_used_again() -> None:
    def call(start: float, end: float) -> PastCall:
        return PastCall(1, "tool", "look", start, end)

    then = past(row(1), calls=[call(0, 2), call(1, 3), call(2, 4), call(3, 3), call(1, 2)])
    assert list(threads(then)) == ["the program", "1 bob", "1 bob: calls", "1 bob: calls 2", "1 bob: calls 3"]
    told = [(event["tid"], event["ts"], event["dur"]) for event in events(then, "X")]
    second = 1_000_000
    assert sorted(told) == [
        (3, 0, 2 * second),
        (3, 2 * second, 2 * second),
        (4, second, second),
        (4, 3 * second, 0),
        (5, second, 2 * second),
    ]


def test_threads_stand_in_the_order_in_which_the_agents_were_spawned() -> None:
    then = past(row(9, "zoe"), row(2, "bob"))
    order = {
        event["tid"]: event["args"]["sort_index"] for event in events(then, "M") if "sort" in event["name"]
    }
    assert order == {1: 1, 2: 2, 3: 3}
    assert threads(then) == {"the program": 1, "9 zoe": 2, "2 bob": 3}


def test_what_has_not_ended_lasts_until_the_end_of_the_journal_or_the_interruption() -> None:
    calls = [PastCall(1, "tool", "cut", 1.0), PastCall(1, "tool", "open", 5.0)]
    then = past(row(1, ended=None, since=4.0), calls=calls, interrupted=[3.0])
    told = {event["name"]: (event["ts"], event["dur"], event["args"]) for event in events(then, "X")}
    assert told["cut"] == (1_000_000, 2_000_000, {"unfinished": True})
    assert told["open"] == (5_000_000, 5_000_000, {"unfinished": True})
    assert told["running"] == (4_000_000, 6_000_000, {"unfinished": True})


def test_a_call_of_which_only_the_end_is_known_is_a_moment() -> None:
    usage = TokenUsage(1, 2, cost_usd=0.5)
    then = past(row(1), calls=[PastCall(1, "model", "", None, 2.0, usage=usage)])
    (event,) = events(then, "i")
    assert (event["name"], event["ts"], event["tid"]) == ("model", 2_000_000, 2)
    assert event["args"] == {"tokens": 3, "cost_usd": 0.5, "start": "the journal does not tell"}
    counters = {event["name"]: event["args"] for event in events(then, "C")}
    assert counters == {
        "agents": {"that have not ended": 0},
        "tokens": {"used": 3},
        "US dollars": {"spent": 0.5},
    }


def test_what_cost_nothing_is_not_counted() -> None:
    then = past(row(1), calls=[PastCall(1, "model", "m", 1.0, 2.0, usage=TokenUsage(1, 2))])
    assert [(event["name"], event["ts"]) for event in events(then, "C")] == [
        ("agents", 0),
        ("tokens", 2_000_000),
        ("agents", 10_000_000),
    ]


def test_waits_name_those_for_whom_is_waited() -> None:
    span = Span(1, 1, "waiting", 0.0, 2.0, "", (2, 3, 4, 5))
    short = Span(2, 1, "acting", 2.0, 2.0000001, "look")
    then = past(row(1), row(2, "ann"), spans=(span, short))
    (event,) = events(then, "X")
    assert event["name"] == "waiting for 2 ann, 3, 4 and 1 more"
    assert event["args"] == {"blocked_on": [2, 3, 4, 5]}


def message(number: int, sender: int, to: int, sent: float, received: float | None) -> PastMessage:
    return PastMessage(number, sender, to, "message", sent, received)


def test_a_message_is_an_arrow_between_two_slices() -> None:
    then = past(row(1), row(2), messages=[message(1, 0, 1, 1.0, 2.0), message(2, 1, 2, 2.0, 2.0)])
    where = threads(then)
    arrows = [(event["ph"], event["id"], event["tid"], event["ts"]) for event in events(then, "s", "f")]
    assert arrows == [
        ("s", 1, where["the program"], 1_000_000),
        ("s", 2, where["1 bob: messages"], 2_000_000),
        ("f", 1, where["1 bob: messages"], 2_000_000),
        ("f", 2, where["2 bob: messages"], 2_000_000),
    ]
    names = [event["name"] for event in events(then, "X")]
    assert names == [
        "sends message to 1 bob",
        "2 messages",
        "takes message from 1 bob",
    ]


def test_a_message_that_nobody_took_or_that_came_from_one_who_is_forgotten_has_no_arrow() -> None:
    lost = message(1, 1, 2, 1.0, None)
    lost.buried = True
    then = past(row(1), row(2), messages=[lost, message(2, 7, 2, 1.0, 2.0), message(3, 1, 1, 3.0, 3.0)])
    assert events(then, "s", "f") == []
    assert next(event["args"] for event in events(then, "X")) == {
        "1": "sends message to 2 bob (a dead letter)"
    }


def test_notes_are_moments() -> None:
    then = past(row(1))
    then.picture.note("the run was interrupted", 0)
    then.picture.note("bob: denied \ud800", 1)
    assert [(event["name"], event["s"], event["tid"]) for event in events(then, "i")] == [
        ("the run was interrupted", "p", 1),
        ("bob: denied \ufffd", "t", 2),
    ]


@pytest.mark.parametrize("length", [10, 100_000])
def test_arguments_are_there_and_long_ones_are_cut(length: int) -> None:
    call = PastCall(1, "tool", "write", 0.0, 1.0, failed=True, arguments={"text": "x" * length})
    (event,) = events(past(row(1), calls=[call]), "X")
    arguments = event["args"]["arguments"]
    assert event["args"]["failed"]
    assert len(arguments) < LONGEST_ARGUMENTS + 50
    if length == 10:
        assert json.loads(arguments) == {"text": "x" * 10}
    else:
        assert "[99,012 characters left out]" in arguments


def test_every_line_between_the_first_and_the_last_is_an_event() -> None:
    lines = "".join(chrome_trace(past(row(1)), "run.db")).splitlines()
    assert all(json.loads(line.removesuffix(","))["ph"] for line in lines[1:-1])
