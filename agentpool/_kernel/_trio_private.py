"""What trio knows and does not tell in public; canaries in the tests watch over it.

Five things: the effective deadline of a task that sleeps, where in the tree of cancel scopes a task
stands, whether a scope around such a place was cancelled, how a nursery is closed by somebody who does
not hold its context manager, and what in a run can act and what cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, TypeAlias

import trio

from agentpool._kernel.protection import protect_module

Standing: TypeAlias = object
"""Where a task stands in the tree of cancel scopes; two are compared with `is`."""


def effective_deadline_of(task: trio.lowlevel.Task) -> float:
    """Return what `trio.current_effective_deadline()` would return in another task.

    Asked only when a judgement depends on it. Every wait could note its own deadline in public
    ways, but that costs 0.6 µs for each, most of which nobody ever asks for.
    """
    deadline: float = task._cancel_status.effective_deadline()
    return deadline


def effective_deadline_in(nursery: trio.Nursery) -> float:
    """Return what `trio.current_effective_deadline()` returns in a new task of a nursery."""
    deadline: float = nursery._cancel_status.effective_deadline()
    return deadline


def standing_of(task: trio.lowlevel.Task) -> Standing:
    """Return where a task stands: the innermost scope that it has entered and not left."""
    return task._cancel_status


def open_nurseries(task: trio.lowlevel.Task) -> int:
    """Return how many nurseries a task has opened and not left."""
    return len(task._child_nurseries)


def innermost_nursery(task: trio.lowlevel.Task) -> trio.Nursery:
    """Return the nursery that a task opened last."""
    return task._child_nurseries[-1]


def is_inside(nursery: trio.Nursery, task: trio.lowlevel.Task) -> bool:
    """Whether a task has entered scopes since it opened a nursery, which have to be left first."""
    inner: Any = nursery._cancel_status
    return inner is not task._cancel_status and bool(inner.encloses(task._cancel_status))


def encloses(standing: Standing, task: trio.lowlevel.Task) -> bool:
    """Whether a task stands there, or in a scope inside."""
    status: Any = standing
    return bool(status.encloses(task._cancel_status))


def is_cancelled_at(standing: Standing) -> bool:
    """Whether a scope that encloses the place was cancelled; unlike trio's own, a pure read."""
    status: Any = standing
    return bool(status.effectively_cancelled)


def innermost_scope(task: trio.lowlevel.Task) -> trio.CancelScope:
    """Return the scope that a task entered last."""
    return task._cancel_status._scope


def leave_scope(scope: trio.CancelScope, error: BaseException | None) -> BaseException | None:
    """Leave a scope as its `with` block would, and return what is left of the error."""
    return scope._close(error)


async def leave_nursery(
    nursery: trio.Nursery, error: BaseException | None
) -> tuple[BaseException | None, BaseException | None]:
    """Wait for the tasks of a nursery; return what is left of the error, and what they raised."""
    raised = await nursery._nested_child_finished(None)
    if isinstance(raised, BaseExceptionGroup):  # its tasks were cancelled: that is no failure
        raised = raised.split(trio.Cancelled)[1]
    return nursery.cancel_scope._close(error), raised


def waits_for_children(task: trio.lowlevel.Task) -> bool:
    """Whether a task stands at the end of a nursery's block, and waits for the tasks in it."""
    nurseries = task._child_nurseries
    return bool(nurseries) and nurseries[-1]._parent_waiting_in_aexit


def is_callback_task(task: trio.lowlevel.Task) -> bool:
    """Whether a task is the one in which trio calls what `run_sync_soon` was given."""
    return task.name == "<TrioToken.run_sync_soon task>"


def has_host_loop() -> bool:
    """Whether the run is a guest of another event loop, which does things beside it."""
    return bool(_runner().is_guest)


def has_token() -> bool:
    """Whether somebody, or trio for its own threads, has made a token: without it no thread calls in."""
    return _runner().trio_token is not None


def call_soon(function: Callable[[], object]) -> None:
    """Have trio call a function at the next turn of its loop, as a token does, but without making one."""
    _runner().entry_queue.run_sync_soon(function)


def _runner() -> Any:
    run: Any = trio._core._run.GLOBAL_RUN_CONTEXT
    return run.runner


def idle_threads() -> set[Thread]:
    """Return trio's threads that have nothing to do: kept for a while, for the next call."""
    workers: Any = trio._core._thread_cache.THREAD_CACHE._idle_workers
    return {worker._thread for worker in tuple(workers)}


protect_module(globals())
