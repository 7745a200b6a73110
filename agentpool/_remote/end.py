"""The worker's end of the way to its head: what threads that serve requests and its trio program share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agentpool._core.errors import WorkerLostError
from agentpool._core.wire import Intake, Lease, Outgoing
from agentpool.abc import Pulled

MOST_BYTES = 4_000_000
"""A reply with so many bytes takes no more records, though one record may be longer."""

MOST_WAITING = 8192
"""With so many records that wait to be pulled there is no room for more."""

MOST_WAITING_BYTES = 64_000_000
"""With so many bytes that wait to be pulled there is no room for more."""


class WorkerEnd:
    """What a worker has got and has to tell; safe in threads.

    It is closed by `close`, or by itself when its lease has run out. Then nothing more is taken in or told,
    so that the head hears nothing of agents that are cancelled because it did not hear of them.

    Attributes:
      on_records: called in any thread when there is something to take, or the end was closed.
      on_change: called in any thread when `WaitingPull.reply` may return something else than before.
      on_room: called in any thread when there is room, or the end was closed.
      closed: why it was closed; None as long as it is open.
    """

    def __init__(self, lease: float, clock: Callable[[], float], name: str = "(unnamed)") -> None:
        """Begin.

        Args:
          lease: seconds that the worker lives on without proof that its head hears it.
          clock: tells the time in seconds; never goes back, and goes on while the machine sleeps.
          name: names the worker, in errors.
        """
        self.on_records: Callable[[], object] | None = None
        self.on_change: Callable[[], object] | None = None
        self.on_room: Callable[[], object] | None = None
        self.closed: str | None = None
        self.name = name
        self._clock = clock
        self._changed = threading.Condition()
        self._lease = Lease.begin(lease, clock())
        self._intake = Intake()
        self._got: list[bytes] = []
        self._outgoing = Outgoing()
        self._pulls = 0

    def __repr__(self) -> str:
        state = "open" if self.closed is None else f"closed: {self.closed}"
        return f"<WorkerEnd of worker {self.name}, {state}>"

    @property
    def expires_at(self) -> float:
        """When the worker has to have ended, on its clock."""
        with self._changed:
            return self._lease.expires_at

    # -- requests of the head, in any thread -------------------------------------------------------------

    def post(self, number: int, records: Sequence[bytes]) -> None:
        """Take records in; the same number again does nothing.

        Raises:
          WireError: if a request before it is missing.
          WorkerLostError: if this end is closed.
        """
        with self._serving():
            if number == self._intake.number + 1:
                self._lease.proved("post", number - 1)
            self._got += self._intake.take(number, records)
            self._lease.replied("post", number, self._clock())
        _call(self.on_records)

    def pull(self, ack: int, max: int, wait: float) -> Pulled:
        """Return what there is to tell, waiting for something in this thread for at most `wait` seconds.

        A newer pull ends one that still waits, which was taken for lost.

        Raises:
          WireError: if the head cannot have received the reply that it acknowledges.
          WorkerLostError: if this end is closed, also while it waits.
        """
        pull = self.begin_pull(ack, max)
        until = self._clock() + wait
        with self._serving():
            while True:
                left = until - self._clock()
                found = self._reply(pull, even_empty=left <= 0)
                if found is not None:
                    break
                self._changed.wait(left)
                self._check_open()
        self._tell_room()
        return found

    def begin_pull(self, ack: int, max: int) -> WaitingPull:
        """Begin a pull that is waited for elsewhere than in a thread, and end the one before it.

        Raises:
          WorkerLostError: if this end is closed.
        """
        with self._serving():
            # One that is late, for sure, is not to disturb the one that waits.
            if not self._outgoing.is_late(ack):
                self._pulls += 1
                self._changed.notify_all()
            number = self._pulls
        _call(self.on_change)
        return WaitingPull(self, number, ack, max)

    def _look(self, pull: WaitingPull, even_empty: bool) -> Pulled | None:
        with self._serving():
            found = self._reply(pull, even_empty)
        self._tell_room()
        return found

    def _reply(self, pull: WaitingPull, even_empty: bool) -> Pulled | None:
        if pull.number != self._pulls:
            return Pulled(pull.ack, ())  # nobody hears it, most likely; if the head does, it asks again
        self._lease.proved("pull", pull.ack)
        reply = self._outgoing.reply(pull.ack, pull.max, MOST_BYTES, even_empty=even_empty)
        if reply is None:
            return None
        self._lease.replied("pull", reply[0], self._clock())
        return Pulled(*reply)

    @contextmanager
    def _serving(self) -> Iterator[None]:
        """Hold the lock for a request."""
        try:
            with self._changed:
                self._check_open()
                yield
        except WorkerLostError:
            self._tell_closed()  # without the lock: what it calls may take others
            raise

    def _check_open(self) -> None:
        if self.closed is None and self._clock() >= self._lease.expires_at:
            # From here on no request can move the lease any more.
            self.closed = "its lease has run out"
        if self.closed is not None:
            raise WorkerLostError(self.name, self.closed)

    def _tell_closed(self) -> None:
        _call(self.on_records)
        _call(self.on_change)
        _call(self.on_room)

    def _tell_room(self) -> None:
        if self.has_room:
            _call(self.on_room)

    # -- the worker's program -----------------------------------------------------------------------------

    def put(self, record: bytes) -> None:
        """Have a record pulled after all that were put before; also if there is no room for it."""
        with self._changed:
            self._outgoing.put(record)
            self._changed.notify_all()
        _call(self.on_change)

    @property
    def has_room(self) -> bool:
        """Whether so little waits to be pulled that more may be put: who can wait waits for `on_room`."""
        with self._changed:
            outgoing = self._outgoing
            return len(outgoing) < MOST_WAITING and outgoing.waiting_bytes < MOST_WAITING_BYTES

    def take(self) -> Sequence[bytes]:
        """Return what was posted since."""
        with self._changed:
            got, self._got = self._got, []
            return got

    def close(self, reason: str) -> None:
        """Have the program end. Harmless if repeated."""
        with self._changed:
            if self.closed is None:
                self.closed = reason
            self._changed.notify_all()
        self._tell_closed()


class WaitingPull:
    """A pull that waits for something to tell; made by `WorkerEnd.begin_pull`.

    Attributes:
      number: counts the pulls.
      ack, max: what it asks for.
    """

    def __init__(self, end: WorkerEnd, number: int, ack: int, max: int) -> None:
        self.number = number
        self.ack = ack
        self.max = max
        self._end = end

    def reply(self, *, even_empty: bool) -> Pulled | None:
        """Return what there is to tell; None if there is nothing yet. To be asked again after `on_change`.

        Args:
          even_empty: whether to reply though there is nothing to tell.

        Raises:
          WireError: if the head cannot have received the reply that it acknowledges.
          WorkerLostError: if the end is closed.
        """
        return self._end._look(self, even_empty)


def _call(callback: Callable[[], object] | None) -> None:
    if callback is not None:
        callback()
