"""Restart policies, backoff and intensity, as decisions."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool import Backoff, RestartPolicy
from agentpool._core.restart import Intensity


@pytest.mark.parametrize(
    ("mode", "when_failed", "when_well"),
    [("permanent", True, True), ("transient", True, False), ("temporary", False, False)],
)
def test_modes_are_those_of_otp(mode: Any, when_failed: bool, when_well: bool) -> None:
    policy = RestartPolicy(mode)
    assert (policy.wants(failed=True), policy.wants(failed=False)) == (when_failed, when_well)


@pytest.mark.parametrize(
    ("alias", "mode"), [("always", "permanent"), ("on_failure", "transient"), ("never", "temporary")]
)
def test_modes_have_plainer_names_too(alias: Any, mode: str) -> None:
    assert RestartPolicy(alias).mode == mode


def test_the_defaults_are_one_in_five_seconds_at_once() -> None:
    policy = RestartPolicy()
    assert (policy.mode, policy.max_restarts, policy.within) == ("transient", 1, 5.0)
    assert policy.backoff == Backoff()
    assert policy.backoff.delay(1, 0.5) == 0
    assert RestartPolicy(backoff=2).backoff == Backoff(initial=2)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"mode": "sometimes"}, ValueError, "permanent, transient, temporary"),
        ({"max_restarts": -1}, ValueError, "max_restarts"),
        ({"max_restarts": "3"}, TypeError, "max_restarts"),
        ({"max_restarts": True}, TypeError, "max_restarts"),
        ({"within": 0}, ValueError, "within"),
        ({"within": -1}, ValueError, "within"),
        ({"within": "5"}, TypeError, "within"),
        ({"within": float("nan")}, ValueError, "within"),
        ({"backoff": -1}, ValueError, "initial"),
        ({"backoff": "1"}, TypeError, "initial"),
    ],
)
def test_policies_that_make_no_sense_are_refused(options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        RestartPolicy(**options)


@pytest.mark.parametrize("options", [{"maximum": -1}, {"jitter": -0.1}, {"initial": float("nan")}])
def test_a_backoff_that_makes_no_sense_is_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Backoff(**options)


def test_a_jitter_above_1_would_make_negative_delays_and_is_refused() -> None:
    with pytest.raises(ValueError, match="jitter"):
        Backoff(initial=1, jitter=1.5)


def test_delays_double_up_to_the_maximum() -> None:
    backoff = Backoff(initial=1, maximum=10)
    assert [backoff.delay(n, 0.9) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert backoff.delay(100_000, 0) == 10


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 1), st.integers(1, 5000), st.floats(0, 1))
def test_a_delay_is_between_nothing_and_the_maximum(
    initial: float, maximum: float, jitter: float, restarts: int, lot: float
) -> None:
    backoff = Backoff(initial, maximum, jitter)
    delay = backoff.delay(restarts, lot)
    assert 0 <= delay <= maximum
    assert delay >= backoff.delay(restarts, 0) * (1 - jitter) * 0.999


@given(st.integers(0, 5), st.floats(0.5, 10), st.lists(st.floats(0, 3), max_size=30))
def test_intensity_allows_so_many_in_every_period(most: int, within: float, gaps: list[float]) -> None:
    intensity = Intensity(most, within)
    now, allowed = 0.0, []
    for gap in gaps:
        now += gap
        recent = [at for at in allowed if now - at <= within]
        counted = intensity.restart(now)
        assert (counted is None) == (len(recent) + 1 > most)
        if counted is None:
            break
        allowed.append(now)
        intensity = counted
        assert len(intensity.recent) <= most


def test_values_are_frozen() -> None:
    for frozen in (RestartPolicy(), Backoff(), Intensity()):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            frozen.within = 3  # type: ignore[misc, union-attr]
