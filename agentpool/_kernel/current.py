"""Which agent a task belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio

from agentpool.abc import root_agent_id

if TYPE_CHECKING:
    from agentpool._kernel.agent import AgentRecord

_current: ContextVar[AgentRecord | None] = ContextVar("agentpool_current_agent", default=None)


def set_current_agent(record: AgentRecord) -> None:
    """Mark the calling task, and what it starts from now on, as a part of an agent."""
    _current.set(record)
    root_agent_id.set(record.root_id)


def current_agent() -> AgentRecord | None:
    """Return the agent that the caller's context belongs to, or None outside of every agent."""
    return _current.get()


def waiting_agent() -> AgentRecord | None:
    """Return the agent of the calling task, which is about to wait; None for a task of no agent.

    Raises:
      RuntimeError: if the task was started by an agent, but in a nursery that the pool does not
        know, so that the pool could not tell when the whole agent waits.
    """
    record = _current.get()
    if record is None:
        return None
    task = trio.lowlevel.current_task()
    if task is not record.task and not record.knows(task):
        raise RuntimeError(
            f"agent {record.id} ({record.name}) waits in a task that its pool does not know; "
            "start such tasks in `async with ctx.open_nursery() as nursery`"
        )
    return record
