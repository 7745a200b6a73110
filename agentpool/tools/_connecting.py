"""Connections to addresses that were checked before. Needs httpx2, so it is imported when one is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import httpcore2
import trio

from agentpool._core.hosts import IPAddress


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to given addresses, whatever host is asked for: no name is resolved a second time.

    A second look at the name could find another address than the one that was checked. TLS is still
    checked against the name, which is the connection's business.
    """

    def __init__(self, addresses: Sequence[IPAddress]) -> None:
        self._addresses = addresses
        self._trio = cast("httpcore2.AsyncNetworkBackend", httpcore2.TrioBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that can be had; each has an equal part of the time.

        Raises:
          ConnectError, ConnectTimeout: of the last one, if none can be had.
        """
        share = None if timeout is None else timeout / len(self._addresses)
        for address in self._addresses[:-1]:
            try:
                return await self._trio.connect_tcp(str(address), port, share)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                await trio.lowlevel.checkpoint()
        return await self._trio.connect_tcp(str(self._addresses[-1]), port, share)
