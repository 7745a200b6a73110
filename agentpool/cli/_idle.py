"""What stands in a file and changes nothing where it stands: told as a warning.

What could never change anything is no warning but an error, and does not come this far.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import attrs

from agentpool._core.capability import ComputeCapability, ShellCapability, grants
from agentpool._core.errors import Finding
from agentpool._core.manifest import AgentManifest
from agentpool._core.rules import fix_for_name
from agentpool.cli._drivers import driver_name_in
from agentpool.fleet.file import AnyFleetAgent, FleetFile, RestartSettings

_WITHOUT_MODEL = ("scripted", "auto")
_PACE = ("max_restarts", "within", "backoff")


def idle_settings(fleet: FleetFile, driver: str | None, source: str) -> Iterator[Finding]:
    """Yield what has no effect in a fleet.

    Args:
      fleet: what was read.
      driver: what the command line names for all agents.
      source: the name of the file.
    """
    default = fleet.pool.driver
    named = all(driver_name_in(manifest) for manifest in fleet.manifests)
    if default is not None and named and not fleet.functions:
        yield Finding(source, "pool.driver", "has no effect: every manifest names a driver", "Remove one")
    for manifest in fleet.manifests:
        yield from _idle_script(manifest, driver or driver_name_in(manifest) or default, source)
        yield from idle_model(manifest, source)
        yield from idle_sandbox(manifest, source)
    for agent in fleet.agents:
        yield from _idle_restart(agent, fleet, source)
        if not agent.placed and fleet.pool.placement is None:
            problem = f"of agent '{agent.name}': has no effect: the pool has no 'placement'"
            yield Finding(source, "placed", problem, 'Remove it, or write placement = "ray" below [pool]')


def _idle_script(manifest: AgentManifest, driver: str | None, source: str) -> Iterator[Finding]:
    if manifest.script is not None and driver is not None and driver.strip() not in _WITHOUT_MODEL:
        problem = f"of the manifest '{manifest.name}': has no effect: {driver} is asked"
        yield Finding(source, "script", problem, "Remove the script or the driver")


def idle_model(manifest: AgentManifest, source: str) -> Iterator[Finding]:
    """Yield a local model that is not asked."""
    if manifest.model.model_path is not None and manifest.model.driver is not None:
        problem = f"of the manifest '{manifest.name}': has no effect: {manifest.model.driver} is asked"
        yield Finding(source, "model.model_path", problem, "Remove it or the driver")


def idle_sandbox(manifest: AgentManifest, source: str) -> Iterator[Finding]:
    """Yield what is said of commands and has no effect."""
    if any(grants(manifest.capabilities, kind) for kind in (ShellCapability(()), ComputeCapability())):
        yield from _no_commands(manifest, source)
        return
    fields = attrs.fields_dict(AgentManifest)
    for key in ("sandbox", "commands"):
        if getattr(manifest, key) != fields[key].default:
            problem = f"of the manifest '{manifest.name}': has no effect: the agent may run no commands"
            yield Finding(source, key, problem, "Remove it, or grant the capability 'shell' or 'compute'")


def _no_commands(manifest: AgentManifest, source: str) -> Iterator[Finding]:
    """Yield the allowed commands that no command begins with: they are more than a name."""
    for n, grant in enumerate(manifest.capabilities):
        if not isinstance(grant, ShellCapability):
            continue
        for k, name in enumerate(grant.allowed_commands):
            if "/" in name or len(name.split()) != 1:
                problem = f"of the manifest '{manifest.name}': has no effect: {name!r} names no program"
                fix = "Give the name alone, such as 'git'; arguments are restricted in [approval]"
                yield Finding(source, f"capabilities[{n}].allowed_commands[{k}]", problem, fix)


def _idle_restart(agent: AnyFleetAgent, fleet: FleetFile, source: str) -> Iterator[Finding]:
    """Yield the keys of `restart` that are not looked at: below a supervisor only `mode` is."""
    boss = next((each.name for each in fleet.supervisors if agent.name in each.children), None)
    if agent.restart is None or (boss is None and agent.restart.mode != "never"):
        return
    fields = attrs.fields_dict(RestartSettings)
    given = [key for key in _PACE if getattr(agent.restart, key) != fields[key].default]
    if given and boss is not None:
        problem = f"of agent '{agent.name}': {', '.join(given)} has no effect below the supervisor '{boss}'"
        yield Finding(source, "restart", problem, "Give it in [[supervisors]]; only 'mode' counts here")
    elif given:
        problem = f"of agent '{agent.name}': {', '.join(given)} has no effect with the mode 'never'"
        yield Finding(source, "restart", problem, "Remove it, or choose another mode")


def idle_steps(manifest: AgentManifest, tools: Collection[str], source: str) -> Iterator[Finding]:
    """Yield the calls of a script that can only come to an error: there is no such tool.

    Args:
      manifest: whose script it is.
      tools: the names of its tools.
      source: the name of the file.
    """
    steps = () if manifest.script is None else manifest.script.steps
    for number, step in enumerate(steps):
        for n, call in enumerate(step.calls):
            if call.tool not in tools:
                problem = f"of the manifest '{manifest.name}': the agent has no tool '{call.tool}'"
                key = f"script.steps[{number}].calls[{n}].tool"
                yield Finding(source, key, problem, fix_for_name(call.tool, tools))
