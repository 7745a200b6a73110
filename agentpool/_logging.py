"""What is told through Python's `logging`: the loggers, and the way to them.

Nothing is set up here but a handler that drops everything: what is shown, and where, is for the program to
say. A record holds ids, names, numbers and the texts of errors; what agents, models and tools say to each
other is not in it, nor is a key.
"""

from __future__ import annotations

import logging
import sys
import traceback

from agentpool._core.text import MOST, shown

AGENTS = logging.getLogger("agentpool.agents")
"""The lives of agents: started, completed, failed, aborted, restarted, stuck, waiting for each other."""

MESSAGES = logging.getLogger("agentpool.messages")
"""Messages that nobody will receive."""

LOOP = logging.getLogger("agentpool.loop")
"""Agents that ask a model: their calls of models and tools, approvals, warnings, compacted context."""

DRIVERS = logging.getLogger("agentpool.drivers")
"""Calls of models that are made again, go to another route, or wait for a provider's quota."""

WORKERS = logging.getLogger("agentpool.workers")
"""Worker processes in which agents run: started, lost, not to be started."""

LOGGERS = (AGENTS, MESSAGES, LOOP, DRIVERS, WORKERS)

logging.getLogger("agentpool").addHandler(logging.NullHandler())


def tell(
    logger: logging.Logger,
    level: int,
    text: str,
    *args: object,
    error: BaseException | None = None,
    agent: tuple[int, str] | None = None,
) -> None:
    """Make a record, and hand it to the handlers of the program; costs next to nothing if none is wanted.

    Blocks for as long as they do. What they raise is shown on standard error, as `logging` does with
    what goes wrong in a handler; only what is no `Exception` comes out.

    Args:
      text: with a place for each of the `args`.
      error: what went wrong; its traceback is in the record if the logger shows debug messages.
      agent: id and name of the agent that it is about; None for the one in whose task it is told.
    """
    if not logger.isEnabledFor(level):
        return
    try:
        logger.log(
            level,
            text,
            *(shown(arg) if isinstance(arg, BaseException) else arg for arg in args),
            extra=None if agent is None else {"agent_id": agent[0], "agent_name": printable(agent[1])},
            exc_info=error if logger.isEnabledFor(logging.DEBUG) else None,
            stacklevel=2,
        )
    except Exception:
        complain()


def printable(name: str) -> str:
    """Return a name as it is put into a log: on one line, whatever a model has called an agent."""
    return name if name.isprintable() and len(name) <= MOST else shown(name)


def complain() -> None:
    """Show on standard error what a program's filter or handler raised, unless `logging` is told not to."""
    if not logging.raiseExceptions or sys.stderr is None:
        return
    try:
        sys.stderr.write("--- agentpool: logging failed ---\n")
        traceback.print_exc(file=sys.stderr)
    except Exception:
        pass  # standard error is gone too
