"""The verbs that a pool and an agent's context share: spawn, join, send, ask; and those of `many`."""

from __future__ import annotations

import contextvars
from collections.abc import (
    Awaitable,
    Callable,
    Hashable,
    Iterable,
)
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import trio

from agentpool._core.errors import PoolClosedError, PoolLimitError
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.restart import RestartPolicy
from agentpool._core.text import shown
from agentpool._kernel import life
from agentpool._kernel.agent import Work
from agentpool._kernel.current import current_agent, waiting_agent
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.messaging import MessagingScope
from agentpool._kernel.options import check_agent, check_agents, options_of
from agentpool._kernel.protection import protect_module
from agentpool._kernel.slots import PoolFullError
from agentpool._kernel.wait import Wait

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext
    from agentpool._kernel.journal import PoolJournal
    from agentpool._kernel.places import Op

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _OneStart:
    """A spawn that waits for its slot."""

    __slots__ = ("_by_agent", "_context", "_scope", "_work", "wait", "withdrawn")

    def __init__(self, scope: Scope, work: Work, wait: Wait, by_agent: bool) -> None:
        self.withdrawn = False
        self.wait = wait
        self._scope = scope
        self._work = work
        # A child starts in the context of its spawner, though it is started by whoever frees the slot.
        self._context = contextvars.copy_context()
        self._by_agent = by_agent

    def granted(self) -> None:
        """Start the agent: a slot is free (called by the slots)."""
        scope = self._scope
        try:
            scope._state.admit(scope._children, by_agent=self._by_agent)
        except (PoolClosedError, PoolLimitError) as error:
            self.wait.fail(error)
            return
        record = life.start(
            scope._state,
            scope._children,
            self._work,
            context=self._context,
            by_agent=self._by_agent,
        )
        self.wait.wake(AgentHandle(record))

    def refuse(self, reason: str) -> None:
        """The pool takes no more agents."""
        self.wait.fail(PoolClosedError(reason))

    def cancel(self, wait: Wait) -> None:
        """Nobody waits for the agent any more."""
        self.withdrawn = True


class Scope(MessagingScope):
    """Owns agents: the pool is the root scope, every agent's context is the scope of its children."""

    __slots__ = ()

    @property
    def max_concurrent(self) -> int:
        """How many agents run at once at the most."""
        return self._state.slots.total

    @property
    def closing(self) -> bool:
        """Whether the pool's block has ended or drains, so that the work comes to its end."""
        return self._state.judge.work_is_over

    @property
    def draining(self) -> bool:
        """Whether the pool starts no more agents."""
        return bool(self._state.draining)

    async def hold(self, key: Hashable, open: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Return something that lives as long as the pool, such as a connection that its agents share.

        The first who asks has it opened; whoever asks for the same key afterwards gets the same. When all
        agents have ended it is closed, within 5 seconds. It is opened and closed in one task, which is
        none of an agent's, in the context variables of whoever opened the pool. What it runs is not
        taken for somebody who may send messages to agents.

        Args:
          key: names it in the pool.
          open: makes the block that is entered; called if nothing is open under the key.

        Raises:
          PoolClosedError: if the pool has ended.
          Exception: what raised as it was opened, for all that waited for it; who asks next tries anew.
            What it raises later comes out of the pool as the failure of an agent does, and it is opened
            anew for who asks next.

        Checkpoint: always. Cancellation: if nobody else waits for it, it is not opened.
        """
        self._state.parts.check_here()
        return await self._state.parts.holder.get(key, open)

    def is_held(self, key: Hashable) -> bool:
        """Whether the pool holds something under a key, so that `hold` would not open it."""
        return self._state.parts.holder.is_open(key)

    # -- starting ----------------------------------------------------------------------------------

    async def spawn(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> AgentHandle[T]:
        """Start an agent as a child of this scope, waiting for a slot.

        A message that is sent to it straight afterwards arrives.

        Args:
          agent: an async callable; it gets its context and `args`.
          name: for display, and to send messages to; the callable's own name if left out.
          timeout: seconds from its start to its end; past it the outcome is
            `Failed(AgentTimeoutError)`.
          restart: whether and how it is restarted when it ends.

        Raises:
          PoolClosedError: if the pool drains or has ended, or the parent has.
          PoolLimitError: if a bound of `PoolLimits` was reached.

        Checkpoint: always. Cancellation: `Cancelled` means that no agent was started.
        """
        check_agent(agent)
        work = Work.of(agent, args, options_of(name, timeout, restart))
        journal = self._state.journal
        if journal is not None:
            spawned: AgentHandle[T] = await journal.perform(
                "spawn", partial(self._spawn, work), partial(self._spawned_before, work)
            )
            return spawned
        return await self._spawn(work, None)

    async def _spawned_before(self, work: Work, agent_id: AgentId, op: Op) -> AgentHandle[Any]:
        return self._respawned(work, agent_id, op)

    def _respawned(self, work: Work, agent_id: AgentId, op: Op) -> AgentHandle[Any]:
        """Return the agent that the calling one had spawned here before it was resumed."""
        from agentpool._kernel.resuming import respawned  # who has no journal needs none

        return AgentHandle(respawned(self._state, self._children, agent_id, work))

    async def _spawn(self, work: Work, op: Op | None) -> AgentHandle[Any]:
        work.op = op
        waiter = waiting_agent()
        # Here, and not after the start: who is told `Cancelled` has started nobody.
        await trio.lowlevel.checkpoint_if_cancelled()
        state = self._state
        by_agent = waiter is not None
        state.admit(self._children, by_agent=by_agent)
        if state.slots.has_room:
            # Nothing may be awaited between `admit`, `has_room` and the start: others could take the slot.
            handle = self._start_now(work, by_agent)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return handle
        wait = Wait(waiter)
        start = _OneStart(self, work, wait, by_agent)
        state.slots.claim_for_start(start)
        started: AgentHandle[Any] = await wait.park(start.cancel)
        return started

    def spawn_nowait(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
        restart: RestartPolicy | None = None,
    ) -> AgentHandle[T]:
        """Start an agent in a free slot, without waiting; as `spawn` otherwise.

        Raises:
          PoolFullError: if no slot is free, or others wait for one; it is a `trio.WouldBlock` too.
        """
        check_agent(agent)
        work = Work.of(agent, args, options_of(name, timeout, restart))
        journal = self._state.journal
        if journal is None:
            return self._spawn_nowait(work, None)
        refusal = PoolFullError("no slot was free here before the agent was resumed")
        respawn = partial(self._respawned, work)
        return journal.perform_nowait("spawn", partial(self._spawn_nowait, work), respawn, refusal)

    def _spawn_nowait(self, work: Work, op: Op | None) -> AgentHandle[Any]:
        work.op = op
        state = self._state
        by_agent = current_agent() is not None
        state.admit(self._children, by_agent=by_agent)
        if not state.slots.has_room:
            raise PoolFullError(
                f"all {self.max_concurrent} slots are taken or spoken for; `await spawn` waits for one"
            )
        return self._start_now(work, by_agent)

    def _start_now(self, work: Work, by_agent: bool) -> AgentHandle[Any]:
        return AgentHandle(life.start(self._state, self._children, work, by_agent=by_agent))

    async def fan_out(
        self, configs: Iterable[Callable[[AgentContext], Awaitable[T]]]
    ) -> list[AgentHandle[T]]:
        """Start several agents, in their order, waiting for slots; return their handles in that order.

        The joins hand out outcomes in the order of the ends, which is another one. For outcomes in the
        order of the agents ask each handle, or use `map`.

        Raises:
          PoolClosedError, PoolLimitError: as `spawn`; what has started remains a child.

        Checkpoint: always. Cancellation: what has started remains a child of this scope.
        """
        if not isinstance(configs, Iterable):
            raise TypeError(f"configs must be a list of agents, not {shown(configs)}")
        configs = tuple(configs)
        check_agents(configs)  # before any of them starts
        handles: list[AgentHandle[T]] = []
        await trio.lowlevel.checkpoint()
        for config in configs:
            handles.append(await self.spawn(config))
        return handles

    # -- joining -------------------------------------------------------------------------------------

    async def join_next(self) -> AnyOutcome | None:
        """Wait for the next direct child to end, and return its outcome; None when none is left.

        Each outcome is handed out once, in the order of the ends, unless its handle took it.

        Raises:
          DeadlockError: if every child waits for the caller.

        Checkpoint: always. Cancellation: `Cancelled` means that no outcome was taken.
        """
        self._state.parts.check_here()
        journal = self._state.journal
        if journal is None:
            return await self._join_next()
        return await journal.perform(
            "join", partial(self._join_next_for_journal, journal), self._joined_before
        )

    async def _join_next_for_journal(self, journal: PoolJournal, op: Op | None) -> AnyOutcome | None:
        outcome = await self._join_next()
        journal.operated(op, "join", None if outcome is None else outcome.agent_id)
        if op is None:
            await journal.commit_shielded()
        return outcome

    async def _joined_before(self, agent_id: AgentId | None, op: Op) -> AnyOutcome | None:
        return None if agent_id is None else self._taken_before(agent_id, op)

    def _taken_before(self, agent_id: AgentId, op: Op) -> AnyOutcome:
        outcome = self._children.take_outcome(agent_id)
        if outcome is None:
            raise op.mismatch(f"it got the outcome of agent {agent_id}, which is not there to be taken now")
        return outcome

    async def _join_next(self) -> AnyOutcome | None:
        waiter = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        children = self._children
        outcome = children.next_outcome()
        if outcome is not None or not children.live:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return outcome
        self._state.judge.check(waiter, children.live.values())
        return await children.wait_for_next(waiter)

    async def join_all(self) -> dict[AgentId, AnyOutcome]:
        """Wait until no direct child is left, and return the outcomes that nobody has taken.

        Raises:
          DeadlockError: if a child waits for the caller.

        Checkpoint: always. Cancellation: `Cancelled` means that no outcome was taken.
        """
        self._state.parts.check_here()
        journal = self._state.journal
        if journal is None:
            return await self._join_all()
        return await journal.perform(
            "join_all", partial(self._join_all_for_journal, journal), self._all_before
        )

    async def _join_all_for_journal(self, journal: PoolJournal, op: Op | None) -> dict[AgentId, AnyOutcome]:
        outcomes = await self._join_all()
        journal.operated(op, "join_all", list(outcomes))
        if op is None:
            await journal.commit_shielded()
        return outcomes

    async def _all_before(self, agent_ids: list[AgentId], op: Op) -> dict[AgentId, AnyOutcome]:
        return {agent_id: self._taken_before(agent_id, op) for agent_id in agent_ids}

    async def _join_all(self) -> dict[AgentId, AnyOutcome]:
        waiter = waiting_agent()
        await trio.lowlevel.checkpoint_if_cancelled()
        children = self._children
        if not children.live:
            outcomes = children.all_outcomes()
            await trio.lowlevel.cancel_shielded_checkpoint()
            return outcomes
        self._state.judge.check(waiter, children.live.values(), needs_all=True)
        all_of_them: dict[AgentId, AnyOutcome] = await children.wait_for_all(waiter, children.all_outcomes)
        return all_of_them

    def abort_all(self, reason: str | None = None) -> None:
        """Abort the agents of this scope, also those that have not taken their first step.

        Does not wait. The scope stays usable.
        """
        # Whom an agent that runs again has not spawned yet, it does not abort; a pool's end aborts all.
        ends = self._state.is_left
        children = [child for child in self._children.live.values() if ends or child.is_spawned]
        if children:
            self._state.parts.check_here()
        for record in children:
            record.abort(reason)


protect_module(globals())
