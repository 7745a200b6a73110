"""What model calls used, as a value that adds."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from agentpool._core.value import value


@attrs.frozen
class TokenUsage:
    """Tokens of one or many model calls, and their price where it is known.

    Cached tokens are a part of `input_tokens`, and reasoning tokens a part of `output_tokens`, not
    beside them. What is written to be kept for an hour is a part of `cache_write_tokens`.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0
    cache_write_1h_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        if not isinstance(other, TokenUsage):
            return NotImplemented
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cost_usd + other.cost_usd,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
        )


NO_USAGE = TokenUsage()


def highest_cost(price: Callable[[TokenUsage], float | None], given: int, taken: int) -> float | None:
    """Return what a call may cost at the most; None if nobody knows.

    Nobody knows beforehand what of its input goes into the provider's cache, which may cost more than
    just reading it.

    Args:
      price: what a usage costs.
      given: tokens of the input.
      taken: tokens of the answer.
    """
    plain = price(TokenUsage(given, taken))
    if not plain:
        return plain
    return max(plain, price(TokenUsage(given, taken, cache_write_tokens=given)) or 0.0)


@value
class UsageSum:
    """What calls have used together: to add to it takes a third of what adding to a `TokenUsage` takes."""

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0
    cache_write_1h_tokens: int = 0

    def plus(self, usage: TokenUsage) -> UsageSum:
        """Return the sum with one more call's usage."""
        return UsageSum(
            self.input_tokens + usage.input_tokens,
            self.output_tokens + usage.output_tokens,
            self.reasoning_tokens + usage.reasoning_tokens,
            self.cache_read_tokens + usage.cache_read_tokens,
            self.cache_write_tokens + usage.cache_write_tokens,
            self.cost_usd + usage.cost_usd,
            self.cache_write_1h_tokens + usage.cache_write_1h_tokens,
        )

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    @property
    def usage(self) -> TokenUsage:
        """The sum, as those who ask see it."""
        return _usage_of(self)


NOTHING_USED = UsageSum()


@attrs.define(eq=False)
class UsageCounter:
    """What the calls of an agent or a pool have used so far.

    Counting in place takes half of what a new sum takes; what most calls do not use is looked at first.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0
    cache_write_1h_tokens: int = 0

    def add(self, usage: TokenUsage) -> None:
        """Count what one more call used, or many."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        if usage.cost_usd:
            self.cost_usd += usage.cost_usd
        if usage.reasoning_tokens:
            self.reasoning_tokens += usage.reasoning_tokens
        if usage.cache_read_tokens:
            self.cache_read_tokens += usage.cache_read_tokens
        if usage.cache_write_tokens:
            self.cache_write_tokens += usage.cache_write_tokens
        if usage.cache_write_1h_tokens:
            self.cache_write_1h_tokens += usage.cache_write_1h_tokens

    @property
    def usage(self) -> TokenUsage:
        """The sum, as those who ask see it."""
        return _usage_of(self)


def _usage_of(counted: UsageSum | UsageCounter) -> TokenUsage:
    return TokenUsage(
        counted.input_tokens,
        counted.output_tokens,
        counted.reasoning_tokens,
        counted.cache_read_tokens,
        counted.cache_write_tokens,
        counted.cost_usd,
        counted.cache_write_1h_tokens,
    )
