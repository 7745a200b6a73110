"""One agent: what it knows of itself, and how it ended."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, assert_never

import attrs
import trio

from agentpool._core.errors import AgentTimeoutError
from agentpool._core.messages import SUPERVISOR, AgentId
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._core.usage import NO_USAGE, TokenUsage, UsageCounter
from agentpool._core.value import value
from agentpool._kernel.activity import Activity
from agentpool._kernel.children import Children
from agentpool._kernel.inbox import Inbox
from agentpool._kernel.options import SpawnOptions, is_described
from agentpool._kernel.placed import Placed
from agentpool._kernel.protection import protect_module

if TYPE_CHECKING:
    from agentpool._core.budget import Budget
    from agentpool._core.grants import Grants
    from agentpool._core.past import PastAgent
    from agentpool._kernel.places import Op

AgentStatus: TypeAlias = Literal[
    "starting", "running", "waiting", "queued", "backing_off", "ending", "completed", "failed", "aborted"
]

CANCELLED_OUTSIDE = "a scope around the pool was cancelled"
CANCELLED_ITSELF = "its body raised trio.Cancelled, though nobody had cancelled it"


@attrs.define(eq=False)
class Work:
    """What an agent runs, and how; without its arguments once it has ended.

    Attributes:
      op: which operation of an agent asked for it; None without a journal, and for the program.
      is_placed: whether it runs where the pool's placement says, if it has one.
    """

    fn: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...]
    options: SpawnOptions
    op: Op | None = None
    is_placed: bool = False

    @classmethod
    def of(cls, agent: Callable[..., Awaitable[Any]], args: tuple[Any, ...], options: SpawnOptions) -> Work:
        """Return what runs an agent, which may be marked for placement."""
        if isinstance(agent, Placed):
            return cls(agent.agent, args, options, None, True)
        return cls(agent, args, options)


@value
class Granted:
    """What an agent may do, and the agent as it is with that.

    Attributes:
      agent: what was spawned, or a copy of it that asks for no more than is granted.
    """

    grants: Grants
    agent: Any


@attrs.define(eq=False)
class Own:
    """What an agent has of its own, as far as somebody has asked for it; plain agents mostly have none.

    Attributes:
      budget: its quota.
      granted: what it may do.
      above: what the loop may do whose tool call spawned it; None if none did.
    """

    budget: Budget | None = None
    granted: Granted | None = None
    above: Grants | None = None


@attrs.define(eq=False)
class Resumed:
    """An agent that was begun by another process, and goes on in this one.

    Attributes:
      past: what the journal tells of it.
      claimed: set when whoever spawned it has told what it runs.
      context: that of whoever spawned it, once it is claimed.
    """

    past: PastAgent
    claimed: trio.Event = attrs.field(factory=trio.Event)
    context: contextvars.Context | None = None


@attrs.define(eq=False, repr=False, kw_only=True)
class AgentRecord(Activity):
    """The state of one agent, from its spawn on.

    Attributes:
      home: whose child it is.
      work: what it runs.
      scope: cancels it.
      batch: what started it together with others, and gets its outcome; None for a plain spawn.
      started_at: when it was spawned, on trio's clock.
      body_ended: whether its body has ended in this life, so that it only waits for its children.
      outcome: how it ended; None until then.
      restarts: how many lives it had before this one.
      stops_children: whether it aborts its children by itself when it is aborted, as a supervisor does.
      used: by its model calls, in all its lives; None if there were none.
      resumed: what its journal tells of it, if it was begun before its pool was opened.
    """

    home: Children[AgentRecord]
    work: Work
    scope: trio.CancelScope
    inbox: Inbox
    batch: Any = None
    started_at: float
    body_ended: bool = False
    outcome: AnyOutcome | None = None
    restarts: int = 0
    stops_children: bool = False
    used: UsageCounter | None = None
    resumed: Resumed | None = None
    _abort: tuple[str | None] | None = None
    _own: Own | None = None
    _children: Children[AgentRecord] | None = None

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
            case None if not self.tasks:
                return "starting"
            case None:
                return self._status_of_life()
            case _:
                assert_never(self.outcome)

    def _status_of_life(self) -> AgentStatus:
        standing = self.standing
        if standing == "queued" or standing == "backing_off":
            return standing  # also between two lives, when the body has ended
        if self.body_ended:
            return "ending"
        return "waiting" if standing == "lent" else "running"

    def waits_for(self) -> tuple[AgentId, ...]:
        """The agents that could end its waits; empty where anybody could."""
        if len(self.waits) == 1:  # the usual case, and a snapshot asks each agent that waits
            targets = self.waits[0].known_targets()
            return tuple([target.id for target in targets]) if targets else ()
        found: dict[AgentId, None] = {}
        for wait in self.waits:
            found.update((target.id, None) for target in wait.known_targets() or ())
        return tuple(found)

    # -- its children ------------------------------------------------------------------------------------

    @property
    def children(self) -> Children[AgentRecord]:
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
    def parent_id(self) -> AgentId:
        """The id of the agent that spawned it; 0 for the pool's own."""
        return SUPERVISOR if self.home.owner is None else self.home.owner.id

    @property
    def own(self) -> Own:
        """What it has of its own; made when the first part of it is asked for."""
        if self._own is None:
            self._own = Own()
        return self._own

    @property
    def depth(self) -> int:
        """How many agents stand between it and the pool."""
        depth, parent = 0, self.parent
        while parent is not None:
            depth, parent = depth + 1, parent.parent
        return depth

    @property
    def usage(self) -> TokenUsage:
        """What its model calls have used so far."""
        return NO_USAGE if self.used is None else self.used.usage

    def add_usage(self, usage: TokenUsage) -> None:
        """Count what its model calls have used."""
        if self.used is None:
            self.used = UsageCounter()
        self.used.add(usage)

    @property
    def budget(self) -> Budget | None:
        """The agent's quota, below its parent's, below the pool's.

        Not recursive: trees may be thousands deep.
        """
        unasked: list[AgentRecord] = []
        record: AgentRecord | None = self
        while record is not None and (record._own is None or record._own.budget is None):
            unasked.append(record)
            record = record.parent
        budget = self.pool.budget if record is None else record.own.budget
        for record in reversed(unasked):
            budget = record._budget_below(budget)
        return budget

    def _budget_below(self, above: Budget | None) -> Budget | None:
        quota = self.work.fn.quota if is_described(self.work.fn) else None
        if quota is None or (quota.tokens is None and quota.cost_usd is None):
            return above
        tokens, cost = quota.tokens, quota.cost_usd
        if above is None:
            from agentpool._core.budget import Budget  # a plain agent never needs it

            self.own.budget = Budget(tokens=tokens, cost_usd=cost)
        else:
            self.own.budget = above.child(tokens=tokens, cost_usd=cost)
        return self.own.budget

    def budget_goes_on(self, tokens: int, cost: int, calls: int) -> None:
        """Begin its own quota with what was spent of it before it was resumed."""
        if self.budget is not None and self.own.budget is not None:
            self.own.budget.begin_with(tokens, cost, calls)

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
        if self._abort is None and trio.current_time() < self.deadline:
            self._abort = (reason,)
        is_first = not self.unwinding
        if is_first:
            self.pool.watcher.expect_end(self)
        self.unwind()
        self.scope.cancel(reason)
        # A supervisor stops its children by itself, one after the other.
        stops_children = self.stops_children and not self.body_ended
        return self._children is not None and not stops_children and (is_first or self.stops_children)

    @property
    def is_spawned(self) -> bool:
        """Whether its parent has spawned it: one that is resumed comes to that again."""
        resumed = self.resumed
        return resumed is None or resumed.claimed.is_set()

    @property
    def is_of_batch(self) -> bool:
        """Whether a verb gets its outcome that started it with others, so that no join hands it out."""
        if self.resumed is None or self.is_spawned:
            return self.batch is not None
        return self.resumed.past.is_of_batch

    @property
    def aborted(self) -> bool:
        """Whether somebody asked for its end before its time was over."""
        return self._abort is not None

    @property
    def abort_reason(self) -> str | None:
        """Why, as far as it was said."""
        return None if self._abort is None else self._abort[0]

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
        timeout = self.work.options.timeout
        own = timeout is not None and self.deadline >= self.started_at + timeout
        return timeout if own else None


protect_module(globals())
