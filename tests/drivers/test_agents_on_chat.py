"""Whole agents on a server that answers oddly, and holds their requests to OpenAI's rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from corpus_chat import call, chunk, whole
from rawserver import answer, raw_server, sse

from agentpool import (
    AgentManifest,
    AgentOutcome,
    Completed,
    Failed,
    OpenAIDriver,
    RateLimitedError,
    SpawnConfig,
    ToolRegistry,
    open_agent_pool,
    tool,
)
from agentpool._core.errors import MalformedReplyError

COUNTED = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@tool(quick=True)
def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b


def streamed(*events: dict[str, Any] | str) -> bytes:
    return answer(200, sse(*events, "[DONE]"), content_type="text/event-stream")


def pieces(*found: dict[str, Any]) -> bytes:
    return streamed(*(chunk({"tool_calls": [each]}) for each in found), chunk({}, "tool_calls"))


def adds(arguments: Any, **more: Any) -> dict[str, Any]:
    return call(arguments, "add", **more)


def check_rules(body: dict[str, Any]) -> None:
    """Check what OpenAI refuses: calls that are not answered one by one, ids that come twice."""
    seen: set[str] = set()
    messages = body["messages"]
    for number, message in enumerate(messages):
        ids = [call["id"] for call in message.get("tool_calls", ())]
        answers = [answer["tool_call_id"] for answer in messages[number + 1 : number + 1 + len(ids)]]
        assert answers == ids
        assert seen.isdisjoint(ids)
        assert len(set(ids)) == len(ids)
        seen.update(ids)
        for each in message.get("tool_calls", ()):
            assert isinstance(json.loads(each["function"]["arguments"]), dict)


async def run(replies: Sequence[bytes]) -> tuple[AgentOutcome[Any], list[dict[str, Any]]]:
    """Run an agent on a server that gives these replies; return its outcome and the requests."""

    def reply(head: str, body: Any) -> bytes:
        check_rules(body)
        return replies[min(len(server.requests), len(replies)) - 1]

    async with raw_server(reply) as server, OpenAIDriver("m", base_url=server.url, api_key="") as driver:
        async with open_agent_pool(
            driver, max_concurrent=1, tool_builder=lambda _: ToolRegistry([add])
        ) as pool:
            outcome = await (await pool.spawn(SpawnConfig(AgentManifest(name="a"), "go"))).wait()
    return outcome, [body for _, body in server.requests]


OK = answer(200, whole({"role": "assistant", "content": "ok"}, usage=COUNTED))


def results(body: dict[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"] if message["role"] == "tool"]


@pytest.mark.parametrize(
    ("why", "reply", "told"),
    [
        (
            "one answer in two choices",
            answer(
                200,
                {
                    "choices": [
                        {"message": {"content": "I add."}, "finish_reason": "tool_calls"},
                        {"message": {"tool_calls": [adds('{"a": 1}')]}, "finish_reason": "tool_calls"},
                    ]
                },
            ),
            ["1"],
        ),
        ("`{}` first", pieces({"index": 0, **adds("{}")}, {"index": 0, **adds('{"a": 1}')}), ["1"]),
        (
            "two calls of one id and one number",
            pieces({"index": 0, **adds('{"a": 1}')}, {"index": 0, **adds('{"a": 2}')}),
            ["1", "2"],
        ),
        (
            "two calls of one number, objects, without ids",
            pieces({"index": 0, **adds({"a": 1}, id=None)}, {"index": 0, **adds({"a": 2}, id=None)}),
            ["1", "2"],
        ),
        (
            "the whole message once more",
            streamed(
                chunk({"tool_calls": [{"index": 0, **adds('{"a": 1}')}]}),
                {
                    "choices": [
                        {"index": 0, "message": {"tool_calls": [adds('{"a": 1}')]}, "finish_reason": "stop"}
                    ]
                },
            ),
            ["1"],
        ),
        ("an array for an index", pieces({"index": [], **adds('{"a": 1}')}), ["1"]),
        ("arguments in an array", pieces({"index": 0, **adds(['{"a":', " 1}"])}), ["1"]),
        ("the old function_call", answer(200, whole({"function_call": adds("{}")["function"]})), None),
        ("two objects in one call", pieces({"index": 0, **adds('{"a": 1}{"a": 2}')}), None),
        ("a call as text", answer(200, whole({"content": '<tool_call>{"name": "add"}</tool_call>'})), []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_agent_comes_to_its_answer(why: str, reply: bytes, told: list[str] | None) -> None:
    outcome, bodies = await run([reply, reply, OK] if told is None else [reply, OK])
    assert isinstance(outcome, Completed)
    assert outcome.value.text == "ok"
    if told is None:
        assert len(results(bodies[-1])) == 2
    else:
        assert results(bodies[-1]) == told


async def test_usage_in_a_choice_is_counted() -> None:
    end = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": COUNTED}
    outcome, _ = await run([streamed(chunk({"content": "ok"}), {"choices": [end]})])
    assert isinstance(outcome, Completed)
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (10, 5)


async def test_words_in_the_place_of_an_answer_keep_their_kind() -> None:
    limited = {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit exceeded"}}
    for reply in (answer(200, limited), streamed(chunk({"content": "o"}), limited)):
        outcome, _ = await run([reply])
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, RateLimitedError)
        assert "rate limit exceeded" in str(outcome.error)


async def test_calls_that_stay_text_are_an_error() -> None:
    spoken = answer(200, whole({"content": '<tool_call>{"name": "add"}</tool_call>'}))
    outcome, bodies = await run([spoken])
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, MalformedReplyError)
    assert len(bodies) == 2


async def test_what_a_server_hangs_on_an_answer_comes_back_to_it() -> None:
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    raw = "call_1__thought__" + "Cs4/+=" * 20
    first = whole({"content": None, "thinking_blocks": blocks, "tool_calls": [adds('{"a": 1}', id=raw)]})
    outcome, bodies = await run([answer(200, first), OK])
    assert isinstance(outcome, Completed)
    said, told = bodies[-1]["messages"][-2:]
    assert said["thinking_blocks"] == blocks
    assert said["tool_calls"][0]["id"] == told["tool_call_id"] == raw
