"""A pool, watched for the page: its events folded into a picture, its figures sampled."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import attrs
import trio

from agentpool._core import events as ev
from agentpool._core.governor import GovernorStatistics
from agentpool._core.looks import seconds_to_next_look
from agentpool._core.messages import AgentId
from agentpool._core.picture import Picture
from agentpool._core.picture_pieces import pieces_since
from agentpool._core.plain_json import plain_json
from agentpool._kernel.events import EventSubscription
from agentpool._kernel.live_agents import abort_agent, told_so_far
from agentpool._kernel.pool import AgentPool
from agentpool._kernel.statistics import PoolStatistics
from agentpool.web._approving import PageApprover
from agentpool.web._transcripts import Transcripts

QUESTIONS_AT_ONCE = 50
"""Where more questions are open, changes of them are told with the next look."""
SLICE = 500
"""Of so many agents the picture is told at once that they wait."""
BATCHES_KEPT = 50
"""What is newer than so many versions is kept for other browsers that have one of these."""
EVENTS_KEPT = 50_000
"""So many events may wait for us, while the pool's thread is busy with others."""

Providers: TypeAlias = Callable[[], Sequence[tuple[str, GovernorStatistics]]]
"""Returns how the calls of each provider stand."""


class RunOverError(Exception):
    """The run has ended, so that nothing of it can be changed."""


@attrs.define(eq=False)
class Batch:
    """What is newer than a version, written down once for all browsers that have that one.

    Attributes:
      upto: the version to ask from next time.
      asked: which questions to persons were told.
    """

    upto: int
    asked: int
    _source: Iterator[bytes]
    _made: list[bytes] = attrs.field(factory=list)

    def piece(self, index: int) -> bytes | None:
        """Return a server-sent event; None behind the last one."""
        while index >= len(self._made):
            made = next(self._source, None)
            if made is None:
                return None
            self._made.append(made)
        return self._made[index]


@attrs.define(eq=False)
class Watching:
    """What the page shows of a pool.

    Attributes:
      title: what the run is called.
      approver: whose questions are answered on the page; None for none.
      providers: tells how the calls of each provider stand.
      drain: what a person's wish to drain does; None to drain the pool.
      leaves: whether that stops the agents at work, which can be resumed.
      id: of this run: browsers that have seen another begin anew.
      exit: how the run ended; None while it goes on.
      has_seen_end: whether the pool has ended, and all of it was seen.
    """

    title: str
    approver: PageApprover | None = None
    providers: Providers = tuple
    drain: Callable[[], object] | None = None
    leaves: bool = False
    id: str = attrs.field(factory=lambda: secrets.token_hex(6))
    picture: Picture = attrs.field(factory=lambda: Picture())
    transcripts: Transcripts = attrs.field(factory=Transcripts)
    exit: str | None = None
    has_seen_end: bool = False
    changed: trio.Event = attrs.field(factory=trio.Event)
    """Set when there is something to tell; then there is another."""
    _figures: Mapping[str, Any] = attrs.field(factory=dict)
    _batches: dict[tuple[int, int, int], Batch] = attrs.field(factory=dict)
    _pool: AgentPool | None = None
    _nursery: trio.Nursery | None = None
    _spent: float = 0.0
    _waiting: dict[AgentId, tuple[AgentId, ...]] = attrs.field(factory=dict)
    _lost: int = 0
    _told: object = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Tell questions at once while the block runs: whoever is asked does not wait for the next look."""
        if self.approver is None:
            yield
            return
        self.approver.listen(self._tell_of_questions)
        try:
            yield
        finally:
            self.approver.unlisten(self._tell_of_questions)

    # -- watching ----------------------------------------------------------------------------------

    def begin(self, pool: AgentPool, before: Callable[[Picture], object] | None = None) -> None:
        """Take in the agents that there are already, of which no event will tell.

        Args:
          pool: whose events are subscribed to at this very moment.
          before: takes into the picture what a run that is resumed had come to.
        """
        self._pool = pool
        if before is not None:
            before(self.picture)
        for event in told_so_far(pool):
            self.picture.take(event)

    async def watch(self, events: EventSubscription) -> None:
        """Watch the pool until it has ended; `end` is still to be called.

        Args:
          events: of the pool that it was begun with.

        Cancellation: nothing more is seen of the pool, unless it has ended: then all is taken in.
        """
        pool = self._pool
        assert pool is not None
        self._look(pool)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_looking, pool)
            try:
                while batch := await events.next_batch():
                    self._take(batch, events)
            finally:
                self._nursery = None
                if events.closed:
                    while rest := events.next_batch_nowait():
                        self._take(rest, events)
                    self._look(pool)
                    self.has_seen_end = True
            nursery.cancel_scope.cancel("the pool has ended")

    def end(self, exit: str) -> None:
        """Say how the run ended: nothing changes any more."""
        self.exit = exit
        self._pool = None
        self._tell()

    def _take(self, batch: Sequence[ev.Event], events: EventSubscription) -> None:
        for event in batch:
            self.picture.take(event)
            self.transcripts.take(event, self.picture.version)
        lost = events.statistics().dropped
        if lost > self._lost:
            self.picture.note(f"{lost - self._lost:,} events are missing here: there were too many at once")
            self._lost = lost

    async def _keep_looking(self, pool: AgentPool) -> None:
        while True:
            # Telling took its time too: all of it together is to be a small share.
            pause = seconds_to_next_look(self._spent)
            self._spent = 0.0
            await trio.sleep(pause)
            for _ in self._looking(pool):
                await trio.lowlevel.checkpoint()  # agents go on between two slices

    def _look(self, pool: AgentPool) -> None:
        for _ in self._looking(pool):
            pass

    def _looking(self, pool: AgentPool) -> Iterator[None]:
        """Sample the pool, in slices of the agents that have begun or ended to wait."""
        began = time.perf_counter()
        now = pool.statistics()
        stuck = [agent.id for agent in now.stuck]
        waiting = {agent.id: agent.waits_for for agent in now.waiting}
        known = self._waiting
        news = [each for each, targets in waiting.items() if known.get(each) != targets]
        news += [each for each in known if each not in waiting]
        for start in range(0, max(len(news), 1), SLICE):
            for each in news[start : start + SLICE]:
                if each in waiting:
                    known[each] = waiting[each]
                else:
                    del known[each]
            self.picture.sample(known, stuck, trio.current_time())
            self._spent += time.perf_counter() - began
            yield
            began = time.perf_counter()
        self._figures = figures_of(now, pool.draining, self.providers())
        self._tell()

    def _tell_of_questions(self) -> None:
        # All that are open are told with each change: of many that takes time, and a look keeps its share.
        assert self.approver is not None
        if self.approver.count <= QUESTIONS_AT_ONCE:
            self._tell()

    def _tell(self) -> None:
        """Wake those who wait for something new, if there is."""
        told = (self.picture.version, self._figures, self._asked_version(), self.exit)
        if told == self._told:
            return
        self._told = told
        self._batches.clear()
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    # -- telling -----------------------------------------------------------------------------------

    def version_in(self, text: str | None) -> int:
        """Return the version that a browser has, as it was given to it; 0 if it has none of this run."""
        run, _, version = (text or "").rpartition("-")
        is_ours = run == self.id and version.isascii() and version.isdecimal() and len(version) < 20
        return int(version) if is_ours else 0

    def since(self, version: int, asked: int) -> Batch:
        """Return what is newer than a version.

        Args:
          version: what a browser has; 0 for everything.
          asked: the `Batch.asked` of what it was told last; -1 if it was told nothing.
        """
        now = self._asked_version()
        batch = self._batches.get((version, asked, now))
        if batch is None:
            if len(self._batches) >= BATCHES_KEPT:
                self._batches.clear()
            source = self._written(version, with_questions=now != asked)
            batch = self._batches[version, asked, now] = Batch(self.picture.version, now, source)
        return batch

    def _written(self, version: int, *, with_questions: bool) -> Iterator[bytes]:
        last: dict[str, Any] = {"pool": self._figures}
        if with_questions:
            last["approvals"] = [] if self.approver is None else self.approver.asked()
        pieces = pieces_since(self.picture, version)
        following: Mapping[str, Any] | None = next(pieces)
        while following is not None:
            began = time.perf_counter()
            piece, following = following, next(pieces, None)
            id = f"id: {self.id}-{piece['version']}"
            data = plain_json(piece if following is not None else {**piece, **last})
            self._spent += time.perf_counter() - began
            yield f"event: changes\n{id}\ndata: {data}\n\n".encode()

    def _asked_version(self) -> int:
        return 0 if self.approver is None else self.approver.version

    # -- what a person wants done --------------------------------------------------------------------

    def abort(self, agent_id: AgentId, reason: str) -> None:
        """End an agent, and all below it.

        Raises:
          KeyError: if there never was one of that id.
          RunOverError: if it has ended.
        """
        if self._pool is not None and abort_agent(self._pool, agent_id, reason):
            return
        if agent_id in self.picture.rows:
            raise RunOverError("the agent has ended")
        raise KeyError(agent_id)

    def drain_pool(self) -> None:
        """Start no more agents.

        Raises:
          RunOverError: if the run has ended.
        """
        if self._pool is None or self._nursery is None:
            raise RunOverError("the run has ended")
        if self.drain is not None:
            self.drain()
        elif not self._pool.draining:
            self._nursery.start_soon(partial(self._pool.drain, grace=math.inf))


def figures_of(
    now: PoolStatistics, draining: bool, providers: Sequence[tuple[str, GovernorStatistics]]
) -> Mapping[str, Any]:
    """Return the figures of a pool as JSON data; null where there is no limit."""
    budget = now.budget
    return {
        "slots": now.max_concurrent,
        "running": now.running,
        "lent": now.lent,
        "queued": now.queued,
        "backing_off": now.backing_off,
        "to_start": now.waiting_to_start,
        "waiting": len(now.waiting),
        "in_inboxes": sum(inbox.fill for inbox in now.inboxes.values()),
        "dead_letters": now.dead_letters,
        "messages": now.messages_sent,
        "draining": draining,
        "budget": None
        if budget is None
        else {
            name: {"tokens": amounts.tokens, "cost": amounts.cost_usd, "calls": amounts.calls}
            for name, amounts in (
                ("limit", budget.limit),
                ("spent", budget.spent),
                ("remaining", budget.remaining),
            )
        },
        "providers": [
            {
                "name": name,
                "in_flight": each.in_flight,
                "waiting": each.waiting,
                "refused": each.refused,
                "pause": round(each.pause, 1),
                "circuit": each.circuit,
            }
            for name, each in providers
        ],
    }
