"""Random pool programs: as data, and what runs them.

A program is a body and some scripts, each a list of operations. A script spawns only scripts that
come after it, so that every tree is finite. What a program does is decided by its seed twice over:
which operations it has, and in which order its tasks run.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs

Op: TypeAlias = tuple[Any, ...]
"""The name of an operation and its arguments; some hold operations of their own."""


@attrs.frozen
class Script:
    """What an agent does.

    Attributes:
      ops: its operations, in order.
      careful: whether it lives on when an operation raises what may be expected of it.
    """

    ops: tuple[Op, ...]
    careful: bool = True


@attrs.frozen
class Program:
    """A program for one pool.

    Attributes:
      max_concurrent, inbox_capacity: of the pool.
      body: the operations of the pool's body.
      scripts: what its agents do.
      depth, descendants: limits of the pool.
      most_agents: past so many, operations that spawn do nothing.
      has_outside: whether agents start tasks in a nursery of the program around the pool.
    """

    max_concurrent: int
    inbox_capacity: int
    body: tuple[Op, ...]
    scripts: tuple[Script, ...]
    depth: int = 16
    descendants: int = 1000
    most_agents: int = 40
    has_outside: bool = False


@attrs.frozen
class Profile:
    """From which operations programs are made.

    Attributes:
      agent_ops, body_ops: the names of the operations, with their weights.
      scripts: how many scripts a program has at the most.
      length: how many operations a script has at the most.
      slots: what `max_concurrent` is drawn from.
      restarts: how likely an agent has a restart policy.
      leaving: how likely an agent ends with something left open.
      body_waits: what the body of a pool may do only for a while, because servers could keep it
        waiting for ever.
    """

    agent_ops: dict[str, int]
    body_ops: dict[str, int]
    scripts: int = 6
    length: int = 7
    slots: tuple[int, ...] = (1, 1, 2, 2, 3, 4, 16)
    restarts: float = 0.15
    leaving: float = 0.0
    body_waits: tuple[str, ...] = (
        "ask",
        "send",
        "join_next",
        "join_all",
        "result",
        "wait",
        "map",
        "race",
        "vote",
        "as_completed",
        "spawn",
    )


_TALKING = {
    "send": 8,
    "send_nowait": 3,
    "ask": 5,
    "receive": 5,
    "receive_nowait": 2,
    "reply": 4,
    "serve": 3,
    "pool_send": 1,
    "meddle": 1,
}
_WAITING = {
    "spawn": 10,
    "spawn_nowait": 3,
    "result": 5,
    "wait": 5,
    "join_next": 4,
    "join_all": 3,
    "map": 2,
    "race": 1,
    "vote": 1,
    "as_completed": 1,
    "fan_out": 2,
}
_PASSING = {"step": 3, "sleep": 3, "compute": 5}

FULL = Profile(
    agent_ops={
        **_TALKING,
        **_WAITING,
        **_PASSING,
        "within": 6,
        "both": 3,
        "unknown": 1,
        "abort": 3,
        "abort_any": 2,
        "broadcast": 1,
        "subscribe": 1,
        "publish": 1,
        "reserve": 2,
        "look": 1,
        "supervise": 1,
        "stray": 1,
        "fail": 1,
        "exit": 0,
        "abort_all": 0,
    },
    body_ops={
        "spawn": 12,
        "spawn_nowait": 3,
        "fan_out": 2,
        "send_nowait": 3,
        "within": 8,
        "abort_any": 3,
        "abort_all": 1,
        "limit": 2,
        "sleep": 3,
        "step": 3,
        "look": 1,
        "drain": 1,
        "fail": 1,
        "cancel": 1,
    },
)
"""Everything at once."""

RARE = Profile(
    agent_ops={**FULL.agent_ops, "exit": 1, "abort_all": 1, "fail": 3},
    body_ops={**FULL.body_ops, "fail": 3, "cancel": 3, "drain": 3, "abort_all": 3},
)
"""As `FULL`, with more ends that are not peaceful, also fatal ones."""

WAITS = Profile(
    agent_ops={**_TALKING, **_WAITING, **_PASSING, "both": 2, "chat": 3},
    body_ops={"spawn": 10, "fan_out": 2, "send_nowait": 2, "step": 2, "sleep": 1},
    scripts=5,
    length=6,
)
"""Only what a deadlock can be made of: nobody is aborted, no deadline passes."""

TREES = Profile(
    agent_ops={**_WAITING, **_PASSING, "vote": 0, "race": 0},
    body_ops={"spawn": 10, "fan_out": 2, "map": 2, "join_all": 2, "step": 2},
    scripts=8,
    length=5,
)
"""Parents that wait for children, and nothing else."""

HASTY = Profile(
    agent_ops={
        **_TALKING,
        **_PASSING,
        "tell_and_work": 14,
        "spawn": 6,
        "wait": 4,
        "join_next": 3,
        "join_all": 3,
        "within": 16,
        "chat": 1,
        "abort_any": 3,
    },
    body_ops={"spawn": 14, "fan_out": 2, "send_nowait": 4, "within": 6, "sleep": 4, "abort_any": 2},
    length=8,
    slots=(1, 1, 2),
    restarts=0.0,
)
"""Slots that are hard to get, and deadlines that pass in between."""

PHOENIX = Profile(
    agent_ops={
        **_TALKING,
        "ask": 14,
        "receive": 12,
        "sleep": 8,
        "spawn": 8,
        "fail": 5,
        "supervise": 4,
        "join_all": 3,
        "within": 2,
    },
    body_ops={"spawn": 12, "fan_out": 2, "send_nowait": 4, "within": 4, "sleep": 4},
    restarts=0.7,
)
"""Agents that fail and are started afresh, while others wait for their replies."""

JOINS = Profile(
    agent_ops={
        "spawn": 8,
        "both": 6,
        "map": 4,
        "join_next": 10,
        "join_all": 2,
        "wait_any": 4,
        "ask": 8,
        "send": 3,
        "sleep": 4,
        "serve": 1,
    },
    body_ops={"spawn": 10, "fan_out": 2, "sleep": 1},
    scripts=5,
    length=5,
)
"""Joins whose children are taken from them, or wait for them."""

_NEIGHBOURS = {**_TALKING, "spawn": 8, "wait": 4, "join_next": 3, "join_all": 3, **_PASSING, "within": 4}
_QUIET_BODY = {"spawn": 12, "fan_out": 2, "send_nowait": 3, "within": 4, "sleep": 3}

UNTIDY = Profile(
    agent_ops={**_NEIGHBOURS, "map": 2, "fail": 1, "abort_any": 1},
    body_ops=_QUIET_BODY,
    leaving=0.4,
)
"""Agents that end with scopes, shields, nurseries and async generators left open."""

INPUTS = Profile(
    agent_ops={**_NEIGHBOURS, "feed": 14, "abort_any": 1},
    body_ops={**_QUIET_BODY, "within": 10},
    length=5,
    body_waits=("feed", "feed", "feed", "join_next", "spawn"),
)
"""Inputs of `map` and `as_completed` that have tasks of their own, and that raise."""

RESIZED = Profile(
    agent_ops={**_WAITING, **_PASSING, "send": 4, "serve": 2, "resize": 10, "within": 4},
    body_ops={**_QUIET_BODY, "resize": 8},
    slots=(1, 1, 2, 3),
)
"""Pools whose `max_concurrent` is changed while they run."""

INNER = Profile(
    agent_ops={**_NEIGHBOURS, "receive": 10, "inner": 12, "abort_any": 1},
    body_ops={**_QUIET_BODY, "inner": 2},
    length=5,
    slots=(1, 2, 3, 4),
    restarts=0.05,
)
"""Agents that open pools of their own, also in tasks of their own."""

READERS = Profile(
    agent_ops={**_NEIGHBOURS, "compute": 8, "read": 14, "borrow": 8, "tell": 14, "abort_any": 1, "fail": 1},
    body_ops={**_QUIET_BODY, "within": 8},
    length=6,
    slots=(1, 1, 2, 3),
    restarts=0.1,
    body_waits=("read", "read", "join_next", "spawn"),
)
"""Agents that read the events of their pool, and those that wait for slow ones."""

HOUSES = Profile(
    agent_ops={
        **_NEIGHBOURS,
        "receive": 8,
        "inners": 8,
        "outlive": 8,
        "tell": 4,
        "refused": 1,
        "abort_any": 1,
    },
    body_ops={**_QUIET_BODY, "sleep": 8},
    length=5,
    slots=(1, 1, 2, 3),
    restarts=0.05,
)
"""Agents with several pools at once, and tasks of the program's own that use theirs."""

PROFILES = {
    "full": FULL,
    "rare": RARE,
    "waits": WAITS,
    "trees": TREES,
    "hasty": HASTY,
    "phoenix": PHOENIX,
    "joins": JOINS,
    "untidy": UNTIDY,
    "inputs": INPUTS,
    "resized": RESIZED,
    "inner": INNER,
    "readers": READERS,
    "houses": HOUSES,
}

VAGUE = frozenset(
    {
        "join_next",
        "join_all",
        "map",
        "as_completed",
        "race",
        "vote",
        "fan_out",
        "broadcast",
        "publish",
        "feed",
        "inner",
        "inners",
        "tell",
    }
)
"""Operations that wait for agents which the actor does not know."""
