"""`agentpool replay`: the loops of a run again without a model, or a new run from the middle of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import trio

from agentpool._core.effects import (
    Act,
    Acted,
    Compact,
    Compacted,
    DriverFailed,
    Effect,
    Finish,
    Halt,
    Idled,
    Observation,
    Reason,
    Recall,
    Recalled,
    Remember,
    Replied,
)
from agentpool._core.errors import JournalError, ManifestError
from agentpool._core.outcomes import AgentResult, Completed
from agentpool._core.past import PastAgent
from agentpool._core.records import JournalRecord
from agentpool._core.text import told
from agentpool._loop.replaying import DiffersError, NotReplayableError, Replayed, replayed, tapes_of
from agentpool.cli._errors import BadInputError
from agentpool.cli._journals import KeptRun, outcome_of, read_run, refuse_journal_in_use
from agentpool.cli._streams import complain, say
from agentpool.cli._text import cut, one_line
from agentpool.journal import SqliteJournal

LONGEST = 160


def replay_run(path: Path, agent_id: int | None, until: int | None) -> int:
    """Print the steps of an agent, or of all model agents; return the exit code.

    Raises:
      BadInputError: if the journal cannot be read, has no such agent, or that cannot be replayed.
    """
    kept = read_run(path)
    agents = list(kept.past.agents.values()) if agent_id is None else [kept.agent(agent_id)]
    code = 0
    for agent in agents:
        try:
            for number, line in _lines_of(kept, agent):
                if until is None or number <= until:
                    print(cut(one_line(line), LONGEST))
        except NotReplayableError as error:
            if agent_id is not None:
                raise BadInputError(f"agent {agent.id} ({agent.name}) cannot be replayed: {error}") from error
            print(one_line(f"{agent.id} {agent.name}: not replayed: {error}"))
        except _StepDiffersError as error:
            code = 1
            if until is None or error.step <= until:
                complain([f"agent {agent.id} ({agent.name}), step {error.step}: {error}"])
    return code


class _StepDiffersError(Exception):
    def __init__(self, step: int, text: str) -> None:
        self.step = step
        super().__init__(text)


def _lines_of(kept: KeptRun, agent: PastAgent) -> Iterator[tuple[int, str]]:
    for number, step in _steps(kept, agent):
        came = "" if step.observation is None else f" -> {_told_observation(step.observation)}"
        if step.observation is None and not isinstance(step.effect, Finish | Halt):
            came = " -> not known: it was cut here"
        yield number, f"{agent.id} {agent.name} {number}: {_told_effect(step.effect)}{came}"


def _steps(kept: KeptRun, agent: PastAgent) -> Iterator[tuple[int, Replayed]]:
    """Yield the steps of an agent, numbered through all runs of its loop.

    Raises:
      NotReplayableError: if the agent is no model agent.
      _StepDiffersError: if the loop does something else now.
    """
    number = 0
    last = None
    tapes = tapes_of(kept.records, agent.id)
    if not tapes:
        raise NotReplayableError("no run of the loop is on its tape")
    for tape in tapes:
        try:
            for step in replayed(agent, tape):
                number += 1
                last = step
                yield number, step
        except DiffersError as error:
            raise _StepDiffersError(number + 1, str(error)) from error
        except (ManifestError, ValueError, TypeError, KeyError) as error:
            raise _StepDiffersError(number + 1, told(error)) from error
    if last is not None:
        _compare_end(agent, number, last.effect)


def _compare_end(agent: PastAgent, number: int, effect: Effect) -> None:
    """Compare how an agent ended with what its loop comes to now."""
    outcome = outcome_of(agent)
    if not isinstance(outcome, Completed) or not isinstance(outcome.value, AgentResult):
        return
    then = outcome.value
    if not isinstance(effect, Finish):
        raise _StepDiffersError(number, f"the loop comes to {_told_effect(effect)}, and had completed")
    now = effect.result
    for field in ("text", "iterations", "tool_calls", "stopped_by"):
        if getattr(now, field) != getattr(then, field):
            raise _StepDiffersError(
                number, f"its {field} is {getattr(now, field)!r}, and was {getattr(then, field)!r}"
            )


def _told_effect(effect: Effect) -> str:
    match effect:
        case Recall():
            return f"recall {json.dumps(effect.query)}"
        case Reason():
            return f"reason over {len(effect.request.messages)} messages"
        case Compact():
            return f"sum up {len(effect.request.messages)} messages"
        case Act():
            return "act: " + ", ".join(f"{call.name}({json.dumps(call.input)})" for call in effect.calls)
        case Remember():
            return "remember its answer"
        case Finish():
            return f"finish: {effect.result.text}"
        case Halt():
            return f"halt: {type(effect.error).__name__}: {told(effect.error)}"


def _told_observation(observation: Observation) -> str:
    match observation:
        case Recalled():
            return f"{len(observation.fragments)} fragments, {len(observation.messages)} messages"
        case Replied() | Compacted():
            calls = ", ".join(call.name for call in observation.completion.tool_calls)
            said = json.dumps(observation.completion.text)
            return f"{said} and calls {calls}" if calls else said
        case Acted():
            return ", ".join(json.dumps(result.text) for result in observation.results)
        case DriverFailed():
            return f"failed: {type(observation.error).__name__}: {told(observation.error)}"
        case Idled():
            return f"nothing for {observation.seconds:g} s"
        case _:
            return "done"


# -- a new run from the middle of an old one ----------------------------------------------


def fork_run(path: Path, agent_id: int, step: int, into: Path | None, driver: str | None) -> int:
    """Begin a new run with what had happened before a step of an agent, and go on with it.

    What the other agents did later has not happened in the new run either: a journal is one list of what
    happened, and any beginning of it is a run.

    Raises:
      BadInputError: if the journal cannot be read, there is no such step, or the new file holds a run.
    """
    from agentpool.cli._resume import resume_run
    from agentpool.cli._run import RunOptions

    kept = read_run(path)
    agent = kept.agent(agent_id)
    kept.fleet()
    end = _end_before(kept, agent, step)
    target = path.with_name(f"{path.stem}-fork{path.suffix}") if into is None else into
    refuse_journal_in_use(target)
    try:
        trio.run(_write, target, _beginning(kept.records, end))
    except JournalError as error:
        raise BadInputError(f"--journal: {error}") from error
    say(one_line(f"forked before step {step} of agent {agent_id}: {target}"))
    return resume_run(target, RunOptions(driver=driver))


def _end_before(kept: KeptRun, agent: PastAgent, step: int) -> int:
    """Return how many records had been written when a step of an agent began.

    Raises:
      BadInputError: if there is no such step.
    """
    spawned = next(
        number
        for number, record in enumerate(kept.records)
        if record.kind == "spawned" and record.agent == agent.id
    )
    end, last = spawned + 1, 0
    try:
        for number, replayed_step in _steps(kept, agent):
            last = number
            if number == step:
                return end
            if replayed_step.position >= 0:
                end = replayed_step.position + 1
    except NotReplayableError as error:
        raise BadInputError(f"agent {agent.id} ({agent.name}) has no steps: {error}") from error
    except _StepDiffersError as error:
        raise BadInputError(
            f"agent {agent.id} ({agent.name}), step {error.step}: {error}. Fork before that step"
        ) from error
    raise BadInputError(f"--fork {step}: agent {agent.id} ({agent.name}) has {last} steps")


def _beginning(records: Sequence[JournalRecord], end: int) -> list[JournalRecord]:
    """Return the first records, as those of a run of its own."""
    first, *rest = records[:end]
    decided = {record.data["hash"] for record in rest if record.kind == "decided"}
    data: dict[str, Any] = {**first.data, "id": uuid4().hex}
    # What is open in the old run is asked anew: an approval is for one call of one run.
    kept = [each for each in rest if each.kind != "asked" or each.data["hash"] in decided]
    return [attrs.evolve(first, data=data), *kept]


async def _write(path: Path, records: Sequence[JournalRecord]) -> None:
    journal = SqliteJournal(path)
    if await journal.open():
        await journal.aclose()
        raise JournalError(f"{path} holds a run already. Give the path of a new file")
    try:
        for record in records:
            journal.append(record)
    finally:
        await journal.aclose()
