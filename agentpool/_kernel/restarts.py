"""When an agent that has ended is started afresh, and what the end of its life changes."""

from __future__ import annotations

import trio

from agentpool._core.events import AgentRestarted
from agentpool._core.outcomes import Aborted, AnyOutcome, Failed
from agentpool._core.restart import Intensity, RestartPolicy
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.protection import protect_module
from agentpool._kernel.state import PoolState


class Restarts:
    """The restarts of one agent, by its policy."""

    def __init__(self, state: PoolState, record: AgentRecord, policy: RestartPolicy) -> None:
        self._state = state
        self._record = record
        self._policy = policy
        resumed = record.resumed
        # What counted before the process died counts still.
        recent = () if resumed is None else tuple(map(state.time_of, resumed.past.restarted_at))
        self._intensity = Intensity(policy.max_restarts, policy.within, recent)

    async def after(self, outcome: AnyOutcome) -> AnyOutcome | None:
        """Return None when the agent is to be started afresh, else how it ended at last."""
        record, policy = self._record, self._policy
        if not _may_restart(self._state, record, policy, outcome):
            return outcome
        counted = self._intensity.restart(trio.current_time())
        if counted is None:
            return outcome
        self._intensity = counted
        record.restarts += 1
        state = self._state
        if state.journal is not None:
            state.journal.append("restarted", record.id, {"life": record.restarts})
        state.router.fail_asks_to(record.id, "was restarted", taken_only=True)
        for held in record.held:
            held.holder_ended(record)
        delay = policy.backoff.delay(record.restarts, state.random.random())
        if state.events.subscriptions:
            state.events.emit(AgentRestarted, record.id, record.parent_id, record.restarts, outcome, delay)
        state.events.reports.restarted(record, delay, outcome)
        if await _back_off(record, delay):
            last = record.cancelled()
            if isinstance(last, Failed) and isinstance(outcome, Failed):
                last.error.__cause__ = outcome.error  # its time was over before the next life
            return last
        record.forget_children()
        record.body_ended = False
        return None


def _may_restart(state: PoolState, record: AgentRecord, policy: RestartPolicy, outcome: AnyOutcome) -> bool:
    if record.aborted or record.is_cancelled() or record.inbox.ended or state.fatal:
        return False
    if state.draining or isinstance(outcome, Aborted):
        return False
    failed = isinstance(outcome, Failed)
    if not failed and record.pool.judge.work_is_over:
        return False  # the work is over: a server that ended well stays ended
    return policy.wants(failed=failed)


async def _back_off(record: AgentRecord, delay: float) -> bool:
    """Sleep without a slot, then wait for one; tell whether the agent was cancelled meanwhile."""
    record.back_off()
    if delay > 0:
        try:
            await trio.sleep(delay)
        except trio.Cancelled:
            return True
    await record.come_back()
    return record.is_cancelled()


protect_module(globals())
