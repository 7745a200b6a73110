"""What an agent is: its model, its quota, what it may do, its tools and its script.

A manifest is written in TOML, or made from keyword arguments. The rules of its keys are stated once,
as the validators of the fields below.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs

from agentpool._core.approval import ApprovalRules
from agentpool._core.capability import (
    CAPABILITY_TYPES,
    Capability,
    McpCapability,
    PrivacyTier,
)
from agentpool._core.errors import Finding, ManifestError
from agentpool._core.grants import Grants
from agentpool._core.mcp import is_loopback_url
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
    TextOrWhole,
    Whole,
    as_texts,
    as_tuple,
    choice,
    fix_for_name,
    fold_name,
    join_key,
    names_schema,
    read_table,
    table_schema,
)
from agentpool._core.sandboxing import CommandLimits, SandboxKind
from agentpool._core.schemas import schema_problems
from agentpool._core.templates import Placeholder, TemplateError, parse_template

# -- schemas --------------------------------------------------------------------


class JsonSchema(Json):
    """A JSON schema, with no keyword that would be ignored."""

    takes_null = True  # not in a file: TOML has none

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the schema as it is."""
        before = len(report.problems)
        schema = super().read(value, key, report)
        if len(report.problems) == before:
            for path, text in schema_problems(schema):
                fix = "Write it with the keywords that agentpool checks; docs/guide/loop.md lists them"
                report.add(functools.reduce(join_key, path, key), text, fix)
        return schema


# -- model and quota ------------------------------------------------------------


_PLACES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (
            "seed",
            "top_p",
            "top_k",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repeat_penalty",
            "logit_bias",
            "logprobs",
            "num_ctx",
            "keep_alive",
            "service_tier",
            "user",
            "metadata",
        ),
        "Write it into the options, by the provider's own name for it: options = { seed = 7 }",
    ),
    (
        ("model", "name", "model_name", "provider"),
        "Write both into the driver's name: driver = 'openai:MODEL'",
    ),
    (
        ("base_url", "api_base", "url", "endpoint", "host"),
        "Write it into the driver's name: driver = 'openai+http://HOST:PORT/v1:MODEL'",
    ),
    (
        ("api_key", "key", "token"),
        "Leave it out of files. Set OPENAI_API_KEY or the like; for an address of your own AGENTPOOL_API_KEY",
    ),
    (("timeout",), "Write it into the agent's entry in the fleet file, under [[agents]]"),
    (
        ("headers", "query", "client", "proxy", "cache"),
        "A file cannot say it. Make the driver in Python, as docs/guide/models.md shows",
    ),
)
"""Where settings stand that other libraries have in the table of a model."""


@attrs.frozen(kw_only=True)
class ModelSettings(Table):
    """Which model an agent asks, and how."""

    driver: str | None = attrs.field(
        default=None,
        validator=Text(
            "The driver that `agentpool run` opens, and its model, such as `openai:gpt-5`;"
            " without it the pool's driver is asked",
            blank=False,
            optional=True,
        ),
    )
    model_path: str | None = attrs.field(
        default=None,
        validator=FilePath(
            "The GGUF file of a model that runs in the process and is asked where no `driver` is named",
            optional=True,
            home=True,
        ),
    )
    remote_model: str | None = attrs.field(
        default=None,
        validator=Text("The model's name at a remote provider; never for a sovereign agent", optional=True),
    )
    model_repo: str | None = attrs.field(
        default=None,
        validator=Text("Where a local model can be had; never beside `model_path`", optional=True),
    )
    model_quantization: str | None = attrs.field(
        default=None, validator=Text("Which quantization of `model_repo` is meant", optional=True)
    )
    max_tokens: int = attrs.field(
        default=4096, validator=Whole("How many tokens an answer may have at the most")
    )
    temperature: float | None = attrs.field(
        default=None,
        validator=Number(
            "How freely the model chooses its words, 0 to 2; without it the provider decides",
            at_most=2,
            optional=True,
        ),
    )
    system_prompt: str = attrs.field(
        default="", validator=Text("What the model is told before the conversation")
    )
    context_window: int | None = attrs.field(
        default=None,
        validator=Whole("How many tokens a request and its answer may have together", optional=True),
    )
    compaction: Literal["drop", "summary"] = attrs.field(
        default="drop",
        validator=Choice(
            "What happens when the context window is full: the oldest turns are dropped, or the model sums"
            " them up",
            values=choice("drop", "summary"),
        ),
    )
    stop: tuple[str, ...] = attrs.field(
        default=(),
        converter=as_texts,
        validator=ListOf("Strings that end an answer", item=Text(blank=True)),
    )
    tool_choice: str | None = attrs.field(
        default=None,
        validator=Text(
            "`auto`, `required` (until a tool was called), `none`, or the name of the tool to call first",
            blank=False,
            optional=True,
        ),
    )
    parallel_tool_calls: bool = attrs.field(
        default=True, validator=Switch("Whether an answer may hold several tool calls")
    )
    output_schema: Mapping[str, Any] | None = attrs.field(
        default=None,
        hash=False,
        validator=JsonSchema("The JSON schema that the final answer has to fit", optional=True),
    )
    reasoning: str | int | None = attrs.field(
        default=None,
        validator=TextOrWhole(
            "How much the model thinks: an effort such as `low` or `high`, or a budget in tokens, 0 for none",
            optional=True,
        ),
    )
    options: Mapping[str, Any] = attrs.field(
        factory=dict,
        hash=False,
        validator=Json("What else is sent to the model, by the provider's own names, such as `seed`"),
    )

    @classmethod
    def unknown(cls, name: str, table: Mapping[str, Any]) -> tuple[str, str]:
        """Say where a setting has its place that other libraries have here."""
        problem, fix = super().unknown(name, table)
        return problem, next((place for names, place in _PLACES if name in names), fix)

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield a problem if it is not clear which local model is meant."""
        if values.model_path is not None and values.model_repo is not None:
            yield Problem("model_repo", "stands beside 'model_path'", "Give only one of them")


@attrs.frozen(kw_only=True)
class ResourceQuota(Table):
    """How much one run of an agent may use."""

    max_iterations: int = attrs.field(
        default=20, validator=Whole("How many turns of the loop it may take, each one model call")
    )
    max_tool_calls: int = attrs.field(default=50, validator=Whole("How many tool calls it may make"))
    max_cost_usd: float | None = attrs.field(
        default=None,
        validator=Number(
            "How many US dollars its model calls may cost; 0 is nothing, so that only free models are asked",
            optional=True,
        ),
    )
    max_tokens_budget: int | None = attrs.field(
        default=None,
        validator=Whole("How many tokens its model calls may use, in and out together", optional=True),
    )
    idle: float | None = attrs.field(
        default=None,
        validator=Number(
            "How many seconds it may go without any event: a piece of an answer, a tool call that begins"
            " or ends, a message",
            above=0,
            optional=True,
        ),
    )
    on_limit: Literal["fail", "answer"] = attrs.field(
        default="fail",
        validator=Choice(
            "What happens at one of these limits: it fails, or it gives its answer in one last turn"
            " without tools",
            values=choice("fail", "answer"),
        ),
    )


# -- script -----------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = ("query", "messages", "results")


@attrs.frozen
class ScriptCall(Table):
    """One tool call of a script."""

    tool: str = attrs.field(validator=Text("The name of the tool", blank=False))
    input: Mapping[str, Any] = attrs.field(
        factory=dict,
        hash=False,
        validator=Json("The tool's arguments; strings in it, at any depth, may hold placeholders"),
    )
    save_as: str | None = attrs.field(
        default=None,
        validator=Text("A name for the result, for the placeholders of later steps", optional=True),
    )

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield a problem if the result's name cannot stand in a placeholder."""
        name = values.save_as
        if not isinstance(name, str):
            return
        if not _NAME.fullmatch(name):
            fix = "Use letters, digits and '_', not beginning with a digit"
            yield Problem("save_as", f"{name!r} cannot be the name of a placeholder", fix)
        elif name in _RESERVED:
            yield Problem("save_as", f"'{name}' has a meaning of its own in placeholders", "Use another name")


@attrs.frozen
class ScriptStep(Table):
    """One answer of a script: either a `text`, or tool `calls` that are made side by side."""

    exactly_one: ClassVar[tuple[str, ...]] = ("text", "calls")

    text: str | None = attrs.field(
        default=None, validator=Text("What the model is to have said; may hold placeholders", optional=True)
    )
    calls: tuple[ScriptCall, ...] = attrs.field(
        default=(),
        converter=as_tuple,
        validator=ListOf("The tool calls that the model is to have wished for", item=TableOf(cls=ScriptCall)),
    )


@attrs.frozen
class ScriptSettings(Table):
    """What an agent does that has no model: either `steps`, or a Python `function`.

    Each request to the driver takes the next step, from the first one; a step is the answer to that
    request. A request after the last step is an error. There are no loops and no conditions.

    A step's `text`, and every string in the `input` of its calls at any depth (values, not keys), may
    hold placeholders:

    * `{query}`: what the agent was asked.
    * `{messages}`: the contents of the messages from other agents that it has received so far, oldest
      first, joined by line breaks.
    * `{results[0]}`: the content of the first tool result of the script, `{results[1]}` of the second,
      in the order of the calls. Only results of earlier steps exist.
    * `{name}`: the content of the result of an earlier step's call with `save_as = "name"`.
    * `{{` and `}}`: a brace.

    What is filled in is not looked at again. `function = "module:name"` instead names a Python
    function, sync or async, from `CompletionRequest` to `Completion` (or its text), in a module beside
    the manifest or an importable one.
    """

    exactly_one: ClassVar[tuple[str, ...]] = ("steps", "function")

    steps: tuple[ScriptStep, ...] = attrs.field(
        default=(),
        converter=as_tuple,
        validator=ListOf("The answers, one for each request, in order", item=TableOf(cls=ScriptStep)),
    )
    function: str | None = attrs.field(
        default=None,
        validator=Reference("A Python function from request to completion, `module:function`", optional=True),
    )

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield a problem for each placeholder that has no value when its step comes."""
        named: dict[str, str] = {}
        count = 0
        for number, step in enumerate(values.steps):
            place = f"steps[{number}]"
            for key, text in _strings_of_step(step, place):
                yield from placeholder_problems(key, text, ["query", "messages", *named], results=count)
            for n, call in enumerate(step.calls):
                count += 1
                if call.save_as and call.save_as in named:
                    text = f"'{call.save_as}' is the result of {named[call.save_as]} already"
                    yield Problem(f"{place}.calls[{n}].save_as", text, "Use another name")
                elif call.save_as:
                    named[call.save_as] = f"{place}.calls[{n}]"


def _strings_of_step(step: Any, place: str) -> Iterator[tuple[str, str]]:
    yield from strings_in(step.text, f"{place}.text")
    for n, call in enumerate(step.calls):
        yield from strings_in(call.input, f"{place}.calls[{n}].input")


def strings_in(value: object, key: str) -> Iterator[tuple[str, str]]:
    """Yield every string in JSON-like data with the path of its key, except the keys of tables."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from strings_in(item, join_key(key, str(name)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from strings_in(item, join_key(key, index))


def placeholder_problems(
    key: str, text: str, names: Sequence[str], *, results: int | None = None
) -> Iterator[Problem]:
    """Yield a problem for each brace and placeholder of a text that has no meaning.

    Args:
      key: where the text stands.
      text: the text with its placeholders.
      names: the placeholders that have a value.
      results: how many `{results[n]}` there are; None if a text here has no results at all.
    """
    try:
        parts = parse_template(text)
    except TemplateError as error:
        known = ", ".join(f"{{{name}}}" for name in names)
        there_are = f"the placeholders here are {known}" if names else "there are no placeholders here"
        yield Problem(key, str(error), f"Write {{{{ and }}}} for braces; {there_are}")
        return
    for part in parts:
        if isinstance(part, Placeholder):
            yield from _placeholder_problem(key, part, names, results)


def _placeholder_problem(
    key: str, place: Placeholder, names: Sequence[str], results: int | None
) -> Iterator[Problem]:
    if place.name == "results" and results is not None:
        if place.index is None:
            yield Problem(key, "{results} does not say which", "Write {results[0]} for the first result")
        elif place.index >= results:
            problem = f"{place} comes too early: {results} calls are made in earlier steps"
            yield Problem(key, problem, "Count from 0, or name a result with 'save_as'")
    elif place.index is not None or place.name not in names:
        known = fix_for_name(place.name, names)
        braces = f"Write {{{{ and }}}} around it if braces are meant. {known}"
        yield Problem(key, f"{place} is no placeholder here", braces)


# -- the manifest --------------------------------------------------------------------

_TIERS: dict[str, Any] = {tier.value: tier for tier in PrivacyTier}


def _as_tier(value: PrivacyTier | str) -> PrivacyTier:
    # What is no tier is left as it is: the rule refuses it in words.
    tier: PrivacyTier = _TIERS.get(value.lower(), value) if isinstance(value, str) else value
    return tier


class CapabilityRule(Rule):
    """A capability: a table with its `type` and its keys, or only the name of its type."""

    def read(self, value: Any, key: str, report: Report) -> Any:
        """Return the capability."""
        if isinstance(value, tuple(CAPABILITY_TYPES.values())):
            return value
        if isinstance(value, str):
            return self._read_typed({"type": value}, key, key, report)
        if not isinstance(value, Mapping):
            wanted = "a table with a 'type'" if report.from_file else "a capability, or the name of one"
            return report.add_type(key, value, wanted)
        if "type" not in value:
            fix = f"Give one of {', '.join(CAPABILITY_TYPES)}"
            return report.add(join_key(key, "type"), "is missing", fix)
        return self._read_typed(value, key, join_key(key, "type"), report)

    def _read_typed(self, table: Mapping[str, Any], key: str, type_key: str, report: Report) -> Any:
        name = table["type"]
        if not isinstance(name, str):
            return report.add_type(type_key, name, "the name of a capability")
        for known, cls in CAPABILITY_TYPES.items():
            if fold_name(known) == fold_name(name):
                rest = {key: item for key, item in table.items() if key != "type"}
                return read_table(cls, rest, key, report)
        return report.add(type_key, f"{name!r} is no capability", fix_for_name(name, CAPABILITY_TYPES))

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Return the schema of every kind of capability."""
        for name, cls in CAPABILITY_TYPES.items():
            defs[cls.__name__] = table_schema(cls, defs, type=name)
        tables = [{"$ref": f"#/$defs/{cls.__name__}"} for cls in CAPABILITY_TYPES.values()]
        bare = [name for name, cls in CAPABILITY_TYPES.items() if defs[cls.__name__]["required"] == ["type"]]
        return {"oneOf": [names_schema(bare), *tables]}


def _as_capabilities(value: Iterable[Capability | str | Mapping[str, Any]]) -> tuple[Capability, ...]:
    """Make capabilities of names and tables, as in a file; the rule refuses what is left."""
    items = as_tuple(value)
    if not isinstance(items, tuple):
        return items
    rule = CapabilityRule()
    capabilities = []
    for item in items:
        report = Report()
        read = rule.read(item, "", report)
        capabilities.append(item if report.problems else read)
    return tuple(capabilities)


@attrs.frozen(kw_only=True)
class AgentManifest(Table):
    """What an agent is.

    Keyword construction takes lists where tuples are kept, the name of a privacy tier, and
    capabilities as a file has them: `"messaging"`, or `{"type": "spawn", "max_depth": 2}`.

    Attributes:
      base: the directory of the file that it came from, where the modules of `tools`, `hooks` and of
        `script.function` are looked for first; None if it came from no file. `allowed_paths` and
        `model_path` of a file have been made absolute with it.
      has_real_paths: whether its paths were found by the pool to be what is granted: links in them, which
        somebody has made since then, lead nowhere.

    Raises:
      ValueError: if an argument is out of its range, or arguments do not go together.
      TypeError: if an argument is of the wrong type.
    """

    name: str = attrs.field(validator=Text("The agent's name", blank=False, one_line=True))
    version: str = attrs.field(default="0.1.0", validator=Text("The version of this manifest"))
    description: str = attrs.field(default="", validator=Text("What the agent does, for people"))
    model: ModelSettings = attrs.field(
        default=ModelSettings(), validator=TableOf("Which model it asks, and how", cls=ModelSettings)
    )
    resources: ResourceQuota = attrs.field(
        default=ResourceQuota(), validator=TableOf("How much one run may use", cls=ResourceQuota)
    )
    capabilities: tuple[Capability, ...] = attrs.field(
        default=(), converter=_as_capabilities, validator=ListOf("What it may do", item=CapabilityRule())
    )
    approval: ApprovalRules = attrs.field(
        default=ApprovalRules(),
        validator=TableOf("Which tool calls are made, refused, or put to a person", cls=ApprovalRules),
    )
    privacy: PrivacyTier = attrs.field(
        default=PrivacyTier.STANDARD,
        converter=_as_tier,
        validator=Choice(
            "Where its words may travel to: this machine, hosts that you run yourself, anywhere",
            values=_TIERS,
        ),
    )
    sandbox: SandboxKind = attrs.field(
        default="bubblewrap",
        validator=Choice(
            "What its commands run in: `none` lets them do whatever the pool may",
            values=choice("bubblewrap", "none"),
        ),
    )
    commands: CommandLimits = attrs.field(
        default=CommandLimits(),
        validator=TableOf("How much one of its commands may use", cls=CommandLimits),
    )
    script: ScriptSettings | None = attrs.field(
        default=None,
        validator=TableOf("What it does when no model is asked", cls=ScriptSettings, optional=True),
    )
    tools: tuple[str, ...] = attrs.field(
        default=(),
        converter=as_texts,
        validator=ListOf("Tools of its own, `module:function`, of modules beside the file", item=Reference()),
    )
    hooks: tuple[str, ...] = attrs.field(
        default=(),
        converter=as_texts,
        validator=ListOf(
            "Hooks around its model calls and tool calls, `module:object`, of modules beside the file",
            item=Reference(),
        ),
    )
    skills: tuple[str, ...] = attrs.field(
        default=(),
        converter=as_texts,
        validator=ListOf(
            "Directories of skills, each a directory with a SKILL.md; relative to this file", item=FilePath()
        ),
    )
    handoffs: tuple[str, ...] = attrs.field(
        default=(),
        converter=as_texts,
        validator=ListOf(
            "The names of the agents that it may hand its conversation over to", item=Text(blank=False)
        ),
    )
    mcp_servers: tuple[McpServer, ...] = attrs.field(
        default=(),
        converter=as_tuple,
        validator=ListOf(
            "The MCP servers whose tools it may be granted",
            item=TableOf(cls=McpServer),
        ),
    )
    base: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    has_real_paths: bool = attrs.field(default=False, kw_only=True)

    @classmethod
    def from_toml(
        cls, text: str, *, source: str = "<string>", base: str | os.PathLike[str] | None = None
    ) -> AgentManifest:
        """Read a manifest from TOML text.

        Args:
          text: the TOML text.
          source: what to call it in findings.
          base: the directory that relative paths in it refer to; without it they are kept as they are.

        Raises:
          ManifestError: with every finding of the text.
        """
        report = Report(base=None if base is None else Path(os.path.abspath(base)))
        manifest = read_table(cls, parse_toml(text, source), "", report)
        if report.problems:
            raise ManifestError(report.findings(source))
        assert isinstance(manifest, cls)
        return manifest

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, read: Callable[[Path], bytes] = Path.read_bytes
    ) -> AgentManifest:
        """Read the manifest file at `path`. Blocks for as long as the disk does.

        Args:
          path: the file; relative paths in it refer to its directory.
          read: gets the bytes of a file.

        Raises:
          ManifestError: with every finding of the file; also if it cannot be read.
        """
        text = read_text(path, read)
        return cls.from_toml(text, source=os.fspath(path), base=Path(os.path.abspath(path)).parent)

    def limited_to(self, grants: Grants) -> AgentManifest:
        """Return the same manifest, asking for what is granted.

        What a sovereign agent may not have is left out of one that becomes sovereign.

        Args:
          grants: what is granted of what the manifest asks for.
        """
        kept = self
        if grants.privacy is PrivacyTier.SOVEREIGN:
            servers = tuple(each for each in self.mcp_servers if not _is_beyond_sovereign(each))
            model = attrs.evolve(self.model, remote_model=None)
            kept = attrs.evolve(self, model=model, mcp_servers=servers)
        return attrs.evolve(
            kept,
            capabilities=self.capabilities if grants.capabilities is None else grants.capabilities,
            privacy=grants.privacy,
            sandbox=grants.sandbox,
            commands=self.commands if grants.commands is None else grants.commands,
            has_real_paths=grants.capabilities is not None,
        )

    @classmethod
    def prepare(cls, table: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Take `privacy` and `capabilities` out of the tables that they were written below."""
        return _without_strays(table)

    @classmethod
    def build(cls, values: Mapping[str, Any], report: Report) -> AgentManifest:
        """Make the manifest, and keep the directory of its file."""
        return cls(**values, base=report.base)

    @classmethod
    def conflicts(cls, values: Any) -> Iterator[Problem]:
        """Yield what a sovereign agent may not have, and what is wrong with MCP servers together."""
        if values.privacy is PrivacyTier.SOVEREIGN:
            yield from _sovereign_problems(values)
        yield from problems_of_names(values.mcp_servers)


def _sovereign_problems(values: Any) -> Iterator[Problem]:
    fix = "Remove it, or choose another 'privacy'"
    if isinstance(values.model.remote_model, str):
        yield Problem("model.remote_model", "a sovereign agent asks no remote model", fix)
    for n, server in enumerate(values.mcp_servers):
        if _is_beyond_sovereign(server):
            problem = "a sovereign agent reaches no server over the network, only on this machine"
            yield Problem(f"mcp_servers[{n}].url", problem, f"Use stdio, or http://localhost. {fix}")


def usable_servers(manifest: AgentManifest) -> tuple[McpServer, ...]:
    """Return the MCP servers of which a manifest grants some tool."""
    granted = [grant.server for grant in manifest.capabilities if isinstance(grant, McpCapability)]
    return tuple(each for each in manifest.mcp_servers if "*" in granted or each.name in granted)


def _is_beyond_sovereign(server: McpServer) -> bool:
    return isinstance(server.url, str) and not is_loopback_url(server.url)


def _without_strays(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Move keys of the whole manifest up that stand below the header of another table.

    TOML makes `privacy = "Sovereign"` a key of the table whose header comes before it. The manifests
    of this design's predecessor have it there, and an agent that is meant to be sovereign must not
    become a standard one in silence.
    """
    result = dict(table)
    moved: dict[str, str] = {}
    for name in ("model", "resources"):
        if isinstance(table.get(name), Mapping):
            result[name] = _take(table[name], ("privacy", "capabilities"), name, result, moved)
    for name in ("capabilities", "mcp_servers"):
        if isinstance(table.get(name), list):
            result[name] = [
                _take(item, ("privacy",), f"{name}[{n}]", result, moved) if isinstance(item, dict) else item
                for n, item in enumerate(table[name])
            ]
    return result, moved


def _take(
    table: Mapping[str, Any], names: Sequence[str], key: str, result: dict[str, Any], moved: dict[str, str]
) -> dict[str, Any]:
    rest = dict(table)
    for name in names:
        if name in rest and name not in result:
            result[name] = rest.pop(name)
            moved[name] = f"{key}.{name}"
    return rest


# -- files ---------------------------------------------------------------------------


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Parse TOML text, with or without a byte order mark.

    Raises:
      ManifestError: with one finding that names line and column.
    """
    import tomllib  # only files need it

    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        problem, fix = "is nested too deeply", "Fix the syntax: write fewer brackets"
    except tomllib.TOMLDecodeError as error:
        end = f"(at line {1 + text.count(chr(10))}, the end of the text)"
        problem = f"is not TOML: {str(error).replace('(at end of document)', end)}"
        fix = _fix_for_syntax(text, str(error))
    except ValueError as error:  # a number of more digits than Python takes
        problem, fix = _unreadable_value(text, error)
    raise ManifestError([Finding(source, "", problem, fix)])


def _fix_for_syntax(text: str, problem: str) -> str:
    if "Cannot overwrite" in problem or "Duplicate" in problem:
        return "The key, or a part of it, is there already: keep one of them"
    if "twice" in problem:
        return "The table is there already: write all of its keys below one header"
    marks = [at for at in range(1, len(text)) if text[at] == "\ufeff"]
    if marks:
        line, column = _position(text, marks[0])
        return f"There is an invisible byte order mark at line {line}, column {column}: take it out"
    found = re.search(r"at line (\d+)", problem)
    line_text = text.split("\n")[int(found[1]) - 1] if found else ""
    if "\\" in line_text:
        return "In double quotes a backslash is written twice; in single quotes, or with / in a path, once"
    if re.search("[\u201c-\u201e\u2018-\u201a\u00ab\u00bb]", line_text):
        return "Write straight quotes"
    return "Fix the syntax there; see https://toml.io"


def _unreadable_value(text: str, error: ValueError) -> tuple[str, str]:
    found = re.search(r"[\d_]{4301,}", text)
    if found is None:
        return f"is not TOML: {error}", "Fix the value"
    line, column = _position(text, found.start())
    problem = (
        f"is not TOML: Exceeds the limit of 4,300 digits by one number (at line {line}, column {column})"
    )
    return problem, "Fix the syntax there: give a smaller number, or write it in quotes"


def _position(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def read_text(path: str | os.PathLike[str], read: Callable[[Path], bytes]) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises:
      ManifestError: with one finding, if there is no such file or it cannot be read.
    """
    fix = "Check the path"
    try:
        data = read(Path(path))
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        problem = "there is no such file"
    except IsADirectoryError:
        problem, fix = "is a directory", "Give the path of a file in it"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        where = (
            "it is UTF-16"
            if error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
            else f"line {line}, byte {error.start}"
        )
        problem, fix = f"is not UTF-8 ({where})", "Save it in the encoding UTF-8"
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        fix = "Check its path and permissions"
    raise ManifestError([Finding(os.fspath(path), "", problem, fix)])
