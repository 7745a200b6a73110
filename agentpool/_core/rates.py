"""How fast a run goes: what was used in the last seconds."""

from __future__ import annotations

import math
from collections import deque

import attrs

from agentpool._core.usage import TokenUsage

WINDOW = 10
"""Seconds over which a rate is told."""


@attrs.define
class _Second:
    number: int
    tokens: int = 0
    cost_usd: float = 0.0
    calls: int = 0
    ends: int = 0


@attrs.frozen
class Rate:
    """What was used in a second, on average: tokens, US dollars, model calls, and agents that ended."""

    tokens: float = 0.0
    cost_usd: float = 0.0
    calls: float = 0.0
    ends: float = 0.0


@attrs.define(eq=False)
class Rates:
    """Counts what happens in each second, and forgets it after `WINDOW` seconds.

    Times are finite. One that goes back is taken for the latest second.
    """

    _seconds: deque[_Second] = attrs.field(factory=deque)
    _began: float | None = None

    def count(self, time: float, usage: TokenUsage) -> None:
        """Count a model call that was answered at a time, and what it used."""
        second = self._second_of(time)
        second.tokens += usage.total_tokens
        second.cost_usd += usage.cost_usd
        second.calls += 1

    def count_end(self, time: float) -> None:
        """Count an agent that ended at a time."""
        self._second_of(time).ends += 1

    def at(self, time: float) -> Rate:
        """Return the average of the seconds before a time, of which there may be fewer than `WINDOW`."""
        if self._began is None:
            return Rate()
        lately = [each for each in self._seconds if time - WINDOW < each.number + 1]
        over = min(WINDOW, max(1.0, time - self._began))
        return Rate(
            sum(each.tokens for each in lately) / over,
            sum(each.cost_usd for each in lately) / over,
            sum(each.calls for each in lately) / over,
            sum(each.ends for each in lately) / over,
        )

    def _second_of(self, time: float) -> _Second:
        if self._began is None:
            self._began = time
        number = math.floor(time)
        if not self._seconds or self._seconds[-1].number < number:
            self._seconds.append(_Second(number))
            while self._seconds[0].number < number - WINDOW:
                self._seconds.popleft()
        return self._seconds[-1]
