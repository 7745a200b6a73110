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

SEARCH = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}

WHOLE: tuple[Odd, ...] = (
    Odd("as documented", whole([text("hi")]), {"text": "hi", "stop": "end_turn", "usage": (10, 5, 0, 0)}),
    Odd("several blocks of text", whole([text("a"), text("b")]), {"text": "ab"}),
    Odd("content as a text, gateways", whole("hi"), {"text": "hi"}),
    Odd("no content at all: nothing was said", whole([]), {"text": "", "stop": "end_turn"}),
    Odd("content null", whole(None), MalformedReplyError),
    Odd("a block that is no object", whole(["odd", text("a")]), {"text": "a"}),
    Odd(
        "a block without a type says nothing, and is not kept",
        whole([{"text": "?"}, {"type": 7}, HIDDEN, text("a")]),
        {"text": "a", "kept": [HIDDEN, text("a")]},
    ),
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
        {"reasoning": "hm\n\nhm", "kept": [THOUGHT, {"type": "tool_use"}, THOUGHT, {"type": "tool_use"}]},
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
    Odd(
        "paused in the middle, to be sent back (hax#15, laravel/ai#493, vellum-assistant#40145)",
        whole([SEARCH], "pause_turn"),
        {"text": "", "stop": "pause_turn", "kept": [SEARCH]},
    ),
    Odd("paused with a call of ours", whole([SEARCH, use({})], "pause_turn"), {"stop": "tool_use"}),
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
        "what is cached for an hour is told beside the rest (pi#5737)",
        whole(
            [text("a")],
            usage={
                **USAGE,
                "cache_creation_input_tokens": 20,
                "cache_creation": {"ephemeral_5m_input_tokens": 15, "ephemeral_1h_input_tokens": 5},
            },
        ),
        {"usage": (30, 5, 0, 0), "written": (20, 5)},
    ),
    Odd(
        "usage by OpenAI's names, a gateway",
        whole([text("a")], usage={"prompt_tokens": 3, "completion_tokens": 2}),
        {"usage": (3, 2, 0, 0)},
    ),
    Odd(
        "all of the prompt by OpenAI's name, and what of it was cached by Anthropic's",
        whole([text("a")], usage={"prompt_tokens": 30, "cache_read_input_tokens": 20, "output_tokens": 2}),
        {"usage": (30, 2, 0, 20)},
    ),
    Odd(
        "usage with nulls",
        whole([text("a")], usage={"input_tokens": 3, "output_tokens": None}),
        {"usage": (3, 0, 0, 0)},
    ),
    Odd(
        "a gateway's zeros of the cache beside its count (envoyproxy/ai-gateway#2290)",
        whole(
            [text("a")], usage={**USAGE, "cache_creation_input_tokens": 0, "cache_read_input_tokens": None}
        ),
        {"usage": (10, 5, 0, 0)},
    ),
    Odd(
        "calls that the provider runs keep what they were given, with their results (gsd-pi#269)",
        whole([SEARCH, FOUND, text("a"), use({})], "tool_use"),
        {"calls": [("a", "look", {})], "kept": [SEARCH, FOUND, text("a"), {"type": "tool_use"}]},
    ),
    Odd(
        "citations of a search stay on their text",
        whole([SEARCH, FOUND, {**text("a"), "citations": [{"encrypted_index": "x"}]}]),
        {"text": "a", "kept": [SEARCH, FOUND, {**text("a"), "citations": [{"encrypted_index": "x"}]}]},
    ),
    Odd(
        "thinking between calls that the provider runs (anthropic-sdk-csharp#242)",
        whole([THOUGHT, SEARCH, FOUND, THOUGHT, use({})], "tool_use"),
        {"kept": [THOUGHT, SEARCH, FOUND, THOUGHT, {"type": "tool_use"}]},
    ),
    Odd(
        "a refusal that only says beside its content why (pi#5666, tidebreak#555)",
        whole(
            [], "refusal", stop_details={"type": "refusal", "category": "cyber", "explanation": "It harms."}
        ),
        {"text": "It harms.", "stop": "refusal"},
    ),
    Odd(
        "a refusal with words, and why",
        whole([text("I cannot.")], "refusal", stop_details={"explanation": "It harms."}),
        {"text": "I cannot.", "stop": "refusal"},
    ),
    Odd(
        "a refusal that says nothing of why (Switchyard#370)",
        whole([], "refusal", stop_details={"type": "refusal", "category": None, "explanation": None}),
        {"text": "", "stop": "refusal"},
    ),
    Odd(
        "details of an answer that is no refusal",
        whole([text("a")], "end_turn", stop_details=None),
        {"text": "a", "stop": "end_turn"},
    ),
    Odd(
        "tokens of thinking (vercel/ai#17923, laravel/ai#1006)",
        whole([text("a")], usage={**USAGE, "output_tokens_details": {"thinking_tokens": 4}}),
        {"usage": (10, 5, 4, 0)},
    ),
    Odd(
        "thinking before a refusal",
        whole([THOUGHT, text("I cannot.")], "refusal"),
        {"text": "I cannot.", "stop": "refusal"},
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
    Odd(
        "a second answer begins within the first, which a gateway gave up (vercel/ai#18331)",
        [
            START,
            *HELLO,
            {"type": "message_start", "message": {**whole([], None), "id": "other"}},
            *HELLO,
            end(),
            STOP,
        ],
        MalformedReplyError,
    ),
    Odd("the beginning comes twice (bifrost#4556)", [START, START, *HELLO, end(), STOP], {"text": "Hello"}),
    Odd(
        "another id before a word was said",
        [{"type": "message_start", "message": {"id": "gateway"}}, START, *HELLO, end(), STOP],
        {"text": "Hello", "id": "msg"},
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
    Odd(
        "paused (WordPress/ai-provider-for-anthropic#29)",
        [START, *HELLO, end("pause_turn"), STOP],
        {"text": "Hello", "stop": "pause_turn"},
    ),
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
        "citations of a plain text are passed over",
        [START, *HELLO, delta("citations_delta", citation={}), end(), STOP],
        {"text": "Hello", "kept": None},
    ),
    Odd(
        "citations of a search stay on their text",
        [
            START,
            begin(FOUND),
            begin(text(""), 1),
            delta("citations_delta", 1, citation={"encrypted_index": "x"}),
            delta("text_delta", 1, text="a"),
            delta("citations_delta", 1, citation={"encrypted_index": "y"}),
            end(),
            STOP,
        ],
        {
            "kept": [
                FOUND,
                {**text("a"), "citations": [{"encrypted_index": "x"}, {"encrypted_index": "y"}]},
            ]
        },
    ),
    Odd(
        "what a call that the provider runs is given comes in pieces (anthropic-sdk-python#954, laravel/ai#558)",
        [
            START,
            begin({**SEARCH, "input": {}}),
            delta("input_json_delta", partial_json=""),
            delta("input_json_delta", partial_json='{"query"'),
            delta("input_json_delta", partial_json=': "x"}'),
            begin(FOUND, 1),
            begin(text("a"), 2),
            begin(use({}), 3),
            delta("input_json_delta", 3, partial_json='{"b": 2}'),
            end("tool_use"),
            STOP,
        ],
        {
            "text": "a",
            "calls": [("a", "look", {"b": 2})],
            "kept": [SEARCH, FOUND, text("a"), {"type": "tool_use"}],
        },
    ),
    Odd(
        "a call that the provider runs was cut",
        [
            START,
            begin({**SEARCH, "input": {}}),
            delta("input_json_delta", partial_json='{"que'),
            end("max_tokens"),
            STOP,
        ],
        {"calls": [], "stop": "max_tokens", "kept": [{**SEARCH, "input": {}}]},
    ),
    Odd(
        "tokens of thinking are counted at the end (vscode#319185)",
        [START, *HELLO, end(output_tokens_details={"thinking_tokens": 4}), STOP],
        {"usage": (10, 9, 4, 0)},
    ),
    Odd(
        "a refusal in a stream that only says beside its content why (pi#5666)",
        [
            START,
            {
                "type": "message_delta",
                "delta": {"stop_reason": "refusal", "stop_details": {"explanation": "It harms."}},
                "usage": {"output_tokens": 1},
            },
            STOP,
        ],
        {"text": "It harms.", "stop": "refusal", "usage": (10, 1, 0, 0)},
    ),
    Odd(
        "zeros at the end in the place of what was counted at the beginning (envoyproxy/ai-gateway#1631)",
        [START, *HELLO, end(input_tokens=0, cache_read_input_tokens=0), STOP],
        {"usage": (10, 9, 0, 0)},
    ),
    Odd(
        "zeros at the beginning, the count at the end (vercel/ai#17326)",
        [
            {
                "type": "message_start",
                "message": whole(
                    [], None, {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0}
                ),
            },
            *HELLO,
            end(input_tokens=7, cache_read_input_tokens=3),
            STOP,
        ],
        {"usage": (10, 9, 0, 3)},
    ),
    Odd(
        "the whole prompt at the beginning, what of it was cached at the end (bifrost#5510)",
        [
            {"type": "message_start", "message": whole([], None, {"input_tokens": 8834, "output_tokens": 0})},
            *HELLO,
            end(input_tokens=18, cache_creation_input_tokens=0, cache_read_input_tokens=8831),
            STOP,
        ],
        {"usage": (8849, 9, 0, 8831)},
    ),
    Odd(
        "written to the cache at the beginning, read from it at the end (litellm#40736)",
        [
            {
                "type": "message_start",
                "message": whole(
                    [],
                    None,
                    {
                        "input_tokens": 10,
                        "cache_creation_input_tokens": 100,
                        "cache_creation": {"ephemeral_1h_input_tokens": 100},
                    },
                ),
            },
            *HELLO,
            end(cache_creation_input_tokens=0, cache_read_input_tokens=100),
            STOP,
        ],
        {"usage": (110, 9, 0, 100), "written": (0, 0)},
    ),
    Odd(
        "zeros for what is cached for an hour at the end",
        [
            {
                "type": "message_start",
                "message": whole(
                    [],
                    None,
                    {
                        "input_tokens": 10,
                        "cache_creation_input_tokens": 100,
                        "cache_creation": {"ephemeral_1h_input_tokens": 100},
                    },
                ),
            },
            *HELLO,
            end(cache_creation_input_tokens=0, cache_creation={"ephemeral_1h_input_tokens": 0}),
            STOP,
        ],
        {"usage": (110, 9, 0, 0), "written": (100, 100)},
    ),
    Odd(
        "each block has the number 0 (sglang#25876 tells why pieces can miss their block)",
        [
            START,
            begin({"type": "thinking", "thinking": "", "signature": ""}),
            delta("thinking_delta", thinking="hm"),
            delta("signature_delta", signature="sig"),
            begin(text("")),
            delta("text_delta", text="a"),
            begin(use({})),
            delta("input_json_delta", partial_json='{"a": 1}'),
            begin(use({}, id="b")),
            delta("input_json_delta", partial_json='{"a": 2}'),
            end("tool_use"),
            STOP,
        ],
        {
            "text": "a",
            "reasoning": "hm",
            "calls": [("a", "look", {"a": 1}), ("b", "look", {"a": 2})],
            "kept": [THOUGHT, text("a"), {"type": "tool_use"}, {"type": "tool_use"}],
        },
    ),
    Odd(
        "a text in the block of thoughts, which nobody closed (sglang#25876)",
        [
            START,
            begin({"type": "thinking", "thinking": ""}),
            delta("thinking_delta", thinking="hm"),
            delta("text_delta", text="a"),
            delta("signature_delta", signature="sig"),
            end(),
            STOP,
        ],
        {"text": "a", "reasoning": "hm"},
    ),
    Odd(
        "a signature that is null at first",
        [
            START,
            begin({"type": "thinking", "thinking": "hm", "signature": None}),
            delta("signature_delta", signature="sig"),
            begin(text("a"), 1),
            end(),
            STOP,
        ],
        {"kept": [THOUGHT, text("a")]},
    ),
    Odd(
        "the beginning of a call comes twice",
        [
            START,
            begin(use({})),
            begin(use({})),
            delta("input_json_delta", partial_json='{"a": 1}'),
            end("tool_use"),
            STOP,
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "the beginning of a call holds its arguments as text, and they come in pieces, too",
        [
            START,
            begin(use("{}")),
            delta("input_json_delta", partial_json='{"a": 1}'),
            end("tool_use"),
            STOP,
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "arguments of a call that never began",
        [START, delta("input_json_delta", partial_json="{}"), end("tool_use"), STOP],
        MalformedReplyError,
    ),
    Odd(
        "arguments in the block of a text",
        [START, begin(text("a")), delta("input_json_delta", partial_json="{}"), end("tool_use"), STOP],
        MalformedReplyError,
    ),
    Odd(
        "a summary of the conversation, in pieces of a kind of their own",
        [
            START,
            begin({"type": "compaction", "content": None}),
            delta("compaction_delta", content="so "),
            delta("compaction_delta", content="far", tokens=7),
            begin(text("a"), 1),
            delta("odd_delta", 1, text="?"),
            delta("odd_delta", 7, text="?"),
            end(),
            STOP,
        ],
        {"text": "a", "kept": [{"type": "compaction", "content": "so far"}, text("a")]},
    ),
    Odd(
        "a call at whose end the reason is null once more",
        [
            START,
            begin(use({"a": 1})),
            end("tool_use"),
            {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 9}},
            STOP,
        ],
        {"calls": [("a", "look", {"a": 1})], "stop": "tool_use"},
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
