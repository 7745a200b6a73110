"""Facts that a model pinned: they outlive whatever its context window has no room for.

Pins are a part of the loop: the calls of `pin_fact` and `unpin_fact` come to their results here, and no
tool runs. They are found in the conversation itself, so that an earlier transcript brings its pins along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
)
from agentpool._core.perceiving import harmless
from agentpool._core.text import encodable
from agentpool._core.transcript import text_tokens
from agentpool._core.value import value

MAX_PINS = 20
"""So many facts may be pinned at once."""

FACT_TOKENS = 128
"""A fact may have so many tokens, of about four bytes each."""

PINNED_TOKENS = 1024
"""All pinned facts together may have so many tokens."""

PIN_FACT = ToolDefinition(
    "pin_fact",
    "Pin a fact that you must not forget. When your context window is full, the oldest part of the"
    " conversation is taken out; what is pinned stays word for word. Pin few things, such as rules,"
    " decisions, names and numbers.",
    {
        "type": "object",
        "properties": {
            "fact": {"type": "string", "description": "the fact, in a sentence that stands by itself"}
        },
        "required": ["fact"],
        "additionalProperties": False,
    },
)
UNPIN_FACT = ToolDefinition(
    "unpin_fact",
    "Take away a pinned fact that does not hold any more.",
    {
        "type": "object",
        "properties": {"number": {"type": "integer", "description": "the number that it was pinned as"}},
        "required": ["number"],
        "additionalProperties": False,
    },
)
PIN_TOOLS = (PIN_FACT, UNPIN_FACT)
_NAMES = frozenset(tool.name for tool in PIN_TOOLS)


@value
class Pins:
    """The pinned facts.

    Attributes:
      facts: each with its number, oldest first.
      last: the number that was given last; none is given twice.
      most: how many tokens they may have together.
    """

    facts: tuple[tuple[int, str], ...] = ()
    last: int = 0
    most: int = PINNED_TOKENS

    def shown(self) -> str:
        """Return them as the model is told; empty if there are none."""
        if not self.facts:
            return ""
        lines = "\n".join(f"{number}. {harmless(fact)}" for number, fact in self.facts)
        return f"<pinned>\n{lines}\n</pinned>"


NO_PINS = Pins()


def is_pinning(call: ToolCall) -> bool:
    """Whether a call is one of the loop's own."""
    return call.name in _NAMES


def pinned(pins: Pins, calls: Iterable[ToolCall]) -> tuple[Pins, dict[int, ToolResult]]:
    """Perform those of a turn's calls that pin and unpin.

    Returns:
      the pins, and the results of these calls by their place in the turn.
    """
    results: dict[int, ToolResult] = {}
    for index, call in enumerate(calls):
        if is_pinning(call):
            pins, problem, text = _performed(pins, call)
            results[index] = ToolResult(problem or text, is_error=bool(problem))
    return pins, results


def _performed(pins: Pins, call: ToolCall) -> tuple[Pins, str, str]:
    """Return the pins, what is wrong with the call, and what it came to."""
    if call.problem:
        return pins, call.problem, ""
    if call.name == UNPIN_FACT.name:
        return _unpin(pins, call.input.get("number"))
    fact = call.input.get("fact")
    if not isinstance(fact, str) or not fact.strip():
        return pins, "fact is a text that is not empty.", ""
    return _pin(pins, " ".join(encodable(fact).split()))


def _pin(pins: Pins, fact: str) -> tuple[Pins, str, str]:
    for number, known in pins.facts:
        if known == fact:
            return pins, "", f"It is pinned already, as {number}."
    size = text_tokens(fact)
    if size > FACT_TOKENS:
        return pins, f"A pinned fact has at most {4 * FACT_TOKENS} bytes: say it in fewer words.", ""
    together = sum(text_tokens(known) for _, known in pins.facts)
    if len(pins.facts) >= MAX_PINS or together + size > pins.most:
        return pins, f"{len(pins.facts)} facts are pinned, and more find no room: unpin one of them.", ""
    number = pins.last + 1
    return Pins((*pins.facts, (number, fact)), number, pins.most), "", f"Pinned as {number}."


def _unpin(pins: Pins, number: object) -> tuple[Pins, str, str]:
    left = tuple(pin for pin in pins.facts if pin[0] != number)
    if len(left) == len(pins.facts):
        known = ", ".join(str(pin[0]) for pin in pins.facts) or "nothing"
        return pins, f"No fact is pinned as {number!r}; pinned is {known}.", ""
    return Pins(left, pins.last, pins.most), "", f"Fact {number} is pinned no more."


def pins_in(messages: Sequence[ChatMessage], room: int | None) -> Pins:
    """Return the pins that a conversation leaves behind.

    Args:
      messages: the conversation.
      room: how many tokens the model's window has for messages; pins may have a quarter of it.
    """
    pins, calls = NO_PINS, list[ToolCall]()
    for message in messages:
        if isinstance(message, AssistantMessage):
            calls = list(filter(is_pinning, message.tool_calls))
        elif isinstance(message, ToolMessage) and not message.result.is_error:
            pins, _ = pinned(pins, [call for call in calls if call.id == message.call_id])
    most = PINNED_TOKENS if room is None else min(PINNED_TOKENS, room // 4)
    return Pins(pins.facts, pins.last, most)
