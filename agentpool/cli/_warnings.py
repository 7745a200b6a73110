"""Warnings of MCP servers, shown to whoever runs a fleet: a tool that is refused would just not be there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Teller(logging.Handler):
    """Tells each warning once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it, if it was not told before."""
        text = record.getMessage()
        if text not in self._told:
            self._told.add(text)
            self._tell(f"warning: {text}")


@contextmanager
def telling_warnings(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell what is logged of MCP servers as a warning, while the block runs."""
    logger = logging.getLogger("agentpool.mcp")
    handler = _Teller(tell)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
