"""JSON schemas of answers: which may be sent as strict ones, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LOOSE = frozenset(
    {
        "patternProperties",
        "unevaluatedProperties",
        "propertyNames",
        "if",
        "then",
        "else",
        "not",
        "allOf",
        "oneOf",
        "dependentRequired",
        "dependentSchemas",
        "prefixItems",
        "contains",
        "default",
    }
)


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a schema as OpenAI takes it for strict answers; None if it cannot be one.

    Strict answers need objects whose properties are all required and that have no others. Nothing
    is made required that was not: such a schema is sent, but not as a strict one.
    """
    strict = _strict(schema)
    if isinstance(strict, dict) and strict.get("type") == "object":
        return strict
    return None


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        items = [_strict(item) for item in node]
        return None if any(item is None for item in items) else items
    if not isinstance(node, Mapping):
        return node
    if node.keys() & _LOOSE:
        return None
    result: dict[str, Any] = {}
    for name, value in node.items():
        if name in ("properties", "$defs", "definitions"):
            inner = {key: _strict(item) for key, item in value.items()}
            if any(item is None for item in inner.values()):
                return None
            result[name] = inner
        elif name in ("items", "anyOf"):
            result[name] = _strict(value)
            if result[name] is None:
                return None
        else:
            result[name] = value
    if "properties" in node or node.get("type") == "object":
        names = node.get("properties", {})
        if set(node.get("required", ())) != set(names) or node.get("additionalProperties"):
            return None
        result["additionalProperties"] = False
    return result
