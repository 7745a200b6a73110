"""`history=`: an agent goes on from the transcript of an earlier run."""

from __future__ import annotations

from typing import Any

import pytest
from pool_kit import pool_of

from agentpool import (
    AgentManifest,
    AssistantMessage,
    Completion,
    Failed,
    ScriptedDriver,
    SpawnConfig,
    ToolCall,
    ToolMessage,
    ToolRegistry,
    ToolResult,
    UserMessage,
    tool,
)

CALL = ToolCall("1", "add", {"a": 1, "b": 2})
RESULT = ToolMessage("1", "add", ToolResult("3"))
OTHER = ToolCall("2", "add", {"a": 3, "b": 4})


@tool(quick=True)
def add(a: int, b: int) -> int:
    """Add.

    Args:
      a: one.
      b: two.
    """
    return a + b


def manifest() -> AgentManifest:
    return AgentManifest(name="adder")


async def test_the_transcript_of_a_run_goes_on_in_the_next(autojump_clock: Any) -> None:
    seen: list[int] = []

    class Driver(ScriptedDriver):
        async def complete(self, request: Any) -> Completion:
            seen.append(len(request.messages))
            return await super().complete(request)

    driver = Driver([Completion("", (CALL,)), "Three.", "Still three."])
    async with pool_of(1, driver=driver, tool_builder=lambda _: ToolRegistry([add])) as pool:
        first = await (await pool.spawn(SpawnConfig(manifest(), "Add one and two."))).result()
        again = SpawnConfig(manifest(), "Are you sure?", history=first.transcript)
        second = await (await pool.spawn(again)).result()
    assert second.text == "Still three."
    assert second.transcript[: len(first.transcript)] == first.transcript
    assert seen == [1, 3, 5]


@pytest.mark.parametrize(
    ("history", "error", "text"),
    [
        ("hello", TypeError, "a sequence of messages, not 'hello'"),
        (7, TypeError, "a sequence of messages, not 7"),
        ([UserMessage("a"), "b"], TypeError, r"history\[1\] must be a UserMessage"),
        (
            [RESULT],
            ValueError,
            r"history\[0\] is a result for call '1' of 'add', but no such",
        ),
        ([UserMessage("a"), AssistantMessage("", (CALL,))], ValueError, r"history\[1\] makes call '1'"),
        (
            [AssistantMessage("", (CALL, OTHER)), RESULT, UserMessage("b")],
            ValueError,
            r"history\[0\] makes call '2' of 'add', but no result follows it",
        ),
    ],
)
def test_a_history_that_cannot_be_sent_again_is_refused(
    history: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        SpawnConfig(manifest(), "Go on.", history=history)


async def test_a_result_in_the_place_of_its_transcript_is_told_so(autojump_clock: Any) -> None:
    async with pool_of(1, driver=ScriptedDriver(["Done."])) as pool:
        result = await (await pool.spawn(SpawnConfig(manifest(), "Work."))).result()
    with pytest.raises(TypeError, match="pass its transcript"):
        SpawnConfig(manifest(), "Go on.", history=result)


async def test_tools_of_one_agent_are_its_own(autojump_clock: Any) -> None:
    driver = ScriptedDriver([Completion("", (CALL,)), "Three.", Completion("", (CALL,)), "None."])
    async with pool_of(1, driver=driver) as pool:
        with_tool = await (await pool.spawn(SpawnConfig(manifest(), "Add.", tools=[add]))).result()
        without = await (await pool.spawn(SpawnConfig(manifest(), "Add."))).result()
        assert not isinstance(without, Failed)
    told = [[m for m in r.transcript if isinstance(m, ToolMessage)] for r in (with_tool, without)]
    assert "3" in repr(told[0][0])
    assert not told[0][0].result.is_error
    assert told[1][0].result.is_error
