"""What a local model is asked: a request in the words of llama.cpp.

A model whose chat template knows tools is shown them by it, and llama.cpp reads the calls in its
answer. To any other they are told in the system prompt, and a grammar holds its answer to calls or
text. So are they wherever llama.cpp would not keep to the request: where a call must be made, and
where the text has to fit a schema beside tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from agentpool._core.content import Content, Document, Text, parts_of, told_of_file
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    CompletionRequest,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool.drivers._chat import ChatDialect, document_text
from agentpool.drivers._encoding import encoded
from agentpool.drivers._fitting import LOOSE_IDS, Question, Turn, schema_instruction, told_result
from agentpool.drivers._grammar import CLOSE, OPEN, answer_grammar

_HOW_TO_CALL = f"""\
You can call these functions, one JSON object for each:
%s

To call a function, answer with nothing but
{OPEN}
{{"name": "NAME", "arguments": {{...}}}}
{CLOSE}
with its arguments as a JSON object. Its result comes in the next message."""


@attrs.frozen
class Prompt:
    """What is sent for a request, and how the answer is to be read.

    Attributes:
      question: what is asked.
      body: the JSON object that llama.cpp is given.
      told_tools: whether calls are a part of the text, in our own form; else llama.cpp reads them.
      forced: whether the answer has to be a call.
    """

    question: Question
    body: bytes
    told_tools: bool
    forced: bool


def prompt_of(request: CompletionRequest, model: str, *, knows_tools: bool) -> Prompt:
    """Return what is sent for a request.

    Args:
      request: what is asked.
      model: the model's name.
      knows_tools: whether the model's chat template knows tools.
    """
    tools, forced = _callable(request)
    schema = request.output_schema
    told = bool(tools) and (not knows_tools or forced or schema is not None)
    asked = attrs.evolve(
        request,
        messages=tuple(map(_textual, request.messages)),
        tools=() if told else tools,
        tool_choice=None,
        system=request.system if schema is None else schema_instruction(request.system, schema),
        output_schema=None if told else schema,
        reasoning=None,
    )
    if told or not knows_tools:
        asked = _in_text(asked, tools if told else ())
    body = ChatDialect().body(Question(asked, model), streaming=True)
    _set_reasoning(body, request)
    if told:
        parallel = request.parallel_tool_calls
        body["grammar"] = answer_grammar(tools, forced=forced, parallel=parallel, output_schema=schema)
        _set_template(body, enable_thinking=False)  # the grammar begins with the answer
    _set_template(body, **request.options.get("chat_template_kwargs", {}))
    body |= {name: value for name, value in request.options.items() if name != "chat_template_kwargs"}
    # A sign of life comes after each batch of the prompt, so that the call can be stopped there.
    body |= {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True, "n": 1}
    return Prompt(Question(request, model), encoded(body), told, forced)


def _callable(request: CompletionRequest) -> tuple[tuple[ToolDefinition, ...], bool]:
    """Return what may be called, and whether something has to be."""
    choice = request.tool_choice or "auto"
    if choice == "none":
        return (), False
    if choice in ("auto", "required"):
        return request.tools, choice == "required" and bool(request.tools)
    named = tuple(tool for tool in request.tools if tool.name == choice)
    return (named, True) if named else (request.tools, False)


def _set_reasoning(body: dict[str, Any], request: CompletionRequest) -> None:
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


def _set_template(body: dict[str, Any], **values: Any) -> None:
    if values:
        body["chat_template_kwargs"] = {**body.get("chat_template_kwargs", {}), **values}


# -- a conversation that is text


def _textual(message: ChatMessage) -> ChatMessage:
    """Return a message with lines of text in the place of pictures; text is all that the model reads."""
    match message:
        case UserMessage():
            return attrs.evolve(message, content=_text_of(message.content))
        case ToolMessage(_, _, result):
            return attrs.evolve(message, result=ToolResult(_text_of(result.content), result.is_error))
        case AssistantMessage():
            return message


def _text_of(content: Content) -> str:
    return content if isinstance(content, str) else "\n".join(map(_part_text, parts_of(content)))


def _part_text(part: Any) -> str:
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Document) and part.data and part.media_type.startswith("text/"):
        return document_text(part)
    return told_of_file(part)


def _in_text(request: CompletionRequest, told: Iterable[ToolDefinition]) -> CompletionRequest:
    """Return a request whose tools, calls and results are text."""
    tools = "\n".join(_dumped(_function(tool)) for tool in told)
    system = "\n\n".join(filter(None, [request.system, tools and _HOW_TO_CALL % tools]))
    turns = Question(request, "").turns(LOOSE_IDS)
    return attrs.evolve(request, messages=tuple(map(_turn_text, turns)), tools=(), system=system)


def _function(tool: ToolDefinition) -> Mapping[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}


def _turn_text(turn: Turn) -> ChatMessage:
    if turn.message is not None:
        return AssistantMessage("\n".join(filter(None, [turn.message.text, *map(_call_text, turn.calls)])))
    return UserMessage("\n\n".join(filter(None, _user_texts(turn))))


def _user_texts(turn: Turn) -> Iterator[str]:
    for message in turn.results:
        result = told_result(message.result.text, message.result.is_error)
        yield f"<tool_response>\n{result}\n</tool_response>"
    yield from map(_text_of, turn.said)


def _call_text(call: ToolCall) -> str:
    return f"{OPEN}\n{_dumped({'name': call.name, 'arguments': call.input})}\n{CLOSE}"


def _dumped(value: Mapping[str, Any]) -> str:
    return json.dumps(json.loads(encoded(value)), ensure_ascii=False)
