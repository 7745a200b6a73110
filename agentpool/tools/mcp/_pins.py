"""The file in which it is kept what was approved of the tools of MCP servers."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs

from agentpool._blocking import run_blocking
from agentpool._core.errors import McpServerError
from agentpool._core.mcp import Listing, ServerPins, pins_from_text, pins_to_text

_writing = threading.Lock()  # several servers share a file
_LONGEST = 16 * 1024 * 1024


@attrs.frozen
class PinFile:
    """A file of pins; several servers may share one.

    Attributes:
      path: where it is; made when it is first written.
    """

    path: str

    async def pins_of(self, server: str, listing: Listing) -> ServerPins:
        """Return what is pinned of a server; all of the listing, which is written, if that is nothing yet.

        Raises:
          McpServerError: if the file cannot be read or written.
        """
        pins = await self._done(server, self._read)
        if server not in pins:
            await self.accept(server, listing)
            return ServerPins.of(listing)
        return pins[server]

    async def read(self, server: str) -> ServerPins | None:
        """Return what is pinned of a server; None if nothing is.

        Raises:
          McpServerError: if the file cannot be read.
        """
        return (await self._done(server, self._read)).get(server)

    async def accept(self, server: str, listing: Listing) -> None:
        """Approve a server's tools as they are now.

        Raises:
          McpServerError: if the file cannot be read or written.
        """
        await self._done(server, lambda: self._write(server, ServerPins.of(listing)))

    async def _done(self, server: str, do: Callable[[], dict[str, ServerPins]]) -> dict[str, ServerPins]:
        try:
            return await run_blocking(do)
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise McpServerError(server, f"its file of pins {self.path!r}: {said}") from error

    def _read(self) -> dict[str, ServerPins]:
        try:
            with open(self.path, encoding="utf-8") as file:
                return pins_from_text(file.read(_LONGEST))
        except FileNotFoundError:
            return {}

    def _write(self, server: str, own: ServerPins) -> dict[str, ServerPins]:
        """Write the file as a whole: who reads it meanwhile finds the old one."""
        directory = Path(self.path).absolute().parent
        with _writing:
            pins = {**self._read(), server: own}
            directory.mkdir(parents=True, exist_ok=True)
            number, fresh = tempfile.mkstemp(dir=directory, prefix=".agentpool-pins-")
            try:
                with os.fdopen(number, "w", encoding="utf-8") as file:
                    file.write(pins_to_text(pins))
                os.replace(fresh, self.path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(fresh)
                raise
        return pins
