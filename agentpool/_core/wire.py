"""How records get from one process to the other once and in order, though requests and replies are lost.

The head asks, and the worker replies; nothing else travels. There are two kinds of request, and of each kind
one is under way at a time:

    post(number, records)   the head's records. A request is repeated, with the same number, until it is
                            answered; the worker drops what it has got before.
    pull(ack)               asks for the worker's records. Replies are numbered; a reply is repeated, the same
                            records in it, until a pull acknowledges it.

A request that was taken for lost may still arrive, late. The worker tells it by its number, does nothing, and
its reply is heard by nobody. Where a late pull cannot be told from the one that waits, the one that came last
has the reply; if that was the late one, the other comes back empty, and the next pull has it again.

The lease. A worker may count only on what the head surely has got from it. A request that is not a repeated
one proves that the reply before it arrived:

    worker   a new request proves the reply before it, first made at time r:    expires_at >= r + L
    head     first sends that request at time t >= r, as it had the reply then: lost_at >= t + L + margin

Claim: `expires_at <= lost_at - margin`, now and for all time if nothing new is sent. At the start, `begin`:
the worker begins its lease before it answers that it is there, and the head begins when it has that answer.
Later, `expires_at` moves only for a request that the head has sent, to r + L, and `lost_at` had moved to t
+ L + margin when it was sent; neither ever goes back. A lost packet takes a step away from the worker,
never from the head. A delayed one is the same request, however late it comes: r is when the reply was made,
not when its proof came. A repeated request moves neither: it proves nothing new. The clocks of the two need
not agree about the time, only about how long a second is; the margin is for what they disagree in that, and
for the end of the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, TypeAlias

import attrs

Kind: TypeAlias = Literal["post", "pull"]


class WireError(Exception):
    """A request that cannot be: one of the two processes is not what the other takes it for."""


def _first(records: deque[bytes], most: int, most_bytes: int) -> tuple[bytes, ...]:
    """Take off the first records, as many as fit; one at least."""
    taken = [records.popleft()]
    size = len(taken[0])
    while records and len(taken) < most and (size := size + len(records[0])) <= most_bytes:
        taken.append(records.popleft())
    return tuple(taken)


# -- the head's records -------------------------------------------------------------------------


class Outbox:
    """The head's end of posts.

    Attributes:
      count: how many records were put.
      taken: how many of them are, or were, in a request.
    """

    def __init__(self) -> None:
        self.count = 0
        self.taken = 0
        self._records: deque[bytes] = deque()
        self._number = 0
        self._batch: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self._records) + len(self._batch or ())

    def put(self, record: bytes) -> None:
        """Have a record posted after all that were put before."""
        self._records.append(record)
        self.count += 1

    def next_post(self, max_records: int, max_bytes: int) -> tuple[int, Sequence[bytes]] | None:
        """Return the next request, the same one until it was answered; None if there is nothing to post.

        Args:
          max_records: how many records it has at the most; at least 1.
          max_bytes: how many bytes it has at the most, unless it has one record, which is longer.
        """
        if self._batch is None:
            if not self._records:
                return None
            self._batch = _first(self._records, max_records, max_bytes)
            self.taken += len(self._batch)
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
        if 0 <= number <= self.ack:
            return ()  # it came twice, or a newer pull had ended this one
        raise WireError(f"reply {number} has come, though {self.ack} was the last")


class Outgoing:
    """The worker's end of pulls.

    Invariant: `number - 1 <= acknowledged <= number`.

    Attributes:
      number: of the last reply that was made.
      acknowledged: of the last one that the head has received.
      waiting_bytes: the size of the records that are in no reply yet.
    """

    def __init__(self) -> None:
        self.number = 0
        self.acknowledged = 0
        self.waiting_bytes = 0
        self._records: deque[bytes] = deque()
        self._reply: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: bytes) -> None:
        """Have a record pulled after all that were put before."""
        self._records.append(record)
        self.waiting_bytes += len(record)

    def is_late(self, ack: int) -> bool:
        """Whether a pull was taken for lost: the head has received a later reply since it was sent."""
        return ack < self.acknowledged

    def reply(
        self, ack: int, most: int, most_bytes: int, *, even_empty: bool
    ) -> tuple[int, Sequence[bytes]] | None:
        """Return the reply to a pull; None if there is nothing to tell yet.

        Args:
          ack: the number of the last reply that the head received.
          most: how many records it has at the most; at least 1.
          most_bytes: how many bytes it has at the most, unless it has one record, which is longer.
          even_empty: whether to reply though there is nothing to tell.

        Raises:
          WireError: if the head cannot have received that reply.
        """
        if ack > self.number:
            raise WireError(f"reply {ack} is acknowledged, though {self.number} was the last")
        if self.is_late(ack):
            return ack, ()
        if ack < self.number:
            return self.number, self._reply  # it was lost, or is about to come twice
        self.acknowledged = ack
        if not self._records and not even_empty:
            return None
        self._reply = _first(self._records, most, most_bytes) if self._records else ()
        self.waiting_bytes -= sum(map(len, self._reply))
        self.number += 1
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
        """Begin before the worker answers that it is there."""
        return cls(seconds, now + seconds)

    def replied(self, kind: Kind, number: int, now: float) -> None:
        """A reply is made; one that is made again counts from the first time."""
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
        """Begin when the worker has answered that it is there: its lease began before that."""
        return cls(seconds, now + seconds)

    def asked(self, now: float) -> None:
        """A new request is sent, which proves to the worker that its last reply was received."""
        self.lost_at = max(self.lost_at, now + self.seconds)


__all__ = ["Intake", "Kind", "Lease", "Outbox", "Outgoing", "Patience", "Replies", "WireError"]
