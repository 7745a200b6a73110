"""OpenAI, and every server that speaks its language: llama.cpp, vLLM, Ollama, LM Studio, ..."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Literal

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import ContentRefusedError, RequestRejectedError
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    StopReason,
    StreamPart,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    UserMessage,
)
from agentpool._core.usage import TokenUsage
from agentpool.drivers._stainless import StainlessDriver
from agentpool.drivers._wire import (
    DEFAULT_TIMEOUT,
    Answer,
    CallAssembler,
    Refusal,
    checked_key,
    completion_of,
    error_of,
    reading,
)
from agentpool.drivers.prices import PriceTable

DEFAULT_URL = "https://api.openai.com/v1"

_CHAT_STOPS: Mapping[str, StopReason] = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}


class OpenAIDriver(StainlessDriver):
    """Asks a model of OpenAI, or of a compatible server, over the official SDK.

    It holds connections: use it as `async with OpenAIDriver(...) as driver`, or call `aclose`.

    Args:
      model: the model's name, used for requests that name none.
      base_url: where the server is; left out, `OPENAI_BASE_URL` or else OpenAI.
      api_key: the key; left out, `OPENAI_API_KEY`; empty, none, which servers other than OpenAI's may take.
      api: `chat` for chat completions, which compatible servers speak, or `responses`.
      timeout: seconds of silence after which a call is given up.
      context_window: tokens of a request and its answer together, where the price table does not
        know them.
      privacy: where words go; left out, it follows from the address.
      prices: left out, the table that comes with the package.

    Raises:
      ModuleNotFoundError: if the SDK is not installed; it names the `pip install`.
      ValueError: if the key is missing, or an argument cannot be right.
    """

    provider = "openai"
    package = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        api: Literal["chat", "responses"] = "chat",
        timeout: float = DEFAULT_TIMEOUT,
        context_window: int | None = None,
        privacy: PrivacyTier | None = None,
        prices: PriceTable | None = None,
    ) -> None:
        if api not in ("chat", "responses"):
            raise ValueError(f"api must be 'chat' or 'responses', not {api!r}")
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        if api_key is None:
            api_key = os.environ.get("OPENAI_API_KEY")
        if not api_key and base_url.rstrip("/") == DEFAULT_URL:
            raise ValueError("OpenAI needs a key: set OPENAI_API_KEY, or pass api_key= to OpenAIDriver")
        self.api = api
        super().__init__(
            model,
            base_url=base_url,
            key=checked_key(api_key or "", "the key for OpenAI"),
            timeout=timeout,
            context_window=context_window,
            privacy=privacy,
            prices=prices,
        )

    def _make_client(self, sdk: Any) -> Any:
        return sdk.AsyncOpenAI(**self._client_options(sdk))

    async def _create(self, client: Any, params: Mapping[str, Any], *, stream: bool) -> Any:
        if self.api == "responses":
            return await client.responses.create(**params, stream=stream)
        if stream:
            params = {**params, "stream_options": {"include_usage": True}}
        return await client.chat.completions.create(**params, stream=stream)

    def _params(self, request: CompletionRequest) -> dict[str, Any]:
        return self._responses_params(request) if self.api == "responses" else self._chat_params(request)

    async def _complete(self, client: Any, request: CompletionRequest) -> Completion:
        reply = await self._send(client, request, stream=False)
        model = request.model or self.model
        with reading("the answer"):
            return self._of_response(reply, model) if self.api == "responses" else self._of_chat(reply, model)

    def _parts(
        self, events: AsyncIterator[Any], request: CompletionRequest
    ) -> AsyncGenerator[StreamPart, None]:
        model = request.model or self.model
        return (
            self._response_parts(events, model)
            if self.api == "responses"
            else self._chat_parts(events, model)
        )

    # -- chat completions

    def _chat_params(self, request: CompletionRequest) -> dict[str, Any]:
        model = request.model or self.model
        # OpenAI renamed the limit, and its newer models refuse the old name; most other servers
        # know only that.
        limit = "max_completion_tokens" if self.base_url == DEFAULT_URL else "max_tokens"
        params: dict[str, Any] = {
            "model": model,
            "messages": _chat_messages(request),
            limit: request.max_tokens,
        }
        if request.temperature is not None and self._takes_temperature(model):
            params["temperature"] = request.temperature
        if request.stop:
            params["stop"] = list(request.stop)
        if request.tools:
            params["tools"] = [{"type": "function", "function": _function(tool)} for tool in request.tools]
        return params

    def _of_chat(self, reply: Any, model: str) -> Completion:
        choice = reply.choices[0]
        stop = _chat_stop(choice.finish_reason)
        assembler = CallAssembler()
        for index, call in enumerate(choice.message.tool_calls or ()):
            function = call.function
            assembler.add(
                index, id=call.id or "", name=function.name or "", arguments=function.arguments or ""
            )
        calls = assembler.calls(truncated=stop == "max_tokens")
        text = choice.message.content or ""
        refusal = getattr(choice.message, "refusal", None)
        if refusal and not text:
            text, stop = refusal, "refusal"
        return completion_of(text, calls, stop, self._chat_usage(reply.usage, model))

    async def _chat_parts(self, events: AsyncIterator[Any], model: str) -> AsyncGenerator[StreamPart, None]:
        answer = Answer()
        usage = None
        async for chunk in events:
            usage = chunk.usage or usage
            for choice in (chunk.choices or ())[:1]:
                for delta in answer.say(choice.delta.content):
                    yield delta
                for call in choice.delta.tool_calls or ():
                    _add_fragment(answer.calls, call)
                for delta in answer.say(getattr(choice.delta, "refusal", None)):
                    yield delta
                if choice.finish_reason is not None:
                    answer.stop = _chat_stop(choice.finish_reason)
        yield answer.completion(self._chat_usage(usage, model))

    def _chat_usage(self, usage: Any, model: str) -> TokenUsage:
        if usage is None:  # some compatible servers do not count
            return TokenUsage()
        details = usage.prompt_tokens_details
        counted = TokenUsage(
            input_tokens=usage.prompt_tokens or 0,
            output_tokens=usage.completion_tokens or 0,
            cache_read_tokens=getattr(details, "cached_tokens", None) or 0,
            cache_write_tokens=getattr(details, "cache_write_tokens", None) or 0,
        )
        return self._priced(model, counted)

    # -- responses

    def _responses_params(self, request: CompletionRequest) -> dict[str, Any]:
        if request.stop:
            raise RequestRejectedError("OpenAI's responses API knows no stop strings: use api='chat'")
        model = request.model or self.model
        items = [item for message in request.messages for item in _response_items(message)]
        params: dict[str, Any] = {
            "model": model,
            "input": items,
            "max_output_tokens": request.max_tokens,
            "store": False,  # an agent's conversation is kept by the agent
        }
        if request.temperature is not None and self._takes_temperature(model):
            params["temperature"] = request.temperature
        if request.system:
            params["instructions"] = request.system
        if request.tools:
            params["tools"] = [
                {"type": "function", "strict": False, **_function(tool)} for tool in request.tools
            ]
        return params

    def _of_response(self, reply: Any, model: str) -> Completion:
        stop = _response_stop(reply)
        texts: list[str] = []
        assembler = CallAssembler()
        for index, item in enumerate(reply.output):
            if item.type == "function_call":
                assembler.add(
                    index, id=item.call_id or "", name=item.name or "", arguments=item.arguments or ""
                )
            elif item.type == "message":
                for part in item.content:
                    if part.type == "refusal":
                        stop = "refusal"
                    texts.append(part.refusal if part.type == "refusal" else part.text)
        calls = assembler.calls(truncated=stop == "max_tokens")
        return completion_of("".join(texts), calls, stop, self._response_usage(reply.usage, model))

    async def _response_parts(
        self, events: AsyncIterator[Any], model: str
    ) -> AsyncGenerator[StreamPart, None]:
        answer = Answer()
        final: Any = None
        async for event in events:
            if event.type in ("response.output_text.delta", "response.refusal.delta"):
                for delta in answer.say(event.delta):
                    yield delta
            elif event.type in ("response.completed", "response.incomplete", "response.failed"):
                final = event.response
            elif event.type == "error":
                raise error_of(Refusal(None, str(event.message), str(event.code or "")))
        if final is None:
            answer.completion(TokenUsage())  # raises: there was no finish marker
        yield self._of_response(final, model)

    def _response_usage(self, usage: Any, model: str) -> TokenUsage:
        if usage is None:
            return TokenUsage()
        details = getattr(usage, "input_tokens_details", None)
        counted = TokenUsage(
            input_tokens=usage.input_tokens or 0,
            output_tokens=usage.output_tokens or 0,
            cache_read_tokens=getattr(details, "cached_tokens", None) or 0,
            cache_write_tokens=getattr(details, "cache_write_tokens", None) or 0,
        )
        return self._priced(model, counted)


def _chat_stop(reason: str | None) -> StopReason:
    if reason is None:
        raise ValueError("there is no finish reason")
    return _CHAT_STOPS.get(reason, "end_turn")


def _response_stop(reply: Any) -> StopReason:
    if reply.status == "completed":
        return "end_turn"
    if reply.status == "incomplete":
        reason = getattr(reply.incomplete_details, "reason", None)
        return "refusal" if reason == "content_filter" else "max_tokens"
    if reply.status == "failed":
        if reply.error is None:
            raise ContentRefusedError("the provider ended the answer without saying why")
        raise error_of(Refusal(None, str(reply.error.message), str(reply.error.code)))
    raise ValueError(f"its status is {reply.status!r}")


def _add_fragment(calls: CallAssembler, fragment: Any) -> None:
    function = fragment.function
    calls.add(
        fragment.index or 0,
        id=fragment.id or "",
        name=getattr(function, "name", None) or "",
        arguments=getattr(function, "arguments", None) or "",
    )


# -- our values in OpenAI's words


def _function(tool: ToolDefinition) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.input_schema)}


def _arguments(call: ToolCall) -> str:
    return json.dumps(dict(call.input), ensure_ascii=False)


def _result(message: ToolMessage) -> str:
    """Return a tool's result; that it is an error has to be said in words here."""
    return f"Error: {message.result.text}" if message.result.is_error else message.result.text


def _chat_messages(request: CompletionRequest) -> list[dict[str, Any]]:
    messages = [_chat_message(message) for message in request.messages]
    return [{"role": "system", "content": request.system}, *messages] if request.system else messages


def _chat_message(message: ChatMessage) -> dict[str, Any]:
    match message:
        case UserMessage(content):
            return {"role": "user", "content": content}
        case ToolMessage():
            return {"role": "tool", "tool_call_id": message.call_id, "content": _result(message)}
        case AssistantMessage(text, ()):
            return {"role": "assistant", "content": text}
        case AssistantMessage(text, calls):
            called = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _arguments(call)},
                }
                for call in calls
            ]
            return {"role": "assistant", "content": text or None, "tool_calls": called}


def _response_items(message: ChatMessage) -> list[dict[str, Any]]:
    match message:
        case UserMessage(content):
            return [{"role": "user", "content": content}]
        case ToolMessage():
            return [{"type": "function_call_output", "call_id": message.call_id, "output": _result(message)}]
        case AssistantMessage(text, calls):
            said = [{"role": "assistant", "content": text}] if text else []
            called = [
                {
                    "type": "function_call",
                    "call_id": call.id,
                    "name": call.name,
                    "arguments": _arguments(call),
                }
                for call in calls
            ]
            return [*said, *called]
