"""Supervision: an agent that starts other agents and restarts them by Erlang/OTP's rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agentpool._agent import AgentHandle, check_agent, name_of
from agentpool._core.errors import PoolClosedError, RestartLimitError
from agentpool._core.outcomes import AnyOutcome, Completed, Failed
from agentpool._core.restart import Intensity, RestartMode
from agentpool._core.supervision import Child, Strategy, comes_back, plan_restart

if TYPE_CHECKING:
    from agentpool._context import AgentContext


@attrs.frozen
class ChildSpec:
    """A child of a supervisor.

    Attributes:
      agent: an async callable; it gets its context and `args`, afresh at each start.
      args: what it gets after its context.
      name: its name; the callable's own if left out. Siblings find each other by it, because a
        restarted child has a new id: `ctx.find(name)`.
      mode: `permanent` children always come back, `transient` ones when they failed or were
        aborted, `temporary` ones never.
      timeout: seconds that one life of it may take.
    """

    agent: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...] = attrs.field(default=(), converter=tuple)
    name: str | None = None
    mode: RestartMode = "permanent"
    timeout: float | None = None

    def __attrs_post_init__(self) -> None:
        check_agent(self.agent)
        if self.mode not in ("permanent", "transient", "temporary"):
            raise ValueError(f"mode must be one of permanent, transient, temporary, not {self.mode!r}")


def _specs(children: Sequence[ChildSpec | Callable[..., Awaitable[Any]]]) -> tuple[ChildSpec, ...]:
    return tuple(child if isinstance(child, ChildSpec) else ChildSpec(child) for child in children)


_STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")


@attrs.frozen
class Supervisor:
    """An agent that starts its children in order, and restarts those that end.

    It ends when no child is left that may come back, and returns how many restarts there were. When
    its pool's block has ended, a child that ends well stays ended.

    Attributes:
      children: `ChildSpec` values, or plain agents, which are permanent.
      strategy: `one_for_one` restarts the child that ended; `one_for_all` ends all others first,
        the last started first, and restarts all; `rest_for_one` does so with those that started
        after it. Temporary children that are ended so do not come back.
      max_restarts: so many restarts are allowed ...
      within: ... in so many seconds. One more, and the supervisor ends its children and fails with
        `RestartLimitError`, which is how its own supervisor gets to know.
    """

    children: tuple[ChildSpec, ...] = attrs.field(converter=_specs)
    strategy: Strategy = attrs.field(
        default="one_for_one", validator=attrs.validators.in_(_STRATEGIES), kw_only=True
    )
    max_restarts: int = attrs.field(default=1, kw_only=True)
    within: float = attrs.field(default=5.0, kw_only=True)
    name: str = attrs.field(default="supervisor", kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not self.children:
            raise ValueError("a supervisor needs at least one child")
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts must be at least 0, not {self.max_restarts}")
        if not self.within > 0:
            raise ValueError(f"within must be above 0 seconds, not {self.within}")

    async def __call__(self, ctx: AgentContext) -> int:
        """Supervise until no child is left.

        Raises:
          RestartLimitError: from the last failure, if there were too many restarts.
        """
        return await _Run(self, ctx).until_none_is_left()


class _Run:
    """One life of a supervisor."""

    def __init__(self, supervisor: Supervisor, ctx: AgentContext) -> None:
        self._ctx = ctx
        self._specs = supervisor.children
        self._supervisor = supervisor
        self._intensity = Intensity(supervisor.max_restarts, supervisor.within)
        self._running: dict[int, AgentHandle[Any]] = {}
        self._restarts = 0

    async def until_none_is_left(self) -> int:
        try:
            for position in range(len(self._specs)):
                await self._start(position)
            while self._running:
                outcome = await self._ctx.join_next()
                assert outcome is not None
                await self._ended(outcome)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._stop(sorted(self._running, reverse=True), "its supervisor was cancelled")
            raise
        return self._restarts

    async def _start(self, position: int) -> None:
        spec = self._specs[position]
        self._running[position] = await self._ctx.spawn(
            spec.agent, *spec.args, name=spec.name or name_of(spec.agent), timeout=spec.timeout
        )

    async def _stop(self, positions: Sequence[int], reason: str) -> None:
        """End children one after the other; what they end with does not matter any more."""
        for position in positions:
            handle = self._running.pop(position)
            handle.abort(reason)
            await handle.wait()

    async def _ended(self, outcome: AnyOutcome) -> None:
        position = next(p for p, handle in self._running.items() if handle.id == outcome.agent_id)
        del self._running[position]
        ended_well = isinstance(outcome, Completed)
        if not comes_back(self._specs[position].mode, ended_well=ended_well):
            return
        if ended_well and self._ctx.closing:
            return  # the work is over: a server that ended well stays ended
        counted = self._intensity.restart(trio.current_time())
        if counted is None:
            await self._escalate(outcome)
        assert counted is not None
        self._intensity = counted
        self._restarts += 1
        await self._restart(position, outcome)

    async def _restart(self, position: int, outcome: AnyOutcome) -> None:
        children = [Child(spec.mode, p in self._running) for p, spec in enumerate(self._specs)]
        plan = plan_restart(self._supervisor.strategy, children, position)
        await self._stop(plan.stop, f"its sibling {outcome.name} is restarted")
        try:
            for again in plan.start:
                await self._start(again)
        except PoolClosedError:
            # The pool drains: who lives may finish, but nobody comes back.
            if isinstance(outcome, Failed):
                raise RestartLimitError(outcome.name, 0, self._supervisor.within) from outcome.error

    async def _escalate(self, outcome: AnyOutcome) -> None:
        supervisor = self._supervisor
        await self._stop(sorted(self._running, reverse=True), "its supervisor gave up")
        cause = outcome.error if isinstance(outcome, Failed) else None
        raise RestartLimitError(outcome.name, supervisor.max_restarts, supervisor.within) from cause
