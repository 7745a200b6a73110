"""MCP servers over streamable HTTP: those of others, and one that breaks what it can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("mcp")

from http_kit import Request, go, serving, web
from mcp_kit import Inside, calling, manifest, results

from agentpool import (
    AgentFailedError,
    Answered,
    ApprovalRequest,
    Decision,
    McpServerError,
    PrivacyTier,
    ToolError,
    open_agent_pool,
)
from agentpool.tools.mcp import _http, open_server

pytestmark = pytest.mark.processes


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return Inside(tmp_path / "log")


# -- the server on the Python SDK -----------------------------------------------------------


async def test_a_server_of_the_web_is_listed_called_and_asked(inside: Inside) -> None:
    asked: list[ApprovalRequest] = []

    async def approver(request: ApprovalRequest) -> Decision:
        asked.append(request)
        return Answered({"name": "Ann", "count": 3})

    with inside.http(timeout=3.0) as server:
        told: list[float] = []
        async with open_server(server) as opened:
            assert opened.version == "2026-07-28"
            assert (await opened.call("echo", {"text": "hi"})).text == "hi"
            said = await opened.call(
                "count", {"to": 3, "pause": 0.01}, progress=lambda done, *_: told.append(done)
            )
            assert said.text == "counted"
            assert told == [1, 2, 3]
            assert "water the flowers" in (await opened.read_resource("memo://today")).text
            with pytest.raises(ToolError, match="no answer within 3 s"):
                await opened.call("slow", {"seconds": 30})
            await inside.saw("slow was cancelled")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(opened.call, "slow", {"seconds": 29})
                while inside.lines.count("slow began") < 2:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            while inside.lines.count("slow was cancelled") < 2:
                await trio.sleep(0.01)
        async with open_agent_pool(max_concurrent=2, approver=approver) as pool:
            config = calling(manifest(server, privacy="sovereign"), ("mcp__web__order", {"item": "tea"}))
            assert results(await (await pool.spawn(config)).result()) == ["3 tea for Ann"]
        assert asked[0].question is not None
        assert asked[0].question.server == "web"
        # It is a server that others use, too: the pool did not end it.
        async with open_server(server) as opened:
            assert (await opened.call("echo", {"text": "still"})).text == "still"


async def test_a_server_of_the_web_that_dies_is_an_error_and_comes_back(inside: Inside) -> None:
    with inside.http() as server:
        async with open_server(server) as opened:
            with pytest.raises(ToolError, match=r"call 'die'|has ended"):
                await opened.call("die", {"code": 1})
            with pytest.raises(McpServerError, match=r"ConnectError|has ended"):
                for _ in range(3):
                    await opened.call("echo", {"text": "x"})


# -- servers by hand ---------------------------------------------------------------------------


async def test_headers_are_filled_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "t0ken")
    seen: list[str] = []

    async def handler(request: Request) -> None:
        seen.append(request.head.lower())
        await request.usual()

    async with serving(handler) as url:
        assert await go(url, headers={"Authorization": "Bearer ${MY_TOKEN}"}) == "went"
        assert "NO_SUCH, which its headers name" in await go(url, headers={"A": "${NO_SUCH}"})
    assert all("authorization: bearer t0ken" in head for head in seen)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "500 Internal Server Error"])
async def test_what_a_server_refuses_with_is_told(status: str) -> None:
    async def handler(request: Request) -> None:
        await request.answer(status)

    async with serving(handler) as url:
        assert f"answered {status}" in await go(url)


async def test_an_endless_answer_is_cut_off() -> None:
    sent = {"bytes": 0}

    async def handler(request: Request) -> None:
        if request.method != "tools/call":
            return await request.usual()
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            await request.stream.send_all(b" " * 65_536)
            sent["bytes"] += 65_536

    async with serving(handler) as url:
        assert "a message of more than 1,000,000 bytes" in await go(url, max_result_bytes=1_000_000)
    assert sent["bytes"] < 16_000_000  # what stands in buffers of the system counts, too


async def test_an_endless_event_is_cut_off() -> None:
    async def handler(request: Request) -> None:
        if request.method != "tools/call":
            return await request.usual()
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: ")
        while True:
            await request.stream.send_all(b"x" * 65_536)

    async with serving(handler) as url:
        assert "SSE stream failed" in await go(url, max_result_bytes=1_000_000)


async def test_endless_notifications_are_cut_off() -> None:
    async def handler(request: Request) -> None:
        if request.method != "tools/call":
            return await request.usual()
        await request.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        notice = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}
        while True:
            await request.stream.send_all(f"data: {json.dumps(notice)}\n\n".encode() * 100)

    async with serving(handler) as url:
        assert "too many notifications" in await go(url)


async def test_a_stream_that_ends_for_ever_is_not_asked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK does so by a call within a call: where the stack ended, trio itself broke."""
    monkeypatch.setattr(_http, "MOST_RESUMPTIONS", 20)
    resumed: list[str] = []

    async def handler(request: Request) -> None:
        if request.method == "tools/call" or "last-event-id" in request.head.lower():
            if request.method == "GET":
                resumed.append(request.head)
            return await request.answer(
                "200 OK", b"id: 1\nretry: 0\ndata:\n\n", "content-type: text/event-stream"
            )
        await request.usual("mcp-session-id: s1")

    async with serving(handler) as url, open_server(web(url)) as server:
        for _ in range(2):  # each call has its own
            resumed.clear()
            with pytest.raises(ToolError, match="reconnection attempts were exhausted"):
                await server.call("go")
            assert len(resumed) == 20


async def test_what_a_server_says_by_itself_is_not_asked_for_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """can1357/oh-my-pi#11784: a server that ends the stream at once, and wants it to be asked for at once."""
    monkeypatch.setattr(_http, "LISTENING_PAUSE", 1000.0)
    listened, first = [], trio.Event()

    async def handler(request: Request) -> None:
        if request.method == "GET":
            listened.append(request.head)
            first.set()
            return await request.answer(
                "200 OK", b"id: 1\nretry: 0\ndata:\n\n", "content-type: text/event-stream"
            )
        await request.usual("mcp-session-id: s1")

    async with serving(handler) as url, open_server(web(url)) as server:
        await first.wait()
        for _ in range(10):
            assert (await server.call("go")).text == "went"
    assert len(listened) == 1


async def test_a_refusal_of_long_ago_is_not_told_of_a_connection_that_breaks() -> None:
    """modelcontextprotocol/python-sdk#1577: the server dies in a call. It had refused `server/discover`."""

    async def handler(request: Request) -> None:
        if request.method != "tools/call":
            await request.usual()

    async with serving(handler) as url:
        said = await go(url)
    assert "disconnected without sending a response" in said
    assert "404" not in said


async def test_a_packed_answer_is_refused() -> None:
    async def handler(request: Request) -> None:
        if request.method != "tools/call":
            return await request.usual()
        assert "accept-encoding: identity" in request.head.lower()
        await request.answer("200 OK", b"x", "content-type: application/json", "content-encoding: gzip")

    async with serving(handler) as url:
        assert "packed answer" in await go(url)


async def test_a_session_that_the_server_forgot_is_opened_anew_and_the_call_made_once() -> None:
    calls: list[str] = []
    known = {"n": 0}

    async def handler(request: Request) -> None:
        if request.method == "initialize":
            known["n"] += 1
            return await request.usual(f"mcp-session-id: s{known['n']}")
        if request.method == "tools/call" and known["n"] == 1:
            return await request.answer("404 Not Found")  # it was restarted meanwhile
        if request.method == "tools/call":
            calls.append(request.head)
        await request.usual()

    async with serving(handler) as url:
        assert await go(url) == "went"
    assert len(calls) == 1
    assert "mcp-session-id: s2" in calls[0].lower()


async def test_a_redirect_to_elsewhere_is_not_followed() -> None:
    reached: list[str] = []

    async def elsewhere(request: Request) -> None:
        reached.append(request.head)
        await request.usual()

    async with serving(elsewhere) as other:

        async def handler(request: Request) -> None:
            await request.answer("307 Temporary Redirect", b"", f"location: {other}")

        async with serving(handler) as url:
            said = await go(url, headers={"Authorization": "Bearer secret"})
    assert "not followed" in said
    assert reached == []


async def test_nobody_there_is_told() -> None:
    async with serving(Request.usual) as url:
        pass
    assert "ConnectError" in await go(url)


# -- where words go -------------------------------------------------------------------------------


async def test_a_name_that_leads_away_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked up once, and what was found is looked at, and connected to."""

    async def elsewhere(*_: Any, **__: Any) -> Any:
        return [(2, 1, 6, "", (address, 80))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", elsewhere)
    for address, tier, told in [  # noqa: B007 - `elsewhere` returns it
        ("93.184.216.34", PrivacyTier.SOVEREIGN, "a place that is standard"),
        ("93.184.216.34", PrivacyTier.PRIVATE, "a place that is standard"),
        ("10.1.2.3", PrivacyTier.SOVEREIGN, "a place that is private"),
        ("169.254.169.254", PrivacyTier.PRIVATE, "a place that is standard"),
        ("::ffff:10.0.0.1", PrivacyTier.SOVEREIGN, "a place that is private"),
    ]:
        with pytest.raises(McpServerError, match=told):
            async with open_server(web("http://localhost:1/mcp"), privacy=tier):
                pass


async def test_a_sovereign_agent_speaks_to_this_machine_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    heads: list[str] = []

    async def handler(request: Request) -> None:
        heads.append(request.head.lower())
        await request.usual()

    async with serving(handler) as url:
        url = url.replace("127.0.0.1", "localhost")
        async with open_agent_pool(max_concurrent=1) as pool:
            config = calling(manifest(web(url), privacy="sovereign"), ("mcp__web__go", {}))
            assert results(await (await pool.spawn(config)).result()) == ["went"]
    assert all("host: localhost:" in head for head in heads)


async def test_an_agent_whose_privacy_forbids_it_fails() -> None:
    far = web("http://192.0.2.7/mcp")
    async with open_agent_pool(max_concurrent=1) as pool:
        handle = await pool.spawn(calling(manifest(far, privacy="private")))
        with pytest.raises(AgentFailedError) as caught:
            await handle.result()
    assert "the privacy of the agent is private" in str(caught.value.__cause__)
