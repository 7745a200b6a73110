"""Whether a file is still as an agent has seen it: what others have written since then is not to be lost.

A version is a hash of a file's bytes: a file that was only touched, or has again what it had, is the same.
"""

from __future__ import annotations

import os
from hashlib import blake2b

import attrs

from agentpool._core.errors import ToolError
from agentpool.abc import KnowsVersions, ToolContext, Versions
from agentpool.tools._places import Place


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


@attrs.frozen
class Sight:
    """What one agent knows of one file.

    Attributes:
      place: where the file is.
      versions: what the agent has seen; None for whoever keeps no account of that.
    """

    place: Place
    versions: Versions | None

    @property
    def is_known(self) -> bool:
        """Whether the agent has read or written the file."""
        return self.versions is not None and self.versions.seen(self._name) is not None

    @property
    def _name(self) -> str:
        return _hash(os.fsencode(self.place.path))  # journals need not tell what files there are

    def saw(self, data: bytes, ticket: int | None = None) -> None:
        """Take in what is in the file, as the agent has read or written it.

        Args:
          data: its bytes.
          ticket: drawn before it was read; left out, it was written now.
        """
        if self.versions is not None:
            self.versions.saw(self._name, _hash(data), ticket)

    def refuse_unseen(self, data: bytes | None) -> None:
        """Raise `ToolError` if the agent has seen another version of the file than there is.

        Args:
          data: its bytes; None if it cannot be read any more.
        """
        seen = None if self.versions is None else self.versions.seen(self._name)
        if seen is not None and (data is None or _hash(data) != seen):
            self.refuse()

    def refuse(self) -> None:
        """Raise `ToolError`: somebody else has changed the file."""
        raise ToolError(
            f"{self.place.told} has changed since you last read or wrote it, and nothing was written. Read it"
            " again with read_file, and then make your change to what it holds now"
        )


def versions_of(ctx: ToolContext) -> Versions | None:
    """Return what the agent of a context has seen; None if that keeps no account of it."""
    return ctx.versions if isinstance(ctx, KnowsVersions) else None
