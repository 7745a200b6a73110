"""Records arrive once and in order however packets are lost, and a worker ends before it is declared lost."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import attrs
import pytest

from agentpool._core.wire import Intake, Kind, Lease, Outbox, Outgoing, Patience, Replies, WireError

LEASE = 10.0
MARGIN = 2.0


def bodies(count: int, size: int = 1) -> list[bytes]:
    return [bytes([number]) * size for number in range(count)]


# -- posts -----------------------------------------------------------------------------------------


def test_a_post_is_the_same_until_it_is_answered() -> None:
    outbox = Outbox()
    assert outbox.next_post(10, 100) is None
    for record in (b"a", b"b"):
        outbox.put(record)
    first = outbox.next_post(10, 100)
    assert first == (1, (b"a", b"b"))
    outbox.put(b"c")
    assert outbox.next_post(10, 100) == first
    assert len(outbox) == 3
    outbox.posted(1)
    assert len(outbox) == 1
    assert outbox.next_post(10, 100) == (2, (b"c",))
    outbox.posted(1)  # told twice
    assert outbox.next_post(10, 100) == (2, (b"c",))


@pytest.mark.parametrize(
    ("most", "most_bytes", "expected"),
    [(2, 100, [2, 2, 1]), (10, 20, [2, 2, 1]), (10, 19, [1] * 5), (10, 3, [1] * 5), (10, 50, [5])],
)
def test_a_post_and_a_reply_are_bounded_in_records_and_bytes(
    most: int, most_bytes: int, expected: list[int]
) -> None:
    outbox, outgoing = Outbox(), Outgoing()
    for record in bodies(5, 10):
        outbox.put(record)
        outgoing.put(record)
    assert outgoing.waiting_bytes == 50
    posts, replies = [], []
    for ack, _ in enumerate(expected):
        batch = outbox.next_post(most, most_bytes)
        reply = outgoing.reply(ack, most, most_bytes, even_empty=False)
        assert batch is not None
        assert reply is not None
        posts.append(len(batch[1]))
        replies.append(len(reply[1]))
        outbox.posted(batch[0])
    assert posts == replies == expected
    assert len(outbox) == len(outgoing) == outgoing.waiting_bytes == 0


def test_a_post_that_comes_again_is_nothing_new() -> None:
    intake = Intake()
    assert intake.take(1, [b"a"]) == [b"a"]
    assert intake.take(1, [b"a"]) == ()
    assert intake.take(2, [b"b"]) == [b"b"]
    assert intake.take(1, [b"a"]) == ()  # late
    assert intake.number == 2


@pytest.mark.parametrize("number", [0, -1, 4])
def test_a_post_that_cannot_be_is_an_error_that_names_both_numbers(number: int) -> None:
    intake = Intake()
    intake.take(1, [])
    intake.take(2, [])
    with pytest.raises(WireError, match=rf"post {number} .*2"):
        intake.take(number, [b"x"])
    assert intake.number == 2


# -- pulls -----------------------------------------------------------------------------------------


def test_a_reply_is_the_same_until_it_is_acknowledged() -> None:
    outgoing = Outgoing()
    assert outgoing.reply(0, 10, 100, even_empty=False) is None
    outgoing.put(b"a")
    first = outgoing.reply(0, 10, 100, even_empty=False)
    assert first == (1, (b"a",))
    outgoing.put(b"b")
    assert outgoing.reply(0, 10, 100, even_empty=False) == first
    assert outgoing.reply(1, 10, 100, even_empty=False) == (2, (b"b",))
    assert outgoing.reply(2, 10, 100, even_empty=False) is None
    outgoing.put(b"c")
    assert outgoing.reply(2, 10, 100, even_empty=True) == (3, (b"c",))
    assert outgoing.reply(3, 10, 100, even_empty=True) == (4, ())


def test_a_late_pull_is_told_nothing() -> None:
    outgoing, replies = Outgoing(), Replies()
    for record in bodies(3):
        outgoing.put(record)
    for ack in (0, 1, 2):
        found = outgoing.reply(ack, 1, 100, even_empty=False)
        assert found is not None
        replies.take(*found)
    assert not outgoing.is_late(2)  # its reply may have been lost
    for ack in (0, 1):
        assert outgoing.is_late(ack)
        found = outgoing.reply(ack, 1, 100, even_empty=True)
        assert found == (ack, ())
        assert replies.take(*found) == ()
    assert replies.ack == outgoing.number == 3


def test_an_acknowledgment_of_what_was_not_sent_is_an_error_that_names_both_numbers() -> None:
    outgoing = Outgoing()
    outgoing.reply(0, 10, 100, even_empty=True)
    with pytest.raises(WireError, match=r"reply 2 .*1 was the last"):
        outgoing.reply(2, 10, 100, even_empty=True)
    assert outgoing.acknowledged == 0


def test_a_reply_that_comes_twice_is_nothing_new() -> None:
    replies = Replies()
    assert replies.take(0, ()) == ()  # a newer pull ended the first one
    assert replies.take(1, [b"a"]) == [b"a"]
    assert replies.take(1, [b"a"]) == ()
    assert replies.ack == 1
    for number in (-1, 3):
        with pytest.raises(WireError, match=rf"reply {number} .*1"):
            replies.take(number, [b"x"])


# -- the lease -------------------------------------------------------------------------------------


def test_a_lease_counts_from_the_reply_and_not_from_its_proof() -> None:
    lease = Lease.begin(10, 100)
    assert lease.expires_at == 110
    lease.replied("pull", 1, 103)
    assert lease.expires_at == 110
    lease.proved("pull", 1)
    assert lease.expires_at == 113
    lease.proved("pull", 1)
    assert lease.expires_at == 113


def test_a_lease_counts_from_the_first_time_that_a_reply_was_made() -> None:
    lease = Lease.begin(10, 100)
    lease.replied("post", 1, 101)
    lease.replied("post", 1, 108)
    lease.proved("post", 1)
    assert lease.expires_at == 111


def test_a_lease_is_extended_by_the_proof_of_the_last_reply_of_that_kind_only() -> None:
    lease = Lease.begin(10, 100)
    lease.proved("post", 0)
    lease.replied("pull", 1, 105)
    lease.proved("post", 1)
    lease.proved("pull", 0)
    assert lease.expires_at == 110
    lease.replied("pull", 2, 106)
    lease.replied("pull", 1, 107)  # a late one
    lease.proved("pull", 1)
    assert lease.expires_at == 110
    lease.replied("post", 1, 101)
    lease.proved("pull", 2)
    lease.proved("post", 1)  # an older one takes nothing back
    assert lease.expires_at == 116


def test_patience_counts_from_the_last_new_request() -> None:
    patience = Patience.begin(12, 50)
    assert patience.lost_at == 62
    patience.asked(55)
    patience.asked(53)
    assert patience.lost_at == 67


# -- both ends over a way that loses, delays and reorders ------------------------------------------


@attrs.define
class Way:
    """How bad the way is between the two.

    Attributes:
      loss: of each packet.
      delay: of each packet, at the most; a request counts as lost after `timeout`.
      cut_at: from then on nothing arrives that is sent.
    """

    loss: float
    delay: float
    timeout: float
    cut_at: float

    @classmethod
    def draw(cls, random: Random) -> Way:
        return cls(
            random.choice([0, 0.1, 0.5, 0.9]),
            random.choice([0, 0.3, 3, 30]),
            random.choice([0.5, 2]),
            random.choice([float("inf"), random.uniform(0, 60)]),
        )


class Walk:
    """A head and a worker, whose clocks differ, as events on a line of time."""

    def __init__(
        self,
        seed: int,
        way: Way,
        *,
        lease: type[Lease] = Lease,
        patience: type[Patience] = Patience,
        intake: Callable[[], Intake] = Intake,
        outgoing: Callable[[], Outgoing] = Outgoing,
        replies: Callable[[], Replies] = Replies,
    ) -> None:
        self.random = Random(seed)
        self.way = way
        self.now = 0.0
        self.ahead = self.random.uniform(-1000, 1000)  # the worker's clock
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = itertools.count()
        # The worker answers its start, which takes its time.
        self.lease = lease.begin(LEASE, self.worker_now)
        self.now = self.random.uniform(0, 5)
        self.patience = patience.begin(LEASE + MARGIN, self.now)
        self.outbox, self.intake = Outbox(), intake()
        self.outgoing, self.replies = outgoing(), replies()
        self.sent: dict[Kind, list[bytes]] = {"post": [], "pull": []}
        self.came: dict[Kind, list[bytes]] = {"post": [], "pull": []}
        self.under_way: dict[Kind, int] = {"post": 0, "pull": 0}
        self.is_lost = False
        self.ended_at: float | None = None
        self.check()

    @property
    def worker_now(self) -> float:
        return self.now + self.ahead

    def later(self, seconds: float, event: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._serial), event))

    def travel(self, arrive: Callable[[], object]) -> None:
        if self.now < self.way.cut_at and self.random.random() >= self.way.loss:
            self.later(self.random.uniform(0, self.way.delay), arrive)

    def run(self, seconds: float) -> None:
        self.later(0, self.next_pull)
        self.later(0, self.next_post)
        until = self.now + seconds
        while self._events:
            at, _, event = heapq.heappop(self._events)
            if at > until:
                break
            if at >= self.patience.lost_at:
                self.now = self.patience.lost_at
                self.is_lost = True
                self.check()
                break
            self.now = at
            event()
            self.check()

    def check(self) -> None:
        """Whatever happens from here on, the worker ends before it is declared lost."""
        assert self.lease.expires_at - self.ahead <= self.patience.lost_at - MARGIN + 1e-6
        for kind in ("post", "pull"):
            came = self.came[kind]
            assert came == self.sent[kind][: len(came)]

    # -- the head ----------------------------------------------------------------------------------

    def next_post(self) -> None:
        for _ in range(self.random.randint(0, 3)):
            record = self.random.randbytes(self.random.randint(0, 9))
            self.sent["post"].append(record)
            self.outbox.put(record)
        batch = self.outbox.next_post(2, 10)
        if batch is None:
            self.later(self.random.uniform(0, 2), self.next_post)
            return
        number, records = batch
        self.patience.asked(self.now)
        self.ask("post", lambda reply: self.on_post(number, records, reply), lambda _: self.posted(number))

    def posted(self, number: int) -> None:
        self.outbox.posted(number)
        self.later(self.random.choice([0, 0, self.random.uniform(0, 5)]), self.next_post)

    def next_pull(self) -> None:
        ack = self.replies.ack
        self.patience.asked(self.now)
        self.ask("pull", lambda reply: self.on_pull(ack, reply), self.pulled)

    def pulled(self, reply: tuple[int, Sequence[bytes]]) -> None:
        self.came["pull"] += self.replies.take(*reply)
        self.later(self.random.choice([0, 0, self.random.uniform(0, 1)]), self.next_pull)

    def ask(
        self,
        kind: Kind,
        request: Callable[[Callable[[object], object]], object],
        answered: Callable[[Any], object],
    ) -> None:
        """Make a request until it is answered; replies to those taken for lost are seldom heard."""
        self.under_way[kind] += 1
        own = self.under_way[kind]

        def heard(reply: object) -> None:
            if own == self.under_way[kind]:
                self.under_way[kind] += 1
                answered(reply)
            elif isinstance(reply, tuple) and self.random.random() < 0.1:
                self.came["pull"] += self.replies.take(*reply)

        def again() -> None:
            if own == self.under_way[kind]:
                self.ask(kind, request, answered)

        self.travel(lambda: request(lambda reply: self.travel(lambda: heard(reply))))
        self.later(self.way.timeout, again)

    # -- the worker --------------------------------------------------------------------------------

    @property
    def worker_runs(self) -> bool:
        if self.ended_at is None and self.worker_now >= self.lease.expires_at:
            self.ended_at = self.lease.expires_at - self.ahead
        return self.ended_at is None

    def on_post(self, number: int, records: Sequence[bytes], reply: Callable[[object], object]) -> None:
        if self.worker_runs:
            if number == self.intake.number + 1:
                self.lease.proved("post", number - 1)
            self.came["post"] += self.intake.take(number, records)
            self.lease.replied("post", number, self.worker_now)
            reply(None)

    def on_pull(self, ack: int, reply: Callable[[object], object]) -> None:
        if not self.worker_runs:
            return
        for _ in range(self.random.randint(0, 3)):
            record = self.random.randbytes(self.random.randint(0, 9))
            self.sent["pull"].append(record)
            self.outgoing.put(record)
        self.lease.proved("pull", ack)
        found = self.outgoing.reply(ack, 2, 10, even_empty=self.random.random() < 0.5)
        if found is None:
            self.later(0.2, lambda: self.on_pull(ack, reply))
            return
        self.lease.replied("pull", found[0], self.worker_now)
        reply(found)


def walks(count: int, **rules: type) -> list[Walk]:
    done = []
    for seed in range(count):
        walk = Walk(seed, Way.draw(Random(f"way {seed}")), **rules)
        walk.run(90)
        done.append(walk)
    return done


def test_whatever_is_lost_or_late_everything_comes_once_in_order_and_no_worker_outlives_its_loss() -> None:
    done = walks(500)
    # They went far, and saw both ends.
    assert sum(walk.is_lost for walk in done) > 100
    assert sum(not walk.is_lost for walk in done) > 50
    assert sum(len(walk.came["post"]) + len(walk.came["pull"]) for walk in done) > 20_000
    for walk in done:
        if walk.is_lost:
            assert not walk.worker_runs
            assert walk.ended_at is not None
            assert walk.ended_at <= walk.now - MARGIN + 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_on_a_good_way_nobody_is_lost_and_everything_comes(seed: int) -> None:
    walk = Walk(seed, Way(loss=0, delay=0.1, timeout=0.5, cut_at=float("inf")))
    walk.run(200)
    assert not walk.is_lost
    assert walk.worker_runs
    for kind in ("post", "pull"):
        assert len(walk.sent[kind]) - len(walk.came[kind]) < 100
        assert len(walk.came[kind]) > 100


@pytest.mark.parametrize("seed", range(20))
def test_a_worker_that_is_cut_off_ends_within_its_lease_and_is_lost_within_a_margin_more(seed: int) -> None:
    walk = Walk(seed, Way(loss=0, delay=0.1, timeout=0.5, cut_at=30))
    walk.run(200)
    assert walk.is_lost
    assert not walk.worker_runs
    assert walk.ended_at is not None
    assert 30 < walk.ended_at <= 30 + LEASE
    assert walk.ended_at + MARGIN - 1e-6 <= walk.now <= 30 + 2 * 5 + LEASE + MARGIN


# -- rules that are broken, which the walk has to see ----------------------------------------------


class CountsRepeatedReplies(Lease):
    def replied(self, kind: Kind, number: int, now: float) -> None:
        self._replied[kind] = (number, now)


class CountsFromTheProof(Lease):
    """As one that takes any request for a sign of life."""

    clock: Callable[[], float]

    def proved(self, kind: Kind, number: int) -> None:
        self.expires_at = max(self.expires_at, self.clock() + self.seconds)


class ForgetsTheMargin(Patience):
    def asked(self, now: float) -> None:
        self.lost_at = max(self.lost_at, now + self.seconds - MARGIN)


class CountsFromTheAnswerBefore(Patience):
    """As one that begins with the request before the one that is unanswered."""

    before = float("-inf")

    def asked(self, now: float) -> None:
        self.lost_at, self.before = max(self.lost_at, self.before + self.seconds), now


class BeginsWhenItAsks(Patience):
    @classmethod
    def begin(cls, seconds: float, now: float) -> Patience:
        return cls(seconds, now - 5 + seconds)


class TakesTwice(Intake):
    def take(self, number: int, records: Sequence[bytes]) -> Sequence[bytes]:
        self.number = max(self.number, number)
        return records


class TakesRepliesTwice(Replies):
    def take(self, number: int, records: Sequence[bytes]) -> Sequence[bytes]:
        self.ack = max(self.ack, number)
        return records


class ForgetsItsReply(Outgoing):
    def reply(
        self, ack: int, most: int, most_bytes: int, *, even_empty: bool
    ) -> tuple[int, Sequence[bytes]] | None:
        if ack == self.number - 1 and not self.is_late(ack):
            self.acknowledged = ack = self.number
        return super().reply(ack, most, most_bytes, even_empty=even_empty)


@pytest.mark.parametrize(
    "rules",
    [
        {"lease": CountsRepeatedReplies},
        {"patience": ForgetsTheMargin},
        {"patience": CountsFromTheAnswerBefore},
        {"patience": BeginsWhenItAsks},
        {"intake": TakesTwice},
        {"replies": TakesRepliesTwice},
        {"outgoing": ForgetsItsReply},
    ],
    ids=lambda rules: next(iter(rules.values())).__name__,
)
def test_the_walk_sees_a_broken_rule(rules: dict[str, type]) -> None:
    with pytest.raises((AssertionError, WireError)):
        walks(500, **rules)


def test_the_walk_sees_a_lease_that_any_request_extends() -> None:
    with pytest.raises(AssertionError):
        for seed in range(200):
            walk = Walk(seed, Way(0.5, 3, 0.5, 30), lease=CountsFromTheProof)
            assert isinstance(walk.lease, CountsFromTheProof)
            walk.lease.clock = lambda walk=walk: walk.worker_now  # type: ignore[misc]
            walk.run(90)
