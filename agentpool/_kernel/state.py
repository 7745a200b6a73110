"""What the agents of a pool share: who lives, who starts, what the end of one changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._core.errors import PoolClosedError, PoolLimitError
from agentpool._core.limits import InFlight, PoolLimits
from agentpool._core.messages import AgentId
from agentpool._core.text import note, shown
from agentpool._core.usage import UsageCounter
from agentpool._kernel.activity import Surroundings
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.children import Children
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.holding import Holder
from agentpool._kernel.judge import Judge
from agentpool._kernel.log import EventLog
from agentpool._kernel.names import Names
from agentpool._kernel.protection import protect_module
from agentpool._kernel.reports import Reports
from agentpool._kernel.router import MessageRouter
from agentpool._kernel.silence import Silence
from agentpool._kernel.slots import Slots
from agentpool._kernel.splitting import in_full
from agentpool._kernel.watcher import Watcher

if TYPE_CHECKING:
    from agentpool._core.budget import Budget
    from agentpool._kernel.journal import PoolJournal
    from agentpool.abc import Approver, Driver, Hooks, Memory, Placement


@attrs.frozen
class Beside:
    """What whoever writes files beside a journal has to know of it.

    Attributes:
      path: its file, if it is in one.
      secrets: returns the texts that must not get into it, nor into other files of the run.
    """

    path: str | None = None
    secrets: Callable[[], Sequence[str]] = tuple


@attrs.frozen
class Means:
    """What a pool gives its agents to work with."""

    driver: Driver | None
    memory: Memory | None
    tool_builder: Callable[[Any], Any] | None
    budget: Budget | None = None
    approver: Approver | None = None
    hooks: tuple[Hooks, ...] = ()
    beside_journal: Beside = Beside()
    placement: Placement | None = None


@attrs.frozen
class Settings:
    """What a pool's journal remembers of how the pool was opened; None is left to it.

    Attributes:
      max_concurrent: how many agents run at once.
      inbox_capacity: how many messages an inbox holds.
      budget: what the model calls of the pool may use.
    """

    max_concurrent: int | None
    inbox_capacity: int | None
    budget: Budget | None = None


@attrs.define(eq=False)
class Counts:
    """What a pool counts.

    Attributes:
      tool_calls, model_calls: those that are under way.
      issued: how many ids were given out; `ended` of them have an outcome.
      descendants: how many agents were spawned by agents.
      used: by all model calls.
      model_spawns: how many agents models asked for, by the id of the oldest ancestor.
    """

    tool_calls: InFlight
    model_calls: InFlight
    issued: int = 0
    ended: int = 0
    descendants: int = 0
    used: UsageCounter = attrs.Factory(UsageCounter)
    model_spawns: dict[AgentId, int] = attrs.field(factory=dict)

    @classmethod
    def under(cls, limits: PoolLimits) -> Counts:
        """Counts of a pool with these limits."""
        return cls(InFlight("tool_calls", limits.tool_calls), InFlight("model_calls", limits.model_calls))


class PoolState:
    """What the agents of a pool share.

    Attributes:
      records: the agents that have not ended.
      names: who is reached by a name.
      events: where what happens is told.
      draining: why no more agents are started; empty while they are.
      body_ended: whether the pool's block has ended, so that only agents spawn.
      fatal: what somebody raised that no pool may contain.
      journal: what happened, kept; None without one.
    """

    def __init__(
        self,
        settings: Settings,
        nursery: trio.Nursery,
        *,
        means: Means,
        limits: PoolLimits,
        make_context: Callable[[PoolState, AgentRecord], Any],
        random: Random,
        detect_deadlocks: bool,
        on_rest: Callable[[AgentId], object] | None = None,
    ) -> None:
        assert settings.max_concurrent is not None
        assert settings.inbox_capacity is not None
        self.means: Means = attrs.evolve(means, budget=settings.budget)
        self.limits = limits
        self.make_context = make_context
        self.random = random
        self.records: dict[AgentId, AgentRecord] = {}
        slots = Slots(settings.max_concurrent)
        # Its parts have the log too; here it is an attribute, because a model agent's loop asks for it at
        # each step: through a property, a turn executes 1 % more instructions.
        self.events: EventLog = EventLog(slots, Reports(nursery))
        events = self.events
        judge, watcher = Judge(events, enabled=detect_deadlocks, on_rest=on_rest), Watcher(events)
        holder = Holder(nursery, self.fatal_error)
        self.parts: Surroundings = Surroundings(
            slots=slots,
            judge=judge,
            watcher=watcher,
            silence=Silence(judge, watcher, holder),
            events=events,
            nursery=nursery,
            holder=holder,
            root_task=trio.lowlevel.current_root_task(),
            budget=settings.budget,
        )
        self.router: MessageRouter = MessageRouter(settings.inbox_capacity, pool=self.parts)
        self.names: Names = Names(self.records)
        self.root: Children[AgentRecord] = Children(None)
        self.counts: Counts = Counts.under(limits)
        self.draining: str = ""
        self.body_ended = False
        self.fatal: BaseException | None = None
        self.journal: PoolJournal | None = None

    @property
    def slots(self) -> Slots:
        """How many agents run at once, and who goes next."""
        return self.parts.slots

    @property
    def judge(self) -> Judge:
        """What the waits of the agents amount to."""
        return self.parts.judge

    # -- starting ------------------------------------------------------------------------------------

    def admit(self, home: Children[AgentRecord], *, by_agent: bool) -> None:
        """Refuse a start that the pool does not take any more, or that its limits forbid.

        Raises:
          PoolClosedError: if the pool drains or has ended, or the parent has.
          PoolLimitError: if a limit was reached.
        """
        self.parts.check_here()
        if self.draining:
            raise PoolClosedError(self.draining)
        if self.body_ended and not by_agent:
            raise PoolClosedError("the block of the pool has ended")
        owner, limits = home.owner, self.limits
        if owner is not None:
            if owner.ended or owner.body_ended:
                raise PoolClosedError(f"agent {owner.id} ({owner.name}) has ended and spawns no more")
            if owner.depth >= limits.depth:
                raise PoolLimitError("depth", limits.depth)
        if len(self.records) >= limits.alive:
            raise PoolLimitError("alive", limits.alive)
        descends = by_agent or owner is not None
        if descends and limits.descendants is not None and self.counts.descendants >= limits.descendants:
            raise PoolLimitError("descendants", limits.descendants)

    # -- ending --------------------------------------------------------------------------------------

    def fatal_error(self, error: BaseException, who: str = "an agent") -> None:
        """Somebody raised what no pool may contain: everything is cancelled, and it comes out."""
        if self.fatal is None:
            self.fatal = error
            self.parts.nursery.cancel_scope.cancel(f"{who} raised {shown(error)}")
        elif error is not self.fatal:
            note(self.fatal, f"another agent raised {in_full(error)}")

    def keep_journal(self, journal: PoolJournal) -> None:
        """From now on, write down what happens."""
        self.journal = self.router.journal = journal

    def time_of(self, at: float) -> float:
        """Return the time on trio's clock of a moment in a run that is resumed."""
        assert self.journal is not None
        return self.journal.time_of(at)

    @property
    def is_left(self) -> bool:
        """Whether all agents are ended from outside, so that whoever resumes the run goes on from here."""
        is_leaving = self.journal is not None and self.journal.is_leaving
        return is_leaving or self.fatal is not None or self.parts.watcher.outside_cancelled

    def stop_starting(self, reason: str) -> None:
        """From now on, refuse to start agents; also those that wait for a slot."""
        if not self.draining:
            self.draining = reason
            for start in self.slots.drop_starts():
                start.refuse(reason)

    async def wait_for_end(self, seconds: float) -> bool:
        """Wait until no agent is left, or the time has passed; tell which."""
        with trio.move_on_after(seconds):
            while self.root.live:
                await self.root.wait_for_all(waiting_agent(), lambda: None)
        return not self.root.live

    # -- watching ------------------------------------------------------------------------------------

    def left_open(self) -> None:
        """The block of the pool was never left: its watcher, whom no cancellation reaches, goes home."""
        self.close()

    async def closed(self) -> None:
        """Nobody is left."""

    def close(self) -> None:
        """The pool has ended: what it holds is closed, the watcher goes home, subscribers get the end.

        Harmless if repeated.
        """
        self.parts.holder.close()
        self.judge.close()
        self.parts.silence.close()
        self.events.close()
        self.parts.watcher.close()


protect_module(globals())
