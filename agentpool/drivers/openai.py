"""OpenAI, and every server that speaks its language: llama.cpp, vLLM, Ollama, LM Studio, ..."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from agentpool._core.capability import PrivacyTier
from agentpool._core.messages import CompletionRequest
from agentpool.drivers._address import without_end
from agentpool.drivers._chat import ChatDialect
from agentpool.drivers._dialect import Dialect
from agentpool.drivers._http import DEFAULT_TIMEOUT
from agentpool.drivers._http_driver import HttpDriver
from agentpool.drivers._responses import ResponsesDialect
from agentpool.drivers._windows import Source, window_in_list, window_in_props
from agentpool.drivers.prices import PriceTable

if TYPE_CHECKING:
    import httpx2

DEFAULT_URL = "https://api.openai.com/v1"


class OpenAIDriver(HttpDriver):
    """Asks a model of OpenAI, or of a compatible server.

    It holds connections: use it as `async with OpenAIDriver(...) as driver`, or call `aclose`.
    What a server refuses is learned for the model: a parameter that it does not take is left out
    from then on, or sent by the name that it wants.

    Args:
      model: the model's name, used for requests that name none.
      base_url: where the server is, mostly up to its `/v1`, with a query if it needs one; left out,
        `OPENAI_BASE_URL` or else OpenAI.
      api_key: the key; left out, `OPENAI_API_KEY`, whatever the server; empty, none, which servers
        other than OpenAI's may take.
      api: `chat` for chat completions, which compatible servers speak, or `responses`.
      timeout: seconds of silence after which a call is given up.
      context_window: tokens of a request and its answer together, in the place of what the price
        table or the server says.
      privacy: where words go; left out, it follows from the address.
      prices: left out, the table that comes with the package.
      client: an `httpx2.AsyncClient` of your own, for proxies, certificates or signing. It is not closed.
      headers: more headers, such as `api-key` for Azure; they win over ours.
      query: more of the address's query, such as `api-version`.
      options: more of each request, by the server's own names; they win over ours. `tools` are added to ours.

    Raises:
      ModuleNotFoundError: if httpx2 is not installed; it names the `pip install`.
      ValueError, TypeError: if the key is missing, or an argument cannot be right.
    """

    provider = "openai"

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
        client: httpx2.AsyncClient | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if api not in ("chat", "responses"):
            raise ValueError(f"api must be 'chat' or 'responses', not {api!r}")
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        base_url = without_end(base_url, "/chat/completions", "/responses")
        if api_key is None:
            api_key = os.environ.get("OPENAI_API_KEY", "")
        if not api_key.strip() and base_url == DEFAULT_URL and client is None and not headers:
            raise ValueError("OpenAI needs a key: set OPENAI_API_KEY, or pass api_key= to OpenAIDriver")
        self.api = api
        super().__init__(
            model,
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            context_window=context_window,
            privacy=privacy,
            prices=prices,
            client=client,
            headers=headers,
            query=query,
            options=options,
        )
        self._spoken: Dialect = ResponsesDialect() if api == "responses" else ChatDialect()

    def _dialect(self, request: CompletionRequest) -> Dialect:
        return self._spoken

    def _window_sources(self, model: str) -> Sequence[Source]:
        return (
            Source("/models", window_in_list),
            Source(f"/props?model={quote(model, safe='')}", window_in_props, at_root=True),  # llama.cpp
            Source("/api/v0/models", window_in_list, at_root=True),  # LM Studio
        )

    def _credentials(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self._key.reveal()}"} if self._key else {}
