"""A driver that has others to fall back on."""

from __future__ import annotations

import copy
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import attrs

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import DriverError, RequestRejectedError
from agentpool._core.messages import Completion, CompletionRequest, StreamPart
from agentpool._core.text import shown
from agentpool._core.usage import TokenUsage
from agentpool._logging import DRIVERS, tell
from agentpool.abc import Driver, wrapped_inside
from agentpool.drivers._around import bind_driver, check_driver, is_metered, open_stream

if TYPE_CHECKING:
    from agentpool._core.manifest import AgentManifest

_TIERS = (PrivacyTier.SOVEREIGN, PrivacyTier.PRIVATE, PrivacyTier.STANDARD)  # from narrow to wide


@attrs.frozen
class RouteStatistics:
    """What became of the calls that one route was given.

    Attributes:
      driver: the route's driver, as its repr shows it.
      started: calls that it was given; each is one of the following three, or under way.
      completed: calls that it answered.
      failed: calls that it failed in a way that the next route may fix.
      raised: calls that ended otherwise: by an error that no route fixes, or by cancellation.
      last_error: the last error that made a call fail.
    """

    driver: str
    started: int = 0
    completed: int = 0
    failed: int = 0
    raised: int = 0
    last_error: DriverError | None = None

    @property
    def in_flight(self) -> int:
        """Calls that are under way."""
        return self.started - self.completed - self.failed - self.raised


@attrs.define(eq=False)
class _Route:
    driver: Driver
    numbers: RouteStatistics

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count one call."""
        self._add(started=1)
        try:
            yield
        except DriverError as error:
            if error.retryable:
                self._add(failed=1)
                self.numbers = attrs.evolve(self.numbers, last_error=error)
            else:
                self._add(raised=1)
            raise
        except BaseException:
            self._add(raised=1)
            raise
        else:
            self._add(completed=1)

    def _add(self, **more: int) -> None:
        changed = {name: getattr(self.numbers, name) + number for name, number in more.items()}
        self.numbers = attrs.evolve(self.numbers, **changed)


class RoutingDriver(Driver):
    """Asks a primary driver, and the fallbacks in their order when it cannot answer for now.

    A route is left for the next one on retryable errors (rate limited, overloaded, unavailable,
    malformed reply); errors that another try does not fix are raised. A stream changes its route
    only until its first part has arrived.

    Words never go to a place that the privacy tier does not permit: an agent is given the driver
    that `bind` makes for its manifest, which has only the permitted routes.
    """

    def __init__(
        self, primary: Driver, *fallbacks: Driver, privacy: PrivacyTier = PrivacyTier.STANDARD
    ) -> None:
        """Make one driver of several.

        Args:
          primary: asked first.
          fallbacks: asked in this order when those before them fail.
          privacy: where words may go, whoever asks.

        Raises:
          ValueError: if a driver sends words to a place that `privacy` does not permit.
        """
        drivers = (primary, *fallbacks)
        for driver in drivers:
            check_driver(driver)
            if not privacy.permits(driver.privacy):
                raise ValueError(
                    f"{driver!r} is {driver.privacy.value}, which the tier {privacy.value} does not"
                    " permit; leave it out, or widen privacy="
                )
        self._tier = privacy
        self._routes = [_Route(driver, RouteStatistics(repr(driver))) for driver in drivers]
        self._drivers: list[tuple[_Route, Driver]] = [(route, route.driver) for route in self._routes]

    @property
    def context_window(self) -> int | None:  # type: ignore[override]
        """The smallest of the routes' that are known, so that every request fits on every route."""
        windows = [driver.context_window for _, driver in self._drivers]
        return min((window for window in windows if window is not None), default=None)

    @property
    def privacy(self) -> PrivacyTier:  # type: ignore[override]
        """The widest of the routes': where words may end up."""
        return max((driver.privacy for _, driver in self._drivers), key=_TIERS.index)

    @property
    def metered(self) -> bool:
        """Whether an answer that tells no usage may have one nevertheless."""
        return any(is_metered(driver) for _, driver in self._drivers)

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        """Return the price on the dearest route; None if the price is unknown on one."""
        costs = [driver.estimate_cost(usage) for _, driver in self._drivers]
        known = [cost for cost in costs if cost is not None]
        return max(known) if len(known) == len(costs) else None

    def bind(self, manifest: AgentManifest) -> Driver:
        """Return the driver for one agent: the routes that its privacy tier permits.

        The statistics are shared with this driver.

        Raises:
          RequestRejectedError: if no route is permitted.
        """
        tier = min(self._tier, manifest.privacy, key=_TIERS.index)
        permitted: list[tuple[_Route, Driver]] = []
        for route, driver in self._drivers:
            try:
                bound = bind_driver(driver, manifest)
            except RequestRejectedError:
                continue  # a router inside, none of whose routes is permitted
            if tier.permits(bound.privacy):
                permitted.append((route, bound))
        if not permitted:
            raise RequestRejectedError(
                f"the agent {manifest.name!r} is {tier.value}, and none of the"
                f" {len(self._drivers)} routes is; add a route that is, such as a model on this machine"
            )
        twin = copy.copy(self)
        twin._drivers = permitted
        twin._tier = tier
        return twin

    def rewrapped(self, wrap: Callable[[Driver], Driver]) -> Driver:
        """Return this driver with what `wrap` makes of its routes; the statistics are shared."""
        twin = copy.copy(self)
        twin._drivers = [(route, wrapped_inside(driver, wrap)) for route, driver in self._drivers]
        return twin

    def statistics(self) -> tuple[RouteStatistics, ...]:
        """Return a snapshot for each route, in their order, over all agents."""
        return tuple(route.numbers for route in self._routes)

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the first route that answers.

        Raises:
          DriverError: what the last route raised, with a note for each route before it, or what
            no route fixes.
          RequestRejectedError: if a route became wider than the privacy tier, and no other answers.

        Checkpoint: as the routes. Cancellation: ends the call; no other route is asked.
        """
        failures = _Failures()
        for route, driver in self._permitted(failures):
            try:
                with route.counting():
                    return await driver.complete(request)
            except DriverError as error:
                failures.add(driver, error)
        raise failures.last()

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        """Ask the first route whose first part arrives, and stream its answer.

        Raises:
          DriverError: as `complete`; after the first part, whatever the stream raises.
        """
        failures = _Failures()
        for route, driver in self._permitted(failures):
            handed_out = False
            try:
                with route.counting():
                    async with AsyncExitStack() as stack:
                        parts = await open_stream(stack, driver, request)
                        handed_out = True
                        yield parts
                        return
            except DriverError as error:
                if handed_out:
                    raise
                failures.add(driver, error)
        raise failures.last()

    def _permitted(self, failures: _Failures) -> Iterator[tuple[_Route, Driver]]:
        for route, driver in self._drivers:
            # Looked at for each call: a driver's privacy may change, as that of a router inside.
            if self._tier.permits(driver.privacy):
                yield route, driver
            else:
                failures.refused(driver, self._tier)


class _Failures:
    """Why the routes so far did not answer."""

    def __init__(self) -> None:
        self._failures: list[tuple[Driver, DriverError]] = []

    def add(self, driver: Driver, error: DriverError) -> None:
        """Keep a failure that the next route may fix, and raise any other."""
        if not error.retryable:
            raise error
        self._failures.append((driver, error))
        tell(DRIVERS, logging.WARNING, "the route %s did not answer: %s", shown(driver), error)

    def refused(self, driver: Driver, tier: PrivacyTier) -> None:
        """Keep that a route was not asked."""
        self._failures.append(
            (driver, RequestRejectedError(f"it is {driver.privacy.value}, only {tier.value} is permitted"))
        )

    def last(self) -> DriverError:
        """Return the last error, if possible of a route that was asked, with notes on the others."""
        *others, (_, last) = sorted(self._failures, key=lambda failure: failure[1].retryable)
        for driver, error in others:
            last.add_note(f"{driver!r} did not answer either: {error!r}")
        return last
