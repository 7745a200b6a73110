"""Who sends a request: by which name it calls us, and from which page it comes."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Mapping[str, Sequence[str]]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def headers_of(scope: Scope) -> Headers:
    """Return the headers of a request, by their names in small letters; each may come several times."""
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def name_in(address: str) -> str | None:
    """Return the host that an address names, in small letters; None if it names none, or also a user."""
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  (raises where it is none)
        return parts.hostname if parts.username is None else None
    except ValueError:
        return None


def is_same(given: str, secret: str) -> bool:
    """Whether a text is a secret; the time that it takes tells nothing of it, not even its length."""
    one, other = (hashlib.sha256(text.encode()).digest() for text in (given, secret))
    return hmac.compare_digest(one, other)


async def answer(
    scope: Scope, send: Send, status: int, text: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Refuse a request with a line of text.

    A connection of HTTP/1 is closed, unless who asks may try again.
    """
    told = [(b"content-type", b"text/plain; charset=utf-8"), *headers]
    if status == 503:
        told.append((b"retry-after", b"1"))
    elif scope["http_version"].startswith("1"):
        told.append((b"connection", b"close"))  # who may not come in does not stay at the door
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": text.encode(), "more_body": False})
