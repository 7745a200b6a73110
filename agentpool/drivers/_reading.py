"""From what servers send to values: small tolerant functions that every dialect uses.

Tolerant means: whatever can be read in one way only is read in that way. What cannot is a
`MalformedReplyError`, or, in the arguments of a call, a problem that the model is told. Nothing is
made up.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from agentpool._core.errors import MalformedReplyError
from agentpool._core.messages import (
    Completion,
    ProviderData,
    ReasoningDelta,
    StopReason,
    TextDelta,
    ToolCall,
)
from agentpool._core.usage import TokenUsage

SHOWN = 500
"""So many characters of what cannot be read are shown."""


# -- plain values -----------------------------------------------------------------------


def position_of(value: object) -> int | None:
    """Return an index, which some servers give as text; None for what is none."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) < 19 else None
    return int(value) if isinstance(value, int | float) and 0 <= value < 10**18 else None


def mapping_of(value: object) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one in the place of anything else."""
    return value if isinstance(value, dict) else {}


def items_of(value: object) -> list[Any]:
    """Return a JSON array, an empty one for nothing, and one of a single item for anything else."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def words(value: object) -> str:
    """Return a text, and an empty one in the place of anything else."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int:
    """Return a number of tokens: whole numbers, whole floats and digits in a text count, all else is 0."""
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and len(value) < 19 else 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value < 10**18 else 0


def json_of(text: str, what: str) -> Any:
    """Read JSON.

    Raises:
      MalformedReplyError: if it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedReplyError(f"{what} is no JSON ({error}): {shown(text)}") from None


def shown(text: str) -> str:
    """Return the beginning of a text on one line, for an error."""
    line = " ".join(text[: SHOWN * 2].split())
    return f"{line[:SHOWN]!r}..." if len(line) > SHOWN or len(text) > SHOWN * 2 else repr(line)


# -- text --------------------------------------------------------------------------------


def text_of(content: object) -> str:
    """Return the text of content: a text, null, or an array of parts of which some have a `text`."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in items_of(content):
        if isinstance(part, str):
            texts.append(part)
        elif mapping_of(part).get("type") in (None, "text", "output_text", "input_text"):
            texts.append(text_of(mapping_of(part).get("text")))
    return "".join(texts)


def thoughts_of(content: object) -> str:
    """Return what is thought in an array of parts, as Mistral, OpenRouter and others send it."""
    texts: list[str] = []
    for part in content if isinstance(content, list) else ():
        found = mapping_of(part)
        if found.get("type") in ("thinking", "reasoning", "reasoning.text", "reasoning.summary"):
            texts.append(_thought(found))
    return "".join(texts)


def _thought(part: Mapping[str, Any]) -> str:
    names = ("thinking", "reasoning", "text", "summary")
    given = next((part[name] for name in names if part.get(name)), None)
    if isinstance(given, list):
        given = [item if isinstance(item, str) else mapping_of(item).get("text") for item in given]
        return "".join(map(words, given))
    return text_of(given)


def refusal_of(content: object) -> str:
    """Return with which words a model declines in an array of parts."""
    parts = map(mapping_of, content if isinstance(content, list) else ())
    return "".join(words(part.get("refusal")) for part in parts if part.get("type") == "refusal")


def is_error(value: object) -> bool:
    """Whether what stands under `error`, or MiniMax's `base_resp`, is one; some fill it with nothing."""
    if not isinstance(value, dict):
        return bool(value)
    if "status_code" in value:
        return value["status_code"] not in (None, 0, 200, "", "0", "200")
    return any(value.values())


_CLOSINGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "\u25c1think\u25b7": "\u25c1/think\u25b7",
    "<|channel|>analysis<|message|>": "<|end|>",
}
_OPENINGS = tuple(_CLOSINGS)


class Thoughts:
    """Tells the thoughts at the beginning of a text from the text, piece by piece.

    Some servers leave what a model thinks in its answer, between marks such as `<think>`. Only a block at
    the very beginning is taken for thoughts; one that never ends is an answer that was cut off within them.
    """

    __slots__ = ("_closing", "_held", "_state")

    def __init__(self) -> None:
        self._held = ""
        self._closing = ""
        self._state = "start"  # then "thinking", "after" (between the thoughts and the text), "text"

    def feed(self, text: str) -> Iterator[TextDelta | ReasoningDelta]:
        """Take the next piece, and give what it makes known."""
        if self._state == "text":
            yield TextDelta(text)
            return
        self._held += text
        if self._state == "start":
            self._look_for_opening()
        if self._state == "thinking":
            yield from self._thought()
        if self._state == "after":
            self._held = self._held.lstrip()
            self._state = "text" if self._held else "after"
        if self._state == "text" and self._held:
            text, self._held = self._held, ""
            yield TextDelta(text)

    def close(self) -> Iterator[TextDelta | ReasoningDelta]:
        """Give what was held back."""
        held, self._held = self._held, ""
        if held:
            yield ReasoningDelta(held) if self._state == "thinking" else TextDelta(held)

    def _look_for_opening(self) -> None:
        start = self._held.lstrip()
        opening = next((mark for mark in _OPENINGS if start.startswith(mark)), None)
        if opening is not None:
            self._closing = _CLOSINGS[opening]
            self._held = start[len(opening) :].lstrip("\n")
            self._state = "thinking"
        elif not any(mark.startswith(start) for mark in _OPENINGS):
            self._state = "text"

    def _thought(self) -> Iterator[ReasoningDelta]:
        thought, closing, rest = self._held.partition(self._closing)
        if closing:
            self._state, self._held = "after", rest
            if thought.strip():
                yield ReasoningDelta(thought)
            return
        # The end of what is held may be the beginning of the mark.
        longest = min(len(thought), len(closing := self._closing) - 1)
        keep = next((n for n in range(longest, 0, -1) if closing.startswith(thought[-n:])), 0)
        said, self._held = thought[: len(thought) - keep], thought[len(thought) - keep :]
        if said:
            yield ReasoningDelta(said)


# -- calls -------------------------------------------------------------------------------


def arguments_of(given: object) -> tuple[Mapping[str, Any], str]:
    """Return the arguments of a call, and what is wrong with them if they cannot be read.

    Nothing at all, null and an empty array are no arguments. A text is read as JSON, once more if
    that gives a text again; pieces of a text may come as an array, and one object several times over.
    What is no object is a problem in words that the model can use.
    """
    value, problem = _joined_text(given), ""
    for _ in range(2):
        if not isinstance(value, str):
            break
        if not value.strip():
            return {}, ""
        try:
            value = json.loads(value)
        except ValueError as error:
            said = _object_said(value)
            if said is not None:
                return said, ""
            problem = f"are not JSON: {error}"
            break
        except RecursionError:
            problem = "are nested too deeply"
            break
    if not problem:
        if value is None or value == []:
            return {}, ""
        if isinstance(value, dict):
            return value, ""
        problem = f"are {_JSON_NAMES.get(type(value), 'no object')}, not an object"
    text = given if isinstance(given, str) else json.dumps(given, default=str)
    return {}, f"Not run: the arguments {problem}. Give one JSON object. You gave: {text[:SHOWN]}"


def _joined_text(given: object) -> object:
    """Return the text of a JSON object that comes in pieces, as an array; else what was given."""
    if isinstance(given, list) and given and all(isinstance(piece, str) for piece in given):
        text = "".join(given)
        if _is_whole(text):
            return text
    return given


def _object_said(text: str) -> Mapping[str, Any] | None:
    """Return the object that a text says several times in a row; an empty one may stand before it.

    Some servers send the arguments whole in each fragment, or begin with `{}`. Two objects that differ
    say nothing clear: None.
    """
    said: dict[str, Any] = {}
    rest = text.strip()
    while rest:
        try:
            value, end = _DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or (value and said and value != said):
            return None
        said = said or value
        rest = rest[end:].lstrip()
    return said


_DECODER = json.JSONDecoder()

_JSON_NAMES: dict[type, str] = {
    str: "a string",
    list: "an array",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}


def given_in(*places: Mapping[str, Any]) -> Any:
    """Return the arguments of a call, under whichever name a server gives them; None if there are none."""
    names = ("arguments", "parameters", "input", "args")
    return next((place[name] for place in places for name in names if place.get(name) is not None), None)


def new_call_id() -> str:
    """Return an id for a tool call whose provider gave it none."""
    return f"call_{secrets.token_hex(10)}"


@attrs.define(eq=False)
class Fragments:
    """A call that is put together: its id, its name, its arguments as text, and what else came with it."""

    id: str
    name: str
    arguments: list[str] = attrs.field(factory=list)
    whole: Any = None
    extra: dict[str, Any] = attrs.field(factory=dict)

    @property
    def given(self) -> object:
        """The arguments as they were given; some servers repeat with each fragment what came before it."""
        if not self.arguments:
            return self.whole
        text, last = "".join(self.arguments), self.arguments[-1]
        if len(self.arguments) > 1 and _is_whole(last) and not _is_whole(text):
            repeats = all(map(last.startswith, self.arguments))
            return last if repeats else text
        return text

    @property
    def is_whole(self) -> bool:
        """Whether the arguments so far are an object."""
        given = self.given
        return isinstance(given, dict) or (isinstance(given, str) and _is_whole(given))


class CallAssembler:
    """Puts tool calls together from the fragments of a stream."""

    def __init__(self) -> None:
        self._calls: list[Fragments] = []
        self._at: dict[object, Fragments] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, index: object, *, id: str = "", name: str = "", arguments: object = None) -> Fragments:
        """Take the next fragment of the call at `index`, and return the call.

        Some servers number every call 0, or not at all; some repeat a name or an id with every
        fragment, or give a fragment another id. A new call begins where a name comes with another
        id, or after arguments that are whole, unless it only says the same again.
        """
        if index is None:
            latest = self._known(id)
            is_new = latest is None or self._begins(latest, id, name, arguments)
            index = len(self._calls) if is_new else latest
        call = index if isinstance(index, Fragments) else self._at.get(index)
        if call is None or self._begins(call, id, name, arguments):
            call = self._at[index] = Fragments(id, name)
            self._calls.append(call)
        else:
            call.id = call.id or id
            call.name = call.name or name
        if isinstance(arguments, str):
            if arguments:
                call.arguments.append(arguments)
        elif arguments is not None:
            call.whole = arguments
        return call

    def _known(self, id: str) -> Fragments | None:
        """Return the call with this id, else the last one."""
        same = (call for call in reversed(self._calls) if id and call.id == id)
        return next(same, self._calls[-1] if self._calls else None)

    def _begins(self, call: Fragments, id: str, name: str, arguments: object) -> bool:
        if not name:
            return False
        if id and call.id and id != call.id:
            return True
        if not call.name or not call.is_whole:
            return False
        return not (id and id == call.id) or _is_another(call.given, arguments)

    def calls(self, provider: str, model: str, *, truncated: bool) -> tuple[ToolCall, ...]:
        """Return the calls in the order in which they began.

        Args:
          provider, model: whose data hangs on the calls.
          truncated: whether the answer stopped at its limit of tokens. A last call that was cut off
            by that is left out.

        Raises:
          MalformedReplyError: if a call has no name.
        """
        whole: list[ToolCall] = []
        for position, call in enumerate(self._calls):
            arguments, problem = arguments_of(call.given)
            name = call.name.strip()
            if truncated and position == len(self._calls) - 1 and (problem or not name or not call.given):
                break
            if not name:
                raise MalformedReplyError(f"the answer has a tool call without a name (id {call.id!r})")
            extra = ProviderData(provider, model, call.extra) if call.extra else None
            whole.append(ToolCall(call.id, name, arguments, extra, problem))
        return tuple(whole)


def _is_another(given: object, more: object) -> bool:
    """Whether arguments that follow others of one id belong to another call: both say different things."""
    (before, _), (after, _) = arguments_of(given), arguments_of(more)
    return bool(before) and bool(after) and not before.items() <= after.items()


def _is_whole(text: str) -> bool:
    if not text.rstrip().endswith("}"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


# -- why it stopped -----------------------------------------------------------------------

_STOPS: dict[str, StopReason] = {
    "stop": "end_turn",
    "end_turn": "end_turn",
    "eos": "end_turn",
    "eos_token": "end_turn",
    "end": "end_turn",
    "complete": "end_turn",
    "completed": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "model_length": "max_tokens",
    "max_length": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "tool_calls": "tool_use",
    "tool_call": "tool_use",
    "tool_use": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "safety": "refusal",
    "recitation": "refusal",
    "blocklist": "refusal",
    "prohibited_content": "refusal",
    "spii": "refusal",
    "image_safety": "refusal",
    "guardrail_intervened": "refusal",
    "pause_turn": "pause_turn",
}


def stop_of(word: object) -> StopReason:
    """Return why an answer stopped.

    Raises:
      MalformedReplyError: if the word is not known: `error`, `abort` and their like are no end.
    """
    reason = _STOPS.get(word.lower()) if isinstance(word, str) else None
    if reason is None:
        raise MalformedReplyError(f"the answer broke off: it ended with {word!r}")
    return reason


# -- usage ---------------------------------------------------------------------------------


def first_count(counts: Mapping[str, Any], *names: str) -> int:
    """Return the first of these numbers that is there."""
    for name in names:
        found = count(counts.get(name))
        if found:
            return found
    return 0


# -- the whole ------------------------------------------------------------------------------


def completion_of(
    text: str,
    calls: tuple[ToolCall, ...],
    stop: StopReason,
    usage: TokenUsage,
    *,
    reasoning: str = "",
    provider_data: ProviderData | None = None,
    response_id: str | None = None,
    served_model: str | None = None,
) -> Completion:
    """Return a completion whose stop reason agrees with its content.

    Some servers say `stop` after tool calls, or `tool_calls` without any.
    """
    if stop in ("end_turn", "stop_sequence", "tool_use", "pause_turn"):
        if calls:
            stop = "tool_use"
        elif stop == "tool_use":
            stop = "end_turn"
    return Completion(text, calls, stop, usage, reasoning, provider_data, response_id, served_model)


# -- names and ids -----------------------------------------------------------------------------

_MARKUP = re.compile(r"<\|.*|<[/a-z].*|\s.*", re.DOTALL)


def tidied(calls: tuple[ToolCall, ...], tools: Mapping[str, str], taken: set[str]) -> tuple[ToolCall, ...]:
    """Return calls whose names are those of tools, where that is clear, and whose ids are their own.

    A model may leak its template into a name (`search<|channel|>commentary`), or put a namespace
    before it (`functions.search`). A name that is a tool's only after such a thing was taken away is
    that tool's; any other stays, and the model is told that there is no such tool.

    Args:
      calls: what the model wishes for.
      tools: the names of the tools that it was offered, by the names that it was told.
      taken: ids that the conversation holds already; the ids of the calls are added.
    """
    if not calls:
        return calls
    return tuple(_tidy(call, tools, taken) for call in calls)


def _tidy(call: ToolCall, known: Mapping[str, str], taken: set[str]) -> ToolCall:
    name = known.get(call.name)
    if name is None:
        bare = _MARKUP.sub("", call.name.strip().strip("\"'`"))
        candidates = (bare, *(bare.rpartition(mark)[2] for mark in (".", ":", "/")))
        name = next((known[candidate] for candidate in candidates if candidate in known), call.name)
    id = call.id
    if not id or id in taken:
        id = new_call_id()
    taken.add(id)
    if name == call.name and id == call.id:
        return call
    return attrs.evolve(call, id=id, name=name)
