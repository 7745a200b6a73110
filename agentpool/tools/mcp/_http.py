"""Sessions over streamable HTTP: where the words go is looked at, and how long the answers are."""

from __future__ import annotations

import contextvars
import json
import math
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import attrs
import httpx2
import trio
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import McpServerError
from agentpool._core.mcp import filled, is_loopback_url, tier_of
from agentpool._core.mcp_servers import McpServer
from agentpool.tools.mcp._inbound import FloodError, Inbound
from agentpool.tools.mcp._mending import answer_to

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

SECONDS = 30.0
"""So long a connection, or a request that is sent, may take."""


MOST_RESUMPTIONS = 500
"""So often the answer to one request is asked for again when its stream has ended before.

The SDK does it by a call within a call: without an end, the stack has one, in the middle of trio.
"""

LISTENING_PAUSE = 1.0
"""So many seconds lie between two requests for a stream of what the server says by itself."""

# Of the request in whose task the SDK is.
_resumptions: contextvars.ContextVar[list[None]] = contextvars.ContextVar("agentpool_mcp_resumptions")


class TooLongError(httpx2.StreamError):
    """An answer is longer than it may be."""


class NotPermittedError(httpx2.ConnectError):
    """An address is in a place that the agent's privacy does not permit."""


@attrs.define(eq=False)
class HttpLink:
    """A link to a server of the web.

    Attributes:
      tier: where words may go.
      auth: what shows who asks; None for nothing but `headers`.
      problem: what broke it; empty if nothing did.
    """

    server: McpServer
    inbound: Inbound
    tier: PrivacyTier
    auth: httpx2.Auth | None = None
    problem: str = ""
    _transport: _Guarded | None = None

    @property
    def refusals(self) -> int:
        """How many requests of the session were refused by their status."""
        return 0 if self._transport is None else self._transport.refusals

    def told(self) -> str:
        """Return why it is over; empty if that is not known."""
        refused = "" if self._transport is None else self._transport.refused
        return self.problem or refused

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TransportStreams]:
        """Open the streams of a session, which is ended with the block."""
        server, url = self.server, str(self.server.url).strip()
        try:
            headers = filled(server.headers, os.environ)
        except ValueError as error:
            raise McpServerError(server.name, f"{error}, which its headers name") from None
        is_loopback = is_loopback_url(url)
        self._transport = _Guarded(
            # What stays on this machine takes no proxies from the environment: one could lead away from it.
            httpx2.AsyncHTTPTransport(
                verify=not (is_loopback and url.startswith("http:")), trust_env=not is_loopback
            ),
            self.tier,
            server.max_result_bytes,
        )
        client = httpx2.AsyncClient(
            transport=self._transport,
            # Nothing that is packed: a small answer could become an endless one.
            headers={"accept-encoding": "identity", **headers},
            auth=self.auth,
            timeout=httpx2.Timeout(SECONDS, read=max(300.0, server.timeout + SECONDS)),
        )
        async with (
            client,
            streamable_http_client(url, http_client=client, max_sse_event_size=server.max_result_bytes) as (
                from_server,
                to_server,
            ),
        ):
            yield _Taken(self, from_server), to_server


@attrs.define(eq=False)
class _Guarded(httpx2.AsyncBaseTransport):
    """Sends requests where the privacy permits it, and reads answers as far as they may go.

    Attributes:
      refused: what the server refused the last message with; empty if it took it.
      refusals: how often it did, for requests that name a session.
    """

    inner: httpx2.AsyncHTTPTransport
    tier: PrivacyTier
    longest: int
    refused: str = ""
    refusals: int = 0
    _listened_at: float = -math.inf

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            _resumptions.set([])
        elif request.method == "GET" and "text/event-stream" in request.headers.get("accept", ""):
            await self._paced()
        sent = request if self.tier is PrivacyTier.STANDARD else await self._checked(request)
        response = await self.inner.handle_async_request(sent)
        is_refused = response.status_code >= 400
        if request.method == "POST":
            said = f"it answered {response.status_code} {response.reason_phrase}".strip()
            self.refused = said if is_refused else ""
        if is_refused:
            self.refusals += "mcp-session-id" in request.headers
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.RemoteProtocolError("it sent a packed answer, which was not asked for")
        is_stream = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        if not is_stream:
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Bounded(response.stream, self.longest)
            if not is_refused and (number := _number_of(request)) is not None:
                response.stream = _Answer(response.stream, number)
        return response

    async def _paced(self) -> None:
        """Wait before a stream is asked for again: a server says itself how soon, which may be at once."""
        resumed = _resumptions.get(None)
        if resumed is None:
            await trio.sleep_until(self._listened_at + LISTENING_PAUSE)
            self._listened_at = trio.current_time()
            return
        if len(resumed) >= MOST_RESUMPTIONS:
            raise httpx2.ReadError("the stream of the answer ended too often")
        resumed.append(None)

    async def _checked(self, request: httpx2.Request) -> httpx2.Request:
        """Return the request as it is sent: to an address that was looked at, and no other."""
        url = request.url
        found = await trio.socket.getaddrinfo(url.host, url.port or 80, type=socket.SOCK_STREAM)
        addresses = [str(each[4][0]) for each in found]
        for address in addresses:
            if not self.tier.permits(place := tier_of(address)):
                raise NotPermittedError(
                    f"{url.host} is {address}, a place that is {place.value};"
                    f" the privacy of the agent is {self.tier.value}"
                )
        return httpx2.Request(
            request.method,
            url.copy_with(host=addresses[0].partition("%")[0]),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": url.host},
        )

    async def aclose(self) -> None:
        await self.inner.aclose()


@attrs.define(eq=False)
class _Bounded(httpx2.AsyncByteStream):
    inner: httpx2.AsyncByteStream
    longest: int

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        async for chunk in self.inner:
            length += len(chunk)
            if length > self.longest:
                raise TooLongError(
                    f"it sent a message of more than {self.longest:,} bytes; max_result_bytes allows more"
                )
            yield chunk

    async def aclose(self) -> None:
        await self.inner.aclose()


@attrs.define(eq=False)
class _Answer(httpx2.AsyncByteStream):
    """The body that answers one request."""

    inner: _Bounded
    number: str | int

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield answer_to(self.number, b"".join([chunk async for chunk in self.inner]))

    async def aclose(self) -> None:
        await self.inner.aclose()


def _number_of(request: httpx2.Request) -> str | int | None:
    """Return the number of a request of the protocol; None if it is something else, such as a login."""
    if request.headers.get("content-type", "") != "application/json":
        return None
    try:
        message = json.loads(request.content)
    except (ValueError, httpx2.RequestNotRead):
        return None
    return message.get("id") if isinstance(message, dict) and "method" in message else None


class _Taken:
    """The messages of a stream that the SDK is to have."""

    def __init__(self, link: HttpLink, inner: Any) -> None:
        self._link = link
        self._inner = inner

    @property
    def last_context(self) -> Any:
        """In which context the message came: that of the call to whose answer it belongs."""
        return self._inner.last_context

    async def receive(self) -> SessionMessage | Exception:
        return await self.__anext__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            while True:
                item: SessionMessage | Exception = await self._inner.__anext__()
                if self._link.inbound.take(item):
                    return item
        except FloodError as error:
            self._link.problem = f"was stopped: {error}"
            self._link.inbound.ended.set()
            raise StopAsyncIteration from None
        except StopAsyncIteration:
            self._link.inbound.ended.set()
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_val, exc_tb)
