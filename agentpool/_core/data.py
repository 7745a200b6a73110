"""The values that travel as JSON data, and back; nothing of them is lost.

A field that has its default is left out: so a cassette is short, and stays valid when a value gets a
field more. What JSON has no form for is a dict of one key that begins with `$`: bytes, text whose
surrogates JSON would join, a dict whose keys are no texts.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import attrs

from agentpool._core import errors
from agentpool._core.content import Content, Document, Image, Part, Text
from agentpool._core.errors import DriverError
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    ProviderData,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.usage import TokenUsage

_KINDS: dict[type, dict[str, str]] = {
    UserMessage: {"role": "user"},
    AssistantMessage: {"role": "assistant"},
    ToolMessage: {"role": "tool"},
    Text: {"type": "text"},
    Image: {"type": "image"},
    Document: {"type": "document"},
}
_OWN_FORMS = ("$bytes", "$text", "$dict")
_WOULD_BE_JOINED = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")


def to_data(value: Any) -> Any:
    """Return a value as JSON data: dicts, lists, texts, numbers, booleans and None."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        pieces = _WOULD_BE_JOINED.split(value)
        return value if len(pieces) == 1 else {"$text": pieces}
    if isinstance(value, bytes | bytearray):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        return _dict_to_data(value)
    if attrs.has(type(value)):
        return _fields(value)
    if isinstance(value, set | frozenset):
        return sorted(map(to_data, value), key=canonical)
    if isinstance(value, Iterable):
        return [to_data(item) for item in value]
    return str(value)


def _dict_to_data(value: Mapping[Any, Any]) -> Any:
    is_plain = all(isinstance(key, str) and not _WOULD_BE_JOINED.search(key) for key in value)
    if is_plain and not (len(value) == 1 and next(iter(value)) in _OWN_FORMS):
        return {key: to_data(item) for key, item in value.items()}
    return {"$dict": [[to_data(key), to_data(item)] for key, item in value.items()]}


def _fields(value: attrs.AttrsInstance) -> dict[str, Any]:
    data: dict[str, Any] = dict(_KINDS.get(type(value), {}))
    for field in attrs.fields(type(value)):
        given = getattr(value, field.name)
        if given != _default(field, value):
            data[field.name] = to_data(given)
    return data


def _default(field: attrs.Attribute[Any], value: object) -> Any:
    factory: Any = field.default
    if not isinstance(factory, attrs.Factory):  # type: ignore[arg-type]
        return factory
    return factory.factory(value) if factory.takes_self else factory.factory()


def from_data(data: Any) -> Any:
    """Return what was given to `to_data`, if it was made of dicts, lists, texts, numbers and bytes.

    Raises:
      ValueError, TypeError: if it cannot be read.
    """
    if isinstance(data, list):
        return [from_data(item) for item in data]
    if not isinstance(data, dict):
        return data
    match data:
        case {"$bytes": text} if len(data) == 1:
            return base64.b64decode(text, validate=True)
        case {"$text": pieces} if len(data) == 1:
            return "".join(pieces)
        case {"$dict": pairs} if len(data) == 1:
            return {from_data(key): from_data(item) for key, item in pairs}
    return {key: from_data(item) for key, item in data.items()}


def text_of_bytes(data: Any) -> str | None:
    """Return the text that bytes hold of which `to_data` made this; None if it is no text, or no bytes."""
    match data:
        case {"$bytes": str(text)} if len(data) == 1:
            with suppress(ValueError):
                return base64.b64decode(text, validate=True).decode()
    return None


def completion_from_data(data: Any) -> Completion:
    """Return the completion of which `to_data` made this.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: if it is not one.
    """
    fields = _with_calls({name: from_data(value) for name, value in data.items()})
    if "usage" in fields:
        fields["usage"] = TokenUsage(**fields["usage"])
    return Completion(**fields)


def message_from_data(data: Any) -> ChatMessage:
    """Return the message of a conversation of which `to_data` made this.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: if it is not one.
    """
    fields: dict[str, Any] = {name: from_data(value) for name, value in data.items()}
    role = fields.pop("role")
    if role == "assistant":
        return AssistantMessage(**_with_calls(fields))
    if role == "user":
        return UserMessage(_content(fields.pop("content")), **fields)
    if role == "tool":
        result = fields.pop("result")
        return ToolMessage(result=ToolResult(_content(result.pop("content")), **result), **fields)
    raise ValueError(f"there is no role {role!r}")


_PARTS: Mapping[str, type[Part]] = {kind["type"]: part for part, kind in _KINDS.items() if "type" in kind}


def _content(given: Any) -> Content:
    if isinstance(given, str):
        return given
    return tuple(_PARTS[part.pop("type")](**part) for part in given)


def _with_calls(fields: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" in fields:
        fields["tool_calls"] = [ToolCall(**_with_provider_data(call)) for call in fields["tool_calls"]]
    return _with_provider_data(fields)


def _with_provider_data(fields: dict[str, Any]) -> dict[str, Any]:
    given = fields.get("provider_data")
    return fields if given is None else {**fields, "provider_data": ProviderData(**given)}


def canonical(data: Any) -> str:
    """Return JSON data as text that is equal for equal data: 1.0 is 1, the order of keys is none."""
    return json.dumps(_with_whole_numbers(data), sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _with_whole_numbers(data: Any) -> Any:
    if isinstance(data, float) and data.is_integer():
        return int(data)
    if isinstance(data, list):
        return [_with_whole_numbers(item) for item in data]
    if isinstance(data, dict):
        return {key: _with_whole_numbers(item) for key, item in data.items()}
    return data


# -- errors ------------------------------------------------------------------------

_ERRORS: dict[str, type[DriverError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, DriverError)
}
_OF_THE_CLASS = ("retryable", "may_have_cost")


def error_to_data(error: DriverError) -> dict[str, Any]:
    """Return an error as JSON data; a kind of a driver's own becomes the nearest one of ours."""
    kind = next(kind for kind in type(error).__mro__ if _ERRORS.get(kind.__name__) is kind)
    data: dict[str, Any] = {"kind": kind.__name__, "message": str(error)}
    for name in sorted({*vars(error), *_OF_THE_CLASS}):
        value = getattr(error, name)
        if value != getattr(kind, name, None) and _can_be_kept(value) and not name.startswith("_"):
            data[name] = to_data(value)
    return data


def _can_be_kept(value: object) -> bool:
    """Return whether it comes back as it was."""
    if isinstance(value, list):
        return all(map(_can_be_kept, value))
    if isinstance(value, dict):
        return all(map(_can_be_kept, [*value, *value.values()]))
    return value is None or isinstance(value, str | bool | int | float | bytes)


def error_from_data(data: Mapping[str, Any]) -> DriverError:
    """Return the error of which `error_to_data` made this.

    Raises:
      KeyError, TypeError: if it is not one.
    """
    error = _ERRORS[data["kind"]](data["message"])
    for name, value in data.items():
        if name not in ("kind", "message"):
            setattr(error, name, from_data(value))
    return error
