"""An asyncio function that runs on behalf of a task of trio's: a tool call, or the body of an agent.

The function runs as a task of a loop in another thread. The task of trio's waits for it, and performs
what it asks of the pool, so that a wait over there is a wait of the agent here: the slot is lent, and
deadlocks are seen. Cancellation goes the other way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import trio

from agentpool._kernel.activity import Activity
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.nursery import AgentNursery, open_known_nursery
from agentpool._kernel.wait import OwnTaskWait
from agentpool.bridge._calls import Call, call_soon
from agentpool.bridge._job import Job

T = TypeVar("T")

_seat: ContextVar[Seat | None] = ContextVar("agentpool_seat", default=None)


def current_seat() -> Seat | None:
    """Return the seat of the calling code, if it belongs to one and that has not ended."""
    seat = _seat.get()
    return None if seat is None or seat.has_ended else seat


class Seat:
    """Where a task of trio's sits while an asyncio function runs for it.

    Which tasks run over there cannot be seen from here, only which of them wait in operations of the
    pool. So the agent counts as waiting while at least one of them does, unless another that did
    before runs: the function itself is taken to wait for those that it has started.

    Attributes:
      token: of the run of trio.
      is_over: whether the function has ended, or is being cancelled: no more operations begin.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self.is_over: bool = False
        self._loop = loop
        self._agent = waiting_agent()
        self._job: Job[Any] | None = None
        self._asked: deque[tuple[Call[Any], asyncio.Task[Any] | None]] = deque()
        self._performing = 0
        self._running: set[asyncio.Task[Any]] = set()  # tasks beside the function's that have asked before
        self._ended = trio.Event()
        self._turn = trio.Event()
        self._parked: OwnTaskWait | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the function has, and all that it had started."""
        return self._ended.is_set()

    # -- in the loop's thread --------------------------------------------------------------------------

    def post(self, call: Call[Any]) -> None:
        """Have the task of trio's begin an operation. Returns at once."""
        assert self._job is not None
        task = asyncio.current_task()
        is_new = task is not None and self._job.meet(task)
        if is_new:
            assert task is not None
            task.add_done_callback(partial(call_soon, self.token, self._task_ended))
        if not call_soon(self.token, self._ask, call, task):
            call.end()

    # -- in trio's thread ------------------------------------------------------------------------------

    def _ask(self, call: Call[Any], task: asyncio.Task[Any] | None) -> None:
        if self.is_over:
            call.end()
            return
        if task is not None:
            self._running.discard(task)
        self._asked.append((call, task))
        self._wake()

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._wake()

    def _job_ended(self) -> None:
        self.is_over = True
        self._ended.set()
        self._wake()

    def _wake(self) -> None:
        self._turn.set()
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.wake()

    async def run(self, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        """Run the function over there, and wait for its end; `asyncio_function` tells more."""
        await trio.lowlevel.checkpoint()
        job: Job[T] = Job(self._loop, fn, args, partial(call_soon, self.token, self._job_ended))
        job.context.run(_seat.set, self)
        self._job = job
        cancelled: trio.Cancelled | None = None
        async with self._open_nursery() as nursery:
            try:
                job.begin()
                await self._serve(nursery)
            except trio.Cancelled as error:
                cancelled = error
            finally:
                self.is_over = True
                self._cut_off_asked()
                with trio.CancelScope(shield=True):
                    await self._end(job)
                nursery.cancel_scope.cancel("the function has ended")
        try:
            if cancelled is not None and job.was_cancelled:
                raise cancelled
            return job.value()
        finally:
            del cancelled

    async def _end(self, job: Job[Any]) -> None:
        if not self._ended.is_set():
            job.cancel()
            await self._ended.wait()

    def _open_nursery(self) -> AbstractAsyncContextManager[trio.Nursery | AgentNursery]:
        return trio.open_nursery() if self._agent is None else open_known_nursery(self._agent)

    async def _serve(self, nursery: trio.Nursery | AgentNursery) -> None:
        """Perform what the function asks for, until it has ended."""
        while not self.is_over:
            # Nothing awaitable between here and the wait: what is asked for meanwhile would not be seen.
            while self._asked:
                call, task = self._asked.popleft()
                self._performing += 1
                call.before_tell = partial(self._goes_on, task)
                call.context.run(partial(nursery.start_soon, call.run, name=call.fn))
            if self._agent is None or not self._performing or self._running:
                self._turn = trio.Event()
                await self._turn.wait()
            else:
                await self._park(self._agent)

    async def _park(self, agent: Activity) -> None:
        """Wait, and count as waiting: each task over there that is known waits in the pool."""
        self._parked = OwnTaskWait(agent)
        await self._parked.park(self._unpark)

    def _unpark(self, _: object) -> None:
        self._parked = None

    def _goes_on(self, task: asyncio.Task[Any] | None) -> None:
        """A task over there is about to go on: first the agent counts as running again."""
        assert self._job is not None
        self._performing -= 1
        if task is not None and task is not self._job.task and not task.done():
            self._running.add(task)
        self._wake()

    def _cut_off_asked(self) -> None:
        while self._asked:
            self._asked.popleft()[0].end()
