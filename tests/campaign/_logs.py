"""The events of each pool of a run by itself."""

from __future__ import annotations

from typing import Any

import attrs

from agentpool._kernel.pool import AgentPool
from agentpool.testing import EventLog, PoolInstrument
from agentpool.testing._watch import copy_events


@attrs.define(eq=False, kw_only=True)
class PoolLogs(PoolInstrument):
    """Keeps a log for each pool: the ids of two pools are the same."""

    logs: list[tuple[Any, EventLog]] = attrs.field(factory=list)

    def pool_opened(self, pool: AgentPool) -> None:
        """Begin a log."""
        log = EventLog()
        copy_events(pool, log)
        self.logs.append((pool, log))

    def of(self, pool: Any) -> EventLog:
        """Return the log of a pool; an empty one if it was never opened."""
        return next((log for one, log in self.logs if one is pool), EventLog())
