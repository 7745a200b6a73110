"""The tables of a fleet file, each with the rules of its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeAlias, cast

import attrs

from agentpool._core.manifest import AgentManifest
from agentpool._core.mcp_servers import McpServer, problems_of_names
from agentpool._core.rules import (
    Choice,
    FilePath,
    Json,
    ListOf,
    Number,
    Problem,
    Reference,
    Report,
    Rule,
    Schema,
    Switch,
    Table,
    TableOf,
    Text,
    Whole,
    as_texts,
    as_tuple,
    choice,
    fields_with_rules,
    read_table,
    table_schema,
)
from agentpool.fleet.placing import PlacementKind, PlacementSettings
from agentpool.fleet.variables import VariableSettings, VariablesRule

RestartMode: TypeAlias = Literal["on_failure", "always", "never"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]


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
    placement: PlacementKind | None = attrs.field(
        default=None,
        validator=Choice(
            "Where the agents run: `ray` for worker processes on a Ray cluster, of which `[placement]` tells"
            " more; left out, in this process",
            values=choice("ray"),
            optional=True,
        ),
    )
    inbox_capacity: int = attrs.field(
        default=32, validator=Whole("How many messages wait in an agent's inbox at the most")
    )
    memory: str | None = attrs.field(
        default=None,
        validator=FilePath(
            "A file that `agentpool run` keeps the agents' memory in, from run to run; relative to this file",
            optional=True,
            home=True,
        ),
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

    exactly_one: ClassVar[tuple[str, ...]] = ("manifest", "function")
    goes_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"manifest": ("query",)}

    manifest: str | AgentManifest | None = attrs.field(
        default=None,
        validator=_ManifestRule(
            "The path of its manifest, relative to this file; or the manifest as a table", optional=True
        ),
    )
    function: str | None = attrs.field(
        default=None,
        validator=Reference(
            "An async function of a module beside this file, `module:function`, that needs no model",
            optional=True,
        ),
    )
    query: str | None = attrs.field(
        default=None,
        validator=Text(
            "What it is asked; a function gets it after its context. May hold `{name}`, its name, with"
            " `for_each` `{path}`, its file, and the variables of `[vars]`",
            blank=False,
            optional=True,
        ),
    )
    args: Mapping[str, Any] = attrs.field(
        factory=dict,
        hash=False,
        validator=Json("What a function gets by name; strings in it may hold what a query may"),
    )
    name: str | None = attrs.field(
        default=None,
        validator=Text(
            "Its name, if not that of the manifest or function; several are called name-1, name-2, ...",
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
    exclude: tuple[str, ...] = attrs.field(
        default=(),
        converter=as_texts,
        validator=ListOf(
            "Files and directories that `for_each` passes over, by patterns of their names such as `.*`",
            item=Text(blank=False),
        ),
    )
    restart: RestartSettings | None = attrs.field(
        default=None,
        validator=TableOf("When it is started again", cls=RestartSettings, optional=True),
    )
    placed: bool | None = attrs.field(
        default=None,
        validator=Switch(
            "Whether it runs where the pool's `placement` says, as it does if this is left out; false keeps"
            " it in the process that runs the fleet",
            optional=True,
        ),
    )

    @classmethod
    def prepare(cls, table: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Let a manifest that stands in the entry have the entry's name."""
        return _named(table), {}

    @classmethod
    def unknown(cls, name: str, table: Mapping[str, Any]) -> tuple[str, str]:
        """Say where the keys of a manifest belong."""
        if name not in fields_with_rules(AgentManifest):
            return super().unknown(name, table)
        if "function" in table:
            fix = "Remove it: the function does in Python what it needs; the driver is its ctx.driver"
            return "is a key of manifests, and a function has none", fix
        return "is a key of manifests, not of a fleet's agents", "Write it in the manifest"

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield a problem for each key that has no meaning beside the others."""
        if values.args and values.function is None:
            fix = "Write what the model is to know into the 'query'"
            yield Problem("args", "are for a function, and there is none", fix)
        if values.exclude and values.for_each is None:
            yield Problem("exclude", "is for 'for_each', and there is none", "Remove it")


def _named(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the table of an agent, whose name is that of a manifest without one that stands in it."""
    manifest = table.get("manifest")
    if not isinstance(manifest, Mapping) or "name" not in table or "name" in manifest:
        return table
    # A wrong name is told of once: where it stands.
    name = table["name"] if isinstance(table["name"], str) and table["name"].strip() else "agent"
    return {**table, "manifest": {"name": name, **manifest}}


@attrs.frozen(kw_only=True)
class SubagentEntry(Table):
    """An entry of `[[subagents]]`: an agent that others may spawn, or hand over to."""

    manifest: str | AgentManifest = attrs.field(
        validator=_ManifestRule(
            "The path of its manifest, relative to this file; or the manifest as a table",
        ),
    )
    name: str | None = attrs.field(
        default=None,
        validator=Text(
            "What models call it, if not by the name of its manifest",
            blank=False,
            one_line=True,
            optional=True,
        ),
    )
    description: str | None = attrs.field(
        default=None,
        validator=Text("What models are told of it, if not the description of its manifest", optional=True),
    )

    @classmethod
    def prepare(cls, table: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Let a manifest that stands in the entry have the entry's name."""
        return _named(table), {}


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
    placement: PlacementSettings | None = attrs.field(
        default=None,
        validator=TableOf(
            "The worker processes in which the agents run, with a `placement` in `[pool]`",
            cls=PlacementSettings,
            optional=True,
        ),
    )
    vars: Mapping[str, VariableSettings] = attrs.field(
        factory=dict,
        hash=False,
        validator=VariablesRule(
            "Variables: `{name}` in a query, name, pattern or path of this file is what `--var name=VALUE`"
            " gives, or the default"
        ),
    )
    supervisors: tuple[SupervisorSettings, ...] = attrs.field(
        default=(),
        converter=as_tuple,
        validator=ListOf("Agents that are restarted together", item=TableOf(cls=SupervisorSettings)),
    )
    subagents: tuple[SubagentEntry, ...] = attrs.field(
        default=(),
        converter=as_tuple,
        validator=ListOf(
            "Agents that are not started with the fleet: models spawn them, and hand over to them",
            item=TableOf(cls=SubagentEntry),
        ),
    )
    mcp_servers: tuple[McpServer, ...] = attrs.field(
        default=(),
        converter=as_tuple,
        validator=ListOf(
            "The MCP servers of all agents whose manifests grant them", item=TableOf(cls=McpServer)
        ),
    )

    @classmethod
    def unknown(cls, name: str, table: Mapping[str, Any]) -> tuple[str, str]:
        """Say where the keys of a manifest belong."""
        if name not in fields_with_rules(AgentManifest):
            return super().unknown(name, table)
        if "agents" in table:
            return "is a key of manifests, not of fleets", "Write it in the manifest"
        fix = "Name the manifest in the fleet file: manifest = 'FILE' below [[agents]]"
        return "is a key of manifests, and this is to be a fleet", fix

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield what needs a placement that there is not, and the MCP servers that have another's name."""
        if isinstance(values.pool, PoolSettings) and values.pool.placement is None:
            yield from _without_placement(values)
        yield from problems_of_names(values.mcp_servers)


def _without_placement(values: Any) -> Iterator[Problem]:
    """Yield what would have agents run elsewhere, in a fleet that runs here."""
    fix = 'Write placement = "ray" below [pool], or remove '
    if values.placement is not None:
        yield Problem("placement", "is for a pool with a 'placement', and this has none", f"{fix}the table")
    for n, entry in enumerate(values.agents if isinstance(values.agents, tuple) else ()):
        if getattr(entry, "placed", None) is True:
            yield Problem(f"agents[{n}].placed", "is true, and the pool has no 'placement'", f"{fix}the key")


@attrs.frozen(kw_only=True)
class ServedAgentEntry(AgentEntry):
    """An entry of `[[agents]]` of a fleet that is served: whoever calls the agent says what it is asked."""

    goes_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}


@attrs.frozen
class ServedFleetTable(FleetTable):
    """A fleet whose agents are served."""

    agents: tuple[AgentEntry, ...] = attrs.field(
        converter=as_tuple,
        validator=ListOf(
            "The agents, each as an `[[agents]]` entry", item=TableOf(cls=ServedAgentEntry), at_least=1
        ),
        kw_only=True,
    )
