"""What the head tells a worker of an agent's means: its driver, its budget, its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from agentpool import abc
from agentpool._core.budget import BudgetFigures
from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import BudgetExceededError
from agentpool._core.grants import Grants
from agentpool._core.messages import Completion
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool.drivers.governed import GovernorSettings

Price: TypeAlias = Callable[[TokenUsage], float | None]
"""What a usage costs in USD; None if nobody knows. It can be pickled."""

OWN_BUDGET = 0
"""The key of an agent's budget."""

POOLS_DRIVER = 0
"""The key of the pool's driver."""

GateKey: TypeAlias = tuple[int, str, GovernorSettings]
"""Which gate of a driver it is, in the order in which they stand; around what; and what it keeps to."""

_MANY = 1_000_000
"""So many tokens are priced at once to find what one costs: a surcharge on long inputs is in it."""


@attrs.frozen
class UnitPrices:
    """Prices of a million tokens, in USD, as a driver tells them when it is asked for so many."""

    given: float
    taken: float
    cache_read: float
    cache_write: float
    cache_write_1h: float

    def __call__(self, usage: TokenUsage) -> float:
        """Return what a usage costs."""
        plain = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
        for_long = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
        cost = (
            max(plain, 0) * self.given
            + usage.cache_read_tokens * self.cache_read
            + (usage.cache_write_tokens - for_long) * self.cache_write
            + for_long * self.cache_write_1h
            + usage.output_tokens * self.taken
        )
        return cost / _MANY


def unknown_price(usage: TokenUsage) -> None:
    """Return that nobody knows what a usage costs."""
    return


def price_of(driver: abc.Driver) -> Price:
    """Return the prices of a driver as something that can be sent to another process.

    A driver's attribute `pricing` is such a thing. Of any other its `estimate_cost` is asked what many
    tokens of each kind cost.

    Raises:
      Exception: what `estimate_cost` raises.
    """
    pricing: Price | None = getattr(driver, "pricing", None)
    if pricing is not None:
        return pricing
    estimate: Price = getattr(driver, "estimate_cost", lambda usage: 0.0)
    asked = (
        TokenUsage(_MANY, 0),
        TokenUsage(0, _MANY),
        TokenUsage(_MANY, 0, cache_read_tokens=_MANY),
        TokenUsage(_MANY, 0, cache_write_tokens=_MANY),
        TokenUsage(_MANY, 0, cache_write_tokens=_MANY, cache_write_1h_tokens=_MANY),
    )
    units = []
    for usage in asked:
        cost = estimate(usage)
        if cost is None:
            return unknown_price
        units.append(cost)
    return UnitPrices(*units)


def kind_of(driver: abc.Driver) -> str:
    """Return what names a driver in every process: its class, and what it talks to."""
    names = [getattr(driver, name, None) for name in ("model", "base_url")]
    told = [type(driver).__qualname__, *(name for name in names if isinstance(name, str))]
    return " ".join(told)


@attrs.frozen
class DriverFacts:
    """A driver that the head has.

    Attributes:
      key: names it there.
      text: its repr.
      context_window, privacy: as of `Driver`.
      metered: whether an answer without any usage has one nevertheless.
      streams: whether it has a stream of its own, which shows more than `complete` does.
      only_binds: whether it answers nobody but the agents to whose manifests it is bound.
      names: its `model`, `provider` and `base_url`, as far as it has them.
      price: what its calls cost.
    """

    key: int
    text: str
    context_window: int | None
    privacy: PrivacyTier
    metered: bool
    streams: bool
    only_binds: bool
    names: Mapping[str, str]
    price: Price

    @classmethod
    def of(cls, key: int, driver: abc.Driver) -> DriverFacts:
        """Return the facts of a driver of the head, around which there is a meter."""
        streams: bool | None = getattr(driver, "streams", None)
        if streams is None:
            streams = type(driver).stream is not abc.Driver.stream
        found = {name: getattr(driver, name, None) for name in ("model", "provider", "base_url")}
        return cls(
            key=key,
            text=repr(driver),
            context_window=getattr(driver, "context_window", None),
            privacy=getattr(driver, "privacy", abc.Driver.privacy),
            metered=bool(getattr(driver, "metered", True)),
            streams=streams,
            only_binds=bool(getattr(driver, "only_binds", False)),
            names={name: text for name, text in found.items() if isinstance(text, str)},
            price=price_of(driver),
        )


@attrs.frozen
class ModelFacts:
    """The means of an agent, as it begins.

    Attributes:
      driver: the pool's; None if it has none.
      budget: what the agent may use, and the budgets above that; None for no limit.
      has_quota: whether the first of them is the agent's own, or its parents', and not the pool's.
      memory: of what kind the pool's memory is; None if it has none.
      memory_text: its repr.
      journal_path: the file of the pool's journal; None without one.
      secrets: texts that must get into no file of the run.
      usage: what the agent has used in its lives before this one.
      limit: the most that it may do, whatever it asks for.
    """

    driver: DriverFacts | None
    budget: tuple[BudgetFigures, ...] | None
    has_quota: bool
    memory: Literal["plain", "namespaced"] | None
    memory_text: str
    journal_path: str | None
    secrets: tuple[str, ...]
    usage: TokenUsage
    limit: Grants


@attrs.frozen
class News:
    """What has changed at the head since the worker was told.

    Attributes:
      used: what was counted on the agent meanwhile.
      figures: those of the budget that was asked about, and of all above it.
      secrets: all of them; None if there are no new ones.
    """

    used: TokenUsage = NO_USAGE
    figures: tuple[BudgetFigures, ...] = ()
    secrets: tuple[str, ...] | None = None


@attrs.frozen
class Answer:
    """A model's answer."""

    completion: Completion
    news: News


@attrs.frozen
class StreamedPart:
    """A part of a model's answer; news come with the last."""

    part: Any
    news: News | None = None


@attrs.frozen
class Leased:
    """Whether a call that a worker makes itself has its room.

    Attributes:
      error: why not; None if it has.
    """

    news: News
    error: BudgetExceededError | None = None


@attrs.frozen
class Demand:
    """The worst case of a call that a worker is about to make.

    Attributes:
      tokens: the most that it can use, input and output together; None if no budget limits tokens or money.
      cost_usd: the most that it can cost; None if nobody knows, or no budget limits money.
      slack_tokens, slack_cost_usd: what the budgets above the agent's own quota keep beside that.
    """

    tokens: int | None = None
    cost_usd: float | None = None
    slack_tokens: int | None = None
    slack_cost_usd: float | None = None
