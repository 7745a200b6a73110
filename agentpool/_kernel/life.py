"""One agent's life: its body, its children, its outcome, and how it is started afresh."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from logging import DEBUG
from math import inf
from typing import Any

import trio

from agentpool._core.errors import (
    LeftOpenError,
    UnhandledAgentErrors,
)
from agentpool._core.events import (
    AgentFinished,
    AgentSpawned,
    AgentStarted,
)
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.restart import RestartPolicy
from agentpool._core.text import note, shown, told
from agentpool._kernel import granting
from agentpool._kernel.agent import AgentRecord, Resumed, Work
from agentpool._kernel.children import Children
from agentpool._kernel.current import set_current_agent
from agentpool._kernel.leftovers import close_leftovers, mark_task, told_of
from agentpool._kernel.names import KeepsNames
from agentpool._kernel.options import name_of
from agentpool._kernel.protection import await_unprotected, protect_module
from agentpool._kernel.restarts import Restarts
from agentpool._kernel.splitting import in_full, is_fatal, leaves_of, split_error
from agentpool._kernel.state import PoolState
from agentpool._logging import AGENTS


def start(
    state: PoolState,
    home: Children[AgentRecord],
    work: Work,
    *,
    context: contextvars.Context | None = None,
    batch: Any = None,
    by_agent: bool = False,
) -> AgentRecord:
    """Give an agent its id, its inbox and a free slot, and start its task.

    Raises:
      TypeError: if the pool has a journal, and the agent's arguments cannot be kept in it.
    """
    # One step from the first line to the last: the slot is taken, and every book written, before anybody
    # else runs.
    counts = state.counts
    description = None
    if state.journal is not None:
        description = state.journal.described(work.fn, work.args, is_placed=work.is_placed)
    counts.issued += 1
    owner = home.owner
    if by_agent or owner is not None:
        counts.descendants += 1
    name = work.options.name or name_of(work.fn)
    record = new_record(state, home, work, counts.issued, name, trio.current_time(), batch=batch)
    if granting.in_use:
        granting.spawned_in(record, context)
    # The slot before the task: between here and its first step the agent counts as running.
    slots = state.parts.slots
    slots.take(record)
    slots.started_at_once()
    if state.journal is not None:
        state.journal.spawned(record, description, work.op, work.options, context)
    _made_known(state, record)
    nursery = state.parts.nursery
    if context is None:
        nursery.start_soon(live, state, record, name=record.name)
    else:
        context.run(lambda: nursery.start_soon(live, state, record, name=record.name))
    return record


def new_record(
    state: PoolState,
    home: Children[AgentRecord],
    work: Work,
    agent_id: AgentId,
    name: str,
    started_at: float,
    *,
    batch: Any = None,
    holds: bool = True,
) -> AgentRecord:
    """Return the record of an agent, which has an inbox, and is known to its pool and its parent."""
    owner = home.owner
    timeout = work.options.timeout
    deadline = inf if owner is None else owner.deadline
    if timeout is not None:
        deadline = min(deadline, started_at + timeout)
    record = AgentRecord(
        id=agent_id,
        name=name,
        pool=state.parts,
        deadline=deadline,
        holds=holds,
        root_id=agent_id if owner is None else owner.root_id,
        home=home,
        work=work,
        scope=trio.CancelScope(deadline=deadline),
        inbox=state.router.register(agent_id),
        batch=batch,
        started_at=started_at,
    )
    # The two refer to each other while the agent lives; `finish` takes the record out again.
    record.inbox.owner = record
    state.records[agent_id] = record
    state.judge.add(record)
    home.live[agent_id] = record
    return record


def _made_known(state: PoolState, record: AgentRecord) -> None:
    """Tell those that wait for an agent of that name, and those that watch."""
    if state.names.waiting:
        state.names.came(record)
    if isinstance(record.work.fn, KeepsNames):
        state.names.spawned(record.id, record.work.fn.names_kept())
    if state.events.subscriptions:
        state.events.emit(AgentSpawned, record.id, record.parent_id, record.name)
    owner = record.home.owner
    if owner is not None and owner.aborted:
        record.abort(owner.abort_reason)  # it was spawned under a shield


async def live(state: PoolState, record: AgentRecord) -> None:
    """Run an agent, from its first step to its outcome, in a task and a scope of its own.

    Nothing awaitable stands between the end of the scope and the record of the outcome.
    """
    task = trio.lowlevel.current_task()
    # In the task's own context, a copy of the spawner's: what it is set to, nobody else sees.
    set_current_agent(record)
    record.add_task(task)
    is_told = AGENTS.isEnabledFor(DEBUG)  # asked once, since an agent that completes is the usual case
    if is_told:
        state.events.reports.started(record, record.parent_id)
    outcome: AnyOutcome | None = None
    try:
        with record.scope:
            is_claimed = record.resumed is None or await _claimed(record, record.resumed, task)
            policy = record.work.options.restart
            if state.events.subscriptions:  # in the context in which its body will run
                state.events.emit(AgentStarted, record.id, record.parent_id)
            if not is_claimed:
                outcome = await _never_claimed(record)
            elif policy is None:
                outcome = await _life(state, record)
            else:
                outcome = await _lives(state, record, policy, task)
    except BaseException as error:  # a bug of ours: even then the id gets its outcome, and the pool ends
        outcome = record.failed(error)
        state.fatal_error(error)
    assert outcome is not None  # the scope swallows nothing: a cancellation became the outcome inside
    finish(state, record, outcome)
    if is_told or type(outcome) is not Completed:
        state.events.reports.ended(record, outcome)
    journal = state.journal
    # The traceback of a failure holds this frame: do not hold the record by it.
    del record, outcome, state
    if journal is not None:
        await journal.keep_end()


def finish(state: PoolState, record: AgentRecord, outcome: AnyOutcome) -> None:
    """Everything that the end of an agent changes, in one step."""
    # From the first line to the last nothing may be awaited, and nothing of a user's may be called: who
    # looks at the pool sees the agent alive with everything, or ended with everything.
    record.outcome = outcome
    record.ended = True
    if state.journal is not None:
        state.journal.ended(record.id, outcome)
        if not record.is_spawned:
            state.journal.outcomes[record.id] = outcome  # for its parent, if that comes to its spawn again
    state.counts.ended += 1
    if record.resumed is not None:
        _abort_those_of(state, record)
    if state.counts.model_spawns:
        state.counts.model_spawns.pop(record.id, None)
    del state.records[record.id]
    # Who asked it, or waits for room in its inbox, is told before those that wait for its outcome: an
    # asker that is its parent as well gets the error of its question.
    state.router.unregister(record.id)
    if isinstance(record.work.fn, KeepsNames):
        state.names.ended(record.id, record.work.fn.names_kept())
    # What it left open of others' (an inner pool, a subscription) would keep them waiting for it.
    for held in record.held:
        held.holder_ended(record)
    if state.events.subscriptions:
        state.events.emit(AgentFinished, record.id, record.parent_id, outcome)
    # Break the cycles through the record, so that it goes without waiting for the collector.
    record.forget_children()
    record.work.args = ()
    record.inbox.owner = None
    is_seen = type(outcome) is Failed and any(map(is_fatal, leaves_of(outcome.error)))
    if record.batch is not None:
        record.batch.ended(outcome)
    record.home.ended(outcome, is_taken=record.is_of_batch, is_seen=is_seen)
    record.end()


def _abort_those_of(state: PoolState, record: AgentRecord) -> None:
    """Abort those that an agent had spawned on the pool, and did not spawn again when it was resumed."""
    for other in list(state.root.live.values()):
        if other.resumed is not None and not other.is_spawned and other.resumed.past.origin[0] == record.id:
            other.abort(NOT_SPAWNED_AGAIN)


NOT_SPAWNED_AGAIN = "the agent that had spawned it ended without doing so again"


async def _claimed(record: AgentRecord, resumed: Resumed, task: trio.lowlevel.Task) -> bool:
    """Wait until whoever spawned a resumed agent has told what it runs, and then for a slot.

    Returns:
      Whether it may go on; False if it was cancelled meanwhile.
    """
    try:
        await resumed.claimed.wait()
    except trio.Cancelled:
        return False
    assert resumed.context is not None
    task.context = resumed.context.copy()
    await trio.lowlevel.cancel_shielded_checkpoint()  # the next step is in it
    set_current_agent(record)
    await record.come_back()
    return not record.is_cancelled()


async def _never_claimed(record: AgentRecord) -> AnyOutcome:
    """Return the outcome of an agent that was cancelled before it went on, when its children have ended."""
    _abort_children(record, None)
    await _children_ended(record)
    return record.cancelled()


async def _lives(
    state: PoolState, record: AgentRecord, policy: RestartPolicy, task: trio.lowlevel.Task
) -> AnyOutcome:
    """Run the body, as often as its policy wants, and return how it ended at last."""
    restarts = Restarts(state, record, policy)
    origin = task.context.copy()
    while True:
        outcome = await _life(state, record)
        last = await restarts.after(outcome)
        if last is not None:
            return last
        # Each life starts in the context of whoever spawned the agent; the next step is in it.
        task.context = origin.copy()
        await trio.lowlevel.cancel_shielded_checkpoint()


async def _life(state: PoolState, record: AgentRecord) -> AnyOutcome:
    """Run the body once, close what it left open, and wait for the children."""
    # Inside of the agent's own scope, which is thereby never taken for something that was left open.
    mark = mark_task()
    value, error = None, None
    if state.journal is not None:
        state.journal.begin_life(
            record, record.restarts, None if record.resumed is None else record.resumed.past
        )
    try:
        work = record.work
        placement = state.means.placement
        if placement is None or not work.is_placed:
            value = await await_unprotected(work.fn, state.make_context(state, record), *work.args)
        else:
            context = state.make_context(state, record)
            value = await await_unprotected(placement.run, context, work.fn, work.args)
    except BaseException as raised:  # decided upon by the outcome; nothing is swallowed
        error = _with_fix(record, raised)
    try:
        left_open: tuple[str, ...] = ()
        if not mark.is_left:
            error, left_open = await close_leftovers(mark, error)
        if left_open and error is None:
            error = LeftOpenError(record.id, record.name, left_open)
        elif left_open and error is not None and not isinstance(error, trio.Cancelled):
            note(error, told_of(left_open))
        if error is not None:
            return await _after_error(state, record, error)
        record.body_ended = True
        if not record.has_children:
            return record.completed(value)
        return await _after_value(record, value)
    finally:
        del value, error, record  # the traceback of a failure holds this frame


async def _after_value(record: AgentRecord, value: Any) -> AnyOutcome:
    unhandled = await _children_ended(record)
    if not unhandled:
        return record.completed(value)
    return record.failed(_unhandled(record, unhandled, value))


async def _after_error(state: PoolState, record: AgentRecord, raised: BaseException) -> AnyOutcome:
    parts = split_error(raised)
    error: BaseException | None = parts.ordinary if parts.fatal is None else raised
    record.body_ended = True
    unhandled: list[Exception] = []
    try:
        if record.has_children:
            _abort_children(record, error)
            unhandled = await _children_ended(record)
        return _judged(state, record, error, parts.fatal, unhandled)
    finally:
        del error, raised, parts  # their traceback holds this frame


async def _children_ended(record: AgentRecord) -> list[Exception]:
    """Wait for the children of a body that has ended; return the failures that it ignored."""
    children = record.children
    for child in list(children.live.values()):
        if not child.is_spawned:
            child.abort(NOT_SPAWNED_AGAIN)
    if children.live:
        await children.wait_for_all(record, _nothing, cancellable=False, needs_slot=False)
    return children.failures()


def _with_fix(record: AgentRecord, error: BaseException) -> BaseException:
    """Tell how an agent is written, if the error came from calling it or awaiting what it returned."""
    if type(error) is RuntimeError and told(error) == "no running event loop":
        note(
            error,
            "Agents run on trio, not on asyncio: use trio.sleep(...) for asyncio.sleep(...), and so on; or "
            "make an agent that runs on asyncio with agentpool.bridge.asyncio_agent(function).",
        )
        return error
    if type(error) is not TypeError or _is_raised_inside(error):
        return error
    text = told(error)
    if "await" in text:
        fix = f"{record.name} is no async function, and an agent has to be one: write `async def` before it"
    else:
        fix = (
            f"{text}; the first parameter of an agent is its context: `async def agent(ctx, ...)`, "
            "and then come the arguments of spawn"
        )
    fixed = TypeError(fix)
    fixed.__cause__ = error
    return fixed


def _is_raised_inside(error: BaseException) -> bool:
    """Whether an error came out of the agent's own code; else the call itself raised it."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code in (_life.__code__, await_unprotected.__code__):
        place = place.tb_next
    return place is not None


def _nothing() -> None:
    return None


def _abort_children(record: AgentRecord, error: BaseException | None) -> None:
    reason = (
        record.abort_reason if error is None else f"its parent, agent {record.id}, failed: {shown(error)}"
    )
    for child in list(record.children.live.values()):
        child.abort(reason)


def _judged(
    state: PoolState,
    record: AgentRecord,
    error: BaseException | None,
    fatal: BaseException | None,
    unhandled: list[Exception],
) -> AnyOutcome:
    """Decide the outcome by how the body ended, and never by whether somebody asked.

    Args:
      error: what the body raised; None if it was cancelled.
      fatal: the same, if no pool may contain it.
      unhandled: failures of children that it ignored.
    """
    if error is None:
        outcome = record.cancelled()
        if not unhandled:
            return outcome
        if isinstance(outcome, Aborted):
            return record.failed(_unhandled(record, unhandled, None))
        assert isinstance(outcome, Failed)
        note(outcome.error, note_on(unhandled))
        return outcome
    if fatal is not None and not state.root.are_hosted:
        state.fatal_error(fatal)
    if unhandled:
        note(error, note_on(unhandled))
    return record.failed(error)


def _unhandled(record: AgentRecord, errors: Sequence[Exception], value: Any) -> UnhandledAgentErrors:
    group = UnhandledAgentErrors(
        f"agent {record.id} ({record.name}) did not handle the failures of its children", errors
    )
    group.value = value
    return group


def note_on(unhandled: Sequence[Exception]) -> str:
    """What is added to an exception that hides failures nobody looked at."""
    return f"{len(unhandled)} failure(s) of agents that nobody looked at: " + ", ".join(
        in_full(error) for error in unhandled[:5]
    )


protect_module(globals())
