"""What the memories ask of their arguments."""

from __future__ import annotations

from agentpool.abc import usual_trust


def checked_trust(trust: float | None, source: str) -> float:
    """Return how far a text of this source is to be believed.

    Raises:
      ValueError: if it is not from 0 to 1.
    """
    if trust is None:
        return usual_trust(source)
    if not 0 <= trust <= 1:
        raise ValueError(f"trust is {trust}; give a number from 0 to 1")
    return trust


def checked_limit(limit: int) -> int:
    """Return how many fragments there may be.

    Raises:
      ValueError: if it is negative.
    """
    if limit < 0:
        raise ValueError(f"limit is {limit}; give 0 or more")
    return limit
