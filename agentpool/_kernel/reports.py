"""What a pool tells through `logging` of its agents' lives, in words.

A handler is the program's own code, and may do anything: raise, or abort the pool because of what it was
told. So what is told in the middle of a step is handed out when the step is over and the books are right.
An instrument tells when that is: a task of the pool's own would change the order in which tasks run, so
that a program which is watched would not be the one that was to be watched.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, assert_never

import trio

from agentpool._core.messages import SUPERVISOR, AgentId, AgentMessage
from agentpool._core.outcomes import Aborted, AnyOutcome, Completed, Failed
from agentpool._kernel.protection import protect_module
from agentpool._logging import AGENTS, LOOP, MESSAGES, complain, printable, tell


class Reported(Protocol):
    """An agent that something is told about."""

    id: AgentId
    name: str


class Restarted(Reported, Protocol):
    """An agent that was restarted, and how often."""

    restarts: int


class Reports(trio.abc.Instrument):
    """Tells of one pool.

    Args:
      nursery: the pool's.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._waiting: list[tuple[contextvars.Context, Callable[[], None]]] = []

    # -- the lives of agents -------------------------------------------------------------------------

    def started(self, agent: Reported, parent_id: AgentId) -> None:
        """An agent took its first step."""
        by = f", spawned by agent {parent_id}" if parent_id != SUPERVISOR else ""
        self._tell(AGENTS, logging.DEBUG, agent, "%s started%s", _who(agent), by)

    def ended(self, agent: Reported, outcome: AnyOutcome) -> None:
        """An agent has its outcome."""
        match outcome:
            case Completed():
                text = "%s completed after %.3f s"
                self._tell(AGENTS, logging.DEBUG, agent, text, _who(agent), outcome.duration)
            case Failed(error=error):
                text = "%s failed after %.3f s: %s"
                args = (_who(agent), outcome.duration, error)
                self._tell(AGENTS, logging.WARNING, agent, text, *args, error=error)
            case Aborted(reason=reason):
                text = "%s was aborted after %.3f s: %s"
                self._tell(AGENTS, logging.INFO, agent, text, _who(agent), outcome.duration, _cut(reason))
            case _:
                assert_never(outcome)

    def restarted(self, agent: Restarted, delay: float, outcome: AnyOutcome) -> None:
        """An agent that ended is started afresh after a pause."""
        error = outcome.error if isinstance(outcome, Failed) else None
        ended = "completed" if error is None else "failed"
        text = "%s %s, and is restarted (number %d) in %.3f s%s%s"
        why = ("", "") if error is None else (": ", error)
        args = (_who(agent), ended, agent.restarts, delay, *why)
        self._tell(
            AGENTS, logging.INFO if error is None else logging.WARNING, agent, text, *args, error=error
        )

    def stuck(self, agent: Reported, stack: Sequence[str]) -> None:
        """An agent does not end although it was aborted, or blocks the event loop."""
        text = "%s swallows cancellation, shields itself from it or blocks; it stands in %s"
        self._tell(AGENTS, logging.ERROR, agent, text, _who(agent), " > ".join(stack) or "no code of its own")

    def suspected(self, agent: Reported, path: Sequence[AgentId]) -> None:
        """Agents wait for each other, and only a deadline or an unknown task can end that."""
        text = (
            "agents wait for each other until a deadline, or a task that the pool does not know, ends it: %s"
        )
        self._tell(AGENTS, logging.WARNING, agent, text, " -> ".join(map(str, (*path, path[0]))))

    def refused(self, agent: Reported, error: Exception) -> None:
        """A budget had no room for a model call."""
        text = "a model call of %s was not made: %s"
        self._tell(AGENTS, logging.WARNING, agent, text, _who(agent), error)

    # -- the rest -------------------------------------------------------------------------------------

    def dead_letter(self, sender_name: str, message: AgentMessage, reason: str) -> None:
        """A message will never be received."""
        text = "message %d from %s to agent %d is a dead letter (%s)"
        sender = f"agent {message.sender}" if message.sender != SUPERVISOR else "the program"
        args = (text, message.id, sender, message.to, reason)
        self._tell_of(MESSAGES, logging.INFO, (message.sender, sender_name), *args)

    def asked(self, agent: Reported, tool: str) -> None:
        """The approver is asked about a tool call."""
        self._tell(LOOP, logging.INFO, agent, "%s waits for the approval of a call of %s", _who(agent), tool)

    def decided(self, agent: Reported, tool: str, verdict: str) -> None:
        """It was decided whether a tool call is made."""
        self._tell(LOOP, logging.INFO, agent, "a call of %s by %s was %s", tool, _who(agent), verdict)

    # -- the way out ------------------------------------------------------------------------------------

    def _tell(
        self, logger: logging.Logger, level: int, agent: Reported, text: str, *args: Any, **how: Any
    ) -> None:
        self._tell_of(logger, level, (agent.id, agent.name), text, *args, **how)

    def _tell_of(
        self,
        logger: logging.Logger,
        level: int,
        agent: tuple[AgentId, str],
        text: str,
        *args: Any,
        **how: Any,
    ) -> None:
        if not logger.isEnabledFor(level):
            return
        # In the context variables of now: a filter of the program's may look for a request's id there.
        report = partial(tell, logger, level, text, *args, agent=agent, **how)
        if not self._waiting:
            trio.lowlevel.add_instrument(self)
        self._waiting.append((contextvars.copy_context(), report))

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Hand out what was told in the step (called by trio)."""
        trio.lowlevel.remove_instrument(self)
        waiting, self._waiting = self._waiting, []
        for context, report in waiting:
            try:
                context.run(report)
            except BaseException as error:  # a handler that ends the program
                self._leave_with(error)

    def _leave_with(self, error: BaseException) -> None:
        try:
            self._nursery.start_soon(_raise, error)
        except RuntimeError:  # the pool has ended
            complain()


async def _raise(error: BaseException) -> None:
    try:
        raise error
    finally:
        del error


def _who(agent: Reported) -> str:
    return f"agent {agent.id} ({printable(agent.name)})"


def _cut(reason: str | None) -> str:
    return "no reason was given" if reason is None else printable(reason)


protect_module(globals())
