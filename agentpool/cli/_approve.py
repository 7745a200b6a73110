"""`agentpool approve` and `deny`: what a person decides about a tool call for which a run is paused."""

from __future__ import annotations

from pathlib import Path

import trio

from agentpool._core.approval import Approved, Decision, decision_to_data
from agentpool._core.errors import JournalError
from agentpool._core.past import Past, PastApproval, past_of
from agentpool._core.records import JournalRecord
from agentpool._objects import object_from_data
from agentpool.cli._errors import BadInputError
from agentpool.cli._journals import KeptRun, asked_line, command
from agentpool.cli._streams import printing
from agentpool.cli._text import listed
from agentpool.journal import SqliteJournal


def decide(path: Path, id: str, decision: Decision) -> int:
    """Write a decision into a journal; return the exit code.

    Raises:
      BadInputError: if the journal cannot be written, is in use, or nothing of that id is asked.
    """
    KeptRun.read(path)  # with errors that say what to do, and without making a file
    try:
        key, approval, name = trio.run(_decide, path, id, decision)
    except JournalError as error:
        raise BadInputError(str(error)) from error
    word = "approved" if isinstance(decision, Approved) else "denied"
    with printing():
        print(f"{word}: {asked_of(key, approval, name)}")
        print(f"resume with: {command('resume', path)}")
    return 0


def asked_of(key: str, approval: PastApproval, name: str) -> str:
    """Tell what is asked, on one line."""
    asked = approval.asked
    return asked_line(key, asked["agent"], name, object_from_data(asked["call"]), asked["rule"])


async def _decide(path: Path, id: str, decision: Decision) -> tuple[str, PastApproval, str]:
    journal = SqliteJournal(path)
    past = past_of(await journal.open())
    try:
        key = _key_of(past, id)
        approval = past.approvals[key]
        agent = approval.asked["agent"]
        journal.append(JournalRecord("decided", agent, decision_to_data(key, decision), past.elapsed))
        await journal.commit()
    finally:
        await journal.aclose()
    return key, approval, past.agents[agent].name


def _key_of(past: Past, id: str) -> str:
    """Return what is asked under an id.

    Raises:
      BadInputError: if that is nothing, several things, or decided already.
    """
    found = [key for key in past.approvals if id and key.startswith(id)]
    if len(found) == 1:
        decided = past.approvals[found[0]].decided
        if decided is None:
            return found[0]
        word = "approved" if decided["approved"] else "denied"
        raise BadInputError(f"{found[0]} was {word} already, and a decision stands. Resume the run")
    is_open = [key for key, approval in past.approvals.items() if approval.decided is None]
    known = f"Asked are: {listed(is_open)}" if is_open else "Nothing is asked in this run"
    problem = "is the beginning of several ids" if found else "is not asked in this run"
    raise BadInputError(f"{id!r} {problem}. {known}")
