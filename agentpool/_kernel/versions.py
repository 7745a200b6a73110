"""Which versions of things an agent has seen that others change too, so that it overwrites nothing unseen.

A thing is a file, mostly, and its version a hash of what is in it; here both are names. One object for each
life of an agent: it is what the agent's own conversation knows. What tool calls saw is written into the
journal with their results, so that an agent that is resumed knows of each result that it has.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from threading import Lock

from agentpool._kernel.protection import protect_module

MOST_KNOWN = 4096
"""Of so many things the versions are known; the one that was seen longest ago is forgotten first."""


class SeenVersions:
    """The versions that one agent has seen. Tools look at it from their threads."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._seen: dict[str, tuple[int, str]] = {}
        self._unwritten: dict[str, str] = {}
        self._tickets = itertools.count()
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<SeenVersions of {len(self._seen)} things>"

    def ticket(self) -> int:
        """Return a number that tells when somebody began to look at something: higher ones are later."""
        return next(self._tickets)

    def seen(self, thing: str) -> str | None:
        """Return the version of a thing that the agent knows; None if it knows none."""
        known = self._seen.get(thing)
        return None if known is None else known[1]

    def saw(self, thing: str, version: str, ticket: int | None = None) -> None:
        """Take in a version that the agent has read, or made itself.

        Args:
          thing: what it is of.
          version: that.
          ticket: drawn before the thing was looked at: what was seen later stands, in whatever order that
            is told here. Left out, it is seen now.
        """
        when = self.ticket() if ticket is None else ticket
        with self._lock:
            known = self._seen.pop(thing, None)
            if known is not None and known[0] > when:
                self._seen[thing] = known
                return
            self._seen[thing] = (when, version)
            self._unwritten[thing] = version
            while len(self._seen) > MOST_KNOWN:
                oldest = next(iter(self._seen))
                del self._seen[oldest]
                self._unwritten.pop(oldest, None)

    def take_unwritten(self) -> Mapping[str, str]:
        """Return what was seen since this was called last, for the journal."""
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
        return unwritten

    def go_on_with(self, seen: Mapping[str, str]) -> None:
        """Take in what a journal tells that was seen."""
        for thing, version in seen.items():
            self.saw(thing, version)
        with self._lock:
            for thing in seen:
                self._unwritten.pop(thing, None)


protect_module(globals())
