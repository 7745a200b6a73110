"""Whole agents on servers that speak Anthropic's messages and OpenAI's responses, recorded and replayed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import corpus_messages as claude
import corpus_responses as responses
import pytest
from rawserver import STREAM, answer, raw_server, sse

from agentpool import (
    AgentManifest,
    AgentOutcome,
    AnthropicDriver,
    Completed,
    Driver,
    Image,
    ModelSettings,
    OpenAIDriver,
    RecordingDriver,
    ReplayDriver,
    SpawnConfig,
    ToolRegistry,
    ToolResult,
    open_agent_pool,
    tool,
)

Bodies = list[dict[str, Any]]


@tool(quick=True)
def look(a: int = 0) -> str:
    """Look."""
    return f"seen {a}"


@tool(quick=True)
def picture() -> ToolResult:
    """Take a picture, of which a half comes."""
    return ToolResult(["half of it", Image(b"\x89PNG", "image/png")], is_error=True)


def check_claude(body: dict[str, Any]) -> None:
    """Check what Anthropic refuses."""
    messages = body["messages"]
    assert [message["role"] for message in messages] == [
        ("user", "assistant")[number % 2] for number in range(len(messages))
    ]
    assert str(body).count("'cache_control': ") <= 4
    blocks = [block for message in messages for block in message["content"]]
    found = {block["tool_use_id"] for block in blocks if block["type"] == "web_search_tool_result"}
    for number, message in enumerate(messages):
        assert message["content"]
        if message["role"] == "assistant":
            assert message["content"][-1]["type"] not in ("thinking", "redacted_thinking")
            for block in message["content"]:
                is_open = block["type"] == "server_tool_use" and block["id"] not in found
                assert not is_open or number >= len(messages) - 2
                if block.get("caller", {}).get("type", "direct") != "direct" and number >= len(messages) - 2:
                    assert body.get("container") == "box"
        for block in message["content"]:
            if block["type"] == "tool_result" and block.get("is_error"):
                assert isinstance(block["content"], str)


def streamed(content: Sequence[Any], stop: str, **more: Any) -> bytes:
    """Return a streamed answer with these blocks."""
    events: list[dict[str, Any]] = [{"type": "ping"}, claude.START]
    for index, block in enumerate(content):
        events.append(claude.begin(block, index))
        events.append({"type": "content_block_stop", "index": index})
    end = {**claude.end(stop), "delta": {"stop_reason": stop, **more}}
    return STREAM + sse(*events, end, claude.STOP)


async def run(driver: Driver, **model: Any) -> AgentOutcome[Any]:
    tools = ToolRegistry([look, picture])
    manifest = AgentManifest(name="a", model=ModelSettings(**model))
    async with open_agent_pool(driver, max_concurrent=1, tool_builder=lambda _: tools) as pool:
        return await (await pool.spawn(SpawnConfig(manifest, "go"))).wait()


PROGRAM = {"type": "server_tool_use", "id": "p", "name": "code_execution", "input": {"code": "look()"}}
CALLER = {"type": "code_execution_20250825", "tool_id": "p"}
ANSWERS: tuple[tuple[Sequence[Any], str, dict[str, Any]], ...] = (
    ((claude.THOUGHT, claude.SEARCH), "pause_turn", {}),
    ((claude.FOUND, claude.text("It is "), claude.use({"a": 1}, id="1")), "tool_use", {}),
    ((claude.HIDDEN, claude.use({}, name="picture", id="2"), claude.use({}, id="3")), "tool_use", {}),
    ((claude.text("cut "), claude.THOUGHT), "max_tokens", {}),
    ((PROGRAM, {**claude.use({"a": 2}, id="4"), "caller": CALLER}), "tool_use", {"container": {"id": "box"}}),
    ((claude.text("here"), {**claude.SEARCH, "id": "late"}), "pause_turn", {}),
    ((claude.text(" and now"),), "end_turn", {}),
)


async def on_claude(driver_of: Any, *, whole: bool) -> tuple[AgentOutcome[Any], Bodies]:
    """Run an agent on a server that holds it to Anthropic's rules."""

    def reply(head: str, body: Any) -> bytes:
        check_claude(body)
        content, stop, more = ANSWERS[len(server.requests) - 1]
        if whole:
            return answer(200, claude.whole(list(content), stop, **more))
        return streamed(content, stop, **more)

    async with raw_server(reply) as server, AnthropicDriver("m", base_url=server.url, api_key="") as driver:
        outcome = await run(driver_of(driver), options={"tools": [{"type": "web_search_20250305"}]})
    return outcome, [body for _, body in server.requests]


@pytest.mark.parametrize("whole", [True, False])
async def test_an_agent_goes_on_through_pauses_programs_and_failed_tools(whole: bool, tmp_path: Path) -> None:
    path = tmp_path / "run.cassette"
    outcome, bodies = await on_claude(lambda driver: RecordingDriver(driver, path), whole=whole)
    assert isinstance(outcome, Completed), outcome
    assert outcome.value.text == "here and now"
    assert len(bodies) == len(ANSWERS)
    assert [tool.get("name", tool.get("type")) for tool in bodies[0]["tools"]] == [
        *["look", "picture"],
        "web_search_20250305",
    ]
    assert bodies[1]["messages"][1]["content"] == [claude.THOUGHT, claude.SEARCH]
    replayed = await run(ReplayDriver(path), options={"tools": [{"type": "web_search_20250305"}]})
    assert isinstance(replayed, Completed), replayed
    assert replayed.value == outcome.value


THOUGHTS = {**responses.THOUGHT, "encrypted_content": "gAAAAABo" + "Zx9-_q" * 40}


async def test_an_agent_on_responses_that_thinks_between_calls_is_recorded_and_replayed(
    tmp_path: Path,
) -> None:
    steps = (
        (THOUGHTS, responses.call('{"a": 1}', call_id="1"), THOUGHTS, responses.call("{}", "picture", "2")),
        (THOUGHTS, responses.said("done", phase="final")),
    )

    def reply(head: str, body: Any) -> bytes:
        items = steps[len(server.requests) - 1]
        events = [
            responses.piece("output_item.done", output_index=index, item=item)
            for index, item in enumerate(items)
        ]
        return STREAM + sse(*events, responses.done(responses.whole()))

    path = tmp_path / "run.cassette"
    async with (
        raw_server(reply) as server,
        OpenAIDriver("m", base_url=server.url, api_key="", api="responses") as driver,
    ):
        outcome = await run(RecordingDriver(driver, path), reasoning="low")
    assert isinstance(outcome, Completed), outcome
    items = server.requests[1][1]["input"]
    assert [item.get("type") for item in items[1:]] == [
        *["reasoning", "function_call", "reasoning", "function_call"],
        *["function_call_output", "function_call_output"],
    ]
    assert items[1] == items[3] == THOUGHTS
    replayed = await run(ReplayDriver(path), reasoning="low")
    assert isinstance(replayed, Completed), replayed
    assert replayed.value == outcome.value
