"""What a client is answered: the text of an agent, its data and what it used, or why there is none."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, assert_never
from urllib.parse import quote

import attrs
import mcp_types as types

from agentpool._core.content import Content, Document, Image, Part, Text
from agentpool._core.errors import UnhandledAgentErrors
from agentpool._core.messages import ToolResult
from agentpool._core.outcomes import Aborted, AgentResult, AnyOutcome, Completed, Failed
from agentpool._core.text import encodable, named
from agentpool.tools._results import as_result

if TYPE_CHECKING:
    from agentpool.mcp_server._tools import AgentTool

MOST_BYTES = 8 * 1024 * 1024
"""A longer answer is an error: the client and its model could do nothing with it."""
LONGEST_ERROR = 4_000
"""So many characters of an error are told."""
META = "agentpool"
"""The prefix of our keys in `_meta`."""


def error_answer(text: str, meta: dict[str, Any] | None = None) -> types.CallToolResult:
    """Return the result of a call that came to nothing, which a model can read."""
    text = encodable(text)
    if len(text) > LONGEST_ERROR:
        text = f"{text[:LONGEST_ERROR]}... ({len(text):,} characters)"
    content: list[Any] = [types.TextContent(text=text)]
    return types.CallToolResult(content=content, is_error=True, _meta=meta)


def answer_of(tool: AgentTool, outcome: AnyOutcome) -> types.CallToolResult:
    """Return what a client is answered when the agent of its call has ended, however it ended."""
    meta = _meta_of(outcome)
    match outcome:
        case Completed():
            answer = _completed(tool, outcome.value, meta)
            if _size_of(answer) <= MOST_BYTES:
                return answer
            return error_answer(
                f"the answer of agent {outcome.name!r} is longer than {MOST_BYTES:,} bytes, so that it is not"
                " sent. Ask for a shorter one, or for a file",
                meta,
            )
        case Failed():
            return error_answer(_told(outcome.error), meta)
        case Aborted():
            reason = f": {outcome.reason}" if outcome.reason else ""
            return error_answer(f"agent {outcome.name!r} was aborted{reason}", meta)
        case _:
            assert_never(outcome)


def _told(error: BaseException) -> str:
    if isinstance(error, UnhandledAgentErrors):
        return "; ".join(map(_told, error.exceptions))
    return named(error)


def _meta_of(outcome: AnyOutcome) -> dict[str, Any]:
    meta: dict[str, Any] = {
        f"{META}/agent_id": outcome.agent_id,
        f"{META}/duration": outcome.duration,
        f"{META}/usage": attrs.asdict(outcome.usage),
    }
    value = outcome.value if isinstance(outcome, Completed) else None
    if isinstance(value, AgentResult) and value.stopped_by is not None:
        meta[f"{META}/stopped_by"] = value.stopped_by
    return meta


def _completed(tool: AgentTool, value: Any, meta: dict[str, Any]) -> types.CallToolResult:
    if isinstance(value, AgentResult):
        if tool.output_schema is None:
            return _answer(value.text, meta)
        data = {"result": value.output} if tool.is_wrapped else value.output
        if not isinstance(data, dict):  # clients take nothing else where a schema was promised
            return error_answer(f"agent {tool.agent_name!r} gave no answer of its schema: {value.text}", meta)
        # Halves of characters, which a model may write as `\\ud83d`, cannot be sent.
        sendable = json.loads(encodable(json.dumps(data, ensure_ascii=False)))
        return _answer(value.text, meta, sendable)
    try:
        result = as_result(value)
    except TypeError as error:
        return error_answer(f"agent {tool.agent_name!r}: {error}", meta)
    return _answer(result.content, meta, is_error=isinstance(result, ToolResult) and result.is_error)


def _answer(
    content: Content, meta: dict[str, Any], data: Any = None, *, is_error: bool = False
) -> types.CallToolResult:
    parts: tuple[Part, ...] = (Text(content),) if isinstance(content, str) else tuple(content)
    blocks: list[Any] = list(_blocks(parts))
    return types.CallToolResult(content=blocks, structured_content=data, is_error=is_error, _meta=meta)


def _blocks(parts: tuple[Part, ...]) -> Iterator[types.ContentBlock]:
    for part in parts:
        if isinstance(part, Text):
            yield types.TextContent(text=encodable(part.text))
        else:
            yield _file_block(part)


def _file_block(part: Image | Document) -> types.ContentBlock:
    name = (part.name if isinstance(part, Document) else "") or type(part).__name__.lower()
    if part.url:
        return types.ResourceLink(uri=part.url, name=name, mime_type=part.media_type or None)
    data = base64.b64encode(part.data).decode()
    if isinstance(part, Image):
        return types.ImageContent(data=data, mime_type=part.media_type)
    uri = f"agentpool:///{quote(name)}"
    resource = types.BlobResourceContents(uri=uri, mime_type=part.media_type, blob=data)
    return types.EmbeddedResource(resource=resource)


def _size_of(answer: types.CallToolResult) -> int:
    size = 0
    for block in answer.content:
        if isinstance(block, types.TextContent):
            size += len(block.text.encode())
        elif isinstance(block, types.ImageContent):
            size += len(block.data)
        elif isinstance(block, types.EmbeddedResource) and isinstance(
            block.resource, types.BlobResourceContents
        ):
            size += len(block.resource.blob)
    return size + (len(json.dumps(answer.structured_content)) if answer.structured_content is not None else 0)
