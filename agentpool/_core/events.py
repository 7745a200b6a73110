"""What happens in a pool, as frozen values in the past tense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import attrs

from agentpool._core.approval import ApprovalRequest, Decision
from agentpool._core.messages import (
    AgentId,
    AgentMessage,
    Completion,
    CompletionRequest,
    ToolCall,
    ToolResult,
)
from agentpool._core.outcomes import AgentOutcome
from agentpool._core.usage import TokenUsage

Phase: TypeAlias = Literal["perceive", "reason", "act", "done"]


@attrs.frozen
class _Event:
    """What every event tells.

    Attributes:
      seq: counts up by one within a pool.
      time: seconds on trio's clock.
      agent_id: whom it is about, 0 for the supervisor.
      parent_id: who spawned that agent.
    """

    seq: int
    time: float
    agent_id: AgentId
    parent_id: AgentId


@attrs.frozen
class AgentSpawned(_Event):
    """An agent got its id, its inbox and its slot."""

    name: str


@attrs.frozen
class AgentStarted(_Event):
    """An agent took its first step."""


@attrs.frozen
class PhaseChanged(_Event):
    """The loop of an agent entered a phase."""

    phase: Phase
    iteration: int


@attrs.frozen
class LoopFinished(_Event):
    """The loop of an agent ended: with its result, with an error, or cancelled."""


@attrs.frozen
class TextDeltaReceived(_Event):
    """A piece of a streamed answer arrived."""

    text: str


@attrs.frozen
class ReasoningDeltaReceived(_Event):
    """A piece of what a model thinks before it answers arrived; not every provider tells that."""

    text: str


@attrs.frozen
class ToolStarted(_Event):
    """A tool call began."""

    call: ToolCall


@attrs.frozen
class ToolFinished(_Event):
    """A tool call came to its result; `duration` is in seconds."""

    call: ToolCall
    result: ToolResult
    duration: float


@attrs.frozen
class ToolProgressed(_Event):
    """A tool told how far a call is, as tools of MCP servers do.

    Attributes:
      tool: its name.
      progress: how far it is; of how much, `total` tells if that is known.
      message: what it does now; empty if it does not say. The words are the server's.
    """

    tool: str
    progress: float
    total: float | None
    message: str


@attrs.frozen
class ApprovalRequested(_Event):
    """The pool's approver was asked about a tool call; the agent waits for it."""

    request: ApprovalRequest


@attrs.frozen
class ApprovalDecided(_Event):
    """A tool call was approved or denied: by the approver, or by a rule, which asks nobody.

    A call that was approved begins now; one that was denied does not begin.
    """

    request: ApprovalRequest
    decision: Decision


@attrs.frozen
class ModelCallStarted(_Event):
    """A model was asked; each attempt of a retry, and each fallback, is a call by itself.

    Attributes:
      request: what is asked. Not printed: it holds the whole conversation.
      model: the name of the model; empty if only the provider knows it.
      provider: the driver's `provider`, such as `openai`, else the name of its class.
      address: where the model is, if the driver tells it; else empty.
      is_streamed: whether the answer comes in pieces.
    """

    request: CompletionRequest = attrs.field(repr=False)
    model: str
    provider: str
    address: str
    is_streamed: bool


@attrs.frozen
class ModelCallFinished(_Event):
    """A model call ended: with its answer, with an error, cancelled, or its stream was left early.

    Attributes:
      started: the `seq` of its `ModelCallStarted`.
      completion: the answer, with its price; None without one. Not printed.
      error: what it raised; None if it was answered, cancelled or left.
      is_cancelled: whether it was ended from outside, so that there is neither.
      duration: in seconds, without the wait for room in a budget.
      first_part: seconds until the first piece of a streamed answer; None if none came.
    """

    started: int
    completion: Completion | None = attrs.field(repr=False)
    error: Exception | None
    is_cancelled: bool
    duration: float
    first_part: float | None


@attrs.frozen
class CompletionFinished(_Event):
    """The loop got the answer that it asked for, by one model call or several; `duration` is in seconds."""

    usage: TokenUsage
    duration: float


@attrs.frozen
class ContextCompacted(_Event):
    """The context window was full: the oldest turns were summed up or dropped.

    Attributes:
      messages: how many messages the model is not shown any more.
      tokens_before, tokens_after: an estimate of what it was shown, and of what it is shown now.
      summary: what stands in their place; empty if they were dropped.
      problem: why some were dropped that should have been summed up; empty if all went well.
    """

    messages: int
    tokens_before: int
    tokens_after: int
    summary: str
    problem: str


@attrs.frozen
class MessageSent(_Event):
    """A message was put into its recipient's inbox, or handed to its waiting recipient."""

    message: AgentMessage


@attrs.frozen
class MessageDeadLettered(_Event):
    """A message will never be received."""

    message: AgentMessage
    reason: str


@attrs.frozen
class AgentRestarted(_Event):
    """An agent that ended is started afresh by its restart policy.

    Attributes:
      restarts: how often that has happened to it.
      outcome: how its last life ended.
      delay: seconds until the next one begins, when it has a slot.
    """

    restarts: int
    outcome: AgentOutcome[Any]
    delay: float = 0.0


@attrs.frozen
class BudgetWarned(_Event):
    """A budget is nearly used up, or refused a call."""

    text: str


@attrs.frozen
class GuardWarned(_Event):
    """The loop guard saw something that will soon stop the agent."""

    text: str


@attrs.frozen
class DeadlockSuspected(_Event):
    """Agents wait for each other in a cycle that only a deadline or an unknown task can break."""

    path: Sequence[AgentId]


@attrs.frozen
class AgentStuck(_Event):
    """An agent did not end although it was aborted: it swallows cancellation, shields itself or blocks.

    `stack` holds the source lines in which its tasks stand, innermost last.
    """

    name: str
    stack: Sequence[str]


@attrs.frozen
class AgentFinished(_Event):
    """An agent ended; its outcome, inbox, slot and wait edges changed in the same step."""

    outcome: AgentOutcome[Any]


Event: TypeAlias = (
    AgentSpawned
    | AgentStarted
    | PhaseChanged
    | LoopFinished
    | TextDeltaReceived
    | ReasoningDeltaReceived
    | ToolStarted
    | ToolProgressed
    | ToolFinished
    | ApprovalRequested
    | ApprovalDecided
    | ModelCallStarted
    | ModelCallFinished
    | CompletionFinished
    | ContextCompacted
    | MessageSent
    | MessageDeadLettered
    | AgentRestarted
    | BudgetWarned
    | GuardWarned
    | DeadlockSuspected
    | AgentStuck
    | AgentFinished
)
