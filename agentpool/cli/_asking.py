"""Asks the person at the terminal about tool calls: one after the other, with the real arguments."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

import trio

from agentpool._core.approval import ApprovalRequest, Approved, Decision, Denied, Question
from agentpool.cli._forms import filled_in
from agentpool.cli._text import cut, encodable, one_line, pieces

ARGUMENTS_SHOWN = 20
"""So many arguments are shown before the rest is only counted."""
LETTERS_SHOWN = 2_400
"""So many letters all arguments have together; of longer ones the beginning and the end are shown."""
FEWEST_LETTERS = 200
"""So many letters each argument has, however many there are."""
LONGEST_NAME = 60
SECONDS_BETWEEN_LOOKS = 0.5
NOBODY_THERE = Denied("nobody answers at the terminal")


def can_ask() -> bool:
    """Whether there is a person: a terminal that is read from, and one that is written to.

    On Windows a terminal cannot be waited for, so that nobody is asked there.
    """
    streams = (sys.stdin, sys.stderr)
    return sys.platform != "win32" and all(stream is not None and stream.isatty() for stream in streams)


class Shares(Protocol):
    """A view that leaves the terminal to somebody who asks."""

    def asking(self, again: Callable[[], None]) -> AbstractContextManager[None]:
        """Show nothing within the block, or call `again` after it, which prints the question again."""
        ...


class TerminalApprover:
    """Puts one question at a time to the person at the terminal; other agents go on meanwhile."""

    def __init__(self, view: Shares) -> None:
        self._view = view
        self._turn = trio.Lock()

    async def __call__(self, request: ApprovalRequest, /) -> Decision:
        """Ask about a call, when it is its turn.

        Cancellation: the question is withdrawn.
        """
        async with self._turn:
            question = _Question(request, self._turn.statistics().tasks_waiting)
            try:
                with self._view.asking(question.ask):
                    decision = await question.answered()
            except OSError:  # the terminal has gone
                decision = None
            return decision or NOBODY_THERE


class _Question:
    def __init__(self, request: ApprovalRequest, waiting: int) -> None:
        self._request = request
        self._waiting = waiting
        self._is_cut = False
        self._again = ""

    def ask(self) -> None:
        """Print what is to be answered; once more, if something was printed behind it."""
        if self._again:
            return _write(self._again)
        show = ", s to see all of it" if self._is_cut else ""
        _write(f"Make this call? y or n; n REASON tells the model why{show}: ")

    async def answered(self) -> Decision | None:
        """Return what the person answers; None if there is nobody."""
        await _wait_for_terminal()
        _forget_early_answers()
        # Not before: while a table is drawn, what stands for standard error does not tell its encoding.
        lines, self._is_cut = brief_lines(self._request.arguments, _columns())
        for line in (*self._head(), *lines):
            _write(f"{line}\n")
        if self._request.question is not None:
            return await self._filled_in(self._request.question)
        self.ask()
        try:
            while (answer := await _read_line()) is not None:
                if (decision := await self._read(answer.strip())) is not None:
                    return decision
                self.ask()
        except trio.Cancelled:
            _write("\n(the question is withdrawn)\n")
            raise
        _write("\n")
        return None

    async def _filled_in(self, question: Question) -> Decision | None:
        """Ask what an MCP server wants to know; its words are shown behind bars."""
        width = _columns()

        def tell(text: str) -> None:
            for line in text.split("\n"):
                for piece in pieces(encodable(plain(line), sys.stderr), max(10, width - 5)):
                    _write(f"  | {piece}\n")

        async def ask(text: str) -> str | None:
            self._again = encodable(plain(text), sys.stderr)
            _write(self._again)
            return await _read_line()

        tell(question.message)
        try:
            return await filled_in(question, ask, tell)
        except trio.Cancelled:
            _write("\n(the question is withdrawn)\n")
            raise

    def _head(self) -> Iterator[str]:
        request = self._request
        if request.question is not None:
            server = one_line(request.question.server)
            yield _fit(f"MCP server {server} asks, in a call of {one_line(request.call.name)}:", _columns())
        who = cut(one_line(request.agent_name), LONGEST_NAME, sys.stderr)
        yield _fit(
            f"{who} (agent {request.agent_id}) wants to call {one_line(request.call.name)}", _columns()
        )
        yield _fit(f"because of {one_line(request.rule)}", _columns())
        if self._waiting:
            more = "1 more call waits" if self._waiting == 1 else f"{self._waiting:,} more calls wait"
            yield f"{more} for an answer"

    async def _read(self, answer: str) -> Decision | None:
        word, _, rest = answer.partition(" ")
        match word.lower():
            case "y" | "yes" if not rest:
                return Approved()
            case "n" | "no":
                return Denied(rest.strip())
            case "s" | "show":
                for line in whole_lines(self._request.arguments, _columns()):
                    _write(f"{line}\n")
                    await trio.lowlevel.checkpoint()  # a text may have a million lines
            case _:
                _write("Answer with y or n.\n")
        return None


# -- the arguments ------------------------------------------------------------------

# Letters that pass for printable and leave a gap or nothing at all: fillers, and what chooses a variant.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)


def plain(text: str) -> str:
    """Return a text with every letter that is not seen, or moves others, written as an escape.

    That is stricter than `safe`, which spares what words and emoji of the world need: nothing that is
    approved may look like something else.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() and letter not in _BLANK
        else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in text
    )


def brief_lines(arguments: Mapping[str, Any], width: int) -> tuple[list[str], bool]:
    """Return the arguments as JSON, in lines of that width, and whether something of them is missing.

    Of what is long the end is shown as well as the beginning.
    """
    lines: list[str] = []
    is_cut = len(arguments) > ARGUMENTS_SHOWN
    room = max(FEWEST_LETTERS, LETTERS_SHOWN // max(1, len(arguments)))
    for key, value in list(arguments.items())[:ARGUMENTS_SHOWN]:
        text = encodable(plain(_as_json(value)), sys.stderr)
        if len(text) > room:
            is_cut = True
            half = room // 2
            text = f"{text[:half]} [{len(text) - 2 * half:,} letters are not shown] {text[-half:]}"
        first, *more = pieces(f"{_name(key)} = {text}", max(10, width - 4))
        lines.extend((f"  {first}", *(f"  | {piece}" for piece in more)))
    if len(arguments) > ARGUMENTS_SHOWN:
        lines.append(f"  and {len(arguments) - ARGUMENTS_SHOWN:,} more arguments, which are not shown")
    return lines or ["  without arguments"], is_cut


def whole_lines(arguments: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield every argument in full, behind bars: no text in it can look like a line of ours."""
    for key, value in arguments.items():
        yield f"  {_name(key)} ="
        text = value if isinstance(value, str) else _as_json(value, indent=2)
        for line in text.expandtabs(4).split("\n"):
            for piece in pieces(encodable(plain(line), sys.stderr), max(10, width - 5)):
                yield f"  | {piece}"


def _name(key: str) -> str:
    shown = key if key.isidentifier() and key.isascii() else plain(_as_json(key))
    return cut(encodable(shown, sys.stderr), LONGEST_NAME, sys.stderr)


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, default=repr)


def _fit(line: str, width: int) -> str:
    return cut(encodable(line, sys.stderr), width, sys.stderr)


# -- the terminal ---------------------------------------------------------------------


def _columns() -> int:
    return max(20, shutil.get_terminal_size().columns - 1)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _forget_early_answers() -> None:
    """Take out what was typed before there was a question: nobody meant it as an answer to this one."""
    import termios

    with suppress(termios.error):  # the terminal is gone: reading will tell
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


async def _wait_for_terminal() -> None:
    """Wait until the terminal is ours: a job in the background that touches it is stopped as a whole."""
    while _is_in_background():  # noqa: ASYNC110 - nothing tells of a change
        await trio.sleep(SECONDS_BETWEEN_LOOKS)


def _is_in_background() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except OSError:  # a terminal that is not the one of our session has no jobs
        return False


async def _read_line() -> str | None:
    """Wait for a line; None when there will be no more. Cancellation: what was typed of it is lost.

    A line that its reader has not ended is none: an end of the input behind `y` is no answer.
    """
    number = sys.stdin.fileno()
    data = b""
    while not data.endswith(b"\n"):
        await trio.lowlevel.wait_readable(number)
        await _wait_for_terminal()
        piece = os.read(number, 65_536)
        if not piece:
            return None
        data += piece
    return data.decode(sys.stdin.encoding, "replace")
