"""The means of an agent that runs at a worker: a driver, a budget and a memory that the head has.

In a pool whose placement names no driver, models are asked by the head, and `HeadDriver` passes on what it
says. In one whose placement does, each worker has the driver, and asks the head for room before each call
(`leases`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from agentpool import abc
from agentpool._core.budget import Budget, BudgetFigures, BudgetStatistics, Claim, Reservation
from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import BudgetExceededError, RequestRejectedError
from agentpool._core.messages import AgentId, AgentMessage, Completion, CompletionRequest, StreamPart
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._kernel.idleness import heard_of, idle_limits_of
from agentpool._kernel.protection import protect_module
from agentpool._remote.handle import PlacedHandle
from agentpool._remote.model_facts import OWN_BUDGET, Answer, DriverFacts, ModelFacts, News, StreamedPart

if TYPE_CHECKING:
    from agentpool._core.approval import ApprovalRequest, Decision
    from agentpool._core.manifest import AgentManifest
    from agentpool._kernel.agent import AgentRecord
    from agentpool._kernel.metering import Meter
    from agentpool._kernel.places import Place
    from agentpool._kernel.state import PoolState
    from agentpool._remote.line import Line
    from agentpool._remote.worker_line import WorkerLine

# -- the budget ----------------------------------------------------------------------------------------


class PlacedBudget(Budget):
    """A budget of the head, as it stood when the head last told of it.

    Each answer of a model tells; `refresh` asks. What calls take is kept within it at the head, so it cannot
    be reserved from here.
    """

    __slots__ = ("_claims_waiting", "_means", "key")

    def __init__(self, means: RemoteMeans, key: int | None, parent: PlacedBudget | None) -> None:
        """Begin with no limit and nothing spent.

        Args:
          key: names it at the head; None for one above, to which nothing is charged from here.
        """
        self._set_up(parent, None, None, None)
        self._means = means
        self.key = key
        self._claims_waiting = 0

    @classmethod
    def of(cls, means: RemoteMeans, key: int, path: Sequence[BudgetFigures]) -> PlacedBudget:
        """Return a budget with those above it, as the head tells of them; itself first, the root last."""
        found: PlacedBudget | None = None
        for number, figures in reversed(list(enumerate(path))):
            found = cls(means, None if number else key, found)
            found._limit_to(figures.limit)
        assert found is not None
        found.show(path)
        return found

    def _limit_to(self, limit: tuple[int | None, int | None, int | None]) -> None:
        above = self._ancestors[0] if self._ancestors else None
        self._limit = limit
        self._bounds = tuple([(index, most) for index, most in enumerate(limit) if most is not None])
        self._priced = limit[1] is not None or (above is not None and above.limits_money)
        self._measured = limit[0] is not None or self._priced or (above is not None and above.measures_calls)

    def show(self, path: Sequence[BudgetFigures]) -> None:
        """Take over how it stands, and those above it."""
        for budget, figures in zip(self._path(), path, strict=False):
            assert isinstance(budget, PlacedBudget)
            budget._spent = list(figures.spent)
            budget._reserved = list(figures.reserved)
            budget._claims_waiting = figures.waiting

    async def refresh(self) -> BudgetStatistics:
        """Ask the head how it stands, and return that.

        Checkpoint: always. Cancellation: leaves nothing behind.
        """
        if self.key is None:
            raise ValueError("only the agent's own budget, and those below it, can be asked for")
        self._means.take_in(await self._means.line.ask("look_at_budget", self.key), self)
        return self.statistics()

    def child(
        self, *, tokens: int | None = None, cost_usd: float | None = None, calls: int | None = None
    ) -> PlacedBudget:
        """Return a new budget below this one, at the head too; as `Budget.child`."""
        if self.key is None:
            raise ValueError("only the agent's own budget, and those below it, can have budgets below them")
        return self._means.new_budget(self, tokens=tokens, cost_usd=cost_usd, calls=calls)

    def _waiting(self) -> int:
        return self._claims_waiting

    def reserve(self, *, tokens: int = 0, cost_usd: float | None = None, calls: int = 1) -> Reservation:
        """Refuse: nothing is set aside from here.

        Raises:
          RuntimeError: always.
        """
        raise RuntimeError(_NOT_FROM_HERE)

    def claim(
        self,
        on_decided: Callable[[Reservation | BudgetExceededError], None],
        *,
        tokens: int = 0,
        cost_usd: float | None = None,
        calls: int = 1,
    ) -> Reservation | Claim:
        """Refuse: nothing is set aside from here.

        Raises:
          RuntimeError: always.
        """
        raise RuntimeError(_NOT_FROM_HERE)


_NOT_FROM_HERE = (
    "the budget of an agent that runs at a worker is at the head of its pool: the calls of ctx.driver, and of"
    " what ctx.metered returns, are kept within it; nothing can be reserved by hand"
)


# -- the driver ----------------------------------------------------------------------------------------


class CarriedDriver(abc.Driver):
    """Stands for a driver that stayed at the head, in an agent on its way between the two."""

    def __init__(self, facts: DriverFacts) -> None:
        """Keep what is known of it."""
        self.facts = facts

    def __repr__(self) -> str:
        return self.facts.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CarriedDriver) and other.facts.key == self.facts.key

    def __hash__(self) -> int:
        return hash(self.facts.key)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Refuse: it is asked by way of the context of an agent.

        Raises:
          RequestRejectedError: always.
        """
        raise RequestRejectedError(
            f"{self.facts.text} is at the head of the pool: ask by way of ctx.metered(driver, ctx.budget)"
        )


class HeadDriver(abc.Driver):
    """A driver at the head, for one agent at a worker: its calls are made there, as the agent.

    They are counted, and kept within the budget, by the head.
    """

    def __init__(
        self,
        means: RemoteMeans,
        facts: DriverFacts,
        budget: PlacedBudget | None,
        seconds: float | None = None,
    ) -> None:
        """Keep what the head is asked for.

        Args:
          facts: which driver it is.
          budget: within which its calls are kept; None for no limit.
          seconds: how long one call may take; None for no limit.
        """
        self._means = means
        self.facts = facts
        self._budget = budget
        self._seconds = seconds

    def __repr__(self) -> str:
        return self.facts.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadDriver) and other.facts.key == self.facts.key

    def __hash__(self) -> int:
        return hash(self.facts.key)

    def __getattr__(self, name: str) -> Any:
        # `model`, `provider` and `base_url`, where the driver has them.
        if name == "facts" or name not in self.facts.names:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self.facts.names[name]

    @property
    def context_window(self) -> int | None:  # type: ignore[override]
        """That of the driver at the head."""
        return self.facts.context_window

    @property
    def privacy(self) -> PrivacyTier:  # type: ignore[override]
        """That of the driver at the head."""
        return self.facts.privacy

    @property
    def metered(self) -> bool:
        """Whether an answer that tells no usage has one nevertheless."""
        return self.facts.metered

    @property
    def streams(self) -> bool:
        """Whether the driver at the head has a stream of its own."""
        return self.facts.streams

    @property
    def only_binds(self) -> bool:
        """Whether it answers nobody but the agents to whose manifests it is bound."""
        return self.facts.only_binds

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        """Return what the driver at the head estimates.

        A driver of your own without `pricing` was asked beforehand what one token of each kind costs.
        """
        return self.facts.price(usage)

    def within(self, budget: PlacedBudget | None, seconds: float | None) -> HeadDriver:
        """Return the same driver within another budget and time."""
        return HeadDriver(self._means, self.facts, budget, seconds)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Have the head ask the model.

        Raises:
          BudgetExceededError: if there is no room, and none can come.
          PoolLimitError: if as many calls are in flight in the pool as `PoolLimits` allows.
          DriverError: what the driver raises.

        Checkpoint: always. Cancellation: the worst case of a call that was under way is booked.
        """
        with self._means.completing(request):
            answer: Answer = await self._means.line.ask("complete", *self._asked(request))
        self._means.take_in(answer.news, self._budget)
        return answer.completion

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """As `complete`, for an answer in pieces; leaving it early closes the connection at the head."""
        with self._means.completing(request):
            async with self._means.line.pieces("stream", *self._asked(request)) as parts:
                yield _Parts(self._means, self._budget, parts)

    def _asked(self, request: CompletionRequest) -> tuple[Any, ...]:
        key = None if self._budget is None else self._budget.key
        return self.facts.key, key, self._seconds, request


class _Parts(AsyncIterator[StreamPart]):
    """The parts of an answer, as the head passes them on."""

    def __init__(
        self, means: RemoteMeans, budget: PlacedBudget | None, parts: AsyncIterator[StreamedPart]
    ) -> None:
        self._means = means
        self._budget = budget
        self._parts = parts

    async def __anext__(self) -> StreamPart:
        streamed = await anext(self._parts)
        if streamed.news is not None:
            self._means.take_in(streamed.news, self._budget)
        part: StreamPart = streamed.part
        return part


# -- the memory ------------------------------------------------------------------------------------------


class HeadMemory:
    """The pool's memory, for an agent at a worker: as `Memory`, done by the head."""

    def __init__(self, line: Line, text: str, namespace: str = "") -> None:
        """Keep which memory it is.

        Args:
          text: its repr at the head.
          namespace: the name of the memory in it; empty for the shared one.
        """
        self._line = line
        self._text = text
        self._namespace = namespace

    def __repr__(self) -> str:
        return self._text

    async def remember(self, content: str, *, source: str = "user", agent_id: AgentId = 0, **how: Any) -> int:
        """Keep a text, and return the id of the new fragment."""
        how = {"source": source, "agent_id": agent_id, **how}
        fragment_id: int = await self._line.ask("remember", self._namespace, content, how)
        return fragment_id

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        source: str | None = None,
        agent_id: AgentId | None = None,
        since: float | None = None,
        **how: Any,
    ) -> Sequence[abc.MemoryFragment]:
        """Return the fragments that fit the query, best first; as `Memory.recall`."""
        how = {"limit": limit, "source": source, "agent_id": agent_id, "since": since, **how}
        found: list[abc.MemoryFragment] = await self._line.ask("recall", self._namespace, query, how)
        return found

    async def set(self, key: str, value: Any) -> None:
        """Keep a value under a key, in the place of what was there."""
        await self._line.ask("memory_set", self._namespace, key, value)

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value under a key, or `default`."""
        is_there, value = await self._line.ask("memory_get", self._namespace, key)
        return value if is_there else default

    async def forget(self, fragment_id: int) -> bool:
        """Drop a fragment; return whether there was one."""
        known: bool = await self._line.ask("forget", self._namespace, fragment_id)
        return known


class HeadNamespacedMemory(HeadMemory):
    """The pool's memory, where it holds others: as `NamespacedMemory`, done by the head."""

    def namespace(self, name: str) -> HeadNamespacedMemory:
        """Return the memory of this name; the shared one for `""`."""
        return HeadNamespacedMemory(self._line, self._text, name)

    async def remember(
        self,
        content: str,
        *,
        source: str = "user",
        agent_id: AgentId = 0,
        origin: str = "",
        trust: float | None = None,
        **how: Any,
    ) -> int:
        """Keep a text, and return the id of the new fragment; as `NamespacedMemory.remember`."""
        return await super().remember(
            content, source=source, agent_id=agent_id, origin=origin, trust=trust, **how
        )

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        source: str | None = None,
        agent_id: AgentId | None = None,
        since: float | None = None,
        min_trust: float = 0.0,
        **how: Any,
    ) -> Sequence[abc.MemoryFragment]:
        """Return the fragments that fit the query; as `NamespacedMemory.recall`."""
        return await super().recall(
            query, limit=limit, source=source, agent_id=agent_id, since=since, min_trust=min_trust, **how
        )


# -- all of it ---------------------------------------------------------------------------------------------


class RemoteMeans:
    """What an agent at a worker has to work with; its context hands that out.

    It is the agent's way to the head (`Head`) too, where the loop has to wait for what the pool knows.
    """

    def __init__(
        self,
        line: WorkerLine,
        facts: ModelFacts,
        state: PoolState,
        record: AgentRecord,
        driver: abc.Driver | None,
        make_meter: Callable[..., Meter],
    ) -> None:
        """Begin with what the head told. Blocks on the disk, if the pool has a journal in a file.

        Args:
          line: the agent's.
          facts: what the head told as the agent began.
          state: that of the worker's own pool.
          record: the agent's there.
          driver: the worker's; None for that of the head.
          make_meter: makes what counts model calls, a `LeasedMeter`.
        """
        self.line = line
        self._facts = facts
        self._state = state
        self._record = record
        self._numbers = itertools.count(1)
        self._secrets = facts.secrets
        self._driver: abc.Driver | None = None
        self._workers_driver = driver
        self._make_meter = make_meter
        self._memory: HeadMemory | None = None
        self._no_budget = PlacedBudget(self, None, None)
        self.budget = None if facts.budget is None else PlacedBudget.of(self, OWN_BUDGET, facts.budget)
        if facts.usage != NO_USAGE:
            record.add_usage(facts.usage)
        path = facts.journal_path
        # Only where both have the same disk can something be kept beside the journal.
        self.journal_path = path if path is not None and os.path.exists(path) else None

    @property
    def journal_secrets(self) -> Sequence[str]:
        """Texts that must get into no file of the run, as far as the head has told."""
        return self._secrets

    # -- the model

    @property
    def driver_to_bind(self) -> abc.Driver | None:
        """The pool's driver, also one that answers nobody but the agents to whose manifests it is bound."""
        if self._driver is None:
            if self._workers_driver is not None:
                self._driver = self.metered(self._workers_driver, self.budget)
            elif self._facts.driver is not None:
                self._driver = HeadDriver(self, self._facts.driver, self.budget)
        return self._driver

    def metered(self, driver: abc.Driver, budget: Budget | None, seconds: float | None = None) -> abc.Driver:
        """Return a driver whose calls are counted on the agent, and kept within a budget; at the head.

        Raises:
          ValueError: if the budget is none of the agent's.
        """
        return self.meter(budget, seconds).around(driver)

    def meter(self, budget: Budget | None, seconds: float | None = None) -> Meter:
        """Return what counts model calls on the agent; as `metered`."""
        if budget is not None and (not isinstance(budget, PlacedBudget) or budget.key is None):
            raise ValueError(
                "the budget of a model call at a worker has to be ctx.budget, or one of its children:"
                " the head knows no other"
            )
        within = self._no_budget if budget is None else budget
        return self._make_meter(self._state, self._record, within, seconds, means=self)

    async def bound(self, driver: abc.Driver, manifest: AgentManifest) -> abc.Driver:
        """Return what a driver at the head makes of itself for an agent; any other as it is.

        Raises:
          Exception: what the driver raises that refuses the agent.

        Checkpoint: if the head is asked. Cancellation: leaves nothing behind.
        """
        if not isinstance(driver, HeadDriver | CarriedDriver):
            return driver
        facts: DriverFacts = await self.line.ask("bind_driver", driver.facts.key, manifest)
        return HeadDriver(self, facts, self.budget)

    def completing(self, request: CompletionRequest) -> AbstractContextManager[None]:
        """Return a block in which an error of a budget gets what was used and said so far."""
        return _Completing(self._record, request)

    # -- the budget

    def budget_below(self, above: Budget | None, quota: abc.AgentQuota | None) -> Budget | None:
        """Return a budget for work that has a quota of its own; `above` itself if it has none."""
        if quota is None:
            return above
        if above is None:
            return self.new_budget(None, tokens=quota.tokens, cost_usd=quota.cost_usd)
        return above.child(tokens=quota.tokens, cost_usd=quota.cost_usd)

    def new_budget(self, parent: PlacedBudget | None, **limits: Any) -> PlacedBudget:
        """Make a budget, here and at the head.

        Raises:
          ValueError, TypeError: as `Budget`.
        """
        checked = Budget(**limits).figures()
        budget = PlacedBudget(self, next(self._numbers), parent)
        budget._limit_to(checked[0].limit)
        self.line.tell("add_budget", budget.key, None if parent is None else parent.key, limits)
        return budget

    def take_in(self, news: News, budget: PlacedBudget | None) -> None:
        """Know what the head tells."""
        if news.used is not NO_USAGE and news.used != NO_USAGE:
            self._record.add_usage(news.used)
        if budget is not None and news.figures:
            budget.show(news.figures)
        if news.secrets is not None:
            self._secrets = news.secrets

    def add_usage(self, usage: TokenUsage) -> None:
        """Count what a model call used that went past `driver`."""
        self._record.add_usage(usage)
        self.line.tell("add_usage", usage)

    def next_number(self) -> int:
        """Return a number that nothing else of the agent has."""
        return next(self._numbers)

    @property
    def has_quota(self) -> bool:
        """Whether `budget` is the agent's own, or its parents', and not just the pool's."""
        return self._facts.has_quota

    # -- the rest

    @property
    def memory(self) -> HeadMemory | None:
        """The pool's memory."""
        if self._memory is None and self._facts.memory is not None:
            kind = HeadMemory if self._facts.memory == "plain" else HeadNamespacedMemory
            self._memory = kind(self.line, self._facts.memory_text)
        return self._memory

    async def ask_approver(self, request: ApprovalRequest, call_key: str | None = None) -> Decision:
        """Ask the pool's approver about a tool call; as `AgentContext.ask_approver`."""
        # The head pauses the limits of the agents there; this agent's are here.
        idle = idle_limits_of((self._record,))
        for limit in idle:
            limit.pause()
        try:
            decision: Decision = await self.line.ask("ask_approver", request, call_key)
        finally:
            for limit in idle:
                limit.go_on()
        return decision

    async def take_arrived(self) -> list[AgentMessage]:
        """Take the messages that have arrived in the agent's inbox.

        Checkpoint: always. Cancellation: `Cancelled` means that none was taken.
        """
        messages = list(await self.line.ask("take_all"))
        if messages:
            heard_of(self._record)
        return messages

    async def question(self, message_id: int) -> AgentMessage:
        """Return the message of that id, if its sender waits for the agent's reply.

        Raises:
          UnknownAgentError: if nobody waits for a reply of the agent to it, or does so any more.

        Checkpoint: always. Cancellation: leaves nothing behind.
        """
        message: AgentMessage = await self.line.operate("question", message_id)
        return message

    async def adopt_children_of(self, place: Place) -> None:
        """Have the children go on that code at a place had spawned, which does not run again.

        Checkpoint: always. Cancellation: it may have been done.
        """
        await self.line.ask("adopt_children", place.path)

    async def children_of(self, place: Place) -> Sequence[tuple[PlacedHandle[Any], bool]]:
        """Return the children that such code had spawned, each with whether its outcome is known already.

        Checkpoint: always. Cancellation: leaves nothing behind.
        """
        found = await self.line.ask("children_of", place.path)
        return [(PlacedHandle(self.line, *known), is_taken) for known, is_taken in found]

    async def admitted(self, kind: Literal["tool_calls", "model_calls"]) -> AbstractContextManager[None]:
        """Return a block during which a call counts as one that is in flight; it is to be entered.

        Raises:
          PoolLimitError: if as many are in flight in the pool as `PoolLimits` allows.

        Checkpoint: always. Cancellation: `Cancelled` means that it does not count.
        """
        number = self.next_number()
        await self.line.ask("admit_call", kind, number)
        return _Admitted(self.line, number)


class PlacedMeans:
    """The half of the context of an agent at a worker by which it has means: what `RemoteMeans` has."""

    __slots__ = ()

    _means: RemoteMeans

    @property
    def head(self) -> RemoteMeans:
        """The way to the pool."""
        return self._means

    @property
    def driver_to_bind(self) -> abc.Driver | None:
        """The pool's driver, or the worker's; also one that answers nobody but agents it is bound to."""
        return self._means.driver_to_bind

    @property
    def memory(self) -> HeadMemory | None:
        """The pool's memory."""
        return self._means.memory

    @property
    def journal_path(self) -> str | None:
        """The file of the pool's journal, where it can be seen from here; else None."""
        return self._means.journal_path

    @property
    def journal_secrets(self) -> Sequence[str]:
        """Texts that must get into no file of the run, as far as the head has told."""
        return self._means.journal_secrets

    @property
    def budget(self) -> PlacedBudget | None:
        """The agent's quota, below its parent's and the pool's, as the head last told; None without any."""
        return self._means.budget

    def metered(self, driver: abc.Driver, budget: Budget | None, seconds: float | None = None) -> abc.Driver:
        """Return a driver whose calls are counted on this agent, and kept within a budget.

        Raises:
          ValueError: if the budget is neither `budget` nor one of its children.
        """
        return self._means.metered(driver, budget, seconds)

    def meter(self, budget: Budget | None, seconds: float | None = None) -> Meter:
        """Return what counts model calls on this agent.

        Raises:
          ValueError: as `metered`.
        """
        return self._means.meter(budget, seconds)

    def budget_below(self, above: Budget | None, quota: abc.AgentQuota | None) -> Budget | None:
        """Return a budget for work that has a quota of its own; `above` itself if it has none."""
        return self._means.budget_below(above, quota)

    def add_usage(self, usage: TokenUsage) -> None:
        """Count what a model call used that went past `driver`; the outcome carries the sum."""
        self._means.add_usage(usage)

    def adopt_children_of(self, place: object) -> NoReturn:
        """Raise `RuntimeError`: the children are at the head."""
        raise RuntimeError("the head has to be asked: write `await ctx.head.adopt_children_of(place)`")

    def children_of(self, place: object) -> NoReturn:
        """Raise `RuntimeError`: the children are at the head."""
        raise RuntimeError("the head has to be asked: write `await ctx.head.children_of(place)`")

    def in_flight(self, kind: Literal["tool_calls", "model_calls"]) -> NoReturn:
        """Raise `RuntimeError`: how many calls are in flight is known at the head."""
        raise RuntimeError(
            "in_flight() would have to ask the head: write `with await ctx.head.admitted(kind):`"
        )

    async def ask_approver(self, request: ApprovalRequest, call_key: str | None = None) -> Decision:
        """Ask the pool's approver about a tool call, and wait for it; as `AgentContext.ask_approver`."""
        return await self._means.ask_approver(request, call_key)


class _Admitted:
    """A call that is in flight; the head is told of its end."""

    def __init__(self, line: Line, number: int) -> None:
        self._line = line
        self._number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._line.tell("call_ended", self._number)


class _Completing:
    """Completes the error of a budget, which travels without the conversation."""

    def __init__(self, record: AgentRecord, request: CompletionRequest) -> None:
        self._record = record
        self._request = request

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, BudgetExceededError):
            error.usage, error.transcript = self._record.usage, self._request.messages


# -- a driver of the worker's own ----------------------------------------------------------------------------

DriverSource = str | Callable[[], AbstractAsyncContextManager["abc.Driver | None"]]
"""A driver's name, as `--driver` takes it; or what opens one, as a block."""


def check_driver_source(source: DriverSource | None) -> None:
    """Check that workers can open a driver from this.

    Raises:
      TypeError: if it is an open driver, or anything else.
      ValueError: if it is no driver's name, or `scripted`, for which no worker needs one.
    """
    if source is None:
        return
    if isinstance(source, str):
        from agentpool.drivers.named import parse_driver_name

        if parse_driver_name(source).provider == "scripted":
            raise ValueError("driver='scripted' opens no driver: leave it out, and the head's is asked")
        return
    if not callable(source) or hasattr(source, "complete"):
        raise TypeError(
            "driver must be a driver's name, or a function that returns a block in which a driver is open,"
            f" since each worker opens its own; not {source!r}"
        )


def open_worker_driver(source: DriverSource | None) -> AbstractAsyncContextManager[abc.Driver | None]:
    """Open the driver of a worker process; the value is None if models are asked by the head.

    A name is opened as `agentpool run` does, with a governor and retries around it; what the governor keeps,
    it keeps at the head, for all workers together.
    """
    if source is None:
        return _no_driver()
    if isinstance(source, str):
        from agentpool.drivers.named import open_driver

        return open_driver(source, resilient=True)
    return source()


@asynccontextmanager
async def _no_driver() -> AsyncIterator[None]:
    yield None


protect_module(globals())
