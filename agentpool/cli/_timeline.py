"""`agentpool timeline`: a page, or a trace, of a run that is in a journal."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import attrs

from agentpool._core.chrome_trace import chrome_trace
from agentpool._core.errors import ReplayMismatchError
from agentpool._core.past_picture import PastPicture, past_picture
from agentpool._core.picture import Picture
from agentpool._core.picture_data import changes_since
from agentpool._core.tapes import RecordedLoop, all_loops
from agentpool._core.transcript_data import transcript_data
from agentpool._kernel.descriptions import outcome_from_data
from agentpool.cli._errors import BadInputError, OutputLostError
from agentpool.cli._past_runs import PastRun, conversation_in
from agentpool.cli._streams import complain, printing
from agentpool.cli._text import one_line

LARGEST = 100_000_000
"""So many characters of transcripts are in a page; those of further agents are left out, and that is told."""

ENDINGS = {"html": ".html", "chrome": ".trace.json"}
STANDARD_OUTPUT = Path("-")


@attrs.frozen
class TimelineOptions:
    """What is made of a journal.

    Attributes:
      output: the file; None for the name of the journal with another ending, `-` for standard output.
      format: a page, or a trace.
      transcripts: whether what models, tools and persons said is in it.
      text_limit: how many characters a text of a transcript may have.
      force: whether a file that is there is replaced.
    """

    output: Path | None
    format: Literal["html", "chrome"]
    transcripts: bool
    text_limit: int
    force: bool


def write_timeline(path: Path, options: TimelineOptions) -> int:
    """Write the page or the trace of a run; return the exit code.

    Raises:
      BadInputError: if there is no such journal, or the file is there, or cannot be written.
    """
    target = options.output or path.with_name(path.stem + ENDINGS[options.format])
    if target == STANDARD_OUTPUT:
        _check_standard_output()
    else:
        _check_target(target, path, options)
    run = PastRun.read(path)
    picture = Picture() if options.format == "html" else _unbounded()
    past = past_picture(run.records, outcome_from_data, picture=picture, words=options.transcripts)
    title = one_line(path.name)
    if options.format == "chrome":
        parts: Iterable[str] = chrome_trace(past, title)
    else:
        from agentpool.web._page import page_html

        parts = [page_html(_page_data(run, past, title, options))]
    if target == STANDARD_OUTPUT:
        _print_bytes(parts)
        return 0
    size = _write(target, parts, options)
    with printing():
        print(f"{one_line(str(target))}: {_told(run, past)}; {_megabytes(size)}")
    return 0


def _unbounded() -> Picture:
    """Return a picture that keeps everything: a trace is not read by the page, which has to stay quick."""
    most = sys.maxsize
    return Picture(spans_kept=most, arrows_kept=most, notes_kept=most, ended_kept=most)


def _told(run: PastRun, past: PastPicture) -> str:
    agents = len(run.past.agents)
    told = f"{agents:,} {'agent' if agents == 1 else 'agents'}, {run.past.elapsed:,.1f} s"
    left = {"agents": past.picture.forgotten, "spans": past.picture.spans_dropped}
    for what, number in left.items():
        if number:
            told += f"; the first {number:,} {what} are not in it"
    return told


def _megabytes(size: int) -> str:
    return f"{size:,} bytes" if size < 100_000 else f"{size / 1e6:,.1f} MB"


# -- what is in a page ---------------------------------------------------------------------------


def _page_data(run: PastRun, past: PastPicture, title: str, options: TimelineOptions) -> Mapping[str, Any]:
    transcripts = _transcripts(run, options.text_limit) if options.transcripts else {}
    return {
        "live": False,
        "title": title,
        "exit": run.past.closed or "unfinished: it goes on, or its process died",
        "changes": changes_since(past.picture, 0),
        "transcripts": transcripts,
    }


def _transcripts(run: PastRun, text_limit: int) -> Mapping[str, Any]:
    """Return what each agent and its model said, of all runs of its loop; tell what is not there."""
    found: dict[str, Any] = {}
    unreadable: list[str] = []
    left_out = 0
    room = LARGEST
    for agent_id, loops in sorted(all_loops(run.records).items()):
        if room <= 0:
            left_out += 1
            continue
        try:
            messages = list(_messages_of(loops, run.past.agents[agent_id].name, text_limit))
        except ReplayMismatchError as error:
            unreadable.append(str(error))
            continue
        room -= sum(_letters(each) for each in messages)
        found[str(agent_id)] = messages
    if unreadable:
        more = f", and those of {len(unreadable) - 1:,} more agents" if len(unreadable) > 1 else ""
        complain([f"a transcript cannot be read{more}: {unreadable[0]}"])
    if left_out:
        complain(
            [
                f"the transcripts of {left_out:,} agents are not in the page, which would be larger than"
                f" {LARGEST // 1_000_000} MB: `agentpool show {run.path} --agent N` prints them;"
                " a lower --text-limit may help"
            ]
        )
    return found


def _messages_of(loops: list[RecordedLoop], name: str, text_limit: int) -> Iterator[Mapping[str, Any]]:
    for loop in loops:
        if len(loops) > 1:
            life = f" of life {loop.life}" if loop.life else ""
            yield {"role": "user", "kind": "note", "text": f"(conversation {loop.key}{life})"}
        yield from transcript_data(conversation_in(loop, name), text_limit)


def _letters(data: Any) -> int:
    """Return about how many letters JSON data takes."""
    if isinstance(data, str):
        return len(data) + 3
    if isinstance(data, Mapping):
        return sum(_letters(key) + _letters(each) for key, each in data.items())
    if isinstance(data, list | tuple):
        return sum(map(_letters, data)) + 2
    return 5


# -- where it goes -------------------------------------------------------------------------------


def _check_standard_output() -> None:
    if sys.stdout.isatty():
        raise BadInputError("--output -: standard output is a terminal. Send it to a file (> FILE)")


def _print_bytes(parts: Iterable[str]) -> None:
    """Write to standard output, as UTF-8 whatever its encoding is."""
    with printing():
        for part in parts:
            sys.stdout.buffer.write(part.encode())


def _check_target(target: Path, journal: Path, options: TimelineOptions) -> None:
    where = one_line(str(target))
    try:
        if target.is_dir():
            raise BadInputError(f"--output: {where} is a directory. Give the path of a file")
        if target.exists() and journal.exists() and target.samefile(journal):
            raise BadInputError(f"--output: {where} is the journal itself. Give another file with -o FILE")
        if not options.force and target.is_file():  # a device, such as /dev/null, could not be lost
            raise _is_there(target)
    except (OSError, ValueError) as error:
        raise _unwritable(target, error) from None


def _is_there(target: Path) -> BadInputError:
    return BadInputError(
        f"--output: {one_line(str(target))} is there already. Replace it with --force, or give another file"
        " with -o FILE"
    )


def _unwritable(target: Path, error: Exception) -> BadInputError:
    reason = getattr(error, "strerror", None) or str(error)
    return BadInputError(
        f"--output: {one_line(str(target))} cannot be written: {reason}. Give another file with -o FILE"
    )


def _write(target: Path, parts: Iterable[str], options: TimelineOptions) -> int:
    """Write a file for its owner alone, so that nobody ever finds a part of it; return its size."""
    try:
        if target.exists() and not target.is_file():  # a device, or a pipe
            with open(target, "wb") as file:
                return _write_parts(file, parts)
        with _beside(target) as (file, temporary):
            size = _write_parts(file, parts)
            file.flush()
            _put(temporary, target, options)
            return size
    except FileExistsError:
        raise _is_there(target) from None
    except BrokenPipeError:
        raise OutputLostError("") from None
    except (OSError, ValueError) as error:  # a name may hold what no name may
        raise _unwritable(target, error) from None


def _write_parts(file: Any, parts: Iterable[str]) -> int:
    size = 0
    for part in parts:
        size += file.write(part.encode())
    return size


@contextmanager
def _beside(target: Path) -> Iterator[tuple[Any, Path]]:
    """Open a file in the same directory; it is gone at the end of the block, unless it was renamed."""
    number, name = tempfile.mkstemp(prefix=".timeline.", suffix=".part", dir=target.parent)
    try:
        with open(number, "wb") as file:
            yield file, Path(name)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _put(temporary: Path, target: Path, options: TimelineOptions) -> None:
    """Give a file its name.

    Raises:
      FileExistsError: if somebody has made a file of that name meanwhile, which must not be lost.
    """
    if options.force:
        # Where a link leads to is replaced, not the link.
        os.replace(temporary, target.resolve())
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # the file system has no links
        os.replace(temporary, target)
