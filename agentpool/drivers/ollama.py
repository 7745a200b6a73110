"""Models that Ollama runs on your own machine."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from agentpool._core.capability import PrivacyTier
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
from agentpool.drivers._wire import (
    CONNECT_TIMEOUT,
    DEFAULT_TIMEOUT,
    LOOPBACK_OPTIONS,
    Answer,
    Events,
    ModelDriver,
    Refusal,
    checked_key,
    completion_of,
    new_call_id,
    reading,
    retry_after_seconds,
    words_of,
)
from agentpool.drivers.prices import ModelPrice, PriceTable

DEFAULT_PORT = 11434


class OllamaDriver(ModelDriver):
    """Asks a model that an Ollama server runs, over the official SDK.

    It holds connections: use it as `async with OllamaDriver(...) as driver`, or call `aclose`.

    Args:
      model: the model's name, used for requests that name none.
      base_url: where the server is; left out, `OLLAMA_HOST` or else this machine.
      api_key: for a server behind a key; left out, `OLLAMA_API_KEY`, or none.
      timeout: seconds of silence after which a call is given up; loading a model is silent, too.
      context_window: the size of the context that Ollama is asked to provide; left out, it
        chooses one, which may be small, and cuts off what does not fit without a word.
      privacy: where words go; left out, it follows from the address. Models that Ollama passes on
        to its cloud do not stay on this machine.
      prices: left out, the table that comes with the package.

    Raises:
      ModuleNotFoundError: if the SDK is not installed; it names the `pip install`.
      ValueError: if an argument cannot be right.
    """

    provider = "ollama"
    package = "ollama"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        context_window: int | None = None,
        privacy: PrivacyTier | None = None,
        prices: PriceTable | None = None,
    ) -> None:
        self._num_ctx = context_window
        if api_key is None:
            api_key = os.environ.get("OLLAMA_API_KEY", "")
        super().__init__(
            model,
            base_url=base_url or ollama_url(os.environ),
            key=checked_key(api_key, "the key for Ollama"),
            timeout=timeout,
            context_window=context_window,
            privacy=privacy,
            prices=prices,
        )

    def _stays_here(self) -> bool:
        return super()._stays_here() and not _is_cloud(self.model)

    def _price(self, model: str) -> ModelPrice | None:
        if _is_cloud(model):
            return self._prices.models.get((self.provider, model))
        return super()._price(model)

    def _make_client(self, sdk: Any) -> Any:
        import httpx

        key = self._key.reveal()
        return sdk.AsyncClient(
            host=self.base_url,
            timeout=httpx.Timeout(self.timeout, connect=min(CONNECT_TIMEOUT, self.timeout)),
            limits=httpx.Limits(max_connections=1000, max_keepalive_connections=100),
            headers={"authorization": f"Bearer {key}"} if key else None,
            **(LOOPBACK_OPTIONS if self._stays_here() else {}),
        )

    async def list_models(self) -> tuple[str, ...]:
        """Return the names of the models that the server has.

        Raises:
          DriverError: if it does not answer.

        Checkpoint: always.
        """
        client = await self._ready()
        with self._translated("the list of models"), reading("the list of models"):
            return tuple(str(found.model) for found in (await client.list()).models)

    def _params(self, request: CompletionRequest) -> dict[str, Any]:
        options: dict[str, Any] = {"num_predict": request.max_tokens}
        if request.temperature is not None:
            options["temperature"] = request.temperature
        if request.stop:
            options["stop"] = list(request.stop)
        if self._num_ctx is not None:
            options["num_ctx"] = self._num_ctx
        system = [{"role": "system", "content": request.system}] if request.system else []
        params: dict[str, Any] = {
            "model": request.model or self.model,
            "messages": [*system, *map(_message, request.messages)],
            "options": options,
        }
        if request.tools:
            params["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": dict(tool.input_schema),
                    },
                }
                for tool in request.tools
            ]
        return params

    async def _complete(self, client: Any, request: CompletionRequest) -> Completion:
        params = self._params(request)
        with reading("the answer"):  # the SDK reads it itself
            reply = await client.chat(**params)
            stop = _stop(reply)
            if stop is None:
                raise ValueError("it is not marked as done")
            calls = tuple(map(_call, reply.message.tool_calls or ()))
            return completion_of(reply.message.content or "", calls, stop, self._usage(reply, request))

    async def _open(self, client: Any, request: CompletionRequest) -> AsyncIterator[Any]:
        # The SDK connects on the first iteration: read that far, so that a refusal is known here.
        stream = Events(await client.chat(**self._params(request), stream=True))
        try:
            first = [await anext(stream)]
        except StopAsyncIteration:
            first = []
        return _Resumed(first, stream)

    async def _parts(
        self, events: AsyncIterator[Any], request: CompletionRequest
    ) -> AsyncGenerator[StreamPart, None]:
        answer = Answer()
        calls: list[ToolCall] = []
        last: Any = None
        async for chunk in events:
            for delta in answer.say(chunk.message.content):
                yield delta
            calls += map(_call, chunk.message.tool_calls or ())
            answer.stop = _stop(chunk) or answer.stop
            last = chunk
        whole = answer.completion(self._usage(last, request))
        yield completion_of(whole.text, tuple(calls), whole.stop_reason, whole.usage)

    def _usage(self, reply: Any, request: CompletionRequest) -> TokenUsage:
        usage = TokenUsage(
            input_tokens=getattr(reply, "prompt_eval_count", None) or 0,
            output_tokens=getattr(reply, "eval_count", None) or 0,
        )
        return self._priced(request.model or self.model, usage)

    def _refusal(self, error: Exception) -> Refusal | None:
        if not isinstance(error, self._sdk.ResponseError):
            return None
        said: Any = error  # the SDK is not there for type checkers
        status = said.status_code if said.status_code > 0 else None  # -1 within a stream
        # The SDK keeps nothing but the text; what it came from is still there as the context.
        headers = getattr(getattr(error.__context__, "response", None), "headers", {})
        return Refusal(status, *words_of(said.error, str(error)), retry_after=retry_after_seconds(headers))


class _Resumed:
    """A stream whose first event was read already."""

    def __init__(self, first: list[Any], rest: AsyncIterator[Any]) -> None:
        self._first = first
        self._rest = rest

    def __aiter__(self) -> _Resumed:
        return self

    async def __anext__(self) -> Any:
        return self._first.pop() if self._first else await anext(self._rest)


def ollama_url(env: Mapping[str, str]) -> str:
    """Return where Ollama listens, by `OLLAMA_HOST` as Ollama itself reads it.

    It may be a host, a host and port, a port alone, or an address; `0.0.0.0`, which a server
    listens on, is this machine for a client.
    """
    text = env.get("OLLAMA_HOST", "").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    parts = urlsplit(f"//{rest}")
    port: int | None = DEFAULT_PORT if not separator else {"http": 80, "https": 443}.get(scheme, DEFAULT_PORT)
    with suppress(ValueError):
        port = parts.port or port
    host = parts.hostname or "127.0.0.1"
    if host in ("0.0.0.0", "::"):  # noqa: S104, RUF100
        host = "127.0.0.1"
    if ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{port}{parts.path.rstrip('/')}"


def _is_cloud(model: str) -> bool:
    """Return whether Ollama runs a model of this name on its own servers: `gpt-oss:120b-cloud`."""
    return model.endswith(("-cloud", ":cloud"))


def _stop(reply: Any) -> StopReason | None:
    if not reply.done:
        return None
    return "max_tokens" if reply.done_reason == "length" else "end_turn"


def _call(call: Any) -> ToolCall:
    if not call.function.name:
        raise ValueError("a tool call without a name")
    return ToolCall(new_call_id(), call.function.name, dict(call.function.arguments))


def _message(message: ChatMessage) -> dict[str, Any]:
    match message:
        case UserMessage(content):
            return {"role": "user", "content": content}
        case ToolMessage(_, name, result):
            content = f"Error: {result.text}" if result.is_error else result.text
            return {"role": "tool", "tool_name": name, "content": content}
        case AssistantMessage(text, ()):
            return {"role": "assistant", "content": text}
        case AssistantMessage(text, calls):
            called = [{"function": {"name": call.name, "arguments": dict(call.input)}} for call in calls]
            return {"role": "assistant", "content": text, "tool_calls": called}
