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

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import attrs

from agentpool._core import guard as guards
from agentpool._core.capability import MemoryCapability
from agentpool._core.errors import (
    ContentRefusedError,
    ContextTooLongError,
    LoopHaltedError,
    MalformedReplyError,
)
from agentpool._core.events import Phase
from agentpool._core.guard import GuardLimits, LoopGuard
from agentpool._core.messages import (
    AgentMessage,
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.outcomes import AgentResult
from agentpool._core.transcript import Transcript, Window, frame_tokens, messages_tokens, repaired
from agentpool._core.usage import TokenUsage
from agentpool._core.value import value

if TYPE_CHECKING:
    from agentpool._core.manifest import AgentManifest

TRUNCATIONS_TO_HALT = 3
"""So many answers in a row that were cut off at `max_tokens` halt the agent."""


# -- effects: what is to be done ------------------------------------------------


@attrs.frozen
class Recall:
    """Recall what fits `query` from memory (nothing if it is empty), and take the messages that arrived."""

    query: str = ""


@value
class Reason:
    """Ask the model. `input_tokens` estimates the request, for whoever reserves a budget for it."""

    request: CompletionRequest
    input_tokens: int = 0


@value
class Act:
    """Run these tool calls side by side. `warning` is what the guard has to say about them, if anything."""

    calls: tuple[ToolCall, ...]
    warning: str = ""


@attrs.frozen
class Remember:
    """Keep the final answer in memory."""

    text: str


@attrs.frozen
class Finish:
    """The agent is done."""

    result: AgentResult[Any]


@attrs.frozen
class Halt:
    """The agent failed. `usage` and `transcript` say how far it came."""

    error: Exception
    usage: TokenUsage
    transcript: Sequence[ChatMessage]


Effect: TypeAlias = Recall | Reason | Act | Remember | Finish | Halt


# -- observations: what came of it ------------------------------------------------


class Fragment(Protocol):
    """Something remembered, as the loop sees it."""

    @property
    def content(self) -> str: ...


@value
class Recalled:
    """What memory gave, and the messages that had arrived."""

    fragments: Sequence[Fragment] = ()
    messages: Sequence[AgentMessage] = ()


@value
class Replied:
    """What the model answered."""

    completion: Completion


@attrs.frozen
class DriverFailed:
    """Why the model did not answer."""

    error: Exception


@value
class Acted:
    """What the calls came to: one result for each call of `Act`, in their order."""

    results: Sequence[ToolResult]


@attrs.frozen
class Remembered:
    """The answer was kept."""


Observation: TypeAlias = Recalled | Replied | DriverFailed | Acted | Remembered


class IllegalObservationError(ValueError):
    """The observation does not answer the effect that the state waits for. The state is as it was."""


# -- typed answers ----------------------------------------------------------------


@attrs.frozen
class Parsed:
    """An answer's value."""

    value: Any


@attrs.frozen
class Problems:
    """Why an answer has no value; the model is told all of it."""

    texts: tuple[str, ...]


@attrs.frozen
class OutputSpec:
    """What a typed answer has to be.

    Attributes:
      schema: the JSON schema; the model is told it at the end of its system prompt.
      parse: reads an answer; a pure function.
      retries: how many wrong answers are given back to the model, before the agent fails.
    """

    schema: Mapping[str, Any]
    parse: Callable[[str], Parsed | Problems]
    retries: int = 2

    @property
    def instruction(self) -> str:
        """What the model is told."""
        schema = json.dumps(self.schema, ensure_ascii=False)
        return f"Give your final answer as JSON that fits this schema, without other text:\n{schema}"


# -- the state --------------------------------------------------------------------


@value
class Plan:
    """What stays the same through a run.

    Attributes:
      frame: the estimated tokens of the system prompt and the tools.
      room: how many tokens the messages may have; None if the context window is not known.
    """

    model: str
    system: str
    tools: tuple[ToolDefinition, ...]
    max_tokens: int
    temperature: float | None
    stop: tuple[str, ...]
    tool_choice: str | None
    parallel_tool_calls: bool
    output_schema: Mapping[str, Any] | None
    reasoning: str | int | None
    options: Mapping[str, Any]
    frame: int
    room: int | None
    remembers: bool
    output: OutputSpec | None


@attrs.frozen
class Trouble:
    """What went wrong of late; empty as long as all goes well.

    Attributes:
      partial: the beginning of an answer that was cut off.
      truncations: how many answers in a row were cut off.
      retries: how many typed answers were given back.
      squeezed: whether the window was halved for the request that is under way.
    """

    partial: str = ""
    truncations: int = 0
    retries: int = 0
    squeezed: bool = False


NO_TROUBLE = Trouble()


@value
class LoopState:
    """Where a run stands.

    Attributes:
      plan: what stays the same.
      awaiting: the kind of effect that is to be answered.
      transcript: the whole conversation; each call has its one result.
      window: the part of it that the model is shown.
      guard: counts, usage, and the last turns.
      said: what the model said, until the results of its calls are there.
      note: what the model is to be told after them.
      trouble: cut off answers and the like.
      excess: by how many tokens the last request was longer than its estimate.
      result: the result, until it is remembered.
    """

    plan: Plan
    awaiting: type[Effect]
    transcript: Transcript
    window: Window
    guard: LoopGuard
    said: AssistantMessage | None = None
    note: str = ""
    trouble: Trouble = NO_TROUBLE
    excess: int = 0
    result: AgentResult[Any] | None = None

    @property
    def phase(self) -> Phase:
        """The phase: perceive, reason, act or done."""
        return PHASES[self.awaiting]

    @property
    def iteration(self) -> int:
        """Which turn it is, from 1 up; each model call begins one."""
        upcoming = self.awaiting is Recall or self.awaiting is Reason
        return self.guard.iterations + 1 if upcoming else self.guard.iterations

    @property
    def usage(self) -> TokenUsage:
        """What the model calls used so far."""
        return self.guard.usage


Step: TypeAlias = tuple[LoopState, Effect]


def begin(
    manifest: AgentManifest,
    query: str,
    history: Iterable[ChatMessage] = (),
    *,
    tools: Iterable[ToolDefinition] = (),
    context_window: int | None = None,
    output: OutputSpec | None = None,
    limits: GuardLimits | None = None,
) -> Step:
    """Return the first state and the first effect of a run.

    Args:
      manifest: who the agent is.
      query: what it is asked.
      history: a conversation that came before. Calls in it that have no result get one that says
        that their result is unknown.
      tools: what the model may call.
      context_window: how many tokens a request and its answer may have, for a manifest that does
        not say so itself; None for no bound.
      output: what a typed answer has to be.
      limits: the guard's bounds, in the place of the manifest's `[resources]`.

    Raises:
      ValueError: if a result in `history` belongs to no call.
    """
    plan = _plan(manifest, tuple(tools), context_window, output)
    before = repaired(history)
    messages = [*before, UserMessage(query)]
    transcript = Transcript(messages)
    window = Window(transcript, messages_tokens(messages), len(before))
    guard = LoopGuard(limits or GuardLimits.of(manifest.resources))
    effect = Recall(query) if plan.remembers else _TAKE_MESSAGES
    return LoopState(plan, Recall, transcript, window, guard), effect


def _plan(
    manifest: AgentManifest,
    tools: tuple[ToolDefinition, ...],
    context_window: int | None,
    output: OutputSpec | None,
) -> Plan:
    model = manifest.model
    system = model.system_prompt
    if output is not None:
        system = f"{system}\n\n{output.instruction}" if system else output.instruction
    frame = frame_tokens(system, tools)
    max_tokens = model.max_tokens
    size = model.context_window or context_window
    room = None
    if size is not None:
        # An answer gets at most half of the window: max_tokens is often set without a thought of it.
        max_tokens = min(max_tokens, max(1, size // 2))
        room = max(0, size - max_tokens - frame)
    return Plan(
        model=model.remote_model or "",
        system=system,
        tools=tools,
        max_tokens=max_tokens,
        temperature=model.temperature,
        stop=tuple(model.stop),
        tool_choice=model.tool_choice,
        parallel_tool_calls=model.parallel_tool_calls,
        output_schema=None if output is None else output.schema,
        reasoning=model.reasoning,
        options=model.options,
        frame=frame,
        room=room,
        remembers=any(isinstance(granted, MemoryCapability) for granted in manifest.capabilities),
        output=output,
    )


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


# -- perceive -----------------------------------------------------------------------


def _on_recalled(state: LoopState, observation: Recalled) -> Step:
    if observation.fragments or observation.messages:
        state = _heard(state, perceived(observation.fragments, observation.messages))
    return _reason(state)


def perceived(fragments: Iterable[Fragment], messages: Iterable[AgentMessage]) -> list[UserMessage]:
    """Return what an agent perceived in the form in which its model is told.

    All of memory is one message, of kind `recall`, with a line for each fragment:

        <memory>
        - the tests run with nox
        </memory>

    and what other agents sent is a message each, of kind `message`:

        <message from="3" id="17">
        the text, or the JSON or repr of any other object
        </message>

    In what stands between the delimiters, none of them can be faked: a `<` that would begin one
    is written as `&lt;`.
    """
    news: list[UserMessage] = []
    recalled = [fragment.content for fragment in fragments]
    if recalled:
        lines = "\n".join(f"- {_harmless(text)}" for text in recalled)
        news.append(UserMessage(f"<memory>\n{lines}\n</memory>", "recall", "\n".join(recalled)))
    for message in messages:
        body = _text_of(message.content)
        topic = "" if message.topic is None else f" topic={json.dumps(message.topic)}"
        start = f'<message from="{message.sender}" id="{message.id}"{topic}>'
        news.append(UserMessage(f"{start}\n{_harmless(body)}\n</message>", "message", body))
    return news


_DELIMITER = re.compile(r"<(?=\s*/?\s*(?:memory|message|note)\b)", re.IGNORECASE)


def _harmless(text: str) -> str:
    return _DELIMITER.sub("&lt;", text)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    try:
        return json.dumps(content, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(content)


def _note(text: str) -> UserMessage:
    return UserMessage(f"<note>\n{text}\n</note>", "note", text)


def _heard(state: LoopState, messages: Sequence[ChatMessage]) -> LoopState:
    transcript, window = _grown(state, messages)
    return LoopState(
        state.plan,
        state.awaiting,
        transcript,
        window,
        state.guard,
        state.said,
        state.note,
        state.trouble,
        state.excess,
        state.result,
    )


def _grown(state: LoopState, messages: Sequence[ChatMessage]) -> tuple[Transcript, Window]:
    transcript, window = state.transcript.extended(messages), state.window
    # As long as nothing was dropped from it, the window is the transcript.
    shown = transcript if window.messages is state.transcript else window.messages.extended(messages)
    return transcript, Window(shown, window.tokens + messages_tokens(messages), window.query)


# -- reason ---------------------------------------------------------------------------


def _reason(state: LoopState) -> Step:
    plan, guard, window = state.plan, state.guard, state.window
    verdict = guard.before_reason()
    if isinstance(verdict, guards.Halt):
        return _halted(state, verdict.reason)
    if plan.room is not None and window.tokens > plan.room:
        # A quarter more than needed goes, so that this work is not done in every turn.
        window = window.trimmed(plan.room * 3 // 4)
    tokens = plan.frame + window.tokens + state.excess
    max_tokens = plan.max_tokens
    left = None if guard.limits.max_tokens is None else guard.tokens_left
    if left is not None and left - tokens < max_tokens:
        max_tokens = left - tokens
        if max_tokens < 1:
            return _halted(state, _no_room_left(guard, tokens))
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


def _on_replied(state: LoopState, observation: Replied) -> Step:
    completion = observation.completion
    usage, trouble, stop_reason = completion.usage, state.trouble, completion.stop_reason
    guard = state.guard.after_reason(usage)
    excess = max(0, usage.input_tokens - state.plan.frame - state.window.tokens)
    if completion.tool_calls and stop_reason != "max_tokens" and stop_reason != "refusal":
        return _act(state, guard, excess, completion.message)
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
    state = _heard(state, _unrun(completion, "Not run: the model declined to go on."))
    detail = f": {completion.text}" if completion.text else ""
    return _failed(state, ContentRefusedError(f"the model declined to answer{detail}"))


def _unrun(said: Completion | AssistantMessage, reason: str) -> list[ChatMessage]:
    """Return what the model said, with `reason` as the result of each of its calls."""
    result = ToolResult(reason, is_error=True)
    if not said.text and not said.tool_calls:
        return []
    return [
        said.message if isinstance(said, Completion) else said,
        *[ToolMessage(call.id, call.name, result) for call in said.tool_calls],
    ]


def _cut_off(state: LoopState, completion: Completion) -> Step:
    """Have the model go on. Calls of an answer that was cut off are incomplete: they are not run."""
    truncations = state.trouble.truncations + 1
    said = _unrun(
        completion,
        "Not run: the answer was cut off at max_tokens, and this call may be incomplete."
        " Call again, with less text or fewer calls in one answer.",
    )
    if truncations >= TRUNCATIONS_TO_HALT:
        return _halted(
            _heard(state, said),
            f"{truncations} answers in a row were cut off at max_tokens ({state.plan.max_tokens}):"
            " raise max_tokens under [model], or ask for less",
        )
    if completion.tool_calls:
        trouble = attrs.evolve(state.trouble, partial="", truncations=truncations)
    else:
        partial = state.trouble.partial + completion.text
        trouble = attrs.evolve(state.trouble, partial=partial, truncations=truncations)
        said.append(_note("Your answer was cut off. Go on exactly where it ends, and repeat nothing."))
    return _reason(attrs.evolve(_heard(state, said), trouble=trouble))


def _on_driver_failed(state: LoopState, observation: DriverFailed) -> Step:
    error = observation.error
    if not isinstance(error, ContextTooLongError) or state.trouble.squeezed:
        return _failed(state, error)
    window = state.window.trimmed(state.window.tokens // 2)
    if window is state.window:
        return _failed(state, error)
    trouble = attrs.evolve(state.trouble, squeezed=True)
    # What the last request was longer by went with what was dropped.
    return _reason(attrs.evolve(state, window=window, trouble=trouble, excess=0))


# -- act ------------------------------------------------------------------------------


def _act(state: LoopState, guard: LoopGuard, excess: int, said: AssistantMessage) -> Step:
    calls, trouble = said.tool_calls, _recovered(state.trouble)
    verdict = guard.before_act(calls)
    if isinstance(verdict, guards.Halt):
        state = attrs.evolve(state, guard=guard)
        return _halted(_heard(state, _unrun(said, "Not run: the agent was stopped.")), verdict.reason)
    if isinstance(verdict, guards.Block):
        guard = guard.after_block(calls)
        state = attrs.evolve(state, awaiting=Recall, guard=guard, trouble=trouble, excess=excess)
        return _heard(state, _unrun(said, verdict.reason)), _TAKE_MESSAGES
    note = verdict.reason if isinstance(verdict, guards.Warn) else ""
    acting = LoopState(state.plan, Act, state.transcript, state.window, guard, said, note, trouble, excess)
    return acting, Act(calls, note)


def _recovered(trouble: Trouble) -> Trouble:
    """Forget what a good answer has fixed; wrong typed answers stay counted."""
    return NO_TROUBLE if trouble is NO_TROUBLE else Trouble(retries=trouble.retries)


def _on_acted(state: LoopState, observation: Acted) -> Step:
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
        news.append(_note(state.note))
    transcript, window = _grown(state, news)
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
    return perceiving, _TAKE_MESSAGES


_TAKE_MESSAGES = Recall()  # memory was asked at the beginning


# -- done -----------------------------------------------------------------------------


def _answered(state: LoopState, said: AssistantMessage) -> Step:
    plan, whole = state.plan, state.trouble.partial + said.text
    state = _heard(state, [said])
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
    return _finished(state, result)


def _misfit(state: LoopState, output: OutputSpec, problems: Sequence[str]) -> Step:
    """Give a wrong typed answer back to the model, unless that was done often enough."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    retries = state.trouble.retries
    if retries >= output.retries:
        times = f"also after {retries} corrections" if retries else "and no correction was asked for"
        problem = f"the answer does not fit its output type, {times}:\n{listed}"
        return _failed(state, MalformedReplyError(problem))
    note = _note(f"Your answer does not fit the schema:\n{listed}\nGive the whole corrected JSON only.")
    return _reason(attrs.evolve(_heard(state, [note]), trouble=Trouble(retries=retries + 1)))


def _on_remembered(state: LoopState, observation: Remembered) -> Step:
    assert state.result is not None
    return _finished(state, state.result)


def _finished(state: LoopState, result: AgentResult[Any]) -> Step:
    plan, transcript, window, guard = state.plan, state.transcript, state.window, state.guard
    done = LoopState(plan, Finish, transcript, window, guard, None, "", state.trouble, state.excess, result)
    return done, Finish(result)


def _halted(state: LoopState, reason: str) -> Step:
    return _failed(state, LoopHaltedError(reason, usage=state.usage, transcript=state.transcript))


def _failed(state: LoopState, error: Exception) -> Step:
    return attrs.evolve(state, awaiting=Halt), Halt(error, state.usage, state.transcript)


# -- the table ------------------------------------------------------------------------

PHASES: Mapping[type[Effect], Phase] = {
    Recall: "perceive",
    Reason: "reason",
    Act: "act",
    Remember: "done",
    Finish: "done",
    Halt: "done",
}
"""The phase in which each effect is performed."""


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
    Transition(Recall, Recalled, (Reason, Halt), _on_recalled),
    Transition(Reason, Replied, (Act, Recall, Reason, Remember, Finish, Halt), _on_replied),
    Transition(Reason, DriverFailed, (Reason, Halt), _on_driver_failed),
    Transition(Act, Acted, (Recall,), _on_acted),
    Transition(Remember, Remembered, (Finish,), _on_remembered),
)
"""Every legal pair; nothing answers `Finish` and `Halt`."""

_DECISIONS: Mapping[type[Effect], Mapping[type[Observation], Callable[[LoopState, Any], Step]]] = {
    effect: {row.observation: row.decide for row in TRANSITIONS if row.effect is effect} for effect in PHASES
}
