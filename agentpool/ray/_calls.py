"""Calls of Ray that block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import outcome
import trio

from agentpool._blocking import start_apart, start_blocking

T = TypeVar("T")


def _keep(_: object) -> None:
    """Do nothing with what nobody waits for any more."""


async def call_ray(fn: Callable[[], T], *, unwanted: Callable[[T], object] = _keep) -> T:
    """Call something of Ray's in a thread.

    While the control service of a cluster (GCS) cannot be reached Ray's calls wait for it, without an end. So
    who is cancelled does not wait for them.

    Args:
      unwanted: called in a thread with what `fn` returned, if the caller was cancelled; must not raise.

    Checkpoint: always. Cancellation: `fn` goes on by itself.
    """
    call = _Call(fn, unwanted)
    event = trio.Event()
    await start_blocking(call.run, event.set)
    try:
        await event.wait()
    except trio.Cancelled:
        call.leave()
        raise
    result: T = call.result.unwrap()
    return result


class _Call(Generic[T]):
    def __init__(self, fn: Callable[[], T], unwanted: Callable[[T], object]) -> None:
        self.result: Any = None
        self._fn = fn
        self._unwanted = unwanted
        self._is_left = False
        self._deciding = threading.Lock()

    def run(self) -> None:
        result = outcome.capture(self._fn)
        with self._deciding:
            self.result = result
            is_left = self._is_left
        if is_left:
            self._drop()

    def leave(self) -> None:
        """Nobody waits any more."""
        with self._deciding:
            self._is_left = True
            is_there = self.result is not None
        if is_there:
            start_apart(self._drop)

    def _drop(self) -> None:
        if isinstance(self.result, outcome.Value):
            self._unwanted(self.result.value)
