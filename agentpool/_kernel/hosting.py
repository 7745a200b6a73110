"""A pool in a worker process: it runs bodies of agents that belong to the pool of another process.

It has slots without end and judges nothing, because that is the other pool's. What stays its own is what an
agent's code meets where it runs: its task and scope, what it leaves open, its nurseries, tools and hooks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import trio

from agentpool._core.limits import PoolLimits
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome
from agentpool._kernel.agent import AgentRecord, Granted, Work
from agentpool._kernel.children import Children
from agentpool._kernel.life import live, new_record
from agentpool._kernel.opening import OpenPool
from agentpool._kernel.options import SpawnOptions
from agentpool._kernel.pool import AgentPool
from agentpool._kernel.protection import protect_module
from agentpool._kernel.state import Means, PoolState, Settings

if TYPE_CHECKING:
    from agentpool._kernel.agent import Own

SLOTS = 1_000_000_000
"""No agent of a worker waits for a slot: it has one, at the head of its pool, or it would not run."""


class Report(Protocol):
    """Who is told how an agent ended."""

    def ended(self, outcome: AnyOutcome) -> None:
        """The agent has its outcome; called in the step in which it ends, must not raise."""


class HostedAgents(Children[AgentRecord]):
    """The agents of a host: whoever is told how they ended looks at their failures."""

    are_hosted = True

    def ended(self, outcome: AnyOutcome, *, is_taken: bool, is_seen: bool) -> None:
        """Take in that an agent has ended; its report has its outcome."""
        super().ended(outcome, is_taken=True, is_seen=True)


class OpenHost(OpenPool):
    """The block of a pool that hosts agents of another."""

    async def __aenter__(self) -> AgentPool:
        pool = await super().__aenter__()
        pool._state.root = HostedAgents(None)  # before there is any
        return pool


def open_host(
    means: Means,
    make_context: Callable[[PoolState, AgentRecord], Any],
    on_rest: Callable[[AgentId], object],
    *,
    seed: int,
) -> OpenHost:
    """Open a pool for the agents of another.

    Args:
      means: what its agents have.
      make_context: makes what an agent gets as its first argument.
      on_rest: is told of each agent of which every known task waits, in the step in which that is so.
      seed: of what is drawn by lot.
    """
    parts = {
        "means": means,
        # The head bounds what there is: a bound here would be one for each worker.
        "limits": PoolLimits(depth=SLOTS, alive=SLOTS),
        "make_context": make_context,
        "random": Random(seed),
        "on_rest": on_rest,
    }
    return OpenHost(Settings(SLOTS, 1), None, parts)


def start_hosted(
    pool: AgentPool,
    agent_id: AgentId,
    name: str,
    work: tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]],
    granted: Granted | None,
    report: Report,
) -> AgentRecord:
    """Run an agent of another pool, under its id there.

    Args:
      work: what it runs, and its arguments.
      granted: what it may do; None for all that it asks for.
      report: is told its outcome, which nobody else gets.
    """
    state = pool._state
    fn, args = work
    started_at = trio.current_time()
    record = new_record(
        state, state.root, Work(fn, args, SpawnOptions()), agent_id, name, started_at, batch=report
    )
    state.counts.issued += 1
    own: Own = record.own
    own.granted = granted
    state.parts.slots.take(record)
    state.parts.nursery.start_soon(live, state, record, name=name)
    return record


protect_module(globals())
