"""The budget campaign on a few seeds, and its gate: each broken rule is seen."""

from __future__ import annotations

import pytest

from .budgets import MUTANTS, caught, run_seed


@pytest.mark.parametrize("seed", range(20))
def test_a_budget_is_never_passed_and_well_used(seed: int) -> None:
    assert run_seed(seed).problems() == []


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_broken_rule_is_seen(rule: str) -> None:
    assert caught(rule) is not None
