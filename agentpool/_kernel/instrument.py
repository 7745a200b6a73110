"""The one seam through which tests look into the pools of a run, and leave out what disturbs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from agentpool._kernel.protection import protect_module


@attrs.define(eq=False, kw_only=True)
class PoolInstrument:
    """What watches the pools that are opened in a `trio.run`; this one changes nothing.

    Attributes:
      detects_deadlocks: whether these pools look for agents that wait for each other. Without it,
        what was called a deadlock can be seen to hang.
      watches_clock: whether `drain` watches for agents that block the event loop, with a thread
        that looks at the wall clock. On virtual time it would see them everywhere.
      looks_outside: whether threads, handlers of signals and host loops count as what may write to
        agents. A simulation does not know them, and is the same whatever else its process does.
    """

    detects_deadlocks: bool = True
    watches_clock: bool = True
    looks_outside: bool = True

    def owns(self, task: trio.lowlevel.Task) -> bool:
        """Whether a task is one of its own, which never writes to agents."""
        return False

    def pool_opened(self, pool: Any) -> None:
        """An `AgentPool` was opened; nothing has happened in it yet.

        What it raises comes out of the pool's block.
        """


_instruments: trio.lowlevel.RunVar[tuple[PoolInstrument, ...]] = trio.lowlevel.RunVar(
    "agentpool_instruments", default=()
)


@contextmanager
def instrumented(instrument: PoolInstrument) -> Iterator[None]:
    """Have an instrument watch every pool that this run opens inside, beside those that do already.

    Raises:
      RuntimeError: outside of `trio.run`.
    """
    _instruments.set((*_instruments.get(), instrument))
    try:
        yield
    finally:
        _instruments.set(tuple(other for other in _instruments.get() if other is not instrument))


def detects_deadlocks() -> bool:
    """Whether a pool that is opened now looks for deadlocks."""
    return all(instrument.detects_deadlocks for instrument in _instruments.get())


def watches_clock() -> bool:
    """Whether a pool that drains now watches the wall clock."""
    return all(instrument.watches_clock for instrument in _instruments.get())


def looks_outside() -> bool:
    """Whether what stands outside of trio's tasks may write to agents."""
    return all(instrument.looks_outside for instrument in _instruments.get())


def is_watching(task: trio.lowlevel.Task) -> bool:
    """Whether a task is one of an instrument."""
    return any(instrument.owns(task) for instrument in _instruments.get())


def tell_of(pool: Any) -> None:
    """Tell the instruments of a pool that was opened."""
    for instrument in _instruments.get():
        instrument.pool_opened(pool)


protect_module(globals())
