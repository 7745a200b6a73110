"""The one seam through which everything that blocks goes: threads, and how they lend their tokens.

A thread that calls back into trio (`trio.from_thread.run`) blocks until the call returns, and the
call runs in the very task that waits for the thread. While that task waits in an operation of a
pool, the thread does nothing: another may use its token of trio's thread limiter. Else agents whose
threads wait for agents that need threads would use up the tokens, and hang.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar, TypeVarTuple, cast

import attrs
import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class BlockingRunner(Protocol):
    """Performs a blocking call on behalf of a task."""

    def __call__(self, fn: Callable[[], Any], /) -> Awaitable[Any]: ...


_runner: trio.lowlevel.RunVar[BlockingRunner] = trio.lowlevel.RunVar("agentpool_blocking_runner")


def set_blocking_runner(runner: BlockingRunner) -> None:
    """Have every blocking call of the current `trio.run` performed by `runner`.

    A simulation sets one that runs inline, so that no thread adds an order of its own.
    """
    _runner.set(runner)


def runs_inline() -> bool:
    """Whether blocking calls are performed inline, as in a simulation: then nothing may be in a thread."""
    try:
        _runner.get()
    except LookupError:
        return False
    return True


@attrs.define(eq=False)
class ThreadCall:
    """One blocking call, and its token of a thread limiter, for which it stands in.

    Invariant: a call that is lent holds no token. One that is not lent holds a token, unless it
    was cancelled while it waited to have it back.
    """

    _limiter: trio.CapacityLimiter
    _borrower: object = None
    _holds: bool = False
    _is_lent: bool = False

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a token (called by trio, before the thread starts)."""
        await self._limiter.acquire_on_behalf_of(borrower)
        self._borrower = borrower
        self._holds = True

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give the token back (called by trio, when the thread is done)."""
        self._give_back()

    @property
    def is_lent(self) -> bool:
        """Whether the token is there for others."""
        return self._is_lent

    @trio.lowlevel.enable_ki_protection
    def lend(self) -> None:
        """Let others have the token: the thread does nothing until `take_back`."""
        self._is_lent = True
        self._give_back()

    @trio.lowlevel.enable_ki_protection
    async def take_back(self) -> None:
        """Wait for a token, so that the thread may go on; without one if cancelled meanwhile.

        What the task had waited for has happened already, and is not to be lost. So this never
        raises `Cancelled`, which comes at the task's next checkpoint. Who is cancelled unwinds at
        once: there is one thread more at work than tokens then, until it ends or waits again.
        """
        self._is_lent = False
        try:
            self._limiter.acquire_on_behalf_of_nowait(self._borrower)
        except trio.WouldBlock:
            try:
                await self._limiter.acquire_on_behalf_of(self._borrower)
            except trio.Cancelled:
                return
        self._holds = True

    def _give_back(self) -> None:
        if self._holds:
            self._holds = False
            self._limiter.release_on_behalf_of(self._borrower)


thread_calls: dict[trio.lowlevel.Task, ThreadCall] = {}
"""The innermost thread call of each task that waits for a thread. Mostly empty, which is all that
those look at who wait without one."""


def lendable_call(task: trio.lowlevel.Task) -> ThreadCall | None:
    """Return the thread call in which a task waits, if its token is not lent already."""
    call = thread_calls.get(task)
    return None if call is None or call.is_lent else call


def lend_thread() -> ThreadCall | None:
    """Lend the token of the thread in whose call the calling task waits.

    Returns:
      What has to take it back; None if there is nothing to lend.
    """
    call = lendable_call(trio.lowlevel.current_task()) if thread_calls else None
    if call is not None:
        call.lend()
    return call


async def run_blocking(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call a blocking function in a worker thread, so that other tasks go on.

    Checkpoint: always. Cancellation: not while `fn` runs; the call is waited for.
    """
    try:
        runner = _runner.get()
    except LookupError:
        return await _run_in_thread(fn, *args)
    result: T = await runner(lambda: fn(*args))
    return result


def check_cancelled() -> None:
    """Raise `Cancelled` if the task that waits for this thread is being cancelled.

    For the function of a `run_blocking`, between two steps of which the second may be left out. Does
    nothing where there is no such thread, as in a simulation.
    """
    with suppress(RuntimeError):
        trio.from_thread.check_cancelled()


@trio.lowlevel.enable_ki_protection
async def _run_in_thread(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    task = trio.lowlevel.current_task()
    outer = thread_calls.get(task)
    call = thread_calls[task] = ThreadCall(trio.to_thread.current_default_thread_limiter())
    if outer is not None:
        outer.lend()  # its thread waits for this one
    try:
        # Trio asks for no more of a limiter than these two methods, but says so only in words.
        limiter = cast("trio.CapacityLimiter", call)
        return await trio.to_thread.run_sync(fn, *args, limiter=limiter)
    finally:
        if outer is None:
            del thread_calls[task]
        else:
            thread_calls[task] = outer
            await outer.take_back()  # noqa: ASYNC102  (ends when it is cancelled, and never raises that)


async def start_blocking(fn: Callable[[], object], ended: Callable[[], object]) -> None:
    """Have a blocking function called in a thread of trio's, beside the calling task.

    For what tells of its progress while it runs, and is stopped by a flag of its own: no task waits
    for it, so that nothing is left open on the caller's. It takes no token of trio's thread limiter;
    whoever starts threads so has to bound how many there are. In a simulation it runs inline,
    before this returns.

    Args:
      fn: must not raise.
      ended: called in trio's thread once `fn` has returned, after everything that `fn` had run there
        by `run_sync_soon`; must not raise.

    Checkpoint: in a simulation only. Cancellation: not while `fn` runs inline.
    """
    token = trio.lowlevel.current_trio_token()

    def tell(_: object) -> None:
        with suppress(trio.RunFinishedError):  # nobody is left who waits
            token.run_sync_soon(ended)

    try:
        runner = _runner.get()
    except LookupError:
        trio.lowlevel.start_thread_soon(fn, tell)
    else:
        await runner(fn)
        token.run_sync_soon(ended)


def start_apart(fn: Callable[[], object]) -> None:
    """Have a blocking function called in a thread of trio's, which nobody waits for and which calls nobody.

    For what has to do with no task, so that a simulation needs not know of it. It takes no token of trio's
    thread limiter; whoever starts threads so has to bound how many there are.

    Args:
      fn: must not raise, nor call into trio.
    """
    trio.lowlevel.start_thread_soon(fn, lambda _: None)
