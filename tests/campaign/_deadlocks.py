"""Random programs of agents that wait for each other, each alarm of which has to be a hang.

A program is small: a few agents that ask, send, receive, reply and wait for each other's outcomes.
It is run under a seed. If a `DeadlockError` was raised in it, it is run again under the same seed
without the detector, and then it must hang; and no program may hang while the detector is at work.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import attrs
import trio

from agentpool import AgentHandle, DeadlockError, UnknownAgentError, open_agent_pool
from agentpool.testing import PoolInstrument, instrumented
from agentpool.testing._simulate import Simulation, SimulationHangError, attempt

from ._world import leaves

MAX_SECONDS = 1000.0
MAX_STEPS = 20_000
_CHUNK = 250

Step: TypeAlias = tuple[Any, ...]
"""A verb, and the number of the agent that it is about; or steps, for the verbs that hold some."""

_WEIGHTS = {
    "ask": 6,
    "send": 6,
    "receive": 6,
    "serve": 8,
    "reply": 3,
    "wait": 3,
    "join_all": 1,
    "join_next": 3,
    "pause": 4,
    "hurried": 3,
    "both": 3,
}
_HOLDING = ("hurried", "both")


@attrs.frozen
class Knot:
    """A program of agents that wait for each other.

    Attributes:
      slots, capacity: of the pool and of its inboxes.
      parents: who spawns each agent: the pool's block (0), or an agent with a smaller number.
      steps: what each agent does.
      careful: which agents go on when they are told of a deadlock; the others end by it.
    """

    slots: int
    capacity: int
    parents: tuple[int, ...]
    steps: tuple[tuple[Step, ...], ...]
    careful: tuple[bool, ...]

    @property
    def size(self) -> int:
        """How many agents there are."""
        return len(self.parents)


def draw_knot(seed: int) -> Knot:
    """Return the program of a seed: always the same one."""
    rng = random.Random(f"agentpool knot {seed}")
    size = rng.randint(2, 6)
    return Knot(
        slots=rng.randint(1, 4),
        capacity=rng.randint(1, 2),
        parents=_draw_parents(rng, size),
        steps=tuple(_draw_steps(rng, number, size) for number in range(1, size + 1)),
        careful=tuple(rng.random() < 0.4 for _ in range(size)),
    )


def _draw_parents(rng: random.Random, size: int) -> tuple[int, ...]:
    if rng.random() < 0.3:
        return (0, *(1 for _ in range(size - 1)))  # a family, whose parent waits for many
    return tuple(rng.choice([0, 0, rng.randrange(number)]) for number in range(1, size + 1))


def _draw_steps(rng: random.Random, number: int, size: int) -> tuple[Step, ...]:
    # Who waits for itself is in a deadlock for sure: that is to happen, but seldom.
    others = [other for other in range(1, size + 1) if other != number or rng.random() < 0.1]
    return tuple(_draw_step(rng, others, _WEIGHTS) for _ in range(rng.randint(1, 6)))


def _draw_step(rng: random.Random, others: Sequence[int], weights: Mapping[str, int]) -> Step:
    (verb,) = rng.choices(list(weights), list(weights.values()))
    if verb not in _HOLDING:
        return verb, rng.choice(others)
    plain = {name: weight for name, weight in weights.items() if name not in _HOLDING}
    return verb, *(_draw_step(rng, others, plain) for _ in range(1 if verb == "hurried" else 2))


@attrs.define(eq=False)
class _Tangle:
    """One run of a program: who is who, and what went wrong."""

    knot: Knot
    handles: dict[int, AgentHandle[Any]] = attrs.field(factory=dict)
    alarms: list[DeadlockError] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    complete: trio.Event = attrs.field(factory=trio.Event)

    async def run(self) -> None:
        knot = self.knot
        async with open_agent_pool(max_concurrent=knot.slots, inbox_capacity=knot.capacity) as pool:
            await self.spawn_children(pool, 0)
            await self.complete.wait()
            # An inbox is empty now, and all are told to begin at once: the seed decides who does.
            for handle in self.handles.values():
                pool.send_nowait(handle.id, "begin")

    async def spawn_children(self, scope: Any, parent: int) -> None:
        for number, of in enumerate(self.knot.parents, 1):
            if of == parent:
                self.handles[number] = await scope.spawn(partial(self.agent, number=number))
        if len(self.handles) == self.knot.size:
            self.complete.set()

    async def agent(self, ctx: Any, number: int) -> None:
        await self.spawn_children(ctx, number)
        await ctx.receive()
        actor = _Actor(self, ctx, self.knot.careful[number - 1])
        for step in self.knot.steps[number - 1]:
            await actor.perform(step)

    def saw(self, alarm: DeadlockError, agent: int) -> None:
        """Look at a deadlock that an agent was told of, in its body or by its outcome."""
        if alarm in self.alarms:
            return
        self.alarms.append(alarm)
        if alarm.path[0] != agent or len(set(alarm.path)) != len(alarm.path):
            self.problems.append(f"{alarm!r} was raised in agent {agent}")

    def look_at_outcomes(self) -> None:
        """See the deadlocks that agents were told of when their body had ended, and odd errors."""
        for handle in self.handles.values():
            error = getattr(handle.outcome, "error", None)
            for leaf in [] if error is None else leaves(error):
                if isinstance(leaf, DeadlockError):
                    self.saw(leaf, handle.id)
                else:
                    self.problems.append(f"agent {handle.id} ended by {leaf!r}")


@attrs.define(eq=False)
class _Actor:
    """One agent at work on its steps."""

    tangle: _Tangle
    ctx: Any
    careful: bool
    questions: list[Any] = attrs.field(factory=list)

    async def perform(self, step: Step) -> None:
        verb, *arguments = step
        try:
            await getattr(self, f"do_{verb}")(*arguments)
        except DeadlockError as error:
            self.tangle.saw(error, self.ctx.id)
            if not self.careful:
                raise
        except (UnknownAgentError, trio.EndOfChannel):
            pass  # somebody has ended: programs do not mind

    async def do_ask(self, to: int) -> None:
        await self.ctx.ask(self.tangle.handles[to].id, "?")

    async def do_send(self, to: int) -> None:
        await self.ctx.send(self.tangle.handles[to].id, "!")

    async def do_receive(self, _to: int) -> None:
        self.questions.append(await self.ctx.receive())

    async def do_serve(self, _to: int) -> None:
        self.ctx.reply(await self.ctx.receive(), "ok")

    async def do_reply(self, _to: int) -> None:
        if self.questions:
            self.ctx.reply(self.questions.pop(), "ok")
        await trio.lowlevel.checkpoint()

    async def do_wait(self, to: int) -> None:
        await self.tangle.handles[to].wait()

    async def do_join_all(self, _to: int) -> None:
        await self.ctx.join_all()

    async def do_join_next(self, _to: int) -> None:
        await self.ctx.join_next()

    async def do_pause(self, to: int) -> None:
        await trio.sleep(to)

    async def do_hurried(self, step: Step) -> None:
        with trio.move_on_after(20):
            await self.perform(step)

    async def do_both(self, first: Step, second: Step) -> None:
        async with self.ctx.open_nursery() as nursery:
            nursery.start_soon(self.perform, first)
            nursery.start_soon(self.perform, second)


# -- judging ---------------------------------------------------------------------------------------


@attrs.frozen
class KnotVerdict:
    """What the run of a program came to.

    Attributes:
      seed: makes it happen again.
      problems: what was wrong; empty if all is well.
      alarms: how many deadlocks its agents were told of.
    """

    seed: int
    problems: tuple[str, ...]
    alarms: int


def judge_knot(knot: Knot, seed: int, *, detect: bool = True) -> KnotVerdict:
    """Run a program under a seed, and once more without the detector if there was an alarm."""
    run, tangle = _run(knot, seed, detect=detect)
    problems = [*tangle.problems, *_problems_of(run)]
    if tangle.alarms and not problems:
        blind, _ = _run(knot, seed, detect=False)
        if not _ran_out_of_time(blind):
            problems.append(f"a false alarm: without the detector the program ends ({blind.error!r})")
    return KnotVerdict(seed, tuple(problems), len(tangle.alarms))


def _run(knot: Knot, seed: int, *, detect: bool) -> tuple[Simulation[None], _Tangle]:
    tangle = _Tangle(knot)

    async def main() -> None:
        with instrumented(PoolInstrument(detects_deadlocks=detect)):
            await tangle.run()

    run = attempt(main, seed, max_seconds=MAX_SECONDS, max_steps=MAX_STEPS)
    tangle.look_at_outcomes()
    return run, tangle


def _ran_out_of_time(run: Simulation[None]) -> bool:
    return isinstance(run.error, SimulationHangError) and "virtual seconds" in run.error.args[0]


def _problems_of(run: Simulation[None]) -> Iterator[str]:
    if isinstance(run.error, SimulationHangError):
        yield f"hang: {run.error}"
    elif run.error is not None:
        odd = [leaf for leaf in leaves(run.error) if not isinstance(leaf, DeadlockError)]
        if odd:
            yield f"the pool ended with {odd}"
    yield from run.left_behind


# -- many of them ------------------------------------------------------------------------------------


@attrs.define
class KnotReport:
    """What many programs came to.

    Attributes:
      programs: how many were run.
      alarmed: in how many a deadlock was reported; each of them was run again.
      totals: agents, and alarms.
      violations: the runs that broke a promise.
      seconds: how long it took.
    """

    programs: int = 0
    alarmed: int = 0
    totals: Counter[str] = attrs.field(factory=Counter)
    violations: list[KnotVerdict] = attrs.field(factory=list)
    seconds: float = 0.0

    def add(self, verdict: KnotVerdict, agents: int) -> None:
        """Count a program."""
        self.programs += 1
        self.alarmed += bool(verdict.alarms)
        self.totals.update(agents=agents, alarms=verdict.alarms)
        if verdict.problems:
            self.violations.append(verdict)

    def merge(self, other: KnotReport) -> None:
        """Add another report to this one."""
        self.programs += other.programs
        self.alarmed += other.alarmed
        self.totals.update(other.totals)
        self.violations.extend(other.violations)

    def __str__(self) -> str:
        lines = [
            f"deadlocks: {self.programs:,} programs of {self.totals['agents']:,} agents"
            f" in {self.seconds:.0f} s",
            f"  {self.alarmed:,} with an alarm, each run again without the detector to see it hang",
            f"  {self.programs - self.alarmed:,} without one, all of which ended",
            f"  {len(self.violations)} violations",
        ]
        for verdict in self.violations[:20]:
            lines.append(f"  seed {verdict.seed}: {verdict.problems[0].splitlines()[0]}")
        return "\n".join(lines)


def run_knots(programs: int, *, first: int = 0, jobs: int = 2) -> KnotReport:
    """Run the programs of the seeds from `first` on, in several processes."""
    begun = time.perf_counter()
    report = KnotReport()
    starts = range(first, first + programs, _CHUNK)
    counts = [min(_CHUNK, first + programs - start) for start in starts]
    if jobs == 1:
        for start, count in zip(starts, counts, strict=True):
            report.merge(run_knots_here(start, count))
    else:
        # Fresh interpreters, because a forked one would share file descriptors and random states.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as executor:
            for part in executor.map(run_knots_here, starts, counts):
                report.merge(part)
    report.seconds = time.perf_counter() - begun
    return report


def run_knots_here(first: int, count: int) -> KnotReport:
    """Run the programs of the seeds from `first` on, in this process."""
    report = KnotReport()
    for seed in range(first, first + count):
        knot = draw_knot(seed)
        report.add(judge_knot(knot, seed), knot.size)
    return report


def shrink_knot(knot: Knot, seed: int) -> Knot:
    """Make a program that breaks a promise smaller, as long as it breaks one."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller_knots(knot):
            if judge_knot(candidate, seed).problems:
                knot, smaller = candidate, True
                break
    return knot


def _smaller_knots(knot: Knot) -> Iterator[Knot]:
    for number, steps in enumerate(knot.steps):
        for at, step in enumerate(steps):
            yield attrs.evolve(knot, steps=_replaced(knot.steps, number, _replaced(steps, at)))
            if step[0] in _HOLDING:
                for inner in step[1:]:
                    shorter = (*steps[:at], inner, *steps[at + 1 :])
                    yield attrs.evolve(knot, steps=_replaced(knot.steps, number, shorter))


def _replaced(values: Sequence[Any], at: int, *new: Any) -> tuple[Any, ...]:
    return (*values[:at], *new, *values[at + 1 :])
