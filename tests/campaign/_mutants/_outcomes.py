"""Mutants of the rules on outcomes, joins, children and limits."""

from __future__ import annotations

from typing import Any

import attrs

from agentpool._core.events import AgentFinished
from agentpool._core.outcomes import Aborted, AnyOutcome
from agentpool._kernel import agent as _agent
from agentpool._kernel import children as _children
from agentpool._kernel import life as _life
from agentpool._kernel import log as _log
from agentpool._kernel import many as _many
from agentpool._kernel import scope as _scope
from agentpool._kernel import state as _state

from ._hunt import HANG, Mutant, nothing, nothing_async


def _lose_aborted(original: Any) -> Any:
    def ended(self: Any, outcome: Any, **kwargs: Any) -> None:
        if not isinstance(outcome, Aborted):
            original(self, outcome, **kwargs)

    return ended


def _hand_out_twice(original: Any) -> Any:
    return lambda self, agent_id: self.see(agent_id)


def _consume_early(original: Any) -> Any:
    async def join_all(self: Any) -> dict[int, AnyOutcome]:
        outcomes: dict[int, AnyOutcome] = {}
        while (one := await self.join_next()) is not None:
            outcomes[one.agent_id] = one
        return outcomes

    return join_all


def _reversed_map(original: Any) -> Any:
    async def backwards(self: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return list(reversed(await original(self, *args, **kwargs)))

    return backwards


def _always_aborted(original: Any) -> Any:
    def completed(self: Any, value: Any) -> Any:
        return self.cancelled() if self.aborted else original(self, value)

    return completed


def _abort_siblings(original: Any) -> Any:
    def failed(self: Any, error: BaseException) -> Any:
        for sibling in list(self.home.live.values()):
            if sibling is not self:
                sibling.abort("a sibling failed")
        return original(self, error)

    return failed


def _leave_children(original: Any) -> Any:
    async def wait_for_all(self: Any, waiter: Any, value: Any, **kwargs: Any) -> Any:
        if kwargs.get("needs_slot", True):
            return await original(self, waiter, value, **kwargs)
        return await nothing_async()

    return wait_for_all


def _own_context(original: Any) -> Any:
    def start(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "context": None})

    return start


def _no_limits(original: Any) -> Any:
    def admit(self: Any, home: Any, **kwargs: Any) -> None:
        limits, self.limits = self.limits, attrs.evolve(self.limits, depth=10**9, descendants=10**9)
        try:
            original(self, home, **kwargs)
        finally:
            self.limits = limits

    return admit


def _no_timeout(original: Any) -> Any:
    def start(*args: Any, **kwargs: Any) -> Any:
        record = original(*args, **kwargs)
        record.deadline = record.scope.deadline = float("inf")
        return record

    return start


def _without_end(original: Any) -> Any:
    def emit(self: Any, kind: type[Any], *args: Any) -> None:
        if kind is not AgentFinished or args[0] % 7:
            original(self, kind, *args)

    return emit


def _tell_of_nothing(original: Any) -> Any:
    async def close(mark: Any, error: BaseException | None) -> Any:
        rest, _left_open = await original(mark, error)
        return rest, ()

    return close


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "every id yields an outcome",
        _children.Children,
        "ended",
        _lose_aborted,
        HANG,
    ),
    Mutant(
        "an outcome is handed out once",
        _children.Children,
        "take",
        _hand_out_twice,
        r"a join of agent \d+ handed out \d+",
    ),
    Mutant(
        "a cancelled join consumes nothing",
        _scope.Scope,
        "join_all",
        _consume_early,
        r"\d+ ended well although nobody looked",
        ("rare", "hasty"),
    ),
    Mutant(
        "map keeps the order of its items",
        _many.ManyScope,
        "map",
        _reversed_map,
        r"map gave the values",
    ),
    Mutant(
        "how a body ended decides its outcome",
        _agent.AgentRecord,
        "completed",
        _always_aborted,
        r"agent \d+ returned, but its outcome is Aborted",
    ),
    Mutant(
        "a failure touches nobody else",
        _agent.AgentRecord,
        "failed",
        _abort_siblings,
        r"agent \d+ was aborted \(a sibling failed\), and nobody meant it",
    ),
    Mutant(
        "an agent ends after its children",
        _children.Children,
        "wait_for_all",
        _leave_children,
        r"agent \d+ ended before its child",
    ),
    Mutant(
        "the children of a failed agent are aborted",
        _life,
        "_abort_children",
        nothing,
        r"agent \d+ raised at .* and ended at",
    ),
    Mutant(
        "limits on depth and descendants hold",
        _state.PoolState,
        "admit",
        _no_limits,
        r"agents spawned \d+ agents under a limit|an agent of depth \d+ was spawned",
    ),
    Mutant(
        "a child starts in its spawner's context",
        _life,
        "start",
        _own_context,
        r"agent \d+ started with the mark",
    ),
    Mutant(
        "a timeout ends an agent on time",
        _life,
        "start",
        _no_timeout,
        r"agent \d+ ran for .* s under a timeout",
    ),
    Mutant(
        "every finished agent is told",
        _log.EventLog,
        "emit",
        _without_end,
        r"spawned and finished events do not match",
    ),
    Mutant(
        "what an agent leaves open is its failure",
        _life,
        "close_leftovers",
        _tell_of_nothing,
        r"agent \d+ left something open",
        ("untidy",),
    ),
)
