"""The operating system's lock on a file: the end of a process, however it comes, takes its lock away."""

from __future__ import annotations

import sys
from io import FileIO

if sys.platform == "win32":
    import errno
    import msvcrt

    _BEYOND_ANY_END = 1 << 30  # Windows keeps others from reading what is locked, so nothing is there

    def lock(file: FileIO) -> None:
        """Wait until nobody else has the file, and have it."""
        while True:
            file.seek(_BEYOND_ANY_END)
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            except OSError as error:
                if error.errno != errno.EDEADLK:  # it gave up after ten seconds
                    raise

    def try_lock(file: FileIO) -> bool:
        """Have the file, unless somebody else has it; return whether it is ours."""
        file.seek(_BEYOND_ANY_END)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock(file: FileIO) -> None:
        """Let others have the file."""
        file.seek(_BEYOND_ANY_END)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def lock(file: FileIO) -> None:
        """Wait until nobody else has the file, and have it."""
        fcntl.flock(file, fcntl.LOCK_EX)

    def try_lock(file: FileIO) -> bool:
        """Have the file, unless somebody else has it; return whether it is ours."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(file: FileIO) -> None:
        """Let others have the file."""
        fcntl.flock(file, fcntl.LOCK_UN)
