"""What the agent loop wants done (effects), and what came of it (observations)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
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
class Compaction:
    """What became of the oldest turns of a conversation when its context window was full.

    Attributes:
      messages: how many messages the model is not shown any more.
      tokens_before, tokens_after: the estimates of what it was shown, and of what it is shown now.
      summary: what stands in their place; empty if they were dropped.
      problem: why they were dropped although they should have been summed up; empty if all is well.
    """

    messages: int
    tokens_before: int
    tokens_after: int
    summary: str = ""
    problem: str = ""


@value
class Reason:
    """Ask the model.

    Attributes:
      request: what it is asked.
      input_tokens: an estimate of the request, for whoever reserves a budget for it.
      compaction: what was done before, so that the request fits.
    """

    request: CompletionRequest
    input_tokens: int = 0
    compaction: Compaction | None = None


@value
class Compact:
    """Have the model sum the oldest turns up.

    Attributes:
      request: what it is asked. Its answer is nothing that whoever watches would take for the agent's.
      input_tokens: an estimate of the request.
    """

    request: CompletionRequest
    input_tokens: int = 0


@value
class Act:
    """Run these tool calls side by side. `warning` is what the guard has to say about them, if anything."""

    calls: tuple[ToolCall, ...]
    warning: str = ""


@attrs.frozen
class Collect:
    """Wait for the agents that the model started, and gather what it was not told of them.

    Attributes:
      stop: whether those that still run are aborted, because nobody needs them any more.
    """

    stop: bool = False


@attrs.frozen
class Remember:
    """Keep the final answer in memory."""

    text: str


@attrs.frozen
class Finish:
    """The agent is done.

    Attributes:
      result: what it came to.
      handoff: the call that handed the conversation over, if one did.
    """

    result: AgentResult[Any]
    handoff: ToolCall | None = None


@attrs.frozen
class Halt:
    """The agent failed. `usage` and `transcript` say how far it came."""

    error: Exception
    usage: TokenUsage
    transcript: Sequence[ChatMessage]


Effect: TypeAlias = Recall | Reason | Compact | Act | Collect | Remember | Finish | Halt


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


@value
class Compacted:
    """What the model answered when it was to sum up; whether that is of use is for the loop to say."""

    completion: Completion


@attrs.frozen
class DriverFailed:
    """Why the model did not answer."""

    error: Exception


NOT_CHANGED: Mapping[int, ToolCall | None] = MappingProxyType({})


@value
class Acted:
    """What the calls came to.

    Attributes:
      results: one for each call of `Act`, in their order.
      made: the calls that were made in the place of what the model said, where a hook changed them, by
        their positions; None for one in whose place nothing was called.
    """

    results: Sequence[ToolResult]
    made: Mapping[int, ToolCall | None] = NOT_CHANGED


@value
class Idled:
    """For so many seconds nothing was heard of what was to be done, and it was cancelled.

    Attributes:
      seconds: the limit.
      results: the results of the calls that had ended; None for each that had not. Empty after a model call.
    """

    seconds: float
    results: Sequence[ToolResult | None] = ()


@attrs.frozen
class Collected:
    """What became of the agents that the model started, as it is told; empty if it knows all."""

    text: str = ""


@attrs.frozen
class Remembered:
    """The answer was kept."""


Observation: TypeAlias = (
    Recalled | Replied | Compacted | DriverFailed | Acted | Idled | Collected | Remembered
)


class IllegalObservationError(ValueError):
    """The observation does not answer the effect that the state waits for. The state is as it was."""


PHASES: Mapping[type[Effect], Phase] = {
    Recall: "perceive",
    Reason: "reason",
    Compact: "reason",
    Act: "act",
    Collect: "act",
    Remember: "done",
    Finish: "done",
    Halt: "done",
}
"""The phase in which each effect is performed."""
