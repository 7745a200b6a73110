"""W3 with openai-agents: `Runner.run` on a model in memory, tracing off."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from bench.meters import cpu

CALLS = 10


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class InMemoryModel(Model):
    def __init__(self) -> None:
        self.turn = -1

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        await asyncio.sleep(0)
        self.turn += 1
        item: Any
        if self.turn < CALLS:
            item = ResponseFunctionToolCall(
                id=f"item-{self.turn}",
                call_id=f"call-{self.turn}",
                name="add",
                arguments=json.dumps({"a": self.turn, "b": 1}),
                type="function_call",
            )
        else:
            text = ResponseOutputText(text="done", type="output_text", annotations=[])
            item = ResponseOutputMessage(
                id="last", role="assistant", status="completed", type="message", content=[text]
            )
        return ModelResponse(output=[item], usage=Usage(requests=1), response_id=None)

    def stream_response(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError


def turns(size: int) -> dict[str, float]:
    config = RunConfig(tracing_disabled=True)

    model = InMemoryModel()
    agent = Agent(name="adder", tools=[add], model=model)

    async def main() -> None:
        for _ in range(size):
            model.turn = -1
            result = await Runner.run(agent, "add", max_turns=CALLS + 2, run_config=config)
            assert result.final_output == "done"

    with cpu() as span:
        asyncio.run(main())
    return {"us": span.per(size * (CALLS + 1))}
