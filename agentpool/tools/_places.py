"""Where an agent may reach: paths below granted roots, and how what is there is opened.

A path is resolved first, links and all, and has to lead below a root. What it leads to is then opened
directory by directory, following no link, so that a link which was put there in between is refused.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from agentpool._core.errors import CapabilityDeniedError, ToolError
from agentpool.tools._links import is_planted, real_root

# What would break a list of names, or hide in it: controls, separators of lines, what has no width,
# undecodable bytes, and white space at an end.
_ODD = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]|^\s|\s$"
)

# Windows has none of these; there a path is checked and then opened by its name.
_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_DIRECTORY: int = getattr(os, "O_DIRECTORY", 0)
_NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)  # opening a pipe must not wait for its other end
_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
_BINARY: int = getattr(os, "O_BINARY", 0)
# Linux alone: needs no right to list a directory that is only walked through.
_PATH: int = getattr(os, "O_PATH", 0)
HAS_DIR_FD = os.open in os.supports_dir_fd and bool(_NOFOLLOW and _DIRECTORY)

READING = os.O_RDONLY | _NONBLOCK | _CLOEXEC | _BINARY | _NOFOLLOW
CREATING = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC | _BINARY


# -- paths --------------------------------------------------------------------------


@attrs.frozen
class Place:
    """A real path below the real path of a root; neither holds a link."""

    root: str
    parts: tuple[str, ...]
    name: str  # what the model calls it

    @property
    def path(self) -> str:
        """Return the whole path."""
        return os.path.join(self.root, *self.parts)

    @property
    def told(self) -> str:
        """Return the name as it stands in a sentence, in quotes."""
        return _quoted(self.name)


@attrs.frozen
class _Root:
    real: str
    label: str  # as the manifest has it, relative to the manifest's directory


class Roots:
    """The directories (or single files) that an agent may reach, and the names of what is in them.

    A name is relative to the root. Where there are several, it begins with the root as the manifest
    has it, relative to the manifest's directory. A path is understood in the same way; relative to
    the manifest's directory and absolute paths are understood too, if they lead below a root.
    """

    def __init__(
        self, allowed_paths: Sequence[str], base: Path | None, *, follows_links: bool = True
    ) -> None:
        """Resolve the roots, once: a link that is put in the place of one later leads nowhere.

        Blocks on the disk.

        Args:
          allowed_paths: the roots.
          base: the directory that relative ones are relative to.
          follows_links: whether links in the roots are followed; not if they were resolved before, and
            none that a command of an agent may have made.
        """
        self._base = os.path.abspath(base or ".")
        paths = dict.fromkeys(os.path.join(self._base, os.fspath(path)) for path in allowed_paths)
        self._roots = tuple(
            _Root(_followed(path) if follows_links else os.path.normpath(path), self._label(path))
            for path in paths
        )

    def _label(self, path: str) -> str:
        return Path(os.path.relpath(path, self._base)).as_posix()

    def __str__(self) -> str:
        return ", ".join(map(_told, self._roots)) or "nothing"

    def find(self, path: str) -> Place:
        """Return the place that a path means, whether or not there is something.

        Raises:
          CapabilityDeniedError: if it lies outside of every root, or is reached through a link that
            leads out.
          ToolError: if it cannot be a path.
        """
        readings = _readings(path)
        if len(readings) > 1:
            path = next(filter(self._exists, readings), path)
        return self._find(path)

    def _exists(self, path: str) -> bool:
        try:
            return os.path.lexists(self._find(path).path)
        except (CapabilityDeniedError, ToolError):
            return False

    def _find(self, path: str) -> Place:
        if "\0" in path:
            raise ToolError("a path cannot hold a NUL character")
        try:
            in_base = self.locate(os.path.join(self._base, path))
            in_roots = [] if os.path.isabs(path) else self._in_roots(path)
        except (OSError, ValueError) as error:
            raise ToolError(f"{path!r} cannot be a path: {error}") from error
        place = self._choose(in_base, in_roots)
        if place is None:
            raise CapabilityDeniedError(f"{path!r} is outside of what this agent may reach, which is: {self}")
        return place

    def _in_roots(self, path: str) -> list[Place]:
        folders = [root.real for root in self._roots if not os.path.isfile(root.real)]
        return [place for root in folders if (place := self.locate(os.path.join(root, path)))]

    def _choose(self, in_base: Place | None, in_roots: list[Place]) -> Place | None:
        """Choose what exists; for something new, what has a directory to be in."""
        if len(self._roots) > 1:
            found = next((place for place in in_roots if os.path.lexists(place.path)), None)
            return found if in_base is None else in_base
        places = [*in_roots, in_base] if in_base else in_roots
        found = next((place for place in places if os.path.lexists(place.path)), None)
        ready = next((place for place in places if os.path.isdir(os.path.dirname(place.path))), None)
        return found or ready or in_base or next(iter(places), None)

    def find_all(self, path: str) -> list[Place]:
        """Return the places that a path means: every root if it is `.` or empty.

        Raises:
          CapabilityDeniedError, ToolError: as `find`.
        """
        if path in ("", ".", "./"):
            return [place for root in self._roots if (place := self.locate(root.real))]
        return [self.find(path)]

    def locate(self, path: str) -> Place | None:
        """Return where a path really leads to; None if that is below no root."""
        real = os.path.realpath(path)
        for root in self._roots:
            below = parts_below(real, root.real)
            if below is not None:
                return Place(root.real, below, self._name(root, below))
        return None

    def _name(self, root: _Root, parts: tuple[str, ...]) -> str:
        name = "/".join(parts)
        if len(self._roots) < 2 and (parts or not os.path.isfile(root.real)):
            return name or "."
        return f"{root.label}/{name}" if name else root.label


def _told(root: _Root) -> str:
    link = " (not followed: a command may have made the link)" if is_planted(root.real) else ""
    return f"{shown(root.label)}{link}"


def _followed(path: str) -> str:
    return real_root(os.path.abspath(path))


def parts_below(path: str, root: str) -> tuple[str, ...] | None:
    """Return the parts of a path below a directory; None if it is not below it."""
    if path == root:
        return ()
    prefix = root if root.endswith(os.sep) else root + os.sep
    return tuple(path[len(prefix) :].split(os.sep)) if path.startswith(prefix) else None


def shown(name: str) -> str:
    """Return a name as the model is told it: on one line, as a string of JSON where it is odd."""
    return json.dumps(name) if _ODD.search(name) else name


def _quoted(name: str) -> str:
    return json.dumps(name) if _ODD.search(name) else repr(name)


def _readings(path: str) -> list[str]:
    """Return what a path may mean: as it is written, as `shown` writes odd names, without white space."""
    bare = path.strip()
    readings = [path, bare, bare.strip("`'\"")]
    if bare.startswith('"'):
        with suppress(ValueError):
            readings.insert(1, json.loads(bare))
    return [reading for reading in dict.fromkeys(readings) if reading]


# -- opening what was found -----------------------------------------------------------


@contextmanager
def told_errors(name: str) -> Iterator[None]:
    """Say in words what the system refuses."""
    told = _quoted(name)
    try:
        yield
    except FileNotFoundError:
        raise ToolError(f"there is no file {told}") from None
    except IsADirectoryError:
        raise ToolError(f"{told} is a directory") from None
    except OSError as error:
        raise ToolError(f"{told} cannot be used: {error.strerror or error}") from error


@contextmanager
def opened_parent(place: Place, *, create: bool = False) -> Iterator[tuple[str, int | None]]:
    """Open the directory that a place is in, following no link on the way.

    Gives the name of what is in it, and the directory for the `dir_fd` of `os` functions. Where the
    system has no such functions the name is a whole path, which is checked once more.

    Args:
      create: whether to make what is missing of the directory.
    """
    directory, name = os.path.split(place.path)
    if not HAS_DIR_FD:  # pragma: no cover
        if create:
            os.makedirs(directory, exist_ok=True)
        if os.path.realpath(place.path) != place.path:
            raise OSError("it changed while it was opened")
        yield place.path, None
        return
    start = place.root if place.parts else os.path.dirname(place.root)
    with _descended(start, parts_below(directory, start) or (), create=create) as fd:
        yield name, fd


@contextmanager
def opened_directory(place: Place) -> Iterator[int | str]:
    """Open a directory for `os.scandir`, following no link on the way."""
    if not HAS_DIR_FD:  # pragma: no cover
        if os.path.realpath(place.path) != place.path:
            raise OSError("it changed while it was opened")
        yield place.path
        return
    with _descended(place.root, place.parts) as walked:
        fd = os.open(".", os.O_RDONLY | _DIRECTORY | _CLOEXEC, dir_fd=walked)
        try:
            _refuse_kernel_files(place, os.fstat(fd))
            yield fd
        finally:
            os.close(fd)


@contextmanager
def _descended(root: str, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """Open a directory by walking down to it, following no link.

    On Linux the walk begins at `/`: what is above the root may be replaced by others, too.
    """
    if _PATH:
        root, parts = os.sep, (*filter(None, root.split(os.sep)), *parts)
    elif create:
        os.makedirs(root, exist_ok=True)
    flags = (_PATH or os.O_RDONLY) | _DIRECTORY | _CLOEXEC
    fd = os.open(root, flags)
    try:
        for part in parts:
            below = _opened_below(fd, part, flags | _NOFOLLOW, create)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _opened_below(fd: int, part: str, flags: int, create: bool) -> int:
    try:
        return os.open(part, flags, dir_fd=fd)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        os.mkdir(part, dir_fd=fd)
    return os.open(part, flags, dir_fd=fd)


def open_regular(place: Place, name: str, dir_fd: int | None) -> tuple[int, os.stat_result]:
    """Open an ordinary file for reading, and return it with its status; the caller closes it.

    Devices, pipes and sockets are not even opened: with some, that does something.

    Args:
      name, dir_fd: as `opened_parent` gives them.

    Raises:
      ToolError: if it is something else.
      OSError: if it cannot be opened.
    """
    _refuse_unless_regular(place, os.stat(name, dir_fd=dir_fd, follow_symlinks=False))
    fd = os.open(name, READING, dir_fd=dir_fd)
    try:
        status = os.fstat(fd)  # of what was opened, whatever has been put there since
        _refuse_unless_regular(place, status)
        return fd, status
    except BaseException:
        os.close(fd)
        raise


def _refuse_unless_regular(place: Place, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ToolError(f"{place.told} is a directory; list_files shows what is in it")
    if stat.S_ISLNK(status.st_mode):
        raise OSError("it became a link while it was opened")
    if not stat.S_ISREG(status.st_mode):
        raise ToolError(f"{place.told} is no ordinary file")
    _refuse_kernel_files(place, status)


def _refuse_kernel_files(place: Place, status: os.stat_result) -> None:
    """Refuse `/proc` and `/sys`, of which nobody thinks who grants `/`: environments, memory, descriptors."""
    mounted = _kernel_devices().get(status.st_dev)
    if mounted is not None and parts_below(place.root, mounted) is None:
        raise ToolError(f"{place.told} is no ordinary file: it is made by the kernel, below {mounted}")


@functools.cache
def _kernel_devices() -> dict[int, str]:
    return {os.stat(path).st_dev: path for path in ("/proc", "/sys") if os.path.ismount(path)}
