"""The normaliser: a conversation, made fit for one provider.

A transcript can always be sent again, to any provider. Ids are unique and of the form that the
provider takes, names are clean, what was said in a row by one side is together, and data of other
providers stays behind.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from agentpool._core.content import Content, Text, parts_of
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    CompletionRequest,
    ProviderData,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from agentpool._core.transcript import UNKNOWN_RESULT
from agentpool.drivers._learning import NO_LESSONS, Lessons

_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def clean_name(name: str) -> str:
    """Return a tool's name as every provider takes it in a history."""
    return _NO_NAME.sub("_", name)[:64] or "unknown"


@attrs.frozen
class IdForm:
    """What ids of calls look like for a provider.

    Attributes:
      pattern: what an id has to match as a whole.
      make: an id from a number; must match the pattern.
    """

    pattern: re.Pattern[str]
    template: str

    def make(self, number: int) -> str:
        """Return the id of this number."""
        return self.template.format(number)


LOOSE_IDS = IdForm(re.compile(r"[a-zA-Z0-9_.:-]{1,64}"), "call_{}")
STRICT_IDS = IdForm(re.compile(r"[a-zA-Z0-9_-]{1,64}"), "call_{}")
SHORT_IDS = IdForm(re.compile(r"[a-zA-Z0-9]{9}"), "c{:08d}")


@attrs.frozen
class Turn:
    """What one side said in a row.

    Attributes:
      said: content of the user, in order; or None for the model's turn.
      message: what the model said, for its turn.
      calls: its calls with fit ids and names.
      parts: what the model said one after another, where `message` is all of it; the calls are the last
        one's. Empty if it spoke once.
      results: results of the calls before, with fit ids, which come before `said`.
    """

    said: tuple[Content, ...] = ()
    results: tuple[ToolMessage, ...] = ()
    message: AssistantMessage | None = None
    calls: tuple[ToolCall, ...] = ()
    parts: tuple[AssistantMessage, ...] = ()


@attrs.frozen
class Question:
    """A request on its way to a provider.

    Attributes:
      request: what is asked.
      model: the model's name as the provider knows it.
      lessons: what was learned of the model.
      own: names of parameters that the user gave by hand.
    """

    request: CompletionRequest
    model: str
    lessons: Lessons = NO_LESSONS
    own: frozenset[str] = frozenset()

    def turns(self, ids: IdForm) -> list[Turn]:
        """Return the conversation, what one side said in a row together.

        Args:
          ids: the form of the ids of calls.
        """
        renaming = _Renaming(ids, self.safe_names)
        return list(_in_one(_turns(self.request.messages, renaming, self.model)))

    def own_data(self, data: ProviderData | None, provider: str) -> Any:
        """Return what a provider hung on a message, if it was this one and this model; else None."""
        if data is None or data.provider != provider or data.model != self.model:
            return None
        return data.data

    def taken_ids(self) -> set[str]:
        """Return the ids of all calls of the conversation."""
        messages = self.request.messages
        return {
            call.id
            for message in messages
            if isinstance(message, AssistantMessage)
            for call in message.tool_calls
        }

    @functools.cached_property
    def safe_names(self) -> Mapping[str, str]:
        """Names of tools that providers refuse, with the whole request, and what they are called there."""
        given = [tool.name for tool in self.request.tools]
        taken, safe = set(given), dict[str, str]()
        for name in given:
            if not _NAME.fullmatch(name):
                clean = short = clean_name(name)
                number = 1
                while clean in taken:
                    number += 1
                    clean = f"{short[:60]}_{number}"
                taken.add(clean)
                safe[name] = clean
        return safe

    def name_of(self, tool: str) -> str:
        """Return what a tool is called at the provider."""
        return self.safe_names.get(tool, tool)

    @property
    def tool_names(self) -> Mapping[str, str]:
        """The names of the tools that are offered, by the names that a model may call them."""
        own = {tool.name: tool.name for tool in self.request.tools}
        return own | {safe: name for name, safe in self.safe_names.items()}


def _turns(messages: Iterable[ChatMessage], renaming: _Renaming, model: str) -> Iterator[Turn]:
    """Give the turns of a conversation, in which each call has one result, as all providers demand.

    A call without one gets one that says so, and a result that nobody asked for is told as text.
    """
    said: list[Content] = []
    results: list[ToolMessage] = []
    for message in messages:
        match message:
            case UserMessage():
                said.append(message.content)
            case ToolMessage():
                result = renaming.result(message)
                if result is None:
                    said.append(_told(message))
                else:
                    results.append(result)
            case AssistantMessage():
                data = message.provider_data  # alone it says something to its own model only
                if not (message.text or message.tool_calls or (data is not None and data.model == model)):
                    continue  # nothing was said: what is around it is said in a row
                results += renaming.missing()
                if said or results:
                    yield Turn(tuple(said), tuple(results))
                    said, results = [], []
                yield Turn(message=message, calls=renaming.calls(message.tool_calls))
    results += renaming.missing()
    if said or results:
        yield Turn(tuple(said), tuple(results))


def _told(message: ToolMessage) -> Content:
    head = f"A result of {message.name}: "
    content = message.result.content
    return head + content if isinstance(content, str) else (Text(head), *content)


def _in_one(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Join what the model said in two turns in a row, as an answer that went on after a pause.

    What only the provider understands belongs to one message: of all of it the later one's is kept.
    """
    waiting: Turn | None = None
    for turn in turns:
        first, second = None if waiting is None else waiting.message, turn.message
        if first is not None and second is not None and waiting is not None and not waiting.calls:
            text = "\n\n".join(text for text in (first.text, second.text) if text)
            data = second.provider_data or first.provider_data
            message = attrs.evolve(second, text=text, provider_data=data)
            waiting = attrs.evolve(turn, message=message, parts=(*(waiting.parts or (first,)), second))
            continue
        if waiting is not None:
            yield waiting
        waiting = turn
    if waiting is not None:
        yield waiting


class _Renaming:
    """Gives each call of a conversation an id that is fit and its own; its result gets the same."""

    def __init__(self, ids: IdForm, names: Mapping[str, str]) -> None:
        self._ids = ids
        self._names = names
        self._used: set[str] = set()
        self._waiting: dict[str, list[ToolCall]] = {}
        self._number = 0

    def calls(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        self._waiting = {}
        return tuple(map(self._call, calls))

    def _call(self, call: ToolCall) -> ToolCall:
        self._number += 1
        id, name = call.id, self._name(call.name)
        if id in self._used or not self._ids.pattern.fullmatch(id):
            number = self._number
            while (id := self._ids.make(number)) in self._used:
                number += 10_000
        self._used.add(id)
        fit = call if id == call.id and name == call.name else attrs.evolve(call, id=id, name=name)
        self._waiting.setdefault(call.id, []).append(fit)
        return fit

    def _name(self, name: str) -> str:
        return self._names.get(name) or clean_name(name)

    def result(self, message: ToolMessage) -> ToolMessage | None:
        """Return a result with the id and the name of its call; None if there is no such call."""
        waiting = self._waiting.get(message.call_id)
        if not waiting:
            return None
        call = waiting.pop(0)
        if call.id == message.call_id and call.name == message.name:
            return message
        return ToolMessage(call.id, call.name, message.result)

    def missing(self) -> list[ToolMessage]:
        """Return a result for each of the latest calls that has none."""
        calls = [call for waiting in self._waiting.values() for call in waiting]
        self._waiting = {}
        return [ToolMessage(call.id, call.name, UNKNOWN_RESULT) for call in calls]


# -- content ------------------------------------------------------------------------------


def joined(contents: Sequence[Content]) -> Content:
    """Return what was said in a row as one content: a text if all of it is text, else parts."""
    if len(contents) == 1:
        return contents[0]
    if all(isinstance(content, str) for content in contents):
        return "\n\n".join(content for content in contents if isinstance(content, str) and content)
    return tuple(part for content in contents for part in parts_of(content))


def is_text(content: Content) -> bool:
    """Whether content is nothing but text."""
    return isinstance(content, str) or all(isinstance(part, Text) for part in content)


def told_result(content: str, is_error: bool) -> str:
    """Return the text of a result, for providers that have no mark for errors."""
    return f"Error: {content}" if is_error else content


# -- schemas -------------------------------------------------------------------------------


def schema_instruction(system: str, schema: Mapping[str, Any]) -> str:
    """Return a system prompt that asks for JSON of a schema, for models that take no schema.

    A prompt that says so already stays as it is.
    """
    text = json.dumps(schema, ensure_ascii=False)
    if text in system:
        return system
    asked = f"Give your answer as JSON that fits this schema, without other text:\n{text}"
    return f"{system}\n\n{asked}" if system else asked
