"""Where in an agent its code stands: the keys by which a journal knows operations.

An agent that is resumed is run from the start of its life. Each operation of its code has a key, by
which its journal knows it: where in the agent it stands, and how many there were before it. What is in
the journal has happened and is not done again; it comes to what it came to.

    body of the agent                 0, 1, 2, ...
    task of an AgentNursery           3/0, 3/1, ...      (3: the key of its start)
    tool call of a loop               2t0/0, 2t0/1, ...  (2: the key of the loop, 0: the call's number)
    item of a batch                   4.0, 4.1, ...      (4: the key of map, race, ...)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._core.errors import ReplayMismatchError
from agentpool._core.messages import AgentId
from agentpool._kernel.activity import Activity
from agentpool._kernel.current import current_agent
from agentpool._kernel.protection import protect_module

if TYPE_CHECKING:
    from agentpool._core.past import Operation, PastAgent, PastLoop


class Turns:
    """Has the tasks of an agent come to what they had done in the order in which they did it.

    Its tasks share what the agent knows: were they to come to it in another order, one would find
    something else there, and do something else. A task whose turn it is not waits for those before it,
    unless their tasks are not there.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        """Begin.

        Args:
          keys: the operations of the agent's own code, in their order.
        """
        self._pending = dict.fromkeys(keys)
        self._paths = {""}
        self._waiting = trio.lowlevel.ParkingLot()

    def opened(self, path: str) -> None:
        """A task of the agent stands there from now on."""
        self._paths.add(path)

    def closed(self, path: str) -> None:
        """The task that stood there has ended."""
        self._paths.discard(path)
        self._waiting.unpark_all()

    def taken(self, key: str) -> None:
        """An operation is there again."""
        if key in self._pending:
            del self._pending[key]
            self._waiting.unpark_all()

    async def are_over(self, key: str) -> None:
        """Wait until all that the other tasks had done is there again, before something new is done.

        Checkpoint: unless nothing is left. Cancellation: leaves nothing behind.
        """
        while self._pending and self._is_early(key):
            await self._waiting.park()

    @asynccontextmanager
    async def take(self, key: str) -> AsyncIterator[None]:
        """Wait until those before an operation are there again; the block comes to it.

        Those after it wait for the end of the block, and whoever comes to it goes on in the step in which
        the block ends.

        Checkpoint: always. Cancellation: nobody waits for it.
        """
        try:
            await trio.lowlevel.checkpoint()
            while self._is_early(key):
                await self._waiting.park()
            yield
        finally:
            self.taken(key)

    def _is_early(self, key: str) -> bool:
        own = _split(key)[0]
        for other in self._pending:
            if other == key:
                break
            path = _split(other)[0]
            if path != own and path in self._paths:
                return True
        return False


@attrs.frozen
class PastLife:
    """What one life of an agent had done when the journal ended.

    Attributes:
      operations: those that have their results, by key.
      loops: the runs of the loop, by key.
      last: the number of the last operation that is known, by the place where it stands.
      turns: has its tasks come to them in their order.
    """

    operations: Mapping[str, Operation]
    loops: Mapping[str, PastLoop]
    last: Mapping[str, int]
    turns: Turns

    @classmethod
    def of(cls, past: PastAgent) -> PastLife:
        """Return what the present life of an agent had done."""
        last: dict[str, int] = {}
        for key in (*past.operations, *past.loops):
            place, number = _split(key)
            last[place] = max(number, last.get(place, -1))
        # Copies: when the agent ends, its past lets go of what is not needed any more.
        operations = dict(past.operations)
        return cls(operations, dict(past.loops), last, Turns(_in_own_code(operations)))


def _split(key: str) -> tuple[str, int]:
    place = key[: key.rfind("/") + 1]
    return place, int(key[len(place) :].partition(".")[0].partition("t")[0])


def _in_own_code(operations: Mapping[str, Operation]) -> Iterator[str]:
    """Yield the keys of what an agent's body and its tasks did; not of items, nor within calls and steps."""
    for key in operations:
        parts = key.split("/")
        if all(map(str.isdecimal, parts)):
            above = ("/".join(parts[:end]) for end in range(1, len(parts)))
            if not any(outer in operations for outer in above):
                yield key


NO_PAST = PastLife({}, {}, {}, Turns(()))


@attrs.define(eq=False)
class Place:
    """Where in an agent the code of a task stands, and how many operations it has done there.

    Attributes:
      journal: the one that tells of the agent; the verbs of a pool with another one have no keys here.
      last: the last operation; None before the first.
    """

    journal: object
    record: Activity
    life: int
    past: PastLife
    path: str = ""
    count: int = 0
    last: Op | None = None

    def inside(self, key: str) -> Place:
        """Return the place of what an operation starts."""
        return Place(self.journal, self.record, self.life, self.past, f"{key}/")


_place: ContextVar[Place | None] = ContextVar("agentpool_place", default=None)


def set_place(place: Place | None) -> None:
    """Say where the code of the calling task stands."""
    _place.set(place)


@contextmanager
def standing_at(place: Place | None) -> Iterator[None]:
    """Have the calling task stand elsewhere in the block; tasks that it starts nowhere are not counted."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def place_of_task(record: Activity) -> Place | None:
    """Return the place of a task that the calling one starts; None without a journal, or for a stranger's."""
    place = _place.get()
    if place is None or place.record is not record:
        return None
    number = place.count
    place.count += 1
    inner = place.inside(f"{place.path}{number}")
    if inner.past is not NO_PAST:
        inner.past.turns.opened(inner.path)
    return inner


def task_ended(place: Place | None) -> None:
    """The task that stood at a place has ended."""
    if place is not None and place.past is not NO_PAST:
        place.past.turns.closed(place.path)


@attrs.frozen
class Op:
    """One operation of an agent's code.

    Attributes:
      past: what the journal tells of the life of its agent.
      found: what the journal tells of it; None if it tells nothing.
      was_left: whether the journal tells of later ones of the same code, so that this one was
        cancelled before it had a result.
    """

    record: Activity
    life: int
    key: str
    past: PastLife
    found: Operation | None = None
    was_left: bool = False

    def item(self, number: int | str) -> Op:
        """Return the operation for one item of a batch."""
        key = f"{self.key}.{number}"
        return Op(self.record, self.life, key, self.past, self.past.operations.get(key))

    @property
    def place(self) -> tuple[str, int]:
        """The path of the place where it stands, and its number there."""
        return _split(self.key)

    @property
    def data(self) -> dict[str, Any]:
        """As records name it."""
        return {"life": self.life, "key": self.key}

    def mismatch(self, problem: str) -> ReplayMismatchError:
        """Return the error of an agent that does something else than its journal says."""
        return ReplayMismatchError(self.record.id, self.record.name, f"operation {self.key}", problem)


def give_back(op: Op | None) -> None:
    """The operation that the calling task has begun is none: the next one has its number."""
    if op is not None:
        place = _place.get()
        assert place is not None  # where the operation got its number
        place.count -= 1


def next_op(journal: object) -> Op | None:
    """Number the operation that the calling task begins; None if no agent of that journal runs it."""
    place = _place.get()
    if place is None or place.journal is not journal or current_agent() is not place.record:
        return None
    number = place.count
    place.count += 1
    key = f"{place.path}{number}"
    found = place.past.operations.get(key)
    was_left = found is None and place.past.last.get(place.path, -1) > number
    place.last = Op(place.record, place.life, key, place.past, found, was_left)
    return place.last


def place_here() -> Place | None:
    """Return where the calling task stands; None without a journal."""
    return _place.get()


_kept: dict[str, ContextVar[Any]] = {}


def keep_in_journal(name: str, variable: ContextVar[Any]) -> None:
    """Have what a variable is set to outlive a crash, for agents that nobody spawns again.

    Args:
      name: of the variable in journals.
      variable: holds what can be kept; what is false is not.
    """
    _kept[name] = variable


def kept_values(context: Context | None) -> dict[str, Any]:
    """Return what the variables that are kept are set to, in a context or here."""
    get: Callable[[ContextVar[Any]], Any] = (lambda each: each.get(None)) if context is None else context.get
    values = {name: get(each) for name, each in _kept.items()}
    return {name: each for name, each in values.items() if each}


def set_kept(values: Mapping[str, Any]) -> None:
    """Set variables that are kept, in the calling task, as they are where its work comes from."""
    for name, each in values.items():
        _kept[name].set(each)


def context_with(values: Mapping[str, Any]) -> Context:
    """Return a context like the one here, with these values of the variables that are kept."""
    context = copy_context()
    for name, each in values.items():
        context.run(_kept[name].set, each)
    return context


_call: ContextVar[list[Any]] = ContextVar("agentpool_call")
"""Whose tool call the calling task makes, and behind that its key, once somebody has asked for it."""


def begin_call(agent_id: AgentId, *key: str) -> None:
    """Say that the calling task makes a tool call of an agent.

    Args:
      key: names the call; left out, one is made when it is asked for.
    """
    _call.set([agent_id, *key])


def key_of_call(agent_id: AgentId) -> str | None:
    """Return what names the tool call that the calling task makes for an agent; None if it makes none."""
    call = _call.get([])
    if not call or call[0] != agent_id:
        return None
    if len(call) == 1:
        from uuid import uuid4

        call.append(uuid4().hex)
    key: str = call[1]
    return key


def life_of(past: PastAgent | None, life: int) -> PastLife:
    """Return what a life of an agent had done."""
    if past is None or past.life != life:
        return NO_PAST
    return PastLife.of(past)


protect_module(globals())
