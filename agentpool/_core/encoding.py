"""Makes what comes into a conversation fit to be encoded: half an emoji would end every later request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from agentpool._core.content import Content, Part, Text
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.text import encodable


def encodable_content(content: Content) -> Content:
    """Return content whose texts can be encoded."""
    if isinstance(content, str):
        return encodable(content)
    return tuple(map(_part, content))


def _part(part: Part) -> Part:
    return Text(encodable(part.text)) if isinstance(part, Text) else part


def encodable_result(result: ToolResult) -> ToolResult:
    """Return a result whose content can be encoded; itself if it can."""
    content = encodable_content(result.content)
    return result if content == result.content else ToolResult(content, result.is_error)


def encodable_answer(message: AssistantMessage) -> AssistantMessage:
    """Return an answer whose texts, and whose calls' arguments, can be encoded; itself if they can."""
    text, reasoning, calls = message.text, message.reasoning, message.tool_calls
    if text.isascii() and reasoning.isascii() and (not calls or all(map(_is_plain, calls))):
        return message
    return AssistantMessage(
        encodable(text), tuple(map(_call, calls)), encodable(reasoning), message.provider_data
    )


def _is_plain(call: ToolCall) -> bool:
    # `repr` writes half of a pair as \\ud83d, at any depth, and costs a twentieth of a walk in Python.
    names = call.name.isascii() and call.id.isascii() and call.problem.isascii()
    return names and "\\ud" not in repr(call.input)


def _call(call: ToolCall) -> ToolCall:
    if _is_plain(call):
        return call
    call_id, name, problem = map(encodable, (call.id, call.name, call.problem))
    return attrs.evolve(call, id=call_id, name=name, input=_data(call.input), problem=problem)


def _data(data: Any) -> Any:
    if isinstance(data, str):
        return encodable(data)
    if isinstance(data, Mapping):
        return {_data(key): _data(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [_data(item) for item in data]
    return data


def encodable_message(message: ChatMessage) -> ChatMessage:
    """Return a message of an earlier conversation whose texts can be encoded."""
    if isinstance(message, AssistantMessage):
        return encodable_answer(message)
    if isinstance(message, ToolMessage):
        call_id, name, result = message.call_id, message.name, message.result
        return ToolMessage(encodable(call_id), encodable(name), encodable_result(result))
    return UserMessage(encodable_content(message.content), message.kind, encodable(message.body))
