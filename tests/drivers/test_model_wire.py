"""The drivers against a server that sends what no well-behaved one would, and watches them."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Any

import pytest
import trio
from models import DRIVERS, KEY, Make
from rawserver import STREAM, answer, lines, raw_server, sse

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import (
    AgentPoolError,
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)
from agentpool._core.messages import (
    AssistantMessage,
    Completion,
    CompletionRequest,
    ProviderData,
    TextDelta,
    UserMessage,
)
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver
from agentpool.drivers.anthropic import AnthropicDriver
from agentpool.drivers.gemini import GeminiDriver
from agentpool.drivers.ollama import OllamaDriver
from agentpool.drivers.openai import OpenAIDriver
from agentpool.drivers.prices import PriceTable

pytest.importorskip("httpx2", reason="the extra http is not installed")

REQUEST = CompletionRequest(messages=[UserMessage("hello")], max_tokens=100, temperature=0.5)


def chat_chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **more,
    }


def chat_reply(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **more}


def claude_reply(
    content: list[dict[str, Any]], stop: str | None = "end_turn", **usage: int
) -> dict[str, Any]:
    counted = {"input_tokens": 1, "output_tokens": 1, **usage}
    return {
        "id": "m", "type": "message", "role": "assistant", "model": "m", "content": content,
        "stop_reason": stop, "stop_sequence": None, "usage": counted,
    }  # fmt: skip


def claude_block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def claude_start(**usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": claude_reply([], None, **usage)}


def claude_end(stop: str | None) -> list[dict[str, Any]]:
    delta = {"stop_reason": stop, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]


def gemini_reply(content: str, finish: str | None = None) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": content}]}, "finishReason": finish}]}


def ollama_reply(content: str, done: bool = True, **message: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": content, **message}, "done": done}


TEXT = {"type": "text", "text": ""}

BEGUN: dict[str, bytes] = {
    "chat": sse(chat_chunk({"content": "Hel"})),
    "responses": sse(
        {"type": "response.output_text.delta", "delta": "Hel", "item_id": "i", "output_index": 0}
    ),
    "anthropic": sse(claude_start(), *claude_block(0, TEXT, {"type": "text_delta", "text": "Hel"})),
    "ollama": lines(ollama_reply("Hel", done=False)),
    "gemini": sse(gemini_reply("Hel")),
}
"""The beginning of a stream, without its end."""


async def streamed(driver: Driver, request: CompletionRequest = REQUEST) -> Completion:
    async with driver.stream(request) as parts:
        async for part in parts:
            final = part
    assert isinstance(final, Completion)
    return final


async def completed(driver: Driver) -> Completion:
    return await driver.complete(REQUEST)


MODES = [completed, streamed]


# -- the connection


@pytest.mark.parametrize("name", DRIVERS)
async def test_the_server_sees_a_cancelled_stream_hang_up(name: str) -> None:
    async with raw_server(STREAM + BEGUN[name], stay=True) as server, DRIVERS[name](server.url) as driver:
        with trio.fail_after(5), trio.CancelScope() as scope:
            async with driver.stream(REQUEST) as parts:
                async for part in parts:
                    assert part == TextDelta("Hel")
                    scope.cancel()
        with trio.fail_after(5):
            await server.hung_up.wait()


@pytest.mark.parametrize("name", DRIVERS)
async def test_the_server_sees_a_stream_that_was_left_early_hang_up(name: str) -> None:
    async with raw_server(STREAM + BEGUN[name], stay=True) as server, DRIVERS[name](server.url) as driver:
        with trio.fail_after(5):
            async with driver.stream(REQUEST) as parts:
                assert await anext(parts) == TextDelta("Hel")
            await server.hung_up.wait()


@pytest.mark.parametrize("name", DRIVERS)
async def test_an_error_of_whoever_reads_a_stream_comes_out_as_it_is(name: str) -> None:
    async with raw_server(STREAM + BEGUN[name], stay=True) as server, DRIVERS[name](server.url) as driver:
        with trio.fail_after(5):
            with pytest.raises(KeyError, match="mine"):
                async with driver.stream(REQUEST) as parts:
                    await anext(parts)
                    raise KeyError("mine")
            await server.hung_up.wait()


async def test_the_server_sees_a_cancelled_call_hang_up(make: Make) -> None:
    asked = trio.Event()

    async def pause() -> None:
        asked.set()

    async with raw_server(b"", stay=True, pause=pause) as server, make(server.url) as driver:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.complete, REQUEST)
                await asked.wait()
                nursery.cancel_scope.cancel()
            await server.hung_up.wait()


async def test_nobody_listening_is_an_error_that_may_be_retried(make: Make) -> None:
    async with make("http://127.0.0.1:9") as driver:
        for mode in MODES:
            with pytest.raises(DriverUnavailableError) as caught:
                await mode(driver)
            assert caught.value.__cause__ is not None


@pytest.mark.parametrize("kind", [OpenAIDriver, AnthropicDriver, GeminiDriver, OllamaDriver])
async def test_silence_is_given_up(kind: Callable[..., Driver]) -> None:
    async with raw_server(b"", stay=True) as server:
        driver = kind("m", base_url=server.url, api_key=KEY, timeout=0.2)
        async with driver:  # type: ignore[attr-defined]
            for mode in MODES:
                with pytest.raises(DriverUnavailableError):
                    await mode(driver)


async def test_a_closed_driver_says_so(make: Make) -> None:
    driver = make("http://127.0.0.1:9")
    await driver.aclose()
    await driver.aclose()
    assert "closed" in repr(driver)
    with pytest.raises(trio.ClosedResourceError, match="closed"):
        await driver.complete(REQUEST)


async def test_what_stays_on_this_machine_follows_no_redirect_and_no_proxy(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    elsewhere = answer(307, {}, location="http://example.com/v1/chat/completions")
    async with raw_server(elsewhere) as server, make(server.url) as driver:
        for mode in MODES:
            with pytest.raises(DriverError):
                await mode(driver)
        assert len(server.requests) == 2


# -- what cannot be read


@pytest.mark.parametrize("name", DRIVERS)
async def test_a_stream_without_its_finish_marker_is_no_answer(name: str) -> None:
    async with raw_server(STREAM + BEGUN[name]) as server, DRIVERS[name](server.url) as driver:
        with pytest.raises(MalformedReplyError, match="finish marker"):
            await streamed(driver)


async def test_an_empty_stream_is_no_answer(make: Make) -> None:
    async with raw_server(STREAM) as server, make(server.url) as driver:
        with pytest.raises(MalformedReplyError, match="finish marker"):
            await streamed(driver)


@pytest.mark.parametrize(
    "reply", [{}, [], {"choices": []}, {"content": None}, {"message": {}}, "words", None, b"{"]
)
async def test_an_answer_of_another_shape_is_no_answer(make: Make, reply: Any) -> None:
    async with raw_server(answer(200, reply)) as server, make(server.url) as driver:
        with pytest.raises(MalformedReplyError):
            await completed(driver)


@pytest.mark.parametrize("kind", ["text/html", "application/json"])
async def test_a_page_is_no_answer(make: Make, kind: str) -> None:
    page = answer(200, b"<html>log in first</html>", content_type=kind)
    async with raw_server(page) as server, make(server.url) as driver:
        for mode in MODES:
            with pytest.raises(MalformedReplyError):
                await mode(driver)


async def test_rubbish_in_a_stream_is_no_answer(make: Make) -> None:
    async with raw_server(STREAM + b"event: message_start\ndata: {nonsense\n\n") as server:
        async with make(server.url) as driver:
            with pytest.raises(MalformedReplyError):
                await streamed(driver)


UNFINISHED: dict[str, Any] = {
    "chat": chat_reply({"content": "x"}, finish=None),
    "responses": {"id": "r", "object": "response", "status": "in_progress", "output": []},
    "anthropic": claude_reply([{"type": "text", "text": "x"}], stop=None),
    "ollama": ollama_reply("x", done=False),
    "gemini": gemini_reply("x"),
}


@pytest.mark.parametrize("name", DRIVERS)
async def test_a_whole_answer_needs_its_finish_marker_too(name: str) -> None:
    async with raw_server(answer(200, UNFINISHED[name])) as server, DRIVERS[name](server.url) as driver:
        with pytest.raises(MalformedReplyError):
            await completed(driver)


def call_chunk(arguments: str, **more: Any) -> dict[str, Any]:
    return chat_chunk({"tool_calls": [{"function": {"arguments": arguments}, **more}]})


async def test_fragments_of_calls_that_all_have_the_same_index() -> None:
    chunks = [
        chat_chunk(
            {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"p"'}}]}
        ),
        call_chunk(': "1"}', index=0),
        chat_chunk(
            {"tool_calls": [{"index": 0, "id": "b", "function": {"name": "look", "arguments": "{}"}}]}
        ),
        chat_chunk({}, "stop"),
    ]
    async with raw_server(STREAM + sse(*chunks, "[DONE]")) as server, DRIVERS["chat"](server.url) as driver:
        completion = await streamed(driver)
    assert [(call.id, dict(call.input)) for call in completion.tool_calls] == [("a", {"p": "1"}), ("b", {})]
    assert completion.stop_reason == "tool_use"


@pytest.mark.parametrize(("finish", "whole"), [("length", True), ("tool_calls", False)])
async def test_a_call_that_was_cut_off_by_the_limit_of_tokens_is_left_out(finish: str, whole: bool) -> None:
    chunks = [
        chat_chunk({"content": "I look."}),
        chat_chunk(
            {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}]}
        ),
        chat_chunk(
            {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "look", "arguments": '{"pa'}}]}
        ),
        chat_chunk({}, finish),
    ]
    async with raw_server(STREAM + sse(*chunks)) as server, DRIVERS["chat"](server.url) as driver:
        if whole:
            completion = await streamed(driver)
            assert [call.id for call in completion.tool_calls] == ["a"]
            assert completion.stop_reason == "max_tokens"
        else:
            completion = await streamed(driver)
            assert [call.problem[:40] for call in completion.tool_calls] == [
                "",
                "Not run: the arguments are not JSON: Unt",
            ]


async def test_claude_streams_calls_in_fragments() -> None:
    tool = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    pieces = [{"type": "input_json_delta", "partial_json": text} for text in ('{"pa', 'th": "x"}')]
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    events = [
        claude_start(input_tokens=10, cache_read_input_tokens=70, cache_creation_input_tokens=20),
        *claude_block(0, thinking, {"type": "thinking_delta", "thinking": "Hm."}),
        *claude_block(1, {"type": "text", "text": "I "}, {"type": "text_delta", "text": "look."}),
        *claude_block(2, tool, *pieces),
        *claude_end("tool_use"),
    ]
    async with raw_server(STREAM + sse(*events)) as server, DRIVERS["anthropic"](server.url) as driver:
        completion = await streamed(driver)
    assert completion.text == "I look."
    assert [(call.id, dict(call.input)) for call in completion.tool_calls] == [("a", {"path": "x"})]
    usage = completion.usage
    assert (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == (100, 70, 20)
    assert usage.output_tokens == 9
    # claude-haiku-4-5: 1.00 plain, 0.10 read, 1.25 written, 5.00 said, per million
    assert usage.cost_usd == pytest.approx((10 * 1.0 + 70 * 0.1 + 20 * 1.25 + 9 * 5.0) / 1e6)


async def test_claude_streams_malformed_arguments() -> None:
    tool = {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    for piece in ('{"pa', "[1]"):
        events = [
            claude_start(),
            *claude_block(0, tool, {"type": "input_json_delta", "partial_json": piece}),
            *claude_end("tool_use"),
        ]
        async with raw_server(STREAM + sse(*events)) as server, DRIVERS["anthropic"](server.url) as driver:
            (call,) = (await streamed(driver)).tool_calls
            assert (call.name, dict(call.input)) == ("look", {})
            assert call.problem.startswith("Not run: the arguments are")


async def test_claude_that_never_says_why_it_stopped() -> None:
    async with raw_server(STREAM + sse(claude_start(), *claude_end(None))) as server:
        async with DRIVERS["anthropic"](server.url) as driver:
            with pytest.raises(MalformedReplyError):
                await streamed(driver)


@pytest.mark.parametrize("block", [{"type": "tool_use", "id": "a", "name": "look", "input": "x"}])
async def test_claude_with_arguments_that_are_no_object(block: dict[str, Any]) -> None:
    async with raw_server(answer(200, claude_reply([block], "tool_use"))) as server:
        async with DRIVERS["anthropic"](server.url) as driver:
            (call,) = (await completed(driver)).tool_calls
            assert call.problem.startswith("Not run: the arguments are not JSON")


async def test_ollama_answers_with_calls_and_counts() -> None:
    called = [{"function": {"name": "look", "arguments": {"path": "x"}}}]
    reply = ollama_reply("", tool_calls=called) | {
        "prompt_eval_count": 5,
        "eval_count": 7,
        "done_reason": "length",
    }
    async with raw_server(answer(200, reply)) as server, DRIVERS["ollama"](server.url) as driver:
        completion = await completed(driver)
    assert [(call.name, dict(call.input)) for call in completion.tool_calls] == [("look", {"path": "x"})]
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (5, 7)
    assert completion.usage.cost_usd == 0.0
    assert completion.stop_reason == "max_tokens"


@pytest.mark.parametrize("arguments", ["{", "[1]", "7"])
async def test_ollama_with_arguments_that_are_no_object(arguments: Any) -> None:
    called = [{"function": {"name": "look", "arguments": arguments}}]
    async with raw_server(answer(200, ollama_reply("", tool_calls=called))) as server:
        async with DRIVERS["ollama"](server.url) as driver:
            completion = await completed(driver)
    (call,) = completion.tool_calls
    assert (call.name, call.input) == ("look", {})
    assert call.problem.startswith("Not run")


async def test_ollama_is_asked_for_the_context_window_that_was_given() -> None:
    async with raw_server(answer(200, ollama_reply("x"))) as server:
        async with OllamaDriver("m", base_url=server.url, context_window=8192) as driver:
            await driver.complete(CompletionRequest(messages=[UserMessage("x")], stop=("END",)))
            assert driver.context_window == 8192
        options = server.requests[0][1]["options"]
        assert options["num_ctx"] == 8192
        assert options["stop"] == ["END"]


async def test_cached_tokens_of_openai_are_counted() -> None:
    usage = {
        "prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105,
        "prompt_tokens_details": {"cached_tokens": 60},
    }  # fmt: skip
    async with raw_server(answer(200, chat_reply({"content": "x"}, usage=usage))) as server:
        async with DRIVERS["chat"](server.url) as driver:
            counted = (await completed(driver)).usage
    assert (counted.input_tokens, counted.cache_read_tokens, counted.output_tokens) == (100, 60, 5)
    assert counted.cost_usd == pytest.approx((40 * 2.5 + 60 * 1.25 + 5 * 10) / 1e6)


async def test_a_refusal_in_words_is_told_from_an_answer() -> None:
    async with raw_server(answer(200, chat_reply({"content": None, "refusal": "I cannot."}))) as server:
        async with DRIVERS["chat"](server.url) as driver:
            completion = await completed(driver)
    assert (completion.text, completion.stop_reason) == ("I cannot.", "refusal")


def response(status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": status,
        "output": [],
        **more,
    }


async def test_a_response_that_failed_is_an_error() -> None:
    failed = response("failed", error={"code": "rate_limit_exceeded", "message": "slow down"})
    unexplained = response("failed", error=None)
    for reply, kind in ((failed, RateLimitedError), (unexplained, DriverError)):
        for wire in (answer(200, reply), STREAM + sse({"type": "response.failed", "response": reply})):
            async with raw_server(wire) as server, DRIVERS["responses"](server.url) as driver:
                with pytest.raises(kind):
                    await (streamed if wire.startswith(STREAM) else completed)(driver)


async def test_a_response_that_was_filtered_or_refused_says_so() -> None:
    filtered = response("incomplete", incomplete_details={"reason": "content_filter"})
    refused = response(
        "completed", output=[{"type": "message", "content": [{"type": "refusal", "refusal": "I cannot."}]}]
    )
    for reply in (filtered, refused):
        async with raw_server(answer(200, reply)) as server, DRIVERS["responses"](server.url) as driver:
            assert (await completed(driver)).stop_reason == "refusal"


async def test_the_responses_api_takes_no_stop_strings() -> None:
    async with DRIVERS["responses"]("http://127.0.0.1:9") as driver:
        with pytest.raises(RequestRejectedError, match="stop"):
            await driver.complete(CompletionRequest(messages=[UserMessage("x")], stop=("END",)))


async def test_stop_strings_reach_the_others() -> None:
    for name, key, reply in (
        ("chat", "stop", chat_reply({"content": "x"})),
        ("anthropic", "stop_sequences", claude_reply([{"type": "text", "text": "x"}], "stop_sequence")),
    ):
        async with raw_server(answer(200, reply)) as server, DRIVERS[name](server.url) as driver:
            await driver.complete(CompletionRequest(messages=[UserMessage("x")], stop=("END",)))
            assert server.requests[0][1][key] == ["END"]


# -- what providers refuse


MID_STREAM: dict[str, bytes] = {
    "chat": sse(chat_chunk({"content": "Hel"}), {"error": {"message": "busy", "type": "overloaded_error"}}),
    "responses": sse({"type": "error", "code": "overloaded_error", "message": "busy"}),
    "anthropic": sse(
        claude_start(), {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    ),
}


@pytest.mark.parametrize("name", MID_STREAM)
async def test_an_error_inside_of_a_stream_is_told_by_its_name(name: str) -> None:
    async with raw_server(STREAM + MID_STREAM[name]) as server, DRIVERS[name](server.url) as driver:
        with pytest.raises(OverloadedError, match="busy"):
            await streamed(driver)


async def test_an_error_inside_of_a_stream_of_ollama() -> None:
    wire = STREAM + BEGUN["ollama"] + lines({"error": "the runner has crashed"})
    async with raw_server(wire) as server, DRIVERS["ollama"](server.url) as driver:
        with pytest.raises(DriverUnavailableError, match="crashed"):
            await streamed(driver)


async def test_an_error_event_of_openai_that_has_no_words() -> None:
    async with raw_server(STREAM + sse({"error": {"code": "server_error"}})) as server:
        async with DRIVERS["chat"](server.url) as driver:
            with pytest.raises(DriverUnavailableError, match="without words"):
                await streamed(driver)


async def test_the_wait_may_be_given_as_a_date(make: Make) -> None:
    def later(head: str, body: Any) -> bytes:
        import time

        return answer(
            429, {"error": {"message": "later"}}, Retry_After=formatdate(time.time() + 30, usegmt=True)
        )

    async with raw_server(later) as server, make(server.url) as driver:
        for mode in MODES:
            with pytest.raises(RateLimitedError) as caught:
                await mode(driver)
            assert caught.value.retry_after == pytest.approx(30, abs=3)


async def test_a_quota_that_is_used_up_is_no_rate_limit() -> None:
    body = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    async with raw_server(answer(429, body)) as server, DRIVERS["chat"](server.url) as driver:
        with pytest.raises(RequestRejectedError) as caught:
            await completed(driver)
        assert not caught.value.retryable


@pytest.mark.parametrize("name", ["chat", "anthropic"])
async def test_a_model_that_takes_no_temperature_is_asked_without(name: str) -> None:
    good = chat_reply({"content": "x"}) if name == "chat" else claude_reply([{"type": "text", "text": "x"}])

    def pick(head: str, body: Any) -> bytes:
        refusal = {"error": {"message": "temperature is not supported", "type": "invalid_request_error"}}
        return answer(400, refusal) if "temperature" in body else answer(200, good)

    async with raw_server(pick) as server, DRIVERS[name](server.url) as driver:
        await completed(driver)
        assert len(server.requests) == 2
        await completed(driver)
        assert len(server.requests) == 3  # it is not tried again


@pytest.mark.parametrize("name", ["anthropic", "responses"])
async def test_thoughts_that_a_server_does_not_take_back_stay_behind(name: str) -> None:
    """opencode#48637, openai/codex#8145: the conversation goes on without them."""
    if name == "anthropic":
        said = "messages.1.content.0: Invalid `signature` in `thinking` block"
        thought: dict[str, Any] = {"type": "thinking", "thinking": "hm", "signature": "odd"}
        told: dict[str, Any] = {"type": "text", "text": "x"}
        good, provider = claude_reply([told]), "anthropic"
    else:
        said = "The encrypted content gAAA...DQ== could not be verified."
        thought = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "odd"}
        told = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
        good, provider = {"status": "completed", "output": [told]}, "openai-responses"

    def pick(head: str, body: Any) -> bytes:
        refusal = {"error": {"message": said, "type": "invalid_request_error"}}
        return answer(400, refusal) if "odd" in str(body) else answer(200, good)

    async with raw_server(pick) as server, DRIVERS[name](server.url) as driver:
        data = ProviderData(provider, driver.model, [thought, told])
        earlier = AssistantMessage("x", (), "hm", data)
        request = CompletionRequest(messages=[UserMessage("a"), earlier, UserMessage("b")])
        for requests in (2, 3):
            completion = await driver.complete(request)
            assert completion.text == "x"
            assert len(server.requests) == requests


async def test_other_bad_requests_are_not_made_twice() -> None:
    async with raw_server(answer(400, {"error": "no such thing"})) as server:
        async with DRIVERS["chat"](server.url) as driver:
            with pytest.raises(RequestRejectedError, match="no such thing"):
                await completed(driver)
            assert len(server.requests) == 1


async def test_the_prompt_cache_of_anthropic_is_used_unless_it_is_switched_off() -> None:
    request = CompletionRequest(messages=[UserMessage("x")], max_tokens=100_000, system="s")
    async with raw_server(answer(200, claude_reply([{"type": "text", "text": "x"}]))) as server:
        for cache in (True, False):
            async with AnthropicDriver("m", base_url=server.url, api_key=KEY, cache=cache) as driver:
                await driver.complete(request)
        with_it, without = (json.dumps(body) for _, body in server.requests)
        assert with_it.count('"cache_control": {"type": "ephemeral"}') == 2
        assert "cache_control" not in without


# -- secrets


def locals_of(error: BaseException | None) -> list[str]:
    """Return the local variables, as a debugger shows them, of all frames but those of this file."""
    found: list[str] = []
    while error is not None:
        captured = traceback.TracebackException.from_exception(error, capture_locals=True)
        found += [str(frame.locals) for frame in captured.stack if frame.filename != __file__]
        error = error.__cause__ or error.__context__
    return found


async def test_the_key_is_sent_but_shown_nowhere(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The server even repeats it, in an error, in the words of a stream, and in its headers."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    replies = [
        answer(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "type": KEY}}),
        answer(400, {"error": f"bad header: Bearer {KEY}"}),
        answer(500, f"<html>{KEY}".encode(), content_type="text/html"),
        answer(200, f"{{ {KEY}".encode()),
        STREAM + f"event: error\ndata: {{{KEY}\n\n".encode(),
    ]
    for reply in replies:
        async with raw_server(reply) as server, make(server.url) as driver:
            shown += [repr(driver), str(driver), repr(vars(driver))]
            for mode in MODES:
                try:
                    await mode(driver)
                except AgentPoolError as error:
                    shown += ["".join(traceback.format_exception(error)), repr(error), repr(vars(error))]
                    if b" 200 " not in reply[:20]:  # an answer is a local variable of whoever reads it
                        shown += locals_of(error)
            assert KEY in server.requests[0][0]
    assert "401" in "".join(shown)
    assert KEY not in "\n".join(shown) + caplog.text


async def test_a_server_that_is_not_known_to_be_here_is_reached_with_the_client_of_the_sdk() -> None:
    async with raw_server(answer(200, chat_reply({"content": "x"}))) as server:
        elsewhere = server.url.replace("127.0.0.1", "0.0.0.0")  # the same place, which cannot be told
        async with OpenAIDriver("m", base_url=elsewhere, api_key="") as driver:
            assert driver.privacy is PrivacyTier.STANDARD
            assert (await completed(driver)).text == "x"


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown() -> None:
    pasted = f"{KEY}\n{KEY}"
    for kind in (OpenAIDriver, AnthropicDriver, GeminiDriver, OllamaDriver):
        with pytest.raises(ValueError, match=f"position {len(KEY)}") as caught:
            kind("m", base_url="http://127.0.0.1:9", api_key=pasted)
        assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_a_line_break_behind_a_key_does_no_harm() -> None:
    async with raw_server(answer(200, chat_reply({"content": "x"}))) as server:
        async with OpenAIDriver("m", base_url=server.url, api_key=f"{KEY}\n") as driver:
            await completed(driver)
        assert f"Bearer {KEY}\r\n" in server.requests[0][0]


# -- making one


@pytest.mark.parametrize(
    ("kind", "package"),
    [(OpenAIDriver, "http"), (AnthropicDriver, "http"), (OllamaDriver, "http"), (GeminiDriver, "http")],
)
def test_a_missing_extra_names_what_to_install(
    kind: Callable[..., object], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, {"http": "httpx2"}.get(package, package), None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'trio-agentpool\[{package}\]'"):
        kind("m", api_key="some-key")


@pytest.mark.parametrize(
    ("kind", "variable"),
    [
        (OpenAIDriver, "OPENAI_API_KEY"),
        (AnthropicDriver, "ANTHROPIC_API_KEY"),
        (GeminiDriver, "GEMINI_API_KEY"),
    ],
)
def test_a_missing_key_names_its_variable(
    kind: Callable[..., object], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match=variable):
        kind("m")
    monkeypatch.setenv(variable, KEY)
    assert KEY not in repr(kind("m"))


@pytest.mark.parametrize("kind", [OpenAIDriver, AnthropicDriver, GeminiDriver, OllamaDriver])
def test_wrong_arguments_are_refused(kind: Callable[..., object]) -> None:
    make = partial(kind, api_key="some-key")
    with pytest.raises(ValueError, match="name of a model"):
        make("")
    with pytest.raises(ValueError, match="timeout"):
        make("m", timeout=0)
    with pytest.raises(ValueError, match="address of a server"):
        make("m", base_url="localhost:8080")
    with pytest.raises(ValueError, match="SOVEREIGN"):
        make("m", base_url="http://example.com", privacy=PrivacyTier.SOVEREIGN)
    with pytest.raises(ValueError, match="api must be"):
        OpenAIDriver("m", api_key="some-key", api="legacy")  # type: ignore[arg-type]


def test_words_stay_here_on_loopback_only() -> None:
    tiers = {
        "http://127.0.0.1:8080/v1": PrivacyTier.SOVEREIGN,
        "http://localhost/v1": PrivacyTier.SOVEREIGN,
        "http://[::1]:80": PrivacyTier.SOVEREIGN,
        "http://127.0.0.1.example.com": PrivacyTier.STANDARD,
        "http://192.168.1.5": PrivacyTier.STANDARD,
    }
    for url, tier in tiers.items():
        assert OpenAIDriver("m", base_url=url, api_key="").privacy is tier
    own = OpenAIDriver("m", base_url="http://192.168.1.5", api_key="", privacy=PrivacyTier.PRIVATE)
    assert own.privacy is PrivacyTier.PRIVATE


def test_what_ollama_passes_on_to_its_cloud_neither_stays_here_nor_is_free() -> None:
    local = OllamaDriver("gpt-oss:20b")
    cloud = OllamaDriver("gpt-oss:120b-cloud", base_url="http://127.0.0.1:11434")
    assert (local.privacy, local.estimate_cost(Completion().usage)) == (PrivacyTier.SOVEREIGN, 0.0)
    assert (cloud.privacy, cloud.estimate_cost(Completion().usage)) == (PrivacyTier.STANDARD, None)


def test_a_price_that_is_not_known_is_not_free() -> None:
    unknown = OpenAIDriver("a-model-of-your-own", base_url="http://127.0.0.1:8080", api_key="")
    assert unknown.estimate_cost(Completion().usage) is None
    assert unknown.context_window is None


def test_prices_of_your_own_are_used() -> None:
    table = PriceTable.from_toml("[openai]\nmine = { input = 3, output = 4, context_window = 9 }")
    driver = OpenAIDriver("mine", base_url="http://127.0.0.1:9", api_key="", prices=table)
    assert driver.estimate_cost(TokenUsage(1_000_000, 1_000_000)) == pytest.approx(7.0)
    assert driver.context_window == 9
