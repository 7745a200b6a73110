"""The small parts of the wire: lines, events, addresses, secrets, bodies, conversations, schemas."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from time import process_time
from typing import Any

import pytest

from agentpool import (
    AssistantMessage,
    CompletionRequest,
    Document,
    Image,
    ProviderData,
    Text,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.text import encodable
from agentpool.drivers._address import address_of, without_end
from agentpool.drivers._chat import ChatDialect, effort_of
from agentpool.drivers._encoding import encoded
from agentpool.drivers._fitting import LOOSE_IDS, SHORT_IDS, Question, clean_name, schema_instruction
from agentpool.drivers._learning import Lessons
from agentpool.drivers._reading import Thoughts
from agentpool.drivers._schemas import strict_schema
from agentpool.drivers._secrets import Redaction, Secret, checked_key
from agentpool.drivers._sse import Lines, SseEvent, SseReader

# -- lines and events --------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_are_the_same_however_the_bytes_come(size: int) -> None:
    data = "\ufeffone\r\ntwo\rthree\n\nfünf\r\n\r\nlast".encode()
    lines = Lines()
    got: list[str] = []
    for start in range(0, len(data), size):
        got += lines.feed(data[start : start + size])
    assert [*got, lines.close()] == ["one", "two", "three", "", "fünf", "", "last"]
    assert lines.close() == ""


def test_bytes_that_are_no_utf_8_cost_one_character() -> None:
    assert Lines().feed(b"a\xffb\n") == ["a\ufffdb"]


def events(*chunks: bytes) -> list[SseEvent]:
    reader = SseReader()
    return [event for chunk in chunks for event in reader.feed(chunk)] + list(reader.close())


def test_events_with_data_are_given_and_no_others() -> None:
    noise = b": comment\n\nretry: 3000\n\nevent: ping\n\ndata:\n\nid: 7\n\nnonsense\n\n"
    assert events(noise, b"event: a\ndata: 1\n\n", noise, b"data:2\ndata: 3\n\n") == [
        SseEvent("1", "a"),
        SseEvent("2\n3"),
    ]


def test_an_event_ends_with_its_json_where_the_blank_line_is_missing() -> None:
    """Some servers end events with one line break; Dify and others say an error as bare JSON in between."""
    assert events(b'data: {"a":1}\ndata: {"b":2}\ndata: [DONE]\n') == [
        SseEvent('{"a":1}'),
        SseEvent('{"b":2}'),
        SseEvent("[DONE]"),
    ]
    assert events(b'data: {"a":\ndata: {}}\n\n') == [SseEvent('{"a":\n{}}')]
    assert events(b'event: x\ndata: {"a":1}\nevent: y\ndata: {}\n\n') == [
        SseEvent('{"a":1}', "x"),
        SseEvent("{}", "y"),
    ]
    assert events(b'data: {"a":1}\nevent: error\n\n') == [SseEvent('{"a":1}', "error")]
    assert events(b'{"a":1}\n{"b":\n{}}\ndata: [DONE]\n\n') == [
        SseEvent('{"a":1}'),
        SseEvent('{"b":\n{}}'),
        SseEvent("[DONE]"),
    ]
    assert events(b'{"error": 1}\nevent: error\ndata: {}\n\n') == [
        SseEvent('{"error": 1}'),
        SseEvent("{}", "error"),
    ]


def test_a_long_line_in_many_pieces_takes_linear_time() -> None:
    piece, pieces = b"x" * 2000, 1000

    def read() -> None:
        lines = Lines()
        for _ in range(pieces):
            lines.feed(piece)
        assert len(lines.feed(b"\n")[0]) == len(piece) * pieces

    def join_with_each() -> None:
        line = b""
        for _ in range(pieces):
            line = line + piece  # copies all that came before

    def seconds(work: Callable[[], None]) -> float:
        begin = process_time()
        work()
        return process_time() - begin

    assert 5 * min(seconds(read) for _ in range(3)) < seconds(join_with_each)


def test_the_last_event_counts_also_without_its_blank_line() -> None:
    assert events(b"data: 1") == [SseEvent("1")]
    assert events(b"data: 1\n") == [SseEvent("1")]
    assert events(b"event: ping\n\ndata: 1\n\n") == [SseEvent("1")]  # a name does not stay


# -- addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "path", "url"),
    [
        ("http://h/v1", "/c", "http://h/v1/c"),
        ("http://h/v1/", "/c", "http://h/v1/c"),
        (" https://h ", "/c", "https://h/c"),
        ("http://h/o/d?api-version=1", "/c", "http://h/o/d/c?api-version=1"),
        ("http://h/o/d/?api-version=1", "/c?alt=sse", "http://h/o/d/c?api-version=1&alt=sse"),
    ],
)
def test_paths_are_joined_before_the_query(given: str, path: str, url: str) -> None:
    assert address_of(given).url(path) == url


def test_a_query_is_added_to_and_never_shown() -> None:
    address = address_of("http://h/v1?key=very-secret-key", {"api-version": "1 2"})
    assert address.url("/c") == "http://h/v1/c?key=very-secret-key&api-version=1+2"
    assert "secret" not in f"{address} {address!r}"
    assert str(address) == "http://h/v1?..."
    assert str(address_of("http://h/v1")) == "http://h/v1"


@pytest.mark.parametrize("url", ["", "h/v1", "ftp://h", "http://", "http://h:notaport", "http://[::1", "h"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a server"):
        address_of(url)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://h/v1/chat/completions", "http://h/v1"),
        ("http://h/v1/chat/completions/?k=v", "http://h/v1?k=v"),
        (
            "http://h/openai/deployments/d/chat/completions?api-version=1",
            "http://h/openai/deployments/d?api-version=1",
        ),
        ("http://h/v1/responses", "http://h/v1"),
        ("http://h/v1/", "http://h/v1"),
        ("http://h/chat", "http://h/chat"),
    ],
)
def test_the_address_of_a_call_is_that_of_its_server(url: str, whole: str) -> None:
    """BerriAI/litellm#8572, sourcegit-scm/sourcegit#1618: what consoles show is what people copy."""
    assert without_end(url, "/chat/completions", "/responses") == whole


def test_passwords_and_fragments_are_refused() -> None:
    with pytest.raises(ValueError, match="user name or password") as caught:
        address_of("http://me:secret@h/v1")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="no part of an address"):
        address_of("http://h/v1#frag")


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:1", True),
        ("http://127.0.0.9", True),
        ("http://[::1]:8", True),
        ("http://h", False),
        ("http://127.0.0.1.evil.org", False),
        ("http://10.0.0.1", False),
    ],
)
def test_which_addresses_are_this_machine(url: str, here: bool) -> None:
    assert address_of(url).is_loopback is here


# -- secrets ---------------------------------------------------------------------------------


def test_keys_are_checked_and_shown_to_nobody() -> None:
    assert checked_key(" key\n", "it").reveal() == "key"
    assert repr(Secret("abc")) == "Secret('...')"
    assert not Secret("")
    with pytest.raises(ValueError, match="it holds a character at position 1 that cannot be sent"):
        checked_key("k\u00e9y", "it")


def test_secrets_are_taken_out_of_texts() -> None:
    redaction = Redaction.of(Secret("sk-abcdef"), "v=1&key=a%2Bb-0123456789abcdef", ["header-secret", "x"])
    assert redaction.text("sk-abcdef a+b-0123456789abcdef header-secret x v=1") == (
        "[redacted] [redacted] [redacted] x v=1"
    )
    assert "sk-abc" not in repr(redaction)


def test_exceptions_are_made_safe_to_keep() -> None:
    class Odd(Exception):
        __slots__ = ()

        @property
        def fixed(self) -> str:
            return ""

    error = Odd("the key sk-abcdef", 7)
    error.request = "sk-abcdef"  # type: ignore[attr-defined]
    try:
        raise error from ValueError("sk-abcdef")
    except Odd:
        pass
    Redaction.of(Secret("sk-abcdef"), "", []).scrub(error)
    assert error.args == ("the key [redacted]", None)
    assert error.request is None  # type: ignore[attr-defined]
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


# -- bodies -----------------------------------------------------------------------------------


def test_what_json_cannot_say_is_sent_nevertheless() -> None:
    circle: list[Any] = []
    circle.append(circle)
    odd = {
        "half \ud83d": "\ud83d\ude00 \udcff",
        3: [math.nan, math.inf, 1.5, True, None, 7],
        "set": {1},
        "other": b"x",
    }
    sent = json.loads(encoded(odd))
    assert sent == {
        "half \ufffd": "\U0001f600 \ufffd",
        "3": [None, None, 1.5, True, None, 7],
        "set": [1],
        "other": "b'x'",
    }
    assert encoded(circle).count(b"[") == 200
    assert encoded({"a": "ü"}) == '{"a":"ü"}'.encode()


def test_text_that_can_be_encoded_stays_as_it_is() -> None:
    text = "as it is ü"
    assert encodable(text) is text


# -- conversations ------------------------------------------------------------------------------


def sent(*messages: Any, lessons: Lessons | None = None, **more: Any) -> dict[str, Any]:
    """Return the body that the chat dialect makes of a conversation."""
    question = Question(CompletionRequest(messages=messages, **more), "m", lessons or Lessons())
    return ChatDialect().body(question, streaming=False)


def called(*ids: str, name: str = "look") -> AssistantMessage:
    return AssistantMessage("", [ToolCall(id, name, {"a": 1}) for id in ids])


def result(id: str, content: Any = "done", *, is_error: bool = False) -> ToolMessage:
    return ToolMessage(id, "look", ToolResult(content, is_error))


def test_what_is_said_in_a_row_is_one_message() -> None:
    body = sent(UserMessage("a"), UserMessage("b"), AssistantMessage("c"), UserMessage("d"), system="s")
    assert [(m["role"], m["content"]) for m in body["messages"]] == [
        ("system", "s"), ("user", "a\n\nb"), ("assistant", "c"), ("user", "d"),
    ]  # fmt: skip


def test_ids_that_come_twice_or_do_not_fit_are_others_and_stay_with_their_results() -> None:
    body = sent(
        UserMessage("a"), called("x", "x"), result("x", "1"), result("x", "2"), called("x"), result("x", "3"),
        called("sp ace"), result("sp ace", "4"),
    )  # fmt: skip
    calls = [call["id"] for m in body["messages"] for call in m.get("tool_calls", ())]
    results = [m["tool_call_id"] for m in body["messages"] if m["role"] == "tool"]
    assert calls == results
    assert len(set(calls)) == 4
    assert all(LOOSE_IDS.pattern.fullmatch(id) for id in calls)
    assert [m["content"] for m in body["messages"] if m["role"] == "tool"] == ["1", "2", "3", "4"]


def test_an_id_that_somebody_else_has_is_not_given_again() -> None:
    body = sent(UserMessage("a"), called("call_2", "call_2"), result("call_2"), result("call_2"))
    calls = [call["id"] for m in body["messages"] for call in m.get("tool_calls", ())]
    assert calls == ["call_2", "call_10002"]


def test_short_ids_have_nine_letters() -> None:
    body = sent(
        UserMessage("a"), called("call_1"), result("call_1"), lessons=Lessons(traits=frozenset({"short_ids"}))
    )
    assert body["messages"][1]["tool_calls"][0]["id"] == "c00000001" == body["messages"][2]["tool_call_id"]
    assert SHORT_IDS.pattern.fullmatch(SHORT_IDS.make(7))


def test_names_are_clean_in_a_history() -> None:
    assert clean_name("search<|channel|>x") == "search_channel_x"
    assert clean_name("") == "unknown"
    body = sent(UserMessage("a"), called("1", name="sea rch"), result("1"))
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "sea_rch"


def test_data_of_this_model_goes_back_and_no_other() -> None:
    def said(provider: str, model: str) -> dict[str, Any]:
        data = ProviderData(provider, model, {"reasoning_content": "hm"})
        call = ToolCall("1", "look", {}, ProviderData(provider, model, {"extra_content": {"s": 1}}))
        message = AssistantMessage("x", [call], "hm", data)
        return sent(UserMessage("a"), message, result("1"))["messages"][1]

    ours = said("openai", "m")
    assert ours["reasoning_content"] == "hm"
    assert ours["tool_calls"][0]["extra_content"] == {"s": 1}
    for foreign in (said("openai", "other"), said("anthropic", "m")):
        assert "reasoning_content" not in foreign
        assert "extra_content" not in foreign["tool_calls"][0]


def test_an_id_that_others_do_not_take_goes_back_to_its_server_with_its_result() -> None:
    """BerriAI/litellm#37849: LiteLLM hides Gemini's signature in it."""
    raw = "call_1__thought__" + "Cs4/+=" * 20

    def ids(model: str, *traits: str) -> tuple[str, str]:
        call = ToolCall(raw, "look", {}, ProviderData("openai", model, {"id": raw}))
        lessons = Lessons(traits=frozenset(traits))
        messages = sent(UserMessage("a"), AssistantMessage("", [call]), result(raw), lessons=lessons)[
            "messages"
        ]
        return messages[1]["tool_calls"][0]["id"], messages[2]["tool_call_id"]

    assert ids("m") == (raw, raw)
    for id, answered in (ids("other"), ids("m", "short_ids"), ids("m", "plain_history")):
        assert id == answered
        assert len(id) <= 64


def test_a_plain_history_holds_nothing_of_the_provider() -> None:
    message = AssistantMessage("x", (), "hm", ProviderData("openai", "m", {"reasoning_content": "hm"}))
    call = ToolCall("1", "look", {}, ProviderData("openai", "m", {"extra_content": 1}))
    body = sent(
        UserMessage("a"), message, UserMessage("b"), AssistantMessage("", [call]), result("1"),
        lessons=Lessons(traits=frozenset({"plain_history"})),
    )  # fmt: skip
    assert "reasoning_content" not in str(body)
    assert "extra_content" not in str(body)


def test_an_empty_message_of_the_model_is_not_sent() -> None:
    body = sent(UserMessage("a"), AssistantMessage(""), UserMessage("b"))
    assert [(m["role"], m["content"]) for m in body["messages"]] == [("user", "a\n\nb")]
    kept = AssistantMessage("", (), "", ProviderData("openai", "m", {"reasoning": "hm"}))
    assert sent(UserMessage("a"), kept)["messages"][1] == {
        "role": "assistant",
        "content": "",
        "reasoning": "hm",
    }


def test_what_the_model_said_in_a_row_is_one_message() -> None:
    kept = ProviderData("openai", "m", {"reasoning": "hm"})
    body = sent(
        UserMessage("a"),
        AssistantMessage("one", (), "", kept),
        AssistantMessage("two"),
        AssistantMessage("", [ToolCall("1", "look")]),
        result("1"),
        AssistantMessage("three"),
    )
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "tool", "assistant"]
    joined = body["messages"][1]
    assert (joined["content"], joined["reasoning"], len(joined["tool_calls"])) == ("one\n\ntwo", "hm", 1)
    body = sent(AssistantMessage("a"), called("1"), called("2"))
    assert [m["role"] for m in body["messages"]] == ["assistant", "tool", "assistant", "tool"]


def test_the_system_prompt_of_a_model_without_one() -> None:
    lessons = Lessons(traits=frozenset({"system_in_user"}))
    assert sent(UserMessage("a"), system="s", lessons=lessons)["messages"] == [
        {"role": "user", "content": "s\n\na"}
    ]
    picture = UserMessage((Image(b"x", "image/png"),))
    first = sent(picture, system="s", lessons=lessons)["messages"][0]
    assert first["content"][0] == {"type": "text", "text": "s"}
    assert sent(AssistantMessage("a"), system="s", lessons=lessons)["messages"][0] == {
        "role": "user",
        "content": "s",
    }


def test_what_is_said_after_a_result_stands_in_it_where_that_was_learned() -> None:
    lessons = Lessons(traits=frozenset({"user_joins_tool"}))
    body = sent(UserMessage("a"), called("1"), result("1"), UserMessage("b"), lessons=lessons)
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "tool"]
    assert body["messages"][2]["content"] == "done\n\nb"


def test_pictures_and_documents() -> None:
    content = (
        Text("see"),
        Image(b"x", "image/png"),
        Image(url="https://h/a.png"),
        Document(b"text", "text/plain", name="a.txt"),
        Document(b"text", "text/plain"),
        Document(b"%PDF", "application/pdf"),
        Document(url="https://h/a.pdf"),
    )
    assert sent(UserMessage(content))["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}},
        {"type": "image_url", "image_url": {"url": "https://h/a.png"}},
        {"type": "text", "text": "a.txt:\ntext"},
        {"type": "text", "text": "text"},
        {
            "type": "file",
            "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        },
        {"type": "text", "text": "[document, https://h/a.pdf]"},
    ]
    two = sent(UserMessage("see"), UserMessage((Image(b"x", "image/png"),)))["messages"]
    assert [part["type"] for part in two[0]["content"]] == ["text", "image_url"]


def test_pictures_in_results_come_behind_all_results() -> None:
    picture = Image(b"x", "image/png")
    body = sent(
        UserMessage("a"), called("1", "2"), result("1", (Text("one"), picture)), result("2", is_error=True),
        UserMessage("b"), lessons=Lessons(traits=frozenset({"user_joins_tool"})),
    )  # fmt: skip
    roles = [m["role"] for m in body["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    assert body["messages"][2]["content"] == "one\n[image/png, 1 bytes]"
    assert body["messages"][3]["content"] == "Error: done"
    assert [part["type"] for part in body["messages"][4]["content"]] == ["text", "image_url", "text"]


def test_what_a_request_says() -> None:
    tool = ToolDefinition("look", "Look.", {"type": "object"})
    body = sent(
        UserMessage("a"), tools=[tool], tool_choice="look", parallel_tool_calls=False, temperature=0.0,
        stop=["x"], reasoning="high", max_tokens=5,
    )  # fmt: skip
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert body["parallel_tool_calls"] is False
    assert (body["temperature"], body["stop"], body["reasoning_effort"]) == (0.0, ["x"], "high")
    assert sent(UserMessage("a"), tools=[tool], tool_choice="required")["tool_choice"] == "required"
    plain = sent(UserMessage("a"), tool_choice="required", parallel_tool_calls=False)
    assert plain.keys() == {"model", "messages", "max_tokens"}  # what is about tools goes with tools only
    assert sent()["messages"] == []
    assert sent(UserMessage(""))["messages"] == [{"role": "user", "content": ""}]


@pytest.mark.parametrize(
    ("reasoning", "effort"),
    [("xhigh", "xhigh"), (0, "none"), (1000, "low"), (4000, "medium"), (9000, "high")],
)
def test_a_budget_for_thinking_is_the_nearest_effort(reasoning: str | int, effort: str) -> None:
    assert effort_of(reasoning) == effort


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def test_a_schema_is_sent_strict_where_it_can_be() -> None:
    said = sent(UserMessage("a"), output_schema=SCHEMA)["response_format"]["json_schema"]
    assert said == {"name": "answer", "schema": {**SCHEMA, "additionalProperties": False}, "strict": True}
    loose = {"type": "object", "properties": {"a": {}}}
    assert sent(UserMessage("a"), output_schema=loose)["response_format"]["json_schema"] == {
        "name": "answer", "schema": loose,
    }  # fmt: skip
    no_strict = sent(UserMessage("a"), output_schema=SCHEMA, lessons=Lessons(traits=frozenset({"no_strict"})))
    assert "strict" not in no_strict["response_format"]["json_schema"]


def test_a_schema_that_is_not_taken_is_asked_for_in_words() -> None:
    lessons = Lessons(frozenset({"response_format"}))
    body = sent(UserMessage("a"), output_schema=SCHEMA, system="s", lessons=lessons)
    assert "response_format" not in body
    assert body["messages"][0]["content"] == schema_instruction("s", SCHEMA)
    assert json.dumps(SCHEMA) in body["messages"][0]["content"]
    assert schema_instruction(schema_instruction("", SCHEMA), SCHEMA) == schema_instruction("", SCHEMA)


def test_a_schema_that_is_not_taken_beside_tools_is_asked_for_in_words_there() -> None:
    """vercel/ai#16540, agno-agi/agno#1065."""
    lessons = Lessons(traits=frozenset({"no_schema_with_tools"}))
    beside = sent(
        UserMessage("a"), output_schema=SCHEMA, lessons=lessons, tools=[ToolDefinition("t", "d", {})]
    )
    assert "response_format" not in beside
    assert json.dumps(SCHEMA) in beside["messages"][0]["content"]
    assert "response_format" in sent(UserMessage("a"), output_schema=SCHEMA, lessons=lessons)


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "string"}, False),
        ({"type": "object"}, True),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "object", "properties": {"b": {}}}},
                "required": ["a"],
            },
            False,
        ),
        ({"type": "object", "additionalProperties": {"type": "string"}}, False),
        ({"type": "object", "properties": {"a": {"allOf": [{}]}}, "required": ["a"]}, False),
        (
            {
                "type": "object",
                "properties": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]}},
                "required": ["a"],
                "$defs": {"b": {"type": "array", "items": {"type": "string"}}},
            },
            True,
        ),
        ({"type": "object", "properties": {"a": {"items": {"not": {}}}}, "required": ["a"]}, False),
        ({"type": "object", "properties": {"a": {"anyOf": [{"not": {}}]}}, "required": ["a"]}, False),
    ],
)  # fmt: skip
def test_which_schemas_can_be_strict(schema: dict[str, Any], strict: bool) -> None:
    assert (strict_schema(schema) is not None) is strict


# -- thoughts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>a < b</think>\n\nyes", "a < b", "yes"),
        (" <thinking>hm</thinking>yes", "hm", "yes"),
        ("<|channel|>analysis<|message|>hm<|end|>yes", "hm", "yes"),
        ("[THINK]hm[/THINK]yes", "hm", "yes"),
        ("<seed:think>hm</seed:think>\nyes", "hm", "yes"),
        ("◁think▷hm◁/think▷yes", "hm", "yes"),
        ("[THIS] is text", "", "[THIS] is text"),
        ("<think></think>yes", "", "yes"),
        ("<think>hm</th", "hm</th", ""),
        ("<think>", "", ""),
        ("<thin air>", "", "<thin air>"),
        ("plain <think>x</think>", "", "plain <think>x</think>"),
        ("", "", ""),
        ("  ", "", "  "),
        ("<think>hm</think>  ", "hm", ""),
    ],
)
def test_thoughts_are_told_from_text_however_they_come(text: str, thought: str, said: str, size: int) -> None:
    thoughts = Thoughts()
    pieces = [
        piece for start in range(0, len(text), size) for piece in thoughts.feed(text[start : start + size])
    ]
    pieces += thoughts.close()
    got = {"ReasoningDelta": "", "TextDelta": ""}
    for piece in pieces:
        got[type(piece).__name__] += piece.text
    assert got == {"ReasoningDelta": thought, "TextDelta": said}


def test_what_says_nothing_but_to_another_model_is_not_sent() -> None:
    paused = AssistantMessage(
        "", provider_data=ProviderData("anthropic", "claude", [{"type": "server_tool_use"}])
    )
    body = sent(UserMessage("a"), paused, UserMessage("b"))
    assert [m["role"] for m in body["messages"]] == ["user"]
