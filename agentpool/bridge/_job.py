"""The half of a seat that is in the loop's thread: the tasks of an asyncio function, and their end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import outcome
import sniffio

T = TypeVar("T")

CLEANUP_TIME = 5.0
"""A task that was cancelled has so many seconds to clean up before it is cancelled again."""
AGAIN = 1.0
"""Seconds from then on until it is cancelled once more, and so on."""

_job: ContextVar[Job[Any] | None] = ContextVar("agentpool_job", default=None)


class Job(Generic[T]):
    """An asyncio function that runs as a task of a loop, with all the tasks that it starts.

    Attributes:
      context: the variables in which it runs.
      task: the function's own, once it runs.
      made: the tasks that descend from it, where they do not tell it themselves.

    Args:
      ended: called in the loop's thread when the function and all that it started have ended; if the
        loop is closed before, in the thread that finds it out.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fn: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        ended: Callable[[], object],
    ) -> None:
        self.context = copy_context()
        self.task: asyncio.Task[None] | None = None
        self.made: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._loop = loop
        self._fn = fn
        self._args = args
        self._tell = ended
        self._result: outcome.Maybe[T] | None = None
        self._met: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._is_cancelled = False
        self._again: asyncio.TimerHandle | None = None
        self._left: set[asyncio.Task[Any]] = set()
        self.context.run(_job.set, self)
        # Trio's, which libraries that run on both look at.
        self.context.run(sniffio.current_async_library_cvar.set, "asyncio")

    # -- called in trio's thread -----------------------------------------------------------------------

    def begin(self) -> None:
        """Have the function begun. Returns at once."""
        self._soon(self._begin)

    def cancel(self) -> None:
        """Cancel the function and what it started, again and again until they have ended.

        The first time they have 5 seconds to clean up. Returns at once.
        """
        self._soon(self._cancel, CLEANUP_TIME)

    def _soon(self, fn: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(fn, *args)
        except RuntimeError as error:  # the loop was closed, and nothing runs in it any more
            if self._result is None:
                self._result = outcome.Error(error)
            self._tell()

    @property
    def was_cancelled(self) -> bool:
        """Whether the function ended by its cancellation (asked when it has ended)."""
        return self._result is None

    def value(self) -> T:
        """Return what the function returned, or raise what it raised."""
        result, self._result = self._result, None
        if result is None:
            raise RuntimeError("the asyncio task of the function was cancelled, and not by its pool")
        return result.unwrap()

    # -- in the loop's thread --------------------------------------------------------------------------

    def _begin(self) -> None:
        _note_new_tasks(self._loop)
        self.task = self._loop.create_task(self._run(), name=_name_of(self._fn), context=self.context)
        self.task.add_done_callback(self._function_ended)

    async def _run(self) -> None:
        try:
            self._result = outcome.Value(await self._fn(*self._args))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # also what is fatal: it leaves the pool, and does not end the loop
            self._result = outcome.Error(error)

    def meet(self, task: asyncio.Task[Any]) -> bool:
        """Note a task that asks something of the pool; tell whether it is new, and not the function's."""
        if task is self.task or task in self._met:
            return False
        self._met.add(task)
        return True

    def _cancel(self, patience: float) -> None:
        assert self.task is not None  # it began before, in this thread
        if self.task.done() and not self._left:
            return
        self._is_cancelled = True
        for task in self._left or (self.task,):
            task.cancel("the agent was cancelled")
        self._again = self._loop.call_later(patience, self._cancel, AGAIN)

    def _function_ended(self, _: object) -> None:
        """End what it has left running, as a loop does at its end, and tell when that has ended."""
        self._left = {task for task in self._started() if not task.done()}
        for task in tuple(self._left):
            task.cancel("the agent that started it has ended")
            task.add_done_callback(self._one_ended)
        if self._left and self._again is None:
            self._again = self._loop.call_later(CLEANUP_TIME, self._cancel, AGAIN)
        self._one_ended(None)

    def _one_ended(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            self._left.discard(task)
            _tell_of_error(self._loop, task)
        if not self._left:
            if self._again is not None:
                self._again.cancel()
            self._tell()

    def _started(self) -> set[asyncio.Task[Any]]:
        """The tasks that descend from the function's."""
        started = {*self._met, *_tasks_of(self, self._loop)}
        started.discard(self.task)
        return started


def _tell_of_error(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """Tell of an error that nobody awaits, as a loop does at its end."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        message = "a task that an agent had left running raised"
        loop.call_exception_handler({"message": message, "exception": error, "task": task})


def _name_of(fn: Callable[..., Any]) -> str:
    return f"agentpool {getattr(fn, '__qualname__', repr(fn))}"


if sys.version_info >= (3, 12):

    def _note_new_tasks(loop: asyncio.AbstractEventLoop) -> None:
        """Nothing: a task tells its context."""

    def _tasks_of(job: Job[Any], loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
        return {task for task in asyncio.all_tasks(loop) if task.get_context().get(_job) is job}

else:
    # Before Python 3.12 a task does not tell its context: it has to be seen when it is made.

    class _NotingFactory:
        """Makes tasks as the loop did before, and notes whose they are."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __call__(
            self, loop: asyncio.AbstractEventLoop, coro: Generator[Any, None, Any], **options: Any
        ) -> Any:
            if self._inner is None:
                task: Any = asyncio.Task(coro, loop=loop, **options)
            else:
                task = self._inner(loop, coro, **options)
            context = options.get("context")
            job = _job.get() if context is None else context.get(_job)
            if job is not None:
                job.made.add(task)
            return task

    def _note_new_tasks(loop: asyncio.AbstractEventLoop) -> None:
        factory: Any = loop.get_task_factory()
        if not isinstance(factory, _NotingFactory):
            noting: Any = _NotingFactory(factory)
            loop.set_task_factory(noting)

    def _tasks_of(job: Job[Any], loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
        return set(job.made)
