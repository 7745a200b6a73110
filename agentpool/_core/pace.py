"""The pace: finds the rate at which a quota that nobody told is used and not passed.

It learns from what it is told, and nothing else: when calls were sent, which of them the provider
took or refused, and how long all paused after a refusal. That is enough for every kind of quota:

* Over a *cycle*, from one time when the provider took calls again until the next, pauses included,
  the requests that it took, divided by the seconds, are its quota: a bucket that was empty is empty
  again, a window has passed. So a refusal takes the rate down to what was measured.
* One refusal does not tell which kind of quota it is, and each kind deceives over some span: a
  window was filled in its first seconds, a bucket came with a full minute's worth, the rate was
  lower before it grew. So one refusal takes away a fifth at most; the next, without a success
  between, more.
* From there the rate grows with the cube of the time at full load: it stays long where it was good
  and then looks far, sooner after a deep cut, of which it is less sure.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import attrs

_LONGEST_CYCLE = 60.0  # seconds before a refusal that are looked at: quotas are told per minute
_LAST_SECONDS = 5.0  # before the first refusal: it may have been quiet before them
_LEAST_SPAN = 1.0  # seconds: a burst at the start is not a rate
_CYCLE_SECONDS = 5.0  # a cycle shorter than this ...
_CYCLE_REQUESTS = 20  # ... or with fewer requests measures too little: the one before is added
_LEAST_CUT = 0.98  # of the rate remains at the most after a refusal ...
_DEEPEST_CUT = 0.8  # ... and this at the least; half of it after a second one in a row, and so on
_UNSURE = 0.85  # of the rate: what is cut below is a guess
_ROOM = 0.99  # of a known quota that was refused: requests do not arrive as evenly as they are sent;
_MOST_ROOM = 0.97  # and this at the least: what is refused at that rate has other reasons
_CREEP = 0.01  # of the rate after the cut, per minute at full load ...
_SURGE = 0.1  # ... and this, times the cube of the seconds since the cut, divided by
_SURGE_SECONDS = 120.0  # these
_SURGE_SECONDS_UNSURE = 30.0  # or these, after a deep cut
_SURGE_SECONDS_FIRST = 10.0  # or these, after the first one
_FIRST_GUESS = 0.5  # requests per second, at least: others may have used the quota up before us
_SLOWEST = 0.02  # requests per second: what is slower is left to the pauses


class Sent(NamedTuple):
    """A request that was sent.

    Attributes:
      time: when.
      taken: how many the provider had taken before, as far as was known then.
    """

    time: float
    taken: int


@attrs.define(eq=False)
class Pace:
    """The rate that is allowed, in requests per second; infinity while nothing bounds it.

    Attributes:
      ceiling: the quota, where it is known, or a little less, once it was refused; the rate never
        passes it.
      rate: what is allowed now.
      refusals_in_a_row: overloads without a success between.
    """

    ceiling: float
    rate: float
    _quota: float  # the ceiling as it was told
    refusals_in_a_row: int = 0
    _taken: int = 0  # sent, less what was refused
    _marks: deque[Sent] = attrs.field(factory=deque)  # of this cycle, a second apart
    _first_cycle: bool = True
    _recovered: Sent | None = None  # the first request that was taken after the last overload
    _slowed_at: float = -math.inf
    _overloaded: bool = False  # refused, and nothing taken since
    _refused_at: float = 0.0  # when that began
    _refused_rate: float = math.inf  # and the rate then
    _base: float = math.inf  # the rate after the last cut
    _load: float = 0.0  # seconds at full load since then

    @classmethod
    def of(cls, ceiling: float) -> Pace:
        """Return one that allows the ceiling."""
        return cls(ceiling, ceiling, ceiling)

    def send(self, now: float) -> Sent:
        """A request is sent."""
        sent = Sent(now, self._taken)
        self._taken += 1
        if not self._marks or now >= self._marks[-1].time + 1:
            self._marks.append(sent)
            while len(self._marks) > 1 and self._marks[1].time <= now - _LONGEST_CYCLE:
                self._marks.popleft()
        return sent

    def take(self, sent: Sent) -> None:
        """The provider took a request."""
        if sent.time < self._slowed_at:
            return
        self.refusals_in_a_row = 0
        if self._overloaded:
            self._overloaded = False
            self._recovered = sent
        self._grow()

    def refuse(self, sent: Sent, now: float) -> None:
        """The provider refused a request; `slow_down` follows, when the pause is known.

        Refusals of requests that were sent before the last cut belong to the same overload: they
        make the measure better, but are no reason for another cut.
        """
        self._taken -= 1
        if sent.time < self._slowed_at:
            return
        self._slowed_at = now
        self.refusals_in_a_row += 1
        if not self._overloaded:
            self._overloaded = True
            self._refused_at = now
            self._refused_rate = self.rate
            self._begin_cycle(now)
            if self.rate >= self.ceiling:
                self.ceiling = max(self.ceiling * _ROOM, self._quota * _MOST_ROOM)

    def slow_down(self, paused_until: float) -> None:
        """Take the rate down to what was measured in the cycle that ends with the pause."""
        if not self._overloaded:
            return
        measured = self._per_second(_LONGEST_CYCLE, paused_until)
        if self._refused_rate == math.inf:
            # Nothing was held back, so it may have been quiet until the moment before.
            measured = max(measured, self._per_second(_LAST_SECONDS, paused_until), _FIRST_GUESS)
        else:
            part = _DEEPEST_CUT * 0.5 ** min(self.refusals_in_a_row - 1, 100)
            measured = max(measured, self._refused_rate * part)
        self._base = max(_SLOWEST, min(measured, self._refused_rate * _LEAST_CUT))
        self._load = 0.0
        self.rate = min(self._base, self.ceiling)

    def _per_second(self, span: float, until: float) -> float:
        since = self._refused_at - span
        first = next((mark for mark in self._marks if mark.time >= since), self._marks[-1])
        return max(0, self._taken - first.taken) / max(_LEAST_SPAN, until - first.time)

    def _begin_cycle(self, now: float) -> None:
        begin = self._recovered
        if begin is None:
            return
        long = now >= begin.time + _CYCLE_SECONDS and self._taken >= begin.taken + _CYCLE_REQUESTS
        # The first one began with whatever the provider had saved up, so it never measures well.
        if long or self._first_cycle:
            self._marks = deque([begin, *(mark for mark in self._marks if mark.time > begin.time)])
            self._first_cycle = False

    def _grow(self) -> None:
        if self.rate >= self.ceiling:
            return
        self._load += 1 / self.rate  # at full load `rate` answers come every second
        growth = _CREEP * self._load / 60 + _SURGE * (self._load / self._surge_seconds()) ** 3
        self.rate = min(self._base * (1 + growth), self.ceiling)

    def _surge_seconds(self) -> float:
        if self._refused_rate == math.inf:
            return _SURGE_SECONDS_FIRST
        unsure = self._base < self._refused_rate * _UNSURE
        return _SURGE_SECONDS_UNSURE if unsure else _SURGE_SECONDS
