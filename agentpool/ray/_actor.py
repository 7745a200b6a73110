"""The worker process: a Ray actor whose trio program runs in a thread of its own."""

from __future__ import annotations

import gc
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import attrs
import trio
from ray import cloudpickle

from agentpool._remote.crew import loads_setup
from agentpool._remote.end import WorkerEnd
from agentpool._remote.runtime import run_worker
from agentpool.ray._watchdog import Watchdog

STOP_SECONDS = 1.5
"""So many seconds a worker has to end by itself. Less than the head waits for it."""


def lease_clock() -> float:
    """Return the seconds on a clock that goes on while the machine is suspended, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@attrs.frozen
class Versions:
    """What has to be the same in the head and in a worker."""

    python: str
    agentpool: str
    ray: str

    @classmethod
    def here(cls) -> Versions:
        """Return those of this process."""
        try:
            ours = version("trio-agentpool")
        except PackageNotFoundError:
            ours = "(not installed as a package)"
        python = ".".join(platform.python_version_tuple()[:2])
        return cls(python, ours, version("ray"))


class WorkerActor:
    """A worker process as Ray sees it.

    Ray calls its methods in threads, several at a time and in any order. The trio program has a thread of its
    own; what they share is a `WorkerEnd`.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._program: Program | None = None

    def greet(self) -> Versions:
        """Return what this process runs."""
        return Versions.here()

    def run(self, setup: bytes) -> None:
        """Start the trio program; does nothing if it was started."""
        with self._starting:
            if self._program is None:
                self._program = Program(setup)

    def post(self, number: int, records: Sequence[bytes]) -> None:
        """Take records; `abc.Transport.post` tells more."""
        self._running.end.post(number, records)

    def pull(self, ack: int, max: int, wait: float) -> tuple[int, Sequence[bytes]]:
        """Return what there is to tell; `abc.Transport.pull` tells more."""
        pulled = self._running.end.pull(ack, max, wait)
        return pulled.number, pulled.records

    def stop(self) -> None:
        """Have the agents cancelled, and wait a short time for their end."""
        if self._program is not None:
            self._program.stop()

    @property
    def _running(self) -> Program:
        if self._program is None:
            raise RuntimeError("the worker has not been told to run yet")
        return self._program


class Program:
    """The trio program of a worker process, its thread, and the watchdog over it.

    Attributes:
      end: what it shares with the threads that serve the head.
    """

    def __init__(self, setup: bytes, exit: Callable[[int], object] = os._exit) -> None:
        """Start it.

        Args:
          setup: a pickled `WorkerSetup`.
          exit: ends the process, with a code.

        Raises:
          Exception: if the setup cannot be loaded here.
        """
        self.end = WorkerEnd(loads_setup(setup).lease, lease_clock)
        self._setup = setup
        self._exit = exit
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._is_up = threading.Event()
        self._is_over = threading.Event()
        self._is_stopped = False
        threading.Thread(target=self._run, name="agentpool-worker", daemon=True).start()
        self._is_up.wait()
        self._watchdog = Watchdog(lambda: self.end.expires_at, lease_clock, self.cancel, exit)

    def stop(self) -> None:
        """Cancel the agents, and wait until the program has ended, or `STOP_SECONDS`.

        The process stays, for the head to kill: of one that exits by itself Ray would tell as of a crash.
        Should that fail, it exits when its lease is over.
        """
        self._is_stopped = True
        self.end.close("the head has ended it")
        self._is_over.wait(STOP_SECONDS / 2)
        self.cancel()
        self._is_over.wait(STOP_SECONDS / 2)

    def cancel(self) -> None:
        """Cancel the agents; does not wait."""
        assert self._token is not None
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._scope.cancel)

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException:
            traceback.print_exc()  # into the log that Ray keeps of this process
        self._is_over.set()
        if not self._is_stopped:
            # Nothing would answer the head any more, which is to hear of it at once.
            sys.stderr.flush()
            self._exit(1)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._is_up.set()
        # What is imported by now stays: without a look at it each full collection takes a tenth of a second
        # less, with Ray in the process.
        gc.freeze()
        with self._scope:
            await run_worker(self.end, self._setup, cloudpickle.dumps)  # pyright: ignore[reportPrivateImportUsage]
