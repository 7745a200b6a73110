"""A fleet that was read, as data: a journal keeps it, so that a run goes on without its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentpool._objects import object_from_data, object_to_data
from agentpool.fleet.agents import AnyFleetAgent, FleetAgent, FleetFunction
from agentpool.fleet.file import FleetFile
from agentpool.fleet.functions import load_function


def fleet_to_data(fleet: FleetFile) -> Any:
    """Return a fleet as JSON data, each manifest once.

    Raises:
      NotDataError: if an argument of a function is no data; what a file says always is.
    """
    manifests = list(fleet.manifests)
    numbers = {id(manifest): number for number, manifest in enumerate(manifests)}
    data = {
        "agents": [_agent_to_data(agent, numbers) for agent in fleet.agents],
        "manifests": manifests,
        "pool": fleet.pool,
        "supervisors": list(fleet.supervisors),
        "base": None if fleet.base is None else str(fleet.base),
        "placement": fleet.placement,
        "subagents": [numbers[id(manifest)] for manifest in fleet.subagents],
    }
    return object_to_data(data)


def _agent_to_data(agent: AnyFleetAgent, numbers: dict[int, int]) -> dict[str, Any]:
    common = {
        "name": agent.name,
        "query": agent.query,
        "timeout": agent.timeout,
        "restart": agent.restart,
        "placed": agent.placed,
    }
    if isinstance(agent, FleetAgent):
        return {**common, "manifest": numbers[id(agent.manifest)]}
    return {**common, "function": agent.reference, "args": dict(agent.args)}


def fleet_from_data(data: Any) -> FleetFile:
    """Return the fleet of which `fleet_to_data` made this. Imports the modules of its functions.

    Raises:
      UnreadableDataError: if a class of agentpool has changed since.
      LoadProblem: if a function is not there any more.
    """
    kept = object_from_data(data)
    base = None if kept["base"] is None else Path(kept["base"])
    agents = [_agent_from_data(agent, kept["manifests"], base) for agent in kept["agents"]]
    manifests = kept["manifests"]
    return FleetFile(
        agents=agents,
        pool=kept["pool"],
        supervisors=kept["supervisors"],
        base=base,
        subagents=[manifests[number] for number in kept.get("subagents", ())],
        placement=kept.get("placement"),
    )


def _agent_from_data(agent: dict[str, Any], manifests: list[Any], base: Path | None) -> AnyFleetAgent:
    name, query, timeout, restart = (agent[key] for key in ("name", "query", "timeout", "restart"))
    placed = agent.get("placed", True)  # an older agentpool knew no placement
    if "manifest" in agent:
        return FleetAgent(name, manifests[agent["manifest"]], query, timeout, restart, placed)
    reference = agent["function"]
    function = load_function(reference, base)
    return FleetFunction(name, function, reference, query, agent["args"], timeout, restart, placed)
