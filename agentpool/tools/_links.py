"""Links in the paths of grants: whether a command of an agent may have put one there.

A command can put a link in the place of any directory below one that it may write, and so lead whoever is
granted that directory elsewhere. Who was granted it before, and children, keep to what it was then. For an
agent that the program starts later its path is resolved here: a link that lies in a directory which commands
of this process may write, or may have written, is followed only if the path led to the same place before
they could. What was there before is noted when an agent, or a fleet, with such a path is made.

One account for the whole process, as there is one disk: what a command of one pool has left there is found by
the agents of another one.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from threading import Lock

from agentpool._core.capability import FileReadCapability, FileWriteCapability
from agentpool._core.manifest import AgentManifest
from agentpool._core.sandboxing import is_within, outermost
from agentpool._logging import LOOP, printable, tell

MOST_DIRECTORIES = 1_000
"""So many directories are known that commands may write; of more, those above them stand for them."""

MOST_NOTED = 10_000
"""Of so many paths with links it is known where they led; the oldest are forgotten, and not followed then."""

_MOST_LINKS = 40  # as many as Linux follows


class PlantedLinkError(Exception):
    """A path leads through a link that a command may have made.

    Attributes:
      path: the path.
      link: the link.
    """

    def __init__(self, path: str, link: str) -> None:
        self.path = path
        self.link = link
        super().__init__(
            f"the link {link}, on the granted path {path}, is not followed: commands may write where it is"
        )


class Links:
    """The directories that commands may write, and where paths led before. Safe in threads."""

    def __init__(self) -> None:
        """Begin as if no command had ever run."""
        self._lock = Lock()
        self._directories: tuple[str, ...] = ()
        self._noted: dict[str, str] = {}

    def commands_may_write(self, directories: Iterable[str]) -> None:
        """Take in that commands may write below these real paths, before the first of them runs."""
        new = [each for each in directories if not is_within(each, self._directories)]
        if not new:
            return
        with self._lock:
            found = outermost((*self._directories, *new))
            if len(found) > MOST_DIRECTORIES:
                found = outermost(filter(os.path.lexists, found))
            while len(found) > MOST_DIRECTORIES:
                found = outermost(map(os.path.dirname, found))
            self._directories = found

    def led(self, path: str, real: str) -> None:
        """Take in where a path led before commands could change that."""
        with self._lock:
            self._noted.pop(path, None)
            self._noted[path] = real
            while len(self._noted) > MOST_NOTED:
                del self._noted[next(iter(self._noted))]

    def noted(self, paths: Iterable[str]) -> dict[str, str]:
        """Return where those of these paths led that hold links, as far as that was noted."""
        return {path: self._noted[path] for path in paths if path in self._noted}

    def distrust_noted(self) -> None:
        """Forget where paths led through links that commands of an earlier process may have made."""
        with self._lock:
            self._noted = {path: real for path, real in self._noted.items() if not self._is_doubtful(path)}

    def real(self, path: str) -> str:
        """Return the real path of an absolute one, as `os.path.realpath` does, and note where it leads.

        Raises:
          PlantedLinkError: if it leads through a link that a command may have made.
          OSError: if it has too many links.
        """
        real, planted = self._walked(path)
        if planted is None:
            if real != path:
                self.led(path, real)
        elif self._noted.get(path) != real:
            raise PlantedLinkError(path, planted)
        return real

    def _is_doubtful(self, path: str) -> bool:
        try:
            return self._walked(path)[1] is not None
        except OSError:
            return True

    def _walked(self, path: str) -> tuple[str, str | None]:
        """Return where a path leads, and the first link on the way that a command may have made.

        What it leads to is what was looked at, and not looked up once more: it may change meanwhile.
        """
        if not self._directories:
            return os.path.realpath(path), None
        done, planted, links = os.sep, None, 0
        left = deque(path.split(os.sep))
        while left:
            part = left.popleft()
            if part in ("", os.curdir):
                continue
            if part == os.pardir:
                done = os.path.dirname(done)
                continue
            here = os.path.join(done, part)
            try:
                target = os.readlink(here)
            except OSError:  # it is no link, or not there
                done = here
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if planted is None and is_within(done, self._directories):
                planted = here
            if os.path.isabs(target):
                done = os.sep
            left.extendleft(reversed(target.split(os.sep)))
        return done, planted


links = Links()
"""Those of this process."""


def granted_paths(manifest: AgentManifest) -> list[str]:
    """Return the paths that a manifest asks for, absolute, as they are written."""
    return [
        os.path.abspath(os.path.join(manifest.base or "", path))
        for each in manifest.capabilities
        if isinstance(each, FileReadCapability | FileWriteCapability)
        for path in each.allowed_paths
    ]


def note_paths(manifest: AgentManifest) -> None:
    """Note where the paths of a manifest lead now. Blocks on the disk, if it has any."""
    if manifest.has_real_paths:
        return
    with suppress(OSError, ValueError):  # the current directory is gone, or it can be no path
        for path in granted_paths(manifest):
            is_planted(path)  # looks at it; whoever asks for it is told


def noted_paths(manifest: AgentManifest) -> Mapping[str, str]:
    """Return where those paths of a manifest led that hold links, for a journal."""
    try:
        return {} if manifest.has_real_paths else links.noted(granted_paths(manifest))
    except (OSError, ValueError):
        return {}


def real_root(path: str) -> str:
    """Return the real path of a granted, absolute one.

    One that leads through a link which a command may have made stays as it is. So it leads nowhere, as no
    link below a real root is followed; the log tells of it.

    Raises:
      OSError, ValueError: if it can be no path.
    """
    try:
        return links.real(path)
    except PlantedLinkError as error:
        tell(
            LOOP,
            logging.WARNING,
            "the granted path %s has the link %s in it, which a command may have made, and leads nowhere:"
            " grant the directory itself that is meant, or make the agent before the first command",
            printable(path),
            printable(error.link),
        )
        return path


def is_planted(path: str) -> bool:
    """Whether an absolute path leads through a link that a command may have made."""
    try:
        links.real(path)
    except PlantedLinkError:
        return True
    except (OSError, ValueError):
        pass
    return False
