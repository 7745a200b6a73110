"""`agentpool resume`: a run goes on from its journal."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import attrs

from agentpool._core.errors import ManifestError
from agentpool._core.messages import SUPERVISOR
from agentpool._core.past import Past
from agentpool.cli._errors import BadInputError
from agentpool.cli._files import load_fleet
from agentpool.cli._journal import KeptRun, about_of, enter_directory, given_again
from agentpool.cli._output import OutputDirectory
from agentpool.cli._past_runs import PastRun
from agentpool.cli._run import RunOptions, RunReport, code_of, perform, print_report
from agentpool.cli._streams import only_ours
from agentpool.fleet.disk import NotedDisk


@attrs.frozen(kw_only=True)
class ResumeOptions:
    """The options of `agentpool resume`; the others are those that the run began with."""

    driver: str | None = None
    max_concurrent: int | None = None
    output: Path | None = None
    vars: Mapping[str, str] = attrs.field(factory=dict)
    quiet: bool = False
    as_json: bool = False


def resume_run(path: Path, options: ResumeOptions) -> int:
    """Go on with a run and print what came of it; return the exit code.

    Raises:
      ManifestError: if something that its fleet names is not there any more.
      BadInputError: if it cannot be resumed, with the reason.
      JournalLostError: if the journal could not be written.
    """
    with only_ours() if options.as_json else nullcontext():
        before = PastRun.read(path)
        about = about_of(before.past, path)
        kept = KeptRun(path.absolute(), str(path), about, before)
        if is_finished(before.past):
            run_options = _options_of(about, options, about["vars"], about["driver"])
            report = _report_again(kept, run_options)
        else:
            run_options = _options_of(about, options, *given_again(about, options.vars, options.driver))
            enter_directory(about)
            fleet = load_fleet(Path(about["fleet"]), run_options.vars, NotedDisk.of(about["files"]))
            report = perform(fleet, run_options, kept)
    print_report(Path(about["fleet"]), report, run_options, kept)
    return report.exit_code


def _options_of(
    about: Mapping[str, Any], options: ResumeOptions, vars: Mapping[str, str], driver: str | None
) -> RunOptions:
    # A run that began within another one has files of its own.
    output: Any = None if "forked" in about else about["output"]
    if options.output is not None:
        output = options.output.absolute()
    return RunOptions(
        driver=driver,
        vars=vars,
        max_concurrent=options.max_concurrent,
        timeout=about["timeout"],
        output=None if output is None else Path(output),
        memory=None if about["memory"] is None else Path(about["memory"]),
        quiet=options.quiet,
        as_json=options.as_json,
    )


def is_finished(past: Past) -> bool:
    """Whether all agents of a fleet were spawned and have ended."""
    spawned = {past.agents[each].name for each in past.roots}
    about = past.run["about"]
    wanted = set() if "forked" in about else {name for name, _ in about["starts"]}
    return wanted <= spawned and all(agent.outcome is not None for agent in past.agents.values())


def _report_again(kept: KeptRun, options: RunOptions) -> RunReport:
    """Return the report of a run that has ended: nothing is opened or asked for it."""
    # An answer may be an object of a class that stands in one of its modules.
    with suppress(ManifestError, BadInputError):
        enter_directory(kept.about)
        load_fleet(Path(kept.about["fleet"]), options.vars, NotedDisk.of(kept.about["files"]))
    ended = list(kept.outcomes_before())
    names = {name for name, supervises in kept.about["starts"] if supervises}
    own = [outcome for outcome in ended if outcome.parent_id == SUPERVISOR]
    supervisors = {outcome.agent_id for outcome in own if outcome.name in names}
    supervised = {(each.parent_id, each.name): each for each in ended if each.parent_id in supervisors}
    outcomes = sorted([*own, *supervised.values()], key=lambda outcome: outcome.agent_id)
    lost: list[str] = []
    if options.output is not None:
        is_its_own = kept.about["output"] == str(options.output)
        output = OutputDirectory.prepare(options.output, may_hold_files=is_its_own)
        for outcome in ended:
            output.conversations.remember(outcome.agent_id, kept.conversation_of(outcome))
            output.write(outcome)
        lost = output.lost
    code = code_of(outcomes) or (1 if lost else 0)
    return RunReport(outcomes, [], kept.past.usage, kept.past.elapsed, code, lost)
