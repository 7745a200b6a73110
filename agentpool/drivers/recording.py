"""A cassette: what a driver answered, kept in a file, and a driver that plays it back.

A cassette is a text file of JSON lines. The first tells the version, each further one holds a
request, what came of it (a completion or an error), and a key made of the request's content. So
the order in which agents ask does not matter; only equal requests are answered in the order in
which their answers were recorded.

Secrets are taken out before anything is written: the values of environment variables that are
named like secrets, and what looks like a key, a token or an authorization header. The key of a
request is made of what is left, so a cassette plays on machines with other secrets.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from agentpool._blocking import run_blocking
from agentpool._core.capability import PrivacyTier
from agentpool._core.content import text_of
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
    AssistantMessage,
    ChatMessage,
    Completion,
    CompletionRequest,
    StreamPart,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    UserMessage,
)
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver
from agentpool.drivers._around import DriverAround, open_stream

_VERSION = 1
_HEADER = json.dumps({"agentpool_cassette": _VERSION})
_REDACTED = "[redacted]"
_JSON = TypeVar("_JSON")

# -- secrets ------------------------------------------------------------------

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH(?!OR)", re.IGNORECASE)
_SHORTEST_SECRET = 8  # shorter values are words that texts need

_LOOKS_SECRET = re.compile(
    r"""
      (?<![A-Za-z0-9]) (?: sk | pk | rk ) [-_] [A-Za-z0-9_-]{8,}     # OpenAI, Anthropic, Stripe
    | \b gh[pousr]_ [A-Za-z0-9]{16,} | \b github_pat_ \w{16,}         # GitHub
    | \b xox[abeprs]- [A-Za-z0-9-]{8,}                                # Slack
    | \b A[KS]IA [A-Z0-9]{16} \b                                      # Amazon
    | \b AIza [A-Za-z0-9_-]{30,}                                      # Google
    | \b hf_ [A-Za-z0-9]{16,}                                         # Hugging Face
    | \b eyJ [A-Za-z0-9_-]{8,} \. [A-Za-z0-9_-]+ \. [A-Za-z0-9_-]+    # JSON web tokens
    | (?i: \b (?: bearer | basic ) \s+ ) [A-Za-z0-9._~+/=-]{8,}
    | (?i: \b (?: x-)? (?: api[-_]?key | authorization | access[-_]?token | client[-_]?secret | password )
        ["']? \s* [:=] \s* ["']? ) [^\s"',;]{4,}
    """,
    re.VERBOSE,
)


def secrets_of_environment() -> tuple[str, ...]:
    """Return the values of environment variables that are named like secrets, the longest first."""
    values = {
        value
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
    }
    return tuple(sorted(values, key=len, reverse=True))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without these secrets, and without what looks like one."""
    for secret in secrets:
        text = text.replace(secret, _REDACTED)
    return _LOOKS_SECRET.sub(_REDACTED, text)


def _redact_all(data: _JSON, secrets: Iterable[str]) -> _JSON:
    """Redact every string in a structure of dicts and lists, keys of dicts included."""
    result: Any = data
    if isinstance(data, str):
        result = redact(data, secrets)
    elif isinstance(data, Mapping):
        result = {redact(str(key), secrets): _redact_all(value, secrets) for key, value in data.items()}
    elif isinstance(data, (list, tuple)):
        result = [_redact_all(item, secrets) for item in data]
    clean: _JSON = result
    return clean


# -- values and JSON ------------------------------------------------------------


def request_to_data(request: CompletionRequest) -> dict[str, Any]:
    """Return a request as JSON data."""
    return {
        "model": request.model,
        "system": request.system,
        "messages": [_message_to_data(message) for message in request.messages],
        "tools": [_tool_to_data(tool) for tool in request.tools],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop),
    }


def completion_to_data(completion: Completion) -> dict[str, Any]:
    """Return a completion as JSON data."""
    return {
        "text": completion.text,
        "tool_calls": [_call_to_data(call) for call in completion.tool_calls],
        "stop_reason": completion.stop_reason,
        "usage": attrs.asdict(completion.usage),
    }


def completion_from_data(data: Mapping[str, Any]) -> Completion:
    """Return the completion that `completion_to_data` described.

    Raises:
      KeyError, TypeError: if it is not one.
    """
    return Completion(
        text=data["text"],
        tool_calls=tuple(ToolCall(**call) for call in data["tool_calls"]),
        stop_reason=data["stop_reason"],
        usage=TokenUsage(**data["usage"]),
    )


def _call_to_data(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "input": dict(call.input)}


def _tool_to_data(tool: ToolDefinition) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": dict(tool.input_schema),
    }


def _message_to_data(message: ChatMessage) -> dict[str, Any]:
    match message:
        case UserMessage():
            return {"role": "user", "content": text_of(message.content)}
        case AssistantMessage():
            calls = [_call_to_data(call) for call in message.tool_calls]
            return {"role": "assistant", "text": message.text, "tool_calls": calls}
        case ToolMessage():
            return {
                "role": "tool",
                "call_id": message.call_id,
                "name": message.name,
                "content": message.result.text,
                "is_error": message.result.is_error,
            }


_ERRORS: dict[str, type[DriverError]] = {
    kind.__name__: kind
    for kind in (
        DriverError,
        RateLimitedError,
        OverloadedError,
        DriverUnavailableError,
        RequestRejectedError,
        ContentRefusedError,
        MalformedReplyError,
        ContextTooLongError,
    )
}


def _error_to_data(error: DriverError) -> dict[str, Any]:
    # A kind of a driver's own is played back as the nearest one of ours.
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
    data: dict[str, Any] = {"kind": kind, "message": str(error)}
    if isinstance(error, (RateLimitedError, OverloadedError)):
        data["retry_after"] = error.retry_after
    return data


def _error_from_data(data: Mapping[str, Any]) -> DriverError:
    kind = _ERRORS[data["kind"]]
    if issubclass(kind, (RateLimitedError, OverloadedError)):
        return kind(data["message"], retry_after=data["retry_after"])
    return kind(data["message"])


def _key(request: Mapping[str, Any]) -> str:
    text = json.dumps(request, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# -- recording ---------------------------------------------------------------------


class RecordingDriver(DriverAround):
    """Has another driver answer, and writes each answer and each `DriverError` into a cassette.

    An answer is in the file when its caller gets it. What was cancelled is not recorded.
    """

    def __init__(
        self, driver: Driver, path: str | Path, *, append: bool = False, secrets: Iterable[str] = ()
    ) -> None:
        """Put a recorder around a driver.

        Args:
          driver: answers.
          path: the cassette; it is made by the first answer, in the place of an older one.
          append: keep what an older cassette holds, and add to it.
          secrets: texts that must not get into the cassette, beside those that are found.
        """
        super().__init__(driver)
        extra = {secret for secret in secrets if secret}
        self._tape = _Tape(Path(path), append, lambda: _with_environment(extra))

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the driver inside, and record what comes.

        Raises:
          DriverError: what the driver inside raises.
          OSError: if the cassette cannot be written.

        Checkpoint: as the driver inside. Cancellation: as the driver inside; an answer that has
          come is written and returned, even if a cancellation comes meanwhile.
        """
        try:
            completion = await self._driver.complete(request)
        except DriverError as error:
            await self._tape.write(request, {"error": _error_to_data(error)})
            raise
        await self._tape.write(request, {"completion": completion_to_data(completion)})
        return completion

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Stream from the driver inside, and record the whole answer at its end.

        Raises:
          DriverError, OSError: as `complete`.
        """
        async with AsyncExitStack() as stack:
            try:
                parts = await open_stream(stack, self._driver, request)
            except DriverError as error:
                await self._tape.write(request, {"error": _error_to_data(error)})
                raise
            yield _RecordedStream(parts, self._tape, request)


@attrs.define(eq=False)
class _RecordedStream:
    _parts: AsyncIterator[StreamPart]
    _tape: _Tape
    _request: CompletionRequest

    def __aiter__(self) -> _RecordedStream:
        return self

    async def __anext__(self) -> StreamPart:
        try:
            part = await anext(self._parts)
        except DriverError as error:
            await self._tape.write(self._request, {"error": _error_to_data(error)})
            raise
        if isinstance(part, Completion):
            await self._tape.write(self._request, {"completion": completion_to_data(part)})
        return part


def _with_environment(extra: set[str]) -> tuple[str, ...]:
    return tuple(sorted({*extra, *secrets_of_environment()}, key=len, reverse=True))


class _Tape:
    """The file that a recorder writes, line by line."""

    def __init__(self, path: Path, append: bool, secrets: Callable[[], tuple[str, ...]]) -> None:
        self._path = path
        self._append = append
        self._secrets = secrets
        self._begun = False
        self._one_at_a_time = trio.Lock()

    async def write(self, request: CompletionRequest, result: dict[str, Any]) -> None:
        secrets = self._secrets()
        asked = _redact_all(request_to_data(request), secrets)
        entry = {"key": _key(asked), "request": asked, **_redact_all(result, secrets)}
        line = json.dumps(entry, ensure_ascii=True, default=str) + "\n"
        # Shielded: the answer is here, and must not be lost to a cancellation of the writing.
        with trio.CancelScope() as scope:
            scope.shield = True
            async with self._one_at_a_time:
                await run_blocking(self._write_line, line)

    def _write_line(self, line: str) -> None:
        if not self._begun:
            self._begin()
            self._begun = True
        with self._path.open("a", encoding="ascii", newline="") as file:
            file.write(line)

    def _begin(self) -> None:
        kept = _whole_lines(self._path) if self._append and self._path.exists() else b""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(kept or f"{_HEADER}\n".encode())


def _whole_lines(path: Path) -> bytes:
    """Return a cassette's content without a last line that was cut off while it was written."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


# -- replaying ---------------------------------------------------------------------


class ReplayDriver(Driver):
    """Answers from a cassette, without any network.

    Equal requests are answered in the order in which they were recorded, each answer once. A last
    line that was cut off (the recording process was killed) is left out; any other line that cannot
    be read is an error. The file is read by the first request.
    """

    privacy = PrivacyTier.SOVEREIGN  # nothing leaves this machine

    def __init__(self, path: str | Path, *, secrets: Iterable[str] = ()) -> None:
        """Play a cassette.

        Args:
          path: the file that a `RecordingDriver` wrote.
          secrets: as for the recorder, if requests hold them.
        """
        self._path = Path(path)
        self._extra = {secret for secret in secrets if secret}
        self._answers: dict[str, deque[Completion | DriverError]] | None = None
        self._recorded: dict[str, int] = {}
        self._loading = trio.Lock()

    def __repr__(self) -> str:
        return f"<ReplayDriver of {str(self._path)!r}>"

    @property
    def remaining(self) -> int | None:
        """How many answers have not been asked for; None before the file was read."""
        return None if self._answers is None else sum(map(len, self._answers.values()))

    async def complete(self, request: CompletionRequest) -> Completion:
        """Return what was recorded for this request.

        Raises:
          RequestRejectedError: if the cassette holds no answer, or no further one, for this request.
          DriverError: if that is what was recorded.
          OSError: if the file cannot be read.
          ValueError: if it is no cassette, with the line.

        Checkpoint: always. Cancellation: takes no answer.
        """
        async with self._loading:
            if self._answers is None:
                self._answers = await run_blocking(_load, self._path)
                self._recorded = {key: len(answers) for key, answers in self._answers.items()}
        key = _key(_redact_all(request_to_data(request), _with_environment(self._extra)))
        answers = self._answers.get(key)
        if not answers:
            raise RequestRejectedError(self._missing(request, key))
        answer = answers.popleft()
        if isinstance(answer, DriverError):
            raise answer
        return answer

    def _missing(self, request: CompletionRequest, key: str) -> str:
        recorded = self._recorded.get(key, 0)
        held = f"only {recorded} answers" if recorded else "no answer"
        last = request_to_data(request)["messages"][-1:]
        shown = redact(json.dumps(last, default=str), _with_environment(self._extra))[:200]
        return (
            f"the cassette {self._path} holds {held} to this request (key {key}, which ends in {shown});"
            " record it again with a RecordingDriver"
        )


def _load(path: Path) -> dict[str, deque[Completion | DriverError]]:
    content = path.read_bytes()
    lines = content.split(b"\n")
    torn = lines.pop()  # empty, unless the last line was cut off
    if not lines and torn:
        raise ValueError(f"{path}, line 1: not a cassette; it must begin with {_HEADER}")
    answers: dict[str, deque[Completion | DriverError]] = {}
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
            if number == 1:
                _check_header(data)
            else:
                answers.setdefault(data["key"], deque()).append(_answer(data))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a line of a cassette ({error!r});"
                " delete that line, or record the cassette again"
            ) from error
    return answers


def _check_header(data: Any) -> None:
    if not isinstance(data, dict) or data.get("agentpool_cassette") != _VERSION:
        raise ValueError(f"it must begin with {_HEADER}")


def _answer(data: Mapping[str, Any]) -> Completion | DriverError:
    if "error" in data:
        return _error_from_data(data["error"])
    return completion_from_data(data["completion"])
