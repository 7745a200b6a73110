"""OpenAI's responses: `POST /responses`, asked so that nothing is kept by the provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from agentpool._core.content import Content, Document, Image, Part, Text, parts_of, text_of, told_of_file
from agentpool._core.errors import RequestRejectedError
from agentpool._core.messages import Completion, ToolCall, ToolMessage
from agentpool._core.text import encodable
from agentpool.drivers._chat import data_url, document_text, effort_of
from agentpool.drivers._encoding import encoded
from agentpool.drivers._fitting import (
    LOOSE_IDS,
    Question,
    Turn,
    is_text,
    joined,
    schema_instruction,
    told_result,
)
from agentpool.drivers._responses_reading import PROVIDER, ResponsesReader, read_response, text_of_item
from agentpool.drivers._schemas import object_schema, strict_schema


class ResponsesDialect:
    """OpenAI's responses."""

    framing: Literal["sse", "lines"] = "sse"
    droppable = frozenset(
        {
            "temperature",
            "tool_choice",
            "parallel_tool_calls",
            "include",
            "store",
            "reasoning",
            "reasoning.summary",
            "reasoning.effort",
            "text",
            "text.format",
        }
    )

    def path(self, question: Question, *, streaming: bool) -> str:
        """Return the path."""
        return "/responses"

    def body(self, question: Question, *, streaming: bool) -> dict[str, Any]:
        """Return the body of a request.

        Raises:
          RequestRejectedError: if there are stop strings, which this API does not know.
        """
        request = question.request
        if request.stop:
            raise RequestRejectedError("OpenAI's responses API knows no stop strings: use api='chat'")
        native = request.output_schema is not None and not question.lessons.dropped & {"text", "text.format"}
        system = request.system
        if request.output_schema is not None and not native:
            system = schema_instruction(system, request.output_schema)
        body: dict[str, Any] = {
            "model": question.model,
            "input": [item for turn in question.turns(LOOSE_IDS) for item in _items(turn, question)],
            "max_output_tokens": request.max_tokens,
            "store": False,  # an agent's conversation is kept by the agent
            "include": ["reasoning.encrypted_content"],  # so thoughts have to go back as they came
        }
        if system:
            body["instructions"] = system
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.tools:
            # Left out, it is on.
            strict = {} if "no_strict" in question.lessons.traits else {"strict": False}
            body["tools"] = [
                {
                    "type": "function",
                    "name": question.name_of(tool.name),
                    "description": tool.description,
                    "parameters": object_schema(tool.sound_schema),
                    **strict,
                }
                for tool in request.tools
            ]
            if request.tool_choice is not None:
                body["tool_choice"] = _choice(request.tool_choice, question)
            if not request.parallel_tool_calls:
                body["parallel_tool_calls"] = False
        if native:
            body["text"] = {"format": _format(question)}
        if request.reasoning is not None:
            body["reasoning"] = {"effort": effort_of(request.reasoning), "summary": "auto"}
        if streaming:
            body["stream"] = True
        return body

    def completion(self, data: Mapping[str, Any], question: Question) -> Completion:
        """Read a whole answer."""
        return read_response(data, question)

    def reader(self, question: Question) -> ResponsesReader:
        """Return a reader for one streamed answer."""
        return ResponsesReader(question)


def _choice(choice: str, question: Question) -> Any:
    if choice in ("auto", "required", "none"):
        return choice
    return {"type": "function", "name": question.name_of(choice)}


def _format(question: Question) -> dict[str, Any]:
    schema = question.request.output_schema
    assert schema is not None
    strict = None if "no_strict" in question.lessons.traits else strict_schema(schema)
    named = {"type": "json_schema", "name": "answer"}
    return {**named, "schema": strict or schema, "strict": strict is not None}


# -- the conversation ---------------------------------------------------------------------


def _items(turn: Turn, question: Question) -> Iterator[dict[str, Any]]:
    if turn.message is not None:
        yield from _said(turn, question)
        return
    for message in turn.results:
        yield {"type": "function_call_output", "call_id": message.call_id, "output": _output(message)}
    said = [content for content in turn.said if content]
    if said or not turn.results:
        yield {"role": "user", "content": _content(joined(said)) if said else ""}


def _said(turn: Turn, question: Question) -> Iterator[dict[str, Any]]:
    """Give what the model said; its thoughts only with all that followed them, as the API demands."""
    message = turn.message
    assert message is not None
    kept = question.own_data(message.provider_data, PROVIDER)
    if isinstance(kept, list) and "no_thoughts" not in question.lessons.traits and _fits(kept, turn):
        calls = iter(turn.calls)
        for item in kept:
            yield _call(next(calls)) if item.get("type") == "function_call" else item
        return
    if message.text:
        yield {"role": "assistant", "content": message.text}
    yield from map(_call, turn.calls)


def _fits(kept: list[Any], turn: Turn) -> bool:
    assert turn.message is not None
    calls = sum(item.get("type") == "function_call" for item in kept)
    texts = [text_of_item(item)[0] for item in kept if item.get("type") == "message"]
    return calls == len(turn.calls) and encodable("".join(texts)) == encodable(turn.message.text)


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = encoded(call.input).decode()
    return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments}


def _output(message: ToolMessage) -> Any:
    content = message.result.content
    if is_text(content):
        return told_result(message.result.text, message.result.is_error)
    return _content((Text("Error:"), *parts_of(content)) if message.result.is_error else content)


def _content(content: Content) -> Any:
    if is_text(content):
        return text_of(content)
    return [_part(part) for part in parts_of(content)]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "input_text", "text": text}
        case Image():
            # vLLM takes none without `detail`.
            return {"type": "input_image", "detail": "auto", "image_url": part.url or data_url(part)}
        case Document():
            if part.url:
                return {"type": "input_file", "file_url": part.url}
            if part.media_type.startswith("text/"):
                return {"type": "input_text", "text": document_text(part)}
            if part.media_type != "application/pdf":
                return {"type": "input_text", "text": told_of_file(part)}
            name = part.name or "document.pdf"
            return {"type": "input_file", "filename": name, "file_data": data_url(part)}
