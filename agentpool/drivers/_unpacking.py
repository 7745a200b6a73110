"""Unpacks gzip as it arrives, also where a server or a proxy packs it in its own way."""

from __future__ import annotations

import zlib

MAGIC = b"\x1f\x8b"
"""How gzip begins; neither JSON nor an event does."""

_WITH_GZIP_HEADER = 16 + zlib.MAX_WBITS


class Gunzip:
    """Unpacks gzip.

    Gateways may pack each piece by itself, one member after the other; what follows the last member is
    padding. What is said to be packed, and is not, stays as it is.
    """

    __slots__ = ("_begun", "_inflate", "_plain")

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_WITH_GZIP_HEADER)
        self._begun = False
        self._plain = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes, and return what they unpack to; maybe nothing yet.

        Raises:
          zlib.error: if they cannot be unpacked.
        """
        if not self._begun:
            self._begun = True
            self._plain = not chunk.startswith(MAGIC[:1])
        if self._plain:
            return chunk
        unpacked: list[bytes] = []
        while chunk:
            if self._inflate.eof:
                if not chunk.startswith(MAGIC[:1]):
                    break
                self._inflate = zlib.decompressobj(_WITH_GZIP_HEADER)
            unpacked.append(self._inflate.decompress(chunk))
            chunk = self._inflate.unused_data
        return b"".join(unpacked)
