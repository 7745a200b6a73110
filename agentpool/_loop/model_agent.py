"""`ModelAgent` and `SpawnConfig`: agents that ask a model, as a pool and its users see them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias

import attrs

from agentpool import abc
from agentpool._core.capability import FileReadCapability, FileWriteCapability
from agentpool._core.content import Content, Part, as_content
from agentpool._core.errors import RequestRejectedError
from agentpool._core.events import LoopFinished
from agentpool._core.grants import Grants
from agentpool._core.loop import begin
from agentpool._core.manifest import AgentManifest, usable_servers
from agentpool._core.messages import ChatMessage, ToolDefinition
from agentpool._core.outcomes import AgentResult
from agentpool._core.outputs import OutputSpec
from agentpool._core.schemas import schema_output
from agentpool._core.text import shown
from agentpool._core.transcript import checked_history
from agentpool._kernel.granting import within
from agentpool._kernel.options import checked_hooks
from agentpool._kernel.protection import await_unprotected
from agentpool._logging import LOOP, tell
from agentpool._loop.approving import gate_of, in_force, rules_of
from agentpool._loop.granting import wanted_by, withheld
from agentpool._loop.handing_over import Before, handed_over, handoffs_of
from agentpool._loop.model_calls import MODEL_SECONDS, ModelCalls
from agentpool._loop.run import Run
from agentpool._loop.too_long import TooLong, has_kept
from agentpool._loop.tool_calls import STARTER, ToolCalls

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from agentpool._kernel.agent_journal import AgentJournal
    from agentpool._kernel.context import AgentContext
    from agentpool._loop.tape import Tape
    from agentpool.tools import ToolRegistry

    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")


# -- the arguments ------------------------------------------------------------------


def _is_manifest(_: object, __: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, AgentManifest):
        return
    fix = f"; read it with AgentManifest.load({value!r})" if isinstance(value, (str, os.PathLike)) else ""
    raise TypeError(f"manifest must be an AgentManifest, not {value!r}{fix}")


Query: TypeAlias = str | Part | Iterable[str | Part]
"""What an agent may be asked: a text, a part, or several of both."""


def _as_query(query: Query) -> Content:
    try:
        return as_content(query)
    except TypeError as error:
        told = f"query must be a string, not {shown(query)}; or parts of content: Text, Image, Document"
        raise TypeError(told) from error


def _is_count(_: object, attribute: attrs.Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name} must be an int, not {value!r}")
    if value < 0:
        raise ValueError(f"{attribute.name} must be at least 0, not {value}")


Tools = Iterable["abc.Tool | Callable[..., Any]"]


def _as_tools(given: Tools | None) -> tuple[abc.Tool, ...]:
    if given is None:
        return ()
    from agentpool.tools import ToolRegistry

    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"tools must be a list of functions and tools, or a ToolRegistry, not {given!r}")
    return (given if isinstance(given, ToolRegistry) else ToolRegistry(given)).usable()


Agents = Iterable["AgentManifest | ModelAgent[Any]"]


def _as_agents(given: Agents | None) -> tuple[ModelAgent[Any], ...] | None:
    if given is None:
        return None
    if isinstance(given, str | AgentManifest) or not isinstance(given, Iterable):
        raise TypeError(f"agents must be a list of manifests and ModelAgents, not {shown(given)}")
    agents = [ModelAgent[Any](each) if isinstance(each, AgentManifest) else each for each in given]
    for each in agents:
        if not isinstance(each, ModelAgent):
            raise TypeError(f"agents must be a list of manifests and ModelAgents; {shown(each)} is neither")
    names = [each.name for each in agents]
    if len(set(names)) < len(names):
        raise ValueError(f"each of agents needs its own name, and theirs are {', '.join(sorted(names))}")
    return tuple(agents)


# -- the agents ----------------------------------------------------------------------


@attrs.frozen
class _ModelAgent(Generic[T]):
    """What `ModelAgent` and `SpawnConfig` share: a `DescribedAgent` that can run the loop."""

    manifest: AgentManifest = attrs.field(validator=_is_manifest)
    tools: tuple[abc.Tool, ...] = attrs.field(default=None, kw_only=True, converter=_as_tools)
    output_type: type[T] | None = attrs.field(default=None, kw_only=True)
    output_retries: int = attrs.field(default=2, kw_only=True, validator=_is_count)
    driver: abc.Driver | None = attrs.field(default=None, kw_only=True)
    hooks: tuple[abc.Hooks, ...] = attrs.field(default=(), kw_only=True, converter=checked_hooks)
    agents: tuple[ModelAgent[Any], ...] | None = attrs.field(default=None, kw_only=True, converter=_as_agents)

    def __attrs_post_init__(self) -> None:
        """Note where its paths lead, as long as no command of an agent can have changed that."""
        for each in self.manifest.capabilities:
            if isinstance(each, FileReadCapability | FileWriteCapability):
                from agentpool.tools._links import note_paths  # who asks for no files needs none

                note_paths(self.manifest)
                break

    @property
    def name(self) -> str:
        """The manifest's name; the agent is called by it."""
        return self.manifest.name

    @property
    def quota(self) -> abc.AgentQuota | None:
        """The tokens and the money that the manifest's `[resources]` allow; None for no limit."""
        resources = self.manifest.resources
        if resources.max_tokens_budget is None and resources.max_cost_usd is None:
            return None
        return abc.AgentQuota(resources.max_tokens_budget, resources.max_cost_usd)

    @property
    def wanted(self) -> Grants:
        """What the manifest asks for; paths are absolute and hold no links. Blocks on the disk."""
        return wanted_by(self.manifest)

    def limited_to(self, grants: Grants) -> Self:
        """Return the same agent with nothing but what is granted."""
        return attrs.evolve(self, manifest=self.manifest.limited_to(grants))

    def to_journal(self) -> Any:
        """Return what it is made from, as JSON data.

        Raises:
          NotDataError: if a tool or the output type cannot be found again by its name, or it has a driver
            of its own.
        """
        from agentpool._objects import NotDataError, object_to_data

        if self.driver is not None:
            raise NotDataError(f"agent {self.name!r} has a driver of its own, which a journal cannot keep")
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        fields["tools"] = [_tool_to_data(each) for each in self.tools]
        if self.hooks:
            from agentpool._loop.hooks import hook_to_data

            fields["hooks"] = [hook_to_data(each, self.name) for each in self.hooks]
        if self.agents is None:
            del fields["agents"]
        else:
            fields["agents"] = [each.to_journal() for each in self.agents]
        if self.output_type is not None:
            fields["output_type"] = _reference(self.output_type, "the output type")
        data: dict[str, Any] = object_to_data(fields)
        return data

    @classmethod
    def from_journal(cls, data: Any) -> Self:
        """Return the agent of which `to_journal` made this."""
        from agentpool._objects import found_again, object_from_data

        fields: dict[str, Any] = object_from_data(data)
        fields["tools"] = list(map(_tool_from_data, fields["tools"]))
        if fields.get("hooks"):
            from agentpool._loop.hooks import hook_from_data

            fields["hooks"] = list(map(hook_from_data, fields["hooks"]))
        if fields.get("agents") is not None:
            fields["agents"] = list(map(ModelAgent[Any].from_journal, fields["agents"]))
        if fields["output_type"] is not None:
            fields["output_type"] = found_again(fields["output_type"])
        return cls(**fields)

    def build_tools(self, builder: abc.ToolBuilder | None) -> abc.ToolSet | None:
        """Return the tools that the manifest names, and those of `tools`. Blocks on the disk.

        Args:
          builder: the pool's `tool_builder`; None for the built-in tools that the manifest grants and
            its own `tools`.

        Raises:
          ManifestError: if a tool that the manifest names cannot be loaded.
          ValueError: if a tool of `tools` has the name of another one.
        """
        built = (self._default_tools if builder is None else builder)(self.manifest)
        if builder is not None and self.agents is not None:
            built = self._with_team(built)
        if not self.tools:
            return built
        if built is None:
            from agentpool.tools import ToolRegistry

            return ToolRegistry(self.tools)
        return built.extended(self.tools)

    def _default_tools(self, manifest: AgentManifest) -> ToolRegistry:
        from agentpool.tools import build_tools

        team = None if self.agents is None else [each.manifest for each in self.agents]
        return build_tools(manifest, make_agent=self._child, agents=team)

    def _with_team(self, built: abc.ToolSet | None) -> abc.ToolSet:
        """Return what the pool's `tool_builder` built, with the tools for the agents of this one."""
        from agentpool.tools import ToolRegistry
        from agentpool.tools._build import team_tools

        assert self.agents is not None
        more = team_tools(self.manifest, self._child, [each.manifest for each in self.agents])
        return ToolRegistry(more) if built is None else built.extended(more)

    def _child(self, manifest: AgentManifest, query: str) -> SpawnConfig[Any]:
        """Return the agent of one of its `agents`, or of its own kind, with a query."""
        if self.agents is None:
            return SpawnConfig(manifest, query, tools=self.tools, driver=self.driver, hooks=self.hooks)
        member = next(each for each in self.agents if each.name == manifest.name)
        return SpawnConfig(
            manifest,
            query,
            tools=member.tools,
            output_type=member.output_type,
            output_retries=member.output_retries,
            driver=self.driver if member.driver is None else member.driver,
            hooks=(*self.hooks, *member.hooks),
            # By name they may know each other, as they could not in Python.
            agents=self.agents if member.agents is None else member.agents,
        )

    async def _answer(
        self,
        ctx: AgentContext,
        query: Content,
        history: tuple[ChatMessage, ...],
        before: Before | None = None,
    ) -> AgentResult[T]:
        """Run the loop to its end; `before` tells of who handed the conversation over."""
        # In one coroutine: each one more that a turn's checkpoints pass through costs it 0.5 %.
        tape = _tape_of(ctx.journal)
        is_spawned = ctx.agent is self
        granted = ctx.granted_to(self)
        agent: Self = granted.agent
        if agent is not self:
            missing = withheld(self.manifest, granted.grants)
            tell(LOOP, logging.INFO, "not all that it asks for is granted: %s", missing)
        manifest = agent.manifest
        budget = ctx.budget if before is None else before.budget
        if not is_spawned:
            budget = ctx.budget_below(budget, self.quota)
        driver = ctx.driver_to_bind if self.driver is None else self.driver
        if ctx.head is not None and driver is not None:
            driver = await ctx.head.bound(driver, manifest)
        driver = ctx.metered(_driver_for(manifest, driver), budget, MODEL_SECONDS)
        tools = ctx.tools if is_spawned else agent.build_tools(ctx.tool_builder)
        absent: dict[str, str] = {}  # which tools of MCP servers are not there now, and why
        if manifest.mcp_servers:
            tools = await _with_servers(ctx, manifest, tools, absent)
        allowed = None if tools is None else tools.limited_to(manifest)
        definitions = () if allowed is None else allowed.definitions()
        # It may have had more tools when it began, or asks for more than it is granted.
        may_lack = agent is not self or (tape is not None and tape.has_begun)
        rules = rules_of(manifest, definitions, absent, may_lack=may_lack)
        # What only some agents have is looked for once for a run.
        handoffs = handoffs_of(allowed) if self.tools or manifest.handoffs else frozenset()
        collects = STARTER in [each.name for each in definitions]
        window = getattr(driver, "context_window", None)
        if tape is not None:
            begun = agent._beginning(query, history, definitions, window)
            if roots := _noted_paths(manifest):
                begun |= {"roots": dict(roots)}
            if handoffs or collects:
                begun |= {"handoffs": sorted(handoffs), "collects": collects}
            tape.begin(begun)
        state, effect = begin(
            manifest,
            query,
            history,
            tools=definitions,
            context_window=window,
            output=self._output(),
            price=getattr(driver, "estimate_cost", None),
            handoffs=handoffs,
            collects=collects,
            missing=("",) if may_lack else absent,  # with nothing all names begin
        )
        idle = manifest.resources.idle
        gate = gate_of(ctx, manifest, allowed, rules)
        # Looked at once for a run: a turn in which nothing is told costs nothing for it.
        is_told = LOOP.isEnabledFor(logging.DEBUG)
        too_long = TooLong(ctx)
        calls = ToolCalls(ctx, allowed, gate, tape, is_told=is_told, too_long=too_long.told)
        asking = ModelCalls(ctx, driver, is_told=is_told)
        if ctx.hooks or self.hooks or manifest.hooks or has_kept(ctx):
            asking, calls = self._behind_hooks(asking, calls)
        run = too_long.run = Run(ctx, asking, calls, tape, idle)
        with in_force(rules), within(granted.grants):
            try:
                result: AgentResult[T] = await run.to_its_end(state, effect)
            finally:
                too_long.run = None  # else a circle would keep the transcript until the collector comes
                ctx.emit(LoopFinished)
            if run.handoff is not None:
                assert allowed is not None
                goes_on = before or Before((), budget)
                result = await handed_over(self.name, ctx, run.handoff, result, allowed, goes_on)
            if collects:
                calls.let_go()
            return result

    def _behind_hooks(self, asking: ModelCalls, calls: ToolCalls) -> tuple[ModelCalls, ToolCalls]:
        """Put the calls of a run behind its hooks.

        Raises:
          ManifestError: if a hook that the manifest names cannot be loaded.
        """
        from agentpool._loop.behind_hooks import behind_hooks  # who has no hooks needs none
        from agentpool._loop.hooks import load_hooks

        return behind_hooks((*asking.ctx.hooks, *load_hooks(self.manifest), *self.hooks), asking, calls)

    def _beginning(
        self,
        query: Content,
        history: Sequence[ChatMessage],
        tools: Sequence[ToolDefinition],
        window: int | None,
    ) -> dict[str, Any]:
        """Return what a run of the loop begins with, for its tape."""
        from agentpool._objects import reference_of

        return {
            "manifest": self.manifest,
            "query": query,
            "history": tuple(history),
            "tools": tuple(tools),
            "context_window": window,
            "output_type": None if self.output_type is None else reference_of(self.output_type),
            "output_retries": self.output_retries,
        }

    def _output(self) -> OutputSpec | None:
        schema = self.manifest.model.output_schema
        if self.output_type is None and schema is not None:
            return schema_output(schema, self.output_retries)
        if self.output_type is None or self.output_type is str:
            return None
        from agentpool._loop.output import output_spec  # needs pydantic

        return output_spec(self.output_type, self.output_retries)


@attrs.frozen
class ModelAgent(_ModelAgent[T]):
    """An agent that answers a query by the loop: perceive, reason, act, until the model is done.

    The query is its argument: `await pool.spawn(ModelAgent(manifest), query)`, or
    `await pool.map(ModelAgent(manifest), queries)`. Its value is an `AgentResult`. Plain code that
    has a context may call it too, `await ModelAgent(manifest)(ctx, query)`: then it has the same
    tools and memory, its quota hangs under `ctx.budget`, and what it uses counts on that agent.

    Attributes:
      manifest: who the agent is, and what it may use.
      tools: functions, tools or a `ToolRegistry`, on top of what the manifest names. A tool that
        needs a capability is used only if the manifest grants it. Kept as a tuple of tools.
      output_type: what the answer has to be: a pydantic model, an attrs class, a dataclass, or any
        type that pydantic knows. Without it the answer is text, or JSON data that fits the manifest's
        `output_schema`; `str` asks for text also where the manifest has one.
      output_retries: how many answers that do not fit are given back to the model.
      driver: whom to ask instead of the pool's driver.
      hooks: what stands around its model calls and tool calls, inside of the pool's hooks and those of the
        manifest. Children that its model spawns with `spawn_agent` have them too.
      agents: manifests and `ModelAgent`s that its model may spawn, as far as the manifest's capability
        `spawn` goes, and hand over to, as its `handoffs` say. One that has no `agents` itself has the same.
        Left out, it may spawn its own kind.

    Raises:
      TypeError: if an argument has a wrong type.
      ValueError: if two of `tools`, or of `agents`, have the same name, or `output_retries` is below 0.
    """

    async def __call__(
        self, ctx: AgentContext, query: Query, history: Sequence[ChatMessage] = ()
    ) -> AgentResult[T]:
        """Run the loop to its end.

        A tool's error is told to the model. A model call may take 600 seconds, a tool call 120 or
        what its tool says. Messages that have arrived are taken before each model call.

        Args:
          ctx: the agent on whose behalf it works.
          query: what it is asked: a text, a part (`Text`, `Image`, `Document`), or several of them.
          history: an earlier `transcript`, which the query goes on with. It is a part of the
            result's transcript.

        Raises:
          LoopHaltedError: if the guard stopped it.
          BudgetExceededError: if a model call found no room in the budget.
          DriverError: if the model could not be asked, or its answers were of no use.
          ManifestError: if a tool or hook that the manifest names cannot be loaded, its `tool_choice` is
            for a tool that the agent does not have, or a pattern of its `[approval]` fits no call of its
            tools.
          TypeError: if `query` is neither text nor parts, or `history` no sequence of messages.
          ValueError: if `history` holds a tool call without its result, or a result without its
            call; or if a tool of `tools` has the name of another one.

        Checkpoint: always, as long as the driver keeps its promise of one. Cancellation: the
        running model and tool calls are cancelled; what was used is counted, and in a budget the
        worst case of a model call that was under way.
        """
        return await self._answer(ctx, _as_query(query), checked_history(history))


@attrs.frozen
class SpawnConfig(_ModelAgent[T]):
    """A `ModelAgent` with its query bound: `await pool.spawn(SpawnConfig(manifest, query))`.

    Attributes:
      manifest: who the agent is, and what it may use.
      query: what it is asked: a text, a part (`Text`, `Image`, `Document`), or several of them.
      history: an earlier `transcript`, which the query goes on with. It is a part of the result's
        transcript.
      tools, output_type, output_retries, driver, hooks, agents: as for `ModelAgent`.

    Raises:
      TypeError: if an argument has a wrong type.
      ValueError: if two of `tools`, or of `agents`, have the same name, `output_retries` is below 0, or
        `history` holds a tool call without its result or a result without its call.
    """

    query: Content = attrs.field(converter=_as_query)
    history: tuple[ChatMessage, ...] = attrs.field(default=(), kw_only=True, converter=checked_history)

    async def __call__(self, ctx: AgentContext) -> AgentResult[T]:
        """Run the loop to its end, as `ModelAgent` does.

        Raises:
          LoopHaltedError, BudgetExceededError, DriverError, ManifestError: as `ModelAgent`.
          ValueError: if a tool of `tools` has the name of one that the manifest names.

        Checkpoint, cancellation: as `ModelAgent`.
        """
        return await self._answer(ctx, self.query, self.history)


async def _with_servers(
    ctx: AgentContext, manifest: AgentManifest, tools: abc.ToolSet | None, absent: dict[str, str]
) -> abc.ToolSet | None:
    """Return the tools of an agent with those of the MCP servers that its manifest grants.

    To `absent` is added which of them are not there now: names, or what names begin with; and what a model
    is told that calls it.
    """
    if not usable_servers(manifest):
        return tools
    from agentpool.tools import ToolRegistry
    from agentpool.tools.mcp import open_tools

    found = await await_unprotected(open_tools, ctx, manifest, absent)
    if tools is None:
        tools = ToolRegistry()
    return tools.extended(found, absent) if isinstance(tools, ToolRegistry) else tools.extended(found)


def _reference(thing: Any, what: str) -> str:
    from agentpool._objects import NotDataError, reference_of

    reference = reference_of(thing)
    if reference is None:
        raise NotDataError(
            f"{what} {shown(thing)} is not found by its name: define it at the top of a module"
        )
    return reference


def _tool_to_data(each: abc.Tool) -> Any:

    # A tool that is made of something, such as an agent, tells of what.
    to_journal = getattr(each, "to_journal", None)
    if to_journal is not None:
        return {"kind": _reference(type(each), "the class of the tool"), "data": to_journal()}
    return _reference_of_tool(each)


def _tool_from_data(data: Any) -> Any:
    from agentpool._objects import found_again

    return (
        found_again(data["kind"]).from_journal(data["data"]) if isinstance(data, dict) else found_again(data)
    )


def _reference_of_tool(each: abc.Tool) -> str:
    from agentpool._objects import reference_of
    from agentpool.tools import FunctionTool

    # A plain function was made a tool, which is not what stands under its name.
    function = each.__wrapped__ if isinstance(each, FunctionTool) and reference_of(each) is None else each
    return _reference(function, "the tool")


def _tape_of(journal: AgentJournal | None) -> Tape | None:
    if journal is None:
        return None
    from agentpool._loop.tape import Tape  # who has no journal needs none

    return Tape.of(journal)


def _noted_paths(manifest: AgentManifest) -> Mapping[str, str]:
    from agentpool.tools._links import noted_paths

    return noted_paths(manifest)


def _driver_for(manifest: AgentManifest, driver: abc.Driver | None) -> abc.Driver:
    if driver is None:
        raise RequestRejectedError(
            f"agent {manifest.name!r} has no model to ask:"
            " pass one, as in open_agent_pool(driver, max_concurrent=...)"
        )
    # Some drivers make a driver for each agent: one that follows its script, or keeps to its privacy.
    bind: Callable[[AgentManifest], abc.Driver] | None = getattr(driver, "bind", None)
    if bind is not None:
        driver = bind(manifest)
    place = getattr(driver, "privacy", abc.Driver.privacy)
    if not manifest.privacy.permits(place):
        raise RequestRejectedError(
            f"the privacy of agent {manifest.name!r} is {manifest.privacy.value}, but what its driver is told"
            f" goes to a place that is {place.value}: use another driver, or widen the manifest's privacy"
        )
    return driver
