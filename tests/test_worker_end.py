"""The worker's end, as threads and its program see it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random

import pytest
import trio

from agentpool._core.errors import WorkerLostError
from agentpool._core.wire import Outbox, Replies, WireError
from agentpool._remote import end as end_module
from agentpool._remote.end import WorkerEnd
from agentpool.abc import Pulled

LEASE = 10.0
LONG = 60.0
"""So many seconds nothing here takes."""


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def end(clock: Clock) -> WorkerEnd:
    return WorkerEnd(LEASE, clock, "7")


# -- what comes and what is told -------------------------------------------------------------------


def test_what_is_posted_is_taken_once_and_in_order(end: WorkerEnd) -> None:
    told: list[None] = []
    end.on_records = lambda: told.append(None)
    end.post(1, [b"a", b"b"])
    end.post(1, [b"a", b"b"])
    end.post(2, [b"c"])
    assert list(end.take()) == [b"a", b"b", b"c"]
    assert list(end.take()) == []
    assert told


def test_a_post_before_which_one_is_missing_is_an_error(end: WorkerEnd) -> None:
    with pytest.raises(WireError, match="post 2"):
        end.post(2, [b"x"])
    assert list(end.take()) == []


def test_a_pull_has_what_was_put_and_the_same_again_until_it_is_acknowledged(end: WorkerEnd) -> None:
    end.put(b"a")
    assert end.pull(0, 10, 0) == Pulled(1, (b"a",))
    end.put(b"b")
    assert end.pull(0, 10, 0) == Pulled(1, (b"a",))
    assert end.pull(1, 10, 0) == Pulled(2, (b"b",))
    assert end.pull(2, 10, 0) == Pulled(3, ())


def test_a_reply_has_no_more_records_than_wanted_and_is_bounded_in_bytes(
    end: WorkerEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end_module, "MOST_BYTES", 10)
    for record in (b"a", b"b", b"c" * 9, b"d" * 50):
        end.put(record)
    replies = [end.pull(ack, 2, 0).records for ack in range(3)]
    assert replies == [(b"a", b"b"), (b"c" * 9,), (b"d" * 50,)]


def test_there_is_room_again_when_enough_was_pulled(end: WorkerEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_module, "MOST_WAITING", 3)
    monkeypatch.setattr(end_module, "MOST_WAITING_BYTES", 100)
    told: list[bool] = []
    end.on_room = lambda: told.append(end.has_room)
    for record in (b"a", b"b"):
        end.put(record)
        assert end.has_room
    end.put(b"c")
    end.put(b"d")  # what cannot wait may be put all the same
    assert not end.has_room
    end.pull(0, 1, 0)
    assert not told
    end.pull(1, 1, 0)
    assert told == [True]
    end.put(b"x" * 99)
    assert not end.has_room
    end.pull(2, 5, 0)
    assert told == [True, True]


# -- waiting in threads ----------------------------------------------------------------------------


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def begun(end: WorkerEnd, threads: ThreadPoolExecutor, ack: int) -> Future[Pulled]:
    """Begin a pull in a thread, and return once it is the one that waits."""
    has_begun = threading.Event()
    end.on_change = has_begun.set
    future = threads.submit(end.pull, ack, 10, LONG)
    assert has_begun.wait(LONG)
    end.on_change = None
    return future


def test_a_pull_waits_for_something(threads: ThreadPoolExecutor) -> None:
    end = WorkerEnd(LONG, time.monotonic)
    pull = begun(end, threads, 0)
    end.put(b"a")
    assert pull.result(LONG) == Pulled(1, (b"a",))


def test_a_pull_comes_back_empty_after_its_time() -> None:
    end = WorkerEnd(LONG, time.monotonic)
    before = time.monotonic()
    assert end.pull(0, 10, 0.05) == Pulled(1, ())
    assert time.monotonic() - before >= 0.05


def test_a_newer_pull_ends_one_that_waits_and_has_the_records(threads: ThreadPoolExecutor) -> None:
    end = WorkerEnd(LONG, time.monotonic)
    older = begun(end, threads, 0)
    newer = begun(end, threads, 0)
    assert older.result(LONG) == Pulled(0, ())
    end.put(b"a")
    assert newer.result(LONG) == Pulled(1, (b"a",))


def test_a_late_pull_does_not_disturb_the_one_that_waits(threads: ThreadPoolExecutor) -> None:
    end = WorkerEnd(LONG, time.monotonic)
    end.put(b"a")
    end.pull(0, 10, 0)
    pull = begun(end, threads, 1)
    assert end.pull(0, 10, LONG) == Pulled(0, ())
    end.put(b"b")
    assert pull.result(LONG) == Pulled(2, (b"b",))


def test_closing_ends_a_pull_that_waits_and_the_program(threads: ThreadPoolExecutor) -> None:
    end = WorkerEnd(LONG, time.monotonic, "7")
    told: list[str | None] = []
    end.on_records = end.on_room = lambda: told.append(end.closed)
    pull = begun(end, threads, 0)
    end.close("enough")
    end.close("again")
    with pytest.raises(WorkerLostError, match="worker 7 is lost: enough"):
        pull.result(LONG)
    assert end.closed == "enough"
    assert told
    assert set(told) == {"enough"}
    assert repr(end) == "<WorkerEnd of worker 7, closed: enough>"


def test_from_threads_everything_comes_once_and_in_order_to_a_trio_program() -> None:
    """Two threads post and pull, with retries, as a head does; the program echoes."""
    end = WorkerEnd(LONG, time.monotonic)
    outbox, replies, random = Outbox(), Replies(), Random(1)
    records = [number.to_bytes(2, "big") for number in range(2000)]
    for record in records:
        outbox.put(record)
    echoed: list[bytes] = []

    def post() -> None:
        while (batch := outbox.next_post(7, 1000)) is not None:
            for _ in range(random.randint(1, 3)):
                end.post(*batch)
            outbox.posted(batch[0])

    def pull() -> None:
        while len(echoed) < len(records):
            for _ in range(Random(len(echoed)).randint(1, 3)):
                pulled = end.pull(replies.ack, 5, LONG)
            echoed.extend(replies.take(pulled.number, pulled.records))

    async def echo() -> None:
        token = trio.lowlevel.current_trio_token()
        came = trio.Event()

        def wake() -> None:
            came.set()

        end.on_records = lambda: token.run_sync_soon(wake, idempotent=True)
        left = len(records)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, post)
            nursery.start_soon(trio.to_thread.run_sync, pull)
            while left:
                came = trio.Event()
                for record in end.take():
                    end.put(record)
                    left -= 1
                if left:
                    await came.wait()

    async def main() -> None:
        with trio.fail_after(LONG):
            await echo()

    trio.run(main)
    assert echoed == records


# -- a pull that waits elsewhere -------------------------------------------------------------------


def test_a_pull_may_wait_elsewhere_than_in_a_thread(end: WorkerEnd) -> None:
    told: list[None] = []
    end.on_change = lambda: told.append(None)
    older = end.begin_pull(0, 10)
    assert older.reply(even_empty=False) is None
    newer = end.begin_pull(0, 10)
    assert len(told) == 2  # the older one has its reply now
    assert older.reply(even_empty=False) == Pulled(0, ())
    end.put(b"a")
    assert len(told) == 3
    assert newer.reply(even_empty=False) == Pulled(1, (b"a",))
    assert end.begin_pull(1, 10).reply(even_empty=True) == Pulled(2, ())
    with pytest.raises(WireError):
        end.begin_pull(9, 10).reply(even_empty=True)


# -- the lease -------------------------------------------------------------------------------------


def test_a_pull_extends_the_lease_to_a_time_after_the_reply_that_it_proves(
    end: WorkerEnd, clock: Clock
) -> None:
    assert end.expires_at == 1010
    clock.now = 1003
    end.pull(0, 10, 0)
    clock.now = 1005
    end.pull(0, 10, 0)  # again: proves nothing, and counts from the first time
    assert end.expires_at == 1010
    clock.now = 1006
    end.begin_pull(1, 10).reply(even_empty=False)
    assert end.expires_at == 1013


def test_a_post_extends_the_lease_to_a_time_after_the_post_before_it(end: WorkerEnd, clock: Clock) -> None:
    clock.now = 1002
    end.post(1, [])
    clock.now = 1004
    end.post(1, [])
    assert end.expires_at == 1010
    clock.now = 1006
    end.post(2, [])
    assert end.expires_at == 1012
    end.post(1, [])  # late
    clock.now = 1007
    end.post(3, [])
    assert end.expires_at == 1016


@pytest.mark.parametrize(
    "request_of",
    [
        lambda end: end.post(2, [b"x"]),
        lambda end: end.pull(1, 10, 0),
        lambda end: end.begin_pull(1, 10),
    ],
    ids=["post", "pull", "begin_pull"],
)
def test_once_the_lease_has_run_out_no_request_revives_it(
    end: WorkerEnd, clock: Clock, request_of: Callable[[WorkerEnd], object]
) -> None:
    told: list[str | None] = []
    end.on_records = lambda: told.append(end.closed)
    clock.now = 1005
    end.post(1, [])
    end.pull(0, 10, 0)
    end.put(b"of an agent that was cancelled")
    clock.now = 1010  # what these were told is proved only now
    for _ in range(2):
        with pytest.raises(WorkerLostError, match="its lease has run out"):
            request_of(end)
    assert end.expires_at == 1010
    assert list(end.take()) == []
    assert told[-1] == "its lease has run out"


def test_a_pull_that_waits_as_the_lease_runs_out_tells_nothing(end: WorkerEnd, clock: Clock) -> None:
    pull = end.begin_pull(0, 10)
    assert pull.reply(even_empty=False) is None
    clock.now = 1010
    end.put(b"of an agent that is cancelled")
    with pytest.raises(WorkerLostError):
        pull.reply(even_empty=False)
