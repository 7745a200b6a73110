"""In which loop of asyncio's the functions of a pool's agents run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar

import trio

from agentpool._blocking import runs_inline
from agentpool._kernel.holding import CLOSING_TIME, current_holder

home_loop: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("agentpool_home_loop", default=None)
"""The loop of the program, for agents of a pool that one on asyncio has opened."""


async def loop_here() -> asyncio.AbstractEventLoop:
    """Return the loop in which functions run that the calling agent asks for.

    That of the program, if it runs on asyncio; else one that the pool has, until it ends.

    Raises:
      RuntimeError: if the calling task is none of a pool's, or in a simulation.
    """
    loop = home_loop.get()
    if loop is not None and not loop.is_closed():
        return loop
    if runs_inline():
        raise RuntimeError("an asyncio function runs in a thread, which a simulation does not have")
    holder = current_holder()
    if holder is None:
        raise RuntimeError("an asyncio function runs for an agent of a pool, and no agent calls it here")
    return await holder.get("a loop of asyncio's", _open_loop)


@asynccontextmanager
async def _open_loop() -> AsyncIterator[asyncio.AbstractEventLoop]:
    """Run a loop of asyncio's in a thread of its own."""
    thread = _LoopThread()
    loop = await thread.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.watch)
        try:
            yield loop
        finally:
            with trio.move_on_after(CLOSING_TIME, shield=True):
                await thread.end()


class _LoopThread:
    """A thread that runs a loop until it is told to end."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="agentpool asyncio", daemon=True)
        self._begun, self._ended = trio.Event(), trio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._error: BaseException | None = None

    async def begin(self) -> asyncio.AbstractEventLoop:
        """Start the thread, and return its loop when that runs."""
        self._thread.start()
        with trio.CancelScope(shield=True):  # some ten microseconds
            await self._begun.wait()
        assert self._loop is not None
        return self._loop

    async def watch(self) -> None:
        """Wait for the end of the thread; raise what ended the loop, such as a task that asks for an exit."""
        await self._ended.wait()
        if self._error is not None:
            raise self._error

    async def end(self) -> None:
        """Cancel what runs in the loop, and wait for the end of the thread."""
        assert self._loop is not None
        assert self._stop is not None
        with suppress(RuntimeError):  # the loop broke down: somebody's task asked the program to exit
            self._loop.call_soon_threadsafe(self._stop.set)
        await self._ended.wait()
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:  # raised where the pool sees it
            self._error = error
        finally:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._ended.set)

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._token.run_sync_soon(self._begun.set)
        await self._stop.wait()
