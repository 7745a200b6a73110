"""The governor: decides when the calls of many agents may go to one provider.

A machine over events; each tells the time, in seconds on any clock that does not go back. It
starts a call when

    the circuit is closed (or this call probes it), and
    the back-off gate is open, and
    calls in flight < max_in_flight, and
    the buckets of requests and of tokens hold what the call needs.

The rate of requests is the one that is controlled (`pace.py`): a refusal (429, 529) takes it down
to what the provider really accepted, each success adds a little. So an unknown quota is found, and
a known one is a ceiling.

A provider that asks for a longer pause than callers shall wait (a daily quota) closes the gate for
all: until then calls are turned away at once.

Order: time is cut into epochs of `aging` seconds. Calls of an earlier epoch come first; within
one, those of older root agents, so that what was begun is finished. So a call is never overtaken
by one that came more than `aging` seconds after it, and no agent starves.
"""

from __future__ import annotations

import heapq
import math
from typing import Literal, TypeAlias

import attrs

from agentpool._core.pace import Pace, Sent
from agentpool._core.refusals import sensible_wait

CircuitState: TypeAlias = Literal["closed", "open", "half_open"]

_ASKED_AGAIN = 3600.0  # seconds: a provider that wants a longer pause is asked again after that
_NOT_SENT = Sent(-math.inf, 0)
_ROUNDING = 1e-6  # a bucket that lacks less than this is full enough; clocks are floats


@attrs.frozen(kw_only=True)
class GovernorPolicy:
    """How a governor behaves, beside the limits that it keeps.

    Attributes:
      burst: how many seconds' worth of requests and tokens may be saved up and then sent at once.
      aging: seconds; a call is never overtaken by one that came that much later.
      requeue: how often a call that was refused (429, 529) goes back to its place in the queue
        before its error is raised.
      backoff: seconds for which all calls pause after a refusal that does not say how long;
        doubled for each further one without a success between.
      longest_backoff: seconds, the bound of that.
      longest_wait: seconds; a provider that asks for more gives an error at once, to all calls,
        instead of a wait.
      failures: so many failures in a row (unavailable) open the circuit.
      cooldown: seconds until an open circuit is probed by one call.
    """

    burst: float = 0.25
    aging: float = 1.0
    requeue: int = 6
    backoff: float = 1.0
    longest_backoff: float = 15.0
    longest_wait: float = 120.0
    failures: int = 5
    cooldown: float = 30.0

    def __attrs_post_init__(self) -> None:
        for name in ("burst", "aging", "backoff", "longest_backoff", "longest_wait", "cooldown"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be more than 0 seconds, but is {getattr(self, name)}")
        if self.failures < 1:
            raise ValueError(f"failures must be at least 1, but is {self.failures}")
        if self.requeue < 0:
            raise ValueError(f"requeue must not be negative, but is {self.requeue}")


@attrs.frozen(kw_only=True)
class GovernorStatistics:
    """A governor at one moment.

    Attributes:
      waiting: calls that wait to be started.
      in_flight: calls that were started and have not ended.
      started: calls that were sent to the provider, those sent again included.
      completed: calls that were answered, if only by an error that is the caller's.
      refused: answers 429 and 529.
      unavailable: calls that found no provider.
      requests_per_minute: the rate that is allowed now; None while nothing bounds it.
      pause: seconds until the back-off gate opens, 0 if it is open.
      paused_until: the time at which it opens; None if it is open.
      circuit: `closed` (calls go through), `open` (calls are refused here), `half_open` (one call
        probes).
    """

    waiting: int
    in_flight: int
    started: int
    completed: int
    refused: int
    unavailable: int
    requests_per_minute: float | None
    pause: float
    paused_until: float | None = None
    circuit: CircuitState


@attrs.define(eq=False)
class GovernedCall:
    """A call that waits for its start, is under way, or has ended."""

    key: tuple[float, int, int]
    tokens: int
    state: Literal["waiting", "started", "turned_away", "ended"] = "waiting"
    sent: Sent = _NOT_SENT
    refusals: int = 0


@attrs.define(eq=False)
class _Bucket:
    """Fills at `rate` per second up to `burst` seconds' worth; may go below zero."""

    rate: float  # infinity: never in the way
    burst: float
    level: float
    updated: float

    @classmethod
    def of(cls, per_minute: float | None, burst: float, now: float) -> _Bucket:
        rate = math.inf if per_minute is None else per_minute / 60
        bucket = cls(rate, burst, 0.0, now)
        bucket.level = bucket.capacity
        return bucket

    @property
    def capacity(self) -> float:
        return max(1.0, self.rate * self.burst)

    def refill(self, now: float) -> None:
        if self.rate < math.inf:
            self.level = min(self.capacity, self.level + max(0.0, now - self.updated) * self.rate)
        self.updated = max(self.updated, now)

    def change_rate(self, rate: float, now: float) -> None:
        if self.rate == math.inf:
            self.level = 0.0
        self.refill(now)
        self.rate = rate
        self.level = min(self.level, self.capacity)

    def empty_until(self, time: float) -> None:
        """Save nothing up until then: the provider has no room for a burst."""
        self.level = min(self.level, 0.0)
        self.updated = max(self.updated, time)

    def ready_at(self, amount: float, now: float) -> float:
        """Return when so much can be taken; what is more than a full bucket waits for a full one."""
        if self.rate == math.inf:
            return now
        self.refill(now)
        lacking = min(amount, self.capacity) - self.level
        return self.updated + lacking / self.rate if lacking > _ROUNDING else now

    def take(self, amount: float) -> None:
        if self.rate < math.inf:
            self.level -= amount

    def give_back(self, amount: float) -> None:
        if self.rate < math.inf:
            self.level = min(self.capacity, self.level + amount)


class Governor:
    """Decides which call goes to the provider when."""

    def __init__(
        self,
        *,
        now: float,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_in_flight: int | None = None,
        policy: GovernorPolicy = GovernorPolicy(),
    ) -> None:
        """Make a governor that has sent nothing yet.

        Args:
          now: the time.
          requests_per_minute, tokens_per_minute: the provider's quotas, where they are known.
          max_in_flight: how many calls may be under way at once; None for no limit.
          policy: everything else.

        Raises:
          ValueError: if a limit is not above zero.
        """
        limits = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "max_in_flight": max_in_flight,
        }
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be more than 0, but is {limit}")
        self.policy = policy
        self._requests = _Bucket.of(requests_per_minute, policy.burst, now)
        self._tokens = _Bucket.of(tokens_per_minute, policy.burst, now)
        self._pace = Pace.of(self._requests.rate)
        self._most_in_flight = math.inf if max_in_flight is None else max_in_flight
        self._queue: list[tuple[tuple[float, int, int], GovernedCall]] = []  # a heap; some have left
        self._arrivals = 0
        self._waiting = 0
        self._in_flight = 0
        self._gate = now  # opens at this time
        self._promised = now  # by the provider; the gate may open earlier, to ask again
        self._failures_in_a_row = 0
        self._circuit_opened_until: float | None = None  # None: closed
        self._probe: GovernedCall | None = None
        self._counts = {"started": 0, "completed": 0, "refused": 0, "unavailable": 0}

    # -- what the shell asks

    def statistics(self, now: float) -> GovernorStatistics:
        """Return a snapshot."""
        rate = self._requests.rate
        return GovernorStatistics(
            waiting=self._waiting,
            in_flight=self._in_flight,
            requests_per_minute=None if rate == math.inf else rate * 60,
            pause=max(0.0, self._gate - now),
            paused_until=self._gate if self._gate > now else None,
            circuit=self.circuit(now),
            **self._counts,
        )

    def circuit(self, now: float) -> CircuitState:
        """Return whether calls go through."""
        if self._circuit_opened_until is None:
            return "closed"
        return "open" if now < self._circuit_opened_until else "half_open"

    def circuit_probed_in(self, now: float) -> float:
        """Return the seconds until an open circuit is probed, 0 if it is not open."""
        return 0.0 if self._circuit_opened_until is None else max(0.0, self._circuit_opened_until - now)

    def barred_for(self, now: float) -> float:
        """Return the seconds until the provider will take calls again, 0 if that is not too long to wait."""
        left = self._promised - now
        return left if now < self._gate and left > self.policy.longest_wait else 0.0

    def first(self) -> GovernedCall | None:
        """Return the call that is to be started next."""
        while self._queue and self._queue[0][1].state != "waiting":
            heapq.heappop(self._queue)
        return self._queue[0][1] if self._queue else None

    def next_at(self, now: float) -> float:
        """Return when `decide` is worth calling again if nothing happens; infinity if only then."""
        call = self.first()
        if call is None or self._in_flight >= self._most_in_flight or self._probe is not None:
            return math.inf
        return max(
            self._requests.ready_at(1, now),
            self._tokens.ready_at(call.tokens, now),
            self._gate,
        )

    # -- events

    def arrive(self, now: float, *, rank: int = 0, tokens: int = 0) -> GovernedCall:
        """Queue a call; lower ranks come first among calls that come at about the same time."""
        self._arrivals += 1
        call = GovernedCall((now // self.policy.aging, rank, self._arrivals), tokens)
        self._queue_up(call)
        return call

    def decide(self, now: float) -> list[GovernedCall]:
        """Start what may start now, turn all away if there is no hope; return these calls."""
        decided: list[GovernedCall] = []
        while (call := self.first()) is not None:
            if self.circuit(now) == "open" or self.barred_for(now) > 0:
                call.state = "turned_away"
            elif self.next_at(now) <= now:
                self._start(call, now)
            else:
                break
            heapq.heappop(self._queue)
            self._waiting -= 1
            decided.append(call)
        return decided

    def answered(self, call: GovernedCall, now: float, tokens: int | None = None) -> None:
        """The provider took the call; `tokens` is what it used, None if that is not known."""
        if not self._end(call):
            return
        self._counts["completed"] += 1
        self._close_circuit()
        if tokens is not None:
            self._tokens.give_back(call.tokens - tokens)
        self._pace.take(call.sent)
        self._requests.change_rate(self._pace.rate, now)

    def refused(
        self, call: GovernedCall, now: float, *, retry_after: float | None = None, requeue: bool = True
    ) -> bool:
        """The provider refused the call for now; return whether the call waits at its old place again."""
        if not self._end(call):
            return False
        self._counts["refused"] += 1
        self._close_circuit()
        self._tokens.give_back(call.tokens)
        self._pace.refuse(call.sent, now)
        wait = self._wait(sensible_wait(retry_after))
        self._close_gate(now, wait)
        self._pace.slow_down(self._gate)
        self._requests.change_rate(self._pace.rate, now)
        self._requests.empty_until(self._gate)
        call.refusals += 1
        if not requeue or wait > self.policy.longest_wait or call.refusals > self.policy.requeue:
            return False
        call.state = "waiting"
        self._queue_up(call)
        return True

    def unavailable(self, call: GovernedCall, now: float) -> None:
        """The call found no provider."""
        was_probe = call is self._probe
        if not self._end(call):
            return
        self._counts["unavailable"] += 1
        self._failures_in_a_row += 1
        enough = self._failures_in_a_row >= self.policy.failures
        if was_probe or (enough and self._circuit_opened_until is None):
            self._circuit_opened_until = now + self.policy.cooldown

    def leave(self, call: GovernedCall) -> None:
        """The caller has gone, whatever the call's state; no effect after its end.

        A call that was under way keeps its tokens: it is not known what the provider did.
        """
        if call.state == "waiting":
            call.state = "ended"
            self._waiting -= 1
        self._end(call)

    # -- the rest

    def _queue_up(self, call: GovernedCall) -> None:
        self._waiting += 1
        heapq.heappush(self._queue, (call.key, call))

    def _start(self, call: GovernedCall, now: float) -> None:
        call.state = "started"
        self._in_flight += 1
        self._counts["started"] += 1
        self._requests.take(1)
        self._tokens.take(call.tokens)
        call.sent = self._pace.send(now)
        if self._circuit_opened_until is not None:
            self._probe = call

    def _end(self, call: GovernedCall) -> bool:
        """Take a call out of flight; return False if it was not under way."""
        if call.state != "started":
            return False
        call.state = "ended"
        self._in_flight -= 1
        if call is self._probe:
            self._probe = None
        return True

    def _close_circuit(self) -> None:
        self._failures_in_a_row = 0
        self._circuit_opened_until = None
        self._probe = None

    def _wait(self, wanted: float | None) -> float:
        """Return the seconds to pause: what the provider wants, or what we think if that was not enough."""
        in_a_row = self._pace.refusals_in_a_row
        if wanted is None:
            return self._backoff(in_a_row)
        return max(wanted, self._backoff(in_a_row - 1)) if in_a_row > 1 else wanted

    def _backoff(self, refusals: int) -> float:
        policy = self.policy
        return min(policy.longest_backoff, policy.longest_wait, policy.backoff * 2.0 ** min(refusals - 1, 60))

    def _close_gate(self, now: float, wait: float) -> None:
        until = now + min(wait, _ASKED_AGAIN)
        if until >= self._gate:
            self._gate = until
            self._promised = now + wait
