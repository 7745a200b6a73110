"""The conversations of agents, as their models were asked: by reference, from the events."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import attrs

from agentpool._core import events as ev
from agentpool._core.content import Text, text_of
from agentpool._core.messages import AgentId, AssistantMessage, ChatMessage, ToolMessage

MOST_ENDED = 20_000
"""The conversations of so many agents that have ended are kept, the latest."""
MOST_LETTERS = 200_000_000
"""So many letters, and bytes of pictures and documents, those of all of them have together."""


@attrs.define(eq=False)
class _Conversation:
    """What an agent's model was asked last, and what came after it.

    Attributes:
      started: the `seq` of the call.
      asked: the request's messages, which the agent shares with us.
      after: the answer, and the results of the tools that it called.
      words: what has come so far of an answer that is streamed.
    """

    version: int
    started: int
    asked: Sequence[ChatMessage]
    after: list[ChatMessage] = attrs.field(factory=list)
    words: list[str] = attrs.field(factory=list)

    def messages(self) -> Iterator[ChatMessage]:
        yield from self.asked
        yield from self.after
        if self.words:
            yield AssistantMessage("".join(self.words))


@attrs.define(eq=False)
class Transcripts:
    """The latest conversation of each agent that has a model."""

    _kept: dict[AgentId, _Conversation] = attrs.field(factory=dict)
    _ended: OrderedDict[AgentId, int] = attrs.field(factory=OrderedDict)
    _letters: int = 0

    def take(self, event: ev.Event, version: int) -> None:
        """Take an event in.

        Args:
          event: what happened.
          version: of the picture, after it.
        """
        if isinstance(event, ev.ModelCallStarted):
            self._kept[event.agent_id] = _Conversation(version, event.seq, event.request.messages)
            return
        kept = self._kept.get(event.agent_id)
        if kept is None:
            return
        match event:
            case ev.TextDeltaReceived():
                kept.words.append(event.text)
            case ev.ModelCallFinished(started=started) if started == kept.started:
                kept.words.clear()
                if event.completion is not None:
                    kept.after.append(event.completion.message)
            case ev.ToolFinished():
                kept.after.append(ToolMessage(event.call.id, event.call.name, event.result))
            case ev.AgentFinished():
                self._ended_with(event.agent_id, kept)
            case _:
                return
        kept.version = version

    def of(self, agent_id: AgentId) -> tuple[int, list[ChatMessage]]:
        """Return the messages of an agent, and the version of the picture at which they last changed."""
        kept = self._kept.get(agent_id)
        return (0, []) if kept is None else (kept.version, list(kept.messages()))

    def _ended_with(self, agent_id: AgentId, kept: _Conversation) -> None:
        letters = sum(map(_letters_of, kept.messages()))
        self._ended[agent_id] = letters
        self._letters += letters
        while len(self._ended) > 1 and (len(self._ended) > MOST_ENDED or self._letters > MOST_LETTERS):
            gone, letters = self._ended.popitem(last=False)
            self._letters -= letters
            del self._kept[gone]


def _letters_of(message: ChatMessage) -> int:
    if isinstance(message, AssistantMessage):
        return len(message.text) + sum(len(str(call.input)) for call in message.tool_calls)
    content = message.result.content if isinstance(message, ToolMessage) else message.content
    held = 0 if isinstance(content, str) else sum(len(p.data) for p in content if not isinstance(p, Text))
    return len(text_of(content)) + held
