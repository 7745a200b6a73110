"""A driver that tries again."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import trio

from agentpool._core.errors import DriverError, DriverUnavailableError
from agentpool._core.messages import Completion, CompletionRequest, StreamPart
from agentpool._core.refusals import check_wait, wanted_wait
from agentpool._logging import DRIVERS, tell
from agentpool.abc import Driver
from agentpool.drivers._around import DriverAround, open_stream


@attrs.frozen
class Retry:
    """A call failed and will be made again.

    Attributes:
      request: what is asked for.
      error: how it failed.
      attempt: which attempt that was, from 1 up.
      delay: seconds until the next one.
    """

    request: CompletionRequest
    error: DriverError
    attempt: int
    delay: float


class RetryingDriver(DriverAround):
    """Makes a call again when it failed in a way that may pass.

    Retryable errors are those whose `retryable` is true: rate limited, overloaded, unavailable,
    malformed reply. The pause before attempt n + 1 is drawn from 0 to `base * 2**(n-1)` seconds,
    at most `cap` (full jitter, so that agents that failed together do not come back together); if
    the provider said how long to wait, it is at least that; if it wants more than `max_wait`, as
    for a daily quota, there is no other attempt, and the error says how long.

    A stream is tried again until its first part has arrived. After that its errors are raised:
    what was handed out cannot be taken back.

    Everything runs on trio's clock, so that tests need no real time.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        attempts: int = 5,
        base: float = 0.5,
        cap: float = 30.0,
        max_wait: float = 120.0,
        deadline: float | None = None,
        seed: int | None = None,
        on_retry: Callable[[Retry], None] | None = None,
    ) -> None:
        """Put retries around a driver.

        Args:
          driver: makes the calls. Switch off its own retries.
          attempts: how many calls at the most, the first one included.
          base: seconds, the bound of the first pause.
          cap: seconds, the bound of every pause that we draw ourselves.
          max_wait: seconds; a provider that asks for more than that gives an error at once.
          deadline: seconds for a call with all its attempts and pauses, and for reading the whole
            stream; None for no limit.
          seed: makes the pauses repeatable; None draws a new sequence.
          on_retry: called before each pause.

        Raises:
          ValueError: if a number is out of its range.
        """
        super().__init__(driver)
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, but is {attempts}")
        if base < 0 or cap < 0:
            raise ValueError(f"base and cap must not be negative, but are {base} and {cap}")
        if not max_wait >= 0:
            raise ValueError(f"max_wait must not be negative, but is {max_wait}")
        if deadline is not None and deadline <= 0:
            raise ValueError(f"deadline must be more than 0 seconds, but is {deadline}")
        self._attempts = attempts
        self._base = base
        self._cap = cap
        self._max_wait = max_wait
        self._deadline = deadline
        self._random = random.Random(seed)
        self._on_retry = on_retry

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the driver inside, again if need be.

        Raises:
          DriverUnavailableError: if the deadline passed, or would pass in the next pause; the last
            attempt's error is its cause.
          RateLimitedError, OverloadedError: at once if the provider asks for a wait of more than
            `max_wait`, which the text and `retry_after` tell.
          DriverError: what the last attempt raised, or what none can fix.

        Checkpoint: as the driver inside. Cancellation: ends the call or the pause at once.
        """
        call = _Call(self, request)
        with trio.move_on_at(call.deadline):
            while True:
                try:
                    return await self._driver.complete(request)
                except DriverError as error:
                    delay = call.delay_after(error)
                await trio.sleep(delay)
        raise call.out_of_time()

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Ask the driver inside, again if need be until the first part is there.

        Raises:
          DriverError: as `complete`; after the first part, whatever the stream raises.
        """
        call = _Call(self, request)
        with trio.move_on_at(call.deadline):
            while True:
                async with AsyncExitStack() as stack:
                    try:
                        parts = await open_stream(stack, self._driver, request)
                    except DriverError as error:
                        delay = call.delay_after(error)
                    else:
                        yield parts
                        return
                await trio.sleep(delay)
        raise call.out_of_time()

    def _pause(self, attempt: int, error: DriverError) -> float:
        # 2.0**1000 is still a float; nobody tries that often.
        drawn = self._random.uniform(0, min(self._cap, self._base * 2.0 ** min(attempt - 1, 1000)))
        wanted = wanted_wait(error)
        # A part of the jitter stays on top of what the provider said, or all would come at once.
        return drawn if wanted is None else wanted + min(drawn, self._base)


class _Call:
    """One call with its attempts."""

    def __init__(self, driver: RetryingDriver, request: CompletionRequest) -> None:
        self._driver = driver
        self._request = request
        self._attempt = 0
        self._last: DriverError | None = None
        self._may_have_cost = False
        seconds = driver._deadline
        self.deadline = math.inf if seconds is None else trio.current_time() + seconds

    def delay_after(self, error: DriverError) -> float:
        """Return the seconds until the next attempt, or raise if there is to be none."""
        self._attempt += 1
        self._may_have_cost = self._may_have_cost or error.may_have_cost
        self._last = error
        error.may_have_cost = self._may_have_cost  # of all attempts
        if not error.retryable or self._attempt >= self._driver._attempts:
            raise error
        check_wait(error, self._driver._max_wait)
        delay = self._driver._pause(self._attempt, error)
        if trio.current_time() + delay >= self.deadline:
            raise self.out_of_time(may_have_cost=self._may_have_cost)
        text = "attempt %d failed: %s; the next is made in %.3f s"
        tell(DRIVERS, logging.WARNING, text, self._attempt, error, delay)
        if self._driver._on_retry is not None:
            self._driver._on_retry(Retry(self._request, error, self._attempt, delay))
        return delay

    def out_of_time(self, *, may_have_cost: bool = True) -> DriverUnavailableError:
        """Return the error for the end of the time, by default in the middle of an attempt."""
        failed = f"{self._attempt} failed attempts" if self._attempt != 1 else "1 failed attempt"
        told = f"; the last error: {self._last}" if self._last is not None else ""
        error = DriverUnavailableError(
            f"no answer within {self._driver._deadline:g} seconds, after {failed}{told}",
            may_have_cost=may_have_cost,
        )
        error.__cause__ = self._last
        return error
