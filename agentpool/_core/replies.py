"""What an answer of the model leads to, and what a failure of its driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from agentpool._core.acting import act, unrun
from agentpool._core.asking import ask
from agentpool._core.effects import DriverFailed, Reason, Remember, Replied
from agentpool._core.errors import ContentRefusedError, ContextTooLongError, MalformedReplyError
from agentpool._core.messages import AssistantMessage, Completion
from agentpool._core.outcomes import AgentResult
from agentpool._core.perceiving import as_note
from agentpool._core.plan import OutputSpec, Problems
from agentpool._core.states import LoopState, Step, Trouble, failed, finished, halted, heard

TRUNCATIONS_TO_HALT = 3
"""So many answers in a row that were cut off at `max_tokens` halt the agent."""


def on_replied(state: LoopState, observation: Replied) -> Step:
    completion = observation.completion
    usage, trouble, stop_reason = completion.usage, state.trouble, completion.stop_reason
    guard = state.guard.after_reason(usage)
    excess = max(0, usage.input_tokens - state.plan.frame - state.window.tokens)
    if completion.tool_calls and stop_reason != "max_tokens" and stop_reason != "refusal":
        return act(state, guard, excess, completion.message)
    if trouble.squeezed:
        trouble = attrs.evolve(trouble, squeezed=False)
    # Not `attrs.evolve`, in what every agent comes by: that takes four times as long.
    transcript, window = state.transcript, state.window
    state = LoopState(
        state.plan, Reason, transcript, window, guard, trouble=trouble, excess=excess, result=state.result
    )
    if stop_reason == "refusal":
        return _refused(state, completion)
    if stop_reason == "max_tokens":
        return _cut_off(state, completion)
    return _answered(state, completion.message)


def _refused(state: LoopState, completion: Completion) -> Step:
    state = heard(state, unrun(completion, "Not run: the model declined to go on."))
    detail = f": {completion.text}" if completion.text else ""
    return failed(state, ContentRefusedError(f"the model declined to answer{detail}"))


def _cut_off(state: LoopState, completion: Completion) -> Step:
    """Have the model go on. Calls of an answer that was cut off are incomplete: they are not run."""
    truncations = state.trouble.truncations + 1
    said = unrun(
        completion,
        "Not run: the answer was cut off at max_tokens, and this call may be incomplete."
        " Call again, with less text or fewer calls in one answer.",
    )
    if truncations >= TRUNCATIONS_TO_HALT:
        return halted(
            heard(state, said),
            f"{truncations} answers in a row were cut off at max_tokens ({state.plan.max_tokens}):"
            " raise max_tokens under [model], or ask for less",
        )
    if completion.tool_calls:
        trouble = attrs.evolve(state.trouble, partial="", truncations=truncations)
    else:
        partial = state.trouble.partial + completion.text
        trouble = attrs.evolve(state.trouble, partial=partial, truncations=truncations)
        said.append(as_note("Your answer was cut off. Go on exactly where it ends, and repeat nothing."))
    return ask(attrs.evolve(heard(state, said), trouble=trouble))


def on_driver_failed(state: LoopState, observation: DriverFailed) -> Step:
    error = observation.error
    if not isinstance(error, ContextTooLongError) or state.trouble.squeezed:
        return failed(state, error)
    window = state.window.trimmed(state.window.tokens // 2)
    if window is state.window:
        return failed(state, error)
    trouble = attrs.evolve(state.trouble, squeezed=True)
    # What the last request was longer by went with what was dropped.
    return ask(attrs.evolve(state, window=window, trouble=trouble, excess=0))


def _answered(state: LoopState, said: AssistantMessage) -> Step:
    plan, whole = state.plan, state.trouble.partial + said.text
    state = heard(state, [said])
    value: Any = whole
    if plan.output is not None:
        parsed = plan.output.parse(whole)
        if isinstance(parsed, Problems):
            return _misfit(state, plan.output, parsed.texts)
        value = parsed.value
    guard = state.guard
    result = AgentResult(whole, value, guard.usage, guard.iterations, guard.tool_calls, state.transcript)
    if plan.remembers and whole:
        return attrs.evolve(state, awaiting=Remember, result=result), Remember(whole)
    return finished(state, result)


def _misfit(state: LoopState, output: OutputSpec, problems: Sequence[str]) -> Step:
    """Give a wrong typed answer back to the model, unless that was done often enough."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    retries = state.trouble.retries
    if retries >= output.retries:
        times = f"also after {retries} corrections" if retries else "and no correction was asked for"
        problem = f"the answer does not fit its output type, {times}:\n{listed}"
        return failed(state, MalformedReplyError(problem))
    note = as_note(f"Your answer does not fit the schema:\n{listed}\nGive the whole corrected JSON only.")
    return ask(attrs.evolve(heard(state, [note]), trouble=Trouble(retries=retries + 1)))
