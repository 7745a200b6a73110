"""Fleet files and manifests: reading them, with what they name in modules beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import trio

from agentpool._core.approval import idle_patterns
from agentpool._core.capability import (
    CAPABILITY_TYPES,
    ComputeCapability,
    McpCapability,
    NetworkCapability,
    ShellCapability,
)
from agentpool._core.errors import Finding, ManifestError
from agentpool._core.manifest import AgentManifest, parse_toml, read_text, usable_servers
from agentpool._core.mcp import beginning_of_names
from agentpool._core.rules import fix_for_name
from agentpool._core.sandboxing import network_of
from agentpool._loading import LoadProblem, load_callable
from agentpool._loop.hooks import load_hooks
from agentpool._loop.model_agent import SpawnConfig
from agentpool.cli._drivers import Drivers, Subagents, driver_name_in, pool_driver_name
from agentpool.cli._errors import BadInputError
from agentpool.cli._idle import idle_model, idle_sandbox, idle_settings, idle_steps
from agentpool.fleet.file import FleetFile
from agentpool.fleet.schema import fleet_schema, manifest_schema
from agentpool.tools import ToolRegistry, build_tools

SCHEMAS = {"manifest": manifest_schema, "fleet": fleet_schema}
FLEET_KEYS = {"agents", "pool", "subagents", "supervisors", "vars"}
_LOCAL_MODEL = ("model_repo", "model_quantization")


@attrs.frozen
class CheckedFile:
    """A file with which nothing is wrong.

    Attributes:
      kind: `fleet` or `manifest`.
      warnings: what stands in it and has no effect.
    """

    kind: str
    warnings: tuple[str, ...]


def load_fleet(path: Path, vars: Mapping[str, str], *, served: bool = False) -> FleetFile:
    """Read a fleet file with its manifests, and import the functions that they name.

    Args:
      path: the file.
      vars: what the command line gives its variables.
      served: whether clients say what the agents are asked.

    Raises:
      ManifestError: with every finding of the fleet, of its manifests, and of their modules.
    """
    fleet = FleetFile.load(path, vars=vars, served=served)
    findings = dict.fromkeys(  # several agents may have one skill
        finding
        for manifest in fleet.manifests
        for finding in _manifest_findings(manifest, str(path), fleet.subagents or None)
    )
    findings.update(dict.fromkeys(_placement_findings(fleet, str(path))))
    if findings:
        raise ManifestError(list(findings))
    return fleet


def _placement_findings(fleet: FleetFile, source: str) -> Iterator[Finding]:
    try:
        fleet.make_placement()
    except ModuleNotFoundError:
        problem = "needs Ray, which is not installed"
        fix = "pip install 'trio-agentpool[ray]' (in a clone: pip install '.[ray]')"
        yield Finding(source, "pool.placement", problem, fix)


def load_manifest(path: Path) -> AgentManifest:
    """Read the manifest of one agent, and import the functions that it names.

    Raises:
      ManifestError: with every finding of the file.
      BadInputError: if it is a fleet.
    """
    if FLEET_KEYS & parse_toml(read_text(path, Path.read_bytes), str(path)).keys():
        raise BadInputError(f"{path} is a fleet, and a chat is with one agent: give the file of its manifest")
    manifest = AgentManifest.load(path)
    if findings := list(_manifest_findings(manifest, str(path))):
        raise ManifestError(findings)
    return manifest


def check_file(
    path: Path, driver: str | None, vars: Mapping[str, str], *, served: bool = False
) -> CheckedFile:
    """Read a fleet file or a manifest as `agentpool run` does, and open the drivers that it names.

    Args:
      path: the file.
      driver: what the command line names for all agents.
      vars: what the command line gives the variables of a fleet; a manifest has none.
      served: whether a fleet is for `agentpool mcp`.

    Raises:
      ManifestError: with every finding of the file.
      BadInputError: if a driver cannot be had here.
    """
    table = parse_toml(read_text(path, Path.read_bytes), str(path))
    if FLEET_KEYS & table.keys():
        fleet = load_fleet(path, vars, served=served)
        if served:
            from agentpool.mcp_server._tools import served_tools

            served_tools(fleet)
        trio.run(_try_drivers, fleet.manifests, bool(fleet.functions), driver, pool_driver_name(fleet))
        warnings = [
            *idle_settings(fleet, driver, str(path)),
            *_idle_steps(fleet.manifests, str(path), fleet.subagents or None),
        ]
        return CheckedFile("fleet", tuple(map(str, warnings)))
    # Whether there is somebody to hand over to is known in a fleet.
    manifest = attrs.evolve(AgentManifest.load(path), handoffs=())
    if findings := list(_manifest_findings(manifest, str(path))):
        raise ManifestError(findings)
    if driver is not None or driver_name_in(manifest) is not None:  # else that is the fleet's choice
        trio.run(_try_drivers, [manifest], False, driver, None)
    warnings = [
        *idle_model(manifest, str(path)),
        *idle_sandbox(manifest, str(path)),
        *_idle_steps([manifest], str(path)),
    ]
    return CheckedFile("manifest", tuple(map(str, warnings)))


async def _try_drivers(
    manifests: Sequence[AgentManifest], functions: bool, chosen: str | None, default: str | None
) -> None:
    async with AsyncExitStack() as stack:
        drivers = Drivers(stack, chosen, default, lambda line: None)
        await drivers.open_for(manifests, functions=functions)


# -- what a manifest names, and what of it has a meaning here ----------------------


def _manifest_findings(
    manifest: AgentManifest, source: str, subagents: Subagents = None
) -> Iterator[Finding]:
    for found in (*_function_problems(manifest, subagents), *_local_model_problems(manifest)):
        if isinstance(found, Finding):
            yield found
        else:
            key, problem, fix = found
            yield Finding(source, key, f"of the manifest '{manifest.name}': {problem}", fix)


def _function_problems(
    manifest: AgentManifest, subagents: Subagents
) -> Iterator[tuple[str, str, str] | Finding]:
    try:
        tools = tools_of(manifest, subagents)
    except ManifestError as error:
        yield from map(_found_in, error.findings)
    else:
        yield from _capability_problems(manifest, tools)
        yield from _idle_patterns(manifest, tools)
    try:
        load_hooks(manifest)
    except ManifestError as error:
        yield from map(_found_in, error.findings)
    if manifest.script is not None and manifest.script.function is not None:
        try:
            load_callable(manifest.script.function, manifest.base)
        except LoadProblem as problem:
            yield "script.function", problem.problem, problem.fix


def _found_in(found: Finding) -> tuple[str, str, str] | Finding:
    """Return a finding without its source, which is the manifest; one of a skill's file is left as it is."""
    return found if os.path.isabs(found.source) else (found.key, found.problem, found.fix)


def _idle_patterns(manifest: AgentManifest, tools: ToolRegistry) -> Iterator[tuple[str, str, str]]:
    """Yield the patterns that fit no call, but for tools of MCP servers, which are known when these run."""
    unknown = [beginning_of_names(server.name) for server in usable_servers(manifest)]
    if unknown:
        unknown += ("list_mcp_", "read_mcp_", "get_mcp_")  # resources and prompts
    yield from idle_patterns(manifest.approval, tools.definitions(), unknown)


def _capability_problems(manifest: AgentManifest, tools: ToolRegistry) -> Iterator[tuple[str, str, str]]:
    """Yield a problem for each grant that no tool asks for: it would look like a right, and be none."""
    needed = {type(tool.capability) for tool in tools}
    runs_commands = not needed.isdisjoint((ShellCapability, ComputeCapability))
    if runs_commands and network_of(manifest.capabilities, manifest.privacy)[0]:
        needed.add(NetworkCapability)  # their commands have it
    servers = [server.name for server in manifest.mcp_servers]
    names = {cls: name for name, cls in CAPABILITY_TYPES.items()}
    usable = usable_servers(manifest)
    for n, server in enumerate(manifest.mcp_servers):
        if server not in usable:
            fix = f'Grant it with a capability: {{ type = "mcp", server = "{server.name}" }}; or remove it'
            yield f"mcp_servers[{n}]", "the agent is granted none of its tools", fix
    for n, grant in enumerate(manifest.capabilities):
        if isinstance(grant, McpCapability) and servers:
            if grant.server != "*" and grant.server not in servers:
                problem = f"there is no MCP server '{grant.server}': it grants nothing"
                yield f"capabilities[{n}].server", problem, fix_for_name(grant.server, servers)
        elif type(grant) not in needed:
            problem = f"no tool of this agent needs the capability '{names[type(grant)]}': it grants nothing"
            fix = "Remove it, or name a tool that needs it in 'tools'"
            yield f"capabilities[{n}]", problem, fix


def _local_model_problems(manifest: AgentManifest) -> Iterator[tuple[str, str, str]]:
    for key in _LOCAL_MODEL:
        if getattr(manifest.model, key) is not None:
            problem = "no driver of the command line fetches a model"
            fix = "Remove it; fetch the model's GGUF file yourself, and name it as 'model_path'"
            yield f"model.{key}", problem, fix


def tools_of(manifest: AgentManifest, subagents: Subagents = None) -> ToolRegistry:
    """Return the tools that an agent of this manifest has here; their modules are imported.

    Args:
      manifest: that of the agent.
      subagents: the agents that it may spawn; None for a manifest by itself.

    Raises:
      ManifestError: with every problem of the manifest's own tools.
    """
    return build_tools(manifest, make_agent=SpawnConfig, agents=subagents)


def _idle_steps(
    manifests: Iterable[AgentManifest], source: str, subagents: Subagents = None
) -> Iterator[Finding]:
    for manifest in manifests:
        names = [*tools_of(manifest, subagents).names, *_names_of_servers(manifest)]
        yield from idle_steps(manifest, names, source)


def _names_of_servers(manifest: AgentManifest) -> list[str]:
    """Return the tools in a script that may be those of servers, which nobody has asked yet."""
    if not usable_servers(manifest) or manifest.script is None:
        return []
    return [call.tool for step in manifest.script.steps for call in step.calls if "mcp_" in call.tool]
