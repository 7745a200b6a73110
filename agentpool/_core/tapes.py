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
    loops: list[RecordedLoop] = []
    life = 0
    for record in records:
        if record.agent != agent_id:
            continue
        if record.kind == "restarted":
            life = record.data["life"]
        if record.kind not in ("begun", "observed", "called", "returned"):
            continue
        loop = _loop_at(loops, agent_id, life, record.data["loop"])
        match record.kind:
            case "begun":
                loop.begun = record.data
            case "observed":
                loop.observed.append(record.data)
            case "called":
                loop.calls[record.data["n"]] = PastCall(record.data["call"], made=record.data.get("made"))
            case _:
                loop.calls[record.data["n"]].returned(record.data)
    return loops


def _loop_at(loops: list[RecordedLoop], agent_id: AgentId, life: int, key: str) -> PastLoop:
    for each in loops:
        if (each.life, each.key) == (life, key):
            return each.loop
    loops.append(RecordedLoop(agent_id, life, key, PastLoop()))
    return loops[-1].loop
