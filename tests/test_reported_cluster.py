"""What users of comparable systems reported of work on other processes and machines, in its situation here.

Each test names the report. What went wrong there is looked at as a kind, varied where that makes sense.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
import threading
from typing import Any, TypeVar

import attrs
import pytest

from agentpool import Completed, Failed, TokenUsage
from agentpool._core.errors import RemoteError
from agentpool._remote.codec import outcome_from_bytes, outcome_to_bytes

# -- errors and values between processes -----------------------------------------------------------


class NeedsTwo(Exception):
    """Cannot be made again of its `args`."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"status {status}: {body}")
        self.status = status


class NeedsKeywords(Exception):
    """As the errors of the SDKs of models."""

    def __init__(self, message: str, *, response: object, body: object) -> None:
        super().__init__(message)
        self.response, self.body = response, body


class AsksWhatItGets(Exception):
    def __init__(self, stuff: Any) -> None:
        super().__init__(stuff.two)


class HoldsALock(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class WithoutText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class RaisesWhenSent(Exception):
    def __reduce__(self) -> Any:
        raise ValueError("not me")


class BecomesANumber(Exception):
    def __reduce__(self) -> Any:
        return int, (3,)


class EndsWhoLoadsIt(Exception):
    """As one whose module is a script that ends with `sys.exit(main())`."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class EndsWhoSendsIt(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class Two:
    two = 2


@attrs.frozen(auto_exc=True)
class FrozenError(Exception):
    number: int


@dataclasses.dataclass(frozen=True)
class FrozenDataError(Exception):
    number: int


UNLOADABLE = [
    NeedsTwo(404, "gone"),
    NeedsKeywords("overloaded", response=None, body=None),
    AsksWhatItGets(Two()),
    FrozenDataError(3),
    HoldsALock("locked"),
    RaisesWhenSent("shy"),
    BecomesANumber("three"),
    EndsWhoLoadsIt("script"),
    EndsWhoSendsIt("script"),
    type("Local", (Exception,), {})("local"),
]


E = TypeVar("E", bound=BaseException)


def facts() -> dict[str, Any]:
    return {
        "agent_id": 3,
        "name": "a",
        "parent_id": 0,
        "usage": TokenUsage(),
        "started_at": 1.0,
        "duration": 2.0,
        "restarts": 0,
    }


def brought(error: BaseException) -> BaseException:
    """The error of an agent at a worker, as the head has it."""
    outcome = outcome_from_bytes(outcome_to_bytes(pickle.dumps, Failed(**facts(), error=error)), "worker 1")
    assert isinstance(outcome, Failed)
    return outcome.error


def raised(error: E, cause: BaseException | None = None) -> E:
    try:
        raise error from cause
    except type(error):
        return error


@pytest.mark.parametrize("error", UNLOADABLE, ids=lambda error: type(error).__name__)
def test_an_error_that_cannot_be_loaded_is_told_with_type_text_and_traceback(error: Exception) -> None:
    """python/cpython#103061, #79492, agronholm/pythonfutures#30, celery/celery#2943, Parsl/parsl#546,
    ray-project/ray#20830, ray-project/llm-applications#91: it killed or hung whoever waited for results,
    or another error hid it."""
    told = brought(raised(error))
    assert isinstance(told, RemoteError)
    assert (told.type_name, told.text) == (type(error).__qualname__, str(error))
    assert "in raised\n    raise error from cause" in told.traceback
    assert str(error) in str(told)


@pytest.mark.parametrize("error", [FrozenError(3), StopIteration(3), GeneratorExit()])
def test_a_strange_error_that_can_be_loaded_is_itself_with_its_traceback(error: BaseException) -> None:
    """ray-project/ray#60301, run-house/kubetorch#721: it crashed the caller, or had no traceback."""
    told = brought(raised(error, KeyError("why")))
    assert type(told) is type(error)
    assert told.args == error.args
    assert isinstance(told.__cause__, KeyError)
    (note,) = told.__notes__
    assert note.startswith("raised in worker 1:\n")
    assert "in raised\n    raise error from cause" in note


def test_an_error_without_a_text_arrives() -> None:
    """ray-project/ray#4149: telling of the error raised, and nothing was told."""
    told = brought(raised(WithoutText()))
    assert type(told) is WithoutText


def test_the_causes_of_an_error_arrive_each_as_far_as_it_can() -> None:
    """dask/distributed#2530, #3158, cloudpipe/cloudpickle#248: `raise ... from ...` lost what it was from."""
    first = raised(KeyError("first"))
    second = raised(NeedsTwo(500, "second"), first)
    told = brought(raised(ValueError("third"), second))
    assert type(told) is ValueError
    assert isinstance(told.__cause__, RemoteError)
    assert told.__cause__.text == "status 500: second"
    assert isinstance(told.__cause__.__cause__, KeyError)
    assert "KeyError: 'first'" in told.__notes__[0]
    assert "NeedsTwo: status 500: second" in told.__notes__[0]


def test_an_error_that_is_its_own_cause_arrives() -> None:
    error, other = ValueError("a"), ValueError("b")
    error.__cause__, other.__cause__ = other, error
    assert str(brought(error)) == "a"


def test_one_part_of_a_group_that_cannot_be_loaded_leaves_the_others_what_they_are() -> None:
    """dask/distributed#173, argilla-io/distilabel#543: what cannot be loaded took with it what can; `except*` found
    nothing."""
    inner = ExceptionGroup("inner", [raised(OSError(2, "gone")), raised(NeedsTwo(1, "x"))])
    group = ExceptionGroup("tasks", [raised(ValueError("v")), inner])
    group.add_note("of three tasks")
    told = brought(raised(group))
    assert isinstance(told, ExceptionGroup)
    assert told.message == "tasks"
    found, rest = told.split((ValueError, OSError))
    assert found is not None
    assert rest is not None
    assert [type(each) for each in found.exceptions] == [ValueError, ExceptionGroup]
    (lost,) = rest.exceptions[0].exceptions
    assert isinstance(lost, RemoteError)
    assert lost.type_name == "NeedsTwo"
    assert told.__notes__[0] == "of three tasks"


@pytest.mark.parametrize(
    "value",
    [
        lambda: 3,
        threading.Lock(),
        (each for each in "ab"),
        EndsWhoLoadsIt(),
        EndsWhoSendsIt(),
        RaisesWhenSent(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_result_that_cannot_be_brought_fails_its_agent_with_words(value: Any) -> None:
    """python/cpython#74734, #116685, noxdafox/pebble#146: the caller waited for ever."""
    outcome = outcome_from_bytes(
        outcome_to_bytes(pickle.dumps, Completed(**facts(), value=value)), "worker 1"
    )
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, RemoteError)
    assert outcome.error.text.startswith("what agent 3 (a) returned cannot be ")


@pytest.mark.parametrize("value", [ValueError("a value"), b"bytes", None, Failed(**facts(), error=OSError())])
def test_a_result_that_looks_like_something_else_is_a_result(value: Any) -> None:
    outcome = outcome_from_bytes(
        outcome_to_bytes(pickle.dumps, Completed(**facts(), value=value)), "worker 1"
    )
    assert isinstance(outcome, Completed)
    assert type(outcome.value) is type(value)
