"""The life of an agent, as a table: its states, and the events that move it from one to the next.

The table of the design page and its drawing are made from `TRANSITIONS`, and a test compares what
agents do with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import attrs


class State(Enum):
    """What an agent is doing; `MEANING` says it in words."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    QUEUED = "queued"
    ENDING = "ending"
    BACKING_OFF = "backing off"
    ENDED = "ended"


MEANING: Mapping[State, str] = {
    State.STARTING: "it has its id, its inbox and its slot, and has not taken its first step",
    State.RUNNING: "at least one of its tasks runs",
    State.WAITING: "all of its tasks wait in operations of the pool",
    State.QUEUED: "it was woken, and waits for a slot",
    State.ENDING: "its body has ended, and it waits for its children",
    State.BACKING_OFF: "it will be restarted, and waits for the pause before that to pass",
    State.ENDED: "it has its outcome",
}


class LifeEvent(Enum):
    """What moves an agent from one state to another."""

    FIRST_STEP = "takes its first step"
    RESTS = "its last running task waits"
    WOKEN = "is woken and may go on"
    WOKEN_FOR_A_SLOT = "is woken, no slot is free"
    GRANTED = "gets a slot"
    CANCELLED = "is cancelled itself"
    BODY_ENDS = "its body ends"
    CHILDREN_ENDED = "no child is left"
    RESTARTS = "no child is left, it restarts"
    PAUSE_ENDS = "the pause is over"


class SlotUse(Enum):
    """What an agent has of its slot."""

    HELD = "held"
    LENT = "lent"
    NONE = "none"


@attrs.frozen
class Transition:
    """One row of the table."""

    before: State
    event: LifeEvent
    after: State


TRANSITIONS: tuple[Transition, ...] = (
    Transition(State.STARTING, LifeEvent.FIRST_STEP, State.RUNNING),
    Transition(State.RUNNING, LifeEvent.RESTS, State.WAITING),
    Transition(State.RUNNING, LifeEvent.BODY_ENDS, State.ENDING),
    Transition(State.WAITING, LifeEvent.WOKEN, State.RUNNING),
    Transition(State.WAITING, LifeEvent.WOKEN_FOR_A_SLOT, State.QUEUED),
    # It unwinds without a slot: its cleanup may not wait for agents that wait for it.
    Transition(State.WAITING, LifeEvent.CANCELLED, State.RUNNING),
    Transition(State.QUEUED, LifeEvent.GRANTED, State.RUNNING),
    Transition(State.QUEUED, LifeEvent.CANCELLED, State.RUNNING),
    Transition(State.ENDING, LifeEvent.CHILDREN_ENDED, State.ENDED),
    Transition(State.ENDING, LifeEvent.RESTARTS, State.BACKING_OFF),
    Transition(State.BACKING_OFF, LifeEvent.PAUSE_ENDS, State.QUEUED),
    Transition(State.BACKING_OFF, LifeEvent.CANCELLED, State.ENDED),
)
"""Everything that may happen to an agent; several rows may pass in one step of the scheduler."""

SLOT: Mapping[State, SlotUse] = {
    State.STARTING: SlotUse.HELD,
    State.RUNNING: SlotUse.HELD,  # but for one that is being cancelled, which needs none
    State.WAITING: SlotUse.LENT,
    State.QUEUED: SlotUse.NONE,
    State.ENDING: SlotUse.LENT,
    State.BACKING_OFF: SlotUse.NONE,
    State.ENDED: SlotUse.NONE,
}
"""What an agent has of its slot in each state. One that is lent is free for whoever needs it."""
