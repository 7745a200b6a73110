"""W3 with smolagents: a `ToolCallingAgent` on a model in memory."""

from __future__ import annotations

from typing import Any

from smolagents import ChatMessage, LogLevel, MessageRole, Model, ToolCallingAgent, tool
from smolagents.models import ChatMessageToolCall, ChatMessageToolCallFunction

from bench.meters import cpu

CALLS = 10


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the one
        b: the other
    """
    return a + b


def _call(turn: int) -> ChatMessage:
    name, arguments = ("add", {"a": turn, "b": 1}) if turn < CALLS else ("final_answer", {"answer": "done"})
    function = ChatMessageToolCallFunction(name=name, arguments=arguments)
    call = ChatMessageToolCall(function=function, id=f"call-{turn}", type="function")
    return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=[call])


class InMemoryModel(Model):
    def __init__(self) -> None:
        super().__init__(model_id="in-memory")
        self.turn = -1

    def generate(self, messages: Any, **options: Any) -> ChatMessage:
        self.turn += 1
        return _call(self.turn)


def turns(size: int) -> dict[str, float]:
    model = InMemoryModel()
    agent = ToolCallingAgent(tools=[add], model=model, verbosity_level=LogLevel.OFF)
    with cpu() as span:
        for _ in range(size):
            model.turn = -1
            assert agent.run("add") == "done"
    return {"us": span.per(size * (CALLS + 1))}
