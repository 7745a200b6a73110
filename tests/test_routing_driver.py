"""A driver with fallbacks: which route answers, and where words never go."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import (
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import Completion, CompletionRequest, StreamPart, TextDelta
from agentpool._core.usage import TokenUsage
from agentpool.abc import Driver
from agentpool.drivers.governed import GovernedDriver
from agentpool.drivers.retrying import RetryingDriver
from agentpool.drivers.routing import RoutingDriver
from agentpool.drivers.scripted import ScriptedDriver

REQUEST = CompletionRequest(model="m")


class Route(Driver):
    def __init__(
        self,
        name: str,
        error: Exception | None = None,
        *,
        privacy: PrivacyTier = PrivacyTier.STANDARD,
        cost: float | None = 0.0,
        window: int | None = None,
        breaks: Exception | None = None,
    ) -> None:
        self.name = name
        self.error = error
        self.privacy = privacy
        self.cost = cost
        self.context_window = window
        self.breaks = breaks
        self.asked = 0

    def __repr__(self) -> str:
        return f"<{self.name}>"

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.error:
            raise self.error
        return Completion(self.name)

    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:
        async def parts() -> AsyncGenerator[StreamPart, None]:
            completion = await self.complete(request)
            yield TextDelta(self.name)
            if self.breaks:
                raise self.breaks
            yield completion

        async with aclosing(parts()) as iterator:
            yield iterator

    def estimate_cost(self, usage: TokenUsage) -> float | None:
        return self.cost


def manifest(tier: PrivacyTier) -> AgentManifest:
    return AgentManifest(name="reviewer", privacy=tier)


async def streamed(driver: Driver) -> list[StreamPart]:
    async with driver.stream(REQUEST) as parts:
        return [part async for part in parts]


@pytest.mark.parametrize(
    "error",
    [RateLimitedError(), OverloadedError(), DriverUnavailableError("down"), MalformedReplyError("cut")],
)
async def test_the_next_route_answers_when_the_one_before_cannot_for_now(error: DriverError) -> None:
    driver = RoutingDriver(Route("a", error), Route("b"), Route("c"))
    assert (await driver.complete(REQUEST)).text == "b"
    assert await streamed(driver) == [TextDelta("b"), Completion("b")]


async def test_the_primary_is_asked_alone_while_it_answers() -> None:
    primary, fallback = Route("a"), Route("b")
    await RoutingDriver(primary, fallback).complete(REQUEST)
    assert (primary.asked, fallback.asked) == (1, 0)


async def test_an_error_that_no_route_mends_is_raised_at_once() -> None:
    fallback = Route("b")
    driver = RoutingDriver(Route("a", RequestRejectedError("bad")), fallback)
    for ask in (driver.complete, lambda _: streamed(driver)):
        with pytest.raises(RequestRejectedError, match="bad"):
            await ask(REQUEST)  # type: ignore[operator]
    assert fallback.asked == 0


async def test_the_last_error_tells_of_the_routes_before() -> None:
    last = DriverUnavailableError("down")
    driver = RoutingDriver(Route("a", OverloadedError("busy")), Route("b", last))
    with pytest.raises(DriverUnavailableError, match="down") as caught:
        await driver.complete(REQUEST)
    assert caught.value.__notes__ == ["<a> did not answer either: OverloadedError('busy')"]
    with pytest.raises(DriverUnavailableError, match="down"):
        await streamed(driver)


async def test_a_stream_that_breaks_after_its_first_part_does_not_change_its_route() -> None:
    fallback = Route("b")
    driver = RoutingDriver(Route("a", breaks=DriverUnavailableError("cut")), fallback)
    with pytest.raises(DriverUnavailableError, match="cut"):
        await streamed(driver)
    assert fallback.asked == 0
    assert driver.statistics()[0].failed == 1


async def test_the_statistics_tell_what_became_of_each_call() -> None:
    failing = Route("a", OverloadedError("busy"))
    driver = RoutingDriver(failing, Route("b"))
    await driver.complete(REQUEST)
    await streamed(driver)
    failing.error = RequestRejectedError("bad")
    with pytest.raises(RequestRejectedError):
        await driver.complete(REQUEST)
    failing.error = None
    with trio.CancelScope() as scope:
        scope.cancel()
        await driver.complete(REQUEST)
    first, second = driver.statistics()
    assert (first.driver, first.started, first.completed, first.failed, first.raised) == ("<a>", 4, 0, 2, 2)
    assert isinstance(first.last_error, OverloadedError)
    assert (second.started, second.completed, second.in_flight) == (2, 2, 0)


async def test_a_stream_that_is_left_early_is_completed_for_its_route() -> None:
    driver = RoutingDriver(Route("a"))
    async with driver.stream(REQUEST) as parts:
        await anext(parts)
        assert driver.statistics()[0].in_flight == 1
    assert driver.statistics()[0].completed == 1


# -- privacy --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "answers"),
    [(PrivacyTier.STANDARD, "cloud"), (PrivacyTier.PRIVATE, "house"), (PrivacyTier.SOVEREIGN, "here")],
)
async def test_an_agent_is_answered_by_the_first_route_that_its_tier_permits(
    tier: PrivacyTier, answers: str
) -> None:
    driver = RoutingDriver(
        Route("cloud"),
        Route("house", privacy=PrivacyTier.PRIVATE),
        Route("here", privacy=PrivacyTier.SOVEREIGN),
    )
    bound = driver.bind(manifest(tier))
    assert (await bound.complete(REQUEST)).text == answers
    assert bound.privacy is tier
    assert sum(route.completed for route in driver.statistics()) == 1


async def test_a_fallback_never_leaves_the_tier() -> None:
    cloud = Route("cloud")
    local = Route("here", OverloadedError("busy"), privacy=PrivacyTier.SOVEREIGN)
    bound = RoutingDriver(local, cloud).bind(manifest(PrivacyTier.SOVEREIGN))
    with pytest.raises(OverloadedError):
        await bound.complete(REQUEST)
    with pytest.raises(OverloadedError):
        await streamed(bound)
    assert cloud.asked == 0


def test_an_agent_without_any_permitted_route_is_refused() -> None:
    driver = RoutingDriver(Route("a"), Route("b", privacy=PrivacyTier.PRIVATE))
    with pytest.raises(RequestRejectedError, match=r"'reviewer' is sovereign, and none of the 2 routes"):
        driver.bind(manifest(PrivacyTier.SOVEREIGN))


async def test_a_router_inside_a_router_is_narrowed_too() -> None:
    mixed = RoutingDriver(Route("cloud"), Route("here", privacy=PrivacyTier.SOVEREIGN))
    outer = RoutingDriver(RoutingDriver(Route("far")), RetryingDriver(mixed))
    bound = outer.bind(manifest(PrivacyTier.SOVEREIGN))
    assert (await bound.complete(REQUEST)).text == "here"


async def test_a_route_that_became_wider_is_not_asked_any_more() -> None:
    turncoat = Route("a", privacy=PrivacyTier.SOVEREIGN)
    local = Route("b", privacy=PrivacyTier.SOVEREIGN)
    bound = RoutingDriver(turncoat, local).bind(manifest(PrivacyTier.SOVEREIGN))
    turncoat.privacy = PrivacyTier.STANDARD
    assert (await bound.complete(REQUEST)).text == "b"
    local.error = OverloadedError("busy")
    with pytest.raises(OverloadedError) as caught:
        await bound.complete(REQUEST)
    assert "only sovereign is permitted" in caught.value.__notes__[0]
    local.privacy = PrivacyTier.STANDARD
    with pytest.raises(RequestRejectedError, match="only sovereign is permitted"):
        await streamed(bound)
    assert turncoat.asked == 0


async def test_a_manifest_cannot_widen_the_tier_of_the_router() -> None:
    local = Route("here", privacy=PrivacyTier.SOVEREIGN)
    bound = RoutingDriver(local, privacy=PrivacyTier.SOVEREIGN).bind(manifest(PrivacyTier.STANDARD))
    local.privacy = PrivacyTier.STANDARD
    with pytest.raises(RequestRejectedError):
        await bound.complete(REQUEST)


def test_a_route_that_is_wider_than_the_routers_tier_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"<cloud> is standard, which the tier private does not permit"):
        RoutingDriver(
            Route("house", privacy=PrivacyTier.PRIVATE), Route("cloud"), privacy=PrivacyTier.PRIVATE
        )


# -- qualities --------------------------------------------------------------------


def test_it_is_as_wide_as_its_widest_route_and_as_narrow_as_its_smallest_window() -> None:
    driver = RoutingDriver(
        Route("a", privacy=PrivacyTier.SOVEREIGN, window=8000),
        Route("b", privacy=PrivacyTier.PRIVATE, window=None),
        Route("c", privacy=PrivacyTier.SOVEREIGN, window=4000),
    )
    assert driver.privacy is PrivacyTier.PRIVATE
    assert driver.context_window == 4000
    assert RoutingDriver(Route("a")).context_window is None


def test_its_price_is_that_of_the_dearest_route_and_unknown_if_one_is() -> None:
    usage = TokenUsage(1, 1)
    assert RoutingDriver(Route("a", cost=0.1), Route("b", cost=0.3)).estimate_cost(usage) == 0.3
    assert RoutingDriver(Route("a", cost=0.1), Route("b", cost=None)).estimate_cost(usage) is None


@pytest.mark.parametrize(
    "around", [RetryingDriver, GovernedDriver, RoutingDriver, GovernedDriver(ScriptedDriver([])).share]
)
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("openai:gpt-5", "open it first: async with open_driver('openai:gpt-5') as driver"),
        (None, "open_driver gives None for 'scripted'"),
        (RetryingDriver, "it needs `complete`"),
    ],
)
def test_what_is_no_driver_is_refused_at_once(around: Any, wrong: object, told: str) -> None:
    with pytest.raises(TypeError, match=re.escape(told)):
        around(wrong)
