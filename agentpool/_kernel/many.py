"""The verbs that run many agents and look at their outcomes together: map, as_completed, race, vote."""

from __future__ import annotations

import contextvars
import operator
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, TypeVarTuple

import attrs
import trio

from agentpool._core.errors import AgentAbortedError
from agentpool._core.outcomes import Aborted, AgentOutcome, AgentResult, AnyOutcome, Completed, Failed
from agentpool._core.text import note, shown
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.batch import Batch, Launcher
from agentpool._kernel.children import Children
from agentpool._kernel.current import current_agent, waiting_agent
from agentpool._kernel.feeding import CollectionFeed, Feeder, InputFeed, check_items, is_collection
from agentpool._kernel.options import SpawnOptions, check_agent, check_agents, options_of
from agentpool._kernel.protection import call_unprotected, protect_module
from agentpool._kernel.splitting import in_full
from agentpool._kernel.state import PoolState

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741
Ts = TypeVarTuple("Ts")


@attrs.frozen
class Verdict(Generic[T]):
    """What a vote came to.

    Attributes:
      winner: the first value of the choice that reached the quorum; None if none did. Values may be
        None too: `agreed` tells.
      votes: how many agents voted for each choice, the choice being `key(value)`; without a key the
        value itself, or the `output` of an `AgentResult`; where outputs have no hash, the text of the
        first of those that are equal.
      outcomes: of the agents, in the order of their ends.
      agreed: whether a choice reached the quorum.
    """

    winner: T | None
    votes: dict[Any, int]
    outcomes: tuple[AgentOutcome[T], ...]
    agreed: bool


class ManyScope:
    """The half of a scope that runs many agents in one call."""

    __slots__ = ("_record", "_state")

    def __init__(self, state: PoolState, record: AgentRecord | None) -> None:
        self._state = state
        self._record = record

    @property
    def _children(self) -> Children[AgentRecord]:
        record = self._record
        return self._state.root if record is None else record.children

    async def map(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> list[AgentOutcome[T]]:
        """Run an agent for each item, and return the outcomes in the order of the items.

        Items are taken from the input as slots become free.

        Raises:
          PoolClosedError, PoolLimitError: as `spawn`; the agents that run are aborted first.
          DeadlockError: as `join_next`.
          BaseException: what the input raised; the agents that run are aborted first.

        Checkpoint: always. Cancellation: aborts the agents that run, and waits for their end.
        """
        check_agent(agent)
        check_items(items)
        launcher = self._launcher(lambda item: (agent, (item,)), options_of(name, timeout))
        batch = Batch(launcher, "the map that started it was left")
        async with BatchBlock(batch, items):
            await batch.all_ended()
        batch.look_at_all()
        return sorted(batch.done, key=lambda outcome: outcome.agent_id)

    def as_completed(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[AgentOutcome[T]]]:
        """Run an agent for each item, and iterate over the outcomes as the agents end.

        The input may be endless: items are taken from it as slots become free, and only while the
        agents that run or wait and the outcomes that were not taken yet are together less than twice
        `max_concurrent`. Agents that lend their slots count, so an agent should not wait for an item
        that comes later than that; `map` has no such limit.

        Raises (while iterating):
          PoolClosedError, PoolLimitError: as `spawn`.
          DeadlockError: as `join_next`.
          BaseException: what the input raised.

        Iterating looks for cancellation at every outcome, and lets other tasks run at least at every
        16th. Leaving the block aborts the agents that run, and waits for their end.
        """
        check_agent(agent)
        check_items(items)
        launcher = self._launcher(lambda item: (agent, (item,)), options_of(name, timeout))
        return BatchBlock(Batch(launcher, "the block that started it was left", bounded=True), items)

    async def race(self, *agents: Callable[[AgentContext], Awaitable[T]]) -> AgentOutcome[T]:
        """Run several agents, and return the first `Completed`; the others are aborted and awaited.

        If none completes, returns a `Failed` whose `error` is an `ExceptionGroup` with an exception for
        each of them, in the order in which they ended: its own exception, or an `AgentAbortedError`. The
        other fields are those of the agent that ended last. It is a group for a single agent too.

        If one completes, agents that had failed before count as looked at. What an agent raises while
        it is aborted is an error in its cleanup, which counts as not looked at: it is raised at the end
        of the scope, as that of any agent would be.

        Raises:
          ValueError: if there are no agents.
          PoolClosedError, PoolLimitError, DeadlockError: as `map`.

        Checkpoint: always. Cancellation: aborts the agents, and waits for their end.
        """
        if not agents:
            raise ValueError("a race needs at least one agent")
        check_agents(agents)
        batch = Batch(self._launcher(lambda agent: (agent, ())), "the race that started it was left")
        winner: Completed[T] | None = None
        losers: list[Failed | Aborted] = []
        async with BatchBlock(batch, agents) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, Completed):
                    winner = outcome
                    batch.decide()
                    break
                losers.append(outcome)
        return _nobody_won(losers) if winner is None else winner

    async def vote(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        n: int,
        quorum: int | None = None,
        key: Callable[[T], Hashable] | None = None,
    ) -> Verdict[T]:
        """Run the same agent `n` times, and see which value a quorum of them agrees on.

        Stops as soon as it is decided: a choice has the quorum, or none can reach it any more. Those
        that had failed by then count as looked at, as in a `race`.

        Args:
          n: how many agents vote.
          quorum: how many have to agree; more than half of them if left out.
          key: makes the choice that is compared of a value. Left out, it is the value itself; of an
            `AgentResult` its `output`, which is the model's text if no type was asked for. What the
            answers used does not matter.

        Raises:
          TypeError: if a choice cannot be hashed.
          ValueError: if `n` or `quorum` is below 1, or `quorum` above `n`.
          PoolClosedError, PoolLimitError, DeadlockError: as `map`.

        Checkpoint: always. Cancellation: aborts the agents, and waits for their end.
        """
        poll: Poll[T] = Poll(n, quorum, key)
        check_agent(agent)
        voters = self.open_vote(agent, args, n)
        async with voters as outcomes:
            async for outcome in outcomes:
                if poll.is_decided_by(outcome):
                    voters.decide()
                    break
        return poll.verdict()

    def open_vote(self, agent: Callable[..., Awaitable[Any]], args: tuple[Any, ...], n: int) -> VotersBlock:
        """Return the block in which the agents of a vote run."""
        batch = Batch(self._launcher(lambda _: (agent, args)), "the vote that started it was left")
        return BatchBlock(batch, range(n))

    def _launcher(self, call: Callable[[Any], Any], options: SpawnOptions = SpawnOptions()) -> Launcher:  # noqa: B008  (frozen)
        by_agent = current_agent() is not None
        launcher = Launcher(self._state, self._children, call, options, contextvars.copy_context(), by_agent)
        journal = self._state.journal
        if journal is None:
            return launcher
        return attrs.evolve(launcher, op=journal.draw())


class VotersBlock(Protocol):
    """The block in which the agents of a vote run, and in which their outcomes are taken."""

    async def __aenter__(self) -> AsyncIterator[AnyOutcome]: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    def decide(self) -> None:
        """The outcomes so far are enough."""


class BatchBlock(AbstractAsyncContextManager[AsyncIterator[AnyOutcome]]):
    """The block in which the agents of a batch run.

    Not a generator with `asynccontextmanager`: that writes to exceptions, which those of frozen
    classes do not allow.
    """

    def __init__(self, batch: Batch, items: Any) -> None:
        self._batch = batch
        self._items = items
        self._entered = False
        self._feeder: Feeder | None = None

    def decide(self) -> None:
        """The outcomes so far are enough."""
        self._batch.decide()

    def abandon(self) -> None:
        """Start no more agents, and abort those that live."""
        self._batch.abandon()

    async def __aenter__(self) -> AsyncIterator[AnyOutcome]:
        batch, items = self._batch, self._items
        if self._entered:
            raise RuntimeError("as_completed is for one block: call it again")
        record = waiting_agent()
        # Nothing awaitable after this: what has started would be left alone by a cancellation.
        await trio.lowlevel.checkpoint()
        batch.launcher.admit()
        self._entered = True
        if is_collection(items):
            collection = CollectionFeed(batch, items)
            batch.open(collection)
            collection.open()
        else:
            feed = InputFeed(batch)
            batch.open(feed)
            self._feeder = await Feeder.start(record, feed, items)
        return Outcomes(batch)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        batch = self._batch
        batch.abandon()  # first: the feeder may need a slot for its end, which they hold
        pressed = None if self._feeder is None else await self._feeder.end()
        await batch.wait_for_end()
        if pressed is not None:
            if error is not None:
                note(pressed, f"Ctrl-C was pressed while {in_full(error)} left the block")
            raise pressed
        batch.raise_error(beside=error)


class Taken(Protocol):
    """Where outcomes are taken."""

    async def next_outcome(self) -> AnyOutcome | None:
        """Take the next outcome; None at the end."""
        ...


class Outcomes(AsyncIterator[AnyOutcome]):
    """The outcomes of a batch, as they come."""

    def __init__(self, batch: Taken) -> None:
        self._batch = batch

    def __aiter__(self) -> Outcomes:
        return self

    async def __anext__(self) -> AnyOutcome:
        try:
            outcome = await self._batch.next_outcome()
        except StopAsyncIteration as error:
            # Raised by a synchronous input: from here it would look like a normal end.
            raise RuntimeError("the input raised StopAsyncIteration") from error
        if outcome is None:
            raise StopAsyncIteration
        return outcome


def _error_of(loser: Failed | Aborted) -> BaseException:
    if isinstance(loser, Failed):
        return loser.error
    return AgentAbortedError(loser.agent_id, loser.name, loser.reason)


def _nobody_won(losers: Sequence[Failed | Aborted]) -> Failed:
    last = losers[-1]
    return Failed(
        agent_id=last.agent_id,
        name=last.name,
        parent_id=last.parent_id,
        usage=last.usage,
        started_at=last.started_at,
        duration=last.duration,
        restarts=last.restarts,
        # An `ExceptionGroup`, unless a fatal one is in it, which leaves the pool right now.
        error=BaseExceptionGroup("no agent of the race completed", [_error_of(loser) for loser in losers]),
    )


def _checked_quorum(n: int, quorum: int | None) -> int:
    """Return how many have to agree."""
    for name, count in (("n", n), ("quorum", n if quorum is None else quorum)):
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"{name} must be an int, not {shown(count)}")
    needed = n // 2 + 1 if quorum is None else quorum
    if n < 1 or not 1 <= needed <= n:
        given = f"n={n}" if quorum is None else f"quorum={quorum} and n={n}"
        raise ValueError(f"a vote needs 1 <= quorum <= n, not {given}")
    return needed


class Poll(Generic[T]):
    """Counts the votes of agents as they end, until it is decided."""

    def __init__(self, n: int, quorum: int | None, key: Callable[[T], Hashable] | None) -> None:
        self._n = n
        self._needed = _checked_quorum(n, quorum)
        self._ballot = _Ballot(key)
        self._votes: dict[Any, int] = {}
        self._first: dict[Any, T] = {}
        self._ended: list[AgentOutcome[T]] = []
        self._winner: T | None = None
        self._agreed = False

    def is_decided_by(self, outcome: AgentOutcome[T]) -> bool:
        """Count an outcome; tell whether a choice has the quorum, or none can reach it any more."""
        votes = self._votes
        self._ended.append(outcome)
        if isinstance(outcome, Completed):
            choice = self._ballot.choice(outcome.value)
            self._first.setdefault(choice, outcome.value)
            votes[choice] = votes.get(choice, 0) + 1
            if votes[choice] >= self._needed:
                self._winner, self._agreed = self._first[choice], True
                return True
        return max(votes.values(), default=0) + self._n - len(self._ended) < self._needed

    def verdict(self) -> Verdict[T]:
        """Return what it came to."""
        return Verdict(self._winner, self._votes, tuple(self._ended), self._agreed)


class _Ballot:
    """Says what each value of a vote is a vote for."""

    def __init__(self, key: Callable[[Any], Hashable] | None) -> None:
        self._key = key
        # Results whose outputs have no hash, such as pydantic models, one for each choice.
        self._seen: list[AgentResult[Any]] = []

    def choice(self, value: Any) -> Hashable:
        """Return what is counted.

        Raises:
          TypeError: if it has no hash.
        """
        key = self._key
        is_answer = key is None and isinstance(value, AgentResult)
        if key is not None:
            choice: Hashable = call_unprotected(key, value)
        else:
            choice = value.output if is_answer else value
        try:
            call_unprotected(hash, choice)
        except TypeError as error:
            if is_answer:
                return self._text_of(value)
            fix = "give key=, a function that makes" if key is None else "key= has to make"
            raise TypeError(
                f"votes are told apart by hash, and {shown(choice)} has none: "
                f"{fix} something hashable of a value"
            ) from error
        return choice

    def _text_of(self, result: AgentResult[Any]) -> str:
        """The text of the first result with an equal output: equal answers may be written differently."""
        for other in self._seen:
            if call_unprotected(operator.eq, other.output, result.output):
                return other.text
        self._seen.append(result)
        return result.text


protect_module(globals())
