"""A pool that goes on with a run that another process began."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from agentpool._core.limits import PoolLimits
from agentpool._kernel.opening import go_on_with_pool

if TYPE_CHECKING:
    from agentpool._core.budget import Budget
    from agentpool._kernel.pool import AgentPool
    from agentpool.abc import Approver, Driver, Hooks, Journal, Memory, ToolBuilder


def resume_agent_pool(
    journal: str | os.PathLike[str] | Journal,
    driver: Driver | None = None,
    *,
    max_concurrent: int | None = None,
    memory: Memory | None = None,
    tool_builder: ToolBuilder | None = None,
    inbox_capacity: int | None = None,
    budget: Budget | None = None,
    approver: Approver | None = None,
    agents: Mapping[str, Callable[..., Any]] | None = None,
    hooks: Iterable[Hooks] = (),
    limits: PoolLimits = PoolLimits(),  # noqa: B008  (frozen)
    seed: int | None = None,
) -> AbstractAsyncContextManager[AgentPool]:
    """Open a pool with the run that a journal holds, which goes on where it was.

    Agents that had ended have their outcomes and are not run again. Model agents go on from what they had
    observed: no model call and no tool call that had ended is made again. Other agents run from their
    start; what they had done by the verbs of their contexts, and their steps (`AgentContext.step`), is not
    done again. Inboxes, questions, topics, restarts, time limits and budgets are as they were.

    The agents that the program had spawned are `pool.resumed`; `pool.join_all()` and the other verbs
    hand their outcomes out as if the pool had spawned them.

    Args:
      journal: the file, or a journal such as `SqliteJournal(path)`.
      driver, memory, tool_builder, approver, hooks, limits, seed: as for `open_agent_pool`; a journal keeps
        none of them.
      max_concurrent, inbox_capacity, budget: left out, they are as before. What was spent stays spent.
      agents: what runs under a name, for agents that the journal cannot find by itself: functions within
        functions, lambdas, objects. An agent that is spawned by one that runs again needs no entry.

    Raises:
      ReplayMismatchError: if an agent cannot be made again, or does something else than it did.
      JournalCorruptError: if the file is damaged.
      RunPausedError: as `open_agent_pool`.
      JournalError: if it holds no run, is in use, or cannot be read or written.
      TypeError, ValueError, UnhandledAgentErrors: as `open_agent_pool`.

    Cancellation: as `open_agent_pool`; the run can be resumed again.
    """
    # Its variable is kept in journals: it has to be known before one is read.
    from agentpool._loop import approving as approving

    if isinstance(journal, str | os.PathLike):
        from agentpool.journal import SqliteJournal

        journal = SqliteJournal(journal)
    return go_on_with_pool(
        journal,
        driver,
        max_concurrent=max_concurrent,
        memory=memory,
        tool_builder=tool_builder,
        inbox_capacity=inbox_capacity,
        budget=budget,
        approver=approver,
        agents=agents,
        hooks=hooks,
        limits=limits,
        seed=seed,
    )
