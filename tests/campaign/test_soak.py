"""Twenty thousand agents with everything on, an input without an end: nothing piles up."""

from __future__ import annotations

import gc
import os
import resource
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from agentpool import (
    AgentManifest,
    Budget,
    Completion,
    InMemory,
    ScriptedDriver,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolRegistry,
    open_agent_pool,
    tool,
)

AGENTS = 20_000
BATCHES = 10


@tool(name="tell", quick=True)
async def tell(ctx: Any) -> str:
    """Tell the server."""
    await ctx.send(1, "hello")
    return "told"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def server(ctx: Any) -> int:
    count = 0
    async for message in ctx.inbox:
        count += 1
        if message.content == "question":
            ctx.reply(message, count)
    return count


async def asker(ctx: Any) -> Any:
    child = await ctx.spawn(waiter)
    answer = await ctx.ask(1, "question")
    await child.wait()
    return answer


async def waiter(ctx: Any) -> None:
    with trio.move_on_after(0.001):
        await ctx.receive()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_twenty_thousand_agents_leave_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    figures: list[tuple[int, int, int, int]] = []
    usage = TokenUsage(10, 5)

    def reply(request: Any) -> Completion:
        if len(request.messages) > 1:
            return Completion("done", usage=usage)
        return Completion(tool_calls=(ToolCall("1", "tell"),), usage=usage)

    def replies() -> Any:
        while True:
            yield reply

    registry = ToolRegistry([tell])
    config = SpawnConfig(AgentManifest(name="model"), "query")
    driver = ScriptedDriver(replies())

    async def main() -> None:
        async with open_agent_pool(
            driver,
            max_concurrent=50,
            memory=InMemory(),
            budget=Budget(tokens=10**9),
            tool_builder=lambda _manifest: registry,
        ) as pool:
            await pool.spawn(server)
            async with pool.events() as events, trio.open_nursery() as nursery:
                nursery.start_soon(drain, events)
                for _ in range(BATCHES):
                    # A third ask a model, and a third have a child each.
                    share = AGENTS // BATCHES // 4
                    for agent in (config, asker, waiter):
                        for handle in await pool.fan_out([agent] * share):
                            await handle.wait()
                    driver.requests.clear()
                    gc.collect()
                    objects = len(gc.get_objects())
                    figures.append((open_files(), threading.active_count(), objects, resident_bytes()))
                nursery.cancel_scope.cancel()

    async def drain(events: Any) -> None:
        async for _event in events:
            pass

    trio.run(main)
    first, last = figures[1], figures[-1]
    with capsys.disabled():
        print(f"\nsoak: {AGENTS:,} agents; files, threads, objects, bytes: {first} -> {last}")
    assert last[0] == first[0]
    assert last[1] <= first[1]  # an idle worker thread may have gone home
    assert last[2] - first[2] < 5_000
    assert last[3] - first[3] < 5_000_000


ENDLESS = 100_000


def endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


async def endless_async() -> AsyncIterator[int]:
    for number in endless():
        yield number


async def same(ctx: Any, number: int) -> int:
    return number


@pytest.mark.parametrize("items", [endless, endless_async])
async def test_an_endless_input_of_as_completed_takes_no_more_memory_as_time_goes_by(
    items: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = []
    async with open_agent_pool(max_concurrent=4) as pool:
        async with pool.as_completed(same, items()) as done:
            taken = 0
            async for _outcome in done:
                taken += 1
                if taken % (ENDLESS // 10) == 0:
                    gc.collect()
                    blocks.append(sys.getallocatedblocks())
                if taken == ENDLESS:
                    break
    with capsys.disabled():
        print(f"\nas_completed: {taken:,} items taken, {blocks[-1] - blocks[0]:+} memory blocks on the way")
    assert max(blocks) - min(blocks) < 500
