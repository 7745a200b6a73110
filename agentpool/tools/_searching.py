"""Walking through the files below granted roots, following no link that leads out."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator

import attrs

from agentpool._blocking import check_cancelled
from agentpool._core.errors import ToolError
from agentpool.tools._lines import decoded, numbered
from agentpool.tools._patterns import glob_matcher, names_hidden
from agentpool.tools._places import Place, Roots, opened_directory, shown
from agentpool.tools._reading import read_bytes

MAX_VISITED = 100_000  # entries that a walk looks at, granted or not
MAX_STEPS = 2_000_000  # directories that it goes through: each is reached from the root again
MAX_SEARCHED_BYTES = 200_000_000  # of all files of one search
MAX_LINE_CHARS = 300


def files_below(roots: Roots, path: str, pattern: str) -> Iterator[Place]:
    """Yield the files of a directory that fit a pattern, by name.

    Raises:
      CapabilityDeniedError: if the path leads out.
      ToolError: if there is no such directory, or too much in it.
    """
    hidden = names_hidden(pattern)
    for place in roots.find_all(path):
        fits = glob_matcher(pattern.removeprefix(place.path + os.sep))
        if not os.path.lexists(place.path):
            raise ToolError(f"there is no directory {place.told}")
        skipped = 0 if place.name == "." else len(place.name) + 1
        for file in _walk(roots, place, hidden):
            # Models write patterns below the directory, and below the root.
            if file == place or fits(file.name[skipped:]) or fits(file.name):
                yield file


def matching_lines(roots: Roots, text: str, path: str, pattern: str, ignore_case: bool) -> Iterator[str]:
    """Yield each line that has a text, as `file:line: text`.

    Raises:
      CapabilityDeniedError, ToolError: as `files_below`.
    """
    wanted = text.casefold() if ignore_case else text
    room = MAX_SEARCHED_BYTES
    for file in files_below(roots, path, pattern):
        if room < 0:
            raise ToolError(f"{path!r} holds more than {MAX_SEARCHED_BYTES:,} bytes; search in less of it")
        try:
            data = read_bytes(file)
            room -= len(data)
            content = decoded(data, file.name).text
        except (ToolError, OSError):
            continue  # binary, too large, gone: there is no text to search
        if wanted not in (content.casefold() if ignore_case else content):
            continue
        for number, line in numbered(content):
            if wanted in (line.casefold() if ignore_case else line):
                yield f"{shown(file.name)}:{number}: {line.strip()[:MAX_LINE_CHARS]}"


def _walk(roots: Roots, place: Place, hidden: bool) -> Iterator[Place]:
    """Yield the files of a directory, by name; links to directories are not followed.

    What is hidden (a name that begins with a dot) is left out, unless `hidden`. A link to a file
    counts if its target lies below a root. Stops when the caller is cancelled.
    """
    if os.path.isfile(place.path):
        yield place
        return
    visited = steps = 0
    todo = [place]
    while todo:
        directory = todo.pop()
        steps += len(directory.parts)
        if steps > MAX_STEPS:
            raise ToolError(
                f"the directories in {place.told} lie too deep in each other; look further below it"
            )
        folders: list[Place] = []
        for name, kind in _entries(directory):
            check_cancelled()
            visited += 1
            if visited > MAX_VISITED:
                raise ToolError(
                    f"{place.told} holds more than {MAX_VISITED} files and directories; look further below it"
                )
            if name.startswith(".") and not hidden:
                continue
            below = _inside(directory, name)
            if kind == "folder":
                folders.append(below)
            elif (found := below if kind == "file" else _linked(roots, below)) is not None:
                yield found
        todo += reversed(folders)


def _inside(directory: Place, name: str) -> Place:
    told = name if directory.name == "." else f"{directory.name}/{name}"
    return Place(directory.root, (*directory.parts, name), told)


def _entries(directory: Place) -> list[tuple[str, str]]:
    """Return the names in a directory, sorted, and what they are: `file`, `folder` or `link`.

    The first ones, as far as a walk goes. A directory that cannot be opened, or is none any more, is empty.
    """
    try:
        with opened_directory(directory) as fd, os.scandir(fd) as entries:
            return heapq.nsmallest(MAX_VISITED + 1, _known(entries))
    except (OSError, ToolError):
        return []


def _known(entries: Iterator[os.DirEntry[str]]) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(entries):
        if number % 1_000 == 0:
            check_cancelled()
        if kind := _kind(entry):
            yield entry.name, kind


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else ""


def _linked(roots: Roots, link: Place) -> Place | None:
    target = roots.locate(link.path)
    if target is None or not os.path.isfile(target.path):
        return None
    return attrs.evolve(target, name=link.name)
