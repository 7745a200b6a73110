"""Addresses of model servers: checked, joined with paths, and shown without what may be a secret."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlencode, urlsplit

import attrs


@attrs.frozen
class Address:
    """Where a server is.

    Attributes:
      base: scheme, host, port and path, without a slash at its end.
      query: what stood behind the `?`, such as `api-version=...`. It may hold a key, so it is never
        shown.
    """

    base: str
    query: str = attrs.field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.base}?..." if self.query else self.base

    def url(self, path: str) -> str:
        """Return the whole address of `path` below this one; the path may have a query of its own."""
        path, _, own = path.partition("?")
        query = "&".join(part for part in (self.query, own) if part)
        return f"{self.base}{path}?{query}" if query else f"{self.base}{path}"

    @property
    def is_loopback(self) -> bool:
        """Whether it can only mean this machine."""
        host = urlsplit(self.base).hostname or ""
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def without_end(url: str, *ends: str) -> str:
    """Return an address without what stands for one call at its end, such as `/chat/completions`.

    Consoles show the address of a call, so that is what people copy.
    """
    base, mark, query = url.strip().partition("?")
    base = base.rstrip("/")
    for end in ends:
        base = base.removesuffix(end).rstrip("/")
    return f"{base}{mark}{query}"


def address_of(url: str, query: dict[str, str] | None = None) -> Address:
    """Take the address of a server apart.

    Args:
      url: `http://HOST:PORT/PATH` or `https://...`, with or without a query.
      query: more of the query, by names and values.

    Raises:
      ValueError: if it is no address of an HTTP server, carries a password, or a `#`.
    """
    if "@" in url.partition("://")[2].partition("/")[0]:  # looked at first, so that it is not shown
        raise ValueError("the server's address carries a user name or password: hand a key over as api_key")
    url = url.strip()
    bare, _, own = url.partition("?")
    parts = _split(bare)
    if parts is None or parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{bare!r} is not the address of a server: write http://HOST:PORT/PATH, or https://")
    if "#" in url:
        raise ValueError(
            f"{bare.partition('#')[0]!r} is followed by a '#...', which is no part of an address"
        )
    added = urlencode(query) if query else ""
    return Address(bare.rstrip("/"), "&".join(part for part in (own, added) if part))


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # is checked only when it is read
    except ValueError:
        return None
    return parts
