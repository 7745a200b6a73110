"""`agentpool resume`: a run of a journal goes on, or its report is printed again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import attrs

from agentpool._core.outcomes import Completed
from agentpool._kernel.context import AgentContext
from agentpool.cli._journals import KeptRun, children_of, outcome_of, outcomes_of
from agentpool.cli._output import OutputDirectory
from agentpool.cli._run import RunOptions, RunReport, performed, print_report
from agentpool.cli._streams import only_ours, say
from agentpool.cli._text import one_line
from agentpool.cli._web import page_for
from agentpool.fleet.file import FleetFile
from agentpool.fleet.start import Start, starts_of


def resume_run(path: Path, options: RunOptions) -> int:
    """Go on with a run, and print what came of it; return the exit code.

    Raises:
      BadInputError: if the journal cannot be read, is in use, or a driver cannot be opened.
      ManifestError: if an agent has nothing to ask.
    """
    with only_ours() if options.as_json else nullcontext():
        kept = KeptRun.read(path)
        fleet = kept.fleet()
        about = kept.about
        name = str(about.get("path", path))
        report = _report_of(kept, fleet)
        if report is not None:
            say(one_line(f"{path}: this run has ended; its report again:"))
            if options.output is not None:
                output = OutputDirectory.prepare(options.output)
                for outcome in outcomes_of(kept.past):
                    output.write(outcome)
                report = attrs.evolve(report, lost=output.lost)
        else:
            kept.refuse_secrets()
    if report is not None:
        print_report(name, report, options=options)
        return report.exit_code
    memory = about.get("memory")
    if options.output is not None:
        options = attrs.evolve(options, output=options.output.absolute())
    if options.memory is not None:
        options = attrs.evolve(options, memory=options.memory.absolute())
    path = path.absolute()
    kept.enter_directory()
    options = attrs.evolve(
        options,
        driver=options.driver or about.get("driver"),
        timeout=options.timeout or about.get("timeout"),
        memory=options.memory or (None if memory is None else Path(memory)),
        journal=path,
    )
    with page_for(options.web, path.name) as page:
        return performed(name, fleet, options, kept.past, page)


def _report_of(kept: KeptRun, fleet: FleetFile) -> RunReport | None:
    """Return how a run ended; None if it goes on."""
    past = kept.past
    starts = starts_of(fleet, lambda manifest: None, None)
    roots = {past.agents[agent_id].name: past.agents[agent_id] for agent_id in past.roots}
    if "forked" in kept.about:
        starts = [Start(_nothing, name, (name,)) for name in roots]
    outcomes = []
    supervisors = set()
    for start in starts:
        outcome = outcome_of(roots[start.name]) if start.name in roots else None
        if outcome is None:
            return None
        outcomes.append(outcome)
        if start.supervises:
            supervisors.add(outcome.agent_id)
    outcomes += [child for child in children_of(past).values() if child.parent_id in supervisors]
    outcomes.sort(key=lambda outcome: outcome.agent_id)
    code = 0 if all(isinstance(outcome, Completed) for outcome in outcomes) else 1
    return RunReport(outcomes, (), past.usage, past.elapsed, code)


async def _nothing(ctx: AgentContext) -> None:
    """Stand for the agent of a forked run, which is not started here."""
