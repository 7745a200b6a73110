"""What of an agent runs and what waits, and so whether it holds, lends or wants a slot.

The mechanism, in four sentences. An agent whose known tasks all wait gives its slot back. Whoever
makes a wait of it true asks for a slot on its behalf, in the same step. Its tasks go back to trio's
run queue when it has one, or when it is itself being cancelled. An operation that happened keeps its
value until then.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs
import trio

from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._kernel._trio_private import effective_deadline_in
from agentpool._kernel.holding import Holder
from agentpool._kernel.idleness import is_idle_deadline
from agentpool._kernel.judge import Judge
from agentpool._kernel.log import EventLog
from agentpool._kernel.protection import protect_module
from agentpool._kernel.silence import Silence
from agentpool._kernel.slots import Slots
from agentpool._kernel.wait import Held, Wait
from agentpool._kernel.watcher import Watcher

if TYPE_CHECKING:
    from agentpool._core.budget import Budget

Standing: TypeAlias = Literal["running", "lent", "queued", "backing_off"]
"""How an agent that has not ended stands to its slot; `Activity.standing` tells which."""


@attrs.frozen
class Surroundings:
    """The parts of a pool that an agent's waiting meets; one for each pool.

    Attributes:
      events: where what happens is told.
      nursery: the pool's; its agents are child tasks of it.
      holder: what lives as long as the pool, beside its agents.
      root_task: of the run of trio that the pool belongs to, which tells it from others. A token would
        too, but as long as nobody has made one, no thread can call into the run.
      budget: what the model calls of the pool may use together.
    """

    slots: Slots
    judge: Judge
    watcher: Watcher
    silence: Silence
    events: EventLog
    nursery: trio.Nursery
    holder: Holder
    root_task: trio.lowlevel.Task | None
    budget: Budget | None = None

    def check_here(self) -> None:
        """Refuse a call from a foreign thread, or from another run of trio: it would break the books.

        Raises:
          RuntimeError: with what to do instead.
        """
        if trio.lowlevel.in_trio_run() and trio.lowlevel.current_root_task() is self.root_task:
            return
        raise RuntimeError(
            "a pool is used in the thread and the run of trio that opened it; from a thread that this run "
            "started, write trio.from_thread.run_sync(function, ...), or trio.from_thread.run(...) to wait"
        )


@attrs.define(eq=False)
class Activity:
    """The half of an agent that runs and waits.

    Attributes:
      id, name: whose it is.
      pool: the parts of its pool.
      deadline: when the agent is cancelled, on trio's clock.
      active: how many known tasks run.
      holds: whether it holds a slot.
      ready: tasks that were woken, and wait for the slot.
      waits: the waits of the tasks that wait.
      unwinding: whether it is being cancelled, so that its tasks need no slot.
      ended: whether it has its outcome.
      tasks: its known ones, that of its body first, once that has begun.
      nurseries: the nurseries in its tasks whose tasks are known: its own, and (True) those of pools.
      held: what it has opened or uses that must not outlive it.
      backing_off: whether it sleeps before it is started afresh.
      root_id: the id of its oldest ancestor below the pool, or its own.

    Invariants: `ready` implies not `holds`;  idle implies not `holds`;  active and not `holds` is true
    of an agent that unwinds, and of one of whose tasks only those run that need no slot.
    """

    id: AgentId
    name: str
    pool: Surroundings
    deadline: float
    active: int = 1
    holds: bool = True
    ready: Sequence[Wait] = ()
    waits: Sequence[Wait] = ()
    unwinding: bool = False
    ended: bool = False
    tasks: dict[trio.lowlevel.Task, None] = attrs.field(factory=dict)
    nurseries: dict[trio.Nursery, bool] | None = None
    held: Sequence[Held] = ()
    root_id: AgentId = SUPERVISOR
    backing_off: bool = False

    @property
    @abstractmethod
    def parent_id(self) -> AgentId:
        """The id of the agent that spawned it; 0 for the pool's own."""
        ...

    @property
    def slots(self) -> Slots:
        """Those of its pool."""
        return self.pool.slots

    @property
    def idle(self) -> bool:
        """Whether every known task waits, and none was woken: only others can move it."""
        return not self.active and not self.ready

    @property
    def standing(self) -> Standing:
        """Which one of four states the agent is in.

        It runs while a task of it does: in its slot, or without one while it is cancelled and
        unwinds. It is queued while a task was woken and the slot is missing. It backs off before a
        restart. Else it has lent its slot, because all of its tasks wait but those that need none.
        """
        if self.holds:
            return "running"
        if self.backing_off:
            return "backing_off"
        if self.ready:
            return "queued"
        return "running" if self.active and self.is_cancelled() else "lent"

    # -- its tasks -----------------------------------------------------------------------------

    def knows(self, task: trio.lowlevel.Task) -> bool:
        """Whether a task is one of its known ones."""
        return task in self.tasks

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
        """The tasks of a nursery are its own, or agents of a pool."""
        if self.nurseries is None:
            self.nurseries = {}
        self.nurseries[nursery] = of_pool

    def forget_nursery(self, nursery: trio.Nursery) -> None:
        """The nursery has ended."""
        (self.nurseries or {}).pop(nursery, None)

    def add_task(self, task: trio.lowlevel.Task) -> None:
        """One more task is its own."""
        self.tasks[task] = None

    def drop_task(self, task: trio.lowlevel.Task) -> None:
        """A task of it has ended; harmless if the agent has ended before."""
        self.tasks.pop(task, None)

    # -- a task begins to wait, and ends to ------------------------------------------------------

    def pause(self, wait: Wait) -> None:
        """Count a task as waiting; when it was the last one that ran, give the slot back."""
        self.pool.judge.wait_begins(wait)
        # A tuple: nearly always of one wait, and then no list has to be kept for each agent.
        self.waits = (*self.waits, wait) if self.waits else (wait,)
        # The wait is listed before the task stops counting: a judgement that starts in `rest` has to see it.
        self.active -= 1
        if not self.active:
            self.rest(judge=wait.has_to_be_judged)

    def rest(self, *, judge: bool, fails: bool = False) -> None:
        """Give the slot back: no known task runs any more.

        Args:
          judge: whether nobody has judged yet what this means for the waits of others.
          fails: whether a task ended by an error, which is about to cancel the others: only what is
            left of them afterwards can be judged.
        """
        if self.ready:
            return  # a task that needed no slot rests; those that need one still wait for it
        pool = self.pool
        # Counted before the slot goes: whoever gets it may come to rest in the same step, and then
        # has to see that this agent rests already.
        pool.judge.idle += 1
        if self.holds:
            self.holds = False  # first, since the next line may come back here
            # This may start a child, which ends our own wait: so `idle` is asked below, not assumed.
            pool.slots.give_back(self)
        if fails:
            # Trio cancels the siblings of a task that failed only after this step.
            pool.watcher.soon(self._judge_again)
            return
        if judge and self.idle:
            pool.judge.judge_again(self)
        pool.judge.rested(self)

    def _judge_again(self) -> None:
        if self.idle and not self.ended:
            self.pool.judge.judge_again(self)
            self.pool.judge.rested(self)

    def task_ended(self, *, fails: bool = False) -> None:
        """A known task came to its end."""
        self.active -= 1
        if not self.active:
            self.rest(judge=True, fails=fails)

    def task_goes_on(self) -> None:
        """A known task that was counted as waiting goes on, beside one that runs."""
        self.active += 1

    def woken(self, wait: Wait) -> None:
        """Let a task that was woken go on, at once or when the agent has a slot again."""
        # Out of the list first: who is resumed, or judged, below must not find a wait that has happened.
        self._forget(wait)
        pool = self.pool
        # In this step it stops being idle, whichever way it goes on, also if it only queues for its slot.
        if self.idle:
            pool.judge.idle -= 1
        if self.holds or not wait.needs_slot:
            self._go_on(wait)
        elif self.is_cancelled():
            # Who unwinds needs no slot, and so do its tasks that were woken before and queue for one:
            # a cleanup that waited for a slot could wait for the very agents that wait for it.
            self._go_on(wait)
            self.go_on_without_slot()
        # Not past its own tasks that queue already, nor past other agents: `has_room` says that none does.
        elif not self.ready and pool.slots.has_room:
            self._take_slot()
            self._go_on(wait)
        else:
            self._ask_for_slot(wait)

    def _go_on(self, wait: Wait) -> None:
        self.active += 1
        wait.resume()

    def _forget(self, wait: Wait) -> None:
        waits = self.waits
        self.waits = () if len(waits) == 1 else tuple(other for other in waits if other is not wait)
        self.pool.judge.wait_ended(wait)

    def _ask_for_slot(self, wait: Wait) -> None:
        if wait.asked_to_cancel:
            # Trio asks a sleeping task once whether it can be cancelled, and it has answered no.
            self.pool.watcher.watch_cut_off(self)
        if self.ready:
            self.ready = (*self.ready, wait)
        else:
            self.ready = (wait,)
            self.pool.slots.claim_for_woken(self)

    def _take_slot(self) -> None:
        self.pool.slots.take(self)
        self.holds = True

    # -- as a claimant of a slot -------------------------------------------------------------------

    @property
    def withdrawn(self) -> bool:
        """Whether it wants no slot any more: it was let go without one."""
        return not self.ready

    def granted(self) -> None:
        """A slot is free, and it is its turn."""
        self._take_slot()
        self.pool.watcher.forget_cut_off(self.id)
        self.go_on_without_slot()

    def go_on_without_slot(self) -> None:
        """Let the woken tasks go on, with the slot that was granted or because they need none."""
        # Emptied and counted before any of them is resumed: a wait that did not sleep yet runs on at once.
        ready, self.ready = self.ready, ()
        self.active += len(ready)
        for wait in ready:
            wait.resume()

    def new_task(self) -> Wait | None:
        """Count one more task that runs.

        Returns:
          What the task has to wait for first (`Wait.granted`), if the agent has no slot.
        """
        if self.idle:
            self.pool.judge.idle -= 1
        if self.holds or self.is_cancelled():
            self.active += 1
            return None
        if not self.ready and self.pool.slots.has_room:
            self._take_slot()
            self.active += 1
            return None
        wait = Wait.that_happened(self)
        self._ask_for_slot(wait)
        return wait

    async def regain(self) -> None:
        """Wait for the slot, after a task slept in something that is none of our waits.

        The caller is not counted as active; it is afterwards.

        Cancellation: ends the wait if the agent itself is cancelled, and is kept off if not.
        """
        wait = self.new_task()
        if wait is not None:
            await wait.granted()

    def back_off(self) -> None:
        """Give the slot back though its task runs on: it sleeps before it is started afresh."""
        self.backing_off = True
        if self.holds:
            self.holds = False
            self.pool.slots.give_back(self)

    async def come_back(self) -> None:
        """Wait for the slot after `back_off`."""
        self.backing_off = False
        # As an agent whose one task was woken and wants its slot: `regain` counts it again.
        self.active -= 1
        self.pool.judge.idle += 1
        await self.regain()

    def end(self) -> None:
        """The agent has its outcome: its slot is free."""
        self.ended = True
        self.active = 0
        # Who queues for a slot is withdrawn by this: the slots pass it over when it would be its turn.
        self.ready = ()
        self.tasks.clear()
        self.nurseries = None
        self.pool.watcher.ended(self.id)
        # Out of the judge's list before the slot is handed on: who gets it must not count this agent
        # among those that could still move.
        self.pool.judge.remove(self)
        if self.holds:
            self.holds = False
            self.pool.slots.give_back(self)
        if self.pool.judge.work_is_over:
            self.pool.judge.judge_rest()

    # -- being cancelled ---------------------------------------------------------------------------

    def is_cancelled(self) -> bool:
        """Whether the agent itself is being cancelled, so that it unwinds without a slot.

        Compares the clock: to ask a scope whether it is cancelled would cancel it here and now,
        when its deadline has passed, and so run code in the middle of our bookkeeping.
        """
        if self.unwinding or self.pool.watcher.outside_cancelled:
            return True
        return self.deadline != inf and trio.current_time() >= self.deadline

    def cannot_be_cancelled_again(self) -> None:
        """Watch over a task that trio will not tell again that it is cancelled."""
        if self.is_cancelled():
            self.go_on_without_slot()
        else:
            self.pool.watcher.watch_cut_off(self)

    def is_narrowed(self, deadline: float) -> bool:
        """Whether a deadline is narrower than the agent's own, and than those around the pool."""
        if deadline >= self.deadline or is_idle_deadline(self, deadline):
            return False
        return deadline < effective_deadline_in(self.pool.nursery)

    def ends_away(self, task: trio.lowlevel.Task) -> bool:
        """Whether the code for which a task waits may end the wait by itself, in another process."""
        away = self.pool.judge.away.get(self.id)
        return away is not None and self.is_narrowed(away.ends_at(task))

    def looks_away(self, task: trio.lowlevel.Task) -> bool:
        """Whether that code has opened a pool there, whose agents may end the wait."""
        away = self.pool.judge.away.get(self.id)
        return away is not None and away.has_pool(task)

    def unwind(self) -> None:
        """The agent is being cancelled: from here on its tasks need no slot."""
        self.unwinding = True
        if self.ready:
            self.go_on_without_slot()

    # -- asked by the watchdog -----------------------------------------------------------------------

    def stack(self) -> tuple[str, ...]:
        """Where the task of its body stands, innermost last."""
        frames = next(iter(self.tasks)).iter_await_frames() if self.tasks else ()
        return tuple(
            f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}" for frame, line in frames
        )

    def is_on_cpu(self) -> bool:
        """Whether a task of it is what runs just now (asked in another thread)."""
        return any(getattr(task.coro, "cr_running", False) for task in list(self.tasks))


protect_module(globals())
