"""Sees who blocks the event loop: nothing that runs in the loop could."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import trio

from agentpool._kernel.protection import protect_module

if TYPE_CHECKING:
    from agentpool._kernel.agent import AgentRecord
    from agentpool._kernel.state import PoolState


@contextmanager
def watching_for_blocks(state: PoolState, seconds: float) -> Iterator[None]:
    """Name the agents that block the loop for longer than so many seconds, while the block runs.

    A thread asks the loop for a sign of life, and looks where the loop stands if none comes. The
    agent is reported as stuck when the loop goes on.
    """
    watchdog = _Watchdog(state, seconds)
    thread = threading.Thread(target=watchdog.run, name="agentpool watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watchdog.stopped.set()
        thread.join()
        watchdog.report()


class _Watchdog:
    def __init__(self, state: PoolState, seconds: float) -> None:
        self.stopped = threading.Event()
        self._state = state
        self._seconds = seconds
        self._token = trio.lowlevel.current_trio_token()
        self._loop_thread = threading.get_ident()
        self._answered = True
        self._found: list[tuple[AgentRecord, tuple[str, ...]]] = []

    def run(self) -> None:
        """Ask again and again, until it is stopped (in the thread)."""
        while not self.stopped.wait(self._seconds):
            if not self._answered:
                self._look()
            self._answered = False
            self._token.run_sync_soon(self._answer)

    def _answer(self) -> None:
        self._answered = True
        self.report()

    def report(self) -> None:
        """Name those that the thread has found (in the loop)."""
        found, self._found = self._found, []
        for record, stack in found:
            self._state.report(record, stack)

    def _look(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        for record in list(self._state.records.values()):
            if _is_running(record):
                self._found.append((record, tuple(_lines(frame))))


def _is_running(record: AgentRecord) -> bool:
    tasks = [record.task, *(record.more_tasks or ())]
    return any(task is not None and getattr(task.coro, "cr_running", False) for task in tasks)


def _lines(frame: FrameType | None) -> list[str]:
    lines: list[str] = []
    while frame is not None:
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        frame = frame.f_back
    return lines[::-1]


protect_module(globals())
