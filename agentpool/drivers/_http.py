"""One exchange over HTTP: a request out, and the bytes of its answer in, on httpx2."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._core.errors import (
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    RequestRejectedError,
)
from agentpool.drivers._address import Address
from agentpool.drivers._secrets import Redaction, hide_from_log
from agentpool.drivers._unpacking import MAGIC, Gunzip

if TYPE_CHECKING:
    import httpx2

DEFAULT_TIMEOUT = 600.0
"""Seconds of silence after which a call is given up; what the SDKs of the big providers take."""

CONNECT_TIMEOUT = 5.0
"""Seconds that opening a connection may take, as in the SDKs."""

LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer at the most, unpacked: what is longer is no answer of a model."""

LARGEST_REFUSAL = 256 * 1024
"""Bytes of a refusal that are read."""

REFUSAL_SECONDS = 10.0
"""Seconds that a refusal may take to be told, once its status is there."""

CLOSE_GRACE = 2.0
"""Seconds that closing connections may take when the caller is being cancelled."""

_DRAIN_SECONDS = 0.2  # for the end of a stream of which all that matters has come

_STALE_TRIES = 3  # connections from before that may have gone, before a new one has to do


@attrs.define(eq=False, repr=False)  # nobody is to see the headers
class HttpClient:
    """The connections of one driver.

    Attributes:
      address: where the server is.
      client: the HTTP client.
      is_own: whether we made it, and so close it; a user's own client adds its own headers, and
        stays open.
      timeout: seconds of silence.
      redaction: takes the driver's secrets out of errors.
    """

    address: Address
    client: httpx2.AsyncClient
    is_own: bool
    timeout: float
    redaction: Redaction

    @classmethod
    def opened(
        cls,
        httpx: Any,
        address: Address,
        client: httpx2.AsyncClient | None,
        timeout: float,
        redaction: Redaction,
    ) -> HttpClient:
        """Make the client, unless the user has one.

        What stays on this machine takes no proxies from the environment: one could lead away from
        it. Redirects are not followed, since they could, too. Nor does it load the certificates of
        authorities, which takes 0.07 s, where plain HTTP is spoken to this machine.

        Raises:
          RequestRejectedError: if the environment names a proxy or certificates that cannot be used.
        """
        hide_from_log(redaction)
        if client is not None:
            return cls(address, client, False, timeout, redaction)
        is_plain = address.is_loopback and address.base.startswith("http:")
        try:
            made = httpx.AsyncClient(
                limits=httpx.Limits(max_connections=1000, max_keepalive_connections=100),
                trust_env=not address.is_loopback,
                verify=False if is_plain else httpx.create_ssl_context(),
                follow_redirects=False,
            )
        except Exception as error:
            raise RequestRejectedError(_wrong_environment(error)) from redaction.scrub(error)
        return cls(address, made, True, timeout, redaction)

    async def aclose(self) -> None:
        """Close the connections. Checkpoint: maybe. Cancellation: they are closed nevertheless."""
        if self.is_own:
            with trio.move_on_after(CLOSE_GRACE, shield=True):
                await self.client.aclose()

    def exchange(self, path: str, headers: Mapping[str, str], content: bytes | None) -> Exchange:
        """Return a block for one exchange; without `content` it is a GET."""
        return Exchange(self, path, headers, content)


@attrs.define(eq=False, repr=False)
class Exchange:
    """One exchange, for an `async with` block; leaving it early closes the connection.

    Attributes:
      status: of the answer.
      headers: of the answer, names in lower case.
    """

    _http: HttpClient
    _path: str
    _headers: Mapping[str, str]
    _content: bytes | None
    _sent: _Sent = attrs.field(factory=lambda: _Sent(), init=False)
    _response: Any = attrs.field(default=None, init=False)
    _chunks: AsyncIterator[bytes] | None = attrs.field(default=None, init=False)
    _gunzip: Gunzip | None = attrs.field(default=None, init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _received: int = attrs.field(default=0, init=False)
    status: int = attrs.field(default=0, init=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, init=False)

    async def __aenter__(self) -> Exchange:
        """Send the request, and wait for the head of the answer.

        A connection from before may be gone by now, without the fault of anybody: then the request
        was not read, and is sent on another one.

        Raises:
          DriverUnavailableError: if there is no connection, or nothing comes.
        """
        tries = 0
        while True:
            sent = self._sent = _Sent()
            try:
                self._response = await self._http.client.send(self._request(sent), stream=True)
                break
            except Exception as error:
                self._response = _refused(error)
                if self._response is not None:
                    break
                tries += 1
                if tries > _STALE_TRIES or sent.is_new or not _was_stale(error):
                    raise self.translated(error) from self._http.redaction.scrub(error)
        self.status = self._response.status_code
        self.headers = self._response.headers
        return self

    def _request(self, sent: _Sent) -> Any:
        from httpx2 import Request

        http = self._http
        url = http.address.url(self._path)
        method = "GET" if self._content is None else "POST"
        timeout = {
            "connect": min(CONNECT_TIMEOUT, http.timeout),
            "read": http.timeout,
            "write": http.timeout,
            "pool": None,
        }
        extensions: dict[str, Any] = {"timeout": timeout, "trace": sent.trace}
        if http.is_own:
            return Request(method, url, headers=self._headers, content=self._content, extensions=extensions)
        return http.client.build_request(
            method, url, headers=dict(self._headers), content=self._content, extensions=extensions
        )

    async def chunk(self) -> bytes:
        """Return the next bytes of the answer, unpacked; none at its end.

        Raises:
          MalformedReplyError: if the connection breaks, or the answer is longer than any.
          DriverUnavailableError: if nothing comes for too long.
        """
        if self._ended:
            return b""
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = self._opened()
        chunk: bytes | None = b""
        try:
            while chunk == b"":  # a piece may unpack to nothing yet
                chunk = await anext(chunks, None)
                if chunk:
                    chunk = self._unpacked(chunk)
        except Exception as error:
            raise self.translated(error, begun=True) from self._http.redaction.scrub(error)
        if chunk is None:
            self._ended = True
            return b""
        self._received += len(chunk)
        if self._received > LARGEST_ANSWER:
            raise MalformedReplyError(f"the answer has more than {LARGEST_ANSWER:,} bytes")
        return chunk

    def _opened(self) -> AsyncIterator[bytes]:
        response = self._response
        if response.is_closed:  # a hook of the user's own has read what there is
            return response.aiter_bytes()  # type: ignore[no-any-return]
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding in ("gzip", "x-gzip"):
            self._gunzip = Gunzip()
        if encoding in ("", "identity", "gzip", "x-gzip"):
            return response.stream.__aiter__()  # type: ignore[no-any-return]
        return response.aiter_bytes()  # type: ignore[no-any-return]

    def _unpacked(self, chunk: bytes) -> bytes:
        if self._gunzip is None and not self._received and chunk.startswith(MAGIC):
            self._gunzip = Gunzip()  # some proxies forget to say it
        return chunk if self._gunzip is None else self._gunzip.feed(chunk)

    async def read(self) -> bytes:
        """Return the rest of the answer."""
        chunks: list[bytes] = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return b"".join(chunks)

    async def read_refusal(self) -> bytes:
        """Return what comes of a refusal, within 10 seconds.

        Its status says enough where its words break off, cannot be unpacked, or never come.
        """
        chunks: list[bytes] = []
        with trio.move_on_after(REFUSAL_SECONDS):
            try:
                while sum(map(len, chunks)) < LARGEST_REFUSAL and (chunk := await self.chunk()):
                    chunks.append(chunk)
            except DriverError:
                pass
        return b"".join(chunks)

    async def drain(self) -> None:
        """Read on to the end, if it is near, so that the connection can be used again."""
        with trio.move_on_after(_DRAIN_SECONDS):
            try:
                while await self.chunk():
                    pass
            except DriverError:
                pass  # all that matters has come

    async def __aexit__(self, *_: object) -> None:
        """Give the connection back, or close it if the answer was not read to its end.

        Checkpoint: maybe. Cancellation: shielded, for at most 2 seconds.
        """
        response, chunks = self._response, self._chunks
        if response is None:
            return
        with trio.move_on_after(CLOSE_GRACE, shield=True):
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
            await response.aclose()

    def translated(self, error: Exception, *, begun: bool = False) -> DriverError:
        """Return the error of our tree for one of the HTTP library.

        Args:
          error: what it raised.
          begun: whether the server had begun to answer.
        """
        return _translated(error, str(self._http.address), self._http.redaction, begun, self._sent)


class _Sent:
    """How far a request came, as the HTTP library tells it."""

    __slots__ = ("is_new", "was_sent")

    def __init__(self) -> None:
        self.is_new = False  # whether a connection was opened for it
        self.was_sent = False

    async def trace(self, name: str, info: object) -> None:
        if name.startswith("connection."):
            self.is_new = True
        elif name.endswith("send_request_body.complete"):
            self.was_sent = True


def _refused(error: Exception) -> Any:
    """Return the refusal that a hook or a login of the user's own client raised, by `raise_for_status`."""
    response = getattr(error, "response", None) if _is(error, "HTTPStatusError") else None
    return response if getattr(response, "status_code", 0) >= 300 else None


def _was_stale(error: Exception) -> bool:
    return _is(error, "RemoteProtocolError", "ReadError", "WriteError", "CloseError")


def _is(error: BaseException, *names: str) -> bool:
    """Whether an exception is one of httpx2's of these names; a user's own client may be patched ones."""
    return any(base.__name__ in names for base in type(error).__mro__)


def _translated(error: Exception, where: str, redaction: Redaction, begun: bool, sent: _Sent) -> DriverError:
    if isinstance(error, DriverError):
        return error
    text = redaction.text(f"{where}: {_first_words(error)}")
    if any(_is(each, "SSLCertVerificationError") for each in _causes(error)):
        return RequestRejectedError(f"{text} ({_CERTIFICATES})")
    if _is(error, "DecodingError") or isinstance(error, zlib.error):
        return MalformedReplyError(f"the answer of {text} cannot be unpacked")
    if begun and _is(error, "NetworkError", "RemoteProtocolError"):
        return MalformedReplyError(f"the answer was cut off: {text}")
    if _is(error, "UnsupportedProtocol", "InvalidURL", "LocalProtocolError") or _is_refusal_of_proxy(error):
        return RequestRejectedError(text)
    if begun or _is(error, "TransportError", "OSError", "HTTPError"):
        # Once the request was sent it may be answered, though nobody is there to hear it.
        return DriverUnavailableError(text, may_have_cost=begun or sent.was_sent)
    return RequestRejectedError(text)


def _is_refusal_of_proxy(error: Exception) -> bool:
    """Whether a proxy wants a password, or does not let us there: `407 Proxy Authentication Required`."""
    return _is(error, "ProxyError") and str(error).startswith("4")


_CERTIFICATES = (
    "if your company, or you, made the server's certificate: name the file of the authority in"
    " SSL_CERT_FILE, or give the driver a client of your own that knows it"
)


def _wrong_environment(error: Exception) -> str:
    """Return what is wrong with the environment. A proxy's address may hold a password: not shown."""
    match error:
        case ImportError():
            return "the environment names a SOCKS proxy, which needs pip install 'httpx2[socks]'"
        case OSError():  # ssl's own errors are of this kind
            return f"SSL_CERT_FILE or SSL_CERT_DIR names no certificates that can be read: {error}"
        case _:
            kind = type(error).__name__
            return f"HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is not the address of a proxy ({kind})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and its causes, which httpcore2 hands over as arguments.

    Not its context, which may be what the caller of the driver is handling.
    """
    while error is not None:
        yield error
        handed = (arg for arg in error.args if isinstance(arg, BaseException))
        error = error.__cause__ or next(handed, None)


def _first_words(error: Exception) -> str:
    kind = type(error).__name__
    hints = {
        "ReadTimeout": "nothing came for too long",
        "ConnectTimeout": "no connection within 5 seconds",
        "WriteTimeout": "the request could not be sent in time",
    }
    told = str(error) or hints.get(kind) or next(filter(None, map(str, _causes(error))), "no more is known")
    return f"{kind}: {' '.join(told.split())[:300]}"  # a failed handshake is told by its cause
