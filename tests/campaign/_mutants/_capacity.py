"""Mutants of the rules on slots, and on what is cancelled while it waits for one."""

from __future__ import annotations

from typing import Any

import outcome

from agentpool._kernel import activity as _activity
from agentpool._kernel import pool as _pool
from agentpool._kernel import slots as _slots
from agentpool._kernel import wait as _wait

from ._hunt import HANG, Mutant


def _go_on_without_slot(original: Any) -> Any:
    def ask_for_slot(self: Any, wait: Any) -> None:
        self.active += 1
        wait.resume()

    return ask_for_slot


def _keep_slot(original: Any) -> Any:
    def rest(self: Any, **judging: bool) -> None:
        holds, self.holds = self.holds, False
        original(self, **judging)
        self.holds = holds

    return rest


def _raise_after_the_fact(original: Any) -> Any:
    def abort(self: Any, raise_cancel: Any) -> Any:
        if self.happened:
            self._result = outcome.capture(raise_cancel)
        return original(self, raise_cancel)

    return abort


def _forget_to_undo(original: Any) -> Any:
    """A wait that was cancelled stays in its queue, and what it waited for goes to it."""

    def abort(self: Any, raise_cancel: Any) -> Any:
        if not self.happened and self.undo is not None:
            self.undo = lambda wait: None
            self._interrupted = True  # nobody who finds it there wakes its task a second time
        return original(self, raise_cancel)

    return abort


def _keep_tokens(original: Any) -> Any:
    def give_back(self: Any, holder: Any) -> None:
        if holder.ended:
            self.hand_out()
        else:
            original(self, holder)

    return give_back


def _sleepy_is_cancelled(original: Any) -> Any:
    return lambda self: self.pool.watcher.outside_cancelled


def _remember_only(original: Any) -> Any:
    """What is set is what is read, and no slot comes or goes by it."""
    wanted: dict[Any, int] = {}

    def change(self: Any, value: int) -> None:
        wanted[self._state] = value

    return property(lambda self: wanted.get(self._state, original.fget(self)), change)


_TREES = ("trees", "full")

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "at most max_concurrent agents run",
        _activity.Activity,
        "_ask_for_slot",
        _go_on_without_slot,
        r"\d+ agents ran at once",
        _TREES,
    ),
    Mutant(
        "a waiting agent lends its slot",
        _activity.Activity,
        "rest",
        _keep_slot,
        HANG,
        _TREES,
    ),
    Mutant(
        "what happened raises no Cancelled",
        _wait.Wait,
        "_abort",
        _raise_after_the_fact,
        r"the message .* was sent, and received 0 times and buried 0 times",
        ("hasty",),
    ),
    Mutant(
        "Cancelled means that nothing happened",
        _wait.Wait,
        "_abort",
        _forget_to_undo,
        r"sending .* raised, but it was delivered|the message .* was sent, and received 0",
        ("hasty",),
    ),
    Mutant(
        "a cancelled agent unwinds without a slot",
        _activity.Activity,
        "is_cancelled",
        _sleepy_is_cancelled,
        r"agent \d+ was aborted \(.*\) at .* and ended at",
        ("hasty",),
    ),
    Mutant(
        "slots come back",
        _slots.Slots,
        "give_back",
        _keep_tokens,
        r"slots_held is \d+, not 0",
    ),
    Mutant(
        "unknown tasks may not wait",
        _activity.Activity,
        "knows",
        lambda _: lambda self, task: True,
        r"a task that the pool does not know waited",
    ),
    Mutant(
        "more slots are given out at once",
        _pool.AgentPool,
        "max_concurrent",
        _remember_only,
        r"\d+ agents wait to start, though only \d+ of \d+ run",
        ("resized",),
    ),
)
