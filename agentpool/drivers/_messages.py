"""Anthropic's messages: `POST /v1/messages`, also as Bedrock, Vertex and gateways speak it."""

from __future__ import annotations

import base64
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from agentpool._core.content import Content, Document, Image, Part, Text, parts_of, told_of_file
from agentpool._core.messages import AssistantMessage, Completion, ToolCall, ToolMessage, UserMessage
from agentpool._core.text import encodable
from agentpool.drivers._dialect import RefusedInStreamError
from agentpool.drivers._fitting import STRICT_IDS, Question, Turn, is_text, schema_instruction
from agentpool.drivers._messages_reading import CONTAINER, PROVIDER, MessagesAnswer, MessagesReader
from agentpool.drivers._schemas import closed_schema, named_schema

_CACHE = {"type": "ephemeral"}

_LEAST_THINKING = 1024  # what the API takes at the least
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_768, "max": 32_768}


class MessagesDialect:
    """Anthropic's messages.

    Args:
      prefix: what stands between the server's address and `/messages`.
      cache: whether to set points at which the provider caches what came before.
    """

    framing: Literal["sse", "lines"] = "sse"
    droppable = frozenset(
        {
            "temperature",
            "stop_sequences",
            "tool_choice",
            "thinking",
            "output_config",
            "output_config.format",
            "output_config.effort",
        }
    )

    def __init__(self, prefix: str = "/v1", *, cache: bool = True) -> None:
        self._path = f"{prefix}/messages"
        self._cache = cache

    def path(self, question: Question, *, streaming: bool) -> str:
        """Return the path."""
        return self._path

    def body(self, question: Question, *, streaming: bool) -> dict[str, Any]:
        """Return the body of a request."""
        request = question.request
        caches = self._caches(question)
        schema = _native_schema(question)
        system = request.system
        if request.output_schema is not None and schema is None:
            system = schema_instruction(system, request.output_schema)
        body: dict[str, Any] = {
            "model": question.model,
            "max_tokens": request.max_tokens,
            "messages": _messages(question, caches=caches),
        }
        if system.strip():
            body["system"] = _system(system, caches=caches)
        if request.tools:
            body["tools"] = _tools(question, caches=caches)
            body.update(_choice(question))
        elif "tools_for_calls" in question.lessons.traits:
            body.update(_tools_of_calls(body["messages"]))
        if request.stop:
            # The API takes no stop string that is white space.
            stops = [text for text in request.stop if text.strip()]
            if stops:
                body["stop_sequences"] = stops
        thinking = _thinking(question, forced=_is_forced(request.tool_choice) and bool(request.tools))
        if thinking.get("thinking", {}).get("type") != "enabled" or _may_think(body["messages"]):
            body.update(thinking)
        container = _container(question)
        if container:
            # As a table only where the user has one, too: then both are merged.
            inside = any(name.startswith("container.") for name in question.own)
            body["container"] = {"id": container} if inside else container
        if schema is not None:
            body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}
        if request.temperature is not None and body.get("thinking", {}).get("type") not in _THINKS:
            body["temperature"] = min(request.temperature, 1.0)  # as far as Anthropic's scale goes
        if streaming:
            body["stream"] = True
        return body

    def _caches(self, question: Question) -> bool:
        """Whether to set points of ours: four are taken at the most, so a user's own are alone."""
        own = any(name == "cache_control" or name.startswith("cache_control.") for name in question.own)
        return self._cache and not own and "no_cache_points" not in question.lessons.traits

    def completion(self, data: Mapping[str, Any], question: Question) -> Completion:
        """Read a whole answer."""
        if data.get("type") == "error" or data.get("error"):
            raise RefusedInStreamError(data)
        return MessagesAnswer.read(data, question)

    def reader(self, question: Question) -> MessagesReader:
        """Return a reader for one streamed answer."""
        return MessagesReader(question)


_THINKS = ("enabled", "adaptive")
_THOUGHTS = ("thinking", "redacted_thinking")


def _native_schema(question: Question) -> dict[str, Any] | None:
    schema = question.request.output_schema
    dropped = question.lessons.dropped
    if schema is None or "output_config.format" in dropped or "output_config" in dropped:
        return None
    return closed_schema(schema)


def _system(system: str, *, caches: bool) -> Any:
    if not caches:
        return system
    return [{"type": "text", "text": system, "cache_control": _CACHE}]


def _tools(question: Question, *, caches: bool) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = [
        {
            "name": question.name_of(tool.name),
            **({"description": tool.description} if tool.description.strip() else {}),
            "input_schema": named_schema(tool.sound_schema)[0],
        }
        for tool in question.request.tools
    ]
    if caches:
        tools[-1] = {**tools[-1], "cache_control": _CACHE}
    return tools


def _tools_of_calls(messages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the tools that were called before, as ones that must not be called any more."""
    blocks = (block for message in messages for block in message["content"])
    names = dict.fromkeys(block["name"] for block in blocks if block["type"] == "tool_use")
    if not names:
        return {}
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in names]
    return {"tools": tools, "tool_choice": {"type": "none"}}


_CHOICES = {"auto": "auto", "required": "any", "none": "none"}


def _choice(question: Question) -> dict[str, Any]:
    choice, parallel = question.request.tool_choice, question.request.parallel_tool_calls
    if choice is None and parallel:
        return {}
    if choice is None or choice in _CHOICES:
        said: dict[str, Any] = {"type": _CHOICES[choice or "auto"]}
    else:
        said = {"type": "tool", "name": question.name_of(choice)}
    if not parallel and said["type"] != "none":
        said["disable_parallel_tool_use"] = True
    return {"tool_choice": said}


def _is_forced(choice: str | None) -> bool:
    return choice is not None and choice not in ("auto", "none")


def _thinking(question: Question, *, forced: bool) -> dict[str, Any]:
    """Return how much the model thinks.

    Thinking and a call that is forced exclude each other: then it does not think. Thoughts count as
    output, so that a budget for them stays below `max_tokens`, which a budget in money relies on.
    """
    reasoning, traits = question.request.reasoning, question.lessons.traits
    if reasoning is None or (forced and reasoning != 0):
        return {}
    if reasoning == 0 or reasoning == "none":
        return {"thinking": {"type": "disabled"}}
    if isinstance(reasoning, str) and "budget_thinking" not in traits:
        effort = "low" if reasoning == "minimal" else reasoning
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
    if "adaptive_thinking" in traits:
        return {"thinking": {"type": "adaptive"}}
    wished = _BUDGETS.get(reasoning, 8192) if isinstance(reasoning, str) else reasoning
    most = question.lessons.capped.get("max_tokens", question.request.max_tokens)
    budget = min(max(wished, _LEAST_THINKING), min(most, question.request.max_tokens) - 1)
    if budget < _LEAST_THINKING:
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _may_think(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a budget for thoughts may be given.

    It may not while results are given to calls before which nothing was thought: another model made
    them, or thoughts were left out. Nor may it in the middle of an answer that began without any.
    """
    if messages[-1]["role"] == "assistant":
        return messages[-1]["content"][0]["type"] in _THOUGHTS
    if messages[-1]["content"][0]["type"] != "tool_result":
        return True
    return len(messages) > 1 and messages[-2]["content"][0]["type"] in _THOUGHTS


# -- the conversation ---------------------------------------------------------------------


def _messages(question: Question, *, caches: bool) -> list[dict[str, Any]]:
    messages = _together(_paired([_message(turn, question) for turn in question.turns(STRICT_IDS)]))
    if not messages or messages[0]["role"] != "user":
        messages.insert(
            0, {"role": "user", "content": [{"type": "text", "text": "(The conversation goes on.)"}]}
        )
    last = messages[-1]["content"][-1]
    if messages[-1]["role"] == "assistant" and "user_last" in question.lessons.traits:
        messages.append({"role": "user", "content": [{"type": "text", "text": "Go on."}]})
    elif messages[-1]["role"] == "assistant" and last["type"] == "text":
        # What the model is to go on from may not end in white space.
        messages[-1]["content"][-1] = {**last, "text": last["text"].rstrip()}
    if caches:
        for message in [message for message in messages if message["role"] == "user"][-2:]:
            message["content"][-1] = {**message["content"][-1], "cache_control": _CACHE}
    return messages


def _paired(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give messages in which each call that the provider runs itself stands with its result.

    The API refuses one without the other. A call may lack its result as long as the provider still
    has to run it: the conversation goes on from there, or with results of our own calls. The other
    half may also have been dropped with the oldest turns.
    """
    blocks = [(place, block) for place, message in enumerate(messages) for block in message["content"]]
    uses = {block["id"] for _, block in blocks if _is_own_use(block)}
    results = {block["tool_use_id"] for _, block in blocks if _is_own_result(block)}
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            rest = messages[place + 1 :]
            is_pending = not rest or (len(rest) == 1 and _gives_results(rest[0]))
            kept = [
                block
                for block in message["content"]
                if not (_is_own_use(block) and block["id"] not in results and not is_pending)
                and not (_is_own_result(block) and block["tool_use_id"] not in uses)
            ]
            while kept and kept[-1]["type"] in _THOUGHTS:  # which an answer may not end with
                kept.pop()
            message = {**message, "content": [_of_known_caller(block, uses) for block in kept]}
        yield message


def _together(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages without those that say nothing, and what then stands side by side together."""
    together: list[dict[str, Any]] = []
    for message in messages:
        if together and together[-1]["role"] == message["role"]:
            together[-1]["content"] += message["content"]
        elif message["content"]:
            together.append(message)
    return together


def _message(turn: Turn, question: Question) -> dict[str, Any]:
    if turn.message is not None:
        return {"role": "assistant", "content": _said(turn, question)}
    content: list[dict[str, Any]] = [_result(message) for message in turn.results]
    for message in turn.results:
        if message.result.is_error:  # of which the API takes nothing but text
            content += [block for block in _blocks(message.result.content) if block["type"] != "text"]
    for said in turn.said:
        content += _blocks(said)
    return {"role": "user", "content": content}


def _gives_results(message: Mapping[str, Any]) -> bool:
    return bool(message["content"]) and message["content"][0]["type"] == "tool_result"


def _is_own_use(block: Mapping[str, Any]) -> bool:
    """Whether this is a call that the provider runs itself."""
    return block["type"] in ("server_tool_use", "mcp_tool_use") and isinstance(block.get("id"), str)


def _is_own_result(block: Mapping[str, Any]) -> bool:
    """Whether this is what such a call came to."""
    return block["type"].endswith("_tool_result") and isinstance(block.get("tool_use_id"), str)


def _of_known_caller(block: dict[str, Any], uses: Container[str]) -> dict[str, Any]:
    """Return a block; a call of ours that a program of the model's made, whose call is gone, without that."""
    if "caller" not in block or block["caller"].get("tool_id") in uses:
        return block
    return {name: value for name, value in block.items() if name != "caller"}


def _said(turn: Turn, question: Question) -> list[dict[str, Any]]:
    """Return what the model said, with what only the provider understands in the place where it was."""
    assert turn.message is not None
    *parts, last = turn.parts or (turn.message,)
    blocks = [block for part in parts for block in _answer(part, (), question)]
    return [*blocks, *_answer(last, turn.calls, question)]


def _answer(message: AssistantMessage, made: Sequence[ToolCall], question: Question) -> list[dict[str, Any]]:
    data = question.own_data(message.provider_data, PROVIDER)
    kept = [block for block in data if block.get("type") != CONTAINER] if isinstance(data, list) else []
    if "no_thoughts" in question.lessons.traits:
        kept = [block for block in kept if block.get("type") not in _THOUGHTS]
    told = [block for block in kept if block.get("type") == "text"]
    calls = [block for block in kept if block.get("type") == "tool_use"]
    text = encodable("".join(block["text"] for block in told))
    if kept and len(calls) == len(made) and text == encodable(message.text):
        rest = iter(made)
        return [
            {**block, **_call(next(rest))} if block.get("type") == "tool_use" else block for block in kept
        ]
    special = [block for block in kept if block.get("type") not in ("text", "tool_use")]
    return [*special, *_blocks(message.text), *map(_call, made)]


def _container(question: Question) -> str:
    """Return the container that the model's programs run in, until the user asks something new.

    The API wants its name while calls wait that such a program made.
    """
    for message in reversed(question.request.messages):
        if isinstance(message, UserMessage) and message.kind == "query":
            break
        data = isinstance(message, AssistantMessage) and question.own_data(message.provider_data, PROVIDER)
        for block in data if isinstance(data, list) else ():
            if block.get("type") == CONTAINER:
                return str(block["id"])
    return ""


def _call(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}


def _result(message: ToolMessage) -> dict[str, Any]:
    content = message.result.content
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": message.call_id}
    # An empty content is left out: the API takes no empty block. But an error has to say something.
    told: Any = message.result.text if is_text(content) or message.result.is_error else _blocks(content)
    if told if isinstance(told, list) else told.strip():
        block["content"] = told
    elif message.result.is_error:
        block["content"] = "an error without words"
    return {**block, "is_error": True} if message.result.is_error else block


def _blocks(content: Content) -> list[dict[str, Any]]:
    return list(_some_blocks(parts_of(content)))


def _some_blocks(parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
    for part in parts:
        match part:
            case Text(text):
                if text.strip():  # the API takes no block that is empty
                    yield {"type": "text", "text": text}
            case Image():
                yield _picture(part)
            case Document():
                yield _document(part)


_PICTURES = {
    "image/jpeg": rb"\xff\xd8\xff",
    "image/png": rb"\x89PNG",
    "image/gif": rb"GIF8",
    "image/webp": rb"RIFF....WEBP",
}
_JPEGS = ("image/jpg", "image/jpe", "image/jfif", "image/pjpeg")


def _picture(part: Image) -> dict[str, Any]:
    """Return a picture; one of a kind that the API does not take as a line of text.

    The API looks into a picture, and refuses one that is something else than its media type says.
    """
    if part.url:
        return {"type": "image", "source": _source(part)}
    given = "image/jpeg" if part.media_type in _JPEGS else part.media_type
    kind = next((kind for kind, start in _PICTURES.items() if re.match(start, part.data, re.DOTALL)), given)
    if kind not in _PICTURES:
        return {"type": "text", "text": told_of_file(part)}
    return {"type": "image", "source": _source(part, kind)}


def _source(part: Image | Document, kind: str = "") -> dict[str, Any]:
    if part.url:
        return {"type": "url", "url": part.url}
    data = base64.b64encode(part.data).decode()
    return {"type": "base64", "media_type": kind or part.media_type, "data": data}


def _document(part: Document) -> dict[str, Any]:
    if part.data and part.media_type.startswith("text/"):
        text = part.data.decode("utf-8", "replace")
        source: dict[str, Any] = {"type": "text", "media_type": "text/plain", "data": text}
    elif part.url or part.media_type == "application/pdf":
        source = _source(part)
    else:
        return {"type": "text", "text": told_of_file(part)}
    block: dict[str, Any] = {"type": "document", "source": source}
    return {**block, "title": part.name} if part.name else block
