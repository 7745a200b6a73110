"""A placement whose workers run in the calling program, over a way that loses requests and replies."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from random import Random, getrandbits
from typing import Any

import attrs
import trio

from agentpool._core.errors import WorkerLostError, WorkerUnavailableError
from agentpool._core.text import shown
from agentpool._remote.end import WorkerEnd
from agentpool._remote.placement import RemotePlacement
from agentpool._remote.runtime import run_worker
from agentpool.abc import Pulled, Workers

PATIENCE = 0.5
"""So many seconds pass until a request counts as lost whose reply does not come."""


@attrs.frozen(kw_only=True)
class Faults:
    """What happens to requests and replies.

    Attributes:
      loss: how likely each request is lost, and each reply, from 0 to 1.
      delay: seconds that a request, and its reply, take at the most; each takes a part of it by lot.
    """

    loss: float = 0.0
    delay: float = 0.0

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss must be at least 0 and less than 1, not {self.loss}")
        if not self.delay >= 0:
            raise ValueError(f"delay must be at least 0 seconds, not {self.delay}")


class InProcessWorker:
    """A worker of an `InProcessPlacement`.

    Attributes:
      number: counts the workers of the placement, from 1 up.
      is_running: whether its program has not ended.
      is_cut_off: whether nothing gets to it or from it.
      crash: what its program died of, an exception that nothing in it caught.
    """

    def __init__(self, number: int, lease: float) -> None:
        self.number = number
        self.is_running = True
        self.is_cut_off = False
        self.crash: BaseException | None = None
        self._end = WorkerEnd(lease, trio.current_time)
        self._changed = trio.Event()
        self._scope = trio.CancelScope()

    def __repr__(self) -> str:
        state = "running" if self.is_running else "ended"
        return f"<InProcessWorker {self.number}, {state}{', cut off' if self.is_cut_off else ''}>"

    def cut(self) -> None:
        """From now on lose everything between it and the head."""
        self.is_cut_off = True

    def restore(self) -> None:
        """Lose no more than the placement's faults say."""
        self.is_cut_off = False

    def kill(self) -> None:
        """End it at once, as `kill -9` does: nothing more is heard of it."""
        self._die("killed")

    def _die(self, reason: str) -> None:
        self.is_running = False
        self._scope.cancel(reason)
        self._note()

    # -- its program ----------------------------------------------------------------------------------

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _run(self, setup: bytes) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_lease)
                    await run_worker(_Noting(self._end, self._note), setup)
                    nursery.cancel_scope.cancel("the worker has ended")
        except trio.Cancelled:
            raise
        except BaseException as error:
            self.crash = error  # as a process that dies of it
        finally:
            self.is_running = False
            self._note()

    async def _keep_lease(self) -> None:
        """End the worker when its head was not heard of for too long."""
        while (left := self._end.expires_at - trio.current_time()) > 0:  # noqa: ASYNC110  (it moves)
            await trio.sleep(left)
        self._die("its lease has expired")


class _Noting:
    """The worker's end, which tells of what is put in, because nobody waits for it in a thread."""

    def __init__(self, end: WorkerEnd, note: Any) -> None:
        self._end = end
        self._note = note

    @property
    def on_records(self) -> Any:
        return self._end.on_records

    @on_records.setter
    def on_records(self, value: Any) -> None:
        self._end.on_records = value

    @property
    def closed(self) -> str | None:
        return self._end.closed

    def put(self, record: bytes) -> None:
        self._end.put(record)
        self._note()

    def take(self) -> Sequence[bytes]:
        return self._end.take()


class _InProcessTransport:
    """The way to one worker."""

    def __init__(self, worker: InProcessWorker, faults: Faults, random: Random) -> None:
        self._worker = worker
        self._faults = faults
        self._random = random

    async def _travel(self) -> None:
        """Carry a request, or a reply."""
        await trio.lowlevel.checkpoint()
        if self._faults.delay:
            await trio.sleep(self._random.random() * self._faults.delay)
        if self._worker.is_cut_off or self._random.random() < self._faults.loss:
            await trio.sleep(PATIENCE)
            raise WorkerUnavailableError("nothing came back")

    def _check_running(self) -> None:
        if not self._worker.is_running:
            crash = self._worker.crash
            told = "its process has ended" if crash is None else f"its program raised {shown(crash)}"
            raise WorkerLostError(str(self._worker.number), told)

    async def post(self, number: int, records: Sequence[bytes]) -> None:
        """Hand records to the worker."""
        await self._travel()
        self._check_running()
        self._worker._end.post(number, records)
        await self._travel()

    async def pull(self, ack: int, max: int, wait: float) -> Pulled:
        """Return what the worker has to tell."""
        await self._travel()
        worker = self._worker
        found: Pulled | None = None
        with trio.move_on_after(wait):
            while True:
                self._check_running()
                found = worker._end.pull_now(ack, max, even_empty=False)
                if found is not None:
                    break
                await worker._changed.wait()
        if found is None:
            self._check_running()
            found = worker._end.pull_now(ack, max, even_empty=True)
            assert found is not None
        await self._travel()
        return found

    async def aclose(self) -> None:
        """End the worker."""
        self._worker._end.close("the pool has ended")
        self._worker._scope.cancel("the pool has ended")
        await trio.lowlevel.checkpoint()


class InProcessPlacement(RemotePlacement):
    """Runs placed agents in workers that are tasks of this program; for tests, and to try out.

    Everything is as with worker processes: what agents are given, return and raise is pickled; the workers
    have leases; requests and replies may be lost. Only the memory is shared. In `simulate` it takes virtual
    time, and the same seed gives the same run.

    Args:
      workers: how many.
      lease: seconds, at least 2.
      faults: what happens to requests and replies; nothing if left out.
      driver: as of `RemotePlacement`.

    Raises:
      TypeError, ValueError: if an argument makes no sense.
    """

    def __init__(
        self, workers: int = 2, *, lease: float = 10.0, faults: Faults = Faults(), driver: Any = None
    ) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int):
            raise TypeError(f"workers must be an int, not {workers!r}")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        if not lease >= 2:
            raise ValueError(f"lease must be at least 2 seconds, not {lease}")
        self.lease = lease
        self.driver = driver
        self.count = workers
        self.faults = faults
        self.workers: list[InProcessWorker] = []

    def __repr__(self) -> str:
        return f"<InProcessPlacement, {sum(each.is_running for each in self.workers)} workers run>"

    def open(self) -> AbstractAsyncContextManager[Workers]:
        """Return the block in which workers can be started."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Workers]:
        async with trio.open_nursery() as nursery:
            yield _InProcessWorkers(self, nursery)
            for worker in self.workers:
                worker._scope.cancel("the pool has ended")


class _InProcessWorkers:
    """Where the workers of a placement are started."""

    def __init__(self, placement: InProcessPlacement, nursery: trio.Nursery) -> None:
        self.count = placement.count
        self._placement = placement
        self._nursery = nursery
        # From the program's own lot, so that a simulation decides it too.
        self._random = Random(getrandbits(64))

    async def start(self, setup: bytes) -> _InProcessTransport:
        """Start a worker."""
        placement = self._placement
        worker = InProcessWorker(len(placement.workers) + 1, placement.lease)
        placement.workers.append(worker)
        run = partial(worker._run, setup)
        self._nursery.start_soon(run, name=f"worker {worker.number}")
        await trio.lowlevel.checkpoint()
        return _InProcessTransport(worker, placement.faults, self._random)

    def dumps(self, value: Any) -> bytes:
        """Pickle a value."""
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
