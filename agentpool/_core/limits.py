"""The bounds of a pool."""

from __future__ import annotations

import attrs

from agentpool._core.errors import PoolLimitError
from agentpool._core.text import shown


def _count(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name} must be an int, not {shown(value)}")
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1, not {value}")


@attrs.frozen
class PoolLimits:
    """What a pool refuses with `PoolLimitError`, so that no program grows without bound by mistake.

    What is refused was not started, and counts for nothing. By default everything is bounded that
    is there at once, and what models ask for; what code spawns over the life of a pool is not, so
    that a server may run for months.

    Attributes:
      depth: how many levels of agents there may be below the agents that the pool's body spawned.
      alive: how many agents may live at once, those of the pool's body included.
      model_spawns: how many agents models may ask for (`spawn_agent` and its like), over the life
        of a tree: an agent of the pool's body, and all below it.
      descendants: how many agents may be spawned by agents, over the pool's whole life; None for
        any number.
      tool_calls: how many tool calls may be in flight at once.
      model_calls: how many model calls may be in flight at once.
    """

    depth: int = attrs.field(default=16, validator=_count)
    alive: int = attrs.field(default=100_000, validator=_count)
    model_spawns: int = attrs.field(default=1_000, validator=_count)
    descendants: int | None = attrs.field(default=None, validator=attrs.validators.optional(_count))
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
