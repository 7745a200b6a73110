"""How a simulation sees the pools that a program opens, and where its tasks stand."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import trio

from agentpool.testing._log import EventLog


@contextmanager
def watching(pools: list[Any], log: EventLog) -> Iterator[None]:
    """Put every pool that this thread opens inside into `pools`, its events into `log`.

    It goes around `trio.run`, because a run that is torn down leaves its blocks as they are.
    """
    with _pools_observed(lambda pool: _observe(pool, pools, log)):
        yield


def _observe(pool: Any, pools: list[Any], log: EventLog) -> None:
    pools.append(pool)
    pool._state.events.subscriptions.append(_Recorder(pool._state.events, log))


_lock = threading.Lock()
_local = threading.local()
_watching = 0


class _Originals:
    init: Any
    watchdog: Any


_originals = _Originals()


@contextmanager
def _pools_observed(observer: Callable[[Any], None]) -> Iterator[None]:
    """Show this thread's pools to `observer`; other threads may do the same meanwhile."""
    global _watching
    with _lock:
        if _watching == 0:
            _install()
        _watching += 1
    _local.observer = observer
    try:
        yield
    finally:
        _local.observer = None
        with _lock:
            _watching -= 1
            if _watching == 0:
                _uninstall()


def _install() -> None:
    from agentpool._kernel import pool as _pool
    from agentpool._kernel import state as _state

    state: Any = _state.PoolState
    pool_module: Any = _pool
    init = _originals.init = state.__init__
    watchdog = _originals.watchdog = pool_module.watching_for_blocks

    def observed(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        observer = getattr(_local, "observer", None)
        if observer is not None:  # else it is a pool of another thread
            observer(_pool.AgentPool(self, None))

    def watching_for_blocks(*args: Any) -> AbstractContextManager[None]:
        # A thread that looks at the loop every second of the wall clock has no place in virtual time.
        is_simulated = getattr(_local, "observer", None) is not None
        return nullcontext() if is_simulated else watchdog(*args)

    state.__init__ = observed
    pool_module.watching_for_blocks = watching_for_blocks


def _uninstall() -> None:
    from agentpool._kernel import pool as _pool
    from agentpool._kernel import state as _state

    state: Any = _state.PoolState
    pool_module: Any = _pool
    state.__init__ = _originals.init
    pool_module.watching_for_blocks = _originals.watchdog


class _Recorder:
    """Stands among the subscriptions of a pool and copies each event at once: it is never behind."""

    overflow = "drop_oldest"
    behind = 0
    max_buffer = 1
    # The events are handed out by a call of `wake` if a task waits.
    _task = True

    def __init__(self, source: Any, log: EventLog) -> None:
        self.cursor = source.end
        self._source = source
        self._log = log

    def wake(self) -> None:
        """Copy what is new."""
        for event in self._source.slice(self.cursor, self._source.end - self.cursor):
            self._log.append(event)
        self.cursor = self._source.end

    def shed(self) -> None:
        """Nothing is ever left behind."""


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
