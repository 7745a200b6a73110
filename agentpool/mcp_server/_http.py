"""A server over streamable HTTP: many clients at once, none of which sees another's calls."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._kernel.pool import AgentPool
from agentpool.fleet.file import FleetFile
from agentpool.fleet.start import DriverOf
from agentpool.mcp_server._approving import ClientApprover
from agentpool.mcp_server._extra import check_extra
from agentpool.mcp_server._limits import HEAD_SECONDS, Door, Visit
from agentpool.mcp_server._tools import served_tools

if TYPE_CHECKING:
    from agentpool.mcp_server._guard import App, Receive, Scope, Send

MOST_SESSIONS = 1_000
"""So many clients of revisions before 2026-07-28 may have a session."""
IDLE_SECONDS = 1_800.0
"""A session without a request for so long ends."""
_LAST_WORDS = 1.0  # seconds for answers that are under way when the server ends
SEND_SECONDS = 30.0
"""A client that does not read what it is sent for so long has gone."""

_LOG = logging.getLogger("agentpool.mcp_server")


async def serve_agents_http(
    pool: AgentPool,
    fleet: FleetFile,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    driver_of: DriverOf | None = None,
    timeout: float | None = None,
    approver: ClientApprover | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the agents of a fleet as MCP tools over streamable HTTP, until cancelled.

    Each call of a tool spawns its agent in the pool, waiting for a slot. A call that its client cancels,
    or whose request it closes, aborts its agent, with all that it spawned. Clients share the pool and
    nothing else. `nursery.start(serve_agents_http, ...)` returns the address.

    Args:
      pool, fleet, driver_of, timeout, approver: as for `serve_agents_stdio`.
      host: the address that it listens on; others than those of this machine need a token.
      port: 0 for one that is free.
      token: what clients have to give, as `Authorization: Bearer TOKEN`; at least 16 characters.

    Raises:
      ManifestError: if the arguments of a function cannot be told to a client.
      ModuleNotFoundError: if the extra `mcp` is not installed.
      ValueError: if there is no token where one is needed, or it can be guessed.
      OSError: if the port is in use, or the address is none of this machine.

    Checkpoint: always. Cancellation: connections are closed, and the agents of all calls are aborted and
    awaited.
    """
    check_extra("hypercorn")
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from agentpool.mcp_server._guard import PATH, Guard, checked_token
    from agentpool.mcp_server._requests import serving

    token = checked_token(token, host)
    tools = served_tools(fleet, driver_of, timeout)
    listener = _listener(host, port)
    with listener:
        bound = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        async with serving(pool, tools, approver) as server:
            manager = StreamableHTTPSessionManager(
                server, session_idle_timeout=IDLE_SECONDS, max_sessions=MOST_SESSIONS
            )
            async with manager.run():
                task_status.started(f"http://{shown}:{bound}{PATH}")
                await _listen(Guard(manager.handle_request, host, token), listener)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


async def _listen(app: App, listener: socket.socket) -> None:
    from hypercorn.config import Config
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import ConnectionState
    from hypercorn.utils import wrap_app

    config = Config()
    config.include_server_header = False
    config.errorlog = _LOG
    # None for reading: it would end a call whose client waits for an answer in silence.
    config.read_timeout = None
    config.keep_alive_timeout = HEAD_SECONDS
    context, sending = WorkerContext(None), Sending()

    async def connected(stream: trio.SocketStream) -> None:
        visit = Visit()
        connection: Any = Connection(stream, sending, visit)

        async def visited(scope: Scope, receive: Receive, send: Send) -> None:
            with visit.request():
                await app(scope, receive, send)

        wrapped = wrap_app(visited, config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]
        try:
            with visit.scope:
                await TCPServer(wrapped, config, context, ConnectionState({}), connection).run()
        except Exception:
            _LOG.exception("a connection broke down")  # the others go on

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sending.until_the_end)
        await Door(trio.SocketListener(trio.socket.from_stdlib_socket(listener))).serve(connected)


@attrs.define(eq=False)
class Sending:
    """What is being sent. hypercorn shields it, so that a client that reads no more would stop our end."""

    scopes: set[trio.CancelScope] = attrs.field(factory=set)

    async def until_the_end(self) -> None:
        """Sleep until cancelled, and give all that is sent a moment more."""
        try:
            await trio.sleep_forever()
        finally:
            for scope in self.scopes:
                scope.deadline = min(scope.deadline, trio.current_time() + _LAST_WORDS)


@attrs.define(eq=False)
class Connection:
    """A connection to a client that has so long to read what it is sent."""

    _stream: trio.SocketStream
    _sending: Sending
    _visit: Visit

    @property
    def socket(self) -> object:
        """Whose addresses are asked for."""
        return self._stream.socket

    async def receive_some(self, most: int | None = None) -> bytes:
        """Read what there is."""
        data = bytes(await self._stream.receive_some(most))
        if not data:
            self._visit.client_gone()
        return data

    async def send_all(self, data: bytes) -> None:
        """Send all of it.

        Raises:
          BrokenResourceError: if the client has gone, or did not read for `SEND_SECONDS`.
        """
        with trio.move_on_after(SEND_SECONDS) as scope:
            self._sending.scopes.add(scope)
            try:
                await self._stream.send_all(data)
            finally:
                self._sending.scopes.discard(scope)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client does not read")

    async def send_eof(self) -> None:
        """Say that nothing more is sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()
