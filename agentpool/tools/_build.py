"""The tools of a manifest: built-in ones that it grants, and its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agentpool._core.capability import (
    ComputeCapability,
    FileReadCapability,
    FileWriteCapability,
    MemoryCapability,
    MessagingCapability,
    NetworkCapability,
    ShellCapability,
    grants,
)
from agentpool._core.errors import Finding, ManifestError
from agentpool._core.manifest import AgentManifest
from agentpool._loading import LoadProblem, load_callable
from agentpool.abc import Tool
from agentpool.tools._agents import (
    ask_agent,
    recall,
    receive_message,
    remember,
    reply_message,
    send_message,
)
from agentpool.tools._files import FileEditor, FileReader, FileWriter
from agentpool.tools._function import FunctionTool, tool
from agentpool.tools._handoff import handoff_in_team
from agentpool.tools._registry import ToolRegistry
from agentpool.tools._shell import CommandRunner
from agentpool.tools._skills import skill_tools
from agentpool.tools._team import MakeAgent, Team


def build_tools(
    manifest: AgentManifest,
    *,
    make_agent: MakeAgent | None = None,
    agents: Iterable[AgentManifest] | None = None,
) -> ToolRegistry:
    """Return the tools of a manifest, limited to what it grants: the default `tool_builder`.

    Blocks on the disk and imports the modules of `tools`; what was imported is kept, so that it is
    cheap for the next agent of the same manifest.

    Args:
      manifest: what the agent is. `allowed_paths` are relative to its `base`.
      make_agent: makes an agent of a manifest and a query, as `SpawnConfig` does; without it there
        is no `spawn_agent`.
      agents: the agents that it may spawn and hand over to, as far as the manifest grants that; None lets
        it spawn its own kind.

    Raises:
      ManifestError: with every problem of the manifest's own tools, its skills and its handoffs.
    """
    source = f"manifest {manifest.name!r}"
    built = builtin_tools(manifest, make_agent=make_agent, agents=agents)
    registry = ToolRegistry(built, capabilities=manifest)
    findings: list[Finding] = []
    for n, each in enumerate(load_tools(manifest.tools, manifest.base, source=source)):
        try:
            registry.register(each)
        except ValueError as error:
            findings.append(Finding(source, f"tools[{n}]", str(error), "Built-in tools keep their names"))
    if findings:
        raise ManifestError(findings)
    return registry


def builtin_tools(
    manifest: AgentManifest,
    *,
    make_agent: MakeAgent | None = None,
    agents: Iterable[AgentManifest] | None = None,
) -> list[Tool]:
    """Return the built-in tools that a manifest grants.

    Args:
      manifest: what the agent is.
      make_agent, agents: as for `build_tools`.

    Raises:
      ManifestError: with every problem of its skills and its handoffs.
    """
    granted = manifest.capabilities
    tools: list[Tool] = _file_tools(manifest)
    if grants(granted, NetworkCapability(())):
        tools.append(_fetching_tool(manifest))
    if grants(granted, ShellCapability(())):
        tools.append(CommandRunner(manifest).shell)
    if grants(granted, ComputeCapability()):
        tools.append(CommandRunner(manifest).python)
    if grants(granted, MemoryCapability()):
        tools += [remember, recall]
    if grants(granted, MessagingCapability()):
        tools += [send_message, receive_message, ask_agent, reply_message]
    if make_agent is not None:
        tools += team_tools(manifest, make_agent, agents)
    if manifest.skills:
        tools += skill_tools(manifest)
    return tools


def team_tools(
    manifest: AgentManifest, make_agent: MakeAgent, agents: Iterable[AgentManifest] | None
) -> list[Tool]:
    """Return the tools by which an agent has others work for it, or go on in its place.

    Raises:
      ManifestError: with every problem of its handoffs.
    """
    team = None if agents is None else list(agents)
    tools = Team(manifest, make_agent, team).tools()
    if manifest.handoffs:
        tools.append(handoff_in_team(manifest, make_agent, team or ()))
    return tools


def _file_tools(manifest: AgentManifest) -> list[Tool]:
    tools: list[Tool] = []
    reader = writer = None
    follows_links = not manifest.has_real_paths
    if grants(manifest.capabilities, FileReadCapability(())):
        reader = FileReader(_paths(manifest, FileReadCapability), manifest.base, follows_links=follows_links)
        tools += [reader.read_file, reader.list_files, reader.search_text]
    if grants(manifest.capabilities, FileWriteCapability(())):
        writer = FileWriter(
            _paths(manifest, FileWriteCapability),
            manifest.base,
            follows_links=follows_links,
            readable=None if reader is None else reader.roots,
        )
        tools.append(writer.write_file)
    if reader is not None and writer is not None:
        tools.append(FileEditor(reader.roots, writer.roots).edit_file)
    return tools


def _fetching_tool(manifest: AgentManifest) -> Tool:
    from agentpool.tools._web import UrlFetcher  # seldom needed

    hosts = [
        host
        for grant in manifest.capabilities
        if isinstance(grant, NetworkCapability)
        for host in grant.allowed_hosts
    ]
    return UrlFetcher(hosts, manifest.privacy).fetch_url


def _paths(manifest: AgentManifest, kind: type[FileReadCapability] | type[FileWriteCapability]) -> list[str]:
    return [
        path for grant in manifest.capabilities if isinstance(grant, kind) for path in grant.allowed_paths
    ]


def load_tools(
    specs: Iterable[str], base: str | Path | None, *, source: str = "<manifest>"
) -> list[FunctionTool[..., Any]]:
    """Import the tools that a manifest names as `module:function`.

    A module is looked for beside the manifest, then among the installed ones. A plain function
    becomes a tool as by `@tool`. Blocks on the disk, and runs the modules.

    Args:
      specs: the names, such as `checks:check_links`.
      base: the manifest's directory.
      source: what to call the manifest in findings.

    Raises:
      ManifestError: with a finding for each one that cannot be had.
    """
    tools: list[FunctionTool[..., Any]] = []
    findings: list[Finding] = []
    for n, spec in enumerate(specs):
        try:
            loaded = _load_tool(spec, None if base is None else Path(base))
            if any(loaded.name == other.name for other in tools):
                raise LoadProblem(f"there is a tool named {loaded.name!r} before it", "Give it another name")
            tools.append(loaded)
        except LoadProblem as error:
            findings.append(Finding(source, f"tools[{n}]", error.problem, error.fix))
    if findings:
        raise ManifestError(findings)
    return tools


def _load_tool(spec: str, base: Path | None) -> FunctionTool[..., Any]:
    function, module = load_callable(spec, base)
    try:
        loaded = function if isinstance(function, FunctionTool) else _wrapped(function, vars(module))
        _ = loaded.definition  # hints that cannot be described are found now, not in the first run
    except (TypeError, ValueError) as error:
        raise LoadProblem(f"{spec} cannot be a tool: {error}", "Fix the function") from error
    return loaded


def _wrapped(function: Callable[..., Any], namespace: dict[str, Any]) -> FunctionTool[..., Any]:
    """Make a tool of a plain function once: its schema is what costs."""
    made: dict[Any, FunctionTool[..., Any]] = namespace.setdefault("__agentpool_tools__", {})
    if function not in made:
        made[function] = tool(function)
    return made[function]
