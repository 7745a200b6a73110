"""What servers answer, as a model is told it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, assert_never

import mcp_types as types

from agentpool._core.content import Document, Image, Part, Text
from agentpool._core.mcp import seen
from agentpool._core.messages import ToolResult

_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TEXTS = (
    "application/json",
    "application/xml",
    "application/javascript",
    "application/yaml",
    "image/svg+xml",
)


class _Note(Text):
    """A text that stands for something that cannot be shown."""


def result_of(answer: types.CallToolResult) -> ToolResult:
    """Return what a call came to: text, pictures, documents; structured content if there is no text."""
    parts = list(map(_part, answer.content))
    has_text = any(
        isinstance(part, Text) and not isinstance(part, _Note) and part.text.strip() for part in parts
    )
    if answer.structured_content is not None and not has_text:
        parts.append(Text(json.dumps(answer.structured_content, ensure_ascii=False)))
    return ToolResult(_content(parts), is_error=bool(answer.is_error))


def resource_of(answer: types.ReadResourceResult) -> ToolResult:
    """Return what a resource holds."""
    return ToolResult(_content(map(_contents, answer.contents)) or "(empty)")


def prompt_of(answer: types.GetPromptResult) -> ToolResult:
    """Return the messages of a prompt, each with who is to have said it."""
    parts: list[Part] = []
    for message in answer.messages:
        parts += [Text(f"{message.role}:"), _part(message.content)]
    return ToolResult(_content(parts) or "(empty)")


def _content(parts: Iterable[Part]) -> str | tuple[Part, ...]:
    """Return parts as content: one text if there is nothing else."""
    parts = [Text(part.text) if isinstance(part, _Note) else part for part in parts]
    parts = [part for part in parts if not isinstance(part, Text) or part.text]
    if all(isinstance(part, Text) for part in parts):
        return "\n".join(part.text for part in parts if isinstance(part, Text))
    return tuple(parts)


def _part(block: types.ContentBlock) -> Part:
    match block:
        case types.TextContent(text=text):
            return Text(text)
        case types.ImageContent(data=data, mime_type=kind):
            return _file(data, kind, "")
        case types.AudioContent(data=data, mime_type=kind):
            return _file(data, kind, "")
        case types.EmbeddedResource(resource=resource):
            return _contents(resource)
        case types.ResourceLink():
            about = ", ".join(filter(None, (block.name, block.mime_type, block.description)))
            return Text(seen(f"[resource {block.uri}: {about}]"))
        case _:
            assert_never(block)


def _contents(resource: types.TextResourceContents | types.BlobResourceContents) -> Part:
    if isinstance(resource, types.TextResourceContents):
        return Text(f"[resource {resource.uri}]\n{resource.text}")
    kind = (resource.mime_type or "application/octet-stream").lower()
    if kind.startswith("text/") or kind.partition(";")[0] in _TEXTS:
        data = _bytes(resource.blob)
        if data is not None:
            return Text(f"[resource {resource.uri}]\n{data.decode('utf-8', 'replace')}")
    return _file(resource.blob, kind, resource.uri)


def _file(text: str, kind: str, name: str) -> Part:
    data, kind = _bytes(text), kind.strip().lower()
    if data is None:
        return _Note(f"[{kind}, whose bytes cannot be read]")
    if not data:
        return _Note(f"[{kind}, empty]")
    if kind in _PICTURES:
        return Image(data, kind)
    if kind == "application/pdf":
        return Document(data, kind, name=seen(name))
    # A provider refuses the whole request for a kind that it does not know.
    return _Note(f"[{f'{seen(name)}, ' if name else ''}{kind}, {len(data):,} bytes, which cannot be shown]")


def _bytes(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def listed(items: Iterable[Any], most: int = 200) -> str:
    """Return resources or prompts as lines, each with its name and what it is."""
    lines = []
    for each in items:
        name = getattr(each, "uri", None) or getattr(each, "uri_template", None) or each.name
        about = " ".join(filter(None, (each.title or each.name, each.description or "")))
        arguments = getattr(each, "arguments", None) or ()
        takes = ", ".join(f"{one.name}{'' if one.required else '?'}" for one in arguments)
        lines.append(seen(f"- {name}{f' ({takes})' if takes else ''}: {about[:300]}"))
    more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
    return "\n".join([*lines[:most], *more]) or "There are none."
