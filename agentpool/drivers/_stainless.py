"""What the SDKs of OpenAI and Anthropic have in common: one generator (Stainless) wrote both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from importlib import import_module
from typing import Any

from agentpool._core.errors import DriverError, MalformedReplyError
from agentpool._core.messages import CompletionRequest
from agentpool.drivers._wire import (
    CONNECT_TIMEOUT,
    LOOPBACK_OPTIONS,
    Events,
    ModelDriver,
    Refusal,
    retry_after_seconds,
    words_of,
)

NO_KEY = "none"
"""What the SDKs, which insist on a key, are given for a server that needs none."""


class StainlessDriver(ModelDriver):
    """A driver on an SDK whose exceptions and clients look like those of OpenAI and Anthropic."""

    def _client_options(self, sdk: Any) -> dict[str, Any]:
        return {
            "api_key": self._key.reveal() or NO_KEY,
            "base_url": self.base_url,
            "max_retries": 0,  # who retries is a driver around this one, and nobody else
            "timeout": sdk.Timeout(self.timeout, connect=min(CONNECT_TIMEOUT, self.timeout)),
            "http_client": self._http_client(sdk),
        }

    def _http_client(self, sdk: Any) -> Any:
        """Return the SDK's HTTP client, or a plain one of its kind for what stays on this machine.

        Anthropic's takes proxies from the environment also when it is told not to.
        """
        if not self._stays_here():
            return sdk.DefaultAsyncHttpxClient()
        plain: Any = next(
            base for base in sdk.DefaultAsyncHttpxClient.__mro__ if base.__name__ == "AsyncClient"
        )
        httpx = import_module(plain.__module__.partition(".")[0])
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)  # those of the SDKs
        return plain(limits=limits, **LOOPBACK_OPTIONS)

    @abstractmethod
    async def _create(self, client: Any, params: Mapping[str, Any], *, stream: bool) -> Any:
        """Make the SDK's call."""

    @abstractmethod
    def _params(self, request: CompletionRequest) -> dict[str, Any]:
        """Return the call's parameters."""

    async def _send(self, client: Any, request: CompletionRequest, *, stream: bool) -> Any:
        """Make the call; where a model turns out to take no temperature, once more without."""
        params = self._params(request)
        try:
            return await self._create(client, params, stream=stream)
        except self._sdk.BadRequestError as error:
            model = params["model"]
            if "temperature" not in str(error) or not self._takes_temperature(model):
                raise
            self._no_temperature.add(model)
        return await self._create(client, self._params(request), stream=stream)

    async def _open(self, client: Any, request: CompletionRequest) -> AsyncIterator[Any]:
        return Events(await self._send(client, request, stream=True))

    # -- errors

    def _refusal(self, error: Exception) -> Refusal | None:
        sdk = self._sdk
        said: Any = error  # the SDK is not there for type checkers
        if isinstance(error, sdk.APIStatusError):
            text, code = words_of(said.body, said.message)
            return Refusal(said.status_code, text, code, retry_after_seconds(said.response.headers))
        if type(error) is sdk.APIError:  # an event of a stream
            return Refusal(None, *words_of(said.body, said.message))
        return None

    def _translate(self, error: Exception, what: str, begun: bool) -> DriverError:
        if isinstance(error, self._sdk.APIResponseValidationError):
            return MalformedReplyError(f"{what} cannot be read: {error}")
        return super()._translate(error, what, begun)

    def _is_unreachable(self, error: Exception) -> bool:
        return isinstance(error, self._sdk.APIConnectionError) or super()._is_unreachable(error)
