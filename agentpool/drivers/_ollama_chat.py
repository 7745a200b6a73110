"""Ollama's own API: `POST /api/chat`, whose streamed answers are lines of JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from agentpool._core.content import Content, Document, Image, Part, Text, parts_of, told_of_file
from agentpool._core.errors import MalformedReplyError
from agentpool._core.messages import (
    Completion,
    ProviderData,
    ReasoningDelta,
    StopReason,
    TextDelta,
    ToolCall,
    ToolMessage,
)
from agentpool._core.usage import TokenUsage
from agentpool.drivers import _reading as reading
from agentpool.drivers._chat import document_text
from agentpool.drivers._dialect import Delta, RefusedInStreamError
from agentpool.drivers._fitting import (
    LOOSE_IDS,
    Question,
    Turn,
    is_text,
    joined,
    schema_instruction,
    told_result,
)
from agentpool.drivers._schemas import for_ollama

PROVIDER = "ollama"

_OF_A_CALL = frozenset({"id", "type", "index", "function"})
_OF_A_FUNCTION = frozenset({"name", "arguments", "parameters", "input", "args", "index"})

AT_THE_TOP = frozenset(
    {
        "options",
        "keep_alive",
        "think",
        "format",
        "truncate",
        "shift",
        "logprobs",
        "top_logprobs",
        "template",
        "tools",
        "messages",
        "model",
        "stream",
        "width",
        "height",
        "steps",
        "dimensions",
        "_debug_render_only",
    }
)
"""What stands at the top of a request; all other settings, such as `seed`, belong into its `options`."""


class OllamaDialect:
    """Ollama's own API: `POST /api/chat`.

    Args:
      num_ctx: the size of the context that the server is asked for; None leaves it to the server.
    """

    framing: Literal["sse", "lines"] = "lines"
    droppable = frozenset(
        {
            "think",
            "format",
            "truncate",
            "shift",
            "options.temperature",
            "options.stop",
            "options.num_ctx",
            "options.num_predict",
        }
    )

    def __init__(self, num_ctx: int | None = None) -> None:
        self._num_ctx = num_ctx

    def path(self, question: Question, *, streaming: bool) -> str:
        """Return the path."""
        return "/api/chat"

    def body(self, question: Question, *, streaming: bool) -> dict[str, Any]:
        """Return the body of a request.

        What does not fit is to be refused, not cut off (`truncate`, `shift`): servers that do not
        know these words pass over them.
        """
        request = question.request
        system, tools = request.system, _offered(question)
        if tools:
            system = _with_choice(system, question)
        schema = request.output_schema
        # A grammar for the answer would keep the model from calling a tool.
        native = schema is not None and not tools and "format" not in question.lessons.dropped
        if schema is not None and not native:
            system = schema_instruction(system, schema)
        body: dict[str, Any] = {
            "model": question.model,
            "messages": _messages(question, system),
            "stream": streaming,
            "truncate": False,
            "shift": False,
            "options": self._options(question),
        }
        if tools:
            body["tools"] = tools
        if native:
            body["format"] = schema
        if request.reasoning is not None:
            body["think"] = _think(request.reasoning, plain="plain_thinking" in question.lessons.traits)
        return body

    def _options(self, question: Question) -> dict[str, Any]:
        request = question.request
        options: dict[str, Any] = {"num_predict": request.max_tokens}
        if request.temperature is not None:
            options["temperature"] = request.temperature
        if request.stop:
            options["stop"] = list(request.stop)
        if self._num_ctx is not None:
            options["num_ctx"] = self._num_ctx
        return options

    def completion(self, data: Mapping[str, Any], question: Question) -> Completion:
        """Read a whole answer."""
        answer = OllamaReader(question)
        answer.feed(data, "")
        return answer.completion()

    def reader(self, question: Question) -> OllamaReader:
        """Return a reader for one streamed answer."""
        return OllamaReader(question)


def placed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a user's options as they stand in a body: `seed` and its like in `options`."""
    top = {name: value for name, value in options.items() if name in AT_THE_TOP}
    inner = {name: value for name, value in options.items() if name not in AT_THE_TOP}
    if inner:
        given = top.get("options")
        top["options"] = {**(given if isinstance(given, Mapping) else {}), **inner}
    return top


def _think(reasoning: str | int, *, plain: bool) -> bool | str:
    """Return what `think` has to be: an effort for models that know some, else whether to think."""
    if isinstance(reasoning, int):
        return reasoning > 0
    if reasoning in ("none", "off", "false"):
        return False
    if plain or reasoning in ("on", "true"):
        return True
    return {"minimal": "low", "xhigh": "high"}.get(reasoning, reasoning)


# -- tools ------------------------------------------------------------------------------------


def _offered(question: Question) -> list[dict[str, Any]]:
    """Return the tools of a request. The API has no choice among them, so we leave others out."""
    choice = question.request.tool_choice
    if choice == "none":
        return []
    tools = question.request.tools
    if choice not in (None, "auto", "required"):
        tools = tuple(tool for tool in tools if tool.name == choice) or tools
    return [
        {
            "type": "function",
            "function": {
                "name": question.name_of(tool.name),
                "description": tool.description,
                "parameters": for_ollama(tool.sound_schema),
            },
        }
        for tool in tools
    ]


def _with_choice(system: str, question: Question) -> str:
    """Say in the system prompt what the API has no words for."""
    request = question.request
    said = [system] if system else []
    if request.tool_choice == "required":
        said.append("Answer with a call of one of the tools.")
    elif request.tool_choice is not None and request.tool_choice != "auto":
        said.append(f"Answer with a call of the tool {question.name_of(request.tool_choice)}.")
    if not request.parallel_tool_calls:
        said.append("Call one tool at a time.")
    return "\n\n".join(said)


# -- the conversation -------------------------------------------------------------------------


def _messages(question: Question, system: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if system:
        messages.append({"role": "system", "content": system})
    for turn in question.turns(LOOSE_IDS):
        if turn.message is not None:
            messages.append(_assistant(turn, question))
        else:
            messages.extend(_user(turn))
    return messages


def _assistant(turn: Turn, question: Question) -> dict[str, Any]:
    assert turn.message is not None
    result: dict[str, Any] = {"role": "assistant", "content": turn.message.text}
    if turn.calls:
        result["tool_calls"] = [_call(call, question) for call in turn.calls]
    kept = question.own_data(turn.message.provider_data, PROVIDER)
    if isinstance(kept, Mapping) and kept.get("thinking"):
        result["thinking"] = kept["thinking"]
    return result


def _call(call: ToolCall, question: Question) -> dict[str, Any]:
    kept = question.own_data(call.provider_data, PROVIDER) or {}
    function = {**kept.get("function", {}), "name": call.name, "arguments": dict(call.input)}
    return {**kept.get("call", {}), "id": call.id, "function": function}


def _user(turn: Turn) -> Iterator[dict[str, Any]]:
    """Give the results of calls, and what was said after them; files of results come behind all of them."""
    files: list[Part] = []
    for message in turn.results:
        yield _result(message, files)
    said: list[Content] = [content for content in turn.said if content]
    if files:
        said.insert(0, (Text("These are the files of the results above:"), *files))
    if said or not turn.results:
        yield {"role": "user", **_content(joined(said) if said else "")}


def _result(message: ToolMessage, files: list[Part]) -> dict[str, Any]:
    result = message.result
    if not is_text(result.content):
        files.extend(part for part in parts_of(result.content) if not isinstance(part, Text))
    return {
        "role": "tool",
        "tool_name": message.name,
        "tool_call_id": message.call_id,
        "content": told_result(result.text, result.is_error),
    }


def _content(content: Content) -> dict[str, Any]:
    """Return content as Ollama holds it: a text, and the pictures beside it."""
    images: list[str] = []
    texts: list[str] = []
    for part in parts_of(content):
        picture = _picture(part) if isinstance(part, Image) else ""
        if picture:
            images.append(picture)
        else:
            texts.append(_told(part))
    result: dict[str, Any] = {"content": "\n".join(texts)}
    if images:
        result["images"] = images
    return result


def _picture(image: Image) -> str:
    """Return the bytes of a picture in Base64; empty for one that Ollama would have to fetch."""
    if image.data:
        return base64.b64encode(image.data).decode()
    head, comma, data = image.url.partition(",")
    return data if comma and head.startswith("data:") and head.endswith(";base64") else ""


def _told(part: Part) -> str:
    match part:
        case Text(text):
            return text
        case Document() if part.data and part.media_type.startswith("text/"):
            return document_text(part)
        case _:
            return told_of_file(part)


# -- answers ----------------------------------------------------------------------------------


class OllamaReader:
    """Reads the lines of an answer; a whole answer is one line."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._stop: StopReason | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._kept: list[str] = []
        self._calls = reading.CallAssembler()
        self._ids: set[str] = set()
        self._thoughts = reading.Thoughts()
        self._last: Mapping[str, Any] = {}
        self._model: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether the last line has come."""
        return self._stop is not None

    def feed(self, data: Any, name: str) -> Iterable[Delta]:
        """Take one line."""
        if not isinstance(data, Mapping):
            raise MalformedReplyError(f"a line of the answer is no object: {reading.shown(str(data))}")
        if reading.is_error(data.get("error")):
            raise RefusedInStreamError(data)
        if "message" not in data and "done" not in data:
            if data.get("detail") or data.get("errors"):
                raise RefusedInStreamError(data)
            raise MalformedReplyError(f"a line of the answer has no message: {reading.shown(str(data))}")
        self._model = reading.words(data.get("model")) or self._model
        message = reading.mapping_of(data.get("message"))
        if not message and "response" in data:  # the words of /api/generate
            message = {"content": data["response"], "thinking": data.get("thinking")}
        deltas = list(self._said(message))
        if data.get("done") is True or data.get("done") == "true":
            self._stop = _stop_of(data.get("done_reason"))
            self._last = data
            deltas += self._keep(self._thoughts.close())
        return deltas

    def _said(self, message: Mapping[str, Any]) -> Iterator[Delta]:
        thought = message.get("thinking") or message.get("reasoning")
        if isinstance(thought, str) and thought:
            self._kept.append(thought)
            self._reasoning.append(thought)
            yield ReasoningDelta(thought)
        text = reading.text_of(message.get("content"))
        if text:
            yield from self._keep(self._thoughts.feed(text))
        for call in reading.items_of(message.get("tool_calls")):
            self._called(reading.mapping_of(call))

    def _keep(self, deltas: Iterable[Delta]) -> Sequence[Delta]:
        kept = list(deltas)
        for delta in kept:
            (self._text if isinstance(delta, TextDelta) else self._reasoning).append(delta.text)
        return kept

    def _called(self, call: Mapping[str, Any]) -> None:
        """Take a call: each is whole, whatever its index says, and one that is sent twice is one."""
        function = reading.mapping_of(call.get("function"))
        id = reading.words(call.get("id"))
        if id and id in self._ids:
            return
        self._ids.add(id)
        fragments = self._calls.add(
            object(),
            id=id,
            name=reading.words(function.get("name")),
            arguments=reading.given_in(function),
        )
        extra = {
            "call": {name: value for name, value in call.items() if name not in _OF_A_CALL and value},
            "function": {n: value for n, value in function.items() if n not in _OF_A_FUNCTION and value},
        }
        fragments.extra = {name: found for name, found in extra.items() if found}

    def completion(self) -> Completion:
        """Return the whole answer."""
        if self._stop is None:
            raise MalformedReplyError("the answer ended without its finish marker (done)")
        question = self._question
        calls = self._calls.calls(PROVIDER, question.model, truncated=self._stop == "max_tokens")
        kept = {"thinking": "".join(self._kept)} if self._kept else None
        return reading.completion_of(
            "".join(self._text),
            reading.tidied(calls, question.tool_names, question.taken_ids()) if calls else (),
            self._stop,
            usage_of(self._last),
            reasoning="".join(self._reasoning).strip(),
            provider_data=None if kept is None else ProviderData(PROVIDER, question.model, kept),
            served_model=self._model,
        )


def _stop_of(word: object) -> StopReason:
    """Return why an answer stopped; old servers do not say it."""
    if word in ("load", "unload"):
        raise MalformedReplyError(f"the model was only {word}ed, and said nothing")
    return "end_turn" if word is None or word == "" else reading.stop_of(word)


def usage_of(data: Mapping[str, Any]) -> TokenUsage:
    """Return what an answer used. A prompt that was read before has no count with old servers."""
    given = reading.count(data.get("prompt_eval_count"))
    cached = reading.count(data.get("prompt_eval_cached_count"))
    return TokenUsage(given, reading.count(data.get("eval_count")), cache_read_tokens=min(cached, given))
