"""What a journal holds: one record after the other, of what happened in a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import attrs

from agentpool._core.messages import SUPERVISOR, AgentId

SCHEMA_VERSION = 1
"""The form of the records; a journal of another version is refused, and never misread."""

RecordKind: TypeAlias = Literal[
    "run",
    "resumed",
    "spawned",
    "restarted",
    "begun",
    "observed",
    "reserved",
    "settled",
    "called",
    "returned",
    "operated",
    "sent",
    "received",
    "replied",
    "buried",
    "listened",
    "asked",
    "decided",
    "ended",
    "closed",
]
"""What a record tells; `RECORDS` says it in words."""

RECORDS: Mapping[RecordKind, str] = {
    "run": "a run begins: its schema, its fleet, its settings",
    "resumed": "another process goes on with the run",
    "spawned": "an agent got its id; what it is, and which operation of its parent asked for it",
    "restarted": "an agent's next life begins",
    "begun": "a model agent's loop begins: its manifest, its query, its history, its tools",
    "observed": "what a model agent's loop was told: a completion, what memory gave, an error",
    "reserved": "a model call's worst case was set aside in the budgets",
    "settled": "a model call has ended: what it used, and what it took of the budgets",
    "called": "a tool call begins",
    "returned": "a tool call's result",
    "operated": "an operation of an agent's code has its result, and is not done again",
    "sent": "a message is in an inbox",
    "received": "a message was taken from an inbox",
    "replied": "a question has its answer",
    "buried": "a message that nobody will receive",
    "listened": "an agent subscribed to a topic, or ended that",
    "asked": "a person is asked whether a tool call may run",
    "decided": "what the person said",
    "ended": "an agent's outcome",
    "closed": "the run is over, or paused, or was stopped",
}


@attrs.frozen
class JournalRecord:
    """One thing that happened.

    Attributes:
      kind: what it tells.
      agent: of which agent; 0 for the run as a whole.
      data: what it was, as JSON data.
      at: seconds into the run; the time between a crash and the resume does not count.
    """

    kind: RecordKind
    agent: AgentId = SUPERVISOR
    data: Mapping[str, Any] = attrs.field(factory=dict)
    at: float = 0.0
