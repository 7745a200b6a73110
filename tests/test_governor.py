"""The governor: a provider's quota is used and not passed, and nobody starves."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar

import attrs
import pytest
import trio
import trio.testing

from agentpool._core.errors import (
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)
from agentpool._core.governor import GovernedCall, Governor, GovernorPolicy, GovernorStatistics
from agentpool._core.messages import (
    AssistantMessage,
    Completion,
    CompletionRequest,
    StreamPart,
    TextDelta,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver
from agentpool.drivers.governed import GovernedDriver, worst_case_tokens
from agentpool.drivers.retrying import RetryingDriver

REQUEST = CompletionRequest(model="m", max_tokens=100)

# -- the machine ------------------------------------------------------------------


def test_calls_wait_for_the_quota_of_requests() -> None:
    governor = Governor(now=0, requests_per_minute=60)
    calls = [governor.arrive(0) for _ in range(3)]
    assert governor.decide(0) == calls[:1]
    assert governor.next_at(0) == 1
    assert governor.decide(0.9) == []
    assert governor.decide(1) == calls[1:2]
    assert governor.decide(1.5) == []
    assert governor.decide(2) == calls[2:]
    assert governor.next_at(2) == math.inf


def test_what_was_not_used_is_saved_up_for_a_burst_and_no_more() -> None:
    governor = Governor(now=0, requests_per_minute=60, policy=GovernorPolicy(burst=3))
    for _ in range(9):
        governor.arrive(100)
    assert len(governor.decide(100)) == 3


def test_calls_wait_for_the_quota_of_tokens_and_real_usage_puts_it_right() -> None:
    governor = Governor(now=0, tokens_per_minute=600, policy=GovernorPolicy(burst=10))
    first, second = governor.arrive(0, tokens=80), governor.arrive(0, tokens=80)
    assert governor.decide(0) == [first]
    assert governor.next_at(0) == 6
    governor.answered(first, 0, tokens=20)
    assert governor.decide(0) == [second]
    governor.answered(second, 0)  # nobody knows what it used
    third = governor.arrive(0, tokens=10)
    assert governor.decide(0.9) == []
    assert governor.decide(1) == [third]


def test_a_call_above_the_bucket_waits_for_a_full_one_and_leaves_a_debt() -> None:
    governor = Governor(now=0, tokens_per_minute=600, policy=GovernorPolicy(burst=1))
    big, small = governor.arrive(0, tokens=30), governor.arrive(0, tokens=1)
    assert governor.decide(0) == [big]
    assert governor.next_at(0) == pytest.approx(2.1)
    assert governor.decide(2.1) == [small]


def test_no_more_calls_are_in_flight_than_allowed() -> None:
    governor = Governor(now=0, max_in_flight=2)
    calls = [governor.arrive(0) for _ in range(4)]
    assert governor.decide(0) == calls[:2]
    assert governor.next_at(0) == math.inf
    governor.answered(calls[0], 1)
    assert governor.decide(1) == calls[2:3]
    governor.leave(calls[1])
    assert governor.decide(1) == calls[3:]


def test_older_roots_come_first_among_calls_that_come_together() -> None:
    governor = Governor(now=0, max_in_flight=1, policy=GovernorPolicy(aging=10))
    young, old, middle = (governor.arrive(1, rank=rank) for rank in (9, 1, 5))
    order = []
    for _ in range(3):
        (call,) = governor.decide(2)
        order.append(call)
        governor.answered(call, 2)
    assert order == [old, middle, young]


def test_a_call_is_not_overtaken_by_one_that_comes_much_later() -> None:
    governor = Governor(now=0, max_in_flight=1, policy=GovernorPolicy(aging=10))
    young = governor.arrive(1, rank=9)
    governor.arrive(11.1, rank=1)
    assert governor.decide(12) == [young]


def test_a_refusal_pauses_all_calls_for_as_long_as_the_provider_says() -> None:
    governor = Governor(now=0)
    first = governor.arrive(0)
    governor.decide(0)
    assert governor.refused(first, 1, retry_after=7)
    other = governor.arrive(2)
    assert governor.decide(2) == []
    assert governor.next_at(2) >= 8
    assert governor.statistics(2).pause == 6
    assert governor.decide(governor.next_at(2)) == [first]  # at its old place
    assert governor.decide(100) == [other]


def test_without_such_a_word_the_pauses_double_until_a_success() -> None:
    governor = Governor(now=0, policy=GovernorPolicy(backoff=1, longest_backoff=5, requeue=9))
    call = governor.arrive(0)
    now, pauses = 0.0, []
    for _ in range(5):
        governor.decide(now)
        governor.refused(call, now)
        pauses.append(governor.statistics(now).pause)
        now = governor.next_at(now)
    assert pauses == [1, 2, 4, 5, 5]
    governor.decide(now)
    governor.answered(call, now)
    after = governor.arrive(now)
    now = governor.next_at(now)
    governor.decide(now)
    governor.refused(after, now)
    assert governor.statistics(now).pause == 1


def test_a_call_is_refused_to_its_caller_after_several_refusals() -> None:
    governor = Governor(now=0, policy=GovernorPolicy(requeue=1))
    call = governor.arrive(0)
    governor.decide(0)
    assert governor.refused(call, 0, retry_after=0)
    governor.decide(100)
    assert not governor.refused(call, 100)
    assert governor.statistics(100).waiting == 0
    once = governor.arrive(100)
    governor.decide(1000)
    assert not governor.refused(once, 1000, requeue=False)


def started(governor: Governor, now: float, count: int) -> list[GovernedCall]:
    for _ in range(count):
        governor.arrive(now)
    return governor.decide(now)


def rate(governor: Governor, now: float) -> float:
    value = governor.statistics(now).requests_per_minute
    assert value is not None
    return value


def test_refusals_cut_the_rate_once_per_overload_and_successes_bring_it_back() -> None:
    governor = Governor(now=0, requests_per_minute=600, policy=GovernorPolicy(burst=1))
    now = 0.0
    for _ in range(200):
        now += 0.1
        for call in started(governor, now, 1):
            governor.answered(call, now)
    batch = started(governor, now + 1, 10)
    governor.refused(batch[0], now + 1.1, retry_after=0, requeue=False)
    cut = rate(governor, now + 1.1)
    assert 0.9 * 600 < cut <= 0.98 * 600
    governor.refused(batch[1], now + 1.2, retry_after=0, requeue=False)
    assert rate(governor, now + 1.2) > 0.95 * cut  # the same overload
    (late,) = started(governor, now + 3, 1)
    governor.refused(late, now + 12, retry_after=10, requeue=False)
    assert rate(governor, now + 12) < 0.8 * cut  # little was taken all that time
    for _ in range(4000):
        now += 0.1
        for call in started(governor, now, 1):
            governor.answered(call, now)
    assert rate(governor, now) == pytest.approx(0.99 * 600)  # it was refused at the full rate


def test_an_unknown_quota_is_bounded_by_what_was_accepted() -> None:
    governor = Governor(now=0)
    calls = started(governor, 0, 100)
    assert len(calls) == 100
    assert governor.statistics(0).requests_per_minute is None
    for call in calls[10:]:
        governor.refused(call, 0.5, retry_after=1, requeue=False)
    assert rate(governor, 0.5) == pytest.approx(10 / 1.5 * 60)


def test_a_wait_that_was_not_enough_is_followed_by_longer_ones() -> None:
    governor = Governor(now=0, policy=GovernorPolicy(backoff=1, longest_backoff=3))
    call = governor.arrive(0)
    now, pauses = 0.0, []
    for _ in range(5):
        governor.decide(now)
        governor.refused(call, now, retry_after=0.1)
        pauses.append(governor.statistics(now).pause)
        now = governor.next_at(now)
    assert pauses == pytest.approx([0.1, 1, 2, 3, 3])


def test_a_provider_that_asks_for_a_day_turns_all_calls_away_and_is_asked_again_after_an_hour() -> None:
    governor = Governor(now=0, max_in_flight=1)
    first, second = governor.arrive(0), governor.arrive(0)
    governor.decide(0)
    assert not governor.refused(first, 10, retry_after=86400)
    assert governor.decide(10) == [second]
    assert second.state == "turned_away"
    assert governor.barred_for(10) == 86400
    assert governor.statistics(10).paused_until == 3610
    late = governor.arrive(3609)
    assert governor.decide(3609) == [late]
    assert late.state == "turned_away"
    probe = governor.arrive(3610)
    assert governor.barred_for(3610) == 0
    assert governor.statistics(3610).paused_until is None
    assert governor.decide(governor.next_at(3610)) == [probe]
    assert not governor.refused(probe, 3620, retry_after=82790)
    assert governor.barred_for(3620) == 82790


def test_the_rest_of_a_long_wait_is_waited_for_when_it_is_short_enough() -> None:
    governor = Governor(now=0, policy=GovernorPolicy(longest_wait=100))
    (call,) = started(governor, 0, 1)
    governor.refused(call, 0, retry_after=300)
    assert governor.barred_for(199) == 101
    waiting = governor.arrive(200)
    assert governor.barred_for(200) == 0
    assert governor.decide(200) == []
    assert 300 <= governor.next_at(200) <= 303
    assert governor.decide(303) == [waiting]


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    governor = Governor(now=0)
    first, second = started(governor, 0, 2)
    governor.refused(first, 1, retry_after=50)
    governor.refused(second, 2, retry_after=5)
    assert governor.statistics(2).paused_until == 51


def test_a_short_pause_after_a_long_one_does_not_bring_the_long_one_back() -> None:
    governor = Governor(now=0)
    (call,) = started(governor, 0, 1)
    governor.refused(call, 0, retry_after=86400)
    governor.arrive(3600)
    (call,) = governor.decide(3602)
    governor.answered(call, 3603)  # the quota was raised
    governor.arrive(3610)
    (call,) = governor.decide(3620)
    assert governor.refused(call, 3620, retry_after=5)
    assert governor.barred_for(3621) == 0


def test_our_own_pauses_are_never_too_long_to_wait() -> None:
    governor = Governor(now=0, policy=GovernorPolicy(backoff=50, longest_backoff=900, longest_wait=120))
    call = governor.arrive(0)
    now = 0.0
    for _ in range(5):
        governor.decide(now)
        assert governor.refused(call, now)
        assert governor.statistics(now).pause <= 120
        now = governor.next_at(now)


@pytest.mark.parametrize("senseless", [0.0, -1.0, math.nan, -math.inf])
def test_a_wait_that_makes_no_sense_counts_as_none_told(senseless: float) -> None:
    governor = Governor(now=0, policy=GovernorPolicy(backoff=2))
    (call,) = started(governor, 0, 1)
    assert governor.refused(call, 0, retry_after=senseless)
    assert governor.statistics(0).pause == 2
    assert governor.decide(governor.next_at(0)) == [call]


@pytest.mark.parametrize("huge", [1e9, 1e300, math.inf])
def test_after_a_wait_without_an_end_the_provider_is_asked_again_too(huge: float) -> None:
    governor = Governor(now=0)
    (call,) = started(governor, 0, 1)
    assert not governor.refused(call, 0, retry_after=huge)
    assert governor.barred_for(1) > 1e8
    again = governor.arrive(3600)
    assert governor.decide(governor.next_at(3600)) == [again]


def test_the_circuit_opens_after_failures_in_a_row_and_one_probe_closes_it() -> None:
    governor = Governor(now=0, policy=GovernorPolicy(failures=3, cooldown=30))
    calls = started(governor, 0, 5)
    for call in calls[:2]:
        governor.unavailable(call, 1)
    governor.answered(calls[2], 1)  # not in a row
    for call in (*calls[3:], *started(governor, 1, 1)):
        governor.unavailable(call, 2)
    assert governor.circuit(2) == "open"
    turned_away = governor.arrive(3)
    assert governor.decide(3) == [turned_away]
    assert turned_away.state == "turned_away"
    assert governor.circuit_probed_in(12) == 20
    probe, *others = [governor.arrive(32) for _ in range(3)]
    assert governor.circuit(32) == "half_open"
    assert governor.decide(32) == [probe]
    assert governor.next_at(32) == math.inf
    governor.answered(probe, 33)
    assert governor.circuit(33) == "closed"
    assert governor.circuit_probed_in(33) == 0
    assert governor.decide(33) == others


def test_a_failed_probe_opens_the_circuit_again_and_a_cancelled_one_makes_room_for_the_next() -> None:
    governor = Governor(now=0, policy=GovernorPolicy(failures=1, cooldown=30))
    first, straggler = started(governor, 0, 2)
    governor.unavailable(first, 0)
    governor.unavailable(straggler, 29)  # it was sent before: no longer cooldown for it
    gone, probe, waiting = [governor.arrive(30) for _ in range(3)]
    assert governor.decide(30) == [gone]
    governor.leave(gone)
    assert governor.decide(31) == [probe]
    governor.unavailable(probe, 31)
    assert governor.decide(31) == [waiting]
    assert waiting.state == "turned_away"
    assert governor.circuit_probed_in(31) == 30


def test_what_comes_after_the_end_of_a_call_has_no_effect() -> None:
    governor = Governor(now=0)
    (call,) = started(governor, 0, 1)
    governor.answered(call, 0)
    before = governor.statistics(0)
    governor.answered(call, 0)
    assert not governor.refused(call, 0)
    governor.unavailable(call, 0)
    governor.leave(call)
    assert (
        governor.statistics(0)
        == before
        == GovernorStatistics(
            waiting=0,
            in_flight=0,
            started=1,
            completed=1,
            refused=0,
            unavailable=0,
            requests_per_minute=None,
            pause=0,
            circuit="closed",
        )
    )


@pytest.mark.parametrize("seed", range(20))
def test_on_a_random_walk_the_limits_hold_and_every_call_is_decided(seed: int) -> None:
    rng = random.Random(seed)
    policy = GovernorPolicy(burst=2, failures=3, cooldown=5, requeue=2, aging=3)
    governor = Governor(
        now=0, requests_per_minute=300, tokens_per_minute=6000, max_in_flight=7, policy=policy
    )
    now, starts, calls = 0.0, [], []
    flying: list[GovernedCall] = []

    def decide() -> None:
        for call in governor.decide(now):
            if call.state == "started":
                starts.append((now, call.tokens))
                flying.append(call)

    for step in range(600):
        now += rng.choice([0, 0, 0.01, 0.1, rng.random()])
        if step < 400 and rng.random() < 0.5:
            calls.append(governor.arrive(now, rank=rng.randrange(5), tokens=rng.randrange(60)))
        elif calls and rng.random() < 0.1:
            governor.leave(rng.choice(calls))
        decide()
        flying = [call for call in flying if call.state == "started"]
        if flying and rng.random() < 0.7:
            call = flying.pop(rng.randrange(len(flying)))
            end = rng.random()
            if end < 0.8:
                governor.answered(call, now, rng.randrange(call.tokens + 1))
            elif end < 0.9:
                governor.refused(call, now, retry_after=rng.choice([None, 0, 1]))
            else:
                governor.unavailable(call, now)
        assert governor.statistics(now).in_flight <= 7
    for _ in range(2000):
        for call in flying:
            governor.answered(call, now)
        flying = []
        if governor.first() is None:
            break
        now = max(now, governor.next_at(now))
        decide()
    assert all(call.state in ("ended", "turned_away", "started") for call in calls)
    assert governor.statistics(now).waiting == 0
    for index, (begin, _) in enumerate(starts):
        for other, (end, _) in enumerate(starts[index:], 1):
            assert other <= 5 * (end - begin) + 10 + 1e-3  # 5 per second, and a burst of 2 seconds


@pytest.mark.parametrize(
    "name", ["burst", "aging", "backoff", "longest_backoff", "longest_wait", "cooldown", "failures"]
)
def test_a_policy_out_of_its_range_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        GovernorPolicy(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="requeue"):
        GovernorPolicy(requeue=-1)


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "max_in_flight"])
def test_a_limit_that_is_not_above_zero_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        GovernedDriver(Answers(), **{name: 0})  # type: ignore[arg-type]


# -- the driver ---------------------------------------------------------------------


class Answers(Driver):
    """Raises these errors in turn, then answers after `takes` seconds; counts what runs at once."""

    def __init__(self, *errors: Exception, takes: float = 0.0, breaks: Exception | None = None) -> None:
        self.errors = list(errors)
        self.takes = takes
        self.breaks = breaks
        self.asked_at: list[float] = []
        self.models: list[str] = []
        self.running = self.peak = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked_at.append(trio.current_time())
        self.models.append(request.model)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await trio.sleep(self.takes)
        finally:
            self.running -= 1
        if self.errors:
            raise self.errors.pop(0)
        return Completion("ok", usage=TokenUsage(5, 5))

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        async with aclosing(self._parts(request)) as parts:
            yield parts

    async def _parts(self, request: CompletionRequest) -> AsyncGenerator[StreamPart, None]:
        completion = await self.complete(request)
        yield TextDelta("ok")
        if self.breaks:
            raise self.breaks
        yield completion


async def streamed(driver: Driver) -> list[StreamPart]:
    async with driver.stream(REQUEST) as parts:
        return [part async for part in parts]


async def all_at_once(driver: Driver, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(driver.complete, attrs.evolve(REQUEST, model=str(number)))


def nothing_is_left(driver: GovernedDriver) -> bool:
    statistics = driver.statistics()
    return statistics.waiting == statistics.in_flight == 0 and not driver._line._sleepers


async def test_calls_are_started_at_the_rate_of_the_quota(autojump_clock: trio.testing.MockClock) -> None:
    inside = Answers(takes=5)
    driver = GovernedDriver(inside, requests_per_minute=60)
    start = trio.current_time()
    await all_at_once(driver, 10)
    assert [round(time - start, 3) for time in inside.asked_at] == list(range(10))
    assert nothing_is_left(driver)


async def test_tokens_are_counted_and_put_right_by_the_real_usage(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Answers()
    driver = GovernedDriver(inside, tokens_per_minute=6000, policy=GovernorPolicy(burst=1))
    start = trio.current_time()
    for _ in range(11):
        await driver.complete(REQUEST)  # counted as 100 tokens, uses 10
    assert trio.current_time() - start == pytest.approx(1.0, abs=0.01)


class Uncounted(Answers):
    """Answers without saying what the call used."""

    def __init__(self, usage: TokenUsage | None = None) -> None:
        super().__init__()
        self.answer = Completion("ok") if usage is None else Completion("ok", usage=usage)

    async def complete(self, request: CompletionRequest) -> Completion:
        await super().complete(request)
        return self.answer


@pytest.mark.parametrize("ask", [lambda driver: driver.complete(REQUEST), lambda driver: streamed(driver)])
@pytest.mark.parametrize("usage", [None, TokenUsage()])
async def test_an_answer_without_usage_counts_as_what_was_estimated(
    ask: Callable[[Driver], Awaitable[object]],
    usage: TokenUsage | None,
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Uncounted(usage)
    driver = GovernedDriver(inside, tokens_per_minute=6000, policy=GovernorPolicy(burst=1))
    start = trio.current_time()
    for _ in range(5):
        await ask(driver)  # counted as 100 tokens, and 100 come back in a second
    assert [time - start for time in inside.asked_at] == pytest.approx([0, 1, 2, 3, 4])


async def test_the_first_in_line_wakes_early_when_it_has_to_wait_for_less(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Thrifty(Answers):
        async def complete(self, request: CompletionRequest) -> Completion:
            await super().complete(request)
            return Completion("ok", usage=TokenUsage(30, 30))

    inside = Thrifty(takes=0.2)
    driver = GovernedDriver(inside, tokens_per_minute=6000, policy=GovernorPolicy(burst=1))
    start = trio.current_time()
    with trio.fail_after(100):
        await all_at_once(driver, 3)
    # The second waits for 100 tokens until 1; but at 0.2 there are 20, and 40 that were not used.
    assert [time - start for time in inside.asked_at] == pytest.approx([0, 0.6, 1.2])
    assert nothing_is_left(driver)


async def test_the_first_in_line_waits_for_the_quota_when_a_place_in_flight_is_free(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Answers(takes=0.5)
    driver = GovernedDriver(inside, requests_per_minute=60, max_in_flight=1)
    start = trio.current_time()
    with trio.fail_after(100):
        await all_at_once(driver, 3)
    assert [time - start for time in inside.asked_at] == pytest.approx([0, 1, 2])
    assert nothing_is_left(driver)


async def test_the_first_in_line_waits_for_the_quota_when_the_call_in_flight_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Answers(takes=50)
    driver = GovernedDriver(inside, requests_per_minute=60, max_in_flight=1)
    start = trio.current_time()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def impatient() -> None:
                with trio.move_on_after(0.5):
                    await driver.complete(REQUEST)

            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(driver.complete, REQUEST)
    assert [time - start for time in inside.asked_at] == pytest.approx([0, 1])
    assert nothing_is_left(driver)


async def test_the_first_in_line_waits_out_the_pause_after_the_call_in_flight_was_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Answers(RateLimitedError(retry_after=10), takes=0.5)
    driver = GovernedDriver(inside, requests_per_minute=60, max_in_flight=1, policy=GovernorPolicy(requeue=0))
    refused: list[float] = []

    async def call() -> None:
        try:
            await driver.complete(REQUEST)
        except RateLimitedError:
            refused.append(trio.current_time())

    start = trio.current_time()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(call)
    assert [time - start for time in refused] == [0.5]
    first, second = [time - start for time in inside.asked_at]
    assert first == 0
    assert 10.5 <= second < 13
    assert nothing_is_left(driver)


async def test_no_more_calls_are_in_flight_than_the_limit_also_streams(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Answers(takes=1)
    driver = GovernedDriver(inside, max_in_flight=3)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(driver.complete, REQUEST)
            nursery.start_soon(streamed, driver)
    assert inside.peak == 3
    assert nothing_is_left(driver)


async def test_a_refused_call_is_made_again_after_the_pause_and_holds_up_its_siblings(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Answers(RateLimitedError(retry_after=10), takes=1)
    driver = GovernedDriver(inside)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.complete, REQUEST)
        await trio.sleep(2)
        nursery.start_soon(streamed, driver)
    first, *later = [time - start for time in inside.asked_at]
    assert first == 0
    assert len(later) == 2
    assert min(later) >= 11
    assert driver.statistics().refused == 1
    assert driver.statistics().completed == 2


async def test_a_refused_stream_is_opened_again(autojump_clock: trio.testing.MockClock) -> None:
    inside = Answers(OverloadedError(retry_after=1))
    assert await streamed(GovernedDriver(inside)) == [
        TextDelta("ok"),
        Completion("ok", usage=TokenUsage(5, 5)),
    ]


async def test_a_daily_quota_is_an_error_at_once_for_all_and_tells_the_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Answers(RateLimitedError("daily quota", retry_after=86400), takes=1)
    driver = GovernedDriver(inside, max_in_flight=1)
    errors: list[RateLimitedError] = []

    async def call(ask: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(RateLimitedError, match=r"daily quota.* 864\d\d|daily quota.* 8639\d") as caught:
            await ask()
        errors.append(caught.value)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(call, lambda: driver.complete(REQUEST))
            nursery.start_soon(call, lambda: streamed(driver))
    await trio.sleep(9)
    await call(lambda: driver.complete(REQUEST))
    assert trio.current_time() - start == 10
    assert [error.retry_after for error in errors] == [86400] * 6 + [86391]
    assert "24 hours" in str(errors[0])
    assert "120 seconds at the most" in str(errors[0])
    assert len(inside.asked_at) == 1
    assert driver.statistics().paused_until == start + 3601
    assert nothing_is_left(driver)


async def test_a_refused_stream_tells_a_wait_that_is_too_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    driver = GovernedDriver(Answers(OverloadedError("maintenance", retry_after=7200)))
    with pytest.raises(OverloadedError, match=r"maintenance: .* 7200 seconds \(2 hours\)") as caught:
        await streamed(driver)
    assert caught.value.retry_after == 7200
    with pytest.raises(OverloadedError, match="maintenance"):
        await streamed(driver)


async def test_the_longest_wait_may_be_set(autojump_clock: trio.testing.MockClock) -> None:
    inside = Answers(RateLimitedError(retry_after=600))
    driver = GovernedDriver(inside, policy=GovernorPolicy(longest_wait=1000))
    start = trio.current_time()
    await driver.complete(REQUEST)
    assert trio.current_time() - start >= 600


async def test_a_call_that_is_refused_again_and_again_raises(autojump_clock: trio.testing.MockClock) -> None:
    errors = [OverloadedError(str(number)) for number in range(9)]
    driver = GovernedDriver(Answers(*errors), policy=GovernorPolicy(requeue=2))
    with pytest.raises(OverloadedError, match="2"):
        await driver.complete(REQUEST)
    with pytest.raises(OverloadedError, match="5"):
        await streamed(driver)
    assert nothing_is_left(driver)


@pytest.mark.parametrize("error", [MalformedReplyError("cut"), RequestRejectedError("bad")])
async def test_other_errors_are_raised_and_count_as_answers(error: DriverError) -> None:
    driver = GovernedDriver(Answers(error), policy=GovernorPolicy(failures=1))
    with pytest.raises(type(error)):
        await driver.complete(REQUEST)
    assert driver.statistics().completed == 1
    assert driver.statistics().circuit == "closed"


async def test_an_open_circuit_refuses_at_once_and_closes_after_a_probe(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Answers(*[DriverUnavailableError("down")] * 2)
    driver = GovernedDriver(inside, policy=GovernorPolicy(failures=2, cooldown=30))
    for ask in (driver.complete, lambda _: streamed(driver)):
        with pytest.raises(DriverUnavailableError, match="down"):
            await ask(REQUEST)  # type: ignore[operator]
    await trio.sleep(10)
    with pytest.raises(DriverUnavailableError, match=r"in a row \(down\); .* for another 20\.0 seconds"):
        await driver.complete(REQUEST)
    assert len(inside.asked_at) == 2
    await trio.sleep(20)
    await all_at_once(driver, 5)
    assert driver.statistics().circuit == "closed"
    assert nothing_is_left(driver)


async def test_calls_that_wait_when_the_circuit_opens_are_refused_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    driver = GovernedDriver(
        Answers(DriverUnavailableError("down"), takes=1), max_in_flight=1, policy=GovernorPolicy(failures=1)
    )
    refused: list[str] = []

    async def call() -> None:
        try:
            await driver.complete(REQUEST)
        except DriverUnavailableError as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(call)
    assert len(refused) == 3
    assert len(driver._driver.asked_at) == 1  # type: ignore[attr-defined]
    assert nothing_is_left(driver)


async def test_a_stream_that_breaks_in_the_middle_is_told_to_the_governor_but_not_made_again() -> None:
    inside = Answers(breaks=RateLimitedError("later", retry_after=3))
    driver = GovernedDriver(inside)
    with pytest.raises(RateLimitedError, match="later"):
        await streamed(driver)
    assert len(inside.asked_at) == 1
    assert driver.statistics().refused == 1
    assert 2.9 < driver.statistics().pause <= 3
    assert nothing_is_left(driver)
    with pytest.raises(ZeroDivisionError):
        await streamed(GovernedDriver(Answers(breaks=ZeroDivisionError())))


async def test_drivers_that_share_a_governor_share_its_quota(autojump_clock: trio.testing.MockClock) -> None:
    small, big = Answers(), Answers()
    driver = GovernedDriver(small, requests_per_minute=60)
    sibling = driver.share(big)
    start = trio.current_time()
    for _ in range(3):
        await driver.complete(REQUEST)
        await sibling.complete(REQUEST)
    assert trio.current_time() - start == pytest.approx(5)
    assert driver.statistics() == sibling.statistics()


async def test_calls_of_older_roots_come_first(autojump_clock: trio.testing.MockClock) -> None:
    root = ContextVar[int]("root")
    inside = Answers(takes=0.01)
    driver = GovernedDriver(inside, requests_per_minute=60, rank=root.get)

    async def agent(number: int) -> None:
        root.set(number)
        await driver.complete(attrs.evolve(REQUEST, model=str(number)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent, 9)
        await trio.testing.wait_all_tasks_blocked()
        for number in (5, 3, 8, 1):
            nursery.start_soon(agent, number)
            await trio.testing.wait_all_tasks_blocked()
    assert inside.models == ["9", "1", "3", "5", "8"]


@pytest.mark.parametrize("moment", [0, 0.5, 1, 1.5, 2, 3.5])
async def test_a_cancellation_at_any_time_leaves_nothing_and_frees_the_place(
    moment: float, autojump_clock: trio.testing.MockClock
) -> None:
    inside = Answers(RateLimitedError(retry_after=2), takes=1)
    driver = GovernedDriver(inside, requests_per_minute=120, max_in_flight=2)
    with trio.move_on_after(moment):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(driver.complete, REQUEST)
                nursery.start_soon(streamed, driver)
    assert nothing_is_left(driver)
    with trio.fail_after(20):
        await driver.complete(REQUEST)


async def test_when_the_first_in_line_goes_the_next_takes_its_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    driver = GovernedDriver(Answers(), requests_per_minute=6)
    await driver.complete(REQUEST)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def impatient() -> None:
            with trio.move_on_after(3):
                await driver.complete(REQUEST)

        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(driver.complete, REQUEST)
    assert trio.current_time() - start == pytest.approx(10)


def test_the_worst_case_of_a_request_counts_all_its_text_and_the_longest_answer() -> None:
    request = CompletionRequest(
        system="s" * 40,
        messages=[
            UserMessage("u" * 40),
            AssistantMessage("a" * 20, (ToolCall("1", "t" * 8, {"x": "y" * 2}),)),
            ToolMessage("1", "t", ToolResult("r" * 80)),
        ],
        max_tokens=1000,
    )
    assert worst_case_tokens(request) == 1000 + (40 + 40 + 20 + 8 + len("{'x': 'yy'}") + 80) // 4


# -- many agents, one provider ---------------------------------------------------------


class Provider(Driver):
    """A token bucket with a small burst, latency, and 429s that ask for a second's patience."""

    def __init__(self, requests_per_minute: float, seed: int) -> None:
        self._rate = requests_per_minute / 60
        self._level = self._burst = 10.0
        self._updated = trio.current_time()
        self._random = random.Random(seed)
        self.log: list[tuple[float, bool]] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(self._random.uniform(0.01, 0.06))
        now = trio.current_time()
        self._level = min(self._burst, self._level + (now - self._updated) * self._rate)
        self._updated = now
        self.log.append((now, self._level >= 1))
        if self._level < 1:
            await trio.sleep(0.02)
            raise RateLimitedError(retry_after=1.0)
        self._level -= 1
        await trio.sleep(self._random.uniform(0.5, 3))
        return Completion("ok")


@attrs.frozen
class Figures:
    goodput: float  # of the quota
    refused: float  # of the requests
    fairness: float  # Jain's index over the agents


AGENTS, QUOTA = 200, 600


async def simulate(
    make: Callable[[Provider, Callable[[], int]], Driver], lasts: float, *, warm_up: float = 60
) -> Figures:
    """Let 200 agents, each a root of its own, ask without end; return the figures after the warm-up."""
    provider = Provider(QUOTA, seed=1)
    root = ContextVar[int]("root")
    driver = make(provider, root.get)
    start = trio.current_time() + warm_up
    answered = [0] * AGENTS

    async def agent(number: int) -> None:
        root.set(number)
        while True:
            await driver.complete(REQUEST)
            answered[number] += trio.current_time() > start

    with trio.move_on_after(warm_up + lasts):
        async with trio.open_nursery() as nursery:
            for number in range(AGENTS):
                nursery.start_soon(agent, number)
    results = [accepted for time, accepted in provider.log if time > start]
    return Figures(
        goodput=sum(results) / (lasts * QUOTA / 60),
        refused=results.count(False) / len(results),
        fairness=sum(answered) ** 2 / (AGENTS * sum(count**2 for count in answered)),
    )


def shown(title: str, figures: Figures) -> None:
    print(
        f"{title}: goodput {figures.goodput:.1%} of the quota, {figures.refused:.2%} of the requests"
        f" refused, fairness {figures.fairness:.4f}"
    )


async def test_200_agents_use_a_known_quota_without_refusals_and_fairly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    figures = await simulate(
        lambda provider, rank: GovernedDriver(provider, requests_per_minute=QUOTA, rank=rank), 240
    )
    shown("governed, quota known", figures)
    assert figures.goodput >= 0.95
    assert figures.refused < 0.01
    assert figures.fairness >= 0.98


async def test_200_agents_find_an_unknown_quota(autojump_clock: trio.testing.MockClock) -> None:
    figures = await simulate(lambda provider, rank: GovernedDriver(provider, rank=rank), 240)
    shown("governed, quota unknown", figures)
    assert figures.goodput >= 0.95
    assert figures.refused < 0.01
    assert figures.fairness >= 0.98


async def test_independent_retries_have_most_requests_refused_for_comparison(
    autojump_clock: trio.testing.MockClock,
) -> None:
    figures = await simulate(
        lambda provider, rank: RetryingDriver(provider, attempts=10**6, seed=3), 30, warm_up=10
    )
    shown("independent retries", figures)
    assert figures.refused > 0.5
