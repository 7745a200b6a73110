"""What the tests of the live page share: a page of a pool in this process, and browsers that look at it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import httpx2
import trio

from agentpool import AgentPool
from agentpool.web import serve_live_page

SECONDS = 30.0
"""Within so many real seconds whatever is waited for has happened."""


class NoRoomError(Exception):
    """Too many look already."""


@attrs.frozen
class Told:
    """A server-sent event."""

    kind: str
    id: str | None
    data: Any


@attrs.define(eq=False)
class Browser:
    """One browser: it has cookies, and comes back as one does.

    Attributes:
      address: of the page, without a path.
      seen: the id of the last event.
      rows: the agents as they were told.
      spans, arrows, notes: as they were told.
      latest: the latest of everything that the changes told.
      approvals: the questions that are open.
      exit: how the run ended; None until it was told.
      resets: how often all was told anew.
    """

    address: str
    client: httpx2.AsyncClient
    seen: str | None = None
    rows: dict[int, Mapping[str, Any]] = attrs.field(factory=dict)
    spans: list[Any] = attrs.field(factory=list)
    arrows: list[Any] = attrs.field(factory=list)
    notes: list[Any] = attrs.field(factory=list)
    latest: Mapping[str, Any] = attrs.field(factory=dict)
    approvals: list[Any] = attrs.field(factory=list)
    exit: str | None = None
    resets: int = 0
    pieces: int = 0

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.client.get(self.address + path, **options)

    async def post(self, path: str, data: Any = None, **headers: str) -> httpx2.Response:
        told = {"origin": self.address, **{key.replace("_", "-"): value for key, value in headers.items()}}
        return await self.client.post(self.address + path, json={} if data is None else data, headers=told)

    @asynccontextmanager
    async def events(self, path: str = "/events") -> AsyncIterator[AsyncIterator[Told]]:
        """The events from what was seen on, as a browser asks for them."""
        headers = {} if self.seen is None else {"last-event-id": self.seen}
        options: dict[str, Any] = {"headers": headers, "timeout": SECONDS}
        async with self.client.stream("GET", self.address + path, **options) as response:
            if response.status_code == 503:
                raise NoRoomError
            assert response.status_code == 200, (response.status_code, await response.aread())
            async with aclosing(told_in(response)) as told:
                yield told

    async def look(self, until: Any = None, path: str = "/events") -> None:
        """Look until something holds of this browser, or the end; comes back as often as it is cut off."""
        with trio.fail_after(SECONDS):
            while self.exit is None:
                async with self.events(path) as events:
                    async for told in events:
                        self.take(told)
                        if until is not None and until(self):
                            return
                        if self.exit is not None:
                            return

    def take(self, told: Told) -> None:
        if told.kind == "end":
            self.exit = told.data["exit"]
            return
        assert told.kind == "changes"
        data = told.data
        self.latest = {**self.latest, **data}
        self.approvals = data.get("approvals", self.approvals)
        self.pieces += 1
        if data.get("reset"):
            self.resets += 1
            self.rows.clear()
            for kept in (self.spans, self.arrows, self.notes):
                kept.clear()
        self.rows.update((row["id"], row) for row in data["agents"])
        for gone in data["gone"]:
            self.rows.pop(gone, None)
        self.spans += data["spans"]
        self.arrows += data["arrows"]
        self.notes += data["notes"]
        if told.id is not None:
            self.seen = told.id

    def named(self, name: str) -> Mapping[str, Any]:
        """The row of an agent; empty while there is none."""
        return next((row for row in self.rows.values() if row["name"] == name), {})


async def told_in(response: httpx2.Response) -> AsyncGenerator[Told, None]:
    """The server-sent events of an answer; also an end in the middle of one is its end."""
    lines: list[str] = []
    try:
        async for line in response.aiter_lines():
            if line:
                lines.append(line)
                continue
            told = _event_of(lines)
            lines.clear()
            if told is not None:
                yield told
    except httpx2.TransportError:
        pass


def events_in(data: bytes) -> Iterator[Told]:
    """The server-sent events that came whole."""
    *whole, _ = data.decode(errors="replace").split("\n\n")
    for text in whole:
        told = _event_of(text.split("\n"))
        if told is not None:
            yield told


def _event_of(lines: Sequence[str]) -> Told | None:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        assert name not in fields, "our events have one line for each field"
        fields[name] = value.removeprefix(" ")
    if "data" not in fields:
        return None
    data = json.loads(fields["data"], parse_constant=_no_constant)
    return Told(fields.get("event", "message"), fields.get("id"), data)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@attrs.define(eq=False)
class Page:
    """A page that is served.

    Attributes:
      link: the first one.
      links: those that were told afterwards.
    """

    link: str
    links: list[str]
    nursery: trio.Nursery

    @property
    def address(self) -> str:
        return self.link.partition("/?")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def token(self) -> str:
        found = re.search(r"token=([\w-]+)$", self.link)
        assert found is not None
        return found[1]

    @asynccontextmanager
    async def browser(self, link: str | None = None, *, comes_in: bool = True) -> AsyncIterator[Browser]:
        """A browser; it has come by the link, or by a new one if that has been used."""
        async with httpx2.AsyncClient(timeout=SECONDS) as client:
            browser = Browser(self.address, client)
            if comes_in:
                response = await client.get(link or self.link)
                if response.status_code == 403 and link is None:
                    response = await client.get(self.links[-1])
                assert response.status_code == 303, response.text
            yield browser


async def started_page(nursery: trio.Nursery, pool: AgentPool, **options: Any) -> Page:
    """The page of a pool, served until the nursery is cancelled."""
    links: list[str] = []
    serve = partial(serve_live_page, pool, on_link=links.append, **options)
    return Page(await nursery.start(serve), links, nursery)


@asynccontextmanager
async def page_of(pool: AgentPool, **options: Any) -> AsyncIterator[Page]:
    """The page of a pool; it ends with the block."""
    with trio.fail_after(2 * SECONDS):
        async with trio.open_nursery() as nursery:
            yield await started_page(nursery, pool, **options)
            nursery.cancel_scope.cancel()


def cookie_of(browser: Browser) -> str:
    """What a browser sends as `Cookie`."""
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.client.cookies.jar)
