"""Serving over HTTP with hypercorn on trio: connections of our own, which are bounded.

Hypercorn's `serve` is not used: it shields what it sends, so that a client that reads no more would stop
our end, and it knows no bounds of connections.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._serving.limits import HEAD_SECONDS, Door, Visit

if TYPE_CHECKING:
    from agentpool._serving.names import App, Receive, Scope, Send

SEND_SECONDS = 30.0
"""A client that does not read what it is sent for so long has gone."""
LAST_WORDS = 1.0
"""Seconds for answers that are under way when the server ends."""
MOST_HEAD = 64 * 1024
"""So many bytes the head of a request may have. Browsers send the cookies of all ports of a machine."""


def listener_on(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
      OSError: if the port is in use, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


async def listen(
    app: App, listener: socket.socket, log: logging.Logger, send_seconds: float | None = None
) -> None:
    """Serve an application until cancelled; the listener is closed then.

    Args:
      app: an application of ASGI; it gets requests only.
      listener: from `listener_on`.
      log: takes what goes wrong.
      send_seconds: a client that does not read what it is sent for so long has gone; `SEND_SECONDS` if it
        is left out.

    Checkpoint: always. Cancellation: connections are closed; what is under way has `LAST_WORDS` seconds.
    """
    from hypercorn.config import Config
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import ConnectionState
    from hypercorn.utils import wrap_app

    config = Config()
    config.include_server_header = False
    config.errorlog = log
    config.h11_max_incomplete_size = MOST_HEAD
    # None for reading: it would end a call whose client waits for an answer in silence.
    config.read_timeout = None
    config.keep_alive_timeout = HEAD_SECONDS
    context, sending = WorkerContext(None), Sending(SEND_SECONDS if send_seconds is None else send_seconds)

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
            log.exception("a connection broke down")  # the others go on

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sending.until_the_end)
        await Door(trio.SocketListener(trio.socket.from_stdlib_socket(listener))).serve(connected)


@attrs.define(eq=False)
class Sending:
    """What is being sent. Hypercorn shields it, so that a client that reads no more would stop our end.

    Attributes:
      seconds: so long a client has to read what it is sent.
    """

    seconds: float
    scopes: set[trio.CancelScope] = attrs.field(factory=set)

    async def until_the_end(self) -> None:
        """Sleep until cancelled, and give all that is sent a moment more."""
        try:
            await trio.sleep_forever()
        finally:
            for scope in self.scopes:
                scope.deadline = min(scope.deadline, trio.current_time() + LAST_WORDS)


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
          BrokenResourceError: if the client has gone, or did not read for too long.
        """
        with trio.move_on_after(self._sending.seconds) as scope:
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
