"""Random teams of models behind hooks, on a few seeds."""

from __future__ import annotations

import pytest

from .teams import run_team


@pytest.mark.parametrize("seed", range(60))
def test_random_teams_break_no_promise(seed: int) -> None:
    problems, _ = run_team(seed)
    assert problems == []


def test_a_seed_gives_the_same_run_again() -> None:
    (_, first), (_, second) = run_team(7), run_team(7)
    assert first.log.digest == second.log.digest
