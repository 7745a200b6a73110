"""A driver as its meter sees it: what its calls may use at the most, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from agentpool import abc
from agentpool._core.errors import MalformedReplyError
from agentpool._core.messages import Completion, CompletionRequest
from agentpool._core.usage import TokenUsage
from agentpool._kernel.protection import protect_module

if TYPE_CHECKING:
    from agentpool._core.bounds import InputBounds
    from agentpool._core.capability import PrivacyTier


class PricedDriver(abc.Driver):
    """A driver, and what its calls may use and cost; it equals the driver inside, and has its attributes."""

    def __init__(self, inner: abc.Driver) -> None:
        self.inner = inner
        self._bounds: InputBounds | None = None
        self._estimate: Any = getattr(inner, "estimate_cost", None)
        self._estimate_of: Any = getattr(inner, "estimate_cost_of", None)

    def __repr__(self) -> str:
        return repr(self.inner)

    def __eq__(self, other: object) -> bool:
        return self.inner == (other.inner if isinstance(other, PricedDriver) else other)

    def __hash__(self) -> int:
        return hash(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def context_window(self) -> int | None:  # type: ignore[override]
        """That of the driver inside."""
        return getattr(self.inner, "context_window", None)

    @property
    def privacy(self) -> PrivacyTier:  # type: ignore[override]
        """That of the driver inside."""
        return getattr(self.inner, "privacy", abc.Driver.privacy)

    @property
    def metered(self) -> bool:
        """Whether an answer of the driver inside that tells no usage has one nevertheless."""
        return bool(getattr(self.inner, "metered", True))

    @property
    def streams(self) -> bool:
        """Whether the driver inside has a stream of its own, which shows more than `complete` does."""
        stream = getattr(type(self.inner), "stream", None)
        return stream is not None and stream is not abc.Driver.stream

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        """Return what the driver inside estimates; 0 for one without prices."""
        return self.cost_of("", usage)

    def cost_of(self, model: str, usage: TokenUsage) -> float | None:
        """As `estimate_cost`, for a request that names a model."""
        cost: float | None = 0.0
        if self._estimate_of is not None and model:
            cost = self._estimate_of(model, usage)
        elif self._estimate is not None:
            cost = self._estimate(usage)
        return cost

    def bounds(self) -> InputBounds:
        """What is known of the input of its requests."""
        if self._bounds is None:
            from agentpool._core.bounds import InputBounds  # who has no budget needs none

            self._bounds = InputBounds()
        return self._bounds

    def counted(self, request: CompletionRequest, completion: Completion) -> None:
        """Take in what the provider counted."""
        if self._bounds is not None:
            self._bounds.counted(request, completion)

    def priced(self, completion: Completion, model: str) -> Completion:
        """Fill in the price of an answer, where the driver left that to its price list."""
        if not isinstance(completion, Completion):
            raise MalformedReplyError(f"the driver answered {completion!r}, which is no Completion")
        usage = completion.usage
        if usage.cost_usd:
            return completion
        cost = self.cost_of(model, usage)
        if not cost:
            return completion
        return attrs.evolve(completion, usage=attrs.evolve(usage, cost_usd=cost))


protect_module(globals())
