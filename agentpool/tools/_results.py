"""What a tool returned, as a model is told: text, parts of content, or JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Set
from typing import Any

import attrs

from agentpool._core.content import Document, Image, Part, Text, told_of_file
from agentpool._core.messages import ToolResult
from agentpool._core.text import named

MAX_ITEMS = 10_000
"""So many items of a generator are taken; it might have no end."""

_PARTS = (Text, Image, Document)


def as_result(value: Any) -> ToolResult:
    """Return the result that a function's value stands for.

    Raises:
      TypeError: if it is, or holds, something that JSON cannot carry.
    """
    if isinstance(value, str):
        return ToolResult(str.__str__(value))  # of an enum's member its value
    if isinstance(value, ToolResult):
        return value
    if value is None:
        return ToolResult("ok")
    if type(value) is int:  # needs no pydantic, which takes 1.2 µs
        return ToolResult(str(value))
    if isinstance(value, _PARTS):
        return ToolResult((value,))
    if isinstance(value, BaseException):  # an error that is handed on as a value is one all the same
        return ToolResult(named(value), is_error=True)
    if isinstance(value, list | tuple) and any(isinstance(item, _PARTS) for item in value):
        return ToolResult(tuple(part for item in value for part in _as_parts(item)))
    files: list[Part] = []
    text = _to_json(value, files)
    return ToolResult((Text(text), *files) if files else text)


def listed(value: Any) -> Any:
    """Return the items of a generator or another iterator, also in a dict, and anything else as it is.

    Runs the code of the generator.

    Raises:
      TypeError: if it has more than `MAX_ITEMS`.
    """
    if isinstance(value, dict) and any(hasattr(type(inner), "__next__") for inner in value.values()):
        return {key: listed(inner) for key, inner in value.items()}
    if not isinstance(value, Iterator):
        return value
    items = list(itertools.islice(value, MAX_ITEMS + 1))
    if len(items) <= MAX_ITEMS:
        return items
    raise TypeError(
        f"a tool returned a {type(value).__name__} with more than {MAX_ITEMS:,} items, perhaps without end; "
        "return a list of those that matter"
    )


def _as_parts(value: Any) -> tuple[Part, ...]:
    """Return a value as parts: JSON, and behind it the pictures and documents that are in it."""
    if isinstance(value, _PARTS):
        return (value,)
    if isinstance(value, str):
        return (Text(str.__str__(value)),)
    files: list[Part] = []
    return (Text(_to_json(value, files)), *files)


def _to_json(value: Any, files: list[Part]) -> str:
    import pydantic_core

    def fallback(inner: Any) -> Any:
        return _known(inner, files)

    options: dict[str, Any] = {"fallback": fallback, "bytes_mode": "base64", "inf_nan_mode": "strings"}
    try:
        try:
            return pydantic_core.to_json(value, **options).decode()
        except pydantic_core.PydanticSerializationError as error:
            if "surrogates not allowed" not in str(error):
                raise
            files.clear()
            return _without_surrogates(json.dumps(pydantic_core.to_jsonable_python(value, **options)))
    except (pydantic_core.PydanticSerializationError, UnicodeError) as error:
        raise TypeError(
            f"a tool returned a {type(value).__name__} that JSON cannot carry ({error}); return a str, "
            "a ToolResult, Text, Image or Document, or what JSON has"
        ) from error


def _without_surrogates(text: str) -> str:
    """Return JSON without halves of characters, which UTF-8 cannot carry: two of them become one."""
    whole = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _known(value: Any, files: list[Part]) -> Any:
    """Return what JSON can carry in the place of something that it does not know."""
    if isinstance(value, Text):
        return value.text
    if isinstance(value, Image | Document):
        files.append(value)
        return told_of_file(value)
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return list(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, range):
        return listed(iter(value))
    as_list = getattr(value, "tolist", None)  # arrays and numbers of NumPy and those who follow it
    if callable(as_list) and not isinstance(value, type):
        return as_list()
    raise TypeError(f"{type(value).__name__} has no JSON form")
