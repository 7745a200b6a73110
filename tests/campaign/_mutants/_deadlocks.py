"""Mutants of the rules on waits that cannot end."""

from __future__ import annotations

from typing import Any

from agentpool._core import waits
from agentpool._core.errors import DeadlockError
from agentpool._kernel import children as _children
from agentpool._kernel import judge as _judge
from agentpool._kernel import wait as _wait

from ._hunt import HANG, Mutant, nothing


def _ignore_deadlines(original: Any) -> Any:
    return lambda self, waiter, task: False


def _all_are_certain(original: Any) -> Any:
    return lambda wait: True


def _any_edge(original: Any) -> Any:
    def may_end(edge: Any, live: Any) -> bool:
        return any(target in live for target in edge.targets)

    return may_end


def _wrong_path(original: Any) -> Any:
    def check(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            original(self, *args, **kwargs)
        except DeadlockError as error:
            raise DeadlockError([path + 1 for path in error.path]) from None

    return check


def _only_one_cycle(original: Any) -> Any:
    def task_ended(self: Any, waiter: Any) -> None:
        wait_class: Any = _wait.Wait
        withdraw = wait_class.withdraw
        told: list[Any] = []

        def once(wait: Any, error: BaseException) -> None:
            if told:
                raise _Enough
            told.append(wait)
            withdraw(wait, error)

        wait_class.withdraw = once
        try:
            original(self, waiter)
        except _Enough:
            pass
        finally:
            wait_class.withdraw = withdraw

    return task_ended


class _Enough(Exception):
    pass


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "a wait that closes a cycle is refused",
        _judge.Judge,
        "check",
        nothing,
        HANG,
        ("waits",),
    ),
    Mutant(
        "an end that closes a cycle is seen",
        _judge.Judge,
        "judge_again",
        nothing,
        HANG,
        ("waits",),
    ),
    Mutant(
        "every cycle that an end closes is seen",
        _judge.Judge,
        "judge_again",
        _only_one_cycle,
        HANG,
        ("waits",),
    ),
    Mutant(
        "a join that loses a child is judged again",
        _children.Children,
        "_lost_hope",
        nothing,
        HANG,
        ("joins",),
    ),
    Mutant(
        "a wait with a deadline is not hopeless",
        _judge.Judge,
        "_ends_by_itself",
        _ignore_deadlines,
        r"DeadlockError\(.* was raised under a deadline",
    ),
    Mutant(
        "waits of others with a deadline neither",
        _judge,
        "_certain",
        _all_are_certain,
        r"DeadlockError\(.*: agent \d+ waits for .*, not for|DeadlockError\(.* was raised under a deadline",
    ),
    Mutant(
        "join_all is hopeless by one of its targets",
        waits,
        "_may_end",
        _any_edge,
        HANG,
        ("waits",),
    ),
    Mutant(
        "a deadlock names its agents",
        _judge.Judge,
        "check",
        _wrong_path,
        r"DeadlockError\(.* was raised in agent|DeadlockError\(.*: agent \d+ waits for",
        ("waits",),
    ),
)
