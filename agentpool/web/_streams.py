"""Server-sent events: each browser is sent what is newer than what it has, as fast as it reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio

from agentpool._core.plain_json import plain_json
from agentpool._serving.names import Receive, Send
from agentpool.web._watching import Watching

KEEP_ALIVE = 15.0
"""After so many seconds of silence a comment is sent, lest somebody on the way takes us for dead."""
MOST_OF_SESSION = 4
"""So many tabs of one browser are told at the same time: it has six connections to a server at the most, and
the other requests need some. With more tabs, the one that has been told for the longest makes room: it comes
back after a moment, and they take turns."""
MOST_STREAMS = 200
"""So many tabs of all browsers are told at the same time."""
BACK_AFTER = 1_000
"""Milliseconds after which a browser that lost its connection comes back."""
BACK_AFTER_TURN = 2_000
COMES_BACK = 1.5
"""Seconds after which who has lost the connection has come back, or does not any more."""
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # for a proxy that would keep events back
]


@attrs.define(eq=False)
class _Stream:
    """One tab.

    Attributes:
      session: of its browser.
      scope: of its wait for something new, the latest.
      gives_way: whether it makes room for another.
      has_been_told: of the end of the run.
    """

    session: str
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    gives_way: bool = False
    has_been_told: bool = False


@attrs.define(eq=False)
class Streams:
    """The tabs that are told at this moment."""

    _watching: Watching
    _open: dict[_Stream, None] = attrs.field(factory=dict)
    _left: trio.Event = attrs.field(factory=trio.Event)
    _away: dict[str, float] = attrs.field(factory=dict)
    """When browsers went that have not been told of the end, by their sessions."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._open)

    async def all_told(self) -> None:
        """Wait until all have been told of the end of the run, or have gone.

        Those that were here a moment ago count too: they may be on their way back.
        """
        while self._open or self._away:
            latest = max(self._away.values(), default=math.inf) + COMES_BACK
            with trio.move_on_at(math.inf if self._open else latest) as scope:
                await self._left.wait()
            if scope.cancelled_caught:
                return

    async def serve(self, session: str, version: int, receive: Receive, send: Send) -> bool:
        """Tell a tab what is newer than a version, and all that follows; tell whether there was room.

        Returns when the run is over and all was told, when the tab makes room for another, and when it has
        gone.

        Cancellation: the connection is cut; the browser comes back with the version that it has.
        """
        if len(self._open) >= MOST_STREAMS:
            return False
        with self._counted(session) as stream:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await _write(send, f"retry: {BACK_AFTER}\n\n".encode())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
                await self._tell(stream, version, send)
                nursery.cancel_scope.cancel("all was told")
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    @contextmanager
    def _counted(self, session: str) -> Iterator[_Stream]:
        stream = _Stream(session)
        others = [each for each in self._open if each.session == session and not each.gives_way]
        for each in others[: max(0, len(others) + 1 - MOST_OF_SESSION)]:
            each.gives_way = True
            each.scope.cancel("another tab of the browser is told now")
        self._open[stream] = None
        self._away.pop(session, None)
        try:
            yield stream
        finally:
            del self._open[stream]
            if not stream.has_been_told:
                self._away[session] = trio.current_time()
            left, self._left = self._left, trio.Event()
            left.set()

    async def _tell(self, stream: _Stream, version: int, send: Send) -> None:
        watching, asked = self._watching, -1
        while True:
            changed, exit = watching.changed, watching.exit
            batch = watching.since(version, asked)
            index = 0
            while (piece := batch.piece(index)) is not None:
                await _write(send, piece)
                await trio.lowlevel.checkpoint()  # agents go on between two pieces
                index += 1
            version, asked = batch.upto, batch.asked
            if exit is not None:
                stream.has_been_told = True
                await _write(send, b"event: end\ndata: " + plain_json({"exit": exit}).encode() + b"\n\n")
                return
            with trio.CancelScope() as stream.scope:
                if not stream.gives_way:
                    await self._wait(changed, send)
            if stream.gives_way:
                await _write(send, f"retry: {BACK_AFTER_TURN}\n\n".encode())
                return

    async def _wait(self, changed: trio.Event, send: Send) -> None:
        while not changed.is_set():
            with trio.move_on_after(KEEP_ALIVE):
                await changed.wait()
                return
            await _write(send, b": still here\n\n")


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel("the browser has gone")


async def _write(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})
