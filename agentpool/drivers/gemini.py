"""Google's Gemini models, in Gemini's own API."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentpool._core.capability import PrivacyTier
from agentpool._core.messages import CompletionRequest
from agentpool.drivers._dialect import Dialect
from agentpool.drivers._gemini_chat import GeminiDialect, model_path, placed
from agentpool.drivers._http import DEFAULT_TIMEOUT
from agentpool.drivers._http_driver import HttpDriver
from agentpool.drivers._windows import Source, window_of_a_model
from agentpool.drivers.prices import PriceTable

if TYPE_CHECKING:
    import httpx2

DEFAULT_URL = "https://generativelanguage.googleapis.com/v1beta"


class GeminiDriver(HttpDriver):
    """Asks a Gemini model, in Gemini's own API.

    It holds connections: use it as `async with GeminiDriver(...) as driver`, or call `aclose`. What
    a model refuses is learned, and what it signs (thoughts, calls) goes back to it.

    Args:
      model: the model's name, used for requests that name none.
      base_url: where the server is, up to what stands before `/models`; left out,
        `GOOGLE_GEMINI_BASE_URL` or else Google. An address without a path is given `/v1beta`.
      api_key: the key; left out, `GEMINI_API_KEY`, else `GOOGLE_API_KEY`; empty, none, which other
        servers may take.
      timeout: seconds of silence after which a call is given up.
      context_window: tokens of a request and its answer together, in the place of what the price
        table or the server says.
      privacy: where words go; left out, it follows from the address.
      prices: left out, the table that comes with the package.
      client: an `httpx2.AsyncClient` of your own, for proxies, certificates or signing (Vertex AI).
        It is not closed.
      headers: more headers; they win over ours.
      query: more of the address's query.
      options: more of each request, by Gemini's own names: `seed`, `topP` and their like are put into
        its `generationConfig`; `safetySettings`, `cachedContent` and `tools` stand at the top.

    Raises:
      ModuleNotFoundError: if httpx2 is not installed; it names the `pip install`.
      ValueError, TypeError: if the key is missing, or an argument cannot be right.
    """

    provider = "gemini"

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
        client: httpx2.AsyncClient | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        base_url = base_url or os.environ.get("GOOGLE_GEMINI_BASE_URL") or DEFAULT_URL
        if api_key is None:
            api_key = gemini_key(os.environ)
        if not api_key.strip() and base_url.rstrip("/") == DEFAULT_URL and client is None and not headers:
            raise ValueError("Gemini needs a key: set GEMINI_API_KEY, or pass api_key= to GeminiDriver")
        super().__init__(
            model.removeprefix("models/"),
            base_url=_versioned(base_url),
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
        self._spoken: Dialect = GeminiDialect()

    def _dialect(self, request: CompletionRequest) -> Dialect:
        return self._spoken

    def _window_sources(self, model: str) -> Sequence[Source]:
        return (Source(model_path(model), window_of_a_model),)

    def _credentials(self) -> Mapping[str, str]:
        return {"x-goog-api-key": self._key.reveal()} if self._key else {}

    def _placed(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return placed(options)


def gemini_key(env: Mapping[str, str]) -> str:
    """Return the key for Gemini: `GEMINI_API_KEY`, else `GOOGLE_API_KEY`, else none."""
    return env.get("GEMINI_API_KEY") or env.get("GOOGLE_API_KEY", "")


def _versioned(url: str) -> str:
    """Return an address with the version of the API, if it has no path at all."""
    base, mark, query = url.strip().partition("?")
    base = re.sub(r"/(?:models|models/[^/]+:\w+)$", "", base.rstrip("/"))
    try:
        bare = not urlsplit(base).path
    except ValueError:  # said better by whoever checks it
        return url
    return f"{base}/v1beta{mark}{query}" if bare and "://" in base else f"{base}{mark}{query}"
