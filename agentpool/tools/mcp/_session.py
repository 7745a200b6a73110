"""One session with a server: what it can do, and calls of it, each with a deadline and its questions."""

from __future__ import annotations

import contextvars
import importlib.metadata
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import attrs
import mcp_types as types
import trio
from mcp import MCPError
from mcp.client import Client, ClientSession
from mcp.client.session import ClientRequestContext
from pydantic import TypeAdapter, ValidationError

from agentpool._core.errors import McpServerError, ToolError
from agentpool._core.mcp import MOST_TOOLS, Listing, McpDefinition, listing_of
from agentpool._core.mcp_servers import McpServer
from agentpool.tools.mcp._inbound import LOG, Inbound, Progress

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

MOST_PAGES = 100
"""So many pages of a list are asked for."""

MOST_ROUNDS = 10
"""So often one call may ask for more input."""

LISTING_LASTS = 60.0
"""So many seconds a list of tools is believed of a server that does not tell of changes."""

LISTING_TIME = 30.0
"""So many seconds a list of tools may take."""

T = TypeVar("T")
Answer: TypeAlias = types.ElicitResult | types.ErrorData
Ask: TypeAlias = Callable[[types.ElicitRequestParams], Awaitable[types.ElicitResult]]
"""Puts a question of a server to a person."""

Send: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Sends a request, with what answers the questions that the server had about it."""

_CALLED: TypeAdapter[Any] = TypeAdapter(types.CallToolResult | types.InputRequiredResult)
_NOT_OFFERED = "agentpool offers servers no sampling and no roots"


class Link(Protocol):
    """What leads to a server."""

    @property
    def refusals(self) -> int:
        """How many requests of the session were refused before anybody looked into them."""
        ...

    def told(self) -> str:
        """Return why it is over; empty if that is not known."""
        ...

    def open(self) -> Any:
        """Open the streams of a session."""
        ...


@attrs.define(eq=False)
class Flight:
    """A call that is under way, and the questions that its server has about it.

    Attributes:
      questions: takes each with what its answer is put into.
    """

    questions: trio.MemorySendChannel[Question]


@attrs.define(eq=False)
class Question:
    """What a server asks about a call, and what was answered."""

    params: types.ElicitRequestParams
    answered: trio.Event = attrs.field(factory=trio.Event)
    answer: Answer = attrs.field(
        factory=lambda: types.ErrorData(code=types.INTERNAL_ERROR, message="The call has ended")
    )


_flight: contextvars.ContextVar[Flight] = contextvars.ContextVar("agentpool_mcp_flight")
_tokens = itertools.count(1)


@attrs.define(eq=False)
class Session:
    """An open session.

    Attributes:
      server: whose it is.
      client: the SDK's end of it.
      link: what leads to the server.
      inbound: what the server says.
      listing: its tools, as it described them last.
      flights: the calls that are under way, oldest first.
    """

    server: McpServer
    link: Link
    inbound: Inbound
    listing: Listing = attrs.field(factory=Listing)
    flights: dict[Flight, None] = attrs.field(factory=dict)
    _client: Client | None = None
    _seen_changes: int = 0
    _listed_at: float = 0.0
    _relisting: trio.Lock = attrs.field(factory=trio.Lock)
    _gone: trio.Event = attrs.field(factory=trio.Event)

    @property
    def over(self) -> trio.Event:
        """It has ended, or is to end."""
        return self.inbound.ended

    @property
    def client(self) -> ClientSession:
        """The SDK's end of it."""
        assert self._client is not None
        return self._client.session

    @property
    def version(self) -> str:
        """The revision of the protocol that both speak."""
        assert self._client is not None
        return self._client.protocol_version

    @property
    def capabilities(self) -> types.ServerCapabilities:
        """What the server says that it can do."""
        assert self._client is not None
        return self._client.server_capabilities

    @asynccontextmanager
    async def opened(self, mode: str) -> AsyncIterator[None]:
        """Open it and list its tools; it is closed with the block.

        Args:
          mode: `auto`, or `legacy` for servers that cannot be asked for what they speak.
        """
        client = Client(
            _Watched(self),
            mode=mode,
            cache=None,
            elicitation_callback=self._asked,
            client_info=types.Implementation(name="agentpool", version=_version()),
        )
        async with client:
            self._client = client
            await self._list_tools()
            yield

    # -- what it has --------------------------------------------------------------

    async def current_listing(self) -> Listing:
        """Return its tools, asked for again if the server told that they have changed.

        A server of the revision 2026-07-28 tells that only to who listens for it: it is asked anew when its
        list is older than `LISTING_LASTS`.

        Raises:
          ToolError: if they cannot be had.
        """
        if self._is_stale():
            async with self._relisting:
                if self._is_stale():
                    await self.within(LISTING_TIME, "list its tools", self._list_tools)
        return self.listing

    def _is_stale(self) -> bool:
        if self._seen_changes != self.inbound.changes:
            return True
        return self.version >= "2026-07-28" and trio.current_time() - self._listed_at > LISTING_LASTS

    async def _list_tools(self) -> None:
        changes, self._listed_at = self.inbound.changes, trio.current_time()
        if self.capabilities.tools is None:
            self.listing = Listing()
            return
        found = await self.pages(
            lambda params: self.client.list_tools(params=params), lambda page: page.tools, MOST_TOOLS + 1
        )
        self.listing = listing_of(map(_definition, found))
        self._seen_changes = changes

    async def pages(
        self,
        get: Callable[[types.PaginatedRequestParams | None], Awaitable[Any]],
        items: Callable[[Any], Sequence[T]],
        most: int,
    ) -> list[T]:
        """Return what is on all pages of a list, up to so many items.

        Raises:
          McpServerError: if there are too many pages.
        """
        found: list[T] = []
        cursor: str | None = None
        seen: set[str] = set()
        for _ in range(MOST_PAGES):
            page = await get(None if cursor is None else types.PaginatedRequestParams(cursor=cursor))
            found += items(page)
            cursor = page.next_cursor
            if not cursor or len(found) >= most:
                return found[:most]
            if cursor in seen:
                # Some servers have a cursor on the last page, too, which leads to that page again.
                LOG.warning("a list of MCP server %s leads to a page that was read already", self.server.name)
                return found
            seen.add(cursor)
        raise McpServerError(self.server.name, f"its list has more than {MOST_PAGES} pages")

    # -- calls --------------------------------------------------------------------

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        ask: Ask | None = None,
        progress: Progress | None = None,
    ) -> types.CallToolResult:
        """Call a tool, and put the questions of the server to `ask` meanwhile.

        Raises:
          ToolError: with what went wrong; whether the call had an effect is not known.
          McpServerError: if the server has ended.

        Checkpoint: always. Cancellation: the server is told.
        """
        token = f"agentpool-{next(_tokens)}"
        if progress is not None:
            self.inbound.listen(token, progress)

        async def send(more: Mapping[str, Any]) -> Any:
            params = types.CallToolRequestParams(
                name=name, arguments=dict(arguments), _meta={"progress_token": token}, **more
            )
            return await self.client.send_request(types.CallToolRequest(params=params), _CALLED)

        try:
            result: types.CallToolResult = await self.asking(f"call {name!r}", send, ask)
            return result
        finally:
            self.inbound.forget(token)

    async def asking(self, what: str, send: Send, ask: Ask | None) -> Any:
        """Perform a request, and have questions answered in this very task, which is one of an agent.

        Raises:
          ToolError, McpServerError: as `call`.
        """
        questions, asked = trio.open_memory_channel[Question](0)
        flight = Flight(questions)
        outcome: list[Any] = []
        limit = _Limit(self.server.timeout)

        async def perform() -> None:
            _flight.set(flight)
            with questions:
                outcome.append(await self._rounds(what, send, flight, limit))

        self.flights[flight] = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(perform)
                async for question in asked:
                    try:
                        with limit.paused():
                            question.answer = await _answer_to(question.params, ask)
                    finally:
                        question.answered.set()
        except ExceptionGroup as group:
            raise _first_of(group) from None
        finally:
            del self.flights[flight]
            asked.close()
        return outcome[0]

    async def _rounds(self, what: str, send: Send, flight: Flight, limit: _Limit) -> Any:
        """Send a request until its server wants no more input for it."""
        more: Mapping[str, Any] = {}
        for _ in range(MOST_ROUNDS + 1):
            answer: Any = None
            with limit:
                answer = await self._protected(what, partial(send, more))
            if limit.is_passed:
                seconds = self.server.timeout
                raise ToolError(f"{what}: no answer within {seconds:g} s. How far it came is not known")
            if not isinstance(answer, types.InputRequiredResult):
                return answer
            more = {"input_responses": None, "request_state": answer.request_state}
            if answer.input_requests:
                more["input_responses"] = {
                    key: await self._input(request, flight) for key, request in answer.input_requests.items()
                }
            else:
                await trio.sleep(0.1)
        raise ToolError(f"{what}: the server asked for input more than {MOST_ROUNDS} times")

    async def _input(self, request: types.InputRequest, flight: Flight) -> types.ElicitResult:
        if not isinstance(request, types.ElicitRequest):
            raise ToolError(f"the server asks for {request.method}: {_NOT_OFFERED}")
        question = Question(request.params)
        await flight.questions.send(question)
        await question.answered.wait()
        if isinstance(question.answer, types.ErrorData):
            raise ToolError(question.answer.message)
        return question.answer

    async def _asked(self, context: ClientRequestContext, params: types.ElicitRequestParams) -> Answer:
        """Have a question answered that came as a request of its own, as before the revision 2026-07-28.

        Over HTTP it comes with the answer to a call; over stdio nothing tells to which one it belongs: then
        the oldest call that is under way has it.
        """
        del context
        flight = _flight.get(None)
        if flight not in self.flights:
            flight = next(iter(self.flights), None)
        if flight is None:
            return types.ErrorData(code=types.INVALID_REQUEST, message="No call is under way")
        question = Question(params)
        try:
            await flight.questions.send(question)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return question.answer
        await question.answered.wait()
        return question.answer

    async def within(self, seconds: float, what: str, do: Callable[[], Awaitable[T]]) -> T:
        """Do something with the server, for so long at the most.

        Raises:
          ToolError: with what went wrong.
        """
        with trio.move_on_after(seconds):
            return await self._protected(what, do)
        raise ToolError(f"{what}: no answer within {seconds:g} s")

    async def _protected(self, what: str, do: Callable[[], Awaitable[T]]) -> T:
        """Do something, and tell what goes wrong in our words."""
        refusals = self.link.refusals
        try:
            return await do()
        except MCPError as error:
            # Servers use the code of the SDK for a closed connection, too.
            is_closed = error.code == types.CONNECTION_CLOSED and error.message == "Connection closed"
            if is_closed or self.over.is_set():
                raise await self._ended() from error
            if self.link.refusals > refusals and "session" in error.message.lower():
                # Refused as a request of HTTP, so that nothing was done.
                self.over.set()
                raise SessionGoneError(self.server.name, "it does not know the session any more") from error
            refused = self.link.told() if error.message == "Server returned an error response" else ""
            raise ToolError(f"{what}: {refused or error.message}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            told = f"the server's answer breaks the protocol: {where}: {first['msg']}"
            raise ToolError(f"{what}: {told}") from error
        except (RuntimeError, ValueError) as error:
            raise ToolError(f"{what}: {error}") from error

    async def _ended(self) -> McpServerError:
        """Return the error of a session that is over, when it is known how it ended."""
        self.over.set()
        with trio.move_on_after(1.0):
            await self._gone.wait()
        told = self.link.told() or "the connection was closed"
        return McpServerError(
            self.server.name, f"it has ended: {told}. Whether the call happened is not known"
        )

    def gone(self) -> None:
        """All of it has been closed."""
        self.over.set()
        self._gone.set()


class SessionGoneError(McpServerError):
    """A server does not know the session any more, so that nothing of the request was done."""


@attrs.define(eq=False)
class _Watched:
    """The streams of a link, as the SDK enters them."""

    session: Session
    _block: Any = None

    async def __aenter__(self) -> TransportStreams:
        self._block = self.session.link.open()
        streams: TransportStreams = await self._block.__aenter__()
        return streams

    async def __aexit__(self, *args: Any) -> bool | None:
        result: bool | None = await self._block.__aexit__(*args)
        return result


@attrs.define(eq=False)
class _Limit:
    """A time limit that does not run while a person is asked."""

    seconds: float
    is_passed: bool = False
    _scope: trio.CancelScope | None = None
    _left: float = 0.0
    _pauses: int = 0

    def __attrs_post_init__(self) -> None:
        self._left = self.seconds

    def __enter__(self) -> None:
        deadline = trio.current_time() + self._left
        self._scope = trio.CancelScope(deadline=deadline if not self._pauses else float("inf"))
        self._scope.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        scope, self._scope = self._scope, None
        assert scope is not None
        if not self._pauses:
            self._left = scope.deadline - trio.current_time()
        caught = scope.__exit__(kind, error, trace)
        self.is_passed = scope.cancelled_caught
        return bool(caught)

    def paused(self) -> _Pause:
        """Return a block in which it does not run."""
        return _Pause(self)


@attrs.define(eq=False)
class _Pause:
    limit: _Limit

    def __enter__(self) -> None:
        limit = self.limit
        limit._pauses += 1
        if limit._scope is not None:
            limit._left = limit._scope.deadline - trio.current_time()
            limit._scope.deadline = float("inf")

    def __exit__(self, *_: object) -> None:
        limit = self.limit
        limit._pauses -= 1
        if limit._scope is not None:
            limit._scope.deadline = trio.current_time() + limit._left


async def _answer_to(params: types.ElicitRequestParams, ask: Ask | None) -> Answer:
    if ask is None:
        await trio.lowlevel.checkpoint()
        return types.ElicitResult(action="decline")
    return await ask(params)


def _definition(each: types.Tool) -> McpDefinition:
    told = {} if each.annotations is None else each.annotations.model_dump(by_alias=True, exclude_none=True)
    title = f"{each.title}: " if each.title and each.description else each.title or ""
    return McpDefinition(each.name, f"{title}{each.description or ''}", each.input_schema, told)


def _first_of(group: ExceptionGroup[Exception]) -> Exception:
    """Return the error of a nursery of which one task can fail."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _version() -> str:
    try:
        return importlib.metadata.version("trio-agentpool")
    except importlib.metadata.PackageNotFoundError:
        return "0"
