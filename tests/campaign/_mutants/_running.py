"""Mutants of the rules on aborting, restarts, budgets and the loop of a model agent."""

from __future__ import annotations

from typing import Any

import attrs

from agentpool._core import acting, restart
from agentpool._core import budget as budget_module
from agentpool._kernel import agent as _agent
from agentpool._kernel import scope as _scope
from agentpool._loop import tool_calls as _tool_calls

from ._hunt import Mutant, nothing


def _spare_the_unstarted(original: Any) -> Any:
    def abort(self: Any, reason: str | None) -> None:
        if self.tasks:
            original(self, reason)

    return abort


def _abort_family(original: Any) -> Any:
    def abort(self: Any, reason: str | None) -> None:
        original(self, reason)
        for sibling in list(self.home.live.values()):
            if sibling is not self and not sibling.aborted:
                sibling.abort(reason)

    return abort


def _no_reason(original: Any) -> Any:
    return lambda self, reason: original(self, "aborted")


def _restart_for_ever(original: Any) -> Any:
    def again(self: Any, now: float) -> Any:
        return self if len(self.recent) > 50 else attrs.evolve(self, recent=(*self.recent, now))

    return again


def _wrong_call(original: Any) -> Any:
    return lambda call_id, name, result: original("another call", name, result)


def _no_room_needed(original: Any) -> Any:
    return lambda self, *args, **kwargs: None


def _keep_reserved(original: Any) -> Any:
    def give_back(self: Any, reserved: Any, spent: Any) -> None:
        original(self, (0, 0, 0), spent)

    return give_back


def _tell_of_nothing(original: Any) -> Any:
    async def close(mark: Any, error: BaseException | None) -> Any:
        rest, _left_open = await original(mark, error)
        return rest, ()

    return close


_RARE = ("rare", "full")

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "abort reaches agents before their first step",
        _agent.AgentRecord,
        "abort",
        _spare_the_unstarted,
        r"agent \d+ was aborted \(.*\) at .* and ended at",
    ),
    Mutant(
        "abort touches nobody but children",
        _agent.AgentRecord,
        "abort",
        _abort_family,
        r"agent \d+ was aborted \(.*\), and nobody meant it",
    ),
    Mutant(
        "reasons travel into outcomes",
        _agent.AgentRecord,
        "abort",
        _no_reason,
        r"agent \d+ was aborted for 'aborted', but was told",
    ),
    Mutant(
        "abort_all aborts",
        _scope.Scope,
        "abort_all",
        nothing,
        r"agent \d+ was aborted \(all of you\) at .* and ended at",
        _RARE,
    ),
    Mutant(
        "restarts are bounded",
        restart.Intensity,
        "restart",
        _restart_for_ever,
        r"agent \d+ was restarted more often than twice",
    ),
    Mutant(
        "every tool call has its result",
        acting,
        "ToolMessage",
        _wrong_call,
        r"agent \d+: ",
        ("models",),
    ),
    Mutant(
        "budgets are not passed",
        budget_module.Budget,
        "_lacks",
        _no_room_needed,
        r"\d+ \w+ were spent of a budget",
        ("models",),
    ),
    Mutant(
        "reservations are given back",
        budget_module.Budget,
        "_give_back",
        _keep_reserved,
        r"\d+ \w+ are still reserved",
        ("models", "full"),
    ),
    Mutant(
        "what a tool call leaves open is its error",
        _tool_calls,
        "close_leftovers",
        _tell_of_nothing,
        r"agent \d+: the call \w+ left something open",
        ("tools",),
    ),
)
