"""A placement whose workers run in the calling program, over a way that loses requests and replies."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar, cast

import attrs
import trio

from agentpool._core.errors import WorkerLostError, WorkerUnavailableError
from agentpool._core.text import shown
from agentpool._kernel.splitting import is_only_cancelled, split_error
from agentpool._remote.end import WorkerEnd
from agentpool._remote.placement import SHORTEST_LEASE, RemotePlacement
from agentpool._remote.runtime import run_worker
from agentpool.abc import Pulled, Workers

T = TypeVar("T")

PATIENCE = 0.5
"""So many seconds after a request, or its reply, was lost the head is told that nothing came."""


@attrs.frozen
class _Way:
    """What happens to requests and replies.

    Attributes:
      loss: how likely each is lost.
      delay: seconds that each takes at the most.
      random: decides.
    """

    loss: float
    delay: float
    random: random.Random

    async def travel(self, worker: InProcessWorker) -> None:
        """Carry a request, or a reply.

        Raises:
          WorkerUnavailableError: if it is lost.
        """
        if self.delay:
            await trio.sleep(self.random.random() * self.delay)
        if worker.is_cut_off or self.random.random() < self.loss:
            await trio.sleep(PATIENCE)
            raise WorkerUnavailableError(f"nothing came back from worker {worker.number}")


class InProcessWorker:
    """A worker of an `InProcessPlacement`.

    Attributes:
      number: counts the workers of the placement, from 1 up.
      is_running: whether its program runs; nothing is heard of it afterwards.
      is_cut_off: whether nothing gets to it or from it.
      crash: what its program died of, an exception that nothing in it caught.
    """

    def __init__(self, number: int, lease: float) -> None:
        self.number = number
        self.is_running: bool = True
        self.is_cut_off: bool = False
        self.crash: BaseException | None = None
        self._end = WorkerEnd(lease, trio.current_time, str(number))
        self._end.on_change = self._note
        self._changed = trio.Event()
        self._scope = trio.CancelScope()

    def __repr__(self) -> str:
        state = "running" if self.is_running else "ended"
        return f"<InProcessWorker {self.number}, {state}{', cut off' if self.is_cut_off else ''}>"

    def cut(self) -> None:
        """From now on lose everything between it and the head, also what is under way."""
        self.is_cut_off = True

    def restore(self) -> None:
        """Lose no more than the placement says."""
        self.is_cut_off = False

    def kill(self) -> None:
        """End it at once, as `kill -9` does: nothing more is heard of it.

        Its agents are cancelled; nobody hears what they do in their cleanup, but the cleanup is done.
        """
        self._die("killed")

    def _die(self, reason: str) -> None:
        self.is_running = False
        self._scope.cancel(reason)
        self._note()

    # -- its program ----------------------------------------------------------------------------------

    def _note(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _run(self, setup: bytes) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_lease)
                    await run_worker(self._end, setup)
                    nursery.cancel_scope.cancel("the worker has ended")
        except BaseException as error:
            parts = split_error(error)
            # Those are told to the program around it. Of everything else a process would die.
            if is_only_cancelled(error) or isinstance(parts.fatal, KeyboardInterrupt):
                raise
            self.crash = parts.fatal or parts.ordinary
        finally:
            self._die("it has ended")

    async def _keep_lease(self) -> None:
        """End the worker when its head was not heard of for too long."""
        while (at := self._end.expires_at) > trio.current_time():  # noqa: ASYNC110  (it moves)
            await trio.sleep_until(at)
        self._die("its lease has run out")

    # -- what it is asked -----------------------------------------------------------------------------

    def _check_running(self) -> None:
        if not self.is_running:
            crash = self.crash
            told = "its process has ended" if crash is None else f"its program raised {shown(crash)}"
            raise WorkerLostError(str(self.number), told)

    async def _post(self, number: int, records: Sequence[bytes]) -> None:
        self._check_running()
        self._end.post(number, records)

    async def _pull(self, ack: int, max: int, wait: float) -> Pulled:
        self._check_running()
        until = trio.current_time() + wait
        pull = self._end.begin_pull(ack, max)
        while True:
            found = pull.reply(even_empty=trio.current_time() >= until)
            if found is not None:
                return found
            with trio.move_on_at(until):
                await self._changed.wait()
            self._check_running()


@attrs.define(eq=False)
class _Request(Generic[T]):
    """A request on its way. It goes on when nobody waits for its reply any more, and may then be late.

    Attributes:
      reply: what came of it; what could not be thought of raises where the workers run.
      is_over: set when there is one.
    """

    reply: T | WorkerLostError | WorkerUnavailableError | None = None
    is_over: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, worker: InProcessWorker, way: _Way, serve: Callable[[], Awaitable[T]]) -> None:
        """Carry it to the worker, and the reply back."""
        try:
            await way.travel(worker)
            try:
                reply: T | WorkerLostError = await serve()
            except WorkerLostError as error:
                reply = error
            await way.travel(worker)
            self.reply = reply
        except WorkerUnavailableError as error:
            self.reply = error
        self.is_over.set()


class _InProcessTransport:
    """The way to one worker."""

    def __init__(self, worker: InProcessWorker, way: _Way, nursery: trio.Nursery) -> None:
        self._worker = worker
        self._way = way
        self._nursery = nursery

    async def post(self, number: int, records: Sequence[bytes]) -> None:
        """Hand records to the worker."""
        await self._ask(lambda: self._worker._post(number, records))

    async def pull(self, ack: int, max: int, wait: float) -> Pulled:
        """Return what the worker has to tell."""
        return await self._ask(lambda: self._worker._pull(ack, max, wait))

    async def _ask(self, serve: Callable[[], Awaitable[T]]) -> T:
        request = _Request[T]()
        self._nursery.start_soon(request.run, self._worker, self._way, serve)
        await request.is_over.wait()
        reply = request.reply
        if isinstance(reply, WorkerLostError | WorkerUnavailableError):
            raise reply
        return cast(T, reply)

    async def aclose(self) -> None:
        """End the worker."""
        self._worker._end.close("the head has ended it")
        self._worker._die("the head has ended it")
        await trio.lowlevel.checkpoint()


class InProcessPlacement(RemotePlacement):
    """Runs placed agents in workers that are tasks of this program; for tests, and to try out.

    Everything is as with worker processes: what agents are given, return and raise is pickled; the workers
    have leases; requests and replies may be lost, late, or come in another order. Only the memory is shared,
    and what blocks the program blocks them all. In `simulate` it takes virtual time, and the same seed gives
    the same run.

    Attributes:
      workers: those that were started so far, in their order, also those that have ended.

    Args:
      workers: how many.
      lease: seconds, at least 2.
      loss: how likely each request is lost, and each reply, from 0 up to, but not including, 1.
      delay: seconds that each of them takes at the most; how long is decided by lot. Those that were taken
        for lost may so arrive late.
      seed: decides what is lost, and how long everything takes. By default the module `random` draws one,
        which a simulation seeds.
      driver: as of `RemotePlacement`.

    Raises:
      TypeError, ValueError: if an argument makes no sense.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        lease: float = 10.0,
        loss: float = 0.0,
        delay: float = 0.0,
        seed: int | None = None,
        driver: Callable[[], AbstractAsyncContextManager[Any]] | str | None = None,
    ) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int):
            raise TypeError(f"workers must be an int, not {workers!r}")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        if not SHORTEST_LEASE <= lease < math.inf:
            raise ValueError(f"lease must be at least {SHORTEST_LEASE:g} seconds, not {lease}")
        if not 0 <= loss < 1:
            raise ValueError(f"loss must be at least 0 and less than 1, not {loss}")
        if not 0 <= delay < math.inf:
            raise ValueError(f"delay must be at least 0 seconds, not {delay}")
        self.lease = lease
        self.driver = driver
        self.workers: list[InProcessWorker] = []
        self._count = workers
        self._loss = loss
        self._delay = delay
        self._seed = seed

    def __repr__(self) -> str:
        return f"<InProcessPlacement, {sum(each.is_running for each in self.workers)} workers run>"

    def open(self) -> AbstractAsyncContextManager[Workers]:
        """Return the block in which workers can be started."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Workers]:
        seed = random.getrandbits(64) if self._seed is None else self._seed
        way = _Way(self._loss, self._delay, random.Random(seed))
        async with trio.open_nursery() as nursery:
            yield _InProcessWorkers(self._count, self.lease, way, nursery, self.workers)
            nursery.cancel_scope.cancel("the pool has ended")


@attrs.define(eq=False)
class _InProcessWorkers:
    """Where the workers of a placement are started."""

    count: int
    _lease: float
    _way: _Way
    _nursery: trio.Nursery
    _started: list[InProcessWorker]

    async def start(self, setup: bytes) -> _InProcessTransport:
        """Start a worker."""
        worker = InProcessWorker(len(self._started) + 1, self._lease)
        self._started.append(worker)
        self._nursery.start_soon(worker._run, setup, name=f"worker {worker.number}")
        await trio.lowlevel.checkpoint()
        return _InProcessTransport(worker, self._way, self._nursery)

    def dumps(self, value: Any) -> bytes:
        """Pickle a value."""
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
