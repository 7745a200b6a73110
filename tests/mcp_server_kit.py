"""What the tests of the MCP server share: a served fleet in this process, and clients of it.

The clients are the Python SDK's, over pipes and over HTTP, in both generations of the protocol; and one
that writes lines of JSON, which sends what no SDK would.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import attrs
import mcp_types as types
import pytest
import trio
from mcp.client.client import Client
from mcp.shared.message import SessionMessage

from agentpool import AgentManifest, AgentPool, FleetAgent, FleetFile, FleetFunction, open_agent_pool
from agentpool._core.rules import Report, read_table
from agentpool.drivers.scripted import EmbeddedDriver
from agentpool.mcp_server import StdioClaim, serve_agents_http, serve_agents_stdio

LEGACY, MODERN = "legacy", "2026-07-28"
SECONDS = 20.0
"""Within so many real seconds whatever is waited for has happened."""
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
}

HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}

both_eras = pytest.mark.parametrize("era", [LEGACY, MODERN])
both_transports = pytest.mark.parametrize("transport", ["stdio", "http"])


def pool_for(max_concurrent: int = 4, **options: Any) -> AbstractAsyncContextManager[AgentPool]:
    """A pool whose agents follow their scripts."""
    return open_agent_pool(EmbeddedDriver(), max_concurrent=max_concurrent, **options)


def function_agent(function: Any, name: str | None = None, **given: Any) -> FleetFunction:
    """An agent of a fleet that is a function."""
    return FleetFunction(name or function.__name__, function, f"tests:{function.__name__}", **given)


def scripted_agent(name: str, *steps: Mapping[str, Any], query: str | None = None, **keys: Any) -> FleetAgent:
    """An agent of a fleet that follows a script."""
    report = Report(base=None)
    table = {"name": name, "script": {"steps": list(steps)}, **keys}
    manifest = read_table(AgentManifest, table, "", report)
    assert not report.problems, report.problems
    return FleetAgent(name, manifest, query)


def fleet_of(*agents: Any) -> FleetFile:
    """A fleet of these agents; a function is one too."""
    known = (FleetAgent, FleetFunction)
    return FleetFile(agents=[one if isinstance(one, known) else function_agent(one) for one in agents])


@attrs.define(eq=False)
class Slow:
    """An agent that waits for good, with a child that does so too, and tells when both were cleaned up."""

    begun: trio.Event = attrs.field(factory=trio.Event)
    child_ended: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def child(self, ctx: Any) -> None:
        self.begun.set()
        try:
            await trio.sleep_forever()
        finally:
            self.child_ended.set()

    async def slow(self, ctx: Any) -> str:
        """Wait."""
        await ctx.spawn(self.child)
        try:
            await trio.sleep_forever()
        finally:
            self.ended.set()
        return "never"

    async def cleaned_up(self) -> None:
        await self.child_ended.wait()
        await self.ended.wait()


# -- over pipes --------------------------------------------------------------------------


@attrs.define(eq=False)
class Lines:
    """The client's end of a server on pipes: lines of JSON."""

    to_server: trio.lowlevel.FdStream
    from_server: trio.lowlevel.FdStream
    _rest: bytearray = attrs.field(factory=bytearray)

    async def send(self, *messages: Mapping[str, Any] | bytes) -> None:
        for one in messages:
            data = one if isinstance(one, bytes) else json.dumps({"jsonrpc": "2.0", **one}).encode() + b"\n"
            await self.to_server.send_all(data)

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end."""
        while b"\n" not in self._rest:
            data = await self.from_server.receive_some()
            if not data:
                return None
            self._rest += data
        line, _, rest = bytes(self._rest).partition(b"\n")
        self._rest = bytearray(rest)
        message: dict[str, Any] = json.loads(line)
        return message

    async def answer_to(self, id: int) -> dict[str, Any]:
        """The answer to a request; what comes before it is passed over."""
        while True:
            message = await self.receive()
            assert message is not None
            if message.get("id") == id and "method" not in message:
                return message

    async def initialize(self, **capabilities: Any) -> None:
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "clientInfo": {"name": "raw", "version": "1"},
        }
        await self.send({"id": 0, "method": "initialize", "params": params})
        await self.answer_to(0)
        await self.send({"method": "notifications/initialized"})

    async def open(self, era: str) -> None:
        """Begin as a client of a generation does."""
        if era == LEGACY:
            await self.initialize()

    async def call(self, era: str, id: int, name: str, arguments: Any = None, **meta: Any) -> None:
        """Send a call; `answer_to(id)` has its answer."""
        params = call_params(era, name, arguments, **meta)
        await self.send({"id": id, "method": "tools/call", "params": params})


def call_params(era: str, name: str, arguments: Any = None, **meta: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": name, "arguments": arguments or {}}
    told = {**(ENVELOPE if era == MODERN else {}), **meta}
    return {**params, "_meta": told} if told else params


@asynccontextmanager
async def served_lines(
    pool: AgentPool, fleet: FleetFile, **options: Any
) -> AsyncIterator[tuple[Lines, trio.Event]]:
    """A server on pipes, and an event that it has ended."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    ended = trio.Event()

    async def serve() -> None:
        try:
            claim = StdioClaim(theirs_in, theirs_out)
            await serve_agents_stdio(pool, fleet, claim=claim, **options)
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
            ended.set()

    lines = Lines(trio.lowlevel.FdStream(ours_out), trio.lowlevel.FdStream(ours_in))
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery, lines.to_server, lines.from_server:
            nursery.start_soon(serve)
            yield lines, ended
            await lines.to_server.aclose()
            await ended.wait()


@asynccontextmanager
async def _as_transport(lines: Lines) -> AsyncIterator[Any]:
    """The streams that the SDK's client wants."""
    to_client, client_reads = anyio.create_memory_object_stream[Any](0)
    client_writes, from_client = anyio.create_memory_object_stream[Any](0)

    async def read() -> None:
        async with to_client:
            while (message := await lines.receive()) is not None:
                await to_client.send(SessionMessage(types.jsonrpc_message_adapter.validate_python(message)))

    async def write() -> None:
        async with from_client:
            async for message in from_client:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                await lines.send(text.encode() + b"\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
        yield client_reads, client_writes
        nursery.cancel_scope.cancel()
    client_reads.close()
    client_writes.close()


# -- both --------------------------------------------------------------------------------


@asynccontextmanager
async def served_url(pool: AgentPool, fleet: FleetFile, **options: Any) -> AsyncIterator[str]:
    """A server over HTTP, and its address; it ends with the block."""
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(partial(serve_agents_http, pool, fleet, **options))
            yield url
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(
    transport: str, era: str, pool: AgentPool, fleet: FleetFile, *, approver: Any = None, **options: Any
) -> AsyncIterator[Client]:
    """The SDK's client of a served fleet."""
    async with AsyncExitStack() as stack:
        if transport == "http":
            server: Any = await stack.enter_async_context(served_url(pool, fleet, approver=approver))
        else:
            lines, _ = await stack.enter_async_context(served_lines(pool, fleet, approver=approver))
            server = _as_transport(lines)
        client = Client(server, mode=era, **options)  # type: ignore[arg-type]
        yield await stack.enter_async_context(client)


def text_of(result: Any) -> str:
    """The text of a result."""
    return "".join(block.text for block in result.content)


# -- raw HTTP ----------------------------------------------------------------------------


@attrs.define(eq=False)
class Raw:
    """A client that writes HTTP by itself."""

    url: str
    headers: dict[str, str] = attrs.field(factory=dict)

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])

    async def begin(
        self,
        body: bytes,
        *,
        method: str = "POST",
        path: str = "/mcp",
        length: int | None = None,
        **headers: str,
    ) -> trio.SocketStream:
        """Send a request; the connection is for the caller to close."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        told = {"host": f"127.0.0.1:{self.port}", **HEADERS, **self.headers}
        told |= {key.replace("_", "-"): value for key, value in headers.items()}
        told["content-length"] = str(len(body) if length is None else length)
        lines = "".join(f"{key}: {value}\r\n" for key, value in told.items() if value)
        await stream.send_all(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        return stream

    async def status(self, body: bytes = b"{}", **options: Any) -> tuple[int, str]:
        """The status of the answer, and its text."""
        async with await self.begin(body, **{"connection": "close", **options}) as stream:
            data = bytearray()
            while more := await stream.receive_some():
                data += more
        head, _, rest = bytes(data).partition(b"\r\n\r\n")
        return int(head.split()[1]), rest.decode()

    async def begin_request(self, era: str, message: Mapping[str, Any]) -> trio.SocketStream:
        """Send one message of the protocol."""
        headers = {}
        if era == MODERN:
            name = message.get("params", {}).get("name", "")
            headers = {"mcp_protocol_version": MODERN, "mcp_method": message["method"], "mcp_name": name}
        return await self.begin(json.dumps({"jsonrpc": "2.0", **message}).encode(), **headers)

    async def open(self, era: str) -> None:
        """Begin as a client of a generation does."""
        if era == MODERN:
            return
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "1"},
        }
        message = {"id": 0, "method": "initialize", "params": params}
        async with await self.begin_request(era, message) as stream:
            data = b""
            while b'"id":0' not in data:
                data += await stream.receive_some()
        head = data.partition(b"\r\n\r\n")[0].decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
        self.headers = {
            "mcp-session-id": fields["mcp-session-id"],
            "mcp-protocol-version": "2025-11-25",
        }
        async with await self.begin_request(era, {"method": "notifications/initialized"}) as stream:
            await stream.receive_some()
