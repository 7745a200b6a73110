"""What a run of a random program wrote down of what it saw from the outside."""

from __future__ import annotations

import contextvars
from collections import Counter
from typing import Any

import attrs
import trio

from agentpool._core.errors import (
    AgentAbortedError,
    AgentFailedError,
    AgentTimeoutError,
    BudgetExceededError,
    DeadlockError,
    LeftOpenError,
    PoolClosedError,
    PoolLimitError,
    RestartLimitError,
    UnknownAgentError,
)
from agentpool._kernel.slots import PoolFullError

from ._programs import Program
from ._readers import Gallery
from ._trouble import Planned as Planned
from ._trouble import leaves as leaves

EXPECTED = (
    Planned,
    AgentAbortedError,
    AgentFailedError,
    AgentTimeoutError,
    BudgetExceededError,
    DeadlockError,
    LeftOpenError,
    PoolClosedError,
    PoolFullError,
    PoolLimitError,
    RestartLimitError,
    UnknownAgentError,
    trio.EndOfChannel,
    trio.WouldBlock,
)
"""What operations of a program may raise."""

spawner_mark: contextvars.ContextVar[int] = contextvars.ContextVar("spawner_mark", default=0)


def is_expected(error: BaseException) -> bool:
    """Whether a program may raise this."""
    return all(isinstance(leaf, EXPECTED) for leaf in leaves(error))


@attrs.define(eq=False)
class World:
    """What a run of a program knows, beside the pool's own books.

    Attributes:
      handles: of every agent that an operation returned one for.
      sent: contents whose send returned.
      maybe: contents of which nobody can know whether they were delivered (a cancelled `ask`).
      unsent: contents whose send raised.
      received: contents that were received, in order, with their receiver.
      joined: ids that joins handed out, by the id of the scope.
      problems: what should not have been.
      alarms: the deadlocks that were reported; told_at: to whom, and when last.
      supervisors: agents that are supervisors.
      several: agents that had several tasks.
      waiting: for whom each agent waits, a set for each of its waits.
      busy: agents that do something which the pool knows nothing of.
      vague: how many operations of each agent wait for whom this does not know.
      receiving: agents that wait for a message; `told` those that noticed the end of their inbox.
      taken, answered: who received each question and when, and when its `ask` ended, unless that
        was told of a restart.
      aborts: when and why agents were aborted; `raised_at` when their bodies raised.
      returned: agents whose body returned.
      restarting: agents with a restart policy.
      looked: whose outcome somebody fetched; `owned` holds the handles of each agent's children.
      body_failed: whether the body of the pool raised on purpose; `body_error` is what it raised.
      input_failed: whether an input raised on purpose, in a block of the body that was cancelled.
      wholesale: whether agents may have been aborted by something that tells no names.
      computing: agents that run code just now, beside those that are being cancelled.
      left: agents that left something open on their task.
      inner: the worlds of the pools that agents opened.
      gallery: who reads events.
      outside: a nursery of the program around the pool; None where it has none.
      outsiders: how many tasks of the program's own, which agents started, live.
    """

    program: Program
    pool: Any = None
    handles: list[Any] = attrs.field(factory=list)
    sent: list[Any] = attrs.field(factory=list)
    maybe: set[Any] = attrs.field(factory=set)
    unsent: set[Any] = attrs.field(factory=set)
    received: list[tuple[int, Any]] = attrs.field(factory=list)
    joined: dict[int, list[int]] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)
    alarms: list[DeadlockError] = attrs.field(factory=list)
    told_at: dict[int, float] = attrs.field(factory=dict)
    computing: dict[int, int] = attrs.field(factory=dict)
    waiting: dict[int, list[set[int]]] = attrs.field(factory=dict)
    busy: Counter[int] = attrs.field(factory=Counter)
    vague: Counter[int] = attrs.field(factory=Counter)
    receiving: set[int] = attrs.field(factory=set)
    told: set[int] = attrs.field(factory=set)
    taken: dict[Any, tuple[int, float]] = attrs.field(factory=dict)
    answered: dict[Any, float] = attrs.field(factory=dict)
    questions: list[Any] = attrs.field(factory=list)
    aborts: dict[int, tuple[float, str]] = attrs.field(factory=dict)
    raised_at: dict[int, float] = attrs.field(factory=dict)
    returned: set[int] = attrs.field(factory=set)
    restarting: set[int] = attrs.field(factory=set)
    looked: set[int] = attrs.field(factory=set)
    owned: dict[int, list[Any]] = attrs.field(factory=dict)
    wholesale: bool = False
    fatal: bool = False
    cancelled: bool = False
    drained: bool = False
    body_failed: bool = False
    input_failed: bool = False
    body_error: BaseException | None = None
    cap: int = 0
    supervisors: set[int] = attrs.field(factory=set)
    several: set[int] = attrs.field(factory=set)
    tokens: int = 0
    marks: int = 0
    started: set[int] = attrs.field(factory=set)
    spawned: int = 0
    timeouts: dict[int, float] = attrs.field(factory=dict)
    left: set[int] = attrs.field(factory=set)
    inner: list[World] = attrs.field(factory=list)
    gallery: Gallery = attrs.field(factory=Gallery)
    outside: Any = None
    outsiders: int = 0

    def token(self) -> int:
        self.tokens += 1
        return self.tokens

    def room(self) -> bool:
        self.spawned += 1
        return self.spawned <= self.program.most_agents

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def raised(self, error: BaseException, *, agent: int, narrow: bool) -> None:
        """Look at what an operation of an agent raised."""
        for leaf in leaves(error):
            if isinstance(leaf, DeadlockError) and leaf not in self.alarms:
                self.alarms.append(leaf)
                self._check_alarm(leaf, agent, narrow)
                self.told_at[agent] = trio.current_time()
            if isinstance(leaf, Exception) and not isinstance(leaf, EXPECTED):
                self.problem(f"an operation raised {leaf!r}")

    def _check_alarm(self, alarm: DeadlockError, agent: int, narrow: bool) -> None:
        path = alarm.path
        if narrow:
            self.problem(f"{alarm!r} was raised under a deadline that would have ended the wait")
        if agent not in path or len(set(path)) != len(path):
            self.problem(f"{alarm!r} was raised in agent {agent}")
        for waiter, target in zip(path, (*path[1:], path[0]), strict=True):
            targets = self.waiting.get(waiter, [])
            # One end may close several cycles: who was told of another of them waits for somebody else
            # by now, because the errors come out one after the other, as slots get free.
            is_told = self.told_at.get(waiter) == trio.current_time()
            is_known = targets and not self.vague.get(waiter) and not is_told
            if is_known and not any(target in one for one in targets):
                self.problem(f"{alarm!r}: agent {waiter} waits for {targets}, not for {target}")
            why = self.gallery.may_go_on(waiter, self.busy)
            if why and not is_told:
                self.problem(f"{alarm!r}, although {why}")
