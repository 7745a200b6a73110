"""Asking the model: what is sent, and whether there is room for it."""

from __future__ import annotations

from agentpool._core import guard as guards
from agentpool._core.effects import Reason
from agentpool._core.guard import LoopGuard
from agentpool._core.messages import CompletionRequest
from agentpool._core.states import LoopState, Step, halted


def ask(state: LoopState) -> Step:
    plan, guard, window = state.plan, state.guard, state.window
    verdict = guard.before_reason()
    if isinstance(verdict, guards.Halt):
        return halted(state, verdict.reason)
    if plan.room is not None and window.tokens > plan.room:
        # A quarter more than needed goes, so that this work is not done in every turn.
        window = window.trimmed(plan.room * 3 // 4)
    tokens = plan.frame + window.tokens + state.excess
    max_tokens = plan.max_tokens
    left = None if guard.limits.max_tokens is None else guard.tokens_left
    if left is not None and left - tokens < max_tokens:
        max_tokens = left - tokens
        if max_tokens < 1:
            return halted(state, _no_room_left(guard, tokens))
    request = CompletionRequest(
        plan.model,
        window.messages,
        plan.tools,
        max_tokens,
        plan.temperature,
        plan.system,
        plan.stop,
        plan.tool_choice,
        plan.parallel_tool_calls,
        plan.output_schema,
        plan.reasoning,
        plan.options,
    )
    reasoning = LoopState(
        plan,
        Reason,
        state.transcript,
        window,
        guard,
        None,
        "",
        state.trouble,
        state.excess,
    )
    return reasoning, Reason(request, tokens)


def _no_room_left(guard: LoopGuard, tokens: int) -> str:
    return (
        f"{guard.usage.total_tokens} tokens were used of {guard.limits.max_tokens}, and the next request"
        f" has about {tokens}: raise max_tokens_budget under [resources] if the task needs more"
    )
