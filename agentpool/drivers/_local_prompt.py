"""What a local model is asked: a request in the words of llama.cpp.

A model whose chat template knows tools is shown them by it, and llama.cpp reads the calls in its
answer. To any other they are told in the system prompt, and a grammar holds its answer to calls or text. So
are they wherever llama.cpp would not keep to the request: where a call must be made, and where the
text has to fit a schema beside tools.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from agentpool._core.content import text_of
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    CompletionRequest,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    UserMessage,
)
from agentpool.drivers._grammar import CLOSE, OPEN, answer_grammar

Wire = dict[str, Any]
"""A JSON object of llama.cpp's."""

_HOW_TO_CALL = (
    "You can call these functions, one JSON object for each:\n{tools}\n\n"
    "To call a function, answer with nothing but\n"
    f'{OPEN}\n{{{{"name": "NAME", "arguments": {{{{...}}}}}}}}\n{CLOSE}\n'
    "with its arguments as a JSON object. Its result comes in the next message."
)
_HOW_TO_FIT = "The answer is one JSON value of this JSON schema:\n{schema}"


@attrs.frozen
class Prompt:
    """What is sent for a request, and how the answer is to be read.

    Attributes:
      body: the JSON object that llama.cpp is given.
      told_tools: whether calls are a part of the text, in our own form; else llama.cpp reads them.
      forced: whether the answer has to be a call.
    """

    body: bytes
    told_tools: bool = False
    forced: bool = False


def prompt_of(request: CompletionRequest, *, knows_tools: bool) -> Prompt:
    """Return what is sent for a request.

    Args:
      request: what is asked.
      knows_tools: whether the model's chat template knows tools.
    """
    tools, forced = _callable(request)
    told = bool(tools) and (not knows_tools or forced or request.output_schema is not None)
    body: Wire = {
        **request.options,
        "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,  # a sign of life after each batch of the prompt, so that it can be stopped there
        "n": 1,
    }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.stop:
        body["stop"] = list(request.stop)
    _set_reasoning(body, request)
    if told:
        body["grammar"] = answer_grammar(
            tools,
            forced=forced,
            parallel=request.parallel_tool_calls,
            output_schema=request.output_schema,
        )
        _set_template(body, enable_thinking=False)  # the grammar begins with the answer
    elif tools:
        body["tools"] = [{"type": "function", "function": _function(tool)} for tool in tools]
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.output_schema is not None and not told:
        schema = {"name": "answer", "schema": request.output_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    body["messages"] = _messages(request, tools if told else (), in_text=told or not knows_tools)
    return Prompt(_encoded(body), told, forced)


def _callable(request: CompletionRequest) -> tuple[tuple[ToolDefinition, ...], bool]:
    """Return what may be called, and whether something has to be."""
    choice = request.tool_choice or "auto"
    if choice == "none":
        return (), False
    if choice in ("auto", "required"):
        return request.tools, choice == "required" and bool(request.tools)
    named = tuple(tool for tool in request.tools if tool.name == choice)
    return (named, True) if named else (request.tools, False)


def _set_reasoning(body: Wire, request: CompletionRequest) -> None:
    match request.reasoning:
        case None:
            pass
        case 0 | "none":
            _set_template(body, enable_thinking=False)
        case int(budget):
            _set_template(body, enable_thinking=True)
            body["thinking_budget_tokens"] = budget
        case effort:
            _set_template(body, enable_thinking=True, reasoning_effort=effort)


def _set_template(body: Wire, **values: Any) -> None:
    body["chat_template_kwargs"] = {**body.get("chat_template_kwargs", {}), **values}


def _function(tool: ToolDefinition) -> Wire:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.input_schema)}


# -- messages


def _messages(request: CompletionRequest, told: Iterable[ToolDefinition], *, in_text: bool) -> list[Wire]:
    """Return the conversation, with neighbours of one role as one: many templates insist on turns.

    Args:
      request: whose conversation it is.
      told: tools that the system prompt is to tell.
      in_text: whether calls and results are a part of the text.
    """
    write = _in_text if in_text else _in_template
    system = _system(request, list(told))
    said = [{"role": "system", "content": system}] if system else []
    return _merged([*said, *map(write, request.messages)])


def _system(request: CompletionRequest, told: list[ToolDefinition]) -> str:
    parts = [request.system]
    if told:
        parts.append(_HOW_TO_CALL.format(tools="\n".join(_dumped(_function(tool)) for tool in told)))
    if request.output_schema is not None:
        parts.append(_HOW_TO_FIT.format(schema=_dumped(request.output_schema)))
    return "\n\n".join(filter(None, parts))


def _in_template(message: ChatMessage) -> Wire:
    match message:
        case UserMessage(content):
            return {"role": "user", "content": text_of(content)}
        case ToolMessage():
            return {
                "role": "tool",
                "tool_call_id": message.call_id,
                "name": message.name,
                "content": _result(message),
            }
        case AssistantMessage(text, calls, reasoning):
            said: Wire = {"role": "assistant", "content": text}
            if reasoning:
                said["reasoning_content"] = reasoning
            if calls:
                said["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": _dumped(call.input)},
                    }
                    for call in calls
                ]
            return said


def _in_text(message: ChatMessage) -> Wire:
    match message:
        case UserMessage(content):
            return {"role": "user", "content": text_of(content)}
        case ToolMessage():
            content = f"<tool_response>\n{_result(message)}\n</tool_response>"
            return {"role": "user", "content": content}
        case AssistantMessage(text, calls):
            content = "\n".join([*filter(None, [text]), *map(_call_text, calls)])
            return {"role": "assistant", "content": content}


def _call_text(call: ToolCall) -> str:
    return f"{OPEN}\n{_dumped({'name': call.name, 'arguments': call.input})}\n{CLOSE}"


def _result(message: ToolMessage) -> str:
    """Return a tool's result; that it is an error has to be said in words here."""
    return f"Error: {message.result.text}" if message.result.is_error else message.result.text


def _merged(messages: Iterable[Wire]) -> list[Wire]:
    merged: list[Wire] = []
    for message in messages:
        last = merged[-1] if merged else None
        if last is not None and last.keys() == message.keys() == {"role", "content"}:
            if last["role"] == message["role"]:
                last["content"] = "\n\n".join(filter(None, [last["content"], message["content"]]))
                continue
        merged.append(message)
    return merged


# -- JSON that every reader takes


def _encoded(body: Wire) -> bytes:
    return _dumped(body).encode("utf-8", "replace")  # half a character of UTF-16 is no character


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _finite(value: Any) -> Any:
    """Return a value with null for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

