"""Checks data against a JSON schema, and that a schema says nothing that would not be checked.

It knows what schemas of answers are made of: types, properties, items, choices, bounds, references
within the schema. Any other keyword is a problem of the schema, so that none is silently ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs

from agentpool._core.answers import first_fit, refuse_constant
from agentpool._core.outputs import OutputSpec, Parsed, Problems

Path: TypeAlias = tuple[str | int, ...]

_ANNOTATIONS = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "format",
        "deprecated",
        "readOnly",
        "writeOnly",
        "discriminator",
        "contentEncoding",
        "contentMediaType",
        "$schema",
        "$id",
        "$comment",
        "$anchor",
    }
)
"""Keywords that only tell something. `format` is one as well, by the standard."""


def schema_output(schema: Mapping[str, Any], retries: int) -> OutputSpec:
    """Return what an answer has to be so that it is JSON that fits `schema`; its value is the data."""

    def read(text: str) -> Parsed | Problems:
        try:
            data = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            return Problems((f"it is no JSON: {error}",))
        problems = tuple(problems_of(data, schema))
        return Problems(problems) if problems else Parsed(data)

    return OutputSpec(schema, lambda text: first_fit(text, read), retries)


# -- data -----------------------------------------------------------------------------


def problems_of(data: Any, schema: Mapping[str, Any] | bool) -> list[str]:
    """Return what is wrong with data, each with its place, such as `cities.0.name: ...`.

    Args:
      data: as `json.loads` gives it.
      schema: one with which `schema_problems` finds nothing wrong.
    """
    found = _Check(schema).check(data, schema, ())
    return [f"{_told(path)}: {text}" if path else text for path, text in found]


def _told(path: Path) -> str:
    return ".".join(map(str, path))


_Found: TypeAlias = Iterator[tuple[Path, str]]


@attrs.frozen
class _Check:
    """A check of data, with the whole schema at hand for its references."""

    root: Any

    def fits(self, data: Any, schema: Any) -> bool:
        return next(self.check(data, schema, ()), None) is None

    def check(self, data: Any, schema: Any, path: Path) -> _Found:
        if isinstance(schema, bool):
            if not schema:
                yield path, "is not allowed here"
            return
        for keyword, check in _KEYWORDS.items():
            if keyword in schema:
                yield from check(self, data, schema[keyword], schema, path)

    def _type(self, data: Any, wanted: Any, _: Any, path: Path) -> _Found:
        names = [wanted] if isinstance(wanted, str) else wanted
        if not any(_TYPES[name](data) for name in names):
            yield path, f"must be of type {' or '.join(names)}, not {_type_of(data)}"

    def _ref(self, data: Any, reference: str, _: Any, path: Path) -> _Found:
        yield from self.check(data, resolved(self.root, reference), path)

    def _enum(self, data: Any, allowed: list[Any], _: Any, path: Path) -> _Found:
        if not any(_same(data, each) for each in allowed):
            yield path, f"must be one of {', '.join(map(_json, allowed))}"

    def _const(self, data: Any, wanted: Any, _: Any, path: Path) -> _Found:
        if not _same(data, wanted):
            yield path, f"must be {_json(wanted)}"

    def _all_of(self, data: Any, schemas: list[Any], _: Any, path: Path) -> _Found:
        for each in schemas:
            yield from self.check(data, each, path)

    def _any_of(self, data: Any, schemas: list[Any], _: Any, path: Path) -> _Found:
        if not any(self.fits(data, each) for each in schemas):
            yield path, f"fits none of {len(schemas)} schemas: {self._why(data, schemas)}"

    def _one_of(self, data: Any, schemas: list[Any], _: Any, path: Path) -> _Found:
        fitting = sum(self.fits(data, each) for each in schemas)
        if fitting == 0:
            yield path, f"fits none of {len(schemas)} schemas: {self._why(data, schemas)}"
        elif fitting > 1:
            yield path, f"fits {fitting} of {len(schemas)} schemas, of which it may fit one"

    def _why(self, data: Any, schemas: list[Any]) -> str:
        """Return the first problem with each of some schemas."""
        first = [next(self.check(data, each, ()), ((), "")) for each in schemas]
        return "; or ".join(f"{_told(path)} {text}".strip() for path, text in first)

    # -- objects and arrays

    def _properties(self, data: Any, properties: Mapping[str, Any], _: Any, path: Path) -> _Found:
        if isinstance(data, dict):
            for name, schema in properties.items():
                if name in data:
                    yield from self.check(data[name], schema, (*path, name))

    def _required(self, data: Any, names: list[str], _: Any, path: Path) -> _Found:
        if isinstance(data, dict):
            for name in names:
                if name not in data:
                    yield (*path, name), "is missing"

    def _additional(self, data: Any, allowed: Any, schema: Any, path: Path) -> _Found:
        if isinstance(data, dict):
            known = schema.get("properties", {})
            for name, item in data.items():
                if name not in known:
                    yield from self.check(item, allowed, (*path, name))

    def _items(self, data: Any, schema: Any, _: Any, path: Path) -> _Found:
        if isinstance(data, list):
            for index, item in enumerate(data):
                yield from self.check(item, schema, (*path, index))

    def _unique(self, data: Any, wanted: bool, _: Any, path: Path) -> _Found:
        if wanted and isinstance(data, list):
            for index, item in enumerate(data):
                if any(_same(item, earlier) for earlier in data[:index]):
                    yield (*path, index), "is there twice"
                    return


# -- sizes and bounds

_Bound: TypeAlias = Callable[[_Check, Any, Any, Any, Path], _Found]


def _bound(kind: Callable[[Any], bool], holds: Callable[[Any, Any], bool], text: str) -> _Bound:
    def check(_: _Check, data: Any, bound: Any, __: Any, path: Path) -> _Found:
        if kind(data) and not holds(data, bound):
            yield path, text.format(bound)

    return check


def _is_number(data: Any) -> bool:
    return isinstance(data, int | float) and not isinstance(data, bool)


def _is_text(data: Any) -> bool:
    return isinstance(data, str)


def _is_list(data: Any) -> bool:
    return isinstance(data, list)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda data: isinstance(data, dict),
    "array": _is_list,
    "string": _is_text,
    "integer": lambda data: _is_number(data) and data == data // 1,
    "number": _is_number,
    "boolean": lambda data: isinstance(data, bool),
    "null": lambda data: data is None,
}


def _type_of(data: Any) -> str:
    return next(name for name, is_one in _TYPES.items() if is_one(data))


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1 is 1.0, but not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


_KEYWORDS: Mapping[str, _Bound] = {
    "$ref": _Check._ref,
    "type": _Check._type,
    "enum": _Check._enum,
    "const": _Check._const,
    "properties": _Check._properties,
    "required": _Check._required,
    "additionalProperties": _Check._additional,
    "items": _Check._items,
    "minItems": _bound(_is_list, lambda data, least: len(data) >= least, "must have at least {} items"),
    "maxItems": _bound(_is_list, lambda data, most: len(data) <= most, "must have at most {} items"),
    "uniqueItems": _Check._unique,
    "minLength": _bound(_is_text, lambda data, least: len(data) >= least, "must have at least {} characters"),
    "maxLength": _bound(_is_text, lambda data, most: len(data) <= most, "must have at most {} characters"),
    "pattern": _bound(_is_text, lambda data, pattern: re.search(pattern, data) is not None, "must match {}"),
    "minimum": _bound(_is_number, lambda data, least: data >= least, "must be at least {}"),
    "maximum": _bound(_is_number, lambda data, most: data <= most, "must be at most {}"),
    "exclusiveMinimum": _bound(_is_number, lambda data, bound: data > bound, "must be above {}"),
    "exclusiveMaximum": _bound(_is_number, lambda data, bound: data < bound, "must be below {}"),
    "allOf": _Check._all_of,
    "anyOf": _Check._any_of,
    "oneOf": _Check._one_of,
}
_DEFINITIONS = ("$defs", "definitions")


# -- schemas --------------------------------------------------------------------------


def resolved(root: Any, reference: str) -> Any:
    """Return what a reference within a schema means, such as `#/$defs/City`.

    Raises:
      LookupError: if there is no such place.
    """
    if reference != "#" and not reference.startswith("#/"):
        raise LookupError(reference)
    found: Any = root
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        at: Any = int(name) if isinstance(found, list | tuple) and name.isdecimal() else name
        found = found[at]
    return found


def schema_problems(schema: Any) -> list[tuple[Path, str]]:
    """Return what is wrong with a schema: where, and what."""
    try:
        return list(_Scan(schema).scan(schema, ()))
    except RecursionError:
        return [((), "is nested too deeply")]


@attrs.frozen
class _Scan:
    """A look at a schema, before any data is there."""

    root: Any

    def scan(self, schema: Any, path: Path) -> _Found:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, Mapping):
            yield path, "is no schema: a table, or true or false"
            return
        for keyword, value in schema.items():
            if keyword in _SHAPES:
                yield from _SHAPES[keyword](self, value, (*path, keyword))
            elif keyword not in _ANNOTATIONS:
                yield (*path, keyword), "is a keyword that is not checked here"

    def table(self, schemas: Any, path: Path) -> _Found:
        if not isinstance(schemas, Mapping):
            yield path, "is no table of schemas"
            return
        for name, schema in schemas.items():
            yield from self.scan(schema, (*path, name))

    def several(self, schemas: Any, path: Path) -> _Found:
        if not isinstance(schemas, list | tuple) or not schemas:
            yield path, "is no array of schemas"
            return
        for index, schema in enumerate(schemas):
            yield from self.scan(schema, (*path, index))

    def reference(self, value: Any, path: Path) -> _Found:
        try:
            target = resolved(self.root, value)
        except (LookupError, TypeError, AttributeError):
            yield path, f"{value!r} is nowhere in this schema"
            return
        if not isinstance(target, Mapping | bool):
            yield path, f"{value!r} is no schema"
        elif self._comes_back(target, {value}):
            yield path, f"{value!r} leads back to itself"

    def _comes_back(self, schema: Any, seen: set[str]) -> bool:
        """Whether references lead in a circle without a step into the data."""
        if not isinstance(schema, Mapping):
            return False
        beside = [each for name in ("allOf", "anyOf", "oneOf") for each in _list_of(schema.get(name))]
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in seen:
                return True
            try:
                target = resolved(self.root, reference)
            except (LookupError, TypeError):
                return False  # told where it stands
            if self._comes_back(target, {*seen, reference}):
                return True
        return any(self._comes_back(each, seen) for each in beside)


def _list_of(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


_Shape: TypeAlias = Callable[[_Scan, Any, Path], _Found]


def _shape(is_one: Callable[[Any], bool], wanted: str) -> _Shape:
    def scan(_: _Scan, value: Any, path: Path) -> _Found:
        if not is_one(value):
            yield path, f"is not {wanted}"

    return scan


def _anything(_: _Scan, __: Any, ___: Path) -> _Found:
    return iter(())


def _are_types(value: Any) -> bool:
    names = _list_of([value] if isinstance(value, str) else value)
    return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_pattern(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return True


_COUNT = _shape(_is_count, "a whole number from 0 up")
_NUMBER = _shape(_is_number, "a number")
_SHAPES: Mapping[str, _Shape] = {
    "$ref": _Scan.reference,
    "type": _shape(_are_types, f"one of {', '.join(_TYPES)}, or an array of them"),
    "enum": _shape(lambda value: bool(_list_of(value)), "an array of values"),
    "const": _anything,
    "required": _shape(
        lambda value: isinstance(value, list | tuple) and all(map(_is_text, value)), "an array of names"
    ),
    **dict.fromkeys(("properties", *_DEFINITIONS), _Scan.table),
    **dict.fromkeys(("items", "additionalProperties"), _Scan.scan),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _Scan.several),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _COUNT),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    "uniqueItems": _shape(lambda value: isinstance(value, bool), "true or false"),
    "pattern": _shape(_is_pattern, "a regular expression"),
}
