"""A conversation and its tools, made fit for each provider, whatever strangers put into them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from rawserver import answer, raw_server

from agentpool import (
    AssistantMessage,
    CompletionRequest,
    Image,
    OpenAIDriver,
    Text,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.transcript import UNKNOWN_RESULT
from agentpool.drivers._chat import ChatDialect
from agentpool.drivers._dialect import Dialect
from agentpool.drivers._fitting import Question
from agentpool.drivers._gemini_chat import GeminiDialect
from agentpool.drivers._learning import Lessons
from agentpool.drivers._messages import MessagesDialect
from agentpool.drivers._ollama_chat import OllamaDialect
from agentpool.drivers._responses import ResponsesDialect
from agentpool.drivers._schemas import inlined, open_api_schema

DIALECTS: tuple[Dialect, ...] = (
    ChatDialect(),
    ResponsesDialect(),
    MessagesDialect(cache=False),
    GeminiDialect(),
    OllamaDialect(),
)
every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: type(dialect).__name__)


def sent(dialect: Dialect, *messages: Any, lessons: Lessons | None = None, **more: Any) -> dict[str, Any]:
    question = Question(CompletionRequest(messages=messages, **more), "m", lessons or Lessons())
    return dialect.body(question, streaming=False)


def within(data: Any, name: str) -> Iterator[Any]:
    """Give all values of a name, at any depth of JSON data, in their order."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key == name:
                yield value
            yield from within(value, name)
    elif isinstance(data, list):
        for item in data:
            yield from within(item, name)


def calls(*ids: str, name: str = "look") -> AssistantMessage:
    return AssistantMessage("", [ToolCall(id, name, {"a": 1}) for id in ids])


def result(id: str, content: Any = "done", name: str = "look") -> ToolMessage:
    return ToolMessage(id, name, ToolResult(content))


def conversation(body: dict[str, Any]) -> list[dict[str, Any]]:
    return next(body[name] for name in ("messages", "input", "contents") if name in body)


# -- each call has one result ------------------------------------------------------------------------


def kinds(body: dict[str, Any]) -> list[str]:
    """Return what a conversation is made of, call by call and result by result, in any dialect."""
    found: list[str] = []
    for message in conversation(body):
        content = message.get("content")
        blocks = content if isinstance(content, list) else message.get("parts", [])
        for block in [message, *blocks]:
            if block.get("tool_calls"):
                found += ["call"] * len(block["tool_calls"])
            elif "functionCall" in block or block.get("type") in ("tool_use", "function_call"):
                found.append("call")
            elif (
                "functionResponse" in block
                or block.get("type") in ("tool_result", "function_call_output")
                or block.get("role") == "tool"
            ):
                found.append("result")
    return found


@every_dialect
def test_a_call_without_a_result_gets_one_that_says_so(dialect: Dialect) -> None:
    """letta-ai/letta#3308, tidyverse/ellmer#459, github/copilot-cli#3183, strands-agents/harness-sdk#1123."""
    body = sent(dialect, UserMessage("q"), calls("1", "2"), result("2"), UserMessage("go on"))
    assert kinds(body) == ["call", "call", "result", "result"]
    assert "unknown" in json.dumps(body)
    # At the end, and before the model speaks again.
    assert kinds(sent(dialect, UserMessage("q"), calls("1"))) == ["call", "result"]
    body = sent(dialect, UserMessage("q"), calls("1"), calls("2"), result("2"))
    assert kinds(body) == ["call", "result", "call", "result"]


@every_dialect
def test_a_result_that_nobody_asked_for_is_told_as_text(dialect: Dialect) -> None:
    """posit-dev/positron#15719, anthropics/claude-code#3003: refused in each later request."""
    body = sent(dialect, result("lost", "forty-two"), UserMessage("q"))
    assert kinds(body) == []
    assert "A result of look: forty-two" in json.dumps(body)
    body = sent(dialect, UserMessage("q"), calls("1"), result("1"), result("1", "again"), UserMessage("so"))
    assert kinds(body) == ["call", "result"]
    assert "A result of look: again" in json.dumps(body)
    # One that comes late, when the model has spoken since.
    body = sent(dialect, UserMessage("q"), calls("1"), AssistantMessage("hm"), result("1", "late"))
    assert kinds(body) == ["call", "result"]
    assert "A result of look: late" in json.dumps(body)


def test_a_lost_result_keeps_its_files() -> None:
    picture = (Text("see"), Image(url="https://h/a.png"))
    body = sent(ChatDialect(), result("lost", picture))
    assert [part["type"] for part in body["messages"][0]["content"]] == ["text", "text", "image_url"]


def test_results_in_another_order_and_behind_other_words_find_their_calls() -> None:
    body = sent(
        MessagesDialect(cache=False),
        UserMessage("q"),
        calls("1", "2"),
        UserMessage("hurry"),
        result("2", "two"),
        result("1", "one"),
    )
    blocks = body["messages"][2]["content"]
    assert [block.get("tool_use_id") for block in blocks] == ["2", "1", None]
    assert UNKNOWN_RESULT.text not in json.dumps(body)


# -- names -------------------------------------------------------------------------------------------

ODD = ("calendar.read", "calendar_read", "fs/read", "поиск", "", "x" * 70, "x" * 71, "good-name")
TOOLS = [ToolDefinition(name, "d", {"type": "object"}) for name in ODD]


@every_dialect
def test_each_tool_is_offered_by_a_name_of_its_own_that_providers_take(dialect: Dialect) -> None:
    """openai/codex#8174, github/copilot-cli#1879, ayunis-core/ayunis-core#973."""
    body = sent(dialect, UserMessage("q"), calls("1", name="calendar.read"), result("1"), tools=TOOLS)
    names = list(within(body["tools"], "name"))
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
    assert len(set(names)) == len(ODD)
    assert (names[1], names[-1]) == ("calendar_read", "good-name")
    assert names[0] == "calendar_read_2"
    # Nor is there another one in its history.
    history = [*within(conversation(body), "name"), *within(conversation(body), "tool_name")]
    assert set(history) <= {names[0]}


def test_a_choice_names_the_tool_as_it_is_offered() -> None:
    for dialect in DIALECTS:
        body = sent(dialect, UserMessage("q"), tools=TOOLS, tool_choice="fs/read")
        rest = {name: value for name, value in body.items() if name != "tools"}
        assert "fs_read" in json.dumps(rest), type(dialect)
        assert "fs/read" not in json.dumps(rest), type(dialect)


@pytest.mark.parametrize(
    ("called", "own"),
    [
        ("calendar_read_2", "calendar.read"),
        ("calendar_read", "calendar_read"),
        ("calendar.read", "calendar.read"),  # as its instructions may have named it
        ("functions.good-name", "good-name"),
        ("functions.fs_read", "fs/read"),
        ("no_such", "no_such"),
    ],
)
async def test_a_call_comes_back_by_the_tools_own_name(called: str, own: str) -> None:
    pytest.importorskip("httpx2")
    said = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": called, "arguments": "{}"}}]}
    whole = {"choices": [{"index": 0, "message": said, "finish_reason": "tool_calls"}]}
    async with raw_server(answer(200, whole)) as server:
        async with OpenAIDriver("m", base_url=server.url, api_key="") as driver:
            request = CompletionRequest(messages=[UserMessage("q")], tools=TOOLS)
            assert [call.name for call in (await driver.complete(request)).tool_calls] == [own]


# -- schemas ---------------------------------------------------------------------------------------------

ODD_SCHEMAS: dict[str, Any] = {
    "nothing (enechange/collmbo#384)": {},
    "no properties (bnb-chain/bnbchain-mcp#68)": {"type": "object"},
    "null": {"type": "object", "properties": None, "required": None, "description": None},
    "an array of what? (openai/openai-agents-python#392, ogx-ai/ogx#3004)": {
        "type": "object",
        "properties": {"a": {"type": "array"}, "b": {"type": ["array", "null"]}},
    },
    "places of an array, the new way": {
        "type": "object",
        "properties": {"a": {"type": "array", "prefixItems": [{"type": "integer"}, True]}},
    },
    "places of an array, the old way": {
        "type": "object",
        "properties": {"a": {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}},
    },
    "required, the old way": {"type": "object", "properties": {"a": {"required": True}}, "required": False},
    "true and false": {"type": "object", "properties": {"a": True, "b": False, "c": {"items": True}}},
    "alternatives of nothing": {
        "type": "object",
        "properties": {"a": {"anyOf": None}, "b": {"anyOf": []}, "c": {"allOf": []}, "d": {"enum": []}},
    },
    "alternatives on top": {"anyOf": [True, {"type": "object", "properties": None}]},
    "names that are numbers": {"type": "object", "properties": {1: {"type": "string"}}},
    "keywords of nothing": {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": None, "format": None, "minLength": None}},
    },
    "a type of nothing": {"type": None, "properties": {"a": {"type": None}, "b": {"type": []}}},
    "no object at all": {"type": "array", "items": {"type": "string"}},
    "references to nothing": {
        "type": "object",
        "properties": {"a": {"$ref": "#/no/such"}, "b": {"$ref": "x.json"}},
    },
    "itself": {"type": "object", "properties": {"a": {"$ref": "#"}}},
}


@pytest.mark.parametrize("schema", ODD_SCHEMAS.values(), ids=ODD_SCHEMAS.keys())
@every_dialect
def test_an_odd_schema_of_a_tool_never_stops_a_request(dialect: Dialect, schema: Any) -> None:
    body = sent(dialect, UserMessage("q"), tools=[ToolDefinition("t", "d", schema)])
    tool = body["tools"][0]
    found = [
        parameters
        for name in ("parameters", "input_schema", "parametersJsonSchema")
        for parameters in within(tool, name)
    ]
    assert len(found) == 1
    assert found[0]["type"] == "object"
    assert isinstance(found[0]["properties"], dict)
    if not isinstance(dialect, OllamaDialect):  # which passes over what it does not know
        for table in within(found, "properties"):
            assert all("items" in item for item in table.values() if item.get("type") == "array")
    if isinstance(dialect, GeminiDialect):
        old = Lessons(traits=frozenset({"old_schemas"}))
        sent(dialect, UserMessage("q"), tools=[ToolDefinition("t", "d", schema)], lessons=old)


@pytest.mark.parametrize("schema", ODD_SCHEMAS.values(), ids=ODD_SCHEMAS.keys())
@every_dialect
def test_an_odd_schema_of_an_answer_never_stops_a_request(dialect: Dialect, schema: Any) -> None:
    sent(dialect, UserMessage("q"), output_schema=schema)
    if isinstance(dialect, GeminiDialect):
        old = Lessons(traits=frozenset({"old_schemas"}))
        sent(dialect, UserMessage("q"), output_schema=schema, lessons=old)


def test_what_is_needed_and_not_there_is_not_sent_to_the_older_api() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a", "b"]}
    assert open_api_schema(schema)["required"] == ["a"]
    assert "required" not in open_api_schema({**schema, "required": ["b"]})


def test_schemas_that_contain_each_other_come_to_an_end() -> None:
    """Each of ten contains all others: written out they are 10! schemas, and the loop stands still."""
    names = [f"N{number}" for number in range(10)]
    properties = {name: {"$ref": f"#/$defs/{name}"} for name in names}
    defs = {name: {"type": "object", "properties": properties} for name in names}
    whole = inlined({"$ref": "#/$defs/N0", "$defs": defs})
    assert len(json.dumps(whole)) < 1_000_000
    assert "$ref" not in json.dumps(whole)


def test_a_tool_is_looked_at_once() -> None:
    tool = ToolDefinition("t", "d", {"type": "object", "properties": None})
    assert tool.sound_schema is tool.sound_schema
    assert attrs.evolve(tool, name="u").sound_schema == {"type": "object"}
