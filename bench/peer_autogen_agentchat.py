"""W3 with autogen-agentchat: an `AssistantAgent` on its own replaying model."""

from __future__ import annotations

import asyncio
import json
import logging

from autogen_agentchat.agents import AssistantAgent
from autogen_core import FunctionCall
from autogen_core.models import CreateResult, ModelFamily, ModelInfo, RequestUsage
from autogen_ext.models.replay import ReplayChatCompletionClient

from bench.meters import cpu

CALLS = 10

logging.disable(logging.CRITICAL)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def _replies() -> list[CreateResult]:
    usage = RequestUsage(prompt_tokens=10, completion_tokens=5)
    calls = [
        CreateResult(
            finish_reason="function_calls",
            content=[FunctionCall(id=f"call-{turn}", name="add", arguments=json.dumps({"a": turn, "b": 1}))],
            usage=usage,
            cached=False,
        )
        for turn in range(CALLS)
    ]
    return [*calls, CreateResult(finish_reason="stop", content="done", usage=usage, cached=False)]


def turns(size: int) -> dict[str, float]:
    info = ModelInfo(
        vision=False,
        function_calling=True,
        json_output=False,
        family=ModelFamily.UNKNOWN,
        structured_output=False,
    )

    async def main() -> None:
        for number in range(size):
            model = ReplayChatCompletionClient(_replies(), model_info=info)
            agent = AssistantAgent(
                f"adder_{number}",
                model,
                tools=[add],
                max_tool_iterations=CALLS + 1,
                reflect_on_tool_use=False,
            )
            result = await agent.run(task="add")
            assert result.messages[-1].to_text() == "done"

    with cpu() as span:
        asyncio.run(main())
    return {"us": span.per(size * (CALLS + 1))}
