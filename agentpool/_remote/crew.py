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
"""So many seconds an agent waits for a worker that is being started, where another one is up."""

PAUSE = 5.0
"""So many seconds pass after a worker could not be started, until that is tried again where others are up."""


SILENT = 4.0
"""A worker that has not answered for so many seconds gets no more agents. It answers once a second."""


@attrs.define(eq=False)
class _Berth:
    """The place of one worker, and of those that come after it.

    Attributes:
      number: names it.
      agents: how many run in it, or wait for it to be started.
      link: the way to its worker; None as long as there is none.
      settled: set when its worker was started, or could not be; None as long as none is being started.
      error: why it could not be started the last time.
      lives: how many workers it has had.
      is_late: whether it takes long to start its worker, so that nobody waits for that who need not.
      not_before: when a start that failed may be tried again, on trio's clock.
    """

    number: int
    agents: int = 0
    link: Link | None = None
    settled: trio.Event | None = None
    error: Exception | None = None
    lives: int = 0
    is_late: bool = False
    not_before: float = -inf

    @property
    def is_expected(self) -> bool:
        """Whether its first worker is about to be up: where one was lost, the next may not be for long."""
        return self.settled is not None and self.lives <= 1 and not self.is_late


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
          WorkerUnavailableError: if none is up, and none can be started.

        Checkpoint: if the worker is not up yet.
        """
        failed: set[int] = set()
        while True:
            berth = self._choose(failed)
            berth.agents += 1
            try:
                link = await self._link_of(berth)
                if link is not None:
                    yield link
                    return
            finally:
                berth.agents -= 1
            if berth.error is not None and berth.settled is None:
                failed.add(berth.number)

    def _choose(self, failed: set[int]) -> _Berth:
        """Return where the next agent goes: where the fewest are, of those that are up or about to be."""
        now = trio.current_time()
        for berth in self._berths:
            if berth.link is None and berth.settled is None and now >= berth.not_before:
                self._start(berth)
        silent = now - SILENT
        heard = [berth for berth in self._berths if berth.link is not None and berth.link.heard_at > silent]
        found = heard + [berth for berth in self._berths if berth.is_expected]
        if not found:
            found = [berth for berth in self._berths if berth.link is not None]  # none was heard of lately
        if not found:
            # Whoever is let wait here waits for all of them, one after the other.
            found = [berth for berth in self._berths if berth.number not in failed]
        if not found:
            errors = {str(berth.error): berth.error for berth in self._berths if berth.error is not None}
            told, error = next(iter(errors.items()))
            raise WorkerUnavailableError(f"no worker is up, and none can be started: {told}") from error
        return min(found, key=lambda berth: (berth.agents, berth.number))

    async def _link_of(self, berth: _Berth) -> Link | None:
        """Return the way to the worker of a berth, or None if it is better to look for another."""
        if berth.link is None:
            if berth.settled is None:
                self._start(berth)
            assert berth.settled is not None
            settled = berth.settled
            with trio.move_on_after(LATE):
                await settled.wait()
            if not settled.is_set() and not self.links:
                await settled.wait()
            if not settled.is_set():
                berth.is_late = True
        return berth.link

    def _start(self, berth: _Berth) -> None:
        berth.settled = trio.Event()
        berth.error = None
        self._nursery.start_soon(self._live, berth, name=f"worker {berth.number}")

    async def _live(self, berth: _Berth) -> None:
        """Start a worker, and carry what it and the head have to tell until it is lost."""
        settled = berth.settled
        assert settled is not None
        berth.lives += 1
        name = f"{berth.number}" if berth.lives == 1 else f"{berth.number}.{berth.lives}"
        try:
            setup = sent(self._workers.dumps, attrs.evolve(self._setup, name=name), "what a worker is told")
            transport = await self._workers.start(setup)
        except Exception as error:
            berth.error = error
            berth.not_before = trio.current_time() + PAUSE
            berth.settled = None  # who comes next tries anew
            settled.set()
            tell(WORKERS, logging.WARNING, "worker %s cannot be started: %s", name, error, error=error)
            return
        link = self._linked(name, transport)
        berth.link = link
        berth.is_late = False
        for news in self._news.values():
            link.send(news)
        settled.set()
        tell(WORKERS, logging.INFO, "worker %s is up", name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await link.failing.wait()
            # Its agents have to wait for the end of its lease, but a new one can take its place now.
            berth.link = berth.settled = None

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
