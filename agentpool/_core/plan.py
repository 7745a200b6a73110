"""What stays the same through a run of the agent loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from agentpool._core.capability import MemoryCapability
from agentpool._core.messages import ToolDefinition
from agentpool._core.transcript import frame_tokens
from agentpool._core.value import value

if TYPE_CHECKING:
    from agentpool._core.manifest import AgentManifest

# -- typed answers ----------------------------------------------------------------


@attrs.frozen
class Parsed:
    """An answer's value."""

    value: Any


@attrs.frozen
class Problems:
    """Why an answer has no value; the model is told all of it."""

    texts: tuple[str, ...]


@attrs.frozen
class OutputSpec:
    """What a typed answer has to be.

    Attributes:
      schema: the JSON schema; the model is told it at the end of its system prompt.
      parse: reads an answer; a pure function.
      retries: how many wrong answers are given back to the model, before the agent fails.
    """

    schema: Mapping[str, Any]
    parse: Callable[[str], Parsed | Problems]
    retries: int = 2

    @property
    def instruction(self) -> str:
        """What the model is told."""
        schema = json.dumps(self.schema, ensure_ascii=False)
        return f"Give your final answer as JSON that fits this schema, without other text:\n{schema}"


# -- the plan ---------------------------------------------------------------------


@value
class Plan:
    """What stays the same through a run.

    Attributes:
      frame: the estimated tokens of the system prompt and the tools.
      room: how many tokens the messages may have; None if the context window is not known.
    """

    model: str
    system: str
    tools: tuple[ToolDefinition, ...]
    max_tokens: int
    temperature: float | None
    stop: tuple[str, ...]
    tool_choice: str | None
    parallel_tool_calls: bool
    output_schema: Mapping[str, Any] | None
    reasoning: str | int | None
    options: Mapping[str, Any]
    frame: int
    room: int | None
    remembers: bool
    output: OutputSpec | None


def plan_of(
    manifest: AgentManifest,
    tools: tuple[ToolDefinition, ...],
    context_window: int | None,
    output: OutputSpec | None,
) -> Plan:
    model = manifest.model
    system = model.system_prompt
    if output is not None:
        system = f"{system}\n\n{output.instruction}" if system else output.instruction
    frame = frame_tokens(system, tools)
    max_tokens = model.max_tokens
    size = model.context_window or context_window
    room = None
    if size is not None:
        # An answer gets at most half of the window: max_tokens is often set without a thought of it.
        max_tokens = min(max_tokens, max(1, size // 2))
        room = max(0, size - max_tokens - frame)
    return Plan(
        model=model.remote_model or "",
        system=system,
        tools=tools,
        max_tokens=max_tokens,
        temperature=model.temperature,
        stop=tuple(model.stop),
        tool_choice=model.tool_choice,
        parallel_tool_calls=model.parallel_tool_calls,
        output_schema=None if output is None else output.schema,
        reasoning=model.reasoning,
        options=model.options,
        frame=frame,
        room=room,
        remembers=any(isinstance(granted, MemoryCapability) for granted in manifest.capabilities),
        output=output,
    )
