"""One operation that trio performs on behalf of somebody in another thread."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import attrs
import outcome
import trio

from agentpool._kernel.current import waiting_agent
from agentpool._kernel.wait import OwnTaskWait

T = TypeVar("T")


@attrs.define(eq=False)
class Call(Generic[T]):
    """An operation under way on trio, for a caller who waits elsewhere.

    It ends when trio is done with it and not before, also when it was cancelled. An operation that
    happened keeps its value then, as it does on trio.

    Attributes:
      fn, args: what trio calls.
      tell: called when the caller may go on, in trio's thread; neither waits nor raises.
      context: the caller's context variables.
      result: what came of it; None if it was cancelled, by its caller or with the pool.
      begun: whether trio has begun it.
      ended: whether the caller may go on.
      before_tell: called before `tell`, by whoever performs it.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    tell: Callable[[], object]
    context: contextvars.Context = attrs.field(factory=contextvars.copy_context)
    result: outcome.Maybe[T] | None = None
    begun: bool = False
    ended: bool = False
    before_tell: Callable[[], object] | None = None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self) -> None:
        """Perform it, in a task of trio's; never raises."""
        try:
            with self._scope:
                self.result = outcome.Value(await self.fn(*self.args))
        except trio.Cancelled:
            pass  # whoever runs it is being cancelled, and ends with it
        except BaseException as error:  # handed to the caller: nothing is swallowed
            self.result = outcome.Error(error)
        finally:
            self.end()

    def end(self) -> None:
        """Let the caller go on: it is over, or was not even begun."""
        self.ended = True
        if self.before_tell is not None:
            self.before_tell()
        self.tell()

    def cancel(self, token: trio.lowlevel.TrioToken) -> None:
        """Have it cancelled; it ends a little later. Called in any thread."""
        call_soon(token, self._scope.cancel, "its caller was cancelled")


@attrs.define(eq=False)
class BlockCall(Call[T]):
    """A block that is entered and left on trio, in one task, while its body runs elsewhere.

    `fn` makes the block, and `result` is its value. The caller goes on when it is entered, and once
    more when it is left.

    Attributes:
      left: what came of leaving it; None while it is not left.
    """

    left: outcome.Maybe[None] | None = None
    _leaving: trio.Event = attrs.field(factory=trio.Event)
    _parked: OwnTaskWait | None = None

    async def run(self) -> None:
        """Enter it, stay in it until `leave`, and leave it; never raises."""
        left: outcome.Maybe[None] = outcome.Value(None)
        try:
            with self._scope:
                async with self.fn(*self.args) as value:
                    self.result = outcome.Value(value)
                    self.end()
                    await self._stay()
        except trio.Cancelled:
            pass
        except BaseException as error:  # handed to the caller: nothing is swallowed
            left = outcome.Error(error)
        if self.ended:
            self.left = left
            self.tell()
        else:
            self.result = left if isinstance(left, outcome.Error) else None
            self.end()

    async def _stay(self) -> None:
        agent = waiting_agent()
        if agent is None:
            await self._leaving.wait()
        elif not self._leaving.is_set():
            # The block by itself does nothing: the agent does what its other tasks do.
            self._parked = OwnTaskWait(agent)
            await self._parked.park(self._unpark)

    def _unpark(self, _: object) -> None:
        self._parked = None

    def leave(self) -> None:
        """Have it left (called in trio's thread)."""
        self._leaving.set()
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.wake()


def call_now(token: trio.lowlevel.TrioToken, fn: Callable[..., T], *args: Any) -> T:
    """Call a function that does not wait, in trio's thread, and return what it returns.

    Blocks the calling thread until trio's gets to it. When the run of trio has ended, it is called here.

    Raises:
      RuntimeError: in a thread of trio's.
    """
    refuse_trio_thread()
    context = contextvars.copy_context()
    answer: Future[T] = Future()

    def call() -> None:
        result = outcome.capture(context.run, fn, *args)
        if isinstance(result, outcome.Error):
            answer.set_exception(result.error)
        else:
            answer.set_result(result.value)

    try:
        token.run_sync_soon(call)
    except trio.RunFinishedError:
        return fn(*args)
    return answer.result()


def call_soon(token: trio.lowlevel.TrioToken, fn: Callable[..., object], *args: Any) -> bool:
    """Call a function that neither waits nor raises, in trio's thread; tell whether that still runs."""
    try:
        token.run_sync_soon(fn, *args)
    except trio.RunFinishedError:
        return False
    return True


def refuse_trio_thread() -> None:
    """Refuse a call in a thread of trio's, which would block it, and may be the one that has to answer.

    Raises:
      RuntimeError: with what to use instead.
    """
    if trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "this is a thread of trio's, which a pool of a bridge would block: an agent uses the context "
            "that it is given, and a program on trio opens its pool with open_agent_pool"
        )
