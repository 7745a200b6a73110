"""Reading what a local model answers: the chunks of llama.cpp, and calls that stand in the text."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from agentpool._core.errors import (
    ContextTooLongError,
    DriverError,
    MalformedReplyError,
    OverloadedError,
    RequestRejectedError,
)
from agentpool._core.messages import (
    Completion,
    ReasoningDelta,
    StopReason,
    StreamPart,
    TextDelta,
    ToolCall,
)
from agentpool._core.usage import TokenUsage
from agentpool.drivers._grammar import CLOSE, OPEN

_STOPS: Mapping[str, StopReason] = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}
_CALL = re.compile(rf"{OPEN}(?P<body>.*?)(?:{CLOSE}|(?P<open>\Z))", re.DOTALL)
_NAME = re.compile(r'\{\s*"name"\s*:\s*(?P<name>"(?:\\.|[^"\\])+")')


def error_of(told: Mapping[str, Any]) -> DriverError:
    """Return the error of our tree for one that llama.cpp tells of."""
    text = str(told.get("message") or told)
    kind = str(told.get("type"))
    if kind == "exceed_context_size_error" or "context size has been exceeded" in text.lower():
        return ContextTooLongError(text)
    if kind == "unavailable_error":
        return OverloadedError(text)
    if kind == "server_error":
        return MalformedReplyError(text)  # mostly: its parser could not read what the model said
    return RequestRejectedError(text)


@attrs.define(eq=False)
class Answer:
    """Collects an answer from the chunks of a stream.

    Args:
      told_tools: whether calls stand in the text, in our own form.
      forced: whether it has to hold a call.
    """

    _told_tools: bool = False
    _forced: bool = False
    _text: str = attrs.field(default="", init=False)
    _shown: int = attrs.field(default=0, init=False)
    _reasoning: list[str] = attrs.field(factory=list, init=False)
    _calls: dict[int, _Fragments] = attrs.field(factory=dict, init=False)
    _stop: StopReason | None = attrs.field(default=None, init=False)
    _usage: TokenUsage = attrs.field(factory=TokenUsage, init=False)
    _id: str | None = attrs.field(default=None, init=False)

    def read(self, chunk: Mapping[str, Any]) -> Iterator[TextDelta | ReasoningDelta]:
        """Take the next chunk, and yield the deltas that it makes.

        Raises:
          DriverError: the one that it tells of.
        """
        if "error" in chunk:
            raise error_of(chunk["error"])
        self._id = chunk.get("id") or self._id
        if chunk.get("usage"):
            self._usage = _usage(chunk["usage"])
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            if delta.get("reasoning_content"):
                self._reasoning.append(delta["reasoning_content"])
                yield ReasoningDelta(delta["reasoning_content"])
            for call in delta.get("tool_calls") or ():
                self._calls.setdefault(call["index"], _Fragments()).add(call)
            self._text += delta.get("content") or ""
            yield from self._show(choice["finish_reason"] is not None)
            if choice["finish_reason"] is not None:
                self._stop = _stop(choice["finish_reason"])

    def _show(self, is_whole: bool) -> Iterator[TextDelta]:
        """Yield what has come of the text and may be shown: nothing that is, or may become, a call."""
        end = len(self._text)
        if self._told_tools:
            found = self._text.find(OPEN)
            end = found if found >= 0 else end if is_whole else _before_part_of(OPEN, self._text)
        if end > self._shown:
            yield TextDelta(self._text[self._shown : end])
            self._shown = end

    def end(self, model: str) -> Iterator[StreamPart]:
        """Yield what was held back of the text, and the whole answer.

        Args:
          model: the name of the model that gave it.

        Raises:
          MalformedReplyError: if it has no end.
          RequestRejectedError: if it had to be a call, and is none.
        """
        if self._stop is None:
            raise MalformedReplyError("the answer ended without its finish marker")
        is_cut = self._stop == "max_tokens"
        text, calls = self._text, tuple(_calls_of(self._calls.values(), is_cut))
        if self._told_tools:
            rest, calls = _split(text[self._shown :], is_cut)
            text = text[: self._shown] + rest
            if rest:
                yield TextDelta(rest)
        if self._forced and not calls and not is_cut:
            raise RequestRejectedError(
                "llama.cpp did not hold the answer to a tool call: it cannot read the schema of a tool"
            )
        stop = self._stop
        if not is_cut:
            stop = "tool_use" if calls else "end_turn"
        yield Completion(
            text=text,
            tool_calls=calls,
            stop_reason=stop,
            usage=self._usage,
            reasoning="".join(self._reasoning),
            response_id=self._id,
            served_model=model,
        )


@attrs.define(eq=False)
class _Fragments:
    id: str = ""
    name: str = ""
    arguments: str = ""

    def add(self, call: Mapping[str, Any]) -> None:
        function = call.get("function") or {}
        self.id = self.id or call.get("id") or ""
        self.name = self.name or function.get("name") or ""
        self.arguments += function.get("arguments") or ""


def _stop(word: str) -> StopReason:
    try:
        return _STOPS[word]
    except KeyError:
        raise MalformedReplyError(f"llama.cpp ended the answer with the unknown word {word!r}") from None


def _usage(told: Mapping[str, Any]) -> TokenUsage:
    details = told.get("prompt_tokens_details") or {}
    return TokenUsage(
        input_tokens=told.get("prompt_tokens") or 0,
        output_tokens=told.get("completion_tokens") or 0,
        cache_read_tokens=details.get("cached_tokens") or 0,
    )


# -- calls


def _calls_of(fragments: Iterable[_Fragments], is_cut: bool) -> Iterator[ToolCall]:
    """Yield the calls that llama.cpp read; the last one not, if the answer was cut off within it."""
    whole = list(fragments)
    for call in whole:
        arguments, problem = _arguments(call.arguments)
        if problem and is_cut and call is whole[-1]:
            return
        yield ToolCall(call.id or _new_id(), call.name, arguments, problem=problem)


def _split(text: str, is_cut: bool) -> tuple[str, tuple[ToolCall, ...]]:
    """Return a text without the calls in it, and the calls.

    What cannot be read as a call stays text. A last call that was cut off is left out.
    """
    rest: list[str] = []
    calls: list[ToolCall] = []
    end = 0
    for found in _CALL.finditer(text):
        rest.append(text[end : found.start()])
        end = found.end()
        if found["open"] is not None and is_cut:
            break
        call = _call_in(found["body"])
        if call is None:
            rest.append(found[0])
        else:
            calls.append(call)
    rest.append(text[end:])
    return "".join(piece for piece in rest if piece.strip()), tuple(calls)


def _call_in(body: str) -> ToolCall | None:
    try:
        value = json.loads(body)
    except ValueError as error:
        name = _NAME.match(body.strip())
        return name and ToolCall(_new_id(), json.loads(name["name"]), problem=f"the call is no JSON: {error}")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    if isinstance(arguments, dict):
        return ToolCall(_new_id(), value["name"], arguments)
    return ToolCall(_new_id(), value["name"], problem="the arguments are no JSON object")


def _arguments(text: str) -> tuple[Mapping[str, Any], str]:
    """Return the arguments of a call, and what is wrong with them."""
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        return {}, f"the arguments are no JSON: {error}"
    return (value, "") if isinstance(value, dict) else ({}, "the arguments are no JSON object")


def _before_part_of(word: str, text: str) -> int:
    """Return where the longest beginning of `word` starts that `text` ends with; else its length."""
    for length in range(min(len(word) - 1, len(text)), 0, -1):
        if text.endswith(word[:length]):
            return len(text) - length
    return len(text)


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:20]}"
