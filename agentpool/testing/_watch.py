"""How a simulation sees the pools that a program opens, and where its tasks stand."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import attrs
import trio

from agentpool._kernel.instrument import PoolInstrument
from agentpool._kernel.pool import AgentPool
from agentpool.testing._log import EventLog


@attrs.define(eq=False, kw_only=True)
class Watcher(PoolInstrument):
    """Keeps every pool of a simulated run for a look at its books, and copies its events.

    Attributes:
      pools, log: what is added to.
      own_task: the task that watches the time of the simulation.
    """

    pools: list[Any]
    log: EventLog
    own_task: trio.lowlevel.Task
    # A thread that looks at the loop every second of the wall clock has no place in virtual time.
    watches_clock: bool = False
    looks_outside: bool = False

    def owns(self, task: trio.lowlevel.Task) -> bool:
        """Whether it is the one that watches the time."""
        return task is self.own_task

    def pool_opened(self, pool: AgentPool) -> None:
        """Keep the pool; it may be torn down with the run, so that its block never ends."""
        self.pools.append(pool)
        state, log = pool._state, self.log
        # What hosts agents in a worker tells it to the pool whose agents they are, which tells it again.
        state.events.tap(lambda event: None if state.root.are_hosted else log.append(event))


def copy_events(pool: AgentPool, log: EventLog) -> None:
    """Have every event of a pool appended to a log at once, from now on."""
    pool._state.events.tap(log.append)


def stacks_of_tasks(main: trio.lowlevel.Task) -> str:
    """Return where a task and those below it stand, innermost line last."""
    lines: list[str] = []
    for task in (main, *tasks_below(main)):
        lines.append(f"task {task.name}")
        lines.extend(_stack_of(task))
    return "\n".join(lines)


def tasks_below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """Yield the tasks in the nurseries of a task, and those in theirs, oldest first."""
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=lambda child: child._counter):
            yield child
            yield from tasks_below(child)


def _stack_of(task: trio.lowlevel.Task) -> list[str]:
    lines = []
    for frame, number in task.iter_await_frames():
        if "/trio/" not in frame.f_code.co_filename.replace("\\", "/"):
            summary = traceback.FrameSummary(frame.f_code.co_filename, number, frame.f_code.co_name)
            lines.append(f"  {summary.filename}:{number} in {summary.name}: {summary.line}")
    return lines
