"""A driver that gives each agent a part, by its system prompt, and what the tests of sub-agents share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from agentpool import (
    AgentManifest,
    AssistantMessage,
    Completion,
    CompletionRequest,
    Driver,
    ModelSettings,
    TokenUsage,
    ToolCall,
    ToolMessage,
    UserMessage,
)

Part = Callable[["Turn"], Any]


class Turn:
    """What one model is asked: which turn it is, and what it has seen."""

    def __init__(self, request: CompletionRequest) -> None:
        self.request = request
        self.number = sum(isinstance(message, AssistantMessage) for message in request.messages)
        self.results = [m.result.text for m in request.messages if isinstance(m, ToolMessage)]
        self.errors = [m.result.is_error for m in request.messages if isinstance(m, ToolMessage)]
        self.said = [str(m.content) for m in request.messages if isinstance(m, UserMessage)]
        self.tools = {each.name: each for each in request.tools}

    @property
    def query(self) -> str:
        return self.said[0]


class Cast(Driver):
    """Gives each agent its part, by its system prompt. A part returns an answer, calls or an error."""

    def __init__(self, **parts: Part) -> None:
        self.parts = parts
        self.turns: list[tuple[str, Turn]] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        turn = Turn(request)
        self.turns.append((request.system, turn))
        await trio.lowlevel.checkpoint()
        answer = self.parts[request.system.partition("\n")[0]](turn)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, Completion):
            return answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            return Completion(answer, usage=TokenUsage(10, 5))
        return Completion(tool_calls=answer, usage=TokenUsage(10, 5))

    def turns_of(self, system: str) -> list[Turn]:
        return [turn for name, turn in self.turns if name == system]


def call(name: str, /, **arguments: Any) -> tuple[ToolCall, ...]:
    return (ToolCall("c", name, arguments),)


def calls(*each: tuple[str, dict[str, Any]]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(f"c{n}", name, arguments) for n, (name, arguments) in enumerate(each))


def scripted(*steps: Any) -> Part:
    """Return a part that does one thing after the other; a function is called with the turn."""

    def play(turn: Turn) -> Any:
        step = steps[min(turn.number, len(steps) - 1)]
        return step(turn) if callable(step) else step

    return play


def manifest(name: str, *capabilities: Any, **fields: Any) -> AgentManifest:
    return AgentManifest(
        name=name, model=ModelSettings(system_prompt=name), capabilities=capabilities, **fields
    )


def last_result(turn: Turn) -> str:
    return turn.results[-1]
