"""Anthropic's Claude models."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from agentpool._core.capability import PrivacyTier
from agentpool._core.content import text_of
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    StopReason,
    StreamPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from agentpool._core.usage import TokenUsage
from agentpool.drivers._stainless import StainlessDriver
from agentpool.drivers._wire import DEFAULT_TIMEOUT, Answer, checked_key, completion_of, new_call_id, reading
from agentpool.drivers.prices import PriceTable

DEFAULT_URL = "https://api.anthropic.com"

_STOPS: Mapping[str, StopReason] = {
    "end_turn": "end_turn",
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
}


class AnthropicDriver(StainlessDriver):
    """Asks a Claude model over the official SDK.

    It holds connections: use it as `async with AnthropicDriver(...) as driver`, or call `aclose`.

    Args:
      model: the model's name, used for requests that name none.
      base_url: where the server is; left out, `ANTHROPIC_BASE_URL` or else Anthropic.
      api_key: the key; left out, `ANTHROPIC_API_KEY`; empty, none, which other servers may take.
      cache: whether to have the conversation kept in the provider's prompt cache. Reading from it
        is cheap, writing to it costs more than plain input: worth it for agents of many turns.
      timeout: seconds of silence after which a call is given up.
      context_window: tokens of a request and its answer together, where the price table does not
        know them.
      privacy: where words go; left out, it follows from the address.
      prices: left out, the table that comes with the package.

    Raises:
      ModuleNotFoundError: if the SDK is not installed; it names the `pip install`.
      ValueError: if the key is missing, or an argument cannot be right.
    """

    provider = "anthropic"
    package = "anthropic"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        cache: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        context_window: int | None = None,
        privacy: PrivacyTier | None = None,
        prices: PriceTable | None = None,
    ) -> None:
        base_url = base_url or os.environ.get("ANTHROPIC_BASE_URL") or DEFAULT_URL
        if api_key is None:
            api_key = os.environ.get("ANTHROPIC_API_KEY")
        if not api_key and base_url.rstrip("/") == DEFAULT_URL:
            raise ValueError(
                "Anthropic needs a key: set ANTHROPIC_API_KEY, or pass api_key= to AnthropicDriver"
            )
        self.cache = cache
        super().__init__(
            model,
            base_url=base_url,
            key=checked_key(api_key or "", "the key for Anthropic"),
            timeout=timeout,
            context_window=context_window,
            privacy=privacy,
            prices=prices,
        )

    def _make_client(self, sdk: Any) -> Any:
        return sdk.AsyncAnthropic(**self._client_options(sdk))

    async def _create(self, client: Any, params: Mapping[str, Any], *, stream: bool) -> Any:
        # The timeout is given once more, because the SDK would refuse a large `max_tokens` without
        # streaming if it were left to guess one.
        return await client.messages.create(**params, stream=stream, timeout=client.timeout)

    def _params(self, request: CompletionRequest) -> dict[str, Any]:
        model = request.model or self.model
        params: dict[str, Any] = {
            "model": model,
            "messages": _messages(request),
            "max_tokens": request.max_tokens,
        }
        # In `extra_body`, because the newer SDKs dropped some of these, and the older ones do not
        # have them yet.
        extra: dict[str, Any] = {}
        if request.temperature is not None and self._takes_temperature(model):
            extra["temperature"] = min(request.temperature, 1.0)  # as far as Anthropic's scale goes
        if self.cache:
            extra["cache_control"] = {"type": "ephemeral"}
        if extra:
            params["extra_body"] = extra
        if request.system:
            params["system"] = request.system
        if request.stop:
            params["stop_sequences"] = list(request.stop)
        if request.tools:
            params["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": dict(tool.input_schema)}
                for tool in request.tools
            ]
        return params

    async def _complete(self, client: Any, request: CompletionRequest) -> Completion:
        reply = await self._send(client, request, stream=False)
        with reading("the answer"):
            stop = _stop(reply.stop_reason)
            text = "".join(block.text for block in reply.content if block.type == "text")
            calls = tuple(_call(block) for block in reply.content if block.type == "tool_use")
            return completion_of(text, calls, stop, self._usage(_counts(reply.usage), request))

    async def _parts(
        self, events: AsyncIterator[Any], request: CompletionRequest
    ) -> AsyncGenerator[StreamPart, None]:
        answer = Answer()
        counts: dict[str, int] = {}
        stop: StopReason | None = None
        async for event in events:
            if event.type == "message_start":
                counts |= _counts(event.message.usage)
            elif event.type == "content_block_start" and event.content_block.type == "tool_use":
                answer.calls.add(
                    event.index, id=event.content_block.id or "", name=event.content_block.name or ""
                )
            elif event.type == "content_block_start" and event.content_block.type == "text":
                for delta in answer.say(event.content_block.text):
                    yield delta
            elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                for delta in answer.say(event.delta.text):
                    yield delta
            elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                answer.calls.add(event.index, arguments=event.delta.partial_json)
            elif event.type == "message_delta":
                stop = _stop(event.delta.stop_reason)
                counts |= _counts(event.usage)
            elif event.type == "message_stop":
                answer.stop = stop
        yield answer.completion(self._usage(counts, request))

    def _usage(self, counts: Mapping[str, int], request: CompletionRequest) -> TokenUsage:
        read = counts.get("cache_read_input_tokens", 0)
        written = counts.get("cache_creation_input_tokens", 0)
        usage = TokenUsage(
            input_tokens=counts.get("input_tokens", 0) + read + written,  # Anthropic counts them apart
            output_tokens=counts.get("output_tokens", 0),
            cache_read_tokens=read,
            cache_write_tokens=written,
        )
        return self._priced(request.model or self.model, usage)


def _stop(reason: str | None) -> StopReason:
    if reason is None:
        raise ValueError("there is no stop reason")
    return _STOPS.get(reason, "end_turn")


def _call(block: Any) -> ToolCall:
    if not isinstance(block.input, dict) or not block.name:
        raise ValueError(f"the tool call {block.id!r} has no name or no arguments")
    return ToolCall(block.id or new_call_id(), block.name, block.input)


def _counts(usage: Any) -> dict[str, int]:
    """Return the counters that an event carries; later ones stand for the whole answer, too."""
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    found = {name: getattr(usage, name, None) for name in names}
    return {name: count for name, count in found.items() if count is not None}


# -- our values in Anthropic's words


def _messages(request: CompletionRequest) -> list[dict[str, Any]]:
    """Return the conversation as turns that alternate: neighbours of one role become one."""
    turns: list[dict[str, Any]] = []
    for message in request.messages:
        role, blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: ChatMessage) -> tuple[str, list[dict[str, Any]]]:
    match message:
        case UserMessage(content):
            return "user", _text(text_of(content))
        case ToolMessage(call_id, _, result):
            block = {"type": "tool_result", "tool_use_id": call_id, "content": result.text}
            return "user", [{**block, "is_error": True} if result.is_error else block]
        case AssistantMessage(text, calls):
            called = [
                {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.input)}
                for call in calls
            ]
            return "assistant", [*_text(text), *called]


def _text(text: str) -> list[dict[str, Any]]:
    """Return a block of text; the API takes no empty ones."""
    return [{"type": "text", "text": text}] if text.strip() else []
