"""What a contender measures itself with. Standard library only: peers run in environments of their own."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Span:
    """Seconds that a block took; set when it ends."""

    seconds = 0.0

    def per(self, count: int) -> float:
        """Return microseconds for each of `count` things."""
        return self.seconds / count * 1e6


@contextmanager
def cpu() -> Iterator[Span]:
    """Measure the CPU time of this process, all its threads together."""
    span = Span()
    # what came before is not this block's to collect
    gc.collect()
    start = time.process_time()
    yield span
    span.seconds = time.process_time() - start


class Stopwatch:
    """As `cpu`, for a stretch that begins and ends in different tasks."""

    def __init__(self) -> None:
        self.span = Span()
        self._start = 0.0

    def start(self) -> None:
        gc.collect()
        self._start = time.process_time()

    def stop(self) -> None:
        self.span.seconds = time.process_time() - self._start


def resident_kb() -> float:
    """Return the memory that this process holds now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1024


def peak_kb() -> float:
    """Return the most memory that this process ever held."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
