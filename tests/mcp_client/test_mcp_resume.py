"""Calls of MCP tools that were under way when the process of a journalled run was killed, and its resume.

The servers and the pools are real processes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

pytest.importorskip("mcp")
pytest.importorskip("cyclopts")

from mcp_kit import Inside, is_alive

from agentpool import ToolMessage, resume_agent_pool
from agentpool._core.transcript import UNKNOWN_RESULT
from agentpool.drivers.scripted import EmbeddedDriver

pytestmark = pytest.mark.processes

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COMMAND = [sys.executable, "-m", "agentpool.cli"]
UNKNOWN = UNKNOWN_RESULT.text

MODEL = """
import json
from agentpool import AssistantMessage, Completion, TokenUsage, ToolCall, ToolMessage

SMALL = [ToolCall("1", "mcp__bank__transfer", {"amount": 1})]
LARGE = [
    ToolCall("2", "mcp__bank__transfer", {"amount": 500}),
    ToolCall("3", "mcp__bank__settle", {"amount": 600}),
    ToolCall("4", "mcp__bank__settle", {"amount": 7}),
]
FIND = [ToolCall("0", "find_tools", {"query": "transfer money, settle a bill"})]


def model(request):
    offered = {each.name for each in request.tools}
    turns = [SMALL, LARGE] if "find_tools" not in offered else [FIND, SMALL, LARGE]
    said = sum(isinstance(each, AssistantMessage) for each in request.messages)
    usage = TokenUsage(5, 5)
    if said < len(turns):
        return Completion(tool_calls=turns[said], usage=usage)
    results = [each.result.text for each in request.messages if isinstance(each, ToolMessage)]
    return Completion(json.dumps(results), usage=usage)
"""

FLEET = """
[pool]
max_concurrent = 1

[[agents]]
name = "caller"
query = "go"
[agents.manifest]
name = "caller"
[[agents.manifest.capabilities]]
type = "mcp"
server = "bank"
[[agents.manifest.mcp_servers]]
name = "bank"
transport = "stdio"
command = COMMAND
required = false
[agents.manifest.script]
function = "model:model"
"""


@attrs.define(eq=False)
class Bank:
    """A run whose model calls the tools of a server, which is killed in the middle of them."""

    folder: Path
    inside: Inside
    journal: Path

    def __init__(self, folder: Path, tools: int) -> None:
        self.folder = folder
        self.inside = Inside(folder / "log")
        self.journal = folder / "run.db"
        script = folder / "server.py"
        script.write_text(f"import runpy\nrunpy.run_path({str(HERE / 'sdk_server.py')!r}, run_name='x')\n")
        command = [sys.executable, str(script), "stdio", str(self.inside.log), str(tools)]
        (folder / "fleet.toml").write_text(FLEET.replace("COMMAND", json.dumps(command)))
        (folder / "model.py").write_text(MODEL)

    async def run_until_killed(self) -> None:
        """Run it until all calls of a turn are under way or done, and kill its process."""
        command = [*COMMAND, "run", "fleet.toml", "--journal", str(self.journal)]
        process = await trio.lowlevel.open_process(command, cwd=self.folder, env=environment())
        try:
            for text in ("transfer 500", "settle 600", "settle 7"):
                await self.inside.saw(text)
        finally:
            process.kill()
            await process.wait()
        with trio.fail_after(120):  # the server, which waits in its tools, ends as well
            while any(map(is_alive, self.inside.pids())):
                await trio.sleep(0.01)
        self.open()

    def open(self) -> None:
        """Have calls end from now on."""
        self.inside.log.with_name("log.open").touch()

    def done(self) -> list[str]:
        """Return what was asked of the server, in order; calls of a turn in any."""
        return [line for line in self.inside.lines if line.startswith(("transfer", "settle"))]

    async def resumed(self, way: str) -> list[str]:
        """Go on with it, and return what the model was told of its calls."""
        if way == "library":
            async with resume_agent_pool(self.journal, EmbeddedDriver()) as pool:
                value: Any = await pool.resumed[0].result()
                return [each.result.text for each in value.transcript if isinstance(each, ToolMessage)]
        command = [*COMMAND, "resume", str(self.journal), "--json"]
        ended = await trio.run_process(command, cwd=self.folder, env=environment(), capture_stdout=True)
        told: list[str] = json.loads(json.loads(ended.stdout)["agents"][0]["text"])
        return told


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(params=[0, 60], ids=["few tools", "many tools"])
def bank(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bank:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    return Bank(tmp_path, request.param)


@pytest.mark.parametrize("way", ["library", "command line"])
async def test_a_call_under_way_is_made_again_only_if_its_server_says_that_this_does_no_harm(
    bank: Bank, way: str
) -> None:
    await bank.run_until_killed()
    before = bank.done()
    assert before[0] == "transfer 1"
    assert sorted(before[1:]) == ["settle 600", "settle 7", "transfer 500"]
    *_, small, large, settled, quick = await bank.resumed(way)
    assert small == "transfer of 1 done"
    assert large == UNKNOWN
    assert (settled, quick) == ("settle of 600 done", "settle of 7 done")
    after = bank.done()[len(before) :]
    assert "settle 600" in after
    # The result of the quick one may have been written before the end, or not.
    assert set(after) <= {"settle 600", "settle 7"}
    assert len(after) == len(set(after))
    assert len(bank.inside.pids()) == 2
    assert not any(map(is_alive, bank.inside.pids()))


@pytest.mark.parametrize("way", ["library", "command line"])
async def test_a_call_whose_server_is_not_there_any_more_may_have_happened_nevertheless(
    bank: Bank, way: str
) -> None:
    await bank.run_until_killed()
    before = bank.done()
    (bank.folder / "server.py").unlink()
    *_, small, large, settled, quick = await bank.resumed(way)
    assert small == "transfer of 1 done"
    assert (large, settled) == (UNKNOWN, UNKNOWN)
    assert quick in ("settle of 7 done", UNKNOWN)
    assert bank.done() == before
