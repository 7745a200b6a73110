"""How often a run is looked at by whoever shows it, so that looking costs the run little."""

from __future__ import annotations

SECONDS_BETWEEN_LOOKS = 0.25
"""A run is looked at no more often."""
MOST_SECONDS_BETWEEN_LOOKS = 5.0
"""And no more rarely."""
SHARE = 0.02
"""Of the time, so much is spent on looking, as long as that allows a look every few seconds."""


def seconds_to_next_look(taken: float) -> float:
    """Return how long to wait after a look that took so many seconds, with the showing of it."""
    return min(MOST_SECONDS_BETWEEN_LOOKS, max(SECONDS_BETWEEN_LOOKS, taken / SHARE))
