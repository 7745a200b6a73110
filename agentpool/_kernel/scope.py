"""The verbs that a pool and an agent's context share: spawn, join, map, race, vote, send, ask."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

import attrs
import trio

from agentpool._core.errors import PoolClosedError, PoolLimitError, UnknownAgentError
from agentpool._core.messages import SUPERVISOR, AgentId, AgentMessage
from agentpool._core.outcomes import AgentOutcome, AnyOutcome, Completed
from agentpool._core.restart import RestartPolicy
from agentpool._core.text import shown
from agentpool._kernel.agent import (
    AgentHandle,
    AgentRecord,
    Offspring,
    SpawnOptions,
    check_agent,
    check_agents,
    options_of,
)
from agentpool._kernel.current import current_agent, waiting_agent
from agentpool._kernel.nursery import open_known_nursery
from agentpool._kernel.slots import PoolFullError, Wait
from agentpool._kernel.splitting import split_error
from agentpool._kernel.state import PoolState

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741
K = TypeVar("K", bound=Hashable)
Ts = TypeVarTuple("Ts")

OUTCOMES_IN_A_ROW = 16
"""So many outcomes that have piled up are handed out before other tasks have their turn: a taker
that gave way after each would hold up the agents, which a hundred at a time end in one turn."""

_BUILTIN_ITERABLES = (list, tuple, range, set, frozenset, dict, deque)
"""Iterating over these runs no code of the caller's, so that a finishing agent may take the next."""


@attrs.frozen
class Verdict(Generic[T]):
    """What a vote came to.

    Attributes:
      winner: the first value of the choice that reached the quorum; None if none did.
      votes: how many agents voted for each choice, the choice being `key(value)`.
      outcomes: of the agents, in the order of their ends.
    """

    winner: T | None
    votes: dict[Any, int]
    outcomes: tuple[AgentOutcome[T], ...]


class _OneStart:
    """A spawn that waits for its slot."""

    __slots__ = ("_args", "_by_agent", "_context", "_fn", "_options", "_scope", "cancelled", "wait")

    def __init__(
        self,
        scope: Scope,
        fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        options: SpawnOptions,
        wait: Wait,
    ) -> None:
        self.cancelled = False
        self.wait = wait
        self._scope = scope
        self._fn = fn
        self._args = args
        self._options = options
        # A child starts in the context of its spawner, though it is started by whoever frees the slot.
        self._context = contextvars.copy_context()
        self._by_agent = current_agent() is not None

    def begin(self) -> None:
        """Start the agent: a slot is free (called by the slots)."""
        scope = self._scope
        try:
            scope._state.admit(scope._offspring, by_agent=self._by_agent)
        except (PoolClosedError, PoolLimitError) as error:
            self.wait.fail(error)
            return
        record = scope._state.start(
            scope._offspring,
            self._fn,
            self._args,
            self._options,
            context=self._context,
            by_agent=self._by_agent,
        )
        self.wait.wake(AgentHandle(record))

    def refuse(self, reason: str) -> None:
        """The pool takes no more agents."""
        self.wait.fail(PoolClosedError(reason))

    def cancel(self) -> None:
        """Nobody waits for the agent any more."""
        self.cancelled = True


class Batch:
    """Agents that one verb started together, and their outcomes, which no join hands out.

    With an input that is a builtin collection, whoever frees a slot starts the next agent in it.
    Any other input is pulled by a task of the caller, because iterating over it runs his code.

    Attributes:
      live: the agents that have not ended.
      done: the outcomes that nobody has taken.
      input_ended: whether no more agents will be started.
      error: why the input ended early; raised where the outcomes are taken.
    """

    def __init__(
        self,
        scope: Scope,
        call: Callable[[Any], tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]],
        options: SpawnOptions,
        *,
        bounded: bool = False,
    ) -> None:
        self.cancelled = False
        self.live: dict[AgentId, AgentRecord] = {}
        self.done: deque[AnyOutcome] = deque()
        self.input_ended = False
        self.error: BaseException | None = None
        self._scope = scope
        self._state = scope._state
        self._call = call
        self._options = options
        self._bounded = bounded
        self._context = contextvars.copy_context()
        self._by_agent = current_agent() is not None
        self._iterator: Iterator[Any] | None = None
        self._next: Any = None
        self._queued = False
        self._taker: Wait | None = None
        self._room: Wait | None = None
        self._slot: Wait | None = None
        self._stopper: Wait | None = None
        self._in_a_row = 0

    # -- the input -----------------------------------------------------------------------------------

    def feed(self, items: Iterable[Any]) -> None:
        """Take the input from a builtin collection."""
        self._iterator = iter(items)
        self._advance()
        self._enqueue()
        self._state.slots.dispatch()

    def _advance(self) -> None:
        assert self._iterator is not None
        try:
            self._next = next(self._iterator)
        except StopIteration:
            self.input_ended = True
        except RuntimeError as error:  # the collection was changed meanwhile
            self.end_input(error)

    def _enqueue(self) -> None:
        """Ask for a slot for the next item, unless the taker of the outcomes is far behind."""
        if not (self.input_ended or self._queued or self.is_behind):
            self._queued = True
            self._state.slots.queue(self)

    @property
    def is_behind(self) -> bool:
        """Whether as many outcomes wait to be taken as agents may run."""
        return self._bounded and len(self.done) >= self._scope.max_concurrent

    def begin(self) -> None:
        """Start an agent for the next item: a slot is free (called by the slots)."""
        self._queued = False
        slot, self._slot = self._slot, None
        try:
            self._start(self._next)
        except (PoolClosedError, PoolLimitError) as error:
            self._refused(slot, error)
            return
        if slot is not None:
            slot.wake()
        else:
            self._advance()
            self._enqueue()

    def _start(self, item: Any) -> None:
        self._state.admit(self._scope._offspring, by_agent=self._by_agent)
        fn, args = self._call(item)
        record = self._state.start(
            self._scope._offspring,
            fn,
            args,
            self._options,
            context=self._context,
            batch=self,
            by_agent=self._by_agent,
        )
        self.live[record.id] = record

    async def put(self, item: Any) -> None:
        """Start an agent for an item, waiting for a slot, and before it for room for its outcome.

        Cancellation: `Cancelled` means that it was not started.
        """
        party = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.is_behind:
            # Ended by the taker of the outcomes, a task of the same agent: no edge to anybody.
            room = self._room = Wait(party, ())
            await room.park(self._forget_room)
        if self._state.slots.has_room:
            self._start(item)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._next = item
        self._queued = True
        slot = self._slot = Wait(party)
        self._state.slots.queue(self)
        await slot.park(self.cancel)

    def _forget_room(self) -> None:
        self._room = None

    def cancel(self) -> None:
        """Start no more agents."""
        self.cancelled = True
        self.input_ended = True
        self._slot = None

    def refuse(self, reason: str) -> None:
        """The pool takes no more agents."""
        self._queued = False
        slot, self._slot = self._slot, None
        self._refused(slot, PoolClosedError(reason))

    def _refused(self, slot: Wait | None, error: Exception) -> None:
        if slot is not None:
            slot.fail(error)
        else:
            self.end_input(error)

    def end_input(self, error: BaseException | None = None) -> None:
        """There are no more items, or no more can be had."""
        self.input_ended = True
        self.error = self.error or error
        self._tell()

    def fail(self, error: BaseException) -> None:
        """The input raised what no pool may contain: it leaves the pool at once."""
        self.end_input()
        self._state.fatal_error(error, "the input of as_completed")

    # -- the outcomes --------------------------------------------------------------------------------

    def ended(self, outcome: AnyOutcome) -> None:
        """An agent ended (called in the step in which it does)."""
        # The outcome only: kept records made a map over 10,000 items half as slow again.
        del self.live[outcome.agent_id]
        self.done.append(outcome)
        if self._taker is not None and (not self._taker.needs_all or self.is_over):
            self._tell()
        if self._stopper is not None and not self.live:
            stopper, self._stopper = self._stopper, None
            stopper.wake()

    def _tell(self) -> None:
        if self._taker is not None:
            wait, self._taker = self._taker, None
            wait.wake()

    @property
    def is_over(self) -> bool:
        """Whether no outcome will come any more."""
        return self.input_ended and not self.live

    def targets(self) -> Collection[AgentRecord] | None:
        """Who can end the wait for the next outcome; None while an agent waits to be started."""
        return None if self._queued else self.live.values()

    async def wait_for_more(self, *, needs_all: bool) -> None:
        """Wait until an agent ends, or the input does.

        Args:
          needs_all: whether the caller will go on to wait until all of them have ended.

        Cancellation: leaves nothing behind.
        """
        if self._taker is not None:
            raise trio.BusyResourceError("another task takes these outcomes already")
        party = waiting_agent()
        targets = self.live.values() if needs_all else self.targets()
        if targets is not None:
            self._state.judge.check(party, targets, needs_all=needs_all)
        wait = Wait(party, self.live.values() if needs_all else self.targets, needs_all=needs_all)
        self._taker = wait
        await wait.park(self._forget_taker)

    def _forget_taker(self) -> None:
        self._taker = None

    async def next_outcome(self) -> AnyOutcome | None:
        """Take the next outcome, in the order of the ends; None at the end.

        Raises:
          BaseException: what the input raised, when the outcomes before it were taken.

        Checkpoint: for cancellation always, for the scheduler at least at every 16th outcome.
        Cancellation: `Cancelled` means that none was taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.is_over or (self.done and not self._in_a_row):
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._in_a_row = OUTCOMES_IN_A_ROW
        self._in_a_row -= 1
        while not self.done and not self.is_over:
            await self.wait_for_more(needs_all=False)
            self._in_a_row = OUTCOMES_IN_A_ROW
        if not self.done:
            self.raise_error()
            return None
        outcome = self.done.popleft()
        self._scope._offspring.unseen.pop(outcome.agent_id, None)
        if self._room is not None:
            room, self._room = self._room, None
            room.wake()
        elif self._iterator is not None:
            self._enqueue()
            self._state.slots.dispatch()
        return outcome

    def raise_error(self) -> None:
        """Raise what ended the input early, once."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def decide(self) -> None:
        """The outcomes so far are enough: start no more agents, and forget what became of the input."""
        self.cancel()
        self.error = None

    def take_all(self) -> None:
        """Nobody will ask for the outcomes that are left: they do not matter any more."""
        unseen = self._scope._offspring.unseen
        for outcome in self.done if unseen else ():
            unseen.pop(outcome.agent_id, None)

    # -- the end ---------------------------------------------------------------------------------------

    async def stop(self, reason: str) -> None:
        """Start no more, abort what lives, and wait for its end.

        Cancellation: is kept off until then.
        """
        self.cancel()
        for record in list(self.live.values()):
            record.abort(reason)
        with trio.CancelScope(shield=True):
            if self.live:
                self._stopper = Wait(waiting_agent(), self.live.values(), needs_all=True)
                await self._stopper.park(None)
        self._tell()


class Scope:
    """Owns agents: the pool is the root scope, every agent's context is the scope of its children."""

    __slots__ = ("_record", "_state")

    def __init__(self, state: PoolState, record: AgentRecord | None) -> None:
        self._state = state
        self._record = record

    @property
    def _offspring(self) -> Offspring:
        record = self._record
        return self._state.root if record is None else record.children()

    @property
    def max_concurrent(self) -> int:
        """How many agents run at once at the most."""
        return self._state.slots.total

    @property
    def closing(self) -> bool:
        """Whether the pool's block has ended or drains, so that the work comes to its end."""
        return self._state.slots.body_ended

    @property
    def draining(self) -> bool:
        """Whether the pool starts no more agents."""
        return bool(self._state.draining)

    # -- starting ----------------------------------------------------------------------------------

    async def spawn(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> AgentHandle[T]:
        """Start an agent as a child of this scope, waiting for a slot.

        A message that is sent to it straight afterwards arrives.

        Args:
          agent: an async callable; it gets its context and `args`.
          name: for people; the callable's own name if left out.
          timeout: seconds from its start to its end; past it the outcome is
            `Failed(AgentTimeoutError)`.
          restart: whether and how it is started afresh when it ends.

        Raises:
          PoolClosedError: if the pool drains or has ended, or the parent has.
          PoolLimitError: if a bound of `PoolLimits` was reached.

        Checkpoint: always. Cancellation: `Cancelled` means that no agent was started.
        """
        check_agent(agent)
        options = options_of(name, timeout, restart)
        party = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        state = self._state
        by_agent = current_agent() is not None
        state.admit(self._offspring, by_agent=by_agent)
        if state.slots.has_room:
            handle: AgentHandle[T] = self._start_now(agent, args, options, by_agent)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return handle
        wait = Wait(party)
        start = _OneStart(self, agent, args, options, wait)
        state.slots.queue(start)
        started: AgentHandle[T] = await wait.park(start.cancel)
        return started

    def spawn_nowait(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> AgentHandle[T]:
        """Start an agent in a free slot, without waiting; as `spawn` otherwise.

        Raises:
          PoolFullError: if no slot is free, or others wait for one; it is a `trio.WouldBlock` too.
        """
        check_agent(agent)
        options = options_of(name, timeout, restart)
        state = self._state
        by_agent = current_agent() is not None
        state.admit(self._offspring, by_agent=by_agent)
        if not state.slots.has_room:
            raise PoolFullError(
                f"all {self.max_concurrent} slots are taken or spoken for; `await spawn` waits for one"
            )
        return self._start_now(agent, args, options, by_agent)

    def _start_now(
        self,
        agent: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        options: SpawnOptions,
        by_agent: bool,
    ) -> AgentHandle[Any]:
        return AgentHandle(self._state.start(self._offspring, agent, args, options, by_agent=by_agent))

    async def fan_out(
        self, configs: Iterable[Callable[[AgentContext], Awaitable[T]]]
    ) -> list[AgentHandle[T]]:
        """Start several agents, in their order, waiting for slots.

        Raises:
          PoolClosedError, PoolLimitError: as `spawn`; what has started remains a child.

        Checkpoint: always. Cancellation: what has started remains a child of this scope.
        """
        if not isinstance(configs, Iterable):
            raise TypeError(f"configs must be a list of agents, not {shown(configs)}")
        configs = tuple(configs)
        check_agents(configs)  # before any of them starts
        handles: list[AgentHandle[T]] = []
        await trio.lowlevel.checkpoint()
        for config in configs:
            handles.append(await self.spawn(config))
        return handles

    # -- joining -------------------------------------------------------------------------------------

    async def join_next(self) -> AnyOutcome | None:
        """Wait for the next direct child to end, and return its outcome; None when none is left.

        Each outcome is handed out once, in the order of the ends, unless its handle took it.

        Raises:
          DeadlockError: if every child waits for the caller.

        Checkpoint: always. Cancellation: `Cancelled` means that no outcome was taken.
        """
        party = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        offspring = self._offspring
        outcome = offspring.next_result()
        if outcome is not None or not offspring.live:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return outcome
        targets = offspring.live.values()
        self._state.judge.check(party, targets)
        wait = Wait(party, targets)
        offspring.join_waits.append(wait)
        joined: AnyOutcome | None = await wait.park(lambda: offspring.join_waits.remove(wait))
        return joined

    async def join_all(self) -> dict[AgentId, AnyOutcome]:
        """Wait until no direct child is left, and return the outcomes that nobody has taken.

        Raises:
          DeadlockError: if a child waits for the caller.

        Checkpoint: always. Cancellation: `Cancelled` means that no outcome was taken.
        """
        party = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        offspring = self._offspring
        if not offspring.live:
            outcomes = offspring.all_results()
            await trio.lowlevel.cancel_shielded_checkpoint()
            return outcomes
        self._state.judge.check(party, offspring.live.values(), needs_all=True)
        all_of_them: dict[AgentId, AnyOutcome] = await offspring.all_ended(party, offspring.all_results)
        return all_of_them

    def abort_all(self, reason: str | None = None) -> None:
        """Abort the agents of this scope, also those that have not taken their first step.

        Does not wait. The scope stays usable.
        """
        for record in list(self._offspring.live.values()):
            record.abort(reason)

    # -- many at once ----------------------------------------------------------------------------------

    async def map(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> list[AgentOutcome[T]]:
        """Run an agent for each item, and return the outcomes in the order of the items.

        The input is pulled as slots get free.

        Raises:
          PoolClosedError, PoolLimitError: as `spawn`; the agents that run are aborted first.
          DeadlockError: as `join_next`.
          BaseException: what the input raised; the agents that run are aborted first.

        Checkpoint: always. Cancellation: aborts the agents that run, and waits for their end.
        """
        check_agent(agent)
        _check_items(items)
        batch = Batch(self, lambda item: (agent, (item,)), options_of(name, timeout))
        await self._admit_batch()
        try:
            if type(items) in _BUILTIN_ITERABLES:
                batch.feed(items)  # type: ignore[arg-type]
            else:
                await _pull(items, batch)
            await trio.lowlevel.checkpoint()
            while not batch.is_over:
                await batch.wait_for_more(needs_all=True)
            batch.raise_error()
        except BaseException:
            await batch.stop("the map that started it was left")
            raise
        batch.take_all()
        return sorted(batch.done, key=lambda outcome: outcome.agent_id)

    def as_completed(
        self,
        agent: Callable[[AgentContext, I], Awaitable[T]],
        items: Iterable[I] | AsyncIterable[I],
        *,
        name: str | None = None,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[AgentOutcome[T]]]:
        """Run an agent for each item, and iterate over the outcomes as they come.

        The input may be endless: it is pulled as slots get free, and not while as many outcomes
        wait to be taken as agents may run.

        Raises (while iterating):
          PoolClosedError, PoolLimitError: as `spawn`.
          DeadlockError: as `join_next`.
          BaseException: what the input raised.

        Iterating looks for cancellation at every outcome, and lets other tasks run at least at every
        16th. Leaving the block aborts the agents that run, and waits for their end.
        """
        check_agent(agent)
        _check_items(items)
        options = options_of(name, timeout)
        return self._running(Batch(self, lambda item: (agent, (item,)), options, bounded=True), items)

    @asynccontextmanager
    async def _running(self, batch: Batch, items: Any) -> AsyncIterator[AsyncIterator[AnyOutcome]]:
        reason = "the block that started it was left"
        await self._admit_batch()
        try:
            if type(items) in _BUILTIN_ITERABLES:
                batch.feed(items)
                await trio.lowlevel.checkpoint()
                yield _Outcomes(batch)
            else:
                async with self._pulling(batch, items):
                    yield _Outcomes(batch)
        finally:
            await batch.stop(reason)
        batch.raise_error()

    @asynccontextmanager
    async def _pulling(self, batch: Batch, items: Any) -> AsyncIterator[None]:
        """Pull the input in a task of its own while the block runs."""
        error: BaseException | None = None
        async with self._known_nursery() as nursery:
            nursery.start_soon(_pull_into, items, batch)
            try:
                yield
            except BaseException as raised:
                error = raised  # raised below as it is, where the nursery would wrap it in a group
            nursery.cancel_scope.cancel("the block of as_completed was left")
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _known_nursery(self) -> AbstractAsyncContextManager[Any]:
        """A nursery for a task that waits on behalf of the caller."""
        record = current_agent()
        return trio.open_nursery() if record is None else open_known_nursery(record)

    async def _admit_batch(self) -> None:
        waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        self._state.admit(self._offspring, by_agent=current_agent() is not None)

    async def race(self, *agents: Callable[[AgentContext], Awaitable[T]]) -> AgentOutcome[T]:
        """Run several agents, and return the first `Completed`; the others are aborted and awaited.

        If none completes, returns the outcome of the last one that ended.

        Raises:
          ValueError: if there are no agents.
          PoolClosedError, PoolLimitError, DeadlockError: as `map`.

        Checkpoint: always. Cancellation: aborts the agents, and waits for their end.
        """
        if not agents:
            raise ValueError("a race needs at least one agent")
        check_agents(agents)
        batch = Batch(self, lambda agent: (agent, ()), SpawnOptions())
        last: AnyOutcome | None = None
        async with self._running(batch, agents) as outcomes:
            async for outcome in outcomes:
                last = outcome
                if isinstance(outcome, Completed):
                    batch.decide()
                    break
        batch.take_all()
        assert last is not None
        return last

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

        Stops as soon as it is decided: a choice has the quorum, or none can reach it any more.

        Args:
          n: how many agents vote.
          quorum: how many have to agree; more than half of them if left out.
          key: makes the choice that is compared of a value; the value itself if left out.

        Raises:
          ValueError: if `n` or `quorum` is below 1, or `quorum` above `n`.
          PoolClosedError, PoolLimitError, DeadlockError: as `map`.

        Checkpoint: always. Cancellation: aborts the agents, and waits for their end.
        """
        for own_name, count in (("n", n), ("quorum", quorum)):
            if isinstance(count, bool) or not isinstance(count, int | None):
                raise TypeError(f"{own_name} must be an int, not {shown(count)}")
        needed = n // 2 + 1 if quorum is None else quorum
        if n < 1 or not 1 <= needed <= n:
            given = f"n={n}" if quorum is None else f"quorum={quorum} and n={n}"
            raise ValueError(f"a vote needs 1 <= quorum <= n, not {given}")
        check_agent(agent)
        votes: dict[Any, int] = {}
        first: dict[Any, T] = {}
        outcomes: list[AgentOutcome[T]] = []
        winner: T | None = None

        batch = Batch(self, lambda _: (agent, args), SpawnOptions())
        async with self._running(batch, range(n)) as done:
            async for outcome in done:
                outcomes.append(outcome)
                if isinstance(outcome, Completed):
                    choice: Any = outcome.value if key is None else key(outcome.value)
                    first.setdefault(choice, outcome.value)
                    votes[choice] = votes.get(choice, 0) + 1
                    if votes[choice] >= needed:
                        winner = first[choice]
                        batch.decide()
                        break
                if max(votes.values(), default=0) + n - len(outcomes) < needed:
                    batch.decide()
                    break
        batch.take_all()
        return Verdict(winner, votes, tuple(outcomes))

    # -- messages --------------------------------------------------------------------------------------

    async def send(self, to: AgentId, content: Any) -> None:
        """Deliver a message to an agent's inbox, waiting for room.

        Messages between the same two agents arrive in the order they were sent. The sender is the
        agent whose task calls, or the supervisor.

        Args:
          to: the id of a live agent of this pool.

        Raises:
          UnknownAgentError: if the recipient never existed or has ended, or ends meanwhile.
          DeadlockError: if waiting would close a cycle of agents that wait for each other.

        Checkpoint: always. Cancellation: `Cancelled` means that nothing was delivered.
        """
        state = self._state
        party = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        sender = party.id if party is not None and party.state is state else SUPERVISOR
        wait = state.router.begin_send(party, sender, to, content)
        if wait is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await wait.park(wait.undo)

    def send_nowait(self, to: AgentId, content: Any) -> None:
        """Deliver a message to an agent's inbox, without waiting.

        Raises:
          UnknownAgentError: if the recipient never existed or has ended.
          trio.WouldBlock: if its inbox is full.
        """
        self._state.router.send_nowait(AgentMessage(to=to, content=content))

    async def ask(self, to: AgentId, content: Any) -> Any:
        """Deliver a question to an agent, and return the content of its reply.

        Put a cancel scope around it for a time limit.

        Raises:
          UnknownAgentError: if the recipient never existed, or ends without a reply, or is
            restarted after it took the question.
          DeadlockError: if waiting would close a cycle of agents that wait for each other;
            nothing was delivered then.

        Checkpoint: always. Cancellation: after `Cancelled` the question may have been delivered;
        a reply to it becomes a dead letter.
        """
        return await self._state.router.ask(AgentMessage(to=to, content=content))

    def find(self, name: str) -> AgentId:
        """Return the id of the live agent with a name.

        Raises:
          UnknownAgentError: if no live agent of the pool has it, or several have.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {shown(name)}")
        ids = [record.id for record in self._state.records.values() if record.name == name]
        if len(ids) == 1:
            return ids[0]
        if not ids:
            raise UnknownAgentError(SUPERVISOR, f"no live agent is called {shown(name)}")
        told = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
        raise UnknownAgentError(
            ids[0], f"{len(ids)} live agents are called {shown(name)}: use the ids [{told}]"
        )


def _check_items(items: object) -> None:
    if isinstance(items, Iterable | AsyncIterable) or hasattr(items, "__getitem__"):
        return
    fix = "; call it, to get its items" if callable(items) else ""
    raise TypeError(f"items must be an iterable or an async iterable, not {shown(items)}{fix}")


async def _pull(items: Any, batch: Batch) -> None:
    """Start an agent for each item of any iterable, as slots get free."""
    if isinstance(items, AsyncGenerator):
        try:
            await _pull_async(items, batch)
        finally:
            await _close(items)  # else it would be left to the garbage collector
    elif isinstance(items, AsyncIterable):
        await _pull_async(items, batch)
    else:
        for item in items:
            await batch.put(item)
    batch.end_input()


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    """Close an input that was not read to its end.

    A nursery inside puts the `GeneratorExit` that closes it in a group, beside its own cancellation if
    the block that pulls was left: that is no error of the input.
    """
    try:
        await generator.aclose()
    except BaseExceptionGroup as group:
        rest = group.split(GeneratorExit)[1]
        if rest is not None:
            raise rest from None


async def _pull_async(items: AsyncIterable[Any], batch: Batch) -> None:
    async for item in items:
        await batch.put(item)


async def _pull_into(items: Any, batch: Batch) -> None:
    try:
        await _pull(items, batch)
    except BaseException as error:
        parts = split_error(error)
        if parts.fatal is not None:
            batch.fail(parts.fatal)
        elif parts.ordinary is None:
            raise  # cancelled, be it one by one or in the group of a nursery
        else:
            batch.end_input(parts.ordinary)  # raised where the outcomes are taken


class _Outcomes(AsyncIterator[AnyOutcome]):
    """The outcomes of a batch, as they come."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __aiter__(self) -> _Outcomes:
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
