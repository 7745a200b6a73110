"""Ends a worker process whose head was not heard of for too long, whatever its agents do meanwhile."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

LOOK_EVERY = 0.25
"""So many seconds a wait lasts at the most, which does not count the time that a machine is suspended."""

GRACE = 1.0
"""So many seconds the agents have for their cleanup, once they are cancelled. Then the process exits.

Less than the margin that the head adds to the lease before it declares the worker lost.
"""

_FAULTHANDLER_AFTER = 0.15
_KERNEL_AFTER = 0.4
"""So many seconds after the end of the grace the backstops strike, if the watchdog itself could not."""


class Watchdog:
    """Watches the lease of a worker process, in an OS thread of its own.

    When the lease has run out it has the agents cancelled, and exits the process `GRACE` later. It needs the
    interpreter for that, which an agent may hold for minutes: in a regular expression, say. So there are two
    backstops that need no Python: `faulthandler` writes where every thread stands and exits; a timer of the
    kernel's kills, also a process that is stopped (SIGSTOP), or that has just come back from a suspended
    machine.
    """

    def __init__(
        self,
        expires_at: Callable[[], float],
        clock: Callable[[], float],
        cancel: Callable[[], object],
        exit: Callable[[int], object] = os._exit,
    ) -> None:
        """Begin to watch.

        Args:
          expires_at: returns when the lease runs out, by `clock`.
          clock: that of the lease.
          cancel: cancels the agents; must not wait.
          exit: ends the process, with a code.
        """
        self._expires_at = expires_at
        self._clock = clock
        self._cancel = cancel
        self._exit = exit
        self._is_over = threading.Event()
        self._timer = KernelTimer.create(signal.SIGKILL) if hasattr(signal, "SIGKILL") else None
        self._arm()  # from here on, whenever the thread gets to run
        self._thread = threading.Thread(target=self._run, name="agentpool-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. For a worker that has ended its agents, and is about to exit."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._has_run_out():
                # Into the log that is kept of the process: it is all that is left of it.
                print(
                    "agentpool: nothing was heard of the head for too long, so this worker ends",
                    file=sys.stderr,
                )
                self._cancel()
                if not self._is_over.wait(GRACE):
                    self._exit(1)
        finally:
            self._disarm()

    def _has_run_out(self) -> bool:
        """Wait until the lease has run out; False if nothing is to be watched any more."""
        while (left := self._arm()) > 0:
            if self._is_over.wait(min(left, LOOK_EVERY)):
                return False
        return True

    def _arm(self) -> float:
        """Set the backstops anew; return how many seconds are left of the lease."""
        expires_at = self._expires_at()
        left = expires_at - self._clock()
        if self._timer is not None:
            self._timer.set(max(left, 0) + GRACE + _KERNEL_AFTER)
        # It replaces the one before.
        faulthandler.dump_traceback_later(
            max(left, 0) + GRACE + _FAULTHANDLER_AFTER, exit=True, file=sys.__stderr__ or sys.stderr
        )
        return left

    def _disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.delete()


class _SignalEvent(ctypes.Structure):
    """`struct sigevent` of Linux: 64 bytes, of which the first three fields count here."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("number", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * 64),
    )


class _TimerSpec(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


class KernelTimer:
    """A timer of Linux that sends this process a signal. The time counts that the machine is suspended."""

    def __init__(self, libc: Any, timer: ctypes.c_void_p) -> None:
        self._libc = libc
        self._timer = timer

    @classmethod
    def create(cls, number: int) -> KernelTimer | None:
        """Create one that is not set yet; None where there is none of its kind."""
        clock = getattr(time, "CLOCK_BOOTTIME", None)
        if not sys.platform.startswith("linux") or clock is None or sys.maxsize < 2**32:
            return None  # pragma: no cover - another system
        libc = ctypes.CDLL(None, use_errno=True)
        event = _SignalEvent(number=number, notify=0)  # SIGEV_SIGNAL
        timer = ctypes.c_void_p()
        create = getattr(libc, "timer_create", None)
        if create is None or create(clock, ctypes.byref(event), ctypes.byref(timer)) != 0:
            return None  # pragma: no cover - an old C library, or no such timers in this sandbox
        return cls(libc, timer)

    def set(self, seconds: float) -> None:
        """Have the signal sent in so many seconds, and not when it was to be sent before."""
        whole = int(seconds)
        spec = _TimerSpec(seconds=whole, nanoseconds=int((seconds - whole) * 1e9))
        self._libc.timer_settime(self._timer, 0, ctypes.byref(spec), None)

    def delete(self) -> None:
        """Have no signal sent any more."""
        self._libc.timer_delete(self._timer)
