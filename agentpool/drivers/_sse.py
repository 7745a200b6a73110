"""From bytes to lines, and from lines to server-sent events, as they arrive."""

from __future__ import annotations

import json
from typing import NamedTuple


class Lines:
    """Cuts bytes into lines of text; a line ends with LF, CRLF or CR.

    What is no UTF-8 becomes U+FFFD: one broken character must not cost an answer.
    """

    __slots__ = ("_after_cr", "_begun", "_rest")

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of a line; joining it with each chunk would take quadratic time
        self._after_cr = False
        self._begun = False

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes, and return the lines that they complete."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of CRLF
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        whole, newline, rest = chunk.rpartition(b"\n")
        if not newline:
            self._rest.append(chunk)
            return []
        if self._rest:
            whole = b"".join((*self._rest, whole))
        self._rest = [rest] if rest else []
        return [self._text(line) for line in whole.split(b"\n")]

    def close(self) -> str:
        """Return what came after the last line's end; empty if nothing did."""
        rest, self._rest = b"".join(self._rest), []
        return self._text(rest) if rest else ""

    def _text(self, line: bytes) -> str:
        text = line.decode("utf-8", "replace")
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        return text


class SseEvent(NamedTuple):
    """An event with data."""

    data: str
    name: str = ""


class SseReader:
    """Reads server-sent events. Comments, `id`, `retry`, and events without data are passed over.

    JSON that stands between the events, as some servers say an error, is read as an event. Where the
    blank line between two events is missing, the first ends with its JSON.
    """

    __slots__ = ("_bare", "_data", "_lines", "_name")

    def __init__(self) -> None:
        self._lines = Lines()
        self._data: list[str] = []
        self._name = ""
        self._bare = False

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take the next bytes, and return the events that they complete."""
        events: list[SseEvent] = []
        for line in self._lines.feed(chunk):
            if line:
                self._line(line, events)
            elif self._data or self._name:
                self._end(events)
        return events

    def close(self) -> list[SseEvent]:
        """Return the last event, also if the blank line behind it is missing."""
        events: list[SseEvent] = []
        line = self._lines.close()
        if line:
            self._line(line, events)
        self._end(events)
        return events

    def _line(self, line: str, events: list[SseEvent]) -> None:
        if self._data and self._may_begin(line) and _is_object("\n".join(self._data)):
            self._end(events)
        self._field(line)

    def _may_begin(self, line: str) -> bool:
        """Whether a line may begin another event, after data without a blank line behind it."""
        if line.startswith(("{", "data:")):
            return True
        return (self._bare or bool(self._name)) and line.startswith("event:")

    def _field(self, line: str) -> None:
        if self._bare or line.startswith("{"):
            self._bare = True  # up to the next blank line
            self._data.append(line)
            return
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        elif name == "event":
            self._name = value.removeprefix(" ")

    def _end(self, events: list[SseEvent]) -> None:
        data, name = "\n".join(self._data), self._name
        self._data = []
        self._name = ""
        self._bare = False
        if data and not data.isspace():
            events.append(SseEvent(data, name))


def _is_object(text: str) -> bool:
    if not (text.startswith("{") and text.rstrip().endswith("}")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
