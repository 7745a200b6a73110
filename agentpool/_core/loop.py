"""The agent loop, as a machine without input or output.

`begin` gives the first state and the first effect. Whoever performs the effect hands what it
observed to `advance`, which gives the next state and effect, until the effect is `Finish` or
`Halt`. The same observations always give the same effects: that is how a run is replayed,
resumed and tested.

    state, effect = begin(manifest, query)
    while not isinstance(effect, Finish | Halt):
        observation = ...            # perform the effect
        state, effect = advance(state, observation)

`TRANSITIONS`, at the end, says which observation answers which effect, and what may come next.

A state's transcript is complete at all times: what a model said is added together with the
results of its calls, so that no call is ever seen without its one result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from agentpool._core.acting import on_acted, on_idle_calls
from agentpool._core.asking import ask
from agentpool._core.content import Content
from agentpool._core.deferring import wanted_before
from agentpool._core.effects import (
    PHASES,
    Act,
    Acted,
    Collect,
    Collected,
    Compact,
    Compacted,
    DriverFailed,
    Effect,
    Finish,
    Halt,
    Idled,
    IllegalObservationError,
    Observation,
    Reason,
    Recall,
    Recalled,
    Remember,
    Remembered,
    Replied,
)
from agentpool._core.encoding import encodable_content, encodable_message
from agentpool._core.events import Phase
from agentpool._core.guard import GuardLimits, LoopGuard
from agentpool._core.handing import on_collected
from agentpool._core.messages import ChatMessage, ToolDefinition, UserMessage
from agentpool._core.outputs import OutputSpec
from agentpool._core.perceiving import perceived
from agentpool._core.pins import pins_in
from agentpool._core.plan import Price, plan_of
from agentpool._core.replies import (
    on_compacted,
    on_driver_failed,
    on_idle_model,
    on_replied,
    on_summary_failed,
)
from agentpool._core.states import TAKE_MESSAGES, LoopState, Step, finished, heard
from agentpool._core.transcript import Transcript, messages_tokens, repaired
from agentpool._core.window import Window, opening

if TYPE_CHECKING:
    from agentpool._core.manifest import AgentManifest


def begin(
    manifest: AgentManifest,
    query: Content,
    history: Iterable[ChatMessage] = (),
    *,
    tools: Iterable[ToolDefinition] = (),
    context_window: int | None = None,
    output: OutputSpec | None = None,
    limits: GuardLimits | None = None,
    price: Price | None = None,
    handoffs: Iterable[str] = (),
    collects: bool = False,
    missing: Collection[str] = (),
) -> Step:
    """Return the first state and the first effect of a run.

    Args:
      manifest: who the agent is.
      query: what it is asked; text or parts.
      history: a conversation that came before. Calls in it that have no result get one that says
        that their result is unknown.
      tools: what the model may call.
      context_window: how many tokens a request and its answer may have, for a manifest that does
        not say so itself; None for no bound.
      output: what a typed answer has to be.
      limits: the guard's bounds, in the place of the manifest's `[resources]`.
      price: what a usage costs; an agent that lands keeps money back for its last turn by it.
      handoffs: the names of the tools that hand the conversation over to another agent: once one of them
        was called, the run ends.
      collects: whether the model can start agents: they are waited for before the run ends, and it is
        told what it had not heard of them.
      missing: the names of tools that are not there now, or the beginnings of such names: a `tool_choice`
        for one of them is not kept.

    Raises:
      ValueError: if a result in `history` belongs to no call.
      ManifestError: if the manifest's `tool_choice` is for a tool that is none of `tools` and none of
        `missing`, or one of `tools` has the name of one of the loop's own.
    """
    limits = limits or GuardLimits.of(manifest.resources)
    plan = plan_of(manifest, tuple(tools), context_window, output, limits, price, missing)
    if collects or handoffs:
        plan = attrs.evolve(plan, handoffs=frozenset(handoffs), collects=collects)
    before = list(map(encodable_message, repaired(history)))
    asked = UserMessage(encodable_content(query))
    if plan.hidden:
        plan = plan.showing(wanted_before(plan.hidden, before))
    messages = [*before, asked]
    transcript = Transcript(messages)
    shown = opening(before)
    seen = transcript if shown == before else Transcript([*shown, asked])
    pins = pins_in(before, plan.room) if plan.summary_tokens else None
    window = Window(seen, messages_tokens(seen), len(shown), pins)
    effect = Recall(asked.body) if plan.remembers else TAKE_MESSAGES
    return LoopState(plan, Recall, transcript, window, LoopGuard(limits)), effect


def advance(state: LoopState, observation: Observation) -> Step:
    """Return the next state and effect.

    Raises:
      IllegalObservationError: if the observation does not answer the effect that the state waits
        for; `TRANSITIONS` says which one does. The state stays good.
    """
    decide = _DECISIONS[state.awaiting].get(type(observation))
    if decide is None:
        raise _illegal(state, observation)
    return decide(state, observation)


def _illegal(state: LoopState, observation: Observation) -> IllegalObservationError:
    legal = [row.observation.__name__ for row in TRANSITIONS if row.effect is state.awaiting]
    return IllegalObservationError(
        f"{type(observation).__name__} is no answer to {state.awaiting.__name__}, in phase {state.phase}:"
        f" {' or '.join(legal) or 'nothing'} is"
    )


def on_recalled(state: LoopState, observation: Recalled) -> Step:
    if observation.fragments or observation.messages:
        state = heard(state, perceived(observation.fragments, observation.messages))
    return ask(state)


def on_remembered(state: LoopState, observation: Remembered) -> Step:
    assert state.result is not None
    return finished(state, state.result)


# -- the table ------------------------------------------------------------------------


@attrs.frozen
class Transition:
    """Which observation answers an effect, and which effects may come next."""

    effect: type[Effect]
    observation: type[Observation]
    leads_to: tuple[type[Effect], ...]
    decide: Callable[[LoopState, Any], Step] = attrs.field(repr=False)

    @property
    def phase(self) -> Phase:
        """The phase in which the observation is legal."""
        return PHASES[self.effect]


TRANSITIONS = (
    Transition(Recall, Recalled, (Reason, Compact, Halt), on_recalled),
    Transition(Reason, Replied, (Act, Recall, Reason, Compact, Collect, Remember, Finish, Halt), on_replied),
    Transition(Reason, DriverFailed, (Reason, Compact, Halt), on_driver_failed),
    Transition(Reason, Idled, (Reason, Halt), on_idle_model),
    Transition(Compact, Compacted, (Reason, Compact, Halt), on_compacted),
    Transition(Compact, DriverFailed, (Reason, Halt), on_summary_failed),
    Transition(Compact, Idled, (Reason, Halt), on_idle_model),
    Transition(Act, Acted, (Recall, Collect, Finish), on_acted),
    Transition(Act, Idled, (Reason, Halt), on_idle_calls),
    Transition(Collect, Collected, (Reason, Compact, Remember, Finish), on_collected),
    Transition(Remember, Remembered, (Finish,), on_remembered),
)
"""Every legal pair; nothing answers `Finish` and `Halt`."""

_DECISIONS: Mapping[type[Effect], Mapping[type[Observation], Callable[[LoopState, Any], Step]]] = {
    effect: {row.observation: row.decide for row in TRANSITIONS if row.effect is effect} for effect in PHASES
}
