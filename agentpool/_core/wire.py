"""How records get from one process to the other once and in order, though requests and replies are lost.

The head asks, and the worker replies; nothing else travels. There are two kinds of request, and of each kind
one is under way at a time:

    post(number, records)   the head's records. A request is repeated, with the same number, until it is
                            answered; the worker drops what it has got before.
    pull(ack)               asks for the worker's records. Replies are numbered; a reply is repeated, the same
                            records in it, until a pull acknowledges it.

The lease. A worker may count only on what the head surely has got from it. A request that is not a repeated
one proves that the reply before it arrived:

    worker   a new request proves the reply before it, made at time r:   expires_at = r + L
    head     sends that new request at time t >= r, since it had the reply by then:  lost_at = t + L + margin

So `expires_at <= lost_at - margin` for each pair, whichever way packets are lost afterwards: as long as
nothing new is sent both stay as they are, and a repeated request moves neither. The clocks of the two need
not agree about the time, only about how long a second is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, TypeAlias

import attrs

Kind: TypeAlias = Literal["post", "pull"]


class WireError(Exception):
    """A request that cannot be: one of the two processes is not what the other takes it for."""


# -- the head's records -------------------------------------------------------------------------


class Outbox:
    """The head's end of posts."""

    def __init__(self) -> None:
        self._records: deque[bytes] = deque()
        self._number = 0
        self._batch: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self._records) + len(self._batch or ())

    def put(self, record: bytes) -> None:
        """Have a record posted after all that were put before."""
        self._records.append(record)

    def next_post(self, max_records: int, max_bytes: int) -> tuple[int, Sequence[bytes]] | None:
        """Return the next request, the same one until it was answered; None if there is nothing to post.

        Args:
          max_records: how many records it has at the most.
          max_bytes: it takes no more records once it has so many bytes.
        """
        if self._batch is None:
            if not self._records:
                return None
            batch: list[bytes] = []
            size = 0
            while self._records and len(batch) < max_records and size < max_bytes:
                record = self._records.popleft()
                batch.append(record)
                size += len(record)
            self._batch = tuple(batch)
            self._number += 1
        return self._number, self._batch

    def posted(self, number: int) -> None:
        """The request was answered."""
        if number == self._number:
            self._batch = None


class Intake:
    """The worker's end of posts.

    Attributes:
      number: of the last one that was taken.
    """

    def __init__(self) -> None:
        self.number = 0

    def take(self, number: int, records: Sequence[bytes]) -> Sequence[bytes]:
        """Return what is new of a request: all of it, or nothing if it was taken before.

        Raises:
          WireError: if one before it is missing.
        """
        if number == self.number + 1:
            self.number = number
            return records
        if 0 < number <= self.number:
            return ()
        raise WireError(f"post {number} has come, and the one after {self.number} is missing")


# -- the worker's records -----------------------------------------------------------------------


class Replies:
    """The head's end of pulls.

    Attributes:
      ack: the number of the last reply that was received.
    """

    def __init__(self) -> None:
        self.ack = 0

    def take(self, number: int, records: Sequence[bytes]) -> Sequence[bytes]:
        """Return what is new of a reply: all of it, or nothing if it was received before.

        Raises:
          WireError: if it is the reply to no request that was made.
        """
        if number == self.ack + 1:
            self.ack = number
            return records
        if 0 < number <= self.ack:
            return ()  # of an earlier request, which was taken for lost
        raise WireError(f"reply {number} has come, though {self.ack} was the last")


class Outgoing:
    """The worker's end of pulls.

    Attributes:
      number: of the last reply that was made.
    """

    def __init__(self) -> None:
        self.number = 0
        self._records: deque[bytes] = deque()
        self._reply: Sequence[bytes] = ()
        self._is_acknowledged = True

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: bytes) -> None:
        """Have a record pulled after all that were put before."""
        self._records.append(record)

    def reply(self, ack: int, most: int, *, even_empty: bool) -> tuple[int, Sequence[bytes]] | None:
        """Return the reply to a pull; None if there is nothing to tell yet.

        Args:
          ack: the number of the last reply that the head received.
          most: how many records it has at the most.
          even_empty: whether to reply though there is nothing to tell.

        Raises:
          WireError: if the head cannot have received that reply, or had received a later one.
        """
        if ack == self.number - 1 and not self._is_acknowledged:
            return self.number, self._reply  # it was lost, or is about to come twice
        if ack != self.number:
            raise WireError(f"reply {ack} is acknowledged, though {self.number} was the last")
        self._is_acknowledged = True
        if not self._records and not even_empty:
            return None
        count = min(most, len(self._records))
        self._reply = tuple([self._records.popleft() for _ in range(count)])
        self.number += 1
        self._is_acknowledged = False
        return self.number, self._reply


# -- the lease ----------------------------------------------------------------------------------


@attrs.define
class Lease:
    """Until when a worker may run its agents.

    Attributes:
      seconds: how long it lasts after a reply of which it is proved that the head received it.
      expires_at: on the worker's clock.
    """

    seconds: float
    expires_at: float
    _replied: dict[Kind, tuple[int, float]] = attrs.field(factory=dict, init=False)

    @classmethod
    def begin(cls, seconds: float, now: float) -> Lease:
        """Begin when the worker has been started, which is what its first reply tells."""
        return cls(seconds, now + seconds)

    def replied(self, kind: Kind, number: int, now: float) -> None:
        """A reply was made for the first time; made again, it counts from then on no later."""
        last = self._replied.get(kind)
        if last is None or number > last[0]:
            self._replied[kind] = (number, now)

    def proved(self, kind: Kind, number: int) -> None:
        """A request has come that was made only when that reply had been received."""
        last = self._replied.get(kind)
        if last is not None and last[0] == number:
            self.expires_at = max(self.expires_at, last[1] + self.seconds)


@attrs.define
class Patience:
    """When the head may say that a worker is lost.

    Attributes:
      seconds: the worker's lease and a margin: for its watchdog, and for clocks that run at other speeds.
      lost_at: on the head's clock.
    """

    seconds: float
    lost_at: float

    @classmethod
    def begin(cls, seconds: float, now: float) -> Patience:
        """Begin when the worker is known to have been started."""
        return cls(seconds, now + seconds)

    def asked(self, now: float) -> None:
        """A new request is sent, which proves to the worker that its last reply was received."""
        self.lost_at = max(self.lost_at, now + self.seconds)


__all__ = ["Intake", "Kind", "Lease", "Outbox", "Outgoing", "Patience", "Replies", "WireError"]
