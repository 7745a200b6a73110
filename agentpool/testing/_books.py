"""The books of a pool that has ended."""

from __future__ import annotations

from typing import Any


def problems_in_books(pool: Any) -> list[str]:
    """Return what does not add up after the end of a pool, as sentences; empty if all is well.

    As many outcomes as ids, every message received or a dead letter, every slot back, and nothing
    left: no inbox, wait, wait edge, question, queued start, call in flight or reservation.
    """
    problems: list[str] = pool._books().problems()
    budget = pool._state.means.budget
    if budget is not None:
        statistics = budget.statistics()
        for name in ("tokens", "cost_usd", "calls"):
            amount = getattr(statistics.reserved, name)
            if amount:
                problems.append(f"{amount} {name} are still reserved in the pool's budget")
        if statistics.waiting:
            problems.append(f"{statistics.waiting} calls still wait for room in the pool's budget")
    return problems
