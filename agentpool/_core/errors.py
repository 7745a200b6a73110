"""Every error that agentpool raises, as one tree below `AgentPoolError`.

    AgentPoolError
    ├── ManifestError             a file is wrong: carries every finding at once
    ├── PoolFullError             (in _kernel/slots.py: it is a `trio.WouldBlock` too)
    ├── PoolClosedError           the pool takes no more work
    ├── PoolLimitError            a bound of `PoolLimits` was reached
    ├── UnknownAgentError         no live agent has that id
    ├── DeadlockError             waiting here could never have ended
    ├── AgentTimeoutError         an agent's `timeout` passed (a `TimeoutError` too)
    ├── AgentFailedError          `result()` of an agent that failed
    ├── AgentAbortedError         `result()` of an agent that was aborted
    ├── LeftOpenError             an agent left scopes or nurseries open on its task
    ├── RestartLimitError         a supervisor's children ended too often
    ├── LoopHaltedError           the loop guard stopped an agent
    ├── BudgetExceededError       a budget refused a model call
    │   └── PriceUnknownError         ... because nobody knows what it costs
    ├── JournalError              a journal cannot be written, or is another's
    │   ├── JournalCorruptError       ... or what it holds is not what was written
    │   └── ReplayMismatchError       ... or does not fit the agents that it is to be resumed with
    ├── WorkerLostError           the process that ran an agent is gone, or cannot be reached any more
    ├── WorkerUnavailableError    whether a worker process has got what it was told is not known
    ├── RemoteError               what a worker process sent cannot be loaded here, or the other way round
    ├── MemoryFileError           the file of a memory cannot be read or written
    ├── SessionError              a file of conversations cannot be read or written
    │   └── SessionConflictError      ... or a conversation there has gone on without this transcript
    ├── ToolError                 a tool could not do what the model asked for
    │   └── CapabilityDeniedError     ... because its manifest does not grant it
    └── DriverError               a model could not be reached or did not answer properly
        ├── RateLimitedError          try again after `retry_after` seconds
        ├── OverloadedError           try again later
        ├── DriverUnavailableError    no connection, a time limit, a server error
        ├── RequestRejectedError      authentication, a bad request: do not try again
        ├── ContentRefusedError       the provider declined the content
        ├── MalformedReplyError       an answer that cannot be read: try again
        └── ContextTooLongError       the request does not fit the context window

Beside the tree stands `UnhandledAgentErrors`, the group that a pool raises at its exit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from agentpool._core.text import shown

if TYPE_CHECKING:
    from agentpool._core.messages import AgentId, ChatMessage
    from agentpool._core.usage import TokenUsage


class AgentPoolError(Exception):
    """The base class of everything that agentpool raises by itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by its class and `args`, as other exceptions: many take their fields by keyword.
        return _error_again, (type(self), self.args), self.__dict__


def _error_again(kind: type[AgentPoolError], args: tuple[Any, ...]) -> AgentPoolError:
    """Return an exception as it was before it was pickled, but for its fields."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


# -- the caller's files ------------------------------------------------------


@attrs.frozen
class Finding:
    """One thing that is wrong in a manifest or fleet file, and how to fix it."""

    source: str
    """The file (or `<string>`) in which it was found."""
    key: str
    """The path of the key, such as `agents[2].resources.max_iterations`; empty for the whole file."""
    problem: str
    fix: str

    def __str__(self) -> str:
        where = f"{self.source}: {self.key}" if self.key else self.source
        return f"{where}: {self.problem}. {self.fix}"


class ManifestError(AgentPoolError):
    """A manifest or fleet file is wrong. `findings` holds every problem of the file at once."""

    findings: tuple[Finding, ...]

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(self.findings)

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings)


# -- the pool ----------------------------------------------------------------


class PoolClosedError(AgentPoolError):
    """The pool is draining or has ended, so that it starts no more agents."""


class PoolLimitError(AgentPoolError):
    """A bound of `PoolLimits` was reached: the work was refused, nothing was started."""

    def __init__(self, limit: str, maximum: int) -> None:
        self.limit = limit
        self.maximum = maximum
        super().__init__(limit, maximum)

    def __str__(self) -> str:
        return (
            f"{self.limit} is at its maximum of {self.maximum};"
            f" raise PoolLimits.{self.limit} if that is meant"
        )


class UnknownAgentError(AgentPoolError):
    """There is no live agent with that id: it never existed, or it has ended."""

    def __init__(self, agent_id: int, reason: str = "") -> None:
        self.agent_id = agent_id
        self.reason = reason
        super().__init__(agent_id, reason)

    def __str__(self) -> str:
        return self.reason or f"there is no live agent {self.agent_id}"


class DeadlockError(AgentPoolError):
    """Agents wait for each other in a way that nothing could ever end.

    Attributes:
      path: the ids of the agents on the cycle, each once, from the one whose wait raised this.
    """

    path: tuple[int, ...]

    def __init__(self, path: Sequence[int]) -> None:
        self.path = tuple(path)
        super().__init__(self.path)

    def __str__(self) -> str:
        steps = " waits for ".join(str(agent_id) for agent_id in (*self.path, self.path[0]))
        return f"agent {steps}: no such wait can end"


class AgentTimeoutError(AgentPoolError, TimeoutError):
    """An agent did not end within its timeout (its own, or an ancestor's)."""

    def __init__(self, agent_id: int, name: str, timeout: float | None = None) -> None:
        self.agent_id = agent_id
        self.name = name
        self.timeout = timeout
        super().__init__(agent_id, name, timeout)

    def __str__(self) -> str:
        limit = "its ancestor's deadline" if self.timeout is None else f"{self.timeout:g} seconds"
        return f"agent {self.agent_id} ({self.name}) did not end within {limit}"


class AgentFailedError(AgentPoolError):
    """Raised by `AgentHandle.result()` from the agent's own exception, its `__cause__`."""

    def __init__(self, agent_id: int, name: str, error: BaseException) -> None:
        self.agent_id = agent_id
        self.name = name
        self.error = error
        super().__init__(agent_id, name, error)

    def __str__(self) -> str:
        return f"agent {self.agent_id} ({self.name}) failed: {shown(self.error)}"


class AgentAbortedError(AgentPoolError):
    """Raised by `AgentHandle.result()` of an agent that was aborted."""

    def __init__(self, agent_id: int, name: str, reason: str | None) -> None:
        self.agent_id = agent_id
        self.name = name
        self.reason = reason
        super().__init__(agent_id, name, reason)

    def __str__(self) -> str:
        return f"agent {self.agent_id} ({self.name}) was aborted: {self.reason or 'no reason given'}"


class LeftOpenError(AgentPoolError):
    """An agent's body ended, and left something open on its task: a cancel scope, a nursery.

    Mostly it broke out of an async generator that yields inside one. What was left open is closed,
    and touches nobody else.

    Attributes:
      left_open: what it was, as texts.
    """

    def __init__(self, agent_id: int, name: str, left_open: Sequence[str]) -> None:
        self.agent_id = agent_id
        self.name = name
        self.left_open: tuple[str, ...] = tuple(left_open)
        super().__init__(agent_id, name, self.left_open)

    def __str__(self) -> str:
        return (
            f"agent {self.agent_id} ({self.name}) ended with {', '.join(self.left_open)} left open; use"
            " `with` and `async with`, and close an async generator that is not read to its end"
            " (`async with contextlib.aclosing(generator)`)"
        )


class RestartLimitError(AgentPoolError):
    """A supervisor's children ended more often than it may restart them. The cause is the last failure."""

    def __init__(self, name: str, max_restarts: int, within: float) -> None:
        self.name = name
        self.max_restarts = max_restarts
        self.within = within
        super().__init__(name, max_restarts, within)

    def __str__(self) -> str:
        return (
            f"child {self.name} ended again: more than {self.max_restarts} restarts"
            f" within {self.within:g} seconds"
        )


class UnhandledAgentErrors(ExceptionGroup[Exception]):
    """The failures of a scope's agents that nobody looked at, in the order of their ends.

    A pool raises it at its exit, when its body ended well. An agent that ignored a failure of
    one of its children fails with it, and what its body had returned is kept in `value`.
    """

    value: Any = None

    def derive(self, excs: Sequence[Exception]) -> UnhandledAgentErrors:  # type: ignore[override]
        """Make a group of a part of the errors, as `ExceptionGroup.split` asks for."""
        return UnhandledAgentErrors(self.message, excs)


# -- the loop and its means ---------------------------------------------------


class LoopHaltedError(AgentPoolError):
    """The loop guard stopped an agent.

    Attributes:
      reason: which bound was reached or which repetition was seen.
      limit: the limit that was reached: `iterations`, `tool_calls`, `tokens`, `cost` or `idle`; None
        if it was none of these.
      usage: what the agent had used until then.
      transcript: the conversation so far, every tool call with its result.
    """

    def __init__(
        self,
        reason: str,
        *,
        limit: str | None = None,
        usage: TokenUsage | None = None,
        transcript: Sequence[ChatMessage] = (),
    ) -> None:
        self.reason = reason
        self.limit = limit
        self.usage = usage
        self.transcript = transcript
        super().__init__(reason)


class BudgetExceededError(AgentPoolError):
    """A budget refused a model call, because its worst case would have passed the limit.

    Attributes:
      resource: `tokens`, `cost_usd` or `calls`.
      limit, spent, reserved, needed: amounts of that resource; `reserved` is held by calls
        that are under way, `needed` is the worst case of the refused one.
      usage, transcript: as on `LoopHaltedError`.
    """

    def __init__(
        self,
        resource: str,
        *,
        limit: float,
        spent: float,
        reserved: float,
        needed: float,
        usage: TokenUsage | None = None,
        transcript: Sequence[ChatMessage] = (),
    ) -> None:
        self.resource = resource
        self.limit = limit
        self.spent = spent
        self.reserved = reserved
        self.needed = needed
        self.usage = usage
        self.transcript = transcript
        super().__init__(resource)

    def __str__(self) -> str:
        return (
            f"the budget of {self.limit:g} {self.resource} has no room for {self.needed:g} more"
            f" ({self.spent:g} spent, {self.reserved:g} reserved by calls under way)"
        )


class PriceUnknownError(BudgetExceededError):
    """A budget in money refused a model call whose price is not known: unknown is not free.

    Attributes:
      needed: infinity; the others are those of `BudgetExceededError`.
    """

    def __init__(self, *, limit: float, spent: float = 0.0, reserved: float = 0.0) -> None:
        super().__init__("cost_usd", limit=limit, spent=spent, reserved=reserved, needed=float("inf"))

    def __str__(self) -> str:
        return (
            f"the price of this model is not known, so that the budget of ${self.limit:g} cannot bound"
            " the call; give the price in a file that AGENTPOOL_PRICES names (or as the driver's prices or"
            " estimate_cost; 0 is free), or limit tokens or calls instead of cost_usd"
        )


class JournalError(AgentPoolError):
    """A journal cannot be written or read; the text says why, and what to do.

    A pool whose journal fails ends at once, before anything is acted on that was not written.
    """


class JournalCorruptError(JournalError):
    """What a journal holds is not what was written to it: the file was damaged, or it is no journal."""


class RunPausedError(AgentPoolError):
    """A run waits for the decision of a person, and nothing else of it is left to do.

    It is in its journal, and goes on from there when it is resumed with the decision.

    Attributes:
      requests: what is asked, each an `ApprovalRequest`, by the ids under which it is decided.
    """

    def __init__(self, requests: Mapping[str, Any]) -> None:
        self.requests: dict[str, Any] = dict(requests)
        super().__init__(self.requests)

    def __str__(self) -> str:
        asked = ", ".join(f"{key} ({request.call.name})" for key, request in self.requests.items())
        return f"the run is paused: a person has to decide about {asked}"


class ReplayMismatchError(JournalError):
    """What an agent does now is not what its journal says it did: it cannot be resumed with this.

    Attributes:
      agent_id, name: the agent; its id in the journal.
      step: where, such as the 3rd turn of its loop, or an operation of its code.
    """

    def __init__(self, agent_id: AgentId, name: str, step: str, problem: str) -> None:
        self.agent_id = agent_id
        self.name = name
        self.step = step
        self.problem = problem
        super().__init__(agent_id, name, step, problem)

    def __str__(self) -> str:
        return f"agent {self.agent_id} ({self.name}), {self.step}: {self.problem}"


class WorkerLostError(AgentPoolError):
    """The worker process in which an agent ran is gone, or nothing was heard of it for too long.

    When it is raised the agent does not run any more: the worker has ended it, or itself, by then.

    Attributes:
      worker: names the worker.
      reason: what is known of why.
    """

    def __init__(self, worker: str, reason: str) -> None:
        super().__init__(worker, reason)
        self.worker = worker
        self.reason = reason

    def __str__(self) -> str:
        return f"worker {self.worker} is lost: {self.reason}"


class WorkerUnavailableError(AgentPoolError):
    """A worker process could not be reached just now: whether it has got what it was told is not known."""


class RemoteError(AgentPoolError):
    """An exception, or a value, that could not be brought from one process to another.

    Attributes:
      type_name: the class of the exception over there, or of the value.
      text: what it said, or why it could not be sent.
      traceback: the text of its traceback over there; empty for a value.
    """

    def __init__(self, type_name: str, text: str, traceback: str = "") -> None:
        super().__init__(type_name, text, traceback)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        told = f"{self.type_name}: {self.text}" if self.text else self.type_name
        return f"{told}\n\n{self.traceback.rstrip()}" if self.traceback else told


class MemoryFileError(AgentPoolError):
    """The file of a memory cannot be read or written; the text says where, why, and what to do."""


class SessionError(AgentPoolError):
    """A file of conversations cannot be read or written; the text says why. Nothing in it was changed."""


class SessionConflictError(SessionError):
    """A conversation does not begin the transcript that was to be added to it: somebody else went on with it.

    Nothing was written. Append the transcript under another name, or ask again with the newer history.

    Attributes:
      name: the conversation.
    """

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(name, problem)

    def __str__(self) -> str:
        return f"the conversation {self.name!r} {self.problem}"


class ToolError(AgentPoolError):
    """A tool could not do what the model asked for. The model is told the text."""


class McpServerError(ToolError):
    """An MCP server cannot be had, or has ended.

    Attributes:
      server: its name.
    """

    def __init__(self, server: str, problem: str) -> None:
        super().__init__(server, problem)
        self.server = server

    def __str__(self) -> str:
        return f"MCP server {self.server!r}: {self.args[1]}"


class CapabilityDeniedError(ToolError):
    """A tool needs a capability that the agent's manifest does not grant."""


class DriverError(AgentPoolError):
    """A model could not be reached, or did not answer properly. The cause is kept.

    Attributes:
      retryable: whether the same request may succeed when it is made again.
      may_have_cost: whether the provider may have answered, and charge for it, although we got no
        answer: then a budget books the worst case of the call.
    """

    retryable = False
    may_have_cost = False


class RateLimitedError(DriverError):
    """The provider refuses more requests for now.

    Attributes:
      retry_after: seconds to wait, where the provider said so.
    """

    retryable = True

    def __init__(self, message: str = "rate limited", *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class OverloadedError(DriverError):
    """The provider has no capacity for now.

    Attributes:
      retry_after: seconds to wait, where the provider said so.
    """

    retryable = True

    def __init__(self, message: str = "overloaded", *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class DriverUnavailableError(DriverError):
    """No connection, a cut connection, a time limit, or an error on the server's side.

    Attributes:
      may_have_cost: false unless it is given, since mostly nothing was sent or answered.
    """

    retryable = True

    def __init__(self, *args: object, may_have_cost: bool = False) -> None:
        self.may_have_cost = may_have_cost
        super().__init__(*args)


class RequestRejectedError(DriverError):
    """The provider rejected the request: authentication, permission, an unknown model, a bad request."""


class ContentRefusedError(DriverError):
    """The provider declined to answer because of the content."""


class MalformedReplyError(DriverError):
    """The answer cannot be read: malformed, incomplete, or without its finish marker."""

    retryable = True
    may_have_cost = True


class ContextTooLongError(DriverError):
    """The request does not fit into the model's context window."""
