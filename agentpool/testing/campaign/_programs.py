"""Random pool programs: as data, and what runs them.

A program is a body and some scripts, each a list of operations. A script spawns only scripts that
come after it, so that every tree is finite. What a program does is decided by its seed twice over:
which operations it has, and in which order its tasks run.
"""

from __future__ import annotations

import random
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
    """

    max_concurrent: int
    inbox_capacity: int
    body: tuple[Op, ...]
    scripts: tuple[Script, ...]
    depth: int = 16
    descendants: int = 1000
    most_agents: int = 40


@attrs.frozen
class Profile:
    """From which operations programs are made.

    Attributes:
      agent_ops, body_ops: the names of the operations, with their weights.
      scripts: how many scripts a program has at the most.
      length: how many operations a script has at the most.
    """

    agent_ops: dict[str, int]
    body_ops: dict[str, int]
    scripts: int = 6
    length: int = 7


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
        "spawn": 6,
        "wait": 4,
        "join_next": 3,
        "join_all": 3,
        "within": 14,
        "chat": 2,
    },
    body_ops={"spawn": 12, "fan_out": 2, "send_nowait": 4, "within": 6, "sleep": 4, "abort_any": 2},
    length=8,
)
"""Deadlines that pass in the moment in which what was waited for comes."""

PROFILES = {"full": FULL, "rare": RARE, "waits": WAITS, "trees": TREES, "hasty": HASTY}

# What needs a script to spawn; the last script has none after it.
_SPAWNING = {"spawn", "spawn_nowait", "map", "race", "vote", "as_completed", "fan_out"}
# What the body of a pool may do only for a while, because servers could keep it waiting for ever.
_BODY_WAITS = (
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


def draw_program(seed: int, profile: Profile) -> Program:
    """Return the program of a seed: always the same one."""
    rng = random.Random(f"agentpool campaign {seed}")
    count = rng.randint(1, profile.scripts)
    scripts = tuple(_draw_script(rng, profile, number, count) for number in range(count))
    body = tuple(_draw_op(rng, profile.body_ops, -1, count) for _ in range(rng.randint(2, profile.length)))
    return Program(
        max_concurrent=rng.choice([1, 1, 2, 2, 3, 4, 16]),
        inbox_capacity=rng.choice([1, 1, 2, 4, 32]),
        depth=rng.choice([1, 2, 16, 16, 16, 16]),
        descendants=rng.choice([3, 10, 1000, 1000, 1000]),
        body=(("spawn", 0, None, None), *body),
        scripts=scripts,
    )


def _draw_script(rng: random.Random, profile: Profile, number: int, count: int) -> Script:
    ops = [_draw_op(rng, profile.agent_ops, number, count) for _ in range(rng.randint(1, profile.length))]
    if "serve" in profile.agent_ops and rng.random() < 0.25:
        ops.append(("serve",))
    return Script(tuple(ops), careful=rng.random() < 0.8)


def _draw_op(rng: random.Random, weights: dict[str, int], script: int, count: int, depth: int = 0) -> Op:
    names = [
        name
        for name in weights
        if not (name in _SPAWNING and script + 1 >= count) and not (depth >= 2 and name in ("within", "both"))
    ]
    name = rng.choices(names, [weights[name] for name in names])[0]
    if name == "within" and script < 0:
        inner = [
            _draw_named(rng, rng.choice(_BODY_WAITS), weights, -1, count, 2) for _ in range(rng.randint(1, 3))
        ]
        return ("within", rng.choice([0.5, 1.0, 3.0]), tuple(inner))
    return _draw_named(rng, name, weights, script, count, depth)


def _draw_named(
    rng: random.Random, name: str, weights: dict[str, int], script: int, count: int, depth: int
) -> Op:
    def later() -> int:
        return rng.randrange(script + 1, count)

    def some() -> tuple[Op, ...]:
        return tuple(_draw_op(rng, weights, script, count, depth + 1) for _ in range(rng.randint(1, 3)))

    match name:
        case "spawn":
            quiet = weights.get("within", 0) == 0
            # Without deadlines of any kind in the profile, an agent gets none either.
            limit = None if quiet or rng.random() < 0.8 else rng.choice([0.5, 1.0, 2.0])
            restart = None if quiet or rng.random() < 0.85 else rng.choice(["permanent", "transient"])
            return ("spawn", later(), limit, restart)
        case "spawn_nowait":
            return ("spawn_nowait", later())
        case "map" | "fan_out":
            return (name, later(), rng.randint(0, 4))
        case "race" | "vote":
            return (name, later(), rng.randint(1, 3))
        case "as_completed":
            return (name, later(), rng.randint(1, 4), rng.randint(1, 4))
        case "within":
            return ("within", rng.choice([0.0, 0.1, 0.5, 1.0, 2.0]), some())
        case "both":
            return ("both", some(), some())
        case "unknown":
            return (
                "unknown",
                rng.choice([0.0, 0.5, 1.0]),
                _draw_named(rng, "receive", weights, script, count, 2),
            )
        case "reserve":
            return ("reserve", rng.randint(1, 50), some()) if depth < 2 else ("step",)
        case "sleep":
            return ("sleep", rng.choice([0.0, 0.1, 0.5, 1.0, 2.0]))
        case "drain":
            return ("drain", rng.choice([0.0, 1.0, 5.0]))
        case "limit":
            return ("limit", rng.choice([1, 2, 5]))
        case (
            "send"
            | "send_nowait"
            | "ask"
            | "result"
            | "wait"
            | "abort"
            | "abort_any"
            | "subscribe"
            | "publish"
            | "pool_send"
            | "chat"
        ):
            return (name, rng.randrange(12))
        case _:
            return (name,)
