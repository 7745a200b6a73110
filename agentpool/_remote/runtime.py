"""What runs in a worker: a pool that hosts agents of the head's, and the worker's end of the way."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from agentpool._core import events as events_of
from agentpool._core.errors import RemoteError
from agentpool._core.events import Event, ModelCallFinished
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.placing import (
    Abort,
    Answered,
    ChildEnded,
    Down,
    Ended,
    Happened,
    Heard,
    Piece,
    Refused,
    Start,
    Up,
    Wanted,
    Watched,
    Withdrawn,
    WorkOver,
)
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.granting import are_in_use, granted_below
from agentpool._kernel.hosting import open_host, start_hosted
from agentpool._kernel.log import Tap
from agentpool._kernel.places import set_kept
from agentpool._kernel.pool import AgentPool
from agentpool._kernel.protection import protect_module
from agentpool._kernel.state import Means, PoolState
from agentpool._remote.codec import (
    Dumps,
    SentEvent,
    WasCancelled,
    received,
    record_from_bytes,
    record_to_bytes,
    sent,
    sent_error,
)
from agentpool._remote.context import PlacedContext
from agentpool._remote.crew import loads_setup
from agentpool._remote.facts import AgentFacts, WorkerSetup
from agentpool._remote.models import open_worker_driver
from agentpool._remote.worker_journal import WorkerJournal
from agentpool._remote.worker_line import WorkerLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpool._remote.codec import RemoteResult

# What the head tells by itself, of its own agents.
_OF_THE_HEAD = (
    events_of.AgentSpawned,
    events_of.AgentStarted,
    events_of.AgentFinished,
)


MOST_EVENTS = 8192
"""Agents wait before their next step when so many events wait to be told."""


class End(Protocol):
    """The worker's end of the way, as far as its program needs it; `WorkerEnd` is one.

    Attributes:
      on_records: called, in any thread, when there is something to take, or the end was closed.
      on_room: called, in any thread, when there is room, or the end was closed.
    """

    on_records: Callable[[], object] | None
    on_room: Callable[[], object] | None

    @property
    def closed(self) -> str | None:
        """Why it was closed; None as long as it is open."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether so little waits to be pulled that more may be put."""
        ...

    def put(self, record: bytes) -> None:
        """Have a record pulled."""

    def take(self) -> Sequence[bytes]:
        """Return what has come since."""
        ...


async def run_worker(end: End, setup: bytes, dumps: Dumps = pickle.dumps) -> None:
    """Run the agents that the head sends, until the end is closed; then they are aborted.

    Args:
      end: where records come from and go to.
      setup: a pickled `WorkerSetup`.
      dumps: pickles what users made.
    """
    told = loads_setup(setup)
    async with AsyncExitStack() as stack:
        driver = await stack.enter_async_context(open_worker_driver(told.driver))
        runtime = Runtime(end, told, dumps, driver)
        await runtime.run()


class Signal:
    """Tells those that wait of something that may happen again and again."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Tell those that wait now."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        """Wait until it is told the next time."""
        await self._event.wait()


class _Report:
    """Tells the head how an agent ended."""

    def __init__(self, runtime: Runtime, agent_id: AgentId) -> None:
        self._runtime = runtime
        self._agent_id = agent_id

    def ended(self, outcome: AnyOutcome) -> None:
        """The agent has its outcome."""
        self._runtime.ended(self._agent_id, outcome)


class Runtime:
    """The agents of a worker."""

    def __init__(self, end: End, setup: WorkerSetup, dumps: Dumps, driver: Any) -> None:
        self.dumps = dumps
        self.driver = driver
        self.name = setup.name
        self.is_closing = False
        self.is_draining = False
        self.holds_up = False
        self._setup = setup
        self._end = end
        self._lines: dict[AgentId, WorkerLine] = {}
        self._records: dict[AgentId, AgentRecord] = {}
        self._came = trio.Event()
        self._unheard = 0
        self._heard = trio.Event()
        self._events: list[SentEvent] = []
        self._have_events = trio.Event()
        self._has_room = Signal()
        self._tap: Tap | None = None
        self._pool: AgentPool | None = None

    async def run(self) -> None:
        """Run what the head sends until the end is closed."""
        token = trio.lowlevel.current_trio_token()
        self._end.on_records = partial(_wake, token, self._wake)
        self._end.on_room = partial(_wake, token, self._has_room.set)
        setup = self._setup
        means = Means(None, None, setup.tool_builder, hooks=setup.hooks)
        host = open_host(means, self._context, self._rested, seed=setup.seed)
        try:
            async with host as self._pool:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._tell_events)
                        await self._serve()
                        nursery.cancel_scope.cancel("the worker ends")
                finally:
                    for line in self._lines.values():
                        line.break_off()
                self._pool.abort_all(self._end.closed)
        finally:
            self._end.on_records = self._end.on_room = None

    async def _serve(self) -> None:
        while self._end.closed is None:
            self._came = trio.Event()
            for data in self._end.take():
                self._take(record_from_bytes(data))
            if self._end.closed is None:
                await self._came.wait()

    def _wake(self) -> None:
        self._came.set()

    def post(self, record: Up) -> None:
        """Tell the head something; does not wait."""
        self._end.put(record_to_bytes(record))

    async def room(self) -> None:
        """Wait until little enough waits to be pulled that agents may go on; not a checkpoint if it does.

        Cancellation: leaves nothing behind.
        """
        while self._end.closed is None and not (self._end.has_room and len(self._events) < MOST_EVENTS):
            await self._has_room.wait()

    # -- what the head tells -------------------------------------------------------------------------

    def _take(self, record: Down) -> None:
        match record:
            case Start():
                self._start(record)
            case Abort():
                found = self._records.get(record.agent)
                if found is not None:
                    found.abort(record.reason)
            case Watched():
                self._watch(record.on, record.blocks)
            case WorkOver():
                self.is_closing, self.is_draining = True, record.draining
            case Heard():
                self._unheard -= record.batches
                self._heard.set()
                self._has_room.set()
            case Answered() | Refused() | Withdrawn() | Piece() | Wanted() | ChildEnded():
                line = self._lines.get(record.agent)
                if line is not None:
                    line.take(record)

    def _start(self, start: Start) -> None:
        what = f"agent {start.agent}, or what it is given,"
        try:
            facts: AgentFacts = received(start.facts, what)
            agent, args = received(start.work, what)
            granted = granted_below(facts.models.limit, agent)
            line = WorkerLine(self, start.agent, facts)
        except Exception as error:  # also what a user's agent raises that is asked what it wants
            self.post(Ended(start.agent, sent(pickle.dumps, sent_error(self.dumps, error), "an error")))
            return
        self._lines[start.agent] = line
        if facts.is_watched:
            self._watch(True, facts.is_held_up)
        assert self._pool is not None
        record = start_hosted(
            self._pool, start.agent, facts.name, (agent, args), granted, _Report(self, start.agent)
        )
        record.root_id = facts.root_id
        self._records[start.agent] = record

    def _context(self, state: PoolState, record: AgentRecord) -> PlacedContext:
        # Called by the task of its body, whose place and variables are set here.
        line = self._lines[record.id]
        if line.facts.kept:
            set_kept(line.facts.kept)
            are_in_use()
        if line.facts.journal is not None:
            line.journal = WorkerJournal(line, record, line.facts.journal)
            line.journal.begin_life(line.facts.life)
        return PlacedContext(state, record, line, self)

    # -- what agents tell -----------------------------------------------------------------------------

    def _rested(self, agent_id: AgentId) -> None:
        line = self._lines.get(agent_id)
        if line is not None:
            line.rested()

    def ended(self, agent_id: AgentId, outcome: AnyOutcome) -> None:
        """An agent has its outcome."""
        line = self._lines.pop(agent_id)
        self._records.pop(agent_id, None)
        line.close()
        self.flush_events()  # what it did comes before its end
        self.post(Ended(agent_id, sent(pickle.dumps, self._result(outcome), "how an agent ended")))

    def _result(self, outcome: AnyOutcome) -> RemoteResult:
        match outcome:
            case Completed():
                what = f"what agent {outcome.agent_id} ({outcome.name}) returned"
                try:
                    return sent(self.dumps, outcome.value, what)
                except TypeError as error:
                    return sent_error(self.dumps, RemoteError(type(outcome.value).__qualname__, str(error)))
            case Failed():
                return sent_error(self.dumps, outcome.error)
            case Aborted():
                return WasCancelled()

    # -- events ----------------------------------------------------------------------------------------

    def _watch(self, on: bool, blocks: bool) -> None:
        assert self._pool is not None
        log = self._pool._state.events
        self.holds_up = on and blocks
        if on and self._tap is None:
            self._tap = log.tap(self._show)
        elif not on and self._tap is not None:
            log.untap(self._tap)
            self._tap = None

    def _show(self, event: Event) -> None:
        """Note an event; it is told with those of the same moment, and before anything that comes later."""
        kind = type(event)
        if kind in _OF_THE_HEAD:
            return
        own = tuple([getattr(event, name) for name in own_fields(kind)])
        if kind is ModelCallFinished:  # the one that has errors in it
            own = tuple(map(self._sent, own))
        self._events.append((event.agent_id, event.seq, kind, own))
        self._have_events.set()

    def _sent(self, value: object) -> object:
        # An error by itself, because that of a stranger's class may not come out as what it is.
        return sent_error(self.dumps, value) if isinstance(value, BaseException) else value

    async def _tell_events(self) -> None:
        while True:
            await self._have_events.wait()
            self._have_events = trio.Event()
            while self._events and self._unheard < 2:
                self.flush_events()
            if self._events:
                await self._heard.wait()
                self._have_events.set()

    def flush_events(self) -> None:
        """Tell the head of the events that there are."""
        events, self._events = self._events, []
        if events:
            self._unheard += 1
            self._heard = trio.Event()
            self.post(Happened(_events_to_bytes(self.dumps, events)))


def _events_to_bytes(dumps: Dumps, events: Sequence[SentEvent]) -> bytes:
    try:
        return sent(dumps, events, "events")
    except TypeError:
        pass
    # One of them cannot be sent, such as a tool's result that holds a lock: the others can.
    fine = []
    for event in events:
        with suppress(TypeError):
            sent(dumps, event, "an event")
            fine.append(event)
    return sent(dumps, fine, "events")


_OWN: dict[type, tuple[str, ...]] = {}


def own_fields(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of an event behind those that all events have."""
    found = _OWN.get(kind)
    if found is None:
        found = _OWN[kind] = tuple(field.name for field in kind.__attrs_attrs__[4:])  # type: ignore[attr-defined]
    return found


def _wake(token: trio.lowlevel.TrioToken, wake: Callable[[], object]) -> None:
    try:
        token.run_sync_soon(wake, idempotent=True)
    except trio.RunFinishedError:
        pass  # nobody is left who would take it


protect_module(globals())
