"""Servers of streamable HTTP by hand, for the tests of the MCP client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from agentpool import McpServer, ToolError

Handler = Callable[["Request"], Awaitable[None]]


class Request:
    """A request to a server by hand, and its connection."""

    def __init__(self, stream: trio.SocketStream, head: str, body: bytes) -> None:
        self.stream, self.head = stream, head
        self.message: dict[str, Any] = json.loads(body) if body else {}

    @property
    def method(self) -> str:
        return str(self.message.get("method", self.head.split()[0]))

    async def answer(self, status: str, body: bytes = b"", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
        await self.stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def result(self, result: Any, *headers: str) -> None:
        data = {"jsonrpc": "2.0", "id": self.message["id"], "result": result}
        await self.answer("200 OK", json.dumps(data).encode(), "content-type: application/json", *headers)

    async def usual(self, *headers: str) -> None:
        """Answer as a server of the revision 2025-11-25 does."""
        match self.method:
            case "initialize":
                info = {"name": "hand", "version": "1"}
                can: dict[str, Any] = {"tools": {}}
                told = {"protocolVersion": "2025-11-25", "capabilities": can, "serverInfo": info}
                await self.result(told, *headers)
            case "tools/list":
                await self.result({"tools": [{"name": "go", "inputSchema": {"type": "object"}}]})
            case "tools/call":
                await self.result({"content": [{"type": "text", "text": "went"}]})
            case "notifications/initialized" | "notifications/cancelled":
                await self.answer("202 Accepted")
            case "GET":
                await self.answer("405 Method Not Allowed")
            case _:
                await self.answer("404 Not Found")


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve on loopback, a request a connection."""

    async def serve(stream: trio.SocketStream) -> None:
        data = b""
        try:
            while b"\r\n\r\n" not in data:
                data += await stream.receive_some()
            head, _, body = data.partition(b"\r\n\r\n")
            text = head.decode()
            length = next(
                (
                    int(line.split(":")[1])
                    for line in text.split("\r\n")
                    if line.lower().startswith("content-length")
                ),
                0,
            )
            while len(body) < length:
                body += await stream.receive_some()
            await handler(Request(stream, text, body))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has seen enough
        finally:
            with trio.move_on_after(1, shield=True):
                await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        _, port = listeners[0].socket.getsockname()[:2]
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            nursery.cancel_scope.cancel()


def web(url: str, **more: Any) -> McpServer:
    return McpServer("web", "http", url=url, **more)


async def go(url: str, **more: Any) -> str:
    """Call the one tool of a server."""
    from agentpool.tools.mcp import open_server

    try:
        async with open_server(web(url, **more)) as server:
            return (await server.call("go")).text
    except ToolError as error:
        return str(error)
