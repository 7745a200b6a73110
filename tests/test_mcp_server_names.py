"""Names of tools, arguments, and what is told of events: decided without a server, and without the SDK."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool import (
    Aborted,
    AgentManifest,
    ApprovalRequest,
    Approved,
    Denied,
    FleetAgent,
    FleetFile,
    ManifestError,
    SpawnConfig,
    start_fleet,
)
from agentpool._core import events as ev
from agentpool._core.messages import ToolCall, ToolResult
from agentpool.mcp_server._naming import tool_names
from agentpool.mcp_server._progress import line_of, one_line
from agentpool.mcp_server._tools import served_tools


@given(st.lists(st.text(min_size=1, max_size=90), unique=True, max_size=20))
def test_names_of_tools_are_what_every_client_takes_and_each_once(names: list[str]) -> None:
    made = tool_names(names)
    assert len(set(made)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in made)
    right = [name for name in names if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)]
    assert [name for name in made if name in right] == right  # what is right stays


def test_names_that_come_to_the_same_are_told_apart() -> None:
    assert tool_names(["a b", "a_b", "a!b", "ü", "a" * 70, "a" * 71]) == [
        "a_b_2",
        "a_b",
        "a_b_3",
        "agent",
        "a" * 64,
        "a" * 62 + "_2",
    ]


async def test_a_fleet_that_is_served_needs_no_queries_and_is_not_started() -> None:
    text = '[[agents]]\nname = "a"\n[agents.manifest]\nscript = { steps = [{ text = "{query}" }] }\n'
    with pytest.raises(ManifestError, match="query: is missing"):
        FleetFile.from_toml(text)
    fleet = FleetFile.from_toml(text, served=True)
    tool = served_tools(fleet)["a"]
    begun = tool.begin({"query": "why"})
    assert isinstance(begun, SpawnConfig)
    assert begun.query == "why"
    from pool_kit import pool_of

    async with pool_of(1) as pool:
        with pytest.raises(ValueError, match="agent 'a' has no query"):
            await start_fleet(pool, fleet)


def test_the_shorter_limit_of_time_holds() -> None:
    agent = FleetAgent("a", AgentManifest(name="a"), "q", timeout=5.0)
    fleet = FleetFile(agents=[agent])
    assert served_tools(fleet)["a"].timeout == 5.0
    assert served_tools(fleet, timeout=2.0)["a"].timeout == 2.0
    assert served_tools(fleet, timeout=9.0)["a"].timeout == 5.0


call = ToolCall("1", "read_file", {"path": "secret"})
ASKED = ApprovalRequest.of(1, "a", call, 'ask = "read_file"')


def test_events_are_told_without_arguments_and_answers() -> None:
    for event, line in (
        (ev.PhaseChanged(1, 0.0, 1, 0, "reason", 3), "turn 3: asking the model"),
        (ev.PhaseChanged(1, 0.0, 1, 0, "act", 3), None),
        (ev.ToolStarted(1, 0.0, 1, 0, call), "turn 3: calling read_file"),
        (ev.ToolFinished(1, 0.0, 1, 0, call, ToolResult("x"), 1.0), "turn 3: read_file is done"),
        (ev.ToolFinished(1, 0.0, 1, 0, call, ToolResult("x", True), 1.0), "turn 3: read_file failed"),
        (ev.ApprovalRequested(1, 0.0, 1, 0, ASKED), "turn 3: waits for the approval of read_file"),
        (ev.ApprovalDecided(1, 0.0, 1, 0, ASKED, Denied()), "turn 3: read_file was denied"),
        (ev.ApprovalDecided(1, 0.0, 1, 0, ASKED, Approved()), None),
        (
            ev.ContextCompacted(1, 0.0, 1, 0, 4, 9, 5, "", ""),
            "turn 3: the oldest turns were summed up or dropped",
        ),
        (ev.AgentRestarted(1, 0.0, 1, 0, 2, Aborted(agent_id=1, name="a", parent_id=0)), "restarted (2)"),
        (ev.GuardWarned(1, 0.0, 1, 0, "enough"), "turn 3: warning: enough"),
        (ev.TextDeltaReceived(1, 0.0, 1, 0, "secret"), None),
    ):
        assert line_of(event, 3) == line
    assert one_line("a\n b\ud83d") == "a b\ufffd"
    assert len(one_line("x" * 10_000)) == 203
