"""Journals that are kept in the repository: they are read, and gone on with, from now on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentpool._core.past import past_of
from agentpool._core.records import RECORDS
from agentpool.journal import read_journal

from ._journals import PROGRAMS, SQL, UNUSED, kinds_kept, read
from ._kills import ended_apart
from ._oracle import run

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_journal_that_is_kept_is_gone_on_with_from_anywhere(name: str) -> None:
    expected, records = read(name)
    assert past_of(records).closed == "ended"
    for end in range(2, len(records) + 1, 1 + len(records) // 25):
        ran = run(PROGRAMS[name], records[:end])
        assert ran.error is None
        assert ran.result[0] == expected, f"cut off after record {end}"


def test_every_kind_of_record_is_kept() -> None:
    assert set(RECORDS) - kinds_kept() == UNUSED


def test_a_file_that_is_kept_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SQL.read_text("utf-8"))
    expected, records = read("patient")
    kept = read_journal(path)
    assert [record.kind for record in kept] == [record.kind for record in records]
    ended = ended_apart(PROGRAMS["patient"], path)
    assert (ended.error, ended.value and ended.value[0]) == ("", expected)
