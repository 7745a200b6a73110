"""How a thread waits for an operation on trio: until it is over, whatever comes between."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import outcome
import trio

from agentpool._core.errors import PoolClosedError
from agentpool._core.text import note, shown
from agentpool._kernel.silence import resting_threads, watching
from agentpool._kernel.splitting import in_full
from agentpool.abc import root_agent_id
from agentpool.bridge._calls import BlockCall, Call, call_now, call_soon
from agentpool.bridge._ctrl_c import NotedCtrlC
from agentpool.bridge._host import Host
from agentpool.bridge._items import END, PLAIN, items_of

T = TypeVar("T")
V = TypeVar("V")

SIGNALS_LOOKED_FOR = 0.25
"""So many seconds may pass until a waiting main thread hears of a signal."""


class Mailbox:
    """What trio has to say to a thread that waits: that something has ended, or that an item is wanted.

    Args:
      host: of the pool.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._resting: threading.Thread | None = None
        self._pressed: KeyboardInterrupt | None = None
        self._ctrl_c = NotedCtrlC(self._press)

    def _press(self) -> None:
        """Ctrl-C was pressed: whatever the thread does just now, it hears of it when it looks next."""
        self._pressed = self._pressed or KeyboardInterrupt()
        self._queue.put(None)  # may be called in the middle of another call of it, and takes no lock

    def tell(self) -> None:
        """Something may have ended."""
        self._put(None)

    def want(self, take: Callable[[], object]) -> None:
        """Have the thread call something when it waits the next time."""
        self._put(take)

    def _put(self, what: Callable[[], object] | None) -> None:
        with self._lock:
            self._queue.put(what)
            self._rest_ended()

    def _get(self, timeout: float | None) -> Callable[[], object] | None:
        with self._lock:
            if timeout is None and self._queue.empty():
                self._resting = threading.current_thread()
                resting_threads.add(self._resting)
        try:
            if timeout is None and watching:
                self._host.look_again()
            return self._queue_get(timeout)
        finally:
            self._rest_ended()

    def _queue_get(self, timeout: float | None) -> Callable[[], object] | None:
        if threading.current_thread() is not threading.main_thread():
            return self._queue.get(timeout=timeout)
        # A signal that comes just before the wait begins does not end it (nor does any, on Windows).
        # So the main thread lets Python look for signals again and again.
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with suppress(Empty):
                return self._queue.get(timeout=max(0, min(SIGNALS_LOOKED_FOR, deadline - time.monotonic())))
            if time.monotonic() >= deadline:
                raise Empty

    def _rest_ended(self) -> None:
        resting, self._resting = self._resting, None
        if resting is not None:
            resting_threads.discard(resting)

    def wait_until(
        self, is_over: Callable[[], bool], cancel: Callable[[], object], timeout: float | None = None
    ) -> BaseException | None:
        """Wait until something is over. Ctrl-C and the timeout call `cancel` instead, and are returned.

        Raises:
          KeyboardInterrupt: if Ctrl-C was pressed where it cannot be noted; `insist` waits on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        ended_by: BaseException | None = None
        while not is_over():
            if self._pressed is not None and ended_by is not self._pressed:
                ended_by = self._pressed
                cancel()
            try:
                take = self._get(None if deadline is None else max(0, deadline - time.monotonic()))
                if take is not None:
                    self._take(take)
            except Empty:
                ended_by, deadline = TimeoutError(f"not over within {timeout:g} seconds"), None
                cancel()
        return ended_by

    def _take(self, take: Callable[[], object]) -> None:
        """Call somebody's code, which may block: Ctrl-C strikes there."""
        self._ctrl_c.strike()
        try:
            take()
        finally:
            self._ctrl_c.note()

    def insist(
        self, wait: Callable[[], BaseException | None], cancel: Callable[[], object]
    ) -> BaseException | None:
        """Call something that begins an operation and waits for it; again, if Ctrl-C strikes in it.

        Returns:
          What ended it: the Ctrl-C, or what `wait` returned.
        """
        pressed: BaseException | None = None
        self._pressed = None
        with self._ctrl_c:
            while True:
                try:
                    if pressed is not None:
                        cancel()
                    ended_by = wait()
                    return pressed or self._pressed or ended_by
                except KeyboardInterrupt as error:
                    pressed = error


class ThreadLine:
    """The way from threads to a pool on trio.

    What a thread asks for in which a tool of one of the pool's agents runs, the agent's own task
    performs, so that it waits as an agent does.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def perform(self, fn: Callable[..., Awaitable[T]], *args: Any, timeout: float | None = None) -> T:
        """Perform an operation on trio, and wait for its end.

        Raises:
          TimeoutError: if it was not over in time, and had not happened.
          PoolClosedError: if it could not be begun, or was cut off, because the pool is over.
          KeyboardInterrupt: if Ctrl-C was pressed meanwhile; the operation was cancelled and has ended.
        """
        check_timeout(timeout)
        if self.is_thread_of_agent():
            return trio.from_thread.run(_within, timeout, fn, args)
        return self.wait_for(Call(fn, args, (mailbox := Mailbox(self._host)).tell), mailbox, timeout)

    def wait_for(self, call: Call[T], mailbox: Mailbox, timeout: float | None = None) -> T:
        """Begin an operation, and wait until it lets its caller go on."""

        def cancel() -> None:
            call.cancel(self._host.token)

        def wait() -> BaseException | None:
            self._host.post(call)
            return mailbox.wait_until(lambda: call.ended, cancel, timeout)

        ended_by = mailbox.insist(wait, cancel)
        try:
            if isinstance(ended_by, KeyboardInterrupt):
                raise ended_by
            if call.result is None:
                raise ended_by or PoolClosedError("the pool has ended")
            return call.result.unwrap()
        finally:
            del ended_by

    def is_thread_of_agent(self) -> bool:
        """Whether the calling thread was started by a task of an agent, in the run of the pool."""
        if not root_agent_id.get():
            return False
        try:
            return trio.from_thread.run_sync(trio.lowlevel.current_trio_token) is self._host.token
        except RuntimeError:  # no thread that trio has started
            return False

    def now(self, fn: Callable[..., T], *args: Any) -> T:
        """Call a function on trio that does not wait, as `call_now`; as the agent, in a thread of one."""
        if self.is_thread_of_agent():
            return trio.from_thread.run_sync(fn, *args)
        return call_now(self._host.token, fn, *args)

    def soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Call a function on trio that neither waits nor raises, and do not wait for it."""
        call_soon(self._host.token, fn, *args)

    def input_for_trio(self, items: Any, mailbox: Mailbox) -> Any:
        """Return what trio iterates over for an input of this thread.

        Its items are taken in this thread, while that waits; but in a thread of an agent on trio.
        """
        if type(items) in PLAIN or not isinstance(items, Iterable) or self.is_thread_of_agent():
            return items
        return items_of(_ThreadPuller(items, mailbox))


async def _within(timeout: float | None, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    if timeout is None:
        return await fn(*args)
    try:
        with trio.fail_after(timeout):
            return await fn(*args)
    except trio.TooSlowError as error:
        raise TimeoutError(f"not over within {timeout:g} seconds") from error


def check_timeout(timeout: float | None) -> None:
    """Refuse what is no time limit."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {shown(timeout)}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be at least 0 seconds, not {timeout}")


class _ThreadPuller:
    """Takes items in the thread whose input they are, while it waits."""

    def __init__(self, items: Iterable[Any], mailbox: Mailbox) -> None:
        self._items = items
        self._mailbox = mailbox
        self._iterator: Iterator[Any] | None = None
        self._is_closed = False

    def pull(self, answer: Callable[[outcome.Maybe[Any]], None]) -> None:
        """Have the next item taken (called in trio's thread)."""
        self._mailbox.want(lambda: self._take(answer))

    def close(self, closed: Callable[[outcome.Maybe[Any]], None]) -> None:
        """Take no more (called in trio's thread). Not waited for: the thread may be busy elsewhere."""
        self._is_closed = True
        closed(outcome.Value(None))

    def _take(self, answer: Callable[[outcome.Maybe[Any]], None]) -> None:
        if self._is_closed:
            return
        try:
            if self._iterator is None:
                self._iterator = iter(self._items)
            answer(outcome.Value(next(self._iterator, END)))
        except KeyboardInterrupt:
            answer(outcome.Value(END))
            raise  # ends the operation that the thread waits for
        except BaseException as error:
            answer(outcome.Error(error))


class EnteredBlock(Generic[T]):
    """A block on trio, from a thread's `enter` to its `leave`."""

    def __init__(
        self,
        line: ThreadLine,
        mailbox: Mailbox,
        make: Callable[..., AbstractAsyncContextManager[T]],
        *args: Any,
    ) -> None:
        self._line = line
        self._mailbox = mailbox
        self._call: BlockCall[T] = BlockCall(make, args, mailbox.tell)

    def enter(self) -> T:
        """Enter it, and wait until it is entered; as `ThreadLine.perform`."""
        return self._line.wait_for(self._call, self._mailbox)

    def perform(self, fn: Callable[..., Awaitable[V]], *args: Any) -> V:
        """Perform an operation of the block, which may take items in this thread."""
        return self._line.wait_for(Call(fn, args, self._mailbox.tell), self._mailbox)

    def leave(self, error: BaseException | None) -> None:
        """Leave it, and wait until it is left.

        What it raises is noted on what leaves the block of the thread, if there is such an error.
        """
        call = self._call

        def nothing() -> None:
            """It is being left already."""

        def wait() -> BaseException | None:
            self._line.soon(call.leave)
            return self._mailbox.wait_until(lambda: call.left is not None, nothing)

        pressed = self._mailbox.insist(wait, nothing)
        left = call.left
        try:
            if pressed is not None:
                raise pressed
            if isinstance(left, outcome.Error):
                if error is None or isinstance(error, GeneratorExit):
                    raise left.error
                note(error, f"the block on trio raised {in_full(left.error)}")
        finally:
            del pressed, left, error
