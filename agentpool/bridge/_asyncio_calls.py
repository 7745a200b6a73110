"""How a task of asyncio waits for an operation on trio: until it is over, whatever is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    aclosing,
    closing,
    nullcontext,
    suppress,
)
from inspect import isasyncgen, isgenerator
from typing import Any, Generic, TypeVar

import attrs
import outcome
import trio

from agentpool._core.errors import PoolClosedError
from agentpool._core.text import note
from agentpool._kernel.splitting import in_full
from agentpool.bridge._calls import BlockCall, Call
from agentpool.bridge._items import END, PLAIN, items_of

T = TypeVar("T")


class LoopEvent:
    """An event of a loop of asyncio's that any thread may set."""

    def __init__(self, when_set: Callable[[], object] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._when_set = when_set

    def set(self) -> None:
        """Let whoever waits go on; harmless if the loop has been closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        self._event.set()
        if self._when_set is not None:
            self._when_set()

    def clear(self) -> None:
        """Have the next one wait."""
        self._event.clear()

    async def wait(self) -> None:
        """Wait until it is set."""
        await self._event.wait()


@attrs.frozen
class Door:
    """Where operations are begun on trio.

    Attributes:
      post: has one begun.
      token: of the run of trio.
      is_agents: whether an agent performs them, for one of its own tasks over here.
    """

    post: Callable[[Call[Any]], object]
    token: trio.lowlevel.TrioToken
    is_agents: bool = False

    def cut_off(self) -> BaseException:
        """Say why an operation was not begun, or was cut off: the pool is over, or the agent cancelled."""
        if self.is_agents:
            return asyncio.CancelledError("the agent is being cancelled")
        return PoolClosedError("the pool has ended")


async def perform(door: Door, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Perform an operation on trio, and wait for its end.

    Args:
      door: where it is begun.
      fn, args: the operation.

    Raises:
      PoolClosedError: if it could not be begun, or was cut off, because the pool is over.

    Cancellation: cancels it over there, and waits until it has ended. If it had happened by then, its
    value is returned or its error raised, and `CancelledError` comes at the next await. One that is
    owed already comes first, and nothing is begun.
    """
    await _checkpoint_if_cancelled()
    ended = LoopEvent()
    call: Call[T] = Call(fn, args, ended.set)
    door.post(call)
    cancelled = await sleep_until(ended, lambda: call.ended, lambda: call.cancel(door.token))
    if call.result is None:
        raise cancelled or door.cut_off()
    if cancelled is not None:
        cancel_again(cancelled)
    result, call.result = call.result, None
    try:
        return result.unwrap()
    finally:
        del result, cancelled


async def _checkpoint_if_cancelled() -> None:
    """Let a cancellation come that is owed to the calling task.

    Else a task that asks for one thing after the other, each of which happens, would never be cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        await asyncio.sleep(0)


async def sleep_until(
    told: LoopEvent, is_over: Callable[[], bool], cancel: Callable[[], object]
) -> asyncio.CancelledError | None:
    """Wait until something is over; a cancellation calls `cancel` instead, and is returned.

    Lets the other tasks of the loop run at least once, also if trio's thread was faster than this one.
    """
    cancelled: asyncio.CancelledError | None = None
    has_waited = False
    while not (is_over() and has_waited):
        has_waited = True
        try:
            await (asyncio.sleep(0) if is_over() else told.wait())
            told.clear()
        except asyncio.CancelledError as error:
            cancelled = error
            cancel()
    return cancelled


async def enter(
    door: Door, make: Callable[..., AbstractAsyncContextManager[T]], *args: Any
) -> EnteredBlock[T]:
    """Enter a block on trio, and wait until it is entered; as `perform`."""
    await _checkpoint_if_cancelled()
    told = LoopEvent()
    call: BlockCall[T] = BlockCall(make, args, told.set)
    door.post(call)
    cancelled = await sleep_until(told, lambda: call.ended, lambda: call.cancel(door.token))
    if call.result is None:
        raise cancelled or door.cut_off()
    if cancelled is not None:
        cancel_again(cancelled)
    return EnteredBlock(call, call.result.unwrap(), told, door.token)


class EnteredBlock(Generic[T]):
    """A block that was entered on trio, by a task of asyncio's."""

    def __init__(self, call: BlockCall[T], value: T, told: LoopEvent, token: trio.lowlevel.TrioToken) -> None:
        self.value = value
        self._call = call
        self._told = told
        self._token = token

    async def leave(self, error: BaseException | None) -> None:
        """Leave the block, and wait until it is left.

        Args:
          error: what leaves the block of asyncio's; what the other one raises is noted on it, unless it
            is a cancellation, which would lose it.

        Cancellation: comes at the next await.
        """
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._call.leave)
        cancelled = await sleep_until(self._told, lambda: self._call.left is not None, lambda: None)
        if cancelled is not None:
            cancel_again(cancelled)
        left = self._call.left
        if not isinstance(left, outcome.Error):
            return
        if error is None or isinstance(error, asyncio.CancelledError | GeneratorExit):
            raise left.error
        note(error, f"the block on trio raised {in_full(left.error)}")


def cancel_again(error: asyncio.CancelledError) -> None:
    """Have the calling task cancelled at its next await, as it had been.

    Not here and now: a block of `asyncio.timeout` that is left first takes its cancellation back, and
    before Python 3.13 that does not reach one that was asked for already.
    """
    task = asyncio.current_task()
    assert task is not None
    asked = task.cancelling()

    def cancel() -> None:
        if not task.done() and asked and task.cancelling() >= asked:
            task.cancel(*error.args)
            task.uncancel()

    asyncio.get_running_loop().call_soon(cancel)


# -- inputs ---------------------------------------------------------------------------------------------


def input_for_trio(items: Any) -> Any:
    """Return what trio iterates over for an input of a task of asyncio: itself if that runs no code."""
    if type(items) in PLAIN or not _is_iterable(items):
        return items  # what cannot be iterated is refused over there
    return items_of(_TaskPuller(items))


def _is_iterable(items: object) -> bool:
    return isinstance(items, Iterable | AsyncIterable) or hasattr(items, "__getitem__")


class _TaskPuller:
    """Takes items in one task of the caller's loop, which begins when the first is asked for.

    One task, because an asynchronous generator may hold a timeout or a task group over its `yield`.
    """

    def __init__(self, items: Any) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._answer: Callable[[outcome.Maybe[Any]], None] | None = None

    def pull(self, answer: Callable[[outcome.Maybe[Any]], None]) -> None:
        """Have the next item taken (called in trio's thread)."""
        try:
            self._loop.call_soon_threadsafe(self._want, answer)
        except RuntimeError as error:  # the loop was closed
            answer(outcome.Error(error))

    def close(self, closed: Callable[[outcome.Maybe[Any]], None]) -> None:
        """Cancel the task, and tell when it has ended (called in trio's thread)."""
        try:
            self._loop.call_soon_threadsafe(self._close, closed)
        except RuntimeError:  # the loop was closed, and the task with it
            closed(outcome.Value(None))

    def _want(self, answer: Callable[[outcome.Maybe[Any]], None]) -> None:
        self._answer = answer
        self._wanted.set()
        if self._task is None:
            self._task = self._loop.create_task(self._take(), name="agentpool input")

    def _close(self, closed: Callable[[outcome.Maybe[Any]], None]) -> None:
        task = self._task
        self._answer = None  # nobody waits for it any more
        if task is None or task.done():
            closed(outcome.Value(None))
            return
        task.cancel("the input is not needed any more")
        task.add_done_callback(lambda _: closed(_end_of(task)))

    async def _take(self) -> None:
        try:
            if isinstance(self._items, AsyncIterable):
                async with _closing_async(self._items):
                    async for item in self._items:
                        await self._give(outcome.Value(item))
            else:
                with _closing(self._items):
                    for item in self._items:
                        await self._give(outcome.Value(item))
        except asyncio.CancelledError:
            self._tell(outcome.Error(RuntimeError("the task that takes the items was cancelled")))
            raise
        except BaseException as error:
            if not self._tell(outcome.Error(error)):
                raise  # nobody asked: it is raised where the input is closed
        else:
            self._tell(outcome.Value(END))

    async def _give(self, item: outcome.Maybe[Any]) -> None:
        self._tell(item)
        self._wanted.clear()
        await self._wanted.wait()

    def _tell(self, result: outcome.Maybe[Any]) -> bool:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(result)
        return answer is not None


def _closing_async(items: Any) -> AbstractAsyncContextManager[Any]:
    return aclosing(items) if isasyncgen(items) else nullcontext()


def _closing(items: Any) -> AbstractContextManager[Any]:
    return closing(items) if isgenerator(items) else nullcontext()


def _end_of(task: asyncio.Task[None]) -> outcome.Maybe[None]:
    error = None if task.cancelled() else task.exception()
    return outcome.Value(None) if error is None else outcome.Error(error)
