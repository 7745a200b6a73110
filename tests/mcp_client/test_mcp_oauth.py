"""Logging in to a server of the web, against the Python SDK's authorization server."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

pytest.importorskip("mcp")

import httpx2
from mcp.shared.auth import OAuthToken
from mcp_kit import HERE

from agentpool import McpServer, McpServerError
from agentpool.tools.mcp import oauth, open_server
from agentpool.tools.mcp._oauth import stored_auth, token_file_of

pytestmark = pytest.mark.processes


@pytest.fixture
def url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "oauth_server.py")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"{process.stdout.readline().strip()}/mcp"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


class Person:
    """Somebody who logs in, in a browser."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.logins: list[str] = []

    async def _browse(self, address: str) -> None:
        async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as browser:
            back = await browser.get(address)
            assert back.text == "You may close this page."

    async def open_page(self, address: str) -> None:
        self.logins.append(address)
        self._nursery.start_soon(self._browse, address)


async def use(server: McpServer, person: Person | None = None, tool: str = "secret", **arguments: Any) -> str:
    """Open the server as a new process does, and call a tool."""
    auth = None if person is None else oauth(server, open_page=person.open_page)
    async with open_server(server, auth=auth) as opened:
        return (await opened.call(tool, arguments)).text


@pytest.fixture
def guarded(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> McpServer:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return McpServer("guarded", "http", url=url, auth="oauth")


NOBODY = "somebody has to log in first: `agentpool pins FILE`"


async def test_somebody_logs_in_once_and_the_tokens_are_kept(guarded: McpServer, tmp_path: Path) -> None:
    with pytest.raises(McpServerError, match=NOBODY):
        await use(guarded)
    async with trio.open_nursery() as nursery:
        person = Person(nursery)
        assert await use(guarded, person) == "the secret"
        assert len(person.logins) == 1
        # Now the tokens are there: nobody is asked, in this process or another one.
        assert await use(guarded) == "the secret"
        assert await use(guarded, person) == "the secret"
    assert len(person.logins) == 1
    (file,) = (tmp_path / "agentpool" / "oauth").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = json.loads(file.read_text())
    assert set(kept) == {"tokens", "expires_at", "client", "issuer", "resource"}
    assert kept["expires_at"] > time.time() + 3000


async def test_tokens_that_have_ended_are_renewed_and_nobody_is_asked(guarded: McpServer) -> None:
    """modelcontextprotocol/python-sdk#3250 and #1318, knowsuchagency/mcp2cli#57: one had to log in anew."""
    file = token_file_of(guarded)
    async with trio.open_nursery() as nursery:
        person = Person(nursery)
        await use(guarded, person)
        await file.expire()  # the hour is over
        assert await use(guarded, tool="renewed") == "1"
        assert await use(guarded, tool="renewed") == "1"
        # It is not taken any more, although its hour is not over: told once, and renewed after that.
        await use(guarded, tool="forget", clients=False)
        with pytest.raises(McpServerError, match=NOBODY):
            await use(guarded)
        assert await use(guarded, tool="renewed") == "2"
    assert len(person.logins) == 1


async def test_who_was_forgotten_is_registered_anew_when_somebody_logs_in(guarded: McpServer) -> None:
    """diillson/chatcli#1308, knowsuchagency/mcp2cli#51: the page to log in knew no such client."""
    async with trio.open_nursery() as nursery:
        person = Person(nursery)
        await use(guarded, person)
        await use(guarded, tool="forget", clients=True)
        for _ in range(2):
            with pytest.raises(McpServerError, match=NOBODY):
                await use(guarded)
        assert await use(guarded, person) == "the secret"
        assert await use(guarded) == "the secret"
    first, second = (parse_qs(urlsplit(each).query)["client_id"] for each in person.logins)
    assert first != second


async def test_tokens_that_another_process_renewed_meanwhile_are_taken(guarded: McpServer) -> None:
    file = token_file_of(guarded)
    async with trio.open_nursery() as nursery:
        await use(guarded, Person(nursery))
    await file.expire()
    flow = stored_auth(guarded).async_auth_flow(httpx2.Request("POST", str(guarded.url)))
    renewal = await anext(flow)
    assert b"grant_type=refresh_token" in renewal.content
    new = OAuthToken(access_token="new", token_type="Bearer", expires_in=3600, refresh_token="r")
    await file.set_tokens(new)
    request = await flow.asend(httpx2.Response(400, json={"error": "invalid_grant"}, request=renewal))
    assert request.headers["authorization"] == "Bearer new"
    await flow.aclose()
