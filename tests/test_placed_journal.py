"""A pool with a placement keeps no journal: what is done in workers would not be in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentpool import AgentContext, SqliteJournal, open_agent_pool, placed, resume_agent_pool
from agentpool.testing import InProcessPlacement

TOGETHER = "journal and placement cannot be given together"


async def twice(ctx: AgentContext, x: int) -> int:
    return 2 * x


async def test_a_new_journal_is_refused_and_no_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with pytest.raises(ValueError, match=TOGETHER):
        open_agent_pool(max_concurrent=1, journal=SqliteJournal(path), placement=InProcessPlacement())
    assert not path.exists()


async def test_a_journal_of_a_run_is_refused_and_goes_on_without_a_placement(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    async with open_agent_pool(max_concurrent=1, journal=SqliteJournal(path)) as pool:
        await pool.spawn(placed(twice), 4)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=TOGETHER):
        resume_agent_pool(path, placement=InProcessPlacement())
    assert path.read_bytes() == before
    async with resume_agent_pool(path) as pool:
        [outcome] = (await pool.join_all()).values()
    assert outcome.unwrap() == 8


def test_a_run_of_the_command_line_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cyclopts")
    pytest.importorskip("ray")
    from agentpool.cli import _app

    path, journal = tmp_path / "fleet.toml", tmp_path / "run.db"
    scripted = '[[agents]]\nname = "a"\nquery = "q"\nmanifest = { script = { steps = [{ text = "x" }] } }\n'
    path.write_text('[pool]\nplacement = "ray"\n' + scripted)
    assert _app.call(["run", str(path), "--journal", str(journal)]) == 2
    assert 'a run with a journal cannot have placement = "ray"' in capsys.readouterr().err
    assert not journal.exists()
