"""What servers refuse, and how: the error that it is, the wait, and what is learned of it."""

from __future__ import annotations

from typing import Any

import pytest
from corpus_refusals import LESSONS, REFUSALS, Lesson, Said, error

from agentpool._core.errors import (
    DriverError,
    DriverUnavailableError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)
from agentpool.drivers._chat import ChatDialect
from agentpool.drivers._learning import NO_LESSONS, Lessons, learned
from agentpool.drivers._refusals import (
    LONGEST_TEXT,
    Refusal,
    error_of,
    is_page,
    refusal_of,
    reset_seconds,
    retry_after_seconds,
)


@pytest.mark.parametrize("said", REFUSALS, ids=lambda said: said.why)
def test_a_refusal_is_the_error_that_it_stands_for(said: Said) -> None:
    refused = error_of(refusal_of(said.body, said.status, said.headers))
    assert type(refused) is said.kind
    assert str(refused)
    if isinstance(refused, RateLimitedError | OverloadedError):
        assert refused.retry_after == (None if said.retry_after is None else pytest.approx(said.retry_after))


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
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 -0000"}, 90.0),
        ({"retry-after": "1970-01-01T00:01:40Z"}, 90.0),
        ({"retry-after": "1970-01-01T00:01:40"}, 90.0),
        ({"retry-after": "20s"}, 20.0),
        ({"retry-after": "6m0s"}, 360.0),
        ({"retry-after": "0"}, 0.0),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, now=10.0) == seconds


@pytest.mark.parametrize("moment", ["1771404540", "1771404540000", "Wed, 18 Feb 2026 08:49:00 GMT"])
def test_a_moment_is_no_wait_of_fifty_years(moment: str) -> None:
    """openclaw/clawhub#407, cloudfoundry/cloud_controller_ng#2544: seconds since 1970 in the header."""
    assert retry_after_seconds({"retry-after": moment}, now=1771404500) == 40.0
    assert retry_after_seconds({"retry-after": moment}, now=1771404999) == 0.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-limit": "60", "x-ratelimit-remaining": "56", "x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360.0),
        ({"x-ratelimit-reset-tokens": "250ms", "x-ratelimit-remaining-tokens": "0"}, 0.25),
        ({"x-ratelimit-reset": "1000000010000", "x-ratelimit-remaining": "0"}, 10.0),
        ({"ratelimit-reset": "1000000010"}, 10.0),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2001-09-09T01:46:50Z",
                "anthropic-ratelimit-tokens-remaining": "70000",
                "anthropic-ratelimit-tokens-reset": "2001-09-09T01:50:00Z",
            },
            10.0,
        ),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, None),  # which of them?
        (
            {
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "149984",
            },
            1.0,
        ),
        ({"x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-limit-requests": "60"}, None),
    ],
)
def test_when_a_quota_is_whole_again(headers: dict[str, str], seconds: float | None) -> None:
    assert reset_seconds(headers, now=1e9) == seconds


def test_what_a_server_asks_for_comes_before_what_it_tells_in_passing() -> None:
    told = {"x-ratelimit-reset": "12", "x-ratelimit-remaining": "0"}
    for headers, body, wait in (
        (told, error("slow down"), 12.0),
        ({**told, "retry-after": "3"}, error("slow down"), 3.0),
        ({**told, "retry-after": "0"}, error("slow down, try again in 5s"), 5.0),
        (told, error("slow down, try again in 5s"), 5.0),
    ):
        refused = error_of(refusal_of(body, 429, headers))
        assert isinstance(refused, RateLimitedError)
        assert refused.retry_after == wait
    # What is told in passing is no hint that coming back helps where the words say otherwise.
    body = error("You exceeded your current quota, please check your plan", type="insufficient_quota")
    assert type(error_of(refusal_of(body, 429, told))) is RequestRejectedError


def test_headers_within_a_body() -> None:
    """Gitlawb/openclaude#936, Avarok-Cybersecurity/atlas#543: a router tells them in the body alone."""
    headers = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800000"}
    body = error("Rate limit exceeded: free-models-per-day", code=429, metadata={"headers": headers})
    refused = error_of(refusal_of(body, 429))
    assert isinstance(refused, RateLimitedError)
    assert refused.retry_after is not None
    assert refused.retry_after > 86_400
    body = error("slow", code=429, metadata={"headers": {"Retry-After": 7}})
    assert refusal_of(body, 429).retry_after == 7.0


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please try again in 6m0s.", 360.0),
        ("Rate limit reached. Limit 500000, Used 499999. Please try again in 7m12.5s. Visit x", 432.5),
        ("Please try again in 1h2m3s", 3723.0),
        ("Your quota will reset after 4h13m1s.", 15_181.0),
        ("try again in 1 minute and 5 seconds", 65.0),
        ("try again in 1 hour, 5 minutes", 3900.0),
        ("please wait 2 days", 172_800.0),
        ("Retry-After: 30 sec", 30.0),
        ("try again in 1500 milliseconds", 1.5),
        ("try again in -5s", None),
        ("try again at 12:00", None),
        ("retry with 5 models", None),
    ],
)
def test_a_wait_in_words(words: str, seconds: float | None) -> None:
    assert refusal_of(error(words), 429).retry_after == seconds


def test_a_wait_beside_the_reason() -> None:
    """NikkeTryHard/zerogravity#19: Google tells it beside the reason, too."""
    reason = {"reason": "QUOTA_EXHAUSTED", "metadata": {"quotaResetDelay": "2.463586755s"}}
    assert refusal_of(error("exhausted", details=[reason]), 429).retry_after == 2.463586755


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


REPORTED = (
    (  # Kilo-Org/cloud#3807
        "reasoning_effort",
        "none",
        "Unsupported value: 'reasoning_effort' does not support 'none' with this model. Supported values are:"
        " 'minimal', 'low', 'medium', and 'high'.",
        "",
        "minimal",
    ),
    (  # anomalyco/opencode#4451, CherryHQ/cherry-studio#11864
        "reasoning_effort",
        "minimal",
        "Unsupported value: 'minimal' is not supported with the 'gpt-5.1' model. Supported values"
        " are: 'none',"
        " 'low', 'medium', and 'high'.",
        "***.effort",
        "low",
    ),
    (  # BerriAI/litellm#27074
        "output_config.effort",
        "xhigh",
        "output_config.effort: Input should be 'low', 'medium' or 'high'",
        "",
        "high",
    ),
    (
        "reasoning.effort",
        "low",
        "Invalid value: 'low'. Supported values are: 'none' and 'high'.",
        "reasoning.effort",
        "high",
    ),
)


@pytest.mark.parametrize(("name", "asked", "words", "parameter", "nearest"), REPORTED)
def test_an_effort_that_a_model_does_not_know_becomes_the_nearest(
    name: str, asked: str, words: str, parameter: str, nearest: str
) -> None:
    def body() -> dict[str, Any]:
        table, _, last = name.rpartition(".")
        return {table: {last: asked}} if table else {name: asked}

    more = learned(NO_LESSONS, Refusal(400, words, parameter=parameter), body(), frozenset({name}))
    assert more is not None
    assert not more.dropped
    assert nearest in repr(more.applied(body(), frozenset()))
    assert asked in repr(more.applied(body(), frozenset({name})))  # given by hand
    assert more.applied({}, frozenset()) == {}
    # The same words once more are about something else.
    again = learned(more, Refusal(400, words, parameter=parameter), body(), frozenset({name}))
    assert again is None or name in again.dropped
    assert learned(NO_LESSONS, Refusal(400, words, parameter=parameter), body(), frozenset()) is None


def test_efforts_that_are_no_words_of_ours_stay() -> None:
    lessons = Lessons(efforts={"reasoning_effort": ("low", "high")})
    for own in ("default", None, 7):
        assert lessons.applied({"reasoning_effort": own}, frozenset()) == {"reasoning_effort": own}
