"""Standard output and standard error, as they are: closed, full, of another encoding, or not there."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TextIO

from agentpool.cli._errors import OutputLostError
from agentpool.cli._tables import size_of
from agentpool.cli._text import one_line

PROBLEMS_SHOWN = 50
"""So many problems are told one by one before the rest is only counted."""


def prepare_streams() -> None:
    """Have what a stream's encoding lacks written as escapes, such as \\u2026, instead of raising.

    Sizes of a terminal in the environment that are none are taken out of it.

    Raises:
      OutputLostError: if there is no standard output. Nothing has been run yet: a file that was
        opened now would get its number, and what is printed would land there.
    """
    _forget_wrong_sizes()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise OutputLostError("standard output is closed, so that nothing was done. Open it (> FILE)")


def _forget_wrong_sizes() -> None:
    """Take what is no size of a terminal out of the environment: not everybody who reads it looks twice."""
    for name in ("COLUMNS", "LINES"):
        if size_of(name) is None:
            os.environ.pop(name, None)


@contextmanager
def printing() -> Iterator[None]:
    """Print to standard output in this block; at its end all of it has been taken.

    Raises:
      OutputLostError: if it is closed or full.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputLostError("") from None
    except OSError as error:
        raise OutputLostError(
            f"standard output: {error.strerror or error}; what there was to say is lost"
        ) from None


@contextmanager
def only_ours() -> Iterator[None]:
    """Keep standard output for ourselves: what agents, modules and programs print in this block goes
    to standard error, or nowhere if there is none."""
    ours = sys.stdout
    with ExitStack() as stack:
        theirs = sys.stderr or stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(redirect_stdout(theirs))
        try:
            number, other = ours.fileno(), theirs.fileno()
        except (OSError, ValueError):  # one of them is no file, and programs do not write to it
            pass
        else:
            # Programs that agents start know only the number.
            kept = os.dup(number)
            stack.callback(os.close, kept)
            os.dup2(other, number)
            stack.callback(os.dup2, kept, number)
        stack.callback(ours.flush)  # before it is ours again: somebody may have kept it and written to it
        yield


def say(text: str) -> None:
    """Print a line on standard error; where nobody can read it, it is lost and nothing else is."""
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def complain(problems: Sequence[str]) -> None:
    """Print problems on standard error, each on a line of its own, very many with a count."""
    for problem in problems[:PROBLEMS_SHOWN]:
        say(f"agentpool: {one_line(problem)}")
    if len(problems) > PROBLEMS_SHOWN:
        say(f"agentpool: and {len(problems) - PROBLEMS_SHOWN:,} more problems")


def give_up(stream: TextIO | None) -> None:
    """Send what is left in a stream's buffer nowhere.

    Else Python flushes it once more at its end, fails, complains, and exits with 120.
    """
    if stream is None:
        return
    with open(os.devnull, "w") as nowhere:
        try:
            os.dup2(nowhere.fileno(), stream.fileno())
        except (OSError, ValueError):  # it is no file, or closed: nothing will be flushed into it
            pass
