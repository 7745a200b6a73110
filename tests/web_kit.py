"""Servers on this machine that answer with what a test wants, and names that lead to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from agentpool._core.capability import PrivacyTier
from agentpool._core.content import Document, Image
from agentpool._core.errors import AgentPoolError
from agentpool._core.messages import ToolCall, ToolResult
from agentpool.tools import ToolRegistry
from agentpool.tools._fetching import FetchLimits
from agentpool.tools._web import UrlFetcher

Answer = bytes | Callable[[trio.abc.Stream], Awaitable[None]]


def page(
    body: bytes | str, content_type: str = "text/plain", status: str = "200 OK", **headers: str
) -> bytes:
    """Return a whole answer. An empty content type is left out; `_` of a header's name is `-`."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}"]
    fields = {"Content-Type": content_type, "Content-Length": str(len(data)), **headers}
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return a redirect."""
    return page("moved", status=status, Location=location)


@attrs.define(eq=False)
class Site:
    """A server, by paths; `heads` are the requests that came."""

    port: int
    answers: dict[str, Answer]
    heads: list[str] = attrs.field(factory=list)
    closed: trio.Event = attrs.field(factory=trio.Event)

    def at(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def site(
    answers: Mapping[str, Answer], *, host: str = "127.0.0.1", context: Any = None
) -> AsyncIterator[Site]:
    """Run a server that gives each path its answer; one that is a function speaks for itself."""
    here = Site(0, dict(answers))

    async def handle(stream: trio.abc.Stream) -> None:
        try:
            data = b""
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some(65_536)
                if not more:
                    return
                data += more
            here.heads.append(data.decode("latin-1"))
            said = here.answers.get(
                here.heads[-1].split(" ")[1], page("nothing here", status="404 Not Found")
            )
            await (stream.send_all(said) if isinstance(said, bytes) else said(stream))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            here.closed.set()
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        if context is None:
            serve: Any = partial(trio.serve_tcp, handle, 0, host=host)
        else:
            serve = partial(trio.serve_ssl_over_tcp, handle, 0, context, host=host)
        listeners = await nursery.start(serve)
        listener = listeners[0] if context is None else listeners[0].transport_listener
        here.port = listener.socket.getsockname()[1]
        yield here
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Names:
    """A resolver: each name's addresses, call by call; the last ones stay."""

    known: dict[str, list[list[str]]]
    asked: list[str] = attrs.field(factory=list)

    @classmethod
    def of(cls, **known: str) -> Names:
        """Make one of names with one address each; `_` of a name is `.`."""
        return cls({name.replace("_", "."): [[address]] for name, address in known.items()})

    async def __call__(self, name: str, port: int) -> Iterable[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(name)
        if name not in self.known:
            raise OSError("Name or service not known")
        answers = self.known[name]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@attrs.define(eq=False)
class Web:
    """What a model has: `fetch_url`, with a grant."""

    allowed: Iterable[str] = ("127.0.0.1:*",)
    names: Names = attrs.field(factory=lambda: Names({}))
    privacy: PrivacyTier = PrivacyTier.STANDARD
    limits: FetchLimits = attrs.field(factory=lambda: FetchLimits(seconds=10))
    more: dict[str, Any] = attrs.field(factory=dict)

    async def result(self, url: str, **arguments: Any) -> ToolResult:
        """Call the tool as the loop does: an error of ours is what the model is told."""
        tool = UrlFetcher(
            self.allowed, self.privacy, resolve=self.names, limits=self.limits, **self.more
        ).fetch_url
        try:
            return await ToolRegistry([tool]).call(
                None,  # type: ignore[arg-type]  # the tool takes no context
                ToolCall("1", "fetch_url", {"url": url, **arguments}),
            )
        except AgentPoolError as error:
            return ToolResult(str(error), is_error=True)

    async def text(self, url: str, **arguments: Any) -> str:
        result = await self.result(url, **arguments)
        assert not result.is_error, result.content
        return result.text

    async def file(self, url: str) -> Image | Document:
        result = await self.result(url)
        assert not result.is_error, result.content
        (part,) = result.content
        assert isinstance(part, Image | Document)
        return part

    async def refusal(self, url: str, **arguments: Any) -> str:
        result = await self.result(url, **arguments)
        assert result.is_error, result.content
        return result.text
