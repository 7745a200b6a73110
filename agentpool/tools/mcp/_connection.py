"""The way to one server: a session that is opened when it is needed, and again when it has died."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import httpx2
import trio

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import McpServerError
from agentpool._core.mcp import Listing, Restarts, ServerPins, leaves
from agentpool._core.mcp_servers import McpServer
from agentpool.tools.mcp._http import HttpLink
from agentpool.tools.mcp._inbound import LOG, Inbound
from agentpool.tools.mcp._oauth import LOGIN_TIME, stored_auth
from agentpool.tools.mcp._pins import PinFile
from agentpool.tools.mcp._processes import Child
from agentpool.tools.mcp._session import Session, SessionGoneError
from agentpool.tools.mcp._stdio import StdioLink

CLOSE_TIME = 4.5
"""So many seconds the end of a session may take; a pool gives what it holds five."""

T = TypeVar("T")


@attrs.define(eq=False)
class _Attempt:
    """One attempt to open a session, and all who wait for it.

    Invariant: once it is settled there is a session or an error.
    """

    settled: trio.Event = attrs.field(factory=trio.Event)
    session: Session | None = None
    error: McpServerError | None = None


@attrs.define(eq=False)
class Connection:
    """The way to one server, for all who share it.

    Attributes:
      server: it.
      tier: where words may go.
      auth: what shows who asks, over HTTP.
      connect_time: seconds that it has to be there.
    """

    server: McpServer
    _nursery: trio.Nursery
    tier: PrivacyTier
    auth: httpx2.Auth | None
    connect_time: float
    _attempt: _Attempt | None = None
    _restarts: Restarts = attrs.field(factory=Restarts)
    _last_problem: str = ""
    _pins: ServerPins | None = None
    _is_closed: bool = False

    async def session(self) -> Session:
        """Return the session, which is opened if it is not open.

        Raises:
          McpServerError: if it cannot be opened, or was lost too often of late.

        Checkpoint: always. Cancellation: others who wait for it get it nevertheless.
        """
        attempt = self._attempt
        if attempt is None or (attempt.session is not None and attempt.session.over.is_set()):
            attempt = self._new_attempt()
        await attempt.settled.wait()
        await trio.lowlevel.checkpoint()
        if attempt.error is not None:
            raise McpServerError(self.server.name, attempt.error.args[1]) from attempt.error
        assert attempt.session is not None
        return attempt.session

    def _new_attempt(self) -> _Attempt:
        now = trio.current_time()
        delay = self._restarts.delay(now)
        if self._is_closed:
            raise McpServerError(self.server.name, "its connection was closed")
        if delay is None:
            again, most = self._restarts.again_in(now), self._restarts.most
            raise McpServerError(
                self.server.name,
                f"it failed {most} times within {self._restarts.within:g} s, the last time because"
                f" {self._last_problem}; it is tried again in {again:.0f} s",
            )
        self._attempt = attempt = _Attempt()
        self._nursery.start_soon(self._live, attempt, delay, name=f"MCP server {self.server.name}")
        return attempt

    async def listing(self) -> tuple[Session, Listing, ServerPins]:
        """Return the session, its tools, and what was approved of them.

        The first listing is taken as approved where no file says otherwise.

        Raises:
          McpServerError, ToolError: as `session`; or if the file of pins cannot be used.
        """
        session = await self.session()
        listing = await session.current_listing()
        if self._pins is None:
            if self.server.pin is None:
                self._pins = ServerPins.of(listing)
            else:
                self._pins = await PinFile(self.server.pin).pins_of(self.server.name, listing)
            for problem in listing.problems:
                LOG.warning("a tool of MCP server %s is left out: %s", self.server.name, problem)
        return session, listing, self._pins

    async def perform(self, do: Callable[[Session], Awaitable[T]]) -> T:
        """Do something with the session; once more with a new one if the server had forgotten it.

        Raises:
          ToolError: with what went wrong.
        """
        session = await self.session()
        try:
            return await do(session)
        except SessionGoneError:
            return await do(await self.session())

    # -- the life of a session ------------------------------------------------------

    async def _live(self, attempt: _Attempt, delay: float) -> None:
        """Open a session, keep it open, and close it; what goes wrong is told to who wants it."""
        if delay:
            await trio.sleep(delay)
        problem = await self._lived(attempt, "auto")
        if problem and attempt.session is None and self.server.transport == "stdio" and _may_be_old(problem):
            # Some servers of before 2026 end, or say nothing, when they are asked what they speak.
            problem = await self._lived(attempt, "legacy") or problem
        if problem and not self._is_closed:
            self._last_problem = problem
            self._restarts.failed(trio.current_time())
            if self._attempt is attempt:
                self._attempt = None
            level = logging.WARNING if attempt.session is None else logging.INFO
            LOG.log(level, "MCP server %s: %s", self.server.name, problem)
        if not attempt.settled.is_set():
            attempt.error = McpServerError(self.server.name, problem or "its connection was closed")
            attempt.settled.set()

    async def _lived(self, attempt: _Attempt, mode: str) -> str:
        """Live through one session; return what ended it, empty if nothing but its close."""
        inbound = Inbound()
        scope = trio.CancelScope(deadline=trio.current_time() + self.connect_time)
        link: StdioLink | HttpLink | None = None
        session: Session | None = None
        problem = ""
        try:
            with scope:
                link = await self._link(inbound)
                session = Session(self.server, link, inbound)
                async with session.opened(mode):
                    scope.deadline = float("inf")
                    attempt.session = session
                    attempt.settled.set()
                    await session.over.wait()
        except Exception as error:  # also a group of them; a cancellation comes out
            problem = _told(error)
        finally:
            if session is not None:
                session.gone()
        if scope.cancelled_caught and attempt.session is None:
            problem = f"it did not answer within {self.connect_time:g} s (start_timeout allows more)"
        if link is not None:
            problem = _joined(problem, link.told())
            link.problem = link.problem or problem
        return "" if self._is_closed else problem or "it was closed"

    async def _link(self, inbound: Inbound) -> StdioLink | HttpLink:
        if self.server.transport == "stdio":
            return StdioLink(self.server, inbound, await Child.started(self.server))
        auth = self.auth
        if auth is None and self.server.auth is not None:
            auth = stored_auth(self.server)
        return HttpLink(self.server, inbound, self.tier, auth)

    def close(self) -> None:
        """Have the session closed, and no other opened."""
        self._is_closed = True
        attempt = self._attempt
        if attempt is not None and attempt.session is not None:
            attempt.session.over.set()
        else:
            self._nursery.cancel_scope.cancel("the connection is closed")
        self._nursery.cancel_scope.deadline = trio.current_time() + CLOSE_TIME


def _joined(problem: str, own: str) -> str:
    """Return what went wrong, and what the link says of it if that is more."""
    if not own or own in problem:
        return problem
    return f"{problem} ({own})" if problem else own


def _may_be_old(problem: str) -> bool:
    return "ended" in problem or "closed" in problem or "did not answer" in problem


def _told(error: Exception) -> str:
    """Return what went wrong at the bottom of nested groups."""
    said = []
    for leaf in leaves([error]):
        if isinstance(leaf, McpServerError):
            said.append(leaf.args[1])
        else:
            said.append(f"{type(leaf).__name__}: {leaf}".strip(": "))
    return "; ".join(dict.fromkeys(said))[:1000]


@asynccontextmanager
async def open_connection(
    server: McpServer, tier: PrivacyTier = PrivacyTier.STANDARD, auth: httpx2.Auth | None = None
) -> AsyncIterator[Connection]:
    """Open the way to a server, which is closed with the block; the server is started when it is needed."""
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            # Who is given something that may ask a person to log in waits for that person.
            seconds = server.start_timeout if auth is None else LOGIN_TIME + server.start_timeout
            connection = Connection(server, nursery, tier, auth, seconds)
            try:
                yield connection
            except BaseException as error:
                raised = error
                raise
            finally:
                connection.close()
    except BaseExceptionGroup as group:
        # What the block raised comes out as it is, and not in the group of a nursery that nobody sees.
        if raised is None or group.exceptions != (raised,):
            raise
    try:
        if raised is not None:
            raise raised
    finally:
        del raised  # its traceback holds this frame
