"""Python values as JSON data, and back: what a journal keeps of agents that are functions.

JSON has texts, numbers, lists and dicts. What else there is stands in a dict with one key that begins
with `$`: tuples and sets, bytes, times, enums, exceptions, and objects of attrs classes, dataclasses,
pydantic models and named tuples, which name their class as `module:name`. Reading imports that module,
and calls nothing that the data names: an object's fields are set past its `__init__`, its `__new__` and
its properties. No pickle.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import functools
import importlib
import math
import pathlib
import re
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import attrs

from agentpool._core.text import shown
from agentpool._core.transcript import Transcript
from agentpool._loading import BESIDE_MARK, member_name, named_member

_JOINED = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
DEEPEST = 100
"""How deep values may be nested; a list that holds itself is deeper than any bound."""
_BEYOND = 1 << 64
"""Other readers of JSON have no numbers that are larger, and Python writes none of 5,000 digits."""
_IS_HEAP_TYPE = 1 << 9  # CPython's Py_TPFLAGS_HEAPTYPE: a class that is not made in C
_UNSET = {"$unset": True}
_CACHED_HASH = "_attrs_cached_hash"  # attrs' own field; texts hash otherwise in each process

Errors: TypeAlias = tuple[int, ...]
"""The exceptions within which a value stands, by their ids: one that holds itself is kept once."""


class NotDataError(TypeError):
    """A value cannot be written as data; the text says which one, and where in the whole it stands."""

    def __init__(self, problem: str, where: str = "") -> None:
        self.problem = problem
        self.where = where
        super().__init__(problem, where)

    def inside(self, where: str) -> NotDataError:
        """Return the error of what holds the value, and says where."""
        return NotDataError(self.problem, where + self.where)

    def __str__(self) -> str:
        return f"{self.where or 'it'} {self.problem}"


class UnreadableDataError(ValueError):
    """Data cannot be read as the value that it was: its class is not there any more, or has changed."""


class Unkept(Exception):
    """Stands for an exception whose class could not be found when it was read.

    Attributes:
      kind: the class, as `module:name`.
    """

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(f"{kind.rpartition(':')[2]}: {text}")


# -- to data ---------------------------------------------------------------------------------


def object_to_data(value: Any) -> Any:
    """Return a value as JSON data.

    Raises:
      NotDataError: for what is neither data nor an object of a class with fields, such as a function, an
        open file or a class within a function; for what holds itself; and for what is nested too deep.
    """
    return _to_data(value, 0, ())


def _to_data(value: Any, depth: int, inside: Errors) -> Any:
    kind = type(value)
    if kind is str:
        if value.isascii() or len(pieces := _JOINED.split(value)) == 1:
            return value
        return {"$text": pieces}
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -_BEYOND < value < _BEYOND else {"$int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if depth >= DEEPEST:
        raise NotDataError(f"is nested deeper than {DEEPEST} levels, or holds itself")
    writer = _WRITERS.get(kind)
    if writer is not None:
        return writer(value, depth, inside)
    return _object_to_data(value, kind, depth, inside)


def _items(values: Iterable[Any], depth: int, inside: Errors) -> list[Any]:
    items: list[Any] = []
    for item in values:
        try:
            items.append(_to_data(item, depth + 1, inside))
        except NotDataError as error:
            raise error.inside(f"[{len(items)}]") from None
    return items


def _fields_to_data(
    fields: Mapping[str, Any], depth: int, inside: Errors, form: str = ".{}"
) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, item in fields.items():
        try:
            data[key] = _to_data(item, depth + 1, inside)
        except NotDataError as error:
            raise error.inside(form.format(key)) from None
    return data


def _dict_to_data(value: dict[Any, Any], depth: int, inside: Errors) -> dict[str, Any]:
    plain = all(type(key) is str and (key.isascii() or not _JOINED.search(key)) for key in value)
    if plain and not (len(value) == 1 and next(iter(value)).startswith("$")):
        return _fields_to_data(value, depth, inside, "[{!r}]")
    pairs = []
    for key, item in value.items():
        try:
            pairs.append([_to_data(key, depth + 1, inside), _to_data(item, depth + 1, inside)])
        except NotDataError as error:
            raise error.inside(f"[{shown(key)}]") from None
    return {"$dict": pairs}


def _set_to_data(name: str) -> Callable[[Any, int, Errors], Any]:
    def write(value: Any, depth: int, inside: Errors) -> Any:
        # In an order of its own: that of a set changes from process to process.
        return {name: sorted(_items(value, depth, inside), key=repr)}

    return write


def _time_to_data(name: str) -> Callable[[Any, int, Errors], Any]:
    def write(value: Any, depth: int, inside: Errors) -> Any:
        zone = value.tzinfo
        if zone is None or type(zone) is datetime.timezone:
            return {name: value.isoformat()} if not value.fold else {name: [value.isoformat(), None, 1]}
        if type(zone) is not zoneinfo.ZoneInfo or zone.key is None:
            raise NotDataError(f"has a time zone that cannot be kept: {shown(zone)}")
        return {name: [value.replace(tzinfo=None).isoformat(), zone.key, value.fold]}

    return write


_WRITERS: Mapping[type, Callable[[Any, int, Errors], Any]] = {
    list: _items,
    dict: _dict_to_data,
    tuple: lambda value, depth, inside: {"$tuple": _items(value, depth, inside)},
    set: _set_to_data("$set"),
    frozenset: _set_to_data("$frozenset"),
    bytes: lambda value, depth, inside: {"$bytes": base64.b64encode(value).decode("ascii")},
    bytearray: lambda value, depth, inside: {"$bytearray": base64.b64encode(value).decode("ascii")},
    complex: lambda value, depth, inside: {"$complex": [str(value.real), str(value.imag)]},
    datetime.datetime: _time_to_data("$datetime"),
    datetime.date: lambda value, depth, inside: {"$date": value.isoformat()},
    datetime.time: _time_to_data("$time"),
    datetime.timedelta: lambda value, depth, inside: {
        "$timedelta": [value.days, value.seconds, value.microseconds]
    },
    decimal.Decimal: lambda value, depth, inside: {"$decimal": str(value)},
    uuid.UUID: lambda value, depth, inside: {"$uuid": str(value)},
    pathlib.PosixPath: lambda value, depth, inside: {"$path": str(value)},
    pathlib.WindowsPath: lambda value, depth, inside: {"$path": str(value)},
    Transcript: lambda value, depth, inside: {"$transcript": _items(value, depth, inside)},
}


def _object_to_data(value: Any, kind: type, depth: int, inside: Errors) -> Any:
    fielded = _fielded.get(kind)
    if fielded is not None:
        return fielded.to_data(value, depth, inside)
    name = reference_of(kind)
    if name is None:
        raise NotDataError(
            f"is a {kind.__qualname__}, whose class cannot be found again by its name:"
            " define the class at the top of a module"
        )
    names = _field_names(kind)
    if names is not None:
        fielded = _fielded[kind] = _Fielded(name, names, _has_others(kind))
        return fielded.to_data(value, depth, inside)
    if issubclass(kind, enum.Flag):
        return {"$flag": [name, value.value]}
    if issubclass(kind, enum.Enum):
        return {"$enum": [name, value.name]}
    if issubclass(kind, BaseException):
        if id(value) in inside:
            raise NotDataError("holds itself")
        return {"$error": _error_to_data(value, kind, name, depth, (*inside, id(value)))}
    if _is_model(kind):
        return {"$model": [name, *_model_to_data(value, depth, inside)]}
    if _is_named_tuple(kind):
        return {"$named": [name, _fields_to_data(value._asdict(), depth, inside)]}
    raise NotDataError(
        f"is a {kind.__qualname__}, which cannot be kept: give data, or an object of an attrs"
        " class, a dataclass, a pydantic model or a named tuple"
    )


# -- attrs classes and dataclasses


@attrs.frozen
class _Fielded:
    """A class with fields.

    Attributes:
      reference: its name.
      names: those of its fields.
      has_others: whether its objects may have more than that.
    """

    reference: str
    names: tuple[str, ...]
    has_others: bool

    def to_data(self, value: Any, depth: int, inside: Errors) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key in self.names:
            try:
                item = object.__getattribute__(value, key)
            except AttributeError:
                data[key] = _UNSET
                continue
            try:
                data[key] = _to_data(item, depth + 1, inside)
            except NotDataError as error:
                raise error.inside(f".{key}") from None
        others = _others_of(value, self.names) if self.has_others else None
        if not others:
            return {"$object": [self.reference, data]}
        return {"$object": [self.reference, data, _fields_to_data(others, depth, inside)]}


_fielded: WeakKeyDictionary[type, _Fielded] = WeakKeyDictionary()


def _field_names(kind: type) -> tuple[str, ...] | None:
    """Return the names of the fields of an attrs class or a dataclass; None of another."""
    fields: Iterable[Any]
    if attrs.has(kind):
        fields = attrs.fields(kind)
    elif dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
    else:
        return None
    # A dict with fields is more than its fields; enums and exceptions have forms of their own.
    if not all(base.__flags__ & _IS_HEAP_TYPE for base in kind.__mro__[:-1]) or issubclass(kind, enum.Enum):
        return None
    # What a property gives stands elsewhere in the object.
    return tuple(field.name for field in fields if not isinstance(getattr(kind, field.name, None), property))


def _has_others(kind: type) -> bool:
    return kind.__dictoffset__ != 0 or hasattr(kind, _CACHED_HASH)


def _others_of(value: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return what an object has beside its fields, without what it only remembers."""
    state: Mapping[str, Any] = getattr(value, "__dict__", {})
    kind = type(value)
    others = {
        key: item
        for key, item in state.items()
        if key not in names and not isinstance(getattr(kind, key, None), functools.cached_property)
    }
    if _CACHED_HASH in state or hasattr(kind, _CACHED_HASH):
        others[_CACHED_HASH] = None
    return others


def _read_object(inner: Sequence[Any]) -> Any:
    reference, data, *more = inner
    kind = _class_of(reference)
    names = _field_names(kind)
    if names is None:
        raise UnreadableDataError(f"{reference} has no fields any more")
    _check_fields(reference, names, data)
    value: Any = object.__new__(kind)
    fields = {key: item for key, item in data.items() if item != _UNSET}
    for others in more:
        fields.update(others)
    for key, item in fields.items():
        if isinstance(getattr(kind, key, None), property):
            raise UnreadableDataError(f"the field {key} of {reference} is a property now")
        object.__setattr__(value, key, _from_data(item))
    return value


def _check_fields(reference: str, now: Iterable[str], then: Mapping[str, Any]) -> None:
    changed = set(now).symmetric_difference(then)
    if changed:
        raise UnreadableDataError(
            f"the fields of {reference} have changed: {', '.join(sorted(map(str, changed)))}"
        )


# -- pydantic models and named tuples


def _base_model() -> Any:
    """Return pydantic's base class; None if nobody has imported it, so that there is no model."""
    return getattr(sys.modules.get("pydantic"), "BaseModel", None)


def _is_model(kind: type) -> bool:
    base = _base_model()
    return base is not None and issubclass(kind, base)


def _model_to_data(value: Any, depth: int, inside: Errors) -> list[Any]:
    state = _base_model().__getstate__(value)
    names = type(value).model_fields
    more = {
        "others": _others_of(value, names),
        "set": state["__pydantic_fields_set__"],
        "extra": state["__pydantic_extra__"],
        "private": state["__pydantic_private__"],
    }
    fields = {key: item for key, item in state["__dict__"].items() if key in names}
    return [_fields_to_data(fields, depth, inside), _to_data(more, depth, inside)]


def _read_model(inner: Sequence[Any]) -> Any:
    reference, data, more = inner
    kind = _class_of(reference)
    if not _is_model(kind):
        raise UnreadableDataError(f"{reference} is no pydantic model any more")
    _check_fields(reference, kind.model_fields, data)  # type: ignore[attr-defined]
    told = _from_data(more)
    value: Any = object.__new__(kind)
    state = {
        "__dict__": {**_from_fields(data), **told["others"]},
        "__pydantic_fields_set__": told["set"],
        "__pydantic_extra__": told["extra"],
        "__pydantic_private__": told["private"],
    }
    _base_model().__setstate__(value, state)
    return value


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and isinstance(getattr(kind, "_fields", None), tuple)


def _read_named(inner: Sequence[Any]) -> Any:
    reference, data = inner
    kind = _class_of(reference)
    if not _is_named_tuple(kind):
        raise UnreadableDataError(f"{reference} is no named tuple any more")
    names: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    _check_fields(reference, names, data)
    fields = _from_fields(data)
    return tuple.__new__(kind, [fields[name] for name in names])


# -- exceptions


def error_to_data(error: BaseException) -> Any:
    """Return an exception as JSON data; of one that cannot be kept, its class and its text. Never raises."""
    return _kept(error, 0, ())


def _kept(value: Any, depth: int, inside: Errors) -> Any:
    try:
        return _to_data(value, depth, inside)
    except NotDataError:
        if isinstance(value, BaseException):
            return {"$error": {"kind": type(value).__qualname__, "text": _text_of(value)}}
        return None


def _error_to_data(
    error: BaseException, kind: type[BaseException], name: str, depth: int, inside: Errors
) -> dict[str, Any]:
    """Return an exception as data: what cannot be kept of it is left out, never the whole.

    It asks nothing of the exception but its text: what its class says of it may be wrong, or raise.
    """
    data: dict[str, Any] = {"kind": name, "text": _text_of(error)}
    if isinstance(error, BaseExceptionGroup):
        data["message"] = _to_data(str(error.message), depth, inside)
        data["errors"] = [_kept(inner, depth + 1, inside) for inner in error.exceptions]
    else:
        data.update(_args_to_data(error, kind, depth, inside))
    kept = {key: _kept((item,), depth + 1, inside) for key, item in _attributes_of(error, kind)}
    attributes = {key: item for key, item in kept.items() if item is not None}
    if attributes:
        data["attributes"] = attributes
    if error.__cause__ is not None:
        data["cause"] = _kept(error.__cause__, depth + 1, inside)
    return data


def _args_to_data(
    error: BaseException, kind: type[BaseException], depth: int, inside: Errors
) -> dict[str, Any]:
    given = _ARGS.__get__(error)
    args = _kept(given, depth + 1, inside)
    if args is None:
        return {}
    # Some classes keep less in `args` than they are made of, such as OSError with the name of a file.
    made: Any = _builtin_of(kind).__reduce__(error)[1]
    kept = None if made is given else _kept(made, depth + 1, inside)
    return {"args": args} if kept is None or kept == args else {"args": args, "made_of": kept}


def _attributes_of(error: BaseException, kind: type) -> Iterable[tuple[str, Any]]:
    """Yield what an exception holds: in its dict, and in the slots of its classes."""
    yield from BaseException.__getattribute__(error, "__dict__").items()
    for base in kind.__mro__:
        if base.__flags__ & _IS_HEAP_TYPE:
            for name, member in vars(base).items():
                if type(member) is _Slot:
                    with suppress(AttributeError):
                        yield name, member.__get__(error)


class _WithSlot:
    __slots__ = ("slot",)


_Slot = type(vars(_WithSlot)["slot"])
_ARGS: Any = vars(BaseException)["args"]


def _builtin_of(kind: type[BaseException]) -> type[BaseException]:
    """Return the class made in C that an exception is of: making one by that calls nothing of a user's."""
    return next(base for base in kind.__mro__ if not base.__flags__ & _IS_HEAP_TYPE)


def _text_of(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return "it has no text"


def _read_error(data: Mapping[str, Any]) -> BaseException:
    try:
        kind = _class_of(data["kind"])
    except UnreadableDataError:
        return Unkept(data["kind"], data["text"])
    if not issubclass(kind, BaseException):
        return Unkept(data["kind"], data["text"])
    builtin = _builtin_of(kind)
    if issubclass(builtin, BaseExceptionGroup):
        error = _made(kind, builtin, (_from_data(data["message"]), _from_data(data["errors"])))
    elif "args" in data:
        error = _made(kind, builtin, _from_data(data.get("made_of", data["args"])))
        _ARGS.__set__(error, _from_data(data["args"]))
    else:
        return Unkept(data["kind"], data["text"])
    for name, kept in data.get("attributes", {}).items():
        _set_attribute(error, kind, name, *_from_data(kept))
    if "cause" in data:
        error.__cause__ = _from_data(data["cause"])
    return error


def _made(kind: type[BaseException], builtin: type[BaseException], made_of: tuple[Any, ...]) -> BaseException:
    error = builtin.__new__(kind, *made_of)
    builtin.__init__(error, *made_of)
    return error


def _set_attribute(error: BaseException, kind: type, name: str, value: Any) -> None:
    for base in kind.__mro__:
        member: Any = vars(base).get(name)
        if type(member) is _Slot and base.__flags__ & _IS_HEAP_TYPE:
            member.__set__(error, value)
            return
    BaseException.__getattribute__(error, "__dict__")[name] = value


# -- names of classes and functions


def reference_of(thing: Any) -> str | None:
    """Return `module:name` of a class or function, if it is found there again; else None.

    What `agentpool` offers is named as its users name it, wherever its file is.
    """
    known = _references.get(thing) if isinstance(thing, type) else None
    if known is None:
        known = _reference(thing)
        if known is not None and isinstance(thing, type):
            _references[thing] = known
    return known


_references: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def _reference(thing: Any) -> str | None:
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    try:
        is_found = _found(module, name) is thing and not module.startswith("_agentpool_")
    except UnreadableDataError:
        is_found = False
    if not is_found:
        # It may be of a module beside a fleet or a manifest, which has that name for its neighbours only.
        beside = member_name(module, name, thing)
        return None if beside is None else f"{beside}:{name}"
    if module.startswith("agentpool.") and _is_offered(name, thing):
        module = "agentpool"
    return f"{module}:{name}"


def _is_offered(name: str, thing: Any) -> bool:
    try:
        return _found("agentpool", name) is thing
    except UnreadableDataError:
        return False


def found_again(reference: str) -> Any:
    """Return what `reference_of` named.

    Raises:
      UnreadableDataError: if it is not there any more.
    """
    module, _, name = str(reference).rpartition(":")  # a directory may have a colon in it
    return _found(module, name)


def _found(module: str, name: str) -> Any:
    try:
        found: Any = named_member(module) if BESIDE_MARK in module else importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise UnreadableDataError(f"{module}:{name} is not there: {error}") from error
    return found


def _class_of(reference: str) -> type:
    found = found_again(reference)
    if not isinstance(found, type):
        raise UnreadableDataError(f"{reference} is no class any more")
    return found


# -- from data -------------------------------------------------------------------------------


def object_from_data(data: Any) -> Any:
    """Return the value of which `object_to_data` made this.

    Raises:
      UnreadableDataError: if a class that it names is not there any more, or it is no such data.
    """
    try:
        return _from_data(data)
    except RecursionError as error:
        raise UnreadableDataError("it is nested too deep") from error


def _from_data(data: Any) -> Any:
    if isinstance(data, list):
        return [_from_data(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        ((key, inner),) = data.items()
        if key.startswith("$"):
            return _read(key, inner)
    return _from_fields(data)


def _from_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict of texts and what stands under them, whatever the texts are."""
    return {key: _from_data(item) for key, item in data.items()}


def _read(key: str, inner: Any) -> Any:
    reader = _READERS.get(key)
    if reader is None:
        raise UnreadableDataError(f"{key} is no form of data that this agentpool knows")
    try:
        return reader(inner)
    except (UnreadableDataError, RecursionError):
        raise
    except Exception as error:
        raise UnreadableDataError(f"{key} cannot be read: {error}") from error


def _read_enum(inner: Sequence[str]) -> Any:
    kind = _class_of(inner[0])
    if not issubclass(kind, enum.Enum):
        raise UnreadableDataError(f"{inner[0]} is no enum any more")
    return kind.__members__[inner[1]]


def _read_flag(inner: Sequence[Any]) -> Any:
    kind = _class_of(inner[0])
    if not issubclass(kind, enum.Flag):
        raise UnreadableDataError(f"{inner[0]} is no flag any more")
    return kind(inner[1])


def _time_reader(kind: type[datetime.datetime] | type[datetime.time]) -> Callable[[Any], Any]:
    def read(inner: Any) -> Any:
        if isinstance(inner, str):
            return kind.fromisoformat(inner)
        text, zone, fold = inner
        value = kind.fromisoformat(text).replace(fold=fold)
        return value if zone is None else value.replace(tzinfo=zoneinfo.ZoneInfo(zone))

    return read


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "$text": "".join,
    "$int": lambda text: int(text, 16),
    "$float": float,
    "$dict": lambda pairs: {_from_data(key): _from_data(item) for key, item in pairs},
    "$tuple": lambda items: tuple(_from_data(items)),
    "$set": lambda items: set(_from_data(items)),
    "$frozenset": lambda items: frozenset(_from_data(items)),
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$bytearray": lambda text: bytearray(base64.b64decode(text, validate=True)),
    "$complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "$datetime": _time_reader(datetime.datetime),
    "$date": datetime.date.fromisoformat,
    "$time": _time_reader(datetime.time),
    "$timedelta": lambda parts: datetime.timedelta(*parts),
    "$decimal": decimal.Decimal,
    "$uuid": uuid.UUID,
    "$path": pathlib.Path,
    "$transcript": lambda items: Transcript(_from_data(items)),
    "$object": _read_object,
    "$model": _read_model,
    "$named": _read_named,
    "$enum": _read_enum,
    "$flag": _read_flag,
    "$error": _read_error,
}
