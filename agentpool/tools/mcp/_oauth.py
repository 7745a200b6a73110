"""OAuth for servers of the web: the SDK's flow, a file for the tokens, a page on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import httpx2
import trio
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthMetadata,
    OAuthToken,
    ProtectedResourceMetadata,
)
from pydantic import BaseModel

from agentpool._blocking import run_blocking
from agentpool._core.errors import McpServerError
from agentpool._core.mcp_servers import McpServer

LOGIN_TIME = 300.0
"""So many seconds a person has to log in."""

_LONGEST_HEAD = 65_536


@attrs.frozen
class TokenFile:
    """A file, for its owner alone, that keeps the tokens of one server.

    Attributes:
      path: where it is; made when there is something to keep.
    """

    path: Path = attrs.field(converter=Path)

    async def get_tokens(self) -> OAuthToken | None:
        """Return the tokens; None if there are none."""
        found: OAuthToken | None = await self._get("tokens", OAuthToken)
        return found

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep the tokens, and until when they are good."""
        expires_at = None if tokens.expires_in is None else time.time() + tokens.expires_in
        await self._set(tokens=tokens, expires_at=expires_at)

    async def expires_at(self) -> float | None:
        """Return until when the tokens are good, in seconds since 1970; None if nobody knows."""
        found = (await run_blocking(self._read)).get("expires_at")
        return float(found) if isinstance(found, int | float) else None

    async def expire(self) -> None:
        """Have the tokens renewed before they are used again."""
        await self._set(expires_at=1)

    async def get_places(self) -> tuple[OAuthMetadata | None, ProtectedResourceMetadata | None]:
        """Return where the tokens are from, and what for: it is needed when they are renewed."""
        return await self._get("issuer", OAuthMetadata), await self._get(
            "resource", ProtectedResourceMetadata
        )

    async def set_places(
        self, issuer: OAuthMetadata | None, resource: ProtectedResourceMetadata | None
    ) -> None:
        """Keep where the tokens are from, and what for."""
        await self._set(issuer=issuer, resource=resource)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Return as what agentpool is registered; None if it is not."""
        found: OAuthClientInformationFull | None = await self._get("client", OAuthClientInformationFull)
        return found

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep as what agentpool is registered."""
        await self._set(client=client_info)

    async def _get(self, key: str, kind: Any) -> Any:
        data = (await run_blocking(self._read)).get(key)
        with suppress(ValueError):  # what cannot be read is asked for anew
            return None if data is None else kind.model_validate(data)
        return None

    async def _set(self, **changes: Any) -> None:
        data = {
            key: value.model_dump(mode="json", exclude_none=True) if isinstance(value, BaseModel) else value
            for key, value in changes.items()
        }
        await run_blocking(self._write, data)

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def _write(self, changes: dict[str, Any]) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({**self._read(), **changes})
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}.{threading.get_ident()}")
        number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(fresh, self.path)


class _Provider(OAuthClientProvider):
    """The SDK's, which knows neither how old a token of a file is nor where it is renewed.

    So it would have somebody log in again as soon as the first token has ended.

    Attributes:
      file: keeps the tokens.
      may_register: whether it may have itself registered again: somebody is there to log in, and servers
        forget who was registered.
    """

    def __init__(self, server: McpServer, file: TokenFile, login: _Login, *, may_register: bool) -> None:
        metadata = OAuthClientMetadata.model_validate(
            {"client_name": "agentpool", "redirect_uris": [login.address]}
        )
        super().__init__(str(server.url).strip(), metadata, file, login.redirected, login.answered)
        self.file = file
        self.may_register = may_register

    async def _initialize(self) -> None:
        await super()._initialize()
        context = self.context
        context.token_expiry_time = await self.file.expires_at()
        issuer, resource = await self.file.get_places()
        context.oauth_metadata = issuer or context.oauth_metadata
        context.protected_resource_metadata = resource or context.protected_resource_metadata
        if not context.is_token_valid() and not context.can_refresh_token():
            self._forget_registration()

    async def _refresh_token(self) -> httpx2.Request:
        # Another process may have renewed it, and what it was renewed with is of use only once.
        self.context.current_tokens = await self.file.get_tokens() or self.context.current_tokens
        return await super()._refresh_token()

    async def _handle_refresh_response(self, response: httpx2.Response) -> bool:
        tried = self.context.current_tokens
        if await super()._handle_refresh_response(response):
            return True
        stored = await self.file.get_tokens()
        if stored is not None and tried is not None and stored.access_token != tried.access_token:
            await self._initialize()  # another process was quicker
            return True
        self._forget_registration()
        return False

    async def _handle_token_response(self, response: httpx2.Response) -> None:
        await super()._handle_token_response(response)
        await self.file.set_places(self.context.oauth_metadata, self.context.protected_resource_metadata)

    def _forget_registration(self) -> None:
        """Have it made anew, if it is one that was made here, and can be."""
        client, issuer = self.context.client_info, self.context.oauth_metadata
        was_made_here = client is not None and client.issuer is not None
        if self.may_register and was_made_here and issuer is not None and issuer.registration_endpoint:
            self.context.client_info = None


def token_file_of(server: McpServer) -> TokenFile:
    """Return the file of a server's tokens, in the user's directory for such things."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return TokenFile(Path(home) / "agentpool" / "oauth" / f"{_digest(server)[:16]}.json")


def _digest(server: McpServer) -> str:
    return hashlib.sha256(str(server.url).strip().encode()).hexdigest()


def oauth(
    server: McpServer,
    *,
    tokens: TokenFile | str | os.PathLike[str] | None = None,
    open_page: Callable[[str], Awaitable[object]],
    port: int | None = None,
) -> httpx2.Auth:
    """Return what logs in to a server, for the `auth` of `open_server`.

    The person is sent to a page, and comes back to one on loopback, which is there for 300 seconds.

    Args:
      server: which one.
      tokens: the file that keeps the tokens; left out, one in the user's directory for such things.
      open_page: shows the person a page, or tells its address.
      port: of the page on loopback; left out, one that follows from the server's address, since servers
        want to know it beforehand.
    """
    file = tokens if isinstance(tokens, TokenFile) else TokenFile(tokens) if tokens else token_file_of(server)
    login = _Login(server.name, open_page, port or _port_for(server))
    return _Provider(server, file, login, may_register=True)


def _port_for(server: McpServer) -> int:
    return 20_000 + int(_digest(server)[:8], 16) % 20_000


def interactive_auth(server: McpServer) -> httpx2.Auth:
    """Return what logs in to a server of a manifest, with the help of the person at the terminal."""

    async def tell(address: str) -> None:
        print(f"To log in to the MCP server {server.name!r}, open\n{address}", file=sys.stderr, flush=True)

    return oauth(server, open_page=tell)


def stored_auth(server: McpServer) -> httpx2.Auth:
    """Return what shows who asks, by tokens that are there already; nobody is asked to log in."""

    file = token_file_of(server)

    async def refuse(_: str) -> None:
        used, stored = provider.context.current_tokens, await file.get_tokens()
        if stored is not None and stored == used and stored.refresh_token is not None:
            await file.expire()  # it was not taken, whatever was said of its end: the next one renews it
        raise McpServerError(
            server.name, "somebody has to log in first: `agentpool pins FILE`, at a terminal, does it"
        )

    provider = _Provider(server, file, _Login(server.name, refuse, _port_for(server)), may_register=False)
    return provider


@attrs.define(eq=False)
class _Login:
    """One login: the page that the person is sent to, and the one to which it comes back."""

    server: str
    open_page: Callable[[str], Awaitable[object]]
    port: int
    _listeners: list[trio.SocketListener] = attrs.field(factory=list)

    @property
    def address(self) -> str:
        """The page to which the person comes back."""
        return f"http://127.0.0.1:{self.port}/callback"

    async def redirected(self, address: str) -> None:
        """Send the person to a page."""
        await self._prepare()
        try:
            await self.open_page(address)
        except BaseException:
            await self._close()
            raise

    async def _prepare(self) -> None:
        """Have the page ready before anybody is sent away."""
        if self._listeners:
            return
        try:
            self._listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        except OSError as error:
            problem = f"cannot wait for the login on port {self.port}: {error.strerror or error}"
            raise McpServerError(self.server, problem) from error

    async def _close(self) -> None:
        listeners, self._listeners = self._listeners, []
        with trio.CancelScope(shield=True):
            for listener in listeners:
                await listener.aclose()

    async def answered(self) -> AuthorizationCodeResult:
        """Wait for the person to come back."""
        (listener,) = self._listeners
        try:
            with trio.move_on_after(LOGIN_TIME):
                while True:
                    stream = await listener.accept()
                    async with stream:
                        with trio.move_on_after(10):
                            found = await _read_callback(stream)
                            if found is not None:
                                return found
        finally:
            await self._close()
        raise McpServerError(self.server, f"nobody logged in within {LOGIN_TIME:g} s")


async def _read_callback(stream: trio.SocketStream) -> AuthorizationCodeResult | None:
    """Read one request of the browser; None if it is not for the page."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _LONGEST_HEAD:
        more = await stream.receive_some()
        if not more:
            return None
        head += more
    target = head.split(b" ", 2)[1].decode("latin-1") if head.count(b" ") > 1 else ""
    parts = urlsplit(target)
    values = {name: one[0] for name, one in parse_qs(parts.query).items()}
    is_answer = parts.path == "/callback" and ("code" in values or "error" in values)
    text = b"You may close this page." if is_answer else b"Nothing is here."
    status = b"200 OK" if is_answer else b"404 Not Found"
    answer = b"HTTP/1.1 %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
    with suppress(trio.BrokenResourceError):
        await stream.send_all(answer % (status, len(text), text))
    if not is_answer:
        return None
    return AuthorizationCodeResult(
        code=values.get("code", ""), state=values.get("state"), iss=values.get("iss")
    )
