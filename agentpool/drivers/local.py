"""A model in the process itself: llama.cpp with the weights of a GGUF file."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import trio

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import MalformedReplyError
from agentpool._core.messages import Completion, CompletionRequest, StreamPart
from agentpool.abc import Driver
from agentpool.drivers._arguments import check_whole
from agentpool.drivers._dialect import Delta
from agentpool.drivers._gguf import look_at
from agentpool.drivers._local_answer import Answer
from agentpool.drivers._local_engine import PACKAGE, Call, Engine, Settings
from agentpool.drivers._local_prompt import prompt_of

MOST_CONTEXT = 8192
"""Tokens of a context window, where nobody asked for more: each slot takes memory for all of them."""


class LocalDriver(Driver):
    """Asks a model that runs in this process: no key, no server, no network.

    It holds a model once it was asked: use it as `async with LocalDriver(...) as driver`, or call
    `aclose`. The model is loaded with the first call, and computes in threads of its own.

    Args:
      path: the model's GGUF file; `~` is the home directory.
      context_window: tokens that one call may have, its answer included; left out, what the model was
        made for, but no more than 8,192. Each slot takes memory for all of them.
      slots: how many calls run at once; more of them wait for a slot, in the order in which they came.
      threads: how many threads compute; left out, one less than there are cores.
      batch: how many tokens of a prompt are read in one go. Between two batches the others get
        their next token, and a call that was cancelled ends. On a graphics card more are faster.
      chat_template: a Jinja template in the place of the model's own.

    Raises:
      ModuleNotFoundError: if llama.cpp is not installed; it names the `pip install`.
      ValueError: if there is no file, or no GGUF file, or an argument cannot be right.
    """

    privacy = PrivacyTier.SOVEREIGN

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        context_window: int | None = None,
        slots: int = 4,
        threads: int | None = None,
        batch: int = 64,
        chat_template: str = "",
    ) -> None:
        for name, value in (("context_window", context_window), ("threads", threads)):
            if value is not None:
                check_whole(name, value)
        check_whole("slots", slots)
        check_whole("batch", batch)
        # Made absolute at once: the program may go to another directory before the first call.
        file = look_at(Path(os.path.abspath(Path(path).expanduser())))
        if find_spec(PACKAGE) is None:
            raise ModuleNotFoundError(
                "a model in the process needs a package that is not installed:"
                " pip install 'trio-agentpool[local]' (in a clone: pip install '.[local]')",
                name=PACKAGE,
            )
        most = file.context_length
        if context_window is not None and most is not None and context_window > most:
            raise ValueError(f"context_window must be at most {most}, for which the model was made")
        self.context_window: int | None = context_window or min(most or MOST_CONTEXT, MOST_CONTEXT)
        self.path: Path = file.path
        self._settings = Settings(
            file.path, self.context_window, slots, threads or _spare_cores(), batch, chat_template
        )
        self._engine: Engine | None = None
        self._opening = trio.Lock()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "loaded" if self._engine else "not loaded yet"
        return f"<LocalDriver {self.path} ({state})>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let the model go. Calls under way, and later ones, raise `trio.ClosedResourceError`.

        Checkpoint: always. Cancellation: shielded; it takes as long as a batch of a prompt, or as
        loading, if that is under way.
        """
        self._closed = True
        with trio.CancelScope(shield=True):
            async with self._opening:
                engine, self._engine = self._engine, None
                if engine is not None:
                    await engine.aclose()
        await trio.lowlevel.checkpoint()

    async def _ready(self) -> Engine:
        async with self._opening:
            if self._closed:
                raise trio.ClosedResourceError(f"{self!r} was closed")
            if self._engine is None:
                self._engine = await Engine.open(self._settings)
            return self._engine

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the model, and return its whole answer, as `Driver.complete`.

        Raises:
          ContextTooLongError: if the request does not fit the window.
          RequestRejectedError: if the model cannot be loaded, or llama.cpp refuses the request.
          MalformedReplyError: if the answer cannot be read.

        Checkpoint: always. Cancellation: stops the model with its next token, or with the next batch
        of the prompt; a model that is being loaded is waited for.
        """
        async with self.stream(request) as parts:
            async for part in parts:
                if isinstance(part, Completion):
                    return part
        raise MalformedReplyError("the answer has no end")

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Ask the model, and get its answer in pieces, as `Driver.stream`.

        What is refused from the start is raised on entering. Leaving the block early stops the model.

        Raises:
          DriverError: as `complete`.

        Checkpoint: always. Cancellation: as `complete`.
        """
        engine = await self._ready()
        prompt = prompt_of(request, self.path.stem, knows_tools=engine.knows_tools)
        answer = Answer(prompt)
        async with engine.ask(prompt.body) as call:
            first = await call.receive()
            begun = [] if first is None else list(answer.read(first))
            parts = _parts(call, answer, begun)
            try:
                yield parts
            finally:
                with trio.CancelScope(shield=True):  # closing the generator does not wait
                    await parts.aclose()


async def _parts(call: Call, answer: Answer, begun: list[Delta]) -> AsyncGenerator[StreamPart, None]:
    for delta in begun:
        yield delta
    while (chunk := await call.receive()) is not None:
        for delta in answer.read(chunk):
            yield delta
    for part in answer.end():
        yield part


def _spare_cores() -> int:
    """Return how many cores this process may use, without the one that trio is on."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, cores - 1)
