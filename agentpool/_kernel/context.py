"""What an agent is given: who it is, its means, its inbox, and the scope of its children."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, TypeVarTuple

import attrs
import trio

from agentpool._core.errors import PoolLimitError, UnknownAgentError
from agentpool._core.messages import SUPERVISOR, AgentId, AgentMessage
from agentpool._core.usage import TokenUsage
from agentpool._kernel.agent import AgentRecord
from agentpool._kernel.current import waiting_agent
from agentpool._kernel.granting import Bounded, tools_within
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.head import Head
from agentpool._kernel.idleness import IdleLimit
from agentpool._kernel.inbox import Inbox
from agentpool._kernel.lasting import LastingScope
from agentpool._kernel.metering import Meter
from agentpool._kernel.nursery import AgentNursery, open_known_nursery
from agentpool._kernel.options import is_described
from agentpool._kernel.protection import protect_module
from agentpool._kernel.state import PoolState
from agentpool._kernel.telling import Telling
from agentpool._kernel.versions import SeenVersions

if TYPE_CHECKING:
    from agentpool._core.approval import ApprovalRequest, Decision
    from agentpool._core.budget import Budget
    from agentpool._kernel.places import Op
    from agentpool.abc import AgentQuota, Driver, Hooks, Memory, ToolBuilder, ToolSet

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Subscription:
    """Messages of a topic arrive in the agent's inbox until it is closed; usable with `with`."""

    def __init__(self, context: AgentContext, topic: str) -> None:
        self._context = context
        self.topic = topic

    def close(self) -> None:
        """Unsubscribe; harmless when done before."""
        self._context.unsubscribe(self.topic)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AgentContext(LastingScope, Bounded, Telling):
    """Who an agent is, its means, its inbox, and the scope of its children.

    An agent gets it as its first argument. Waiting verbs are for the agent's own tasks: its body,
    its tool calls, and what it starts in `open_nursery()`.
    """

    __slots__ = ("_driver", "_tools", "_tools_built", "_versions")
    __agentpool_context__: ClassVar[bool] = True

    def __init__(self, state: PoolState, record: AgentRecord) -> None:
        super().__init__(state, record)
        self._driver: Driver | None = None
        self._tools: ToolSet | None = None
        self._tools_built = False
        self._versions: SeenVersions | None = None

    def __repr__(self) -> str:
        return f"<AgentContext of {self._agent!r}>"

    # -- who -----------------------------------------------------------------------------------------

    @property
    def id(self) -> AgentId:
        """The agent's id, unique in its pool."""
        return self._agent.id

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._agent.name

    @property
    def parent_id(self) -> AgentId:
        """The id of the agent that spawned it; 0 for the supervisor."""
        return self._agent.parent_id

    @property
    def depth(self) -> int:
        """How many agents stand between it and the pool: 0 for those that the pool spawned."""
        return self._agent.depth

    @property
    def agent(self) -> object:
        """The callable that was spawned."""
        return self._agent.work.fn

    # -- means ---------------------------------------------------------------------------------------

    @property
    def head(self) -> Head | None:
        """The way to the pool, for an agent that runs in another process than that; else None."""
        return None

    @property
    def driver(self) -> Driver | None:
        """The pool's driver; None for a pool without one.

        What its calls use is counted on the agent, and kept within its budget: before each call its
        worst case is set aside, waiting for room, and afterwards what it used is booked. Each
        attempt of a retry and each fallback is a call by itself. A call for which there is no room
        raises `BudgetExceededError`.
        """
        driver = self.driver_to_bind
        return None if getattr(driver, "only_binds", False) else driver

    @property
    def driver_to_bind(self) -> Driver | None:
        """The pool's driver, also one that answers nobody but the agents to whose manifests it is bound."""
        if self._driver is None and self._state.means.driver is not None:
            self._driver = self.metered(self._state.means.driver, self._agent.budget)
        return self._driver

    @property
    def memory(self) -> Memory | None:
        """The pool's memory."""
        return self._state.means.memory

    @property
    def tools(self) -> ToolSet | None:
        """The agent's tools; None for an agent that has none, such as a plain function.

        Raises:
          ManifestError: if a tool that the manifest names cannot be loaded.
        """
        if not self._tools_built:
            if is_described(self._agent.work.fn):
                self._tools = tools_within(self._agent, self._state.means.tool_builder)
            self._tools_built = True
        return self._tools

    @property
    def tool_builder(self) -> ToolBuilder | None:
        """The pool's `tool_builder`; None for the default one."""
        return self._state.means.tool_builder

    @property
    def hooks(self) -> tuple[Hooks, ...]:
        """The pool's hooks, which stand around the calls of agents that run the loop."""
        return self._state.means.hooks

    @property
    def journal_path(self) -> str | None:
        """The file of the pool's journal; None without a journal, and for one that is in no file."""
        return self._state.means.beside_journal.path

    @property
    def journal_secrets(self) -> Sequence[str]:
        """Texts that must get into no file of the run: those that the journal was given, or found."""
        return self._state.means.beside_journal.secrets()

    @property
    def versions(self) -> SeenVersions:
        """Which versions of files its tools have seen in this life, so that they overwrite no other one."""
        if self._versions is None:
            self._versions = SeenVersions()
        return self._versions

    def go_on_with_versions(self, versions: SeenVersions) -> None:
        """Know what was seen in the same conversation before, and share what is seen from now on."""
        self._versions = versions

    def unwritten_versions(self) -> Mapping[str, str]:
        """Return what was seen since this was called last, for the journal."""
        return {} if self._versions is None else self._versions.take_unwritten()

    @property
    def budget(self) -> Budget | None:
        """The agent's quota, below its parent's, below the pool's; None without any."""
        return self._agent.budget

    @property
    def usage(self) -> TokenUsage:
        """What its model calls have used so far."""
        return self._agent.usage

    def metered(self, driver: Driver, budget: Budget | None, seconds: float | None = None) -> Driver:
        """Return a driver whose calls are counted on this agent, and kept within a budget.

        Args:
          driver: makes the calls; another driver than the pool's is counted as the pool's is.
          budget: `budget`, or one below it; None for no limit.
          seconds: how long one call may take, without its wait for room; None for no limit.
        """
        return self.meter(budget, seconds).around(driver)

    def meter(self, budget: Budget | None, seconds: float | None = None) -> Meter:
        """Return what counts model calls on this agent; `metered` puts it around a driver."""
        return Meter(self._state, self._agent, budget, seconds)

    def budget_below(self, above: Budget | None, quota: AgentQuota | None) -> Budget | None:
        """Return a budget for work that has a quota of its own; `above` itself if it has none."""
        if quota is None:
            return above
        from agentpool._core.budget import Budget  # who has no quota never needs it

        make = Budget if above is None else above.child
        return make(tokens=quota.tokens, cost_usd=quota.cost_usd)

    def add_usage(self, usage: TokenUsage) -> None:
        """Count what a model call used that went past `driver`; the outcome carries the sum."""
        self._agent.add_usage(usage)
        self._state.counts.used.add(usage)

    def in_flight(self, kind: Literal["tool_calls", "model_calls"]) -> AbstractContextManager[None]:
        """Count a tool or model call for as long as the block runs.

        Entering the block raises `PoolLimitError` if as many are in flight in the pool as
        `PoolLimits` allows.
        """
        return self._state.counts.tool_calls if kind == "tool_calls" else self._state.counts.model_calls

    # -- inbox ---------------------------------------------------------------------------------------

    @property
    def inbox(self) -> Inbox:
        """The agent's messages; `async for message in ctx.inbox` receives until it ends."""
        return self._agent.inbox

    # Not `async def`, which would only wrap the inbox's coroutine in one more, for every agent that waits.
    def receive(self) -> Coroutine[Any, Any, AgentMessage]:
        """Take the oldest message, waiting for one if there is none.

        Raises:
          trio.EndOfChannel: if none will come any more, because the pool's block has ended and
            everybody who is left waits.

        Checkpoint: always. Cancellation: `Cancelled` means that no message was taken.
        """
        return self._agent.inbox.receive()

    def receive_for_model(self) -> Coroutine[Any, Any, AgentMessage]:
        """As `receive`, for a model, which is told when nobody is left who could write to it.

        Raises:
          DeadlockError: if every agent of the pool waits, and the program waits for them. Whatever
            else there is counts as somebody who may still write: another task of the program, a
            thread, a time limit that ends one of these waits.
        """
        return self._agent.inbox.receive(unless_silent=True)

    def receive_nowait(self) -> AgentMessage:
        """Take the oldest message.

        Raises:
          trio.WouldBlock: if there is none.
          trio.EndOfChannel: if there is none and none will come any more.
        """
        self._state.parts.check_here()
        return self._agent.inbox.receive_nowait()

    def reply(self, message: AgentMessage, content: Any) -> None:
        """Answer a question that the agent received; does not block.

        A reply that nobody waits for any more becomes a dead letter.

        Raises:
          ValueError: if the message was sent to somebody else.
        """
        self._state.parts.check_here()
        self._state.router.reply(self._agent.id, message, content)

    def question(self, message_id: int) -> AgentMessage:
        """Return the message of that id, if its sender waits for the agent's reply.

        Raises:
          UnknownAgentError: if nobody waits for a reply of the agent to it, or does so any more.
        """
        find = partial(self._state.router.asker_of, message_id, self._agent.id)
        journal = self._state.journal
        sender = find() if journal is None else journal.decide("asker", find)[0]
        if sender is None:
            told = f"nobody waits for a reply of agent {self._agent.id} to message {message_id}"
            raise UnknownAgentError(SUPERVISOR, told)
        return AgentMessage(sender, self._agent.id, None, message_id, is_question=True)

    async def broadcast(self, content: Any) -> int:
        """Send the same to every other live agent, oldest first; return how many got it.

        Raises:
          DeadlockError: as `send`.

        Checkpoint: always. Cancellation: `Cancelled` means that some may not have got it.
        """
        return await self._send_to_each(
            lambda: [agent_id for agent_id in self._state.records if agent_id != self._agent.id],
            AgentMessage(content=content),
        )

    async def _send_to_each(self, find: Callable[[], list[AgentId]], message: AgentMessage) -> int:
        """Send the same to several agents, one after the other; those that have ended are passed over."""
        journal = self._state.journal
        op: Op | None = None
        if journal is None:
            recipients = find()
        else:
            # Who gets it is decided once: when the agent is resumed, others may be there.
            recipients, op = journal.decide("recipients", find)
        await trio.lowlevel.checkpoint()
        delivered = 0
        for number, recipient in enumerate(recipients):
            one = None if op is None else op.item(number)
            if one is None or one.found is None:
                try:
                    await self._state.router.send(attrs.evolve(message, to=recipient), one)
                except UnknownAgentError:
                    continue
            delivered += 1
        return delivered

    def subscribe(self, topic: str) -> Subscription:
        """From now on, have what is published on a topic delivered to the agent's inbox.

        Returns:
          Something to close; it is not needed when the agent listens until its end.
        """
        self._state.parts.check_here()
        self._state.router.subscribe(self._agent.id, topic)
        if self._state.journal is not None:
            self._state.journal.append("listened", self.id, {"topic": topic, "on": True})
        return Subscription(self, topic)

    def unsubscribe(self, topic: str) -> None:
        """Undo `subscribe`; harmless if there is nothing to undo."""
        self._state.parts.check_here()
        self._state.router.unsubscribe(self._agent.id, topic)
        if self._state.journal is not None:
            self._state.journal.append("listened", self.id, {"topic": topic, "on": False})

    async def publish(self, topic: str, content: Any) -> int:
        """Send something to the subscribers of a topic but the agent itself; return how many got it.

        Raises:
          DeadlockError: as `send`.

        Checkpoint: always. Cancellation: `Cancelled` means that some may not have got it.
        """
        return await self._send_to_each(
            lambda: [i for i in self._state.router.subscribers(topic) if i != self._agent.id],
            AgentMessage(content=content, topic=topic),
        )

    async def spawn_for_model(
        self,
        agent: Callable[[AgentContext, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | None = None,
    ) -> AgentHandle[T]:
        """Start an agent that a model asked for, as `spawn` does.

        Tools that let a model start agents use it: `PoolLimits.model_spawns` bounds how many, over
        the life of the tree of agents that the pool's block started.

        Raises:
          PoolLimitError: also if models have asked for as many in this tree; otherwise as `spawn`.

        Checkpoint: always. Cancellation: `Cancelled` means that no agent was started, nor counted.
        """
        root_id, maximum = self._agent.root_id, self._state.limits.model_spawns
        asked_for = self._state.counts.model_spawns
        if asked_for.get(root_id, 0) >= maximum:
            await trio.lowlevel.checkpoint()
            raise PoolLimitError("model_spawns", maximum)
        # Counted before it waits, so that calls side by side do not pass the limit together.
        asked_for[root_id] = asked_for.get(root_id, 0) + 1
        try:
            return await self.spawn(agent, *args, name=name, timeout=timeout)
        except BaseException:
            # Taken out at 0, or if the tree has ended meanwhile: nobody else would do it then.
            left = asked_for.pop(root_id, 1) - 1
            if left:
                asked_for[root_id] = left
            raise

    # -- approval ------------------------------------------------------------------------------------

    async def ask_approver(self, request: ApprovalRequest, call_key: str | None = None) -> Decision:
        """Ask the pool's approver about a tool call, and wait for it with the slot lent.

        What the approver raises, or returns that is no decision, denies; without an approver nobody is
        asked, and that denies too. The agent's `idle` limit, and those of the agents above it, do not
        run meanwhile; its `timeout` does.

        In a pool with a journal the decision is written, and not asked for again when the run is resumed;
        without an approver the agent waits until the run is paused.

        Args:
          request: what is asked.
          call_key: names the call in all the world; None without a journal.

        Raises:
          RuntimeError: if the calling task descends from an agent's, but the pool does not know it.
          JournalError: if the decision cannot be written.

        Checkpoint: always. Cancellation: `Cancelled` means that nothing was decided; the approver was
        cancelled and has ended.
        """
        from agentpool._kernel.approvals import decision_on  # who has no rules needs none

        return await decision_on(self._state, self._agent, request, call_key)

    # -- time ----------------------------------------------------------------------------------------

    def open_idle_limit(self, seconds: float) -> IdleLimit:
        """Return a `with` block that is cancelled once nothing was heard of the agent for so long.

        What is heard is told by `heard()` of its value, and are the messages that the agent receives.
        """
        return IdleLimit(self._agent, seconds)

    # -- tasks and events ----------------------------------------------------------------------------

    def open_nursery(self) -> AbstractAsyncContextManager[AgentNursery]:
        """Open a nursery for more tasks of the agent, which may use its waiting verbs.

        The agent lends its slot while all of its tasks wait. Behaves as `trio.open_nursery()`.

        Raises:
          RuntimeError: if the calling task is none of the agent's.
        """
        if waiting_agent() is not self._agent:
            raise RuntimeError(f"only the tasks of agent {self.id} ({self.name}) open its nurseries")
        return open_known_nursery(self._agent)


protect_module(globals())
