"""The worker's end of what belongs to one agent: what its code has asked for, and waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

import trio

from agentpool._core.errors import WorkerUnavailableError
from agentpool._core.placing import (
    Answered,
    Called,
    CallId,
    ChildEnded,
    Piece,
    Refused,
    Rested,
    Told,
    Up,
    Wanted,
    Withdraw,
    Withdrawn,
)
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.places import kept_values
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import SlowlyUndoneWait, Wait
from agentpool._remote.codec import (
    Dumps,
    SentError,
    outcome_from_bytes,
    received,
    received_error,
    sent,
)

if TYPE_CHECKING:
    from agentpool._core.messages import AgentId
    from agentpool._core.outcomes import AnyOutcome
    from agentpool._kernel.places import Op
    from agentpool._remote.facts import AgentFacts
    from agentpool._remote.handle import PlacedHandle
    from agentpool._remote.worker_journal import WorkerJournal

HEAD = "the head of the pool"


class Station(Protocol):
    """What the lines of a worker share."""

    dumps: Dumps

    def post(self, record: Up) -> None:
        """Tell the head something; does not wait."""

    def flush_events(self) -> None:
        """Tell the head of the events that there are."""

    async def room(self) -> None:
        """Wait until little enough waits to be pulled; not a checkpoint if it does."""


class WorkerLine:
    """The way of one agent's code to its proxy.

    Attributes:
      agent_id, facts: whose it is.
      answered: how many of its calls were answered, and items wanted of it.
      handles: those of its children that its code still has.
      journal: numbers the operations of its code; None in a pool without a journal.
    """

    def __init__(self, station: Station, agent_id: AgentId, facts: AgentFacts) -> None:
        self.agent_id = agent_id
        self.facts = facts
        self.answered = 0
        self.handles: WeakValueDictionary[AgentId, PlacedHandle[Any]] = WeakValueDictionary()
        self.journal: WorkerJournal | None = None
        self._station = station
        self._number = 0
        self._waits: dict[CallId, SlowlyUndoneWait] = {}
        self._pieces: dict[CallId, _Pieces] = {}
        self._feeders: dict[int, Callable[[], object]] = {}
        self._feeds = 0
        self._told: object = None  # of the agent's rest, so that it is told once
        self._is_closed = False
        self._is_broken = False

    # -- asking --------------------------------------------------------------------------------------

    async def ask(self, verb: str, *args: Any) -> Any:
        """Have the proxy do something, and wait for its value, as the agent; `Line.ask` tells more."""
        return await self.ask_or(None, verb, *args)

    def draw(self) -> Op | None:
        """Number the operation that the calling task begins; None without a journal."""
        return None if self.journal is None else self.journal.draw()

    async def operate(self, verb: str, *args: Any) -> Any:
        """As `ask`, for an operation of the agent's code."""
        return await self.ask_or(None, verb, *args, op=self.draw())

    async def start_agents(self, op: Op | None, verb: str, *args: Any) -> Any:
        """As `ask`, for an operation that starts agents: they inherit what is kept of the context here."""
        return await self.ask_or(None, verb, *args, op=op, inherits=True)

    async def ask_or(
        self,
        withdrawn: Callable[[], object] | None,
        verb: str,
        *args: Any,
        op: Op | None = None,
        inherits: bool = False,
    ) -> Any:
        """As `ask`, for somebody who wants to be told when it is withdrawn.

        Args:
          withdrawn: called in the step in which the caller is cancelled; what it tells comes before.
          op: which operation of the agent's code it is.
          inherits: whether what is kept of the context here is sent along.
        """
        try:
            data = sent(self._station.dumps, args, f"what is given to {verb}")
        except TypeError as error:
            if op is None:
                raise
            # It is what this operation comes to, also when the agent is resumed where nothing is sent.
            verb, data = "raise_type_error", sent(self._station.dumps, (str(error),), "an error")
        values = kept_values(None) if inherits else {}
        kept = sent(self._station.dumps, values, "what is kept of a context") if values else None
        waiter = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._station.room()
        number = self._next()
        wait = self._waits[number] = SlowlyUndoneWait(waiter, partial(self._withdraw, number, withdrawn))
        place = None if op is None else op.place
        try:
            self._post(Called(self.agent_id, number, verb, data, place, kept))
            answer = await wait.park(_undone_slowly)
        finally:
            self._waits.pop(number, None)
        return received(answer, f"what {verb} came to")

    def pieces(self, verb: str, *args: Any) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Have the proxy do something whose answer comes in pieces; `Line.pieces` tells more."""
        return _OpenPieces(self, verb, args)

    def tell(self, verb: str, *args: Any, op: Op | None = None) -> None:
        """Have the proxy do something, and do not wait for it.

        Args:
          op: which operation of the agent's code it is.
        """
        if not self._is_closed:
            data = sent(self._station.dumps, args, f"what is given to {verb}")
            self._post(Told(self.agent_id, verb, data, None if op is None else op.place))

    def _post(self, record: Up) -> None:
        self._station.flush_events()  # what it did before comes before
        self._station.post(record)

    def _next(self) -> CallId:
        if self._is_closed:
            raise RuntimeError(f"agent {self.agent_id} has ended, and its context with it")
        if self._is_broken:
            raise WorkerUnavailableError("the worker ends, and its head does nothing more for it")
        self._number += 1
        return self._number

    def rested(self) -> None:
        """Every task of the agent waits in a call: tell the head, unless it knows."""
        loose = []
        for number, wait in self._waits.items():
            if wait.waiter is not None:
                ends_at, has_pool = wait.ends_at, wait.has_own_pool
                if ends_at < inf or has_pool:
                    loose.append((number, ends_at, has_pool))
        told = self.answered, tuple(self._waits), tuple(loose)
        if told != self._told:
            self._told = told
            now = trio.current_time()  # there is no clock in common
            left = tuple([(number, ends_at - now, has_pool) for number, ends_at, has_pool in loose])
            self._station.post(Rested(self.agent_id, self.answered, left))

    def open_feed(self, wanted: Callable[[], object]) -> int:
        """Number an input that is read for the head.

        Args:
          wanted: called when the next item is wanted; `tell("item", number, ...)` gives it.
        """
        self._feeds += 1
        self._feeders[self._feeds] = wanted
        return self._feeds

    def close_feed(self, number: int) -> None:
        """Nothing is read any more."""
        del self._feeders[number]

    def _withdraw(self, number: CallId, withdrawn: Callable[[], object] | None = None) -> None:
        if withdrawn is not None:
            withdrawn()
        if self._is_broken:
            self._answer(Withdrawn(self.agent_id, number))
        else:
            self._post(Withdraw(self.agent_id, number))

    # -- what comes ----------------------------------------------------------------------------------

    def take(self, record: Answered | Refused | Withdrawn | Piece | Wanted | ChildEnded) -> None:
        """The head has told something of the agent."""
        match record:
            case ChildEnded():
                self.child_ended(outcome_from_bytes(record.outcome, HEAD))
            case Wanted():
                self.answered += 1
                feeder = self._feeders.get(record.feed)
                if feeder is not None:
                    feeder()
            case Piece():
                pieces = self._pieces.get(record.call)
                if pieces is not None:
                    pieces.came(record.value)
            case _:
                self._answer(record)

    def child_ended(self, outcome: AnyOutcome) -> None:
        """The outcome of a child is known."""
        handle = self.handles.get(outcome.agent_id)
        if handle is not None:
            handle.ended(outcome)

    def _answer(self, record: Answered | Refused | Withdrawn) -> None:
        self.answered += 1
        pieces = self._pieces.pop(record.call, None)
        if pieces is not None:
            pieces.ended(record)
            return
        wait = self._waits.pop(record.call, None)
        if wait is None:
            return
        match record:
            case Answered():
                wait.wake(record.value)
            case Refused():
                wait.fail(_error_of(record))
            case Withdrawn():
                wait.was_undone()

    def break_off(self) -> None:
        """The worker ends: the head answers nothing more, so whoever withdraws a call goes on at once."""
        self._is_broken = True
        for number, wait in list(self._waits.items()):
            if wait.asked_to_cancel:
                self._answer(Withdrawn(self.agent_id, number))
        for number in list(self._pieces):
            self._answer(Withdrawn(self.agent_id, number))

    def close(self) -> None:
        """The agent has ended: nothing more is told or asked."""
        self._is_closed = True


def _undone_slowly(_: Wait) -> None:
    """Never called: the wait undoes itself."""


def _error_of(record: Refused) -> BaseException:
    given: SentError = received(record.error, "an error")
    return received_error(given, HEAD)


class _Pieces(AsyncIterator[Any]):
    """The pieces of an answer, as they come."""

    def __init__(self) -> None:
        self._came: deque[bytes] = deque()
        self._end: Answered | Refused | Withdrawn | None = None
        self._changed = trio.Event()

    def came(self, piece: bytes) -> None:
        """A piece has come."""
        self._came.append(piece)
        self._wake()

    def ended(self, record: Answered | Refused | Withdrawn) -> None:
        """None will come any more."""
        self._end = record
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def __anext__(self) -> Any:
        # No wait of the agent's, as that for a model is none: its call at the head counts as running.
        await trio.lowlevel.checkpoint()
        while not self._came and self._end is None:
            await self._changed.wait()
        if self._came:
            return received(self._came.popleft(), "a piece of an answer")
        if isinstance(self._end, Refused):
            raise _error_of(self._end)
        raise StopAsyncIteration

    async def are_over(self) -> None:
        """Wait until none will come any more."""
        while self._end is None:
            await self._changed.wait()


class _OpenPieces(AbstractAsyncContextManager[AsyncIterator[Any]]):
    """The block in which the pieces of an answer are read."""

    def __init__(self, line: WorkerLine, verb: str, args: tuple[Any, ...]) -> None:
        self._line = line
        self._verb = verb
        self._args = args
        self._number = 0
        self._pieces = _Pieces()

    async def __aenter__(self) -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        line = self._line
        data = sent(line._station.dumps, self._args, f"what is given to {self._verb}")
        await line._station.room()
        self._number = line._next()
        line._pieces[self._number] = self._pieces
        line._post(Called(line.agent_id, self._number, self._verb, data))
        return self._pieces

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._number in self._line._pieces:
            self._line._withdraw(self._number)
            with trio.CancelScope(shield=True):
                await self._pieces.are_over()


protect_module(globals())
