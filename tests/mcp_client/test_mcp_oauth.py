"""Logging in to a server of the web, against the Python SDK's authorization server."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

pytest.importorskip("mcp")

import httpx2
from mcp_kit import HERE

from agentpool import McpServer, McpServerError
from agentpool.tools.mcp import oauth, open_server

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


async def test_somebody_logs_in_once_and_the_tokens_are_kept(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    server = McpServer("guarded", "http", url=url, auth="oauth")
    with pytest.raises(McpServerError, match="somebody has to log in first: `agentpool pins FILE`"):
        async with open_server(server):
            pass
    logins: list[str] = []

    async with trio.open_nursery() as nursery:

        async def browse(address: str) -> None:
            async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as browser:
                back = await browser.get(address)
                assert back.text == "You may close this page."

        async def open_page(address: str) -> None:
            logins.append(address)
            nursery.start_soon(browse, address)

        async with open_server(server, auth=oauth(server, open_page=open_page)) as opened:
            assert (await opened.call("secret")).text == "the secret"
        assert len(logins) == 1
        # Now the tokens are there: nobody is asked, in this process or another one.
        async with open_server(server) as opened:
            assert (await opened.call("secret")).text == "the secret"
    assert len(logins) == 1
    (file,) = (tmp_path / "agentpool" / "oauth").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(json.loads(file.read_text())) == {"tokens", "client"}
