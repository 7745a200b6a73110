"""Tasks of an agent beside its body: a nursery that its pool knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any

import trio

from agentpool._blocking import ThreadCall, lend_thread
from agentpool._core.errors import LeftOpenError
from agentpool._core.text import note, shown
from agentpool._kernel.activity import Activity
from agentpool._kernel.current import set_current_agent
from agentpool._kernel.leftovers import NurseryOwner, run_tidily, told_of, when_left_open
from agentpool._kernel.options import is_coroutine
from agentpool._kernel.places import Place, place_of_task, set_place, task_ended
from agentpool._kernel.protection import protect_module
from agentpool._kernel.wait import Wait


def _refuse_task(async_fn: object) -> None:
    if is_coroutine(async_fn):
        raise TypeError(
            "start_soon takes an async function, not the coroutine that a call of it makes: "
            "write start_soon(function, argument), not start_soon(function(argument))"
        )
    raise TypeError(f"start_soon takes an async function and its arguments, not {shown(async_fn)}")


class AgentNursery:
    """A nursery whose tasks the agent's pool knows, so that they may wait in pool operations.

    The same as a `trio.Nursery`, to which everything else is left.
    """

    def __init__(self, record: Activity, nursery: trio.Nursery) -> None:
        self._record = record
        self._nursery = nursery
        self._tasks = 0
        self._joining = False
        self._thread: ThreadCall | None = None  # lent while the block waits for the tasks

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
        self._nursery.start_soon(
            self._run, slot, async_fn, args, place_of_task(self._record), name=name or async_fn
        )
        self._count(slot)

    async def start(self, async_fn: Callable[..., Awaitable[Any]], *args: Any, name: object = None) -> Any:
        """Start a task of the agent, and wait until it calls `task_status.started()`.

        The caller counts as waiting for the task meanwhile: its count is the task's.
        """
        self._tasks += 1
        begun: list[trio.lowlevel.Task] = []
        thread = lend_thread()
        try:
            return await self._nursery.start(self._run_started, begun, async_fn, args, name=name or async_fn)
        finally:
            if not begun:  # the nursery is closed
                self._tasks -= 1
            if thread is not None:
                await thread.take_back()  # noqa: ASYNC102  (ends when it is cancelled, and never raises that)

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
        # Trio moves the task to another nursery when it has started: what it leaves open is seen by
        # where it stands, so that it stands in a scope of its own, which is moved along.
        with trio.CancelScope():
            fn = partial(async_fn, task_status=status)
            await self._run([], fn, args, place_of_task(self._record), status)

    async def _run(
        self,
        slot: list[Wait],
        async_fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        place: Place | None,
        status: _Started | None = None,
    ) -> None:
        record = self._record
        set_current_agent(record)  # who starts it may be a task of somebody else
        set_place(place)
        task = trio.lowlevel.current_task()
        record.add_task(task)
        fails = True
        try:
            for wait in slot:
                await wait.granted()
            _, error, left_open = await run_tidily(async_fn, args)
            if left_open and (error is None or not isinstance(error, trio.Cancelled)):
                if error is None:
                    error = LeftOpenError(record.id, record.name, left_open)
                else:
                    note(error, told_of(left_open))
            if error is not None:
                try:
                    raise error
                finally:
                    del error
            fails = False
        finally:
            # In one step with the end of the task: it stays known until its books are done.
            if status is None or status.called:
                self._ended(fails)
            else:
                self._tasks -= 1  # its count goes back to who waits for it to be started
            record.drop_task(task)
            task_ended(place)

    def _ended(self, fails: bool) -> None:
        self._tasks -= 1
        if self._joining and not self._tasks:
            self._joining = False  # the block goes on: the count of this task becomes its own
        else:
            self._uncount(fails)

    def _uncount(self, fails: bool) -> None:
        self._record.task_ended(fails=fails)

    def join(self, *, fails: bool) -> None:
        """The block has ended, and waits for the tasks."""
        if self._tasks:
            self._joining = True
            self._thread = lend_thread()
            self._uncount(fails)

    async def joined(self) -> None:
        """All tasks have ended: the block goes on, when the agent has its slot. Harmless if repeated."""
        self._record.forget_nursery(self._nursery)
        if self._joining:
            self._joining = False
            await self._record.regain()
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.take_back()

    def left_open(self) -> None:
        """The block was never left, and somebody else closes it."""
        self.join(fails=False)

    async def closed(self) -> None:
        """It was closed: who did that goes on, when the agent has its slot."""
        await self.joined()


class _Started:
    """Trio's task status, which counts the caller of `start` again before it goes on."""

    def __init__(self, record: Activity, task_status: trio.TaskStatus[Any]) -> None:
        self._record = record
        self._task_status = task_status
        self.called = False

    def started(self, value: Any = None) -> None:
        """Let `start` return the value."""
        self._task_status.started(value)
        self.called = True
        self._record.task_goes_on()


def tell_when_left_open(known: AgentNursery, owner: NurseryOwner) -> None:
    """Have somebody else told if the nursery is found left open, who then tells the nursery."""
    when_left_open(known._nursery, owner)


def open_known_nursery(record: Activity) -> AbstractAsyncContextManager[AgentNursery]:
    """Open a nursery in the calling task, a known one of the agent, for more known tasks."""
    return _OpenNursery(record)


class _OpenNursery(AbstractAsyncContextManager[AgentNursery]):
    """The block of a known nursery; a class, so that no code of a generator's runs at its ends."""

    def __init__(self, record: Activity) -> None:
        self._record = record
        self._manager = trio.open_nursery()
        self._known: AgentNursery | None = None

    async def __aenter__(self) -> AgentNursery:
        nursery = await self._manager.__aenter__()
        self._known = AgentNursery(self._record, nursery)
        self._record.know_nursery(nursery)
        when_left_open(nursery, self._known)
        return self._known

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        known = self._known
        assert known is not None
        known.join(fails=error is not None)
        try:
            return await self._manager.__aexit__(kind, error, trace)
        finally:
            await known.joined()  # noqa: ASYNC102  (never raises, and ends when the agent is cancelled)
            del error


protect_module(globals())
