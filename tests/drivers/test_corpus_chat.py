"""Odd answers of chat completion servers become what they mean, or an error."""

from __future__ import annotations

from typing import Any

import pytest
from corpus_chat import REFUSED, STREAMS, WHOLE, Odd

from agentpool import Completion, CompletionRequest, ToolDefinition, UserMessage
from agentpool._core.messages import TextDelta
from agentpool.drivers._chat import ChatDialect
from agentpool.drivers._dialect import RefusedInStreamError
from agentpool.drivers._fitting import Question

LOOK = ToolDefinition("look", "Look.", {"type": "object"})
QUESTION = Question(CompletionRequest(messages=[UserMessage("hi")], tools=[LOOK]), "m")
DIALECT = ChatDialect()


@pytest.mark.parametrize("odd", WHOLE, ids=lambda odd: odd.why)
def test_a_whole_answer(odd: Odd) -> None:
    check(odd, lambda: DIALECT.completion(odd.came, QUESTION))


@pytest.mark.parametrize("odd", STREAMS, ids=lambda odd: odd.why)
def test_a_stream(odd: Odd) -> None:
    deltas: list[str] = []

    def read() -> Completion:
        reader = DIALECT.reader(QUESTION)
        for piece in odd.came:
            deltas.extend(delta.text for delta in reader.feed(piece, "") if isinstance(delta, TextDelta))
        return reader.completion()

    completion = check(odd, read)
    if completion is not None and completion.stop_reason != "refusal":
        assert "".join(deltas) == completion.text
    if isinstance(odd.expected, dict) and "deltas" in odd.expected:
        assert deltas == odd.expected["deltas"]


def check(odd: Odd, read: Any) -> Completion | None:
    """Read an odd answer, and compare what came of it with what is expected."""
    if odd.expected == REFUSED:
        with pytest.raises(RefusedInStreamError):
            read()
        return None
    if isinstance(odd.expected, type):
        with pytest.raises(odd.expected):
            read()
        return None
    completion: Completion = read()
    calls, data, usage = completion.tool_calls, completion.provider_data, completion.usage
    seen = {
        "text": completion.text,
        "stop": completion.stop_reason,
        "reasoning": completion.reasoning,
        "calls": [(call.id, call.name, dict(call.input)) for call in calls],
        "names": [call.name for call in calls],
        "unique": all(call.id for call in calls) and len({call.id for call in calls}) == len(calls),
        "extra": calls[0].provider_data.data if calls and calls[0].provider_data else None,
        "kept": None if data is None else data.data,
        "usage": (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens, usage.cache_read_tokens),
        "written": (usage.cache_write_tokens, usage.cache_write_1h_tokens),
        "cost": usage.cost_usd,
        "id": completion.response_id,
        "model": completion.served_model,
    }
    assert isinstance(odd.expected, dict)
    for name, value in odd.expected.items():
        if name == "problem":
            assert value in calls[0].problem
            assert calls[0].input == {}
        elif name != "deltas":
            assert seen[name] == value, name
    return completion
