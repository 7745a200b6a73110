"""Writing files in one step: readers see the old file or the new one, and nothing between."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agentpool._core.errors import ToolError
from agentpool.tools._lines import decoded, has_only_crlf
from agentpool.tools._places import CREATING, Place, open_regular, opened_parent
from agentpool.tools._reading import MAX_FILE_BYTES, read_opened
from agentpool.tools._versions import Sight

# One edit of a file at a time, by whichever agent of the process: each reads, and then writes what it has
# read with a change. Files share these locks by their paths' hashes, so that there is nothing to clean up.
_LOCKS = tuple(threading.Lock() for _ in range(64))


@contextmanager
def alone_with(place: Place) -> Iterator[None]:
    """Keep others of this process from changing the file. For threads; blocks while one does."""
    with _LOCKS[hash(place.path) % len(_LOCKS)]:
        yield


def write_text(place: Place, content: str, sight: Sight) -> tuple[int, str]:
    r"""Put a text in the place of a file, or make one with its directories.

    A file that is text stays as it was encoded, with its mark. If all its lines end with `\r\n`, and those
    of the new text with `\n`, they end as they did: a model that has read the file seldom keeps them.

    Args:
      place: where.
      content: the text.
      sight: what the writer has seen of the file: another version than that is not overwritten.

    Returns:
      How many bytes were written, and what of the old file was kept, in words.

    Raises:
      UnicodeEncodeError: if the text holds half a character.
      ToolError: if it is too large, or somebody else has changed the file.
      OSError: if it cannot be written, or is no ordinary file. In each case nothing has changed.
    """
    plain = content.encode()
    refuse_if_large(plain, "the content")
    with alone_with(place), opened_parent(place, create=True) as (name, dir_fd):
        old = status_of(name, dir_fd)
        before = None if old is None else _before(place, name, dir_fd)
        data, kept = (plain, "") if before is None else _as_before(before[0], place, content)
        refuse_if_large(data, "the content")
        if old is not None and sight.is_known:
            # What is there already is lost by nobody: a call that is made again after a crash finds it.
            if before is None or before[0] != data:
                sight.refuse_unseen(None if before is None else before[0])
            old = status_of(name, dir_fd)
            if old is not None and before is not None and state_of(old) != state_of(before[1]):
                sight.refuse()
        replace(name, data, dir_fd, old)
        sight.saw(data)
        return len(data), kept


def refuse_if_large(data: bytes, what: str) -> None:
    """Raise `ToolError` if there is more than a file may have."""
    if len(data) > MAX_FILE_BYTES:
        raise ToolError(f"{what} has {len(data)} bytes; {MAX_FILE_BYTES} are the limit")


def _before(place: Place, name: str, dir_fd: int | None) -> tuple[bytes, os.stat_result] | None:
    """Return what a file holds, and its status; None if it cannot be read."""
    try:
        fd, status = open_regular(place, name, dir_fd)
        try:
            return read_opened(place, fd, status), status
        finally:
            os.close(fd)
    except (ToolError, OSError):
        return None


def _as_before(data: bytes, place: Place, content: str) -> tuple[bytes, str]:
    """Return a text in the encoding and with the line breaks of what it replaces."""
    try:
        before = decoded(data, place.told)
    except ToolError:
        return content.encode(), ""  # it was no text that can be read
    kept = []
    if before.mark and not content.startswith("\ufeff"):
        kept.append(f"its byte order mark ({before.codec})")
    if "\r" not in content and "\n" in content and has_only_crlf(before.text):
        content = content.replace("\n", "\r\n")
        kept.append(r"its line breaks (\r\n)")
    changed = before.encoded(content.removeprefix("\ufeff")) if before.mark else content.encode()
    return changed, " and ".join(kept)


def state_of(status: os.stat_result) -> tuple[int, ...]:
    """Return by what a file is told from one that was written since then."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def status_of(name: str, dir_fd: int | None) -> os.stat_result | None:
    """Return the status of an ordinary file; None if there is nothing.

    Raises:
      OSError: if it is something else.
    """
    try:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no ordinary file")
    return status


def replace(name: str, data: bytes, dir_fd: int | None, old: os.stat_result | None) -> None:
    """Write a file beside the old one, with its mode and its owner, and put it in its place.

    A file that has several names (hard links) is replaced under this one alone.

    Raises:
      OSError: if that fails; then nothing has changed.
    """
    if old is not None and not (old.st_mode & 0o222 and _is_writable(name, dir_fd)):
        raise PermissionError("it is read-only")
    temporary = os.path.join(os.path.dirname(name), f".{os.urandom(8).hex()}.agentpool-tmp")
    try:
        # Others may read it once it has the mode of the old one, and not before.
        with open(os.open(temporary, CREATING, 0o666 if old is None else 0o600, dir_fd=dir_fd), "wb") as file:
            file.write(data)
            if old is not None:
                _dress(file.fileno(), old)
        os.replace(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=dir_fd)
        raise


def _is_writable(name: str, dir_fd: int | None) -> bool:
    return os.access(name, os.W_OK, dir_fd=dir_fd)


def _dress(fd: int, old: os.stat_result) -> None:
    """Give a new file the owner and the mode of the old one, as far as the system lets us."""
    if hasattr(os, "fchown"):
        new = os.fstat(fd)
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            with suppress(OSError):
                os.fchown(fd, old.st_uid, old.st_gid)
    if hasattr(os, "fchmod"):  # after the owner, whose change takes bits of the mode
        os.fchmod(fd, old.st_mode & 0o777)  # the rest, as setuid, a kernel drops on writing, too
