from __future__ import annotations

import enum
from typing import Any

import attrs
import pytest

from agentpool._core.events import AgentFinished, AgentSpawned, AgentStarted
from agentpool._core.outcomes import Completed, Failed
from agentpool.testing import EventLog, Note
from agentpool.testing._log import describe


class Colour(enum.Enum):
    RED = 1


@attrs.define(eq=False)
class Identity:
    other: Any = None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (1.5, "1.5"),
        ("a", "'a'"),
        (Colour.RED, "Colour.RED"),
        ({"b": 1, "a": 2}, "{'b': 1, 'a': 2}"),
        ({"b", "a", "c"}, "{'a', 'b', 'c'}"),
        (frozenset({3}), "{3}"),
        ([1, (2,)], "[1, (2)]"),
        (ValueError("x", 1), "ValueError('x', 1)"),
        (ExceptionGroup("g", [KeyError(1)]), "ExceptionGroup('g', [KeyError(1)])"),
        (describe, "<agentpool.testing._log.describe>"),
        (int, "<builtins.int>"),
        (object(), "<object object>"),
        (Identity(), "Identity(other=None)"),
        (Note(1.0, "x"), "Note(time=1.0, text='x')"),
    ],
)
def test_a_description_holds_no_address_and_no_hash_order(value: object, text: str) -> None:
    assert describe(value) == text


def test_a_value_that_contains_itself_is_described_in_part() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert describe(loop).count("[") == 12


def outcome(value: object) -> AgentFinished:
    done = Completed(agent_id=1, name="a", parent_id=0, value=value)
    return AgentFinished(seq=3, time=2.0, agent_id=1, parent_id=0, outcome=done)


SPAWNED = AgentSpawned(seq=1, time=0.0, agent_id=1, parent_id=0, name="a")
STARTED = AgentStarted(seq=2, time=0.0, agent_id=1, parent_id=0)


def test_logs_with_the_same_bytes_are_equal() -> None:
    one, other = EventLog([SPAWNED, outcome({"x", "y"})]), EventLog()
    other.append(SPAWNED)
    assert one != other
    other.append(outcome({"y", "x"}))
    assert one == other
    assert one.digest == other.digest
    assert one != [SPAWNED]
    assert len(bytes(one).splitlines()) == 2


def test_a_difference_is_shown_as_a_diff() -> None:
    one, other = EventLog([SPAWNED, STARTED, outcome(1)]), EventLog([SPAWNED, STARTED, outcome(2)])
    assert one.diff(one) == ""
    assert "-AgentFinished" in one.diff(other)
    assert "+AgentFinished" in one.diff(other)


def test_entries_are_found_by_type_and_by_agent() -> None:
    log = EventLog([SPAWNED, Note(0.0, "hello"), outcome(1)])
    assert log.of(AgentSpawned) == [SPAWNED]
    assert log.about(1) == [SPAWNED, outcome(1)]
    assert list(log) == [log[0], log[1], log[2]]
    assert log[:1] == [SPAWNED]
    assert "3 entries" in repr(log)
    assert str(log).splitlines()[1] == "Note(time=0.0, text='hello')"


def test_an_error_in_an_outcome_is_described_by_type_and_arguments() -> None:
    failed = Failed(agent_id=1, name="a", parent_id=0, error=ValueError("no"))
    assert "error=ValueError('no')" in describe(failed)
