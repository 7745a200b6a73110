"""JSON schemas, made fit for servers that take a part of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agentpool._core.sound_schemas import sound_schema

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
    strict = _strict(sound_schema(schema))
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


# -- for servers that know a part of JSON schema ----------------------------------------------


def inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without `$ref`: what one points to stands in its place.

    Gemini takes `$ref` only where nothing stands beside it, and others drop it without a word.
    Something that contains itself is an object of any form the second time, with its name in the
    description. `oneOf` becomes `anyOf`, `const` an `enum` of one, and `allOf` of a single schema
    that schema.
    """
    return _Inliner(schema).node(schema, ())


_OF_DOCUMENTS = ("$ref", "$defs", "definitions", "$schema", "$id", "$comment")


_MOST_FOUND = 500
"""So many references are followed: of schemas that contain each other there is no end soon enough."""


class _Inliner:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MOST_FOUND

    def node(self, node: Any, inside: tuple[str, ...]) -> dict[str, Any]:
        """Return one schema; `inside` are the references that it stands in."""
        if not isinstance(node, Mapping):  # true and false are schemas, too
            return {}
        reference = node.get("$ref")
        rest = {key: value for key, value in node.items() if key not in _OF_DOCUMENTS}
        if isinstance(reference, str):
            self._left -= 1
            if reference in inside or self._left < 0:
                name = reference.rpartition("/")[2]
                return {"type": "object", "description": f"like {name}", **self._inner(rest, inside)}
            return {**self.node(self._found(reference), (*inside, reference)), **self._inner(rest, inside)}
        return self._inner(rest, inside)

    def _inner(self, node: Mapping[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.items():
            if key in ("properties", "patternProperties") and isinstance(value, Mapping):
                result[key] = {name: self.node(item, inside) for name, item in value.items()}
            elif key in ("anyOf", "oneOf") and isinstance(value, list):
                result["anyOf"] = [self.node(item, inside) for item in value]
            elif key == "prefixItems" and isinstance(value, list):
                result[key] = [self.node(item, inside) for item in value]
            elif key == "allOf" and isinstance(value, list):
                for item in value:
                    _combine(result, self.node(item, inside))
            elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
                result[key] = self.node(value, inside)
            elif key == "const":
                result["enum"] = [value]
            else:
                result[key] = value
        return result

    def _found(self, reference: str) -> Any:
        found: Any = self._root
        for part in reference.removeprefix("#").strip("/").split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            found = found.get(part) if isinstance(found, Mapping) else None
        return found


def _combine(schema: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put a second schema that holds as well into the first."""
    for key, value in other.items():
        if key == "properties" and isinstance(schema.get(key), dict):
            schema[key] = {**schema[key], **value}
        elif key == "required" and isinstance(schema.get(key), list):
            schema[key] = list(dict.fromkeys([*schema[key], *value]))
        else:
            schema.setdefault(key, value)


_TYPES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}
_ANYTHING = ["string", "number", "boolean", "object", "array", "null"]


def implied_type(schema: Mapping[str, Any]) -> Any:
    """Return the `type` of a schema, as it is given or as it follows from the rest of it."""
    if schema.get("type"):
        return schema["type"]
    if isinstance(schema.get("enum"), list):
        names = list(dict.fromkeys(_TYPES.get(type(value), "string") for value in schema["enum"]))
        return names[0] if len(names) == 1 else names
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return list(_ANYTHING)


_SAID: dict[str, str] = {
    "default": "default {}",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minProperties": "at least {} properties",
    "maxProperties": "at most {} properties",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matches {}",
    "format": "format {}",
    "examples": "for example {}",
    "enum": "one of {}",
    "additionalProperties": "each value is {}",
    "patternProperties": "properties by the patterns of their names: {}",
    "prefixItems": "the items are {}",
    "not": "not {}",
}


def described(schema: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a schema in which the description says what these keywords would.

    For servers that drop keywords without a word.
    """
    said = [
        _SAID[key].format(json.dumps(schema[key], ensure_ascii=False, default=str))
        for key in keys
        if key in schema and not isinstance(schema[key], bool) and schema[key] not in (None, {})
    ]
    if not said:
        return schema
    description = schema.get("description")
    text = f"({', '.join(said)})"
    return {**schema, "description": f"{description} {text}" if description else text}


def for_ollama(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool's arguments in the keywords that Ollama passes on to a model.

    Those are `type`, `properties`, `required`, `items`, `enum`, `anyOf` and `description`; all
    others are said in the description.
    """
    return _ollama_node(inlined(object_schema(schema)))


_OLLAMA_DROPS = tuple(key for key in _SAID if key != "enum")


def _ollama_node(node: dict[str, Any]) -> dict[str, Any]:
    node = described(node, _OLLAMA_DROPS)
    result: dict[str, Any] = {key: node[key] for key in ("description", "enum", "required") if key in node}
    variants = [_ollama_node(item) for item in node.get("anyOf", ())]
    if variants and all(item.keys() <= {"type"} for item in variants):
        types = [name for item in variants for name in _listed(item["type"])]
        result["type"] = list(dict.fromkeys(types))
    elif variants:
        result["anyOf"] = variants
        if "type" in node:
            result["type"] = node["type"]
    else:
        result["type"] = implied_type(node)
    if "properties" in node:
        result["properties"] = {name: _ollama_node(item) for name, item in node["properties"].items()}
    if isinstance(node.get("items"), dict) and node["items"]:
        result["items"] = _ollama_node(node["items"])
    return result


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


_OPEN_API: tuple[str, ...] = (
    "title",
    "description",
    "required",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "pattern",
)
_OPEN_API_DROPS: tuple[str, ...] = (
    "default",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "examples",
    "additionalProperties",
    "patternProperties",
    "prefixItems",
    "not",
)
_OPEN_API_FORMATS = ("enum", "date-time", "int32", "int64", "float", "double")


def open_api_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema in the subset of OpenAPI 3.0 that Gemini's first form of schemas takes.

    It has one type for each schema, `nullable`, and enums of strings; all else is said in the
    description.
    """
    return _open_api_node(inlined(schema))


def _open_api_node(node: dict[str, Any]) -> dict[str, Any]:
    drops: list[str] = list(_OPEN_API_DROPS)
    enum = node.get("enum")
    if isinstance(enum, list) and not all(isinstance(value, str) for value in enum):
        drops.append("enum")
        enum = None
    if node.get("format") not in _OPEN_API_FORMATS:
        drops.append("format")
    node = described(node, drops)
    result: dict[str, Any] = {key: node[key] for key in _OPEN_API if key in node}
    if "format" in node and "format" not in drops:
        result["format"] = node["format"]
    if enum:
        result["enum"] = enum
    variants: list[dict[str, Any]] = list(node.get("anyOf", ()))
    if not variants:
        kinds = _listed(implied_type(node))
        bare = {key: value for key, value in node.items() if key in ("items", "properties")}
        variants = [{"type": kind, **bare} for kind in kinds]
    some = [item for item in variants if item.get("type") != "null"]
    if len(some) < len(variants):
        result["nullable"] = True
    if len(some) == 1 and "anyOf" in node:
        return {**_open_api_node(some[0]), **result}
    if len(some) > 1:
        result["anyOf"] = [_open_api_node(item) for item in some]
        return result
    result["type"] = some[0]["type"] if some else "string"
    if result["type"] == "object" and node.get("properties"):
        result["properties"] = {name: _open_api_node(item) for name, item in node["properties"].items()}
        # What is needed and not there is refused.
        needed = [name for name in result.pop("required", ()) if name in result["properties"]]
        if needed:
            result["required"] = needed
    if result["type"] == "array":
        result["items"] = _open_api_node(
            node["items"] if isinstance(node.get("items"), dict) and node["items"] else {"type": "string"}
        )
    return result


def closed_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a schema whose objects have no properties but their own, as Anthropic takes it.

    What it does not take, such as `minimum`, is said in the description. None if an object in it may
    have other properties.
    """
    closed = _closed(sound_schema(schema))
    return closed if isinstance(closed, dict) and closed.get("type") == "object" else None


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        items = [_closed(item) for item in node]
        return None if any(item is None for item in items) else items
    if not isinstance(node, Mapping):
        return node
    drops = list(_unclosable(node))
    node = described(dict(node), drops)
    result: dict[str, Any] = {}
    for name, value in node.items():
        if name in drops:
            continue
        if name == "oneOf":
            name = "anyOf"
        if name in ("properties", "$defs", "definitions"):
            inner = {key: _closed(item) for key, item in value.items()}
            if any(item is None for item in inner.values()):
                return None
            result[name] = inner
        elif name in ("items", "anyOf", "allOf"):
            result[name] = _closed(value)
            if result[name] is None:
                return None
        else:
            result[name] = value
    if "properties" in node or node.get("type") == "object":
        if node.get("additionalProperties"):
            return None
        result["additionalProperties"] = False
    return result


_CLOSED_DROPS = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "minProperties",
    "maxProperties",
)
_CLOSED_FORMATS = (
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "uri",
    "ipv4",
    "ipv6",
    "uuid",
)


def _unclosable(node: Mapping[str, Any]) -> Iterator[str]:
    """Give the keywords of a schema that Anthropic does not take."""
    yield from (name for name in _CLOSED_DROPS if name in node)
    if node.get("minItems", 0) not in (0, 1):
        yield "minItems"
    if node.get("format", "date") not in _CLOSED_FORMATS:
        yield "format"
    if re.search(r"\(\?|\\[bB1-9]", str(node.get("pattern", ""))):  # looks around, or back
        yield "pattern"


# -- for tools ------------------------------------------------------------------------------------

_NOT_ON_TOP = frozenset({"anyOf", "oneOf", "allOf", "$ref", "enum", "not"})


def object_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a tool's arguments as that of one object.

    Anthropic and OpenAI take neither alternatives nor a reference on top of it, and refuse the whole
    request for one such tool. The object has the properties of all alternatives, and needs what all of
    them need; what each of them needs is said in the description.
    """
    if not schema.keys() & _NOT_ON_TOP:
        if schema.get("type") == "object" and "properties" in schema:
            return schema
        return {"properties": {}, **schema, "type": "object"}
    whole = inlined(schema)
    variants: list[dict[str, Any]] = whole.pop("anyOf", [])
    whole = {name: value for name, value in whole.items() if name not in _NOT_ON_TOP}
    properties = dict(whole.get("properties", {}))
    for variant in variants:
        for name, item in variant.get("properties", {}).items():
            known = properties.get(name, item)
            properties[name] = item if known == item else _either(known, item)
    needs = [set(variant.get("required", ())) for variant in variants]
    common = set.intersection(*needs) if needs else set()
    required = [name for name in properties if name in {*whole.get("required", ()), *common}]
    whole.update(type="object", properties=properties)
    if required:
        whole["required"] = required
    choices = [sorted(need - common) for need in needs if need - common]
    if choices:
        told = f"(give one of these sets of properties: {json.dumps(choices, ensure_ascii=False)})"
        whole["description"] = f"{whole['description']} {told}" if whole.get("description") else told
    return whole


def _either(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    known = one["anyOf"] if one.keys() == {"anyOf"} else [one]
    return {"anyOf": known if other in known else [*known, other]}


_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def named_schema(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Return the schema of a tool's arguments as one object whose properties have names that Anthropic takes.

    Returns:
      The schema, and of the properties that have another name there, by that name, their own one.
    """
    schema = object_schema(schema)
    names: Mapping[str, Any] = schema.get("properties", {})
    own: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            safe = short = re.sub(r"[^a-zA-Z0-9_.-]", "_", name)[:56] or "_"
            number = 1
            while safe in names or safe in own:
                number += 1
                safe = f"{short}_{number}"
            own[safe] = name
    if not own:
        return schema, own
    safes = {name: safe for safe, name in own.items()}
    renamed: dict[str, Any] = {
        **schema,
        "properties": {safes.get(name, name): item for name, item in names.items()},
    }
    if "required" in schema:
        renamed["required"] = [safes.get(name, name) for name in schema["required"]]
    return renamed, own
