"""Gemini's own API: `POST /models/MODEL:generateContent`, and its streamed sister."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from agentpool._core.content import Content, Document, Image, Part, Text, parts_of
from agentpool._core.errors import MalformedReplyError
from agentpool._core.messages import (
    Completion,
    ProviderData,
    ReasoningDelta,
    StopReason,
    TextDelta,
    ToolCall,
    ToolDefinition,
    ToolMessage,
)
from agentpool._core.sound_schemas import sound_schema
from agentpool._core.usage import TokenUsage
from agentpool.drivers import _reading as reading
from agentpool.drivers._chat import document_text
from agentpool.drivers._dialect import Delta, RefusedInStreamError
from agentpool.drivers._fitting import LOOSE_IDS, Question, Turn, joined, schema_instruction
from agentpool.drivers._schemas import inlined, object_schema, open_api_schema

PROVIDER = "gemini"

_THINKING = "generationConfig.thinkingConfig"

AT_THE_TOP = frozenset(
    {
        "contents",
        "systemInstruction",
        "tools",
        "toolConfig",
        "safetySettings",
        "generationConfig",
        "cachedContent",
        "labels",
        "serviceTier",
        "store",
        "model",
    }
)
"""What stands at the top of a request; all other settings, such as `seed`, belong into `generationConfig`."""

NO_SIGNATURE = "skip_thought_signature_validator"
"""What Google names for calls that another model made, whose thoughts nobody signed."""


class GeminiDialect:
    """Gemini's own API: `POST /models/MODEL:generateContent`."""

    framing: Literal["sse", "lines"] = "sse"
    droppable = frozenset(
        {
            "generationConfig.temperature",
            "generationConfig.stopSequences",
            "generationConfig.maxOutputTokens",
            "generationConfig.responseMimeType",
            "generationConfig.responseJsonSchema",
            "generationConfig.responseSchema",
            _THINKING,
            f"{_THINKING}.thinkingLevel",
            f"{_THINKING}.thinkingBudget",
            f"{_THINKING}.includeThoughts",
            "toolConfig",
        }
    )

    def path(self, question: Question, *, streaming: bool) -> str:
        """Return the path, which names the model."""
        place = model_path(question.model)
        return f"{place}:streamGenerateContent?alt=sse" if streaming else f"{place}:generateContent"

    def body(self, question: Question, *, streaming: bool) -> dict[str, Any]:
        """Return the body of a request."""
        request, traits = question.request, question.lessons.traits
        schema = request.output_schema
        native = schema is not None and _takes_schema(question)
        system = request.system
        if request.tools and not request.parallel_tool_calls:
            system = f"{system}\n\nCall one function at a time.".lstrip()
        if schema is not None and not native:
            system = schema_instruction(system, schema)
        body: dict[str, Any] = {
            "contents": _contents(question, system if "system_in_user" in traits else ""),
            "generationConfig": _config(question, native=native),
        }
        if system and "system_in_user" not in traits:
            body["systemInstruction"] = {"parts": [{"text": system}]}
        if request.tools:
            body["tools"] = [{"functionDeclarations": [_declared(tool, question) for tool in request.tools]}]
            if request.tool_choice is not None:
                body["toolConfig"] = {"functionCallingConfig": _choice(request.tool_choice, question)}
        return body

    def completion(self, data: Mapping[str, Any], question: Question) -> Completion:
        """Read a whole answer."""
        answer = GeminiReader(question)
        answer.feed(data, "")
        return answer.completion()

    def reader(self, question: Question) -> GeminiReader:
        """Return a reader for one streamed answer."""
        return GeminiReader(question)


def model_path(model: str) -> str:
    """Return the path of a model; tuned ones have another first part, which their name holds."""
    return "/" + quote(model if "/" in model else f"models/{model}")


def placed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a user's options as they stand in a body: `seed` and its like in `generationConfig`.

    Names may be written `top_p` or `topP`; Google takes both, but not both at once.
    """
    result: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for given, value in options.items():
        name = _camel(given)
        if name not in AT_THE_TOP:
            inner[name] = value
        elif name == "generationConfig" and isinstance(value, Mapping):
            inner.update((_camel(key), item) for key, item in value.items())
        else:
            result[name] = value
    if inner:
        result["generationConfig"] = inner
    return result


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


# -- settings ---------------------------------------------------------------------------------


def _takes_schema(question: Question) -> bool:
    lessons = question.lessons
    if question.request.tools and "no_schema_with_tools" in lessons.traits:
        return False
    names = ("responseMimeType", "responseJsonSchema", "responseSchema")
    return not any(f"generationConfig.{name}" in lessons.dropped for name in names)


def _config(question: Question, *, native: bool) -> dict[str, Any]:
    request = question.request
    config: dict[str, Any] = {"maxOutputTokens": request.max_tokens}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if native and request.output_schema is not None:
        config["responseMimeType"] = "application/json"
        schema = sound_schema(request.output_schema)
        if "old_schemas" in question.lessons.traits:
            config["responseSchema"] = open_api_schema(schema)
        else:
            config["responseJsonSchema"] = inlined(schema)
    if request.reasoning is not None:
        config["thinkingConfig"] = _thinking(request.reasoning, question.lessons.dropped)
    return config


_BUDGETS = {"minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}


def _thinking(reasoning: str | int, dropped: frozenset[str]) -> dict[str, Any]:
    """Return how much to think: newer models know levels, older ones budgets, in tokens.

    What a model has refused is not said again: a level becomes a budget, and a budget a level.
    """
    no_levels = f"{_THINKING}.thinkingLevel" in dropped
    no_budgets = f"{_THINKING}.thinkingBudget" in dropped
    if reasoning in ("none", "off", 0):
        if no_budgets:  # the least that models do which cannot do without
            return {} if no_levels else {"thinkingLevel": "low"}
        return {"thinkingBudget": 0}
    config: dict[str, Any] = {"includeThoughts": True}
    if isinstance(reasoning, str):
        if not no_levels:
            config["thinkingLevel"] = {"xhigh": "high", "max": "high"}.get(reasoning, reasoning)
        elif not no_budgets:
            config["thinkingBudget"] = _BUDGETS.get(reasoning, -1)
    elif not no_budgets:
        config["thinkingBudget"] = reasoning
    elif not no_levels:
        config["thinkingLevel"] = "low" if reasoning <= 2_048 else "medium" if reasoning <= 8_192 else "high"
    return config


def _declared(tool: ToolDefinition, question: Question) -> dict[str, Any]:
    result: dict[str, Any] = {"name": question.name_of(tool.name), "description": tool.description}
    schema = object_schema(tool.sound_schema)
    if "old_schemas" not in question.lessons.traits:
        result["parametersJsonSchema"] = inlined(schema)
    elif schema["properties"]:  # an object without properties is refused there
        result["parameters"] = open_api_schema(schema)
    return result


def _choice(choice: str, question: Question) -> dict[str, Any]:
    modes = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
    if choice in modes:
        return {"mode": modes[choice]}
    return {"mode": "ANY", "allowedFunctionNames": [question.name_of(choice)]}


# -- the conversation -------------------------------------------------------------------------


def _contents(question: Question, system: str) -> list[dict[str, Any]]:
    """Return the conversation; it begins and ends with the user, as Gemini wants it."""
    contents: list[dict[str, Any]] = []
    calls: Sequence[ToolCall] = ()
    for turn in question.turns(LOOSE_IDS):
        if turn.message is not None:
            calls = turn.calls
            contents.append({"role": "model", "parts": _model_parts(turn, question) or [{"text": " "}]})
        else:
            contents.append({"role": "user", "parts": _user_parts(turn, calls, question) or [{"text": " "}]})
            calls = ()
    if not contents or contents[0]["role"] != "user":
        contents.insert(0, {"role": "user", "parts": [{"text": "Go on."}]})
    if contents[-1]["role"] != "user":
        contents.append({"role": "user", "parts": [{"text": "Go on."}]})
    if system:
        contents[0]["parts"].insert(0, {"text": system})
    return contents


def _model_parts(turn: Turn, question: Question) -> list[dict[str, Any]]:
    """Return what the model said, with its own parts in their places."""
    message = turn.message
    assert message is not None
    calls = [_call(call, question) for call in turn.calls]
    if calls and "unsigned_calls" in question.lessons.traits and "thoughtSignature" not in calls[0]:
        calls[0]["thoughtSignature"] = NO_SIGNATURE
    kept = question.own_data(message.provider_data, PROVIDER)
    places = reading.items_of(reading.mapping_of(kept).get("parts"))
    if not places:
        return [*([{"text": message.text}] if message.text else ()), *calls]
    parts: list[dict[str, Any]] = []
    said: set[int] = set()
    for place in places:
        number = place.get("call")
        if number is None:
            parts.append(dict(place))
        elif number < len(calls):
            said.add(number)
            parts.append(calls[number])
    return [*parts, *(call for number, call in enumerate(calls) if number not in said)]


def _call(call: ToolCall, question: Question) -> dict[str, Any]:
    kept = dict(reading.mapping_of(question.own_data(call.provider_data, PROVIDER)))
    function: dict[str, Any] = {"name": call.name, "args": dict(call.input)}
    if "id" in kept:
        function["id"] = kept.pop("id")
    return {**kept, "functionCall": function}


def _user_parts(turn: Turn, calls: Sequence[ToolCall], question: Question) -> list[dict[str, Any]]:
    """Return the results in the order of the calls, and what was said after them."""
    results = {message.call_id: message for message in turn.results}
    files: list[dict[str, Any]] = []
    parts = [_response(results[call.id], call, question, files) for call in calls]
    said: list[Content] = [content for content in turn.said if content]
    return [*parts, *files, *(part for part in _parts(joined(said) if said else ""))]


def _response(
    message: ToolMessage, call: ToolCall, question: Question, files: list[dict[str, Any]]
) -> dict[str, Any]:
    result = message.result
    key = "error" if result.is_error else "output"
    response: dict[str, Any] = {"name": message.name, "response": {key: result.text}}
    id = reading.mapping_of(question.own_data(call.provider_data, PROVIDER)).get("id")
    if id:
        response["id"] = id
    found = [_file(part) for part in parts_of(result.content) if not isinstance(part, Text)]
    if found and "plain_results" in question.lessons.traits:
        files += found
    elif found:
        response["parts"] = found
    return {"functionResponse": response}


def _parts(content: Content) -> Iterator[dict[str, Any]]:
    for part in parts_of(content):
        if isinstance(part, Text):
            if part.text:  # a part without anything in it is refused
                yield {"text": part.text}
        else:
            yield _file(part)


def _file(part: Part) -> dict[str, Any]:
    assert isinstance(part, Image | Document)
    if part.data:
        if isinstance(part, Document) and part.media_type.startswith("text/"):
            return {"text": document_text(part)}
        return _inline(part.media_type, base64.b64encode(part.data).decode())
    head, comma, data = part.url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        return _inline(head.removeprefix("data:").removesuffix(";base64"), data)
    kind = part.media_type or mimetypes.guess_type(part.url.partition("?")[0])[0]
    return {"fileData": {**({"mimeType": kind} if kind else {}), "fileUri": part.url}}


def _inline(kind: str, data: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": kind, "data": data}}


# -- answers ----------------------------------------------------------------------------------

_REFUSALS = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
        "ESCALATION",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)


class GeminiReader:
    """Reads an answer in chunks; a whole answer is one chunk.

    A chunk that says why it stopped need not be the last: servers that run tools of their own go on
    after it, and some proxies say `STOP` in every chunk. So the stream's end ends the answer, and the last
    reason counts.
    """

    is_done = False

    def __init__(self, question: Question) -> None:
        self._question = question
        self._reason = ""
        self._told = ""
        self._blocked = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._places: list[dict[str, Any]] = []
        self._calls = reading.CallAssembler()
        self._latest: reading.Fragments | None = None
        self._usage: dict[str, Any] = {}
        self._id: str | None = None
        self._model: str | None = None

    def feed(self, data: Any, name: str) -> Iterable[Delta]:
        """Take one chunk."""
        if not isinstance(data, Mapping):
            raise MalformedReplyError(f"a piece of the answer is no object: {reading.shown(str(data))}")
        data = reading.mapping_of(data.get("response")) or data  # Google's gateways put it in an envelope
        if reading.is_error(data.get("error")) or name == "error":
            raise RefusedInStreamError(data)
        self._id = reading.words(data.get("responseId")) or self._id
        self._model = reading.words(data.get("modelVersion")) or self._model
        counts = reading.mapping_of(data.get("usageMetadata"))
        self._usage.update((key, value) for key, value in counts.items() if value)
        feedback = reading.mapping_of(data.get("promptFeedback"))
        if feedback.get("blockReason") not in (None, "", "BLOCK_REASON_UNSPECIFIED"):
            self._blocked = True
            self._told = reading.words(feedback.get("blockReasonMessage"))
        candidates = [reading.mapping_of(item) for item in reading.items_of(data.get("candidates"))]
        candidate = next((item for item in candidates if not reading.position_of(item.get("index"))), {})
        deltas = list(self._said(reading.mapping_of(candidate.get("content"))))
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason and reason != "FINISH_REASON_UNSPECIFIED":
            self._reason = reason.upper()
            self._told = reading.words(candidate.get("finishMessage")) or self._told
        return deltas

    def _said(self, content: Mapping[str, Any]) -> Iterator[Delta]:
        for item in reading.items_of(content.get("parts")):
            given = reading.mapping_of(item)
            part = {key: value for key, value in given.items() if value is not None} or dict(given)
            if not isinstance(part.get("text"), str):
                part.pop("text", None)
            if "functionCall" in part:
                self._called(part)
            elif "text" in part:
                yield from self._worded(part)
            elif part:
                self._places.append(part)

    def _worded(self, part: dict[str, Any]) -> Iterator[Delta]:
        text = part["text"]
        if part.get("thought"):
            if part.get("thoughtSignature"):
                self._places.append(part)
            if text:
                self._reasoning.append(text)
                yield ReasoningDelta(text)
            return
        last = self._places[-1] if self._places else {}
        if part.keys() == {"text"} and last.keys() == {"text"}:
            last["text"] += text
        elif text or part.keys() != {"text"}:
            self._places.append(part)
        if text:
            self._text.append(text)
            yield TextDelta(text)

    def _called(self, part: dict[str, Any]) -> None:
        """Take a call. One without a name holds the arguments of the call before it."""
        function = reading.mapping_of(part.pop("functionCall"))
        name, given = reading.words(function.get("name")), function.get("args")
        signed = {key: value for key, value in part.items() if value is not None and key != "text"}
        if not name and self._latest is not None:
            if given:
                self._latest.whole = given
            self._latest.extra.update(signed)
            return
        self._places.append({"call": len(self._calls)})
        id = reading.words(function.get("id"))
        self._latest = self._calls.add(object(), id=id, name=name, arguments=given)
        self._latest.extra = {**signed, **({"id": id} if id else {})}

    def completion(self) -> Completion:
        """Return the whole answer."""
        question = self._question
        stop = self._stop()
        calls = self._calls.calls(PROVIDER, question.model, truncated=stop == "max_tokens")
        text = "".join(self._text)
        return reading.completion_of(
            text or (self._told if stop == "refusal" else ""),
            reading.tidied(calls, question.tool_names, question.taken_ids()) if calls else (),
            stop,
            usage_of(self._usage),
            reasoning="".join(self._reasoning).strip(),
            provider_data=self._provider_data(),
            response_id=self._id,
            served_model=self._model,
        )

    def _stop(self) -> StopReason:
        if self._blocked or self._reason in _REFUSALS:
            return "refusal"
        if not self._reason:
            raise MalformedReplyError("the answer ended without its finish marker (finishReason)")
        try:
            return reading.stop_of(self._reason)
        except MalformedReplyError:
            told = f" ({self._told})" if self._told else ""
            raise MalformedReplyError(f"the answer broke off: it ended with {self._reason}{told}") from None

    def _provider_data(self) -> ProviderData | None:
        """Return the parts in their places, if more is in them than text and calls after it."""
        plain = [{"text"}, {"call"}]
        kinds = [place.keys() for place in self._places]
        texts = [number for number, keys in enumerate(kinds) if keys == {"text"}]
        if all(set(keys) in plain for keys in kinds) and texts in ([], [0]):
            return None
        return ProviderData(PROVIDER, self._question.model, {"parts": self._places})


def usage_of(usage: Mapping[str, Any]) -> TokenUsage:
    """Return what an answer used. Thoughts count as output, what tools of Google's brought as input.

    Where the total is more than its parts, the rest counts as output.
    """
    count = reading.count
    given = count(usage.get("promptTokenCount")) + count(usage.get("toolUsePromptTokenCount"))
    thought = count(usage.get("thoughtsTokenCount"))
    said = count(usage.get("candidatesTokenCount")) or count(usage.get("responseTokenCount"))
    output = max(said + thought, count(usage.get("totalTokenCount")) - given)
    cached = min(count(usage.get("cachedContentTokenCount")), given)
    return TokenUsage(given, output, min(thought, output), cached)
