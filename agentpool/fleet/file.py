"""Fleet files: which agents run in a pool, on which questions. Reading them blocks on the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import attrs

from agentpool._core.errors import Finding, ManifestError
from agentpool._core.manifest import AgentManifest, parse_toml, placeholder_problems, read_text
from agentpool._core.rules import (
    UNREADABLE,
    Choice,
    ListOf,
    Number,
    Problem,
    Report,
    Rule,
    Schema,
    Table,
    TableOf,
    Text,
    Whole,
    as_texts,
    as_tuple,
    choice,
    fix_for_name,
    read_table,
    table_schema,
)
from agentpool._core.templates import render_template

RestartMode: TypeAlias = Literal["on_failure", "always", "never"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]

# -- the tables of a fleet file ---------------------------------------------------


@attrs.frozen(kw_only=True)
class BudgetSettings(Table):
    """What all agents of a pool may use together."""

    tokens: int | None = attrs.field(
        default=None, validator=Whole("How many tokens, in and out together", optional=True)
    )
    cost_usd: float | None = attrs.field(
        default=None, validator=Number("How many US dollars; 0 is nothing", optional=True)
    )
    calls: int | None = attrs.field(default=None, validator=Whole("How many model calls", optional=True))


@attrs.frozen(kw_only=True)
class PoolSettings(Table):
    """The pool that a fleet runs in."""

    max_concurrent: int = attrs.field(default=8, validator=Whole("How many agents run at once"))
    driver: str | None = attrs.field(
        default=None,
        validator=Text("The driver of agents whose manifest names none", blank=False, optional=True),
    )
    inbox_capacity: int = attrs.field(
        default=32, validator=Whole("How many messages wait in an agent's inbox at the most")
    )
    budget: BudgetSettings | None = attrs.field(
        default=None,
        validator=TableOf("What all agents may use together", cls=BudgetSettings, optional=True),
    )


# Erlang/OTP's names are known too.
_OTP_MODES = {"transient": "on_failure", "permanent": "always", "temporary": "never"}
_MODES = {**choice("on_failure", "always", "never"), **_OTP_MODES}


def _as_mode(value: str) -> RestartMode:
    mode: Any = _MODES.get(value, value) if isinstance(value, str) else value
    return cast(RestartMode, mode)


@attrs.frozen(kw_only=True)
class RestartSettings(Table):
    """When an agent that ended is started again."""

    mode: RestartMode = attrs.field(
        default="on_failure",
        converter=_as_mode,
        validator=Choice("After which ends", values=_MODES),
    )
    max_restarts: int = attrs.field(
        default=1, validator=Whole("How many restarts there may be `within` the period", at_least=0)
    )
    within: float = attrs.field(default=5.0, validator=Number("The period, in seconds", above=0))
    backoff: float = attrs.field(default=0.0, validator=Number("Seconds to wait before a restart"))


@attrs.frozen
class SupervisorSettings(Table):
    """Agents that are started, restarted and stopped together.

    An agent of the file that `count` or `for_each` makes several of may be named as one child: all
    of them are meant. In a loaded fleet `children` are the names of single agents.
    """

    name: str = attrs.field(validator=Text("The supervisor's name", blank=False, one_line=True))
    children: tuple[str, ...] = attrs.field(
        converter=as_texts,
        validator=ListOf("The names of its agents, in the order of their start", item=Text(), at_least=1),
    )
    strategy: Strategy = attrs.field(
        default="one_for_one",
        validator=Choice(
            "Which children are restarted when one fails",
            values=choice("one_for_one", "one_for_all", "rest_for_one"),
        ),
        kw_only=True,
    )
    max_restarts: int = attrs.field(
        default=1,
        validator=Whole("How many restarts there may be `within` the period", at_least=0),
        kw_only=True,
    )
    within: float = attrs.field(
        default=5.0, validator=Number("The period, in seconds", above=0), kw_only=True
    )


class _ManifestRule(Rule):
    """The path of a manifest file, or a manifest as a table."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        if isinstance(value, AgentManifest):
            return value
        if isinstance(value, str):
            return value or report.add(key, "is empty", "Give the path of a manifest file")
        if not isinstance(value, Mapping):
            return report.add_type(key, value, "a path or a table")
        return read_table(AgentManifest, value, key, report)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        # Its name may be that of the entry: a schema cannot say that it is either here or there.
        table = {key: value for key, value in table_schema(AgentManifest, defs).items() if key != "required"}
        return {"oneOf": [{"type": "string", "minLength": 1}, table]}


@attrs.frozen(kw_only=True)
class AgentEntry(Table):
    """An entry of `[[agents]]`: one agent, or several of the same kind."""

    manifest: str | AgentManifest = attrs.field(
        validator=_ManifestRule("The path of its manifest, relative to this file; or the manifest as a table")
    )
    query: str = attrs.field(
        validator=Text(
            "What it is asked; may hold `{name}`, its name, and with `for_each` `{path}`, its file",
            blank=False,
        )
    )
    name: str | None = attrs.field(
        default=None,
        validator=Text(
            "Its name, if not that of the manifest; several agents are called name-1, name-2, ...",
            blank=False,
            one_line=True,
            optional=True,
        ),
    )
    count: int = attrs.field(default=1, validator=Whole("How many such agents there are", at_most=1_000_000))
    timeout: float | None = attrs.field(
        default=None, validator=Number("Seconds that it may take", above=0, optional=True)
    )
    for_each: str | None = attrs.field(
        default=None,
        validator=Text(
            "A pattern such as `docs/**/*.md`: an agent for each such file, relative to this file",
            blank=False,
            optional=True,
        ),
    )
    restart: RestartSettings | None = attrs.field(
        default=None,
        validator=TableOf("When it is started again", cls=RestartSettings, optional=True),
    )

    @classmethod
    def prepare(cls, table: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Let a manifest that stands in the entry have the entry's name."""
        manifest = table.get("manifest")
        if not isinstance(manifest, Mapping) or "name" not in table or "name" in manifest:
            return table, {}
        # A wrong name is told of once: where it stands.
        name = table["name"] if isinstance(table["name"], str) and table["name"].strip() else "agent"
        return {**table, "manifest": {"name": name, **manifest}}, {}

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield a problem for each brace of the query that has no meaning."""
        if isinstance(values.query, str):
            names = ["name"] if values.for_each is None else ["path", "name"]
            yield from placeholder_problems("query", values.query, names)


@attrs.frozen
class FleetTable(Table):
    """A fleet: the agents that run in one pool."""

    agents: tuple[AgentEntry, ...] = attrs.field(
        converter=as_tuple,
        validator=ListOf(
            "The agents, each as an `[[agents]]` entry", item=TableOf(cls=AgentEntry), at_least=1
        ),
    )
    pool: PoolSettings = attrs.field(
        default=PoolSettings(), validator=TableOf("The pool that they run in", cls=PoolSettings)
    )
    supervisors: tuple[SupervisorSettings, ...] = attrs.field(
        default=(),
        converter=as_tuple,
        validator=ListOf("Agents that are restarted together", item=TableOf(cls=SupervisorSettings)),
    )


# -- the fleet ----------------------------------------------------------------------


@attrs.frozen
class FleetAgent:
    """One agent of a fleet: `SpawnConfig(manifest, query)`, with its name and its limits.

    Attributes:
      name: unique within the fleet.
      timeout: seconds, or None.
    """

    name: str
    manifest: AgentManifest
    query: str
    timeout: float | None = None
    restart: RestartSettings | None = None


@attrs.frozen(kw_only=True)
class FleetFile:
    """A fleet file that was read and found right, with the manifests that it names.

    Attributes:
      agents: every agent, in the order of the file; `count` and `for_each` are expanded.
      pool: the settings of the pool.
      supervisors: which agents are restarted together; their children are names of `agents`.
      base: the directory of the file, None if it came from no file.
    """

    agents: tuple[FleetAgent, ...] = attrs.field(converter=as_tuple)
    pool: PoolSettings = PoolSettings()
    supervisors: tuple[SupervisorSettings, ...] = attrs.field(default=(), converter=as_tuple)
    base: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FleetFile:
        """Read the fleet file at `path`, and the manifests that it names. Blocks on the disk.

        Raises:
          ManifestError: with every finding of the file and of all its manifests.
        """
        text = read_text(path, Path.read_bytes)
        return cls.from_toml(text, source=os.fspath(path), base=Path(path).parent)

    @classmethod
    def from_toml(
        cls, text: str, *, source: str = "<string>", base: str | os.PathLike[str] | None = None
    ) -> FleetFile:
        """Read a fleet from TOML text, and the manifests that it names. Blocks on the disk.

        Args:
          text: the TOML text.
          source: what to call it in findings.
          base: the directory that paths in it are relative to; without it the current one.

        Raises:
          ManifestError: with every finding of the text and of all its manifests.
        """
        directory = Path() if base is None else Path(base)
        report = Report(base=None if base is None else Path(os.path.abspath(directory)))
        table = read_table(FleetTable, parse_toml(text, source), "", report)
        expansion = _Expansion(directory, report)
        agents, supervisors = expansion.expand(table.agents, table.supervisors)
        findings = report.findings(source) + expansion.findings
        if findings:
            raise ManifestError(findings)
        return cls(agents=agents, pool=table.pool, supervisors=supervisors, base=report.base)


@attrs.define(eq=False)
class _Expansion:
    """Makes agents of the entries of a fleet file, whether or not all of it can be read.

    Attributes:
      directory: that of the fleet file, as its reader named it.
      report: takes the problems of the fleet file.
      findings: the findings of its manifests.
      names: for each agent its entry; two agents may not have one name.
      groups: for each name in the file the agents that bear it or come from it.
      complete: whether the names of all agents could be told.
    """

    directory: Path
    report: Report
    findings: list[Finding] = attrs.field(factory=list)
    manifests: dict[Path, Any] = attrs.field(factory=dict)
    names: dict[str, str] = attrs.field(factory=dict)
    groups: dict[str, list[str]] = attrs.field(factory=dict)
    complete: bool = True

    def expand(
        self, entries: Sequence[Any], supervisors: Sequence[Any]
    ) -> tuple[list[FleetAgent], list[SupervisorSettings]]:
        """Return all agents, and the supervisors with the names of single agents as children."""
        self.complete = entries is not UNREADABLE
        agents = [agent for n, entry in enumerate(entries) for agent in self._agents(entry, f"agents[{n}]")]
        for n, supervisor in enumerate(supervisors):
            self._claim(supervisor.name, f"supervisors[{n}]")
        owners: dict[str, str] = {}
        return agents, [
            self._supervisor(item, f"supervisors[{n}]", owners) for n, item in enumerate(supervisors)
        ]

    # -- agents

    def _agents(self, entry: Any, key: str) -> Iterator[FleetAgent]:
        manifest = self._manifest(entry.manifest, key)
        paths = self._paths(entry.for_each, f"{key}.for_each")
        name = manifest.name if entry.name is None else entry.name
        if not isinstance(name, str) or not isinstance(entry.count, int) or not paths:
            self.complete = False
            return
        members = [path for path in paths for _ in range(entry.count)]
        alone = entry.for_each is None and entry.count == 1
        names = [name if alone else f"{name}-{number}" for number in range(1, len(members) + 1)]
        self.groups.setdefault(name, []).extend(names)
        for own_name, path in zip(names, members, strict=True):
            if self._claim(own_name, key) and isinstance(entry, AgentEntry):
                values = {"name": own_name} if path is None else {"name": own_name, "path": path}
                query = render_template(entry.query, values)
                yield FleetAgent(own_name, manifest, query, entry.timeout, entry.restart)

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
        path = self.directory / value
        if path not in self.manifests:
            self.manifests[path] = self._load(path)
        loaded = self.manifests[path]
        if isinstance(loaded, OSError | ValueError):
            reason = _REASONS.get(getattr(loaded, "errno", 0), f"cannot be read: {loaded}")
            fix = "Check the path; it is relative to the fleet file"
            return self.report.add(f"{key}.manifest", f"{str(path)!r} {reason}", fix)
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

    def _paths(self, pattern: Any, key: str) -> Sequence[str | None]:
        """Return the files of `for_each`, or one None if there is no such key."""
        if pattern is None:
            return [None]
        if not isinstance(pattern, str):
            return []
        try:
            found = sorted({path for path in self.directory.glob(pattern) if path.is_file()})
        except (ValueError, IndexError, NotImplementedError):  # pathlib raises them all
            fix = "Write it relative to the fleet file, such as docs/**/*.md, ** as a whole directory only"
            self.report.add(key, f"{pattern!r} is no pattern of files", fix)
            return []
        if not found:
            fix = "Check the pattern; it is relative to the fleet file"
            self.report.add(key, f"{pattern!r} matches no file", fix)
        return [path.relative_to(self.directory).as_posix() for path in found]

    # -- supervisors

    def _supervisor(self, settings: Any, key: str, owners: dict[str, str]) -> Any:
        children = [
            agent
            for n, child in enumerate(settings.children)
            if isinstance(child, str)
            for agent in self._children(child, f"{key}.children[{n}]", key, owners)
        ]
        whole = isinstance(settings, SupervisorSettings) and children
        return attrs.evolve(settings, children=children) if whole else settings

    def _children(self, name: str, key: str, owner: str, owners: dict[str, str]) -> Iterator[str]:
        singles = list(dict.fromkeys(agent for agents in self.groups.values() for agent in agents))
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
