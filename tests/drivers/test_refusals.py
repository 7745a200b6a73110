"""What servers refuse, and how: the error that it is, the wait, and what is learned of it."""

from __future__ import annotations

import pytest
from corpus_refusals import LESSONS, REFUSALS, Lesson, Said

from agentpool._core.errors import DriverError, DriverUnavailableError, OverloadedError, RateLimitedError
from agentpool.drivers._chat import ChatDialect
from agentpool.drivers._learning import NO_LESSONS, Lessons, learned
from agentpool.drivers._refusals import (
    LONGEST_TEXT,
    Refusal,
    error_of,
    is_page,
    refusal_of,
    retry_after_seconds,
)


@pytest.mark.parametrize("said", REFUSALS, ids=lambda said: said.why)
def test_a_refusal_is_the_error_that_it_stands_for(said: Said) -> None:
    error = error_of(refusal_of(said.body, said.status, said.headers))
    assert type(error) is said.kind
    assert str(error)
    if isinstance(error, RateLimitedError | OverloadedError):
        assert error.retry_after == (None if said.retry_after is None else pytest.approx(said.retry_after))


def test_a_refusal_after_a_part_of_an_answer_may_have_cost() -> None:
    for body in ({"error": "boom"}, {"error": {"message": "x", "code": 429}}):
        assert error_of(refusal_of(body, None, begun=True)).may_have_cost
        assert not error_of(refusal_of(body, None)).may_have_cost
    assert not error_of(refusal_of({"error": {"message": "invalid key"}}, None, begun=True)).may_have_cost


def test_words_are_kept_as_they_are_but_not_without_end() -> None:
    assert refusal_of({"error": {"message": "x" * 5000}}, 400).text == "x" * LONGEST_TEXT
    assert refusal_of("", 418).text == "HTTP status 418 without words"
    assert refusal_of({}, None).text == "an error without words"
    assert (
        refusal_of("<html><title>Log\n in</title>", 200).text == "a web page (HTML) with the title 'Log in'"
    )
    assert refusal_of("<!DOCTYPE html><p>", 200).text == "a web page (HTML)"
    assert (
        refusal_of({"error": {"message": "Provider error", "metadata": {"raw": "why"}}}, 500).text
        == "Provider error (why)"
    )
    assert refusal_of({"error": {"metadata": {"raw": "why"}}}, 500).text == "why"
    assert refusal_of({"error": {"message": {"odd": 1}}}, 500).text == '{"odd": 1}'
    assert refusal_of({"error": {"message": "{no json"}}, 500).text == "{no json"
    assert refusal_of({"error": {"message": 7}}, 500).text == "7"
    assert refusal_of({"error": {"message": '{"odd": 1}'}}, 500).text == '{"odd": 1}'


def test_the_parameter_is_named() -> None:
    assert refusal_of({"error": {"message": "no", "param": "stop"}}, 400).parameter == "stop"
    param = "The reasoning_content must be passed back"
    refusal = refusal_of({"error": {"message": "Param Incorrect", "param": param}}, 400)
    assert (refusal.text, refusal.parameter) == (f"Param Incorrect: {param}", "")
    assert refusal_of({"error": {"param": param}}, 400).text == param
    assert refusal_of({"detail": [{"loc": ["body", "a", 0], "msg": "no"}]}, 422).parameter == "a.0"


def test_pages_are_told() -> None:
    assert is_page("  <!DOCTYPE html><html>")
    assert is_page("<HTML>")
    assert not is_page('{"a": "<html>"}')


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Wed, 99 Foo 2026"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:05 GMT"}, 0.0),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, now=10.0) == seconds


def test_a_wait_in_words_that_is_none() -> None:
    for delay in ("soon", "", 7, "s"):
        body = {"error": {"message": "limit", "details": [{"retryDelay": delay}]}}
        assert refusal_of(body, 429).retry_after is None
    assert refusal_of({"error": {"message": "x", "retry_after": True}}, 429).retry_after is None
    assert refusal_of({"error": {"message": "try again in 2 hours"}}, 429).retry_after == 7200.0


# -- what is learned ------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.why)
def test_what_is_learned_of_a_refusal(lesson: Lesson) -> None:
    refusal = refusal_of(lesson.said, lesson.status)
    more = learned(NO_LESSONS, refusal, lesson.body, ChatDialect.droppable)
    if not (lesson.dropped or lesson.renamed or lesson.trait or lesson.capped):
        assert more is None
        return
    assert more is not None
    assert more.dropped == (frozenset({lesson.dropped}) if lesson.dropped else frozenset())
    assert list(more.renamed) == ([lesson.renamed] if lesson.renamed else [])
    assert more.traits == (frozenset({lesson.trait}) if lesson.trait else frozenset())
    assert list(more.capped.values()) == ([lesson.capped] if lesson.capped else [])
    # The same refusal once more teaches nothing: the request is not made for ever.
    body = more.applied(dict(lesson.body), frozenset())
    assert learned(more, refusal, body, ChatDialect.droppable) is None


def test_lessons_change_a_body() -> None:
    lessons = Lessons(
        frozenset({"stop", "seed"}), {"max_tokens": "max_completion_tokens"}, {"max_tokens": 50, "n": 2}
    )
    body = {"max_tokens": 100, "stop": ["x"], "seed": 1, "n": 3}
    assert lessons.applied(body, frozenset({"seed", "n"})) == {"max_completion_tokens": 50, "seed": 1, "n": 3}
    assert lessons.applied({"max_tokens": 9}, frozenset({"max_tokens"})) == {"max_tokens": 9}
    assert lessons.applied({"max_tokens": "9"}, frozenset()) == {"max_completion_tokens": "9"}


def test_a_cap_is_learned_under_the_name_that_we_use() -> None:
    lessons = Lessons(renamed={"max_tokens": "max_completion_tokens"})
    refusal = Refusal(
        400, "max_completion_tokens is too large. This model supports at most 10 completion tokens"
    )
    more = learned(lessons, refusal, {"max_completion_tokens": 100}, ChatDialect.droppable)
    assert more is not None
    assert more.capped == {"max_tokens": 10}
    assert more.applied({"max_tokens": 100}, frozenset()) == {"max_completion_tokens": 10}


def test_a_name_that_neither_way_is_taken_is_left_out_at_last() -> None:
    lessons = Lessons(renamed={"max_tokens": "max_completion_tokens"})
    refusal = Refusal(400, "Unknown parameter: max_completion_tokens")
    more = learned(lessons, refusal, {"max_completion_tokens": 100}, ChatDialect.droppable)
    assert more is not None
    assert "max_completion_tokens" not in more.applied({"max_tokens": 100}, frozenset())


def test_without_a_rule_the_status_decides() -> None:
    errors: list[DriverError] = [error_of(Refusal(None, "odd")), error_of(Refusal(599, "odd"))]
    assert [type(error) for error in errors] == [DriverUnavailableError] * 2
