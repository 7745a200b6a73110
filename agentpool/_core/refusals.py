"""Refusals: how long a provider asks to wait, and what is said where that is too long."""

from __future__ import annotations

import math

from agentpool._core.errors import DriverError, OverloadedError, RateLimitedError
from agentpool._core.text import told

_ASKS = "the provider asks for a wait of"


def wanted_wait(error: DriverError) -> float | None:
    """Return the seconds that the provider asks to wait; None where it says nothing or makes no sense."""
    return sensible_wait(getattr(error, "retry_after", None))


def sensible_wait(seconds: float | None) -> float | None:
    """Return the seconds, or None if they are not above zero; infinity is.

    Zero tells nothing: it is what remains of a fraction of a second, or of a date that has passed.
    """
    return seconds if seconds is not None and seconds > 0 else None


def check_wait(error: DriverError, longest: float) -> None:
    """Raise what is raised instead of waiting, if the provider asks for a wait longer than that.

    Raises:
      DriverError: `wait_too_long`; the error itself if its text names a wait already.
    """
    wait = wanted_wait(error)
    if wait is None or wait <= longest:
        return
    if _ASKS in told(error):
        raise error
    raise wait_too_long(error, wait, longest) from error


def wait_too_long(error: DriverError, seconds: float, longest: float) -> RateLimitedError | OverloadedError:
    """Return an error like this refusal whose text names the wait.

    Args:
      error: the refusal.
      seconds: the wait; what is left of it, if the refusal was an earlier one.
      longest: seconds, the longest wait that is accepted.
    """
    kind = OverloadedError if isinstance(error, OverloadedError) else RateLimitedError
    refusal = kind(
        f"{told(error)}: {_ASKS} {in_words(seconds)}, and calls wait {longest:g} seconds at the most",
        retry_after=seconds,
    )
    refusal.may_have_cost = error.may_have_cost
    return refusal


def in_words(seconds: float) -> str:
    """Return a time as people say it: `90 seconds`, `86400 seconds (24 hours)`."""
    if math.isinf(seconds):
        return "an unlimited time"
    text = f"{seconds:.0f} seconds"
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{text} ({seconds / unit:.3g} {name})"
    return text
