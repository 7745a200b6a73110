"""OpenAI's chat completions, which most servers speak in some way."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from agentpool._core.content import Content, Document, Image, Part, Text, parts_of, text_of, told_of_file
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
from agentpool._core.usage import TokenUsage
from agentpool.drivers import _reading as reading
from agentpool.drivers._dialect import Delta, RefusedInStreamError
from agentpool.drivers._encoding import encoded
from agentpool.drivers._fitting import (
    LOOSE_IDS,
    SHORT_IDS,
    Question,
    Turn,
    is_text,
    joined,
    schema_instruction,
    told_result,
)
from agentpool.drivers._schemas import object_schema, strict_schema

PROVIDER = "openai"

_KNOWN_OF_CALL = frozenset({"id", "type", "index", "function", "name", "arguments"})
_REASONING = ("reasoning_content", "reasoning")


class ChatDialect:
    """Chat completions: `POST /chat/completions`."""

    framing: Literal["sse", "lines"] = "sse"
    droppable = frozenset(
        {
            "temperature",
            "stop",
            "stream_options",
            "parallel_tool_calls",
            "tool_choice",
            "response_format",
            "reasoning_effort",
            "max_tokens",
            "max_completion_tokens",
        }
    )

    def path(self, question: Question, *, streaming: bool) -> str:
        """Return the path."""
        return "/chat/completions"

    def body(self, question: Question, *, streaming: bool) -> dict[str, Any]:
        """Return the body of a request."""
        request = question.request
        native = request.output_schema is not None and _takes_schema(question)
        system = request.system
        if request.output_schema is not None and not native:
            system = schema_instruction(system, request.output_schema)
        body: dict[str, Any] = {
            "model": question.model,
            "messages": _messages(question, system),
            "max_tokens": request.max_tokens,
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.stop:
            body["stop"] = list(request.stop)
        if request.tools:
            body["tools"] = [_tool(tool, question) for tool in request.tools]
            if request.tool_choice is not None:
                body["tool_choice"] = _choice(request.tool_choice, question)
            if not request.parallel_tool_calls:
                body["parallel_tool_calls"] = False
        if native:
            body["response_format"] = _response_format(question)
        if request.reasoning is not None:
            body["reasoning_effort"] = effort_of(request.reasoning)
        if streaming:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return body

    def completion(self, data: Mapping[str, Any], question: Question) -> Completion:
        """Read a whole answer."""
        choice = _first_choice(data)
        _check_choice(data, choice)
        message = reading.mapping_of(choice.get("message"))
        answer = _Answer(question)
        answer.head(data)
        answer.say(message, whole=True)
        answer.finish(choice.get("finish_reason"))
        answer.count(data)
        return answer.completion()

    def reader(self, question: Question) -> ChatReader:
        """Return a reader for one streamed answer."""
        return ChatReader(question)


def _takes_schema(question: Question) -> bool:
    lessons = question.lessons
    beside_tools = question.request.tools and "no_schema_with_tools" in lessons.traits
    return not beside_tools and "response_format" not in lessons.dropped


def effort_of(reasoning: str | int) -> str:
    """Return a budget for thinking as the nearest effort."""
    if isinstance(reasoning, str):
        return reasoning
    if reasoning == 0:
        return "none"
    return "low" if reasoning <= 2_048 else "medium" if reasoning <= 8_192 else "high"


def _tool(tool: ToolDefinition, question: Question) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": question.name_of(tool.name),
        "description": tool.description,
        "parameters": object_schema(tool.sound_schema),
    }
    return {"type": "function", "function": function}


def _choice(choice: str, question: Question) -> Any:
    if choice in ("auto", "required", "none"):
        return choice
    return {"type": "function", "function": {"name": question.name_of(choice)}}


def _response_format(question: Question) -> dict[str, Any]:
    schema = question.request.output_schema
    assert schema is not None
    strict = None if "no_strict" in question.lessons.traits else strict_schema(schema)
    named: dict[str, Any] = {"name": "answer", "schema": schema}
    if strict is not None:
        named.update(schema=strict, strict=True)
    return {"type": "json_schema", "json_schema": named}


# -- the conversation -------------------------------------------------------------------------


def _messages(question: Question, system: str) -> list[dict[str, Any]]:
    traits = question.lessons.traits
    turns = question.turns(SHORT_IDS if "short_ids" in traits else LOOSE_IDS)
    messages: list[dict[str, Any]] = []
    if system and "system_in_user" not in traits:
        messages.append({"role": "system", "content": system})
        system = ""
    for turn in turns:
        if turn.message is not None:
            messages.append(_assistant(turn, question))
        else:
            messages.extend(_user(turn, joins="user_joins_tool" in traits))
    if system:
        _put_first(messages, system)
    return messages


def _put_first(messages: list[dict[str, Any]], system: str) -> None:
    """Put the system prompt before the first thing that is said to the model."""
    first = next((message for message in messages if message["role"] == "user"), None)
    if first is None:
        messages.insert(0, {"role": "user", "content": system})
    elif isinstance(first["content"], str):
        first["content"] = f"{system}\n\n{first['content']}"
    else:
        first["content"] = [{"type": "text", "text": system}, *first["content"]]


def _assistant(turn: Turn, question: Question) -> dict[str, Any]:
    message = turn.message
    assert message is not None
    result: dict[str, Any] = {"role": "assistant", "content": message.text or None}
    plain = "plain_history" in question.lessons.traits
    if turn.calls:
        result["tool_calls"] = [_call(call, question, plain=plain) for call in turn.calls]
    elif not message.text:
        result["content"] = ""
    if not plain:
        result.update(question.own_data(message.provider_data, PROVIDER) or {})
    return result


def _call(call: ToolCall, question: Question, *, plain: bool) -> dict[str, Any]:
    extra = {} if plain else question.own_data(call.provider_data, PROVIDER) or {}
    arguments = encoded(call.input).decode()
    return {
        **extra,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _user(turn: Turn, *, joins: bool) -> Iterator[dict[str, Any]]:
    """Give the results of calls, and what was said after them; files of results come behind all of them."""
    files: list[Part] = []
    said = [content for content in turn.said if content]
    results = [_result(message, files) for message in turn.results]
    if files:
        said.insert(0, (Text("These are the files of the results above:"), *files))
    if results and said and joins and all(map(is_text, said)):
        results[-1]["content"] += f"\n\n{text_of(joined(said))}"
        said = []
    yield from results
    if said:
        yield {"role": "user", "content": content_data(joined(said))}
    elif not results:
        yield {"role": "user", "content": ""}


def _result(message: ToolMessage, files: list[Part]) -> dict[str, Any]:
    result = message.result
    if not is_text(result.content):
        files.extend(part for part in parts_of(result.content) if not isinstance(part, Text))
    return {
        "role": "tool",
        "tool_call_id": message.call_id,
        "content": told_result(result.text, result.is_error),
    }


def content_data(content: Content) -> Any:
    """Return content as a chat message holds it: a text, or an array of parts."""
    if is_text(content):
        return text_of(content)
    return [_part(part) for part in parts_of(content)]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image():
            return {"type": "image_url", "image_url": {"url": part.url or data_url(part)}}
        case Document():
            if part.media_type.startswith("text/") and part.data:
                return {"type": "text", "text": document_text(part)}
            if part.url:
                return {"type": "text", "text": told_of_file(part)}
            name = part.name or "document.pdf"
            return {"type": "file", "file": {"filename": name, "file_data": data_url(part)}}


def data_url(part: Image | Document) -> str:
    """Return a file as a `data:` address."""
    return f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"


def document_text(part: Document) -> str:
    """Return a document that is text as text, with its name."""
    text = part.data.decode("utf-8", "replace")
    return f"{part.name}:\n{text}" if part.name else text


# -- answers -----------------------------------------------------------------------------------


def _first_choice(data: Mapping[str, Any]) -> Mapping[str, Any]:
    for choice in reading.items_of(data.get("choices")):
        if isinstance(choice, dict) and choice.get("index") in (0, None):
            return choice
    return {}


def _check_choice(data: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
    """Raise what a server says in the place of an answer."""
    if data.get("error"):
        raise RefusedInStreamError(data)
    if choice.get("error"):
        raise RefusedInStreamError(choice)
    if not choice:
        if data.get("message") or data.get("detail") or data.get("errors"):
            raise RefusedInStreamError(data)
        raise MalformedReplyError(f"the answer has no choice: {reading.shown(str(dict(data)))}")


class _Answer:
    """Collects an answer, from its pieces or at once."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.stop: StopReason | None = None
        self.calls = reading.CallAssembler()
        self._text: list[str] = []
        self._refused: list[str] = []
        self._reasoning: list[str] = []
        self._kept: dict[str, list[str]] = {}
        self._details: list[dict[str, Any]] = []
        self._thoughts = reading.Thoughts()
        self._usage: Mapping[str, Any] = {}
        self.id: str | None = None
        self.model: str | None = None

    def head(self, data: Mapping[str, Any]) -> None:
        """Take what every piece says of the answer."""
        self.id = self.id or reading.words(data.get("id")) or None
        self.model = self.model or reading.words(data.get("model")) or None

    def count(self, data: Mapping[str, Any]) -> None:
        """Take what the answer used; the last counts."""
        usage = data.get("usage")
        if not usage and "x_groq" in data:
            usage = reading.mapping_of(data["x_groq"]).get("usage")
        if usage and isinstance(usage, dict):
            self._usage = usage

    def say(self, message: Mapping[str, Any], *, whole: bool = False) -> list[Delta]:
        """Take a message, or a piece of one, and return what it adds.

        Args:
          message: the message.
          whole: whether it is all of it; then each of its calls is one of its own.
        """
        content = message.get("content")
        if len(message) == 1 and type(content) is str:  # most pieces are nothing but text
            return self._said(content)
        deltas: list[Delta] = [ReasoningDelta(thought) for thought in self._thoughts_of(message)]
        deltas += self._said(content if isinstance(content, str) else reading.text_of(content))
        refused = message.get("refusal")
        if isinstance(refused, str) and refused:
            self._refused.append(refused)
        calls = message.get("tool_calls")
        if calls:
            for position, each in enumerate(reading.items_of(calls)):
                call = reading.mapping_of(each)
                self._call(call, position if whole else call.get("index"))
        elif message.get("function_call"):
            self._call({"function": message["function_call"]}, 0)
        return deltas

    def _said(self, text: str) -> list[Delta]:
        if not text:
            return []
        deltas: list[Delta] = list(self._thoughts.feed(text))
        self._keep(deltas)
        return deltas

    def _thoughts_of(self, message: Mapping[str, Any]) -> Iterator[str]:
        for name in _REASONING:
            thought = message.get(name)
            if isinstance(thought, str) and thought:
                self._kept.setdefault(name, []).append(thought)
                if name == _REASONING[0] or not message.get(_REASONING[0]):
                    self._reasoning.append(thought)
                    yield thought
        details = message.get("reasoning_details")
        if isinstance(details, list):
            _merge_details(self._details, details)
        thought = reading.thoughts_of(message.get("content"))
        if thought:
            self._reasoning.append(thought)
            yield thought

    def _keep(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            (self._text if isinstance(delta, TextDelta) else self._reasoning).append(delta.text)

    def _call(self, call: Mapping[str, Any], index: object) -> None:
        function = reading.mapping_of(call.get("function"))
        put_together = self.calls.add(
            index,
            id=reading.words(call.get("id")),
            name=reading.words(function.get("name") or call.get("name")),
            arguments=function.get("arguments", call.get("arguments")),
        )
        for name, value in call.items():
            if name not in _KNOWN_OF_CALL and value is not None:
                put_together.extra[name] = value

    def finish(self, word: object) -> None:
        """Take the finish marker, if it is one."""
        if word is not None and word != "":
            self.stop = reading.stop_of(word)

    def rest(self) -> list[Delta]:
        """Return what was held back of the text."""
        deltas = list(self._thoughts.close())
        self._keep(deltas)
        return deltas

    def completion(self) -> Completion:
        """Return the whole answer."""
        self.rest()
        if self.stop is None:
            raise MalformedReplyError("the answer ended without its finish marker")
        question = self.question
        calls = self.calls.calls(PROVIDER, question.model, truncated=self.stop in ("max_tokens", "refusal"))
        calls = reading.tidied(calls, question.tool_names, question.taken_ids()) if calls else ()
        text, stop = "".join(self._text), self.stop
        if self._refused and stop in ("end_turn", "stop_sequence") and not calls:
            text, stop = text or "".join(self._refused), "refusal"
        return reading.completion_of(
            text,
            calls,
            stop,
            usage_of(self._usage),
            reasoning="".join(self._reasoning).strip(),
            provider_data=self._provider_data(),
            response_id=self.id,
            served_model=self.model,
        )

    def _provider_data(self) -> ProviderData | None:
        kept: dict[str, Any] = {name: "".join(texts) for name, texts in self._kept.items()}
        if self._details:
            kept["reasoning_details"] = self._details
        return ProviderData(PROVIDER, self.question.model, kept) if kept else None


def _merge_details(kept: list[dict[str, Any]], details: Sequence[Any]) -> None:
    """Put pieces of reasoning items together: texts of one index are joined."""
    for detail in details:
        if not isinstance(detail, dict):
            continue
        same = next(
            (
                d
                for d in kept
                if "index" in detail
                and d.get("index") == detail["index"]
                and d.get("type") == detail.get("type")
            ),
            None,
        )
        if same is None:
            kept.append(dict(detail))
            continue
        for name, value in detail.items():
            if (
                name in ("text", "summary", "data")
                and isinstance(value, str)
                and isinstance(same.get(name), str)
            ):
                same[name] += value
            elif value is not None:
                same[name] = value


def usage_of(usage: Mapping[str, Any]) -> TokenUsage:
    """Return what an answer used, from the names that servers give the numbers.

    Where a total is more than its parts, the rest was thought: it counts as output.
    """
    if not usage:
        return TokenUsage()
    first = reading.first_count
    prompt = reading.mapping_of(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    answer = reading.mapping_of(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    given = first(usage, "prompt_tokens", "input_tokens")
    taken = first(usage, "completion_tokens", "output_tokens")
    output = max(taken, reading.count(usage.get("total_tokens")) - given)
    cached = first(prompt, "cached_tokens") or first(usage, "prompt_cache_hit_tokens", "cached_tokens")
    reasoning = first(answer, "reasoning_tokens") or first(usage, "reasoning_tokens")
    cost = usage.get("cost")
    return TokenUsage(
        given,
        output,
        min(reasoning, output),
        min(cached, given),
        min(first(prompt, "cache_write_tokens"), given),
        float(cost)
        if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < 1e6
        else 0.0,
    )


class ChatReader:
    """Reads a stream of chat completion chunks."""

    def __init__(self, question: Question) -> None:
        self._answer = _Answer(question)
        self.is_done = False

    def feed(self, data: Any, name: str) -> Iterable[Delta]:
        """Take one chunk."""
        if not isinstance(data, dict):
            raise MalformedReplyError(f"a piece of the stream is no object: {reading.shown(str(data))}")
        if data.get("error") or name == "error":
            raise RefusedInStreamError(data)
        answer = self._answer
        if answer.id is None or answer.model is None:
            answer.head(data)
        answer.count(data)
        choice = _first_choice(data)
        if not choice:
            return ()
        if choice.get("error"):
            raise RefusedInStreamError(choice)
        delta = choice.get("delta") or choice.get("message")
        deltas: list[Delta] = answer.say(delta) if isinstance(delta, dict) else []
        finish = choice.get("finish_reason")
        if finish:
            answer.finish(finish)
            deltas += answer.rest()
        return deltas

    def completion(self) -> Completion:
        """Return the whole answer."""
        return self._answer.completion()
