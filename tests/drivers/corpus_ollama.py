"""Odd answers of Ollama and of what speaks like it, each with the reason it is here.

`WHOLE` holds bodies, `STREAMS` lists of lines. What is expected is what the completion has, or the
kind of the error.
"""

from __future__ import annotations

from typing import Any

from corpus_chat import REFUSED, Odd

from agentpool._core.errors import MalformedReplyError


def line(content: Any = "", done: bool = False, **message: Any) -> dict[str, Any]:
    """Return a line of a stream, or a whole answer if it is done."""
    found = {
        "model": "m",
        "created_at": "2026-01-01T00:00:00Z",
        "message": {"role": "assistant", "content": content, **message},
        "done": done,
    }
    return {**found, "done_reason": "stop"} if done else found


def whole(content: Any = "", **message: Any) -> dict[str, Any]:
    """Return a whole answer."""
    return line(content, True, **message)


def call(arguments: Any = None, name: Any = "look", **more: Any) -> dict[str, Any]:
    """Return a tool call, which has no id with most versions."""
    return {"function": {"name": name, "arguments": {} if arguments is None else arguments}, **more}


END = line("", True)

WHOLE: tuple[Odd, ...] = (
    Odd(
        "as documented",
        {**whole("hi"), "prompt_eval_count": 26, "eval_count": 298},
        {"text": "hi", "stop": "end_turn", "usage": (26, 298, 0, 0), "model": "m", "cost": 0.0},
    ),
    Odd(
        "no prompt_eval_count: the prompt was read before (ollama/ollama#2068)",
        {**whole("hi"), "eval_count": 3},
        {"usage": (0, 3, 0, 0)},
    ),
    Odd("no count at all (ollama/ollama#3427)", whole("hi"), {"usage": (0, 0, 0, 0)}),
    Odd("counts are null", {**whole("hi"), "prompt_eval_count": None}, {"usage": (0, 0, 0, 0)}),
    Odd(
        "counts are texts, a proxy",
        {**whole("hi"), "prompt_eval_count": "5", "eval_count": 2.0},
        {"usage": (5, 2, 0, 0)},
    ),
    Odd(
        "cached tokens are a part of the prompt's (stdapi-ai/stdapi.ai#252)",
        {**whole("hi"), "prompt_eval_count": 26, "prompt_eval_cached_count": 20, "eval_count": 1},
        {"usage": (26, 1, 0, 20)},
    ),
    Odd(
        "no done_reason: versions before 0.1.38 (ollama/ollama#4235)",
        {name: value for name, value in whole("hi").items() if name != "done_reason"},
        {"text": "hi", "stop": "end_turn"},
    ),
    Odd("an empty done_reason", {**whole("hi"), "done_reason": ""}, {"stop": "end_turn"}),
    Odd("cut at num_predict", {**whole("hi"), "done_reason": "length"}, {"stop": "max_tokens"}),
    Odd(
        "the model was only loaded: no user message (can1357/oh-my-pi#7465)",
        {**whole(""), "done_reason": "load"},
        MalformedReplyError,
    ),
    Odd(
        "the model was unloaded: keep_alive 0 and no message (llmmanorg/llmman#326)",
        {**whole(""), "done_reason": "unload"},
        MalformedReplyError,
    ),
    Odd("an end that nobody knows", {**whole("hi"), "done_reason": "abort"}, MalformedReplyError),
    Odd("not marked as done", line("hi"), MalformedReplyError),
    Odd("done is missing, a proxy", {"message": {"content": "hi"}}, MalformedReplyError),
    Odd("content is null", whole(None), {"text": "", "stop": "end_turn"}),
    Odd("message is null", {**whole(), "message": None}, {"text": ""}),
    Odd(
        "content is parts, a proxy that speaks OpenAI inside",
        whole([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        {"text": "ab"},
    ),
    Odd(
        "thinking beside the text",
        whole("hi", thinking="hm"),
        {"text": "hi", "reasoning": "hm", "kept": {"thinking": "hm"}},
    ),
    Odd(
        "thinking and nothing else: qwen3 with tools (ollama/ollama#10976)",
        whole("", thinking="I should call it"),
        {"text": "", "reasoning": "I should call it", "stop": "end_turn"},
    ),
    Odd("thinking is null", whole("hi", thinking=None), {"text": "hi", "reasoning": "", "kept": None}),
    Odd(
        "thinking is empty, and reasoning is not (openclaw/openclaw#62712)",
        whole("hi", thinking="", reasoning="hm"),
        {"reasoning": "hm"},
    ),
    Odd(
        "thoughts in the text: a template without support for thinking (Tencent/WeKnora#689)",
        whole("<think>\nhm\n</think>\n\nhi"),
        {"text": "hi", "reasoning": "hm", "kept": None},
    ),
    Odd(
        "calls, with `stop` for a reason and no ids (karthink/gptel#908)",
        whole("", tool_calls=[call({"path": "x"})]),
        {"names": ["look"], "stop": "tool_use", "unique": True},
    ),
    Odd(
        "two calls, both with the index 0 (BerriAI/litellm#33678)",
        whole("", tool_calls=[call({"p": 1}, index=0), call({"p": 2}, index=0)]),
        {"names": ["look", "look"], "unique": True},
    ),
    Odd(
        "arguments as a text of JSON (openclaw/openclaw#50749)",
        whole("", tool_calls=[call('{"path": "x"}', id="a")]),
        {"calls": [("a", "look", {"path": "x"})]},
    ),
    Odd(
        "arguments missing",
        whole("", tool_calls=[{"id": "a", "function": {"name": "look"}}]),
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "arguments by another name",
        whole("", tool_calls=[{"id": "a", "function": {"name": "look", "parameters": {"p": 1}}}]),
        {"calls": [("a", "look", {"p": 1})], "extra": None},
    ),
    Odd(
        "arguments null",
        whole("", tool_calls=[call(id="a") | {"function": {"name": "look", "arguments": None}}]),
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "an empty text for arguments",
        whole("", tool_calls=[call("", id="a")]),
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "an empty array for arguments",
        whole("", tool_calls=[call([], id="a")]),
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "arguments that are no JSON (ollama/ollama#12064)",
        whole("", tool_calls=[call('{"path": "x"]', id="a")]),
        {"problem": "are not JSON", "stop": "tool_use"},
    ),
    Odd("arguments are an array", whole("", tool_calls=[call([1], id="a")]), {"problem": "are an array"}),
    Odd(
        "the template leaks into the name, gpt-oss (movieclaw/movieclaw#224)",
        whole("", tool_calls=[call(name="look<|channel|>commentary")]),
        {"names": ["look"]},
    ),
    Odd(
        "a namespace before the name, gpt-oss",
        whole("", tool_calls=[call(name="functions.look")]),
        {"names": ["look"]},
    ),
    Odd("a call without a name", whole("", tool_calls=[call(name="")]), MalformedReplyError),
    Odd("tool_calls is null", whole("hi", tool_calls=None), {"text": "hi", "names": []}),
    Odd("tool_calls is empty", whole("hi", tool_calls=[]), {"text": "hi", "stop": "end_turn"}),
    Odd("a function that is null", whole("", tool_calls=[{"function": None}]), MalformedReplyError),
    Odd(
        "the signature that Gemini wants back, through Ollama's cloud (ollama/ollama#15109)",
        whole("", tool_calls=[call({"p": 1}, id="a", thought_signature="c2ln")]),
        {"extra": {"call": {"thought_signature": "c2ln"}}},
    ),
    Odd(
        "the same within the function",
        whole("", tool_calls=[{"id": "a", "function": {"name": "look", "arguments": {}, "signature": "s"}}]),
        {"extra": {"function": {"signature": "s"}}},
    ),
    Odd("an error that is empty, a proxy", {**whole("hi"), "error": {"message": ""}}, {"text": "hi"}),
    Odd("an error with status 200", {"error": "model runner has unexpectedly stopped"}, REFUSED),
    Odd(
        "an error of Ollama's cloud, with its status inside (ollama/ollama#14567)",
        {"StatusCode": 400, "Status": "400 Bad Request", "error": "Function call is missing a signature"},
        REFUSED,
    ),
    Odd(
        "an error under a key of its own words (ollama/ollama#11704)",
        {"error parsing tool call": "invalid character 'c' looking for beginning of value"},
        MalformedReplyError,
    ),
    Odd("a validator of a proxy answers with 200", {"detail": [{"loc": ["body"], "msg": "no"}]}, REFUSED),
    Odd("nothing at all", {}, MalformedReplyError),
    Odd(
        "the answer of /api/generate, from a proxy that mixes them up (agent0ai/agent-zero#724)",
        {"model": "m", "response": "hi", "thinking": "hm", "done": True},
        {"text": "hi", "reasoning": "hm"},
    ),
    Odd(
        "a half of a pair in the text",
        whole("smile \ud83d"),
        {"text": "smile \ud83d"},
    ),
)

STREAMS: tuple[Odd, ...] = (
    Odd("as documented", [line("He"), line("llo"), END], {"text": "Hello", "deltas": ["He", "llo"]}),
    Odd("everything in one line", [whole("hi")], {"text": "hi", "deltas": ["hi"]}),
    Odd("no end", [line("Hel")], MalformedReplyError),
    Odd("no line", [], MalformedReplyError),
    Odd("an error in the middle (coasys/ad4m#1001)", [line("Hel"), {"error": "CUDA error"}], REFUSED),
    Odd("an error with a status", [line("Hel"), {"error": {"code": 500, "message": "x"}}], REFUSED),
    Odd("a line that is no object", [line("Hel"), "words"], MalformedReplyError),
    Odd("a line that is null", [None], MalformedReplyError),
    Odd(
        "thinking first, then text",
        [line("", thinking="h"), line("", thinking="m"), line("hi"), END],
        {"text": "hi", "reasoning": "hm", "kept": {"thinking": "hm"}},
    ),
    Odd(
        "thoughts in the text, their marks in pieces",
        [line("<th"), line("ink>h"), line("m</thi"), line("nk>"), line("hi"), END],
        {"text": "hi", "reasoning": "hm"},
    ),
    Odd(
        "a mark that never comes",
        [line("<th"), END],
        {"text": "<th", "deltas": ["<th"]},
    ),
    Odd(
        "a call in a line of its own, before the end (code-yeongyu/oh-my-openagent#1120)",
        [line("", tool_calls=[call({"p": 1}, id="a")]), END],
        {"calls": [("a", "look", {"p": 1})], "stop": "tool_use"},
    ),
    Odd(
        "two calls in two lines, the same name and index, no ids (huggingface/smolagents#1958)",
        [line("", tool_calls=[call({"p": 1}, index=0)]), line("", tool_calls=[call({"p": 2}, index=0)]), END],
        {"names": ["look", "look"], "unique": True},
    ),
    Odd(
        "two calls that are the same word for word, but without ids: two calls",
        [line("", tool_calls=[call({"p": 1})]), line("", tool_calls=[call({"p": 1})]), END],
        {"names": ["look", "look"], "unique": True},
    ),
    Odd(
        "one call that is sent again at the end, known by its id",
        [line("", tool_calls=[call({"p": 1}, id="a")]), line("", True, tool_calls=[call({"p": 1}, id="a")])],
        {"calls": [("a", "look", {"p": 1})]},
    ),
    Odd(
        "a call in the last line",
        [line("I look."), line("", True, tool_calls=[call({"p": 1}, id="a")])],
        {"text": "I look.", "calls": [("a", "look", {"p": 1})], "stop": "tool_use"},
    ),
    Odd(
        "cut at num_predict, within the arguments",
        [line("", tool_calls=[call('{"p": "x', id="a")]), {**END, "done_reason": "length"}],
        {"calls": [], "stop": "max_tokens"},
    ),
    Odd(
        "cut at num_predict, behind a whole call",
        [line("", tool_calls=[call({"p": 1}, id="a")]), {**END, "done_reason": "length"}],
        {"calls": [("a", "look", {"p": 1})], "stop": "max_tokens"},
    ),
    Odd("the model was only loaded", [{**END, "done_reason": "load"}], MalformedReplyError),
    Odd(
        "the last line has neither message nor reason",
        [line("hi"), {"model": "m", "done": True, "eval_count": 4}],
        {"text": "hi", "stop": "end_turn", "usage": (0, 4, 0, 0)},
    ),
    Odd("empty lines of content between", [line(""), line("hi"), line(""), END], {"deltas": ["hi"]}),
    Odd("done as a text, a proxy", [line("hi"), {"done": "true"}], {"text": "hi"}),
)
