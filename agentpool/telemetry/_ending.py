"""Ends spans beside the pool: an exporter that blocks must not hold up the agents."""

from __future__ import annotations

import threading
from collections import deque

from opentelemetry.trace import Span

from agentpool._blocking import start_apart
from agentpool.telemetry._log import warn_once

MOST_WAITING = 65_536
"""So many spans wait for an exporter that blocks before more of them are dropped."""


class SpanEnder:
    """Ends spans in a thread of trio's, one after the other, in the order in which they are given.

    What ends a span hands it to the exporters, and the simplest of those send it there and then. The
    thread is there only as long as there is something to end.

    Attributes:
      dropped: how many spans were not ended, because the exporter was too slow.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: deque[tuple[Span, int]] = deque()
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()

    def end(self, span: Span, at: int) -> None:
        """Have a span ended, as of a time in nanoseconds. Does not wait."""
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                self.dropped += 1
                return
            self._waiting.append((span, at))
            if not self._idle.is_set():
                return
            self._idle.clear()
        start_apart(self._end_all)

    def wait(self, seconds: float) -> bool:
        """Block until all is ended, or the time has passed; tell which."""
        return self._idle.wait(seconds)

    def _end_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._idle.set()
                    return
                span, at = self._waiting.popleft()
            try:
                span.end(at)
            except Exception as error:
                warn_once("a span could not be ended", error)
