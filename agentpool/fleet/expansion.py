"""From the entries of a fleet file to its agents, one by one."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from agentpool._core.capability import SpawnCapability
from agentpool._core.errors import Finding, ManifestError
from agentpool._core.manifest import AgentManifest, strings_in
from agentpool._core.rules import UNREADABLE, Report, Text, fix_for_name
from agentpool._core.templates import map_strings
from agentpool._loading import LoadProblem
from agentpool.fleet.agents import AnyFleetAgent, FleetAgent, FleetFunction
from agentpool.fleet.functions import check_call, load_function
from agentpool.fleet.patterns import Place
from agentpool.fleet.tables import AgentEntry, SupervisorSettings
from agentpool.fleet.variables import Variables

_A_NAME = Text(blank=False, one_line=True)
_A_QUERY = Text(blank=False)


@attrs.define(eq=False)
class Expansion:
    """Makes agents of the entries of a fleet file, whether or not all of it can be read.

    Attributes:
      place: where its paths begin.
      variables: those of the file.
      report: takes the problems of the fleet file.
      findings: the findings of its manifests.
      names: for each agent its entry; two agents may not have one name.
      groups: for each name in the file the agents that bear it or come from it.
      complete: whether the names of all agents could be told.
      served: whether somebody else says later what the agents are asked.
    """

    place: Place
    variables: Variables
    report: Report
    findings: list[Finding] = attrs.field(factory=list)
    manifests: dict[Path, Any] = attrs.field(factory=dict)
    names: dict[str, str] = attrs.field(factory=dict)
    groups: dict[str, list[str]] = attrs.field(factory=dict)
    complete: bool = True
    served: bool = False

    def expand(
        self, entries: Sequence[Any], supervisors: Sequence[Any]
    ) -> tuple[list[AnyFleetAgent], list[SupervisorSettings]]:
        """Return all agents, and the supervisors with the names of single agents as children."""
        self.complete = entries is not UNREADABLE
        agents = [agent for n, entry in enumerate(entries) for agent in self._agents(entry, f"agents[{n}]")]
        named = [self._named(supervisor, f"supervisors[{n}]") for n, supervisor in enumerate(supervisors)]
        for n, supervisor in enumerate(named):
            self._claim(supervisor.name, f"supervisors[{n}]")
        owners: dict[str, str] = {}
        singles = dict.fromkeys(agent for group in self.groups.values() for agent in group)
        made = [self._supervisor(item, f"supervisors[{n}]", singles, owners) for n, item in enumerate(named)]
        return agents, made

    # -- subagents

    def subagents(self, entries: Any, agents: Sequence[AnyFleetAgent]) -> tuple[AgentManifest, ...]:
        """Return the manifests of the agents that models may spawn, with the names that models use.

        Args:
          entries: what was read of `[[subagents]]`.
          agents: those of the fleet, which may name them.
        """
        if entries is UNREADABLE:
            return ()
        read = [
            (f"subagents[{n}]", self._subagent(entry, f"subagents[{n}]")) for n, entry in enumerate(entries)
        ]
        known: dict[str, str] = {}
        for key, manifest in read:
            if manifest is not None and known.setdefault(manifest.name, key) != key:
                problem = f"'{manifest.name}' is the name of {known[manifest.name]} already"
                self.report.add(f"{key}.name", problem, "Give each its own 'name'")
        if all(manifest is not None for _, manifest in read):
            users = {id(agent.manifest): agent.manifest for agent in agents if isinstance(agent, FleetAgent)}
            self._check_named([*users.values(), *(manifest for _, manifest in read)], known)
        return tuple(manifest for _, manifest in read if manifest is not None)

    def _subagent(self, entry: Any, key: str) -> AgentManifest | None:
        manifest = self._manifest(entry.manifest, f"{key}.manifest")
        name = None if entry.name is None else self._fill_name(entry.name, f"{key}.name")
        if not isinstance(manifest, AgentManifest) or name is UNREADABLE:
            return None
        description = manifest.description if entry.description is None else entry.description
        return attrs.evolve(manifest, name=name or manifest.name, description=description)

    def _check_named(self, manifests: Iterable[AgentManifest | None], known: Mapping[str, str]) -> None:
        """Report the names by which manifests mean subagents that are not there."""
        for manifest in filter(None, manifests):
            spawning = [grant for grant in manifest.capabilities if isinstance(grant, SpawnCapability)]
            wanted = [
                *manifest.handoffs,
                *(name for grant in spawning for name in grant.agents if name != "*"),
            ]
            for name in dict.fromkeys(wanted):
                if name not in known:
                    problem = f"the manifest '{manifest.name}' names the agent '{name}', which is not there"
                    fix = (
                        fix_for_name(name, known) if known else f"Add it: [[subagents]] with name = '{name}'"
                    )
                    self.report.add("subagents", problem, fix)

    # -- agents

    def _agents(self, entry: Any, key: str) -> Iterator[AnyFleetAgent]:
        kind = self._kind(entry, key)
        is_right = self._check_texts(entry, key) and isinstance(entry, AgentEntry)
        paths = self._paths(entry, f"{key}.for_each")
        name = self._name(entry, kind, key)
        if not isinstance(name, str) or not isinstance(entry.count, int) or not paths:
            self.complete = False
            return
        if isinstance(kind, AgentManifest) and entry.name == kind.name != name:
            kind = attrs.evolve(kind, name=name)  # it has its name from the entry, with a variable in it
        members = [path for path in paths for _ in range(entry.count)]
        alone = entry.for_each is None and entry.count == 1
        names = [name if alone else f"{name}-{number}" for number in range(1, len(members) + 1)]
        self.groups.setdefault(name, []).extend(names)
        for own_name, path in zip(names, members, strict=True):
            if self._claim(own_name, key) and is_right and kind is not UNREADABLE:
                values = {"name": own_name} if path is None else {"name": own_name, "path": path}
                yield self._agent(entry, kind, own_name, values)

    def _agent(self, entry: AgentEntry, kind: Any, name: str, values: Mapping[str, str]) -> AnyFleetAgent:
        query: Any = None if entry.query is None else self.variables.fill(entry.query, **values)
        is_placed = entry.placed is not False
        if isinstance(kind, AgentManifest):
            return FleetAgent(name, kind, query, entry.timeout, entry.restart, is_placed)
        args: Any = map_strings(entry.args, lambda text: self.variables.fill(text, **values))
        assert entry.function is not None  # it is either of the two
        return FleetFunction(name, kind, entry.function, query, args, entry.timeout, entry.restart, is_placed)

    def _kind(self, entry: Any, key: str) -> Any:
        """Return the manifest or the function of an entry."""
        if isinstance(entry.function, str):
            return self._function(entry.function, entry, f"{key}.function")
        return self._manifest(entry.manifest, f"{key}.manifest")

    def _function(self, reference: str, entry: Any, key: str) -> Any:
        try:
            function = load_function(reference, self.report.base)
            if isinstance(entry, AgentEntry):
                check_call(function, reference, entry.query, entry.args, whole=not self.served)
        except LoadProblem as problem:
            return self.report.add(key, problem.problem, problem.fix)
        return function

    def _check_texts(self, entry: Any, key: str) -> bool:
        """Report what is wrong with the placeholders of the query and the arguments."""
        more = ["name"] if entry.for_each is None else ["path", "name"]
        before = len(self.report.problems)
        for place, text in strings_in({"query": entry.query, "args": entry.args}, key):
            if self.variables.check(place, text, *more):
                filled = self.variables.fill(text, **dict.fromkeys(more, "x"))
                if filled is UNREADABLE:
                    return False  # the variable was reported
                if place == f"{key}.query":
                    _A_QUERY.read(filled, place, self.report)
        return len(self.report.problems) == before

    def _name(self, entry: Any, kind: Any, key: str) -> Any:
        if isinstance(entry.name, str):
            return self._fill_name(entry.name, f"{key}.name")
        if entry.name is None and isinstance(entry.function, str):
            return entry.function.partition(":")[2]
        return kind.name if entry.name is None and kind is not None else UNREADABLE

    def _fill_name(self, text: str, key: str) -> Any:
        if not self.variables.check(key, text):
            return UNREADABLE
        filled = self.variables.fill(text)
        return _A_NAME.read(filled, key, self.report) if isinstance(filled, str) else UNREADABLE

    def _claim(self, name: object, key: str) -> bool:
        if not isinstance(name, str):
            return False
        if name in self.names:
            problem = f"'{name}' is the name of {self.names[name]} already"
            self.report.add(f"{key}.name", problem, "Give each its own 'name'")
            return False
        self.names[name] = key
        return True

    def _manifest(self, value: Any, key: str) -> Any:
        if not isinstance(value, str):
            return value
        path = self.place.path(key, value)
        if path is None:
            return UNREADABLE
        if path not in self.manifests:
            self.manifests[path] = self._load(path)
        loaded = self.manifests[path]
        if isinstance(loaded, OSError | ValueError):
            reason = _REASONS.get(getattr(loaded, "errno", 0), f"cannot be read: {loaded}")
            fix = "Check the path; it is relative to the fleet file"
            return self.report.add(key, f"{str(path)!r} {reason}", fix)
        return loaded

    def _load(self, path: Path) -> Any:
        """Return the manifest, or why its file cannot be read; note what is wrong inside."""
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            return error
        try:
            return AgentManifest.load(path, read=lambda _: data)
        except ManifestError as error:
            self.findings.extend(error.findings)
            return UNREADABLE

    def _paths(self, entry: Any, key: str) -> Sequence[str | None]:
        """Return the files of `for_each`, or one None if there is no such key."""
        if entry.for_each is None:
            return [None]
        if not isinstance(entry.for_each, str):
            return []
        return self.place.files(key, entry.for_each, [name for name in entry.exclude if name])

    # -- supervisors

    def _named(self, settings: Any, key: str) -> Any:
        """Return a supervisor with the variables of its names filled."""
        if not isinstance(settings, SupervisorSettings):
            return settings
        name = self._fill_name(settings.name, f"{key}.name")
        children = [
            self._fill_name(child, f"{key}.children[{n}]") for n, child in enumerate(settings.children)
        ]
        if not isinstance(name, str) or UNREADABLE in children:
            return UNREADABLE
        return attrs.evolve(settings, name=name, children=children)

    def _supervisor(
        self, settings: Any, key: str, singles: Mapping[str, object], owners: dict[str, str]
    ) -> Any:
        children = [
            agent
            for n, child in enumerate(settings.children)
            if isinstance(child, str)
            for agent in self._children(child, f"{key}.children[{n}]", key, singles, owners)
        ]
        whole = isinstance(settings, SupervisorSettings) and children
        return attrs.evolve(settings, children=children) if whole else settings

    def _children(
        self, name: str, key: str, owner: str, singles: Mapping[str, object], owners: dict[str, str]
    ) -> Iterator[str]:
        agents = self.groups.get(name) or ([name] if name in singles else [])
        if not agents and self.complete:
            self.report.add(key, f"there is no agent '{name}'", fix_for_name(name, [*self.groups, *singles]))
        for agent in agents:
            if agent in owners:
                self.report.add(key, f"'{agent}' is a child of {owners[agent]} already", "Name it once")
            else:
                owners[agent] = owner
                yield agent


_REASONS: dict[object, str] = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.EISDIR: "is a directory, not a manifest file",
    errno.EACCES: "may not be read by this user",
}
