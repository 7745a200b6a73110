"""The pool of a bridge, on trio in a thread of its own, and the way of calls to it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

import attrs
import outcome
import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal

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
        self._own_portal: BlockingPortal | None = None
        self._is_abandoned = False
        self._threads = ExitStack()
        self._opened: _Opened | None = None
        self._left = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._body_error: BaseException | None = None
        self._scope = trio.CancelScope()
        self._tell: Callable[[], object] = lambda: None
        self._end: Future[None] | None = None
        self._result: outcome.Maybe[None] | None = None
        self.is_over = False

    # -- the block -----------------------------------------------------------------------------------

    def open(self, tell: Callable[[], object], context: Context) -> None:
        """Begin to open the pool, in a context.

        `tell` is called in trio's thread when it is open, and when it is over.
        """
        if self._end is not None:
            raise RuntimeError("a pool is for one block: open another")
        self._tell = tell
        portal = self._portal
        if portal is None:
            portal = self._threads.enter_context(start_blocking_portal("trio", name="agentpool"))
            self._own_portal = portal
        self._token = _token_of(portal)
        self._end = context.run(partial(portal.start_task_soon, self._run, name="agentpool host"))
        self._end.add_done_callback(self._ended)

    @property
    def is_open(self) -> bool:
        """Whether the pool has been opened."""
        return self._opened is not None

    def _ended(self, _: object) -> None:
        self.is_over = True
        self._tell()

    def leave(self, error: BaseException | None, *, is_cancelled: bool) -> None:
        """Leave the block as the caller's was left: with an error, cancelled, or well. Does not wait."""
        self._body_error = None if is_cancelled else error
        call_soon(self.token, self._scope.cancel if is_cancelled else self._left.set)

    def cancel(self) -> None:
        """Cancel the pool, as a scope around its block would. Does not wait."""
        self.leave(None, is_cancelled=True)

    def abandon(self) -> None:
        """Cancel the pool, and have its thread end with it, because nobody is left who could wait for it."""
        self._is_abandoned = True
        self.cancel()

    def close(self) -> None:
        """End the thread: the pool is over. Raises what came out of the pool's block."""
        assert self.is_over
        self._threads.close()
        result, self._result = self._result, None
        if result is None or (isinstance(result, outcome.Error) and isinstance(result.error, trio.Cancelled)):
            raise PoolClosedError("the portal of the pool was stopped before the pool had ended")
        result.unwrap()

    async def _run(self) -> None:
        """The pool's block, on trio."""
        self._rest()
        async with trio.open_nursery() as calls:
            # Kept and not raised, also what is fatal: other pools may live in this run of trio.
            self._result = await outcome.acapture(self._run_pool, calls)
            # Whoever still waits has nothing to wait for.
            calls.cancel_scope.cancel("the pool has ended")
        if self._is_abandoned and self._own_portal is not None:
            await self._own_portal.stop()

    def _rest(self) -> None:
        """Tell that nothing happens here but what the threads ask for that the pool is opened for."""
        task = trio.lowlevel.current_task()
        resting_tasks.add(task)
        if self._portal is None and task.parent_nursery is not None:
            resting_tasks.add(task.parent_nursery.parent_task)  # that of the portal

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
        calls = self._opened_pool.calls
        try:
            call.context.run(partial(calls.start_soon, call.run, name=call.fn))
        except RuntimeError:  # the nursery is closed: the pool is over
            call.end()


def _nothing() -> None:
    return None


def _token_of(portal: BlockingPortal) -> trio.lowlevel.TrioToken:
    try:
        return portal.call(trio.lowlevel.current_trio_token)
    except RuntimeError as error:
        raise RuntimeError(
            "the portal of a pool has to run on trio, and may not have been stopped: "
            'start_blocking_portal("trio")'
        ) from error


def check_portal(portal: object) -> None:
    """Refuse a portal that is none.

    Raises:
      TypeError: with what to write.
    """
    if portal is not None and not isinstance(portal, BlockingPortal):
        raise TypeError(
            f'portal must be that of anyio.from_thread.start_blocking_portal("trio"), not {shown(portal)}'
        )
