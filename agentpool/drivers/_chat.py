"""OpenAI's chat completions, which most servers speak in some way."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs

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

_KNOWN_OF_CALL = frozenset(
    {"id", "type", "index", "function", "name", "arguments", "parameters", "input", "args"}
)
_REASONING = ("reasoning_content", "reasoning", "reasoning_text")
_TO_KEEP = ("extra_content", "reasoning_opaque", "provider_specific_fields")
_ITEMS_TO_KEEP = ("reasoning_details", "thinking_blocks")
_FAILURES = ("error", "network_error", "abort", "MALFORMED_FUNCTION_CALL")


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
        choices = _choices(data)
        _check(data, choices)
        answer = _Answer(question)
        answer.head(data)
        for choice in choices:
            answer.complete(_message(choice))
            if answer.stop is None:
                answer.finish(choice)
        answer.count(data, choices[0])
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
    ids: Mapping[str, str] = {}
    for turn in turns:
        if turn.message is not None:
            messages.append(_assistant(turn, question))
            ids = {call.id: _own_of(call, question).get("id", call.id) for call in turn.calls}
        else:
            messages.extend(_user(turn, ids, joins="user_joins_tool" in traits))
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
        result["tool_calls"] = [_call(call, question) for call in turn.calls]
    elif not message.text:
        result["content"] = ""
    if not plain:
        result.update(question.own_data(message.provider_data, PROVIDER) or {})
    return result


def _own_of(call: ToolCall, question: Question) -> Mapping[str, Any]:
    """Return what a server hung on a call, unless it does not take that back."""
    if question.lessons.traits & {"plain_history", "short_ids"}:
        return {}
    return reading.mapping_of(question.own_data(call.provider_data, PROVIDER))


def _call(call: ToolCall, question: Question) -> dict[str, Any]:
    arguments = encoded(call.input).decode()
    return {
        "id": call.id,
        **_own_of(call, question),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _user(turn: Turn, ids: Mapping[str, str], *, joins: bool) -> Iterator[dict[str, Any]]:
    """Give the results of calls, and what was said after them; files of results come behind all of them."""
    files: list[Part] = []
    said = [content for content in turn.said if content]
    results = [_result(message, ids, files) for message in turn.results]
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


def _result(message: ToolMessage, ids: Mapping[str, str], files: list[Part]) -> dict[str, Any]:
    result = message.result
    if not is_text(result.content):
        files.extend(part for part in parts_of(result.content) if not isinstance(part, Text))
    return {
        "role": "tool",
        "tool_call_id": ids.get(message.call_id, message.call_id),
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


def _choices(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the choices that are one answer: the first, and with servers that do not number them all."""
    choices = [choice for choice in reading.items_of(data.get("choices")) if isinstance(choice, dict)]
    first = [choice for choice in choices if not reading.position_of(choice.get("index"))]
    return [*first] or [*choices[:1]]


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the message of a choice; some proxies give nothing but its text."""
    message = reading.mapping_of(choice.get("message"))
    return message or {"content": choice.get("text")}


def _check(data: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]) -> None:
    """Raise what a server says in the place of an answer."""
    for said in (data, *choices):
        if reading.is_error(said.get("error")):
            raise RefusedInStreamError(said)
    if not choices:
        if _is_refusal(data):
            raise RefusedInStreamError(data)
        raise MalformedReplyError(f"the answer has no choice: {reading.shown(str(dict(data)))}")


def _is_refusal(data: Mapping[str, Any]) -> bool:
    """Whether data without a choice says what is wrong, in the words of any server."""
    if reading.is_error(data.get("base_resp")):  # MiniMax
        return True
    names = ("message", "detail", "errors", "msg", "error_msg", "error_code")
    return any(data.get(name) for name in names)


class _Answer:
    """Collects an answer, from its pieces or at once."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.stop: StopReason | None = None
        self.told: Mapping[str, Any] | None = None  # what may be said in the place of an answer
        self.calls = reading.CallAssembler()
        self._text: list[str] = []
        self._refused: list[str] = []
        self._reasoning: list[str] = []
        self._kept: dict[str, Any] = {}
        self._items: dict[str, list[dict[str, Any]]] = {}
        self._has_content = False
        self._thoughts = reading.Thoughts()
        self._usage: Mapping[str, Any] = {}
        self.id: str | None = None
        self.model: str | None = None

    def head(self, data: Mapping[str, Any]) -> None:
        """Take what every piece says of the answer."""
        self.id = self.id or reading.words(data.get("id")) or None
        self.model = self.model or reading.words(data.get("model")) or None

    def count(self, data: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        """Take what the answer used. Of each number the last counts that is one; nothing takes none back."""
        usage = data.get("usage") or choice.get("usage")
        if not usage and "x_groq" in data:
            usage = reading.mapping_of(data["x_groq"]).get("usage")
        if usage and isinstance(usage, dict):
            self._usage = {**self._usage, **{name: value for name, value in usage.items() if value}}

    def complete(self, message: Mapping[str, Any]) -> list[Delta]:
        """Take a whole message, and return what it adds: some servers repeat it behind its pieces."""
        new = dict(message)
        known: list[str] = []
        if self._has_content:
            known.append("content")
        if self._refused:
            known.append("refusal")
        if len(self.calls):
            known += ["tool_calls", "function_call"]
        if self._reasoning:
            known += [*_REASONING, *_ITEMS_TO_KEEP]
        for name in known:
            new.pop(name, None)
        return self.say(new, whole=True)

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
        refused = reading.words(message.get("refusal")) or reading.refusal_of(content)
        if refused:
            self._refused.append(refused)
        calls = message.get("tool_calls")
        if calls:
            for position, each in enumerate(reading.items_of(calls)):
                call = reading.mapping_of(each)
                self._call(call, position if whole else reading.position_of(call.get("index")))
        elif message.get("function_call"):
            self._call({"function": message["function_call"]}, 0)
        return deltas

    def _said(self, text: str) -> list[Delta]:
        if not text:
            return []
        self._has_content = True
        deltas: list[Delta] = list(self._thoughts.feed(text))
        self._keep(deltas)
        return deltas

    def _thoughts_of(self, message: Mapping[str, Any]) -> Iterator[str]:
        thoughts = [name for name in _REASONING if message.get(name) and isinstance(message[name], str)]
        for name in thoughts:
            self._kept[name] = self._kept.get(name, "") + message[name]
        for name in thoughts[:1]:  # by several names it is one thought
            self._reasoning.append(message[name])
            yield message[name]
        for name in _TO_KEEP:
            if message.get(name):
                self._kept[name] = message[name]
        for name in _ITEMS_TO_KEEP:
            items = [item for item in reading.items_of(message.get(name)) if isinstance(item, dict)]
            if items:
                _merge_items(self._items.setdefault(name, []), items)
            if items and not thoughts:
                thoughts = [name]
                yield from self._reasoned(reading.thoughts_of(items))
        yield from self._reasoned(reading.thoughts_of(message.get("content")))

    def _reasoned(self, thought: str) -> Iterator[str]:
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
            arguments=reading.given_in(function, call),
        )
        for name, value in call.items():
            if name not in _KNOWN_OF_CALL and value is not None:
                put_together.extra[name] = value

    def finish(self, choice: Mapping[str, Any]) -> bool:
        """Take the finish marker of a choice, and return whether it has one."""
        word = choice.get("finish_reason") or choice.get("finishReason")
        if not word or word in ("null", "None"):
            return False
        native = choice.get("native_finish_reason")  # OpenRouter may hide a failure behind `stop`
        self.stop = reading.stop_of(native if native in _FAILURES else word)
        return True

    def rest(self) -> list[Delta]:
        """Return what was held back of the text."""
        deltas = list(self._thoughts.close())
        self._keep(deltas)
        return deltas

    def completion(self) -> Completion:
        """Return the whole answer."""
        self.rest()
        if self.stop is None and self.told is not None:
            raise RefusedInStreamError(self.told)
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
            tuple(_with_own_id(call, question.model) for call in calls),
            stop,
            usage_of(self._usage),
            reasoning="".join(self._reasoning).strip(),
            provider_data=self._provider_data(),
            response_id=self.id,
            served_model=self.model,
        )

    def _provider_data(self) -> ProviderData | None:
        kept = {**self._kept, **self._items}
        return ProviderData(PROVIDER, self.question.model, kept) if kept else None


def _with_own_id(call: ToolCall, model: str) -> ToolCall:
    """Keep an id that we rename for others: it may hold more, such as Gemini's signature with LiteLLM."""
    if LOOSE_IDS.pattern.fullmatch(call.id):
        return call
    data = {} if call.provider_data is None else call.provider_data.data
    return attrs.evolve(call, provider_data=ProviderData(PROVIDER, model, {**data, "id": call.id}))


def _merge_items(kept: list[dict[str, Any]], items: Iterable[dict[str, Any]]) -> None:
    """Put pieces of reasoning items together: of one index, or of thoughts that are not yet signed."""
    for item in items:
        same = next((known for known in kept if _is_same_item(known, item)), None)
        if same is None and kept and _goes_on(kept[-1], item):
            same = kept[-1]
        if same is None:
            kept.append(dict(item))
            continue
        for name, value in item.items():
            before = same.get(name)
            if name in ("text", "summary", "data", "thinking") and isinstance(before, str):
                same[name] = before + reading.words(value)
            elif value is not None and value != "":
                same[name] = value


def _is_same_item(known: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    return "index" in item and (known.get("index"), known.get("type")) == (item["index"], item.get("type"))


def _goes_on(known: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    is_thought = known.get("type") == item.get("type") == "thinking"
    return is_thought and "index" not in item and not known.get("signature")


def usage_of(usage: Mapping[str, Any]) -> TokenUsage:
    """Return what an answer used, from the names that servers give the numbers.

    Where a total is more than its parts, the rest was thought: it counts as output, unless it is
    the part of the prompt that was cached.
    """
    if not usage:
        return TokenUsage()
    first = reading.first_count
    prompt = reading.mapping_of(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    answer = reading.mapping_of(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    given = first(usage, "prompt_tokens", "input_tokens")
    taken = first(usage, "completion_tokens", "output_tokens")
    cached = first(prompt, "cached_tokens") or first(
        usage, "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"
    )
    written = first(prompt, "cache_write_tokens", "cache_creation_tokens") or first(
        usage, "cache_creation_input_tokens"
    )
    reasoning = first(answer, "reasoning_tokens") or first(usage, "reasoning_tokens")
    rest = max(0, reading.count(usage.get("total_tokens")) - given - taken)
    if 0 < cached + written in (rest, rest - reasoning) and rest != reasoning:
        given, rest = given + cached + written, rest - cached - written  # Claude's way, of some proxies
    output = taken + (rest or (reasoning if reasoning > taken else 0))
    cost = usage.get("cost")
    if isinstance(cost, dict):  # Perplexity tells its parts
        cost = cost.get("total_cost")
    return TokenUsage(
        given,
        output,
        min(reasoning, output),
        min(cached, given),
        min(written, given),
        float(cost)
        if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < 1e6
        else 0.0,
    )


class ChatReader:
    """Reads a stream of chat completion chunks."""

    def __init__(self, question: Question) -> None:
        self._answer = _Answer(question)
        self._position: int | None = None
        self._in_pieces = False
        self.is_done = False

    def feed(self, data: Any, name: str) -> Iterable[Delta]:
        """Take one chunk."""
        if not isinstance(data, dict):
            raise MalformedReplyError(f"a piece of the stream is no object: {reading.shown(str(data))}")
        if reading.is_error(data.get("error")) or name == "error":
            raise RefusedInStreamError(data)
        answer = self._answer
        if answer.id is None or answer.model is None:
            answer.head(data)
        choice = self._choice(data)
        answer.count(data, choice)
        if not choice:
            self._without_choice(data)
            return ()
        if reading.is_error(choice.get("error")):
            raise RefusedInStreamError(choice)
        deltas = self._said(choice)
        if answer.finish(choice):
            deltas += answer.rest()
        return deltas

    def _without_choice(self, data: Mapping[str, Any]) -> None:
        if _is_refusal(data):
            self._answer.told = data  # an answer may come nevertheless
        elif data.get("usage") and self._answer.stop is not None:
            self.is_done = True  # the usage comes behind all else; some servers say no [DONE] after it

    def _choice(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the choice of a chunk that goes on with the one that came first."""
        for choice in reading.items_of(data.get("choices")):
            if isinstance(choice, dict):
                position = reading.position_of(choice.get("index")) or 0
                if self._position is None:
                    self._position = position
                if position == self._position:
                    return choice
        return {}

    def _said(self, choice: Mapping[str, Any]) -> list[Delta]:
        delta = choice.get("delta")
        if delta and isinstance(delta, dict):
            self._in_pieces = True
            return self._answer.say(delta)
        if self._in_pieces:
            return self._answer.complete(reading.mapping_of(choice.get("message")))
        return self._answer.say(_message(choice))

    def completion(self) -> Completion:
        """Return the whole answer."""
        return self._answer.completion()
