"""A server over streamable HTTP: many clients at once, none of which sees another's calls."""

from __future__ import annotations

import logging

import trio

from agentpool._kernel.pool import AgentPool
from agentpool._serving.listening import listen, listener_on
from agentpool.fleet.file import FleetFile
from agentpool.fleet.start import DriverOf
from agentpool.mcp_server._approving import ClientApprover
from agentpool.mcp_server._extra import check_extra
from agentpool.mcp_server._tools import served_tools

MOST_SESSIONS = 1_000
"""So many clients of revisions before 2026-07-28 may have a session."""
IDLE_SECONDS = 1_800.0
"""A session without a request for so long ends."""

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
    listener = listener_on(host, port)
    with listener:
        bound = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        async with serving(pool, tools, approver) as server:
            manager = StreamableHTTPSessionManager(
                server, session_idle_timeout=IDLE_SECONDS, max_sessions=MOST_SESSIONS
            )
            async with manager.run():
                task_status.started(f"http://{shown}:{bound}{PATH}")
                await listen(Guard(manager.handle_request, host, token), listener, _LOG)
