"""A model that was captured, and tries every tool with every trick, does nothing that is not granted.

Each row of `tricks.py` is played in a world of its own. Everything that is not granted is the same afterwards,
nobody has connected where nobody may, and no result has shown what may not be seen.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
from captured_kit import (
    CANARY,
    GRANTED_WORD,
    MCP_GRANT,
    harm,
    let_loose,
    manifest,
    mcp_server,
    world,
)
from tricks import TRICKS, Trick

HAS_SANDBOX = shutil.which("bwrap") is not None
HAS_MCP = importlib.util.find_spec("mcp") is not None
HAS_HTTP = importlib.util.find_spec("httpx2") is not None

pytestmark = [pytest.mark.processes]

NEEDS = {
    "run_shell": HAS_SANDBOX,
    "run_python": HAS_SANDBOX,
    "fetch_url": HAS_HTTP,
    "mcp__sdk__echo": HAS_MCP,
}


def rows() -> list[Any]:
    assert len({each.name for each in TRICKS}) == len(TRICKS)
    return [
        pytest.param(
            each,
            id=each.name.encode("ascii", "backslashreplace").decode()[:80],
            marks=[] if NEEDS.get(each.tool, True) else pytest.mark.skip(reason=f"no {each.tool} here"),
        )
        for each in TRICKS
    ]


@pytest.mark.parametrize("trick", rows())
async def test_a_captured_model_does_nothing_that_is_not_granted(
    trick: Trick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTURED_SECRET", CANARY)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.chdir(tmp_path)
    with world(tmp_path / "world") as place:
        with_mcp = trick.tool.startswith("mcp__")
        more: dict[str, Any] = {"mcp_servers": [mcp_server(tmp_path / "log")]} if with_mcp else {}
        of = manifest(place, *([MCP_GRANT] if with_mcp else []), **more)
        before = place.snapshot()
        model = await let_loose(place, trick.calls(place), of=of, meddle=trick.meddle)
        assert trick.tool in model.offered
        assert model.heard
        assert harm(place, before, model) == []
        assert any(GRANTED_WORD in text for text in model.heard) or not trick.works
