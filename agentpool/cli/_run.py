"""`agentpool run` and `resume`: the agents of a fleet in a pool, with signals, a view and an exit code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio
from outcome import Value, acapture

from agentpool._core.budget import Budget
from agentpool._core.errors import JournalError, PoolClosedError, RunPausedError, UnhandledAgentErrors
from agentpool._core.events import AgentFinished, ApprovalRequested
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome, Completed
from agentpool._core.summaries import describe
from agentpool._core.text import named
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._kernel.events import EventSubscription
from agentpool._kernel.handle import AgentHandle
from agentpool._kernel.opening import OpenPool, open_agent_pool, written
from agentpool._kernel.pool import AgentPool
from agentpool.abc import Approver, Driver, Memory, Placement
from agentpool.cli._asking import TerminalApprover, can_ask
from agentpool.cli._drivers import Drivers, FleetDriver, plain_tools, pool_driver_name, tools_with
from agentpool.cli._errors import BadInputError
from agentpool.cli._files import load_fleet
from agentpool.cli._memory import open_memory
from agentpool.cli._otel import exporting, traced
from agentpool.cli._output import OutputDirectory
from agentpool.cli._report import outcome_as_json, print_outcomes
from agentpool.cli._signals import SignalCounter
from agentpool.cli._streams import PROBLEMS_SHOWN, complain, only_ours, printing, say
from agentpool.cli._text import listed, one_line
from agentpool.cli._view import View, choose_view
from agentpool.cli._warnings import telling_warnings
from agentpool.cli._web import RunPage, WebOptions, page_for
from agentpool.fleet.file import FleetFile
from agentpool.fleet.start import DriverOf, Start, starts_of

if TYPE_CHECKING:
    from agentpool._core.approval import ApprovalRequest
    from agentpool._core.past import Past

# What is for journals is imported where there is one: an agent without runs sooner.

EVENTS_KEPT = 10_000
PAUSED = 3
"""The exit code of a run that waits for the decision of a person."""


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
    otel: bool = False
    web: WebOptions | None = None


@attrs.frozen
class RunReport:
    """How a run went.

    Attributes:
      outcomes: those of the fleet's agents and supervisors, in the order of their ids.
      not_started: the names of agents that a signal came before.
      usage: of all model calls, also those of agents that agents spawned.
      duration: seconds.
      lost: the files below `--output` that could not be written, and why.
      asked: what a person has to decide before the run goes on, by the ids of the decisions.
      is_left: whether the run is not over, and can be resumed.
      problem: why the run could not go on; empty if it could.
    """

    outcomes: Sequence[AnyOutcome]
    not_started: Sequence[str]
    usage: TokenUsage
    duration: float
    exit_code: int
    lost: Sequence[str] = ()
    asked: Mapping[str, ApprovalRequest] = attrs.field(factory=dict)
    is_left: bool = False
    problem: str = ""


def run_fleet(path: Path, options: RunOptions) -> int:
    """Run a fleet file and print what came of it; return the exit code.

    Raises:
      ManifestError: if a file is wrong.
      BadInputError: if a driver or the journal cannot be opened.
    """
    if options.journal is not None:
        from agentpool.cli._journals import refuse_journal_in_use

        refuse_journal_in_use(options.journal)
    with page_for(options.web, path.name) as page:
        with only_ours() if options.as_json else nullcontext():
            fleet = load_fleet(path, options.vars)
        return performed(str(path), fleet, options, None, page)


def performed(
    path: str, fleet: FleetFile, options: RunOptions, past: Past | None, page: RunPage | None
) -> int:
    """Run a fleet, or go on with it, and print what came of it; return the exit code.

    Args, raises: as `perform`.
    """
    view = choose_view(quiet=options.quiet)

    async def perform_it() -> RunReport:
        with only_ours() if options.as_json else nullcontext():
            try:
                return await perform(path, fleet, options, view, past, page)
            finally:
                view.close()

    report_it = partial(print_report, path, options=options)
    with exporting(options.otel):
        report = trio.run(perform_it) if page is None else trio.run(page.show, perform_it, report_it)
    if page is None:
        report_it(report)
    return report.exit_code


async def perform(
    path: str,
    fleet: FleetFile,
    options: RunOptions,
    view: View,
    past: Past | None = None,
    page: RunPage | None = None,
) -> RunReport:
    """Run a fleet, or go on with it.

    Args:
      path: what the fleet's file is called.
      fleet: what was read.
      options: those of the command line.
      view: shows it.
      past: what the run of the journal had come to; None for one that begins.
      page: shows it too; None without one.

    Raises:
      ManifestError: if an agent has nothing to ask.
      BadInputError: if a driver or the journal cannot be opened, or Ray is missing that the fleet needs.
    """
    started = trio.current_time()
    async with AsyncExitStack() as stack:
        stack.enter_context(telling_warnings(view.tell))
        retrying = view.retrying if page is None else page.retries_beside(view.retrying)
        drivers = Drivers(stack, options.driver, pool_driver_name(fleet), view.tell, retrying)
        # Agents that agents had spawned may ask another driver than those of the fleet.
        manifests = [*fleet.manifests, *_manifests_below(past)]
        await drivers.open_for(manifests, functions=bool(fleet.functions))
        memory = await open_memory(stack, options.memory or fleet.pool.memory)
        output = None if options.output is None else OutputDirectory.prepare(options.output)
        drivers.conversations = None if output is None else output.conversations
        placement = placement_for(fleet)
        starts = starts_of(fleet, _driver_of(drivers, options), options.timeout)
        run = _Run(view, drivers, output, options.journal, options.otel, page)
        approver: Approver | None = TerminalApprover(view) if can_ask() else None
        if page is not None:
            page.introduce(say if options.quiet else view.tell, leaves=options.journal is not None)
            approver = page.asking_beside(approver)
        means = _Means(drivers, memory, approver, placement)
        pool = _opened(path, fleet, options, means, starts, past)
        if page is not None:
            assert isinstance(pool, OpenPool)
            pool.watch_with(lambda made: page.begin(made, drivers, run.press, past))
        if past is not None:
            from agentpool.cli._journals import children_of, outcomes_of

            view.goes_on(past)
            run.children.update(children_of(past))
            await _write_rest(output, list(outcomes_of(past)))

        async def to_the_last_file(nursery: trio.Nursery) -> Sequence[str]:
            await run.to_its_end(pool, starts, nursery)
            return await _write_rest(output, run.outcomes(starts))

        async with trio.open_nursery() as nursery:
            # Captured, so that this nursery puts no group around an agent's SystemExit.
            ended = await acapture(to_the_last_file, nursery)
            if page is not None:
                if isinstance(ended, Value):
                    told = f"exit code {run.exit_code(starts) or (1 if ended.value else 0)}"
                else:
                    told = f"the run broke off: {named(ended.error)}"
                await page.ended(told, run.is_left, run.stopped_by)
            nursery.cancel_scope.cancel("the agents have ended")
        lost = ended.unwrap()
    not_started = [name for start in starts if start.name not in run.handles for name in start.names]
    outcomes = run.outcomes(starts)
    duration = trio.current_time() - started + (0.0 if past is None else past.elapsed)
    code = run.exit_code(starts) or (1 if lost else 0)
    is_left = run.is_left or bool(options.journal and not_started)
    return RunReport(outcomes, not_started, run.usage, duration, code, lost, run.asked, is_left, run.problem)


def _manifests_below(past: Past | None) -> Sequence[AgentManifest]:
    if past is None:
        return ()
    from agentpool.cli._journals import manifests_of

    return manifests_of(past)


def _driver_of(drivers: Drivers, options: RunOptions) -> DriverOf:
    # With a journal, agents ask the pool's driver: one that carried its own could not be made again.
    return drivers.get if options.journal is None else lambda manifest: None


@attrs.frozen
class _Means:
    """What a run's agents work with."""

    drivers: Drivers
    memory: Memory
    approver: Approver | None
    placement: Placement | None


def placement_for(fleet: FleetFile) -> Placement | None:
    """Return where the agents of a fleet run; None if in this process.

    Raises:
      BadInputError: if what that needs is not installed.
    """
    try:
        return fleet.make_placement()
    except ModuleNotFoundError as error:
        raise BadInputError(str(error)) from error


def _opened(
    path: str,
    fleet: FleetFile,
    options: RunOptions,
    means: _Means,
    starts: Sequence[Start],
    past: Past | None,
) -> AbstractAsyncContextManager[AgentPool]:
    """Return the pool, which is still to be opened."""
    if options.journal is None:
        # Agents of manifests are given their drivers; functions ask the pool's, `ctx.driver`.
        driver: Driver | None = means.drivers.get_for_functions()
        tool_builder = partial(tools_with, means.drivers, fleet.subagents or None)
        if means.placement is not None:
            # The builder goes to the workers, where these drivers are not.
            driver, tool_builder = FleetDriver(means.drivers), partial(plain_tools, fleet.subagents or None)
        return open_agent_pool(
            driver,
            max_concurrent=options.max_concurrent or fleet.pool.max_concurrent,
            memory=means.memory,
            tool_builder=tool_builder,
            inbox_capacity=fleet.pool.inbox_capacity,
            budget=budget_of(fleet),
            approver=means.approver,
            placement=means.placement,
        )
    from agentpool._loop.resume import resume_agent_pool
    from agentpool.cli._journals import about_run
    from agentpool.journal import SqliteJournal

    journal = SqliteJournal(options.journal)
    if past is not None:
        return resume_agent_pool(
            journal,
            FleetDriver(means.drivers),
            max_concurrent=options.max_concurrent,
            memory=means.memory,
            tool_builder=partial(plain_tools, fleet.subagents or None),
            approver=means.approver,
            placement=means.placement,
            agents={start.name: start.agent for start in starts},
        )
    pool = open_agent_pool(
        FleetDriver(means.drivers),
        max_concurrent=options.max_concurrent or fleet.pool.max_concurrent,
        memory=means.memory,
        tool_builder=partial(plain_tools, fleet.subagents or None),
        inbox_capacity=fleet.pool.inbox_capacity,
        budget=budget_of(fleet),
        approver=means.approver,
        journal=journal,
        placement=means.placement,
    )
    assert isinstance(pool, OpenPool)
    file = options.memory or fleet.pool.memory
    about = about_run(path, fleet, driver=options.driver, timeout=options.timeout, memory=file)
    pool.tell_about(about)
    return pool


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
      handles: of what was spawned here, or before the run was resumed, by name.
      children: the outcomes of what agents spawned, the last one for each name.
      usage: of all model calls, once the pool has ended.
      asked: what a person has to decide, if the run is paused.
      is_left: whether agents were stopped that go on when the run is resumed.
      problem: why the journal could not be written, or an agent could not go on.
    """

    _view: View
    _drivers: Drivers
    _output: OutputDirectory | None
    _journal: Path | None = None
    _otel: bool = False
    _page: RunPage | None = None
    _signals: SignalCounter = attrs.field(factory=SignalCounter)
    handles: dict[str, AgentHandle[Any]] = attrs.field(factory=dict)
    children: dict[tuple[AgentId, str], AnyOutcome] = attrs.field(factory=dict)
    usage: TokenUsage = NO_USAGE
    asked: Mapping[str, ApprovalRequest] = attrs.field(factory=dict)
    is_left: bool = False
    problem: str = ""
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def to_its_end(
        self, opened: AbstractAsyncContextManager[AgentPool], starts: Sequence[Start], nursery: trio.Nursery
    ) -> None:
        shown = trio.Event()
        async with AsyncExitStack() as around:
            pool = None
            try:
                with self._scope:
                    async with opened as pool:
                        if self._page is not None:
                            nursery.start_soon(self._page.watch)
                        # Left after the pool: so the ends of all agents are seen.
                        await around.enter_async_context(traced(pool, self._otel))
                        events = await around.enter_async_context(pool.events(max_buffer=EVENTS_KEPT))
                        nursery.start_soon(self._show, pool, events, shown)
                        nursery.start_soon(self._view.keep_drawing, pool, self._drivers)
                        around.enter_context(self._handling_signals(pool, nursery))
                        await self._start_all(pool, starts)
                        # The block ends here: servers end when nobody is left who could write to them.
            except UnhandledAgentErrors:
                pass  # the report tells of every failure
            except RunPausedError as paused:
                self.asked, self.is_left = paused.requests, True
            except JournalError as error:
                if pool is None:
                    raise BadInputError(str(error)) from error
                self.problem, self.is_left = str(error), True
            finally:
                if pool is not None:
                    self.usage = pool.statistics().usage
        await shown.wait()

    async def _start_all(self, pool: AgentPool, starts: Sequence[Start]) -> None:
        self.handles.update((handle.name, handle) for handle in pool.resumed)
        try:
            for start in starts:
                if start.name not in self.handles:
                    self.handles[start.name] = await start.spawn_in(pool)
        except PoolClosedError:
            pass  # a signal came: the rest is not started

    async def _show(self, pool: AgentPool, events: EventSubscription, shown: trio.Event) -> None:
        async for event in events:
            if self._journal is not None and isinstance(event, AgentFinished | ApprovalRequested):
                await written(pool)  # what a person has read is not taken back by a crash
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
        def leave() -> None:
            self._view.tell("stopping: what is unfinished can be resumed")
            self.is_left = True
            self._scope.cancel("a signal came")

        def drain() -> None:
            nursery.start_soon(self._drain, pool)

        def abort() -> None:
            self._view.tell("aborting")
            pool.abort_all("stopped by a second signal")

        if self._journal is not None:
            # Who is stopped now goes on later. Were they let run to their ends, servers would be told that
            # nobody writes to them any more, though agents that were not started yet would have.
            return self._signals.handling(leave, lambda: None)
        return self._signals.handling(drain, abort)

    async def _drain(self, pool: AgentPool) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(pool.drain, grace=math.inf))
            for _ in range(2):  # after the second one it has begun for certain: say it when it is so
                await trio.lowlevel.checkpoint()
            self._view.tell("stopping: no more agents start, those at work may finish; again to abort them")

    def outcomes(self, starts: Sequence[Start]) -> list[AnyOutcome]:
        """Return the outcomes of the fleet's agents and supervisors, in the order of their ids."""
        supervisors = {
            self.handles[start.name].id for start in starts if start.supervises and start.name in self.handles
        }
        supervised = [outcome for outcome in self.children.values() if outcome.parent_id in supervisors]
        return sorted([*self._own(), *supervised], key=lambda outcome: outcome.agent_id)

    def press(self) -> None:
        """Do what the first signal does; nothing if one has come."""
        self._signals.press()

    @property
    def stopped_by(self) -> int | None:
        """The signal that came first; None if none did, and also if it was the button on the page."""
        return None if self._signals.is_first_of_page else self._signals.first

    def _own(self) -> list[AnyOutcome]:
        return [handle.outcome for handle in self.handles.values() if handle.outcome is not None]

    def exit_code(self, starts: Sequence[Start]) -> int:
        """Tell the end of a signal, or else whether all went well; what a supervisor fixed did."""
        if self._signals.exit_code is not None:
            return self._signals.exit_code
        if self.asked:
            return PAUSED
        if self.problem:
            return 1
        return 0 if all(isinstance(outcome, Completed) for outcome in self.outcomes(starts)) else 1


def budget_of(fleet: FleetFile) -> Budget | None:
    settings = fleet.pool.budget
    if settings is None:
        return None
    return Budget(tokens=settings.tokens, cost_usd=settings.cost_usd, calls=settings.calls)


# -- at the end ------------------------------------------------------------------


def print_report(path: str, report: RunReport, *, options: RunOptions) -> None:
    """Print how a run went, as the options say."""
    with printing():
        if options.as_json:
            print(json.dumps(_report_as_json(path, report), indent=2))
        elif not options.quiet:
            print_outcomes(report.outcomes, report.usage, report.duration, output=options.output)
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
    if report.lost:
        complain([f"not written: {lost}" for lost in report.lost])
    if report.problem:
        complain([report.problem])
    if report.is_left and options.journal is not None:
        from agentpool.cli._journals import how_to_go_on

        for line in how_to_go_on(options.journal, report.asked):
            say(line)


def _paused_as_json(report: RunReport) -> dict[str, Any]:
    if not report.asked:
        return {}
    from agentpool.cli._journals import asked_as_json

    return {"paused": list(map(asked_as_json, report.asked.items()))}


def _report_as_json(path: str, report: RunReport) -> dict[str, Any]:
    return {
        "fleet": path,
        "exit_code": report.exit_code,
        "duration": report.duration,
        "usage": attrs.asdict(report.usage),
        "agents": [outcome_as_json(outcome) for outcome in report.outcomes],
        "not_started": list(report.not_started),
        "not_written": list(report.lost),
        **_paused_as_json(report),
    }
