"""What stays the same through a run of the agent loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from agentpool._core.capability import MemoryCapability
from agentpool._core.deferring import FIND_TOOLS, split_tools, wanted
from agentpool._core.errors import Finding, ManifestError
from agentpool._core.guard import GuardLimits
from agentpool._core.messages import ToolCall, ToolDefinition
from agentpool._core.outputs import OutputSpec
from agentpool._core.pins import PIN_TOOLS
from agentpool._core.rules import fix_for_name
from agentpool._core.text import encodable
from agentpool._core.transcript import frame_tokens
from agentpool._core.usage import TokenUsage, highest_cost
from agentpool._core.value import value

if TYPE_CHECKING:
    from agentpool._core.manifest import AgentManifest

Price: TypeAlias = Callable[[TokenUsage], float | None]
"""What a usage costs in US dollars; None where nobody knows."""


@value
class Plan:
    """What stays the same through a run.

    Attributes:
      tool_choice: what requests say. `required` or the name of a tool is what the agent begins with:
        once such a tool was called, it is `auto`.
      frame: the estimated tokens of the system prompt and the tools.
      room: how many tokens the messages may have; None if the context window is not known.
      lands: whether the agent gives its answer at a limit, in one last turn, and does not fail.
      last_answer: how many tokens are kept back for the answer of that turn.
      shortest_answer: with less room than this for its answer, a turn is not begun.
      price: what a usage costs; None if nobody knows.
      summary_tokens: how long a summary of the oldest turns may be; 0 if they are dropped.
      handoffs: the names of the tools that hand the conversation over to another agent.
      collects: whether the model can start agents, which are waited for before the run ends.
      hidden: tools that are not shown before the model has found or called them; with those that are by now.
      finds: whether `find_tools` is the loop's own, also while nothing is hidden: in a run that is resumed
        there may be fewer tools than there were.
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
    lands: bool
    last_answer: int
    shortest_answer: int
    price: Price | None
    summary_tokens: int = 0
    handoffs: frozenset[str] = frozenset()
    collects: bool = False
    hidden: tuple[ToolDefinition, ...] = ()
    finds: bool = False

    def cost(self, usage: TokenUsage) -> float:
        """Return what a call may cost at the most by its estimate; 0 if nobody knows."""
        if self.price is None:
            return 0.0
        return highest_cost(self.price, usage.input_tokens, usage.output_tokens) or 0.0

    def once_called(self, calls: Sequence[ToolCall]) -> Plan:
        """Return the plan after these calls: who had to call a tool and did need not do so again."""
        forced = self.tool_choice
        if forced == "auto" or forced == "none":
            return self
        called = {call.name for call in calls if not call.problem}
        if called if forced == "required" else forced in called:
            return attrs.evolve(self, tool_choice="auto")
        return self

    def showing(self, names: Collection[str]) -> Plan:
        """Return the plan with these tools shown as well, if they are hidden."""
        shown = {tool.name for tool in self.tools}
        found = tuple(tool for tool in self.hidden if tool.name in names and tool.name not in shown)
        if not found:
            return self
        tools = (*self.tools, *found)
        frame = frame_tokens(self.system, tools)
        room = None if self.room is None else max(0, self.room - (frame - self.frame))
        return attrs.evolve(self, tools=tools, frame=frame, room=room)

    def after(self, calls: Sequence[ToolCall]) -> Plan:
        """Return the plan after a turn's calls: what they found is shown from now on."""
        return self.showing(wanted(self.hidden, calls)) if self.hidden else self


def plan_of(
    manifest: AgentManifest,
    tools: tuple[ToolDefinition, ...],
    context_window: int | None,
    output: OutputSpec | None,
    limits: GuardLimits,
    price: Price | None,
    missing: Collection[str] = (),
) -> Plan:
    """Return the plan of a run.

    Raises:
      ManifestError: if the manifest's `tool_choice` is for a tool that the agent does not have and that is
        none of `missing`, or a tool has the name of one of the loop's own.
    """
    model = manifest.model
    choice = _tool_choice(manifest, tools, missing)
    tools, hidden = split_tools(tools)
    if hidden and any(tool.name == FIND_TOOLS.name for tool in tools[:-1]):
        problem = f"gives the agent a tool {FIND_TOOLS.name!r} of the loop's own, and it has one of that name"
        fix = "Rename that tool, or grant fewer tools of MCP servers"
        raise ManifestError([Finding(f"manifest {manifest.name!r}", "mcp_servers", problem, fix)])
    sums_up = model.compaction == "summary"
    if sums_up:
        tools = _with_pins(manifest, tools)
    system = encodable(model.system_prompt)
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
    lands = manifest.resources.on_limit == "answer"
    last_answer, shortest_answer = _landing_answers(max_tokens, limits.max_tokens) if lands else (0, 1)
    plan = Plan(
        model=model.remote_model or "",
        system=system,
        tools=tools,
        max_tokens=max_tokens,
        temperature=model.temperature,
        stop=tuple(model.stop),
        tool_choice=choice,
        parallel_tool_calls=model.parallel_tool_calls,
        output_schema=None if output is None else output.schema,
        reasoning=model.reasoning,
        options=model.options,
        frame=frame,
        room=room,
        remembers=any(isinstance(granted, MemoryCapability) for granted in manifest.capabilities),
        output=output,
        lands=lands,
        last_answer=last_answer,
        shortest_answer=shortest_answer,
        price=price,
        summary_tokens=_summary_tokens(max_tokens, room) if sums_up else 0,
        hidden=hidden,
        finds=bool(hidden)
        or (bool(manifest.mcp_servers) and all(tool.name != FIND_TOOLS.name for tool in tools)),
    )
    return plan.showing([choice]) if hidden and choice is not None else plan


LONGEST_SUMMARY = 4096
"""A summary has so many tokens at the most: it is read again in each turn after it."""


def _summary_tokens(max_tokens: int, room: int | None) -> int:
    longest = min(max_tokens, LONGEST_SUMMARY)
    return longest if room is None else max(1, min(longest, room // 8))


def _with_pins(manifest: AgentManifest, tools: tuple[ToolDefinition, ...]) -> tuple[ToolDefinition, ...]:
    names = {tool.name for tool in tools}
    for own in PIN_TOOLS:
        if own.name in names:
            problem = f"gives the agent a tool {own.name!r} of the loop's own, and it has one of that name"
            fix = "Rename that tool, or leave compaction at 'drop'"
            raise ManifestError([Finding(f"manifest {manifest.name!r}", "model.compaction", problem, fix)])
    return (*tools, *PIN_TOOLS)


def _landing_answers(max_tokens: int, budget: int | None) -> tuple[int, int]:
    """Return how long an answer the last turn is sure to have room for, and the shortest before it.

    An eighth of a budget is kept back for the answer at the most, so that small budgets do some work.
    """
    shortest = min(max_tokens, 256)
    if budget is None:
        return max_tokens, shortest
    return min(max_tokens, max(1, budget // 8)), min(shortest, max(1, budget // 32))


def _tool_choice(
    manifest: AgentManifest, tools: tuple[ToolDefinition, ...], missing: Collection[str]
) -> str | None:
    choice = manifest.model.tool_choice
    names = [tool.name for tool in tools]
    if choice is None or choice == "auto" or choice == "none":
        return choice if tools else None  # providers refuse a choice where there is nothing to choose
    if choice in names or (choice == "required" and names):
        return choice
    if any(choice == "required" or choice.startswith(each) for each in missing):
        return "auto" if tools else None  # nobody can keep it now, and nothing in the file is wrong
    if choice == "required":
        problem = "'required' cannot be kept: the agent has no tools"
        fix = "Give it tools, or remove tool_choice"
    else:
        problem = f"{choice!r} is no tool of this agent"
        fix = fix_for_name(choice, ["auto", "required", "none", *names])
    raise ManifestError([Finding(f"manifest {manifest.name!r}", "model.tool_choice", problem, fix)])
