"""Odd answers of servers that speak chat completions, each with the reason it is here.

`WHOLE` holds bodies, `STREAMS` lists of chunks. What is expected is what the completion has, or the
kind of the error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from agentpool._core.errors import DriverError, MalformedReplyError


class Odd(NamedTuple):
    """An answer, why it is odd, and what it has to become."""

    why: str
    came: Any
    expected: dict[str, Any] | type[DriverError] | str


def whole(message: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    """Return a whole answer."""
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], **more}


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    """Return a piece of a stream."""
    return {
        "id": "c",
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }


def call(arguments: Any, name: Any = "look", id: Any = "a", **more: Any) -> dict[str, Any]:
    """Return a tool call."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


REFUSED = "refused within"

WHOLE: tuple[Odd, ...] = (
    Odd("as documented", whole({"role": "assistant", "content": "hi"}), {"text": "hi", "stop": "end_turn"}),
    Odd(
        "content as parts, as Mistral's magistral sends it (langchain#32344)",
        whole({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        {"text": "ab"},
    ),
    Odd(
        "thinking as a part of the content, Mistral",
        whole(
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "a"},
                ]
            }
        ),
        {"text": "a", "reasoning": "hm"},
    ),
    Odd("content of bare strings", whole({"content": ["a", "b"]}), {"text": "ab"}),
    Odd(
        "content null and no call: nothing was said",
        whole({"content": None}),
        {"text": "", "stop": "end_turn"},
    ),
    Odd("content missing", whole({"role": "assistant"}), {"text": ""}),
    Odd(
        "content is one part, not an array of them",
        whole({"content": {"type": "text", "text": "a"}}),
        {"text": "a"},
    ),
    Odd(
        "a part whose text is null",
        whole({"content": [{"type": "text", "text": None}, {"text": "a"}]}),
        {"text": "a"},
    ),
    Odd("the message is null", whole(None), {"text": ""}),
    Odd(
        "a reference between the texts, Mistral (vercel/ai#4820)",
        whole({"content": ["a", {"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "b"}]}),
        {"text": "ab"},
    ),
    Odd(
        "reasoning beside the text, DeepSeek",
        whole({"content": "a", "reasoning_content": "hm"}),
        {"text": "a", "reasoning": "hm", "kept": {"reasoning_content": "hm"}},
    ),
    Odd(
        "reasoning by another name, OpenRouter and Groq",
        whole({"content": "a", "reasoning": "hm"}),
        {"reasoning": "hm", "kept": {"reasoning": "hm"}},
    ),
    Odd(
        "reasoning by both names is one thought",
        whole({"content": "a", "reasoning": "hm", "reasoning_content": "hm"}),
        {"reasoning": "hm"},
    ),
    Odd(
        "reasoning items go back whole, OpenRouter",
        whole(
            {"content": "a", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 0}]}
        ),
        {"kept": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 0}]}},
    ),
    Odd(
        "thoughts left in the text (LocalAI#8036)",
        whole({"content": "<think>\nhm\n</think>\n\nyes"}),
        {"text": "yes", "reasoning": "hm"},
    ),
    Odd(
        "an empty think block, Qwen with thinking off",
        whole({"content": "<think>\n\n</think>\n\nyes"}),
        {"text": "yes", "reasoning": ""},
    ),
    Odd(
        "a mark in the middle of a text is text",
        whole({"content": "write <think> first"}),
        {"text": "write <think> first"},
    ),
    Odd("only thoughts, and no answer", whole({"content": "<think>hm"}), {"text": "", "reasoning": "hm"}),
    Odd(
        "a refusal in its own field",
        whole({"content": None, "refusal": "I cannot."}),
        {"text": "I cannot.", "stop": "refusal"},
    ),
    Odd(
        "a refusal that is null or empty is none",
        whole({"content": "a", "refusal": ""}),
        {"text": "a", "stop": "end_turn"},
    ),
    Odd(
        "the content filter, in the middle of an answer (litellm#8953)",
        whole({"content": "Fir"}, "content_filter"),
        {"text": "Fir", "stop": "refusal"},
    ),
    Odd(
        "half of a call before the content filter is left out",
        whole({"tool_calls": [call('{"a": ')]}, "content_filter"),
        {"calls": [], "stop": "refusal"},
    ),
    Odd(
        "`stop` after a call",
        whole({"tool_calls": [call('{"a": 1}')]}, "stop"),
        {"calls": [("a", "look", {"a": 1})], "stop": "tool_use"},
    ),
    Odd(
        "`tool_calls` without any",
        whole({"content": "a", "tool_calls": []}, "tool_calls"),
        {"calls": [], "stop": "end_turn"},
    ),
    Odd("`tool_calls: null`", whole({"content": "a", "tool_calls": None}), {"calls": []}),
    Odd(
        "one call, not an array of them",
        whole({"tool_calls": call("{}")}, "tool_calls"),
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "the old function_call",
        whole({"function_call": {"name": "look", "arguments": '{"a": 1}'}}, "function_call"),
        {"names": ["look"], "stop": "tool_use"},
    ),
    Odd(
        "arguments as an object, not as text (ollama's /v1, llama.cpp)",
        whole({"tool_calls": [call({"a": 1})]}, "tool_calls"),
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "arguments encoded twice (hermes-agent#453)",
        whole({"tool_calls": [call('"{\\"a\\": 1}"')]}, "tool_calls"),
        {"calls": [("a", "look", {"a": 1})]},
    ),
    *(
        Odd(
            f"no arguments, said as {none!r} (langchain#34242)",
            whole({"tool_calls": [call(none)]}, "tool_calls"),
            {"calls": [("a", "look", {})]},
        )
        for none in ("", "  ", None, "null", "[]", "{}")
    ),
    Odd(
        "a raw line break in arguments (crush#3201)",
        whole({"tool_calls": [call('{"a": "x\ny"}')]}, "tool_calls"),
        {"problem": "are not JSON"},
    ),
    Odd(
        "a brace is missing",
        whole({"tool_calls": [call('{"a": 1')]}, "tool_calls"),
        {"problem": "are not JSON"},
    ),
    Odd(
        "arguments that are an array",
        whole({"tool_calls": [call('["x"]')]}, "tool_calls"),
        {"problem": "are an array"},
    ),
    Odd(
        "arguments that are a number",
        whole({"tool_calls": [call("7")]}, "tool_calls"),
        {"problem": "are a number"},
    ),
    Odd(
        "arguments nested a hundred thousand deep",
        whole({"tool_calls": [call("[" * 100_000)]}, "tool_calls"),
        {"problem": "Not run"},
    ),
    Odd(
        "a call without an id",
        whole({"tool_calls": [call("{}", id=None)]}, "tool_calls"),
        {"names": ["look"], "unique": True},
    ),
    Odd(
        "two calls with one id",
        whole({"tool_calls": [call('{"a": 1}'), call('{"a": 2}')]}, "tool_calls"),
        {"names": ["look", "look"], "unique": True},
    ),
    Odd(
        "the template leaks into a name (ollama#12132)",
        whole({"tool_calls": [call("{}", "look<|channel|>commentary")]}, "tool_calls"),
        {"names": ["look"]},
    ),
    Odd(
        "a namespace before a name (mcp-use#90)",
        whole({"tool_calls": [call("{}", "functions.look")]}, "tool_calls"),
        {"names": ["look"]},
    ),
    Odd(
        "a name in quotes", whole({"tool_calls": [call("{}", '"look" ')]}, "tool_calls"), {"names": ["look"]}
    ),
    Odd(
        "a name that no tool has stays, so that the model is told",
        whole({"tool_calls": [call("{}", "sea rch")]}, "tool_calls"),
        {"names": ["sea rch"]},
    ),
    Odd("a call without a name", whole({"tool_calls": [call("{}", "")]}, "tool_calls"), MalformedReplyError),
    Odd(
        "a call whose function is null",
        whole({"tool_calls": [{"id": "a", "function": None}]}, "tool_calls"),
        MalformedReplyError,
    ),
    Odd(
        "an id that others do not take goes back as it came (BerriAI/litellm#37849)",
        whole({"tool_calls": [call("{}", id="call_1__thought__Cs4/+=")]}, "tool_calls"),
        {
            "calls": [("call_1__thought__Cs4/+=", "look", {})],
            "extra": {"id": "call_1__thought__Cs4/+="},
        },
    ),
    Odd(
        "what hangs on a call goes back with it, Gemini (langroid#969)",
        whole(
            {"tool_calls": [call("{}", extra_content={"google": {"thought_signature": "s"}})]}, "tool_calls"
        ),
        {"extra": {"extra_content": {"google": {"thought_signature": "s"}}}},
    ),
    Odd(
        "the limit within a call (nanobot#5169)",
        whole({"tool_calls": [call('{"a": ')]}, "length"),
        {"calls": [], "stop": "max_tokens"},
    ),
    Odd(
        "the limit within the second call",
        whole({"tool_calls": [call('{"a": 1}'), call('{"a', id="b")]}, "length"),
        {"calls": [("a", "look", {"a": 1})], "stop": "max_tokens"},
    ),
    Odd(
        "the limit before a call had a name",
        whole({"tool_calls": [call("", "")]}, "length"),
        {"calls": [], "stop": "max_tokens"},
    ),
    *(
        Odd(f"the end {word!r} is a whole answer", whole({"content": "a"}, word), {"stop": "end_turn"})
        for word in ("stop", "STOP", "end_turn", "eos", "eos_token", "completed")
    ),
    *(
        Odd(f"the end {word!r} is the limit", whole({"content": "a"}, word), {"stop": "max_tokens"})
        for word in ("length", "max_tokens", "model_length", "max_output_tokens")
    ),
    *(
        Odd(
            f"the end {word!r} is no end (bifrost#5425, claudexor#144)",
            whole({"content": "a"}, word),
            MalformedReplyError,
        )
        for word in (
            "error",
            "abort",
            "network_error",
            "malformed_function_call",
            "sensitive",
            "unknown",
            7,
            None,
            "",
        )
    ),
    Odd(
        "an error within a choice, OpenRouter",
        whole({"content": "Fir"}, "error", error={"code": 502, "message": "broke off"}),
        REFUSED,
    ),
    Odd("an error with status 200 (OpenManus#29)", {"error": {"message": "slow down", "code": 429}}, REFUSED),
    Odd("an error as a text", {"error": "slow down"}, REFUSED),
    Odd("a message in the place of choices", {"message": "no model is loaded"}, REFUSED),
    Odd(
        "an error that is filled with nothing, one-api",
        whole({"content": "a"}, error={"message": "", "type": "", "param": "", "code": None}),
        {"text": "a"},
    ),
    Odd(
        "MiniMax says what is wrong with status 200 and its own words (edenai/edenai-apis#360)",
        {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
        REFUSED,
    ),
    Odd(
        "MiniMax says that nothing is wrong",
        whole({"content": "a"}, base_resp={"status_code": 0, "status_msg": ""}),
        {"text": "a"},
    ),
    Odd(
        "no choice, and MiniMax says that nothing is wrong",
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        MalformedReplyError,
    ),
    Odd("words of Zhipu's and Baidu's own in the place of choices", {"code": 1113, "msg": "no"}, REFUSED),
    Odd("no choices", {"id": "c", "choices": []}, MalformedReplyError),
    Odd("choices null", {"id": "c", "choices": None}, MalformedReplyError),
    Odd("something else altogether", {"status": "ok"}, MalformedReplyError),
    Odd(
        "several choices: the first counts",
        {
            "choices": [
                {"index": 1, "message": {"content": "b"}, "finish_reason": "stop"},
                {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
            ]
        },
        {"text": "a"},
    ),
    Odd(
        "no index in the choice",
        {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]},
        {"text": "a"},
    ),
    Odd(
        "one answer in two choices without numbers, Copilot (HKUDS/nanobot#1481)",
        {
            "choices": [
                {"message": {"content": "I look."}, "finish_reason": "tool_calls"},
                {"message": {"content": None, "tool_calls": [call("{}")]}, "finish_reason": "tool_calls"},
            ]
        },
        {"text": "I look.", "calls": [("a", "look", {})], "stop": "tool_use"},
    ),
    Odd(
        "the same, numbered 0 both",
        {
            "choices": [
                {"index": 0, "message": {"content": "I look."}, "finish_reason": "tool_calls"},
                {"index": 0, "message": {"tool_calls": [call("{}")]}, "finish_reason": "tool_calls"},
            ]
        },
        {"text": "I look.", "calls": [("a", "look", {})]},
    ),
    Odd(
        "several texts without numbers: the first counts",
        {
            "choices": [
                {"message": {"content": "a"}, "finish_reason": "stop"},
                {"message": {"content": "b"}, "finish_reason": "length"},
            ]
        },
        {"text": "a", "stop": "end_turn"},
    ),
    Odd(
        "the only choice has another number",
        {"choices": [{"index": 1, "message": {"content": "a"}, "finish_reason": "stop"}]},
        {"text": "a"},
    ),
    Odd(
        "a number that is text",
        {"choices": [{"index": "0", "message": {"content": "a"}, "finish_reason": "stop"}]},
        {"text": "a"},
    ),
    Odd(
        "the text of old completions in a choice",
        {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]},
        {"text": "a"},
    ),
    Odd(
        "finishReason, Gemini's chat endpoint (jakobdylanc/llmcord#84)",
        {"choices": [{"message": {"content": "a"}, "finish_reason": None, "finishReason": "stop"}]},
        {"text": "a", "stop": "end_turn"},
    ),
    Odd("the end is null as text, and no end", whole({"content": "a"}, "null"), MalformedReplyError),
    Odd(
        "`{}` before the arguments, Bedrock (openai/openai-agents-js#712)",
        whole({"tool_calls": [call('{}{"a": 1}')]}, "tool_calls"),
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "the arguments twice (mudler/cogito#66)",
        whole({"tool_calls": [call('{"a": 1} {"a": 1}')]}, "tool_calls"),
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "arguments of two calls in one (dyedd/lens#49)",
        whole({"tool_calls": [call('{"a": 1}{"b": 1}')]}, "tool_calls"),
        {"problem": "are not JSON"},
    ),
    Odd(
        "arguments and a half of them",
        whole({"tool_calls": [call('{"a": 1}{"a":')]}, "tool_calls"),
        {"problem": "are not JSON"},
    ),
    Odd(
        "arguments and another thing behind them",
        whole({"tool_calls": [call('{"a": 1}[1]')]}, "tool_calls"),
        {"problem": "are not JSON"},
    ),
    *(
        Odd(
            f"arguments by the name {name!r}",
            whole({"tool_calls": [{"id": "a", "function": {"name": "look", name: {"a": 1}}}]}, "tool_calls"),
            {"calls": [("a", "look", {"a": 1})], "extra": None},
        )
        for name in ("parameters", "input", "args")
    ),
    Odd(
        "name and arguments beside the function, Workers AI",
        whole({"tool_calls": [{"name": "look", "arguments": {"a": 1}}]}, "tool_calls"),
        {"names": ["look"], "unique": True},
    ),
    Odd(
        "arguments in pieces, as an array",
        whole({"tool_calls": [call(['{"a"', ": 1}"])]}, "tool_calls"),
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "arguments that are an array of texts",
        whole({"tool_calls": [call(["x", "y"])]}, "tool_calls"),
        {"problem": "are an array"},
    ),
    Odd(
        "a refusal as a part of the content",
        whole({"content": [{"type": "refusal", "refusal": "I cannot."}]}),
        {"text": "I cannot.", "stop": "refusal"},
    ),
    Odd(
        "a summary of what was thought as a part of the content, Databricks",
        whole(
            {
                "content": [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                    {"type": "text", "text": "a"},
                ]
            }
        ),
        {"text": "a", "reasoning": "hm"},
    ),
    Odd(
        "thoughts in reasoning_details alone, MiniMax (ENTERPILOT/GoModel#1068)",
        whole({"content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}),
        {"reasoning": "hm", "kept": {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}},
    ),
    Odd(
        "signed thoughts of Claude go back through LiteLLM",
        whole(
            {
                "content": "a",
                "reasoning_content": "hm",
                "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            }
        ),
        {
            "reasoning": "hm",
            "kept": {
                "reasoning_content": "hm",
                "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            },
        },
    ),
    Odd(
        "thoughts that Copilot wants back",
        whole({"content": "a", "reasoning_text": "hm", "reasoning_opaque": "x"}),
        {"reasoning": "hm", "kept": {"reasoning_text": "hm", "reasoning_opaque": "x"}},
    ),
    Odd(
        "a signature on the message, Gemini's chat endpoint",
        whole({"content": "a", "extra_content": {"google": {"thought_signature": "s"}}}),
        {"kept": {"extra_content": {"google": {"thought_signature": "s"}}}},
    ),
    Odd("usage null", whole({"content": "a"}, usage=None), {"usage": (0, 0, 0, 0)}),
    Odd(
        "usage with nulls in it",
        whole({"content": "a"}, usage={"prompt_tokens": None, "completion_tokens": 5}),
        {"usage": (0, 5, 0, 0)},
    ),
    Odd(
        "usage as floats and texts",
        whole({"content": "a"}, usage={"prompt_tokens": 10.0, "completion_tokens": "5"}),
        {"usage": (10, 5, 0, 0)},
    ),
    Odd(
        "usage that is negative or huge",
        whole({"content": "a"}, usage={"prompt_tokens": -1, "completion_tokens": 1e30}),
        {"usage": (0, 0, 0, 0)},
    ),
    Odd(
        "usage by other names",
        whole({"content": "a"}, usage={"input_tokens": 10, "output_tokens": 5}),
        {"usage": (10, 5, 0, 0)},
    ),
    Odd(
        "thoughts counted beside the answer, xAI",
        whole(
            {"content": "a"},
            usage={
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 35,
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
        ),
        {"usage": (10, 25, 20, 0)},
    ),
    Odd(
        "thoughts counted beside the answer, and no total",
        whole(
            {"content": "a"},
            usage={
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
        ),
        {"usage": (10, 25, 20, 0)},
    ),
    Odd(
        "thoughts and nothing else are counted (router-for-me/CLIProxyAPI#5733)",
        whole(
            {"content": "a"},
            usage={
                "prompt_tokens": 21,
                "completion_tokens": 0,
                "total_tokens": 81,
                "completion_tokens_details": {"reasoning_tokens": 60},
            },
        ),
        {"usage": (21, 60, 60, 0)},
    ),
    Odd(
        "thoughts within the answer's count (promptfoo/promptfoo#9507)",
        whole(
            {"content": "a"},
            usage={
                "prompt_tokens": 500,
                "completion_tokens": 500,
                "total_tokens": 1000,
                "completion_tokens_details": {"reasoning_tokens": 200},
            },
        ),
        {"usage": (500, 500, 200, 0)},
    ),
    Odd(
        "a total and no thoughts: the rest is output (MartialBE/one-hub#795)",
        whole({"content": "a"}, usage={"prompt_tokens": 9, "completion_tokens": 664, "total_tokens": 1994}),
        {"usage": (9, 1985, 0, 0)},
    ),
    Odd(
        "Claude's counts of cached tokens, beside those of the prompt",
        whole(
            {"content": "a"},
            usage={
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 1115,
                "cache_read_input_tokens": 1000,
                "cache_creation_input_tokens": 100,
            },
        ),
        {"usage": (1110, 5, 0, 1000)},
    ),
    Odd(
        "Claude's counts of cached tokens, as a part of the prompt's, LiteLLM",
        whole(
            {"content": "a"},
            usage={
                "prompt_tokens": 1110,
                "completion_tokens": 5,
                "total_tokens": 1115,
                "cache_read_input_tokens": 1000,
                "cache_creation_input_tokens": 100,
            },
        ),
        {"usage": (1110, 5, 0, 1000)},
    ),
    Odd(
        "as many cached as thought: the rest was thought",
        whole(
            {"content": "a"},
            usage={
                "prompt_tokens": 30,
                "completion_tokens": 5,
                "total_tokens": 55,
                "prompt_tokens_details": {"cached_tokens": 20},
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
        ),
        {"usage": (30, 25, 20, 20)},
    ),
    Odd(
        "OpenRouter hides that the provider broke off (OleksandrChekhovskyi/hax#15)",
        {
            "choices": [
                {"message": {"content": ""}, "finish_reason": "stop", "native_finish_reason": "network_error"}
            ]
        },
        MalformedReplyError,
    ),
    Odd(
        "OpenRouter tells the provider's word for the end",
        {
            "choices": [
                {"message": {"content": "a"}, "finish_reason": "stop", "native_finish_reason": "end_turn"}
            ]
        },
        {"text": "a", "stop": "end_turn"},
    ),
    Odd(
        "cached tokens, OpenAI",
        whole(
            {"content": "a"},
            usage={
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
        ),
        {"usage": (10, 5, 0, 4)},
    ),
    Odd(
        "cached tokens, DeepSeek",
        whole(
            {"content": "a"},
            usage={"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4},
        ),
        {"usage": (10, 5, 0, 4)},
    ),
    Odd(
        "details null",
        whole(
            {"content": "a"},
            usage={"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None},
        ),
        {"usage": (10, 5, 0, 0)},
    ),
    Odd(
        "more cached than sent",
        whole(
            {"content": "a"},
            usage={"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}},
        ),
        {"usage": (3, 5, 0, 3)},
    ),
    Odd(
        "usage in a place of its own, Groq",
        whole({"content": "a"}, x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
        {"usage": (3, 1, 0, 0)},
    ),
    Odd(
        "what it cost, OpenRouter",
        whole({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1, "cost": 0.25}),
        {"cost": 0.25},
    ),
    Odd(
        "what it cost in parts, Perplexity (langchain-ai/langchain#40285)",
        whole(
            {"content": "a"}, usage={"prompt_tokens": 3, "cost": {"input_tokens_cost": 1, "total_cost": 2}}
        ),
        {"cost": 2.0},
    ),
    Odd(
        "a cost that is none",
        whole({"content": "a"}, usage={"prompt_tokens": 3, "cost": "free"}),
        {"cost": 0.0},
    ),
    Odd("which model answered, and by which id", whole({"content": "a"}), {"id": "c", "model": "m"}),
    Odd(
        "no id and no model",
        {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]},
        {"id": None, "model": None},
    ),
    Odd("an id that is a number", {**whole({"content": "a"}), "id": 7}, {"id": None}),
)

TEXT = chunk({"content": "Hel"}), chunk({"content": "lo"})
END = chunk({}, "stop")

STREAMS: tuple[Odd, ...] = (
    Odd(
        "as documented",
        [
            chunk({"role": "assistant", "content": ""}),
            *TEXT,
            END,
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        ],
        {"text": "Hello", "usage": (3, 2, 0, 0)},
    ),
    Odd(
        "a chunk without a delta, Azure's filter (pydantic-ai#797)",
        [TEXT[0], {"choices": [{"index": 0, "finish_reason": None}]}, TEXT[1], END],
        {"text": "Hello"},
    ),
    Odd(
        "a delta that is null (openai-python#2313)",
        [TEXT[0], chunk(None), TEXT[1], END, chunk(None)],
        {"text": "Hello"},
    ),
    Odd(
        "no choices in the first chunk (litellm#3811)",
        [{"choices": [], "prompt_filter_results": []}, *TEXT, END],
        {"text": "Hello"},
    ),
    Odd("choices null", [{"choices": None}, *TEXT, END], {"text": "Hello"}),
    Odd(
        "a whole message in the place of a delta",
        [{"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}],
        {"text": "Hello"},
    ),
    Odd(
        "finish_reason empty in each chunk, and no end (MacPaw/OpenAI#312)",
        [chunk({"content": "a"}, ""), chunk({"content": "b"}, "")],
        MalformedReplyError,
    ),
    Odd("no finish marker", [*TEXT], MalformedReplyError),
    Odd("nothing at all", [], MalformedReplyError),
    *(
        Odd(f"the end {word!r} is no end", [*TEXT, chunk({}, word)], MalformedReplyError)
        for word in ("error", "abort", "network_error", "malformed_function_call")
    ),
    Odd("the finish marker comes twice", [*TEXT, END, END], {"text": "Hello"}),
    Odd(
        "the finish marker comes with the last text",
        [TEXT[0], chunk({"content": "lo"}, "stop")],
        {"text": "Hello"},
    ),
    Odd(
        "usage in every chunk: the last counts",
        [
            chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}),
            chunk({}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 2}),
        ],
        {"usage": (3, 2, 0, 0)},
    ),
    Odd(
        "usage null in every chunk but the last",
        [
            chunk({"content": "a"}, usage=None),
            END,
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        ],
        {"usage": (3, 2, 0, 0)},
    ),
    Odd(
        "usage within the choice, Moonshot (earendil-works/pi#2017)",
        [
            TEXT[0],
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {},
                        "finish_reason": "stop",
                        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
                    }
                ]
            },
        ],
        {"text": "Hel", "usage": (3, 2, 0, 0)},
    ),
    Odd(
        "usage in two pieces, and nothing behind it (MiniMax-AI/MiniMax-M2.5#2)",
        [
            chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 0}),
            chunk({}, "stop", usage={"prompt_tokens": 0, "completion_tokens": 2}),
            chunk({}, usage={"total_tokens": 0, "total_characters": 0}),
        ],
        {"usage": (3, 2, 0, 0)},
    ),
    Odd(
        "the whole message once more at the end (abundantbeing/hermes-browser-extension#11)",
        [
            *TEXT,
            {
                "object": "chat.completion",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "Hello"},
                        "finish_reason": "stop",
                    }
                ],
            },
        ],
        {"text": "Hello", "deltas": ["Hel", "lo"]},
    ),
    Odd(
        "the whole message once more, with an empty delta beside it",
        [
            *TEXT,
            {
                "choices": [
                    {"index": 0, "delta": {}, "message": {"content": "Hello"}, "finish_reason": "stop"}
                ]
            },
        ],
        {"text": "Hello"},
    ),
    Odd(
        "call, thoughts and refusal once more at the end, and the text for the first time",
        [
            chunk({"reasoning_content": "hm", "refusal": "no"}),
            chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}]}),
            {
                "choices": [
                    {
                        "index": 0,
                        "message": {
                            "content": "I look.",
                            "reasoning_content": "hm",
                            "refusal": "no",
                            "tool_calls": [call("{}")],
                        },
                        "finish_reason": "tool_calls",
                    }
                ]
            },
        ],
        {"text": "I look.", "calls": [("a", "look", {})], "reasoning": "hm"},
    ),
    Odd(
        "messages in the place of deltas",
        [
            {"choices": [{"index": 0, "message": {"content": "Hel"}, "finish_reason": None}]},
            {"choices": [{"index": 0, "message": {"content": "lo"}, "finish_reason": "stop"}]},
        ],
        {"text": "Hello"},
    ),
    Odd(
        "the pieces of old completions",
        [
            {"choices": [{"index": 0, "text": "Hel"}]},
            {"choices": [{"index": 0, "text": "lo", "finish_reason": "stop"}]},
        ],
        {"text": "Hello"},
    ),
    Odd(
        "the end as text in every chunk, KoboldCpp (PowerShell/AIShell#350)",
        [chunk({"content": "a"}, "null"), chunk({"content": "b"}, "null"), chunk({}, "stop")],
        {"text": "ab", "stop": "end_turn"},
    ),
    Odd(
        "the end in every chunk: the last counts (su-kaka/gcli2api#403)",
        [chunk({"content": "a"}, "stop"), chunk({"content": "b"}, "stop"), chunk({}, "length")],
        {"text": "ab", "stop": "max_tokens"},
    ),
    Odd(
        "the only choice has another number in a stream",
        [
            {"choices": [{"index": 1, "delta": {"content": "a"}}]},
            {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]},
        ],
        {"text": "a"},
    ),
    Odd(
        "a second choice is not mixed in",
        [
            TEXT[0],
            {"choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": "length"}]},
            TEXT[1],
            END,
        ],
        {"text": "Hello", "stop": "end_turn"},
    ),
    Odd(
        "an error in vLLM's old form, and no end",
        [TEXT[0], {"object": "error", "message": "out of memory", "code": 500}],
        REFUSED,
    ),
    Odd(
        "MiniMax breaks off in its own words",
        [TEXT[0], {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}],
        REFUSED,
    ),
    Odd(
        "a message beside the answer, which comes nevertheless",
        [{"message": "queued"}, *TEXT, END],
        {"text": "Hello"},
    ),
    Odd("an error as data (openai-python#2796)", [TEXT[0], {"error": {"message": "boom"}}], REFUSED),
    Odd(
        "an error within a choice",
        [TEXT[0], {"choices": [{"index": 0, "delta": {}, "error": {"code": 502, "message": "x"}}]}],
        REFUSED,
    ),
    Odd("a piece that is no object", [TEXT[0], "ping"], MalformedReplyError),
    Odd(
        "a call in pieces",
        [
            chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": ""}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "two calls at once",
        [
            chunk(
                {
                    "tool_calls": [
                        {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}},
                        {"index": 1, "id": "b", "function": {"name": "look", "arguments": "{}"}},
                    ]
                }
            ),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {}), ("b", "look", {})]},
    ),
    Odd(
        "every call numbered 0, with ids",
        [
            chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}]}),
            chunk({"tool_calls": [{"index": 0, "id": "b", "function": {"name": "look", "arguments": "{}"}}]}),
            chunk({}, "stop"),
        ],
        {"calls": [("a", "look", {}), ("b", "look", {})]},
    ),
    Odd(
        "every call numbered 0, without ids, each whole (Gemini's chat endpoint)",
        [
            chunk(
                {
                    "tool_calls": [
                        {"index": 0, "id": "", "function": {"name": "look", "arguments": '{"a": 1}'}}
                    ]
                }
            ),
            chunk(
                {
                    "tool_calls": [
                        {"index": 0, "id": "", "function": {"name": "look", "arguments": '{"a": 2}'}}
                    ]
                }
            ),
            chunk({}, "stop"),
        ],
        {"names": ["look", "look"], "unique": True},
    ),
    Odd(
        "no index at all",
        [
            chunk({"tool_calls": [{"id": "a", "function": {"name": "look", "arguments": '{"a"'}}]}),
            chunk({"tool_calls": [{"function": {"arguments": ": 1}"}}]}),
            chunk({"tool_calls": [{"id": "b", "function": {"name": "look", "arguments": "{}"}}]}),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": 1}), ("b", "look", {})]},
    ),
    Odd(
        "id and name repeated with every piece",
        [
            chunk(
                {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"a"'}}]}
            ),
            chunk(
                {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": ": 1}"}}]}
            ),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "another id with every piece of one call, and no name",
        [
            chunk(
                {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"a"'}}]}
            ),
            chunk(
                {"tool_calls": [{"index": 0, "id": "zz", "function": {"name": None, "arguments": ": 1}"}}]}
            ),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "indices that begin at 1",
        [
            chunk({"tool_calls": [{"index": 1, "id": "a", "function": {"name": "look", "arguments": "{}"}}]}),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "arguments as an object in a stream",
        [
            chunk(
                {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": {"a": 1}}}]}
            ),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "no index, and the pieces of two calls by turns, known by their ids (SamSaffron/term-llm#314)",
        [
            chunk({"tool_calls": [{"id": "a", "function": {"name": "look", "arguments": '{"a"'}}]}),
            chunk({"tool_calls": [{"id": "b", "function": {"name": "look", "arguments": '{"a"'}}]}),
            chunk({"tool_calls": [{"id": "a", "function": {"arguments": ": 1}"}}]}),
            chunk({"tool_calls": [{"id": "b", "function": {"arguments": ": 2}"}}]}),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": 1}), ("b", "look", {"a": 2})]},
    ),
    *(
        Odd(
            f"an index that is none: {index!r} (anvia-hq/anvia#262)",
            [
                chunk({"tool_calls": [{"index": index, **call('{"a"')}]}),
                chunk({"tool_calls": [{"index": index, "function": {"arguments": ": 1}"}}]}),
                chunk({"tool_calls": [{"index": index, **call("{}", id="b")}]}),
                chunk({}, "tool_calls"),
            ],
            {"calls": [("a", "look", {"a": 1}), ("b", "look", {})]},
        )
        for index in ("0", "first", 0.0, -1, [], {}, float("nan"))
    ),
    Odd(
        "the name comes again with the last piece, without the id (agentscope-ai/agentscope-java#1223)",
        [
            chunk({"tool_calls": [{"index": 0, **call('{"a": {"b": 1}')}]}),
            chunk({"tool_calls": [{"index": 0, **call("}", id=None)}]}),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": {"b": 1}})]},
    ),
    Odd(
        "`{}` first, then the arguments (microsoft/autogen#7549)",
        [
            chunk({"tool_calls": [{"index": 0, **call("{}")}]}),
            chunk({"tool_calls": [{"index": 0, **call('{"a": 1}')}]}),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": 1})]},
    ),
    Odd(
        "each piece says again what came before it",
        [
            chunk({"tool_calls": [{"index": 0, **call('{"a"')}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": [1'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": [1]}'}}]}),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": [1]})]},
    ),
    Odd(
        "a whole object in the place of the last piece",
        [
            chunk({"tool_calls": [{"index": 0, **call('{"b"')}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]}),
            chunk({}, "tool_calls"),
        ],
        {"problem": "are not JSON"},
    ),
    Odd(
        "two calls of one id and one number, each whole",
        [
            chunk({"tool_calls": [{"index": 0, **call('{"a": 1}')}]}),
            chunk({"tool_calls": [{"index": 0, **call('{"a": 2}')}]}),
            chunk({}, "tool_calls"),
        ],
        {"names": ["look", "look"], "unique": True},
    ),
    Odd(
        "two calls of one number without ids, with objects for arguments",
        [
            chunk({"tool_calls": [{"index": 0, **call({"a": 1}, id=None)}]}),
            chunk({"tool_calls": [{"index": 0, **call({"a": 2}, id=None)}]}),
            chunk({}, "tool_calls"),
        ],
        {"names": ["look", "look"], "unique": True},
    ),
    Odd(
        "one call whose object grows",
        [
            chunk({"tool_calls": [{"index": 0, **call({"a": 1})}]}),
            chunk({"tool_calls": [{"index": 0, **call({"a": 1, "b": [2]})}]}),
            chunk({}, "tool_calls"),
        ],
        {"calls": [("a", "look", {"a": 1, "b": [2]})]},
    ),
    Odd(
        "signed thoughts of Claude in pieces, LiteLLM",
        [
            chunk({"thinking_blocks": [{"type": "thinking", "thinking": "h", "signature": None}]}),
            chunk({"thinking_blocks": [{"type": "thinking", "thinking": "m", "signature": ""}]}),
            chunk({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]}),
            chunk({"thinking_blocks": [{"type": "thinking", "thinking": "o", "signature": "t"}]}),
            chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]}),
            *TEXT,
            END,
        ],
        {
            "reasoning": "hmo",
            "kept": {
                "thinking_blocks": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "thinking", "thinking": "o", "signature": "t"},
                    {"type": "redacted_thinking", "data": "x"},
                ]
            },
        },
    ),
    Odd(
        "tool_calls null in the pieces of text",
        [chunk({"content": "Hello", "tool_calls": None}), END],
        {"text": "Hello", "calls": []},
    ),
    Odd(
        "a call that the limit cut",
        [
            chunk(
                {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"a'}}]}
            ),
            chunk({}, "length"),
        ],
        {"calls": [], "stop": "max_tokens"},
    ),
    Odd(
        "reasoning before the text, DeepSeek",
        [chunk({"content": None, "reasoning_content": "h"}), chunk({"reasoning_content": "m"}), *TEXT, END],
        {"text": "Hello", "reasoning": "hm", "kept": {"reasoning_content": "hm"}},
    ),
    Odd(
        "reasoning items in pieces, OpenRouter",
        [
            chunk(
                {"reasoning": "h", "reasoning_details": [{"type": "reasoning.text", "text": "h", "index": 0}]}
            ),
            chunk(
                {
                    "reasoning": "m",
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "m", "index": 0, "signature": "s"},
                        "odd",
                    ],
                }
            ),
            *TEXT,
            END,
        ],
        {
            "reasoning": "hm",
            "kept": {
                "reasoning": "hm",
                "reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0, "signature": "s"}],
            },
        },
    ),
    Odd(
        "think marks cut in two by the stream",
        [
            chunk({"content": "<th"}),
            chunk({"content": "ink>h"}),
            chunk({"content": "m</thi"}),
            chunk({"content": "nk>\n\nyes"}),
            END,
        ],
        {"text": "yes", "reasoning": "hm", "deltas": ["yes"]},
    ),
    Odd(
        "a text that begins like a mark and is none",
        [chunk({"content": "<t"}), chunk({"content": "able>"}), END],
        {"text": "<table>"},
    ),
    Odd("a text that ends while it may yet be a mark", [chunk({"content": " <thi"}), END], {"text": " <thi"}),
    Odd(
        "thoughts, and the limit within them",
        [chunk({"content": "<think>h"}), chunk({"content": "m"}), chunk({}, "length")],
        {"text": "", "reasoning": "hm", "stop": "max_tokens"},
    ),
    Odd(
        "a refusal in pieces",
        [chunk({"refusal": "I can"}), chunk({"refusal": "not."}), END],
        {"text": "I cannot.", "stop": "refusal"},
    ),
    Odd(
        "the old function_call in pieces",
        [
            chunk({"function_call": {"name": "look", "arguments": '{"a"'}}),
            chunk({"function_call": {"arguments": ": 1}"}}),
            chunk({}, "function_call"),
        ],
        {"names": ["look"]},
    ),
    Odd(
        "what hangs on a call in a stream",
        [
            chunk(
                {
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "a",
                            "function": {"name": "look", "arguments": "{}"},
                            "extra_content": {"s": 1},
                        }
                    ]
                }
            ),
            chunk({}, "tool_calls"),
        ],
        {"extra": {"extra_content": {"s": 1}}},
    ),
)
