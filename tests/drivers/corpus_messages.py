"""Odd answers of servers that speak Anthropic's messages, each with the reason it is here."""

from __future__ import annotations

from typing import Any

from corpus_chat import REFUSED, Odd

from agentpool._core.errors import MalformedReplyError

USAGE = {"input_tokens": 10, "output_tokens": 5}


def whole(content: Any, stop: Any = "end_turn", usage: Any = USAGE, **more: Any) -> dict[str, Any]:
    """Return a whole answer."""
    return {
        "id": "msg",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "stop_reason": stop,
        "usage": usage,
        **more,
    }


def text(said: Any) -> dict[str, Any]:
    """Return a block of text."""
    return {"type": "text", "text": said}


def use(given: Any, name: Any = "look", id: Any = "a") -> dict[str, Any]:
    """Return a tool call."""
    return {"type": "tool_use", "id": id, "name": name, "input": given}


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "sig"}
HIDDEN = {"type": "redacted_thinking", "data": "x"}

WHOLE: tuple[Odd, ...] = (
    Odd("as documented", whole([text("hi")]), {"text": "hi", "stop": "end_turn", "usage": (10, 5, 0, 0)}),
    Odd("several blocks of text", whole([text("a"), text("b")]), {"text": "ab"}),
    Odd("content as a text, gateways", whole("hi"), {"text": "hi"}),
    Odd("no content at all: nothing was said", whole([]), {"text": "", "stop": "end_turn"}),
    Odd("content null", whole(None), MalformedReplyError),
    Odd("a block that is no object", whole(["odd", text("a")]), {"text": "a"}),
    Odd("a text that is null", whole([text(None), text("a")]), {"text": "a"}),
    Odd(
        "a block of a kind that nobody knows is kept",
        whole([{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, text("a")]),
        {
            "text": "a",
            "kept": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, text("a")],
        },
    ),
    Odd(
        "thinking, signed (llama_index#18834)",
        whole([THOUGHT, HIDDEN, use({"a": 1})], "tool_use"),
        {
            "reasoning": "hm",
            "calls": [("a", "look", {"a": 1})],
            "kept": [THOUGHT, HIDDEN, {"type": "tool_use"}],
        },
    ),
    Odd(
        "thinking between calls keeps its place (openai-agents-python#1744)",
        whole([THOUGHT, use({}), THOUGHT, use({}, id="b")], "tool_use"),
        {"kept": [THOUGHT, {"type": "tool_use"}, THOUGHT, {"type": "tool_use"}]},
    ),
    Odd(
        "thinking without a text, with the display off",
        whole([{"type": "thinking", "thinking": "", "signature": "sig"}, text("a")]),
        {"reasoning": "", "kept": [{"type": "thinking", "thinking": "", "signature": "sig"}, text("a")]},
    ),
    Odd(
        "an empty text beside thinking is not kept: it could not be sent",
        whole([THOUGHT, text(" "), use({})], "tool_use"),
        {"kept": [THOUGHT, {"type": "tool_use"}]},
    ),
    Odd(
        "thoughts left in the text, MiniMax",
        whole([text("<think>hm</think>\n\nyes")]),
        {"text": "yes", "reasoning": "hm", "kept": None},
    ),
    Odd(
        "input as JSON text, Bedrock's gateways",
        whole([use('{"a": 1}')], "tool_use"),
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd("input as text that is no JSON", whole([use("x")], "tool_use"), {"problem": "are not JSON"}),
    Odd("input null", whole([use(None)], "tool_use"), {"calls": [("a", "look", {})]}),
    Odd("input as an array", whole([use(["x"])], "tool_use"), {"problem": "are an array"}),
    Odd(
        "two calls with one id",
        whole([use({}), use({})], "tool_use"),
        {"names": ["look", "look"], "unique": True},
    ),
    Odd("a call without an id", whole([use({}, id=None)], "tool_use"), {"unique": True}),
    Odd("a call without a name", whole([use({}, name="")], "tool_use"), MalformedReplyError),
    Odd("a leaked template in a name", whole([use({}, name="look<|x|>")], "tool_use"), {"names": ["look"]}),
    Odd("`end_turn` with a call", whole([use({})]), {"stop": "tool_use"}),
    Odd("`tool_use` without a call", whole([text("a")], "tool_use"), {"stop": "end_turn"}),
    Odd("the limit", whole([text("a")], "max_tokens"), {"stop": "max_tokens"}),
    Odd(
        "the limit within a call",
        whole([text("a"), use({})], "max_tokens"),
        {"calls": [], "stop": "max_tokens"},
    ),
    Odd("the context ran full", whole([text("a")], "model_context_window_exceeded"), {"stop": "max_tokens"}),
    Odd("a stop string", whole([text("a")], "stop_sequence"), {"stop": "stop_sequence"}),
    Odd("a refusal without a word (pydantic-ai#5221)", whole([], "refusal"), {"stop": "refusal"}),
    Odd("paused in the middle (hax#15)", whole([text("a")], "pause_turn"), MalformedReplyError),
    *(
        Odd(f"the end {word!r} is none", whole([text("a")], word), MalformedReplyError)
        for word in (None, "", "error", "unknown", 3)
    ),
    Odd(
        "an error with status 200",
        {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
        REFUSED,
    ),
    Odd("an error of a gateway", {"error": "x"}, REFUSED),
    Odd("no usage", whole([text("a")], usage=None), {"usage": (0, 0, 0, 0)}),
    Odd(
        "cached tokens are counted apart",
        whole(
            [text("a")], usage={**USAGE, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
        ),
        {"usage": (130, 5, 0, 100)},
    ),
    Odd(
        "usage by OpenAI's names, a gateway",
        whole([text("a")], usage={"prompt_tokens": 3, "completion_tokens": 2}),
        {"usage": (3, 2, 0, 0)},
    ),
    Odd(
        "usage with nulls",
        whole([text("a")], usage={"input_tokens": 3, "output_tokens": None}),
        {"usage": (3, 0, 0, 0)},
    ),
    Odd("who answered", whole([text("a")]), {"id": "msg", "model": "m"}),
)

START = {"type": "message_start", "message": whole([], None, {"input_tokens": 10, "output_tokens": 1})}
STOP = {"type": "message_stop"}


def begin(block: Any, index: int = 0) -> dict[str, Any]:
    """Return the beginning of a block."""
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(kind: str, index: int = 0, **more: Any) -> dict[str, Any]:
    """Return a piece of a block."""
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}


def end(stop: Any = "end_turn", **usage: Any) -> dict[str, Any]:
    """Return the event that says why it ended."""
    return {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 9, **usage}}


HELLO = (
    begin(text("")),
    delta("text_delta", text="Hel"),
    delta("text_delta", text="lo"),
    {"type": "content_block_stop", "index": 0},
)

STREAMS: tuple[Odd, ...] = (
    Odd(
        "as documented", [START, *HELLO, end(), STOP], {"text": "Hello", "usage": (10, 9, 0, 0), "id": "msg"}
    ),
    Odd(
        "pings and events that nobody knows",
        [{"type": "ping"}, START, {"type": "ping"}, *HELLO, {"type": "odd"}, end(), STOP],
        {"text": "Hello"},
    ),
    Odd("no message_start", [*HELLO, end(), STOP], {"text": "Hello", "usage": (0, 9, 0, 0)}),
    Odd("a block that was never begun", [START, delta("text_delta", text="a"), end(), STOP], {"text": "a"}),
    Odd(
        "the beginning of a block holds text already",
        [START, begin(text("He")), delta("text_delta", text="llo"), end(), STOP],
        {"text": "Hello"},
    ),
    Odd(
        "input tokens only at the end (Bedrock)",
        [{"type": "message_start", "message": whole([], None, {})}, *HELLO, end(input_tokens=7), STOP],
        {"usage": (7, 9, 0, 0)},
    ),
    Odd("no message_stop", [START, *HELLO, end()], MalformedReplyError),
    Odd("no reason why it ended", [START, *HELLO, STOP], MalformedReplyError),
    Odd("nothing", [], MalformedReplyError),
    Odd("paused", [START, *HELLO, end("pause_turn"), STOP], MalformedReplyError),
    Odd(
        "an error in the middle",
        [START, *HELLO, {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}],
        REFUSED,
    ),
    Odd("an error of a gateway in the middle", [START, {"error": {"message": "x"}}], REFUSED),
    Odd("an event that is no object", [START, 7], MalformedReplyError),
    Odd(
        "a call in pieces",
        [
            START,
            begin(use({})),
            delta("input_json_delta", partial_json=""),
            delta("input_json_delta", partial_json='{"a"'),
            delta("input_json_delta", partial_json=": 1}"),
            end("tool_use"),
            STOP,
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "a call without any piece",
        [START, begin(use({})), end("tool_use"), STOP],
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "a call whose beginning holds all of it, gateways",
        [START, begin(use({"a": 1})), end("tool_use"), STOP],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "a call that was cut",
        [START, begin(use({})), delta("input_json_delta", partial_json='{"a'), end("max_tokens"), STOP],
        {"calls": [], "stop": "max_tokens"},
    ),
    Odd(
        "thinking in pieces with its signature",
        [
            START,
            begin({"type": "thinking", "thinking": "", "signature": ""}),
            delta("thinking_delta", thinking="h"),
            delta("thinking_delta", thinking="m"),
            delta("signature_delta", signature="sig"),
            begin(text(""), 1),
            delta("text_delta", 1, text="a"),
            end(),
            STOP,
        ],
        {"reasoning": "hm", "text": "a", "kept": [THOUGHT, text("a")]},
    ),
    Odd(
        "redacted thinking",
        [START, begin(HIDDEN), begin(text("a"), 1), end(), STOP],
        {"kept": [HIDDEN, text("a")]},
    ),
    Odd(
        "citations are passed over",
        [START, *HELLO, delta("citations_delta", citation={}), end(), STOP],
        {"text": "Hello"},
    ),
    Odd(
        "think marks in the text of a stream",
        [
            START,
            begin(text("")),
            delta("text_delta", text="<thi"),
            delta("text_delta", text="nk>hm</think>yes"),
            end(),
            STOP,
        ],
        {"text": "yes", "reasoning": "hm"},
    ),
    Odd(
        "a text that ends while it may yet be a mark",
        [START, begin(text("")), delta("text_delta", text="<thi"), end(), STOP],
        {"text": "<thi"},
    ),
    Odd(
        "pieces without anything",
        [START, delta("text_delta"), delta("thinking_delta"), begin(text("a")), end(), STOP],
        {"text": "a"},
    ),
)
