"""Agents that read the events of their pool, and agents that wait for slow readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._core.errors import DeadlockError
from agentpool._core.events import AgentFinished, GuardWarned
from agentpool.testing import EventLog
from agentpool.testing._watch import copy_events

from ._programs import Op

if TYPE_CHECKING:
    from ._world import World


@attrs.define(eq=False)
class Reading:
    """A subscription to the events of a pool, as its reader sees it.

    Attributes:
      agent: who opened it, and mostly reads it; 0 for the program.
      events: the subscription itself.
      most, overflow: what it was opened with.
      start, end: which of the pool's events fell into it; `end` is None while it is open.
      got: the events that its reader was given.
      told_at: when the reader was told the end.
      is_vague: whether somebody else was told the end, so that nobody knows when that was.
    """

    agent: int
    events: Any
    most: int
    overflow: str
    start: int
    end: int | None = None
    got: list[Any] = attrs.field(factory=list)
    told_at: float | None = None
    is_vague: bool = False

    @property
    def is_open(self) -> bool:
        """Whether events still fall into it."""
        return self.end is None and not self.events.closed

    def holds_up(self, agent: int) -> bool:
        """Whether an agent has to wait for its reader before its next step."""
        is_full = self.overflow == "block" and self.events.statistics().buffered >= self.most
        reader = self.events.reader
        return self.is_open and is_full and (reader is None or reader.id != agent)


@attrs.define(eq=False)
class Gallery:
    """Who reads the events of a pool.

    Attributes:
      log: its events from the first reader on; None before.
      readings: every subscription that was opened.
      waiting: agents that wait for an event just now, with how many of their tasks.
      held_up: agents that may wait for a reader just now.
      is_lent_out: whether agents read what others have opened, or try to.
    """

    log: EventLog | None = None
    readings: list[Reading] = attrs.field(factory=list)
    waiting: dict[int, int] = attrs.field(factory=dict)
    held_up: set[int] = attrs.field(factory=set)
    is_lent_out: bool = False

    def may_go_on(self, agent: int, busy: Mapping[int, int]) -> str:
        """Why an agent that is said to be in a deadlock may go on; empty if it may not."""
        if agent not in self.held_up:
            return ""
        openers = [reading.agent for reading in self.readings if reading.holds_up(agent)]
        if not openers:
            return f"there is room for what {agent} does"
        # The program is outside of every deadlock.
        at_work = all(busy.get(opener) or not opener for opener in openers)
        return f"{openers}, for whom {agent} waits, may read on" if at_work else ""

    def log_of(self, pool: Any) -> EventLog:
        """Return the log, which shows every event in the step in which it happens."""
        if self.log is None:
            self.log = EventLog()
            copy_events(pool, self.log)
        return self.log


class Reads:
    """The half of an actor that reads events, and that waits for those who do.

    Attributes:
      world, scope, ctx, kept, is_outside: as of the actor.
    """

    world: World
    scope: Any
    ctx: Any
    kept: list[Any]
    is_outside: bool

    @property
    def id(self) -> int:
        """The id of the agent; 0 for the body of a pool."""
        raise NotImplementedError

    async def run(self, ops: Sequence[Op]) -> None:
        """Do some operations."""
        raise NotImplementedError

    async def do_read(
        self, overflow: str, most: int, how: str, first: Sequence[Op], between: Sequence[Op]
    ) -> None:
        """Open a subscription, do something else first, and read; do something after each event."""
        if how == "unentered":
            self.kept.append(self.world.pool.events(most, overflow))  # which must not stop anybody
            await self.run(first)
            return
        if self.ctx is None and not self.is_outside and how in ("leak", "end"):
            how = "some"  # nobody would ever close the one, and the other lasts as long as the pool
        log = self.world.gallery.log_of(self.world.pool)
        manager = self.world.pool.events(most, overflow)
        async with AsyncExitStack() as stack:
            if how == "leak":
                self.kept.append(manager)
                events = await manager.__aenter__()
            else:
                events = await stack.enter_async_context(manager)
            reading = Reading(self.id, events, most, overflow, len(log))
            self.world.gallery.readings.append(reading)
            if how != "leak":
                stack.callback(self._closes, reading, log)
            await self.run(first)
            await self._read(reading, how, between)
        await self._read_rest(reading, how)

    def _closes(self, reading: Reading, log: EventLog) -> None:
        # If it has ended already, who opened it was not told, and when it was is not known.
        if reading.is_open:
            reading.end = len(log)

    async def _read(self, reading: Reading, how: str, between: Sequence[Op]) -> None:
        # Who answers each event by one, to which others answer, would go on for ever.
        endless = 1000 if all(op[0] != "tell" for op in between) else 8
        most = {"idle": 0, "leak": 2, "some": 4, "impatient": 6}.get(how, endless)
        for _ in range(most):
            if how == "impatient":
                with trio.move_on_after(0.3):
                    await self._next(reading)
            elif not await self._next(reading):
                return
            await self.run(between)

    async def _next(self, reading: Reading) -> bool:
        """Wait for an event; False if there will be none."""
        waiting = self.world.gallery.waiting
        waiting[self.id] = waiting.get(self.id, 0) + 1
        try:
            event = await anext(reading.events)
        except StopAsyncIteration:
            self._told_the_end(reading)
            return False
        except trio.BusyResourceError:
            return False  # somebody else reads it just now
        finally:
            waiting[self.id] -= 1
        reading.got.append(event)
        return True

    async def _read_rest(self, reading: Reading, how: str) -> None:
        """What is left when the block is left can still be read."""
        if how == "some" and self.ctx is not None:
            while await self._next(reading):
                pass

    def _told_the_end(self, reading: Reading) -> None:
        """Inboxes end before events, and the youngest reader is told first."""
        world = self.world
        reading.is_vague |= reading.agent != self.id
        if reading.told_at is not None or reading.is_vague or reading.end is not None:
            return
        reading.told_at = trio.current_time()
        reading.end = len(world.gallery.log_of(world.pool))
        if self.ctx is None or world.several or world.wholesale or world.outsiders:
            return
        receiving = world.receiving - world.told - world.aborts.keys()
        busy = {agent for agent, count in world.busy.items() if count} - world.aborts.keys()
        younger = {agent for agent, count in world.gallery.waiting.items() if count and agent > self.id}
        if busy:
            world.problem(f"the events of agent {self.id} ended while {sorted(busy)} were at work")
        if receiving:
            world.problem(f"the events of agent {self.id} ended while {sorted(receiving)} were receiving")
        if younger - world.aborts.keys():
            world.problem(f"the events of agent {self.id} ended while {sorted(younger)} were reading")

    async def do_borrow(self, index: int, take: int, then: Sequence[Op]) -> None:
        """Read what somebody else has opened, so that agents wait for this one, and do something else."""
        others = [reading for reading in self.world.gallery.readings if reading.agent != self.id]
        if not others or self.ctx is None:
            await trio.lowlevel.checkpoint()
            return
        reading = others[index % len(others)]
        self.world.gallery.is_lent_out = True
        for _ in range(take):
            if not await self._next(reading):
                return
        await self.run(then)

    async def do_tell(self, count: int) -> None:
        """Make events as the loop of a model agent does, which waits for slow readers before each."""
        if self.ctx is None:
            await trio.lowlevel.checkpoint()
            return
        for number in range(count):
            with self._told_of_deadlocks():
                await self.ctx.wait_for_subscribers()
            # In this very step, in which nobody else can have made an event.
            for reading in self.world.gallery.readings:
                if reading.holds_up(self.id):
                    self.world.problem(
                        f"agent {self.id} went on although the reader {reading.agent} had not caught up"
                    )
            self.ctx.emit(GuardWarned, str(number))

    @contextmanager
    def _told_of_deadlocks(self) -> Iterator[None]:
        self.world.gallery.held_up.add(self.id)
        try:
            yield
        except DeadlockError as error:
            if error.path == (self.id,):
                self.world.problem(f"agent {self.id} was held up by what it reads itself")
            self.world.raised(error, agent=self.id, narrow=False)
            raise
        finally:
            self.world.gallery.held_up.discard(self.id)


def reading_problems(world: World) -> Iterator[str]:
    """What readers got that they should not have, or did not get."""
    for reading in world.gallery.readings:
        if not reading.events.closed:
            yield f"the subscription that agent {reading.agent} left open outlived it"
        elif reading.end is not None and not reading.is_vague:
            assert world.gallery.log is not None
            yield from _gaps(reading, world.gallery.log[reading.start : reading.end])


def _gaps(reading: Reading, fell_into_it: Sequence[Any]) -> Iterator[str]:
    seen = reading.events.statistics()
    got = [event.seq for event in reading.got]
    who = f"the reader {reading.agent} ({reading.overflow}, {reading.most})"
    wanted = {event.seq: event for event in fell_into_it}
    count = len(got) + seen.dropped + seen.buffered
    # What happened at the very moment of its end it may have missed.
    late = [event for event in fell_into_it if event.time == reading.told_at]
    if not len(wanted) - len(late) <= count <= len(wanted):
        has = f"got {len(got)} events, lost {seen.dropped} and has {seen.buffered} left"
        yield f"{who} {has}, of {len(wanted)}"
    if got != sorted(set(got)):
        yield f"{who} got events out of order: {got}"
    if any(wanted.get(event.seq) is not event for event in reading.got):
        yield f"{who} got events that are not of its time: {got}, of {list(wanted)}"
    if reading.overflow == "block":
        if seen.dropped or got != list(wanted)[: len(got)]:
            yield f"{who} missed events: it got {got}, of {list(wanted)}"
    elif not seen.buffered:
        yield from _ends_dropped(reading, fell_into_it, who)


def _ends_dropped(reading: Reading, fell_into_it: Sequence[Any], who: str) -> Iterator[str]:
    """Ends of agents are dropped last: not at all, if there was room for all of them."""
    ends = [event for event in fell_into_it if isinstance(event, AgentFinished)]
    got = {event.seq for event in reading.got}
    dropped = [event.seq for event in ends if event.seq not in got and event.time != reading.told_at]
    if dropped and len(ends) <= reading.most:
        yield f"{who} lost the ends {dropped}, although there was room for all {len(ends)}"
