"""Hooks that take secrets out of what a model is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

import attrs

from agentpool._blocking import run_blocking
from agentpool._core.content import Content, Text
from agentpool._core.detection import KnownSecrets, is_secret_under, spans_of
from agentpool._core.messages import (
    AssistantMessage,
    ChatMessage,
    CompletionRequest,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from agentpool._core.redaction import is_placeholder, merged_spans
from agentpool._core.text import shown
from agentpool.abc import HookContext, Hooks

Cleaner: TypeAlias = Callable[[str], str]

_LONG = 20_000
"""Texts with more characters are looked through in a thread."""

_MOST_KNOWN = 2_000


def _as_patterns(given: Any) -> tuple[re.Pattern[str] | Cleaner, ...]:
    if isinstance(given, str | re.Pattern) or not isinstance(given, Iterable):
        raise TypeError(f"patterns must be a list of regular expressions and functions, not {shown(given)}")
    return tuple(map(_as_pattern, given))


def _as_pattern(each: Any) -> re.Pattern[str] | Cleaner:
    if isinstance(each, str):
        try:
            return re.compile(each)
        except re.error as error:
            raise ValueError(f"{each!r} is no regular expression: {error}") from error
    if isinstance(each, re.Pattern) or callable(each):
        return cast("re.Pattern[str] | Cleaner", each)
    raise TypeError(f"a pattern must be a regular expression or a function of a text, not {shown(each)}")


def _as_texts(given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise TypeError("secrets must be a list of texts, not one text; write it in brackets")
    return tuple(given)


def _known_to(hook: Redact) -> KnownSecrets:
    return KnownSecrets.of(hook.secrets)


@attrs.frozen(eq=False)
class Redact(Hooks):
    """Hooks that take secrets out of tool results, and out of each request before it is sent.

    Known secrets (given ones, and those of the environment) are found wherever they stand, others by what
    they look like (`sk-...`, the value of `password=`). A result is cleaned before it is put into the
    transcript. A request is cleaned on its way: the transcript keeps what was said. What a provider signed
    (`provider_data`), pictures and documents are not looked at.

    Attributes:
      patterns: more that is taken out: regular expressions, and functions that return a text without it.
      secrets: texts that are secrets.
      detect: whether to look for what looks like a secret.
      replacement: what stands in their place.

    Raises:
      TypeError, ValueError: if an argument makes no sense.
    """

    patterns: tuple[re.Pattern[str] | Cleaner, ...] = attrs.field(default=(), converter=_as_patterns)
    secrets: tuple[str, ...] = attrs.field(default=(), converter=_as_texts, kw_only=True, repr=False)
    detect: bool = attrs.field(default=True, kw_only=True)
    replacement: str = attrs.field(
        default="[hidden]", kw_only=True, validator=attrs.validators.instance_of(str)
    )
    _known: KnownSecrets = attrs.field(
        init=False, repr=False, default=attrs.Factory(_known_to, takes_self=True)
    )
    _clean_texts: dict[str, str] = attrs.field(factory=dict, init=False, repr=False)

    async def before_model_call(self, ctx: HookContext, request: CompletionRequest) -> CompletionRequest:
        """Clean what is sent."""
        messages = [await self._message(message) for message in request.messages]
        system = await self._text(request.system)
        if system == request.system and all(map(_is, messages, request.messages)):
            return request
        return attrs.evolve(request, messages=tuple(messages), system=system)

    async def after_tool_call(self, ctx: HookContext, call: ToolCall, result: ToolResult) -> ToolResult:
        """Clean what a tool returned."""
        return await self._result(result)

    def clean(self, text: str) -> str:
        """Return a text without secrets."""
        spans = list(self._known.spans(text))
        if self.detect:
            spans += [span for span in spans_of(text) if not is_placeholder(text[slice(*span)])]
        pieces, done = [], 0
        for start, end in merged_spans(spans):
            pieces += [text[done:start], self.replacement]
            done = end
        text = "".join(pieces) + text[done:]
        for pattern in self.patterns:
            if isinstance(pattern, re.Pattern):
                text = pattern.sub(lambda _: self.replacement, text)
            else:
                text = pattern(text)
        return text

    # -- what holds texts --------------------------------------------------------------------------

    async def _text(self, text: str) -> str:
        known = self._clean_texts.get(text)
        if known is not None:
            return known
        clean = self.clean(text) if len(text) <= _LONG else await run_blocking(self.clean, text)
        if len(self._clean_texts) >= _MOST_KNOWN:
            self._clean_texts.clear()
        self._clean_texts[text] = clean
        return clean

    async def _content(self, content: Content) -> Content:
        if isinstance(content, str):
            return await self._text(content)
        parts = [Text(await self._text(part.text)) if isinstance(part, Text) else part for part in content]
        return content if tuple(parts) == content else tuple(parts)

    async def _result(self, result: ToolResult) -> ToolResult:
        content = await self._content(result.content)
        return result if content == result.content else ToolResult(content, result.is_error)

    async def _message(self, message: ChatMessage) -> ChatMessage:
        changed: ChatMessage
        match message:
            case UserMessage():
                content, body = await self._content(message.content), await self._text(message.body)
                changed = attrs.evolve(message, content=content, body=body)
            case AssistantMessage():
                calls = [
                    attrs.evolve(call, input=await self._data(call.input, "")) for call in message.tool_calls
                ]
                text, reasoning = await self._text(message.text), await self._text(message.reasoning)
                changed = attrs.evolve(message, text=text, tool_calls=calls, reasoning=reasoning)
            case ToolMessage():
                changed = attrs.evolve(message, result=await self._result(message.result))
        return message if changed == message else changed

    async def _data(self, data: Any, name: str) -> Any:
        if isinstance(data, str):
            return self.replacement if self.detect and is_secret_under(name, data) else await self._text(data)
        if isinstance(data, Mapping):
            return {key: await self._data(item, key) for key, item in data.items()}
        if isinstance(data, list | tuple):
            return [await self._data(item, name) for item in data]
        return data


def _is(one: object, other: object) -> bool:
    return one is other
