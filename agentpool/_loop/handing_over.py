"""What goes on behind a handoff: the agent that a model handed its conversation over to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from agentpool import abc
from agentpool._core.budget import Budget
from agentpool._core.errors import LoopHaltedError
from agentpool._core.messages import ToolCall
from agentpool._core.outcomes import AgentResult
from agentpool._core.perceiving import as_note, harmless

if TYPE_CHECKING:
    from agentpool._kernel.context import AgentContext

MAX_HANDOFFS = 16
"""So often a conversation may be handed over: agents that send it round would never answer."""


@attrs.frozen
class Before:
    """What came before a run that goes on with another one's conversation.

    Attributes:
      names: the agents to which it was handed, the one that runs now last.
      budget: what the first of them may use.
    """

    names: tuple[str, ...]
    budget: Budget | None


def handoffs_of(tools: abc.ToolSet | None) -> frozenset[str]:
    """Return the names of the tools that hand a conversation over."""
    if tools is None:
        return frozenset()
    return frozenset(name for name in tools.names if getattr(tools.get(name), "hands_off", False))


async def handed_over(
    by: str,
    ctx: AgentContext,
    call: ToolCall,
    result: AgentResult[Any],
    tools: abc.ToolSet,
    before: Before,
) -> AgentResult[Any]:
    """Have another agent go on with a conversation, and return its answer, with the usage of both.

    Args:
      by: the name of the agent that handed it over.
      ctx: the agent on whose behalf both work.
      call: that of `hand_off`, as it was made.
      result: what its run came to.
      tools: those of the agent that handed it over.
      before: what came before it.

    Raises:
      LoopHaltedError: if it was handed over too often; otherwise as the run of the other agent.
    """
    target, told = tools.granted(call.name).target(call.input)  # type: ignore[attr-defined]
    names = (*before.names, target.name)
    if len(names) > MAX_HANDOFFS:
        reason = f"the conversation was handed over {MAX_HANDOFFS} times: {' -> '.join(names[-4:])}"
        raise LoopHaltedError(reason, usage=result.usage, transcript=result.transcript)
    said = harmless(told).strip()
    note = as_note(f"{by} has handed this conversation over to you: go on in its place. {said}".strip())
    answer: AgentResult[Any] = await target._answer(
        ctx, note.content, tuple(result.transcript), Before(names, before.budget)
    )
    return attrs.evolve(
        answer,
        usage=result.usage + answer.usage,
        iterations=result.iterations + answer.iterations,
        tool_calls=result.tool_calls + answer.tool_calls,
        handed_over=answer.handed_over or names,
    )
