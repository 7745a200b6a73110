"""`agentpool run`: the agents of a fleet file in a pool, with signals, a view and an exit code."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from agentpool._agent import AgentHandle
from agentpool._core.errors import PoolClosedError
from agentpool._core.outcomes import AnyOutcome, Completed, Failed
from agentpool._fleet import FleetFile
from agentpool._pool import AgentPool, open_agent_pool
from agentpool.cli._progress import describe
from agentpool.cli._signals import SignalCounter
from agentpool.cli._view import (
    LiveView,
    PlainView,
    SilentView,
    View,
    outcome_as_json,
    print_outcomes,
    sum_usage,
)

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
    """How a run went: the outcomes of the fleet's agents, in the order of their ids."""

    outcomes: Sequence[AnyOutcome]
    duration: float
    exit_code: int


def run_fleet(path: Path, options: RunOptions) -> int:
    """Run a fleet file and print what came of it; return the exit code.

    Raises:
      ManifestError: if the file is wrong.
    """
    fleet = FleetFile.load(path)
    view = _choose_view(options)
    try:
        report = trio.run(_run, fleet, options, view)
    finally:
        view.close()
    _print_report(path, report, options)
    return report.exit_code


def _choose_view(options: RunOptions) -> View:
    if options.quiet:
        return SilentView()
    if sys.stderr.isatty():
        from rich.console import Console

        return LiveView(Console(stderr=True))
    return PlainView()


async def _run(fleet: FleetFile, options: RunOptions, view: View) -> RunReport:
    signals = SignalCounter()
    started = trio.current_time()
    handles: list[AgentHandle[Any]] = []
    async with open_agent_pool(fleet.driver, max_concurrent=1) as pool:
        # Inside the pool, so that an agent's SystemExit leaves unwrapped by this nursery.
        async with pool.events(max_buffer=EVENTS_KEPT) as events, trio.open_nursery() as nursery:
            nursery.start_soon(view.keep_drawing, pool)
    outcomes = [handle.outcome for handle in handles if handle.outcome is not None]
    code = signals.exit_code
    if code is None:
        code = 0 if all(isinstance(outcome, Completed) for outcome in outcomes) else 1
    return RunReport(outcomes, trio.current_time() - started, code)


def _print_report(path: Path, report: RunReport, options: RunOptions) -> None:
    if options.as_json:
        print(json.dumps(_report_as_json(path, report), indent=2))
    elif options.quiet:
        for outcome in report.outcomes:
            if not isinstance(outcome, Completed):
                print(f"{outcome.name}: {describe(outcome)}", file=sys.stderr)
    else:
        from rich.console import Console

        print_outcomes(Console(), report.outcomes, report.duration)


def _report_as_json(path: Path, report: RunReport) -> dict[str, Any]:
    return {
        "fleet": str(path),
        "exit_code": report.exit_code,
        "duration": report.duration,
        "usage": attrs.asdict(sum_usage(report.outcomes)),
        "agents": [outcome_as_json(outcome) for outcome in report.outcomes],
    }
