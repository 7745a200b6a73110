"""Text with placeholders: `{name}`, `{name[0]}`, and `{{` `}}` for braces that are meant literally."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import attrs

_TOKEN = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)(?:\[([0-9]{1,9})\])?\}|[{}]")


@attrs.frozen
class Placeholder:
    """A place in a text that a value goes to: `{name}`, or `{name[index]}`."""

    name: str
    index: int | None = None

    def __str__(self) -> str:
        return f"{{{self.name}}}" if self.index is None else f"{{{self.name}[{self.index}]}}"


class TemplateError(ValueError):
    """A brace belongs to no placeholder.

    Attributes:
      position: which character of the text it is, from 1.
    """

    def __init__(self, brace: str, position: int) -> None:
        self.brace = brace
        self.position = position
        super().__init__(f"the '{brace}' at character {position} belongs to no placeholder")


def parse_template(text: str) -> tuple[str | Placeholder, ...]:
    """Split a text into its literal parts and its placeholders.

    Raises:
      TemplateError: if a single brace belongs to no placeholder.
    """
    parts: list[str | Placeholder] = []
    end = 0
    for token in _TOKEN.finditer(text):
        parts.append(text[end : token.start()])
        parts.append(_part(token))
        end = token.end()
    parts.append(text[end:])
    return tuple(part for part in parts if part)


def _part(token: re.Match[str]) -> str | Placeholder:
    if token[1] is not None:
        return Placeholder(token[1], None if token[2] is None else int(token[2]))
    if len(token[0]) == 1:
        raise TemplateError(token[0], token.start() + 1)
    return token[0][0]


def render_template(text: str, values: Mapping[str, str | Sequence[str]]) -> str:
    """Fill the placeholders of a text; what is filled in is not looked at again.

    Args:
      text: the text with its placeholders.
      values: a string for each `{name}`, a sequence of strings for each `{name[index]}`.

    Raises:
      TemplateError: if a single brace belongs to no placeholder.
      LookupError: if a placeholder has no value.
    """
    return "".join(part if isinstance(part, str) else _value(part, values) for part in parse_template(text))


def _value(place: Placeholder, values: Mapping[str, str | Sequence[str]]) -> str:
    value = values.get(place.name)
    if place.index is None and isinstance(value, str):
        return value
    if place.index is not None and value is not None and not isinstance(value, str):
        if place.index < len(value):
            return value[place.index]
        raise LookupError(f"{place} has no value yet: there are {len(value)}")
    raise LookupError(f"{place} has no value")


def map_strings(value: object, change: Callable[[str], str]) -> object:
    """Return a copy of JSON-like data with every string changed, except the keys of tables."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(item, change) for item in value]
    return value
