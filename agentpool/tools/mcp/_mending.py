"""What servers say a little wrong, made into what the SDK takes: else it refuses all of it.

A call whose answer is refused has happened nevertheless, and a model that is told of an error makes it again.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import mcp_types as types
from mcp_types import JSONRPCError, JSONRPCResponse
from pydantic import TypeAdapter, ValidationError

LOG = logging.getLogger("agentpool.mcp")

_LONGEST = 10_000
"""So many letters of an error that is none are told."""

_BARE = ({"id", "result"}, {"id", "error"})
"""The keys of an answer that does not say of which protocol it is."""

_BLOCK: TypeAdapter[Any] = TypeAdapter(types.ContentBlock)


def answer_in(data: Any) -> JSONRPCResponse | JSONRPCError | None:
    """Return the answer in a message that the SDK does not take; None if it answers nothing.

    Whoever waits for it has to hear of it: else the call waits for its time limit. But many servers print
    JSON of their own between the messages, such as lines of a log, and that is no answer. Nor is an error
    without a number: many servers answer so to a notification.
    """
    if not isinstance(data, dict) or "method" in data:
        return None
    if data.get("jsonrpc") != "2.0" and data.keys() not in _BARE:
        return None
    number, result, error = data.get("id"), data.get("result"), data.get("error")
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int | str):
        return None
    if isinstance(result, dict) and not error:
        return JSONRPCResponse(jsonrpc="2.0", id=number, result=result)
    return JSONRPCError(jsonrpc="2.0", id=number, error=_error_of(error, result))


def _error_of(error: Any, result: Any) -> types.ErrorData:
    said = error.get("message") if isinstance(error, dict) else error
    code = error.get("code") if isinstance(error, dict) else None
    if not isinstance(said, str) or not said.strip():
        said = _as_json(error) if error else f"its answer is no result: {_as_json(result)}"
    return types.ErrorData(code=code if type(code) is int else types.INTERNAL_ERROR, message=said[:_LONGEST])


def answer_to(number: str | int, body: bytes) -> bytes:
    """Return the body that answers a request of HTTP, with the request's number, which some get wrong."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(data, dict):
        return body
    own = data.get("id")
    is_usual = data.get("jsonrpc") == "2.0" and isinstance(data.get("result"), dict)
    if is_usual and (type(own), own) == (type(number), number):
        return body
    answer = answer_in({**data, "jsonrpc": "2.0", "id": number})
    return body if answer is None else answer.model_dump_json(by_alias=True, exclude_unset=True).encode()


def mend(result: dict[str, Any]) -> None:
    """Mend a result of any method, in place: it is told apart by what it has."""
    if isinstance(result.get("tools"), list):
        result["tools"] = _tools(result["tools"])
    if "content" in result or "structuredContent" in result:
        _mend_answer(result)
    for message in result["messages"] if isinstance(result.get("messages"), list) else ():
        if isinstance(message, dict) and "content" in message:
            message["content"] = _block(message["content"])


def _tools(tools: list[Any]) -> list[Any]:
    """Take out of a list of tools what is none."""
    kept = []
    for each in tools:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            LOG.warning("an MCP server lists something that is no tool: it has no name")
            continue
        schema = each.get("inputSchema")
        each["inputSchema"] = {**(schema if isinstance(schema, dict) else {}), "type": "object"}
        each.pop("outputSchema", None)  # nobody looks at it here, and many are none
        kept.append(each)
    return kept


def _mend_answer(result: dict[str, Any]) -> None:
    """Make a list of blocks of what a tool returned; what is nothing of the kind stays, and is refused."""
    content = result.get("content")
    if content is None and result.get("structuredContent") is not None:
        content = []
    elif isinstance(content, str | dict):
        content = [content]
    if isinstance(content, list):
        result["content"] = [_block(block) for block in content]
    structured = result.get("structuredContent")
    if structured is not None and not isinstance(structured, dict) and isinstance(result["content"], list):
        # Any value is right in 2026-07-28, and before that none but an object.
        del result["structuredContent"]
        if not any(
            isinstance(each, dict) and str(each.get("text", "")).strip() for each in result["content"]
        ):
            result["content"].append({"type": "text", "text": _as_json(structured)})
    if result.get("isError", False) is None:
        del result["isError"]


def _block(block: Any) -> Any:
    """Return a block of content as it is, or as a text if it is of no kind that is known here."""
    if isinstance(block, str):
        return {"type": "text", "text": block}
    try:
        _BLOCK.validate_python(block, by_name=False)
    except (ValidationError, RecursionError):
        LOG.debug("an MCP server sent a block of content that is none")
    else:
        return block
    text = block.get("text") if isinstance(block, dict) else None
    return {"type": "text", "text": text if isinstance(text, str) else _as_json(block)}


def _as_json(block: Any) -> str:
    try:
        return json.dumps(block, ensure_ascii=False)
    except RecursionError:
        return "[something that is nested too deeply to be shown]"
