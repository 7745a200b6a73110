"""What an answer of the model leads to, and what a failure of its driver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs

from agentpool._core import guard as guards
from agentpool._core.acting import act, idle_halt, unrun
from agentpool._core.asking import ask, ask_last, at_limit
from agentpool._core.compacting import compacted, dropped, summary_problem, summed_up
from agentpool._core.effects import Collect, Compacted, DriverFailed, Idled, Reason, Replied
from agentpool._core.encoding import encodable_answer
from agentpool._core.errors import (
    BudgetExceededError,
    ContentRefusedError,
    ContextTooLongError,
    MalformedReplyError,
    PriceUnknownError,
)
from agentpool._core.guard import GuardLimits, Limit, LoopGuard
from agentpool._core.landing import Landing, worst_case
from agentpool._core.messages import AssistantMessage, StopReason
from agentpool._core.outcomes import AgentResult
from agentpool._core.outputs import OutputSpec, Problems
from agentpool._core.perceiving import as_note
from agentpool._core.spoken import Spoken, spoken_call
from agentpool._core.states import LoopState, Step, Trouble, failed, halted, heard, kept
from agentpool._core.usage import TokenUsage
from agentpool._core.window import Cut

TRUNCATIONS_TO_HALT = 3
"""So many answers in a row that were cut off at `max_tokens` halt the agent."""


def on_replied(state: LoopState, observation: Replied) -> Step:
    """Decide what an answer is: calls, the final answer, or none of both."""
    completion = observation.completion
    usage, trouble, stop_reason = completion.usage, state.trouble, completion.stop_reason
    guard, said = state.guard.after_reason(usage), encodable_answer(completion.message)
    if state.landing is not None:
        return _landed(attrs.evolve(state, guard=guard), state.landing, said, stop_reason)
    excess = max(0, usage.input_tokens - state.plan.frame - state.window.tokens)
    if said.tool_calls and stop_reason != "max_tokens" and stop_reason != "refusal":
        return act(state, guard, excess, said)
    if trouble.squeezed:
        trouble = attrs.evolve(trouble, squeezed=False)
    # Not `attrs.evolve`, in what every agent comes by: that takes four times as long.
    transcript, window = state.transcript, state.window
    state = LoopState(
        state.plan, Reason, transcript, window, guard, trouble=trouble, excess=excess, result=state.result
    )
    if stop_reason == "refusal":
        return _refused(state, said)
    if stop_reason == "max_tokens":
        return _cut_off(state, said)
    if stop_reason == "pause_turn" and (said.text.strip() or said.provider_data is not None):
        return _paused(state, said)
    whole = trouble.partial + said.text
    if not whole.strip():
        return _empty(state)
    form = _spoken_form(state, whole)
    if form == "marked" or (form == "bare" and state.plan.output is None and not trouble.spoken):
        return _spoken(state, said)
    return _answered(state, said, whole)


# -- no answer ------------------------------------------------------------------------


def _refused(state: LoopState, said: AssistantMessage) -> Step:
    state = heard(state, unrun(said, "Not run: the model declined to go on."))
    detail = f": {said.text}" if said.text else ""
    return failed(state, ContentRefusedError(f"the model declined to answer{detail}"))


def _cut_off(state: LoopState, said: AssistantMessage) -> Step:
    """Have the model go on. Calls of an answer that was cut off are incomplete: they are not run."""
    truncations = state.trouble.truncations + 1
    news = unrun(
        said,
        "Not run: the answer was cut off at max_tokens, and this call may be incomplete."
        " Call again, with less text or fewer calls in one answer.",
    )
    if truncations >= TRUNCATIONS_TO_HALT:
        return halted(
            heard(state, news),
            f"{truncations} answers in a row were cut off at max_tokens ({state.plan.max_tokens}):"
            " raise max_tokens under [model], or ask for less",
        )
    if said.tool_calls:
        trouble = attrs.evolve(state.trouble, partial="", truncations=truncations)
    else:
        partial = state.trouble.partial + said.text
        trouble = attrs.evolve(state.trouble, partial=partial, truncations=truncations)
        news.append(as_note(_GO_ON if news else _BE_SHORTER))
    return ask(attrs.evolve(heard(state, news), trouble=trouble))


def _paused(state: LoopState, said: AssistantMessage) -> Step:
    """Have the model go on where it paused: it is sent what it said so far, and nothing else."""
    trouble = attrs.evolve(state.trouble, partial=state.trouble.partial + said.text)
    return ask(attrs.evolve(heard(state, [said]), trouble=trouble))


_GO_ON = "Your answer was cut off. Go on exactly where it ends, and repeat nothing."
_BE_SHORTER = (
    "Your answer was cut off at max_tokens before it had said anything that can be used."
    " Answer again, with less text or fewer calls in one answer."
)


def _empty(state: LoopState) -> Step:
    """Ask the model about an empty answer, once. It is no part of the conversation: providers refuse it."""
    if state.trouble.emptied:
        return failed(
            state,
            MalformedReplyError(
                "the model answered with nothing, neither text nor a tool call, and did so again when it"
                " was asked about it"
            ),
        )
    note = as_note("Your answer was empty. Give your final answer as text, or call a tool.")
    return ask(attrs.evolve(heard(state, [note]), trouble=attrs.evolve(state.trouble, emptied=True)))


def _spoken_form(state: LoopState, text: str) -> Spoken:
    return spoken_call(text, (tool.name for tool in state.plan.tools))


def _spoken(state: LoopState, said: AssistantMessage) -> Step:
    """Tell the model once that it wrote a call as text, which nobody runs."""
    if state.trouble.spoken:
        return failed(
            state,
            MalformedReplyError(
                "the model wrote a tool call as text, and did so again when it was told: its server does not"
                " read this model's calls. Start the server with the parser for them (vLLM, SGLang:"
                " --tool-call-parser; llama.cpp: --jinja), or take another model"
            ),
        )
    note = as_note(
        "Your answer is a tool call written as text. It was not run: call the tool through the interface"
        " for tool calls, or give your final answer."
    )
    return ask(
        attrs.evolve(heard(state, [said, note]), trouble=attrs.evolve(state.trouble, partial="", spoken=True))
    )


# -- the answer -----------------------------------------------------------------------


def _answered(state: LoopState, said: AssistantMessage, whole: str, limit: Limit | None = None) -> Step:
    plan = state.plan
    if said.text.strip():
        state = heard(state, [said])
    value: Any = whole
    if plan.output is not None:
        parsed = plan.output.parse(whole)
        if isinstance(parsed, Problems):
            return _misfit(state, plan.output, parsed.texts)
        value = parsed.value
    guard = state.guard
    result = AgentResult(
        whole, value, guard.usage, guard.iterations, guard.tool_calls, state.transcript, limit
    )
    if plan.collects:
        return attrs.evolve(state, awaiting=Collect, result=result), Collect(stop=limit is not None)
    return kept(state, result)


def _misfit(state: LoopState, output: OutputSpec, problems: Sequence[str]) -> Step:
    """Give a wrong typed answer back to the model, unless that was done often enough."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    if state.landing is not None:
        return _not_landed(state, state.landing, f"did not fit its output type:\n{listed}")
    retries = state.trouble.retries
    if retries >= output.retries:
        times = f"also after {retries} corrections" if retries else "and no correction was asked for"
        problem = f"the answer does not fit its output type, {times}:\n{listed}"
        return failed(state, MalformedReplyError(problem))
    note = as_note(f"Your answer does not fit the schema:\n{listed}\nGive the whole corrected JSON only.")
    return ask(attrs.evolve(heard(state, [note]), trouble=Trouble(retries=retries + 1)))


# -- the last turn --------------------------------------------------------------------


def _landed(state: LoopState, landing: Landing, said: AssistantMessage, stop_reason: StopReason) -> Step:
    """Take the answer of the last turn; whatever is wrong with it, there is no other."""
    if stop_reason == "refusal":
        return _refused(state, said)
    problem = None
    if said.tool_calls:
        problem = "called tools"
    elif stop_reason == "max_tokens":
        problem = f"was cut off at max_tokens ({landing.max_tokens})"
    elif stop_reason == "pause_turn":
        problem = "was paused by the provider"
    elif not said.text.strip():
        problem = "was empty"
    elif _spoken_form(state, said.text) == "marked":
        problem = "was a tool call as text"
    if problem is not None:
        return _not_landed(heard(state, unrun(said, "Not run: the agent was stopped.")), landing, problem)
    return _answered(state, said, said.text, landing.limit)


def _not_landed(state: LoopState, landing: Landing, problem: str) -> Step:
    return halted(state, f"{landing.reason}; and its last answer {problem}", landing.limit)


# -- the driver -----------------------------------------------------------------------


def on_driver_failed(state: LoopState, observation: DriverFailed) -> Step:
    """Send less if it was too much, land if the agent's own budget was too small, or fail."""
    error = observation.error
    if isinstance(error, BudgetExceededError):
        return _no_budget(state, error)
    if not isinstance(error, ContextTooLongError) or state.trouble.squeezed:
        return failed(state, error)
    state = attrs.evolve(state, trouble=attrs.evolve(state.trouble, squeezed=True))
    half, problem = state.window.tokens // 2, ""
    if state.plan.summary_tokens and state.landing is None:
        step = compacted(state, half)
        if not isinstance(step, str):
            return step
        problem = step
    state, done = dropped(state, half, problem)
    if done is None:
        return failed(state, error)
    # What the last request was longer by went with what was dropped.
    state = attrs.evolve(state, excess=0)
    return ask(state, done, sums_up=False) if state.landing is None else ask_last(state, state.landing, done)


# -- a summary ------------------------------------------------------------------------


def on_compacted(state: LoopState, observation: Compacted) -> Step:
    """Put a summary in the place of what it sums up, or drop that if the summary is of no use."""
    cut, completion = state.cut, observation.completion
    assert cut is not None
    state = attrs.evolve(state, guard=state.guard.after_summary(completion.usage))
    problem = summary_problem(completion, cut, state.plan)
    if problem:
        return _not_summed_up(state, cut, problem)
    return ask(*summed_up(state, cut, completion))


def on_summary_failed(state: LoopState, observation: DriverFailed) -> Step:
    """Drop what could not be summed up. If the model cannot be asked at all, the next turn will tell."""
    assert state.cut is not None
    return _not_summed_up(state, state.cut, f"{type(observation.error).__name__}: {observation.error}")


def _not_summed_up(state: LoopState, cut: Cut, problem: str) -> Step:
    state, done = dropped(state, cut.target, problem, state.done)
    return ask(state, done, sums_up=False)


def _no_budget(state: LoopState, error: BudgetExceededError) -> Step:
    """Land if it was the agent's own budget that refused a call, which others may have drawn on as well."""
    limit = _own_limit(state.guard.limits, error)
    if limit is None or not state.plan.lands:
        return failed(state, error)
    if state.landing is not None:
        # Nothing was sent: a budget may count more for a request than is estimated here.
        return _shorter(state, state.landing, error)
    return at_limit(state, guards.Halt(str(error), limit), _spent_by_others(state.guard, limit, error))


def _shorter(state: LoopState, landing: Landing, error: BudgetExceededError) -> Step:
    """Ask for a shorter last answer, down to one that would say nothing."""
    longest = landing.max_tokens // 2
    if longest < max(1, state.plan.shortest_answer // 8):
        return failed(state, error)
    landing = attrs.evolve(landing, max_tokens=longest)
    return ask_last(attrs.evolve(state, landing=landing), landing)


def _own_limit(limits: GuardLimits, error: BudgetExceededError) -> Limit | None:
    if isinstance(error, PriceUnknownError):
        return None
    if error.resource == "tokens" and error.limit == limits.max_tokens:
        return "tokens"
    money = limits.max_cost_usd
    is_own = error.resource == "cost_usd" and money is not None and math.isclose(error.limit, money)
    return "cost" if is_own else None


def _spent_by_others(guard: LoopGuard, limit: Limit, error: BudgetExceededError) -> TokenUsage:
    """Return by how much less there is than the guard knows: what children spent, or calls that were lost."""
    left = error.limit - error.spent - error.reserved
    if limit == "tokens":
        return TokenUsage(max(0, math.ceil((guard.tokens_left or 0) - left)))
    return TokenUsage(cost_usd=max(0.0, (guard.cost_left or 0.0) - left))


def on_idle_model(state: LoopState, observation: Idled) -> Step:
    """Nothing was heard of the model for too long."""
    if state.landing is not None:
        problem = f"did not come: nothing was heard of the model for {observation.seconds:g} s"
        return _not_landed(state, state.landing, problem)
    tokens = state.plan.frame + state.window.tokens + state.excess
    lost = worst_case(state.plan, state.guard, tokens)
    return at_limit(state, idle_halt("the model", observation.seconds), lost)
