"""What the agents of a pool share: who lives, who starts, what the end of one changes."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any

import trio

from agentpool._core.errors import (
    PoolClosedError,
    PoolLimitError,
)
from agentpool._core.events import (
    AgentFinished,
    AgentSpawned,
    AgentStuck,
    DeadlockSuspected,
    MessageDeadLettered,
    MessageSent,
)
from agentpool._core.limits import InFlight, PoolLimits
from agentpool._core.messages import SUPERVISOR, AgentId, AgentMessage
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.text import note, shown
from agentpool._core.usage import NOTHING_USED, UsageSum
from agentpool._kernel.agent import AgentRecord, Offspring, SpawnOptions, StuckAgent
from agentpool._kernel.current import current_agent, waiting_agent
from agentpool._kernel.events import EventLog
from agentpool._kernel.judge import Judge
from agentpool._kernel.life import live
from agentpool._kernel.router import DeadLetter, Inbox, MessageRouter, RouterHooks
from agentpool._kernel.slots import Party, Slots

if TYPE_CHECKING:
    from random import Random

    from agentpool._core.budget import Budget
    from agentpool._kernel.context import AgentContext
    from agentpool.abc import Driver, Memory

ABORT_PATIENCE = 5.0
"""An agent that lives on for so many seconds after its abort is reported as stuck."""


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
        self.slots: Slots = Slots(max_concurrent, self._rested, self._judge_later, self._set_timer)
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
        self.used: UsageSum = NOTHING_USED
        self.draining: str = ""
        self.body_ended = False
        self.fatal: BaseException | None = None
        self.stuck: dict[AgentId, StuckAgent] = {}
        self.reported: set[AgentId] = set()
        self.nursery: trio.Nursery | None = None
        self._watcher_sleeps = False
        self._to_judge: list[Party] = []
        self._aborting: dict[AgentId, AgentRecord] = {}
        self._watcher: trio.lowlevel.Task | None = None
        self._timer = trio.CancelScope()
        self._closed = False

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
        owner, limits = home.owner, self.limits
        if owner is not None:
            if owner.ended or owner.body_ended:
                raise PoolClosedError(f"agent {owner.id} ({owner.name}) has ended and spawns no more")
            if owner.depth >= limits.depth:
                raise PoolLimitError("depth", limits.depth)
        if len(self.records) >= limits.alive:
            raise PoolLimitError("alive", limits.alive)
        descends = by_agent or owner is not None
        if descends and limits.descendants is not None and self.descendants >= limits.descendants:
            raise PoolLimitError("descendants", limits.descendants)

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
        record = AgentRecord(self, self.issued, home, fn, args, options, batch)
        self.slots.take(record)
        self.records[record.id] = record
        home.live[record.id] = record
        if self.events.subscriptions:
            self.events.emit(AgentSpawned, record.id, record.parent_id, record.name)
        owner = home.owner
        if owner is not None and owner.aborted:
            record.abort(owner.abort_reason)  # it was spawned under a shield
        nursery = self.nursery
        if context is None:
            nursery.start_soon(live, record, name=record.name)
        else:
            context.run(lambda: nursery.start_soon(live, record, name=record.name))
        return record

    # -- ending --------------------------------------------------------------------------------------

    def finish(self, record: AgentRecord, outcome: AnyOutcome) -> None:
        """Everything that the end of an agent changes, in one step."""
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
        self.slots.give_back(record)
        if self.slots.body_ended:
            self.judge.judge_rest()

    def fatal_error(self, error: BaseException, who: str = "an agent") -> None:
        """Somebody raised what no pool may contain: everything is cancelled, and it comes out."""
        if self.fatal is None:
            self.fatal = error
            assert self.nursery is not None
            self.nursery.cancel_scope.cancel(f"{who} raised {shown(error)}")
        elif error is not self.fatal:
            note(self.fatal, f"another agent raised {shown(error)}")

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
                await self.root.all_ended(waiting_agent(), lambda: None)
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
    frames = () if record.task is None else record.task.iter_await_frames()
    return [f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}" for frame, line in frames]
