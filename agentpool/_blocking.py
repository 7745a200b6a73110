"""The one seam through which everything that blocks goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, TypeVarTuple

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


async def run_blocking(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call a blocking function in a worker thread, so that other tasks go on.

    Checkpoint: always. Cancellation: not while `fn` runs; the call is waited for.
    """
    try:
        runner = _runner.get()
    except LookupError:
        return await trio.to_thread.run_sync(fn, *args)
    result: T = await runner(lambda: fn(*args))
    return result
