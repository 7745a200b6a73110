"""Models that Ollama runs on your own machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentpool._core.capability import PrivacyTier
from agentpool._core.messages import CompletionRequest
from agentpool.drivers import _reading as reading
from agentpool.drivers._dialect import Dialect
from agentpool.drivers._http import DEFAULT_TIMEOUT
from agentpool.drivers._http_driver import HttpDriver
from agentpool.drivers._ollama_chat import OllamaDialect, placed
from agentpool.drivers._windows import Source, window_when_loaded, window_when_shown
from agentpool.drivers.prices import ModelPrice, PriceTable

if TYPE_CHECKING:
    import httpx2

DEFAULT_PORT = 11434


class OllamaDriver(HttpDriver):
    """Asks a model that an Ollama server runs, in Ollama's own API.

    It holds connections: use it as `async with OllamaDriver(...) as driver`, or call `aclose`.

    Args:
      model: the model's name, used for requests that name none.
      base_url: where the server is, with or without `/v1` or `/api` at its end; left out,
        `OLLAMA_HOST` or else this machine.
      api_key: for a server behind a key; left out, `OLLAMA_API_KEY`, or none.
      timeout: seconds of silence after which a call is given up; loading a model is silent, too.
      context_window: the size of the context that Ollama is asked to provide; left out, it
        chooses one, which may be small. What does not fit is refused, not cut off.
      privacy: where words go; left out, it follows from the address. Models that Ollama passes on
        to its cloud do not stay on this machine.
      prices: left out, the table that comes with the package.
      client: an `httpx2.AsyncClient` of your own, for proxies, certificates or signing. It is not closed.
      headers: more headers; they win over ours.
      query: more of the address's query.
      options: more of each request, by Ollama's own names: `seed`, `top_p`, `num_gpu` and their like
        are put into its `options`; `keep_alive`, `think` and `format` stand at the top.

    Raises:
      ModuleNotFoundError: if httpx2 is not installed; it names the `pip install`.
      ValueError, TypeError: if an argument cannot be right.
    """

    provider = "ollama"

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
        if api_key is None:
            api_key = os.environ.get("OLLAMA_API_KEY", "")
        wanted = reading.mapping_of(placed(options or {}).get("options")).get("num_ctx")
        super().__init__(
            model,
            base_url=_root(base_url or ollama_url(os.environ)),
            api_key=api_key,
            timeout=timeout,
            context_window=reading.count(wanted) or context_window,
            privacy=privacy,
            prices=prices,
            client=client,
            headers=headers,
            query=query,
            options=options,
        )
        self._spoken: Dialect = OllamaDialect(context_window)

    def _stays_here(self) -> bool:
        return super()._stays_here() and not _is_cloud(self.model)

    def _price(self, model: str) -> ModelPrice | None:
        if _is_cloud(model):
            return self._prices.models.get((self.provider, model))
        return super()._price(model)

    def _dialect(self, request: CompletionRequest) -> Dialect:
        return self._spoken

    def _credentials(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self._key.reveal()}"} if self._key else {}

    def _placed(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return placed(options)

    def _window_sources(self, model: str) -> Sequence[Source]:
        return (
            Source("/api/ps", window_when_loaded),
            Source("/api/show", window_when_shown, question={"model": model}),
        )

    async def list_models(self) -> tuple[str, ...]:
        """Return the names of the models that the server has.

        Raises:
          DriverError: if it does not answer.

        Checkpoint: always.
        """
        answer = reading.mapping_of(await self._asked("/api/tags"))
        models = [reading.mapping_of(model) for model in reading.items_of(answer.get("models"))]
        names = (reading.words(model.get("model") or model.get("name")) for model in models)
        return tuple(name for name in names if name)


def _root(url: str) -> str:
    """Return the address of the server itself: its API stands at `/api`, whatever a user has written."""
    base, mark, query = url.strip().partition("?")
    base = base.rstrip("/").removesuffix("/chat").removesuffix("/api").removesuffix("/v1")
    return f"{base}{mark}{query}"


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
