"""A model call as whoever watches is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentpool._core.events import ModelCallFinished, ModelCallStarted
from agentpool._core.messages import Completion, CompletionRequest
from agentpool._kernel.protection import protect_module

if TYPE_CHECKING:
    from agentpool import abc
    from agentpool._kernel.agent import AgentRecord
    from agentpool._kernel.log import EventLog


class ObservedCall:
    """One model call that somebody watches; to be made when it begins."""

    __slots__ = ("_events", "_first", "_record", "_seq", "_started_at")

    def __init__(
        self,
        events: EventLog,
        record: AgentRecord,
        driver: abc.Driver,
        request: CompletionRequest,
        is_streamed: bool,
    ) -> None:
        self._events = events
        self._record = record
        self._seq = events.end + 1
        self._started_at = trio.current_time()
        self._first: float | None = None
        model = getattr(request, "model", "") or getattr(driver, "model", "")
        provider = getattr(driver, "provider", "") or type(driver).__name__
        address = getattr(driver, "base_url", "")
        own = (request, str(model), str(provider), str(address), is_streamed)
        events.emit(ModelCallStarted, record.id, record.parent_id, *own)

    def part_came(self) -> None:
        """A piece of the answer came."""
        if self._first is None:
            self._first = trio.current_time() - self._started_at

    def ended(self, error: BaseException | None, completion: Completion | None) -> None:
        """It is over: with an answer, with an error, or with neither if it was left; cancelled with both."""
        raised = error if isinstance(error, Exception) else None
        is_cancelled = error is not None and raised is None
        duration = trio.current_time() - self._started_at
        own = (self._seq, completion, raised, is_cancelled, duration, self._first)
        self._events.emit(ModelCallFinished, self._record.id, self._record.parent_id, *own)


protect_module(globals())
