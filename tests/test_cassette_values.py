"""Values come out of a cassette as they went in, and differ in it where they differ."""

from __future__ import annotations

import json
import math
from collections import UserDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import attrs
import pytest

from agentpool._core import errors
from agentpool._core.content import Document, Image, Text
from agentpool._core.data import (
    canonical,
    completion_from_data,
    error_from_data,
    error_to_data,
    from_data,
    to_data,
)
from agentpool._core.errors import DriverError, OverloadedError, RateLimitedError, RequestRejectedError
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    ProviderData,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.usage import TokenUsage
from agentpool.drivers._matching import differences
from agentpool.drivers.recording import RecordingDriver, ReplayDriver
from agentpool.drivers.scripted import ScriptedDriver

PICTURE = Image(b"\x89PNG\r\n\x00\xff" * 40, "image/png")
SIGNED = ProviderData("anthropic", "claude", {"thinking": [{"signature": "EqQB/+" * 9}], "raw": b"\x00\xff"})
TORN_PAIR = "\ud83d" + "\ude00"  # two surrogates, which JSON would make one character of

REQUEST = CompletionRequest(
    model="m",
    messages=(
        UserMessage(
            ("look:", PICTURE, Document(url="https://x.example/a.pdf", name="a.pdf")), "message", "a"
        ),
        AssistantMessage("hm", (ToolCall("1", "look", {"a": [1]}, SIGNED),), "let me see", SIGNED),
        ToolMessage("1", "look", ToolResult((Text("so"), PICTURE), is_error=True)),
        AssistantMessage(tool_calls=(ToolCall("2", "look", problem="no JSON"),)),
    ),
    tools=(ToolDefinition("look", "looks", {"type": "object", "properties": {"$ref": "#/x"}}),),
    max_tokens=7,
    temperature=0.5,
    system="be brief",
    stop=("END",),
    tool_choice="look",
    parallel_tool_calls=False,
    output_schema={"type": "object"},
    reasoning="low",
    options={"seed": 1, "logit_bias": {50256: -100}},
)
COMPLETION = Completion(
    "done",
    (ToolCall("3", "look", {"deep": {"er": True}, "none": None}, SIGNED, "half"), ToolCall("4", "look")),
    "max_tokens",
    TokenUsage(1, 2, 3, 4, 5, 0.125),
    "let me see",
    SIGNED,
    "resp_1",
    "m-2026-01-01",
)


async def play(tmp_path: Path, request: CompletionRequest, answer: Completion) -> Completion:
    path = tmp_path / "cassette.jsonl"
    await RecordingDriver(ScriptedDriver([answer]), path).complete(request)
    return await ReplayDriver(path).complete(request)


async def test_everything_that_a_completion_has_comes_back(tmp_path: Path) -> None:
    default = Completion()
    names = [field.name for field in attrs.fields(Completion)]
    assert [name for name in names if getattr(COMPLETION, name) == getattr(default, name)] == []
    assert await play(tmp_path, REQUEST, COMPLETION) == COMPLETION


@pytest.mark.parametrize(
    "completion",
    [
        Completion(),
        Completion("a", stop_reason="refusal"),
        Completion(tool_calls=(ToolCall("1", "a"),)),
        Completion(tool_calls=(ToolCall("1", "a"),), stop_reason="end_turn"),
        Completion("lone \ud800 and \udc00 and 😀 and " + TORN_PAIR, reasoning="\udfff"),
        Completion(tool_calls=(ToolCall("1", "a", {TORN_PAIR: TORN_PAIR, "\ud800": 1}),)),
        Completion(
            tool_calls=(ToolCall("1", "a", {"$bytes": "x"}), ToolCall("2", "a", {"$dict": {}, "b": 1}))
        ),
        Completion(tool_calls=(ToolCall("1", "a", {"$text": [1]}), ToolCall("2", "a", {"$ref": "#/a"}))),
        Completion(provider_data=ProviderData("p", "m", None)),
        Completion(provider_data=ProviderData("p", "m", {1: b"", "1": [b"\xff"], "inf": math.inf})),
        Completion("\u2028\x00\x1b[31m\r\n", served_model=""),
    ],
)
async def test_odd_completions_come_back(tmp_path: Path, completion: Completion) -> None:
    assert completion_from_data(json.loads(json.dumps(to_data(completion)))) == completion
    assert await play(tmp_path, REQUEST, completion) == completion


def changed(value: Any) -> list[Any]:
    """Return values that differ from one in a single place."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [value + "x", value + TORN_PAIR, value + "\U0001f600"]
    if isinstance(value, int | float):
        return [value + 1]
    if isinstance(value, bytes):
        return [value + b"x"]
    if value is None:
        return ["x"]
    if isinstance(value, dict):
        inner = [{**value, key: other} for key, item in value.items() for other in changed(item)]
        return [*inner, {**value, "more": None}]
    if isinstance(value, tuple | list):
        others = [
            [*value[:place], other, *value[place + 1 :]]
            for place, item in enumerate(value)
            for other in changed(item)
        ]
        return [*map(type(value), others), type(value)(value[:-1])] if value else []
    return [
        attrs.evolve(value, **{field.name: other})
        for field in attrs.fields(type(value))
        for other in changed(getattr(value, field.name))
        if (type(value), field.name) not in IMPOSSIBLE
    ]


IMPOSSIBLE = {(Image, "url"), (Document, "data")}  # bytes or an address, not both


def test_requests_that_differ_in_anything_have_different_keys() -> None:
    requests = [REQUEST, *changed(REQUEST)]
    assert len(requests) > 100
    keys = [canonical(to_data(request)) for request in requests]
    assert len(set(keys)) == len(requests)


def test_equal_requests_have_equal_keys() -> None:
    class Messages(Sequence[ChatMessage]):
        @overload
        def __getitem__(self, index: int) -> ChatMessage: ...
        @overload
        def __getitem__(self, index: slice) -> Sequence[ChatMessage]: ...
        def __getitem__(self, index: Any) -> Any:
            return REQUEST.messages[index]

        def __len__(self) -> int:
            return len(REQUEST.messages)

        def __iter__(self) -> Iterator[ChatMessage]:
            return iter(REQUEST.messages)

    same = attrs.evolve(
        REQUEST,
        stop=["END"],
        messages=Messages(),
        temperature=1,
        output_schema=MappingProxyType({"type": "object"}),
        options=UserDict(dict(reversed(list(REQUEST.options.items())))),
    )
    assert canonical(to_data(same)) == canonical(to_data(attrs.evolve(REQUEST, temperature=1.0)))


def test_data_of_strangers_has_one_form() -> None:
    assert from_data(to_data({"a": {3, 1, 2}, "b": (1, 2), "c": Path("x")})) == {
        "a": [1, 2, 3],
        "b": [1, 2],
        "c": "x",
    }


def test_what_has_its_default_is_not_written() -> None:
    assert to_data(CompletionRequest(messages=[UserMessage("hello")])) == {
        "messages": [{"role": "user", "content": "hello"}]
    }
    assert to_data(Completion("hi")) == {"text": "hi"}


# -- errors ------------------------------------------------------------------------

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DriverError)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_comes_back_with_what_it_says(kind: type[DriverError]) -> None:
    error = kind("the \ud800 words")
    error.may_have_cost = not error.may_have_cost
    error.told = {"by": ["a", 1, None, b"x"]}  # type: ignore[attr-defined]
    error.response = object()  # type: ignore[attr-defined]
    error.several = [object()]  # type: ignore[attr-defined]
    again = error_from_data(json.loads(json.dumps(error_to_data(error))))
    assert type(again) is kind
    assert str(again) == "the \ud800 words"
    assert again.may_have_cost is error.may_have_cost
    kept = {name: value for name, value in vars(error).items() if name not in ("response", "several")}
    assert vars(again) == kept


def test_a_kind_of_a_drivers_own_comes_back_as_the_nearest_that_behaves_alike() -> None:
    class SlowDown(RateLimitedError):
        retryable = False

        def __init__(self, code: int) -> None:
            super().__init__(f"code {code}", retry_after=1.5)
            self.code = code

    class RequestRejected(RequestRejectedError):
        pass

    RequestRejected.__name__ = "OverloadedError"  # it is not the one of ours
    again = error_from_data(error_to_data(SlowDown(7)))
    assert (type(again), str(again), vars(again)) == (
        RateLimitedError,
        "code 7",
        {"retry_after": 1.5, "code": 7, "retryable": False},
    )
    assert type(error_from_data(error_to_data(RequestRejected("no")))) is RequestRejectedError
    assert not isinstance(error_from_data(error_to_data(RequestRejected("no"))), OverloadedError)


# -- what differs ------------------------------------------------------------------


async def test_a_miss_tells_what_differs_from_the_nearest_request(tmp_path: Path) -> None:
    path = tmp_path / "cassette.jsonl"
    recorder = RecordingDriver(ScriptedDriver(["a", "b", "c"]), path)
    far = CompletionRequest(model="other", messages=[UserMessage("weather")])
    for request in (far, REQUEST, attrs.evolve(REQUEST, messages=REQUEST.messages[:2])):
        await recorder.complete(request)
    replay = ReplayDriver(path)

    async def told(request: CompletionRequest) -> str:
        with pytest.raises(RequestRejectedError) as caught:
            await replay.complete(request)
        return str(caught.value)

    assert "the nearest, in line 3, differs in temperature (recorded 0.5, asked 0.75);" in await told(
        attrs.evolve(REQUEST, temperature=0.75)
    )
    longer = attrs.evolve(REQUEST, messages=[*REQUEST.messages, UserMessage("go on")])
    assert "line 3, differs in messages[4] (recorded nothing, asked {" in await told(longer)
    secret = "sk-aaaa1111bbbb2222cccc"
    words = "word " * 100
    text = f"the {words} of {secret}"
    said = await told(CompletionRequest(model="other", messages=[UserMessage(f"weather {text}")]))
    assert secret not in said
    assert 'line 2, differs in messages[0].content (recorded "weather", asked "weather the' in said
    assert len(said) < 500
    assert said.count(" (recorded") == 1
    many = CompletionRequest("x", max_tokens=1, system="a", stop=["b"], temperature=1, reasoning=0)
    assert "; and 4 more; record it again" in await told(many)


def test_a_difference_late_in_a_text_is_shown_where_it_is() -> None:
    text = "a" * 300
    (told,) = differences({"system": text + "b"}, {"system": text + "c"})
    assert told == f'system (recorded ...{"a" * 20}b", asked ...{"a" * 20}c")'
    assert list(differences([1, {"a": 2}], [1.0, {"a": 2}])) == []
