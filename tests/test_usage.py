"""What model calls have used, added up."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool import TokenUsage
from agentpool._core.usage import NO_USAGE, NOTHING_USED, UsageCounter, highest_cost

ONE = TokenUsage(1, 20, cache_read_tokens=3, cache_write_tokens=4, cost_usd=0.5, cache_write_1h_tokens=1)
TWO = TokenUsage(2, 40, cache_read_tokens=6, cache_write_tokens=8, cost_usd=1.0, cache_write_1h_tokens=2)


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


@given(
    st.lists(
        st.builds(TokenUsage, *[st.integers(0, 9)] * 5, st.integers(0, 9), st.integers(0, 9)), max_size=5
    )
)
def test_what_is_counted_in_place_comes_to_the_same(usages: list[TokenUsage]) -> None:
    counter, total = UsageCounter(), NO_USAGE
    for usage in usages:
        counter.add(usage)
        total += usage
    assert counter.usage == total


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(TokenUsage)])
def test_each_kind_of_token_is_counted_in_place(name: str) -> None:
    counter = UsageCounter()
    for _ in range(2):
        counter.add(TokenUsage(**{name: 3}))
    assert counter.usage == TokenUsage(**{name: 6})


@pytest.mark.parametrize(
    ("write", "cost"), [(1.25, 100 * 1.25 + 10 * 5), (0.5, 100 + 10 * 5), (None, 100 + 10 * 5)]
)
def test_the_most_that_a_call_may_cost_has_its_input_written_to_the_cache(
    write: float | None, cost: float
) -> None:
    def price(usage: TokenUsage) -> float | None:
        if usage.cache_write_tokens and write is None:
            return None
        plain = usage.input_tokens - usage.cache_write_tokens
        return plain + usage.cache_write_tokens * (write or 0.0) + usage.output_tokens * 5

    assert highest_cost(price, 100, 10) == cost


def test_what_is_free_or_has_no_price_stays_so() -> None:
    assert highest_cost(lambda usage: None, 100, 10) is None
    assert highest_cost(lambda usage: 0.0, 100, 10) == 0.0
