"""One run of the campaign: from a profile and a seed to what was wrong."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import attrs

from agentpool._core.errors import AgentTimeoutError
from agentpool._core.events import AgentFinished, DeadlockSuspected
from agentpool._core.outcomes import Aborted, Failed
from agentpool.testing import PoolInstrument, instrumented
from agentpool.testing._cancel import BLOWS, strike
from agentpool.testing._simulate import Simulation, SimulationContext, SimulationHangError, attempt

from ._actor import run_program
from ._draw import draw_program
from ._logs import PoolLogs
from ._models import run_fleet
from ._oracle import violations
from ._outposts import run_outpost
from ._programs import PROFILES, Program
from ._services import run_town
from ._threads import run_grove
from ._world import World

MAX_SECONDS = 1000.0
MAX_STEPS = 5_000

_RUN_AGAIN = ("waits", "joins", "readers", "houses")
"""Profiles whose programs are run again, without detection, when a deadlock was told."""

WITHOUT_DETECTION = PoolInstrument(detects_deadlocks=False)
"""Has the pools of a run look for no deadlocks."""


@attrs.frozen
class Verdict:
    """What one run came to.

    Attributes:
      profile, seed: make it happen again.
      problems: what was wrong; empty if all is well.
      steps, agents, messages, alarms: how much happened, alarms being deadlocks.
    """

    profile: str
    seed: int
    problems: tuple[str, ...]
    steps: int = 0
    agents: int = 0
    messages: int = 0
    alarms: int = 0


def run_seed(profile: str, seed: int) -> Verdict:
    """Draw the program of a seed, run it under that seed, and ask the oracles."""
    if profile in ("models", "tools"):
        found, fleet = run_fleet(seed, untidy=profile == "tools")
        agents = len(fleet.log.of(AgentFinished))
        return Verdict(profile, seed, tuple(found), steps=fleet.steps, agents=agents)
    if profile == "threads":
        found, agents = run_grove(seed)
        return Verdict(profile, seed, tuple(found), agents=agents)
    if profile == "services":
        found, run, town = run_town(seed)
        agents, messages = len(run.log.of(AgentFinished)), town.taken.total()
        return Verdict(profile, seed, tuple(found), run.steps, agents, messages, town.alarms)
    if profile == "placed":
        found, run, outpost = run_outpost(seed)
        agents, messages = len(outpost.bodies), len(outpost.received)
        return Verdict(profile, seed, tuple(found), run.steps, agents, messages, outpost.alarms)
    program = draw_program(seed, PROFILES[profile])
    logs = PoolLogs()
    run, world = run_once(program, seed, logs, blow=profile == "rare")
    problems = violations(run, world, logs)
    if profile in _RUN_AGAIN and world.alarms and not problems and _may_be_run_again(run, world):
        problems = list(_false_alarms(program, seed, world))
    return Verdict(
        profile,
        seed,
        tuple(problems),
        steps=run.steps,
        agents=len(world.handles),
        messages=len(world.received),
        alarms=len(world.alarms),
    )


def _may_be_run_again(run: Simulation[Any], world: World) -> bool:
    """Whether the same program would come to the same without detection.

    Events also tell of suspicions, so that readers would get fewer. And who has got a subscription
    from another may begin to read it whenever it likes, which nobody can foresee.
    """
    gallery = world.gallery
    return not gallery.readings or not (gallery.is_lent_out or run.log.of(DeadlockSuspected))


def _false_alarms(program: Program, seed: int, alarmed: World) -> Iterator[str]:
    """What was called a deadlock has to be one: without the detector the same run hangs."""
    run, _ = run_once(program, seed, WITHOUT_DETECTION)
    # A parent outside the cycle that fails aborts its child, which nobody could foresee; and a time
    # limit of a whole agent is no reason to let it wait in vain until then.
    is_broken = any(_is_cut_short(event.outcome) for event in run.log.of(AgentFinished))
    if not isinstance(run.error, SimulationHangError) and not is_broken:
        yield f"{alarmed.alarms[0]!r} was no deadlock: without detection the program ends"


def _is_cut_short(outcome: Any) -> bool:
    """Whether an agent was aborted, or ended by its time limit."""
    error = outcome.error if isinstance(outcome, Failed) else None
    return isinstance(outcome, Aborted) or isinstance(error, AgentTimeoutError)


def run_once(
    program: Program, seed: int, *instruments: PoolInstrument, blow: bool = False
) -> tuple[Simulation[Any], World]:
    """Run a program under a seed, with a blow from outside at some step if asked for."""
    world = World(program)
    rng = random.Random(f"agentpool blow {seed}")
    step, kind = rng.randint(1, 150), rng.choice(BLOWS)

    async def main() -> None:
        with ExitStack() as stack:
            for instrument in instruments:
                stack.enter_context(instrumented(instrument))
            await run_program(world)

    def on_step(now: int, context: SimulationContext) -> None:
        if now == step:
            world.wholesale = True
            world.cancelled = kind == "cancel around"
            strike(kind, context, rng)

    strikes = on_step if blow else None
    with warnings.catch_warnings():
        # An agent that leaves something open fails, whatever filters the process has: no mere warning.
        warnings.filterwarnings("error", "agent .* left open", RuntimeWarning)
        run = attempt(main, seed, max_seconds=MAX_SECONDS, max_steps=MAX_STEPS, on_step=strikes)
    return run, world
