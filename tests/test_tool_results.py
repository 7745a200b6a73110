"""What tools return, and how a model is told of it."""

from __future__ import annotations

import array
import dataclasses
import datetime
import decimal
import enum
import io
import itertools
import json
import re
import threading
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pydantic
import pytest
import trio

from agentpool import Document, Image, Text, ToolCall, ToolRegistry, ToolResult, tool
from agentpool.tools import _results as results

CTX: Any = object()
PICTURE = Image(b"1234", "image/png")
REPORT = Document(b"%PDF", "application/pdf", name="report.pdf")


class Unit(enum.StrEnum):
    CELSIUS = "c"


class Old(str, enum.Enum):  # noqa: UP042
    CELSIUS = "c"


@dataclasses.dataclass
class Found:
    title: str
    picture: Any


@attrs.define
class Noted:
    inner: Any = None


class Model(pydantic.BaseModel):
    x: float = float("nan")


async def told(value: Any, *, quick: bool = True) -> ToolResult:
    @tool(quick=quick)
    def give() -> Any:
        return value

    return await ToolRegistry([give]).call(CTX, ToolCall("1", "give", {}))


# -- parts --------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [True, False])
async def test_parts_are_the_content(quick: bool) -> None:
    assert await told(PICTURE, quick=quick) == ToolResult((PICTURE,))
    assert await told(Text("x"), quick=quick) == ToolResult((Text("x"),))
    assert await told(["see", PICTURE, REPORT], quick=quick) == ToolResult((Text("see"), PICTURE, REPORT))
    assert await told((Text("a"), Unit.CELSIUS, REPORT)) == ToolResult((Text("a"), Text("c"), REPORT))


async def test_other_values_beside_parts_are_told_as_json() -> None:
    content = (await told([PICTURE, {"a": 1}, [REPORT]])).content
    assert content == (PICTURE, Text('{"a":1}'), Text('["[report.pdf, application/pdf, 4 bytes]"]'), REPORT)


@pytest.mark.parametrize("value", [Found("x", PICTURE), {"title": "x", "picture": PICTURE}])
async def test_a_picture_inside_of_a_value_stands_behind_it(value: Any) -> None:
    result = await told(value)
    assert result.content == (Text('{"title":"x","picture":"[image/png, 4 bytes]"}'), PICTURE)


async def test_a_text_inside_of_a_value_is_its_text() -> None:
    assert (await told({"a": Text("x")})).content == '{"a":"x"}'
    assert (await told(["a", "b"])).content == '["a","b"]'
    assert (await told([])).content == "[]"


# -- JSON ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Unit.CELSIUS, "c"),
        (Old.CELSIUS, "c"),
        ([Old.CELSIUS], '["c"]'),
        (True, "true"),
        (float("nan"), '"NaN"'),
        ([float("inf"), -float("inf")], '["Infinity","-Infinity"]'),
        (Model(), '{"x":null}'),
        (decimal.Decimal("1.10"), '"1.10"'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (Path("/x"), '"/x"'),
        ({1: "a", (1, 2): "b", None: "c"}, '{"1":"a","1,2":"b","None":"c"}'),
        ({1}, "[1]"),
        ({1: 2}.keys(), "[1]"),
        (types.MappingProxyType({"a": 1}), '{"a":1}'),
        (Noted(Noted(1)), '{"inner":{"inner":1}}'),
        (b"\xff", '"_w=="'),
        (memoryview(b"\xff"), '"_w=="'),
        (array.array("i", [1, 2]), "[1,2]"),
        (range(3), "[0,1,2]"),
        (io.StringIO("a\nb"), '["a\\n","b"]'),
        (map(str, [1]), '["1"]'),
        ({"rows": iter([1, 2]), "n": 2}, '{"rows":[1,2],"n":2}'),
        (["\ud83d", "ü"], '["\ufffd","ü"]'),
        ([PICTURE.media_type, "\ud83d\ude00"], '["image/png","😀"]'),
    ],
)
async def test_values_are_told_as_text_that_is_json(value: Any, text: str) -> None:
    result = await told(value)
    assert (result.content, result.is_error) == (text, False)
    if not isinstance(value, str):
        json.loads(text, parse_constant=pytest.fail)


async def test_pictures_beside_broken_text_are_told_once() -> None:
    assert (await told({"a": "\ud83d", "b": PICTURE})).content == (
        Text('{"a":"\ufffd","b":"[image/png, 4 bytes]"}'),
        PICTURE,
    )


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
KNOT = Noted()
KNOT.inner = KNOT
DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (CIRCLE, "Circular"),
        (KNOT, "Circular"),
        (DEEP, "a list that JSON cannot carry"),
        (dict, "a type that"),
        (array.array, "a type that"),
        (lambda: 1, "a function that"),
        ({"m": re.match("x", "x")}, "Match has no JSON form"),
        ({"\ud83d": 1}, "a dict that JSON cannot carry"),
        (itertools.count(), "a count with more than 10,000 items"),
        ({"rows": itertools.count()}, "a count with more than 10,000 items"),
        (range(10**12), "more than 10,000 items"),
    ],
)
async def test_what_cannot_be_told_is_the_tools_error(value: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        await told(value)


async def test_an_error_that_is_returned_is_one() -> None:
    assert await told(ValueError("no such city")) == ToolResult("ValueError: no such city", is_error=True)
    assert await told(KeyError()) == ToolResult("KeyError", is_error=True)


# -- generators ---------------------------------------------------------------------


async def test_the_items_of_a_generator_are_made_where_the_function_runs() -> None:
    def rows() -> Iterator[bool]:
        yield threading.current_thread() is threading.main_thread()

    @tool
    def slow() -> Any:
        return rows()

    @tool(quick=True)
    def fast() -> Any:
        return rows()

    @tool
    async def later() -> Any:
        await trio.lowlevel.checkpoint()
        return rows()

    registry = ToolRegistry([slow, fast, later])
    for name, text in [("slow", "[false]"), ("fast", "[true]"), ("later", "[true]")]:
        assert (await registry.call(CTX, ToolCall("1", name, {}))).content == text


async def test_a_generator_of_async_items_is_refused_in_words() -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    @tool(quick=True)
    def give() -> Any:
        return rows()

    with pytest.raises(TypeError, match="a async_generator that JSON cannot carry"):
        await ToolRegistry([give]).call(CTX, ToolCall("1", "give", {}))


def test_very_many_items_are_counted_and_no_more() -> None:
    numbers = iter(range(results.MAX_ITEMS + 5))
    with pytest.raises(TypeError, match="more than"):
        results.listed(numbers)
    assert next(numbers) == results.MAX_ITEMS + 1


# -- tools of other kinds ------------------------------------------------------------


async def test_a_tool_that_returns_no_result_is_told_what_to_return() -> None:
    registry = ToolRegistry()
    wrong: Any = "text"
    with pytest.raises(TypeError, match="returned a str; it has to return a ToolResult"):
        registry.shortened(wrong)
