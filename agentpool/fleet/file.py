"""Fleet files: which agents run in a pool, on which questions. Reading them blocks on the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from agentpool._core.capability import McpCapability
from agentpool._core.errors import ManifestError
from agentpool._core.manifest import AgentManifest, parse_toml, read_text
from agentpool._core.mcp_servers import McpServer
from agentpool._core.rules import Report, as_tuple, read_table
from agentpool._core.text import shown
from agentpool.fleet.agents import AnyFleetAgent as AnyFleetAgent
from agentpool.fleet.agents import FleetAgent as FleetAgent
from agentpool.fleet.agents import FleetFunction as FleetFunction
from agentpool.fleet.expansion import Expansion
from agentpool.fleet.patterns import Place
from agentpool.fleet.placing import PlacementSettings as PlacementSettings
from agentpool.fleet.placing import placement_of
from agentpool.fleet.tables import BudgetSettings as BudgetSettings
from agentpool.fleet.tables import FleetTable, ServedFleetTable
from agentpool.fleet.tables import PoolSettings as PoolSettings
from agentpool.fleet.tables import RestartSettings as RestartSettings
from agentpool.fleet.tables import SubagentEntry as SubagentEntry
from agentpool.fleet.tables import SupervisorSettings as SupervisorSettings
from agentpool.fleet.variables import Variables
from agentpool.tools._links import note_paths

if TYPE_CHECKING:
    from agentpool.abc import Placement


@attrs.frozen(kw_only=True)
class FleetFile:
    """A fleet file that was read and found right, with the manifests that it names.

    Attributes:
      agents: every agent, in the order of the file; `count` and `for_each` are expanded.
      pool: the settings of the pool.
      supervisors: which agents are restarted together; their children are names of `agents`.
      base: the directory of the file, None if it came from no file.
      subagents: the manifests of the agents that models may spawn, and hand over to.
      placement: the worker processes in which the agents run, if the pool has a placement.
    """

    agents: tuple[AnyFleetAgent, ...] = attrs.field(converter=as_tuple)
    pool: PoolSettings = attrs.field(factory=PoolSettings)
    supervisors: tuple[SupervisorSettings, ...] = attrs.field(default=(), converter=as_tuple)
    base: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    subagents: tuple[AgentManifest, ...] = attrs.field(default=(), converter=as_tuple)
    placement: PlacementSettings | None = None

    @property
    def manifests(self) -> tuple[AgentManifest, ...]:
        """The manifests of its agents, and of those that they may spawn, each once."""
        found = [agent.manifest for agent in self.agents if isinstance(agent, FleetAgent)]
        return tuple({id(manifest): manifest for manifest in (*found, *self.subagents)}.values())

    @property
    def functions(self) -> tuple[FleetFunction, ...]:
        """Its agents that are Python functions."""
        return tuple(agent for agent in self.agents if isinstance(agent, FleetFunction))

    def make_placement(self) -> Placement | None:
        """Return where its agents run, for `open_agent_pool(placement=...)`; None if in this process.

        Raises:
          ModuleNotFoundError: if Ray is not installed; it names the `pip install`.
        """
        return placement_of(self.pool.placement, self.placement)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        vars: Mapping[str, str] | None = None,
        served: bool = False,
    ) -> FleetFile:
        """Read the fleet file at `path`, with the manifests and functions that it names.

        Blocks on the disk, and imports the modules of its functions.

        Args:
          path: the file.
          vars: values for its variables, in place of their defaults.
          served: whether it is for a server, whose clients say what the agents are asked: they need no
            `query` and no `args` then.

        Raises:
          ManifestError: with every finding of the file and of all its manifests.
          TypeError: if a value of `vars` is no string.
        """
        text = read_text(path, Path.read_bytes)
        return cls.from_toml(text, source=os.fspath(path), base=Path(path).parent, vars=vars, served=served)

    @classmethod
    def from_toml(
        cls,
        text: str,
        *,
        source: str = "<string>",
        base: str | os.PathLike[str] | None = None,
        vars: Mapping[str, str] | None = None,
        served: bool = False,
    ) -> FleetFile:
        """Read a fleet from TOML text, with the manifests and functions that it names.

        Blocks on the disk, and imports the modules of its functions.

        Args:
          text: the TOML text.
          source: what to call it in findings.
          base: the directory that paths in it are relative to; without it the current one. Modules
            of functions are looked for there first; without it only installed ones are found.
          vars: values for its variables, in place of their defaults.
          served: as for `load`.

        Raises:
          ManifestError: with every finding of the text and of all its manifests.
          TypeError: if a value of `vars` is no string.
        """
        given = _checked(vars)
        directory = Path() if base is None else Path(base)
        report = Report(base=None if base is None else Path(os.path.abspath(directory)))
        table = read_table(ServedFleetTable if served else FleetTable, parse_toml(text, source), "", report)
        variables = Variables.of(table.vars, given, directory, report)
        expansion = Expansion(Place(directory, variables, report), variables, report, served=served)
        agents, supervisors = expansion.expand(table.agents, table.supervisors)
        subagents = expansion.subagents(table.subagents, agents)
        if not report.problems:  # else what was wrong may be where they are used
            variables.report_unused()
        agents = _with_servers(agents, table.mcp_servers, report)
        findings = report.findings(source) + expansion.findings
        if findings:
            raise ManifestError(findings)
        fleet = cls(
            agents=agents,
            pool=table.pool,
            supervisors=supervisors,
            base=report.base,
            subagents=subagents,
            placement=table.placement,
        )
        for manifest in fleet.manifests:
            note_paths(manifest)  # before an agent of the fleet can have changed where they lead
        return fleet


def _with_servers(
    agents: Sequence[AnyFleetAgent], servers: Sequence[Any], report: Report
) -> list[AnyFleetAgent]:
    """Return agents with those of the fleet's MCP servers that their manifests grant.

    A server of the manifest itself goes before one of the fleet with its name.
    """
    if not all(isinstance(server, McpServer) for server in servers):
        return list(agents)
    made: dict[int, AgentManifest] = {}

    def served(agent: AnyFleetAgent) -> AnyFleetAgent:
        if not isinstance(agent, FleetAgent):
            return agent
        key = id(agent.manifest)
        if key not in made:
            made[key] = _manifest_with(agent.manifest, servers, report)
        return attrs.evolve(agent, manifest=made[key])

    result = list(map(served, agents)) if servers else list(agents)
    taken = {each for agent in result if isinstance(agent, FleetAgent) for each in agent.manifest.mcp_servers}
    for n, server in enumerate(servers):
        if server not in taken and not report.problems:
            fix = f'Grant it in one: {{ type = "mcp", server = "{server.name}" }}; or remove it'
            report.add(f"mcp_servers[{n}]", "no manifest of the fleet grants a tool of it", fix)
    return result


def _manifest_with(manifest: AgentManifest, servers: Sequence[McpServer], report: Report) -> AgentManifest:
    own = [server.name for server in manifest.mcp_servers]
    granted = {grant.server for grant in manifest.capabilities if isinstance(grant, McpCapability)}
    more = [each for each in servers if each.name not in own and ("*" in granted or each.name in granted)]
    if not more:
        return manifest
    try:
        return attrs.evolve(manifest, mcp_servers=(*manifest.mcp_servers, *more))
    except ValueError as error:  # a sovereign agent has no server of the web
        problem = f"cannot be had by the agent '{manifest.name}': {error}"
        report.add("mcp_servers", problem, "Take the capability 'mcp' from the agent, or name other servers")
        return manifest


def _checked(vars: Mapping[str, str] | None) -> Mapping[str, str]:
    if vars is None:
        return {}
    if not isinstance(vars, Mapping):
        raise TypeError(f"vars must be a mapping of names to strings, not {shown(vars)}")
    for name, value in vars.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"vars must be a mapping of names to strings; {shown(name)} is {shown(value)}")
    return vars
