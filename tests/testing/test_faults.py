from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from agentpool._core.capability import PrivacyTier
from agentpool._core.errors import (
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    ToolError,
)
from agentpool._core.messages import (
    Completion,
    CompletionRequest,
    StreamPart,
    TextDelta,
    ToolDefinition,
    ToolResult,
)
from agentpool._core.usage import NO_USAGE
from agentpool.abc import Driver
from agentpool.testing import Fault, FaultKind, FaultMix, FaultPlan, FaultyDriver, FaultyTool, StubToolContext

REQUEST = CompletionRequest()


class Echo(Driver):
    context_window = 99
    privacy = PrivacyTier.PRIVATE

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.lowlevel.checkpoint()
        self.calls += 1
        return Completion("hello world")


class Wordy(Echo):
    @asynccontextmanager
    async def stream(self, request: CompletionRequest) -> AsyncIterator[AsyncIterator[StreamPart]]:  # type: ignore[override]
        async def parts() -> AsyncIterator[StreamPart]:
            for word in ("hello ", "world"):
                await trio.lowlevel.checkpoint()
                yield TextDelta(word)
            yield Completion("hello world")

        async with aclosing(parts()) as iterator:
            yield iterator


class Shout:
    definition = ToolDefinition("shout", "Shouts.", {"type": "object"})
    capability = None
    timeout = 5.0

    async def call(self, ctx: Any, arguments: Mapping[str, Any]) -> ToolResult:
        await trio.lowlevel.checkpoint()
        return ToolResult("HO")


def test_a_plan_is_a_text_and_back() -> None:
    text = "driver:3:rate_limit,clock:120:jump=30.0,driver:1:stall"
    plan = FaultPlan.parse(text)
    assert str(plan) == text
    assert plan.faults[2] == Fault("driver", 1, FaultKind.STALL, 60.0)
    assert not FaultPlan.parse("")
    assert FaultPlan.parse("openai:x:2:cut").faults == (Fault("openai:x", 2, FaultKind.CUT),)


@given(st.integers())
def test_every_drawn_plan_reads_back_as_itself(seed: int) -> None:
    plan = FaultMix().draw(seed)
    assert FaultPlan.parse(str(plan)) == plan
    assert FaultMix().draw(seed) == plan


@pytest.mark.parametrize("text", ["driver", "driver:x:cut", "driver:1:nonsense", "driver:0:cut", ":1:cut"])
def test_a_plan_that_cannot_be_read_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a fault: .* Write target:call:kind"):
        FaultPlan.parse(text)


def test_smaller_plans_lose_faults_or_come_sooner() -> None:
    plan = FaultPlan.parse("driver:8:cut,tool:2:error")
    smaller = [str(other) for other in plan.smaller()]
    assert "driver:8:cut" in smaller
    assert "tool:2:error" in smaller
    assert "driver:4:cut,tool:2:error" in smaller
    assert str(plan) not in smaller
    assert list(FaultPlan().smaller()) == []


async def complete_twice(plan: str) -> tuple[Echo, Completion]:
    inner = Echo()
    driver = FaultyDriver(inner, FaultPlan.parse(plan))
    await driver.complete(REQUEST)
    return inner, await driver.complete(REQUEST)


@pytest.mark.parametrize(
    ("kind", "error", "calls"),
    [
        ("rate_limit", RateLimitedError, 1),
        ("overload", OverloadedError, 1),
        ("unavailable", DriverUnavailableError, 1),
        ("cut", DriverUnavailableError, 2),
        ("malformed", MalformedReplyError, 2),
    ],
)
async def test_a_driver_fails_at_the_call_that_the_plan_names(
    kind: str, error: type[DriverError], calls: int
) -> None:
    inner = Echo()
    driver = FaultyDriver(inner, FaultPlan.parse(f"driver:2:{kind}"))
    await driver.complete(REQUEST)
    with pytest.raises(error, match=f"driver:2:{kind}") as caught:
        await driver.complete(REQUEST)
    assert inner.calls == calls
    assert caught.value.may_have_cost is (calls == 2)  # as the drivers say of an answer that had begun
    assert (await driver.complete(REQUEST)).text == "hello world"


async def test_a_rate_limit_tells_when_to_try_again() -> None:
    driver = FaultyDriver(Echo(), FaultPlan.parse("driver:1:rate_limit=7"))
    with pytest.raises(RateLimitedError) as caught:
        await driver.complete(REQUEST)
    assert caught.value.retry_after == 7


async def test_a_stall_takes_virtual_time(autojump_clock: trio.testing.MockClock) -> None:
    await complete_twice("driver:2:stall=45")
    assert trio.current_time() == 45
    with trio.move_on_after(1000) as scope:
        await complete_twice(f"driver:2:stall={math.inf}")
    assert scope.cancelled_caught


async def read_into(seen: list[StreamPart], driver: Driver) -> None:
    async with driver.stream(REQUEST) as parts:
        async for part in parts:
            seen.append(part)


async def test_a_stream_is_cut_in_the_middle_of_its_text() -> None:
    driver = FaultyDriver(Wordy(), FaultPlan.parse("driver:1:cut"))
    seen: list[StreamPart] = []
    with pytest.raises(DriverUnavailableError):
        await read_into(seen, driver)
    assert seen == [TextDelta("hel")]


async def test_a_malformed_stream_fails_in_the_place_of_its_completion() -> None:
    driver = FaultyDriver(Wordy(), FaultPlan.parse("driver:1:malformed"))
    seen: list[StreamPart] = []
    with pytest.raises(MalformedReplyError):
        await read_into(seen, driver)
    assert seen == [TextDelta("hello "), TextDelta("world")]
    async with driver.stream(REQUEST) as parts:
        assert len([part async for part in parts]) == 3


async def test_a_faulty_driver_shows_the_attributes_of_the_one_inside() -> None:
    driver = FaultyDriver(Echo(), FaultPlan())
    assert (driver.context_window, driver.privacy) == (99, PrivacyTier.PRIVATE)
    assert driver.estimate_cost(NO_USAGE) == 0


async def test_faults_of_another_target_do_nothing() -> None:
    _, completion = await complete_twice("tool:2:error,other:2:cut")
    assert completion.text == "hello world"


async def test_a_tool_fails_and_stalls_as_planned(autojump_clock: trio.testing.MockClock) -> None:
    tool = FaultyTool(Shout(), FaultPlan.parse("tool:1:error,tool:2:stall=9"))
    with pytest.raises(ToolError, match="tool:1:error"):
        await tool.call(StubToolContext(), {})
    assert await tool.call(StubToolContext(), {}) == ToolResult("HO")
    assert trio.current_time() == 9
    assert (tool.definition.name, tool.capability, tool.timeout) == ("shout", None, 5.0)
