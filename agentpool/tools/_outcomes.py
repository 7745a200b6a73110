"""How a model is told what became of other agents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, assert_never

from agentpool._core.errors import AgentPoolError, ToolError
from agentpool._core.messages import ToolResult
from agentpool._core.outcomes import Aborted, AgentOutcome, AgentResult, Completed, Failed
from agentpool._core.text import encodable, named


@contextmanager
def told_to_the_model() -> Iterator[None]:
    """Give the model the words of what a pool refuses, without the name of the exception's class."""
    try:
        yield
    except AgentPoolError as error:
        raise ToolError(str(error)) from error


def result_of(outcome: AgentOutcome[Any]) -> ToolResult:
    """Return the result of a call that waited for one agent: its answer, or why there is none."""
    who = f"agent {outcome.agent_id} ({outcome.name})"
    match outcome:
        case Completed(value=AgentResult(text, stopped_by=None)):
            return ToolResult(text)
        case Completed(value=AgentResult(text, stopped_by=limit)):
            # Else what is unfinished would look like a whole answer.
            return ToolResult(f"{text}\n\n({who} was stopped at its limit ({limit}): it may be incomplete.)")
        case Completed():
            return ToolResult(str(outcome.value))
        case Failed():
            return ToolResult(f"{who} failed: {named(outcome.error)}", is_error=True)
        case Aborted():
            return ToolResult(f"{who} was aborted: {outcome.reason or 'no reason given'}", is_error=True)
        case _:
            assert_never(outcome)


def block_of(outcome: AgentOutcome[Any]) -> str:
    """Return the outcome of one agent among others, so that none can pass itself off as another one's.

    <agent id="7" name="writer" status="completed">
    what it answered, or why it did not
    </agent>
    """
    status = type(outcome).__name__.lower()
    return block(outcome.agent_id, outcome.name, status, result_of(outcome).text)


def block(agent_id: int, name: str, status: str, text: str) -> str:
    """Return what is told of an agent, with delimiters that the text cannot fake."""
    start = (
        f'<agent id="{agent_id}" name={json.dumps(encodable(name), ensure_ascii=False)} status="{status}">'
    )
    return f"{start}\n{_DELIMITER.sub('&lt;', encodable(text))}\n</agent>"


_DELIMITER = re.compile(r"<(?=\s*/?\s*agent\b)", re.IGNORECASE)
