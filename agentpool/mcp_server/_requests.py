"""The requests of clients: which tools there are, and calls of them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import attrs
import mcp_types as types
import trio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentpool._core.approval import ApprovalRequest, Decision
from agentpool._core.text import shown
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.pool import AgentPool
from agentpool.mcp_server._answers import answer_of, error_answer
from agentpool.mcp_server._approving import SCHEMA, ClientApprover, Rounds, decision_in, question
from agentpool.mcp_server._calls import Call, Calls, RefusedError, Teller
from agentpool.mcp_server._guard import GONE
from agentpool.mcp_server._tools import AgentTool, WrongArgumentsError

ANSWER_WITHIN = 600.0
"""Seconds that a client of 2026-07-28 has to come back with what a person said."""

Context = ServerRequestContext[Any, Any]
Answer = types.CallToolResult | types.InputRequiredResult


@asynccontextmanager
async def serving(
    pool: AgentPool, tools: Mapping[str, AgentTool], approver: ClientApprover | None
) -> AsyncIterator[Server[Any]]:
    """Open what answers the requests of clients; at the end of the block no agent of a call is left.

    Not a scope that a task leaves early: it is entered and left by the one task that serves.
    """
    calls = Calls(pool, tools)
    if approver is not None:
        approver.serve(calls)
    async with trio.open_nursery() as nursery:
        await nursery.start(calls.listen)
        requests = _Requests(calls, nursery)
        try:
            yield _server_for(requests)
        finally:
            nursery.cancel_scope.cancel("the server ends")


def _server_for(requests: _Requests) -> Server[Any]:
    server: Server[Any] = Server(
        "agentpool",
        version=version("trio-agentpool"),
        instructions="Each tool is an agent. A call may take minutes; cancelling it stops the agent.",
        on_list_tools=requests.list_tools,
        on_call_tool=requests.call_tool,
        # No argument is repeated in a header.
        get_tool_input_schema=lambda name: None,
    )
    return server


@attrs.frozen
class _Held:
    """A call whose client is asked something: its agent waits until the client calls again."""

    call: Call
    handle: AgentHandle[Any]
    rounds: Rounds
    scope: trio.CancelScope


@attrs.define(eq=False)
class _Requests:
    _calls: Calls
    _nursery: trio.Nursery
    _held: dict[str, _Held] = attrs.field(factory=dict)

    async def list_tools(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in self._calls.tools.values()])

    async def call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> Answer:
        """Run the agent that a client calls, to its end, to a question, or until the client has gone."""
        tool = self._calls.tools.get(params.name)
        if tool is None:
            names = ", ".join(list(self._calls.tools)[:20])
            raise MCPError(
                types.INVALID_PARAMS, f"there is no tool {shown(params.name)}. The tools are: {names}"
            )
        answer: Answer | None = None
        teller = _teller_for(ctx)
        async with trio.open_nursery() as nursery:
            if teller is not None:
                nursery.start_soon(teller.run)
            gone = _gone_in(ctx)
            if gone is not None:
                nursery.start_soon(_cancel_when, gone, nursery.cancel_scope)
            answer = await self._called(ctx, tool, params, teller)
            nursery.cancel_scope.cancel("the call has its answer")
        if answer is None:
            raise MCPError(types.CONNECTION_CLOSED, "the client has gone")
        return answer

    async def _called(
        self, ctx: Context, tool: AgentTool, params: types.CallToolRequestParams, teller: Teller | None
    ) -> Answer:
        if params.request_state is not None:
            return await self._gone_on_with(tool, params, teller)
        call = Call(tool, teller)
        rounds = Rounds(call)
        call.ask = _asker_for(ctx, rounds)
        try:
            handle = await self._calls.spawn(call, params.arguments or {})
        except (WrongArgumentsError, RefusedError) as error:
            return error_answer(f"{tool.name}: {error}")
        return await self._to_its_end(call, handle, rounds)

    async def _gone_on_with(
        self, tool: AgentTool, params: types.CallToolRequestParams, teller: Teller | None
    ) -> Answer:
        """Go on with a call whose client was asked something."""
        held = self._held.get(params.request_state or "")
        if held is None or held.call.tool is not tool:
            await trio.lowlevel.checkpoint()
            return error_answer(f"{tool.name}: this call has ended, or its answer came too late. Call again")
        del self._held[params.request_state or ""]
        held.scope.cancel("the client has called again")
        held.call.teller = teller
        held.rounds.answer(params.input_responses or {})
        return await self._to_its_end(held.call, held.handle, held.rounds)

    async def _to_its_end(self, call: Call, handle: AgentHandle[Any], rounds: Rounds) -> Answer:
        outcome = await self._calls.wait(call, handle)
        if outcome is not None:
            return answer_of(call.tool, outcome)
        call.teller = None
        state = secrets.token_urlsafe(32)
        held = self._held[state] = _Held(call, handle, rounds, trio.CancelScope())
        self._nursery.start_soon(self._abort_later, state, held)
        asked = {key: _elicitation(request) for key, request in rounds.send().items()}
        return types.InputRequiredResult(input_requests=dict(asked), request_state=state)

    async def _abort_later(self, state: str, held: _Held) -> None:
        """Abort an agent whose client does not come back, or when the server ends."""
        try:
            with held.scope:
                await trio.sleep(ANSWER_WITHIN)
        finally:
            if self._held.pop(state, None) is not None:
                await self._calls.abort(held.handle, "its client did not come back with an answer")


def _described(tool: AgentTool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.agent_name,
        description=tool.description,
        input_schema=dict(tool.input_schema),
        output_schema=None if tool.output_schema is None else dict(tool.output_schema),
    )


def _teller_for(ctx: Context) -> Teller | None:
    """Return what tells the client, if it gave a token: 0 is one, and so is an empty text."""
    meta = (ctx.params or {}).get("_meta")
    token = meta.get("progressToken") if isinstance(meta, Mapping) else None
    if not isinstance(token, str | int) or isinstance(token, bool):
        return None

    async def tell(number: float, line: str) -> None:
        await ctx.session.report_progress(number, message=line)

    return Teller(tell)


def _gone_in(ctx: Context) -> trio.Event | None:
    scope = getattr(ctx.request, "scope", None)
    return scope.get(GONE) if isinstance(scope, Mapping) else None


async def _cancel_when(gone: trio.Event, scope: trio.CancelScope) -> None:
    await gone.wait()
    scope.cancel("the client has gone")


# -- asking the client -------------------------------------------------------------------


def _asker_for(ctx: Context, rounds: Rounds) -> Any:
    capabilities = ctx.session.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        return None
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return rounds
    return partial(_ask_by_request, ctx) if ctx.session.can_send_request else None


async def _ask_by_request(ctx: Context, request: ApprovalRequest) -> Decision:
    said = await ctx.session.elicit_form(question(request), dict(SCHEMA), ctx.request_id)
    return decision_in(said.action, said.content)


def _elicitation(request: ApprovalRequest) -> types.ElicitRequest:
    params = types.ElicitRequestFormParams(message=question(request), requested_schema=dict(SCHEMA))
    return types.ElicitRequest(params=params)
