"""A server that speaks just enough HTTP to send whatever a test wants, and to see how it ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def sse(*events: dict[str, Any] | str) -> bytes:
    """Return server-sent events, as OpenAI and Anthropic send them."""
    lines = []
    for event in events:
        if isinstance(event, str):
            lines.append(f"data: {event}\n\n")
        else:
            name = f"event: {event['type']}\n" if "type" in event else ""
            lines.append(f"{name}data: {json.dumps(event)}\n\n")
    return "".join(lines).encode()


def lines(*events: dict[str, Any]) -> bytes:
    """Return lines of JSON, as Ollama sends them."""
    return "".join(json.dumps(event) + "\n" for event in events).encode()


def answer(status: int, body: Any, **headers: str) -> bytes:
    """Return a whole HTTP answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {
        "content-type": "application/json",
        "content-length": str(len(data)),
        "connection": "close",
        **headers,
    }
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status} X\r\n{fields}\r\n".encode() + data


@attrs.define(eq=False)
class RawServer:
    url: str = ""
    requests: list[tuple[str, Any]] = attrs.field(factory=list)
    """The head and the body of each request."""
    hung_up: trio.Event = attrs.field(factory=trio.Event)
    """Set when a client closed the connection that the server had left open."""


async def _read_request(stream: trio.SocketStream) -> tuple[str, Any]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        if not more:
            return "", None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    text = head.decode()
    length = next(
        (int(line[15:]) for line in text.lower().split("\r\n") if line.startswith("content-length:")), 0
    )
    while len(body) < length:
        body += await stream.receive_some()
    return text, json.loads(body) if body else None


Reply = Callable[[str, Any], bytes] | bytes


@asynccontextmanager
async def raw_server(
    reply: Reply, *, stay: bool = False, pause: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[RawServer]:
    """Run a server that answers each connection's request with the same bytes.

    Args:
      reply: the bytes, or a function from the head and body of the request to them.
      stay: whether to leave the connection open afterwards, and wait for the client to close it.
      pause: awaited before each answer.
    """
    server = RawServer()

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                head, body = await _read_request(stream)
                if not head:
                    return
                server.requests.append((head, body))
                if pause is not None:
                    await pause()
                await stream.send_all(reply if isinstance(reply, bytes) else reply(head, body))
                if stay and not await stream.receive_some():
                    server.hung_up.set()
            except trio.BrokenResourceError:
                server.hung_up.set()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        try:
            yield server
        finally:
            nursery.cancel_scope.cancel()
