"""The worker's end of the way to its head: what threads that serve requests and its trio program share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from agentpool._core.wire import Intake, Lease, Outgoing
from agentpool.abc import Pulled


class WorkerEnd:
    """What a worker has got and has to tell; safe in threads.

    Attributes:
      on_records: called in any thread when there is something to take, or the end was closed.
      closed: why it was closed; None as long as it is open.
    """

    def __init__(self, lease: float, clock: Callable[[], float]) -> None:
        """Begin.

        Args:
          lease: seconds that the worker lives on without proof that its head hears it.
          clock: tells the time in seconds; never goes back, and goes on while the machine sleeps.
        """
        self.on_records: Callable[[], object] | None = None
        self.closed: str | None = None
        self._clock = clock
        self._changed = threading.Condition()
        self._lease = Lease.begin(lease, clock())
        self._intake = Intake()
        self._got: list[bytes] = []
        self._outgoing = Outgoing()
        self._pulls = 0

    @property
    def expires_at(self) -> float:
        """When the worker has to have ended, on its clock."""
        with self._changed:
            return self._lease.expires_at

    @property
    def is_expired(self) -> bool:
        """Whether the worker may not run its agents any more."""
        return self._clock() >= self.expires_at

    # -- requests of the head, in any thread -------------------------------------------------------------

    def post(self, number: int, records: Sequence[bytes]) -> None:
        """Take records in; the same number again does nothing.

        Raises:
          WireError: if a request before it is missing.
        """
        with self._changed:
            if number == self._intake.number + 1:
                self._lease.proved("post", number - 1)
            self._got += self._intake.take(number, records)
            self._lease.replied("post", number, self._clock())
        self._tell()

    def pull(self, ack: int, max: int, wait: float) -> Pulled:
        """Return what there is to tell, waiting for something in this thread for at most `wait` seconds.

        A newer pull ends one that still waits, which was taken for lost.

        Raises:
          WireError: if the head cannot have received the reply that it acknowledges.
        """
        with self._changed:
            self._pulls += 1
            own = self._pulls
            self._changed.notify_all()
            self._lease.proved("pull", ack)
            until = self._clock() + wait
            while True:
                left = until - self._clock()
                is_old = own != self._pulls
                if is_old:
                    return Pulled(ack, ())  # nobody hears it
                found = self._reply(ack, max, even_empty=left <= 0 or self.closed is not None)
                if found is not None:
                    return found
                self._changed.wait(left)

    def pull_now(self, ack: int, max: int, *, even_empty: bool) -> Pulled | None:
        """As `pull`, without waiting; None if there is nothing to tell yet."""
        with self._changed:
            self._lease.proved("pull", ack)
            return self._reply(ack, max, even_empty=even_empty)

    def _reply(self, ack: int, most: int, *, even_empty: bool) -> Pulled | None:
        reply = self._outgoing.reply(ack, most, even_empty=even_empty)
        if reply is None:
            return None
        self._lease.replied("pull", reply[0], self._clock())
        return Pulled(*reply)

    # -- the worker's program -----------------------------------------------------------------------------

    def put(self, record: bytes) -> None:
        """Have a record pulled after all that were put before."""
        with self._changed:
            self._outgoing.put(record)
            self._changed.notify_all()

    @property
    def has_records(self) -> bool:
        """Whether there is something that was not pulled."""
        return bool(len(self._outgoing))

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
        self._tell()

    def _tell(self) -> None:
        on_records = self.on_records
        if on_records is not None:
            on_records()
