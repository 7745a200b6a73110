"""How many tokens a request can have at the most: what a budget sets aside for its input.

A token stands for at least one byte of text, so the bytes of all texts are a bound, with an
allowance for what a provider puts around them. It is a few times what is really used. Once a
provider has counted a request, that count is the bound for the same conversation, and only what
was added since is bounded by its bytes.

Pictures and documents have no such bound: a generous allowance stands for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from agentpool._core.content import Content, Part, Text
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    ToolDefinition,
    ToolMessage,
)
from agentpool._core.transcript import IMAGE_TOKENS, Transcript

PER_REQUEST = 16
"""Tokens that a request may have beside all that is in it: its delimiters, a date."""

PER_MESSAGE = 8
"""Tokens that a message may have beside its texts: its role, its delimiters, the form of its calls."""

PER_TOOL = 16
"""Tokens that a tool may have beside its texts.

What a provider itself says about tools (Anthropic: some 350 tokens) is below what the bytes of two
tools have to spare.
"""

PER_FILE = 3 * IMAGE_TOKENS
"""Tokens that a picture may have; a document has these, or one for each 10 of its bytes."""


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _content(content: Content) -> int:
    return _bytes(content) if isinstance(content, str) else sum(map(_part, content))


def _part(part: Part) -> int:
    return _bytes(part.text) if isinstance(part, Text) else max(PER_FILE, len(part.data) // 10)


def message_bound(message: ChatMessage) -> int:
    """Return how many tokens a message can have at the most."""
    if isinstance(message, AssistantMessage):
        tokens = PER_MESSAGE + _bytes(message.text) + _bytes(message.reasoning)
        for call in message.tool_calls:
            tokens += PER_MESSAGE + _bytes(call.name) + _bytes(repr(call.input))
            if call.provider_data is not None:
                tokens += _bytes(repr(call.provider_data.data))
        if message.provider_data is not None:
            tokens += _bytes(repr(message.provider_data.data))
        return tokens
    if isinstance(message, ToolMessage):
        return PER_MESSAGE + _bytes(message.name) + _content(message.result.content)
    return PER_MESSAGE + _content(message.content)


def messages_bound(messages: Iterable[ChatMessage]) -> int:
    """Return how many tokens messages can have together at the most."""
    return sum(map(message_bound, messages))


def frame_bound(request: CompletionRequest) -> int:
    """Return how many tokens a request can have beside its messages: system prompt, tools, schema."""
    tokens = PER_REQUEST + _bytes(request.system)
    if request.tools:
        tokens += sum(map(_tool, request.tools))
    if request.output_schema is not None:
        tokens += 2 * _bytes(repr(request.output_schema))  # some servers are told it in words, too
    return tokens


def _tool(tool: ToolDefinition) -> int:
    return PER_TOOL + _bytes(tool.name) + _bytes(tool.description) + _bytes(tool.schema_text)


def input_bound(request: CompletionRequest) -> int:
    """Return how many tokens a request can have at the most, without its answer."""
    return frame_bound(request) + messages_bound(request.messages)


@attrs.define(eq=False)
class InputBounds:
    """The bounds of one agent's requests to one driver, which mostly go on with the last one.

    A request goes on with another if its conversation is the same transcript, grown, and all else
    that is sent is the same. Then only what was added is looked at.
    """

    _last: CompletionRequest | None = None
    _messages: Sequence[ChatMessage] = ()
    _tokens: int = 0  # of the last request, up to `_messages`
    _answer: int | None = None  # of the answer to it, which the next request begins with

    def of(self, request: CompletionRequest) -> int:
        """Return how many tokens a request can have at the most, without its answer."""
        messages = request.messages
        if self._last is None or not _goes_on(self._last, request, self._messages):
            self._tokens = input_bound(request)
        else:
            start = len(self._messages)
            grown = start < len(messages)
            if self._answer is not None and grown and isinstance(messages[start], AssistantMessage):
                self._tokens += self._answer + PER_MESSAGE
                start += 1
            self._tokens += sum(message_bound(messages[index]) for index in range(start, len(messages)))
        self._last, self._messages, self._answer = request, messages, None
        return self._tokens

    def counted(self, request: CompletionRequest, completion: Completion) -> None:
        """Take in what the provider counted for a request, if it was the last one and it counts."""
        usage = completion.usage
        if request.messages is self._messages and usage.input_tokens:
            self._tokens = usage.input_tokens
            if usage.output_tokens:
                self._answer = usage.output_tokens


def _goes_on(last: CompletionRequest, request: CompletionRequest, messages: Sequence[ChatMessage]) -> bool:
    return (
        isinstance(request.messages, Transcript)
        and isinstance(messages, Transcript)
        and request.messages.goes_on_with(messages)
        and request.tools is last.tools
        and request.system is last.system
        and request.model == last.model
        and request.output_schema is last.output_schema
    )
