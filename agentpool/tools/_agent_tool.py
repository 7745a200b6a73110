"""`as_tool`: an agent that a model calls like a tool."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from agentpool._core.messages import ToolDefinition, ToolResult
from agentpool._core.text import shown
from agentpool._objects import NotDataError, found_again, object_from_data, object_to_data, reference_of
from agentpool.abc import ToolContext
from agentpool.tools._function import FunctionTool, tool
from agentpool.tools._outcomes import told_to_the_model
from agentpool.tools._results import as_result
from agentpool.tools._team import answer_of


def as_tool(
    agent: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    input_type: Any = None,
) -> AgentTool:
    """Make a tool of an agent: each call spawns it as a child, waits for it, and returns its answer.

        lead = ModelAgent(manifest, tools=[as_tool(ModelAgent(searcher))])

    Calls of one turn work side by side. That the child failed or was aborted is the call's error; a
    call that is cancelled aborts its child. The child counts as one that a model asked for
    (`PoolLimits.model_spawns`), its budget hangs under the caller's, and it may do no more than the
    caller may.

    Args:
      agent: a `ModelAgent`, or any agent that takes one text after its context.
      name: what the model calls it; left out, the agent's name, in letters that models accept.
      description: what it is for; left out, that of its manifest or the docstring of the function.
      input_type: what the model gives: any type that pydantic knows. The agent gets it as JSON text.
        Left out, a text.

    Raises:
      TypeError: if `agent` is no agent, or has its query already, as a `SpawnConfig` has.
      ValueError: if the name is none that models accept.
    """
    return AgentTool(agent, name=name, description=description, input_type=input_type)


class AgentTool:
    """An agent as a tool; made by `as_tool`.

    Attributes:
      agent: what is spawned.
      capability, timeout, idempotent: as every tool has them.
    """

    capability = None
    timeout: float = math.inf
    idempotent: bool = True

    def __init__(
        self, agent: Callable[..., Any], *, name: str | None, description: str | None, input_type: Any
    ) -> None:
        _check(agent)
        self.agent = agent
        self._given = {"name": name, "description": description}
        self._input_type = input_type
        self._child_name = _name_of(agent)
        self._plain = self._function(
            _tool_name(self._child_name) if name is None else name,
            _description_of(agent) if description is None else description,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _tool_again, (self.agent, self._given, self._input_type)

    def of(self, agent: Callable[..., Any]) -> AgentTool:
        """Return the same tool for another agent."""
        return type(self)(agent, **self._given, input_type=self._input_type)

    def __repr__(self) -> str:
        return f"<tool {self.name!r} of {self.agent!r}>"

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self._plain.name

    @property
    def definition(self) -> ToolDefinition:
        """How the model sees it."""
        return self._plain.definition

    def taken(self, arguments: Mapping[str, Any]) -> Mapping[str, Any] | ToolResult:
        """Return the arguments as `call` takes them."""
        return self._plain.taken(arguments)

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Spawn the agent, wait for it, and return its answer.

        Checkpoint: always. Cancellation: the child is aborted.
        """
        return await self._plain.call(ctx, arguments)

    def _function(self, name: str, description: str) -> FunctionTool[..., Any]:
        async def with_text(ctx: ToolContext, query: str) -> ToolResult:
            """Ask it.

            Args:
              query: what it is to do; it knows nothing of this conversation.
            """
            return await self._asked(ctx, query)

        async def with_value(ctx: ToolContext, input: Any) -> ToolResult:
            """Ask it.

            Args:
              input: what it is to work on.
            """
            return await self._asked(ctx, as_result(input).text)

        function: Callable[..., Any] = with_text if self._input_type is None else with_value
        if self._input_type is not None:
            function.__annotations__["input"] = self._input_type
        return tool(function, name=name, description=description, timeout=math.inf, idempotent=True)

    async def _asked(self, ctx: ToolContext, query: str) -> ToolResult:
        with told_to_the_model():
            return await answer_of(await ctx.spawn_for_model(self.agent, query))

    # -- journals ---------------------------------------------------------------------------------

    def to_journal(self) -> Any:
        """Return what it is made from, as JSON data.

        Raises:
          NotDataError: if the agent or the input type cannot be found again by its name.
        """
        given = object_to_data(self._given)
        return {
            "agent": agent_to_data(self.agent),
            "given": given,
            "input_type": None if self._input_type is None else _reference(self._input_type),
        }

    @classmethod
    def from_journal(cls, data: Any) -> AgentTool:
        """Return the tool of which `to_journal` made this."""
        kind = data["input_type"]
        input_type = None if kind is None else found_again(kind)
        return cls(agent_from_data(data["agent"]), **object_from_data(data["given"]), input_type=input_type)


def _tool_again(agent: Callable[..., Any], given: Mapping[str, Any], input_type: Any) -> AgentTool:
    return AgentTool(agent, **given, input_type=input_type)


def agent_to_data(agent: Any) -> dict[str, Any]:
    """Return what finds an agent again, as data.

    Raises:
      NotDataError: if it cannot be found again.
    """
    if hasattr(agent, "to_journal"):
        return {"kind": _reference(type(agent)), "data": agent.to_journal()}
    return {"function": _reference(agent)}


def agent_from_data(data: Mapping[str, Any]) -> Any:
    """Return the agent of which `agent_to_data` made this."""
    if "function" in data:
        return found_again(data["function"])
    return found_again(data["kind"]).from_journal(data["data"])


def _reference(thing: Any) -> str:
    reference = reference_of(thing)
    if reference is None:
        raise NotDataError(f"{shown(thing)} is not found by its name: define it at the top of a module")
    return reference


def _check(agent: Any) -> None:
    if not callable(agent) or isinstance(agent, type):
        fix = "give a ModelAgent, or an async function that takes a context and a text"
        raise TypeError(f"{shown(agent)} is no agent: {fix}")
    if hasattr(agent, "query") and hasattr(agent, "manifest"):
        raise TypeError("a SpawnConfig has its query already, and the model is to give it: give a ModelAgent")


def _name_of(agent: Any) -> str:
    name = getattr(agent, "__name__", None) or getattr(agent, "name", None)
    return name if isinstance(name, str) else type(agent).__name__


def _tool_name(name: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:64]
    if not clean:
        raise ValueError(f"the name {name!r} has no letter that models accept: give as_tool(name=...)")
    return clean


def _description_of(agent: Any) -> str:
    manifest = getattr(agent, "manifest", None)
    said = getattr(agent, "__doc__", None) if manifest is None else manifest.description
    return (said or "").strip() or f"Have the agent {_name_of(agent)} work on a question, and get its answer."
