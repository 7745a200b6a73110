"""What a fleet reads from the disk: noted, so that the same can be read once more. All of it blocks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from agentpool._core.redaction import has_placeholder


class Disk:
    """The files of a fleet, as they are."""

    def read(self, path: Path) -> bytes:
        """Return what a file holds.

        Raises:
          OSError, ValueError: if it cannot be read.
        """
        return path.read_bytes()

    def find(self, root: Path, pattern: str) -> list[Path]:
        """Return the files of a pattern, in the order of their paths.

        Raises:
          ValueError, IndexError, NotImplementedError: if it is no pattern.
        """
        return sorted({path for path in root.glob(pattern) if _may_be_file(path)})

    def why_no_directory(self, path: str) -> str | None:
        """Return why nothing can be found in a directory; None if it can."""
        try:
            os.scandir(path).close()
        except FileNotFoundError:
            return f"there is no directory {path!r}"
        except NotADirectoryError:
            return f"{path!r} is a file, not a directory"
        except OSError as error:
            return f"{path!r} cannot be read: {error.strerror}"
        return None


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a directory that may be listed and not entered: its agent will tell of it
        return True


@attrs.define(eq=False)
class NotingDisk(Disk):
    """The files of a fleet, and a note of what was read and found."""

    _read: dict[str, bytes] = attrs.field(factory=dict)
    _found: dict[tuple[str, str], Sequence[str]] = attrs.field(factory=dict)

    def read(self, path: Path) -> bytes:
        """Return what a file holds, and note it."""
        data = self._read[str(path)] = super().read(path)
        return data

    def find(self, root: Path, pattern: str) -> list[Path]:
        """Return the files of a pattern, and note them."""
        found = super().find(root, pattern)
        self._found[str(root), pattern] = [str(path) for path in found]
        return found

    def to_data(self) -> dict[str, Any]:
        """Return what was noted, as JSON data; all files are UTF-8, or the fleet was refused."""
        read = {
            path: {"text": data.decode("utf-8"), "hash": _hash_of(data)} for path, data in self._read.items()
        }
        return {"read": read, "found": [[*where, list(paths)] for where, paths in self._found.items()]}


@attrs.frozen(eq=False)
class NotedDisk(Disk):
    """The files of a fleet as they were when they were noted, whatever has become of them."""

    _read: Mapping[str, Mapping[str, str]]
    _found: Mapping[tuple[str, str], Sequence[str]]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> NotedDisk:
        """Return the disk of which `NotingDisk.to_data` told."""
        return cls(data["read"], {(root, pattern): paths for root, pattern, paths in data["found"]})

    def read(self, path: Path) -> bytes:
        """Return what a file held.

        Raises:
          OSError: if that was not kept, because a secret stood in it, and the file has changed since.
        """
        noted = self._read.get(str(path))
        if noted is None:
            return super().read(path)
        data = noted["text"].encode("utf-8")
        if _hash_of(data) == noted["hash"]:
            return data
        data = super().read(path)  # a secret was taken out of the text
        if _hash_of(data) != noted["hash"]:
            raise OSError("it has changed, and its text was not kept because a secret stands in it")
        return data

    def find(self, root: Path, pattern: str) -> list[Path]:
        """Return the files that there were of a pattern."""
        found = self._found.get((str(root), pattern))
        return super().find(root, pattern) if found is None or has_placeholder(found) else [*map(Path, found)]

    def why_no_directory(self, path: str) -> str | None:
        """Return None: what was found in it is known."""
        return None


def _hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
