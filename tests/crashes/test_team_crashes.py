"""Teams of models that are cut off anywhere go on, and do nothing twice."""

from __future__ import annotations

import os

from ._teams import run_teams

RUNS = int(os.environ.get("AGENTPOOL_TEAM_CRASH_RUNS", "5"))


def test_random_teams_go_on_after_several_crashes() -> None:
    report = run_teams(0, RUNS)
    assert not report.problems, str(report)
    assert report.crashes >= 10 * RUNS
