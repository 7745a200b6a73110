"""What the model drivers share: their lifetime, their errors, and reading what comes over the wire."""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import sys
import time
import uuid
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any, ClassVar, Self
from urllib.parse import SplitResult, urlsplit

import attrs
import trio

from agentpool._blocking import run_blocking
from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import (
    ContentRefusedError,
    ContextTooLongError,
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)
from agentpool._core.messages import (
    Completion,
    CompletionRequest,
    StopReason,
    StreamPart,
    TextDelta,
    ToolCall,
)
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver
from agentpool.drivers.prices import ModelPrice, PriceTable

DEFAULT_TIMEOUT = 600.0
"""Seconds of silence after which a call is given up; what the SDKs of the big providers take."""

CONNECT_TIMEOUT = 5.0
"""Seconds that opening a connection may take, as in the SDKs."""

LOOPBACK_OPTIONS: Mapping[str, bool] = {"trust_env": False, "follow_redirects": False}
"""Options for the HTTP client of what has to stay on this machine: a proxy that the environment
names, or a redirect, could lead away from a loopback address."""

_CLOSE_GRACE = 2.0  # seconds that closing connections may take when the caller is being cancelled


# -- secrets -------------------------------------------------------------------


_SHORTEST_KEY = 6  # what is shorter is no key, and would take ordinary words out of texts


class Secret:
    """A key that shows itself to nobody who only looks at it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the key itself, to be handed straight to an SDK."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('...')"

    def redact(self, value: Any) -> Any:
        """Return `value` with the key taken out of its texts, also inside of dicts, lists and tuples."""
        if len(self._value) < _SHORTEST_KEY:
            return value
        if isinstance(value, str):
            return value.replace(self._value, "[redacted]")
        if isinstance(value, bytes):
            return value.replace(self._value.encode(), b"[redacted]")
        if isinstance(value, dict):
            return {self.redact(key): self.redact(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.redact(item) for item in value)
        return value

    def scrub(self, error: BaseException, *, up_to: BaseException | None = None) -> None:
        """Take the key out of an exception, and of those that it came from, in place.

        Their tracebacks go as well, and requests and responses that they hold: the frames of an SDK
        hold the headers that it sent, and an exception that an outcome keeps would keep connections
        alive through them.

        Args:
          error: where to begin.
          up_to: the exception that was being handled before; it belongs to somebody else.
        """
        seen = {id(up_to)}
        rest: list[BaseException | None] = [error]
        while rest:
            found = rest.pop()
            if found is None or id(found) in seen:
                continue
            seen.add(id(found))
            found.args = self.redact(found.args)
            for name, value in list(getattr(found, "__dict__", {}).items()):
                with suppress(AttributeError, TypeError):  # read-only
                    setattr(found, name, None if _is_of_httpx(value) else self.redact(value))
            found.__traceback__ = None
            rest += [found.__cause__, found.__context__, *getattr(found, "exceptions", ())]


def _is_of_httpx(value: object) -> bool:
    return type(value).__module__.partition(".")[0].startswith("httpx")


def checked_key(key: str, where: str) -> Secret:
    """Return a key without the white space around it.

    Raises:
      ValueError: if it holds characters that no HTTP header can carry.
    """
    key = key.strip()
    for position, character in enumerate(key):
        if not "!" <= character <= "~":
            raise ValueError(
                f"{where} holds a character at position {position} that cannot be sent in a header:"
                " copy the key once more, without line breaks or quotes"
            )
    return Secret(key)


# -- addresses -------------------------------------------------------------------


def checked_url(url: str) -> str:
    """Return the address of a server as it was given, without a slash at its end.

    Raises:
      ValueError: if it is no address of an HTTP server, or carries a password.
    """
    if "@" in url.partition("://")[2].partition("/")[0]:  # looked at first, so that it is not shown
        raise ValueError("the server's address carries a user name or password: hand a key over as api_key")
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the address of a server: write http://HOST:PORT/PATH, or https://")
    return url.rstrip("/")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # is checked only when it is read
    except ValueError:
        return None
    return parts


def is_loopback(url: str) -> bool:
    """Return whether an address can only mean this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# -- errors ------------------------------------------------------------------------


@attrs.frozen
class Refusal:
    """What a provider said when it did not answer.

    Attributes:
      status: the HTTP status; None if the refusal came inside of a stream, or there was no answer.
      text: the provider's words.
      code: its own name for what is wrong, such as `context_length_exceeded`, or several of them.
      retry_after: seconds to wait, if it said so.
    """

    status: int | None
    text: str
    code: str = ""
    retry_after: float | None = None


def words_of(body: object, otherwise: str) -> tuple[str, str]:
    """Return the provider's words, and its names for what is wrong, from the body of an error.

    It is `{"error": {"message": ..., "type": ..., "code": ...}}`, the inner part of that, or
    whatever else a compatible server thinks of.
    """
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, str) and inner:
        return inner[:2000], ""
    if not isinstance(inner, dict):
        return otherwise, ""
    code = " ".join(str(inner[name]) for name in ("code", "type") if inner.get(name))
    return str(inner.get("message") or otherwise), code


_TOO_LONG = (
    "context_length_exceeded",
    "context length",
    "context window",
    "context limit",
    "maximum context",
    "prompt is too long",
    "input is too long",
    "too many tokens",
    "exceed_context_size",
    "exceeds the available context",
)
_REFUSED = ("content_filter", "content_policy", "content policy", "invalid_prompt", "moderation")
_NO_CREDIT = ("insufficient_quota", "billing_error", "credit balance", "exceeded your current quota")


def error_of(refusal: Refusal) -> DriverError:
    """Return the error of our tree that a provider's refusal stands for."""
    said = f"{refusal.code} {refusal.text}".lower()
    status = refusal.status
    if status in (400, 413, 422, None) or status < 400:
        if any(words in said for words in _TOO_LONG) or status == 413:
            return ContextTooLongError(refusal.text)
        if any(words in said for words in _REFUSED):
            return ContentRefusedError(refusal.text)
    if any(words in said for words in _NO_CREDIT):
        return RequestRejectedError(refusal.text)  # a 429 that no waiting ends
    if status is None or status < 300:
        return _error_in_stream(refusal)
    if status == 429:
        return RateLimitedError(refusal.text, retry_after=refusal.retry_after)
    if status in (503, 529):
        return OverloadedError(refusal.text, retry_after=refusal.retry_after)
    if status >= 500 or status in (408, 409, 425):
        return DriverUnavailableError(refusal.text)
    return RequestRejectedError(refusal.text)


def _error_in_stream(refusal: Refusal) -> DriverError:
    """Judge by the provider's own name for the error: the status of a stream was 200 long ago."""
    code = refusal.code.lower()
    if "rate_limit" in code:
        return RateLimitedError(refusal.text, retry_after=refusal.retry_after)
    if "overloaded" in code or "slow_down" in code:
        return OverloadedError(refusal.text, retry_after=refusal.retry_after)
    if "invalid" in code or "authentication" in code or "permission" in code or "not_found" in code:
        return RequestRejectedError(refusal.text)
    return DriverUnavailableError(refusal.text)


def retry_after_seconds(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return how long a provider asks us to wait, or None if it does not say.

    Args:
      headers: of its answer; names in lower case.
      now: seconds since 1970, for a wait that is given as a date; left out, the clock is read.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, moment - (time.time() if now is None else now))


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None  # `nan` is neither


def is_from_http(error: BaseException, *names: str) -> bool:
    """Return whether an exception is one of httpx, of its name or derived from it.

    SDKs let some of them through. They are told by name, because an SDK's httpx may be any of
    several generations, and importing one just to ask would load it for nothing.
    """
    return any(
        base.__module__.partition(".")[0].startswith("httpx") and (base.__name__ in names)
        for base in type(error).__mro__
    )


# -- reading -------------------------------------------------------------------------


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever goes wrong while an answer is taken apart into `MalformedReplyError`.

    SDKs hand out what came over the wire without checking it against their types, so that an
    attribute may be missing, None, or of another type wherever one looks.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise MalformedReplyError(f"{what} cannot be read: {type(error).__name__}: {error}") from error


def parse_arguments(name: str, text: str) -> Mapping[str, Any]:
    """Read the arguments of a tool call; no text at all means none.

    Raises:
      MalformedReplyError: if they are no JSON object.
    """
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise MalformedReplyError(f"the arguments for the tool {name} are not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedReplyError(
            f"the arguments for the tool {name} are {type(value).__name__}, not an object"
        )
    return value


def new_call_id() -> str:
    """Return an id for a tool call whose provider gave it none."""
    return f"call_{uuid.uuid4().hex[:20]}"


@attrs.define(eq=False)
class _Fragments:
    id: str
    name: str
    arguments: str = ""


@attrs.define(eq=False)
class CallAssembler:
    """Puts tool calls together from the fragments of a stream."""

    _calls: list[_Fragments] = attrs.field(factory=list, init=False)
    _at: dict[int, _Fragments] = attrs.field(factory=dict, init=False)

    def add(self, index: int, *, id: str = "", name: str = "", arguments: str = "") -> None:
        """Take the next fragment of the call at `index`.

        A fragment with an id of its own begins a call, also at an index that was used before: some
        servers number every call 0.
        """
        call = self._at.get(index)
        if call is None or (id and call.id and id != call.id):
            call = self._at[index] = _Fragments(id, name)
            self._calls.append(call)
        else:
            call.id = call.id or id
            call.name = call.name or name
        call.arguments += arguments

    def calls(self, *, truncated: bool) -> tuple[ToolCall, ...]:
        """Return the calls in the order in which they began.

        Args:
          truncated: whether the answer stopped at its limit of tokens. A last call that was cut
            off by that is left out; anywhere else, arguments that cannot be read are an error.

        Raises:
          MalformedReplyError: if a call has no name, or arguments that are no JSON object.
        """
        whole: list[ToolCall] = []
        for position, call in enumerate(self._calls):
            try:
                if not call.name:
                    raise MalformedReplyError("a tool call without a name")
                arguments = parse_arguments(call.name, call.arguments)
            except MalformedReplyError:
                if truncated and position == len(self._calls) - 1:
                    break
                raise
            whole.append(ToolCall(call.id or new_call_id(), call.name, arguments))
        return tuple(whole)


class Events:
    """Iterates over a stream of an SDK without a generator in between, which nobody would close."""

    def __init__(self, stream: AsyncIterator[Any]) -> None:
        self._stream = stream

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Any:
        return await self._stream.__anext__()


async def abandon(stream: AsyncIterator[Any]) -> None:
    """Leave a stream of an SDK, wherever it stands, so that its connection is closed.

    The generators inside of it are unwound by a cancellation, as if the task that reads it were
    cancelled; an exhausted stream has nothing left to unwind. Merely dropping them would leave them
    to the garbage collector, which cannot await.

    Checkpoint: maybe. Cancellation: shielded; nothing in here waits.
    """
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        with suppress(Exception):  # nobody is interested any more in why the rest cannot be read
            async for _ in stream:  # what is buffered, until it would wait for the network
                pass


# -- the driver -----------------------------------------------------------------------


class ModelDriver(Driver):
    """What the drivers for model providers have in common. They hold connections: see `aclose`."""

    provider: ClassVar[str]
    """The first part of the driver's name, also in the price table."""
    package: ClassVar[str]
    """The SDK's module, which has the same name as the extra that installs it."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        key: Secret,
        timeout: float,
        context_window: int | None,
        privacy: PrivacyTier | None,
        prices: PriceTable | None,
    ) -> None:
        if not model:
            raise ValueError(f"{type(self).__name__} needs the name of a model")
        if not timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r}")
        if importlib.util.find_spec(self.package) is None:
            raise ModuleNotFoundError(
                f"the {self.provider} driver needs a package that is not installed:"
                f" pip install 'trio-agentpool[{self.package}]'"
                f" (in a clone: pip install '.[{self.package}]')",
                name=self.package,
            )
        self.model = model
        self.base_url: str = checked_url(base_url)
        self.timeout = timeout
        self.privacy: PrivacyTier = self._checked_privacy(privacy)
        self._key = key
        self._prices = PriceTable.builtin() if prices is None else prices
        self.context_window: int | None = context_window or self._known(model, "context_window")
        self._no_temperature: set[str] = set()  # models that turned out not to take one
        self._sdk: Any = None
        self._client: Any = None
        self._opening = trio.Lock()
        self._closed = False

    def __repr__(self) -> str:
        state = " (closed)" if self._closed else ""
        return f"<{type(self).__name__} {self.model} at {self.base_url}{state}>"

    # -- what is known beforehand

    def _stays_here(self) -> bool:
        """Whether the words that the driver is given stay on this machine."""
        return is_loopback(self.base_url)

    def _checked_privacy(self, declared: PrivacyTier | None) -> PrivacyTier:
        if self._stays_here():
            return declared or PrivacyTier.SOVEREIGN
        if declared is PrivacyTier.SOVEREIGN:
            raise ValueError(
                f"{self.base_url} is not this machine: privacy cannot be SOVEREIGN, only PRIVATE"
            )
        return declared or PrivacyTier.STANDARD

    def _price(self, model: str) -> ModelPrice | None:
        return self._prices.find(self.provider, model)

    def _known(self, model: str, attribute: str) -> Any:
        return getattr(self._price(model), attribute, None)

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        """Return what one call with this usage costs in USD, by the price table; None if unknown."""
        return self._cost(self.model, usage)

    def _cost(self, model: str, usage: TokenUsage) -> float | None:
        price = self._price(model)
        return None if price is None else price.cost(usage)

    def _priced(self, model: str, usage: TokenUsage) -> TokenUsage:
        return attrs.evolve(usage, cost_usd=self._cost(model, usage) or 0.0)

    def _takes_temperature(self, model: str) -> bool:
        return model not in self._no_temperature and self._known(model, "temperature") is not False

    # -- the lifetime

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Calls that come later raise `trio.ClosedResourceError`.

        Checkpoint: always. Cancellation: the connections are closed nevertheless, within 2 seconds.
        """
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            with trio.move_on_after(_CLOSE_GRACE, shield=True):
                await client.close()
        await trio.lowlevel.checkpoint()

    @abstractmethod
    def _make_client(self, sdk: Any) -> Any:
        """Make the SDK's asynchronous client, with no retries of its own."""

    async def _ready(self) -> Any:
        """Return the client, which is made on first use: importing an SDK takes up to a second."""
        if self._client is None:
            async with self._opening:
                if self._closed:
                    raise trio.ClosedResourceError(f"{self!r} was closed")
                if self._client is None:
                    self._sdk = await run_blocking(import_module, self.package)
                    self._client = self._make_client(self._sdk)
        return self._client

    # -- calls

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the model, and return its whole answer, as `Driver.complete`.

        Checkpoint: always. Cancellation: returns at once, and closes the connection.
        """
        client = await self._ready()
        with self._translated("the answer"):
            return await self._complete(client, request)

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Ask the model, and get its answer in pieces, as `Driver.stream`.

        What is refused from the start is raised on entering; a stream that breaks, while iterating.

        Raises:
          MalformedReplyError: also if the stream ends without its finish marker.

        Checkpoint: always. Cancellation: returns at once, and closes the connection.
        """
        client = await self._ready()
        with self._translated("the stream"):
            events = await self._open(client, request)
        parts = self._translated_parts(self._parts(events, request))
        try:
            yield parts
        finally:
            with trio.CancelScope(shield=True):  # closing the generators does not wait
                await parts.aclose()
            await abandon(events)

    async def _translated_parts(
        self, parts: AsyncGenerator[StreamPart, None]
    ) -> AsyncGenerator[StreamPart, None]:
        try:
            with self._translated("the stream", begun=True):
                async for part in parts:
                    yield part
        finally:
            await parts.aclose()

    @abstractmethod
    async def _complete(self, client: Any, request: CompletionRequest) -> Completion:
        """Make the call and read its answer. May raise what the SDK raises."""

    @abstractmethod
    async def _open(self, client: Any, request: CompletionRequest) -> AsyncIterator[Any]:
        """Open the stream of the SDK's events. May raise what the SDK raises."""

    @abstractmethod
    def _parts(
        self, events: AsyncIterator[Any], request: CompletionRequest
    ) -> AsyncGenerator[StreamPart, None]:
        """Read a stream; raises `MalformedReplyError` if it ends without its finish marker."""

    @abstractmethod
    def _refusal(self, error: Exception) -> Refusal | None:
        """Return what the provider said, if an exception of the SDK stands for that."""

    # -- errors

    def _translated(self, what: str, *, begun: bool = False) -> _Translated:
        """Raise errors of our tree, with the cause kept, in the place of those of an SDK.

        Args:
          what: what is being read, for the message.
          begun: whether the server has begun to answer.
        """
        return _Translated(self, what, begun)

    def _translate(self, error: Exception, what: str, begun: bool) -> DriverError:
        if isinstance(error, DriverError):
            return error
        refusal = self._refusal(error)
        if refusal is not None:
            return error_of(refusal)
        text = f"{self.model} at {self.base_url}: {_first_words(error)}"
        if _was_cut(error, begun):
            return MalformedReplyError(f"{what} was cut off: {text}")
        if self._is_unreachable(error):
            # Once the request was sent it may be answered, though nobody is there to hear it.
            return DriverUnavailableError(text, may_have_cost=begun or not _was_not_sent(error))
        unreadable = AttributeError | LookupError | TypeError | ValueError if begun else ValueError
        if isinstance(error, unreadable):
            return MalformedReplyError(f"{what} cannot be read: {text}")
        return RequestRejectedError(text)

    def _is_unreachable(self, error: Exception) -> bool:
        return isinstance(error, OSError) or is_from_http(error, "HTTPError", "StreamError")


@attrs.define(eq=False)
class _Translated:
    """The block of `ModelDriver._translated`.

    No `contextlib.contextmanager`, which gives an exception its old traceback back: the locals of
    the frames that read an answer hold that answer, with whatever the server put into it.
    """

    _driver: ModelDriver
    _what: str
    _begun: bool
    _handled: BaseException | None = attrs.field(factory=sys.exception, init=False)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, trio.ClosedResourceError):
            return
        driver = self._driver
        translated = driver._translate(error, self._what, self._begun)
        driver._key.scrub(error, up_to=self._handled)
        driver._key.scrub(translated, up_to=self._handled)
        if translated is error:
            raise translated
        raise translated from error


def _was_cut(error: Exception, begun: bool) -> bool:
    """Return whether the connection ended, or turned to rubbish, within an answer."""
    for found in (error, error.__cause__):  # an SDK may have wrapped it
        if found is None:
            continue
        if is_from_http(found, "DecodingError"):
            return True
        if begun and is_from_http(found, "NetworkError", "RemoteProtocolError"):
            return True
        if is_from_http(found, "RemoteProtocolError") and "complete message body" in str(found):
            return True
    return False


def _was_not_sent(error: Exception) -> bool:
    """Return whether not even a connection came about."""
    names = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError")
    causes = (error, error.__cause__)  # an SDK may have wrapped it
    return any(cause is not None and is_from_http(cause, *names) for cause in causes) or isinstance(
        error, ConnectionError
    )


def _first_words(error: Exception) -> str:
    """Return an SDK's error as one line, with the cause that it usually hides behind `Connection error.`"""
    text = f"{type(error).__name__}: {error}"
    if error.__cause__ is not None and str(error.__cause__):
        text += f" ({error.__cause__})"
    return " ".join(text.split())[:500]


class Answer:
    """Collects an answer from the pieces of a stream."""

    def __init__(self) -> None:
        self.calls = CallAssembler()
        self.usage = TokenUsage()
        self.stop: StopReason | None = None
        self._text: list[str] = []

    def say(self, text: str | None) -> Iterator[TextDelta]:
        """Take a piece of text, and give the delta that it makes, if it is not empty."""
        if text:
            self._text.append(text)
            yield TextDelta(text)

    def completion(self, usage: TokenUsage) -> Completion:
        """Return the whole answer.

        Raises:
          MalformedReplyError: if its finish marker did not come, or a tool call cannot be read.
        """
        if self.stop is None:
            raise MalformedReplyError("the stream ended without its finish marker")
        calls = self.calls.calls(truncated=self.stop == "max_tokens")
        return completion_of("".join(self._text), calls, self.stop, usage)


def completion_of(text: str, calls: tuple[ToolCall, ...], stop: StopReason, usage: TokenUsage) -> Completion:
    """Return a completion whose stop reason agrees with its content.

    Some servers say `stop` after tool calls, or `tool_calls` without any.
    """
    if stop in ("end_turn", "stop_sequence", "tool_use"):
        if calls:
            stop = "tool_use"
        elif stop == "tool_use":
            stop = "end_turn"
    return Completion(text=text, tool_calls=calls, stop_reason=stop, usage=usage)
