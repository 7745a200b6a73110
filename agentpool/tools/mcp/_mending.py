"""What servers say a little wrong, made into what the SDK takes: else it refuses all of it.

A call whose answer is refused has happened nevertheless, and a model that is told of an error makes it again.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import mcp_types as types
from pydantic import TypeAdapter, ValidationError

LOG = logging.getLogger("agentpool.mcp")

_BLOCK: TypeAdapter[Any] = TypeAdapter(types.ContentBlock)


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
