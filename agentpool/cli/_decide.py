"""`agentpool approve` and `agentpool deny`: what a person says of a tool call that a run asks about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import trio

from agentpool._core.approval import Approved, Decision, Denied, decision_to_data
from agentpool._core.errors import JournalError
from agentpool._core.past import Past, PastApproval, past_of
from agentpool._core.records import JournalRecord
from agentpool.cli._errors import BadInputError
from agentpool.cli._journal import command_for
from agentpool.cli._past_runs import PastRun
from agentpool.cli._streams import printing
from agentpool.cli._text import one_line
from agentpool.journal import SqliteJournal


def decide(path: Path, key: str | None, reason: str | None) -> int:
    """Write what a person decided into a journal; return the exit code.

    Args:
      path: the journal.
      key: the id of what is asked.
      reason: why it is denied, may be empty; None approves.

    Raises:
      BadInputError: if nothing is asked under this id, or the journal cannot be written.
    """
    decision: Decision = Approved() if reason is None else Denied(reason)
    try:
        check(PastRun.read(path).past, path, key)
        left = trio.run(_written, path, str(key), decision)
    except JournalError as error:
        raise BadInputError(str(error)) from error
    said = "approved" if isinstance(decision, Approved) else "denied"
    with printing():
        print(f"{said}: {left.pop(str(key))}")
        for other, what in left.items():
            print(f"still asked: {other}: {what}")
        print(f"go on with: {command_for('resume', str(path))}")
    return 0


async def _written(path: Path, key: str, decision: Decision) -> dict[str, str]:
    """Write the decision; return what was asked until then, by the ids."""
    journal = SqliteJournal(path)
    past = past_of(await journal.open())
    try:
        check(past, path, key)  # somebody else may have decided meanwhile
        agent = past.approvals[key].asked["agent"]
        journal.append(JournalRecord("decided", agent, decision_to_data(key, decision), past.elapsed))
        await journal.commit()
    finally:
        await journal.aclose()
    return dict(open_questions(past))


def check(past: Past, path: Path, key: str | None) -> None:
    """Refuse an id under which nothing can be decided.

    Raises:
      BadInputError: with the ids that there are.
    """
    asked = dict(open_questions(past))
    if key in asked:
        return
    shown = one_line(str(path))
    approval = None if key is None else past.approvals.get(key)
    if approval is None:
        problem = "no id is given" if key is None else f"nothing is asked under {one_line(key)!r}"
    elif approval.decided is not None:
        said = "approved" if approval.decided["approved"] else "denied"
        problem = f"{key} was {said} already"
    else:
        problem = f"{key} is not asked any more: its agent has ended"
    there_is = [f"{other}: {what}" for other, what in asked.items()]
    raise BadInputError(f"{shown}: {problem}. {'It asks:' if asked else 'It asks nothing'}", *there_is)


def open_questions(past: Past) -> Iterator[tuple[str, str]]:
    """Yield the ids of what is asked still, and what that is, on one line."""
    for key, approval in past.approvals.items():
        agent = past.agents.get(approval.asked["agent"])
        if approval.decided is None and agent is not None and agent.outcome is None:
            yield key, _told(approval, agent.name)


def _told(approval: PastApproval, name: str) -> str:
    call = approval.asked["call"]
    fields = call["$object"][1] if "$object" in call else call
    return one_line(f"{name}: {fields['name']} {json.dumps(fields['input'], ensure_ascii=False)}")
