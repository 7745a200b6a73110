"""How much clients over HTTP may have at once: connections, requests and bytes, and for how long.

Without bounds whoever reaches the server, also without a token, has it run out of descriptors or memory.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import attrs
import trio

MOST_CONNECTIONS = 500
"""So many connections are served at once; fewer where a process may have few open files."""
MOST_REFUSALS = 50
"""So many more are told that there are too many. Who comes then waits in the system's queue."""
MOST_REQUESTS = 1_000
"""So many requests that were let in may be under way. HTTP/2 has many on one connection."""
MOST_BYTES = 256 * 1024 * 1024
"""The bodies of all of them may have so many bytes together."""
HEAD_SECONDS = 10.0
"""A connection with no request under way has so long to send the whole head of one."""
REFUSAL_SECONDS = 1.0
"""Who is told that there are too many connections has so long to read it."""

SHORTAGE_SECONDS = 0.1
"""Where a client cannot be taken, since too many files are open, it is tried again after so long."""

_LOG = logging.getLogger("agentpool.serving")
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_TOO_MANY = b"too many connections; try again\n"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_TOO_MANY), _TOO_MANY)
)


def most_connections() -> int:
    """Return how many connections are served at once: no more than half of the files that may be open."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, files // 2))


# -- requests ----------------------------------------------------------------------------


@attrs.define(eq=False)
class Load:
    """The requests that are under way.

    Attributes:
      requests: how many.
      bytes: how much their bodies have, or may come to have.
    """

    requests: int = 0
    bytes: int = 0

    @contextmanager
    def share(self, size: int) -> Iterator[Share | None]:
        """Have a request under way while the block runs; the value is None if there is no room for it."""
        if self.requests >= MOST_REQUESTS or self.bytes + size > MOST_BYTES:
            yield None
            return
        share = Share(self, size)
        self.requests += 1
        self.bytes += size
        try:
            yield share
        finally:
            self.requests -= 1
            self.bytes -= share.size


@attrs.define(eq=False)
class Share:
    """What one request has of it."""

    _load: Load
    size: int

    def shrink(self, size: int) -> None:
        """Give back what its body turned out not to have."""
        less = max(0, self.size - size)
        self._load.bytes -= less
        self.size -= less


# -- connections -------------------------------------------------------------------------


@attrs.define(eq=False)
class Visit:
    """One connection: it is closed when it has had no request under way for too long.

    Hypercorn's own limit for that begins anew with every byte of HTTP/2.
    """

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _requests: int = 0

    def __attrs_post_init__(self) -> None:
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        self.scope.deadline = trio.current_time() + HEAD_SECONDS

    @contextmanager
    def request(self) -> Iterator[None]:
        """Have a request under way while the block runs."""
        self._requests += 1
        self.scope.deadline = float("inf")
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._wait_for_head()

    def client_gone(self) -> None:
        """Do not wait for more of a client that has closed its end."""
        if not self._requests:
            self.scope.cancel("the client has gone")


class Door(trio.abc.Listener[trio.SocketStream]):
    """A listener for so many clients at once; some more are told that there are too many."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self._most = most_connections()
        self._inside = 0
        self._has_been_short = False
        self._room = trio.Semaphore(self._most + MOST_REFUSALS)

    async def serve(self, serve: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
        """Serve clients until cancelled.

        Args:
          serve: serves one; its stream is closed afterwards.
        """
        await trio.serve_listeners(partial(self._answer, serve), [self])

    async def _answer(
        self, serve: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream
    ) -> None:
        is_inside = self._inside < self._most
        self._inside += is_inside
        try:
            await (serve if is_inside else _refuse)(stream)
        finally:
            self._inside -= is_inside
            self._room.release()
            await trio.aclose_forcefully(stream)

    async def accept(self) -> trio.SocketStream:
        """Return the next client, when there is somebody to answer it."""
        await self._room.acquire()
        try:
            while True:
                try:
                    return await self._listener.accept()
                except OSError as error:
                    if error.errno not in _SHORTAGES:
                        raise
                    # The agents have all the files. Trio tells it ten times in a second, with a traceback.
                    self._note_shortage(error)
                await trio.sleep(SHORTAGE_SECONDS)
        except BaseException:
            self._room.release()
            raise

    def _note_shortage(self, error: OSError) -> None:
        if not self._has_been_short:
            self._has_been_short = True
            _LOG.warning("clients have to wait: %s", error.strerror)

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()


async def _refuse(stream: trio.SocketStream) -> None:
    with trio.move_on_after(REFUSAL_SECONDS), suppress(trio.BrokenResourceError):
        await stream.send_all(_REFUSAL)
        await stream.send_eof()
        # A connection that is closed with something unread is reset, and the answer may be lost.
        while await stream.receive_some():
            pass
