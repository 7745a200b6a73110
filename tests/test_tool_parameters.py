"""Parameters of tools as people write them: described, checked, or refused where they are declared."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import json
from collections.abc import Callable
from typing import (  # noqa: UP035
    TYPE_CHECKING,
    Annotated,
    Any,
    List,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Required,
    TypedDict,
    Union,  # noqa: F401
)

import attrs
import pydantic
import pytest
import typing_extensions

from agentpool._core.messages import ToolCall
from agentpool.tools import ToolRegistry, tool

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]

CTX: Any = object()


@attrs.define
class Stop:
    city: str
    days: int = 1
    _note: Annotated[str, "for the driver"] = "none"
    made: int = attrs.field(default=0, init=False)


@attrs.define
class Route:
    stops: list[Stop] = attrs.field(factory=list)
    back: Optional[Route] = None  # noqa: UP045

    def __attrs_post_init__(self) -> None:
        if len(self.stops) > 3:
            raise ValueError("too many stops")


@attrs.define
class Picky:
    x: int = attrs.field()

    def __attrs_post_init__(self) -> None:
        raise TypeError("nothing is right")


class Size(TypedDict):
    width: int
    height: NotRequired[int]


class Sizes(TypedDict, total=False):
    first: Required[Size]
    more: Sizes


class NewSize(typing_extensions.TypedDict):
    width: int


@dataclasses.dataclass
class Plain:
    when: datetime.date
    inner: Optional[Plain] = None  # noqa: UP045


@dataclasses.dataclass
class Holder:
    stop: Stop
    sizes: list[Size] = dataclasses.field(default_factory=list)
    inner: Optional[Plain] = None  # noqa: UP045


@dataclasses.dataclass
class Unfinished:
    x: Missing


@dataclasses.dataclass
class OddDefault:
    x: float = float("nan")
    y: Any = dataclasses.field(default=object())


class Pair(NamedTuple):
    x: int
    y: int = 2


class Color(enum.Enum):
    RED = "red"


UserId = NewType("UserId", int)
StopId = NewType("StopId", Stop)


async def told(function: Any, /, **arguments: Any) -> str:
    made = tool(function, name="f", quick=True)
    json.dumps(made.definition.input_schema, allow_nan=False)
    return str((await ToolRegistry([made]).call(CTX, ToolCall("1", "f", arguments))).content)


def entry(function: Any, name: str) -> Any:
    return tool(function, name="f").definition.input_schema["properties"][name]


# -- classes ------------------------------------------------------------------------


async def test_classes_of_attrs_are_described_and_made() -> None:
    def go(route: Route, stop: Stop = Stop("Bonn")) -> str:  # noqa: B008
        return f"{route} {stop}"

    schema = tool(go).definition.input_schema
    assert schema["required"] == ["route"]
    shape = schema["$defs"]["Stop"]
    assert shape["required"] == ["city"]
    assert shape["properties"]["note"]["description"] == "for the driver"
    assert "made" not in shape["properties"]
    given = {"stops": [{"city": "Ulm", "note": "x"}], "back": {"stops": []}}
    expected = Route([Stop("Ulm", note="x")], Route())
    assert await told(go, route=given) == f"{expected} {Stop('Bonn')}"


async def test_what_is_wrong_in_a_class_of_attrs_is_told_with_its_place() -> None:
    def go(route: Route) -> None: ...

    assert "route.stops[0].city: is missing" in await told(go, route={"stops": [{}]})
    assert "route.stop: extra inputs are not permitted" in await told(go, route={"stop": 1})
    assert "route: value error, too many stops" in await told(go, route={"stops": [{"city": "x"}] * 4})

    def pick(picky: Picky) -> None: ...

    assert "picky: value error, nothing is right" in await told(pick, picky={"x": 1})


async def test_tables_of_typing_are_understood_by_each_python() -> None:
    def go(size: Size, sizes: Sizes, new: NewSize) -> str:
        return json.dumps([size, sizes, new])

    given = {"size": {"width": 1}, "sizes": {"first": {"width": 1, "height": 2}}, "new": {"width": 3}}
    assert json.loads(await told(go, **given)) == list(given.values())
    assert "size.width: is missing" in await told(go, **{**given, "size": {}})
    assert "sizes.first: is missing" in await told(go, **{**given, "sizes": {"more": given["sizes"]}})


async def test_dataclasses_may_hold_what_pydantic_does_not_know() -> None:
    def go(holder: Holder, plain: Plain) -> str:
        return f"{holder.stop.city} {holder.sizes} {plain}"

    given = {"stop": {"city": "Ulm"}, "sizes": [{"width": 1}]}
    plain = Plain(datetime.date(2026, 1, 2), Plain(datetime.date(2026, 1, 3)))
    as_json = {"when": "2026-01-02", "inner": {"when": "2026-01-03"}}
    assert await told(go, holder=given, plain=as_json) == f"Ulm [{{'width': 1}}] {plain}"


@pytest.mark.parametrize(
    "hint",
    [
        "list[Stop]",
        "List[Stop]",
        "dict[str, list[Stop]]",
        "tuple[Stop, ...]",
        "Stop | int",
        "Union[int, Stop]",
        "Optional[Stop]",
        "Annotated[Stop, pydantic.Field(description='x')]",
        "StopId",
        "set[UserId] | list[Stop]",
    ],
)
async def test_classes_of_attrs_are_found_inside_of_hints(hint: str) -> None:
    def go(x: Any) -> str:
        return repr(x)

    go.__annotations__["x"] = hint
    stop: Any = {"city": "Ulm"}
    given: Any = [stop] if "list" in hint.lower() or "tuple" in hint else stop
    assert repr(Stop("Ulm")) in await told(go, x={"k": given} if "dict" in hint else given)


def test_hints_that_cannot_be_described_are_refused_with_their_name() -> None:
    def call_back(x: Callable[[], int]) -> None: ...
    def unfinished(x: Unfinished) -> None: ...

    for function, words in ((call_back, "CallableSchema"), (unfinished, "'Missing' is not defined")):
        with pytest.raises(TypeError, match=rf"tool '{function.__name__}' .*({words})"):
            _ = tool(function).definition


# -- hints --------------------------------------------------------------------------


def test_a_text_in_annotated_describes() -> None:
    def go(
        a: Annotated[int, "how many"],
        b: Annotated[int, typing_extensions.Doc("how many")],
        c: Annotated[int, "ignored", pydantic.Field(description="how many", ge=1)],
        d: Annotated[int, object(), "how", "many"] = 1,
    ) -> None:
        """Go.

        Args:
          a: less than the hint says
        """

    for name in "abcd":
        assert entry(go, name)["description"] == "how many"
    assert entry(go, "c")["minimum"] == 1


async def test_a_default_of_none_may_be_given() -> None:
    def go(
        a: int = None,  # type: ignore[assignment]  # noqa: RUF013
        b: List[int] = None,  # type: ignore[assignment]  # noqa: RUF013, UP006
        c: Annotated[int, pydantic.Field(ge=1)] = None,  # type: ignore[assignment]  # noqa: RUF013
        d: Optional[int] = None,  # noqa: UP045
        e: Literal["x", None] = None,
        f: Any = None,
    ) -> str:
        return f"{a}{b}{c}{d}{e}{f}"

    assert await told(go, **dict.fromkeys("abcdef")) == "None" * 6
    assert "c: should be greater" in await told(go, c=0)


def test_defaults_that_json_cannot_carry_are_not_shown() -> None:
    def go(
        a: float = float("inf"),
        b: bytes = b"\xff",
        c: int = 10**5000,
        d: OddDefault = OddDefault(),  # noqa: B008
        e: Color = Color.RED,
        f: list[float] = [float("nan")],  # noqa: B006
    ) -> None: ...

    schema = tool(go).definition.input_schema
    json.dumps(schema, allow_nan=False)
    assert [name for name, each in schema["properties"].items() if "default" in each] == ["e"]
    assert "default" not in schema["$defs"]["OddDefault"]["properties"]["x"]


async def test_all_kinds_of_values_are_made_as_the_hints_want_them() -> None:
    def go(pair: Pair, user: UserId, color: Color, day: datetime.date, *, flag: Literal[1, "a"] = 1) -> str:
        return f"{pair} {user} {color} {day!r} {flag}"

    given = {"pair": [1], "user": 7, "color": "red", "day": "2026-01-02", "flag": "a"}
    expected = f"{Pair(1)} 7 {Color.RED} {datetime.date(2026, 1, 2)!r} a"
    assert await told(go, **given) == expected


# -- habits of models ----------------------------------------------------------------


async def test_null_for_what_may_be_left_out_is_left_out() -> None:
    def go(a: int, b: str = "b", c: bool = False, d: int | None = 4) -> str:
        return f"{a}{b}{c}{d}"

    assert await told(go, a=1, b=None, c=None, d=None) == "1bFalseNone"
    assert "a: should be a valid integer" in await told(go, a=None, b=None)


async def test_arrays_and_objects_may_be_written_as_texts() -> None:
    def go(stops: list[Stop], table: dict[str, int], text: str = "") -> str:
        return f"{[stop.city for stop in stops]} {table} {text}"

    given: dict[str, Any] = {"stops": '[{"city": "Ulm"}]', "table": ' {"a": 1}', "text": "[1]"}
    assert await told(go, **given) == "['Ulm'] {'a': 1} [1]"
    for broken in ("[1", "[" * 100_000, "[1]", "x"):
        assert "stops" in await told(go, **{**given, "stops": broken})
    assert "is no argument" in await told(go, **given, more="[1]")


async def test_hints_may_name_what_is_local_to_a_function() -> None:
    @dataclasses.dataclass
    class Local:
        city: str

    class Inner(pydantic.BaseModel):
        local: Local

    def go(inner: Inner, more: list[Local] | None = None) -> str:
        return inner.local.city

    @tool
    def decorated(local: Local) -> str:
        return local.city

    async def outer() -> ToolRegistry:
        return ToolRegistry([go, decorated])

    registry = await outer()
    for name, arguments in [
        ("go", {"inner": {"local": {"city": "Ulm"}}}),
        ("decorated", {"local": {"city": "Ulm"}}),
    ]:
        assert (await registry.call(CTX, ToolCall("1", name, arguments))).content == "Ulm"


# -- names --------------------------------------------------------------------------


async def test_a_plain_argument_may_be_called_ctx() -> None:
    def text(ctx: str) -> str:
        return ctx

    def table(ctx: dict[str, int]) -> str:
        return str(ctx)

    def real(ctx: object) -> str:
        return str(ctx is CTX)

    assert await told(text, ctx="x") == "x"
    assert await told(table, ctx={"a": 1}) == "{'a': 1}"
    assert await told(real) == "True"
    text.__annotations__["ctx"] = str
    assert await told(text, ctx="x") == "x"


async def test_names_that_others_use_for_themselves_are_taken() -> None:
    def go(
        name: str, type: str, properties: str, model_config: str, schema: str, copy: str, dict: str, loc: str,
        model_dump: str, json: str, validate: str, model_fields: str, model_post_init: str,
        values: str, fn: str, function: str, arguments: str, compiled: str, __x: str = "x", _y: str = "y",
    ) -> str:  # fmt: skip
        return name + type + properties + loc + values + fn + arguments + __x + _y

    names = [name for name in entry_names(go) if not name.startswith("_")]
    assert await told(go, **{name: name[0] for name in names}) == "ntplvfaxy"
    assert len(names) == 18


def entry_names(function: Any) -> list[str]:
    return list(tool(function).definition.input_schema["properties"])


async def test_arguments_that_a_partial_has_given_are_neither_shown_nor_taken() -> None:
    def go(a: int, b: int, c: int = 3) -> str:
        """Go.

        Args:
          a: one
          b: two
          c: three
        """
        return f"{a}{b}{c}"

    made = functools.partial(functools.partial(go, 1), b=2)
    definition = tool(made).definition
    assert (definition.description, entry_names(made)) == ("Go.", ["c"])
    assert await told(made, c=5) == "125"
