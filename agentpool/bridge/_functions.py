"""Asyncio functions as agents, and as functions that agents of a pool can await."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import update_wrapper
from inspect import isawaitable
from typing import Any, Generic, ParamSpec, TypeVar, TypeVarTuple

from agentpool._core.text import shown
from agentpool._kernel.context import AgentContext
from agentpool._kernel.descriptions import agent_to_data, described_agent
from agentpool._kernel.options import check_agent
from agentpool.bridge._context import AsyncioAgentContext
from agentpool.bridge._loops import loop_here
from agentpool.bridge._seat import Seat

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


def asyncio_agent(
    fn: Callable[[AsyncioAgentContext, *Ts], Awaitable[T]], /
) -> Callable[[AgentContext, *Ts], Awaitable[T]]:
    """Make an agent of a function that is written for asyncio, such as one that runs another framework's.

    It is an agent like any other: it counts in the cap, has an outcome, an inbox and children, and can be
    aborted. The function is run in the event loop of the program, if `open_agent_pool_asyncio` has opened
    the pool; else in one loop that the pool has in a thread of its own, from the first such agent to the
    pool's end. It starts in the context variables of whoever spawned the agent.

    When the agent is cancelled, its task over there is, and the agent ends when that has. A task that goes
    on all the same is cancelled again after 5 seconds, and each second from then on. Tasks that the
    function leaves running are cancelled and awaited when it ends.

    The agent lends its slot while the function, or a task that it has started, waits in a verb of its
    context. A function that does something else meanwhile, in another task, does it beside the cap.

    Args:
      fn: an async function that takes an `AsyncioAgentContext` and the agent's arguments.

    Raises:
      TypeError: if it cannot be called, or returns nothing that can be awaited.
    """
    check_agent(fn)
    return _AsyncioAgent(fn)


class _AsyncioAgent(Generic[*Ts, T]):
    """An agent whose function runs on asyncio."""

    def __init__(self, fn: Callable[[AsyncioAgentContext, *Ts], Awaitable[T]]) -> None:
        self.fn = fn
        update_wrapper(self, fn)

    def __repr__(self) -> str:
        return f"asyncio_agent({self.fn!r})"

    def to_journal(self) -> Any:
        """Return how the function is found again."""
        return agent_to_data(self.fn)

    @classmethod
    def from_journal(cls, data: Any) -> _AsyncioAgent[*tuple[Any, ...], Any]:
        """Return the agent of which `to_journal` made this."""
        return cls(described_agent(data))

    async def __call__(self, ctx: AgentContext, *args: *Ts) -> T:
        seat = Seat(await loop_here())
        return await seat.run(_awaited, (self.fn, AsyncioAgentContext(seat, ctx), *args))


def asyncio_function(fn: Callable[P, Awaitable[T]], /) -> Callable[P, Awaitable[T]]:
    """Make a function that agents of a pool await of one that is written for asyncio.

    For tools, approvers and steps. It is run where `asyncio_agent` runs its function, and is cancelled
    in the same way. What it asks of the pool, the agent asks that awaits it.

    Raises (when it is awaited):
      RuntimeError: if no agent of a pool awaits it.
      TypeError: if it returns nothing that can be awaited.
    """
    check_agent(fn)

    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        seat = Seat(await loop_here())
        return await seat.run(_awaited, (lambda: fn(*args, **kwargs),))

    return update_wrapper(run, fn)


async def _awaited(fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    made = fn(*args)
    if not isawaitable(made):
        raise TypeError(f"{shown(fn)} is no async function: it returned {shown(made)}")
    value: T = await made
    return value
