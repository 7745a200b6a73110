"""The bounds of a pool, finite by default."""

from __future__ import annotations

import attrs

from agentpool._core.errors import PoolLimitError


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


@attrs.define(eq=False)
class InFlight:
    """Counts the calls of a kind that are under way in a pool: each is a `with` block.

    Entering the block raises `PoolLimitError` if `limit` of them are. One object serves all calls;
    to make one for each costs 0.8 µs.
    """

    kind: str
    limit: int
    count: int = 0

    def __enter__(self) -> None:
        if self.count >= self.limit:
            raise PoolLimitError(self.kind, self.limit)
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
