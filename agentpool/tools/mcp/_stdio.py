"""Sessions over the standard input and output of a process: lines of JSON, each of them bounded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import attrs
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCMessage, JSONRPCRequest, jsonrpc_message_adapter

from agentpool._core.mcp_servers import McpServer
from agentpool.tools.mcp._inbound import LOG, FloodError, Inbound
from agentpool.tools.mcp._mending import answer_in
from agentpool.tools.mcp._processes import Child

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

CLOSING_TIME = 4.0
"""So many seconds the end of a process may take altogether; a pool gives what it holds five."""


@attrs.define(eq=False)
class StdioLink:
    """A link to a server's process.

    Attributes:
      problem: what broke it; empty if nothing did, or the process ended by itself.
    """

    server: McpServer
    inbound: Inbound
    child: Child
    problem: str = ""

    @property
    def refusals(self) -> int:
        """None: there is nobody between."""
        return 0

    def told(self) -> str:
        """Return why it is over."""
        return self.problem or self.child.told()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TransportStreams]:
        """Open the streams of a session; the process is ended with the block."""
        to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.child.read_errors)
            nursery.start_soon(self._read, to_session)
            nursery.start_soon(self._write, from_session)
            try:
                with from_server, to_server:
                    yield from_server, to_server
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING_TIME):
                    await self.child.end(at_once=bool(self.problem))
                nursery.cancel_scope.cancel()

    async def _read(self, to_session: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        """Hand on its messages until there are no more, or too many."""
        with to_session:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_with_process, nursery.cancel_scope)
                    await self._read_lines(to_session)
                    await self._settled()
                    nursery.cancel_scope.cancel()
            except* FloodError as errors:
                self.problem = f"was stopped: {errors.exceptions[0]}"
            except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # the session has ended
            finally:
                self.inbound.ended.set()

    async def _settled(self) -> None:
        """Wait a moment for the process: how it ended is told with its last words."""
        with trio.move_on_after(0.5):
            await self.child.process.wait()

    async def _end_with_process(self, reading: trio.CancelScope) -> None:
        """Stop reading a moment after the process ended: what it started may hold its output open."""
        await self.child.process.wait()
        await trio.sleep(0.2)
        reading.cancel()

    async def _read_lines(self, to_session: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        stream = self.child.process.stdout
        assert stream is not None
        line = bytearray()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            async for chunk in stream:
                first, *more = chunk.split(b"\n")
                line += first
                for piece in more:
                    await self._take(line, to_session)
                    line = bytearray(piece)
                if len(line) > self.server.max_result_bytes:
                    raise self._too_long()

    def _too_long(self) -> FloodError:
        limit = self.server.max_result_bytes
        return FloodError(f"it sent a message of more than {limit:,} bytes; max_result_bytes allows more")

    async def _take(
        self, line: bytearray, to_session: MemoryObjectSendStream[SessionMessage | Exception]
    ) -> None:
        if len(line) > self.server.max_result_bytes:
            raise self._too_long()
        text = line.strip()
        if not text:
            return
        message = _message_in(bytes(text))
        if message is None:
            # Many servers print there what they should write on standard error.
            self.inbound.count("lines that are no messages")
            name = self.server.name
            LOG.debug("MCP server %s wrote a line that is no message: %r", name, bytes(text[:200]))
            return
        item = SessionMessage(message)
        if self.inbound.take(item):
            await to_session.send(item)

    async def _write(self, from_session: MemoryObjectReceiveStream[SessionMessage]) -> None:
        stream = self.child.process.stdin
        assert stream is not None
        with from_session, suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            async for item in from_session:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                if isinstance(item.message, JSONRPCRequest):
                    self.inbound.awaited = (self.inbound.awaited or 0) + 1
                await stream.send_all(text.encode("utf-8", "replace") + b"\n")


def _message_in(text: bytes) -> JSONRPCMessage | None:
    """Return the message in a line; None if it is none."""
    try:
        return jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValueError:
        pass
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    try:  # what is nested deeper than pydantic reads is a message nevertheless, and somebody waits for it
        return jsonrpc_message_adapter.validate_python(data, by_name=False)
    except (ValueError, RecursionError):
        return answer_in(data)
