"""Drawing random programs: the operations of a seed, from those of a profile."""

from __future__ import annotations

import random

import attrs

from ._programs import Op, Profile, Program, Script

# What needs a script to spawn; the last script has none after it.
_SPAWNING = {
    "supervise",
    "spawn",
    "spawn_nowait",
    "map",
    "race",
    "vote",
    "as_completed",
    "fan_out",
    "feed",
    "inner",
    "inners",
    "outlive",
}
# Ordinary ones come more often, so that not every program ends at once.
_INPUTS = ("plain", "nursery", "nursery", "nursery", "planned", "group", "fatal", "fatal group")
_OVERFLOW = ("block", "block", "drop_oldest")
# How a subscription is read: to the end, in part, not at all, each event only for a while; and one
# that is never left, or never entered.
_READING = ("end", "end", "end", "some", "some", "idle", "impatient", "leak", "unentered")
_BETWEEN_EVENTS: tuple[Op, ...] = (
    ("step",),
    ("compute",),
    ("compute",),
    ("sleep", 0.1),
    ("sleep", 1.0),
    ("tell", 1),
    ("tell", 3),
)
# What takes a number that says which agent, handle or topic.
_INDEXED = {
    "send",
    "send_nowait",
    "pool_send",
    "ask",
    "chat",
    "tell_and_work",
    "result",
    "wait",
    "wait_any",
    "abort",
    "abort_any",
    "subscribe",
    "publish",
}


def draw_program(seed: int, profile: Profile) -> Program:
    """Return the program of a seed: always the same one."""
    rng = random.Random(f"agentpool campaign {seed}")
    dice = _Dice(rng, profile, rng.randint(1, profile.scripts))
    scripts = tuple(dice.script(number) for number in range(dice.count))
    body = tuple(dice.op(-1) for _ in range(rng.randint(2, profile.length)))
    if profile.leaving:
        scripts = _left_open(scripts, profile.leaving, seed)
    return Program(
        max_concurrent=rng.choice(profile.slots),
        inbox_capacity=rng.choice([1, 1, 2, 4, 32]),
        depth=rng.choice([1, 2, 16, 16, 16, 16]),
        descendants=rng.choice([3, 10, 1000, 1000, 1000]),
        body=(("spawn", 0, None, None), *body),
        scripts=scripts,
        has_outside="outlive" in profile.agent_ops,
    )


LEFT_OPEN = ("scope", "deadline", "shield", "nursery", "generator")
"""What can be left open on a task."""


def _left_open(scripts: tuple[Script, ...], likely: float, seed: int) -> tuple[Script, ...]:
    """Have some scripts end with something left open, drawn by dice that decide nothing else."""
    rng = random.Random(f"agentpool left open {seed}")
    return tuple(
        attrs.evolve(script, ops=(*script.ops, ("leave", rng.choice(LEFT_OPEN))))
        if rng.random() < likely
        else script
        for script in scripts
    )


@attrs.define(eq=False)
class _Dice:
    """Draws the operations of a program with `count` scripts; the script -1 is the body."""

    rng: random.Random
    profile: Profile
    count: int

    def script(self, number: int) -> Script:
        ops = [self.op(number) for _ in range(self.rng.randint(1, self.profile.length))]
        if "serve" in self.profile.agent_ops and self.rng.random() < 0.25:
            ops.append(("serve",))
        return Script(tuple(ops), careful=self.rng.random() < 0.8)

    def op(self, script: int, depth: int = 0) -> Op:
        weights = self.profile.body_ops if script < 0 else self.profile.agent_ops
        names = [name for name in weights if self._may(name, script, depth)]
        name = self.rng.choices(names, [weights[name] for name in names])[0]
        if name == "within" and script < 0:
            inner = [
                self._named(self.rng.choice(self.profile.body_waits), -1, 2)
                for _ in range(self.rng.randint(1, 3))
            ]
            return ("within", self.rng.choice([0.5, 1.0, 3.0]), tuple(inner))
        return self._named(name, script, depth)

    def _may(self, name: str, script: int, depth: int) -> bool:
        if name in _SPAWNING:
            return script + 1 < self.count
        return depth < 2 or name not in ("within", "both", "reserve", "read")

    def _some(self, script: int, depth: int) -> tuple[Op, ...]:
        return tuple(self.op(script, depth + 1) for _ in range(self.rng.randint(1, 3)))

    def _named(self, name: str, script: int, depth: int) -> Op:
        rng = self.rng
        if name in _SPAWNING:
            return self._spawning(name, rng.randrange(script + 1, self.count))
        match name:
            case "within":
                return ("within", rng.choice([0.0, 0.1, 0.5, 1.0, 2.0]), self._some(script, depth))
            case "both":
                return ("both", self._some(script, depth), self._some(script, depth))
            case "unknown":
                return ("unknown", rng.choice([0.0, 0.5, 1.0]), ("receive",))
            case "reserve":
                return ("reserve", rng.randint(1, 50), self._some(script, depth))
            case "read":
                how = rng.choice(_READING)
                first, between = self.op(script, depth + 1), rng.choice(_BETWEEN_EVENTS)
                return (name, rng.choice(_OVERFLOW), rng.choice([1, 1, 2, 4, 64]), how, (first,), (between,))
            case "borrow":
                then: Op = rng.choice([("step",), ("join_all",), ("join_next",), ("tell", 2)])
                return (name, rng.randrange(12), rng.randint(1, 4), (then,))
            case "tell":
                return (name, rng.randint(1, 5))
            case "sleep":
                return ("sleep", rng.choice([0.0, 0.1, 0.5, 1.0, 2.0]))
            case "drain":
                return ("drain", rng.choice([0.0, 1.0, 5.0]))
            case "limit" | "resize":
                return (name, rng.choice([1, 2, 5]))
            case _ if name in _INDEXED:
                return (name, rng.randrange(12))
            case _:
                return (name,)

    def _inner_body(self, number: int) -> tuple[Op, ...]:
        """Draw what the body of one of several inner pools does."""
        last: Op = self.rng.choice([("step",), ("step",), ("sleep", 1.0), ("within", 1.0, (("join_all",),))])
        return (("spawn", self.rng.randrange(number, self.count), None, None), last)

    def _outside(self, number: int) -> Op:
        """Draw what a task of the program's own does with the pool."""
        rng = self.rng
        index = rng.randrange(12)
        read: Op = ("read", rng.choice(_OVERFLOW), rng.choice([1, 2, 64]), "end", (("step",),), (("step",),))
        return rng.choice(
            [
                ("sleep", rng.choice([0.1, 0.5, 1.0])),
                ("spawn", number, None, None),
                ("spawn_nowait", number),
                ("map", number, rng.randint(1, 3)),
                ("send", index),
                ("send_nowait", index),
                ("ask", index),
                ("wait", index),
                ("result", index),
                read,
            ]
        )

    def _spawning(self, name: str, number: int) -> Op:
        rng = self.rng
        match name:
            case "spawn":
                # Without deadlines of any kind in the profile, an agent gets none either.
                quiet = "within" not in self.profile.agent_ops
                limit = None if quiet or rng.random() < 0.8 else rng.choice([0.5, 1.0, 2.0])
                is_restarted = not quiet and rng.random() < self.profile.restarts
                return (name, number, limit, rng.choice(["permanent", "transient"]) if is_restarted else None)
            case "supervise":
                strategy = rng.choice(["one_for_one", "one_for_all", "rest_for_one"])
                return (name, number, rng.randint(1, 3), strategy)
            case "map" | "fan_out":
                return (name, number, rng.randint(0, 4))
            case "feed":
                verb = rng.choice(["map", "as_completed", "leave early"])
                return (name, verb, number, rng.randint(0, 4), rng.choice(_INPUTS))
            case "inner":
                ops: list[Op] = [("spawn", number, None, None) for _ in range(rng.randint(1, 3))]
                ops += rng.choice([[], [("sleep", 1.0)], [("within", 1.0, (("join_all",),))]])
                return (name, rng.choice([1, 2]), tuple(ops), rng.random() < 0.3)
            case "inners":
                pools = tuple(self._inner_body(number) for _ in range(rng.randint(2, 3)))
                beside = rng.choice([("receive",), ("receive",), ("join_next",), ("ask", rng.randrange(12))])
                return (name, rng.choice([1, 2]), pools, (beside,))
            case "outlive":
                return (name, tuple(self._outside(number) for _ in range(rng.randint(1, 4))))
            case "race" | "vote":
                return (name, number, rng.randint(1, 3))
            case "as_completed":
                return (name, number, rng.randint(1, 4), rng.randint(1, 4))
            case _:
                return (name, number)
