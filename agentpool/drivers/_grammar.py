"""Grammars that hold a local model's answer to tool calls, to text, or to JSON.

They are in the language of llguidance, which `xllamacpp` is built with: Lark, with JSON schemas in it.
llama.cpp is silent about a grammar that it cannot read, and goes on without: what is put into one here
has to be readable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentpool._core.messages import ToolDefinition

OPEN = "<tool_call>"
CLOSE = "</tool_call>"

# What a schema says that llguidance does not know is left out, and no tokens go to white space.
_GUIDANCE = {"x-guidance": {"lenient": True, "whitespace_flexible": False}}
# Lookaround, references back, and \b: no automaton can do that.
_BEYOND_AUTOMATA = re.compile(r"\(\?[=!<]|\\[1-9bBkAZ]")
# Text must not begin as a call does. That `<t` is kept from it costs next to nothing.
_TEXT = r"TEXT: /([^<]|<[^t])(.|\n)*/"


def answer_grammar(
    tools: Sequence[ToolDefinition],
    *,
    forced: bool,
    parallel: bool,
    output_schema: Mapping[str, Any] | None = None,
) -> str:
    """Return the grammar of an answer that may call tools.

    Args:
      tools: what may be called.
      forced: whether it must be a call; else it may be text.
      parallel: whether there may be several calls.
      output_schema: the schema that the text has to fit; None for free text.
    """
    calls = "call+" if parallel else "call"
    lines = ["%llguidance {}"]
    if forced:
        lines += [f"start: {calls}"]
    elif output_schema is None:
        lines += [f"start: TEXT | {calls}", _TEXT]
    else:
        lines += [f"start: output | {calls}", f"output: %json {_schema(output_schema)}"]
    lines += [f"call: {' | '.join(f'call_{number}' for number in range(len(tools)))}"]
    for number, tool in enumerate(tools):
        head = _literal(f'{OPEN}\n{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": ')
        tail = _literal(f"}}\n{CLOSE}\n")
        lines += [f"call_{number}: {head} arguments_{number} {tail}"]
        lines += [f"arguments_{number}: %json {_schema({'type': 'object', **tool.input_schema})}"]
    return "\n".join(lines) + "\n"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # Lark escapes strings as JSON does


def _schema(schema: Mapping[str, Any]) -> str:
    return json.dumps({**_readable(schema, schema), **_GUIDANCE}, ensure_ascii=False, default=str)


def _readable(value: Any, root: Mapping[str, Any]) -> Any:
    """Return a schema without what would make llguidance give up on the whole grammar."""
    if isinstance(value, Mapping):
        return {key: _readable(item, root) for key, item in value.items() if _is_readable(key, item, root)}
    if isinstance(value, list | tuple):
        return [_readable(item, root) for item in value]
    return value


def _is_readable(key: str, value: Any, root: Mapping[str, Any]) -> bool:
    if key == "pattern" and isinstance(value, str):
        try:
            re.compile(value)
        except re.error:
            return False
        return _BEYOND_AUTOMATA.search(value) is None
    if key == "$ref" and isinstance(value, str):
        return _leads_somewhere(value, root)
    return True


def _leads_somewhere(reference: str, root: Mapping[str, Any]) -> bool:
    found: Any = root
    if not reference.startswith("#"):
        return False
    for step in filter(None, reference[1:].split("/")):
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            return False
        found = found[name]
    return True
