"""Finds a tool call that a model wrote as text, where its server did not read it as one.

Such a call is not run: a text that the model only quotes, of a web page for instance, looks the same.
But it is no answer either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

from agentpool._core.answers import without_thoughts

Spoken: TypeAlias = Literal["", "marked", "bare"]

_MARK = re.compile(
    r"<tool_call>\s*[{<]|<function_call>\s*\{|<function=\w|<\|python_tag\|>|\[TOOL_CALLS\]\s*[\[{\w]"
    r"|<minimax:tool_call>\s*<|<[|\uff5c]tool[_\u2581]calls?[a-z_\u2581]*[|\uff5c]>"
)
"""How calls begin in the templates of Hermes and Qwen, Llama, Mistral, MiniMax, DeepSeek and Kimi."""

_OF_A_CALL = frozenset({"name", "arguments", "parameters", "id", "type", "function"})
_FARTHEST = 300  # characters from the mark to the name


def spoken_call(text: str, tools: Iterable[str]) -> Spoken:
    """Return how a text calls a tool: with the marks of a template, as bare JSON, or not at all.

    It does so only if it ends with the call, and the call names one of the tools.

    Args:
      text: of an answer.
      tools: the names of the tools that the model was offered.
    """
    if not text.rstrip().endswith((">", "}", "]", ")", "```")):
        return ""
    names, said = frozenset(tools), without_thoughts(text)
    try:
        value = json.loads(_unfenced(said))
    except (ValueError, RecursionError):
        return "marked" if not said.endswith("```") and _is_marked(said, names) else ""
    calls = value if isinstance(value, list) else [value]
    return "bare" if calls and all(_is_call(call, names) for call in calls) else ""


def _unfenced(text: str) -> str:
    is_fenced = text.startswith("```") and text.endswith("```")
    return text[3:-3].partition("\n")[2] if is_fenced else text


def _is_marked(text: str, names: frozenset[str]) -> bool:
    mark = _MARK.search(text)
    if mark is None:
        return False
    head = text[mark.start() : mark.end() + _FARTHEST]
    return not names.isdisjoint(re.findall(r"[\w-]+", head))


def _is_call(value: object, names: frozenset[str]) -> bool:
    if not isinstance(value, dict) or not value.keys() <= _OF_A_CALL:
        return False
    if "function" in value:
        return _is_call(value["function"], names)
    return value.get("name") in names and isinstance(value.get("arguments", value.get("parameters")), dict)
