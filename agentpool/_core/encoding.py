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
    """Return a result whose content can be encoded; itself if it is plain."""
    content = result.content
    if isinstance(content, str) and content.isascii():
        return result
    return ToolResult(encodable_content(content), result.is_error)


def encodable_answer(message: AssistantMessage) -> AssistantMessage:
    """Return an answer whose texts, and whose calls' arguments, can be encoded; itself if it is plain."""
    text, reasoning = message.text, message.reasoning
    # Every turn comes by here: what is plain is seen without a call of another function.
    if text.isascii() and reasoning.isascii():
        for call in message.tool_calls:
            # `repr` writes half of a pair as \ud83d, at any depth.
            if call.problem or not (call.name + call.id).isascii() or "\\ud" in repr(call.input):
                break
        else:
            return message
    calls = tuple(map(_call, message.tool_calls))
    return AssistantMessage(encodable(text), calls, encodable(reasoning), message.provider_data)


def _call(call: ToolCall) -> ToolCall:
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
    content, body = encodable_content(message.content), encodable(message.body)
    return UserMessage(content, message.kind, body, message.kept)
