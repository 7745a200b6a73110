"""The tool calls of an answer: whether they may run, and what they came to."""

from __future__ import annotations

import attrs

from agentpool._core import guard as guards
from agentpool._core.effects import Act, Acted, IllegalObservationError, Recall
from agentpool._core.guard import LoopGuard
from agentpool._core.messages import AssistantMessage, ChatMessage, Completion, ToolMessage, ToolResult
from agentpool._core.perceiving import as_note
from agentpool._core.states import NO_TROUBLE, TAKE_MESSAGES, LoopState, Step, Trouble, grown, halted, heard


def act(state: LoopState, guard: LoopGuard, excess: int, said: AssistantMessage) -> Step:
    calls, trouble = said.tool_calls, _recovered(state.trouble)
    verdict = guard.before_act(calls)
    if isinstance(verdict, guards.Halt):
        state = attrs.evolve(state, guard=guard)
        return halted(heard(state, unrun(said, "Not run: the agent was stopped.")), verdict.reason)
    if isinstance(verdict, guards.Block):
        guard = guard.after_block(calls)
        state = attrs.evolve(state, awaiting=Recall, guard=guard, trouble=trouble, excess=excess)
        return heard(state, unrun(said, verdict.reason)), TAKE_MESSAGES
    note = verdict.reason if isinstance(verdict, guards.Warn) else ""
    acting = LoopState(state.plan, Act, state.transcript, state.window, guard, said, note, trouble, excess)
    return acting, Act(calls, note)


def _recovered(trouble: Trouble) -> Trouble:
    """Forget what a good answer has fixed; wrong typed answers stay counted."""
    return NO_TROUBLE if trouble is NO_TROUBLE else Trouble(retries=trouble.retries)


def on_acted(state: LoopState, observation: Acted) -> Step:
    said, results = state.said, observation.results
    assert said is not None
    calls = said.tool_calls
    if len(results) != len(calls):
        raise IllegalObservationError(
            f"{len(calls)} calls were to be run, but there are {len(results)} results"
        )
    news: list[ChatMessage] = [said]
    news += [ToolMessage(call.id, call.name, result) for call, result in zip(calls, results, strict=True)]
    if state.note:
        news.append(as_note(state.note))
    transcript, window = grown(state, news)
    perceiving = LoopState(
        state.plan,
        Recall,
        transcript,
        window,
        state.guard.after_act(calls, results),
        None,
        "",
        state.trouble,
        state.excess,
    )
    return perceiving, TAKE_MESSAGES


def unrun(said: Completion | AssistantMessage, reason: str) -> list[ChatMessage]:
    """Return what the model said, with `reason` as the result of each of its calls."""
    result = ToolResult(reason, is_error=True)
    if not said.text and not said.tool_calls:
        return []
    return [
        said.message if isinstance(said, Completion) else said,
        *[ToolMessage(call.id, call.name, result) for call in said.tool_calls],
    ]
