"""W3 with pydantic-ai: an `Agent` on its own `FunctionModel`."""

from __future__ import annotations

import asyncio

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from bench.meters import cpu

CALLS = 10


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def _reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    await asyncio.sleep(0)
    turn = len(messages) // 2
    if turn < CALLS:
        return ModelResponse(parts=[ToolCallPart("add", {"a": turn, "b": 1}, tool_call_id=f"call-{turn}")])
    return ModelResponse(parts=[TextPart("done")])


def turns(size: int) -> dict[str, float]:
    agent = Agent(FunctionModel(_reply), tools=[add])

    async def main() -> None:
        for _ in range(size):
            result = await agent.run("add")
            assert result.output == "done"

    with cpu() as span:
        asyncio.run(main())
    return {"us": span.per(size * (CALLS + 1))}
