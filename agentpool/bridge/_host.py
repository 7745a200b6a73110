"""The pool of a bridge, on trio in a thread of its own, and the way of calls to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

import attrs
import outcome
import trio
from anyio.from_thread import BlockingPortal

from agentpool._core.errors import PoolClosedError
from agentpool._core.text import shown
from agentpool._kernel.pool import AgentPool
from agentpool._kernel.silence import resting_tasks
from agentpool.bridge._calls import Call, call_soon, refuse_trio_thread

T = TypeVar("T")

OpenPool = Callable[..., AbstractAsyncContextManager[AgentPool]]


@attrs.frozen
class _Opened:
    """What a pool that is open is reached by."""

    pool: AgentPool
    calls: trio.Nursery


class Host:
    """Runs a pool's block on trio, from `open` to `leave`, for a block in another thread.

    The block on trio is left as the other one was: with its exception, or cancelled. So what comes out
    of it is what a program on trio would get.

    Attributes:
      is_over: whether the pool has ended, with everything in it.

    Args:
      make: makes the pool's block of a driver and a memory.
      driver, memory: those of the pool, or what is entered on trio to have them.
      portal: of the thread in which trio runs already; left out, a thread is started.
    """

    def __init__(self, make: OpenPool, driver: Any, memory: Any, portal: BlockingPortal | None) -> None:
        self._make = make
        self._means = {"driver": driver, "memory": memory}
        self._portal = portal
        self._is_kept = threading.Lock()
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._opened: _Opened | None = None
        self._left = trio.Event()
        self._body_error: BaseException | None = None
        self._scope = trio.CancelScope()
        self._is_cancelled = False
        self._tell: Callable[[], object] = _nothing
        self._result: outcome.Maybe[None] | None = None
        self.is_over: bool = False

    # -- the block -----------------------------------------------------------------------------------

    def refuse_second_use(self) -> None:
        """Refuse to be opened twice.

        Raises:
          RuntimeError: if the pool was opened before.
        """
        if self._is_kept.locked():
            raise RuntimeError("a pool is for one block: open another")

    def open(self, tell: Callable[[], object], context: Context) -> None:
        """Begin to open the pool, in a context. Does not wait; called again after Ctrl-C, it does no harm.

        `tell` is called in another thread when it is open, and when it is over.
        """
        self._tell = tell
        # All that waits is done in this thread, so that Ctrl-C in the caller's never strikes half way.
        threading.Thread(target=self._keep, args=(context,), name="agentpool", daemon=True).start()

    def _keep(self, context: Context) -> None:
        if not self._is_kept.acquire(blocking=False):
            return  # by another thread: this is one too many
        self._thread = threading.current_thread()
        try:
            if self._portal is None:
                context.run(trio.run, self._run)
            else:
                context.run(self._portal.call, self._run)
        except BaseException as error:  # raised where the block is left
            self._result = self._result or outcome.Error(error)
        finally:
            self.is_over = True
            self._tell()

    @property
    def is_open(self) -> bool:
        """Whether the pool has been opened."""
        return self._opened is not None

    def leave(self, error: BaseException | None) -> None:
        """Leave the block as the caller's was left: with an error, or well. Does not wait."""
        self._body_error = error
        call_soon(self.token, self._left.set)

    def cancel(self) -> None:
        """Cancel the pool, as a scope around its block would. Does not wait."""
        self._is_cancelled = True
        if self._token is not None:
            call_soon(self._token, self._scope.cancel)

    def close(self) -> None:
        """Raise what came out of the pool's block. The pool is over, and its thread about to end."""
        assert self.is_over
        result, self._result = self._result, None
        if result is None or (isinstance(result, outcome.Error) and _is_cancelled(result.error)):
            raise PoolClosedError("the portal of the pool was stopped before the pool had ended")
        result.unwrap()

    def join(self) -> None:
        """Wait for the end of the thread: some ten microseconds, since the pool is over."""
        assert self._thread is not None
        self._thread.join()

    async def _run(self) -> None:
        """The pool's block, on trio."""
        if not trio.lowlevel.in_trio_run():
            raise RuntimeError('the portal of a pool has to run on trio: start_blocking_portal("trio")')
        self._token = trio.lowlevel.current_trio_token()
        if self._is_cancelled:  # before there was a token
            self._scope.cancel()
        # Nothing happens in this task but what the threads ask for that the pool is opened for.
        resting_tasks.add(trio.lowlevel.current_task())
        async with trio.open_nursery() as calls:
            # Kept and not raised, also what is fatal: other pools may live in this run of trio.
            self._result = await outcome.acapture(self._run_pool, calls)
            # Whoever still waits has nothing to wait for.
            calls.cancel_scope.cancel("the pool has ended")

    async def _run_pool(self, calls: trio.Nursery) -> None:
        async with AsyncExitStack() as stack:
            with self._scope:
                means = {name: await self._entered(stack, value) for name, value in self._means.items()}
                async with self._make(**means) as pool:
                    self._opened = _Opened(pool, calls)
                    self._tell()
                    await self._left.wait()
                    if self._body_error is not None:
                        raise self._body_error

    async def _entered(self, stack: AsyncExitStack, value: Any) -> Any:
        """Enter a driver or a memory that wants it, and return what the pool gets.

        One that is ready may be shared by all that runs in a portal. In a thread of the pool's own there
        is nobody else who could close it.
        """
        is_shared = self._portal is not None and (hasattr(value, "complete") or hasattr(value, "recall"))
        if value is None or isinstance(value, type) or is_shared or not hasattr(value, "__aenter__"):
            return value
        return await stack.enter_async_context(value)

    # -- calls ---------------------------------------------------------------------------------------

    @property
    def _opened_pool(self) -> _Opened:
        if self._opened is None:
            raise RuntimeError("the pool is not open")
        return self._opened

    @property
    def pool(self) -> AgentPool:
        """The pool itself, which belongs to trio's thread."""
        return self._opened_pool.pool

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        """Of the run of trio in which the pool is."""
        if self._token is None:
            raise RuntimeError("the pool is not open")
        return self._token

    def look_again(self) -> None:
        """Have trio wake once, and look whether anybody is left who could go on."""
        call_soon(self.token, _nothing)

    def post(self, call: Call[Any]) -> None:
        """Have trio begin an operation. Called in any thread but trio's; returns at once."""
        refuse_trio_thread()
        if not call_soon(self.token, self._begin, call):
            call.end()

    def _begin(self, call: Call[Any]) -> None:
        if call.begun:
            return  # after a Ctrl-C it may have been asked for twice
        call.begun = True
        calls = self._opened_pool.calls
        try:
            call.context.run(partial(calls.start_soon, call.run, name=call.fn))
        except RuntimeError:  # the nursery is closed: the pool is over
            call.end()


def _nothing() -> None:
    return None


def _is_cancelled(error: BaseException) -> bool:
    return isinstance(error, trio.Cancelled | CancelledError)


def check_portal(portal: object) -> None:
    """Refuse a portal that is none.

    Raises:
      TypeError: with what to write.
    """
    if portal is not None and not isinstance(portal, BlockingPortal):
        raise TypeError(
            f'portal must be that of anyio.from_thread.start_blocking_portal("trio"), not {shown(portal)}'
        )
