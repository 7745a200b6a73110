"""Fetching from the web within a grant: addresses are checked, and what was checked is connected."""

from __future__ import annotations

import functools
import ipaddress
import ssl
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import trio

from agentpool._blocking import run_blocking
from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import CapabilityDeniedError, ToolError
from agentpool._core.hosts import (
    HostPattern,
    IPAddress,
    allows_address,
    allows_literal,
    allows_name,
    host_pattern,
    is_loopback,
    is_private,
    plain_address,
)
from agentpool.tools._urls import WebAddress, redirected, web_address

if TYPE_CHECKING:
    import httpcore2

Resolve: TypeAlias = Callable[[str, int], Awaitable[Iterable[str]]]
"""Gives the addresses of a name, as texts; raises `OSError` if it has none."""

MISSING = "fetch_url needs httpx2, which is not installed: pip install 'trio-agentpool[http]'"

_CLOSE_SECONDS = 1.0
_MAX_ADDRESSES = 8  # that are tried of a name
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = (
    (b"User-Agent", b"agentpool-fetch"),
    (b"Accept", b"text/html, application/xhtml+xml, application/json, text/*, */*;q=0.5"),
    (b"Accept-Encoding", b"gzip"),
    (b"Connection", b"close"),
)


@attrs.frozen
class FetchLimits:
    """What one fetch may take.

    Attributes:
      seconds: all of it, from the first name to the last byte, redirects too.
      connect_seconds: each connection, with its names and its handshake.
      size: bytes of an answer, as it comes and unpacked.
      redirects: how many are followed.
    """

    seconds: float = 60.0
    connect_seconds: float = 10.0
    size: int = 10_000_000
    redirects: int = 5


@attrs.frozen
class Fetched:
    """An answer.

    Attributes:
      address: where it is from, after redirects.
      status: of HTTP.
      content_type: the header; maybe empty.
      body: unpacked.
      is_cut: whether there was more than the limit.
    """

    address: WebAddress
    status: int
    content_type: str
    body: bytes
    is_cut: bool


async def resolved(name: str, port: int) -> list[str]:
    """Ask the system for the addresses of a name.

    Checkpoint: always. Cancellation: its thread is left alone, and ends by itself.
    """
    found = await trio.socket.getaddrinfo(name, port, type=trio.socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Load the certificates of authorities, once in a process: that takes 0.07 s."""
    import httpx2

    return httpx2.create_ssl_context()


# Beside each other, fetches share nothing but the certificates: no connections, no cookies.
@attrs.frozen
class Fetcher:
    """Fetches what a grant and a privacy tier allow.

    Attributes:
      granted: the hosts.
      privacy: `SOVEREIGN` reaches this machine only, `PRIVATE` private networks too.
      resolve: gives the addresses of names.
      limits: of each fetch.
      certificates: gives the TLS context; called in a thread.
    """

    granted: tuple[HostPattern, ...]
    privacy: PrivacyTier = PrivacyTier.STANDARD
    resolve: Resolve = resolved
    limits: FetchLimits = FetchLimits()
    certificates: Callable[[], ssl.SSLContext] = _certificates

    @classmethod
    def of(cls, allowed_hosts: Iterable[str], privacy: PrivacyTier, **options: Any) -> Fetcher:
        """Make one of a manifest's entries."""
        return cls(tuple(host_pattern(_in_ascii(text)) for text in allowed_hosts), privacy, **options)

    async def fetch(self, url: str) -> Fetched:
        """Get what is at a URL, following redirects as far as each of them is allowed.

        Raises:
          CapabilityDeniedError: if the host, its address or where it redirects to is not granted.
          ToolError: if it cannot be had, in words.

        Checkpoint: always. Cancellation: the connection is closed; the request may have been answered.
        """
        try:
            import httpcore2  # noqa: F401
        except ImportError:
            raise ToolError(MISSING) from None
        try:
            address = web_address(url)
        except ValueError as error:
            raise ToolError(str(error)) from None
        with trio.move_on_after(self.limits.seconds):
            return await self._followed(address)
        raise ToolError(f"{address} took longer than {self.limits.seconds:g} seconds")

    async def _followed(self, address: WebAddress) -> Fetched:
        asked = address
        for _ in range(self.limits.redirects + 1):
            answer = await self._asked(address, asked)
            if isinstance(answer, Fetched):
                return answer
            address = _next_hop(address, answer)
        raise ToolError(f"{asked} redirects more than {self.limits.redirects} times, at last to {address}")

    async def _asked(self, address: WebAddress, asked: WebAddress) -> Fetched | str:
        """Ask one server; gives its answer, or where it redirects to."""
        try:
            addresses = await self._checked(address)
        except ToolError as error:
            if address == asked:
                raise
            raise type(error)(f"{asked} redirects to {address}, but {error}") from None
        try:
            return await self._exchanged(address, addresses)
        except ToolError:
            raise
        except Exception as error:
            told = _in_words(error)
            if told is None:
                raise
            raise ToolError(f"{address} cannot be fetched: {told}") from error

    # -- what may be connected ---------------------------------------------------------

    async def _checked(self, address: WebAddress) -> list[IPAddress]:
        """Return the addresses to connect to. A name that is not granted is not even asked for.

        One address that is not allowed refuses all of them: else it would be a matter of chance, or of the
        time, which one is taken.
        """
        if address.address is not None:
            if not allows_literal(self.granted, address.address, address.port):
                raise self._refused(address, "")
            self._check_privacy(address, address.address)
            return [address.address]
        if not allows_name(self.granted, address.host, address.port):
            raise self._refused(address, "")
        found = await self._addresses(address)
        for each in found:
            if not allows_address(self.granted, each, address.port):
                raise self._refused(address, f", whose address {each} is not a public one")
            self._check_privacy(address, each)
        return found

    def _refused(self, address: WebAddress, why: str) -> CapabilityDeniedError:
        granted = ", ".join(map(_told_pattern, self.granted)) or "nothing"
        return CapabilityDeniedError(
            f"port {address.port} of the host {address.host!r}{why} is outside of what this agent may reach,"
            f" which is: {granted}"
        )

    def _check_privacy(self, address: WebAddress, found: IPAddress) -> None:
        is_near = is_loopback if self.privacy is PrivacyTier.SOVEREIGN else is_private
        if self.privacy is not PrivacyTier.STANDARD and not is_near(found):
            raise CapabilityDeniedError(
                f"the host {address.host!r} ({found}) is outside of the privacy tier of this agent,"
                f" which is {self.privacy.value}"
            )

    async def _addresses(self, address: WebAddress) -> list[IPAddress]:
        if address.host == "localhost":  # whatever a resolver says
            return [ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")]
        try:
            with trio.fail_after(self.limits.connect_seconds):
                texts = await self.resolve(address.host, address.port)
            found = [plain_address(ipaddress.ip_address(text)) for text in texts]
        except trio.TooSlowError:
            raise ToolError(f"the address of the host {address.host!r} was not found in time") from None
        except (OSError, ValueError) as error:
            raise ToolError(f"the host {address.host!r} has no address: {error}") from error
        if not found:
            raise ToolError(f"the host {address.host!r} has no address")
        return list(dict.fromkeys(found))

    # -- one exchange --------------------------------------------------------------------

    async def _exchanged(self, address: WebAddress, addresses: Sequence[IPAddress]) -> Fetched | str:
        import httpcore2

        from agentpool.tools._connecting import CheckedBackend

        is_secure = address.scheme == "https"
        scheme, host = address.scheme.encode(), address.host.encode()
        connection = httpcore2.AsyncHTTPConnection(
            origin=httpcore2.Origin(scheme, host, address.port),
            ssl_context=await run_blocking(self.certificates) if is_secure else None,
            network_backend=CheckedBackend(addresses[:_MAX_ADDRESSES]),
        )
        seconds = self.limits.connect_seconds
        request = httpcore2.Request(
            b"GET",
            httpcore2.URL(scheme=scheme, host=host, port=address.port, target=address.target.encode()),
            headers=[(b"Host", address.authority.encode()), *_HEADERS],
            extensions={"timeout": {"connect": seconds}},
        )
        try:
            response = await connection.handle_async_request(request)
            headers = _headers(response)
            if response.status in _REDIRECTS and "location" in headers:
                return headers["location"]
            body, is_cut = await _body(response, headers, self.limits.size)
            return Fetched(address, response.status, headers.get("content-type", ""), body, is_cut)
        finally:
            with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                await connection.aclose()


def _in_ascii(text: str) -> str:
    """Return an entry of `allowed_hosts` as names come in URLs."""
    if text.isascii():
        return text
    import idna

    host, mark, port = text.partition(":")
    wildcard = "*." if host.startswith("*.") else ""
    try:
        return f"{wildcard}{idna.encode(host.removeprefix('*.'), uts46=True).decode()}{mark}{port}"
    except (idna.IDNAError, UnicodeError):
        return text  # no URL has such a name, so that it grants nothing


def _told_pattern(pattern: HostPattern) -> str:
    host = pattern.name or str(pattern.network).removesuffix("/32").removesuffix("/128")
    if pattern.any_port:
        return f"{host}, any port"
    return host if pattern.port is None else f"{host}, port {pattern.port}"


def _next_hop(address: WebAddress, location: str) -> WebAddress:
    try:
        after = redirected(address, location)
    except ValueError as error:
        raise ToolError(f"{address} redirects to what cannot be fetched: {error}") from None
    if (address.scheme, after.scheme) == ("https", "http"):
        raise ToolError(f"{address} redirects to {after}, which is not encrypted; it was not followed")
    return after


def _headers(response: httpcore2.Response) -> Mapping[str, str]:
    """Return the headers, names in lower case; of several with one name the first."""
    headers: dict[str, str] = {}
    for name, value in response.headers:
        headers.setdefault(name.decode("latin-1").lower(), _header(value))
    return headers


def _header(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def _body(response: httpcore2.Response, headers: Mapping[str, str], limit: int) -> tuple[bytes, bool]:
    """Read an answer up to a limit, as it comes and as it is unpacked; gives whether there was more."""
    unpack = _unpacker(headers.get("content-encoding", ""))
    chunks = response.stream.__aiter__()  # type: ignore[union-attr]
    body: list[bytes] = []
    size = received = 0
    try:
        async for chunk in chunks:
            received += len(chunk)
            unpacked = unpack(chunk, limit - size + 1)
            size += len(unpacked)
            body.append(unpacked)
            if size > limit or received > limit:
                return b"".join(body)[:limit], True
    finally:
        if isinstance(chunks, AsyncGenerator):
            with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                await chunks.aclose()
    return b"".join(body), False


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    match encoding.strip().lower():
        case "" | "identity":
            return lambda chunk, room: chunk[:room]
        case "gzip" | "x-gzip":
            return _Inflate(16 + zlib.MAX_WBITS).feed
        case "deflate":
            return _Inflate(zlib.MAX_WBITS).feed
        case other:
            raise ToolError(f"the answer is packed as {other[:50]!r}, for which was not asked")


class _Inflate:
    """Unpacks up to so many bytes: a packed answer may be a thousand times as long as it looks."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._inflate = zlib.decompressobj(bits)
        self._begun = False

    def feed(self, chunk: bytes, room: int) -> bytes:
        unpacked: list[bytes] = []
        while chunk and room > 0:
            if self._inflate.eof:  # another member follows, or padding
                if not chunk.startswith(b"\x1f\x8b"):
                    break
                self._inflate = zlib.decompressobj(self._bits)
            piece = self._piece(chunk, room)
            unpacked.append(piece)
            room -= len(piece)
            chunk = self._inflate.unconsumed_tail or self._inflate.unused_data
        return b"".join(unpacked)

    def _piece(self, chunk: bytes, room: int) -> bytes:
        begun, self._begun = self._begun, True
        try:
            return self._inflate.decompress(chunk, room)
        except zlib.error:
            if begun or self._bits != zlib.MAX_WBITS:
                raise
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)  # `deflate` without its frame, as some send it
        return self._inflate.decompress(chunk, room)


def _in_words(error: Exception) -> str | None:
    """Say what went wrong on the way; None if that is a mistake of ours."""
    import httpcore2

    causes: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and len(causes) < 10:
        causes.append(each)
        each = each.__cause__ or each.__context__
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {cause.verify_message}"
    match error:
        case httpcore2.ConnectTimeout():
            return "there was no connection in time"
        case zlib.error():
            return f"what it sent cannot be unpacked: {error}"
        case httpcore2.RemoteProtocolError() | httpcore2.NetworkError() | httpcore2.TimeoutException():
            told = next(filter(None, map(str, causes)), "the connection broke off")
            return f"{type(error).__name__}: {told[:300]}"
        case httpcore2.LocalProtocolError() | OSError():
            return f"{type(error).__name__}: {str(error)[:300]}"
    return None
