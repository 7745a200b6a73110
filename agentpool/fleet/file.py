"""Fleet files: which agents run in a pool, on which questions. Reading them blocks on the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from agentpool._core.errors import ManifestError
from agentpool._core.manifest import AgentManifest, parse_toml, read_text
from agentpool._core.rules import Report, as_tuple, read_table
from agentpool._core.text import shown
from agentpool.fleet.agents import AnyFleetAgent as AnyFleetAgent
from agentpool.fleet.agents import FleetAgent as FleetAgent
from agentpool.fleet.agents import FleetFunction as FleetFunction
from agentpool.fleet.expansion import Expansion
from agentpool.fleet.patterns import Place
from agentpool.fleet.tables import BudgetSettings as BudgetSettings
from agentpool.fleet.tables import FleetTable, ServedFleetTable
from agentpool.fleet.tables import PoolSettings as PoolSettings
from agentpool.fleet.tables import RestartSettings as RestartSettings
from agentpool.fleet.tables import SubagentEntry as SubagentEntry
from agentpool.fleet.tables import SupervisorSettings as SupervisorSettings
from agentpool.fleet.variables import Variables


@attrs.frozen(kw_only=True)
class FleetFile:
    """A fleet file that was read and found right, with the manifests that it names.

    Attributes:
      agents: every agent, in the order of the file; `count` and `for_each` are expanded.
      pool: the settings of the pool.
      supervisors: which agents are restarted together; their children are names of `agents`.
      base: the directory of the file, None if it came from no file.
      subagents: the manifests of the agents that models may spawn, and hand over to.
    """

    agents: tuple[AnyFleetAgent, ...] = attrs.field(converter=as_tuple)
    pool: PoolSettings = attrs.field(factory=PoolSettings)
    supervisors: tuple[SupervisorSettings, ...] = attrs.field(default=(), converter=as_tuple)
    base: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    subagents: tuple[AgentManifest, ...] = attrs.field(default=(), converter=as_tuple)

    @property
    def manifests(self) -> tuple[AgentManifest, ...]:
        """The manifests of its agents, and of those that they may spawn, each once."""
        found = [agent.manifest for agent in self.agents if isinstance(agent, FleetAgent)]
        return tuple({id(manifest): manifest for manifest in (*found, *self.subagents)}.values())

    @property
    def functions(self) -> tuple[FleetFunction, ...]:
        """Its agents that are Python functions."""
        return tuple(agent for agent in self.agents if isinstance(agent, FleetFunction))

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
        findings = report.findings(source) + expansion.findings
        if findings:
            raise ManifestError(findings)
        return cls(
            agents=agents, pool=table.pool, supervisors=supervisors, base=report.base, subagents=subagents
        )


def _checked(vars: Mapping[str, str] | None) -> Mapping[str, str]:
    if vars is None:
        return {}
    if not isinstance(vars, Mapping):
        raise TypeError(f"vars must be a mapping of names to strings, not {shown(vars)}")
    for name, value in vars.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"vars must be a mapping of names to strings; {shown(name)} is {shown(value)}")
    return vars
