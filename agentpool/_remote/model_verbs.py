"""What the head does for an agent at a worker that asks for a model, for room in its budget, for memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import attrs
import trio

from agentpool import abc
from agentpool._core.approval import ApprovalRequest, Decision
from agentpool._core.budget import Budget, Claim, Reservation
from agentpool._core.errors import BudgetExceededError, DriverError, RemoteError
from agentpool._core.messages import Completion, CompletionRequest
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._kernel.budgets import decision_on, waking
from agentpool._kernel.granting import limit_of
from agentpool._kernel.protection import await_unprotected, call_unprotected, protect_module
from agentpool._loop.model_agent import ModelAgent, SpawnConfig
from agentpool._remote.line import HeadCall, Verb
from agentpool._remote.model_facts import (
    OWN_BUDGET,
    POOLS_DRIVER,
    Answer,
    Demand,
    DriverFacts,
    GateKey,
    Leased,
    ModelFacts,
    News,
    StreamedPart,
    kind_of,
)
from agentpool._remote.models import CarriedDriver
from agentpool.drivers.governed import CallInLine, Gate, GovernorLine
from agentpool.tools._agent_tool import AgentTool
from agentpool.tools._handoff import Handoff, handoff_to

if TYPE_CHECKING:
    from agentpool._core.manifest import AgentManifest
    from agentpool._kernel.context import AgentContext
    from agentpool._kernel.metering import Meter
    from agentpool._kernel.spending import Spending


class HasModels(Protocol):
    """The proxy, as far as what is told of model calls needs it."""

    @property
    def ctx(self) -> AgentContext:
        """Its context."""
        ...

    @property
    def models(self) -> HeadModels:
        """What the head keeps of the agent's model calls."""
        ...


class ModelCall(HasModels, HeadCall, Protocol):
    """The head's end of a call by which a worker asks for something of this module."""


class HeadGovernors:
    """The gates of a pool, past which the model calls of all its workers go.

    A worker's driver that has a governor where the pool's own driver has the same one shares it with that.
    """

    def __init__(self, driver: abc.Driver | None) -> None:
        """Begin with the governors of the pool's driver."""
        self._lines: dict[GateKey, GovernorLine] = {}
        if driver is not None:
            for key, gate in gates_of(driver).items():
                if isinstance(gate, GovernorLine):
                    self._lines[key] = gate

    def line(self, key: GateKey) -> GovernorLine:
        """Return the gate of a key; made when it is asked for first."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = GovernorLine(key[2])
        return line


class _GateFinder:
    """Looks at the gates of a driver, and changes nothing."""

    def __init__(self) -> None:
        self.found: dict[int, tuple[GateKey, Gate]] = {}

    def __call__(self, driver: abc.Driver) -> abc.Driver:
        return driver

    def gate_for(self, gate: Gate, driver: abc.Driver) -> Gate:
        """Note a gate. Several drivers may share one."""
        if id(gate) not in self.found:
            self.found[id(gate)] = (len(self.found), kind_of(driver), gate.settings), gate
        return gate


def gates_of(driver: abc.Driver) -> dict[GateKey, Gate]:
    """Return the gates in a driver, in their order."""
    finder = _GateFinder()
    abc.wrapped_inside(driver, finder)
    return dict(finder.found.values())


# -- what is kept of one agent ---------------------------------------------------------------------


@attrs.define(eq=False)
class _Lease:
    """Room for one call that a worker makes itself."""

    reservation: Reservation | None
    slack: Reservation | None
    flight: ExitStack
    spending: Spending | None

    def used(self, tokens: int | None, cost_usd: float | None, usage: TokenUsage) -> None:
        """Book what the call took; None books what was set aside."""
        if self.reservation is not None:
            self.reservation.settle(tokens=tokens, cost_usd=cost_usd)
        if self.spending is not None:
            self.spending.booked(usage)

    def book_worst(self) -> None:
        """Nobody knows what the call took."""
        for reservation in (self.reservation, self.slack):
            if reservation is not None:
                reservation.settle()

    def end(self) -> None:
        """Give back what is not booked; harmless if repeated."""
        for reservation in (self.reservation, self.slack):
            if reservation is not None:
                reservation.release()
        if self.spending is not None:
            self.spending.booked(NO_USAGE)
        self.flight.close()


class HeadModels:
    """What the head keeps of the model calls of one agent, for as long as it runs at a worker.

    A `with` block around the agent's body. At its end the worker does not run the agent any more: calls of
    which it has not told the end count with their worst case.
    """

    def __init__(self, ctx: AgentContext, governors: HeadGovernors) -> None:
        """Begin with nothing.

        Args:
          ctx: the context of the proxy.
          governors: those of the pool.
        """
        self._ctx = ctx
        self._governors = governors
        self._drivers: list[abc.Driver | None] = [ctx.driver_to_bind]
        self._budgets: dict[int, Budget | None] = {OWN_BUDGET: ctx.budget}
        self._metered: dict[tuple[int, int | None, float | None], abc.Driver] = {}
        self._leases: dict[int, _Lease] = {}
        self._admitted: dict[int, ExitStack] = {}
        self._at_gates: dict[int, CallInLine] = {}
        self._shown: TokenUsage = ctx.usage
        self._secrets = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lease in self._leases.values():
            lease.book_worst()
            lease.end()
        self._leases.clear()
        for admitted in self._admitted.values():
            admitted.close()
        self._admitted.clear()
        for call in self._at_gates.values():
            call.__exit__()
        self._at_gates.clear()

    # -- what the worker is told

    def facts(self, agent: object) -> ModelFacts:
        """Return what the worker is told as the agent begins."""
        ctx = self._ctx
        driver, budget, memory = self._drivers[POOLS_DRIVER], self._budgets[OWN_BUDGET], ctx.memory
        secrets = tuple(ctx.journal_secrets)
        self._secrets = len(secrets)
        return ModelFacts(
            driver=None if driver is None else DriverFacts.of(POOLS_DRIVER, driver),
            budget=None if budget is None else budget.figures(),
            has_quota=budget is not None and not ctx.meter(budget).has_no_quota(budget),
            memory=None if memory is None else "namespaced" if hasattr(memory, "namespace") else "plain",
            memory_text=repr(memory),
            journal_path=ctx.journal_path,
            secrets=secrets,
            usage=self._shown,
            limit=limit_of(ctx._agent),
        )

    def news(self, budget: Budget | None) -> News:
        """Return what the worker has not been told."""
        now, secrets = self._ctx.usage, self._ctx.journal_secrets
        used, self._shown = _difference(now, self._shown), now
        if len(secrets) == self._secrets:
            return News(used, () if budget is None else budget.figures())
        self._secrets = len(secrets)
        return News(used, () if budget is None else budget.figures(), tuple(secrets))

    def count(self, usage: TokenUsage) -> None:
        """Count what the worker has used, and knows."""
        self._ctx.add_usage(usage)
        self._shown = self._shown + usage

    # -- drivers that stay here

    def carried(self, agent: Any) -> Any:
        """Return an agent as it travels: drivers of its own stay here, and references take their places."""
        return _with_drivers(agent, self._reference)

    def restored(self, agent: Any) -> Any:
        """Return an agent that came from the worker, with its drivers in the places of the references."""
        return _with_drivers(agent, self._referred)

    def _reference(self, driver: abc.Driver) -> abc.Driver:
        if isinstance(driver, CarriedDriver):
            return driver
        for key, known in enumerate(self._drivers):
            if known is driver:
                return CarriedDriver(DriverFacts.of(key, driver))
        self._drivers.append(driver)
        return CarriedDriver(DriverFacts.of(len(self._drivers) - 1, driver))

    def _referred(self, driver: abc.Driver) -> abc.Driver:
        return self.driver(driver.facts.key) if isinstance(driver, CarriedDriver) else driver

    def driver(self, key: int) -> abc.Driver:
        """Return the driver of a key."""
        driver = self._drivers[key] if 0 <= key < len(self._drivers) else None
        if driver is None:
            raise RemoteError("Driver", f"the head has no driver {key} of agent {self._ctx.id}")
        return driver

    def bound(self, key: int, manifest: AgentManifest) -> DriverFacts:
        """Bind a driver to a manifest, and return the facts of what came of it."""
        driver = self.driver(key)
        bind: Callable[[AgentManifest], abc.Driver] | None = getattr(driver, "bind", None)
        if bind is not None:
            bound = call_unprotected(bind, manifest)
            if bound is not driver:
                self._drivers.append(bound)
                key, driver = len(self._drivers) - 1, bound
        # With a meter around it, since what a driver makes of itself inside may show more than it does.
        return DriverFacts.of(key, self._ctx.metered(driver, None))

    def metered(self, key: int, budget: int | None, seconds: float | None) -> abc.Driver:
        """Return a driver whose calls count on the agent; the same one again for the same budget."""
        # Kept: what a meter has learned of the sizes of requests is learned over the calls.
        found = self._metered.get((key, budget, seconds))
        if found is None:
            found = self._ctx.metered(self.driver(key), self.budget(budget), seconds)
            self._metered[key, budget, seconds] = found
        return found

    # -- budgets

    def budget(self, key: int | None) -> Budget | None:
        """Return the budget of a key; None of None."""
        if key is None:
            return None
        if key not in self._budgets:
            raise RemoteError("Budget", f"the head has no budget {key} of agent {self._ctx.id}")
        return self._budgets[key]

    def add_budget(self, key: int, parent: int | None, limits: Mapping[str, Any]) -> None:
        """Make a budget for a part of the agent's work, below one that is known."""
        above = self.budget(parent)
        self._budgets[key] = Budget(**limits) if above is None else above.child(**limits)

    # -- calls that the worker makes itself

    async def lease(self, number: int, budget: Budget | None, demand: Demand) -> None:
        """Wait for room for a call.

        Raises:
          BudgetExceededError: if there is none, and none can come.
          PoolLimitError: if as many calls are in flight as the pool allows.

        Cancellation: nothing is set aside.
        """
        meter = self._ctx.meter(budget)
        with ExitStack() as undo:
            reservation = None if budget is None else await _claimed(budget, demand)
            if reservation is None:
                await trio.lowlevel.checkpoint()
            else:
                undo.callback(reservation.release)
            slack = None
            if budget is not None and budget.parent is not None and demand.slack_tokens is not None:
                slack = budget.parent.reserve(
                    tokens=demand.slack_tokens, cost_usd=demand.slack_cost_usd, calls=0
                )
                undo.callback(slack.release)
            flight = ExitStack()
            flight.enter_context(meter.in_flight)
            undo.callback(flight.close)
            self._leases[number] = _Lease(
                reservation, slack, flight, await self._spending(meter, reservation, slack)
            )
            undo.pop_all()

    async def _spending(
        self, meter: Meter, reservation: Reservation | None, slack: Reservation | None
    ) -> Spending | None:
        if meter.journal is None:
            return None
        from agentpool._kernel.spending import Spending  # who has no journal needs none

        spending = Spending(meter.journal, self._ctx.id, reservation, slack)
        try:
            await spending.kept()
        except BaseException:
            spending.booked(NO_USAGE)
            raise
        return spending

    def lease_used(self, number: int, tokens: int | None, cost_usd: float | None, usage: TokenUsage) -> None:
        """Book what a call took."""
        self.count(usage)
        lease = self._leases.get(number)
        if lease is not None:
            lease.used(tokens, cost_usd, usage)

    def end_lease(self, number: int, is_worst: bool) -> None:
        """A call is over; `is_worst` books the most that it may have taken."""
        lease = self._leases.pop(number, None)
        if lease is not None:
            if is_worst:
                lease.book_worst()
            lease.end()

    def admit(self, kind: Literal["tool_calls", "model_calls"], number: int) -> None:
        """Count a call as one that is in flight.

        Raises:
          PoolLimitError: if as many are as the pool allows.
        """
        flight = ExitStack()
        flight.enter_context(self._ctx.in_flight(kind))
        self._admitted[number] = flight

    def dismiss(self, number: int) -> None:
        """A call is in flight no more."""
        flight = self._admitted.pop(number, None)
        if flight is not None:
            flight.close()

    async def pass_gate(self, number: int, key: GateKey, rank: int, tokens: int) -> None:
        """Wait until a call may be made that goes past a gate.

        Raises:
          DriverError: if it may not, and will not be for long.
        """
        call = self._at_gates.get(number)
        if call is None:
            call = self._at_gates[number] = self._governors.line(key).call(rank, tokens)
        await call.start()

    def at_gate(self, number: int) -> CallInLine | None:
        """Return a call that has come to a gate, and not left it."""
        return self._at_gates.get(number)

    def leave_gate(self, number: int) -> None:
        """Nothing more will be told of a call."""
        call = self._at_gates.pop(number, None)
        if call is not None:
            call.__exit__()


async def _claimed(budget: Budget, demand: Demand) -> Reservation:
    decided = waking(trio.lowlevel.current_task())
    if demand.tokens is None:
        claim = budget.claim(decided)
    else:
        claim = budget.claim(decided, tokens=demand.tokens, cost_usd=demand.cost_usd)
    return await decision_on(claim) if isinstance(claim, Claim) else claim


def _difference(now: TokenUsage, before: TokenUsage) -> TokenUsage:
    if now == before:
        return NO_USAGE
    return TokenUsage(
        **{
            field.name: getattr(now, field.name) - getattr(before, field.name)
            for field in attrs.fields(TokenUsage)
        }
    )


def _with_drivers(agent: Any, change: Callable[[abc.Driver], abc.Driver]) -> Any:
    if not isinstance(agent, ModelAgent | SpawnConfig):
        return agent
    driver = None if agent.driver is None else change(agent.driver)
    agents = None if agent.agents is None else _each(agent.agents, change, _with_drivers)
    tools = _each(agent.tools, change, _tool_with_drivers)
    if driver is agent.driver and agents is agent.agents and tools is agent.tools:
        return agent
    return attrs.evolve(agent, driver=driver, agents=agents, tools=tools)


def _each(
    these: tuple[Any, ...], change: Callable[[abc.Driver], abc.Driver], changed: Callable[..., Any]
) -> tuple[Any, ...]:
    """Return what became of each; the same tuple if nothing became of any."""
    found = tuple([changed(each, change) for each in these])
    return these if all(new is old for new, old in zip(found, these, strict=True)) else found


def _tool_with_drivers(tool: Any, change: Callable[[abc.Driver], abc.Driver]) -> Any:
    if isinstance(tool, AgentTool):
        agent = _with_drivers(tool.agent, change)
        return tool if agent is tool.agent else tool.of(agent)
    if isinstance(tool, Handoff):
        agents = _each(tool.agents, change, _with_drivers)
        return tool if agents is tool.agents else handoff_to(*agents)
    return tool


# -- the verbs ---------------------------------------------------------------------------------------


async def bind_driver(call: ModelCall, key: int, manifest: AgentManifest) -> DriverFacts:
    """Bind a driver to the manifest of an agent."""
    await trio.lowlevel.checkpoint()
    return call.models.bound(key, manifest)


async def complete(
    call: ModelCall, key: int, budget: int | None, seconds: float | None, request: CompletionRequest
) -> Answer:
    """Ask a model, as the agent."""
    models = call.models
    driver = models.metered(key, budget, seconds)
    try:
        completion = await driver.complete(request)
    except BudgetExceededError as error:
        error.transcript = ()  # the worker has it
        raise
    return Answer(completion, models.news(models.budget(budget)))


async def stream(
    call: ModelCall, key: int, budget: int | None, seconds: float | None, request: CompletionRequest
) -> News:
    """Ask a model for its answer in pieces, as the agent."""
    models = call.models
    driver = models.metered(key, budget, seconds)
    try:
        async with driver.stream(request) as parts:
            async for part in parts:
                is_last = isinstance(part, Completion)
                call.send_piece(StreamedPart(part, models.news(models.budget(budget)) if is_last else None))
    except BudgetExceededError as error:
        error.transcript = ()
        raise
    return models.news(models.budget(budget))


def add_budget(proxy: HasModels, key: int, parent: int | None, limits: Mapping[str, Any]) -> None:
    """Make a budget below one that the agent has."""
    proxy.models.add_budget(key, parent, limits)


async def look_at_budget(call: ModelCall, key: int) -> News:
    """Return how a budget stands."""
    await trio.lowlevel.checkpoint()
    return call.models.news(call.models.budget(key))


def add_usage(proxy: HasModels, usage: TokenUsage) -> None:
    """Count what the agent's code has used past every driver."""
    proxy.models.count(usage)


async def lease(call: ModelCall, number: int, budget: int | None, demand: Demand) -> Leased:
    """Set the worst case of a call aside that the worker is about to make."""
    models = call.models
    limit = models.budget(budget)
    try:
        await models.lease(number, limit, demand)
    except BudgetExceededError as error:
        return Leased(models.news(limit), error)
    return Leased(models.news(limit))


def lease_used(
    proxy: HasModels, number: int, tokens: int | None, cost_usd: float | None, usage: TokenUsage
) -> None:
    """Book what a call of the worker took."""
    proxy.models.lease_used(number, tokens, cost_usd, usage)


def lease_ended(proxy: HasModels, number: int, is_worst: bool) -> None:
    """A call of the worker is over."""
    proxy.models.end_lease(number, is_worst)


def lease_refused(proxy: HasModels, error: BudgetExceededError) -> None:
    """A call of the worker found no room: whoever watches is told."""
    proxy.ctx.meter(None).warn(error)


async def admit_call(call: ModelCall, kind: Literal["tool_calls", "model_calls"], number: int) -> None:
    """Count a call of the worker among those that are in flight in the pool."""
    await trio.lowlevel.checkpoint()
    call.models.admit(kind, number)


def call_ended(proxy: HasModels, number: int) -> None:
    """A call that was admitted is in flight no more."""
    proxy.models.dismiss(number)


async def pass_gate(call: ModelCall, number: int, key: GateKey, rank: int, tokens: int) -> None:
    """Wait until the provider's quota allows a call of the worker."""
    await call.models.pass_gate(number, key, rank, tokens)


def gate_answered(proxy: HasModels, number: int, usage: TokenUsage) -> None:
    """The provider took a call of the worker."""
    at_gate = proxy.models.at_gate(number)
    if at_gate is not None:
        at_gate.used(usage)


async def gate_failed(call: ModelCall, number: int, error: DriverError) -> bool:
    """Book the failure of a call of the worker; return whether it is in the queue again."""
    await trio.lowlevel.checkpoint()
    at_gate = call.models.at_gate(number)
    return at_gate is not None and await at_gate.failed(error)


def gate_broke(proxy: HasModels, number: int, error: DriverError) -> None:
    """A stream of the worker broke off."""
    at_gate = proxy.models.at_gate(number)
    if at_gate is not None:
        at_gate.broke(error)


def gate_left(proxy: HasModels, number: int) -> None:
    """Nothing more will be told of a call of the worker at its gate."""
    proxy.models.leave_gate(number)


async def ask_approver(call: ModelCall, request: ApprovalRequest, call_key: str | None) -> Decision:
    """Ask the pool's approver about a tool call of the agent."""
    return await call.ctx.ask_approver(request, call_key)


def _memory(call: ModelCall, namespace: str) -> Any:
    memory: Any = call.ctx.memory
    return memory.namespace(namespace) if namespace else memory


async def remember(call: ModelCall, namespace: str, content: str, how: Mapping[str, Any]) -> int:
    """Keep a text in the pool's memory."""
    keep = partial(_memory(call, namespace).remember, content, **how)
    fragment_id: int = await await_unprotected(keep)
    return fragment_id


async def recall(
    call: ModelCall, namespace: str, query: str, how: Mapping[str, Any]
) -> list[abc.MemoryFragment]:
    """Find texts in the pool's memory."""
    return list(await await_unprotected(partial(_memory(call, namespace).recall, query, **how)))


async def memory_set(call: ModelCall, namespace: str, key: str, value: Any) -> None:
    """Keep a value in the pool's memory."""
    await await_unprotected(_memory(call, namespace).set, key, value)


_NOTHING = object()


async def memory_get(call: ModelCall, namespace: str, key: str) -> tuple[bool, Any]:
    """Return whether the pool's memory has a value under a key, and the value."""
    value = await await_unprotected(_memory(call, namespace).get, key, _NOTHING)
    return (False, None) if value is _NOTHING else (True, value)


async def forget(call: ModelCall, namespace: str, fragment_id: int) -> bool:
    """Drop a text from the pool's memory."""
    known: bool = await await_unprotected(_memory(call, namespace).forget, fragment_id)
    return known


def _by_name(*functions: Callable[..., Any]) -> dict[str, Any]:
    return {each.__name__: each for each in functions}


MODEL_VERBS: dict[str, Verb] = _by_name(
    bind_driver,
    complete,
    stream,
    look_at_budget,
    lease,
    admit_call,
    pass_gate,
    gate_failed,
    ask_approver,
    remember,
    recall,
    memory_set,
    memory_get,
    forget,
)
"""What an agent waits for, by its name."""

MODEL_TOLD: dict[str, Callable[..., object]] = _by_name(
    add_budget,
    add_usage,
    lease_used,
    lease_ended,
    lease_refused,
    call_ended,
    gate_answered,
    gate_broke,
    gate_left,
)
"""What an agent does not wait for, by its name."""

protect_module(globals())
