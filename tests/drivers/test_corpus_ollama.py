"""Odd answers of Ollama become what they mean, or an error."""

from __future__ import annotations

import pytest
from corpus_ollama import STREAMS, WHOLE, Odd
from test_corpus_chat import check

from agentpool import Completion, CompletionRequest, ToolDefinition, UserMessage
from agentpool._core.messages import TextDelta
from agentpool.drivers._fitting import Question
from agentpool.drivers._ollama_chat import OllamaDialect

LOOK = ToolDefinition("look", "Look.", {"type": "object"})
QUESTION = Question(CompletionRequest(messages=[UserMessage("hi")], tools=[LOOK]), "m")
DIALECT = OllamaDialect()


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
    if completion is not None:
        assert "".join(deltas) == completion.text
    if isinstance(odd.expected, dict) and "deltas" in odd.expected:
        assert deltas == odd.expected["deltas"]
