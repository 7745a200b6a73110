"""Data is checked against a JSON schema, and no keyword of a schema is silently ignored."""

from __future__ import annotations

from typing import Any

import pytest

from agentpool._core.errors import ManifestError
from agentpool._core.manifest import AgentManifest, ModelSettings
from agentpool._core.outputs import Parsed, Problems
from agentpool._core.schemas import problems_of, schema_output, schema_problems

TREE: dict[str, Any] = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}

GOOD: list[tuple[Any, Any]] = [
    (True, 1),
    ({}, None),
    ({"type": "object"}, {}),
    ({"type": "array"}, []),
    ({"type": "string"}, ""),
    ({"type": "integer"}, 3),
    ({"type": "integer"}, 3.0),
    ({"type": "number"}, 3.5),
    ({"type": "boolean"}, False),
    ({"type": "null"}, None),
    ({"type": ["string", "null"]}, None),
    ({"enum": ["a", 1, None, [1], {"b": 2}]}, {"b": 2.0}),
    ({"enum": ([1],)}, [1]),
    ({"const": 1}, 1.0),
    ({"properties": {"a": {"type": "string"}}}, {"b": 1}),
    ({"properties": {"a": {"type": "string"}}}, "no object"),
    ({"required": ["a"]}, []),
    ({"additionalProperties": {"type": "integer"}}, {"a": 1}),
    ({"additionalProperties": False}, 1),
    ({"properties": {"a": {}}, "additionalProperties": False}, {"a": 1}),
    ({"items": {"type": "integer"}}, [1, 2]),
    ({"items": {"type": "integer"}}, "ab"),
    ({"minItems": 1, "maxItems": 2, "uniqueItems": True}, [1, True]),
    ({"uniqueItems": True}, [0, False, "0", [0], {"a": 0}, {"a": 1}, {"b": 0}]),
    ({"uniqueItems": False}, [1, 1]),
    ({"uniqueItems": True}, "aa"),
    ({"minItems": 1}, ""),
    ({"minLength": 2, "maxLength": 2, "pattern": "^a"}, "ab"),
    ({"minLength": 2}, 1),
    ({"minimum": 1, "maximum": 1}, 1),
    ({"exclusiveMinimum": 1, "exclusiveMaximum": 2}, 1.5),
    ({"minimum": 5}, True),
    ({"allOf": [{"type": "integer"}, {"minimum": 1}]}, 1),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "a"),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, "a"),
    (TREE, {"value": 1, "next": {"value": 2, "next": None}}),
    ({"definitions": {"a/b~c": {"const": 1}}, "items": {"$ref": "#/definitions/a~1b~0c"}}, [1]),
    ({"anyOf": [{"const": 1}, {"$ref": "#/anyOf/0"}]}, 1),
    ({"title": "t", "description": "d", "default": 1, "examples": [1], "format": "email"}, "no email"),
]


@pytest.mark.parametrize(("schema", "data"), GOOD)
def test_what_fits(schema: Any, data: Any) -> None:
    assert schema_problems(schema) == []
    assert problems_of(data, schema) == []


BAD: list[tuple[Any, Any, list[str]]] = [
    (False, 1, ["is not allowed here"]),
    ({"type": "object"}, [], ["must be of type object, not array"]),
    ({"type": "integer"}, True, ["must be of type integer, not boolean"]),
    ({"type": "integer"}, 3.5, ["must be of type integer, not number"]),
    ({"type": ["string", "null"]}, 1, ["must be of type string or null, not integer"]),
    ({"enum": ["ä", 1]}, True, ['must be one of "ä", 1']),
    ({"enum": [[1], [1, 2]]}, [2], ["must be one of [1], [1, 2]"]),
    ({"const": False}, 0, ["must be false"]),
    ({"const": {"a": 1}}, {"a": 2}, ['must be {"a": 1}']),
    ({"properties": {"a": {"type": "string"}}}, {"a": 1}, ["a: must be of type string, not integer"]),
    ({"required": ["a", "b"]}, {}, ["a: is missing", "b: is missing"]),
    ({"additionalProperties": False}, {"a": 1}, ["a: is not allowed here"]),
    (
        {"items": {"items": {"type": "integer"}}},
        [[1], [2, "3"]],
        ["1.1: must be of type integer, not string"],
    ),
    ({"items": False}, [1], ["0: is not allowed here"]),
    ({"minItems": 1}, [], ["must have at least 1 items"]),
    ({"maxItems": 1}, [1, 2], ["must have at most 1 items"]),
    ({"uniqueItems": True}, [1, 2, 1.0, 2], ["2: is there twice"]),
    ({"minLength": 2}, "a", ["must have at least 2 characters"]),
    ({"maxLength": 1}, "ab", ["must have at most 1 characters"]),
    ({"pattern": "^a"}, "ba", ["must match ^a"]),
    ({"minimum": 1}, 0, ["must be at least 1"]),
    ({"maximum": 1}, 1.5, ["must be at most 1"]),
    ({"exclusiveMinimum": 1}, 1, ["must be above 1"]),
    ({"exclusiveMaximum": 1}, 1, ["must be below 1"]),
    (
        {"allOf": [{"minimum": 2}, {"type": "string"}]},
        1,
        ["must be at least 2", "must be of type string, not integer"],
    ),
    (
        {"anyOf": [{"type": "string"}, {"items": {"minimum": 2}}]},
        [1],
        ["fits none of 2 schemas: must be of type string, not array; or 0 must be at least 2"],
    ),
    ({"oneOf": [{"type": "string"}]}, 1, ["fits none of 1 schemas: must be of type string, not integer"]),
    ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3, ["fits 2 of 2 schemas, of which it may fit one"]),
    (
        TREE,
        {"value": 1, "next": {"next": None}},
        ["next: fits none of 2 schemas: value is missing; or must be of type null, not object"],
    ),
]


@pytest.mark.parametrize(("schema", "data", "problems"), BAD)
def test_what_does_not_fit(schema: Any, data: Any, problems: list[str]) -> None:
    assert schema_problems(schema) == []
    assert problems_of(data, schema) == problems


@pytest.mark.parametrize(
    ("schema", "where", "text"),
    [
        ({"not": {}}, ("not",), "is a keyword that is not checked here"),
        ({"properties": {"a": {"multipleOf": 2}}}, ("properties", "a", "multipleOf"), "not checked"),
        ({"items": [{}]}, ("items",), "is no schema"),
        ({"properties": []}, ("properties",), "is no table of schemas"),
        ({"$defs": {"a": 1}}, ("$defs", "a"), "is no schema"),
        ({"anyOf": []}, ("anyOf",), "is no array of schemas"),
        ({"oneOf": [{}, {"if": {}}]}, ("oneOf", 1, "if"), "not checked"),
        ({"allOf": {}}, ("allOf",), "is no array of schemas"),
        ({"type": "text"}, ("type",), "is not one of object, array, string"),
        ({"type": []}, ("type",), "is not one of"),
        ({"type": [1]}, ("type",), "is not one of"),
        ({"enum": []}, ("enum",), "is not an array of values"),
        ({"required": "a"}, ("required",), "is not an array of names"),
        ({"required": [1]}, ("required",), "is not an array of names"),
        ({"minItems": -1}, ("minItems",), "is not a whole number from 0 up"),
        ({"maxLength": True}, ("maxLength",), "is not a whole number"),
        ({"minimum": "1"}, ("minimum",), "is not a number"),
        ({"uniqueItems": 1}, ("uniqueItems",), "is not true or false"),
        ({"pattern": "("}, ("pattern",), "is not a regular expression"),
        ({"pattern": 1}, ("pattern",), "is not a regular expression"),
        ({"$ref": 1}, ("$ref",), "1 is nowhere in this schema"),
        ({"$ref": "#/$defs/a"}, ("$ref",), "'#/$defs/a' is nowhere"),
        ({"$ref": "https://example.org/a"}, ("$ref",), "is nowhere in this schema"),
        ({"$ref": "#/title", "title": "a"}, ("$ref",), "is no schema"),
        ({"$ref": "#"}, ("$ref",), "leads back to itself"),
        (
            {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
            ("$defs", "a", "anyOf", 0, "$ref"),
            "leads back",
        ),
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused(schema: Any, where: tuple[Any, ...], text: str) -> None:
    ((path, told),) = schema_problems(schema)
    assert path == where
    assert text in told


def test_a_reference_leads_on_to_one_that_is_refused_where_it_stands() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/gone"}}}
    assert [path for path, _ in schema_problems(schema)] == [("$defs", "a", "$ref")]
    circle = {
        "$defs": {
            "a": {"$ref": "#/$defs/b"},
            "b": {"$ref": "#/$defs/a"},
            "c": {"$ref": "#/$defs/d"},
            "d": True,
        }
    }
    assert [path for path, _ in schema_problems(circle)] == [("$defs", "a", "$ref"), ("$defs", "b", "$ref")]


def test_a_schema_may_not_be_nested_without_end() -> None:
    schema: Any = {}
    for _ in range(3000):
        schema = {"items": schema}
    assert schema_problems(schema) == [((), "is nested too deeply")]


def test_a_manifest_tells_where_its_schema_is_wrong() -> None:
    text = """
        name = "geographer"
        [model.output_schema]
        type = "object"
        [model.output_schema.properties.area]
        multipleOf = 2
        [model.output_schema.properties."the name"]
        type = "text"
        """
    with pytest.raises(ManifestError) as caught:
        AgentManifest.from_toml(text)
    assert [finding.key for finding in caught.value.findings] == [
        "model.output_schema.properties.area.multipleOf",
        "model.output_schema.properties.'the name'.type",
    ]
    with pytest.raises(ValueError, match="is a keyword that is not checked here"):
        ModelSettings(output_schema={"not": {}})
    with pytest.raises(TypeError, match="output_schema"):
        ModelSettings(output_schema={"default": object()})
    assert ModelSettings(output_schema={"enum": [None, 1]}).output_schema is not None  # made in Python


def test_an_answer_is_data_that_fits() -> None:
    output = schema_output({"type": "object", "required": ["a"]}, 1)
    assert output.retries == 1
    assert output.parse('Here: {"a": [1, null]}') == Parsed({"a": [1, None]})
    assert output.parse("{}") == Problems(("a: is missing",))
    for text in ("none", '{"a": NaN}', "[" * 100_000):
        problems = output.parse(text)
        assert isinstance(problems, Problems)
        assert problems.texts[0].startswith("it is no JSON: ")
