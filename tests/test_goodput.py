"""A quota that nobody told is found, of whatever kind: used to 90 % and more, with few refusals.

The providers here count as real ones do, and tell nothing but refusals. Each kind is tried with
several quotas, with a `Retry-After` that is exact, always a second, or missing, and with few agents
and many. Everything happens on virtual time.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

import attrs
import pytest
import trio
import trio.testing

from agentpool._core.errors import RateLimitedError
from agentpool._core.governor import GovernedCall, Governor
from agentpool._core.messages import Completion, CompletionRequest
from agentpool.abc import Driver
from agentpool.drivers.governed import GovernedDriver
from agentpool.drivers.retrying import RetryingDriver

pytestmark = pytest.mark.long

RetryAfter: TypeAlias = Literal["exact", "a second", "none"]

# -- quotas: `ask` returns None if the request is taken, else the seconds until one will be


@attrs.define
class TokenBucket:
    rate: float  # per second
    burst: float
    level: float
    updated: float = 0.0

    @classmethod
    def small(cls, per_minute: float, rng: random.Random) -> TokenBucket:
        return cls(per_minute / 60, 10.0, 10.0)

    @classmethod
    def of_a_minute(cls, per_minute: float, rng: random.Random) -> TokenBucket:
        return cls(per_minute / 60, per_minute, per_minute)

    def ask(self, now: float) -> float | None:
        self.level = min(self.burst, self.level + (now - self.updated) * self.rate)
        self.updated = now
        if self.level < 1:
            return (1 - self.level) / self.rate
        self.level -= 1
        return None

    def permits(self, seconds: float) -> float:
        return self.rate * seconds + self.burst


@attrs.define
class FixedWindow:
    size: float
    seconds: float
    begun: float  # seconds before the run
    number: float = -1.0
    used: int = 0

    @classmethod
    def of_a_minute(cls, per_minute: float, rng: random.Random) -> FixedWindow:
        return cls(per_minute, 60.0, rng.uniform(0, 60))

    @classmethod
    def of_a_second(cls, per_minute: float, rng: random.Random) -> FixedWindow:
        return cls(per_minute / 60, 1.0, rng.random())

    def ask(self, now: float) -> float | None:
        number = (now + self.begun) // self.seconds
        if number != self.number:
            self.number, self.used = number, 0
        if self.used >= self.size:
            return (number + 1) * self.seconds - self.begun - now
        self.used += 1
        return None

    def permits(self, seconds: float) -> float:
        return self.size * seconds / self.seconds


@attrs.define
class SlidingWindow:
    size: float
    seconds: float
    taken: deque[float] = attrs.field(factory=deque)

    @classmethod
    def of_a_minute(cls, per_minute: float, rng: random.Random) -> SlidingWindow:
        return cls(per_minute, 60.0)

    @classmethod
    def of_ten_seconds(cls, per_minute: float, rng: random.Random) -> SlidingWindow:
        return cls(per_minute / 6, 10.0)

    def ask(self, now: float) -> float | None:
        while self.taken and self.taken[0] <= now - self.seconds:
            self.taken.popleft()
        if len(self.taken) >= self.size:
            return self.taken[0] + self.seconds - now
        self.taken.append(now)
        return None

    def permits(self, seconds: float) -> float:
        return self.size * seconds / self.seconds


Quota: TypeAlias = TokenBucket | FixedWindow | SlidingWindow
MakeQuota: TypeAlias = Callable[[float, random.Random], Quota]

KINDS = {
    "token bucket": TokenBucket.small,
    "token bucket of a minute": TokenBucket.of_a_minute,
    "fixed window of a minute": FixedWindow.of_a_minute,
    "fixed window of a second": FixedWindow.of_a_second,
    "sliding window of a minute": SlidingWindow.of_a_minute,
    "sliding window of ten seconds": SlidingWindow.of_ten_seconds,
}
ONCE = pytest.mark.once
of_each_kind = pytest.mark.parametrize("kind", KINDS)


def asks_for(retry_after: RetryAfter, wait: float) -> float | None:
    return {"exact": wait, "a second": 1.0, "none": None}[retry_after]


# -- the machine in front of such a provider


@attrs.frozen
class Figures:
    goodput: float  # of what the quota permitted
    refused: int
    taken: int
    raised: int  # refusals that a caller saw

    def __str__(self) -> str:
        return f"{self.goodput:.3f} of the quota, {self.refused} refused of {self.refused + self.taken}"


Event: TypeAlias = Literal["ask", "arrive", "answer", "refuse", "wake"]


@attrs.define(eq=False)
class Run:
    """Agents that ask without a pause, the governor, and a provider, as a heap of events."""

    governor: Governor
    quota: Quota
    retry_after: RetryAfter
    rng: random.Random
    events: list[tuple[float, int, Event, GovernedCall | None, float | None]] = attrs.field(factory=list)
    pushed: int = 0
    wakes_at: float = math.inf
    refused: int = 0
    taken: int = 0
    raised: int = 0

    def figures(self, agents: int, seconds: float) -> Figures:
        """Let so many agents ask for so long."""
        for _ in range(agents):
            self.at(self.rng.uniform(0, 0.01), "ask")
        while self.events[0][0] <= seconds:
            now, _, event, call, wait = heapq.heappop(self.events)
            self.happen(now, event, call, wait)
            for begun in self.governor.decide(now):
                self.at(now + self.rng.uniform(0.01, 0.06), "arrive", begun)
            wake = self.governor.next_at(now)
            if now < wake < self.wakes_at:
                self.wakes_at = wake
                self.at(wake, "wake")
        return Figures(self.taken / self.quota.permits(seconds), self.refused, self.taken, self.raised)

    def at(
        self, time: float, event: Event, call: GovernedCall | None = None, wait: float | None = None
    ) -> None:
        self.pushed += 1
        heapq.heappush(self.events, (time, self.pushed, event, call, wait))

    def happen(self, now: float, event: Event, call: GovernedCall | None, wait: float | None) -> None:
        if event == "wake":
            self.wakes_at = math.inf if now >= self.wakes_at else self.wakes_at
        elif call is None:
            self.governor.arrive(now)
        elif event == "arrive":
            self.reach_the_provider(call, now)
        elif event == "answer":
            self.governor.answered(call, now)
            self.at(now, "ask")
        elif not self.governor.refused(call, now, retry_after=wait):
            self.raised += 1
            self.at(now + 1, "ask")

    def reach_the_provider(self, call: GovernedCall, now: float) -> None:
        wait = self.quota.ask(now)
        if wait is None:
            self.taken += 1
            self.at(now + self.rng.uniform(0.2, 3), "answer", call)
        else:
            self.refused += 1
            self.at(now + 0.02, "refuse", call, asks_for(self.retry_after, wait))


def run(
    kind: str,
    per_minute: float,
    retry_after: RetryAfter,
    agents: int,
    seed: int = 1,
    *,
    minutes: float = 20,
    known: bool = False,
) -> Figures:
    rng = random.Random(f"{kind} {per_minute} {retry_after} {agents} {seed}")
    governor = Governor(now=0.0, requests_per_minute=per_minute if known else None)
    figures = Run(governor, KINDS[kind](per_minute, rng), retry_after, rng).figures(agents, minutes * 60)
    print(f"{kind}, {per_minute:g} a minute, retry-after {retry_after}, {agents} agents: {figures}")
    return figures


# Requests a minute, agents, minutes. A call takes 1.6 seconds: 20 agents do not use 3000 requests a
# minute, 100 do.
SMALL = [(60, 20, 20), (60, 200, 20), (300, 60, 20)]
BIG = [(300, 200, 30), (600, 20, 30), (600, 100, 20), (3000, 100, 12), (3000, 200, 12)]


@of_each_kind
@pytest.mark.parametrize("retry_after", ["exact", "a second", "none"])
@pytest.mark.parametrize(
    ("loads", "seeds"), [(SMALL, 1), pytest.param(SMALL, 5, marks=ONCE), pytest.param(BIG, 1, marks=ONCE)]
)
def test_an_unknown_quota_of_each_kind_is_found(
    kind: str, retry_after: RetryAfter, loads: list[tuple[float, int, float]], seeds: int
) -> None:
    for per_minute, agents, minutes in loads:
        for seed in range(seeds):
            figures = run(kind, per_minute, retry_after, agents, seed, minutes=minutes)
            assert figures.goodput >= 0.9, (per_minute, agents, seed)
            # All agents ask at once before anything is known. After that, 2 in 100 at the most are
            # refused, or 3 a minute where a minute has few requests.
            looking = max(0.02 * figures.taken, 3 * minutes)
            assert figures.refused <= agents + looking, (per_minute, agents, seed, figures)
            assert figures.raised <= 10, (per_minute, agents, seed)


@of_each_kind
@pytest.mark.parametrize("retry_after", ["exact", "none"])
def test_a_known_quota_of_each_kind_is_used_and_not_passed(kind: str, retry_after: RetryAfter) -> None:
    for per_minute, agents in [(60, 200), (300, 100), (600, 20)]:
        figures = run(kind, per_minute, retry_after, agents, known=True)
        assert figures.goodput >= 0.93
        # A full window has no room for requests that overtake each other on their way.
        assert figures.refused <= (0 if kind.startswith("token bucket") else 0.002 * figures.taken)


# -- the same with the drivers, as `open_driver(..., resilient=True)` nests them


class Provider(Driver):
    """A driver with such a quota; calls that are taken are answered after 0.2 to 3 seconds."""

    def __init__(self, quota: Quota, retry_after: RetryAfter, rng: random.Random) -> None:
        self._quota = quota
        self._retry_after = retry_after
        self._rng = rng
        self._start = trio.current_time()
        self.taken = self.refused = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(self._rng.uniform(0.01, 0.06))
        wait = self._quota.ask(trio.current_time() - self._start)
        if wait is not None:
            self.refused += 1
            raise RateLimitedError(retry_after=asks_for(self._retry_after, wait))
        self.taken += 1
        await trio.sleep(self._rng.uniform(0.2, 3))
        return Completion("ok")


@pytest.mark.parametrize("retry_after", ["exact", "none"])
@pytest.mark.parametrize("kind", ["token bucket", "fixed window of a minute", "sliding window of a minute"])
async def test_agents_find_an_unknown_quota_of_each_kind_and_see_no_refusal(
    kind: str, retry_after: RetryAfter, autojump_clock: trio.testing.MockClock
) -> None:
    rng = random.Random(kind)
    quota = KINDS[kind](600, rng)
    provider = Provider(quota, retry_after, rng)
    driver = RetryingDriver(GovernedDriver(provider), seed=1)

    async def agent() -> None:
        while True:
            await driver.complete(CompletionRequest(model="m"))

    with trio.move_on_after(600):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(agent)
    assert provider.taken >= 0.9 * quota.permits(600)
    assert provider.refused <= 50 + 0.02 * provider.taken
