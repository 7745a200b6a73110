"""Ctrl-C in the main thread, while it waits for a pool: noted, so that it strikes nowhere in between."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any


class NotedCtrlC:
    """While this block runs, Ctrl-C calls a function instead of raising `KeyboardInterrupt`.

    Only in the main thread, and only where Python's own handler is in force: a program's own stays.

    Args:
      press: called between any two steps of the thread. It must take no lock.
    """

    __slots__ = ("_is_noted", "_press")

    def __init__(self, press: Callable[[], object]) -> None:
        self._press = press
        self._is_noted = False

    def __enter__(self) -> NotedCtrlC:
        self.note()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.strike()

    def note(self) -> None:
        """Have it noted."""
        if threading.current_thread() is threading.main_thread():
            self._is_noted = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if self._is_noted:
                signal.signal(signal.SIGINT, self._noted)

    def strike(self) -> None:
        """Have it raise again, such as in somebody's code that the thread runs while it waits."""
        if self._is_noted:
            self._is_noted = False
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _noted(self, *_: Any) -> None:
        self._press()
