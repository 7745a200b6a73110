"""What a server wants to know from a person: put to the approver of the pool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import mcp_types as types

from agentpool._core.approval import Answered, ApprovalRequest, Approved, Decision, Question
from agentpool._core.errors import ToolError
from agentpool._core.mcp import LONGEST_SCHEMA, seen
from agentpool._core.messages import ToolCall
from agentpool._core.schemas import problems_of

LONGEST_MESSAGE = 4096


class AsksPeople(Protocol):
    """The part of an agent's context that leads to a person."""

    @property
    def id(self) -> int:
        """The agent's id."""
        ...

    @property
    def name(self) -> str:
        """The agent's name."""
        ...

    async def ask_approver(self, request: ApprovalRequest, call_key: str | None = None) -> Decision:
        """Ask the pool's approver."""
        ...


async def ask_person(
    ctx: AsksPeople, server: str, tool: str, arguments: Mapping[str, Any], params: types.ElicitRequestParams
) -> types.ElicitResult:
    """Put a question to the pool's approver, and return what it says; without one it is declined.

    Raises:
      ToolError: if the answer does not fit the form, or the form is too long.
    """
    question = question_of(server, params)
    call = ToolCall("", tool, dict(arguments))
    request = ApprovalRequest.of(ctx.id, ctx.name, call, f"a question of MCP server {server!r}")
    decision = await ctx.ask_approver(request.asking(question))
    if isinstance(decision, Approved):
        return result_for(question, _defaults(question.schema or {}))
    return result_for(question, decision.content if isinstance(decision, Answered) else None)


def result_for(question: Question, content: Mapping[str, Any] | None) -> types.ElicitResult:
    """Return what a server is told: the form filled in, or that it was declined.

    Raises:
      ToolError: if the answer does not fit the form.
    """
    if content is None:
        return types.ElicitResult(action="decline")
    if question.schema is None:
        return types.ElicitResult(action="accept")
    problems = problems_of(dict(content), question.schema)
    if problems:
        server = question.server
        raise ToolError(f"the answer to the question of MCP server {server!r} does not fit: {problems[0]}")
    return types.ElicitResult(action="accept", content=dict(content))


def question_of(server: str, params: types.ElicitRequestParams) -> Question:
    """Return what a server asks, within bounds.

    Raises:
      ToolError: if the form is too long.
    """
    message = seen(params.message)
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]} [cut: the question has {len(message):,} letters]"
    if isinstance(params, types.ElicitRequestURLParams):
        return Question(server, message, None, params.url)
    schema = params.requested_schema
    if len(json.dumps(schema)) > LONGEST_SCHEMA:
        raise ToolError(f"the question of MCP server {server!r} has a form that is too long")
    return Question(server, message, _without_patterns(schema))


def _without_patterns(schema: Any) -> Any:
    """Return a schema without regular expressions: some take years, in which the whole pool stands still.

    The server looks at what it is told by itself.
    """
    if isinstance(schema, Mapping):
        return {
            key: _without_patterns(each)
            for key, each in schema.items()
            if not (key == "pattern" and isinstance(each, str))
        }
    return [_without_patterns(each) for each in schema] if isinstance(schema, list) else schema


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a form as it is before anybody has filled it in."""
    properties = schema.get("properties")
    fields = properties.items() if isinstance(properties, Mapping) else ()
    return {name: each["default"] for name, each in fields if isinstance(each, Mapping) and "default" in each}
