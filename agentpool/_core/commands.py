"""Commands in words: what a model may ask for, and what it is told of how they ended."""

from __future__ import annotations

import re
import signal
from collections.abc import Collection
from typing import Literal, TypeAlias, assert_never

import attrs

# -- a command without a shell ------------------------------------------------------------

_SPECIAL = {
    "|": "a pipe",
    "&": "`&`",
    ";": "`;`",
    "<": "a redirection",
    ">": "a redirection",
    "(": "brackets",
    ")": "brackets",
    "$": "`$`",
    "`": "a backtick",
    "\n": "a line break",
    "\r": "a line break",
    "*": "a pattern of file names",
    "?": "a pattern of file names",
    "[": "a pattern of file names",
    "{": "braces",
    "~": "`~`",
    "#": "`#`",
}
"""What a shell would act on. Without one it would be handed on as it is, which is never what was meant."""


class CommandError(ValueError):
    """A text is no command that may be run."""


def split_command(line: str) -> list[str]:
    """Return the words of a command as a shell would, for one that is run without a shell.

    Raises:
      CommandError: if it is empty, a quote is left open, or it has what only a shell can do.
    """
    words: list[str] = []
    word: list[str] | None = None  # None between two words
    position = 0
    while position < len(line):
        char = line[position]
        if char in " \t":
            words, word = (words if word is None else [*words, "".join(word)]), None
            position += 1
            continue
        piece, position = _piece(line, position, at_start=word is None)
        word = [*(word or ()), piece]
    if word is not None:
        words.append("".join(word))
    if not words:
        raise CommandError("the command is empty")
    return words


def _piece(line: str, position: int, *, at_start: bool) -> tuple[str, int]:
    """Return what the next quoted text or character stands for, and where it ends."""
    char = line[position]
    if char == "'":
        end = line.find("'", position + 1)
        if end < 0:
            raise CommandError("a ' is left open")
        return line[position + 1 : end], end + 1
    if char == '"':
        return _double_quoted(line, position + 1)
    if char == "\\":
        if line[position + 1 : position + 2] in ("", "\n"):
            raise CommandError("there is nothing behind a backslash")
        return line[position + 1], position + 2
    if char in _SPECIAL and (char not in "~#" or at_start):
        raise CommandError(
            f"{_SPECIAL[char]} needs a shell, and this agent may run only single programs; make several"
            " calls, and put in quotes what is meant as it is written"
        )
    return char, position + 1


def _double_quoted(line: str, position: int) -> tuple[str, int]:
    found: list[str] = []
    while position < len(line) and line[position] != '"':
        char = line[position]
        if char in "$`":
            raise CommandError(f"{_SPECIAL[char]} in double quotes needs a shell; use single quotes")
        if char == "\\" and line[position + 1 : position + 2] in ('"', "\\", "$", "`"):
            position += 1
        found.append(line[position])
        position += 1
    if position == len(line):
        raise CommandError('a " is left open')
    return "".join(found), position + 1


def command_argv(line: str, allowed: Collection[str]) -> list[str]:
    """Return what is executed for a command: a shell with it if `*` is allowed, else a program that is.

    Raises:
      CommandError: if it may not be run.
    """
    if "\0" in line:
        raise CommandError("a command cannot hold a NUL character")
    if re.search(r"[\ud800-\udfff]", line):
        raise CommandError("the command holds half of a character")
    if "*" in allowed:
        if not line.strip():
            raise CommandError("the command is empty")
        return ["sh", "-c", line]
    words = split_command(line)
    if words[0] not in allowed:
        known = ", ".join(sorted(allowed)) or "none"
        raise CommandError(f"{words[0]!r} is not among the commands that this agent may run: {known}")
    return words


# -- what it wrote ---------------------------------------------------------------------------

# Control sequences of terminals: colours, cursors, titles, and characters sets.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@attrs.frozen
class Captured:
    """What was kept of an output.

    Attributes:
      head: its beginning.
      tail: its end, if there was more than the head.
      size: how many bytes it had.
    """

    head: bytes
    tail: bytes = b""
    size: int = 0

    @property
    def left_out(self) -> int:
        """How many bytes between the two were not kept."""
        return self.size - len(self.head) - len(self.tail)


def output_text(captured: Captured) -> str:
    """Return an output as text: without control sequences, what is no UTF-8 escaped, with a note of a cut."""
    if captured.left_out <= 0:
        return _clean(captured.head + captured.tail)
    head, tail = _whole_end(captured.head), _whole_start(captured.tail)
    left_out = captured.size - len(head) - len(tail)
    note = f"[cut: {left_out:,} of {captured.size:,} bytes are left out here]"
    return f"{_clean(head)}\n{note}\n{_clean(tail)}"


def _whole_end(data: bytes) -> bytes:
    """Return bytes without the beginning of a character at their end."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-back] if needed > back else data
        if byte < 0x80:
            break
    return data


def _whole_start(data: bytes) -> bytes:
    """Return bytes without the rest of a character at their beginning."""
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] < 0xC0:
        start += 1
    return data[start:]


def _clean(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    text = _SEQUENCE.sub("", text)
    text = "\n".join(_overwritten(line) for line in text.split("\n"))
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _overwritten(line: str) -> str:
    """Return what a terminal shows of a line that goes back to its beginning, as bars of progress do."""
    return next((part for part in reversed(line.split("\r")) if part), "")


# -- how it ended ------------------------------------------------------------------------------

Why: TypeAlias = Literal["ended", "timeout", "memory", "processes", "output", "closed", "setup"]


@attrs.frozen
class Ending:
    """How a command ended.

    Attributes:
      why: `ended` by itself; stopped at the limit `timeout`, `memory`, `processes` or `output`; `closed`
        since nobody waits any more; `setup` if it was never started.
      status: its exit status, or below 0 the signal that killed it; None if nobody knows.
      problem: what failed, where it was never started.
      survivors: how many of its processes could not be killed.
    """

    why: Why
    status: int | None = None
    problem: str = ""
    survivors: int = 0

    @property
    def is_success(self) -> bool:
        """Whether it ended by itself, and well."""
        return self.why == "ended" and self.status == 0


def told_ending(ending: Ending, limit: str) -> str:
    """Return in words how a command ended; empty if well.

    Args:
      ending: how.
      limit: the limit that it passed, in words.
    """
    return (_of_end(ending, limit) + _of_survivors(ending)).strip()


def _of_end(ending: Ending, limit: str) -> str:
    match ending.why:
        case "ended":
            return "" if ending.status == 0 else told_status(ending.status)
        case "timeout":
            return f"stopped: it did not end within {limit}; all its processes were killed"
        case "memory":
            return f"killed: it needed more than {limit} of memory"
        case "processes":
            return f"killed: it had more than {limit} processes"
        case "output":
            return f"killed: it wrote more than {limit}"
        case "closed":
            return "stopped"
        case "setup":
            return f"it could not be started: {ending.problem or 'nobody knows why'}"
        case _:
            assert_never(ending.why)


def _of_survivors(ending: Ending) -> str:
    if not ending.survivors:
        return ""
    return f" ({ending.survivors} of its processes hang in the kernel and could not be killed yet)"


def told_status(status: int | None) -> str:
    """Return an exit status in words, with the signal that it tells of."""
    if status is None:
        return "ended, but its exit status is not known"
    number = -status if status < 0 else status - 128 if 128 < status <= 128 + 64 else 0
    if not number:
        return f"exit status {status}" + (_HINTS.get(status, ""))
    name = _signal_name(number)
    told = f"killed by {name}" if status < 0 else f"exit status {status}: killed by {name}"
    return told + _SIGNALS.get(name, "")


_HINTS = {126: " (found, but it cannot be executed)", 127: " (there is no such command)"}
_SIGNALS = {
    "SIGKILL": ", perhaps for its memory",
    "SIGXCPU": ": it used up its time on the processor",
    "SIGXFSZ": ": a file that it wrote became too large",
    "SIGPIPE": ": nobody reads what it writes",
}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
