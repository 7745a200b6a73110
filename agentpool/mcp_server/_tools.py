"""From the agents of a fleet to tools: names, descriptions, schemas, and an agent for each call."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from agentpool._core.errors import Finding, ManifestError
from agentpool._core.messages import ToolResult
from agentpool._core.restart import RestartPolicy
from agentpool._core.text import shown
from agentpool._loop.model_agent import SpawnConfig
from agentpool.fleet.agents import AnyFleetAgent, FleetAgent, FleetFunction
from agentpool.fleet.file import FleetFile
from agentpool.fleet.start import DriverOf, policy_of, shorter
from agentpool.mcp_server._naming import tool_names
from agentpool.tools import tool

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

Body = Callable[["AgentContext"], Awaitable[Any]]
"""What is spawned for a call."""


class WrongArgumentsError(Exception):
    """A call's arguments are wrong; the text says what and how to fix it."""


@attrs.frozen
class AgentTool:
    """An agent of a fleet, as a tool.

    Attributes:
      name: the tool's.
      agent_name: the agent's, as the fleet's file has it.
      description: what a model reads.
      input_schema: of the arguments.
      output_schema: of the structured answer, always that of an object; None if there is none.
      is_wrapped: whether the answer is the one key `result` of that object.
      timeout: seconds that a call may take, or None.
      restart: when its agent is started again.
      begin: returns what is spawned for a call with these arguments, or raises `WrongArgumentsError`.
    """

    name: str
    agent_name: str
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    is_wrapped: bool
    timeout: float | None
    restart: RestartPolicy | None
    begin: Callable[[Mapping[str, Any]], Body]


def served_tools(
    fleet: FleetFile, driver_of: DriverOf | None = None, timeout: float | None = None
) -> Mapping[str, AgentTool]:
    """Return the agents of a fleet as tools, by their names.

    Args:
      fleet: what was read.
      driver_of: gives the driver of a manifest's agent, or None for the pool's; left out, all ask the
        pool's.
      timeout: seconds that no call may pass, whatever the file allows.

    Raises:
      ManifestError: if the arguments of a function cannot be told to a client, or the agents are to run in
        other processes.
    """
    driver_of = driver_of or (lambda manifest: None)
    findings: list[Finding] = []
    if fleet.pool.placement is not None:
        fix = "Remove it from this fleet, or run it with `agentpool run`"
        findings.append(
            Finding("the fleet", "pool.placement", "agents that are served run in the server", fix)
        )
    made: dict[str, AgentTool] = {}
    for name, agent in zip(tool_names(agent.name for agent in fleet.agents), fleet.agents, strict=True):
        try:
            made[name] = _tool_of(name, agent, driver_of, timeout)
        except TypeError as error:
            fix = "Give its arguments type hints that JSON can carry, or leave it out of this fleet"
            findings.append(Finding(f"agent {agent.name!r}", "function", str(error), fix))
    if findings:
        raise ManifestError(findings)
    return made


def _tool_of(name: str, agent: AnyFleetAgent, driver_of: DriverOf, timeout: float | None) -> AgentTool:
    limits = shorter(agent.timeout, timeout), policy_of(agent.restart)
    if isinstance(agent, FleetFunction):
        return _function_tool(name, agent, *limits)
    manifest = agent.manifest
    output, is_wrapped = _output_schema(manifest.model.output_schema)
    description = manifest.description.strip() or f"Ask the agent {agent.name!r}."

    def begin(arguments: Mapping[str, Any]) -> Body:
        return SpawnConfig(manifest, _query_in(arguments, agent), driver=driver_of(manifest))

    return AgentTool(name, agent.name, description, _query_schema(agent), output, is_wrapped, *limits, begin)


# -- agents that ask a model -------------------------------------------------------------


def _query_schema(agent: FleetAgent) -> Mapping[str, Any]:
    query: dict[str, Any] = {"type": "string", "description": "What the agent is asked"}
    schema = {"type": "object", "properties": {"query": query}, "additionalProperties": False}
    if agent.query is None:
        return {**schema, "required": ["query"]}
    query["default"] = agent.query
    return schema


def _query_in(arguments: Mapping[str, Any], agent: FleetAgent) -> str:
    others = sorted(arguments.keys() - {"query"})
    if others:
        raise WrongArgumentsError(f"{shown(others[0])} is no argument of this tool: it takes 'query' only")
    query = arguments.get("query")
    if query is None:
        query = agent.query
    if query is None:
        raise WrongArgumentsError("query: is missing. Say what the agent is to do")
    if not isinstance(query, str):
        raise WrongArgumentsError(f"query: must be a string, not {shown(query)}")
    if not query.strip():
        raise WrongArgumentsError("query: is blank. Say what the agent is to do")
    return query


def _output_schema(schema: Mapping[str, Any] | None) -> tuple[Mapping[str, Any] | None, bool]:
    """Return the schema of an object: revisions before 2026-07-28 know no other answers."""
    if schema is None or schema.get("type") == "object":
        return schema, False
    inner = dict(schema)
    # What a reference such as `#/$defs/Name` means stays where it is looked for: at the top.
    definitions: dict[str, Any] = {key: inner.pop(key) for key in ("$defs", "definitions") if key in inner}
    wrapped: dict[str, Any] = {"type": "object", "properties": {"result": inner}, "required": ["result"]}
    return {**wrapped, **definitions}, True


# -- agents that are functions -----------------------------------------------------------


def _function_tool(
    name: str, agent: FleetFunction, timeout: float | None, restart: RestartPolicy | None
) -> AgentTool:
    made = tool(_without_what_is_fixed(agent), name=name)
    definition = made.definition

    def begin(arguments: Mapping[str, Any]) -> Body:
        taken = made.taken(arguments)
        if isinstance(taken, ToolResult):
            raise WrongArgumentsError(str(taken.content))
        return lambda ctx: made.call(ctx, copy.deepcopy(dict(arguments)))

    description = definition.description.strip() or f"Run the agent {agent.name!r}."
    return AgentTool(
        name, agent.name, description, definition.input_schema, None, False, timeout, restart, begin
    )


def _without_what_is_fixed(agent: FleetFunction) -> Callable[..., Awaitable[Any]]:
    """Return the function with a signature of its context and of what a client may give.

    What the file gives in `args` is fixed: no client sees or changes it. A `query` of the file is the
    default of the argument that it stands for.
    """
    function = agent.function
    parameters = list(inspect.signature(function).parameters.values())[1:]
    # Nobody has to give what `*args` and `**kwargs` take.
    any_number = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    free = [one for one in parameters if one.name not in agent.args and one.kind not in any_number]
    if agent.query is not None and free:
        free[0] = free[0].replace(default=agent.query)
    by_place = [one.name for one in parameters if one.kind is one.POSITIONAL_ONLY]

    @functools.wraps(function)
    async def called(ctx: AgentContext, **given: Any) -> Any:
        # A restarted agent must not find what its last life did to a list.
        values = {**copy.deepcopy(dict(agent.args)), **given}
        if agent.query is not None and free:
            values.setdefault(free[0].name, agent.query)
        placed = [values.pop(name) for name in by_place if name in values]
        return await function(ctx, *placed, **values)

    ctx = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="AgentContext")
    by_name = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in free]
    called.__signature__ = inspect.Signature([ctx, *by_name])  # type: ignore[attr-defined]
    return called
