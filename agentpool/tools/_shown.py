"""Tools of which each agent is shown something else, such as the names that there are to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentpool._core.capability import Capability
from agentpool._core.messages import ToolDefinition, ToolResult
from agentpool.abc import ToolContext
from agentpool.tools._function import FunctionTool


class ShownTool:
    """The tool of a function, with a definition that is made for one agent.

    Attributes:
      capability, timeout, idempotent: as the function's tool has them.
    """

    def __init__(self, plain: FunctionTool[..., Any]) -> None:
        """Keep what is called; its definition is made when it is first asked for."""
        self.capability: Capability | None = plain.capability
        self.timeout: float | None = plain.timeout
        self.idempotent: bool = plain.idempotent
        self._plain = plain
        self._definition: ToolDefinition | None = None

    @property
    def definition(self) -> ToolDefinition:
        """How the model sees it."""
        if self._definition is None:
            self._definition = self.described(self._plain.definition)
        return self._definition

    def described(self, plain: ToolDefinition) -> ToolDefinition:
        """Return the definition, made of the function's."""
        raise NotImplementedError

    def taken(self, arguments: Mapping[str, Any]) -> Mapping[str, Any] | ToolResult:
        """Return the arguments as `call` takes them."""
        return self._plain.taken(arguments)

    async def call(self, ctx: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Do what the function does."""
        return await self._plain.call(ctx, arguments)


def with_choice(plain: ToolDefinition, argument: str, names: Sequence[str], told: str) -> ToolDefinition:
    """Return a definition in which an argument chooses from some names.

    Args:
      plain: that of the function.
      argument: its name.
      names: those that there are.
      told: what is said of them, at the end of the description.
    """
    properties = dict(plain.input_schema["properties"])
    properties[argument] = {**properties[argument], "enum": list(names)}
    description = f"{plain.description}\n\n{told}"
    return ToolDefinition(plain.name, description, {**plain.input_schema, "properties": properties})
