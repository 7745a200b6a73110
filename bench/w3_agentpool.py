"""W3 with agentpool: one turn of the agent loop, everything on, nobody subscribed to events."""

from __future__ import annotations

import time

import trio

from agentpool import (
    AgentManifest,
    Budget,
    Completion,
    CompletionRequest,
    SpawnConfig,
    TokenUsage,
    ToolCall,
    ToolRegistry,
    open_agent_pool,
    tool,
)
from agentpool.abc import Driver
from bench.meters import cpu, peak_kb, resident_kb

CALLS = 10
TURNS = CALLS + 1
MODEL_SECONDS = 0.05


@tool(quick=True)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class InMemoryModel(Driver):
    """Calls `add` so many times in turn, then answers."""

    def __init__(self, calls: int = CALLS, seconds: float = 0) -> None:
        self.seconds = seconds
        self.replies = [
            *(
                Completion(
                    tool_calls=(ToolCall(f"call-{turn}", "add", {"a": turn, "b": 1}),),
                    usage=TokenUsage(10, 5),
                )
                for turn in range(calls)
            ),
            Completion("done", usage=TokenUsage(10, 5)),
        ]

    async def complete(self, request: CompletionRequest) -> Completion:
        if self.seconds:
            await trio.sleep(self.seconds)
        else:
            await trio.lowlevel.checkpoint()
        return self.replies[len(request.messages) // 2]


def _manifest(calls: int = CALLS) -> AgentManifest:
    from agentpool import ResourceQuota

    return AgentManifest(
        name="adder",
        resources=ResourceQuota(max_iterations=max(20, calls + 1), max_tool_calls=max(50, calls)),
    )


def _measure_turns(size: int, calls: int) -> dict[str, float]:
    registry = ToolRegistry([add])
    config = SpawnConfig(_manifest(calls), "add")

    async def main() -> None:
        async with open_agent_pool(
            InMemoryModel(calls),
            max_concurrent=10,
            tool_builder=lambda manifest: registry,
            budget=Budget(tokens=10**12),
        ) as pool:
            for _ in range(size):
                await pool.spawn(config)
            for outcome in (await pool.join_all()).values():
                result = outcome.unwrap()
                assert result.text == "done"
                assert result.tool_calls == calls

    with cpu() as span:
        trio.run(main)
    return {"us": span.per(size * (calls + 1))}


def turns(size: int) -> dict[str, float]:
    return _measure_turns(size, CALLS)


def long_turns(size: int) -> dict[str, float]:
    """Agents of 500 turns each, as many turns in all: a turn must not cost more late than early."""
    return _measure_turns(max(1, size * TURNS // 500), 499)


def crowd(size: int) -> dict[str, float]:
    """`size` agents at once, with a model that takes 50 ms; compared with the ideal wall clock."""
    registry = ToolRegistry([add])
    config = SpawnConfig(_manifest(), "add")

    async def main() -> None:
        async with open_agent_pool(
            InMemoryModel(CALLS, MODEL_SECONDS),
            max_concurrent=size,
            tool_builder=lambda manifest: registry,
            budget=Budget(tokens=10**12),
        ) as pool:
            await pool.fan_out([config] * size)
            for outcome in (await pool.join_all()).values():
                outcome.unwrap()

    before = resident_kb()
    start = time.perf_counter()
    trio.run(main)
    elapsed = time.perf_counter() - start
    return {"wall": elapsed / (TURNS * MODEL_SECONDS), "kb": (peak_kb() - before) / size}
