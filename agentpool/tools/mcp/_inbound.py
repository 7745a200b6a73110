"""What a server says, before the SDK sees it: bounded, in order, and without what nobody waits for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
import trio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from agentpool._core.mcp import Flood
from agentpool.tools.mcp._mending import mend

LOG = logging.getLogger("agentpool.mcp")

Progress: TypeAlias = Callable[[float, float | None, str], None]
"""What is told of a call: how far it is, of how much if that is known, and a text, which may be empty."""

LONGEST_PROGRESS = 1000


class FloodError(Exception):
    """A server said more than it may."""


@attrs.define(eq=False)
class Inbound:
    """Takes each message of one session.

    The SDK starts a task for each notification, so that their order is lost and a flood of them would be
    a flood of tasks. So they are taken here, at once.

    Attributes:
      changes: how often the server told that its tools have changed.
      awaited: how many requests of ours have no answer yet; None where answers come only to requests.
      ended: nothing will come any more, or the session is to end.
    """

    changes: int = 0
    awaited: int | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)
    _listeners: dict[str | int, Progress] = attrs.field(factory=dict)
    _flood: Flood = attrs.field(factory=Flood)
    # A task answers each: so they are bounded much closer.
    _asked: Flood = attrs.field(factory=lambda: Flood(at_once=200, a_second=100.0))

    def listen(self, token: str, progress: Progress) -> None:
        """From now on, have the progress of the call with a token told."""
        self._listeners[token] = progress

    def forget(self, token: str) -> None:
        """Undo `listen`."""
        self._listeners.pop(token, None)

    def take(self, item: SessionMessage | Exception) -> bool:
        """Take a message; return whether the SDK is to have it.

        Raises:
          FloodError: if it is one too many.
        """
        if isinstance(item, Exception):
            self.count("what is no message")
            return False
        match item.message:
            case JSONRPCNotification(method=method, params=params):
                self.count("notifications")
                return self._notified(method, params or {})
            case JSONRPCRequest():
                if self._asked.take(trio.current_time()):
                    raise FloodError("it sent too many requests in too short a time")
            case JSONRPCResponse(result=result):
                self._answered()
                mend(result)
            case JSONRPCError():
                self._answered()
        return True

    def count(self, what: str) -> None:
        """Count something that nobody asked for.

        Raises:
          FloodError: if it is one too many.
        """
        if self._flood.take(trio.current_time()):
            raise FloodError(f"it sent too many {what} in too short a time")

    def _answered(self) -> None:
        if self.awaited is not None:
            self.awaited -= 1
            if self.awaited < 0:
                self.awaited = 0
                self.count("answers that nobody asked for")

    def _notified(self, method: str, params: Any) -> bool:
        if method == "notifications/progress":
            self._progressed(params)
        elif method == "notifications/tools/list_changed":
            self.changes += 1
        # The others (logs, changed resources) are told to nobody here; a request that is withdrawn is the
        # SDK's to end.
        return method == "notifications/cancelled"

    def _progressed(self, params: Any) -> None:
        token, progress, total = params.get("progressToken"), params.get("progress"), params.get("total")
        listener = self._listeners.get(token) if isinstance(token, str | int) else None
        if listener is None or not _is_number(progress):
            return
        said = params.get("message")
        text = said[:LONGEST_PROGRESS] if isinstance(said, str) else ""
        listener(float(progress), float(total) if _is_number(total) else None, text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
