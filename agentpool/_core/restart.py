"""When an agent is started afresh: restart policies and the intensity of restarts, as decisions.

The rules are Erlang/OTP's: `permanent` children always come back, `transient` ones when they
failed, `temporary` ones never; more than `max_restarts` restarts within `within` seconds are too
many.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypeGuard

import attrs

RestartMode: TypeAlias = Literal["permanent", "transient", "temporary"]

_ALIASES: dict[Any, RestartMode] = {"always": "permanent", "on_failure": "transient", "never": "temporary"}


def mode_of(value: Any) -> Any:
    """Return the mode that an alias stands for, and anything else as it is."""
    return _ALIASES.get(value, value) if isinstance(value, str) else value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _at_least_zero(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not _is_number(value):
        raise TypeError(f"{attribute.name} must be a number, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{attribute.name} must be at least 0, not {value}")


def positive(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse what is no number of seconds above 0 (a validator of attrs)."""
    if not _is_number(value):
        raise TypeError(f"{attribute.name} must be a number of seconds, not {value!r}")
    if not value > 0:
        raise ValueError(f"{attribute.name} must be above 0 seconds, not {value}")


def count_of_restarts(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse what is no number of restarts (a validator of attrs)."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be an int, not {value!r}")
    if value < 0:
        raise ValueError(f"{attribute.name} must be at least 0, not {value}")


def known_mode(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse what is no mode (a validator of attrs)."""
    if value not in ("permanent", "transient", "temporary"):
        raise ValueError(f"{attribute.name} must be one of permanent, transient, temporary, not {value!r}")


def _share(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not _is_number(value):
        raise TypeError(f"{attribute.name} must be a number from 0 to 1, not {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} must be from 0 to 1, not {value}")


@attrs.frozen
class Backoff:
    """How long to wait before a restart: `initial` seconds, doubled each time, `maximum` at the most.

    Attributes:
      initial: seconds before the first restart; 0 restarts at once.
      maximum: seconds at the most.
      jitter: the share of the delay that is drawn by lot, from 0 to 1.
    """

    initial: float = attrs.field(default=0.0, validator=_at_least_zero)
    maximum: float = attrs.field(default=30.0, validator=_at_least_zero)
    jitter: float = attrs.field(default=0.0, validator=_share)

    def delay(self, restarts: int, lot: float) -> float:
        """Return the seconds to wait before restart number `restarts`, counted from 1.

        Args:
          restarts: how many restarts there are with this one.
          lot: a random number from 0 to 1, for the jitter.
        """
        # 2.0 ** 1024 is no float any more; long before that the maximum rules.
        full = min(self.initial * 2.0 ** min(restarts - 1, 64), self.maximum)
        return full * (1 - self.jitter * lot)


def _backoff(value: float | Backoff) -> Backoff:
    return value if isinstance(value, Backoff) else Backoff(initial=value)


@attrs.frozen
class RestartPolicy:
    """Starts an agent afresh when it ends: same id, same inbox, same handle.

    Attributes:
      mode: `permanent` (alias `always`) restarts however it ended, `transient` (`on_failure`)
        only when it failed, `temporary` (`never`) does not restart. An aborted agent, and one
        whose timeout has passed, is never restarted.
      max_restarts: so many restarts are allowed ...
      within: ... in so many seconds. One more, and the agent ends as it last ended.
      backoff: seconds to wait before a restart, or a `Backoff`.
    """

    mode: RestartMode = attrs.field(default="transient", converter=mode_of, validator=known_mode)
    max_restarts: int = attrs.field(default=1, validator=count_of_restarts)
    within: float = attrs.field(default=5.0, validator=positive)
    backoff: Backoff = attrs.field(default=Backoff(), converter=_backoff)

    def wants(self, *, failed: bool) -> bool:
        """Whether an agent that ended so is to be restarted, if the intensity allows it."""
        return self.mode == "permanent" or (self.mode == "transient" and failed)


@attrs.frozen
class Intensity:
    """The restarts of the last seconds, against a maximum.

    Attributes:
      max_restarts: how many are allowed in `within` seconds.
      within: length of the period in seconds.
      recent: the times of the restarts that still count.
    """

    max_restarts: int = 1
    within: float = 5.0
    recent: tuple[float, ...] = ()

    def restart(self, now: float) -> Intensity | None:
        """Count a restart at `now`; None if it is one too many."""
        recent = (*(time for time in self.recent if now - time <= self.within), now)
        if len(recent) > self.max_restarts:
            return None
        return attrs.evolve(self, recent=recent)
