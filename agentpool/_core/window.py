"""The part of a conversation that the model is shown, and how it gets shorter when it is full."""

from __future__ import annotations

from collections.abc import Sequence

from agentpool._core.messages import AssistantMessage, ChatMessage, ToolMessage, UserMessage
from agentpool._core.perceiving import harmless
from agentpool._core.pins import Pins
from agentpool._core.transcript import Transcript, message_tokens, messages_tokens
from agentpool._core.value import value

LEFT_OUT = "[Later messages were left out here, and nobody summed them up.]"


@value
class Cut:
    """The oldest turns of a window, which are to be summed up.

    Attributes:
      stop: the index of the first message after them.
      tokens: how many tokens go with them.
      target: how many tokens the window is to have without them, at the most.
    """

    stop: int
    tokens: int
    target: int


@value
class Window:
    """The messages that the model is shown, with their estimate kept up to date.

    Attributes:
      messages: what is shown.
      tokens: `messages_tokens(messages)`.
      query: the index of the agent's query, which is never dropped.
      pins: what the model pinned; None for an agent that cannot pin, and whose turns are just dropped.
    """

    messages: Transcript
    tokens: int
    query: int
    pins: Pins | None = None

    def trimmed(self, target: int) -> Window:
        """Drop the oldest whole turns until the estimate is at most `target`, or nothing more may go.

        A turn is what was said to the model, its answer, and the results of the answer's calls, so
        that a call and its result go together. The query, the last thing that was said to the
        model, the last summary and the newest turn stay, whatever their size; and what is left begins
        with something that was said to the model, as providers demand.

        A model that can pin is shown its pins in the place of what was dropped, and told about it.
        """
        kept = _Kept(self)
        for start, stop in _turns(self.messages)[:-1]:
            if kept.tokens <= target and (self.pins is not None or kept.begins_with_user(start)):
                break
            kept.drop(start, stop)
        if kept.count == len(self.messages):
            return self
        if self.pins is None:
            return kept.window()
        before = kept.summary
        if before.endswith(LEFT_OUT):
            return kept.headed(before)
        return kept.headed(f"{before}\n\n{LEFT_OUT}".lstrip())

    def cut(self, target: int, most: int | None) -> Cut | None:
        """Return the oldest whole turns that are to go so that at most `target` tokens are left.

        Args:
          target: how many tokens may be left.
          most: how many tokens of them can be read at once, if there is a bound; at least one turn goes.
        """
        kept, stop, read = _Kept(self), 0, 0
        for start, end in _turns(self.messages)[:-1]:
            read += messages_tokens(self.messages[start:end])
            if kept.tokens <= target or (stop and most is not None and read > most):
                break
            kept.drop(start, end)
            stop = end
        return Cut(stop, self.tokens - kept.tokens, target) if kept.count < len(self.messages) else None

    def summed_up(self, stop: int, summary: str) -> Window:
        """Return the window with a summary in the place of the messages before `stop`."""
        kept = _Kept(self)
        kept.drop(0, stop)
        return kept.headed(summary)


def summary_message(summary: str, pins: Pins | None, kept: int = 0) -> UserMessage:
    """Return what the model is shown in the place of what its window has no room for.

        <summary>
        what happened
        </summary>
        <pinned>
        1. a fact
        </pinned>

    Args:
      summary: what happened.
      pins: what stays word for word.
      kept: see `UserMessage.kept`.
    """
    content = f"<summary>\n{harmless(summary)}\n</summary>"
    facts = "" if pins is None else pins.shown()
    return UserMessage(f"{content}\n{facts}" if facts else content, "summary", summary, kept)


def is_summary(message: ChatMessage) -> bool:
    """Whether a message stands for others that came before it."""
    return isinstance(message, UserMessage) and message.kind == "summary"


def opening(history: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return what of an earlier conversation is shown: its last summary, and what that leaves out."""
    last = _last_summary(history)
    if last is None:
        return list(history)
    summary = history[last]
    assert isinstance(summary, UserMessage)
    before = [message for message in history[:last] if not is_summary(message)]
    start = min(len(before), max(0, len(before) - summary.kept))
    while start < len(before) and start and isinstance(before[start], ToolMessage):
        start -= 1  # whoever changed the history did not count: a result does not come without its call
    return [summary, *before[start:], *history[last + 1 :]]


def _last_summary(messages: Sequence[ChatMessage]) -> int | None:
    return next((i for i in range(len(messages) - 1, -1, -1) if is_summary(messages[i])), None)


class _Kept:
    """Which messages of a window stay: those from `_stop` on, and the pinned ones before it."""

    def __init__(self, window: Window) -> None:
        messages = list(window.messages)
        self._messages, self._query, self._pins = messages, window.query, window.pins
        summary = _last_summary(messages)
        self.summary = "" if summary is None else _body(messages[summary])
        spoken = (
            i for i, each in enumerate(messages) if isinstance(each, UserMessage) and each.kind != "summary"
        )
        self._pinned = {window.query, max(spoken)}
        if summary is not None and window.pins is None:
            self._pinned.add(summary)
        self._before: list[int] = []
        self._stop = 0
        self.tokens = window.tokens
        self.count = len(messages)

    def begins_with_user(self, start: int) -> bool:
        return bool(self._before) or isinstance(self._messages[start], UserMessage)

    def drop(self, start: int, stop: int) -> None:
        for index in range(start, stop):
            if index in self._pinned:
                self._before.append(index)
            else:
                self.tokens -= message_tokens(self._messages[index])
                self.count -= 1
        self._stop = stop

    def window(self) -> Window:
        indices = [*self._before, *range(self._stop, len(self._messages))]
        messages = Transcript(self._messages[index] for index in indices)
        return Window(messages, self.tokens, indices.index(self._query), self._pins)

    def headed(self, summary: str) -> Window:
        """Return the window with a summary, and the pins, before the messages from `_stop` on."""
        rest = self._messages[self._stop :]
        head = summary_message(summary, self._pins, len(rest))
        before = [self._messages[index] for index in self._before]
        tokens = self.tokens + message_tokens(head)
        is_before = self._query in self._before
        query = self._before.index(self._query) if is_before else self._query - self._stop + len(before) + 1
        return Window(Transcript([*before, head, *rest]), tokens, query, self._pins)


def _body(message: ChatMessage) -> str:
    assert isinstance(message, UserMessage)
    return message.body


def _turns(messages: Sequence[ChatMessage]) -> list[tuple[int, int]]:
    """Cut a conversation into turns, as pairs of start and stop.

    A turn starts where the model is spoken to after it had spoken, and where it speaks once more
    after its calls' results.
    """
    starts = [0]
    for index in range(1, len(messages)):
        message, previous = messages[index], messages[index - 1]
        if isinstance(message, ToolMessage):
            continue
        if isinstance(message, AssistantMessage) and isinstance(previous, UserMessage):
            continue
        if isinstance(message, UserMessage) and isinstance(previous, UserMessage):
            continue
        starts.append(index)
    return list(zip(starts, [*starts[1:], len(messages)], strict=True))
