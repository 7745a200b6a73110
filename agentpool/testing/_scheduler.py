"""The one file that touches trio's private parts: a scheduler that a seed decides.

Trio shows a program few of the orders in which its tasks may run: of two runnable tasks each may
come first, but of five siblings only 2 of the 120 orders are seen. It has a switch for tests that
shuffles every batch of runnable tasks instead. This file turns the switch on, and replaces what
else would let the address of an object decide an order:

* the tie between two deadlines that pass at the same time (`Deadlines.add`: by `id`), which the
  seed decides here;
* the order in which the tasks and scopes below a cancelled scope are told (`CancelStatus`: sets,
  ordered by `id`), which is the order of their creation here.

All of it is in force only while a simulation runs, and only runs in the simulating thread see the
seed. `check_trio` names what is missing when a new trio has changed.
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import outcome
import trio
from trio._core import _run

_lock = threading.Lock()
_local = threading.local()
_serial = itertools.count()
_running = 0


class SeededScheduler:
    """Decides the order of one run from a seed, and counts its steps.

    Attributes:
      steps: how many steps tasks have taken so far.
      max_steps: after so many, each further step of a task below `main_task` raises
        `StepsExhausted`; after twice as many the whole run does.
      on_step: called with the number of each step before it is taken, in the run's thread.
      error: what `on_step` raised; the run goes on without it.
    """

    def __init__(self, seed: int, *, max_steps: int) -> None:
        # A random generator of its own, so that the program's draws do not move the scheduler.
        self._random = random.Random(f"agentpool scheduler {seed}")
        self._max_steps = max_steps
        self.main_task: trio.lowlevel.Task | None = None
        self.steps = 0
        self.on_step: Callable[[int], None] | None = None
        self.error: BaseException | None = None

    def shuffle(self, batch: list[Any]) -> None:
        """Put the runnable tasks into the order in which they take their next step."""
        if self.steps > 2 * self._max_steps:
            raise StepsExhausted(self.steps)
        self._random.shuffle(batch)

    def stop(self) -> None:
        """Have the whole run end by `StepsExhausted`, whatever its tasks wait for."""
        self._max_steps = -1

    def poison(self, task: trio.lowlevel.Task) -> None:
        """Once the steps are used up, let what the task waits for end by `StepsExhausted`."""
        # A task that begins has nothing to be sent, and nothing can be thrown into it yet.
        can_throw = isinstance(task._next_send, outcome.Outcome)
        if self.steps > self._max_steps and can_throw and _is_below(task, self.main_task):
            task._next_send = outcome.Error(StepsExhausted(self.steps))

    def tiebreaker(self) -> int:
        """Return a number that decides between two deadlines that pass at the same time."""
        return self._random.getrandbits(30) << 40 | next(_serial)


class StepsExhausted(BaseException):
    """A run did not end within its steps, although it was cancelled."""


def _is_below(task: trio.lowlevel.Task, ancestor: trio.lowlevel.Task | None) -> bool:
    while task is not ancestor:
        nursery = task.parent_nursery
        if nursery is None:
            return False
        task = nursery.parent_task
    return True


def break_waits(main_task: trio.lowlevel.Task) -> None:
    """Wake what waits below a task and has no children, by `StepsExhausted`, cancellable or not.

    What waits in a pool is left alone: the pool would wake it a second time, which trio forbids.
    """
    for nursery in main_task.child_nurseries:
        for task in nursery.child_tasks:
            break_waits(task)
    has_children = any(nursery.child_tasks for nursery in main_task.child_nurseries)
    in_pool = getattr(main_task._abort_func, "__module__", "").startswith("agentpool._")
    if main_task._abort_func is not None and not has_children and not in_pool:
        trio.lowlevel.reschedule(main_task, outcome.Error(StepsExhausted()))


class _StepCounter(trio.abc.Instrument):
    def __init__(self, scheduler: SeededScheduler) -> None:
        self._scheduler = scheduler

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        scheduler = self._scheduler
        scheduler.steps += 1
        if scheduler.on_step is not None:
            try:
                scheduler.on_step(scheduler.steps)
            except BaseException as error:
                # Trio would log it and drop the instrument; it belongs to whoever runs this.
                scheduler.on_step = None
                scheduler.error = error
        scheduler.poison(task)


class _SwitchedRandom(random.Random):
    """Trio's source of chance: this thread's scheduler where one is at work, else what it was."""

    def __init__(self, before: random.Random) -> None:
        super().__init__()
        self.before = before

    def shuffle(self, x: Any) -> None:
        scheduler: SeededScheduler | None = getattr(_local, "scheduler", None)
        if scheduler is None:
            self.before.shuffle(x)
        else:
            scheduler.shuffle(x)

    def random(self) -> float:
        return self.before.random()

    def uniform(self, a: float, b: float) -> float:
        return self.before.uniform(a, b)


class _OrderedSet(dict[Any, None]):
    """What trio uses of a set, in the order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class _OrderedCancelStatus(_run.CancelStatus):
    __slots__ = ()

    def __attrs_post_init__(self) -> None:
        self._children = _OrderedSet()  # type: ignore[assignment]
        self._tasks = _OrderedSet()  # type: ignore[assignment]
        super().__attrs_post_init__()


def _add_deadline(self: Any, deadline: float, cancel_scope: trio.CancelScope) -> None:
    scheduler: SeededScheduler | None = getattr(_local, "scheduler", None)
    tiebreaker = next(_serial) if scheduler is None else scheduler.tiebreaker()
    heapq.heappush(self._heap, (deadline, tiebreaker, cancel_scope))
    self._active += 1


class _Originals:
    cancel_status: Any
    add_deadline: Any
    random: random.Random
    deterministic: bool


_originals = _Originals()


def _install() -> None:
    check_trio()
    run: Any = _run
    _originals.cancel_status = run.CancelStatus
    _originals.add_deadline = run.Deadlines.add
    _originals.random = run._r
    _originals.deterministic = run._ALLOW_DETERMINISTIC_SCHEDULING
    run.CancelStatus = _OrderedCancelStatus
    run.Deadlines.add = _add_deadline
    run._r = _SwitchedRandom(run._r)
    run._ALLOW_DETERMINISTIC_SCHEDULING = True


def _uninstall() -> None:
    run: Any = _run
    run.CancelStatus = _originals.cancel_status
    run.Deadlines.add = _originals.add_deadline
    run._r = _originals.random
    # Hypothesis sets the switch when it is imported, which may have been in between.
    run._ALLOW_DETERMINISTIC_SCHEDULING = _originals.deterministic or "hypothesis" in sys.modules


@contextmanager
def scheduling(scheduler: SeededScheduler) -> Iterator[trio.abc.Instrument]:
    """Let `scheduler` order what `trio.run` runs in this thread; the instrument goes to the run.

    Raises:
      RuntimeError: if a simulation is already running in this thread, or trio has changed.
    """
    global _running
    if getattr(_local, "scheduler", None) is not None:
        raise RuntimeError("a simulation is already running in this thread; they do not nest")
    with _lock:
        if _running == 0:
            _install()
        _running += 1
    _local.scheduler = scheduler
    try:
        yield _StepCounter(scheduler)
    finally:
        _local.scheduler = None
        with _lock:
            _running -= 1
            if _running == 0:
                _uninstall()


def schedule_points() -> int:
    """How often the calling task has let others run; the same number means in the same step."""
    return trio.lowlevel.current_task()._schedule_points


def check_trio() -> None:
    """Make sure that the private parts of trio which this file relies on are as they were.

    Raises:
      RuntimeError: that names what is missing.
    """
    wanted: list[tuple[str, bool]] = [
        ("_run._ALLOW_DETERMINISTIC_SCHEDULING", hasattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING")),
        ("_run._r, a random.Random", isinstance(getattr(_run, "_r", None), random.Random)),
        ("_run.Deadlines.add(deadline, scope)", _parameters("Deadlines", "add") == 3),
        ("_run.Deadlines._heap and _active", _fields("Deadlines", "_heap", "_active")),
        ("_run.CancelStatus._children and _tasks", _fields("CancelStatus", "_children", "_tasks")),
        (
            "_run.Task._counter and its like",
            _fields("Task", "_counter", "_next_send", "_abort_func", "_schedule_points"),
        ),
    ]
    missing = [name for name, present in wanted if not present]
    if missing:
        raise RuntimeError(
            f"agentpool.testing cannot simulate with trio {trio.__version__}:"
            f" these private parts have changed: {', '.join(missing)}; use a trio that agentpool supports"
        )


def _parameters(owner: str, method: str) -> int:
    function = getattr(getattr(_run, owner, None), method, None)
    code = getattr(function, "__code__", None)
    return getattr(code, "co_argcount", 0)


def _fields(owner: str, *names: str) -> bool:
    fields = getattr(getattr(_run, owner, None), "__attrs_attrs__", ())
    return {field.name for field in fields}.issuperset(names)
