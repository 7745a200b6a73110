"""The end of a run that has to do with other agents: one that it hands over to, those that it started."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from agentpool._core.asking import ask
from agentpool._core.effects import Collect, Collected, Halt
from agentpool._core.messages import AssistantMessage, ChatMessage, ToolCall, ToolMessage, ToolResult
from agentpool._core.outcomes import AgentResult
from agentpool._core.perceiving import as_note
from agentpool._core.states import LoopState, Step, heard, kept

_TOO_LATE = ToolResult("Not handed over: the conversation went to another agent before.", is_error=True)


def only_one_handoff(
    calls: Sequence[ToolCall], results: Sequence[ToolResult], names: frozenset[str]
) -> Sequence[ToolResult]:
    """Return the results of a turn's calls, of which at most one hands the conversation over: the first."""
    pairs = enumerate(zip(calls, results, strict=False))
    handing = [index for index, (call, result) in pairs if call.name in names and not result.is_error]
    return [_TOO_LATE if index in handing[1:] else result for index, result in enumerate(results)]


def handoff_in(messages: Sequence[ChatMessage], names: frozenset[str]) -> ToolCall | None:
    """Return the call that handed a conversation over, if that was the last thing its model did."""
    done: set[str] = set()
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            if message.name in names and not message.result.is_error:
                done.add(message.call_id)
        elif isinstance(message, AssistantMessage):
            return next((call for call in message.tool_calls if call.id in done), None)
    return None


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
        return attrs.evolve(state, awaiting=Collect, result=result), Collect()
    return kept(state, result)


def on_collected(state: LoopState, observation: Collected) -> Step:
    """Tell the model once more what it had not heard before it answered; then it answers again."""
    result = state.result
    assert result is not None
    if not observation.text or result.stopped_by is not None:
        return kept(state, result)
    told = heard(state, [as_note(observation.text)])
    if result.handed_over:  # who goes on hears it
        return kept(told, attrs.evolve(result, transcript=told.transcript))
    again = ask(attrs.evolve(told, result=None))
    # Where no more turns are allowed, the answer that was given stands.
    is_over = isinstance(again[1], Halt) or again[0].landing is not None
    return kept(state, result) if is_over else again
