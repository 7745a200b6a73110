"""Reading files: whole, and by lines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agentpool._core.errors import ToolError
from agentpool.tools._lines import decoded, split_lines
from agentpool.tools._places import Place, Roots, open_regular, opened_parent, told_errors

MAX_FILE_BYTES = 10_000_000
"""Larger files are neither read, searched, edited nor written."""

MAX_READ_CHARS = 60_000  # below a registry's limit, so that the note about the rest survives


def read_text(
    allowed_paths: Sequence[str],
    path: str,
    *,
    base: Path | None = None,
    start_line: int = 1,
    max_lines: int | None = None,
    start_column: int = 1,
) -> str:
    """Return a part of a text file below granted paths, as `read_file` shows it.

    Blocks on the disk; for a thread.

    Args:
      allowed_paths: the files and directories that may be read.
      path: which file.
      base: what the paths are relative to.
      start_line, max_lines, start_column: as for `read_file`.

    Raises:
      CapabilityDeniedError: if the path leads elsewhere.
      ToolError: if there is no such text.
    """
    return excerpt_of(Roots(allowed_paths, base), path, start_line, max_lines, start_column)


def excerpt_of(
    roots: Roots, path: str, start_line: int, max_lines: int | None = None, start_column: int = 1
) -> str:
    """Do what `read_text` does, below roots that were resolved before."""
    return seen_excerpt(roots, path, start_line, max_lines, start_column)[0]


def seen_excerpt(
    roots: Roots, path: str, start_line: int, max_lines: int | None, start_column: int
) -> tuple[str, Place, bytes]:
    """Do what `excerpt_of` does; return also where the file is, and all of its bytes."""
    if start_line < 1 or start_column < 1 or (max_lines is not None and max_lines < 1):
        raise ToolError("start_line, max_lines and start_column count from 1")
    place = roots.find(path)
    with told_errors(place.name):
        data = read_bytes(place)
        text = decoded(data, place.told).text
    return excerpt(text, start_line, max_lines, start_column), place, data


def read_bytes(place: Place) -> bytes:
    """Return what a file holds.

    Raises:
      ToolError: if it is no ordinary file, or too large.
      OSError: if it cannot be read.
    """
    with opened_parent(place) as (name, dir_fd):
        fd, status = open_regular(place, name, dir_fd)
        try:
            return read_opened(place, fd, status)
        finally:
            os.close(fd)


def read_opened(place: Place, fd: int, status: os.stat_result) -> bytes:
    """Return what an opened file holds; raises as `read_bytes`."""
    size = status.st_size
    if size <= MAX_FILE_BYTES:
        with open(fd, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)  # it may grow meanwhile
        if len(data) <= MAX_FILE_BYTES:
            return data
        size = len(data)
    raise ToolError(f"{place.told} has {size} bytes; {MAX_FILE_BYTES} are the limit")


def excerpt(text: str, start: int = 1, count: int | None = None, column: int = 1) -> str:
    """Return lines of a text, as many as fit, with a note of how to go on.

    Args:
      text: all of it.
      start: the first line, from 1.
      count: how many lines at the most.
      column: the first character of the first line, from 1.

    Raises:
      ToolError: if there is no such line or character.
    """
    if (start, column) == (1, 1) and count is None and len(text) <= MAX_READ_CHARS:
        return text
    lines = split_lines(text)
    if start > max(len(lines), 1):
        raise ToolError(f"the file has {len(lines)} lines, so that there is no line {start}")
    wanted = lines[start - 1 : None if count is None else start - 1 + count]
    if column > 1:
        length = len(wanted[0]) if wanted else 0
        if column > length:
            raise ToolError(f"line {start} has {length} characters, so that there is none at {column}")
        wanted[0] = wanted[0][column - 1 :]
    return _fitting(wanted, start, column, len(lines))


def _fitting(wanted: list[str], start: int, column: int, total: int) -> str:
    taken: list[str] = []
    size = 0
    for line in wanted:
        size += len(line)
        if size > MAX_READ_CHARS:
            break
        taken.append(line)
    if wanted and not taken:  # one line that is too long by itself
        onward = column + MAX_READ_CHARS
        note = f"[line {start} goes on; go on with start_line={start}, start_column={onward}]"
        return f"{wanted[0][:MAX_READ_CHARS]}\n{note}"
    end = start - 1 + len(taken)
    text = "".join(taken)
    if end >= total:
        return text
    # The last line ends with a break here, since others follow.
    return f"{text}[lines {start} to {end} of {total}; go on with start_line={end + 1}]"
