"""What a loop observes, as JSON data, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, assert_never

import attrs

from agentpool._core.effects import (
    Acted,
    Collected,
    Compacted,
    DriverFailed,
    Idled,
    Observation,
    Recalled,
    Remembered,
    Replied,
)
from agentpool._core.messages import AgentId, AgentMessage, ToolResult
from agentpool._objects import error_to_data

Coder = Callable[[Any], Any]
"""Makes data of a value, or a value of data."""


@attrs.frozen
class RecalledText:
    """What memory gave, as a tape holds it."""

    content: str


def message_to_data(message: AgentMessage, encode: Coder) -> dict[str, Any]:
    """Return a message as data."""
    return {
        "id": message.id,
        "from": message.sender,
        "content": encode(message.content),
        "reply_to": message.reply_to,
        "topic": message.topic,
        "ask": message.is_question,
    }


def message_from_data(data: Any, to: AgentId, decode: Coder) -> AgentMessage:
    """Return the message to an agent of which `message_to_data` made this."""
    content, asked = decode(data["content"]), data.get("ask", False)
    return AgentMessage(data["from"], to, content, data["id"], data["reply_to"], data["topic"], asked)


def observation_to_data(observation: Observation, encode: Coder) -> dict[str, Any] | None:
    """Return what was observed as data; None of tool calls, which are written one by one."""
    match observation:
        case Recalled():
            return {
                "is": "recalled",
                "fragments": [fragment.content for fragment in observation.fragments],
                "messages": [message_to_data(each, encode) for each in observation.messages],
            }
        case Replied():
            return {"is": "replied", "completion": encode(observation.completion)}
        case Compacted():
            return {"is": "compacted", "completion": encode(observation.completion)}
        case DriverFailed():
            return {"is": "failed", "error": error_to_data(observation.error)}
        case Idled():
            return {"is": "idled", "seconds": observation.seconds}
        case Remembered():
            return {"is": "remembered"}
        case Collected():
            return {"is": "collected", "text": observation.text}
        case Acted():
            return None
        case _:
            assert_never(observation)


def observation_from_data(
    data: Any, to: AgentId, decode: Coder, results: Callable[[], Sequence[ToolResult | None]]
) -> Observation:
    """Return the observation of which `observation_to_data` made this.

    Args:
      data: as it is in a journal.
      to: the agent.
      decode: makes values of data.
      results: those of the calls that were under way, for one that was idle.
    """
    match data["is"]:
        case "recalled":
            messages = [message_from_data(each, to, decode) for each in data["messages"]]
            return Recalled([RecalledText(text) for text in data["fragments"]], messages)
        case "replied":
            return Replied(decode(data["completion"]))
        case "compacted":
            return Compacted(decode(data["completion"]))
        case "failed":
            return DriverFailed(decode(data["error"]))
        case "idled":
            return Idled(data["seconds"], results())
        case "collected":
            return Collected(data["text"])
        case _:
            return Remembered()
