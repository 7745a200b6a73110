"""What drivers around drivers share."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import attrs

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import MalformedReplyError
from agentpool._core.messages import CompletionRequest, StreamPart
from agentpool._core.text import shown
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver, wrapped_inside

if TYPE_CHECKING:
    from agentpool._core.manifest import AgentManifest

_A = TypeVar("_A", bound="DriverAround")


@runtime_checkable
class BindsToManifest(Protocol):
    """A driver that makes a driver for one agent: its script, or what its privacy tier permits."""

    def bind(self, manifest: AgentManifest) -> Driver:
        """Return the driver that the agent with this manifest is to use."""
        ...


def bind_driver(driver: Driver, manifest: AgentManifest) -> Driver:
    """Return what `driver` makes of itself for one agent; itself if it makes no difference."""
    return driver.bind(manifest) if isinstance(driver, BindsToManifest) else driver


def is_metered(driver: Driver) -> bool:
    """Return whether answers without any usage are ones whose usage is not known; scripts cost nothing."""
    return bool(getattr(driver, "metered", True))


def check_driver(driver: object) -> None:
    """Check that there is a driver where one is wanted.

    Raises:
      TypeError: if it is none, such as a driver's name; the text says how one is opened.
    """
    if not isinstance(driver, type) and hasattr(driver, "complete"):
        return
    fix = "it needs `complete`"
    if isinstance(driver, str):
        fix = f"open it first: async with open_driver({shown(driver)}) as driver"
    elif driver is None:
        fix = "open_driver gives None for 'scripted', where each agent follows its own script"
    raise TypeError(f"driver must be a model driver, not {shown(driver)}; {fix}")


class DriverAround(Driver):
    """A driver that has its requests answered by another one, whose qualities it takes over."""

    _driver: Driver

    def __init__(self, driver: Driver) -> None:
        check_driver(driver)
        self._driver = driver

    @property
    def context_window(self) -> int | None:  # type: ignore[override]
        """That of the driver inside."""
        return self._driver.context_window

    @property
    def privacy(self) -> PrivacyTier:  # type: ignore[override]
        """That of the driver inside."""
        return self._driver.privacy

    @property
    def metered(self) -> bool:
        """Whether an answer of the driver inside that tells no usage has one nevertheless."""
        return is_metered(self._driver)

    @property
    def pricing(self) -> Callable[[TokenUsage], float | None] | None:
        """What `estimate_cost` does, as something that can be pickled; None if the driver inside has none."""
        pricing: Callable[[TokenUsage], float | None] | None = getattr(self._driver, "pricing", None)
        return pricing

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        """Return what the driver inside estimates."""
        return self._driver.estimate_cost(usage)

    def bind(self, manifest: AgentManifest) -> Driver:
        """Return this driver around what the one inside makes of itself for one agent.

        Everything else, such as counters and limits, is shared with this one.
        """
        inner = bind_driver(self._driver, manifest)
        return self if inner is self._driver else self._put_around(inner)

    def rewrapped(self, wrap: Callable[[Driver], Driver]) -> Driver:
        """Return this driver around what `wrap` makes of the innermost ones; the rest is shared."""
        return self._put_around(wrapped_inside(self._driver, wrap))

    def _put_around(self: _A, driver: Driver) -> _A:
        twin = copy.copy(self)
        twin._driver = driver
        return twin

    def __repr__(self) -> str:
        return f"<{type(self).__name__} around {self._driver!r}>"


@attrs.define(eq=False)
class OpenedStream:
    """A stream whose first part has arrived, so that nothing of it has been handed out yet.

    `on_error` is told each exception that the stream raises (not those of the stream's user),
    `on_part` each part.
    """

    _first: StreamPart | None
    _rest: AsyncIterator[StreamPart]
    _on_error: Callable[[Exception], None] | None = None
    _on_part: Callable[[StreamPart], None] | None = None

    def __aiter__(self) -> OpenedStream:
        return self

    async def __anext__(self) -> StreamPart:
        part, self._first = self._first, None
        if part is None:
            try:
                part = await anext(self._rest)
            except StopAsyncIteration:
                raise
            except Exception as error:
                if self._on_error is not None:
                    self._on_error(error)
                raise
        if self._on_part is not None:
            self._on_part(part)
        return part


async def open_stream(
    stack: AsyncExitStack,
    driver: Driver,
    request: CompletionRequest,
    *,
    on_error: Callable[[Exception], None] | None = None,
    on_part: Callable[[StreamPart], None] | None = None,
) -> OpenedStream:
    """Open a driver's stream on `stack`, and wait for its first part.

    Until then nothing was handed out, so another attempt may take its place.

    Raises:
      MalformedReplyError: if the stream ends without any part.
      DriverError: whatever the driver raises until its first part.
    """
    parts = await stack.enter_async_context(driver.stream(request))
    try:
        first = await anext(parts)
    except StopAsyncIteration:
        raise MalformedReplyError("the stream ended before its first part") from None
    return OpenedStream(first, parts, on_error, on_part)
