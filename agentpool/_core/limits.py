"""The bounds of a pool, finite by default."""

from __future__ import annotations

import attrs


def _count(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1, not {value}")


@attrs.frozen
class PoolLimits:
    """What a pool refuses with `PoolLimitError`, so that no program can grow without bound.

    Attributes:
      depth: how many levels of agents there may be below the agents that the pool's body spawned.
      descendants: how many agents may be spawned by agents, over the pool's whole life.
      tool_calls: how many tool calls may be in flight at once.
      model_calls: how many model calls may be in flight at once.
    """

    depth: int = attrs.field(default=16, validator=_count)
    descendants: int = attrs.field(default=100_000, validator=_count)
    tool_calls: int = attrs.field(default=10_000, validator=_count)
    model_calls: int = attrs.field(default=10_000, validator=_count)
