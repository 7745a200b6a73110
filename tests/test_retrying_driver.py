"""A driver that tries again: what it fixes, what it does not, and how long it takes."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest
import trio
import trio.testing

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import (
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import Completion, CompletionRequest, StreamPart, TextDelta
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver
from agentpool.drivers.governed import GovernedDriver
from agentpool.drivers.retrying import Retry, RetryingDriver

REQUEST = CompletionRequest(model="m")
MANIFEST = AgentManifest(name="a")


class Faulty(Driver):
    """Raises these errors in turn, then answers; streams two deltas, and may break after the first."""

    context_window = 1000
    privacy = PrivacyTier.PRIVATE

    def __init__(self, *errors: Exception, takes: float = 0.0, breaks: Exception | None = None) -> None:
        self.errors = list(errors)
        self.takes = takes
        self.breaks = breaks
        self.asked_at: list[float] = []
        self.open = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked_at.append(trio.current_time())
        await trio.sleep(self.takes)
        if self.errors:
            raise self.errors.pop(0)
        return Completion("ok")

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        self.open += 1
        try:
            async with aclosing(self._parts(request)) as parts:
                yield parts
        finally:
            self.open -= 1

    async def _parts(self, request: CompletionRequest) -> AsyncGenerator[StreamPart, None]:
        completion = await self.complete(request)
        yield TextDelta("o")
        await trio.sleep(self.takes)
        if self.breaks:
            raise self.breaks
        yield TextDelta("k")
        yield completion

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return 0.5

    def pauses(self) -> list[float]:
        return [
            round(after - before - self.takes, 6)
            for before, after in zip(self.asked_at, self.asked_at[1:], strict=False)
        ]


async def streamed(driver: Driver) -> list[StreamPart]:
    async with driver.stream(REQUEST) as parts:
        return [part async for part in parts]


def faults(*kinds: type[DriverError]) -> Sequence[DriverError]:
    return [kind("no") for kind in kinds]


@pytest.mark.parametrize(
    "kind", [RateLimitedError, OverloadedError, DriverUnavailableError, MalformedReplyError]
)
async def test_an_error_that_may_pass_is_tried_again(
    kind: type[DriverError], autojump_clock: trio.testing.MockClock
) -> None:
    inside = Faulty(kind("no"), kind("no"))
    assert (await RetryingDriver(inside).complete(REQUEST)).text == "ok"
    assert len(inside.asked_at) == 3


async def test_an_error_that_another_try_does_not_mend_is_raised_at_once() -> None:
    inside = Faulty(RequestRejectedError("bad key"))
    with pytest.raises(RequestRejectedError, match="bad key"):
        await RetryingDriver(inside).complete(REQUEST)
    assert len(inside.asked_at) == 1


async def test_an_exception_that_is_no_driver_error_is_not_touched() -> None:
    with pytest.raises(ZeroDivisionError):
        await RetryingDriver(Faulty(ZeroDivisionError())).complete(REQUEST)


async def test_the_last_error_is_raised_when_the_attempts_are_used_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    last = OverloadedError("third")
    inside = Faulty(*faults(OverloadedError, DriverUnavailableError), last)
    with pytest.raises(OverloadedError) as caught:
        await RetryingDriver(inside, attempts=3).complete(REQUEST)
    assert caught.value is last


async def test_the_pauses_grow_to_the_cap_and_a_seed_repeats_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def pauses(seed: int) -> list[float]:
        inside = Faulty(*faults(*[OverloadedError] * 40))
        await RetryingDriver(inside, attempts=41, base=1, cap=8, seed=seed).complete(REQUEST)
        return inside.pauses()

    drawn = await pauses(1)
    for number, pause in enumerate(drawn):
        assert 0 <= pause <= min(8, 2**number)
    assert max(drawn) > 6
    assert min(drawn[3:]) < 2  # full jitter: from zero up
    assert await pauses(1) == drawn != await pauses(2)


async def test_a_pause_is_at_least_what_the_provider_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Faulty(RateLimitedError(retry_after=20), OverloadedError(retry_after=3))
    await RetryingDriver(inside, base=0.5, cap=1).complete(REQUEST)
    first, second = inside.pauses()
    assert 20 <= first <= 20.5
    assert 3 <= second <= 3.5


@pytest.mark.parametrize("ask", [lambda driver: driver.complete(REQUEST), lambda driver: streamed(driver)])
async def test_a_wait_of_a_day_is_an_error_at_once_that_tells_it(
    ask: Callable[[Driver], Awaitable[object]], autojump_clock: trio.testing.MockClock
) -> None:
    error = RateLimitedError("daily quota", retry_after=86400)
    inside = Faulty(DriverUnavailableError("cut", may_have_cost=True), error)
    told: list[Retry] = []
    start = trio.current_time()
    with pytest.raises(RateLimitedError, match=r"daily quota: .* 86400 seconds \(24 hours\)") as caught:
        await ask(RetryingDriver(inside, base=0, deadline=60, on_retry=told.append))
    assert trio.current_time() == start
    assert caught.value.retry_after == 86400
    assert caught.value.__cause__ is error
    assert caught.value.may_have_cost  # the attempt before
    assert len(told) == 1
    assert len(inside.asked_at) == 2


async def test_the_longest_wait_may_be_set(autojump_clock: trio.testing.MockClock) -> None:
    inside = Faulty(RateLimitedError(retry_after=600), OverloadedError(retry_after=600))
    await RetryingDriver(inside, base=0, max_wait=600).complete(REQUEST)
    assert inside.pauses() == [600, 600]
    with pytest.raises(RateLimitedError, match="30 seconds"):
        await RetryingDriver(Faulty(RateLimitedError(retry_after=30)), max_wait=0).complete(REQUEST)


@pytest.mark.parametrize("senseless", [0.0, -1.0, math.nan, -math.inf])
async def test_a_wait_that_makes_no_sense_counts_as_none_told(
    senseless: float, autojump_clock: trio.testing.MockClock
) -> None:
    inside = Faulty(RateLimitedError(retry_after=senseless))
    inside.errors *= 20
    await RetryingDriver(inside, attempts=30, base=1, cap=20, seed=1).complete(REQUEST)
    assert max(inside.pauses()) > 10  # our own pauses, which grow


@pytest.mark.parametrize("huge", [1e9, 1e300, math.inf])
async def test_a_wait_without_an_end_is_an_error(huge: float) -> None:
    with pytest.raises(RateLimitedError, match="asks for a wait"):
        await RetryingDriver(Faulty(RateLimitedError(retry_after=huge))).complete(REQUEST)


async def test_around_a_governor_the_wait_is_told_once(autojump_clock: trio.testing.MockClock) -> None:
    inside = Faulty(RateLimitedError("daily quota", retry_after=86400))
    driver = RetryingDriver(GovernedDriver(inside))
    start = trio.current_time()
    for _ in range(2):
        with pytest.raises(RateLimitedError) as caught:
            await driver.complete(REQUEST)
        assert str(caught.value).count("asks for a wait") == 1
        assert caught.value.retry_after == 86400
    assert trio.current_time() == start
    assert len(inside.asked_at) == 1


async def test_the_deadline_ends_an_attempt_and_tells_the_last_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    first = OverloadedError("busy")
    driver = RetryingDriver(Faulty(first, takes=6), deadline=10, base=0)
    start = trio.current_time()
    with pytest.raises(
        DriverUnavailableError, match=r"within 10 seconds, after 1 failed attempt; .*busy"
    ) as e:
        await driver.complete(REQUEST)
    assert trio.current_time() - start == 10
    assert e.value.__cause__ is first


async def test_a_pause_that_would_pass_the_deadline_is_not_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    start = trio.current_time()
    with pytest.raises(DriverUnavailableError, match="rate limited"):
        await RetryingDriver(Faulty(RateLimitedError(retry_after=60)), deadline=10).complete(REQUEST)
    assert trio.current_time() == start


async def test_a_first_attempt_that_hangs_ends_at_the_deadline_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(DriverUnavailableError, match=r"after 0 failed attempts$"):
        await RetryingDriver(Faulty(takes=99), deadline=10).complete(REQUEST)


async def test_each_retry_is_told(autojump_clock: trio.testing.MockClock) -> None:
    told: list[Retry] = []
    error = RateLimitedError(retry_after=2)
    driver = RetryingDriver(Faulty(error, *faults(OverloadedError)), base=0, on_retry=told.append)
    await driver.complete(REQUEST)
    assert told[0] == Retry(REQUEST, error, attempt=1, delay=2)
    assert [retry.attempt for retry in told] == [1, 2]


async def test_a_stream_is_tried_again_until_its_first_part(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inside = Faulty(*faults(OverloadedError, MalformedReplyError))
    assert await streamed(RetryingDriver(inside)) == [TextDelta("o"), TextDelta("k"), Completion("ok")]
    assert len(inside.asked_at) == 3
    assert inside.open == 0


async def test_a_stream_that_breaks_after_its_first_part_is_not_tried_again() -> None:
    inside = Faulty(breaks=DriverUnavailableError("cut"))
    seen: list[StreamPart] = []
    async with RetryingDriver(inside).stream(REQUEST) as parts:
        seen.append(await anext(parts))
        with pytest.raises(DriverUnavailableError, match="cut"):
            await anext(parts)
    assert seen == [TextDelta("o")]
    assert len(inside.asked_at) == 1
    assert inside.open == 0


async def test_a_stream_without_any_part_counts_as_malformed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Empty(Faulty):
        async def _parts(self, request: CompletionRequest) -> AsyncGenerator[StreamPart, None]:
            await self.complete(request)
            for part in ():
                yield part

    inside = Empty()
    with pytest.raises(MalformedReplyError, match="before its first part"):
        await streamed(RetryingDriver(inside, attempts=2))
    assert len(inside.asked_at) == 2


async def test_the_deadline_holds_for_the_whole_stream(autojump_clock: trio.testing.MockClock) -> None:
    inside = Faulty(takes=6)
    with pytest.raises(DriverUnavailableError, match="within 10 seconds"):
        await streamed(RetryingDriver(inside, deadline=10))
    assert inside.open == 0


async def test_a_stream_may_be_left_early() -> None:
    inside = Faulty()
    async with RetryingDriver(inside).stream(REQUEST) as parts:
        assert await anext(parts) == TextDelta("o")
    assert inside.open == 0


async def test_a_cancellation_ends_the_pause(autojump_clock: trio.testing.MockClock) -> None:
    inside = Faulty(RateLimitedError(retry_after=60))
    with trio.move_on_after(5) as scope:
        await RetryingDriver(inside).complete(REQUEST)
    assert scope.cancelled_caught
    assert len(inside.asked_at) == 1


def test_it_has_the_qualities_of_the_driver_inside() -> None:
    driver = RetryingDriver(Faulty())
    assert driver.context_window == 1000
    assert driver.privacy is PrivacyTier.PRIVATE
    assert driver.estimate_cost(TokenUsage()) == 0.5
    assert repr(driver).startswith("<RetryingDriver around <")


async def test_binding_binds_the_driver_inside_and_keeps_the_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Bound(Faulty):
        def bind(self, manifest: AgentManifest) -> Driver:
            return Faulty(*faults(OverloadedError))

    told: list[Retry] = []
    driver = RetryingDriver(Bound(), on_retry=told.append)
    bound = driver.bind(MANIFEST)
    assert isinstance(bound, RetryingDriver)
    assert bound is not driver
    await bound.complete(REQUEST)
    assert len(told) == 1
    plain = RetryingDriver(Faulty())
    assert plain.bind(MANIFEST) is plain


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"attempts": 0}, "attempts"),
        ({"base": -1}, "base"),
        ({"cap": -1}, "cap"),
        ({"max_wait": -1}, "max_wait"),
        ({"max_wait": math.nan}, "max_wait"),
        ({"deadline": 0}, "deadline"),
    ],
)
def test_a_number_out_of_its_range_is_refused(arguments: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RetryingDriver(Faulty(), **arguments)  # type: ignore[arg-type]
