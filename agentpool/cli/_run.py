"""`agentpool run`: the agents of a fleet file in a pool, with signals, a view and an exit code."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from agentpool._agent import AgentHandle
from agentpool._core.budget import Budget
from agentpool._core.errors import PoolClosedError
from agentpool._core.events import AgentFinished
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome, Completed
from agentpool._events import EventSubscription
from agentpool._fleet import FleetFile
from agentpool._pool import AgentPool, open_agent_pool
from agentpool._runtime import SpawnConfig
from agentpool.cli._drivers import Drivers
from agentpool.cli._files import load_fleet
from agentpool.cli._progress import describe
from agentpool.cli._report import outcome_as_json, print_outcomes, sum_usage
from agentpool.cli._signals import SignalCounter
from agentpool.cli._start import Start, starts_of
from agentpool.cli._view import View, choose_view
from agentpool.memory.in_memory import InMemory
from agentpool.tools import ToolRegistry, build_tools

EVENTS_KEPT = 10_000


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of `agentpool run`."""

    driver: str | None = None
    max_concurrent: int | None = None
    timeout: float | None = None
    quiet: bool = False
    as_json: bool = False


@attrs.frozen
class RunReport:
    """How a run went.

    Attributes:
      outcomes: those of the fleet's agents and supervisors, in the order of their ids.
      not_started: the names of agents that a signal came before.
      duration: seconds.
    """

    outcomes: Sequence[AnyOutcome]
    not_started: Sequence[str]
    duration: float
    exit_code: int


def run_fleet(path: Path, options: RunOptions) -> int:
    """Run a fleet file and print what came of it; return the exit code.

    Raises:
      ManifestError: if a file is wrong.
      BadInputError: if a driver cannot be opened.
    """
    fleet = load_fleet(path)
    view = choose_view(quiet=options.quiet)
    try:
        report = trio.run(_run, fleet, options, view)
    finally:
        view.close()
    _print_report(path, report, options)
    return report.exit_code


async def _run(fleet: FleetFile, options: RunOptions, view: View) -> RunReport:
    signals = SignalCounter()
    started = trio.current_time()
    async with AsyncExitStack() as stack:
        drivers = Drivers(stack, options.driver, fleet.pool.driver, view.tell)
        await drivers.open_for([agent.manifest for agent in fleet.agents])
        starts = starts_of(fleet, drivers.get, options.timeout)
        async with open_agent_pool(
            max_concurrent=options.max_concurrent or fleet.pool.max_concurrent,
            memory=InMemory(),
            tool_builder=partial(_tools, drivers),
            inbox_capacity=fleet.pool.inbox_capacity,
            budget=_budget(fleet),
        ) as pool:
            # All that follows is inside the pool, so that no group is put around a SystemExit.
            handles, children = await _start_and_watch(pool, starts, view, signals)
            own = [handle.outcome for handle in handles if handle.outcome is not None]
    not_started = [name for start in starts[len(handles) :] for name in start.names]
    code = signals.exit_code
    if code is None:
        code = 0 if all(isinstance(outcome, Completed) for outcome in own) else 1
    supervisors = {handle.id for handle, start in zip(handles, starts, strict=False) if start.supervises}
    supervised = [outcome for outcome in children if outcome.parent_id in supervisors]
    outcomes = sorted([*own, *supervised], key=lambda outcome: outcome.agent_id)
    return RunReport(outcomes, not_started, trio.current_time() - started, code)


def _tools(drivers: Drivers, manifest: AgentManifest) -> ToolRegistry:
    def child(manifest: AgentManifest, query: str) -> SpawnConfig[str]:
        return SpawnConfig(manifest, query, driver=drivers.get(manifest))

    return build_tools(manifest, make_agent=child)


def _budget(fleet: FleetFile) -> Budget | None:
    settings = fleet.pool.budget
    if settings is None:
        return None
    return Budget(tokens=settings.tokens, cost_usd=settings.cost_usd, calls=settings.calls)


async def _start_and_watch(
    pool: AgentPool, starts: Sequence[Start], view: View, signals: SignalCounter
) -> tuple[list[AgentHandle[Any]], Collection[AnyOutcome]]:
    """Spawn everything, and wait for its end; the view draws meanwhile.

    Returns:
      The handles of what was spawned here, and the outcomes of what agents spawned, the last one
      for each name.
    """
    children: dict[tuple[AgentId, str], AnyOutcome] = {}

    async def show(events: EventSubscription) -> None:
        async for event in events:
            view.take(event)
            if isinstance(event, AgentFinished) and event.parent_id:
                children[event.parent_id, event.outcome.name] = event.outcome

    async with pool.events(max_buffer=EVENTS_KEPT) as events, trio.open_nursery() as nursery:
        nursery.start_soon(show, events)
        nursery.start_soon(view.keep_drawing, pool)

        def drain() -> None:
            view.tell("stopping: no more agents start, those at work may finish; again to abort them")
            nursery.start_soon(partial(pool.drain, grace=math.inf))

        def abort() -> None:
            view.tell("aborting")
            pool.abort_all("stopped by a second signal")

        with signals.handling(drain, abort):
            handles = await _start_all(pool, starts)
            # From here on servers end when nobody is left who could write to them.
            await pool.drain(grace=math.inf)
        while events.statistics().buffered:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel("the agents have ended")
    return handles, children.values()


async def _start_all(pool: AgentPool, starts: Sequence[Start]) -> list[AgentHandle[Any]]:
    handles: list[AgentHandle[Any]] = []
    try:
        for start in starts:
            handles.append(await start.spawn_in(pool))
    except PoolClosedError:
        pass  # a signal came: the rest is not started
    return handles


# -- at the end ------------------------------------------------------------------


def _print_report(path: Path, report: RunReport, options: RunOptions) -> None:
    if options.as_json:
        print(json.dumps(_report_as_json(path, report), indent=2))
    elif not options.quiet:
        print_outcomes(report.outcomes, report.duration)
        if report.not_started:
            print(f"not started: {', '.join(report.not_started)}")
    if options.quiet:
        for outcome in report.outcomes:
            if not isinstance(outcome, Completed):
                print(f"{outcome.name}: {describe(outcome)}", file=sys.stderr)
    sys.stdout.flush()  # so that a closed pipe is noticed while it can be told


def _report_as_json(path: Path, report: RunReport) -> dict[str, Any]:
    return {
        "fleet": str(path),
        "exit_code": report.exit_code,
        "duration": report.duration,
        "usage": attrs.asdict(sum_usage(report.outcomes)),
        "agents": [outcome_as_json(outcome) for outcome in report.outcomes],
        "not_started": list(report.not_started),
    }
