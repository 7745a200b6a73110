"""What model calls used, as a value that adds."""

from __future__ import annotations

import attrs


# No slots: a frozen value with slots takes half as long again to make.
@attrs.frozen(slots=False)
class TokenUsage:
    """Tokens of one or many model calls, and their price where it is known.

    Cached tokens are a part of `input_tokens`, not beside them.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0

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
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cost_usd + other.cost_usd,
        )


NO_USAGE = TokenUsage()


@attrs.define(eq=False)
class UsageMeter:
    """Adds up what is used, as often as every model call: a sum of values takes three times as long."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0

    def add(self, usage: TokenUsage) -> None:
        """Count what a call used."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cache_read_tokens += usage.cache_read_tokens
        self.cache_write_tokens += usage.cache_write_tokens
        self.cost_usd += usage.cost_usd

    @property
    def total(self) -> TokenUsage:
        """The sum so far."""
        return TokenUsage(
            self.input_tokens,
            self.output_tokens,
            self.cache_read_tokens,
            self.cache_write_tokens,
            self.cost_usd,
        )
