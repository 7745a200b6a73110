"""What the head of a pool and a worker process tell each other about the agents that run there.

The head has the pool. For each agent that a worker runs it has a proxy, an agent of the pool as any other,
and performs for it what the agent's code asks of the pool. A worker runs bodies. Records keep their order in
each direction. What users made (arguments, messages, results, errors) is inside a record as bytes of its own,
so that something that cannot be loaded concerns one operation of one agent.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from agentpool._core.messages import AgentId

CallId: TypeAlias = int
"""Numbers what one agent's code has asked of its proxy; from 1 up."""


# -- from the head to a worker -------------------------------------------------------------------------


@attrs.frozen
class Start:
    """Run an agent.

    Attributes:
      agent: its id, that of its proxy.
      facts: pickled `AgentFacts`.
      work: pickled `(callable, arguments)`.
    """

    agent: AgentId
    facts: bytes
    work: bytes


@attrs.frozen
class Abort:
    """Cancel an agent; it tells its end all the same."""

    agent: AgentId
    reason: str | None


@attrs.frozen
class Answered:
    """What an agent asked for has happened; `value` is pickled."""

    agent: AgentId
    call: CallId
    value: bytes


@attrs.frozen
class Refused:
    """What an agent asked for raised; `error` is a pickled `SentError`."""

    agent: AgentId
    call: CallId
    error: bytes


@attrs.frozen
class Withdrawn:
    """What an agent asked for, and withdrew, has not happened."""

    agent: AgentId
    call: CallId


@attrs.frozen
class Piece:
    """One piece of what comes in pieces, before its end is told by `Answered` or `Refused`."""

    agent: AgentId
    call: CallId
    value: bytes


@attrs.frozen
class Wanted:
    """The head wants the next item of an input that the agent reads for it.

    It counts as an answer, because the agent runs from then on; see `Rested`.

    Attributes:
      feed: numbers the input, among those of the agent.
    """

    agent: AgentId
    feed: int


@attrs.frozen
class ChildEnded:
    """A child that an agent has spawned has ended; `outcome` is pickled."""

    agent: AgentId
    child: AgentId
    outcome: bytes


@attrs.frozen
class Watched:
    """Whether anybody subscribes to the events of the pool.

    Attributes:
      blocks: whether one of them has agents wait when it is slow.
    """

    on: bool
    blocks: bool


@attrs.frozen
class WorkOver:
    """The pool's block has ended, or it drains."""

    draining: bool


@attrs.frozen
class Heard:
    """The events of so many `Happened` are with those who subscribe, and there is room for more."""

    batches: int


Down: TypeAlias = (
    Start | Abort | Answered | Refused | Withdrawn | Piece | Wanted | ChildEnded | Watched | WorkOver | Heard
)


# -- from a worker to the head -------------------------------------------------------------------------


@attrs.frozen
class Called:
    """An agent asks its proxy to do something, and waits for it.

    Attributes:
      verb: what, one of the names that the head knows.
      arguments: pickled, a tuple.
      place: where in the agent its code stands, and the number of the operation there, for the journal; None
        without one, and for what is no operation.
      kept: pickled, what is set of the context variables that agents inherit which are started so; None if
        there is nothing.
    """

    agent: AgentId
    call: CallId
    verb: str
    arguments: bytes
    place: tuple[str, int] | None = None
    kept: bytes | None = None


@attrs.frozen
class Withdraw:
    """The agent wants a call undone: it is answered with what it came to, or `Withdrawn`."""

    agent: AgentId
    call: CallId


@attrs.frozen
class Told:
    """An agent has its proxy do something, and does not wait for it; `place` is as of `Called`."""

    agent: AgentId
    verb: str
    arguments: bytes
    place: tuple[str, int] | None = None


@attrs.frozen
class Rested:
    """Every task of an agent waits in a call.

    Attributes:
      answered: how many of its calls had been answered, and items been wanted of it, when that was so: if
        they are more at the head, the agent runs.
      loose: those of its calls that something over there may end, of which the head knows nothing: in how
        many seconds, at the latest (`inf` for never, `-inf` if a task may do it at any time), and whether
        their task has opened a pool of its own, whose agents live.
    """

    agent: AgentId
    answered: int
    loose: tuple[tuple[CallId, float, bool], ...] = ()


@attrs.frozen
class Happened:
    """Events of agents, for those who subscribe: a pickled list of `(agent, event class, own fields)`."""

    events: bytes


@attrs.frozen
class Ended:
    """An agent has ended; `result` is a pickled `RemoteResult`."""

    agent: AgentId
    result: bytes


Up: TypeAlias = Called | Withdraw | Told | Rested | Happened | Ended
