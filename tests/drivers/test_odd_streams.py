"""One answer in every form in which servers and what stands before them put it on the wire."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
import trio
from rawserver import STREAM, answer, raw_server

from agentpool._core.errors import DriverError, MalformedReplyError, OverloadedError, RateLimitedError
from agentpool._core.messages import Completion, CompletionRequest, TextDelta, UserMessage
from agentpool.drivers.gemini import GeminiDriver
from agentpool.drivers.ollama import OllamaDriver
from agentpool.drivers.openai import OpenAIDriver

REQUEST = CompletionRequest(messages=[UserMessage("hello")])
DONE = "data: [DONE]\n\n"


def choice(content: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


def line(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": content}, "done": False, **more}


def candidate(text: str, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": text}]}, **more}]}


def events(*found: dict[str, Any] | str) -> bytes:
    texts = (e if isinstance(e, str) else f"data: {json.dumps(e, ensure_ascii=False)}\n\n" for e in found)
    return "".join(texts).encode()


def lines(*found: dict[str, Any]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in found).encode()


CHAT = (choice("Hé"), choice("llo 🙂"), choice("", "stop"))
SSE = events(*CHAT, DONE)
OLLAMA = lines(line("Hé"), line("llo 🙂"), line("", done=True, done_reason="stop"))
GEMINI = (candidate("Hé"), candidate("llo 🙂", finishReason="STOP"))

OPENAI_FORMS: dict[str, tuple[bytes, dict[str, str]]] = {
    "as documented": (SSE, {}),
    "CRLF": (SSE.replace(b"\n", b"\r\n"), {}),
    "CR": (SSE.replace(b"\n", b"\r"), {}),
    "a byte order mark": (b"\xef\xbb\xbf" + SSE, {}),
    "no blank lines": (SSE.replace(b"\n\n", b"\n"), {}),
    "no space": (SSE.replace(b"data: ", b"data:"), {}),
    "no [DONE], and no blank line at the end": (events(*CHAT).rstrip(), {}),
    "[DONE] in quotes": (events(*CHAT, 'data: "[DONE]"\n\n'), {}),
    "names, ids and times to wait": (SSE.replace(b"data: ", b"event: message\nid: 1\nretry: 9\ndata: "), {}),
    "comments, pings without data, and null": (b": hi\n\nevent: ping\n\ndata:\n\ndata: null\n\n" + SSE, {}),
    "gzip": (gzip.compress(SSE), {"content_encoding": "gzip"}),
    "gzip, each event packed by itself, and padding": (
        b"".join(gzip.compress(b"data:" + event) for event in SSE.split(b"data:")[1:]) + b"\0" * 8,
        {"content_encoding": "x-gzip"},
    ),
    "gzip that nobody tells (Wei-Shaw/claude-relay-service#1039)": (gzip.compress(SSE), {}),
    "no gzip, though it is told": (SSE, {"content_encoding": "gzip"}),
    "gzip, twice": (gzip.compress(gzip.compress(SSE)), {"content_encoding": "gzip, gzip"}),
    "deflate": (zlib.compress(SSE), {"content_encoding": "deflate"}),
    "another type": (SSE, {"content_type": "application/json"}),
    "another type, an id first": (b"id: 1\n" + SSE, {"content_type": "text/plain"}),
    "another type, a null": (b"data: null\n\n" + SSE, {"content_type": "text/plain"}),
    "lines of JSON": (lines(*CHAT), {}),
    "lines of JSON by their own type": (lines(*CHAT), {"content_type": "application/x-ndjson"}),
}
OLLAMA_SSE = OLLAMA.replace(b'{"model', b'data: {"model').replace(b"\n", b"\n\n")
OLLAMA_FORMS: dict[str, tuple[bytes, dict[str, str]]] = {
    "as documented": (OLLAMA, {"content_type": "application/x-ndjson"}),
    "CRLF, a byte order mark, and no end of the last line": (
        b"\xef\xbb\xbf" + OLLAMA.replace(b"\n", b"\r\n")[:-2],
        {"content_type": "application/x-ndjson"},
    ),
    "another type": (OLLAMA, {"content_type": "application/json"}),
    "a proxy's events": (b": hi\n\n" + OLLAMA_SSE, {"content_type": "text/event-stream"}),
    "a proxy's events by another type": (OLLAMA_SSE, {"content_type": "text/plain"}),
}
GEMINI_FORMS: dict[str, tuple[bytes, dict[str, str]]] = {
    "as documented": (events(*GEMINI), {}),
    "[DONE] of a proxy": (events(*GEMINI, DONE), {}),
    "an array": (json.dumps(GEMINI, indent=1).encode(), {"content_type": "application/json"}),
    "lines of JSON": (lines(*GEMINI), {}),
}
FORMS = [
    pytest.param(driver, body, headers, id=f"{driver.__name__}: {why}")
    for driver, forms in (
        (OpenAIDriver, OPENAI_FORMS),
        (OllamaDriver, OLLAMA_FORMS),
        (GeminiDriver, GEMINI_FORMS),
    )
    for why, (body, headers) in forms.items()
]


async def both(cls: Any, reply: bytes) -> list[Completion | DriverError]:
    """Return what `complete` and `stream` make of an answer."""
    made: list[Completion | DriverError] = []
    async with raw_server(reply) as server, cls("m", base_url=server.url, api_key="") as driver:
        try:
            made.append(await driver.complete(REQUEST))
        except DriverError as error:
            made.append(error)
        said: list[str] = []
        try:
            async with driver.stream(REQUEST) as parts:
                async for part in parts:
                    if isinstance(part, TextDelta):
                        said.append(part.text)
                    elif isinstance(part, Completion):
                        made.append(part)
                        assert "".join(said) == part.text
        except DriverError as error:
            made.append(error)
    return made


@pytest.mark.parametrize(("driver", "body", "headers"), FORMS)
async def test_one_answer_in_every_form(driver: Any, body: bytes, headers: dict[str, str]) -> None:
    reply = answer(200, body, **{"content-type": "text/event-stream", **_named(headers)})
    completed, streamed = await both(driver, reply)
    assert completed == streamed
    assert isinstance(completed, Completion)
    assert (completed.text, completed.stop_reason) == ("Héllo 🙂", "end_turn")


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


async def test_behind_the_usage_nothing_is_waited_for() -> None:
    used = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    reply = STREAM + events(*CHAT, used)
    async with raw_server(reply, stay=True) as server, OpenAIDriver("m", base_url=server.url) as driver:
        with trio.fail_after(60):
            completion = await driver.complete(REQUEST)
        await server.hung_up.wait()
    assert completion.text == "Héllo 🙂"
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (3, 2)


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
@pytest.mark.parametrize(
    ("behind", "error"),
    [
        ("event: error\ndata: upstream overloaded\n\n", OverloadedError),
        ('{"error": {"message": "slow down", "code": 429}}\ndata: [DONE]\n\n', RateLimitedError),
        ('data: {"error": {"message": "slow down", "code": 429}}\ndata: [DONE]\n', RateLimitedError),
        (
            'data: {"object": "error", "message": "slow down", "code": 429}\n\ndata: [DONE]\n\n',
            RateLimitedError,
        ),
        ("event: error\ndata: null\n\n", DriverError),
        ("data: {\n\n", MalformedReplyError),
        (DONE, MalformedReplyError),
    ],
)
async def test_words_behind_a_part_of_an_answer_are_an_error(
    kind: str, behind: str, error: type[DriverError]
) -> None:
    reply = answer(200, events(CHAT[0], behind), **{"content-type": kind})
    completed, streamed = await both(OpenAIDriver, reply)
    assert isinstance(completed, error)
    assert type(completed) is type(streamed)
