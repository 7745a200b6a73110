"""The tapes that a journal holds: what each run of the loop of an agent began with, and what it observed."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from agentpool._core.messages import AgentId
from agentpool._core.past import PastCall, PastLoop
from agentpool._core.records import JournalRecord


@attrs.frozen
class RecordedLoop:
    """One run of the loop of an agent.

    Attributes:
      agent_id: whose it is.
      life: in which life of it; 0 for the first.
      key: where in the agent it stands.
      loop: what is known of it.
    """

    agent_id: AgentId
    life: int
    key: str
    loop: PastLoop


def loops_of(records: Iterable[JournalRecord], agent_id: AgentId) -> list[RecordedLoop]:
    """Return the runs of the loop of an agent, of all its lives, in their order."""
    return all_loops(record for record in records if record.agent == agent_id).get(agent_id, [])


def all_loops(records: Iterable[JournalRecord]) -> dict[AgentId, list[RecordedLoop]]:
    """Return the runs of the loops of all agents that have any, of all their lives, in their order."""
    found: dict[AgentId, dict[tuple[int, str], RecordedLoop]] = {}
    lives: dict[AgentId, int] = {}
    for record in records:
        agent_id = record.agent
        if record.kind == "restarted":
            lives[agent_id] = record.data["life"]
        if record.kind not in ("begun", "observed", "called", "returned"):
            continue
        life, key = lives.get(agent_id, 0), record.data["loop"]
        of_agent = found.setdefault(agent_id, {})
        recorded = of_agent.get((life, key))
        if recorded is None:
            recorded = of_agent[life, key] = RecordedLoop(agent_id, life, key, PastLoop())
        _take(recorded.loop, record)
    return {agent_id: list(loops.values()) for agent_id, loops in found.items()}


def _take(loop: PastLoop, record: JournalRecord) -> None:
    match record.kind:
        case "begun":
            loop.begun = record.data
        case "observed":
            loop.observed.append(record.data)
        case "called":
            loop.calls[record.data["n"]] = PastCall(record.data["call"], made=record.data.get("made"))
        case _:
            loop.calls[record.data["n"]].returned(record.data)
