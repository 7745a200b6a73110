"""The workers of a pool: which one an agent runs in, and new ones in the place of those that are lost."""

from __future__ import annotations

import logging
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING

import attrs
import trio

from agentpool._core.errors import WorkerUnavailableError
from agentpool._core.placing import Down, Watched, WorkOver
from agentpool._core.wire import Patience
from agentpool._kernel.protection import protect_module
from agentpool._logging import WORKERS, tell
from agentpool._remote.codec import SentEvent, sent
from agentpool._remote.facts import WorkerSetup
from agentpool._remote.link import Link

if TYPE_CHECKING:
    from agentpool.abc import Transport, Workers

MARGIN = 2.0
"""So many seconds after a worker has ended itself it is said to be lost: for its watchdog, and for clocks."""

Told = Callable[[dict[int, int], Sequence[SentEvent]], object]


LATE = 5.0
"""So many seconds agents count on a worker that is being started, where another one is up by then."""

PAUSE = 5.0
"""So many seconds pass after a start that failed, or a worker that died as soon as it was up, until the next
one in its place, where others are up."""

SILENT = 4.0
"""A worker that has not answered for so many seconds gets no more agents. It answers once a second."""


@attrs.define(eq=False)
class _Berth:
    """The place of one worker, and of those that come after it.

    Attributes:
      number: names it.
      agents: how many run in it, or count on the worker that is being started.
      link: the way to its worker; None as long as there is none.
      is_starting: whether one is being started.
      error: why it could not be started the last time.
      failures: how many starts have failed.
      not_before: when it is tried again, where others are up.
      lives: how many workers it has had.
      is_late: whether it takes long to start its worker, so that nobody counts on that.
    """

    number: int
    agents: int = 0
    link: Link | None = None
    is_starting: bool = False
    error: Exception | None = None
    failures: int = 0
    not_before: float = -inf
    lives: int = 0
    is_late: bool = False

    @property
    def is_expected(self) -> bool:
        """Whether its first worker is about to be up: where one was lost, the next may not be for long."""
        return self.is_starting and self.lives <= 1 and not self.is_late


class Crew:
    """The workers of a pool.

    Each agent goes to the one that has the fewest. One that is lost is replaced when the next agent comes.
    """

    def __init__(
        self,
        workers: Workers,
        setup: WorkerSetup,
        nursery: trio.Nursery,
        *,
        told: Told,
        news: Callable[[], Sequence[Watched | WorkOver]],
    ) -> None:
        """Begin.

        Args:
          workers: where they are started.
          setup: what each is told.
          nursery: for a task for each of them.
          told: hands events on.
          news: returns what all of them have to know.
        """
        self._workers = workers
        self._setup = setup
        self._told = told
        self._news_now = news
        self._nursery = nursery
        self._berths = [_Berth(number) for number in range(1, workers.count + 1)]
        self._news: dict[type[Down], Down] = {}
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<Crew of {sum(berth.link is not None for berth in self._berths)} workers>"

    def start_all(self) -> None:
        """Begin to start every worker, so that those that come first do not fill the one that is up first."""
        for berth in self._berths:
            self._start(berth)

    def look(self) -> None:
        """Tell every worker what concerns all of its agents, if that has changed."""
        for news in self._news_now():
            if self._news.get(type(news)) != news:
                self._news[type(news)] = news
                for link in self.links:
                    link.send(news)

    @property
    def links(self) -> list[Link]:
        """Those to the workers that are up."""
        return [berth.link for berth in self._berths if berth.link is not None]

    @asynccontextmanager
    async def berth(self) -> AsyncIterator[Link]:
        """Count an agent to the worker in which it will run, as long as the block lasts.

        Raises:
          WorkerUnavailableError: if none is up, and each start that has ended since it came has failed.

        Checkpoint: if no worker is up yet.
        """
        before = [berth.failures for berth in self._berths]
        while True:
            self._start_missing(before)
            berth = self._choose()
            if berth is None:
                self._check_hope(before)
                await self._changed.wait()
                continue
            berth.agents += 1
            try:
                link = berth.link or await self._expected(berth)
                if link is not None:
                    yield link
                    return
            finally:
                berth.agents -= 1

    def _start_missing(self, before: Sequence[int]) -> None:
        """Begin to start what is not up; what has failed since an agent came is not tried again for it.

        Args:
          before: how many starts had failed then, for each berth.
        """
        now = trio.current_time()
        is_any_up = any(berth.link is not None for berth in self._berths)
        for berth, failures in zip(self._berths, before, strict=True):
            is_due = now >= berth.not_before or (not is_any_up and berth.failures == failures)
            if berth.link is None and not berth.is_starting and is_due:
                self._start(berth)

    def _choose(self) -> _Berth | None:
        """Return where the next agent goes: where the fewest are, of those that are up or about to be."""
        silent = trio.current_time() - SILENT
        up = [berth for berth in self._berths if berth.link is not None]
        heard = [berth for berth in up if berth.link is not None and berth.link.heard_at > silent]
        found = [*heard, *(berth for berth in self._berths if berth.is_expected)] or up
        return min(found, key=lambda berth: (berth.agents, berth.number), default=None)

    def _check_hope(self, before: Sequence[int]) -> None:
        """Refuse an agent since whose coming each start has failed."""
        if all(berth.failures > failures for berth, failures in zip(self._berths, before, strict=True)):
            errors = [berth.error for berth in self._berths if berth.error is not None]
            raise WorkerUnavailableError(
                f"no worker is up, and none can be started: {errors[0]}"
            ) from errors[0]

    async def _expected(self, berth: _Berth) -> Link | None:
        """Wait for a worker that is about to be up; None if it is better to look for another."""
        with trio.move_on_after(LATE):
            while berth.is_starting:
                await self._changed.wait()
        if berth.is_starting:
            berth.is_late = True
        return berth.link

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _start(self, berth: _Berth) -> None:
        berth.is_starting = True
        berth.lives += 1
        self._nursery.start_soon(self._live, berth, name=f"worker {berth.number}")

    async def _live(self, berth: _Berth) -> None:
        """Start a worker, and carry what it and the head have to tell until it is lost."""
        name = f"{berth.number}" if berth.lives == 1 else f"{berth.number}.{berth.lives}"
        try:
            link = await self._started(berth, name)
        finally:
            berth.is_starting = False
            self._note_change()
        if link is None:
            return
        for news in self._news.values():
            link.send(news)
        tell(WORKERS, logging.INFO, "worker %s is up", name)
        up_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await link.failing.wait()
            # Its agents have to wait for the end of its lease, but a new one can take its place now.
            if berth.link is link:
                berth.link = None
                if trio.current_time() < up_at + PAUSE:
                    berth.not_before = trio.current_time() + PAUSE
                self._note_change()

    async def _started(self, berth: _Berth, name: str) -> Link | None:
        try:
            setup = sent(self._workers.dumps, attrs.evolve(self._setup, name=name), "what a worker is told")
            transport = await self._workers.start(setup)
        except Exception as error:
            berth.error = error
            berth.failures += 1
            berth.not_before = trio.current_time() + PAUSE
            tell(WORKERS, logging.WARNING, "worker %s cannot be started: %s", name, error, error=error)
            return None
        berth.link = self._linked(name, transport)
        berth.is_late = False
        return berth.link

    def _linked(self, name: str, transport: Transport) -> Link:
        # From now on, and not from when it was asked for: its lease began somewhere in between.
        lease = self._setup.lease
        patience = Patience.begin(lease + MARGIN, trio.current_time())
        return Link(name, transport, self._workers.dumps, lease, patience, self._told, self.look)


def loads_setup(data: bytes) -> WorkerSetup:
    """Return what a worker was told at its start."""
    setup: WorkerSetup = pickle.loads(data)
    return setup


protect_module(globals())
