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
from agentpool._core.transcript import IMAGE_TOKENS, Transcript, message_tokens, request_tokens

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


@attrs.frozen
class InputTokens:
    """How many tokens a request has.

    Attributes:
      bound: at the most.
      estimate: about; never more than the bound.
    """

    bound: int
    estimate: int


@attrs.define(eq=False)
class InputBounds:
    """The bounds of one agent's requests to one driver, which mostly go on with the last one.

    A request goes on with another if its conversation is the same transcript, grown, and all else
    that is sent is the same, or less. Then only what was added is looked at.
    """

    _last: CompletionRequest | None = None
    _bound: int = 0
    _estimate: int = 0
    _answer: int | None = None  # tokens of the answer to it, which the next request begins with

    def of(self, request: CompletionRequest) -> InputTokens:
        """Return how many tokens a request has, without its answer."""
        last = self._last
        if last is None or not _goes_on(last, request):
            self._bound, self._estimate = input_bound(request), request_tokens(request)
        else:
            self._add(request.messages, len(last.messages))
        self._last, self._answer = request, None
        return InputTokens(self._bound, min(self._bound, self._estimate))

    def _add(self, messages: Sequence[ChatMessage], start: int) -> None:
        """Add the messages from `start` on; of the answer it is known how many tokens it has."""
        for index in range(start, len(messages)):
            message = messages[index]
            bound, estimate = message_bound(message), message_tokens(message)
            if index == start and self._answer is not None and isinstance(message, AssistantMessage):
                # Thoughts that are not sent again are counted in the answer, too.
                bound, estimate = min(bound, self._answer + PER_MESSAGE), min(estimate, self._answer)
            self._bound += bound
            self._estimate += estimate

    def counted(self, request: CompletionRequest, completion: Completion) -> None:
        """Take in what the provider counted for a request, if it was the last one and it counts."""
        usage, last = completion.usage, self._last
        if last is not None and request.messages is last.messages and usage.input_tokens:
            self._bound = self._estimate = usage.input_tokens
            self._answer = usage.output_tokens or None


def _goes_on(last: CompletionRequest, request: CompletionRequest) -> bool:
    return (
        isinstance(request.messages, Transcript)
        and isinstance(last.messages, Transcript)
        and request.messages.goes_on_with(last.messages)
        and (request.tools is last.tools or not request.tools)
        and request.system is last.system
        and request.model == last.model
        and request.output_schema is last.output_schema
    )
