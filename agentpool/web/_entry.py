"""Who may see the live page: links that are good once, and the browsers that came by one.

A link stands in histories, in the scrollback of terminals and in logs. So it lets one browser in, and is
worth nothing afterwards. A browser that has been let in has a cookie. Whoever comes without one is told
where to get a link, and the terminal gets a new one, so that nobody locks anybody out.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

import attrs

from agentpool._serving.names import is_same

MOST_SESSIONS = 100
"""So many browsers may have been let in; the one that came first has to come by a link again."""
SECONDS_BETWEEN_LINKS = 10.0
"""A link is told again no sooner than that, lest whoever knocks fills the terminal."""


@attrs.define(eq=False)
class Entry:
    """Lets browsers in.

    Attributes:
      address: of the page, without a path.
      port: which it is served on; part of the cookie's name, since cookies are shared between ports.
      tell: is given a link for a person, when somebody knocks who has none that is good.
    """

    address: str
    port: int
    tell: Callable[[str], object]
    _token: str | None = None
    _told_at: float = float("-inf")
    _sessions: OrderedDict[str, None] = attrs.field(factory=OrderedDict)

    @property
    def cookie(self) -> str:
        """The name of the cookie."""
        return f"agentpool-{self.port}"

    def link(self) -> str:
        """Return the link that is good now; whoever asks tells it to a person."""
        if self._token is None:
            self._token = secrets.token_urlsafe(32)
        self._told_at = time.monotonic()
        return f"{self.address}/?token={self._token}"

    def let_in(self, token: str) -> str | None:
        """Return a new session for the token of a link, which is used up; None if it is not good."""
        if self._token is None or not is_same(token, self._token):
            return None
        self._token = None
        self._told_at = float("-inf")
        session = secrets.token_urlsafe(32)
        self._sessions[session] = None
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def session_in(self, cookies: Iterable[str]) -> str | None:
        """Return the session of a browser; None if it has none.

        Args:
          cookies: its `Cookie` headers. Servers on other ports of this machine may have set one of our
            name as well: any that is good will do.
        """
        for header in cookies:
            for pair in header.split(";"):
                name, _, value = pair.strip().partition("=")
                if name == self.cookie:
                    for session in self._sessions:
                        if is_same(value, session):
                            return session
        return None

    def knock(self) -> None:
        """Tell a link that is good, since somebody came without one; not too often."""
        if time.monotonic() - self._told_at >= SECONDS_BETWEEN_LINKS:
            self.tell(self.link())
