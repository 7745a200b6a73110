"""What a worker is told at its start, and of each agent that it is to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from agentpool._core.messages import AgentId

if TYPE_CHECKING:
    from agentpool._core.past import PastLoop
    from agentpool._remote.model_facts import ModelFacts
    from agentpool.abc import Hooks


@attrs.frozen
class JournalFacts:
    """What a worker has to know of the journal for one life of an agent.

    Attributes:
      run_id: names the run in all the world.
      now: seconds into the run.
      is_resumed: whether this life had begun before the pool was opened.
      operations: what was done in it: of which kind, and when, by key. What it came to is at the head.
      loops: the runs of the loop in it, by key.
    """

    run_id: str
    now: float
    is_resumed: bool
    operations: Mapping[str, tuple[str, float]]
    loops: Mapping[str, PastLoop]


@attrs.frozen
class AgentFacts:
    """Who an agent is, and what it has.

    Attributes:
      name, parent_id, depth, root_id: as at the head.
      life: which of its lives this is.
      is_watched, is_held_up: whether anybody subscribes to events, and has agents wait when it is slow.
      is_closing, is_draining: whether the pool's block has ended, or it drains.
      max_concurrent: of its pool.
      models: what its model calls need.
      kept: what is set of the context variables that it inherits.
      journal: None in a pool without one.
    """

    name: str
    parent_id: AgentId
    depth: int
    root_id: AgentId
    life: int
    is_watched: bool
    is_held_up: bool
    is_closing: bool
    is_draining: bool
    max_concurrent: int
    models: ModelFacts
    kept: Mapping[str, Any] = attrs.field(factory=dict)
    journal: JournalFacts | None = None


@attrs.frozen
class WorkerSetup:
    """What a worker has of its own.

    Attributes:
      name: names it.
      lease: seconds.
      seed: of what is drawn by lot there.
      tool_builder, hooks: those of the pool.
      driver: opened in the worker, if it makes its model calls itself.
    """

    name: str
    lease: float
    seed: int
    tool_builder: Callable[[Any], Any] | None = None
    hooks: tuple[Hooks, ...] = ()
    driver: Any = None
