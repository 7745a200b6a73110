"""The tool calls of an answer: whether they may run, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from agentpool._core import guard as guards
from agentpool._core.asking import at_limit
from agentpool._core.deferring import is_finding, searched
from agentpool._core.effects import Act, Acted, Idled, IllegalObservationError, Recall
from agentpool._core.encoding import encodable_result
from agentpool._core.guard import LoopGuard
from agentpool._core.handing import handed_over, only_one_handoff
from agentpool._core.messages import AssistantMessage, ChatMessage, ToolCall, ToolMessage, ToolResult
from agentpool._core.perceiving import as_note
from agentpool._core.pins import is_pinning, pinned
from agentpool._core.states import NO_TROUBLE, TAKE_MESSAGES, LoopState, Step, Trouble, grown, heard


def act(state: LoopState, guard: LoopGuard, excess: int, said: AssistantMessage) -> Step:
    """Have the calls of an answer run, if the guard allows it."""
    calls, trouble = said.tool_calls, _recovered(state.trouble)
    verdict = guard.before_act(calls)
    if isinstance(verdict, guards.Halt):
        state = attrs.evolve(state, guard=guard, trouble=trouble, excess=excess)
        return at_limit(heard(state, unrun(said, "Not run: the agent was stopped.")), verdict)
    if isinstance(verdict, guards.Block):
        guard = guard.after_block(calls)
        state = attrs.evolve(state, awaiting=Recall, guard=guard, trouble=trouble, excess=excess)
        return heard(state, unrun(said, verdict.reason)), TAKE_MESSAGES
    note = verdict.reason if isinstance(verdict, guards.Warn) else ""
    acting = LoopState(state.plan, Act, state.transcript, state.window, guard, said, note, trouble, excess)
    if state.window.pins is not None or state.plan.finds:
        calls = tuple(call for call in calls if not _is_own(state, call))
        if not calls:
            return _acted(acting, ()), TAKE_MESSAGES
    return acting, Act(calls, note)


def _recovered(trouble: Trouble) -> Trouble:
    """Forget what a good answer has fixed; wrong typed answers stay counted."""
    return NO_TROUBLE if trouble is NO_TROUBLE else Trouble(retries=trouble.retries)


def _is_own(state: LoopState, call: ToolCall) -> bool:
    """Whether a call is one of the loop's own, for which no tool runs."""
    return (state.window.pins is not None and is_pinning(call)) or (state.plan.finds and is_finding(call))


def on_acted(state: LoopState, observation: Acted) -> Step:
    """Tell the model what its calls came to, when what arrived meanwhile was perceived."""
    if state.plan.handoffs:
        return _on_acted_or_handed_over(state, observation)
    return _acted(state, observation.results), TAKE_MESSAGES


def _on_acted_or_handed_over(state: LoopState, observation: Acted) -> Step:
    said = state.said
    assert said is not None
    run = [call for call in said.tool_calls if not _is_own(state, call)]
    made = [observation.made.get(index, call) for index, call in enumerate(run)]
    results, handoff = only_one_handoff(made, observation.results, state.plan.handoffs)
    acted = _acted(state, results)
    return (acted, TAKE_MESSAGES) if handoff is None else handed_over(acted, handoff, said)


def on_idle_calls(state: LoopState, observation: Idled) -> Step:
    """Nothing was heard of the calls for too long: those that had not ended were stopped."""
    stopped = ToolResult(
        f"Stopped: nothing was heard for {observation.seconds:g} s. How far it came is not known.",
        is_error=True,
    )
    state = _acted(state, [stopped if result is None else result for result in observation.results])
    return at_limit(state, idle_halt("the tools", observation.seconds))


def idle_halt(whom: str, seconds: float) -> guards.Halt:
    """Return what stops an agent of which nothing was heard."""
    reason = f"nothing was heard of {whom} for {seconds:g} s: raise idle under [resources] if that is normal"
    return guards.Halt(reason, "idle")


def _acted(state: LoopState, results: Sequence[ToolResult]) -> LoopState:
    """Return the state that perceives next, with the results of the calls."""
    plan, said = state.plan, state.said
    assert said is not None
    calls, pins = said.tool_calls, state.window.pins
    own: Mapping[int, ToolResult] = {}
    if pins is not None:
        pins, own = pinned(pins, calls)
    if plan.finds:
        found = {n: searched(plan.hidden, call)[0] for n, call in enumerate(calls) if is_finding(call)}
        own, plan = {**own, **found}, plan.after(calls)
    if len(results) != len(calls) - len(own):
        raise IllegalObservationError(
            f"{len(calls) - len(own)} calls were to be run, but there are {len(results)} results"
        )
    if own:
        others = iter(results)
        results = [own[index] if index in own else next(others) for index in range(len(calls))]
    news: list[ChatMessage] = [said]
    news += [
        ToolMessage(call.id, call.name, encodable_result(result))
        for call, result in zip(calls, results, strict=True)
    ]
    if state.note:
        news.append(as_note(state.note))
    transcript, window = grown(state, news)
    if pins is not state.window.pins:
        window = attrs.evolve(window, pins=pins)
    return LoopState(
        plan if plan.tool_choice is None else plan.once_called(calls),
        Recall,
        transcript,
        window,
        state.guard.after_act(calls, results),
        None,
        "",
        state.trouble,
        state.excess,
    )


def unrun(said: AssistantMessage, reason: str) -> list[ChatMessage]:
    """Return what the model said, with `reason` as the result of each of its calls."""
    result = ToolResult(reason, is_error=True)
    if not said.text.strip() and not said.tool_calls:
        return []
    return [said, *[ToolMessage(call.id, call.name, result) for call in said.tool_calls]]
