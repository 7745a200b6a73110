"""Supervision: an agent that starts other agents and restarts them by Erlang/OTP's rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._core.errors import PoolClosedError, PoolLimitError, RestartLimitError
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome, Completed, Failed
from agentpool._core.restart import Intensity, RestartMode, count_of_restarts, known_mode, mode_of, positive
from agentpool._core.supervision import Child, Strategy, comes_back, plan_restart
from agentpool._core.text import shown
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.names import KeepsNames, NamesOfChild
from agentpool._kernel.options import SpawnOptions, check_agent, name_of
from agentpool._kernel.protection import protect_module

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

PATIENCE = 5.0
"""A child that is stopped has so many seconds before the next one is stopped too; OTP's default."""


def _arguments(args: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(args, (str, bytes)) or not isinstance(args, Iterable):
        raise TypeError(f"args must be a tuple of arguments, not {shown(args)}: write args=({shown(args)},)")
    return tuple(args)


@attrs.frozen
class ChildSpec:
    """A child of a supervisor.

    Attributes:
      agent: an async callable; it gets its context and `args`, afresh at each start.
      args: what it gets after its context.
      name: its name; the callable's own if left out. Others reach it by its name, `ctx.ask(name, ...)`,
        because a restarted child has a new id: they wait while it is started again.
      mode: `permanent` (alias `always`) children always come back, `transient` (`on_failure`) ones
        when they failed or were aborted, `temporary` (`never`) ones never.
      timeout: seconds that one life of it may take.
    """

    agent: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...] = attrs.field(default=(), converter=_arguments)
    name: str | None = None
    mode: RestartMode = attrs.field(default="permanent", converter=mode_of, validator=known_mode)
    timeout: float | None = None

    def __attrs_post_init__(self) -> None:
        check_agent(self.agent)
        SpawnOptions(self.name, self.timeout).check()


def _specs(children: Iterable[ChildSpec | Callable[..., Awaitable[Any]]]) -> tuple[ChildSpec, ...]:
    if not isinstance(children, Iterable) or isinstance(children, (str, bytes)):
        raise TypeError(f"children must be a list of agents or ChildSpecs, not {shown(children)}")
    return tuple(child if isinstance(child, ChildSpec) else ChildSpec(child) for child in children)


_STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")


def _known_strategy(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value not in _STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(_STRATEGIES)}, not {shown(value)}")


@attrs.frozen
class Supervisor(KeepsNames):
    """An agent that starts its children in order, and restarts those that end.

    It ends when no child runs any more, and returns how many restarts there were. When its pool's
    block has ended, a child that ends well stays ended; when its pool drains, nobody comes back.
    However it ends, it stops the children that run, the last started first, each when the one before
    has ended or five seconds have passed. (A deadline, or a scope around the pool, ends all at once.)

    Attributes:
      children: `ChildSpec` values, or plain agents, which are permanent.
      strategy: `one_for_one` restarts the child that ended; `one_for_all` stops all others first,
        the last started first, and starts all, also those that had ended well; `rest_for_one` does
        so with those that come after it. Temporary children that are stopped so do not come back.
      max_restarts: so many restarts are allowed ...
      within: ... in so many seconds. One more, and the supervisor stops its children and fails with
        `RestartLimitError`, which is how its own supervisor gets to know.
      name: its name, where it is spawned without one.
    """

    children: tuple[ChildSpec, ...] = attrs.field(converter=_specs)
    strategy: Strategy = attrs.field(default="one_for_one", validator=_known_strategy, kw_only=True)
    max_restarts: int = attrs.field(default=1, validator=count_of_restarts, kw_only=True)
    within: float = attrs.field(default=5.0, validator=positive, kw_only=True)
    name: str = attrs.field(default="supervisor", kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not self.children:
            raise ValueError("a supervisor needs at least one child")
        SpawnOptions(self.name).check()

    def names_kept(self) -> tuple[NamesOfChild, ...]:
        """The names of its children, each with those of the children that it starts itself."""
        return tuple((_name_of(spec), *_names_below(spec)) for spec in self.children)

    def to_journal(self) -> Any:
        """Return what it is made from, as JSON data.

        Raises:
          NotDataError: if a child cannot be found again by its name.
        """
        from agentpool._kernel.descriptions import agent_to_data  # who has no journal needs none
        from agentpool._objects import object_to_data

        children = [
            {**_options_of(spec), "agent": agent_to_data(spec.agent), "args": object_to_data(spec.args)}
            for spec in self.children
        ]
        return {"children": children, **{name: getattr(self, name) for name in _SETTINGS}}

    @classmethod
    def from_journal(cls, data: Any) -> Supervisor:
        """Return the supervisor of which `to_journal` made this."""
        from agentpool._kernel.descriptions import described_agent
        from agentpool._objects import object_from_data

        children = [
            ChildSpec(described_agent(each["agent"]), object_from_data(each["args"]), **_read_options(each))
            for each in data["children"]
        ]
        return cls(children, **{name: data[name] for name in _SETTINGS})

    async def __call__(self, ctx: AgentContext) -> int:
        """Supervise until no child is left.

        Raises:
          RuntimeError: if the agent has children beside those of the supervisor, when one of them ends.
          RestartLimitError: from the last failure, if there were too many restarts.
          PoolClosedError: from the failure of a child that could not come back, because the pool
            drains; the other children have ended by then. Without a cause, if it drained before all
            children were started.
          PoolLimitError: if a child could not be started because of the pool's limits; from the failure
            of the child that was to come back.
        """
        return await _Run(self, ctx).until_none_is_left()


_SETTINGS = ("strategy", "max_restarts", "within", "name")
_OPTIONS = ("name", "mode", "timeout")


def _options_of(spec: ChildSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in _OPTIONS}


def _read_options(data: Any) -> dict[str, Any]:
    return {name: data[name] for name in _OPTIONS}


def _name_of(spec: ChildSpec) -> str:
    return spec.name or name_of(spec.agent)


def _names_below(spec: ChildSpec) -> Iterator[str]:
    if isinstance(spec.agent, KeepsNames):
        for names in spec.agent.names_kept():
            yield from names


class _Run:
    """One life of a supervisor.

    Attributes:
      _running: the children that have not ended, by their positions.
      _given_up: why it cannot go on as it should, though children that live may finish.
    """

    def __init__(self, supervisor: Supervisor, ctx: AgentContext) -> None:
        self._ctx = ctx
        self._specs = supervisor.children
        self._supervisor = supervisor
        self._intensity = Intensity(supervisor.max_restarts, supervisor.within)
        self._running: dict[int, AgentHandle[Any]] = {}
        self._names = supervisor.names_kept()
        self._restarts = 0
        self._given_up: PoolClosedError | None = None

    async def until_none_is_left(self) -> int:
        self._ctx._agent.stops_children = True
        names = self._ctx._state.names
        names.begin_to_supervise(self._ctx.id)
        try:
            self._keep(*range(len(self._specs)))
            names.take_over(self._ctx.id)  # from its life before
            for position in range(len(self._specs)):
                await self._start(position)
            while self._running:
                outcome = await self._ctx.join_next()
                assert outcome is not None
                await self._ended(outcome)
                names.take_over(outcome.agent_id)  # who comes back has its names kept
        except BaseException as error:
            # Before it waits for its children: nobody is to wait meanwhile for one that does not come.
            names.give_up(self._ctx.id, self._names, self._heir())
            reason = self._ctx._agent.abort_reason
            if reason is None:
                cancelled = isinstance(error, trio.Cancelled)
                reason = "its supervisor was cancelled" if cancelled else "its supervisor gave up"
            with trio.CancelScope(shield=True):
                await self._stop(sorted(self._running, reverse=True), reason)
            raise
        names.give_up(self._ctx.id, self._names, self._heir())
        if self._given_up is not None:
            raise self._given_up
        return self._restarts

    def _keep(self, *positions: int) -> None:
        """Who sends to the names of these children waits while they are not there."""
        for position in positions:
            for name in self._names[position]:
                self._ctx._state.names.keep(name, (self._ctx.id, position))

    def _drop(self, *positions: int) -> None:
        """These children do not come any more, once they have ended."""
        for position in positions:
            for name in self._names[position]:
                self._ctx._state.names.drop(name, (self._ctx.id, position))

    def _heir(self) -> AgentId | None:
        """Who may start this supervisor again: the policy of its agent, or the supervisor above it."""
        agent = self._ctx._agent
        if agent.work.fn is not self._supervisor:
            return None  # an agent that calls it may do anything in its next life
        if agent.work.options.restart is not None and not agent.aborted:
            return agent.id
        return agent.parent_id

    async def _start(self, position: int) -> None:
        spec = self._specs[position]
        agent: Any = spec.agent  # its parameters are those that `args` fit
        self._running[position] = await self._ctx.spawn(
            agent, *spec.args, name=self._names[position][0], timeout=spec.timeout
        )
        for name in self._names[position][1:]:  # from its spawn on a supervisor keeps them itself
            self._ctx._state.names.drop(name, (self._ctx.id, position))

    async def _stop(self, positions: Sequence[int], reason: str) -> None:
        """Abort children one after the other; what they end with does not matter any more."""
        for position in positions:
            self._running[position].abort(reason)
            with trio.move_on_after(PATIENCE):
                await self._running[position].wait()

    async def _ended(self, outcome: AnyOutcome) -> None:
        position = next((p for p, handle in self._running.items() if handle.id == outcome.agent_id), None)
        if position is None:
            raise self._not_mine(outcome)
        del self._running[position]
        ended_well = isinstance(outcome, Completed)
        over = ended_well and self._ctx.closing  # the work is over: a server that ended well stays ended
        if over or not comes_back(self._specs[position].mode, ended_well=ended_well):
            self._drop(position)
            return
        if self._ctx.draining:
            self._give_up(outcome)
            return
        counted = self._intensity.restart(self._ctx.current_time())
        if counted is None:
            raise self._too_many(outcome)
        self._intensity = counted
        self._restarts += 1
        await self._restart(position, outcome)

    async def _restart(self, position: int, outcome: AnyOutcome) -> None:
        children = [Child(spec.mode, p in self._running) for p, spec in enumerate(self._specs)]
        plan = plan_restart(self._supervisor.strategy, children, position)
        self._drop(*set(plan.stop).difference(plan.start))
        self._keep(*plan.start)
        await self._stop(plan.stop, f"its sibling {outcome.name} is restarted")
        for stopped in plan.stop:  # two lives of one child never overlap, whatever its patience
            await self._running[stopped].wait()
            self._ctx._state.names.take_over(self._running[stopped].id)
            del self._running[stopped]
        try:
            for again in plan.start:
                await self._start(again)
        except PoolClosedError:
            self._give_up(outcome)
        except PoolLimitError as error:
            error.__cause__ = outcome.error if isinstance(outcome, Failed) else None
            raise

    def _give_up(self, outcome: AnyOutcome) -> None:
        """The pool drains: who lives may finish, but nobody comes back."""
        self._drop(*set(range(len(self._specs))).difference(self._running))
        if self._given_up is None and isinstance(outcome, Failed):
            text = f"child {outcome.name} failed and cannot be restarted: the pool is draining"
            self._given_up = PoolClosedError(text)
            self._given_up.__cause__ = outcome.error

    def _not_mine(self, outcome: AnyOutcome) -> RuntimeError:
        error = RuntimeError(
            f"agent {outcome.agent_id} ({outcome.name}) is no child of the supervisor, which takes the "
            "outcomes of all children of its agent: spawn the supervisor, so that it has an agent of its own"
        )
        error.__cause__ = outcome.error if isinstance(outcome, Failed) else None
        return error

    def _too_many(self, outcome: AnyOutcome) -> RestartLimitError:
        supervisor = self._supervisor
        error = RestartLimitError(outcome.name, supervisor.max_restarts, supervisor.within)
        error.__cause__ = outcome.error if isinstance(outcome, Failed) else None
        return error


protect_module(globals())
