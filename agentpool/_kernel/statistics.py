"""Snapshots of a pool: what its users ask for, and what has to add up when it has ended."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from agentpool._core.messages import AgentId
from agentpool._core.usage import TokenUsage
from agentpool._kernel.inbox import InboxStatistics
from agentpool._kernel.protection import protect_module
from agentpool._kernel.state import PoolState
from agentpool._kernel.watcher import StuckAgent

if TYPE_CHECKING:
    from agentpool._core.budget import BudgetStatistics


@attrs.frozen
class WaitingAgent:
    """An agent all of whose tasks wait.

    Attributes:
      id, name: who waits.
      waits_for: the agents that could end its waits; empty where anybody could.
    """

    id: AgentId
    name: str
    waits_for: tuple[AgentId, ...]


@attrs.frozen
class PoolStatistics:
    """A snapshot of a pool.

    Each agent that has not ended is in exactly one of four states: running, lent, queued or backing off.

    Attributes:
      max_concurrent: how many slots there are.
      running: how many agents run, from their spawn on. Those that are cancelled unwind without a
        slot, and `max_concurrent` may have been lowered, so that it can be more.
      lent: how many agents have lent their slot, because all of their tasks wait, or their body has
        ended and their children have not.
      queued: how many agents were woken, and wait for their slot.
      backing_off: how many agents sleep without a slot before they are restarted.
      waiting_to_start: how many spawns wait for a slot.
      waiting: the agents that wait, and for whom.
      inboxes: fill, peak and capacity of the live agents' inboxes.
      spawned: how many ids were given out.
      ended: how many agents have an outcome.
      messages_sent, messages_received, dead_letters: since the pool opened.
      usage: of all model calls.
      stuck: agents that were aborted and live on.
      budget: of the pool; None without one.
    """

    max_concurrent: int
    running: int
    lent: int
    queued: int
    backing_off: int
    waiting_to_start: int
    waiting: tuple[WaitingAgent, ...]
    inboxes: dict[AgentId, InboxStatistics]
    spawned: int
    ended: int
    messages_sent: int
    messages_received: int
    dead_letters: int
    usage: TokenUsage
    stuck: tuple[StuckAgent, ...]
    budget: BudgetStatistics | None


@attrs.frozen
class Books:
    """Everything that has to add up, or to be zero, when a pool has ended.

    Attributes:
      issued, ended: how many ids were given out, and how many agents have an outcome.
      sent, received, dead_letters: messages, since the pool opened.
      left: what has to be zero, by name.
    """

    issued: int
    ended: int
    sent: int
    received: int
    dead_letters: int
    left: dict[str, int]

    def problems(self) -> list[str]:
        """What does not add up after the end of a pool, in words."""
        found = []
        if self.issued != self.ended:
            found.append(f"{self.issued} ids were given out, but {self.ended} outcomes recorded")
        if self.sent != self.received + self.dead_letters:
            found.append(
                f"{self.sent} messages were sent, but {self.received} received and {self.dead_letters} buried"
            )
        found += [f"{name} is {value}, not 0" for name, value in self.left.items() if value]
        return found


def statistics_of(state: PoolState) -> PoolStatistics:
    """Return a snapshot of a pool."""
    router, counts, slots = state.router, state.counts, state.slots
    records = state.records.values()
    standings = Counter([record.standing for record in records])
    return PoolStatistics(
        max_concurrent=slots.total,
        running=standings["running"],
        lent=standings["lent"],
        queued=standings["queued"],
        backing_off=standings["backing_off"],
        waiting_to_start=slots.waiting_to_start,
        waiting=tuple(
            [WaitingAgent(record.id, record.name, record.waits_for()) for record in records if record.idle]
        ),
        inboxes={record.id: record.inbox.statistics() for record in records},
        spawned=counts.issued,
        ended=counts.ended,
        messages_sent=router.sent,
        messages_received=router.received,
        dead_letters=router.dead_letter_count,
        usage=counts.used.usage,
        stuck=tuple(state.parts.watcher.stuck.values()),
        budget=None if state.parts.budget is None else state.parts.budget.statistics(),
    )


def books_of(state: PoolState) -> Books:
    """Return what has to add up at the end of a pool."""
    router, counts, judge = state.router, state.counts, state.judge
    return Books(
        issued=counts.issued,
        ended=counts.ended,
        sent=router.sent,
        received=router.received,
        dead_letters=router.dead_letter_count,
        left={
            "live": len(state.records),
            "in_inboxes": sum(inbox.fill for inbox in router.inboxes.values()),
            "inboxes": len(router.inboxes),
            "asks": len(router.asks),
            "slots_held": state.slots.taken,
            "queued": state.slots.waiting_to_start,
            "idle": judge.idle,
            "uncertain": len(judge.uncertain),
            "cut_off": state.parts.watcher.cut_off,
            "waits": sum(len(record.waits) for record in state.records.values()),
            "tool_calls": counts.tool_calls.count,
            "model_calls": counts.model_calls.count,
            "model_spawns": len(counts.model_spawns),
        },
    )


protect_module(globals())
