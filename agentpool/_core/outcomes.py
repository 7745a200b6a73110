"""How an agent ended. Data: nothing here raises by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

import attrs

from agentpool._core.errors import AgentAbortedError, AgentFailedError
from agentpool._core.messages import AgentId, ChatMessage
from agentpool._core.usage import NO_USAGE, TokenUsage

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


# No slots: making a frozen value with slots takes 0.9 µs longer here, once for every agent.
@attrs.frozen(kw_only=True, slots=False)
class _Ended:
    """What every outcome tells.

    Attributes:
      agent_id: the agent's id.
      name: its name.
      parent_id: the id of the agent that spawned it, 0 for the supervisor.
      usage: what its model calls used, also when it failed or was aborted.
      started_at: seconds on trio's clock when it got its slot.
      duration: seconds from then to its end.
      restarts: how often its `RestartPolicy` started it afresh.
    """

    agent_id: AgentId
    name: str
    parent_id: AgentId
    usage: TokenUsage = NO_USAGE
    started_at: float = 0.0
    duration: float = 0.0
    restarts: int = 0


@attrs.frozen(kw_only=True, slots=False)
class Completed(_Ended, Generic[T_co]):
    """The agent returned `value`."""

    value: T_co

    def unwrap(self) -> T_co:
        """Return the value."""
        return self.value


@attrs.frozen(kw_only=True, slots=False)
class Failed(_Ended):
    """The agent raised `error`, or did not end within its timeout."""

    error: BaseException

    def unwrap(self) -> NoReturn:
        """Raise `AgentFailedError` from the agent's own exception."""
        raise AgentFailedError(self.agent_id, self.name, self.error) from self.error


@attrs.frozen(kw_only=True, slots=False)
class Aborted(_Ended):
    """The agent was aborted, for `reason` if one was given, or cancelled from outside."""

    reason: str | None = None

    def unwrap(self) -> NoReturn:
        """Raise `AgentAbortedError`."""
        raise AgentAbortedError(self.agent_id, self.name, self.reason)


AgentOutcome: TypeAlias = Completed[T] | Failed | Aborted


@attrs.frozen
class AgentResult(Generic[T_co]):
    """What the agent loop returns.

    Attributes:
      text: the model's last text.
      output: the typed answer, where `SpawnConfig.output_type` asked for one; the data of its JSON,
        where the manifest has an `output_schema`; else `text`.
      usage: the sum over the model calls.
      iterations: how many turns it took.
      tool_calls: how many tools were called.
      transcript: the whole conversation; each tool call has exactly one result.
      stopped_by: the limit at which the agent gave its answer, with `[resources] on_limit = "answer"`:
        `iterations`, `tool_calls`, `tokens`, `cost` or `idle`; None if it ended by itself.
      handed_over: the names of the agents that the conversation was handed to, in their order; the last
        of them gave the answer. Usage, turns and calls are the sums over all of them.
    """

    text: str
    output: T_co
    usage: TokenUsage
    iterations: int
    tool_calls: int
    transcript: Sequence[ChatMessage]
    stopped_by: str | None = None
    handed_over: tuple[str, ...] = ()


AnyOutcome: TypeAlias = AgentOutcome[Any]
