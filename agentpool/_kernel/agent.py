"""One agent: what it knows of itself, and how it ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, assert_never

import trio

from agentpool._core.errors import AgentTimeoutError
from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.usage import NO_USAGE, NOTHING_USED, TokenUsage
from agentpool._kernel.children import Children
from agentpool._kernel.options import SpawnOptions, is_described, name_of
from agentpool._kernel.protection import protect_module
from agentpool._kernel.router import Inbox
from agentpool._kernel.slots import Party

if TYPE_CHECKING:
    from agentpool._core.budget import Budget
    from agentpool._kernel.context import AgentContext
    from agentpool._kernel.state import PoolState

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

AgentStatus: TypeAlias = Literal["starting", "running", "waiting", "ending", "completed", "failed", "aborted"]

CANCELLED_OUTSIDE = "a scope around the pool was cancelled"
CANCELLED_ITSELF = "its body raised trio.Cancelled, though nobody had cancelled it"


class AgentRecord(Party):
    """The state of one agent, from its spawn on."""

    # Defaults on the class: only what an agent makes use of costs it time and memory.
    _budget: Budget | None = None
    abort_reason: str | None = None
    aborted: bool = False
    aborted_at: float = inf
    body_ended = False
    context: AgentContext | None = None
    depth: int = 0
    more_tasks: set[trio.lowlevel.Task] | None = None
    nurseries: dict[trio.Nursery, bool] | None = None
    _children: Children | None = None
    outcome: AnyOutcome | None = None
    parent_id: AgentId = SUPERVISOR
    restarts = 0
    seen: bool = False
    stops_children = False
    task: trio.lowlevel.Task | None = None
    used = NOTHING_USED

    def __init__(
        self,
        state: PoolState,
        agent_id: AgentId,
        home: Children,
        fn: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        options: SpawnOptions,
        batch: Any,
    ) -> None:
        self.started_at: float = trio.current_time()
        owner = home.owner
        deadline = inf
        if owner is not None:
            self.parent_id = owner.id
            self.depth = owner.depth + 1
            deadline = owner.deadline
        if options.timeout is not None:
            deadline = min(deadline, self.started_at + options.timeout)
        super().__init__(agent_id, state.slots, deadline)
        self.state = state
        self.home = home
        self.fn = fn
        self.args = args
        self.options = options
        self.name: str = options.name or name_of(fn)
        self.scope: trio.CancelScope = trio.CancelScope(deadline=deadline)
        self.inbox: Inbox = state.router.register(agent_id, owner=self)
        self.batch = batch

    def __repr__(self) -> str:
        return f"<agent {self.id} ({self.name}), {self.status}>"

    @property
    def status(self) -> AgentStatus:
        """What the agent is doing."""
        match self.outcome:
            case Completed():
                return "completed"
            case Failed():
                return "failed"
            case Aborted():
                return "aborted"
            case None if self.task is None:
                return "starting"
            case None if self.body_ended:
                return "ending"
            case None:
                return "running" if self.active else "waiting"
            case _:
                assert_never(self.outcome)

    def waits_for(self) -> tuple[AgentId, ...]:
        """The agents that could end its waits; empty where anybody could."""
        if len(self.waits) == 1 and self.waits[0].targets is None:
            return ()
        found: dict[AgentId, None] = {}
        for wait in self.waits:
            found.update((target.id, None) for target in wait.known_targets() or ())
        return tuple(found)

    # -- its tasks ---------------------------------------------------------------------------------------

    def knows(self, task: trio.lowlevel.Task) -> bool:
        """Whether a task is one of the agent's known ones."""
        return task is self.task or (self.more_tasks is not None and task in self.more_tasks)

    def unknown_nurseries(self, task: trio.lowlevel.Task) -> Sequence[trio.Nursery]:
        """The nurseries that a task opened by itself; those of pools belong to them."""
        known = self.nurseries
        return [
            nursery for nursery in task.child_nurseries if known is None or known.get(nursery) is not False
        ]

    def has_unknown_tasks(self, nurseries: Sequence[trio.Nursery]) -> bool:
        """Whether tasks that are unknown live in one of these nurseries."""
        known = self.nurseries or ()
        return any(nursery.child_tasks and nursery not in known for nursery in nurseries)

    def know_nursery(self, nursery: trio.Nursery, *, of_pool: bool = False) -> None:
        """The tasks of a nursery are not unknown: they are the agent's own, or agents of a pool."""
        if self.nurseries is None:
            self.nurseries = {}
        self.nurseries[nursery] = of_pool

    @property
    def children(self) -> Children:
        """The agent's children; made when the first one is asked for."""
        if self._children is None:
            self._children = Children(self)
        return self._children

    @property
    def has_children(self) -> bool:
        """Whether it ever had a child in this life."""
        return self._children is not None

    def forget_children(self) -> None:
        """Its next life has none yet; or it has ended."""
        self._children = None

    # -- its means -----------------------------------------------------------------------------------------

    @property
    def parent(self) -> AgentRecord | None:
        """The agent that spawned it; None for the pool's own."""
        return self.home.owner

    @property
    def root_id(self) -> AgentId:
        """The id of its oldest ancestor below the pool, or its own."""
        record = self
        while record.home.owner is not None:
            record = record.home.owner
        return record.id

    @property
    def usage(self) -> TokenUsage:
        """What its model calls have used so far."""
        return NO_USAGE if self.used is NOTHING_USED else self.used.usage

    @property
    def budget(self) -> Budget | None:
        """The agent's quota, below its parent's, below the pool's."""
        if self._budget is None:
            above = self.state.budget if self.parent is None else self.parent.budget
            quota = self.fn.quota if is_described(self.fn) else None
            if quota is None or (quota.tokens is None and quota.cost_usd is None):
                return above
            tokens, cost = quota.tokens, quota.cost_usd
            if above is None:
                from agentpool._core.budget import Budget  # a plain agent never needs it

                self._budget = Budget(tokens=tokens, cost_usd=cost)
            else:
                self._budget = above.child(tokens=tokens, cost_usd=cost)
        return self._budget

    # -- its outcome -----------------------------------------------------------------------------------------

    def abort(self, reason: str | None) -> None:
        """Cancel the agent and all that live below it, at their next checkpoints.

        Not recursive: trees may be thousands deep. Who was aborted before is passed over with those
        below, which were aborted then, or when they were spawned.
        """
        todo: list[AgentRecord] = [self]
        while todo:
            record = todo.pop()
            if not record.ended and record._cancel(reason):
                todo.extend(reversed(record.children.live.values()))

    def _cancel(self, reason: str | None) -> bool:
        """Cancel the agent itself; tell whether its children are to be aborted too."""
        now = trio.current_time()
        if not self.aborted and now < self.deadline:
            self.aborted = True
            self.abort_reason = reason
        is_first = self.aborted_at == inf
        if is_first:
            self.aborted_at = now
            self.state.watch_abort(self)
        self.unwind()
        self.scope.cancel(reason)
        # A supervisor stops its children by itself, one after the other.
        stops_children = self.stops_children and not self.body_ended
        return self._children is not None and not stops_children and (is_first or self.stops_children)

    def completed(self, value: Any) -> AnyOutcome:
        """The outcome of a body that returned."""
        duration = trio.current_time() - self.started_at
        return Completed(
            agent_id=self.id,
            name=self.name,
            parent_id=self.parent_id,
            usage=self.usage,
            started_at=self.started_at,
            duration=duration,
            restarts=self.restarts,
            value=value,
        )

    def failed(self, error: BaseException) -> AnyOutcome:
        """The outcome of a body that raised."""
        return Failed(**self._facts(), error=error)

    def _facts(self) -> dict[str, Any]:
        return {
            "agent_id": self.id,
            "name": self.name,
            "parent_id": self.parent_id,
            "usage": self.usage,
            "started_at": self.started_at,
            "duration": trio.current_time() - self.started_at,
            "restarts": self.restarts,
        }

    def cancelled(self) -> AnyOutcome:
        """The outcome of a body that was cancelled."""
        if self.aborted:
            return Aborted(**self._facts(), reason=self.abort_reason)
        if trio.current_time() >= self.deadline:
            return self.failed(AgentTimeoutError(self.id, self.name, self._own_timeout()))
        # Asked inside of the agent's scope: minus infinity says that a scope around it is cancelled.
        is_outside = trio.current_effective_deadline() == -inf
        return Aborted(**self._facts(), reason=CANCELLED_OUTSIDE if is_outside else CANCELLED_ITSELF)

    def _own_timeout(self) -> float | None:
        timeout = self.options.timeout
        own = timeout is not None and self.deadline >= self.started_at + timeout
        return timeout if own else None


protect_module(globals())
