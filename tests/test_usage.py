"""What model calls have used, added up."""

from __future__ import annotations

import pytest

from agentpool import TokenUsage
from agentpool._core.usage import NOTHING_USED

ONE = TokenUsage(1, 20, cache_read_tokens=3, cache_write_tokens=4, cost_usd=0.5)
TWO = TokenUsage(2, 40, cache_read_tokens=6, cache_write_tokens=8, cost_usd=1.0)


def test_usages_add_up_field_by_field() -> None:
    assert ONE + ONE == TWO
    assert TWO.total_tokens == 42


def test_only_usages_can_be_added() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        ONE + 1  # type: ignore[operator]


def test_a_running_sum_comes_to_the_same() -> None:
    total = NOTHING_USED.plus(ONE).plus(ONE)
    assert total.usage == TWO
    assert total.total_tokens == TWO.total_tokens
