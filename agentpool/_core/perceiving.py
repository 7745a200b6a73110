"""What an agent perceived, in the form in which its model is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from agentpool._core.effects import Fragment
from agentpool._core.messages import AgentMessage, UserMessage
from agentpool._core.text import encodable


def perceived(fragments: Iterable[Fragment], messages: Iterable[AgentMessage]) -> list[UserMessage]:
    """Return what an agent perceived in the form in which its model is told.

    All of memory is one message, of kind `recall`, with a line for each fragment:

        <memory>
        - the tests run with nox
        </memory>

    and what other agents sent is a message each, of kind `message`:

        <message from="3" id="17">
        the text, or the JSON or repr of any other object
        </message>

    A message whose sender waits for a reply has `reply="awaited"` as well.

    In what stands between the delimiters, none of them can be faked: a `<` that would begin one
    is written as `&lt;`.
    """
    news: list[UserMessage] = []
    recalled = [encodable(fragment.content) for fragment in fragments]
    if recalled:
        lines = "\n".join(f"- {harmless(text)}" for text in recalled)
        news.append(UserMessage(f"<memory>\n{lines}\n</memory>", "recall", "\n".join(recalled)))
    for message in messages:
        body = encodable(_text_of(message.content))
        topic = "" if message.topic is None else f" topic={json.dumps(encodable(message.topic))}"
        awaited = ' reply="awaited"' if message.is_question else ""
        start = f'<message from="{message.sender}" id="{message.id}"{topic}{awaited}>'
        news.append(UserMessage(f"{start}\n{harmless(body)}\n</message>", "message", body))
    return news


_DELIMITER = re.compile(r"<(?=\s*/?\s*(?:memory|message|note|summary|pinned)\b)", re.IGNORECASE)


def harmless(text: str) -> str:
    """Return text in which no delimiter of ours begins."""
    return _DELIMITER.sub("&lt;", text)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    try:
        return json.dumps(content, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(content)


def as_note(text: str) -> UserMessage:
    """Return a remark of the loop itself."""
    return UserMessage(f"<note>\n{text}\n</note>", "note", text)
