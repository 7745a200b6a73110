"""A server of the web that wants a login, on the Python SDK's OAuth parts: `python oauth_server.py`."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from typing import Any

import uvicorn
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl

bound = socket.socket()
bound.bind(("127.0.0.1", 0))
bound.listen()
URL = f"http://127.0.0.1:{bound.getsockname()[1]}"


class Provider:
    """Lets everybody in who asks."""

    def __init__(self) -> None:
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.tokens: dict[str, AccessToken] = {}
        self.refresh_tokens: dict[str, RefreshToken] = {}
        self.renewed = 0

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        assert client_info.client_id is not None
        self.clients[client_info.client_id] = client_info

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        code = secrets.token_urlsafe(24)
        self.codes[code] = AuthorizationCode(
            code=code,
            client_id=str(client.client_id),
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            code_challenge=params.code_challenge,
            resource=params.resource,
        )
        return construct_redirect_uri(str(params.redirect_uri), code=code, state=params.state, iss=f"{URL}/")

    async def load_authorization_code(self, client: Any, authorization_code: str) -> AuthorizationCode | None:
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(self, client: Any, authorization_code: Any) -> OAuthToken:
        del self.codes[authorization_code.code]
        return self.new_tokens(str(client.client_id), authorization_code.scopes)

    def new_tokens(self, client_id: str, scopes: list[str]) -> OAuthToken:
        token, refresh = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.tokens[token] = AccessToken(
            token=token, client_id=client_id, scopes=scopes, resource=f"{URL}/mcp"
        )
        self.refresh_tokens[refresh] = RefreshToken(token=refresh, client_id=client_id, scopes=scopes)
        return OAuthToken(access_token=token, token_type="Bearer", expires_in=3600, refresh_token=refresh)

    async def load_refresh_token(self, client: Any, refresh_token: str) -> RefreshToken | None:
        return self.refresh_tokens.get(refresh_token)

    async def exchange_refresh_token(self, client: Any, refresh_token: Any, scopes: list[str]) -> OAuthToken:
        del self.refresh_tokens[refresh_token.token]  # each is good once
        self.renewed += 1
        return self.new_tokens(str(client.client_id), scopes)

    async def load_access_token(self, token: str) -> AccessToken | None:
        return self.tokens.get(token)

    async def revoke_token(self, token: Any) -> None:
        self.tokens.pop(token.token, None)


provider = Provider()
server = MCPServer(
    "guarded",
    auth_server_provider=provider,  # type: ignore[arg-type]
    auth=AuthSettings(
        validate_token_resource=True,
        issuer_url=AnyHttpUrl(URL),
        resource_server_url=AnyHttpUrl(f"{URL}/mcp"),
        client_registration_options=ClientRegistrationOptions(enabled=True),
    ),
)


@server.tool()
async def secret() -> str:
    """Tell a secret."""
    return "the secret"


@server.tool()
async def renewed() -> str:
    """Tell how often tokens were renewed."""
    return str(provider.renewed)


@server.tool()
async def forget(clients: bool) -> None:
    """Forget the tokens that were given, and who was registered."""
    provider.tokens.clear()
    if clients:
        provider.clients.clear()


print(URL, flush=True)
app = server.streamable_http_app()
asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="error")).serve([bound]))
