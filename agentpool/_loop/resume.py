"""A pool that goes on with a run that another process began."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from agentpool._core.capability import ComputeCapability, FileWriteCapability, ShellCapability
from agentpool._core.limits import PoolLimits
from agentpool._kernel.opening import go_on_with_pool
from agentpool._objects import object_from_data

if TYPE_CHECKING:
    from agentpool._core.budget import Budget
    from agentpool._core.manifest import AgentManifest
    from agentpool._core.records import JournalRecord
    from agentpool._kernel.pool import AgentPool
    from agentpool.abc import Approver, Driver, Hooks, Journal, Memory, Placement, ToolBuilder


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
    placement: Placement | None = None,
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
      placement: as for `open_agent_pool`, whether the run had one before or not.
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
        placement=placement,
        limits=limits,
        seed=seed,
        heed=_distrust_commands,
    )


def _distrust_commands(records: Sequence[JournalRecord]) -> None:
    """Take in which directories the commands of a run could write, and where paths had led before that."""
    from agentpool.tools._links import links

    directories: set[str] = set()
    for begun in (record.data for record in records if record.kind == "begun"):
        if any(name in str(begun["manifest"]) for name in ("ShellCapability", "ComputeCapability")):
            directories.update(_writable_by_commands(object_from_data(begun["manifest"])))
    if not directories:
        return
    links.commands_may_write(directories)
    links.distrust_noted()
    for record in records:
        if record.kind == "begun":
            for path, real in record.data.get("roots", {}).items():
                links.led(path, real)


def _writable_by_commands(manifest: AgentManifest) -> Iterator[str]:
    if manifest.sandbox != "bubblewrap" or not any(
        isinstance(each, ShellCapability | ComputeCapability) for each in manifest.capabilities
    ):
        return
    for each in manifest.capabilities:
        if isinstance(each, FileWriteCapability):
            for path in each.allowed_paths:
                whole = os.path.abspath(os.path.join(manifest.base or "", path))
                yield whole
                yield os.path.realpath(whole)
