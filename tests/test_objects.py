"""Values as JSON data and back: what is kept, what is refused, and that data calls nothing."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import pathlib
import sys
import zoneinfo
from collections import OrderedDict
from typing import Any, ClassVar

import objects_kit as kit
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentpool import Completion, TokenUsage, ToolCall, UnknownAgentError
from agentpool._core.messages import AssistantMessage, UserMessage
from agentpool._core.transcript import Transcript
from agentpool._objects import (
    DEEPEST,
    NotDataError,
    Unkept,
    UnreadableDataError,
    error_to_data,
    found_again,
    object_from_data,
    object_to_data,
    reference_of,
)

TORN = "\ud83d" + "\ude00"  # two surrogates, which JSON would make one character of


def through_json(data: Any) -> Any:
    return json.loads(json.dumps(data, allow_nan=False))


def back(value: Any) -> Any:
    return object_from_data(through_json(object_to_data(value)))


def same(one: Any, other: Any) -> bool:
    """Whether values are equal, of the same types throughout; nan is nan, and -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    if isinstance(one, kit.Point | kit.Slotted | kit.Open):
        names = [name for name in ("x", "y", "tags") if hasattr(one, name)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


# -- values ------------------------------------------------------------------------------------

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**40), max_value=10**40)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(["$", "$text", "$object", "$unset", TORN, "[redacted-1]"])
    | st.binary()
    | st.binary().map(bytearray)
    | st.datetimes(timezones=st.none() | st.timezones() | st.just(datetime.UTC), allow_imaginary=False)
    | st.dates()
    | st.times(timezones=st.none() | st.timezones())
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
    | st.sampled_from([*kit.Colour, kit.Rights(0), kit.Rights.READ | kit.Rights.WRITE, *kit.Level])
    | st.sampled_from([pathlib.Path("/a b"), pathlib.Path(".")])
)
HASHABLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["$x", TORN])
    | st.binary()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$unset", "$object", "a", TORN]), inner, max_size=2)
        | st.frozensets(HASHABLE, max_size=3)
        | st.sets(HASHABLE, max_size=3)
        | st.builds(kit.Point, inner, inner)
        | st.builds(kit.Slotted, inner)
        | st.builds(kit.Pair, inner, inner)
        | st.builds(kit.Open, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(VALUES)
@example({"$unset": True})
@example(kit.Point({"$unset": True}, {"$object": 1}))
@example([2**64, -(2**64), 10**5_000, 2**64 - 1])
@example({1: "a", "1": "b", 1.5: "c", (1, 2): "d"})
@example([TORN, {TORN: 1}, "\ud83d", "\ude00\ud83d"])
@example([math.nan, math.inf, -math.inf, -0.0])
@example(datetime.datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1))
@example(datetime.datetime(2026, 10, 25, 2, 30, fold=1))
def test_values_come_back_as_they_were(value: Any) -> None:
    assert same(back(value), value)


def test_a_day_when_clocks_change_stays_the_hour_that_it_was() -> None:
    late = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1)
    again = back(late)
    assert (again.utcoffset(), again.tzinfo, again.fold) == (late.utcoffset(), late.tzinfo, 1)
    assert back(datetime.time(2, 30, fold=1)).fold == 1


def test_sets_are_the_same_text_in_each_process() -> None:
    assert object_to_data({"b", "a", "c"}) == {"$set": ["a", "b", "c"]}


def test_a_conversation_comes_back() -> None:
    asked = UserMessage("add")
    answered = AssistantMessage("", (ToolCall("1", "add", {"a": [1, (2,)]}),))
    conversation = Transcript([asked, answered])
    assert type(back(conversation)) is Transcript
    assert back(conversation) == conversation
    completion = Completion(tool_calls=answered.tool_calls, usage=TokenUsage(1, 2))
    assert back(completion) == completion
    assert object_to_data(completion)["$object"][0] == "agentpool:Completion"


# -- objects -----------------------------------------------------------------------------------


def test_fields_come_back_however_they_are_named_or_computed() -> None:
    value = back(kit.Private(("a",), told=1))
    assert (value._hidden, value.shown, value.computed) == (("a",), 1, ("computed", 1))
    unset = back(kit.Private(1))
    assert not hasattr(unset, "computed")
    assert back(kit.WithMore(1)).twice == [1, 1]
    assert not hasattr(back(kit.WithMore(1)), "unset")


def test_what_an_object_only_remembers_is_not_kept() -> None:
    value = kit.Open(1)
    assert value.lock is value.lock
    assert vars(back(value)) == {"x": 1}
    model = kit.Model(x=1)
    assert model.lock is model.lock
    assert "lock" not in vars(back(model))


@pytest.mark.parametrize("kind", [kit.Hashed, kit.HashedDict])
def test_a_hash_is_not_kept_as_texts_hash_otherwise_in_each_process(kind: Any) -> None:
    value = kind("a")
    hash(value)
    data = object_to_data(value)
    assert data["$object"][2] == {"_attrs_cached_hash": None}
    assert hash(object_from_data(data)) == hash(value)


def test_fields_behind_properties_and_setters_are_set_past_them() -> None:
    value = object.__new__(kit.Guarded)
    value.__dict__["_amount"] = 5
    assert object_to_data(value) == {"$object": ["objects_kit:Guarded", {}, {"_amount": 5}]}
    assert back(value).amount == 5
    wrong = {"$object": ["objects_kit:Guarded", {}, {"amount": 5}]}
    with pytest.raises(
        UnreadableDataError, match="the field amount of objects_kit:Guarded is a property now"
    ):
        object_from_data(wrong)


def test_a_named_tuple_is_made_past_its_class() -> None:
    value = tuple.__new__(kit.ShyPair, (1, (2,)))
    assert type(back(value)) is kit.ShyPair
    assert back(value) == (1, (2,))


def test_a_pydantic_model_comes_back_with_all_that_it_has() -> None:
    value = kit.Model(x=(1,), why={2}, more=b"3")  # type: ignore[call-arg]
    value._kept = 4
    again = back(value)
    assert again == value
    assert (again.x, again.y, again.more, again._kept) == ((1,), {2}, b"3", 4)
    assert again.model_fields_set == {"x", "y", "more"}
    assert again.model_dump() == value.model_dump()


# -- what is refused ---------------------------------------------------------------------------


def recursive() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class Zone(datetime.tzinfo):
    def utcoffset(self, when: Any) -> datetime.timedelta:
        return datetime.timedelta(0)


def local_class() -> Any:
    class Local:
        pass

    return Local()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (back, "it is a function, whose class cannot be found again by its name"),
        (kit.Plain(), "it is a Plain, which cannot be kept"),
        (kit.Plain, "it is a type, which cannot be kept"),
        (local_class(), "it is a local_class.<locals>.Local, whose class cannot be found again by its name"),
        ([1, {"a b": (kit.Point(kit.Plain()),)}], "[1]['a b'][0].x is a Plain"),
        ({1: kit.Plain()}, "[1] is a Plain"),
        ({kit.Plain: 1}, "[<class 'objects_kit.Plain'>] is a type"),
        ({"$a": kit.Plain()}, "['$a'] is a Plain"),
        (kit.Model(x=kit.Plain()), ".x is a Plain"),
        (kit.Pair(kit.Plain()), ".left is a Plain"),
        (kit.Listed(), "it is a Listed, which cannot be kept"),
        (kit.FieldsOnADict(), "it is a FieldsOnADict, which cannot be kept"),
        (OrderedDict(), "it is a OrderedDict, which cannot be kept"),
        (trio.Lock(), "cannot be kept"),
        (datetime.datetime(2026, 1, 1, tzinfo=Zone()), "it has a time zone that cannot be kept: <test_obj"),
        (datetime.time(1, tzinfo=Zone()), "it has a time zone"),
        (recursive(), "[0][0][0][0][0]"),
        (deep(DEEPEST + 1), f" is nested deeper than {DEEPEST} levels, or holds itself"),
    ],
)
def test_what_cannot_be_kept_is_named_and_where_it_stands(value: Any, text: str) -> None:
    with pytest.raises(NotDataError) as caught:
        object_to_data(value)
    assert text in str(caught.value)


def test_the_deepest_value_is_kept() -> None:
    value: Any = 1
    for _ in range(DEEPEST):
        value = kit.Point(value)
    assert back(value) == value


def test_a_class_that_is_another_one_now_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        pass

    Other.__qualname__, Other.__module__ = "Point", "objects_kit"
    assert reference_of(Other) is None
    Other.__module__ = "no_such_module"
    assert reference_of(Other) is None
    Other.__module__ = None  # type: ignore[assignment]
    assert reference_of(Other) is None


def test_what_agentpool_offers_is_named_as_users_name_it() -> None:
    assert reference_of(UnknownAgentError) == "agentpool:UnknownAgentError"
    assert reference_of(Unkept) == "agentpool._objects:Unkept"
    assert reference_of(back) == "test_objects:back"


def test_a_function_of_the_package_that_it_does_not_offer_has_its_own_place() -> None:
    assert reference_of(object_to_data) == "agentpool._objects:object_to_data"


# -- exceptions --------------------------------------------------------------------------------


def error_back(error: BaseException) -> Any:
    return object_from_data(through_json(error_to_data(error)))


def file_error() -> Exception:
    try:
        open("/no/such/file")  # noqa: SIM115
    except OSError as error:
        return error
    raise AssertionError


def undecodable() -> Exception:
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        return error
    raise AssertionError


ERRORS = [
    ValueError("a", 1, (2,)),
    KeyError("missing"),
    file_error(),
    kit.PathError(2, "gone", "file"),
    undecodable(),
    SystemExit(3),
    KeyboardInterrupt(),
    StopIteration(5),
    kit.KeywordsOnlyError(code=3, of=kit.Point(1)),
    kit.TwoToOneError("a", "b"),
    kit.SlotError((1, 2)),
    kit.FieldsError([1]),
    kit.NewError("made"),
    kit.ReducedToTextError("x"),
    UnknownAgentError(4, "gone"),
    ExceptionGroup("two", [ValueError("a"), ExceptionGroup("inner", [kit.KeywordsOnlyError(code=1)])]),
    BaseExceptionGroup("stop", [KeyboardInterrupt()]),
    kit.ManyErrors([ValueError("x")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exceptions_come_back_without_a_call_of_their_classes(error: BaseException) -> None:
    again = error_back(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args or isinstance(error, BaseExceptionGroup)
    assert repr(vars(again)) == repr(vars(error))
    if isinstance(error, BaseExceptionGroup):
        assert repr(again.exceptions) == repr(error.exceptions)
    for name in ("filename", "errno", "strerror", "start", "encoding", "code", "value", "x", "of"):
        assert repr(getattr(again, name, None)) == repr(getattr(error, name, None))
    assert not hasattr(again, "empty")


def test_causes_and_notes_come_back() -> None:
    error = ValueError("outer")
    error.__cause__ = kit.TwoToOneError("a", "b")
    error.add_note("seen by night")
    again = error_back(error)
    assert str(again.__cause__) == "a and b"
    assert again.__suppress_context__
    assert again.__notes__ == ["seen by night"]


def test_an_exception_that_raises_wherever_it_is_asked_is_kept() -> None:
    error = kit.RudeError("one", 2)
    error.code = 7  # type: ignore[attr-defined]
    again = error_back(error)
    assert type(again) is kit.RudeError
    assert BaseException.args.__get__(again) == ("one", 2)  # type: ignore[attr-defined]
    assert again.code == 7
    assert error_to_data(error)["$error"]["text"] == "it has no text"


def test_of_an_exception_that_cannot_be_kept_its_text_is() -> None:
    class LocalError(Exception):
        pass

    again = error_back(LocalError("odd"))
    assert type(again) is Unkept
    assert str(again).endswith("LocalError: odd")
    lost = error_back(ValueError("odd", kit.Plain()))
    assert (type(lost), lost.kind) == (Unkept, "builtins:ValueError")
    within = error_back(ExceptionGroup("two", [LocalError("odd"), ValueError("even")]))
    assert list(map(type, within.exceptions)) == [Unkept, ValueError]
    # and an error that stands for another is kept as it is
    assert str(error_back(again)) == str(again)
    assert error_back(again).kind == again.kind
    half = OSError(1, "a", kit.Plain())
    assert error_back(half).args == half.args


def test_what_of_an_exception_cannot_be_kept_is_left_out() -> None:
    error = kit.KeywordsOnlyError(code=1, of=kit.Plain())
    again = error_back(error)
    assert again.code == 1
    assert not hasattr(again, "of")
    surrogates = error_back(ValueError(TORN))
    assert surrogates.args == (TORN,)
    assert error_to_data(ValueError(TORN))["$error"]["text"] == r"\ud83d\ude00"


def test_exceptions_that_hold_themselves_are_kept_once() -> None:
    error = ValueError("knot")
    error.one = error.two = error.three = error  # type: ignore[attr-defined]
    error.__cause__ = error
    again = error_back(error)
    assert (type(again), again.args) == (ValueError, ("knot",))
    assert type(again.__cause__) is Unkept
    chain = ValueError(0)
    for number in range(1, 300):
        outer = ValueError(number)
        outer.__cause__ = chain
        chain = outer
    assert error_back(chain).args == (299,)


# -- data that was not written so ----------------------------------------------------------------

CALLED: list[Any] = []


def called(*args: Any, **named: Any) -> Any:
    CALLED.append(args)
    return args


class Callable_:
    model_fields: ClassVar[dict[str, Any]] = {}
    _fields = ("a",)
    __members__: ClassVar[dict[str, int]] = {"echo": 1}
    __attrs_attrs__: Any = ()

    def __init__(self, *args: Any) -> None:
        CALLED.append(args)

    def __new__(cls, *args: Any) -> Any:
        CALLED.append(args)
        return super().__new__(cls)

    @classmethod
    def __class_getitem__(cls, item: Any) -> Any:
        CALLED.append(item)

    @classmethod
    def model_construct(cls, *args: Any, **named: Any) -> Any:
        CALLED.append(args)

    @classmethod
    def __setstate__(cls, state: Any) -> None:
        CALLED.append(state)


@pytest.mark.parametrize("form", ["$object", "$model", "$named", "$enum", "$flag", "$error"])
@pytest.mark.parametrize(
    "name", ["test_objects:called", "test_objects:Callable_", "test_objects:CALLED", "builtins:print"]
)
def test_data_calls_nothing_that_it_names(form: str, name: str) -> None:
    CALLED.clear()
    forged: dict[str, Any] = {
        "$object": [name, {"a": 1}],
        "$model": [name, {}, {"others": {}, "set": {"$set": []}, "extra": None, "private": None}],
        "$named": [name, {"a": 1}],
        "$enum": [name, "echo"],
        "$flag": [name, 1],
        "$error": {"kind": name, "text": "echo", "args": {"$tuple": ["echo"]}},
    }
    if form == "$error":
        assert type(object_from_data({form: forged[form]})) is Unkept
    else:
        with pytest.raises(UnreadableDataError):
            object_from_data({form: forged[form]})
    assert CALLED == []


@pytest.mark.parametrize(
    "data",
    [
        {"$later": 1},
        {"$object": ["objects_kit:Point", {"x": 1}]},
        {"$object": ["objects_kit:Point", {"x": 1, "y": 2, "z": 3}]},
        {"$object": ["objects_kit:Point"]},
        {"$object": ["objects_kit:Plain", {}]},
        {"$object": ["objects_kit:Gone", {}]},
        {"$object": ["no_such_module:Gone", {}]},
        {"$object": ["", {}]},
        {"$object": [5, {}]},
        {"$object": None},
        {"$named": ["objects_kit:Pair", {"left": 1}]},
        {"$named": ["builtins:tuple", {}]},
        {"$model": ["objects_kit:Model", {"x": 1}, {}]},
        {"$model": ["objects_kit:Model", {"x": 1, "y": 2}, {}]},
        {"$enum": ["objects_kit:Colour", "GREEN"]},
        {"$flag": ["objects_kit:Colour", 1]},
        {"$flag": ["objects_kit:Rights", "x"]},
        {"$error": {}},
        {"$error": {"kind": "builtins:ValueError", "text": "", "args": 5}},
        {
            "$error": {
                "kind": "builtins:ValueError",
                "text": "",
                "args": {"$tuple": []},
                "attributes": {"a": 1},
            }
        },
        {"$error": {"kind": "builtins:ExceptionGroup", "text": "", "message": "m", "errors": []}},
        {"$text": 5},
        {"$int": "zz"},
        {"$float": "x"},
        {"$dict": [[[1], 2]]},
        {"$set": [[1]]},
        {"$bytes": "?"},
        {"$datetime": ["2026-01-01", "No/Where", 0]},
        {"$datetime": "yesterday"},
        {"$timedelta": ["x"]},
        {"$decimal": "x"},
        {"$uuid": "x"},
        {"$path": 5},
        [1, {"a": {"$uuid": 5}}],
    ],
    ids=str,
)
def test_damaged_data_is_an_error_of_one_kind(data: Any) -> None:
    with pytest.raises(UnreadableDataError):
        object_from_data(data)


def test_data_that_is_nested_too_deep_is_an_error_of_the_same_kind() -> None:
    data: Any = 1
    for _ in range(sys.getrecursionlimit()):
        data = [data]
    with pytest.raises(UnreadableDataError, match="nested too deep"):
        object_from_data(data)


def test_attributes_of_errors_are_never_special() -> None:
    data = error_to_data(ValueError("x"))
    data["$error"]["attributes"] = {"__class__": {"$tuple": [5]}, "args": {"$tuple": [6]}}
    again = object_from_data(data)
    assert (type(again), again.args) == (ValueError, ("x",))


def test_what_was_named_is_found_again() -> None:
    assert found_again("objects_kit:Model.model_construct") == kit.Model.model_construct
    with pytest.raises(UnreadableDataError, match="objects_kit:Gone is not there"):
        found_again("objects_kit:Gone")


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["$object", "$error", "$enum", "$set", "$dict", "$tuple", "$named", "$model", "a", "kind"]
                ),
                inner,
                max_size=2,
            )
            | st.tuples(
                st.sampled_from(["objects_kit:Point", "objects_kit:Pair", "builtins:dict"]), inner
            ).map(list)
        ),
        max_leaves=10,
    )
)
def test_any_json_is_a_value_or_unreadable(data: Any) -> None:
    try:
        object_from_data(data)
    except UnreadableDataError:
        pass
