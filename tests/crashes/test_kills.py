"""Real processes and `kill -9`: at records, and at any time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from . import _town
from ._kills import kill_at_random, kill_at_records

KILLS = int(os.environ.get("AGENTPOOL_KILLS", "6"))

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform == "win32", reason="takes too long where processes cannot fork"),
]


def test_a_town_that_kills_itself_at_a_record_comes_to_the_same(tmp_path: Path) -> None:
    report = kill_at_records(_town.main, tmp_path, most=2 * KILLS)
    assert report.problems == []
    assert report.kills >= KILLS


def test_a_town_that_kills_itself_several_times_comes_to_the_same(tmp_path: Path) -> None:
    report = kill_at_records(_town.main, tmp_path, most=KILLS // 2, several=4, seed=1)
    assert report.problems == []
    assert report.kills > report.runs


def test_a_town_that_is_killed_at_any_time_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    report = kill_at_random(_town.main, tmp_path, KILLS, longest=0.3)
    assert report.problems == []
    assert report.kills >= KILLS
