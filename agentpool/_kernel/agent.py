"""One agent: its record, its handle, its children, and how it is started."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeGuard, TypeVar, assert_never

import attrs
import trio

from agentpool._core.errors import (
    AgentTimeoutError,
)
from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._core.outcomes import Aborted, AgentOutcome, AnyOutcome, Completed, Failed
from agentpool._core.restart import RestartPolicy
from agentpool._core.text import shown
from agentpool._core.usage import NO_USAGE, NOTHING_USED, TokenUsage
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.router import Inbox
from agentpool._kernel.slots import Party, Wait
from agentpool.abc import DescribedAgent

if TYPE_CHECKING:
    from agentpool._core.budget import Budget
    from agentpool._kernel.context import AgentContext
    from agentpool._kernel.state import PoolState

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

AgentStatus: TypeAlias = Literal["starting", "running", "waiting", "ending", "completed", "failed", "aborted"]

CANCELLED_OUTSIDE = "a scope around the pool was cancelled"


@attrs.frozen
class SpawnOptions:
    """How an agent is started.

    Attributes:
      name: its name; None takes the agent's own.
      timeout: seconds from its start to its end, restarts included; None for no limit of its own.
      restart: whether and how it is started afresh when it ends.
    """

    name: str | None = None
    timeout: float | None = None
    restart: RestartPolicy | None = None

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` for values that make no sense."""
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {shown(self.name)}")
        if self.restart is not None and not isinstance(self.restart, RestartPolicy):
            raise TypeError(f"restart must be a RestartPolicy, not {shown(self.restart)}")
        if self.timeout is None:
            return
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, (int, float)):
            raise TypeError(f"timeout must be a number of seconds, not {shown(self.timeout)}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {self.timeout}")


def check_agent(agent: Any) -> None:
    """Refuse what cannot be an agent, with the fix."""
    if callable(agent):
        if not isinstance(agent, type):
            return
        raise TypeError(f"an agent is an async callable, not the class {agent.__name__}: give an instance")
    if is_coroutine(agent):
        raise TypeError(
            "an agent is an async function, not the coroutine that a call of it makes: "
            "write spawn(agent, argument), not spawn(agent(argument))"
        )
    if type(agent).__name__ == "AgentManifest":
        raise TypeError("a manifest is no agent: write spawn(SpawnConfig(manifest, query))")
    raise TypeError(f"an agent is an async callable that takes a context, not {shown(agent)}")


def check_agents(agents: Iterable[object]) -> None:
    """Refuse all of them if one cannot be an agent."""
    errors = []
    for agent in agents:
        try:
            check_agent(agent)
        except TypeError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def is_coroutine(value: Any) -> bool:
    if hasattr(value, "close") and hasattr(value, "cr_frame"):
        value.close()  # it will never be awaited
        return True
    return False


def is_described(agent: object) -> TypeGuard[DescribedAgent]:
    """Whether an agent tells more of itself than a plain function does.

    `isinstance` would say it too, but takes 10 µs for a protocol; it is asked once for each agent.
    """
    return hasattr(agent, "build_tools") and hasattr(agent, "quota")


def name_of(agent: Any) -> str:
    """What an agent is called when nobody gave it a name."""
    while isinstance(agent, partial):
        agent = agent.func
    name = getattr(agent, "__name__", None) or getattr(agent, "name", None)
    return name if isinstance(name, str) else type(agent).__name__


class Offspring:
    """The children of a scope, and their outcomes that nobody has fetched yet.

    Invariants:
      live holds the children that have not ended;  unseen holds those that failed and that nobody
      has looked at;  results holds ended ones for the joins, some of which were taken since.
    """

    __slots__ = ("_results", "_taken", "join_waits", "live", "owner", "rest_waits", "unseen")

    def __init__(self, owner: AgentRecord | None) -> None:
        self.owner: AgentRecord | None = owner
        self.live: dict[AgentId, AgentRecord] = {}
        self.unseen: dict[AgentId, Failed] = {}
        self.join_waits: deque[Wait] = deque()
        self.rest_waits: list[tuple[Wait, Callable[[], Any]]] = []
        self._results: (
            tuple[trio.MemorySendChannel[AgentRecord], trio.MemoryReceiveChannel[AgentRecord]] | None
        ) = None
        self._taken = 0

    # -- outcomes for the joins --------------------------------------------------------------------

    def add_result(self, record: AgentRecord) -> None:
        """A child ended: hand its outcome to who joins, or keep it."""
        if self.join_waits:
            record.take()
            self.join_waits.popleft().wake(record.outcome)
            return
        if self._results is None:
            # Unbounded: a result that waits for room would hold up the pool.
            self._results = trio.open_memory_channel(inf)
        self._results[0].send_nowait(record)
        record.in_results = True

    def next_result(self) -> AnyOutcome | None:
        """Take the outcome of the child that ended first; None if there is none to take."""
        while self._results is not None:
            try:
                record = self._results[1].receive_nowait()
            except trio.WouldBlock:
                return None
            record.in_results = False
            if not record.taken:
                record.take()
                return record.outcome
            self._taken -= 1
        return None

    def all_results(self) -> dict[AgentId, AnyOutcome]:
        """Take all that is left."""
        outcomes: dict[AgentId, AnyOutcome] = {}
        while (outcome := self.next_result()) is not None:
            outcomes[outcome.agent_id] = outcome
        return outcomes

    def result_taken(self) -> None:
        """A result was fetched in another way; without this a long run would pile them up."""
        self._taken += 1
        assert self._results is not None
        sender, receiver = self._results
        if self._taken > 64 and self._taken * 2 > receiver.statistics().current_buffer_used:
            kept = []
            while receiver.statistics().current_buffer_used:
                record = receiver.receive_nowait()
                if not record.taken:
                    kept.append(record)
            for record in kept:
                sender.send_nowait(record)
            self._taken = 0

    # -- the end of a child --------------------------------------------------------------------------

    def ended(self, record: AgentRecord) -> None:
        """Deliver the outcome of a child, to exactly one taker or to the results."""
        del self.live[record.id]
        if type(record.outcome) is Failed and not record.seen:
            self.unseen[record.id] = record.outcome
        if record.watchers:
            record.take()
            watchers, record.watchers = record.watchers, None
            for wait in watchers:
                wait.wake(record.outcome)
        if record.batch is not None:
            record.batch.ended(record.outcome)
        elif not record.taken:
            self.add_result(record)
        if not self.live:
            while self.join_waits:
                self.join_waits.popleft().wake(None)
            waits, self.rest_waits = self.rest_waits, []
            for wait, value in waits:
                wait.wake(value())
        elif self.join_waits and self.owner is not None:
            # Somebody else took the outcome: who joins has one child less that could end the wait.
            self.owner.state.judge.lost_hope(self.owner)

    async def all_ended(
        self,
        party: Party | None,
        value: Callable[[], Any],
        *,
        cancellable: bool = True,
        needs_slot: bool = True,
    ) -> Any:
        """Wait until no child is left, and return what `value` returns at that moment."""
        wait = Wait(party, self.live.values(), needs_all=True)
        wait.needs_slot = needs_slot
        entry = (wait, value)
        self.rest_waits.append(entry)
        return await wait.park((lambda: self.rest_waits.remove(entry)) if cancellable else None)

    def failures(self) -> list[Exception]:
        """Take the failures that nobody has looked at, in the order of their ends."""
        errors = []
        for outcome in self.unseen.values():
            # Fatal exceptions were seen already, so that these are all of `Exception`.
            assert isinstance(outcome.error, Exception)
            errors.append(outcome.error)
        self.unseen.clear()
        return errors


class AgentRecord(Party):
    """The state of one agent, from its spawn on."""

    # Defaults on the class: only what an agent makes use of costs it time and memory.
    _budget: Budget | None = None
    abort_reason: str | None = None
    aborted: bool = False
    aborted_at: float = inf
    body_ended = False
    context: AgentContext | None = None
    depth: int = 0
    in_results = False
    model_spawns = 0
    more_tasks: set[trio.lowlevel.Task] | None = None
    nurseries: dict[trio.Nursery, bool] | None = None
    offspring: Offspring | None = None
    outcome: AnyOutcome | None = None
    parent_id: AgentId = SUPERVISOR
    restarts = 0
    seen: bool = False
    stops_children = False
    taken: bool = False
    task: trio.lowlevel.Task | None = None
    used = NOTHING_USED
    watchers: list[Wait] | None = None

    def __init__(
        self,
        state: PoolState,
        agent_id: AgentId,
        home: Offspring,
        fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        options: SpawnOptions,
        batch: Any,
    ) -> None:
        self.started_at: float = trio.current_time()
        owner = home.owner
        deadline = inf
        if owner is not None:
            self.parent_id = owner.id
            self.depth = owner.depth + 1
            deadline = owner.deadline
        if options.timeout is not None:
            deadline = min(deadline, self.started_at + options.timeout)
        super().__init__(agent_id, state.slots, deadline)
        self.state = state
        self.home = home
        self.fn = fn
        self.args = args
        self.options = options
        self.name: str = options.name or name_of(fn)
        self.scope: trio.CancelScope = trio.CancelScope(deadline=deadline)
        self.inbox: Inbox = state.router.register(agent_id, owner=self)
        self.batch = batch

    def __repr__(self) -> str:
        return f"<agent {self.id} ({self.name}), {self.status}>"

    @property
    def status(self) -> AgentStatus:
        """What the agent is doing."""
        match self.outcome:
            case Completed():
                return "completed"
            case Failed():
                return "failed"
            case Aborted():
                return "aborted"
            case None if self.task is None:
                return "starting"
            case None if self.body_ended:
                return "ending"
            case None:
                return "running" if self.active else "waiting"
            case _:
                assert_never(self.outcome)

    def waits_for(self) -> tuple[AgentId, ...]:
        """The agents that could end its waits; empty where anybody could."""
        if len(self.waits) == 1 and self.waits[0].targets is None:
            return ()
        found: dict[AgentId, None] = {}
        for wait in self.waits:
            found.update((target.id, None) for target in wait.known_targets() or ())
        return tuple(found)

    # -- its tasks ---------------------------------------------------------------------------------------

    def knows(self, task: trio.lowlevel.Task) -> bool:
        """Whether a task is one of the agent's known ones."""
        return task is self.task or (self.more_tasks is not None and task in self.more_tasks)

    def unknown_nurseries(self, task: trio.lowlevel.Task) -> Sequence[trio.Nursery]:
        """The nurseries that a task opened by itself; those of pools belong to them."""
        known = self.nurseries
        return [
            nursery for nursery in task.child_nurseries if known is None or known.get(nursery) is not False
        ]

    def has_unknown_tasks(self, nurseries: Sequence[trio.Nursery]) -> bool:
        """Whether tasks that are unknown live in one of these nurseries."""
        known = self.nurseries or ()
        return any(nursery.child_tasks and nursery not in known for nursery in nurseries)

    def know_nursery(self, nursery: trio.Nursery, *, of_pool: bool = False) -> None:
        """The tasks of a nursery are not unknown: they are the agent's own, or agents of a pool."""
        if self.nurseries is None:
            self.nurseries = {}
        self.nurseries[nursery] = of_pool

    def children(self) -> Offspring:
        """The agent's children; made when the first one is asked for."""
        if self.offspring is None:
            self.offspring = Offspring(self)
        return self.offspring

    # -- its means -----------------------------------------------------------------------------------------

    @property
    def parent(self) -> AgentRecord | None:
        """The agent that spawned it; None for the pool's own."""
        return self.home.owner

    @property
    def root(self) -> AgentRecord:
        """Its oldest ancestor below the pool, or itself."""
        record = self
        while record.home.owner is not None:
            record = record.home.owner
        return record

    @property
    def root_id(self) -> AgentId:
        """The id of its oldest ancestor below the pool, or its own."""
        return self.root.id

    @property
    def usage(self) -> TokenUsage:
        """What its model calls have used so far."""
        return NO_USAGE if self.used is NOTHING_USED else self.used.usage

    @property
    def budget(self) -> Budget | None:
        """The agent's quota, below its parent's, below the pool's."""
        if self._budget is None:
            above = self.state.budget if self.parent is None else self.parent.budget
            quota = self.fn.quota if is_described(self.fn) else None
            if quota is None or (quota.tokens is None and quota.cost_usd is None):
                return above
            tokens, cost = quota.tokens, quota.cost_usd
            if above is None:
                from agentpool._core.budget import Budget  # a plain agent never needs it

                self._budget = Budget(tokens=tokens, cost_usd=cost)
            else:
                self._budget = above.child(tokens=tokens, cost_usd=cost)
        return self._budget

    # -- its outcome -----------------------------------------------------------------------------------------

    def see(self) -> None:
        """Somebody looked at the outcome."""
        self.seen = True
        self.home.unseen.pop(self.id, None)

    def take(self) -> None:
        """Somebody fetched the outcome: the joins do not hand it out any more."""
        self.see()
        if not self.taken:
            self.taken = True
            if self.in_results:
                self.home.result_taken()

    def abort(self, reason: str | None) -> None:
        """Cancel the agent and all that live below it, at their next checkpoints.

        Not recursive: trees may be thousands deep. Who was aborted before is passed over with those
        below, which were aborted then, or when they were spawned.
        """
        todo: list[AgentRecord] = [self]
        while todo:
            record = todo.pop()
            if not record.ended and record._cancel(reason):
                assert record.offspring is not None
                todo.extend(reversed(record.offspring.live.values()))

    def _cancel(self, reason: str | None) -> bool:
        """Cancel the agent itself; tell whether its children are to be aborted too."""
        now = trio.current_time()
        if not self.aborted and now < self.deadline:
            self.aborted = True
            self.abort_reason = reason
        is_first = self.aborted_at == inf
        if is_first:
            self.aborted_at = now
            self.state.watch_abort(self)
        self.unwind()
        self.scope.cancel(reason)
        # A supervisor stops its children by itself, one after the other.
        stops_children = self.stops_children and not self.body_ended
        return self.offspring is not None and not stops_children and (is_first or self.stops_children)

    def completed(self, value: Any) -> AnyOutcome:
        """The outcome of a body that returned."""
        duration = trio.current_time() - self.started_at
        return Completed(
            agent_id=self.id,
            name=self.name,
            parent_id=self.parent_id,
            usage=self.usage,
            started_at=self.started_at,
            duration=duration,
            restarts=self.restarts,
            value=value,
        )

    def failed(self, error: BaseException) -> AnyOutcome:
        """The outcome of a body that raised."""
        return Failed(**self._facts(), error=error)

    def _facts(self) -> dict[str, Any]:
        return {
            "agent_id": self.id,
            "name": self.name,
            "parent_id": self.parent_id,
            "usage": self.usage,
            "started_at": self.started_at,
            "duration": trio.current_time() - self.started_at,
            "restarts": self.restarts,
        }

    def cancelled(self) -> AnyOutcome:
        """The outcome of a body that was cancelled."""
        if self.aborted:
            return Aborted(**self._facts(), reason=self.abort_reason)
        if trio.current_time() >= self.deadline:
            return self.failed(AgentTimeoutError(self.id, self.name, self._own_timeout()))
        return Aborted(**self._facts(), reason=CANCELLED_OUTSIDE)

    def _own_timeout(self) -> float | None:
        timeout = self.options.timeout
        own = timeout is not None and self.deadline >= self.started_at + timeout
        return timeout if own else None


class AgentHandle(Generic[T_co]):
    """What `spawn` returns: who the agent is, how it is doing, and its outcome."""

    __slots__ = ("_record",)

    def __init__(self, record: AgentRecord) -> None:
        self._record = record

    def __repr__(self) -> str:
        return f"<AgentHandle of {self._record!r}>"

    @property
    def id(self) -> AgentId:
        """The agent's id, to which messages are sent."""
        return self._record.id

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._record.name

    @property
    def status(self) -> AgentStatus:
        """What the agent is doing, or how it ended."""
        return self._record.status

    @property
    def outcome(self) -> AgentOutcome[T_co] | None:
        """How it ended; None until then. Reading a failure counts as having looked at it."""
        if self._record.outcome is not None:
            self._record.see()
        return self._record.outcome

    async def wait(self) -> AgentOutcome[T_co]:
        """Wait for the end of the agent, and return its outcome; never raises the agent's error.

        The joins do not hand out an outcome that was returned here. Any number of tasks may wait.

        Raises:
          DeadlockError: if the agent waits for the caller, so that neither could end.

        Checkpoint: always. Cancellation: `Cancelled` means that the outcome was not taken.
        """
        party = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        record = self._record
        if record.outcome is None:
            record.state.judge.check(party, (record,))
            wait = Wait(party, (record,))
            watchers = record.watchers
            if watchers is None:
                watchers = record.watchers = []
            watchers.append(wait)
            outcome: AgentOutcome[T_co] = await wait.park(lambda: watchers.remove(wait))
            return outcome
        record.take()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return record.outcome

    async def result(self) -> T_co:
        """Wait for the end of the agent, and return its value.

        Raises:
          AgentFailedError: from the agent's own exception, if it failed.
          AgentAbortedError: if it was aborted.
          DeadlockError: as `wait`.

        Checkpoint: always. Cancellation: as `wait`.
        """
        return (await self.wait()).unwrap()

    def abort(self, reason: str | None = None) -> None:
        """End the agent at its next checkpoint, and its children; harmless after its end.

        Does not wait. The outcome is `Aborted` with the reason, unless the body ends in another way.
        """
        self._record.abort(reason)


_PLAIN = SpawnOptions()


def options_of(
    name: str | None = None, timeout: float | None = None, restart: RestartPolicy | None = None
) -> SpawnOptions:
    """The options of a spawn, checked; agents without any share one value."""
    if name is None and timeout is None and restart is None:
        return _PLAIN
    options = SpawnOptions(name, timeout, restart)
    options.check()
    return options


@attrs.frozen
class StuckAgent:
    """An agent that was aborted and lives on: it swallows cancellation, shields itself or blocks.

    Attributes:
      id, name: who it is.
      stack: where its task stands, innermost last.
    """

    id: AgentId
    name: str
    stack: tuple[str, ...]
