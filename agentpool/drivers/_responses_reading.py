"""Reading OpenAI's responses: from their items, at once or streamed, to a completion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentpool._core.errors import MalformedReplyError
from agentpool._core.messages import Completion, ProviderData, ReasoningDelta, StopReason, TextDelta
from agentpool.drivers import _reading as reading
from agentpool.drivers._chat import usage_of
from agentpool.drivers._dialect import Delta, RefusedInStreamError
from agentpool.drivers._fitting import Question

PROVIDER = "openai-responses"

_PLAIN = ("message", "function_call")
_INCOMPLETE: Mapping[str, StopReason] = {
    "max_output_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "content_filter": "refusal",
}


def read_response(
    response: Mapping[str, Any], question: Question, streamed: list[Mapping[str, Any]] | None = None
) -> Completion:
    """Read a response.

    Args:
      response: the response.
      question: what was asked.
      streamed: its items as they were streamed, which count if the response itself holds none.

    Raises:
      RefusedInStreamError: if it failed.
      MalformedReplyError: if it is not whole.
    """
    if response.get("error"):
        raise RefusedInStreamError(response)
    if response.get("status") == "failed":
        raise RefusedInStreamError({"message": "the response failed, and does not say why"})
    items = [reading.mapping_of(item) for item in reading.items_of(response.get("output"))]
    items = items or streamed or []
    stop = _stop(response)
    calls = reading.CallAssembler()
    texts: list[str] = []
    thoughts: list[str] = []
    for index, item in enumerate(items):
        match item.get("type"):
            case "message":
                text, refused = _message(item)
                texts.append(text)
                stop = "refusal" if refused else stop
            case "function_call":
                calls.add(
                    index,
                    id=reading.words(item.get("call_id") or item.get("id")),
                    name=reading.words(item.get("name")),
                    arguments=item.get("arguments"),
                )
            case "reasoning":
                thoughts.append(_thought(item))
            case _:
                pass
    whole = calls.calls(PROVIDER, question.model, truncated=stop in ("max_tokens", "refusal"))
    whole = reading.tidied(whole, question.tool_names, question.taken_ids()) if whole else ()
    return reading.completion_of(
        "".join(texts),
        whole,
        stop,
        usage_of(reading.mapping_of(response.get("usage"))),
        reasoning="\n\n".join(thought for thought in thoughts if thought),
        provider_data=_kept(items, question),
        response_id=reading.words(response.get("id")) or None,
        served_model=reading.words(response.get("model")) or None,
    )


def _stop(response: Mapping[str, Any]) -> StopReason:
    status = response.get("status")
    if status == "completed":
        return "end_turn"
    if status == "incomplete":
        reason = reading.mapping_of(response.get("incomplete_details")).get("reason")
        # Without a reason it was cut, by whatever: a model goes on from there.
        stop = _INCOMPLETE.get("max_tokens" if reason is None else str(reason))
        if stop is not None:
            return stop
        raise MalformedReplyError(f"the response is incomplete: {reason!r}")
    raise MalformedReplyError(
        f"the response has no finish marker: its status is {status!r}: {reading.shown(str(dict(response)))}"
    )


def _message(item: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the text of a message, and whether it is a refusal."""
    content = item.get("content")
    if isinstance(content, str):
        return content, False
    texts: list[str] = []
    refused = False
    for part in map(reading.mapping_of, reading.items_of(content)):
        if part.get("type") == "refusal" or part.get("refusal"):
            refused = True
            texts.append(reading.words(part.get("refusal")))
        else:
            texts.append(reading.words(part.get("text")))
    return "".join(texts), refused


def _thought(item: Mapping[str, Any]) -> str:
    for name in ("summary", "content"):
        parts = [reading.mapping_of(part) for part in reading.items_of(item.get(name))]
        text = "\n\n".join(reading.words(part.get("text")) for part in parts)
        if text:
            return text
    return ""


def _kept(items: list[Mapping[str, Any]], question: Question) -> ProviderData | None:
    """Return all items in their order, if some are more than text and calls.

    Thoughts that nobody can read again without the provider's store are left out, and of calls
    only the place is kept: the message has them.
    """
    kept: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type")
        if kind == "function_call":
            kept.append({"type": kind})
        elif kind != "reasoning" or item.get("encrypted_content"):
            kept.append({name: value for name, value in item.items() if value is not None})
    if all(item.get("type") in _PLAIN for item in kept):
        return None
    return ProviderData(PROVIDER, question.model, kept)


_SAID = ("response.output_text.delta", "response.refusal.delta")
_THOUGHT = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
_ENDS = ("response.completed", "response.incomplete", "response.failed", "response.done")


class ResponsesReader:
    """Reads the events of a streamed response."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._items: list[Mapping[str, Any]] = []
        self._final: Mapping[str, Any] | None = None
        self.is_done = False

    def feed(self, data: Any, name: str) -> Iterable[Delta]:
        """Take one event."""
        if not isinstance(data, dict):
            raise MalformedReplyError(f"an event of the stream is no object: {reading.shown(str(data))}")
        kind = data.get("type") or name
        if kind == "error" or data.get("error"):
            raise RefusedInStreamError(data)
        if kind in _SAID:
            text = reading.words(data.get("delta"))
            return (TextDelta(text),) if text else ()
        if kind in _THOUGHT:
            text = reading.words(data.get("delta"))
            return (ReasoningDelta(text),) if text else ()
        if kind == "response.output_item.done":
            self._items.append(reading.mapping_of(data.get("item")))
        elif kind in _ENDS:
            self._final = reading.mapping_of(data.get("response"))
            self.is_done = True
        return ()

    def completion(self) -> Completion:
        """Return the whole answer."""
        if self._final is None:
            raise MalformedReplyError("the stream ended without its finish marker (response.completed)")
        return read_response(self._final, self._question, self._items)
