"""`agentpool replay`: the steps of an agent once more, from its tape, and new runs from one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, assert_never

import trio

from agentpool._core.effects import (
    Act,
    Acted,
    Collect,
    Collected,
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
    Remembered,
    Replied,
)
from agentpool._core.errors import JournalError, ReplayMismatchError
from agentpool._core.messages import AgentId
from agentpool._core.outcomes import AgentResult, AnyOutcome, Completed, Failed
from agentpool._core.past import PastAgent
from agentpool._core.records import JournalRecord
from agentpool._core.summaries import tell_error
from agentpool._core.tapes import RecordedLoop
from agentpool._loop.replaying import ReplayedStep, replay
from agentpool.cli._errors import BadInputError
from agentpool.cli._past_runs import PastRun
from agentpool.cli._streams import complain, printing
from agentpool.cli._text import cut, one_line
from agentpool.journal import SqliteJournal

LETTERS = 100


def replay_run(path: Path, agent_id: AgentId | None, until: int | None) -> int:
    """Print the steps of one agent, or of all that ask a model; return the exit code.

    It is 1 if an agent comes to something else than its journal says, and 0 otherwise.

    Raises:
      BadInputError: if there is no such journal or agent, or the agent asked no model.
    """
    run = PastRun.read(path)
    agents = list(run.past.agents.values()) if agent_id is None else [run.agent(agent_id)]
    loops = [(agent, loop) for agent in agents for loop in run.loops_of(agent)]
    if not loops:
        who = "no agent of it" if agent_id is None else f"agent {agent_id}"
        raise BadInputError(f"{who} asked a model, so that there is nothing to replay")
    differs = False
    for agent, loop in loops:
        is_last = loop.key == run.loops_of(agent)[-1].key
        problem = _replayed(run, agent, loop, until, is_last=is_last)
        if problem:
            differs = True
            complain([problem])
    return 1 if differs else 0


def _replayed(run: PastRun, agent: PastAgent, loop: RecordedLoop, until: int | None, *, is_last: bool) -> str:
    """Print the steps of one run of the loop; return how it differs from what its journal says."""
    where = "" if loop.key == "0" and not loop.life else f", life {loop.life}, at {loop.key}"
    with printing():
        print(f"agent {agent.id} {one_line(agent.name)}{where}")
    step: ReplayedStep | None = None
    try:
        for step in replay(loop, agent.name):
            with printing():
                print(f"  {step.number:>4} {_effect_of(step.effect)}{_observed(step)}")
            if until is not None and step.number >= until:
                return ""
    except ReplayMismatchError as error:
        return one_line(str(error))
    assert step is not None
    return _difference(run.outcome_of(agent), step.effect) if _is_whole(agent, loop, is_last) else ""


def _is_whole(agent: PastAgent, loop: RecordedLoop, is_last: bool) -> bool:
    """Whether what the loop came to is what the agent came to, so that they can be compared."""
    kind = (agent.work["agent"] or {}).get("kind", "")
    return is_last and kind in ("agentpool:ModelAgent", "agentpool:SpawnConfig") and loop.key == "0"


def _difference(outcome: AnyOutcome | None, end: Effect) -> str:
    match outcome, end:
        case Completed(value=AgentResult() as then), Finish(result=now) if then.text != now.text:
            return f"it came to {_short(then.text)} then, and comes to {_short(now.text)} now"
        case Completed(), Halt(error=error):
            return f"it completed then, and fails now: {one_line(tell_error(error))}"
        case Failed(error=error), Finish():
            return f"it failed then, and completes now: {one_line(tell_error(error))}"
        case _:
            return ""


def _effect_of(effect: Effect) -> str:
    match effect:
        case Recall():
            return "takes its messages" + (f", recalls {_short(effect.query)}" if effect.query else "")
        case Reason():
            return f"asks the model: {len(effect.request.messages)} messages"
        case Compact():
            return f"asks for a summary of {len(effect.request.messages)} messages"
        case Act():
            calls = [f"{one_line(call.name)} {_short(json.dumps(dict(call.input)))}" for call in effect.calls]
            return "calls " + "; ".join(calls)
        case Collect():
            return (
                "stops the agents that it started" if effect.stop else "waits for the agents that it started"
            )
        case Remember():
            return f"remembers {_short(effect.text)}"
        case Finish():
            return f"is done: {_short(effect.result.text)}"
        case Halt():
            return f"fails: {one_line(tell_error(effect.error))}"
        case _:
            assert_never(effect)


def _observed(step: ReplayedStep) -> str:
    if step.observation is None:
        return "" if isinstance(step.effect, (Finish, Halt)) else " -> the journal ends here"
    told = _told(step.observation)
    return f" -> {told}" if told else ""


def _told(observation: Observation) -> str:
    match observation:
        case Recalled():
            found = len(observation.fragments)
            return ", ".join(
                f"{count} {what}"
                for count, what in ((found, "memories"), (len(observation.messages), "messages"))
                if count
            )
        case Replied() | Compacted():
            completion = observation.completion
            calls = f"{len(completion.tool_calls)} calls" if completion.tool_calls else ""
            return " ".join(filter(None, (_short(completion.text) if completion.text else "", calls)))
        case DriverFailed():
            return one_line(tell_error(observation.error))
        case Acted():
            return "; ".join(_short(result.text) for result in observation.results)
        case Idled():
            return f"nothing was heard for {observation.seconds:g} s"
        case Collected():
            return _short(observation.text) if observation.text else ""
        case Remembered():
            return ""
        case _:
            assert_never(observation)


def _short(text: str) -> str:
    return repr(cut(one_line(text), LETTERS))


# -- a new run from a step ----------------------------------------------------------------------


def fork(path: Path, agent_id: AgentId, step: int, target: Path) -> int:
    """Write a journal in which an agent stands where it stood before a step; return the exit code.

    The new run has this one agent. What it had observed is there; whom it had spawned is not.

    Raises:
      BadInputError: if the journal, the agent or the step does not exist, the agent asked no model or is
        no model agent, or the target is there.
    """
    run = PastRun.read(path)
    agent = run.agent(agent_id)
    loops = [loop for loop in run.loops_of(agent) if loop.key == "0"]
    if not loops or not _is_whole(agent, loops[-1], is_last=True):
        raise BadInputError(
            f"agent {agent_id} ({one_line(agent.name)}) is a function. A new run begins at a step of a"
            " model agent; look for one with `agentpool show`"
        )
    if target.exists():
        raise BadInputError(f"{one_line(str(target))} is there already. Give a new file to the new run")
    records = list(_forked(run, agent, loops[-1], _steps_before(loops[-1], agent, step)))
    try:
        trio.run(_write, target, records)
    except JournalError as error:
        raise BadInputError(one_line(str(error))) from None
    with printing():
        print(f"agent {agent_id} before step {step}: go on with `agentpool resume {one_line(str(target))}`")
    return 0


def _steps_before(loop: RecordedLoop, agent: PastAgent, step: int) -> Sequence[ReplayedStep]:
    try:
        steps = [each for each in replay(loop, agent.name) if each.observation is not None]
    except ReplayMismatchError as error:
        raise BadInputError(one_line(str(error))) from None
    if not 1 <= step <= len(steps) + 1:
        raise BadInputError(f"agent {agent.id} has steps 1 to {len(steps) + 1}, and no step {step}")
    return steps[: step - 1]


def _forked(
    run: PastRun, agent: PastAgent, loop: RecordedLoop, steps: Sequence[ReplayedStep]
) -> Iterator[JournalRecord]:
    first = {key: value for key, value in run.past.run.items() if key != "id"}
    old = first.get("about") or {}
    kept = {key: old[key] for key in ("path", "driver", "timeout", "memory") if key in old}
    forked = {"agent": agent.id, "name": agent.name, "before_step": len(steps) + 1}
    first["about"] = {**kept, "forked": forked}
    yield JournalRecord("run", 0, first)
    spawned: dict[str, Any] = {
        "name": agent.name,
        "parent": 0,
        "by": 0,
        "life": 0,
        "key": None,
        "work": agent.work,
        "options": agent.options,
    }
    if agent.context is not None:
        spawned["context"] = agent.context
    yield JournalRecord("spawned", 1, spawned)
    yield JournalRecord("begun", 1, loop.loop.begun or {})
    observed = iter(loop.loop.observed)
    number = 0
    for each in steps:
        if isinstance(each.effect, Act):
            for _ in each.effect.calls:
                call = loop.loop.calls[number]
                yield JournalRecord("called", 1, {"loop": "0", "n": number, "call": call.call})
                if call.result is not None:
                    yield JournalRecord("returned", 1, {"loop": "0", "n": number, "result": call.result})
                number += 1
        if not isinstance(each.observation, Acted):
            yield JournalRecord("observed", 1, next(observed))


async def _write(target: Path, records: Sequence[JournalRecord]) -> None:
    journal = SqliteJournal(target)
    await journal.open()
    try:
        for record in records:
            journal.append(record)
        await journal.commit()
    finally:
        await journal.aclose()
