"""Tools that are not shown before the model has looked for them: there may be hundreds of MCP servers' tools.

`find_tools` is a part of the loop: its calls come to their results here, and what is found is shown from
the next turn on. What was found is told by the conversation itself, so that an earlier transcript, or a
run that is resumed, shows the same tools.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from agentpool._core.mcp import PREFIX
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
)

SHOWN_AT_ONCE = 40
"""With more tools of MCP servers than this, none of them is shown before it was found."""

FOUND_AT_ONCE = 8
"""So many tools one search finds at the most."""

FIND_TOOLS = ToolDefinition(
    "find_tools",
    "Find more tools: there are many that you are not shown. Say in a few words what you want to do, or"
    " give the name of a tool. The tools that are found are yours from the next turn on.",
    {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "words of what the tool does, or its name"}
        },
        "required": ["query"],
        "additionalProperties": False,
    },
)


def is_finding(call: ToolCall) -> bool:
    """Whether a call is one of the loop's own."""
    return call.name == FIND_TOOLS.name


def split_tools(
    tools: Sequence[ToolDefinition],
) -> tuple[tuple[ToolDefinition, ...], tuple[ToolDefinition, ...]]:
    """Return the tools that are shown from the beginning, and those that are to be found."""
    if len(tools) <= SHOWN_AT_ONCE:
        return tuple(tools), ()
    hidden = tuple(each for each in tools if each.name.startswith(PREFIX))
    if len(hidden) <= SHOWN_AT_ONCE:
        return tuple(tools), ()
    return (*(each for each in tools if not each.name.startswith(PREFIX)), FIND_TOOLS), hidden


def searched(tools: Sequence[ToolDefinition], call: ToolCall) -> tuple[ToolResult, list[str]]:
    """Perform a call of `find_tools`; return its result, and the names that it found, best first."""
    query = call.input.get("query")
    if call.problem or not isinstance(query, str) or not query.strip():
        return ToolResult(call.problem or "query is a text that is not empty.", is_error=True), []
    if not tools:
        return ToolResult("There are no other tools than those that you are shown.", is_error=True), []
    names = best_of(tools, query)
    if not names:
        return ToolResult(f"No tool of {len(tools)} fits. Try other words."), []
    described = {each.name: each.description for each in tools}
    lines = [f"- {name}: {_brief(described[name])}" for name in names]
    return ToolResult("\n".join(["You may call these from now on:", *lines])), names


def _brief(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def wanted(tools: Sequence[ToolDefinition], calls: Iterable[ToolCall]) -> set[str]:
    """Return the names of the hidden tools that a turn's calls found or called."""
    names: set[str] = set()
    for call in calls:
        if is_finding(call):
            names.update(searched(tools, call)[1])
        else:
            names.add(call.name)
    return names


def wanted_before(tools: Sequence[ToolDefinition], messages: Sequence[ChatMessage]) -> set[str]:
    """Return the names of the hidden tools that an earlier conversation found or called."""
    names: set[str] = set()
    failed = {m.call_id for m in messages if isinstance(m, ToolMessage) and m.result.is_error}
    for message in messages:
        if isinstance(message, AssistantMessage):
            names |= wanted(tools, [call for call in message.tool_calls if call.id not in failed])
    return names


# -- searching ------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters; `readFile` and `read_file` are two."""
    words = _WORD.findall(_HUMP.sub(" ", text).lower())
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words]


def best_of(tools: Sequence[ToolDefinition], query: str) -> list[str]:
    """Return the names of the tools that fit a query best, by BM25; a tool whose name it is comes first."""
    exact = [each.name for each in tools if query.strip() in (each.name, each.name.split("__")[-1])]
    asked = set(words_of(query))
    # A word of its name tells more of a tool than one that its description mentions.
    texts = [Counter(words_of(each.name) * 3 + words_of(each.description)) for each in tools]
    usual = sum(map(Counter.total, texts)) / max(1, len(texts))
    held = {word: sum(word in text for text in texts) for word in asked}
    scores = {
        each.name: sum(_score(text[word], held[word], len(texts), text.total() / usual) for word in asked)
        for each, text in zip(tools, texts, strict=True)
    }
    found = sorted((name for name, score in scores.items() if score > 0), key=lambda name: -scores[name])
    return list(dict.fromkeys([*exact, *found]))[:FOUND_AT_ONCE]


def _score(times: int, texts_with: int, texts: int, length: float) -> float:
    if not times:
        return 0.0
    rarity = math.log(1 + (texts - texts_with + 0.5) / (texts_with + 0.5))
    return rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length))
