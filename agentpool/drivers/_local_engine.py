"""llama.cpp within the process: loading a model, asking it in threads, stopping it, letting it go."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import trio

from agentpool._blocking import run_blocking, start_blocking
from agentpool._core.errors import RequestRejectedError
from agentpool.drivers._gguf import chat_templates

PACKAGE = "xllamacpp"

CACHE_MEBIBYTES = 1024
"""Memory in which llama.cpp keeps conversations that lost their slot, so that they need not be read anew."""

_READ_BYTES = 8 * 1024 * 1024

# OpenMP reads the environment of the process when it is loaded: one at a time.
_loading = threading.Lock()


@attrs.frozen
class Settings:
    """How a model is loaded.

    Attributes:
      path: the file.
      context_window: tokens that one call may have.
      slots: how many calls run at once.
      threads: how many threads compute.
      batch: how many tokens of a prompt are read in one go.
      chat_template: a Jinja template in the place of the model's own; empty for that.
    """

    path: Path
    context_window: int
    slots: int
    threads: int
    batch: int
    chat_template: str


def load(settings: Settings) -> Any:
    """Load a model, and return llama.cpp's server of it. Blocks for seconds.

    Raises:
      RequestRejectedError: if llama.cpp cannot load it.
    """
    _read_ahead(settings.path)
    with _loading:
        xllamacpp = _import()
        params = xllamacpp.CommonParams()
        params.model.path = str(settings.path)
        params.model_alias = {settings.path.stem}
        params.offline = True
        # Each slot has its own part, so that what fits the window of one call always finds room.
        params.n_ctx = settings.context_window * settings.slots
        params.n_parallel = settings.slots
        params.n_batch = params.n_ubatch = settings.batch
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
        params.cache_ram_mib = CACHE_MEBIBYTES
        params.warmup = False
        params.verbosity = -1
        if settings.chat_template:
            params.chat_template = settings.chat_template
        # It cannot be without its HTTP server: that one listens to nobody who lacks the key.
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [secrets.token_urlsafe(32)]
        params.n_threads_http = 1
        params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise RequestRejectedError(
                f"llama.cpp cannot load {settings.path}: the file is damaged or of a kind that this version"
                " of xllamacpp does not know, or there is too little memory for it"
            ) from error


def _import() -> Any:
    """Import llama.cpp.

    The threads of OpenMP spin while they wait, unless its environment says otherwise when it is
    loaded: where more of them want to run than there are cores, all is 15 times slower then.
    """
    name = "OMP_WAIT_POLICY"
    before = os.environ.get(name)
    os.environ.setdefault(name, "passive")
    try:
        return import_module(PACKAGE)
    finally:
        if before is None:
            del os.environ[name]  # the program's own processes keep their environment


def _read_ahead(path: Path) -> None:
    """Read a file once, so that it is in memory: llama.cpp holds the GIL while it loads."""
    buffer = bytearray(_READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


@attrs.define(eq=False)
class Call:
    """One question to llama.cpp, which a thread asks; a task reads what comes.

    `_arrived` and `_news` belong to trio's thread. The other one only looks at `_is_stopped`.
    """

    _body: bytes
    _token: trio.lowlevel.TrioToken = attrs.field(factory=trio.lowlevel.current_trio_token, init=False)
    _arrived: deque[bytes | BaseException] = attrs.field(factory=deque, init=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)
    _is_stopped: bool = attrs.field(default=False, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)
    ended: trio.Event = attrs.field(factory=trio.Event, init=False)

    def stop(self, *, is_closed: bool = False) -> None:
        """Have the thread end with the next token, or with the next batch of the prompt.

        Args:
          is_closed: whether the engine is being closed under it.
        """
        self._is_closed = self._is_closed or is_closed
        self._is_stopped = True

    async def receive(self) -> Mapping[str, Any] | None:
        """Wait for the next chunk of the answer; None is its end.

        Raises:
          RequestRejectedError: if llama.cpp refuses the request.
          trio.ClosedResourceError: if the engine was closed meanwhile.
        """
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._is_closed:
                raise trio.ClosedResourceError("the model was closed while it answered")
            if self.ended.is_set():
                return None
            self._news = trio.Event()
            await self._news.wait()
        found = self._arrived.popleft()
        if isinstance(found, bytes):
            chunk: Mapping[str, Any] = json.loads(found)
            return chunk
        if isinstance(found, ValueError | RuntimeError):
            raise RequestRejectedError(str(found)) from found
        raise found

    # -- in trio's thread, called from the other one

    def _arrive(self, what: bytes | BaseException) -> None:
        self._arrived.append(what)
        self._news.set()

    def end(self) -> None:
        """Note that the thread is done with it."""
        self.ended.set()
        self._news.set()

    # -- in the other thread

    def ask(self, server: Any) -> None:
        """Ask; returns when the answer is whole, or the call was stopped."""
        try:
            server.handle_chat_completions(self._body, self._take)
        except BaseException as error:  # the task raises it
            self._token.run_sync_soon(self._arrive, error)

    def _take(self, data: bytes) -> bool:
        """Take a piece, and return whether to stop. What is raised in here, nobody would see."""
        if not self._is_stopped:
            self._token.run_sync_soon(self._arrive, data)
        return self._is_stopped


@attrs.define(eq=False)
class Engine:
    """A model that is loaded, with slots for the calls in flight.

    Attributes:
      knows_tools: whether the model's chat template knows tools.
    """

    _server: Any
    knows_tools: bool
    _slots: trio.CapacityLimiter
    _calls: set[Call] = attrs.field(factory=set, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)

    @classmethod
    async def open(cls, settings: Settings) -> Engine:
        """Load a model.

        Raises:
          RequestRejectedError: if llama.cpp cannot load it.

        Checkpoint: always. Cancellation: not while it loads.
        """
        server, knows_tools = await run_blocking(_open, settings)
        return cls(server, knows_tools, trio.CapacityLimiter(settings.slots))

    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection
    async def ask(self, body: bytes) -> AsyncIterator[Call]:
        """Ask the model, as soon as there is a slot.

        Leaving the block stops the call, and waits until its slot is free: for a token, or for a
        batch of the prompt.

        Raises:
          trio.ClosedResourceError: if the engine was closed.

        Checkpoint: always. Cancellation: as leaving the block.
        """
        call = Call(body)
        await self._slots.acquire_on_behalf_of(call)
        try:
            if self._is_closed:
                raise trio.ClosedResourceError("the model was closed")
            await start_blocking(partial(call.ask, self._server), call.end)
            self._calls.add(call)
            try:
                yield call
            finally:
                call.stop()
                with trio.CancelScope(shield=True):
                    await call.ended.wait()
                self._calls.discard(call)
        finally:
            self._slots.release_on_behalf_of(call)

    async def aclose(self) -> None:
        """Stop what is under way, and let the model go.

        Checkpoint: always. Cancellation: shielded; it takes as long as a batch of a prompt.
        """
        self._is_closed = True
        with trio.CancelScope(shield=True):
            for call in self._calls:
                call.stop(is_closed=True)
            for call in tuple(self._calls):
                await call.ended.wait()
            await run_blocking(self._let_go)

    def _let_go(self) -> None:
        self._server = None


def _open(settings: Settings) -> tuple[Any, bool]:
    templates = [settings.chat_template] if settings.chat_template else chat_templates(settings.path)
    knows_tools = any("tools" in template for template in templates)
    return load(settings), knows_tools
