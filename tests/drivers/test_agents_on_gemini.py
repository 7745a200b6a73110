"""Whole agents on a server that holds their requests to Gemini's rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from rawserver import answer, raw_server

from agentpool import (
    AgentManifest,
    AgentOutcome,
    Completed,
    ContentRefusedError,
    Failed,
    GeminiDriver,
    RetryingDriver,
    SpawnConfig,
    ToolRegistry,
    open_agent_pool,
    tool,
)


@tool(quick=True)
def echo(text: str) -> str:
    """Say it again."""
    return text


@tool(quick=True)
def half() -> str:
    """Return a text that ends in half of a pair."""
    return "smile \ud83d"


def said(*parts: dict[str, Any], finish: str = "STOP") -> bytes:
    return answer(
        200, {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": finish}]}
    )


def called(name: str, args: Any = None, **more: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": args}, **more}


def check_rules(body: dict[str, Any]) -> None:
    """Check what Gemini refuses: roles that do not alternate, calls that are not answered, empty parts."""
    contents = body["contents"]
    assert [content["role"] for content in contents] == [
        ("user", "model")[number % 2] for number in range(len(contents))
    ]
    assert contents[-1]["role"] == "user"
    for number, content in enumerate(contents):
        assert content["parts"]
        assert {} not in content["parts"]
        calls = [part["functionCall"]["name"] for part in content["parts"] if "functionCall" in part]
        if calls:
            parts = contents[number + 1]["parts"]
            answered = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
            assert answered == calls


async def run(replies: Sequence[bytes]) -> tuple[AgentOutcome[Any], list[dict[str, Any]]]:
    """Run an agent on a server that gives these replies; return its outcome and the requests."""

    def reply(head: str, body: Any) -> bytes:
        check_rules(body)
        return replies[min(len(server.requests), len(replies)) - 1]

    async with raw_server(reply) as server, GeminiDriver("m", base_url=server.url, api_key="") as driver:
        tools = ToolRegistry([echo, half])
        async with open_agent_pool(
            RetryingDriver(driver), max_concurrent=1, tool_builder=lambda _: tools
        ) as pool:
            outcome = await (await pool.spawn(SpawnConfig(AgentManifest(name="a"), "go"))).wait()
    return outcome, [body for _, body in server.requests]


OK = said({"text": "ok"})


@pytest.mark.parametrize(
    ("why", "replies"),
    [
        ("half of a pair in arguments", [said(called("echo", {"text": "\ud83d"})), OK]),
        ("half of a pair in a result", [said(called("half")), OK]),
        ("two calls of one tool without ids", [said(called("half"), called("half")), OK]),
        ("a tool that there is not, with markup in its name", [said(called("a b<|x|>", {})), OK]),
        ("arguments that are no JSON", [said(called("echo", "{")), OK]),
        ("words around a call", [said({"text": "I"}, called("half"), {"text": "see"}), OK]),
        ("cut at its limit", [said({"text": ""}, finish="MAX_TOKENS"), OK]),
        ("a call that Gemini could not read", [said(finish="MALFORMED_FUNCTION_CALL"), OK]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_agent_comes_to_its_answer(why: str, replies: list[bytes]) -> None:
    outcome, bodies = await run(replies)
    assert isinstance(outcome, Completed)
    assert outcome.value.text == "ok"
    assert len(bodies) == len(replies)


async def test_signatures_go_back_in_their_places() -> None:
    first = said({"text": "I look."}, called("half", thoughtSignature="s1"), called("half"))
    second = said(called("half", thoughtSignature="s2"), {"text": "", "thoughtSignature": "s3"})
    outcome, bodies = await run([first, second, OK])
    assert isinstance(outcome, Completed)
    models = [content["parts"] for content in bodies[-1]["contents"] if content["role"] == "model"]
    assert [[part.get("thoughtSignature") for part in parts] for parts in models] == [
        [None, "s1", None],
        ["s2", "s3"],
    ]


@pytest.mark.parametrize(
    "reply",
    [said({"text": "no"}, finish="SAFETY"), answer(200, {"promptFeedback": {"blockReason": "OTHER"}})],
    ids=["answer", "prompt"],
)
async def test_what_is_declined_is_an_error_that_says_so(reply: bytes) -> None:
    outcome, bodies = await run([reply])
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ContentRefusedError)
    assert len(bodies) == 1
