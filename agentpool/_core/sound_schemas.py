"""JSON schemas as strangers write them, made well-formed: what is no schema is left out.

Servers of tools send `null` for what they leave out, lists where the newer drafts want one schema, and
arrays that do not say what is in them. A provider refuses a whole request for one such tool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TABLES = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SCHEMAS = frozenset(
    {
        "additionalProperties",
        "additionalItems",
        "unevaluatedProperties",
        "unevaluatedItems",
        "propertyNames",
        "contains",
        "not",
        "if",
        "then",
        "else",
    }
)
_VALUES = frozenset({"const", "default", "enum", "examples", "example"})


def sound_schema(schema: object) -> dict[str, Any]:
    """Return a schema in which each keyword has a value of its kind, and each array says what is in it."""
    if not isinstance(schema, Mapping):  # true and false are schemas, too
        return {"not": {}} if schema is False else {}
    result: dict[str, Any] = {}
    for name, value in schema.items():
        sound = _sound(str(name), value)
        if sound is not None or (name in ("const", "default") and value is None):
            result[str(name)] = sound
    kind = result.get("type")
    if "items" not in result and (kind == "array" or (isinstance(kind, list) and "array" in kind)):
        result["items"] = {}
    return result


def _sound(name: str, value: Any) -> Any:
    """Return the value of a keyword; None if it is none."""
    if name in _TABLES:
        return {str(key): sound_schema(item) for key, item in value.items()} if _is_table(value) else None
    if name in _LISTS:
        return [sound_schema(item) for item in value] if isinstance(value, list) and value else None
    if name == "items":
        return _items(value)
    if name in _SCHEMAS:
        return value if isinstance(value, bool) else sound_schema(value) if _is_table(value) else None
    if name == "enum":
        return value if isinstance(value, list) and value else None
    if name in _VALUES:
        return value
    if name == "required":
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else None
    if name == "type":
        return value if isinstance(value, str) or (isinstance(value, list) and value) else None
    return value


def _items(value: Any) -> dict[str, Any] | None:
    """Return what the items of an array are; a list of schemas, one for each place, was the old way."""
    if not isinstance(value, list):
        return None if value is None else sound_schema(value)
    kinds: list[dict[str, Any]] = []
    for item in map(sound_schema, value):
        if item not in kinds:
            kinds.append(item)
    return {"anyOf": kinds} if len(kinds) > 1 else (kinds[0] if kinds else {})


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)
