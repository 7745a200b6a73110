"""What a provider asks callers to wait, and what is said where that is too long."""

from __future__ import annotations

import math

import pytest

from agentpool._core.errors import DriverUnavailableError, OverloadedError, RateLimitedError
from agentpool._core.refusals import check_wait, in_words, sensible_wait, wait_too_long, wanted_wait


@pytest.mark.parametrize(
    ("told", "understood"),
    [
        (None, None),
        (0.0, None),
        (1.5, 1.5),
        (-1.0, None),
        (-math.inf, None),
        (math.nan, None),
        (math.inf, math.inf),
    ],
)
def test_a_wait_is_a_number_of_seconds_above_zero(told: float | None, understood: float | None) -> None:
    assert sensible_wait(told) == understood
    assert wanted_wait(RateLimitedError(retry_after=told)) == understood


def test_an_error_without_a_word_about_waiting_asks_for_none() -> None:
    assert wanted_wait(DriverUnavailableError("down")) is None
    check_wait(DriverUnavailableError("down"), 0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1.2, "1 seconds"),
        (119, "119 seconds"),
        (121, "121 seconds (2.02 minutes)"),
        (3600, "3600 seconds (60 minutes)"),
        (86400, "86400 seconds (24 hours)"),
        (30 * 86400, "2592000 seconds (30 days)"),
        (math.inf, "an unlimited time"),
    ],
)
def test_a_wait_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize("kind", [RateLimitedError, OverloadedError])
def test_a_wait_that_is_too_long_is_an_error_of_the_same_kind_that_tells_it(
    kind: type[RateLimitedError | OverloadedError],
) -> None:
    error = kind("daily quota", retry_after=86400)
    error.may_have_cost = True
    with pytest.raises(kind, match=r"daily quota: .* 86400 seconds \(24 hours\), .* 120 seconds") as caught:
        check_wait(error, 120)
    assert caught.value.retry_after == 86400
    assert caught.value.may_have_cost
    assert caught.value.__cause__ is error


def test_a_wait_that_was_told_once_is_not_told_twice() -> None:
    inner = wait_too_long(RateLimitedError("daily quota"), 86400, 120)
    with pytest.raises(RateLimitedError) as caught:
        check_wait(inner, 60)
    assert caught.value is inner
    assert inner.__cause__ is None


@pytest.mark.parametrize("told", [None, 0.0, 120.0, -1.0, math.nan])
def test_a_wait_that_is_short_or_senseless_passes(told: float | None) -> None:
    check_wait(RateLimitedError(retry_after=told), 120)
