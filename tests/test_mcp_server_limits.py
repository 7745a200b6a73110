"""The MCP server over HTTP when clients want too much at once, or do not let go; on real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

pytest.importorskip("mcp")
pytest.importorskip("hypercorn")

from mcp_server_kit import (
    LEGACY,
    MODERN,
    SECONDS,
    Raw,
    Slow,
    call_params,
    fleet_of,
    pool_for,
    scripted_agent,
    served_url,
)

from agentpool._serving import limits as _limits
from agentpool.mcp_server import _guard

resource = pytest.importorskip("resource")  # Windows has none
pytestmark = pytest.mark.processes

WRITER = scripted_agent("writer", {"text": "You said {query}"}, query="hello")
TOKEN = "a-token-of-enough-letters"
PIECE_SECONDS = 0.03
"""Who is slow sends a piece as often; the limits that a test sets are longer."""


@attrs.define(eq=False)
class Limits:
    """Sets the limits of a server that is opened afterwards."""

    _monkeypatch: pytest.MonkeyPatch

    def __call__(self, **limits: Any) -> None:
        for name, value in limits.items():
            module = _guard if "BODY" in name else _limits
            self._monkeypatch.setattr(module, name, value)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    return Limits(monkeypatch)


@asynccontextmanager
async def served(*agents: Any, **options: Any) -> AsyncIterator[Raw]:
    async with pool_for() as pool, served_url(pool, fleet_of(WRITER, *agents), **options) as url:
        yield Raw(url)


async def connected(raw: Raw) -> trio.SocketStream:
    """A connection on which nothing was sent yet, which the server has taken."""
    stream = await trio.open_tcp_stream("127.0.0.1", raw.port)
    await trio.testing.wait_all_tasks_blocked(0.02)
    return stream


async def rest_of(stream: trio.SocketStream) -> bytes:
    """What comes until the server closes the connection."""
    data = b""
    with trio.fail_after(SECONDS / 2):
        while more := await stream.receive_some():
            data += more
    return data


async def until_served(raw: Raw, status: int = 400) -> None:
    """Try again until there is room, which the server finds out by itself."""
    with trio.fail_after(SECONDS / 2):
        while (await raw.status())[0] != status:
            await trio.sleep(0.01)


def call(name: str) -> bytes:
    params = call_params(MODERN, name)
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()


async def begun(raw: Raw, name: str) -> trio.SocketStream:
    """A call that is under way."""
    return await raw.begin(call(name), mcp_protocol_version=MODERN, mcp_method="tools/call", mcp_name=name)


# -- connections -------------------------------------------------------------------------


async def test_who_comes_when_there_are_too_many_connections_is_told_so(limits: Limits) -> None:
    limits(MOST_CONNECTIONS=2, HEAD_SECONDS=1000)
    async with served() as raw:
        async with await connected(raw) as one, await connected(raw) as other:
            await one.send_all(b"POST /mcp HTTP/1.1\r\n")  # of which no more comes
            async with await raw.begin(b"{}") as third:
                told = await rest_of(third)
                assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert b"\r\nretry-after: 1\r\n" in told
                assert told.endswith(b"\r\n\r\ntoo many connections; try again\n")
            await other.aclose()
            await until_served(raw)
            assert (await raw.status())[0] == 400  # and each that goes makes room
        await until_served(raw)


async def test_those_who_are_inside_are_served_while_many_knock(limits: Limits) -> None:
    limits(MOST_CONNECTIONS=5, MOST_REFUSALS=5)
    async with served() as raw, AsyncExitStack() as stack:
        mine = await stack.enter_async_context(await connected(raw))
        for _ in range(100):
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", raw.port))
        told = b""
        for n in range(1, 4):
            head = f"POST /mcp HTTP/1.1\r\nhost: localhost:{raw.port}\r\ncontent-length: 2\r\n\r\n"
            await mine.send_all(head.encode() + b"{}")
            while told.count(b"HTTP/1.1 40") < n:
                more = await mine.receive_some()
                assert more
                told += more


async def test_beyond_those_who_are_told_the_others_wait(limits: Limits) -> None:
    limits(MOST_CONNECTIONS=1, MOST_REFUSALS=1, HEAD_SECONDS=1000, REFUSAL_SECONDS=1000)
    async with served() as raw:
        async with await connected(raw) as one:
            async with await connected(raw) as two:
                assert (await two.receive_some()).startswith(b"HTTP/1.1 503")
                three = await raw.begin(b"{}")
                with trio.move_on_after(0.2) as scope:
                    await three.receive_some()
                assert scope.cancelled_caught
            assert (await three.receive_some()).startswith(b"HTTP/1.1 503")
            await three.aclose()
            await one.aclose()
            await until_served(raw)


async def test_who_does_not_read_that_there_are_too_many_is_left_alone(limits: Limits) -> None:
    limits(MOST_CONNECTIONS=1, MOST_REFUSALS=1, HEAD_SECONDS=1000, REFUSAL_SECONDS=0.05)
    async with served() as raw, await connected(raw), await connected(raw):
        assert (await raw.status())[0] == 503


@pytest.mark.parametrize(("files", "most"), [(100, 50), (1, 1), (1024, 500), (resource.RLIM_INFINITY, 500)])
def test_no_more_than_half_of_the_open_files_are_for_connections(
    files: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (files, files))
    assert _limits.most_connections() == most


# -- those who are slow ------------------------------------------------------------------


PING = b"\0\0\x08\x06\0\0\0\0\0" + b"12345678"
SLOW: dict[str, tuple[bytes, bytes]] = {
    "says nothing": (b"", b""),
    "a byte of a head at a time": (b"POST /mcp HTTP/1.1\r\nx: ", b"x"),
    "empty lines": (b"", b"\r\n"),
    "pings of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0", PING),
}


@pytest.mark.parametrize("how", SLOW)
async def test_a_client_without_a_request_does_not_hold_its_place_for_ever(how: str, limits: Limits) -> None:
    """Also slowly, which is known as Slowloris."""
    limits(MOST_CONNECTIONS=1, HEAD_SECONDS=0.3)
    first, more = SLOW[how]
    async with served() as raw, await connected(raw) as slow:
        closed = False

        async def read() -> None:
            nonlocal closed
            try:
                await rest_of(slow)
            except trio.BrokenResourceError:
                pass  # it was reset
            closed = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            try:
                await slow.send_all(first)
                while not closed:
                    await slow.send_all(more)
                    await trio.sleep(PIECE_SECONDS)
            except trio.BrokenResourceError:
                pass
        await until_served(raw)


async def test_a_body_that_comes_slowly_is_given_up_as_a_whole(limits: Limits) -> None:
    limits(MOST_REQUESTS=1, WHOLE_BODY_SECONDS=0.3)
    async with served() as raw, await raw.begin(b"{", length=100_000) as slow:
        with trio.fail_after(SECONDS / 2):
            try:
                while True:
                    await slow.send_all(b" ")
                    await trio.sleep(PIECE_SECONDS)
            except trio.BrokenResourceError:
                pass
        await until_served(raw)


async def test_a_call_may_take_longer_than_a_client_may_say_nothing(limits: Limits) -> None:
    async def patient(ctx: Any) -> str:
        """Take longer."""
        await trio.sleep(0.6)
        return "at last"

    limits(HEAD_SECONDS=0.2)
    async with served(patient) as raw, await begun(raw, "patient") as stream:
        assert b"at last" in await rest_of(stream)


@pytest.mark.parametrize(("status", "options"), [(401, {}), (404, {"path": "/"}), (421, {"host": "evil"})])
async def test_who_may_not_come_in_is_not_kept_waiting_for_more(status: int, options: dict[str, str]) -> None:
    given = {"authorization": f"Bearer {TOKEN}"} if status != 401 else {}
    async with served(token=TOKEN) as raw:
        async with await raw.begin(b"{}", **given, **options) as stream:  # type: ignore[arg-type]
            told = await rest_of(stream)
            assert told.startswith(b"HTTP/1.1 %d" % status)
            assert b"\r\nconnection: close\r\n" in told


async def test_a_connection_that_is_not_wanted_any_more_is_closed_with_the_answer(limits: Limits) -> None:
    limits(HEAD_SECONDS=1000)
    options = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "writer"}
    async with served() as raw:
        async with await raw.begin(call("writer"), connection="close", **options) as stream:  # type: ignore[arg-type]
            assert b"You said hello" in await rest_of(stream)


# -- requests ----------------------------------------------------------------------------


async def test_requests_beyond_the_most_are_told_to_come_again(limits: Limits) -> None:
    limits(MOST_REQUESTS=1)
    slow = Slow()
    async with served(slow.slow) as raw:
        async with await begun(raw, "slow"):
            await slow.begun.wait()
            async with await raw.begin(b"{}", connection="close") as stream:
                told = await rest_of(stream)
            assert told.startswith(b"HTTP/1.1 503")
            assert b"\r\nretry-after: 1\r\n" in told
            assert b"too many requests are under way" in told
            # Who may not come in is told that, and takes no place.
            assert (await raw.status(host="evil.example"))[0] == 421
        await slow.cleaned_up()
        await until_served(raw)


async def test_bodies_are_bounded_together_and_count_what_they_have(limits: Limits) -> None:
    limits(MOST_BYTES=_guard.MOST_BODY + 1000)
    slow = Slow()
    chunked = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
    names = f"mcp-protocol-version: {MODERN}\r\nmcp-method: tools/call\r\nmcp-name: slow\r\n"
    types = "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n\r\n"
    body = call("slow")
    assert len(body) < 900
    async with served(slow.slow) as raw, await connected(raw) as stream:
        # Of one that does not say how long it is, the most counts until it has been read.
        await stream.send_all((chunked + names + types).encode())
        async with await raw.begin(b"{", length=600) as other:
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (await raw.status(b"x" * 600))[0] == 503
            assert (await raw.status(b"", method="GET"))[0] != 503
            await other.aclose()
        await stream.send_all(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        await slow.begun.wait()
        async with await raw.begin(b"{", length=_guard.MOST_BODY):
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (await raw.status(b"x" * 2000))[0] == 503
        with trio.fail_after(SECONDS / 2):
            while (await raw.status(b"x" * 2000))[0] == 503:
                await trio.sleep(0.01)


async def test_a_session_works_within_the_limits() -> None:
    async with served() as raw:
        await raw.open(LEGACY)
        assert (await raw.status(b"{}"))[0] == 400
