"""Which requests the live page's server lets in, and the headers of every answer.

Whoever can send requests to this machine's loopback address is not trusted: pages of other sites, in the
browser of the same person, are the usual case. Four things stand in their way, each by itself: the name in
`Host` (a site that has its name point to this machine), the origin of the page that sends a request, JSON
as the type of what is sent (which needs a leave that nobody gives), and the cookie.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, urlsplit

import attrs

from agentpool._serving.limits import Load
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
    name_in,
)
from agentpool.web._entry import Entry
from agentpool.web._page import page_policy
from agentpool.web._requests import MOST_BODY, SESSION

_HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
)
_CLOSED = "default-src 'none'"
LONGEST_PATH = 1_000
"""None of ours has so many characters; a number in one may have more digits than Python reads."""


@attrs.define(eq=False)
class Guard:
    """Lets in who may come.

    Attributes:
      app: answers those.
      entry: knows the browsers that came by a link.
      failed: is told when a request could not be answered.
    """

    app: App
    entry: Entry
    failed: Callable[[Exception], object]
    load: Load = attrs.field(factory=Load)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        is_page = scope["path"] == "/"
        policy = f"{page_policy() if is_page else _CLOSED}; frame-ancestors 'none'".encode("ascii")

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message.get("headers", [])}
                ours = [*_HEADERS, (b"content-security-policy", policy)]
                added = [pair for pair in ours if pair[0] not in given]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        headers = headers_of(scope)
        status, text = self._refusal(scope, headers)
        if status:
            await answer(scope, sent, status, text)
            return
        session = self.entry.session_in(headers.get("cookie", ()))
        if is_page and await self._comes_in(scope, headers, session, sent):
            return
        if session is None:
            await answer(scope, sent, 403, "come by the link that the terminal shows")
            return
        scope[SESSION] = session
        with self.load.share(MOST_BODY if scope["method"] == "POST" else 0) as share:
            if share is None:
                await answer(scope, sent, 503, "too many requests are under way; try again")
                return
            try:
                await self.app(scope, receive, sent)
            except Exception as error:
                self.failed(error)
                raise

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str]:
        """Return the status and the text with which a request is refused; 0 if it is not."""
        if len(scope["path"]) > LONGEST_PATH:
            return 404, "there is no such path"
        hosts, origins = headers.get("host", ()), headers.get("origin", ())
        if len(hosts) != 1 or name_in(f"//{hosts[0]}") not in LOCAL_NAMES:
            return 421, "this server is not called by the name in Host"
        if any(not _is_same_origin(origin, hosts[0]) for origin in origins):
            return 403, "pages of this Origin may not call this server"
        sites = headers.get("sec-fetch-site", ())
        # A link is followed from anywhere; nothing else of ours is asked for by others' pages.
        if scope["path"] != "/" and any(site not in ("same-origin", "none") for site in sites):
            return 403, "pages of other sites may not call this server"
        if scope["method"] == "POST":
            kinds = [kind.partition(";")[0].strip().lower() for kind in headers.get("content-type", ())]
            if kinds != ["application/json"]:
                return 415, "what is sent must be application/json"
        return 0, ""

    async def _comes_in(self, scope: Scope, headers: Headers, session: str | None, send: Send) -> bool:
        """Answer who asks for the page with a link, or without being let in; tell whether that was done."""
        if scope["method"] not in ("GET", "HEAD"):
            return False
        tokens = _tokens_in(scope.get("query_string", b"").decode("latin-1"))
        is_look_ahead = _is_look_ahead(headers) or scope["method"] == "HEAD"
        if tokens and session is None and not is_look_ahead:
            session = self.entry.let_in(tokens[0])
            if session is not None:
                cookie = f"{self.entry.cookie}={session}; HttpOnly; SameSite=Strict; Path=/"
                await _go_to_page(send, [(b"set-cookie", cookie.encode("ascii"))])
                return True
        if session is not None:
            if tokens:  # nobody bookmarks a link that is used up
                await _go_to_page(send)
            return bool(tokens)
        # A link may be followed from a page of another site, such as a terminal in a browser. Then the
        # cookie, which is sent for our own pages only, is not there yet; to us we refer ourselves.
        elsewhere = headers.get("sec-fetch-site", ["none"])[0] not in ("none", "same-origin")
        if elsewhere and not tokens:
            await _page(send, 200, _REFER, "")
            return True
        if not is_look_ahead and not elsewhere:
            self.entry.knock()
        used = "This link has been used, or is none of this run." if tokens else "You came without a link."
        await _page(send, 403, _STRANGER, used)
        return True


def _tokens_in(query: str) -> Sequence[str]:
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=100).get("token", [])
    except ValueError:  # more fields than any link of ours has
        return []


def _is_same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _is_look_ahead(headers: Headers) -> bool:
    """Whether nobody has asked for it yet: it is fetched in case somebody does, or for a preview."""
    told = [*headers.get("sec-purpose", ()), *headers.get("purpose", ()), *headers.get("x-moz", ())]
    return any(word in each.lower() for each in told for word in ("prefetch", "prerender", "preview"))


async def _go_to_page(send: Send, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    start = {"type": "http.response.start", "status": 303, "headers": [(b"location", b"/"), *headers]}
    await send(start)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


_REFER = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">
<title>agentpool</title></head><body><p><a href="/">To the page</a></p></body></html>
"""
_STRANGER = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>agentpool: a link is needed</title></head>
<body><main><h1>A link is needed</h1><p>{told} A link lets one browser in, once.</p>
<p>The terminal in which <code>agentpool</code> runs shows one that is good: open that one.</p>
</main></body></html>
"""


async def _page(send: Send, status: int, text: str, told: str) -> None:
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", f"{_CLOSED}; frame-ancestors 'none'".encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    body = text.replace("{told}", html.escape(told)).encode()
    await send({"type": "http.response.body", "body": body, "more_body": False})
