"""Journals of the command line: what they tell of a fleet, how they are read, and what is asked in them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from agentpool._core import events as ev
from agentpool._core.approval import ApprovalRequest
from agentpool._core.errors import JournalError
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AnyOutcome
from agentpool._core.past import Past, PastAgent
from agentpool._core.picture import Picture
from agentpool._core.redaction import has_placeholder
from agentpool._kernel.descriptions import described_agent, outcome_from_data
from agentpool._loading import LoadProblem
from agentpool._objects import UnreadableDataError
from agentpool.cli._errors import BadInputError
from agentpool.cli._past_runs import PastRun
from agentpool.cli._text import one_line
from agentpool.fleet.file import FleetFile
from agentpool.fleet.keeping import fleet_from_data, fleet_to_data
from agentpool.journal import read_journal

# -- a fleet in a journal -----------------------------------------------------------


def about_run(
    path: str, fleet: FleetFile, *, driver: str | None, timeout: float | None, memory: str | Path | None
) -> dict[str, Any]:
    """Return what a journal keeps of a fleet, so that the run goes on without its files."""
    return {
        "path": path,
        "directory": os.getcwd(),
        "fleet": fleet_to_data(fleet),
        "driver": driver,
        "timeout": timeout,
        "memory": None if memory is None else os.path.abspath(os.path.expanduser(memory)),
    }


@attrs.frozen
class KeptRun(PastRun):
    """A run of a fleet, as its journal has it."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What the journal tells of the fleet; empty for a run that a program began."""
        about: Mapping[str, Any] = self.past.run.get("about") or {}
        return about

    def fleet(self) -> FleetFile:
        """Return the fleet; the modules of its functions are imported.

        Raises:
          BadInputError: if it is no run of a fleet, or a function is not there any more.
        """
        about = self.about
        if "forked" in about:
            return FleetFile(agents=())  # its one agent is in the journal
        if "fleet" not in about:
            raise BadInputError(
                f"{self.path}: a program began this run, and not `agentpool run`: go on with it in Python, by"
                " `resume_agent_pool`"
            )
        try:
            return fleet_from_data(about["fleet"])
        except LoadProblem as problem:
            raise BadInputError(f"{self.path}: {problem.problem}. {problem.fix}") from problem
        except (UnreadableDataError, KeyError, TypeError, ValueError) as error:
            raise BadInputError(
                f"{self.path}: its fleet cannot be read by this agentpool: {error}. Use the one that began it"
            ) from error

    def enter_directory(self) -> None:
        """Make the directory in which the run began the current one: relative paths mean what they meant.

        Raises:
          BadInputError: if it is not there any more.
        """
        where = self.about.get("directory")
        if where is None:  # the run of one agent that began within another run
            return
        try:
            os.chdir(where)
        except OSError as error:
            raise BadInputError(
                f"{self.path}: the run began in {where}, which cannot be entered: {error.strerror}"
            ) from error

    def refuse_secrets(self) -> None:
        """Refuse a fleet in which something stands in the place of a secret.

        Raises:
          BadInputError: if so.
        """
        if has_placeholder(self.about.get("fleet")):
            raise BadInputError(
                f"{self.path}: the fleet holds what looks like a secret, which no journal keeps. Take it"
                " out of queries and manifests: tools read keys from the environment; begin a new run"
            )


def refuse_journal_in_use(path: Path) -> None:
    """Refuse a journal for a new run, where there is one already.

    Raises:
      BadInputError: if so.
    """
    if path.is_dir():
        raise BadInputError(f"--journal: {path} is a directory. Give the path of a new file")
    try:
        is_empty = not path.exists() or path.stat().st_size == 0
    except (OSError, ValueError) as error:
        raise BadInputError(f"--journal: {path}: {error}. Give the path of a new file") from error
    if is_empty:
        return
    try:
        records = read_journal(path)
    except JournalError as error:
        raise BadInputError(f"--journal: {error}. Give the path of a new file") from error
    if records:
        raise BadInputError(
            f"--journal: {path} holds a run already. Go on with it: {command('resume', path)};"
            " or give another file to a new run"
        )


def manifests_of(past: Past) -> list[AgentManifest]:
    """Return the manifests of the agents that go on and that the journal describes."""
    found = []
    for agent in past.agents.values():
        if agent.outcome is None and agent.work["agent"] is not None:
            with suppress(UnreadableDataError):  # resuming tells of it
                manifest = getattr(described_agent(agent.work["agent"]), "manifest", None)
                if isinstance(manifest, AgentManifest):
                    found.append(manifest)
    return found


# -- what became of agents -------------------------------------------------------------


def outcome_of(agent: PastAgent) -> AnyOutcome | None:
    """Return how an agent had ended; None if it had not."""
    if agent.outcome is None:
        return None
    return outcome_from_data(agent.outcome, agent.id, agent.name, agent.parent, agent.spawned_at)


def outcomes_of(past: Past) -> Iterator[AnyOutcome]:
    """Yield the outcomes of all that had ended, in the order in which they did."""
    for agent_id in past.ended:
        outcome = outcome_of(past.agents[agent_id])
        if outcome is not None:
            yield outcome


def take_in_past(picture: Picture, past: Past, now: float) -> None:
    """Take into a picture what a run had come to, so that it tells of the whole run when that goes on.

    Args:
      picture: an empty one.
      past: of the run.
      now: on trio's clock, when it goes on.
    """
    zero = now - past.elapsed
    seen: list[tuple[tuple[float, int, int], ev.Event]] = []
    for agent in past.agents.values():
        who, at = (agent.id, agent.parent), zero + agent.spawned_at
        seen.append(((at, 0, agent.id), ev.AgentSpawned(0, at, *who, agent.name)))
        if agent.outcome is not None:
            seen.append(((at, 1, agent.id), ev.AgentStarted(0, at, *who)))
    end = zero
    for place, outcome in enumerate(outcomes_of(past)):
        end = max(end, zero + outcome.started_at + outcome.duration)  # children before their parents
        finished = ev.AgentFinished(0, end, outcome.agent_id, outcome.parent_id, outcome)
        seen.append(((end, 2, place), finished))
    for _, event in sorted(seen, key=lambda each: each[0]):
        picture.take(event)
    for agent in past.agents.values():
        if agent.outcome is None:
            picture.goes_on(agent.id, agent.usage, now)


def children_of(past: Past) -> dict[tuple[AgentId, str], AnyOutcome]:
    """Return the outcomes of what agents had spawned, the last one for each name."""
    ended = [past.agents[agent_id] for agent_id in past.ended if past.agents[agent_id].parent]
    return {(agent.parent, agent.name): found for agent in ended if (found := outcome_of(agent))}


# -- what is asked -----------------------------------------------------------------------


def command(verb: str, path: Path, *more: str) -> str:
    """Return a command as one types it into a shell."""
    return one_line(" ".join(["agentpool", verb, shlex.quote(str(path)), *more]))


def asked_line(key: str, agent_id: AgentId, name: str, call: Any, rule: str) -> str:
    """Tell what a person is asked, with the real arguments, on one line."""
    arguments = ", ".join(f"{argument}={json.dumps(value)}" for argument, value in call.input.items())
    return one_line(f"{key}  agent {agent_id} ({name}) wants {call.name}({arguments})  [{rule}]")


def how_to_go_on(path: Path, asked: Mapping[str, ApprovalRequest]) -> Iterator[str]:
    """Yield what a person types next, a line each."""
    if asked:
        yield "paused: a person has to decide"
        for key, request in asked.items():
            yield "  " + asked_line(key, request.agent_id, request.agent_name, request.call, request.rule)
        first = next(iter(asked))
        yield f"decide with: {command('approve', path, first)}"
        yield f"         or: {command('deny', path, first)}"
    yield f"resume with: {command('resume', path)}"


def asked_as_json(item: tuple[str, ApprovalRequest]) -> dict[str, Any]:
    """Return what is asked as `--json` prints it."""
    key, request = item
    return {
        "id": key,
        "agent_id": request.agent_id,
        "agent": request.agent_name,
        "tool": request.call.name,
        "arguments": dict(request.call.input),
        "rule": request.rule,
    }
