"""One agent: its record, its handle, its life; and the state that the agents of a pool share."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import attrs
import trio

from agentpool._core.errors import (
    AgentPoolError,
    AgentTimeoutError,
    PoolClosedError,
    PoolLimitError,
    UnhandledAgentErrors,
)
from agentpool._core.events import (
    AgentFinished,
    AgentRestarted,
    AgentSpawned,
    AgentStarted,
    AgentStuck,
    DeadlockSuspected,
    MessageDeadLettered,
    MessageSent,
)
from agentpool._core.limits import InFlight, PoolLimits
from agentpool._core.messages import SUPERVISOR, AgentId, AgentMessage
from agentpool._core.outcomes import Aborted, AgentOutcome, AnyOutcome, Completed, Failed
from agentpool._core.restart import Intensity, RestartPolicy
from agentpool._core.usage import NO_USAGE, TokenUsage, UsageMeter
from agentpool._current import current_agent, set_current_agent, waiting_agent
from agentpool._events import EventLog
from agentpool._judge import Judge
from agentpool._router import DeadLetter, Inbox, MessageRouter, RouterHooks
from agentpool._slots import Party, Slots, Wait

if TYPE_CHECKING:
    from random import Random

    from agentpool._context import AgentContext
    from agentpool._core.budget import Budget
    from agentpool.abc import Driver, Memory

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

AgentStatus: TypeAlias = Literal["starting", "running", "waiting", "ending", "completed", "failed", "aborted"]

CANCELLED_OUTSIDE = "a scope around the pool was cancelled"

ABORT_PATIENCE = 5.0
"""An agent that lives on for so many seconds after its abort is reported as stuck."""


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
            raise TypeError(f"name must be a string, not {self.name!r}")
        if self.restart is not None and not isinstance(self.restart, RestartPolicy):
            raise TypeError(f"restart must be a RestartPolicy, not {self.restart!r}")
        if self.timeout is None:
            return
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, (int, float)):
            raise TypeError(f"timeout must be a number of seconds, not {self.timeout!r}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {self.timeout}")


def check_agent(agent: Any) -> None:
    """Refuse what cannot be an agent, with the mend."""
    if callable(agent):
        if not isinstance(agent, type):
            return
        raise TypeError(f"an agent is an async callable, not the class {agent.__name__}: give an instance")
    if _is_coroutine(agent):
        raise TypeError(
            "an agent is an async function, not the coroutine that a call of it makes: "
            "write spawn(agent, argument), not spawn(agent(argument))"
        )
    if type(agent).__name__ == "AgentManifest":
        raise TypeError("a manifest is no agent: write spawn(SpawnConfig(manifest, query))")
    raise TypeError(f"an agent is an async callable that takes a context, not {agent!r}")


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


def _is_coroutine(value: Any) -> bool:
    if hasattr(value, "close") and hasattr(value, "cr_frame"):
        value.close()  # it will never be awaited
        return True
    return False


def _refuse_task(async_fn: object) -> None:
    if _is_coroutine(async_fn):
        raise TypeError(
            "start_soon takes an async function, not the coroutine that a call of it makes: "
            "write start_soon(function, argument), not start_soon(function(argument))"
        )
    raise TypeError(f"start_soon takes an async function and its arguments, not {async_fn!r}")


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
    meter: UsageMeter | None = None
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
        scope: trio.CancelScope | None,
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
        self.scope: trio.CancelScope = trio.CancelScope(deadline=deadline) if scope is None else scope
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
            case None:
                pass
        if self.task is None:
            return "starting"
        if self.body_ended:
            return "ending"
        return "running" if self.active else "waiting"

    def waits_for(self) -> tuple[AgentId, ...]:
        """The agents that could end its waits; empty where anybody could."""
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
    def root_id(self) -> AgentId:
        """The id of its oldest ancestor below the pool, or its own."""
        record = self
        while record.home.owner is not None:
            record = record.home.owner
        return record.id

    @property
    def usage(self) -> TokenUsage:
        """What its model calls have used so far."""
        return NO_USAGE if self.meter is None else self.meter.total

    @property
    def budget(self) -> Budget | None:
        """The agent's quota, below its parent's, below the pool's."""
        if self._budget is None:
            above = self.state.budget if self.parent is None else self.parent.budget
            quota = getattr(getattr(self.fn, "manifest", None), "resources", None)
            tokens, cost = getattr(quota, "max_tokens_budget", None), getattr(quota, "max_cost_usd", None)
            if tokens is None and cost is None:
                return above
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
        """Cancel the agent and its children, at their next checkpoints."""
        if self.ended:
            return
        now = trio.current_time()
        if not self.aborted and now < self.deadline:
            self.aborted = True
            self.abort_reason = reason
        if self.aborted_at == inf:
            self.aborted_at = now
            self.state.watch_abort(self)
        self.unwind()
        self.scope.cancel(reason)
        if self.offspring is None or (self.stops_children and not self.body_ended):
            return  # a supervisor stops its children by itself, one after the other
        for child in list(self.offspring.live.values()):
            child.abort(reason)

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


def _is_unlimited(owner: AgentRecord | None, options: SpawnOptions) -> bool:
    return options.timeout is None and (owner is None or owner.deadline == inf)


Heir: TypeAlias = tuple[AgentRecord, contextvars.Context]
"""An agent that runs in the task of one that ended, and the context that it runs in."""


class _Hooks(RouterHooks):
    """What the router asks the pool."""

    def __init__(self, state: PoolState) -> None:
        super().__init__(waiting_agent)
        self._state = state

    def current_sender(self, claimed: AgentId) -> AgentId:
        record = current_agent()
        return record.id if record is not None and record.state is self._state else SUPERVISOR

    def check_wait(self, party: Party | None, targets: Any) -> None:
        self._state.judge.check(party, targets)

    def message_sent(self, message: AgentMessage) -> None:
        parent_id = self._state.parent_of(message.sender)
        self._state.events.emit(MessageSent, message.sender, parent_id, message)

    def message_buried(self, letter: DeadLetter) -> None:
        message = letter.message
        parent_id = self._state.parent_of(message.sender)
        self._state.events.emit(MessageDeadLettered, message.sender, parent_id, message, letter.reason)


class PoolState:
    """What the agents of a pool share.

    Attributes:
      records: the agents that have not ended.
      issued: how many ids were given out; `ended` of them have an outcome.
      draining: why no more agents are started; empty while they are.
    """

    def __init__(
        self,
        max_concurrent: int,
        *,
        driver: Driver | None,
        memory: Memory | None,
        tool_builder: Callable[[Any], Any] | None,
        inbox_capacity: int,
        budget: Budget | None,
        limits: PoolLimits,
        make_context: Callable[[AgentRecord], AgentContext],
        random: Random,
        detect_deadlocks: bool = True,
    ) -> None:
        self.driver = driver
        self.memory = memory
        self.tool_builder = tool_builder
        self.budget = budget
        self.limits = limits
        self.make_context = make_context
        self.random = random
        self.records: dict[AgentId, AgentRecord] = {}
        self.slots: Slots = Slots(max_concurrent, self._rested, self._judge_later)
        self.events: EventLog = EventLog()
        self.router: MessageRouter = MessageRouter(inbox_capacity, hooks=_Hooks(self), log=self.events)
        self.judge: Judge = Judge(
            self.slots, self.records, _inbox_of, self._suspected, enabled=detect_deadlocks
        )
        self.root: Offspring = Offspring(None)
        self.issued: int = 0
        self.ended: int = 0
        self.descendants: int = 0
        self.tool_calls: InFlight = InFlight("tool_calls", limits.tool_calls)
        self.model_calls: InFlight = InFlight("model_calls", limits.model_calls)
        self.meter: UsageMeter = UsageMeter()
        self.draining: str = ""
        self.body_ended = False
        self.fatal: BaseException | None = None
        self.stuck: dict[AgentId, StuckAgent] = {}
        self.reported: set[AgentId] = set()
        self.nursery: trio.Nursery | None = None
        self._spare_scope: trio.CancelScope | None = None
        self._heir: Heir | None = None
        self._watcher_sleeps = False
        self._to_judge: list[Party] = []
        self._aborting: dict[AgentId, AgentRecord] = {}
        self._watcher: trio.lowlevel.Task | None = None
        self._timer = trio.CancelScope()
        self._closed = False
        self.slots.on_stranded = self._set_timer

    def _rested(self, party: Party, ends_body: bool) -> None:
        self.judge.rested(party, ends_body)

    def _judge_later(self, party: Party) -> None:
        self._to_judge.append(party)
        self._wake_watcher()

    def _suspected(self, path: tuple[AgentId, ...]) -> None:
        self.events.emit(DeadlockSuspected, path[0], self.parent_of(path[0]), path)

    def parent_of(self, agent_id: AgentId) -> AgentId:
        """Who spawned an agent that has not ended; 0 for others."""
        record = self.records.get(agent_id)
        return SUPERVISOR if record is None else record.parent_id

    # -- starting ------------------------------------------------------------------------------------

    def admit(self, home: Offspring, *, by_agent: bool) -> None:
        """Refuse a start that the pool does not take any more, or that its limits forbid.

        Raises:
          PoolClosedError: if the pool drains or has ended, or the parent has.
          PoolLimitError: if a limit was reached.
        """
        if self.draining:
            raise PoolClosedError(self.draining)
        if self.body_ended and not by_agent:
            raise PoolClosedError("the block of the pool has ended")
        owner = home.owner
        if owner is not None:
            if owner.ended or owner.body_ended:
                raise PoolClosedError(f"agent {owner.id} ({owner.name}) has ended and spawns no more")
            if owner.depth >= self.limits.depth:
                raise PoolLimitError("depth", self.limits.depth)
        elif not by_agent:
            return
        if self.descendants >= self.limits.descendants:
            raise PoolLimitError("descendants", self.limits.descendants)

    def start(
        self,
        home: Offspring,
        fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        options: SpawnOptions,
        *,
        context: contextvars.Context | None = None,
        batch: Any = None,
        by_agent: bool = False,
    ) -> AgentRecord:
        """Give an agent its id, its inbox and a free slot, and start its task."""
        assert self.nursery is not None
        self.issued += 1
        if by_agent or home.owner is not None:
            self.descendants += 1
        scope = None
        if self._spare_scope is not None and _is_unlimited(home.owner, options):
            scope, self._spare_scope = self._spare_scope, None
        record = AgentRecord(self, self.issued, home, fn, args, options, batch, scope)
        self.slots.take(record)
        self.records[record.id] = record
        home.live[record.id] = record
        if self.events.subscriptions:
            self.events.emit(AgentSpawned, record.id, record.parent_id, record.name)
        owner = home.owner
        if owner is not None and owner.aborted:
            record.abort(owner.abort_reason)  # it was spawned under a shield
        if context is None:
            self.nursery.start_soon(_live, record, name=record.name)
        elif scope is None:
            nursery = self.nursery
            context.run(lambda: nursery.start_soon(_live, record, name=record.name))
        else:
            self._heir = (record, context.copy())
        return record

    # -- ending --------------------------------------------------------------------------------------

    def finish(self, record: AgentRecord, outcome: AnyOutcome) -> Heir | None:
        """Everything that the end of an agent changes, in one step.

        Returns:
          The agent that was started in its slot, if it is to run in the task of the one that ended.
        """
        record.outcome = outcome
        record.ended = True
        record.active = 0
        self.ended += 1
        del self.records[record.id]
        if self._aborting:
            self._aborting.pop(record.id, None)
        if self.stuck:
            self.stuck.pop(record.id, None)
        self.router.unregister(record.id)
        if self.events.subscriptions:
            self.events.emit(AgentFinished, record.id, record.parent_id, outcome)
        # Break the cycles through the record, so that it goes without waiting for the collector.
        record.context = None
        record.offspring = None
        record.task = None
        record.args = ()
        record.inbox.owner = None
        record.home.ended(record)
        if record.deadline == inf and not record.unwinding and type(outcome) is not Aborted:
            self._spare_scope = record.scope
        self.slots.give_back(record)
        self._spare_scope = None
        if self.slots.body_ended:
            self.judge.judge_rest()
        heir, self._heir = self._heir, None
        return heir

    def fatal_error(self, error: BaseException) -> None:
        """An agent raised what no pool may contain: everything is cancelled, and it comes out."""
        if self.fatal is None:
            self.fatal = error
            assert self.nursery is not None
            self.nursery.cancel_scope.cancel(f"an agent raised {error!r}")
        elif error is not self.fatal:
            self.fatal.add_note(f"another agent raised {error!r}")

    def abort_all(self, reason: str | None) -> None:
        """Abort every agent; children follow their parents."""
        for record in list(self.root.live.values()):
            record.abort(reason)

    def stop_starting(self, reason: str) -> None:
        """From now on, refuse to start agents; also those that wait for a slot."""
        if not self.draining:
            self.draining = reason
            for start in self.slots.drop_starts():
                start.refuse(reason)

    async def wait_for_end(self, seconds: float) -> bool:
        """Wait until no agent is left, or the time has passed; tell which."""
        with trio.move_on_after(seconds):
            while self.root.live:
                await self.root.all_ended(waiting_agent(), _nothing)
        return not self.root.live

    # -- watching ------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """The pool's one task of its own: it sees scopes around the pool being cancelled.

        Trio has no partial shield, so that an agent which was cancelled by an inner timeout and
        waits for its slot under a shield has to be told when a scope around the pool is cancelled.
        """
        self._watcher = trio.lowlevel.current_task()
        while not self._closed:
            try:
                with trio.CancelScope(shield=self.slots.outside_cancelled) as self._timer:
                    self._set_timer()
                    self._watcher_sleeps = True
                    await trio.lowlevel.wait_task_rescheduled(self._told)
            except trio.Cancelled:
                self.slots.outside_scope_cancelled()
            self._look_after()

    def _wake_watcher(self) -> None:
        if self._watcher_sleeps:
            self._watcher_sleeps = False
            assert self._watcher is not None
            trio.lowlevel.reschedule(self._watcher)

    def _told(self, _: Any) -> trio.lowlevel.Abort:
        # Runs in the same step as the cancellation of the agents, so that none waits in vain.
        self._watcher_sleeps = False
        if not self._closed and trio.current_time() < self._timer.deadline:
            self.slots.outside_scope_cancelled()
        return trio.lowlevel.Abort.SUCCEEDED

    def _set_timer(self) -> None:
        times = [party.deadline for party in self.slots.stranded]
        times += [record.aborted_at + ABORT_PATIENCE for record in self._unreported()]
        deadline = min(times, default=inf)
        if deadline < self._timer.deadline:
            self._timer.deadline = deadline

    def _unreported(self) -> list[AgentRecord]:
        return [record for record in self._aborting.values() if record.id not in self.reported]

    def watch_abort(self, record: AgentRecord) -> None:
        """Look later whether an aborted agent has ended."""
        self._aborting[record.id] = record
        deadline = record.aborted_at + ABORT_PATIENCE
        if deadline < self._timer.deadline:
            self._timer.deadline = deadline

    def _look_after(self) -> None:
        self.slots.release_stranded()
        to_judge, self._to_judge = self._to_judge, []
        for party in to_judge:
            if party.idle and not party.ended:
                self.judge.rested(party, True)
        self.report_stuck()

    def report_stuck(self) -> None:
        """Name the agents that live on although they were aborted some time ago."""
        now = trio.current_time()
        for record in self._unreported():
            if now >= record.aborted_at + ABORT_PATIENCE:
                self.report(record, tuple(_stack(record)))

    def report(self, record: AgentRecord, stack: tuple[str, ...]) -> None:
        """Name an agent that does not end, or that keeps everybody from going on."""
        if record.id not in self.reported:
            self.reported.add(record.id)
            if not record.ended:
                self.stuck[record.id] = StuckAgent(record.id, record.name, stack)
            self.events.emit(AgentStuck, record.id, record.parent_id, record.name, stack)

    def close(self) -> None:
        """The pool has ended: the watcher goes home, subscribers get the end."""
        self._closed = True
        self.judge.close()
        self.events.close()
        self._wake_watcher()


def _inbox_of(party: Party) -> Inbox:
    assert isinstance(party, AgentRecord)
    return party.inbox


def _stack(record: AgentRecord) -> list[str]:
    if record.task is None:
        return []
    return [
        f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}"
        for frame, line in record.task.iter_await_frames()
    ]


# -- tasks of an agent -------------------------------------------------------------------------------


class AgentNursery:
    """A nursery whose tasks the agent's pool knows, so that they may wait in pool operations.

    The same as a `trio.Nursery`, to which everything else is left.
    """

    def __init__(self, record: AgentRecord, nursery: trio.Nursery) -> None:
        self._record = record
        self._nursery = nursery
        self._tasks = 0
        self._joining = False

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """Cancels the tasks and the block."""
        return self._nursery.cancel_scope

    @property
    def child_tasks(self) -> frozenset[trio.lowlevel.Task]:
        """The tasks that have not ended."""
        return frozenset(self._nursery.child_tasks)

    def start_soon(self, async_fn: Callable[..., Awaitable[Any]], *args: Any, name: object = None) -> None:
        """Start a task of the agent; its first step comes later."""
        if not callable(async_fn):
            _refuse_task(async_fn)
        slot: list[Wait] = []
        self._nursery.start_soon(self._run, slot, async_fn, args, name=name or async_fn)
        self._count(slot)

    async def start(self, async_fn: Callable[..., Awaitable[Any]], *args: Any, name: object = None) -> Any:
        """Start a task of the agent, and wait until it calls `task_status.started()`.

        The caller counts as waiting for the task meanwhile: its count is the task's.
        """
        self._tasks += 1
        begun: list[trio.lowlevel.Task] = []
        try:
            return await self._nursery.start(self._run_started, begun, async_fn, args, name=name or async_fn)
        finally:
            if not begun:  # the nursery is closed
                self._tasks -= 1

    def _count(self, slot: list[Wait]) -> None:
        # Counted here and now: else the slot could be lent, or the agent judged, before its first step.
        self._tasks += 1
        wait = self._record.new_task()
        if wait is not None:
            slot.append(wait)

    async def _run_started(
        self,
        begun: list[trio.lowlevel.Task],
        async_fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        *,
        task_status: trio.TaskStatus[Any],
    ) -> None:
        begun.append(trio.lowlevel.current_task())
        status = _Started(self._record, task_status)
        await self._run([], partial(async_fn, task_status=status), args, status)

    async def _run(
        self,
        slot: list[Wait],
        async_fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        status: _Started | None = None,
    ) -> None:
        record = self._record
        set_current_agent(record)  # who starts it may be a task of somebody else
        task = trio.lowlevel.current_task()
        if record.more_tasks is None:
            record.more_tasks = set()
        record.more_tasks.add(task)
        fails = True
        try:
            for wait in slot:
                await wait.granted()
            await async_fn(*args)
            fails = False
        finally:
            # In one step with the end of the task: it stays known until its books are done.
            if status is None or status.called:
                self._ended(fails)
            else:
                self._tasks -= 1  # its count goes back to who waits for it to be started
            record.more_tasks.discard(task)

    def _ended(self, fails: bool) -> None:
        self._tasks -= 1
        if self._joining and not self._tasks:
            self._joining = False  # the block goes on: the count of this task becomes its own
        else:
            self._uncount(fails)

    def _uncount(self, fails: bool) -> None:
        record = self._record
        record.active -= 1
        if not record.active:
            record.rest(ends_body=True, fails=fails)

    def join(self, *, fails: bool) -> None:
        """The block has ended, and waits for the tasks."""
        if self._tasks:
            self._joining = True
            self._uncount(fails)

    async def joined(self) -> None:
        """All tasks have ended: the block goes on, when the agent has its slot."""
        if self._joining:
            await self._record.regain()


class _Started:
    """Trio's task status, which counts the caller of `start` again before it goes on."""

    def __init__(self, record: AgentRecord, task_status: trio.TaskStatus[Any]) -> None:
        self._record = record
        self._task_status = task_status
        self.called = False

    def started(self, value: Any = None) -> None:
        """Let `start` return the value."""
        self._task_status.started(value)
        self.called = True
        self._record.active += 1


@asynccontextmanager
async def open_known_nursery(record: AgentRecord) -> AsyncIterator[AgentNursery]:
    """Open a nursery in the calling task, a known one of the agent, for more known tasks."""
    known: AgentNursery | None = None
    try:
        async with trio.open_nursery() as nursery:
            known = AgentNursery(record, nursery)
            record.know_nursery(nursery)
            try:
                yield known
            except BaseException:
                known.join(fails=True)
                raise
            known.join(fails=False)
    finally:
        if known is not None:
            assert record.nurseries is not None
            del record.nurseries[known._nursery]
            await known.joined()  # noqa: ASYNC102  (never raises, and ends when the agent is cancelled)


# -- one agent's life ----------------------------------------------------------------------------------


async def _live(record: AgentRecord) -> None:
    """Run an agent, and then, in the same task, those that are started in the slot that it leaves.

    A task and a cancel scope for each agent would cost 12 of the 29 µs that a plain agent of a map
    took with them. An agent starts in a context of its own all the same: trio runs each step of a
    task in `Task.context`.
    """
    task = trio.lowlevel.current_task()
    with record.scope:
        while True:
            heir = await _life(record, task)
            if heir is None:
                return
            record, task.context = heir
            task.name = record.name
            await trio.lowlevel.cancel_shielded_checkpoint()  # the next step is in the new context


async def _life(record: AgentRecord, task: trio.lowlevel.Task) -> Heir | None:
    """Run an agent, from its first step to its outcome; return who takes over the task."""
    set_current_agent(record)
    record.task = task
    state = record.state
    if state.events.subscriptions:
        state.events.emit(AgentStarted, record.id, record.parent_id)
    restarts = None if record.options.restart is None else _Restarts(record, record.options.restart)
    outcome: AnyOutcome | None = None
    try:
        while True:
            record.context = state.make_context(record)
            try:
                value = await record.fn(record.context, *record.args)
            except BaseException as error:  # decided upon by the outcome; nothing is swallowed
                outcome = await _after_error(record, _with_mend(record, error))
            else:
                record.body_ended = True
                if record.offspring is None:
                    outcome = record.completed(value)
                else:
                    outcome = await _after_value(record, record.offspring, value)
                del value
            if restarts is None:
                break
            last = await restarts.after(outcome)
            if last is not None:
                outcome = last
                break
    finally:
        if outcome is None:  # a bug of ours: even then every id gets its outcome
            outcome = record.failed(AgentPoolError("the pool lost track of this agent"))
        heir = state.finish(record, outcome)
        # The traceback of a failure holds this frame: do not hold the record by it.
        del record, outcome
    return heir


async def _after_value(record: AgentRecord, offspring: Offspring, value: Any) -> AnyOutcome:
    unhandled = await _children_ended(record, offspring)
    if not unhandled:
        return record.completed(value)
    return record.failed(_unhandled(record, unhandled, value))


async def _after_error(record: AgentRecord, raised: BaseException) -> AnyOutcome:
    error = _without_cancelled(raised)
    record.body_ended = True
    unhandled: list[Exception] = []
    try:
        if record.offspring is not None:
            _abort_children(record, record.offspring, error)
            unhandled = await _children_ended(record, record.offspring)
        return _judged(record, error, unhandled)
    finally:
        del error, raised  # their traceback holds this frame


async def _children_ended(record: AgentRecord, offspring: Offspring) -> list[Exception]:
    """Wait for the children of a body that has ended; return the failures that it ignored."""
    if offspring.live:
        await offspring.all_ended(record, _nothing, cancellable=False, needs_slot=False)
    return offspring.failures()


def _with_mend(record: AgentRecord, error: BaseException) -> BaseException:
    """Tell how an agent is written, if the error came from calling it or awaiting what it returned."""
    if type(error) is not TypeError or error.__traceback__ is None or error.__traceback__.tb_next is not None:
        return error  # it comes out of the agent's own code
    if "await" not in str(error):
        error.add_note("An agent is called with its context, and then the arguments that spawn got.")
        return error
    mended = TypeError(
        f"{record.name} is no async function, and an agent has to be one: write `async def` before it"
    )
    mended.__cause__ = error
    return mended


def _nothing() -> None:
    return None


def _without_cancelled(error: BaseException) -> BaseException | None:
    """What is left of an error when trio's cancellations are taken out; the same if there are none."""
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        cancelled, rest = error.split(trio.Cancelled)
        if cancelled is not None:
            return rest
    return error


def _abort_children(record: AgentRecord, offspring: Offspring, error: BaseException | None) -> None:
    reason = record.abort_reason if error is None else f"its parent, agent {record.id}, failed: {error!r}"
    for child in list(offspring.live.values()):
        child.abort(reason)


def _judged(record: AgentRecord, error: BaseException | None, unhandled: list[Exception]) -> AnyOutcome:
    """Decide the outcome by how the body ended, and never by whether somebody asked.

    Args:
      error: what the body raised; None if it was cancelled.
      unhandled: failures of children that it ignored.
    """
    if error is None:
        outcome = record.cancelled()
        if not unhandled:
            return outcome
        if isinstance(outcome, Aborted):
            return record.failed(_unhandled(record, unhandled, None))
        assert isinstance(outcome, Failed)
        outcome.error.add_note(note_on(unhandled))
        return outcome
    fatal = fatal_part(error)
    if fatal is not None:
        record.seen = True
        record.state.fatal_error(fatal)
    if unhandled:
        error.add_note(note_on(unhandled))
    return record.failed(error)


def _unhandled(record: AgentRecord, errors: Sequence[Exception], value: Any) -> UnhandledAgentErrors:
    group = UnhandledAgentErrors(
        f"agent {record.id} ({record.name}) did not handle the failures of its children", errors
    )
    group.value = value
    return group


def note_on(unhandled: Sequence[Exception]) -> str:
    """What is added to an exception that hides failures nobody looked at."""
    return f"{len(unhandled)} failure(s) of agents that nobody looked at: " + ", ".join(
        repr(error) for error in unhandled[:5]
    )


def fatal_part(error: BaseException) -> BaseException | None:
    """The exception in `error` that no pool may contain: no `Exception` at all, or `MemoryError`."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            fatal = fatal_part(part)
            if fatal is not None:
                return fatal
        return None
    if isinstance(error, MemoryError):
        return error
    return None if isinstance(error, (Exception, trio.Cancelled)) else error


# -- starting afresh -----------------------------------------------------------------------------------


class _Restarts:
    """The restarts of one agent, by its policy."""

    def __init__(self, record: AgentRecord, policy: RestartPolicy) -> None:
        self._record = record
        self._policy = policy
        self._intensity = Intensity(policy.max_restarts, policy.within)

    async def after(self, outcome: AnyOutcome) -> AnyOutcome | None:
        """Return None when the agent is to be started afresh, else how it ended at last."""
        record, policy = self._record, self._policy
        if not _may_restart(record, policy, outcome):
            return outcome
        counted = self._intensity.restart(trio.current_time())
        if counted is None:
            return outcome
        self._intensity = counted
        record.restarts += 1
        state = record.state
        state.router.fail_asks_to(record.id, "was restarted", taken_only=True)
        if state.events.subscriptions:
            state.events.emit(AgentRestarted, record.id, record.parent_id, record.restarts, outcome)
        if await _back_off(record, policy.backoff.delay(record.restarts, state.random.random())):
            return record.cancelled()
        record.offspring = None
        record.body_ended = False
        return None


def _may_restart(record: AgentRecord, policy: RestartPolicy, outcome: AnyOutcome) -> bool:
    if record.aborted or record.is_cancelled() or record.inbox.ended or record.state.fatal:
        return False
    if record.state.draining or isinstance(outcome, Aborted):
        return False
    failed = isinstance(outcome, Failed)
    if not failed and record.state.slots.body_ended:
        return False  # the work is over: a server that ended well stays ended
    return policy.wants(failed=failed)


async def _back_off(record: AgentRecord, delay: float) -> bool:
    """Sleep without a slot, then wait for one; tell whether the agent was cancelled meanwhile."""
    state = record.state
    state.slots.give_back(record)
    if record.is_cancelled():
        return True
    if delay > 0:
        try:
            await trio.sleep(delay)
        except trio.Cancelled:
            return True
    if record.is_cancelled():
        return True
    record.active -= 1
    state.slots.idle += 1
    await record.regain()
    return record.is_cancelled()
