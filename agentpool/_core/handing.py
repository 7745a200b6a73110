"""The end of a run that has to do with other agents: one that it hands over to, those that it started."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from agentpool._core.asking import ask
from agentpool._core.effects import Collect, Collected, Halt
from agentpool._core.messages import AssistantMessage, ToolCall, ToolResult
from agentpool._core.outcomes import AgentResult
from agentpool._core.perceiving import as_note
from agentpool._core.states import LoopState, Step, finished, heard, kept

_MEANWHILE = (
    "You gave your answer before you had heard of all agents that you started. This is what became of them:"
)
_AGAIN = "Give your answer again, whole, with what follows from this; nobody has seen the one before."
_BEFORE = "This is what became of the agents that were started before:"

_TOO_LATE = ToolResult("Not handed over: the conversation went to another agent before.", is_error=True)


def only_one_handoff(
    calls: Sequence[ToolCall | None], results: Sequence[ToolResult], names: frozenset[str]
) -> tuple[Sequence[ToolResult], ToolCall | None]:
    """Return the results of a turn's calls, and the one that hands the conversation over: the first, if any.

    Args:
      calls: as they were made, whatever the model had said; None for one in whose place nothing was called.
      results: what they came to.
      names: the tools that hand over.
    """
    handing = [
        (index, call)
        for index, (call, result) in enumerate(zip(calls, results, strict=False))
        if call is not None and call.name in names and not result.is_error
    ]
    if not handing:
        return results, None
    late = {index for index, _ in handing[1:]}
    return [_TOO_LATE if index in late else result for index, result in enumerate(results)], handing[0][1]


def handed_over(state: LoopState, call: ToolCall, said: AssistantMessage) -> Step:
    """End the run: another agent goes on."""
    guard = state.guard
    result = AgentResult(
        said.text,
        said.text,
        guard.usage,
        guard.iterations,
        guard.tool_calls,
        state.transcript,
        handed_over=(call.id,),
    )
    if state.plan.collects:
        return attrs.evolve(state, awaiting=Collect, result=result, handoff=call), Collect()
    return finished(state, result, call)


def on_collected(state: LoopState, observation: Collected) -> Step:
    """Tell the model once more what it had not heard before it answered; then it answers again."""
    result = state.result
    assert result is not None
    call = state.handoff
    if call is not None:  # who goes on hears it
        told = heard(state, [as_note(f"{_BEFORE}\n{observation.text}")]) if observation.text else state
        return finished(told, attrs.evolve(result, transcript=told.transcript), call)
    if not observation.text or result.stopped_by is not None:
        return kept(state, result)
    told = heard(state, [as_note(f"{_MEANWHILE}\n{observation.text}\n{_AGAIN}")])
    again = ask(attrs.evolve(told, result=None))
    # Where no more turns are allowed, the answer that was given stands.
    is_over = isinstance(again[1], Halt) or again[0].landing is not None
    return kept(state, result) if is_over else again
