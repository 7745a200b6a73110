"""What the agent loop wants done (effects), and what came of it (observations)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import attrs

from agentpool._core.events import Phase
from agentpool._core.messages import (
    AgentMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    ToolCall,
    ToolResult,
)
from agentpool._core.outcomes import AgentResult
from agentpool._core.usage import TokenUsage
from agentpool._core.value import value

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


@value
class Idled:
    """For so many seconds nothing was heard of what was to be done, and it was cancelled.

    Attributes:
      seconds: the limit.
      results: the results of the calls that had ended; None for each that had not. Empty after `Reason`.
    """

    seconds: float
    results: Sequence[ToolResult | None] = ()


@attrs.frozen
class Remembered:
    """The answer was kept."""


Observation: TypeAlias = Recalled | Replied | DriverFailed | Acted | Idled | Remembered


class IllegalObservationError(ValueError):
    """The observation does not answer the effect that the state waits for. The state is as it was."""


PHASES: Mapping[type[Effect], Phase] = {
    Recall: "perceive",
    Reason: "reason",
    Act: "act",
    Remember: "done",
    Finish: "done",
    Halt: "done",
}
"""The phase in which each effect is performed."""
