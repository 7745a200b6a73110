"""Mutants of the rules on several pools of one agent, and on tasks of the program that agents start."""

from __future__ import annotations

from typing import Any

import trio

from agentpool._kernel import activity as _activity
from agentpool._kernel import current as _current
from agentpool._kernel import judge as _judge
from agentpool._kernel.router import MessageRouter

from ._hunt import Mutant


def by_the_hint(original: Any) -> Any:
    """Who inherited an agent's context variables is taken for a task of it."""

    def owner(task: trio.lowlevel.Task) -> Any:
        hint = task.context.get(_current._current)
        return original(task) if hint is None else (hint, task in hint.tasks)

    return owner


def _sends_by_the_hint(original: Any) -> Any:
    def current_sender(self: Any, claimed: int) -> int:
        hint = _current._current.get()
        return int(hint.id) if hint is not None else int(original(self, claimed))

    return current_sender


def _by_the_first_to_end(original: Any) -> Any:
    """With the first of several waits for other pools, all of them are taken to have ended."""

    def wait_ended(self: Any, wait: Any) -> None:
        if wait in self.uncertain:
            self.uncertain.clear()

    return wait_ended


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a task of the program waits as the program does",
        _current,
        "_owner",
        by_the_hint,
        r"a task of the program was refused",
        ("houses",),
    ),
    Mutant(
        "what a task of the program sends is the program's",
        MessageRouter,
        "_sender",
        _sends_by_the_hint,
        r"a message of 0 says that \d+ sent it",
        ("houses",),
    ),
    Mutant(
        "who waits beside pools of its own is not at its end",
        _judge.Judge,
        "wait_ended",
        _by_the_first_to_end,
        r"the inbox of agent \d+ ended while it was in \d+ pools",
        ("houses",),
    ),
    Mutant(
        "an unknown task opens no pool",
        _activity.Activity,
        "knows",
        lambda _: lambda self, task: True,
        r"a task of agent \d+ that the pool does not know opened a pool",
        ("houses",),
    ),
)
