"""A cassette as a file: who writes to it takes its lock, and mends what a dead writer left.

The lock is the operating system's, on the cassette itself: the end of a process, however it comes,
takes its lock away. A line is in the file as a whole or, if its writer was killed, in part and at the
end; the next writer cuts such a part off.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import SEEK_END, FileIO
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from agentpool._locks import lock, unlock

VERSION = 1
HEADER = json.dumps({"agentpool_cassette": VERSION})
_BEGINNING = b'{"agentpool_cassette"'
_BOM = b"\xef\xbb\xbf"
_BLOCK = 64 * 1024

FileState: TypeAlias = tuple[int, int, int] | None
"""What tells whether a file was written to: which one it is, its size, and when. None if there is none."""


class Tape:
    """A file to which all recorders of a program that write to it belong; `of` finds it.

    It lasts as long as one of them does. So a recorder that makes a file anew cannot take away what
    another has written that is still there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun = False

    @staticmethod
    def of(path: Path) -> Tape:
        """Return the tape of a file: the one that is there, or a new one."""
        whole = Path(os.path.realpath(path))
        with _tapes_lock:
            return _tapes.setdefault(whole, Tape(whole))

    def state(self) -> FileState:
        """Return what tells later whether somebody has written to the file."""
        try:
            return _state(self.path.stat())
        except FileNotFoundError:
            return None

    def append(self, line: str, *, replaced: FileState = None) -> None:
        """Write a line; blocks while another writer has the file.

        Args:
          line: a line of a cassette, without its line break.
          replaced: drop what the file holds, if it is still in this state, and no recorder of this
            program has written to it.

        Raises:
          OSError: if the file cannot be written; then nothing of the line is in it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path) as file:
            if not self._begun and _state(os.fstat(file.fileno())) == replaced:
                file.truncate(0)
            self._begun = True
            _mend(file)
            end = file.seek(0, SEEK_END)
            start = HEADER + "\n" if end == 0 else ""
            try:
                _write_all(file, f"{start}{line}\n".encode("ascii"))
            except OSError:
                with suppress(OSError):
                    file.truncate(end)
                raise


_tapes: WeakValueDictionary[Path, Tape] = WeakValueDictionary()
_tapes_lock = threading.Lock()


def _state(of: os.stat_result) -> FileState:
    return of.st_ino, of.st_size, of.st_mtime_ns


@contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    """Open a file, and have it for oneself."""
    while True:
        with FileIO(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+") as file:
            lock(file)
            try:
                if _is_at(path, file):
                    yield file
                    return
            finally:
                unlock(file)


def _is_at(path: Path, file: FileIO) -> bool:
    """Return whether a path still leads to an open file: it may have been deleted, or replaced."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _mend(file: FileIO) -> None:
    """End a file with a whole line: cut off a part of one, or add the line break that it lacks."""
    size = file.seek(0, SEEK_END)
    tail = b""
    while (start := size - len(tail)) > 0 and b"\n" not in tail:
        file.seek(max(0, start - _BLOCK))
        tail = file.read(start - max(0, start - _BLOCK)) + tail
    rest = tail[tail.rfind(b"\n") + 1 :]
    if _is_whole(rest):
        file.seek(0, SEEK_END)
        _write_all(file, b"\n")
    elif rest:
        file.truncate(size - len(rest))


def _is_whole(line: bytes) -> bool:
    """Return whether this is a line that lacks nothing but its line break, which an editor took."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _write_all(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


# -- reading -----------------------------------------------------------------------


def whole_lines(path: Path) -> bytes:
    """Return a cassette's content without a last line that was cut off while it was written.

    Raises:
      OSError: if the file cannot be read.
    """
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    rest = content[end:]
    is_torn = HEADER.encode().startswith(rest) if end == 0 else not _is_whole(rest)
    return content[:end] if is_torn else content


def check_replaceable(path: Path) -> None:
    """Check that a file which a cassette is to take the place of is one, or is not there.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is something else, which nobody wants to lose.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_BOM + _BEGINNING))
    except FileNotFoundError:
        return
    start = start.removeprefix(_BOM)
    if start and not start.startswith(_BEGINNING) and not _BEGINNING.startswith(start):
        raise ValueError(
            f"{path} is no cassette, so it is not replaced; name another file, or delete this one"
        )


def lines_of(content: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines of a cassette with their numbers, from 1; headers and empty ones are left out.

    Raises:
      ValueError: if it is no cassette, or a line of it cannot be read, with the line's number.
    """
    lines = content.removeprefix(_BOM).split(b"\n") if content else []
    for number, line in enumerate(lines, 1):
        if not line.strip() and number > 1:
            continue
        with told_line(path, number):
            data = json.loads(line)
            if not isinstance(data, dict):
                raise TypeError("not an object")
        if number == 1 or "agentpool_cassette" in data:  # another one is where two files were joined
            _check_header(data, f"{path}, line {number}")
            continue
        yield number, data


def _check_header(data: dict[str, Any], where: str) -> None:
    version = data.get("agentpool_cassette")
    if isinstance(version, int) and version > VERSION:
        raise ValueError(
            f"{where}: not a cassette that this agentpool knows, but one of version {version}, newer than"
            f" {VERSION}: play it with a newer agentpool, or record it again"
        )
    if version != VERSION:
        raise ValueError(f"{where}: not a cassette, which begins with {HEADER}: record it again")


@contextmanager
def told_line(path: Path, number: int) -> Iterator[None]:
    """Say which line of a cassette an exception is about."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}, line {number}: not a line of a cassette ({error!r});"
            " delete that line, or record the cassette again"
        ) from error
