"""Schemas as strangers write them become schemas."""

from __future__ import annotations

from typing import Any

import pytest

from agentpool._core.sound_schemas import sound_schema

STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("given", "sound"),
    [
        (None, {}),
        (True, {}),
        (False, {"not": {}}),
        ("string", {}),
        ({"type": "object", "properties": {"a": STRING}}, {"type": "object", "properties": {"a": STRING}}),
        ({"properties": None, "$defs": []}, {}),
        ({"properties": {1: True, "b": None}}, {"properties": {"1": {}, "b": {}}}),
        ({"anyOf": [STRING, True], "oneOf": [], "allOf": None}, {"anyOf": [STRING, {}]}),
        ({"items": None}, {}),
        ({"items": STRING}, {"items": STRING}),
        ({"items": False}, {"items": {"not": {}}}),
        ({"items": []}, {"items": {}}),
        ({"items": [STRING, STRING]}, {"items": STRING}),
        ({"items": [STRING, {}]}, {"items": {"anyOf": [STRING, {}]}}),
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": ["array", "null"]}, {"type": ["array", "null"], "items": {}}),
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"type": "array", "items": STRING}, {"type": "array", "items": STRING}),
        ({"type": None, "title": None}, {}),
        ({"type": []}, {}),
        ({"type": 7}, {}),
        ({"additionalProperties": False, "contains": None, "if": "x"}, {"additionalProperties": False}),
        ({"not": STRING, "propertyNames": {"type": None}}, {"not": STRING, "propertyNames": {}}),
        ({"enum": []}, {}),
        ({"enum": None}, {}),
        ({"enum": [1, None]}, {"enum": [1, None]}),
        ({"const": None, "default": None, "examples": None}, {"const": None, "default": None}),
        ({"const": 1, "default": {"type": None}}, {"const": 1, "default": {"type": None}}),
        ({"required": True}, {}),
        ({"required": ["a", 1]}, {"required": ["a"]}),
        ({"minLength": 1, "description": "d", "pattern": None}, {"minLength": 1, "description": "d"}),
    ],
)
def test_what_is_no_schema_is_left_out(given: Any, sound: dict[str, Any]) -> None:
    assert sound_schema(given) == sound
    assert sound_schema(sound) == sound
