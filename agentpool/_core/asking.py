"""Asking the model: what is sent, whether there is room for it, and what happens at a limit."""

from __future__ import annotations

import attrs

from agentpool._core import guard as guards
from agentpool._core.compacting import compacted, dropped, is_full
from agentpool._core.effects import Compaction, Reason
from agentpool._core.landing import Landing, landing_note, last_request, longest_answer, shortened
from agentpool._core.messages import CompletionRequest
from agentpool._core.states import LoopState, Step, halted, heard
from agentpool._core.usage import NO_USAGE, TokenUsage


def ask(state: LoopState, done: Compaction | None = None, *, sums_up: bool = True) -> Step:
    """Ask the model, unless a limit was reached or the request would pass one.

    Args:
      state: where the run stands.
      done: what a compaction before this came to.
      sums_up: whether turns for which there is no room may be summed up first.
    """
    plan, guard = state.plan, state.guard
    verdict = guard.before_reason()
    if isinstance(verdict, guards.Halt):
        return at_limit(state, verdict, done=done)
    room = plan.room
    if room is not None and is_full(state, room):
        if plan.summary_tokens:
            step = compacted(state, room // 2, done) if sums_up else ""
            if not isinstance(step, str):
                return step
            if step:
                state, done = dropped(state, room // 2, step, done)
            # What no turn that goes makes room for are results of tools.
            state = attrs.evolve(state, window=shortened(state.window, room))
        else:
            # A quarter more than needed goes, so that this work is not done in every turn.
            state, done = dropped(state, room * 3 // 4, "")
    window = state.window
    tokens = plan.frame + window.tokens + state.excess
    is_free = guard.limits.max_tokens is None and not plan.lands
    longest = plan.max_tokens if is_free else longest_answer(plan, guard, tokens)
    if isinstance(longest, guards.Halt):
        return at_limit(state, longest, done=done)
    request = CompletionRequest(
        plan.model,
        window.messages,
        plan.tools,
        longest,
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
    return reasoning, Reason(request, tokens, done)


# -- at a limit ---------------------------------------------------------------------


def at_limit(
    state: LoopState, halt: guards.Halt, lost: TokenUsage = NO_USAGE, done: Compaction | None = None
) -> Step:
    """Fail, or have the model give its answer in a last turn.

    Args:
      halt: what stops the agent.
      lost: what a call may have used of which nothing is known.
      done: what a compaction before this came to.
    """
    plan, guard, limit = state.plan, state.guard, halt.limit
    if limit is None or not plan.lands:
        return halted(state, halt.reason, limit)
    state = heard(state, [landing_note(limit)])
    window, longest = last_request(plan, guard, state.window, state.excess, lost)
    if longest < 1:
        return halted(state, f"{halt.reason}; and a last answer found no room", limit)
    landing = Landing(limit, halt.reason, longest)
    return ask_last(attrs.evolve(state, window=window, landing=landing, said=None, note=""), landing, done)


def ask_last(state: LoopState, landing: Landing, done: Compaction | None = None) -> Step:
    """Ask the model for its answer, without tools; `done` as for `ask`."""
    plan = state.plan
    # Thoughts count as output: where there is less room than usual, all of it is for the answer.
    is_tight = landing.max_tokens < plan.max_tokens and plan.reasoning is not None
    request = CompletionRequest(
        plan.model,
        state.window.messages,
        (),
        landing.max_tokens,
        plan.temperature,
        plan.system,
        plan.stop,
        output_schema=plan.output_schema,
        reasoning=0 if is_tight else plan.reasoning,
        options=plan.options,
    )
    tokens = plan.frame + state.window.tokens + state.excess
    return attrs.evolve(state, awaiting=Reason), Reason(request, tokens, done)
