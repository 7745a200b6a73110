"""What goes wrong in telemetry is logged, and never raised: it is not what the program is for."""

from __future__ import annotations

import logging

logger = logging.getLogger("agentpool.telemetry")

_told: set[tuple[str, type[BaseException]]] = set()


def warn_once(what: str, error: BaseException) -> None:
    """Log a problem when it comes for the first time: it may come with each span."""
    key = (what, type(error))
    if key not in _told:
        _told.add(key)
        logger.warning("%s; the like is not told again", what, exc_info=error)
