"""A real pseudo-terminal with a program on it, and a screen that shows what a person would see."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs

SEQUENCE = re.compile(r"\x1b\[(\?)?([0-9;]*)([A-Za-z])")

UNFINISHED = re.compile(r"\x1b(\[\??[0-9;]*)?")


@attrs.define
class Screen:
    """What a terminal of some size shows, as far as the command line makes use of one.

    Attributes:
      lines: all lines, those that have left the screen at the top included.
      strange: sequences that no program of ours has a reason to send.
    """

    rows: int
    columns: int
    lines: list[str] = attrs.field(factory=lambda: [""])
    strange: list[str] = attrs.field(factory=list)
    wrapped: int = 0
    _begun: str = ""
    _row: int = 0
    _column: int = 0

    def feed(self, text: str) -> None:
        text, self._begun = self._begun + text, ""
        position = 0
        while position < len(text):
            if text[position] == "\x1b":
                found = SEQUENCE.match(text, position)
                if found is None and UNFINISHED.fullmatch(text, position):
                    self._begun = text[position:]  # the rest comes with the next bytes
                    return
                if found is None:
                    self.strange.append(text[position : position + 20])
                    position += 1
                    continue
                self._obey(found[0], found[1] is not None, found[2], found[3])
                position = found.end()
                continue
            self._put(text[position])
            position += 1

    def _obey(self, whole: str, private: bool, number: str, letter: str) -> None:
        if private and number == "25":  # the cursor is hidden, or shown again
            return
        if letter == "m":
            return
        if letter == "A":
            self._row = max(self._row - int(number or 1), len(self.lines) - self.rows, 0)
        elif letter == "K" and number == "2":
            self.lines[self._row] = ""
        else:
            self.strange.append(whole)

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self._column = 0
        elif letter == "\n":
            self._down()
        elif not letter.isprintable():
            self.strange.append(letter)
        else:
            if self._column == self.columns:
                self.wrapped += 1
                self._column = 0
                self._down()
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + letter + line[self._column + 1 :]
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)


@attrs.define(eq=False)
class Terminal:
    """A program on a pseudo-terminal."""

    process: subprocess.Popen[bytes]
    screen: Screen
    _ours: int
    _decoder: codecs.IncrementalDecoder
    raw: bytes = b""

    def read_until(self, condition: Callable[[str], object], seconds: float = 180) -> None:
        """Read until a condition on the screen's text holds; the end of the program fails."""
        end = time.monotonic() + seconds
        while not condition(self.screen.text):
            assert time.monotonic() < end, self.screen.text
            assert self._read(), self.screen.text

    def type(self, text: str) -> None:
        """Type something, as a person does."""
        os.write(self._ours, text.encode())

    def read_to_the_end(self) -> int:
        """Read all that is left, and return the exit code."""
        while self._read():
            pass
        return self.process.wait(60)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size; what is on the screen is forgotten."""
        set_size(self._ours, rows, columns)
        self.screen = Screen(rows, columns)

    def close(self) -> None:
        """Close the terminal, as somebody closes its window: what is written to it fails from now on."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self._ours)
        os.close(nowhere)

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], 60)[0]:
            raise AssertionError(f"nothing came for a minute; so far: {self.screen.text}")
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the other side has been closed
            return False
        self.raw += data
        self.screen.feed(self._decoder.decode(data))
        return bool(data)


def set_size(file: int, rows: int, columns: int) -> None:
    fcntl.ioctl(file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def on_a_terminal(
    command: Sequence[str],
    *,
    rows: int = 24,
    columns: int = 80,
    stdout: int | None = None,
    stderr: int | None = None,
    encoding: str = "utf-8",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Terminal]:
    """Run a command on a pseudo-terminal of that size; its variables are not those of the tests."""
    import pty

    ours, theirs = pty.openpty()
    set_size(theirs, rows, columns)
    kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    env = {**kept, "TERM": "xterm", **(environment or {})}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs if stderr is None else stderr,
        env=env,
    )
    os.close(theirs)
    try:
        yield Terminal(process, Screen(rows, columns), ours, codecs.getincrementaldecoder(encoding)())
    finally:
        process.kill()
        process.wait()
        os.close(ours)


UNWANTED = {
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "FORCE_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "PYTHONIOENCODING",
    "PYTHONUTF8",
    "LANG",
    "LC_ALL",
}
