"""Asking the pool's approver about a tool call, while the agent has lent its slot.

The approver runs in a task of the pool that is no agent's: it needs no slot, and what it waits for is
judged by nobody. The agent's own task sleeps in a wait like every other. Whoever is cancelled while it
asks cancels the approver, and goes on when that has ended, as from a nursery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentpool._core.approval import (
    Answered,
    ApprovalRequest,
    Approved,
    Decision,
    Denied,
    decision_from_data,
    decision_to_data,
)
from agentpool._core.events import ApprovalDecided, ApprovalRequested
from agentpool._core.text import named, shown
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.idleness import idle_limits_of
from agentpool._kernel.leftovers import run_tidily, told_of
from agentpool._kernel.pausing import OpenQuestionWait, Pause
from agentpool._kernel.protection import protect_module
from agentpool._kernel.splitting import split_error
from agentpool._kernel.state import PoolState
from agentpool._kernel.wait import Wait, Waiter
from agentpool.abc import Approver

if TYPE_CHECKING:
    from agentpool._kernel.journal import PoolJournal

NOBODY = Denied("it needs the approval of a person, and there is nobody to ask")


async def decision_on(
    state: PoolState, record: AgentRecord, request: ApprovalRequest, call_key: str | None
) -> Decision:
    """Return what the pool's approver says of a call: the one place where that is asked.

    Without an approver the call is denied; with a journal the agent waits until the run is paused. What
    was decided of the same call before the run was resumed is not asked again.

    Args:
      call_key: names the call in all the world; None without a journal.

    Raises:
      RuntimeError: if the calling task descends from an agent's, but the pool does not know it.
      JournalError: if the decision cannot be written.

    Checkpoint: always. Cancellation: `Cancelled` means that nothing was decided; the approver was
    cancelled and has ended. What it raised meanwhile comes out beside it, in a group.
    """
    journal = state.journal
    if journal is None or call_key is None:
        decision = NOBODY if state.means.approver is None else None
        if decision is not None:
            await trio.lowlevel.checkpoint()
            _tell_decided(state, record, request, decision)
            return decision
        return await _asked(state, record, request)
    key = request.key(call_key)
    before = _decided_before(journal, key)
    if before is not None:
        await trio.lowlevel.checkpoint()
        _tell_decided(state, record, request, before)
        return before
    if key not in journal.past.approvals:
        call = journal.encoded(request.call, "a tool call")
        asked = {"hash": key, "agent": record.id, "call": call, "rule": request.rule}
        journal.append("asked", record.id, asked)
    if state.means.approver is None:
        waiter = waiting_agent()
        _tell_asked(state, record, request)
        return await _pause_of(state).wait_with(key, request, waiter)
    decided = await _asked(state, record, request)
    journal.append("decided", record.id, decision_to_data(key, decided))
    await journal.commit()
    return decided


def _decided_before(journal: PoolJournal, key: str) -> Decision | None:
    """Return what was decided of a call before the run was resumed; None if nothing was."""
    approval = journal.past.approvals.get(key)
    if approval is None or approval.decided is None:
        return None
    return decision_from_data(approval.decided)


def _pause_of(state: PoolState) -> Pause:
    journal = state.journal
    assert journal is not None
    pause: Pause | None = journal.pause
    if pause is None:
        pause = journal.pause = Pause(state)
    return pause


async def _asked(state: PoolState, record: AgentRecord, request: ApprovalRequest) -> Decision:
    approver = state.means.approver
    assert approver is not None
    waiter = waiting_agent()
    _tell_asked(state, record, request)
    # Nothing is heard of the agent, nor of those that wait for it, for as long as a person takes.
    idle = idle_limits_of(_with_ancestors(record))
    for limit in idle:
        limit.pause()
    try:
        decision = await _Asking(state, record, approver, request).decided(waiter)
    finally:
        for limit in idle:
            limit.go_on()
    _tell_decided(state, record, request, decision)
    return decision


def _tell_asked(state: PoolState, record: AgentRecord, request: ApprovalRequest) -> None:
    state.events.emit(ApprovalRequested, record.id, record.parent_id, request)
    state.events.reports.asked(record, request.call.name)


def _tell_decided(
    state: PoolState, record: AgentRecord, request: ApprovalRequest, decision: Decision
) -> None:
    state.events.emit(ApprovalDecided, record.id, record.parent_id, request, decision)
    verdict = "denied" if isinstance(decision, Denied) else "approved"
    state.events.reports.decided(record, request.call.name, verdict)


def _with_ancestors(record: AgentRecord) -> list[AgentRecord]:
    found = []
    one: AgentRecord | None = record
    while one is not None:
        found.append(one)
        one = one.parent
    return found


class _Asking:
    """One call of the approver, and who waits for it.

    Invariant: `_wait` is a wait that nobody has ended yet; None if nobody waits.
    """

    def __init__(
        self, state: PoolState, record: AgentRecord, approver: Approver, request: ApprovalRequest
    ) -> None:
        self._state = state
        self._record = record
        self._approver = approver
        self._request = request
        self._scope = trio.CancelScope()
        self._wait: Wait | None = None
        self._ended = False
        self._error: Exception | None = None

    async def decided(self, waiter: Waiter | None) -> Decision:
        """Call the approver, and wait for what it says."""
        record = self._record
        if record.ended:
            await trio.lowlevel.checkpoint()
            return _agent_ended(record)
        nursery = self._state.parts.nursery
        # In the context variables of whoever opened the pool: it works for that, and not for the agent.
        context = nursery.parent_task.context.copy()
        context.run(lambda: nursery.start_soon(self._run, name="agentpool approver"))
        record.held = (*record.held, self)
        wait = self._wait = OpenQuestionWait(waiter)
        try:
            decision: Decision = await wait.park(self._withdraw)
            return decision
        except BaseException as error:
            await self._wait_for_end(waiter)
            if self._error is not None:
                both = [error, self._error]
                raise BaseExceptionGroup("the approver was cancelled, and failed", both) from None
            raise
        finally:
            record.held = tuple(held for held in record.held if held is not self)

    def _withdraw(self, _: Wait) -> None:
        self._wait = None
        self._scope.cancel("nobody waits for the decision any more")

    async def _wait_for_end(self, waiter: Waiter | None) -> None:
        if not self._ended:
            self._wait = OpenQuestionWait(waiter)
            await self._wait.park(None)

    async def _run(self) -> None:
        """Call the approver, in a task of the pool: nothing may come out of here."""
        value: object = None
        error: BaseException | None = None
        left_open: tuple[str, ...] = ()
        with self._scope:  # `run_tidily` raises nothing, so that the scope swallows nothing
            value, error, left_open = await run_tidily(self._approver, (self._request,))
        try:
            parts = None if error is None else split_error(error)
            if parts is not None and parts.fatal is not None:
                self._state.fatal_error(parts.fatal, "the approver")
            elif parts is not None:
                self._error = parts.ordinary
            self._ended = True
            self._wake(_read(self._request, value, error, left_open))
        finally:
            del error  # its traceback holds this frame

    def _wake(self, decision: Decision) -> None:
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.wake(decision)

    def holder_ended(self, waiter: Waiter) -> None:
        """The agent has ended, and a task that is none of its own still asks on its behalf."""
        self._scope.cancel("the agent has ended")
        self._wake(_agent_ended(self._record))


def _agent_ended(record: AgentRecord) -> Denied:
    return Denied(f"agent {record.id} ({record.name}) has ended")


def _read(
    request: ApprovalRequest, value: object, error: BaseException | None, left_open: tuple[str, ...]
) -> Decision:
    """Return what an approver said; all but a decision denies."""
    if error is not None:
        return Denied(f"asking for approval failed: {named(error)}")
    if left_open:
        return Denied(f"asking for approval failed: the approver ended with {told_of(left_open)}")
    if isinstance(value, (Approved, Denied)) or (isinstance(value, Answered) and request.question):
        return value
    return Denied(
        f"asking for approval failed: the approver returned {shown(value)}, "
        "where Approved() or Denied(reason) is wanted"
    )


protect_module(globals())
