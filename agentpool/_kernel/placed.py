"""The mark of an agent that runs where the pool's placement says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, TypeVarTuple

import attrs

from agentpool._kernel.options import check_agent
from agentpool._kernel.protection import protect_module

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def _is_agent(_: object, __: object, agent: Any) -> None:
    if type(agent) is Placed:
        raise TypeError(f"agent is marked for placement already: {agent!r}")
    check_agent(agent)


@attrs.frozen
class Placed(Generic[*Ts, T]):
    """An agent that is marked for placement; `placed` makes one."""

    agent: Callable[[Any, *Ts], Awaitable[T]] = attrs.field(validator=_is_agent)

    def __call__(self, ctx: Any, *args: *Ts) -> Awaitable[T]:
        """Run the agent here, as code that calls it does."""
        return self.agent(ctx, *args)


def placed(agent: Callable[[Any, *Ts], Awaitable[T]]) -> Placed[*Ts, T]:
    """Mark an agent: it runs in a worker process in a pool with a `placement`, and in place in any other.

    Give the result to `spawn`, `map` and the other verbs in the agent's place. Children are marked by
    themselves: one that is not runs at the head of the pool, whoever spawns it.

    Raises:
      TypeError: if it is no agent, or marked already.
    """
    return Placed(agent)


protect_module(globals())
