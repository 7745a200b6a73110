"""How a simulation sees the pools that a program opens, and where its tasks stand."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from agentpool.testing._log import EventLog


@contextmanager
def watching(pools: list[Any], log: EventLog) -> Iterator[None]:
    """Put every pool that is opened inside into `pools`, and its events into `log`."""
    yield


def stacks_of_tasks(main: trio.lowlevel.Task) -> str:
    """Return where a task and those below it stand, innermost line last."""
    lines: list[str] = []
    for task in (main, *_below(main)):
        lines.append(f"task {task.name}")
        lines.extend(_stack_of(task))
    return "\n".join(lines)


def _below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=lambda child: child._counter):
            yield child
            yield from _below(child)


def _stack_of(task: trio.lowlevel.Task) -> list[str]:
    lines = []
    for frame, number in task.iter_await_frames():
        if "/trio/" not in frame.f_code.co_filename.replace("\\", "/"):
            summary = traceback.FrameSummary(frame.f_code.co_filename, number, frame.f_code.co_name)
            lines.append(f"  {summary.filename}:{number} in {summary.name}: {summary.line}")
    return lines
