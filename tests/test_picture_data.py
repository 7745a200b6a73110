"""The picture as JSON data: everything once, and then what has changed, however often a client asks."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_kit import Client, Told, check_lanes, outcome_of, request_of

from agentpool._core import events as ev
from agentpool._core.approval import ApprovalRequest, Approved, Denied, Question
from agentpool._core.messages import AgentMessage, Completion, CompletionRequest, ToolCall, ToolResult
from agentpool._core.picture import Picture
from agentpool._core.picture_data import LONGEST_TEXT, MOST_VALUES, approval_data, changes_since
from agentpool._core.usage import NO_USAGE, TokenUsage


def as_json(data: Any) -> Any:
    """The data after it was on the wire; raises where it is no JSON."""
    text = json.dumps(data, allow_nan=False)
    json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    return json.loads(text)


def everything(picture: Picture) -> Any:
    return as_json(changes_since(picture, 0))


# -- the keys ------------------------------------------------------------


def test_a_picture_of_nothing() -> None:
    assert everything(Picture()) == {
        "version": 0,
        "time": 0.0,
        "agents": [],
        "gone": [],
        "spans": [],
        "arrows": [],
        "notes": [],
        "dropped": {"spans": 0, "arrows": 0, "agents": 0},
        "totals": {
            "tokens": 0,
            "cost": 0.0,
            "spawned": 0,
            "completed": 0,
            "failed": 0,
            "aborted": 0,
            "rates": {"tokens": 0.0, "cost": 0.0, "calls": 0.0, "ends": 0.0},
        },
    }


def test_times_are_seconds_since_the_run_began() -> None:
    told = Told()
    told.picture.note("before it began")
    told.spawn(1, starts=False)
    told.tell(ev.AgentStarted, 1, after=2)
    told.sample({1: (2,)}, after=1)
    told.sample({1: (2, 3)}, after=1)
    told.sends(1, 2, 7, is_question=True, after=0.5)
    told.picture.note("now", 1)
    told.ends(1, after=0.25)
    found = everything(told.picture)
    assert found["time"] == 4.75
    assert found["agents"] == [
        {
            "id": 1,
            "name": "a1",
            "spawned": 0.0,
            "started": 2.0,
            "ended": 4.75,
            "state": "completed",
            "sent": 1,
        }
    ]
    assert found["spans"] == [
        [1, "starting", 0.0, 2.0],
        [1, "running", 2.0, 3.0],
        [1, "waiting", 3.0, 4.0, "", [2]],
        [1, "waiting", 4.0, 4.5, "", [2, 3]],
        [1, "running", 4.5, 4.75],
    ]
    assert found["arrows"] == [[4.5, 1, 2, 7, "question"]]
    assert found["notes"] == [[0.0, 0, "before it began"], [4.5, 1, "now"]]


def test_a_row_with_everything() -> None:
    told = Told()
    told.spawn(1)
    told.spawn(2, parent_id=1)
    told.phase(2, "reason", 3)
    told.answers(2, told.asks_model(2, "opus"), "Hi \ud83d", TokenUsage(10, 20, cost_usd=0.1234567))
    told.phase(2, "act", 3)
    told.starts_tool(2, "look")
    told.sends(2, 1, 1)
    told.sends(1, 2, 2)
    told.tell(ev.MessageDeadLettered, 1, AgentMessage(1, 2, "x"), "full")
    told.sample({}, 2, after=1)
    row = everything(told.picture)["agents"][1]
    assert row == {
        "id": 2,
        "name": "a2",
        "parent": 1,
        "depth": 1,
        "spawned": 0.0,
        "started": 0.0,
        "phase": "act",
        "turn": 3,
        "model": "opus",
        "tools": 1,
        "calls": 1,
        "tokens": 30,
        "cost": 0.123457,
        "sent": 1,
        "heard": 1,
        "dead": 1,
        "words": "Hi \ufffd",
        "stuck": True,
        "kind": "acting",
        "since": 0.0,
        "detail": "look",
    }
    told.tell(ev.AgentRestarted, 2, 1, outcome_of(2, 1, "failed"))
    told.picture.retrying(2, "overloaded", told.time + 1, told.time)
    row = everything(told.picture)["agents"][1]
    assert (row["restarts"], row["state"], row["kind"]) == (1, "restarting", "retrying")
    assert row["retry"] == row["detail"] == "overloaded"
    told.sample({2: (1,)}, after=2)
    row = everything(told.picture)["agents"][1]
    assert (row["kind"], row["blocked_on"]) == ("waiting", [1])
    assert "retry" not in row
    told.ends(2, "failed", ValueError("no"))
    row = everything(told.picture)["agents"][1]
    assert (row["reason"], row["state"]) == ("ValueError: no", "failed")


def test_totals_are_of_the_whole_run() -> None:
    told = Told(Picture(ended_kept=1))
    for number in (1, 2, 3):
        told.spawn(number)
        told.answers(number, told.asks_model(number), "x", TokenUsage(5, 5, cost_usd=0.01))
        told.ends(number, ("completed", "failed", "aborted")[number - 1])
    assert everything(told.picture)["totals"] == {
        "tokens": 30,
        "cost": 0.03,
        "spawned": 3,
        "completed": 1,
        "failed": 1,
        "aborted": 1,
        "rates": {"tokens": 30.0, "cost": 0.03, "calls": 3.0, "ends": 3.0},
    }
    assert everything(told.picture)["dropped"] == {"spans": 0, "arrows": 0, "agents": 2}


@pytest.mark.parametrize("cost", [math.nan, math.inf, -math.inf])
def test_a_price_that_is_no_number_is_not_told(cost: float) -> None:
    told = Told()
    told.spawn(1)
    told.answers(1, told.asks_model(1), "x", TokenUsage(5, 5, cost_usd=cost))
    found = everything(told.picture)
    assert found["totals"]["cost"] == found["totals"]["rates"]["cost"] == 0.0
    assert "cost" not in found["agents"][0]
    told.ends(1)
    everything(told.picture)


# -- what is newer ------------------------------------------------------------


def test_only_what_has_changed_is_told() -> None:
    told = Told()
    for number in range(1, 6):
        told.spawn(number)
    client = Client()
    client.ask(told.picture)
    assert list(client.agents) == [1, 2, 3, 4, 5]
    nothing = client.ask(told.picture)
    assert [nothing[key] for key in ("agents", "spans", "arrows", "notes", "gone")] == [[]] * 5
    told.phase(4, "act", after=1)
    told.phase(2, "act", after=1)
    told.sends(2, 4)
    told.picture.note("x")
    new = client.ask(told.picture)
    assert [row["id"] for row in new["agents"]] == [2, 4]
    assert [span[0] for span in new["spans"]] == [4, 2]
    assert (len(new["arrows"]), len(new["notes"])) == (1, 1)
    assert list(client.agents) == [1, 2, 3, 4, 5]


def test_a_client_from_another_time_is_told_nothing() -> None:
    told = Told()
    told.spawn(1)
    assert changes_since(told.picture, told.picture.version + 100)["agents"] == []


def test_agents_that_go_are_told_to_whoever_saw_them() -> None:
    told = Told(Picture(ended_kept=2))
    told.spawn(1)
    told.ends(1)
    client, late = Client(), Client()
    client.ask(told.picture)
    for number in (2, 3):
        told.spawn(number)
        told.ends(number)
    assert client.ask(told.picture)["gone"] == [1]
    assert late.ask(told.picture)["gone"] == []
    assert client.agents == late.agents
    assert set(client.agents) == {2, 3}


def test_an_agent_that_is_heard_of_after_it_was_forgotten_is_there_again() -> None:
    told, client = Told(Picture(ended_kept=1)), Client()
    told.spawn(1)
    told.ends(1)
    client.ask(told.picture)
    told.spawn(2)
    told.ends(2)
    assert told.picture.forgotten == 1
    told.phase(1, "act")
    assert client.ask(told.picture)["gone"] == []
    assert set(client.agents) == {1, 2}
    assert (told.picture.forgotten, client.totals["spawned"]) == (0, 2)


def test_who_missed_that_agents_went_begins_anew() -> None:
    told = Told(Picture(ended_kept=1))
    told.spawn(1)
    told.ends(1)
    client = Client()
    client.ask(told.picture)
    for number in (2, 3, 4):
        told.spawn(number)
        told.ends(number)
    assert client.ask(told.picture)["reset"] is True
    assert set(client.agents) == {4}
    assert "reset" not in client.ask(told.picture)
    assert "reset" in changes_since(told.picture, told.picture.gone_before - 1)
    assert "reset" not in changes_since(told.picture, told.picture.gone_before)  # it has seen that one go


IDS = st.integers(1, 6)
SPAWN = "spawn"
DOINGS = st.one_of(
    st.tuples(st.just(SPAWN), IDS, st.integers(0, 5)),
    st.tuples(st.sampled_from(["start", "loop", "delta", "asks", "answers", "fails", "stuck"]), IDS),
    st.tuples(st.sampled_from(["completed", "failed", "aborted"]), IDS),
    st.tuples(st.just("phase"), IDS, st.sampled_from(["perceive", "reason", "act", "done"])),
    st.tuples(st.sampled_from(["tool", "tool ends", "approval", "decided", "restart"]), IDS),
    st.tuples(st.sampled_from(["sends", "buried"]), st.integers(0, 6), IDS),
    st.tuples(st.just("retry"), IDS, st.floats(0, 3)),
    st.tuples(st.just("sample"), st.dictionaries(IDS, st.lists(IDS, max_size=3).map(tuple)), st.sets(IDS)),
    st.tuples(st.just("note"), IDS),
)
STEPS = st.lists(st.tuples(DOINGS, st.sampled_from([0.0, 0.0, 0.0004, 0.1, 1.0]), st.booleans()), max_size=60)


def do(told: Told, doing: tuple[Any, ...], asked: dict[int, int]) -> None:
    """Tell of something that an agent does, whether or not it could."""
    what, first, *rest = doing
    match what:
        case "spawn":
            parent = min(rest[0], first - 1)
            told.parents.setdefault(first, parent)
            told.tell(ev.AgentSpawned, first, f"a{first}")
        case "start":
            told.tell(ev.AgentStarted, first)
        case "loop":
            told.tell(ev.LoopFinished, first)
        case "delta":
            told.tell(ev.TextDeltaReceived, first, "word ")
        case "asks":
            asked[first] = told.asks_model(first)
        case "answers":
            told.answers(first, asked.get(first, 0), "x", TokenUsage(1, 2, cost_usd=0.5))
        case "fails":
            told.answers(first, asked.get(first, 0), error=OSError())
        case "stuck":
            told.tell(ev.AgentStuck, first, "a", ())
        case "completed" | "failed" | "aborted":
            told.ends(first, what, "why" if what == "aborted" else None)
        case "phase":
            told.phase(first, rest[0])
        case "tool":
            told.starts_tool(first, "look")
        case "tool ends":
            told.ends_tool(first, ToolCall("look", "look"))
        case "approval":
            told.tell(ev.ApprovalRequested, first, request_of(first, "look"))
        case "decided":
            told.tell(ev.ApprovalDecided, first, request_of(first, "look"), Denied("no"))
        case "restart":
            told.tell(ev.AgentRestarted, first, 1, outcome_of(first, 0, "failed"), 1.0)
        case "sends":
            told.sends(first, rest[0])
        case "buried":
            told.tell(ev.MessageDeadLettered, first, AgentMessage(first, rest[0], "x"), "ended")
        case "retry":
            told.picture.retrying(first, "why", told.time + rest[0], told.time)
        case "sample":
            told.picture.sample(first, rest[0], told.time)
        case _:
            told.picture.note("note", first)


@given(STEPS)
def test_batches_in_order_give_what_one_gives(steps: list[tuple[tuple[Any, ...], float, bool]]) -> None:
    told = Told(Picture(spans_kept=8, arrows_kept=3, notes_kept=3, ended_kept=2))
    asked: dict[int, int] = {}
    often, seldom = Client(), Client()
    version = 0
    for doing, seconds, asks in steps:
        told.time += seconds
        do(told, doing, asked)
        assert told.picture.version >= version
        version = told.picture.version
        often.ask(told.picture)
        if asks:
            seldom.ask(told.picture)
    fresh = Client()
    fresh.ask(told.picture)
    for client in (often, seldom):
        client.ask(told.picture)
        assert client.agents == fresh.agents
        assert (client.totals, client.dropped) == (fresh.totals, fresh.dropped)
        # Whoever was told of something that is dropped by now has it still.
        for name in ("spans", "arrows", "notes"):
            had, has = getattr(client, name), getattr(fresh, name)
            assert had[len(had) - len(has) :] == has
    versions = [span.version for span in told.picture.spans]
    assert versions == sorted(versions)
    assert list(told.picture.changed) == [
        row.id for row in sorted(told.picture.rows.values(), key=lambda row: row.version)
    ]
    assert len(told.picture.gone) <= 2


@given(STEPS)
def test_lanes_have_neither_overlaps_nor_gaps(steps: list[tuple[tuple[Any, ...], float, bool]]) -> None:
    told = Told()
    asked: dict[int, int] = {}
    for doing, seconds, _ in steps:
        told.time += seconds
        do(told, doing, asked)
        check_lanes(told.picture)
    ended = [row for row in told.picture.rows.values() if row.has_ended]
    assert sum(told.picture.ends.values()) == len(ended)
    used = sum((row.usage for row in told.picture.rows.values()), NO_USAGE)
    assert used.total_tokens == told.picture.usage.total_tokens


# -- words of strangers ------------------------------------------------------------

TEXTS = st.one_of(
    st.text(st.characters(), max_size=30),
    st.text(st.characters(categories=["Cs", "Cc"]), max_size=30),
    st.sampled_from(["\ud83d", "\ude00\ud83d", "x" * 5000, "\u2028</script>\x00\x1b[2J"]),
)


@given(st.lists(TEXTS, min_size=8, max_size=8))
def test_any_words_are_json(words: list[str]) -> None:
    name, model, text, tool, why, reason, note, delta = words
    told = Told()
    told.spawn(1, name=name)
    told.phase(1, "reason")
    asked = told.asks_model(1, model)
    told.tell(ev.TextDeltaReceived, 1, delta)
    told.tell(ev.TextDeltaReceived, 1, text)
    told.answers(1, asked, text)
    told.picture.retrying(1, why, told.time + 1, told.time)
    told.picture.note(note)
    everything(told.picture)
    told.phase(1, "act", after=2)
    told.starts_tool(1, tool)
    told.starts_tool(1, tool)
    told.sample({}, after=1)
    told.tell(ev.GuardWarned, 1, note)
    told.ends(1, "failed", ValueError(reason), after=1)
    found = everything(told.picture)
    assert len(found["agents"]) == 1


def test_an_answer_whose_halves_of_a_pair_come_apart_is_whole_again() -> None:
    told = Told()
    told.spawn(1)
    told.asks_model(1)
    told.tell(ev.TextDeltaReceived, 1, "\ud83d")
    assert everything(told.picture)["agents"][0]["words"] == "\ufffd"
    told.tell(ev.TextDeltaReceived, 1, "\ude00")
    assert everything(told.picture)["agents"][0]["words"] == "\U0001f600"


# -- approvals ------------------------------------------------------------


class Bad:
    def __repr__(self) -> str:
        raise ValueError


def test_what_a_person_is_asked() -> None:
    request = request_of(3, "write_file", path="a.txt", text="Hi")
    assert as_json(approval_data(request)) == {
        "hash": request.hash,
        "agent": 3,
        "name": "a3",
        "tool": "write_file",
        "arguments": {"path": "a.txt", "text": "Hi"},
        "rule": "ask",
        "question": None,
    }
    question = Question("files", "Which one?", {"type": "object", "properties": {}}, "https://a.example")
    assert as_json(approval_data(request.asking(question)))["question"] == {
        "server": "files",
        "message": "Which one?",
        "schema": {"type": "object", "properties": {}},
        "url": "https://a.example",
    }


def asked_with(arguments: Mapping[str, Any], taken: Mapping[str, Any] | None = None) -> Any:
    request = ApprovalRequest(1, "a", ToolCall("1", "look", arguments), "ask", "0" * 64, taken)
    return as_json(approval_data(request))["arguments"]


def test_arguments_that_are_no_json_are_told_as_text() -> None:
    day = datetime.date(2026, 1, 2)
    found = asked_with(
        {},
        {
            "nan": math.nan,
            "inf": -math.inf,
            "large": 2**53 + 1,
            "huge": 10**5000,
            "day": day,
            "bytes": b"\xff",
            "bad": Bad(),
            "tuple": (1, 2.5, None, True),
            "set": {"x"},
            "surrogate": "\ud83d",
            7: "seven",
        },  # type: ignore[dict-item]
    )
    assert found == {
        "nan": "nan",
        "inf": "-inf",
        "large": "9007199254740993",
        "huge": "<int whose repr raises ValueError>",
        "day": "datetime.date(2026, 1, 2)",
        "bytes": "b'\\xff'",
        "bad": "<Bad whose repr raises ValueError>",
        "tuple": [1, 2.5, None, True],
        "set": ["x"],
        "surrogate": "\ufffd",
        "7": "seven",
    }


def test_arguments_that_are_nested_in_themselves_come_to_an_end() -> None:
    within: dict[str, Any] = {}
    within["again"] = [within]
    found = asked_with(within)
    for _ in range(9):
        found = found["again"][0]
    assert len(json.dumps(found)) < 1000


def test_arguments_that_nobody_can_read_are_cut_and_say_so() -> None:
    found = asked_with({"text": "x" * (LONGEST_TEXT + 1000), "many": list(range(10**6)), "more": 1})
    assert found["text"] == "x" * LONGEST_TEXT + "... 1,000 more characters"
    assert len(found["many"]) <= MOST_VALUES + 1
    assert found["many"][-1].startswith("... ")
    assert found["many"][-1].endswith(" more")
    assert found["..."] == "1 more"


JSON_LIKE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.binary(max_size=5)),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(TEXTS, inner), st.tuples(inner, inner)),
    max_leaves=20,
)


@given(st.dictionaries(TEXTS, JSON_LIKE, max_size=5), TEXTS)
def test_any_arguments_are_json(arguments: dict[str, Any], text: str) -> None:
    call = ToolCall(text, text, arguments)
    question = Question(text, text, arguments, text)
    request = ApprovalRequest(1, text, call, text, "0" * 64, None, question)
    as_json(approval_data(request))


def test_a_request_of_a_copy_stays_as_it_was_asked() -> None:
    told = Told()
    told.spawn(1)
    request = request_of(1, "look")
    told.tell(ev.ApprovalRequested, 1, request)
    assert list(told.row(1).asking.values()) == [request]
    told.tell(ev.ApprovalDecided, 1, request, Approved())
    assert not told.row(1).asking


def test_what_travels_is_small_where_little_has_changed() -> None:
    told = Told()
    for number in range(1, 1001):
        told.spawn(number)
    client = Client()
    client.ask(told.picture)
    request = CompletionRequest(model="m", messages=())
    told.tell(ev.ModelCallStarted, 5, request, "m", "p", "", False)
    told.tell(ev.ModelCallFinished, 5, told.seq, Completion("x" * 5000), None, False, 1.0, None)
    told.tell(ev.ToolFinished, 5, ToolCall("1", "t"), ToolResult("x" * 5000), 1.0)
    assert len(json.dumps(client.ask(told.picture))) < 1500
