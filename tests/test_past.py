"""What a run had come to, told by the records of its journal."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from agentpool._core.past import Past, Spent, past_of
from agentpool._core.records import RECORDS, JournalRecord, RecordKind
from agentpool._core.usage import TokenUsage


def record(kind: Any, agent: int = 0, at: float = 0.0, /, **data: Any) -> JournalRecord:
    return JournalRecord(kind, agent, data, at)


def spawned(agent: int, *, parent: int = 0, by: int = 0, life: int = 0, key: Any = None) -> JournalRecord:
    data = {"parent": parent, "by": by, "life": life, "key": key}
    return record(
        "spawned", agent, 1.0, name=f"agent {agent}", work={"agent": None, "args": []}, options={}, **data
    )


def sent(
    number: int, to: int, *, sender: int = 0, key: Any = None, life: int = 0, ask: bool = False
) -> JournalRecord:
    return record(
        "sent", to, 2.0, id=number, ask=ask, key=key, life=life, content="hello", **{"from": sender}
    )


def operated(agent: int, key: Any, kind: str, value: Any = None, life: int = 0) -> JournalRecord:
    return record("operated", agent, 3.0, key=key, kind=kind, value=value, life=life)


def past(*records: JournalRecord) -> Past:
    return past_of([record("run", settings={}), *records])


def test_each_kind_of_record_is_explained_and_understood() -> None:
    assert set(RECORDS) == set(get_args(RecordKind))
    for kind in RECORDS:
        told = ""
        try:
            past_of([record(kind, 5)])
        except ValueError as error:
            told = str(error)
        assert repr(KeyError(kind)) not in told


def test_of_no_records_there_is_no_past() -> None:
    assert past_of([]) == Past()


def test_the_run_and_how_it_was_left() -> None:
    now = past(record("closed", 0, 7.5, how="paused"))
    assert (now.run, now.closed, now.elapsed) == ({"settings": {}}, "paused", 7.5)
    assert past(record("closed", 0, 7.5, how="paused"), record("resumed", 0, 7.0)).closed == ""
    assert past(record("closed", 0, 7.5, how="x"), record("resumed", 0, 7.0)).elapsed == 7.5


def test_agents_are_those_of_the_program_and_of_each_other() -> None:
    now = past(spawned(1), spawned(2, parent=1, by=1, key="0"), spawned(3))
    assert (now.roots, now.last_id) == ([1, 3], 3)
    assert now.agents[2].origin == (1, 0, "0")
    assert (now.agents[2].parent, now.agents[2].spawned_at) == (1, 1.0)
    spawn = now.agents[1].operations["0"]
    assert (spawn.kind, spawn.value, spawn.at) == ("spawn", 2, 1.0)


def test_operations_of_an_earlier_life_or_of_nobody_are_none() -> None:
    now = past(
        spawned(1),
        operated(1, "0", "step a"),
        operated(1, "5", "step of another life"),
        record("called", 1, loop="6", n=0, call={}),
        record("restarted", 1, 4.0, life=1),
        operated(1, "1", "step late", life=0),
        operated(1, None, "step of nobody", life=1),
        operated(1, "0", "step b", 5, life=1),
        operated(9, "0", "step of a stranger"),
    )
    agent = now.agents[1]
    assert (agent.life, agent.restarted_at) == (1, [4.0])
    assert {key: (op.kind, op.value) for key, op in agent.operations.items()} == {"0": ("step b", 5)}
    assert agent.loops == {}


@pytest.mark.parametrize(
    ("kind", "value", "taken"),
    [
        ("join", 2, [2]),
        ("take", 2, [2]),
        ("wait", 2, [2]),
        ("join", None, []),
        ("join_all", [2, 3], [2, 3]),
        ("step x", 2, []),
    ],
)
def test_an_outcome_is_given_once(kind: str, value: Any, taken: list[int]) -> None:
    now = past(
        spawned(1),
        spawned(2, parent=1, by=1, key="0"),
        spawned(3, parent=1, by=1, key="1"),
        operated(1, "2", kind, value),
    )
    assert [agent.id for agent in now.agents.values() if agent.is_taken] == taken


def test_an_agent_that_ended_keeps_its_outcome_alone() -> None:
    now = past(
        spawned(1),
        sent(1, 1),
        operated(1, "0", "step a"),
        record("listened", 1, topic="news", on=True),
        record("observed", 1, loop="1", **{"is": "remembered"}),
        record("ended", 1, 6.0, value=3),
    )
    agent = now.agents[1]
    assert now.ended == [1]
    assert agent.outcome == {"value": 3}
    assert not any([agent.operations, agent.loops, agent.inbox, agent.topics])


# -- the loop


def test_a_loop_has_what_it_observed_and_its_calls() -> None:
    now = past(
        spawned(1),
        sent(4, 1),
        record("observed", 1, loop="0", **{"is": "recalled", "messages": [{"id": 4}]}),
        record("observed", 1, loop="0", **{"is": "replied"}),
        record("called", 1, loop="0", n=0, call={"name": "add"}),
        record("called", 1, loop="0", n=1, call={"name": "sub"}),
        record("returned", 1, loop="0", n=1, result={"content": "2"}),
        record("called", 1, loop="3/1", n=0, call={"name": "other"}),
    )
    agent = now.agents[1]
    loop = agent.loop("0")
    assert [data["is"] for data in loop.observed] == ["recalled", "replied"]
    assert agent.inbox == {}
    assert [(call.call["name"], call.result) for call in loop.calls.values()] == [
        ("add", None),
        ("sub", {"content": "2"}),
    ]
    assert agent.loop("3/1").calls[0].result is None
    keys = ("0t1/0", "0t0/0", "0t7/0", "0tx/0", "5", "3/1t0/2", "0t1")
    assert [agent.is_in_finished_call(key) for key in keys] == [True, False, False, False, False, False, True]


# -- messages


def test_messages_are_in_inboxes_until_they_are_taken_or_buried() -> None:
    now = past(
        spawned(1),
        spawned(2),
        sent(1, 2, sender=1, key="0"),
        sent(2, 2),
        sent(3, 2),
        sent(9, 77),
        record("received", 2, 3.0, id=1, life=0, key="0"),
        record("buried", 2, id=3, reason="x"),
        record("buried", 77, id=9, reason="x"),
        record("buried", 2, id=8, reason="a reply that nobody waits for"),
    )
    assert list(now.agents[2].inbox) == [2]
    assert now.last_message == 9
    send, receive = now.agents[1].operations["0"], now.agents[2].operations["0"]
    assert (send.kind, send.value) == ("send", {"id": 1, "to": 2})
    assert (receive.kind, receive.value["content"], receive.at) == ("receive", "hello", 3.0)


def test_a_message_is_received_once() -> None:
    took = record("received", 2, id=1, life=0, key=None)
    with pytest.raises(ValueError, match=r"record 5 \(received\) does not fit"):
        past(spawned(2), sent(1, 2), took, took)


def test_a_question_is_open_until_it_is_answered_or_left() -> None:
    asked = (spawned(1), spawned(2), sent(1, 2, sender=1, key="0", ask=True))
    now = past(*asked)
    assert now.questions == {1: (1, 0, "0")}
    assert now.agents[1].operations["0"].kind == "ask"
    reply = record("replied", 2, 4.0, id=1, reply=2, content="yes", life=0, key="0")
    answered = past(*asked, reply)
    assert answered.questions == {}
    assert answered.last_message == 2
    assert answered.agents[1].operations["0"].value == {"id": 1, "to": 2, "content": "yes"}
    assert answered.agents[2].operations["0"].kind == "reply"
    left = past(*asked, operated(1, "0", "left", 1), reply)
    assert (left.questions, left.agents[1].operations["0"].kind) == ({}, "left")
    # the program's questions are asked again by nobody
    assert past(spawned(2), sent(1, 2, ask=True)).questions == {}


def test_topics_are_heard_until_they_are_left() -> None:
    heard = [record("listened", 1, topic=topic, on=True) for topic in ("a", "b", "a")]
    off = [record("listened", 1, topic=topic, on=False) for topic in ("a", "c")]
    assert list(past(spawned(1), *heard).agents[1].topics) == ["a", "b"]
    assert list(past(spawned(1), *heard, *off).agents[1].topics) == ["b"]


# -- budgets


def family() -> tuple[JournalRecord, ...]:
    return spawned(1), spawned(2, parent=1, by=1, key="0"), spawned(3, parent=2, by=2, key="0")


def test_what_a_call_took_counts_for_the_agent_and_for_all_above_it() -> None:
    usage = {"input_tokens": 3, "output_tokens": 4}
    now = past(
        *family(),
        record("reserved", 3, n=1, took=[90, 900, 1], slack=[1, 2, 0]),
        record("settled", 3, n=1, took=[7, 70, 1], slack=[1, 2, 0], usage=usage),
    )
    assert now.agents[3].spent == Spent(7, 70, 1)
    assert now.agents[2].spent == now.agents[1].spent == now.spent == Spent(8, 72, 1)
    assert now.agents[3].usage == now.usage == TokenUsage(**usage)
    assert now.agents[2].usage == TokenUsage()
    assert now.last_call == 1


def test_what_was_set_aside_at_a_crash_counts_as_spent_once() -> None:
    open_call = record("reserved", 3, n=5, took=[90, 900, 1], slack=[1, 2, 0])
    now = past(*family(), open_call)
    assert now.agents[3].spent == Spent(90, 900, 1)
    assert now.agents[1].spent == now.spent == Spent(91, 902, 1)
    assert now.last_call == 5
    assert past(*family(), open_call, record("resumed"), record("resumed")).spent == Spent(91, 902, 1)


def test_calls_of_no_known_agent_count_for_the_run() -> None:
    settled = record("settled", 9, n=1, took=[7, 70, 1], slack=[0, 0, 0], usage={"input_tokens": 7})
    now = past(settled)
    assert now.spent == Spent(7, 70, 1)
    assert now.usage.input_tokens == 7


# -- approvals


def test_a_call_is_asked_about_once_and_has_its_answer() -> None:
    asked = [record("asked", 1, hash="abc", tool=tool) for tool in ("first", "again")]
    now = past(spawned(1), *asked)
    assert (now.approvals["abc"].asked["tool"], now.approvals["abc"].decided) == ("first", None)
    decided = past(spawned(1), *asked, record("decided", 1, hash="abc", allow=True))
    assert decided.approvals["abc"].decided == {"hash": "abc", "allow": True}


@pytest.mark.parametrize(
    "wrong",
    [
        record("decided", 1, hash="unknown"),
        record("returned", 1, loop="0", n=3, result={}),
        record("restarted", 8, life=1),
        record("settled", 1, n=1, took=[1, 2], slack=[0, 0, 0], usage={}),
        record("settled", 1, n=1, took=[1, 2, 3], slack=[0, 0, 0], usage={"odd": 1}),
        record("settled", 1, n="x", took=[1, 2, 3], slack=[0, 0, 0], usage={}),
        record("closed"),
        JournalRecord("spawned", 2, ["no", "dict"]),  # type: ignore[arg-type]
        operated(1, "0", "join", 44),
        JournalRecord("ended", 1, {}, "late"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_named(wrong: JournalRecord) -> None:
    with pytest.raises(ValueError, match=rf"record 3 \({wrong.kind}\) does not fit"):
        past(spawned(1), wrong)


def test_a_kind_that_is_not_known_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"record 1 \(later\) does not fit: KeyError"):
        past_of([record("later")])
