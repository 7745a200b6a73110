"""Watches over what nobody else sees: scopes around the pool, agents that do not end, a blocked loop."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import attrs
import trio

from agentpool._core.events import AgentStuck
from agentpool._core.messages import AgentId
from agentpool._kernel.log import EventLog
from agentpool._kernel.protection import protect_module

ABORT_PATIENCE = 5.0
"""An agent that lives on for so many seconds after its abort is reported as stuck."""

BLOCKING_TIME = 1.0
"""An agent that keeps the event loop from going on for so many seconds, while a pool drains, is
reported."""


@attrs.frozen
class StuckAgent:
    """An agent that was aborted and lives on: it swallows cancellation, shields itself or blocks.

    Attributes:
      id, name: who it is.
      stack: where its task stands, innermost last.
    """

    id: AgentId
    name: str
    stack: tuple[str, ...]


class CutOff(Protocol):
    """An agent with a task that trio will not tell again that it is cancelled."""

    id: AgentId
    deadline: float

    def is_cancelled(self) -> bool:
        """Whether it is being cancelled itself by now."""
        ...

    def go_on_without_slot(self) -> None:
        """Let its woken tasks go on: they unwind."""


class Aborting(Protocol):
    """An agent that was aborted and has not ended."""

    id: AgentId
    name: str

    @property
    def parent_id(self) -> AgentId:
        """The id of the agent that spawned it; 0 for the pool's own."""
        ...

    def stack(self) -> tuple[str, ...]:
        """Where its task stands."""
        ...


class Watcher:
    """The pool's one task of its own.

    Trio has no partial shield: an agent that was cancelled by an inner timeout, and waits for its
    slot under a shield, has to be told when a scope around the pool is cancelled.

    Attributes:
      outside_cancelled: whether a scope around the pool was cancelled.
      stuck: agents that live on although they were aborted some time ago.
      task: its own, once it runs.

    Args:
      log: where it tells of agents that do not end.
    """

    __slots__ = (
        "_aborting",
        "_asleep",
        "_closed",
        "_cut_off",
        "_later",
        "_log",
        "_reported",
        "_timer",
        "outside_cancelled",
        "stuck",
        "task",
    )  # fmt: skip

    def __init__(self, log: EventLog) -> None:
        self.outside_cancelled: bool = False
        self.stuck: dict[AgentId, StuckAgent] = {}
        self._log = log
        self._cut_off: dict[AgentId, CutOff] = {}
        self._aborting: dict[AgentId, tuple[float, Aborting]] = {}
        self._reported: set[AgentId] = set()
        self._later: list[Callable[[], None]] = []
        self.task: trio.lowlevel.Task | None = None
        self._timer = trio.CancelScope()
        self._asleep = False
        self._closed = False

    @property
    def cut_off(self) -> int:
        """How many agents are watched for their own end."""
        return len(self._cut_off)

    async def run(self) -> None:
        """Watch until `close`."""
        self.task = trio.lowlevel.current_task()
        while not self._closed:
            try:
                # Shielded once it has heard: it would be cancelled again and again, and never sleep.
                with trio.CancelScope(shield=self.outside_cancelled) as self._timer:
                    self._set_timer()
                    self._asleep = True
                    await trio.lowlevel.wait_task_rescheduled(self._told)
            except trio.Cancelled:
                self._cancelled_outside()
            # In a step of its own, so that what it lets go on finds the books of the last step done.
            self._look_round()

    def close(self) -> None:
        """Go home; harmless when done before."""
        self._closed = True
        self._wake()

    def soon(self, look: Callable[[], None]) -> None:
        """Have something looked at in another step than this one."""
        self._later.append(look)
        self._wake()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            assert self.task is not None
            trio.lowlevel.reschedule(self.task)

    def _told(self, _: object) -> trio.lowlevel.Abort:
        # Runs in the same step as the cancellation of the agents, so that none waits in vain.
        self._asleep = False
        # Else it was its own timer, or `close`, that woke it.
        if not self._closed and trio.current_time() < self._timer.deadline:
            self._cancelled_outside()
        return trio.lowlevel.Abort.SUCCEEDED

    def _set_timer(self) -> None:
        times = [agent.deadline for agent in self._cut_off.values()]
        times += [
            at + ABORT_PATIENCE for at, agent in self._aborting.values() if not self._is_reported(agent)
        ]
        self._timer.deadline = min([self._timer.deadline, *times])

    def _look_round(self) -> None:
        self._release_cancelled()
        later, self._later = self._later, []
        for look in later:
            look()
        self.report_stuck()

    # -- agents that are cancelled while they wait for their slot -------------------------------

    def watch_cut_off(self, agent: CutOff) -> None:
        """Watch over an agent until it has its slot."""
        self._cut_off[agent.id] = agent
        self._set_timer()

    def forget_cut_off(self, agent_id: AgentId) -> None:
        """It has its slot, or has ended; harmless if it was not watched over."""
        if self._cut_off:
            self._cut_off.pop(agent_id, None)

    def _release_cancelled(self) -> None:
        # Oldest first, so that a run is the same each time.
        for agent in sorted(self._cut_off.values(), key=lambda agent: agent.id):
            if agent.is_cancelled():
                self.forget_cut_off(agent.id)
                agent.go_on_without_slot()

    def _cancelled_outside(self) -> None:
        self.outside_cancelled = True
        self._release_cancelled()

    # -- agents that do not end ------------------------------------------------------------------

    def expect_end(self, agent: Aborting) -> None:
        """Look later whether an aborted agent has ended."""
        now = trio.current_time()
        self._aborting[agent.id] = now, agent
        # Not all of them anew: ten thousand are aborted in one step.
        if now + ABORT_PATIENCE < self._timer.deadline:
            self._timer.deadline = now + ABORT_PATIENCE

    def ended(self, agent_id: AgentId) -> None:
        """An agent has ended."""
        self.forget_cut_off(agent_id)
        if self._aborting:
            self._aborting.pop(agent_id, None)
        if self.stuck:
            self.stuck.pop(agent_id, None)

    def report_stuck(self) -> None:
        """Name the agents that live on although they were aborted some time ago."""
        if not self._aborting:
            return
        now = trio.current_time()
        for at, agent in list(self._aborting.values()):
            if now >= at + ABORT_PATIENCE and not self._is_reported(agent):
                self.report(agent, agent.stack())

    def report(self, agent: Aborting, stack: tuple[str, ...], *, lives: bool = True) -> None:
        """Name an agent that does not end, or that keeps everybody from going on; once."""
        if not self._is_reported(agent):
            self._reported.add(agent.id)
            if lives:
                self.stuck[agent.id] = StuckAgent(agent.id, agent.name, stack)
            self._log.emit(AgentStuck, agent.id, agent.parent_id, agent.name, stack)
            self._log.reports.stuck(agent, stack)

    def _is_reported(self, agent: Aborting) -> bool:
        return agent.id in self._reported


# -- a blocked loop -----------------------------------------------------------------------------


class Blocking(Aborting, Protocol):
    """An agent that may be what blocks the loop."""

    ended: bool

    def is_on_cpu(self) -> bool:
        """Whether a task of it is what runs just now (asked in another thread)."""
        ...


@contextmanager
def watching_for_blocks(watcher: Watcher, agents: Callable[[], list[Blocking]]) -> Iterator[None]:
    """Name the agents that block the loop for longer than `BLOCKING_TIME`, while the block runs.

    A thread asks the loop for a sign of life, and looks where the loop stands if none comes. The
    agent is reported as stuck when the loop goes on.
    """
    watchdog = _Watchdog(watcher, agents, BLOCKING_TIME)
    thread = threading.Thread(target=watchdog.run, name="agentpool watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watchdog.stopped.set()
        thread.join()
        watchdog.report()


class _Watchdog:
    def __init__(self, watcher: Watcher, agents: Callable[[], list[Blocking]], seconds: float) -> None:
        self.stopped = threading.Event()
        self._watcher = watcher
        self._agents = agents
        self._seconds = seconds
        self._token = trio.lowlevel.current_trio_token()
        self._loop_thread = threading.get_ident()
        self._answered = True
        self._found: list[tuple[Blocking, tuple[str, ...]]] = []

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
        for agent, stack in found:
            self._watcher.report(agent, stack, lives=not agent.ended)

    def _look(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        for agent in self._agents():
            if agent.is_on_cpu():
                self._found.append((agent, tuple(_lines(frame))))


def _lines(frame: FrameType | None) -> list[str]:
    lines: list[str] = []
    while frame is not None:
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        frame = frame.f_back
    return lines[::-1]


protect_module(globals())
