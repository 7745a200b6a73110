"""What lives as long as a pool beside its agents, such as a connection that several of them use."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import attrs
import trio

from agentpool._core.errors import PoolClosedError
from agentpool._core.text import note, shown
from agentpool._kernel.leftovers import run_tidily, told_of
from agentpool._kernel.protection import protect_module
from agentpool._kernel.splitting import is_only_cancelled, raise_as_it_is, split_error

T = TypeVar("T")

CLOSING_TIME = 5.0
"""What a pool holds has so many seconds to be closed."""


@attrs.define(eq=False)
class _Held:
    """One thing that a pool holds, and the task that opens and closes it.

    Attributes:
      settled: it is open, or could not be opened; `error` tells why.
      over: it is to be closed.
      scope: around all of it; shielded, because agents that are cancelled may still need it.
      waiting: how many tasks wait for it to be open.
      is_broken_off: whether it was cancelled before it was open, so that it cleans up as whatever is
        cancelled does.
      task: that opens and closes it, once it runs.
    """

    key: Hashable
    open: Callable[[], AbstractAsyncContextManager[Any]]
    settled: trio.Event = attrs.field(factory=trio.Event)
    over: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    waiting: int = 0
    is_broken_off: bool = False
    value: Any = None
    error: BaseException | None = None
    task: trio.lowlevel.Task | None = None

    async def live(self) -> None:
        """Open it, wait until it is to be closed, and close it."""
        async with self.open() as self.value:
            self.settled.set()
            await self.over.wait()

    def close(self) -> None:
        """Have it closed, or not opened any more."""
        self.over.set()
        self.scope.deadline = trio.current_time() + CLOSING_TIME
        if not self.settled.is_set():
            self.is_broken_off = True
            self.scope.cancel("nobody waits for it any more")


class Holder:
    """Opens what the agents of a pool share when one of them first asks, and closes it with the pool.

    Each thing has a task of its own in the pool's nursery, so that it is opened and closed in the same
    task, whoever asks for it.

    Attributes:
      failures: what they raised after they had been opened.
    """

    def __init__(self, nursery: trio.Nursery, tell_fatal: Callable[[BaseException, str], None]) -> None:
        self.failures: list[Exception] = []
        self._nursery = nursery
        self._tell_fatal = tell_fatal
        # Not that of the agent that happens to be the first to ask.
        self._context = contextvars.copy_context()
        self._open: dict[Hashable, _Held] = {}
        self._living: dict[_Held, None] = {}
        self._is_closed = False
        _holders[nursery] = ref(self)

    @property
    def tasks(self) -> Iterable[trio.lowlevel.Task]:
        """Those that open and close what is held."""
        return [held.task for held in self._living if held.task is not None]

    def is_open(self, key: Hashable) -> bool:
        """Whether something is held under a key, or is being opened."""
        return key in self._open

    async def get(self, key: Hashable, open: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Return what is held under a key, opening it first if it is not open; `Scope.hold` tells more."""
        if self._is_closed:
            raise PoolClosedError("the pool has ended")
        held = self._open.get(key)
        if held is None:
            held = self._open[key] = _Held(key, open)
            self._living[held] = None
            name = f"agentpool holds {shown(key)}"
            self._context.run(lambda: self._nursery.start_soon(self._run, held, name=name))
        await self._wait_for(held)
        if held.error is not None:
            raise_as_it_is(held.error)
        value: T = held.value
        return value

    async def _wait_for(self, held: _Held) -> None:
        held.waiting += 1
        try:
            await held.settled.wait()
        finally:
            held.waiting -= 1
            if not held.waiting and not held.settled.is_set():
                self._forget(held)  # who asks next opens another
                held.close()

    async def _run(self, held: _Held) -> None:
        held.task = trio.lowlevel.current_task()
        error: BaseException | None = None
        left_open: tuple[str, ...] = ()
        with held.scope:
            _, error, left_open = await run_tidily(held.live, ())
        self._forget(held)
        del self._living[held]
        if error is None and left_open:
            error = RuntimeError(told_of(left_open))
        elif error is not None and is_only_cancelled(error):
            late = TimeoutError(f"not closed within {CLOSING_TIME:g} seconds")
            error = None if held.is_broken_off else late
        try:
            self._tell(held, error)
        finally:
            del error

    def _tell(self, held: _Held, error: BaseException | None) -> None:
        """Hand on what it raised: to those who wait for it, or else to who leaves the pool."""
        if not held.settled.is_set():
            held.error = PoolClosedError("the pool has ended") if held.over.is_set() else error
            held.settled.set()
        elif error is not None:
            parts = split_error(error)
            if parts.fatal is not None:
                self._tell_fatal(parts.fatal, f"{shown(held.key)}, which the pool held,")
            else:
                assert parts.ordinary is not None  # what is only cancelled was put in words
                note(parts.ordinary, f"raised by {shown(held.key)}, which the pool held")
                self.failures.append(parts.ordinary)

    def _forget(self, held: _Held) -> None:
        if self._open.get(held.key) is held:
            del self._open[held.key]

    def close(self) -> None:
        """No agent is left: close everything. Harmless if repeated; the pool's nursery waits for it."""
        self._is_closed = True
        for held in self._living:
            held.close()


# Weak on both sides: a holder leads to its nursery.
_holders: WeakKeyDictionary[trio.Nursery, ref[Holder]] = WeakKeyDictionary()


def current_holder() -> Holder | None:
    """Return that of the innermost pool to which the calling task belongs, as one of an agent or the pool."""
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None and task.parent_nursery is not None:
        found = _holders.get(task.parent_nursery)
        if found is not None:
            return found()
        task = task.parent_nursery.parent_task
    return None


protect_module(globals())
