"""One agent's life: its body, its children, its outcome, and how it is started afresh."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from agentpool._agent import AgentRecord, Offspring
from agentpool._core.errors import (
    AgentPoolError,
    UnhandledAgentErrors,
)
from agentpool._core.events import (
    AgentRestarted,
    AgentStarted,
)
from agentpool._core.outcomes import Aborted, AnyOutcome, Failed
from agentpool._core.restart import Intensity, RestartPolicy
from agentpool._current import set_current_agent

if TYPE_CHECKING:
    pass

Heir: TypeAlias = tuple[AgentRecord, contextvars.Context]
"""An agent that runs in the task of one that ended, and the context that it runs in."""


async def live(record: AgentRecord) -> None:
    """Run an agent, and then, in the same task, those that are started in the slot that it leaves.

    A task and a cancel scope for each agent would cost 12 of the 29 µs that a plain agent of a map
    took with them. An agent starts in a context of its own all the same: trio runs each step of a
    task in `Task.context`.
    """
    task = trio.lowlevel.current_task()
    with record.scope:
        while True:
            heir = await _life(record, task)
            if heir is not None:
                record, task.context = heir
                task.name = record.name
                await trio.lowlevel.cancel_shielded_checkpoint()  # the next step is in the new context
                continue
            state = record.state
            if not state.may_spare(record):
                return
            scope = record.scope
            del record  # it has ended: it is not held while the task waits
            called = await state.spare(task, scope)
            if called is None:
                return
            record = called
            task.name = record.name


async def _life(record: AgentRecord, task: trio.lowlevel.Task) -> Heir | None:
    """Run an agent, from its first step to its outcome; return who takes over the task."""
    set_current_agent(record)
    record.task = task
    state = record.state
    if state.events.subscriptions:
        state.events.emit(AgentStarted, record.id, record.parent_id)
    restarts = None if record.options.restart is None else _Restarts(record, record.options.restart)
    outcome: AnyOutcome | None = None
    try:
        while True:
            record.context = state.make_context(record)
            try:
                value = await record.fn(record.context, *record.args)
            except BaseException as error:  # decided upon by the outcome; nothing is swallowed
                outcome = await _after_error(record, _with_fix(record, error))
            else:
                record.body_ended = True
                if record.offspring is None:
                    outcome = record.completed(value)
                else:
                    outcome = await _after_value(record, record.offspring, value)
                del value
            if restarts is None:
                break
            last = await restarts.after(outcome)
            if last is not None:
                outcome = last
                break
    finally:
        if outcome is None:  # a bug of ours: even then every id gets its outcome
            outcome = record.failed(AgentPoolError("the pool lost track of this agent"))
        heir = state.finish(record, outcome)
        # The traceback of a failure holds this frame: do not hold the record by it.
        del record, outcome
    return heir


async def _after_value(record: AgentRecord, offspring: Offspring, value: Any) -> AnyOutcome:
    unhandled = await _children_ended(record, offspring)
    if not unhandled:
        return record.completed(value)
    return record.failed(_unhandled(record, unhandled, value))


async def _after_error(record: AgentRecord, raised: BaseException) -> AnyOutcome:
    error = _without_cancelled(raised)
    record.body_ended = True
    unhandled: list[Exception] = []
    try:
        if record.offspring is not None:
            _abort_children(record, record.offspring, error)
            unhandled = await _children_ended(record, record.offspring)
        return _judged(record, error, unhandled)
    finally:
        del error, raised  # their traceback holds this frame


async def _children_ended(record: AgentRecord, offspring: Offspring) -> list[Exception]:
    """Wait for the children of a body that has ended; return the failures that it ignored."""
    if offspring.live:
        await offspring.all_ended(record, _nothing, cancellable=False, needs_slot=False)
    return offspring.failures()


def _with_fix(record: AgentRecord, error: BaseException) -> BaseException:
    """Tell how an agent is written, if the error came from calling it or awaiting what it returned."""
    if type(error) is not TypeError or error.__traceback__ is None or error.__traceback__.tb_next is not None:
        return error  # it comes out of the agent's own code
    if "await" not in str(error):
        error.add_note("An agent is called with its context, and then the arguments that spawn got.")
        return error
    fixed = TypeError(
        f"{record.name} is no async function, and an agent has to be one: write `async def` before it"
    )
    fixed.__cause__ = error
    return fixed


def _nothing() -> None:
    return None


def _without_cancelled(error: BaseException) -> BaseException | None:
    """What is left of an error when trio's cancellations are taken out; the same if there are none."""
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        cancelled, rest = error.split(trio.Cancelled)
        if cancelled is not None:
            return rest
    return error


def _abort_children(record: AgentRecord, offspring: Offspring, error: BaseException | None) -> None:
    reason = record.abort_reason if error is None else f"its parent, agent {record.id}, failed: {error!r}"
    for child in list(offspring.live.values()):
        child.abort(reason)


def _judged(record: AgentRecord, error: BaseException | None, unhandled: list[Exception]) -> AnyOutcome:
    """Decide the outcome by how the body ended, and never by whether somebody asked.

    Args:
      error: what the body raised; None if it was cancelled.
      unhandled: failures of children that it ignored.
    """
    if error is None:
        outcome = record.cancelled()
        if not unhandled:
            return outcome
        if isinstance(outcome, Aborted):
            return record.failed(_unhandled(record, unhandled, None))
        assert isinstance(outcome, Failed)
        outcome.error.add_note(note_on(unhandled))
        return outcome
    fatal = fatal_part(error)
    if fatal is not None:
        record.seen = True
        record.state.fatal_error(fatal)
    if unhandled:
        error.add_note(note_on(unhandled))
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
        repr(error) for error in unhandled[:5]
    )


def fatal_part(error: BaseException) -> BaseException | None:
    """The exception in `error` that no pool may contain: no `Exception` at all, or `MemoryError`."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            fatal = fatal_part(part)
            if fatal is not None:
                return fatal
        return None
    if isinstance(error, MemoryError):
        return error
    return None if isinstance(error, (Exception, trio.Cancelled)) else error


# -- starting afresh -----------------------------------------------------------------------------------


class _Restarts:
    """The restarts of one agent, by its policy."""

    def __init__(self, record: AgentRecord, policy: RestartPolicy) -> None:
        self._record = record
        self._policy = policy
        self._intensity = Intensity(policy.max_restarts, policy.within)

    async def after(self, outcome: AnyOutcome) -> AnyOutcome | None:
        """Return None when the agent is to be started afresh, else how it ended at last."""
        record, policy = self._record, self._policy
        if not _may_restart(record, policy, outcome):
            return outcome
        counted = self._intensity.restart(trio.current_time())
        if counted is None:
            return outcome
        self._intensity = counted
        record.restarts += 1
        state = record.state
        state.router.fail_asks_to(record.id, "was restarted", taken_only=True)
        if state.events.subscriptions:
            state.events.emit(AgentRestarted, record.id, record.parent_id, record.restarts, outcome)
        if await _back_off(record, policy.backoff.delay(record.restarts, state.random.random())):
            return record.cancelled()
        record.offspring = None
        record.body_ended = False
        return None


def _may_restart(record: AgentRecord, policy: RestartPolicy, outcome: AnyOutcome) -> bool:
    if record.aborted or record.is_cancelled() or record.inbox.ended or record.state.fatal:
        return False
    if record.state.draining or isinstance(outcome, Aborted):
        return False
    failed = isinstance(outcome, Failed)
    if not failed and record.state.slots.body_ended:
        return False  # the work is over: a server that ended well stays ended
    return policy.wants(failed=failed)


async def _back_off(record: AgentRecord, delay: float) -> bool:
    """Sleep without a slot, then wait for one; tell whether the agent was cancelled meanwhile."""
    state = record.state
    state.slots.give_back(record)
    if delay > 0:
        try:
            await trio.sleep(delay)
        except trio.Cancelled:
            return True
    record.active -= 1
    state.slots.idle += 1
    await record.regain()
    return record.is_cancelled()
