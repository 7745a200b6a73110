"""Random programs of agents that wait for each other: an alarm is a hang, and every hang an alarm."""

from __future__ import annotations

import os

import pytest

from agentpool._kernel.judge import Judge

from . import _deadlocks as knots

# The campaign's session runs 20,000.
PROGRAMS = int(os.environ.get("AGENTPOOL_DEADLOCK_PROGRAMS", "4000"))

RING = knots.Knot(
    slots=2,
    capacity=1,
    parents=(0, 0, 0),
    steps=((("pause", 1), ("ask", 2)), (("pause", 1), ("wait", 3)), (("pause", 2), ("ask", 1))),
    careful=(False, False, False),
)


def test_each_alarm_is_a_hang_without_the_detector_and_nothing_hangs_without_an_alarm(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = knots.run_knots(PROGRAMS)
    with capsys.disabled():
        print(f"\n{report}")
    assert not report.violations, str(report)
    assert report.programs == PROGRAMS
    assert 0.2 < report.alarmed / report.programs < 0.6


def test_a_ring_is_reported_and_without_the_detector_it_hangs() -> None:
    assert knots.judge_knot(RING, 1) == knots.KnotVerdict(1, (), 1)
    (problem,) = knots.judge_knot(RING, 1, detect=False).problems
    assert problem.startswith("hang: the program did not end within 1,000 virtual seconds")


def test_a_program_without_an_alarm_ends_without_the_detector_too() -> None:
    # So it is not that everything hangs once nobody looks.
    quiet = [seed for seed in range(200) if not knots.judge_knot(knots.draw_knot(seed), seed).alarms]
    assert len(quiet) > 80
    for seed in quiet:
        assert knots.judge_knot(knots.draw_knot(seed), seed, detect=False) == knots.KnotVerdict(seed, (), 0)


def test_an_alarm_about_a_wait_that_a_deadline_ends_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "_ends_by_itself", lambda *_: False)
    report = knots.run_knots_here(0, 300)
    assert "a false alarm: without the detector the program ends" in str(report)
    verdict = report.violations[0]
    knot = knots.draw_knot(verdict.seed)
    small = knots.shrink_knot(knot, verdict.seed)
    assert knots.judge_knot(small, verdict.seed).problems
    assert sum(map(len, small.steps)) < sum(map(len, knot.steps))


def test_a_deadlock_that_is_left_by_the_end_of_a_task_and_missed_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Judge, "judge_again", lambda *_: None)
    assert "hang: the program did not end" in str(knots.run_knots_here(0, 300))


def test_programs_are_the_same_every_time_and_hold_every_verb() -> None:
    drawn = [knots.draw_knot(seed) for seed in range(100)]
    assert drawn == [knots.draw_knot(seed) for seed in range(100)]
    verbs = set()
    for knot in drawn:
        steps = [step for of_one in knot.steps for step in of_one]
        verbs |= {step[0] for step in steps}
    assert verbs >= {"ask", "send", "receive", "serve", "wait", "join_all", "join_next", "hurried", "both"}
