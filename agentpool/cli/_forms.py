"""Asks the person at the terminal what an MCP server wants to know: a form, or a page to open."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agentpool._core.approval import Answered, Approved, Decision, Denied, Question
from agentpool._core.schemas import problems_of

Ask = Callable[[str], Awaitable["str | None"]]
"""Prints a text and returns the line that the person answers; None if there is nobody."""

MOST_FIELDS = 30


async def filled_in(question: Question, ask: Ask, tell: Callable[[str], None]) -> Decision | None:
    """Return what the person answers to a question; None if there is nobody.

    Args:
      question: what is asked.
      ask: asks for a line.
      tell: prints a line; what it prints is made harmless by whoever gives it.
    """
    if question.schema is None:
        tell(f"the page: {question.url}")
    word = await ask("Answer it? y or n: " if question.schema is not None else "Have you opened it? y or n: ")
    if word is None:
        return None
    if word.strip().lower() not in ("y", "yes"):
        return Denied()
    if question.schema is None:
        return Approved()
    properties = question.schema.get("properties")
    fields = properties if isinstance(properties, Mapping) else {}
    if len(fields) > MOST_FIELDS:
        tell(f"the form has {len(fields):,} fields, and is declined")
        return Denied(f"a form of more than {MOST_FIELDS} fields")
    required = question.schema.get("required") or ()
    content: dict[str, Any] = {}
    for name, field in fields.items():
        answer = await _field(str(name), field, name in required, ask, tell)
        if answer is None:
            return None
        content.update(answer)
    return Answered(content)


async def _field(
    name: str, field: Any, is_required: bool, ask: Ask, tell: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return a field filled in, or nothing for one that may be left out; None if there is nobody."""
    schema: Mapping[str, Any] = field if isinstance(field, Mapping) else {}
    about = schema.get("title") or schema.get("description") or ""
    tell(f"{name}{f': {about}' if about else ''}{_choices(schema)}")
    hint = f" [{json.dumps(schema['default'], ensure_ascii=False)}]" if "default" in schema else ""
    while True:
        line = await ask(f"{name}{hint}{'' if is_required or hint else ' (may be empty)'} = ")
        if line is None:
            return None
        text = line.strip()
        if not text and "default" in schema:
            return {name: schema["default"]}
        if not text and not is_required:
            return {}
        value = _read(text, schema)
        problems = problems_of(value, schema)
        if not problems:
            return {name: value}
        tell(problems[0])


def _choices(schema: Mapping[str, Any]) -> str:
    values = schema.get("enum")
    return f", one of {', '.join(map(str, values))}" if isinstance(values, list) else ""


def _read(text: str, schema: Mapping[str, Any]) -> Any:
    """Return a line as the field wants it; what cannot be read stays a text, which its check refuses."""
    kind = schema.get("type")
    if kind == "boolean":
        return {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}.get(
            text.lower(), text
        )
    if kind in ("integer", "number"):
        try:
            return int(text)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            return text
    if kind == "array":
        return [part.strip() for part in text.split(",")]
    return text
