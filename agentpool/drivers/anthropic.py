"""Anthropic's Claude models, and servers that speak their API."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agentpool._core.capability import PrivacyTier
from agentpool._core.messages import CompletionRequest
from agentpool.drivers._address import without_end
from agentpool.drivers._dialect import Dialect
from agentpool.drivers._http import DEFAULT_TIMEOUT
from agentpool.drivers._http_driver import HttpDriver
from agentpool.drivers._messages import MessagesDialect
from agentpool.drivers._windows import Source, window_of_a_model
from agentpool.drivers.prices import PriceTable

if TYPE_CHECKING:
    import httpx2

DEFAULT_URL = "https://api.anthropic.com"

_VERSION = "2023-06-01"


class AnthropicDriver(HttpDriver):
    """Asks a Claude model.

    It holds connections: use it as `async with AnthropicDriver(...) as driver`, or call `aclose`.
    What a model refuses is learned: a setting that it does not take is left out from then on.

    Args:
      model: the model's name, used for requests that name none.
      base_url: where the server is, with or without `/v1`; left out, `ANTHROPIC_BASE_URL` or else
        Anthropic.
      api_key: the key; left out, `ANTHROPIC_API_KEY`; empty, none, which other servers may take.
      cache: whether the system prompt, the tools and the last turns are points at which the
        provider caches what came before. Reading from the cache is cheap, writing to it costs more
        than plain input: worth it for agents of several turns.
      timeout: seconds of silence after which a call is given up.
      context_window: tokens of a request and its answer together, in the place of what the price
        table or the server says.
      privacy: where words go; left out, it follows from the address.
      prices: left out, the table that comes with the package.
      client: an `httpx2.AsyncClient` of your own, for proxies, certificates or signing. It is not closed.
      headers: more headers, such as `anthropic-beta`; they win over ours.
      query: more of the address's query.
      options: more of each request, by the API's own names; they win over ours. `tools` are added to ours.

    Raises:
      ModuleNotFoundError: if httpx2 is not installed; it names the `pip install`.
      ValueError, TypeError: if the key is missing, or an argument cannot be right.
    """

    provider = "anthropic"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        cache: bool = True,
        timeout: float = DEFAULT_TIMEOUT,
        context_window: int | None = None,
        privacy: PrivacyTier | None = None,
        prices: PriceTable | None = None,
        client: httpx2.AsyncClient | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        base_url = without_end(base_url or os.environ.get("ANTHROPIC_BASE_URL") or DEFAULT_URL, "/messages")
        if api_key is None:
            api_key = os.environ.get("ANTHROPIC_API_KEY", "")
        if not api_key.strip() and base_url == DEFAULT_URL and client is None and not headers:
            raise ValueError(
                "Anthropic needs a key: set ANTHROPIC_API_KEY, or pass api_key= to AnthropicDriver"
            )
        self.cache = cache
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
        self._prefix = "" if self._address.base.endswith("/v1") else "/v1"
        self._spoken: Dialect = MessagesDialect(self._prefix, cache=cache)

    def _dialect(self, request: CompletionRequest) -> Dialect:
        return self._spoken

    def _window_sources(self, model: str) -> Sequence[Source]:
        return (Source(f"{self._prefix}/models/{quote(model, safe='')}", window_of_a_model),)

    def _credentials(self) -> Mapping[str, str]:
        key = self._key.reveal()
        version = {"anthropic-version": _VERSION}
        if not key:
            return version
        if key.startswith("sk-ant-oat"):  # a token that was lent, not a key
            return {**version, "authorization": f"Bearer {key}"}
        return {**version, "x-api-key": key}
