"""`agentpool run`: the agents of a fleet file in a pool, with signals, a view and an exit code."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from outcome import acapture

from agentpool._core.approval import ApprovalRequest
from agentpool._core.budget import Budget
from agentpool._core.errors import JournalError, PoolClosedError, RunPausedError, UnhandledAgentErrors
from agentpool._core.events import AgentFinished, AgentSpawned, ApprovalRequested
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome, Completed
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._kernel.events import EventSubscription
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.opening import leave_unfinished, open_agent_pool
from agentpool._kernel.pool import AgentPool
from agentpool.cli._drivers import DrivenConfig, Drivers, pool_driver_name, tools_with
from agentpool.cli._errors import BadInputError, JournalLostError
from agentpool.cli._files import load_fleet
from agentpool.cli._journal import KeptRun, check_free
from agentpool.cli._memory import open_memory
from agentpool.cli._output import OutputDirectory
from agentpool.cli._progress import describe
from agentpool.cli._report import outcome_as_json, print_outcomes
from agentpool.cli._signals import SignalCounter
from agentpool.cli._streams import PROBLEMS_SHOWN, complain, only_ours, printing, say
from agentpool.cli._text import listed, one_line
from agentpool.cli._view import View, choose_view
from agentpool.fleet.disk import Disk, NotingDisk
from agentpool.fleet.file import FleetFile
from agentpool.fleet.start import Start, starts_of

EVENTS_KEPT = 10_000
PAUSED = 3
"""The exit code of a run that waits for the decision of a person."""
LOOK_EVERY = 0.1  # seconds


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of `agentpool run`."""

    driver: str | None = None
    max_concurrent: int | None = None
    timeout: float | None = None
    output: Path | None = None
    memory: Path | None = None
    journal: Path | None = None
    vars: Mapping[str, str] = attrs.field(factory=dict)
    quiet: bool = False
    as_json: bool = False


@attrs.frozen
class RunReport:
    """How a run went.

    Attributes:
      outcomes: those of the fleet's agents and supervisors, in the order of their ids.
      not_started: the names of agents that a signal came before.
      usage: of all model calls, also those of agents that agents spawned.
      duration: seconds.
      lost: the files below `--output` that could not be written, and why.
      unfinished: the names of agents that the journal holds unfinished.
      asked: what a person has to decide, by the ids under which it is decided.
    """

    outcomes: Sequence[AnyOutcome]
    not_started: Sequence[str]
    usage: TokenUsage
    duration: float
    exit_code: int
    lost: Sequence[str] = ()
    unfinished: Sequence[str] = ()
    asked: Mapping[str, ApprovalRequest] = attrs.field(factory=dict)


def run_fleet(path: Path, options: RunOptions) -> int:
    """Run a fleet file and print what came of it; return the exit code.

    Raises:
      ManifestError: if a file is wrong.
      BadInputError: if a driver cannot be opened.
    """
    with only_ours() if options.as_json else nullcontext():
        kept = None
        disk = Disk()
        if options.journal is not None:
            check_free(options.journal)
            disk = NotingDisk()
        fleet = load_fleet(path, options.vars, disk)
        if options.journal is not None and isinstance(disk, NotingDisk):
            kept = KeptRun.begin(options.journal, _about(path, options, disk))
        report = perform(fleet, options, kept)
    print_report(path, report, options, kept)
    return report.exit_code


def _about(path: Path, options: RunOptions, disk: NotingDisk) -> Mapping[str, Any]:
    """Return what a run that goes on has to know of how it began."""
    return {
        "fleet": str(path),
        "vars": dict(options.vars),
        "driver": options.driver,
        "timeout": options.timeout,
        "output": None if options.output is None else str(options.output.absolute()),
        "memory": None if options.memory is None else str(options.memory.absolute()),
        "directory": os.getcwd(),
        "files": disk.to_data(),
    }


def perform(fleet: FleetFile, options: RunOptions, kept: KeptRun | None) -> RunReport:
    """Run a fleet, or go on with its run, and return what came of it.

    Raises:
      BadInputError: if a driver or the journal cannot be opened.
      JournalLostError: if the journal could not be written in the middle of the run.
    """
    view = choose_view(quiet=options.quiet)
    try:
        return trio.run(_run, fleet, options, kept, view)
    finally:
        view.close()


async def _run(fleet: FleetFile, options: RunOptions, kept: KeptRun | None, view: View) -> RunReport:
    started = trio.current_time()
    async with AsyncExitStack() as stack:
        drivers = Drivers(stack, options.driver, pool_driver_name(fleet), view.tell, view.retrying)
        await drivers.open_for(fleet.manifests, functions=bool(fleet.functions))
        memory = await open_memory(stack, options.memory or fleet.pool.memory)
        output = None if options.output is None else _output(options.output, kept)
        drivers.conversations = None if output is None else output.conversations
        starts = starts_of(fleet, drivers.get, options.timeout, DrivenConfig)
        if kept is not None and kept.is_forked:
            starts = []
        run = _Run(view, drivers, output, starts, kept)
        settings: dict[str, Any] = {
            "max_concurrent": options.max_concurrent or fleet.pool.max_concurrent,
            "inbox_capacity": fleet.pool.inbox_capacity,
            "budget": _budget(fleet),
        }
        means: dict[str, Any] = {"memory": memory, "tool_builder": partial(tools_with, drivers)}
        if kept is None:
            # Agents of manifests are given theirs; functions ask the pool's, `ctx.driver`.
            pool = open_agent_pool(drivers.get_for_functions(), **settings, **means)
        else:
            pool = kept.open_pool(starts, drivers, settings, options.max_concurrent, **means)
        async with trio.open_nursery() as nursery:
            # Captured, so that this nursery puts no group around an agent's SystemExit.
            ended = await acapture(run.to_its_end, pool, nursery)
            nursery.cancel_scope.cancel("the agents have ended")
        ended.unwrap()
    unfinished = await run.find_unfinished()
    outcomes = run.outcomes()
    lost = await _write_rest(output, outcomes)
    duration = trio.current_time() - started + (0.0 if kept is None else kept.elapsed)
    code = run.exit_code() or (1 if lost else 0)
    return RunReport(
        outcomes, run.not_started, run.usage, duration, code, lost, unfinished=unfinished, asked=run.asked
    )


def _output(path: Path, kept: KeptRun | None) -> OutputDirectory:
    """Return the directory for the answers; a run that goes on may have begun to fill it."""
    is_its_own = kept is not None and kept.before is not None and kept.about["output"] == str(path.absolute())
    return OutputDirectory.prepare(path, may_hold_files=is_its_own)


async def _write_rest(output: OutputDirectory | None, outcomes: Sequence[AnyOutcome]) -> Sequence[str]:
    """Write the outcomes whose events were dropped; return what of all files could not be written."""
    if output is None:
        return ()
    for outcome in outcomes:
        await trio.to_thread.run_sync(output.write, outcome)
    return output.lost


@attrs.define(eq=False)
class _Run:
    """A pool at work, shown by a view, and what signals do to it.

    Attributes:
      handles: of what was spawned here, or before the run was resumed.
      children: the outcomes of what agents spawned, the last one for each name.
      usage: of all model calls, once the pool has ended.
      asked: what a person has to decide before the run can go on.
    """

    _view: View
    _drivers: Drivers
    _output: OutputDirectory | None
    _starts: Sequence[Start]
    _kept: KeptRun | None = None
    _signals: SignalCounter = attrs.field(factory=SignalCounter)
    _starting: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    handles: list[AgentHandle[Any]] = attrs.field(factory=list)
    children: dict[tuple[AgentId, str], AnyOutcome] = attrs.field(factory=dict)
    usage: TokenUsage = NO_USAGE
    asked: Mapping[str, ApprovalRequest] = attrs.field(factory=dict)
    _unfinished: frozenset[AgentId] = frozenset()

    async def to_its_end(self, opened: AbstractAsyncContextManager[AgentPool], nursery: trio.Nursery) -> None:
        shown = trio.Event()
        async with AsyncExitStack() as around:
            pool = None
            try:
                async with opened as pool:
                    events = await around.enter_async_context(pool.events(max_buffer=EVENTS_KEPT))
                    await self._take_up(pool)
                    nursery.start_soon(self._show, events, shown)
                    nursery.start_soon(self._view.keep_drawing, pool, self._drivers)
                    around.enter_context(self._handling_signals(pool, nursery))
                    await self._start_all(pool)
                    # The block ends here: servers end when nobody is left who could write to them.
            except UnhandledAgentErrors:
                pass  # the report tells of every failure
            except RunPausedError as paused:
                self.asked = paused.requests
            except JournalError as error:
                if pool is None:
                    raise BadInputError(str(error)) from error
                raise JournalLostError(str(error)) from error
            finally:
                if pool is not None:
                    self.usage = pool.statistics().usage
        await shown.wait()

    async def _take_up(self, pool: AgentPool) -> None:
        """Take in what the run had come to before it was resumed."""
        if self._kept is None or self._kept.before is None:
            return
        self.handles.extend(pool.resumed)
        alive = [agent for agent in self._kept.past.agents.values() if agent.outcome is None]
        for agent in alive:
            self._view.take(AgentSpawned(0, trio.current_time(), agent.id, agent.parent, agent.name))
        ended = 0
        for outcome in self._kept.outcomes_before():
            ended += 1
            if self._output is not None:
                said = self._kept.conversation_of(outcome)
                self._output.conversations.remember(outcome.agent_id, said)
            await self._keep(outcome)
        self._view.tell(f"resumed: {ended:,} agents had ended, {len(alive):,} go on")

    async def _start_all(self, pool: AgentPool) -> None:
        starts = self._starts if self._kept is None else self._kept.remaining(self._starts)
        try:
            with self._starting:
                for start in starts:
                    self.handles.append(await start.spawn_in(pool))
        except PoolClosedError:
            pass  # a signal came: the rest is not started
        if self._starting.cancel_called:
            await self._leave_at_rest(pool)

    async def _leave_at_rest(self, pool: AgentPool) -> None:
        """Let agents at work finish, and leave those that wait for agents that were not started.

        They are not told that nobody is left who could write to them: when the run is resumed, there is.
        """
        while pool.active_count:
            now = pool.statistics()
            if not (now.running or now.queued or now.backing_off or now.waiting_to_start):
                leave_unfinished(pool, "left unfinished")
            await trio.sleep(LOOK_EVERY)

    async def _show(self, events: EventSubscription, shown: trio.Event) -> None:
        async for event in events:
            if self._kept is not None and isinstance(event, AgentFinished | ApprovalRequested):
                await self._kept.commit()  # what a person has read is not taken back
            self._view.take(event)
            if isinstance(event, AgentFinished):
                await self._keep(event.outcome)
        shown.set()

    async def _keep(self, outcome: AnyOutcome) -> None:
        if outcome.parent_id:
            self.children[outcome.parent_id, outcome.name] = outcome
        if self._output is not None:
            await trio.to_thread.run_sync(self._output.write, outcome)

    def _handling_signals(self, pool: AgentPool, nursery: trio.Nursery) -> AbstractContextManager[None]:
        def drain() -> None:
            if self._kept is None:
                nursery.start_soon(self._drain, pool)
            else:
                self._view.tell(
                    "stopping: no more agents start, those at work may finish; again to leave all"
                )
                self._starting.cancel("stopped by a signal")

        def abort() -> None:
            if self._kept is None:
                self._view.tell("aborting")
                pool.abort_all("stopped by a second signal")
            else:
                self._view.tell("leaving what is unfinished to `agentpool resume`")
                leave_unfinished(pool, "left unfinished")

        return self._signals.handling(drain, abort)

    async def _drain(self, pool: AgentPool) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(pool.drain, grace=math.inf))
            for _ in range(2):  # after the second one it has begun for certain: say it when it is so
                await trio.lowlevel.checkpoint()
            self._view.tell("stopping: no more agents start, those at work may finish; again to abort them")

    # -- when the pool has ended ---------------------------------------------------------------

    async def find_unfinished(self) -> Sequence[str]:
        """Return the names of the fleet's agents that have not ended, in the journal."""
        if self._kept is None or not (self.asked or self._signals.count):
            return ()
        past = await self._kept.past_now()
        self._unfinished = frozenset(agent.id for agent in past.agents.values() if agent.outcome is None)
        supervisors = self._supervisors()
        return [
            agent.name
            for agent in past.agents.values()
            if agent.outcome is None and (agent.parent in supervisors or not agent.parent)
        ]

    @property
    def not_started(self) -> Sequence[str]:
        """The names of agents that were not spawned."""
        spawned = {handle.name for handle in self.handles}
        return [name for start in self._starts if start.name not in spawned for name in start.names]

    def outcomes(self) -> list[AnyOutcome]:
        """Return the outcomes of the fleet's agents and supervisors, in the order of their ids."""
        supervisors = self._supervisors()
        supervised = [outcome for outcome in self.children.values() if outcome.parent_id in supervisors]
        own = [handle.outcome for handle in self.handles if handle.outcome is not None]
        ended = [each for each in (*own, *supervised) if each.agent_id not in self._unfinished]
        return sorted(ended, key=lambda outcome: outcome.agent_id)

    def _supervisors(self) -> set[AgentId]:
        names = {start.name for start in self._starts if start.supervises}
        return {handle.id for handle in self.handles if handle.name in names}

    def exit_code(self) -> int:
        """Tell the end of a signal, or that it is paused, or else whether all went well; what a supervisor
        fixed did."""
        if self._signals.exit_code is not None:
            return self._signals.exit_code
        return PAUSED if self.asked else code_of(self.outcomes())


def code_of(outcomes: Sequence[AnyOutcome]) -> int:
    """Return the exit code of a run that came to these outcomes."""
    return 0 if all(isinstance(outcome, Completed) for outcome in outcomes) else 1


def _budget(fleet: FleetFile) -> Budget | None:
    settings = fleet.pool.budget
    if settings is None:
        return None
    return Budget(tokens=settings.tokens, cost_usd=settings.cost_usd, calls=settings.calls)


# -- at the end ------------------------------------------------------------------


def print_report(path: Path, report: RunReport, options: RunOptions, kept: KeptRun | None) -> None:
    """Print what came of a run.

    Raises:
      OutputLostError: if standard output does not take it.
    """
    with printing():
        if options.as_json:
            print(json.dumps(_report_as_json(path, report, kept), indent=2))
        elif not options.quiet:
            print_outcomes(report.outcomes, report.usage, report.duration, output=options.output)
            if report.unfinished:
                print(f"unfinished: {listed(report.unfinished)}")
            if report.not_started:
                print(f"not started: {listed(report.not_started)}")
            if options.output is not None:
                print(f"answers and transcripts: {one_line(str(options.output))}")
    if options.quiet:
        bad = [outcome for outcome in report.outcomes if not isinstance(outcome, Completed)]
        for outcome in bad[:PROBLEMS_SHOWN]:
            say(one_line(f"{outcome.name}: {describe(outcome)}"))
        if len(bad) > PROBLEMS_SHOWN:
            say(f"and {len(bad) - PROBLEMS_SHOWN:,} more failed or were aborted")
    if kept is not None:
        for line in to_do(report, kept):
            say(line)
    if report.lost:
        complain([f"not written: {lost}" for lost in report.lost])


def to_do(report: RunReport, kept: KeptRun) -> Iterator[str]:
    """Yield what a person is asked, and how the run goes on; nothing of one that has ended."""
    for key, request in report.asked.items():
        call = f"{request.call.name} {json.dumps(request.call.input, ensure_ascii=False)}"
        yield one_line(f"paused: {request.agent_name} asks whether it may call {call} ({request.rule})")
        yield f"  allow it with: {kept.command('approve', key)}"
        yield f"  or refuse it:  {kept.command('deny', key)} [--reason TEXT]"
    if report.unfinished or report.not_started:
        yield f"resume with: {kept.command('resume')}"


def _report_as_json(path: Path, report: RunReport, kept: KeptRun | None) -> dict[str, Any]:
    document = {
        "fleet": str(path),
        "exit_code": report.exit_code,
        "duration": report.duration,
        "usage": attrs.asdict(report.usage),
        "agents": [outcome_as_json(outcome) for outcome in report.outcomes],
        "not_started": list(report.not_started),
        "not_written": list(report.lost),
    }
    if kept is not None:
        document["journal"] = kept.shown
        document["unfinished"] = list(report.unfinished)
        document["asked"] = [_asked_as_json(key, request) for key, request in report.asked.items()]
    return document


def _asked_as_json(key: str, request: ApprovalRequest) -> dict[str, Any]:
    call = {"name": request.call.name, "input": request.call.input}
    agent = {"id": request.agent_id, "name": request.agent_name}
    return {"id": key, "agent": agent, "call": call, "rule": request.rule}
