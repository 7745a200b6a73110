"""Python values as JSON data, and back: what a journal keeps of agents that are functions.

JSON has texts, numbers, lists and dicts. What else there is stands in a dict with one key that begins
with `$`: tuples and sets, bytes, times, enums, exceptions, and objects of attrs classes, dataclasses,
pydantic models and named tuples, which name their class as `module:name`. Reading imports that class and
nothing else: no pickle, no call of what the data says. It sets an object's fields and calls no
`__init__`, so that no converter runs twice.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import importlib
import math
import pathlib
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from agentpool._core.transcript import Transcript
from agentpool._loading import BESIDE_MARK, member_name, named_member

_JOINED = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
DEEPEST = 100
"""How deep values may be nested; a list that holds itself is deeper than any bound."""


class NotDataError(TypeError):
    """A value cannot be written as data; the text says which one, and where in the whole it stands."""


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
    return _to_data(value, "", 0)


def _to_data(value: Any, where: str, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return value
    if kind is str:
        pieces = _JOINED.split(value)
        return value if len(pieces) == 1 else {"$text": pieces}
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if depth >= DEEPEST:
        raise NotDataError(f"{where or 'it'} is nested deeper than {DEEPEST} levels, or holds itself")
    if kind is list:
        return _items(value, where, depth)
    if kind is dict:
        return _dict_to_data(value, where, depth)
    writer = _WRITERS.get(kind)
    if writer is not None:
        return writer(value, where, depth)
    return _object_to_data(value, kind, where, depth)


def _items(values: Iterable[Any], where: str, depth: int) -> list[Any]:
    return [_to_data(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(values)]


def _dict_to_data(value: dict[Any, Any], where: str, depth: int) -> dict[str, Any]:
    plain = all(type(key) is str and not _JOINED.search(key) for key in value)
    if plain and not (len(value) == 1 and next(iter(value)).startswith("$")):
        return {key: _to_data(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    pairs = [
        [
            _to_data(key, f"a key of {where or 'it'}", depth + 1),
            _to_data(item, f"{where}[{key!r}]", depth + 1),
        ]
        for key, item in value.items()
    ]
    return {"$dict": pairs}


def _set_to_data(name: str) -> Callable[[Any, str, int], Any]:
    def write(value: Any, where: str, depth: int) -> Any:
        # In an order of its own: that of a set changes from process to process.
        return {name: sorted(_items(value, where, depth), key=repr)}

    return write


_WRITERS: Mapping[type, Callable[[Any, str, int], Any]] = {
    tuple: lambda value, where, depth: {"$tuple": _items(value, where, depth)},
    set: _set_to_data("$set"),
    frozenset: _set_to_data("$frozenset"),
    bytes: lambda value, where, depth: {"$bytes": base64.b64encode(value).decode("ascii")},
    bytearray: lambda value, where, depth: {"$bytearray": base64.b64encode(value).decode("ascii")},
    complex: lambda value, where, depth: {"$complex": [str(value.real), str(value.imag)]},
    datetime.datetime: lambda value, where, depth: {"$datetime": value.isoformat()},
    datetime.date: lambda value, where, depth: {"$date": value.isoformat()},
    datetime.time: lambda value, where, depth: {"$time": value.isoformat()},
    datetime.timedelta: lambda value, where, depth: {
        "$timedelta": [value.days, value.seconds, value.microseconds]
    },
    decimal.Decimal: lambda value, where, depth: {"$decimal": str(value)},
    uuid.UUID: lambda value, where, depth: {"$uuid": str(value)},
    pathlib.PosixPath: lambda value, where, depth: {"$path": str(value)},
    Transcript: lambda value, where, depth: {"$transcript": _items(value, where, depth)},
    pathlib.WindowsPath: lambda value, where, depth: {"$path": str(value)},
}


def _object_to_data(value: Any, kind: type, where: str, depth: int) -> Any:
    name = reference_of(kind)
    told = where or "it"
    if name is None:
        raise NotDataError(
            f"{told} is a {kind.__qualname__}, whose class cannot be found again by its name:"
            " define the class at the top of a module"
        )
    if isinstance(value, enum.Enum):
        return {"$enum": [name, value.name]}
    if isinstance(value, BaseException):
        return {"$error": _error_to_data(value, name, depth)}
    fields = _fields_of(value, kind)
    if fields is None:
        raise NotDataError(
            f"{told} is a {kind.__qualname__}, which cannot be kept: give data, or an object of an attrs"
            " class, a dataclass, a pydantic model or a named tuple"
        )
    data = {key: _to_data(item, f"{where}.{key}", depth + 1) for key, item in fields.items()}
    return {"$object": [name, data]}


def _fields_of(value: Any, kind: type) -> Mapping[str, Any] | None:
    """Return the fields of an object of a class that has them; None of another."""
    if attrs.has(kind):
        return {field.name: getattr(value, field.name) for field in attrs.fields(kind)}
    if dataclasses.is_dataclass(kind):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(kind)
            if hasattr(value, field.name)
        }
    if hasattr(kind, "model_fields") and hasattr(kind, "model_construct"):
        return {**vars(value), **(getattr(value, "__pydantic_extra__", None) or {})}
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return dict(zip(kind._fields, value, strict=True))
    return None


def _error_to_data(error: BaseException, name: str, depth: int) -> dict[str, Any]:
    """Return an exception as data: what cannot be kept of it is left out, never the whole."""
    data: dict[str, Any] = {"kind": name, "text": _text_of(error)}
    if isinstance(error, BaseExceptionGroup):
        data["message"] = error.message
        data["errors"] = [_kept(inner, depth + 1) for inner in error.exceptions]
    else:
        data.update(_args_to_data(error, depth))
    kept = {key: _kept((item,), depth + 1) for key, item in vars(error).items()}
    attributes = {key: item for key, item in kept.items() if item is not None}
    if attributes:
        data["attributes"] = attributes
    return data


def _args_to_data(error: BaseException, depth: int) -> dict[str, Any]:
    args = _kept(error.args, depth + 1)
    if args is None:
        return {}
    # Some classes keep less in `args` than they are made of, such as OSError with the name of a file.
    reduced: Any = error.__reduce__()
    made = reduced[1] if reduced[0] is type(error) else error.args
    if made == error.args:
        return {"args": args}
    kept = _kept(made, depth + 1)
    return {"args": args} if kept is None else {"args": args, "made_of": kept}


def error_to_data(error: BaseException) -> Any:
    """Return an exception as JSON data; of one that cannot be kept, its class and its text. Never raises."""
    return _kept(error, 0)


def _kept(value: Any, depth: int) -> Any:
    try:
        return _to_data(value, "", depth)
    except NotDataError:
        if isinstance(value, BaseException):
            return {"$error": {"kind": type(value).__qualname__, "text": _text_of(value)}}
        return None


def _text_of(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return "it has no text"


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


# -- from data -------------------------------------------------------------------------------


def object_from_data(data: Any) -> Any:
    """Return the value of which `object_to_data` made this.

    Raises:
      UnreadableDataError: if a class that it names is not there any more, or it is no such data.
    """
    if isinstance(data, list):
        return [object_from_data(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        ((key, inner),) = data.items()
        reader = _READERS.get(key)
        if reader is not None:
            try:
                return reader(inner)
            except UnreadableDataError:
                raise
            except Exception as error:
                raise UnreadableDataError(f"{key} cannot be read: {error}") from error
    return {key: object_from_data(item) for key, item in data.items()}


def found_again(reference: str) -> Any:
    """Return what `reference_of` named.

    Raises:
      UnreadableDataError: if it is not there any more.
    """
    module, _, name = reference.rpartition(":")  # a directory may have a colon in it
    return _found(module, name)


def _found(module: str, name: str) -> Any:
    try:
        found: Any = named_member(module) if BESIDE_MARK in module else importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise UnreadableDataError(f"{module}:{name} is not there: {error}") from error
    return found


def _read_object(inner: Sequence[Any]) -> Any:
    reference, data = inner
    kind = found_again(reference)
    fields = {key: object_from_data(item) for key, item in data.items()}
    if not isinstance(kind, type):
        raise UnreadableDataError(f"{reference} is no class any more")
    if issubclass(kind, tuple):
        return kind(**fields)
    if hasattr(kind, "model_construct"):
        return kind.model_construct(**fields)
    if not (attrs.has(kind) or dataclasses.is_dataclass(kind)):
        raise UnreadableDataError(f"{reference} has no fields any more")
    fields_now: Iterable[Any] = attrs.fields(kind) if attrs.has(kind) else dataclasses.fields(kind)  # type: ignore[arg-type]
    known = {field.name for field in fields_now}
    if known != fields.keys():
        changed = ", ".join(sorted(known.symmetric_difference(fields)))
        raise UnreadableDataError(f"the fields of {reference} have changed: {changed}")
    value = object.__new__(kind)
    for name, item in fields.items():
        object.__setattr__(value, name, item)
    return value


def _read_enum(inner: Sequence[str]) -> Any:
    return found_again(inner[0])[inner[1]]


def _read_error(data: Mapping[str, Any]) -> BaseException:
    try:
        kind = found_again(data["kind"])
    except UnreadableDataError:
        return Unkept(data["kind"], data["text"])
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        return Unkept(data["kind"], data["text"])
    if issubclass(kind, BaseExceptionGroup):
        return kind(data["message"], [object_from_data(inner) for inner in data["errors"]])
    if "args" not in data:
        return Unkept(data["kind"], data["text"])
    args = object_from_data(data["args"])
    error: BaseException = kind.__new__(kind, *object_from_data(data.get("made_of", data["args"])))
    error.args = args
    for name, kept in data.get("attributes", {}).items():
        (value,) = object_from_data(kept)
        setattr(error, name, value)
    return error


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "$text": "".join,
    "$float": float,
    "$dict": lambda pairs: {object_from_data(key): object_from_data(item) for key, item in pairs},
    "$tuple": lambda items: tuple(object_from_data(items)),
    "$set": lambda items: set(object_from_data(items)),
    "$frozenset": lambda items: frozenset(object_from_data(items)),
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$bytearray": lambda text: bytearray(base64.b64decode(text, validate=True)),
    "$complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$time": datetime.time.fromisoformat,
    "$timedelta": lambda parts: datetime.timedelta(*parts),
    "$decimal": decimal.Decimal,
    "$uuid": uuid.UUID,
    "$path": pathlib.Path,
    "$transcript": lambda items: Transcript(object_from_data(items)),
    "$object": _read_object,
    "$enum": _read_enum,
    "$error": _read_error,
}
