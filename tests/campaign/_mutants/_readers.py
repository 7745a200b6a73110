"""Mutants of the rules on agents that read events, and on those who wait for slow readers."""

from __future__ import annotations

from typing import Any

from agentpool._core.events import AgentSpawned
from agentpool._kernel import events as _events
from agentpool._kernel import telling as _telling

from ._hunt import HANG, Mutant, nothing


def _keeps_its_slot(original: Any) -> Any:
    """Its wait is nobody's, as that of a task of the program, so that the agent counts as running."""
    return lambda waiter, subscription: original(None, subscription)


def _goes_on_without_slot(original: Any) -> Any:
    def read_wait(waiter: Any, subscription: Any) -> Any:
        wait = original(waiter, subscription)
        wait.needs_slot = False
        return wait

    return read_wait


def _with_the_inboxes(original: Any) -> Any:
    return property(lambda self: True)


def _drops_always(original: Any) -> Any:
    def shed(self: Any) -> None:
        overflow, self.overflow = self.overflow, "drop_oldest"
        original(self)
        self.overflow = overflow

    return shed


def _counts_nothing(original: Any) -> Any:
    def shed(self: Any) -> None:
        original(self)
        self.dropped = 0

    return shed


def _skips_one(original: Any) -> Any:
    def catch_up(self: Any) -> None:
        original(self)
        if len(self._batch) > 3:
            del self._batch[1]
            self.dropped += 1

    return catch_up


def _newest_first(original: Any) -> Any:
    def catch_up(self: Any) -> None:
        original(self)
        self._batch.reverse()

    return catch_up


def _also_by_itself(original: Any) -> Any:
    return lambda self, waiter: (original(self, None) and self.reader is not None) or original(self, waiter)


def _only_who_read_last(original: Any) -> Any:
    return lambda self, waiter: None if self.reader is None else (self.reader,)


MUTANTS: tuple[Mutant, ...] = (
    Mutant("a reader lends its slot", _events, "ReadWait", _keeps_its_slot, HANG, ("readers",)),
    Mutant(
        "a reader reads only with a slot",
        _events,
        "ReadWait",
        _goes_on_without_slot,
        r"\d+ agents ran at once",
        ("readers",),
    ),
    Mutant("readers are told the end", _events.EventSubscription, "end", nothing, HANG, ("readers",)),
    Mutant(
        "inboxes end before events",
        _events.EventSubscription,
        "ends_first",
        _with_the_inboxes,
        r"the events of agent \d+ ended while .* were (receiving|reading)",
        ("readers",),
    ),
    Mutant(
        "a reader that others wait for misses nothing",
        _events.EventSubscription,
        "shed",
        _drops_always,
        r"the reader \d+ \(block, \d+\) missed events",
        ("readers",),
    ),
    Mutant(
        "what a reader loses is counted",
        _events.EventSubscription,
        "shed",
        _counts_nothing,
        r"the reader \d+ \(drop_oldest, \d+\) got \d+ events, lost 0",
        ("readers",),
    ),
    Mutant(
        "a reader loses nothing while it has room",
        _events.EventSubscription,
        "_catch_up",
        _skips_one,
        r"the reader \d+ \(\w+, \d+\) (missed events|lost the ends)",
        ("readers",),
    ),
    Mutant(
        "events come in order",
        _events.EventSubscription,
        "_catch_up",
        _newest_first,
        r"the reader \d+ \(\w+, \d+\) got events out of order",
        ("readers",),
    ),
    Mutant(
        "the ends of agents are dropped last",
        _events,
        "AgentFinished",
        lambda _: AgentSpawned,
        r"the reader \d+ \(drop_oldest, \d+\) lost the ends",
        ("readers",),
    ),
    Mutant(
        "agents wait for a slow reader",
        _telling,
        "holding_up",
        nothing,
        r"agent \d+ went on although the reader",
        ("readers",),
    ),
    Mutant(
        "a reader that has caught up lets the others go on",
        _events.EventSubscription,
        "_admit",
        nothing,
        HANG,
        ("readers",),
    ),
    Mutant(
        "each event that is read makes room",
        _events.EventSubscription,
        "_make_room",
        nothing,
        r"DeadlockError\(.*, although there is room",
        ("readers",),
    ),
    Mutant(
        "nobody is held up by what it reads itself",
        _events.EventSubscription,
        "holds_up",
        _also_by_itself,
        r"agent \d+ was held up by what it reads itself",
        ("readers",),
    ),
    Mutant(
        "who opened a subscription may read on",
        _events.EventSubscription,
        "readers_for",
        _only_who_read_last,
        r"DeadlockError\(.*, although .* may read on",
        ("readers",),
    ),
    Mutant(
        "a subscription ends with the agent that opened it",
        _events.EventSubscription,
        "holder_ended",
        nothing,
        HANG + r"|the subscription that agent \d+ left open outlived it",
        ("readers",),
    ),
)
