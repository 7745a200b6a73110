"""A conversation as JSON data, for people who read it on the live page or in the timeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, assert_never

from agentpool._core.content import text_of
from agentpool._core.messages import AssistantMessage, ChatMessage, ToolMessage, UserMessage

LONGEST_TEXT = 100_000
"""Of a longer text the beginning and the end are kept, together so many characters."""

Shown: TypeAlias = Mapping[str, Any]


def transcript_data(messages: Iterable[ChatMessage], longest: int = LONGEST_TEXT) -> list[Shown]:
    """Return a conversation as JSON data; see `message_data`."""
    return [message_data(message, longest) for message in messages]


def message_data(message: ChatMessage, longest: int = LONGEST_TEXT) -> Shown:
    """Return a message as JSON data.

    The keys:
      role: `user`, `assistant` or `tool`.
      text: what it says; a line stands for each picture and document.
      kind: of a user's: `query`, `message`, `recall`, `note` or `summary`.
      calls: of an assistant's: what it wants called, each with `id`, `name`, `input` and perhaps `problem`.
      reasoning: of an assistant's: what it thought before; left out if nothing is known of it.
      name, call, error: of a tool's: the tool, the id of the call, and whether it failed.

    Args:
      message: what is told.
      longest: how many characters a text may have; see `LONGEST_TEXT`.
    """
    match message:
        case UserMessage():
            return {"role": "user", "kind": message.kind, "text": _cut(text_of(message.content), longest)}
        case AssistantMessage():
            told: dict[str, Any] = {"role": "assistant", "text": _cut(message.text, longest)}
            if message.reasoning:
                told["reasoning"] = _cut(message.reasoning, longest)
            told["calls"] = [
                {
                    "id": call.id,
                    "name": call.name,
                    "input": _cut_values(call.input, longest),
                    **({"problem": call.problem} if call.problem else {}),
                }
                for call in message.tool_calls
            ]
            return told
        case ToolMessage():
            return {
                "role": "tool",
                "name": message.name,
                "call": message.call_id,
                "text": _cut(message.result.text, longest),
                "error": message.result.is_error,
            }
        case _:
            assert_never(message)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[{left_out:,} characters are not shown]\n{text[len(text) - half :]}"


def _cut_values(value: Any, longest: int) -> Any:
    """Cut the texts in JSON data, however deep they are."""
    if isinstance(value, str):
        return _cut(value, longest)
    if isinstance(value, Mapping):
        return {key: _cut_values(each, longest) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cut_values(each, longest) for each in value]
    return value
