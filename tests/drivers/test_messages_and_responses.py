"""Anthropic's messages and OpenAI's responses: what is sent, and what odd answers become."""

from __future__ import annotations

from typing import Any

import corpus_messages
import corpus_responses
import pytest
from corpus_chat import Odd
from test_corpus_chat import LOOK, QUESTION, check

from agentpool import (
    AssistantMessage,
    Completion,
    CompletionRequest,
    Document,
    Image,
    ProviderData,
    RequestRejectedError,
    Text,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.messages import TextDelta
from agentpool.drivers._dialect import Dialect
from agentpool.drivers._fitting import Question, schema_instruction
from agentpool.drivers._learning import Lessons
from agentpool.drivers._messages import MessagesDialect
from agentpool.drivers._responses import ResponsesDialect
from agentpool.drivers._schemas import closed_schema

CLAUDE: Dialect = MessagesDialect()
RESPONSES: Dialect = ResponsesDialect()

WHOLE = [(CLAUDE, odd) for odd in corpus_messages.WHOLE] + [
    (RESPONSES, odd) for odd in corpus_responses.WHOLE
]
STREAMS = [(CLAUDE, odd) for odd in corpus_messages.STREAMS] + [
    (RESPONSES, odd) for odd in corpus_responses.STREAMS
]


def name_of(value: Any) -> str:
    return value.why if isinstance(value, Odd) else type(value).__name__


@pytest.mark.parametrize(("dialect", "odd"), WHOLE, ids=name_of)
def test_a_whole_answer(dialect: Dialect, odd: Odd) -> None:
    check(odd, lambda: dialect.completion(odd.came, QUESTION))


@pytest.mark.parametrize(("dialect", "odd"), STREAMS, ids=name_of)
def test_a_stream(dialect: Dialect, odd: Odd) -> None:
    deltas: list[str] = []

    def read() -> Completion:
        reader = dialect.reader(QUESTION)
        for piece in odd.came:
            deltas.extend(delta.text for delta in reader.feed(piece, "") if isinstance(delta, TextDelta))
        return reader.completion()

    completion = check(odd, read)
    if completion is not None and deltas:
        assert "".join(deltas) == completion.text


# -- what is sent -------------------------------------------------------------------------------


def sent(dialect: Dialect, *messages: Any, lessons: Lessons | None = None, **more: Any) -> dict[str, Any]:
    question = Question(CompletionRequest(messages=messages, **more), "m", lessons or Lessons())
    return dialect.body(question, streaming=False)


def called(*ids: str, data: Any = None, provider: str = "anthropic") -> AssistantMessage:
    kept = None if data is None else ProviderData(provider, "m", data)
    return AssistantMessage("", [ToolCall(id, "look", {"a": 1}) for id in ids], "", kept)


def result(id: str, content: Any = "done", *, is_error: bool = False) -> ToolMessage:
    return ToolMessage(id, "look", ToolResult(content, is_error))


THOUGHT = corpus_messages.THOUGHT
PICTURE = Image(b"x", "image/png")
FILES = (
    Text("see"),
    PICTURE,
    Image(url="https://h/a.png"),
    Document(b"text", "text/plain", name="a.txt"),
    Document(b"%PDF", "application/pdf"),
    Document(url="https://h/a.pdf"),
    Document(b"x", "application/zip"),
)


def test_claude_is_asked_with_cache_points_on_prompt_tools_and_the_last_turns() -> None:
    body = sent(
        CLAUDE, UserMessage("a"), called("1"), result("1"), called("2"), result("2"), system="s", tools=[LOOK]
    )
    point = {"cache_control": {"type": "ephemeral"}}
    assert body["system"] == [{"type": "text", "text": "s", **point}]
    assert body["tools"][-1]["cache_control"] == point["cache_control"]
    marked = ["cache_control" in block for message in body["messages"] for block in message["content"]]
    assert marked == [False, False, True, False, True]
    assert str(body).count("ephemeral") == 4  # more than four are refused


@pytest.mark.parametrize("plain", ["switched off", "learned"])
def test_claude_without_cache_points(plain: str) -> None:
    lessons = Lessons(traits=frozenset({"no_cache_points"}) if plain == "learned" else frozenset())
    body = sent(
        MessagesDialect(cache=plain == "learned"), UserMessage("a"), system="s", tools=[LOOK], lessons=lessons
    )
    assert "cache_control" not in str(body)
    assert body["system"] == "s"


def test_the_path_of_claude_depends_on_the_address() -> None:
    assert MessagesDialect("/v1").path(QUESTION, streaming=True) == "/v1/messages"
    assert MessagesDialect("").path(QUESTION, streaming=False) == "/messages"


def test_signed_thoughts_go_back_unchanged_and_in_their_place() -> None:
    kept = [THOUGHT, {"type": "text", "text": "a"}, {"type": "tool_use"}, THOUGHT, {"type": "tool_use"}]
    message = AssistantMessage(
        "a", [ToolCall("1", "look"), ToolCall("1", "look")], "", ProviderData("anthropic", "m", kept)
    )
    said = sent(CLAUDE, UserMessage("q"), message, result("1"), result("1"))["messages"][1]["content"]
    assert [block["type"] for block in said] == ["thinking", "text", "tool_use", "thinking", "tool_use"]
    assert said[0] == THOUGHT
    assert said[2]["id"] != said[4]["id"]


def test_thoughts_come_first_where_the_message_is_no_longer_as_it_was() -> None:
    kept = [{"type": "text", "text": "other"}, THOUGHT, {"type": "tool_use"}]
    message = AssistantMessage("a", [ToolCall("1", "look")], "", ProviderData("anthropic", "m", kept))
    said = sent(CLAUDE, UserMessage("q"), message, result("1"))["messages"][1]["content"]
    assert [block["type"] for block in said] == ["thinking", "text", "tool_use"]


def test_claude_gets_results_before_what_is_said_and_no_empty_text() -> None:
    body = sent(
        CLAUDE,
        UserMessage("a"),
        UserMessage(" "),
        called("1", "2"),
        result("1", (Text("one"), PICTURE)),
        result("2", "", is_error=True),
        UserMessage("b"),
    )
    first, _, last = body["messages"]
    assert [block["text"] for block in first["content"]] == ["a"]
    assert [block["type"] for block in last["content"]] == ["tool_result", "tool_result", "text"]
    assert [block["type"] for block in last["content"][0]["content"]] == ["text", "image"]
    assert last["content"][1]["is_error"]
    assert "content" not in last["content"][1]


def test_a_conversation_that_claude_began_gets_a_beginning() -> None:
    body = sent(CLAUDE, AssistantMessage("a"), UserMessage("b"))
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert sent(CLAUDE, UserMessage(" "))["messages"][0]["role"] == "user"


def test_files_for_claude() -> None:
    blocks = sent(MessagesDialect(cache=False), UserMessage(FILES))["messages"][0]["content"]
    assert blocks == [
        {"type": "text", "text": "see"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}},
        {"type": "image", "source": {"type": "url", "url": "https://h/a.png"}},
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "text"},
            "title": "a.txt",
        },
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
        },
        {"type": "document", "source": {"type": "url", "url": "https://h/a.pdf"}},
        {"type": "text", "text": "[application/zip, 1 bytes]"},
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "said"),
    [
        (None, True, None),
        ("auto", True, {"type": "auto"}),
        ("required", True, {"type": "any"}),
        ("none", False, {"type": "none"}),
        ("look", True, {"type": "tool", "name": "look"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
    ],
)
def test_the_choice_of_tools_for_claude(choice: str | None, parallel: bool, said: Any) -> None:
    body = sent(CLAUDE, UserMessage("a"), tools=[LOOK], tool_choice=choice, parallel_tool_calls=parallel)
    assert body.get("tool_choice") == said


def thinking(reasoning: Any, *traits: Any, **more: Any) -> tuple[Any, Any]:
    lessons = Lessons(traits=frozenset(traits))
    body = sent(
        CLAUDE, UserMessage("a"), reasoning=reasoning, temperature=1.5, tools=[LOOK], lessons=lessons, **more
    )
    assert ("temperature" in body) is (body.get("thinking", {}).get("type") not in ("enabled", "adaptive"))
    if "temperature" in body:
        assert body["temperature"] == 1.0
    return body.get("thinking"), body.get("output_config")


def test_how_much_claude_thinks() -> None:
    adaptive = {"type": "adaptive"}
    assert thinking(None) == (None, None)
    assert thinking(0) == thinking("none") == ({"type": "disabled"}, None)
    assert thinking("low") == (adaptive, {"effort": "low"})
    assert thinking(2000) == ({"type": "enabled", "budget_tokens": 2000}, None)
    assert thinking(10, max_tokens=4096) == ({"type": "enabled", "budget_tokens": 1024}, None)
    # Thoughts are output, and output is bounded by max_tokens.
    assert thinking(9000, max_tokens=4096) == ({"type": "enabled", "budget_tokens": 4095}, None)
    assert thinking(9000, max_tokens=1000) == (None, None)
    assert thinking("low", "budget_thinking") == ({"type": "enabled", "budget_tokens": 2048}, None)
    assert thinking("odd", "budget_thinking", max_tokens=9000)[0] == {
        "type": "enabled",
        "budget_tokens": 8192,
    }
    assert thinking(2000, "adaptive_thinking") == (adaptive, None)
    assert thinking("low", tool_choice="required") == (None, None)


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}


def test_a_schema_for_claude() -> None:
    native = sent(CLAUDE, UserMessage("a"), output_schema=SCHEMA, reasoning="low")
    assert native["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": {**SCHEMA, "additionalProperties": False}},
    }
    for schema, lessons in (
        ({"type": "array"}, Lessons()),
        (SCHEMA, Lessons(frozenset({"output_config.format"}))),
        (SCHEMA, Lessons(frozenset({"output_config"}))),
    ):
        body = sent(CLAUDE, UserMessage("a"), output_schema=schema, lessons=lessons)
        assert "output_config" not in body
        assert body["system"][0]["text"] == schema_instruction("", schema)


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        (SCHEMA, True),
        ({"type": "object", "additionalProperties": {"type": "string"}}, False),
        ({"type": "object", "properties": {"a": {"type": "object", "additionalProperties": True}}}, False),
        (
            {
                "type": "object",
                "properties": {"a": {"anyOf": [{"type": "object", "additionalProperties": {}}, {}]}},
            },
            True,
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"items": {"type": "object", "additionalProperties": True}}},
            },
            False,
        ),
        ({"type": "string"}, False),
    ],
)
def test_which_schemas_can_be_closed(schema: dict[str, Any], closed: bool) -> None:
    assert (closed_schema(schema) is not None) is closed


def test_stop_strings_of_white_space_are_not_for_claude() -> None:
    assert sent(CLAUDE, UserMessage("a"), stop=["\n", "END"])["stop_sequences"] == ["END"]
    assert "stop_sequences" not in sent(CLAUDE, UserMessage("a"), stop=["\n"])


# -- responses --------------------------------------------------------------------------------------


def test_what_a_response_is_asked_for() -> None:
    body = sent(
        RESPONSES,
        UserMessage("a"),
        system="s",
        tools=[LOOK],
        tool_choice="look",
        parallel_tool_calls=False,
        temperature=0.5,
        reasoning=0,
        output_schema={"type": "object"},
    )
    assert (body["instructions"], body["temperature"], body["store"]) == ("s", 0.5, False)
    assert body["tool_choice"] == {"type": "function", "name": "look"}
    assert body["parallel_tool_calls"] is False
    assert body["reasoning"] == {"effort": "none", "summary": "auto"}
    assert body["text"]["format"]["strict"] is True
    assert body["input"] == [{"role": "user", "content": "a"}]
    assert (
        sent(RESPONSES, UserMessage("a"), tools=[LOOK], tool_choice="required")["tool_choice"] == "required"
    )
    loose = sent(RESPONSES, UserMessage("a"), output_schema=SCHEMA)
    assert loose["text"]["format"] == {
        "type": "json_schema",
        "name": "answer",
        "schema": SCHEMA,
        "strict": False,
    }
    no_strict = Lessons(traits=frozenset({"no_strict"}))
    strict = sent(RESPONSES, UserMessage("a"), output_schema={"type": "object"}, lessons=no_strict)
    assert strict["text"]["format"]["strict"] is False
    worded = sent(
        RESPONSES, UserMessage("a"), output_schema=SCHEMA, lessons=Lessons(frozenset({"text.format"}))
    )
    assert worded["instructions"] == schema_instruction("", SCHEMA)
    assert "text" not in worded


def test_a_response_knows_no_stop_strings() -> None:
    with pytest.raises(RequestRejectedError, match="stop strings"):
        sent(RESPONSES, UserMessage("a"), stop=["x"])


def test_thoughts_of_a_response_go_back_with_what_followed_them() -> None:
    thought, message = corpus_responses.THOUGHT, corpus_responses.said("a")
    kept = [thought, message, {"type": "function_call"}]
    said = AssistantMessage("a", [ToolCall("1", "look")], "hm", ProviderData("openai-responses", "m", kept))
    items = sent(RESPONSES, UserMessage("q"), said, result("1"))["input"]
    assert items[1:3] == [thought, message]
    assert items[3] == {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"}
    assert items[4] == {"type": "function_call_output", "call_id": "1", "output": "done"}
    for changed in (
        AssistantMessage("other", said.tool_calls, "", said.provider_data),
        AssistantMessage("a", (), "", said.provider_data),
        AssistantMessage("a", said.tool_calls, "", ProviderData("openai-responses", "other", kept)),
    ):
        assert thought not in sent(RESPONSES, UserMessage("q"), changed)["input"]


def test_files_of_a_response() -> None:
    content = sent(RESPONSES, UserMessage(FILES))["input"][0]["content"]
    assert content == [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "data:image/png;base64,eA=="},
        {"type": "input_image", "image_url": "https://h/a.png"},
        {"type": "input_text", "text": "a.txt:\ntext"},
        {
            "type": "input_file",
            "filename": "document.pdf",
            "file_data": "data:application/pdf;base64,JVBERg==",
        },
        {"type": "input_file", "file_url": "https://h/a.pdf"},
        {"type": "input_text", "text": "[application/zip, 1 bytes]"},
    ]
    items = sent(
        RESPONSES,
        UserMessage(""),
        called("1", "2"),
        result("1", (PICTURE,)),
        result("2", "no", is_error=True),
        UserMessage("b"),
    )["input"]
    assert items[0] == {"role": "user", "content": ""}
    assert items[3]["output"] == [{"type": "input_image", "image_url": "data:image/png;base64,eA=="}]
    assert items[4]["output"] == "Error: no"
    assert items[5] == {"role": "user", "content": "b"}
