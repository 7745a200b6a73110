"""What was said, as the conventions want it: sent only if it is asked for, and never with a known secret."""

from __future__ import annotations

from typing import Any

from agentpool._core.content import Content, Document, Image, Text, parts_of
from agentpool._core.data import to_data
from agentpool._core.detection import KnownSecrets
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.redaction import Redaction
from agentpool.telemetry._attributes import Attributes, as_json


def contents_of_request(request: CompletionRequest) -> Attributes:
    """Return what a model is told."""
    found: Attributes = {
        "gen_ai.input.messages": _json([_message(each) for each in request.messages]),
    }
    if request.system:
        found["gen_ai.system_instructions"] = _json([_text(request.system)])
    if request.tools:
        tools = [
            {
                "type": "function",
                "name": each.name,
                "description": each.description,
                "parameters": to_data(each.input_schema),
            }
            for each in request.tools
        ]
        found["gen_ai.tool.definitions"] = _json(tools)
    return found


def contents_of_answer(completion: Completion, reason: str) -> Attributes:
    """Return what a model answered."""
    message = {**_assistant(completion.message), "finish_reason": reason}
    return {"gen_ai.output.messages": _json([message])}


def contents_of_call(call: ToolCall) -> Attributes:
    """Return the arguments of a tool call."""
    return {"gen_ai.tool.call.arguments": _json(to_data(dict(call.input)))}


def contents_of_result(result: ToolResult) -> Attributes:
    """Return what a tool call came to."""
    return {"gen_ai.tool.call.result": _json([_part(part) for part in parts_of(result.content)])}


def contents_of_text(name: str, text: str) -> Attributes:
    """Return a text that may hold what was said, such as that of an error."""
    return {name: _json(text)[1:-1]}


def _json(data: Any) -> str:
    return as_json(Redaction(KnownSecrets.of()).data(data))


def _message(message: ChatMessage) -> dict[str, Any]:
    match message:
        case UserMessage():
            return {"role": "user", "parts": _parts(message.content)}
        case AssistantMessage():
            return _assistant(message)
        case ToolMessage():
            said = [_part(part) for part in parts_of(message.result.content)]
            part = {"type": "tool_call_response", "id": message.call_id, "response": said}
            return {"role": "tool", "parts": [part]}


def _assistant(message: AssistantMessage) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if message.reasoning:
        parts.append({"type": "reasoning", "content": message.reasoning})
    if message.text:
        parts.append(_text(message.text))
    parts += [
        {"type": "tool_call", "id": call.id, "name": call.name, "arguments": to_data(dict(call.input))}
        for call in message.tool_calls
    ]
    return {"role": "assistant", "parts": parts}


def _parts(content: Content) -> list[dict[str, Any]]:
    return [_part(part) for part in parts_of(content)]


def _part(part: Text | Image | Document) -> dict[str, Any]:
    if isinstance(part, Text):
        return _text(part.text)
    modality = "image" if isinstance(part, Image) else "document"
    if part.url:
        return {"type": "uri", "modality": modality, "mime_type": part.media_type, "uri": part.url}
    # The bytes would be larger than any collector takes.
    return {"type": "blob", "modality": modality, "mime_type": part.media_type, "size": len(part.data)}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "content": text}
