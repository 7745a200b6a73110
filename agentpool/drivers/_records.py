"""The records of a streamed answer: from its bytes to the deltas that a dialect's reader makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentpool._core.errors import DriverError, MalformedReplyError
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
            if is_end(event) or self._reader.is_done:
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
        data = data_of(event)
        if data is None:
            return []  # a sign of life
        try:
            deltas = list(self._reader.feed(data, event.name))
        except RefusedInStreamError as refused:
            body = refused.body
        else:
            return deltas
        raise self._refused(body)


def is_end(event: SseEvent) -> bool:
    """Whether an event says that the stream is over, as OpenAI's does."""
    return event.data.strip(' "') == "[DONE]"


def data_of(event: SseEvent) -> Any:
    """Return the JSON data of an event; of an error, its words if they are none.

    Raises:
      MalformedReplyError: if it is no JSON.
    """
    try:
        data = json_of(event.data, "a piece of the stream")
    except MalformedReplyError:
        if event.name != "error":
            raise
        data = None
    return {"error": {"message": event.data}} if data is None and event.name == "error" else data


class LineReader:
    """Reads records that are lines of JSON; empty lines are passed over.

    Proxies may put them into server-sent events; then what is more than the data is passed over, too.
    """

    def __init__(self) -> None:
        self._lines = Lines()

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take the next bytes, and return the lines that they complete."""
        return [SseEvent(data) for line in self._lines.feed(chunk) if (data := _bare(line))]

    def close(self) -> list[SseEvent]:
        """Return the last line, also if its end is missing."""
        data = _bare(self._lines.close())
        return [SseEvent(data)] if data else []


def _bare(line: str) -> str:
    """Return the data in a line."""
    line = line.strip()
    if line.startswith("data:"):
        return line[5:].strip()
    return "" if line.startswith((":", "event:", "id:", "retry:")) else line
