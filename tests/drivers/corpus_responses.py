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
OPEN = {
    "type": "reasoning",
    "id": "rs",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "hm"}],
}
FLEETING = {"type": "reasoning", "id": "rs", "summary": []}

WHOLE: tuple[Odd, ...] = (
    Odd("as documented", whole(said("hi")), {"text": "hi", "stop": "end_turn", "id": "resp", "model": "m"}),
    Odd("several parts and messages", whole(said("a", "b"), said("c")), {"text": "abc"}),
    Odd("content as a text", whole({"type": "message", "content": "hi"}), {"text": "hi"}),
    Odd(
        "an item without a type says nothing, and is not kept",
        whole({"content": "?"}, {"type": 7}, THOUGHT, said("a")),
        {"text": "a", "kept": [THOUGHT, said("a")]},
    ),
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
    Odd(
        "thoughts that hold all they need go back (rikkahub#1690)",
        whole(OPEN, call()),
        {"reasoning": "hm", "kept": [OPEN, {"type": "function_call"}]},
    ),
    Odd(
        "thoughts go back with a summary, also if that is null (Agora#141)",
        whole({**THOUGHT, "summary": None}, said("a")),
        {"kept": [{**THOUGHT, "summary": []}, said("a")]},
    ),
    Odd(
        "thoughts that nothing follows are not sent back (openai-node#1567, continue#8933)",
        whole(said("a"), THOUGHT, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        {"text": "a", "kept": None, "reasoning": "hm"},
    ),
    Odd(
        "thoughts between calls keep their place, the last ones not (openai-node#1567)",
        whole(THOUGHT, call(), THOUGHT, call(call_id="b"), THOUGHT),
        {"kept": [THOUGHT, {"type": "function_call"}, THOUGHT, {"type": "function_call"}]},
    ),
    Odd(
        "a message says in which phase it was said (vercel/ai#12860, vllm#50975)",
        whole(said("a", phase="commentary"), call()),
        {"text": "a", "kept": [said("a", phase="commentary"), {"type": "function_call"}]},
    ),
    Odd("a phase that is null", whole(said("a", phase=None)), {"kept": None}),
    Odd(
        "arguments missing",
        whole({**call(), "arguments": None}),
        {"calls": [("a", "look", {})], "stop": "tool_use"},
    ),
    Odd(
        "usage without details",
        whole(said("a"), usage={"input_tokens": 3, "output_tokens": 2, "input_tokens_details": None}),
        {"usage": (3, 2, 0, 0)},
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
    Odd(
        "nothing but pieces of the text, and an end without items (vllm#30223, new-api#4362)",
        [piece("created", response={}), *TEXT, done(whole())],
        {"text": "Hello", "stop": "end_turn", "kept": None},
    ),
    Odd(
        "an item that ends without its text, and an end without items (agentgateway#2281)",
        [
            piece("output_item.added", output_index=0, item={**said(), "status": "in_progress"}),
            *TEXT,
            piece("output_item.done", output_index=0, item=said()),
            done(whole()),
        ],
        {"text": "Hello"},
    ),
    Odd(
        "a text only at the end (TanStack/ai#937)",
        [piece("content_part.added", part={"type": "output_text", "text": ""}), done(whole(said("Hello")))],
        {"text": "Hello"},
    ),
    Odd(
        "a refusal of which only the pieces come",
        [piece("refusal.delta", delta="I can"), piece("refusal.delta", delta="not."), done(whole())],
        {"text": "I cannot.", "stop": "refusal"},
    ),
    Odd(
        "pieces of a text before a call, and an end with the call alone",
        [*TEXT, done(whole(THOUGHT, call()))],
        {"text": "Hello", "calls": [("a", "look", {})], "stop": "tool_use"},
    ),
    Odd(
        "a call of which only the pieces come (vllm#29947)",
        [
            piece("output_item.added", output_index=0, item=call("")),
            piece("function_call_arguments.delta", output_index=0, item_id="fc", delta='{"a"'),
            piece("function_call_arguments.delta", output_index=0, item_id="fc", delta=": 1}"),
            done(whole()),
        ],
        {"calls": [("a", "look", {"a": 1})], "stop": "tool_use"},
    ),
    Odd(
        "arguments only in the event that ends them (sub2api#6629, opencode#44862)",
        [
            piece("output_item.added", output_index=0, item=call("")),
            piece("function_call_arguments.done", output_index=0, item_id="fc", arguments='{"a": 1}'),
            piece("output_item.done", output_index=0, item=call("")),
            done(whole(call(""))),
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "what ends the arguments stands for their pieces; an empty one does not",
        [
            piece("output_item.added", output_index=0, item=call("")),
            piece("function_call_arguments.delta", output_index=0, delta='{"a": 1'),
            piece("function_call_arguments.done", output_index=0, arguments='{"a": 2}'),
            piece("output_item.added", output_index=1, item=call("", call_id="b", id="fd")),
            piece("function_call_arguments.delta", output_index=1, delta='{"b": 3}'),
            piece("function_call_arguments.done", output_index=1, arguments=""),
            done(whole()),
        ],
        {"calls": [("a", "look", {"a": 2}), ("b", "look", {"b": 3})]},
    ),
    Odd(
        "a piece of arguments after they ended is not heard, where the item has them (pydantic-ai#5763)",
        [
            piece("output_item.added", output_index=0, item=call("")),
            piece("output_item.done", output_index=0, item=call('{"a": 1}')),
            piece("function_call_arguments.delta", output_index=0, item_id="fc", delta="}"),
            done(whole()),
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "the id of an item is no text",
        [
            piece("output_item.added", output_index=0, item={**call(""), "id": {}}),
            piece("function_call_arguments.delta", output_index=0, item_id=[], delta='{"a": 1}'),
            done(whole()),
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "items that end in another order than they began",
        [
            piece("output_item.added", output_index=0, item=call("", call_id="a")),
            piece("output_item.added", output_index=1, item=call("", call_id="b")),
            piece("output_item.done", output_index=1, item=call(call_id="b")),
            piece("output_item.done", output_index=0, item=call(call_id="a")),
            done(whole()),
        ],
        {"calls": [("a", "look", {}), ("b", "look", {})]},
    ),
    Odd(
        "items without numbers count when they end",
        [
            piece("output_item.added", item=call("")),
            piece("output_item.done", item=call()),
            piece("output_item.done", item=call(call_id="b")),
            done(whole()),
        ],
        {"calls": [("a", "look", {}), ("b", "look", {})]},
    ),
    Odd(
        "the end without a status: the event says it (opencodex#2639)",
        [*TEXT, piece("completed", response=whole(said("Hello"), status=None))],
        {"text": "Hello", "stop": "end_turn"},
    ),
    Odd(
        "the end says that it goes on, the event that it is over (opencodex#2639)",
        [*TEXT, piece("incomplete", response=whole(said("Hello"), status="in_progress"))],
        {"text": "Hello", "stop": "max_tokens"},
    ),
    Odd("the end without a response", [*TEXT, piece("completed")], {"text": "Hello"}),
    Odd("failed without a response", [*TEXT, piece("failed")], REFUSED),
    Odd("another end without a status", [*TEXT, piece("done", response={})], MalformedReplyError),
    Odd(
        "the bill of a failed response is no answer",
        [*TEXT, piece("failed", response=whole(said("Hello"), status="in_progress", error={"message": "x"}))],
        REFUSED,
    ),
    Odd(
        "thoughts and calls that were streamed, and an end with the text alone (bifrost#1978)",
        [
            piece("output_item.done", output_index=0, item=THOUGHT),
            *TEXT,
            piece("output_item.done", output_index=1, item=said("Hello")),
            piece("output_item.done", output_index=2, item=call()),
            done(whole(said("Hello"))),
        ],
        {
            "text": "Hello",
            "calls": [("a", "look", {})],
            "kept": [THOUGHT, said("Hello"), {"type": "function_call"}],
        },
    ),
    Odd(
        "a call that did not end, and an end without it",
        [piece("output_item.added", output_index=0, item=call("")), *TEXT, done(whole(said("Hello")))],
        {"text": "Hello", "calls": []},
    ),
    Odd(
        "a text without pieces, and an end without items",
        [piece("output_text.done", output_index=0, text="Hello"), done(whole())],
        {"text": "Hello"},
    ),
    Odd(
        "a text in pieces, then another at once",
        [
            *TEXT,
            piece("output_text.done", text="Hello"),
            piece("output_text.done", text="!"),
            piece("refusal.done", refusal=""),
            done(whole()),
        ],
        {"text": "Hello!"},
    ),
    Odd(
        "a refusal at once",
        [piece("refusal.done", refusal="no"), done(whole())],
        {"text": "no", "stop": "refusal"},
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
