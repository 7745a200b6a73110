"""What Gemini is asked, and what is learned of its refusals."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from rawserver import STREAM, answer, raw_server, sse

from agentpool import (
    AssistantMessage,
    Completion,
    CompletionRequest,
    ContextTooLongError,
    Document,
    GeminiDriver,
    Image,
    OverloadedError,
    ProviderData,
    RateLimitedError,
    RequestRejectedError,
    Text,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.messages import ChatMessage
from agentpool.drivers._fitting import Question
from agentpool.drivers._gemini_chat import NO_SIGNATURE, GeminiDialect, placed
from agentpool.drivers._learning import Lessons, Trait
from agentpool.drivers._schemas import open_api_schema

LOOK = ToolDefinition("look", "Look.", {"type": "object", "properties": {"path": {"type": "string"}}})
STAY = ToolDefinition("stay", "Stay.", {"type": "object", "properties": {}})
SCHEMA = {"type": "object", "properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}
DONE = {"candidates": [{"content": {"parts": [{"text": "ok"}]}, "finishReason": "STOP"}]}
DIALECT = GeminiDialect()


def knowing(*traits: Trait, dropped: tuple[str, ...] = ()) -> Lessons:
    return Lessons(frozenset(f"generationConfig.{name}" for name in dropped), traits=frozenset(traits))


def body(*messages: ChatMessage, lessons: Lessons | None = None, **more: Any) -> dict[str, Any]:
    request = CompletionRequest(messages=messages or [UserMessage("hi")], **more)
    return DIALECT.body(Question(request, "m", lessons or Lessons()), streaming=False)


def test_a_plain_question() -> None:
    assert body(system="Be brief.", temperature=0.5, stop=("END",), max_tokens=9) == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {"maxOutputTokens": 9, "temperature": 0.5, "stopSequences": ["END"]},
    }


@pytest.mark.parametrize(
    ("model", "place"),
    [("gemini-x", "/models/gemini-x"), ("tunedModels/a", "/tunedModels/a"), ("a b", "/models/a%20b")],
)
def test_the_model_is_a_part_of_the_path(model: str, place: str) -> None:
    question = Question(CompletionRequest(), model)
    assert DIALECT.path(question, streaming=False) == f"{place}:generateContent"
    assert DIALECT.path(question, streaming=True) == f"{place}:streamGenerateContent?alt=sse"


def test_what_came_in_parts_goes_back_in_its_places() -> None:
    came = {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"text": "hm", "thought": True, "thoughtSignature": "s0"},
                        {"text": "I look."},
                        {
                            "functionCall": {"name": "look", "args": {"p": 1}, "id": "n1"},
                            "thoughtSignature": "s1",
                        },
                        {"functionCall": {"name": "stay"}},
                        {"text": "", "thoughtSignature": "s2"},
                    ]
                },
                "finishReason": "STOP",
            }
        ]
    }
    asked = CompletionRequest(messages=[UserMessage("hi")], tools=[LOOK, STAY])
    completion = DIALECT.completion(came, Question(asked, "m"))
    first, second = completion.tool_calls
    results = [
        ToolMessage(second.id, "stay", ToolResult("no", is_error=True)),
        ToolMessage(first.id, "look", ToolResult("seen")),
    ]
    sent = body(UserMessage("hi"), completion.message, *results, UserMessage("and?"), tools=[LOOK, STAY])
    assert sent["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "hm", "thought": True, "thoughtSignature": "s0"},
                {"text": "I look."},
                {"thoughtSignature": "s1", "functionCall": {"name": "look", "args": {"p": 1}, "id": "n1"}},
                {"functionCall": {"name": "stay", "args": {}}},
                {"text": "", "thoughtSignature": "s2"},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "look", "response": {"output": "seen"}, "id": "n1"}},
                {"functionResponse": {"name": "stay", "response": {"error": "no"}}},
                {"text": "and?"},
            ],
        },
    ]


def test_a_call_that_was_left_out_leaves_no_hole() -> None:
    kept = ProviderData("gemini", "m", {"parts": [{"call": 0}, {"text": "a"}, {"call": 1}]})
    message = AssistantMessage("a", [ToolCall("x", "look")], "", kept)
    parts = body(UserMessage("hi"), message, ToolMessage("x", "look", ToolResult("y")))["contents"][1][
        "parts"
    ]
    assert parts == [{"functionCall": {"name": "look", "args": {}}}, {"text": "a"}]
    more = attrs.evolve(message, tool_calls=[ToolCall(id, "look") for id in "xyz"])
    parts = body(UserMessage("hi"), more)["contents"][1]["parts"]
    assert [list(part) for part in parts] == [["functionCall"], ["text"], ["functionCall"], ["functionCall"]]


def test_what_other_models_signed_stays_behind() -> None:
    for other in (
        ProviderData("gemini", "n", {"thoughtSignature": "s"}),
        ProviderData("openai", "m", {"x": 1}),
    ):
        message = AssistantMessage("a", [ToolCall("x", "look", {}, other)], "", other)
        parts = body(UserMessage("hi"), message)["contents"][1]["parts"]
        assert parts == [{"text": "a"}, {"functionCall": {"name": "look", "args": {}}}]
        parts = body(UserMessage("hi"), message, lessons=knowing("unsigned_calls"))["contents"][1]["parts"]
        assert parts[1]["thoughtSignature"] == NO_SIGNATURE


def test_the_user_speaks_first_and_last() -> None:
    sent = body(AssistantMessage("a"), UserMessage("b"), UserMessage("c"), AssistantMessage("d"))["contents"]
    assert [content["role"] for content in sent] == ["user", "model", "user", "model", "user"]
    assert sent[2]["parts"] == [{"text": "b\n\nc"}]
    assert body(UserMessage(""))["contents"] == [{"role": "user", "parts": [{"text": " "}]}]


def test_a_result_without_its_call_is_told_as_text() -> None:
    sent = body(UserMessage("hi"), AssistantMessage("a"), ToolMessage("x", "look", ToolResult("seen")))
    assert sent["contents"][2]["parts"] == [{"text": "A result of look: seen"}]


def test_a_model_without_a_system_role_is_told_as_a_user() -> None:
    sent = body(system="Be brief.", lessons=knowing("system_in_user"))
    assert "systemInstruction" not in sent
    assert sent["contents"][0]["parts"] == [{"text": "Be brief."}, {"text": "hi"}]


def test_files() -> None:
    parts = (
        Image(b"png", "image/png"),
        Image(url="data:image/png;base64,eA=="),
        Image(url="https://example.com/a.jpg?x=1"),
        Image(url="https://example.com/files/1"),
        Document(b"%PDF", "application/pdf"),
        Document(b"words", "text/plain", name="a.txt"),
        Text(""),
    )
    assert body(UserMessage(parts))["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "cG5n"}},
        {"inlineData": {"mimeType": "image/png", "data": "eA=="}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.com/a.jpg?x=1"}},
        {"fileData": {"fileUri": "https://example.com/files/1"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
        {"text": "a.txt:\nwords"},
    ]


def test_a_picture_in_a_result_stands_within_it_unless_the_model_takes_none_there() -> None:
    result = ToolResult((Text("a shot"), Image(b"png", "image/png")))
    talk = UserMessage("hi"), AssistantMessage("", [ToolCall("a", "look")]), ToolMessage("a", "look", result)
    picture = {"inlineData": {"mimeType": "image/png", "data": "cG5n"}}
    (within,) = body(*talk)["contents"][2]["parts"]
    assert within["functionResponse"]["parts"] == [picture]
    behind = body(*talk, lessons=knowing("plain_results"))["contents"][2]["parts"]
    assert behind[1] == picture
    assert "parts" not in behind[0]["functionResponse"]


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ("none", {"mode": "NONE"}),
        ("look", {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ],
)
def test_which_tools_it_may_call(choice: str, config: dict[str, Any]) -> None:
    sent = body(tools=[LOOK], tool_choice=choice)
    assert sent["toolConfig"] == {"functionCallingConfig": config}
    assert "toolConfig" not in body(tools=[LOOK])


def test_tools_are_declared_with_their_schemas() -> None:
    (declared,) = body(tools=[LOOK, STAY], parallel_tool_calls=False)["tools"]
    assert declared["functionDeclarations"][0] == {
        "name": "look",
        "description": "Look.",
        "parametersJsonSchema": LOOK.input_schema,
    }
    sent = body(tools=[LOOK, STAY], lessons=knowing("old_schemas"), parallel_tool_calls=False)
    look, stay = sent["tools"][0]["functionDeclarations"]
    assert look["parameters"] == {"type": "object", "properties": {"path": {"type": "string"}}}
    assert stay == {"name": "stay", "description": "Stay."}
    assert sent["systemInstruction"] == {"parts": [{"text": "Call one function at a time."}]}


def test_an_answer_of_a_schema() -> None:
    config = body(output_schema=SCHEMA)["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", SCHEMA)
    config = body(output_schema=SCHEMA, lessons=knowing("old_schemas"))["generationConfig"]
    assert config["responseSchema"]["properties"]["a"] == {"type": "integer", "nullable": True}
    for prompted in (
        body(output_schema=SCHEMA, lessons=knowing(dropped=("responseJsonSchema",))),
        body(output_schema=SCHEMA, lessons=knowing(dropped=("responseMimeType",))),
        body(output_schema=SCHEMA, tools=[LOOK], lessons=knowing("no_schema_with_tools")),
    ):
        assert prompted["generationConfig"].keys() == {"maxOutputTokens"}
        assert '"integer"' in prompted["systemInstruction"]["parts"][0]["text"]
    assert "responseMimeType" in body(output_schema=SCHEMA, tools=[LOOK])["generationConfig"]


LEVEL, BUDGET = "thinkingConfig.thinkingLevel", "thinkingConfig.thinkingBudget"


@pytest.mark.parametrize(
    ("reasoning", "dropped", "config"),
    [
        ("low", (), {"includeThoughts": True, "thinkingLevel": "low"}),
        ("xhigh", (), {"includeThoughts": True, "thinkingLevel": "high"}),
        ("low", (LEVEL,), {"includeThoughts": True, "thinkingBudget": 1024}),
        ("huge", (LEVEL,), {"includeThoughts": True, "thinkingBudget": -1}),
        ("low", (LEVEL, BUDGET), {"includeThoughts": True}),
        (5000, (), {"includeThoughts": True, "thinkingBudget": 5000}),
        (5000, (BUDGET,), {"includeThoughts": True, "thinkingLevel": "medium"}),
        (5000, (LEVEL, BUDGET), {"includeThoughts": True}),
        (0, (), {"thinkingBudget": 0}),
        ("none", (BUDGET,), {"thinkingLevel": "low"}),
        (0, (LEVEL, BUDGET), {}),
    ],
)
def test_how_much_it_thinks(reasoning: Any, dropped: tuple[str, ...], config: dict[str, Any]) -> None:
    sent = body(reasoning=reasoning, lessons=knowing(dropped=dropped))
    assert sent["generationConfig"]["thinkingConfig"] == config


def test_options_find_their_place() -> None:
    assert placed({"seed": 1, "top_p": 0.5, "safety_settings": [], "generation_config": {"top_k": 3}}) == {
        "safetySettings": [],
        "generationConfig": {"seed": 1, "topP": 0.5, "topK": 3},
    }
    assert placed({"cachedContent": "c"}) == {"cachedContent": "c"}


def test_schemas_in_the_subset_of_openapi() -> None:
    sent = open_api_schema(
        {
            "$defs": {"Unit": {"type": "string", "enum": ["c", "f"]}},
            "properties": {
                "unit": {"$ref": "#/$defs/Unit", "default": "c"},
                "maybe": {"anyOf": [{"$ref": "#/$defs/Unit"}, {"type": "null"}], "description": "It."},
                "both": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
                "many": {"type": ["string", "integer"]},
                "null": {"type": "null"},
                "number": {"enum": [1, 2]},
                "at": {"type": "string", "format": "date-time"},
                "uri": {"type": "string", "format": "uri"},
                "list": {"type": "array", "items": {"type": "object", "additionalProperties": False}},
                "bare": {"type": "array"},
                "one": {"const": "x"},
            },
            "required": ["unit"],
            "additionalProperties": False,
        }
    )
    assert sent["type"] == "object"
    assert sent["required"] == ["unit"]
    assert sent["properties"] == {
        "unit": {"type": "string", "enum": ["c", "f"], "description": '(default "c")'},
        "maybe": {"type": "string", "enum": ["c", "f"], "nullable": True, "description": "It."},
        "both": {"anyOf": [{"type": "string"}, {"type": "integer"}], "nullable": True},
        "many": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "null": {"type": "string", "nullable": True},
        "number": {"type": "integer", "description": "(one of [1, 2])"},
        "at": {"type": "string", "format": "date-time"},
        "uri": {"type": "string", "description": '(format "uri")'},
        "list": {"type": "array", "items": {"type": "object"}},
        "bare": {"type": "array", "items": {"type": "string"}},
        "one": {"type": "string", "enum": ["x"]},
    }


# -- the driver


def refusal(message: str, code: int = 400, status: str = "INVALID_ARGUMENT", **more: Any) -> bytes:
    return answer(code, {"error": {"code": code, "message": message, "status": status, **more}})


async def asked(*refusals: bytes, **more: Any) -> tuple[list[dict[str, Any]], Completion]:
    """Ask a server that refuses some requests first, and once more; return all bodies and the last answer."""

    def reply(head: str, sent: Any) -> bytes:
        number = len(server.requests) - 1
        return refusals[number] if number < len(refusals) else answer(200, DONE)

    async with (
        raw_server(reply) as server,
        GeminiDriver("m", base_url=server.url, api_key="key-123") as driver,
    ):
        request = CompletionRequest(messages=[UserMessage("hi")], **more)
        await driver.complete(request)
        completion = await driver.complete(request)
    assert "x-goog-api-key: key-123" in server.requests[0][0].lower()
    return [sent for _, sent in server.requests], completion


async def test_a_level_becomes_a_budget_where_levels_are_not_known() -> None:
    bodies, _ = await asked(refusal("Thinking level is not supported for this model."), reasoning="low")
    configs = [sent["generationConfig"]["thinkingConfig"] for sent in bodies]
    assert [set(config) - {"includeThoughts"} for config in configs] == [
        {"thinkingLevel"},
        {"thinkingBudget"},
        {"thinkingBudget"},
    ]


@pytest.mark.parametrize(
    "words",
    [
        "Budget 0 is invalid. This model only works in thinking mode.",
        "Unable to submit request because The model does not support setting thinking_budget to 0",
    ],
)
async def test_a_model_that_cannot_but_think_is_asked_to_think_little(words: str) -> None:
    bodies, _ = await asked(refusal(words), reasoning=0)
    configs = [sent["generationConfig"]["thinkingConfig"] for sent in bodies]
    assert configs == [{"thinkingBudget": 0}, {"thinkingLevel": "low"}, {"thinkingLevel": "low"}]


async def test_a_model_that_does_not_think_is_not_asked_to() -> None:
    bodies, _ = await asked(refusal("Thinking is not enabled for this model"), reasoning="high")
    assert ["thinkingConfig" in sent["generationConfig"] for sent in bodies] == [True, False, False]


async def test_an_old_server_is_given_old_schemas() -> None:
    words = (
        'Invalid JSON payload received. Unknown name "parametersJsonSchema" at'
        " 'tools[0].function_declarations[0]': Cannot find field."
    )
    bodies, _ = await asked(refusal(words), tools=[LOOK])
    names = [set(sent["tools"][0]["functionDeclarations"][0]) - {"name", "description"} for sent in bodies]
    assert names == [{"parametersJsonSchema"}, {"parameters"}, {"parameters"}]


async def test_a_schema_beside_tools_is_prompted_where_it_is_refused() -> None:
    words = "Function calling with a response mime type: 'application/json' is unsupported"
    bodies, _ = await asked(refusal(words), tools=[LOOK], output_schema=SCHEMA)
    assert ["responseMimeType" in sent["generationConfig"] for sent in bodies] == [True, False, False]


async def test_a_schema_that_is_too_large_for_a_grammar_is_prompted() -> None:
    words = "The specified schema produces a constraint that has too many states for serving."
    bodies, _ = await asked(refusal(words), output_schema=SCHEMA)
    assert ["responseMimeType" in sent["generationConfig"] for sent in bodies] == [True, False, False]


async def test_a_model_that_takes_no_files_in_results_is_given_them_behind() -> None:
    """The words are those of google-gemini/gemini-cli#19436."""
    words = "Unable to submit request because `function_response.parts` is not supported for this model."
    talk: list[ChatMessage] = [
        UserMessage("hi"),
        AssistantMessage("", [ToolCall("a", "look")]),
        ToolMessage("a", "look", ToolResult(Image(b"png", "image/png"))),
    ]

    def reply(head: str, sent: Any) -> bytes:
        within = sent["contents"][2]["parts"][0]["functionResponse"]
        return refusal(words) if "parts" in within else answer(200, DONE)

    async with raw_server(reply) as server, GeminiDriver("m", base_url=server.url, api_key="") as driver:
        assert (await driver.complete(CompletionRequest(messages=talk))).text == "ok"
    assert len(server.requests) == 2


def test_no_reference_is_left_in_a_schema() -> None:
    """Gemini refuses what stands beside one (anomalyco/opencode#12295)."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"Unit": {"type": "string", "enum": ["c", "f"]}},
        "type": "object",
        "properties": {"unit": {"$ref": "#/$defs/Unit", "default": "c"}},
    }
    tool = ToolDefinition("look", "Look.", schema)
    sent = body(tools=[tool], output_schema=schema)
    plain = {
        "type": "object",
        "properties": {"unit": {"type": "string", "enum": ["c", "f"], "default": "c"}},
    }
    assert sent["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"] == plain
    assert sent["generationConfig"]["responseJsonSchema"] == plain


async def test_calls_of_others_are_marked_as_unsigned_where_signatures_are_asked_for() -> None:
    words = "Function call is missing a thought_signature in functionCall parts. position 2"
    talk: list[ChatMessage] = [
        UserMessage("hi"),
        AssistantMessage("", [ToolCall("a", "look")]),
        ToolMessage("a", "look", ToolResult("x")),
    ]

    def reply(head: str, sent: Any) -> bytes:
        return answer(200, DONE) if "thoughtSignature" in str(sent) else refusal(words)

    async with raw_server(reply) as server, GeminiDriver("m", base_url=server.url, api_key="") as driver:
        assert (await driver.complete(CompletionRequest(messages=talk))).text == "ok"
    assert len(server.requests) == 2


async def test_a_limit_that_is_too_high_is_lowered() -> None:
    words = (
        "Unable to submit request because it has a maxOutputTokens value of 90000 but the supported range"
        " is from 1 (inclusive) to 65537 (exclusive). Update the value and try again."
    )
    bodies, _ = await asked(refusal(words), max_tokens=90_000)
    assert [sent["generationConfig"]["maxOutputTokens"] for sent in bodies] == [90_000, 65_536, 65_536]


async def test_a_temperature_that_is_not_taken_is_left_out() -> None:
    bodies, _ = await asked(refusal("temperature is not supported by this model"), temperature=0.1)
    assert ["temperature" in sent["generationConfig"] for sent in bodies] == [True, False, False]


@pytest.mark.parametrize(
    ("reply", "kind", "wait"),
    [
        (refusal("API key not valid. Please pass a valid API key."), RequestRejectedError, None),
        (refusal("Function calling is not enabled for models/gemma-3-27b-it"), RequestRejectedError, None),
        (
            refusal(
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
            ),
            ContextTooLongError,
            None,
        ),
        (
            refusal(
                "You exceeded your current quota, please check your plan and billing details.",
                429,
                "RESOURCE_EXHAUSTED",
                details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "26s"}],
            ),
            RateLimitedError,
            26,
        ),
        (
            refusal("Resource exhausted. Please try again later.", 429, "RESOURCE_EXHAUSTED"),
            RateLimitedError,
            None,
        ),
        (
            refusal("The model is overloaded. Please try again later.", 503, "UNAVAILABLE"),
            OverloadedError,
            None,
        ),
    ],
)
async def test_each_refusal_is_of_its_kind(reply: bytes, kind: type[Exception], wait: float | None) -> None:
    async with raw_server(reply) as server, GeminiDriver("m", base_url=server.url, api_key="") as driver:
        with pytest.raises(kind) as caught:
            await driver.complete(CompletionRequest(messages=[UserMessage("hi")], tools=[LOOK]))
    assert type(caught.value) is kind
    assert getattr(caught.value, "retry_after", None) == wait
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("end", "place"),
    [
        ("", "/v1beta"),
        ("/", "/v1beta"),
        ("/v1", "/v1"),
        ("/v1beta/models", "/v1beta"),
        ("/a/publishers/google", "/a/publishers/google"),
    ],
)
async def test_the_address_may_have_its_version_or_not(end: str, place: str) -> None:
    async with raw_server(answer(200, DONE)) as server:
        driver = GeminiDriver("models/m", base_url=f"{server.url}{end}?tenant=x", api_key="")
        async with driver:
            await driver.complete(CompletionRequest(messages=[UserMessage("hi")]))
    assert server.requests[0][0].startswith(
        f"POST {place}/models/m:streamGenerateContent?tenant=x&alt=sse HTTP"
    )


async def test_an_error_behind_the_events_is_seen() -> None:
    """It comes as bare JSON, not as an event (vercel/ai#5217)."""
    error = b'{\n  "error": {\n    "code": 503,\n    "message": "The model is overloaded."\n  }\n}\n'
    stop = {"candidates": [{"content": {"parts": [{"text": ""}]}, "finishReason": "STOP"}]}
    async with raw_server(STREAM + sse(stop) + error) as server:
        async with GeminiDriver("m", base_url=server.url, api_key="") as driver:
            with pytest.raises(OverloadedError):
                await driver.complete(CompletionRequest(messages=[UserMessage("hi")]))


async def test_a_stream_that_comes_as_an_array_is_read() -> None:
    """A proxy may drop `alt=sse`."""
    pieces = [{"candidates": [{"content": {"parts": [{"text": "He"}]}}]}, {**DONE}]
    async with raw_server(answer(200, pieces)) as server:
        async with GeminiDriver("m", base_url=server.url, api_key="") as driver:
            completion = await driver.complete(CompletionRequest(messages=[UserMessage("hi")]))
    assert completion.text == "Heok"
