"""Who may send requests over HTTP: pages of other sites may not, nor who has no token, nor endless ones."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import attrs
import trio

PATH = "/mcp"
GONE = "agentpool.gone"
"""The key in a request's scope of the event that its client has gone."""
BODY_SECONDS = 30.0
"""A client that takes longer for a piece of its request has gone."""
SHORTEST_TOKEN = 16
"""A token of fewer characters can be guessed."""
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def checked_token(token: str | None, host: str) -> str | None:
    """Return a token that clients have to give.

    Raises:
      ValueError: if it can be guessed or cannot be sent, or if there is none and others reach the address.
    """
    if token is None:
        if not is_loopback(host):
            raise ValueError(
                f"other machines reach {host}, and whoever does could run the agents: give a token, or serve"
                " on 127.0.0.1"
            )
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"a token needs at least {SHORTEST_TOKEN} printable ASCII characters without spaces; make one"
            " with python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


@attrs.define(eq=False)
class Guard:
    """Lets the requests through that may come, and notes when their client has gone.

    A page of another site that has its name point to this machine (DNS rebinding) gives that name as
    `Host`; one that just sends a request gives itself as `Origin`. Neither is let through.

    Attributes:
      host: where the server listens.
      token: what clients have to give; None for nothing.
    """

    app: App
    host: str
    token: str | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
        else:
            headers = _headers_of(scope)
            status, text = self._refusal(scope["path"], headers)
            if status:
                await _refuse(send, status, text)
            else:
                await self._serve(scope, receive, send)

    def _refusal(self, path: str, headers: MutableMapping[str, list[str]]) -> tuple[int, str]:
        """Return the status and the text with which a request is refused; 0 if it is not."""
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return 421, "this server is not called by the name in Host"
        if any(not self._is_our_origin(origin, hosts[0]) for origin in origins):
            return 403, "pages of this Origin may not call this server"
        if self.token is not None and not _is_given(self.token, headers.get("authorization", [])):
            return 401, "give the server's token: Authorization: Bearer TOKEN"
        if path != PATH:
            return 404, f"the server is at {PATH}"
        return 0, ""

    def _is_ours(self, host: str) -> bool:
        # Who listens elsewhere has names that we do not know, and a token that no page of others has.
        return not is_loopback(self.host) or _name_in(f"//{host}") in (*_LOCAL_NAMES, self.host)

    def _is_our_origin(self, origin: str, host: str) -> bool:
        if is_loopback(self.host):
            return _name_in(origin) in _LOCAL_NAMES
        return urlsplit(origin).netloc == host

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = scope[GONE] = trio.Event()
        is_answered = is_read = False

        async def heard() -> Message:
            nonlocal is_read
            message: Message = {"type": "http.disconnect"}
            with trio.move_on_after(math.inf if is_read else BODY_SECONDS):
                message = await receive()
            is_read = is_read or not message.get("more_body", False)
            if message["type"] == "http.disconnect" and not is_answered:
                gone.set()
            return message

        async def sent(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                is_answered = True
            await send(message)

        await self.app(scope, heard, sent)


def _headers_of(scope: Scope) -> MutableMapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _name_in(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  (raises where it is none)
        return parts.hostname if parts.username is None else None
    except ValueError:
        return None


def _is_given(token: str, headers: list[str]) -> bool:
    kind, _, given = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    # Of equal length, so that not even the length is told by the time it takes.
    one, other = (hashlib.sha256(text.strip().encode()).digest() for text in (given, token))
    return kind.lower() == "bearer" and hmac.compare_digest(one, other)


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode(), "more_body": False})
