"""Where a run of the agent loop stands, and the steps that every room of the loop takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from agentpool._core.effects import (
    PHASES,
    Compact,
    Compaction,
    Effect,
    Finish,
    Halt,
    Reason,
    Recall,
    Remember,
)
from agentpool._core.errors import LoopHaltedError
from agentpool._core.events import Phase
from agentpool._core.guard import Limit, LoopGuard
from agentpool._core.landing import Landing
from agentpool._core.messages import AssistantMessage, ChatMessage, ToolCall
from agentpool._core.outcomes import AgentResult
from agentpool._core.plan import Plan
from agentpool._core.transcript import Transcript, messages_tokens
from agentpool._core.usage import TokenUsage
from agentpool._core.value import value
from agentpool._core.window import Cut, Window


@attrs.frozen
class Trouble:
    """What went wrong of late; empty as long as all goes well.

    Attributes:
      partial: the beginning of an answer that was cut off.
      truncations: how many answers in a row were cut off.
      retries: how many typed answers were given back.
      squeezed: whether the window was halved for the request that is under way.
      emptied: whether the last answer was empty.
      spoken: whether the last answer was a call as text.
    """

    partial: str = ""
    truncations: int = 0
    retries: int = 0
    squeezed: bool = False
    emptied: bool = False
    spoken: bool = False


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
      landing: the limit at which it lands, once its last turn is under way.
      cut: what is being summed up, as long as that is under way.
      done: what compactions came to since the last turn, as long as another one is under way.
      handoff: the call that handed the conversation over, until what was started is collected.
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
    landing: Landing | None = None
    cut: Cut | None = None
    done: Compaction | None = None
    handoff: ToolCall | None = None

    @property
    def phase(self) -> Phase:
        """The phase: perceive, reason, act or done."""
        return PHASES[self.awaiting]

    @property
    def iteration(self) -> int:
        """Which turn it is, from 1 up; each model call begins one."""
        upcoming = self.awaiting in (Recall, Reason, Compact)
        return self.guard.iterations + 1 if upcoming else self.guard.iterations

    @property
    def usage(self) -> TokenUsage:
        """What the model calls used so far."""
        return self.guard.usage


Step: TypeAlias = tuple[LoopState, Effect]


def heard(state: LoopState, messages: Sequence[ChatMessage]) -> LoopState:
    """Return the state with more messages."""
    transcript, window = grown(state, messages)
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
        state.landing,
    )


def grown(state: LoopState, messages: Sequence[ChatMessage]) -> tuple[Transcript, Window]:
    """Return the transcript and the window with more messages."""
    transcript, window = state.transcript.extended(messages), state.window
    # As long as nothing was dropped from it, the window is the transcript.
    shown = transcript if window.messages is state.transcript else window.messages.extended(messages)
    return transcript, Window(shown, window.tokens + messages_tokens(messages), window.query, window.pins)


def finished(state: LoopState, result: AgentResult[Any], handoff: ToolCall | None = None) -> Step:
    """End well; `handoff` is the call that handed the conversation over, if one did."""
    plan, transcript, window, guard = state.plan, state.transcript, state.window, state.guard
    done = LoopState(plan, Finish, transcript, window, guard, None, "", state.trouble, state.excess, result)
    return done, Finish(result, handoff)


def kept(state: LoopState, result: AgentResult[Any]) -> Step:
    """End well, and have the answer remembered where the agent does that."""
    if state.plan.remembers:
        return attrs.evolve(state, awaiting=Remember, result=result), Remember(result.text)
    return finished(state, result)


def halted(state: LoopState, reason: str, limit: Limit | None = None) -> Step:
    """Fail for a reason of the loop's own."""
    error = LoopHaltedError(reason, limit=limit, usage=state.usage, transcript=state.transcript)
    return failed(state, error)


def failed(state: LoopState, error: Exception) -> Step:
    """Fail."""
    return attrs.evolve(state, awaiting=Halt), Halt(error, state.usage, state.transcript)


TAKE_MESSAGES = Recall()  # memory was asked at the beginning
