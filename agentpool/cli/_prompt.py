"""What a person types in a chat: a line, several lines, a command; or the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import ModuleType

import attrs

from agentpool.cli._signals import ChatSignals
from agentpool.cli._streams import say

PROMPT = ">>> "
CONTINUED = "... "
QUOTES = '"""'
REMEMBERED = 200
"""So many lines of an earlier session can be fetched back with the arrow keys."""


class LeftError(Exception):
    """The person has left, by Ctrl-C at an empty prompt, twice."""


@attrs.define(eq=False)
class Prompt:
    """Reads what a person types. It blocks the event loop: nothing else is at work meanwhile.

    Ctrl-C empties the line; at an empty line it asks, and the second one ends. What readline offers
    (editing, earlier lines by the arrow keys, pasted lines in one piece) is there if Python has it.
    """

    _signals: ChatSignals
    _editor: ModuleType | None = attrs.field(factory=lambda: _editor())
    _warned: bool = False

    def remember(self, lines: Iterable[str]) -> None:
        """Have the arrow keys fetch lines of an earlier session."""
        if self._editor is not None:
            for line in list(lines)[-REMEMBERED:]:
                self._editor.add_history(line)

    def read(self) -> str:
        """Return what is typed next, without the quotes around several lines; never only spaces.

        Raises:
          EOFError: at the end of the input, or if a signal ends the chat.
          LeftError: after Ctrl-C at an empty prompt, twice.
        """
        while True:
            try:
                text = self._several(self._line(PROMPT))
            except KeyboardInterrupt:
                self._interrupted()
                continue
            self._warned = False
            if text.strip():
                return text

    def _several(self, line: str) -> str:
        """Read on to the closing quotes, if the line begins with quotes."""
        if not line.startswith(QUOTES):
            return line
        lines = [line.removeprefix(QUOTES)]
        while not lines[-1].rstrip().endswith(QUOTES):
            lines.append(self._line(CONTINUED))
        lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        with self._signals.prompting():
            try:
                if sys.stdout.isatty():
                    return input(prompt)
                # `input` would write the prompt among the answers.
                print(prompt, end="", file=sys.stderr, flush=True)
                line = sys.stdin.readline()
            except OSError as error:  # the terminal is gone
                raise EOFError from error
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def _interrupted(self) -> None:
        typed = "" if self._editor is None else self._editor.get_line_buffer()
        say("")
        if typed:
            self._warned = False
        elif self._warned:
            raise LeftError
        else:
            self._warned = True
            say("Ctrl-C again, or Ctrl-D, ends the chat")


def _editor() -> ModuleType | None:
    """Return readline, if there is one and a terminal for it; importing it is enough for `input`."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    try:
        import readline
    except ImportError:
        return None
    return readline


def read_all(complain: Callable[[str], Exception]) -> str:
    """Return all of standard input, which is no terminal: one query, verbatim.

    Raises:
      Exception: what `complain` makes, if there is nothing to read.
    """
    if sys.stdin is None:
        raise complain("standard input is closed, so that there is nothing to ask. Open it (< FILE)")
    text = sys.stdin.read()
    if not text.strip():
        raise complain("standard input is empty, so that there is nothing to ask")
    return text.strip("\n")
