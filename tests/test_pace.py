"""The pace: how the rate follows what the provider takes and refuses. Its proof is `test_goodput.py`."""

from __future__ import annotations

import math

import pytest

from agentpool._core.pace import Pace, Sent


def send(pace: Pace, begin: float, end: float, *, every: float) -> list[Sent]:
    """Send a request at the end of each interval."""
    count = round((end - begin) / every)
    return [pace.send(begin + every * number) for number in range(1, count + 1)]


def refuse(pace: Pace, sent: Sent, now: float, *, pause: float) -> None:
    pace.refuse(sent, now)
    pace.slow_down(now + pause)


def test_nothing_bounds_the_rate_before_the_first_refusal() -> None:
    pace = Pace.of(math.inf)
    for sent in send(pace, 0, 100, every=0.1):
        pace.take(sent)
    assert pace.rate == math.inf


def test_the_first_refusal_gives_what_was_taken_from_the_start_to_the_end_of_the_pause() -> None:
    pace = Pace.of(math.inf)
    *_, refused = send(pace, 0, 10.1, every=0.1)
    refuse(pace, refused, 10, pause=50)  # a window of a minute, filled in its first seconds
    assert pace.rate == pytest.approx(100 / 60, rel=0.02)


def test_it_may_have_been_quiet_until_the_moment_before_the_first_refusal() -> None:
    pace = Pace.of(math.inf)
    send(pace, 0, 600, every=20)
    *_, refused = send(pace, 600, 602.05, every=0.05)
    refuse(pace, refused, 602, pause=1)
    assert pace.rate > 10


def test_a_quota_that_others_have_used_up_does_not_stop_us() -> None:
    pace = Pace.of(math.inf)
    refuse(pace, pace.send(0), 0, pause=30)
    assert pace.rate == 0.5


def slowed(rate: float = 10.0) -> Pace:
    """Return a pace of about so many requests per second, some time after a refusal."""
    pace = Pace.of(math.inf)
    *_, refused = send(pace, 0, 60 + 1 / rate, every=1 / rate)
    refuse(pace, refused, 60, pause=0)
    pace.take(send(pace, 60.01, 90, every=1 / rate)[0])  # the other answers are on their way
    return pace


def test_one_overload_is_one_cut_however_many_requests_it_refuses() -> None:
    pace = slowed()
    before = pace.rate
    batch = send(pace, 90, 91, every=0.1)
    refuse(pace, batch[0], 91.1, pause=1)
    cut = pace.rate
    for sent in batch[1:]:
        refuse(pace, sent, 91.1, pause=1)
    assert pace.refusals_in_a_row == 1
    assert 0.8 * before <= pace.rate <= cut <= 0.98 * before


def test_refusals_one_after_the_other_cut_deeper_the_longer_nothing_is_taken() -> None:
    pace = slowed()
    rates = []
    for now in (100, 110, 130, 170):
        refuse(pace, pace.send(now), now, pause=1)
        rates.append(pace.rate)
    assert pace.refusals_in_a_row == 4
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.3 * rates[0]
    pace.take(pace.send(180))
    assert pace.refusals_in_a_row == 0


def test_an_answer_to_what_was_sent_before_the_refusal_is_no_sign_that_it_is_over() -> None:
    pace = slowed()
    early, refused = send(pace, 90, 91, every=0.5)
    refuse(pace, refused, 92, pause=1)
    rate = pace.rate
    pace.take(early)
    assert pace.refusals_in_a_row == 1
    assert pace.rate == rate


def test_a_refusal_that_comes_late_changes_nothing_once_the_provider_takes_requests_again() -> None:
    pace = slowed()
    late, refused = send(pace, 90, 91, every=0.5)
    refuse(pace, refused, 92, pause=1)
    refuse(pace, pace.send(93), 94, pause=1)
    pace.take(pace.send(95))
    rate = pace.rate
    refuse(pace, late, 96, pause=1)
    assert pace.refusals_in_a_row == 0
    assert pace.rate == rate


def growth(pace: Pace, seconds: float) -> float:
    """Return by what factor the rate grows in so much time at full load."""
    before, load, now = pace.rate, 0.0, 1000.0
    while load < seconds:
        load += 1 / pace.rate
        now += 1 / pace.rate
        pace.take(pace.send(now))
    return pace.rate / before


def test_the_rate_stays_long_where_it_was_good_and_then_looks_far() -> None:
    pace = slowed()
    refuse(pace, pace.send(91), 91, pause=1)
    assert growth(pace, 60) == pytest.approx(1.02, abs=0.01)
    assert growth(pace, 180) > 1.5


def test_the_rate_comes_back_sooner_after_a_cut_that_was_a_guess() -> None:
    pace = slowed()
    for now in (100, 110, 130):
        refuse(pace, pace.send(now), now, pause=1)
    assert growth(pace, 60) > 1.5


def test_a_known_quota_is_the_ceiling_and_a_little_less_once_it_was_refused() -> None:
    pace = Pace.of(10)
    for number in range(1, 20):
        for sent in send(pace, 1000 * number, 1000 * number + 500, every=0.1):
            pace.take(sent)
        assert pace.rate == pace.ceiling
        refuse(pace, pace.send(1000 * number + 501), 1000 * number + 501, pause=1)
        assert pace.ceiling == pytest.approx(max(10 * 0.99**number, 9.7))


def test_the_rate_never_goes_below_one_request_in_fifty_seconds() -> None:
    pace = slowed()
    for number in range(2000):
        refuse(pace, pace.send(100 + number), 100 + number, pause=1)
    assert pace.rate == 0.02
