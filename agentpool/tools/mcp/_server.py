"""A server, as a program uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import attrs
import httpx2
import mcp_types as types

from agentpool._core.approval import Question
from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import ToolError
from agentpool._core.mcp import ServerPins
from agentpool._core.mcp_servers import McpServer
from agentpool._core.messages import ToolResult
from agentpool.tools.mcp._asking import question_of, result_for
from agentpool.tools.mcp._connection import Connection, open_connection
from agentpool.tools.mcp._inbound import Progress
from agentpool.tools.mcp._oauth import interactive_auth
from agentpool.tools.mcp._pins import PinFile
from agentpool.tools.mcp._results import result_of
from agentpool.tools.mcp._session import Ask
from agentpool.tools.mcp._tools import (
    McpTool,
    get_prompt,
    list_prompts,
    list_resources,
    read_resource,
    tools_of,
)

Answers: TypeAlias = Callable[[Question], Awaitable[Mapping[str, Any] | None]]
"""Answers a question: with the form filled in, an empty table where there is none. None declines."""


@attrs.frozen(eq=False)
class OpenServer:
    """An open server.

    It is opened again by itself when it has died; a call that may have happened is not repeated.

    Attributes:
      tools: its tools, as agents may be given them: `ModelAgent(manifest, tools=server.tools)`. An agent
        uses those that its manifest grants.
      version: the revision of the protocol that both speak, such as `2026-07-28`.
    """

    _connection: Connection
    tools: tuple[McpTool, ...]
    version: str

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        progress: Progress | None = None,
        answers: Answers | None = None,
    ) -> ToolResult:
        """Call a tool by the server's own name for it.

        Args:
          tool: its name.
          arguments: what it takes.
          progress: is told how far it is: a number, of how much if that is known, and a text.
          answers: answers what the server wants to know meanwhile; without it all is declined.

        Raises:
          ToolError: with what went wrong; of a tool's own errors the result tells.

        Checkpoint: always. Cancellation: the server is told.
        """
        found = next((each for each in self.tools if each.own.name == tool), None)
        if found is None:
            raise ToolError(f"the server has no tool {tool!r} that may be used")
        await found.check()
        answer = await self._connection.perform(
            lambda session: session.call(
                tool, arguments or {}, ask=_ask(self._connection.server.name, answers), progress=progress
            )
        )
        return result_of(answer)

    async def list_resources(self) -> str:
        """Return the resources that the server has, a line each. Raises `ToolError`."""
        return (await list_resources(self._connection, {})).text

    async def read_resource(self, uri: str, *, answers: Answers | None = None) -> ToolResult:
        """Read a resource. Raises `ToolError`."""
        return await read_resource(self._connection, uri, _ask(self._connection.server.name, answers))

    async def list_prompts(self) -> str:
        """Return the prompts that the server has, a line each. Raises `ToolError`."""
        return (await list_prompts(self._connection, {})).text

    async def get_prompt(
        self, name: str, arguments: Mapping[str, str] | None = None, *, answers: Answers | None = None
    ) -> ToolResult:
        """Get a prompt, filled with arguments. Raises `ToolError`."""
        ask = _ask(self._connection.server.name, answers)
        return await get_prompt(self._connection, name, arguments or {}, ask)


async def review(
    server: McpServer, *, privacy: PrivacyTier = PrivacyTier.STANDARD, accept: bool = False
) -> list[str]:
    """Return what of a server's tools is not as it was approved, a line each.

    Where nothing was approved yet, all of it is new.

    Args:
      server: one with a file of pins; of one without nothing has changed.
      privacy: where words may go.
      accept: write what the server offers now into its file of pins.

    Raises:
      ToolError: if the server cannot be had, or the file cannot be read or written.
    """
    auth = None if server.auth is None else interactive_auth(server)
    async with open_connection(server, privacy, auth) as connection:
        listing = await (await connection.session()).current_listing()
        if server.pin is None:
            return []
        file = PinFile(server.pin)
        before = await file.read(server.name)
        found = list((before or ServerPins()).differences(listing))
        if accept:
            await file.accept(server.name, listing)
        return found


def _ask(server: str, answers: Answers | None) -> Ask | None:
    if answers is None:
        return None

    async def ask(params: types.ElicitRequestParams) -> types.ElicitResult:
        question = question_of(server, params)
        return result_for(question, await answers(question))

    return ask


@asynccontextmanager
async def open_server(
    server: McpServer,
    *,
    privacy: PrivacyTier = PrivacyTier.STANDARD,
    auth: httpx2.Auth | None = None,
) -> AsyncIterator[OpenServer]:
    """Open a server for a program, which has it as the value of the block.

    Args:
      server: how it is reached.
      privacy: where words may go over HTTP: an address in a wider place is not connected to.
      auth: what shows who asks over HTTP, such as the SDK's `OAuthClientProvider`.

    Raises:
      McpServerError: if it cannot be had; with what it wrote on standard error.

    Checkpoint: always. Cancellation: the server is ended, with all that it started.
    """
    async with open_connection(server, privacy, auth) as connection:
        tools = await tools_of(connection)
        version = (await connection.session()).version
        yield OpenServer(connection, tuple(tools), version)
