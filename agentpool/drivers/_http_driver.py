"""What the drivers on the wire have in common: one way from a request to an answer."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Self

import attrs
import trio

from agentpool._blocking import run_blocking
from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import DriverError, MalformedReplyError
from agentpool._core.messages import Completion, CompletionRequest, StreamPart
from agentpool._core.transcript import request_tokens
from agentpool._core.usage import TokenUsage
from agentpool._logging import DRIVERS, printable, tell
from agentpool.abc import Driver
from agentpool.drivers._address import address_of
from agentpool.drivers._arguments import (
    check_kinds,
    check_timeout,
    check_whole,
    checked_headers,
    checked_table,
)
from agentpool.drivers._dialect import Dialect, RefusedInStreamError, StreamReader
from agentpool.drivers._encoding import encoded
from agentpool.drivers._fitting import Question
from agentpool.drivers._http import DEFAULT_TIMEOUT, Exchange, HttpClient
from agentpool.drivers._learning import NO_LESSONS, Lessons, is_own, learned, limit_of, names_in, shorten
from agentpool.drivers._reading import json_of, mapping_of
from agentpool.drivers._records import LineReader, Records, data_of, is_end
from agentpool.drivers._refusals import Refusal, error_of, is_page, refusal_of
from agentpool.drivers._secrets import Redaction, checked_key
from agentpool.drivers._sse import SseReader
from agentpool.drivers._windows import ASKING_SECONDS, SHORTEST_REQUEST, Source, room_in, root_of
from agentpool.drivers.prices import ModelPrice, PriceTable

if TYPE_CHECKING:
    import httpx2

_MOST_LESSONS = 8  # a request that is refused so often is wrong in another way
_NAMES_A_MODEL = re.compile(r"model|deployment")


class HttpDriver(Driver):
    """What the drivers for model servers have in common. They hold connections: see `aclose`."""

    provider: ClassVar[str]
    """The first part of the driver's name, also in the price table."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        api_key: str = "",
        timeout: float = DEFAULT_TIMEOUT,
        context_window: int | None = None,
        privacy: PrivacyTier | None = None,
        prices: PriceTable | None = None,
        client: httpx2.AsyncClient | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not model:
            raise ValueError(f"{type(self).__name__} needs the name of a model")
        check_timeout(timeout)
        if context_window is not None:
            check_whole("context_window", context_window)
        check_kinds(privacy, prices, client)
        if importlib.util.find_spec("httpx2") is None:
            raise ModuleNotFoundError(
                "model drivers need httpx2, which is not installed: pip install 'trio-agentpool[http]'"
                " (in a clone: pip install '.[http]')",
                name="httpx2",
            )
        self.model = model
        self.timeout = timeout
        self._client = client
        self._address = address_of(base_url, checked_table("query", query))
        self._key = checked_key(api_key, "api_key")
        self._own_headers = checked_headers(headers)
        self._redaction = Redaction.of(self._key, self._address.query, _secret_values(self._own_headers))
        self._options = checked_table("options", options)
        self.privacy: PrivacyTier = self._checked_privacy(privacy)
        self._prices = PriceTable.builtin() if prices is None else prices
        self._window = context_window
        self._windows: dict[str, int | None] = {}
        self._lessons: dict[str, Lessons] = {}
        self._http: HttpClient | None = None
        self._opening = trio.Lock()
        self._closed = False

    def __repr__(self) -> str:
        state = " (closed)" if self._closed else ""
        return f"<{type(self).__name__} {self.model} at {self._address}{state}>"

    @property
    def base_url(self) -> str:
        """Where the server is, without its query, which may hold a key."""
        return self._address.base

    @property
    def context_window(self) -> int | None:  # type: ignore[override]
        """Tokens of a request and its answer together: as given, by the price table, or as the server says.

        The server is asked before the first long request to a model; until then it is None.
        """
        return self._window_of(self.model)

    # -- what is known beforehand

    def _stays_here(self) -> bool:
        """Whether the words that the driver is given stay on this machine."""
        return self._address.is_loopback and self._client is None

    def _checked_privacy(self, declared: PrivacyTier | None) -> PrivacyTier:
        if self._stays_here():
            return declared or PrivacyTier.SOVEREIGN
        if declared is PrivacyTier.SOVEREIGN:
            why = (
                "a client of your own may lead anywhere" if self._address.is_loopback else "not this machine"
            )
            raise ValueError(f"{self._address}: {why}, so that privacy cannot be SOVEREIGN, only PRIVATE")
        return declared or PrivacyTier.STANDARD

    @property
    def pricing(self) -> Callable[[TokenUsage], float | None] | None:
        """What `estimate_cost` does, as something that can be pickled; None if the price is not known."""
        price = self._price(self.model)
        return None if price is None else price.cost

    def _price(self, model: str) -> ModelPrice | None:
        return self._prices.find(self.provider, model)

    def _known(self, model: str, attribute: str) -> Any:
        return getattr(self._price(model), attribute, None)

    def _window_of(self, model: str) -> int | None:
        own = self._window if model == self.model else None
        return own or self._known(model, "context_window") or self._windows.get(model)

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        """Return what one call with this usage costs in USD, by the price table; None if unknown."""
        return self._cost(self.model, usage)

    def estimate_cost_of(self, model: str, usage: TokenUsage) -> float | None:
        """As `estimate_cost`, for a request that names another model."""
        return self._cost(model, usage)

    def _cost(self, model: str, usage: TokenUsage) -> float | None:
        price = self._price(model)
        return None if price is None else price.cost(usage)

    def _priced(self, completion: Completion, model: str) -> Completion:
        """Fill in the price of an answer: by the table, else what the server says that it took."""
        cost = self._cost(model, completion.usage)
        if cost is None or cost == completion.usage.cost_usd:
            return completion
        return attrs.evolve(completion, usage=attrs.evolve(completion.usage, cost_usd=cost))

    # -- the lifetime

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Calls that come later raise `trio.ClosedResourceError`.

        A client of the user's own stays open.

        Checkpoint: always. Cancellation: the connections are closed nevertheless, within 2 seconds.
        """
        self._closed = True
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()
        await trio.lowlevel.checkpoint()

    async def _ready(self) -> HttpClient:
        """Return the connections, which are made on first use: importing httpx2 takes 0.1 s."""
        if self._http is None:
            async with self._opening:
                if self._closed:
                    raise trio.ClosedResourceError(f"{self!r} was closed")
                if self._http is None:
                    httpx = await run_blocking(import_module, "httpx2")
                    self._http = HttpClient.opened(
                        httpx, self._address, self._client, self.timeout, self._redaction
                    )
        return self._http

    # -- what a driver says of its servers

    @abstractmethod
    def _dialect(self, request: CompletionRequest) -> Dialect:
        """Return the dialect in which a request is made."""

    @abstractmethod
    def _credentials(self) -> Mapping[str, str]:
        """Return the headers that carry the key; called for each request, so that no frame keeps them."""

    def _streams_underneath(self) -> bool:
        """Whether `complete` asks for a stream, so that a server on this machine notices a cancellation."""
        return self._address.is_loopback

    # -- calls

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the model, and return its whole answer, as `Driver.complete`.

        Checkpoint: always. Cancellation: returns at once, and closes the connection.
        """
        async with _Call(self, request, streaming=self._streams_underneath()) as call:
            return await call.completion()

    def stream(self, request: CompletionRequest) -> AbstractAsyncContextManager[AsyncIterator[StreamPart]]:
        """Ask the model, and get its answer in pieces, as `Driver.stream`.

        What is refused from the start is raised on entering; a stream that breaks, while iterating.

        Raises:
          MalformedReplyError: also if the stream ends without its finish marker.

        Checkpoint: always. Cancellation: returns at once, and closes the connection.
        """
        return _Stream(_Call(self, request, streaming=True))

    def _question(self, request: CompletionRequest) -> Question:
        model = request.model or self.model
        own = names_in(self._placed(self._options)) | names_in(self._placed(request.options))
        return Question(request, model, self._lessons.get(model, NO_LESSONS), own)

    def _placed(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a user's options as they stand in a body; a dialect may keep some in tables of it."""
        return options

    def _body(self, dialect: Dialect, question: Question, *, streaming: bool) -> dict[str, Any]:
        body = question.lessons.applied(dialect.body(question, streaming=streaming), question.own)
        for options in (self._options, question.request.options):
            merge(body, _with_our_tools(body, self._placed(options)))
        return body

    def _learn(self, question: Question, refusal: Refusal, body: Mapping[str, Any], dialect: Dialect) -> bool:
        """Take in what a refusal teaches; return whether another attempt makes sense."""
        known = self._lessons.get(question.model, NO_LESSONS)
        if known != question.lessons:
            return True  # somebody else learned meanwhile
        droppable = frozenset(name for name in dialect.droppable if not is_own(name, question.own))
        more = learned(known, refusal, body, droppable)
        if more is None:
            return False
        self._lessons[question.model] = more
        text = "%s refused what it was asked (%s), and is asked in another way from now on"
        tell(DRIVERS, logging.INFO, text, question.model, printable(refusal.text))
        return True

    def _error_of(self, refusal: Refusal) -> DriverError:
        """Return the error that a refusal stands for, with a note on who said it, and how."""
        error = error_of(attrs.evolve(refusal, text=refusal.text + self._hint(refusal)))
        how = (
            "in the middle of its answer" if refusal.status is None else f"with HTTP status {refusal.status}"
        )
        error.add_note(f"{self._address} refused {how}")
        return error

    def _hint(self, refusal: Refusal) -> str:
        """Return what may be wrong with an address, where a server does not know it."""
        said = f"{refusal.code} {refusal.text}".lower()
        if refusal.status not in (404, 405) or _NAMES_A_MODEL.search(said):
            return ""
        return f" ({self._address} has no such API: is the address right{self._path_hint()}?)"

    def _path_hint(self) -> str:
        if self.provider != "openai" or self._address.base.endswith(("/v1", "/v1beta", "/openai")):
            return ""  # the other drivers add it
        return "; a part such as /v1 may be missing"

    def _headers(self, *, streaming: bool) -> dict[str, str]:
        accept = "text/event-stream, application/json" if streaming else "application/json"
        return {
            "accept": accept,
            "accept-encoding": "gzip, deflate",
            "content-type": "application/json",
            "user-agent": "agentpool",
            **self._credentials(),
            **self._own_headers,
        }

    async def _asked(self, path: str, content: bytes | None = None, *, at_root: bool = False) -> Any:
        """Return the JSON data at a path of the server, by a GET if there is nothing to send.

        Raises:
          DriverError: as a call.
        """
        http = await self._ready()
        if at_root:
            http = attrs.evolve(http, address=attrs.evolve(http.address, base=root_of(http.address.base)))
        with _Contained(self._redaction):
            async with http.exchange(path, self._headers(streaming=False), content) as exchange:
                if exchange.status >= 300:
                    raise self._error_of(await _refusal(exchange, self._redaction))
                return json_of((await exchange.read()).decode("utf-8", "replace"), "the answer")

    # -- how much a model can read

    def _window_sources(self, model: str) -> Sequence[Source]:
        """Return where the server may say how much a model can read, in the order of what is believed."""
        return ()

    async def _look_for_window(self, request: CompletionRequest) -> None:
        """Ask the server once how much a model can read, if a long request is about to be made.

        It is not asked what is known already, and silence of more than 2 seconds is no answer.

        Checkpoint: maybe. Cancellation: it is not asked again.
        """
        model = request.model or self.model
        if model in self._windows:
            return
        known = self._window_of(model)
        if known is None and request_tokens(request) < SHORTEST_REQUEST:
            return
        self._windows[model] = None
        if known is not None:
            return
        with trio.move_on_after(ASKING_SECONDS):
            for source in self._window_sources(model):
                try:
                    data = mapping_of(await self._told_by(source))
                except DriverError:
                    return  # whoever refuses the first question is not asked the next
                self._windows[model] = source.read(data, model) or None
                if self._windows[model] is not None:
                    return

    async def _told_by(self, source: Source) -> Any:
        question = None if source.question is None else encoded(source.question)
        return await self._asked(source.path, question, at_root=source.at_root)


def _with_our_tools(body: Mapping[str, Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options in which tools, such as those that a provider runs itself, stand behind ours."""
    ours, theirs = body.get("tools"), options.get("tools")
    if not isinstance(ours, list) or not isinstance(theirs, list | tuple):
        return options
    return {**options, "tools": [*ours, *theirs]}


def merge(body: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Put options into a body; tables in both are merged, null takes a name out."""
    for name, value in options.items():
        if value is None:
            body.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(body.get(name), dict):
            merge(body[name], value)
        else:
            body[name] = value


_OPEN_HEADERS = ("content-type", "accept", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta")


def _secret_values(headers: Mapping[str, str]) -> Iterator[str]:
    """Give the values of headers that may be credentials; of `Bearer KEY` also the key alone."""
    for name, value in headers.items():
        if name not in _OPEN_HEADERS and len(value) >= 12:
            yield value
            yield value.rpartition(" ")[2]


# -- one call ----------------------------------------------------------------------------------


class _Contained:
    """Raises errors of our tree in the place of others, and lets no secret out with them.

    No `contextlib.contextmanager`, which gives an exception its old traceback back: the frames that
    read an answer hold that answer, with whatever the server put into it.
    """

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DriverError):
            error.args = tuple(
                self._redaction.text(arg) if isinstance(arg, str) else arg for arg in error.args
            )
            error.__traceback__ = None
            raise error


class _Call:
    """One call of a driver, for an `async with` block: asks, learns what is refused, and reads."""

    def __init__(self, driver: HttpDriver, request: CompletionRequest, *, streaming: bool) -> None:
        self._driver = driver
        self._request = request
        self._streaming = streaming
        self._dialect = driver._dialect(request)
        self._contained = _Contained(driver._redaction)
        self._question = driver._question(request)
        self._exchange: Exchange | None = None
        self._longest: int | None = None

    async def __aenter__(self) -> _Call:
        http = await self._driver._ready()
        await self._driver._look_for_window(self._request)
        with self._contained:
            for attempt in range(_MOST_LESSONS + 1):
                refusal = await self._ask(http, is_last=attempt == _MOST_LESSONS)
                if refusal is None:
                    break
        return self

    async def _ask(self, http: HttpClient, *, is_last: bool) -> Refusal | None:
        """Make the request; return None if it is being answered, or what taught something new."""
        driver, dialect = self._driver, self._dialect
        question = self._question = driver._question(self._request)
        body = driver._body(dialect, question, streaming=self._streaming)
        if self._longest is not None:
            shorten(body, self._longest)
        path = dialect.path(question, streaming=self._streaming)
        exchange = http.exchange(path, driver._headers(streaming=self._streaming), encoded(body))
        await exchange.__aenter__()
        if exchange.status < 300:
            self._exchange = exchange
            return None
        refusal = await _refusal(exchange, driver._redaction)
        if is_last or not (self._fits(refusal, body) or driver._learn(question, refusal, body, dialect)):
            raise driver._error_of(refusal)
        return refusal

    def _fits(self, refusal: Refusal, body: Mapping[str, Any]) -> bool:
        """Return whether a shorter answer fits the model's window, and make it that one for this call.

        With less room than a quarter of what was asked for, it is the request that is too long.
        """
        room, asked = room_in(refusal.text), limit_of(body, self._question.own)
        if room is None or asked is None:
            return False
        self._driver._windows[self._question.model] = room.window
        left = room.window - room.given
        if not min(asked, room.window) // 4 <= left < asked:
            return False
        self._longest = left
        return True

    async def __aexit__(self, *details: object) -> None:
        if self._exchange is not None:
            await self._exchange.__aexit__(*details)

    async def completion(self) -> Completion:
        """Read the whole answer."""
        with self._contained:
            if not self.is_stream:
                return self._finished(await self._whole())
            reader = self._dialect.reader(self._question)
            records = self.records(reader)
            while not records.ended:
                await records.more()
            return self.finished(reader)

    @property
    def _opened(self) -> Exchange:
        assert self._exchange is not None
        return self._exchange

    @property
    def is_stream(self) -> bool:
        """Whether the server streams its answer; one that was asked to need not."""
        kind = self._opened.headers.get("content-type", "").lower()
        return "event-stream" in kind or (self._dialect.framing == "lines" and "ndjson" in kind)

    async def _whole(self) -> Completion:
        text = (await self._opened.read()).decode("utf-8", "replace").removeprefix("\ufeff")
        if is_page(text):
            raise _page(text, self._driver)
        if text.lstrip().startswith(("data:", "event:", ":", "id:", "retry:")):
            return self._of_text(text, SseReader() if self._dialect.framing == "sse" else LineReader())
        if _is_lines(text):
            return self._of_text(text, LineReader())
        data = json_of(text, "the answer")
        if _is_error_list(data):
            data = {"error": data[0]["error"]}
        elif isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
            return self._of_text("".join(json.dumps(item) + "\n" for item in data), LineReader())
        if not isinstance(data, dict):
            raise MalformedReplyError(f"the answer is no object: {text[:200]!r}")
        try:
            return self._dialect.completion(data, self._question)
        except RefusedInStreamError as refused:
            body = refused.body
        raise self.refused_within(body)

    def _of_text(self, text: str, split: SseReader | LineReader) -> Completion:
        """Read a stream that came as a whole, in the name of another type."""
        reader = self._dialect.reader(self._question)
        for event in [*split.feed(text.encode()), *split.close()]:
            if is_end(event):
                break
            data = data_of(event)
            if data is None:
                continue
            try:
                reader.feed(data, event.name)
            except RefusedInStreamError as refused:
                body = refused.body
            else:
                continue
            raise self.refused_within(body)
        return self._completed(reader)

    def records(self, reader: StreamReader) -> Records:
        """Return the records of the answer, for a reader."""
        return Records(self._opened, reader, self._dialect.framing, self.refused_within)

    def refused_within(self, body: object) -> DriverError:
        """Return the error for what a server says within an answer; a part of one may have to be paid."""
        return self._driver._error_of(refusal_of(body, None, self._opened.headers, begun=True))

    def finished(self, reader: StreamReader) -> Completion:
        """Return the answer that a reader has read, with its price."""
        return self._finished(self._completed(reader))

    def _completed(self, reader: StreamReader) -> Completion:
        try:
            return reader.completion()
        except RefusedInStreamError as refused:
            body = refused.body
        raise self.refused_within(body)

    def _finished(self, completion: Completion) -> Completion:
        return self._driver._priced(completion, self._question.model)


def _is_lines(text: str) -> bool:
    """Whether a text is more than one line of JSON, each of them whole."""
    first, newline, rest = text.lstrip().partition("\n")
    if not newline or not rest.strip():
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _is_error_list(data: object) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and "error" in data[0]


def _page(text: str, driver: HttpDriver) -> MalformedReplyError:
    told, where = refusal_of(text, None).text, driver._address
    hint = driver._path_hint()
    return MalformedReplyError(
        f"{where} answered with {told}, not as a model does: is the address right{hint}?"
    )


async def _refusal(exchange: Exchange, redaction: Redaction) -> Refusal:
    """Read a refusal, and leave the exchange."""
    try:
        raw = await exchange.read_refusal()
    finally:
        await exchange.__aexit__(None, None, None)
    status = exchange.status
    if 300 <= status < 400:
        where = exchange.headers.get("location", "elsewhere")
        text = f"the server sends us on to {where}: use that address, if you trust it"
        return Refusal(status, redaction.text(text))
    text = redaction.text(raw.decode("utf-8", "replace"))
    try:
        body: object = json.loads(text)
    except (ValueError, RecursionError):
        body = text
    return refusal_of(body, status, exchange.headers)


class _Stream:
    """The block that `HttpDriver.stream` gives, and the iterator over its parts."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._reader: StreamReader | None = None
        self._records: Records | None = None
        self._ready: deque[StreamPart] = deque()
        self._is_over = False

    async def __aenter__(self) -> _Stream:
        await self._call.__aenter__()
        if self._call.is_stream:
            self._reader = self._call._dialect.reader(self._call._question)
            self._records = self._call.records(self._reader)
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._call.__aexit__(*details)

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> StreamPart:
        while not self._ready:
            if self._is_over:
                raise StopAsyncIteration
            with self._call._contained:
                await self._read_on()
        return self._ready.popleft()

    async def _read_on(self) -> None:
        if self._records is None or self._reader is None:
            self._is_over = True
            completion = self._call._finished(await self._call._whole())
            self._ready.extend(deltas_of(completion))
            self._ready.append(completion)
            return
        self._ready.extend(await self._records.more())
        if self._records.ended:
            self._is_over = True
            self._ready.append(self._call.finished(self._reader))


def deltas_of(completion: Completion) -> Iterator[StreamPart]:
    """Give the deltas of an answer that came at once."""
    from agentpool._core.messages import ReasoningDelta, TextDelta

    if completion.reasoning:
        yield ReasoningDelta(completion.reasoning)
    if completion.text:
        yield TextDelta(completion.text)
