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
    response: Mapping[str, Any], question: Question, streamed: Streamed | None = None
) -> Completion:
    """Read a response.

    Args:
      response: the response.
      question: what was asked.
      streamed: what was streamed of it, which counts where the response itself holds nothing.

    Raises:
      RefusedInStreamError: if it failed.
      MalformedReplyError: if it is not whole.
    """
    if response.get("error"):
        raise RefusedInStreamError(response)
    if response.get("status") == "failed":
        raise RefusedInStreamError({"message": "the response failed, and does not say why"})
    items = [reading.mapping_of(item) for item in reading.items_of(response.get("output"))]
    if streamed is not None:
        items = streamed.completed(items)
    stop = _stop(response)
    calls = reading.CallAssembler()
    texts: list[str] = []
    thoughts: list[str] = []
    for index, item in enumerate(items):
        match item.get("type"):
            case "message":
                text, refused = text_of_item(item)
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


def text_of_item(item: Mapping[str, Any]) -> tuple[str, bool]:
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

    Thoughts that nobody can read again without the provider's store are left out, and so are
    thoughts that nothing follows, which the API does not take; of calls only the place is kept: the
    message has them.
    """
    kept: list[dict[str, Any]] = []
    for item in items:
        kind = reading.words(item.get("type"))
        if not kind:
            continue
        if kind == "function_call":
            kept.append({"type": kind})
        elif kind != "reasoning":
            kept.append(_without_nulls(item))
        elif item.get("encrypted_content") or item.get("content"):
            kept.append({"summary": [], **_without_nulls(item)})  # has to be there, also if empty
    while kept and kept[-1].get("type") == "reasoning":
        kept.pop()
    # A message that says in which phase it was said has to say so again.
    if all(item.get("type") in _PLAIN and not item.get("phase") for item in kept):
        return None
    return ProviderData(PROVIDER, question.model, kept)


def _without_nulls(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if value is not None}


class Streamed:
    """What was streamed of a response, for servers whose last event holds less than that."""

    def __init__(self) -> None:
        self._items: dict[int, dict[str, Any]] = {}
        self._ended: set[int] = set()
        self._arguments: dict[object, str] = {}
        self._said: dict[str, str] = {}

    def begin(self, data: Mapping[str, Any]) -> None:
        """Take an item that begins; without its number nobody could tell when it ends."""
        if isinstance(data.get("output_index"), int):
            self._items[data["output_index"]] = dict(reading.mapping_of(data.get("item")))

    def end(self, data: Mapping[str, Any]) -> None:
        """Take an item that is whole."""
        number = data.get("output_index")
        index = number if isinstance(number, int) else max(self._items, default=-1) + 1
        self._items[index] = dict(reading.mapping_of(data.get("item")))
        self._ended.add(index)

    def say(self, kind: str, text: str) -> None:
        """Take a piece of text, or of a refusal."""
        self._said[kind] = self._said.get(kind, "") + text

    def argue(self, data: Mapping[str, Any], piece: str) -> None:
        """Take a piece of a call's arguments."""
        for key in _keys(data):
            self._arguments[key] = self._arguments.get(key, "") + piece

    def argued(self, data: Mapping[str, Any], arguments: str) -> None:
        """Take a call's arguments as a whole."""
        for key in _keys(data) if arguments else ():
            self._arguments[key] = arguments

    def completed(self, items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the items of a response, with what only was streamed put in."""
        found: list[dict[str, Any]] = [dict(item) for item in items]
        if found:
            found = [*self._missing("reasoning", found), *found, *self._missing("function_call", found)]
        numbered = dict(enumerate(found)) or dict(sorted(self._items.items()))
        for number, item in numbered.items():
            if item.get("type") == "function_call" and not item.get("arguments"):
                item["arguments"] = self._arguments.get(reading.words(item.get("id"))) or self._arguments.get(
                    number
                )
        whole: list[Mapping[str, Any]] = list(numbered.values())
        if self._said and not any(text_of_item(item)[0] for item in whole if item.get("type") == "message"):
            place = next((at for at, item in enumerate(whole) if item.get("type") in _PLAIN), len(whole))
            parts = [
                {"type": "refusal", "refusal": text}
                if kind in _REFUSED
                else {"type": "output_text", "text": text}
                for kind, text in self._said.items()
            ]
            whole.insert(place, {"type": "message", "role": "assistant", "content": parts})
        return whole

    def _missing(self, kind: str, found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the items of a kind that were streamed to their end, if a response holds none of it."""
        if any(item.get("type") == kind for item in found):
            return []
        ended = (self._items[index] for index in sorted(self._ended))
        return [item for item in ended if item.get("type") == kind]


def _keys(data: Mapping[str, Any]) -> list[object]:
    """Return by what an event says to which item it belongs."""
    return [data[name] for name in ("item_id", "output_index") if isinstance(data.get(name), str | int)]


_REFUSED = ("response.refusal.delta",)
_SAID = ("response.output_text.delta", *_REFUSED)
_SAID_AT_ONCE = ("response.output_text.done", "response.refusal.done")
_THOUGHT = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
_ENDS = ("response.completed", "response.incomplete", "response.failed", "response.done")
_UNENDED = (None, "in_progress", "queued")


class ResponsesReader:
    """Reads the events of a streamed response."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._streamed = Streamed()
        self._final: Mapping[str, Any] | None = None
        self._is_saying = False  # whether a part of a text has come in pieces that has not ended
        self._thoughts: dict[str, str] = {}  # in which kind of event an item's thoughts come
        self._thought: tuple[object, ...] | None = None  # to what the last piece of one belonged
        self.is_done = False

    def feed(self, data: Any, name: str) -> Iterable[Delta]:
        """Take one event."""
        if not isinstance(data, dict):
            raise MalformedReplyError(f"an event of the stream is no object: {reading.shown(str(data))}")
        kind = data.get("type") or name
        if kind == "error" or data.get("error"):
            raise RefusedInStreamError(data)
        streamed = self._streamed
        if kind in _SAID:
            return self._say(kind, reading.words(data.get("delta")))
        if kind in _SAID_AT_ONCE:
            # A text whose pieces came is known by now.
            told = "" if self._is_saying else reading.words(data.get("text") or data.get("refusal"))
            deltas = self._say(kind.replace(".done", ".delta"), told)
            self._is_saying = False
            return deltas
        if kind in _THOUGHT:
            return self._think(kind, data)
        if kind == "response.output_item.added":
            streamed.begin(data)
        elif kind == "response.output_item.done":
            streamed.end(data)
        elif kind == "response.function_call_arguments.delta":
            streamed.argue(data, reading.words(data.get("delta")))
        elif kind == "response.function_call_arguments.done":
            streamed.argued(data, reading.words(data.get("arguments")))
        elif kind in _ENDS:
            final = reading.mapping_of(data.get("response"))
            if final.get("status") in _UNENDED and kind != "response.done":
                final = {**final, "status": kind.removeprefix("response.")}
            self._final = final
            self.is_done = True
        return ()

    def _say(self, kind: str, text: str) -> Iterable[Delta]:
        if not text:
            return ()
        self._is_saying = True
        self._streamed.say(kind, text)
        return (TextDelta(text),)

    def _think(self, kind: str, data: Mapping[str, Any]) -> Iterable[Delta]:
        """Take a piece of a thought; parts of it stand apart, as in the whole answer.

        Some servers send each piece twice, as a summary and as the thought itself.
        """
        text = reading.words(data.get("delta"))
        item = str(data.get("item_id") or data.get("output_index"))
        if not text or self._thoughts.setdefault(item, kind) != kind:
            return ()
        place = (item, data.get("summary_index"), data.get("content_index"))
        apart = "\n\n" if self._thought is not None and self._thought != place else ""
        self._thought = place
        return (ReasoningDelta(apart + text),)

    def completion(self) -> Completion:
        """Return the whole answer."""
        if self._final is None:
            raise MalformedReplyError("the stream ended without its finish marker (response.completed)")
        return read_response(self._final, self._question, self._streamed)
