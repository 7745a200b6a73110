"""Odd answers of servers that speak OpenAI's responses, each with the reason it is here."""

from __future__ import annotations

from typing import Any

from corpus_chat import REFUSED, Odd

from agentpool._core.errors import MalformedReplyError


def whole(*output: Any, status: Any = "completed", **more: Any) -> dict[str, Any]:
    """Return a whole response."""
    return {"id": "resp", "model": "m", "status": status, "output": list(output), **more}


def said(*texts: Any, **more: Any) -> dict[str, Any]:
    """Return a message."""
    content = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {"type": "message", "id": "msg", "role": "assistant", "content": content, **more}


def call(arguments: Any = "{}", name: Any = "look", call_id: Any = "a", **more: Any) -> dict[str, Any]:
    """Return a tool call."""
    return {
        "type": "function_call",
        "id": "fc",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        **more,
    }


THOUGHT = {
    "type": "reasoning",
    "id": "rs",
    "summary": [{"type": "summary_text", "text": "hm"}],
    "encrypted_content": "x",
}
FLEETING = {"type": "reasoning", "id": "rs", "summary": []}

WHOLE: tuple[Odd, ...] = (
    Odd("as documented", whole(said("hi")), {"text": "hi", "stop": "end_turn", "id": "resp", "model": "m"}),
    Odd("several parts and messages", whole(said("a", "b"), said("c")), {"text": "abc"}),
    Odd("content as a text", whole({"type": "message", "content": "hi"}), {"text": "hi"}),
    Odd("content null", whole({"type": "message", "content": None}), {"text": ""}),
    Odd("nothing was said", whole(), {"text": "", "stop": "end_turn"}),
    Odd("output null", {**whole(), "output": None}, {"text": ""}),
    Odd("an item that is no object", whole("odd", said("a")), {"text": "a"}),
    Odd(
        "a refusal",
        whole({"type": "message", "content": [{"type": "refusal", "refusal": "I cannot."}]}),
        {"text": "I cannot.", "stop": "refusal"},
    ),
    Odd("a call", whole(call('{"a": 1}')), {"calls": [("a", "look", {"a": 1})], "stop": "tool_use"}),
    Odd("a call with an object", whole(call({"a": 1})), {"calls": [("a", "look", {"a": 1})]}),
    Odd(
        "a call without a call_id has its item's", whole(call(call_id=None)), {"calls": [("fc", "look", {})]}
    ),
    Odd("two calls with one id", whole(call(), call()), {"names": ["look", "look"], "unique": True}),
    Odd("arguments that are no JSON", whole(call("{")), {"problem": "are not JSON"}),
    Odd("a namespace before a name", whole(call(name="functions.look")), {"names": ["look"]}),
    Odd("a call without a name", whole(call(name="")), MalformedReplyError),
    Odd(
        "thoughts that go back",
        whole(THOUGHT, call()),
        {"reasoning": "hm", "kept": [THOUGHT, {"type": "function_call"}]},
    ),
    Odd(
        "thoughts that only the provider's store holds are not sent",
        whole(FLEETING, said("a")),
        {"kept": None, "reasoning": ""},
    ),
    Odd(
        "thoughts as content, vLLM",
        whole(
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}], "summary": []},
            said("a"),
        ),
        {"reasoning": "hm"},
    ),
    Odd(
        "null within an item is not sent back",
        whole({**THOUGHT, "status": None}, said("a")),
        {"kept": [THOUGHT, said("a")]},
    ),
    Odd(
        "items of a kind that nobody knows are kept",
        whole({"type": "web_search_call", "id": "ws"}, said("a")),
        {"text": "a", "kept": [{"type": "web_search_call", "id": "ws"}, said("a")]},
    ),
    Odd(
        "the limit",
        whole(said("a"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        {"stop": "max_tokens"},
    ),
    Odd(
        "the limit within thoughts (litellm#26087)",
        whole(THOUGHT, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        {"text": "", "stop": "max_tokens"},
    ),
    Odd(
        "the limit within a call",
        whole(call('{"a'), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        {"calls": [], "stop": "max_tokens"},
    ),
    Odd(
        "the content filter",
        whole(said("a"), status="incomplete", incomplete_details={"reason": "content_filter"}),
        {"stop": "refusal"},
    ),
    Odd(
        "incomplete, and nobody says why",
        whole(said("a"), status="incomplete", incomplete_details=None),
        {"stop": "max_tokens"},
    ),
    Odd(
        "incomplete for a reason that is not known",
        whole(said("a"), status="incomplete", incomplete_details={"reason": "odd"}),
        MalformedReplyError,
    ),
    *(
        Odd(f"status {status!r}", whole(said("a"), status=status), MalformedReplyError)
        for status in (None, "in_progress", "queued", "cancelled")
    ),
    Odd("another API's answer", {"choices": []}, MalformedReplyError),
    Odd("failed", whole(status="failed", error={"code": "server_error", "message": "x"}), REFUSED),
    Odd("failed without a word", whole(status="failed", error=None), REFUSED),
    Odd("an error in the place of a response", {"error": {"message": "x"}}, REFUSED),
    Odd(
        "usage",
        whole(
            said("a"),
            usage={
                "input_tokens": 10,
                "output_tokens": 5,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 3},
            },
        ),
        {"usage": (10, 5, 3, 4)},
    ),
    Odd("no usage", whole(said("a"), usage=None), {"usage": (0, 0, 0, 0)}),
)


def piece(kind: str, **more: Any) -> dict[str, Any]:
    """Return an event."""
    return {"type": f"response.{kind}", **more}


def done(response: dict[str, Any]) -> dict[str, Any]:
    """Return the last event."""
    return piece(response["status"], response=response)


TEXT = (piece("output_text.delta", delta="Hel"), piece("output_text.delta", delta="lo"))

STREAMS: tuple[Odd, ...] = (
    Odd(
        "as documented",
        [piece("created", response={}), piece("in_progress"), *TEXT, done(whole(said("Hello")))],
        {"text": "Hello"},
    ),
    Odd(
        "the end holds no items, but they were streamed",
        [*TEXT, piece("output_item.done", item=said("Hello")), done(whole())],
        {"text": "Hello"},
    ),
    Odd(
        "a call",
        [
            piece("function_call_arguments.delta", delta="{"),
            piece("output_item.done", item=call()),
            done(whole(call())),
        ],
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "thoughts",
        [
            piece("reasoning_summary_text.delta", delta="h"),
            piece("reasoning_text.delta", delta="m"),
            *TEXT,
            done(whole(THOUGHT, said("Hello"))),
        ],
        {"reasoning": "hm", "text": "Hello"},
    ),
    Odd(
        "pieces without anything",
        [piece("output_text.delta"), piece("reasoning_text.delta"), *TEXT, done(whole(said("Hello")))],
        {"text": "Hello"},
    ),
    Odd("no end", [*TEXT], MalformedReplyError),
    Odd("nothing", [], MalformedReplyError),
    Odd("an event that is no object", [[]], MalformedReplyError),
    Odd(
        "incomplete",
        [
            *TEXT,
            done(
                whole(said("Hello"), status="incomplete", incomplete_details={"reason": "max_output_tokens"})
            ),
        ],
        {"stop": "max_tokens"},
    ),
    Odd("failed", [*TEXT, done(whole(status="failed", error={"message": "x"}))], REFUSED),
    Odd("an error event", [*TEXT, {"type": "error", "code": "x", "message": "x"}], REFUSED),
    Odd("an error of a gateway", [{"error": {"message": "x"}}], REFUSED),
    Odd(
        "a refusal",
        [
            piece("refusal.delta", delta="I cannot."),
            done(whole({"type": "message", "content": [{"type": "refusal", "refusal": "I cannot."}]})),
        ],
        {"text": "I cannot.", "stop": "refusal"},
    ),
)
