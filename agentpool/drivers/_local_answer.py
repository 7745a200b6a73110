"""Reading what a local model answers: the chunks of llama.cpp, and calls that stand in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from agentpool._core.errors import RequestRejectedError
from agentpool._core.messages import Completion, StreamPart, TextDelta, ToolCall
from agentpool.drivers._chat import ChatReader
from agentpool.drivers._dialect import Delta, RefusedInStreamError
from agentpool.drivers._grammar import CLOSE, OPEN
from agentpool.drivers._local_prompt import Prompt
from agentpool.drivers._reading import arguments_of, completion_of, new_call_id, tidied
from agentpool.drivers._refusals import error_of, refusal_of

_CALL = re.compile(rf"{OPEN}(?P<body>.*?)(?:{CLOSE}|(?P<open>\Z))", re.DOTALL)
_NAME = re.compile(r'\{\s*"name"\s*:\s*"(?P<name>[^"\\]+)"')


class Answer:
    """Collects an answer from the chunks of a stream."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._reader = ChatReader(prompt.question)
        self._text = _HeldText() if prompt.told_tools else None

    def read(self, chunk: Mapping[str, Any]) -> Iterator[Delta]:
        """Take the next chunk, and yield the deltas that it makes.

        Raises:
          DriverError: the one that it tells of.
        """
        try:
            deltas = self._reader.feed(chunk, "")
        except RefusedInStreamError as refused:
            raise error_of(refusal_of(refused.body, None)) from None
        yield from deltas if self._text is None else self._text.show(deltas)

    def end(self) -> Iterator[StreamPart]:
        """Yield what was held back of the text, and the whole answer.

        Raises:
          MalformedReplyError: if it has no end.
          RequestRejectedError: if it had to be a call, and is none.
        """
        whole = self._reader.completion()
        if self._text is not None:
            rest, calls = split_calls(self._text.held, is_cut=whole.stop_reason == "max_tokens")
            if rest:
                yield TextDelta(rest)
            whole = self._with_calls(whole, self._text.shown + rest, calls)
        yield whole

    def _with_calls(self, whole: Completion, text: str, calls: tuple[ToolCall, ...]) -> Completion:
        if self._prompt.forced and not calls and whole.stop_reason != "max_tokens":
            raise RequestRejectedError(
                "llama.cpp did not hold the answer to a tool call: it cannot read the schema of a tool"
            )
        question = self._prompt.question
        calls = tidied(calls, question.tool_names, question.taken_ids())
        return completion_of(
            text,
            calls,
            whole.stop_reason,
            whole.usage,
            reasoning=whole.reasoning,
            provider_data=whole.provider_data,
            response_id=whole.response_id,
            served_model=whole.served_model,
        )


@attrs.define(eq=False)
class _HeldText:
    """Text that is shown as it comes, but for what is, or may become, a call.

    Attributes:
      shown: what was shown.
      held: what was not.
    """

    shown: str = ""
    held: str = ""

    def show(self, deltas: Iterable[Delta]) -> Iterator[Delta]:
        for delta in deltas:
            if not isinstance(delta, TextDelta):
                yield delta
                continue
            self.held += delta.text
            end = _end_of_text(self.held)
            if end:
                yield TextDelta(self.held[:end])
                self.shown, self.held = self.shown + self.held[:end], self.held[end:]


def _end_of_text(text: str) -> int:
    """Return where a call begins in a text, or may begin with what comes next."""
    found = text.find(OPEN)
    if found >= 0:
        return found
    for length in range(min(len(OPEN) - 1, len(text)), 0, -1):
        if text.endswith(OPEN[:length]):
            return len(text) - length
    return len(text)


def split_calls(text: str, *, is_cut: bool) -> tuple[str, tuple[ToolCall, ...]]:
    """Return a text without the calls in it, and the calls.

    What cannot be read as a call stays text.

    Args:
      text: of an answer.
      is_cut: whether it was cut off; then a last call without an end is left out.
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
    except (ValueError, RecursionError):
        name = _NAME.match(body.strip())
        if name is None:
            return None
        value = {"name": name["name"], "arguments": body}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments, problem = arguments_of(value.get("arguments"))
    return ToolCall(new_call_id(), value["name"], arguments, problem=problem)
