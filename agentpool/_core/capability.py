"""What an agent may do: granted capabilities and the privacy tier, both of which only narrow."""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs


class PrivacyTier(enum.Enum):
    """Where an agent's words may travel to.

    `SOVEREIGN` is this machine only (loopback), `PRIVATE` adds the hosts that you run yourself,
    `STANDARD` is anywhere.
    """

    SOVEREIGN = "sovereign"
    PRIVATE = "private"
    STANDARD = "standard"

    def permits(self, other: PrivacyTier) -> bool:
        """Whether words of this tier may go to a place that keeps `other`."""
        order = [PrivacyTier.SOVEREIGN, PrivacyTier.PRIVATE, PrivacyTier.STANDARD]
        return order.index(other) <= order.index(self)


@attrs.frozen
class MemoryCapability:
    """May remember and recall."""


@attrs.frozen
class RagCapability:
    """May search documents."""


@attrs.frozen
class BrowserCapability:
    """May drive a browser."""


@attrs.frozen
class InferenceCapability:
    """May call a model as a tool."""


@attrs.frozen
class ComputeCapability:
    """May compute."""


@attrs.frozen
class MessagingCapability:
    """May send messages to other agents and receive theirs, as tools."""


@attrs.frozen
class FileReadCapability:
    """May read below these paths."""

    allowed_paths: tuple[str, ...] = attrs.field(converter=tuple)


@attrs.frozen
class FileWriteCapability:
    """May write below these paths."""

    allowed_paths: tuple[str, ...] = attrs.field(converter=tuple)


@attrs.frozen
class ShellCapability:
    """May run these commands; `*` is any."""

    allowed_commands: tuple[str, ...] = attrs.field(converter=tuple)


@attrs.frozen
class NetworkCapability:
    """May reach these hosts; `*` is any."""

    allowed_hosts: tuple[str, ...] = attrs.field(converter=tuple)


@attrs.frozen
class SpawnCapability:
    """May spawn agents, down to `max_depth` levels below itself."""

    max_depth: int = 1


@attrs.frozen
class McpCapability:
    """May call `tool` (or `*`) of the MCP server named `server`."""

    server: str
    tool: str = "*"


Capability: TypeAlias = (
    MemoryCapability
    | RagCapability
    | BrowserCapability
    | InferenceCapability
    | ComputeCapability
    | MessagingCapability
    | FileReadCapability
    | FileWriteCapability
    | ShellCapability
    | NetworkCapability
    | SpawnCapability
    | McpCapability
)

CAPABILITY_TYPES: dict[str, type[Capability]] = {
    "memory": MemoryCapability,
    "rag": RagCapability,
    "browser": BrowserCapability,
    "inference": InferenceCapability,
    "compute": ComputeCapability,
    "messaging": MessagingCapability,
    "file_read": FileReadCapability,
    "file_write": FileWriteCapability,
    "shell": ShellCapability,
    "network": NetworkCapability,
    "spawn": SpawnCapability,
    "mcp": McpCapability,
}
"""The `type` of a `[[capabilities]]` entry, and the value it becomes."""
