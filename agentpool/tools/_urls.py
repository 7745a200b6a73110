"""Addresses of the web, read strictly: what two programs could read in two ways is refused."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urljoin

import attrs

from agentpool._core.hosts import IPAddress, plain_address

MAX_URL_CHARS = 8_192

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_SHAPE = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?", re.DOTALL)
_ABSOLUTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SAFE = "!$%&'()*+,/:;=?@[]~|^`{}\"<>-._"  # what stays as it is; `%` is what has been escaped before

USUAL = {"http": 80, "https": 443}


@attrs.frozen
class WebAddress:
    """A URL that was taken apart.

    Attributes:
      scheme: `http` or `https`.
      host: a name in ASCII and lower case, or an address as it is usually written, without brackets.
      address: the address, if the host is one.
      port: where there is none in the URL, the scheme's.
      target: path and query, in ASCII.
    """

    scheme: str
    host: str
    address: IPAddress | None
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The host, with the port if it is not the scheme's: what stands in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == USUAL[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def web_address(url: str) -> WebAddress:
    """Take a URL apart; white space around it is left out.

    Raises:
      ValueError: if it is none of HTTP, or could be read in several ways. The words are for a model.
    """
    url = url.strip(" \t\r\n")
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"the URL has {len(url)} characters; {MAX_URL_CHARS} are the limit")
    if found := _FORBIDDEN.search(url):
        raise ValueError(f"the URL holds {found[0]!r}, which has to be written as %{ord(found[0]):02X}")
    shape = _SHAPE.fullmatch(url)
    if shape is None:
        raise ValueError(f"{url[:200]!r} is no URL; write https://HOST/PATH")
    scheme = shape[1].lower()
    if scheme not in USUAL:
        raise ValueError(f"the URL begins with {scheme}://; only http:// and https:// can be fetched")
    if "@" in shape[2]:
        raise ValueError(
            "the URL names a user before the host, which is refused; leave out what is before the @"
        )
    host, port = _split_port(shape[2])
    name, address = _host(host)
    number = _port(port) if port else USUAL[scheme]
    return WebAddress(scheme, name, address, number, _target(shape[3]))


def redirected(address: WebAddress, location: str) -> WebAddress:
    """Return where the answer of an address leads to.

    Raises:
      ValueError: as `web_address`.
    """
    location = location.strip(" \t\r\n").replace(" ", "%20")
    if found := _FORBIDDEN.search(location):
        raise ValueError(f"the URL holds {found[0]!r}")
    # `urljoin` would take `http:///x` for a path.
    return web_address(location if _ABSOLUTE.match(location) else urljoin(str(address), location))


def _split_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"the URL's host {authority!r} cannot be read")
        return f"{host}]", rest[1:]
    host, _, port = authority.partition(":")
    return host, port


def _port(port: str) -> int:
    if not (port.isascii() and port.isdecimal()) or not 0 < int(port[:6]) < 65_536:
        raise ValueError(f"the URL's port {port[:20]!r} does not exist")
    return int(port[:6])


def _host(host: str) -> tuple[str, IPAddress | None]:
    if host.startswith("["):
        return _bracketed(host)
    name = _in_ascii(host).lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        address = _ipv4(labels, host)
        return str(address), address
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"the URL's host {host[:100]!r} is no name of a host")
    return name, None


def _bracketed(host: str) -> tuple[str, IPAddress]:
    try:
        found = ipaddress.IPv6Address(host[1:].removesuffix("]"))
    except ValueError:
        found = None
    if found is None or found.scope_id is not None:
        raise ValueError(f"the URL's host {host[:100]!r} is no IPv6 address, or one with a zone")
    address = plain_address(found)
    return str(address), address


def _in_ascii(host: str) -> str:
    if host.isascii():
        return host
    import idna  # trio needs it, too

    try:
        return idna.encode(host, uts46=True, transitional=False).decode()
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(f"the URL's host {host[:100]!r} is no name of a host: {error}") from None


def _ipv4(labels: list[str], host: str) -> ipaddress.IPv4Address:
    """Read an IPv4 address as the C library and browsers do: up to four numbers, also octal and hex."""
    try:
        numbers = [_number(label) for label in labels]
        last = numbers.pop()
        if len(numbers) > 3 or any(number > 255 for number in numbers) or last >= 256 ** (4 - len(numbers)):
            raise ValueError
    except ValueError:
        raise ValueError(f"the URL's host {host[:100]!r} is no IPv4 address, and no name either") from None
    return ipaddress.IPv4Address(sum(n << 8 * (3 - at) for at, n in enumerate(numbers)) + last)


def _number(label: str) -> int:
    if not (label.isascii() and _NUMBER.fullmatch(label)) or len(label) > 20:
        raise ValueError
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8) if label.startswith("0") else int(label)


def _target(rest: str) -> str:
    path = rest if rest.startswith("/") else f"/{rest}"
    return quote(path, safe=_SAFE, errors="strict")
