"""A pool for whoever shows it to a person: its agents by their ids, without handles, and its events."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from agentpool._core.events import AgentSpawned, AgentStarted
from agentpool._core.messages import AgentId
from agentpool._kernel.current import current_agent
from agentpool._kernel.events import EventSubscription
from agentpool._kernel.pool import AgentPool
from agentpool._kernel.protection import protect_module


@attrs.frozen
class LiveAgent:
    """An agent that has not ended.

    Attributes:
      id, parent_id, name: who it is.
      spawned_at: when it got its slot, on trio's clock.
      has_started: whether it took its first step.
    """

    id: AgentId
    parent_id: AgentId
    name: str
    spawned_at: float
    has_started: bool


def live_agents(pool: AgentPool) -> list[LiveAgent]:
    """Return the agents that have not ended, parents before their children."""
    records = pool._state.records.values()
    return [
        LiveAgent(each.id, each.parent_id, each.name, each.started_at, each.status != "starting")
        for each in records
    ]


def told_so_far(pool: AgentPool) -> Iterator[AgentSpawned | AgentStarted]:
    """Yield what events would have told of the agents that have not ended: all spawns, and then starts."""
    agents = live_agents(pool)
    for each in agents:
        yield AgentSpawned(0, each.spawned_at, each.id, each.parent_id, each.name)
    for each in agents:
        if each.has_started:
            yield AgentStarted(0, each.spawned_at, each.id, each.parent_id)


def abort_agent(pool: AgentPool, agent_id: AgentId, reason: str) -> bool:
    """End an agent at its next checkpoint, and all below it, as its handle does; tell whether it is there.

    Does not wait.
    """
    record = pool._state.records.get(agent_id)
    if record is None or record.ended:
        return False
    record.pool.check_here()
    record.abort(reason)
    return True


def subscribed(pool: AgentPool, max_buffer: int) -> EventSubscription:
    """Subscribe to a pool's events, as `pool.events` does, without a block: close it when it is done with."""
    log = pool._state.events
    subscription = EventSubscription(log, max_buffer, "drop_oldest", current_agent())
    log.subscribe(subscription)
    return subscription


protect_module(globals())
