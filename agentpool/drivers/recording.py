"""A cassette: what a driver answered, kept in a file, and a driver that plays it back.

A cassette is a text file of JSON lines. The first tells the version, each further one holds a
request and what came of it, a completion or an error. So the order in which agents ask does not
matter; only equal requests are answered in the order in which their answers were recorded.

Secrets are taken out before anything is written (`_redaction.py`); a request is found by what is left
(`_matching.py`), so a cassette plays on machines with other secrets. Any number of recorders may write
to one file (`_tape.py`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from agentpool._blocking import run_blocking
from agentpool._core.capability import PrivacyTier
from agentpool._core.data import completion_from_data, error_from_data, error_to_data, to_data
from agentpool._core.detection import KnownSecrets
from agentpool._core.errors import DriverError, RequestRejectedError
from agentpool._core.messages import Completion, CompletionRequest, ReasoningDelta, StreamPart, TextDelta
from agentpool._core.redaction import Redaction
from agentpool.abc import Driver
from agentpool.drivers._around import DriverAround, open_stream
from agentpool.drivers._matching import Asked, Recorded, Shelf, with_secrets
from agentpool.drivers._tape import FileState, Tape, check_replaceable, lines_of, told_line
from agentpool.drivers._tape import whole_lines as _whole_lines


def _entries(path: Path) -> Iterator[Recorded]:
    """Read a cassette; raises `OSError`, and `ValueError` with the line that cannot be read."""
    for number, data in lines_of(_whole_lines(path), path):
        with told_line(path, number):
            request, ids = data["request"], tuple(data.get("secrets", ()))
            window, parts = data.get("context_window"), tuple(map(int, data.get("parts", ())))
            if "error" in data:
                answer: Completion | DriverError = error_from_data(data["error"])
            else:
                answer = completion_from_data(data["completion"])
            if not isinstance(request, dict):
                raise TypeError("the request is no object")
        yield Recorded(number, request, ids, answer, window if isinstance(window, int) else None, parts)


# -- recording ---------------------------------------------------------------------


class RecordingDriver(DriverAround):
    """Has another driver answer, and writes each answer and each `DriverError` into a cassette.

    An answer is in the file when its caller gets it. What was cancelled is not recorded, nor is a
    stream that was left before its end. Several recorders may write to one file, in one program and
    in several.
    """

    def __init__(
        self, driver: Driver, path: str | Path, *, append: bool = False, secrets: Iterable[str] = ()
    ) -> None:
        """Put a recorder around a driver.

        Args:
          driver: answers.
          path: the cassette. The first answer takes the place of the cassette that is there now, unless
            another recorder has written to it meanwhile, or one of this program that still exists.
            A file that is no cassette stays.
          append: keep what an older cassette holds, and add to it.
          secrets: texts that must not get into the cassette, beside those that are found.
        """
        super().__init__(driver)
        self._recorder = _Recorder(Tape.of(Path(path)), append, frozenset(secrets))

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the driver inside, and record what comes.

        Raises:
          DriverError: what the driver inside raises.
          OSError: if the cassette cannot be written.
          ValueError: if the file is there and no cassette; then the driver was not asked.

        Checkpoint: as the driver inside. Cancellation: as the driver inside; an answer that has
          come is written and returned, even if a cancellation comes meanwhile.
        """
        await self._recorder.check()
        window = _window_of(self._driver)
        try:
            completion = await self._driver.complete(request)
        except DriverError as error:
            await self._recorder.write(request, error, window)
            raise
        await self._recorder.write(request, completion, window)
        return completion

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Stream from the driver inside, and record the whole answer at its end.

        Raises:
          DriverError, OSError, ValueError: as `complete`.
        """
        await self._recorder.check()
        window = _window_of(self._driver)
        async with AsyncExitStack() as stack:
            try:
                parts = await open_stream(stack, self._driver, request)
            except DriverError as error:
                await self._recorder.write(request, error, window)
                raise
            yield _RecordedStream(parts, self._recorder, request, window)


def _window_of(driver: Driver) -> int | None:
    window = getattr(driver, "context_window", None)
    return window if isinstance(window, int) else None


@attrs.define(eq=False)
class _RecordedStream:
    _parts: AsyncIterator[StreamPart]
    _recorder: _Recorder
    _request: CompletionRequest
    _window: int | None
    _sizes: list[int] = attrs.field(factory=list, init=False)

    def __aiter__(self) -> _RecordedStream:
        return self

    async def __anext__(self) -> StreamPart:
        try:
            part = await anext(self._parts)
        except DriverError as error:
            await self._recorder.write(self._request, error, self._window)
            raise
        if isinstance(part, Completion):
            await self._recorder.write(self._request, part, self._window, self._sizes)
        else:
            self._sizes.append(len(part.text) if isinstance(part, TextDelta) else -len(part.text))
        return part


@attrs.define(eq=False)
class _Recorder:
    """Makes lines of answers, and has them written; `bind` shares it."""

    _tape: Tape
    _append: bool
    _secrets: frozenset[str] = attrs.field(repr=False)
    _is_checked: bool = attrs.field(default=False, init=False)
    _replaced: FileState = attrs.field(init=False)
    _one_at_a_time: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._replaced = None if self._append else self._tape.state()

    async def check(self) -> None:
        """See that a file that is there is a cassette, before anything is asked of a model.

        One that is to be added to is read to its end; of one that is replaced, the beginning is enough.
        """
        if self._is_checked:
            return
        await run_blocking(_check if self._append else check_replaceable, self._tape.path)
        self._is_checked = True

    async def write(
        self,
        request: CompletionRequest,
        answer: Completion | DriverError,
        window: int | None,
        parts: Sequence[int] = (),
    ) -> None:
        # Shielded: the answer is here, and must not be lost to a cancellation of the writing.
        with trio.CancelScope(shield=True):
            async with self._one_at_a_time:
                line = partial(self._line, request, answer, window, parts)
                await run_blocking(lambda: self._tape.append(line(), replaced=self._replaced))

    def _line(
        self,
        request: CompletionRequest,
        answer: Completion | DriverError,
        window: int | None,
        parts: Sequence[int],
    ) -> str:
        known = KnownSecrets.of(self._secrets)
        redaction = Redaction(known)
        asked = Asked.of(request, redaction, known)
        entry: dict[str, Any] = {"request": asked.data}
        if asked.ids:
            entry["secrets"] = asked.ids
        if window is not None:
            entry["context_window"] = window
        if len(parts) > 1:
            entry["parts"] = list(parts)
        if isinstance(answer, DriverError):
            entry["error"] = redaction.data(error_to_data(answer))
        else:
            entry["completion"] = redaction.data(to_data(answer))
        return json.dumps(entry, ensure_ascii=True)


def _check(path: Path) -> None:
    if path.exists():
        for _ in _entries(path):
            pass


# -- replaying ---------------------------------------------------------------------


class ReplayDriver(Driver):
    """Answers from a cassette, without any network.

    Equal requests are answered in the order in which they were recorded, each answer once. Where an
    answer repeats a secret of its request, the secret of the request at hand is put there. A last
    line that was cut off (the recording process was killed) is left out; any other line that cannot
    be read is an error. The file is read by the first request, or the first agent.
    """

    privacy = PrivacyTier.SOVEREIGN  # nothing leaves this machine

    def __init__(self, path: str | Path, *, secrets: Iterable[str] = ()) -> None:
        """Play a cassette.

        Args:
          path: the file that a `RecordingDriver` wrote.
          secrets: as for the recorder, if requests hold them.
        """
        self._path = Path(path)
        self._secrets = frozenset(secrets)
        self._shelf: Shelf | None = None
        self._loading = trio.Lock()

    def __repr__(self) -> str:
        return f"<ReplayDriver of {str(self._path)!r}>"

    @property
    def context_window(self) -> int | None:  # type: ignore[override]
        """That of the driver that was recorded; agents measure their requests by it.

        Blocks on the file, briefly, if no request came before. None if the file cannot be read.
        """
        if self._shelf is None:
            try:
                self._shelf = self._read()
            except (OSError, ValueError):
                return None  # the first request tells
        return self._shelf.window

    @property
    def remaining(self) -> int | None:
        """How many answers have not been asked for; None before the file was read."""
        return None if self._shelf is None else self._shelf.remaining

    async def complete(self, request: CompletionRequest) -> Completion:
        """Return what was recorded for this request.

        Raises:
          RequestRejectedError: if the cassette holds no answer, or no further one, for this request;
            it tells in what the nearest recorded request differs.
          DriverError: if that is what was recorded.
          OSError: if the file cannot be read.
          ValueError: if it is no cassette, with the line.

        Checkpoint: always. Cancellation: takes no answer.
        """
        completion, _ = await self._take(request)
        return completion

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Give what was recorded for this request, in the pieces in which it came.

        An answer that was not streamed comes in one piece.

        Raises:
          RequestRejectedError, DriverError, OSError, ValueError: as `complete`.
        """
        completion, sizes = await self._take(request)
        parts = _parts_of(completion, sizes)
        try:
            yield parts
        finally:
            await parts.aclose()

    async def _take(self, request: CompletionRequest) -> tuple[Completion, Sequence[int]]:
        async with self._loading:
            if self._shelf is None:
                self._shelf = await run_blocking(self._read)
        known = KnownSecrets.of(self._secrets)
        asked = Asked.of(request, Redaction(known), known)
        recorded = self._shelf.take(asked)
        if recorded is None:
            raise RequestRejectedError(
                f"the cassette {self._path} {self._shelf.missing(asked)};"
                " record it again with a RecordingDriver"
            )
        if isinstance(recorded.answer, DriverError):
            raise recorded.answer
        return with_secrets(recorded.answer, asked.secrets), recorded.parts

    def _read(self) -> Shelf:
        return Shelf(_entries(self._path))


async def _parts_of(completion: Completion, sizes: Sequence[int]) -> AsyncGenerator[StreamPart, None]:
    """Give the pieces of an answer; their sizes count if they are those of what it says."""
    reasoning, text = completion.reasoning, completion.text
    thought, said = -sum(size for size in sizes if size < 0), sum(size for size in sizes if size > 0)
    if (thought, said) != (len(reasoning), len(text)):
        sizes = (-len(reasoning), len(text))
    for size in sizes:
        if size < 0:
            yield ReasoningDelta(reasoning[:-size])
            reasoning = reasoning[-size:]
        elif size > 0:
            yield TextDelta(text[:size])
            text = text[size:]
    yield completion
