"""Reading the answers of Anthropic's messages: from blocks, at once or in pieces, to a completion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from agentpool.drivers import _reading as reading
from agentpool.drivers._dialect import Delta, RefusedInStreamError
from agentpool.drivers._fitting import Question
from agentpool.drivers._schemas import named_schema

PROVIDER = "anthropic"

CONTAINER = "container"
"""What the container of a model's programs is kept as, beside the blocks of an answer."""

_PLAIN = ("text", "tool_use")
_OF_THE_CACHE = ("cache_read_input_tokens", "cache_creation_input_tokens")


class MessagesAnswer:
    """Collects an answer block by block."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._blocks: list[dict[str, Any]] = []
        self._at: dict[int, int] = {}  # from the server's number of a block, which may come twice
        self._inputs: dict[int, list[str]] = {}  # of calls that the provider runs itself
        self._calls = reading.CallAssembler()
        self._thoughts = reading.Thoughts()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._usage: dict[str, Any] = {}
        self._id: str | None = None
        self._model: str | None = None
        self._container = ""
        self.stop: StopReason | None = None

    @classmethod
    def read(cls, data: Mapping[str, Any], question: Question) -> Completion:
        """Read a whole answer."""
        answer = cls(question)
        answer.head(data)
        content = data.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise MalformedReplyError(f"the answer has no content: {reading.shown(str(dict(data)))}")
        for index, block in enumerate(content):
            answer.begin(index, reading.mapping_of(block))
        answer.finish(data)
        return answer.completion()

    def head(self, message: Mapping[str, Any]) -> None:
        """Take what a message says of itself."""
        id = reading.words(message.get("id"))
        if id and self._id and id != self._id and self._blocks:
            raise MalformedReplyError("a second answer began in the middle of the first")
        self._id = id or self._id
        self._model = reading.words(message.get("model")) or self._model
        self.count(message.get("usage"))
        self._run_in(message.get("container"))

    def _run_in(self, container: object) -> None:
        self._container = reading.words(reading.mapping_of(container).get("id")) or self._container

    def count(self, usage: object) -> None:
        """Take what the answer used; later numbers stand for the whole answer, too.

        Gateways that count at one end of the stream only send 0 at the other. But what was taken for
        written to the cache may turn out as read from it.
        """
        counts = reading.mapping_of(usage)
        is_split = any(reading.count(counts.get(name)) for name in _OF_THE_CACHE)
        for name, value in counts.items():
            told = any(value.values()) if isinstance(value, dict) else value
            if value is not None and (
                told or name not in self._usage or (is_split and name in _OF_THE_CACHE)
            ):
                self._usage[name] = value

    def begin(self, index: int, block: Mapping[str, Any]) -> list[Delta]:
        """Take the beginning of a block, which may be all of it, and return what it adds."""
        kept = dict(block)
        kind = kept.get("type")
        position = self._at.get(index)
        if kind != "tool_use" or position is None or not self._is_same_call(position, kept):
            position = self._at[index] = len(self._blocks)
            self._blocks.append(kept)
        if kind == "text":
            kept["text"] = ""
            return self.say(index, reading.words(block.get("text")))
        if kind == "thinking":
            kept["thinking"] = ""
            return self.think(index, reading.words(block.get("thinking")))
        if kind == "tool_use":
            call = self._calls.add(
                position, id=reading.words(block.get("id")), name=reading.words(block.get("name"))
            )
            call.whole = block.get("input")  # stands for the arguments only if no piece of them comes
        return []

    def _is_same_call(self, position: int, block: Mapping[str, Any]) -> bool:
        known = self._blocks[position]
        return known.get("type") == "tool_use" and bool(block.get("id")) and known.get("id") == block["id"]

    def say(self, index: int, text: str) -> list[Delta]:
        """Take a piece of text."""
        if not text:
            return []
        self._block(index, "text")["text"] += text
        return self._told(self._thoughts.feed(text))

    def _told(self, deltas: Iterable[Delta]) -> list[Delta]:
        told = list(deltas)
        for delta in told:
            (self._text if isinstance(delta, TextDelta) else self._reasoning).append(delta.text)
        return told

    def think(self, index: int, thought: str) -> list[Delta]:
        """Take a piece of what the model thinks."""
        if not thought:
            return []
        block = self._block(index, "thinking")
        apart = "" if block["thinking"] or not self._reasoning else "\n\n"
        block["thinking"] += thought
        self._reasoning.append(apart + thought)
        return [ReasoningDelta(apart + thought)]

    def sign(self, index: int, signature: str) -> None:
        """Take a piece of the signature of what was thought."""
        block = self._block(index, "thinking")
        block["signature"] = reading.words(block.get("signature")) + signature

    def cite(self, index: int, citation: object) -> None:
        """Take a citation of a text."""
        block = self._block(index, "text")
        block["citations"] = [*reading.items_of(block.get("citations")), citation]

    def call(self, index: int, arguments: str) -> None:
        """Take a piece of the arguments of a call, ours or one that the provider runs itself."""
        position = self._at.get(index)
        if position is None or self._blocks[position].get("type") in ("text", "thinking"):
            self.begin(index, {"type": "tool_use"})
            position = self._at[index]
        if self._blocks[position].get("type") == "tool_use":
            self._calls.add(position, arguments=arguments)
        else:
            self._inputs.setdefault(position, []).append(arguments)

    def extend(self, index: int, delta: Mapping[str, Any]) -> None:
        """Take a piece of a kind that is not known: its texts go on those of its block."""
        position = self._at.get(index)
        if position is None or self._blocks[position].get("type") in (*_PLAIN, "thinking"):
            return
        block = self._blocks[position]
        for name, value in delta.items():
            if name != "type" and isinstance(value, str):
                block[name] = reading.words(block.get(name)) + value

    def _block(self, index: int, kind: str) -> dict[str, Any]:
        """Return the block of a piece; where that is of another kind, or was never begun, a new one."""
        position = self._at.get(index)
        if position is None or self._blocks[position].get("type") != kind:
            self.begin(index, {"type": kind})
            position = self._at[index]
        return self._blocks[position]

    def finish(self, told: Mapping[str, Any]) -> list[Delta]:
        """Take why the answer stopped, if it says so; of a refusal without a word, why it refuses."""
        word = told.get("stop_reason")
        self._run_in(told.get("container"))
        if word is not None and word != "":
            self.stop = reading.stop_of(word)
        why = reading.words(reading.mapping_of(told.get("stop_details")).get("explanation"))
        if self.stop != "refusal" or self._text or not why:
            return []
        return self._told([*self._thoughts.close(), TextDelta(why)])

    def rest(self) -> list[Delta]:
        """Return what was held back of the text."""
        return self._told(self._thoughts.close())

    def completion(self) -> Completion:
        """Return the whole answer."""
        self.rest()
        if self.stop is None:
            raise MalformedReplyError("the answer ended without its finish marker (stop_reason)")
        question = self._question
        calls = self._calls.calls(PROVIDER, question.model, truncated=self.stop in ("max_tokens", "refusal"))
        calls = reading.tidied(calls, question.tool_names, question.taken_ids()) if calls else ()
        return reading.completion_of(
            "".join(self._text),
            tuple(_with_own_names(call, question) for call in calls),
            self.stop,
            usage_of(self._usage),
            reasoning="".join(self._reasoning).strip(),
            provider_data=self._kept(),
            response_id=self._id,
            served_model=self._model,
        )

    def _kept(self) -> ProviderData | None:
        """Return all blocks in their order, if some are more than text and calls.

        Of calls only the place is kept: the message has them.
        """
        for position, pieces in self._inputs.items():
            given, problem = reading.arguments_of("".join(pieces))
            if not problem:
                self._blocks[position]["input"] = given
        blocks = [_kept_call(block) for block in self._blocks if reading.words(block.get("type"))]
        if not self._container and all(
            block == {"type": "tool_use"} or block["type"] == "text" for block in blocks
        ):
            return None
        kept = [block for block in blocks if block["type"] != "text" or block["text"].strip()]
        if self._container:
            kept.append({"type": CONTAINER, "id": self._container})
        return ProviderData(PROVIDER, self._question.model, kept)


def _kept_call(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block; of a call of ours its place, and which program of the model's made it."""
    if block["type"] != "tool_use":
        return block
    caller = reading.mapping_of(block.get("caller"))
    made = bool(reading.words(caller.get("tool_id")))
    return {"type": "tool_use", "caller": caller} if made else {"type": "tool_use"}


def _with_own_names(call: ToolCall, question: Question) -> ToolCall:
    """Return a call whose arguments have the names that the tool gave them."""
    tool = next((tool for tool in question.request.tools if tool.name == call.name), None)
    own = {} if tool is None else named_schema(tool.sound_schema)[1]
    if not own.keys() & call.input.keys():
        return call
    return attrs.evolve(call, input={own.get(name, name): value for name, value in call.input.items()})


def usage_of(usage: Mapping[str, Any]) -> TokenUsage:
    """Return what an answer used. Anthropic counts what was cached apart from other input."""
    read = reading.count(usage.get("cache_read_input_tokens"))
    written = reading.count(usage.get("cache_creation_input_tokens"))
    kept = reading.mapping_of(usage.get("cache_creation"))
    details = reading.mapping_of(usage.get("output_tokens_details"))
    given = reading.count(usage.get("input_tokens"))
    if given or not usage.get("prompt_tokens"):  # which has all of it
        given += read + written
    return TokenUsage(
        input_tokens=given or reading.count(usage.get("prompt_tokens")),
        output_tokens=reading.first_count(usage, "output_tokens", "completion_tokens"),
        reasoning_tokens=reading.count(details.get("thinking_tokens")),
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(reading.count(kept.get("ephemeral_1h_input_tokens")), written),
    )


class MessagesReader:
    """Reads the events of a streamed answer."""

    def __init__(self, question: Question) -> None:
        self._answer = MessagesAnswer(question)
        self.is_done = False

    def feed(self, data: Any, name: str) -> Iterable[Delta]:
        """Take one event."""
        if not isinstance(data, dict):
            raise MalformedReplyError(f"an event of the stream is no object: {reading.shown(str(data))}")
        kind = data.get("type") or name
        if kind == "error" or data.get("error"):
            raise RefusedInStreamError(data)
        answer, index = self._answer, reading.count(data.get("index"))
        if kind == "content_block_delta":
            return self._delta(index, reading.mapping_of(data.get("delta")))
        if kind == "content_block_start":
            return answer.begin(index, reading.mapping_of(data.get("content_block")))
        if kind == "message_start":
            answer.head(reading.mapping_of(data.get("message")))
        elif kind == "message_delta":
            answer.count(data.get("usage"))
            return answer.finish(reading.mapping_of(data.get("delta")))
        elif kind == "message_stop":
            self.is_done = True
            return answer.rest()
        return ()

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Iterable[Delta]:
        kind, answer = delta.get("type"), self._answer
        if kind == "text_delta":
            return answer.say(index, reading.words(delta.get("text")))
        if kind == "thinking_delta":
            return answer.think(index, reading.words(delta.get("thinking")))
        if kind == "signature_delta":
            answer.sign(index, reading.words(delta.get("signature")))
        elif kind == "input_json_delta":
            answer.call(index, reading.words(delta.get("partial_json")))
        elif kind == "citations_delta":
            answer.cite(index, delta.get("citation"))
        else:
            answer.extend(index, delta)
        return ()

    def completion(self) -> Completion:
        """Return the whole answer."""
        if not self.is_done:
            raise MalformedReplyError("the stream ended without its finish marker (message_stop)")
        return self._answer.completion()
