"""The conversation of an agent, and how many tokens it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn, SupportsIndex, overload

from agentpool._core.content import Content, Image, Part, Text
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    CompletionRequest,
    ToolCall,
    ToolDefinition,
    ToolMessage,
    ToolResult,
    UserMessage,
)

UNKNOWN_RESULT = ToolResult(
    "The result of this call is unknown: the agent was interrupted while it ran.", is_error=True
)
"""What a call gets that a history holds without its result."""

MESSAGE_OVERHEAD = 4
"""Tokens that a message costs beside its text: its role and its delimiters."""

IMAGE_TOKENS = 1600
"""Tokens that a picture is taken for: what the big providers count for one of about a megapixel."""

BYTES_PER_DOCUMENT_TOKEN = 40
"""A page of a PDF has some 60 KB and costs 1,500 tokens or more."""


class Transcript(Sequence[ChatMessage]):
    """An immutable sequence of messages that grows by sharing.

    `extended` returns a new transcript and leaves the old one as it was. Both share one list, so
    that a turn costs the same however long the conversation is; only a second, different
    continuation of the same transcript copies it.

    It equals every transcript and tuple with the same messages.
    """

    __slots__ = ("_length", "_log")

    # Invariants: _length <= len(_log); nothing below _length ever changes.
    _log: list[ChatMessage]
    _length: int

    def __init__(self, messages: Iterable[ChatMessage] = ()) -> None:
        self._log = list(messages)
        self._length = len(self._log)

    def extended(self, messages: Iterable[ChatMessage]) -> Transcript:
        """Return a transcript that goes on with `messages`."""
        is_tip = len(self._log) == self._length
        log = self._log if is_tip else self._log[: self._length]
        log.extend(messages)
        longer = Transcript.__new__(Transcript)
        longer._log = log
        longer._length = len(log)
        return longer

    def goes_on_with(self, earlier: Transcript) -> bool:
        """Whether this was made by extending `earlier`, or is the same; it costs the same for any length."""
        return self._log is earlier._log and self._length >= earlier._length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: SupportsIndex) -> ChatMessage: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ChatMessage, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> ChatMessage | tuple[ChatMessage, ...]:
        if isinstance(index, slice):
            return tuple(self._log[i] for i in range(*index.indices(self._length)))
        position = index.__index__()
        if position < 0:
            position += self._length
        if not 0 <= position < self._length:
            raise IndexError(f"a transcript of {self._length} messages has no message {index}")
        return self._log[position]

    def __iter__(self) -> Iterator[ChatMessage]:
        # Not by iterating over the list: it may have grown beyond this transcript.
        return map(self._log.__getitem__, range(self._length))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Transcript | tuple):
            return len(self) == len(other) and all(
                mine == theirs for mine, theirs in zip(self, other, strict=True)
            )
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Transcript({list(self)!r})"

    def __copy__(self) -> Transcript:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Transcript:
        return self

    def __reduce__(self) -> tuple[type[Transcript], tuple[tuple[ChatMessage, ...]]]:
        return Transcript, (tuple(self),)


# -- the estimate --------------------------------------------------------------


def text_tokens(text: str) -> int:
    """Estimate how many tokens a text has: a token for each 4 bytes of its UTF-8, rounded up.

    That is close for English, generous for other languages, and low for digits and dense code.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return (size + 3) // 4


def content_tokens(content: Content) -> int:
    """Estimate how many tokens content has: its texts, and what its pictures and documents may cost."""
    if isinstance(content, str):
        return text_tokens(content)
    return sum(map(_part_tokens, content))


def _part_tokens(part: Part) -> int:
    if isinstance(part, Text):
        return text_tokens(part.text)
    if isinstance(part, Image):
        return IMAGE_TOKENS
    if part.media_type.startswith("text/"):
        return (len(part.data) + 3) // 4
    return max(IMAGE_TOKENS, len(part.data) // BYTES_PER_DOCUMENT_TOKEN)


def message_tokens(message: ChatMessage) -> int:
    """Estimate how many tokens a message has: its texts, its calls' arguments, and an overhead of 4."""
    if isinstance(message, ToolMessage):
        return MESSAGE_OVERHEAD + content_tokens(message.result.content)
    if isinstance(message, UserMessage):
        return MESSAGE_OVERHEAD + content_tokens(message.content)
    tokens = MESSAGE_OVERHEAD
    if message.reasoning:
        tokens += text_tokens(message.reasoning)
    if message.text:  # mostly there is none beside the calls
        tokens += text_tokens(message.text)
    for call in message.tool_calls:
        tokens += MESSAGE_OVERHEAD + text_tokens(call.name) + text_tokens(repr(call.input))
    return tokens


def messages_tokens(messages: Iterable[ChatMessage]) -> int:
    """Estimate how many tokens the messages have together."""
    return sum(map(message_tokens, messages))


def frame_tokens(system: str, tools: Iterable[ToolDefinition]) -> int:
    """Estimate what a request costs beside its messages: the system prompt and the tools."""
    tokens = MESSAGE_OVERHEAD + text_tokens(system)
    for tool in tools:
        tokens += MESSAGE_OVERHEAD + text_tokens(tool.name) + text_tokens(tool.description)
        tokens += text_tokens(tool.schema_text)
    return tokens


def request_tokens(request: CompletionRequest) -> int:
    """Estimate how many tokens a whole request has, without its answer."""
    return frame_tokens(request.system, request.tools) + messages_tokens(request.messages)


# -- a conversation from before ------------------------------------------------


def checked_history(history: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """Return an earlier transcript, if a model can go on with it.

    Raises:
      TypeError: if it is no sequence of messages.
      ValueError: if a tool call in it has no result directly after it, or a result has no call.
    """
    if isinstance(history, str | bytes) or not isinstance(history, Sequence):
        fix = "; pass its transcript" if hasattr(history, "transcript") else ""
        raise TypeError(f"history must be a transcript, a sequence of messages, not {history!r}{fix}")
    waiting: list[tuple[int, ToolCall]] = []
    for index, message in enumerate(history):
        match message:
            case ToolMessage(call_id=call_id):
                answered = next((entry for entry in waiting if entry[1].id == call_id), None)
                if answered is None:
                    raise ValueError(
                        f"history[{index}] is a result for call {call_id!r} of {message.name!r}, but no such"
                        " call waits before it; pass the messages of a transcript in their order"
                    )
                waiting.remove(answered)
            case UserMessage() | AssistantMessage():
                _check_answered(waiting)
                calls = message.tool_calls if isinstance(message, AssistantMessage) else ()
                waiting = [(index, call) for call in calls]
            case _:
                raise TypeError(
                    f"history[{index}] must be a UserMessage, an AssistantMessage or a ToolMessage,"
                    f" not {message!r}"
                )
    _check_answered(waiting)
    return tuple(history)


def _check_answered(waiting: Sequence[tuple[int, ToolCall]]) -> None:
    for index, call in waiting:
        raise ValueError(
            f"history[{index}] makes call {call.id!r} of {call.name!r}, but no result follows it;"
            " pass a transcript with the results of all its calls"
        )


def repaired(history: Iterable[ChatMessage]) -> list[ChatMessage]:
    """Return a conversation in which every tool call has its result, each directly after its call.

    A call without a result gets one that says that its result is unknown; what an interrupted
    agent left behind has such calls.

    Raises:
      ValueError: if a result belongs to no call before it.
    """
    whole: list[ChatMessage] = []
    waiting: list[ToolMessage] = []
    for message in history:
        if isinstance(message, ToolMessage):
            waiting = _without_call(message, waiting)
        else:
            whole.extend(waiting)
            waiting = []
        whole.append(message)
        if isinstance(message, AssistantMessage):
            waiting = [ToolMessage(call.id, call.name, UNKNOWN_RESULT) for call in message.tool_calls]
    return whole + waiting


def _without_call(result: ToolMessage, waiting: list[ToolMessage]) -> list[ToolMessage]:
    for index, call in enumerate(waiting):
        if call.call_id == result.call_id:
            return waiting[:index] + waiting[index + 1 :]
    _refuse(result)


def _refuse(result: ToolMessage) -> NoReturn:
    raise ValueError(
        f"the history holds a result for call {result.call_id!r} of {result.name!r}, but no such call waits"
        " before it; pass the messages of a transcript in their order"
    )
