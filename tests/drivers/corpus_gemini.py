"""Odd answers of Gemini and of what speaks like it, each with the reason it is here.

`WHOLE` holds bodies, `STREAMS` lists of chunks. What is expected is what the completion has, or the
kind of the error.
"""

from __future__ import annotations

from typing import Any

from corpus_chat import REFUSED, Odd

from agentpool._core.errors import MalformedReplyError


def chunk(*parts: Any, finish: Any = None, **more: Any) -> dict[str, Any]:
    """Return a chunk with parts."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "r", **more}


def whole(*parts: Any, finish: Any = "STOP", **more: Any) -> dict[str, Any]:
    """Return a whole answer."""
    return chunk(*parts, finish=finish, **more)


def bare(finish: str, **more: Any) -> dict[str, Any]:
    """Return an answer whose candidate has a reason and no content."""
    return {"candidates": [{"finishReason": finish, "index": 0, **more}]}


def text(said: Any, **more: Any) -> dict[str, Any]:
    """Return a part that is text."""
    return {"text": said, **more}


def call(args: Any = None, name: Any = "look", id: Any = None, **more: Any) -> dict[str, Any]:
    """Return a part that is a call, which has no id with most models."""
    function = {"name": name, "args": {} if args is None else args}
    return {"functionCall": {**function, "id": id} if id else function, **more}


def used(**counts: Any) -> dict[str, Any]:
    """Return what an answer used."""
    return {"usageMetadata": counts}


WHOLE: tuple[Odd, ...] = (
    Odd(
        "as documented",
        whole(text("hi"), **used(promptTokenCount=4, candidatesTokenCount=2, totalTokenCount=6)),
        {
            "text": "hi",
            "stop": "end_turn",
            "usage": (4, 2, 0, 0),
            "id": "r",
            "model": "gemini-x",
            "kept": None,
        },
    ),
    # -- usage
    Odd(
        "thoughts are beside the candidates' tokens, and cost as much (topcheer/ggcode#225)",
        whole(text("a"), **used(promptTokenCount=10, candidatesTokenCount=5, thoughtsTokenCount=20)),
        {"usage": (10, 25, 20, 0)},
    ),
    Odd(
        "thoughts and nothing else: no candidatesTokenCount (agentscope-ai/agentscope-java#3035)",
        whole(finish="MAX_TOKENS", **used(promptTokenCount=10, thoughtsTokenCount=20, totalTokenCount=30)),
        {"usage": (10, 20, 20, 0), "stop": "max_tokens", "text": ""},
    ),
    Odd(
        "tokens that Google's tools brought are input (huggingface/AnyLanguageModel#236)",
        whole(
            text("a"),
            **used(
                promptTokenCount=500,
                toolUsePromptTokenCount=300,
                candidatesTokenCount=110,
                thoughtsTokenCount=20,
                totalTokenCount=930,
            ),
        ),
        {"usage": (800, 130, 20, 0)},
    ),
    Odd(
        "cached tokens are a part of the prompt's (LiveBench/LiveBench#411)",
        whole(text("a"), **used(promptTokenCount=100, cachedContentTokenCount=90, candidatesTokenCount=1)),
        {"usage": (100, 1, 0, 90)},
    ),
    Odd(
        "a total and no thoughts: the rest was thought (langchain-ai/langchain-google#940)",
        whole(text("a"), **used(promptTokenCount=10, candidatesTokenCount=5, totalTokenCount=40)),
        {"usage": (10, 30, 0, 0)},
    ),
    Odd("no usage", whole(text("a")), {"usage": (0, 0, 0, 0)}),
    Odd("usage null", whole(text("a"), usageMetadata=None), {"usage": (0, 0, 0, 0)}),
    # -- text
    Odd("text in two parts", whole(text("a"), text("b")), {"text": "ab", "kept": None}),
    Odd(
        "a thought before the text, unsigned",
        whole(text("hm", thought=True), text("a")),
        {"text": "a", "reasoning": "hm", "kept": None},
    ),
    Odd(
        "a signature on the text",
        whole(text("a", thoughtSignature="s")),
        {"text": "a", "kept": {"parts": [{"text": "a", "thoughtSignature": "s"}]}},
    ),
    Odd(
        "a signature on an empty part behind the text (BerriAI/litellm#16893)",
        whole(text("a"), text("", thoughtSignature="s")),
        {"text": "a", "kept": {"parts": [{"text": "a"}, {"text": "", "thoughtSignature": "s"}]}},
    ),
    Odd(
        "a signed thought stays in its place",
        whole(text("hm", thought=True, thoughtSignature="s"), text("a")),
        {"reasoning": "hm", "kept": {"parts": [text("hm", thought=True, thoughtSignature="s"), text("a")]}},
    ),
    Odd("an empty text part", whole(text("")), {"text": "", "kept": None}),
    Odd("a part without anything", whole({}, text("a")), {"text": "a", "kept": None}),
    Odd("a part that is null", whole(None, text("a")), {"text": "a"}),
    *(
        Odd(
            f"a text that is none: {none!r} (BerriAI/litellm#30962)",
            whole(text(none), text("a")),
            {"text": "a", "kept": None},
        )
        for none in (None, 7, {})
    ),
    Odd(
        "every field is named, and most are null",
        whole(
            text("a", functionCall=None, thought=None, thoughtSignature=None, inlineData=None),
            {"text": None, **call({"p": 1}, id="a", thoughtSignature=None)},
        ),
        {"text": "a", "calls": [("a", "look", {"p": 1})], "extra": {"id": "a"}, "kept": None},
    ),
    Odd("parts null", {"candidates": [{"content": {"parts": None}, "finishReason": "STOP"}]}, {"text": ""}),
    Odd(
        "content without parts (pydantic/pydantic-ai#2631)",
        {"candidates": [{"content": {"role": "model"}, "finishReason": "STOP"}]},
        {"text": "", "stop": "end_turn"},
    ),
    Odd(
        "code that Google ran is kept in its place (BerriAI/litellm#34802)",
        whole({"executableCode": {"code": "1+1"}}, {"codeExecutionResult": {"output": "2"}}, text("Two.")),
        {
            "text": "Two.",
            "kept": {
                "parts": [
                    {"executableCode": {"code": "1+1"}},
                    {"codeExecutionResult": {"output": "2"}},
                    {"text": "Two."},
                ]
            },
        },
    ),
    Odd(
        "a picture is kept (mozilla-ai/any-llm#1295)",
        whole({"inlineData": {"mimeType": "image/png", "data": "eA=="}}),
        {"text": "", "kept": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "eA=="}}]}},
    ),
    # -- calls
    Odd(
        "a call without an id (apache/flink-agents#947)",
        whole(call({"p": 1})),
        {"names": ["look"], "unique": True, "stop": "tool_use", "kept": None},
    ),
    Odd(
        "two calls of the same tool without ids (brainlid/langchain#620)",
        whole(call({"p": 1}), call({"p": 2})),
        {"names": ["look", "look"], "unique": True},
    ),
    Odd(
        "a call with an id, which wants to come back",
        whole(call({"p": 1}, id="call_41")),
        {"calls": [("call_41", "look", {"p": 1})], "extra": {"id": "call_41"}},
    ),
    Odd(
        "a signature on a call (ollama/ollama#15109)",
        whole(call({"p": 1}, id="a", thoughtSignature="s")),
        {"extra": {"thoughtSignature": "s", "id": "a"}},
    ),
    Odd(
        "only the first of two calls is signed (pipecat-ai/pipecat#3420)",
        whole(call({"p": 1}, thoughtSignature="s"), call({"p": 2})),
        {"extra": {"thoughtSignature": "s"}, "names": ["look", "look"]},
    ),
    Odd(
        "no args (JetBrains/koog#2146)",
        whole({"functionCall": {"name": "look", "id": "a"}}),
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "args null",
        whole({"functionCall": {"name": "look", "args": None, "id": "a"}}),
        {"calls": [("a", "look", {})]},
    ),
    Odd(
        "args as a text of JSON, a proxy",
        whole(call('{"p": 1}', id="a")),
        {"calls": [("a", "look", {"p": 1})]},
    ),
    Odd(
        "args as a text that is no JSON, a proxy", whole(call('{"p": ', id="a")), {"problem": "are not JSON"}
    ),
    Odd("args are an array", whole(call([1], id="a")), {"problem": "are an array"}),
    Odd("a call without a name", whole(call(name="")), MalformedReplyError),
    Odd("a call that is null", whole({"functionCall": None}), MalformedReplyError),
    Odd(
        "the namespace that Google's models put before a name",
        whole(call(name="default_api:look")),
        {"names": ["look"]},
    ),
    Odd(
        "text behind a call keeps its place",
        whole(call({"p": 1}, id="a"), text("Done soon.")),
        {"text": "Done soon.", "kept": {"parts": [{"call": 0}, {"text": "Done soon."}]}},
    ),
    Odd("FUNCTION_CALL for a reason, a mock", whole(call(), finish="FUNCTION_CALL"), {"stop": "tool_use"}),
    # -- ends
    Odd("cut at its limit", whole(text("a"), finish="MAX_TOKENS"), {"stop": "max_tokens", "text": "a"}),
    Odd(
        "cut at its limit without content (BerriAI/litellm#40477)",
        bare("MAX_TOKENS"),
        {"stop": "max_tokens", "text": ""},
    ),
    *(
        Odd(f"declined: {reason}", bare(reason), {"stop": "refusal"})
        for reason in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE")
    ),
    Odd(
        "declined in the middle, with words",
        whole(text("Fir"), finish="SAFETY", **{}),
        {"stop": "refusal", "text": "Fir"},
    ),
    Odd(
        "declined, with a message",
        bare("RECITATION", finishMessage="It is a quote."),
        {"stop": "refusal", "text": "It is a quote."},
    ),
    Odd(
        "the prompt was blocked: no candidates at all (Tiendil/feeds.fun#396)",
        {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, **used(promptTokenCount=7)},
        {"stop": "refusal", "usage": (7, 0, 0, 0)},
    ),
    Odd(
        "the prompt was blocked, with words (MaKTaiL/gemini-srt-translator#133)",
        {"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "no"}, "candidates": []},
        {"stop": "refusal", "text": "no"},
    ),
    Odd(
        "feedback whose reason is none",
        {**whole(text("a")), "promptFeedback": {"blockReason": "BLOCK_REASON_UNSPECIFIED"}},
        {"text": "a", "stop": "end_turn"},
    ),
    Odd("an error that is filled with nothing", {**whole(text("a")), "error": {"code": 0}}, {"text": "a"}),
    Odd(
        "feedback that blocks nothing",
        {**whole(text("a")), "promptFeedback": {"safetyRatings": []}},
        {"text": "a"},
    ),
    Odd(
        "a call that Gemini itself could not read, without content (0xPlaygrounds/rig#1030)",
        bare("MALFORMED_FUNCTION_CALL", finishMessage="Malformed function call: print("),
        MalformedReplyError,
    ),
    Odd(
        "the same, with a call beside it: its word counts (NousResearch/hermes-agent#83886)",
        whole(call({"p": 1}), finish="MALFORMED_FUNCTION_CALL"),
        MalformedReplyError,
    ),
    Odd(
        "a call of no tool (epam/ai-dial-adapter-vertexai#325)",
        whole(call(name="undeclared"), finish="UNEXPECTED_TOOL_CALL"),
        MalformedReplyError,
    ),
    *(
        Odd(f"broken off: {reason} (BerriAI/litellm#40864)", bare(reason), MalformedReplyError)
        for reason in ("OTHER", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE", "NO_IMAGE", "IMAGE_OTHER")
    ),
    Odd("an end that nobody knows", whole(text("a"), finish="WEATHER"), MalformedReplyError),
    Odd("no end", chunk(text("a")), MalformedReplyError),
    Odd("an end that is none", whole(text("a"), finish="FINISH_REASON_UNSPECIFIED"), MalformedReplyError),
    Odd("no candidates", {"candidates": [], **used(promptTokenCount=3)}, MalformedReplyError),
    Odd("candidates null", {"candidates": None}, MalformedReplyError),
    Odd("nothing at all", {}, MalformedReplyError),
    Odd("an error with status 200", {"error": {"code": 500, "message": "x", "status": "INTERNAL"}}, REFUSED),
    Odd(
        "an envelope of a gateway (router-for-me/CLIProxyAPI#97)",
        {"response": whole(text("a"))},
        {"text": "a"},
    ),
    Odd(
        "a second candidate is not asked for, and not mixed in (BerriAI/litellm#40864)",
        {
            "candidates": [
                {**whole(text("a"))["candidates"][0]},
                {**whole(text("b"))["candidates"][0], "index": 1},
            ]
        },
        {"text": "a"},
    ),
    Odd(
        "a candidate without an index",
        {"candidates": [{"content": {"parts": [text("a")]}, "finishReason": "STOP"}]},
        {"text": "a"},
    ),
)

STREAMS: tuple[Odd, ...] = (
    Odd(
        "as documented",
        [chunk(text("He")), chunk(text("llo"), finish="STOP")],
        {"text": "Hello", "deltas": ["He", "llo"], "kept": None},
    ),
    Odd("no end", [chunk(text("Hel"))], MalformedReplyError),
    Odd("no chunk", [], MalformedReplyError),
    Odd(
        "the end alone, without content (agentjido/req_llm#638)",
        [chunk(text("a")), {**bare("STOP"), **used(promptTokenCount=1, candidatesTokenCount=1)}],
        {"text": "a", "usage": (1, 1, 0, 0)},
    ),
    Odd(
        "STOP in every chunk (MartialBE/one-hub#402)",
        [chunk(text("a"), finish="STOP"), chunk(text("b"), finish="STOP")],
        {"text": "ab"},
    ),
    Odd(
        "STOP before the first word (router-for-me/CLIProxyAPI#5651)",
        [chunk(finish="STOP"), chunk(text("a")), chunk(finish="STOP")],
        {"text": "a"},
    ),
    Odd(
        "an end between the rounds of Google's own tools (0xPlaygrounds/rig#2328)",
        [chunk({"executableCode": {"code": "1"}}), chunk(finish="STOP"), chunk(text("One."), finish="STOP")],
        {"text": "One."},
    ),
    Odd(
        "an error behind a STOP (vercel/ai#5217)",
        [
            chunk(text("Okay")),
            chunk(text(""), finish="STOP"),
            {"error": {"code": 503, "message": "overloaded"}},
        ],
        REFUSED,
    ),
    Odd("an error in the middle", [chunk(text("Hel")), {"error": {"code": 500, "message": "x"}}], REFUSED),
    Odd(
        "calls in chunks of their own (brainlid/langchain#620)",
        [chunk(call({"p": 1})), chunk(call({"p": 2})), chunk(finish="STOP")],
        {"names": ["look", "look"], "unique": True, "stop": "tool_use", "kept": None},
    ),
    Odd(
        "the arguments come after the name, without it (smallmain/vscode-unify-chat-provider#48)",
        [
            chunk(call({}, id="a", thoughtSignature="s")),
            chunk({"functionCall": {"args": {"p": 1}}}),
            chunk(finish="STOP"),
        ],
        {"calls": [("a", "look", {"p": 1})], "extra": {"thoughtSignature": "s", "id": "a"}},
    ),
    Odd(
        "the signature of a call comes behind it",
        [chunk(call({"p": 1}, id="a")), chunk({"functionCall": {}, "thoughtSignature": "s"}, finish="STOP")],
        {"calls": [("a", "look", {"p": 1})], "extra": {"thoughtSignature": "s", "id": "a"}},
    ),
    Odd(
        "the signature of a text comes in the last chunk",
        [chunk(text("a")), chunk(text("b")), chunk(text("", thoughtSignature="s"), finish="STOP")],
        {"text": "ab", "kept": {"parts": [{"text": "ab"}, {"text": "", "thoughtSignature": "s"}]}},
    ),
    Odd(
        "thoughts in pieces",
        [chunk(text("h", thought=True)), chunk(text("m", thought=True)), chunk(text("a"), finish="STOP")],
        {"text": "a", "reasoning": "hm", "deltas": ["a"]},
    ),
    Odd(
        "counts in every chunk: the last count",
        [
            chunk(text("a"), **used(promptTokenCount=2304, totalTokenCount=2304)),
            chunk(finish="STOP", **used(promptTokenCount=2301, candidatesTokenCount=1, totalTokenCount=2302)),
        ],
        {"usage": (2301, 1, 0, 0)},
    ),
    Odd(
        "a count that only an earlier chunk has",
        [
            chunk(text("a"), **used(promptTokenCount=9, cachedContentTokenCount=8, thoughtsTokenCount=3)),
            chunk(finish="STOP", **used(promptTokenCount=9, candidatesTokenCount=1)),
        ],
        {"usage": (9, 4, 3, 8)},
    ),
    Odd(
        "a chunk of usage alone",
        [chunk(text("a"), finish="STOP"), used(promptTokenCount=5)],
        {"usage": (5, 0, 0, 0)},
    ),
    Odd(
        "blocked from the start",
        [{"promptFeedback": {"blockReason": "SAFETY"}}],
        {"stop": "refusal", "text": ""},
    ),
    Odd("broken off behind words", [chunk(text("a")), bare("OTHER")], MalformedReplyError),
    Odd("declined behind words", [chunk(text("a")), bare("SAFETY")], {"stop": "refusal", "text": "a"}),
    Odd("a chunk that is no object", [chunk(text("a")), "words"], MalformedReplyError),
    Odd(
        "cut at its limit behind a call without arguments, which may be half",
        [chunk(call({}, id="a")), chunk(finish="MAX_TOKENS")],
        {"calls": [], "stop": "max_tokens"},
    ),
)
