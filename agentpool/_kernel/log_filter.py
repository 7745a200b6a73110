"""Which agent a log record comes from, whoever made it."""

from __future__ import annotations

import logging

from agentpool._core.messages import SUPERVISOR
from agentpool._kernel.current import agent_behind_caller
from agentpool._kernel.protection import protect_module
from agentpool._logging import LOGGERS, printable


class AgentLogFilter(logging.Filter):
    """Puts `agent_id` and `agent_name` on every log record that passes, so that a format may name them.

    They are those of the agent in whose task the record was made, in one of its tool calls, or in a
    thread that works for it. Records of the program have the id 0 and the name "". Add it to handlers:
    `handler.addFilter(AgentLogFilter())`, because the filters of a logger see no records of the loggers
    below it. Where a `QueueHandler` hands records to another thread, it belongs on that one.

    A record that has them already keeps them. A name with line breaks in it is escaped.

    Args:
      name: as for `logging.Filter`: drop the records of all loggers but this and those below it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete a record; return whether it passes (called by `logging`)."""
        if not hasattr(record, "agent_id"):
            agent = agent_behind_caller()
            record.agent_id = SUPERVISOR if agent is None else agent.id
            if not hasattr(record, "agent_name"):
                record.agent_name = "" if agent is None else printable(agent.name)
        elif not hasattr(record, "agent_name"):
            record.agent_name = ""
        return bool(super().filter(record))


_ours = AgentLogFilter()


def name_agents_in_own_records() -> None:
    """Have the library's own records name their agents, for every handler; harmless when done before."""
    for logger in LOGGERS:
        logger.addFilter(_ours)


protect_module(globals())
