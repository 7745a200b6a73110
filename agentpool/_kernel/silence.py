"""Finds that nobody can write to an agent any more, though the pool's block goes on.

A message may come from any task of the program, and from outside of trio's tasks. So that nobody can
write is said only when every task of the run is seen to wait for agents, all of which wait themselves,
and when there is nothing beside the tasks that could act. What cannot be told counts as somebody.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from weakref import WeakSet

import trio

from agentpool._core.errors import DeadlockError
from agentpool._core.messages import SUPERVISOR
from agentpool._kernel import instrument
from agentpool._kernel._trio_private import (
    call_soon,
    effective_deadline_of,
    has_host_loop,
    has_token,
    idle_threads,
    is_callback_task,
    waits_for_children,
)
from agentpool._kernel.holding import Holder
from agentpool._kernel.judge import Judge
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import Wait, Waiter, waits_outside
from agentpool._kernel.watcher import Watcher

resting_threads: set[threading.Thread] = set()
"""Threads that wait for an operation of a pool, and do nothing before trio tells them something. A bridge
lists its callers here; in trio's thread it takes a thread out in the step in which it tells it."""

watching: WeakSet[Silence] = WeakSet()
"""Those that look whenever trio is about to sleep. A thread that begins to rest afterwards has trio wake once
more, or nobody would see it."""

resting_tasks: WeakSet[trio.lowlevel.Task] = WeakSet()
"""Tasks that only do what another thread asks for, such as the one that holds a pool for it."""


class Silence(trio.abc.Instrument):
    """Tells those who asked for it when no message can come any more.

    It looks whenever trio is about to sleep, as long as somebody listens: only then can all be at rest,
    and nothing else tells that the last task of a program has begun to wait.
    """

    def __init__(self, judge: Judge, watcher: Watcher, holder: Holder) -> None:
        self._judge = judge
        self._holder = holder
        self._watcher = watcher
        self._listening: list[Wait] = []
        self._watches = False

    def listen(self, wait: Wait) -> None:
        """Have a wait for a message fail with `DeadlockError` once nobody could ever send one."""
        if not self._judge.enabled:
            return
        self._listening.append(wait)
        if not self._watches:
            self._watches = True
            watching.add(self)
            trio.lowlevel.add_instrument(self)

    def close(self) -> None:
        """The pool has ended, or nobody listens."""
        if self._watches:
            self._watches = False
            watching.discard(self)
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Look whether anybody could go on (called by trio)."""
        if self._youngest() is not None:
            # An instrument must not wake tasks: trio has decided already how long it sleeps.
            call_soon(self._tell)

    def _tell(self) -> None:
        youngest = self._youngest()  # again: what was called from elsewhere came first
        if youngest is not None:
            assert youngest.waiter is not None
            # One only: what its task does next comes first.
            youngest.withdraw(DeadlockError((youngest.waiter.id, SUPERVISOR)))

    def _youngest(self) -> Wait | None:
        """The wait to be told next, if nobody is left who could end it."""
        self._listening = [wait for wait in self._listening if not wait.happened]
        if not self._listening:
            self.close()
            return None
        if self._judge.idle < len(self._judge.agents):
            return None  # somebody runs
        youngest = max(self._listening, key=_agent_of)
        return None if self._somebody_acts(youngest) else youngest

    def _somebody_acts(self, wait: Wait) -> bool:
        waiter = wait.waiter
        assert waiter is not None
        if _is_reached_from_outside():  # first, because it costs the same for every number of agents
            return True
        known: set[trio.lowlevel.Task | None] = {self._watcher.task, *_with_below(self._holder.tasks)}
        for agent in self._judge.agents:
            if _goes_on(agent, waiter):
                return True
            known.update(agent.tasks)
        return any(task not in known and _may_act(task, waiter) for task in _tasks_of_run())


def _agent_of(wait: Wait) -> int:
    assert wait.waiter is not None
    return wait.waiter.id


def _goes_on(agent: Waiter, waiter: Waiter) -> bool:
    """Whether an agent that waits may go on by itself, before the waiter itself is cancelled."""
    return waiter.is_narrowed(agent.deadline) or any(wait.is_uncertain for wait in agent.waits)


def _tasks_of_run() -> Iterable[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    return () if root is None else _with_below((root,))


def _with_below(tasks: Iterable[trio.lowlevel.Task]) -> Iterable[trio.lowlevel.Task]:
    """These tasks and all that descend from them."""
    todo = list(tasks)
    for task in todo:
        yield task
        for nursery in task.child_nurseries:
            todo.extend(nursery.child_tasks)


def _may_act(task: trio.lowlevel.Task, waiter: Waiter) -> bool:
    """Whether a task of no agent may do something, before the waiter itself is cancelled."""
    if waits_for_children(task) or is_callback_task(task) or instrument.is_watching(task):
        return False
    if task in resting_tasks:
        return False  # the threads that it serves are asked for themselves
    wait = waits_outside.get(task)
    return wait is None or wait.happened or waiter.is_narrowed(effective_deadline_of(task))


def _is_reached_from_outside() -> bool:
    """Whether something beside trio's tasks may call: a thread, a handler of a signal, a host loop."""
    if instrument.looks_outside():
        # Who calls in needs a token; but a handler of a signal, which runs in this very thread, can make one.
        if has_token() and (_has_other_threads() or has_host_loop()):
            return True
        if any(map(_is_handled, signal.valid_signals())):
            return True
    # After the threads: what one has asked for before its end is seen here.
    return trio.lowlevel.current_statistics().run_sync_soon_queue_size > 0


def _has_other_threads() -> bool:
    return bool({*threading.enumerate()} - {threading.current_thread()} - idle_threads() - resting_threads)


def _is_handled(number: signal.Signals) -> bool:
    handler = signal.getsignal(number)
    if not callable(handler) or handler is signal.default_int_handler:
        return False
    # Trio's own, and that of the bridges, for Ctrl-C, end a wait of the main thread and write to nobody.
    return not getattr(handler, "__module__", "").startswith(("trio.", "agentpool.bridge."))


protect_module(globals())
