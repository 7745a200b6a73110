"""W3 with langgraph: langchain's ready agent on a chat model in memory."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from bench.meters import cpu

CALLS = 10


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class InMemoryModel(BaseChatModel):
    @property
    def _llm_type(self) -> str:
        return "in-memory"

    def bind_tools(self, tools: Any, **options: Any) -> InMemoryModel:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        turn = len(messages) // 2
        message = AIMessage("done")
        if turn < CALLS:
            message = AIMessage(
                "", tool_calls=[{"name": "add", "args": {"a": turn, "b": 1}, "id": f"call-{turn}"}]
            )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        await asyncio.sleep(0)
        return self._generate(messages)


def turns(size: int) -> dict[str, float]:
    agent = create_agent(InMemoryModel(), [add])

    async def main() -> None:
        for _ in range(size):
            result = await agent.ainvoke({"messages": [("user", "add")]}, {"recursion_limit": 100})
            assert result["messages"][-1].content == "done"

    with cpu() as span:
        asyncio.run(main())
    return {"us": span.per(size * (CALLS + 1))}
