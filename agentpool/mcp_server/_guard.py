"""Who may send requests over HTTP: pages of other sites may not, nor who has no token, nor endless ones."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import attrs
import trio

from agentpool.mcp_server._limits import Load, Share

PATH = "/mcp"
GONE = "agentpool.gone"
"""The key in a request's scope of the event that its client has gone."""
BODY_SECONDS = 30.0
"""A client that takes longer for a piece of its request has gone."""
WHOLE_BODY_SECONDS = 120.0
"""So has one that takes longer for all of it."""
CLOSING_SECONDS = 1.0
"""So long the end of an answer may take, of which everything has been sent."""
MOST_BODY = 4 * 1024 * 1024
"""A request has no more bytes; the SDK refuses one that has."""
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
      load: the requests that were let in and are under way.
    """

    app: App
    host: str
    token: str | None
    load: Load = attrs.field(factory=Load)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
        else:
            headers = _headers_of(scope)
            status, text = self._refusal(scope["path"], headers)
            if status:
                await _refuse(scope, send, status, text)
                return
            with self.load.share(_most_bytes(scope, headers)) as share:
                if share is None:
                    await _refuse(scope, send, 503, "too many requests are under way; try again")
                else:
                    await self._serve(scope, receive, send, share)

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

    async def _serve(self, scope: Scope, receive: Receive, send: Send, share: Share) -> None:
        gone = scope[GONE] = trio.Event()
        is_answered = is_read = False
        latest = trio.current_time() + WHOLE_BODY_SECONDS
        size = 0

        async def heard() -> Message:
            nonlocal is_read, size
            message: Message = {"type": "http.disconnect"}
            with trio.move_on_at(math.inf if is_read else min(latest, trio.current_time() + BODY_SECONDS)):
                message = await receive()
            size += len(message.get("body", b""))
            if not is_read and not message.get("more_body", False):
                is_read = True
                share.shrink(size)
            if message["type"] == "http.disconnect" and not is_answered:
                gone.set()
            return message

        async def sent(message: Message) -> None:
            nonlocal is_answered
            if message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            is_answered = True
            if message.get("body"):
                await send({**message, "more_body": True})
            # The SDK cancels itself when it hears of the end; then nobody would close the connection.
            with trio.move_on_after(CLOSING_SECONDS, shield=True):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

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


def _most_bytes(scope: Scope, headers: Mapping[str, list[str]]) -> int:
    """Return how many bytes the body of a request may come to have."""
    told = headers.get("content-length", [])
    if len(told) == 1 and told[0].isdecimal():
        return min(int(told[0][:20]), MOST_BODY)
    has_none = scope["method"] in ("GET", "HEAD", "DELETE") and "transfer-encoding" not in headers
    return 0 if has_none else MOST_BODY


async def _refuse(scope: Scope, send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 503:
        headers.append((b"retry-after", b"1"))
    elif scope["http_version"].startswith("1"):
        headers.append((b"connection", b"close"))  # who may not come in does not stay at the door
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode(), "more_body": False})
