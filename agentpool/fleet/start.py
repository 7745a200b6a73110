"""Starting a fleet in a pool: its agents, and supervisors with the agents below them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from agentpool._core.manifest import AgentManifest
from agentpool._core.restart import RestartMode, RestartPolicy
from agentpool._kernel.context import AgentContext
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.options import SpawnOptions
from agentpool._kernel.placed import placed
from agentpool._kernel.pool import AgentPool
from agentpool._kernel.supervisor import ChildSpec, Supervisor
from agentpool._loop.model_agent import ModelAgent, SpawnConfig
from agentpool.abc import Driver
from agentpool.fleet.file import (
    AnyFleetAgent,
    FleetFile,
    FleetFunction,
    RestartSettings,
    SupervisorSettings,
)

MODES: Mapping[str, RestartMode] = {
    "on_failure": "transient",
    "always": "permanent",
    "never": "temporary",
}
DriverOf = Callable[[AgentManifest], Driver | None]


async def start_fleet(
    pool: AgentPool, fleet: FleetFile, *, driver_of: DriverOf | None = None, timeout: float | None = None
) -> list[AgentHandle[Any]]:
    """Start the agents of a fleet, in the order of its file, waiting for slots.

    The agents below a supervisor are started by it; it starts where the first of them stands. The
    settings in `fleet.pool` are for whoever opens the pool. In a fleet with a placement the agents are marked
    for it; they run there if the pool was opened with `placement=fleet.make_placement()`.

    Args:
      pool: where they run.
      fleet: what was read.
      driver_of: gives the driver of a manifest's agent, or None for the pool's; left out, all ask the
        pool's. Functions find the pool's as `ctx.driver`.
      timeout: seconds that no agent may pass, whatever the file allows.

    Returns:
      The handles of what was spawned: supervisors, and agents that have none.

    Raises:
      TypeError, ValueError: if an argument makes no sense, or an agent of a served fleet has no query.
      PoolClosedError: as `spawn`; what has started remains in the pool.

    Checkpoint: always. Cancellation: what has started remains in the pool.
    """
    if not isinstance(fleet, FleetFile):
        raise TypeError(f"fleet must be a FleetFile, not {fleet!r}; read a file with FleetFile.load(path)")
    SpawnOptions(timeout=timeout).check()
    driver_of = driver_of or _ask_pool
    members = [ModelAgent[Any](each, driver=driver_of(each)) for each in fleet.subagents]
    starts = starts_of(fleet, driver_of, timeout, agents=members or None)
    return [await start.spawn_in(pool) for start in starts]


def _ask_pool(manifest: AgentManifest) -> None:
    return None


@attrs.frozen
class Start:
    """One call of `spawn`.

    Attributes:
      names: the fleet's agents that it starts; several for a supervisor.
      supervises: whether it is a supervisor, whose children are the fleet's agents.
    """

    agent: Callable[[AgentContext], Awaitable[Any]]
    name: str
    names: Sequence[str]
    timeout: float | None = None
    restart: RestartPolicy | None = None
    supervises: bool = False

    async def spawn_in(self, pool: AgentPool) -> AgentHandle[Any]:
        """Spawn it, waiting for a slot."""
        return await pool.spawn(self.agent, name=self.name, timeout=self.timeout, restart=self.restart)


Members = Sequence[ModelAgent[Any]] | None


def starts_of(
    fleet: FleetFile, driver_of: DriverOf, timeout: float | None, *, agents: Members = None
) -> list[Start]:
    """Return what is to be spawned, in the order of the file; a supervisor where its first agent stands.

    Args:
      driver_of: gives the driver of an agent.
      timeout: seconds that no agent may pass, whatever the file allows.
      agents: those that its agents may spawn; None leaves them to the pool's `tool_builder`.
    """
    supervisors = {child: supervisor for supervisor in fleet.supervisors for child in supervisor.children}
    by_name = {agent.name: agent for agent in fleet.agents}
    body_of = partial(
        _body_of, driver_of=driver_of, members=agents, is_placed=fleet.pool.placement is not None
    )
    starts: dict[str, Start] = {}
    for agent in fleet.agents:
        supervisor = supervisors.get(agent.name)
        if supervisor is None:
            starts[agent.name] = _start_alone(agent, body_of, timeout)
        elif supervisor.name not in starts:
            children = [by_name[name] for name in supervisor.children]
            starts[supervisor.name] = _start_supervised(supervisor, children, body_of, timeout)
    return list(starts.values())


Body = Callable[[AgentContext], Awaitable[Any]]
BodyOf = Callable[[AnyFleetAgent], Body]


def _body_of(agent: AnyFleetAgent, driver_of: DriverOf, members: Members, is_placed: bool) -> Body:
    body = _body_here(agent, driver_of, members)
    return placed(body) if is_placed and agent.placed else body


def _body_here(agent: AnyFleetAgent, driver_of: DriverOf, members: Members) -> Body:
    if isinstance(agent, FleetFunction):
        return agent
    if agent.query is None:
        raise ValueError(
            f"agent {agent.name!r} has no query: read the fleet without served=True, or serve it"
        )
    return SpawnConfig(agent.manifest, agent.query, driver=driver_of(agent.manifest), agents=members)


def _start_alone(agent: AnyFleetAgent, body_of: BodyOf, timeout: float | None) -> Start:
    body = body_of(agent)
    return Start(body, agent.name, (agent.name,), shorter(agent.timeout, timeout), policy_of(agent.restart))


def _start_supervised(
    settings: SupervisorSettings, agents: Sequence[AnyFleetAgent], body_of: BodyOf, timeout: float | None
) -> Start:
    children = [
        ChildSpec(
            body_of(agent),
            name=agent.name,
            # An agent of a fleet has a question to answer: it comes back if it failed to.
            mode="transient" if agent.restart is None else MODES[agent.restart.mode],
            timeout=shorter(agent.timeout, timeout),
        )
        for agent in agents
    ]
    supervisor = Supervisor(
        children,
        strategy=settings.strategy,
        max_restarts=settings.max_restarts,
        within=settings.within,
        name=settings.name,
    )
    return Start(supervisor, settings.name, settings.children, supervises=True)


def policy_of(settings: RestartSettings | None) -> RestartPolicy | None:
    """Return the policy that an agent's settings stand for."""
    if settings is None:
        return None
    return RestartPolicy(
        MODES[settings.mode],
        max_restarts=settings.max_restarts,
        within=settings.within,
        backoff=settings.backoff,
    )


def shorter(one: float | None, other: float | None) -> float | None:
    """Return the shorter of two limits; None is no limit."""
    given = [seconds for seconds in (one, other) if seconds is not None]
    return min(given, default=None)
