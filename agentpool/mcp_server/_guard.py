"""Who may send requests over HTTP: pages of other sites may not, nor who has no token, nor endless ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from urllib.parse import urlsplit

import attrs
import trio

from agentpool._serving.limits import Load, Share
from agentpool._serving.names import (
    LOCAL_NAMES,
    App,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    answer,
    headers_of,
    is_loopback,
    is_same,
    name_in,
)

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
_WWW = ((b"www-authenticate", b"Bearer"),)


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
            headers = headers_of(scope)
            status, text = self._refusal(scope["path"], headers)
            if status:
                await answer(scope, send, status, text, _WWW if status == 401 else ())
                return
            with self.load.share(_most_bytes(scope, headers)) as share:
                if share is None:
                    await answer(scope, send, 503, "too many requests are under way; try again")
                else:
                    await self._serve(scope, receive, send, share)

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str]:
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
        return not is_loopback(self.host) or name_in(f"//{host}") in (*LOCAL_NAMES, self.host)

    def _is_our_origin(self, origin: str, host: str) -> bool:
        if is_loopback(self.host):
            return name_in(origin) in LOCAL_NAMES
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


def _is_given(token: str, headers: Sequence[str]) -> bool:
    kind, _, given = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    return kind.lower() == "bearer" and is_same(given.strip(), token)


def _most_bytes(scope: Scope, headers: Headers) -> int:
    """Return how many bytes the body of a request may come to have."""
    told = headers.get("content-length", [])
    if len(told) == 1 and told[0].isdecimal():
        return min(int(told[0][:20]), MOST_BODY)
    has_none = scope["method"] in ("GET", "HEAD", "DELETE") and "transfer-encoding" not in headers
    return 0 if has_none else MOST_BODY
