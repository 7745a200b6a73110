from __future__ import annotations

import json
import math
from typing import Any

import pytest

from agentpool import AssistantMessage, Image, ToolCall, ToolMessage, ToolResult, UserMessage
from agentpool._core.plain_json import plain_json
from agentpool._core.transcript import Transcript
from agentpool._core.transcript_data import message_data, transcript_data


def test_a_conversation_is_told_message_by_message() -> None:
    call = ToolCall("c1", "read_file", {"path": "a.txt"})
    transcript = Transcript(
        [
            UserMessage("What is in a.txt?"),
            AssistantMessage("I look.", (call,)),
            ToolMessage("c1", "read_file", ToolResult("no such file", is_error=True)),
            AssistantMessage("Nothing."),
        ]
    )
    assert transcript_data(transcript) == [
        {"role": "user", "kind": "query", "text": "What is in a.txt?"},
        {
            "role": "assistant",
            "text": "I look.",
            "calls": [{"id": "c1", "name": "read_file", "input": {"path": "a.txt"}}],
        },
        {"role": "tool", "name": "read_file", "call": "c1", "text": "no such file", "error": True},
        {"role": "assistant", "text": "Nothing.", "calls": []},
    ]


def test_the_kinds_of_what_a_user_says_are_told() -> None:
    assert [
        each["kind"] for each in transcript_data([UserMessage("a", "recall"), UserMessage("b", "note")])
    ] == [
        "recall",
        "note",
    ]


def test_thoughts_and_calls_that_could_not_be_read_are_told() -> None:
    data = message_data(
        AssistantMessage("", (ToolCall("1", "f", {}, problem="no JSON"),), reasoning="first f")
    )
    assert data["reasoning"] == "first f"
    assert data["calls"] == [{"id": "1", "name": "f", "input": {}, "problem": "no JSON"}]


def test_a_line_stands_for_a_picture() -> None:
    data = message_data(UserMessage(("look", Image(b"12345", "image/png"))))
    assert data["text"] == "look\n[image/png, 5 bytes]"


def test_of_long_texts_the_beginning_and_the_end_are_told() -> None:
    text = "a" * 600 + "b" * 600
    cut = "a" * 5 + "\n[1,190 characters are not shown]\n" + "b" * 5
    call = ToolCall("1", "f", {"deep": [{"text": text}, (1, text)], "short": "x"})
    assert message_data(UserMessage(text), 10)["text"] == cut
    assert message_data(ToolMessage("1", "f", ToolResult(text)), 10)["text"] == cut
    assert message_data(AssistantMessage(text, reasoning=text), 10)["reasoning"] == cut
    data = message_data(AssistantMessage("", (call,)), 10)["calls"][0]["input"]
    assert data == {"deep": [{"text": cut}, [1, cut]], "short": "x"}


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def nested(levels: int) -> Any:
    data: Any = 1
    for _ in range(levels):
        data = [data]
    return data


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"a": [1, 2.5, None, True, "\u2028 ü \ud800"]}, {"a": [1, 2.5, None, True, "\u2028 ü \ud800"]}),
        (
            {"a": math.nan, "b": [math.inf, -math.inf, 1.5, (math.nan, 2)]},
            {"a": None, "b": [None, None, 1.5, [None, 2]]},
        ),
        ({"a": {1}}, {"a": "{1}"}),
        ({(1, 2): "x", "y": math.nan}, {"(1, 2)": "x", "y": None}),
    ],
)
def test_whatever_the_data_is_browsers_can_read_it(data: Any, told: Any) -> None:
    text = plain_json(data)
    assert text.isascii()
    assert "\n" not in text
    assert strict(text) == told


def test_a_number_with_more_digits_than_python_writes_is_told_as_a_text() -> None:
    assert "int" in json.loads(plain_json({"n": 10**5000, "m": 7}))["n"]
    assert json.loads(plain_json([float("nan"), 10**400])) == [None, 10**400]


def test_what_is_nested_too_deep_is_cut() -> None:
    text = plain_json([nested(100_000), 1])
    assert strict(text)[1] == 1
    assert len(text) < 1_000
