"""The tools of servers, as an agent has them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import attrs
import mcp_types as types
import trio

from agentpool._core.capability import Capability, McpCapability, grants
from agentpool._core.errors import McpServerError, ToolError
from agentpool._core.manifest import AgentManifest, usable_servers
from agentpool._core.mcp import McpDefinition, beginning_of_names
from agentpool._core.mcp_servers import McpServer
from agentpool._core.messages import ToolDefinition, ToolResult
from agentpool.abc import Tool, ToolContext
from agentpool.tools.mcp._asking import AsksPeople, ask_person
from agentpool.tools.mcp._connection import Connection, open_connection
from agentpool.tools.mcp._inbound import LOG, Progress
from agentpool.tools.mcp._results import listed, prompt_of, resource_of, result_of
from agentpool.tools.mcp._session import Ask, Session

T = TypeVar("T")

RESOURCES = "resources"
"""The `tool` of a capability that grants reading the resources of a server."""

PROMPTS = "prompts"
"""The `tool` of a capability that grants getting the prompts of a server."""


class McpContext(ToolContext, AsksPeople, Protocol):
    """What the tools of servers use of the agent that calls them; every `AgentContext` is one."""

    async def hold(self, key: Any, open: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Return something that lives as long as the pool."""
        ...

    def progressed(self, tool: str, progress: float, total: float | None = None, message: str = "") -> None:
        """Tell how far a call is."""
        ...


async def open_tools(
    ctx: McpContext, manifest: AgentManifest, absent: dict[str, str] | None = None
) -> list[Tool]:
    """Return the tools that a manifest grants of its servers, which are started if they do not run yet.

    All agents of a pool share one session with a server.

    Args:
      ctx: the context of the agent.
      manifest: names the servers, and grants tools of them.
      absent: to this is added what is not there now, each with what a model is told that calls it
        nevertheless: the names of tools that are refused, and what the names of a server's tools begin
        with that cannot be had. The text is empty where no more is to be said than that there is no such
        tool.

    Raises:
      McpServerError: if a server cannot be had that is `required`.

    Checkpoint: always. Cancellation: leaves nothing behind but servers that others may use.
    """
    servers = usable_servers(manifest)
    connections: list[Connection] = []
    for server in servers:
        key = ("agentpool.tools.mcp", server, manifest.privacy)
        opened = await ctx.hold(key, partial(open_connection, server, manifest.privacy))
        connections.append(opened)
    found: list[list[McpTool]] = [[] for _ in servers]
    problems: dict[int, ToolError] = {}
    absent = {} if absent is None else absent
    async with trio.open_nursery() as nursery:
        for number, connection in enumerate(connections):
            nursery.start_soon(_list, connection, manifest, found, problems, absent, number)
    for number, problem in sorted(problems.items()):
        if servers[number].required:
            raise problem
        absent |= dict.fromkeys((beginning_of_names(servers[number].name), *_SHARED_NAMES), "")
        LOG.log(logging.WARNING, "an agent goes on without the tools of a server: %s", problem)
    there = [each for number, each in enumerate(connections) if number not in problems]
    return [*(each for tools in found for each in tools), *await _shared_tools(there, manifest)]


async def _list(
    connection: Connection,
    manifest: AgentManifest,
    found: list[list[McpTool]],
    problems: dict[int, ToolError],
    absent: dict[str, str],
    number: int,
) -> None:
    refused: list[tuple[McpTool, str]] = []
    try:
        tools = await tools_of(connection, refused)
    except ToolError as error:
        problems[number] = error
        return
    for each, why in refused:
        absent[each.definition.name] = why if grants(manifest.capabilities, each.capability) else ""
    found[number] = [each for each in tools if grants(manifest.capabilities, each.capability)]


async def tools_of(connection: Connection, refused: list[tuple[McpTool, str]] | None = None) -> list[McpTool]:
    """Return the tools of a server that its `capabilities` take, without those that have changed.

    Those are added to `refused`, if that is given, each with what a model is told that calls it.

    Raises:
      ToolError: if they cannot be had.
    """
    _, listing, pins = await connection.listing()
    tools = []
    for own in listing.tools.values():
        if not _takes(connection.server, own.name):
            continue
        tool = McpTool(connection, own)
        if problem := pins.problem(own):
            fix = "; agentpool pins shows what is new, and approves it" if connection.server.pin else ""
            server = connection.server.name
            LOG.warning("the tool %s of MCP server %s %s%s", ascii(own.name), server, problem, fix)
            if refused is not None:
                refused.append((tool, _refusal(connection.server, own.name, problem)))
        else:
            tools.append(tool)
    return tools


def _refusal(server: McpServer, tool: str, problem: str) -> str:
    fix = ". `agentpool pins` shows what is new, and approves it" if server.pin else ""
    return f"Not called: the tool {tool!r} of MCP server {server.name!r} {problem}{fix}"


def _takes(server: McpServer, tool: str) -> bool:
    return "*" in server.capabilities or tool in server.capabilities


@attrs.frozen(eq=False)
class McpTool:
    """A tool of a server.

    Attributes:
      own: how the server describes it.
      definition: how the model sees it.
      capability: what a manifest must grant for it.
      timeout: none of the loop's; the `timeout` of the server counts, and not while a person is asked.
      idempotent: whether the server says that a call may be made again.
    """

    connection: Connection = attrs.field(repr=False)
    own: McpDefinition = attrs.field(repr=False)
    definition: ToolDefinition = attrs.field(
        init=False, default=attrs.Factory(lambda tool: tool.own.shown(tool.server), takes_self=True)
    )
    capability: Capability | None = attrs.field(
        init=False,
        default=attrs.Factory(lambda tool: McpCapability(tool.server, tool.own.name), takes_self=True),
    )
    timeout: float | None = attrs.field(default=math.inf, init=False)
    idempotent: bool = attrs.field(
        init=False, default=attrs.Factory(lambda tool: tool.own.is_idempotent, takes_self=True)
    )

    @property
    def server(self) -> str:
        """The name of its server."""
        return self.connection.server.name

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Have the server do it, and put its questions to the pool's approver.

        Raises:
          ToolError: with what went wrong; a call that may have happened is not repeated.

        Checkpoint: always. Cancellation: the server is told.
        """
        own, server = self.own, self.connection.server
        await self.check()
        # Every context of an agent can do more than a tool of the usual kind may ask of it.
        agent = cast(McpContext, ctx)
        answer = await self.connection.perform(
            lambda session: session.call(
                own.name,
                arguments,
                ask=_ask_of(agent, server.name, self.definition.name, arguments),
                progress=_progress_of(agent, self.definition.name),
            )
        )
        return result_of(answer)

    async def check(self) -> None:
        """Look whether it still is what was approved.

        Raises:
          ToolError: if it is not, or the server cannot be had.
        """
        name, server = self.own.name, self.connection.server
        _, listing, pins = await self.connection.listing()
        current = listing.tools.get(name)
        if current is None:
            raise ToolError(f"MCP server {server.name!r} has no tool {name!r} any more")
        if problem := pins.problem(current):
            raise ToolError(_refusal(server, name, problem))


def _ask_of(ctx: AsksPeople, server: str, tool: str, arguments: Mapping[str, Any]) -> Ask:
    async def ask(params: types.ElicitRequestParams) -> types.ElicitResult:
        return await ask_person(ctx, server, tool, arguments, params)

    return ask


def _progress_of(ctx: McpContext, tool: str) -> Progress:
    def progress(done: float, total: float | None, message: str) -> None:
        ctx.progressed(tool, done, total, message)

    return progress


# -- resources and prompts ----------------------------------------------------------------


async def _shared_tools(connections: Sequence[Connection], manifest: AgentManifest) -> list[Tool]:
    """Return the tools that read resources and get prompts, of the servers that have some."""
    readable: dict[str, Connection] = {}
    prompting: dict[str, Connection] = {}
    for connection in connections:
        server = connection.server
        try:
            can = (await connection.session()).capabilities
        except McpServerError:
            continue
        for kind, has, into in ((RESOURCES, can.resources, readable), (PROMPTS, can.prompts, prompting)):
            granted = grants(manifest.capabilities, McpCapability(server.name, kind))
            if has is not None and granted and _takes(server, kind):
                into[server.name] = connection
    tools: list[Tool] = []
    if readable:
        tools += [
            _SharedTool(_described(_LIST_RESOURCES, readable), readable, list_resources),
            _SharedTool(_described(_READ_RESOURCE, readable), readable, _read),
        ]
    if prompting:
        tools += [
            _SharedTool(_described(_LIST_PROMPTS, prompting), prompting, list_prompts),
            _SharedTool(_described(_GET_PROMPT, prompting), prompting, _get),
        ]
    return tools


_LIST_RESOURCES = ToolDefinition("list_mcp_resources", "List the resources that a server has.", {})
_READ_RESOURCE = ToolDefinition(
    "read_mcp_resource", "Read a resource of a server.", {"uri": {"type": "string"}}
)
_LIST_PROMPTS = ToolDefinition("list_mcp_prompts", "List the prompts that a server has.", {})
_GET_PROMPT = ToolDefinition(
    "get_mcp_prompt",
    "Get a prompt of a server, filled with arguments.",
    {
        "name": {"type": "string"},
        "arguments": {"type": "object", "additionalProperties": {"type": "string"}, "default": {}},
    },
)


_SHARED_NAMES = tuple(each.name for each in (_LIST_RESOURCES, _READ_RESOURCE, _LIST_PROMPTS, _GET_PROMPT))


def _described(each: ToolDefinition, connections: Mapping[str, Connection]) -> ToolDefinition:
    schema = {
        "type": "object",
        "properties": {"server": {"type": "string", "enum": list(connections)}, **each.input_schema},
        "required": ["server", *(name for name, one in each.input_schema.items() if "default" not in one)],
        "additionalProperties": False,
    }
    return ToolDefinition(each.name, each.description, schema)


@attrs.frozen(eq=False)
class _SharedTool:
    """A tool that is for several servers, each of which was granted by itself."""

    definition: ToolDefinition
    connections: Mapping[str, Connection] = attrs.field(repr=False)
    perform: Callable[[Connection, Mapping[str, Any], Ask | None], Any] = attrs.field(repr=False)
    capability: Capability | None = None
    timeout: float | None = math.inf
    idempotent: bool = True

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Ask the server that the arguments name.

        Raises:
          ToolError: with what went wrong.
        """
        connection = self.connections.get(str(arguments.get("server")))
        if connection is None:
            raise ToolError(f"server is one of {', '.join(self.connections)}")
        wanted = self.definition.input_schema["properties"]
        for name in self.definition.input_schema["required"]:
            if not isinstance(arguments.get(name), str):
                raise ToolError(f"{name} is a text")
        if unknown := [name for name in arguments if name not in wanted]:
            raise ToolError(f"there is no argument {unknown[0]!r}")
        agent, server = cast(McpContext, ctx), connection.server.name
        result: ToolResult = await self.perform(
            connection, arguments, _ask_of(agent, server, self.definition.name, arguments)
        )
        return result


async def list_resources(connection: Connection, _: Mapping[str, Any], __: Ask | None = None) -> ToolResult:
    """Return the resources of a server, and its templates for more of them, as lines."""

    async def get(session: Session) -> list[Any]:
        client = session.client
        found = await session.pages(
            lambda params: client.list_resources(params=params), lambda page: page.resources, 1000
        )
        templates = await session.pages(
            lambda params: client.list_resource_templates(params=params),
            lambda page: page.resource_templates,
            1000,
        )
        return [*found, *templates]

    return ToolResult(listed(await _listed(connection, get)))


async def list_prompts(connection: Connection, _: Mapping[str, Any], __: Ask | None = None) -> ToolResult:
    """Return the prompts of a server as lines."""

    async def get(session: Session) -> list[Any]:
        client = session.client
        return await session.pages(
            lambda params: client.list_prompts(params=params), lambda page: page.prompts, 1000
        )

    return ToolResult(listed(await _listed(connection, get)))


async def _listed(connection: Connection, get: Callable[[Session], Any]) -> list[Any]:
    seconds = connection.server.timeout
    return await connection.perform(
        lambda session: session.within(seconds, "list what it has", partial(get, session))
    )


async def _read(connection: Connection, arguments: Mapping[str, Any], ask: Ask | None) -> ToolResult:
    return await read_resource(connection, str(arguments["uri"]), ask)


async def _get(connection: Connection, arguments: Mapping[str, Any], ask: Ask | None) -> ToolResult:
    given = arguments.get("arguments") or {}
    if not isinstance(given, Mapping):
        raise ToolError("arguments is a table of texts")
    return await get_prompt(connection, str(arguments["name"]), {k: str(v) for k, v in given.items()}, ask)


async def read_resource(connection: Connection, uri: str, ask: Ask | None = None) -> ToolResult:
    """Read a resource of a server."""

    async def read(session: Session) -> Any:
        async def send(more: Mapping[str, Any]) -> Any:
            return await session.client.read_resource(uri, **more, allow_input_required=True)

        return await session.asking(f"read {uri!r}", send, ask)

    return resource_of(await connection.perform(read))


async def get_prompt(
    connection: Connection, name: str, arguments: Mapping[str, str], ask: Ask | None = None
) -> ToolResult:
    """Get a prompt of a server, filled with arguments."""

    async def get(session: Session) -> Any:
        async def send(more: Mapping[str, Any]) -> Any:
            return await session.client.get_prompt(name, dict(arguments), **more, allow_input_required=True)

        return await session.asking(f"get the prompt {name!r}", send, ask)

    return prompt_of(await connection.perform(get))
