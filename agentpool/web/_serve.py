"""Serves the live page of a pool, on this machine."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs
import trio

from agentpool._kernel.pool import AgentPool
from agentpool._serving.listening import listen, listener_on
from agentpool._serving.names import is_loopback
from agentpool.web._approving import PageApprover
from agentpool.web._entry import Entry
from agentpool.web._extra import check_extra
from agentpool.web._streams import Streams
from agentpool.web._watching import EVENTS_KEPT, Watching

if TYPE_CHECKING:
    from agentpool.drivers.governed import GovernedDriver

SEND_SECONDS = 10.0
"""A browser that does not read what it is sent for so long is cut off; it comes back when it can."""
LAST_WORDS = 2.0
"""So long the browsers have to be told of the end of the run, when the server is to end."""

_ENDED = "the pool has ended"

_LOG = logging.getLogger("agentpool.web")


def _ignore(error: Exception) -> None:
    pass


@attrs.define(eq=False)
class LivePage:
    """The page of a run, with the socket on which it is served; close it.

    Attributes:
      watching: what it shows.
      entry: who may see it.
      streams: who sees it now.
      failed: is told when a request could not be answered; that is logged too.
    """

    watching: Watching
    entry: Entry
    streams: Streams
    _listener: socket.socket
    failed: Callable[[Exception], object] = _ignore

    @classmethod
    def open(cls, watching: Watching, host: str, port: int, tell: Callable[[str], object]) -> LivePage:
        """Return the page, which listens already.

        Args:
          watching: what it shows.
          host: an address of this machine that others do not reach.
          port: 0 for a free one.
          tell: is given a new link, when one is needed.

        Raises:
          ModuleNotFoundError: if the extra `web` is not installed.
          ValueError: if other machines reach the address.
          OSError: if the port is in use.
        """
        check_extra()
        if not is_loopback(host):
            raise ValueError(
                f"other machines reach {host}, and what is sent could be read on the way: serve on 127.0.0.1,"
                " and come from another machine through a tunnel: ssh -L 8080:127.0.0.1:PORT HOST"
            )
        listener = listener_on(host, port)
        bound = listener.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        return cls(watching, Entry(address, bound, tell), Streams(watching), listener)

    async def serve(self) -> None:
        """Serve it until cancelled, which closes the connections; it may be served again afterwards."""
        from agentpool.web._guard import Guard
        from agentpool.web._requests import Requests

        app = Requests(self.watching, self.streams).app()
        with self.watching.listening():
            await listen(Guard(app, self.entry, self.failed), self._listener.dup(), _LOG, SEND_SECONDS)

    async def tell_end(self, exit: str) -> None:
        """Say how the run ended, and give the browsers a moment to be told."""
        self.watching.end(exit)
        with trio.move_on_after(LAST_WORDS):
            await self.streams.all_told()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


async def serve_live_page(
    pool: AgentPool,
    *,
    title: str = "agents",
    host: str = "127.0.0.1",
    port: int = 0,
    approver: PageApprover | None = None,
    providers: Mapping[str, GovernedDriver] | None = None,
    on_link: Callable[[str], object] | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the live page of a pool until cancelled, also when the pool has ended.

    `nursery.start(serve_live_page, pool)` returns a link that lets one browser in. Start it in a nursery
    around the pool, which would wait for it otherwise::

        async with trio.open_nursery() as nursery:
            async with open_agent_pool(driver, max_concurrent=10) as pool:
                print(await nursery.start(serve_live_page, pool))
                ...
            nursery.cancel_scope.cancel()

    Whoever sees the page may abort agents, drain the pool and answer its questions.

    Args:
      pool: what is shown, from now on; agents that ended before are not.
      title: what the run is called.
      host: an address of this machine that others do not reach.
      port: 0 for one that is free.
      approver: the approver of the pool, whose questions are answered on the page.
      providers: the governed drivers of the pool, by what they are to be called, whose calls are counted.
      on_link: is given a new link when somebody comes whose link has been used, or who has none; left out,
        it is printed on standard error.

    Raises:
      ModuleNotFoundError: if the extra `web` is not installed.
      ValueError: if other machines reach the address.
      OSError: if the port is in use, or the address is none of this machine.

    Checkpoint: always. Cancellation: connections are closed; if the pool has ended, those who look are told
    so, for which there are two seconds.
    """
    governed = dict(providers or {})
    watching = Watching(
        title, approver, lambda: [(name, each.statistics()) for name, each in governed.items()]
    )
    page = LivePage.open(watching, host, port, on_link or _print_link)
    try:
        async with pool.events(max_buffer=EVENTS_KEPT) as events, trio.open_nursery() as nursery:
            watching.begin(pool)
            scope = trio.CancelScope(shield=True)
            try:
                nursery.start_soon(_serve_in, page, scope)
                task_status.started(page.entry.link())
                await watching.watch(events)
                watching.end(_ENDED)
                await trio.sleep_forever()
            finally:
                try:
                    if watching.has_seen_end:
                        with trio.CancelScope(shield=True):
                            await page.tell_end(_ENDED)
                finally:
                    scope.cancel("the server is to end")
    finally:
        page.close()


async def _serve_in(page: LivePage, scope: trio.CancelScope) -> None:
    with scope:
        await page.serve()


def _print_link(link: str) -> None:
    # Not through `logging`: logs are kept and sent away, and the link lets in whoever comes first.
    if sys.stderr is not None:
        print(f"a new link to the live page: {link}", file=sys.stderr, flush=True)
