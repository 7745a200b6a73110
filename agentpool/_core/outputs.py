"""What a typed answer has to be, and what it is read as."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs


@attrs.frozen
class Parsed:
    """An answer's value."""

    value: Any


@attrs.frozen
class Problems:
    """Why an answer has no value; the model is told all of it."""

    texts: tuple[str, ...]


@attrs.frozen
class OutputSpec:
    """What a typed answer has to be.

    Attributes:
      schema: the JSON schema; the model is told it at the end of its system prompt.
      parse: reads an answer; a pure function.
      retries: how many wrong answers are given back to the model, before the agent fails.
    """

    schema: Mapping[str, Any]
    parse: Callable[[str], Parsed | Problems]
    retries: int = 2

    @property
    def instruction(self) -> str:
        """What the model is told."""
        schema = json.dumps(self.schema, ensure_ascii=False)
        return f"Give your final answer as JSON that fits this schema, without other text:\n{schema}"
