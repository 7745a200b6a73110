"""What `spawn` returns."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AgentOutcome
from agentpool._kernel.agent import AgentRecord, AgentStatus
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.protection import protect_module

if TYPE_CHECKING:
    from agentpool._kernel.journal import PoolJournal
    from agentpool._kernel.places import Op

T_co = TypeVar("T_co", covariant=True)


class AgentHandle(Generic[T_co]):
    """What `spawn` returns: who the agent is, how it is doing, and its outcome."""

    __slots__ = ("_record",)

    def __init__(self, record: AgentRecord) -> None:
        self._record = record

    def __repr__(self) -> str:
        return f"<AgentHandle of {self._record!r}>"

    @property
    def id(self) -> AgentId:
        """The agent's id, to which messages are sent."""
        return self._record.id

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._record.name

    @property
    def status(self) -> AgentStatus:
        """What the agent is doing, or how it ended.

        `starting` before its first step; then `running`, or `waiting` in operations of the pool;
        `queued` when such a wait is over and its slot is missing; `backing_off` before a restart;
        `ending` when its body has ended and its children have not. At last `completed`, `failed` or
        `aborted`.
        """
        return self._record.status

    @property
    def outcome(self) -> AgentOutcome[T_co] | None:
        """How it ended; None until then. Reading a failure counts as having looked at it."""
        record = self._record
        if record.outcome is not None:
            record.home.see(record.id)
        return record.outcome

    async def wait(self) -> AgentOutcome[T_co]:
        """Wait for the end of the agent, and return its outcome; never raises the agent's error.

        The joins do not hand out an outcome that was returned here. Any number of tasks may wait.

        Raises:
          DeadlockError: if the agent waits for the caller, so that neither could end.

        Checkpoint: always. Cancellation: `Cancelled` means that the outcome was not taken.
        """
        record = self._record
        journal = record.inbox.journal
        if journal is None:
            return await self._wait()
        outcome: AgentOutcome[T_co] = await journal.perform(
            "wait", partial(self._wait_for_journal, journal), self._waited_before
        )
        return outcome

    async def _wait_for_journal(self, journal: PoolJournal, op: Op | None) -> AgentOutcome[T_co]:
        outcome = await self._wait()
        journal.operated(op, "wait", outcome.agent_id)
        if op is None:
            await journal.commit_shielded()
        return outcome

    async def _waited_before(self, agent_id: AgentId, op: Op) -> AgentOutcome[T_co]:
        return await self._wait()

    async def _wait(self) -> AgentOutcome[T_co]:
        waiter = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        record = self._record
        if record.outcome is None:
            record.pool.check_here()
            record.pool.judge.check(waiter, (record,))
            outcome: AgentOutcome[T_co] = await record.home.wait_for_one(waiter, record)
            return outcome
        record.home.take(record.id)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return record.outcome

    async def result(self) -> T_co:
        """Wait for the end of the agent, and return its value.

        Raises:
          AgentFailedError: from the agent's own exception, if it failed.
          AgentAbortedError: if it was aborted.
          DeadlockError: as `wait`.

        Checkpoint: always. Cancellation: as `wait`.
        """
        return (await self.wait()).unwrap()

    def abort(self, reason: str | None = None) -> None:
        """End the agent at its next checkpoint, and its children; harmless after its end.

        Does not wait. The outcome is `Aborted` with the reason, unless the body ends in another way.
        """
        if self._record.ended:
            return
        self._record.pool.check_here()
        self._record.abort(reason)


protect_module(globals())
