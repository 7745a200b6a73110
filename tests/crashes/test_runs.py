"""Runs that are cut off anywhere come to what they would have come to."""

from __future__ import annotations

import os

import pytest

from ._runs import Report, run_random, run_town

pytestmark = pytest.mark.long

RUNS = int(os.environ.get("AGENTPOOL_CRASH_RUNS", "40"))


def test_a_town_of_agents_comes_to_the_same_wherever_it_is_cut_off() -> None:
    report = Report()
    run_town(0, report)
    assert not report.problems, str(report)
    assert report.agents >= 20


def test_a_town_comes_to_the_same_in_every_order_of_its_steps() -> None:
    report = Report()
    for seed in range(1, 9):
        run_town(seed, report, every=8)
    assert not report.problems, str(report)


def test_random_programs_come_to_the_same_after_several_crashes() -> None:
    report = run_random(0, RUNS)
    assert not report.problems, str(report)
