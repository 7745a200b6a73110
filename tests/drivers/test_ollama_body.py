"""What Ollama is asked, and what is learned of its refusals."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from rawserver import answer, raw_server

from agentpool import (
    AssistantMessage,
    Completion,
    CompletionRequest,
    Document,
    Image,
    OllamaDriver,
    ProviderData,
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
from agentpool.drivers._learning import Lessons
from agentpool.drivers._ollama_chat import OllamaDialect, placed
from agentpool.drivers._schemas import for_ollama

LOOK = ToolDefinition("look", "Look.", {"type": "object", "properties": {"path": {"type": "string"}}})
SAY = ToolDefinition("say", "Say.", {"type": "object"})
DONE = {"model": "m", "message": {"role": "assistant", "content": "ok"}, "done": True, "done_reason": "stop"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def body(*messages: ChatMessage, lessons: Lessons | None = None, **more: Any) -> dict[str, Any]:
    request = CompletionRequest(messages=messages or [UserMessage("hi")], **more)
    return OllamaDialect(8192).body(Question(request, "m", lessons or Lessons()), streaming=False)


def test_a_plain_question() -> None:
    assert body(system="Be brief.", temperature=0.5, stop=("END",), max_tokens=9) == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "stream": False,
        "truncate": False,
        "shift": False,
        "options": {"num_predict": 9, "temperature": 0.5, "stop": ["END"], "num_ctx": 8192},
    }


def test_a_conversation_with_calls_and_thoughts_goes_back() -> None:
    kept = ProviderData("ollama", "m", {"thinking": "hm"})
    signed = ProviderData("ollama", "m", {"call": {"thought_signature": "s"}, "function": {"x": 1}})
    calls = [ToolCall("a", "look", {"path": "x"}, signed), ToolCall("b", "say")]
    sent = body(
        UserMessage("hi"),
        AssistantMessage("I look.", calls, "hm", kept),
        ToolMessage("a", "look", ToolResult("seen")),
        ToolMessage("b", "say", ToolResult("no", is_error=True)),
        UserMessage("and?"),
    )["messages"]
    assert sent[1] == {
        "role": "assistant",
        "content": "I look.",
        "thinking": "hm",
        "tool_calls": [
            {
                "thought_signature": "s",
                "id": "a",
                "function": {"x": 1, "name": "look", "arguments": {"path": "x"}},
            },
            {"id": "b", "function": {"name": "say", "arguments": {}}},
        ],
    }
    assert sent[2:] == [
        {"role": "tool", "tool_name": "look", "tool_call_id": "a", "content": "seen"},
        {"role": "tool", "tool_name": "say", "tool_call_id": "b", "content": "Error: no"},
        {"role": "user", "content": "and?"},
    ]


def test_what_other_models_thought_stays_behind() -> None:
    for other in (
        ProviderData("openai", "m", {"thinking": "x"}),
        ProviderData("ollama", "n", {"thinking": "x"}),
    ):
        assert "thinking" not in body(AssistantMessage("a", (), "x", other), UserMessage("hi"))["messages"][0]


def test_pictures_go_beside_the_text_and_documents_into_it() -> None:
    picture = base64.b64encode(b"png").decode()
    parts = (
        Text("See:"),
        Image(b"png", "image/png"),
        Image(url=f"data:image/png;base64,{picture}"),
        Image(url="https://example.com/a.png"),
        Document(b"words", "text/plain", name="a.txt"),
        Document(b"%PDF", "application/pdf", name="a.pdf"),
    )
    (sent,) = body(UserMessage(parts))["messages"]
    assert sent["images"] == [picture, picture]
    assert sent["content"] == (
        "See:\n[image, https://example.com/a.png]\na.txt:\nwords\n[a.pdf, application/pdf, 4 bytes]"
    )


def test_a_picture_in_a_result_comes_behind_it() -> None:
    result = ToolResult((Text("a shot"), Image(b"png", "image/png")))
    sent = body(AssistantMessage("", [ToolCall("a", "look")]), ToolMessage("a", "look", result))["messages"]
    assert sent[1]["content"] == "a shot\n[image/png, 3 bytes]"
    assert sent[2]["role"] == "user"
    assert sent[2]["images"] == [base64.b64encode(b"png").decode()]


def test_a_conversation_without_a_word_of_the_user_has_an_empty_one() -> None:
    assert body(UserMessage(""))["messages"] == [{"role": "user", "content": ""}]


@pytest.mark.parametrize(
    ("reasoning", "think"),
    [
        (0, False),
        (2000, True),
        ("none", False),
        ("low", "low"),
        ("high", "high"),
        ("minimal", "low"),
        ("on", True),
    ],
)
def test_how_much_it_thinks(reasoning: Any, think: Any) -> None:
    assert body(reasoning=reasoning)["think"] == think
    assert "think" not in body()


def test_a_model_that_knows_no_efforts_thinks_or_not() -> None:
    assert body(reasoning="low", lessons=Lessons(traits=frozenset({"plain_thinking"})))["think"] is True


def test_an_answer_of_a_schema_is_a_grammar_unless_there_are_tools() -> None:
    assert body(output_schema=SCHEMA)["format"] == SCHEMA
    prompted = body(output_schema=SCHEMA, tools=[LOOK])
    assert "format" not in prompted
    assert '"integer"' in prompted["messages"][0]["content"]
    learned = body(output_schema=SCHEMA, lessons=Lessons(dropped=frozenset({"format"})))
    assert "format" not in learned
    assert '"integer"' in learned["messages"][0]["content"]


def test_which_tools_it_may_call() -> None:
    def offered(choice: str | None, **more: Any) -> tuple[list[str], str]:
        sent = body(tools=[LOOK, SAY], tool_choice=choice, **more)
        system = next((m["content"] for m in sent["messages"] if m["role"] == "system"), "")
        return [tool["function"]["name"] for tool in sent.get("tools", ())], system

    assert offered(None) == offered("auto") == (["look", "say"], "")
    assert offered("none") == ([], "")
    assert offered("say") == (["say"], "Answer with a call of the tool say.")
    assert offered("required") == (["look", "say"], "Answer with a call of one of the tools.")
    assert offered(None, parallel_tool_calls=False)[1] == "Call one tool at a time."


def test_options_find_their_place() -> None:
    assert placed({"seed": 1, "keep_alive": "5m", "options": {"top_k": 3}}) == {
        "keep_alive": "5m",
        "options": {"top_k": 3, "seed": 1},
    }
    assert placed({"think": False}) == {"think": False}


# -- schemas


def test_a_schema_says_all_in_the_words_that_ollama_passes_on() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    sent = for_ollama(
        {
            "$defs": {"Unit": {"enum": ["c", "f"]}, "Node": node},
            "properties": {
                "unit": {"$ref": "#/$defs/Unit", "default": "c"},
                "days": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
                "at": {"oneOf": [{"type": "string", "minLength": 1}, {"type": "number"}]},
                "kind": {"const": 7},
                "any": {},
                "whole": {"allOf": [{"$ref": "#/$defs/Unit"}], "description": "It."},
                "both": {"allOf": [node, {"properties": {"x": {"type": "string"}}, "required": ["x"]}]},
                "tree": {"$ref": "#/$defs/Node"},
                "pair": {"prefixItems": [{"type": "string"}]},
                "map": {"additionalProperties": {"type": "integer"}},
                "lost": {"$ref": "#/$defs/Nobody"},
                "list": {"items": {"$ref": "#/$defs/Unit"}},
                "mixed": {"enum": ["a", 1]},
                "many": {"type": ["string", "null"], "maxLength": 3, "description": "Text."},
                "yes": True,
            },
            "required": ["unit"],
        }
    )
    found = sent["properties"]
    anything = ["string", "number", "boolean", "object", "array", "null"]
    assert sent["type"] == "object"
    assert sent["required"] == ["unit"]
    assert found["unit"] == {"type": "string", "enum": ["c", "f"], "description": '(default "c")'}
    assert found["days"] == {"type": ["integer", "null"]}
    assert found["at"]["anyOf"] == [
        {"type": "string", "description": "(at least 1 characters)"},
        {"type": "number"},
    ]
    assert found["kind"] == {"type": "integer", "enum": [7]}
    assert found["any"] == found["lost"] == found["yes"] == {"type": anything}
    assert found["whole"] == {"type": "string", "enum": ["c", "f"], "description": "It."}
    assert found["both"]["properties"].keys() == {"next", "x"}
    assert found["tree"]["properties"]["next"] == {"type": "object", "description": "like Node"}
    assert found["pair"]["type"] == "array"
    assert found["map"] == {"type": "object", "description": 'each value is {"type": "integer"}'.join("()")}
    assert found["list"]["items"]["enum"] == ["c", "f"]
    assert found["mixed"]["type"] == ["string", "integer"]
    assert found["many"] == {"type": ["string", "null"], "description": "Text. (at most 3 characters)"}
    assert for_ollama({}) == {"type": "object", "properties": {}}


# -- the driver


@pytest.mark.parametrize("end", ["", "/", "/v1", "/api", "/api/chat", "/v1/"])
async def test_any_form_of_the_address_leads_to_the_api(end: str) -> None:
    async with raw_server(answer(200, DONE)) as server:
        async with OllamaDriver("m", base_url=server.url + end, query={"tenant": "x"}) as driver:
            await driver.complete(CompletionRequest(messages=[UserMessage("hi")]))
    assert server.requests[0][0].startswith("POST /api/chat?tenant=x HTTP")


async def asked_twice(refusal: dict[str, Any], **more: Any) -> tuple[list[Any], Completion]:
    """Ask twice a server that refuses the first request; return all bodies, and the last answer."""

    def reply(head: str, sent: Any) -> bytes:
        return answer(400, refusal) if len(server.requests) == 1 else answer(200, DONE)

    async with raw_server(reply) as server, OllamaDriver("m", base_url=server.url) as driver:
        request = CompletionRequest(messages=[UserMessage("hi")], **more)
        await driver.complete(request)
        completion = await driver.complete(request)
    return [sent for _, sent in server.requests], completion


async def test_a_model_that_does_not_think_is_not_asked_to() -> None:
    bodies, _ = await asked_twice({"error": '"m" does not support thinking'}, reasoning="low")
    assert ["think" in sent for sent in bodies] == [True, False, False]


async def test_a_model_without_efforts_is_asked_to_think() -> None:
    bodies, _ = await asked_twice(
        {"error": 'think value "low" is not supported for this model'}, reasoning="low"
    )
    assert [sent["think"] for sent in bodies] == ["low", True, True]


async def test_a_setting_within_the_options_is_learned_away() -> None:
    bodies, _ = await asked_twice({"error": "unknown option: temperature"}, temperature=0.5)
    assert ["temperature" in sent["options"] for sent in bodies] == [True, False, False]
    assert all("num_predict" in sent["options"] for sent in bodies)


async def test_what_a_user_gave_by_hand_is_not_learned_away() -> None:
    refusal = answer(400, {"error": "unknown option: temperature"})
    async with raw_server(refusal) as server:
        async with OllamaDriver("m", base_url=server.url, options={"temperature": 1}) as driver:
            with pytest.raises(RequestRejectedError, match="temperature"):
                await driver.complete(CompletionRequest(messages=[UserMessage("hi")], temperature=0.5))
    assert len(server.requests) == 1


async def test_a_model_without_tools_is_an_error_that_says_so() -> None:
    words = "registry.ollama.ai/library/gemma:2b does not support tools"
    async with raw_server(answer(400, {"error": words})) as server:
        async with OllamaDriver("m", base_url=server.url) as driver:
            with pytest.raises(RequestRejectedError, match="does not support tools"):
                await driver.complete(CompletionRequest(messages=[UserMessage("hi")], tools=[LOOK]))
    assert len(server.requests) == 1


async def test_options_of_the_driver_and_of_a_request_are_merged() -> None:
    async with raw_server(answer(200, DONE)) as server:
        options = {"seed": 1, "num_ctx": 4096, "keep_alive": "5m"}
        async with OllamaDriver("m", base_url=server.url, options=options) as driver:
            assert driver.context_window == 4096
            await driver.complete(CompletionRequest(messages=[UserMessage("hi")], options={"seed": 2}))
    sent = server.requests[0][1]
    assert sent["keep_alive"] == "5m"
    assert sent["options"] == {"num_predict": 4096, "num_ctx": 4096, "seed": 2}


async def test_the_models_of_a_server() -> None:
    models = {"models": [{"name": "a:1", "model": "a:1"}, {"name": "b"}, {}, None]}
    async with raw_server(answer(200, models)) as server:
        async with OllamaDriver("m", base_url=server.url) as driver:
            assert await driver.list_models() == ("a:1", "b")
    assert server.requests[0][0].startswith("GET /api/tags HTTP")


async def test_lines_in_the_name_of_another_type_are_read_nevertheless() -> None:
    import json

    pieces = [{**DONE, "message": {"content": "He"}, "done": False}, {**DONE, "message": {"content": "y"}}]
    data = "".join(json.dumps(piece) + "\n" for piece in pieces).encode()
    async with raw_server(answer(200, data)) as server, OllamaDriver("m", base_url=server.url) as driver:
        completion = await driver.complete(CompletionRequest(messages=[UserMessage("hi")]))
    assert completion.text == "Hey"
