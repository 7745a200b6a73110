"""The time limits of model and tool calls: what counts against them, and what does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from pool_kit import pool_of

from agentpool import (
    AgentManifest,
    Completion,
    CompletionRequest,
    Driver,
    DriverUnavailableError,
    Failed,
    SpawnConfig,
    ToolCall,
    ToolRegistry,
    tool,
)
from agentpool._core.messages import ToolMessage
from agentpool._loop.model_calls import MODEL_SECONDS

PLAIN = AgentManifest(name="plain")
SLOW = 2 * MODEL_SECONDS
"""Seconds that the subscriber takes for an event: more than any call may take."""


class Working(Driver):
    """Calls a tool, as often as it is told, and then answers; each answer takes its time."""

    def __init__(self, *tools: tuple[str, ...], takes: float = 0) -> None:
        self.tools = list(tools)
        self.takes = takes

    async def complete(self, request: CompletionRequest) -> Completion:
        await trio.sleep(self.takes)
        if not self.tools:
            return Completion("done")
        calls = [ToolCall(f"{len(self.tools)}-{i}", name, {}) for i, name in enumerate(self.tools.pop(0))]
        return Completion(tool_calls=calls)


@tool(timeout=5)
async def brief() -> str:
    """Take a little less than it may."""
    await trio.sleep(4.5)
    return "in time"


@tool(timeout=5)
async def long() -> str:
    """Take more than it may."""
    await trio.sleep(50)
    return "never said"


def _tools(_: AgentManifest) -> ToolRegistry:
    return ToolRegistry([brief, long])


@asynccontextmanager
async def _slowly_watched(pool: Any) -> AsyncIterator[None]:
    """Have a subscriber that the loop waits for, and that takes very long for each event."""

    async def watch() -> None:
        async for _ in events:
            await trio.sleep(SLOW)

    async with (
        pool.events(max_buffer=1, overflow="block") as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(watch)
        yield
        nursery.cancel_scope.cancel()


async def test_a_slow_subscriber_does_not_use_up_the_time_of_a_model_call(autojump_clock: Any) -> None:
    async with pool_of(1, driver=Working(takes=MODEL_SECONDS - 5)) as pool, _slowly_watched(pool):
        result = await (await pool.spawn(SpawnConfig(PLAIN, "hi"))).result()
        assert result.text == "done"
        assert trio.current_time() > SLOW


@pytest.mark.parametrize("calls", [("brief",), ("brief", "brief")])
async def test_a_slow_subscriber_does_not_use_up_the_time_of_a_tool_call(
    calls: tuple[str, ...], autojump_clock: Any
) -> None:
    driver = Working(calls, calls, takes=MODEL_SECONDS - 5)
    async with pool_of(1, driver=driver, tool_builder=_tools) as pool, _slowly_watched(pool):
        result = await (await pool.spawn(SpawnConfig(PLAIN, "hi"))).result()
        assert result.text == "done"
        assert _results(result) == [("in time", False)] * 2 * len(calls)
        assert trio.current_time() > SLOW


@pytest.mark.parametrize("watched", [True, False])
async def test_a_model_that_does_not_answer_is_given_up_though_a_subscriber_is_slow(
    watched: bool, autojump_clock: Any
) -> None:
    async with pool_of(1, driver=Working(takes=10 * SLOW)) as pool:
        if watched:
            async with _slowly_watched(pool):
                outcome = await (await pool.spawn(SpawnConfig(PLAIN, "hi"))).wait()
        else:
            outcome = await (await pool.spawn(SpawnConfig(PLAIN, "hi"))).wait()
        assert trio.current_time() < 10 * SLOW
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, DriverUnavailableError)


@pytest.mark.parametrize("calls", [("long",), ("brief", "long")])
async def test_a_tool_that_takes_too_long_is_stopped_though_a_subscriber_is_slow(
    calls: tuple[str, ...], autojump_clock: Any
) -> None:
    async with pool_of(1, driver=Working(calls), tool_builder=_tools) as pool, _slowly_watched(pool):
        result = await (await pool.spawn(SpawnConfig(PLAIN, "hi"))).result()
        assert result.text == "done"
        *others, last = _results(result)
        assert others == [("in time", False)] * (len(calls) - 1)
        assert last == ("long did not end within 5 s and was stopped.", True)


def _results(result: Any) -> list[tuple[str, bool]]:
    return [
        (message.result.content, message.result.is_error)
        for message in result.transcript
        if isinstance(message, ToolMessage)
    ]
