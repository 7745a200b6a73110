"""The records of a streamed answer: from its bytes to the deltas that a dialect's reader makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable

from agentpool._core.errors import DriverError
from agentpool.drivers._dialect import Delta, RefusedInStreamError, StreamReader
from agentpool.drivers._http import Exchange
from agentpool.drivers._reading import json_of
from agentpool.drivers._sse import Lines, SseEvent, SseReader


class Records:
    """The records of a streamed answer, from its bytes to what its reader makes of them."""

    def __init__(
        self,
        exchange: Exchange,
        reader: StreamReader,
        framing: str,
        refused: Callable[[object], DriverError],
    ) -> None:
        """Read the records of an exchange.

        Args:
          exchange: brings the bytes.
          reader: makes an answer of them.
          framing: `sse` for server-sent events, `lines` for lines of JSON.
          refused: the error for what a server says in the middle of an answer.
        """
        self._exchange = exchange
        self._reader = reader
        self._refused = refused
        self._split: SseReader | LineReader = SseReader() if framing == "sse" else LineReader()
        self.ended = False

    async def more(self) -> list[Delta]:
        """Wait for the next bytes, and return the deltas that they bring; sets `ended` at the end."""
        chunk = await self._exchange.chunk()
        events = self._split.feed(chunk) if chunk else self._split.close()
        deltas: list[Delta] = []
        for event in events:
            if event.data.strip() == "[DONE]" or self._reader.is_done:
                self.ended = True
                break
            deltas += self._fed(event)
        if not chunk:
            self.ended = True
        elif self.ended or self._reader.is_done:
            self.ended = True
            await self._exchange.drain()
        return deltas

    def _fed(self, event: SseEvent) -> list[Delta]:
        try:
            data = json.loads(event.data)
        except (ValueError, RecursionError):
            data = None
        if data is None:
            if event.name == "error":
                data = {"error": {"message": event.data}}
            else:
                data = json_of(event.data, "a piece of the stream")
        try:
            deltas = list(self._reader.feed(data, event.name))
        except RefusedInStreamError as refused:
            body = refused.body
        else:
            return deltas
        raise self._refused(body)


class LineReader:
    """Reads records that are lines of JSON; empty lines are passed over."""

    def __init__(self) -> None:
        self._lines = Lines()

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take the next bytes, and return the lines that they complete."""
        return [SseEvent(line) for line in self._lines.feed(chunk) if line.strip()]

    def close(self) -> list[SseEvent]:
        """Return the last line, also if its end is missing."""
        line = self._lines.close()
        return [SseEvent(line)] if line.strip() else []
