"""Which agent a task belongs to.

Decided by the task, and not by what its context says: a task that an agent started in the program's
own nursery, or one of a `trio.run` in a thread, has inherited the agent's context variables and is
nobody. It waits as the program does.
"""

from __future__ import annotations

from contextvars import ContextVar

import trio

from agentpool._kernel.activity import Activity
from agentpool._kernel.protection import protect_module
from agentpool.abc import root_agent_id

_current: ContextVar[Activity | None] = ContextVar("agentpool_current_agent", default=None)
"""A hint: the agent that a task is probably one of. Whether it is, the agent says."""


def set_current_agent(record: Activity) -> None:
    """Mark the calling task, one that the agent knows, as a part of it."""
    _current.set(record)
    root_agent_id.set(record.root_id)


def current_agent() -> Activity | None:
    """Return the agent whose tasks the calling one descends from, known or not.

    None outside of every agent, and outside of trio's tasks, such as in an instrument.
    """
    if not trio.lowlevel.in_trio_task():
        return None
    return _owner(trio.lowlevel.current_task())[0]


def agent_behind_caller() -> Activity | None:
    """Return the agent for which the calling code works, to name it in a log; it decides nothing.

    In a task of the pool's run, the agent whose tasks it descends from. Elsewhere, in a thread, in another
    run of trio or of asyncio there, the one from which it has its context variables, though that may have
    ended.
    """
    hint = _current.get()
    if not trio.lowlevel.in_trio_task():
        return hint
    agent = _owner(trio.lowlevel.current_task())[0]
    if agent is None and hint is not None and hint.pool.root_task is not trio.lowlevel.current_root_task():
        return hint
    return agent


def waiting_agent() -> Activity | None:
    """Return the agent of the calling task, which is about to wait; None for a task of no agent.

    Raises:
      RuntimeError: if the task descends from one of an agent's, but the pool does not know it, so
        that the pool could not tell when the whole agent waits.
    """
    task = trio.lowlevel.current_task()
    record = _current.get()
    if record is not None and record.knows(task):
        return record  # the usual case
    owner, is_known = _owner(task)
    if owner is None or is_known:
        return owner
    raise RuntimeError(
        f"agent {owner.id} ({owner.name}) waits in a task that its pool does not know; "
        "start such tasks in `async with ctx.open_nursery() as nursery`"
    )


def _owner(task: trio.lowlevel.Task) -> tuple[Activity | None, bool]:
    """Walk up from a task to the first that an agent knows; tell whether it was the task itself.

    The hint may be there in a task that is nobody's (inherited), and missing in one that is an
    agent's (started in an empty context): so each task on the way up is asked by its own hint.
    """
    above: trio.lowlevel.Task | None = task
    while above is not None:
        record = above.context.get(_current)
        if record is not None and record.knows(above):
            return record, above is task
        nursery = above.parent_nursery
        above = None if nursery is None else nursery.parent_task
    return None, False


protect_module(globals())
